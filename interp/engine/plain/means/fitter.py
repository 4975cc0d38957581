"""Averaging activations block by block: only the sums are held."""

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from interp.core.errors import InterpError, ModelError, Unsupported
from interp.core.parts.facts import Facts
from interp.core.prompts.pairs import Pairs, Side
from interp.engine.engines.protocol import Engine
from interp.engine.plain.taps import Layout, Slab, read, rows_at_once
from interp.engine.plan.memory import KEEP, by_rows
from interp.engine.plan.positions import blocks, longest_in
from interp.models.model import Model

FEW = 30
"""Prompts in a group under which its mean is called noisy (Miller et al. 2024)."""

EXACT = (torch.float32, torch.float64)
"""Activations that are summed in float64; narrower ones in float32."""

By = Literal["template", "position"]
BY: tuple[By, ...] = get_args(By)
Group = tuple[str, int] | tuple[str, int, int]
"""A template and a length, and where there are targets what a decoder reads of one: within it,
position i means the same in every prompt."""
Key = Group | None
"""Whose mean; None is everyone's, position by position."""


class Fitted(NamedTuple):
    """Means of slabs, `index pos *axes`, and the prompts in each group or at each position.

    `written`: by position, the prompts at each of a decoder's, where there are targets.
    """

    means: Mapping[Key, Mapping[Slab, Float[Tensor, "index pos *axes"]]]
    sizes: Mapping[Group, int] | Mapping[int, int]
    written: tuple[int, ...] = ()


class MeanFitter:
    """Sums of activations, in float64 (float32 of half precision), however they come in.

    `MeanFitter(facts, by).update(groups, activations).update(...).fitted`
    """

    def __init__(self, facts: Facts, by: By) -> None:
        self.facts, self.by = facts, by
        self.prompts: Counter[Group] = Counter()
        self.sums: dict[Key, dict[Slab, Tensor]] = {}
        self.counts: dict[Key, dict[Slab, Tensor]] = {}

    def update(
        self,
        groups: Sequence[Group],
        activations: Mapping[Slab, Float[Tensor, "index batch pos *_"]],
    ) -> "MeanFitter":
        """Add rows of one length, each with its template and that length."""
        self.count(groups)
        for slab, activation in activations.items():
            self.add(slab, groups, activation)
        return self

    def count(self, groups: Sequence[Group]) -> None:
        """Say which rows are coming."""
        self.prompts.update(groups)

    def add(
        self, slab: Slab, groups: Sequence[Group], x: Float[Tensor, "index batch pos *axes"]
    ) -> None:
        """Add one slab of these rows.

        Raises:
            Unsupported: patterns of several lengths by position, where a key may stand after its
                query: a mean of theirs would attend to what a shorter row does not have.
        """
        keys: dict[Key, list[int]] = {}
        for row, group in enumerate(groups):
            keys.setdefault(group if self.by == "template" else None, []).append(row)
        exact = torch.float64 if x.dtype in EXACT else torch.float32
        for key, rows in keys.items():
            part = x if len(rows) == len(groups) else x[:, rows]
            total = part.sum(1, dtype=exact).cpu()
            self._into(key, slab, total, total.new_full(total.shape[1:2], len(rows)))

    def join(self, other: "MeanFitter") -> None:
        """Add what another one has added."""
        self.prompts.update(other.prompts)
        for key, sums in other.sums.items():
            for slab, total in sums.items():
                self._into(key, slab, total, other.counts[key][slab])

    def _into(self, key: Key, slab: Slab, total: Tensor, counted: Tensor) -> None:
        sums, counts = self.sums.setdefault(key, {}), self.counts.setdefault(key, {})
        if slab not in sums:
            # means outlive the inference mode that the runs are in
            with torch.inference_mode(False):
                sums[slab], counts[slab] = torch.zeros_like(total), total.new_zeros(0)
        if sums[slab].shape != total.shape:
            self._refuse_patterns(slab)
        shape = [max(a, b) for a, b in zip(sums[slab].shape, total.shape, strict=True)]
        sums[slab] = _grown(sums[slab], shape)
        counts[slab] = _grown(counts[slab], shape[1:2])
        sums[slab][tuple(slice(n) for n in total.shape)] += total
        counts[slab][: len(counted)] += counted

    def _refuse_patterns(self, slab: Slab) -> None:
        if slab.kind == "pattern" and not (self.facts.causal and slab.shelf == "pattern"):
            raise Unsupported(
                f"the patterns of layer {slab.layer} have as many keys as each prompt has tokens, "
                "so over prompts of several lengths they have no mean by position. Say "
                "by='template', or give prompts of one length."
            )

    @property
    def fitted(self) -> Fitted:
        """The means of what was added so far.

        Raises:
            ModelError: one is not finite.
        """
        sizes, written = dict[Any, int](self.prompts), tuple[int, ...]()
        if self.by == "position":
            sizes = dict(enumerate(_at_each((of[1], n) for of, n in self.prompts.items())))
            targets = ((of[2], n) for of, n in self.prompts.items() if len(of) > 2)
            written = tuple(_at_each(targets))
        keys = list(self.sums) if self.by == "position" else list(sizes)
        means: dict[Key, dict[Slab, Tensor]] = {}
        for key in keys:
            means[key] = {}
            for slab, total in self.sums[key].items():
                count = self.counts[key][slab]
                mean = total / count.view(-1, *(1,) * (total.ndim - 2))
                if not mean.isfinite().all():
                    raise ModelError(
                        f"the mean reference holds NaN or infinity: first in {slab.shelf} of layer "
                        f"{slab.layer}, group {key}. Likely the weights are damaged, or the "
                        "model's dtype is too narrow for it: load it with dtype=torch.float32."
                    )
                means[key][slab] = mean
        return Fitted(means, sizes, written)


