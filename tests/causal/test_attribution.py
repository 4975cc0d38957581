"""Attribution beside exact effects: equal where the model is linear, and where it is corrected."""

import inspect
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformer_lens.tools.analysis import EdgeAttributionConfig, attribution_patch
from transformer_lens.tools.analysis.attribution_patching import Node

import interp
from interp.causal.acdc import acdc
from interp.causal.attribution import attribute
from interp.causal.effects import exact
from interp.core.circuit import Part
from interp.core.edges import Edge
from interp.core.errors import (
    InterpError,
    MetricError,
    PairsError,
    PositionError,
    SiteError,
    Unsupported,
)
from interp.core.metrics import Metric
from interp.core.sites import Site
from interp.engine.interventions import Add, Freeze, Intervention, Set
from interp.models import compiled, native
from interp.models.model import Model
from interp.models.native import Shape
from interp.models.recurrent import RecurrentShape, build_recurrent

PLACES = ("mid", "end", "rest")
LINEAR = Shape(
    n_layers=2, n_heads=4, n_kv_heads=2, d_model=10, d_head=3, d_vocab=23, n_ctx=12, d_mlp=0,
    norm="none",
)  # fmt: skip
DEEP = replace(LINEAR, n_layers=3, d_mlp=7, norm="layer")


def make(shape: Shape, *, attends: bool, scale: float = 2.0) -> Model:
    """Random weights, large enough to be far from linear; without `attends` patterns are fixed."""
    random = native.build(shape, name="tiny", dtype=torch.float64)
    state = {
        name: weights * (0 if not attends and _asks(name) else scale)
        for name, weights in native.state_of(random).items()
    }
    return native.build(shape, name="tiny", state=state, dtype=torch.float64)


def _asks(name: str) -> bool:
    return any(f".attn.{part}." in name for part in "qk")


@pytest.fixture(scope="module")
def linear() -> Model:
    return make(LINEAR, attends=False)


@pytest.fixture(scope="module")
def deep() -> Model:
    return make(DEEP, attends=True)


@pytest.fixture(scope="module")
def rows() -> interp.Pairs:
    """Four rows of two lengths in two clusters; all have a position without a name."""
    generator = torch.Generator().manual_seed(3)
    ids = [
        [torch.randint(23, (n,), generator=generator).tolist() for n in (5, 8, 5, 8)]
        for _ in range(2)
    ]
    return interp.Pairs.from_tokens(
        clean=ids[0],
        corrupt=ids[1],
        correct=[3, 5, 7, 11],
        wrong=[4, 6, 8, 12],
        positions={"mid": [2, 3, 1, 7]},
        cluster=["a", "a", "b", "b"],
    )


def far(one: interp.core.attribution.Attribution, other: interp.core.attribution.Attribution):
    """The largest difference of the scores of the same parts, example by example."""
    assert one.parts == other.parts
    return float(np.abs(one.each - other.each).max())


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


def test_a_batch_is_its_rows_and_chunks_are_the_whole(deep: Model, rows: interp.Pairs):
    for parts, method in (("edges", "eap"), ("nodes", "atp*")):
        whole = attribute(deep, rows, parts, method=method, positions=PLACES)
        for row in (0, 3):
            alone = attribute(deep, rows.select([row]), parts, method=method, positions=PLACES)
            assert np.abs(whole.each[:, [row]] - alone.each).max() < 1e-12
        needed = _least(deep, rows, parts, method)
        chunked = attribute(deep, rows, parts, method=method, positions=PLACES, memory=needed)
        assert far(whole, chunked) < 1e-12


def _least(model: Model, rows: interp.Pairs, parts, method) -> int:
    """The bytes that one row takes, as the refusal says them."""
    with pytest.raises(InterpError, match=r"one prompt of 8 tokens takes") as refused:
        attribute(model, rows, parts, method=method, positions=PLACES, memory=1000)
    return int(str(refused.value).split("about ")[1].split(" bytes")[0])


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


def test_one_step_is_the_clean_run(deep: Model, rows: interp.Pairs):
    eap = attribute(deep, rows)
    for method in ("eap-ig-inputs", "eap-ig-activations"):
        assert far(eap, attribute(deep, rows, method=method, steps=1)) < 1e-12
        assert far(eap, attribute(deep, rows, method=method, steps=3)) > 1e-3


