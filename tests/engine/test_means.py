"""Means of activations: however they are summed, saved or asked for, they are plain means."""

import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import interp
from interp import MeanReference
from interp.core.door.door import ArgumentError
from interp.core.errors import (
    InterpError,
    ModelError,
    PairsError,
    ResultsError,
    SiteError,
    Unsupported,
)
from interp.core.parts.facts import Facts
from interp.core.parts.sites import Site, resolve
from interp.core.prompts.pairs import Pairs
from interp.engine.engines.replay.engine import Replay
from interp.engine.plain.captures.capture import capture
from interp.engine.plain.means.fitter import EXACT, Fitted, MeanFitter
from interp.engine.plain.taps import Layout
from interp.models.model import Model

TOLERANCE = 1e-12
SITES = ["heads", "1.mlp", "2.resid_post", "embed", "1.kv1.k", "1.2.v"]
pytestmark = pytest.mark.filterwarnings("ignore:mean ablation")


@pytest.fixture
def llama(tiny_model: Callable[..., Model]) -> Model:
    """3 layers, 6 query heads, 2 key-value groups."""
    return tiny_model("llama")


def drawn(groups: dict[tuple[str, int], int], seed: int = 0) -> Pairs:
    """Random prompts, so many of each cluster and length, mixed."""
    generator = torch.Generator().manual_seed(seed)
    flat = [group for group, count in groups.items() for _ in range(count)]
    flat = [flat[i] for i in torch.randperm(len(flat), generator=generator)]
    clean, corrupt = (
        [torch.randint(tiny.VOCAB, (n,), generator=generator).tolist() for _, n in flat]
        for _ in range(2)
    )
    return Pairs.from_tokens(clean=clean, corrupt=corrupt, cluster=[name for name, _ in flat])


GROUPS = {("a", 7): 5, ("b", 9): 3, ("c", 9): 4, ("c", 7): 2}


def says(error: type[Exception], call: Callable[[], object], *parts: str) -> None:
    with pytest.raises(error) as caught:
        call()
    missing = [part for part in parts if part not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"


# the fitter


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 4)), min_size=1, max_size=9),
    cuts=st.lists(st.integers(1, 4), min_size=1, max_size=9),
    by=st.sampled_from(["template", "position"]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)
def test_sums_do_not_depend_on_how_rows_come(llama_facts, sizes, cuts, by, dtype):
    layout = Layout.of(resolve(["1.1", "1.4", "0.mlp[3]", "0.2.pattern"], llama_facts), 3)
    generator = torch.Generator().manual_seed(len(sizes))

    def row(length: int) -> dict:
        shapes = {
            slab: (len(slab), 1, *slab.shape(llama_facts, length, 0)) for slab in layout.slabs
        }
        draw = {s: 1e3 + torch.randn(x, generator=generator) for s, x in shapes.items()}
        return {s: x.tril() if s.kind == "pattern" else x for s, x in draw.items()}

    rows = [((name, n), {s: x.to(dtype) for s, x in row(n).items()}) for name, n in sizes]
    single, blocked = MeanFitter(llama_facts, by), MeanFitter(llama_facts, by)
    for group, activations in rows:
        single.update([group], activations)
    for length in range(1, 5):
        same = [row for row in rows if row[0][1] == length]
        while same:
            cut = cuts[len(same) % len(cuts)]
            block, same = same[:cut], same[cut:]
            joined = {s: torch.cat([x[s] for _, x in block], 1) for s in layout.slabs}
            blocked.update([group for group, _ in block], joined)
    one, two = single.fitted, blocked.fitted
    assert one.sizes == two.sizes
    tolerance = 1e-12 if dtype in EXACT else 1e-5
    for key, slabs in one.means.items():
        for slab, mean in slabs.items():
            assert mean.dtype == (torch.float64 if dtype in EXACT else torch.float32)
            near(mean, two.means[key][slab], tolerance)
            near(mean, by_hand(rows, slab, key, by).to(mean.dtype), tolerance)


@pytest.fixture(scope="module")
def llama_facts(tiny_model: Callable[..., Model]) -> Facts:
    return tiny_model("llama").facts


def near(a: torch.Tensor, b: torch.Tensor, tolerance: float) -> None:
    assert a.shape == b.shape
    assert (a - b).abs().max() <= tolerance * b.abs().max()


