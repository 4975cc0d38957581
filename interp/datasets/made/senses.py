"""Words of two senses, with words before them that decide: does a far-away "money" decide "bank"?

One sense of every word is a thing of nature (a river bank, a bat in a cave), the other a thing of
people (a savings bank, a baseball bat). So one probe can ask for the sense of words that it was
not trained on. A cue stands a known number of words before the target, neutral sentences between;
or there are two cues, which agree or not.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Literal

import numpy as np

from interp.core.door.door import door
from interp.datasets.corpus import Corpus, Document
from interp.datasets.made.templates import Split, collected, fill, lists, splits

NAME = "senses"
Sense = Literal["nature", "culture"]
SENSES: tuple[Sense, Sense] = ("nature", "culture")
FILLER = 5
"""Words in each filler sentence, in the second cue's sentence, and before the target."""
ONE = (0, 5, 10, 20, 40)
"""Words between a single cue and the target."""
TWO = (10, 20, 40)
"""Words between the far cue and the target; the near cue is 5 words before it."""


@door
def senses(*, split: Split | Literal["all"] = "all") -> Corpus:
    """Sentences that end with a word of two senses, after one cue or two.

    Each document is one text, kept as a single sentence so that it is run whole. The documents of
    a lemma have its name as their id, so that the lemma is what is resampled. No lemma is in two
    splits, and no cue belongs to two lemmas. "bank" is always in the test split.

    Args:
        split: `"train"` (60 % of the lemmas), `"dev"`, `"test"` (20 % each), or `"all"`.

    Returns:
        Texts in which the target alone has a tag (`upos` NOUN). Facts of a document: `lemma`;
        `near` and `far`, the senses ("nature", "culture") of the nearest and the farthest cue;
        `distance` and `far_distance`, the words between each of them and the target; `near_cue`
        and `far_cue`, the words themselves; `cues`, "1" (near and far are the same) or "2";
        `target` (index of the target); `split`. For every lemma and distance as many cues of
        either sense; with two cues, as many that agree as that do not.
    """
    return collected(NAME, _documents(), split=split, layers=frozenset({"upos"}))


@cache
def _documents() -> tuple[Document, ...]:
    words = lists(NAME, "words")
    of = splits(NAME, tuple(words), held_out=("bank",))
    rng = np.random.default_rng([*NAME.encode()])
    return tuple(
        document
        for lemma, cues in words.items()
        for document in (*_one_cue(rng, lemma, cues, of), *_two_cues(rng, lemma, cues, of))
    )


def _one_cue(
    rng: np.random.Generator, lemma: str, cues: Mapping, of: Mapping[str, Split]
) -> Iterator[Document]:
    for distance in ONE:
        for sense in SENSES:
            for cue in cues[sense]:
                text = _text(rng, max(0, distance // FILLER - 1), adjacent=distance == 0)
                facts = {"cues": "1", "near": sense, "far": sense, "near_cue": cue, "far_cue": cue}
                facts |= {"distance": str(distance), "far_distance": str(distance)}
                yield _document(lemma, text, facts, of[lemma])


def _two_cues(
    rng: np.random.Generator, lemma: str, cues: Mapping, of: Mapping[str, Split]
) -> Iterator[Document]:
    for distance in TWO:
        for far in SENSES:
            for near in SENSES:
                for i, cue in enumerate(cues[far]):
                    text = _text(rng, distance // FILLER - 2, second=True)
                    facts = {"cues": "2", "near": near, "far": far}
                    # the other word where the senses agree, so that no cue is said twice
                    facts |= {"near_cue": cues[near][1 - i], "far_cue": cue}
                    facts |= {"distance": str(FILLER), "far_distance": str(distance)}
                    yield _document(lemma, text, facts, of[lemma])


def _text(
    rng: np.random.Generator, fillers: int, *, second: bool = False, adjacent: bool = False
) -> str:
    """Opening with the far cue, fillers, perhaps the near cue, and the target."""
    templates = lists(NAME, "templates")
    if adjacent:
        return f"{rng.choice(templates['fillers'])} {templates['adjacent']}"
    parts = [str(rng.choice(templates["openings"]))]
    parts += rng.choice(templates["fillers"], fillers, replace=False).tolist()
    parts += [templates["second"]] if second else []
    return " ".join([*parts, templates["ending"]])


def _document(lemma: str, text: str, facts: dict[str, str], split: Split) -> Document:
    slots = {"T": lemma, "FAR": facts["far_cue"], "NEAR": facts["near_cue"]}
    parts = ("near_cue", "far_cue", "far_distance")
    id = "-".join([lemma, f"{facts['cues']}cue", *(facts[part] for part in parts)])
    filled = fill(text.replace("{T}", "{T}/NOUN"), slots, id=id)
    facts = {"lemma": lemma, **facts, "target": str(filled.at["T"][0]), "split": split}
    return Document(lemma, (filled.sentence,), facts=facts)
