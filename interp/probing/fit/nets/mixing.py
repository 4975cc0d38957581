"""Which layers a task needs: scalar mixes, cumulative probes, expected layer, centre of gravity.

Tenney et al. 2019 (arXiv:1905.05950, sec. 3): h = gamma * sum_l softmax(a)_l h_l. Differences from
the paper: each layer is standardised in each dimension before it is mixed (`moments`), so that
large layers have no larger say than their share; the mix is softmax(SPEED * a), which reaches the
same mixes faster; and experiments here score accuracy, not F1.
"""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.stats import t
from torch import Tensor

from interp.core.door.door import door
from interp.core.door.taken import Count, Seed
from interp.core.errors import ProbeError
from interp.core.sampling import stats
from interp.probing.fit.nets.adam import Parameters

SPEED = 10.0
"""Of the mix: its few logits would move by 1e-3 a step, and hardly leave uniform weights."""


def start(layers: int) -> dict[str, Tensor]:
    """A uniform mix."""
    return {"mix": torch.zeros(layers), "gamma": torch.ones(1)}


def weights(
    mix: Float[Tensor, "problem layer"], last: Int[Tensor, " problem"]
) -> Float[Tensor, "problem layer"]:
    """softmax(a) over the layers up to the last of each problem."""
    layers = torch.arange(mix.shape[1], device=mix.device)
    hidden = layers > last.to(mix.device)[:, None]
    return (SPEED * mix).masked_fill(hidden, -torch.inf).softmax(-1)


def mixed(
    parameters: Parameters,
    last: Int[Tensor, " problem"],
    x: Float[Tensor, "layer word d"],
) -> Float[Tensor, "problem word d"]:
    """The scalar mix of each problem."""
    share = parameters["gamma"] * weights(parameters["mix"], last)
    return (share @ x.flatten(1)).unflatten(1, x.shape[1:])


@door
def centre_of_gravity(weights: Float[ndarray, "*task layer"]) -> Float[ndarray, "*task"]:
    """sum_l l s_l: the mean layer that a full mix reads (Tenney et al. 2019, sec. 3).

    Not comparable with the paper's column: there a layer of large activations needs a small share,
    here layers are standardised before they are mixed. Nor does a share say that a layer adds
    something that those below do not have: that is `expected_layer`.

    Args:
        weights: shares of the layers, along the last axis.
    """
    return np.asarray(weights @ np.arange(weights.shape[-1]))


@door
def expected_layer(scores: Float[ndarray, "*task layer"]) -> Float[ndarray, "*task"]:
    """sum_l l Delta_l / sum_l Delta_l over l >= 1, Delta_l = scores[l] - scores[l - 1].

    Tenney et al. 2019, sec. 3. A pseudo-expectation: a layer's Delta may be negative. The paper's
    score is micro-averaged F1 of labels that are decided one by one; the accuracy of one label for
    each example is not the same number, and its probes mix layers that are not standardised. NaN
    where the last score is not above
    the first, since then the layers add nothing that could have a mean.

    Args:
        scores: of the cumulative probes of layers 0 to l.

    Raises:
        ProbeError: scores of no layer.
    """
    if not scores.shape[-1]:
        raise ProbeError("the scores are of no layer; give one for each, along the last axis.")
    gains = np.diff(scores)
    total = scores[..., -1] - scores[..., 0]
    known = np.where(total > 0, total, np.nan)
    return np.asarray(gains @ np.arange(1, scores.shape[-1]) / known)


@door
def expected_layer_interval(
    totals: Float[ndarray, "layer cluster"], counts: Float[ndarray, " counted"]
) -> tuple[float, float, float]:
    """The expected layer with its 95 % interval over documents, the probes as they are.

    Student's t with the jackknife's standard error over documents. In simulations of 5 to 40
    documents it covers 0.93 to 0.98 where a percentile bootstrap covers 0.81 to 0.94.

    Args:
        totals: sum of the score over the examples of each document, by cumulative probe.
        counts: examples of each document.

    Returns:
        Value, low, high. The bounds are NaN with fewer than two documents, and where the interval
        of the whole gain holds 0: what may be nothing has no mean layer.

    Raises:
        ProbeError: a document count that differs, or a document without examples.
    """
    value, left_out = _left_out(totals, counts)
    low, high = stats.jackknife_interval(value, left_out, counts)
    if not low[1] > 0:
        return float(value[0]), np.nan, np.nan
    return float(value[0]), float(low[0]), float(high[0])


