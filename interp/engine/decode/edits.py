"""Interventions resolved for rows of one length and for what is said after them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.parts.facts import Facts
from interp.core.prompts.pairs import Pairs
from interp.engine.decode.when import lasting, read_once, span
from interp.engine.interventions import Averaged, Intervention
from interp.engine.network.trace import Trace
from interp.engine.plain.means.means import MeanReference
from interp.engine.plan.edits import Edit
from interp.engine.plan.values import laid, rows_of


@dataclass(frozen=True, eq=False)
class Lasting:
    """An edit that is made at some steps.

    Attributes:
        edit: with positions of the prompt and of what follows.
        made, whole: at each position, is it made in some row, and in all?
        fixed: is it of what the prompt was read as, and so at every step?
    """

    edit: Edit
    made: tuple[bool, ...]
    whole: tuple[bool, ...]
    fixed: bool = False

    def within(self, start: int, stop: int) -> Edit | None:
        """The edit of a run whose window begins and ends there; None where nothing is done."""
        if self.fixed:
            return self.edit
        if not any(self.made[start:stop]):
            return None
        edit, found = self.edit, self.edit.found
        if found is not None:
            found = found[:, :stop]
            own = edit.site.kind == "pattern" and not edit.site.cross
            found = found[..., :stop] if own else found
        everywhere = all(self.whole[start:stop])
        return replace(edit, mask=edit.mask[:, :stop], found=found, everywhere=everywhere)

    @property
    def first(self) -> int:
        """The first position that it changes."""
        return 0 if self.fixed else self.made.index(True)


@dataclass(frozen=True, eq=False)
class Resolver:
    """What turns interventions into edits of rows of one length.

    Attributes:
        n: tokens that are said.
        traces: runs of the prompts that values come from.
        means: of each reference.
    """

    facts: Facts
    pairs: Pairs
    rows: Sequence[int]
    n: int
    traces: Mapping[str, Trace]
    means: Mapping[Averaged, MeanReference]
    like: Tensor

    def __call__(self, i: Intervention) -> Lasting | None:
        mask = lasting(self.pairs, i.positions, self.rows, self.n, i.site)
        made, whole = tuple(mask.any(0).tolist()), tuple(mask.all(0).tolist())
        if not any(made):  # "generated", where a single token is said
            return None
        seen = i.readers, i.normalise
        found = self._found(i)
        fixed, mask = read_once(i.site), mask.to(self.like.device)
        edit = Edit(i.site, i.value, mask, found, *seen, everywhere=fixed and all(whole))
        return Lasting(edit, made, whole, fixed)

    def _found(self, i: Intervention) -> Float[Tensor, "batch room *axes"] | None:
        site, source = i.site, i.value.source
        length, room = span(self.pairs, self.rows, self.n, site)
        if source is None:
            return None
        if isinstance(source, Tensor):
            lasts = laid(source, site, self.facts, self.pairs).shape[1] == 1
            until = room if lasts and site.kind != "pattern" else length
            found = rows_of(source, site, self.facts, self.pairs, self.rows, until)
        elif isinstance(source, Averaged):
            groups = [self.pairs.groups[row] for row in self.rows]
            found = averaged(self.means[source], i, groups, room)
        else:
            found = self.traces[source].at(site)
        found = _padded(found.to(self.like), 1, room)
        own = site.kind == "pattern" and not site.cross
        return _padded(found, found.ndim - 1, room) if own else found


def averaged(
    means: MeanReference, i: Intervention, groups: Sequence[tuple[str, int]], room: int
) -> Float[Tensor, "batch some *axes"]:
    """The mean at each position of some rows; at what is said that of their last position.

    Where the mean is of a position in all prompts that have it, and two at least have this one, it
    is that.
    """
    found = means.at(i.site, groups)
    if i.site.kind == "pattern":
        return found
    if means.by == "position" and i.site.stack is None:
        known = len([place for place, size in means.sizes.items() if size > 1])
        if known > found.shape[1]:
            found = means.at(i.site, [(name, min(known, room)) for name, _ in groups])
    last = found[:, -1:]
    return torch.cat([found, last.expand(-1, room - found.shape[1], *last.shape[2:])], 1)


def _padded(x: Tensor, axis: int, size: int) -> Tensor:
    """Zeros where nothing is read."""
    if (missing := size - x.shape[axis]) <= 0:
        return x
    shape = [*x.shape]
    shape[axis] = missing
    return torch.cat([x, x.new_zeros(shape)], axis)
