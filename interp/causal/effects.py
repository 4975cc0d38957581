"""Exact effects of ablating chosen parts, one at a time: what attributions estimate."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

from interp.causal.ablation import METHODS
from interp.causal.attribution import Ablated, averaged
from interp.core.attribution import Attribution
from interp.core.circuit import REST, Part
from interp.core.edges import Edge
from interp.core.errors import PairsError, SiteError, Unsupported, nearest
from interp.core.graph import Graph, nodes
from interp.core.metrics import Metric, resolve_metric
from interp.core.pairs import Pairs
from interp.core.sites import Site
from interp.engine.collect.means import MeanReference
from interp.engine.engines import EngineName
from interp.engine.interventions import Cell, Intervention, Mean, Resample, Value, Zero
from interp.engine.run import run
from interp.engine.sweep import Side, Sweep
from interp.models.model import Model


def exact(
    model: Model,
    pairs: Pairs,
    parts: str | Iterable[str | Edge | Site | Part],
    *,
    ablation: Ablated = "resample",
    reference: Side | Pairs | MeanReference = "corrupt",
    metric: str | Metric = "logit_diff",
    engine: EngineName = "auto",
    memory: int | None = None,
    checkpoint: Path | None = None,
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
    chosen = _parts(model, parts)
    if ablation not in METHODS:
        raise Unsupported(f"unknown ablation={ablation!r}; {nearest(ablation, METHODS)}")
    values: dict[str, Value] = {"zero": Zero(), "resample": Resample("corrupt")}
    value = Mean(averaged(pairs, reference)) if ablation == "mean" else values[ablation]
    fingerprint = pairs.fingerprint
    pairs, rest = _resting(pairs, chosen)
    sweep = Sweep(
        model=model,
        pairs=pairs,
        cells=[_cell(part, value, rest) for part in chosen],
        method=f"exact {ablation}",
        base="clean",
        metric=resolve_metric(metric),
        engine=engine,
        memory=memory,
        checkpoint=checkpoint,
    )
    results = run(sweep)
    return Attribution.of(
        chosen,
        results.frame["effect"].to_numpy().reshape(len(chosen), len(pairs)),
        cluster=pairs.cluster,
        method="exact",
        metric=sweep.metric.name,
        provenance={
            **results.provenance,
            "pairs": fingerprint,
            "method": "exact",
            "ablation": ablation,
        },
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
        raise SiteError("no parts were given; name at least one, or 'edges' or 'nodes' for all")
    for part in found:
        part.of.check(facts)
    if any(_writer(part).kind == "z" for part in found):
        model.require("heads")
    return found


def _part(given: str | Edge | Site | Part) -> Part:
    if isinstance(given, str):
        return Part.parse(given)
    return given if isinstance(given, Part) else Part(given)


def _writer(part: Part) -> Site:
    return part.of.writer if isinstance(part.of, Edge) else part.of


def _resting(pairs: Pairs, parts: Iterable[Part]) -> tuple[Pairs, tuple[str, ...]]:
    """The pairs with names for the positions that have none, if a part stands there.

    Raises:
        PairsError: a row has no such position.
    """
    if all(part.place != REST for part in parts):
        return pairs, ()
    free = []
    for row, length in enumerate(pairs.lengths.tolist()):
        taken = {int(at[row]) for at in pairs.positions.values()}
        free.append([i for i in range(length) if i not in taken])
        if not free[-1]:
            raise PairsError(
                f"a part stands at {REST!r}, and row {row} has no position without a name "
                f"({length} tokens, named {', '.join(pairs.positions)}). Leave that row out, or "
                "the part."
            )
    most = max(map(len, free))
    # a row with fewer says its last twice, which sets the same value twice
    names = {
        f"{REST} {i}": torch.tensor([at[min(i, len(at) - 1)] for at in free]) for i in range(most)
    }
    return replace(pairs, positions={**pairs.positions, **names}), tuple(names)


def _cell(part: Part, value: Value, rest: tuple[str, ...]) -> Cell:
    site = _writer(part)
    readers = (part.of.reader,) if isinstance(part.of, Edge) else None
    made = tuple(
        Intervention(site, value, place, readers)
        for place in (rest if part.place == REST else (part.place,))
    )
    return Cell(str(part.of), part.place, made, (), None if readers else site)
