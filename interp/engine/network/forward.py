"""The forward pass as pure functions over `Weights`.

Leading axes are free (`*cells batch`), so one function serves a plain run and a stack of
interventions. Queries and keys are stored before their norm and rotation, as TransformerLens'
hooks see them, and take both where they meet. Rows are picked by `index_select`, `gather` and
`F.embedding`, never by indexing with a tensor.
"""

from collections.abc import Iterator
from dataclasses import replace
from math import isqrt
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from interp.core.prompts.patches import pixels_of
from interp.engine.limits import Limits
from interp.engine.network.linear import Linear, Map, Packed
from interp.engine.network.weights import MLP, Attention, Embedding, Ends, Norm, Weights


class Rotation(NamedTuple):
    """cos and sin of the rotary angles of consecutive positions."""

    cos: Float[Tensor, "pos d_rotary"]
    sin: Float[Tensor, "pos d_rotary"]
    interleaved: bool


class Alibi(NamedTuple):
    """Biases that keys at consecutive positions add to the scores of each head."""

    bias: Float[Tensor, "head key"]


Turn = Rotation | Alibi
"""How place enters scores: with queries and keys, or with the scores themselves."""
Rotations = dict[str, Turn]
"""The turns of a model by the name that its attention layers call them by."""


def wide(x: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """Half precision as float32, in which the residual stream of such a model is kept.

    A sum of a hundred writes loses more to rounding than the products that make them do. Measured
    on SmolLM2 in bfloat16, the error of an effect falls from 0.031 to 0.019 of a logit.
    """
    return x.float() if x.dtype.itemsize < 4 else x


def norm(
    x: Float[Tensor, "*batch d"],
    p: Norm | None,
    like: Float[Tensor, "*rows d"] | None = None,
) -> Float[Tensor, "*batch d"]:
    """LayerNorm or RMSNorm over the last axis; x itself where there is none.

    Half precision is normed in float32 and stays so: squares of what it holds overflow in it.

    `like`: an input whose scale (standard deviation, root mean square) is taken instead of x's
    own, which freezes the norm.
    """
    if p is None:
        return x
    x, weight = wide(x), wide(p.weight)
    weight = weight + p.offset if p.offset else weight
    bias = None if p.bias is None else wide(p.bias)
    if like is None:
        if p.kind == "layer":
            return F.layer_norm(x, weight.shape, weight, bias, p.eps)
        return F.rms_norm(x, weight.shape, weight, p.eps)
    like = wide(like)
    if p.kind == "layer":
        x, like = (t - t.mean(-1, keepdim=True) for t in (x, like))
    x = x * (like.square().mean(-1, keepdim=True) + p.eps).rsqrt() * weight
    return x if bias is None else x + bias


def embed(
    w: Weights, tokens: Int[Tensor, "batch pos"], start: int = 0
) -> Float[Tensor, "batch embedded d_model"]:
    """What enters the first layer, from a position on."""
    p = w.embed
    read = tokens[:, start:]
    x = wide(F.embedding(read, p.tokens)) if p.patches is None else seen(p, p.patches, read)
    if p.scale is not None:
        x = x * p.scale
    if p.positions is not None:
        x = x + positions(p, tokens)[..., start:, :]
    if p.constant is not None:
        x = x + p.constant
    return norm(x, p.norm)


def seen(
    p: Embedding, patches: Linear, tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos d_model"]:
    """The tokens before the patches of images, and what is made of the pixels of these."""
    special = len(p.tokens)
    pixels = pixels_of(tokens[:, special:], patches.inputs).to(p.tokens)
    return wide(torch.cat([p.tokens.expand(len(tokens), -1, -1), patches(pixels)], 1))


def positions(p: Embedding, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "*rows pos d_model"]:
    """What learned or sinusoidal positions add, the row of each token's place."""
    assert p.positions is not None
    if p.skipped is None:
        return p.positions[: tokens.shape[1]]
    counted = tokens != p.skipped
    return F.embedding(counted.cumsum(1) * counted, p.positions)


def rotations(w: Weights, pos: int) -> Rotations:
    """Angles (or biases) of positions 0 to pos - 1, from the model's own modules."""
    if w.slopes is not None:
        return {"": Alibi(w.slopes(w.embed.tokens[:1], pos))}
    place = torch.arange(pos, device=w.embed.tokens.device)[None]
    like = w.embed.tokens[:1, None]
    found = {name: angles(like, place) for name, angles in w.rotary.items()}
    return {name: Rotation(cos[0], sin[0], w.interleaved) for name, (cos, sin) in found.items()}


def rotation(r: Rotations, p: Attention, heads: Int[ndarray, " some"] | None = None) -> Turn | None:
    """How place enters an attention layer, where that lies; of some of its heads alone."""
    found = r.get(p.rotary)
    if found is None:
        return None
    if isinstance(found, Alibi):
        bias = found.bias.to(p.o.device)
        chosen = None if heads is None else torch.from_numpy(heads).to(bias.device)
        return Alibi(bias if chosen is None else bias.index_select(0, chosen))
    cos, sin = (t.to(p.o.device) for t in (found.cos, found.sin))
    return Rotation(cos, sin, found.interleaved)


def rotate(
    x: Float[Tensor, "*batch pos head d_head"],
    r: Turn | None,
    place: Int[Tensor, "rows pos"],
) -> Float[Tensor, "*batch pos head d_head"]:
    """Turn pairs of features by the angle of their position; those past d_rotary stay."""
    if not isinstance(r, Rotation):
        return x
    width = r.cos.shape[-1]
    cos, sin = (F.embedding(place, t).unsqueeze(-2) for t in (r.cos, r.sin))
    turned = x[..., :width]
    if r.interleaved:
        half = torch.stack([-turned[..., 1::2], turned[..., ::2]], -1).flatten(-2)
    else:
        first, second = turned.chunk(2, -1)
        half = torch.cat([-second, first], -1)
    turned = (turned * cos + half * sin).to(x.dtype)
    return turned if width == x.shape[-1] else torch.cat([turned, x[..., width:]], -1)


def project(
    x: Float[Tensor, "*batch d_model"], p: Map, d_head: int
) -> Float[Tensor, "*batch head d_head"]:
    """Queries, keys or values of every head (or group) of a layer."""
    return p(x).unflatten(-1, (-1, d_head))


def visible(
    p: Attention, query: Int[Tensor, "batch query"], keys: int, *, causal: bool
) -> Bool[Tensor, "batch query key"]:
    """May a query at this position see a key? Made from positions, not from a mask's infinities."""
    query = query.unsqueeze(-1)
    key = torch.arange(keys, device=query.device)
    seen = key <= query if causal else (key == key).expand(*query.shape[:2], -1)
    return seen if p.window is None else seen & ((query - key).abs() < p.window)


class Keys(NamedTuple):
    """Keys or values: those that all cells share, uncopied, then each cell's own."""

    past: Float[Tensor, "batch past group d_head"]
    own: Float[Tensor, "cells batch key group d_head"]


def pattern(
    p: Attention,
    q: Float[Tensor, "cells batch query head d_head"],
    k: Keys,
    r: Turn | None,
    place: Int[Tensor, "batch query"],
    *,
    causal: bool,
) -> Float[Tensor, "cells batch group in_group query all_keys"]:
    """Attention probabilities of queries at given positions over keys at positions 0, 1, ...

    Queries and keys are those after `head_norm` and before the rotation. Where there are sinks,
    rows sum to less than 1: a sink takes its share, and has no value.
    """
    past, own = k
    n, total = past.shape[1], past.shape[1] + own.shape[2]
    keys = torch.arange(total, device=q.device)[None]
    q, own = rotate(q, r, place), rotate(own, r, keys[:, n:])
    q = rearrange(q, "c b q (g i) d -> c b q g i d", g=own.shape[-2]) * p.scale
    scores = torch.einsum("cbqgid,cbkgd->cbgiqk", q, own)
    if n:
        past = rotate(past, r, keys[:, :n])
        scores = torch.cat([torch.einsum("cbqgid,bkgd->cbgiqk", q, past), scores], -1)
    if isinstance(r, Alibi):
        bias = r.bias[:, None, :total].to(scores.dtype)
        scores = scores + bias.unflatten(0, (own.shape[-2], -1))
    if p.bias is not None:
        scores = scores + p.bias(place, total).unflatten(1, scores.shape[2:4])
    if p.cap is not None:
        scores = p.cap * (scores / p.cap).tanh()
    hidden = visible(p, place, total, causal=causal).logical_not()
    scores = scores.masked_fill_(hidden[:, None, None], -torch.inf)
    if p.sinks is not None:
        sinks = p.sinks.to(scores).view(own.shape[-2], -1, 1, 1).expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, sinks], -1)
    if scores.dtype.itemsize >= 4:
        found = scores.softmax(-1)
    else:
        found = scores.softmax(-1, dtype=torch.float32).to(scores.dtype)
    return found if p.sinks is None else found[..., :-1]


