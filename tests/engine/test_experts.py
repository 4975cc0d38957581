"""Mixtures of experts on replay, as MLPs whose neurons are those of all experts.

The truth is plain transformers, and the oracle, which routes token by token; drawn interventions
on mixtures are in `test_agreement.py`.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import transformers as hf
from mixtures import FAMILIES, PAIRS, SHARED, TOKENS, plain
from oracle import Oracle
from slopes import sides, slope

import interp
from interp.core.errors import Unsupported
from interp.core.parts.sites import Site, resolve
from interp.engine.engines.choose import choose, weights_of
from interp.engine.engines.verified import replay_gap
from interp.engine.interventions import Add, Intervention, Set
from interp.engine.network import forward
from interp.engine.network.experts import Mixture
from interp.engine.network.weights import MLP, Block, Weights, read

COUNTS = {"mixtral": (3, 14), "qwen3-moe": (5, 7), "olmoe": (5, 14), "gpt-oss": (4, 14)}
COUNTS |= {"qwen2-moe": (5, 7), "flex-olmo": (5, 14)}
"""Experts, and the neurons of each."""


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_replay_and_the_oracle_are_hugging_face(tiny_model, family):
    model = tiny_model(family)
    said = plain(model, family)(TOKENS, output_hidden_states=True)
    logits, acts = Oracle(plain(model, family)).forward(TOKENS)
    assert (logits - said.logits).abs().max() < 1e-12
    served = choose(model, "replay", longest=TOKENS.shape[1])
    trace = served.trace(TOKENS, keep=("resid_pre",))
    ours = forward.unembed(weights_of(model), trace.final.flatten(0, 1)[None])
    assert (ours.view_as(logits) - said.logits).abs().max() < 1e-9
    for layer in range(3):
        truth = said.hidden_states[layer]
        assert (acts[f"{layer}.resid_pre"] - truth).abs().max() < 1e-12
        assert (trace.kept["resid_pre"][layer] - truth).abs().max() < 1e-9


@pytest.mark.parametrize("family", FAMILIES)
def test_neurons_are_those_of_all_experts(tiny_model, family):
    model, (count, width) = tiny_model(family), COUNTS[family]
    assert model.facts.d_mlp == count * width + SHARED.get(family, 0)
    assert len(resolve("neurons", model.facts)) == 3 * model.facts.d_mlp
    assert model.facts.n_experts == count
    shape = interp.shape_of(model.bridge.original_model.config, dtype="float64")
    assert shape.facts == model.facts


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_an_expert_is_its_neurons(tiny_model, family):
    """All of them set to zero: Hugging Face's model without what that expert writes."""
    model, (count, width) = tiny_model(family), COUNTS[family]
    sites = {
        f"expert {e}": [f"1.mlp[{n}]" for n in range(e * width, (e + 1) * width)]
        for e in range(count)
    }
    found = interp.ablate(model, PAIRS, sites, method="zero", engine="replay").frame
    effects = found["effect"].to_numpy().reshape(count, 2)
    for expert in range(count):
        hf = plain(model, family)
        hf.model.layers[1].mlp.experts.down_proj.data[expert] = 0
        end = hf(TOKENS).logits[:, -1]
        truth = end[[0, 1], [3, 5]] - end[[0, 1], [4, 6]]
        values = found["value"].to_numpy().reshape(count, 2)[expert]
        assert np.abs(values - truth.numpy()).max() < 1e-9
    assert (np.abs(effects).max(1) > 1e-6).sum() >= 2  # some may be nobody's choice


