"""Minimal pairs: where they differ, one prefix, both formats, and the published counts."""

import json
import lzma
import os
from collections import Counter
from pathlib import Path

import pytest

from interp.core.errors import CorpusError
from interp.datasets.readers.minimal import MinimalPair, MinimalPairs, read_pairs


def pair(good: str, bad: str, method: str = "one_prefix", bad2: str | None = None) -> MinimalPair:
    return MinimalPair("p-1", good, bad, "p", "c", method, bad2)


@pytest.mark.parametrize(
    ("good", "bad", "at", "asked"),
    [
        ("She helps herself.", "She helps himself.", ("herself", "himself"),
         ("She helps", "herself", "himself")),
        ("the cats laugh", "the cats laughs", ("laugh", "laughs"),
         ("the cats", "laugh", "laughs")),
        ("A niece hasn't left, Ann.", "A niece haven't left, Ann.", ("hasn't", "haven't"),
         ("A niece", "hasn't", "haven't")),
        ("That store, so.", "That stores, so.", ("store,", "stores,"),
         ("That", "store", "stores")),
        ("He is up.", "He up.", ("is", ""), None),
        ("Who saw it?", "What saw it?", ("Who", "What"), None),
        ("The dog is my dog", "The dog my dog is", ("is my dog", "my dog is"), None),
    ],
)  # fmt: skip
def test_where_two_sentences_differ(good, bad, at, asked):
    made = pair(good, bad)
    assert tuple(s[slice(*span)] for s, span in zip((good, bad), made.differs, strict=True)) == at
    if asked:
        assert made.continuations() == asked


def test_pairs_that_do_not_hinge_on_one_word_are_refused():
    with pytest.raises(CorpusError, match="p-1.*'two_prefix'"):
        pair("These dogs.", "This dogs.", "two_prefix").continuations()
    with pytest.raises(CorpusError, match="p-1.*first word"):
        pair("Dogs bark.", "Dog bark.").continuations()


BLIMP = {
    "sentence_good": "Ann saw herself.",
    "sentence_bad": "Ann saw himself.",
    "UID": "anaphor",
    "linguistics_term": "binding",
    "pairID": "7",
    "one_prefix_method": True,
    "two_prefix_method": False,
    "one_prefix_prefix": "Ann saw",
    "one_prefix_word_good": "herself",
    "one_prefix_word_bad": "himself",
}
TEMPLATE = {"template": "npi", "condition": "sing", "good": "no cat ran", "bad": "the cat ran"}


def lines(*rows: dict) -> str:
    return "\n".join(map(json.dumps, rows)) + "\n"


def test_both_formats():
    two = BLIMP | {"one_prefix_method": False, "two_prefix_method": True, "pairID": "8"}
    whole = two | {"two_prefix_method": False, "pairID": "9"}
    pairs = read_pairs(lines(BLIMP, two, whole, TEMPLATE), name="tiny").pairs
    assert [p.id for p in pairs] == ["anaphor-7", "anaphor-8", "anaphor-9", "npi-4"]
    assert [p.method for p in pairs] == ["one_prefix", "two_prefix", "whole", "one_prefix"]
    assert (pairs[0].paradigm, pairs[0].condition) == ("anaphor", "binding")
    assert (pairs[3].paradigm, pairs[3].condition, pairs[3].bad2) == ("npi", "sing", None)


