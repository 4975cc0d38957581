"""CoNLL-U: every odd case by hand, round trips of made sentences, and the facts of UD EWT."""

import lzma
import os
from collections import Counter
from itertools import pairwise
from pathlib import Path
from unicodedata import normalize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.core.errors import CorpusError
from interp.datasets.corpus import stem
from interp.datasets.readers.conllu import read_conllu


def row(id, form, *, lemma="_", upos="_", xpos="_", head="_", relation="_", misc="_") -> str:
    return "\t".join([str(id), form, lemma, upos, xpos, "_", str(head), relation, "_", misc])


def block(*lines: str) -> str:
    return "\n".join(lines) + "\n\n"


def read(text: str):
    return read_conllu(text, name="tiny")


def only(text: str):
    (sentence,) = read(text).sentences
    return sentence


def told(text: str) -> str:
    with pytest.raises(CorpusError) as caught:
        read_conllu(text, name="tiny", file="some/tiny.conllu")
    return str(caught.value)


# words and their characters


def test_words_annotation_and_characters():
    sentence = only(
        block(
            "# sent_id = s-1",
            "# text = Dogs bark.",
            row(1, "Dogs", lemma="dog", upos="NOUN", xpos="NNS", head=2, relation="nsubj"),
            row(
                2, "bark", lemma="bark", upos="VERB", xpos="VBP", head=0, relation="root"
            ).removesuffix("_")
            + "SpaceAfter=No",
            row(3, ".", lemma=".", upos="PUNCT", xpos=".", head=2, relation="punct"),
        )
    )
    assert (sentence.id, sentence.text) == ("s-1", "Dogs bark.")
    dogs, bark, stop = sentence.words
    assert (dogs.form, dogs.span, dogs.upos, dogs.xpos) == ("Dogs", (0, 4), "NOUN", "NNS")
    assert (dogs.lemma, dogs.head, dogs.relation) == ("dog", 1, "nsubj")
    assert (bark.head, stop.head, stop.span) == (-1, 1, (9, 10))


def test_a_multiword_token_that_its_words_spell():
    sentence = only(
        block(
            "# text = I don't!",
            row(1, "I"),
            row("2-3", "don't", misc="SpaceAfter=No"),
            row(2, "do"),
            row(3, "n't"),
            row(4, "!"),
        )
    )
    assert sentence.text == "I don't!"
    assert [w.span for w in sentence.words] == [(0, 1), (2, 4), (4, 7), (7, 8)]


def test_a_multiword_token_that_its_words_do_not_spell():
    sentence = only(block(row("1-2", "du"), row(1, "de"), row(2, "le"), row(3, "pain")))
    assert sentence.text == "du pain"
    assert [w.span for w in sentence.words] == [(0, 2), (0, 2), (3, 7)]


def test_multiword_tokens_side_by_side_and_at_the_end():
    text = block(
        row("1-2", "can't"), row(1, "ca"), row(2, "n't"), row("3-4", "won't"), row(3, "wo"),
        row(4, "n't", misc="SpaceAfter=No"),
    )  # fmt: skip
    assert only(text).text == "can't won't"  # the word's own SpaceAfter says nothing
    assert [w.span for w in only(text).words] == [(0, 2), (2, 5), (6, 8), (8, 11)]


def test_empty_nodes_are_left_out_and_indices_stay():
    sentence = only(
        block(
            row("0.1", "They"),
            row(1, "ran", head=0),
            row(2, "and", head=3),
            row(3, "we", head=1),
            row("3.1", "ran"),
            row("3.2", "too"),
            row(4, "fell", head=3),
        )
    )
    assert [w.form for w in sentence.words] == ["ran", "and", "we", "fell"]
    assert [w.head for w in sentence.words] == [-1, 2, 0, 2]
    assert sentence.text == "ran and we fell"


