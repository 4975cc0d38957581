"""Pairs: clean and corrupt prompts, aligned token by token.

Rows may differ in length. They are stored padded on the right, whatever side they came
padded on; the engines run rows of one length together, so that no number depends on padding.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.core.errors import PairsError, PositionError, nearest


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
        correct, wrong: ids of the answers that are compared at the read position.
        positions: index of each named position in each row; `"end"` is always there.
        cluster: the unit of resampling of each row (template, document).
        strings: readable clean and corrupt tokens, for figures and messages; may be empty.
        bos: the policy that the tokens were made with.
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
        """The given rows, in the given order."""
        index = torch.as_tensor(rows, dtype=torch.long)
        chosen = index.tolist()
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
        """Hash of everything that can change a number."""
        digest = hashlib.sha256(repr((self.cluster, self.bos, sorted(self.positions))).encode())
        tensors = [getattr(self, f.name) for f in fields(self)[:5]]
        for tensor in [*tensors, *(self.positions[name] for name in sorted(self.positions))]:
            digest.update(repr(tuple(tensor.shape)).encode())
            digest.update(tensor.to(torch.int64).contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @classmethod
    def from_text(
        cls,
        model: Encodes,
        *,
        clean: Sequence[str],
        corrupt: Sequence[str],
        correct: Sequence[str],
        wrong: Sequence[str],
        positions: Mapping[str, Sequence[int]] | None = None,
        cluster: Sequence[str] | None = None,
        bos: str = "model",
    ) -> "Pairs":
        """Tokenise prompts and answers with the model's tokenizer.

        Args:
            correct, wrong: answers as they follow the prompt, usually with a leading space.
            positions: token indices, one for each row, for each name.
            cluster: what each row belongs to; by default every row stands alone.
            bos: `"model"` does what the tokenizer does by default, `"none"` adds nothing.

        Raises:
            PairsError: a pair of unequal length, an answer of several tokens, two BOS tokens.
        """
        rows = {
            side: [model.encode(text, bos=bos) for text in texts]
            for side, texts in (("clean", clean), ("corrupt", corrupt))
        }
        strings = tuple(
            (tuple(model.show(a)), tuple(model.show(b)))
            for a, b in zip(rows["clean"], rows["corrupt"], strict=False)
        )
        return cls.from_tokens(
            clean=rows["clean"],
            corrupt=rows["corrupt"],
            correct=[model.token_id(text) for text in correct],
            wrong=[model.token_id(text) for text in wrong],
            positions=positions,
            cluster=cluster,
            strings=strings,
            bos=bos,
        )

    @classmethod
    def from_tokens(
        cls,
        *,
        clean: Sequence[Sequence[int]] | Int[Tensor, "batch pos"],
        corrupt: Sequence[Sequence[int]] | Int[Tensor, "batch pos"],
        correct: Sequence[int] | Int[Tensor, " batch"],
        wrong: Sequence[int] | Int[Tensor, " batch"],
        positions: Mapping[str, Sequence[int] | Int[Tensor, " batch"]] | None = None,
        cluster: Sequence[str] | None = None,
        mask: Bool[Tensor, "batch pos"] | None = None,
        strings: Sequence[tuple[tuple[str, ...], tuple[str, ...]]] = (),
        bos: str = "model",
    ) -> "Pairs":
        """Align rows of token ids.

        Args:
            mask: for padded tensors, True where a token is; padding may stand on either side.
            positions: indices into the rows as given (padding included); `"end"` defaults to
                the last token.

        Raises:
            PairsError: no rows, unequal lengths, a mask with holes, or counts that differ.
        """
        sides = {
            "clean": _rows(clean, mask),
            "corrupt": _rows(corrupt, mask),
        }
        n = len(sides["clean"])
        counts = {"corrupt": len(sides["corrupt"]), "correct": len(correct), "wrong": len(wrong)}
        counts |= {name: len(at) for name, at in (positions or {}).items()}
        counts |= {"cluster": n if cluster is None else len(cluster)}
        if n == 0:
            raise PairsError("no pairs were given (n = 0); at least one prompt pair is needed")
        if odd := {name: count for name, count in counts.items() if count != n}:
            raise PairsError(f"there are {n} clean prompts but {odd}; give one of each per prompt")
        for row, (a, b) in enumerate(zip(sides["clean"], sides["corrupt"], strict=True)):
            if len(a) != len(b) or not a:
                raise PairsError(_unequal(row, a, b, strings))
        lengths = torch.tensor([len(row) for row in sides["clean"]])
        shift = torch.zeros(n, dtype=torch.long) if mask is None else mask.int().argmax(-1)
        named = {name: torch.as_tensor(at) - shift for name, at in (positions or {}).items()}
        for name, at in named.items():
            if bad := ((at < 0) | (at >= lengths)).nonzero().flatten().tolist():
                raise PairsError(
                    f"position {name!r} is {int(at[bad[0]])} in row {bad[0]}, which has "
                    f"{int(lengths[bad[0]])} tokens"
                )
        return cls(
            clean=_pad(sides["clean"]),
            corrupt=_pad(sides["corrupt"]),
            lengths=lengths,
            correct=torch.as_tensor(correct),
            wrong=torch.as_tensor(wrong),
            positions={"end": lengths - 1, **named},
            cluster=tuple(cluster) if cluster is not None else tuple(str(i) for i in range(n)),
            strings=tuple(strings),
            bos=bos,
        )


def _rows(tokens: Sequence[Sequence[int]] | Tensor, mask: Tensor | None) -> list[list[int]]:
    rows = [[int(t) for t in row] for row in tokens]
    if mask is None:
        return rows
    kept = []
    for index, (row, keep) in enumerate(zip(rows, mask.tolist(), strict=True)):
        first, count = keep.index(True) if any(keep) else 0, sum(keep)
        if not all(keep[first : first + count]):
            raise PairsError(f"the mask of row {index} has a hole; tokens must be contiguous")
        kept.append(row[first : first + count])
    return kept


def _pad(rows: list[list[int]]) -> Int[Tensor, "batch pos"]:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(r) for r in rows], batch_first=True)


def _unequal(row: int, clean: Sequence[int], corrupt: Sequence[int], strings: Sequence) -> str:
    """The message for a pair that does not align, with both rows under one another."""
    a, b = strings[row] if strings else (list(map(str, clean)), list(map(str, corrupt)))
    width = [
        max(len(x) for x in pair)
        for pair in zip(
            [*a, *[""] * (len(b) - len(a))], [*b, *[""] * (len(a) - len(b))], strict=True
        )
    ]
    shown = [
        " | ".join(t.ljust(w) for t, w in zip([*side, *[""] * len(width)], width, strict=False))
        for side in (a, b)
    ]
    return (
        f"pair {row}: clean has {len(clean)} tokens and corrupt {len(corrupt)}; patching compares "
        f"them token by token, so they must be equal and not empty.\n  clean   {shown[0]}\n"
        f"  corrupt {shown[1]}\nExchange words for ones with as many tokens."
    )
