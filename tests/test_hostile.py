"""Files that were made to harm: nothing executes, nothing outside is read or written, memory stays
bounded, and the message names the file.
"""

import io
import json
import lzma
import os
import resource
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import torch
from forks import ended, started
from safetensors.torch import save_file

import interp
from interp.core.errors import InterpError
from interp.core.files.sealed import BLANK, read_note, seal, write_note, write_tensors
from interp.core.parts.circuit import Circuit
from interp.engine.checkpoint import Finished
from interp.engine.plain.captures.captured import Captured
from interp.engine.plain.means.means import MeanReference
from interp.models.small import native
from interp.models.small.native import Shape
from interp.probing.read.features import Features
from interp.runs import open_run

pytestmark = pytest.mark.plain
MOST = 500_000  # kB beyond the start
SHAPE = Shape(n_layers=1, n_heads=2, d_model=6, d_head=3, d_vocab=48, n_ctx=16, d_mlp=0)
CODE = """
from pathlib import Path
Path({marker!r}).write_text("executed")
from transformers import LlamaConfig as Config, LlamaForCausalLM as Model
from transformers import PreTrainedTokenizerFast as Tokenizer
"""
Ask = Callable[[], Any]


def model(folder: Path, family: str = "llama", **settings: Any) -> Path:
    """A model's folder with other settings in its config."""
    home = folder / "model"
    tiny.build(family).save_pretrained(home)
    path = home / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return home


def loading(**settings: Any) -> Callable[[Path], Ask]:
    def case(folder: Path) -> Ask:
        home = model(folder, **settings)
        return lambda: interp.load(home)

    return case


def code_of_its_own(folder: Path) -> Ask:
    auto = {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}
    home = model(folder, auto_map=auto, model_type="mine", architectures=["Model"])
    (home / "mine.py").write_text(CODE.format(marker=str(folder / "marker")))
    return lambda: interp.load(home)


def code_beside_a_known_type(folder: Path) -> Ask:
    auto = {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}
    home = model(folder, auto_map=auto)
    (home / "mine.py").write_text(CODE.format(marker=str(folder / "marker")))
    return lambda: interp.load(home).weight_hash and None


def code_of_a_tokenizer(folder: Path) -> Ask:
    home = model(folder)
    auto = {"AutoTokenizer": ["mine.Tokenizer", "mine.Tokenizer"]}
    tiny.word_tokenizer(adds_bos=False).save_pretrained(home)
    (home / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Tokenizer", "auto_map": auto})
    )
    (home / "mine.py").write_text(CODE.format(marker=str(folder / "marker")))
    return lambda: interp.load(home).weight_hash and None


def pickled(folder: Path) -> Ask:
    home = model(folder)
    (home / "model.safetensors").unlink()

    class Evil:
        def __reduce__(self) -> Any:
            return Path.write_text, (folder / "marker", "executed")

    torch.save({"x": Evil()}, home / "pytorch_model.bin")
    return lambda: interp.load(home)


def indexed(file: str) -> Callable[[Path], Ask]:
    def case(folder: Path) -> Ask:
        home = model(folder)
        (home / "model.safetensors").rename(folder / "outside.safetensors")
        names = {"lm_head.weight": file}
        (home / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
        save_file({"a": torch.ones(1)}, home / "model-00001-of-00001.safetensors")
        return lambda: interp.load(home)

    return case


def text(name: str, content: str) -> Callable[[Path], Ask]:
    def case(folder: Path) -> Ask:
        home = model(folder)
        (home / name).write_text(content)
        return lambda: interp.load(home)

    return case


def a_long_config(folder: Path) -> Ask:
    home = model(folder)
    with (home / "config.json").open("w") as file:
        file.truncate(3_000_000_000)
    return lambda: interp.load(home)


def a_header(length: int) -> Callable[[Path], Ask]:
    def case(folder: Path) -> Ask:
        home = model(folder)
        with (home / "model.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", length) + b"{" * 100)
            file.truncate(10_000_000_000)
        return lambda: interp.load(home)

    return case


def a_native_shape(**settings: int) -> Callable[[Path], Ask]:
    def case(folder: Path) -> Ask:
        built = native.build(SHAPE, name="toy")
        native.save(built, folder / "toy")
        path = folder / "toy" / native.SHAPE_FILE
        write_note(path, {**read_note(path, remedy=""), **settings})
        return lambda: interp.load(folder / "toy")

    return case


