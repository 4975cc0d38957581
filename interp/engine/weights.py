"""The weights of a model as frozen dataclasses of tensors that share the bridge's storage."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from interp.core.errors import Unsupported
from interp.core.facts import Facts
from interp.models.model import Model

FAMILIES = ("GPT2LMHeadModel", "LlamaForCausalLM")
"""Architectures whose forward pass replay reproduces; each is verified against the bridge."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


@dataclass(frozen=True)
class Linear:
    """x -> weight @ x + bias."""

    weight: Float[Tensor, "out in"]
    bias: Float[Tensor, " out"] | None

    def __call__(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        return F.linear(x, self.weight, self.bias)

    def rows(self, start: int, stop: int) -> "Linear":
        """The part that writes output features start to stop: a view."""
        return Linear(self.weight[start:stop], None if self.bias is None else self.bias[start:stop])


@dataclass(frozen=True)
class Norm:
    """LayerNorm, or RMSNorm without mean and bias."""

    kind: Literal["layer", "rms"]
    weight: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"] | None
    eps: float


@dataclass(frozen=True)
class Attention:
    """Projections of one attention layer; `q k v` write heads (or groups) x d_head features."""

    norm: Norm
    q: Linear
    k: Linear
    v: Linear
    o: Linear
    scale: float


@dataclass(frozen=True)
class MLP:
    """Two-matrix MLP, or gated when `gate` is there."""

    norm: Norm
    gate: Linear | None
    up: Linear
    down: Linear
    activation: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Block:
    """One pre-norm, sequential layer."""

    attention: Attention
    mlp: MLP


@dataclass(frozen=True)
class Weights:
    """A whole causal transformer."""

    facts: Facts
    embed: Float[Tensor, "d_vocab d_model"]
    embed_positions: Float[Tensor, "n_ctx d_model"] | None
    rotary: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None
    blocks: tuple[Block, ...]
    norm: Norm
    unembed: Linear


def weights_of(model: Model) -> Weights:
    """Views of the model's own parameters.

    Raises:
        Unsupported: an architecture outside FAMILIES, or an option that replay does not have.
    """
    facts, bridge = model.facts, model.bridge
    if facts.architecture not in FAMILIES:
        raise Unsupported(
            f"the replay engine has the families {', '.join(FAMILIES)} and this model is a "
            f"{facts.architecture}; use engine='hooks' (slower, any architecture)."
        )
    config = bridge.original_model.config
    unknown = [
        option
        for option in ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn")
        if getattr(config, option, False)
    ]
    activation = bridge.cfg.act_fn
    if unknown or activation not in ACTIVATIONS:
        raise Unsupported(
            f"the replay engine has no {', '.join(unknown) or f'activation {activation!r}'}; use "
            "engine='hooks'."
        )

    def norm(component: nn.Module) -> Norm:
        kind = cast(Literal["layer", "rms"], facts.norm)
        return Norm(kind, component.weight, getattr(component, "bias", None), bridge.cfg.eps)

    blocks = tuple(
        Block(
            Attention(
                norm=norm(block.ln1),
                q=_linear(block.attn.q),
                k=_linear(block.attn.k),
                v=_linear(block.attn.v),
                o=_linear(block.attn.o),
                scale=facts.d_head**-0.5,
            ),
            MLP(
                norm=norm(block.ln2),
                gate=_linear(block.mlp.gate) if bridge.cfg.gated_mlp else None,
                up=_linear(getattr(block.mlp, "in")),
                down=_linear(block.mlp.out),
                activation=ACTIVATIONS[activation],
            ),
        )
        for block in bridge.blocks
    )
    return Weights(
        facts=facts,
        embed=bridge.embed.weight,
        embed_positions=bridge.pos_embed.weight if facts.positions == "learned" else None,
        rotary=bridge.rotary_emb.original_component if facts.positions == "rotary" else None,
        blocks=blocks,
        norm=norm(bridge.ln_final),
        unembed=_linear(bridge.unembed),
    )


def _linear(component: nn.Module) -> Linear:
    """A view as out x in; GPT-2's Conv1D keeps its weight the other way round."""
    inner = component
    while hasattr(inner, "original_component"):
        inner = inner.original_component
    weight = cast(Tensor, inner.weight)
    flipped = type(inner).__name__ == "Conv1D"
    return Linear(weight.T if flipped else weight, cast(Tensor | None, inner.bias))
