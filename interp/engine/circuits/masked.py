"""Many circuits in one pass: every reader sums the writes that its own mask keeps.

What a reader reads is the sum of all ablated writes before it, which all circuits share, and for
each edge that is kept the change from the ablated write to the circuit's own. The changes are held;
a reader's mask is a row of a matrix that multiplies them. So a circuit of any number of edges costs
one forward and, in each layer, one product of `readers x writers` with the changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from interp.engine.circuits.wiring import QKV, Wiring
from interp.engine.network import forward
from interp.engine.network.ablated import Ablated
from interp.engine.network.linear import Map
from interp.engine.network.trace import Trace, take
from interp.engine.network.weights import Norm, Weights


def servable(w: Weights) -> bool:
    """Is what each reader reads a plain sum of writes, and does each head have its own norms?

    Where a write or the sum is normed, one edge's share depends on the others.
    """
    ends = [end for block in w.blocks for end in (block.attention.ends, block.mlp.ends)]
    norms = [n for block in w.blocks for n in (block.attention.q_norm, block.attention.k_norm)]
    plain = all(end.write is None and end.sum is None for end in ends)
    return plain and w.facts.language_model and not any(_joint(n, w) for n in norms)


def _joint(p: Norm | None, w: Weights) -> bool:
    return p is not None and p.weight.shape[0] != w.facts.d_head


class Order:
    """Tokens sorted by the class of their position, so that a class is a slice.

    Attributes:
        held: how many are of a class at which some edge is kept; these come first.
    """

    def __init__(self, classes: Int[Tensor, "batch window"], used: Bool[ndarray, " class"]) -> None:
        self.shape, flat = tuple(classes.shape), classes.flatten()
        last = torch.from_numpy(~used).to(flat.device)[flat] * len(used)
        self.index = (flat + last).argsort(stable=True)
        self.back = self.index.argsort()
        self.plain = bool((self.index == torch.arange(len(flat), device=flat.device)).all())
        counts = torch.bincount(flat, minlength=len(used)).tolist()
        self.slices, end = [], 0
        for kind in sorted(range(len(used)), key=lambda kind: (not used[kind], kind)):
            if counts[kind]:
                self.slices.append((kind, slice(end, end + counts[kind])))
                end += counts[kind]
        self.held = sum(count for count, on in zip(counts, used, strict=True) if on)

    def sorted(self, x: Float[Tensor, "*axes batch window d"]) -> Float[Tensor, "*axes token d"]:
        x = x.flatten(-3, -2)
        return x if self.plain else x.index_select(-2, self.index.to(x.device))

    def first(self, x: Float[Tensor, "*axes batch window d"]) -> Float[Tensor, "*axes held d"]:
        """Those at which some edge is kept."""
        x = x.flatten(-3, -2)
        if self.plain:
            return x[..., : self.held, :]
        return x.index_select(-2, self.index[: self.held].to(x.device))

    def unsorted(self, x: Float[Tensor, "*axes token d"]) -> Float[Tensor, "*axes batch window d"]:
        x = x if self.plain else x.index_select(-2, self.back)
        return x.unflatten(-2, self.shape)


def run(
    w: Weights,
    wiring: Wiring,
    kept: Bool[ndarray, "circuit class reader writer"],
    *,
    clean: Trace,
    ablated: Ablated,
    tokens: Int[Tensor, "batch pos"],
    classes: Int[Tensor, "batch pos"],
    read: Int[Tensor, "batch read"],
    start: int = 0,
    resampled: bool = False,
    reuse: bool = True,
) -> Float[Tensor, "circuit batch read d_model"]:
    """The final residual stream of the model with only these circuits, as the logits read it.

    Differentiable in `ablated`.

    Args:
        kept: the edges of each circuit, for each class of positions.
        clean: keys, values, z and MLP outputs of the clean run.
        classes: which class each position is of.
        start: no token before this one differs between the clean and the ablated run, nor can it
            see one that does; keys and values there are the clean run's.
        resampled: the ablated values are those of a run of their own, so that a writer which no
            kept path from the embedding reaches has its ablated value anyway.
        reuse: take the layers before the first cut from the clean run.
    """
    made = _Pass(w, wiring, kept, clean, ablated, tokens, classes, read, start, resampled)
    return made.final(wiring.whole(kept.all(1)) if reuse else 0)


@dataclass(eq=False)
class _Pass:
    w: Weights
    wiring: Wiring
    kept: Bool[ndarray, "circuit class reader writer"]
    clean: Trace
    ablated: Ablated
    tokens: Int[Tensor, "batch pos"]
    classes: Int[Tensor, "batch pos"]
    read: Int[Tensor, "batch read"]
    start: int
    resampled: bool

    def __post_init__(self) -> None:
        anywhere = self.kept.any(1)
        self.active = self.wiring.read(anywhere)
        if self.resampled:
            self.active &= self.wiring.reached(anywhere)
        used = self.active.any(0)
        self.slot = np.cumsum(used) - 1
        batch, pos = self.tokens.shape
        device = self.tokens.device
        self.turn = forward.rotations(self.w, pos)
        self.window = torch.arange(self.start, pos, device=device).expand(batch, -1)
        self.some = (self.kept & self.active[:, None, None]).any((0, 2, 3))
        self.order = Order(self.classes[:, self.start :], self.some)
        embed = forward.embed(self.w, self.tokens)
        cut = self.here(self.ablated.embed)
        self.stream = self.order.sorted(cut)
        shape = (len(self.kept), int(used.sum()), self.order.held, self.stream.shape[-1])
        self.changes = embed.new_zeros(shape)
        if used[0]:
            self.changes[:, 0] = self.order.first(self.here(embed) - cut)

    def here(self, x: Float[Tensor, "_ _ *axes"]) -> Float[Tensor, "batch window *axes"]:
        """An activation of all positions at those that are computed."""
        return take(x.expand(*self.tokens.shape, *x.shape[2:]), self.window)

    def final(self, first: int) -> Float[Tensor, "circuit batch read d_model"]:
        """Up the layers; those before `first` are the clean run's."""
        last = self.w.facts.n_layers - 1
        for layer in range(last + 1):
            self.layer(layer, clean=layer < first, last=layer == last)
        row = np.array([self.wiring.logits])
        found = [self.order.unsorted(self.reads(c, row)[0]) for c in range(len(self.kept))]
        return torch.stack(found)

    def layer(self, layer: int, *, clean: bool, last: bool) -> None:
        """Attention and MLP, or their values in the clean run where nothing is cut."""
        p = self.w.blocks[layer].attention
        on = np.flatnonzero(self.active[:, self.wiring.heads[layer]].any(1)).tolist()
        compute = on if not clean else []
        both: list[QKV] = ["k", "v"] if last else ["q", "k", "v"]
        made = [self.project(circuit, layer, both) for circuit in compute]
        if last:
            self.narrow()
            for found, circuit in zip(made, compute, strict=True):
                found |= self.project(circuit, layer, ["q"])
        parallel = self.w.facts.parallel
        entering = self.mlp_inputs(layer, clean=clean) if parallel else None
        cut = self.here(self.ablated.z[layer]).to(p.o.device)
        if clean and on:
            z = self.here(self.clean.kept["z"][layer]).to(cut.device)
            self.write_heads(layer, on, z.expand(len(on), *cut.shape) - cut)
        elif on:
            z = self.attend(layer, made, consecutive=not last)
            self.write_heads(layer, on, z - cut)
        written = forward.attention_write(cut, p).to(self.stream.device)
        self.stream = self.stream + self.order.sorted(written)
        if not self.wiring.mlps:
            return
        if not parallel:
            entering = self.mlp_inputs(layer, clean=clean)
        self.write_mlp(layer, entering)

    def reads(
        self, circuit: int, rows: Int[ndarray, " row"], *, held: bool = False
    ) -> Float[Tensor, "readers token d_model"]:
        """What readers read in one circuit; one for all where they read the same.

        held: at the tokens alone at which some edge is kept.
        """
        masks = self.kept[circuit][:, rows] & self.active[circuit]
        if (masks == masks[:, :1]).all():
            masks = masks[:, :1]
        parts = []
        for kind, tokens in self.order.slices:
            if held and not self.some[kind]:
                break
            mask, plain = masks[kind], self.stream[tokens]
            columns = np.flatnonzero(mask.any(0))
            if not len(columns):
                parts.append(plain.expand(len(mask), *plain.shape))
                continue
            change = self.changes[circuit, :, tokens]
            slots = self.slot[columns]
            if 2 * len(slots) > slots[-1]:  # most of them: as they lie
                weight = np.zeros((len(mask), slots[-1] + 1), dtype=bool)
                weight[:, slots], change = mask[:, columns], change[: slots[-1] + 1]
            else:
                weight = mask[:, columns]
                change = change.index_select(0, torch.from_numpy(slots).to(change.device))
            product = torch.from_numpy(weight).to(change) @ change.flatten(1)
            parts.append(plain + product.unflatten(1, plain.shape))
        if not parts:  # of what the logits read nothing is kept
            return self.stream[:0].expand(len(rows), -1, -1)
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def project(
        self, circuit: int, layer: int, kinds: Sequence[QKV]
    ) -> dict[QKV, Float[Tensor, "batch window index d_head"]]:
        """Queries, keys or values of the heads that count; 0 for the others."""
        p, facts = self.w.blocks[layer].attention, self.w.facts
        heads = self.active[circuit, self.wiring.heads[layer]]
        groups = heads.reshape(-1, facts.group_size).any(1)
        chosen = {kind: np.flatnonzero(heads if kind == "q" else groups) for kind in kinds}
        rows = np.concatenate([self.wiring.rows[layer][kind][chosen[kind]] for kind in kinds])
        x = self.order.unsorted(self.reads(circuit, rows))
        x = forward.norm(x.to(p.o.device), p.ends.read)
        linear = {"q": p.q, "k": p.k, "v": p.v}
        if len(x) == 1:
            return {kind: forward.project(x[0], linear[kind], facts.d_head) for kind in kinds}
        counts = [len(chosen[kind]) for kind in kinds]
        return {
            kind: _each(part, linear[kind], chosen[kind], facts.d_head)
            for kind, part in zip(kinds, x.split(counts), strict=True)
        }

    def attend(
        self, layer: int, made: Sequence[dict[QKV, Tensor]], *, consecutive: bool
    ) -> Float[Tensor, "circuit batch window head d_head"]:
        p = self.w.blocks[layer].attention
        q, k, v = (torch.stack([found[kind] for found in made]) for kind in ("q", "k", "v"))
        past_k, past_v = (self.clean.kept[kind][layer][:, : self.start] for kind in ("k", "v"))
        keys = forward.Keys(forward.head_norm(past_k, p.k_norm), forward.head_norm(k, p.k_norm))
        return forward.attend(
            p,
            forward.head_norm(q, p.q_norm),
            keys,
            forward.Keys(past_v, v),
            forward.rotation(self.turn, p),
            self.window.to(q.device),
            causal=self.w.facts.causal,
            consecutive=consecutive,
        )

    def write_heads(
        self,
        layer: int,
        circuits: Sequence[int],
        changes: Float[Tensor, "circuit batch window head d_head"],
    ) -> None:
        """Through each head's own part of the output projection."""
        columns = self.wiring.heads[layer]
        heads = np.flatnonzero(self.active[:, columns].any(0))
        slots = self.slot[columns[heads]]
        o = self.w.blocks[layer].attention.o.summands().unflatten(1, (-1, self.w.facts.d_head))
        chosen = torch.from_numpy(heads).to(changes.device)
        o = o.index_select(1, chosen).permute(1, 2, 0)  # head d_head d_model
        for circuit, change in zip(circuits, changes, strict=True):
            by_head = change.index_select(2, chosen).permute(2, 0, 1, 3)
            written = self.order.first(by_head) @ o
            self.changes[circuit, slots[0] : slots[-1] + 1] = written.to(self.changes.device)

    def mlp_inputs(
        self, layer: int, *, clean: bool
    ) -> tuple[list[int], Float[Tensor, "circuit held d_model"] | None]:
        """The circuits in which the MLP counts, and what it reads in each, if that is needed."""
        if not self.wiring.mlps:
            return [], None
        row, column = self.wiring.mlps[layer]
        on = np.flatnonzero(self.active[:, column]).tolist()
        if clean or not on:
            return on, None
        alone = np.array([row])
        return on, torch.stack([self.reads(circuit, alone, held=True)[0] for circuit in on])

    def write_mlp(self, layer: int, entering: tuple[list[int], Tensor | None] | None) -> None:
        assert entering is not None
        on, x = entering
        cut = self.here(self.ablated.mlp_out[layer])
        if on:
            if x is None:
                written = self.order.first(self.here(self.clean.kept["mlp_out"][layer]))[None]
            else:
                block = self.w.blocks[layer]
                written = forward.mlp(x.to(block.device), block.mlp).to(cut.device)
            slot = self.slot[self.wiring.mlps[layer][1]]
            change = written - self.order.first(cut)
            self.changes[on, slot] = change.to(self.changes.dtype)
        self.stream = self.stream + self.order.sorted(cut)

    def narrow(self) -> None:
        """Go on with the positions that are read alone."""
        batch, width = self.window.shape
        local = self.read - self.start
        flat = (torch.arange(batch, device=local.device)[:, None] * width + local).flatten()
        order = Order(self.classes.gather(1, self.read), self.some)
        index = self.order.back[flat][order.index]
        self.stream = self.stream.index_select(-2, index)
        self.changes = self.changes.index_select(-2, index[: order.held])
        self.window, self.order = self.read, order


def _each(
    x: Float[Tensor, "reader batch window d_model"],
    p: Map,
    chosen: Int[ndarray, " reader"],
    d_head: int,
) -> Float[Tensor, "batch window index d_head"]:
    """Each reader's stream through its own part of a projection; 0 for heads that are not read."""
    weight = p.by_head(d_head)
    bias = None if p.bias is None else p.bias.unflatten(0, (-1, d_head))
    count, index = len(weight), torch.from_numpy(chosen).to(x.device)
    if len(chosen) < count:
        weight = weight.index_select(0, index)
        bias = None if bias is None else bias.index_select(0, index)
    found = torch.bmm(x.flatten(1, 2).to(weight.dtype), weight.transpose(1, 2))
    if bias is not None:
        found = found + bias[:, None]
    if len(chosen) < count:
        found = found.new_zeros(count, *found.shape[1:]).index_copy(0, index, found)
    return found.unflatten(1, x.shape[1:3]).permute(1, 2, 0, 3)