@pytest.mark.parametrize(
    ("given", "lemmas"),
    [
        (["_", "_"], [None, None]),  # a file without lemmas
        (["_", "y"], ["_", "y"]),
        (["underscore", "_"], ["underscore", None]),
    ],
)
def test_an_underscore_is_a_word_where_it_is_the_form(given, lemmas):
    first, second = given
    corpus = read(block(row(1, "_", lemma=first)) + block(row(1, "x", lemma=second)))
    assert [w.form for s in corpus.sentences for w in s.words] == ["_", "x"]
    assert [w.lemma for s in corpus.sentences for w in s.words] == lemmas
    assert ("lemma" in corpus.layers) == any(lemmas)


def test_words_split_in_error_are_words():
    sentence = only(
        block(
            row(1, "with", upos="ADP", xpos="IN", head=0, relation="root"),
            row(2, "out", upos="X", xpos="GW", head=1, relation="goeswith"),
        )
    )
    assert [(w.upos, w.relation) for w in sentence.words] == [("ADP", "root"), ("X", "goeswith")]
    assert sentence.text == "with out"


def test_other_spacing_facts_are_not_mistaken_for_spaceafter():
    text = block(row(1, "a", misc="CorrectSpaceAfter=No|Gloss=b=c"), row(2, "b", misc="X=Y"))
    assert only(text).text == "a b"


def test_text_that_disagrees_is_rebuilt_and_counted():
    corpus = read(block("# text = Hi  there", row(1, "Hi"), row(2, "there")) + block(row(1, "a")))
    assert [s.text for s in corpus.sentences] == ["Hi there", "a"]
    assert corpus.source["text differs"] == "1"


def test_layers_are_what_is_annotated():
    assert read(block(row(1, "a"))).layers == frozenset()
    assert read(block(row(1, "a", upos="X"), row(2, "b"))).layers == {"upos"}
    full = block(row(1, "a", lemma="a", upos="X", xpos="Y", head=0, relation="root"))
    assert read(full).layers == {"upos", "xpos", "lemma", "head", "relation"}


# documents


def test_documents_and_sentences_without_one():
    one = block(row(1, "a"))
    text = one + one + "# newdoc id = x\n" + one + one + "# newdoc\n# newpar\n" + one
    corpus, begin = read(text), stem("tiny", text)
    assert [(d.id, len(d.sentences)) for d in corpus.documents] == [
        (f"{begin}-0", 1),
        (f"{begin}-1", 1),
        ("x", 2),
        (f"{begin}-3", 1),
    ]
    assert [s.id for s in corpus.documents[2].sentences] == ["x-0", "x-1"]


def test_lines_of_windows_and_blank_lines():
    text = "\r\n\r\n" + block(row(1, "a"), row(2, "b")).replace("\n", "\r\n") + "\r\n" + row(1, "c")
    assert [s.text for s in read(text).sentences] == ["a b", "c"]


# mentions

GUM = "# global.Entity = GRP-etype-infstat-centering-minspan-link-identity"


def test_entity_brackets_nested_one_word_and_concatenated():
    corpus = read(
        block(
            "# newdoc id = d",
            GUM,
            row(
                1, "The", upos="DET", misc="Entity=(1-person-new-cf1-2-coref(2-place-new-cf2-1-sgl)"
            ),
            row(2, "girl", upos="NOUN"),
            row(3, "from", upos="ADP"),
            row(4, "Paris", upos="PROPN", misc="Entity=(3-place-acc:inf-cf3-1-sgl-Paris)1)"),
            row(5, "and", upos="CCONJ"),
            row(6, "he", upos="PRON", misc="SpaceAfter=No|Entity=(4-person-giv:act-cf1-1-ana)"),
        )
        + block(row(1, "she", upos="PRON", misc="Entity=(1-person-giv:act-cf1*-1-ana)")),
    )
    (document,) = corpus.documents
    assert [(m.sentence, m.words, m.chain, m.head, m.kind) for m in document.mentions] == [
        (0, (0, 4), "1", 1, "nominal"),
        (0, (0, 1), "2", 0, "nominal"),
        (0, (3, 4), "3", 3, "proper"),
        (0, (5, 6), "4", 5, "pronoun"),
        (1, (0, 1), "1", 0, "pronoun"),
    ]
    assert [document.text(m) for m in document.chains["1"]] == ["The girl from Paris", "she"]
    assert "mentions" in corpus.layers


