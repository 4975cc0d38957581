"""Activation patching: put one run's activation into the other (Zhang & Nanda 2024)."""

from typing import Literal, Unpack

from interp.causal.targets import Sites, targets
from interp.core.door.door import door
from interp.core.metrics import Metrics, resolve_metrics
from interp.core.prompts.pairs import Pairs, Side
from interp.core.prompts.places import Positions
from interp.core.tables.results import Results
from interp.engine.interventions import Resample
from interp.engine.sweep.run import run
from interp.engine.sweep.sweep import Running, Sweep
from interp.models.model import Model

Direction = Literal["noise", "denoise"]

RUNS: dict[str, tuple[Side, Side]] = {
    "noise": ("clean", "corrupt"),
    "denoise": ("corrupt", "clean"),
}
"""For each direction the run that is intervened on, and the run that gives the value."""


@door
def patch(
    model: Model,
    pairs: Pairs,
    sites: Sites,
    *,
    positions: Positions = "all",
    direction: Direction = "noise",
    normalise: bool = True,
    metric: Metrics = "logit_diff",
    **running: Unpack[Running],
) -> Results:
    """Give each site the value it has in the other run, one site, edge or named set at a time.

    Args:
        sites: `"heads"`, `"mlps"`, `"attn"`, `"layers"`, `"resid_pre"`, `"resid_mid"`,
            `"resid_post"`, `"experts"`, `"routers"`, any site, an edge
            ("20.1 -> 23.3.q"; `"edges"` for all), or a list: one patch each. A mapping from names
            to such selections patches each selection together. Of an LSTM `"units"` (each unit
            of h), `"layers"` (h), `"c"`, "0.c[12]".
        positions: `"all"`, a named position, an index, a list of these (one patch each),
            `"each"` index, or indices row by row: an array, a list of lists, a mask.
        direction: `"noise"` puts corrupt values into the clean run (what the behaviour needs), as
            `ablate`, `path_patch` and circuits do, `"denoise"` clean values into the corrupt run
            (what is enough to restore it).
        normalise: refuse weights of experts ("3.router") that do not sum to what they did, as those
            of another run do not where a router keeps chances and does not divide them by their
            sum (OLMoE); False allows them and says so in the provenance.
        running: `engine`, `memory`, `checkpoint`, as `interp.Running` says.

    Returns:
        One row for each site, position and example; `effect` is the metric under the patch minus
        that of the run that was patched.

    Raises:
        SiteError, PositionError, MetricError, Unsupported: as their names say, before any run.
    """
    base, other = RUNS[direction]
    cells = [
        target.cell(Resample(other), normalise=normalise)
        for target in targets(model, pairs, sites, positions)
    ]
    return run(
        Sweep(
            model=model,
            pairs=pairs,
            cells=cells,
            method="patch",
            base=base,
            metrics=resolve_metrics(metric),
            **running,
        )
    )
