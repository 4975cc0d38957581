"""Which comes first: part of speech, dependencies or coreference? (Tenney et al. 2019)

Probes of a mix of the layers up to each, one architecture for
all tasks, and the layer at which their accuracy is gained, on average.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch

import interp
from experiments._probing import web_text
from experiments._shared import Words, pooled
from experiments.coreference.decode import read_novels
from interp.core.parts.sites import Site
from interp.core.tables.scores import Scores
from interp.datasets.corpus import Corpus
from interp.probing import (
    Examples,
    Features,
    Schedule,
    SpanClassifier,
    centre_of_gravity,
    collect,
    expected_layer,
    fit_probe,
)
from interp.probing.ask.controls import Classes
from interp.probing.ask.coreference import TASK
from interp.probing.fit.nets.mixing import expected_layer_gap, expected_layer_interval
from interp.probing.fit.scoring import correct, score
from interp.runs import interval

say = Words(__file__)
SKIPPED = ("punct", "root")
"""Relations that are not asked: the one is its word's tag, the other has one word only."""
ORDER = ("part of speech", "dependency relation", TASK)


Split = dict[str, tuple[Examples, tuple[str, ...]]]


def in_order(
    model: interp.Model,
    text: Corpus,
    sites: Sequence[Site],
    *,
    words: tuple[int, int, int],
    net: Callable[..., SpanClassifier],
    schedule: Schedule,
    kept: Path,
    context: int,
    seeds: Sequence[int],
) -> Scores:
    """Cumulative probes of tags, of relations and of coreference, each trained several times.

    Args:
        text: the novels of the mentions.
        words: of web text, in train, dev and test.
        net: the classifier of one span, and of two.
        kept: where activations are.
        context: tokens that a word of web text may look back over.
        seeds: of the trainings; the first also of what text is drawn.

    Returns:
        Subset "seed 0", ...: each training. Of the probe "full mix" the metric "centre of gravity"
        (in layers): the mean layer that the mix of all layers reads, each training a cluster.
    """
    features, splits = read_novels(
        model, text, sites, kept / "novels-trained", context=context, seed=seeds[0]
    )
    pairs: Split = {
        name: (part.examples(features, part.y[None], sites=sites), part.cluster)
        for name, part in splits.items()
    }
    web = web_text(words, seed=seeds[0])
    of_web = {
        name: collect(model, corpus, sites=sites, context=context, folder=kept / f"web-{name}")
        for name, corpus in web.items()
    }
    asked: dict[str, tuple[SpanClassifier, Split]] = {
        ORDER[0]: (net(1), words_of(web, of_web, "upos")),
        ORDER[1]: (net(2), words_of(web, of_web, "relation")),
        ORDER[2]: (net(2), pairs),
    }
    names, found = [str(site) for site in sites], []
    step = (sites[-1].depth or 0) / (len(sites) - 1)
    for task, (classifier, split) in asked.items():
        test, cluster = split["test"]
        gravity = []
        for seed in seeds:
            fitted = fit_probe(
                classifier,
                split["train"][0],
                split["dev"][0],
                sites=names,
                labels=("real",),
                source="cumulative",
                schedule=schedule,
                seed=seed,
            )
            right = correct(fitted.log_probs(test.x, test.rows), test.y)
            note = {"not converged": int((~fitted.converged).sum()), "words": list(words)}
            found.append(
                score(
                    right,
                    cluster,
                    sites=sites,
                    labels=("real",),
                    task=task,
                    probe="cumulative",
                    model="trained",
                    provenance=note,
                    subsets={f"seed {seed}": np.ones(len(cluster), dtype=bool)},
                )
            )
            gravity.append(step * float(centre_of_gravity(fitted.weights[-1, 0].numpy())))
        found.append(
            Scores.of(
                np.array(gravity),
                [f"seed {seed}" for seed in seeds],
                task=task,
                probe="full mix",
                model="trained",
                metric="centre of gravity",
                provenance={},
            )
        )
    return Scores.concat(found)


def words_of(
    web: Mapping[str, Corpus],
    features: Mapping[str, Features],
    label: Literal["upos", "relation"],
) -> Split:
    """Words and their tags; or words, with their heads, and their relations.

    The first words of rows are left out: as attention sinks they would scale all others.
    """
    drawn: dict[str, tuple[list[tuple[int, ...]], list[str], list[str]]] = {}
    for name, corpus in web.items():
        sinks = set(np.unique(features[name].row, return_index=True)[1].tolist())
        at = zip(features[name].sentence.tolist(), features[name].word.tolist(), strict=True)
        place = {where: i for i, where in enumerate(at)}
        rows, labels, cluster = drawn.setdefault(name, ([], [], []))
        for (sentence, word), i in place.items():
            this = corpus.sentences[sentence].words[word]
            said = getattr(this, label)
            head = i if label == "upos" else place.get((sentence, this.head), -1)
            if said is None or said in SKIPPED or head < 0 or not sinks.isdisjoint((i, head)):
                continue
            rows.append((i, i + 1) if label == "upos" else (i, i + 1, head, head + 1))
            labels.append(said)
            cluster.append(corpus.clusters[sentence])
    classes = Classes.of(drawn["train"][1], rare="drop")
    found: Split = {}
    for name, (rows, labels, cluster) in drawn.items():
        y = torch.from_numpy(classes.encode(labels))
        known = (y >= 0).nonzero().flatten()
        x = features[name].stack().float()
        examples = Examples(x, torch.tensor(rows)[known], y[None, known])
        found[name] = (examples, tuple(cluster[i] for i in known.tolist()))
    return found


