"""Orthogonal erasures: random directions, as many as another erasure takes, and those of a probe.

The share of the variance that an erasure P moves is E|P (x - mean)|^2 / E|x - mean|^2. LEACE of
rank k moves tr(Q S) / tr(S), with S the covariance and Q an orthogonal projection onto k
directions of the whitened space; so it moves no less than the k smallest principal components have,
and no more than the k largest, and for any such share there are k orthonormal directions that have
it: `same_variance` draws some.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import brentq
from torch import Tensor

from interp.core.door.door import door
from interp.core.door.taken import Count, Seed, Share
from interp.core.errors import ProbeError
from interp.engine.interventions import Erase
from interp.probing.read.given import require_finite

WORDS = 8192
"""Words that are in double precision at a time."""
MATCHED = 1e-3
"""By which a share of variance may miss the one asked for, as a share of it."""
STEEPEST = 64.0


@door
def random_directions(x: Float[Tensor, "word d"], *, rank: Count, seed: Seed = 0) -> Erase:
    """Random directions of equal count: the control of Elazar et al. (2021, sec. 3.3, "Rand").

    Orthogonal projection around the mean of x.

    Raises:
        ProbeError: more directions than there are dimensions, or activations that are not finite.
    """
    require_finite(x)
    return any_directions(x.double().mean(0), rank, np.random.default_rng(seed))


def any_directions(mean: Float[Tensor, " d"], rank: int, rng: np.random.Generator) -> Erase:
    """In the space of all orthonormal bases none is likelier than another."""
    return _around(mean, torch.linalg.qr(_normal(len(mean), rank, rng))[0].to(mean))


@door
def same_variance(
    x: Float[Tensor, "word d"], *, rank: Count, share: Share, seed: Seed = 0
) -> Erase:
    """Random directions that have a given share of the variance of x.

    Orthogonal projection around the mean, as `random_directions`; but the directions are drawn from
    a normal distribution with the covariance S^(2a) of the activations, with a such that these
    directions have the share (to `MATCHED` of it): a = 0 is any direction, a = 1/2 that of a word
    as likely as any, and a large a the first principal components. No paper's control: the share
    of variance is what LEACE and Elazar et al.'s "Rand" of equal rank differ in most.

    Args:
        x: activations of words at one site.
        rank: how many directions.
        share: of the variance of x, 0 to 1; of LEACE, `moved(leace, covariance(x))`.

    Raises:
        ProbeError: a share that no such number of directions has, more directions than there are
            dimensions, or activations that are not finite.
    """
    require_finite(x)
    mean = x.double().mean(0)
    return Spread.of(covariance(x, mean)).directions(mean, rank, share, np.random.default_rng(seed))


@dataclass(frozen=True, eq=False)
class Spread:
    """Variances along the principal axes of a site, largest first, and these axes."""

    variances: Float[Tensor, " axis"]
    axes: Float[Tensor, "d axis"]

    @classmethod
    def of(cls, sigma: Float[Tensor, "d d"]) -> "Spread":
        """Of a covariance."""
        values, vectors = torch.linalg.eigh(sigma)
        least = values[-1] * len(values) * torch.finfo(values.dtype).eps
        return cls(values.flip(0).clamp_min(least), vectors.flip(1))

    def directions(
        self, mean: Float[Tensor, " d"], rank: int, share: float, rng: np.random.Generator
    ) -> Erase:
        """Directions that have a share of the variance, as `same_variance`."""
        total = float(self.variances.sum())
        normal = _normal(len(mean), rank, rng).to(mean)

        def over(power: float) -> float:
            basis = self._drawn(normal, power)
            return float((self.variances[:, None] * basis.square()).sum()) / total - share

        low, high = -0.5, 0.5
        while over(low) > 0 and low > -STEEPEST:
            low *= 2
        while over(high) < 0 and high < STEEPEST:
            high *= 2
        ends = over(low), over(high)
        power = float(brentq(over, low, high, xtol=1e-10)) if ends[0] < 0 < ends[1] else 0.0
        if abs(over(power)) > MATCHED * share:
            least, most = (float(part.sum()) / total for part in self._ends(rank))
            raise ProbeError(
                f"no {rank} directions were found with {share:.4f} of the variance: of {len(mean)} "
                f"dimensions {rank} have between {least:.4f} and {most:.4f}. Give a share between."
            )
        return _around(mean, self.axes @ self._drawn(normal, power))

    def _drawn(self, normal: Float[Tensor, "axis rank"], power: float) -> Float[Tensor, "_ _"]:
        """Orthonormal basis, along the axes, of normal vectors stretched by S^power.

        A little at a time, as in subspace iteration: at once, they would be alike to rounding.
        """
        steps = max(1, int(np.ceil(abs(power))))
        stretch = (self.variances / self.variances[0]).pow(power / steps)
        basis = torch.linalg.qr(normal)[0]
        for _ in range(steps):
            basis = torch.linalg.qr(stretch[:, None] * basis)[0]
        return basis

    def _ends(self, rank: int) -> tuple[Tensor, Tensor]:
        return self.variances[-rank:], self.variances[:rank]


@door
def probe_directions(x: Float[Tensor, "word d"], weight: Float[Tensor, "wide class"]) -> Erase:
    """The directions that a linear probe reads: those along which some two classes' logits differ.

    Orthogonal projection around the mean of x. Another probe may still find the property, in other
    directions (Elazar et al. 2021 repeat this; LEACE needs not to).

    Raises:
        ProbeError: a probe of another width, that reads nothing, or that is not finite.
    """
    require_finite(x)
    if weight.shape[0] != x.shape[1] or not weight.isfinite().all():
        raise ProbeError(
            f"the probe's weight is {tuple(weight.shape)} (d, class) and the activations have "
            f"{x.shape[1]} dimensions; it must be finite and of the same width."
        )
    # what is common to all classes moves no probability
    between = (weight[:, 1:] - weight[:, :1]).double()
    u, s, _ = torch.linalg.svd(between, full_matrices=False)
    basis = u[:, s > s[:1] * max(between.shape) * torch.finfo(weight.dtype).eps]
    if not basis.shape[1]:
        raise ProbeError(
            "the probe reads no direction: its classes all have the same weights. Look at how it "
            "was fitted."
        )
    return _around(x.double().mean(0), basis)


def covariance(
    x: Float[Tensor, "word d"], mean: Float[Tensor, " d"] | None = None
) -> Float[Tensor, "d d"]:
    """In double precision, of as many words at a time as `WORDS`."""
    middle = x.double().mean(0) if mean is None else mean
    found = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
    for part in x.split(WORDS):
        centred = part.double() - middle
        found += centred.T @ centred
    return found / len(x)


def moved(erase: Erase, sigma: Float[Tensor, "d d"]) -> float:
    """Share of the variance that an erasure moves, of activations with covariance sigma."""
    left, right = erase.left.to(sigma), erase.right.to(sigma)
    return float(((right @ sigma @ right.T) * (left.T @ left)).sum() / sigma.trace())


def overlap(one: Erase, other: Erase) -> float:
    """How much of the directions that one erasure changes another changes too, from 0 to 1.

    The mean squared cosine of the principal angles between them, over the smaller of the two.
    """
    bases = [torch.linalg.qr(erase.left.double().cpu())[0] for erase in (one, other)]
    return float((bases[0].T @ bases[1]).square().sum() / min(b.shape[1] for b in bases))


def _normal(width: int, rank: int, rng: np.random.Generator) -> Float[Tensor, "_ _"]:
    if not 0 < rank <= width:
        raise ProbeError(f"cannot take {rank} of {width} directions; give a rank of 1 to {width}.")
    return torch.from_numpy(rng.standard_normal((width, rank)))


def _around(mean: Float[Tensor, " d"], basis: Float[Tensor, "d rank"]) -> Erase:
    return Erase(basis, basis.T.contiguous(), mean)
