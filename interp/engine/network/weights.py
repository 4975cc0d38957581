"""The weights of a model as frozen dataclasses of tensors that share the bridge's storage.

One set of options covers every family: where the norms stand, how positions enter, what caps and
windows the scores. `read` takes them from the bridge's parts, which have the same names on
every architecture, and from the Hugging Face config.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.core.errors import Unsupported
from interp.core.parts.facts import Facts
from interp.core.parts.sites import Stack, absent
from interp.engine.network.experts import Each, Joined, Mixture, Router
from interp.engine.network.families import (
    ADJACENT,
    BY_KIND,
    CENTRED,
    FAMILIES,
    LOCAL,
    ROBERTAS,
    STILL,
    UNKNOWN,
    WINDOWED,
)
from interp.engine.network.linear import Linear, Map, Packed
from interp.engine.network.places import Angles, Slopes, inner, rotations, slopes
from interp.models.bridge import quantised
from interp.models.bridge.activations import Activation, activation
from interp.models.model import Model


@dataclass(frozen=True)
class Norm:
    """LayerNorm, or RMSNorm without mean and bias; Gemma's weight is an offset from 1."""

    kind: Literal["layer", "rms"]
    weight: Float[Tensor, " d"]
    bias: Float[Tensor, " d"] | None
    eps: float
    offset: float = 0.0


@dataclass(frozen=True)
class Ends:
    """The norms around a part: on what it reads, on what it writes, and on the sum with that.

    Pre-norm models have the first, Gemma's sandwich the first and second, OLMo 2 the second, BERT
    the third.
    """

    read: Norm | None
    write: Norm | None = None
    sum: Norm | None = None


Bias = Callable[
    [Int[Tensor, "batch query"], int],
    Float[Tensor, "batch head query key"],
]
"""From the positions of queries, and how many keys there are, to what is added to their scores."""


@dataclass(frozen=True)
class Attention:
    """Projections of one attention layer; `q k v` write heads (or groups) x d_head features.

    Attributes:
        q_norm, k_norm: of each head, or of all of them together where the weight is that wide.
        window: keys as far away as this, or further, are not seen.
        cap: scores pass through cap * tanh(score / cap).
        rotary: which of the model's rotations turns queries and keys; of none where it has none
            of that name.
        bias: what the distance of query and key adds to their score (T5).
        sinks: scores of each head for no key at all, beside those for keys (gpt-oss).
    """

    ends: Ends
    q: Map
    k: Map
    v: Map
    o: Map
    scale: float
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    window: int | None = None
    cap: float | None = None
    rotary: str = ""
    bias: Bias | None = None
    sinks: Float[Tensor, " head"] | None = None


@dataclass(frozen=True)
class MLP:
    """Two-matrix MLP, or gated when `gate` is there; its parts are those of `mixture`, if any."""

    ends: Ends
    gate: Map | Each | None
    up: Map | Each
    down: Map | Joined
    activation: Activation
    mixture: Mixture | None = None


@dataclass(frozen=True)
class Block:
    """One layer.

    Attributes:
        cross: a decoder's attention to what an encoder made, between its attention and its MLP;
            queries read the stream there, keys and values the encoder's last.
    """

    attention: Attention
    mlp: MLP
    cross: Attention | None = None

    @property
    def device(self) -> torch.device:
        """Where the layer lies; those of one model need not lie together."""
        return self.attention.o.device


@dataclass(frozen=True)
class Embedding:
    """Tokens times a scale, plus positions, plus a constant, normed.

    Attributes:
        skipped: a token that has no place of its own and is not counted: of all of them `positions`
            has row 0, and of the others the rows from 1 on (RoBERTa's and M2M100's padding).
        patches: of images: from the pixels of a patch to what stands at its position; `tokens` are
            then those before the patches.
    """

    tokens: Float[Tensor, "d_vocab d_model"]
    scale: float | None = None
    positions: Float[Tensor, "n_ctx d_model"] | None = None
    constant: Float[Tensor, " d_model"] | None = None
    norm: Norm | None = None
    skipped: int | None = None
    patches: Linear | None = None


@dataclass(frozen=True)
class Unembedding:
    """Final norm, a factor, the transform of a masked language model's head, unembedding, cap."""

    norm: Norm | None
    linear: Map
    transform: Map | None = None
    activation: Activation | None = None
    transform_norm: Norm | None = None
    cap: float | None = None
    scale: float | None = None


