"""What can be done to an activation, and the list that every method writes.

A *value* (`Zero`, `Mean`, ...) says what an activation becomes; an `Intervention` puts it at a
site and positions; a `Cell` is the set of interventions of one run of the model, and gives one
number per example; a `Hop` makes it a path.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import SiteError, Unsupported, nearest
from interp.core.pairs import Pairs
from interp.core.sites import Site

Through = Literal["direct", "mlps"]


@dataclass(frozen=True, eq=False)
class Reference:
    """The prompts whose mean is set: one side of some pairs, grouped by cluster and length."""

    pairs: Pairs
    side: Literal["clean", "corrupt"]

    @property
    def fingerprint(self) -> str:
        return f"{self.pairs.fingerprint}:{self.side}"


Source = Literal["clean", "corrupt", "base"] | Reference | Tensor | None
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


@dataclass(frozen=True, eq=False)
class Mean:
    """The mean over a reference set, of the row's own group, at the same position."""

    source: Reference

    def __call__(self, current: Tensor, found: Tensor) -> Tensor:
        return found


@dataclass(frozen=True)
class Resample:
    """The value that the site has at the same row and position of another run."""

    source: Literal["clean", "corrupt"]

    def __call__(self, current: Tensor, found: Tensor) -> Tensor:
        return found


@dataclass(frozen=True)
class Freeze:
    """The value of the run that is intervened on: a null intervention when put alone."""

    source: ClassVar[Source] = "base"

    def __call__(self, current: Tensor, found: Tensor) -> Tensor:
        return found


@dataclass(frozen=True, eq=False)
class Set:
    """A value of one's own: `batch pos *site axes`, rows and positions as in the pairs."""

    source: Float[Tensor, "batch pos *axes"]

    def __call__(self, current: Tensor, found: Tensor) -> Tensor:
        return found


@dataclass(frozen=True, eq=False)
class Add:
    """The current value plus this: `batch pos *site axes`."""

    source: Float[Tensor, "batch pos *axes"]

    def __call__(self, current: Tensor, found: Tensor) -> Tensor:
        return current + found


@dataclass(frozen=True)
class Scale:
    """The current value times a factor."""

    factor: float
    source: ClassVar[Source] = None

    def __call__(self, current: Tensor, found: Tensor) -> Tensor:
        return current * self.factor


@dataclass(frozen=True, eq=False)
class Intervention:
    """A value at a site; `positions` is `"all"`, a named position of the pairs, or an index."""

    site: Site
    value: Value
    positions: str | int = "all"

    def __post_init__(self) -> None:
        if self.site.kind in READ_ONLY:
            raise Unsupported(
                f"no engine intervenes on '{self.site}' (kind {self.site.kind!r}); the activations "
                "that can be changed are 'embed', the residual streams ('12.resid_pre'), q, k, v "
                "and output of heads ('23.3.q', '23.3'), '12.attn' and '12.mlp'."
            )


READ_ONLY = ("pattern", "mlp_act", "logits")
SENDERS = ("embed", "resid_pre", "z", "attn_out", "mlp_out")
RECEIVERS = ("q", "k", "v", "mlp_out", "logits")


@dataclass(frozen=True)
class Hop:
    """Which readers see the change, and what it may pass through on the way to them.

    Attributes:
        receivers: queries, keys, values of heads, MLPs (their input), or the logits alone.
        through: `"direct"`: only the residual edge; `"mlps"`: MLPs are recomputed and every
            attention head keeps the base run's output (Wang et al. 2022, App. B, Algorithm 1).
        positions: where the receivers take the changed input: `"all"` or a named position.
    """

    receivers: tuple[Site, ...]
    through: Through = "mlps"
    positions: str | int = "all"

    def __post_init__(self) -> None:
        if self.through not in get_args(Through):
            raise Unsupported(
                f"unknown through={self.through!r}; {nearest(self.through, get_args(Through))}"
            )
        for site in self.receivers:
            if site.kind not in RECEIVERS:
                raise SiteError(
                    f"'{site}' cannot receive a path; receivers are the q, k, v of heads "
                    "('23.3.q'), MLPs ('12.mlp') and 'logits'."
                )
        if len(self.receivers) > 1 and any(s.kind == "logits" for s in self.receivers):
            raise SiteError(
                "'logits' cannot be patched together with other receivers: once the final "
                "residual stream is set, they no longer matter. Run two path patches."
            )

    def __str__(self) -> str:
        return "+".join(str(site) for site in self.receivers)


@dataclass(frozen=True, eq=False)
class Cell:
    """One intervened run: interventions made together, and the path they may take.

    Attributes:
        site, position: what the row of the table is called.
        interventions: made in the same run; later sites see the effect of earlier ones.
        hop: None recomputes everything after the interventions.
    """

    site: Site
    position: str
    interventions: tuple[Intervention, ...]
    hop: Hop | None = None
    first: Site = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "first", min(i.site for i in self.interventions))
        if self.hop is None:
            return
        for intervention in self.interventions:
            if intervention.site.kind not in SENDERS:
                raise SiteError(
                    f"'{intervention.site}' cannot send along a path; senders are heads ('20.1'), "
                    "attention ('20.attn'), MLPs ('12.mlp'), 'embed' and 'L.resid_pre'."
                )
        if not self.first < max(self.hop.receivers):
            raise SiteError(
                f"the path {self.first} -> {self.hop} does not exist: the sender is computed "
                "after its receiver. Exchange them, or choose a later receiver."
            )
