"""Every argument of a function replaced by what it is not, one at a time.

What comes out may be a result (some wrong things are right for some arguments), or one of the
library's own errors that says what to do; nothing else, and if it is an error then no model ran and
nothing was written.
"""

import inspect
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pandas as pd
import torch
from torch import nn

from interp.core.errors import InterpError


class Nothing:
    """An object that nobody knows."""


WRONG: dict[str, Any] = {
    "None": None,
    "True": True,
    "-1": -1,
    "0": 0,
    "2.5": 2.5,
    "nan": math.nan,
    "inf": math.inf,
    "empty text": "",
    "other text": "nonsense",
    "bytes": b"bytes",
    "empty list": [],
    "list of None": [None],
    "list of text": ["nonsense"],
    "empty mapping": {},
    "mapping": {"nonsense": 1},
    "object": Nothing(),
    "class": Nothing,
    "function": lambda *args: None,
    "tensor": torch.full((3, 2), math.nan),
    "array": np.array(["nonsense"]),
    "frame": pd.DataFrame(),
    "path": Path("/dev/null/nowhere"),  # where not even root can write
}
"""Twenty-two wrong things by what they are called."""


def faults(
    function: Callable[..., Any], right: Mapping[str, Any], folder: Path
) -> Iterator[tuple[str, str, str]]:
    """The argument, the wrong thing, and what is wrong with how it was received.

    `right`: arguments that work, by name, all that the function has. `folder`: that a call may
    write to.
    """
    missing = set(inspect.signature(function).parameters) - set(right) - {"self", "cls"}
    assert not missing, f"{function.__qualname__}: no right value is given for {missing}"
    for name in right:
        for called, wrong in WRONG.items():
            if found := received(function, {**right, name: wrong}, folder):
                yield name, called, found
    if found := received(function, {**right, "nonsense": 1}, folder):
        yield "nonsense", "an argument that there is not", found


def complaints(
    calls: Iterable[tuple[Callable[..., Any], Mapping[str, Any]]],
    folder: Path,
    *,
    hot: Collection[str] = (),
) -> list[str]:
    """What is wrong with how each of some calls receives wrong arguments, a line each.

    `calls`: a function and a right value for each of its arguments. `hot`: functions that have no
    door, since they are called by the million, and leave names that they have not to Python.
    """
    found = []
    for function, right in calls:
        function(**right)  # it must be right, or nothing is learnt of the others
        name = getattr(function, "__qualname__", str(function))
        found += [
            f"{name}({argument}={called}): {fault}"
            for argument, called, fault in faults(function, right, folder)
            if argument in right or name not in hot
        ]
    return found


def received(function: Callable[..., Any], given: Mapping[str, Any], folder: Path) -> str:
    """What is wrong with how a call ends; nothing if it gives a result, or says what to do."""
    before = _written(folder)
    with counted() as ran, untyped():
        try:
            function(**given)
        except InterpError as error:
            text = str(error)
            if len(text) < 30 or not text.rstrip().endswith((".", ")", "?")):
                return f"says only {text!r}"
            if ran:
                return f"ran a model before it said {text[:80]!r}"
            new = sorted(_written(folder) - before)
            return f"wrote {[str(path) for path, _ in new[:3]]}" if new else ""
        except Exception as error:
            return f"{type(error).__name__}: {str(error)[:200]}"
    return ""


def _written(folder: Path) -> set[tuple[Path, int]]:
    """What is in a folder, and of files when they were written."""
    found = folder.rglob("*")
    return {(path, path.stat().st_mtime_ns if path.is_file() else 0) for path in found}


@contextmanager
def untyped() -> Iterator[None]:
    """Inside of the block the library runs as it does for users: nothing checks types but doors."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


@contextmanager
def counted() -> Iterator[list[str]]:
    """The embeddings that were looked up inside of the block: one for each run of a model."""
    ran: list[str] = []
    embedding = torch.nn.functional.embedding

    def count(ids: Any, weight: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(weight, nn.Parameter):
            ran.append(str(tuple(weight.shape)))
        return embedding(ids, weight, *args, **kwargs)

    torch.nn.functional.embedding = count
    try:
        yield ran
    finally:
        torch.nn.functional.embedding = embedding
