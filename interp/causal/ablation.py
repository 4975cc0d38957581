"""Ablation: take a part away and see what the model loses."""

from typing import Unpack

from interp.causal.averages import Averaging, PlainAblation, value_of
from interp.causal.targets import Sites, targets
from interp.core.door.door import door
from interp.core.metrics import Metrics, resolve_metrics
from interp.core.prompts.pairs import Pairs
from interp.core.prompts.places import Positions
from interp.core.tables.results import Results
from interp.engine.sweep.run import run
from interp.engine.sweep.sweep import Running, Sweep
from interp.models.model import Model


@door
def ablate(
    model: Model,
    pairs: Pairs,
    sites: Sites,
    *,
    method: PlainAblation = "mean",
    positions: Positions = "all",
    reference: Averaging = "corrupt",
    normalise: bool = True,
    metric: Metrics = "logit_diff",
    **running: Unpack[Running],
) -> Results:
    """Replace each site's activation on the clean run, one site, edge or named set at a time.

    Args:
        sites: `"heads"`, `"mlps"`, `"attn"`, `"neurons"`, `"experts"`, a site, an edge
            ("20.1 -> 23.3.q", `"edges"` for all), or a list: one ablation each; heads are ablated
            at z. A mapping from names to such selections ablates each selection together: a
            circuit, its `complement`.
            Of an LSTM `"units"` (each unit of h), `"layers"` (h), `"c"`, "0.c[12]".
        method: `"zero"`; `"mean"`: the mean over the reference prompts of the row's own template
            and length, two at least, position by position (Wang et al. 2022, sec. 2.1: the mean
            over p_ABC within the template); `"resample"`: the corrupt prompt of the same row.
        positions: `"all"`, `"after first"`, `"rest"` (what has no name), a named position, an
            index, a list of these (one ablation each), `"each"` index, or indices row by row: an
            array, a list of lists, a mask.
        reference: whose mean: a side of these pairs, or the corrupt side of others, which should
            be many (a warning under 30 prompts a group), or a `MeanReference` of this model, fitted
            before. Unused by the other methods.
        normalise: refuse attention patterns whose rows do not sum to 1, and weights of experts that
            do not sum to what they did; False allows them and says so in the provenance.
        running: `engine`, `memory`, `checkpoint`, as `interp.Running` says.

    Returns:
        One row for each site, position and example; `effect` is the metric under ablation minus
        the clean run's.

    Raises:
        SiteError, PositionError, MetricError, PairsError, Unsupported: as their names say, before
            any run.
    """
    value = value_of(method, pairs, reference)
    cells = [
        target.cell(value, normalise=normalise)
        for target in targets(model, pairs, sites, positions)
    ]
    return run(
        Sweep(
            model=model,
            pairs=pairs,
            cells=cells,
            method=f"ablate {method}",
            base="clean",
            metrics=resolve_metrics(metric),
            **running,
        )
    )
