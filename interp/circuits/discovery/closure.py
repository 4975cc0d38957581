"""How edges hang together, so that a circuit can be grown along them and pruned.

An edge runs from a node (the embedding, a head or an MLP, at a place) into a port (a query, a key
or value, an MLP's input, the logits). A node is reached through any of its ports.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy.sparse import csgraph, csr_array

from interp.core.errors import ResultsError, Unsupported
from interp.core.parts.edges import begins
from interp.core.parts.sites import Site


class Port(NamedTuple):
    """Where an edge ends: a query, MLP or the logits at a place; a key or value at all of them.

    Attributes:
        attention: of an encoder-decoder the stack, and whether it is the attention across.
    """

    kind: str
    attention: tuple[str | None, bool]
    layer: int | None = None
    number: int | None = None
    place: str = ""


@dataclass(frozen=True)
class Wires:
    """How edges hang together: the node that writes each, and the port that it reads into.

    Attributes:
        writer: node of each edge: the embedding, a head or an MLP, at a place.
        port: port of each edge.
        opens: the ports of each node: of a head its query, the keys and values of its group.
        embeds: nodes that are the embedding.
        logits: ports that are the logits.
    """

    writer: Int[ndarray, " edge"]
    port: Int[ndarray, " edge"]
    opens: tuple[tuple[int, ...], ...]
    embeds: tuple[int, ...]
    logits: tuple[int, ...]

    @classmethod
    def of(cls, frame: pd.DataFrame) -> "Wires":
        """Of the edges of an attribution.

        Raises:
            ResultsError: no edge into the logits; key-value groups that do not fit the heads.
            Unsupported: an end that is not one of a graph of heads and MLPs.
        """
        writer, writers = _ends(frame, "writer")
        reader, readers = _ends(frame, "reader")
        if odd := [s for s, _ in writers if not begins(s) and s.kind not in ("z", "mlp_out")]:
            raise Unsupported(
                f"'{odd[0]}' is a part of heads or MLPs, or made of them, so which edges hang "
                "together is not said by their ends. Attribute edges between heads and MLPs "
                "(parts='edges'), or take closure='none'."
            )
        size = _group_size([site for site, _ in (*writers, *readers)])
        ports = {port: i for i, port in enumerate(dict.fromkeys(_port(*end) for end in readers))}
        logits = tuple(i for port, i in ports.items() if port.kind == "logits")
        if not logits:
            raise ResultsError(
                "no edge of this table ends at the logits, so there is nothing to grow a circuit "
                "from. Attribute all edges of a model with logits, or take closure='none'."
            )
        opens = [[ports[p] for p in _inputs(*end, size) if p in ports] for end in writers]
        return cls(
            writer,
            np.asarray([ports[_port(*end)] for end in readers])[reader],
            tuple(map(tuple, opens)),
            tuple(i for i, (site, _) in enumerate(writers) if begins(site)),
            logits,
        )

    def greedy(self, helps: Float[ndarray, " edge"]) -> Iterator[int]:
        """Edges in the order in which a circuit grows from the logits by its best candidate."""
        waiting: dict[int, list[int]] = defaultdict(list)
        for row, port in enumerate(self.port.tolist()):
            waiting[port].append(row)
        writer, merit = self.writer.tolist(), (-helps).tolist()
        heap: list[tuple[float, int]] = []

        def open_ports(ports: Sequence[int]) -> None:
            for port in ports:
                for row in waiting.pop(port, ()):
                    heapq.heappush(heap, (merit[row], row))

        open_ports(self.logits)
        while heap:
            _, row = heapq.heappop(heap)
            yield row
            open_ports(self.opens[writer[row]])

    def connected(self, rows: Int[ndarray, " some"]) -> Bool[ndarray, " some"]:
        """Which of these edges are on a path from the embedding to the logits along them."""
        n = len(self.opens)
        ports = n + 1 + max((*self.port.tolist(), *self.logits))
        source, sink = ports, ports + 1
        static = [(n + port, node) for node, opened in enumerate(self.opens) for port in opened]
        static += [(source, node) for node in self.embeds]
        static += [(n + port, sink) for port in self.logits]
        starts, ends = np.asarray(static).T
        starts = np.concatenate([starts, self.writer[rows]])
        ends = np.concatenate([ends, n + self.port[rows]])
        arcs = csr_array((np.ones(len(starts)), (starts, ends)), shape=(sink + 1, sink + 1))
        fed, heard = np.zeros(sink + 1, bool), np.zeros(sink + 1, bool)
        fed[csgraph.breadth_first_order(arcs, source, return_predecessors=False)] = True
        heard[csgraph.breadth_first_order(arcs.T, sink, return_predecessors=False)] = True
        return fed[self.writer[rows]] & heard[n + self.port[rows]]


def _ends(frame: pd.DataFrame, column: str) -> tuple[Int[ndarray, " edge"], list[tuple[Site, str]]]:
    """The distinct writers or readers at their places, and which of them each edge has."""
    sites, places = frame[column], frame["position"]
    code, distinct = pd.factorize(pd.MultiIndex.from_arrays([sites, places]))
    return np.asarray(code), [(Site.parse(site), place) for site, place in distinct]


def _port(site: Site, place: str) -> Port:
    """Where an edge into this reader ends."""
    attention = site.stack, site.cross
    if site.kind in ("k", "v"):
        kind, index = ("group", site.group) if site.head is None else ("head", site.head)
        return Port(kind, attention, site.layer, index)
    return Port(site.kind, attention, site.layer, site.head, place)


def _inputs(site: Site, place: str, size: int) -> tuple[Port, ...]:
    """The ports of a node; of a head that of its query and those of its keys and values."""
    if begins(site):
        return ()
    attention, layer, head = (site.stack, site.cross), site.layer, site.head
    if head is None:
        return (Port(site.kind, attention, layer, None, place),)
    query = Port("q", attention, layer, head, place)
    keys = Port("head", attention, layer, head), Port("group", attention, layer, head // size)
    return (query, *keys)


def _group_size(sites: Sequence[Site]) -> int:
    """Heads that share a key-value group, by how many of both the table has.

    Raises:
        ResultsError: the table lacks heads or groups, so that it cannot tell.
    """
    groups = {site.group for site in sites} - {None}
    heads = {site.head for site in sites} - {None}
    if not groups:
        return 1
    whole = all(found == set(range(len(found))) for found in (groups, heads))
    if not whole or not heads or len(heads) % len(groups):
        raise ResultsError(
            f"this table has edges of the heads {sorted(heads)} and the key-value groups "
            f"{sorted(groups)}, which do not say how many heads share a group. Give an attribution "
            "of all edges, or take closure='none'."
        )
    return len(heads) // len(groups)