def by_hand(rows, slab, key, by) -> torch.Tensor:
    """Prompt by prompt and position by position."""
    concerned = [x[slab].double()[:, 0] for group, x in rows if by == "position" or group == key]
    longest = max(x.shape[1] for x in concerned)
    means = []
    for position in range(longest):
        there = [x[:, position] for x in concerned if x.shape[1] > position]
        if slab.kind == "pattern":
            there = [torch.nn.functional.pad(x, (0, longest - x.shape[-1])) for x in there]
        means.append(torch.stack(there).mean(0))
    return torch.stack(means, 1)


# what is fitted


@pytest.mark.parametrize("engine", ["replay", "hooks"])
@pytest.mark.parametrize("side", ["clean", "corrupt"])
def test_means_within_templates(llama, engine, side):
    pairs = drawn(GROUPS)
    reference = MeanReference.fit(llama, pairs, SITES, side=side, engine=engine)
    assert reference.sizes == GROUPS
    found = capture(llama, pairs, SITES, side=side)
    for group in GROUPS:
        rows = [
            i
            for i, (name, n) in enumerate(zip(pairs.cluster, pairs.lengths.tolist(), strict=True))
            if (name, n) == group
        ]
        for site in found:
            truth = torch.stack([found.rows(site)[i] for i in rows]).mean(0)
            mean = reference.at(site, [group, group])
            assert mean.shape == (2, *truth.shape)
            assert (mean - truth).abs().max() < TOLERANCE


@pytest.mark.parametrize("engine", ["replay", "hooks"])
def test_means_by_position_of_rows_of_several_lengths(llama, engine):
    pairs = drawn(GROUPS)
    tokens = [row[:n].tolist() for row, n in zip(pairs.corrupt, pairs.lengths, strict=True)]
    sites = [*SITES, "1.2.pattern"]
    found = capture(llama, tokens, sites)
    for given_ in (pairs, tokens):
        reference = MeanReference.fit(llama, given_, sites, by="position", engine=engine)
        assert reference.sizes == {**dict.fromkeys(range(7), 14), 7: 7, 8: 7}
        for site in found:
            rows = found.rows(site)
            for position in range(9):
                there = [x[position] for x in rows if len(x) > position]
                if site.kind == "pattern":
                    there = [torch.nn.functional.pad(x, (0, 9 - len(x))) for x in there]
                truth = torch.stack(there).mean(0)
                mean = reference.at(site, [("any", 9)])[0, position]
                assert (mean - truth).abs().max() < TOLERANCE
        assert reference.at(Site.parse("1.mlp"), [("x", 4)] * 3).shape == (3, 4, 30)
        assert reference.at(Site.parse("1.2.pattern"), [("x", 4)]).shape == (1, 4, 4)


def test_half_precision_is_summed_in_float32(tiny_model):
    model, pairs = tiny_model("llama", torch.bfloat16), drawn({("a", 5): 40})
    mean = MeanReference.fit(model, pairs, "1.mlp").at(Site.parse("1.mlp"), [("a", 5)])
    assert mean.dtype == torch.float32
    rows = capture(model, pairs, "1.mlp", side="corrupt")["1.mlp"]
    assert (mean - rows.float().mean(0)).abs().max() < 1e-5


