"""When an intervention is made: at which positions of a prompt, and of what is said after it.

| positions | where, and so when |
| --- | --- |
| `"end"`, `"s2"`, `3`, one or several for each row | there in the prompt: once |
| `"prompt"` | at every token of the prompt: once |
| `"generated"` | at every token that was said, as it is read: at each step from the second on |
| `"from end"`, `"from s2"`, `"from 3"` | there, and at everything after: at every step |
| `"all"`, `"after first"`, `"rest"` | as of pairs, and at all that is said |

The first token is read off the prompt's last position: `"from end"` reaches every token that is
said, `"generated"` all but the first. In an encoder-decoder an encoder's sites (and the keys and
values of cross-attention) have the positions of the prompt, which is read once; a decoder's have
those of what it writes: its start token and `Pairs.target` are the prompt there.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.core.errors import PositionError
from interp.core.parts.sites import Site
from interp.core.prompts import places
from interp.core.prompts.pairs import Pairs
from interp.engine.plan.positions import decodes, target_names
from interp.engine.plan.positions import places as written

PROMPT, GENERATED, FROM = "prompt", "generated", "from "


class Span(NamedTuple):
    """Positions of the prompt where a site stands, and of what follows it with it."""

    prompt: int
    room: int


def span(pairs: Pairs, rows: Sequence[int], n: int, site: Site) -> Span:
    """In rows of one length, after which n tokens are said."""
    if decodes(site):
        read = int(pairs.written[rows[0]])
        return Span(read, read + n)
    length = int(pairs.lengths[rows[0]])
    return Span(length, length if site.stack else length + n)


def read_once(site: Site) -> bool:
    """Does the site stand where an encoder-decoder reads its prompt?"""
    return site.stack is not None and not decodes(site)


def lasting(
    pairs: Pairs, positions: places.Place, rows: Sequence[int], n: int, site: Site
) -> Bool[Tensor, "row room"]:
    """Which positions a place means in rows of one length and in what follows them.

    Args:
        n: tokens that are said.

    Raises:
        PositionError: an unknown name, one that the pairs use for another place, or a position of
            what is not said yet.
    """
    length, room = span(pairs, rows, n, site)
    at = torch.arange(room).expand(len(rows), -1)
    if isinstance(positions, str):
        word = positions if positions in (PROMPT, GENERATED) else positions.startswith(FROM)
        if word and positions in pairs.positions:
            raise PositionError(
                f"these pairs call a position {positions!r}, which generation takes for a time. "
                "Give the position another name (dataclasses.replace(pairs, positions=...))."
            )
        if positions == GENERATED and read_once(site):
            raise PositionError(
                f"'{site}' stands where the prompt is read, once, and what is said is not: there "
                "is no 'generated'. Give 'prompt', or a place of it."
            )
        if positions == PROMPT:
            return at < length
        if positions == GENERATED:
            return at >= length
        if positions.startswith(FROM):
            return at >= _first(pairs, positions.removeprefix(FROM), rows, n, site)[:, None]
    try:
        inside = written(pairs, positions, rows, site)
    except PositionError as error:
        raise _later(error, positions, length) from None
    wide = positions in places.OWN
    return torch.cat([inside, torch.full((len(rows), room - length), wide)], 1)


def _first(pairs: Pairs, name: str, rows: Sequence[int], n: int, site: Site) -> Tensor:
    """The position of each row from which on something is done."""
    length, room = span(pairs, rows, n, site)
    if name.strip().isdigit():
        if int(name) >= room:
            raise PositionError(
                f"nothing stands from position {int(name)} on: row {rows[0]} has {length} tokens "
                f"at '{site}', and with what is said {room}, counted from 0. Give an earlier one, "
                "or a larger n."
            )
        return torch.full((len(rows),), int(name))
    if decodes(site):
        written(pairs, name, rows, site)  # refuses names of the encoder's tokens
        return places.index(name, target_names(pairs), pairs.written)[list(rows)]
    return places.index(name, pairs.positions, pairs.lengths)[list(rows)]


def _later(error: PositionError, positions: places.Place, length: int) -> PositionError:
    number = str(positions)
    if number.isdigit() and int(number) >= length:
        return PositionError(
            f"{error} What will be said has no position yet: say 'from {number}' for it and all "
            "after it, or 'generated'."
        )
    return PositionError(
        f"{error} In time there are also 'prompt', 'generated', and 'from end' (or another name "
        "or number)."
    )
