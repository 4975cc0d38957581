"""CoNLL-U: words with part of speech and dependencies, and `Entity=` coreference.

The `conllu` library reads the columns and comments of a sentence. This module adds what a probe
needs: characters of every word in the sentence's text, documents, mentions, and the line of what
is malformed. (https://universaldependencies.org/format.html)
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NoReturn
from unicodedata import normalize

from conllu.exceptions import ParseException
from conllu.parser import (
    DEFAULT_FIELD_PARSERS,
    DEFAULT_FIELDS,
    parse_line,
    parse_token_and_metadata,
)

from interp.core.door.door import door
from interp.core.errors import CorpusError
from interp.datasets.corpus import (
    Corpus,
    Document,
    Mention,
    Repeated,
    Sentence,
    Span,
    Word,
    annotated,
    stem,
)
from interp.datasets.readers.entities import Discontinuous, mentions_of
from interp.datasets.readers.trees import require_tree

log = logging.getLogger("interp")

_AS_WRITTEN = dict.fromkeys(("feats", "deps", "misc"), lambda line, i: line[i])
_GIVEN = dict.fromkeys(
    ("lemma", "upos", "xpos", "deprel"), lambda line, i: None if line[i] == "_" else line[i]
)
_PARSERS = {**DEFAULT_FIELD_PARSERS, **_AS_WRITTEN, **_GIVEN}  # the default ones are slow
_COLUMNS = "10 columns (ID FORM LEMMA UPOS XPOS FEATS HEAD DEPREL DEPS MISC) with one tab between"
_NO_ID = re.compile(r"#\s*newdoc(\s+id\s*=?|\s*=)\s*")

_Row = Mapping[str, Any]
_Node = tuple[int, _Row, int | None]
"""Line in the block, columns, and index of the word; None for an empty node."""


@dataclass(frozen=True)
class _Block:
    """The lines of a sentence and where they begin."""

    file: str
    start: int
    lines: tuple[str, ...]

    def refuse(self, line: int, expected: str, found: str) -> NoReturn:
        raise CorpusError(
            f"{self.file}, line {self.start + line}: expected {expected}; found {found}"
        )

    @contextmanager
    def refusing(self, lines: Sequence[int]) -> Iterator[None]:
        """Refuse with its line what raises ValueError of `(place, expected, found)`."""
        try:
            yield
        except ValueError as error:
            place, expected, found = error.args
            self.refuse(lines[place], expected, found)


@door
def read_conllu(
    text: str,
    *,
    name: str,
    file: str | None = None,
    source: Mapping[str, str] | None = None,
    discontinuous: Discontinuous = "skip",
    repeated: Repeated = "refuse",
) -> Corpus:
    """The documents of a CoNLL-U file.

    `# newdoc` begins a document; a sentence before the first one is a document of its own. The
    words of a multiword token have their own characters where their forms spell it ("do" + "n't"),
    else all have the whole token's; composed and decomposed characters ("é") are the same. Empty
    nodes, and mentions of nothing else, are left out. The text is that of the tokens with their
    spaces; `source["text differs"]` counts the sentences whose `# text` says otherwise.

    The head of a mention is the word of `minspan` that the syntax puts highest; without syntax the
    first of `minspan`, without `minspan` the highest of all.

    Args:
        text: the file's contents.
        name: of the corpus.
        file: what errors call the file; the name where None.
        source: where the text comes from.
        discontinuous: what becomes of a mention of words that are not side by side (CorefUD's
            `(e1[1/2]`), which a `Mention` cannot be: "skip" leaves it out, counts it in
            `source["discontinuous mentions left out"]` and says so through the logger `interp`,
            since all else in the file is as good without it; "refuse" refuses the file.
        repeated: what becomes of a document whose id an earlier one has: "refuse", or "join", its
            sentences are the earlier one's, as where a treebank names it again at each part.

    Raises:
        CorpusError: file, line, what was expected, what stood there: also heads that are no tree.
    """
    documents: dict[str, tuple[list[Sentence], list[Mention]]] = {}
    fields = ""
    id, named, differs, left_out, begin = "", False, 0, 0, stem(name, text)
    for block in _blocks(text, file or name):
        metadata, rows = _parse(block)
        fields = metadata.get("global.Entity", fields) or ""
        begins = "newdoc" in metadata or "newdoc id" in metadata
        named = named or begins
        if begins or not named:
            id = metadata.get("newdoc id") or metadata.get("newdoc") or f"{begin}-{len(documents)}"
            if id in documents and repeated == "refuse":
                remedy = "if both are parts of one, read the file with repeated='join'"
                found = f"{id!r}, as of an earlier document; {remedy}"
                block.refuse(0, "a document id of its own", found)
        sentences, mentions = documents.setdefault(id, ([], []))
        nodes, ranges = _nodes(block, rows)
        sentence = _sentence(
            block, nodes, ranges, metadata.get("sent_id") or f"{id}-{len(sentences)}"
        )
        differs += (metadata.get("text") or sentence.text) != sentence.text
        with block.refusing([line for line, _, _ in nodes]):
            found, parted = mentions_of(
                [_entity(row["misc"]) for _, row, _ in nodes],
                [word for _, _, word in nodes],
                fields=fields,
                sentence=sentence,
                index=len(sentences),
                discontinuous=discontinuous,
            )
        mentions += found
        left_out += parted
        sentences.append(sentence)
    if not documents:
        raise CorpusError(f"{file or name}: expected sentences in CoNLL-U; found none")
    if left_out:
        log.warning("%s: %d discontinuous mentions are left out", name, left_out)
    made = tuple(Document(i, tuple(s), tuple(m)) for i, (s, m) in documents.items())
    if "lemma" in (layers := annotated(made)):
        made = tuple(replace(d, sentences=tuple(map(_underscores, d.sentences))) for d in made)
    counts = {"text differs": differs, "discontinuous mentions left out": left_out}
    said = {what: str(count) for what, count in counts.items()}
    return Corpus(name, made, layers, {**(source or {}), **said})


def _blocks(text: str, file: str) -> Iterator[_Block]:
    lines: list[str] = []
    for number, line in enumerate(chain(text.split("\n"), [""]), 1):
        if line.strip():
            lines.append(line.removesuffix("\r"))
        elif lines:
            yield _Block(file, number - len(lines), tuple(lines))
            lines = []


def _parse(block: _Block) -> tuple[Mapping[str, Any], list[tuple[int, _Row]]]:
    """The comments, and for each other line its place in the block and its columns."""
    at = [i for i, line in enumerate(block.lines) if line[0] != "#"]
    for i, line in enumerate(block.lines):
        if line[0] == "#" and _NO_ID.fullmatch(line):  # the library drops it
            block.refuse(i, "`# newdoc` alone, or `# newdoc id = ` and an id", repr(line))
    if not at:
        block.refuse(0, "a sentence below its comments", f"comments alone: {block.lines[0][:60]!r}")
    for i in at:
        line = block.lines[i]
        if (tabs := line.count("\t")) != 9:
            block.refuse(i, _COLUMNS, f"{tabs + 1}: {line[:60]!r}")
        if "\t\t" in line or "  " in line or line[0].isspace() or line[-1].isspace():
            block.refuse(i, _COLUMNS, f"an empty column or more than one space: {line[:60]!r}")
    try:
        parsed = parse_token_and_metadata("\n".join(block.lines), field_parsers=_PARSERS)
    except ParseException:
        for i in at:  # the library does not say which line
            try:
                parse_line(block.lines[i], DEFAULT_FIELDS, _PARSERS)
            except ParseException as error:
                block.refuse(i, "numbers in ID (7, 7-8 or 7.1) and HEAD", str(error))
        raise
    return parsed.metadata, list(zip(at, parsed, strict=True))


def _nodes(
    block: _Block, rows: Sequence[tuple[int, _Row]]
) -> tuple[list[_Node], dict[int, tuple[int, _Row]]]:
    """Words and empty nodes; and by the first word of each multiword token its end and columns."""
    nodes: list[_Node] = []
    ranges: dict[int, tuple[int, _Row]] = {}
    words = covered = 0
    for line, row in rows:
        id = row["id"]
        if isinstance(id, int):
            if id != words + 1:
                block.refuse(line, f"word {words + 1}", f"{id} ({row['form']!r})")
            nodes.append((line, row, words))
            words += 1
        elif id is None:
            block.refuse(line, f"word {words + 1}", f"no ID ({row['form']!r})")
        elif id[1] == "-":
            if id[0] != words + 1 or id[0] <= covered:
                expected = f"a multiword token that begins at word {max(words, covered) + 1}"
                block.refuse(line, expected, f"{id[0]}-{id[2]} ({row['form']!r})")
            if _entity(row["misc"]):
                block.refuse(line, "Entity= at a word of the multiword token", row["misc"])
            ranges[words], covered = (id[2], row), id[2]
        else:
            if id[0] != words:
                block.refuse(line, f"an empty node {words}.1, ...", f"{id[0]}.{id[2]}")
            nodes.append((line, row, None))
    if covered > words or not words:
        block.refuse(rows[-1][0], f"words up to {covered or 1}", f"the last is {words}")
    return nodes, ranges


def _sentence(
    block: _Block, nodes: Sequence[_Node], ranges: Mapping[int, tuple[int, _Row]], id: str
) -> Sentence:
    """The words, and the text of the tokens with the characters of each word in it."""
    rows = [(line, row) for line, row, word in nodes if word is not None]
    spans: list[Span] = []
    text = ""
    while (i := len(spans)) < len(rows):
        token = rows[i][1]
        if i in ranges:
            end, token = ranges[i]
            spans += _divide(token["form"], [row["form"] for _, row in rows[i:end]], len(text))
        else:
            spans.append((len(text), len(text) + len(token["form"])))
        text += token["form"] + ("" if "SpaceAfter=No" in token["misc"].split("|") else " ")
    words: list[Word] = []
    for (line, row), span in zip(rows, spans, strict=True):
        head = row["head"]
        if head is not None and not (0 <= head <= len(rows) and head != row["id"]):
            block.refuse(line, f"a HEAD of 0 to {len(rows)}, not the word itself", str(head))
        words.append(
            Word(
                row["form"],
                span,
                upos=row["upos"],
                xpos=row["xpos"],
                lemma=row["lemma"],
                head=None if head is None else head - 1,
                relation=row["deprel"],
            )
        )
    with block.refusing([line for line, _ in rows]):
        require_tree([word.head for word in words])
    return Sentence(id, text.removesuffix(" "), tuple(words))


def _underscores(sentence: Sentence) -> Sentence:
    """The lemma `_` of a form `_` is the underscore itself, in a file that has lemmas."""
    if all(word.form != "_" or word.lemma for word in sentence.words):
        return sentence
    words = (replace(w, lemma=w.lemma or ("_" if w.form == "_" else None)) for w in sentence.words)
    return replace(sentence, words=tuple(words))


def _divide(surface: str, forms: Sequence[str], start: int) -> list[Span]:
    """Characters of each form inside the surface, or those of the surface for all."""
    spans: list[Span] = []
    begin = 0
    for form in forms:
        ends = (k for k in range(begin + 1, len(surface) + 1) if _same(surface[begin:k], form))
        if (end := next(ends, None)) is None:
            break
        spans.append((start + begin, start + end))
        begin = end
    if begin < len(surface) or len(spans) < len(forms):
        return [(start, start + len(surface))] * len(forms)
    return spans


def _same(one: str, other: str) -> bool:
    """Equal, however their characters are composed."""
    return normalize("NFC", one) == normalize("NFC", other)


def _entity(misc: str) -> str:
    """The value of `Entity`; the library's parser would cut it at a second `=`."""
    parts = (part for part in misc.split("|") if part.startswith("Entity="))
    return next(parts, "").removeprefix("Entity=")
