"""What an annotation takes: whether a value fits it, its other dress, and how to say it in words.

Stricter than `isinstance`: every item of a list is looked at, True is no number, NaN is none
either, and a text is no list of its letters. An annotation may carry a rule: `Count`, `Seed`.
"""

import inspect
import math
import re
import types
import typing
from abc import ABCMeta
from collections import abc
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import numpy as np
import pandas as pd
from torch import Tensor

COLUMNS = (pd.Series, pd.Index, np.ndarray, Tensor)
"""What holds a list of values in another dress."""
UNLISTED = (str, bytes, Mapping, pd.DataFrame)
"""What can be gone through, and yet is no list of values."""
LISTS = (Sequence, Iterable, Collection, list, tuple, Set, set, frozenset)
WORDS = {int: "a whole number", float: "a number", str: "text", bool: "True or False"}
WORDS |= {Real: "a number or NaN"}


@dataclass(frozen=True)
class Within:
    """Numbers in a range, both ends in it unless `above` is given; infinity is in none.

    Attributes:
        low, high: None where there is no such end.
        above: the number must be greater than this.
    """

    low: float | int | None = None
    high: float | int | None = None
    above: float | int | None = None

    def holds(self, value: Any) -> bool:
        """Is the number in the range?"""
        return (
            math.isfinite(value)
            and (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
        )

    def __str__(self) -> str:
        ends = [(self.above, "above"), (self.low, "of at least"), (self.high, "of at most")]
        said = [f"{word} {end:g}" for end, word in ends if end is not None]
        return " and ".join(said) or "that is finite"


@dataclass(frozen=True)
class NotEmpty:
    """Lists, texts and mappings that hold something."""

    def holds(self, value: Any) -> bool:
        """Does it hold something?"""
        return len(value) > 0

    def __str__(self) -> str:
        return "that is not empty"


@dataclass(frozen=True)
class Told:
    """A function that looks at an argument before its annotation does, and says it better.

    Attributes:
        by: called with the argument; raises an error of the library's own if it is wrong.
    """

    by: Callable[[Any], object]

    def holds(self, value: Any) -> bool:
        """True: it has raised its error where it does not."""
        return True


Count = Annotated[int, Within(low=1)]
Seed = Annotated[int, Within(low=0, high=1 << 62)]  # torch and TransformerLens have no larger ones
Index = Annotated[int, Within(low=0)]
"""Of a thing counted from 0, or of a token."""
Finite = Annotated[float, Within()]
Positive = Annotated[float, Within(above=0)]
AtLeast0 = Annotated[float, Within(low=0)]
Share = Annotated[float, Within(low=0, high=1)]


def fits(value: object, hint: Any) -> bool:
    """Is it of this annotation?"""
    return any(_is(value, kind) for kind in alternatives(hint))


def alternatives(hint: Any) -> tuple[Any, ...]:
    """What a union is of, all the way down, each with the rules that it is under."""
    if get_origin(hint) in (types.UnionType, typing.Union):
        return tuple(part for inner in get_args(hint) for part in alternatives(inner))
    if get_origin(hint) is Annotated:
        base, *rules = get_args(hint)
        return tuple(Annotated[part, *rules] for part in alternatives(base))
    return (hint,)


def _is(value: Any, kind: Any) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        base, *rules = inner
        return fits(value, base) and all(rule.holds(value) for rule in rules)
    if kind is Any or isinstance(kind, typing.TypeVar):
        return True
    if origin is Literal:
        return any(type(value) is type(word) and value == word for word in inner)
    if isinstance(value, bool) and kind in (int, float):
        return False
    if kind is float:
        return isinstance(value, int | float) and value == value
    if origin in LISTS:
        return _is_list(value, origin, inner)
    if origin in (Mapping, dict):
        return isinstance(value, origin) and (
            _all(value, inner[0]) and _all(value.values(), inner[1])
        )
    if kind is abc.Callable or origin is abc.Callable:
        return callable(value) and (not inner or _can_take(value, inner[0]))
    if getattr(kind, "_is_protocol", False) and isinstance(value, type):
        return False  # the class, where one of its objects is meant
    from beartype.door import is_bearable  # takes longer to import than a call takes

    return is_bearable(value, kind)


def _is_list(value: Any, origin: Any, inner: tuple[Any, ...]) -> bool:
    if isinstance(value, UNLISTED) or not isinstance(value, origin):
        return False
    if origin is tuple and inner[1:] != (...,):
        items = zip(value, inner, strict=False)
        return len(value) == len(inner) and all(fits(item, hint) for item, hint in items)
    # what can be read but once is not looked into
    return not isinstance(value, Collection) or _all(value, inner[0])


def _all(values: Collection, hint: Any) -> bool:
    if hint is Any:
        return True
    if all(map(_by_type, alternatives(hint))):  # one value of each type tells for all
        values = {type(value): value for value in values}.values()
    return all(fits(value, hint) for value in values)


def _by_type(kind: Any) -> bool:
    """Does it depend on a value's type alone whether it fits?"""
    protocol = getattr(kind, "_is_protocol", False)
    return type(kind) in (type, ABCMeta) and kind is not float and not protocol


def _can_take(function: Callable[..., Any], arguments: Any) -> bool:
    """Can it be called with so many arguments? True where nobody can say."""
    if arguments is ...:
        return True
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some builtins have none
        return True
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def dressed(value: Any, hint: Any) -> Any:
    """The same value as its annotation has it; what has no such dress stays as it is."""
    kinds = [unruled(kind) for kind in alternatives(hint)]
    if isinstance(value, np.generic) and not any(_of(kind, np.generic) for kind in kinds):
        value = value.item()
    if isinstance(value, int) and not isinstance(value, bool) and float in kinds:
        return value if int in kinds else float(value)
    if isinstance(value, str) and Path in kinds and str not in kinds:
        return Path(value)
    lists = [kind for kind in kinds if get_origin(kind) in LISTS]
    if not lists or (isinstance(value, COLUMNS) and fits(value, hint)):
        return value
    if isinstance(value, COLUMNS) and value.ndim:
        value = value.tolist()
    if type(value) in (list, tuple):
        inner = (get_args(lists[0]) or (Any,))[0]
        if _has_other_dress(set(map(type, value)), inner):
            value = type(value)(dressed(item, inner) for item in value)
        if all(get_origin(kind) is tuple for kind in lists):
            value = tuple(value)
    return value


def _has_other_dress(given: set[type], hint: Any) -> bool:
    """May values of these types mean what the annotation takes, and not be of it?"""
    kinds = [unruled(kind) for kind in alternatives(hint)]
    nested = any(get_origin(kind) in LISTS for kind in kinds)
    return nested or any(_of(t, np.generic) for t in given) or (int in given and float in kinds)


def unruled(kind: Any) -> Any:
    """A kind without its rules."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _of(kind: Any, parent: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, parent)


def misspelt(value: Any, hint: Any) -> tuple[str, list[str]] | None:
    """A text, alone or in a list, that is none of a set of words; and these words.

    None where the annotation takes no such set, or something other than a text is wrong.
    """
    kinds = [unruled(kind) for kind in alternatives(hint)]
    sets = [get_args(kind) for kind in kinds if get_origin(kind) is Literal]
    known = [word for words in sets for word in words if isinstance(word, str)]
    if known and isinstance(value, str):
        return None if value in known else (value, known)
    lists = [get_args(kind)[0] for kind in kinds if get_origin(kind) in LISTS]
    items = value if lists and isinstance(value, list | tuple) else ()
    return next((found for item in items if (found := misspelt(item, lists[0]))), None)


def in_words(hint: Any) -> str:
    """An annotation as a reader would say it."""
    kinds = list(dict.fromkeys(map(_word, alternatives(hint))))
    return " or ".join([", ".join(kinds[:-1]), kinds[-1]] if len(kinds) > 1 else kinds)


def _word(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is type(None):
        return "None"
    if origin is Annotated:
        rules = [str(rule) for rule in inner[1:] if not isinstance(rule, Told)]
        return " ".join([in_words(inner[0]), *rules])
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if hasattr(kind, "dims") or hasattr(kind, "dim_str"):  # jaxtyping
        numbers = kind.__name__.partition("[")[0]
        return f"{a(kind.array_type.__name__)} of {numbers} of axes {kind.dim_str!r}"
    if origin in (Mapping, dict):
        return f"a mapping from {in_words(inner[0])} to {in_words(inner[1])}"
    if origin is tuple and inner[1:] != (...,):
        return f"a tuple of {' and '.join(map(in_words, inner))}"
    if origin in LISTS:
        return f"a list of {_many(in_words(inner[0]))}"
    if origin is type:
        return f"a class of {in_words(inner[0])}"
    if kind is abc.Callable or origin is abc.Callable:
        count = "" if not inner or inner[0] is ... else f" of {len(inner[0])} arguments"
        return "a function" + (count if count != " of 1 arguments" else " of one argument")
    if getattr(kind, "_is_protocol", False):
        members = {*vars(kind), *getattr(kind, "__annotations__", {})}
        return f"an object with {', '.join(sorted(m for m in members if m[:1] != '_'))}"
    return WORDS.get(kind) or a(getattr(kind, "__name__", str(kind)))


def _many(words: str) -> str:
    """What stands in a list: "whole numbers" for "a whole number"."""
    words = re.sub(r"\ba (whole number|number)\b", r"\1s", words)
    return re.sub(r"\b(text)\b", r"\1s", re.sub(r"^an? ", "", words))


def a(word: str) -> str:
    """A word after its article."""
    return f"{'an' if word[:1].lower() in 'aeiou' else 'a'} {word}"


def no_numbers(column: pd.Series) -> list[Any]:
    """The values of a column that are neither numbers nor missing."""
    if pd.api.types.is_numeric_dtype(column.dtype):
        return []
    return [value for value in column.dropna() if not isinstance(value, Real)]


def is_row(value: object, rows: int) -> bool:
    """Is it the number of one of so many rows, counted from 0?"""
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        return False
    return bool(0 <= value < rows)


def shown(value: object) -> str:
    """A value for a message: what it is, and no more of it than a line holds."""
    shape = getattr(value, "shape", None)
    if shape is not None and not isinstance(value, np.generic):
        return f"{type(value).__name__} of shape {tuple(shape)}"
    if isinstance(value, types.FunctionType):
        return value.__qualname__.rpartition("<locals>.")[2]
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:56]} ..."
