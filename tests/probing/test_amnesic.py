"""Erasing at a site and going on from there: the table, both engines, and the control."""

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

import interp
from interp.core.door import ArgumentError
from interp.core.errors import PositionError, ProbeError, ResultsError, SiteError
from interp.core.pairs import Pairs
from interp.core.results import COLUMNS, Results
from interp.core.sites import Site
from interp.engine.explain import explain
from interp.engine.interventions import AFTER_FIRST, Erase
from interp.probing.amnesic import amnesic, beyond
from interp.probing.erasure import erasers, leace

SITES = tuple(map(Site.parse, ("0.resid_post", "1.mlp", "2.resid_post")))


@pytest.fixture(scope="module")
def text() -> Pairs:
    """Twelve rows in four documents, of lengths 6 and 9."""
    generator = torch.Generator().manual_seed(7)
    rows = [torch.randint(tiny.VOCAB, (n,), generator=generator).tolist() for n in (6, 9, 9) * 4]
    return Pairs.from_tokens(clean=rows, corrupt=rows, cluster=[*"abcd"] * 3)


@pytest.fixture(scope="module")
def model(tiny_model) -> interp.Model:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def kinds(model, text) -> dict[str, dict[Site, Erase]]:
    """Of whether the token's number is odd, fitted to all tokens but the first of their row."""
    kept = interp.capture(model, text, [str(s) for s in SITES])
    rows = [row[1:n] for row, n in zip(text.clean, text.lengths.tolist(), strict=True)]
    x = {s: torch.cat([r[1:] for r in kept.rows(str(s))]).double() for s in SITES}
    return erasers(x, torch.cat(rows) % 2)


def test_one_row_for_each_kind_site_and_example(model, text, kinds):
    found = amnesic(model, text, kinds)
    frame = found.frame
    assert list(frame.columns) == COLUMNS
    assert len(frame) == 2 * 3 * len(text)
    cells = frame.drop_duplicates(["method", "site"])[["method", "site", "layer", "position"]]
    assert cells.to_numpy().tolist() == [
        [f"erase {kind}", str(site), site.layer, AFTER_FIRST]
        for kind in ("leace", "random")
        for site in SITES
    ]
    assert set(frame["metric"]) == {"next_token_loss"}
    assert found.provenance["erased directions"]["leace"] == {str(s): 1 for s in SITES}
    table = found.summary()
    assert len(table) == 6 and table["low"].notna().all()


def test_engines_agree_and_the_first_token_is_left_alone(model, text, kinds):
    """A loss of the second token, read at the first, moves under no erasure; the rest does."""
    ours, theirs = (
        amnesic(model, text, kinds, engine=engine).frame["value"] for engine in ("replay", "hooks")
    )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)
    short = Pairs.from_tokens(
        clean=[[3, 4], [5, 6]], corrupt=[[3, 4], [5, 6]], positions={"first": [0, 0]}
    )
    assert amnesic(model, short, kinds).frame["effect"].abs().max() < 1e-12
    assert amnesic(model, short, kinds, positions="all").frame["effect"].abs().min() > 1e-6
    assert amnesic(model, short, kinds, positions="first").frame["effect"].abs().min() > 1e-6


def test_what_is_erased_is_gone_where_it_was_erased(model, text, kinds):
    """The covariance after the erasing site, in the very runs that amnesic makes."""
    kept = interp.capture(model, text, ["2.resid_post"])
    x = torch.cat([row[1:] for row in kept.rows("2.resid_post")]).double()
    y = torch.cat([row[1:n] for row, n in zip(text.clean, text.lengths.tolist(), strict=True)]) % 2
    erase = leace(x, y)
    after = erase.of(x)
    z = y.double() - y.double().mean()
    assert ((after - after.mean(0)).T @ z / len(z)).abs().max() < 1e-9
    last = {"leace": {Site.parse("2.resid_post"): erase}}
    found = amnesic(model, text, last).frame["value"].to_numpy()
    head = model.bridge.original_model
    start = 0
    for row, n in enumerate(text.lengths.tolist()):
        whole = torch.cat(
            [kept.rows("2.resid_post")[row][:1].double(), after[start : start + n - 1]]
        )
        start += n - 1
        with torch.no_grad():
            scale = (whole.square().mean(-1, keepdim=True) + head.config.rms_norm_eps).rsqrt()
            logits = head.lm_head(whole * scale * head.model.norm.weight)[:-1]
        truth = torch.nn.functional.cross_entropy(logits, text.clean[row, 1:n]).item()
        assert abs(found[row] - truth) < 1e-9


