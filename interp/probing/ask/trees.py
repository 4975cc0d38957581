"""Dependency trees over words, and how well distances between words give them back.

UUAS and the distance Spearman of Hewitt & Manning 2019 (N19-1419, sec. 3.2).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree, shortest_path
from scipy.stats import rankdata

from interp.core.door.door import door
from interp.core.errors import ProbeError
from interp.core.parts.sites import Site
from interp.core.tables.scores import Scores
from interp.probing.fit.scoring import score

LENGTHS = (5, 50)
"""Sentences whose Spearman correlations are averaged, first by length (Hewitt & Manning 2019)."""


@door
@dataclass(frozen=True, eq=False)
class Trees:
    """Trees of sentences whose words follow one another on the word axis of the activations.

    Attributes:
        heads: of the words of each sentence: index in the sentence, -1 of the root.
        counted: words that UUAS counts: not the punctuation.
    """

    heads: tuple[Int[ndarray, " _"], ...]
    counted: tuple[Bool[ndarray, " _"], ...]

    @classmethod
    @door
    def of(
        cls,
        heads: Sequence[Sequence[int] | Int[ndarray, " _"]],
        counted: Sequence[Sequence[bool] | Bool[ndarray, " _"]] | None = None,
    ) -> "Trees":
        """Check that they are trees.

        Args:
            heads: of the words of each sentence: index in the sentence, -1 of the root.
            counted: which words UUAS counts; all by default.

        Raises:
            ProbeError: naming the first sentence that is none.
        """
        given = tuple(np.asarray(sentence, dtype=np.int64) for sentence in heads)
        for i, sentence in enumerate(given):
            roots = int((sentence == -1).sum())
            if roots != 1 or not np.isfinite(_distances(sentence)).all():
                raise ProbeError(
                    f"the heads of sentence {i} are no tree: {sentence.tolist()} ({roots} roots). "
                    "Give indices in the sentence, -1 for its one root; a sentence of which "
                    "words were not collected must be left out whole."
                )
        kept = [np.ones(len(h), dtype=bool) for h in given] if counted is None else counted
        masks = tuple(np.asarray(sentence, dtype=bool) for sentence in kept)
        if [len(h) for h in given] != [len(m) for m in masks]:
            raise ProbeError("`counted` has other sentence lengths than `heads`; one value a word.")
        return cls(given, masks)

    def __len__(self) -> int:
        return len(self.heads)

    @cached_property
    def lengths(self) -> Int[ndarray, " sentence"]:
        return np.array([len(sentence) for sentence in self.heads], dtype=np.int64)

    @cached_property
    def starts(self) -> Int[ndarray, " sentence"]:
        """The first word of each sentence."""
        return np.cumsum(self.lengths) - self.lengths

    @cached_property
    def distances(self) -> tuple[Float[ndarray, "_ _"], ...]:
        """Edges between the words of each sentence."""
        return tuple(_distances(sentence) for sentence in self.heads)

    @property
    def linear(self) -> list[Float[ndarray, "1 _ _"]]:
        """The baseline that looks at no activation: how many words apart two words stand."""
        places = [np.arange(length, dtype=float) for length in self.lengths]
        return [np.abs(place[:, None] - place)[None] for place in places]


@dataclass(frozen=True, eq=False)
class TreeScores:
    """How well distances agree with trees.

    Attributes:
        right: of each tree edge between counted words, whether the minimum spanning tree has it.
        edge_sentence: the sentence of each edge.
        spearman: of each sentence, mean over its words of the rank correlation of predicted and
            true distances to all words. A word to which all are predicted to be equally far ranks
            nothing, and counts as 0.
        lengths: of the sentences.
    """

    right: Bool[ndarray, "site edge"]
    edge_sentence: Int[ndarray, " edge"]
    spearman: Float[ndarray, "site sentence"]
    lengths: Int[ndarray, " sentence"]

    @property
    def uuas(self) -> Float[ndarray, " site"]:
        """Share of the tree's edges that are found."""
        return self.right.mean(1)

    @property
    def mean_spearman(self) -> Float[ndarray, " site"]:
        """Mean over the lengths 5 to 50 of the mean over sentences of that length.

        Raises:
            ProbeError: no sentence of these lengths.
        """
        lengths = [n for n in np.unique(self.lengths) if LENGTHS[0] <= n <= LENGTHS[1]]
        if not lengths:
            raise ProbeError(
                f"no sentence has {LENGTHS[0]} to {LENGTHS[1]} words, of which the correlation "
                "is averaged; `spearman` has each sentence's"
            )
        return np.mean([self.spearman[:, self.lengths == n].mean(1) for n in lengths], axis=0)

    @door
    def scores(
        self,
        cluster: Sequence[str],
        *,
        sites: Sequence[Site],
        task: str,
        probe: str,
        model: str,
        provenance: Mapping[str, Any],
    ) -> Scores:
        """As a table: metric "uuas" over edges, and "spearman" over sentences of 5 to 50 words.

        The intervals are over documents. "spearman" weighs sentences alike, where `mean_spearman`
        takes the mean by length first.

        Args:
            cluster: document of each sentence.
            sites: of the rows, in order.
            probe: "distance", or the name of a baseline such as "linear distance".

        Raises:
            ProbeError: documents or sites of another number, or no sentence of these lengths.
        """
        documents = np.asarray(cluster)
        if len(documents) != len(self.lengths):
            raise ProbeError(
                f"{len(documents)} documents for {len(self.lengths)} sentences; give one for each."
            )
        middle = (self.lengths >= LENGTHS[0]) & (self.lengths <= LENGTHS[1])

        def of(metric: str, values: ndarray, cluster: ndarray) -> Scores:
            return score(
                values[:, None],
                cluster,
                sites=sites,
                labels=["real"],
                task=task,
                probe=probe,
                model=model,
                provenance=provenance,
                metric=metric,
            )

        edges = of("uuas", self.right.astype(float), documents[self.edge_sentence])
        return Scores.concat(
            [edges, of("spearman", self.spearman[:, middle].astype(float), documents[middle])]
        )


