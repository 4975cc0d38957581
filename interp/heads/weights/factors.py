"""The heads of a layer as factors of their QK and OV circuits, with the norms folded in.

Elhage et al. 2021, A Mathematical Framework for Transformer Circuits. Rows are vectors: a head
scores x W_QK y^T and writes y W_OV, with W_QK = W_Q W_K^T and W_OV = W_V W_O, each of rank d_head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import Unsupported
from interp.engine.network.linear import Map
from interp.engine.network.weights import Norm, Weights
from interp.models.bridge.factored import FactoredMatrix
from interp.models.model import Model


@dataclass(frozen=True, eq=False)
class Factors:
    """One layer's query heads, each with the key and the value of its group.

    What a head reads is the residual stream after the norm. A norm is a division by a scale (the
    only part that depends on the input), LayerNorm's centring, a weight and a bias; all but the
    scale are folded in here, so the factors act on `stream / scale`. Where queries and keys have a
    norm of their own, or attention's output has, its weight is folded likewise and its scale left
    out: scores and writes are then right up to a positive number for each token.

    Attributes:
        q, k, v: act from the right on a row, `stream / scale`. `q` holds the scores' scale
            (1/sqrt(d_head) in most models).
        o: what a head's z becomes in the residual stream.
        q_bias, k_bias, v_bias: what the head adds for an empty stream: its own bias and the norm's
            bias through its weight.
        o_bias: what the layer's attention adds whatever its heads do.
        group_size: how many of the layer's query heads share one key and value.
    """

    layer: int
    q: Float[Tensor, "head d_model d_head"]
    k: Float[Tensor, "head d_model d_head"]
    v: Float[Tensor, "head d_model d_head"]
    o: Float[Tensor, "head d_head d_model"]
    q_bias: Float[Tensor, "head d_head"]
    k_bias: Float[Tensor, "head d_head"]
    v_bias: Float[Tensor, "head d_head"]
    o_bias: Float[Tensor, " d_model"]
    group_size: int

    @property
    def qk(self) -> FactoredMatrix:
        """`head d_model d_model`: the score of a query row and a key row; biases left out."""
        return FactoredMatrix(self.q, self.k.mT)

    @property
    def ov(self) -> FactoredMatrix:
        """`head d_model d_model`: from what is attended to, to what is written; biases left out."""
        return FactoredMatrix(self.v, self.o)


@torch.no_grad()
def factors(w: Weights, layer: int, *, cross: bool = False, memory: Norm | None = None) -> Factors:
    """The factors of a layer, from copies: nothing of the loaded model is changed.

    `cross`: of a decoder's attention to the encoder, whose keys and values read through `memory`.
    Half precision becomes float32, since products of four matrices would keep few digits of it.
    Heads of a group share their key and value, so what is measured on these is no independent
    evidence.
    """
    block, facts = w.blocks[layer], w.facts
    p, source = block.attention, block.attention.ends.read
    if cross:
        assert block.cross is not None
        p, source = block.cross, memory
    q = _reads(p.q, p.ends.read, facts.d_head)
    k, v = (_reads(part, source, facts.d_head) for part in (p.k, p.v))
    q, k = _normed(q, p.q_norm), _normed(k, p.k_norm)
    k, v = (tuple(t.repeat_interleave(facts.group_size, 0) for t in part) for part in (k, v))
    o, o_bias = _writes(p.o, p.ends.write)
    return Factors(
        layer,
        q=q[0] * p.scale,
        k=k[0],
        v=v[0],
        o=o.unflatten(0, (-1, facts.d_head)),
        q_bias=q[1] * p.scale,
        k_bias=k[1],
        v_bias=v[1],
        o_bias=o_bias,
        group_size=facts.group_size,
    )


def folded(
    weight: Float[Tensor, "d_model out"], norm: Norm | None
) -> tuple[Float[Tensor, "d_model out"], Float[Tensor, " out"]]:
    """A matrix that reads normed rows, as one that reads `rows / scale`, and the norm's bias."""
    weight = wide(weight)
    if norm is None or norm.bias is None:
        return weighted(weight, norm), weight.new_zeros(weight.shape[1])
    return weighted(weight, norm), wide(norm.bias) @ weight


def weighted(
    weight: Float[Tensor, "*batch d_model out"], norm: Norm | None
) -> Float[Tensor, "*batch d_model out"]:
    """A norm's weight and centring before a matrix."""
    if norm is None:
        return weight
    weight = (wide(norm.weight) + norm.offset)[:, None] * weight
    return weight - weight.mean(-2, keepdim=True) if norm.kind == "layer" else weight


