"""Random images for the tiny models that read them, and their patches cut by hand."""

from dataclasses import dataclass

import tiny
import torch
from torch import Tensor

import interp
from interp.models.model import Model

CLASSES = {"correct": [3, 5, 7, 11, 13], "wrong": [4, 6, 8, 12, 14]}


@dataclass(frozen=True)
class Pictures:
    """Five pairs, in float64 from 0 to 1, of which some patches are equal."""

    clean: Tensor
    corrupt: Tensor
    pairs: interp.Pairs
    patches: dict[int, Tensor]


def pictures(family: str, model: Model) -> Pictures:
    config = model.bridge.original_model.config
    (height, width), (high, wide) = map(both, (config.image_size, config.patch_size))
    generator = torch.Generator().manual_seed(1)
    shape = (5, config.num_channels, height, width)
    clean, corrupt = (torch.rand(shape, generator=generator).double() for _ in range(2))
    corrupt[1, :, :high, :wide] = clean[1, :, :high, :wide]
    pairs = interp.Pairs.from_images(
        model,
        clean=clean,
        corrupt=corrupt,
        **CLASSES,
        positions={"mid": ["r0c0", (0, 1), (1, 1), "cls", "r1c0"], "late": [4, 3, "r1c1", 2, 1]},
        cluster=["a", "b", "a", "c", "c"],
        template=["a", "b", "a", "b", "a"],
    )
    first, found = (2 if family == "deit" else 1), {}
    for images, ids in ((clean, pairs.clean), (corrupt, pairs.corrupt)):
        for image, row in zip(images, ids.tolist(), strict=True):
            at = first
            for top in range(0, height - high + 1, high):
                for left in range(0, width - wide + 1, wide):
                    found[row[at]] = image[:, top : top + high, left : left + wide]
                    at += 1
            assert at == len(row)
    return Pictures(clean, corrupt, pairs, found)


def both(size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


VISION = tuple(tiny.VISION)