def of_heads(p: Attention, heads: Int[ndarray, " some"]) -> Attention:
    """An attention layer as some of its heads have it, where heads differ."""
    if p.sinks is None:
        return p
    chosen = torch.from_numpy(heads).to(p.sinks.device)
    return replace(p, sinks=p.sinks.index_select(0, chosen))


def head_norm(
    x: Float[Tensor, "*batch head d_head"], p: Norm | None
) -> Float[Tensor, "*batch head d_head"]:
    """QK-norm: of each head, or of all heads together where the weight is that wide."""
    if p is None or p.weight.shape[0] == x.shape[-1]:
        return norm(x, p).to(x.dtype)
    return norm(x.flatten(-2), p).view(x.shape).to(x.dtype)


def mix(
    pattern: Float[Tensor, "cells batch group in_group query all_keys"], v: Keys
) -> Float[Tensor, "cells batch query head d_head"]:
    """z: values weighted by the pattern."""
    n = v.past.shape[1]
    z = torch.einsum("cbgiqk,cbkgd->cbqgid", pattern[..., n:], v.own)
    if n:
        z = z + torch.einsum("cbgiqk,bkgd->cbqgid", pattern[..., :n], v.past)
    return z.flatten(-3, -2)


def attend(
    p: Attention,
    q: Float[Tensor, "cells batch query head d_head"],
    k: Keys,
    v: Keys,
    r: Turn | None,
    place: Int[Tensor, "batch query"],
    *,
    causal: bool,
    consecutive: bool,
) -> Float[Tensor, "cells batch query head d_head"]:
    """z without the whole pattern: a few queries at a time, as many as the device gains from.

    Args:
        consecutive: are the queries the cells' own positions in their order? Then a few of them
            see, under a causal mask, no key that is after the last.
    """
    past, own = k.past.shape[1], k.own.shape[2]
    few = list(windows(q, past, own, triangle=causal and consecutive))
    if len(few) == 1:
        return mix(pattern(p, q, k, r, place, causal=causal), v)
    keys = torch.arange(past + own, device=q.device)[None]
    q = rotate(q, r, place)
    k = Keys(rotate(k.past, r, keys[:, :past]), rotate(k.own, r, keys[:, past:]))
    turned = r if isinstance(r, Alibi) else None
    parts = []
    for some, last in few:
        near_k, near_v = (Keys(t.past, t.own[:, :, :last]) for t in (k, v))
        seen = pattern(p, q[:, :, some], near_k, turned, place[:, some], causal=causal)
        parts.append(mix(seen, near_v))
    return torch.cat(parts, 2)


