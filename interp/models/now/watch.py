"""What is there of a model now, seen in less than a millisecond.

A *stamp* has the identity, address and version of each parameter and buffer, the modules, their
hooks and plain settings, and the configurations. Two equal stamps are the same model: whatever was
found out about it holds. What stands on it that it did not come with is *foreign*: hooks, adapters,
replaced parts.

An in-place change through `.data` (`p.data.mul_`) raises no counter. `Watch.sample` reads one
number of each tensor in main memory and so sees such a change of a tensor as a whole; one of single
numbers, or on an accelerator, is seen only where all weights are read: `Model.identity(anew=True)`,
with which everything that is kept on disk is compared.
"""

import ctypes
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter, itemgetter
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent

from interp.core.door.alone import undone
from interp.models.bridge import quantised, rotary

HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_GLOBAL = [getattr(torch_module, f"_global{name}") for name in HOOKS]
_LOOKING = (
    GeneralizedComponent.__module__.rpartition(".")[0],
    *("transformers.utils.output_capturing", "torch.utils.module_tracker"),
)
"""What puts hooks of its own on modules, and only to look."""
_version, _bytes, _value = map(attrgetter, ("_version", "nbytes", "value"))
_pointer = torch.Tensor.data_ptr
_WORDS = (ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint16, ctypes.c_uint8)
_PLAIN = frozenset((bool, int, float, str, type(None)))
Stamp = tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Foreign:
    """Something that was put on a model after it was loaded.

    Attributes:
        what: hooks on a module, a module that was not there, a `forward` of its own, or hooks on
            every module that there is.
        name: of the module, as the wrapped model has it.
        module: that it stands on, or that it is.
        held: the functions, or the module.
    """

    what: Literal["hook", "module", "forward", "global"]
    name: str
    module: nn.Module
    held: tuple[Any, ...]

    @property
    def point(self) -> bool:
        """Does it stand on a hook point of TransformerLens, which the bare model has not?"""
        return isinstance(self.module, HookPoint)

    def __str__(self) -> str:
        name = self.name.replace("._original_component", "") or "the model"
        match self.what:
            case "hook":
                return f"{len(self.held)} forward hook(s) on {name}"
            case "module":
                return f"a {_called(type(self.module))} at {name}"
            case "forward":
                return f"a forward of its own at {name}"
        return f"{len(self.held)} forward hook(s) on all torch modules"


