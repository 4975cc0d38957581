"""Is order lost without positions: what is right in translations of sentences never seen.

| metric | right is |
| --- | --- |
| sentence | the whole translation |
| words | each word that is written, wherever it stands, as often as it should |
| subject | the noun that stands first is the subject's |
| attached | each adjective stands after its own noun, of those that are written once |
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from transformers import MarianMTModel

from interp.core.tables.scores import Scores
from interp.models.quiet import quiet
from interp.models.toy import Translator
from interp.models.translator.grammar import NOUNS, Clause, Translation, translation, vocabulary
from interp.models.translator.training import PLACES, translated

TASK = "translation"
METRICS = ("sentence", "words", "subject", "attached")
WITHOUT = {
    "trained with positions": (),
    "encoder's taken away": PLACES[:1],
    "decoder's taken away": PLACES[1:],
}


def right(said: Sequence[str], truth: Translation) -> dict[str, tuple[float, int]]:
    """How much is right, and of how many, by metric."""
    nouns = {form for noun in NOUNS.values() for form in (noun.one, noun.many)}
    first = next((word for word in said if word in nouns), "")
    common = sum((Counter(said) & Counter(truth.target)).values())
    attached, of = 0, 0
    for word, role in zip(truth.target, truth.target_roles, strict=True):
        if " adjective " in role and said.count(word) == truth.target.count(word) == 1:
            of += 1
            own = truth.target[truth.target_roles.index(f"{role.split()[0]} noun")]
            before = [w for w in said[: said.index(word)] if w in nouns]
            attached += bool(before) and before[-1] == own
    subject = truth.target[truth.target_roles.index("subject noun")]
    return {
        "sentence": (float(tuple(said) == truth.target), 1),
        "words": (float(common), max(len(said), len(truth.target))),
        "subject": (float(first == subject), 1),
        "attached": (float(attached), of),
    }


def scored(said: Sequence[Sequence[str]], found: Sequence[Clause], name: str) -> Scores:
    """Every metric; the sentence is the cluster."""
    tables = []
    told = [right(words, translation(clause)) for words, clause in zip(said, found, strict=True)]
    for metric in METRICS:
        totals, counts = np.array([one[metric] for one in told]).T
        one = Scores.of(
            np.zeros(len(told)),
            [f"sentence {i:05}" for i in range(len(told))],
            provenance={"sentences": len(told)},
            task=TASK,
            probe="greedy",
            model=name,
            metric=metric,
        )
        frame = one.frame.assign(total=totals, n=counts.astype(int))
        tables.append(Scores(frame[frame["n"] > 0].reset_index(drop=True), one.provenance))
    return Scores.concat(tables)


def ordered(models: Mapping[str, Translator], found: Sequence[Clause]) -> Scores:
    """Translations by the models "with" and "without", and by the first without its positions."""
    words = vocabulary()
    tables = []
    named = {name: (models["with"], taken) for name, taken in WITHOUT.items()}
    named["trained without positions"] = (models["without"], ())
    for name, (of, taken) in named.items():
        with quiet():
            module = MarianMTModel.from_pretrained(of.folder)
        for place in taken:
            with torch.no_grad():
                module.get_parameter(place).zero_()
        said = [[words[i] for i in row] for row in translated(module, found)]
        tables.append(scored(said, found, name))
    return Scores.concat(tables)
