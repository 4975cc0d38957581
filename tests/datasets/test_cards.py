"""The counts that the data cards state, against the data."""

import re
from collections import Counter
from collections.abc import Iterable

import pytest

from interp.datasets import Corpus, homographs, modifiers, pronouns, senses
from interp.datasets.made.templates import lists
from interp.datasets.named.files import folder

SPLITS = ("train", "dev", "test")
Stated = dict[str, tuple[int, ...]]
"""By phrase of the card, "#" for each number in it."""


def of_splits(corpus: Corpus, *facts: str) -> list[tuple[int, int]]:
    """Clusters and documents of each split."""
    kept = [d for d in corpus.documents if set(facts) <= set(d.facts.values())]
    parts = [[d.id for d in kept if d.facts["split"] == split] for split in SPLITS]
    return [(len(set(part)), len(part)) for part in parts]


def sizes(parts: Iterable[list]) -> tuple[int, ...]:
    return tuple(map(len, parts))


def of_homographs() -> Stated:
    templates, corpus = lists("homographs", "templates"), homographs()
    lengths = [len(sentence) for sentence in corpus.sentences]
    one = [d for d in corpus.documents if d.id == "ring"]
    uses = Counter((d.facts["context"], d.facts["use"]) for d in one)
    wordings = Counter(d.facts.get("wording") for d in one if d.facts["use"] == "noun")
    telling = {"the", "my", "another", "your", "this", "their", "to"}
    telling |= {"can", "will", "should", "must", "might", "could"}
    decided = [text for use in templates["before"].values() for text in use.values()]
    decided = [text.partition(" {T}")[0].rpartition(" ")[2] in telling for text in decided]
    return {
        "# lemmas; for each an adjective": (len(lists("homographs", "words")),),
        "`before`: # wordings for the noun and # for": sizes(templates["before"].values()),
        "`after`: # beginnings": (len(templates["after"]),),
        "# sentences of # to # words": (len(lengths), min(lengths), max(lengths)),
        "each lemma # noun and # verb uses": (uses["before", "noun"], uses["before", "verb"]),
        "and # and # in which they only": (uses["after", "noun"], uses["after", "verb"]),
        "# train (# sentences), # dev (#), # test (#)": sum(of_splits(corpus), ()),
        "of their own: # train, # dev, # test": tuple(wordings[split] for split in SPLITS),
        "In # of the # wordings": (sum(decided), len(decided)),
    }


def of_ioi() -> Stated:
    words, templates = lists("ioi", "words"), lists("ioi", "templates")
    lengths = [len(text.split()) for text in templates.values()]
    counts = {**words["names"], "places": words["places"], "objects": words["objects"]}
    listed = "`names.feminine` (#), `names.masculine` (#), `places` (#), `objects` (#)"
    return {
        "# templates, `{id: text}`": (len(templates),),
        listed: tuple(len(counts[n]) for n in ("feminine", "masculine", "places", "objects")),
        "A filled template has # to # words": (min(lengths), max(lengths)),
        "each of the # combinations": (2 * len(templates),),
    }


def of_modifiers() -> Stated:
    words, templates, corpus = (
        lists("modifiers", "words"),
        lists("modifiers", "templates"),
        modifiers(),
    )
    nouns, adjectives = len(words["nouns"]), sum(map(len, words["adjectives"].values()))
    return {
        "# nouns (things), # places, # adj": (nouns, len(words["places"]), adjectives),
        "# templates, named": (len(templates),),
        "# sentences: # nouns × # templates": (len(corpus.documents), nouns, len(templates)),
        "train (# sentences), dev (#), test (#)": tuple(n for _, n in of_splits(corpus)),
    }


def of_pronouns() -> Stated:
    words, templates, corpus = (
        lists("pronouns", "words"),
        lists("pronouns", "templates"),
        pronouns(),
    )
    (reasons,) = {len(kinds) for kinds in templates["reasons"].values()}
    rows = {"gender": "he / she", "number": "they / he or she"}
    rows["causality"] = "the verb; both people have one gender"
    found = {
        "`couples`: # nouns": (len(words["couples"]),),
        "`verbs`: # couples": (len(words["verbs"]),),
        "`who`: # sent": (len(templates["who"]),),
        "`next`: # prompts": (len(templates["next"]),),
        "`because`: # frames": (len(templates["because"]),),
        "`reasons`: # for": (reasons,),
    }
    for kind, decides in rows.items():
        parts = of_splits(corpus, kind)
        total = sum(n for _, n in parts)
        found[f"| {kind} | {decides} | # | #, #, # |"] = (total, *(couples for couples, _ in parts))
    return found


def of_senses() -> Stated:
    words, templates, corpus = lists("senses", "words"), lists("senses", "templates"), senses()
    one, two = ([d for d in corpus.documents if d.facts["cues"] == n] for n in "12")
    (filler,) = {len(re.findall(r"\w+", text)) for text in templates["fillers"]}
    (cues,) = {len(given) for entry in words.values() for given in entry.values()}
    product = (len({d.facts[fact] for d in one}) for fact in ("lemma", "distance", "near"))
    pairs = {(d.facts["near"], d.facts["far"]) for d in two}
    far = {d.facts["far_distance"] for d in two}
    clusters = tuple(lemmas for lemmas, _ in of_splits(corpus))
    assert len(two) == len(words) * len(far) * len(pairs) * cues
    return {
        "# lemmas; for each two cues": (len(words),),
        "# openings, # filler sentences of # w": (
            *sizes(map(templates.get, ("openings", "fillers"))),
            filler,
        ),
        "# texts:": (len(corpus.documents),),
        "# lemmas × # distances × # senses × # cues": (*product, cues),
        "do not: # × # × # × #.": (len(words), len(far), len(pairs), cues),
        "# train, # dev, # test": clusters,
    }


CARDS = {
    "homographs": of_homographs,
    "ioi": of_ioi,
    "modifiers": of_modifiers,
    "pronouns": of_pronouns,
    "senses": of_senses,
}


def test_every_card_is_read():
    assert {path.parent.name for path in folder("ioi").parent.glob("*/README.md")} == set(CARDS)


@pytest.mark.parametrize("name", CARDS)
def test_a_card_states_what_there_is(name):
    card = " ".join((folder(name) / "README.md").read_text(encoding="utf-8").split())
    for phrase, counts in CARDS[name]().items():
        # no number or letter goes on where the phrase begins
        found = re.search(r"(?<![\w,])" + re.escape(phrase).replace(r"\#", r"(\d[\d,]*)"), card)
        assert found, f"the card of {name} does not say {phrase!r}"
        stated = tuple(int(number.replace(",", "")) for number in found.groups())
        assert stated == counts, phrase
