"""The nouns, and what is done to their number in a model that is asked for a verb."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import interp
from experiments._probing import web_text, what_a_probe_reads
from interp.core.parts.sites import Site
from interp.core.tables.results import Results
from interp.models import untrained
from interp.probing import HeldOut, Split, amnesic, collect, erasers, steer, steering_vector

TASK = "number"
TAGS = ("NN", "NNS")
"""Singular and plural, which become the classes 0 and 1."""
DOSES = (-2.0, -1.0, 0.0, 1.0, 2.0)


def nouns(
    model: interp.Model,
    sites: Sequence[Site],
    kept: Path,
    *,
    counts: tuple[int, int, int] | None,
    context: int,
    seed: int,
) -> dict[str, Split]:
    """Singular and plural nouns that do not begin a row, by split."""
    models = (model, untrained(model, seed=seed))
    found = {}
    for name, text in web_text(counts, seed=seed).items():
        both = [
            collect(m, text, sites=sites, context=context, folder=kept / f"{name}-{i}")
            for i, m in enumerate(models)
        ]
        words = Split.of(text, both[0], both[1], "xpos").after_first()
        found[name] = words.select([i for i, tag in enumerate(words.labels) if tag in TAGS])
    return found


def classes(split: Split) -> torch.Tensor:
    """0 of singular and 1 of plural nouns."""
    return torch.tensor([TAGS.index(tag) for tag in split.labels])


def erasing(
    model: interp.Model,
    pairs: interp.Pairs,
    train: Split,
    dev: Split,
    sites: Sequence[Site],
    kept: Path,
    *,
    draws: int,
    seed: int,
) -> Results:
    """The logit difference of the two verbs, and the accuracy, without number after a layer.

    What is left of it is asked on the nouns of the development documents.
    """
    y = classes(train)
    read = {site: what_a_probe_reads(train, y, site) for site in sites}
    held = {site: dev.features.stack(dev.words, sites=[site])[0] for site in sites}
    kinds = erasers(
        {site: x for site, (x, _) in read.items()},
        y,
        types=train.types,
        weights={site: weight for site, (_, weight) in read.items()},
        held_out=HeldOut(held, classes(dev), dev.cluster),
        draws=draws,
        seed=seed,
    )
    return amnesic(model, pairs, kinds, metric=("logit_diff", "accuracy"), checkpoint=kept)


def singular(model: interp.Model, pairs: interp.Pairs) -> np.ndarray:
    """Whether the verb that is right is singular: the one of the two that ends in s."""
    return np.array([model.show([token])[0].endswith("s") for token in pairs.correct.tolist()])


def steering(
    model: interp.Model,
    pairs: interp.Pairs,
    train: Split,
    sites: Sequence[Site],
    kept: Path,
    *,
    seed: int,
) -> Results:
    """The logit difference when the end is moved; a dose of +1 is towards the other number."""
    of_one, y, parts = singular(model, pairs), classes(train), []
    towards = {}
    for site in sites:
        x, weight = what_a_probe_reads(train, y, site)
        towards[site] = steering_vector(x, y, weight)
    for number, sign in (("singular", 1.0), ("plural", -1.0)):
        rows = np.flatnonzero(of_one if number == "singular" else ~of_one)
        found = steer(
            model,
            pairs.select(rows.tolist()),
            {site: (sign * vector).float() for site, vector in towards.items()},
            doses=DOSES,
            seed=seed,
            checkpoint=kept / number,
        )
        frame = found.frame.assign(example=rows[found.frame["example"]])
        parts.append(Results(frame, found.provenance))
    return Results.concat(parts)
