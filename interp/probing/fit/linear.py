"""Linear probes: multinomial logistic regression of all sites and problems at once.

The objective is scikit-learn's: mean cross-entropy + l2/2 ||W||^2, the intercept free. Every
(site, problem) is minimised by L-BFGS of its own, but they step together: the problems of a site
(control labels, strengths of l2) share one pass over its activations, a few thousand words at a
time so that these stay in the cache. The coordinates are those in which the activations, with
the penalty, are white: without that, the few huge dimensions of a residual stream would take
thousands of steps.
"""

import logging
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from interp.core.door.door import door
from interp.core.door.taken import Count, Positive, is_row
from interp.core.errors import ProbeError
from interp.probing.fit.lbfgs import Minimum, minimise

log = logging.getLogger("interp")
CHUNK = 2048
"""Words at once: their activations and logits stay in the cache between the two products."""
TOLERANCE = 2.5e-3
STEPS = 300
LEFT = 50
"""What may be left to gain for each nat that L-BFGS still promises (25 to 50, SmolLM2's layers)."""


@door
@dataclass(frozen=True, eq=False)
class LinearProbe:
    """Fitted logistic regressions.

    Attributes:
        weight, bias: `log p(class) = log_softmax(x @ weight + bias)`.
        l2: of each problem.
        objective: mean cross-entropy (nats) + penalty at the end, on the training words.
        converged: the objective is within about `TOLERANCE` of its minimum, as a share.
        steps: that each problem took.
    """

    weight: Float[Tensor, "site problem d class"]
    bias: Float[Tensor, "site problem class"]
    l2: Float[Tensor, "site problem"]
    objective: Float[Tensor, "site problem"]
    converged: Bool[Tensor, "site problem"]
    steps: Int[Tensor, "site problem"]

    @door
    def log_probs(
        self, x: Float[Tensor, "site word d"]
    ) -> Float[Tensor, "site problem word class"]:
        """Log-probability of every class, nats.

        Raises:
            ProbeError: activations of other sites.
        """
        sites, problems, d, classes = self.weight.shape
        if (len(x), x.shape[2]) != (sites, d):
            raise ProbeError(
                f"these probes read {sites} sites of {d} dimensions, and the activations are of "
                f"{len(x)} of {x.shape[2]}; collect the same sites."
            )
        dtype = self.weight.dtype
        found = torch.empty(sites, problems, x.shape[1], classes, dtype=dtype, device=x.device)
        for site in range(sites):
            wide = self.weight[site].movedim(1, 0).reshape(d, -1)
            logits = (x[site].to(dtype) @ wide).unflatten(1, (problems, classes))
            found[site] = (logits + self.bias[site]).log_softmax(-1).movedim(1, 0)
        return found

    @door
    def site(self, index: int) -> "LinearProbe":
        """The probes of one site.

        Args:
            index: of the site, counted from 0.

        Raises:
            ProbeError: there is no such site.
        """
        if not is_row(index, len(self.weight)):
            raise ProbeError(f"there is no site {index} of {len(self.weight)}, counted from 0.")
        one = slice(index, index + 1)
        return LinearProbe(
            *(self.weight[one], self.bias[one], self.l2[one]),
            *(self.objective[one], self.converged[one], self.steps[one]),
        )

    @door
    def select(self, problem: Int[Tensor, " site"]) -> "LinearProbe":
        """One problem of each site, such as the strength of l2 that a development split prefers.

        Args:
            problem: of each site, counted from 0.

        Raises:
            ProbeError: not one for each site, or a problem that there is not.
        """
        sites, problems = self.l2.shape
        if len(problem) != sites or not bool(((problem >= 0) & (problem < problems)).all()):
            raise ProbeError(
                f"{problem.tolist()[:8]} are no problems of {sites} sites: give one for each, 0 to "
                f"{problems - 1}."
            )
        at = torch.arange(len(problem)), problem

        def one(x: Tensor) -> Tensor:
            return x[at][:, None]

        return LinearProbe(
            one(self.weight),
            one(self.bias),
            one(self.l2),
            one(self.objective),
            one(self.converged),
            one(self.steps),
        )


