"""Features made by hand, for probes whose answers are known."""

from collections.abc import Mapping

import torch

from interp.datasets.corpus import Corpus
from interp.probing.read.features import Features


def features(x: Mapping[str, torch.Tensor], corpus: Corpus | None = None) -> Features:
    """Features of the words of a corpus, or of words that are each a sentence of their own."""
    return Features.from_arrays(x, model="by hand", corpus=corpus)
