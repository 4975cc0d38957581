"""Keys and values of the positions before: what is decoded reads them, and none is made again."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engine.network import forward
from interp.engine.network.trace import Trace
from interp.engine.network.weights import Weights


@dataclass(eq=False)
class _Held:
    """Keys or values of a layer, keys normed and turned: shared ones, then each cell's own.

    Its own stand group by group, so that no product copies them.
    """

    shared: Float[Tensor, "batch past group d_head"]
    own: Float[Tensor, "cells batch group room d_head"]

    def widen(self, groups: int) -> None:
        """Go on with a key of its own for each query head."""
        if (times := groups // self.own.shape[2]) > 1:
            self.shared = self.shared.repeat_interleave(times, 2)
            self.own = self.own.repeat_interleave(times, 2)

    def extended(
        self, new: Float[Tensor, "joined batch window group d_head"], start: int
    ) -> forward.Keys:
        """Take in what stands from a position on; all that there is by then."""
        self.widen(new.shape[3])
        new = new.repeat_interleave(self.own.shape[2] // new.shape[3], 3)
        at = start - self.shared.shape[1]
        if len(new):
            self.own[: len(new), :, :, at : at + new.shape[2]] = new.transpose(2, 3)
        end = max(at + new.shape[2], 0)
        return forward.Keys(self.shared, self.own[: len(new), :, :, :end].transpose(2, 3))

    def move(self, to: Int[Tensor, " moved"], of: Int[Tensor, " moved"]) -> None:
        """Put rows where others were, counted through the cells."""
        flat = self.own.flatten(0, 1)
        flat.index_copy_(0, to, flat.index_select(0, of))

    def grow(self, cells: int) -> None:
        """Have room for as many cells."""
        more = self.own.new_zeros(cells - len(self.own), *self.own.shape[1:])
        self.own = torch.cat([self.own, more])


class Cache:
    """The keys and values of all cells, in their order.

    What no cell can have changed is the base run's, held once: in the layers before the first
    intervention the whole prompt, in the others the positions before it. Before its first
    intervention a cell has none of its own.

    Args:
        base: the run of the prompt, with keys and values of all layers.
        layers: from which on each cell has its own, in ascending order.
        start: the first position that any of them changes.
        room: positions of the prompt and of what follows.
        turn: the rotations of that many positions.
    """

    def __init__(
        self,
        w: Weights,
        base: Trace,
        *,
        layers: Sequence[int],
        start: int,
        room: int,
        turn: forward.Rotations,
    ) -> None:
        self.turn, pos = turn, base.final.shape[1]
        self.layers: list[tuple[_Held, _Held]] = []
        for layer, block in enumerate(w.blocks):
            p, cells = block.attention, bisect_right(layers, layer)
            shared = start if cells else pos
            k = forward.head_norm(base.kept["k"][layer], p.k_norm)
            place = torch.arange(pos, device=k.device)[None]
            k = forward.rotate(k, forward.rotation(turn, p), place)
            self.layers.append(
                (_held(k, cells, shared, room), _held(base.kept["v"][layer], cells, shared, room))
            )

    def holds(self, layer: int, start: int) -> bool:
        """Have cells keys of their own before a position?"""
        return start > self.layers[layer][0].shared.shape[1]

    def extended(
        self,
        layer: int,
        start: int,
        k: forward.Keys,
        v: forward.Keys,
        turn: forward.Turn | None,
    ) -> tuple[forward.Keys, forward.Keys, forward.Turn | None]:
        """Take in a window's keys, normed, and values; all that there are by then.

        Returns:
            Keys that are turned, values, and what of the turn scores still take.
        """
        place = torch.arange(start, start + k.own.shape[2], device=k.own.device)[None]
        keys, values = self.layers[layer]
        turned = forward.rotate(k.own, turn, place)
        left = turn if isinstance(turn, forward.Alibi) else None
        return keys.extended(turned, start), values.extended(v.own, start), left

    def pick(self, rows: Int[Tensor, "cells batch"]) -> None:
        """Each cell goes on from other rows of its own, which share a prompt."""
        cells, batch = rows.shape
        to = torch.arange(cells * batch, device=rows.device)
        of = (rows + torch.arange(cells, device=rows.device)[:, None] * batch).flatten()
        self.move(to, of)

    def move(self, to: Int[Tensor, " moved"], of: Int[Tensor, " moved"]) -> None:
        """Rows, counted through the cells, go on where others were; those that a layer has."""
        for held in self.layers:
            for one in held:
                some = len(one.own) * one.own.shape[1]
                one.move(to[:some].to(one.own.device), of[:some].to(one.own.device))

    def grow(self, cells: int) -> None:
        """Have room for as many cells in every layer."""
        for held in self.layers:
            for one in held:
                one.grow(cells)


def _held(x: Float[Tensor, "batch pos group d_head"], cells: int, shared: int, room: int) -> _Held:
    batch, pos, groups, width = x.shape
    own = x.new_zeros(cells, batch, groups, room - shared, width)
    own[:, :, :, : pos - shared] = x[:, shared:].transpose(1, 2)
    return _Held(x[:, :shared], own)


def cache_bytes(w: Weights, rows: int, room: int, itemsize: int) -> int:
    """What a cell holds in so many rows."""
    facts = w.facts
    return 2 * facts.n_layers * rows * room * facts.n_kv_heads * facts.d_head * itemsize
