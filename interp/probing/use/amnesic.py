"""Amnesic probing: what a model still does once it cannot know a property at a layer.

Decodable is not used. Elazar et al. (2021) erase what a probe reads, let the model go on from
there, and compare what it then does with the loss of as many random directions.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd

from interp.core.door.door import door
from interp.core.door.taken import NotEmpty, Told
from interp.core.files.atomic import require_writable
from interp.core.metrics import Metrics, resolve_metrics
from interp.core.prompts.pairs import Pairs
from interp.core.prompts.places import AFTER_FIRST, Given, place_of
from interp.core.tables.results import Results
from interp.engine.engines.protocol import EngineName
from interp.engine.interventions import Cell, Erase, Intervention
from interp.engine.plan.memory import Memory
from interp.engine.sweep.run import run
from interp.engine.sweep.sweep import Sweep
from interp.models.model import Model
from interp.probing.read.given import BySite, one_by_one
from interp.probing.use.beyond import METHOD, beyond
from interp.probing.use.erasure import Erasers

__all__ = ["amnesic", "beyond"]


@door
def amnesic(
    model: Model,
    pairs: Pairs,
    erasers: Annotated[Mapping[str, BySite[Erase] | Sequence[BySite[Erase]]], NotEmpty()],
    *,
    sites: Literal["each", "together"] = "each",
    positions: Given = AFTER_FIRST,
    metric: Annotated[Metrics, Told(resolve_metrics)] = "next_token_loss",
    engine: EngineName = "auto",
    memory: Memory = None,
    checkpoint: Annotated[Path | None, Told(require_writable)] = None,
) -> Results:
    """Erase a property at a site, go on from there, and measure what the model then does.

    Args:
        erasers: by what is taken away, then by site; of `interp.probing.erasers`, which gives the
            controls beside LEACE. Several draws of one kind stand in a list.
        sites: one at a time; or all of a kind in one run, each acting on what those before have
            left. What was fitted to plain activations is then no longer exact at later sites.
        positions: `"after first"`: all but the first token of a row, which may be an attention
            sink (see `erasers`); `"all"`; or a place of an `Intervention`, such as a list of
            indices for each row. Fitted to the last tokens of words and put in at every token, an
            erasure moves tokens that it was never fitted to, and LEACE's promise does not hold
            there.
        metric: `"next_token_loss"` of running text; `"accuracy"`, `"logit_diff"` of pairs.

    Returns:
        One row for each erasure, site and example, of method "erase leace", "erase random 1", ...;
        the column `draw` is missing of what is no draw; `base` is the clean run. `by_kind` has the
        draws of a control in one row, and `beyond` compares with them.

    Raises:
        ProbeError: no kinds, or one without sites or draws.
        SiteError: a site that the model has not, or an erasure of another width.
        PositionError, MetricError, PairsError, Unsupported: as their names say, before any run.
    """
    at = place_of(positions)
    cells: list[Cell] = []
    told: list[tuple[str, int | None]] = []
    ones = one_by_one(erasers)
    for one in ones:
        made = {
            site.check(model.facts): Intervention(site, erase, at)
            for site, erase in sorted(one.of.items())
        }
        if sites == "each":
            found = [Cell(str(s), str(at), (i,), site=s) for s, i in made.items()]
        else:
            found = [Cell("+".join(map(str, made)), str(at), tuple(made.values()))]
        cells += found
        told += [(f"{METHOD} {one.name}", one.draw)] * len(found)
    results = run(
        Sweep(
            model=model,
            pairs=pairs,
            cells=cells,
            method=METHOD,
            base="clean",
            metrics=resolve_metrics(metric),
            engine=engine,
            memory=memory,
            checkpoint=checkpoint,
        )
    )
    ranks = {one.name: {str(s): e.rank for s, e in sorted(one.of.items())} for one in ones}
    note = {**results.provenance, "erased directions": ranks}
    if isinstance(erasers, Erasers):
        note["erasures"] = json.loads(erasers.report.to_json(orient="records"))
    # of each metric the table has the cells in the order of the list, each with all examples
    methods, draws = zip(*told, strict=True)
    n, times = len(pairs), len(resolve_metrics(metric))
    frame = results.frame.assign(
        method=np.tile(np.repeat(methods, n), times),
        draw=pd.array(np.tile(np.repeat(np.array(draws, dtype=float), n), times), dtype="Int16"),
    )
    return Results(frame, note)
