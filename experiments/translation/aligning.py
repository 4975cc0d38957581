"""Which heads of cross-attention align: where they look when a word is written.

With one sure link for each word of the target, and one word that a head links it to (the one that
it attends to most), the alignment error rate of Och & Ney (2003) is the share of target words that
are linked to another word than the one that they translate.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

import interp
from experiments.translation.setting import IDS, cross_heads
from interp.core.prompts.pairs import Pairs
from interp.core.tables.scores import Scores
from interp.models.translator.grammar import Clause, Translation, translation
from interp.models.translator.tokens import END

ERROR = "alignment error"
NEXT, LAST = "next word", "last word"
"""A head may look at what the word that is written now translates, or the one written before."""
HALVES = ("choose", "report")
OFFSETS = range(-8, 9)
MEAN = "mean of all heads"


def aligned(model: interp.Model, found: Sequence[Clause]) -> Scores:
    """The error of every head and of every fixed offset, on two halves of the sentences.

    `task` says of which word; `subset` which half, and of the half that reports what kind of word.
    """
    translations = [*map(translation, found)]
    heads = cross_heads(model)
    names = [f"{head}.pattern" for head in heads]
    kept = interp.capture(model, _whole(translations), names)
    patterns = {head: kept.rows(name) for head, name in zip(heads, names, strict=True)}
    links = {head: [p.argmax(-1).numpy() for p in rows] for head, rows in patterns.items()}
    every = [torch.stack(rows).mean(0) for rows in zip(*patterns.values(), strict=True)]
    links[MEAN] = [p.argmax(-1).numpy() for p in every]
    for k in OFFSETS:
        links[f"offset {k:+d}"] = [np.arange(len(t.target) + 1) + k for t in translations]
    return errors(links, translations, kept.provenance)


def _whole(found: Sequence[Translation]) -> Pairs:
    """Sources with their whole translations, of which the end is not read."""
    read = [[*(IDS[w] for w in t.source), END] for t in found]
    said = [[IDS[w] for w in t.target] for t in found]
    return Pairs.from_tokens(clean=read, corrupt=read, target=said, bos="none")


def errors(
    links: Mapping[str, Sequence[np.ndarray]],
    found: Sequence[Translation],
    provenance: Mapping[str, object],
) -> Scores:
    """Links against the truth.

    Args:
        links: of each head or offset and each sentence, the source position that belongs to each
            position of the decoder: its start token first.
    """
    of = np.concatenate([np.full(len(t.target), i) for i, t in enumerate(found)])
    half = of % 2
    kind = np.concatenate(
        [[role.split()[1 % len(role.split())] for role in t.target_roles] for t in found]
    )
    cluster = np.array([f"sentence {i:05}" for i in range(len(found))])[of]
    truth = np.concatenate([t.aligned for t in found])
    tables = []
    for name, rows in links.items():
        place = {"site": name} if name.startswith("dec.") else {}
        probe = "attention" if place else name
        for task, shift in ((NEXT, 0), (LAST, 1)):
            said = np.concatenate(
                [row[shift : shift + len(t.target)] for row, t in zip(rows, found, strict=True)]
            )
            wrong = (said != truth).astype(float)
            subsets = {HALVES[i]: half == i for i in range(2)}
            if task == NEXT:
                subsets |= {str(k): (half == 1) & (kind == k) for k in np.unique(kind)}
            tables += [
                Scores.of(
                    wrong[kept],
                    cluster[kept],
                    provenance=provenance,
                    task=task,
                    probe=probe,
                    model="trained" if probe == "attention" or probe == MEAN else "none",
                    metric=ERROR,
                    subset=subset,
                    **place,
                )
                for subset, kept in subsets.items()
            ]
    return Scores.concat(tables)


def chosen(scores: Scores, task: str, *, heads: bool) -> str:
    """The head (or the offset) with the fewest errors on the first half."""
    asked = f"task == '{task}' and subset == '{HALVES[0]}'"
    which = "probe == 'attention'" if heads else "probe.str.startswith('offset')"
    table = scores.query(f"{asked} and {which}").summary()
    return str(table.sort_values("value", kind="stable").iloc[0]["site" if heads else "probe"])


def least(scores: Scores) -> dict[str, str]:
    """The chosen head for each task, and the chosen offset for the next word."""
    return {
        NEXT: chosen(scores, NEXT, heads=True),
        LAST: chosen(scores, LAST, heads=True),
        "offset": chosen(scores, NEXT, heads=False),
    }
