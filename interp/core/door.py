"""The door of a public function: its arguments are looked at before anything else happens.

What has the wrong type is refused in a sentence that says which argument, what came, what is taken
and what the argument means, and so is a name that the function has not. What means the same in
another dress is taken: a number of NumPy, a column of pandas, a path as text.
"""

import inspect
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from functools import cache, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, get_args, get_origin

import numpy as np
import pandas as pd

from interp.core.errors import InterpError, nearest

P = ParamSpec("P")
T = TypeVar("T")


class ArgumentError(InterpError, TypeError):
    """An argument of a type that the function does not take, or none of its arguments."""


def door(function: Callable[P, T]) -> Callable[P, T]:
    """Check the arguments of a call against their annotations.

    Raises:
        ArgumentError: an argument that is not of its type, is missing, or that there is not.
    """

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        signature, hints = _known(function)
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise _unbound(function, signature, kwargs, error) from None
        for name, value in bound.arguments.items():
            kind = signature.parameters[name].kind
            if name not in hints or kind in (kind.VAR_POSITIONAL, kind.VAR_KEYWORD):
                continue
            taken = _dressed(value, hints[name])
            if not _fits(taken, hints[name]):
                raise _wrong(function, name, value, hints[name])
            bound.arguments[name] = taken
        return function(*bound.args, **bound.kwargs)

    return checked


@cache
def _known(function: Callable[..., Any]) -> tuple[inspect.Signature, dict[str, Any]]:
    """Its signature, and the annotations of its arguments."""
    hints = typing.get_type_hints(function)
    hints.pop("return", None)
    return inspect.signature(function), hints


def _fits(value: object, hint: Any) -> bool:
    from beartype.door import is_bearable  # takes longer to import than a call takes

    if isinstance(value, bool) and bool not in _alternatives(hint) and int in _alternatives(hint):
        return False
    return is_bearable(value, hint)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """What a union is of, all the way down."""
    if get_origin(hint) in (types.UnionType, typing.Union):
        return tuple(part for inner in get_args(hint) for part in _alternatives(inner))
    return (hint,)


def _dressed(value: Any, hint: Any) -> Any:
    """The same value as its annotation has it."""
    kinds = _alternatives(hint)
    if isinstance(value, np.generic) and not any(_of(kind, np.generic) for kind in kinds):
        value = value.item()
    if isinstance(value, int) and not isinstance(value, bool) and float in kinds:
        return value if int in kinds else float(value)
    if isinstance(value, str) and Path in kinds and str not in kinds:
        return Path(value)
    listed = any(get_origin(kind) in (Sequence, Iterable, list, tuple) for kind in kinds)
    if listed and isinstance(value, pd.Series | pd.Index | np.ndarray):
        return value if _fits(value, hint) else value.tolist()
    return value


def _of(kind: Any, parent: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, parent)


def _wrong(function: Callable[..., Any], name: str, value: object, hint: Any) -> ArgumentError:
    meant = _meaning(function).get(name, "")
    return ArgumentError(
        f"{name_of(function)}: {name}={_short(value)} is {_a(type(value).__name__)}, and {name} "
        f"takes {in_words(hint)}.{f' It means: {meant}' if meant else ''}"
    )


def _unbound(
    function: Callable[..., Any],
    signature: inspect.Signature,
    given: Mapping[str, Any],
    error: TypeError,
) -> ArgumentError:
    known = [name for name in signature.parameters if name not in ("self", "cls")]
    if unknown := [name for name in given if name not in signature.parameters]:
        hint = f"there is no argument {unknown[0]!r}; {nearest(unknown[0], known)}"
    else:
        hint = f"{error}. It is called as {name_of(function)}({', '.join(known)})."
    return ArgumentError(f"{name_of(function)}: {hint}")


def name_of(function: Callable[..., Any]) -> str:
    """What a function is called, with its class."""
    return getattr(function, "__qualname__", str(function)).rpartition("<locals>.")[2]


def in_words(hint: Any) -> str:
    """An annotation as a reader would say it."""
    kinds = list(dict.fromkeys(map(_word, _alternatives(hint))))
    return " or ".join([", ".join(kinds[:-1]), kinds[-1]] if len(kinds) > 1 else kinds)


def _word(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is type(None):
        return "None"
    if origin is typing.Literal:
        return " or ".join(map(repr, inner))
    if hasattr(kind, "dims") or hasattr(kind, "dim_str"):  # jaxtyping
        return f"{_a(kind.array_type.__name__)} of axes {kind.dim_str!r}"
    if origin in (Mapping, dict):
        return f"a mapping from {in_words(inner[0])} to {in_words(inner[1])}"
    if origin is tuple:
        return f"a tuple of {' and '.join(in_words(i) for i in inner if i is not ...)}"
    if origin in (Sequence, Iterable, list, Set, set, frozenset):
        return f"a list of {in_words(inner[0])}"
    if origin is type:
        return f"a class of {in_words(inner[0])}"
    if kind is Callable or origin is Callable or getattr(origin, "__name__", "") == "Callable":
        return "a function"
    plain = {int: "a whole number", float: "a number", str: "text", bool: "True or False"}
    if kind in plain:
        return plain[kind]
    return _a(getattr(kind, "__name__", str(kind)))


def _a(word: str) -> str:
    return f"{'an' if word[:1].lower() in 'aeiou' else 'a'} {word}"


def _short(value: object) -> str:
    shape = getattr(value, "shape", None)
    if shape is not None and not isinstance(value, np.generic):
        return f"{type(value).__name__} of shape {tuple(shape)}"
    return textwrap.shorten(repr(value), 60, placeholder=" ...")


@cache
def _meaning(function: Callable[..., Any]) -> dict[str, str]:
    """What the docstring says of each argument."""
    text = inspect.getdoc(function) or ""
    found = re.search(r"^Args:\n(.*?)(?:^\S|\Z)", text, re.DOTALL | re.MULTILINE)
    if found is None:
        return {}
    body = textwrap.dedent(found[1])
    entries = re.findall(r"^(\w[\w, ]*):\s*(.*?)(?=^\w|\Z)", body, re.DOTALL | re.MULTILINE)
    return {
        name.strip(): " ".join(meaning.split())
        for names, meaning in entries
        for name in names.split(",")
    }
