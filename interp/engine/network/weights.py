"""The weights of a model as frozen dataclasses of tensors that share the bridge's storage.

One set of options covers every family: where the norms stand, how positions enter, what caps and
windows the scores. `read` takes them from the bridge's parts, which have the same names on
every architecture, and from the Hugging Face config.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.core.errors import PairsError, Unsupported
from interp.core.parts.facts import Facts
from interp.core.parts.sites import Stack, absent
from interp.engine.network.linear import Linear, Map, Packed
from interp.models.bridge import quantised, rotary
from interp.models.bridge.activations import Activation, activation
from interp.models.bridge.precision import undetoured
from interp.models.model import Model

FAMILIES = (
    "GPT2LMHeadModel",
    "GPTNeoXForCausalLM",
    "GPTJForCausalLM",
    "OPTForCausalLM",
    "PhiForCausalLM",
    "StableLmForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "Olmo2ForCausalLM",
    "BertForMaskedLM",
    "BertModel",
    "NativeModel",
)
"""Architectures whose forward pass replay reproduces; each is verified against the bridge."""

UNKNOWN = ("qk_layernorm", "_remove_final_layer_norm")
"""Options of these families' configs that replay does not have; refused when they are set."""


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
        rotary: which of the model's rotations turns queries and keys.
        bias: what the distance of query and key adds to their score (T5).
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


