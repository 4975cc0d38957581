"""Images as they are given, arrays or tensors, as rows of patches with their answers."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import PairsError, nearest
from interp.core.prompts.columns import Column, column, shown, whole
from interp.core.prompts.grid import CLASS, Images, Processor
from interp.core.prompts.patches import Patches, patches_of

PATCH = re.compile(r"r\d+c\d+")
Pixels = Literal["raw", "normalised"]
"""Pixels as a file has them (0 to 255, or 0 to 1), or as the model's processor leaves them."""


class _Facts(Protocol):
    @property
    def image(self) -> Images | None: ...


@runtime_checkable
class Sees(Protocol):
    """What building pairs from images needs of a model."""

    name: str
    facts: _Facts
    processor: Processor | None

    @property
    def classes(self) -> tuple[str, ...]: ...


def rows_of(
    model: Sees,
    asked: Mapping[str, Any],
    groups: Mapping[str, Column | None],
    *,
    positions: Mapping[str, Column] | None,
    pixels: Pixels,
) -> tuple[dict[str, Any], Patches]:
    """What `Pairs.from_tokens` takes of images, and the table of their patches.

    Args:
        asked: `clean` and `corrupt` images, `correct` and `wrong` classes.
        groups: `cluster`, `template`, `crossed`.

    Raises:
        PairsError: a model that reads text, or images, classes or positions that it has not.
    """
    of = model.facts.image
    if of is None:
        raise PairsError(
            f"{model.name} reads text, not images ({model.facts}). Build its pairs with "
            "Pairs.from_text; images are for a vision transformer."
        )
    if pixels not in get_args(Pixels):
        raise PairsError(
            f"pixels={pixels!r} is not known; {nearest(str(pixels), get_args(Pixels))} 'raw' are "
            "0 to 255 in uint8 or 0 to 1 in floats, 'normalised' are as the model reads them."
        )
    sides = [
        _read(side, _tensor(side, asked[side], of), model.processor, pixels)
        for side in ("clean", "corrupt")
    ]
    if len(sides[0]) != len(sides[1]):
        raise PairsError(
            f"{len(sides[0])} clean images but {len(sides[1])} corrupt ones; give one of each for "
            "a pair."
        )
    (before, after), table = patches_of(sides, of)
    answers = {
        side: _classes(side, asked[side], model)
        for side in ("correct", "wrong")
        if asked[side] is not None
    }
    if len(answers) == 1:
        if "wrong" in answers:
            raise PairsError("wrong= was given without correct=; a wrong class alone says nothing.")
        answers["wrong"] = [-1] * len(answers["correct"])
    n, names = len(before), of.names
    units = dict(groups)
    if units["template"] is None:
        units["template"] = ["images"] * n
        units["cluster"] = range(n) if units["cluster"] is None else units["cluster"]
    own = {name: [at] * n for at, name in enumerate(names)}
    given = {name: _places(name, at, of) for name, at in (positions or {}).items()}
    return {
        "clean": before,
        "corrupt": after,
        **answers,
        "positions": {"end": [names.index(CLASS)] * n} | own | given,
        "strings": ((names, names),) * n,
        "bos": "none",
        **units,
    }, table


def _tensor(side: str, given: object, of: Images) -> Tensor:
    """Images of any kind as `batch channel height width`, of the model's size.

    Raises:
        PairsError: they have another shape, or are no numbers.
    """
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable | Tensor):
        raise PairsError(
            f"{side} is {shown(given)}, not images. An image model reads arrays or tensors of "
            "batch x channel x height x width; text is for Pairs.from_text."
        )
    listed = not isinstance(given, Tensor | np.ndarray)
    items: list[Any] = list(given) if listed else []
    if listed and (text := [one for one in items if isinstance(one, str | bytes)]):
        raise PairsError(
            f"{side} has {shown(text[0])} among its images: text to an image model. Give arrays "
            "of pixels, as PIL's or torchvision's readers make them; text is for Pairs.from_text."
        )
    if listed:
        items = [
            one.detach().cpu() if isinstance(one, Tensor) else np.asarray(one) for one in items
        ]
        if sizes := sorted({tuple(one.shape) for one in items}):
            if len(sizes) > 1:
                raise PairsError(
                    f"the images of {side} have several shapes, {sizes[0]} and {sizes[1]}; bring "
                    f"all to {of.height} x {of.width} pixels first."
                )
        else:
            raise PairsError(f"{side} holds no images (n = 0); at least one pair is needed.")
        given = np.stack([np.asarray(one) for one in items])
    try:
        x = torch.as_tensor(given).detach().cpu()
    except (TypeError, ValueError) as error:
        kind = getattr(given, "dtype", type(given).__name__)
        raise PairsError(f"{side} holds {kind}, and pixels are numbers.") from error
    if not len(x):
        raise PairsError(f"{side} holds no images (n = 0); at least one pair is needed.")
    wanted = (of.channels, of.height, of.width)
    if x.ndim == 3 and of.channels == 1:
        x = x[:, None]
    if (
        x.ndim == 4
        and tuple(x.shape[1:]) != wanted
        and tuple(x.shape[1:]) == (*wanted[1:], wanted[0])
    ):
        x = x.movedim(-1, 1)
    if tuple(x.shape[1:]) != wanted:
        single = " Of one image, give image[None]." if tuple(x.shape) == wanted else ""
        raise PairsError(
            f"{side} is {tuple(x.shape)}, and the model reads batch x {of.channels} x {of.height} "
            f"x {of.width} (channel, height, width; the channel may stand last): {of}. Resize, "
            f"crop or convert the images first; they are not changed here.{single}"
        )
    return x