@door
def fit_linear(
    x: Float[Tensor, "site word d"],
    y: Int[Tensor, "problem labelled"],
    *,
    l2: Float[Tensor, " strengths"],
    classes: Count | None = None,
    tolerance: Positive = TOLERANCE,
    steps: Count = STEPS,
) -> LinearProbe:
    """Fit a logistic regression for each site and problem.

    Args:
        x: activations of the training words, site word d.
        y: labels 0, 1, ... of each problem.
        l2: strength of each problem's penalty; scikit-learn's C is 1 / (l2 * words).
        classes: labels that there are; the largest that occurs and those below it by default.
        tolerance: share of its objective by which a converged fit may still lie over the minimum.
        steps: evaluations after which a fit is given up; `converged` then says so.

    Raises:
        ProbeError: shapes that do not fit, fewer than two classes, activations that are not finite.
    """
    classes = _check(x, y, l2, classes)
    spaces = [_Space.of(x[site], l2) for site in range(len(x))]
    problems, size = len(l2), (spaces[0].basis.shape[1] + 1) * classes

    def evaluate(active: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        values, gradients = at.new_empty(len(at)), torch.empty_like(at)
        site = active // problems
        for s in site.unique().tolist():
            rows = (site == s).nonzero().flatten()
            which = active[rows] % problems
            v = at[rows].unflatten(1, (-1, classes))
            values[rows], found = spaces[s].evaluate(x[s], y[which], which, v)
            gradients[rows] = found.flatten(1)
        return values, gradients

    start = torch.zeros(len(x) * problems, size, device=x.device, dtype=spaces[0].mean.dtype)
    with tqdm(total=len(start), desc="fit probes", unit="probe", delay=2, disable=None) as bar:
        found: Minimum = minimise(
            evaluate, start, tolerance=tolerance / LEFT, steps=steps, progress=bar.update
        )
    v = found.at.unflatten(1, (-1, classes)).unflatten(0, (len(x), problems))
    which = torch.arange(problems, device=x.device)
    weights, biases = [], []
    for site, space in enumerate(spaces):
        inner, free = space.weights(which, v[site])
        weights.append(space.basis @ inner)
        biases.append(free - space.mean @ weights[-1])
    shape = (len(x), problems)
    if lost := int((~found.converged).sum()):
        log.warning(
            "%d of %d linear probes did not converge in %d steps; `converged` says which",
            lost,
            len(start),
            steps,
        )
    return LinearProbe(
        torch.stack(weights),
        torch.stack(biases),
        l2.expand(shape),
        found.value.view(shape),
        found.converged.view(shape),
        found.steps.view(shape),
    )


@dataclass(frozen=True, eq=False)
class _Space:
    """Coordinates of a site's weights in which every problem is about as curved in all directions.

    W = basis (factor v): the basis are the directions along which the activations vary, with
    variances s, and `factor` is (s/2 + l2)^-1/2 by the bound on the Hessian of multinomial
    logistic regression (Boehning 1992). What is orthogonal to all activations has weight 0, so
    fewer words than dimensions are as many coordinates.

    Attributes:
        mean: of the activations; the objective sees them centred, which leaves the intercept free.
        basis: orthonormal.
        rows: of fewer words than dimensions, these in the basis.
    """

    mean: Float[Tensor, " d"]
    basis: Float[Tensor, "d rank"]
    factor: Float[Tensor, "problem rank"]
    l2: Float[Tensor, " problem"]
    rows: Float[Tensor, "word rank"] | None

    @classmethod
    def of(cls, x: Float[Tensor, "word d"], l2: Float[Tensor, " problem"]) -> "_Space":
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        words, d = x.shape
        mean = x.mean(0, dtype=torch.float64)
        centre, rows = mean.to(dtype), None
        if words < d:
            sides, values, found = torch.linalg.svd(x.double() - mean, full_matrices=False)
            basis, variance, rows = found.mT, values.square() / words, (sides * values).to(dtype)
        else:
            covariance = torch.zeros(d, d, device=x.device, dtype=torch.float64)
            for part in x.split(CHUNK):
                centred = part.to(dtype) - centre
                covariance += (centred.T @ centred).double()
            variance, basis = torch.linalg.eigh(covariance / words)
        # activations without variance, or copies of one another, would have no factor; the
        # products are of float32, so less would drown in their rounding
        least = 1e-6 * variance.sum() / d + torch.finfo(torch.float64).tiny
        bound = variance.clamp_min(0) / 2 + l2.double()[:, None] + least
        return cls(centre, basis.to(dtype), bound.rsqrt().to(dtype), l2.to(dtype), rows)

    def weights(
        self, which: Int[Tensor, " fit"], v: Float[Tensor, "fit rows class"]
    ) -> tuple[Float[Tensor, "fit rank class"], Float[Tensor, "fit class"]]:
        """Weights in the basis, and intercepts (of centred activations), of some problems."""
        return self.factor[which][:, :, None] * v[:, :-1], v[:, -1] * 2**0.5

    def evaluate(
        self,
        x: Float[Tensor, "word d"],
        y: Int[Tensor, "fit word"],
        which: Int[Tensor, " fit"],
        v: Float[Tensor, "fit rows class"],
    ) -> tuple[Float[Tensor, " fit"], Float[Tensor, "fit rows class"]]:
        """Objective and gradient of some problems, in one pass over the activations."""
        w, b = self.weights(which, v)
        fits, _, classes = w.shape
        wide, offset = w.movedim(1, 0).flatten(1), b.flatten()
        if self.rows is None:
            wide = self.basis @ wide
            offset = offset - self.mean @ wide
        else:
            x = self.rows
        loss = v.new_zeros(fits)
        slope, free = torch.zeros_like(wide), torch.zeros_like(offset)
        for part, labels in zip(x.split(CHUNK), y.T.split(CHUNK), strict=True):
            part = part.to(wide)
            logs = torch.addmm(offset, part, wide).unflatten(1, (fits, classes))
            logs = logs.log_softmax(-1)
            loss -= logs.gather(2, labels[:, :, None]).sum((0, 2))
            residual = logs.exp_()
            residual.scatter_add_(2, labels[:, :, None], -torch.ones_like(residual[..., :1]))
            residual = residual.flatten(1)
            slope += part.T @ residual
            free += residual.sum(0)
        if self.rows is None:
            slope = self.basis.mT @ (slope - self.mean[:, None] * free)
        strength = self.l2[which]
        loss = loss / len(x) + strength / 2 * w.square().sum((1, 2))
        of_w = slope.unflatten(1, (fits, classes)).movedim(1, 0) / len(x)
        of_w = self.factor[which][:, :, None] * (of_w + strength[:, None, None] * w)
        of_b = (free / len(x)).view(fits, 1, classes) * 2**0.5
        return loss, torch.cat([of_w, of_b], dim=1)


def _check(x: Tensor, y: Tensor, l2: Tensor, classes: int | None) -> int:
    """The number of classes of a fit that can be made."""
    if not x.numel() or not len(y):
        raise ProbeError(
            f"activations of shape {tuple(x.shape)} (site, word, d) and labels of {len(y)} "
            "problems: there is nothing to fit; give at least one of each."
        )
    if y.shape[1] != x.shape[1]:
        raise ProbeError(
            f"{x.shape[1]} words have activations and {y.shape[1]} have labels; give both of the "
            "same words in the same order (features.sentence and features.word say which)."
        )
    if len(l2) != len(y) or not bool(((l2 >= 0) & l2.isfinite()).all()):
        raise ProbeError(
            f"give an l2 of at least 0 for each of the {len(y)} problems, not {l2.tolist()[:8]}."
        )
    there = [row.unique() for row in y]
    for problem, found in enumerate(there):
        if len(found) < 2:
            raise ProbeError(
                f"problem {problem} has one class only (label {found.tolist()}) among "
                f"{y.shape[1]} words, so there is nothing to tell apart. Take more words, or "
                "another label."
            )
    low, high = int(y.min()), int(y.max())
    classes = high + 1 if classes is None else classes
    if low < 0 or high >= classes:
        raise ProbeError(
            f"labels run from {low} to {high}; of {classes} classes, give 0 to {classes - 1}."
        )
    for site, part in enumerate(x):
        if not bool(part.isfinite().all()):
            raise ProbeError(
                f"the activations of site {site} hold NaN or infinity; likely they were kept in "
                "float16: collect them with dtype=torch.float32."
            )
    return classes
