"""Random circuits: what a circuit of this size and in these layers does by chance."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Unpack

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray

from interp.circuits.proof.faithfulness import (
    EMPTY,
    METRICS,
    ByCircuit,
    by_metric,
    empty,
    of_metric,
    ratio_of_means,
)
from interp.circuits.proof.run import warn_of_unconnected
from interp.circuits.proof.setting import Given, Setting
from interp.core.door.door import door
from interp.core.door.taken import Count, Seed, shown
from interp.core.errors import ResultsError
from interp.core.metrics import Metrics
from interp.core.parts.circuit import Circuit, Part
from interp.core.parts.edges import Edge
from interp.core.parts.facts import Facts
from interp.core.parts.graph import Graph, nodes
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs
from interp.core.tables.attribution import Attribution
from interp.core.tables.results import Results
from interp.core.tables.saved import Saved
from interp.engine.sweep.sweep import Running
from interp.models.model import Model

CIRCUIT = "circuit"


@door
def random_circuits(
    circuit: Circuit, facts: Facts, *, n: Count = 100, seed: Seed = 0
) -> list[Circuit]:
    """Circuits of the same size and layer profile.

    At each place there are as many edges into each layer (its queries, keys, values and MLP
    together; the logits count as a layer), drawn without replacement among all edges into it; of
    nodes as many in each layer, heads and MLP together.

    Few edges drawn so rarely hang together: a null of circuits that no prompt can pass through is
    beaten by any that is connected. `Null.summary` says how many are, and the random rankings of
    `faithfulness_curve` are closed as the circuit was.

    Raises:
        ResultsError: n < 1, or a circuit with parts that no model of these facts has.
    """
    parts, drawn = _draws(circuit, facts, n, seed)
    return [
        circuit.holding(frozenset(Part(parts[i], place) for place, i in chosen)) for chosen in drawn
    ]


def _draws(
    circuit: Circuit, facts: Facts, n: int, seed: int
) -> tuple[tuple[Edge, ...] | tuple[Site, ...], Iterator[list[tuple[str, int]]]]:
    """All parts of the graph, and for each random circuit places and numbers of its parts."""
    if n < 1:
        raise ResultsError(f"n={n} random circuits are no null; give 100 or more")
    parts = Graph.of(facts).edges if circuit.granularity == "edges" else nodes(facts)
    layer = np.array([_layer(part, facts) for part in parts])
    last = facts.n_encoder_layers + facts.n_layers
    members = [np.flatnonzero(layer == at) for at in range(last + 1)]
    known = set(parts)
    profile: dict[tuple[str, int], int] = {}
    for part in sorted(circuit.parts, key=lambda part: part.place):
        if part.of not in known:
            raise ResultsError(
                f"the circuit has '{part.of}', which a model of these facts has not ({facts}). Is "
                "it of another model?"
            )
        key = part.place, _layer(part.of, facts)
        profile[key] = profile.get(key, 0) + 1
    rng = np.random.default_rng(seed)

    def drawn() -> Iterator[list[tuple[str, int]]]:
        for _ in range(n):
            yield [
                (place, int(i))
                for (place, at), count in sorted(profile.items())
                for i in rng.choice(members[at], size=count, replace=False)
            ]

    return parts, drawn()


def _layer(part: Edge | Site, facts: Facts) -> int:
    """Its layer, a decoder's after those of its encoder; the logits come after the last."""
    site = part.reader if isinstance(part, Edge) else part
    before = 0 if site.stack == "enc" else facts.n_encoder_layers
    return before + (facts.n_layers if site.layer is None else site.layer)


@door
@dataclass(frozen=True, eq=False, repr=False)
class Null(Saved):
    """A circuit beside random ones of its size and layer profile.

    Attributes:
        runs: as `run_circuits` gives them: the circuit, `EMPTY` and "random 0", "random 1", ...
    """

    runs: Results

    def summary(self) -> pd.DataFrame:
        """By each metric.

        Columns: `metric`; `faithfulness` of the circuit (a ratio of means); `null` (mean), `low`
        and `high` (the middle 95 %) of the random ones; `percentile`, the share of them below the
        circuit; `p` = (1 + number that are as faithful or more) / (n + 1); `n`; `connected`, the
        share of the random ones in which a kept path leads from the embedding to the logits (the
        others carry nothing). NaN where the full and the empty model do not differ.

        Raises:
            ResultsError: examples of one cluster only.
        """
        rows = []
        first = self.runs.frame.drop_duplicates("site").set_index("site")
        connected = first.drop(index=[CIRCUIT, EMPTY])["connected"].mean()
        for metric, wide in by_metric(self.runs).items():
            n = len(wide.names) - 1  # without the circuit itself
            row: dict[str, object] = {"metric": metric, "n": n, "connected": connected}
            if wide.distinct(metric):
                found, null = _apart(wide)
                low, high = np.quantile(null, [0.025, 0.975])
                row |= {"faithfulness": found, "null": null.mean(), "low": low, "high": high}
                row["percentile"] = 100 * (null < found).mean()
                row["p"] = (1 + (null >= found).sum()) / (n + 1)
            rows.append(row)
        columns = ["metric", "faithfulness", "null", "low", "high", "percentile", "p", "n"]
        return pd.DataFrame(rows, columns=[*columns, "connected"])

    @door
    def of(self, metric: str) -> Float[ndarray, " random"]:
        """The faithfulness of each random circuit.

        Raises:
            ResultsError: a metric that was not measured.
        """
        return _apart(of_metric(self.runs, metric))[1]

    def __repr__(self) -> str:
        try:
            return f"Null\n{self.summary().to_string(float_format='{:.3g}'.format)}"
        except ResultsError:  # of one cluster
            return f"Null, without intervals\n{self.runs!r}"