@dataclass(frozen=True)
class Weights:
    """A whole transformer, or one stack of an encoder-decoder.

    Attributes:
        interleaved: rotary pairs are (i, i + 1), else (i, i + d/2).
        slopes: makes the biases of ALiBi.
        stack: which of two it is; its `facts` are then those of the stack.
    """

    facts: Facts
    embed: Embedding
    rotary: dict[str, Angles]
    interleaved: bool
    blocks: Sequence[Block]
    unembed: Unembedding | None
    slopes: Slopes | None = None
    stack: Stack | None = None


@torch.inference_mode(mode=False)
@torch.no_grad()
def read(model: Model) -> Weights:
    """Views of the model's own parameters, which gradients may be taken through.

    Raises:
        Unsupported: an architecture outside FAMILIES, or an option that replay does not have.
    """
    facts, bridge = model.facts, model.bridge
    if reason := absent("z", facts):
        raise Unsupported(f"{model.name}: {reason}.")
    if facts.architecture not in FAMILIES:
        raise Unsupported(
            f"the replay engine has the families {', '.join(FAMILIES)} and this model is a "
            f"{facts.architecture}; use engine='hooks' (slower, any architecture)."
        )
    config = bridge.original_model.config
    unknown = [option for option in UNKNOWN if getattr(config, option, False)]
    if getattr(config, "word_embed_proj_dim", facts.d_model) != facts.d_model:
        unknown.append("word_embed_proj_dim")
    if facts.architecture == "FalconForCausalLM" and config.alibi:
        unknown.append("FalconForCausalLM's ALiBi, which eager attention adds twice")
    if getattr(getattr(config, "attn_config", None), "clip_qkv", None):
        unknown.append("clip_qkv")
    if getattr(config, "decoder_sparse_step", 1) != 1:
        unknown.append("decoder_sparse_step")
    if facts.architecture == "NativeModel" and hasattr(inner(bridge.blocks[0].attn.k), "alpha"):
        unknown.append("smeared keys")
    if activation(_named(model)) is None:
        unknown.append(f"activation {_named(model)!r}")
    if unknown:
        raise Unsupported(f"the replay engine has no {', '.join(unknown)}; use engine='hooks'.")
    return Weights(
        facts=facts,
        embed=_embedding(model),
        rotary=rotations(model),
        interleaved=facts.architecture in ADJACENT,
        blocks=tuple(_block(model, layer) for layer in range(facts.n_layers)),
        unembed=_unembedding(model) if facts.language_model else None,
        slopes=slopes(model),
    )


def _block(model: Model, layer: int) -> Block:
    facts, bridge = model.facts, model.bridge
    config, block = bridge.original_model.config, bridge.blocks[layer]

    def norm(owner: nn.Module, name: str) -> Norm | None:
        return _norm(model, getattr(owner, name)) if hasattr(owner, name) else None

    def ends(name: str, otherwise: str) -> Ends:
        if facts.block == "post":
            return Ends(None, sum=norm(block, name))
        own = name if hasattr(block, name) or facts.block == "sandwich" else otherwise
        return Ends(norm(block, own), write=norm(block, f"{name}_post"))

    own, gemma2 = inner(block.attn), facts.architecture == "Gemma2ForCausalLM"
    kind = (getattr(config, "layer_types", None) or ["full_attention"] * facts.n_layers)[layer]
    window = config.sliding_window if kind == LOCAL or facts.architecture in WINDOWED else None
    if getattr(own, "attention_type", None) == "local":
        window = config.window_size  # GPT-Neo
    still = not getattr(own, "use_rope", True)
    if facts.architecture in STILL:
        still = window is None and config.sliding_window is not None
    gain = getattr(config, "residual_multiplier", 1.0)
    return Block(
        Attention(
            ends=ends("ln1", "ln1"),
            q=_linear(model, block.attn.q),
            k=_linear(model, block.attn.k),
            v=_linear(model, block.attn.v),
            o=_linear(model, block.attn.o, gain),
            scale=_scale(own, facts.d_head),
            q_norm=norm(block.attn, "q_norm"),
            k_norm=norm(block.attn, "k_norm"),
            window=window,
            # Gemma 3's attention has the cap too, and ignores it
            cap=own.attn_logit_softcapping if gemma2 else None,
            sinks=getattr(own, "sinks", None),
            rotary="none" if still else kind if facts.architecture in BY_KIND else "",
        ),
        _mlp(model, block.mlp, ends("ln2", "ln1"), gain),  # parallel blocks may share one norm
    )


