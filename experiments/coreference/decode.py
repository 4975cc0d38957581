"""Where coreference is decodable: probes of mention pairs."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

import interp
from interp.core.parts.sites import Site
from interp.core.tables.scores import Scores
from interp.datasets.corpus import Corpus
from interp.probing import (
    Bilinear,
    Features,
    MentionPairs,
    Schedule,
    SpanClassifier,
    collect,
    fit_probe,
    mention_pairs,
)
from interp.probing.ask.controls import control_task, unseen
from interp.probing.ask.coreference import TASK, Reads
from interp.probing.fit.scoring import correct, score

SEEN = "forms seen in training"
"""Pairs whose two head words were a pair in training: of the others, the control task is chance."""


def parts(pairs: MentionPairs, corpus: Corpus) -> dict[str, MentionPairs]:
    """Pairs of half of the novels to train on, of a fifth to stop on, and of the others."""
    ids = [document.id for document in corpus.documents]
    ends = [0, round(0.5 * len(ids)), round(0.7 * len(ids)), len(ids)]
    return {
        name: pairs.of(ids[ends[i] : ends[i + 1]])
        for i, name in enumerate(("train", "dev", "test"))
    }


def asked(splits: Mapping[str, MentionPairs], *, seed: int) -> dict[str, torch.Tensor]:
    """Labels of each split: the real ones, and those of a control task (Hewitt & Liang 2019).

    In it every pair of head words ("she", "ann") has a label of its own, drawn once and the same in
    all splits: what a probe scores there is what it can do by remembering words.
    """
    train = splits["train"]
    types = [part.types for part in splits.values()]
    drawn = control_task(train.types, train.y.numpy(), splits=types, seed=seed)
    return {
        name: torch.stack([part.y, torch.from_numpy(labels)])
        for (name, part), labels in zip(splits.items(), drawn, strict=True)
    }


def decodable(
    models: Mapping[str, interp.Model],
    text: Corpus,
    sites: Sequence[Site],
    *,
    net: Callable[..., SpanClassifier],
    schedule: Schedule,
    kept: Path,
    context: int,
    seed: int,
) -> Scores:
    """Probes of mention pairs at each layer, with every control; subset "dev" to choose a layer."""
    names = [str(site) for site in sites]
    nets: dict[str, tuple[SpanClassifier | Bilinear, Reads]] = {
        "span pair": (net(), "spans"),
        "bilinear": (Bilinear(), "heads"),
    }
    found: list[Scores] = []
    for which, model in models.items():
        features, splits = read_novels(
            model, text, sites, kept / f"novels-{which}", context=context, seed=seed
        )
        test = splits["test"]
        labels = ("real", "control") if which == "trained" else ("real",)
        y = {name: of[: len(labels)] for name, of in asked(splits, seed=seed).items()}
        known = ~unseen(splits["train"].types, test.types)
        subsets = test.subsets | ({SEEN: known} if known.any() else {})
        for probe, (classifier, reads) in nets.items():
            examples = {
                name: pairs.examples(features, y[name], reads=reads, sites=names)
                for name, pairs in splits.items()
            }
            fitted = fit_probe(
                classifier,
                examples["train"],
                examples["dev"],
                classes=2,
                sites=names,
                labels=labels,
                schedule=schedule,
                seed=seed,
            )
            note = {"pairs": {name: len(pairs) for name, pairs in splits.items()}}
            note |= {"not converged": int((~fitted.converged).sum())}
            note |= {"share of forms seen": float(known.mean())}
            every = {"dev": np.ones(len(splits["dev"]), dtype=bool)}
            for name, reported in (("dev", every), ("test", subsets)):
                said = fitted.log_probs(examples[name].x, examples[name].rows)
                found.append(
                    score(
                        correct(said, examples[name].y),
                        splits[name].cluster,
                        sites=sites,
                        labels=labels,
                        task=TASK,
                        probe=probe,
                        model=which,
                        subsets=reported,
                        provenance=note,
                    )
                )
        if which == "trained":
            found.append(test.score_baselines())
    return Scores.concat(found)


def read_novels(
    model: interp.Model,
    text: Corpus,
    sites: Sequence[Site],
    folder: Path,
    *,
    context: int,
    seed: int,
) -> tuple[Features, dict[str, MentionPairs]]:
    """Activations of the novels, from the folder if they are there, and the pairs of mentions."""
    features = collect(model, text, sites=sites, context=context, folder=folder)
    return features, parts(mention_pairs(text, features, seed=seed), text)
