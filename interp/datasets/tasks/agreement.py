"""Agreement: "the keys to the cabinet" -> " are", not " is".

The minimal pairs of BLiMP (Warstadt et al. 2020) and of Marvin & Linzen (2018) that hinge on one
word after a prefix, asked as by Linzen et al. (2016): which of the two words does the model give
the higher logit?
"""

import logging
from collections.abc import Iterator, Sequence
from itertools import zip_longest

import numpy as np

from interp.core.door.door import door
from interp.core.door.taken import Count, Seed
from interp.core.errors import PairsError, nearest
from interp.core.prompts.pairs import Encodes, Pairs
from interp.datasets.named.registry import Paired, corpus
from interp.datasets.readers.minimal import MinimalPair, MinimalPairs
from interp.datasets.tasks.prompts import unknown_word
from interp.models.bridge.tokens import Bos

log = logging.getLogger("interp")

SUBJECT_VERB = (
    "simple_agrmt",
    "sent_comp",
    "vp_coord",
    "prep_anim",
    "subj_rel",
    "distractor_agreement_relational_noun",
    "distractor_agreement_relative_clause",
    "irregular_plural_subject_verb_agreement_1",
    "regular_plural_subject_verb_agreement_1",
)
"""The paradigms of either source in which a verb agrees with its subject after one prefix."""


@door
def agreement(
    model: Encodes,
    *,
    n: Count = 64,
    seed: Seed = 0,
    source: Paired | MinimalPairs = "lm-syneval",
    paradigms: Sequence[str] | None = None,
    bos: Bos = "model",
) -> Pairs:
    """Prompts that end right before the word that agrees.

    Conditions of the paradigms (singular and plural subjects, with or without an attractor of the
    other number) come equally often, to within one, as long as each has pairs left. Pairs whose
    words are not single tokens after the prompt, or whose prompt has a word that the tokenizer has
    no token for, are left out, and counted through the logger `interp`.

    Args:
        model: anything with `encode` and `show`.
        n: number of prompts, no two of which are the same.
        seed: of the order in which pairs are taken.
        source: a corpus of minimal pairs, by name or read before.
        paradigms: by default those of `SUBJECT_VERB` that the source has.
        bos: `"model"` adds what the tokenizer adds by itself, `"none"` nothing.

    Returns:
        n pairs; `correct` is the grammatical word, `wrong` the other. Clean and corrupt prompts
        are the same: there is nothing to patch from. The cluster is the condition with the lemma
        that agrees, known by its two forms ("simple_agrmt sing_MS_MV smile/smiles").

    Raises:
        PairsError: an unknown paradigm, or fewer than n usable pairs.
        CorpusError: the corpus cannot be found.
    """
    pairs = source if isinstance(source, MinimalPairs) else corpus(source)
    if paradigms is None:
        paradigms = [name for name in SUBJECT_VERB if name in pairs.paradigms]
    for name in paradigms:
        if name not in pairs.paradigms:
            raise PairsError(
                f"{pairs.name} has no paradigm {name!r}; {nearest(name, pairs.paradigms)}"
            )
    prompts: list[tuple[list[int], int, int]] = []
    clusters: list[str] = []
    seen: set[tuple[str, str, str]] = set()
    lost: list[tuple[str, str, str]] = []
    for pair in _in_turn(pairs, paradigms, np.random.default_rng([*b"agreement", seed])):
        if (text := pair.continuations()) in seen:
            continue
        seen.add(text)
        prompt = _tokenise(model, text, bos)
        if prompt is None:
            lost.append(text)
            continue
        prompts.append(prompt)
        clusters.append(f"{pair.paradigm} {pair.condition} {'/'.join(sorted(text[1:]))}")
        if len(prompts) == n:
            break
    example = f"; the first is {lost[0][0]!r} -> {lost[0][1]!r}, {lost[0][2]!r}" if lost else ""
    dropped = f"{len(lost)} of {len(seen)} have words that are not single tokens{example}"
    if len(prompts) < n:
        raise PairsError(
            f"only {len(prompts)} pairs of {pairs.name} ({', '.join(paradigms) or 'no paradigm'}) "
            f"can be asked of this model, and n={n}: {dropped}. Ask for fewer, or name other "
            "paradigms that hinge on one word after one prefix."
        )
    if lost:
        log.info("agreement: %s", dropped)
    rows, good, bad = (list(column) for column in zip(*prompts, strict=True))
    return Pairs.from_tokens(
        clean=rows,
        corrupt=rows,
        correct=good,
        wrong=bad,
        cluster=clusters,
        strings=[(tuple(model.show(ids)),) * 2 for ids in rows],
        bos=bos,
    )


def _in_turn(
    pairs: MinimalPairs, paradigms: Sequence[str], rng: np.random.Generator
) -> Iterator[MinimalPair]:
    """One pair of each condition, then another of each; in random order within."""
    cells: dict[tuple[str, str], list[MinimalPair]] = {}
    for pair in pairs:
        if pair.paradigm in paradigms and pair.method == "one_prefix":
            cells.setdefault((pair.paradigm, pair.condition), []).append(pair)
    shuffled = [[cell[i] for i in rng.permutation(len(cell))] for cell in cells.values()]
    for turn in zip_longest(*shuffled):
        yield from (pair for pair in turn if pair is not None)


def _tokenise(
    model: Encodes, text: tuple[str, str, str], bos: Bos
) -> tuple[list[int], int, int] | None:
    """Ids of the prompt and of both words, if each word is one token that follows the prompt.

    None also where the prompt itself has a word that is not in the vocabulary.
    """
    prefix, *words = text
    ids = model.encode(prefix, bos=bos)
    if unknown_word(model, prefix, ids) is not None:
        return None
    answers = []
    for word in words:
        whole = model.encode(f"{prefix} {word}", bos=bos)
        # an unknown-word token is single too, but it does not spell the word
        if whole[:-1] != ids or word.lower() not in model.show(whole[-1:])[0].lower():
            return None
        answers.append(whole[-1])
    return (ids, answers[0], answers[1])
