"""What a model does without parts of speech."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import interp
from experiments.pos.probes import labelled
from interp.core.parts.sites import Site
from interp.datasets.corpus import Corpus
from interp.datasets.words.alignment import align
from interp.datasets.words.running import running_text
from interp.probing import HeldOut, Split, amnesic, erasers, sinks
from interp.probing.ask.controls import Classes

log = logging.getLogger("interp")


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
