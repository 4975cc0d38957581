"""What can be done to an activation, and the list that every method writes.

A *value* (`Zero`, `Mean`, ...) says what an activation becomes; an `Intervention` puts it at a
site and positions; a `Cell` is the set of interventions of one run of the model, and gives one
number per example; a `Hop` makes it a path; `readers` make it an edge.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from interp.core.door.door import door
from interp.core.door.taken import Finite, shown
from interp.core.errors import InterpError, SiteError, Unsupported
from interp.core.parts.edges import READERS, Edge, read_in, require_forward
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs, Side
from interp.core.prompts.places import AFTER_FIRST, Given, Place, place_of

Through = Literal["direct", "mlps", "all"]
LN = Literal["recompute", "freeze"]


class Averaged(ABC):
    """Whose mean is set: prompts that are still to run, or means that were taken before."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Everything that the mean depends on, but for the model."""


@door
@dataclass(frozen=True, eq=False)
class Reference(Averaged):
    """The prompts of one side of some pairs, averaged by template and length when they are needed.

    `interp.MeanReference` is the same, averaged once and for all.
    """

    pairs: Pairs
    side: Side

    @property
    def fingerprint(self) -> str:
        return f"{self.pairs.fingerprint}:{self.side}"


Source = Side | Literal["base"] | Averaged | Tensor | None
"""Where a value comes from: a run of the same rows, a mean, a tensor of one's own, or nowhere."""


