"""Standardised activations: a step of Adam, or an l2, must mean the same at every layer.

Residual streams grow a hundredfold with depth and have a few huge dimensions. Centring and
scaling each dimension leaves the functions that a network can compute as they are.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.errors import ProbeError


@dataclass(frozen=True, eq=False)
class Moments:
    """Of each dimension of each site, on the training words.

    Attributes:
        scale: 1 / standard deviation; 0 of a dimension that is constant.
    """

    mean: Float[Tensor, "site d"]
    scale: Float[Tensor, "site d"]

    @classmethod
    def of(
        cls, x: Float[Tensor, "site word d"], words: Int[Tensor, " read"] | None = None
    ) -> "Moments":
        """Moments of the words that are read, by default of all."""
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        read = (part if words is None else part[words.to(x.device)] for part in x)
        found = [torch.var_mean(part.to(dtype), 0, correction=0) for part in read]
        variance = torch.stack([variance for variance, _ in found])
        mean = torch.stack([mean for _, mean in found])
        least = torch.finfo(dtype).eps * mean.square()
        return cls(mean, torch.where(variance > least, variance, torch.inf).rsqrt())

    def read(
        self,
        x: Float[Tensor, "site word d"],
        site: Int[Tensor, " fit"],
        words: Int[Tensor, " read"],
    ) -> Float[Tensor, "fit read d"]:
        """Some words at the site of each problem, standardised."""
        found = x[site[:, None], words].to(self.mean)
        return (found - self.mean[site, None]) * self.scale[site, None]

    def site(self, index: int) -> "Moments":
        """Those of one site."""
        return Moments(self.mean[index : index + 1], self.scale[index : index + 1])

    def standardise_(self, x: Float[Tensor, "site word d"]) -> Float[Tensor, "site word d"]:
        """All words, in place."""
        return x.sub_(self.mean[:, None]).mul_(self.scale[:, None])

    def require(self, x: Float[Tensor, "site word d"]) -> None:
        """Refuse activations of other sites.

        Raises:
            ProbeError: with both shapes.
        """
        if (len(x), x.shape[2]) != self.mean.shape:
            raise ProbeError(
                f"these probes read {self.mean.shape[0]} sites of {self.mean.shape[1]} dimensions, "
                f"and the activations are of {x.shape[0]} of {x.shape[2]}; collect the same sites"
            )
