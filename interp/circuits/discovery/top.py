"""From an attribution to a circuit: the parts that score most, closed so that paths run through.

The best n edges of a ranking need not be connected: an edge into a head that nothing kept reads
from does nothing. Greedy closure (Hanna et al. 2024, sec. 3) grows the circuit from the logits
backward and takes only edges whose reader is in it already.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from interp.circuits.discovery.closure import Wires
from interp.core.door.door import door
from interp.core.errors import ResultsError
from interp.core.metrics import known
from interp.core.parts.circuit import Circuit, Part
from interp.core.parts.edges import Edge
from interp.core.parts.sites import Site
from interp.core.tables.attribution import Attribution

log = logging.getLogger("interp")

By = Literal["abs", "signed"]
Closure = Literal["greedy", "prune", "none"]


@door
def top_circuit(
    attribution: Attribution,
    *,
    size: int | None = None,
    fraction: float | None = None,
    threshold: float | None = None,
    by: By = "abs",
    closure: Closure = "greedy",
    corruption: str | None = None,
) -> Circuit:
    """The circuit of the parts that score most; give one of `size`, `fraction` and `threshold`.

    Ties go to the part that stands first in the table. The circuit's `note` says if it keeps
    nothing or everything, or only edges of which none reaches the logits; that is logged too, and
    so is a metric of your own under `by="signed"` that does not say where it goes when a model gets
    worse (`Metric.worse`): it is taken to fall.

    Of nodes, closure does nothing: every head and MLP reads from the embedding and writes to the
    logits through the residual stream. Of edges by place (their writer and reader stand at it), the
    node of a reader is its head or MLP at that place; but keys and values are read from other
    places, so a key or value at any place belongs to the head (to every head of its group) at all
    of them.

    Args:
        size: parts to take, before anything is pruned.
        fraction: the same, of the parts of the table.
        threshold: take the parts whose score is at least this: `|score|`, or if signed `-score`
            (`score` of metrics that go up when a model gets worse: "kl", "loss", "rank").
        by: `"abs"`, the largest effects of either sign (what CMD ranks by); `"signed"`, those
            without which the metric gets most worse (what CPR ranks by).
        closure: `"greedy"`: grow from the logits, each time by the best edge whose reader's node is
            in the circuit, then prune; `"prune"`: take the best edges wherever they are, then drop
            those on no path from the embedding to the logits; `"none"`: keep those too.
            The circuits of one attribution are nested in size under each of them.
        corruption: in words, how the corrupt prompts differ, if the attribution does not say it.

    Raises:
        ResultsError: not one of the three is given, or it is out of range; a score is NaN; a table
            without parts, of edges and nodes, without an edge into the logits to grow from, or
            that does not say whose attribution it is.
        Unsupported: edges whose ends closure does not know.
    """
    of_edges = _of_edges(attribution)
    helps = merit(attribution, by)
    most, least = _limits(len(helps), size, fraction, threshold)
    if of_edges and closure != "none":
        wires = Wires.of(attribution.frame)
        found = wires.greedy(helps) if closure == "greedy" else _ranked(helps)
        taken = _until(found, helps, most, least)
        kept = taken[wires.connected(taken)]
    else:
        taken = kept = _until(_ranked(helps), helps, most, least)
    if len(kept) < len(taken):
        _say_dropped(len(taken), len(kept))
    note = _remark(attribution, of_edges=of_edges, taken=len(taken), kept=kept)
    if note:
        log.warning(note)
    granularity = "edges" if of_edges else "nodes"
    return replace(circuit_of(attribution, kept, granularity, corruption=corruption), note=note)


def circuit_of(
    attribution: Attribution,
    rows: Int[ndarray, " rows"],
    granularity: Literal["edges", "nodes"],
    *,
    corruption: str | None = None,
) -> Circuit:
    """These rows of a table as a circuit, with the ablation that the table is of.

    Raises:
        ResultsError: the table does not say which, or of which model.
    """
    note, frame = attribution.provenance, attribution.frame
    if lacking := [key for key in ("weights", "ablation") if not isinstance(note.get(key), str)]:
        raise ResultsError(
            f"this attribution does not say its {' and '.join(lacking)} ({dict(note)!r:.200}), "
            "without which a set of parts is no circuit. Take one that interp.causal.attribute or "
            "exact made, and do not join those of several models or ablations."
        )
    distinct = {*frame["writer"].unique(), *frame["reader"].unique()} - {""}
    ends = {text: Site.parse(text) for text in distinct}
    columns = (frame[name].to_numpy() for name in ("site", "writer", "reader", "position"))
    site, writer, reader, place = columns
    if granularity == "edges":
        parts = [
            Part(Edge(ends[writer[row]], ends[reader[row]]), place[row]) for row in rows.tolist()
        ]
    else:
        parts = [Part(Site.parse(site[row]), place[row]) for row in rows.tolist()]
    return Circuit.of(
        parts,
        model=note["weights"],
        ablation=note["ablation"],
        corruption=corruption or note.get("corruption", "corrupt prompts"),
        granularity=granularity,
    )


def _of_edges(attribution: Attribution) -> bool:
    """Are the parts of a table edges?

    Raises:
        ResultsError: no parts, or of both kinds.
    """
    edges = (attribution.frame["writer"] != "").to_numpy()
    if not len(edges):
        raise ResultsError("this attribution has no parts to choose from; did a query leave none?")
    if edges.any() and not edges.all():
        raise ResultsError(
            f"this attribution has {int(edges.sum())} edges and {int((~edges).sum())} nodes; a "
            "circuit is made of one or the other. Choose: attribution.query(\"writer != ''\")."
        )
    return bool(edges.all())


def merit(attribution: Attribution, by: By) -> Float[ndarray, " part"]:
    """What parts are ranked by, the best with the largest number.

    Raises:
        ResultsError: a score is NaN.
    """
    scores = attribution.scores
    if np.isnan(scores).any():
        row = attribution.frame.iloc[int(np.isnan(scores).argmax())]
        raise ResultsError(
            f"the score of '{row['site']}' at {row['position']!r} is NaN ({row['method']}), so it "
            "has no rank. Look at how it was made, or leave such parts out with query()."
        )
    if by == "abs":
        return np.abs(scores)
    names = attribution.frame["metric"]
    said = attribution.provenance.get("worse")
    worse = {name: found.worse if (found := known(name)) else said for name in set(names)}
    if own := sorted(name for name in set(names) if not worse.get(name)):
        log.warning(
            "of the metric %r it is not known where it goes when the model gets worse; by='signed' "
            "takes lower for worse. Say it in the metric (Metric(worse='higher')).",
            own[0],
        )
    return np.where(names.map(worse) == "higher", scores, -scores)


def _limits(
    n: int, size: int | None, fraction: float | None, threshold: float | None
) -> tuple[int, float]:
    """How many parts to take at most, and how good each has to be.

    Raises:
        ResultsError: not exactly one is given, or it is out of range.
    """
    given = {"size": size, "fraction": fraction, "threshold": threshold}
    chosen = {name: value for name, value in given.items() if value is not None}
    if len(chosen) != 1:
        raise ResultsError(
            f"give one of size=, fraction= and threshold=; {chosen or 'none'} was given, and they "
            "name different circuits."
        )
    if threshold is not None:
        if np.isnan(threshold):
            raise ResultsError("threshold=nan keeps nothing and means nothing; give a number")
        return n, threshold
    if fraction is not None and not 0 <= fraction <= 1:
        raise ResultsError(f"fraction={fraction} is no share of the {n} parts; give 0 to 1")
    wanted = round(fraction * n) if fraction is not None else size
    assert wanted is not None
    if not 0 <= wanted <= n:
        raise ResultsError(
            f"size={wanted} parts cannot be taken of {n}; give 0 to {n}, or a fraction=."
        )
    return wanted, -np.inf


def _ranked(helps: Float[ndarray, " part"]) -> Iterator[int]:
    yield from np.argsort(-helps, kind="stable").tolist()


def _until(
    order: Iterator[int], helps: Float[ndarray, " part"], most: int, least: float
) -> Int[ndarray, " taken"]:
    """The first of them, as many as wanted and as long as they are good enough."""
    taken: list[int] = []
    while len(taken) < most and (row := next(order, None)) is not None and helps[row] >= least:
        taken.append(row)
    return np.asarray(taken, dtype=int)


def _say_dropped(taken: int, kept: int) -> None:
    log.log(
        logging.INFO if kept else logging.WARNING,
        "%d of %d edges are on no path from the embedding to the logits and were dropped; %d are "
        "left.",
        taken - kept,
        taken,
        kept,
    )


def _remark(
    attribution: Attribution, *, of_edges: bool, taken: int, kept: Int[ndarray, " kept"]
) -> str:
    """What the circuit itself says of its size: nothing mostly."""
    n, what = len(attribution), "edges" if of_edges else "nodes"
    if taken in (0, n):
        scores = attribution.scores
        return (
            f"It keeps {'all' if taken else 'none of the'} {n} {what} of the attribution (scores "
            f"{scores.min():.3g} to {scores.max():.3g}): it is the "
            f"{'whole model' if taken else 'ablated run'}. Another size or threshold would say "
            "which parts matter"
        )
    if of_edges and not (attribution.frame["reader"].to_numpy()[kept] == "logits").any():
        return (
            f"None of its {len(kept)} edges ends at the logits, so it computes what the ablated "
            "run does. Take closure='greedy', or more edges"
        )
    return ""
