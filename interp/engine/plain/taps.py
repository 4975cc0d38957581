"""Taps: the slices of activations that are read off plain runs, and the runs they are read off."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import SiteError, Unsupported, nearest
from interp.core.parts.facts import Facts
from interp.core.parts.sites import HEAD_KINDS, STATES, Site
from interp.core.prompts.pairs import Pairs, Side
from interp.engine.engines.protocol import Engine
from interp.engine.limits import Limits
from interp.engine.network.trace import shelf
from interp.engine.plan.positions import ids_of

FEWEST = 256
"""Tokens in one forward: fewer are slower (measured)."""
SHARE = 8
"""What a forward holds for a moment may be this fraction of what is kept."""


@dataclass(frozen=True)
class Slab:
    """What is taken of one activation of one layer.

    Attributes:
        shelf, layer: where a trace keeps it.
        indices: heads, key-value groups, neurons, units or experts, ascending; empty takes all.
    """

    shelf: str
    layer: int
    indices: tuple[int, ...] = ()

    @property
    def kind(self) -> str:
        return self.shelf.rpartition(".")[2]

    @property
    def decoder(self) -> bool:
        """Do its positions count a decoder's tokens?"""
        keys_of_encoder = "cross" in self.shelf and self.kind in ("k", "v")
        return self.shelf.startswith("dec.") and not keys_of_encoder

    def __len__(self) -> int:
        return max(1, len(self.indices))

    def cut(self, x: Float[Tensor, "batch pos *rest"]) -> Float[Tensor, "index batch pos *axes"]:
        """The slice of an activation, a view where the indices are neighbours."""
        if not self.indices:
            return x[None]
        x, first, last = x.movedim(2, 0), self.indices[0], self.indices[-1]
        if last - first + 1 == len(self.indices):
            return x[first : last + 1]
        return x.index_select(0, torch.tensor(self.indices, device=x.device))

    def extent(self, length: int, written: int) -> tuple[int, int]:
        """Positions and keys in a row of this length, of which a decoder reads `written`."""
        positions = written if self.decoder else length
        return positions, length if "cross" in self.shelf else positions

    def shape(self, facts: Facts, length: int, written: int) -> tuple[int, ...]:
        """Positions and axes in a row of this length."""
        positions, keys = self.extent(length, written)
        if self.kind == "logits":
            return positions, facts.d_vocab
        if self.kind == "pattern":
            return positions, keys
        if self.kind == "mlp_act" or (self.kind in STATES and self.indices):
            return (positions,)
        if self.kind == "router":
            return positions, facts.n_experts
        return positions, facts.d_head if self.kind in HEAD_KINDS else facts.d_model


@dataclass(frozen=True, eq=False)
class Layout:
    """Sites, and the slab and index in it where each is.

    The keys of query heads that share them are one index, and so are "embed" and "0.resid_pre".
    """

    sites: tuple[Site, ...]
    slabs: tuple[Slab, ...]
    where: Mapping[Site, tuple[Slab, int]]
    group_size: int

    @classmethod
    def of(cls, sites: Iterable[Site], group_size: int) -> "Layout":
        """`group_size`: query heads that share a key and a value."""
        sites = tuple(sites)
        places = {site: _place(site, group_size) for site in sites}
        indices: dict[tuple[str, int, bool], set[int]] = {}
        for name, layer, index in places.values():
            found = indices.setdefault((name, layer, index is None), set())
            found.update(() if index is None else (index,))
        slabs = {key: Slab(*key[:2], tuple(sorted(found))) for key, found in indices.items()}
        rank = {
            key: {i: n for n, i in enumerate(slab.indices)} | {None: 0}
            for key, slab in slabs.items()
        }
        keys = {site: (*at[:2], at[2] is None) for site, at in places.items()}
        where = {site: (slabs[key], rank[key][places[site][2]]) for site, key in keys.items()}
        return cls(sites, tuple(slabs.values()), where, group_size)

    def find(self, site: str | Site, owner: str, remedy: str) -> tuple[Slab, int]:
        """The slab of a site, and the index in it.

        Raises:
            SiteError: it was not asked for; says what `owner` has and the remedy.
        """
        parsed = Site.parse(site)
        if parsed not in self.where:
            raise SiteError(
                f"{owner} has no site '{parsed}'; of its {len(self.sites)} sites, "
                f"{nearest(str(parsed), map(str, self.sites))} {remedy}"
            )
        return self.where[parsed]

    @cached_property
    def names(self) -> dict[tuple[Slab, int], str]:
        """The text of the first site at each place."""
        names: dict[tuple[Slab, int], str] = {}
        for site in self.sites:
            names.setdefault(self.where[site], str(site))
        return names

    @property
    def shelves(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(slab.shelf for slab in self.slabs))

    @property
    def layers(self) -> int | None:
        """Layers that have to run; None for all."""
        if LOGITS in self.slabs:
            return None
        return 1 + max(slab.layer for slab in self.slabs)


