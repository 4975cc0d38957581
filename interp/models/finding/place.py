"""What a model is loaded with: its name, the device it goes to, the precision of its weights.

Whatever cannot be is refused before anything is read.
"""

import os
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch

from interp.core.door.taken import Told, shown
from interp.core.errors import ModelError

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64)
}
_DEVICES = "'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'"


def name_of(name: object) -> str | Path:
    """A name or a folder.

    Raises:
        ModelError: it is neither.
    """
    name = Path(name) if isinstance(name, os.PathLike) else name
    if not isinstance(name, str | Path) or not str(name).strip():
        raise ModelError(
            f"{shown(name)} is no name of a model. Give a shipped model's ('smollm2-135m'), a "
            "Hugging Face hub id ('owner/name'), or the folder that save_pretrained wrote."
        )
    return name


def dtype_of(dtype: object, device: torch.device) -> torch.dtype:
    """A precision that models are run in, given as torch's or by its name.

    Raises:
        ModelError: it is none, or the device has it not.
    """
    found = DTYPES.get(dtype.removeprefix("torch.")) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or found not in DTYPES.values():
        raise ModelError(
            f"dtype={shown(dtype)} is no precision that models are run in. Give one of "
            f"{', '.join(f'torch.{name}' for name in DTYPES)}, or its name. Weights of other "
            "kinds are converted while they are read."
        )
    if found == torch.float64 and device.type == "mps":
        raise ModelError(
            "dtype=torch.float64 on device='mps', where float64 does not exist. Pass "
            "device='cpu', or dtype=torch.float32."
        )
    return found


def kept_dtype_of(dtype: object, device: torch.device) -> torch.dtype | Literal["auto"]:
    """... or "auto": that in which the weights were saved. None is float32."""
    if dtype is None:
        return torch.float32
    return "auto" if isinstance(dtype, str) and dtype == "auto" else dtype_of(dtype, device)


def device_of(device: object) -> torch.device:
    """A device that is there.

    Raises:
        ModelError: it is not.
    """
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        where = torch.device(device) if isinstance(device, str | torch.device) else None
    except RuntimeError:
        where = None
    if where is None or where.type not in ("cpu", "cuda", "mps"):
        raise ModelError(f"device={shown(device)} is no device. Give {_DEVICES}.")
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"device={str(device)!r}, but torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices. Likely a CPU build of torch, no GPU, or no "
            "driver. Pass device='cpu' or leave it at 'auto'."
        )
    if where.type == "mps" and not torch.backends.mps.is_available():
        raise ModelError("device='mps', but this machine has no Metal device. Pass device='cpu'.")
    return where


def revision_of(revision: object) -> str | None:
    """A branch, tag or commit, or none.

    Raises:
        ModelError: it is none of these.
    """
    if revision is None or (isinstance(revision, str) and revision):
        return revision
    raise ModelError(
        f"revision={shown(revision)} is no branch, tag or commit of the hub. Give its name as "
        "text, or leave revision out."
    )


# What arguments are annotated with, so that a door says of them what is said here.
Name = Annotated[str | os.PathLike[str], Told(name_of)]
Device = Annotated[str | torch.device, Told(device_of)]
Dtype = Annotated[torch.dtype | str, Told(partial(dtype_of, device=torch.device("cpu")))]
KeptDtype = Annotated[
    torch.dtype | str | None, Told(partial(kept_dtype_of, device=torch.device("cpu")))
]
Revision = Annotated[str | None, Told(revision_of)]
