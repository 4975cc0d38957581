"""Target: what the decoder of an encoder-decoder reads, row by row, beside the prompts."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp.core.errors import PairsError
from interp.core.prompts.columns import Column, id_rows, is_integer, shown, whole
from interp.core.prompts.named import positions_by_name, require_inside

Strings = tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]


@dataclass(frozen=True, eq=False)
class Target:
    """What a decoder reads after its start token, on both sides, aligned token by token.

    The decoder's positions are counted with its start token: 0 is that, 1 the first id of a row.

    Attributes:
        clean, corrupt: token ids, padded on the right with zeros.
        lengths: ids in each row (the same for its clean and corrupt side), perhaps none.
        positions: index of each named position in each row of the decoder; `"end"` is always there.
        strings: readable clean and corrupt tokens; may be empty.
    """

    clean: Int[Tensor, "batch written"]
    corrupt: Int[Tensor, "batch written"]
    lengths: Int[Tensor, " batch"]
    positions: Mapping[str, Int[Tensor, " batch"]]
    strings: Strings = field(default=(), repr=False)

    def __post_init__(self) -> None:
        for name, value in _consistent(self).items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return self.clean.shape[0]

    def __str__(self) -> str:
        least, most = int(self.lengths.min()), int(self.lengths.max())
        return f"targets of {least} to {most} tokens, positions {', '.join(self.positions)}"

    @classmethod
    def of(
        cls,
        *,
        clean: Column,
        corrupt: Column | None = None,
        positions: Mapping[str, Column] | None = None,
        strings: Strings = (),
    ) -> "Target":
        """Align rows of ids; `corrupt` is by default the same as `clean`.

        Raises:
            PairsError: sides of unequal length, or a position that is no place in its row.
        """
        rows = {"clean": id_rows("target", clean)}
        rows["corrupt"] = rows["clean"] if corrupt is None else id_rows("corrupt_target", corrupt)
        if len(rows["clean"]) != len(rows["corrupt"]):
            raise PairsError(
                f"{len(rows['clean'])} rows of target= but {len(rows['corrupt'])} of "
                "corrupt_target=; give one of each per prompt"
            )
        for row, sides in enumerate(zip(rows["clean"], rows["corrupt"], strict=True)):
            if len(sides[0]) != len(sides[1]):
                raise PairsError(_unequal(row, *sides, strings))
        lengths = torch.tensor([len(row) for row in rows["clean"]], dtype=torch.long)
        named = {"end": lengths, **positions_by_name(positions, "target position")}
        return cls(_pad(rows["clean"]), _pad(rows["corrupt"]), lengths, named, strings)

    def select(self, rows: Sequence[int]) -> "Target":
        index = list(rows)
        return type(self)(
            self.clean[index],
            self.corrupt[index],
            self.lengths[index],
            {name: at[index] for name, at in self.positions.items()},
            tuple(self.strings[i] for i in index) if self.strings else (),
        )

    @property
    def fingerprint(self) -> str:
        """Hash of everything that can change a number; how wide the padding is cannot."""
        names = sorted(self.positions)
        digest = hashlib.sha256(repr(names).encode())
        ids = (self.hashed("clean"), self.hashed("corrupt"))
        digest.update("".join(ids).encode())
        for name in names:
            digest.update(self.positions[name].numpy().tobytes())
        return digest.hexdigest()[:16]

    def hashed(self, side: str) -> str:
        """Hash of the ids that run on one side."""
        mask = torch.arange(self.clean.shape[1]) < self.lengths[:, None]
        digest = hashlib.sha256(self.lengths.numpy().tobytes())
        digest.update(getattr(self, side)[mask].numpy().tobytes())
        return digest.hexdigest()[:16]


def target_of(
    rows: int,
    target: Column | None,
    corrupt_target: Column | None,
    positions: Mapping[str, Column] | None,
    strings: Sequence,
    decoder: Any,
) -> Target | None:
    """What is given of a decoder, as `Pairs.from_tokens` takes it; `decoder` is of every row.

    Raises:
        PairsError: both, or what belongs to a target without one.
    """
    ids = _one_list(decoder)
    if target is not None and ids:
        raise PairsError(
            "target= and decoder= are both given, and either says what the decoder reads: target= "
            "row by row, decoder= the same ids in every row. Leave one out."
        )
    if target is not None:
        if len(target) != rows:
            raise PairsError(
                f"{rows} clean prompts but {len(target)} of target; give one of each per prompt"
            )
        return Target.of(
            clean=target, corrupt=corrupt_target, positions=positions, strings=tuple(strings)
        )
    given = {"corrupt_target": corrupt_target, "target_positions": positions}
    lone = [name for name, of in given.items() if of is not None]
    if not ids and lone:
        raise PairsError(
            f"{' and '.join(lone)} without target=, which says what the decoder reads on the clean "
            "side. Give it too."
        )
    if not ids:
        return None
    if corrupt_target is not None:
        raise PairsError(
            "corrupt_target= with decoder=, which is the same in every row and on both sides. Give "
            "target= instead of decoder=."
        )
    return Target.of(clean=[ids] * rows, positions=positions)


def _one_list(decoder: object) -> list[int]:
    """What a decoder has written, which is the same in every row."""
    listed = decoder if isinstance(decoder, list | tuple) else ()
    counts = [len(row) for row in listed if isinstance(row, list | tuple | np.ndarray)]
    if isinstance(decoder, Tensor | np.ndarray) and decoder.ndim > 1:
        counts = [decoder.shape[1]] * len(decoder)
    if counts:
        several = sorted(set(counts))
        lengths = f"{several[0]} to {several[-1]}" if len(several) > 1 else str(several[0])
        raise PairsError(
            f"decoder= is one list of ids, which the decoder has written in every row, and these "
            f"are {len(counts)} lists of {lengths} ids. Rows whose targets differ are given as "
            "target=."
        )
    return whole("decoder", decoder).tolist()


def _consistent(target: Any) -> dict[str, Any]:
    """The fields as they are kept: whole numbers, on the host.

    Raises:
        PairsError: one is of another kind, or they do not fit together.
    """
    sides = {"clean": target.clean, "corrupt": target.corrupt}
    for side, ids in sides.items():
        if not isinstance(ids, Tensor) or ids.ndim != 2 or not is_integer(ids):
            raise PairsError(
                f"the {side} target is {shown(ids)}, not integer token ids of batch x pos. Build "
                "pairs with Pairs.from_text(target=...) or Pairs.from_tokens(target=...)."
            )
    lengths = whole("the target's lengths", target.lengths)
    named = positions_by_name(target.positions, "target position")
    counts = {len(lengths), *map(len, sides.values()), *map(len, named.values())}
    if len(counts) > 1 or target.clean.shape != target.corrupt.shape:
        raise PairsError(
            f"the target's sides are {tuple(target.clean.shape)} and {tuple(target.corrupt.shape)} "
            f"with {len(lengths)} lengths and positions of {sorted(map(len, named.values()))} "
            "rows; they are as many, and the sides of one shape. Build pairs with "
            "Pairs.from_text(target=...) or Pairs.from_tokens(target=...)."
        )
    if bool((lengths < 0).any()) or bool((lengths > target.clean.shape[1]).any()):
        row = int(((lengths < 0) | (lengths > target.clean.shape[1])).int().argmax())
        raise PairsError(
            f"row {row} of the target has {int(lengths[row])} ids of {target.clean.shape[1]}"
        )
    for name, at in named.items():
        require_inside(name, at, torch.zeros_like(lengths), lengths + 1, what="target position")
    if "end" not in named:
        raise PairsError(
            f"the target positions are {', '.join(named) or 'none'}, without 'end', where logits "
            "are read. Add to those that are there: {**pairs.target.positions, ...}."
        )
    return {
        **{side: ids.detach().to("cpu", torch.int64) for side, ids in sides.items()},
        "lengths": lengths,
        "positions": named,
        "strings": tuple(target.strings or ()),
    }


def _unequal(row: int, clean: Sequence[int], corrupt: Sequence[int], strings: Strings) -> str:
    """The message for targets that do not align, with both rows under one another."""
    sides = strings[row] if strings else tuple(list(map(str, ids)) for ids in (clean, corrupt))
    return (
        f"row {row}: the target has {len(clean)} tokens and corrupt_target {len(corrupt)}; "
        "patching compares what the decoder reads token by token, so they must be equal.\n"
        f"  target         {' | '.join(sides[0])}\n  corrupt_target {' | '.join(sides[1])}\n"
        "Exchange words for ones with as many tokens, or leave corrupt_target out: then both "
        "sides read target."
    )


def _pad(rows: list[list[int]]) -> Int[Tensor, "batch written"]:
    made = [torch.tensor(row, dtype=torch.long) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(made, batch_first=True)
