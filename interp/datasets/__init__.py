"""Text to ask a model about: annotated corpora, minimal pairs, and tasks that make prompt pairs.

`corpus` reads annotated text into documents, sentences, words and mentions, or minimal pairs; by
name (`corpora` lists them) or from a file of one's own. `homographs`, `senses`, `pronouns` and
`modifiers` are controlled sets of this project's own. Each task is a function of the model: words
are kept only where they are single tokens of its tokenizer, positions are named, and every row
carries the cluster (its template) that the bootstrap resamples. `repeated`, `recall` and `lookup`
are token sequences for models that are trained here; `digits` are images for one that sees.
"""

from interp.datasets.corpus import Corpus, Document, Mention, Sentence, Word, require_disjoint
from interp.datasets.made.homographs import homographs
from interp.datasets.made.modifiers import modifiers
from interp.datasets.made.pronouns import pronouns
from interp.datasets.made.senses import senses
from interp.datasets.named.registry import corpora, corpus
from interp.datasets.readers.minimal import MinimalPair, MinimalPairs
from interp.datasets.tasks.agreement import agreement
from interp.datasets.tasks.digits import digits
from interp.datasets.tasks.greater_than import greater_probability, greater_than
from interp.datasets.tasks.ioi import ioi
from interp.datasets.tasks.pronoun_pairs import pronoun_pairs
from interp.datasets.tasks.recall import lookup, recall
from interp.datasets.tasks.repeated import repeated, repeated_pairs
from interp.datasets.tasks.subject_verb import subject_verb
from interp.datasets.words.running import running_text

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
    "homographs",
    "senses",
    "pronouns",
    "modifiers",
    "ioi",
    "agreement",
    "subject_verb",
    "greater_than",
    "greater_probability",
    "digits",
    "pronoun_pairs",
    "running_text",
    "repeated",
    "repeated_pairs",
    "recall",
    "lookup",
]
