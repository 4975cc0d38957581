"""What a model does without parts of speech: the erasures of experiments/pos.py."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import interp
from interp.core.parts.sites import Site
from interp.datasets.corpus import Corpus
from interp.datasets.words.alignment import align
from interp.datasets.words.running import running_text
from interp.probing import HeldOut, erasers
from interp.probing.ask.controls import Classes
from interp.probing.ask.tagging import Split
from interp.probing.use import amnesic
from interp.probing.use.erasure import sinks
from interp.runs import interval

log = logging.getLogger("interp")
DRAWS = {"smoke": 3, "default": 8, "full": 8}
"""Of each control, by the size of a run."""


def labelled(split: Split, classes: Classes) -> Split:
    """The words with a label that is learned."""
    return split.select(np.flatnonzero(classes.encode(split.labels) >= 0))


def erased(
    model: interp.Model,
    train: Split,
    dev: Split,
    text: Corpus,
    sites: Sequence[Site],
    kept: Path,
    *,
    context: int,
    draws: int,
    seed: int,
) -> interp.Results:
    """Next-token loss on test sentences with the tags taken away after a layer, and controls.

    Fitted to the last tokens of words, and put in at the last tokens of words. What is left of the
    tags is asked on the development documents. Words that begin a row are in neither, and the few
    others that are attention sinks are left out of the fits.
    """
    classes = Classes.of(train.labels, rare="drop")
    (x, y, words), (held_x, held_y, held) = (
        usual(labelled(split, classes), classes, sites) for split in (train, dev)
    )
    made = erasers(
        x,
        y,
        types=words.types,
        held_out=HeldOut(held_x, held_y, held.cluster),
        draws=draws,
        seed=seed,
    )
    rows, places = at_words(model, text, context=context)
    return amnesic(model, rows, made, positions=places, checkpoint=kept)


def usual(
    split: Split, classes: Classes, sites: Sequence[Site]
) -> tuple[dict[Site, torch.Tensor], torch.Tensor, Split]:
    """Activations and tags of the words that are attention sinks at no site."""
    x = {site: split.features.stack(split.words, sites=[site])[0] for site in sites}
    far = torch.stack([sinks(activations) for activations in x.values()]).any(0)
    log.info("%d of %d words left out of the fits: attention sinks", far.sum(), len(far))
    words = split.select(np.flatnonzero(~far.numpy()))
    y = torch.from_numpy(classes.encode(words.labels))
    return {site: activations[~far] for site, activations in x.items()}, y, words


def at_words(
    model: interp.Model, text: Corpus, *, context: int
) -> tuple[interp.Pairs, list[list[int]]]:
    """Running text, and the last tokens of the words of each row but its first word."""
    pairs, aligned = running_text(model, text, context=context), align(model, text, context=context)
    rows = [row for row in np.unique(aligned.row) if len(aligned.rows[row]) > 1]
    ends = [sorted({*(aligned.end[aligned.row == row][1:] - 1).tolist()} - {0}) for row in rows]
    kept = [i for i, places in enumerate(ends) if places]
    return pairs.select(kept), [ends[i] for i in kept]


def halves(used: interp.Results) -> tuple[interp.Results, interp.Results]:
    """Documents to choose a layer on, and those to report it on."""
    names = sorted(set(used.frame["cluster"]))
    first = used.frame["cluster"].isin(names[::2])
    choose, report = (used.frame[half].reset_index(drop=True) for half in (first, ~first))
    return interp.Results(choose, used.provenance), interp.Results(report, used.provenance)


def by_depth(table: pd.DataFrame) -> pd.DataFrame:
    """Effects of a summary, by the depth of their site: `erased`, `layer` and `value`."""
    depth = [Site.parse(site).depth for site in table["site"]]
    erased = table["method"].str.removeprefix("erase ")
    return table.assign(erased=erased, layer=depth, value=table["effect"])


def reads(used: interp.Results) -> pd.DataFrame:
    """What a fresh probe reads on held-out words before and after each erasure, and its size."""
    table = pd.DataFrame(used.provenance["erasures"])
    table = table.assign(layer=[Site.parse(site).depth for site in table["site"]])
    before = table[table["erased"] == "leace"].assign(erased="nothing", variance=0.0, rank=0)
    before = before.assign(after=before["before"], low=np.nan, high=np.nan)
    return pd.concat([before, table], ignore_index=True).assign(value=lambda t: t["after"])


def strength(used: interp.Results, layer: int, what: str) -> str:
    """How much the erasures after a layer move, and what is still read."""
    at = reads(used).query(f"layer == {layer}").set_index("erased")
    shares = ", ".join(
        f"{at.loc[kind, 'variance']:.3f} by {name}"
        for kind, name in (
            ("random", "random directions"),
            ("same variance", "those of the same variance"),
            ("control task", "LEACE of control-task labels"),
        )
        if kind in at.index
    )
    row = at.loc["leace"]
    gone = row["low"] <= row["majority"]
    left = ": not shown to be more than the majority" if gone else ", so its cost is a lower bound"
    return (
        f"LEACE moves {row['variance']:.3f} of the variance there ({shares}). A fresh probe of "
        f"held-out words still reads {what} in {interval(row)} (before {row['before']:.3f}, "
        f"majority {row['majority']:.3f}){left}."
    )
