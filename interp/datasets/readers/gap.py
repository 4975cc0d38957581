"""GAP: who a pronoun of a Wikipedia passage refers to, of two names. (Webster et al. 2018)

A row is a document of one sentence: a row of the alignment is then the whole passage, and the
pronoun sees both names. Its mentions are the pronoun and the names A and B, in the order of the
text; `roles` tells which is which.
"""

import csv
from collections.abc import Mapping
from io import StringIO
from itertools import combinations

from interp.core.errors import CorpusError
from interp.datasets.corpus import Corpus, Document, Mention, Sentence, Span
from interp.datasets.words.naming import GENDER, head_of
from interp.datasets.words.plain import is_edge, split

COLUMNS = (
    "ID",
    "Text",
    "Pronoun",
    "Pronoun-offset",
    "A",
    "A-offset",
    "A-coref",
    "B",
    "B-offset",
    "B-coref",
    "URL",
)
_OFFSETS = (
    "Likely the offsets count bytes or UTF-16 units, or are those of another text: "
    "give the number of characters before it"
)
_PRONOUNS = [pronoun for pronoun in GENDER if not pronoun.endswith("self")]


def read_gap(
    text: str, *, name: str, file: str | None = None, source: Mapping[str, str] | None = None
) -> Corpus:
    """The passages of a GAP file.

    Chains: "A" and "B" for the names; the pronoun is in that of the name it refers to, or in
    "neither". Facts of a document: "label" ("A", "B", "neither"), "gender" of the pronoun
    ("masculine", "feminine"), and "page", the address of the Wikipedia article. The task forbids
    the use of the page in an answer.

    Offsets count characters. What they point to begins and ends where a word does, or at an
    apostrophe or stop in one ("Ann" of "Ann's"); no two of the three are at the same place.

    Args:
        text: the file's contents; blank lines are nothing.
        name: of the corpus.
        file: what errors call the file; the name where None.
        source: where the text comes from.

    Raises:
        CorpusError: file, line, what was expected, what stood there.
    """
    where = file or name
    rows = csv.reader(StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    header = next(rows, [])
    if tuple(header) != COLUMNS:
        raise _error(where, 1, f"the columns {', '.join(COLUMNS)}", ", ".join(header) or "nothing")
    documents: dict[str, Document] = {}
    for line, row in enumerate(rows, 2):
        if len(row) < 2 and not "".join(row).strip():
            continue
        if len(row) != len(COLUMNS):
            raise _error(where, line, f"{len(COLUMNS)} columns with one tab between", str(len(row)))
        document = _document(dict(zip(COLUMNS, row, strict=True)), where, line)
        if document.id in documents:
            raise _error(where, line, "an ID of its own", repr(document.id))
        documents[document.id] = document
    if not documents:
        raise _error(where, 2, "a passage", "the end of the file")
    return Corpus(name, tuple(documents.values()), frozenset({"mentions"}), dict(source or {}))


def roles(document: Document) -> tuple[Mention, Mention, Mention]:
    """The pronoun, A and B of a passage.

    Raises:
        CorpusError: the document is not one of GAP.
    """
    found = {"pronoun" if m.kind == "pronoun" else m.chain: m for m in document.mentions}
    if found.keys() != {"pronoun", "A", "B"} or len(document.mentions) != 3:
        raise CorpusError(
            f"document {document.id!r} has no pronoun with two names A and B: it is not one of GAP"
        )
    return found["pronoun"], found["A"], found["B"]


def _document(row: Mapping[str, str], file: str, line: int) -> Document:
    text = row["Text"]
    spans = {role: _span(row, role, file, line) for role in ("Pronoun", "A", "B")}
    if (pronoun := row["Pronoun"].lower()) not in _PRONOUNS:
        raise _error(file, line, f"a pronoun of {', '.join(_PRONOUNS)}", repr(row["Pronoun"]))
    for one, other in combinations(spans, 2):
        if spans[one] == spans[other]:
            both = f"both are {row[one]!r} at character {spans[one][0]}"
            raise _error(file, line, f"{one} and {other} at places of their own", both)
    label = _label(row, file, line)
    words = split(text, [edge for span in spans.values() for edge in span])
    first = {word.span[0]: i for i, word in enumerate(words)}
    last = {word.span[1]: i for i, word in enumerate(words)}
    mentions: list[Mention] = []
    for role, (start, end) in spans.items():
        inside = (first[start], last[end] + 1)
        head = inside[0] + head_of([word.form for word in words[slice(*inside)]])
        chain, kind = (label, "pronoun") if role == "Pronoun" else (role, "proper")
        mentions.append(Mention(0, inside, chain, head, kind))
    mentions.sort(key=lambda m: (m.words[0], -m.words[1]))
    facts = {"label": label, "gender": GENDER[pronoun], "page": row["URL"]}
    return Document(row["ID"], (Sentence(row["ID"], text, words),), tuple(mentions), facts)


def _span(row: Mapping[str, str], role: str, file: str, line: int) -> Span:
    """Characters of a role, checked against what stands there."""
    text, named, offset = row["Text"], row[role], row[f"{role}-offset"]
    if not (offset.isascii() and offset.isdecimal()):
        raise _error(file, line, f"a number in {role}-offset", repr(offset))
    start, end = int(offset), int(offset) + len(named)
    expected, found = f"{role} {named!r} at character {start}", repr(text[start:end])
    if not named or text[start:end] != named or named != named.strip():
        raise _error(file, line, expected, f"{found}. {_OFFSETS}")
    if not (is_edge(text, start) and is_edge(text, end)):
        inside = f"it inside a word, {text[max(start - 12, 0) : end + 12]!r}"
        raise _error(file, line, expected, f"{inside}. {_OFFSETS}")
    return start, end


def _label(row: Mapping[str, str], file: str, line: int) -> str:
    given = (row["A-coref"], row["B-coref"])
    labels = {("TRUE", "FALSE"): "A", ("FALSE", "TRUE"): "B", ("FALSE", "FALSE"): "neither"}
    if given not in labels:
        raise _error(file, line, "TRUE or FALSE in A-coref and B-coref, not both TRUE", repr(given))
    return labels[given]


def _error(file: str, line: int, expected: str, found: str) -> CorpusError:
    return CorpusError(f"{file}, line {line}: expected {expected}; found {found}")
