"""Models that read images: replay, hooks, Hugging Face and the oracle, and every method on them."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import tiny
import torch
import transformers as hf
from agreement import PROPERTIES
from cases import ORDINARY, drawn
from hypothesis import given
from hypothesis import strategies as st
from oracle import Oracle
from pictures import VISION, Pictures, pictures

import interp
from interp.circuits.proof.run import run_circuits
from interp.core.parts.circuit import Circuit
from interp.core.parts.graph import Graph
from interp.engine.engines.choose import choose, replay_of
from interp.engine.engines.replay.engine import Replay
from interp.engine.engines.verified import output, replay_gap
from interp.engine.network.trace import walk
from interp.models.bridge.precision import exact
from interp.models.model import Model

EXACT = 1e-12


@pytest.fixture(params=VISION)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def given_to(tiny_model) -> Callable[[str], Pictures]:
    return lambda family: pictures(family, tiny_model(family))


@pytest.fixture
def judge(oracle, given_to) -> Callable[[str], Oracle]:
    """The oracle, which is told the pixels of each patch."""

    def found(family: str) -> Oracle:
        judge: Oracle = oracle(family)
        judge.pixels.update(given_to(family).patches)
        return judge

    return found


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


@torch.no_grad()
def test_the_oracle_and_replay_are_hugging_face(family, tiny_model, judge, given_to):
    """Logits, streams and patterns, from the same pixels."""
    shown = given_to(family)
    raw = tiny.build(family).to(torch.float64)
    raw.set_attn_implementation("eager")
    exact(raw)
    truth = raw(pixel_values=shown.clean, output_hidden_states=True, output_attentions=True)
    logits, acts = judge(family).forward(shown.pairs.clean)
    assert far(logits[:, 0], truth.logits) < EXACT
    for layer, state in enumerate(truth.hidden_states[:-1]):
        assert far(acts[f"{layer}.resid_pre"], state) < EXACT
    for layer, patterns in enumerate(truth.attentions):
        for head in range(3):
            assert far(acts[f"{layer}.{head}.pattern"], patterns[:, head]) < EXACT
    engine = choose(tiny_model(family), "replay")
    assert isinstance(engine, Replay)
    final = walk(engine.weights, shown.pairs.clean, lambda *_: None, wanted=())
    assert far(output(engine.weights, final)[:, 0], truth.logits) < EXACT


@pytest.mark.filterwarnings("ignore:mean ablation")
def test_replay_serves_by_itself_and_computes_what_hooks_do(family, tiny_model, given_to):
    model, pairs = tiny_model(family), given_to(family).pairs
    found = {
        engine: interp.ablate(model, pairs, ["heads", "mlps"], method="mean", engine=engine)
        for engine in ("auto", "hooks")
    }
    assert set(found["auto"].frame["engine"]) == {"replay"}
    ours, theirs = (torch.tensor(found[e].frame["value"].to_numpy()) for e in found)
    assert far(ours, theirs) < 1e-9
    assert found["auto"].frame["effect"].abs().max() > 1e-3


def test_captured_is_the_oracle_s(family, tiny_model, judge, given_to):
    model, pairs = tiny_model(family), given_to(family).pairs
    acts = judge(family).forward(pairs.clean)[1]
    sites = ["embed", "1.resid_post", "2.mlp", "1.2", "0.1.q", "2.0.pattern"]
    found = interp.capture(model, pairs, sites, positions="all")
    for site in sites:
        assert far(found[site], acts[site]) < 1e-11, site


@pytest.mark.plain
@pytest.mark.parametrize("what", PROPERTIES)
@given(data=st.data())
@drawn(ORDINARY)
def test_drawn_cases_agree(data, what, tiny_model, judge, given_to):
    """Nodes, paths and edges at any sites and positions: replay, hooks and the oracle."""
    family = data.draw(st.sampled_from(VISION), label="family")
    PROPERTIES[what](data, tiny_model, judge, given_to(family).pairs, family)


@pytest.mark.plain
def test_a_circuit_by_masks_is_the_joint_ablation_of_the_rest(family, tiny_model, given_to):
    """Edges of which are held against the oracle above."""
    model, pairs = tiny_model(family), given_to(family).pairs
    kept = Graph.of(model.facts).edges[::2]
    circuit = Circuit.of(kept, model=model.weight_hash, ablation="resample", granularity="edges")
    found = run_circuits(model, pairs, circuit).frame
    found = found[(found["site"] == "circuit") & (found["metric"] == "logit_diff")]
    rest = {"rest": interp.complement(model, kept)}
    slow = interp.ablate(model, pairs, rest, method="resample").frame
    assert set(found["engine"]) == {"replay"}
    assert abs(found["value"].to_numpy() - slow["value"].to_numpy()).max() < 1e-9
    assert found["effect"].abs().min() > 1e-3


@pytest.mark.plain
def test_attribution_is_the_oracle_s_derivative(family, tiny_model, judge, given_to):
    """Of a part that goes from its clean to its corrupt value, at the beginning of the way."""
    model, pairs = tiny_model(family), given_to(family).pairs
    scores = interp.attribute(model, pairs, "nodes", method="atp")
    oracle = judge(family)
    clean, corrupt = (oracle.forward(ids)[1] for ids in (pairs.clean, pairs.corrupt))
    assert len(scores) == 3 * 3 + 3
    for site, each in zip(scores.frame["site"], torch.tensor(scores.each), strict=True):
        rows = torch.arange(len(pairs))

        def metric(t: torch.Tensor, site: str = site, rows: torch.Tensor = rows) -> torch.Tensor:
            def moved(name: str, x: torch.Tensor) -> torch.Tensor:
                way = corrupt[site] - clean[site]
                return x + t[:, None, None] * way if name == site else x

            logits = oracle.forward(pairs.clean, moved)[0][:, 0]
            return logits[rows, pairs.correct] - logits[rows, pairs.wrong]

        at = torch.zeros(len(pairs), dtype=torch.float64)
        slope = torch.func.jvp(metric, (at,), (torch.ones_like(at),))[1]
        assert far(each, slope) < 1e-10, site
    assert torch.tensor(scores.each).abs().max() > 1e-3


def test_patching_every_patch_is_the_other_image(family, tiny_model, given_to):
    """Whole, and one by one in a linear sense: equal patches carry nothing."""
    model, pairs = tiny_model(family), given_to(family).pairs
    whole = interp.patch(model, pairs, "embed", direction="noise", positions="all").frame
    other = interp.evaluate(model, pairs, metric="logit_diff").frame
    truth = other[other["position"] == "corrupt"]["value"].to_numpy()
    assert abs(whole["value"].to_numpy() - truth).max() < 1e-9
    one = interp.patch(model, pairs, "embed", direction="noise", positions=["cls", "r0c0"]).frame
    moved = one.groupby("position")["effect"].apply(list)
    assert max(map(abs, moved["cls"])) < 1e-15
    assert abs(moved["r0c0"][1]) < 1e-15
    assert min(map(abs, moved["r0c0"][:1] + moved["r0c0"][2:])) > 1e-6


def test_metrics_over_classes(family, tiny_model, judge, given_to):
    model, pairs = tiny_model(family), given_to(family).pairs
    logits = judge(family).forward(pairs.clean)[0][:, 0]
    rows = torch.arange(len(pairs))
    right = logits[rows, pairs.correct]
    truth = {
        "logit": right,
        "logit_diff": right - logits[rows, pairs.wrong],
        "prob": logits.softmax(-1)[rows, pairs.correct],
    }
    found = interp.evaluate(model, pairs, metric=list(truth)).frame
    found = found[found["position"] == "clean"]
    for name, value in truth.items():
        ours = torch.tensor(found[found["metric"] == name]["value"].to_numpy())
        assert far(ours, value) < 1e-11, name


def test_direct_attribution_adds_up_and_the_lens_ends_at_the_logits(family, tiny_model, given_to):
    model, pairs = tiny_model(family), given_to(family).pairs
    truth = interp.evaluate(model, pairs, metric="logit_diff").query("position == 'clean'")
    truth = truth.frame["value"].to_numpy()
    parts = interp.heads.direct_logit_attribution(model, pairs).frame
    added = parts.groupby("example")["value"].sum().to_numpy()
    assert abs(added - truth).max() < 1e-10
    lens = interp.heads.logit_lens(model, pairs).frame
    last = lens[lens["site"] == "2.resid_post"]["value"].to_numpy()
    assert abs(last - truth).max() < 1e-10


def test_a_wrong_embedding_is_found(family, tiny_model):
    model: Model = tiny_model(family)
    w = replay_of(model, 1)
    assert replay_gap(model, w, model.facts.n_ctx) is None
    weight = w.embed.patches.weight.clone()
    weight[:, 0] += 1e-6
    wrong = replace(w, embed=replace(w.embed, patches=replace(w.embed.patches, weight=weight)))
    gap = replay_gap(model, wrong, model.facts.n_ctx)
    assert gap is not None and gap.name == "the embedding"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions_are_verified(family, tiny_model, dtype, given_to):
    model = tiny_model(family, dtype)
    pairs = given_to(family).pairs
    found = interp.ablate(model, pairs, "heads", method="zero")
    assert set(found.frame["engine"]) == {"replay"}
    truth = interp.ablate(tiny_model(family), pairs, "heads", method="zero")
    near = 1e-5 if dtype == torch.float32 else 0.1
    gap = found.frame["value"].to_numpy() - truth.frame["value"].to_numpy()
    assert abs(gap).max() < near


@pytest.mark.parametrize(
    "options",
    [
        {"qkv_bias": False},
        {"hidden_act": "quick_gelu"},
        {"hidden_act": "gelu_new"},
        {"layer_norm_eps": 0.3},
        {"image_size": [4, 9], "patch_size": [2, 3]},
        {"image_size": 8, "patch_size": 3, "num_channels": 4},
        {"num_labels": 2},
        {"hidden_size": 15, "intermediate_size": 7},
        # which change nothing that is computed here
        {"encoder_stride": 3, "pooler_act": "relu"},
        {"hidden_dropout_prob": 0.4, "attention_probs_dropout_prob": 0.4},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["ViT", "DeiT"])
@torch.no_grad()
def test_every_option_is_served(kind, options):
    config = getattr(hf, f"{kind}Config")(**tiny.VIT | options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        raw = getattr(hf, f"{kind}ForImageClassification")(config).double().eval()
        for parameter in raw.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    own = copy.deepcopy(raw)  # the model sees what is put on it
    model = interp.load(own)
    of = model.facts.image
    images = torch.rand(2, of.channels, of.height, of.width, dtype=torch.float64)
    pairs = interp.Pairs.from_images(model, clean=images, corrupt=images.flip(0), correct=[0, 1])
    raw.set_attn_implementation("eager")
    exact(raw)
    truth = raw(pixel_values=images).logits
    right = truth.gather(1, pairs.correct[:, None])[:, 0]
    for engine in ("replay", "hooks"):
        found = interp.evaluate(model, pairs, metric="logit", engine=engine).frame
        ours = torch.tensor(found[found["position"] == "clean"]["value"].to_numpy())
        assert far(ours, right) < 1e-11, engine
