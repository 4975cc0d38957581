"""A sweep: a list of cells, and everything that their numbers depend on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from interp.core.metrics import Metric
from interp.core.prompts.pairs import Pairs, Side
from interp.engine.circuits.masks import Masks
from interp.engine.engines.protocol import EngineName
from interp.engine.interventions import Cell
from interp.engine.plan.memory import Memory
from interp.models.model import Model


@dataclass(frozen=True, eq=False)
class Sweep:
    """A list of cells and everything that their numbers depend on.

    Attributes:
        method: the word in the `method` column.
        base: the run that is intervened on.
        metrics: all read off the same runs.
        memory: bytes that the run may hold beside the weights; None takes 1 GiB, or a quarter
            of what there is if that is less.
        checkpoint: a folder for finished batches; a run that was killed goes on from there.
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