def test_templates_with_a_second_bad_sentence_or_more_words_are_whole():
    text = lines(TEMPLATE | {"bad2": "cat the ran"}, TEMPLATE | {"bad": "the cats ran"})
    first, second = read_pairs(text, name="tiny")
    assert (first.method, first.bad2) == ("whole", "cat the ran")
    assert (second.method, second.bad2) == ("whole", None)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("\n", ["pairs", "none"]),
        (lines(BLIMP) + "{not", ["line 2", "a JSON object", "{not"]),
        ("[1]", ["line 1", "a JSON object", "[1]"]),
        ("[" * 100_000 + "]" * 100_000, ["line 1", "a JSON object", "recursion"]),
        (lines({"sentence_good": "a"}), ["line 1", "sentence_bad, UID"]),
        (lines(TEMPLATE | {"bad": 3}), ["line 1", "text for", "none for bad"]),
        (lines(TEMPLATE | {"bad": "no cat ran"}), ["line 1", "differ", "'no cat ran'"]),
        (
            lines(BLIMP | {"one_prefix_prefix": "Ann heard"}),
            ["line 1", "'Ann heard herself'", "Ann saw herself."],
        ),
    ],
)
def test_malformed_files(text, parts):
    with pytest.raises(CorpusError) as caught:
        read_pairs(text, name="tiny", file="some/pairs.jsonl")
    message = str(caught.value)
    missing = [p for p in ("some/pairs.jsonl", "expected", "found", *parts) if p not in message]
    assert not missing, f"{missing} not in: {message}"


def test_samples_are_of_every_condition_and_repeat_with_the_seed():
    made = [pair(f"a{i}", f"b{i}") for i in range(20)] + [
        MinimalPair(f"q-{i}", f"a{i}", f"b{i}", "q", c, "whole") for c in "xy" for i in range(3)
    ]
    pairs = MinimalPairs("tiny", tuple(made))
    sample = pairs.sample(5, seed=1)
    assert Counter((p.paradigm, p.condition) for p in sample) == {
        ("p", "c"): 5,
        ("q", "x"): 3,
        ("q", "y"): 3,
    }
    assert sample == pairs.sample(5, seed=1) != pairs.sample(5, seed=2)
    assert [made.index(p) for p in sample] == sorted(made.index(p) for p in sample)


def test_where_keeps_or_refuses():
    pairs = read_pairs(lines(BLIMP, TEMPLATE), name="tiny")
    assert pairs.paradigms == ("anaphor", "npi")
    assert pairs.where(lambda p: p.paradigm == "npi").paradigms == ("npi",)
    with pytest.raises(CorpusError, match="no pair of tiny"):
        pairs.where(lambda p: False)


@pytest.mark.plain
def test_blimp_has_its_published_counts_and_prefixes(published):
    pairs = published("blimp")
    assert Counter(p.paradigm for p in pairs) == dict.fromkeys(pairs.paradigms, 1_000)
    assert len(pairs.paradigms) == 16
    rows = {}
    for file in Path(os.environ["INTERP_DATA"], "blimp").glob("*.jsonl.xz"):
        for line in lzma.decompress(file.read_bytes()).decode().splitlines():
            row = json.loads(line)
            rows[f"{row['UID']}-{row['pairID']}"] = row
    assert all(len(p.good.split(" ")) == len(p.bad.split(" ")) for p in pairs)
    for p in pairs:
        row = rows[p.id]
        assert (p.method == "one_prefix") == row["one_prefix_method"]
        assert (p.method == "two_prefix") == row["two_prefix_method"]
        if p.method == "one_prefix":
            prefix, good, bad = p.continuations()
            theirs = [row[f"one_prefix_word_{word}"] for word in ("good", "bad")]
            if " " not in "".join(theirs):  # else two words go on: "grocery store" / "... stores"
                assert [row["one_prefix_prefix"], *theirs] == [prefix, good, bad]
            else:
                assert prefix.startswith(row["one_prefix_prefix"])


def test_templates_have_their_published_counts(published):
    pairs = published("lm-syneval")
    assert Counter(p.paradigm for p in pairs) == {
        "simple_agrmt": 140,
        "sent_comp": 1_680,
        "vp_coord": 840,
        "simple_reflexives": 280,
        "prep_anim": 16_800,
        "subj_rel": 11_200,
    }
    assert len(pairs) == 30_940
    assert {p.method for p in pairs} == {"one_prefix"}
    for p in pairs.sample(20, seed=0):
        prefix, good, bad = p.continuations()
        assert good != bad and p.good.startswith(f"{prefix} {good}")
        assert p.bad.startswith(f"{prefix} {bad}")
