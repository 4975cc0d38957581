"""`Entity=` of CorefUD: discontinuous mentions are counted and left out, or refused."""

import logging

import pytest

from interp.core.door.door import ArgumentError
from interp.core.errors import CorpusError
from interp.datasets.readers.conllu import read_conllu

COUNT = "discontinuous mentions left out"


def corefud(*tags: str, id: str = "d") -> str:
    """A sentence of a document, with `Entity=` by word; an empty node where the tag begins so."""
    lines, words = [f"# newdoc id = {id}", "# global.Entity = eid-etype-head"], 0
    for tag in tags:
        empty = tag.startswith("~")
        words += not empty
        number = f"{words}.1" if empty else str(words)
        misc = f"Entity={tag.removeprefix('~')}" if tag.removeprefix("~") else "_"
        lines.append("\t".join([number, f"w{number}", *"_" * 7, misc]))
    return "\n".join(lines) + "\n\n"


def mentions(corpus) -> list[tuple[str, tuple[int, int]]]:
    return [(m.chain, m.words) for d in corpus.documents for m in d.mentions]


PARTED = ("(e1[1/2]-person-1", "e1[1/2])(e2-place-1)", "", "(e1[2/2]-person-1)", "(e1-person-1)")


def test_a_discontinuous_mention_is_left_out_and_the_rest_is_read(caplog):
    with caplog.at_level(logging.WARNING, logger="interp"):
        corpus = read_conllu(corefud(*PARTED), name="tiny")
    assert mentions(corpus) == [("e2", (1, 2)), ("e1", (4, 5))]
    assert corpus.source[COUNT] == "1"
    assert [r.message for r in caplog.records] == ["tiny: 1 discontinuous mentions are left out"]


@pytest.mark.parametrize(
    ("tags", "count"),
    [
        (("(e1[1/3])", "(e9)", "(e1[2/3])", "", "(e1[3/3])"), 1),
        (("(e1[1/2])(e2[1/2])", "(e9)", "(e1[2/2](e2[2/2]", "e1[2/2])e2[2/2])"), 2),
        (("(e1[1/2])(e1[1/2])", "(e9)", "(e1[2/2])(e1[2/2])"), 2),  # twice the same chain
        (("(e1[1/2]", "(e9)", "e1[1/2])", "", "(e1[2/2])"), 1),  # the other stands inside it
        (("(e1[1/2])", "~(e1[2/2])", "(e9)"), 1),
        (("(e9)", "", ""), 0),
    ],
)
def test_they_are_counted_once_each(tags, count, caplog):
    corpus = read_conllu(corefud(*tags) + corefud("(e1)", id="e"), name="tiny")
    assert [chain for chain, _ in mentions(corpus)] == ["e9", "e1"]
    assert corpus.source[COUNT] == str(count)
    assert bool(caplog.records) == bool(count)


def told(text: str, **options) -> str:
    with pytest.raises(CorpusError) as caught:
        read_conllu(text, name="tiny", file="some/tiny.conllu", **options)
    return str(caught.value)


def test_they_are_refused_on_demand_with_the_remedy():
    message = told(corefud(*PARTED), discontinuous="refuse")
    assert "some/tiny.conllu, line 3: expected mentions of words side by side" in message
    assert "'e1[1/2]'" in message and "discontinuous='skip'" in message
    whole = read_conllu(corefud("(e9)"), name="tiny", discontinuous="refuse")
    assert mentions(whole) == [("e9", (0, 1))]
    with pytest.raises(ArgumentError, match="did you mean 'skip'"):
        read_conllu(corefud(*PARTED), name="tiny", discontinuous="skp")


@pytest.mark.parametrize(
    ("tags", "parts"),
    [
        (("", "(e1[1/2])"), ["line 4", "each of the 2 parts of e1", "e1[1/2]"]),
        (("(e1[2/2])",), ["line 3", "each of the 2 parts of e1"]),
        (("(e1[1/2])", "(e1[2/3])"), ["line 3", "parts of e1", "e1[1/2], e1[2/3]"]),
        (("(e1[1/1])(e1[2/1])",), ["line 3", "parts of e1"]),
        (("(e1[x])",), ["line 3", "a part of a mention such as e1[1/2]", "'e1[x]'"]),
        (("(e1[1/2]", ""), ["line 3", "closing e1[1/2])"]),
    ],
)
def test_parts_that_do_not_fit_together(tags, parts):
    message = told(corefud(*tags))
    missing = [part for part in parts if part not in message]
    assert not missing, f"{missing} not in: {message}"


# documents of one id


def test_documents_of_one_id_are_refused_with_the_remedy_or_joined():
    text = corefud("(e1)", "", id="a") + corefud("(e1)", id="b") + corefud("", "(e1)", id="a")
    message = told(text)
    for part in ("line 10", "a document id of its own", "'a'", "repeated='join'"):
        assert part in message
    corpus = read_conllu(text, name="tiny", repeated="join")
    assert [(d.id, len(d.sentences)) for d in corpus.documents] == [("a", 2), ("b", 1)]
    first = corpus.documents[0]
    assert [(m.sentence, m.words) for m in first.chains["e1"]] == [(0, (0, 1)), (1, (1, 2))]
    assert [s.id for s in first.sentences] == ["a-0", "a-1"]
    assert corpus.clusters == ("a", "a", "b")


def test_joined_documents_go_on_where_they_are_named():
    """A sentence that names no document belongs to the last one named, new or not."""
    one = "1\tw\t_\t_\t_\t_\t_\t_\t_\t_\n\n"
    text = f"# newdoc id = a\n{one}# newdoc id = b\n{one}# newdoc id = a\n{one}{one}"
    corpus = read_conllu(text, name="tiny", repeated="join")
    assert [(d.id, len(d.sentences)) for d in corpus.documents] == [("a", 3), ("b", 1)]
