"""Many sites at once: circuits and their complements, edges by name, interventions of one's own."""

import numpy as np
import pytest
import torch

import interp
from interp.core.errors import SiteError
from interp.core.parts.sites import Site
from interp.engine.circuits import masks
from interp.engine.circuits.passes import Passes
from interp.engine.interventions import Add, Cell, Hop, Intervention, Resample, Scale, Zero

ENGINES = ("replay", "hooks")


def values(results: interp.Results, name: str) -> np.ndarray:
    return results.query(f"site == {name!r}").frame["value"].to_numpy()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_circuit_and_its_complement(model, pairs, engine):
    """Nothing left gives the run with everything taken away; taking nothing away is refused."""
    circuit = ["0.1", "2.0", "1.mlp"]
    rest = interp.complement(model, circuit)
    assert not {str(site) for site in rest} & set(circuit)
    assert len(rest) + len(circuit) == model.facts.n_layers * (model.facts.n_heads + 1)
    found = interp.ablate(
        model,
        pairs,
        {"circuit": circuit, "rest": rest, "both": [*circuit, *rest], "every": ["heads", "mlps"]},
        method="zero",
        engine=engine,
    )
    assert list(dict.fromkeys(found.frame["site"])) == ["circuit", "rest", "both", "every"]
    assert set(found.frame["kind"]) == {"set"}
    assert found.frame[["layer", "head"]].isna().all().all()
    assert np.abs(values(found, "both") - values(found, "every")).max() < 1e-12
    assert np.abs(values(found, "circuit") - values(found, "rest")).max() > 1e-4
    with pytest.raises(SiteError, match=r"names no site"):
        interp.ablate(model, pairs, {"nothing": []}, method="zero")
    with pytest.raises(SiteError, match=r"mapping of sites is empty"):
        interp.ablate(model, pairs, {}, method="zero")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("engine", ENGINES)
def test_all_edges_of_a_writer_are_the_writer(model, pairs, engine):
    """Heads to every later reader; and every edge at once is the other run."""
    every = [str(edge) for edge in interp.complement(model, ["0.0 -> logits"])]
    of_head = ["0.0 -> logits", *(edge for edge in every if edge.startswith("0.0 -> "))]
    found = interp.patch(
        model, pairs, {"edges": of_head, "head": "0.0"}, direction="noise", engine=engine
    )
    assert np.abs(values(found, "edges") - values(found, "head")).max() < 1e-9
    if engine == "hooks" and model.facts.group_size == 1:
        return  # a forward for each reader: on one family, that with groups
    few = pairs.select([0, len(pairs) - 1])
    whole = interp.patch(model, few, {"all": "edges"}, direction="noise", engine=engine)
    other = interp.evaluate(model, few, metric="logit_diff").query("position == 'corrupt'")
    assert np.abs(values(whole, "all") - other.frame["value"]).max() < 1e-9


def test_an_edge_is_a_direct_path(model, pairs):
    edge = interp.patch(model, pairs, "0.1 -> 2.0.q", direction="noise", positions="mid")
    path = interp.path_patch(
        model, pairs, senders="0.1", receivers="2.0.q", through="direct", sender_positions="mid"
    )
    assert set(edge.frame["site"]) == {"0.1 -> 2.0.q"}
    assert np.abs(edge.frame["value"] - path.frame["value"]).max() < 1e-12


def test_a_head_as_a_reader_is_its_three_inputs(model, pairs):
    edges = interp.patch(model, pairs, "0.1 -> 2.0")
    assert list(dict.fromkeys(edges.frame["site"])) == [
        f"0.1 -> 2.0.{kind}" for kind in ("q", "k", "v")
    ]
    together = interp.patch(model, pairs, {"all three": "0.1 -> 2.0"}, direction="noise")
    path = interp.path_patch(model, pairs, senders="0.1", receivers="2.0", through="direct")
    assert np.abs(together.frame["value"] - path.frame["value"]).max() < 1e-9


def test_a_path_of_two_hops(model, pairs):
    """It is named from end to end, and is no more than its parts: 0 where the middle is frozen."""
    found = interp.path_patch(model, pairs, senders="0.1", via=["1.0.q"], receivers="2.mlp")
    assert set(found.frame["receiver"]) == {"1.0.q -> 2.mlp"}
    assert (found.frame["effect"].abs() > 0).any()
    through_everything = interp.path_patch(
        model, pairs, senders="0.1", via=["1.0.q"], receivers="logits", through="all"
    )
    set_alone = interp.path_patch(model, pairs, senders="0.1", receivers="1.0.q", through="all")
    assert np.abs(through_everything.frame["value"] - set_alone.frame["value"]).max() < 1e-9


