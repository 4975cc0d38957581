"""The door of a public function: its arguments are looked at before anything else happens.

What has the wrong type is refused in a sentence that says which argument, what came, what is taken
and what the argument means, and so is a name that the function has not. What means the same in
another dress is taken: a number of NumPy, a column of pandas, a path as text. What an annotation
takes, `interp.core.door.taken` says; there are also rules for annotations, such as `Count` and
`Seed`. Then the call runs alone (`interp.core.door.alone`), without the settings of torch that
would change its numbers (`interp.core.door.settings`).
"""

import inspect
import os
import re
import textwrap
import typing
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cache, wraps
from typing import Annotated, Any, ParamSpec, TypeVar, get_args, get_origin, overload

from interp.core.door.alone import alone, locks, put_back, running
from interp.core.door.settings import settled, unsettled
from interp.core.door.taken import (
    LISTS,
    Told,
    a,
    alternatives,
    dressed,
    fits,
    in_words,
    misspelt,
    shown,
    unruled,
)
from interp.core.errors import InterpError, nearest

NAME, PATH = 255, 4095  # bytes that file systems take
P = ParamSpec("P")
T = TypeVar("T")


class Default:
    """In an annotation of a `TypedDict` that a function takes unpacked: the value if not given."""

    def __init__(self, value: object) -> None:
        self.value = value


class ArgumentError(InterpError, TypeError, ValueError):
    """An argument that the function does not take, or none of its arguments."""


@overload
def door(function: type[T]) -> type[T]: ...
@overload
def door(function: Callable[P, T]) -> Callable[P, T]: ...
def door(function: Any) -> Any:
    """Check the arguments of a call against their annotations; of a class, what it is made of.

    Raises:
        ArgumentError: an argument that is not of its type, is missing, or that there is not.
    """
    if isinstance(function, type):
        function.__init__ = _checked(function.__init__, function)
        return function
    return _checked(function, function)


def _checked(function: Callable[P, T], told: Any) -> Callable[P, T]:
    """The function behind its door; `told` has the docstring."""

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        signature, hints = _known(function)
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise _unbound(told, signature, kwargs, error) from None
        for name, value in bound.arguments.items():
            kind = signature.parameters[name].kind
            if name not in hints or kind is kind.VAR_KEYWORD:
                continue
            if kind is kind.VAR_POSITIONAL:
                taken = tuple(_taken(told, name, each, hints[name]) for each in value)
            else:
                taken = _taken(told, name, value, hints[name])
            bound.arguments[name] = taken
        lock, asked = running(), locks(bound.arguments.values())
        inside = lock._is_owned()
        with lock:
            if not inside:
                put_back()
            odd = not inside and unsettled()
            if not asked and not odd:
                return function(*bound.args, **bound.kwargs)
            with settled() if odd else nullcontext():
                return alone(lambda: function(*bound.args, **bound.kwargs), asked)

    vars(checked)["__door__"] = True
    vars(checked)["__signature__"] = _unpacked(function)
    return checked


@cache
def _unpacked(function: Callable[..., Any]) -> inspect.Signature:
    """The signature, with each key of an unpacked `TypedDict` as an argument of its own."""
    signature = inspect.signature(function)
    found: list[inspect.Parameter] = []
    for one in signature.parameters.values():
        if (kind := _bundle(one.annotation)) is not None:
            for name, hint in typing.get_type_hints(kind, include_extras=True).items():
                rules = [rule for rule in hint.__metadata__ if not isinstance(rule, Default)]
                [default] = [rule.value for rule in hint.__metadata__ if isinstance(rule, Default)]
                taken = Annotated[(hint.__origin__, *rules)] if rules else hint.__origin__
                made = {"kind": one.KEYWORD_ONLY, "default": default, "annotation": taken}
                found.append(one.replace(name=name, **made))
        else:
            found.append(one)
    return signature.replace(parameters=found)


def _bundle(annotation: Any) -> Any:
    """The `TypedDict` that is unpacked there."""
    return get_args(annotation)[0] if get_origin(annotation) is typing.Unpack else None


@cache
def _known(function: Callable[..., Any]) -> tuple[inspect.Signature, dict[str, Any]]:
    """Its signature, and the annotations of its arguments with their rules."""
    hints = typing.get_type_hints(function, include_extras=True)
    for name in ("self", "cls", "return"):
        hints.pop(name, None)
    signature = _unpacked(function)
    more = {name: one.annotation for name, one in signature.parameters.items() if name not in hints}
    return signature, hints | {k: v for k, v in more.items() if k not in ("self", "cls")}


