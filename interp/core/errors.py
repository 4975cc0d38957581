"""What the library says when it refuses.

Every message states what happened, the values, the likely cause and the remedy.
"""

from collections.abc import Iterable
from difflib import get_close_matches

import torch


class InterpError(Exception):
    """Base of every error that interp raises on purpose."""


class SiteError(InterpError, ValueError):
    """A site that cannot be parsed or that the model does not have."""


class PairsError(InterpError, ValueError):
    """Prompt pairs that cannot be compared token by token."""


class PositionError(InterpError, KeyError):
    """A named position that the pairs do not have."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0])


class MetricError(InterpError, ValueError):
    """A metric that does not return one finite float per example."""


class ModelError(InterpError, RuntimeError):
    """A model that cannot be found, fetched, read or trusted."""


class Unsupported(InterpError, NotImplementedError):  # so that either name catches it
    """A question that this engine cannot answer exactly on this model."""


class CorpusError(InterpError, ValueError):
    """Annotated text that cannot be found, read or used for the question."""


class ProbeError(InterpError, ValueError):
    """Labels or activations that a probe cannot be fitted to."""


class ResultsError(InterpError, ValueError):
    """A results file or run folder that cannot be read or written."""


def is_short(error: BaseException) -> bool:
    """Did the memory not last?"""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


def said(error: BaseException) -> str:
    """What another library's error says, as a part of a sentence: its kind and first two lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:2])}".rstrip(":. ")


def nearest(word: str, choices: Iterable[str], *, n: int = 3) -> str:
    """A clause that names the choices nearest to `word`, or all of a short list."""
    choices = list(choices)
    found = get_close_matches(word, choices, n=n, cutoff=0.4)
    if found:
        return "did you mean " + " or ".join(repr(f) for f in found) + "?"
    shown = ", ".join(repr(c) for c in choices[:12])
    return f"known: {shown}{', ...' if len(choices) > 12 else ''}."
