"""The list itself: interventions of one's own, in any combination."""

from collections.abc import Mapping, Sequence
from typing import Unpack

from interp.core.door.door import door
from interp.core.errors import SiteError
from interp.core.metrics import Metrics, resolve_metrics
from interp.core.parts.edges import Edge
from interp.core.prompts.pairs import Pairs, Side
from interp.core.tables.results import Results
from interp.engine.interventions import Cell, Hop, Intervention
from interp.engine.sweep.run import run
from interp.engine.sweep.sweep import Running, Sweep
from interp.models.model import Model


@door
def intervene(
    model: Model,
    pairs: Pairs,
    interventions: Mapping[str, Sequence[Intervention]],
    *,
    hops: Sequence[Hop] = (),
    base: Side = "clean",
    metric: Metrics = "logit_diff",
    **running: Unpack[Running],
) -> Results:
    """Run the model once for each named set of interventions, made together.

    For what `ablate`, `patch` and `path_patch` have no word for: a vector that is added
    (steering), a head that is scaled, different values at different sites.

        Add, Intervention = interp.interventions.Add, interp.interventions.Intervention
        steer = Intervention(interp.Site.parse("12.resid_post"), Add(vector), "end")
        interp.intervene(model, pairs, {"steer": [steer]})

    Args:
        interventions: by the name that the table gives them in its `site` column.
        hops: the path that they take, if not every one.
        base: the run that is intervened on.

    Returns:
        One row for each name and example.

    Raises:
        SiteError, PositionError, MetricError, Unsupported: as their names say, before any run.
    """
    if not interventions:
        raise SiteError(
            "interventions={} names nothing to do; give a mapping from names to lists of "
            "interventions, one run each."
        )
    cells = []
    for name, made in interventions.items():
        if not made:
            raise SiteError(
                f"the set {name!r} holds no intervention; leave it out, or give at least one."
            )
        for i in made:
            i.site.check(model.facts)
            for reader in i.readers or ():
                Edge(i.site, reader).check(model.facts)
        cells.append(Cell(name, "", tuple(made), tuple(hops)))
    return run(
        Sweep(
            model=model,
            pairs=pairs,
            cells=cells,
            method="intervene",
            base=base,
            metrics=resolve_metrics(metric),
            **running,
        )
    )