def _taken(told: Any, name: str, value: Any, hint: Any) -> Any:
    """The value in the dress of its annotation.

    Raises:
        ArgumentError: it does not fit.
        InterpError: what the annotation is told by refuses it.
    """
    for rule in getattr(hint, "__metadata__", ()):
        if isinstance(rule, Told):
            rule.by(value)
    taken = dressed(value, hint)
    if not fits(taken, hint):
        raise _wrong(told, name, value, hint)
    if isinstance(taken, str | os.PathLike) and (why := _no_name(taken, hint)):
        raise ArgumentError(f"{name_of(told)}: {name}={shown(value)} {why}")
    return taken


def _no_name(value: str | os.PathLike[str], hint: Any) -> str:
    """Why no file can be called so, where a file may be meant."""
    if not any(get_origin(unruled(kind)) is os.PathLike for kind in alternatives(hint)):
        return ""
    try:
        parts = os.fsencode(value).split(os.sep.encode())
    except UnicodeEncodeError:
        return "has half a surrogate pair, which no file's name can have. Give it as UTF-8."
    whole, longest = sum(len(part) + 1 for part in parts), max(map(len, parts))
    if longest > NAME or whole > PATH:
        return (
            f"is {whole - 1:,} bytes long with a part of {longest:,}, and no file is called so "
            f"(at most {PATH:,}, and {NAME} a part). Likely it is a content and not a name."
        )
    return ""


def _wrong(told: Any, name: str, value: Any, hint: Any) -> ArgumentError:
    if (found := misspelt(value, hint)) is not None:
        word, known = found
        which = "" if word == value else f" has {word!r}"
        listed = f" {name} is one of {', '.join(map(repr, known))}."
        near = nearest(word, known)
        why = f"{which};{listed}" if near.startswith("known") else f"{which}; {near}{listed}"
    else:
        why = f"{_odd(value, hint)}, and {name} takes {in_words(hint)}."
    meant = _meaning(told).get(name, "")
    if meant:
        why += f" It means: {meant}{'' if meant.endswith(('.', ')', '?')) else '.'}"
    return ArgumentError(f"{name_of(told)}: {name}={shown(value)}{why}")


def _odd(value: Any, hint: Any) -> str:
    """What is wrong about a value: its type, or an item of it; nothing to say of a wrong number."""
    kinds = [unruled(kind) for kind in alternatives(hint)]
    if any(fits(dressed(value, kind), kind) for kind in kinds):
        return ""
    inner = [get_args(kind)[0] for kind in kinds if get_origin(kind) in LISTS]
    items = value if inner and isinstance(value, list | tuple) else ()
    odd = [item for item in items if not fits(dressed(item, inner[0]), inner[0])]
    if odd and shown(odd[0]) != shown(value):
        return f" has {shown(odd[0])}, {a(type(odd[0]).__name__)}"
    return f" is {a(type(value).__name__)}"


def _unbound(
    told: Any, signature: inspect.Signature, given: Mapping[str, Any], error: TypeError
) -> ArgumentError:
    known = [name for name in signature.parameters if name not in ("self", "cls")]
    if unknown := [name for name in given if name not in signature.parameters]:
        hint = f"there is no argument {unknown[0]!r}; {nearest(unknown[0], known)}"
    else:
        hint = f"{error}. It is called as {name_of(told)}({', '.join(known)})."
    return ArgumentError(f"{name_of(told)}: {hint}")


def name_of(function: Any) -> str:
    """What a function is called, with its class."""
    return getattr(function, "__qualname__", str(function)).rpartition("<locals>.")[2]


@cache
def _meaning(told: Any) -> dict[str, str]:
    """What the docstring says of each argument, or of each attribute that a class is made of."""
    found: dict[str, str] = {}
    bundles = [_bundle(hint) for hint in getattr(told, "__annotations__", {}).values()]
    for told_by in (*filter(None, bundles), told):
        found |= _entries(inspect.getdoc(told_by) or "")
    return found


def _entries(docstring: str) -> dict[str, str]:
    found = re.search(
        r"^(?:Args|Attributes):\n(.*?)(?:^\S|\Z)", docstring, re.DOTALL | re.MULTILINE
    )
    if found is None:
        return {}
    body = textwrap.dedent(found[1])
    entries = re.findall(r"^(\w[\w, ]*):\s*(.*?)(?=^\w|\Z)", body, re.DOTALL | re.MULTILINE)
    return {
        name.strip(): " ".join(meaning.split())
        for names, meaning in entries
        for name in names.split(",")
    }
