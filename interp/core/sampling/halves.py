"""Two halves that share no independent unit: what is chosen on one is reported on the other."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool
from numpy import ndarray


def halves(
    units: Iterable[Sequence[str] | pd.Series], *, seed: int = 0
) -> tuple[Bool[ndarray, " row"], Bool[ndarray, " row"]]:
    """Which rows are of the first half, and which of the second.

    The same names and seed give the same halves, whatever rows there are of them, so that a table
    is split as the prompts are that it was measured on. Of two crossed kinds of units each is
    halved; rows of the first half of one and the second of the other are in neither.

    Args:
        units: of each kind, that of each row.
    """
    first, second = [], []
    for kind, of in enumerate(units):
        of = of if isinstance(of, pd.Series) else np.asarray(of, dtype=object)
        code, names = pd.factorize(of, sort=True)
        key = [seed, len(names), *([kind] if kind else [])]
        half = np.zeros(len(names), dtype=bool)
        half[np.random.default_rng(key).permutation(len(names))[: len(names) // 2]] = True
        first.append(half[code])
        second.append(~half[code])
    return np.logical_and.reduce(first), np.logical_and.reduce(second)
