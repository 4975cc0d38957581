"""Running circuits: what the table says, and what is refused before anything runs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import interp
from interp.circuits.proof.optimal import fit_optimal
from interp.circuits.proof.run import run_circuits
from interp.core.door.door import ArgumentError
from interp.core.errors import (
    InterpError,
    MetricError,
    PositionError,
    ResultsError,
    SiteError,
    Unsupported,
)
from interp.core.parts.circuit import Circuit, Part
from interp.core.parts.graph import Graph, nodes
from interp.engine.circuits.constants import Constants
from interp.engine.interventions import Intervention, Set


@pytest.fixture
def model(tiny_model):
    """Grouped queries, rotary positions."""
    return tiny_model("llama")


def circuit(model, parts, ablation="resample", granularity="edges"):
    return Circuit.of(parts, model=model.weight_hash, ablation=ablation, granularity=granularity)


def test_the_table(model, pairs, caplog):
    edges = Graph.of(model.facts).edges
    direct = circuit(model, ["embed -> logits"])
    lost = circuit(model, ["0.1 -> logits", "0.0 -> 1.0.q"])
    found = run_circuits(
        model,
        pairs,
        {"direct": direct, "lost": lost, "all": circuit(model, edges)},
        metric=("logit_diff", "kl"),
    )
    frame = found.frame
    assert len(frame) == 2 * 3 * len(pairs)
    one = frame.drop_duplicates("site").set_index("site")
    assert one["size"].to_dict() == {"direct": 1, "lost": 2, "all": len(edges)}
    assert one["connected"].to_dict() == {"direct": True, "lost": False, "all": True}
    assert "No kept path leads from the embedding to the logits in 'lost'" in caplog.text
    assert np.allclose(frame["effect"], frame["value"] - frame["base"])
    clean = interp.evaluate(model, pairs, metric="logit_diff").query("position == 'clean'")
    assert np.allclose(frame["base"][: len(pairs)], clean.frame["value"])
    corrupt = interp.evaluate(model, pairs, metric="logit_diff").query("position == 'corrupt'")
    # nothing reaches 0.1 from the embedding, so it says what it says in the corrupt run
    ablated = frame[(frame["site"] == "lost") & (frame["metric"] == "logit_diff")]["value"]
    assert np.allclose(ablated, corrupt.frame["value"])
    assert found.provenance["ablation"] == "resample"
    assert found.summary()["n"].eq(len(pairs)).all()


def test_each_circuit_says_where_it_is(model, pairs):
    edges = Graph.of(model.facts).edges
    named = {
        "late": circuit(model, [Part(edges[-1], "late"), Part(edges[-2], "end")]),
        "rest": circuit(model, [Part(edges[-1], "rest")]),
        "all": circuit(model, edges[-1:]),
        "none": circuit(model, []),
    }
    found = run_circuits(model, pairs, named).frame.drop_duplicates("site")
    places = found.set_index("site")["position"].to_dict()
    assert places == {"late": "end, late", "rest": "rest", "all": "all", "none": "all"}


def test_what_is_refused(model, pairs, tiny_model):
    one = circuit(model, ["0.1 -> logits"])
    with pytest.raises(ResultsError, match=r"of a model with weights abc.*another model"):
        run_circuits(model, pairs, Circuit.of(["0.1 -> logits"], model="abc"))
    with pytest.raises(ResultsError, match=r"mapping of circuits is empty"):
        run_circuits(model, pairs, {})
    with pytest.raises(Unsupported, match=r"\['resample', 'zero'\] stand in one call"):
        run_circuits(model, pairs, {"a": one, "b": circuit(model, ["0.1 -> logits"], "zero")})
    with pytest.raises(Unsupported, match=r"'optimal'.*fit_optimal"):
        run_circuits(model, pairs, circuit(model, ["0.1 -> logits"], "optimal"))
    with pytest.raises(
        ArgumentError, match=r"reference='both'; reference is one of 'clean', 'corrupt'"
    ):
        run_circuits(model, pairs, circuit(model, ["0.1 -> logits"], "mean"), reference="both")
    with pytest.raises(SiteError, match=r"'9.1 -> logits' is no edge of this graph"):
        run_circuits(model, pairs, circuit(model, ["9.1 -> logits"]))
    with pytest.raises(SiteError, match=r"'9.1' is no node of this graph"):
        run_circuits(model, pairs, circuit(model, ["9.1"], granularity="nodes"))
    with pytest.raises(PositionError, match=r"no position 'there'"):
        run_circuits(model, pairs, circuit(model, ["0.1 -> logits @ there"]))
    with pytest.raises(InterpError, match=r"memory=0"):
        run_circuits(model, pairs, one, memory=0)
    headless = tiny_model("bert-headless")
    with pytest.raises(Unsupported, match=r"has no logits.*circuit of nodes"):
        run_circuits(headless, pairs, circuit(headless, ["0.1 -> 1.mlp"]), metric="cosine")


def test_nodes_of_a_model_without_logits(tiny_model, pairs):
    model = tiny_model("bert-headless")
    every = nodes(model.facts)
    kept = {
        "all": circuit(model, every, "zero", "nodes"),
        "half": circuit(model, every[::2], "zero", "nodes"),
    }
    found = run_circuits(model, pairs, kept, metric="cosine").frame
    whole = found[found["site"] == "all"]
    assert np.allclose(whole["value"], 1)
    rest = interp.ablate(model, pairs, {"rest": list(every[1::2])}, method="zero", metric="cosine")
    assert np.allclose(found[found["site"] == "half"]["value"], rest.frame["value"], atol=1e-9)


@pytest.mark.plain
def test_constants_that_are_fitted(tiny_model, pairs):
    """They lose less than means do, and the run with them has the loss that the fit says."""
    model = tiny_model("llama")
    edges = Graph.of(model.facts).edges
    kept = circuit(model, edges[::2], "optimal")
    fit = fit_optimal(model, pairs, kept, metric="kl", steps=8)
    assert fit.losses.min() < 0.9 * fit.losses[0]
    again = fit_optimal(model, pairs, kept, metric="kl", steps=8)
    assert np.array_equal(fit.losses, again.losses)
    found = run_circuits(model, pairs, kept, reference=fit.constants, metric="kl").frame
    assert found["value"].mean() == pytest.approx(fit.losses.min(), rel=1e-9)


@pytest.mark.parametrize("family", ["llama", "gemma2-window"])
def test_constants_are_set_where_a_circuit_is_cut(tiny_model, pairs, family):
    """Through the masked pass and through joint interventions, against values of one's own."""
    model = tiny_model(family)
    facts, draw = model.facts, torch.Generator().manual_seed(0)
    like = {"generator": draw, "dtype": torch.float64}
    made = Constants(
        torch.randn(facts.d_model, **like),
        torch.randn(facts.n_layers, facts.n_heads, facts.d_head, **like),
        torch.randn(facts.n_layers, facts.d_model, **like),
        model.weight_hash,
    )
    every = nodes(facts)
    kept = circuit(model, every[::3], "optimal", "nodes")
    found = run_circuits(model, pairs, kept, reference=made).frame
    cut = []
    for site in set(every) - set(every[::3]):
        value = made.mlp_out[site.layer] if site.head is None else made.z[site.layer, site.head]
        cut.append(Intervention(site, Set(value.expand(*pairs.clean.shape, -1))))
    slow = interp.intervene(model, pairs, {"cut": cut}).frame
    assert np.allclose(found["value"], slow["value"], atol=1e-9)
    with pytest.raises(Unsupported, match=r"fitted on a model with weights abc"):
        run_circuits(model, pairs, kept, reference=replace(made, model="abc"))