def test_the_head_is_the_word_of_minspan_that_the_syntax_puts_highest():
    text = block(
        "# global.Entity = GRP-etype-infstat-salience-centering-minspan-link-identity",
        row(1, "the", head=3, misc="Entity=(28-place-new-ns-cf2-2,3,5-coref"),
        row(2, "Swan", upos="PROPN", head=3),
        row(3, "Club", upos="PROPN", head=6),
        row(4, "in", upos="ADP", head=5),
        row(5, "Rome", upos="PROPN", head=3, misc="Entity=(32-place-new-ns-cf5-1-sgl-Rome)28)"),
        row(6, "burned", upos="VERB", head=0, misc="Entity=(33-event-new-ns-cf6-2-sgl"),
        row(7, "down", upos="ADV", head=6, misc="Entity=33)"),
    )
    club, rome, burned = read(text).documents[0].mentions
    assert [(m.words, m.head) for m in (club, rome)] == [((0, 5), 2), ((4, 5), 4)]
    assert (burned.words, burned.head) == ((5, 7), 6)  # minspan alone says so


def test_without_syntax_the_head_is_the_first_of_minspan_and_identities_may_have_hyphens():
    text = block(
        GUM,
        row(1, "big", upos="ADJ", misc="Entity=(7-person-giv:inact-cf4-2,4-coref-Jean-Luc_A-B"),
        row(2, "Ann", upos="PROPN"),
        row(3, "and", upos="CCONJ"),
        row(4, "Bob", upos="PROPN", misc="Entity=7)"),
    )
    (mention,) = read(text).documents[0].mentions
    assert (mention.words, mention.head, mention.kind) == ((0, 4), 1, "proper")


def test_corefud_fields_empty_nodes_and_a_head_by_syntax():
    corpus = read(
        block(
            "# global.Entity = eid-etype-head-other",
            "# newdoc id = d",
            row("0.1", "_", misc="Entity=(z--1)"),
            row("0.2", "_", misc="Entity=(c1--2"),
            row(1, "Eve", upos="PROPN", head=2, misc="Entity=c1)(c2"),
            row(2, "ran", upos="VERB", head=0),
            row(3, "home", upos="NOUN", head=2, misc="Entity=c2)"),
        )
    )
    (document,) = corpus.documents
    assert [(m.words, m.chain, m.head, m.kind) for m in document.mentions] == [
        ((0, 1), "c1", 0, "proper"),  # its empty node has no word; "z" is nothing but one
        ((0, 3), "c2", 1, "nominal"),
    ]


def test_a_chain_inside_itself():
    text = block(
        "# global.Entity = eid",
        row(1, "a", misc="Entity=(5(5"),
        row(2, "b", misc="Entity=5)"),
        row(3, "c", misc="Entity=5)"),
    )
    assert [m.words for m in read(text).documents[0].mentions] == [(0, 3), (0, 2)]


@pytest.mark.parametrize("misc", ["NamedEntity=Yes", "Entity=", "A=b|XEntity=(1)", "Entity=|A=b"])
def test_keys_that_end_alike_and_empty_values_are_no_mentions(misc):
    corpus = read(block(row("1-2", "ab", misc=misc), row(1, "a", misc=misc), row(2, "b")))
    assert corpus.layers == frozenset() and not corpus.documents[0].mentions
    real = block("# global.Entity = eid", row(1, "a", misc="NamedEntity=(n)|Entity=(e)"))
    assert [m.chain for m in read(real).documents[0].mentions] == ["e"]


