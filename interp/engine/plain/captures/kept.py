"""What a capture keeps, and where in memory it puts it: nothing else, and nothing twice."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.errors import InterpError, PositionError, Unsupported
from interp.core.parts.facts import Facts
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs, Side
from interp.core.prompts.places import ALL, PerRow, Place, index
from interp.engine.plain.taps import Layout, Slab
from interp.engine.plan.positions import require_named, target_names


@dataclass(frozen=True, eq=False)
class Wanted:
    """Sites at positions of rows.

    Attributes:
        side: of the pairs: "clean" or "corrupt".
        at: places in the order wanted, with their names; or all of them.
        dtype: to keep them in.
    """

    facts: Facts
    pairs: Pairs
    side: Side
    layout: Layout
    at: tuple[tuple[str, Place], ...]
    dtype: torch.dtype

    @cached_property
    def places(self) -> dict[bool, Int[Tensor, "batch chosen"] | None]:
        """Indices of the positions in each row, for a decoder's slabs and others; None is all.

        Raises:
            PositionError: a place that some row has not, or as many in no two rows.
        """
        stacks = sorted({slab.decoder for slab in self.layout.slabs})
        return {decoder: _indices(self.pairs, self.at, decoder) for decoder in stacks}

    @property
    def positions(self) -> tuple[str | int, ...]:
        """What is along the second axis."""
        named = ((place if isinstance(place, int) else name, place) for name, place in self.at)
        return tuple(name for name, place in named for _ in _columns(place))

    def shape(self, slab: Slab, extent: tuple[int, int]) -> tuple[int, ...]:
        """Positions and axes that are kept of a row of this extent."""
        positions, *axes = slab.shape(self.facts, *extent)
        chosen = self.places[slab.decoder]
        return (positions if chosen is None else chosen.shape[1], *axes)

    def size(self, slab: Slab, rows: Sequence[int] | None = None) -> int:
        """Bytes that rows (by default all) take of a slab."""
        extents = self.pairs.extents
        found = Counter(extents if rows is None else [extents[row] for row in rows])
        numbers = (count * math.prod(self.shape(slab, extent)) for extent, count in found.items())
        return self.dtype.itemsize * len(slab) * sum(numbers)

    def bytes(self, rows: Sequence[int] | None = None) -> int:
        return sum(self.size(slab, rows) for slab in self.layout.slabs)


def _indices(
    pairs: Pairs, at: tuple[tuple[str, Place], ...], decoder: bool
) -> Int[Tensor, "batch chosen"] | None:
    if at == ((ALL, ALL),):
        return None
    lengths = pairs.written if decoder else pairs.lengths
    named = target_names(pairs) if decoder else pairs.positions
    columns = []
    for _, place in at:
        if place == ALL:
            raise PositionError(
                f"'all' and others were asked for in {[name for name, _ in at]}; give "
                "positions='all' by itself."
            )
        if decoder:
            require_named(pairs, place, "some of the sites stand in the decoder")
        columns += [index(column, named, lengths) for column in _columns(place)]
    return torch.stack(columns, 1)


def _columns(place: Place) -> list[Place]:
    """Places with one position of each row."""
    if not isinstance(place, PerRow):
        return [place]
    counts = sorted({len(row) for row in place.rows})
    if len(counts) > 1:
        raise PositionError(
            f"rows name {counts[0]} to {counts[-1]} positions, and of each row as many are kept. "
            "Capture positions='all' and choose from captured.rows(site)."
        )
    return [PerRow(tuple((row[i],) for row in place.rows)) for i in range(counts[0])]


class Kept:
    """Slabs of some rows, in memory that is claimed once.

    Each slab is one tensor, `index numbers`, with the numbers of the rows one after the other: so
    that rows of several lengths need no padding, and a site is one contiguous piece.
    """

    def __init__(self, wanted: Wanted, rows: Sequence[int]) -> None:
        self.layout, self.wanted, self.dtype = wanted.layout, wanted, wanted.dtype
        extents = wanted.pairs.extents
        self.extents = [extents[row] for row in rows]
        self.order = {row: n for n, row in enumerate(rows)}
        self.starts = {slab: self._starts(slab) for slab in self.layout.slabs}
        # of a tensor made in inference mode no gradient could be taken through a probe
        with torch.inference_mode(False):
            self.tensors = {
                slab: torch.empty(len(slab), starts[-1], dtype=self.dtype)
                for slab, starts in self.starts.items()
            }

    def _starts(self, slab: Slab) -> list[int]:
        sizes = {n: math.prod(self.wanted.shape(slab, n)) for n in set(self.extents)}
        return [0, *accumulate(sizes[n] for n in self.extents)]

    def taker(
        self, rows: Sequence[int]
    ) -> Callable[[Slab, Float[Tensor, "index batch pos *axes"]], None]:
        """What copies the slabs of these rows, all of one extent, to their place.

        Raises:
            InterpError: a number is not finite.
        """
        at = [self.order[row] for row in rows]
        extent = self.extents[at[0]]
        together = at == list(range(at[0], at[0] + len(at)))

        def take(slab: Slab, x: Tensor) -> None:
            chosen = self.wanted.places[slab.decoder]
            if chosen is not None:
                batch = torch.arange(len(rows), device=x.device)[:, None]
                x = x[:, batch, chosen[list(rows)].to(x.device)]
            shape, starts = self.wanted.shape(slab, extent), self.starts[slab]
            if x.shape != (len(slab), len(rows), *shape):
                raise Unsupported(
                    f"{slab.shelf} of layer {slab.layer} came with shape {tuple(x.shape[1:])}, "
                    f"not {(len(rows), *shape)}: the model's shape is not what its facts say "
                    f"({self.wanted.facts}). Choose other sites."
                )
            # rows that stand side by side are copied as one
            blocks = [(0, len(at))] if together else [(n, n + 1) for n in range(len(at))]
            for a, b in blocks:
                here = self.tensors[slab][:, starts[at[a]] : starts[at[b - 1] + 1]]
                here.unflatten(1, (b - a, *shape)).copy_(x[:, a:b])
                if not _finite(here):
                    self._refuse(slab, rows[a:b], here.unflatten(1, (b - a, *shape)), x[:, a:b])

        return take

    def shapes(self, site: Site) -> list[tuple[int, ...]]:
        """Of each row: positions and axes."""
        slab, _ = self.layout.where[site]
        known = {n: self.wanted.shape(slab, n) for n in set(self.extents)}
        return [known[n] for n in self.extents]

    def rows(self, site: Site) -> list[Float[Tensor, " pos *axes"]]:
        """Views, one for each row."""
        slab, index = self.layout.where[site]
        numbers, starts = self.tensors[slab][index], self.starts[slab]
        return [
            numbers[a:b].view(shape)
            for a, b, shape in zip(starts, starts[1:], self.shapes(site), strict=False)
        ]

    def whole(self, site: Site) -> Float[Tensor, "batch pos *axes"]:
        """A view of all rows, which must have one shape."""
        slab, index = self.layout.where[site]
        shape = self.wanted.shape(slab, self.extents[0])
        return self.tensors[slab][index].view(len(self.extents), *shape)

    def _refuse(
        self,
        slab: Slab,
        rows: Sequence[int],
        here: Float[Tensor, "index batch pos *axes"],
        came: Float[Tensor, "index batch pos *axes"],
    ) -> None:
        index, row, position = (~here.isfinite()).nonzero()[0, :3].tolist()
        site = self.layout.names[slab, index]
        one = (index, row, position)
        if bool(came[one].isfinite().all()):
            worst = came[one].abs().max().item()
            cause = (
                f"{worst:.3g} is more than {self.dtype} holds. Keep it as dtype=torch.bfloat16, "
                "or leave dtype out"
            )
        else:
            cause = (
                f"the model computed it in {came.dtype}: its weights are broken, or that type "
                "holds too little. Load the model with dtype=torch.float32, and see model.parity()"
            )
        place = self.wanted.places[slab.decoder]
        at = position if place is None else int(place[rows[row], position])
        raise InterpError(f"'{site}' is not finite in row {rows[row]}, at position {at}: {cause}.")


def _finite(x: Tensor) -> bool:
    """One pass and no copy: infinities are extremes, and NaN spreads to both."""
    low, high = x.aminmax()
    return math.isfinite(low) and math.isfinite(high)
