"""Selectivity whose interval is of the draws too: by hand, and how often it holds the truth."""

import numpy as np
import pytest
from numpy import ndarray
from scipy.stats import t

from interp.core.errors import ProbeError
from interp.core.parts.sites import Site
from interp.core.tables.scores import Scores
from interp.probing.ask.selectivity import selectivity, with_mean
from interp.probing.fit.scoring import score

SITES = [Site.parse("0.resid_pre"), Site.parse("0.resid_post")]


def scores(values: ndarray, documents: int, sites: list[Site] = SITES) -> Scores:
    """Of values by site, problem (real, then draws) and word; documents of equal size."""
    values, names = with_mean(values)
    cluster = np.arange(values.shape[2]) * documents // values.shape[2]
    naming = {"task": "t", "probe": "linear", "model": "trained", "provenance": {}}
    return score(values, cluster.astype(str), sites=sites, labels=names, **naming)


def test_the_mean_of_the_draws_stands_beside_them():
    values = np.arange(24.0).reshape(2, 4, 3)
    found, names = with_mean(values)
    assert names == ["real", "control", "control 1", "control 2", "control 3"]
    np.testing.assert_allclose(found[:, 1], values[:, 1:].mean(1))
    for problems, known in ((1, ["real"]), (2, ["real", "control"])):
        same, names = with_mean(values[:, :problems])
        assert names == known and np.array_equal(same, values[:, :problems])


def test_one_draw_is_the_paired_difference():
    table = scores(np.random.default_rng(0).random((2, 2, 60)), 6)
    level = Scores.of(np.ones(60), ["0"] * 60, task="t", probe="majority", provenance={})
    found = selectivity(Scores.concat([table, level]))
    real, control = (table.query(f"labels == '{name}'") for name in ("real", "control"))
    asked = real.minus(control, ignoring=["labels"])
    assert found["site"].tolist() == list(map(str, SITES))  # of baselines there is no control
    for column in ("value", "low", "high"):
        np.testing.assert_allclose(found[column], asked[column])
    assert found["draws"].tolist() == [1, 1] and found["draw_sd"].isna().all()


def test_the_spread_of_the_draws_is_in_the_interval_by_hand():
    rng = np.random.default_rng(1)
    values = rng.random((2, 5, 60)) + np.array([0, 0.3, -0.2, 0.1, 0])[None, :, None]
    table = scores(values, 6)
    found = selectivity(table).iloc[1]
    real, control = (table.query(f"labels == '{name}'") for name in ("real", "control"))
    over = real.minus(control, ignoring=["labels"]).iloc[1]
    sd = values[1, 1:].mean(1).std(ddof=1)
    half = t.ppf(0.975, 3) * sd / 2
    assert found["draws"] == 4 and found["draw_sd"] == pytest.approx(sd)
    assert found["value"] == pytest.approx(over["value"])
    assert found["low"] == pytest.approx(
        over["value"] - np.hypot(over["value"] - over["low"], half)
    )
    assert found["high"] == pytest.approx(
        over["value"] + np.hypot(over["high"] - over["value"], half)
    )


def drawn(rng: np.random.Generator, draws: int, *, types: int = 8, documents: int = 8) -> ndarray:
    """Words of a few types in all documents; each draw labels each type, well or badly learned."""
    words = documents * 30
    kind = rng.integers(types, size=words)
    learned = rng.random((draws, types))
    real = rng.random(words) < 0.9
    control = rng.random((draws, words)) < learned[:, kind]
    return np.concatenate([real[None], control]).astype(float)


@pytest.mark.plain
@pytest.mark.parametrize(("draws", "least", "most"), [(1, 0.0, 0.8), (5, 0.93, 1.0)])
def test_few_types_need_several_draws(draws, least, most):
    """The truth is 0.9 - 0.5; one draw says nothing of others, as the docstring says."""
    rng = np.random.default_rng(draws)
    sites = [Site("mlp_out", layer) for layer in range(150)]  # each a simulation of its own
    found = selectivity(scores(np.stack([drawn(rng, draws) for _ in sites]), 8, sites))
    inside = (found["low"] <= 0.4) & (found["high"] >= 0.4)
    assert least <= inside.mean() <= most


def test_no_control_task():
    level = Scores.of(np.ones(4), ["a"] * 4, task="t", probe="majority", provenance={})
    with pytest.raises(ProbeError, match="no score on a control task.*'left out'"):
        selectivity(level)
