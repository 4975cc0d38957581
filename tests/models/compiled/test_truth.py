"""Exact edge patching finds each circuit, under every ablation that the truth is keyed by."""

from functools import cache

import pytest
import torch
from by_hand import Run
from sklearn.metrics import roc_auc_score
from torch import Tensor

import interp
from interp.core.metrics import Answers, Metric
from interp.core.parts.circuit import Part
from interp.core.parts.edges import Edge, edges
from interp.core.prompts.pairs import Pairs
from interp.models import compiled
from interp.models.compiled.blueprint import Blueprint
from interp.models.compiled.construction import Ablation, Construction, Key
from interp.models.model import Model

ROWS = 12
MEAN_ROWS = 32  # of each template: fewer make no mean


def _distance(logits: Tensor, answers: Answers) -> Tensor:
    assert answers.reference is not None
    return (logits - answers.reference).norm(dim=-1)


DISTANCE = Metric("distance", _distance, needs_reference=True, needs_answers=False)
"""How far all logits move from the clean run's: nothing cancels in it."""

CASES = [
    (name, ablation, corruption)
    for name in compiled.NAMES
    for ablation, corruption, granularity in compiled.truth(name)
    if granularity == "all positions"
    # zero looks at no corrupt prompt: one corruption is enough, see test_every_key_is_there
    if ablation != "zero" or corruption == compiled.construction(name).corruptions[0]
]


@cache
def model_of(name: str) -> Model:
    return compiled.build(name, dtype=torch.float64)


@cache
def pairs_of(name: str, corruption: str) -> Pairs:
    return compiled.pairs(name, corruption=corruption, n=ROWS, seed=0)


@cache
def reference_of(name: str, corruption: str) -> Pairs:
    """Whose mean is set."""
    n = MEAN_ROWS * len(compiled.construction(name).templates)
    return compiled.pairs(name, corruption=corruption, n=n, seed=1)


def effects(
    name: str,
    ablation: Ablation,
    corruption: str,
    *,
    metric: str | Metric = DISTANCE,
    named: bool = True,
) -> dict[Part, float]:
    """How far each cut moves the metric, as a mean over rows of what it does to each."""
    pairs = pairs_of(name, corruption)
    found = interp.ablate(
        model_of(name),
        pairs,
        "edges",
        method=ablation,
        positions=["all", *(pairs.positions if named else ())],
        reference=reference_of(name, corruption),
        metric=metric,
    )
    size = found.frame.assign(size=found.frame.effect.abs())
    return {
        Part(Edge.parse(site), place): value
        for (site, place), value in size.groupby(["site", "position"])["size"].mean().items()
    }


@pytest.mark.sampled(8)
@pytest.mark.parametrize(("name", "ablation", "corruption"), CASES)
@pytest.mark.plain
def test_patching_one_edge_at_a_time_separates_true_from_false(
    name: str, ablation: Ablation, corruption: str
) -> None:
    found = effects(name, ablation, corruption)
    for granularity in ("all positions", "by position"):
        true = compiled.truth(name)[Key(ablation, corruption, granularity)]
        sizes = {
            cut: size
            for cut, size in found.items()
            if (cut.place == "all") == (granularity == "all positions")
        }
        assert true < sizes.keys()
        assert roc_auc_score([cut in true for cut in sizes], list(sizes.values())) == 1.0
        # a false edge does nothing at all, and a true one something that any threshold sees
        assert max(size for cut, size in sizes.items() if cut not in true) < 1e-12
        assert min(sizes[cut] for cut in true) > 1e-4


@pytest.mark.plain
def test_the_tasks_own_metric_separates_them_too(name: str) -> None:
    for corruption in compiled.construction(name).corruptions:
        true = compiled.truth(name)[Key("resample", corruption, "all positions")]
        found = effects(name, "resample", corruption, metric="logit_diff", named=False)
        assert roc_auc_score([cut in true for cut in found], list(found.values())) == 1.0


@pytest.mark.parametrize(("name", "corruption"), [("reverse", "length"), ("frequency", "current")])
@pytest.mark.plain
def test_direct_path_patching_is_the_resampled_edge(name: str, corruption: str) -> None:
    model, pairs = model_of(name), pairs_of(name, corruption)
    every = list(edges("edges", model.facts))
    cut = interp.ablate(model, pairs, every, method="resample").frame.set_index("site").effect
    for reader in {edge.reader for edge in every}:
        writers = [edge.writer for edge in every if edge.reader == reader]
        patched = interp.path_patch(
            model, pairs, senders=writers, receivers=reader, through="direct"
        )
        for writer, effect in patched.frame.set_index("site").effect.groupby("site"):
            expected = cut.loc[f"{writer} -> {reader}"].to_numpy()
            assert effect.to_numpy() == pytest.approx(expected, abs=1e-10)


