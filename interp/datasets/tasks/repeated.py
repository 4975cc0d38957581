"""Repeated random tokens: what an induction head needs, and nothing else that could help.

A row is BOS (if there is one), some random tokens that never return, then a block of random tokens
again and again until the row is full. All tokens up to the end of the first block are different,
so from the second block on, the token that followed last time is the only answer (Olsson et al.
2022, "Induction heads"). The number of tokens before and the block's length are drawn for each
row, so a position tells nothing about where to look.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Int

from interp.core.door.door import door
from interp.core.door.taken import Count, Index, Seed
from interp.core.errors import PairsError
from interp.core.prompts.pairs import Pairs
from interp.core.prompts.sequences import UNSCORED, Sequences
from interp.models.model import Model

AT_ONCE = 1 << 22
"""Random numbers held at a time."""
Vocabulary = int | Sequence[int] | Model
"""How many ids there are, ids, or the model that has them."""


@door
def repeated(
    n: Count,
    *,
    vocabulary: Vocabulary,
    pos: int,
    seed: Seed = 0,
    block: tuple[int, int] = (4, 16),
    before: tuple[int, int] = (0, 8),
    bos: Index | None = None,
) -> Sequences:
    """Rows of repeated random tokens; scored where the token has been followed by something.

    The label is the next token, the distance from a position to the answer is the block's length
    less one. The row's last position has no next token and is not scored.

    Args:
        n: number of rows.
        vocabulary: the model whose ids are drawn, all that its tokenizer has but the special ones;
            or ids; or how many (0 and up). BOS is left out. Of a number alone nobody knows which
            ids are special, and a row that ends in a pad token is refused by the model whose it
            is: give that model, or ids without `tokenizer.all_special_ids`.
        pos: length of each row.
        seed: of all that is drawn.
        block: least and greatest length of the block.
        before: least and greatest number of tokens before the first block.
        bos: id at position 0.

    Raises:
        PairsError: lengths that no block has, too few ids for tokens that all differ, or a row too
            short to hold a block and a scored token of its repetition.
    """
    ids = _ids(vocabulary, bos)
    first = 0 if bos is None else 1
    _accept(block, before, len(ids))
    needed = first + before[1] + block[1] + 2
    if pos < needed:
        raise PairsError(
            f"rows of {pos} tokens cannot hold {before[1]} tokens before a block of {block[1]} and "
            f"two of its repetition; give pos of at least {needed}, or smaller blocks."
        )
    place = np.arange(pos)
    parts = []
    for drawn, start, length in _draw("repeated", n, seed, ids, block, before):
        # the same few columns over and over: the block, after what stands before it
        since = place - first - start[:, None]
        column = np.where(
            since < 0, since + start[:, None], start[:, None] + since % length[:, None]
        )
        tokens = np.take_along_axis(drawn, np.maximum(column, 0), 1)
        if bos is not None:
            tokens[:, 0] = bos
        scored = (since >= length[:, None]) & (place < pos - 1)
        following = np.roll(tokens, -1, 1)
        parts.append(
            (
                tokens,
                np.where(scored, following, UNSCORED),
                np.where(scored, length[:, None] - 1, 0),
            )
        )
    tokens, labels, distance = (
        torch.from_numpy(np.concatenate(x)) for x in zip(*parts, strict=True)
    )
    return Sequences(tokens, labels, distance)


@door
def repeated_pairs(
    n: Count,
    *,
    vocabulary: Vocabulary,
    seed: Seed = 0,
    block: tuple[int, int] = (4, 16),
    before: tuple[int, int] = (0, 8),
    bos: Index | None = None,
) -> Pairs:
    """Prompts that end inside the first repetition; the corrupt side saw another successor.

    Clean: `... A B ... A`, so that induction says B. Corrupt: `... A C ... A`, the same but for
    that one token, so that it says C.

    Args:
        n: number of pairs; lengths differ between rows.
        vocabulary, seed, block, before, bos: as for `repeated`.

    Returns:
        n pairs; `correct` is B and `wrong` is C. Positions: "first" (the earlier A), "successor"
        (B or C), "end" (the last A). Every row is a cluster of its own.

    Raises:
        PairsError: blocks of one token, or too few ids for tokens that differ.
    """
    ids = _ids(vocabulary, bos)
    _accept(block, before, len(ids) - 1)
    rng = np.random.default_rng([*b"repeated end", seed])
    first = 0 if bos is None else 1
    clean, corrupt, at = [], [], []
    for drawn, starts, lengths in _draw("repeated_pairs", n, seed, ids, block, before, spare=1):
        for row, start, length in zip(drawn, starts, lengths, strict=True):
            last = int(rng.integers(length - 1))  # of the block, but for its last token
            once = [*([] if bos is None else [bos]), *row[: start + length].tolist()]
            where = first + int(start) + last
            clean.append([*once, *row[start : start + last + 1].tolist()])
            corrupt.append([*clean[-1]])
            corrupt[-1][where + 1] = int(row[-1])
            at.append(where)
    return Pairs.from_tokens(
        clean=clean,
        corrupt=corrupt,
        correct=[row[i + 1] for row, i in zip(clean, at, strict=True)],
        wrong=[row[i + 1] for row, i in zip(corrupt, at, strict=True)],
        positions={"first": at, "successor": [i + 1 for i in at]},
        bos="none",
    )


Drawn = tuple[Int[np.ndarray, "row ids"], Int[np.ndarray, " row"], Int[np.ndarray, " row"]]
"""Different ids for each row, how many stand before the block, and the block's length."""


