"""Keys and values that a query head reads otherwise than the other heads of its group."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.engine.network import forward
from interp.engine.network.weights import Norm
from interp.engine.plan.edits import Edit, together

Place = tuple[int, int]
"""A cell and a query head."""


@dataclass(frozen=True, eq=False)
class Own:
    """Keys, not normed, or values of some heads of some cells, each its own.

    Attributes:
        rows, heads: whose.
        groups: of the heads.
    """

    rows: Int[Tensor, " own"]
    heads: Int[Tensor, " own"]
    groups: Int[Tensor, " own"]
    x: Float[Tensor, "own batch window d_head"]

    @classmethod
    def of(
        cls,
        t: Float[Tensor, "cells batch window group d_head"],
        size: int,
        named: Mapping[Place, Float[Tensor, "batch window d_head"]],
        edits: Sequence[tuple[int, Edit]],
        window: Int[Tensor, "batch window"],
        begins: int | None,
    ) -> "Own | None":
        """What readers with a stream of their own compute, and then what edits make of that.

        Args:
            t: of groups.
            size: query heads of a group.
            named: what heads compute of a stream of their own.
            begins: where the window begins, if it is all positions from there on.
        """
        each = [(row, edit.site.head or 0) for row, edit in edits]
        places = {place: i for i, place in enumerate(dict.fromkeys([*named, *each]))}
        if not places:
            return None
        rows, heads = torch.tensor([*places], device=t.device).T
        groups = heads.div(size, rounding_mode="floor")
        x = torch.ops.aten.index.Tensor(t.movedim(3, 1), [rows, groups])
        if named:
            x = torch.cat([torch.stack([*named.values()]).to(x.dtype), x[len(named) :]])
        made = [(places[place], None, edit) for place, (_, edit) in zip(each, edits, strict=True)]
        for group in together(made, t.device) if made else ():
            group.into(x, window, begins)
        return cls(rows, heads, groups, x)


def of_heads(
    t: forward.Keys, normed: forward.Keys, own: Own | None, norm: Norm | None, size: int
) -> forward.Keys:
    """A key or value of its own for every query head.

    Args:
        t, normed: of groups, before and after their norm, if they have one.
    """
    # a copy, which einops' repeat of a single group is not
    past, x = (both.repeat_interleave(size, -2) for both in normed)
    if own is not None:
        new = own.x
        if norm is not None:  # which may take all groups together
            each = torch.arange(len(own.rows), device=x.device)
            beside = t.own.index_select(0, own.rows)
            beside.movedim(3, 1).index_put_((each, own.groups), new)
            beside = forward.head_norm(beside, norm).movedim(3, 1)
            new = torch.ops.aten.index.Tensor(beside, [each, own.groups])
        x.movedim(3, 1).index_put_((own.rows, own.heads), new.to(x.dtype))
    return forward.Keys(past, x)
