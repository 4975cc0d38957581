"""What a model does without parts of speech: the erasures of experiments/pos.py."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import interp
from interp.core.sites import Site
from interp.datasets.corpus import Corpus
from interp.datasets.text import running_text
from interp.probing.amnesic import amnesic
from interp.probing.controls import Classes
from interp.probing.erasure import erasers, random_directions, sinks
from interp.probing.tagging import Split

log = logging.getLogger("interp")
DRAWS = 3
"""Of random directions, as many as LEACE takes away."""


def labelled(split: Split, classes: Classes) -> Split:
    """The words with a label that is learned."""
    return split.select(np.flatnonzero(classes.encode(split.labels) >= 0))


def erased(
    model: interp.Model,
    train: Split,
    text: Corpus,
    sites: Sequence[Site],
    kept: Path,
    *,
    context: int,
    seed: int,
) -> interp.Results:
    """Next-token loss on test sentences with the tags taken away after a layer, and controls.

    As many random directions are drawn `DRAWS` times. The few words that are attention sinks though
    they begin no row are left out of the fits.
    """
    classes = Classes.of(train.labels, rare="drop")
    train = labelled(train, classes)
    y = torch.from_numpy(classes.encode(train.labels))
    x = {site: train.features.stack(train.words, sites=[site])[0] for site in sites}
    usual = ~torch.stack([sinks(activations) for activations in x.values()]).any(0)
    log.info("%d of %d words left out of the fits: attention sinks", (~usual).sum(), len(usual))
    x, y = {site: activations[usual] for site, activations in x.items()}, y[usual]
    rows = running_text(model, text, context=context)
    kinds = erasers(x, y, seed=seed)
    for draw in range(2, DRAWS + 1):
        kinds[f"random {draw}"] = {
            site: random_directions(x[site], rank=erase.rank, seed=seed + 1000 * draw + i)
            for i, (site, erase) in enumerate(kinds["leace"].items())
        }
    return amnesic(model, rows, kinds, checkpoint=kept)


def halves(used: interp.Results) -> tuple[interp.Results, interp.Results]:
    """Documents to choose a layer on, and those to report it on."""
    names = sorted(set(used.frame["cluster"]))
    first = used.frame["cluster"].isin(names[::2])
    choose, report = (used.frame[half].reset_index(drop=True) for half in (first, ~first))
    return interp.Results(choose, used.provenance), interp.Results(report, used.provenance)


def losses(used: interp.Results) -> pd.DataFrame:
    """Loss added by each erasure, by the depth of its site."""
    table = used.summary()
    depth = [Site.parse(site).depth for site in table["site"]]
    erased = table["method"].str.removeprefix("erase ")
    return table.assign(erased=erased, layer=depth, value=table["effect"])