def test_two_stacks(tiny_model, tmp_path):
    model = tiny_model("t5")
    lists = [row for i in range(3) for row in ([1, 2, 3, i], [5, 6, i])]
    pairs = Pairs.from_tokens(clean=lists, corrupt=lists, decoder=(4, 7), cluster=["a"] * 6)
    sites = ["enc.1.2", "dec.1.2", "dec.0.cross.1.k", "dec.0.3.pattern"]
    found = capture(model, pairs, sites)
    for by in ("template", "position"):
        reference = MeanReference.fit(model, pairs, sites, by=by)
        for site, positions in zip(sites, (3, 3, 3, 3), strict=True):
            mean = reference.at(Site.parse(site), [("a", 3, 3)])
            assert mean.shape[1] == positions
        mean = reference.at(Site.parse("dec.1.2"), [("a", 4, 3)])[0]
        rows = found.rows("dec.1.2")
        if by == "position":
            assert (mean - torch.stack(rows).mean(0)).abs().max() < TOLERANCE
        else:
            assert (mean - torch.stack(rows[::2]).mean(0)).abs().max() < TOLERANCE
        interp.ablate(model, pairs, "dec.1.2", reference=reference, metric="kl")
    says(
        Unsupported,
        lambda: MeanReference.fit(model, pairs, "dec.0.cross.1.pattern", by="position"),
        *("by position", "several lengths", "by='template'"),
    )
    other = Pairs.from_tokens(clean=lists, corrupt=lists, decoder=(4,), cluster=["a"] * 6)
    interp.ablate(model, other, "dec.1.2", reference=reference, metric="kl")
    longer = Pairs.from_tokens(clean=lists, corrupt=lists, decoder=(4, 7, 9), cluster=["a"] * 6)
    says(
        PairsError,
        lambda: interp.ablate(model, longer, "dec.1.2", reference=reference, metric="kl"),
        *("positions 0 to 2 in at least two", "the decoder of a row", "has 4 tokens"),
    )
    by_template = MeanReference.fit(model, pairs, "dec.1.2")
    says(
        PairsError,
        lambda: interp.ablate(model, other, "dec.1.2", reference=by_template, metric="kl"),
        *("template 'a' with 4 tokens and 1 in its target", "by='position'"),
    )
    several = Pairs.from_tokens(clean=lists, corrupt=lists, target=[[4, 7], [4], [7]] * 2)
    mixed = MeanReference.fit(model, several, ["dec.1.2", "dec.1.3"], by="position")
    mixed.save(tmp_path / "mixed")
    again = MeanReference.load(tmp_path / "mixed")
    assert again.written == mixed.written == (6, 6, 2)
    kept = capture(model, several, "dec.1.2", side="corrupt").rows("dec.1.2")
    mean = again.at(Site.parse("dec.1.2"), [("x", 4, 3)])[0]
    assert (mean[1] - torch.stack([row[1] for row in kept]).mean(0)).abs().max() < TOLERANCE
    assert (mean[2] - torch.stack([kept[0][2], kept[3][2]]).mean(0)).abs().max() < TOLERANCE


def test_only_the_layers_that_are_needed_run(llama, monkeypatch):
    asked, walk = [], Replay.walk

    def counting(self, tokens, see, *, shelves, layers=None, written=None):
        asked.append((len(tokens), layers))
        walk(self, tokens, see, shelves=shelves, layers=layers)

    monkeypatch.setattr(Replay, "walk", counting)
    MeanReference.fit(llama, drawn(GROUPS), ["0.1", "1.mlp"])
    assert asked == [(7, 2), (7, 2)]


# ablation


def same(a: interp.Results, b: interp.Results, tolerance: float = 0) -> None:
    pd.testing.assert_frame_equal(a.frame, b.frame, rtol=0, atol=tolerance)


@pytest.mark.plain
@pytest.mark.parametrize("engine", ["replay", "hooks"])
def test_ablation_with_a_saved_reference_is_that_with_its_prompts(llama, pairs, tmp_path, engine):
    others = drawn({("a", 7): 31, ("b", 9): 30, ("c", 9): 32, ("c", 7): 33})
    sites = ["1.1", "1.mlp", "embed", "1.kv1.k", "2.resid_post", "0.1 -> 1.2.q"]
    options = {"positions": ["all", "mid"], "engine": engine}
    lazy = interp.ablate(llama, pairs, sites, reference=others, **options)
    fitted = MeanReference.fit(
        llama, others, ["heads", "1.mlp", "embed", "1.kv1.k", "2.resid_post"], engine=engine
    )
    loaded = MeanReference.load(fitted.save(tmp_path / "means" / "reference.safetensors"))
    assert loaded.fingerprint == fitted.fingerprint
    assert repr(loaded) == repr(fitted)
    for reference in (fitted, loaded):
        found = interp.ablate(llama, pairs, sites, reference=reference, **options)
        same(found, lazy, TOLERANCE)
        same(found, interp.ablate(llama, pairs, sites, reference=fitted, **options))
        assert found.provenance["references"] == {fitted.fingerprint: 30}
    assert lazy.provenance["references"] == {f"{others.fingerprint}:corrupt": 30}
    for side in ("clean", "corrupt"):
        own = MeanReference.fit(llama, pairs, ["heads"], side=side, engine=engine)
        lazy = interp.ablate(llama, pairs, "heads", reference=side, engine=engine)
        same(interp.ablate(llama, pairs, "heads", reference=own, engine=engine), lazy, TOLERANCE)


