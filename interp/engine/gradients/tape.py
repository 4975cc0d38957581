"""Gradients on the replay: of a metric, at what every reader reads and every writer writes.

A layer runs in pieces with small graphs of their own: a few queries of its attention, a few tokens
of its MLP. Going back, the gradient of the residual stream is carried from layer to layer by hand.
So the gradient at what each reader reads is a term of the sum that goes on anyway (nothing is
computed twice), and what one layer passes on can be left out. Where the graphs of all layers do not
fit, a layer's pieces are made again when its turn comes: then no pattern or hidden layer is held.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd import grad

from interp.engine.gradients.norms import pulled, pushed
from interp.engine.limits import Limits
from interp.engine.network import forward
from interp.engine.network.linear import Map
from interp.engine.network.trace import project
from interp.engine.network.weights import Attention, Block, Weights

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


class Attended(NamedTuple):
    """An attention of a layer as it ran.

    Attributes:
        resid: what its queries read.
        memory: what its keys and values read, normed, where that is an encoder's; else they read
            what its queries do.
        z: outputs of the heads.
        given: were these set, so that nothing went through its queries, keys and values?
        graphs: the pieces of the attention and of its output projection; None where they are to be
            made again.
    """

    p: Attention
    resid: Float[Tensor, "batch pos d_model"]
    memory: Float[Tensor, "batch key d_model"] | None
    z: Float[Tensor, "batch pos head d_head"]
    given: bool
    graphs: tuple[tuple[Piece, ...], Piece] | None


@dataclass(frozen=True, eq=False)
class Taped:
    """One layer as it ran.

    Attributes:
        attended: its attention, and after that of a decoder the one to the encoder.
        graphs: of its MLP, None where they are to be made again.
    """

    layer: int
    attended: tuple[Attended, ...]
    mlp_out: Float[Tensor, "batch pos d_model"]
    graphs: tuple[Piece, ...] | None

    @property
    def resid(self) -> Float[Tensor, "batch pos d_model"]:
        """What it reads."""
        return self.attended[0].resid


class Tape(NamedTuple):
    """Layers from some on, in order, and the residual stream after the last."""

    layers: tuple[Taped, ...]
    final: Float[Tensor, "batch pos d_model"]


class Inner(NamedTuple):
    """Gradients at an attention.

    Attributes:
        inputs: at its queries, keys and values as the replay stores them, `batch pos index d_head`;
            None where the outputs of heads were given.
        z: at the outputs of heads.
    """

    inputs: QKV | None
    z: Float[Tensor, "batch pos head d_head"]


class Slopes(NamedTuple):
    """Gradients at one layer.

    Attributes:
        attended: at each of its attentions.
        mlp: at the residual stream as the MLP reads it.
        mlp_out: at what the MLP writes.
        resid: at the residual stream that enters the layer, for all its readers from there on.
        memory: at what a decoder reads of the encoder, normed, for all readers from there on.
    """

    layer: int
    attended: tuple[Inner, ...]
    mlp: Float[Tensor, "batch pos d_model"]
    mlp_out: Float[Tensor, "batch pos d_model"]
    resid: Float[Tensor, "batch pos d_model"]
    memory: Float[Tensor, "batch key d_model"] | None


class After(NamedTuple):
    """Gradients that a layer is given: at the stream after it, and at what is read beside it."""

    resid: Float[Tensor, "batch pos d_model"]
    memory: Float[Tensor, "batch key d_model"] | None = None


def tape(
    w: Weights,
    resid: Float[Tensor, "batch pos d_model"],
    *,
    start: int = 0,
    z: Float[Tensor, "batch pos head d_head"] | None = None,
    cross: bool = False,
    memory: Float[Tensor, "batch key d_model"] | None = None,
    graphs: bool = True,
) -> Tape:
    """Run the layers from `start` on, each where it lies.

    Args:
        resid: what enters the first of them.
        z: outputs of its heads, in place of those that it would compute; `cross`: of the heads of
            its attention to the encoder.
        memory: what a decoder reads of the encoder, normed.
        graphs: hold those of all layers? Else they are made again.
    """
    layers = []
    for layer, block in enumerate(w.blocks[start:], start):
        resid = resid.detach().to(block.device)
        attended, after = list[Attended](), resid
        for p, read in _attentions(block, memory):
            own = z if layer == start and cross == (read is not None) else None
            one, wrote = _attend(w, p, after, read, own, graphs=graphs)
            attended.append(one)
            after = after + wrote
        mlp, out = [], []
        for piece in _mlp(w, layer, resid if w.facts.parallel else after):
            out.append(piece.made.detach())
            mlp += [piece] * graphs
        wrote = torch.cat(out).view(resid.shape)
        layers.append(Taped(layer, tuple(attended), wrote, tuple(mlp) if graphs else None))
        resid = after + wrote
    return Tape(tuple(layers), resid.to(w.embed.tokens.device))


def _attentions(
    block: Block, memory: Float[Tensor, "batch key d_model"] | None
) -> list[tuple[Attention, Float[Tensor, "batch key d_model"] | None]]:
    """Those of a layer, each with what its keys and values read beside the stream."""
    if block.cross is None or memory is None:
        return [(block.attention, None)]
    return [(block.attention, None), (block.cross, memory.detach().to(block.device))]


def _attend(
    w: Weights,
    p: Attention,
    resid: Float[Tensor, "batch pos d_model"],
    memory: Float[Tensor, "batch key d_model"] | None,
    z: Float[Tensor, "batch pos head d_head"] | None,
    *,
    graphs: bool,
) -> tuple[Attended, Float[Tensor, "batch pos d_model"]]:
    """An attention as it runs, and what it writes; z: outputs of heads that are set."""
    pieces, heads = [], z
    if z is None:
        made = []
        for piece in _attention(w, p, resid, memory):
            made.append(piece.made.detach())
            pieces += [piece] * graphs
        heads = torch.cat(made, 1)
    assert heads is not None
    heads = heads.detach().to(resid.device)
    write = _write(p, heads)
    held = (tuple(pieces), write) if graphs else None
    return Attended(p, resid, memory, heads, z is not None, held), write.made.detach()


def back(w: Weights, taped: Taped, afters: Sequence[After]) -> list[Slopes]:
    """The gradients at a layer, where it lies, from each of several at the stream after it.

    Its graphs are gone then.
    """
    layer, resid, facts, held = taped.layer, taped.resid, w.facts, taped.graphs
    ends = [after.resid.to(resid.device) for after in afters]
    memories = [after.memory for after in afters]
    writes = [one.graphs[1] if one.graphs else _write(one.p, one.z) for one in taped.attended]
    if facts.d_mlp:
        if held is None:
            mid = taped.attended[-1].resid + writes[-1].made.detach()
            held = _mlp(w, layer, resid if facts.parallel else mid)
        mlps = _through_mlp(held, ends)
    else:
        mlps = [torch.zeros_like(after) for after in ends]
    mids = [a if facts.parallel else a + mlp for a, mlp in zip(ends, mlps, strict=True)]
    inner: list[list[Inner]] = [[] for _ in afters]
    for one, write in zip(reversed(taped.attended), reversed(writes), strict=True):
        mids, memories = _through(w, one, write, mids, memories, inner)
    found = []
    for mlp, after, mid, memory, made in zip(mlps, ends, mids, memories, inner, strict=True):
        # where attention and MLP read one stream, the MLP's gradient joins behind both
        passed = mid + mlp if facts.parallel else mid
        found.append(Slopes(layer, tuple(made), mlp, after, passed, memory))
    return found


def _through(
    w: Weights,
    one: Attended,
    write: Piece,
    mids: Sequence[Float[Tensor, "batch pos d_model"]],
    memories: Sequence[Float[Tensor, "batch key d_model"] | None],
    inner: Sequence[list[Inner]],
) -> tuple[list[Tensor], list[Tensor | None]]:
    """The gradients before an attention, from those after it; what is inside goes to `inner`."""
    p, d_head = one.p, w.facts.d_head
    zs = [z for (z,) in _each(write, mids)]
    if one.given:
        for held, z in zip(inner, zs, strict=True):
            held.insert(0, Inner(None, z))
        return list(mids), list(memories)
    pieces = one.graphs[0] if one.graphs else _attention(w, p, one.resid, one.memory)
    before, kept = list[Tensor](), list[Tensor | None]()
    inputs = _through_attention(pieces, zs, one.memory)
    for held, mid, memory, z, made in zip(inner, mids, memories, zs, inputs, strict=True):
        held.insert(0, Inner(made, z))
        q, k, v = (
            forward.wide(torch.einsum("bphe,hed->bpd", g, part.by_head(d_head)))
            for g, part in zip(made, (p.q, p.k, p.v), strict=True)
        )
        if one.memory is None:
            read = q + k + v
        else:
            read, own = q, k + v
            memory = own if memory is None else memory.to(own.device) + own
        before.append(mid + pulled(one.resid, p.ends.read, read[:, None])[:, 0])
        kept.append(memory)
    return before, kept


def at_readers(
    w: Weights,
    p: Attention,
    resid: Float[Tensor, "batch pos d_model"],
    inputs: Sequence[Tensor],
    parts: Sequence[Map] | None = None,
) -> Float[Tensor, "batch reader pos d_model"]:
    """Gradients at the stream as each query, key and value of an attention reads it.

    Args:
        resid, inputs: what it reads, and the gradients at these, at some positions.
        parts: which of the three they are of, all by default.
    """
    made = projected(w, (p.q, p.k, p.v) if parts is None else parts, inputs)
    return pulled(resid, p.ends.read, made)


def projected(
    w: Weights, parts: Sequence[Map], inputs: Sequence[Tensor]
) -> Float[Tensor, "batch reader pos d_model"]:
    """Gradients before projections, from those behind them, each head by itself."""
    each = [
        torch.einsum("bphe,hed->bhpd", g, part.by_head(w.facts.d_head))
        for g, part in zip(inputs, parts, strict=True)
    ]
    return torch.cat(each, 1)


def _each(piece: Piece, at: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    """Gradients at leaves from each of several at what was made of them; its graph is gone then."""
    last = len(at) - 1
    return [grad(piece.made, piece.leaves, g, retain_graph=i < last) for i, g in enumerate(at)]


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_()


def _write(p: Attention, z: Float[Tensor, "batch pos head d_head"]) -> Piece:
    """What the heads of an attention add to the residual stream."""
    leaf = _leaf(z)
    with torch.enable_grad():
        made = forward.attention_write(leaf, p)
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
    w: Weights,
    p: Attention,
    resid: Float[Tensor, "batch pos d_model"],
    memory: Float[Tensor, "batch key d_model"] | None,
) -> Iterator[Piece]:
    """Outputs of the heads of an attention, a few queries at a time."""
    causal = w.facts.causal and memory is None
    q, k, v = project(w, p, resid, memory)
    turn = None if memory is not None else forward.rotation(forward.rotations(w, q.shape[1]), p)
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
    pieces: Iterable[Piece],
    zs: Sequence[Float[Tensor, "batch pos head d_head"]],
    memory: Float[Tensor, "batch key d_model"] | None,
) -> list[QKV]:
    """Gradients at queries, keys and values."""
    queries: list[list[Tensor]] = [[] for _ in zs]
    keys: list[tuple[Tensor, Tensor]] = []
    for piece in pieces:
        for i, (q, k, v) in enumerate(_each(piece, [z[:, piece.some] for z in zs])):
            queries[i].append(q)
            if len(keys) <= i:
                whole = (zs[i] if memory is None else memory).shape[1] - k.shape[1]
                keys.append(tuple(F.pad(t, (0, 0, 0, 0, 0, whole)) for t in (k, v)))
            else:
                for held, g in zip(keys[i], (k, v), strict=True):
                    held[:, : piece.last] += g
    return [(torch.cat(q, 1), k, v) for q, (k, v) in zip(queries, keys, strict=True)]


def written(
    w: Weights,
    p: Attention,
    z: Float[Tensor, "batch pos head d_head"],
    change: Float[Tensor, "batch pos head d_head"],
) -> Float[Tensor, "batch head pos d_model"]:
    """What each head's change adds to the residual stream, to first order in a norm on the write.

    z: of the run that is changed.
    """
    o = p.o.summands().unflatten(1, (-1, w.facts.d_head))
    each = torch.einsum("bphe,dhe->bhpd", change, o)
    return each if p.ends.write is None else pushed(p.o(z.flatten(-2)), p.ends.write, each)
