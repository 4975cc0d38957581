"""The rows of a sweep: sites x positions, as every method takes them."""

from collections.abc import Iterable, Iterator, Sequence

from interp.core.errors import PairsError, PositionError
from interp.core.pairs import Pairs
from interp.core.sites import Site, resolve
from interp.models.model import Model

Sites = str | Site | Iterable[str | Site]
Positions = str | Sequence[str]
NEEDS_HEADS = ("q", "k", "v", "z", "pattern")


def targets(
    model: Model, pairs: Pairs, sites: Sites, positions: Positions
) -> Iterator[tuple[Site, str | int]]:
    """Each site at each position, checked before anything runs.

    `positions` is `"all"` (every position together), a name, a list of names (one intervention
    each), or `"each"` (one for each index; the prompts must be of one length).

    Raises:
        SiteError, PositionError: what the model or the pairs do not have.
        Unsupported: sites of heads on a model whose heads do not add up to the attention output,
            or resid_mid where it is not the sum of what was written before.
    """
    chosen = resolve(sites, model.facts)
    if any(site.kind in NEEDS_HEADS for site in chosen):
        model.require("heads")
    if any(site.kind == "resid_mid" for site in chosen):
        model.require("residual")
    for place in each_position(pairs, positions):
        for site in chosen:
            yield site, place


def each_position(pairs: Pairs, positions: Positions) -> list[str | int]:
    """The positions of a sweep, as names or indices."""
    if positions == "each":
        lengths = sorted(set(pairs.lengths.tolist()))
        if len(lengths) > 1:
            raise PairsError(
                f'positions="each" needs prompts of one length, so that an index means the same '
                f"in each; these have {lengths}. Give named positions "
                f"({', '.join(pairs.positions)}), or select the prompts of one template."
            )
        return list(range(lengths[0]))
    names = [positions] if isinstance(positions, str) else list(positions)
    if not names:
        raise PositionError(
            f"positions=[] names no position; give 'all' or some of {', '.join(pairs.positions)}."
        )
    for name in names:
        if name != "all":
            pairs.at(name)
    return list(names)
