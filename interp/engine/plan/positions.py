"""Which rows run together, and the positions that places, metrics and receivers mean in them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.core.errors import PositionError
from interp.core.metrics import Metric
from interp.core.parts.facts import Facts
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs, Side
from interp.core.prompts.places import OWN, Place, index, mask
from interp.engine.interventions import Cell


def blocks(extents: Sequence[tuple[int, int]], most: int) -> list[list[int]]:
    """Rows of one extent together, at most `most` at a time: so no row is ever padded."""
    by_extent: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row, extent in enumerate(extents):
        by_extent[extent].append(row)
    return [
        rows[i : i + most]
        for _, rows in sorted(by_extent.items())
        for i in range(0, len(rows), most)
    ]


def longest_in(facts: Facts, pairs: Pairs, rows: Sequence[int]) -> int:
    """Positions of a stack in rows of one length, of the longer one where there are two."""
    return max(pairs.extents[rows[0]]) if facts.n_encoder_layers else int(pairs.lengths[rows[0]])


def lengths_in(facts: Facts, pairs: Pairs) -> Int[Tensor, " batch"]:
    """As `longest_in`, of every row."""
    return pairs.widths if facts.n_encoder_layers else pairs.lengths


def ids_of(
    pairs: Pairs, side: Side, rows: Sequence[int], device: torch.device
) -> tuple[Int[Tensor, "rows pos"], Int[Tensor, "rows written"] | None]:
    """What an engine runs of some rows of one extent, where the model is."""
    tokens, written = pairs.ids(side, rows)
    return tokens.to(device), None if written is None else written.to(device)


def decodes(site: Site) -> bool:
    """Does the site stand at the decoder's positions? Cross-attention reads the encoder's keys."""
    return site.stack == "dec" and not (site.cross and site.kind in ("k", "v"))


def places(
    pairs: Pairs, positions: Place, rows: Sequence[int], site: Site | None = None
) -> Bool[Tensor, "batch pos"]:
    """Which positions of these rows (all of one extent) a place means.

    Raises:
        PositionError: a name at a site of a decoder that the target has not, or what a row has not.
    """
    if site is None or not decodes(site):
        return mask(positions, pairs.positions, pairs.lengths, rows)
    require_named(pairs, positions, f"'{site}' stands in the decoder")
    return mask(positions, target_names(pairs), pairs.written, rows)


def target_names(pairs: Pairs) -> Mapping[str, Int[Tensor, " batch"]]:
    """Named positions of the decoder; without a target its start token is its end."""
    return pairs.target.positions if pairs.target else {"end": torch.zeros_like(pairs.lengths)}


def require_named(pairs: Pairs, place: Place, what: str) -> None:
    """Refuse the name of a token of the encoder where one of the decoder is meant.

    Raises:
        PositionError: beginning with `what`.
    """
    known = target_names(pairs)
    if not isinstance(place, str) or place in OWN or place in known or place.isdigit():
        return
    whose = "one of the encoder's tokens" if place in pairs.positions else "no token of either"
    least, most = int(pairs.written.min()), int(pairs.written.max())
    raise PositionError(
        f"position {place!r} is {whose}, and {what}, which has "
        f"{least if least == most else f'{least} to {most}'} tokens and the positions "
        f"{', '.join(known)}; give 'all' or an index (0 is its start token), or name it when the "
        "pairs are built: target_positions={...}."
    )


def reading(
    facts: Facts, pairs: Pairs, metric: Metric, rows: Sequence[int]
) -> Int[Tensor, "batch read"]:
    """The positions that a metric reads, row by row: one for logits, all for a mean.

    Of running text all but the last, after which nothing stands.

    Raises:
        PositionError: a name that the pairs have not, or of a token that a decoder does not have.
    """
    length = pairs.extents[rows[0]][1 if facts.n_encoder_layers else 0]
    if metric.position == "mean" or metric.everywhere:
        return torch.arange(length - metric.everywhere).expand(len(rows), -1)
    return read_at(facts, pairs, metric.position, f"metric {metric.name!r} reads")[list(rows)][
        :, None
    ]


def read_at(facts: Facts, pairs: Pairs, place: Place, what: str) -> Int[Tensor, " batch"]:
    """Where logits are read in each row: of an encoder-decoder in the decoder.

    Raises:
        PositionError: as `Pairs.at`, of the stack that logits stand in.
    """
    if not facts.n_encoder_layers:
        return pairs.at(place)
    require_named(pairs, place, f"{what} logits, which stand in the decoder")
    return index(place, target_names(pairs), pairs.written)


def readings(
    facts: Facts, pairs: Pairs, metrics: Sequence[Metric], rows: Sequence[int]
) -> Int[Tensor, "batch read"]:
    """The positions that several metrics read; those that they share stand once."""
    parts = {m.position: reading(facts, pairs, m, rows) for m in metrics}
    return torch.cat([*parts.values()], 1)


def route(
    facts: Facts, pairs: Pairs, cell: Cell, rows: Sequence[int], metrics: Sequence[Metric]
) -> tuple[list[Int[Tensor, "batch _"]], tuple[int, ...]]:
    """Where the receivers of each hop read, and the first position that each wave computes."""
    receiving = []
    for hop in cell.hops:
        if hop.ends:
            receiving.append(readings(facts, pairs, metrics, rows))
        else:
            mask = places(pairs, hop.positions, rows, hop.receivers[0])
            receiving.append(mask.nonzero()[:, 1].view(len(rows), -1))
    return receiving, first_changed(facts, pairs, cell, rows, metrics)


@dataclass(frozen=True)
class Starts:
    """First position that changes in each wave of a cell, in any of some rows of one length.

    Cells that intervene at the same places start together, and are looked at once.
    """

    facts: Facts
    pairs: Pairs
    metrics: Sequence[Metric]
    seen: dict[object, tuple[int, ...]] = field(default_factory=dict)

    def of(self, cell: Cell, rows: Sequence[int]) -> tuple[int, ...]:
        """As `first_changed`."""
        where = {(i.positions, decodes(i.site)) for i in cell.interventions}
        key = cell.hops, frozenset(where), tuple(rows)
        if key not in self.seen:
            self.seen[key] = first_changed(self.facts, self.pairs, cell, rows, self.metrics)
        return self.seen[key]

    def first(self, cells: Sequence[Cell], rows: Sequence[int]) -> int:
        """The first that changes under any of some cells."""
        return min((min(self.of(cell, rows)) for cell in cells), default=0)


def first_changed(
    facts: Facts, pairs: Pairs, cell: Cell, rows: Sequence[int], metrics: Sequence[Metric]
) -> tuple[int, ...]:
    """First position that changes in each wave, in any row; never after the read position."""
    last = int(readings(facts, pairs, metrics, rows).min())
    masks = [places(pairs, i.positions, rows, i.site) for i in cell.interventions]
    changed, found = min(_first(mask) for mask in masks), []
    for hop in cell.hops:
        ends = last
        if not hop.ends:
            ends = _first(places(pairs, hop.positions, rows, hop.receivers[0]))
        # where attention is frozen, only what the receivers read is computed
        found.append(changed if hop.through == "all" else ends)
        changed = ends
    if not (cell.hops and cell.hops[-1].ends):
        found.append(changed)
    return tuple(min(start, last) if facts.causal else 0 for start in found)


def _first(mask: Bool[Tensor, "batch pos"]) -> int:
    return int(mask.int().argmax(-1).min())