def _mlp(model: Model, part: Any, ends: Ends, gain: float) -> MLP:
    found, curve = inner(part), _activation(_named(model))
    experts = getattr(found, "experts", None)
    if experts is None:
        gate = _linear(model, part.gate) if model.bridge.cfg.gated_mlp else None
        up, down = _linear(model, getattr(part, "in")), _linear(model, part.out, gain)
        return MLP(ends, gate, up, down, curve)
    if type(experts).__name__ == "GptOssExperts":
        mixture = _gpt_oss(inner(found.router), experts)
        return MLP(ends, mixture.gate, mixture.up, mixture.down, mixture.activation, mixture)
    router, both = inner(found.gate), experts.gate_up_proj
    whole = getattr(router, "norm_topk_prob", True)  # Mixtral has no other
    choice, shared, opens = Router(router.weight, router.top_k, whole), [None, None, None], None
    if (one := getattr(found, "shared_expert", None)) is not None:
        names, opens = ("gate_proj", "up_proj", "down_proj"), _plain(found.shared_expert_gate)
        shared = [_plain(getattr(inner(one), name)) for name in names]
    gate, up = (Each(half, shared=own) for half, own in zip(both.chunk(2, 1), shared, strict=False))
    down = Joined(experts.down_proj, shared=shared[2])
    mixture = Mixture(choice, gate, up, down, curve, opens=opens)
    return MLP(ends, gate, up, mixture.down, curve, mixture)


def _plain(component: nn.Module) -> Linear:
    """A map that is kept as a matrix."""
    found = cast(nn.Linear, inner(component))
    return Linear(found.weight, None)


def _gpt_oss(router: Any, experts: Any) -> Mixture:
    """gpt-oss's, which has biases, in and out exchanged, gate and up in turns, and both clamped."""
    gate, up = (
        Each(experts.gate_up_proj[..., i::2].transpose(1, 2), experts.gate_up_proj_bias[:, i::2])
        for i in (0, 1)
    )

    def curve(x: Tensor) -> Tensor:
        x = x.clamp(max=experts.limit)
        return x * (experts.alpha * x).sigmoid()

    def lift(x: Tensor) -> Tensor:
        return x.clamp(-experts.limit, experts.limit) + 1

    choice = Router(router.weight, router.top_k, whole=True, bias=router.bias, late=True)
    down = Joined(experts.down_proj.transpose(1, 2), experts.down_proj_bias)
    return Mixture(choice, gate, up, down, curve, lift)


def _scale(attention: Any, d_head: int) -> float:
    """What scores are multiplied by, as the model's own attention has it now."""
    if type(attention).__name__ == "GPTNeoSelfAttention":
        return 1.0
    for name in ("scaling", "inv_norm_factor", "softmax_scale"):
        if hasattr(attention, name):
            return getattr(attention, name)
    divisor = getattr(attention, "scale_attn", None) or getattr(attention, "scale", None)
    return d_head**-0.5 if divisor is None else 1 / divisor


def _named(model: Model) -> str:
    """The name of the MLPs' activation; of some models nothing but their code says it."""
    config = model.bridge.original_model.config
    known = {
        "BloomForCausalLM": "bloom_gelu",
        "MptForCausalLM": "gelu",
        "FalconForCausalLM": getattr(config, "activation", ""),
        "DistilBertForMaskedLM": getattr(config, "activation", ""),
    }
    return known.get(model.facts.architecture, model.bridge.cfg.act_fn)


def _activation(name: str) -> Activation:
    found = activation(name)
    assert found is not None  # `read` refuses the others
    return found


def _embedding(model: Model) -> Embedding:
    bridge, facts = model.bridge, model.facts
    if facts.image is not None:
        return _of_images(inner(bridge.embed))
    table = inner(bridge.embed)
    scale = None
    if hasattr(table, "embed_scale"):
        # rounded to the model's precision, as the model rounds it; a shape has no numbers
        held = table.embed_scale.to(table.weight.dtype)
        scale = 1.0 if held.is_meta else float(held)
    scale = scale or getattr(bridge.original_model.config, "embedding_multiplier", None)
    positions = constant = skipped = None
    if facts.positions in ("learned", "sinusoidal"):
        where = inner(bridge.pos_embed)
        skipped = where.padding_idx if facts.architecture in ROBERTAS else None
        start = 2 if facts.architecture == "OPTForCausalLM" else skipped or 0
        positions = where.weight[start:]
    if facts.block == "post" and hasattr(bridge, "token_type_embed"):
        constant = inner(bridge.token_type_embed).weight[0]  # every token is of the first segment
    norm = _norm(model, bridge.embed_ln) if hasattr(bridge, "embed_ln") else None
    return Embedding(table.weight, scale, positions, constant, norm, skipped)


def _of_images(module: Any) -> Embedding:
    """A convolution whose steps are its width is a map of each patch."""
    names = ("cls_token", "distillation_token")
    first = [token[0] for name in names if (token := getattr(module, name, None)) is not None]
    cut = module.patch_embeddings.projection
    patches = Linear.of(cut.weight.flatten(1), cut.bias, 1.0)
    return Embedding(torch.cat(first), positions=module.position_embeddings[0], patches=patches)


