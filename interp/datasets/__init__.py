"""Text to ask a model about: annotated corpora, minimal pairs, and tasks that make prompt pairs.

`corpus` reads annotated text into documents, sentences, words and mentions, or minimal pairs; by
name (`corpora` lists them) or from a file of one's own. Each task is a function of the model: words
are kept only where they are single tokens of its tokenizer, positions are named, and every row
carries the cluster (its template) that the bootstrap resamples.
"""

from interp.datasets.corpus import Corpus, Document, Mention, Sentence, Word, require_disjoint
from interp.datasets.ioi import ioi
from interp.datasets.minimal import MinimalPair, MinimalPairs
from interp.datasets.registry import corpora, corpus

__all__ = [
    "corpus",
    "corpora",
    "Corpus",
    "Document",
    "Sentence",
    "Word",
    "Mention",
    "MinimalPair",
    "MinimalPairs",
    "require_disjoint",
    "ioi",
]
