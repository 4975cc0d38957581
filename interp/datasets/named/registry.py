"""Corpora by name: found in $INTERP_DATA, in the user's cache, or downloaded; or a file by path.

What does not have the sha256 that `sources` records is refused wherever it lies.
"""

import hashlib
import lzma
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, overload

import pandas as pd
import pooch

from interp.core.door.door import door
from interp.core.errors import CorpusError, nearest
from interp.datasets.corpus import Corpus, Repeated
from interp.datasets.named.formats import FORMATS, LISTED, Format, named, told_apart
from interp.datasets.named.sources import CORPORA, Entry, File
from interp.datasets.readers.entities import Discontinuous
from interp.datasets.readers.minimal import MinimalPairs
from interp.models.finding.shipped import cache

UNPACKED, TIMES = 10_000_000, 100
"""Bytes that any packed file may unpack to, and how many times its own: text shrinks by 4 to 70."""
DICTIONARY = 256 << 20
"""Bytes that unpacking may take."""

Annotated = Literal["ud-ewt", "litbank", "gap", "winobias", "noun-verb"]
Paired = Literal["blimp", "lm-syneval"]


@overload
def corpus(name: Annotated, *, split: str | None = None) -> Corpus: ...
@overload
def corpus(name: Paired, *, split: str | None = None) -> MinimalPairs: ...
@overload
def corpus(
    name: str | os.PathLike[str],
    *,
    split: str | None = None,
    format: Format | None = None,
    discontinuous: Discontinuous | None = None,
    repeated: Repeated | None = None,
) -> Corpus | MinimalPairs: ...
@door
def corpus(
    name: str | os.PathLike[str],
    *,
    split: str | None = None,
    format: Format | None = None,
    discontinuous: Discontinuous | None = None,
    repeated: Repeated | None = None,
) -> Corpus | MinimalPairs:
    """A known corpus, or a file of one's own.

    A known corpus is looked for in `$INTERP_DATA/<name>`, then in the user's cache
    (`$INTERP_CACHE/data/<name>`), and then downloaded to the cache from its public repository at
    one commit. Files may be packed with xz. Whatever is found must be the published file.
    "litbank" and "lm-syneval" are not downloaded, for they are made from files of theirs: where
    they are found nowhere the error says how to make them, and where to put them.

    Args:
        name: of a corpus (`corpora()` lists them), or a path.
        split: of a known corpus; not needed where it has but one.
        format: of a file by path; None for that of its name: `*.conllu`; `*.conll` and OntoNotes'
            `*_conll` with CoNLL-2012 coreference columns ("conll-2012"), `*.conll` also as the
            noun/verb homographs ("homographs"); `*.tsv` with a word and its tag a line ("tags"),
            or as GAP ("gap"); `*.txt.dev` and `*.txt.test` of WinoBias ("winobias"), with its two
            lists of occupations beside it; `*.jsonl` of "minimal pairs". Each may have `.xz` at
            the end.
        discontinuous: of CoNLL-U: "skip" (the default) or "refuse" mentions of words that are not
            side by side, as in `conllu.read_conllu`.
        repeated: of CoNLL-U and tags: "refuse" (the default) or "join" documents of one id.

    Raises:
        CorpusError: an unknown name, format or split, an altered or malformed file, a failed
            download, or an option of another format.
    """
    asked = {"discontinuous": discontinuous, "repeated": repeated}
    options = {option: word for option, word in asked.items() if word is not None}
    if (entry := CORPORA.get(str(name))) is None:
        return _own(name, split, format, options)
    name = str(name)
    if given := [*(["format"] if format else []), *options]:
        raise CorpusError(
            f"{name} is a known corpus, which is read in one way: {given[0]}= is for files by "
            "path. Leave it out, or name the file."
        )
    if split is None and len(entry.splits) == 1:
        (split,) = entry.splits
    if split is None or split not in entry.splits:
        raise CorpusError(
            f"{name} has no split {split!r}; it has {', '.join(map(repr, entry.splits))}. "
            f"Ask for one: corpus({name!r}, split={next(iter(entry.splits))!r})."
        )
    files = entry.splits[split]
    texts = {file.name: _published(name, entry, file) for file in files}
    source = {"repository": entry.repository, "commit": entry.commit, "split": split}
    source |= {f"sha256 of {file.name}": file.sha256 for file in files}
    known_as = name if split == "all" else f"{name}-{split}"
    return entry.read(texts, name=known_as, source=source)


@door
def corpora() -> pd.DataFrame:
    """The known corpora, one row a split: annotation, licence, repository."""
    rows = [
        {
            "corpus": name,
            "split": split,
            "annotation": entry.annotation,
            "licence": entry.licence,
            "repository": entry.repository,
        }
        for name, entry in CORPORA.items()
        for split in entry.splits
    ]
    return pd.DataFrame(rows)