def unscaled(
    rows: Float[Tensor, "*batch d_model"], norm: Norm | None
) -> Float[Tensor, "*batch d_model"]:
    """A norm's centring and weight after rows: x @ weighted(W) is unscaled(x) @ W."""
    if norm is None:
        return rows
    rows = rows - rows.mean(-1, keepdim=True) if norm.kind == "layer" else rows
    return rows * (wide(norm.weight) + norm.offset)


def scale(x: Float[Tensor, "*batch d"], norm: Norm | None) -> Float[Tensor, "*batch 1"]:
    """What the norm divides a row by: its standard deviation or root mean square."""
    if norm is None:
        return torch.ones_like(x[..., :1])
    x = x - x.mean(-1, keepdim=True) if norm.kind == "layer" else x
    return (x.square().mean(-1, keepdim=True) + norm.eps).sqrt()


def wide(x: Tensor) -> Tensor:
    """Float32 at least."""
    return x.detach().float() if x.dtype in (torch.float16, torch.bfloat16) else x.detach()


def gaussian(shape: Sequence[int], *, like: Tensor, seed: int) -> Float[Tensor, "..."]:
    """Standard normal entries, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(like)


def noted(model: Model, **facts: Any) -> dict[str, Any]:
    """Provenance of what comes from weights alone."""
    return {**model.identity(), **dequantised(model), **facts}


def dequantised(model: Model) -> dict[str, str]:
    """For the provenance of what reads weights: what they are made of anew, if they are packed."""
    kinds = model.now().quantised
    return {"dequantised": ", ".join(kinds)} if kinds else {}


def require_sum(model: Model, what: str, *, decoders: bool = False) -> None:
    """Refuse a model whose residual stream is no sum of what was written into it.

    `decoders`: of an encoder-decoder one of its streams will do.

    Raises:
        Unsupported: post-norm blocks, or two stacks.
    """
    facts = model.facts
    if facts.n_encoder_layers and not decoders:
        raise Unsupported(
            f"{what} follows one residual stream, and {model.name} has an encoder and a decoder. "
            f"Take a model of one stack. ({facts})"
        )
    if facts.block == "post":
        raise Unsupported(
            f"{what} takes the residual stream as the sum of what the parts wrote, and "
            f"{model.name} norms that sum after every part (post-norm), so later layers read no "
            f"sum. Patch instead (interp.path_patch), or take a pre-norm model. ({facts})"
        )


def require_logits(model: Model, what: str, *, decoders: bool = False) -> None:
    """Refuse a model from whose residual stream no logits are read; `decoders`: see `require_sum`.

    Raises:
        Unsupported: no unembedding; or see `require_sum`.
    """
    if not model.facts.language_model:
        raise Unsupported(
            f"{what} reads the vocabulary off the residual stream, and {model.name} has no "
            "language-model head, so there is no unembedding. Probe its activations instead, or "
            f"load a model with a head. ({model.facts})"
        )
    require_sum(model, what, decoders=decoders)


Affine = tuple[Float[Tensor, "head d_model d_head"], Float[Tensor, "head d_head"]]


def _reads(p: Map, norm: Norm | None, d_head: int) -> Affine:
    weight, bias = folded(p.weight.T, norm)
    bias = bias if p.bias is None else bias + wide(p.bias)
    return weight.unflatten(1, (-1, d_head)).transpose(0, 1), bias.unflatten(0, (-1, d_head))


def _normed(part: Affine, norm: Norm | None) -> Affine:
    """Queries or keys before their own norm's scale is taken out."""
    if norm is None:
        return part
    gain = (wide(norm.weight) + norm.offset).view(-1, part[1].shape[1])  # of all heads, or of each
    weight, bias = (t - t.mean(-1, keepdim=True) if norm.kind == "layer" else t for t in part)
    bias = bias * gain if norm.bias is None else bias * gain + wide(norm.bias)
    return weight * gain[:, None], bias


def _writes(
    p: Map, norm: Norm | None
) -> tuple[Float[Tensor, "features d_model"], Float[Tensor, " d_model"]]:
    weight = wide(p.weight).T * p.gain
    bias = weight.new_zeros(weight.shape[1]) if p.bias is None else wide(p.bias).clone()
    weight, bias = unscaled(weight, norm), unscaled(bias, norm)
    return weight, bias if norm is None or norm.bias is None else bias + wide(norm.bias)
