"""Prompts that end inside something seen before, each beside the same place at first sight.

`... A B ... A` asks for B, which stood after A before; `... A` asks for the same B when nothing
says it. What is special about copying is what a knock-out does to the one and not to the other.

On real text A and B are two tokens of a name (" Cas|aub|on", " Elizabeth| Bennet"), at its first
and at its second mention.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

import interp
from interp.core.errors import CorpusError
from interp.core.prompts.pairs import Pairs
from interp.datasets.corpus import Corpus
from interp.datasets.words.alignment import Alignment, align

PER_DOCUMENT = 3
"""Names of a document at most, so that no novel is most of the sample."""
CONTEXT = 4096
"""Tokens of a document that are searched."""


@dataclass(frozen=True)
class Twice:
    """The same two tokens, asked for at their second and at their first occurrence, row by row.

    Attributes:
        reference: other rows of the same kind, whose mean stands in for a head.
    """

    again: Pairs
    first: Pairs
    reference: Int[Tensor, "row pos"]


def random_twice(model: interp.Model, n: int, *, block: int, reference: int, seed: int) -> Twice:
    """Random tokens, then the same again; a prompt ends after a half or all but two of them."""
    both = interp.heads.repeated_tokens(
        model, n + reference, block=(block, block), pos=2 * block, seed=seed
    )
    tokens = both[:n].tolist()
    ends = [len(row) - 2 - (block // 2 if i % 2 else 1) for i, row in enumerate(tokens)]
    return twice(tokens, [(end - block, end) for end in ends], list(map(str, range(n))), both[n:])


def names_twice(
    model: interp.Model, corpus: Corpus, n: int, *, context: int, reference: int, seed: int
) -> Twice:
    """Names of several tokens in real text, each prompt with as many tokens before its end.

    Both mentions have a full context, and that of the second holds the first.

    Raises:
        CorpusError: fewer such names than asked for.
    """
    corpus.require("mentions")
    aligned = align(model, corpus, context=min(CONTEXT, model.facts.n_ctx or CONTEXT), bos="none")
    spans = name_spans(corpus, aligned)
    rows, places, documents = [], [], []
    for document in np.random.default_rng([*b"names", seed]).permutation(sorted(spans)):
        row, found = spans[document]
        tokens = aligned.rows[row]
        shown = model.show(list(tokens))
        lettered = [any(c.isalpha() for c in text) for text in shown]
        kept = repeats(tokens, found, lettered=lettered, context=context)[:PER_DOCUMENT]
        rows += [tokens] * len(kept)
        places += kept
        documents += [str(document)] * len(kept)
    if len(rows) < n:
        raise CorpusError(
            f"{corpus.name} has {len(rows)} names of several tokens that return within {context} "
            f"tokens and {n} are asked for; take fewer prompts, or a longer context."
        )
    others = [row for row in aligned.rows if len(row) >= context]
    rng = np.random.default_rng([*b"reference", seed])
    drawn = [others[i] for i in rng.integers(len(others), size=reference)]
    starts = [int(rng.integers(len(row) - context + 1)) for row in drawn]
    windows = [row[i : i + context] for row, i in zip(drawn, starts, strict=True)]
    return twice(rows[:n], places[:n], documents[:n], torch.tensor(windows), context=context)


def twice(
    rows: Sequence[Sequence[int]],
    places: Sequence[tuple[int, int]],
    cluster: Sequence[str],
    reference: Int[Tensor, "row pos"],
    *,
    context: int | None = None,
) -> Twice:
    """Prompts that end at the two places of each row, with the token after them as the answer.

    Args:
        places: where the token before the answer stands, first and again.
        context: tokens of a prompt; None for all from the start of the row.
    """

    def ending(which: int) -> Pairs:
        ends = [place[which] for place in places]
        starts = [0 if context is None else end + 1 - context for end in ends]
        prompts = [
            list(row[start : end + 1]) for row, start, end in zip(rows, starts, ends, strict=True)
        ]
        answers = [row[end + 1] for row, end in zip(rows, ends, strict=True)]
        # the loss asks for no wrong answer; the last other token before the answer is one
        wrong = [
            next(token for token in reversed(prompt) if token != answer)
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        return Pairs.from_tokens(
            clean=prompts,
            corrupt=prompts,
            correct=answers,
            wrong=wrong,
            cluster=cluster,
            bos="none",
        )

    return Twice(ending(1), ending(0), reference)


def repeats(
    tokens: Sequence[int],
    names: Sequence[tuple[int, int]],
    *,
    lettered: Sequence[bool],
    context: int,
) -> list[tuple[int, int]]:
    """Where two neighbouring tokens of a name stand for the first and for the second time.

    Args:
        names: tokens of each name, [start, end).
        lettered: of each token, whether it has a letter: "Mr|." is no pair that a name makes.
        context: what a prompt holds; the first occurrence has as much before it, and the second is
            so near that its prompt holds the first.

    Returns:
        Places of the first of the two tokens, one pair for each name's first such neighbours.
    """
    occurrences: dict[tuple[int, int], list[int]] = {}
    for i, pair in enumerate(pairwise(tokens)):
        occurrences.setdefault(pair, []).append(i)
    inside = {i for start, end in names for i in range(start, end - 1)}
    found: dict[int, int] = {}
    for start, end in names:
        for i in range(start, end - 1):
            first, *later = occurrences[tokens[i], tokens[i + 1]]
            if not (lettered[i] and lettered[i + 1]) or first != i or not later:
                continue
            if later[0] in inside and first >= context - 1 and later[0] - first < context:
                found[first] = later[0]
                break
    return sorted(found.items())


def name_spans(corpus: Corpus, aligned: Alignment) -> dict[str, tuple[int, list[tuple[int, int]]]]:
    """For each document its first row, and the tokens of the names in it, in order.

    A name is a run of capitalised words in a mention that is a proper one.
    """
    place = zip(aligned.sentence.tolist(), aligned.word.tolist(), strict=True)
    index = {key: i for i, key in enumerate(place)}
    found: dict[str, tuple[int, list[tuple[int, int]]]] = {}
    before = 0
    for document in corpus.documents:
        count = len(document.sentences)
        rows = aligned.row[(aligned.sentence >= before) & (aligned.sentence < before + count)]
        spans: set[tuple[int, int]] = set()
        for mention in document.mentions:
            if mention.kind != "proper" or not len(rows):
                continue
            words = document.sentences[mention.sentence].words
            for run in _runs([words[w].form[0].isupper() for w in range(*mention.words)]):
                at = [index.get((before + mention.sentence, mention.words[0] + w)) for w in run]
                ends = [i for i in at if i is not None and aligned.row[i] == rows[0]]
                if ends:
                    spans.add((int(aligned.start[ends[0]]), int(aligned.end[ends[-1]])))
        if spans:
            found[document.id] = (int(rows[0]), sorted(spans))
        before += count
    return found


def _runs(keep: Sequence[bool]) -> list[list[int]]:
    """Indices of neighbours that are all kept."""
    runs: list[list[int]] = []
    for i, kept in enumerate(keep):
        if kept and (i == 0 or not keep[i - 1]):
            runs.append([])
        if kept:
            runs[-1].append(i)
    return runs