def over_seeds(order: Scores) -> Scores:
    """The accuracy of each cumulative probe, over all its trainings."""
    return pooled(order.query("probe == 'cumulative'"), ["subset"])


def expected_layers(order: Scores) -> pd.DataFrame:
    """Expected layer of each task, and of each task less that of the one before.

    Of the accuracy over all trainings of a probe. Columns: `task`, `before` (empty, or the task
    that is subtracted), `value`, `low`, `high` (over documents), `seeds`, `seed_low`, `seed_high`:
    the least and the most of single trainings (of differences: over all pairs of two). Of tasks
    `gravity`, `gravity_low`, `gravity_high`: the centre of gravity of the full mix, mean, least and
    most.
    """
    accuracy = over_seeds(order)
    depths = sorted(accuracy.frame["depth"].unique())
    step = depths[-1] / (len(depths) - 1)  # probes are at equal steps
    rows, asked = [], {}
    for task in ORDER:
        given = asked[task] = by_layer(accuracy.query(f"task == '{task}'").frame)
        single = order.query(f"task == '{task}' and probe == 'cumulative'").frame
        alone = [
            step * float(expected_layer(totals.sum(1) / counts.sum()))
            for totals, counts in (by_layer(part) for _, part in single.groupby("subset"))
        ]
        gravity = order.query(f"task == '{task}' and metric == 'centre of gravity'").frame["total"]
        value, low, high = (step * x for x in expected_layer_interval(*given))
        rows.append(
            {
                "task": task,
                "before": "",
                "value": value,
                "low": low,
                "high": high,
                "seeds": len(alone),
                "seed_low": np.min(alone),  # NaN if one is: its layers add nothing
                "seed_high": np.max(alone),
                "gravity": gravity.mean(),
                "gravity_low": gravity.min(),
                "gravity_high": gravity.max(),
            }
        )
    for (before, task), (first, then) in zip(pairwise(ORDER), list(pairwise(rows)), strict=True):
        gap = expected_layer_gap(
            asked[before], asked[task], documents="others" if task == TASK else "same"
        )
        value, low, high = (step * x for x in gap)
        rows.append(
            {
                "task": task,
                "before": before,
                "value": value,
                "low": low,
                "high": high,
                "seeds": then["seeds"],
                "seed_low": then["seed_low"] - first["seed_high"],
                "seed_high": then["seed_high"] - first["seed_low"],
            }
        )
    return pd.DataFrame(rows)


def by_layer(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Right answers by layer and document, and how many were asked of each document."""
    totals = frame.pivot(index="depth", columns="cluster", values="total").sort_index()
    counts = frame.groupby("cluster")["n"].first().loc[totals.columns]
    return totals.to_numpy(dtype=float), counts.to_numpy(dtype=float)


def of_order(expected: pd.DataFrame) -> str:
    """Whether tags come before relations, and these before coreference.

    One task is called earlier where the interval over documents says so, and every training too.
    """
    alone = expected["before"] == ""
    listed = [
        say("expected layer", row=row, layer=shown(row), single=single(row))
        for _, row in expected[alone].iterrows()
    ]
    verdicts = []
    for _, row in expected[~alone].iterrows():
        if np.isnan(row["low"]) or np.isnan(row["seed_low"]):
            verdicts.append(say("cannot be compared", row=row))
            continue
        earlier = row["low"] > 0 and row["seed_low"] > 0
        later = row["high"] < 0 and row["seed_high"] < 0
        verdict = "earlier" if earlier else "later" if later else "not told apart"
        verdicts.append(
            say("compared", row=row, verdict=say(verdict), by=shown(row), single=single(row))
        )
    return say(
        "order",
        seeds=int(expected[alone]["seeds"].min()),
        listed=", ".join(listed),
        verdicts=", and ".join(verdicts),
    )


def single(row: pd.Series) -> str:
    """What single trainings give, where each gives something."""
    return "" if np.isnan(row["seed_low"]) else say("single trainings", row=row)


def shown(row: pd.Series) -> str:
    """A number of layers with its interval, if it has one."""
    if np.isnan(row["value"]):
        return say("undefined")
    return say("no interval", row=row) if np.isnan(row["low"]) else interval(row, digits=1)