LOGITS = Slab("logits", 0)
"""What comes out at the end, which no layer shows."""


def refuse_logits(sites: Iterable[Site], what: str) -> None:
    """Refuse the logits where activations are asked for.

    Raises:
        Unsupported: saying what to read them with.
    """
    if any(site.kind == "logits" for site in sites):
        raise Unsupported(
            f"'logits' are no activation that {what}: nothing reads them but a metric. Read them "
            "with interp.capture(model, pairs, 'logits'), or interp.evaluate(metric=...)."
        )


def _place(site: Site, group_size: int) -> tuple[str, int, int | None]:
    if site.kind == "embed":
        return "resid_pre", 0, None
    indices = site.group, site.head, site.neuron, site.expert
    index = next((i for i in indices if i is not None), None)
    if site.kind in ("k", "v") and site.head is not None:
        index = site.head // group_size
    return shelf(site), site.layer or 0, index


def rows_at_once(facts: Facts, length: int, itemsize: int, kept: int, device: torch.device) -> int:
    """Rows in one forward: few enough that it holds little beside what is kept (bytes)."""
    most = Limits.of(device).tokens
    if device.type != "cpu":
        return max(1, most // length)
    heads = facts.n_heads * (4 * facts.d_head + 3 * length)
    token = itemsize * (8 * facts.d_model + 3 * facts.d_mlp + heads)
    return max(1, min(max(kept // SHARE // token, FEWEST), most) // length)


def read(
    engine: Engine,
    pairs: Pairs,
    side: Side,
    layout: Layout,
    rows: Sequence[int],
    device: torch.device,
    take: Callable[[Slab, Float[Tensor, "index batch pos *axes"]], None],
) -> None:
    """One forward of rows of one length, up to the last layer that is needed.

    `take` is shown each slab as it is computed, and must copy what it keeps.

    Raises:
        Unsupported: the model does not compute a slab.
    """
    wanted: dict[tuple[str, int], list[Slab]] = {}
    for slab in layout.slabs:
        wanted.setdefault((slab.shelf, slab.layer), []).append(slab)
    missing = dict.fromkeys(layout.slabs)

    def see(name: str, layer: int, activation: Tensor) -> None:
        for slab in wanted.get((name, layer), ()):
            take(slab, slab.cut(activation))
            missing.pop(slab, None)

    tokens, written = ids_of(pairs, side, rows, device)
    shelves = [name for name in layout.shelves if name != LOGITS.shelf]
    ran = engine.walk(tokens, see, shelves=shelves, layers=layout.layers, written=written)
    if LOGITS in missing:
        see(LOGITS.shelf, LOGITS.layer, engine.logits(ran))
    if missing:
        slab = next(iter(missing))
        raise Unsupported(
            f"the {engine.name} engine never showed the {slab.kind} of layer {slab.layer}, so "
            "there is nothing to keep. Choose other sites, or the other engine."
        )
