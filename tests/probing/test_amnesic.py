"""Erasing at a site and going on from there: the table, both engines, and where."""

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

import interp
from interp.core.door.door import ArgumentError
from interp.core.errors import PositionError, ProbeError, SiteError
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs
from interp.core.prompts.places import AFTER_FIRST
from interp.core.tables.results import COLUMNS, Results
from interp.engine.plan.explain import explain
from interp.probing.read.given import one_by_one
from interp.probing.use.amnesic import amnesic
from interp.probing.use.erasure import Erasers, erasers, leace

KINDS = [f"{kind} {i}" for kind in ("random", "same variance") for i in (1, 2, 3)]
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
def kinds(model, text) -> Erasers:
    """Of whether the token's number is odd, fitted to all tokens but the first of their row."""
    kept = interp.capture(model, text, [str(s) for s in SITES])
    rows = [row[1:n] for row, n in zip(text.clean, text.lengths.tolist(), strict=True)]
    x = {s: torch.cat([r[1:] for r in kept.rows(str(s))]).double() for s in SITES}
    return erasers(x, torch.cat(rows) % 2, draws=3)


def test_one_row_for_each_kind_site_and_example(model, text, kinds):
    found = amnesic(model, text, kinds)
    frame = found.frame
    assert list(frame.columns) == [*COLUMNS, "draw"]
    assert len(frame) == 7 * 3 * len(text)
    cells = frame.drop_duplicates(["method", "site"])[["method", "site", "layer", "position"]]
    assert cells.to_numpy().tolist() == [
        [f"erase {kind}", str(site), site.layer, AFTER_FIRST]
        for kind in ("leace", *KINDS)
        for site in SITES
    ]
    assert set(frame["metric"]) == {"next_token_loss"}
    assert found.provenance["erased directions"]["leace"] == {str(s): 1 for s in SITES}
    assert found.provenance["erased directions"]["random 3"] == {str(s): 1 for s in SITES}
    kept = pd.DataFrame(found.provenance["erasures"])
    np.testing.assert_allclose(kept["variance"], kinds.report["variance"], atol=1e-9)
    draws = frame.drop_duplicates("method").set_index("method")["draw"]
    assert pd.isna(draws["erase leace"]) and draws["erase same variance 2"] == 2
    table = found.summary()
    assert len(table) == 21 and table["low"].notna().all()


@pytest.mark.plain
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
    alone = {one.name: {SITES[2]: one.of[SITES[2]]} for one in one_by_one(kinds)}
    last = amnesic(model, text, alone)
    assert (together.frame["value"] - last.frame["value"]).abs().min() > 1e-9


def test_answers_of_pairs_are_measured_too(model, pairs, kinds):
    found = amnesic(model, pairs, kinds, metric="logit_diff", positions="all")
    assert found.frame["effect"].abs().max() > 1e-4
    mid = amnesic(model, pairs, kinds, metric="accuracy", positions="mid")
    assert set(mid.frame["value"]) <= {0.0, 1.0}
    assert set(mid.frame["position"]) == {"mid"}


def test_only_some_tokens_may_be_erased_at(model, text, kinds):
    """Row by row: where an erasure was fitted, and nowhere else."""
    places = [list(range(1, n, 2)) for n in text.lengths.tolist()]
    one = {"leace": {SITES[2]: kinds.erased["leace"][SITES[2]]}}
    found = amnesic(model, text, one, positions=places)
    assert set(found.frame["position"]) == {"per row"}
    everywhere = [list(range(1, n)) for n in text.lengths.tolist()]
    same = amnesic(model, text, one, positions=everywhere).frame["value"]
    np.testing.assert_allclose(same, amnesic(model, text, one).frame["value"], rtol=0, atol=1e-12)
    assert (found.frame["value"] - same).abs().min() > 1e-9


def test_it_explains_itself_and_goes_on_from_a_checkpoint(model, text, kinds, tmp_path):
    plan = explain(amnesic, model, text, kinds)
    assert {c for batch in plan.batches for c in batch.cells} == set(range(21))
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
    with pytest.raises(ProbeError, match="'random' holds no draws"):
        amnesic(model, text, {"random": []})
    two = {"random": [kinds.erased["leace"]], "random 1": kinds.erased["leace"]}
    with pytest.raises(ProbeError, match="two erasures would be called 'random 1'"):
        amnesic(model, text, two)
    wrong = {"leace": {Site.parse("9.mlp"): kinds["leace"][SITES[1]]}}
    with pytest.raises(SiteError, match=r"there is no site '9.mlp'"):
        amnesic(model, text, wrong)
    wide = {"leace": {Site.parse("1.2"): kinds["leace"][SITES[1]]}}
    with pytest.raises(SiteError, match=r"vectors 30 wide, and the site's are 4 wide"):
        amnesic(model, text, wide)
