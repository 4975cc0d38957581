"""Coreference columns, homographs, a user's tags: odd cases by hand, and the published counts."""

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.core.errors import CorpusError
from interp.datasets.corpus import require_disjoint, stem
from interp.datasets.readers.brackets import match
from interp.datasets.readers.columns import read_homographs, read_tags
from interp.datasets.readers.coreference import read_coreference


def coref(name: str, *sentences: Sequence[tuple[str, str]]) -> str:
    lines = [f"#begin document ({name}); part 0"]
    for sentence in sentences:
        for i, (form, mentions) in enumerate(sentence):
            lines.append("\t".join([name, "0", str(i), form, *"________", mentions]))
        lines.append("")
    return "\n".join([*lines, "#end document", ""])


def told(read, text: str) -> str:
    with pytest.raises(CorpusError) as caught:
        read(text, name="tiny", file="some/tiny.conll")
    return str(caught.value)


def says(message: str, *parts: str) -> None:
    missing = [p for p in ("some/tiny.conll", "expected", "found", *parts) if p not in message]
    assert not missing, f"{missing} not in: {message}"


# brackets


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 7), st.data())
def test_brackets_are_read_as_they_are_written(places, data):
    ends = st.tuples(st.integers(0, places - 1), st.integers(0, places - 1))
    spans = [tuple(sorted(s)) for s in data.draw(st.lists(ends, max_size=5))]
    between = data.draw(st.sampled_from(["", "|"]))
    tags: list[list[str]] = [[] for _ in range(places)]
    for id, (start, last) in enumerate(spans):  # of different ids, so they may cross
        if start == last:
            tags[start].append(f"({id}-facts)")
        else:
            tags[start].append(f"({id}-facts")
            tags[last].insert(0, f"{id})")  # "(1-facts" + "2)" could not be told apart
    found = match([between.join(tag) for tag in tags])
    assert {(b.id, b.facts, b.span) for b in found} == {
        (str(id), "facts", (start, last + 1)) for id, (start, last) in enumerate(spans)
    }
    assert found == sorted(found, key=lambda b: (b.span[0], -b.span[1]))


# coreference


def test_mentions_nested_crossing_and_alone():
    corpus = read_coreference(
        coref(
            "d",
            [("Sir", "(0"), ("Walter", "0)"), (",", ""), ("his", "(0)|(1"), ("dog", "(2|1)"),
             ("'s", ""), ("tail", "2)")],
            [("He", "(0)"), ("barked", ""), (".", "")],
        ),
        name="tiny",
    )  # fmt: skip
    (document,) = corpus.documents
    assert [s.text for s in document.sentences] == ["Sir Walter, his dog's tail", "He barked."]
    assert [(m.sentence, m.words, m.chain, m.head, m.kind) for m in document.mentions] == [
        (0, (0, 2), "0", 1, "proper"),
        (0, (3, 5), "1", 4, "nominal"),
        (0, (3, 4), "0", 3, "pronoun"),
        (0, (4, 7), "2", 6, "nominal"),  # crosses "1"
        (1, (0, 1), "0", 0, "pronoun"),
    ]
    assert [document.text(m) for m in document.chains["0"]] == ["Sir Walter", "his", "He"]
    assert corpus.layers == {"mentions"}


def test_chains_hold_within_a_document():
    text = coref("a", [("x", "(0)")]) + "\n" + coref("b", [("y", "(0)")], [("z", "(0)")])
    corpus = read_coreference(text, name="tiny")
    assert [d.id for d in corpus.documents] == ["a", "b"]
    assert [len(d.chains["0"]) for d in corpus.documents] == [1, 2]


def test_columns_of_ontonotes():
    text = """#begin document (bc/cctv); part 001
bc/cctv   1   0   The    DT   (NP*   -   -   -   (12
bc/cctv   1   1   dog   NN    *)     -   -   -   12)

#end document
"""
    corpus = read_coreference(text, name="tiny")
    (document,) = corpus.documents
    assert document.id == "bc/cctv/1"
    assert [w.xpos for w in document.sentences[0].words] == ["DT", "NN"]
    assert [m.words for m in document.mentions] == [(0, 2)]


GOOD = coref("d", [("a", "(0)"), ("b", "")])


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["#begin document"]),
        ("x\ty\n", ["line 1", "#begin document", "'x\\ty'"]),
        (GOOD.replace("#end document\n", ""), ["#end document of d", "the end of the file"]),
        (GOOD + GOOD, ["line 6", "of its own", "(d)"]),
        (GOOD.replace("#end document\n", GOOD), ["line 5", "#end document of d"]),
        ("#begin document (d); part 0\n#end document", ["line 2", "sentences", "none"]),
        (GOOD.replace("\n\n", "\nd 0\n\n"), ["line 4", "document, part, 2", "2 columns"]),
        (GOOD.replace("\t1\tb", "\t7\tb"), ["line 3", "part, 1, word", "13 columns"]),
        (GOOD.replace("b\t_", "b"), ["line 3", "13 columns", "12", "tab at the end"]),
        (coref("d", [("a", "(0"), ("b", "")]), ["line 2", "last column", "closing 0)"]),
        (coref("d", [("a", ""), ("b", "0)")]), ["line 3", "last column", "opening (0"]),
        (coref("d", [("a", ""), ("b", "12")]), ["line 3", "brackets", "'12'"]),
    ],
)
def test_malformed_columns(text, parts):
    says(told(read_coreference, text), *parts)


