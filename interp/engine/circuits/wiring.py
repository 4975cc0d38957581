"""Where the writers and readers of a graph stand in the layers, and which of them still count.

Of a circuit only those writers have to be computed that the logits depend on along kept edges, and
of those only the ones whose value is not the ablated one anyway.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray

from interp.core.parts.edges import begins
from interp.core.parts.facts import Facts
from interp.core.parts.graph import Graph
from interp.core.parts.sites import Site, Stack

QKV = Literal["q", "k", "v"]


@dataclass(frozen=True, eq=False)
class Wires:
    """The parts of a layer that are computed together: the heads of an attention, or an MLP.

    Attributes:
        columns: of each part, as a writer.
        inputs: the rows that it reads by: of a head its query, and its group's key and value.
    """

    columns: Int[ndarray, " part"]
    inputs: Int[ndarray, "part input"]


@dataclass(frozen=True, eq=False)
class Wiring:
    """Rows (readers) and columns (writers) of a graph, layer by layer."""

    facts: Facts
    graph: Graph

    @cached_property
    def _row(self) -> dict[Site, int]:
        return {site: i for i, site in enumerate(self.graph.readers)}

    @cached_property
    def _column(self) -> dict[Site, int]:
        return {site: i for i, site in enumerate(self.graph.writers)}

    @cached_property
    def enters(self) -> list[int]:
        """The columns of the embedding, or of what enters each of two stacks."""
        return [i for i, site in enumerate(self.graph.writers) if begins(site)]

    @cached_property
    def parts(self) -> list[Wires]:
        """In order of computation."""
        facts, found = self.facts, list[Wires]()
        stacks: list[tuple[Stack | None, int]] = [(None, facts.n_layers)]
        if facts.n_encoder_layers:
            stacks = [("enc", facts.n_encoder_layers), ("dec", facts.n_layers)]
        for stack, layers in stacks:
            for layer in range(layers):
                for cross in (False, True) if stack == "dec" else (False,):
                    found.append(self._heads(partial(Site, layer=layer, stack=stack, cross=cross)))
                mlp = Site("mlp_out", layer, stack=stack)
                if facts.d_mlp:
                    row, column = self._row[mlp], self._column[mlp]
                    found.append(Wires(np.array([column]), np.array([[row]])))
        return found

    def _heads(self, make: Callable[..., Site]) -> Wires:
        inputs = [
            [
                self._row[make("q", head=head)],
                *(self._row[make(kind, group=head // self.facts.group_size)] for kind in "kv"),
            ]
            for head in range(self.facts.n_heads)
        ]
        columns = [self._column[make("z", head=head)] for head in range(self.facts.n_heads)]
        return Wires(np.array(columns), np.array(inputs))

    @cached_property
    def behind(self) -> list[Int[ndarray, " writer"] | None]:
        """Of each reader the columns that are made of what it reads; None of the logits."""
        found: list[list[int]] = [[] for _ in self.graph.readers]
        for part in self.parts:
            for column, inputs in zip(part.columns.tolist(), part.inputs.tolist(), strict=True):
                for row in inputs:
                    found[row].append(column)
        ends = (row == self.logits for row in range(len(found)))
        return [
            None if end else np.array(columns) for end, columns in zip(ends, found, strict=True)
        ]

    @cached_property
    def rows(self) -> list[dict[QKV, Int[ndarray, " index"]]]:
        """Of each layer of one stack, the rows of its queries, of its groups' keys and values."""
        heads, groups = range(self.facts.n_heads), range(self.facts.n_kv_heads)
        return [
            {
                "q": np.array([self._row[Site("q", layer, head=h)] for h in heads]),
                "k": np.array([self._row[Site("k", layer, group=g)] for g in groups]),
                "v": np.array([self._row[Site("v", layer, group=g)] for g in groups]),
            }
            for layer in range(self.facts.n_layers)
        ]

    @cached_property
    def heads(self) -> list[Int[ndarray, " head"]]:
        """... the columns of its heads."""
        return [part.columns for part in self.parts if part.inputs.shape[1] > 1]

    @cached_property
    def mlps(self) -> list[tuple[int, int]]:
        """... row and column of its MLP; none of a model without."""
        whole = [part for part in self.parts if part.inputs.shape[1] == 1]
        return [(int(part.inputs[0, 0]), int(part.columns[0])) for part in whole]

    @cached_property
    def logits(self) -> int:
        """Their row."""
        return self.graph.readers.index(Site("logits"))

    def reached(
        self, kept: Bool[ndarray, "circuit reader writer"]
    ) -> Bool[ndarray, "circuit writer"]:
        """Writers to which kept edges lead from the embedding."""
        found = np.zeros((len(kept), kept.shape[2]), dtype=bool)
        found[:, self.enters] = True
        for part in self.parts:
            fed = (kept[:, part.inputs] & found[:, None, None]).any(-1)
            found[:, part.columns] = fed.any(-1)
        return found

    def read(self, kept: Bool[ndarray, "circuit reader writer"]) -> Bool[ndarray, "circuit writer"]:
        """Writers from which kept edges lead to the logits."""
        found = kept[:, self.logits].copy()
        for part in reversed(self.parts):
            on = found[:, part.columns, None, None]
            found |= (kept[:, part.inputs] & on).any((1, 2))
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
