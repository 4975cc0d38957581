"""Erasures beside their controls: which numbers meet, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from interp.core.errors import ResultsError
from interp.core.sampling.draws import beside_draws
from interp.core.tables.results import COLUMNS, Results
from interp.probing.use.beyond import beyond, by_kind

ROWS = 12
CLUSTER = np.array([*"abcdef"] * 2)


def results(
    values: dict[tuple[str, int | None], float], site: str = "1.resid_post", seed: int = 0
) -> Results:
    """Losses of twelve rows in six documents: what each erasure adds to a clean loss of 3."""
    parts = []
    for n, ((kind, draw), level) in enumerate(values.items()):
        rng = np.random.default_rng([seed, n])
        frame = pd.DataFrame(index=range(ROWS), columns=COLUMNS)
        frame = frame.assign(
            method=f"erase {kind}" if draw is None else f"erase {kind} {draw}",
            site=site,
            position="after first",
            metric="next_token_loss",
            kind="resid_post",
            layer=1,
            example=range(ROWS),
            cluster=CLUSTER,
            base=3.0,
            value=3.0 + level + 0.1 * rng.normal(size=ROWS),
            draw=draw,
        )
        parts.append(frame.assign(effect=frame["value"] - frame["base"]))
    frame = pd.concat(parts, ignore_index=True)
    numbers = dict.fromkeys(("base", "value", "effect"), float)
    return Results(frame.astype({**numbers, "draw": "Int16"}), {})


DRAWS = {("random", i): 0.1 * i for i in (1, 2, 3, 4)}
ALL = {("leace", None): 1.0, ("probe", None): 0.2, **DRAWS}
ALL |= {("same variance", i): 0.5 + 0.02 * i for i in (1, 2, 3)}


def test_each_erasure_is_beside_all_draws_of_each_control():
    found = results(ALL)
    table = beyond(found)
    assert list(table["method"]) == [
        "erase leace - random",
        "erase probe - random",
        "erase leace - same variance",
        "erase probe - same variance",
    ]
    assert table["draws"].tolist() == [4, 4, 3, 3]
    value = found.frame.set_index(["method", "example"])["value"].unstack()
    drawn = value.loc[[f"erase random {i}" for i in (1, 2, 3, 4)]].to_numpy()
    codes = np.unique(CLUSTER, return_inverse=True)[1]
    by_hand = beside_draws(value.loc[["erase leace"]].to_numpy(), drawn[None], codes)
    first = table.iloc[0]
    for name in ("effect", "low", "high", "p"):
        assert first[name] == pytest.approx(getattr(by_hand, name)[0])
    assert first["base"] == 3
    assert first["changed"] == pytest.approx(value.loc["erase leace"].mean() - 3)
    assert first["by control"] == pytest.approx(drawn.mean() - 3)
    assert first["effect"] == pytest.approx(first["changed"] - first["by control"])
    assert (first["n"], first["clusters"]) == (ROWS, 6)
    assert first["p"] < 0.05 < table.iloc[1]["p"]
    assert (table["q"] >= table["p"]).all()


def test_one_control_may_be_asked_for():
    found = results(ALL)
    one = beyond(found, control="random")
    pd.testing.assert_frame_equal(one.drop(columns="q"), beyond(found).iloc[:2].drop(columns="q"))


def test_another_erasure_as_control_is_paired():
    """No draws: the same interval and p that a summary of the paired differences has."""
    found = results(ALL)
    table = beyond(found, control="leace")
    assert table["method"].tolist() == ["erase probe - leace"] and table["draws"].isna().all()
    value = found.frame.set_index(["method", "example"])["value"].unstack()
    less = value.loc["erase probe"] - value.loc["erase leace"]
    frame = found.query("method == 'erase probe'").frame
    paired = Results(frame.assign(effect=less.to_numpy()), {}).summary().iloc[0]
    for name in ("effect", "low", "high", "p"):
        assert table[name][0] == pytest.approx(paired[name])


def test_draws_are_one_row_beside_what_has_none():
    found = results(ALL)
    table = by_kind(found).set_index("method")
    assert list(table.index) == [
        "erase leace",
        "erase probe",
        "erase random",
        "erase same variance",
    ]
    summary = found.query("method == 'erase leace'").summary().iloc[0]
    for name in ("base", "value", "effect", "low", "high", "p"):
        assert table.loc["erase leace", name] == pytest.approx(summary[name])
    random = table.loc["erase random"]
    assert random["draws"] == 4 and random["effect"] == pytest.approx(random["value"] - 3)
    assert random["low"] < 0.1 and random["high"] > 0.4  # of one more draw: they go from 0.1 to 0.4
    narrow = table.loc["erase same variance"]
    assert narrow["high"] - narrow["low"] < random["high"] - random["low"]


def test_sites_and_metrics_keep_apart():
    other = results(ALL, site="2.resid_post", seed=1)
    both = Results.concat([results(ALL), other])
    table = beyond(both)
    assert len(table) == 8
    alone = beyond(other)
    there = table[table["site"] == "2.resid_post"].reset_index(drop=True)
    pd.testing.assert_frame_equal(there.drop(columns="q"), alone.drop(columns="q"))
    order = np.random.default_rng(0).permutation(len(both))
    shuffled = Results(both.frame.iloc[order], {})
    key = ["method", "site"]
    pd.testing.assert_frame_equal(
        beyond(shuffled).set_index(key).sort_index(), table.set_index(key).sort_index()
    )


def test_what_cannot_be_compared():
    found = results(ALL)
    with pytest.raises(ResultsError, match=r"compare with 'rand'; did you mean 'random'"):
        beyond(found, control="rand")
    with pytest.raises(ResultsError, match="no erasures to compare with a control that has draws"):
        beyond(found.query("draw.isna()"))
    with pytest.raises(ResultsError, match=r"no erasures .* They have random.* Give amnesic\(\)"):
        beyond(found.query("draw.notna()"))
    with pytest.raises(ResultsError, match="1 draw of a control"):
        beyond(results({("leace", None): 1.0, ("random", 1): 0.1}))
    elsewhere = results({("leace", None): 1.0}, site="2.mlp")
    both = Results.concat([found, elsewhere])
    with pytest.raises(ResultsError, match="'random' was not measured at '2.mlp'"):
        beyond(both)
    with pytest.raises(ResultsError, match="no column 'draw'.*methods are erase leace"):
        beyond(Results(found.frame.drop(columns="draw"), {}))
    with pytest.raises(ResultsError, match="'erase leace' was measured twice in one place"):
        beyond(Results.concat([found, found]))
    with pytest.raises(ResultsError, match="not measured on the same examples everywhere"):
        beyond(found.query("method != 'erase random 2' or example > 3"))
