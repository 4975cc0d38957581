"""Amnesic probing: what a model still does once it cannot know a property at a layer.

Decodable is not used. Elazar et al. (2021) erase what a probe reads, let the model go on from
there, and compare what it then does with the loss of as many random directions.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from interp.core.atomic import require_writable
from interp.core.door import door
from interp.core.errors import ProbeError, ResultsError, nearest
from interp.core.metrics import Metrics, resolve_metrics
from interp.core.pairs import Pairs
from interp.core.places import AFTER_FIRST
from interp.core.results import Results
from interp.core.taken import NotEmpty, Told
from interp.engine.engines import EngineName
from interp.engine.interventions import Cell, Erase, Intervention
from interp.engine.memory import Memory
from interp.engine.run import run
from interp.engine.sweep import Sweep
from interp.models.model import Model
from interp.probing.erasure import BySite, by_site

METHOD = "erase"
PAIRED = ["site", "position", "receiver", "through", "direction", "metric", "example"]
"""Columns in which an erasure and its control agree."""


@door
def amnesic(
    model: Model,
    pairs: Pairs,
    erasers: Annotated[Mapping[str, BySite[Erase]], NotEmpty()],
    *,
    sites: Literal["each", "together"] = "each",
    positions: str = AFTER_FIRST,
    metric: Annotated[Metrics, Told(resolve_metrics)] = "next_token_loss",
    engine: EngineName = "auto",
    memory: Memory = None,
    checkpoint: Annotated[Path | None, Told(require_writable)] = None,
) -> Results:
    """Erase a property at a site, go on from there, and measure what the model then does.

    Args:
        erasers: by what is taken away, then by site; of `interp.probing.erasure.erasers`, which
            gives the random control beside LEACE.
        sites: one at a time; or all of a kind in one run, each acting on what those before have
            left. What was fitted to plain activations is then no longer exact at later sites.
        positions: `"after first"`: all but the first token of a row, which may be an attention
            sink (see `erasers`); `"all"`; or a named position.
        metric: `"next_token_loss"` of running text; `"accuracy"`, `"logit_diff"` of pairs.

    Returns:
        One row for each kind, site and example, of method "erase leace", "erase random", ...;
        `base` is the clean run. `beyond` compares kinds.

    Raises:
        ProbeError: no kinds, or one without sites.
        SiteError: a site that the model has not, or an erasure of another width.
        PositionError, MetricError, PairsError, Unsupported: as their names say, before any run.
    """
    if empty := [kind for kind, of in erasers.items() if not of]:
        raise ProbeError(f"{empty[0]!r} holds no erasure; give at least one site of each kind.")
    given = {kind: by_site(of) for kind, of in erasers.items()}
    cells: list[Cell] = []
    methods: list[str] = []
    for kind, of in given.items():
        made = {
            site.check(model.facts): Intervention(site, erase, positions)
            for site, erase in sorted(of.items())
        }
        if sites == "each":
            found = [Cell(str(s), positions, (one,), site=s) for s, one in made.items()]
        else:
            found = [Cell("+".join(map(str, made)), positions, tuple(made.values()))]
        cells += found
        methods += [f"{METHOD} {kind}"] * len(found)
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
    ranks = {kind: {str(s): e.rank for s, e in sorted(of.items())} for kind, of in given.items()}
    # of each metric the table has the cells in the order of the list, each with all examples
    told = np.tile(np.repeat(methods, len(pairs)), len(resolve_metrics(metric)))
    frame = results.frame.assign(method=told)
    return Results(frame, {**results.provenance, "erased directions": ranks})


@door
def beyond(results: Results, *, control: str = "random") -> Results:
    """What erasing did beyond its control: each erasure against it, example by example.

    Args:
        results: of `amnesic`.
        control: the kind that the others are compared with.

    Returns:
        Rows of method "erase leace - random": `base` is the metric under the control, so `effect`,
        its interval and p in `summary()` are of the paired difference.

    Raises:
        ResultsError: no such kind, or it was not measured where the others were.
    """
    frame = results.frame
    kinds = [m for m in dict.fromkeys(frame["method"]) if m.startswith(f"{METHOD} ")]
    name = f"{METHOD} {control}"
    others = [kind for kind in kinds if kind != name]
    if name not in kinds or not others:
        known = [kind.removeprefix(f"{METHOD} ") for kind in kinds]
        raise ResultsError(
            f"the results have no erasures to compare with {control!r}; {nearest(control, known)} "
            "Give amnesic() the control and another kind."
        )
    against = frame[frame["method"] == name].set_index(PAIRED)["value"]
    chosen = frame[frame["method"].isin(others)].reset_index(drop=True)
    base = chosen[PAIRED].join(against, on=PAIRED)["value"].to_numpy()
    if np.isnan(base).any():
        lost = chosen["site"][int(np.isnan(base).argmax())]
        raise ResultsError(f"the control {control!r} was not measured at '{lost}'; measure it too.")
    method = [f"{kind} - {control}" for kind in chosen["method"]]
    compared = chosen.assign(method=method, base=base, effect=chosen["value"] - base)
    return Results(compared, results.provenance)
