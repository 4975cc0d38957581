"""Pairs: clean and corrupt prompts, aligned token by token.

Rows may differ in length. They are stored padded on the right, whatever side they came
padded on; the engines run rows of one length together, so that no number depends on padding.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.core.door.door import door
from interp.core.door.taken import Seed, is_row
from interp.core.errors import PairsError
from interp.core.prompts import places
from interp.core.prompts.aligned import (
    consistent,
    positions_by_name,
    require_counts,
    require_inside,
    unequal,
)
from interp.core.prompts.columns import Column, grid, id_rows, labels, shown, texts, unmasked, whole
from interp.core.prompts.reading import Chats as Chats
from interp.core.prompts.reading import Encodes as Encodes
from interp.core.prompts.reading import answer_ids, last_of_text, prompt_ids
from interp.core.sampling.halves import halves

Side = Literal["clean", "corrupt"]


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
        cluster: the independent unit that each row belongs to (noun, document): whole units are
            drawn again for intervals, and change their signs together in tests.
        template: the text that each row fills. A mean over prompts is taken within one template and
            length, where a position means the same in every row; by default the cluster.
        crossed: a second kind of independent unit, which runs across the first: nouns x templates;
            empty where there is none.
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
    template: tuple[str, ...] = ()
    crossed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value in consistent(self).items():
            object.__setattr__(self, name, value)

    @property
    def longest(self) -> int:
        """Tokens in the longest row, or in what a decoder reads."""
        return max(int(self.lengths.max()), len(self.decoder) + 1)

    def __len__(self) -> int:
        return self.clean.shape[0]

    def __repr__(self) -> str:
        counted = [f"{len(set(self.cluster))} clusters"]
        if self.template != self.cluster:
            counted.append(f"{len(set(self.template))} templates")
        lines = [
            f"Pairs: {len(self)} prompts of {int(self.lengths.min())} to {int(self.lengths.max())} "
            f"tokens, {', '.join(counted)}, positions {', '.join(self.positions)}"
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
            template=tuple(self.template[i] for i in chosen),
            crossed=tuple(self.crossed[i] for i in chosen) if self.crossed else (),
        )

    @property
    def units(self) -> dict[str, tuple[str, ...]]:
        """The columns of a table that say what is independent: `cluster`, and `crossed` if any."""
        return {"cluster": self.cluster, **({"crossed": self.crossed} if self.crossed else {})}

    def require_one_kind(self, what: str) -> None:
        """Refuse crossed clusters where one kind of units is resampled.

        Raises:
            PairsError: saying how to choose.
        """
        if self.crossed:
            raise PairsError(
                f"these pairs have {len(set(self.cluster))} clusters crossed with "
                f"{len(set(self.crossed))} others, and {what} resamples one kind only. Choose the "
                "one with fewer units, which gives the wider interval: "
                "dataclasses.replace(pairs, crossed=()), or cluster=pairs.crossed, crossed=()."
            )

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Of each row the template and the length: where rows agree in both, positions align."""
        return list(zip(self.template, self.lengths.tolist(), strict=True))

    @door
    def split(self, *, seed: Seed = 0) -> "tuple[Pairs, Pairs]":
        """Two halves that share no cluster: choose on the first, report on the second.

        Tables that are measured on these pairs are split alike (`Results.split`). Of crossed
        clusters the halves share none of either kind; what mixes them is in no half.

        Raises:
            PairsError: there is only one cluster.
        """
        if single := [kind for kind, of in self.units.items() if len(set(of)) < 2]:
            name = self.units[single[0]][0]
            raise PairsError(
                f"all {len(self)} pairs belong to one {single[0]} ({name!r}), so they cannot be "
                "split into independent halves; use more templates or give cluster= per row."
            )
        rows = [np.flatnonzero(half).tolist() for half in halves(self.units.values(), seed=seed)]
        if not all(map(len, rows)):
            raise PairsError(
                f"no pair is of the second half of both kinds of clusters ({len(self)} pairs, "
                f"{len(set(self.cluster))} x {len(set(self.crossed))} clusters), or none of the "
                "first. Cross more of them, or split by one kind: replace(pairs, crossed=())."
            )
        return self.select(rows[0]), self.select(rows[1])

    @property
    def fingerprint(self) -> str:
        """Hash of everything that can change a number; how wide the padding is cannot."""
        names = sorted(self.positions)
        apart = () if self.template == self.cluster else (self.template,)
        more = [*((self.decoder,) if self.decoder else ()), *apart]
        more += [("crossed", self.crossed)] if self.crossed else []
        known = (self.cluster, self.bos, names, *more)
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
        template: Column | None = None,
        crossed: Column | None = None,
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
            cluster: the independent unit of each row, such as its noun or document; by default
                its template, and without one every row stands alone.
            template: the text that each row fills; by default its cluster.
            crossed: a second kind of independent unit across the first: `cluster=nouns,
                crossed=templates`, where the same nouns are put into each template.
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
        require_counts(read)
        before, after = (prompt_ids(model, side, read[side], bos) for side in ("clean", "corrupt"))
        answers = answer_ids(model, read)
        tokens = [[tuple(model.show(ids)) for ids in side] for side in (before, after)]
        at = zip(read["clean"], before, strict=True)
        return cls.from_tokens(
            clean=before,
            corrupt=after,
            correct=answers.get("correct"),
            wrong=answers.get("wrong"),
            positions={"end": [last_of_text(model, *row, bos) for row in at]}
            | positions_by_name(positions),
            cluster=cluster,
            template=template,
            crossed=crossed,
            strings=tuple(zip(*tokens, strict=False)),
            bos=bos,
            decoder=decoder,
        )

    @classmethod
    def from_chat(
        cls,
        model: Chats,
        *,
        clean: Sequence[Sequence[Mapping[str, str]]],
        corrupt: Sequence[Sequence[Mapping[str, str]]] | None = None,
        **more: Any,
    ) -> "Pairs":
        """Chats in the words of the tokenizer's own template, up to where the model answers.

        The template writes the beginning-of-sequence token, if any; nothing adds another.

        Args:
            clean, corrupt: lists of chats, each a list of messages with a role and a content; by
                default both sides are the same.
            more: answers, positions, clusters and templates, as `from_tokens` takes them.

        Raises:
            PairsError: no template, what is no chat, or as `from_tokens`.
        """
        sides = {"clean": clean, "corrupt": clean if corrupt is None else corrupt}
        rows = {side: [model.encode_chat(chat) for chat in of] for side, of in sides.items()}
        tokens = [[tuple(model.show(ids)) for ids in of] for of in rows.values()]
        strings = tuple(zip(*tokens, strict=False))
        return cls.from_tokens(**rows, strings=strings, bos="chat template", **more)

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
        template: Column | None = None,
        crossed: Column | None = None,
        mask: Column | None = None,
        strings: Sequence[tuple[tuple[str, ...], tuple[str, ...]]] = (),
        bos: str = "model",
        decoder: Sequence[int] = (),
    ) -> "Pairs":
        """Align rows of token ids.

        A column is a list, tuple, array, Series or tensor.

        Args:
            clean, corrupt: rows of ids; or padded ids with their mask, `batch pos`.
            cluster, template, crossed: as in `from_text`.
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
        named = {
            name: whole(f"position {name!r}", at)
            for name, at in positions_by_name(positions).items()
        }
        given = {"cluster": cluster, "template": template, "crossed": crossed}
        units = {name: labels(name, of) for name, of in given.items() if of is not None}
        counted = {f"position {name!r}": at for name, at in named.items()}
        kept = None if mask is None else grid("mask", mask)
        counted |= {"mask": rows["clean"] if kept is None else kept}
        require_counts(rows | answers | units | counted)
        first = torch.zeros(n, dtype=torch.long)
        if kept is not None:
            (first, clean), (_, corrupt) = (unmasked(ids, kept) for ids in rows.values())
            first, rows = torch.tensor(first), {"clean": clean, "corrupt": corrupt}
        for row, (a, b) in enumerate(zip(rows["clean"], rows["corrupt"], strict=True)):
            if len(a) != len(b) or not a:
                raise PairsError(unequal(row, a, b, strings))
        lengths = torch.tensor([len(row) for row in rows["clean"]])
        for name, at in named.items():
            require_inside(name, at, first, lengths)
        return cls(
            clean=_pad(rows["clean"]),
            corrupt=_pad(rows["corrupt"]),
            lengths=lengths,
            **answers,
            positions={"end": lengths - 1} | {name: at - first for name, at in named.items()},
            **{"cluster": (), **units},
            strings=tuple(strings),
            bos=bos,
            decoder=decoder,
        )


def _pad(rows: list[list[int]]) -> Int[Tensor, "batch pos"]:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(r) for r in rows], batch_first=True)