def windows(
    q: Float[Tensor, "cells batch query head d_head"], past: int, own: int, *, triangle: bool
) -> Iterator[tuple[slice, int]]:
    """Queries whose scores are as many as the device gains from, and how many own keys they see.

    Args:
        triangle: do queries, which are as many as the own keys, see none that is after them?
    """
    cells, batch, queries, heads = q.shape[:4]
    most = Limits.of(q.device).scores // (cells * batch * heads or 1)
    if queries * (past + own) <= most:
        yield slice(0, queries), own
        return
    end = 0
    while end < queries:
        start, end, last = end, end + max(1, most // (past + own)), own
        if triangle:  # so many that their square and what is before come to as much
            before = past + start
            end = start + max(1, (isqrt(before * before + 4 * most) - before) // 2)
            end = last = min(end, queries)
        end = min(end, queries)
        yield slice(start, end), last


def attention_write(
    z: Float[Tensor, "*batch head d_head"],
    p: Attention,
    like: Float[Tensor, "*rows head d_head"] | None = None,
) -> Float[Tensor, "*batch d_model"]:
    """What the attention adds to the residual stream; `like` freezes its norm at another z."""
    frozen = None if like is None or p.ends.write is None else p.o(like.flatten(-2))
    return norm(p.o(z.flatten(-2)), p.ends.write, frozen)


def add(
    resid: Float[Tensor, "*batch d_model"],
    write: Float[Tensor, "*batch d_model"],
    p: Ends,
    like: Float[Tensor, "*rows d_model"] | None = None,
) -> Float[Tensor, "*batch d_model"]:
    """The residual stream after a write."""
    return norm(resid + write, p.sum, like)


def mlp(
    x: Float[Tensor, "*batch d_model"],
    p: MLP,
    like: Float[Tensor, "*rows d_model"] | None = None,
) -> Float[Tensor, "*batch d_model"]:
    """What the layer's MLP writes for a residual stream x; `like` freezes its norms at another."""
    flat = x.reshape(-1, x.shape[-1])
    if like is None:
        size = Limits.of(x.device).mlp_tokens(p.down.inputs)
        if len(flat) <= size:
            return _mlp(flat, p).view(x.shape)
        return torch.cat([_mlp(rows, p) for rows in flat.split(size)]).view(x.shape)
    frozen = None if p.ends.write is None else made(like, p)
    return norm(made(x, p, like), p.ends.write, frozen)


def _mlp(x: Float[Tensor, "rows d_model"], p: MLP) -> Float[Tensor, "rows d_model"]:
    return norm(made(x, p), p.ends.write)


def made(
    x: Float[Tensor, "*batch d_model"],
    p: MLP,
    like: Float[Tensor, "*rows d_model"] | None = None,
    weights: Float[Tensor, "*batch expert"] | None = None,
) -> Float[Tensor, "*batch d_model"]:
    """What the MLP writes before a norm of it; experts may be given weights of one's own."""
    if p.mixture is None:
        return p.down(hidden(x, p, like))
    x = norm(x, p.ends.read, like)
    own = None if weights is None else weights.flatten(0, -2)
    return p.mixture(x.reshape(-1, x.shape[-1]), own).view(x.shape)


def routed(
    x: Float[Tensor, "*batch d_model"],
    p: MLP,
    like: Float[Tensor, "*rows d_model"] | None = None,
) -> Float[Tensor, "*batch expert"]:
    """The weight that each expert of a mixture has."""
    assert p.mixture is not None  # dense models have no such site
    return p.mixture.weights(norm(x, p.ends.read, like))


def experts(x: Float[Tensor, "*batch d_model"], p: MLP) -> Float[Tensor, "*batch expert d_model"]:
    """What each expert of a mixture adds to its output."""
    assert p.mixture is not None
    x = norm(x, p.ends.read)
    weights = p.mixture.weights(x)
    return torch.stack([p.mixture.one(x, e, weights) for e in range(weights.shape[-1])], -2)


def hidden(
    x: Float[Tensor, "*batch d_model"],
    p: MLP,
    like: Float[Tensor, "*rows d_model"] | None = None,
    *,
    neurons: Int[Tensor, " some"] | None = None,
    weights: Float[Tensor, "*batch expert"] | None = None,
) -> Float[Tensor, "*batch d_mlp"]:
    """Activations of the MLP's neurons, of all or some: what enters the down projection.

    `weights`: of experts, in place of the router's.
    """
    gate, up = p.gate, p.up
    if neurons is not None:
        gate, up = None if gate is None else gate.pick(neurons), up.pick(neurons)
    x = norm(x, p.ends.read, like)
    if gate is None:
        return p.activation(up(x))
    act = p.activation(gate(x))
    if p.mixture is None:
        return act * up(x) if torch.is_grad_enabled() else act.mul_(up(x))
    beside = up(x) if p.mixture.lift is None else p.mixture.lift(up(x))
    weights = p.mixture.weights(x) if weights is None else weights
    return act * beside * p.mixture.spread(x, weights, neurons).to(act.dtype)


def unembed(
    w: Weights,
    resid: Float[Tensor, "cells batch d_model"],
    columns: Int[Tensor, "batch columns"] | None = None,
    like: Float[Tensor, "batch d_model"] | None = None,
) -> Float[Tensor, "cells batch columns"]:
    """Logits of the final residual stream; only the given vocabulary columns of each row.

    They come back to where that stream is, wherever the unembedding lies.
    """
    p = w.unembed
    assert p is not None  # accept() refuses metrics of logits where there are none
    asked, there = resid.device, p.linear.device
    columns = None if columns is None else columns.to(there)
    if p.norm is not None:
        first = p.norm.weight.device
        resid = norm(resid.to(first), p.norm, None if like is None else like.to(first))
    x = resid if p.scale is None else resid * p.scale
    if p.transform is not None and p.activation is not None:
        x = p.activation(p.transform(x.to(p.transform.device)))
        if p.transform_norm is not None:
            x = norm(x.to(p.transform_norm.weight.device), p.transform_norm)
    x = x.to(there)
    if columns is None:
        logits = p.linear(x)
    elif isinstance(p.linear, Packed):
        index = columns.expand(len(x), -1, -1)
        logits = p.linear(x).gather(-1, index)
    else:
        rows = wide(F.embedding(columns, p.linear.weight))
        logits = torch.einsum("cbd,bvd->cbv", x.to(rows.dtype), rows)
        if p.linear.bias is not None:
            logits = logits + F.embedding(columns, p.linear.bias[:, None])[..., 0]
    logits = logits if p.cap is None else p.cap * (logits / p.cap).tanh()
    return logits.to(asked)
