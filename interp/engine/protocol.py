"""What every engine offers, so that methods need not know which one serves a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from interp.core.sites import Kind
from interp.engine.edits import Edit
from interp.engine.interventions import Hop
from interp.engine.score import Readout, Score
from interp.engine.trace import See, Trace

EngineName = Literal["auto", "replay", "hooks", "recurrent"]


@dataclass(frozen=True, eq=False)
class Route:
    """The hops of some cells, resolved for the rows of a block.

    Attributes:
        receiving: for each hop the positions at which its receivers take their input; the read
            positions for the logits.
        starts: the first position that can change, in each hop and in what is recomputed at last.
    """

    hops: tuple[Hop, ...]
    receiving: tuple[Int[Tensor, "batch _"], ...]
    starts: tuple[int, ...]


@runtime_checkable
class Engine(Protocol):
    """What can trace a run, read a metric off it, and run cells of interventions."""

    @property
    def name(self) -> Literal["replay", "hooks", "recurrent"]: ...

    def trace(self, tokens: Int[Tensor, "batch pos"], *, keep: Sequence[Kind]) -> Trace: ...

    def walk(
        self,
        tokens: Int[Tensor, "batch pos"],
        see: See,
        *,
        shelves: Sequence[str],
        layers: int | None = None,
    ) -> None: ...

    def found(self, run: Trace, score: Score) -> Float[Tensor, "batch columns"]: ...

    def plain(self, run: Trace, readout: Readout) -> Float[Tensor, "metrics batch"]: ...

    def run(
        self,
        base: Trace,
        tokens: Int[Tensor, "batch pos"],
        cells: Sequence[Sequence[Edit]],
        *,
        route: Route,
        readout: Readout,
        watch: bool = False,
    ) -> Float[Tensor, "metrics cells batch"]: ...
