"""Gradients on the replay: of a metric, at what every reader reads and every writer writes.

A layer runs in pieces with small graphs of their own: a few queries of its attention, a few tokens
of its MLP. Going back, the gradient of the residual stream is carried from layer to layer by hand.
So the gradient at what each reader reads is a term of the sum that goes on anyway (nothing is
computed twice), and what one layer passes on can be left out. Where the graphs of all layers do not
fit, a layer's pieces are made again when its turn comes: then no pattern or hidden layer is held.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd import grad

from interp.core.errors import Unsupported
from interp.engine.limits import Limits
from interp.engine.network import forward
from interp.engine.network.trace import project
from interp.engine.network.weights import Norm, Weights, maps

QKV = tuple[Tensor, Tensor, Tensor]


class Piece(NamedTuple):
    """Some queries, or some tokens of all rows: the leaves of a graph, and what is made of them.

    Attributes:
        last: how many keys are among the leaves.
    """

    some: slice
    last: int
    leaves: tuple[Tensor, ...]
    made: Tensor


class Graphs(NamedTuple):
    """The pieces of a layer: of its attention, of its output projection, of its MLP."""

    attention: tuple[Piece, ...]
    write: Piece
    mlp: tuple[Piece, ...]


@dataclass(frozen=True, eq=False)
class Taped:
    """One layer as it ran.

    Attributes:
        resid: what it reads.
        z: outputs of the heads.
        given: were these set, so that nothing went through its queries, keys and values?
        graphs: None where they are to be made again.
    """

    layer: int
    resid: Float[Tensor, "batch pos d_model"]
    z: Float[Tensor, "batch pos head d_head"]
    mlp_out: Float[Tensor, "batch pos d_model"]
    given: bool
    graphs: Graphs | None


class Tape(NamedTuple):
    """Layers from some on, in order, and the residual stream after the last."""

    layers: tuple[Taped, ...]
    final: Float[Tensor, "batch pos d_model"]


class Slopes(NamedTuple):
    """Gradients at one layer.

    Attributes:
        inputs: at its queries, keys and values as the replay stores them, `batch pos index d_head`;
            None where the outputs of heads were given.
        mlp: at the residual stream as the MLP reads it.
        z, mlp_out: at the outputs of heads, at what the MLP writes.
        resid: at the residual stream that enters the layer, for all its readers from there on.
    """

    layer: int
    inputs: QKV | None
    mlp: Float[Tensor, "batch pos d_model"]
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
    graphs: bool = True,
) -> Tape:
    """Run the layers from `start` on, each where it lies.

    Args:
        resid: what enters the first of them.
        z: outputs of its heads, in place of those that it would compute.
        graphs: hold those of all layers? Else they are made again.
    """
    layers = []
    for layer, block in enumerate(w.blocks[start:], start):
        resid = resid.detach().to(block.device)
        given = z is not None and layer == start
        attention, heads = [], z
        if not given:
            made = []
            for piece in _attention(w, layer, resid):
                made.append(piece.made.detach())
                attention += [piece] * graphs
            heads = torch.cat(made, 1)
        assert heads is not None
        heads = heads.detach().to(block.device)
        write, mlp, out = _write(w, layer, heads), [], []
        after = resid + write.made.detach()
        for piece in _mlp(w, layer, resid if w.facts.parallel else after):
            out.append(piece.made.detach())
            mlp += [piece] * graphs
        wrote = torch.cat(out).view(resid.shape)
        held = Graphs(tuple(attention), write, tuple(mlp)) if graphs else None
        layers.append(Taped(layer, resid, heads, wrote, given, held))
        resid = after + wrote
    return Tape(tuple(layers), resid.to(w.embed.tokens.device))


def back(
    w: Weights, taped: Taped, afters: Sequence[Float[Tensor, "batch pos d_model"]]
) -> list[Slopes]:
    """The gradients at a layer, where it lies, from each of several at the stream after it.

    Its graphs are gone then.
    """
    layer, resid, facts, held = taped.layer, taped.resid, w.facts, taped.graphs
    p, afters = w.blocks[layer].attention, [after.to(resid.device) for after in afters]
    write = held.write if held else _write(w, layer, taped.z)
    if facts.d_mlp:
        x = resid if facts.parallel else resid + write.made.detach()
        mlps = _through_mlp(held.mlp if held else _mlp(w, layer, x), afters)
    else:
        mlps = [torch.zeros_like(after) for after in afters]
    mids = [a if facts.parallel else a + mlp for a, mlp in zip(afters, mlps, strict=True)]
    zs = [z for (z,) in _each(write, mids)]
    if taped.given:
        ends = zip(mlps, zs, afters, mids, strict=True)
        return [Slopes(layer, None, mlp, z, after, mid) for mlp, z, after, mid in ends]
    inputs = _through_attention(held.attention if held else _attention(w, layer, resid), zs)
    found = []
    for after, mlp, z, made in zip(afters, mlps, zs, inputs, strict=True):
        read = sum(
            forward.wide(torch.einsum("bphe,hed->bpd", g, part.by_head(facts.d_head)))
            for g, part in zip(made, (p.q, p.k, p.v), strict=True)
        )
        assert isinstance(read, Tensor)
        passed = after + mlp + pulled(resid, p.ends.read, read[:, None])[:, 0]
        found.append(Slopes(layer, made, mlp, z, after, passed))
    return found


def at_readers(
    w: Weights, resid: Float[Tensor, "batch pos d_model"], layer: int, inputs: QKV
) -> Float[Tensor, "batch reader pos d_model"]:
    """Gradients at the stream as each query, key and value of a layer reads it, in this order.

    Args:
        resid, inputs: what enters the layer, and the gradients at what these are, at some
            positions.
    """
    p = w.blocks[layer].attention
    parts = [
        torch.einsum("bphe,hed->bhpd", g, part.by_head(w.facts.d_head))
        for g, part in zip(inputs, (p.q, p.k, p.v), strict=True)
    ]
    return pulled(resid, p.ends.read, torch.cat(parts, 1))


def _each(piece: Piece, at: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    """Gradients at leaves from each of several at what was made of them; its graph is gone then."""
    last = len(at) - 1
    return [grad(piece.made, piece.leaves, g, retain_graph=i < last) for i, g in enumerate(at)]


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_()


def _write(w: Weights, layer: int, z: Float[Tensor, "batch pos head d_head"]) -> Piece:
    """What the heads of a layer add to the residual stream."""
    leaf = _leaf(z)
    with torch.enable_grad():
        made = forward.attention_write(leaf, w.blocks[layer].attention)
    return Piece(slice(None), 0, (leaf,), made)


def _mlp(w: Weights, layer: int, x: Float[Tensor, "batch pos d_model"]) -> Iterator[Piece]:
    """What the MLP of a layer writes, a few tokens at a time."""
    p, flat = w.blocks[layer].mlp, x.flatten(0, 1)
    size = Limits.of(x.device).mlp_tokens(w.facts.d_mlp)
    for start in range(0, len(flat), size):
        some = slice(start, start + size)
        leaf = _leaf(flat[some])
        with torch.enable_grad():
            made = forward.mlp(leaf, p)
        yield Piece(some, 0, (leaf,), made)


def _attention(
    w: Weights, layer: int, resid: Float[Tensor, "batch pos d_model"]
) -> Iterator[Piece]:
    """Outputs of the heads of a layer, a few queries at a time."""
    p, causal = w.blocks[layer].attention, w.facts.causal
    q, k, v = project(w, p, resid)
    turn = forward.rotation(forward.rotations(w, q.shape[1]), p)
    place = torch.arange(q.shape[1], device=q.device).expand(len(q), -1)
    for some, last in forward.windows(q[None], 0, k.shape[1], triangle=causal):
        leaves = tuple(map(_leaf, (q[:, some], k[:, :last], v[:, :last])))
        with torch.enable_grad():
            queries = forward.head_norm(leaves[0], p.q_norm)[None]
            keys, values = forward.head_norm(leaves[1], p.k_norm), leaves[2]
            near = forward.Keys(keys[:, :0], keys[None])
            pattern = forward.pattern(p, queries, near, turn, place[:, some], causal=causal)
            made = forward.mix(pattern, forward.Keys(values[:, :0], values[None]))[0]
        yield Piece(some, last, leaves, made)


def _through_mlp(
    pieces: Iterable[Piece], afters: Sequence[Float[Tensor, "batch pos d_model"]]
) -> list[Float[Tensor, "batch pos d_model"]]:
    """Gradients at what the MLP reads."""
    found: list[list[Tensor]] = [[] for _ in afters]
    for piece in pieces:
        at = [after.flatten(0, 1)[piece.some] for after in afters]
        for parts, (g,) in zip(found, _each(piece, at), strict=True):
            parts.append(g)
    return [torch.cat(parts).view(afters[0].shape) for parts in found]


def _through_attention(
    pieces: Iterable[Piece], zs: Sequence[Float[Tensor, "batch pos head d_head"]]
) -> list[QKV]:
    """Gradients at queries, keys and values."""
    queries: list[list[Tensor]] = [[] for _ in zs]
    keys: list[tuple[Tensor, Tensor]] = []
    for piece in pieces:
        for i, (q, k, v) in enumerate(_each(piece, [z[:, piece.some] for z in zs])):
            queries[i].append(q)
            if len(keys) <= i:
                whole = zs[i].shape[1] - k.shape[1]
                keys.append(tuple(F.pad(t, (0, 0, 0, 0, 0, whole)) for t in (k, v)))
            else:
                for held, g in zip(keys[i], (k, v), strict=True):
                    held[:, : piece.last] += g
    return [(torch.cat(q, 1), k, v) for q, (k, v) in zip(queries, keys, strict=True)]


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
