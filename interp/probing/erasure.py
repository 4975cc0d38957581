"""Taking a property away from activations, with as much random damage as control.

LEACE (Belrose et al. 2023) is the smallest affine change after which no linear classifier can tell
a label better than by always guessing the same: the covariance of the activations and the labels
becomes zero. An erasure is put into a running model as an intervention: `interp.probing.amnesic`.
"""

from collections.abc import Mapping
from typing import Annotated, TypeVar

import numpy as np
import torch
from concept_erasure import LeaceFitter
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.core.door import door
from interp.core.errors import ProbeError
from interp.core.sites import Site
from interp.core.taken import Count, NotEmpty, Seed
from interp.engine.interventions import Erase

T = TypeVar("T")
SINK, SHARE = 20, 0.5
"""Words this many times as far from the middle as the median word may have no more than this share
of the squared distances."""
WORDS = 8192
"""Words that are in double precision at a time."""
LEFT = 1e-6
"""Covariance with the labels that may be left, in units of each feature's standard deviation."""

BySite = Mapping[Site, T] | Mapping[str, T]
Erasers = dict[str, dict[Site, Erase]]
"""Erasures by what they take away ("leace", "random", "probe"), then by site."""


@door
def erasers(
    x: Annotated[BySite[Float[Tensor, "word _"]], NotEmpty()],
    labels: Int[Tensor, " labelled"],
    *,
    weights: BySite[Float[Tensor, "_ class"]] | None = None,
    seed: Seed = 0,
) -> Erasers:
    """Erasures of a property at some sites, and random ones of the same rank.

    The first token of a row is an attention sink in many models, with an activation a hundred
    times as long as the others'. Among the words it would decide alone what is erased, and put into
    the model that would throw every other word far off. Words that have most of the variance so
    are refused: leave out the first of each row (`features.word > 0`) and what `sinks` still finds,
    and the first position when the model runs (`positions="after first"`).

    Args:
        x: activations of words, by site.
        labels: the property of each word, as numbers.
        weights: of probes; the directions that they read are erased too, under "probe".
        seed: of the random directions; those of each site are its own.

    Returns:
        `"leace"`; `"random"`: at each site as many directions as LEACE takes away; and `"probe"`.

    Raises:
        ProbeError: attention sinks among the words, and as `leace` and `probe_directions`.
    """
    read = by_site(x)
    found: Erasers = {"leace": {}, "random": {}}
    for n, (site, here) in enumerate(read.items()):
        _require_finite(here)
        _require_no_sinks(site, here)
        erase = leace(here, labels)
        found["leace"][site] = erase
        if not erase.rank:
            raise ProbeError(
                f"the activations at '{site}' tell nothing of the labels, so there is nothing to "
                "erase there. Likely they are the same for all words; leave the site out."
            )
        rng = np.random.default_rng([seed, n])
        found["random"][site] = _random(erase.mean, erase.rank, rng)
    if weights is not None:
        probes = by_site(weights)
        if missing := [site for site in read if site not in probes]:
            raise ProbeError(f"weights= has no probe of '{missing[0]}'; give one for each site.")
        found["probe"] = {site: probe_directions(read[site], probes[site]) for site in read}
    return found


@door
def leace(x: Float[Tensor, "word d"], labels: Int[Tensor, " labelled"]) -> Erase:
    """LEACE of a label with k classes: at most k - 1 directions (Belrose et al. 2023, Thm. 4.3).

    Fitted in double precision, and checked: on these words no covariance is left. Elsewhere it is
    an estimate, which needs many more words than x has dimensions.

    Raises:
        ProbeError: not a label for each word, labels of one class, activations that are not
            finite, or covariance that is left.
    """
    if len(x) != len(labels):
        raise ProbeError(f"{len(x)} words and {len(labels)} labels; give one for each word.")
    _require_finite(x)
    names, code = labels.unique(return_inverse=True)
    if len(names) < 2:
        raise ProbeError(
            f"all {len(x)} words have the same label ({int(names[0])}), so there is nothing to "
            "erase. Look at how the labels were made."
        )
    width, columns = x.shape[1], len(names) - 1
    # the last class is what the others are not; shrinkage, a bounded trace and a tolerance that is
    # felt would each leave some covariance
    fitter = LeaceFitter(
        width,
        columns,
        shrinkage=False,
        constrain_cov_trace=False,
        svd_tol=1e-10,
        dtype=torch.float64,
        device=x.device,
    )
    one_hot = torch.nn.functional.one_hot(code)[:, :columns].double()
    for part, z in zip(x.split(WORDS), one_hot.split(WORDS), strict=True):
        fitter.update(part.double(), z)
    eraser = fitter.eraser
    used = eraser.proj_right.abs().amax(1) > 0
    erase = Erase(eraser.proj_left[:, used], eraser.proj_right[used], fitter.mean_x)
    _require_erased(x, one_hot, erase)
    return erase


