"""Minimum description length by online code (Voita & Titov 2020, sec. 3.2).

The labels are sent block by block, each coded by a probe that was trained on the blocks before:
what a probe reads easily needs few bits. Accuracy cannot tell memory from regularity, bits can.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from interp.core.errors import ProbeError
from interp.probing import scoring
from interp.probing.linear import TOLERANCE, fit_linear

FRACTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
"""Ends of the blocks, shares of the words (Voita & Titov 2020, sec. 3.2)."""


@dataclass(frozen=True, eq=False)
class OnlineCode:
    """The code of every label.

    Attributes:
        bits: of each word's label, words in the order in which they were given.
        classes: labels that there are; the uniform code takes log2 of it.
        ends: words in the blocks up to each.
        converged: share of the fits that did.
    """

    bits: Float[ndarray, "site problem word"]
    classes: int
    ends: tuple[int, ...]
    converged: float

    @property
    def length(self) -> Float[ndarray, "site problem"]:
        """Bits of the whole code."""
        return self.bits.sum(-1)

    @property
    def uniform(self) -> float:
        """Bits of the code that knows nothing, n log2 K."""
        return self.bits.shape[-1] * float(np.log2(self.classes))

    @property
    def compression(self) -> Float[ndarray, "site problem"]:
        """How many times shorter than the uniform code."""
        return self.uniform / self.length


def online_code(
    x: Float[Tensor, "site word d"],
    y: Int[Tensor, "problem word"],
    *,
    l2: Float[Tensor, " problem"],
    classes: int,
    fractions: tuple[float, ...] = FRACTIONS,
    seed: int = 0,
    tolerance: float = TOLERANCE,
) -> OnlineCode:
    """Code the labels of all sites and problems.

    Words are sent in one random order. The first block is sent by the uniform code; every other by
    the probe of the blocks before it, all fitted in the same way. A label that the blocks so far
    do not hold is coded by a probe that has a class for it and never saw it: dear, not impossible.

    Args:
        l2: penalty of each problem for a probe of all words; one of n words gets `l2 * words / n`,
            so that the penalty weighs the same against each word.
        fractions: ends of the blocks, ascending, the last one 1.

    Raises:
        ProbeError: fractions that do not end at 1, or a first block without two classes.
    """
    words = x.shape[1]
    ends = tuple(dict.fromkeys(max(1, round(f * words)) for f in fractions))
    if ends[-1] != words or list(ends) != sorted(ends):
        raise ProbeError(f"blocks must end later and later, the last one at 1.0; got {fractions}.")
    order = torch.from_numpy(np.random.default_rng([seed, words]).permutation(words))
    x, y = x[:, order], y[:, order]
    ends = _two_classes_each(y, ends)
    bits = np.full((len(x), len(y), words), np.log2(classes))
    converged: list[float] = []
    for before, end in pairwise(ends):
        probe = fit_linear(
            x[:, :before],
            y[:, :before],
            l2=l2 * (words / before),
            classes=classes,
            tolerance=tolerance,
        )
        converged.append(probe.converged.double().mean().item())
        for site in range(len(x)):
            logs = probe.site(site).log_probs(x[site : site + 1, before:end])
            bits[site, :, before:end] = scoring.bits(logs, y[:, before:end])[0]
    back = order.argsort().numpy()
    return OnlineCode(bits[:, :, back], classes, ends, float(np.mean(converged or [1.0])))


def _two_classes_each(y: Int[Tensor, "problem word"], ends: tuple[int, ...]) -> tuple[int, ...]:
    """Blocks whose first one has two classes of every problem; short ones are joined to it.

    Raises:
        ProbeError: not even all but the last have.
    """
    for i, end in enumerate(ends[:-1]):
        if all(len(row[:end].unique()) > 1 for row in y):
            return ends[i:]
    raise ProbeError(
        f"the first {ends[-2] if len(ends) > 1 else 0} words have one class only, so no probe can "
        "be fitted before the last block; take more words"
    )