@door
def expected_layer_gap(
    first: tuple[Float[ndarray, "layer _"], Float[ndarray, " _"]],
    then: tuple[Float[ndarray, "layer _"], Float[ndarray, " _"]],
    *,
    documents: Literal["same", "others"],
) -> tuple[float, float, float]:
    """The expected layer of a task less that of another, with its 95 % interval over documents.

    Student's t, as `expected_layer_interval`: of the same documents each is left out of both
    tasks at once; of others the two squared errors add up, with Welch's degrees of freedom.

    Args:
        first, then: totals and counts of each task, as `expected_layer_interval` takes them.
        documents: whether those of `then` are those of `first`, in the same order.

    Returns:
        Value, low, high. The bounds are NaN where the expected layer of either task has none.

    Raises:
        ProbeError: as `expected_layer_interval`; "same" documents that differ in number.
    """
    if documents == "same" and first[0].shape[1] != then[0].shape[1]:
        raise ProbeError(
            f"the tasks have {first[0].shape[1]} and {then[0].shape[1]} documents, which are not "
            "the same. Give both of the same documents, or say documents='others'."
        )
    (one, without), (two, less) = (_left_out(*given) for given in (first, then))
    gap = float(two[0] - one[0])
    if any(np.isnan(expected_layer_interval(*given)[1]) for given in (first, then)):
        return gap, np.nan, np.nan
    if documents == "same":
        between = np.array([gap]), (less - without)[:1], first[1] + then[1]
        low, high = stats.jackknife_interval(*between)
        return gap, float(low[0]), float(high[0])
    errors = [
        np.square(left[0] - value[0]).sum() * (left.shape[1] - 1) / left.shape[1]
        for value, left in ((one, without), (two, less))
    ]
    frees = [max(1 / np.square(c / c.sum()).sum() - 1, 1) for _, c in (first, then)]
    if not sum(errors) > 0:  # all documents say the same
        return gap, gap, gap
    free = sum(errors) ** 2 / sum(e**2 / f for e, f in zip(errors, frees, strict=True))
    wide = float(t.ppf((1 + stats.CONFIDENCE) / 2, free) * np.sqrt(sum(errors)))
    return gap, gap - wide, gap + wide


@door
def gains(
    totals: Float[ndarray, "layer cluster"],
    counts: Float[ndarray, " counted"],
    *,
    resamples: Count = stats.RESAMPLES,
    seed: Seed = 0,
) -> Float[ndarray, "step 3"]:
    """Delta_l for l >= 1 with its 95 % interval over documents: value, low, high.

    Args:
        totals: sum of the score over the examples of each document, by cumulative probe.
        counts: examples of each document.

    Raises:
        ProbeError: a document count that differs, or a document without examples.
    """
    _require_counts(totals, counts)
    steps = np.diff(totals, axis=0)
    low, high = stats.ratio_interval(steps, counts, resamples=resamples, seed=seed)
    return np.stack([steps.sum(1) / counts.sum(), low, high], axis=1)


def _left_out(
    totals: Float[ndarray, "layer cluster"], counts: Float[ndarray, " counted"]
) -> tuple[Float[ndarray, " 2"], Float[ndarray, "2 cluster"]]:
    """Expected layer and whole gain, and both without each document."""
    _require_counts(totals, counts)
    whole = totals.sum(1) / counts.sum()
    value = np.array([expected_layer(whole), whole[-1] - whole[0]])
    with np.errstate(invalid="ignore"):  # without the only document there is nothing
        rest = ((totals.sum(1, keepdims=True) - totals) / (counts.sum() - counts)).T
    return value, np.stack([expected_layer(rest), rest[:, -1] - rest[:, 0]])


def _require_counts(
    totals: Float[ndarray, "layer cluster"], counts: Float[ndarray, " counted"]
) -> None:
    if totals.shape[1] != len(counts) or not (counts > 0).all():
        least = counts.min() if len(counts) else 0
        raise ProbeError(
            f"totals are of {totals.shape[1]} documents and counts of {len(counts)}, the smallest "
            f"{least:g}; give both of the same documents, each with examples."
        )