@door
def random_directions(x: Float[Tensor, "word d"], *, rank: Count, seed: Seed = 0) -> Erase:
    """Random directions of equal count: the control (Elazar et al. 2021, sec. 3.3, "Rand").

    Orthogonal projection around the mean of x.

    Raises:
        ProbeError: more directions than there are dimensions, or activations that are not finite.
    """
    _require_finite(x)
    return _random(x.double().mean(0), rank, np.random.default_rng(seed))


@door
def probe_directions(x: Float[Tensor, "word d"], weight: Float[Tensor, "wide class"]) -> Erase:
    """The directions that a linear probe reads: those along which some two classes' logits differ.

    Orthogonal projection around the mean of x. Another probe may still find the property, in other
    directions (Elazar et al. 2021 repeat this; LEACE needs not to).

    Raises:
        ProbeError: a probe of another width, that reads nothing, or that is not finite.
    """
    _require_finite(x)
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
    return Erase(basis, basis.T.contiguous(), x.double().mean(0))


@door
def sinks(x: Float[Tensor, "word d"]) -> Bool[Tensor, " word"]:
    """Which words lie over `SINK` times as far from the middle (the median) as the median word.

    Mostly those that begin a row; in a few rows SmolLM2's second word is one too.

    Raises:
        ProbeError: no words, or activations that are not finite.
    """
    _require_finite(x)
    far = _far(x)
    return far > SINK**2 * far.median()


def by_site(given: BySite[T]) -> dict[Site, T]:
    """What is given by site, whether as text or as Site."""
    return {Site.parse(site): value for site, value in given.items()}


def _far(x: Float[Tensor, "word d"]) -> Float[Tensor, " word"]:
    """Squared distance from the middle."""
    return (x - x.median(0).values).double().square().sum(1)


def _random(mean: Float[Tensor, " d"], rank: int, rng: np.random.Generator) -> Erase:
    width = len(mean)
    if not 0 < rank <= width:
        raise ProbeError(f"cannot take {rank} of {width} directions; give a rank of 1 to {width}.")
    # in the space of all orthonormal bases none is likelier than another
    basis = torch.linalg.qr(torch.from_numpy(rng.standard_normal((width, rank))))[0].to(mean)
    return Erase(basis, basis.T.contiguous(), mean)


def _require_finite(x: Float[Tensor, "word d"]) -> None:
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


def _require_no_sinks(site: Site, x: Float[Tensor, "word d"]) -> None:
    far, found = _far(x), sinks(x)
    share = float(far[found].sum() / far.sum())
    if share > SHARE:
        times = float((far.max() / far.median()).sqrt())
        raise ProbeError(
            f"at '{site}' {int(found.sum())} of {len(x)} words (the first is word "
            f"{int(found.int().argmax())}) lie up to {times:.0f} times as far out as the median "
            f"word and have {share:.0%} of the variance: likely attention sinks, which would "
            "decide alone what is erased. Leave out the first word of each row "
            "(features.word > 0), and what interp.probing.erasure.sinks still finds."
        )


def _require_erased(
    x: Float[Tensor, "word d"], z: Float[Tensor, "word column"], erase: Erase
) -> None:
    left = torch.zeros(x.shape[1], z.shape[1], dtype=torch.float64, device=x.device)
    square = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    deviation = z - z.mean(0)
    for part, of in zip(x.split(WORDS), deviation.split(WORDS), strict=True):
        wide = part.double()
        left += (erase.of(wide) - erase.mean).T @ of
        square += (wide - erase.mean).square().sum(0)
    most = left.abs().amax(1) / len(x)
    # a feature that is constant has no standard deviation but that of its last digits
    allowed = LEFT * (square / len(x)).sqrt() + 1e-12 * erase.mean.abs()
    if (bad := most > allowed).any():
        worst = int((most - allowed).argmax())
        raise ProbeError(
            f"LEACE left a covariance of {most[worst]:.1e} between the labels and feature {worst} "
            f"(of {int(bad.sum())} features), where at most {allowed[worst]:.1e} is float noise. "
            "Likely another feature is so large that these are lost beside it: look at x.std(0)."
        )
