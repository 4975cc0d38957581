"""Heads that carry relations (Clark et al. 2019, §4.2-4.3): which head looks from a word to its
syntactic head, or from an anaphor to its antecedent, better than a method without a model does?

Heads are chosen on one half of the documents and reported on the other: the best of hundreds is
good on the text that it was chosen on.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Annotated, Any, Literal, cast

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Integer
from numpy import ndarray

from interp.core.door.door import door
from interp.core.door.taken import Count, NotEmpty, Seed
from interp.core.errors import CorpusError, ResultsError
from interp.core.sampling import stats
from interp.core.tables.scores import CELL, COLUMNS, Scores
from interp.datasets.corpus import Corpus
from interp.datasets.words.links import clusters
from interp.heads.looking.attended import Attended
from interp.heads.looking.links import Links, antecedents, dependencies

OFFSETS = (-3, -2, -1, 1, 2)
"""Those of Clark et al. (2019)."""


@door
def relations(
    attended: Attended,
    corpus: Corpus,
    *,
    minimum: Count = 100,
    offsets: Annotated[Sequence[int], NotEmpty()] = OFFSETS,
    model: Literal["trained", "random"] = "trained",
    seed: Seed = 0,
) -> Scores:
    """How often every head's most-attended word is the right one, relation by relation.

    Relations are taken as annotated: "nmod" and "nmod:poss" are two; punct and root are left out,
    "all" is the others together. Each is asked in two directions, "dependent -> head" (the word
    that the dependent attends to most) and "head -> dependent" (the word that attends to the
    dependent most). An anaphor is asked which of the earlier mentions of its row it attends to
    most, from head word to head word, where there is a right and a wrong one.

    Args:
        corpus: the one that was attended to, with heads and relations, with mentions, or both.
        minimum: links that a relation must have in a direction, to be asked.
        offsets: the baselines of relations: the word so many words away is the head. Those of
            antecedents are the nearest mention, and the nearest with the same head word (the
            nearest of all where there is none). Where `attended` kept the words that hold the first
            token of a row, "first word" is one more baseline of both: these words. Skipped, they
            are never right.
        model: what the column of that name says.
        seed: of the split of the documents.

    Returns:
        `task` is relation and direction, "amod: dependent -> head"; `probe` is "attention" or the
        baseline. Half of the documents have the `subset` "choose", the others "report". Besides
        "accuracy" there are three metrics. "coverage" counts, of the annotated links, those that
        can be asked: both words have tokens of their own, the mask allows it, and neither is
        skipped; "skipped", those that cannot for the last reason alone. "sink" tells, of the links
        asked that are reported, of how many a head's looking word rests at the first token of its
        row (`Attended.rests`): its answer is then the best of what little is left. The word that
        looks is the dependent, of "head -> dependent" the right head, or the anaphor.

    Raises:
        CorpusError: another corpus, one without the annotation, a single document, or no relation
            with enough links.
    """
    _require_same(attended, corpus)
    names, _ = clusters(corpus)
    choosing = _choosing(corpus, names, seed)
    found: list[Links] = []
    if {"head", "relation"} <= corpus.layers:
        found += dependencies(attended, corpus, offsets)
    if "mentions" in corpus.layers:
        found += antecedents(attended, corpus)
    if not found:
        corpus.require("head", "relation")
    enough = [
        links
        for links in found
        if len(links) >= minimum and len(set(choosing[links.cluster].tolist())) == 2
    ]
    if not enough:
        most = max(found, key=len)
        raise CorpusError(
            f"no relation of {corpus.name} has {minimum} links that can be asked, in both halves "
            f"of its {len(names)} documents; the most has {most.task!r}, {len(most)}. Take more "
            "text, or a smaller minimum=."
        )
    frame = _table(enough, attended, choosing, names, model)
    return Scores(frame, {**attended.provenance, "minimum": minimum, "seed": seed})


@door
def compare_heads(scores: Scores, *, seed: Seed = 0) -> pd.DataFrame:
    """Every head against the best baseline of its relation, on the half that is reported.

    The best baseline and the best head of a task are chosen on the other half. These heads are
    what is tested: `q` corrects for as many tests as there are tasks. Tasks whose numbers are all
    the same ("all" beside the only relation that there is) are one test.

    Args:
        scores: what `relations` returned, for one model.
        seed: of the bootstrap and of the sign flips.

    Returns:
        One row for each task and head: `relation`, `direction`, `site`, `layer`, `head`, `model`;
        `choosing`, `value`: accuracy on the half that is chosen on, and reported; `baseline`, its
        `baseline_value`; `difference` of the two values and `p` that the head is no better
        (one-sided sign flip of documents); `n`, `clusters`; `coverage`, `skipped` and `sink`, as of
        `relations`; `chosen`: is it the best head of its task? Those have `q` (Benjamini-Hochberg
        over the chosen heads; NaN of the others, among which to look for the smallest p would be
        to choose on what is reported) and 95 % intervals by cluster bootstrap: `low`, `high`,
        `baseline_low`, `baseline_high`, `difference_low`, `difference_high`.

    Raises:
        ResultsError: not what `relations` returns for one model.
    """
    frame = scores.frame
    accuracy = frame[frame["metric"] == "accuracy"]
    parts = [
        _compare(task, part, scores.provenance, seed)
        for task, part in accuracy.groupby("task", sort=False, observed=True)
    ]
    if not parts:
        raise ResultsError("the table has no accuracies to compare. Give what relations() returns.")
    table = pd.concat(parts, ignore_index=True)
    reported = frame[frame["subset"] == "report"]
    shares = {}
    for metric in ("coverage", "skipped", "sink"):
        of = table["site"] if metric == "sink" else [""] * len(table)
        share = _ratio(reported[reported["metric"] == metric], ["task", "site"])
        shares[metric] = share.reindex(pd.MultiIndex.from_arrays([table["task"], of])).array
    return table.assign(q=_corrected(table, _twins(accuracy)), **shares)


@door
def choose_heads(scores: Scores, *, seed: Seed = 0) -> pd.DataFrame:
    """The rows of `compare_heads` for the best head of each task.

    Args:
        scores, seed: as of `compare_heads`.

    Raises:
        ResultsError: not what `relations` returns for one model.
    """
    table = compare_heads(scores, seed=seed)
    return table[table["chosen"]].reset_index(drop=True)


def _compare(task: str, part: pd.DataFrame, note: Mapping[str, Any], seed: int) -> pd.DataFrame:
    """The heads of one task."""
    heads, plain = part[part["site"] != ""], part[part["site"] == ""]
    choosing = _ratio(heads[heads["subset"] == "choose"], "site")
    methods = _ratio(plain[plain["subset"] == "choose"], "probe")
    if choosing.empty or methods.empty or heads["model"].nunique() > 1:
        raise ResultsError(
            f"{task!r} has {len(choosing)} heads of {heads['model'].nunique()} models, and "
            f"{len(methods)} baselines to compare them with; give what relations() returns for one "
            "model."
        )
    head, method = choosing.idxmax(), methods.idxmax()
    reported = heads[heads["subset"] == "report"]
    baseline = plain[(plain["subset"] == "report") & (plain["probe"] == method)]
    twice = part.duplicated(["subset", "probe", "site", "cluster"]).any()
    if twice or baseline.empty or len(reported) != len(choosing) * len(baseline):
        raise ResultsError(
            f"{task!r} has {len(reported)} scores of {len(choosing)} heads to report, and "
            f"{len(baseline)} of the baseline {method!r}, where each has one in each document. "
            "Likely rows were taken out, or two tables put together: give all that one call of "
            "relations() returned."
        )
    totals = reported.pivot(index="site", columns="cluster", values="total")
    totals = totals.loc[choosing.index, sorted(totals.columns)]  # the order of Scores' own tests
    of_baseline = baseline.set_index("cluster")[["total", "n"]].loc[totals.columns]
    difference = totals.to_numpy() - of_baseline["total"].to_numpy()
    n = of_baseline["n"].sum()
    relation, _, direction = task.partition(": ")
    named = reported.drop_duplicates("site").set_index("site").loc[choosing.index]
    table = pd.DataFrame(
        {
            "task": task,
            "relation": relation,
            "direction": direction,
            "site": choosing.index.astype(str),
            "layer": named["layer"].array,
            "head": named["head"].array,
            "model": named["model"].iloc[0],
            "choosing": choosing.to_numpy(),
            "value": totals.to_numpy().sum(1) / n,
            "baseline": method,
            "baseline_value": of_baseline["total"].sum() / n,
            "difference": difference.sum(1) / n,
            "p": stats.sign_flip_p(
                difference, np.arange(difference.shape[1]), alternative="greater", seed=seed
            ),
            "n": n,
            "clusters": len(of_baseline),
            "chosen": choosing.index == head,
        }
    )
    best, other = (Scores(rows, note) for rows in (reported[reported["site"] == head], baseline))
    for name, found in (
        ("", best.summary(seed=seed)),
        ("baseline_", other.summary(seed=seed)),
        ("difference_", best.minus(other, seed=seed)),
    ):
        for end in ("low", "high"):
            table[name + end] = np.where(table["chosen"], found[end].iloc[0], np.nan)
    return table


def _twins(accuracy: pd.DataFrame) -> dict[str, str]:
    """Of each task, the first one that has the same numbers, of every head and baseline."""
    kept = accuracy[["subset", "probe", "site", "cluster", "total", "n"]]
    rows = pd.Series(pd.util.hash_pandas_object(kept, index=False), accuracy.index)
    marks = rows.groupby(accuracy["task"], sort=False, observed=True).sum()  # in whatever order
    first = {mark: task for task, mark in reversed(list(marks.items()))}
    return {str(task): str(first[mark]) for task, mark in marks.items()}


def _corrected(table: pd.DataFrame, twins: Mapping[str, str]) -> Float[ndarray, " rows"]:
    """q of the chosen heads, over one task of each kind; NaN of the other heads."""
    chosen = table[table["chosen"]].set_index("task")["p"].astype(float)
    tested = chosen[[task for task in chosen.index if twins[task] == task]]
    q = pd.Series(stats.fdr(tested.to_numpy()), tested.index)
    return np.where(table["chosen"], table["task"].map(twins).map(q), np.nan)


def _ratio(frame: pd.DataFrame, key: str | list[str]) -> pd.Series:
    """Ratio of sums over documents, in the order of the table."""
    groups = frame.groupby(key, sort=False, observed=True)
    return cast(pd.Series, groups["total"].sum()).div(groups["n"].sum())


def _require_same(attended: Attended, corpus: Corpus) -> None:
    words = len(attended.alignment) + len(attended.alignment.missing)
    text = attended.provenance["text"]
    if corpus.fingerprint != text:
        raise CorpusError(
            f"{corpus.name} has {corpus.n_words} words (text {corpus.fingerprint}), and attended() "
            f"was given {attended.provenance['corpus']} with {words} (text {text}); give it the "
            "same corpus."
        )


def _choosing(corpus: Corpus, names: Sequence[str], seed: int) -> Bool[ndarray, " cluster"]:
    """The documents that heads are chosen on."""
    if len(names) < 2:
        raise CorpusError(
            f"{corpus.name} is a single document ({names[0]}), so heads cannot be chosen on one "
            "half and reported on the other. Mark its documents ('# newdoc'), or add text."
        )
    shuffled = np.random.default_rng([seed, len(names)]).permutation(len(names))
    return np.isin(np.arange(len(names)), shuffled[: len(names) // 2])


def _table(
    found: Sequence[Links],
    attended: Attended,
    choosing: Bool[ndarray, " cluster"],
    names: Sequence[str],
    model: str,
) -> pd.DataFrame:
    """One row for each score and document; text as categories, for there may be millions."""
    layers, heads, _ = attended.to.shape
    sites = [
        {"site": f"{layer}.{head}", "layer": layer, "head": head, "probe": "attention"}
        for layer, head in product(range(layers), range(heads))
    ]
    cells: list[dict[str, object]] = []
    columns: list[tuple[ndarray, ...]] = []
    for links in found:
        asked = np.bincount(links.cluster, minlength=len(names))
        scored = [{**site, "model": model} for site in sites]
        scored += [{"probe": name, "model": "none"} for name in links.baselines]
        tables = [(scored, _by_document(_right(links, attended), links, len(names)), asked)]
        for probe, metric, counted in (
            ("asked", "coverage", asked),
            ("skipped", "skipped", links.skipped),
        ):
            row = {"probe": probe, "model": "none", "metric": metric}
            tables.append(([row], counted[None], links.annotated))
        resting = attended.rests[..., links.looks].reshape(-1, len(links))
        sink = [{**site, "model": model, "probe": "sink", "metric": "sink"} for site in sites]
        last = [(sink, _by_document(resting, links, len(names)), asked)]
        for subset, half in (("choose", choosing), ("report", ~choosing)):
            for rows, totals, n in tables + (last if subset == "report" else []):
                there = np.flatnonzero(half & (n > 0))
                cell = len(cells) + np.arange(len(rows))
                cells += [{"task": links.task, "subset": subset, **row} for row in rows]
                columns.append(
                    (
                        np.repeat(cell, len(there)),
                        np.tile(there, len(rows)),
                        totals[:, there].ravel(),
                        np.tile(n[there], len(rows)),
                    )
                )
    cell, cluster, total, n = map(np.concatenate, zip(*columns, strict=True))
    given = pd.DataFrame(cells).reindex(columns=CELL)
    given = given.fillna({"site": "", "labels": "real", "metric": "accuracy"})
    types = {c: "Int16" if c in ("layer", "head") else "category" for c in CELL}
    frame = given.astype(types).take(cell).reset_index(drop=True)
    documents = pd.Categorical.from_codes(cluster, categories=list(names))
    return frame.assign(cluster=documents, total=total.astype(float), n=n.astype("int64"))[COLUMNS]


def _right(links: Links, attended: Attended) -> Bool[ndarray, "answers links"]:
    """Which answers are right, of each head and then of each baseline."""
    answers = getattr(attended, links.asks)[..., links.place].reshape(-1, len(links))
    right = np.zeros(answers.shape, dtype=bool)
    for distances in links.right.T:
        right |= answers == distances
    return np.concatenate([right, np.stack(list(links.baselines.values()))])


def _by_document(
    values: Bool[ndarray, "answers links"], links: Links, documents: int
) -> Integer[ndarray, "answers documents"]:
    """How many in each document."""
    totals = np.zeros((len(values), documents), dtype=int)
    order = np.argsort(links.cluster, kind="stable")
    present, first = np.unique(links.cluster[order], return_index=True)
    totals[:, present] = np.add.reduceat(values[:, order], first, axis=1, dtype=int)
    return totals
