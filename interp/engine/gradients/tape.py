"""Gradients on the replay: of a metric, at what every reader reads and every writer writes.

A run is taped layer by layer. Each layer has two small graphs of its own, of its attention and of
its MLP, that begin at leaves; going back, the gradient of the residual stream is carried from
layer to layer by hand. So the gradient at what each reader reads is a term of the sum that goes on
anyway (nothing is computed twice), only one layer's readers are held at a time, and what one layer
passes on can be left out.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import grad

from interp.core.errors import Unsupported
from interp.engine.network import forward
from interp.engine.network.weights import Attention, Norm, Weights, maps


@dataclass(frozen=True, eq=False)
class Taped:
    """One layer as it ran, with the graphs of its attention and its MLP.

    Attributes:
        resid: what the layer reads.
        read: queries, keys and values as the replay stores them: leaves. None of attention whose
            output was given.
        pattern: of attention, `1 batch group in_group query key`.
        z: outputs of the heads; a leaf where it was given.
        x: what the MLP reads: a leaf.
    """

    layer: int
    resid: Float[Tensor, "batch pos d_model"]
    read: tuple[Tensor, Tensor, Tensor] | None
    pattern: Tensor | None
    z: Float[Tensor, "batch pos head d_head"]
    attn_out: Float[Tensor, "batch pos d_model"]
    x: Float[Tensor, "batch pos d_model"]
    mlp_out: Float[Tensor, "batch pos d_model"]


class Tape(NamedTuple):
    """Layers from some on, in order, and the residual stream after the last."""

    layers: tuple[Taped, ...]
    final: Float[Tensor, "batch pos d_model"]


class Slopes(NamedTuple):
    """Gradients at one layer.

    Attributes:
        readers: at the residual stream as each query, key and value reads it, in this order of
            heads and groups; None of attention that was given.
        mlp: ... as the MLP reads it.
        pattern, z, mlp_out: at the probabilities, the outputs of heads, what the MLP writes.
        resid: at the residual stream that enters the layer, for all its readers from there on.
    """

    layer: int
    readers: Float[Tensor, "batch reader pos d_model"] | None
    mlp: Float[Tensor, "batch pos d_model"]
    pattern: Tensor | None
    z: Float[Tensor, "batch pos head d_head"]
    mlp_out: Float[Tensor, "batch pos d_model"]
    resid: Float[Tensor, "batch pos d_model"]


def require_sums(w: Weights, name: str) -> None:
    """Refuse a model whose residual stream is no sum of what was written.

    Raises:
        Unsupported: the norms stand on the sums, or modules round what enters them.
    """
    if any(b.attention.ends.sum or b.mlp.ends.sum for b in w.blocks):
        raise Unsupported(
            f"{name} norms its residual stream after every sum (post-norm), so the stream is no "
            "sum of writes and an edge has no linear term of its own; edge attribution is defined "
            "for pre-norm models (Hanna et al. 2024, sec. 2). Measure the effects instead: "
            "interp.causal.exact."
        )
    for one in maps(w):
        one.require_additive(
            "what is rounded in steps has no slope, so there is nothing to attribute by"
        )


def tape(
    w: Weights,
    resid: Float[Tensor, "batch pos d_model"],
    *,
    start: int = 0,
    z: Float[Tensor, "batch pos head d_head"] | None = None,
) -> Tape:
    """Run the layers from `start` on with graphs, each where it lies.

    Args:
        resid: what enters the first of them.
        z: outputs of its heads, in place of those that it would compute.
    """
    turn = forward.rotations(w, resid.shape[1])
    layers = []
    for layer, block in enumerate(w.blocks[start:], start):
        p, resid = block.attention, resid.detach().to(block.device)
        read = pattern = None
        if layer == start and z is not None:
            z = z.detach().to(block.device).requires_grad_()
        else:
            with torch.no_grad():
                x = forward.norm(resid, p.ends.read)
                made = (forward.project(x, part, w.facts.d_head) for part in (p.q, p.k, p.v))
            q, k, v = read = tuple(t.requires_grad_() for t in made)
            with torch.enable_grad():
                pattern, z = _attend(w, p, q, k, v, turn)
        with torch.enable_grad():
            attn_out = forward.attention_write(z, p)
        mid = resid + attn_out.detach()
        x = (resid if w.facts.parallel else mid).detach().requires_grad_()
        with torch.enable_grad():
            mlp_out = forward.mlp(x, block.mlp)
        layers.append(Taped(layer, resid, read, pattern, z, attn_out, x, mlp_out))
        resid = mid + mlp_out.detach()
    return Tape(tuple(layers), resid.to(w.embed.tokens.device))


def _attend(
    w: Weights, p: Attention, q: Tensor, k: Tensor, v: Tensor, turn: forward.Rotations
) -> tuple[Tensor, Float[Tensor, "batch pos head d_head"]]:
    place = torch.arange(q.shape[1], device=q.device).expand(len(q), -1)
    q, k = forward.head_norm(q, p.q_norm)[None], forward.head_norm(k, p.k_norm)
    keys = forward.Keys(k[:, :0], k[None])
    r = forward.rotation(turn, p)
    pattern = forward.pattern(p, q, keys, r, place, causal=w.facts.causal)
    return pattern, forward.mix(pattern, forward.Keys(v[:, :0], v[None]))[0]


def back(
    w: Weights,
    taped: Taped,
    after: Float[Tensor, "batch pos d_model"],
    *,
    again: bool = False,
) -> Slopes:
    """The gradients at a layer, where it lies, from that at the residual stream after it.

    `again`: keep the layer's graphs for another gradient.
    """
    p, after = w.blocks[taped.layer].attention, after.to(taped.resid.device)
    if w.facts.d_mlp:
        (mlp,) = grad(taped.mlp_out, taped.x, after, retain_graph=again)
    else:
        mlp = torch.zeros_like(after)
    mid = after if w.facts.parallel else after + mlp
    if taped.read is None or taped.pattern is None:
        (z,) = grad(taped.attn_out, taped.z, mid, retain_graph=again)
        return Slopes(taped.layer, None, mlp, None, z, after, mid)
    inner = (taped.z, taped.pattern, *taped.read)
    z, pattern, *made = grad(taped.attn_out, inner, mid, retain_graph=again)
    parts = [
        torch.einsum("bphe,hed->bhpd", g, part.by_head(w.facts.d_head))
        for g, part in zip(made, (p.q, p.k, p.v), strict=True)
    ]
    readers = pulled(taped.resid, p.ends.read, torch.cat(parts, 1))
    resid = after + mlp + readers.sum(1)
    return Slopes(taped.layer, readers, mlp, pattern, z, after, resid)


def pulled(
    x: Float[Tensor, "batch pos d_model"],
    p: Norm | None,
    g: Float[Tensor, "batch several pos d_model"],
) -> Float[Tensor, "batch several pos d_model"]:
    """Gradients at a norm's output, taken back to its input x: J^T g, for several at once."""
    if p is None:
        return g.to(x.dtype)
    with torch.enable_grad():
        each = x.detach()[:, None].expand(g.shape).requires_grad_()
        normed = forward.norm(each, p)
        (found,) = grad(normed, each, g.to(normed.dtype))
    return found


def pushed(
    x: Float[Tensor, "batch pos d_model"],
    p: Norm | None,
    change: Float[Tensor, "batch several pos d_model"],
) -> Float[Tensor, "batch several pos d_model"]:
    """Small changes of a norm's input x, as its output changes by them: J change.

    Without its weight a norm has a symmetric Jacobian, so this is the gradient's way, and then the
    weight.
    """
    if p is None:
        return change
    plain = replace(p, weight=torch.ones_like(p.weight), bias=None, offset=0.0)
    weight = forward.wide(p.weight) + p.offset
    return pulled(x, plain, change) * weight


def written(
    w: Weights,
    layer: int,
    z: Float[Tensor, "batch pos head d_head"],
    change: Float[Tensor, "batch pos head d_head"],
) -> Float[Tensor, "batch head pos d_model"]:
    """What each head's change adds to the residual stream, to first order in a norm on the write.

    z: of the run that is changed.
    """
    p = w.blocks[layer].attention
    o = p.o.summands().unflatten(1, (-1, w.facts.d_head))
    each = torch.einsum("bphe,dhe->bhpd", change, o)
    return each if p.ends.write is None else pushed(p.o(z.flatten(-2)), p.ends.write, each)
