"""Tasks that make prompt pairs for the model at hand.

Each task is a function of the model: words are kept only where they are single tokens of its
tokenizer, positions are named, and every row carries the cluster (its template) that the
bootstrap resamples.
"""

from interp.datasets.ioi import ioi

__all__ = ["ioi"]
