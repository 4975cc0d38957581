"""Finding a corpus: in $INTERP_DATA, in the cache, by download, or a file by its path."""

import functools
import hashlib
import lzma
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from interp.core.errors import CorpusError
from interp.datasets import MinimalPairs, corpora, corpus
from interp.datasets.named import sources
from interp.datasets.named.formats import FORMATS
from interp.datasets.named.sources import CORPORA, Entry, File
from interp.datasets.readers.gap import COLUMNS

TEXT = "1\tHällo\t_\tX\t_\t_\t0\troot\t_\t_\n\n"
SHA = hashlib.sha256(TEXT.encode()).hexdigest()
NAME = "tiny.conllu"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """$INTERP_DATA and the cache, both empty."""
    monkeypatch.setenv("INTERP_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data" / "tiny").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address at which its files can be fetched."""
    folder = tmp_path / "served" / "abc"  # as of a commit
    folder.mkdir(parents=True)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder.parent))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def entry(monkeypatch: pytest.MonkeyPatch, served: tuple[Path, str]) -> Entry:
    """A corpus "tiny" with two splits, whose repository is the local server."""
    like = CORPORA["ud-ewt"]
    made = replace(
        like,
        repository=served[1],
        commit="abc",
        folder="",
        splits={"train": (File(NAME, SHA),), "test": (File("none.conllu", SHA),)},
    )
    monkeypatch.setitem(CORPORA, "tiny", made)
    return made


def told(*args, **kwargs) -> str:
    with pytest.raises(CorpusError) as caught:
        corpus(*args, **kwargs)
    return str(caught.value)


def says(message: str, *parts: object) -> None:
    missing = [str(part) for part in parts if str(part) not in message]
    assert not missing, f"{missing} not in: {message}"


# where it is found


@pytest.mark.parametrize("folder", ["data/tiny", "cache/data/tiny"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_is_found_packed_or_plain(data, entry, folder, packed):
    (data / folder).mkdir(parents=True, exist_ok=True)
    path = data / folder / (f"{NAME}.xz" if packed else NAME)
    path.write_bytes(lzma.compress(TEXT.encode()) if packed else TEXT.encode())
    found = corpus("tiny", split="train")
    assert found.name == "tiny-train"
    assert [w.form for w in found.sentences[0].words] == ["Hällo"]
    assert found.source[f"sha256 of {NAME}"] == SHA
    assert (found.source["commit"], found.source["split"]) == ("abc", "train")


def test_the_given_folder_comes_before_the_cache_and_need_not_be_given(data, entry, monkeypatch):
    (data / "cache" / "data" / "tiny").mkdir(parents=True)
    (data / "cache" / "data" / "tiny" / NAME).write_text(TEXT, encoding="utf-8")
    monkeypatch.delenv("INTERP_DATA")
    assert corpus("tiny", split="train").n_words == 1
    monkeypatch.setenv("INTERP_DATA", str(data / "data"))
    (data / "data" / "tiny" / NAME).write_text("other", encoding="utf-8")
    says(told("tiny", split="train"), data / "data" / "tiny" / NAME)


@pytest.mark.parametrize("folder", ["data/tiny", "cache/data/tiny"])
def test_an_altered_file_is_refused_by_name(data, entry, folder):
    (data / folder).mkdir(parents=True, exist_ok=True)
    path = data / folder / f"{NAME}.xz"
    path.write_bytes(lzma.compress(TEXT.replace("X", "Y").encode()))
    message = told("tiny", split="train")
    says(message, path, "not the published file of tiny", f"expected {SHA}", "Move it away")


def test_a_packed_file_that_is_cut_short_is_refused_by_name(data, entry):
    path = data / "data" / "tiny" / f"{NAME}.xz"
    path.write_bytes(lzma.compress(TEXT.encode())[:-9])
    says(told("tiny", split="train"), path, "cannot be unpacked", "cut short")


# download


def test_a_download_is_checked_kept_and_not_repeated(data, entry, served):
    folder, _ = served
    (folder / NAME).write_text(TEXT, encoding="utf-8")
    assert corpus("tiny", split="train").n_words == 1
    kept = data / "cache" / "data" / "tiny"
    assert [p.name for p in kept.iterdir()] == [NAME]
    (folder / NAME).unlink()
    assert corpus("tiny", split="train").n_words == 1


def test_a_download_with_another_sha256_is_refused_and_leaves_nothing(data, entry, served):
    folder, address = served
    (folder / NAME).write_text(TEXT + "\n", encoding="utf-8")
    message = told("tiny", split="train")
    says(message, f"{address}/abc/{NAME}", "damaged or altered", SHA, data / "data" / "tiny")
    assert list((data / "cache" / "data" / "tiny").iterdir()) == []


def test_a_download_that_fails_says_where_to_put_the_file(data, entry):
    message = told("tiny", split="test")
    says(message, "404", "none.conllu", "Without a network", data / "data" / "tiny")


def test_a_corpus_that_was_made_says_how(data, entry, monkeypatch):
    made = replace(entry, folder=None, made="all its files in a row")
    monkeypatch.setitem(CORPORA, "tiny", made)
    message = told("tiny", split="train")
    says(message, NAME, "all its files in a row", "commit abc", SHA, data / "data" / "tiny")
    for name in ("litbank", "lm-syneval"):
        says(told(name), CORPORA[name].repository, CORPORA[name].made, data / "data" / name)


def test_addresses_are_of_a_commit():
    for name, known in CORPORA.items():
        assert known.repository.startswith("https://github.com/")
        assert len(known.commit) == 40 and int(known.commit, 16)
        for file in (f for split in known.splits.values() for f in split):
            assert len(file.sha256) == 64 and int(file.sha256, 16)
            address = known.address(file)
            assert (address is None) == bool(known.made), name
            if address:
                assert f"/{known.commit}/" in address and address.endswith(f"/{file.name}")


# names


def test_unknown_names_and_splits():
    says(told("ud-ewtt"), "'ud-ewtt'", "did you mean 'ud-ewt'", *CORPORA, *FORMATS, "format=")
    says(told("ud-ewt"), "no split None", "'train', 'dev', 'test'", "split='train'")
    says(told("gap", split="test"), "no split 'test'", "'development', 'validation'")


def test_the_list_of_corpora():
    table = corpora()
    assert set(table["corpus"]) == set(CORPORA)
    assert set(table.query("corpus == 'gap'")["split"]) == {"development", "validation"}
    assert table[["annotation", "licence", "repository"]].map(bool).all().all()


# a user's own file


def gap() -> str:
    row = ["t-1", "Ann saw Bob. He", "He", "13", "Ann", "0", "FALSE", "Bob", "8", "TRUE", "http"]
    return "\n".join("\t".join(line) for line in (COLUMNS, row)) + "\n"


COREF = "#begin document (d); part 0\nd\t0\t0\tHi\t_\t(1)\n#end document\n"
HOMOGRAPH = "1\tMark\t_\tVERB\tVERB\tPOS=VERB|fPOS=VERB\t-1\t_\t_\t_\n"
PAIR = '{"template": "t", "condition": "c", "good": "a cat sits", "bad": "a cat sit"}\n'


@pytest.mark.parametrize(
    ("file", "text", "layers"),
    [
        ("my.conllu", TEXT, {"upos", "head", "relation"}),
        ("my.conll", COREF, {"mentions"}),
        ("verbs.conll", HOMOGRAPH, {"upos"}),
        ("page.conll", f"\n# http://a\n{HOMOGRAPH}", {"upos"}),
        ("my.tsv", "Hi\tX\n", {"upos"}),
        ("gap.tsv", gap(), {"mentions"}),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_files_by_path(tmp_path, file, text, layers, packed):
    path = tmp_path / (f"{file}.xz" if packed else file)
    data = b"\xef\xbb\xbf" + text.encode()  # as some editors begin a file
    path.write_bytes(lzma.compress(data) if packed else data)
    for given in (path, str(path)):
        found = corpus(given)
        assert found.name == file.partition(".")[0]
        assert found.layers == layers
        assert found.source["path"] == str(path)
        assert found.source["sha256"] == hashlib.sha256(data).hexdigest()


def test_pairs_by_path(tmp_path):
    (tmp_path / "my.jsonl").write_text(PAIR)
    found = corpus(tmp_path / "my.jsonl")
    assert isinstance(found, MinimalPairs) and len(found) == 1 and found.name == "my"


def test_files_that_cannot_be_read(tmp_path):
    says(told(tmp_path / "no.conllu"), "no file", "no.conllu")
    (tmp_path / "my.txt").write_text("x")
    says(
        told(tmp_path / "my.txt"), "'my.txt' is like none", *FORMATS, "*.conllu", "format='conllu'"
    )
    (tmp_path / "my.tsv").write_bytes(b"a\tX\nb\xff\tX\n")
    says(told(tmp_path / "my.tsv"), "my.tsv", "line 2", "UTF-8", "0xff")
    (tmp_path / "bad.conllu").write_text("1\ta\n")
    says(told(tmp_path / "bad.conllu"), "bad.conllu, line 1", "10 columns")
    (tmp_path / "good.conllu").write_text(TEXT, encoding="utf-8")
    says(told(tmp_path / "good.conllu", split="dev"), "good.conllu", "no split 'dev'")
    says(told(tmp_path), "no corpus is called")


@pytest.mark.plain
def test_the_published_homographs_by_path(published):
    known = published("noun-verb", "dev")
    (path,) = Path(os.environ["INTERP_DATA"], "noun-verb").glob("dev.conll*")
    mine = corpus(path)
    assert mine.layers == {"upos"} and mine.fingerprint == known.fingerprint


@pytest.mark.plain
def test_every_reader_of_the_table_is_tried_on_real_files(published):
    """Each known corpus that is here is read whole, under its sha256."""
    for name, known in sources.CORPORA.items():
        for split in known.splits:
            found = published(name, split)
            assert found.source["commit"] == known.commit
            assert found.name == (name if split == "all" else f"{name}-{split}")
