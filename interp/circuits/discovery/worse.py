"""Where a metric goes when a model loses what it can do: lower, or higher."""

from typing import Literal

from interp.core.errors import MetricError

Worse = Literal["higher", "lower"]
WORSE: dict[str, Worse] = {
    "kl": "higher",
    "loss": "higher",
    "next_token_loss": "higher",
    "rank": "higher",
    "logit_diff": "lower",
    "accuracy": "lower",
    "log_prob": "lower",
    "prob": "lower",
    "next_token_accuracy": "lower",
    "cosine": "lower",
}
"""Of the library's metrics, wherever they are read."""


def harm(metric: str, worse: Worse | None = None) -> int:
    """The sign of a change for the worse: 1 where higher is worse, else -1.

    Raises:
        MetricError: a metric of one's own, of which it is not said.
    """
    name = metric.partition("@")[0]
    if worse is None and name not in WORSE:
        raise MetricError(
            f"of the metric {metric!r} it is not known where it goes when the model gets worse, "
            "and edges are cut as long as it does not: say worse='lower' (as of logit_diff) or "
            "worse='higher' (as of kl)."
        )
    return 1 if (worse or WORSE[name]) == "higher" else -1
