"""The same questions put to TransformerLens' own patching, wherever it answers them.

The models are in float64. TransformerLens keeps its sweeps in float32, so 1e-6 is as near as its
numbers come; the effects that are compared are far larger.
"""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor
from transformer_lens import ActivationCache, patching
from transformer_lens.tools.analysis import attribution_patch

import interp
from interp.core.metrics import METRICS
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs
from interp.engine.interventions import Cell, Intervention, Resample
from interp.engine.sweep.run import run
from interp.engine.sweep.sweep import Sweep
from interp.models.model import Model

pytestmark = pytest.mark.sampled(4)

TOLERANCE = 1e-6
ENGINES = ("replay", "hooks")
SWEPT = ("gpt2", "llama", "qwen3")


@pytest.fixture
def chosen(pairs) -> Pairs:
    """Two pairs of one length and without padding: TransformerLens knows of no other."""
    return pairs.select([1, 3])


@torch.no_grad()
def cached(model: Model, tokens: Tensor) -> ActivationCache:
    return model.bridge.run_with_cache(tokens)[1]


def logit_diff(pairs: Pairs) -> Callable[[Tensor], Tensor]:
    """The same answers at the same position, one number a prompt."""
    rows = torch.arange(len(pairs))

    def metric(logits: Tensor) -> Tensor:
        last = logits[rows, pairs.at("end")]
        return last[rows, pairs.correct] - last[rows, pairs.wrong]

    return metric


@torch.no_grad()
def theirs(model: Model, pairs: Pairs, sweep: Callable) -> np.ndarray:
    """Their sweep of clean values into the corrupt run: effects by its own axes, then example."""
    clean = cached(model, pairs.clean)
    found = sweep(
        model.bridge, pairs.corrupt, clean, logit_diff(pairs), reduce="none", baseline=True
    )
    return (found.values - found.baseline).numpy()


def ours(
    model: Model, pairs: Pairs, sites: Sequence[str], positions: str, engine: str
) -> np.ndarray:
    """Effects by site, position and example; sites in the order that they are given."""
    found = interp.patch(
        model, pairs, sites, positions=positions, direction="denoise", engine=engine
    ).frame
    n = 1 if positions == "all" else int(pairs.lengths[0])
    by_site = found["effect"].to_numpy().reshape(n, len(sites), len(pairs)).swapaxes(0, 1)
    at = {site: i for i, site in enumerate(found["site"][:: len(pairs)][: len(sites)])}
    return by_site[[at[site] for site in sites]]


def parts(model: Model, kind: str) -> list[str]:
    """Layer by layer; keys and values by group, as TransformerLens counts them too."""
    facts = model.facts
    names = {
        "z": [f"{h}" for h in range(facts.n_heads)],
        "q": [f"{h}.q" for h in range(facts.n_heads)],
        "k": [f"kv{g}.k" for g in range(facts.n_kv_heads)],
        "v": [f"kv{g}.v" for g in range(facts.n_kv_heads)],
        "pattern": [f"{h}.pattern" for h in range(facts.n_heads)],
    }.get(kind, [kind])
    return [f"{layer}.{name}" for layer in range(facts.n_layers) for name in names]


STREAMS = {
    "resid_pre": patching.get_act_patch_resid_pre,
    "resid_mid": patching.get_act_patch_resid_mid,
    "attn": patching.get_act_patch_attn_out,
    "mlp": patching.get_act_patch_mlp_out,
}
HEADS = {
    "z": patching.get_act_patch_attn_head_out_all_pos,
    "q": patching.get_act_patch_attn_head_q_all_pos,
    "k": patching.get_act_patch_attn_head_k_all_pos,
    "v": patching.get_act_patch_attn_head_v_all_pos,
    "pattern": patching.get_act_patch_attn_head_pattern_all_pos,
}
HEADS_BY_POSITION = {
    "z": patching.get_act_patch_attn_head_out_by_pos,
    "k": patching.get_act_patch_attn_head_k_by_pos,
    "pattern": patching.get_act_patch_attn_head_pattern_by_pos,
}


