"""Selectivity, with the variance of the labels that the control task drew.

Hewitt & Liang (2019, sec. 2): the score on the real task less that on the control task. The labels
of a control task are drawn once, and with few word types another draw gives another score; so
several may be drawn (`tagging(draws=)`), and the interval is of their mean.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray
from scipy.stats import t

from interp.core.door.door import door
from interp.core.door.taken import Seed
from interp.core.errors import ProbeError
from interp.core.sampling.stats import CONFIDENCE
from interp.core.tables.scores import CELL, Scores

DRAW = "control "
"""What the label of a single draw begins with, its number after it."""


def with_mean(
    values: Float[ndarray, "site problem example"],
) -> tuple[Float[ndarray, "site named example"], list[str]]:
    """Scores of the real labels and of each draw, with the mean of the draws between; and names.

    Of a single draw it is that draw.
    """
    real, drawn = values[:, :1], values[:, 1:]
    draws = drawn.shape[1]
    if draws < 2:
        return values, ["real", "control"][: 1 + draws]
    names = ["real", "control", *(f"{DRAW}{n}" for n in range(1, draws + 1))]
    return np.concatenate([real, drawn.mean(1, keepdims=True), drawn], 1), names


@door
def selectivity(scores: Scores, *, seed: Seed = 0) -> pd.DataFrame:
    """Each score on the real labels less that on the control task's, mean of the draws.

    The interval is over documents, as of `Scores.minus`, and with several draws over these too:
    the two are independent, so their half-widths add up in quadrature (Zou & Donner 2008,
    "MOVER"), that of the mean of the draws by Student's t. What the documents add to the spread of
    the draws is counted twice, which makes it a little too wide. With one draw it is over documents
    alone, and says nothing of other draws.

    Args:
        scores: of `tagging` or `description_length`.
        seed: of the bootstrap over documents.

    Returns:
        The columns that name a score (but for `labels`), `value`, `low`, `high`, `n`, `clusters`,
        `draws`, and `draw_sd`, the standard deviation between draws (NaN of one). Of bits it is
        negative where the real labels are the cheaper.

    Raises:
        ProbeError: a table without scores on a control task.
    """
    keys = [name for name in CELL if name != "labels"]
    control = scores.query("labels == 'control'")
    if not len(control):
        raise ProbeError(
            "there is no score on a control task in this table; its provenance says under "
            "'left out' if that could not be had."
        )
    asked = control.frame[keys].drop_duplicates()
    real = scores.query("labels == 'real'").frame.merge(asked, on=keys)
    found = Scores(real, scores.provenance).minus(control, ignoring=["labels"], seed=seed)
    drawn = scores.query(f"labels.str.startswith('{DRAW}')").frame
    sums = drawn.groupby([*keys, "labels"], dropna=False, as_index=False)[["total", "n"]].sum()
    sums = sums.assign(score=sums["total"].to_numpy() / sums["n"].to_numpy())
    of = sums.groupby(keys, dropna=False, as_index=False)["score"].agg(draws="size", draw_sd="std")
    found = found.drop(columns=["labels", "p", "q"]).merge(of, on=keys, how="left")
    draws = found["draws"].fillna(1).to_numpy(dtype=int)
    error = np.nan_to_num(found["draw_sd"].to_numpy(dtype=float)) / np.sqrt(draws)
    wide = t.ppf((1 + CONFIDENCE) / 2, np.maximum(draws - 1, 1)) * error
    return found.assign(
        low=found["value"] - np.hypot(found["value"] - found["low"], wide),
        high=found["value"] + np.hypot(found["high"] - found["value"], wide),
        draws=draws,
    )