# what is refused


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["expected sentences", "none"]),
        ("1\ta\tb\n", ["line 1", "10 columns", "3"]),
        (block(row(1, "a")) + block("# x", row(1, "a"), row(2, "b") + "\tc"), ["line 5", "11"]),
        (row(1, "a").replace("\t", "    "), ["line 1", "one tab", "1:"]),
        (row(1, "a  b"), ["line 1", "more than one space", "a  b"]),
        (row(1, ""), ["line 1", "an empty column"]),
        ("# text = a\n\n", ["line 1", "comments alone"]),
        (row(1, "a") + "\n" + row("x", "b"), ["line 2", "ID", "'x'"]),
        (row("_", "a"), ["line 1", "word 1", "no ID"]),
        (row(1, "a", head="two"), ["line 1", "HEAD", "'two'"]),
        (row(1, "a") + "\n" + row(3, "b"), ["line 2", "word 2", "3 ('b')"]),
        (row(1, "a", head=1), ["line 1", "HEAD", "not the word itself", "found 1"]),
        (row(1, "a", head=2), ["line 1", "0 to 1", "found 2"]),
        (row("2-3", "ab") + "\n" + row(1, "a"), ["line 1", "begins at word 1", "2-3"]),
        (row("1-3", "ab") + "\n" + row(1, "a"), ["line 2", "up to 3", "1"]),
        (
            "\n".join([row("1-2", "ab"), row(1, "a"), row("2-3", "bc"), row(2, "b"), row(3, "c")]),
            ["line 3", "begins at word 3", "2-3"],
        ),
        (row("3-2", "ab"), ["line 1", "ID", "3-2"]),
        (row(1, "a") + "\n" + row("3.1", "b"), ["line 2", "empty node 1.1", "3.1"]),
        (
            ("# newdoc id = x\n" + block(row(1, "a"))) * 2,
            ["line 4", "document id of its own", "'x'"],
        ),
        (block(row(1, "a")) + "# x\n# newdoc id = \n" + row(1, "a"), ["line 4", "and an id"]),
        ("# newdoc id\n" + row(1, "a"), ["line 1", "and an id", "found '# newdoc id'"]),
        ("# newdoc =\n" + row(1, "a"), ["line 1", "`# newdoc` alone"]),
        (row(1, "a", misc="Entity=(1)"), ["line 1", "global.Entity", "None"]),
        ("# global.Entity = etype-GRP\n" + row(1, "a", misc="Entity=(1)"), ["line 2", "etype-GRP"]),
        (GUM + "\n" + row(1, "a", misc="Entity=(1-x"), ["line 2", "closing 1)"]),
        (GUM + "\n" + row(1, "a", misc="Entity=1)"), ["line 2", "opening (1"]),
        (GUM + "\n" + row(1, "a", misc="Entity=(1)junk"), ["line 2", "brackets", "(1)junk"]),
        (GUM + "\n" + row(1, "a", misc="Entity=(1-p-n-c-2-l)"), ["line 2", "1 to 1", "found 2"]),
        (
            GUM + "\n" + row("1-1", "a", misc="Entity=(1)") + "\n" + row(1, "a"),
            ["line 2", "at a word of the multiword token"],
        ),
    ],
)  # fmt: skip
def test_malformed_files_say_file_line_expected_and_found(text, parts):
    message = told(text)
    missing = [part for part in ["some/tiny.conllu", "expected", "found", *parts]
               if part not in message]  # fmt: skip
    assert not missing, f"{missing} not in: {message}"


# round trips

FORM = st.text("abÀé'-.#_“", min_size=1, max_size=4)


@st.composite
def sentences(draw):
    """Rows of a sentence, its text, and each word's form and characters."""
    rows, words, text, number = [], [], "", 0
    for _ in range(draw(st.integers(1, 6))):
        forms = draw(st.lists(FORM, min_size=1, max_size=3))
        surface = draw(FORM) if len(forms) > 1 and draw(st.booleans()) else "".join(forms)
        glued = draw(st.booleans())
        misc = draw(st.sampled_from(["SpaceAfter=No", "A=b|SpaceAfter=No"])) if glued else "_"
        if len(forms) > 1:
            rows.append(row(f"{number + 1}-{number + len(forms)}", surface, misc=misc))
        start = len(text)
        for form in forms:
            number += 1
            rows.append(row(number, form, misc=misc if len(forms) == 1 else "_"))
            end = start + len(form)
            spelled = surface == "".join(forms)
            words.append((form, (start, end) if spelled else (len(text), len(text) + len(surface))))
            start = end
            if draw(st.integers(0, 5)) == 0:
                rows.append(row(f"{number}.1", "gone"))
        text += surface + ("" if glued else " ")
    return rows, text.removesuffix(" "), words


