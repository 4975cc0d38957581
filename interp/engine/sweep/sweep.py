"""A sweep: a list of cells, and everything that their numbers depend on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypedDict

from interp.core.door.door import Default
from interp.core.files.atomic import Checkpoint
from interp.core.metrics import Metric
from interp.core.prompts.pairs import Pairs, Side
from interp.engine.circuits.masks import Masks
from interp.engine.engines.protocol import EngineName
from interp.engine.interventions import Cell
from interp.engine.plan.memory import Memory
from interp.models.model import Model


class Running(TypedDict, total=False):
    """How it runs: what every method takes, beside what it asks.

    Attributes:
        engine: `"replay"` re-runs only what an intervention can change; `"hooks"` runs the model
            with hooks, whatever was done to it; `"recurrent"` is that of LSTMs; `"auto"` takes the
            first that agrees with the model.
        memory: bytes to hold beside the weights, or "8GB"; None takes 1 GiB, or a quarter of
            what there is if that is less.
        checkpoint: a folder where finished batches are kept, so that a killed run goes on.
    """

    engine: Annotated[EngineName, Default("auto")]
    memory: Annotated[Memory, Default(None)]
    checkpoint: Annotated[Checkpoint, Default(None)]


@dataclass(frozen=True, eq=False)
class Sweep:
    """A list of cells and everything that their numbers depend on.

    Attributes:
        method: the word in the `method` column.
        base: the run that is intervened on.
        metrics: all read off the same runs.
        engine, memory, checkpoint: as in `Running`.
        masks: the edges that each cell keeps, where that is what the cells are: then these have
            names and positions, and `NOTHING` as their intervention.
        kind: in the table, of cells that are about no one site.
        columns: more columns of the table, with a value for each cell.
        note: more of the provenance.
    """

    model: Model
    pairs: Pairs
    cells: Sequence[Cell]
    method: str
    base: Side
    metrics: tuple[Metric, ...]
    engine: EngineName = "auto"
    memory: Memory = None
    checkpoint: Path | None = None
    masks: Masks | None = None
    kind: str = "set"
    columns: Mapping[str, Sequence[object]] = field(default_factory=dict)
    note: Mapping[str, object] = field(default_factory=dict)