def sides(model: Model, rows: interp.Pairs, site: Site) -> tuple[torch.Tensor, torch.Tensor]:
    """What a site holds in the clean and in the corrupt run of each row; 0 in the padding."""
    found = []
    for ids in (rows.clean, rows.corrupt):
        kept = [
            interp.capture(model, [ids[i, :n].tolist()], [site])[site][0]
            for i, n in enumerate(rows.lengths.tolist())
        ]
        found.append(torch.nn.utils.rnn.pad_sequence(list(kept), batch_first=True))
    return found[0], found[1]


def slope(model: Model, rows: interp.Pairs, site: Site, around: Callable[[float], list]):
    """Central difference of the metric; `around` makes the interventions of a step."""
    step = 1e-4
    made = {str(sign): around(sign * step) for sign in (1, -1)}
    up, down = interp.intervene(model, rows, made).frame["effect"].to_numpy().reshape(2, -1)
    return (up - down) / (2 * step)


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


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_the_qk_fix_is_exact_where_only_attention_bends(rows: interp.Pairs, positions):
    """One layer of attention: its queries and keys are measured, all else is linear."""
    model = make(replace(LINEAR, n_layers=1, d_head=4, positions=positions), attends=True, scale=4)
    for places, every in (("all", 1), (PLACES, 4)):
        found, linear = (attribute(model, rows, method=m, positions=places) for m in ("atp*", None))
        some = list(range(0, len(found), every))
        measured = exact(model, rows, [found.parts[i] for i in some])
        assert np.abs(found.each[some] - measured.each).max() < 1e-9
        assert np.abs(linear.each[some] - measured.each).max() > 1e-2
    nodes = attribute(model, rows, "nodes", method="atp*")
    assert far(nodes, exact(model, rows, "nodes")) < 1e-9


def test_saturated_attention_is_seen_by_the_qk_fix_alone():
    """The name movers of the compiled IOI model: attention of 1, which has no gradient."""
    model = compiled.build("ioi", dtype=torch.float64)
    pairs = compiled.pairs("ioi", corruption="abc", n=4, seed=0)
    movers = [f"1.0 -> 2.{head}.q" for head in range(3)]
    measured = exact(model, pairs, movers)
    assert np.abs(measured.scores).min() > 1
    for method, expected in (("eap", 0 * measured.each), ("atp*", measured.each)):
        found = attribute(model, pairs, method=method)
        rows = [found.frame["site"].tolist().index(edge) for edge in movers]
        assert np.abs(found.each[rows] - expected).max() < 1e-9


def test_grad_drop_is_the_mean_size_without_each_layer(rows: interp.Pairs):
    """A layer that passes nothing on is one that is frozen; attention is fixed, so QK fix is 0."""
    model = make(DEEP, attends=False)
    found = attribute(model, rows, "nodes", method="atp*")
    for name in ("0.1", "1.mlp"):
        site = Site.parse(name)
        clean, corrupt = sides(model, rows, site)
        others = [layer for layer in range(3) if layer != site.layer]

        def around(step: float, frozen: list[int]) -> list:
            held = [Site(kind, at) for at in frozen for kind in ("attn_out", "mlp_out")]
            made = [Intervention(place, Freeze()) for place in held]
            return [Intervention(site, Add(step * (corrupt - clean))), *made]  # noqa: B023

        plain = slope(model, rows, site, lambda step: around(step, []))
        without = [
            slope(model, rows, site, lambda step, at=layer: around(step, [at])) for layer in others
        ]
        expected = np.sign(plain) * np.mean(np.abs(without), 0)
        row = found.frame["site"].tolist().index(name)
        assert np.abs(found.each[row] - expected).max() < 1e-6
        assert np.abs(np.abs(expected) - np.abs(plain)).max() > 1e-4


def test_grad_drop_of_edges_leaves_out_all_layers_but_the_readers(rows: interp.Pairs):
    """Of an edge alone: what the layers before its reader pass on has no part in it."""
    model = make(DEEP, attends=False)
    found = attribute(model, rows, method="atp*")
    for name in ("0.1 -> 1.mlp", "embed -> 1.kv1.v", "embed -> 0.mlp"):
        edge = Part.parse(name).of
        assert isinstance(edge, Edge)
        clean, corrupt = sides(model, rows, edge.writer)

        def around(step: float, frozen: list[int]) -> list:
            held = [Site(kind, at) for at in frozen for kind in ("attn_out", "mlp_out")]
            cut = Intervention(edge.writer, Add(step * (corrupt - clean)), readers=(edge.reader,))  # noqa: B023
            return [cut, *(Intervention(place, Freeze()) for place in held)]

        plain = slope(model, rows, edge.writer, lambda step: around(step, []))
        others = [layer for layer in range(3) if layer != edge.reader.layer]
        # a frozen layer before the reader would freeze the writer; without it nothing is missing
        without = [
            slope(model, rows, edge.writer, lambda step, at=layer: around(step, [at]))
            if layer > edge.reader.layer
            else plain
            for layer in others
        ]
        expected = np.sign(plain) * np.mean(np.abs(without), 0)
        row = found.frame["site"].tolist().index(name)
        assert np.abs(found.each[row] - expected).max() < 1e-6
        assert np.abs(np.abs(expected) - np.abs(plain)).max() > 1e-4


