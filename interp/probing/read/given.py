"""Activations of words by site, as users give them, and what nothing can be fitted to."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from jaxtyping import Bool, Float
from torch import Tensor

from interp.core.door.door import door
from interp.core.errors import ProbeError
from interp.core.parts.sites import Site
from interp.engine.interventions import Erase

T = TypeVar("T")
SINK, SHARE = 20, 0.5
"""Words this many times as far from the middle as the median word may have no more than this share
of the squared distances."""

BySite = Mapping[Site, T] | Mapping[str, T]
Kinds = Mapping[str, BySite[Erase] | Sequence[BySite[Erase]]]
"""Erasures by what they take away, then by site; several draws of one are in a list."""


class One(NamedTuple):
    """An erasure at some sites: of a kind, and which of its draws, counted from 1."""

    kind: str
    draw: int | None
    of: dict[Site, Erase]

    @property
    def name(self) -> str:
        return self.kind if self.draw is None else f"{self.kind} {self.draw}"


def one_by_one(kinds: Kinds) -> list[One]:
    """Every erasure, each draw by itself.

    Raises:
        ProbeError: a kind without draws or without sites, or two that have one name.
    """
    found: list[One] = []
    for kind, given in kinds.items():
        if isinstance(given, Mapping):
            found.append(One(kind, None, by_site(given)))
        else:
            found += [One(kind, i, by_site(of)) for i, of in enumerate(given, start=1)]
            if not given:
                raise ProbeError(f"{kind!r} holds no draws; give at least one, or leave it out.")
    if empty := [one.name for one in found if not one.of]:
        raise ProbeError(f"{empty[0]!r} holds no erasure; give at least one site of each kind.")
    names = [one.name for one in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ProbeError(f"two erasures would be called {twice!r}; name one of them otherwise.")
    return found


def by_site(given: BySite[T]) -> dict[Site, T]:
    """What is given by site, whether as text or as Site."""
    return {Site.parse(site): value for site, value in given.items()}


@door
def sinks(x: Float[Tensor, "word d"]) -> Bool[Tensor, " word"]:
    """Which words lie over `SINK` times as far from the middle (the median) as the median word.

    Mostly those that begin a row; in a few rows SmolLM2's second word is one too.

    Raises:
        ProbeError: no words, or activations that are not finite.
    """
    require_finite(x)
    far = _far(x)
    return far > SINK**2 * far.median()


def _far(x: Float[Tensor, "word d"]) -> Float[Tensor, " word"]:
    """Squared distance from the middle."""
    return (x - x.median(0).values).double().square().sum(1)


def require_finite(x: Float[Tensor, "word d"]) -> None:
    """Refuse activations of no words, and numbers that are none.

    Raises:
        ProbeError: names the word.
    """
    if not x.numel():
        raise ProbeError(
            f"activations of shape {tuple(x.shape)} (word, d) are of no word or of no dimension, "
            "so there is nothing to fit an erasure to; give those of some words."
        )
    if not (finite := x.isfinite().all(1)).all():
        raise ProbeError(
            f"the activations of word {int((~finite).int().argmax())} hold NaN or infinity; "
            "nothing can be fitted to them. Half precision may be too narrow for this model."
        )


def require_no_sinks(site: Site, x: Float[Tensor, "word d"]) -> None:
    """Refuse words of which a few have most of the variance.

    Raises:
        ProbeError: names the site and the first of them.
    """
    far, found = _far(x), sinks(x)
    share = float(far[found].sum() / far.sum())
    if share > SHARE:
        times = float((far.max() / far.median()).sqrt())
        raise ProbeError(
            f"at '{site}' {int(found.sum())} of {len(x)} words (the first is word "
            f"{int(found.int().argmax())}) lie up to {times:.0f} times as far out as the median "
            f"word and have {share:.0%} of the variance: likely attention sinks, which would "
            "decide alone what is erased. Leave out the first word of each row "
            "(features.word > 0), and what interp.probing.sinks still finds."
        )
