"""What runs of circuits depend on: the graph, what is kept and where, and what takes its place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from interp.core.metrics import Metric
from interp.core.parts.circuit import REST, Ablation
from interp.core.prompts.pairs import Pairs
from interp.engine.circuits.constants import Constants
from interp.engine.circuits.wiring import Wiring
from interp.engine.engines.protocol import EngineName
from interp.engine.interventions import Averaged
from interp.engine.plan.memory import Memory
from interp.models.model import Model

Source = Averaged | Constants | None


@dataclass(frozen=True, eq=False)
class Isolation:
    """Circuits to be run by themselves, and everything that their numbers depend on.

    Attributes:
        kept: the edges of each circuit, at each place.
        lacking: is a circuit given by what it lacks? Then `kept` is what is cut, at its places.
        places: names of positions, "all" or "rest"; an edge that is kept at a place is kept at the
            positions that it names.
        source: whose mean, or which constants, take the place of the others.
    """

    model: Model
    pairs: Pairs
    wiring: Wiring
    kept: Bool[ndarray, "circuit place reader writer"]
    lacking: Bool[ndarray, " circuit"]
    places: tuple[str, ...]
    ablation: Ablation
    source: Source
    metrics: tuple[Metric, ...]
    engine: EngineName = "auto"
    memory: Memory = None
    checkpoint: Path | None = None

    def by_class(
        self, which: Bool[Tensor, "place class"], circuits: Sequence[int]
    ) -> Bool[ndarray, "circuit class reader writer"]:
        """What circuits keep at a class of positions: what they do at any place that names it."""
        chosen = list(circuits)
        given = self.kept[chosen]
        found = [given[:, which[:, k].numpy()].any(1) for k in range(which.shape[1])]
        cut = self.lacking[chosen, None, None, None]
        return self.wiring.graph.feeds & (np.stack(found, 1) ^ cut)


@dataclass(frozen=True, eq=False)
class Isolated:
    """The metrics of the full clean model and of each circuit by itself.

    Attributes:
        null: the largest change of a metric in the model with all of its edges.
        resolution: what rounding does to each metric (`interp.engine.engines.resolution`).
        plan: how many batches ran, within how many bytes.
    """

    base: Float[ndarray, "metric example"]
    found: Float[ndarray, "metric circuit example"]
    null: float
    engine: str
    resolution: Float[ndarray, " metric"]
    plan: Mapping[str, int]


def classes(
    pairs: Pairs, places: Sequence[str], rows: Sequence[int]
) -> tuple[Bool[Tensor, "place class"], Int[Tensor, "batch pos"]]:
    """Positions that the same places name are of one class: which places, and which class each is.

    Raises:
        PositionError: a name that the pairs have not.
    """
    length = int(pairs.lengths[rows[0]])
    at = torch.arange(length).expand(len(rows), -1)
    index = list(rows)

    def named(place: str) -> Bool[Tensor, "batch pos"]:
        return at == pairs.at(place)[index, None]

    found = []
    for place in places:
        if place == "all":
            found.append(torch.ones_like(at, dtype=torch.bool))
        elif place == REST:
            found.append(~torch.stack([named(name) for name in pairs.positions]).any(0))
        else:
            found.append(named(place))
    which, number = torch.stack(found).flatten(1).unique(dim=1, return_inverse=True)
    return which, number.view(at.shape)
