"""Edits: interventions resolved for the rows of a block, as both engines make them."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.core.sites import Kind, Site
from interp.engine.interventions import Value

STEPS: dict[Kind, int] = {
    "embed": 0,
    "resid_pre": 0,
    "q": 1,
    "k": 1,
    "v": 1,
    "z": 2,
    "attn_out": 3,
    "resid_mid": 4,
    "mlp_out": 5,
    "resid_post": 6,
}
"""Where in a layer a cell can join the wave."""


@dataclass(frozen=True, eq=False)
class Edit:
    """An intervention resolved for the rows of a block.

    Attributes:
        mask: the positions that it touches, `batch pos`.
        found: what the value's source holds at the site, `batch pos *axes`, if it has one.
    """

    site: Site
    value: Value
    mask: Bool[Tensor, "batch pos"]
    found: Float[Tensor, "batch pos *axes"] | None

    @property
    def entry(self) -> tuple[int, int]:
        """Layer and step at which a cell with this edit must have joined."""
        return self.site.layer or 0, STEPS[self.site.kind]

    def __call__(
        self, current: Float[Tensor, "batch window *axes"], window: Int[Tensor, "batch window"]
    ) -> Float[Tensor, "batch window *axes"]:
        found = current if self.found is None else take(self.found, window)
        mask = self.mask.gather(1, window)
        return torch.where(_like(mask, current), self.value(current, found), current)


def take(
    x: Float[Tensor, "batch pos *axes"], window: Int[Tensor, "batch window"]
) -> Float[Tensor, "batch window *axes"]:
    """The positions of a window; each row has its own."""
    return x.gather(1, _like(window, x).expand(*window.shape, *x.shape[2:]))


def _like(rows: Tensor, x: Tensor) -> Tensor:
    return rows[(...,) + (None,) * (x.ndim - 2)]