@pytest.mark.plain
@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("family", SWEPT)
def test_streams_and_writes_by_position(tiny_model, chosen, family, kind):
    model = tiny_model(family)
    truth = theirs(model, chosen, STREAMS[kind])  # layer, position, example
    for engine in ENGINES:
        found = ours(model, chosen, parts(model, kind), "each", engine)
        assert found.shape == truth.shape
        assert np.abs(found - truth).max() < TOLERANCE
    assert np.abs(truth).max() > 1e-3


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("family", SWEPT)
def test_heads_at_all_positions(tiny_model, chosen, family, kind):
    """Outputs, queries, keys and values, and patterns, whose write is live on these models."""
    model = tiny_model(family)
    truth = theirs(model, chosen, HEADS[kind])  # layer, head or group, example
    for engine in ENGINES:
        found = ours(model, chosen, parts(model, kind), "all", engine)
        assert np.abs(found.reshape(truth.shape) - truth).max() < TOLERANCE
    assert np.abs(truth).max() > 1e-4


@pytest.mark.plain
@pytest.mark.parametrize("kind", HEADS_BY_POSITION)
@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_heads_by_position(tiny_model, chosen, family, kind):
    """The destination of a pattern is our position."""
    model = tiny_model(family)
    truth = theirs(model, chosen, HEADS_BY_POSITION[kind])
    if kind == "pattern":
        truth = truth.swapaxes(1, 2)
    layers, positions, heads, examples = truth.shape
    assert positions == 9
    found = ours(model, chosen, parts(model, kind), "each", "replay")
    found = found.reshape(layers, heads, positions, examples).swapaxes(1, 2)
    assert np.abs(found - truth).max() < TOLERANCE


DIRECT = [
    *((family, kind) for family in ("gpt2", "neox") for kind in "qkv"),
    *((family, "q") for family in ("llama", "qwen3")),
    *(("llama-mha", kind) for kind in "kv"),
]


@pytest.mark.plain
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("family", "kind"), DIRECT)
def test_direct_paths(tiny_model, chosen, family, kind):
    """One head's clean output, as one query, key or value of the corrupt run reads it."""
    model = tiny_model(family)
    metric = logit_diff(chosen)
    effects = []
    for sender in ((0, 1), (1, 0)):
        with torch.no_grad():
            truth = patching.get_act_patch_direct_path(
                model.bridge,
                chosen.corrupt,
                cached(model, chosen.clean),
                cached(model, chosen.corrupt),
                lambda logits: metric(logits).mean(),
                *sender,
                component=kind,
                verbose=False,
            )
        for layer in range(sender[0] + 1, model.facts.n_layers):
            for head in range(model.facts.n_heads):
                found = interp.path_patch(
                    model,
                    chosen,
                    senders=f"{sender[0]}.{sender[1]}",
                    receivers=f"{layer}.{head}.{kind}",
                    through="direct",
                    direction="denoise",
                    engine=ENGINES[head % 2],  # a query head's own key is its group's here
                ).frame
                effects.append(found["effect"].abs().max())
                assert abs(found["value"].mean() - truth[layer, head].item()) < TOLERANCE
        # rows of earlier layers are zeros that stand for nothing; there is no such path here
        assert (truth[: sender[0] + 1] == 0).all()
    assert max(effects) > 1e-4


def test_they_refuse_keys_of_groups_and_we_do_not(tiny_model, chosen):
    model = tiny_model("llama")
    caches = cached(model, chosen.clean), cached(model, chosen.corrupt)
    with pytest.raises(ValueError, match=r"(?i)gqa|key_value|grouped"):
        patching.get_act_patch_direct_path(
            model.bridge, chosen.corrupt, *caches, lambda x: x.mean(), 0, 0, component="k"
        )
    found = interp.path_patch(
        model, chosen, senders="0.0", receivers=["1.0.k", "2.kv1.v"], through="direct"
    )
    assert found.frame["effect"].abs().max() > 1e-6


def resampled(model: Model, pairs: Pairs, site: str, engine: str) -> np.ndarray:
    at = Site.parse(site)
    cell = Cell(site, "all", (Intervention(at, Resample("clean")),), site=at)
    sweep = Sweep(model, pairs, [cell], "patch", "corrupt", (METRICS["logit_diff"],), engine)
    return run(sweep).frame["effect"].to_numpy()


