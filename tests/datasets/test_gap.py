"""GAP: offsets, labels and roles by hand, and the published counts."""

from collections import Counter

import pytest

from interp.core.errors import CorpusError
from interp.datasets.readers.conllu import read_conllu
from interp.datasets.readers.gap import COLUMNS, read_gap, roles

TEXT = "Ann-Marie O'Neil's aunt ``met'' Bob. She left (her home)."
ROW = {
    "ID": "t-1",
    "Text": TEXT,
    "Pronoun": "She",
    "Pronoun-offset": "37",
    "A": "Ann-Marie O'Neil",
    "A-offset": "0",
    "A-coref": "TRUE",
    "B": "Bob",
    "B-offset": "32",
    "B-coref": "FALSE",
    "URL": "http://x",
}


def tsv(*rows: dict[str, str]) -> str:
    return "\n".join("\t".join(line) for line in [COLUMNS, *(r.values() for r in rows)]) + "\n"


def read(**changes: str):
    return read_gap(tsv(ROW | changes), name="tiny").documents[0]


@pytest.mark.parametrize(
    ("a", "b", "label", "together"),
    [
        ("TRUE", "FALSE", "A", ["Ann-Marie O'Neil", "She"]),
        ("FALSE", "TRUE", "B", ["Bob", "She"]),
        ("FALSE", "FALSE", "neither", ["She"]),
    ],
)
def test_the_pronoun_is_in_the_chain_of_its_name(a, b, label, together):
    document = read(**{"A-coref": a, "B-coref": b})
    assert dict(document.facts) == {"label": label, "gender": "feminine", "page": "http://x"}
    pronoun, first, second = roles(document)
    assert [document.text(m) for m in (pronoun, first, second)] == [
        "She",
        "Ann-Marie O'Neil",
        "Bob",
    ]
    assert [document.text(m) for m in document.chains[label]] == together
    assert (pronoun.kind, first.kind, second.kind) == ("pronoun", "proper", "proper")


def test_a_passage_is_one_sentence_whose_words_respect_the_mentions():
    document = read(**{"A": "Ann", "B": "Neil"} | {"B-offset": "12"})
    (sentence,) = document.sentences
    assert sentence.text == TEXT
    assert [w.form for w in sentence.words][:6] == ["Ann", "-", "Marie", "O", "'", "Neil"]
    assert [document.text(m) for m in document.mentions] == ["Ann", "Neil", "She"]
    assert [w.form for w in sentence.words if "`" in w.form] == ["``"]


def test_blank_lines_are_nothing_and_are_counted():
    corpus = read_gap(
        tsv(ROW, ROW | {"ID": "t-2"}).replace("\nt-2", "\n\nt-2") + "\n  \n", name="t"
    )
    assert [d.id for d in corpus.documents] == ["t-1", "t-2"]
    with pytest.raises(CorpusError, match="line 4: expected an ID of its own"):
        read_gap(tsv(ROW) + "\n" + tsv(ROW).partition("\n")[2], name="t")


def test_a_name_inside_a_name():
    document = read(**{"B": "Neil", "B-offset": "12"})
    assert [document.text(m) for m in document.mentions] == ["Ann-Marie O'Neil", "Neil", "She"]


def test_quotes_are_characters():
    text = 'He "said. Bob " She'
    changes = {"Text": text, "A": "He", "B": "Bob", "B-offset": "10", "Pronoun-offset": "16"}
    assert read(**changes).sentences[0].text == text


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["line 1", "the columns ID, Text", "nothing"]),
        ("ID\tText\n", ["line 1", "found ID, Text"]),
        (tsv(), ["line 2", "a passage"]),
        (tsv(ROW).replace("\thttp://x", ""), ["line 2", "11 columns", "found 10"]),
        (tsv(ROW, ROW), ["line 3", "an ID of its own", "'t-1'"]),
        (tsv(ROW | {"A-offset": "1"}), ["line 2", 'A "Ann-Marie O\'Neil" at character 1', "nn-M"]),
        (tsv(ROW | {"B-offset": "-1"}), ["line 2", "a number in B-offset", "'-1'"]),
        (tsv(ROW | {"B": "", "B-offset": "3"}), ["line 2", "B '' at character 3"]),
        (tsv(ROW | {"B": "Bob. ", "B-offset": "32"}), ["line 2", "'Bob. ' at character 32"]),
        (tsv(ROW | {"B-coref": "TRUE"}), ["line 2", "not both TRUE", "('TRUE', 'TRUE')"]),
        (tsv(ROW | {"A-coref": "True"}), ["line 2", "TRUE or FALSE", "'True'"]),
        (
            tsv(ROW | {"Pronoun": "her home", "Pronoun-offset": "47"}),
            ["line 2", "a pronoun of he, him", "'her home'"],
        ),
    ],
)
def test_malformed_files(text, parts):
    with pytest.raises(CorpusError) as caught:
        read_gap(text, name="tiny", file="some/gap.tsv")
    message = str(caught.value)
    missing = [p for p in ("some/gap.tsv", "expected", "found", *parts) if p not in message]
    assert not missing, f"{missing} not in: {message}"


