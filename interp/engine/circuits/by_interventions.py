"""Circuits on any model: for each a joint intervention on all that is not in it."""

from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from torch import Tensor

from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs
from interp.engine.circuits.constants import Constants
from interp.engine.circuits.job import Isolated, Isolation, classes
from interp.engine.interventions import (
    Averaged,
    Cell,
    Freeze,
    Intervention,
    Mean,
    Resample,
    Set,
    Value,
    Zero,
)
from interp.engine.plan.batches import together
from interp.engine.plan.explain import explain, explaining, proceed
from interp.engine.sweep.run import run
from interp.engine.sweep.sweep import Sweep


def outside(job: Isolation) -> Isolated:
    """Run all circuits, one joint intervention each, with the same classes of positions together.

    Raises:
        As `interp.engine.sweep.run.run`.
    """
    pairs = job.pairs
    base = np.full((len(job.metrics), len(pairs)), np.nan)
    values = np.full((len(job.metrics), len(job.kept), len(pairs)), np.nan)
    null, engine, rounding = 0.0, "", np.full(len(job.metrics), np.nan)
    plans: list[Mapping[str, int]] = []
    sweeps = [(rows, _sweep(job, rows)) for rows in _alike(job)]
    if explaining():
        proceed(together((rows, explain(run, sweep)) for rows, sweep in sweeps))
    for rows, sweep in sweeps:
        found = run(sweep)
        shape = (len(job.metrics), len(sweep.cells), len(rows))
        values[:, :, rows] = found.frame["value"].to_numpy().reshape(shape)
        base[:, rows] = found.frame["base"].to_numpy().reshape(shape)[:, 0]
        null = max(null, float(found.provenance["null"]))
        known = [np.nan if x is None else x for x in found.provenance["resolution"].values()]
        rounding = np.fmax(rounding, known)
        engine = str(found.provenance["engine"])
        plans.append(found.provenance["plan"])
    plan = {
        "batches": sum(one["batches"] for one in plans),
        "memory": max(one["memory"] for one in plans),
    }
    return Isolated(base, values, null, engine, rounding, plan)


def _sweep(job: Isolation, rows: list[int]) -> Sweep:
    """All circuits in rows of one length with the same classes of positions."""
    which, kinds = classes(job.pairs, job.places, rows)
    at = [(kinds[0] == k).nonzero().flatten().tolist() for k in range(which.shape[1])]
    pairs = job.pairs.select(rows)
    cells = [
        Cell(str(i), "all", tuple(_cuts(job, mask, at, pairs, rows)) or (_nothing(job),))
        for i, mask in enumerate(job.by_class(which, range(len(job.kept))))
    ]
    return Sweep(
        model=job.model,
        pairs=pairs,
        cells=cells,
        method="circuits",
        base="clean",
        metrics=job.metrics,
        engine=job.engine,
        memory=job.memory,
        checkpoint=job.checkpoint,
    )


def _alike(job: Isolation) -> Iterator[list[int]]:
    """Rows of one length in which every place names the same positions."""
    groups: dict[tuple, list[int]] = defaultdict(list)
    names = () if job.places == ("all",) else job.pairs.positions
    for row in range(len(job.pairs)):
        at = tuple(int(job.pairs.at(name)[row]) for name in names)
        groups[int(job.pairs.lengths[row]), *at].append(row)
    yield from groups.values()


def _cuts(
    job: Isolation,
    kept: Bool[ndarray, "class reader writer"],
    at: list[list[int]],
    pairs: Pairs,
    rows: list[int],
) -> Iterator[Intervention]:
    """What is not kept: writers for everyone, or for the readers that lose them."""
    graph = job.wiring.graph
    cut = graph.feeds & ~kept
    for w, writer in enumerate(graph.writers):
        lost, all_of_it = cut[:, :, w], graph.feeds[:, w]
        if not lost.any():
            continue
        value = _value(job, writer, pairs, rows)
        places: list[tuple[Bool[ndarray, " reader"], list[str | int]]]
        if (lost == lost[:1]).all():
            places = [(lost[0], ["all"])]
        else:
            places = [(one, list(here)) for one, here in zip(lost, at, strict=True) if one.any()]
        for one, here in places:
            everyone = bool((one == all_of_it).all())
            readers = None if everyone else tuple(graph.readers[r] for r in np.flatnonzero(one))
            yield from (Intervention(writer, value, place, readers) for place in here)


def _value(job: Isolation, writer: Site, pairs: Pairs, rows: list[int]) -> Value:
    if isinstance(job.source, Constants):
        return Set(_constant(job.source, writer).expand(*pairs.clean.shape, -1))
    if isinstance(job.source, Averaged):
        return Mean(job.source)
    return Resample("corrupt") if job.ablation == "resample" else Zero()


def _constant(constants: Constants, writer: Site) -> Tensor:
    if writer.kind == "embed":
        return constants.embed
    if writer.kind == "z":
        return constants.z[writer.layer or 0, writer.head or 0]
    return constants.mlp_out[writer.layer or 0]


def _nothing(job: Isolation) -> Intervention:
    """The whole model is a circuit that changes nothing."""
    return Intervention(Site("embed"), Freeze())
