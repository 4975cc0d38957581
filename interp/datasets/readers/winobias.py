"""WinoBias: occupations, pronouns, and stereotypes. (Zhao et al. 2018)

A line is a document of one sentence. Brackets mark an occupation and the pronouns that refer to
it; the first other occupation of the sentence competes. In type 1 the answer needs knowledge of the
world, in type 2 syntax decides.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePath

from interp.core.errors import CorpusError
from interp.datasets.corpus import Corpus, Document, Mention, Sentence, Span, Word
from interp.datasets.words.naming import GENDER, PRONOUNS, head_of
from interp.datasets.words.plain import split

_FILE = re.compile(r"(pro|anti)_stereotyped_type([12])\.txt\.\w+")
LISTS = ("female_occupations.txt", "male_occupations.txt")
_LINE = re.compile(r"(\d+) (.*\S)\s*")
_TWICE = re.compile(r"\b([Tt]he) \[the ")


def read_winobias(
    texts: Mapping[str, str], *, name: str, source: Mapping[str, str] | None = None
) -> Corpus:
    """The sentences of the pro- and anti-stereotypical files.

    The chain of the bracketed occupation and its pronouns is "referent", that of the other
    occupation "other". A doubled article ("the [the physician]") is written once. Facts of a
    document: "type" ("1", "2"), "stereotype" ("pro", "anti"), "gender" of the pronoun
    ("masculine", "feminine", or "unknown" of "they"), "pair" (its counterpart has the same),
    "counterpart" ("same" but for the pronouns, or "differs"; where a counterpart was not given,
    none).

    Args:
        texts: contents by file name, or by path: `female_occupations.txt`,
            `male_occupations.txt` and any of `{pro,anti}_stereotyped_type{1,2}.txt.dev` or `.test`.
        name: of the corpus.
        source: where the texts come from.

    Raises:
        CorpusError: file, line, what was expected, what stood there.
    """
    names = {PurePath(file).name.removesuffix(".xz"): file for file in texts}
    missing = [file for file in LISTS if file not in names]
    files = {file: found for given, file in names.items() if (found := _FILE.fullmatch(given))}
    if missing or not files:
        wanted = " and ".join(missing) or "pro_stereotyped_type1.txt.dev or its like"
        found = ", ".join(texts)
        raise CorpusError(
            f"{name}: expected the file {wanted}; found {found}. The published lists of "
            "occupations are read with the sentences, and the names of the files say which "
            "sentences they hold: keep them together under these names."
        )
    occupations = [o for file in LISTS for o in texts[names[file]].split("\n") if o.strip()]
    competitor = _either(occupations)
    documents = [
        _document(line, sentence, file, found[1], found[2], competitor)
        for file, found in files.items()
        for line, sentence in _lines(texts[file], file)
    ]
    return Corpus(name, tuple(_compared(documents)), frozenset({"mentions"}), dict(source or {}))


def counterparts(corpus: Corpus) -> list[tuple[Document, Document]]:
    """The pro- and anti-stereotypical sentence of each pair, in the order of the corpus."""
    pairs: dict[str, dict[str, Document]] = {}
    for document in corpus.documents:
        facts = document.facts
        if "pair" in facts:
            pairs.setdefault(facts["pair"], {})[facts["stereotype"]] = document
    return [(pair["pro"], pair["anti"]) for pair in pairs.values() if len(pair) == 2]


def _either(occupations: list[str]) -> re.Pattern[str]:
    """Finds an occupation with its article; the longer of two that begin alike."""
    names = "|".join(map(re.escape, sorted(map(str.strip, occupations), key=len, reverse=True)))
    return re.compile(rf"\b(?:(?:the|a|an) )?({names})s?\b", re.IGNORECASE)


def _lines(text: str, file: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            found = _LINE.fullmatch(line)
            if found is None or int(found[1]) != number:
                raise _error(file, number, f"{number}, a space and a sentence", repr(line[:60]))
            yield number, found[2]


def _document(
    line: int, marked: str, file: str, stereotype: str, type: str, competitor: re.Pattern[str]
) -> Document:
    text, spans = _unmark(_TWICE.sub(r"[\1 ", marked), file, line)
    pronouns = [s for s in spans if text[slice(*s)].lower() in PRONOUNS]
    occupations = [s for s in spans if s not in pronouns]
    genders = {GENDER.get(text[slice(*s)].lower(), "unknown") for s in pronouns}
    if len(occupations) != 1 or len(genders) != 1:
        expected = "brackets around one occupation and its pronouns of one gender"
        raise _error(file, line, expected, repr(marked))
    others = [
        found.span()
        for found in competitor.finditer(text)
        if not any(start < found.end() and found.start() < end for start, end in spans)
    ][:1]  # a later one is spoken of by the way: "... knows how to recognize a good baker"
    words = split(text, [edge for span in (*spans, *others) for edge in span])
    mentions = [_mention(words, span, "referent", "pronoun") for span in pronouns]
    mentions += [_mention(words, span, "referent", "nominal") for span in occupations]
    mentions += [_mention(words, span, "other", "nominal") for span in others]
    mentions.sort(key=lambda m: m.words)
    id = f"type{type}-{stereotype}-{line}"
    facts = {
        "type": type,
        "stereotype": stereotype,
        "gender": genders.pop(),
        "pair": f"type{type}-{line}",
    }
    return Document(id, (Sentence(id, text, words),), tuple(mentions), facts)


def _unmark(marked: str, file: str, line: int) -> tuple[str, list[Span]]:
    """The text without brackets, and the characters that each pair of them held."""
    text = ""
    spans: list[Span] = []
    for i, part in enumerate(re.split(r"\[([^\[\]]*)\]", marked)):
        if "[" in part or "]" in part:
            raise _error(file, line, "brackets in pairs, none inside another", repr(marked))
        inside = i % 2 == 1
        part = part.strip() if inside else part  # "[ physician]"
        if inside and not part:
            raise _error(file, line, "words in brackets", repr(marked))
        if inside:
            spans.append((len(text), len(text) + len(part)))
        text += part
    return text, spans


def _mention(words: tuple[Word, ...], span: Span, chain: str, kind: str) -> Mention:
    inside = [i for i, w in enumerate(words) if span[0] <= w.span[0] and w.span[1] <= span[1]]
    head = inside[0] + head_of([words[i].form for i in inside])
    return Mention(0, (inside[0], inside[-1] + 1), chain, head, kind)


def _compared(documents: list[Document]) -> Iterator[Document]:
    """Say of each document whether its counterpart has the same words but for pronouns."""
    plain: dict[tuple[str, str], list[str]] = {}
    for document in documents:
        forms = [w.form.lower() for w in document.sentences[0].words]
        plain[document.facts["pair"], document.facts["stereotype"]] = [
            "they" if form in PRONOUNS else form for form in forms
        ]
    for document in documents:
        facts = dict(document.facts)
        other = "anti" if facts["stereotype"] == "pro" else "pro"
        if (facts["pair"], other) in plain:
            same = plain[facts["pair"], other] == plain[facts["pair"], facts["stereotype"]]
            facts["counterpart"] = "same" if same else "differs"
        yield replace(document, facts=facts)


def _error(file: str, line: int, expected: str, found: str) -> CorpusError:
    return CorpusError(f"{file}, line {line}: expected {expected}; found {found}")