def _unembedding(model: Model) -> Unembedding:
    bridge, config = model.bridge, model.bridge.original_model.config
    linear = _linear(model, bridge.unembed)
    if model.facts.block != "post":
        cap = getattr(config, "final_logit_softcapping", None)
        return Unembedding(_times(_norm(model, bridge.ln_final), _logits(model)), linear, cap=cap)
    curve = getattr(config, "hidden_act", None) or _named(model)
    if model.facts.architecture in ROBERTAS:
        curve = "gelu"
    return Unembedding(
        None,
        linear,
        transform=_linear(model, inner(bridge.mlm_head)),
        activation=_activation(curve),
        transform_norm=_norm(model, bridge.ln_final),
    )


def _logits(model: Model) -> float:
    """What the logits are multiplied by."""
    hf = model.bridge.original_model
    return getattr(hf, "logit_scale", 1.0) / getattr(hf.config, "logits_scaling", 1.0)


def _times(p: Norm | None, factor: float) -> Norm | None:
    """A norm whose output is multiplied, and with it the logits of what it gives."""
    if p is None or factor == 1:
        return p
    weight, bias = (
        None if t is None else factor * (t.float() if t.dtype.itemsize < 4 else t)
        for t in (p.weight, p.bias)
    )
    assert weight is not None
    assert not p.offset  # `_logits` knows of none
    return replace(p, weight=weight, bias=bias)


def _norm(model: Model, component: nn.Module) -> Norm | None:
    found = inner(component)
    if isinstance(found, nn.Identity):
        return None
    name = type(found).__name__
    kind = "layer" if isinstance(found, nn.LayerNorm) or name in CENTRED else "rms"
    eps = next((getattr(found, n) for n in ("eps", "variance_epsilon") if hasattr(found, n)), 1e-5)
    gemma = model.facts.architecture.startswith("Gemma")
    weight = getattr(found, "weight", None)
    if weight is None:  # a norm that learns nothing
        weight = torch.ones(found.normalized_shape, dtype=model.dtype, device=model.device)
    if name == "NemotronLayerNorm1P":  # Gemma adds its 1 in float32, Nemotron as it comes
        weight = weight + 1
    return Norm(kind, weight, getattr(found, "bias", None), float(eps), offset=float(gemma))


def _linear(model: Model, component: nn.Module, gain: float = 1.0) -> Map:
    """A view as out x in; GPT-2's Conv1D keeps its weight the other way round."""
    found = inner(component)
    if quantised.packed(found):
        return _packed(model, found, gain)
    weight = cast(Tensor, found.weight)
    if weight.ndim != 2 or model.facts.d_model not in weight.shape:
        raise Unsupported(
            f"the weight of {model.truth.name_of(found)}, a {type(found).__name__}, is of shape "
            f"{list(weight.shape)}, which is no matrix to or from {model.facts.d_model} features. "
            "Likely its numbers are packed in a way that nothing here knows. Load the model with "
            "plain weights, or use engine='hooks', which runs the module."
        )
    flipped = type(found).__name__ == "Conv1D"
    return Linear.of(weight.T if flipped else weight, cast(Tensor | None, found.bias), gain)


def _packed(model: Model, module: nn.Module, gain: float) -> Packed:
    name = model.truth.name_of(module)
    if not quantised.known(module):
        raise Unsupported(
            f"the weight of {name} is kept in a way that nothing here knows: "
            f"{quantised.told(module)}. Known are bitsandbytes' 4 and 8 bit and torchao's. Load "
            "the model in float16 or wider, or use engine='hooks', which runs the module."
        )
    return Packed(module, name, model.dtype, partial(off, model, module), gain=gain)


def off(model: Model, module: nn.Module) -> float:
    """`quantised.unevenness` of a module of the model, found out once."""
    find = partial(quantised.unevenness, module, model.dtype)
    return model.now().once(("unevenness", module), find)


def maps(w: Weights) -> Iterator[Map | Each | Joined]:
    """Every linear map, in the order of the model."""
    for block in w.blocks:
        attention, mlp = block.attention, block.mlp
        yield from (attention.q, attention.k, attention.v, attention.o)
        if (cross := block.cross) is not None:
            yield from (cross.q, cross.k, cross.v, cross.o)
        yield from ((mlp.up, mlp.down) if mlp.gate is None else (mlp.gate, mlp.up, mlp.down))
    if w.unembed is not None:
        yield from filter(None, (w.unembed.transform, w.unembed.linear))
