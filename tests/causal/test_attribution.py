"""Attribution beside exact effects: equal where the model is linear, and where it is corrected."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from budgets import least
from slopes import DEEP, LINEAR, PLACES, far, four, make, sides, slope
from transformer_lens.tools.analysis import EdgeAttributionConfig, attribution_patch
from transformer_lens.tools.analysis.attribution_patching import Node

import interp
from interp.causal.ranking.attribution import attribute
from interp.causal.ranking.exact import exact
from interp.circuits import top_circuit
from interp.core.door.door import ArgumentError
from interp.core.errors import (
    MetricError,
    PositionError,
    SiteError,
    Unsupported,
)
from interp.core.metrics import Metric
from interp.core.parts.circuit import Part
from interp.core.parts.sites import Site
from interp.engine.interventions import Add, Intervention, Set
from interp.models.model import Model
from interp.models.small import native
from interp.models.small.recurrent import RecurrentShape, build_recurrent


@pytest.fixture(scope="module")
def linear() -> Model:
    return make(LINEAR, attends=False)


@pytest.fixture(scope="module")
def deep() -> Model:
    return make(DEEP, attends=True)


@pytest.fixture(scope="module")
def rows() -> interp.Pairs:
    return four()


@pytest.mark.plain
@pytest.mark.parametrize("ablation", ["resample", "mean", "zero"])
@pytest.mark.filterwarnings("ignore:mean ablation")
def test_on_a_linear_model_it_is_exact(linear: Model, rows: interp.Pairs, ablation):
    for parts in ("edges", "nodes"):
        found = attribute(linear, rows, parts, ablation=ablation)
        measured = exact(linear, rows, parts, ablation=ablation)
        assert np.abs(measured.each).max() > 1e-2
        assert far(found, measured) < 1e-9
        for method in ("eap-ig-inputs", "eap-ig-activations"):
            integrated = attribute(linear, rows, parts, method=method, steps=2, ablation=ablation)
            assert far(integrated, measured) < 1e-9
    assert found.provenance["ablation"] == ablation


@pytest.mark.plain
@pytest.mark.parametrize("parts", ["edges", "nodes"])
def test_places_are_exact_and_add_up(linear: Model, rows: interp.Pairs, parts):
    found = attribute(linear, rows, parts, positions=PLACES)
    whole = attribute(linear, rows, parts)
    assert [part.place for part in found.parts[:: len(whole)]] == list(PLACES)
    some = list(range(0, len(found), 4))
    measured = exact(linear, rows, [found.parts[i] for i in some])
    assert np.abs(found.each[some] - measured.each).max() < 1e-9
    # in the last row "mid" is "end", so the other rows add up
    added = found.each.reshape(len(PLACES), *whole.each.shape).sum(0)
    assert np.abs(added - whole.each)[:, :3].max() < 1e-12
    assert np.abs(added - whole.each)[:, 3].max() > 1e-6


@pytest.mark.plain
def test_a_batch_is_its_rows_and_chunks_are_the_whole(deep: Model, rows: interp.Pairs):
    """In the least memory edges are summed position by position."""
    for parts, method in (
        ("edges", "eap"),
        ("edges", "eap-ig-inputs"),
        ("nodes", "eap-ig-activations"),
        ("nodes", "atp*"),
    ):
        whole = attribute(deep, rows, parts, method=method, positions=PLACES)
        for row in (0, 3):
            alone = attribute(deep, rows.select([row]), parts, method=method, positions=PLACES)
            assert np.abs(whole.each[:, [row]] - alone.each).max() < 1e-12
        needed = _least(deep, rows, parts, method)
        chunked = attribute(deep, rows, parts, method=method, positions=PLACES, memory=needed)
        assert far(whole, chunked) < 1e-12


def _least(model: Model, rows: interp.Pairs, parts, method) -> int:
    """The bytes that one row takes, as the refusal says them."""
    return least(partial(attribute, model, rows, parts, method=method, positions=PLACES))


@pytest.mark.plain
def test_a_node_is_the_sum_of_its_edges(deep: Model, rows: interp.Pairs):
    """Under every method that is linear in the gradient."""
    for method in ("eap", "eap-ig-inputs", "eap-ig-activations"):
        of_edges = attribute(deep, rows, method=method, steps=2)
        of_nodes = attribute(
            deep, rows, "nodes", method="atp" if method == "eap" else method, steps=2
        )
        writers = of_edges.frame["writer"].to_numpy()
        added = [of_edges.each[writers == site].sum(0) for site in of_nodes.frame["site"]]
        assert np.abs(np.stack(added) - of_nodes.each).max() < 1e-12
        assert np.abs(of_nodes.each).max() > 1e-2


@pytest.mark.plain
def test_one_step_is_the_clean_run(deep: Model, rows: interp.Pairs):
    eap = attribute(deep, rows)
    for method in ("eap-ig-inputs", "eap-ig-activations"):
        assert far(eap, attribute(deep, rows, method=method, steps=1)) < 1e-12
        assert far(eap, attribute(deep, rows, method=method, steps=3)) > 1e-3


@pytest.mark.plain
def test_integrated_gradients_are_means_of_derivatives(deep: Model, rows: interp.Pairs):
    """Of the run with another embedding, and of runs with the heads of one layer moved."""
    steps, site = 2, Site.parse("1.2")
    clean, corrupt = sides(deep, rows, site)
    words = sides(deep, rows, Site("embed"))
    layer = {Site("z", 1, head=h): sides(deep, rows, Site("z", 1, head=h)) for h in range(4)}
    inputs, activations = [], []
    for share in (0.5, 1.0):
        mixed = torch.lerp(words[1], words[0], share)
        start = Intervention(Site("embed"), Set(mixed))
        inputs.append(slope(deep, rows, site, lambda step, start=start: [
            start, Intervention(site, Add(step * (corrupt - clean)))
        ]))  # fmt: skip
        between = {head: torch.lerp(b, a, share) for head, (a, b) in layer.items()}
        activations.append(slope(deep, rows, site, lambda step, between=between: [
            Intervention(head, Set(value + step * (corrupt - clean) * (head == site)))
            for head, value in between.items()
        ]))  # fmt: skip
    for method, expected in (("eap-ig-inputs", inputs), ("eap-ig-activations", activations)):
        found = attribute(deep, rows, "nodes", method=method, steps=steps)
        row = found.frame["site"].tolist().index("1.2")
        assert np.abs(found.each[row] - np.mean(expected, 0)).max() < 1e-6


@pytest.mark.plain
def test_a_metric_that_is_flat_in_some_prompts_alone_is_taken(deep: Model, rows: interp.Pairs):
    """Whether they run with others, with none, or are all that there are."""
    evaluated = interp.evaluate(deep, rows, metric="logit_diff").query("position == 'clean'")
    values = evaluated.frame["value"].to_numpy()
    cut = float(np.sort(values)[1:3].mean())  # two are above, two below
    clipped = Metric("clipped", lambda x, a: (x[..., 0] - x[..., 1] - cut).relu(), reads="answers")
    above = values > cut
    for method in ("eap", "atp*"):
        whole = attribute(deep, rows, method=method)
        for memory in (None, _least(deep, rows, "edges", method)):
            found = attribute(deep, rows, method=method, metric=clipped, memory=memory)
            assert np.abs(found.each[:, ~above]).max() == 0
            assert np.abs(found.each - whole.each)[:, above].max() < 1e-12
        with pytest.raises(MetricError, match=r"'clipped' has a gradient of zero"):
            low = rows.select(np.flatnonzero(~above).tolist())
            attribute(deep, low, method=method, metric=clipped)


@pytest.mark.plain
@pytest.mark.parametrize("method", ["eap", "eap-ig-inputs", "eap-ig-activations", "atp*"])
def test_half_precision_is_near(rows: interp.Pairs, method):
    """bfloat16 has 8 bits; NumPy does not know it."""
    random = native.build(DEEP, name="tiny", dtype=torch.float64)
    wide, half = (
        native.build(DEEP, name="tiny", dtype=dtype, state=native.state_of(random))
        for dtype in (torch.float64, torch.bfloat16)
    )
    found, expected = (attribute(m, rows, method=method).each for m in (half, wide))
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.plain
def test_a_flat_metric_is_refused(deep: Model, rows: interp.Pairs):
    for method in ("eap", "atp*"):
        with pytest.raises(MetricError, match=r"'kl' has a gradient of zero at the clean run .*"
                           r"eap-ig-inputs"):  # fmt: skip
            attribute(deep, rows, method=method, metric="kl")
    for method in ("eap-ig-inputs", "eap-ig-activations"):
        with pytest.raises(MetricError, match=r"gradient of zero"):
            attribute(deep, rows, metric="kl", method=method, steps=1)
    between = attribute(deep, rows, metric="kl", method="eap-ig-inputs", steps=3)
    assert np.abs(between.scores).max() > 1e-3
    with pytest.raises(MetricError, match=r"'accuracy' has no gradient \(it counts or compares\)"):
        attribute(deep, rows, metric="accuracy")
    flat = Metric("flat", lambda logits, _: 0 * logits.sum(-1))
    with pytest.raises(MetricError, match=r"nothing that it reads moves it"):
        attribute(deep, rows, metric=flat)
    steep = Metric("steep", lambda logits, _: (logits.sum(-1) * 0).sqrt())
    with pytest.raises(MetricError, match=r"gradient of the metric 'steep' holds NaN"):
        attribute(deep, rows, metric=steep)


def test_what_is_refused(deep: Model, rows: interp.Pairs):
    with pytest.raises(Unsupported, match=r"'atp' is not one of edges, which have 'eap'"):
        attribute(deep, rows, method="atp")
    with pytest.raises(ArgumentError, match=r"steps=0, and steps takes .* of at least 1"):
        attribute(deep, rows, method="eap-ig-inputs", steps=0)
    with pytest.raises(PositionError, match=r"no position 'middle'; did you mean 'mid'"):
        attribute(deep, rows, positions=["middle"])
    with pytest.raises(PositionError, match=r"give 'all', or each of some named positions once"):
        attribute(deep, rows, positions=["all", "mid"])
    lstm = build_recurrent(RecurrentShape(1, 8, 23, 12), name="lstm")
    with pytest.raises(Unsupported, match=r"does not serve lstm: .* is an LSTM"):
        attribute(lstm, rows)
    with pytest.raises(SiteError, match=r"no parts were given"):
        exact(deep, rows, [])
    with pytest.raises(SiteError, match=r"there is no edge '1.0 -> 0.1.q'"):
        exact(deep, rows, ["1.0 -> 0.1.q"])
    named = replace(rows, positions={**rows.positions, **{
        str(i): torch.full((4,), i) for i in range(5)
    }})  # fmt: skip
    with pytest.raises(PositionError, match=r"row 0 has no position without a name"):
        exact(deep, named, [Part(Site.parse("0.1"), "rest")])


@pytest.mark.parametrize("family", ["gpt2", "llama-mha", "neox"])
def test_edges_are_transformer_lens_edges(tiny_model, pairs: interp.Pairs, family):
    """It takes its gradients on the second run, so ours are of the pairs the other way round."""
    model, row = tiny_model(family), pairs.select([1])
    right, wrong = int(row.correct[0]), int(row.wrong[0])
    model.bridge.requires_grad_(True)  # it takes gradients of activations, which need a graph
    try:
        theirs = attribution_patch(
            model.bridge,
            row.corrupt,
            row.clean,
            lambda logits: logits[0, -1, right] - logits[0, -1, wrong],
            EdgeAttributionConfig(granularity="edge"),
        ).edge_scores
    finally:
        model.bridge.requires_grad_(False)
    assert theirs is not None
    found = attribute(model, row)
    expected = dict.fromkeys(found.frame["site"], 0.0)
    for (writer, reader), score in theirs.items():
        expected[f"{_name(writer)} -> {_name(reader)}"] += score
    assert np.abs(found.scores).max() > 1e-2
    assert np.abs(found.scores - np.array(list(expected.values()))).max() < 1e-9


def _name(node: Node) -> str:
    match node.kind:
        case "embed" | "logits":
            return node.kind
        case "attn_head_out":
            return f"{node.layer}.{node.head}"
        case "q_input":
            return f"{node.layer}.{node.head}.q"
        case "k_input" | "v_input":
            return f"{node.layer}.kv{node.head}.{node.kind[0]}"
        case _:
            return f"{node.layer}.mlp"


@pytest.mark.parametrize("made_by", [attribute, exact])
def test_a_metric_turned_round_finds_the_same_circuit(deep: Model, rows: interp.Pairs, made_by):
    """What it is worse without, whether worse is lower or, of its negative, higher."""

    def own(sign: float, worse) -> Metric:
        def function(logits, _):
            return sign * (logits[..., 0] - logits[..., 1])

        return Metric("mine", function, reads="answers", worse=worse)

    lower, higher = (
        top_circuit(made_by(deep, rows, "nodes", metric=m), size=2, by="signed")
        for m in (own(1.0, "lower"), own(-1.0, "higher"))
    )
    other = top_circuit(
        made_by(deep, rows, "nodes", metric=own(-1.0, "lower")), size=2, by="signed"
    )
    assert lower.parts == higher.parts != other.parts