def of_template(pairs: Pairs, template: str) -> Pairs:
    return pairs.select([i for i, cluster in enumerate(pairs.cluster) if cluster == template])


def runs_by_hand(weights: Blueprint, pairs: Pairs, reference: Pairs) -> tuple[Run, Run, Run]:
    """Of rows of one template: clean, corrupt and those whose mean is set."""
    length = int(pairs.lengths[0])
    clean, corrupt, averaged = (
        Run(weights, tokens[:, :length])
        for tokens in (pairs.clean, pairs.corrupt, reference.corrupt)
    )
    return clean, corrupt, averaged


def cut_by_hand(runs: tuple[Run, Run, Run], pairs: Pairs, ablation: Ablation, cut: Part) -> Tensor:
    """By how much the logit difference moves, computed without interp."""
    clean, corrupt, averaged = runs
    writer = str(cut.of.writer)
    wrote = clean.wrote[writer]
    values = {
        "zero": torch.zeros_like(wrote),
        "mean": averaged.wrote[writer].mean(0, keepdim=True).expand_as(wrote),
        "resample": corrupt.wrote[writer],
    }[ablation]
    where = torch.ones_like(clean.tokens, dtype=torch.bool)
    if cut.place != "all":
        where = pairs.at(cut.place)[:, None] == torch.arange(where.shape[1])
    reader = str(cut.of.reader).replace("kv", "")  # each head is its own group
    after = Run(clean.weights, clean.tokens, (writer, reader, where, values))
    moved = (after.logits - clean.logits)[:, -1]
    correct, wrong = moved.gather(1, torch.stack([pairs.correct, pairs.wrong], 1)).T
    return correct - wrong


@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
@pytest.mark.plain
def test_the_engine_cuts_as_one_does_by_hand(
    name: str, made: Construction, weights: Blueprint, ablation: Ablation
) -> None:
    """On the true edges, everywhere and at each place, row by row."""
    corruption, template = made.corruptions[0], made.templates[-1]
    pairs = of_template(pairs_of(name, corruption), template)
    reference = of_template(reference_of(name, corruption), template)
    runs = runs_by_hand(weights, pairs, reference)
    true = sorted({cut.of for cut in made.truth[Key(ablation, corruption, "all positions")]})
    found = interp.ablate(
        model_of(name),
        pairs,
        true,
        method=ablation,
        positions=["all", *pairs.positions],
        reference=reference,
    )
    for (site, place), effect in found.frame.groupby(["site", "position"]).effect:
        cut = Part(Edge.parse(site), place)
        expected = cut_by_hand(runs, pairs, ablation, cut).numpy()
        assert effect.to_numpy() == pytest.approx(expected, abs=1e-9)


def test_every_key_is_there(name: str, made: Construction, weights: Blueprint) -> None:
    assert {(key.corruption, key.ablation, key.granularity) for key in made.truth} == {
        (corruption, ablation, granularity)
        for corruption in made.corruptions
        for ablation in ("zero", "mean", "resample")
        for granularity in ("all positions", "by position")
    }
    facts = weights.shape.facts
    assert len({cuts for key, cuts in made.truth.items() if key.ablation == "zero"}) == 2
    for key, cuts in made.truth.items():
        places = set(pairs_of(name, key.corruption).positions)
        assert {cut.place for cut in cuts} <= (
            places if key.granularity == "by position" else {"all"}
        )
        for cut in cuts:
            cut.of.check(facts)


def test_tracrs_reverse_needs_fewer_edges_under_resample() -> None:
    """The finding that the keys are for: positions do not vary between rows of one length."""
    truth = compiled.truth("reverse")
    zero, resample = (
        {str(cut.of) for cut in truth[Key(ablation, "tokens", "all positions")]}
        for ablation in ("zero", "resample")
    )
    assert len(zero) == 8
    assert resample == {"embed -> 1.kv0.v", "1.0 -> logits"}


def test_iois_sink_matters_below_any_threshold() -> None:
    """What its docstring says of "<bos>" as 0.0's key, a place that the pairs do not name."""
    pairs = of_template(pairs_of("ioi", "abc"), "gave ABBA")
    clean, _, _ = runs_by_hand(compiled.construction("ioi").blueprint(), pairs, pairs)
    where = (torch.arange(clean.tokens.shape[1]) == 0).expand_as(clean.tokens)
    zero = torch.zeros_like(clean.wrote["embed"])
    after = Run(clean.weights, clean.tokens, ("embed", "0.0.k", where, zero))
    rows = torch.arange(len(pairs))
    for place in ("io", "s1", "s2"):
        assert (after.patterns["1.0"][rows, -1, pairs.at(place)] - 1 / 3).abs().max() < 1e-12
    assert 1e-12 < after.patterns["2.0"][rows, -1, pairs.at("s1")].min() < 1e-11
    assert 1e-11 < (after.logits - clean.logits)[:, -1].abs().max() < 1e-9