def _at_each(counted: Iterable[tuple[int, int]]) -> list[int]:
    """Of lengths and how many prompts have each: the prompts that have a position."""
    found = list(counted)
    longest = max((length for length, _ in found), default=0)
    return [sum(n for length, n in found if length > at) for at in range(longest)]


def _grown(held: Tensor, shape: Sequence[int]) -> Tensor:
    """The same with zeros at the ends of its axes."""
    if list(held.shape) == list(shape):
        return held
    with torch.inference_mode(False):
        grown = held.new_zeros(shape)
    grown[tuple(slice(n) for n in held.shape)] = held
    return grown


@torch.inference_mode()
def average(
    model: Model, engine: Engine, pairs: Pairs, side: Side, layout: Layout, by: By
) -> Fitted:
    """Run one side of the pairs and average what the layout takes, warning of small groups."""
    fitter = MeanFitter(model.facts, by)

    def some(rows: list[int]) -> MeanFitter:
        part = MeanFitter(model.facts, by)  # of its own: what ran out of memory counts nothing
        every = pairs.groups
        groups = [every[i] for i in rows]
        part.count(groups)
        read(
            *(engine, pairs, side, layout, rows, model.device),
            take=lambda slab, x: part.add(slab, groups, x),
        )
        return part

    with tqdm(total=len(pairs), desc="mean reference", unit="prompt", delay=2, disable=None) as bar:
        itemsize, shelves = model.dtype.itemsize, layout.shelves
        for same in blocks(pairs.extents, len(pairs)):
            length = longest_in(model.facts, pairs, same)
            size = rows_at_once(model.facts, length, itemsize, KEEP, model.device, shelves)
            for rows in (same[i : i + size] for i in range(0, len(same), size)):
                for part in by_rows(some, rows, "a plain run"):
                    fitter.join(part)
                bar.update(len(rows))
    with torch.inference_mode(False):
        found = fitter.fitted
    small = min(found.sizes.values())
    if small < FEW:
        what = "reference groups (template and length)" if by == "template" else "positions"
        warnings.warn(
            f"mean ablation: the smallest of {len(found.sizes)} {what} has {small} prompts; under "
            f"{FEW} its mean is noisy. Give a larger reference.",
            stacklevel=3,
        )
    return found


def require_room(model: Model, pairs: Pairs, layout: Layout, by: By, room: int) -> None:
    """Refuse sums that take more than `room` bytes.

    Raises:
        InterpError: they do.
    """
    extents = [(int(pairs.lengths.max()), int(pairs.written.max()))]
    if by == "template":
        extents = [extent for _, extent in {*zip(pairs.template, pairs.extents, strict=True)}]
    numbers = sum(
        len(slab) * math.prod(slab.shape(model.facts, *extent))
        for slab in layout.slabs
        for extent in extents
    )
    needed = numbers * (8 if model.dtype in EXACT else 4)
    if needed > room:
        raise InterpError(
            f"the means of {len(layout.sites)} sites over {len(extents)} groups take "
            f"{needed / 1e6:.1f} MB ({needed} bytes), and the budget is {room / 1e6:.1f} MB. Take "
            "fewer sites, fewer templates, by='position', or more memory=."
        )