def test_layers_together(model, text, kinds):
    together = amnesic(model, text, kinds, sites="together")
    assert list(together.frame["site"].unique()) == ["0.resid_post+1.mlp+2.resid_post"]
    assert together.frame["layer"].isna().all()
    hooks = amnesic(model, text, kinds, sites="together", engine="hooks")
    np.testing.assert_allclose(together.frame["value"], hooks.frame["value"], rtol=0, atol=1e-9)
    alone = {kind: {SITES[2]: of[SITES[2]]} for kind, of in kinds.items()}
    last = amnesic(model, text, alone)
    assert (together.frame["value"] - last.frame["value"]).abs().min() > 1e-9


def test_answers_of_pairs_are_measured_too(model, pairs, kinds):
    found = amnesic(model, pairs, kinds, metric="logit_diff", positions="all")
    assert found.frame["effect"].abs().max() > 1e-4
    mid = amnesic(model, pairs, kinds, metric="accuracy", positions="mid")
    assert set(mid.frame["value"]) <= {0.0, 1.0}
    assert set(mid.frame["position"]) == {"mid"}


def test_beyond_the_control(model, text, kinds):
    found = amnesic(model, text, {**kinds, "other": kinds["random"]})
    against = beyond(found)
    assert list(against.frame["method"].unique()) == [
        "erase leace - random",
        "erase other - random",
    ]
    values = found.frame.set_index(["method", "site", "example"])["value"]
    for row in against.frame.itertuples():
        kind = row.method.removesuffix(" - random")
        assert row.value == values[kind, row.site, row.example]
        assert row.base == values["erase random", row.site, row.example]
        assert row.effect == row.value - row.base
    table = against.summary()
    same = table["method"] == "erase other - random"
    assert (table[same][["effect", "low", "high"]] == 0).all().all()
    assert (table[~same]["effect"] != 0).all()
    pd.testing.assert_frame_equal(beyond(Results.concat([found])).frame, against.frame)
    reversed_ = beyond(found, control="leace").query("method == 'erase random - leace'")
    np.testing.assert_allclose(
        reversed_.frame["effect"],
        -against.query("method == 'erase leace - random'").frame["effect"],
    )


def test_it_explains_itself_and_goes_on_from_a_checkpoint(model, text, kinds, tmp_path):
    plan = explain(amnesic, model, text, kinds)
    assert {c for batch in plan.batches for c in batch.cells} == set(range(6))
    first = amnesic(model, text, kinds, checkpoint=tmp_path)
    kept = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert len(kept) == len(plan.batches)
    again = amnesic(model, text, kinds, checkpoint=tmp_path)
    assert kept == {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    pd.testing.assert_frame_equal(first.frame, again.frame)


def test_results_are_kept_in_a_file(model, text, kinds, tmp_path):
    found = amnesic(model, text, kinds)
    loaded = Results.load(found.save(tmp_path / "amnesic.parquet"))
    pd.testing.assert_frame_equal(loaded.summary(), found.summary())
    assert loaded.provenance["erased directions"] == found.provenance["erased directions"]


def test_bad_input(model, pairs, text, kinds):
    with pytest.raises(ArgumentError, match=r"erasers=\{\}, and .*that is not empty"):
        amnesic(model, text, {})
    with pytest.raises(ProbeError, match="'leace' holds no erasure"):
        amnesic(model, text, {"leace": {}})
    with pytest.raises(PositionError, match="no position 'last'"):
        amnesic(model, pairs, kinds, positions="last")
    wrong = {"leace": {Site.parse("9.mlp"): kinds["leace"][SITES[1]]}}
    with pytest.raises(SiteError, match=r"there is no site '9.mlp'"):
        amnesic(model, text, wrong)
    wide = {"leace": {Site.parse("1.2"): kinds["leace"][SITES[1]]}}
    with pytest.raises(SiteError, match=r"vectors 30 wide, and the site's are 4 wide"):
        amnesic(model, text, wide)
    found = amnesic(model, text, kinds)
    with pytest.raises(ResultsError, match=r"compare with 'rand'; did you mean 'random'"):
        beyond(found, control="rand")
    with pytest.raises(ResultsError, match="no erasures to compare with 'random'"):
        beyond(found.query("method == 'erase random'"))
    with pytest.raises(ResultsError, match="'random' was not measured at '1.mlp'"):
        beyond(found.query("method != 'erase random' or site != '1.mlp'"))
