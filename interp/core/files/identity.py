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
import os
import sys
import sysconfig
import types
import weakref
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
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
ELSEWHERE = frozenset(
    {
        *("environ", "getenv", "urlopen", "argv", "check_output", "Popen", "import_module"),
        *("currentframe", "_getframe", "f_globals", "__globals__", "urandom"),
    }
)
"""Names of what reads neither from the program nor from a file."""
DRAWS = frozenset(
    {
        *("getrandbits", "rand", "randn", "randint", "rand_like", "randn_like"),
        *("bernoulli", "multinomial"),
    }
)
"""Names of what draws numbers; from outside, unless a `generator=` is given."""
FILES = frozenset(
    {
        *("open", "read_text", "read_bytes", "load", "fromfile", "loadtxt", "genfromtxt"),
        *("read_csv", "read_json", "read_parquet", "read_table", "load_file", "read_pickle"),
        *("read_excel", "read_hdf", "read_feather", "read_orc", "read_fwf", "read_xml"),
        *("read_html", "from_pretrained", "safe_open", "memmap", "load_dataset"),
        *("glob", "rglob", "iterdir", "listdir", "scandir"),
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
_CACHED = type(functools.lru_cache(lambda: 0))
_OF_ENUMS = {"_value2member_map_", "_unhashable_values_", "_hashable_values_", "_inverted_"}
"""What an Enum notes while it is used."""
_OF_TORCH = {
    *(name for name in vars(nn.Module()) if name.startswith("_")),
    *("_is_hf_initialized", "_compiled_call_impl"),
}
"""What torch keeps in every module; what of it counts is read by itself."""
_OF_ARRAYS = {
    *vars(np.ma.array([0])),
    *("_mmap", "filename", "offset", "mode"),  # of np.memmap
}
_OF_FRAMES = {*vars(pd.DataFrame()), *vars(pd.Series([0])), "_item_cache", "_cacher"}

SMALL = 1 << 24
"""Bytes of a file that is read; a larger one is its size and its date."""
MANY = 10_000
"""Files of a folder that are looked at."""
_RUN = "provenance.json"
"""What marks the folder of a run, where stages are written."""
_PARTS = ".checkpoint"
"""The folder in it where stages keep finished parts."""


@dataclass(frozen=True)
class Seen:
    """What was met so far, by address; held, so that no address is used again.

    Attributes:
        files: names of files stand for what lies there; else what reads one is refused.
        known: what counts as met before.
        lies: what lies there, of each text or path that could be such a name.
        readers: names met that read from files.
    """

    files: bool
    known: tuple[object, ...] = ()
    met: dict[int, tuple[int, object]] = field(default_factory=dict)
    lies: dict[str | Path, tuple[str, ...]] = field(default_factory=dict)
    readers: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for value in self.known:
            self.met.setdefault(id(value), (len(self.met), value))

    def inside(self) -> "Seen":
        """For a part that is told by itself."""
        return Seen(self.files, self.known, lies=self.lies, readers=self.readers)

    def folders(self) -> list[str | Path]:
        """What was named, and may be a folder: told by nothing else."""
        return sorted((name for name, lies in self.lies.items() if not lies), key=str)


class Unreadable(InterpError, TypeError):
    """A value that cannot be told from another by what can be read of it."""


def identity(value: object, *, files: bool = False, known: Sequence[object] = ()) -> str:
    """The text of a value, 32 hex digits.

    Args:
        files: a path, or a text that names a file or a model's folder, is what lies there, and
            functions may read from files. Else such a function is refused. Where a function reads
            from files, any folder that is named is the names, sizes and dates of its files.
        known: objects that the caller tells by itself, such as the model that a hook holds. Where
            one is met, only its place in this list counts.

    Raises:
        Unreadable: naming the part that cannot be read.
    """
    seen = Seen(files, tuple(known))
    try:
        found = _digest(value, seen, "it")
    except RecursionError:
        raise _unreadable(f"a {_kind(value)} that is nested too deeply to be read.") from None
    if not (files and seen.readers):
        return found
    # only now is it known that a function reads: else a folder may be where things are written
    digest = hashlib.sha256(found.encode())
    for name in seen.folders():
        for part in lying_in(name):
            digest.update(f"{name}\0{part}\0".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]


def _digest(value: object, seen: Seen, where: str) -> str:
    digest = hashlib.sha256()
    for part in _parts(value, seen, where):
        digest.update(part.encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    return digest.hexdigest()[:32]


def tensor_identity(value: Tensor) -> str:
    """Dtype, shape and bytes of a tensor.

    Raises:
        Unreadable: its numbers cannot be read.
    """
    if value.is_meta or value.is_nested:
        lacks = "on the meta device, without numbers" if value.is_meta else "a nested one"
        raise _unreadable(f"a tensor that is {lacks}, is not read.")
    plain, kind = value.detach(), ""
    try:
        if value.layout != torch.strided:
            plain, kind = plain.to_dense(), f" {value.layout}"
        if value.is_quantized:  # its own bytes do not tell their scale
            plain, kind = plain.dequantize(), f" {_bytes(plain)}"
        read = _bytes(plain)
    except (RuntimeError, TypeError, ValueError) as error:  # NotImplementedError is a RuntimeError
        raise _unreadable(f"a tensor whose numbers cannot be read ({error}).") from error
    return f"{value.dtype} {tuple(value.shape)}{kind} {read}"


def _bytes(value: Tensor) -> str:
    """A hash of the numbers, also of those that are conjugated or negated when they are read."""
    plain = value.resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    raw = plain.view(torch.uint8).numpy() if plain.numel() else b""
    return hashlib.sha256(raw).hexdigest()


def _parts(value: object, seen: Seen, where: str) -> Iterator[str]:
    """The text of a value, in parts."""
    if type(value) in _SIMPLE:
        yield f"{type(value).__name__} {value!r}"
        if seen.files and isinstance(value, str):
            yield from _lies(value, seen)
        return
    if id(value) in seen.met:  # ends cycles, and tells one list twice from two that are equal
        yield f"again {seen.met[id(value)][0]}"
        return
    seen.met[id(value)] = len(seen.met), value
    yield type(value).__qualname__
    yield from _content(value, seen, where)


def _content(value: Any, seen: Seen, where: str) -> Iterator[str]:
    if hasattr(type(value), "__identity__"):
        yield value.__identity__()
    elif isinstance(value, Tensor):
        yield tensor_identity(value)
        yield from _beside(value, seen, where)
    elif isinstance(value, np.ndarray):
        yield from _array(value, seen, where)
        yield from _beside(value, seen, where)
    elif isinstance(value, pd.DataFrame | pd.Series | pd.Index):
        yield from _frame(value, seen, where)
    elif isinstance(value, Enum):
        yield from _member(value, seen, where)
    elif isinstance(value, (*_NAMED, PurePath)):
        yield f"{type(value).__module__} {value!r}"
        if seen.files and isinstance(value, Path):
            yield from _lies(value, seen)
    elif isinstance(value, Mapping | list | tuple | Set):
        yield from _items(value, seen, where)
        if type(value) not in _CONTAINERS:
            yield from _beside(value, seen, where)
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
    elif isinstance(value, _CACHED):
        yield from _parts(value.__wrapped__, seen, where)
    else:
        yield from _object(value, seen, where)


def _items(
    value: Mapping[Any, Any] | Sequence[Any] | Set[Any], seen: Seen, where: str
) -> Iterator[str]:
    """What a container holds, in its order."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _parts(key, seen, f"a key of {where}")
            yield from _parts(item, seen, f"{where}[{key!r:.40}]")
    elif isinstance(value, Set):
        yield from sorted(_digest(item, seen.inside(), f"an item of {where}") for item in value)
    else:
        for i, item in enumerate(value):
            yield from _parts(item, seen, f"{where}[{i}]")


def _beside(value: Any, seen: Seen, where: str) -> Iterator[str]:
    """What an array or a container is and holds beside its items: its class, its attributes."""
    if type(value) not in (Tensor, nn.Parameter, np.ndarray):
        yield from _parts(type(value), seen, f"the class of {where}")
    if isinstance(value, defaultdict):
        yield from _parts(value.default_factory, seen, f"the default of {where}")
    left_out = _left_out(type(value))
    if isinstance(value, Tensor):
        left_out |= _OF_TORCH
    elif isinstance(value, np.ma.MaskedArray | np.memmap):
        left_out |= _OF_ARRAYS
    elif isinstance(value, pd.DataFrame | pd.Series):
        left_out |= _OF_FRAMES
    held = _without(object.__getstate__(value), left_out)
    if held:
        yield from _parts(held, seen, f"an attribute of {where}")


def _array(value: np.ndarray, seen: Seen, where: str) -> Iterator[str]:
    plain = np.asarray(value)
    yield f"{plain.dtype} {plain.shape}"
    if plain.dtype.hasobject:
        yield from _parts(plain.tolist(), seen, where)
    else:
        yield hashlib.sha256(np.ascontiguousarray(plain).tobytes()).hexdigest()
    if isinstance(value, np.ma.MaskedArray):
        mask = np.ma.getmaskarray(value)
        yield from _parts((mask, value.fill_value, value.hardmask), seen, f"the mask of {where}")


def _member(value: Enum, seen: Seen, where: str) -> Iterator[str]:
    """Of a package its name; of the user's own also its attributes, and what its methods do."""
    yield f"{type(value).__module__} {value!r}"
    if not _of_package(type(value)):
        yield from _parts(type(value), seen, f"the class of {where}")
        held = {name: x for name, x in vars(value).items() if name not in _OF_ENUMS}
        yield from _parts(held, seen, f"an attribute of {where}")


def _lies(named: str | Path, seen: Seen) -> tuple[str, ...]:
    if named not in seen.lies:
        seen.lies[named] = tuple(lying_at(named))
    return seen.lies[named]


def lying_at(named: str | Path) -> Iterator[str]:
    """What lies at a path: a file, or a model's folder; others may be where things are written."""
    path = _path(named)
    if path is None:
        return
    with suppress(OSError, ValueError):  # no name of a file
        if path.is_file():
            yield _file(path)
        elif (path / "config.json").is_file() and not (path / _RUN).is_file():
            for file in sorted(islice((f for f in path.rglob("*") if f.is_file()), MANY)):
                yield f"{file.relative_to(path)} {_file(file)}"


def lying_in(named: str | Path) -> Iterator[str]:
    """What lies in a folder: the name, size and date of each file that is not hidden.

    Of the folder of a run only its results, as its stages are written there; none in a folder
    above it, and nothing of where a stage keeps its finished parts. A text of dots and slashes
    alone separates words, and names no folder.

    Raises:
        Unreadable: it holds too much.
    """
    path = _path(named)
    if path is None or (isinstance(named, str) and not named.strip("./\\ ")):
        return
    found: list[str] = []
    with suppress(OSError, ValueError):  # no name of a folder
        if any((above.parent / _RUN).is_file() for above in path.parents if above.name == _PARTS):
            return
        if (path / _RUN).is_file():
            found = [_dated(path, f) for f in [path / "results.parquet"] if f.exists()]
        elif path.is_dir():
            found = [_dated(path, file) for file in islice(_within(path), MANY + 1)]
    if len(found) > MANY:
        raise _unreadable(
            f"{path} holds more than {MANY:,} files. Name the folder farther down that is read."
        )
    yield from sorted(found)


def _path(named: str | Path) -> Path | None:
    """Of a text that could be a name of a file."""
    if isinstance(named, str) and (len(named) > 1_000 or "\n" in named or not named.strip()):
        return None
    return Path(named)


def _within(folder: Path) -> Iterator[Path]:
    """The files in a folder, and in the folders in it."""
    met: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)  # links may lead in a circle
        if _RUN in files or real in met:
            folders.clear()
            continue
        met.add(real)
        folders[:] = [name for name in folders if not name.startswith((".", "__pycache__"))]
        yield from (Path(here, name) for name in files if not name.startswith("."))


def _dated(folder: Path, file: Path) -> str:
    known = file.stat() if file.exists() else file.lstat()  # of a link that leads nowhere
    return f"{file.relative_to(folder)} {known.st_size} {known.st_mtime_ns}"


def _file(path: Path) -> str:
    known = path.stat()
    if known.st_size > SMALL:
        return f"{known.st_size} {known.st_mtime_ns}"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _frame(value: pd.DataFrame | pd.Series | pd.Index, seen: Seen, where: str) -> Iterator[str]:
    if isinstance(value, pd.Index):
        yield from _levels(value, seen, where)
        return
    yield from _beside(value, seen, where)
    if value.attrs:
        yield from _parts(value.attrs, seen, f"an attribute of {where}")
    frame = value.to_frame() if isinstance(value, pd.Series) else value
    yield from _parts((list(frame.columns), list(frame.columns.names)), seen, where)
    yield from _levels(frame.index, seen, where)
    for i in range(frame.shape[1]):
        yield from _column(frame.iloc[:, i], seen, where)


def _levels(value: pd.Index, seen: Seen, where: str) -> Iterator[str]:
    yield from _parts(list(value.names), seen, where)
    for i in range(value.nlevels):
        yield from _column(pd.Series(value.get_level_values(i)), seen, where)


def _column(value: pd.Series, seen: Seen, where: str) -> Iterator[str]:
    """Numbers and texts at once; pandas would take other objects for their text."""
    yield str(value.dtype)
    if isinstance(value.dtype, pd.CategoricalDtype):
        yield from _parts((value.cat.categories, value.cat.ordered), seen, where)
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
        _check({value.__name__}, seen, "this")
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
    names = _named(function.__code__)
    _check(names, seen, function.__qualname__)
    if draws := sorted(_drawn(function.__code__)):
        raise _unreadable(
            f"{function.__qualname__} names {draws[0]!r}, which reads from outside if it is given "
            "no generator=."
        )
    if names >= {"sys", "modules"}:
        raise _unreadable(f"{function.__qualname__} reads sys.modules, and which is not known.")
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


def _check(names: set[str], seen: Seen, who: str) -> None:
    """Refuse what reads from outside; note what reads from files, where that is allowed."""
    if reads := sorted(names & (ELSEWHERE if seen.files else ELSEWHERE | FILES)):
        raise _unreadable(f"{who} names {reads[0]!r}, which reads from outside.")
    seen.readers.update(names & FILES)


def _drawn(code: types.CodeType) -> set[str]:
    """Names of what some code draws from, if it gives fewer generators than it draws."""
    found = list(dis.get_instructions(code))
    draws = [i.argval for i in found if i.argval in DRAWS and not i.opname.endswith("_FAST")]
    named = [code.co_consts[i.arg or 0] for i in found if i.opname in ("KW_NAMES", "LOAD_CONST")]
    given = [names for names in named if isinstance(names, tuple) and "generator" in names]
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return set(draws if len(draws) > len(given) else ()).union(*map(_drawn, inner))


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
    yield f"{value.co_code.hex()} {value.co_exceptiontable.hex()}"
    yield repr((value.co_names, value.co_varnames, value.co_freevars, value.co_cellvars))
    yield repr((value.co_argcount, value.co_kwonlyargcount, value.co_flags))
    for constant in value.co_consts:
        yield from _parts(constant, seen, where)


def _builtin(value: Any, seen: Seen, where: str) -> Iterator[str]:
    """A function without Python code: of a package, or a method of an object."""
    owner = getattr(value, "__self__", None)
    _check({getattr(value, "__name__", "")}, seen, "this")
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
    yield from _parts(type(value), seen, f"the class of {value.__qualname__}")
    for base in value.__bases__:
        yield from _parts(base, seen, f"a base of {value.__qualname__}")
    for name, item in sorted(vars(value).items()):
        if name in _MACHINERY or isinstance(item, _METHODS):
            continue
        if issubclass(value, Enum) and name in _OF_ENUMS:
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
    tensors = [
        *value.named_parameters(remove_duplicate=False),  # which are tied to which counts, too
        *value.named_buffers(remove_duplicate=False),
    ]
    for name, held in tensors:
        yield f"{name} {tensor_identity(held)}"
    for name, module in value.named_modules(remove_duplicate=False):
        own = {k: v for k, v in vars(module).items() if k not in _OF_TORCH}
        hooks = [module._forward_hooks, module._forward_pre_hooks]
        hooks += [module._backward_hooks, module._backward_pre_hooks]  # they change gradients
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
        yield f"{getattr(value, '__module__', None)} {made}"
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
    root, digest = Path(__file__).parents[2], hashlib.sha256()
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
