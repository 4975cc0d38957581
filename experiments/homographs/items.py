"""The words of a corpus with their activations, and which of them are asked."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from interp.datasets.corpus import Corpus, Document, Sentence, Word
from interp.probing import Features, Split

Keep = Callable[[Document, int], bool]


@dataclass(frozen=True, eq=False)
class Items:
    """Words of a corpus with their activations, and the document that each stands in."""

    words: tuple[Word, ...]
    documents: tuple[Document, ...]
    features: Features
    random: Features | None

    @classmethod
    def of(cls, corpus: Corpus, features: Features, random: Features | None) -> "Items":
        owners = [document for document in corpus.documents for _ in document.sentences]
        at = list(zip(features.sentence.tolist(), features.word.tolist(), strict=True))
        words = tuple(corpus.sentences[s].words[w] for s, w in at)
        return cls(words, tuple(owners[s] for s, _ in at), features, random)

    def split(self, label: Callable[[Document, Word], str], keep: Keep = lambda *_: True) -> Split:
        """Those for which `keep` holds of the document and the word's place among its words."""
        pairs = zip(self.documents, self.features.word.tolist(), strict=True)
        chosen = [i for i, (document, place) in enumerate(pairs) if keep(document, place)]
        return Split(
            self.features,
            self.random,
            np.asarray(chosen),
            tuple(label(self.documents[i], self.words[i]) for i in chosen),
            tuple(self.words[i].form.lower() for i in chosen),
            tuple(self.documents[i].id for i in chosen),
            len(self.features.missing),
        )


def some(corpus: Corpus, lemmas: int) -> Corpus:
    """The first lemmas of a corpus."""
    chosen = list(dict.fromkeys(corpus.clusters))[:lemmas]
    return corpus.where(lambda document: document.id in chosen)


def only(corpus: Corpus, keep: Callable[[Word], bool]) -> Corpus:
    """The same texts, of whose words only some are asked about."""

    def asked(document: Document) -> Document:
        return replace(document, sentences=tuple(map(kept, document.sentences)))

    def kept(sentence: Sentence) -> Sentence:
        # heads are counted in the words that were there
        words = (replace(w, head=None, relation=None) for w in sentence.words if keep(w))
        return replace(sentence, words=tuple(words))

    return replace(corpus, documents=tuple(map(asked, corpus.documents)))