def test_grad_drop_of_edges_into_the_logits_changes_nothing(deep: Model, rows: interp.Pairs):
    """They pass through no layer."""
    star, eap = attribute(deep, rows, method="atp*"), attribute(deep, rows)
    logits = star.frame["reader"].to_numpy() == "logits"
    assert np.abs(star.each - eap.each)[logits].max() < 1e-12
    assert np.abs(star.each - eap.each)[~logits].max() > 1e-2


@pytest.mark.parametrize("all_of_it", [False, True])
def test_grad_drop_finds_what_cancels_to_nothing(all_of_it):
    """The second layer takes away what the first head wrote, or all, so that the stream is 0."""
    shape = replace(LINEAR, n_heads=1, n_kv_heads=1, d_model=4, d_head=4)
    blank = native.state_of(native.build(shape, name="blank", dtype=torch.float64))
    state = {name: torch.zeros_like(weights) for name, weights in blank.items()}
    generator = torch.Generator().manual_seed(1)
    for name in ("tok_embed.weight", "head.weight"):
        state[name] = torch.randn(state[name].shape, generator=generator, dtype=torch.float64)
    half = torch.diag(torch.tensor([1.0, 1, 0, 0], dtype=torch.float64))
    whole = torch.eye(4, dtype=torch.float64)
    for layer, value, out in ((0, whole, half.roll(2, 1)), (1, half, -half)):
        if all_of_it:
            value, out = whole, whole if layer == 0 else -whole
        state[f"layers.{layer}.attn.v.weight"] = value
        state[f"layers.{layer}.attn.o.weight"] = out
    model = native.build(shape, name="cancels", state=state, dtype=torch.float64)
    pairs = interp.Pairs.from_tokens(
        clean=[[1], [2]], corrupt=[[3], [4]], correct=[5] * 2, wrong=[6] * 2
    )
    first = Site("z", 0, head=0)
    clean, corrupt = sides(model, pairs, first)
    alone = slope(model, pairs, first, lambda step: [
        Intervention(first, Add(step * (corrupt - clean))),
        Intervention(Site("attn_out", 1), Freeze()),
    ])  # fmt: skip
    assert np.abs(alone).min() > 0.05
    assert np.abs(attribute(model, pairs, "nodes").each[0]).max() < 1e-12
    found = attribute(model, pairs, "nodes", method="atp*")
    assert np.abs(np.abs(found.each[0]) - np.abs(alone)).max() < 1e-6


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


def test_a_reference_that_is_none_is_refused_whatever_the_ablation(deep: Model, rows: interp.Pairs):
    """By all that take one, in the same words; beartype, which stands before, is taken away."""
    for call in (
        lambda: inspect.unwrap(attribute)(deep, rows, reference="corupt"),
        lambda: inspect.unwrap(exact)(deep, rows, "nodes", reference="corupt"),
        lambda: inspect.unwrap(interp.ablate)(deep, rows, "0.1", method="zero", reference=1),
        lambda: inspect.unwrap(acdc)(deep, rows, threshold=1.0, reference="corupt"),
    ):
        with pytest.raises(Unsupported, match=r"unknown reference .* a side of these pairs"):
            call()


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
    with pytest.raises(Unsupported, match=r"steps=0: integrated gradients take at least one"):
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
    with pytest.raises(PairsError, match=r"row 0 has no position without a name"):
        exact(deep, named, [Part(Site.parse("0.1"), "rest")])


def test_norms_of_all_queries_together_have_no_qk_fix(tiny_model, pairs: interp.Pairs):
    with pytest.raises(Unsupported, match=r"norms the queries of all heads together \(over 24"):
        attribute(tiny_model("olmo2"), pairs, method="atp*")


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
