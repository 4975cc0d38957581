"""Hooks of this library on a model, for the time of a block and not longer."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformer_lens import HookedRootModule
from transformer_lens.model_bridge import TransformerBridge

from interp.core.door.alone import undone

Hook = Callable[..., Any]


@contextmanager
def listening(module: nn.Module, hook: Hook, *, with_kwargs: bool = False) -> Iterator[None]:
    """A hook on a module, after those that are there."""
    with undone(lambda: _take_off([module], [hook])):
        module.register_forward_hook(hook, with_kwargs=with_kwargs)
        yield


@contextmanager
def preceding(module: nn.Module, hook: Hook) -> Iterator[None]:
    """A function that hears what a module is called with, before it runs."""
    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    with undone(handle.remove):
        yield


@contextmanager
def hooked(
    bridge: TransformerBridge | HookedRootModule, hooks: Sequence[tuple[str, Hook]]
) -> Iterator[None]:
    """Hooks on hook points, by the names of these."""
    known, own, level = bridge.hook_dict, [hook for _, hook in hooks], bridge.context_level
    points = [known[name] for name, _ in hooks]

    def put_back() -> None:
        _take_off(points, own)
        bridge.context_level = level

    with undone(put_back), bridge.hooks(fwd_hooks=list(hooks)):
        yield


def _take_off(modules: Iterable[nn.Module], hooks: Sequence[Hook]) -> None:
    """Whatever of these hooks is still there, as torch or TransformerLens keeps it."""
    own = set(map(id, hooks))
    for module in {id(module): module for module in modules}.values():
        there = module._forward_hooks
        for key in [key for key, held in there.items() if not own.isdisjoint(_inside(held))]:
            for kept in (there, module._forward_hooks_with_kwargs):
                kept.pop(key, None)
        if handles := getattr(module, "fwd_hooks", None):
            handles[:] = [h for h in handles if id(h.user_hook) not in own]


def _inside(held: Any) -> set[int]:
    """A hook, and what it closes over: TransformerLens puts a function of its own around each."""
    cells = getattr(held, "__closure__", None) or ()
    return {id(held), *(id(cell.cell_contents) for cell in cells)}
