"""A config as JSON has it, its hash, and what lies in the files that it names."""

import dataclasses
import hashlib
import json
from enum import Enum
from pathlib import PurePath
from typing import Any

from interp.core.door.door import door
from interp.core.door.taken import shown
from interp.core.errors import ResultsError
from interp.core.files.identity import Unreadable, lying_at, lying_in


@door
def config_hash(config: Any) -> str:
    """12 hex digits of the sha256 of the config's canonical JSON."""
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise ResultsError(
            f"a config is an instance of a frozen dataclass, not {shown(config)}; write Config() "
            "with its brackets, and @dataclass(frozen=True) above its class."
        )
    kept = plain(config, "config", hashed_only=True)
    return hashlib.sha256((json.dumps(kept, sort_keys=True) + "\n").encode()).hexdigest()[:12]


@door
def plain(value: Any, where: str, *, hashed_only: bool = False) -> Any:
    """A config value as JSON has it: paths, dtypes and enum members as text, tuples as lists.

    Raises:
        ResultsError: a value without a stable text, such as a function or a model.
    """

    def inner(part: Any, name: str) -> Any:
        return plain(part, f"{where}.{name}", hashed_only=hashed_only)

    match value:
        case Enum():
            return value.name
        case None | bool() | int() | float() | str():
            return value
        case PurePath():
            return value.as_posix()
        case dict():
            return {str(key): inner(part, str(key)) for key, part in value.items()}
        case list() | tuple():
            return [inner(part, str(i)) for i, part in enumerate(value)]
        case set() | frozenset():
            return sorted((inner(part, "item") for part in value), key=json.dumps)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        kept = [f for f in fields if not hashed_only or f.metadata.get("hash", True)]
        return {f.name: inner(getattr(value, f.name), f.name) for f in kept}
    if type(value).__module__.partition(".")[0] in ("torch", "numpy"):
        if "dtype" in type(value).__name__.lower() or type(value).__name__ == "device":
            return str(value)
        if getattr(value, "shape", None) == () and hasattr(value, "item"):
            return inner(value.item(), "item")
    raise ResultsError(
        f"{where} is a {type(value).__name__}, which has no stable text to name a folder by. Put "
        "numbers, text, paths, tuples or dataclasses of these into a config, and build the rest "
        "from them in run()."
    )


def files_of(config: Any) -> str:
    """A hash of what lies in all files that a config names, and in folders."""
    match config:
        case str():
            found = list(lying_at(config)) or _in_folder(config)
        case dict() | list():
            inner = config.values() if isinstance(config, dict) else config
            found = [part for part in map(files_of, inner) if part]
        case _:
            found = []
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:12] if found else ""


def _in_folder(named: str) -> list[str]:
    """What lies in a folder that a config names.

    Raises:
        ResultsError: it holds too much.
    """
    try:
        return list(lying_in(named))
    except Unreadable as error:
        raise ResultsError(
            f"the config names a folder, and {error} If nothing is read from it, put "
            'metadata={"hash": False} on the field.'
        ) from error