def test_ablation_by_position(llama, pairs):
    """Of one template and length the two kinds are the same; of several they are not."""
    alike = drawn({("a", 9): 30})
    nines = pairs.select([1, 3])
    by_position = MeanReference.fit(llama, alike, "heads", by="position")
    found = interp.ablate(llama, nines, "heads", reference=by_position)
    named = Pairs.from_tokens(
        clean=nines.clean,
        corrupt=nines.corrupt,
        correct=nines.correct,
        wrong=nines.wrong,
        cluster=["a", "a"],
    )
    lazy = interp.ablate(llama, named, "heads", reference=alike)
    assert (found.frame["value"] - lazy.frame["value"]).abs().max() < TOLERANCE
    mixed = MeanReference.fit(llama, drawn(GROUPS), ["heads", "1.1.pattern"], by="position")
    whole = interp.ablate(llama, pairs, ["heads", "1.1.pattern"], reference=mixed)
    assert np.isfinite(whole.frame["value"]).all()
    assert whole.provenance["references"] == {mixed.fingerprint: 7}


@pytest.mark.plain
def test_a_checkpoint_knows_its_reference(llama, pairs, tmp_path):
    """Two references of the same prompts, model and sites, but not of the same kind."""
    references = [
        MeanReference.fit(llama, pairs, "heads"),
        MeanReference.fit(llama, pairs, "heads", side="clean"),
        MeanReference.fit(llama, pairs, "heads", by="position"),
        MeanReference.fit(llama, drawn(GROUPS), "heads"),
    ]
    assert len({r.fingerprint for r in references}) == 4
    counts = []
    for reference in references:
        alone = interp.ablate(llama, pairs, "heads", reference=reference)
        same(interp.ablate(llama, pairs, "heads", reference=reference, checkpoint=tmp_path), alone)
        counts.append(len(list(tmp_path.iterdir())))
    assert counts == [counts[0] * n for n in (1, 2, 3, 4)]


def test_small_groups_are_warned_of(llama, recwarn):
    with pytest.warns(UserWarning, match=r"smallest of 4 reference groups.* has 2 prompts.*30"):
        MeanReference.fit(llama, drawn(GROUPS), "0.mlp")
    with pytest.warns(UserWarning, match=r"smallest of 9 positions has 7 prompts.*30"):
        MeanReference.fit(llama, drawn(GROUPS), "0.mlp", by="position")
    recwarn.clear()
    reference = MeanReference.fit(llama, drawn({("a", 7): 30}), "0.mlp")
    assert not recwarn.list
    assert "1 templates (and lengths) with 30 to 30 prompts" in repr(reference)


def test_a_mean_is_over_the_template_and_not_over_the_cluster(llama):
    """Nouns are what is independent, and the rows of one text what is averaged."""
    pairs = drawn({("a", 7): 6, ("b", 7): 6})
    nouns = [f"noun {i}" for i in range(len(pairs))]
    apart = dataclasses.replace(pairs, cluster=tuple(nouns))
    assert apart.template == pairs.template
    ours, theirs = (interp.ablate(llama, p, "heads", metric="kl") for p in (apart, pairs))
    assert (ours.frame["value"] == theirs.frame["value"]).all()
    assert sorted(ours.frame["cluster"].unique()) == sorted(nouns)


@pytest.mark.parametrize("engine", ["replay", "hooks"])
def test_a_mean_over_one_prompt_is_refused(llama, engine):
    pairs = drawn({("a", 7): 3, ("b", 9): 1})

    def ablate(reference="corrupt"):
        return lambda: interp.ablate(
            llama, pairs, "1.1", reference=reference, metric="kl", engine=engine
        )

    told = ["one prompt of template 'b' with 9 tokens", "template=", "method='resample'"]
    says(PairsError, ablate(), *told)
    says(PairsError, ablate(MeanReference.fit(llama, pairs, "1.1")), *told)
    says(PairsError, ablate(drawn({("a", 7): 3, ("b", 9): 1}, seed=1)), *told)
    by_position = MeanReference.fit(llama, pairs, "1.1", by="position")
    says(PairsError, ablate(by_position), "positions 0 to 6 in at least two prompts", "9 tokens")
    # what no row of the pairs asks for may be rare
    several = pairs.select([i for i in range(4) if pairs.template[i] == "a"])
    assert len(interp.ablate(llama, several, "1.1", reference=pairs, metric="kl")) == 3