MOTHER = {"Text": "Ann's mother Bo said her dog", "A": "Ann", "A-offset": "0", "B": "Bo"}
MOTHER |= {"B-offset": "13", "Pronoun": "her", "Pronoun-offset": "21"}


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"Pronoun-offset": "9"}, ["Pronoun 'her' at character 9", '"Ann\'s mother Bo said her"']),
        (
            {
                "Text": "Boris, Ann, Bo her",
                "B-offset": "0",
                "A-offset": "7",
                "Pronoun-offset": "15",
            },
            ["B 'Bo'", "'Boris"],
        ),
        ({"Text": "Ann, Bo and herself", "B-offset": "5", "Pronoun-offset": "12"}, ["herself"]),
        ({"Text": "Ann, Bo\u0301 her", "B-offset": "5", "Pronoun-offset": "9"}, ["B 'Bo'"]),
        (
            {"Text": "Joann, Bo, her", "A": "ann", "A-offset": "2", "B-offset": "7"}
            | {"Pronoun-offset": "11"},
            ["A 'ann'"],
        ),
        ({"Text": "Ann, Bo, her_dog", "B-offset": "5", "Pronoun-offset": "9"}, ["her_dog"]),
    ],
)
def test_offsets_inside_a_word_are_refused_with_the_likely_cause(changes, parts):
    with pytest.raises(CorpusError) as caught:
        read(**MOTHER | changes)
    message = str(caught.value)
    wanted = ["tiny, line 2: expected", "found it inside a word", "bytes or UTF-16 units", *parts]
    assert not [p for p in wanted if p not in message], message


@pytest.mark.parametrize("unit", ["utf-8", "utf-16-le"])
def test_offsets_in_other_units_are_refused_with_the_likely_cause(unit):
    text = "👍🏽 Ann's aunt Bo said her dog"
    size = 2 if unit == "utf-16-le" else 1

    def at(word: str, unit: str | None) -> str:
        before = text[: text.index(word)]
        return str(len(before) if unit is None else len(before.encode(unit)) // size)

    def row(unit: str | None) -> dict[str, str]:
        offsets = {"Pronoun": "her", "A": "Ann", "B": "Bo"}
        return MOTHER | {"Text": text} | {f"{r}-offset": at(w, unit) for r, w in offsets.items()}

    document = read(**row(None))
    assert [document.text(m) for m in document.mentions] == ["Ann", "Bo", "her"]
    with pytest.raises(CorpusError, match="bytes or UTF-16 units"):
        read(**row(unit))


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"B": "Ann", "B-offset": "0"}, "A and B at places of their own; found both are 'Ann' at"),
        ({"B": "her", "B-offset": "21"}, "Pronoun and B at places of their own; found both are"),
    ],
)
def test_two_at_one_place_are_refused(changes, found):
    with pytest.raises(CorpusError, match=f"tiny, line 2: expected {found}"):
        read(**MOTHER | changes)
    assert len(read(**MOTHER).mentions) == 3


def test_names_in_scripts_without_spaces():
    changes = {"Text": "安倍は東京でher", "A": "安倍", "B": "東京", "B-offset": "3"}
    assert len(read(**MOTHER | changes | {"Pronoun-offset": "6"}).mentions) == 3


def test_other_documents_have_no_roles():
    other = read_conllu("1\ta\t_\t_\t_\t_\t_\t_\t_\t_\n", name="tiny").documents[0]
    with pytest.raises(CorpusError, match="tiny-.*-0.*not one of GAP"):
        roles(other)


@pytest.mark.plain
@pytest.mark.parametrize(
    ("split", "labels"),
    [
        ("development", {"A": 874, "B": 925, "neither": 201}),
        ("validation", {"A": 187, "B": 205, "neither": 62}),
    ],
)
def test_gap_has_its_published_counts(published, split, labels):
    corpus = published("gap", split)
    assert Counter(d.facts["label"] for d in corpus.documents) == labels
    genders = Counter(d.facts["gender"] for d in corpus.documents)
    assert genders["masculine"] == genders["feminine"] == sum(labels.values()) / 2
    for document in corpus.documents:
        pronoun, a, b = roles(document)
        assert document.text(pronoun).lower() in ("he", "him", "his", "she", "her", "hers")
        assert (a.chain, b.chain, pronoun.chain) == ("A", "B", document.facts["label"])
        assert pronoun.head not in (a.head, b.head)