def _own(
    name: str | os.PathLike[str],
    split: str | None,
    format: Format | None,
    options: Mapping[str, str],
) -> Corpus | MinimalPairs:
    """A user's file, in the format given or by its name."""
    path = Path(name)
    plain = path.with_suffix("") if path.suffix == ".xz" else path
    formats = [format] if format else named(plain.name)
    if not path.is_file():
        if formats:
            raise CorpusError(f"there is no file {path}; mind the folder that you are in.")
        raise CorpusError(
            f"no corpus is called {str(name)!r}: {nearest(str(name), CORPORA)} There are "
            f"{', '.join(CORPORA)}, and files by path, whose format is told by the name, {LISTED}, "
            "or given with format=."
        )
    if not formats:
        raise CorpusError(
            f"cannot tell what {path} is by its name: {plain.name!r} is like none of {LISTED}. "
            f"Give its format: corpus({str(name)!r}, format='conllu')."
        )
    if split is not None:
        raise CorpusError(f"{path} is one file: it has no split {split!r}. Name the file you mean.")
    data = _contents(path)
    text = _decoded(data, path)
    format = told_apart(formats, text)
    known = FORMATS[format]
    if other := [option for option in options if option not in known.options]:
        have = " and ".join(repr(f) for f, known in FORMATS.items() if other[0] in known.options)
        raise CorpusError(
            f"{other[0]}= is of {have}, and {path} is read as {format!r}. Leave it out, or give "
            "the file's format= if it is one of these."
        )
    texts = {str(path): text}
    source = {"path": str(path), "sha256": hashlib.sha256(data).hexdigest()}
    for file in known.beside:
        places = [path.with_name(file), path.with_name(f"{file}.xz")]
        for found in [place for place in places if place.is_file()][:1]:
            data = _contents(found)
            texts[str(found)] = _decoded(data, found)
            source[f"sha256 of {file}"] = hashlib.sha256(data).hexdigest()
    return known.read(texts, name=plain.stem, source=source, **options)


def _published(name: str, entry: Entry, file: File) -> str:
    """The text of a file of a known corpus."""
    kept = cache() / "data" / name
    given = os.environ.get("INTERP_DATA")
    folders = [Path(given) / name, kept] if given else [kept]
    for folder in folders:
        for path in (folder / file.name, folder / f"{file.name}.xz"):
            if path.is_file():
                data = _contents(path)
                found = hashlib.sha256(data).hexdigest()
                if found != file.sha256:
                    raise CorpusError(
                        f"{path} is not the published file of {name}: the sha256 of its contents "
                        f"is {found}, expected {file.sha256}. Likely it was edited or is of "
                        "another version. Move it away, and the published one is looked for again; "
                        "or read it as a file of your own, by its path."
                    )
                return _decoded(data, path)
    return _decoded(_fetch(name, entry, file, folders).read_bytes(), kept / file.name)


def _fetch(name: str, entry: Entry, file: File, folders: list[Path]) -> Path:
    """Download to the cache; whole and with the right sha256, or not at all."""
    put = f"put {file.name} (or {file.name}.xz) into {folders[0]}"
    address = entry.address(file)
    if address is None:
        raise CorpusError(
            f"{name} is neither in {' nor in '.join(map(str, folders))}, and {file.name} cannot be "
            f"downloaded as it is: it is made from {entry.repository} at commit {entry.commit}: "
            f"{entry.made}. Make it so and {put}; its sha256 must be {file.sha256}."
        )
    try:
        fetched = pooch.retrieve(
            address,
            known_hash=f"sha256:{file.sha256}",
            fname=file.name,
            path=folders[-1],
            downloader=pooch.HTTPDownloader(progressbar=sys.stderr.isatty()),
        )
    except (OSError, ValueError) as error:
        if (response := getattr(error, "response", None)) is not None:
            response.close()  # pooch leaves the connection of a refusal open
        raise CorpusError(
            f"could not download {address} for {name}: {error}. Without a network, {put}; "
            "if the sha256 is wrong, the download was damaged or altered: try again."
        ) from error
    return Path(fetched)


def _contents(path: Path) -> bytes:
    """What a file holds, unpacked."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorpusError(
            f"{path} cannot be read: {error.strerror or error}. Look at who may read the file."
        ) from error
    if path.suffix != ".xz":
        return data
    most = max(UNPACKED, TIMES * len(data))
    try:
        unpacking = lzma.LZMADecompressor(memlimit=DICTIONARY)
        found = unpacking.decompress(data, max_length=most + 1)
    except lzma.LZMAError as error:
        raise CorpusError(f"{path} cannot be unpacked: {error}. Likely it is cut short.") from error
    if len(found) > most:
        raise CorpusError(
            f"{path} has {len(data):,} bytes and unpacks to more than {most:,}, which no text "
            "does. Do not trust where it came from; if you do, unpack it yourself (xz -d)."
        )
    if not unpacking.eof or unpacking.unused_data:
        why = "something follows its end" if unpacking.eof else "it ends before its end"
        raise CorpusError(f"{path} cannot be unpacked: {why}. Likely it is cut short or joined.")
    return found


def _decoded(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CorpusError(
            f"{path}, line {line}: expected UTF-8; found the byte {data[error.start]:#04x}"
        ) from None
