"""Edits: interventions resolved for the rows of a block, as both engines make them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.core.errors import Unsupported
from interp.core.parts.sites import Site
from interp.engine.interventions import Value, alike, replaces
from interp.engine.network.trace import BETWEEN, take

STEPS: dict[str, int] = {
    "embed": 0,
    "resid_pre": 0,
    "q": 1,
    "k": 1,
    "v": 1,
    "pattern": 1,
    "z": 2,
    "attn_out": 3,
    "resid_mid": 4,
    "cross.q": 5,
    "cross.k": 5,
    "cross.v": 5,
    "cross.pattern": 5,
    "cross.z": 6,
    "cross.attn_out": 7,
    BETWEEN: 8,
    **dict.fromkeys(("router", "mlp_act", "expert"), 9),
    "mlp_out": 10,
    "resid_post": 11,
    "c": 1,
    "h": 2,
}
"""Where in a layer a cell can join the wave."""


def part_of(site: Site) -> str:
    """What a site is called in its layer: its kind, "cross.q" of a decoder's second attention."""
    return f"cross.{site.kind}" if site.cross else site.kind


@dataclass(frozen=True, eq=False)
class Edit:
    """An intervention resolved for the rows of a block.

    Attributes:
        mask: the positions that it touches, `batch pos`.
        found: what the value's source holds at the site, `batch held *axes`, if it has one. Axes:
            `d_head` of q k v z, `key` of a pattern, `expert` of a router, none of a neuron, else
            `d_model`.
        first: the position at which that begins.
        readers: who sees it; None is everyone.
        normalise: of a pattern: its rows must sum to 1; of a router: to what they did.
        sinks: of a pattern: it may sum to less than 1.
        everywhere: does it touch all positions? Known before anything is sent to a device.
    """

    site: Site
    value: Value
    mask: Bool[Tensor, "batch pos"]
    found: Float[Tensor, "batch held *axes"] | None
    readers: tuple[Site, ...] | None = None
    normalise: bool = True
    everywhere: bool = False
    first: int = 0
    sinks: bool = False

    @property
    def index(self) -> int | None:
        """The head, or group of heads, of a site that has any."""
        return self.site.head if self.site.group is None else self.site.group

    def __call__(
        self, current: Float[Tensor, "batch window *axes"], window: Int[Tensor, "batch window"]
    ) -> Float[Tensor, "batch window *axes"]:
        found = current if self.found is None else take(self.found, window, self.first)
        new = self.value(current, found)
        if not self.everywhere:
            new = torch.where(_like(self.at(window), current), new, current)
        if self.site.kind == "pattern" and self.normalise:
            _require_sum(new, self, torch.finfo(current.dtype).eps)
        if self.site.kind == "router" and self.normalise:
            _require_share(new, current, self.site)
        return new.to(current.dtype)

    def at(self, window: Int[Tensor, "batch window"]) -> Bool[Tensor, "batch window"]:
        """Which positions of a window it touches."""
        return self.mask.to(window.device).gather(1, window)


@dataclass(frozen=True, eq=False)
class Together:
    """Edits of one layer and kind, of several cells, that are one computation.

    Attributes:
        edits: no two of one cell and head.
        rows: the cell of each on the axis of cells.
        heads: the head or group of each, where the kind has heads.
    """

    edits: tuple[Edit, ...]
    rows: Int[Tensor, " edit"]
    heads: Int[Tensor, " edit"] | None

    def into(
        self,
        x: Float[Tensor, "cells batch *axes"],
        window: Int[Tensor, "batch window"],
        start: int | None,
        *,
        head_axis: int = 3,
    ) -> None:
        """Make the edits, in place.

        Args:
            x: `cells batch window *axes`, with an axis of heads where the kind has them.
            start: where the window begins, if it is all positions from there on.
        """
        if self.heads is None:
            places, index = x, [self.rows]
        else:
            places, index = x.movedim(head_axis, 1), [self.rows, self.heads]
        first = self.edits[0]
        everywhere = all(edit.everywhere for edit in self.edits)
        found = self._found(window, start)
        if found is not None and everywhere and replaces(first.value):
            new = found
        else:
            # not by x[...], which asks a device for more than it needs to
            current = torch.ops.aten.index.Tensor(places, index)
            new = self._new(current, current if found is None else found)
            if not everywhere:
                new = torch.where(self._mask(current, window), new, current)
        if first.site.kind == "pattern":
            for edit, pattern in zip(self.edits, new, strict=True):
                if edit.normalise:
                    _require_sum(pattern, edit, torch.finfo(x.dtype).eps)
        places.index_put_(tuple(index), new.to(x.dtype))

    def _new(self, current: Tensor, found: Tensor) -> Tensor:
        """A value of one's own is made for one cell, and is given what one cell has."""
        value = self.edits[0].value
        return value(current, found) if len(self.edits) > 1 else value(current[0], found[0])[None]

    def _found(self, window: Int[Tensor, "batch window"], start: int | None) -> Tensor | None:
        held = [(edit.found, edit.first) for edit in self.edits if edit.found is not None]
        if not held:
            return None
        if start is None:
            return torch.stack([take(x, window, first) for x, first in held])
        return torch.stack([x[:, start - first :].to(window.device) for x, first in held])

    def _mask(self, current: Tensor, window: Int[Tensor, "batch window"]) -> Tensor:
        masks = {id(edit.mask): edit.mask for edit in self.edits}
        if len(masks) == 1:
            return _like(self.edits[0].at(window), current[0])
        return _like(torch.stack([edit.at(window) for edit in self.edits]), current, 3)


