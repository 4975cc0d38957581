"""Coreference columns in the manner of CoNLL-2012, such as LitBank's.

Columns: document, part, index in the sentence, word, part of speech or `_`, ..., and last the
mentions that open and close at the word. LitBank writes tabs and leaves the last column empty
where there is none; OntoNotes writes spaces and `-`. (Pradhan et al. 2012; Bamman et al. 2020)
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from interp.core.errors import CorpusError
from interp.datasets.corpus import Corpus, Document, Mention, Sentence, Word, annotated
from interp.datasets.readers.brackets import match
from interp.datasets.words.naming import head_of, kind_of
from interp.datasets.words.plain import join

_BEGIN, _END = "#begin document (", "#end document"
_Line = tuple[int, str]
"""Number in the file, contents."""
_Row = tuple[int, list[str]]
"""Number of the line in the file, columns."""


@dataclass
class _Part:
    """One document as it stands in the file."""

    id: str
    sentences: list[list[_Line]] = field(default_factory=lambda: [[]])


def read_coreference(
    text: str, *, name: str, file: str | None = None, source: Mapping[str, str] | None = None
) -> Corpus:
    """The documents of a CoNLL-2012 file, their mentions and chains.

    Mentions of different chains may cross; singletons are mentions like any other. Chain ids hold
    within a document. The text is the words with ordinary spaces (`plain.join`). Head and kind of
    a mention are by rule (`naming`): the columns have no syntax.

    Args:
        text: the file's contents; a tab at the end of a line is an empty last column.
        name: of the corpus.
        file: what errors call the file; the name where None.
        source: where the text comes from.

    Raises:
        CorpusError: file, line, what was expected, what stood there.
    """
    documents = tuple(_document(part, file or name) for part in _parts(text, file or name))
    if not documents:
        raise CorpusError(f"{file or name}: expected lines `{_BEGIN}...); part 0`; found none")
    return Corpus(name, documents, annotated(documents) | {"mentions"}, dict(source or {}))


def _parts(text: str, file: str) -> Iterator[_Part]:
    part: _Part | None = None
    seen: set[str] = set()
    number = 0
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.removesuffix("\r")  # but no tab: it stands before an empty column
        if line.startswith(_BEGIN):
            if part is not None:
                _refuse(file, number, f"{_END} of {part.id}", repr(line))
            document, _, rest = line.removeprefix(_BEGIN).rpartition(")")
            index = rest.rpartition(" ")[2].lstrip("0")
            part = _Part(f"{document}/{index}" if index else document)
            if not document or part.id in seen:
                expected = "a document name of its own in brackets"
                _refuse(file, number, expected, repr(line))
            seen.add(part.id)
        elif line.startswith(_END):
            if part is None or not any(part.sentences):
                _refuse(file, number, "sentences of a document before its end", "none")
            yield part
            part = None
        elif not line.strip():
            if part is not None and part.sentences[-1]:
                part.sentences.append([])
        elif part is None:
            _refuse(file, number, f"{_BEGIN}...); part 0", repr(line[:60]))
        else:
            part.sentences[-1].append((number, line))
    if part is not None:
        _refuse(file, number, f"{_END} of {part.id}", "the end of the file")


def _rows(part: _Part, file: str) -> list[list[_Row]]:
    """The columns of each sentence."""
    rows: list[list[_Row]] = []
    for lines in filter(None, part.sentences):
        wide: int | None = None  # OntoNotes has a column for each predicate of the sentence
        rows.append([])
        for index, (number, line) in enumerate(lines):
            columns = line.split("\t") if "\t" in line else line.split()
            if len(columns) < 5 or columns[2] != str(index) or not columns[3]:
                expected = f"document, part, {index}, word, ..., mentions with one tab between"
                _refuse(file, number, expected, f"{len(columns)} columns: {line[:60]!r}")
            wide = wide or len(columns)
            if len(columns) != wide:
                expected = f"{wide} columns as above (a tab at the end of a line counts)"
                _refuse(file, number, expected, f"{len(columns)}: {line[:60]!r}")
            rows[-1].append((number, columns))
    return rows


def _document(part: _Part, file: str) -> Document:
    rows = _rows(part, file)
    forms = [[columns[3] for _, columns in sentence] for sentence in rows]
    # capitalised though no sentence begins with them
    names = {form for sentence in forms for form in sentence[1:] if form[0].isupper()}
    sentences = [_sentence(f"{part.id}-{i}", sentence) for i, sentence in enumerate(rows)]
    mentions = [
        mention
        for i, (sentence, words) in enumerate(zip(rows, forms, strict=True))
        for mention in _mentions(i, sentence, words, names, file)
    ]
    return Document(part.id, tuple(sentences), tuple(mentions))


def _sentence(id: str, rows: Sequence[_Row]) -> Sentence:
    text, spans = join([columns[3] for _, columns in rows])
    words = (
        Word(columns[3], span, xpos=columns[4] if columns[4] not in ("", "_", "-") else None)
        for (_, columns), span in zip(rows, spans, strict=True)
    )
    return Sentence(id, text, tuple(words))


def _mentions(
    index: int, rows: Sequence[_Row], forms: Sequence[str], names: Collection[str], file: str
) -> Iterator[Mention]:
    try:
        brackets = match(["" if columns[-1] == "-" else columns[-1] for _, columns in rows])
    except ValueError as error:
        place, expected, found = error.args
        _refuse(file, rows[place][0], f"in the last column {expected}", found)
    for bracket in brackets:
        start, end = bracket.span
        inside = forms[start:end]
        head = head_of(inside)
        kind = kind_of(inside, head, starts=start == 0, names=names)
        yield Mention(index, bracket.span, bracket.id, start + head, kind)


def _refuse(file: str, line: int, expected: str, found: str) -> NoReturn:
    raise CorpusError(f"{file}, line {line}: expected {expected}; found {found}")
