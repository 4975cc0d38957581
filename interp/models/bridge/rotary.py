"""Rotary embeddings that remember: put back to where they start, so that no run changes another.

With `rope_type="dynamic"` a row longer than the positions that were trained stretches the angles,
and Hugging Face's module keeps them stretched for what comes next: its numbers would depend on what
ran before. A run here begins as in a model that was just loaded, and leaves what it found.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from interp.core.door.alone import undone

REMEMBERED = "max_seq_len_cached"
"""The setting in which a module keeps the longest row so far."""


def remembering(root: nn.Module) -> list[nn.Module]:
    """The parts of a model that keep something of a run."""
    return [module for module in root.modules() if _kinds(module)]


@contextmanager
def alone(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Inside of the block nothing ran before; afterwards is remembered what was."""
    places = [(m, prefix) for m in modules for prefix, kind in _kinds(m) if _stretched(kind)]
    before = [_memory(module, prefix) for module, prefix in places]

    def put_back() -> None:
        for (module, prefix), memory in zip(places, before, strict=True):
            _remember(module, prefix, *memory)

    with undone(put_back):
        for module, prefix in places:
            _remember(module, prefix, *_start(module, prefix))
        yield


def passing(module: nn.Module) -> set[str]:
    """The names of buffers that a run of this module writes."""
    return {f"{prefix}inv_freq" for prefix, _ in _kinds(module)}


def _memory(module: Any, prefix: str) -> tuple[Any, Any]:
    """The angles' frequencies as they are, and the longest row so far."""
    longest = getattr(module, f"{prefix}{REMEMBERED}", module.original_max_seq_len)
    return getattr(module, f"{prefix}inv_freq"), longest


def _start(module: Any, prefix: str) -> tuple[Any, Any]:
    return getattr(module, f"{prefix}original_inv_freq"), module.original_max_seq_len


def _remember(module: nn.Module, prefix: str, frequencies: Any, longest: Any) -> None:
    module._buffers[f"{prefix}inv_freq"] = frequencies
    setattr(module, f"{prefix}{REMEMBERED}", longest)


def _stretched(kind: str) -> bool:
    """Does it go on from the longest row so far? Longrope chooses anew in each run."""
    return "dynamic" in kind


def _kinds(module: nn.Module) -> list[tuple[str, str]]:
    """What its buffers' names begin with, and the kind of scaling, where a run writes to them."""
    kinds: Any = getattr(module, "rope_type", None)
    if not hasattr(module, "original_max_seq_len") or kinds is None:
        return []
    known = {"": kinds} if isinstance(kinds, str) else {f"{k}_": v for k, v in kinds.items()}
    # a wrapper of TransformerLens shows the attributes of what it wraps; who owns them is meant
    own = {p: kind for p, kind in known.items() if f"{p}inv_freq" in module._buffers}
    return [(p, kind) for p, kind in own.items() if _stretched(kind) or kind == "longrope"]