def test_what_cannot_be_fitted(tiny_model, pairs):
    model = tiny_model("llama")
    kept = circuit(model, Graph.of(model.facts).edges[::3], "optimal")
    fit = fit_optimal(model, pairs, kept, steps=1, metric="logit_diff")
    assert fit.losses[1] < fit.losses[0]
    with pytest.raises(Unsupported, match=r"ablation is 'zero'"):
        fit_optimal(model, pairs, circuit(model, ["0.1 -> logits"], "zero"))
    with pytest.raises(MetricError, match=r"does not depend on the constants"):
        fit_optimal(model, pairs, circuit(model, Graph.of(model.facts).edges, "optimal"), steps=1)


@pytest.mark.plain
@pytest.mark.parametrize("kept", [slice(0, 1), slice(1, 2), slice(-1, None)])
def test_a_resumed_run_keeps_its_null(kept, model, pairs, tmp_path):
    """Whichever batches were finished: table and provenance are those of an unbroken run."""
    edges = Graph.of(model.facts).edges
    named = {f"{n}": circuit(model, edges[:n]) for n in range(1, 9)}
    options = {"memory": 600_000, "metric": ("logit_diff", "kl")}
    unbroken = run_circuits(model, pairs, named, checkpoint=tmp_path, **options)
    files = sorted(tmp_path.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
    assert len(files) > 3
    for path in set(files) - set(files[kept]):
        path.unlink()
    resumed = run_circuits(model, pairs, named, checkpoint=tmp_path, **options)
    assert resumed.provenance == unbroken.provenance
    assert resumed.frame.equals(unbroken.frame)
    assert sorted(tmp_path.glob("*.safetensors")) == sorted(files)
