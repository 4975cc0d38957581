"""Agreement prompts from minimal pairs: what is kept, what is dropped, and in what proportion."""

import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
from itertools import product

import pytest
from readers import WORD, Reader

import interp
from interp.core.door.door import ArgumentError
from interp.core.errors import CorpusError, PairsError
from interp.datasets.named.registry import corpus
from interp.datasets.readers.minimal import MinimalPairs, read_pairs
from interp.datasets.tasks.agreement import SUBJECT_VERB, agreement
from interp.models.bridge import tokens

SUBJECTS = {"sing": ("author", "pilot", "king"), "plur": ("authors", "pilots", "kings")}
VERBS = (("laughs", "laugh"), ("swims", "swim"), ("is", "are"))


class Words:
    """A tokenizer of whole words, but for some that are two tokens; unknown words are "<unk>"."""

    name = "words"

    def __init__(self, *, split: Sequence[str] = (), unknown: Sequence[str] = ()) -> None:
        self.split, self.unknown, self.known = split, unknown, ["<unk>"]

    def encode(self, text: str, *, bos: str = "model") -> list[int]:
        pieces = ["<s>"] if bos == "model" else []
        for word in text.split():
            pieces += [word[:2], word[2:]] if word in self.split else [word]
        return [self._id(piece) for piece in pieces]

    def _id(self, piece: str) -> int:
        if piece in self.unknown:
            return 0
        if piece not in self.known:
            self.known.append(piece)
        return self.known.index(piece)

    def token_id(self, text: str) -> int:
        raise AssertionError("agreement() asks for prompts and answers together")

    def show(self, ids: Sequence[int]) -> list[str]:
        return [self.known[i] for i in ids]


@pytest.fixture(scope="module")
def known() -> MinimalPairs:
    """Two templates, four conditions: 9 + 9 simple pairs, 27 + 27 with an attractor; one twice."""
    rows = []
    for number, verb in product(SUBJECTS, VERBS):
        good, bad = verb if number == "sing" else verb[::-1]
        for i, subject in enumerate(SUBJECTS[number]):
            row = {"template": "simple_agrmt", "condition": f"{number}_MS_MV"}
            rows.append(row | {"good": f"the {subject} {good}", "bad": f"the {subject} {bad}"})
            other = SUBJECTS["plur" if number == "sing" else "sing"]
            for attractor in (other[i - 1], other[i - 2], "guard"):
                start = f"the {subject} near the {attractor}"
                row = {"template": "prep_anim", "condition": f"{number}_MS_MV_ES"}
                rows.append(row | {"good": f"{start} {good}", "bad": f"{start} {bad}"})
    rows.append(rows[0])
    rows.append(
        {
            "template": "simple_reflexives",
            "condition": "x",
            "good": "a himself now",
            "bad": "a themselves now",
        }
    )
    return read_pairs("\n".join(map(json.dumps, rows)), name="by hand")


def test_prompts_end_before_the_word_that_agrees(known):
    model = Words()
    pairs = agreement(model, n=72, source=known)
    texts = [
        " ".join(model.show(row[:n].tolist()))
        for row, n in zip(pairs.clean, pairs.lengths.tolist(), strict=True)
    ]
    assert len(set(zip(texts, pairs.correct.tolist(), strict=True))) == 72
    for text, correct, wrong, cluster in zip(
        texts, pairs.correct.tolist(), pairs.wrong.tolist(), pairs.cluster, strict=True
    ):
        subject = text.split()[2]
        assert text.startswith("<s> the ")
        singular = subject in SUBJECTS["sing"]
        verb = next(v for v in VERBS if model.known[correct] in v)
        assert (model.known[correct], model.known[wrong]) == (verb if singular else verb[::-1])
        paradigm, condition, forms = cluster.split()
        assert paradigm == ("prep_anim" if "near" in text else "simple_agrmt")
        assert condition.startswith("sing" if singular else "plur")
        assert forms == "/".join(sorted(verb))
    assert pairs.clean.equal(pairs.corrupt)
    assert pairs.at("end").equal(pairs.lengths - 1)
    assert pairs.strings[0][0] == tuple(texts[0].split())


