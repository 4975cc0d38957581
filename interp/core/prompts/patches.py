"""Patches stand where token ids stand: the id of a patch is a hash of its pixels.

So everything that compares, hashes, groups or keeps ids does the same with images, and only the
embedding looks the pixels up. They are found by the id among the tables that are alive: `Pairs`
hold theirs, and with the last of them the pixels are gone.
"""

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.errors import PairsError
from interp.core.prompts.grid import Images

FIRST = 1 << 62
"""The ids of patches begin here, beyond those of any vocabulary."""
AT_ONCE = 4096
"""Patches that are hashed together, in float64."""
_ALIVE: "WeakSet[Patches]" = WeakSet()
_CHANGING = threading.Lock()


@dataclass(frozen=True, eq=False)
class Patches:
    """Pixels of patches by their ids.

    Attributes:
        ids: ascending, each once.
        pixels: as the model reads them, channels first.
    """

    ids: Int[Tensor, " patch"]
    pixels: Float[Tensor, "patch features"]

    def __post_init__(self) -> None:
        with _CHANGING:
            _ALIVE.add(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.__post_init__()


def patches_of(
    sides: Sequence[Float[Tensor, "batch channel height width"]], of: Images
) -> tuple[list[Int[Tensor, "batch pos"]], Patches]:
    """The ids of each side, class token first, and one table of all their patches."""
    (rows, columns), (high, wide) = of.grid, of.patch
    cut = [
        side[..., : rows * high, : columns * wide]
        .unflatten(3, (columns, wide))
        .unflatten(2, (rows, high))
        .permute(0, 2, 4, 1, 3, 5)
        .flatten(3)
        .flatten(1, 2)
        for side in sides
    ]
    flat = torch.cat([side.flatten(0, 1) for side in cut])
    # the same number has the same bytes, however it was given; and -0.0 is 0.0
    some = ((part.double() + 0.0).numpy() for part in flat.split(AT_ONCE))
    hashed = np.array([_hash(one.tobytes()) for part in some for one in part], dtype=np.int64)
    ids, first = np.unique(hashed, return_index=True)
    table = Patches(torch.from_numpy(ids), flat[torch.from_numpy(first)])
    found = torch.from_numpy(hashed).split([side.shape[0] * side.shape[1] for side in cut])
    special = torch.arange(of.special)
    return [
        torch.cat([special.expand(len(side), -1), some.view(side.shape[:2])], 1)
        for side, some in zip(cut, found, strict=True)
    ], table


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest()) % FIRST + FIRST


def pixels_of(ids: Int[Tensor, "batch patch"], features: int) -> Float[Tensor, "batch patch f"]:
    """The pixels of patches, on the host.

    Raises:
        PairsError: no pairs that are there have such a patch.
    """
    asked = ids.detach().cpu().reshape(-1).numpy()
    missing = np.ones(len(asked), dtype=bool)
    parts: list[tuple[np.ndarray, Tensor]] = []
    with _CHANGING:
        tables = tuple(_ALIVE)
    for table in tables:
        if table.pixels.shape[1] != features or not missing.any():
            continue
        known = table.ids.numpy()
        at = np.searchsorted(known, asked).clip(max=len(known) - 1)
        here = missing & (known[at] == asked)
        missing &= ~here
        if here.any():
            parts.append((here, table.pixels[torch.from_numpy(at[here])]))
    if missing.any():
        row = int(missing.argmax()) // max(1, ids.shape[1])
        raise PairsError(
            f"row {row} has {int(asked[missing][0])} where the id of a patch of {features} numbers "
            "should stand, and no pairs that are there have such a patch. An image model reads "
            "images: build pairs with Pairs.from_images, and keep them as long as ids of them are "
            "used."
        )
    dtype = torch.float64 if any(p.dtype == torch.float64 for _, p in parts) else torch.float32
    found = torch.empty(len(asked), features, dtype=dtype)
    for here, pixels in parts:
        found[torch.from_numpy(here)] = pixels.to(dtype)
    return found.view(*ids.shape, features)


@lru_cache
def random_images(of: Images, rows: int, seed: int) -> tuple[Int[Tensor, "rows pos"], Patches]:
    """Ids of images of random pixels, as those of a photograph are distributed once normed."""
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, of.channels, of.height, of.width)
    (ids,), table = patches_of([torch.randn(shape, generator=generator)], of)
    return ids, table


def image_of(
    patches: Float[Tensor, "batch patch features"], of: Images
) -> Float[Tensor, "batch channel height width"]:
    """Images of their patches; what lies beyond the last whole patch is 0, and is not read."""
    (rows, columns), (high, wide) = of.grid, of.patch
    x = patches.unflatten(2, (of.channels, high, wide)).unflatten(1, (rows, columns))
    x = x.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
    beyond = (0, of.width - columns * wide, 0, of.height - rows * high)
    return torch.nn.functional.pad(x, beyond)
