"""Rotary embeddings that remember: put back to where they start, so that no run changes another.

With `rope_type="dynamic"` a row longer than the positions that were trained stretches the angles,
and Hugging Face's module keeps them stretched for what comes next: its numbers would depend on what
ran before. A run here begins as in a model that was just loaded.
"""

from collections.abc import Iterable
from typing import Any

from torch import nn

REMEMBERED = "max_seq_len_cached"
"""The setting in which a module keeps the longest row so far."""


def remembering(root: nn.Module) -> list[nn.Module]:
    """The parts of a model that keep something of a run."""
    return [module for module in root.modules() if _kinds(module)]


def settle(modules: Iterable[Any]) -> None:
    """Forget every run."""
    for module in modules:
        for prefix, kind in _kinds(module):
            if "dynamic" not in kind:  # longrope chooses anew in each run
                continue
            start = getattr(module, f"{prefix}original_inv_freq")
            if getattr(module, f"{prefix}inv_freq") is not start:
                module.register_buffer(f"{prefix}inv_freq", start, persistent=False)
            setattr(module, f"{prefix}{REMEMBERED}", module.original_max_seq_len)


def passing(module: nn.Module) -> set[str]:
    """The names of buffers that a run of this module writes."""
    return {f"{prefix}inv_freq" for prefix, _ in _kinds(module)}


def _kinds(module: Any) -> list[tuple[str, str]]:
    """What its buffers' names begin with, and the kind of scaling, where a run writes to them."""
    kinds = getattr(module, "rope_type", None)
    if not hasattr(module, "original_max_seq_len") or kinds is None:
        return []
    known = {"": kinds} if isinstance(kinds, str) else {f"{k}_": v for k, v in kinds.items()}
    return [(p, k) for p, k in known.items() if "dynamic" in k or k == "longrope"]
