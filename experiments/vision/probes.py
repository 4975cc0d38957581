"""Where the class can be read, by layer, and what could be read without the model."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

import interp
from interp.core.parts.sites import Site
from interp.core.tables.scores import Scores
from interp.models.digits import scans
from interp.models.load import untrained
from interp.models.model import Model
from interp.probing import Features, Split, tagging

CLASS, PATCHES = "class token", "patches"
SHUFFLED, PIXELS = "class token, labels shuffled", "pixels"
DEV = 0.25
"""Of the images that probes learn from, those that their strength is chosen on."""


def probed(model: Model, *, seed: int) -> Scores:
    """Accuracies of linear probes of the digit, on half of the held-out images.

    Their `task` says what is read: the stream at the class token, its mean over the patches, the
    pixels; or the class token, by probes that learned shuffled labels. `model` "random" is the same
    of an untrained model.
    """
    found, rng = scans(held_out=True), np.random.default_rng(seed)
    order = rng.permutation(len(found.labels))
    half = len(order) // 2
    cut = {"train": order[: int(half * (1 - DEV))], "dev": order[int(half * (1 - DEV)) : half]}
    cut["test"] = order[half:]
    labels = found.labels.numpy()
    shuffled = labels[rng.permutation(len(labels))]
    ours, theirs = (streams(one, found.images) for one in (model, untrained(model, seed=seed)))
    pixels = {"0.resid_pre": found.images.flatten(1)}
    asked = [(where, ours[where], theirs[where], labels) for where in (CLASS, PATCHES)]
    asked += [(SHUFFLED, ours[CLASS], None, shuffled), (PIXELS, pixels, None, labels)]
    scores = []
    for task, arrays, random, known in asked:
        splits = [
            Split.of_words(
                features(arrays, rows, model.name),
                known[rows].tolist(),
                cluster=[f"image {row}" for row in rows],
                random=None if random is None else features(random, rows, "untrained"),
            )
            for rows in cut.values()
        ]
        scores.append(tagging(*splits, task=task, seed=seed).scores)
    return Scores.concat(scores)


def features(arrays: Mapping[str, Tensor], rows: np.ndarray, name: str) -> Features:
    """Some images' vectors."""
    chosen = torch.from_numpy(rows)
    return Features.from_arrays(
        {s: x.index_select(0, chosen) for s, x in arrays.items()}, model=name
    )


def streams(model: Model, images: Tensor) -> dict[str, dict[str, Tensor]]:
    """The residual stream after each layer: at the class token, and its mean over the patches."""
    pairs = interp.Pairs.from_images(model, clean=images, corrupt=images)
    image = model.facts.image
    assert image is not None
    after = [Site("resid_post", layer) for layer in range(model.facts.n_layers)]
    held = interp.capture(model, pairs, [Site("resid_pre", 0), *after], positions="all")
    first = {str(site): held[str(site)][:, 0] for site in after}  # before, it is one constant
    mean = {str(site): held[str(site)][:, image.special :].mean(1) for site in held.sites}
    return {CLASS: first, PATCHES: mean}
