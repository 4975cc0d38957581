"""What an installed package defines is its name and version; the library's own, its source."""

import hashlib
import sys
import sysconfig
import types
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any


def of_package(value: Any) -> str | None:
    """Name and version of what an installed package defines."""
    module, name = getattr(value, "__module__", None), value.__qualname__
    known = installed(module) if isinstance(module, str) else None
    if known is None:
        return None
    if isinstance(value, types.FunctionType) and not _is_named(value):
        return None
    return f"{known} {module}.{name}"


def _is_named(function: types.FunctionType) -> bool:
    """Does its name tell a package's function? One that wraps another has the other's name."""
    home, name = function.__globals__.get("__name__"), function.__qualname__
    if not isinstance(home, str) or not installed(home) or "<" in name:
        return False  # an inner function closes over what its maker was given
    if home == function.__module__ and name == function.__code__.co_qualname:
        return True
    found: Any = sys.modules.get(function.__module__)
    for part in name.split("."):
        found = getattr(found, part, None)
    return getattr(found, "__func__", found) is function


@cache
def installed(module: str) -> str | None:
    """The package that a module is of, with its version; None of a module of the user's own."""
    top = module.partition(".")[0]
    if top == "interp":
        return f"interp {source()}"
    found = sys.modules.get(top)
    file = getattr(found, "__file__", None)
    if file is None:
        known = top in sys.stdlib_module_names and top != "__main__"
        return f"python {sys.version_info[:3]}" if known else None
    homes = sysconfig.get_paths()
    if any(Path(file).is_relative_to(homes[name]) for name in ("purelib", "platlib")):
        return f"{top} {_version(top, found)}"
    if any(Path(file).is_relative_to(homes[name]) for name in ("stdlib", "platstdlib")):
        return f"python {sys.version_info[:3]}"
    return None


def _version(top: str, module: types.ModuleType | None) -> str:
    for name in _distributions().get(top, ()):
        return metadata.version(name)
    return str(getattr(module, "__version__", ""))


@cache
def _distributions() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


@cache
def source() -> str:
    """A hash of this library's own code: of a checkout its version says too little."""
    root, digest = Path(__file__).parents[3], hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
