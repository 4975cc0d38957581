"""What the runs of a sweep must hold: of each kind the layers that some cell reads."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from interp.core.parts.facts import Facts
from interp.core.parts.sites import HEAD_KINDS, Kind, Site
from interp.core.prompts.places import ALL
from interp.engine.interventions import Cell, Hop
from interp.engine.network.trace import KEPT, RECURRENT, Held
from interp.engine.plan.edits import entry

JOINED: dict[Kind, tuple[Kind, ...]] = {
    **dict.fromkeys(("q", "k", "v", "pattern"), ("q", "k", "v")),
    "z": ("z",),
    "attn_out": ("attn_out",),
    "resid_mid": ("resid_mid",),
    **dict.fromkeys(("router", "mlp_act", "expert", "mlp_out"), ("resid_mid", "mlp_out")),
}
"""What a cell takes of the base run where an intervention stands, beside the stream."""
ORDER: tuple[Kind, ...] = (
    *RECURRENT,
    *(kind for kind in KEPT if kind not in RECURRENT),
    "pattern",
    "router",
    "mlp_act",
    "expert",
)


def needed(facts: Facts, cells: Sequence[Cell], base: str, engine: str) -> dict[str, Held]:
    """The runs that cells take values from, with what their traces must hold.

    Of the base run that is what the cells join with, and what they set, for the null control; of
    the other run what is read.
    """
    found: dict[str, dict[Kind, set[int]]] = {base: defaultdict(set)}
    for cell in cells:
        for i in cell.interventions:
            _add(facts, found[base], i.site)
            source = i.value.source
            if isinstance(source, str):
                side = base if source == "base" else source
                _add(facts, found.setdefault(side, defaultdict(set)), i.site)
    every = range(facts.n_layers)
    if facts.recurrent or facts.n_encoder_layers or engine != "replay":
        for kind in RECURRENT if facts.recurrent else KEPT:
            found[base][kind] = {*every}
        found = {side: {kind: {*every} for kind in kinds} for side, kinds in found.items()}
    else:
        for cell in cells:
            for kind, layers in _joins(facts, cell):
                found[base][kind].update(layers)
    return {
        side: Held({kind: frozenset(layers[kind]) for kind in ORDER if kind in layers})
        for side, layers in found.items()
    }


def since(held: Mapping[str, Held], engine: str, first: int) -> dict[str, Held]:
    """... where no cell changes anything before a position; only replay starts there."""
    first = first if engine == "replay" else 0
    return {side: replace(one, first=first) for side, one in held.items()}


def _add(facts: Facts, found: dict[Kind, set[int]], site: Site) -> None:
    """A site itself; the stream is kept as what the layers read."""
    layer = site.layer or 0
    if site.kind == "embed":
        found["resid_pre"].add(0)
    elif site.kind != "resid_post":
        found[site.kind].add(layer)
    elif site.stack is not None:  # a trace of two stacks has each stream of both
        found["resid_pre"].add(layer)
    elif layer + 1 < facts.n_layers:
        found["resid_pre"].add(layer + 1)


def _joins(facts: Facts, cell: Cell) -> Iterator[tuple[Kind, range]]:
    """What the waves of a cell read of the base run."""
    n = facts.n_layers
    if any(i.readers is not None for i in cell.interventions):
        yield from ((kind, range(n)) for kind in KEPT)  # any write before a reader may be its
        return
    sites = [i.site for i in cell.interventions]
    places = any(i.positions != ALL for i in cell.interventions)
    for hop in cell.hops:
        yield from _along(facts, hop, sites)
        yield from _at(facts, sites)
        if hop.through == "all" and places:
            yield from _past(n, sites)
        sites, places = list(hop.receivers), True
    if cell.hops and cell.hops[-1].ends:
        return
    yield from _at(facts, sites)
    if places:
        yield from _past(n, sites)


def _at(facts: Facts, sites: Sequence[Site]) -> Iterator[tuple[Kind, range]]:
    for site in sites:
        here = _layer(site)
        if site.kind == "resid_post":
            yield "resid_pre", range(here.stop, min(here.stop + 1, facts.n_layers))
        else:
            yield "resid_pre", here
        yield from ((kind, here) for kind in JOINED.get(site.kind, ()))


def _layer(site: Site) -> range:
    layer = site.layer or 0
    return range(layer, layer + 1)


def _past(n_layers: int, sites: Sequence[Site]) -> Iterator[tuple[Kind, range]]:
    """Keys and values before the first position that changes."""
    first = min(entry(site, None, n_layers) for site in sites)[0]
    yield from ((kind, range(first, n_layers)) for kind in ("k", "v"))


def _along(facts: Facts, hop: Hop, senders: Sequence[Site]) -> Iterator[tuple[Kind, range]]:
    """What stands still along a path, and what its receivers take in."""
    last = facts.n_layers - 1
    first = min(entry(site, None, facts.n_layers) for site in senders)[0]
    end = last if hop.ends else max(site.layer or 0 for site in hop.receivers)
    between = range(first, end + 1)
    yield from ((site.kind, _layer(site)) for site in hop.receivers if site.layer is not None)
    if hop.ln == "freeze":
        yield from (
            (kind, between) for kind in ("resid_pre", "resid_mid", "attn_out", "mlp_out", "z")
        )
    if hop.through != "all":
        yield "attn_out", between
        # the other heads of a layer whose queries, keys, values or patterns are set
        yield from (("z", _layer(site)) for site in senders if site.kind in HEAD_KINDS)
    if hop.through == "direct":
        yield "mlp_out", between
