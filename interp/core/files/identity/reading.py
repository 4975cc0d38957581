"""The text of any value, in parts."""

import copyreg
import dataclasses
import functools
import hashlib
import types
import weakref
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from enum import Enum
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from interp.core.files.identity.arrays import of_array, of_frame, tensor_identity
from interp.core.files.identity.code import (
    METHODS,
    OF_ENUMS,
    of_builtin,
    of_class,
    of_code,
    of_function,
)
from interp.core.files.identity.lying import lying_in
from interp.core.files.identity.packages import installed, of_package
from interp.core.files.identity.seen import Seen, lies
from interp.core.files.identity.unreadable import kind, refuse, unreadable

_SIMPLE = (type(None), bool, int, float, complex, str, bytes, type(...), range, slice)
_CONTAINERS = (dict, list, tuple, set, frozenset)
_NAMED = (torch.dtype, torch.device, torch.layout, torch.memory_format, np.dtype, np.generic)
_CACHED = type(functools.lru_cache(lambda: 0))
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
    seen = Seen(files, _parts, tuple(known))
    try:
        found = _digest(value, seen, "it")
    except RecursionError:
        raise unreadable(f"a {kind(value)} that is nested too deeply to be read.") from None
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


def _parts(value: object, seen: Seen, where: str) -> Iterator[str]:
    """The text of a value, in parts."""
    if type(value) in _SIMPLE:
        yield f"{type(value).__name__} {value!r}"
        if seen.files and isinstance(value, str):
            yield from lies(value, seen)
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
        yield from of_array(value, seen, where)
        yield from _beside(value, seen, where)
    elif isinstance(value, pd.DataFrame | pd.Series | pd.Index):
        yield from of_frame(value, seen, where)
        if not isinstance(value, pd.Index):
            yield from _beside(value, seen, where)
    elif isinstance(value, Enum):
        yield from _member(value, seen, where)
    elif isinstance(value, (*_NAMED, PurePath)):
        yield f"{type(value).__module__} {value!r}"
        if seen.files and isinstance(value, Path):
            yield from lies(value, seen)
    elif isinstance(value, Mapping | list | tuple | Set):
        yield from _items(value, seen, where)
        if type(value) not in _CONTAINERS:
            yield from _beside(value, seen, where)
    elif isinstance(value, weakref.ReferenceType):  # as decorators keep what they wrap
        yield from _parts(value(), seen, where)
    elif isinstance(value, types.FunctionType):
        yield from of_function(value, seen, where)
    elif isinstance(value, types.CodeType):
        yield from of_code(value, seen, where)
    elif isinstance(value, types.MethodType):
        yield from _parts((value.__func__, value.__self__), seen, where)
    elif isinstance(value, functools.partial):
        yield from _parts((value.func, value.args, value.keywords), seen, where)
    elif isinstance(value, (types.BuiltinFunctionType, np.ufunc, *METHODS)):
        yield from of_builtin(value, seen, where)
    elif isinstance(value, type):
        yield from of_class(value, seen)
    elif isinstance(value, types.ModuleType):
        yield installed(value.__name__) or refuse(value, where)
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


def _member(value: Enum, seen: Seen, where: str) -> Iterator[str]:
    """Of a package its name; of the user's own also its attributes, and what its methods do."""
    yield f"{type(value).__module__} {value!r}"
    if not of_package(type(value)):
        yield from _parts(type(value), seen, f"the class of {where}")
        held = {name: x for name, x in vars(value).items() if name not in OF_ENUMS}
        yield from _parts(held, seen, f"an attribute of {where}")


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
        raise unreadable(f"{where} is a {kind(value)} ({error})") from error
    yield from _parts(type(value), seen, f"the class of {where}")
    if isinstance(made, str):
        yield installed(type(value).__module__) or refuse(value, where)
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
