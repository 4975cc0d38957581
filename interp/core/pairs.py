"""Pairs: clean and corrupt prompts, aligned token by token.

Rows may differ in length. They are stored padded on the right, whatever side they came
padded on; the engines run rows of one length together, so that no number depends on padding.
"""

import hashlib
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.core import places
from interp.core.columns import (
    Column,
    grid,
    id_rows,
    is_integer,
    labels,
    shown,
    texts,
    unmasked,
    whole,
)
from interp.core.door import door
from interp.core.errors import PairsError
from interp.core.reading import Encodes as Encodes
from interp.core.reading import answer_ids, last_of_text, prompt_ids
from interp.core.taken import Seed, is_row

Side = Literal["clean", "corrupt"]
EMPTY = "no pairs were given (n = 0); at least one prompt pair is needed"


@dataclass(frozen=True, eq=False)
class Pairs:
    """Prompt pairs with their answers, named positions and clusters.

    Made by `from_text`, `from_tokens` or `dataclasses.replace`, whatever does not fit together is
    refused: two answers that are one token, a position outside of its row or between two tokens.

    Attributes:
        clean, corrupt: token ids, padded on the right with zeros.
        lengths: tokens in each row (the same for its clean and corrupt side).
        correct, wrong: ids of the answers that are compared at the read position; -1 in pairs
            without answers (for metrics that need none).
        positions: index of each named position in each row; `"end"` is always there.
        cluster: the unit of resampling of each row (template, document).
        strings: readable clean and corrupt tokens, for figures and messages; may be empty.
        bos: the policy that the tokens were made with.
        decoder: of an encoder-decoder: ids that the decoder has written already, in every row,
            after its start token. The rows are the encoder's; logits are read after these ids.
    """

    clean: Int[Tensor, "batch pos"]
    corrupt: Int[Tensor, "batch pos"]
    lengths: Int[Tensor, " batch"]
    correct: Int[Tensor, " batch"]
    wrong: Int[Tensor, " batch"]
    positions: Mapping[str, Int[Tensor, " batch"]]
    cluster: tuple[str, ...]
    strings: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = field(default=(), repr=False)
    bos: str = "model"
    decoder: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, value in _consistent(self).items():
            object.__setattr__(self, name, value)

    @property
    def longest(self) -> int:
        """Tokens in the longest row, or in what a decoder reads."""
        return max(int(self.lengths.max()), len(self.decoder) + 1)

    def __len__(self) -> int:
        return self.clean.shape[0]

    def __repr__(self) -> str:
        lines = [
            f"Pairs: {len(self)} prompts of {int(self.lengths.min())} to {int(self.lengths.max())} "
            f"tokens, {len(set(self.cluster))} clusters, positions {', '.join(self.positions)}"
        ]
        for clean, corrupt in self.strings[:2]:
            lines += ["  clean   " + " ".join(clean), "  corrupt " + " ".join(corrupt)]
        return "\n".join(lines)

    @property
    def mask(self) -> Bool[Tensor, "batch pos"]:
        """True where a token is."""
        return torch.arange(self.clean.shape[1]) < self.lengths[:, None]

    def at(self, position: places.Given) -> Int[Tensor, " batch"]:
        """The one index in each row that a place means: a name, an index, or one for each row.

        Raises:
            PositionError: no such name, a position that some row has not, or several in a row.
        """
        return places.index(places.place_of(position), self.positions, self.lengths)

    def select(self, rows: Sequence[int] | Int[Tensor, " rows"]) -> "Pairs":
        """A copy of the given rows, in the given order.

        Raises:
            PairsError: no rows, a row that there is not, or a mask in place of row numbers.
        """
        given = rows.tolist() if isinstance(rows, Tensor | np.ndarray | pd.Series) else rows
        chosen = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else []
        if not chosen or not all(is_row(row, len(self)) for row in chosen):
            raise PairsError(
                f"select takes row numbers, 0 to {len(self) - 1}, at least one; got "
                f"{chosen[:8] or shown(rows)}. Of a mask, take mask.nonzero().flatten()."
            )
        index = torch.tensor([int(row) for row in chosen])
        return type(self)(
            clean=self.clean[index],
            corrupt=self.corrupt[index],
            lengths=self.lengths[index],
            correct=self.correct[index],
            wrong=self.wrong[index],
            positions={name: at[index] for name, at in self.positions.items()},
            cluster=tuple(self.cluster[i] for i in chosen),
            strings=tuple(self.strings[i] for i in chosen) if self.strings else (),
            bos=self.bos,
            decoder=self.decoder,
        )

    @door
    def split(self, *, seed: Seed = 0) -> "tuple[Pairs, Pairs]":
        """Two halves that share no cluster: choose on the first, report on the second.

        Raises:
            PairsError: there is only one cluster.
        """
        names = sorted(set(self.cluster))
        if len(names) < 2:
            raise PairsError(
                f"all {len(self)} pairs belong to one cluster ({names[0]!r}), so they cannot be "
                "split into independent halves; use more templates or give cluster= per row."
            )
        shuffled = np.random.default_rng([seed, len(names)]).permutation(names)
        first = set(shuffled[: len(names) // 2])
        rows = [[i for i, c in enumerate(self.cluster) if (c in first) == half] for half in (1, 0)]
        return self.select(rows[0]), self.select(rows[1])

    @property
    def fingerprint(self) -> str:
        """Hash of everything that can change a number; how wide the padding is cannot."""
        names = sorted(self.positions)
        known = (self.cluster, self.bos, names, *([self.decoder] if self.decoder else ()))
        digest = hashlib.sha256(repr(known).encode())
        answers = (self.lengths, self.correct, self.wrong, *(self.positions[n] for n in names))
        for tensor in (self.clean[self.mask], self.corrupt[self.mask], *answers):
            digest.update(tensor.to(torch.int64).numpy().tobytes())
        return digest.hexdigest()[:16]

    @classmethod
    def from_text(
        cls,
        model: Encodes,
        *,
        clean: Column,
        corrupt: Column,
        correct: Column | None = None,
        wrong: Column | None = None,
        positions: Mapping[str, Column] | None = None,
        cluster: Column | None = None,
        bos: str = "model",
        decoder: Sequence[int] = (),
    ) -> "Pairs":
        """Tokenise prompts and answers with the model's tokenizer.

        A column is a list, tuple, array, Series or tensor. `"end"` is the last token of the text:
        what the tokenizer appends by itself (an end mark, BERT's [SEP]) stays in the row, after
        it. No causal model is asked what follows its end mark; and where the text of a masked
        model ends in [MASK], `"end"` is there, and not at [SEP].

        Args:
            correct, wrong: answers as they follow the prompt, usually with a leading space; may
                be left out where the metric needs none (`"cosine"`, `"kl"`).
            positions: token indices, one for each row, for each name.
            cluster: what each row belongs to; by default every row stands alone.
            bos: `"model"` does what the tokenizer does by default, `"none"` adds nothing.
            decoder: ids after the start token that an encoder-decoder's decoder is given.

        Raises:
            PairsError: a pair of unequal length, an answer of several tokens, two BOS tokens, two
                answers that are one token, or a word that the tokenizer has no token for.

        Warns:
            UserWarning: answers without the space that their prompts want before them.
        """
        given = {"clean": clean, "corrupt": corrupt, "correct": correct, "wrong": wrong}
        if single := [name for name, values in given.items() if isinstance(values, str)]:
            raise PairsError(f"{' and '.join(single)}: give a list of texts, not one text")
        read = {name: texts(name, values) for name, values in given.items() if values is not None}
        _require_counts(read)
        before, after = (prompt_ids(model, side, read[side], bos) for side in ("clean", "corrupt"))
        answers = answer_ids(model, read)
        tokens = [[tuple(model.show(ids)) for ids in side] for side in (before, after)]
        at = zip(read["clean"], before, strict=True)
        return cls.from_tokens(
            clean=before,
            corrupt=after,
            correct=answers.get("correct"),
            wrong=answers.get("wrong"),
            positions={"end": [last_of_text(model, *row, bos) for row in at]} | _named(positions),
            cluster=cluster,
            strings=tuple(zip(*tokens, strict=False)),
            bos=bos,
            decoder=decoder,
        )

    @classmethod
    def from_tokens(
        cls,
        *,
        clean: Column,
        corrupt: Column,
        correct: Column | None = None,
        wrong: Column | None = None,
        positions: Mapping[str, Column] | None = None,
        cluster: Column | None = None,
        mask: Column | None = None,
        strings: Sequence[tuple[tuple[str, ...], tuple[str, ...]]] = (),
        bos: str = "model",
        decoder: Sequence[int] = (),
    ) -> "Pairs":
        """Align rows of token ids.

        A column is a list, tuple, array, Series or tensor.

        Args:
            clean, corrupt: rows of ids; or padded ids with their mask, `batch pos`.
            mask: for padded ids, True where a token is; padding may stand on either side.
            positions: indices into the rows as given (padding included); `"end"` defaults to
                the last token.

        Raises:
            PairsError: no rows, unequal lengths, a mask with holes, counts that differ, two
                answers that are one token, or a position that is no place in its row.
        """
        if (correct is None) != (wrong is None):
            raise PairsError("give both correct= and wrong= answers, or neither")
        rows = {side: id_rows(side, ids) for side, ids in (("clean", clean), ("corrupt", corrupt))}
        n = len(rows["clean"])
        answers = {
            side: whole(side, [-1] * n if given is None else given)
            for side, given in (("correct", correct), ("wrong", wrong))
        }
        named = {name: whole(f"position {name!r}", at) for name, at in _named(positions).items()}
        groups = labels("cluster", range(n) if cluster is None else cluster)
        counted = {f"position {name!r}": at for name, at in named.items()}
        kept = None if mask is None else grid("mask", mask)
        counted |= {"mask": rows["clean"] if kept is None else kept}
        _require_counts(rows | answers | {"cluster": groups} | counted)
        first = torch.zeros(n, dtype=torch.long)
        if kept is not None:
            (first, clean), (_, corrupt) = (unmasked(ids, kept) for ids in rows.values())
            first, rows = torch.tensor(first), {"clean": clean, "corrupt": corrupt}
        for row, (a, b) in enumerate(zip(rows["clean"], rows["corrupt"], strict=True)):
            if len(a) != len(b) or not a:
                raise PairsError(_unequal(row, a, b, strings))
        lengths = torch.tensor([len(row) for row in rows["clean"]])
        for name, at in named.items():
            _require_inside(name, at, first, lengths)
        return cls(
            clean=_pad(rows["clean"]),
            corrupt=_pad(rows["corrupt"]),
            lengths=lengths,
            **answers,
            positions={"end": lengths - 1} | {name: at - first for name, at in named.items()},
            cluster=groups,
            strings=tuple(strings),
            bos=bos,
            decoder=decoder,
        )


def _consistent(pairs: Pairs) -> dict[str, Any]:
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
    named = {name: whole(f"position {name!r}", at) for name, at in _named(pairs.positions).items()}
    groups = labels("cluster", pairs.cluster)
    counted = sides | columns | {f"position {name!r}": at for name, at in named.items()}
    counted |= {"cluster": groups} | ({"strings": pairs.strings} if len(pairs.strings) else {})
    _require_counts(counted)
    width = pairs.clean.shape[1]
    for row, length in enumerate(columns["lengths"].tolist()):
        if not 1 <= length <= width:
            raise PairsError(f"row {row} has {length} tokens of {width}; a row has at least one")
    _require_two(columns["correct"], columns["wrong"])
    first = torch.zeros(len(groups), dtype=torch.long)
    for name, at in named.items():
        _require_inside(name, at, first, columns["lengths"])
    if "end" not in named:
        raise PairsError(
            f"the positions are {', '.join(named) or 'none'}, without 'end', where logits are "
            "read. Add to those that are there: positions={**pairs.positions, ...}."
        )
    return {
        **{side: ids.detach().to("cpu", torch.int64) for side, ids in sides.items()},
        **columns,
        "positions": named,
        "cluster": groups,
        "strings": tuple(pairs.strings),
        "decoder": tuple(whole("decoder", pairs.decoder).tolist()),
    }


def _pad(rows: list[list[int]]) -> Int[Tensor, "batch pos"]:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(r) for r in rows], batch_first=True)


