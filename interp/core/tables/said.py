"""Numbers of one text: what was said, how likely it was, how it differs from what else is said."""

import math
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from difflib import SequenceMatcher
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from interp.core.errors import ResultsError, nearest, said

Row = Mapping[str, Any]
"""Of a table of texts."""
Metric = str | re.Pattern[str] | Callable[[str], float]


def distinct(tokens: Sequence[Hashable], n: int) -> float:
    """Distinct runs of n tokens as a share of all (Li et al. 2016, sec. 5.3); NaN without any."""
    runs = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return len(set(runs)) / len(runs) if runs else math.nan


def distance(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """The fewest tokens that are put in, left out or exchanged (Levenshtein 1966)."""
    before = list(range(len(other) + 1))
    for i, mine in enumerate(one, start=1):
        row = [i]
        for j, theirs in enumerate(other, start=1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (mine != theirs)))
        before = row
    return before[-1]


def differs(one: Sequence[Hashable], other: Sequence[Hashable]) -> float:
    """The number of the first token that differs, counted from 0; NaN if none does."""
    for i, (mine, theirs) in enumerate(zip(one, other, strict=False)):
        if mine != theirs:
            return float(i)
    return float(min(len(one), len(other))) if len(one) != len(other) else math.nan


NAMED: dict[str, Callable[[Row], float]] = {
    "log_prob": lambda row: float(np.mean(row["log_probs"])),
    "plain_log_prob": lambda row: float(np.mean(row["plain_log_probs"])),
    "perplexity": lambda row: math.exp(-np.mean(row["plain_log_probs"])),
    "kl": lambda row: float(np.mean(row["kl"])),
    "distinct_1": lambda row: distinct([*row["tokens"]], 1),
    "distinct_2": lambda row: distinct([*row["tokens"]], 2),
    "distinct_3": lambda row: distinct([*row["tokens"]], 3),
    "length": lambda row: float(len(row["tokens"])),
    "changed": lambda row: float(not math.isnan(row["differs"])),
    "distance": lambda row: float(row["distance"]),
}
"""`log_prob`, `plain_log_prob`: of a token on average, under the interventions and under the plain
model. `perplexity`: of the text under the plain model, which says how fluent it is. `kl`: by step
on average. `distinct_n`: see `distinct`. `changed`: 1 where the text is not the plain one."""


def resolved(metrics: Any) -> dict[str, Callable[[Row], float]]:
    """What is asked of each text, by name.

    Args:
        metrics: names of `NAMED`; or a mapping from names to patterns (1 where one is found, as
            text or compiled), functions of the text, or names.

    Raises:
        ResultsError: no such name, or no pattern.
    """
    if isinstance(metrics, str):
        metrics = [metrics]
    if not metrics:
        raise ResultsError(
            f"score({metrics!r}) asks for nothing; give a name such as 'perplexity'."
        )
    if not isinstance(metrics, Mapping):
        metrics = {name: NAMED.get(name, name) for name in metrics}
        if lost := [name for name, of in metrics.items() if isinstance(of, str)]:
            raise ResultsError(
                f"there is no number of a text called {lost[0]!r}; {nearest(lost[0], NAMED)} "
                "A pattern or a function of your own is given with a name: "
                "score({'says tea': r'\\btea\\b', 'long': len})."
            )
        return dict(metrics)
    return {str(name): _one(str(name), of) for name, of in metrics.items()}


def _one(name: str, of: Metric) -> Callable[[Row], float]:
    if isinstance(of, str) and of in NAMED:
        return NAMED[of]
    if isinstance(of, str):
        try:
            of = re.compile(of)
        except re.error as error:
            raise ResultsError(
                f"{name!r}: {of!r} is no regular expression ({error}). Escape what is meant to "
                "be said (re.escape)."
            ) from None
    if isinstance(of, re.Pattern):
        return lambda row: float(of.search(row["text"]) is not None)
    return lambda row: _called(name, of, row["text"])


def _called(name: str, of: Callable[[str], float], text: str) -> float:
    try:
        return float(of(text))
    except Exception as error:  # whatever a function of a user's raises
        raise ResultsError(
            f"the metric {name!r} of the text {text[:60]!r} is no number: {said(error)}. Give a "
            "function from a text to a number, or to True or False."
        ) from error


PIECES = re.compile(r"\s+|\w+|[^\w\s]")


def marked(text: str, plain: str) -> str:
    """The text as HTML, what does not stand in the plain one marked."""
    mine, theirs = PIECES.findall(text), PIECES.findall(plain)
    found = []
    for what, start, stop, _, _ in SequenceMatcher(None, mine, theirs, False).get_opcodes():
        part = escape("".join(mine[start:stop]))
        if part:
            found.append(part if what == "equal" else f"<mark>{part}</mark>")
    return "".join(found).replace("\n", "<br>")


def column(frame: pd.DataFrame, of: Callable[[Row], float]) -> np.ndarray:
    """A number of each row."""
    return np.array([of(row) for row in frame.to_dict("records")], dtype=float)
