"""Run a circuit by itself: everything else of the model is ablated."""

import logging
from collections.abc import Iterable, Mapping
from typing import Unpack

from interp.circuits.proof.setting import Given, Setting
from interp.core.door.door import door
from interp.core.errors import ResultsError
from interp.core.metrics import Metrics
from interp.core.parts.circuit import Circuit
from interp.core.prompts.pairs import Pairs
from interp.core.tables.results import Results
from interp.engine.sweep.sweep import Running
from interp.models.model import Model

log = logging.getLogger("interp")


@door
def run_circuits(
    model: Model,
    pairs: Pairs,
    circuits: Circuit | Mapping[str, Circuit],
    *,
    reference: Given = "corrupt",
    metric: Metrics = "logit_diff",
    **running: Unpack[Running],
) -> Results:
    """Metrics of the clean prompts in a model that has only the circuit.

    Every edge of the model's `Graph` that the circuit does not keep is cut: its reader sees the
    writer's ablated value. Of a circuit of nodes every other head and MLP is ablated for all its
    readers; the embedding stays. Everything is recomputed on what results, so what a kept edge
    carries is what its writer says in the circuit (Wang et al. 2022, sec. 3.2; Miller et al. 2024).

    Args:
        circuits: one, or by name. An empty one is the ablated run, the graph as a whole the model.
        reference: of circuits with ablation "mean": whose mean, as in `ablate`; "optimal": the
            `Constants` of `fit_optimal`. Unused by the others.
        metric: one or several; each makes rows of its own, from the same run.
        engine: `"hooks"` runs each circuit as one joint intervention, which is slow.
        running: `engine`, `memory`, `checkpoint`, as `interp.Running` says.

    Returns:
        One row for each metric, circuit and example: `site` is the circuit's name, `base` the clean
        model's metric and `value` the circuit's. Columns beside the usual: `size`, the number of
        parts; `connected`: does a kept path lead from the embedding to the logits? A circuit
        without one sees nothing of the clean prompt, and a warning is logged.

    Raises:
        ResultsError: a circuit of another model.
        SiteError, PositionError: parts or places that the model or the pairs have not.
        Unsupported: several ablations in one call, constants missing, edges of a model without
            logits; through hooks edges of two stacks.
        MetricError, PairsError, InterpError: as in `ablate`.
    """
    named = {"circuit": circuits} if isinstance(circuits, Circuit) else dict(circuits)
    if not named:
        raise ResultsError("the mapping of circuits is empty, so nothing runs; give at least one.")
    setting = Setting.of(model, pairs, list(named.values()), reference)
    found = setting.run(
        [setting.kept(name, circuit) for name, circuit in named.items()],
        metric=metric,
        **running,
    )
    warn_of_unconnected(found, named)
    return found


def warn_of_unconnected(runs: Results, names: Iterable[str]) -> None:
    """Say which of these circuits no prompt can pass through; of those without parts one knows."""
    first = runs.frame.drop_duplicates("site").set_index("site").loc[list(names)]
    if lost := list(first.index[~first["connected"] & (first["size"] > 0)]):
        log.warning(
            "No kept path leads from the embedding to the logits in %s%s: there the model says "
            "the same whatever the prompt is, but for what the ablated values carry.",
            ", ".join(map(repr, lost[:3])),
            f" and {len(lost) - 3} more circuits" if len(lost) > 3 else "",
        )
