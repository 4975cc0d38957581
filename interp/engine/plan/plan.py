"""What a call will do: batches in their order, and what they take of a machine."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from interp.core.parts.facts import Facts
from interp.engine.plan.rates import Rates


@dataclass(frozen=True)
class Batch:
    """Cells that go up the layers together, over rows of one length.

    Attributes:
        rows: rows of the pairs.
        cells: indices of cells, by the time they join.
        start: first position that is computed again after the interventions.
        positions: number of positions computed (along a path: those that receivers read).
        bytes: estimated peak of what the wave holds.
        flops: of matrix products.
        passes: through the model, whole or in part.
        share: which of several lots of cells it is of, whose traces are made apart since all of
            them do not fit.
        traces: bytes that are held where the model is, beside `bytes`.
        launches: operations that launch work on a device.
        waits: how often the host waits for it.
        moved: bytes that are read and written there, at least.
    """

    rows: tuple[int, ...]
    cells: tuple[int, ...]
    start: int
    positions: int
    layers: tuple[int, int]
    bytes: int
    flops: int
    passes: int = 1
    share: int = 0
    traces: int = 0
    launches: int = 0
    waits: int = 0
    moved: int = 0


@dataclass(frozen=True)
class Plan:
    """What a sweep will do.

    `batches`, `flops` and `passes` are what is run for each intervention. The plain runs from which
    a sweep takes values, the null control of three of its cells and the run that tells what
    rounding does are `before`, and count in `launches`, `waits`, `moved` and `seconds`. The
    verification of the engine, once in a model's life, comes to all of these.

    Attributes:
        batches: in the order they run.
        budget: bytes that a batch may hold.
        naive_flops: full forwards, one intervention at a time: one a cell, one more for each hop
            and each named reader.
        least: bytes without which nothing runs: one prompt, one cell.
        note: what else is to be said of it.
        before: plain runs and controls.
        kept: bytes that a call keeps in main memory; where it does, they are the batches' `bytes`.
        device: where the model is.
        placed: bytes of its parameters by device.
        total: bytes that there are on the device, where `explain` was told.
        rates: how fast it is, likewise.
    """

    batches: tuple[Batch, ...]
    budget: int
    naive_flops: int
    facts: Facts
    engine: str
    least: int = 0
    note: str = ""
    before: tuple[Batch, ...] = ()
    kept: int = 0
    device: str = "cpu"
    placed: Mapping[str, int] = field(default_factory=dict)
    total: int = 0
    rates: Rates | None = None

    @property
    def weights(self) -> int:
        """Bytes of the model's parameters, wherever they are."""
        return sum(self.placed.values())

    @property
    def passes(self) -> int:
        """Passes through the model, whole or in part: one a batch, or what a batch says."""
        return sum(batch.passes for batch in self.batches)

    @property
    def told(self) -> dict[str, int]:
        """What the last digits of a sweep depend on, for its provenance."""
        return {"batches": len(self.batches), "memory": self.budget}

    @property
    def flops(self) -> int:
        if self.engine == "hooks":
            return self.naive_flops
        return sum(batch.flops for batch in self.batches)

    @property
    def launches(self) -> int:
        """Operations that launch work on a device, views left out."""
        return sum(batch.launches for batch in (*self.before, *self.batches))

    @property
    def waits(self) -> int:
        """How often the host waits for the device."""
        return sum(batch.waits for batch in (*self.before, *self.batches))

    @property
    def moved(self) -> int:
        """Bytes that the device reads and writes in matrix products, at least."""
        return sum(batch.moved for batch in (*self.before, *self.batches))

    @property
    def held(self) -> int:
        """Bytes beside the weights where the model is, at most at a time: traces and a wave."""
        batches = (*self.before, *self.batches)
        return max((b.traces + b.bytes * (not self.kept) for b in batches), default=0)

    @property
    def bytes(self) -> dict[str, int]:
        """Bytes by device: weights, traces and the largest wave; what is kept in main memory."""
        found = dict(self.placed)
        found[self.device] = found.get(self.device, 0) + self.held
        if self.kept:
            found["cpu"] = found.get("cpu", 0) + self.kept
        return found

    @property
    def seconds(self) -> float | None:
        """A bound from below, at the rates that were given; None where none was.

        Of each batch the longest of its products at `peak`, its bytes at `bandwidth` and its
        operations at `launch`, summed: a roofline, of which real kernels reach a part.
        """
        if self.rates is None:
            return None
        batches = (*self.before, *self.batches)
        return sum(self.rates.seconds(b.flops, b.moved, b.launches) for b in batches)

    def __str__(self) -> str:
        groups: dict[tuple[int, int], list[Batch]] = defaultdict(list)
        for batch in self.batches:
            groups[int(batch.start), batch.positions].append(batch)
        lines = [
            f"{'cells':>7} {'prompts':>8} {'layers':>9} {'positions':>10} {'batches':>8} "
            f"{'peak MB':>8} {'GFLOP':>9}"
        ]
        for (start, positions), found in sorted(groups.items()):
            low, high = min(b.layers[0] for b in found), max(b.layers[1] for b in found)
            lines.append(
                f"{len({c for b in found for c in b.cells}):7d} "
                f"{len({r for b in found for r in b.rows}):8d} {f'{low}-{high}':>9} "
                f"{f'{positions} from {start}':>10} {len(found):8d} "
                f"{max(b.bytes for b in found) / 1e6:8.1f} {sum(b.flops for b in found) / 1e9:9.1f}"
            )
        return "\n".join(
            [
                f"engine {self.engine}, {self.facts}",
                *lines,
                f"{self.flops / 1e9:.1f} GFLOP in {self.passes} passes, against "
                f"{self.naive_flops / 1e9:.1f} with a full forward for each cell: "
                f"{self.naive_flops / max(self.flops, 1):.1f} times fewer; memory budget "
                f"{self.budget / 1e6:.0f} MB, at least {self.least / 1e6:.1f} MB",
                self._machine(),
                *([f"at least {self.seconds:.3g} s at {self.rates}"] if self.rates else []),
                *([self.note] if self.note else []),
            ]
        )

    def _machine(self) -> str:
        """What a machine must hold and do."""
        held = f"{sized(self.held)} beside them" if self.weights else sized(self.held)
        places = " and ".join(f"{sized(n)} on {place}" for place, n in self.placed.items())
        weights = sized(self.weights) if len(self.placed) == 1 else places
        said = f"on {self.device}: " + (f"weights {weights}, " if self.weights else "")
        said += f"up to {held}"
        if self.total:
            fits = self.total >= self.placed.get(self.device, 0) + self.held
            said += f", {'of' if fits else 'more than the'} {sized(self.total)} that there are"
        if self.kept:
            said += f"; {sized(self.kept)} kept in main memory"
        return (
            f"{said}; {self.launches:,} operations launched, {self.waits:,} waits of the host, "
            f"{sized(self.moved)} moved"
        )


def sized(count: int) -> str:
    """Bytes in words."""
    for unit, size in (("TB", 1e12), ("GB", 1e9)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e6:.1f} MB"
