"""Exact effects of ablating chosen parts, one at a time: what attributions estimate."""

from collections.abc import Iterable
from typing import Unpack

from interp.causal.averages import Averaging, PlainAblation, value_of
from interp.core.door.door import door
from interp.core.errors import SiteError
from interp.core.metrics import OneMetric, resolve_metric
from interp.core.parts.circuit import Part
from interp.core.parts.edges import Edge
from interp.core.parts.graph import Graph, nodes
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs
from interp.core.tables.attribution import Attribution
from interp.engine.interventions import (
    Cell,
    Intervention,
    Mean,
    Value,
)
from interp.engine.sweep.run import run
from interp.engine.sweep.sweep import Running, Sweep
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
    **running: Unpack[Running],
) -> Attribution:
    """Measure the effect of ablating each part, one run of the model for each.

    Args:
        parts: `"edges"` or `"nodes"` (heads and MLPs) for all at all positions, or a list of
            edges, sites and parts ("20.1 -> 23.3.q @ end"); `"@ rest"` is all positions that no
            name of the pairs covers.
        ablation, reference: as in `attribute`.

    Returns:
        One row for each part, in the order given, with the effect in each example.

    Raises:
        SiteError, PositionError, MetricError, Unsupported: as their names say, before any run; a
            part at "rest" where a row has no such position is a PositionError.
    """
    pairs.require_one_kind("a table of exact effects")
    chosen = _parts(model, parts)
    value = value_of(ablation, pairs, reference)
    metric = resolve_metric(metric)
    results = run(
        Sweep(
            model=model,
            pairs=pairs,
            cells=[_cell(part, value) for part in chosen],
            method=f"exact {ablation}",
            base="clean",
            metrics=(metric,),
            **running,
        )
    )
    each = results.frame["effect"].to_numpy().reshape(len(chosen), len(pairs))
    note = {**results.provenance, "method": "exact", "ablation": ablation, "worse": metric.worse}
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


def _part(given: str | Edge | Site | Part) -> Part:
    if isinstance(given, str):
        return Part.parse(given)
    return given if isinstance(given, Part) else Part(given)


def _writer(part: Part) -> Site:
    return part.of.writer if isinstance(part.of, Edge) else part.of


def _cell(part: Part, value: Value) -> Cell:
    edge = part.of if isinstance(part.of, Edge) else None
    site = _writer(part)
    made = Intervention(site, value, part.place, None if edge is None else (edge.reader,))
    return Cell(str(part.of), part.place, (made,), (), site if edge is None else None)
