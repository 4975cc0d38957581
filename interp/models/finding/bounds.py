"""Models that their files do not hold: refused before anything is made of them.

A config of a few bytes can name a hundred million layers. What it says is compared with what the
weights' files hold, first by the numbers in it, then by the model's shapes, which take no memory.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from interp.core.errors import ModelError
from interp.core.files.sealed import read_json
from interp.models.finding.folder import Shapes

_FEW = 1_000
"""As many parts need not be counted."""
_WIDE = 1 << 24
_SLACK = 10_000_000
"""Numbers that a model may have beside those in its files: heads that were not trained."""
_PARTS = re.compile(r"^(n|num)_.*(layer|block|expert|stage)|(layers?|blocks|experts|depths?)$")
_WIDTHS = re.compile(r"size|dim|width|embd|inner|hidden|positions|ctx|d_(model|ff|kv)")
_REMEDY = "Likely config.json belongs to another model, or was edited: fetch both from one place."


def config_of(home: Path) -> dict[str, Any]:
    """The config as it is written, before a class is made of it.

    Raises:
        ModelError: it is no object of JSON, or too long.
    """
    return read_json(home / "config.json", "Likely it is damaged: fetch it again.")


def require_counts(raw: dict[str, Any], shapes: Shapes, home: Path) -> None:
    """Refuse a config that names more parts than the files have tensors, or boundless widths.

    Raises:
        ModelError: with the setting and both numbers.
    """
    for name, value in _integers(raw):
        if _PARTS.search(name) and value > max(len(shapes), _FEW):
            raise ModelError(
                f"{home / 'config.json'} says {name}={value}, and the weights beside it are "
                f"{len(shapes)} tensors. {_REMEDY}"
            )
        if _WIDTHS.search(name) and value > _WIDE:
            raise ModelError(
                f"{home / 'config.json'} says {name}={value}, which no model has. {_REMEDY}"
            )


def _integers(raw: Any, name: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(raw, dict):
        for key, value in raw.items():
            yield from _integers(value, str(key))
    elif isinstance(raw, list):
        for value in raw:
            yield from _integers(value, name)
    elif isinstance(raw, int | float) and not isinstance(raw, bool):
        yield name, int(min(abs(raw), 1e18))


def require_size(
    auto_class: Any, config: PreTrainedConfig, shapes: Shapes, home: Path, *, quantised: bool
) -> None:
    """Refuse a config of a model many times larger than the files.

    Raises:
        ModelError: with both sizes.
    """
    try:
        with torch.device("meta"):
            made = auto_class.from_config(config, trust_remote_code=False)
    except Exception:  # what is wrong with it, reading its weights says
        return
    held = sum(torch.Size(shape).numel() for shape in shapes.values())
    wanted = sum(p.numel() for p in made.parameters())
    wanted += sum(b.numel() * b.element_size() // 4 for b in made.buffers())
    if wanted > _SLACK + held * (16 if quantised else 2):
        raise ModelError(
            f"{home / 'config.json'} describes a model of {wanted:,} numbers, and the weights "
            f"beside it are {held:,}. {_REMEDY}"
        )
