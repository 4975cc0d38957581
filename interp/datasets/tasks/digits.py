"""Handwritten digits: an image of one digit, and in its place one of another."""

import numpy as np

from interp.core.door.door import door
from interp.core.door.taken import Count, Seed
from interp.core.errors import PairsError
from interp.core.prompts.images import Sees
from interp.core.prompts.pairs import Pairs
from interp.models.digits import scans


@door
def digits(model: Sees, *, n: Count = 64, seed: Seed = 0) -> Pairs:
    """Pairs of held-out images of different digits; each image is in one pair alone.

    Args:
        model: that tells ten classes, the digits, such as `interp.models.toy.digits` trains.
        n: number of pairs, up to 300 less what is left without a partner of another digit.
        seed: of all that is drawn.

    Returns:
        n pairs; `correct` is the clean image's digit and `wrong` the corrupt one's. Positions are
        the class token and the patches. The cluster is the clean image.

    Raises:
        PairsError: a model of other classes or images, or more pairs than there are images.
        ModelError: scikit-learn is not installed.
    """
    if model.facts.image is not None and len(model.classes) != 10:
        raise PairsError(
            f"{model.name} tells {len(model.classes)} classes, and digits are ten. Train one that "
            "tells them: interp.models.toy.digits(folder)."
        )
    found = scans(held_out=True)
    order = np.random.default_rng(seed).permutation(len(found.labels))
    half = len(order) // 2
    labels = found.labels.numpy()
    clean, others = order[:half].tolist(), order[half:].tolist()
    pairs: list[tuple[int, int]] = []
    for row in clean:
        other = next((o for o in others if labels[o] != labels[row]), None)
        if other is not None:
            others.remove(other)
            pairs.append((row, other))
    if n > len(pairs):
        raise PairsError(
            f"{n} pairs were asked for and {len(pairs)} can be made of the {len(labels)} held-out "
            "images, each in one pair alone. Ask for fewer."
        )
    before, after = np.array(pairs[:n]).T
    return Pairs.from_images(
        model,
        clean=found.images[before],
        corrupt=found.images[after],
        correct=labels[before],
        wrong=labels[after],
        cluster=[f"image {row}" for row in before],
    )