def _draw(
    name: str,
    n: int,
    seed: int,
    ids: Int[np.ndarray, " ids"],
    block: tuple[int, int],
    before: tuple[int, int],
    spare: int = 0,
) -> Iterator[Drawn]:
    """A few rows at a time, with `spare` ids more than the longest row needs."""
    rng = np.random.default_rng([*name.encode(), seed])
    need, rows = before[1] + block[1] + spare, max(1, AT_ONCE // len(ids))
    for i in range(0, n, rows):
        count = min(rows, n - i)
        order = np.argpartition(rng.random((count, len(ids))), need - 1, axis=1)[:, :need]
        order = rng.permuted(order, axis=1)  # a partition leaves an order of its own
        start = rng.integers(before[0], before[1] + 1, count)
        length = rng.integers(block[0], block[1] + 1, count)
        yield ids[order], start, length


def _ids(vocabulary: Vocabulary, bos: int | None) -> Int[np.ndarray, " ids"]:
    """What may be drawn, in ascending order."""
    if isinstance(vocabulary, Model):
        ids = _ordinary(vocabulary)
    else:
        ids = np.arange(vocabulary) if isinstance(vocabulary, int) else np.unique(list(vocabulary))
    if len(ids) and ids[0] < 0:
        raise PairsError(f"the vocabulary has {ids[0]}; ids of tokens are counted from 0.")
    return ids[ids != (-1 if bos is None else bos)].astype(np.int64)


def _ordinary(model: Model) -> Int[np.ndarray, " ids"]:
    """The ids that texts are made of: neither special ones nor those of no token."""
    model.require_text()
    if model.tokenizer is None:
        return np.arange(model.facts.d_vocab)
    ids = np.arange(min(model.facts.d_vocab, len(model.tokenizer)))
    special = {*model.tokenizer.all_special_ids, *model.tokenizer.added_tokens_decoder}
    return ids[~np.isin(ids, list(special))]


def _accept(block: tuple[int, int], before: tuple[int, int], ids: int) -> None:
    if not 2 <= block[0] <= block[1] or not 0 <= before[0] <= before[1]:
        raise PairsError(
            f"block={block} and before={before} are the least and the greatest length; a block has "
            "at least 2 tokens, and no less can stand before it than 0."
        )
    if before[1] + block[1] > ids:
        raise PairsError(
            f"{ids} ids are too few for {before[1]} tokens before a block of {block[1]} that all "
            "differ. Give a larger vocabulary, or smaller blocks."
        )
