"""What each head does in each of four models, and how much of both adapters is the sum of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray
from safetensors.torch import load_file

import interp
from experiments._shared import steps
from experiments.adapters.training import ALPHA, RANK
from interp.causal import Comparison
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs
from interp.core.sampling import stats
from interp.core.tables.results import Results
from interp.core.tables.wide import ByExample
from interp.models.model import Model

SHOWN = 5
"""Heads that are named: the most changed on one half of the nouns, reported on the other."""


def sites_of(model: Model, layers: int) -> list[Site]:
    """The heads of so many layers at equal distances, the last one among them."""
    chosen = [layer - 1 for layer in steps(model.facts.n_layers, layers)]
    return [Site("z", layer, head) for layer in chosen for head in range(model.facts.n_heads)]


def swept(
    model: Model, pairs: Pairs, sites: Sequence[Site], *, task: str, name: str, checkpoint: Path
) -> Results:
    """The effect of the corrupt prompt's value of each head, at the position of the answer."""
    found = interp.patch(model, pairs, list(sites), positions="end", checkpoint=checkpoint)
    return Results(found.frame.assign(method=task, model=name), found.provenance)


@dataclass(frozen=True)
class Measured:
    """One task in four models: without adapters, with its own, with the other's, with both.

    Attributes:
        task: its name, which is that of its own adapter.
        other: the other adapter's.
        tables: the effects of heads in each model, by name.
    """

    task: str
    other: str
    tables: Mapping[str, Results]

    @classmethod
    def of(cls, task: str, tables: Mapping[tuple[str, str], Results], *, other: str) -> "Measured":
        """Those of a task among the tables of all."""
        return cls(task, other, {name: t for (on, name), t in tables.items() if on == task})

    @property
    def models(self) -> dict[str, str]:
        """What is in each model, by its name."""
        return {
            "base": "no adapter",
            self.task: "its own",
            self.other: "the other's",
            "both": "both",
        }

    def compared(self, name: str, half: int | None = None) -> Comparison:
        """The model without adapters and another, on all nouns or half of them."""
        tables = [self.tables["base"], self.tables[name]]
        return Comparison(*(t if half is None else t.split()[half] for t in tables))

    def _wide(self) -> dict[str, ByExample]:
        return {name: ByExample.of(table.frame) for name, table in self.tables.items()}

    def behaviour(self) -> pd.DataFrame:
        """The logit difference in each model; what adding predicts for both; and how far off it is.

        Rows `what`: those of `models`, "added", "interaction" (both less added, tested), with
        `value`, `low`, `high`, `p`, `right` (the share of prompts whose logit difference is above
        0). Ratios of means: "kept", the change with both over that of its own adapter, and "of the
        sum", the change with both over the sum of both changes, which is 1 where they add up.
        """
        wide = self._wide()
        base = {name: of.measured["base"][:1] for name, of in wide.items()}
        added = base[self.task] + base[self.other] - base["base"]
        rows = {self.models[name]: base[name] for name in self.models} | {"added": added}
        rows |= {"interaction": base["both"] - added}
        of = wide["base"]
        found = []
        for what, values in rows.items():
            low, high, p = of.tested(values, seed=0)
            row = {"what": what, "value": values.mean(), "low": low[0], "high": high[0], "p": p[0]}
            found.append(row | {"right": float((values > 0).mean())})
        changed = base["both"] - base["base"]
        for what, against in (("kept", base[self.task]), ("of the sum", added)):
            parts = (changed, against - base["base"])
            sums, wholes = (stats.cluster_sums(x, of.units[0])[0] for x in parts)
            low, high = stats.ratio_interval(sums, wholes)
            row = {"what": what, "value": sums.sum() / wholes.sum(), "low": low[0], "high": high[0]}
            found.append(row)
        table = pd.DataFrame(found)
        return table.assign(task=self.task, n=added.shape[1], clusters=of.clusters)

    def interactions(self) -> Results:
        """Of each head its effect with both adapters (`value`) and what adding gives (`base`)."""
        wide = self._wide()
        effect = {name: of.measured["effect"] for name, of in wide.items()}
        added = effect[self.task] + effect[self.other] - effect["base"]
        first, of = wide["base"].first, self.tables["base"]
        units = of.frame.drop_duplicates("example").sort_values("example")["cluster"].to_numpy()
        return Results.of(
            {name: list(first[name]) for name in ("site", "kind", "layer", "head", "position")}
            | {
                "model": "both - added",
                "method": self.task,
                "metric": "effect on logit difference",
            },
            effect["both"],
            units={"cluster": units},
            provenance={name: dict(table.provenance) for name, table in self.tables.items()},
            base=added,
        )

    def composed(self) -> dict[str, Any]:
        """How well the sum of both changes predicts the change of both, over heads.

        `slope`: of the line through 0; `left`: the share of the change (its sum of squares) that
        the sum leaves over; each with its 95 % interval by the jackknife over clusters.
        """
        wide = self._wide()
        effect = {name: of.measured["effect"] for name, of in wide.items()}
        base, cluster = effect["base"], wide["base"].units[0]
        apart = [effect[name] - base for name in (self.task, self.other, "both")]
        sums = [stats.cluster_sums(x, cluster)[0] for x in apart]
        counts = np.bincount(cluster).astype(float)
        n = counts.sum()
        whole = fit(*(s.sum(axis=1) / n for s in sums))
        left = [
            fit(*((s.sum(axis=1) - s[:, c]) / (n - counts[c]) for s in sums))
            for c in range(len(counts))
        ]
        low, high = stats.jackknife_interval(whole, np.stack(left, axis=1), counts)
        return {
            name: pd.Series({"value": whole[i], "low": low[i], "high": high[i]})
            for i, name in enumerate(("slope", "left"))
        }

    def points(self) -> pd.DataFrame:
        """Of each head the sum of both changes (`added`) and the change of both (`together`)."""
        wide = self._wide()
        mean = {name: of.mean("effect") for name, of in wide.items()}
        added = mean[self.task] + mean[self.other] - 2 * mean["base"]
        sites = wide["base"].first["site"]
        together = mean["both"] - mean["base"]
        return pd.DataFrame(
            {"task": self.task, "site": sites, "added": added, "together": together}
        )

    def changed(self, name: str) -> pd.DataFrame:
        """The heads that an adapter changes most on one half of the nouns, on the other half."""
        first = self.compared(name, 0).summary()
        most = first.loc[first["difference"].abs().sort_values(ascending=False).index[:SHOWN]]
        table = self.compared(name, 1).summary().set_index("site").loc[most["site"]]
        return table.assign(q=stats.fdr(table["p"].to_numpy())).reset_index()


