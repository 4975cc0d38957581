"""Which format a file of one's own has: by the end of its name, and by how it begins.

Adding a format is adding an entry.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, Protocol, runtime_checkable

from interp.datasets.corpus import Corpus
from interp.datasets.readers.columns import read_homographs, read_tags
from interp.datasets.readers.conllu import read_conllu
from interp.datasets.readers.coreference import read_coreference
from interp.datasets.readers.gap import COLUMNS, read_gap
from interp.datasets.readers.minimal import MinimalPairs, read_pairs
from interp.datasets.readers.winobias import LISTS, read_winobias

Texts = Mapping[str, str]
"""Contents by file name."""
Format = Literal["conllu", "conll-2012", "homographs", "tags", "gap", "winobias", "minimal pairs"]


@runtime_checkable
class Reader(Protocol):
    """From one file's contents to a corpus or pairs."""

    def __call__(
        self, text: str, *, name: str, file: str, source: Mapping[str, str]
    ) -> Corpus | MinimalPairs: ...


@runtime_checkable
class Read(Protocol):
    """From the contents of the files that make a corpus to it; what a reader does otherwise."""

    def __call__(
        self, texts: Texts, *, name: str, source: Mapping[str, str], **options: str
    ) -> Corpus | MinimalPairs: ...


def of_one(read: Reader) -> Read:
    """For corpora of a single file."""

    def reading(
        texts: Texts, *, name: str, source: Mapping[str, str], **options: str
    ) -> Corpus | MinimalPairs:
        ((file, text),) = texts.items()
        return read(text, name=name, file=file, source=source, **options)

    return reading


@dataclass(frozen=True)
class Known:
    """A format.

    Attributes:
        names: that its files usually have, as patterns.
        read: from their contents to the corpus.
        begins: what its contents begin with, one of these, blank lines aside: where a format
            further down the list has files of the same names.
        beside: files that are read with it, in the same folder.
        options: that its reader has.
    """

    names: tuple[str, ...]
    read: Read
    begins: tuple[str, ...] = ("",)
    beside: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


FORMATS: Mapping[Format, Known] = {
    "conllu": Known(("*.conllu",), of_one(read_conllu), options=("discontinuous", "repeated")),
    "homographs": Known(("*.conll",), of_one(read_homographs), begins=("# ", "1\t")),
    "conll-2012": Known(("*.conll", "*_conll"), of_one(read_coreference)),
    "gap": Known(("*.tsv",), of_one(read_gap), begins=("\t".join(COLUMNS[:3]),)),
    "tags": Known(("*.tsv",), of_one(read_tags), options=("repeated",)),
    "winobias": Known(("*.txt.dev", "*.txt.test"), read_winobias, beside=LISTS),
    "minimal pairs": Known(("*.jsonl",), of_one(read_pairs)),
}
LISTED = "; ".join(f"{format!r} ({', '.join(known.names)})" for format, known in FORMATS.items())
"""For messages."""


def named(name: str) -> list[Format]:
    """The formats whose files are called like this, without what packing adds to the name."""
    return [
        format
        for format, known in FORMATS.items()
        if any(fnmatchcase(name, pattern) for pattern in known.names)
    ]


def told_apart(formats: Sequence[Format], text: str) -> Format:
    """The format, among some whose files have the same names, of these contents."""
    begun = text.lstrip("\n\r ")
    return next((f for f in formats if begun.startswith(FORMATS[f].begins)), formats[-1])