@pytest.mark.plain
@pytest.mark.parametrize("family", ["opt", "gptj", "bert"])
def test_patterns_that_they_silently_leave_alone(tiny_model, chosen, family):
    """Their sweep returns the unpatched run in every cell, and says nothing; ours acts."""
    model = tiny_model(family)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        truth = theirs(model, chosen, patching.get_act_patch_attn_head_pattern_all_pos)
    assert truth.shape == (3, 6, 2)
    assert (truth == 0).all()
    assert not [w for w in said if "hook" in str(w.message)]
    for layer in range(3):
        replay, hooked = (resampled(model, chosen, f"{layer}.1.pattern", e) for e in ENGINES)
        assert np.abs(replay - hooked).max() < 1e-9
        assert np.abs(replay).max() > 1e-6


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("site", "part"),
    [
        ("enc.1.2.pattern", "encoder_blocks.1.attn"),
        ("dec.1.2.pattern", "decoder_blocks.1.self_attn"),
        ("dec.1.cross.2.pattern", "decoder_blocks.1.cross_attn"),
    ],
)
def test_patterns_that_they_leave_alone_in_two_stacks(tiny_model, chosen, site, part):
    """T5: their sweeps know no such blocks, and the hook that they would write at is not read."""
    model = tiny_model("t5")
    decoder = (4, 7, 2)
    ids = torch.tensor([[0, *decoder]]).expand(len(chosen), -1)
    hf = model.bridge.original_model

    def zero(pattern: Tensor, hook: object) -> Tensor:
        pattern[:, 2] = 0  # in place, as their setters write
        return pattern

    with torch.no_grad():
        plain = hf(input_ids=chosen.corrupt, decoder_input_ids=ids).logits
        with model.bridge.hooks(fwd_hooks=[(f"{part}.hook_pattern", zero)]):
            written = hf(input_ids=chosen.corrupt, decoder_input_ids=ids).logits
    assert torch.equal(plain, written)
    rows = {side: getattr(chosen, side) for side in ("clean", "corrupt", "correct", "wrong")}
    read = Pairs.from_tokens(**rows, decoder=decoder)
    assert np.abs(resampled(model, read, site, "hooks")).max() > 1e-8


@pytest.mark.parametrize("engine", ENGINES)
def test_node_attribution_where_the_model_is_linear(tmp_path, engine):
    """Two tokens whose embeddings hardly differ: any model is linear over so small a step."""
    hf = tiny.build("gpt2").double()
    embedding = hf.transformer.wte.weight.data
    step = torch.randn(embedding.shape[1], generator=torch.Generator().manual_seed(0))
    embedding[7] = embedding[5] + 1e-5 * step
    hf.save_pretrained(tmp_path)
    model = interp.load(tmp_path, dtype=torch.float64, device="cpu")
    clean, corrupt = torch.tensor([[1, 2, 5, 3, 4]]), torch.tensor([[1, 2, 7, 3, 4]])
    near = Pairs.from_tokens(clean=clean, corrupt=corrupt, correct=[9], wrong=[11])
    model.bridge.requires_grad_(True)  # it takes gradients of activations, which need a graph
    scores = attribution_patch(
        model.bridge, clean, corrupt, lambda logits: logits[0, -1, 9] - logits[0, -1, 11]
    ).node_scores
    model.bridge.requires_grad_(False)
    found = interp.patch(
        model, near, ["heads", "mlps"], positions="each", direction="denoise", engine=engine
    ).frame
    sites = {
        (
            f"{node.layer}.mlp" if node.head is None else f"{node.layer}.{node.head}",
            node.position,
        ): s
        for node, s in scores.items()
        if node.kind != "embed"
    }
    theirs = np.array([sites[line.site, int(line.position)] for line in found.itertuples()])
    assert len(theirs) == len(sites) == 3 * 4 * 5
    assert np.abs(theirs).max() > 1e-7
    assert np.abs(found["effect"] - theirs).max() < 1e-3 * np.abs(theirs).max()
