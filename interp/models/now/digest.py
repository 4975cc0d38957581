"""A hash of weights that is the same on every device, read at the speed of its memory.

Each tensor is read as 32-bit words w, in rows of `WORDS`; of each row two sums of k_i w_i modulo
2^64 are taken, with 64-bit keys k that look random (multilinear hashing, Lemire & Kaser 2014,
sec. 3: two rows that differ have equal sums by a chance of 2^-32, so both sums by 2^-64). Whole
numbers add up to the same in any order, so a graphics card and a processor agree, and only the sums
leave the device. Names, dtypes, shapes and sums go through SHA-256. It tells weights apart; it is
no seal against forgery.
"""

import hashlib
from collections.abc import Iterator, Mapping
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

WORDS = 1 << 18
"""Words in a row: what is multiplied stays in a processor's cache (measured)."""
ROWS = 32
"""Rows at a time on an accelerator, where starting a product costs more than its memory."""


@torch.no_grad()
def digest(tensors: Mapping[str, Tensor]) -> str:
    """64 hex digits of named tensors, in the order of their names."""
    named = sorted(tensors.items())
    sums = [torch.cat([*_sums(tensor.detach())]) for _, tensor in named if tensor.numel()]
    for device in {x.device for x in sums}:  # one wait for each, not one for each tensor
        at = [i for i, x in enumerate(sums) if x.device == device]
        here = torch.cat([sums[i] for i in at]).cpu().split([len(sums[i]) for i in at])
        for i, x in zip(at, here, strict=True):
            sums[i] = x
    found, taken = hashlib.sha256(), iter(sums)
    for name, tensor in named:
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor.numel():
            found.update(next(taken).numpy().astype("<i8").tobytes())
    return found.hexdigest()


def _sums(tensor: Tensor) -> Iterator[Int[Tensor, " sums"]]:
    """Of each row of words, its two sums."""
    raw = tensor.contiguous().reshape(-1).view(torch.uint8)
    if missing := -len(raw) % 4:
        raw = torch.cat([raw, raw.new_zeros(missing)])
    words = raw.view(torch.int32)
    whole = len(words) // WORDS
    step = 1 if tensor.device.type == "cpu" else ROWS
    rows = words[: whole * WORDS].view(whole, WORDS)
    for part in (*rows.split(step), words[whole * WORDS :][None]):
        if part.numel():
            wide, keys = part.long(), _keys(part.shape[1], str(tensor.device))
            if tensor.device.type == "cpu":  # no graphics card multiplies matrices of whole numbers
                yield from (keys @ wide[0]).split(1)
            else:
                yield from ((wide * key).sum(1) for key in keys)


@lru_cache(maxsize=8)
def _table(device: str) -> Int[Tensor, "key word"]:
    # made by a CPU in NumPy, so that the keys are the same wherever they are used
    return torch.from_numpy(np.stack([_mixed(0), _mixed(WORDS)]).view(np.int64)).to(device)


def _keys(width: int, device: str) -> Int[Tensor, "key word"]:
    return _table(device)[:, :width]


def _mixed(first: int) -> np.ndarray:
    """SplitMix64 of consecutive numbers (Steele et al. 2014): 64 bits each."""
    z = (np.arange(first + 1, first + 1 + WORDS, dtype=np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
