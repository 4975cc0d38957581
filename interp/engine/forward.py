"""The forward pass as pure functions over `Weights`.

Leading axes are free (`*cells batch`), so one function serves a plain run and a stack of
interventions. Queries and keys are stored before the rotation, as TransformerLens' hooks see
them, and rotated where they meet.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.engine.weights import MLP, Linear, Norm, Weights

ROWS_AT_ONCE = 1024
"""Tokens that an MLP takes at a time: its hidden layer then stays in the cache (measured)."""


class Rotation(NamedTuple):
    """cos and sin of the rotary angles of consecutive positions; None where there are none."""

    cos: Float[Tensor, "pos d_rotary"]
    sin: Float[Tensor, "pos d_rotary"]


def norm(x: Float[Tensor, "*batch d_model"], p: Norm) -> Float[Tensor, "*batch d_model"]:
    """LayerNorm or RMSNorm over the last axis."""
    if p.kind == "layer":
        return F.layer_norm(x, p.weight.shape, p.weight, p.bias, p.eps)
    return F.rms_norm(x, p.weight.shape, p.weight, p.eps)


def embed(w: Weights, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
    """Token embedding, plus the position's where positions are learned."""
    x = F.embedding(tokens, w.embed)
    return x if w.embed_positions is None else x + w.embed_positions[: tokens.shape[1]]


def rotation(w: Weights, pos: int) -> Rotation | None:
    """Angles of positions 0 to pos - 1, from the model's own rotary module."""
    if w.rotary is None:
        return None
    place = torch.arange(pos, device=w.embed.device)[None]
    cos, sin = w.rotary(w.embed[:1, None], place)
    return Rotation(cos[0], sin[0])


def rotate(
    x: Float[Tensor, "*batch pos head d_head"],
    r: Rotation | None,
    place: Int[Tensor, "rows pos"],
) -> Float[Tensor, "*batch pos head d_head"]:
    """Turn each pair (i, i + d/2) of features by the angle of its position."""
    if r is None:
        return x
    cos, sin = (t[place].unsqueeze(-2) for t in r)
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def project(
    x: Float[Tensor, "*batch d_model"], p: Linear, d_head: int
) -> Float[Tensor, "*batch head d_head"]:
    """Queries, keys or values of every head (or group) of a layer."""
    return p(x).unflatten(-1, (-1, d_head))


def causal(query: Int[Tensor, "batch query"], keys: int) -> Bool[Tensor, "batch query key"]:
    """May a query at this position see a key? Made from positions, not from a mask's infinities."""
    return torch.arange(keys, device=query.device) <= query.unsqueeze(-1)


def pattern(
    q: Float[Tensor, "cells batch query head d_head"],
    k: Float[Tensor, "cells batch key group d_head"],
    past: Float[Tensor, "batch past group d_head"],
    allowed: Bool[Tensor, "batch query all_keys"],
    scale: float,
) -> Float[Tensor, "cells batch group in_group query all_keys"]:
    """Attention probabilities; the past keys are the base run's, shared by all cells uncopied."""
    q = rearrange(q, "c b q (g i) d -> c b q g i d", g=k.shape[-2]) * scale
    scores = torch.einsum("cbqgid,cbkgd->cbgiqk", q, k)
    if past.shape[1]:
        scores = torch.cat([torch.einsum("cbqgid,bkgd->cbgiqk", q, past), scores], -1)
    return scores.masked_fill_(~allowed[:, None, None], -torch.inf).softmax(-1)


def mix(
    pattern: Float[Tensor, "cells batch group in_group query all_keys"],
    v: Float[Tensor, "cells batch key group d_head"],
    past: Float[Tensor, "batch past group d_head"],
) -> Float[Tensor, "cells batch query head d_head"]:
    """z: values weighted by the pattern."""
    n = past.shape[1]
    z = torch.einsum("cbgiqk,cbkgd->cbqgid", pattern[..., n:], v)
    if n:
        z = z + torch.einsum("cbgiqk,bkgd->cbqgid", pattern[..., :n], past)
    return z.flatten(-3, -2)


def mlp(x: Float[Tensor, "*batch d_model"], p: MLP) -> Float[Tensor, "*batch d_model"]:
    """Norm and MLP: what the layer's MLP writes for a residual stream x."""
    flat = x.reshape(-1, x.shape[-1])
    return torch.cat([_mlp(rows, p) for rows in flat.split(ROWS_AT_ONCE)]).view(x.shape)


def _mlp(x: Float[Tensor, "rows d_model"], p: MLP) -> Float[Tensor, "rows d_model"]:
    x = norm(x, p.norm)
    if p.gate is None:
        return p.down(p.activation(p.up(x)))
    hidden = p.activation(p.gate(x))
    if torch.is_grad_enabled():
        return p.down(hidden * p.up(x))
    return p.down(hidden.mul_(p.up(x)))


def unembed(
    w: Weights,
    resid: Float[Tensor, "cells batch d_model"],
    columns: Int[Tensor, "batch columns"] | None = None,
) -> Float[Tensor, "cells batch columns"]:
    """Logits of the final residual stream; only the given vocabulary columns of each row."""
    x = norm(resid, w.norm)
    if columns is None:
        return w.unembed(x)
    rows = F.embedding(columns, w.unembed.weight)
    logits = torch.einsum("cbd,bvd->cbv", x, rows)
    return logits if w.unembed.bias is None else logits + w.unembed.bias[columns]