@pytest.mark.parametrize("engine", ENGINES)
def test_interventions_of_ones_own(model, pairs, engine):
    """A vector that is added acts; a scale of 1 is nothing."""
    vector = torch.randn(*pairs.clean.shape, model.facts.d_model, dtype=torch.float64)
    site = Site.parse("2.resid_post")
    made = {
        "once": [Intervention(site, Add(vector), "end")],
        "same": [Intervention(site, Scale(1.0)), Intervention(Site.parse("0.1"), Scale(1.0))],
    }
    found = interp.intervene(model, pairs, made, engine=engine)
    assert (found.query("site == 'once'").frame["effect"].abs() > 1e-6).all()
    assert (found.query("site == 'same'").frame["effect"].abs() < 1e-12).all()
    head = [Intervention(Site.parse("0.1"), Zero())]
    hop = Hop((Site("logits"),), "direct")
    path = interp.intervene(model, pairs, {"direct": head}, hops=[hop], engine=engine)
    assert set(path.frame["receiver"]) == {"logits"}
    with pytest.raises(SiteError, match=r"layer 9 is outside 0 to 2"):
        interp.intervene(model, pairs, {"far": [Intervention(Site.parse("9.mlp"), Zero())]})
    with pytest.raises(SiteError, match=r"interventions={} names nothing to do"):
        interp.intervene(model, pairs, {})


MASKED = [
    ("patch", {"direction": "noise"}),
    ("patch", {"direction": "denoise"}),
    ("ablate", {"method": "zero"}),
    ("ablate", {"method": "mean"}),
]


@pytest.mark.sampled(16)
@pytest.mark.filterwarnings("ignore:mean ablation")
@pytest.mark.parametrize("positions", ["all", "mid", "after first", 3])
@pytest.mark.parametrize("method, how", MASKED)
def test_masks_find_what_waves_do(model, pairs, monkeypatch, method, how, positions):
    """Half of all edges, a quarter, and edges beside whole writers; two metrics of one run."""
    edges = [str(edge) for edge in interp.complement(model, ["0.0 -> logits"])]
    rng = np.random.default_rng(3)
    half, quarter = (list(rng.choice(edges, len(edges) // n, replace=False)) for n in (2, 4))
    mixed = ["1.2", *(edge for edge in quarter if not edge.startswith("1.2 -> "))]
    sets = {"half": half, "quarter": quarter, "mixed": mixed}
    found = {}
    for many in (0, 10**9):
        monkeypatch.setattr(masks, "MANY", many)
        found[many] = getattr(interp, method)(
            model, pairs, sets, positions=positions, metric=["logit_diff", "kl"], **how
        )
    by_mask, by_wave = (found[many].frame for many in (0, 10**9))
    assert by_mask.drop(columns=["base", "value", "effect"]).equals(
        by_wave.drop(columns=["base", "value", "effect"])
    )
    assert np.abs(by_mask["effect"]).max() > 1e-4
    for column in ("base", "value"):
        assert np.abs(by_mask[column] - by_wave[column]).max() < 1e-9
    assert found[0].provenance["null"] < 1e-9
    assert found[0].provenance["references"] == found[10**9].provenance["references"]


def test_masks_are_for_large_sets_of_edges_alone(model, pairs, monkeypatch):
    """Heads, single edges and paths go up as waves, and so does what masks cannot say."""
    facts = model.facts
    monkeypatch.setattr(masks, "MANY", 2)

    def of(*interventions, hops=()):
        return masks.masks_of([Cell("c", "all", interventions, hops)], facts, "clean")

    def edge(value, site="0.1", readers=("2.0.q", "2.mlp")):
        kinds = tuple(Site.parse(reader) for reader in readers)
        return Intervention(Site.parse(site), value, "all", kinds)

    assert of(edge(Zero())) is not None
    assert of(edge(Resample("corrupt"))).ablation == "resample"
    assert of(edge(Zero(), readers=("2.mlp",))) is None
    assert of(Intervention(Site.parse("0.1"), Zero())) is None
    assert of(edge(Resample("clean"))) is None
    assert of(edge(Scale(2.0))) is None
    assert of(edge(Zero()), edge(Resample("corrupt"), site="0.mlp")) is None
    assert of(edge(Zero(), site="1.mlp[3]")) is None
    monkeypatch.setattr(masks, "MOST", 10)  # bytes: fewer than one cell takes
    assert of(edge(Zero())) is None


def test_a_killed_run_of_masks_goes_on(model, pairs, monkeypatch, tmp_path):
    """And what was kept of waves is not handed out for it."""
    edges = [str(edge) for edge in interp.complement(model, ["0.0 -> logits"])]
    sets = {"some": edges[::3], "others": edges[1::3]}
    monkeypatch.setattr(masks, "MANY", 0)
    first = interp.patch(model, pairs, sets, checkpoint=tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    monkeypatch.setattr(Passes, "__init__", lambda *given, **named: pytest.fail("it ran again"))
    again = interp.patch(model, pairs, sets, checkpoint=tmp_path)
    assert again.frame.equals(first.frame)
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
