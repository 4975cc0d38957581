"""Pairs: clean and corrupt prompts, aligned token by token.

Rows may differ in length. They are stored padded on the right, whatever side they came
padded on; the engines run rows of one length together, so that no number depends on padding.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.core.errors import PairsError, PositionError, nearest


@runtime_checkable
class Encodes(Protocol):
    """What building pairs from text needs of a model."""

    def encode(self, text: str, *, bos: str = ...) -> list[int]: ...
    def token_id(self, text: str) -> int: ...
    def show(self, ids: Sequence[int]) -> list[str]: ...


@dataclass(frozen=True, eq=False)
class Pairs:
    """Prompt pairs with their answers, named positions and clusters.

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

    def at(self, position: str) -> Int[Tensor, " batch"]:
        """Index of a named position in each row.

        Raises:
            PositionError: no such name.
        """
        if position not in self.positions:
            raise PositionError(
                f"the pairs have no position {position!r}; {nearest(position, self.positions)} "
                "Name positions when the pairs are built (positions={...})."
            )
        return self.positions[position]

    def select(self, rows: Sequence[int] | Int[Tensor, " rows"]) -> "Pairs":
        """A copy of the given rows, in the given order.

        Raises:
            PairsError: no rows, a row that there is not, or a mask in place of row numbers.
        """
        index = torch.as_tensor(rows)
        chosen = index.tolist()
        valid = index.dtype != torch.bool and all(0 <= row < len(self) for row in chosen)
        if not valid or not chosen:
            raise PairsError(
                f"select takes row numbers, 0 to {len(self) - 1}, at least one; got {chosen[:8]}. "
                "Of a mask, take mask.nonzero().flatten()."
            )
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

    def split(self, *, seed: int = 0) -> "tuple[Pairs, Pairs]":
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
        clean: Sequence[str],
        corrupt: Sequence[str],
        correct: Sequence[str] | None = None,
        wrong: Sequence[str] | None = None,
        positions: Mapping[str, Sequence[int]] | None = None,
        cluster: Sequence[str] | None = None,
        bos: str = "model",
        decoder: Sequence[int] = (),
    ) -> "Pairs":
        """Tokenise prompts and answers with the model's tokenizer.

        Args:
            correct, wrong: answers as they follow the prompt, usually with a leading space; may
                be left out where the metric needs none (`"cosine"`, `"kl"`).
            positions: token indices, one for each row, for each name.
            cluster: what each row belongs to; by default every row stands alone.
            bos: `"model"` does what the tokenizer does by default, `"none"` adds nothing.
            decoder: ids after the start token that an encoder-decoder's decoder is given.

        Raises:
            PairsError: a pair of unequal length, an answer of several tokens, two BOS tokens.
        """
        given = {"clean": clean, "corrupt": corrupt, "correct": correct, "wrong": wrong}
        if single := [name for name, texts in given.items() if isinstance(texts, str)]:
            raise PairsError(f"{' and '.join(single)}: give a list of texts, not one text")
        before = [model.encode(text, bos=bos) for text in clean]
        after = [model.encode(text, bos=bos) for text in corrupt]
        shown = [[tuple(model.show(ids)) for ids in side] for side in (before, after)]
        return cls.from_tokens(
            clean=before,
            corrupt=after,
            correct=None if correct is None else [model.token_id(text) for text in correct],
            wrong=None if wrong is None else [model.token_id(text) for text in wrong],
            positions=positions,
            cluster=cluster,
            strings=tuple(zip(*shown, strict=False)),
            bos=bos,
            decoder=decoder,
        )

    @classmethod
    def from_tokens(
        cls,
        *,
        clean: Sequence[Sequence[int]] | Int[Tensor, "batch pos"],
        corrupt: Sequence[Sequence[int]] | Int[Tensor, "batch pos"],
        correct: Sequence[int] | Int[Tensor, " batch"] | None = None,
        wrong: Sequence[int] | Int[Tensor, " batch"] | None = None,
        positions: Mapping[str, Sequence[int] | Int[Tensor, " batch"]] | None = None,
        cluster: Sequence[str] | None = None,
        mask: Bool[Tensor, "batch pos"] | None = None,
        strings: Sequence[tuple[tuple[str, ...], tuple[str, ...]]] = (),
        bos: str = "model",
        decoder: Sequence[int] = (),
    ) -> "Pairs":
        """Align rows of token ids.

        Args:
            mask: for padded tensors, True where a token is; padding may stand on either side.
            positions: indices into the rows as given (padding included); `"end"` defaults to
                the last token.

        Raises:
            PairsError: no rows, unequal lengths, a mask with holes, or counts that differ.
        """
        n = len(clean)
        positions = positions or {}
        if (correct is None) != (wrong is None):
            raise PairsError("give both correct= and wrong= answers, or neither")
        correct, wrong = ([-1] * n if given is None else given for given in (correct, wrong))
        cluster = [str(i) for i in range(n)] if cluster is None else cluster
        per_row = {"corrupt": corrupt, "correct": correct, "wrong": wrong, "cluster": cluster}
        per_row |= {f"position {name!r}": at for name, at in positions.items()}
        per_row |= {"mask": clean if mask is None else mask}
        counts = {name: len(values) for name, values in per_row.items()}
        if n == 0:
            raise PairsError("no pairs were given (n = 0); at least one prompt pair is needed")
        if odd := [f"{count} of {name}" for name, count in counts.items() if count != n]:
            raise PairsError(f"{n} clean prompts but {', '.join(odd)}; give one of each per prompt")
        rows = {"clean": _rows(clean, mask), "corrupt": _rows(corrupt, mask)}
        for row, (a, b) in enumerate(zip(rows["clean"], rows["corrupt"], strict=True)):
            if len(a) != len(b) or not a:
                raise PairsError(_unequal(row, a, b, strings))
        lengths = torch.tensor([len(row) for row in rows["clean"]])
        first = torch.zeros(n, dtype=torch.long) if mask is None else mask.int().argmax(-1)
        named = {name: torch.as_tensor(at) - first for name, at in positions.items()}
        for name, at in named.items():
            for row in ((at < 0) | (at >= lengths)).nonzero().flatten().tolist():
                raise PairsError(
                    f"position {name!r} is {int(positions[name][row])} in row {row}, whose tokens "
                    f"stand at {int(first[row])} to {int(first[row] + lengths[row]) - 1}"
                )
        return cls(
            clean=_pad(rows["clean"]),
            corrupt=_pad(rows["corrupt"]),
            lengths=lengths,
            correct=torch.as_tensor(correct).clone(),
            wrong=torch.as_tensor(wrong).clone(),
            positions={"end": lengths - 1, **named},
            cluster=tuple(map(str, cluster)),
            strings=tuple(strings),
            bos=bos,
            decoder=tuple(decoder),
        )


def _rows(tokens: Sequence[Sequence[int]] | Tensor, mask: Tensor | None) -> list[list[int]]:
    """The ids of each row without its padding."""
    if mask is None:
        return [[int(t) for t in row] for row in tokens]
    kept = []
    for index, (row, keep) in enumerate(zip(tokens, mask.tolist(), strict=True)):
        if len(row) != len(keep):
            raise PairsError(f"row {index} has {len(row)} ids but a mask of {len(keep)}")
        at = [i for i, token in enumerate(keep) if token]
        if at and at[-1] - at[0] + 1 != len(at):
            raise PairsError(f"the mask of row {index} has a hole; tokens must be contiguous")
        kept.append([int(row[i]) for i in at])
    return kept


def _pad(rows: list[list[int]]) -> Int[Tensor, "batch pos"]:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(r) for r in rows], batch_first=True)


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
