"""What a value is, as text: equal texts compute equal things.

A function is its code, constants, defaults and closure, and the values of whatever else it reads:
globals, attributes of modules, other functions. Arrays and tensors are their bytes, modules their
state, objects their class and what they hold: of a dataclass all but fields with
`metadata={"hash": False}`, and never what a `cached_property` keeps. What cannot be read is
refused, since two of them could not be told apart.

A class may say it itself: `__identity__(self) -> str`.
"""

import copyreg
import dataclasses
import dis
import functools
import hashlib
import sys
import sysconfig
import types
import weakref
from collections.abc import Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import cache, cached_property
from importlib import metadata
from itertools import islice
from pathlib import Path, PurePath
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from interp.core.errors import InterpError

OPAQUE = frozenset({"eval", "exec", "globals", "locals", "vars", "input", "__import__"})
"""Builtins through which a function reads what its code does not name."""
ELSEWHERE = frozenset({"environ", "getenv", "urlopen"})
"""Names of what reads neither from the program nor from a file."""
FILES = frozenset(
    {
        *("open", "read_text", "read_bytes", "load", "fromfile", "loadtxt", "genfromtxt"),
        *("read_csv", "read_json", "read_parquet", "read_table", "load_file"),
    }
)
"""Names of what reads from files."""
_SIMPLE = (type(None), bool, int, float, complex, str, bytes, type(...), range, slice)
_CONTAINERS = (dict, list, tuple, set, frozenset)
_NAMED = (torch.dtype, torch.device, torch.layout, torch.memory_format, np.dtype, np.generic)
_METHODS = (
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.GetSetDescriptorType,
    types.ClassMethodDescriptorType,
    types.MemberDescriptorType,
)
_MACHINERY = {
    *("__module__", "__dict__", "__weakref__", "__doc__", "__annotations__", "__qualname__"),
    *("__abstractmethods__", "_abc_impl", "__dataclass_fields__", "__dataclass_params__"),
    *("__match_args__", "__parameters__", "__orig_bases__", "__non_callable_proto_members__"),
    *("__protocol_attrs__", "_is_protocol", "_is_runtime_protocol", "__firstlineno__"),
    *("__slotnames__", "__static_attributes__"),  # the first when an object of it is first pickled
}
"""What Python puts into a class, and no method of it reads."""

SMALL = 1 << 24
"""Bytes of a file that is read; a larger one is its size and its date."""
MANY = 10_000
"""Files of a folder that are looked at."""


@dataclass(frozen=True)
class Seen:
    """What was met so far, by address; held, so that no address is used again.

    Attributes:
        files: names of files stand for what lies there; else what reads one is refused.
        lies: what lies there, of each text that could be such a name.
    """

    files: bool
    met: dict[int, tuple[int, object]] = field(default_factory=dict)
    lies: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def inside(self) -> "Seen":
        """For a part that is told by itself."""
        return Seen(self.files, lies=self.lies)


class Unreadable(InterpError, TypeError):
    """A value that cannot be told from another by what can be read of it."""


def identity(value: object, *, files: bool = False) -> str:
    """The text of a value, 32 hex digits.

    Args:
        files: a path, or a text that names a file or a model's folder, is what lies there, and
            functions may read from files. Else such a function is refused.

    Raises:
        Unreadable: naming the part that cannot be read.
    """
    return _digest(value, Seen(files), "it")


def _digest(value: object, seen: Seen, where: str) -> str:
    digest = hashlib.sha256()
    for part in _parts(value, seen, where):
        digest.update(part.encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    return digest.hexdigest()[:32]


def tensor_identity(value: Tensor) -> str:
    """Dtype, shape and bytes of a tensor."""
    plain = value.detach().cpu().contiguous().reshape(-1)
    raw = plain.view(torch.uint8).numpy() if plain.numel() else b""
    return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(raw).hexdigest()}"


