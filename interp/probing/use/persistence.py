"""Does a later layer remove what an earlier one has read out?

The directions that a probe reads at one site are looked for at the others: how much of the variance
of the activations lies along them, and how much of that is between the classes. The residual stream
has one basis for all layers, so the directions mean the same throughout.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from interp.core.door.door import door
from interp.core.door.taken import NotEmpty
from interp.core.errors import ProbeError
from interp.core.tables.scores import Scores
from interp.probing.read.features import Features


@door
def persistence(
    features: Features,
    y: Int[ndarray, " labelled"],
    cluster: Sequence[str],
    directions: Annotated[Mapping[str, Float[Tensor, "_ _"]], NotEmpty()],
    *,
    task: str,
    provenance: Mapping[str, Any],
    words: Int[ndarray, " chosen"] | None = None,
    model: str = "trained",
) -> Scores:
    """Variance of the activations along directions, at every site.

    Metric "variance share": variance along the directions over all variance. Metric "between
    share": of the variance along the directions, the part that lies between the class means
    (eta squared). Their intervals take the means and totals as given.

    Args:
        words: of the features; all by default.
        y: label of each of these words.
        cluster: document of each word.
        directions: orthonormal columns by the name that stands in the `probe` column; the `left` of
            an erasure, as of `interp.probing.use.erasure.probe_directions`.

    Raises:
        ProbeError: labels or documents of another number of words, or directions of another width.
    """
    chosen = np.arange(len(features)) if words is None else words
    if not len(y) == len(cluster) == len(chosen):
        raise ProbeError(
            f"{len(chosen)} words, {len(y)} labels and {len(cluster)} documents; give one each."
        )
    if not len(y) or int(y.min()) < 0:
        raise ProbeError(
            f"labels are numbers from 0 on, of at least one word; the least of {len(y)} is "
            f"{int(y.min(initial=0))}."
        )
    if odd := [name for name, basis in directions.items() if not bool(basis.isfinite().all())]:
        raise ProbeError(f"directions {odd[0]!r} hold NaN or infinity; look at what they are of.")
    classes = torch.nn.functional.one_hot(torch.from_numpy(y)).double()
    counts = classes.sum(0).clamp_min(1)
    parts = []
    for site in features.sites:
        x = features.stack(chosen, sites=[site])[0].double()
        x = x - x.mean(0)
        total = x.square().sum(1).mean()
        for name, basis in directions.items():
            if basis.shape[0] != x.shape[1]:
                raise ProbeError(
                    f"directions {name!r} have {basis.shape[0]} numbers and {site} {x.shape[1]}; "
                    "give directions of the width of the sites."
                )
            along = x @ basis.to(x)
            between = (classes.T @ along) / counts[:, None]
            explained = between.square().sum(1)[torch.from_numpy(y)]
            length = along.square().sum(1)
            for metric, values in (
                ("variance share", length / total),
                ("between share", explained / length.mean()),
            ):
                parts.append(
                    Scores.of(
                        values.numpy(),
                        cluster,
                        task=task,
                        site=str(site),
                        probe=name,
                        model=model,
                        metric=metric,
                        provenance=provenance,
                    )
                )
    return Scores.concat(parts)