@door
def judge(predicted: Sequence[Float[ndarray, "site _ _"]], trees: Trees) -> TreeScores:
    """Score the predicted distances of each sentence.

    Raises:
        ProbeError: other sentences than the trees', or trees without an edge to find.
    """
    if [p.shape[1] for p in predicted] != trees.lengths.tolist():
        raise ProbeError(
            f"distances of {len(predicted)} sentences for {len(trees)} trees, or of other "
            "lengths; give a matrix for each sentence, in the same order."
        )
    right: list[ndarray] = []
    sentence_of: list[int] = []
    spearman: list[ndarray] = []
    for i, (found, gold) in enumerate(zip(predicted, trees.distances, strict=True)):
        spearman.append(_rank_correlation(found, gold).mean(1))
        edges = _edges(trees.heads[i], trees.counted[i])
        if len(edges):
            low, high = np.sort(edges, axis=1).T
            right.append(_spanning(found, trees.counted[i])[:, low, high])
            sentence_of += [i] * len(edges)
    if not right:
        raise ProbeError("no tree has an edge between counted words, so there is none to find")
    return TreeScores(
        np.concatenate(right, axis=1),
        np.array(sentence_of),
        np.stack(spearman, axis=1),
        trees.lengths,
    )


def _distances(heads: Int[ndarray, " word"]) -> Float[ndarray, "word word"]:
    """Edges between words; infinite where there is no path."""
    child = np.flatnonzero((heads >= 0) & (heads < len(heads)))
    edges = coo_array((np.ones(len(child)), (child, heads[child])), shape=(len(heads),) * 2)
    return shortest_path(edges.tocsr(), directed=False, unweighted=True)


def _edges(heads: Int[ndarray, " word"], counted: Bool[ndarray, " word"]) -> Int[ndarray, "edge 2"]:
    """Tree edges between counted words."""
    child = np.flatnonzero((heads >= 0) & counted & counted[heads])
    return np.stack([child, heads[child]], axis=1)


def _spanning(
    found: Float[ndarray, "site word word"], counted: Bool[ndarray, " word"]
) -> Bool[ndarray, "site word word"]:
    """Edges of the minimum spanning trees over the counted words, the lower word first."""
    words = np.flatnonzero(counted)
    tree = np.zeros(found.shape, dtype=bool)
    for i, matrix in enumerate(found.astype(float)):
        # for SciPy 0 is no edge; a constant for all edges does not change which tree is the least
        least = minimum_spanning_tree(np.triu(matrix[np.ix_(words, words)] + 1.0, 1)).tocoo()
        low, high = np.sort([words[least.row], words[least.col]], axis=0)
        tree[i, low, high] = True
    return tree


def _rank_correlation(
    found: Float[ndarray, "site word word"], gold: Float[ndarray, "word word"]
) -> Float[ndarray, "site word"]:
    """Spearman's of each row; 0 where a row is constant."""

    def standard(x: Float[ndarray, "*site word word"]) -> Float[ndarray, "*site word word"]:
        ranks = rankdata(x, axis=-1)
        ranks -= ranks.mean(-1, keepdims=True)
        norm = np.linalg.norm(ranks, axis=-1, keepdims=True)
        return ranks / np.where(norm > 0, norm, 1.0)

    return (standard(found) * standard(gold)).sum(-1)
