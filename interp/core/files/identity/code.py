"""Functions, classes and code: what they do, and all that they can read."""

import dis
import sys
import types
from collections.abc import Iterator
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np

from interp.core.files.identity.packages import installed, of_package
from interp.core.files.identity.seen import Seen
from interp.core.files.identity.unreadable import refuse, unreadable

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
METHODS = (
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
OF_ENUMS = {"_value2member_map_", "_unhashable_values_", "_hashable_values_", "_inverted_"}
"""What an Enum notes while it is used."""


def of_function(value: types.FunctionType, seen: Seen, where: str) -> Iterator[str]:
    if known := of_package(value):
        _check({value.__name__}, seen, "this")
        yield known
        return
    name = value.__qualname__
    yield from seen.read(value.__code__, seen, f"the code of {name}")
    yield from seen.read((value.__defaults__, value.__kwdefaults__), seen, f"a default of {name}")
    yield from seen.read(vars(value), seen, f"an attribute of {name}")
    for free, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
        try:
            item = cell.cell_contents
        except ValueError:
            raise unreadable(f"{name} closes over {free!r}, which has no value yet") from None
        yield from _read_by(value, item, seen, f"{free!r}, which {name} closes over,")
    yield from _globals(value, seen)


def _globals(function: types.FunctionType, seen: Seen) -> Iterator[str]:
    """The values of the globals that a function reads, also inside of inner functions."""
    known, builtin = function.__globals__, vars(sys.modules["builtins"])
    names = _named(function.__code__)
    _check(names, seen, function.__qualname__)
    if draws := sorted(_drawn(function.__code__)):
        raise unreadable(
            f"{function.__qualname__} names {draws[0]!r}, which reads from outside if it is given "
            "no generator=."
        )
    if names >= {"sys", "modules"}:
        raise unreadable(f"{function.__qualname__} reads sys.modules, and which is not known.")
    for name in sorted(_read(function.__code__)):
        where = f"the global {name!r}, which {function.__qualname__} reads,"
        if name in known:
            item = known[name]
        elif name in OPAQUE:
            raise unreadable(
                f"{function.__qualname__} calls {name}(), and what it reads by that is not known"
            )
        elif name in builtin or installed(name):
            continue
        elif name in sys.modules:  # imported inside of the function
            item = sys.modules[name]
        else:
            raise unreadable(f"{where} has no value")
        yield name
        yield from _read_by(function, item, seen, where)


def _check(names: set[str], seen: Seen, who: str) -> None:
    """Refuse what reads from outside; note what reads from files, where that is allowed."""
    if reads := sorted(names & (ELSEWHERE if seen.files else ELSEWHERE | FILES)):
        raise unreadable(f"{who} names {reads[0]!r}, which reads from outside.")
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
        yield from seen.read(item, seen, where)


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
        raise unreadable(f"{where} is a module, and which attribute is read is not known")
    for name in sorted(names & vars(module).keys()):
        yield f"{module.__name__}.{name}"
        yield from seen.read(vars(module)[name], seen, f"{module.__name__}.{name}")


def _named(code: types.CodeType) -> set[str]:
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return set(code.co_names).union(*map(_named, inner))


def of_code(value: types.CodeType, seen: Seen, where: str) -> Iterator[str]:
    yield f"{value.co_code.hex()} {value.co_exceptiontable.hex()}"
    yield repr((value.co_names, value.co_varnames, value.co_freevars, value.co_cellvars))
    yield repr((value.co_argcount, value.co_kwonlyargcount, value.co_flags))
    for constant in value.co_consts:
        yield from seen.read(constant, seen, where)


def of_builtin(value: Any, seen: Seen, where: str) -> Iterator[str]:
    """A function without Python code: of a package, or a method of an object."""
    owner = getattr(value, "__self__", None)
    _check({getattr(value, "__name__", "")}, seen, "this")
    if owner is not None and not isinstance(owner, types.ModuleType | type):
        yield value.__name__
        yield from seen.read(owner, seen, where)
        return
    home = getattr(value, "__objclass__", owner if isinstance(owner, type) else None)
    module = getattr(value, "__module__", None) or getattr(home, "__module__", None)
    if module is None and isinstance(owner, types.ModuleType):
        module = owner.__name__
    module = "numpy" if isinstance(value, np.ufunc) else module
    known = installed(module) if module else None
    yield f"{known or refuse(value, where)} {home} {getattr(value, '__qualname__', value)}"


def of_class(value: type, seen: Seen) -> Iterator[str]:
    """Of a package its name and version; of the user's own what its methods do."""
    if known := of_package(value):
        yield known
        return
    yield f"{value.__module__} {value.__qualname__}"
    yield from seen.read(type(value), seen, f"the class of {value.__qualname__}")
    for base in value.__bases__:
        yield from seen.read(base, seen, f"a base of {value.__qualname__}")
    for name, item in sorted(vars(value).items()):
        if name in _MACHINERY or isinstance(item, METHODS):
            continue
        if issubclass(value, Enum) and name in OF_ENUMS:
            continue
        if isinstance(item, staticmethod | classmethod):
            item = item.__func__
        elif isinstance(item, property):
            item = (item.fget, item.fset)
        elif isinstance(item, cached_property):
            item = item.func
        yield name
        yield from seen.read(item, seen, f"{value.__qualname__}.{name}")