def _read(
    side: str, x: Tensor, processor: Processor | None, pixels: Pixels
) -> Float[Tensor, "batch channel height width"]:
    """Pixels as the model reads them.

    Raises:
        PairsError: NaN, or numbers outside of the range that pixels have.
    """
    if x.dtype == torch.bool or x.is_complex():
        raise PairsError(f"{side} is {x.dtype}, and pixels are uint8 or floats.")
    floats = x.is_floating_point()
    if floats and not bool(x.isfinite().all()):
        row = int((~x.isfinite()).flatten(1).any(1).int().argmax())
        raise PairsError(f"image {row} of {side} holds NaN or infinity. Leave it out, or mend it.")
    low, high = float(x.min()), float(x.max())
    raw = pixels == "raw"
    if not floats and (x.dtype != torch.uint8 or not raw):
        raise PairsError(
            f"{side} is {x.dtype} from {low:g} to {high:g}, and what such numbers mean is not "
            "known. Give uint8 from 0 to 255, floats from 0 to 1 (divide by the largest that a "
            "pixel can have), or floats as the model reads them, with pixels='normalised'."
        )
    if raw and floats and not 0 <= low <= high <= 1:
        raise PairsError(
            f"the pixels of {side} go from {low:g} to {high:g}, and floats go from 0 to 1. Divide "
            "them by the largest that a pixel can have (255, or 16); if a processor normalised "
            "them already, pixels='normalised'."
        )
    kept = x if x.dtype == torch.float64 else x.float()
    if not raw:
        return kept
    if processor is None:
        return kept if floats else kept / 255
    mean, std = (
        torch.tensor(v, dtype=kept.dtype).view(-1, 1, 1) for v in (processor.mean, processor.std)
    )
    return (kept * (processor.scale * (255 if floats else 1)) - mean) / std


def _classes(side: str, given: Column, model: Sees) -> list[int]:
    """The numbers of classes that are given by number or name.

    Raises:
        PairsError: the model has no such class.
    """
    names, items = model.classes, column(side, given)
    if not any(isinstance(item, str) for item in items):
        found = whole(side, items).tolist()
    else:
        found = []
        for row, item in enumerate(items):
            if item not in names:
                raise PairsError(
                    f"row {row} of {side} is {shown(item)}, which is no class of {model.name}; "
                    f"{nearest(str(item), names)}"
                )
            found.append(names.index(item))
    for row, number in enumerate(found):
        if not 0 <= number < len(names):
            raise PairsError(
                f"row {row} of {side} is class {number}, and {model.name} has classes 0 to "
                f"{len(names) - 1} ({names[0]!r} to {names[-1]!r})."
            )
    return found


def _places(name: str, given: Column, of: Images) -> Any:
    """Indices of positions that are given so, by name ("r2c3") or as (row, column).

    Raises:
        PairsError: the grid has no such patch.
    """
    items: Sequence[Any] = given.tolist() if isinstance(given, Tensor | np.ndarray) else list(given)
    return [_index(name, row, item, of) for row, item in enumerate(items)]


def _index(name: str, row: int, item: Any, of: Images) -> Any:
    if isinstance(item, tuple | list) and len(item) == 2:
        item = f"r{item[0]}c{item[1]}"
    if not isinstance(item, str):
        return item
    if item not in of.names:
        rows, columns = of.grid
        raise PairsError(
            f"position {name!r} is {item!r} in row {row}, and there are {of.names[0]!r} and the "
            f"patches (row, column) from (0, 0) to ({rows - 1}, {columns - 1})."
        )
    return of.names.index(item)


def of_places(pairs: Any) -> str:
    """How many patches an image has, and what else is named in it."""
    patches = [name for name in pairs.positions if PATCH.fullmatch(name)]
    others = ", ".join(name for name in pairs.positions if name not in patches)
    return f"{len(patches)} patches ({patches[0]} to {patches[-1]}), positions {others}"
