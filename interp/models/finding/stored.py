"""Models that are made here, on disk: a folder with a shape and its weights."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from interp.core.errors import ModelError
from interp.core.files.sealed import Damaged, open_tensors, read_note, write_note, write_tensors

WEIGHTS_FILE = "model.safetensors"
POSITIONS = 1 << 20
"""A longest row that needs no weights."""
WEIGHTS = "weights"
"""What the shape's file says of the other: its checksum."""
State = Mapping[str, Tensor]
"""Parameters by their names in the module."""
T = TypeVar("T")


def write(folder: Path, file: str, shape: Any, state: State) -> None:
    """The two files; the shape, a dataclass, last, so that a folder with it is whole.

    Raises:
        ResultsError: the folder cannot be written.
    """
    of = write_tensors(folder / WEIGHTS_FILE, dict(sorted(state.items())), {}, what="weights ")
    write_note(folder / file, {**asdict(shape), WEIGHTS: of}, what="shape ")


def read(folder: Path, file: str, kind: type[T]) -> tuple[T, dict[str, Tensor]]:
    """What `write` wrote.

    Raises:
        ModelError: it cannot be read, or is not as it was written.
    """
    remedy = "Save the model again."
    path = folder / file
    try:
        note = read_note(path, remedy=remedy)
        of = note.pop(WEIGHTS, None)
        shape = kind(**note)
        path = folder / WEIGHTS_FILE
        with open_tensors(path, remedy=remedy) as held:
            if held.content != of:
                raise Damaged(
                    f"{path} has other weights than {file} beside it tells of ({held.content} and "
                    f"{of}): a file was exchanged. {remedy}"
                )
            state = {name: held.read(name).clone() for name in held.names}
            _require_bounds(shape, state, folder / file, remedy)
            return shape, state
    except FileNotFoundError:
        raise ModelError(f"there is no {path}. {remedy}") from None
    except TypeError as error:
        raise ModelError(
            f"{path} is no {kind.__name__}: {error}. It must be an object of "
            f"{', '.join(field.name for field in fields(kind))}. Likely it is of another version "
            f"of interp. {remedy}"
        ) from error


def _require_bounds(shape: Any, state: State, path: Path, remedy: str) -> None:
    """Refuse, before anything is made of it, a shape of more than the weights hold.

    Raises:
        Damaged: with the setting and both numbers.
    """
    numbers = sum(tensor.numel() for tensor in state.values())
    most = {"n_layers": len(state), "n_ctx": max(numbers, POSITIONS)}
    for name, value in asdict(shape).items():
        if isinstance(value, int) and value > most.get(name, numbers):
            raise Damaged(
                f"{path} says {name}={value}, and the weights beside it are {len(state)} tensors "
                f"of {numbers} numbers. {remedy}"
            )


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