@settings(max_examples=60, deadline=None)
@given(st.lists(sentences(), min_size=1, max_size=3))
def test_what_is_written_is_read(made):
    text = "".join(block(f"# text = {text}", *rows) for rows, text, _ in made)
    corpus = read(text)
    assert corpus.source["text differs"] == "0"
    for sentence, (_, whole, words) in zip(corpus.sentences, made, strict=True):
        assert sentence.text == whole
        assert [(w.form, w.span) for w in sentence.words] == words


# UD English-EWT

FACTS = {
    "train": (12_544, 204_577, 2_614, 37, 540, 131, 0),
    "dev": (2_001, 25_147, 359, 4, 318, 26, 0),
    "test": (2_077, 25_094, 354, 2, 316, 15, 1),
}


@pytest.mark.plain
@pytest.mark.parametrize("split", FACTS)
def test_ewt_has_its_published_counts_and_columns(published, split):
    corpus = published("ud-ewt", split)
    packed = Path(os.environ["INTERP_DATA"], "ud-ewt", f"en_ewt-ud-{split}.conllu.xz")
    lines = lzma.decompress(packed.read_bytes()).decode().split("\n")
    sentences, words, multiword, empty, documents, goeswith, differs = FACTS[split]
    assert len(corpus.documents) == documents
    assert len(corpus.sentences) == sentences
    assert corpus.n_words == words
    assert corpus.source["text differs"] == str(differs)
    # an oracle that knows nothing of the library: the columns of the lines
    columns = [line.split("\t") for line in lines if "\t" in line]
    assert sum("-" in c[0] for c in columns) == multiword
    assert sum("." in c[0] for c in columns) == empty
    flat = [w for s in corpus.sentences for w in s.words]
    plain = [c for c in columns if c[0].isdecimal()]
    assert [(w.form, w.upos, w.xpos, w.relation) for w in flat] == [
        (c[1], c[3], c[4], c[7]) for c in plain
    ]
    assert [w.head for w in flat] == [int(c[6]) - 1 for c in plain]
    given = [line.removeprefix("# text = ") for line in lines if line.startswith("# text = ")]
    unlike = sum(s.text != text for s, text in zip(corpus.sentences, given, strict=True))
    assert unlike == differs
    assert sum(w.relation == "goeswith" for w in flat) == goeswith
    assert len({w.upos for w in flat}) == 17
    assert len({w.xpos for w in flat}) in (48, 49)
    if split == "train":
        assert Counter(w.form for w in flat)["_"] == 5


@pytest.mark.plain
@pytest.mark.parametrize("split", FACTS)
def test_every_character_of_ewt_belongs_to_its_word(published, split):
    for sentence in published("ud-ewt", split).sentences:
        assert all(sentence.text[slice(*w.span)] == w.form for w in sentence.words)
        gaps = [sentence.text[a.span[1] : b.span[0]] for a, b in pairwise(sentence.words)]
        assert set(gaps) <= {"", " "}


# composed and decomposed characters


@pytest.mark.parametrize(
    ("surface", "forms", "spans"),
    [
        ("cafe\u0301s", ["café", "s"], [(0, 5), (5, 6)]),
        ("cafés", ["cafe\u0301", "s"], [(0, 4), (4, 5)]),
        ("e\u0301e\u0301", ["é", "e\u0301"], [(0, 2), (2, 4)]),
        ("한글이", [normalize("NFD", "한글"), "이"], [(0, 2), (2, 3)]),
        (normalize("NFD", "한글이"), ["한글", "이"], [(0, 6), (6, 8)]),
        ("a\u0323\u0307b", ["a\u0307\u0323", "b"], [(0, 3), (3, 4)]),  # marks in another order
        ("és", ["e", "\u0301s"], [(0, 2), (0, 2)]),  # no character of it is "e"
        ("cafe\u0301s", ["cafe", "s"], [(0, 6), (0, 6)]),  # another word
        ("Cafés", ["café", "s"], [(0, 5), (0, 5)]),
    ],
)
def test_multiword_tokens_however_their_characters_are_composed(surface, forms, spans):
    lines = [row(f"1-{len(forms)}", surface), *(row(i, f) for i, f in enumerate(forms, 1))]
    assert [w.span for w in only(block(*lines)).words] == spans
