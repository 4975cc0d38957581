"""Files by the names that they usually have, and by any name with their format."""

import hashlib
import lzma
from pathlib import Path
from typing import get_args

import pytest

from interp.core.door.door import ArgumentError
from interp.core.errors import CorpusError
from interp.datasets import MinimalPairs, corpus
from interp.datasets.named.formats import FORMATS, Format
from interp.datasets.readers.gap import COLUMNS
from interp.datasets.readers.winobias import LISTS

CONLLU = "1\tHi\t_\tX\t_\t_\t0\troot\t_\t_\n\n"
ONTONOTES = """#begin document (bc/cctv/00/cctv_0000); part 000
bc/cctv/00/cctv_0000   0   0       The    DT   (TOP(NP*   -   -   -   -   *   (ARG0*   (12
bc/cctv/00/cctv_0000   0   1       dog    NN          *)  -   -   -   -   *        *)   12)
bc/cctv/00/cctv_0000   0   2    barked   VBD     (VP*))   bark  01  1   -   *      (V*)    -

bc/cctv/00/cctv_0000   0   0        It   PRP    (TOP(NP*) -   -   -   -   *   (12)
bc/cctv/00/cctv_0000   0   1         .     .          *)) -   -   -   -   *     -

#end document
"""
GAP = "\n".join(
    "\t".join(line)
    for line in (
        COLUMNS,
        ["t-1", "Ann saw Bob. He", "He", "13", "Ann", "0", "FALSE", "Bob", "8", "TRUE", "http"],
    )
)
CONTENTS = {
    "conllu": CONLLU,
    "conll-2012": ONTONOTES,
    "homographs": "1\tMark\t_\tVERB\tVERB\tPOS=VERB|fPOS=VERB\t-1\t_\t_\t_\n",
    "tags": "Hi\tX\n",
    "gap": GAP,
    "winobias": "1 [The CEO] met the nurse because [he] was ill.\n",
    "minimal pairs": '{"template": "t", "condition": "c", "good": "a sits", "bad": "a sit"}\n',
}
LAYERS = {"conllu": {"upos", "head", "relation"}, "conll-2012": {"xpos", "mentions"}}
LAYERS |= {"homographs": {"upos"}, "tags": {"upos"}, "gap": {"mentions"}, "winobias": {"mentions"}}
WINOBIAS = "pro_stereotyped_type1.txt"


def write(folder: Path, file: str, text: str) -> Path:
    path = folder / file
    path.write_bytes(lzma.compress(text.encode()) if file.endswith(".xz") else text.encode())
    return path


def lists(folder: Path, end: str = "") -> None:
    for name, people in zip(LISTS, ("nurse\n", "CEO\n"), strict=True):
        write(folder, name + end, people)


def told(*args, **options) -> str:
    with pytest.raises(CorpusError) as caught:
        corpus(*args, **options)
    return str(caught.value)


def says(message: str, *parts: object) -> None:
    missing = [str(part) for part in parts if str(part) not in message]
    assert not missing, f"{missing} not in: {message}"


@pytest.mark.parametrize(
    ("file", "format", "name"),
    [
        ("my.conllu", "conllu", "my"),
        ("my.conll", "conll-2012", "my"),
        ("my.conll", "homographs", "my"),
        ("cctv_0000.v4_gold_conll", "conll-2012", "cctv_0000"),
        ("cctv_0000.v9_auto_conll", "conll-2012", "cctv_0000"),
        ("train.english.gold_conll", "conll-2012", "train.english"),
        ("my.tsv", "tags", "my"),
        ("my.tsv", "gap", "my"),
        ("my.jsonl", "minimal pairs", "my"),
        (f"{WINOBIAS}.dev", "winobias", WINOBIAS),
        (f"{WINOBIAS}.test", "winobias", WINOBIAS),
    ],
)
@pytest.mark.parametrize("end", ["", ".xz"])
def test_files_by_their_usual_names(tmp_path, file, format, name, end):
    lists(tmp_path, end)
    text = CONTENTS[format]
    found = corpus(write(tmp_path, file + end, text))
    assert found.name == name
    assert found.source["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert (
        isinstance(found, MinimalPairs) if format not in LAYERS else found.layers == LAYERS[format]
    )


@pytest.mark.parametrize("format", get_args(Format))
@pytest.mark.parametrize("file", ["data.txt", "noending", "a.b.xz", "my.tsv", "x.conllu"])
def test_files_of_any_name_by_their_format(tmp_path, format, file):
    if format == "winobias":
        path = write(tmp_path, "pro_stereotyped_type1.txt.held_out", CONTENTS[format])
        lists(tmp_path)
    else:
        path = write(tmp_path, file, CONTENTS[format])
    found = corpus(path, format=format)
    assert (
        isinstance(found, MinimalPairs) if format not in LAYERS else found.layers == LAYERS[format]
    )


