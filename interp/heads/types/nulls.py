"""The null of other rows: what a head's attention scores on the sources that other rows have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.core.errors import PairsError
from interp.core.prompts.pairs import Pairs
from interp.engine.limits import PROCESSOR
from interp.heads.types.detectors import Detector, structure, summed_in, weights
from interp.models.model import Model

STRUCTURES = 32
"""Other rows that make the null; fewer where rows are very long."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """Rows of one length that make the null of the rows of that length.

    Attributes:
        tokens: of the drawn rows.
        differs: for each row of the pairs, by its number, the drawn rows whose repeats stand
            elsewhere.
    """

    tokens: Int[Tensor, "other pos"]
    differs: Mapping[int, Bool[Tensor, " other"]]

    @classmethod
    def of(cls, pairs: Pairs, length: int, detectors: Sequence[Detector], seed: int) -> "Drawn":
        """Draw rows of this length, and see that each detector has something to look for in each.

        Raises:
            PairsError: a row in which a detector has nothing to look for, or none whose repeats
                stand elsewhere than a row's own.
        """
        rows = (pairs.lengths == length).nonzero().flatten()
        tokens = pairs.clean[rows, :length]
        # a few rows at a time: masks are as large as patterns
        parts = tokens.split(max(1, PROCESSOR.scores // length**2))
        found = torch.cat([structure(part) for part in parts])
        for detector in detectors:
            has = torch.cat([detector.find(part).flatten(1).any(1) for part in parts])
            if not bool(has.all()):
                row = int(rows[int((~has).int().argmax())])
                raise PairsError(
                    f"row {row} has nothing that the detector {detector.name!r} looks for in its "
                    f"{length} tokens (no token that occurs twice, or too few tokens), so it has "
                    "no score there. Leave the row out, or choose other detectors=."
                )
        room = max(4, min(STRUCTURES, 4 * PROCESSOR.scores // length**2))
        order = np.random.default_rng([seed, length]).permutation(len(rows))
        drawn = torch.as_tensor(np.sort(order[:room]))
        differs = (found[:, None] != found[None, drawn]).any(-1)
        nulls = {detector.null for detector in detectors}
        if "rows" in nulls and not bool(differs.any(1).all()):
            row = int(rows[int((~differs.any(1)).int().argmax())])
            raise PairsError(
                f"row {row} has {length} tokens and its repeats stand where they stand in every "
                f"other row of that length ({len(rows)} rows), so a head that looks at a fixed "
                "distance cannot be told from one that looks at tokens. Give rows whose repeats "
                "stand at various distances (interp.heads.types.repeats makes them), or say "
                "null='sources' to compare with uniform attention alone."
            )
        return cls(tokens[drawn], dict(zip(rows.tolist(), differs, strict=True)))


@dataclass(frozen=True, eq=False)
class Others:
    """The sources of drawn rows, for the detectors that are compared with them.

    Attributes:
        places: of these detectors among all.
        weights: of each drawn row and detector.
        differs: as `Drawn` has it.
    """

    places: list[int]
    weights: Float[Tensor, "pair other detector"]
    differs: Mapping[int, Bool[Tensor, " other"]]

    @classmethod
    def of(cls, model: Model, drawn: Drawn, detectors: Sequence[Detector]) -> "Others":
        """On the model's device, in the precision in which its scores are summed."""
        places = [i for i, d in enumerate(detectors) if d.null == "rows"]
        tokens, dtype = drawn.tokens.to(model.device), summed_in(model.dtype)
        each = [weights(detectors[i], tokens, dtype=dtype).flatten(1).T for i in places]
        stacked = (
            torch.stack(each, -1) if each else torch.empty(tokens.shape[1] ** 2, len(tokens), 0)
        )
        return cls(places, stacked, drawn.differs)

    def __len__(self) -> int:
        return len(self.places)

    def mean(
        self, pattern: Float[Tensor, "row head pair"], differs: Float[Tensor, "row other"]
    ) -> Float[Tensor, "detector head row"]:
        """The mean score of each row's attention on the sources of the rows that differ."""
        scores = pattern.flatten(0, 1) @ self.weights.flatten(1)
        scores = scores.view(*pattern.shape[:2], *self.weights.shape[1:])
        share = differs / differs.sum(-1, keepdim=True)
        return torch.einsum("rhod,ro->dhr", scores, share)
