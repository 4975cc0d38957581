"""What pairs must be: columns of one length, rows that align, positions inside of them."""

from collections.abc import Mapping, Sequence, Sized
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from interp.core.errors import PairsError
from interp.core.prompts.columns import is_integer, labels, shown, whole
from interp.core.prompts.named import positions_by_name, require_inside
from interp.core.prompts.target import Target

EMPTY = "no pairs were given (n = 0); at least one prompt pair is needed"


def consistent(pairs: Any) -> dict[str, Any]:
    """The fields as they are kept: whole numbers, on the host.

    Raises:
        PairsError: one is of another kind, or they do not fit together.
    """
    sides = {"clean": pairs.clean, "corrupt": pairs.corrupt}
    for side, ids in sides.items():
        if not isinstance(ids, Tensor) or ids.ndim != 2 or not is_integer(ids):
            raise PairsError(
                f"{side} is {shown(ids)}, not integer token ids of batch x pos. Build pairs with "
                "Pairs.from_text or Pairs.from_tokens."
            )
    if pairs.clean.shape != pairs.corrupt.shape:
        raise PairsError(
            f"clean is {tuple(pairs.clean.shape)} and corrupt {tuple(pairs.corrupt.shape)}; "
            "patching compares them token by token, so they must be equal. Build pairs with "
            "Pairs.from_text or Pairs.from_tokens."
        )
    columns = {name: whole(name, getattr(pairs, name)) for name in ("lengths", "correct", "wrong")}
    named = {
        name: whole(f"position {name!r}", at)
        for name, at in positions_by_name(pairs.positions).items()
    }
    own = labels("cluster", pairs.cluster), labels("template", pairs.template)
    alone = tuple(map(str, range(len(pairs.clean))))
    groups = {"cluster": own[0] or own[1] or alone, "template": own[1] or own[0] or alone}
    groups["crossed"] = labels("crossed", pairs.crossed)
    counted = sides | columns | {f"position {name!r}": at for name, at in named.items()}
    counted |= {name: of for name, of in groups.items() if of}
    counted |= {"strings": pairs.strings} if pairs.strings else {}
    require_counts(counted)
    width = pairs.clean.shape[1]
    for row, length in enumerate(columns["lengths"].tolist()):
        if not 1 <= length <= width:
            raise PairsError(f"row {row} has {length} tokens of {width}; a row has at least one")
    require_two(columns["correct"], columns["wrong"])
    first = torch.zeros(len(pairs.clean), dtype=torch.long)
    for name, at in named.items():
        require_inside(name, at, first, columns["lengths"])
    if "end" not in named:
        raise PairsError(
            f"the positions are {', '.join(named) or 'none'}, without 'end', where logits are "
            "read. Add to those that are there: positions={**pairs.positions, ...}."
        )
    return {
        **{side: ids.detach().to("cpu", torch.int64) for side, ids in sides.items()},
        **columns,
        "positions": named,
        **groups,
        "strings": tuple(pairs.strings or ()),
        "target": _target(pairs.target, len(pairs.clean)),
    }


def _target(target: object, rows: int) -> Target | None:
    if target is not None and not isinstance(target, Target):
        raise PairsError(
            f"target is {shown(target)}, not a Target of rows of ids. Build pairs with "
            "Pairs.from_text(target=...) or Pairs.from_tokens(target=...)."
        )
    if target is not None and len(target) != rows:
        raise PairsError(f"{rows} clean prompts but {len(target)} of target; give one per prompt")
    return target


def require_counts(columns: Mapping[str, Sized]) -> None:
    """Refuse columns that are not as long as the first."""
    n = len(columns["clean"])
    if n == 0:
        raise PairsError(EMPTY)
    if odd := [f"{len(v)} of {name}" for name, v in columns.items() if len(v) != n]:
        raise PairsError(f"{n} clean prompts but {', '.join(odd)}; give one of each per prompt")


def require_two(correct: Tensor, wrong: Tensor) -> None:
    """Refuse answers that are none, or the same."""
    for name, ids in (("correct", correct), ("wrong", wrong)):
        for row in (ids < -1).nonzero().flatten().tolist():
            raise PairsError(
                f"{name} is {int(ids[row])} in row {row}; an answer is the id of a token, or -1 "
                "where there is none."
            )
    for row in ((correct == wrong) & (correct >= 0)).nonzero().flatten().tolist():
        raise PairsError(
            f"row {row} has token {int(correct[row])} as its correct and as its wrong answer, so "
            "that their difference is 0 whatever the model does. Give two that differ; a metric "
            "of one answer ('prob') reads the correct one alone."
        )


def unequal(row: int, clean: Sequence[int], corrupt: Sequence[int], strings: Sequence) -> str:
    """The message for a pair that does not align, with both rows under one another."""
    sides = strings[row] if strings else (list(map(str, clean)), list(map(str, corrupt)))
    width = [max(map(len, column)) for column in zip_longest(*sides, fillvalue="")]
    shown = [" | ".join(map(str.ljust, side, width)).rstrip() for side in sides]
    return (
        f"pair {row}: clean has {len(clean)} tokens and corrupt {len(corrupt)}; patching compares "
        f"them token by token, so they must be equal and not empty.\n  clean   {shown[0]}\n"
        f"  corrupt {shown[1]}\nExchange words for ones with as many tokens."
    )