def test_conditions_come_equally_often(known):
    for n in (4, 7, 20):
        pairs = agreement(Words(), n=n, source=known)
        counts = Counter(tuple(cluster.split()[:2]) for cluster in pairs.cluster)
        assert len(counts) == 4
        assert max(counts.values()) - min(counts.values()) <= 1
    everything = Counter(c.split()[1] for c in agreement(Words(), n=72, source=known).cluster)
    assert everything == {
        "sing_MS_MV": 9,
        "plur_MS_MV": 9,
        "sing_MS_MV_ES": 27,
        "plur_MS_MV_ES": 27,
    }


def test_the_seed_decides_which(known):
    one, two, other = (agreement(Words(), n=12, source=known, seed=s).strings for s in (3, 3, 4))
    assert one == two != other


def test_words_of_several_tokens_are_dropped_and_counted(known, caplog):
    with caplog.at_level(logging.INFO, logger="interp"):
        pairs = agreement(Words(split=["laughs"], unknown=["are"]), n=24, source=known)
    assert {cluster.split()[2] for cluster in pairs.cluster} == {"swim/swims"}
    [said] = [record.message for record in caplog.records]
    found = re.match(
        r"agreement: (\d+) of (\d+) have words .*; the first is 'the \w+.*' -> '", said
    )
    dropped, tried = map(int, found.groups())
    assert tried - dropped == 24 and 0 < dropped <= 48


def test_too_few_are_refused_with_their_count(known):
    with pytest.raises(PairsError) as caught:
        agreement(Words(split=["laughs"], unknown=["are"]), n=25, source=known)
    assert caught.match(r"only 24 pairs of by hand \(simple_agrmt, prep_anim\) can be asked")
    assert caught.match(r"n=25: 48 of 72 have words that are not single tokens; the first is 'the")


def test_paradigms_are_chosen_by_name(known):
    pairs = agreement(Words(), n=10, source=known, paradigms=["simple_agrmt"])
    assert {cluster.split()[0] for cluster in pairs.cluster} == {"simple_agrmt"}
    reflexive = agreement(Words(), n=1, source=known, paradigms=["simple_reflexives"])
    assert reflexive.cluster == ("simple_reflexives x himself/themselves",)
    with pytest.raises(PairsError, match=r"no paradigm 'simple_agrmnt'; did you mean 'simple_agr"):
        agreement(Words(), source=known, paradigms=["simple_agrmnt"])


def test_beginning_of_sequence_is_the_callers_choice(known):
    assert agreement(Words(), n=3, source=known, bos="none").strings[0][0][0] == "the"


@pytest.mark.parametrize("bad", [{"n": 0}, {"n": 3, "seed": -1}])
def test_bad_numbers(known, bad):
    with pytest.raises(ArgumentError, match="takes a whole number of at least"):
        agreement(Words(), source=known, **bad)


class Reads(Reader):
    """A vocabulary of whole words."""

    def token_id(self, text: str) -> int:
        return tokens.token_id(self.tokenizer, text)


def test_prompts_with_a_word_that_is_not_in_the_vocabulary_are_left_out(known):
    """The model would read the unknown token there, as for any other such word."""
    words = {word for pair in known for word in f"{pair.good} {pair.bad}".split()}
    kept = words - {"pilot", "pilots"}
    model = Reads(WORD, ["the", *(f" {word}" for word in kept)])
    found = agreement(model, n=18, source=known)
    assert model.tokenizer.unk_token_id not in found.clean[found.mask]
    assert not any("pilot" in " ".join(clean) for clean, _ in found.strings)
    with pytest.raises(PairsError, match="'the pilot'"):
        agreement(model, n=70, source=known)


@pytest.mark.real
@pytest.mark.parametrize("source", ["lm-syneval", "blimp"])
def test_of_a_real_model(smollm, source):
    """SmolLM2 makes English verbs agree far more often than not, in every condition."""
    try:
        found = corpus(source)
    except CorpusError as error:
        pytest.skip(f"needs the corpus {source}: {error}")
    pairs = agreement(smollm, n=42, source=found)
    assert {c.split()[0] for c in pairs.cluster} == set(SUBJECT_VERB) & set(found.paradigms)
    table = interp.evaluate(smollm, pairs, metric="accuracy").query("position == 'clean'").summary()
    assert table["value"][0] > 0.65
    assert table["clusters"][0] > 12
    assert table["low"][0] > 0.5