def test_the_format_that_is_given_counts_and_not_the_looks(tmp_path):
    says(told(write(tmp_path, "a.tsv", GAP), format="tags"), "a.tsv, line 1", "a word, a tab")
    says(told(write(tmp_path, "a.conllu", ONTONOTES), format="homographs"), "a.conllu, line 1")
    says(told(write(tmp_path, "b.conllu", ONTONOTES)), "b.conllu, line 2", "10 columns")


def test_ontonotes_has_a_column_for_each_predicate_of_a_sentence(tmp_path):
    (document,) = corpus(write(tmp_path, "cctv_0000.v4_gold_conll", ONTONOTES)).documents
    assert document.id == "bc/cctv/00/cctv_0000"
    assert [s.text for s in document.sentences] == ["The dog barked", "It."]
    assert [(m.sentence, m.words) for m in document.chains["12"]] == [(0, (0, 2)), (1, (0, 1))]
    cut = ONTONOTES.replace("      (V*)    -", "      (V*)")
    message = told(write(tmp_path, "b.gold_conll", cut))
    says(message, "b.gold_conll, line 4", "expected 13 columns", "found 12")


def test_winobias_is_read_with_its_lists(tmp_path):
    path = write(tmp_path, f"{WINOBIAS}.test", CONTENTS["winobias"])
    message = told(path)
    says(message, *LISTS, f"{WINOBIAS}.test", "keep them together")
    lists(tmp_path)
    (document,) = (found := corpus(path)).documents
    assert document.facts["gender"] == "masculine" and document.facts["stereotype"] == "pro"
    assert [document.text(m) for m in document.chains["other"]] == ["the nurse"]
    assert found.source[f"sha256 of {LISTS[1]}"] == hashlib.sha256(b"CEO\n").hexdigest()
    bad = write(tmp_path, f"{WINOBIAS}.dev", "1 The nurse slept.\n")
    says(told(bad), f"{bad}, line 1", "one occupation")
    other = write(tmp_path, "mine.txt", CONTENTS["winobias"])
    says(told(other, format="winobias"), "expected the file pro_stereotyped_type1.txt.dev", other)


def test_options_of_a_format(tmp_path):
    twice = "# newdoc id = a\n" + CONLLU
    path = write(tmp_path, "a.conllu", twice * 2)
    says(told(path), "a.conllu, line 4", "repeated='join'")
    assert [len(d.sentences) for d in corpus(path, repeated="join").documents] == [2]
    parts = "# global.Entity = eid\n" + CONLLU.replace("_\n", "Entity=(e[1/2])(e[2/2])\n")
    path = write(tmp_path, "b.conllu", parts)
    assert corpus(path).source["discontinuous mentions left out"] == "1"
    says(told(path, discontinuous="refuse"), "b.conllu, line 2", "discontinuous='skip'")
    path = write(tmp_path, "a.tsv", "# newdoc id = a\nHi\tX\n\n" * 2)
    says(told(path), "a.tsv, line 4", "'a', as of an earlier document", "repeated='join'")
    assert [len(d.sentences) for d in corpus(path, repeated="join").documents] == [2]
    says(told(path, discontinuous="skip"), "discontinuous= is of 'conllu', and", "as 'tags'")
    path = write(tmp_path, "a.conll", ONTONOTES)
    says(told(path, repeated="join"), "repeated= is of 'conllu' and 'tags'", "as 'conll-2012'")


def test_what_is_refused_names_the_formats(tmp_path):
    path = write(tmp_path, "my.txt", "x")
    says(told(path), "'my.txt' is like none", *FORMATS, "*_conll", "*.txt.dev", "format='conllu'")
    says(told("no.txt"), "no corpus is called 'no.txt'", *FORMATS, "format=")
    says(told("no.gold_conll"), "there is no file no.gold_conll")
    says(told("no.txt", format="gap"), "there is no file no.txt")
    says(told("ud-ewt", split="dev", format="conllu"), "ud-ewt is a known corpus", "format= is for")
    says(told("ud-ewt", split="dev", repeated="join"), "repeated= is for files by path")
    with pytest.raises(ArgumentError, match="format='conll2012'; did you mean 'conll-2012'"):
        corpus(path, format="conll2012")


def test_every_format_is_told_apart_by_what_it_says():
    assert set(FORMATS) == set(get_args(Format)) == set(CONTENTS)
