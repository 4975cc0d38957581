"""From attributions to circuits: against a slow loop, invariants, other files, many edges."""

import logging

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.circuits.discovery.closure import Wires
from interp.circuits.discovery.top import top_circuit
from interp.core.door.door import ArgumentError
from interp.core.errors import ResultsError, Unsupported
from interp.core.parts.circuit import Circuit, Part
from interp.core.parts.edges import Edge
from interp.core.parts.facts import Facts
from interp.core.parts.graph import Graph, nodes
from interp.core.parts.sites import Site
from interp.core.tables.attribution import Attribution


def facts(layers: int = 2, heads: int = 4, groups: int = 2) -> Facts:
    return Facts(
        architecture="LlamaForCausalLM",
        n_layers=layers,
        n_heads=heads,
        n_kv_heads=groups,
        d_model=12,
        d_head=3,
        d_mlp=20,
        d_vocab=31,
        n_ctx=16,
        norm="rms",
        positions="rotary",
        block="pre",
        parallel=False,
        gated=True,
        causal=True,
        language_model=True,
    )


GRAPH = Graph.of(facts())
PLACES = ("end", "subject", "rest")
WHERE = {"weights": "abc", "ablation": "mean", "corruption": "other names"}


def attribution(parts, scores, metric="logit_diff", **note) -> Attribution:
    parts = [Part.parse(part) if isinstance(part, str) else part for part in parts]
    each = np.asarray(scores, dtype=float)[:, None] + np.asarray([-1.0, 1.0])
    return Attribution.of(
        parts,
        each,
        cluster=["a", "b"],
        method="eap",
        metric=metric,
        provenance={**WHERE, **note},
    )


def drawn(seed: int, places=("all",)) -> Attribution:
    """All edges of a small graph, with few distinct scores, so that many tie."""
    parts = [Part(edge, place) for place in places for edge in GRAPH.edges]
    return attribution(parts, np.random.default_rng(seed).integers(-6, 7, len(parts)))


def heads_of(reader: Site) -> list[str]:
    """The heads that read into a query, key or value: two to a group here."""
    if reader.group is not None:
        return [f"{reader.layer}.{head}" for head in range(4) if head // 2 == reader.group]
    return [f"{reader.layer}.{reader.head}"]


def targets(part: Part) -> list[str]:
    """The nodes that an edge runs into, at their places, by hand."""
    assert isinstance(part.of, Edge)
    reader = part.of.reader
    if reader.kind in ("k", "v"):
        return [f"{head} @ {place}" for head in heads_of(reader) for place in ("all", *PLACES)]
    name = heads_of(reader)[0] if reader.kind == "q" else str(reader)
    return ["logits" if name == "logits" else f"{name} @ {part.place}"]


def source(part: Part) -> str:
    assert isinstance(part.of, Edge)
    return f"{part.of.writer} @ {part.place}"


def on_paths(parts) -> set[Part]:
    """Those on some path from an embedding to the logits, by networkx."""
    graph = nx.DiGraph()
    graph.add_nodes_from(["start", "logits"])
    for part in parts:
        if source(part).startswith("embed"):
            graph.add_edge("start", source(part))
        graph.add_edges_from((source(part), target) for target in targets(part))
    fed = nx.descendants(graph, "start")
    heard = nx.ancestors(graph, "logits") | {"logits"}
    return {p for p in parts if source(p) in fed and heard & set(targets(p))}


def grown(table: Attribution, helps, size: int) -> set[Part]:
    """Greedy closure by looking through all edges each time (Hanna et al. 2024, sec. 3)."""
    parts, inside, taken = list(table.parts), {"logits"}, []
    while len(taken) < size:
        open_ = [i for i, p in enumerate(parts) if i not in taken and inside & set(targets(p))]
        if not open_:
            break
        taken.append(max(open_, key=lambda i: (helps[i], -i)))
        inside.add(source(parts[taken[-1]]))
    return on_paths({parts[i] for i in taken})


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 999), st.integers(0, 40), st.booleans(), st.booleans())
def test_greedy_closure_is_the_slow_loop(seed, size, by_place, signed):
    table = drawn(seed, PLACES if by_place else ("all",))
    helps = -table.scores if signed else np.abs(table.scores)
    found = top_circuit(table, size=size, by="signed" if signed else "abs")
    assert found.parts == grown(table, helps, size)


