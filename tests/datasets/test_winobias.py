"""WinoBias: brackets, competitors and counterparts by hand, and the published facts."""

from collections import Counter

import pytest

from interp.core.errors import CorpusError
from interp.datasets.readers.winobias import counterparts, read_winobias

LISTS = {
    "female_occupations.txt": "nurse\nclerk",
    "male_occupations.txt": "worker\nconstruction worker\nphysician\nCEO\n",
}
PRO, ANTI = "pro_stereotyped_type1.txt.dev", "anti_stereotyped_type1.txt.dev"


def read(text: str, file: str = PRO, **others: str):
    return read_winobias(LISTS | {file: text} | others, name="tiny")


def only(line: str):
    (document,) = read(f"1 {line}\n").documents
    return document


def mentions(document) -> list[tuple[str, str, str | None]]:
    return [(document.text(m), m.chain, m.kind) for m in document.mentions]


def test_brackets_the_competitor_and_the_facts():
    document = only("[The CEO] met the nurse because [he] was ill.")
    assert document.sentences[0].text == "The CEO met the nurse because he was ill."
    assert mentions(document) == [
        ("The CEO", "referent", "nominal"),
        ("the nurse", "other", "nominal"),
        ("he", "referent", "pronoun"),
    ]
    assert [document.sentences[0].words[m.head].form for m in document.mentions] == [
        "CEO",
        "nurse",
        "he",
    ]
    assert dict(document.facts) == {
        "type": "1",
        "stereotype": "pro",
        "gender": "masculine",
        "pair": "type1-1",
    }


def test_the_longest_occupation_and_the_first():
    document = only("The construction worker saw [the nurse] and told [her] of a CEO.")
    assert mentions(document)[0] == ("The construction worker", "other", "nominal")
    assert [m.chain for m in document.mentions].count("other") == 1


def test_two_pronouns_of_one_entity():
    document = only("[The nurse] told the clerk that [she] lost [her] keys.")
    assert [text for text, chain, _ in mentions(document) if chain == "referent"] == [
        "The nurse",
        "she",
        "her",
    ]


@pytest.mark.parametrize(
    ("line", "text", "referent"),
    [
        ("The nurse asked the [the physician] for [him].", "the physician for", "the physician"),
        ("The nurse asked the [ physician] for [him].", "the physician for", "physician"),
        ("The [the physician] met [him], nurse.", "The physician met him, nurse.", "The physician"),
        ("The nurse fixed the [clerk] 's car for [him].", "the clerk 's car", "clerk"),
    ],
)
def test_slips_of_the_brackets(line, text, referent):
    document = only(line)
    assert text in document.sentences[0].text
    assert document.text(document.chains["referent"][0]) == referent


def test_a_sentence_without_another_occupation():
    assert [m.chain for m in only("[The nurse] said [she] slept.").mentions] == ["referent"] * 2


def test_counterparts_are_the_same_but_for_pronouns():
    pro = "1 [The nurse] met the CEO as [she] left.\n2 [The nurse] saw the CEO as [she] slept.\n"
    anti = "1 [The nurse] met the CEO as [he] left.\n2 [The nurse] saw the CEO as [he] sat.\n"
    corpus = read(pro, **{ANTI: anti})
    pairs = counterparts(corpus)
    assert [(p.id, a.id) for p, a in pairs] == [
        ("type1-pro-1", "type1-anti-1"),
        ("type1-pro-2", "type1-anti-2"),
    ]
    assert [p.facts["counterpart"] for p, _ in pairs] == ["same", "differs"]
    assert [a.facts["gender"] for _, a in pairs] == ["masculine", "masculine"]
    assert counterparts(read(pro)) == []


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[The nurse] said [she] slept.", ["line 1", "1, a space and a sentence"]),
        ("1 [The nurse] [she].\n3 [The CEO] [he].", ["line 2", "2, a space"]),
        ("1 [The nurse said [she] slept.", ["line 1", "brackets in pairs", "[The nurse said"]),
        ("1 [The nurse] said] [she] slept.", ["line 1", "brackets in pairs"]),
        ("1 [] said [she] slept.", ["line 1", "words in brackets"]),
        ("1 The nurse said [she] slept.", ["line 1", "one occupation"]),
        ("1 [The nurse] and [the CEO] slept.", ["line 1", "one occupation"]),
        ("1 [The nurse] said [she] saw [him].", ["line 1", "pronouns of one gender"]),
    ],
)
def test_malformed_lines(text, parts):
    with pytest.raises(CorpusError) as caught:
        read(text)
    message = str(caught.value)
    missing = [p for p in (PRO, "expected", "found", *parts) if p not in message]
    assert not missing, f"{missing} not in: {message}"


@pytest.mark.parametrize("missing", [*LISTS, PRO])
def test_a_missing_file_is_named(missing):
    texts = {k: v for k, v in (LISTS | {PRO: "1 [The nurse] [she]."}).items() if k != missing}
    with pytest.raises(CorpusError, match=missing):
        read_winobias(texts, name="tiny")


@pytest.mark.plain
def test_winobias_has_its_published_facts(published):
    corpus = published("winobias", "dev")
    kinds = Counter((d.facts["stereotype"], d.facts["type"]) for d in corpus.documents)
    assert kinds == dict.fromkeys([(s, t) for s in ("pro", "anti") for t in "12"], 396)
    brackets = Counter(
        (d.facts["stereotype"], d.facts["type"])
        for d in corpus.documents
        if len(d.chains["referent"]) == 3
    )
    assert brackets == {("pro", "1"): 9, ("anti", "1"): 9, ("pro", "2"): 6, ("anti", "2"): 6}
    assert all(len(d.chains["other"]) == 1 for d in corpus.documents)
    pairs = counterparts(corpus)
    assert len(pairs) == 792
    unlike = Counter(p.facts["type"] for p, _ in pairs if p.facts["counterpart"] == "differs")
    assert unlike == {"1": 2, "2": 6}  # a seventh of type 2 is the doubled article, mended
    assert all(p.facts["gender"] != a.facts["gender"] for p, a in pairs)
    assert not any("[" in s.text or "the the" in s.text.lower() for s in corpus.sentences)
