"""L-BFGS for many problems that step together, each with its own history, step and end."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

HISTORY = 10
ARMIJO = 1e-4

Evaluate = Callable[[Int[Tensor, " active"], Tensor], tuple[Tensor, Tensor]]
"""Numbers of problems, and where they stand -> their objectives and gradients there."""


@dataclass(frozen=True, eq=False)
class Minimum:
    """Where each problem ended.

    Attributes:
        at: parameters.
        value: objective there.
        converged: the decrease that its quadratic model still promises is below the tolerance.
        steps: evaluations that the problem took.
    """

    at: Float[Tensor, "problem parameter"]
    value: Float[Tensor, " problem"]
    converged: Bool[Tensor, " problem"]
    steps: Int[Tensor, " problem"]


def minimise(
    evaluate: Evaluate,
    start: Float[Tensor, "problem parameter"],
    *,
    tolerance: float,
    steps: int,
    progress: Callable[[int], object] = lambda finished: None,
) -> Minimum:
    """Minimise smooth functions of as many parameters each (Nocedal & Wright 2006, alg. 7.4, 7.5).

    A problem whose step does not decrease its objective enough tries half of it in the next round,
    while the others go on; a finished problem is not evaluated again, so it costs nothing and does
    not depend on the others.

    Args:
        tolerance: stop where g' H g / 2, the decrease that the current model promises, is below
            this share of the objective.
        steps: rounds after which the rest is given up, as not converged.
        progress: is told how many problems finished in a round.
    """
    problems = len(start)
    at, best = start.clone(), start.new_empty(problems)
    converged, taken = torch.zeros(2, problems, dtype=torch.long, device=start.device)
    active = torch.arange(problems, device=start.device)
    value, gradient = evaluate(active, at)
    best[:] = value
    point = at.clone()
    moved = start.new_zeros(HISTORY, problems, start.shape[1])
    turned = torch.zeros_like(moved)
    curvature = start.new_zeros(HISTORY, problems)
    scale = start.new_ones(problems)
    length = start.new_ones(problems)
    direction, slope = _direction(gradient, moved, turned, curvature, scale)
    for round in range(1, steps + 1):
        done = -slope / 2 <= tolerance * value.abs()
        # half a step, thirty times over: the float's last digit, not the function, refuses it
        stuck = length < 2.0**-30
        ended = done | stuck
        if bool(ended.any()):
            at[active[ended]], best[active[ended]] = point[ended], value[ended]
            converged[active[ended]] = done[ended].long()
            taken[active[ended]] = round
            progress(int(ended.sum()))
            kept = ~ended
            active, point, value, gradient = (x[kept] for x in (active, point, value, gradient))
            moved, turned, curvature = (x[:, kept] for x in (moved, turned, curvature))
            scale, length, direction, slope = (x[kept] for x in (scale, length, direction, slope))
        if not len(active):
            break
        tried = point + length[:, None] * direction
        new_value, new_gradient = evaluate(active, tried)
        good = new_value <= value + ARMIJO * length * slope
        length = torch.where(good, length, length / 2)
        if not bool(good.any()):
            continue
        s, y = (tried - point)[good], (new_gradient - gradient)[good]
        bend = (s * y).sum(-1)
        useful = bend > 1e-10 * s.norm(dim=-1) * y.norm(dim=-1)
        for kept, new in ((moved, s), (turned, y)):
            kept[:, good] = torch.cat([kept[1:, good], new[None]])
        rho = torch.where(useful, 1 / bend.clamp_min(1e-30), torch.zeros_like(bend))
        curvature[:, good] = torch.cat([curvature[1:, good], rho[None]])
        scale[good] = torch.where(useful, bend / (y * y).sum(-1).clamp_min(1e-30), scale[good])
        point[good], value[good], gradient[good] = tried[good], new_value[good], new_gradient[good]
        length[good] = 1.0
        direction[good], slope[good] = _direction(
            gradient[good], moved[:, good], turned[:, good], curvature[:, good], scale[good]
        )
    if len(active):
        at[active], best[active], taken[active] = point, value, steps
        converged[active] = (-slope / 2 <= tolerance * value.abs()).long()
    return Minimum(at, best, converged.bool(), taken)


def _direction(
    gradient: Float[Tensor, "problem parameter"],
    moved: Float[Tensor, "history problem parameter"],
    turned: Float[Tensor, "history problem parameter"],
    curvature: Float[Tensor, "history problem"],
    scale: Float[Tensor, " problem"],
) -> tuple[Float[Tensor, "problem parameter"], Float[Tensor, " problem"]]:
    """-H g by the two-loop recursion, and its slope g' (-H g); empty history has curvature 0."""
    q, along = gradient.clone(), []
    for i in reversed(range(HISTORY)):
        a = curvature[i] * (moved[i] * q).sum(-1)
        along.append(a)
        q -= a[:, None] * turned[i]
    q *= scale[:, None]
    for i, a in zip(range(HISTORY), reversed(along), strict=True):
        b = curvature[i] * (turned[i] * q).sum(-1)
        q += (a - b)[:, None] * moved[i]
    return -q, -(q * gradient).sum(-1)