def test_rows_that_share_no_template_have_no_mean(llama):
    alone = Pairs.from_tokens(clean=[[1, 2, 3], [4, 5, 6]], corrupt=[[7, 2, 3], [8, 5, 6]])
    says(
        PairsError,
        lambda: interp.ablate(llama, alone, "1.1", metric="kl"),
        "the mean over one prompt is that prompt itself",
    )


# refusals


def test_what_is_refused(llama, tiny_model, pairs):
    reference = MeanReference.fit(llama, pairs, ["1.1", "1.mlp"])
    positions = MeanReference.fit(llama, drawn({("a", 7): 3}), "1.1", by="position")
    lost = MeanReference.fit(llama, drawn({("a", 7): 3}), "1.1")
    other = tiny_model("llama-mha")

    def ablate(model, sites, reference):
        return lambda: interp.ablate(model, pairs, sites, reference=reference)

    def fit(pairs, sites="1.1", **options):
        return lambda: MeanReference.fit(llama, pairs, sites, **options)

    for error, call, parts in (
        (
            Unsupported,
            ablate(other, "1.1", reference),
            [llama.weight_hash[:12], other.weight_hash[:12], "MeanReference.fit(model", "dtype"],
        ),
        (
            SiteError,
            ablate(llama, ["1.1", "2.3"], reference),
            ["'2.3'", "2 sites", "'1.1'", "Fit the reference with it"],
        ),
        (PairsError, ablate(llama, "1.1", lost), ["template 'b'", "9 tokens", "by='position'"]),
        (PairsError, ablate(llama, "1.1", positions), ["0 to 6", "9 tokens", "as long"]),
        (PairsError, fit([[1, 2]]), ["no templates", "by='position'", "template="]),
        (SiteError, fit(pairs, "9.1"), ["layer 9"]),
        (Unsupported, fit(pairs, "logits"), ["'logits'"]),
        (
            InterpError,
            fit(pairs, ["1.1", "2.mlp"], memory=100),
            ["2 sites", "2 groups", f"{8 * (4 + 30) * (7 + 9)} bytes", "by='position'"],
        ),
    ):
        says(error, call, *parts)


def test_unknown_words(llama, pairs):
    fit = partial(MeanReference.fit, llama, pairs, "1.1")
    says(ArgumentError, lambda: fit(by="positions"), "by='positions'", "'position'")
    says(ArgumentError, lambda: fit(side="corupt"), "'corupt'", "did you mean 'corrupt'")


def test_damaged_weights(tiny_model):
    model = tiny_model("llama")
    weight = model.bridge.original_model.get_input_embeddings().weight
    before = weight[11].detach().clone()
    try:
        weight.data[11, 0] = float("inf")
        pairs = Pairs.from_tokens(clean=[[1, 11]], corrupt=[[2, 11]], cluster=["a"])
        says(
            ModelError,
            lambda: MeanReference.fit(model, pairs, "heads", engine="hooks"),
            *("NaN or infinity", "z of layer 0", "('a', 2)", "torch.float32"),
        )
    finally:
        weight.data[11] = before


def test_files_that_cannot_be_read_or_written(llama, pairs, tmp_path):
    reference = MeanReference.fit(llama, pairs, "1.1")
    taken = tmp_path / "taken"
    taken.write_text("mine")
    says(ResultsError, lambda: reference.save(taken / "x"), "cannot write", "may write to")
    says(ResultsError, lambda: MeanReference.load(taken), "carries no checksum", str(taken))
    says(ResultsError, lambda: MeanReference.load(tmp_path / "none"), "no mean reference", "none")
    capture(llama, pairs, "1.1", positions="end", folder=tmp_path / "shards")
    shard = tmp_path / "shards" / "shard-00000.safetensors"
    says(ResultsError, lambda: MeanReference.load(shard), "something else", "mean reference of")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["shards", "taken"]


def test_the_fitter_gives_means_so_far(llama_facts):
    layout = Layout.of([Site.parse("0.mlp")], 3)
    (slab,) = layout.slabs
    fitter = MeanFitter(llama_facts, "template")
    fitter.update([("a", 2)], {slab: torch.ones(1, 1, 2, 30)})
    assert isinstance(fitter.fitted, Fitted)
    assert fitter.fitted.means["a", 2][slab].eq(1).all()
    fitter.update([("a", 2)] * 3, {slab: 5 * torch.ones(1, 3, 2, 30)})
    assert fitter.fitted.means["a", 2][slab].eq(4).all()
    assert fitter.fitted.sizes == {("a", 2): 4}