def _named(positions: object) -> dict[str, Any]:
    if not isinstance(positions, Mapping | None):
        raise PairsError(
            f"positions is {shown(positions)}; give each a name: positions={{'subject': [3, 4]}}."
        )
    return dict(positions or {})


def _require_counts(columns: Mapping[str, Sized]) -> None:
    """Refuse columns that are not as long as the first."""
    n = len(columns["clean"])
    if n == 0:
        raise PairsError(EMPTY)
    if odd := [f"{len(v)} of {name}" for name, v in columns.items() if len(v) != n]:
        raise PairsError(f"{n} clean prompts but {', '.join(odd)}; give one of each per prompt")


def _require_inside(name: str, at: Tensor, first: Tensor, lengths: Tensor) -> None:
    """Refuse a named position outside of its row, whose tokens begin at `first`."""
    outside = (at < first) | (at >= first + lengths)
    for row in outside.nonzero().flatten().tolist():
        raise PairsError(
            f"position {name!r} is {int(at[row])} in row {row}, whose tokens "
            f"stand at {int(first[row])} to {int(first[row] + lengths[row]) - 1}"
        )


def _require_two(correct: Tensor, wrong: Tensor) -> None:
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


def _unequal(row: int, clean: Sequence[int], corrupt: Sequence[int], strings: Sequence) -> str:
    """The message for a pair that does not align, with both rows under one another."""
    sides = strings[row] if strings else (list(map(str, clean)), list(map(str, corrupt)))
    width = [max(map(len, column)) for column in zip_longest(*sides, fillvalue="")]
    shown = [" | ".join(map(str.ljust, side, width)).rstrip() for side in sides]
    return (
        f"pair {row}: clean has {len(clean)} tokens and corrupt {len(corrupt)}; patching compares "
        f"them token by token, so they must be equal and not empty.\n  clean   {shown[0]}\n"
        f"  corrupt {shown[1]}\nExchange words for ones with as many tokens."
    )
