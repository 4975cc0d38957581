"""Words with their labels: what a probe is trained on, or asked about."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Int
from numpy import ndarray

from interp.core.door.door import door
from interp.core.door.taken import shown
from interp.core.errors import ProbeError
from interp.datasets.corpus import Corpus, Word
from interp.probing.fit.nets.examples import require_rows_of
from interp.probing.read.features import Features

Label = Literal["upos", "xpos", "lemma", "relation"]
"""What a corpus says of a word, and a probe may be asked for."""


@door
@dataclass(frozen=True, eq=False)
class Split:
    """Words with their labels.

    Attributes:
        features: of the trained model.
        random: of the same words in an untrained model, perhaps at fewer sites; or None.
        words: which of the collected ones.
        labels: of each word, what a probe shall say.
        types: of each word its type (its form in lower case), which labels are drawn for in the
            control task; None where the words have none.
        cluster: of each word what is resampled, such as its document.
        missing: words of the corpus without tokens; they are in no score.
        unlabelled: words with tokens and without a label; neither are they.
    """

    features: Features
    random: Features | None
    words: Int[ndarray, " word"]
    labels: tuple[str, ...]
    types: tuple[str, ...] | None
    cluster: tuple[str, ...]
    missing: int = 0
    unlabelled: int = 0

    def __post_init__(self) -> None:
        names = ("words", "labels", "types", "cluster")
        sizes = {n: len(held) for n in names if (held := getattr(self, n)) is not None}
        if len(set(sizes.values())) > 1:
            told = ", ".join(f"{size} {name}" for name, size in sizes.items())
            raise ProbeError(f"a split has one of each for every word, and not {told}.")
        if self.random is not None:
            _require_same(self.features, self.random)

    @classmethod
    @door
    def of(
        cls,
        corpus: Corpus,
        features: Features,
        random: Features | None = None,
        label: Label | Callable[[Word], Any] | Sequence[Any] | None = None,
    ) -> "Split":
        """Labels of the collected words of a corpus.

        Words without a label (None or NaN) are left out and counted.

        Args:
            corpus: whose words were collected; its documents are the clusters.
            features: of the trained model.
            random: of the same words in an untrained one; without it no score has this control.
            label: "upos", "xpos", "lemma" or "relation"; or a list with one label for each word
                of the corpus, also those without tokens; or a function of a `Word`. Own labels
                are texts or whole numbers.

        Raises:
            CorpusError: the corpus is not annotated with it.
            ProbeError: features of another corpus; the two models were not run on the same words;
                labels of another number, of another kind, or none at all.
        """
        if label is None:
            raise ProbeError(
                "nothing says what the labels are; give label='upos', a list with one for each of "
                f"the {corpus.n_words} words of {corpus.name}, or a function of a word."
            )
        if isinstance(label, str):
            corpus.require(label)
        for found in (features, random):
            if found is not None:
                found.require(corpus)
        places = list(zip(features.sentence.tolist(), features.word.tolist(), strict=True))
        words = [corpus.sentences[s].words[w] for s, w in places]
        if isinstance(label, str):
            given = [getattr(word, label) for word in words]
        elif callable(label):
            given = [label(word) for word in words]
        else:
            given = _of_places(label, places, corpus)
        whole = cls(
            features,
            random,
            np.arange(len(words)),
            ("",) * len(words),
            tuple(word.form.lower() for word in words),
            tuple(corpus.clusters[s] for s, _ in places),
            len(features.missing),
        )
        return whole._labelled(given)

    @classmethod
    @door
    def of_words(
        cls,
        features: Features,
        labels: Sequence[Any],
        *,
        cluster: Sequence[Any],
        types: Sequence[str] | None = None,
        random: Features | None = None,
    ) -> "Split":
        """Labels of words that are of no corpus, such as those of `Features.from_arrays`.

        Args:
            features: of the trained model.
            labels: one for each word of the features, a text or a whole number; words without one
                (None or NaN) are left out and counted.
            cluster: of each word what is independent of the others (document, speaker, template):
                intervals resample it, and no two splits may share one.
            types: of each word its form; without it there is no control task, no word-type
                baseline and no score of unseen types.
            random: of the same words in an untrained model.

        Raises:
            ProbeError: lists of another length than the features, labels of another kind, or none.
        """
        lists = {"labels": labels, "cluster": cluster, "types": types}
        for name, given in lists.items():
            if given is not None and len(given) != len(features):
                raise ProbeError(
                    f"{len(given)} {name} for features of {len(features)} words; give one for "
                    "each, in the same order."
                )
        if (lost := pd.isna(np.asarray(cluster, dtype=object))).any():
            raise ProbeError(
                f"word {int(np.argmax(lost))} has no cluster; give each word its own, so that "
                "words without one are not taken for one document."
            )
        whole = cls(
            features,
            random,
            np.arange(len(features)),
            ("",) * len(features),
            None if types is None else tuple(form.lower() for form in types),
            tuple(map(str, cluster)),
            len(features.missing),
        )
        return whole._labelled(labels)

    def _labelled(self, given: Sequence[Any]) -> "Split":
        """The words that have a label, of one value for each."""
        labels = [_text(value, at) for at, value in enumerate(given)]
        kept = [at for at, label in enumerate(labels) if label is not None]
        if not kept:
            raise ProbeError(
                f"none of the {len(labels)} words has a label: all are None or NaN. Look at what "
                "label= gives for a word."
            )
        labels = tuple(label or "" for label in labels)
        whole = replace(self, labels=labels)
        return replace(whole.select(kept), unlabelled=len(labels) - len(kept))

    @door
    def after_first(self) -> "Split":
        """Without the words that begin a row.

        Where the row has no BOS token they are attention sinks: a few of them make most of the
        variance of many dimensions, and standardising by that would shrink all other words.
        """
        row = self.features.row
        later = np.r_[False, row[1:] == row[:-1]]
        return self.select(np.flatnonzero(later[self.words]))

    @door
    def select(self, words: Sequence[int] | Int[ndarray, " chosen"]) -> "Split":
        """Some of the words, in the given order.

        Args:
            words: their numbers in this split, counted from 0.

        Raises:
            ProbeError: a word that there is not.
        """
        at = np.asarray(words, dtype=np.int64)
        require_rows_of(at, len(self.words), "words of the split")

        def chosen(values: Sequence[str]) -> tuple[str, ...]:
            return tuple(values[i] for i in at)

        return replace(
            self,
            words=self.words[at],
            labels=chosen(self.labels),
            types=None if self.types is None else chosen(self.types),
            cluster=chosen(self.cluster),
        )


def _require_same(features: Features, random: Features) -> None:
    """Refuse two models that were run on other words."""
    same = len(features) == len(random) and all(
        np.array_equal(a, b)
        for a, b in ((features.sentence, random.sentence), (features.word, random.word))
    )
    if not same:
        raise ProbeError(
            f"{len(features)} words of the trained model and {len(random)} of the untrained one "
            "are not the same words; collect both on one corpus with the same context=."
        )


def _of_places(given: Sequence[Any], places: list[tuple[int, int]], corpus: Corpus) -> list[Any]:
    """Of a label for each word of a corpus, those at some places."""
    if len(given) != corpus.n_words:
        nested = given and isinstance(given[0], list | tuple | ndarray)
        remedy = "Make one list of those of the sentences. " if nested else ""
        raise ProbeError(
            f"{len(given)} labels for {corpus.name}, which has {corpus.n_words} words in "
            f"{len(corpus.sentences)} sentences; give one for each word, in order. {remedy}A word "
            "without a label has None."
        )
    starts = np.cumsum([0, *map(len, corpus.sentences)])
    return [given[starts[s] + w] for s, w in places]


def _text(value: Any, at: int) -> str | None:
    """A label as text; None where there is none."""
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return None
    if isinstance(value, str | Integral | np.bool_) and str(value):
        return str(value)
    raise ProbeError(
        f"the label of word {at} is {shown(value)}; labels are texts that are not empty, or whole "
        "numbers, and None where a word has none."
    )