class Watch:
    """Looks at a wrapped model; what it has when this is made is its own."""

    def __init__(self, wrapped: nn.Module, bridge: nn.Module) -> None:
        self.wrapped, self.bridge = wrapped, bridge
        self._index()
        self.own = frozenset(self.modules)
        self.hooks = {m: {h: frozenset(getattr(m, h)) for h in HOOKS} for m in self.modules}
        self.forwards = {m: d["forward"] for m in self.modules if "forward" in (d := vars(m))}
        self.children = {m: [n for n, c in m._modules.items() if c] for m in self.named.values()}
        self.started = self._values()

    def __getstate__(self) -> dict[str, Any]:
        """What a copy of the model needs; where to look is found again in the copy."""
        kept = ("wrapped", "bridge", "own", "hooks", "forwards", "children", "started")
        return {name: vars(self)[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._index()

    def _index(self) -> None:
        """Everything that a stamp looks at, in flat lists."""
        self.named = dict(self.wrapped.named_modules())
        inside = set(self.named.values())
        self.modules = [*inside, *(m for m in self.bridge.modules() if m not in inside)]
        self.names = {module: name for name, module in reversed(self.named.items())}
        self._children = [m._modules for m in self.modules if not isinstance(m, HookPoint)]
        self._shape = list(chain.from_iterable(map(dict.values, self._children)))
        self._hooked = [*_GLOBAL, *(getattr(m, name) for m in self.modules for name in HOOKS)]
        self._dicts = [vars(m) for m in self.modules]
        self._parts = [vars(m) for m in self.modules if isinstance(m, GeneralizedComponent)]
        # what a run itself writes is no change
        self.remembering = rotary.remembering(self.wrapped)
        self._passing = [(m._buffers, rotary.passing(m)) for m in self.remembering]
        written = {id(buffers) for buffers, _ in self._passing}
        held = (d for m in self.named.values() for d in (m._parameters, m._buffers))
        self._held = [d for d in held if id(d) not in written]
        self.packed = [m for m in self.named.values() if quantised.apart(m)]
        plain = [(m, _plain(m)) for m in self.named.values()]
        self._settings = [(m, names, itemgetter(*names)) for m, names in plain if names]
        self._where: tuple[Any, ...] = ()
        self._middles: list[Any] = []

    def stamp(self) -> Stamp:
        """What is there now."""
        if list(chain.from_iterable(map(dict.values, self._children))) != self._shape:
            self._index()
        tensors = self._tensors()
        try:
            settings = tuple(get(vars(module)) for module, _, get in self._settings)
        except KeyError:  # one was deleted
            self._index()
            return self.stamp()
        config = getattr(self.wrapped, "config", None)
        return (
            tuple(map(id, self._shape)),
            tuple(map(id, tensors)),
            tuple(map(_pointer, tensors)),
            versions(tensors),
            tuple(tuple(d) for d in self._hooked if d),
            # of the modules, and of their classes: both are where libraries put other ones
            tuple(d["forward"] for d in self._dicts if "forward" in d),
            tuple((kind, kind.forward) for kind in dict.fromkeys(map(type, self.modules))),
            settings,
            _printed(config),
            self._bridged(),
            tuple(map(quantised.settings, self.packed)),
        )

    def _bridged(self) -> Stamp:
        """The configurations that the bridge and its parts compute by; many share one."""
        held = [getattr(self.bridge, "cfg", None), *(part.get("config") for part in self._parts)]
        different = {id(config): config for config in held}
        return (*map(id, held), *map(_printed, different.values()))

    def _tensors(self) -> list[Tensor]:
        found = [t for d in self._held if d for t in d.values() if t is not None]
        for buffers, written in self._passing:
            found += [t for n, t in buffers.items() if n not in written and t is not None]
        if self.packed:
            found = [part for t in found for _, part in quantised.inside("", t)]
            found += [t for m in self.packed for t in quantised.beside(m).values()]
        return found

    def beside(self) -> dict[str, Tensor]:
        """The scales of quantised weights that are in no parameter, by Hugging Face's names."""
        return {
            f"{self.names[module].replace('._original_component', '')}.{name}": held
            for module in self.packed
            for name, held in quantised.beside(module).items()
        }

    def sample(self) -> tuple[int, ...]:
        """One number of each tensor in main memory, read where it lies."""
        tensors = self._tensors()
        where = tuple(map(_pointer, tensors)), tuple(map(_bytes, tensors))
        if where != self._where:
            self._where, self._middles = where, [m for t in tensors if (m := middle(t))]
        return tuple(map(_value, self._middles))

    def plain(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The plain settings of each module that is Hugging Face's own, by its name."""
        for module, names, _ in self._settings:
            if not isinstance(module, GeneralizedComponent):
                held = vars(module)
                yield self.names[module], {k: held[k] for k in names if k in held}

    def changed(self) -> tuple[str, ...]:
        """The plain settings that are not as they were, each with both values."""
        before, other = self.started, self._other()
        return tuple(f"{n}: {_shown(before[n])}, now {_shown(other[n])}" for n in other)

    def functions(self) -> dict[str, Any]:
        """The functions that were put in the place of a plain setting, by the setting's name."""
        return {name: held for name, held in self._other().items() if callable(held)}

    def gone(self) -> tuple[str, ...]:
        """Names of the modules that were taken away, and nothing was put in their place."""
        found = (
            f"{self.names[module]}.{name}"
            for module, names in self.children.items()
            if module in self.names
            for name in names
            if module._modules.get(name) is None
        )
        return tuple(
            dict.fromkeys(n.replace("_original_component.", "").lstrip(".") for n in found)
        )

    def _other(self) -> dict[str, Any]:
        """The plain settings that are not as they were, as they are now."""
        before, now = self.started, self._values()
        return {n: now[n] for n in sorted(before.keys() & now.keys()) if before[n] != now[n]}

    def _values(self) -> dict[str, Any]:
        """Plain settings by name: a function is itself, any other the text that it prints as."""
        config = getattr(self.wrapped, "config", None)
        found = {} if config is None else {f"config.{k}": repr(v) for k, v in vars(config).items()}
        for module, names, _ in self._settings:
            if isinstance(module, GeneralizedComponent):
                continue  # no part of Hugging Face's model
            name, held = self.names[module], vars(module)
            kept = {k: held[k] for k in names if k in held and k != "training"}
            found |= {f"{name}.{k}": v if callable(v) else repr(v) for k, v in kept.items()}
        return found

    def foreign(self) -> tuple[Foreign, ...]:
        """What stands on the model that it did not come with."""
        return tuple(self._foreign())

    def _foreign(self) -> Iterator[Foreign]:
        new = [name for name, module in self.named.items() if module not in self.own]
        for name in new:
            if not any(name.startswith(f"{above}.") for above in new):
                yield Foreign("module", name, self.named[name], (self.named[name],))
        for module in self.modules:
            if module not in self.own:
                continue
            name = self.names.get(module, "the bridge")
            for kind in HOOKS:
                if added := self.added(module, kind):
                    yield Foreign("hook", name, module, tuple(added.values()))
            if vars(module).get("forward") is not self.forwards.get(module):
                yield Foreign("forward", name, module, (vars(module).get("forward"),))
        if everywhere := tuple(hook for d in _GLOBAL for hook in d.values() if not looks(hook)):
            yield Foreign("global", "", self.wrapped, everywhere)

    def added(self, module: nn.Module, kind: str) -> dict[int, Any]:
        """The hooks of one kind that are foreign, by their keys."""
        known = self.hooks.get(module, {}).get(kind, frozenset())
        return {
            key: hook
            for key, hook in getattr(module, kind).items()
            if key not in known and not looks(hook)
        }

    def covered(self, foreign: Sequence[Foreign]) -> dict[nn.Module, Foreign]:
        """Hook points that are not where their part takes or gives its value any
        more: what is foreign stands between.
        """
        found: dict[nn.Module, Foreign] = {}
        for one in foreign:
            for part in (m for m in self.modules if isinstance(m, GeneralizedComponent)):
                before, after = self._around(one, part)
                found |= {part.hook_in: one} if before else {}
                found |= {part.hook_out: one} if after else {}
        return found

    def _around(self, one: Foreign, part: GeneralizedComponent) -> tuple[bool, bool]:
        """Does it change, behind a hook point, what a part takes; what it gives?"""
        if one.what == "module":
            inside = part is not one.module and any(part is m for m in one.module.modules())
            return inside, inside
        if one.module is part:
            return False, one.what == "forward" or bool(self.added(part, "_forward_hooks"))
        inner = one.module is part._modules.get("_original_component")
        return inner and bool(self.added(one.module, "_forward_pre_hooks")), False

    @contextmanager
    def lifted(self, foreign: Sequence[Foreign]) -> Iterator[None]:
        """Without the foreign hooks on hook points, inside the block."""
        places = [(f.module, kind) for f in foreign if f.point for kind in HOOKS]
        before = [(getattr(module, kind), dict(getattr(module, kind))) for module, kind in places]

        def put_back() -> None:
            for hooks, all_of_them in before:
                hooks.clear()
                hooks.update(all_of_them)

        with undone(put_back):
            for module, kind in places:
                for key in self.added(module, kind):
                    del getattr(module, kind)[key]
            yield


def middle(tensor: Tensor) -> Any:
    """Some bytes in the middle of a tensor in main memory, as a number that is read when asked for.

    None where there are none to read; its memory must live as long.
    """
    start = int(tensor.data_ptr())
    if not tensor.numel() or not tensor.is_cpu or not start:
        return None
    # an expanded one is less than it seems
    offset = int(tensor.storage_offset()) * tensor.element_size()
    there = int(tensor.untyped_storage().nbytes()) - offset
    size = min(tensor.numel() * tensor.element_size(), there)
    at = size // 2
    kind = next(kind for kind in _WORDS if ctypes.sizeof(kind) <= size - at)
    return kind.from_address(start + at)


def versions(tensors: Sequence[Tensor]) -> tuple[int | None, ...]:
    """How often each was changed in place; of one made in inference mode, which does not count, a
    number of it.
    """
    try:
        return tuple(map(_version, tensors))
    except RuntimeError:
        return tuple(glimpse(t) if t.is_inference() else _version(t) for t in tensors)


def glimpse(tensor: Tensor) -> int | None:
    """Some bytes of a tensor in main memory, as a number."""
    found = middle(tensor)
    return None if found is None else found.value


def looks(hook: object) -> bool:
    """Is it a hook that only looks, of what puts such on modules by itself?"""
    return str(getattr(hook, "__module__", "")).startswith(_LOOKING)


def _called(kind: type) -> str:
    """A class by its name; with its package if torch has one of that name."""
    package = kind.__module__.partition(".")[0]
    return f"{package}.{kind.__name__}" if hasattr(nn, kind.__name__) else kind.__name__


def _shown(value: Any) -> str:
    """A setting in words: a function by its name, since its address is another in each process."""
    if isinstance(value, str):
        return value
    if isinstance(value, functools.partial):
        return f"partial of {_shown(value.func)}"
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__ or 'torch'}.{named.__qualname__}"


def _plain(module: nn.Module) -> tuple[str, ...]:
    """The plain settings of a module: numbers, words, switches and functions."""
    if isinstance(module, HookPoint):
        return ()
    return tuple(
        name
        for name, value in vars(module).items()
        if _settles(value)
        and not name.startswith("_")
        and not name.endswith(rotary.REMEMBERED)
        and name != "forward"  # which is looked at by itself
    )


def _printed(config: object) -> Stamp:
    """The settings of a configuration: plain ones themselves, any other as it prints, since it may
    be changed where it lies.
    """
    held = getattr(config, "__dict__", {})
    return (*held, *(v if type(v) in _PLAIN else repr(v) for v in held.values()))


def _settles(value: object) -> bool:
    """Is it plain? A function is the same as itself alone, so it may be compared too."""
    return type(value) in _PLAIN or (callable(value) and not isinstance(value, nn.Module))