def together(edits: Sequence[tuple[int, int | None, Edit]], device: torch.device) -> list[Together]:
    """Edits of one layer and kind, each with its place on the axes of cells and heads (None where
    there is no such axis), in as few computations as there can be.

    Two of one place stay in their order.
    """
    groups: list[dict[tuple[int, int | None], Edit]] = []
    kinds: list[object] = []
    for row, head, edit in edits:
        place, kind = (row, head), (alike(edit.value), edit.found is None)
        later = len(groups)
        while later and place not in groups[later - 1]:
            later -= 1
        fit = next((i for i in range(later, len(groups)) if kinds[i] == kind), None)
        if fit is None:
            groups.append({place: edit})
            kinds.append(kind)
        else:
            groups[fit][place] = edit
    numbers = [n for group in groups for row, head in group for n in (row, head or 0)]
    sent = torch.tensor(numbers, device=device).view(-1, 2)
    found, start = [], 0
    for group in groups:
        rows, heads = sent[start : start + len(group)].unbind(1)
        has_heads = next(iter(group))[1] is not None
        found.append(Together((*group.values(),), rows, heads if has_heads else None))
        start += len(group)
    return found


def entry(site: Site, readers: Sequence[Site] | None, n_layers: int) -> tuple[int, int]:
    """Layer and step at which a cell with an edit at this site must have joined.

    Named readers need it where the first of them reads, everyone where the site is. What reads an
    encoder from the decoder reads its end, as the logits do the decoder's.
    """
    if readers is None:
        return site.layer or 0, STEPS[part_of(site)]
    return min(_reads(reader, site, n_layers) for reader in readers)


def _reads(reader: Site, writer: Site, n_layers: int) -> tuple[int, int]:
    if reader.layer is None or reader.stack != writer.stack:
        return n_layers - 1, STEPS["resid_post"]
    return reader.layer, STEPS["resid_mid" if reader.kind == "mlp_out" else part_of(reader)]


def _like(rows: Tensor, x: Tensor, axes: int = 2) -> Tensor:
    return rows[(...,) + (None,) * (x.ndim - axes)]


def _require_sum(pattern: Float[Tensor, "batch query key"], edit: Edit, eps: float) -> None:
    sums, site = pattern.double().sum(-1), edit.site
    tolerance = 16 * eps  # each probability is rounded by half an eps of itself
    off = (sums - 1).clamp(min=0) if edit.sinks else (sums - 1).abs()
    if not (off <= tolerance).all():
        row, query = (off <= tolerance).logical_not().nonzero()[0].tolist()
        raise Unsupported(
            f"the attention pattern written at '{site}' sums to {sums[row, query].item():.4g} over "
            f"the keys (example {row} of its batch), not to 1{' or less' * edit.sinks}, so it "
            "is no attention. Write probabilities, or say normalise=False, which goes into the "
            "provenance."
        )


def _require_share(
    new: Float[Tensor, "batch window expert"], old: Float[Tensor, "batch window expert"], site: Site
) -> None:
    sums, before = (weights.double().sum(-1) for weights in (new, old))
    tolerance = 16 * torch.finfo(old.dtype).eps * before.abs().clamp(min=1)
    if not ((sums - before).abs() <= tolerance).all():
        row, place = ((sums - before).abs() <= tolerance).logical_not().nonzero()[0].tolist()
        raise Unsupported(
            f"the weights written at '{site}' sum to {sums[row, place].item():.4g} over the "
            f"experts, where they summed to {before[row, place].item():.4g} (example {row} of its "
            "batch), so the layer would write more or less as well as by other experts. A router "
            "that does not divide by their sum gives each token another. Write weights of the same "
            "sum, or say normalise=False, which goes into the provenance."
        )
