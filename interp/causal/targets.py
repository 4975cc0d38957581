"""The rows of a sweep: sites, edges or sets of them x positions, as every method takes them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from interp.core.door.door import door
from interp.core.errors import PairsError, PositionError, SiteError
from interp.core.parts.edges import Edge, edges, in_order, is_edge
from interp.core.parts.sites import Site, resolve
from interp.core.prompts.pairs import Pairs
from interp.core.prompts.places import Place, Positions, listed
from interp.engine.interventions import Cell, Hop, Intervention, Value
from interp.engine.plan.positions import decodes, target_names
from interp.models.model import Model

Selection = str | Site | Edge | Iterable[str | Site | Edge]
Sites = Selection | Mapping[str, Selection]
NEEDS_HEADS = ("q", "k", "v", "z", "pattern")


@dataclass(frozen=True)
class Target:
    """What one cell changes.

    Attributes:
        name, position: as the table calls it.
        place: where it is.
        site: if it is about one.
        parts: each site with the readers that see the change; None is everyone.
    """

    name: str
    position: str
    place: Place
    site: Site | None
    parts: tuple[tuple[Site, tuple[Site, ...] | None], ...]

    def cell(self, value: Value, *, hops: tuple[Hop, ...] = (), normalise: bool = True) -> Cell:
        """The same value at every part."""
        made = tuple(
            Intervention(site, value, self.place, readers, normalise)
            for site, readers in self.parts
        )
        return Cell(self.name, self.position, made, hops, self.site)


def targets(model: Model, pairs: Pairs, sites: Sites, positions: Positions) -> Iterator[Target]:
    """Each site, edge or named set at each position, checked before anything runs.

    `sites` is a selector, a site, an edge ("20.1 -> 23.3.q"), or a list of them: one cell each. A
    mapping from names to such selections makes one cell of each: all its parts change together.
    `positions` is a place (`interp.core.prompts.places`): `"all"` (every position together),
    `"after first"` (all but the first), a name, an index, an array with one index for each row, a
    list of indices for each row, a mask; a list of names and indices (one intervention each), a
    mapping from what the table calls them to places; or `"each"` (one for each index; the prompts
    must be of one length).

    Raises:
        SiteError, PositionError: what the model or the pairs do not have.
        Unsupported: sites of heads on a model whose heads do not add up to the attention output,
            or resid_mid where it is not the sum of what was written before.
    """
    if isinstance(sites, Mapping):
        chosen = [(name, None, parts(model, selection)) for name, selection in sites.items()]
        if not chosen:
            raise SiteError("the mapping of sites is empty; give at least one named set.")
    else:
        found = parts(model, sites, grouped=False)
        chosen = [(_name(*part), part[0] if part[1] is None else None, (part,)) for part in found]
    everything = [site for _, _, group in chosen for site, _ in group]
    used = {site.kind for site in everything}
    if used & set(NEEDS_HEADS):
        model.require("heads")
    if "resid_mid" in used:
        model.require("residual")
    if isinstance(positions, str) and positions == "each" and any(map(decodes, everything)):
        if not all(map(decodes, everything)):
            raise PositionError(
                'positions="each" counts the tokens of one stack, and these sites stand in both; '
                "sweep the encoder's and the decoder's by themselves."
            )
        places = _each(pairs.written, "targets", target_names(pairs))
    else:
        places = each_position(pairs, positions)
    for position, place in places:
        for name, site, group in chosen:
            yield Target(name, position, place, site, group)


def parts(
    model: Model, selection: Selection, *, grouped: bool = True
) -> tuple[tuple[Site, tuple[Site, ...] | None], ...]:
    """Sites for everyone and, of edges, writers with their readers (all readers of one together).

    Raises:
        SiteError: what the model does not have, or nothing at all.
    """
    given = [selection] if isinstance(selection, str | Site | Edge) else list(selection)
    whole = [part for part in given if not is_edge(part)]
    cut = in_order([part for part in given if is_edge(part)], model.facts)
    nodes = resolve(whole, model.facts) if whole or not cut else ()
    made: list[tuple[Site, tuple[Site, ...] | None]] = [(site, None) for site in nodes]
    if not grouped:
        return (*made, *((edge.writer, (edge.reader,)) for edge in cut))
    readers: dict[Site, list[Site]] = {}
    for edge in cut:
        readers.setdefault(edge.writer, []).append(edge.reader)
    return (*made, *((writer, tuple(ends)) for writer, ends in sorted(readers.items())))


@door
def complement(
    model: Model, circuit: Selection, *, of: Selection = ("heads", "mlps")
) -> list[Site] | list[Edge]:
    """What is not in a circuit: the other heads and MLPs, or of a circuit of edges the other edges.

    `interp.ablate(model, pairs, {"all but the circuit": interp.complement(model, circuit)})`

    Args:
        of: what there is; for a circuit of edges always every edge.
    """
    given = [circuit] if isinstance(circuit, str | Site | Edge) else list(circuit)
    if given and all(is_edge(part) for part in given):
        kept = {*in_order(given, model.facts)}
        return [edge for edge in edges("edges", model.facts) if edge not in kept]
    inside = set(resolve(given, model.facts))
    return [site for site in resolve(of, model.facts) if site not in inside]


def _name(site: Site, readers: tuple[Site, ...] | None) -> str:
    return str(site) if readers is None else str(Edge(site, readers[0]))


def each_position(pairs: Pairs, positions: Positions) -> list[tuple[str, Place]]:
    """The positions of a sweep, and what the table calls them.

    Raises:
        PositionError: what is no position.
        PairsError: "each" index of prompts that differ in length.
    """
    if isinstance(positions, str) and positions == "each":
        return _each(pairs.lengths, "prompts", pairs.positions)
    return listed(positions, pairs.positions)


def _each(
    lengths: Int[Tensor, " batch"], what: str, named: Iterable[str]
) -> list[tuple[str, Place]]:
    found = sorted(set(lengths.tolist()))
    if len(found) > 1:
        raise PairsError(
            f'positions="each" needs {what} of one length, so that an index means the same '
            f"in each; these have {found}. Give named positions "
            f"({', '.join(named)}), or select the prompts of one template."
        )
    return [(str(i), i) for i in range(found[0])]