@pytest.mark.plain
@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 999),
    st.integers(0, 70),
    st.integers(0, 70),
    st.booleans(),
    st.sampled_from(["greedy", "prune", "none"]),
)
def test_circuits_are_nested_bounded_and_connected(seed, one, other, by_place, closure):
    table = drawn(seed, PLACES if by_place else ("all",))
    small, large = (top_circuit(table, size=size, closure=closure) for size in sorted([one, other]))
    assert small.parts <= large.parts
    assert len(small) <= min(one, other)
    if closure != "none":
        assert on_paths(large.parts) == large.parts
        everything = top_circuit(table, size=max(one, other), closure="none").parts
        if closure == "prune":
            assert large.parts == on_paths(everything)
    else:
        assert len(large) == max(one, other)
        left_out = [
            abs(s) for p, s in zip(table.parts, table.scores, strict=True) if p not in large.parts
        ]
        kept = [abs(s) for p, s in zip(table.parts, table.scores, strict=True) if p in large.parts]
        assert min(kept, default=9) >= max(left_out, default=0)


def test_all_edges_are_the_whole_graph():
    """Every edge lies on a path, so nothing is pruned, whatever the order."""
    for closure in ("greedy", "prune", "none"):
        found = top_circuit(drawn(3), fraction=1.0, closure=closure)
        assert found.parts == {Part(edge) for edge in GRAPH.edges}


CHAIN = {
    "embed -> 0.1.q": -1.0,
    "0.1 -> 1.kv1.v": 0.9,
    "1.3 -> logits": -0.1,
    "0.2 -> 1.0.q": 3.0,
    "embed -> 0.2.q": -2.0,
    "embed -> logits": 0.05,
}
"""1.3 is in the second group of 1.kv1; the two best edges lead to head 1.0, which nobody hears."""


def chain(extra=()) -> Attribution:
    others = [edge for edge in GRAPH.edges if str(edge) not in CHAIN]
    parts = [*map(Part.parse, CHAIN), *map(Part, others)]
    return attribution(parts, [*CHAIN.values(), *np.zeros(len(others))])


def test_what_each_closure_keeps():
    table = chain()
    names = list(CHAIN)

    def kept(**options) -> list[str]:
        found = top_circuit(table, **options).parts
        return sorted((str(p) for p in found), key=names.index)

    assert kept(size=3) == names[:3]
    assert kept(threshold=0.1) == names[:3]
    assert kept(threshold=0.05) == [*names[:3], "embed -> logits"]
    assert kept(threshold=0.1, closure="prune") == names[:3]
    assert kept(threshold=0.1, closure="none") == names[:5]
    assert kept(size=2) == []  # the head that would feed it is not reached yet
    assert kept(size=1, by="signed", closure="none") == ["embed -> 0.2.q"]
    assert kept(threshold=0.05, by="signed", closure="none") == [names[0], names[2], names[4]]


def test_a_circuit_says_what_the_attribution_says():
    found = top_circuit(chain(), size=3)
    assert (found.model, found.ablation, found.corruption) == ("abc", "mean", "other names")
    assert found == Circuit.of(
        list(CHAIN)[:3], model="abc", ablation="mean", corruption="other names"
    )


def test_where_higher_is_worse_the_largest_scores_help_most(caplog):
    """And where it is not known of a metric, the lowest, which is said."""
    parts, scores = ["embed -> logits", "0.1 -> logits"], [3.0, -4.0]
    for metric, best in {"kl@end": 0, "loss": 0, "logit_diff": 1, "mine": 1}.items():
        table = attribution(parts, scores, metric)
        found = top_circuit(table, size=1, by="signed", closure="none")
        assert found.parts == {Part.parse(parts[best])}
        assert ("of the metric 'mine' it is not known" in caplog.text) == (metric == "mine")
    caplog.clear()
    for worse, best in {"higher": 0, "lower": 1}.items():
        table = attribution(parts, scores, "mine", worse=worse)
        found = top_circuit(table, size=1, by="signed", closure="none")
        assert found.parts == {Part.parse(parts[best])} and not caplog.text


def test_the_corruption_can_be_said():
    assert top_circuit(chain(), size=3, corruption="no names").corruption == "no names"


def test_keys_at_other_places_belong_to_the_head():
    """A head at the end reads keys and values where the subject is; its query where it stands."""
    parts = {
        "1.2 -> logits @ end": 1.0,
        "embed -> 1.kv1.k @ subject": 0.9,
        "embed -> 1.2.q @ subject": 0.8,
        "embed -> 1.2.q @ end": 0.7,
        "embed -> 1.kv0.v @ subject": 0.6,
        "1.0 -> 1.mlp @ subject": 0.5,
    }
    others = [Part(edge, "end") for edge in GRAPH.edges]
    others = [part for part in others if str(part) not in parts]
    table = attribution([*map(Part.parse, parts), *others], [*parts.values(), *[0.0] * len(others)])
    found = top_circuit(table, threshold=0.5)
    assert set(map(str, found.parts)) == {
        "1.2 -> logits @ end",
        "embed -> 1.kv1.k @ subject",
        "embed -> 1.2.q @ end",
    }


