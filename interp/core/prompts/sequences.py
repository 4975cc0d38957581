"""Sequences: rows of token ids of one length, and what is to be predicted in them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.core.door.door import door
from interp.core.errors import PairsError

UNSCORED = -100
"""The label of a position where nothing is predicted; PyTorch's cross-entropy passes over it."""


@door
@dataclass(frozen=True, eq=False)
class Sequences:
    """Token ids with the answer that is due at each scored position.

    Attributes:
        tokens: the rows.
        labels: what a model should say at a position, having read it and all before; -100 where
            nothing is scored.
        distance: how many positions back the answer stands that is to be copied; 0 where none
            does.
    """

    tokens: Int[Tensor, "batch pos"]
    labels: Int[Tensor, "labelled of"]
    distance: Int[Tensor, "known at"]

    def __post_init__(self) -> None:
        shapes = [tuple(part.shape) for part in (self.tokens, self.labels, self.distance)]
        if len(set(shapes)) > 1:
            raise PairsError(
                f"tokens, labels and distance are of shapes {shapes}; give a label and a distance "
                "for each token (-100 and 0 where nothing is scored)."
            )
        if not self.tokens.numel():
            raise PairsError("no sequences were given; at least one row of one token is needed.")
        if not bool(self.scored.any()):
            raise PairsError(
                "no position is scored: every label is -100, so there is nothing to learn or to "
                "measure. Likely the rows are too short for a repetition or a query."
            )

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __repr__(self) -> str:
        return (
            f"Sequences: {len(self)} rows of {self.tokens.shape[1]} tokens, "
            f"{int(self.scored.sum())} positions scored"
        )

    @property
    def scored(self) -> Bool[Tensor, "batch pos"]:
        """True where a label is."""
        return self.labels != UNSCORED

    @door
    def select(self, rows: Sequence[int] | Int[Tensor, " rows"]) -> "Sequences":
        """The given rows, in the given order.

        Args:
            rows: their numbers, counted from 0.

        Raises:
            PairsError: no rows, or a row that there is not.
        """
        index = torch.as_tensor(rows)
        if not len(index) or int(index.min()) < 0 or int(index.max()) >= len(self):
            raise PairsError(
                f"select takes row numbers, 0 to {len(self) - 1}, at least one; got "
                f"{index.tolist()[:8]}."
            )
        return Sequences(self.tokens[index], self.labels[index], self.distance[index])

    @property
    def fingerprint(self) -> str:
        """Hash of tokens and labels."""
        digest = hashlib.sha256(repr(tuple(self.tokens.shape)).encode())
        for tensor in (self.tokens, self.labels):
            digest.update(tensor.to(torch.int64).contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]
