"""One word a line: the noun/verb homographs of Elkahky et al. (2018), and a user's own tags.

A blank line ends a sentence. The text is the words with ordinary spaces (`plain.join`).
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from interp.core.door.door import door
from interp.core.errors import CorpusError
from interp.datasets.corpus import (
    Corpus,
    Document,
    Repeated,
    Sentence,
    Word,
    annotated,
    stem,
)
from interp.datasets.words.plain import join

_HOMOGRAPH = ("VERB", "NON-VERB")
_Line = tuple[int, str]
"""Line in the file, contents."""


def read_homographs(
    text: str, *, name: str, file: str | None = None, source: Mapping[str, str] | None = None
) -> Corpus:
    """Sentences with one annotated word each: `upos` is "VERB" or "NON-VERB", else None.

    The address in the comment before a sentence is its document: sentences of one page are one.

    Args:
        text: the file's contents, ten columns with one tab between.
        name: of the corpus.
        file: what errors call the file; the name where None.
        source: where the text comes from.

    Raises:
        CorpusError: file, line, what was expected, what stood there.
    """
    where, begin = file or name, stem(name, text)
    pages: dict[str, list[Sentence]] = {}
    for i, (comments, lines) in enumerate(_sentences(text, where)):
        words: list[tuple[str, str | None]] = []
        for index, (number, line) in enumerate(lines, 1):
            columns = line.split("\t")
            if len(columns) != 10 or columns[0] != str(index) or not columns[1]:
                expected = f"10 columns, the first {index}, with one tab between"
                raise _error(where, number, expected, f"{len(columns)}: {line[:60]!r}")
            label, *again = columns[3:6]
            if label not in (*_HOMOGRAPH, "_") or again != [
                label,
                "_" if label == "_" else f"POS={label}|fPOS={label}",
            ]:
                expected = "VERB, NON-VERB or _ in columns 4 and 5, and the same in FEATS"
                raise _error(where, number, expected, f"{columns[3:6]}")
            words.append((columns[1], None if label == "_" else label))
        labels = sum(label is not None for _, label in words)
        if labels != 1:
            raise _error(where, lines[0][0], "one annotated word in the sentence", str(labels))
        page = comments[0][1][2:].strip() if comments else f"{begin}-{i}"
        pages.setdefault(page, []).append(_sentence(f"{name}-{i}", words))
    return _corpus(pages, name, where, source)


@door
def read_tags(
    text: str,
    *,
    name: str,
    file: str | None = None,
    source: Mapping[str, str] | None = None,
    repeated: Repeated = "refuse",
) -> Corpus:
    """A user's own words and tags, `word<tab>tag` a line; the tags become `upos`.

    A comment `# newdoc` or `# newdoc id = ...` begins a document; a sentence before the first one
    is a document of its own. A tag `_` is none.

    Args:
        text: the file's contents.
        name: of the corpus.
        file: what errors call the file; the name where None.
        source: where the text comes from.
        repeated: what becomes of a document whose id an earlier one has: "refuse", or "join", its
            sentences are the earlier one's.

    Raises:
        CorpusError: file, line, what was expected, what stood there.
    """
    where, begin = file or name, stem(name, text)
    documents: dict[str, list[Sentence]] = {}
    id, named = "", False
    for i, (comments, lines) in enumerate(_sentences(text, where)):
        for number, comment in comments:
            key, _, value = comment[2:].partition("=")
            if key.strip() in ("newdoc", "newdoc id"):
                if not value.strip() and comment[2:].strip() != "newdoc":
                    expected = "`# newdoc` alone, or `# newdoc id = ` and an id"
                    raise _error(where, number, expected, repr(comment))
                id, named = value.strip() or f"{begin}-{i}", True
                if id in documents and repeated == "refuse":
                    remedy = "if both are parts of one, read the file with repeated='join'"
                    found = f"{id!r}, as of an earlier document; {remedy}"
                    raise _error(where, number, "a document id of its own", found)
        words: list[tuple[str, str | None]] = []
        for number, line in lines:
            columns = line.split("\t")
            if len(columns) != 2 or not all(columns):
                raise _error(where, number, "a word, a tab and its tag", repr(line[:60]))
            if any(column != column.strip() for column in columns):
                expected = "a word, a tab and its tag, no spaces around them"
                raise _error(where, number, expected, repr(line[:60]))
            words.append((columns[0], None if columns[1] == "_" else columns[1]))
        id = id if named else f"{begin}-{i}"
        documents.setdefault(id, []).append(_sentence(f"{id}-{len(documents.get(id, ()))}", words))
    return _corpus(documents, name, where, source)


def _sentences(text: str, file: str) -> Iterator[tuple[list[_Line], list[_Line]]]:
    """Comments and other lines of each sentence. A word may be "#": a comment has no tab."""
    comments: list[_Line] = []
    lines: list[_Line] = []
    for number, raw in enumerate(chain(text.split("\n"), [""]), 1):
        line = raw.removesuffix("\r")
        if line.startswith("# ") and "\t" not in line:
            if lines:  # of the sentence before, or of one whose blank line is missing
                raise _error(file, number, "a blank line before a comment", repr(line[:60]))
            comments.append((number, line))
        elif line.strip():
            lines.append((number, line))
        elif lines:
            yield comments, lines
            comments, lines = [], []


def _sentence(id: str, words: Sequence[tuple[str, str | None]]) -> Sentence:
    text, spans = join([form for form, _ in words])
    made = (Word(form, span, upos=tag) for (form, tag), span in zip(words, spans, strict=True))
    return Sentence(id, text, tuple(made))


def _corpus(
    documents: Mapping[str, Sequence[Sentence]],
    name: str,
    where: str,
    source: Mapping[str, str] | None,
) -> Corpus:
    if not documents:
        raise CorpusError(f"{where}: expected sentences, one word a line; found none")
    made = tuple(Document(id, tuple(sentences)) for id, sentences in documents.items())
    return Corpus(name, made, annotated(made), dict(source or {}))


def _error(file: str, line: int, expected: str, found: str) -> CorpusError:
    return CorpusError(f"{file}, line {line}: expected {expected}; found {found}")
