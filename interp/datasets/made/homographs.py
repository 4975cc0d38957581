"""Words that are nouns or verbs: "my *ring* fell on the floor", "they will *ring* the bell".

In "before" sentences the words that decide stand before the target, so that a causal model can
know at the target. In "after" sentences they follow it: both uses begin with the very same words
("We saw her *ring*, the silver one" / "We saw her *ring* the bell twice"), so that it cannot.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Literal

from interp.core.door.door import door
from interp.datasets.corpus import Corpus, Document
from interp.datasets.made.templates import Split, collected, fill, lists, splits

NAME = "homographs"
TAGS = {"noun": "NOUN", "verb": "VERB"}


@door
def homographs(*, split: Split | Literal["all"] = "all") -> Corpus:
    """Noun and verb uses of the same forms, as many of each for every lemma and context.

    Each document is one sentence; the documents of a lemma have its name as their id, so that
    the lemma is what is resampled. No lemma is in two splits.

    Args:
        split: `"train"` (60 % of the lemmas), `"dev"`, `"test"` (20 % each), or `"all"`.

    Returns:
        Sentences in which the target word alone has a tag: `upos` is NOUN or VERB. Facts of a
        document: `lemma`, `use` ("noun", "verb"), `context` ("before", "after"), `template`,
        `wording` (of "before" sentences: the split that the template is in, 8, 2 and 2 of them, so
        that contexts can be new too), `target` (index of the target word), `split`.
    """
    return collected(NAME, _documents(), split=split, layers=frozenset({"upos"}))


@cache
def _documents() -> tuple[Document, ...]:
    words = lists(NAME, "words")
    of = splits(NAME, tuple(words))
    return tuple(
        document for lemma, entry in words.items() for document in _lemma(lemma, entry, of[lemma])
    )


def _lemma(lemma: str, entry: Mapping, split: Split) -> Iterator[Document]:
    templates = lists(NAME, "templates")
    wordings = splits(f"{NAME} wordings", tuple(templates["before"]["noun"]))
    for use, tag in TAGS.items():
        cases = [("before", name, text) for name, text in templates["before"][use].items()]
        cases += [
            ("after", name, frame["before"] + frame[use])
            for name, frame in templates["after"].items()
        ]
        for i, (context, name, text) in enumerate(cases):
            id = f"{lemma}-{use}-{context}-{name}"
            slots = {"T": lemma, "ADJECTIVE": entry["adjective"], "REST": entry[use][i % 2]}
            filled = fill(text.replace("{T}", f"{{T}}/{tag}"), slots, id=id)
            target = filled.at["T"][0]
            facts = {"lemma": lemma, "use": use, "context": context, "template": name}
            if context == "before":
                facts["wording"] = wordings[name]
            facts |= {"target": str(target), "split": split}
            yield Document(lemma, (filled.sentence,), facts=facts)