def test_nodes_are_ranked_and_need_no_closure():
    sites = nodes(facts())
    scores = np.random.default_rng(0).normal(size=len(sites))
    table = attribution([Part(site) for site in sites], scores)
    best = np.argsort(-np.abs(scores))[:4]
    found = top_circuit(table, size=4)
    assert found.granularity == "nodes"
    assert found.parts == {Part(sites[i]) for i in best}
    signed = top_circuit(table, size=1, by="signed")
    assert signed.parts == {Part(sites[int(scores.argmin())])}


def test_what_is_said_of_a_circuit(caplog):
    caplog.set_level(logging.WARNING, logger="interp")

    def said(**options) -> str:
        caplog.clear()
        found = top_circuit(chain(), **options)
        assert found.note in caplog.text and found.note in repr(found)
        return f"{found.note} {caplog.text}"

    assert not said(size=3).strip()
    assert "It keeps none of the 82 edges" in said(threshold=50.0)
    assert "it is the ablated run" in said(size=0)
    assert "It keeps all 82 edges" in said(threshold=0.0)
    assert "it is the whole model" in said(fraction=1.0)
    assert "2 of 2 edges are on no path from the embedding to the logits" in said(size=2)
    assert "None of its 2 edges ends at the logits" in said(size=2, closure="none")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"give one of size=, fraction= and threshold=; none was given"),
        ({"size": 3, "threshold": 0.1}, r"\{'size': 3, 'threshold': 0.1\} was given"),
        ({"size": 83}, r"size=83 parts cannot be taken of 82; give 0 to 82"),
        ({"size": -1}, r"size=-1 parts cannot be taken"),
        ({"fraction": 1.5}, r"fraction=1.5 is no share of the 82 parts"),
    ],
)
def test_limits_are_checked(options, message):
    with pytest.raises(ResultsError, match=message):
        top_circuit(chain(), **options)


def test_a_threshold_that_is_no_number():
    with pytest.raises(ArgumentError, match=r"threshold=nan"):
        top_circuit(chain(), threshold=float("nan"))


def test_tables_that_are_refused():
    table = chain()
    with pytest.raises(ResultsError, match=r"no parts to choose from"):
        top_circuit(table.query("score > 9"), size=0)
    with pytest.raises(ResultsError, match=r"does not say its ablation"):
        bare = Attribution(table.frame, {"weights": "abc", "cluster": ["a", "b"]})
        top_circuit(bare, size=3)
    with pytest.raises(ResultsError, match=r"has 1 edges and 1 nodes"):
        top_circuit(attribution(["embed -> logits", "0.mlp"], [1.0, 2.0]), size=1)
    with pytest.raises(ResultsError, match=r"score of 'embed -> logits' at 'all' is NaN"):
        top_circuit(attribution(["embed -> logits"], [np.nan]), size=1)
    with pytest.raises(ResultsError, match=r"no edge of this table ends at the logits"):
        top_circuit(table.query("reader != 'logits'"), size=1)
    some = table.query("reader in ('logits', '1.kv1.k') and writer in ('embed', '0.0', '0.3')")
    with pytest.raises(ResultsError, match=r"heads \[0, 3\] and the key-value groups \[1\]"):
        top_circuit(some, size=1)
    assert len(top_circuit(some, size=2, closure="none")) == 2
    with pytest.raises(Unsupported, match=r"'0.attn' is a part of heads.*closure='none'"):
        top_circuit(attribution(["0.attn -> logits"], [1.0]), size=1)


@pytest.mark.plain
def test_seventy_five_thousand_edges():
    """Those of 31 layers of nine heads in three groups; the table is made of text, fast."""
    layers, heads, groups = 31, 9, 3
    writers, pairs = ["embed"], []
    for layer in range(layers):
        inputs = [f"{layer}.{head}.q" for head in range(heads)]
        inputs += [f"{layer}.kv{group}.{kind}" for kind in "kv" for group in range(groups)]
        pairs += [(writer, reader) for reader in inputs for writer in writers]
        writers += [f"{layer}.{head}" for head in range(heads)]
        pairs += [(writer, f"{layer}.mlp") for writer in writers]
        writers.append(f"{layer}.mlp")
    pairs += [(writer, "logits") for writer in writers]
    assert len(pairs) > 75_000
    writer, reader = zip(*pairs, strict=True)
    frame = pd.DataFrame({"method": "eap", "site": [f"{w} -> {r}" for w, r in pairs]})
    frame = frame.assign(position="all", writer=writer, reader=reader, metric="logit_diff")
    frame = frame.assign(score=np.random.default_rng(0).normal(size=len(pairs)), each=0.0)
    table = Attribution(frame, {**WHERE, "cluster": ["a"]})
    wires = Wires.of(frame)
    order = np.fromiter(wires.greedy(np.abs(table.scores)), dtype=int)
    found = top_circuit(table, fraction=0.05)
    assert sorted(order) == list(range(len(pairs)))
    assert wires.connected(order).all()
    assert 0 < len(found) <= len(pairs) / 20
