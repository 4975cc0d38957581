"""Circuits: text and back, set operations, files, and what is refused; the graph of a model."""

import json
from dataclasses import replace

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from interp.core.errors import ResultsError, SiteError
from interp.core.files.identity import identity
from interp.core.files.sealed import write_note
from interp.core.parts.circuit import Circuit, Part
from interp.core.parts.edges import Edge, edges
from interp.core.parts.facts import Facts
from interp.core.parts.graph import Graph, nodes
from interp.core.parts.sites import Site
from interp.core.tables.attribution import Attribution

GROUPED = Facts(
    architecture="LlamaForCausalLM",
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
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
EDGES = ["0.1 -> 1.2.q", "embed -> logits", "0.mlp -> 1.kv1.k"]


def circuit(parts=EDGES, **options):
    return Circuit.of(parts, **{"model": "abc", **options})


def test_a_graph_has_the_edges_that_the_selector_has():
    graph = Graph.of(GROUPED)
    assert graph.edges == tuple(edges("edges", GROUPED))
    assert len(graph.writers) == 1 + 8 + 2
    assert len(graph.readers) == 2 * (4 + 2 + 2 + 1) + 1
    assert all(
        Edge(graph.writers[w], graph.readers[r]) == edge
        for edge in graph.edges
        for r, w in [graph.at(edge)]
    )
    assert len(nodes(GROUPED)) == 10


@pytest.mark.parametrize("edge", ["0.1 -> 1.2.k", "1.1 -> 0.2.q", "0.attn -> 1.mlp"])
def test_a_graph_refuses_other_edges(edge):
    with pytest.raises(SiteError, match=r"no edge of this graph, which has \d+ edges.*23.kv1.k"):
        Graph.of(GROUPED).at(Edge.parse(edge))


@pytest.mark.parametrize("text", ["20.1 -> 23.3.q @ s2", "embed -> logits", "23.3 @ end", "4.mlp"])
def test_parts_are_text(text):
    assert str(Part.parse(text)) == text


def test_sets():
    one, other = circuit(), circuit([*EDGES[:2], "1.3 -> logits"])
    assert (one | other).parts == one.parts | other.parts
    assert [str(p) for p in (one - other).parts] == [EDGES[2]]
    assert len(one & other) == 2 and one.jaccard(other) == 0.5
    assert one.holding(set()).jaccard(other.holding(set())) == 1.0
    assert "embed -> logits" in one and Edge.parse(EDGES[0]) in one
    assert "embed -> logits @ end" not in one
    assert circuit(["0.1"]).granularity == "nodes" and one.granularity == "edges"


def test_a_circuit_says_what_it_is():
    assert repr(circuit()) == "Circuit: 3 edges, the others ablated (resample, corrupt prompts)"
    assert "1 nodes at end" in repr(circuit(["0.1 @ end"]))
    assert "no edges are kept, so it is the ablated run" in repr(circuit().holding(set()))


def test_what_a_circuit_is_for_what_is_kept_of_it():
    one = identity(circuit())
    assert one == identity(circuit(EDGES[::-1]))
    others = [circuit(EDGES[:2]), circuit(model="b"), circuit(ablation="mean"), circuit(["0.1"])]
    assert len({one, *map(identity, others)}) == 5


@pytest.mark.parametrize(
    ("option", "value"),
    [("model", "b"), ("ablation", "mean"), ("corruption", "names exchanged")],
)
def test_circuits_that_differ_in_meaning_are_not_compared(option, value):
    with pytest.raises(ResultsError, match=f"differ in their {option}.*Discover both"):
        circuit() | circuit(**{option: value})
    with pytest.raises(ResultsError, match="granularity"):
        circuit().jaccard(circuit(["0.1"]))


def test_through_a_file(tmp_path):
    made = circuit(["0.1 @ end", "1.mlp @ s2"], ablation="mean", corruption="another name")
    assert Circuit.load(made.save(tmp_path / "a" / "c.json")) == made
    noted = replace(made, note="It keeps all")
    assert Circuit.load(noted.save(tmp_path / "noted.json")).note == "It keeps all"
    assert noted == made and not (noted | made).note
    with pytest.raises(ResultsError, match="no circuit at"):
        Circuit.load(tmp_path / "other.json")
    (tmp_path / "bad.json").write_text("[1]")
    with pytest.raises(ResultsError, match="bad.json cannot be read: it holds a list"):
        Circuit.load(tmp_path / "bad.json")
    note = json.loads((tmp_path / "a" / "c.json").read_text())
    write_note(tmp_path / "new.json", note | {"version": 9})
    with pytest.raises(ResultsError, match="circuit version 9"):
        Circuit.load(tmp_path / "new.json")


def test_a_file_that_was_changed_by_hand(tmp_path):
    path = circuit().save(tmp_path / "c.json")
    text = path.read_text().replace("0.1 -> 1.2.q", "0.2 -> 1.2.q")
    path.write_text(text)
    with pytest.raises(ResultsError, match=r'not as it was written.*take out its line "seal"'):
        Circuit.load(path)
    note = json.loads(text)
    del note["seal"]
    path.write_text(json.dumps(note))
    with pytest.warns(UserWarning, match="carries no checksum.*Save the circuit again"):
        assert "0.2 -> 1.2.q" in Circuit.load(path)


def test_what_is_no_circuit_is_refused(tmp_path):
    note = json.loads(circuit().save(tmp_path / "c.json").read_text())
    for odd in (
        {"version": 1},
        {"version": 1, "parts": []},
        note | {"more": 1},
        note | {"parts": 3},
        note | {"parts": [3]},
    ):
        write_note(tmp_path / "odd.json", odd)
        with pytest.raises(ResultsError, match="holds no circuit"):
            Circuit.load(tmp_path / "odd.json")
    with pytest.raises(ResultsError, match="holds no circuit"):
        Circuit.load(tmp_path)


def test_bad_circuits():
    with pytest.raises(SiteError, match=r"'0\.1' is none of the edges"):
        Circuit.of(["0.1"], model="a", granularity="edges")
    with pytest.raises(SiteError, match="empty circuit needs"):
        circuit([])
    with pytest.raises(SiteError, match=r"parts at 'all' positions and parts at \['end'\]"):
        circuit(["0.1", "0.2 @ end"])


def test_an_unknown_word_in_a_file_is_refused(tmp_path):
    note = json.loads(circuit().save(tmp_path / "c.json").read_text())
    write_note(tmp_path / "c.json", note | {"ablation": "mena"})
    with pytest.raises((ResultsError, TypeCheckError), match="mena"):
        Circuit.load(tmp_path / "c.json")


def attribution(each, parts=("0.1", "0.2 @ end", "1.0"), cluster=("a", "a", "b", "b")):
    return Attribution.of(
        [Part.parse(p) for p in parts],
        np.asarray(each, dtype=np.float32),
        cluster=cluster,
        method="exact",
        metric="logit_diff",
        provenance={"model": "tiny"},
    )


def test_attribution_keeps_every_example(tmp_path):
    made = attribution([[1, 2, 3, 4], [-9, -9, -9, -9], [0, 0, 0, 1]])
    assert made.scores.tolist() == [2.5, -9.0, 0.25]
    assert made.top(2)["site"].tolist() == ["0.2", "0.1"]
    assert made.top(1)[["low", "high"]].to_numpy().tolist() == [[-9.0, -9.0]]
    again = Attribution.load(made.save(tmp_path / "a.parquet"))
    assert np.array_equal(again.each, made.each) and again.parts == made.parts
    assert again.parts[1] == Part(Site.parse("0.2"), "end")
    assert again.cluster == ["a", "a", "b", "b"]


def test_attribution_is_resampled_by_whole_clusters():
    made = attribution([[1, 1, 5, 5]], parts=["0.1"])
    seen = {made.resampled(seed=seed).scores[0] for seed in range(20)}
    assert seen == {1.0, 3.0, 5.0}


def test_attributions_side_by_side():
    one, other = attribution(np.ones((3, 4))), attribution(np.zeros((2, 4)), parts=["1.0", "0.2"])
    assert one.beside(other)["site"].tolist() == ["1.0"]  # 0.2 stands elsewhere
    with pytest.raises(ResultsError, match="no part in common"):
        one.beside(attribution(np.zeros((1, 4)), parts=["0.mlp"]))
