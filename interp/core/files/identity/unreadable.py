"""Refusals: what cannot be told from another of its kind."""

from typing import NoReturn

from interp.core.errors import InterpError


class Unreadable(InterpError, TypeError):
    """A value that cannot be told from another by what can be read of it."""


def kind(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def refuse(value: object, where: str) -> NoReturn:
    raise unreadable(f"{where} is a {kind(value)}, whose state cannot be read")


def unreadable(what: str) -> Unreadable:
    return Unreadable(f"this cannot be told from another of its kind: {what}")