def rows_of_nothing(folder: Path) -> Ask:
    """300 million rows in some kilobytes."""
    path = folder / "results.parquet"
    chunk = pa.table({"value": np.zeros(30_000_000, dtype=np.float32)})
    note = {"version": 2, "kind": "results", "provenance": {}}
    schema = chunk.schema.with_metadata({b"interp": json.dumps(note)})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for _ in range(10):
            writer.write_table(chunk.replace_schema_metadata(schema.metadata))
        writer.add_key_value_metadata({"interp seal": BLANK.decode()})
    seal(path)
    assert path.stat().st_size < 2_000_000
    return lambda: interp.Results.load(path)


def a_table_with_a_note(note: str) -> Callable[[Path], Ask]:
    def case(folder: Path) -> Ask:
        path = folder / "results.parquet"
        table = pa.Table.from_pandas(pd.DataFrame({"value": [1.0]}))
        pq.write_table(table.replace_schema_metadata({b"interp": note.encode()}), path)
        return lambda: interp.Results.load(path)

    return case


def a_shard(name: str) -> Callable[[Path], Ask]:
    def case(folder: Path) -> Ask:
        home = model(folder)
        loaded = interp.load(home)
        prompts = interp.Pairs.from_tokens(clean=[[1, 2, 3]], corrupt=[[1, 2, 4]])
        kept = folder / "kept"
        interp.capture(loaded, prompts, ["0.1"], folder=kept)
        (kept / "shard-00000.safetensors").rename(folder / "x.safetensors")
        index = read_note(kept / "index.json", remedy="")
        index["shards"][0]["file"] = name
        write_note(kept / "index.json", index)
        return lambda: Captured.load(kept)

    return case


def a_note(name: str, note: dict[str, Any], read: Callable[[Path], Any]) -> Callable[[Path], Ask]:
    """A file with a right seal and nothing of what belongs into it."""

    def case(folder: Path) -> Ask:
        write_note(folder / name, note)
        return lambda: read(folder / name)

    return case


def tensors(name: str, note: dict[str, Any], read: Callable[[Path], Any]) -> Callable[[Path], Ask]:
    def case(folder: Path) -> Ask:
        write_tensors(folder / name, {"x": torch.ones(2)}, note)
        return lambda: read(folder / name)

    return case


def a_bomb(name: str) -> Callable[[Path], Ask]:
    """A gigabyte of nothing in 150 kB."""

    def case(folder: Path) -> Ask:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        packing, zeros = lzma.LZMACompressor(preset=0), bytes(100_000_000)
        with path.open("wb") as file:
            for _ in range(10):
                file.write(packing.compress(zeros))
            file.write(packing.flush())
        if name.startswith("data/"):
            os.environ["INTERP_DATA"] = str(folder / "data")
            return lambda: interp.datasets.corpus("ud-ewt", split="dev")
        return lambda: interp.datasets.corpus(path)

    return case


def a_large_dictionary(folder: Path) -> Ask:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1_500_000_000}]
    page = io.BytesIO(lzma.compress(b"# text\n" * 100, filters=filters))
    (folder / "x.conllu.xz").write_bytes(page.getvalue())
    return lambda: interp.datasets.corpus(folder / "x.conllu.xz")


def nested(folder: Path) -> Ask:
    (folder / "c.json").write_text("[" * 1_000_000)
    return lambda: Circuit.load(folder / "c.json")


def a_damaged_checkpoint(folder: Path) -> Ask:
    store = Finished(folder, ["a question"])
    store.save(np.ones((1, 2)))
    with store.path.open("r+b") as file:
        file.write(struct.pack("<Q", 1 << 60))
        file.truncate(10_000_000_000)
    return lambda: store.load() and None


