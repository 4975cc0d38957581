"""What the model does: the metric on the clean and the corrupt run, before anything is changed."""

from functools import partial

import numpy as np
import torch

from interp.core.door.door import door
from interp.core.metrics import Metrics, resolve_metrics
from interp.core.prompts.pairs import Pairs
from interp.core.tables.results import Results
from interp.engine.engines.choose import accept, choose
from interp.engine.engines.protocol import EngineName
from interp.engine.engines.resolution import named, resolution
from interp.engine.limits import Limits
from interp.engine.plan.batches import forward_plan
from interp.engine.plan.explain import proceed
from interp.engine.plan.memory import by_rows
from interp.engine.plan.positions import blocks, ids_of, lengths_in
from interp.engine.plan.score import Readout
from interp.engine.provenance import provenance
from interp.models.model import Model

ROWS = 64
"""Prompts in one forward."""


@door
@torch.inference_mode()
def evaluate(
    model: Model,
    pairs: Pairs,
    *,
    metric: Metrics = ("logit_diff", "accuracy"),
    engine: EngineName = "auto",
) -> Results:
    """Metrics of both sides of the pairs, per example.

    The answers are the clean prompt's on both sides. Rows have `method="evaluate"`, the side in
    `position` and the metric's number in `value`; there is no intervention, so `base` and `effect`
    are NaN and `summary()` gives intervals of the value.

    Raises:
        MetricError: unknown metric, or one that is not a finite float per example.
        ModelError: a submodule is in training mode.
        PairsError, Unsupported: ids that the model has not, or a model without logits.
    """
    metrics = resolve_metrics(metric)
    for m in metrics:
        accept(model, pairs, m)
    served = choose(model, engine, longest=pairs.longest)
    itemsize = model.dtype.itemsize
    proceed(
        forward_plan(
            *(model.facts, lengths_in(model.facts, pairs)),
            rows=ROWS,
            runs=2,
            itemsize=itemsize,
            engine=served.name,
            metrics=len(metrics),
            limits=Limits.of(model.device),
        )
    )
    values = {(m.name, side): np.full(len(pairs), np.nan) for m in metrics for side in SIDES}

    rounding = np.full(len(metrics), np.nan)

    def some(rows: list[int]) -> None:
        runs = {
            side: served.trace(*ids_of(pairs, side, rows, model.device), keep=()) for side in SIDES
        }
        readout = Readout.of_rows(model, pairs, metrics, rows)
        readout = readout.referring(partial(served.found, runs["clean"]))
        for side, run in runs.items():
            found = served.plain(run, readout).double().cpu().numpy()
            for m, value in zip(metrics, found, strict=True):
                values[m.name, side][rows] = value
            if side == "clean" and np.isnan(rounding).all():
                rounding[:] = resolution(model, pairs, side, rows, readout, found)

    for rows in blocks(pairs.extents, ROWS):
        by_rows(some, rows, "a plain run")
    note = provenance(model, pairs, resolution=named(metrics, rounding), engine=served.name)
    names, sides = zip(*values, strict=True)
    return Results.of(
        {
            **{"method": "evaluate", "site": "logits", "kind": "logits"},
            **{"position": sides, "metric": names, "engine": served.name},
        },
        np.stack([*values.values()]),
        units=pairs.units,
        provenance=note,
    )


SIDES = ("clean", "corrupt")
