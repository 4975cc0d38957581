"""Models that are made here, on disk: a folder with a shape and its weights."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from interp.core.atomic import whole
from interp.core.errors import ModelError

WEIGHTS_FILE = "model.safetensors"
State = Mapping[str, Tensor]
"""Parameters by their names in the module."""
T = TypeVar("T")


def write(folder: Path, file: str, shape: Any, state: State) -> None:
    """The two files; the shape, a dataclass, last, so that a folder with it is whole.

    Raises:
        ResultsError: the folder cannot be written.
    """
    kept = {name: value.detach().cpu().contiguous() for name, value in sorted(state.items())}
    with whole(folder / WEIGHTS_FILE, what="weights ") as path:
        save_file(kept, path)
    with whole(folder / file, what="shape ") as path:
        path.write_text(json.dumps(asdict(shape), indent=2) + "\n")


def read(folder: Path, file: str, kind: type[T]) -> tuple[T, dict[str, Tensor]]:
    """What `write` wrote.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        shape = kind(**json.loads((folder / file).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(
            f"{folder / file} is no {kind.__name__}: {error}. It must be an object of "
            f"{', '.join(field.name for field in fields(kind))}. Likely it is damaged, or of "
            "another version of interp; save the model again."
        ) from error
    try:
        return shape, load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"the weights in {folder} cannot be read: {str(error).splitlines()[0]}. Likely "
            f"{WEIGHTS_FILE} is cut short or missing; save the model again."
        ) from error


def fill(module: nn.Module, state: State, *, name: str, shape: object) -> None:
    """Let a module's parameters be copies of a state, all of them, in the state's precision.

    Raises:
        ModelError: names or sizes are not the module's, or the numbers are none.
    """
    own = dict(module.named_parameters())
    wrong = [f"lacks {key}" for key in sorted(own.keys() - state.keys())]
    wrong += [f"has {key}, which the model has not" for key in sorted(state.keys() - own.keys())]
    wrong += [
        f"has {key} of {state[key].dtype}, or with numbers that are not finite"
        for key in sorted(own.keys() & state.keys())
        if not state[key].is_floating_point() or not bool(state[key].isfinite().all())
    ]
    wrong += [
        f"has {key} of shape {tuple(state[key].shape)} for {tuple(own[key].shape)}"
        for key in sorted(own.keys() & state.keys())
        if state[key].shape != own[key].shape
    ]
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise ModelError(
            f"the weights of {name} are not of its shape: the state {'; '.join(wrong[:3])}{more}. "
            f"Likely they belong to another {type(shape).__name__} than {shape}."
        )
    for key, parameter in own.items():
        parameter.data = state[key].detach().clone()