def fit(
    own: Float[ndarray, " head"], other: Float[ndarray, " head"], both: Float[ndarray, " head"]
) -> Float[ndarray, " two"]:
    """Slope of both on the sum, through 0, and the share of both that the sum leaves over."""
    added = own + other
    slope = (added @ both) / (added @ added)
    return np.array([slope, np.square(both - added).sum() / np.square(both).sum()])


def overlap(one: Path, other: Path) -> dict[str, Any]:
    """The cosine of the two adapters' changes of weights, over all matrices that both change.

    `cosine`: with its 95 % interval by the jackknife over layers; `elsewhere`: the spread (standard
    deviation) of cosines between different layers, where nothing is shared but the shape.
    """
    products = [
        _products(load_file(folder / "adapter_model.safetensors")) for folder in (one, other)
    ]
    layers = sorted({layer for layer, _ in products[0]})
    parts = sorted({part for _, part in products[0]})
    inner = {
        (i, j): sum(_inner(products[0][i, part], products[1][j, part]) for part in parts)
        for i in layers
        for j in layers
    }
    sizes = [
        np.array(
            [sum(_inner(p[layer, part], p[layer, part]) for part in parts) for layer in layers]
        )
        for p in products
    ]
    own = np.array([inner[layer, layer] for layer in layers])

    def cosine(kept: ndarray) -> float:
        return own[kept].sum() / np.sqrt(sizes[0][kept].sum() * sizes[1][kept].sum())

    all_of_them = np.ones(len(layers), dtype=bool)
    whole = np.array([cosine(all_of_them)])
    left = np.array([[cosine(np.arange(len(layers)) != i) for i in range(len(layers))]])
    low, high = stats.jackknife_interval(whole, left, np.ones(len(layers)))
    apart = [
        inner[i, j] / np.sqrt(sizes[0][a] * sizes[1][b])
        for a, i in enumerate(layers)
        for b, j in enumerate(layers)
        if i != j
    ]
    by_layer = own / np.sqrt(sizes[0] * sizes[1])
    return {
        "cosine": pd.Series({"value": whole[0], "low": low[0], "high": high[0]}),
        "elsewhere": float(np.std(apart)),
        "by layer": pd.DataFrame({"layer": layers, "value": by_layer}),
    }


Product = tuple[ndarray, ndarray]
"""B and A of a change B A."""


def _products(state: Mapping[str, Any]) -> dict[tuple[int, str], Product]:
    found: dict[tuple[int, str], Product] = {}
    for name, a in state.items():
        if ".lora_A." in name:
            b = state[name.replace(".lora_A.", ".lora_B.")].double().numpy() * ALPHA / RANK
            words = name.split(".")
            layer = int(next(word for word in words if word.isdigit()))
            found[layer, words[words.index("lora_A") - 1]] = (b, a.double().numpy())
    return found


def _inner(one: Product, other: Product) -> float:
    """<B A, B' A'> without either product: the trace of (B^T B') (A' A^T)."""
    return float(((one[0].T @ other[0]) * (one[1] @ other[1].T)).sum())
