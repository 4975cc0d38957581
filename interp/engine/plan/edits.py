"""Edits: interventions resolved for the rows of a block, as both engines make them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.core.errors import Unsupported
from interp.core.parts.sites import Kind, Site
from interp.engine.interventions import Value

STEPS: dict[Kind, int] = {
    "embed": 0,
    "resid_pre": 0,
    "q": 1,
    "k": 1,
    "v": 1,
    "pattern": 1,
    "z": 2,
    "attn_out": 3,
    "resid_mid": 4,
    "mlp_act": 5,
    "mlp_out": 6,
    "resid_post": 7,
    "c": 1,
    "h": 2,
}
"""Where in a layer a cell can join the wave."""


@dataclass(frozen=True, eq=False)
class Edit:
    """An intervention resolved for the rows of a block.

    Attributes:
        mask: the positions that it touches, `batch pos`.
        found: what the value's source holds at the site, `batch pos *axes`, if it has one. Axes:
            `d_head` of q k v z, `key` of a pattern, none of a neuron, else `d_model`.
        readers: who sees it; None is everyone.
        normalise: of a pattern: its rows must sum to 1.
    """

    site: Site
    value: Value
    mask: Bool[Tensor, "batch pos"]
    found: Float[Tensor, "batch pos *axes"] | None
    readers: tuple[Site, ...] | None = None
    normalise: bool = True

    def __call__(
        self, current: Float[Tensor, "batch window *axes"], window: Int[Tensor, "batch window"]
    ) -> Float[Tensor, "batch window *axes"]:
        found = current if self.found is None else take(self.found, window)
        mask = self.mask.gather(1, window)
        new = torch.where(_like(mask, current), self.value(current, found), current)
        if self.site.kind == "pattern" and self.normalise:
            _require_sum(new, self.site, torch.finfo(current.dtype).eps)
        return new.to(current.dtype)


def entry(site: Site, readers: Sequence[Site] | None, n_layers: int) -> tuple[int, int]:
    """Layer and step at which a cell with an edit at this site must have joined.

    Named readers need it where the first of them reads, everyone where the site is.
    """
    if readers is None:
        return site.layer or 0, STEPS[site.kind]
    return min(_reads(reader, n_layers) for reader in readers)


def _reads(reader: Site, n_layers: int) -> tuple[int, int]:
    if reader.layer is None:
        return n_layers - 1, STEPS["resid_post"]
    return reader.layer, STEPS["resid_mid" if reader.kind == "mlp_out" else reader.kind]


def take(
    x: Float[Tensor, "batch pos *axes"], window: Int[Tensor, "batch window"]
) -> Float[Tensor, "batch window *axes"]:
    """The positions of a window; each row has its own."""
    return x.gather(1, _like(window, x).expand(*window.shape, *x.shape[2:]))


def _like(rows: Tensor, x: Tensor) -> Tensor:
    return rows[(...,) + (None,) * (x.ndim - 2)]


def _require_sum(pattern: Float[Tensor, "batch query key"], site: Site, eps: float) -> None:
    sums = pattern.double().sum(-1)
    tolerance = 16 * eps  # each probability is rounded by half an eps of itself
    if not ((sums - 1).abs() <= tolerance).all():
        row, query = ((sums - 1).abs() > tolerance).nonzero()[0].tolist()
        raise Unsupported(
            f"the attention pattern written at '{site}' sums to {sums[row, query].item():.4g} over "
            f"the keys (example {row} of its batch), not to 1, so it is no attention. Write "
            "probabilities, or say normalise=False, which goes into the provenance."
        )