@pytest.mark.plain
def test_litbank_has_its_published_counts(published):
    corpus = published("litbank")
    assert (len(corpus.documents), corpus.n_words) == (80, 167_931)
    chains = [len(chain) for d in corpus.documents for chain in d.chains.values()]
    assert sum(chains) == 23_122
    assert (sum(n > 1 for n in chains), sum(n == 1 for n in chains)) == (1_697, 4_558)
    assert all(s.text[slice(*w.span)] == w.form for s in corpus.sentences for w in s.words)
    for document in corpus.documents:
        at = [(m.sentence, m.words[0], -m.words[1]) for m in document.mentions]
        assert at == sorted(at)
        assert all(m.words[0] <= m.head < m.words[1] for m in document.mentions)
    kinds = Counter(m.kind for d in corpus.documents for m in d.mentions)
    assert kinds.keys() == {"pronoun", "proper", "nominal"}
    assert kinds["pronoun"] > kinds["nominal"] > kinds["proper"]


# homographs


def homograph(*words: tuple[str, str], page: str = "") -> str:
    lines = [f"# {page}"] if page else []
    for i, (form, label) in enumerate(words, 1):
        feats = "_" if label == "_" else f"POS={label}|fPOS={label}"
        lines.append("\t".join([str(i), form, "_", label, label, feats, "-1", "_", "_", "_"]))
    return "\n".join(lines) + "\n\n"


def test_one_annotated_word_and_pages():
    text = (
        homograph(("They", "_"), ("mark", "VERB"), page="http://a")
        + homograph(("#", "_"), ("mark", "NON-VERB"))
        + homograph(("Mark", "VERB"), ("it", "_"), page="http://a")
    )
    corpus = read_homographs(text, name="tiny")
    assert [(d.id, len(d.sentences)) for d in corpus.documents] == [
        ("http://a", 2),
        (f"{stem('tiny', text)}-1", 1),
    ]
    assert [w.upos for w in corpus.documents[1].sentences[0].words] == [None, "NON-VERB"]
    assert corpus.documents[1].sentences[0].text == "# mark"
    assert corpus.layers == {"upos"}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["sentences"]),
        ("1\ta\n", ["line 1", "10 columns", "2: "]),
        (homograph(("a", "VERB")).replace("1\ta", "2\ta"), ["line 1", "the first 1"]),
        (homograph(("a", "NOUN")), ["line 1", "NON-VERB", "NOUN"]),
        (homograph(("a", "VERB")).replace("fPOS=VERB", "fPOS=X"), ["line 1", "FEATS", "fPOS=X"]),
        (homograph(("a", "_"), page="p"), ["line 2", "one annotated word", "found 0"]),
        (homograph(("a", "VERB"), ("b", "VERB")), ["line 1", "one annotated word", "found 2"]),
    ],
)
def test_malformed_homographs(text, parts):
    says(told(read_homographs, text), *parts)


@pytest.mark.plain
def test_homographs_have_their_published_counts(published):
    corpus = published("noun-verb", "dev")
    assert len(corpus.sentences) == 2_367
    labels = Counter(w.upos for s in corpus.sentences for w in s.words if w.upos)
    assert labels == {"VERB": 1_571, "NON-VERB": 796}
    assert all(sum(w.upos is not None for w in s.words) == 1 for s in corpus.sentences)
    assert all(s.text[slice(*w.span)] == w.form for s in corpus.sentences for w in s.words)


# a user's tags


def test_a_users_words_and_tags():
    text = "I\tX\nsay\tY\n#\t_\n\n# newdoc id = b\na\tX\n\nb\tX\n\n# newdoc\n# other\nc\tX"
    corpus = read_tags(text, name="mine")
    assert [(d.id, len(d.sentences)) for d in corpus.documents] == [
        (f"{stem('mine', text)}-0", 1),
        ("b", 2),
        (f"{stem('mine', text)}-3", 1),
    ]
    assert [w.upos for w in corpus.sentences[0].words] == ["X", "Y", None]


def test_files_of_one_name_and_other_text_share_no_document():
    """train/en.tsv and test/en.tsv, in which no document is named."""
    train, test = (read_tags(f"{word}\tX\n\n# newdoc\na\tX", name="en") for word in "ab")
    assert not set(train.clusters) & set(test.clusters)
    require_disjoint({"train": train, "test": test})
    with pytest.raises(CorpusError, match="2 of 2 documents are in both"):
        require_disjoint({"train": train, "again": train})


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("\n", ["sentences"]),
        ("a\tX\nb Y\n", ["line 2", "a word, a tab and its tag", "'b Y'"]),
        ("a\tX\tY\n", ["line 1", "a\\tX\\tY"]),
        ("\tX\n", ["line 1", "\\tX"]),
        ("# newdoc id = b\na\tX\n\n# newdoc id = b\na\tX\n", ["line 4", "of its own", "'b'"]),
        ("# newdoc id = \na\tX\n", ["line 1", "and an id", "'# newdoc id = '"]),
        ("a\tX\n\n# newdoc id\nb\tX\n", ["line 3", "and an id", "'# newdoc id'"]),
        ("a\tX\nb\tX \n", ["line 2", "no spaces around", "'b\\tX '"]),
        ("a\tX\n b\tX\n", ["line 2", "no spaces around", "' b\\tX'"]),
        ("a \tX\n", ["line 1", "no spaces around"]),
        ("a\tX\n# newdoc id = b\nb\tX\n", ["line 2", "blank line before a comment", "newdoc"]),
    ],
)
def test_malformed_tags(text, parts):
    says(told(read_tags, text), *parts)
