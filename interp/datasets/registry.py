"""Corpora by name: found in $INTERP_DATA, in the user's cache, or downloaded; or a file by path.

A corpus is an entry of `CORPORA`: its public repository, the commit, and for each split the files
with the sha256 of their contents. What does not have that sha256 is refused wherever it lies.
"""

import hashlib
import lzma
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pooch

from interp.core.errors import CorpusError, nearest
from interp.datasets.conllu import read_conllu
from interp.datasets.corpus import Corpus
from interp.models.shipped import cache


@dataclass(frozen=True)
class File:
    """A file of a corpus: its place in the repository and the sha256 of what it holds."""

    path: str
    sha256: str

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Entry:
    """Where a corpus comes from and how it is read.

    Attributes:
        address: of the files at one commit; None where what is read is made from them.
        splits: files by split.
        read: from the files' texts by name to the corpus.
    """

    address: str | None
    licence: str
    annotation: str
    splits: Mapping[str, tuple[File, ...]]
    read: Callable[[Mapping[str, str], str, Mapping[str, str]], Corpus]


def _conllu(texts: Mapping[str, str], name: str, source: Mapping[str, str]) -> Corpus:
    ((file, text),) = texts.items()
    return read_conllu(text, name=name, file=file, source=source)


CORPORA: dict[str, Entry] = {
    "ud-ewt": Entry(
        address="https://raw.githubusercontent.com/UniversalDependencies/UD_English-EWT/"
        "15d613d8447b3478787d4c278730a1e48a945efb",
        licence="CC BY-SA 4.0",
        annotation="part of speech, lemmas, dependencies",
        splits={
            "train": (
                File(
                    "en_ewt-ud-train.conllu",
                    "3fb78e2b55482c8ee00caa653af436c88c9e5bc9a73ce26e4ae3ddc79d2b7e7b",
                ),
            ),
            "dev": (
                File(
                    "en_ewt-ud-dev.conllu",
                    "531a54ff90d6ab12201c5a50c3e78e6ddac4de69abc4bce5d275d3cd29efe2b6",
                ),
            ),
            "test": (
                File(
                    "en_ewt-ud-test.conllu",
                    "e266e515a0a7547657ed3d90d9ba46487d6bd251f27ad4269d4e8a427c8555cd",
                ),
            ),
        },
        read=_conllu,
    ),
}


def corpus(name: str | os.PathLike[str], *, split: str | None = None) -> Corpus:
    """A corpus by name and split, or a CoNLL-U file by path.

    Raises:
        CorpusError: no such corpus, split or file; or a file that is not the published one.
    """
    entry = CORPORA.get(str(name))
    if entry is None:
        path = Path(name)
        if path.is_file():
            return read_conllu(_contents(path).decode(), name=path.stem, file=str(path))
        raise CorpusError(f"no corpus is called {str(name)!r}: {nearest(str(name), CORPORA)}")
    if split is None and len(entry.splits) == 1:
        split = next(iter(entry.splits))
    if split not in entry.splits:
        known = ", ".join(map(repr, entry.splits))
        raise CorpusError(f"{name} has no split {split!r}; it has {known}")
    files = entry.splits[split]
    texts = {file.name: _find(str(name), entry, file) for file in files}
    source = {"corpus": str(name), "split": split} | {f"sha256 {f.name}": f.sha256 for f in files}
    return entry.read(texts, f"{name}-{split}", source)


def corpora() -> pd.DataFrame:
    """The known corpora: one row a split."""
    rows = [
        {"corpus": name, "split": split, "annotation": e.annotation, "licence": e.licence}
        for name, e in CORPORA.items()
        for split in e.splits
    ]
    return pd.DataFrame(rows)


def _find(name: str, entry: Entry, file: File) -> str:
    """The text of a file, its sha256 checked."""
    given = os.environ.get("INTERP_DATA")
    kept = cache() / "data" / name
    for folder in [*([Path(given) / name] if given else []), kept]:
        for path in (folder / file.name, folder / f"{file.name}.xz"):
            if path.is_file():
                data = _contents(path)
                found = hashlib.sha256(data).hexdigest()
                if found != file.sha256:
                    raise CorpusError(
                        f"{path} is not the published file: the sha256 of its contents is {found}, "
                        f"expected {file.sha256}. Likely it was edited or is of another version: "
                        "move it away and it is fetched anew; or read it as your own by its path."
                    )
                return data.decode()
    address = f"{entry.address}/{file.path}"
    fetched = pooch.retrieve(
        address,
        known_hash=f"sha256:{file.sha256}",
        fname=file.name,
        path=kept,
        progressbar=sys.stderr.isatty(),
    )
    return Path(fetched).read_text(encoding="utf-8")


def _contents(path: Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data
