"""Where the writers and readers of a graph stand in the layers, and which of them still count.

Of a circuit only those writers have to be computed that the logits depend on along kept edges, and
of those only the ones whose value is not the ablated one anyway.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray

from interp.core.parts.facts import Facts
from interp.core.parts.graph import Graph
from interp.core.parts.sites import Site

QKV = Literal["q", "k", "v"]


@dataclass(frozen=True, eq=False)
class Wiring:
    """Rows (readers) and columns (writers) of a graph, layer by layer."""

    facts: Facts
    graph: Graph

    @cached_property
    def rows(self) -> list[dict[QKV, Int[ndarray, " index"]]]:
        """Of each layer, the rows of its queries, and of its groups' keys and values."""
        at = {site: i for i, site in enumerate(self.graph.readers)}
        heads, groups = range(self.facts.n_heads), range(self.facts.n_kv_heads)
        return [
            {
                "q": np.array([at[Site("q", layer, head=h)] for h in heads]),
                "k": np.array([at[Site("k", layer, group=g)] for g in groups]),
                "v": np.array([at[Site("v", layer, group=g)] for g in groups]),
            }
            for layer in range(self.facts.n_layers)
        ]

    @cached_property
    def heads(self) -> list[Int[ndarray, " head"]]:
        """Of each layer, the columns of its heads."""
        at = {site: i for i, site in enumerate(self.graph.writers)}
        return [
            np.array([at[Site("z", layer, head=h)] for h in range(self.facts.n_heads)])
            for layer in range(self.facts.n_layers)
        ]

    @cached_property
    def mlps(self) -> list[tuple[int, int]]:
        """Of each layer, row and column of its MLP; none of a model without."""
        if not self.facts.d_mlp:
            return []
        sites = [Site("mlp_out", layer) for layer in range(self.facts.n_layers)]
        return [(self.graph.readers.index(s), self.graph.writers.index(s)) for s in sites]

    @cached_property
    def logits(self) -> int:
        """Their row."""
        return self.graph.readers.index(Site("logits"))

    @cached_property
    def inputs(self) -> list[Int[ndarray, "head three"]]:
        """Of each layer and head, the rows of its query, and of its group's key and value."""
        group = np.arange(self.facts.n_heads) // self.facts.group_size
        return [np.stack([r["q"], r["k"][group], r["v"][group]], 1) for r in self.rows]

    def reached(
        self, kept: Bool[ndarray, "circuit reader writer"]
    ) -> Bool[ndarray, "circuit writer"]:
        """Writers to which kept edges lead from the embedding."""
        found = np.zeros((len(kept), kept.shape[2]), dtype=bool)
        found[:, 0] = True
        for layer, heads in enumerate(self.heads):
            fed = (kept[:, self.inputs[layer]] & found[:, None, None]).any(-1)
            found[:, heads] = fed.any(-1)
            if self.mlps:
                row, column = self.mlps[layer]
                found[:, column] = (kept[:, row] & found).any(-1)
        return found

    def read(self, kept: Bool[ndarray, "circuit reader writer"]) -> Bool[ndarray, "circuit writer"]:
        """Writers from which kept edges lead to the logits."""
        found = kept[:, self.logits].copy()
        for layer in reversed(range(self.facts.n_layers)):
            if self.mlps:
                row, column = self.mlps[layer]
                found |= kept[:, row] & found[:, column, None]
            on = found[:, self.heads[layer], None, None]
            found |= (kept[:, self.inputs[layer]] & on).any((1, 2))
        return found

    def connected(self, kept: Bool[ndarray, "circuit reader writer"]) -> Bool[ndarray, " circuit"]:
        """Does a kept path lead from the embedding to the logits?"""
        return (kept[:, self.logits] & self.reached(kept)).any(-1)

    def whole(self, kept: Bool[ndarray, "circuit reader writer"]) -> int:
        """The first layer in which some circuit lacks an edge: what is before is the clean run."""
        lacking = (self.graph.feeds & ~kept).any((0, 2))
        for layer, rows in enumerate(self.rows):
            here = np.concatenate([*rows.values(), [r for r, _ in self.mlps[layer : layer + 1]]])
            if lacking[here.astype(int)].any():
                return layer
        return self.facts.n_layers
