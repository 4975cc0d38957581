"""What a wave does in each layer, for the cells that have joined it by then.

`at` is "" for a layer's attention to its own stream and "cross." for a decoder's to what the
encoder made, which is the same but for whom keys and values are made of.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.parts.sites import Site
from interp.engine.engines.replay import within
from interp.engine.engines.replay.apart import Own, Place, of_heads
from interp.engine.engines.replay.cache import Cache
from interp.engine.engines.replay.reading import attention_of, pick, projection, reading, slot
from interp.engine.engines.replay.stack import Stack
from interp.engine.engines.replay.streams import Ledger
from interp.engine.interventions import LN, Through
from interp.engine.network import forward
from interp.engine.network.linear import Packed
from interp.engine.network.trace import BETWEEN, Trace
from interp.engine.network.weights import Weights


@dataclass(frozen=True, eq=False)
class Layers:
    """The steps of one layer, each for the cells that have joined by then."""

    w: Weights
    base: Trace
    stack: Stack
    through: Through
    ln: LN
    turn: forward.Rotations
    start: int
    cache: Cache | None = None

    def enter(self, resid: Tensor, layer: int, window: Tensor) -> Tensor:
        """The residual stream that the layer reads."""
        resid = self.stack.join(resid, "resid_pre", layer, "resid_pre", window)
        resid = self.stack.apply(resid, layer, ("embed", "resid_pre"), window)
        if layer == 0 and len(resid):
            self.stack.note(0, "embed", resid, resid)
        return resid

    def input(self, resid: Tensor, site: Site, window: Tensor) -> Tensor:
        """The query, key or value that a receiver computes from a residual stream."""
        stream, layer = "resid_mid" if site.cross else "resid_pre", site.layer or 0
        like = self._like(stream, layer, window)
        x = forward.norm(resid, reading(self.w, site).ends.read, like)
        return projection(self.w, site)(x)

    def attention(
        self,
        resid: Tensor,
        layer: int,
        window: Tensor,
        query: Tensor,
        at: str = "",
    ) -> tuple[Tensor, Tensor]:
        """Residual stream before it and what attention writes, at the query positions."""
        stack, p = self.stack, attention_of(self.w, layer, at)
        before, kind, inside = "resid_mid" if at else "resid_pre", f"{at}attn_out", f"{at}z"
        if self.through == "all":
            resid, z = self._attend(resid, layer, window, query, at)
            z = stack.apply(stack.join(z, inside, layer, inside, query), layer, (inside,), query)
            attn_out = forward.attention_write(z, p, self._like(inside, layer, query))
        else:
            z = resid[:0]
            attn_out = stack.join(resid[:0], kind, layer, inside, query)
            if rows := stack.rows(layer, *(f"{at}{x}" for x in ("q", "k", "v", "pattern", "z"))):
                z = self._frozen(rows, layer, query, at)
                like = self._like(inside, layer, query)
                index = torch.tensor(rows, device=resid.device)
                attn_out = attn_out.index_copy(0, index, forward.attention_write(z, p, like))
        resid = stack.join(resid, before, layer, kind, query)
        attn_out = stack.join(attn_out, kind, layer, kind, query)
        attn_out = stack.apply(attn_out, layer, (kind,), query)
        stack.note(layer, kind, z, attn_out)
        return resid, attn_out

    def middle(self, resid: Tensor, attn_out: Tensor, layer: int, window: Tensor) -> Tensor:
        """The stream after attention."""
        stack, like = self.stack, None
        if self.ln == "freeze":
            like = stack.held("resid_pre", layer, window) + stack.held("attn_out", layer, window)
        mid = forward.add(resid, attn_out, self.w.blocks[layer].attention.ends, like)
        mid = stack.join(mid, "resid_mid", layer, "resid_mid", window)
        return stack.apply(mid, layer, ("resid_mid",), window)

    def across(self, mid: Tensor, layer: int, window: Tensor) -> Tensor:
        """The stream after a decoder's attention to what the encoder made."""
        stack, like = self.stack, None
        mid, wrote = self.attention(mid, layer, window, window, "cross.")
        if self.ln == "freeze":
            like = stack.held("resid_mid", layer, window)
            like = like + stack.held("cross.attn_out", layer, window)
        mid = forward.add(mid, wrote, attention_of(self.w, layer, "cross.").ends, like)
        return stack.join(mid, BETWEEN, layer, BETWEEN, window)

    def mlp(
        self,
        resid: Tensor,
        mid: Tensor,
        layer: int,
        window: Tensor,
        receivers: Sequence[Site],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The stream after attention, what the MLP writes, and what it computed of its input."""
        stack, block, before = self.stack, self.w.blocks[layer], self.stack.mid
        me = Site("mlp_out", layer, stack=self.w.stack)
        source = "resid_pre" if self.w.facts.parallel else before
        x = resid if self.w.facts.parallel else mid
        x = stack.join(x, source, layer, before, window)
        computed = mlp_out = mid[:0]
        if self.through != "direct" or me in receivers:
            x = self._named_mlp(x, me)
            computed = forward.mlp(x, block.mlp, self._like(source, layer, window))
        if self.through != "direct":
            mlp_out = computed if me not in receivers else computed.clone()
        mid = stack.join(mid, before, layer, "mlp_act", window)
        mlp_out = stack.join(mlp_out, "mlp_out", layer, "mlp_act", window)
        mlp_out = self._inside(x, mlp_out, layer, window)
        mid = stack.join(mid, before, layer, "mlp_out", window)
        mlp_out = stack.join(mlp_out, "mlp_out", layer, "mlp_out", window)
        mlp_out = stack.apply(mlp_out, layer, ("mlp_out",), window)
        stack.note(layer, "mlp_out", x, mlp_out)
        return mid, mlp_out, computed

    def _named_mlp(self, x: Tensor, reader: Site) -> Tensor:
        """What the MLP reads, where it reads a stream of its own."""
        own = {
            row: ledger.streams([reader], x[row])[0]
            for row, ledger in self.stack.ledgers.items()
            if reader in ledger.of and row < len(x)
        }
        if own:
            x = x.clone()  # in a parallel block it is the stream itself
        for row, stream in own.items():
            x[row] = stream
        return x

    def _inside(self, x: Tensor, mlp_out: Tensor, layer: int, window: Tensor) -> Tensor:
        """Edit neurons, experts and routers: but for these, each moves the MLP's sum by its own."""
        stack, p = self.stack, self.w.blocks[layer].mlp
        source = "resid_pre" if self.w.facts.parallel else stack.mid
        frozen = self._like(source, layer, window)
        if p.down.additive and not stack.rows(layer, "router", "expert"):
            return self._neurons(x, mlp_out, layer, window, source, frozen)
        for row in stack.rows(layer, *within.INSIDE):
            edits = stack.edits_of(row, layer, within.INSIDE)
            own = row < len(x) and self.through != "direct"
            mine = x[row] if own else stack.held(source, layer, window)
            like = None
            if frozen is not None and p.ends.write is not None:
                like = forward.made(frozen, p)
            if not p.down.additive:
                every = within.neurons(mine, p, edits, window, frozen)
                mlp_out[row] = forward.norm(p.down(every), p.ends.write, like)
                continue
            weights = within.weights(mine, p, edits, window, frozen)
            change = within.change(mine, p, edits, window, frozen, weights)
            if weights is None and p.ends.write is None:
                assert change is not None
                mlp_out[row] = mlp_out[row] + change
                continue
            made = forward.made(mine, p, frozen, weights)
            made = made if change is None else made + change
            mlp_out[row] = forward.norm(made, p.ends.write, like)
        return mlp_out

    def _neurons(
        self,
        x: Tensor,
        mlp_out: Tensor,
        layer: int,
        window: Tensor,
        source: str,
        frozen: Tensor | None,
    ) -> Tensor:
        """Edit neurons of all cells at once, where their writes add up."""
        stack, p = self.stack, self.w.blocks[layer].mlp
        rows = stack.rows(layer, "mlp_act")
        if not rows:
            return mlp_out
        there = [row for row in rows if row < len(x) and self.through != "direct"]
        index = torch.tensor(rows, device=mlp_out.device)
        mine = x.index_select(0, index[: len(there)])
        if len(there) < len(rows):
            held = stack.held(source, layer, window)
            mine = torch.cat([mine, held.expand(len(rows) - len(there), *held.shape)])
        edits = [(rows.index(row), edit) for row, edit in stack.edits[layer, "mlp_act"]]
        change = within.moved(mine, p, edits, window, stack.begins_at(window), frozen)
        if p.ends.write is None:
            return mlp_out.index_add_(0, index, change.to(mlp_out.dtype))
        like = None if frozen is None else forward.made(frozen, p)
        made = forward.made(mine, p, frozen) + change
        made = forward.norm(made, p.ends.write, like).to(mlp_out.dtype)
        return mlp_out.index_copy_(0, index, made)

    def leave(self, mid: Tensor, mlp_out: Tensor, layer: int, window: Tensor) -> Tensor:
        """The residual stream after the layer."""
        like = None
        if self.ln == "freeze":
            like = self.stack.held(self.stack.mid, layer, window)
            like = like + self.stack.held("mlp_out", layer, window)
        resid = forward.add(mid, mlp_out, self.w.blocks[layer].mlp.ends, like)
        resid = self.stack.join(resid, "resid_post", layer, "resid_post", window)
        return self.stack.apply(resid, layer, ("resid_post",), window)

    def _like(self, kind: str, layer: int, window: Tensor) -> Tensor | None:
        """What entered a norm in the base run, where norms are frozen."""
        return self.stack.held(kind, layer, window) if self.ln == "freeze" else None

    def _attend(
        self, resid: Tensor, layer: int, window: Tensor, query: Tensor, at: str
    ) -> tuple[Tensor, Tensor]:
        """Residual stream and z at the query positions, for the cells that have joined by then."""
        stack, p, d_head = self.stack, attention_of(self.w, layer, at), self.w.facts.d_head
        before, kind = "resid_mid" if at else "resid_pre", f"{at}q"
        x = forward.norm(resid, p.ends.read, self._like(before, layer, window))
        resid = stack.join(resid, before, layer, kind, window)
        keys = self._remembered(layer) if at else self._keys(x, resid, layer, window)
        if query is not window:
            x, resid = (pick(t, window, query) for t in (x, resid))
            for ledger in stack.ledgers.values():
                ledger.narrow(query)
        q = stack.join(forward.project(x, p.q, d_head), kind, layer, kind, query)
        q = self._named(q, kind, layer, resid)
        q = stack.apply(q, layer, (kind,), query)
        return resid, self._mix(q, *keys["k"], *keys["v"], layer, query, at)

    def _keys(
        self, x: Tensor, resid: Tensor, layer: int, window: Tensor
    ) -> dict[str, tuple[forward.Keys, Own | None]]:
        """Keys and values of a layer's own stream, and those of query heads by themselves."""
        stack, p, d_head = self.stack, self.w.blocks[layer].attention, self.w.facts.d_head
        keys = {}
        for kind, part in (("k", p.k), ("v", p.v)):
            t = stack.join(forward.project(x, part, d_head), kind, layer, kind, window)
            t = self._named(t, kind, layer, resid)
            t = stack.apply(t, layer, (kind,), window)
            if self.start and self.cache is None:
                past = stack.base.kept[kind][layer][:, : self.start]
            else:
                past = t.new_empty(t.shape[1], 0, *t.shape[3:])
            keys[kind] = forward.Keys(past, t), self._own(t, kind, layer, resid, window)
        return keys

    def _remembered(self, layer: int) -> dict[str, tuple[forward.Keys, Own | None]]:
        """The same of what the encoder made: the base run's, uncopied, if no cell has its own."""
        stack, p, d_head = self.stack, attention_of(self.w, layer, "cross."), self.w.facts.d_head
        n, (rows, streams) = stack.joined(layer, "cross.k"), stack.remembering
        edited, keys = stack.rows(layer, "cross.k", "cross.v"), {}
        for kind, part in (("k", p.k), ("v", p.v)):
            shared = self.base.kept[f"cross.{kind}"][layer]
            own = shared.expand(n, *shared.shape)
            if not rows and not edited:
                keys[kind] = forward.Keys(shared, own[:, :, :0]), None
                continue
            own, every = own.clone(), self._every(shared)
            if stack.memory is not None and rows:
                index, of = (torch.tensor(x, device=own.device) for x in (rows, streams))
                memory = stack.memory.streams.to(own.device).index_select(0, of)
                own.index_copy_(0, index, forward.project(memory, part, d_head))
            own = stack.apply(own, layer, (f"cross.{kind}",), every)
            heads = self._own(own, f"cross.{kind}", layer, None, every)
            keys[kind] = forward.Keys(shared[:, :0], own), heads
        return keys

    def _every(self, held: Float[Tensor, "batch pos *axes"]) -> Int[Tensor, "batch pos"]:
        """All positions of something, as a window."""
        return torch.arange(held.shape[1], device=held.device).expand(len(held), -1)

    def _frozen(self, rows: Sequence[int], layer: int, query: Tensor, at: str) -> Tensor:
        """z of some cells where attention is frozen, but for the heads that are edited."""
        stack, base = self.stack, self.base
        n = stack.joined(layer, f"{at}z")

        def held(kind: str, window: Tensor) -> Tensor:
            one = stack.held(f"{at}{kind}", layer, window)
            return one.expand(n, *one.shape).clone()

        z = held("z", query)
        if stack.rows(layer, *(f"{at}{x}" for x in ("q", "k", "v", "pattern"))):
            every = self._every(base.kept[f"{at}k"][layer].to(query.device))
            q = stack.apply(held("q", query), layer, (f"{at}q",), query)
            keys = []
            for kind in ("k", "v"):
                t = stack.apply(held(kind, every), layer, (f"{at}{kind}",), every)
                own = self._own(t, f"{at}{kind}", layer, None, every)
                keys += [forward.Keys(t[0, :, :0], t), own]
            again = self._mix(q, *keys, layer, query, at)
            for row, head in self._touched(layer, at):
                z[row, :, :, head] = again[row, :, :, head]
        z = stack.apply(z, layer, (f"{at}z",), query)
        return z.index_select(0, torch.tensor(rows, device=z.device))

    def _touched(self, layer: int, at: str) -> set[tuple[int, int]]:
        """Cells and heads whose query, key, value or pattern is edited in a layer."""
        size, found = self.w.facts.group_size, set()
        for kind in ("q", "k", "v", "pattern"):
            for row, edit in self.stack.edits.get((layer, f"{at}{kind}"), ()):
                group = edit.site.group
                heads = [edit.site.head]
                if group is not None:
                    heads = list(range(group * size, (group + 1) * size))
                found |= {(row, head) for head in heads if head is not None}
        return found

    def _named(self, t: Tensor, kind: str, layer: int, resid: Tensor) -> Tensor:
        """Queries, or keys and values of groups, that read a stream of their own; in place."""
        for row, ledger in self.stack.ledgers.items():
            readers = ledger.readers.get((layer, kind), [])
            readers = [r for r in readers if r.kind == "q" or r.group is not None]
            if readers and row < len(resid):
                for site, value in zip(
                    readers, self._read(ledger, readers, resid[row]), strict=True
                ):
                    t[row, :, :, slot(site, self.w)] = value
        return t

    def _read(self, ledger: Ledger, readers: Sequence[Site], resid: Tensor) -> Tensor:
        """What readers of one layer and kind compute, each from the stream that it sees."""
        p = reading(self.w, readers[0])
        x = forward.norm(ledger.streams(readers, resid), p.ends.read)
        parts = [projection(self.w, site) for site in readers]
        if any(isinstance(part, Packed) for part in parts):
            return torch.stack([part(one) for part, one in zip(parts, x, strict=True)])
        weight = torch.stack([part.weight for part in parts])
        values = torch.einsum("rbpd,rhd->rbph", x.to(weight.dtype), weight)
        if parts[0].bias is None:
            return values
        return (
            values
            + torch.stack([b for part in parts if (b := part.bias) is not None])[:, None, None]
        )

    def _own(
        self, t: Tensor, kind: str, layer: int, resid: Tensor | None, window: Tensor
    ) -> Own | None:
        """Keys or values that a query head reads otherwise than its group."""
        named: dict[Place, Tensor] = {}
        for row, ledger in self.stack.ledgers.items():
            readers = [r for r in ledger.readers.get((layer, kind), []) if r.head is not None]
            if readers and resid is not None and row < len(resid):
                values = self._read(ledger, readers, resid[row])
                named |= {(row, r.head or 0): v for r, v in zip(readers, values, strict=True)}
        edits, begins = self.stack.own_keys(layer, kind), self.stack.begins_at(window)
        return Own.of(t, self.w.facts.group_size, named, edits, window, begins)

    def _mix(
        self,
        q: Tensor,
        k: forward.Keys,
        own_k: Own | None,
        v: forward.Keys,
        own_v: Own | None,
        layer: int,
        query: Tensor,
        at: str,
    ) -> Float[Tensor, "cells batch query head d_head"]:
        """z of every head, with the patterns edited on the way."""
        stack, p, facts = self.stack, attention_of(self.w, layer, at), self.w.facts
        normed = forward.Keys(*(forward.head_norm(t, p.k_norm) for t in k))
        values = v
        if own_k is not None or own_v is not None:  # in this layer heads have their own
            normed = of_heads(k, normed, own_k, p.k_norm, facts.group_size)
            values = of_heads(v, v, own_v, None, facts.group_size)
        q = forward.head_norm(q, p.q_norm)
        turn = None if at else forward.rotation(self.turn, p)
        causal = facts.causal and not at
        inside = stack.begins_at(query) is not None
        if self.cache is not None and not at:
            q = forward.rotate(q, turn, query)
            inside = inside and not self.cache.holds(layer, self.start)
            normed, values, turn = self.cache.extended(layer, self.start, normed, values, turn)
        if not stack.rows(layer, f"{at}pattern"):
            return forward.attend(
                p, q, normed, values, turn, query, causal=causal, consecutive=inside
            )
        probabilities = forward.pattern(p, q, normed, turn, query, causal=causal)
        by_head = probabilities.flatten(2, 3)
        stack.apply_patterns(by_head, layer, query, at)
        return forward.mix(by_head.view(probabilities.shape), values)