def _parts(value: object, seen: Seen, where: str) -> Iterator[str]:
    """The text of a value, in parts."""
    if type(value) in _SIMPLE:
        yield f"{type(value).__name__} {value!r}"
        if seen.files and isinstance(value, str):
            if value not in seen.lies:
                seen.lies[value] = tuple(lying_at(value))
            yield from seen.lies[value]
        return
    if id(value) in seen.met:  # ends cycles, and tells one list twice from two that are equal
        yield f"again {seen.met[id(value)][0]}"
        return
    seen.met[id(value)] = len(seen.met), value
    yield type(value).__qualname__
    yield from _content(value, seen, where)


def _content(value: Any, seen: Seen, where: str) -> Iterator[str]:
    if isinstance(value, Mapping | list | tuple | Set) and type(value) not in _CONTAINERS:
        yield from _parts(type(value), seen, f"the class of {where}")
    if hasattr(type(value), "__identity__"):
        yield value.__identity__()
    elif isinstance(value, Tensor):
        yield tensor_identity(value)
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype} {value.shape}"
        if value.dtype.hasobject:
            yield from _parts(value.tolist(), seen, where)
        else:
            yield hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
    elif isinstance(value, pd.DataFrame | pd.Series | pd.Index):
        yield from _frame(value, seen, where)
    elif isinstance(value, (*_NAMED, Enum, PurePath)):
        yield f"{type(value).__module__} {value!r}"
        if seen.files and isinstance(value, Path):
            yield from lying_at(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _parts(key, seen, f"a key of {where}")
            yield from _parts(item, seen, f"{where}[{key!r:.40}]")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _parts(item, seen, f"{where}[{i}]")
    elif isinstance(value, Set):
        yield from sorted(_digest(item, seen.inside(), f"an item of {where}") for item in value)
    elif isinstance(value, weakref.ReferenceType):  # as decorators keep what they wrap
        yield from _parts(value(), seen, where)
    elif isinstance(value, types.FunctionType):
        yield from _function(value, seen, where)
    elif isinstance(value, types.CodeType):
        yield from _code(value, seen, where)
    elif isinstance(value, types.MethodType):
        yield from _parts((value.__func__, value.__self__), seen, where)
    elif isinstance(value, functools.partial):
        yield from _parts((value.func, value.args, value.keywords), seen, where)
    elif isinstance(value, (types.BuiltinFunctionType, np.ufunc, *_METHODS)):
        yield from _builtin(value, seen, where)
    elif isinstance(value, type):
        yield from _class(value, seen)
    elif isinstance(value, types.ModuleType):
        yield installed(value.__name__) or _refuse(value, where)
    elif isinstance(value, nn.Module):
        yield from _module(value, seen, where)
    elif hasattr(value, "__wrapped__"):  # functools.cache
        yield from _parts(value.__wrapped__, seen, where)
    else:
        yield from _object(value, seen, where)


def lying_at(named: str | Path) -> Iterator[str]:
    """What lies at a path: a file, or a model's folder; others may be where things are written."""
    if isinstance(named, str) and (len(named) > 1_000 or "\n" in named or not named.strip()):
        return
    path = Path(named)
    with suppress(OSError, ValueError):  # no name of a file
        if path.is_file():
            yield _file(path)
        elif (path / "config.json").is_file():
            for file in sorted(islice((f for f in path.rglob("*") if f.is_file()), MANY)):
                yield f"{file.relative_to(path)} {_file(file)}"


def _file(path: Path) -> str:
    known = path.stat()
    if known.st_size > SMALL:
        return f"{known.st_size} {known.st_mtime_ns}"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _frame(value: pd.DataFrame | pd.Series | pd.Index, seen: Seen, where: str) -> Iterator[str]:
    if isinstance(value, pd.Index):
        value = value.to_frame(index=False)
    elif isinstance(value, pd.Series):
        value = value.to_frame()
    yield from _parts((list(value.columns), list(value.index.names)), seen, where)
    yield hashlib.sha256(pd.util.hash_pandas_object(value.index).to_numpy().tobytes()).hexdigest()
    for i in range(value.shape[1]):
        yield from _column(value.iloc[:, i], seen, where)


def _column(value: pd.Series, seen: Seen, where: str) -> Iterator[str]:
    """Numbers and texts at once; pandas would take other objects for their text."""
    yield str(value.dtype)
    if value.dtype != object or pd.api.types.infer_dtype(value, skipna=False) == "string":
        hashed = pd.util.hash_pandas_object(value, index=False).to_numpy()
        yield hashlib.sha256(hashed.tobytes()).hexdigest()
        return
    items = value.tolist()
    if all(type(item) is np.ndarray and not item.dtype.hasobject for item in items):
        digest = hashlib.sha256()
        for item in items:
            digest.update(f"{item.dtype} {item.shape}".encode())
            digest.update(np.ascontiguousarray(item).tobytes())
        yield digest.hexdigest()
    else:
        yield from _parts(items, seen, where)


def _function(value: types.FunctionType, seen: Seen, where: str) -> Iterator[str]:
    if known := _of_package(value):
        yield known
        return
    name = value.__qualname__
    yield from _parts(value.__code__, seen, f"the code of {name}")
    yield from _parts((value.__defaults__, value.__kwdefaults__), seen, f"a default of {name}")
    yield from _parts(vars(value), seen, f"an attribute of {name}")
    for free, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
        try:
            item = cell.cell_contents
        except ValueError:
            raise _unreadable(f"{name} closes over {free!r}, which has no value yet") from None
        yield from _read_by(value, item, seen, f"{free!r}, which {name} closes over,")
    yield from _globals(value, seen)


def _globals(function: types.FunctionType, seen: Seen) -> Iterator[str]:
    """The values of the globals that a function reads, also inside of inner functions."""
    known, builtin = function.__globals__, vars(sys.modules["builtins"])
    outside = ELSEWHERE if seen.files else ELSEWHERE | FILES
    if reads := sorted(_named(function.__code__) & outside):
        raise _unreadable(f"{function.__qualname__} names {reads[0]!r}, which reads from outside.")
    for name in sorted(_read(function.__code__)):
        where = f"the global {name!r}, which {function.__qualname__} reads,"
        if name in known:
            item = known[name]
        elif name in OPAQUE:
            raise _unreadable(
                f"{function.__qualname__} calls {name}(), and what it reads by that is not known"
            )
        elif name in builtin or installed(name):
            continue
        elif name in sys.modules:  # imported inside of the function
            item = sys.modules[name]
        else:
            raise _unreadable(f"{where} has no value")
        yield name
        yield from _read_by(function, item, seen, where)


def _read_by(function: types.FunctionType, item: object, seen: Seen, where: str) -> Iterator[str]:
    """What a function can read of something; of a module of the user's own what it names."""
    if isinstance(item, types.ModuleType) and not installed(item.__name__):
        yield from _of_module(item, function.__code__, seen, where)
    else:
        yield from _parts(item, seen, where)


def _read(code: types.CodeType) -> set[str]:
    """Names of the globals and modules that some code reads."""
    ops = ("LOAD_GLOBAL", "LOAD_NAME", "IMPORT_NAME")
    found = {str(i.argval) for i in dis.get_instructions(code) if i.opname in ops}
    return found.union(*(_read(c) for c in code.co_consts if isinstance(c, types.CodeType)))


def _of_module(
    module: types.ModuleType, code: types.CodeType, seen: Seen, where: str
) -> Iterator[str]:
    """Of a module of the user's own, the attributes that some code can name."""
    names = _named(code)
    if names & {"getattr", "__dict__"}:
        raise _unreadable(f"{where} is a module, and which attribute is read is not known")
    for name in sorted(names & vars(module).keys()):
        yield f"{module.__name__}.{name}"
        yield from _parts(vars(module)[name], seen, f"{module.__name__}.{name}")


def _named(code: types.CodeType) -> set[str]:
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return set(code.co_names).union(*map(_named, inner))


def _code(value: types.CodeType, seen: Seen, where: str) -> Iterator[str]:
    yield value.co_code.hex()
    yield repr((value.co_names, value.co_varnames, value.co_freevars, value.co_cellvars))
    yield repr((value.co_argcount, value.co_kwonlyargcount, value.co_flags))
    for constant in value.co_consts:
        yield from _parts(constant, seen, where)


def _builtin(value: Any, seen: Seen, where: str) -> Iterator[str]:
    """A function without Python code: of a package, or a method of an object."""
    owner = getattr(value, "__self__", None)
    if owner is not None and not isinstance(owner, types.ModuleType | type):
        yield value.__name__
        yield from _parts(owner, seen, where)
        return
    home = getattr(value, "__objclass__", owner if isinstance(owner, type) else None)
    module = getattr(value, "__module__", None) or getattr(home, "__module__", None)
    if module is None and isinstance(owner, types.ModuleType):
        module = owner.__name__
    module = "numpy" if isinstance(value, np.ufunc) else module
    known = installed(module) if module else None
    yield f"{known or _refuse(value, where)} {home} {getattr(value, '__qualname__', value)}"


def _class(value: type, seen: Seen) -> Iterator[str]:
    """Of a package its name and version; of the user's own what its methods do."""
    if known := _of_package(value):
        yield known
        return
    yield f"{value.__module__} {value.__qualname__}"
    for base in value.__bases__:
        yield from _parts(base, seen, f"a base of {value.__qualname__}")
    for name, item in sorted(vars(value).items()):
        if name in _MACHINERY or isinstance(item, _METHODS):
            continue
        if isinstance(item, staticmethod | classmethod):
            item = item.__func__
        elif isinstance(item, property):
            item = (item.fget, item.fset)
        elif isinstance(item, cached_property):
            item = item.func
        yield name
        yield from _parts(item, seen, f"{value.__qualname__}.{name}")


def _module(value: nn.Module, seen: Seen, where: str) -> Iterator[str]:
    """A torch module: its parameters and buffers, classes and plain attributes."""
    for name, held in [*value.named_parameters(), *value.named_buffers()]:
        yield f"{name} {tensor_identity(held)}"
    for name, module in value.named_modules():
        own = {k: v for k, v in vars(module).items() if not k.startswith("_")}
        hooks = [module._forward_hooks, module._forward_pre_hooks]
        yield name
        yield from _parts(type(module), seen, f"the class of {where}.{name}")
        yield from _parts(own, seen, f"an attribute of {where}.{name}")
        yield from _parts([[*h.values()] for h in hooks], seen, f"a hook of {where}.{name}")


def _object(value: object, seen: Seen, where: str) -> Iterator[str]:
    """Any other object: its class, and what it would be pickled as."""
    try:
        reduce = copyreg.dispatch_table.get(type(value))
        made: Any = value.__reduce_ex__(2) if reduce is None else reduce(value)
    except Exception as error:
        raise _unreadable(f"{where} is a {_kind(value)} ({error})") from error
    yield from _parts(type(value), seen, f"the class of {where}")
    if isinstance(made, str):
        yield installed(type(value).__module__) or _refuse(value, where)
        yield made
        return
    _, args, *rest = made
    items = [list(x) if i > 0 and x is not None else x for i, x in enumerate(rest[:3])]
    for item in (args, *(_without(item, _left_out(type(value))) for item in items)):
        yield from _parts(item, seen, where)


def _left_out(kind: type) -> frozenset[str]:
    """Names of what an object holds and is not what it is."""
    found = {n for c in kind.__mro__ for n, x in vars(c).items() if isinstance(x, cached_property)}
    if dataclasses.is_dataclass(kind):
        found |= {f.name for f in dataclasses.fields(kind) if not f.metadata.get("hash", True)}
    return frozenset(found)


def _without(state: Any, names: frozenset[str]) -> Any:
    """What an object would be pickled with, but for some attributes."""
    if isinstance(state, dict):
        return {name: x for name, x in state.items() if name not in names}
    if isinstance(state, tuple):  # of a class with slots
        return tuple(_without(part, names) for part in state)
    return state


def _of_package(value: Any) -> str | None:
    """Name and version of what an installed package defines."""
    module, name = getattr(value, "__module__", None), value.__qualname__
    known = installed(module) if isinstance(module, str) else None
    if known is None or (not isinstance(value, type) and "<" in name):
        return None  # an inner function closes over what its maker was given
    return f"{known} {module}.{name}"


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
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _kind(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _refuse(value: object, where: str) -> NoReturn:
    raise _unreadable(f"{where} is a {_kind(value)}, whose state cannot be read")


def _unreadable(what: str) -> Unreadable:
    return Unreadable(f"this cannot be told from another of its kind: {what}")
