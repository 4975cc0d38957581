"""What is refused of a sweep before anything runs: values that fit nothing, or say two things."""

from collections.abc import Iterator, Sequence

from torch import Tensor

from interp.core.errors import SiteError
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs
from interp.engine.interventions import Averaged, Cell, Intervention
from interp.engine.plain.means.means import require_mean
from interp.engine.plan.positions import blocks, decodes, places
from interp.engine.plan.values import require_fit
from interp.engine.sweep.sweep import Sweep


def require_interventions(sweep: Sweep) -> None:
    """Refuse, before anything runs, what would make nonsense of a run or do nothing in a row.

    Raises:
        PositionError, SiteError, PairsError: as `run`.
    """
    facts, pairs = sweep.model.facts, sweep.pairs
    lengths = blocks(pairs.extents, len(pairs))
    seen: set[tuple[object, ...]] = set()
    for cell in sweep.cells:
        for i in cell.interventions:
            if isinstance(i.value.source, Averaged) and (i.value.source,) not in seen:
                seen.add((i.value.source,))
                require_mean(i.value.source, pairs)
            key = (id(i.value), i.site.kind, i.site.neuron is None, i.site.stack, i.site.cross)
            if key not in seen:
                seen.add(key)
                require_fit(i, facts, pairs)
            place = (i.positions, i.site.stack, i.site.cross, i.site.kind in ("k", "v"))
            if place not in seen:
                seen.add(place)
                for rows in lengths:
                    places(pairs, i.positions, rows, i.site)
        for hop in cell.hops:
            reader = hop.receivers[0]
            if ("hop", hop.positions, decodes(reader)) not in seen:
                seen.add(("hop", hop.positions, decodes(reader)))
                for rows in lengths:
                    _require_even(places(pairs, hop.positions, rows, reader), str(hop))
        if len(cell.interventions) > 1:
            _refuse_overlap(cell, pairs, lengths)


def _require_even(mask: Tensor, hop: str) -> None:
    counts = mask.sum(1)
    if int(counts.min()) != int(counts.max()):
        raise SiteError(
            f"the receivers {hop} take their input at {int(counts.min())} positions of one row and "
            f"at {int(counts.max())} of another of the same length; a path needs as many in each. "
            "Give as many, or run the rows apart (pairs.select)."
        )


def _refuse_overlap(cell: Cell, pairs: Pairs, lengths: Sequence[Sequence[int]]) -> None:
    """Two values for one site at one position, of places that are written otherwise."""
    for i, other in _same(cell.interventions):
        if isinstance(i.positions, int) and isinstance(other.positions, int):
            continue  # equal ones were refused when the cell was made
        for rows in lengths:
            both = places(pairs, i.positions, rows, i.site)
            both = both & places(pairs, other.positions, rows, i.site)
            if bool(both.any()):
                raise SiteError(
                    f"two interventions set '{i.site}' in one run ({cell.name!r}), at "
                    f"{i.positions!s} and at {other.positions!s}, which are one position in row "
                    f"{rows[int(both.any(1).int().argmax())]}: which one holds is not said. Leave "
                    "one out."
                )


def _same(interventions: Sequence[Intervention]) -> Iterator[tuple[Intervention, Intervention]]:
    """Pairs of interventions on one site that some reader sees both of."""
    by_site: dict[Site, list[Intervention]] = {}
    for i in interventions:
        for other in by_site.get(i.site, ()):
            apart = i.readers is not None and other.readers is not None
            if not (apart and set(i.readers or ()).isdisjoint(other.readers or ())):
                yield i, other
        by_site.setdefault(i.site, []).append(i)
