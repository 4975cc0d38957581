"""Pairs: clean and corrupt prompts, aligned token by token.

Rows may differ in length. They are stored padded on the right, whatever side they came
padded on; the engines run rows of one length together, so that no number depends on padding.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.core.door.door import door
from interp.core.door.taken import Seed, is_row
from interp.core.errors import PairsError
from interp.core.prompts import places
from interp.core.prompts.aligned import consistent, require_counts, unequal
from interp.core.prompts.columns import Column, grid, id_rows, labels, shown, texts, unmasked, whole
from interp.core.prompts.images import Pixels, Sees, of_places, rows_of
from interp.core.prompts.named import positions_by_name, require_inside
from interp.core.prompts.patches import Patches
from interp.core.prompts.reading import Chats as Chats
from interp.core.prompts.reading import Encodes as Encodes
from interp.core.prompts.reading import answer_ids, read_side, read_target
from interp.core.prompts.target import Target, target_of
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
        target: of an encoder-decoder: what the decoder reads after its start token, on both sides.
            The rows above are then the encoder's, and the logits are read in the decoder.
        patches: of images: the pixels of the patches whose ids stand in the rows.
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
    target: Target | None = None
    template: tuple[str, ...] = ()
    crossed: tuple[str, ...] = ()
    patches: Patches | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name, value in consistent(self).items():
            object.__setattr__(self, name, value)

    @property
    def longest(self) -> int:
        """Tokens in the longest row, or in what a decoder reads."""
        return int(self.widths.max())

    @property
    def written(self) -> Int[Tensor, " batch"]:
        """Tokens that a decoder reads in each row, its start token the first of them."""
        if self.target is None:
            return torch.ones_like(self.lengths)
        return self.target.lengths + 1

    @property
    def widths(self) -> Int[Tensor, " batch"]:
        """Of each row the tokens of the stack that reads more of them."""
        return torch.maximum(self.lengths, self.written)

    @cached_property
    def extents(self) -> list[tuple[int, int]]:
        """Tokens of each row, and those that a decoder reads: equal ones can run together."""
        return [*zip(self.lengths.tolist(), self.written.tolist(), strict=True)]

    def ids(
        self, side: Side, rows: Sequence[int]
    ) -> tuple[Int[Tensor, "rows pos"], Int[Tensor, "rows written"] | None]:
        """What runs of some rows of one extent: their tokens, and what a decoder is given."""
        index = list(rows)
        length, written = self.extents[index[0]]
        tokens: Tensor = getattr(self, side)[index, :length]
        if self.target is None:
            return tokens, None
        return tokens, getattr(self.target, side)[index, : written - 1]

    def __len__(self) -> int:
        return self.clean.shape[0]

    def __repr__(self) -> str:
        counted = [f"{len(set(self.cluster))} clusters"]
        if self.template != self.cluster:
            counted.append(f"{len(set(self.template))} templates")
        if self.patches is not None:
            return f"Pairs: {len(self)} of images, {', '.join([*counted, of_places(self)])}"
        lines = [
            f"Pairs: {len(self)} prompts of {int(self.lengths.min())} to {int(self.lengths.max())} "
            f"tokens, {', '.join(counted)}, positions {', '.join(self.positions)}"
        ]
        if self.target is not None:
            lines.append(f"  with {self.target}")
        for row, (clean, corrupt) in enumerate(self.strings[:2]):
            lines += ["  clean   " + " ".join(clean), "  corrupt " + " ".join(corrupt)]
            if self.target is not None and self.target.strings:
                lines.append("  target  " + " ".join(self.target.strings[row][0]))
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
            target=None if self.target is None else self.target.select(index.tolist()),
            template=tuple(self.template[i] for i in chosen),
            crossed=tuple(self.crossed[i] for i in chosen) if self.crossed else (),
            patches=self.patches,
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
    def groups(self) -> list[tuple[str, int] | tuple[str, int, int]]:
        """Of each row template and length, with a target also what a decoder reads of it: where
        rows agree in these, positions align.
        """
        both = zip(self.template, self.extents, strict=True)
        if self.target is None:
            return [(template, length) for template, (length, _) in both]
        return [(template, *extent) for template, extent in both]

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
        more = [*((self.target.fingerprint,) if self.target else ()), *apart]
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
        target: Column | None = None,
        corrupt_target: Column | None = None,
        target_positions: Mapping[str, Column] | None = None,
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
            target: of an encoder-decoder: what its decoder reads after its start token, a text for
                each row: a translation, or its beginning. It is tokenised as the tokenizer does
                texts of the target language, and what that appends (an end mark) stays after
                `"end"`, so that `"next_token_loss"` is the loss of the whole translation.
            corrupt_target: what it reads on the corrupt side, by default the same.
            target_positions: as `positions`, of the decoder: 0 is its start token. A name means
                these at the decoder's sites and where logits are read, `positions` at the
                encoder's.
            decoder: in place of `target`: ids that it reads in every row.

        Raises:
            PairsError: a pair or a target of unequal length, an answer of several tokens, two BOS
                tokens, two answers that are one token, or a word that the tokenizer has no token
                for.

        Warns:
            UserWarning: answers without the space that their prompts want before them.
        """
        given = {"clean": clean, "corrupt": corrupt, "correct": correct, "wrong": wrong}
        given |= {"target": target, "corrupt_target": corrupt_target}
        if single := [name for name, values in given.items() if isinstance(values, str)]:
            raise PairsError(f"{' and '.join(single)}: give a list of texts, not one text")
        read = {name: texts(name, values) for name, values in given.items() if values is not None}
        require_counts(read)
        before, after = (read_side(model, side, read[side], bos) for side in ("clean", "corrupt"))
        written = read_target(model, read, target_positions, bos)
        answers = answer_ids(model, read)
        tokens = zip(before.shown, after.shown, strict=False)
        return cls.from_tokens(
            clean=before.ids,
            corrupt=after.ids,
            correct=answers.get("correct"),
            wrong=answers.get("wrong"),
            positions={"end": before.ends} | positions_by_name(positions),
            cluster=cluster,
            template=template,
            crossed=crossed,
            strings=tuple(tokens),
            bos=bos,
            **written,
            decoder=decoder,
        )

    @classmethod
    def from_images(
        cls,
        model: Sees,
        *,
        clean: object,
        corrupt: object,
        correct: Column | None = None,
        wrong: Column | None = None,
        positions: Mapping[str, Column] | None = None,
        cluster: Column | None = None,
        template: Column | None = None,
        crossed: Column | None = None,
        pixels: Pixels = "raw",
    ) -> "Pairs":
        """Cut images into the patches that a vision transformer reads.

        A row is the class token ("cls", which is `"end"` too: the logits are read there) and the
        patches row by row ("r0c0", "r0c1", ...), each a named position. The id of a patch is a hash
        of its pixels, so that equal patches are equal ids.

        Args:
            model: whose images these are: their size, and its processor's mean and deviation.
            clean, corrupt: images, `batch channel height width` or with the channel last, of one
                channel without it; an array, a tensor or a list. They are not resized.
            correct, wrong: classes, by number or by the config's names. `wrong` may be left out
                where the metric needs the correct class alone ("prob", "log_prob", "logit").
            positions: further ones: for each row a name ("r2c3"), (row, column), or an index.
            cluster, template, crossed: as in `from_text`; but all images share a template, where
                none is given, and each is a cluster by itself: their positions mean the same.
            pixels: "raw" are 0 to 255 in uint8 or 0 to 1 in floats, and are normalised as the
                model's processor does (where it has none, brought to 0 to 1); "normalised" are as
                the model reads them.

        Raises:
            PairsError: a model that reads text; images of another size, channels or range; NaN; a
                class or a patch that there is not.
        """
        asked = {"clean": clean, "corrupt": corrupt, "correct": correct, "wrong": wrong}
        groups = {"cluster": cluster, "template": template, "crossed": crossed}
        rows, patches = rows_of(model, asked, groups, positions=positions, pixels=pixels)
        return replace(cls.from_tokens(**rows), patches=patches)

    @classmethod
    def from_chat(
        cls,
        model: Chats,
        *,
        clean: Sequence[Sequence[Mapping[str, str]]],
        corrupt: Sequence[Sequence[Mapping[str, str]]] | None = None,
        correct: Column | None = None,
        wrong: Column | None = None,
        positions: Mapping[str, Column] | None = None,
        cluster: Column | None = None,
        template: Column | None = None,
        crossed: Column | None = None,
    ) -> "Pairs":
        """Chats in the words of the tokenizer's own template, up to where the model answers.

        The template writes the beginning-of-sequence token, if any; nothing adds another.

        Args:
            clean, corrupt: lists of chats, each a list of messages with a role and a content; by
                default both sides are the same.
            correct, wrong, positions, cluster, template, crossed: as `from_tokens` takes them.

        Raises:
            PairsError: no template, what is no chat, or as `from_tokens`.
        """
        sides = {"clean": clean, "corrupt": clean if corrupt is None else corrupt}
        rows = {side: [model.encode_chat(chat) for chat in of] for side, of in sides.items()}
        tokens = [[tuple(model.show(ids)) for ids in of] for of in rows.values()]
        strings = tuple(zip(*tokens, strict=False))
        given = {"correct": correct, "wrong": wrong, "positions": positions}
        groups = {"cluster": cluster, "template": template, "crossed": crossed}
        return cls.from_tokens(**rows, strings=strings, bos="chat template", **given, **groups)

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
        target_strings: Sequence[tuple[tuple[str, ...], tuple[str, ...]]] = (),
        bos: str = "model",
        target: Column | None = None,
        corrupt_target: Column | None = None,
        target_positions: Mapping[str, Column] | None = None,
        decoder: Sequence[int] = (),
    ) -> "Pairs":
        """Align rows of token ids.

        A column is a list, tuple, array, Series or tensor.

        Args:
            clean, corrupt: rows of ids; or padded ids with their mask, `batch pos`.
            cluster, template, crossed: as in `from_text`.
            target, corrupt_target, target_positions: of an encoder-decoder: rows of ids that its
                decoder reads after its start token, in place of `decoder`: as in `from_text`.
            decoder: of an encoder-decoder: ids that its decoder reads in every row.
            mask: for padded ids, True where a token is; padding may stand on either side.
            positions: indices into the rows as given (padding included); `"end"` defaults to
                the last token.

        Raises:
            PairsError: no rows, unequal lengths (of a pair, or of its targets), a mask with holes,
                counts that differ, two answers that are one token, or a position that is no place
                in its row.
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
            target=target_of(n, target, corrupt_target, target_positions, target_strings, decoder),
        )


def _pad(rows: list[list[int]]) -> Int[Tensor, "batch pos"]:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(r) for r in rows], batch_first=True)
