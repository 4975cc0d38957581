"""Attribution across two stacks: each edge is its derivative, through cross-attention too."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from budgets import least
from oracle_of_two import OracleOfTwo
from torch import Tensor

import interp
from interp.causal.ranking.attribution import attribute
from interp.core.errors import PositionError, Unsupported
from interp.core.parts.edges import Edge
from interp.core.parts.graph import Graph
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs
from interp.engine.interventions import Add, Freeze, Intervention, Set
from interp.engine.plain.captures.capture import capture
from interp.models.model import Model

SUMMED = ["t5", "t5-gated", "mt5", "mbart", "pegasus", "blenderbot", "m2m100"]
"""Whose residual streams are sums of writes."""
STEP = 1e-4
PLACES = ("noun", "end", "rest")


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    """Rows of two extents, with targets of their own on both sides."""
    return Pairs.from_tokens(
        clean=[[3, 4, 5, 6], [7, 8, 9], [6, 12, 3, 5]],
        corrupt=[[3, 11, 5, 6], [7, 12, 4], [6, 13, 3, 9]],
        target=[[5, 7], [8, 6, 9], [9, 4]],
        corrupt_target=[[4, 7], [8, 3, 9], [9, 11]],
        correct=[5, 6, 8],
        wrong=[9, 10, 4],
        positions={"noun": [1, 1, 2]},
        target_positions={"noun": [1, 0, 1]},
        cluster=["a", "a", "b"],
        template=["t"] * 3,
    )


def values(model: Model, pairs: Pairs, site: Site) -> tuple[Tensor, Tensor]:
    """What a site holds on both sides; 0 in the padding."""
    clean, corrupt = (
        torch.nn.utils.rnn.pad_sequence(
            capture(model, pairs, [site], side=side).rows(site), batch_first=True
        )
        for side in ("clean", "corrupt")
    )
    return clean, corrupt


def slope(model: Model, pairs: Pairs, around: Callable[[float], list[Intervention]]) -> np.ndarray:
    """Central difference of the metric; `around` makes the interventions of a step."""
    made = {str(sign): around(sign * STEP) for sign in (1, -1)}
    up, down = interp.intervene(model, pairs, made).frame["effect"].to_numpy().reshape(2, -1)
    return (up - down) / (2 * STEP)


def along(
    edge: Edge, change: Tensor, held: tuple[Intervention, ...] = ()
) -> Callable[[float], list[Intervention]]:
    return lambda step: [
        Intervention(edge.writer, Add(step * change), readers=(edge.reader,)),
        *held,
    ]


def kind(site: Site) -> tuple[object, ...]:
    return site.kind, site.stack, site.cross


@pytest.mark.parametrize("family", SUMMED)
def test_an_edge_is_its_derivative(family, tiny_model, pairs):
    """One of each pair of kinds, within both stacks and across; a third of them by family."""
    model = tiny_model(family)
    found = attribute(model, pairs)
    kinds: dict[object, list[int]] = {}
    for row, edge in enumerate(map(Edge.parse, found.frame["site"])):
        kinds.setdefault((kind(edge.writer), kind(edge.reader)), []).append(row)
    across = [pair for pair in kinds if pair[0][1] == "enc" and pair[1][1] == "dec"]
    assert len(across) == 6  # what enters, heads and MLPs, into keys and values
    assert len(kinds) == 3 * 4 + 6 + 4 * 6  # the encoder's, those across, the decoder's
    turn = SUMMED.index(family) % 3
    rows = [of[len(of) // 2] for of in list(kinds.values())[turn::3]]
    for row in rows:
        edge = Edge.parse(found.frame["site"][row])
        clean, corrupt = values(model, pairs, edge.writer)
        expected = slope(model, pairs, along(edge, corrupt - clean))
        assert np.abs(expected).max() > 1e-7
        assert np.abs(found.each[row] - expected).max() < 1e-6


def test_a_node_is_the_sum_of_its_edges(tiny_model, pairs):
    model = tiny_model("mbart")
    for method in ("eap", "eap-ig-inputs", "eap-ig-activations"):
        of_edges = attribute(model, pairs, method=method, steps=2)
        own = "atp" if method == "eap" else method
        of_nodes = attribute(model, pairs, "nodes", method=own, steps=2)
        writers = of_edges.frame["writer"].to_numpy()
        added = [of_edges.each[writers == site].sum(0) for site in of_nodes.frame["site"]]
        assert np.abs(np.stack(added) - of_nodes.each).max() < 1e-12
        assert np.abs(of_nodes.each).max() > 1e-4
        one = attribute(model, pairs, method=method, steps=1)
        assert np.abs(one.each - attribute(model, pairs).each).max() < 1e-12


@pytest.mark.filterwarnings("ignore:mean ablation")
def test_a_batch_is_its_rows_and_chunks_are_the_whole(tiny_model, pairs):
    """In the least memory edges are summed position by position, layers are made again."""
    model = tiny_model("t5")
    for parts, method in (
        ("edges", "eap"),
        ("nodes", "eap-ig-activations"),
        ("edges", "atp*"),
    ):
        asked = {"method": method, "positions": PLACES, "steps": 2}
        whole = attribute(model, pairs, parts, **asked)
        alone = attribute(model, pairs.select([1]), parts, **asked)
        assert np.abs(whole.each[:, [1]] - alone.each).max() < 1e-12
        needed = least(partial(attribute, model, pairs, parts, **asked))
        chunked = attribute(model, pairs, parts, **asked, memory=needed)
        assert np.abs(whole.each - chunked.each).max() < 1e-12
    every = attribute(model, pairs).each
    placed = attribute(model, pairs, positions=PLACES).each
    assert np.abs(placed.reshape(3, *every.shape).sum(0) - every).max() < 1e-12


@pytest.mark.filterwarnings("ignore:mean ablation")
@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_what_ablation_sets(tiny_model, pairs, ablation):
    """Of the heads of cross-attention as of others."""
    rows = pairs.select([0, 2])
    model, site = tiny_model("m2m100"), Site.parse("dec.1.cross.3")
    edge = Edge.parse("dec.1.cross.3 -> dec.2.kv1.v")
    clean, corrupt = values(model, rows, site)
    into = torch.zeros_like(clean) if ablation == "zero" else corrupt.mean(0, keepdim=True)
    found = attribute(model, rows, ablation=ablation)
    row = found.frame["site"].tolist().index(str(edge))
    expected = slope(model, rows, along(edge, into - clean))
    assert np.abs(found.each[row] - expected).max() < 1e-6


def test_integrated_gradients_go_from_both_stacks_together(tiny_model, pairs):
    rows, steps = pairs.select([0, 2]), 2
    model, site = tiny_model("mbart"), Site.parse("enc.1.2")
    clean, corrupt = values(model, rows, site)
    enters = [Site("resid_pre", 0, stack=stack) for stack in ("enc", "dec")]
    sides = {one: values(model, rows, one) for one in enters}
    expected = []
    for share in (0.5, 1.0):
        start = [Intervention(one, Set(torch.lerp(b, a, share))) for one, (a, b) in sides.items()]
        expected.append(
            slope(
                model,
                rows,
                lambda step, start=start: [
                    *start,
                    Intervention(site, Add(step * (corrupt - clean))),
                ],
            )
        )
    found = attribute(model, rows, "nodes", method="eap-ig-inputs", steps=steps)
    row = found.frame["site"].tolist().index("enc.1.2")
    assert np.abs(found.each[row] - np.mean(expected, 0)).max() < 1e-6


@pytest.mark.parametrize("head", ["dec.1.cross.2", "dec.1.3"])
def test_integrated_activations_move_one_attention(tiny_model, pairs, head):
    """The heads of self-attention and those of cross-attention of a layer have their own runs."""
    rows = pairs.select([0, 2])
    model, site = tiny_model("mbart"), Site.parse(head)
    clean, corrupt = values(model, rows, site)
    heads = [Site("z", 1, head=h, stack="dec", cross=site.cross) for h in range(6)]
    sides = {one: values(model, rows, one) for one in heads}
    expected = []
    for share in (0.5, 1.0):
        between = {one: torch.lerp(b, a, share) for one, (a, b) in sides.items()}
        expected.append(
            slope(
                model,
                rows,
                lambda step, between=between: [
                    Intervention(one, Set(value + step * (corrupt - clean) * (one == site)))
                    for one, value in between.items()
                ],
            )
        )
    found = attribute(model, rows, "nodes", method="eap-ig-activations", steps=2)
    row = found.frame["site"].tolist().index(head)
    assert np.abs(found.each[row] - np.mean(expected, 0)).max() < 1e-6


@pytest.mark.parametrize("name", ["dec.0.mlp -> dec.1.cross.2.q", "enc.1.3 -> dec.1.cross.kv2.k"])
def test_the_qk_fix_takes_patterns_of_cross_attention_exactly(
    tiny_model, oracle_of_two, pairs, name
):
    """In the last layer no later one is left out: the estimate is the slope times the patterns."""
    model, edge = tiny_model("t5"), Edge.parse(name)
    judge: OracleOfTwo = oracle_of_two("t5")
    found = attribute(model, pairs, method="atp*")
    row = found.frame["site"].tolist().index(name)
    for example in range(len(pairs)):
        n, m = int(pairs.lengths[example]), int(pairs.target.lengths[example])
        sides = [
            (
                getattr(pairs, side)[example : example + 1, :n],
                torch.cat(
                    [torch.tensor([[0]]), getattr(pairs.target, side)[example : example + 1, :m]], 1
                ),
            )
            for side in ("clean", "corrupt")
        ]
        base, other = (judge.forward(*ids)[1] for ids in sides)
        change = other[str(edge.writer)] - base[str(edge.writer)]

        def read(step: float, ids=sides[0], change=change) -> Tensor:
            table = {str(edge.reader): {str(edge.writer): lambda x: x + step * change}}
            return judge.forward(*ids, edges=table)[1][str(edge.reader)]

        moved = (read(STEP) - read(-STEP)) / (2 * STEP)
        q, k = base["dec.1.cross.2.q"], base["dec.1.cross.2.k"]
        q, k = (q + moved, k) if edge.reader.kind == "q" else (q, k + moved)
        pattern = judge.probabilities("dec", 2, q, k, cross=True) - base["dec.1.cross.2.pattern"]

        def logits(step: float, ids=sides[0], pattern=pattern, example=example) -> Tensor:
            at = "dec.1.cross.2.pattern"
            out = judge.forward(*ids, lambda name, x: x + step * pattern if name == at else x)[0]
            right, wrong = pairs.correct[example], pairs.wrong[example]
            return out[0, -1, right] - out[0, -1, wrong]

        expected = float((logits(STEP) - logits(-STEP)) / (2 * STEP))
        assert abs(expected) > 1e-7
        assert abs(found.each[row, example] - expected) < 1e-6


@pytest.mark.parametrize(
    "name", ["enc.0.mlp -> enc.1.mlp", "enc.0.2 -> dec.0.cross.kv1.v", "dec.0.cross.1 -> dec.1.mlp"]
)
def test_grad_drop_leaves_out_layers_of_both_stacks(tiny_model, pairs, name):
    model, edge = tiny_model("mbart"), Edge.parse(name)
    found = attribute(model, pairs, method="atp*")
    clean, corrupt = values(model, pairs, edge.writer)
    change = corrupt - clean
    plain = slope(model, pairs, along(edge, change))
    layers = [("enc", n) for n in range(3)] + [("dec", n) for n in range(3)]
    own = (edge.reader.stack, edge.reader.layer)
    expected = []
    for stack, layer in layers:
        if (stack, layer) == own:
            continue
        kinds = [("attn_out", False), ("mlp_out", False)]
        kinds += [("attn_out", True)] if stack == "dec" else []
        held = tuple(
            Intervention(Site(what, layer, stack=stack, cross=cross), Freeze())
            for what, cross in kinds
        )
        later = layers.index((stack, layer)) > layers.index(own)
        expected.append(slope(model, pairs, along(edge, change, held)) if later else plain)
    sized = np.sign(plain) * np.mean(np.abs(expected), 0)
    row = found.frame["site"].tolist().index(name)
    assert np.abs(found.each[row] - sized).max() < 1e-6
    assert np.abs(np.abs(sized) - np.abs(plain)).max() > 1e-7


def test_a_graph_of_two_stacks(tiny_model):
    facts = tiny_model("t5").facts
    graph = Graph.of(facts)
    assert len(graph.writers) == 1 + 3 * 7 + 1 + 2 * 13
    assert len(graph.readers) == 3 * 19 + 2 * 37 + 1
    for edge in graph.edges[:: len(graph.edges) // 50]:
        assert edge.check(facts) == edge
    assert [str(graph.writers[i]) for i in (0, 22)] == ["enc.0.resid_pre", "dec.0.resid_pre"]


def test_what_attribution_has_not(tiny_model, pairs):
    for family in ("bart", "marian"):
        with pytest.raises(Unsupported, match=r"norms its residual stream after every sum"):
            attribute(tiny_model(family), pairs)
    named = Pairs.from_tokens(
        clean=[[3, 4]], corrupt=[[3, 5]], correct=[1], wrong=[2], positions={"verb": [1]}
    )
    with pytest.raises(PositionError, match="'verb' is one of the encoder's tokens"):
        attribute(tiny_model("t5"), named, positions="verb")
