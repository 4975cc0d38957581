"""AtP*: the QK fix beside what is measured, GradDrop beside layers that are frozen."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from slopes import DEEP, LINEAR, PLACES, far, four, make, sides, slope

import interp
from interp.causal.ranking.attribution import attribute
from interp.causal.ranking.exact import exact
from interp.core.errors import Unsupported
from interp.core.parts.circuit import Part
from interp.core.parts.edges import Edge
from interp.core.parts.sites import Site
from interp.engine.interventions import Add, Freeze, Intervention
from interp.models import compiled
from interp.models.model import Model
from interp.models.small import native


@pytest.fixture(scope="module")
def deep() -> Model:
    return make(DEEP, attends=True)


@pytest.fixture(scope="module")
def rows() -> interp.Pairs:
    return four()


@pytest.mark.plain
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


def moved(
    site: Site,
    change: torch.Tensor,
    readers: tuple[Site, ...] | None = None,
    *,
    frozen: int | None = None,
) -> Callable[[float], list[Intervention]]:
    """A step along a change, perhaps for some readers and with a layer that keeps its outputs."""
    kinds = () if frozen is None else ("attn_out", "mlp_out")
    held = [Intervention(Site(kind, frozen), Freeze()) for kind in kinds]
    return lambda step: [Intervention(site, Add(step * change), readers=readers), *held]


@pytest.mark.plain
def test_grad_drop_is_the_mean_size_without_each_layer(rows: interp.Pairs):
    """A layer that passes nothing on is one that is frozen; attention is fixed, so QK fix is 0."""
    model = make(DEEP, attends=False)
    found = attribute(model, rows, "nodes", method="atp*")
    for name in ("0.1", "1.mlp"):
        site = Site.parse(name)
        clean, corrupt = sides(model, rows, site)
        others = [layer for layer in range(3) if layer != site.layer]

        change = corrupt - clean
        plain = slope(model, rows, site, moved(site, change))
        without = [slope(model, rows, site, moved(site, change, frozen=layer)) for layer in others]
        expected = np.sign(plain) * np.mean(np.abs(without), 0)
        row = found.frame["site"].tolist().index(name)
        assert np.abs(found.each[row] - expected).max() < 1e-6
        assert np.abs(np.abs(expected) - np.abs(plain)).max() > 1e-4


@pytest.mark.plain
def test_grad_drop_of_edges_leaves_out_all_layers_but_the_readers(rows: interp.Pairs):
    """Of an edge alone: what the layers before its reader pass on has no part in it."""
    model = make(DEEP, attends=False)
    found = attribute(model, rows, method="atp*")
    for name in ("0.1 -> 1.mlp", "embed -> 1.kv1.v", "embed -> 0.mlp"):
        edge = Part.parse(name).of
        assert isinstance(edge, Edge)
        clean, corrupt = sides(model, rows, edge.writer)

        ends = (edge.writer, corrupt - clean, (edge.reader,))
        plain = slope(model, rows, edge.writer, moved(*ends))
        own = edge.reader.layer
        assert own is not None
        others = [layer for layer in range(3) if layer != own]
        # a frozen layer before the reader would freeze the writer; without it nothing is missing
        without = [
            slope(model, rows, edge.writer, moved(*ends, frozen=layer)) if layer > own else plain
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


def test_norms_of_all_queries_together_have_no_qk_fix(tiny_model, pairs: interp.Pairs):
    with pytest.raises(Unsupported, match=r"norms the queries of all heads together \(over 24"):
        attribute(tiny_model("olmo2"), pairs, method="atp*")
