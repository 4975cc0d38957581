"""Steering: moving activations along a probe's direction, and a random one as far."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.door.door import door
from interp.core.door.taken import Finite, NotEmpty, Seed, Told
from interp.core.errors import ProbeError, SiteError
from interp.core.files.atomic import require_writable
from interp.core.metrics import Metrics, resolve_metrics
from interp.core.parts.sites import HEAD_KINDS, Site
from interp.core.prompts.pairs import Pairs
from interp.core.tables.results import Results
from interp.engine.engines.protocol import EngineName
from interp.engine.interventions import Add, Cell, Intervention
from interp.engine.plan.memory import Memory
from interp.engine.sweep.run import run
from interp.engine.sweep.sweep import Sweep
from interp.models.model import Model
from interp.probing.read.given import BySite, by_site

DOSES = (-2.0, -1.0, 0.0, 1.0, 2.0)


@door
def steering_vector(
    x: Float[Tensor, "word d"], labels: Int[Tensor, " labelled"], weight: Float[Tensor, "wide 2"]
) -> Float[Tensor, " d"]:
    """The way from class 0 to class 1 along the direction that a two-class probe reads.

    The probe's unit normal, as long as the means of the two classes are apart along it: a dose of
    1 moves the mean word of class 0 to where the probe sees the mean word of class 1.

    Args:
        x: activations of words at one site.
        labels: of each word, 0 or 1.
        weight: of the probe.

    Raises:
        ProbeError: labels other than 0 and 1, a probe of another width, or one that reads nothing.
    """
    if len(x) != len(labels) or sorted(set(labels.tolist())) != [0, 1]:
        raise ProbeError(
            f"steering is from class 0 to class 1; {len(labels)} labels of {len(x)} words are "
            f"{sorted(set(labels.tolist()))}. Number two classes 0 and 1."
        )
    if weight.shape[0] != x.shape[1]:
        raise ProbeError(
            f"a probe of width {weight.shape[0]} and activations of {x.shape[1]}; give both of one "
            "site."
        )
    if not bool(x.isfinite().all()):
        raise ProbeError(
            "the activations hold NaN or infinity, so that the means of the classes are none. "
            "Likely they were kept in float16: collect them with dtype=torch.float32."
        )
    normal = (weight[:, 1] - weight[:, 0]).double()
    size = normal.norm()
    if not (size > 0 and size.isfinite()):
        raise ProbeError(
            f"the probe's direction has length {size.item()}: it reads nothing. Look at how it was "
            "fitted."
        )
    unit = normal / size
    apart = (x[labels == 1].double().mean(0) - x[labels == 0].double().mean(0)) @ unit
    return apart * unit


@door
def steer(
    model: Model,
    pairs: Pairs,
    vectors: Annotated[BySite[Float[Tensor, " _"]], NotEmpty()],
    *,
    doses: Annotated[Sequence[Finite], NotEmpty()] = DOSES,
    positions: str = "end",
    seed: Seed = 0,
    metric: Annotated[Metrics, Told(resolve_metrics)] = "logit_diff",
    engine: EngineName = "auto",
    memory: Memory = None,
    checkpoint: Annotated[Path | None, Told(require_writable)] = None,
) -> Results:
    """Add multiples of a vector at a site, and of a random vector of the same length as control.

    Args:
        vectors: by site; of `steering_vector`.
        doses: multiples; 0 is a null control.
        positions: a named position, `"after first"` (all but the first token) or `"all"`.
        seed: of the random directions, one for each site.

    Returns:
        One row for each dose, site and example, of method "steer +1" or "steer random +1"; the
        columns `dose` and `direction of steering` ("probe", "random") say so too.

    Raises:
        ProbeError: a dose twice, or a vector that is not finite.
        SiteError: a site that the model has not, or a vector of another width.
        PositionError, MetricError, PairsError, Unsupported: as their names say, before any run.
    """
    if len(set(doses)) < len(doses):
        raise ProbeError(f"steer takes doses that differ; got {list(doses)}. Give each once.")
    cells: list[Cell] = []
    told: list[tuple[str, float]] = []
    for n, (site, vector) in enumerate(sorted(by_site(vectors).items())):
        _require_width(model, site, vector)
        random = np.random.default_rng([seed, n]).standard_normal(len(vector))
        other = torch.from_numpy(random / np.linalg.norm(random)).to(vector) * vector.norm()
        for kind, direction in (("probe", vector), ("random", other)):
            for dose in doses:
                made = (Intervention(site, Add(dose * direction), positions),)
                cells.append(Cell(str(site), positions, made, site=site))
                told.append((kind, float(dose)))
    results = run(
        Sweep(
            model=model,
            pairs=pairs,
            cells=cells,
            method="steer",
            base="clean",
            metrics=resolve_metrics(metric),
            engine=engine,
            memory=memory,
            checkpoint=checkpoint,
        )
    )
    names = [f"steer {'random ' * (kind == 'random')}{dose:+g}" for kind, dose in told]
    kinds, amounts = zip(*told, strict=True)
    # of each metric the table has the cells in the order of the list, each with all examples
    columns = {"method": names, "dose": amounts, "direction of steering": kinds}
    n, times = len(pairs), len(resolve_metrics(metric))
    frame = results.frame.assign(**{k: np.tile(np.repeat(v, n), times) for k, v in columns.items()})
    return Results(frame, results.provenance)


def _require_width(model: Model, site: Site, vector: Float[Tensor, " d"]) -> None:
    site.check(model.facts)
    if site.kind in ("pattern", "mlp_act", "router"):
        raise SiteError(
            f"'{site}' is no vector of features that could be moved along a direction; take the "
            "residual stream, or an output ('3.resid_post', '3.mlp', '3.1')."
        )
    width = model.facts.d_head if site.kind in HEAD_KINDS else model.facts.d_model
    if len(vector) != width:
        raise SiteError(
            f"the vector for '{site}' has {len(vector)} numbers, and the site's have {width}: it "
            "was made at another kind of site, or on another model."
        )
    if not bool(vector.isfinite().all()):
        raise ProbeError(f"the vector for '{site}' holds NaN or infinity; look at how it was made.")