@dataclass(frozen=True)
class MLP:
    """Two-matrix MLP, or gated when `gate` is there."""

    ends: Ends
    gate: Map | None
    up: Map
    down: Map
    activation: Activation


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
        unplaced: a token that no position is counted for; it takes the first of `positions`, and
            the tokens beside it the others, in their order (M2M100's padding).
    """

    tokens: Float[Tensor, "d_vocab d_model"]
    scale: float | None = None
    positions: Float[Tensor, "n_ctx d_model"] | None = None
    constant: Float[Tensor, " d_model"] | None = None
    norm: Norm | None = None
    unplaced: int | None = None


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


Angles = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From a tensor that gives dtype and device, and positions `1 pos`, to cos and sin `1 pos d`."""


@dataclass(frozen=True)
class Weights:
    """A whole transformer, or one stack of an encoder-decoder.

    Attributes:
        interleaved: rotary pairs are (i, i + 1), else (i, i + d/2).
        stack: which of two it is; its `facts` are then those of the stack.
    """

    facts: Facts
    embed: Embedding
    rotary: dict[str, Angles]
    interleaved: bool
    blocks: Sequence[Block]
    unembed: Unembedding | None
    stack: Stack | None = None


def read(model: Model) -> Weights:
    """Views of the model's own parameters.

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
    if facts.architecture == "NativeModel" and hasattr(_inner(bridge.blocks[0].attn.k), "alpha"):
        unknown.append("smeared keys")
    if activation(bridge.cfg.act_fn) is None:
        unknown.append(f"activation {bridge.cfg.act_fn!r}")
    if unknown:
        raise Unsupported(f"the replay engine has no {', '.join(unknown)}; use engine='hooks'.")
    return Weights(
        facts=facts,
        embed=_embedding(model),
        rotary=_rotary(model),
        interleaved=facts.architecture in ("GPTJForCausalLM", "NativeModel"),
        blocks=tuple(_block(model, layer) for layer in range(facts.n_layers)),
        unembed=_unembedding(model) if facts.language_model else None,
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

    own, gemma2 = _inner(block.attn), facts.architecture == "Gemma2ForCausalLM"
    kind = (getattr(config, "layer_types", None) or ["full_attention"] * facts.n_layers)[layer]
    local = kind == "sliding_attention" or facts.architecture == "MistralForCausalLM"
    return Block(
        Attention(
            ends=ends("ln1", "ln1"),
            q=_linear(model, block.attn.q),
            k=_linear(model, block.attn.k),
            v=_linear(model, block.attn.v),
            o=_linear(model, block.attn.o),
            scale=_scale(own, facts.d_head),
            q_norm=norm(block.attn, "q_norm"),
            k_norm=norm(block.attn, "k_norm"),
            window=config.sliding_window if local else None,
            # Gemma 3's attention has the cap too, and ignores it
            cap=own.attn_logit_softcapping if gemma2 else None,
            rotary=kind if facts.architecture == "Gemma3ForCausalLM" else "",
        ),
        MLP(
            ends=ends("ln2", "ln1"),  # parallel blocks may share one norm
            gate=_linear(model, block.mlp.gate) if bridge.cfg.gated_mlp else None,
            up=_linear(model, getattr(block.mlp, "in")),
            down=_linear(model, block.mlp.out),
            activation=_activation(bridge.cfg.act_fn),
        ),
    )


def _scale(attention: Any, d_head: int) -> float:
    """What scores are multiplied by, as the model's own attention has it now."""
    if hasattr(attention, "scaling"):
        return attention.scaling
    divisor = getattr(attention, "scale_attn", None) or getattr(attention, "scale", None)
    return d_head**-0.5 if divisor is None else 1 / divisor


def _activation(name: str) -> Activation:
    found = activation(name)
    assert found is not None  # `read` refuses the others
    return found


def _embedding(model: Model) -> Embedding:
    bridge, facts = model.bridge, model.facts
    table = _inner(bridge.embed)
    scale = None
    if hasattr(table, "embed_scale"):
        # rounded to the model's precision, as the model rounds it; a shape has no numbers
        held = table.embed_scale.to(table.weight.dtype)
        scale = 1.0 if held.is_meta else float(held)
    if facts.positions not in ("learned", "sinusoidal"):
        return Embedding(table.weight, scale)
    start = 2 if facts.architecture == "OPTForCausalLM" else 0
    positions = _inner(bridge.pos_embed).weight[start:]
    if facts.block != "post":
        return Embedding(table.weight, scale, positions)
    return Embedding(
        table.weight,
        scale,
        positions,
        constant=_inner(bridge.token_type_embed).weight[0],  # every token is of the first segment
        norm=_norm(model, bridge.embed_ln),
    )


def _unembedding(model: Model) -> Unembedding:
    bridge, config = model.bridge, model.bridge.original_model.config
    linear = _linear(model, bridge.unembed)
    if model.facts.block != "post":
        cap = getattr(config, "final_logit_softcapping", None)
        return Unembedding(_norm(model, bridge.ln_final), linear, cap=cap)
    return Unembedding(
        None,
        linear,
        transform=_linear(model, _inner(bridge.mlm_head)),
        activation=_activation(config.hidden_act),
        transform_norm=_norm(model, bridge.ln_final),
    )


def _rotary(model: Model) -> dict[str, Angles]:
    """The model's own modules make the angles: their rounding is part of what it computes."""
    facts, bridge = model.facts, model.bridge
    if facts.architecture == "GPTJForCausalLM":
        return {"": partial(_gptj_angles, _inner(bridge.blocks[0].attn))}
    if facts.positions != "rotary":
        return {}
    if facts.architecture == "NativeModel":
        return {"": partial(_native_angles, bridge.original_model.rotary)}
    module = _inner(bridge.rotary_emb)
    if facts.architecture == "Gemma3ForCausalLM":
        kinds = set(bridge.original_model.config.layer_types)
        return {kind: partial(_angles, module, layer_type=kind) for kind in sorted(kinds)}
    return {"": partial(_angles, module)}


def _angles(module: Any, like: Tensor, place: Tensor, **kind: str) -> tuple[Tensor, Tensor]:
    """The model's own module makes them, without what it remembers of longer rows."""
    with rotary.alone([module]), undetoured(like.dtype):
        return module(like, place, **kind)


def _gptj_angles(attention: nn.Module, like: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    table = cast(Tensor, attention.embed_positions).to(like.device).index_select(0, place[0])
    sin, cos = table.to(like.dtype).repeat_interleave(2, -1).chunk(2, -1)
    return cos[None], sin[None]


def _native_angles(rotary: nn.Module, like: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = cast(Tensor, rotary.cos_cached), cast(Tensor, rotary.sin_cached)
    if place.shape[1] > len(cos):
        raise PairsError(
            f"rows of {place.shape[1]} tokens are longer than the model's n_ctx {len(cos)}. "
            "Shorten them, or build the model with a larger n_ctx."
        )
    return cos.index_select(0, place[0])[None], sin.index_select(0, place[0])[None]


def _norm(model: Model, component: nn.Module) -> Norm | None:
    inner = _inner(component)
    if isinstance(inner, nn.Identity):
        return None
    kind = "layer" if isinstance(inner, nn.LayerNorm) else "rms"
    eps = inner.eps if hasattr(inner, "eps") else inner.variance_epsilon
    gemma = model.facts.architecture.startswith("Gemma")
    weight = inner.weight
    if weight is None:  # a norm that learns nothing
        weight = torch.ones(inner.normalized_shape, dtype=model.dtype, device=model.device)
    return Norm(kind, weight, getattr(inner, "bias", None), float(eps), offset=float(gemma))


def _inner(component: Any) -> Any:
    """The Hugging Face module under the bridge's components."""
    while getattr(component, "original_component", None) is not None:
        component = component.original_component
    return component


def _linear(model: Model, component: nn.Module) -> Map:
    """A view as out x in; GPT-2's Conv1D keeps its weight the other way round."""
    inner = _inner(component)
    if quantised.packed(inner):
        return _packed(model, inner)
    weight = cast(Tensor, inner.weight)
    if weight.ndim != 2 or model.facts.d_model not in weight.shape:
        raise Unsupported(
            f"the weight of {model.truth.name_of(inner)}, a {type(inner).__name__}, is of shape "
            f"{list(weight.shape)}, which is no matrix to or from {model.facts.d_model} features. "
            "Likely its numbers are packed in a way that nothing here knows. Load the model with "
            "plain weights, or use engine='hooks', which runs the module."
        )
    flipped = type(inner).__name__ == "Conv1D"
    return Linear(weight.T if flipped else weight, cast(Tensor | None, inner.bias))


def _packed(model: Model, module: nn.Module) -> Packed:
    name = model.truth.name_of(module)
    if not quantised.known(module):
        raise Unsupported(
            f"the weight of {name} is kept in a way that nothing here knows: "
            f"{quantised.told(module)}. Known are bitsandbytes' 4 and 8 bit and torchao's. Load "
            "the model in float16 or wider, or use engine='hooks', which runs the module."
        )
    return Packed(module, name, model.dtype, partial(off, model, module))


def off(model: Model, module: nn.Module) -> float:
    """`quantised.unevenness` of a module of the model, found out once."""
    find = partial(quantised.unevenness, module, model.dtype)
    return model.now().once(("unevenness", module), find)


def maps(w: Weights) -> Iterator[Map]:
    """Every linear map, in the order of the model."""
    for block in w.blocks:
        attention, mlp = block.attention, block.mlp
        yield from (attention.q, attention.k, attention.v, attention.o)
        yield from ((mlp.up, mlp.down) if mlp.gate is None else (mlp.gate, mlp.up, mlp.down))
    if w.unembed is not None:
        yield from filter(None, (w.unembed.transform, w.unembed.linear))
