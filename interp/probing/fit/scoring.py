"""From log-probabilities to scores by document: the same for every kind of probe."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from interp.core.errors import ProbeError
from interp.core.parts.sites import Site
from interp.core.tables.scores import Scores


def correct(
    log_probs: Float[Tensor, "site problem example class"], y: Int[Tensor, "problem example"]
) -> Float[ndarray, "site problem example"]:
    """1 where the likeliest class is the label, else 0."""
    return (log_probs.argmax(-1) == y.to(log_probs.device)).double().cpu().numpy()


def bits(
    log_probs: Float[Tensor, "site problem example class"], y: Int[Tensor, "problem example"]
) -> Float[ndarray, "site problem example"]:
    """Code length of each label, -log2 p."""
    label = y.to(log_probs.device).expand(len(log_probs), *y.shape)[..., None]
    found = -log_probs.gather(-1, label)[..., 0].double() / np.log(2)
    return found.cpu().numpy()


def score(
    values: Float[ndarray, "site problem example"],
    cluster: Sequence[str] | ndarray,
    *,
    sites: Sequence[Site],
    labels: Sequence[str],
    task: str,
    probe: str,
    model: str,
    provenance: Mapping[str, Any],
    metric: str = "accuracy",
    subsets: Mapping[str, Bool[ndarray, " example"]] | None = None,
) -> Scores:
    """One cell for each site, problem and subset.

    Args:
        values: of each example, from `correct` or `bits`; NaN is not counted.
        cluster: document of each example.
        labels: of the problems: "real", "control".
        subsets: examples in each, by name; all of them, as "all", by default.

    Raises:
        ProbeError: names or documents of another number than the values, or an empty subset.
    """
    if values.shape != (len(sites), len(labels), len(cluster)):
        raise ProbeError(
            f"values of {values.shape} (sites, problems, examples) for {len(sites)} sites, "
            f"{len(labels)} problems and documents of {len(cluster)} examples; give one for each."
        )
    documents = np.asarray(cluster)
    chosen = subsets or {"all": np.ones(len(documents), dtype=bool)}
    if empty := [name for name, kept in chosen.items() if not kept.any()]:
        raise ProbeError(f"the subset {empty[0]!r} has no examples, so it has no score; leave it.")
    cells = [
        Scores.of(
            values[i, j][kept],
            documents[kept],
            task=task,
            probe=probe,
            model=model,
            metric=metric,
            site=str(site),
            labels=label,
            subset=subset,
            provenance=provenance,
        )
        for i, site in enumerate(sites)
        for j, label in enumerate(labels)
        for subset, kept in chosen.items()
    ]
    return Scores.concat(cells)