@runtime_checkable
class Value(Protocol):
    """A new value for an activation, from the current one and what `source` holds there."""

    @property
    def source(self) -> Source: ...
    def __call__(self, current: Tensor, found: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Zero:
    """0: far off the distribution; noisy by report (Wang et al. 2022, sec. 2.1)."""

    source: ClassVar[Source] = None

    def __call__(self, current: Tensor, found: Tensor) -> Tensor:
        return torch.zeros_like(current)


@door
@dataclass(frozen=True, eq=False)
class Mean:
    """The mean over a reference set, of the row's own group, at the same position."""

    source: Averaged

    def __call__(self, current: Tensor, found: Tensor) -> Tensor:
        return found


@door
@dataclass(frozen=True)
class Resample:
    """The value that the site has at the same row and position of another run."""

    source: Side

    def __call__(self, current: Tensor, found: Tensor) -> Tensor:
        return found


@dataclass(frozen=True)
class Freeze:
    """The value of the run that is intervened on: a null intervention when put alone."""

    source: ClassVar[Source] = "base"

    def __call__(self, current: Tensor, found: Tensor) -> Tensor:
        return found


@door
@dataclass(frozen=True, eq=False, init=False)
class Own:
    """Numbers of one's own, a tensor or an array, in one of four shapes.

    Those of the site (`d_model` of the residual stream and what is written into it, `d_head` of a
    head, `key` of a pattern, `expert` of a router, none of a neuron), the same for every row and
    position; with `batch` before them, one for each row of the pairs; with `pos`, one for each
    position; or with `batch pos`. Where there are as many rows as positions, say which is meant:
    `batch 1 d_model` or `1 pos d_model`.

    Raises:
        InterpError: no numbers.
    """

    source: Float[Tensor, "*axes"]

    def __init__(self, source: Tensor | ArrayLike) -> None:
        object.__setattr__(self, "source", numbers(source, type(self).__name__))


class Set(Own):
    """The activation becomes these numbers; see `Own` for their shape."""

    def __call__(self, current: Tensor, found: Tensor) -> Tensor:
        return found


class Add(Own):
    """The current value plus these numbers; see `Own` for their shape."""

    def __call__(self, current: Tensor, found: Tensor) -> Tensor:
        return current + found


@door
@dataclass(frozen=True)
class Scale:
    """The current value times a factor.

    Attributes:
        factor: the same everywhere. To multiply by a tensor, set the product: `Set(values)`.
    """

    factor: Finite
    source: ClassVar[Source] = None

    def __call__(self, current: Tensor, found: Tensor) -> Tensor:
        return current * self.factor


@door
@dataclass(frozen=True, eq=False)
class Erase:
    """The current value without what a map of low rank finds in it: `x - left right (x - mean)`.

    An affine map of whatever stands there, so several layers may be erased in one run. Made by
    `interp.probing.use.erasure`. Computed in the wider of its own precision and the activation's.

    Attributes:
        left, right: `d rank` and `rank d`.
        mean: `d`, the point that stays where it is.
    """

    left: Float[Tensor, "_ _"]
    right: Float[Tensor, "_ _"]
    mean: Float[Tensor, " _"]

    source: ClassVar[Source] = None

    def __post_init__(self) -> None:
        parts = {"left": self.left, "right": self.right, "mean": self.mean}
        shapes = {name: tuple(part.shape) for name, part in parts.items()}
        d, rank = shapes["left"] if self.left.ndim == 2 else (0, 0)
        if shapes != {"left": (d, rank), "right": (rank, d), "mean": (d,)}:
            raise InterpError(
                f"an erasure of vectors of d numbers has left (d, rank), right (rank, d) and mean "
                f"(d,); these are {shapes}."
            )
        for name, part in parts.items():
            if not part.is_floating_point() or not part.isfinite().all():
                what = "holds NaN or infinity" if part.is_floating_point() else f"is {part.dtype}"
                raise InterpError(
                    f"{name} of an erasure {what}; it must be finite floating-point numbers. Look "
                    "at the activations that it was fitted to."
                )

    @property
    def rank(self) -> int:
        """How many directions are taken away."""
        return self.left.shape[1]

    @property
    def width(self) -> int:
        """The length of the vectors."""
        return self.left.shape[0]

    def of(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """The vectors after erasure, in the precision that they came in."""
        wide = torch.promote_types(x.dtype, self.left.dtype)
        left, right, mean = (t.to(x.device, wide) for t in (self.left, self.right, self.mean))
        value = x.to(wide)
        return (value - (value - mean) @ right.T @ left.T).to(x.dtype)

    def __call__(self, current: Tensor, found: Tensor) -> Tensor:
        return self.of(current)


def alike(value: Value) -> object:
    """The same for values that may be one call for many cells, given what their sources hold.

    A value of one's own is like no other: it may know of the rows that it is given.
    """
    if type(value) in (Zero, Mean, Resample, Freeze, Set, Add):
        return type(value)
    return value if type(value) in (Scale, Erase) else object()


def replaces(value: Value) -> bool:
    """Does an activation become what the source holds, whatever it was?"""
    return type(value) in (Mean, Resample, Freeze, Set)


@dataclass(frozen=True, eq=False, init=False)
class Intervention:  # no door: a sweep makes thousands of them
    """A value at a site.

    Attributes:
        site: as text, too ("12.resid_post").
        positions: a place (`interp.core.prompts.places`): `"all"`, `"after first"`, a named
            position of the pairs, an index, indices row by row, or a mask. Of a pattern: the
            queries.
        readers: who sees the value; None is everyone. For them alone the site's contribution to
            what they read is the new one, and the site itself keeps its value.
        normalise: refuse a pattern whose rows do not sum to 1, and weights of experts that do not
            sum to what they did.

    Raises:
        SiteError, PositionError: what is no site, or no place.
        InterpError: what is no value.
    """

    site: Site
    value: Value
    positions: Place = "all"
    readers: tuple[Site, ...] | None = None
    normalise: bool = True

    def __init__(
        self,
        site: str | Site,
        value: Value,
        positions: Given = "all",
        readers: str | Site | Sequence[str | Site] | None = None,
        normalise: bool = True,
    ) -> None:
        parts = {
            "site": Site.parse(site),
            "value": require_value(value),
            "positions": place_of(positions),
            "readers": None if readers is None else sites_of(readers, "readers"),
            "normalise": normalise,
        }
        for name, part in parts.items():
            object.__setattr__(self, name, part)
        if self.site.kind == "logits":
            raise Unsupported(
                "no engine intervenes on 'logits': nothing reads them but the metric. Give the "
                "metric another function instead."
            )
        for reader in self.readers or ():
            Edge(self.site, reader)  # refuses what cannot be the ends of one


def numbers(given: Any, what: str) -> Float[Tensor, "*axes"]:
    """A tensor from what a user gives as a value.

    Raises:
        InterpError: no numbers, or none at all.
    """
    try:
        found = given if isinstance(given, Tensor) else torch.as_tensor(np.array(given))
    except (TypeError, ValueError, RuntimeError):
        found = None
    if found is None or found.dtype == torch.bool or found.is_complex():
        raise InterpError(
            f"{what}({given!r:.60}): the value is numbers, a tensor or an array; got "
            f"{type(given).__name__}. In the shape of the site: d_model of the residual stream."
        )
    if not found.numel():
        raise InterpError(f"{what}: the value has shape {tuple(found.shape)}, so no numbers.")
    if not found.is_floating_point():
        found = found.to(torch.get_default_dtype())
    return found


def require_value(value: Any) -> Value:
    """Refuse what says nothing of what an activation becomes.

    Raises:
        InterpError: names what it is.
    """
    if isinstance(value, Value) and not isinstance(value, type):
        return value
    known = (
        "Zero(), Mean(...), Resample('corrupt'), Set(x), Add(x), Scale(2.0), Erase(...), Freeze()"
    )
    remedy = ""
    if isinstance(value, type):
        remedy = f" Write an object of it, {value.__name__}(...)."
    elif callable(value) and not hasattr(value, "source"):
        remedy = (
            " It can be called; to be a value it also has a `source`: None, if it reads the "
            "activation alone."
        )
    if isinstance(value, Tensor | np.ndarray | list | float | int):
        remedy = " To set a value write Set(x), to add one Add(x)."
    raise InterpError(
        f"value={shown(value)} does not say what the activation becomes; give one of {known}."
        + remedy
    )


def sites_of(given: Any, what: str) -> tuple[Site, ...]:
    """One site or several, as text or not.

    Raises:
        SiteError: what is no site, or none at all.
    """
    listed = [given] if isinstance(given, str | Site) else given
    if not isinstance(listed, list | tuple) or not listed:
        raise SiteError(f"{what}={shown(given)}: give a site ('23.3.q'), or a list of them.")
    return tuple(map(Site.parse, listed))


SENDERS = ("embed", "resid_pre", "z", "attn_out", "mlp_act", "expert", "mlp_out")


_TERMS = {"attn_out": ("z",), "mlp_out": ("mlp_act", "expert"), "expert": ("mlp_act",)}
"""Of what is a sum, the sites that may be terms of it."""


@door
@dataclass(frozen=True, init=False)
class Hop:
    """Which readers see the change, and what it may pass through on the way to them.

    Attributes:
        receivers: queries, keys, values of heads, MLPs (their input), or the logits alone.
        through: `"direct"`: only the residual edge; `"mlps"`: MLPs are recomputed and every
            attention head keeps the base run's output (Wang et al. 2022, App. B, Algorithm 1);
            `"all"`: nothing is frozen between senders and receivers.
        positions: where the receivers take the changed input: a place, as of an `Intervention`.
        ln: `"recompute"` norms of the residual stream on the way, or `"freeze"` their scale
            (standard deviation, root mean square) at the base run's.
    """

    receivers: tuple[Site, ...]
    through: Through = "mlps"
    positions: Place = "all"
    ln: LN = "recompute"

    def __init__(
        self,
        receivers: str | Site | Sequence[str | Site],
        through: Through = "mlps",
        positions: Given = "all",
        ln: LN = "recompute",
    ) -> None:
        parts = {
            "receivers": sites_of(receivers, "receivers"),
            "through": through,
            "positions": place_of(positions),
            "ln": ln,
        }
        for name, part in parts.items():
            object.__setattr__(self, name, part)
        for site in self.receivers:
            if site.kind not in READERS:
                raise SiteError(
                    f"'{site}' cannot receive a path; receivers are the q, k, v of heads "
                    "('23.3.q'), MLPs ('12.mlp') and 'logits'."
                )
        if len(self.receivers) > 1 and any(s.kind == "logits" for s in self.receivers):
            raise SiteError(
                "'logits' cannot be patched together with other receivers: once the final "
                "residual stream is set, they no longer matter. Run two path patches."
            )
        if len(set(self.receivers)) < len(self.receivers):
            raise SiteError(f"a receiver is given twice in {self}")

    @property
    def ends(self) -> bool:
        """Is this the last hop, into the logits?"""
        return self.receivers[0].kind == "logits"

    def __str__(self) -> str:
        return "+".join(str(site) for site in self.receivers)


@dataclass(frozen=True, eq=False)
class Cell:
    """One intervened run: interventions made together, and the path they may take.

    With hops, the first runs the model with the interventions made and everything frozen that the
    hop does not pass through, and notes what its receivers compute. Each further hop does the same
    with nothing but those receivers set to what was noted. After the last, the receivers are set
    and everything is recomputed; if they are the logits, those of the last frozen run count.

    In a frozen run a head keeps the base run's z, unless its own q, k or v is set there: then its
    z is recomputed from those, and from the base run's where they are not set.

    Attributes:
        name, position: what the row of the table is called.
        interventions: made in the same run; later sites see the effect of earlier ones.
        hops: none recomputes everything after the interventions.
        site: the one site that this is about, if there is one.
    """

    name: str
    position: str
    interventions: tuple[Intervention, ...]
    hops: tuple[Hop, ...] = ()
    site: Site | None = None
    first: Site = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "first", min(i.site for i in self.interventions))
        self._refuse_twice()
        self._refuse_sums()
        if not self.hops:
            return
        for intervention in self.interventions:
            if intervention.site.kind not in SENDERS or intervention.readers is not None:
                raise SiteError(
                    f"'{intervention.site}' cannot send along a path; senders are heads ('20.1'), "
                    "attention ('20.attn'), MLPs ('12.mlp'), neurons, experts, 'embed' and "
                    "'L.resid_pre', for all their readers."
                )
        before = self.first
        for hop in self.hops:
            if not before < max(hop.receivers):
                raise SiteError(
                    f"the path {before} -> {hop} does not exist: the sender is computed after its "
                    "receiver. Exchange them, or choose a later receiver."
                )
            before = min(hop.receivers)
        if any(hop.ends for hop in self.hops[:-1]):
            raise SiteError("a path ends at 'logits'; nothing comes after them.")
        self._refuse_frozen()
        if self.first.stack is not None:
            self._require_ways()

    def _require_ways(self) -> None:
        """In two stacks a hop begins and ends where there is a way that it may take."""
        senders = [i.site for i in self.interventions]
        for hop in self.hops:
            for sender, receiver in product(senders, hop.receivers):
                require_forward(sender, receiver)
            if len(reads := {read_in(site) for site in hop.receivers}) > 1:
                raise SiteError(
                    f"the receivers {hop} read the streams of two stacks, and one hop goes into "
                    "one of them. Make two path patches."
                )
            lost = [str(site) for site in senders if site.stack == "enc" and reads == {"dec"}]
            if hop.through != "all" and lost:
                raise SiteError(
                    f"no path from '{lost[0]}' to {hop} passes through MLPs alone: what an encoder "
                    "makes goes through cross-attention, whose heads stay as they are. Name the "
                    "key or value that takes it (via=['dec.0.cross.3.v']), or say through='all'."
                )
            senders = list(hop.receivers)

    def _refuse_frozen(self) -> None:
        """A site that keeps its value, or is given one, passes nothing on of what arrives there."""
        frozen = [i.site for i in self.interventions if isinstance(i.value, Freeze)]
        if 0 < len(frozen) < len(self.interventions):
            raise SiteError(
                f"no path passes through '{frozen[0]}', which is frozen in {self.name!r}. Leave "
                "the freeze out: what a hop does not pass through is frozen by itself."
            )
        for site in {i.site for i in self.interventions} & set(self.hops[0].receivers):
            raise SiteError(
                f"'{site}' is given a value as a sender of {self.name!r}, so it cannot receive the "
                "path as well. Take it out of one of them."
            )

    def _refuse_twice(self) -> None:
        """Two values for one site, at one position, for one reader."""
        taken: dict[tuple[Site, Site | None], list[Place]] = {}
        for i in self.interventions:
            everyone = taken.get((i.site, None), [])
            named = [k for k in taken if k[0] == i.site] if i.readers is None else ()
            for reader in i.readers or (None,):
                held = [*everyone, *taken.get((i.site, reader), ())]
                held += [at for key in named for at in taken[key]]
                wide = {"all", AFTER_FIRST}
                if i.positions in held or wide & {*held} or (held and i.positions in wide):
                    seen = "" if reader is None else f", as '{reader}' reads it,"
                    raise SiteError(
                        f"two interventions set '{i.site}'{seen} at position {i.positions!r} in "
                        f"one run ({self.name!r}); which one holds is not said. Leave one out."
                    )
                taken.setdefault((i.site, reader), []).append(i.positions)

    def _refuse_sums(self) -> None:
        """A sum that is set for everyone has no terms that one reader could see otherwise."""
        named = [i.site for i in self.interventions if i.readers is not None]
        for i in self.interventions:
            if i.readers is not None:
                continue
            inner = _TERMS.get(i.site.kind, ())
            beside = [s for s in named if s.stack == i.site.stack]
            lost = [s for s in beside if s.kind in inner and s.layer == i.site.layer]
            lost = [s for s in lost if s.cross == i.site.cross]
            if i.site.kind.startswith("resid"):
                lost = beside
            if lost:
                raise SiteError(
                    f"'{i.site}' is set for all its readers and '{lost[0]}', which is a term of "
                    f"that sum, for some ({self.name!r}): whether they see it is not said. Make "
                    "two runs of it."
                )
