"""The doors of the data sets: wrong arguments are refused in words, and nothing is read or run."""

import json
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from doors import complaints
from readers import Reader, speaking

import interp.datasets as datasets
from interp.datasets import Corpus, Document, Mention, MinimalPair, MinimalPairs, Sentence, Word
from interp.datasets.named.files import folder
from interp.datasets.tasks.greater_than import NOUNS, TEMPLATE, later_probability
from interp.datasets.tasks.pronoun_pairs import wordings
from interp.models.model import Model

PIECES = r" ?[A-Za-z']+| ?\d\d|[^\w\s]"
HOT = {"Word", "Sentence", "Mention", "MinimalPair"}
"""They check what they are made of, but have no door: a corpus has 200,000 of them."""


def texts(found: object) -> Iterator[str]:
    """Every text of a file of the project's own data, as it stands and after a space."""
    if isinstance(found, str):
        yield from (found, f" {found}")
    elif isinstance(found, Mapping):
        yield from texts([*found, *found.values()])
    elif isinstance(found, list | tuple):
        for part in found:
            yield from texts(part)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A tiny model whose tokenizer has every word of the tasks as one token."""
    files = [path for name in ("ioi", "pronouns") for path in folder(name).glob("*.json")]
    words = [
        *(json.loads(path.read_text()) for path in files),
        "to mother, the",
        "the",
        "he she they",
    ]
    verbs = vars(import_module("interp.datasets.tasks.subject_verb"))
    words += [value for name, value in verbs.items() if name.isupper()]
    words += [[f"{noun}s" for noun in verbs["NOUNS"]], [f"{i:02}" for i in range(100)]]
    words += [TEMPLATE, NOUNS]
    return speaking(Reader(PIECES, texts(words)), tmp_path_factory.mktemp("model"))


def document() -> Document:
    words = (Word("He", (0, 2), upos="PRON", head=1), Word("saw", (3, 6), upos="VERB", head=-1))
    sentence = Sentence("a-0", "He saw", words)
    return Document("a", (sentence,), (Mention(0, (0, 1), "he", 0, "pronoun"),), {"split": "dev"})


def corpus() -> Corpus:
    return Corpus("mine", (document(),), frozenset({"upos", "head", "mentions"}), {"path": "x"})


def pairs() -> MinimalPairs:
    made = [
        MinimalPair(
            str(i), f"the {noun} is", f"the {noun} are", "simple_agrmt", "sing", "one_prefix"
        )
        for i, noun in enumerate(("author", "pilot", "farmer"))
    ]
    return MinimalPairs("mine", tuple(made), {"path": "x"})


def cases(model: Model, path: Path) -> Iterator[tuple[Callable[..., Any], Mapping[str, Any]]]:
    """A right call of each function, classmethod, method and constructor."""
    common = {"model": model, "n": 2, "seed": 1, "bos": "none"}
    mention, word = document().mentions[0], document().sentences[0].words[0]
    none = dict.fromkeys(("split", "discontinuous", "repeated"))
    yield datasets.corpus, {"name": path, "format": "tags", **none}
    yield datasets.corpora, {}
    yield Word, {name: getattr(word, name) for name in Word.__slots__}
    yield Sentence, vars(document().sentences[0])
    yield Mention, {name: getattr(mention, name) for name in Mention.__slots__}
    yield Document, vars(document())
    yield document().text, {"mention": mention}
    yield Corpus, vars(corpus())
    yield corpus().head, {"words": 1}
    yield corpus().sample, {"words": 1, "seed": 1}
    yield corpus().where, {"keep": lambda document: True}
    yield datasets.require_disjoint, {"corpora": {"train": corpus()}}
    pair = pairs().pairs[0]
    yield MinimalPair, {name: getattr(pair, name) for name in MinimalPair.__slots__}
    yield MinimalPairs, vars(pairs())
    yield pairs().where, {"keep": lambda pair: True}
    yield pairs().sample, {"n": 1, "seed": 1}
    for controlled in (datasets.homographs, datasets.senses, datasets.modifiers):
        yield controlled, {"split": "dev"}
    yield datasets.pronouns, {"kind": "number", "split": "dev"}
    yield datasets.ioi, {**common, "corruption": "swap"}
    yield (
        datasets.agreement,
        {**common, "source": pairs(), "paradigms": ["simple_agrmt"]},
    )
    yield datasets.subject_verb, {**common, "structures": ["simple"]}
    yield datasets.greater_than, common
    yield datasets.greater_probability, {"model": model}
    yield later_probability, {"model": model, "offset": 1}
    yield (
        datasets.pronoun_pairs,
        {**common, "kind": "number", "answer": "pronoun", "split": "all", "templates": None},
    )
    yield wordings, {"kind": "number", "answer": "pronoun"}
    yield datasets.running_text, {"model": model, "corpus": corpus(), "context": 8, "bos": "none"}
    rows = {"n": 2, "vocabulary": 12, "seed": 1, "block": (2, 3), "before": (0, 1), "bos": 0}
    yield datasets.repeated, {**rows, "pos": 9}
    yield datasets.repeated_pairs, rows
    yield (
        datasets.recall,
        {"n": 2, "vocabulary": 12, "pairs": 2, "pos": 8, "seed": 1, "power": 0.1},
    )
    yield datasets.lookup, {"n": 2, "vocabulary": 12, "pairs": 2, "query": "prefix", "seed": 1}


@pytest.mark.plain
def test_wrong_arguments_are_refused_in_words(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INTERP_DATA", str(tmp_path / "nothing"))
    path = tmp_path / "mine.tsv"
    path.write_text("He\tPRON\nsaw\tVERB\n")
    found = complaints(cases(model, path), tmp_path, hot=HOT)
    assert not found, "\n".join(found)
