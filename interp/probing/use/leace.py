"""LEACE (Belrose et al. 2023): the smallest affine change after which no linear classifier can tell
a label better than by always guessing the same: the covariance of the activations and the labels
becomes zero.
"""

from collections.abc import Sequence

import torch
from concept_erasure import LeaceFitter
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.door.door import door
from interp.core.errors import ProbeError
from interp.engine.interventions import Erase
from interp.probing.read.given import require_finite

WORDS = 8192
"""Words that are in double precision at a time."""
LEFT = 1e-6
"""Covariance with the labels that may be left, in units of each feature's standard deviation."""


@door
def leace(x: Float[Tensor, "word d"], labels: Int[Tensor, " labelled"]) -> Erase:
    """LEACE of a label with k classes: at most k - 1 directions (Belrose et al. 2023, Thm. 4.3).

    Fitted in double precision, and checked: on these words no covariance is left. Elsewhere it is
    an estimate, which needs many more words than x has dimensions: `interp.probing.still_read` asks
    what it leaves there.

    Raises:
        ProbeError: not a label for each word, labels of one class, activations that are not
            finite, or covariance that is left.
    """
    return of_labellings(x, [labels])[0]


def of_labellings(
    x: Float[Tensor, "word d"], labellings: Sequence[Int[Tensor, " labelled"]]
) -> list[Erase]:
    """LEACE of several labels of the same words, whose covariance is taken once.

    Raises:
        ProbeError: as `leace`.
    """
    require_finite(x)
    targets = [_one_hot(x, labels) for labels in labellings]
    columns = [z.shape[1] for z in targets]
    fitter = _fitter(x, sum(columns))
    for parts in zip(x.split(WORDS), *(z.split(WORDS) for z in targets), strict=True):
        fitter.update(parts[0].double(), torch.cat(parts[1:], 1))
    found = []
    for z, cross in zip(targets, fitter.sigma_xz_.split(columns, 1), strict=True):
        one = _fitter(x, z.shape[1])
        one.n, one.mean_x, one.sigma_xx_ = fitter.n, fitter.mean_x, fitter.sigma_xx_
        one.sigma_xz_ = cross
        eraser = one.eraser
        used = eraser.proj_right.abs().amax(1) > 0
        erase = Erase(eraser.proj_left[:, used], eraser.proj_right[used], fitter.mean_x)
        _require_erased(x, z, erase)
        found.append(erase)
    return found


def _fitter(x: Float[Tensor, "word d"], columns: int) -> LeaceFitter:
    # shrinkage, a bounded trace and a tolerance that is felt would each leave some covariance
    return LeaceFitter(
        x.shape[1],
        columns,
        shrinkage=False,
        constrain_cov_trace=False,
        svd_tol=1e-10,
        dtype=torch.float64,
        device=x.device,
    )


def _one_hot(
    x: Float[Tensor, "word d"], labels: Int[Tensor, " labelled"]
) -> Float[Tensor, "word column"]:
    """The classes but the last, which is what the others are not."""
    if len(x) != len(labels):
        raise ProbeError(f"{len(x)} words and {len(labels)} labels; give one for each word.")
    names, code = labels.unique(return_inverse=True)
    if len(names) < 2:
        raise ProbeError(
            f"all {len(x)} words have the same label ({int(names[0])}), so there is nothing to "
            "erase. Look at how the labels were made."
        )
    return torch.nn.functional.one_hot(code)[:, :-1].double().to(x.device)


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