BIG, DEEP = 10**9, "[" * 1_000_000
CASES: dict[str, tuple[Callable[[Path], Ask], str]] = {
    "code of its own": (code_of_its_own, "config.json cannot be read"),
    "code beside a known type": (code_beside_a_known_type, ""),
    "code of a tokenizer": (code_of_a_tokenizer, ""),
    "pickled": (pickled, "pickled weights"),
    "index outside": (indexed("../outside.safetensors"), "outside.safetensors"),
    "index absolute": (indexed("/etc/passwd"), "/etc/passwd"),
    "index of a pickle": (indexed("pytorch_model.bin"), "pytorch_model.bin"),
    "weights outside": (loading(transformers_weights="../x.safetensors"), "transformers_weights"),
    "weights of a number": (loading(transformers_weights=3), "transformers_weights"),
    "layers": (loading(num_hidden_layers=10**8), "num_hidden_layers=100000000"),
    "layers, a fraction": (loading(num_hidden_layers=1e8), "num_hidden_layers=100000000"),
    "layers inside": (loading(text_config={"num_layers": BIG}), "num_layers=1000000000"),
    "layers of gpt2": (loading(family="gpt2", n_layer=10**8), "n_layer=100000000"),
    "width": (loading(hidden_size=BIG), "hidden_size=1000000000"),
    "a width less": (loading(hidden_size=12_000), "another shape"),
    "vocabulary": (loading(vocab_size=BIG), "vocab_size=1000000000"),
    "a vocabulary less": (loading(vocab_size=10_000_000), "describes a model of"),
    "positions": (loading(family="gpt2", n_positions=10**7), "describes a model of"),
    "deep config": (text("config.json", DEEP), "config.json cannot be read"),
    "listed config": (text("config.json", "[1]"), "config.json cannot be read"),
    "deep tokenizer": (text("tokenizer.json", DEEP), "tokenizer"),
    "listed tokenizer": (text("tokenizer_config.json", "[1]"), ""),
    "long config": (a_long_config, "config.json has 3000 MB"),
    "long header": (a_header(1 << 60), "model.safetensors"),
    "header of a gigabyte": (a_header(1 << 30), "model.safetensors"),
    "native layers": (a_native_shape(n_layers=10**8), "native.json"),
    "native width": (a_native_shape(d_model=10**6, d_head=10**6), "native.json"),
    "native positions": (a_native_shape(n_ctx=10**9), "native.json"),
    "native, no number": (a_native_shape(n_heads="x"), "native.json"),
    "rows of nothing": (rows_of_nothing, "300,000,000 rows"),
    "note that is no JSON": (a_table_with_a_note("{"), "results.parquet"),
    "deep note": (a_table_with_a_note(DEEP), "results.parquet"),
    "note without a version": (a_table_with_a_note("{}"), "results.parquet"),
    "note of another": (
        a_table_with_a_note('{"version": [2]}'),
        "results.parquet",
    ),
    "shard outside": (a_shard("../x.safetensors"), "index.json"),
    "shard absolute": (a_shard("/etc/passwd"), "index.json"),
    "empty index": (a_note("index.json", {}, lambda p: Captured.load(p.parent)), "capture"),
    "features without words": (
        a_note(
            "index.json",
            {"version": 1, "content": "collection"},
            lambda p: Features.load(p.parent),
        ),
        "coll",
    ),
    "provenance of another": (
        a_note("x", {"sessions": 3}, lambda p: open_run("x", SHAPE, root=p.parent.parent)),
        "",
    ),
    "circuit of nothing": (a_note("c.json", {"version": 1}, Circuit.load), "c.json"),
    "deep circuit": (nested, "c.json"),
    "means of nothing": (tensors("m.safetensors", {}, MeanReference.load), "m.safetensors"),
    "means without sites": (
        tensors(
            "m.safetensors",
            {"content": "mean reference", "version": 1},
            MeanReference.load,
        ),
        "m.safetensors",
    ),
    "damaged checkpoint": (a_damaged_checkpoint, ""),
    "packed corpus": (a_bomb("x.conllu.xz"), "x.conllu.xz has"),
    "packed, published": (a_bomb("data/ud-ewt/en_ewt-ud-dev.conllu.xz"), "conllu.xz has"),
    "large dictionary": (a_large_dictionary, "x.conllu.xz cannot be unpacked"),
}


@pytest.mark.sampled(14)
@pytest.mark.parametrize("name", CASES)
def test_nothing_harms(name, tmp_path, capfd):
    make, says = CASES[name]
    ask = make(tmp_path)
    before = {p: p.lstat().st_mtime_ns for p in tmp_path.rglob("*")}

    def child() -> None:
        sys.stdin = io.StringIO("y\n" * 20)
        os.dup2(os.open(tmp_path, os.O_RDONLY), 0)
        started_with = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        said = ""
        try:
            ask()
        except InterpError as error:
            said = str(error)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - started_with
        assert grown < MOST, f"{grown} kB"
        assert says in said, said
        assert said or not says

    code = ended(started(child))
    assert code == 0, capfd.readouterr().err[-600:]
    assert not (tmp_path / "marker").exists()
    after = {p: p.lstat().st_mtime_ns for p in tmp_path.rglob("*") if p.name != "__pycache__"}
    assert {p for p in after if before.get(p) != after[p] and not p.is_dir()} == set()


def test_settings_that_are_large_and_count_no_parts_are_none_of_its_business(tmp_path):
    large = {"block_size": 4096, "vocab_size_per_layer_input": 262_144, "sliding_window": 10**6}
    home = model(tmp_path, max_position_embeddings=10_485_760, **large)
    assert interp.load(home).facts.n_layers == 3