def _apart(wide: ByCircuit) -> tuple[float, Float[ndarray, " random"]]:
    """The faithfulness of the circuit, and of the random ones."""
    found, at = ratio_of_means(wide), wide.names.index(CIRCUIT)
    return float(found[at]), np.delete(found, at)


@door
def null_test(
    model: Model,
    pairs: Pairs,
    circuit: Circuit,
    *,
    n: Count = 100,
    seed: Seed = 0,
    reference: Given = "corrupt",
    metric: Metrics = METRICS,
    **running: Unpack[Running],
) -> Null:
    """Is a circuit more faithful than random ones? See `random_circuits` for which.

    Of circuits with the ablation "optimal" all are run with the constants that are given. If those
    were fitted to this circuit, it has an advantage that the random ones have not.

    Raises:
        As `run_circuits` and `random_circuits`.
    """
    setting = Setting.of(model, pairs, [circuit], reference)
    parts, drawn = _draws(circuit, model.facts, n, seed)
    marks = setting.marks(Part(part) for part in parts)
    place = {name: i for i, name in enumerate(setting.places)}

    def marked(chosen: list[tuple[str, int]]) -> Int[ndarray, "part 3"]:
        found = marks[[i for _, i in chosen]].reshape(-1, 3)
        found[:, 0] = [place[name] for name, _ in chosen]
        return found

    random = [
        setting.holding(f"random {i}", marked(chosen), circuit.granularity)
        for i, chosen in enumerate(drawn)
    ]
    runs = setting.run(
        [setting.kept(CIRCUIT, circuit), *random, empty(setting, circuit)],
        metric=metric,
        **running,
    )
    warn_of_unconnected(runs, [CIRCUIT])
    return Null(runs)


@dataclass(frozen=True, eq=False)
class Stability(Saved):
    """Would other prompts have given the same circuit?

    Attributes:
        jaccard: of the circuit of each resample with the circuit of all prompts.
        pairwise: mean Jaccard of the circuits of two resamples.
        often: the parts that any of them has: `part`, `share` of the resamples that chose it, and
            whether it is `chosen` on all prompts.
    """

    jaccard: Float[ndarray, " resample"]
    pairwise: float
    often: pd.DataFrame

    def __repr__(self) -> str:
        low, high = np.quantile(self.jaccard, [0.025, 0.975])
        return (
            f"Stability over {len(self.jaccard)} resamples: Jaccard {self.jaccard.mean():.2f} "
            f"({low:.2f} to {high:.2f}) with the circuit, {self.pairwise:.2f} pairwise"
        )


@door
def stability(
    attribution: Attribution,
    choose: Callable[[Attribution], Circuit],
    *,
    n: Count = 100,
    seed: Seed = 0,
) -> Stability:
    """Choose the circuit again from bootstrap resamples of the prompts, whole clusters at a time.

    Args:
        choose: from an attribution to a circuit, e.g. `partial(top_circuit, size=200)`.

    Raises:
        ResultsError: n < 2, or prompts of one cluster, which are the same in every resample.
    """
    clusters = len(set(attribution.cluster))
    if clusters < 2 or n < 2:
        raise ResultsError(
            f"{n} resamples of {clusters} clusters say nothing of stability: at least two of each "
            "are needed. Attribute on prompts of several templates."
        )
    found = [choose(attribution.resampled(seed=seed + i)) for i in range(n)]
    whole = choose(attribution)
    for circuit in (whole, *found):
        if not isinstance(circuit, Circuit):
            raise ResultsError(
                f"choose gave {shown(circuit)}, and a circuit is wanted. Give a function from an "
                "attribution to a circuit, such as partial(interp.circuits.top_circuit, size=200)."
            )
    parts = sorted({part for circuit in [whole, *found] for part in circuit.parts}, key=str)
    at = {part: i for i, part in enumerate(parts)}
    held = np.zeros((n + 1, len(parts)))
    for row, circuit in enumerate([whole, *found]):
        held[row, [at[part] for part in circuit.parts]] = 1
    both, sizes = held @ held.T, held.sum(1)
    either = sizes[:, None] + sizes - both
    jaccard = np.divide(both, either, out=np.ones_like(both), where=either > 0)
    pairs = jaccard[1:, 1:][np.triu_indices(n, 1)]
    often = pd.DataFrame(
        {
            "part": [str(part) for part in parts],
            "share": held[1:].mean(0),
            "chosen": held[0].astype(bool),
        }
    ).sort_values("share", ascending=False, ignore_index=True)
    return Stability(jaccard[0, 1:], float(pairs.mean()), often)