@pytest.mark.parametrize("family", FAMILIES)
def test_experts_for_their_tokens_alone_are_all_of_them_weighted(tiny_model, family):
    """With and without gradients, which are those of differences."""
    p = weights_of(tiny_model(family)).blocks[1].mlp
    width = tiny_model(family).facts.d_model
    x = torch.randn(11, width, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        dense = forward.experts(x, p).sum(-2)
        if p.down.shared is not None:
            dense = dense + p.down.shared(forward.hidden(x, p)[:, -SHARED[family] :])
        assert (forward.made(x, p) - dense).abs().max() < 1e-12
        if p.down.biases is None:
            assert (p.down(forward.hidden(x, p)) - dense).abs().max() < 1e-12
        some = torch.tensor([0, 9, p.down.inputs - 1])
        few = forward.hidden(x, p, neurons=some)
        assert (few - forward.hidden(x, p).index_select(-1, some)).abs().max() < 1e-12
    assert torch.autograd.gradcheck(lambda y: forward.mlp(y, p), x.requires_grad_())


@pytest.mark.parametrize("family", FAMILIES)
def test_attribution_is_the_derivative(tiny_model, family):
    """Of the metric, along a writer's change, through every mixture after it."""
    model = tiny_model(family)
    found = interp.attribute(model, PAIRS, "nodes", method="atp")
    assert found.provenance["engine"] == "replay"
    for site in map(Site.parse, ("0.1", "0.mlp", "1.mlp")):
        clean, corrupt = sides(model, PAIRS, site)
        change = corrupt - clean
        truth = slope(model, PAIRS, site, lambda x, s=site, c=change: [Intervention(s, Add(x * c))])
        ours = found.each[found.frame["site"].tolist().index(str(site))]
        assert np.abs(ours - truth).max() < 1e-6
        assert np.abs(truth).max() > 1e-5


Change = Callable[[Mixture], Mixture]
BROKEN: dict[str, Change] = {
    "one expert more": lambda m: replace(m, router=replace(m.router, top=m.router.top + 1)),
    "weights of another sum": lambda m: replace(
        m, router=replace(m.router, whole=not m.router.whole, late=False)
    ),
    "experts exchanged": lambda m: replace(m, down=replace(m.down, stack=m.down.stack.flip(0))),
    "another router": lambda m: replace(
        m, router=replace(m.router, weight=m.router.weight.flip(0))
    ),
}


def broken(w: Weights, change: Change) -> Weights:
    def of(p: MLP) -> MLP:
        mixture = change(p.mixture)
        return replace(p, mixture=mixture, down=mixture.down)

    return replace(w, blocks=tuple(replace(block, mlp=of(block.mlp)) for block in w.blocks))


@pytest.mark.parametrize("change", BROKEN)
@pytest.mark.parametrize("family", FAMILIES)
def test_broken_mixtures_are_refused(tiny_model, family, change):
    for dtype in (torch.float64, torch.float32):
        model = tiny_model(family, dtype)
        assert replay_gap(model, read(model), 12) is None
        assert replay_gap(model, broken(read(model), BROKEN[change]), 12) is not None


@pytest.mark.parametrize(
    ("option", "value"), [("mlp_only_layers", [1]), ("decoder_sparse_step", 2)]
)
def test_layers_without_experts_run_through_hooks(option, value, tmp_path: Path):

    config = hf.Qwen3MoeConfig(**tiny.QWEN3_MOE, **{option: value})
    hf.Qwen3MoeForCausalLM(config).double().save_pretrained(tmp_path)
    model = interp.load(tmp_path, dtype=torch.float64)
    with pytest.raises(Unsupported, match=f"no {option}"):
        choose(model, "replay")
    assert choose(model).name == "hooks"


@pytest.mark.parametrize("family", FAMILIES)
def test_hooks_and_replay_agree(tiny_model, family):
    """On what both reach: heads, MLPs, edges and paths."""
    model, found = tiny_model(family), []
    for engine in ("replay", "hooks"):
        given = {"direction": "noise", "engine": engine}
        sites = ["0.1", "1.mlp", "0.mlp -> 2.1.q", "0.1 -> 1.mlp", "1.kv0.k"]
        cells = interp.patch(model, PAIRS, sites, **given).frame
        paths = interp.path_patch(
            model, PAIRS, senders=["0.2", "0.mlp"], receivers=["1.mlp"], **given
        ).frame
        values = [*cells["value"], *paths["value"]]
        found.append(np.array(values))
    assert np.abs(found[0] - found[1]).max() < 1e-9
    assert found[0].std() > 1e-6


OPTIONS = (
    {"swiglu_limit": 7.0},
    {"swiglu_alpha": 1.0},
    {"num_experts_per_tok": 1},
    {"num_experts_per_tok": 4},
    {"attention_bias": False},
    {"sliding_window": 10},
    {"layer_types": ["full_attention"] * 3},
    {"layer_types": ["sliding_attention"] * 3},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
    {"rms_norm_eps": 1e-2},
    {"head_dim": 8},
    {"tie_word_embeddings": True},
)


@pytest.mark.parametrize("option", OPTIONS, ids=str)
@torch.no_grad()
def test_options_of_gpt_oss(option, tmp_path: Path):
    """Each is what Hugging Face makes of it, and changes something."""
    base = tiny.build("gpt-oss").double()
    other = hf.GptOssForCausalLM(hf.GptOssConfig(**tiny.GPT_OSS | option)).double().eval()
    for config in (base.config, other.config):
        config._experts_implementation = "eager"  # fused kernels have no float64
    if shapes(other) == shapes(base):
        other.load_state_dict(base.state_dict())
        assert (other(TOKENS).logits - base(TOKENS).logits).abs().max() > 1e-9
    other.save_pretrained(tmp_path)
    model = interp.load(tmp_path, dtype=torch.float64)
    truth = plain(model, "gpt-oss")(TOKENS).logits[:, -1]
    for engine in ("replay", "hooks"):
        found = interp.evaluate(model, PAIRS, metric="logit_diff", engine=engine).frame
        ours = found[found["position"] == "clean"]["value"].to_numpy()
        wanted = truth[[0, 1], [3, 5]] - truth[[0, 1], [4, 6]]
        assert np.abs(ours - wanted.numpy()).max() < 1e-10


def shapes(model: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def test_a_sink_has_the_rest_of_a_pattern(tiny_model):
    """Said of a model's facts; patterns that are written may sum to less than 1, not to more."""
    model = tiny_model("gpt-oss")
    assert model.facts.sinks
    assert not tiny_model("mixtral").facts.sinks
    sums = interp.capture(model, PAIRS, "1.2.pattern")["1.2.pattern"].sum(-1)
    assert (sums < 0.99).all()
    assert (sums > 0).all()
    for engine in ("replay", "hooks"):
        given = {"method": "resample", "engine": engine}
        assert interp.ablate(model, PAIRS, "1.2.pattern", **given).frame["effect"].abs().max() > 0
    zero = interp.ablate(model, PAIRS, ["1.2.pattern", "1.2"], method="zero").frame["value"]
    assert np.abs(zero.to_numpy()[:2] - zero.to_numpy()[2:]).max() < 1e-12
    double = Intervention("1.2.pattern", Set(torch.ones(11)))
    with pytest.raises(Unsupported, match="sums to 11 over the keys.* not to 1 or less"):
        interp.intervene(model, PAIRS, {"twice": [double]})


PARTS: dict[str, Callable[[Block], Block]] = {
    "sinks": lambda b: replace(b, attention=replace(b.attention, sinks=None)),
    "sinks of other heads": lambda b: replace(
        b, attention=replace(b.attention, sinks=b.attention.sinks.flip(0))
    ),
    "a window": lambda b: replace(b, attention=replace(b.attention, window=None)),
    "biases": lambda b: mixed(b, lambda m: replace(m, down=replace(m.down, biases=None))),
    "biases of gates": lambda b: mixed(b, lambda m: replace(m, gate=replace(m.gate, biases=None))),
    "a clamp": lambda b: mixed(b, lambda m: replace(m, lift=lambda x: x + 1)),
    "a router's bias": lambda b: mixed(
        b, lambda m: replace(m, router=replace(m.router, bias=None))
    ),
}


def mixed(block: Block, change: Change) -> Block:
    mixture = change(block.mlp.mixture)
    return replace(block, mlp=replace(block.mlp, mixture=mixture, down=mixture.down))


@pytest.mark.parametrize("part", PARTS)
def test_gpt_oss_without_a_part_is_refused(tiny_model, part):
    model = tiny_model("gpt-oss")
    w = read(model)
    assert replay_gap(model, w, 12) is None
    assert replay_gap(model, replace(w, blocks=tuple(map(PARTS[part], w.blocks))), 12) is not None
