"""Exact effects of ablating chosen parts, one at a time: what attributions estimate."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from interp.causal.averages import Averaging, PlainAblation, averaged
from interp.core.door.door import door
from interp.core.errors import PairsError, SiteError
from interp.core.files.atomic import Checkpoint
from interp.core.metrics import OneMetric, resolve_metric
from interp.core.parts.circuit import REST, Part
from interp.core.parts.edges import Edge
from interp.core.parts.graph import Graph, nodes
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs
from interp.core.tables.attribution import Attribution
from interp.engine.engines.protocol import EngineName
from interp.engine.interventions import (
    Averaged,
    Cell,
    Intervention,
    Mean,
    Resample,
    Value,
    Zero,
)
from interp.engine.plan.memory import Memory
from interp.engine.sweep.run import run
from interp.engine.sweep.sweep import Sweep
from interp.models.model import Model


@door
def exact(
    model: Model,
    pairs: Pairs,
    parts: str | Iterable[str | Edge | Site | Part],
    *,
    ablation: PlainAblation = "resample",
    reference: Averaging = "corrupt",
    metric: OneMetric = "logit_diff",
    engine: EngineName = "auto",
    memory: Memory = None,
    checkpoint: Checkpoint = None,
) -> Attribution:
    """Measure the effect of ablating each part, one run of the model for each.

    Args:
        parts: `"edges"` or `"nodes"` (heads and MLPs) for all at all positions, or a list of
            edges, sites and parts ("20.1 -> 23.3.q @ end"); `"@ rest"` is all positions that no
            name of the pairs covers.
        ablation, reference: as in `attribute`.
        engine, memory, checkpoint: as in `interp.ablate`, which measures the same.

    Returns:
        One row for each part, in the order given, with the effect in each example.

    Raises:
        SiteError, PositionError, MetricError, Unsupported: as their names say, before any run.
        PairsError: a part at "rest" where a row has no such position.
    """
    pairs.require_one_kind("a table of exact effects")
    chosen = _parts(model, parts)
    value = _value(ablation, averaged(pairs, reference))
    metric, note = resolve_metric(metric), {}
    each = np.zeros((len(chosen), len(pairs)))
    for rows, some in _alike(pairs, chosen):
        results = run(
            Sweep(
                model=model,
                pairs=some,
                cells=[_cell(part, value, some) for part in chosen],
                method=f"exact {ablation}",
                base="clean",
                metrics=(metric,),
                engine=engine,
                memory=memory,
                checkpoint=checkpoint,
            )
        )
        each[:, rows] = results.frame["effect"].to_numpy().reshape(len(chosen), len(rows))
        note = {
            **results.provenance,
            "null": max(note.get("null", 0.0), results.provenance["null"]),
        }
    note |= {"pairs": pairs.fingerprint, "prompts": len(pairs), "method": "exact"}
    note |= {"ablation": ablation}
    if isinstance(value, Mean):
        note["reference"] = value.source.fingerprint
    return Attribution.of(
        chosen,
        each,
        cluster=pairs.cluster,
        method="exact",
        metric=metric.name,
        provenance=note,
    )


def _parts(model: Model, given: str | Iterable[str | Edge | Site | Part]) -> list[Part]:
    """The parts that are named, checked against the model.

    Raises:
        SiteError: none, or one that the model has not.
    """
    facts = model.facts
    if given == "edges":
        found = [Part(edge) for edge in Graph.of(facts).edges]
    elif given == "nodes":
        found = [Part(site) for site in nodes(facts)]
    elif isinstance(given, str):
        found = [Part.parse(given)]
    else:
        found = [_part(part) for part in given]
    if not found:
        raise SiteError("no parts were given; name at least one, or 'edges' or 'nodes' for all.")
    for part in found:
        part.of.check(facts)
    if any(_writer(part).kind == "z" for part in found):
        model.require("heads")
    return found


def _value(ablation: PlainAblation, source: Averaged) -> Zero | Resample | Mean:
    match ablation:
        case "zero":
            return Zero()
        case "resample":
            return Resample("corrupt")
        case "mean":
            return Mean(source)


def _part(given: str | Edge | Site | Part) -> Part:
    if isinstance(given, str):
        return Part.parse(given)
    return given if isinstance(given, Part) else Part(given)


def _writer(part: Part) -> Site:
    return part.of.writer if isinstance(part.of, Edge) else part.of


def _alike(pairs: Pairs, parts: Sequence[Part]) -> Iterator[tuple[list[int], Pairs]]:
    """Rows with as many positions without a name, if a part stands there, and names for those.

    Raises:
        PairsError: a row has no such position.
    """
    if all(part.place != REST for part in parts):
        yield list(range(len(pairs))), pairs
        return
    free: dict[int, list[int]] = {}
    by_count: dict[int, list[int]] = defaultdict(list)
    for row, length in enumerate(pairs.lengths.tolist()):
        named = {int(at[row]) for at in pairs.positions.values()}
        free[row] = [i for i in range(length) if i not in named]
        by_count[len(free[row])].append(row)
    if lost := by_count.get(0):
        raise PairsError(
            f"a part stands at {REST!r}, and row {lost[0]} has no position without a name (named "
            f"are {', '.join(pairs.positions)}). Leave such rows out (pairs.select), or the part."
        )
    for count, rows in sorted(by_count.items()):
        names = {f"{REST} {i}": torch.tensor([free[row][i] for row in rows]) for i in range(count)}
        some = pairs.select(rows)
        yield rows, replace(some, positions={**some.positions, **names})


def _cell(part: Part, value: Value, pairs: Pairs) -> Cell:
    edge = part.of if isinstance(part.of, Edge) else None
    site = _writer(part)
    places = [part.place]
    if part.place == REST:
        places = [name for name in pairs.positions if name.startswith(f"{REST} ")]
    readers = None if edge is None else (edge.reader,)
    made = tuple(Intervention(site, value, place, readers) for place in places)
    return Cell(str(part.of), part.place, made, (), site if edge is None else None)
