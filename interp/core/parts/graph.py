"""The graph of a model: who writes into the residual stream and who reads it, with a fixed order.

A set of edges is then an array of booleans `reader writer`, and scores of edges are one of floats.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from interp.core.door.taken import shown
from interp.core.errors import SiteError
from interp.core.parts.edges import Edge, edges
from interp.core.parts.facts import Facts
from interp.core.parts.sites import Site, require_facts, resolve


@dataclass(frozen=True, eq=False)
class Graph:
    """All edges of a model: those that `"edges"` selects, in its order.

    Attributes:
        writers: the embedding (of an encoder-decoder what enters either stack), heads and MLPs, in
            order of computation.
        readers: queries of heads, keys and values of groups, MLPs and the logits, likewise.
        feeds: which writer is computed before which reader, so that there is an edge.
    """

    writers: tuple[Site, ...]
    readers: tuple[Site, ...]
    feeds: Bool[ndarray, "reader writer"]

    @classmethod
    def of(cls, facts: Facts) -> "Graph":
        """The graph of a model of these facts.

        Raises:
            SiteError, Unsupported: a model that has no edges (`interp.core.parts.edges`).
        """
        require_facts(facts)
        return _of(facts)

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """All of them, by reader, then by writer."""
        return tuple(Edge(self.writers[w], self.readers[r]) for r, w in np.argwhere(self.feeds))

    @cached_property
    def _rows(self) -> dict[Site, int]:
        return {site: i for i, site in enumerate(self.readers)}

    @cached_property
    def _columns(self) -> dict[Site, int]:
        return {site: i for i, site in enumerate(self.writers)}

    def at(self, edge: Edge) -> tuple[int, int]:
        """Row and column of an edge.

        Raises:
            SiteError: the graph has no such edge; says which it has of the kind.
        """
        if not isinstance(edge, Edge):
            raise SiteError(f"an edge of a graph is an Edge, not {shown(edge)}; see Edge.parse.")
        row, column = self._rows.get(edge.reader), self._columns.get(edge.writer)
        if row is None or column is None or not self.feeds[row, column]:
            raise SiteError(
                f"'{edge}' is no edge of this graph, which has {int(self.feeds.sum())} edges from "
                f"{len(self.writers)} writers (the embedding, heads, MLPs) to {len(self.readers)} "
                "readers (queries of heads, keys and values of whole groups like '23.kv1.k', MLPs, "
                "logits). Write it as one of them."
            )
        return row, column


def nodes(facts: Facts) -> tuple[Site, ...]:
    """The parts that a circuit of nodes chooses from: heads and MLPs."""
    return resolve(["heads", "mlps"] if facts.d_mlp else ["heads"], facts)


@lru_cache(maxsize=8)
def _of(facts: Facts) -> Graph:
    """Kept, since listing the 70,000 edges of a model of 30 layers takes a second."""
    every = list(edges("edges", facts))
    writers = sorted({edge.writer for edge in every})
    readers = sorted({edge.reader for edge in every})
    row, column = ({site: i for i, site in enumerate(ends)} for ends in (readers, writers))
    feeds = np.zeros((len(readers), len(writers)), dtype=bool)
    for edge in every:
        feeds[row[edge.reader], column[edge.writer]] = True
    return Graph(tuple(writers), tuple(readers), feeds)
