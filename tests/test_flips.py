"""One bit of a file flipped: what is read is the same, or refused by name, or made anew and said.

`FLIPS=6000 pytest tests/test_flips.py` flips so many of each kind.
"""

import logging
import os
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import interp
from interp.core.errors import InterpError
from interp.core.files.sealed import open_tensors, write_tensors
from interp.core.parts.circuit import Circuit, Part
from interp.core.tables.attribution import Attribution
from interp.engine.checkpoint import Finished
from interp.engine.plain.captures.captured import Captured
from interp.engine.plain.means.means import MeanReference
from interp.models import toy
from interp.models.finding import shipped, stored
from interp.models.now.digest import digest
from interp.models.small import native
from interp.models.small.native import Shape
from interp.models.small.training import Recipe
from interp.probing.read.features import Features
from interp.runs import open_run, report

pytestmark = pytest.mark.sampled(6)

FLIPS = int(os.environ.get("FLIPS", "300"))
SHAPE = Shape(n_layers=1, n_heads=2, d_model=6, d_head=3, d_vocab=48, n_ctx=16, d_mlp=0)


def states(folder: Path) -> tuple[Shape, dict[str, list]]:
    shape, state = stored.read(folder, native.SHAPE_FILE, Shape)
    return shape, {name: x.tolist() for name, x in state.items()}


def _frame(found) -> tuple[str, str]:
    return found.frame.to_csv(), repr(sorted(found.provenance.items(), key=str))


@pytest.fixture(scope="module")
def kinds(tiny_model, pairs):
    model = tiny_model("llama")
    results = interp.ablate(model, pairs, "heads", method="zero")

    def a_table(folder: Path):
        path = results.save(folder / "results.parquet")
        return lambda: _frame(interp.Results.load(path))

    def an_attribution(folder: Path):
        parts = [Part.parse(text) for text in ("0.1 -> 1.2.q", "embed -> logits")]
        made = Attribution.of(
            parts,
            np.arange(10.0).reshape(2, 5),
            cluster=["a", "b", "c", "d", "e"],
            method="eap",
            metric="logit_diff",
            provenance={"model": "m"},
        )
        path = made.save(folder / "attribution.parquet")
        return lambda: _frame(Attribution.load(path))

    def a_circuit(folder: Path):
        path = Circuit.of(["0.1 -> 1.2.q", "embed -> logits"], model="abc").save(folder / "c.json")

        def read():
            found = Circuit.load(path)
            return found, found.note

        return read

    def a_stage(folder: Path):
        run = open_run("flips", SHAPE, root=folder)

        def read():
            return _frame(run.stage("one", lambda _: results, of="it"))

        read()
        return read

    def a_run(folder: Path):
        run = open_run("flips", SHAPE, root=folder)
        run.finish(results, "done")
        (run.folder / "config.json").unlink()

        def read():
            again = open_run("flips", SHAPE, root=folder)
            if not again.finished:
                return "anew"
            return _frame(again.results()), report(again.folder).partition("wrote")[0]

        return read

    def a_checkpoint(folder: Path):
        store = Finished(folder, ["a question"])
        store.save(np.linspace(0, 1, 12).reshape(3, 4))

        def read():
            found = store.load()
            return "anew" if found is None else found.tolist()

        return read

    def a_capture(folder: Path):
        interp.capture(model, pairs, ["1.1", "0.resid_post"], folder=folder / "kept", batch=2)

        def read():
            found = Captured.load(folder / "kept")
            rows = [r.tolist() for site in found.sites for r in found.rows(site)]
            return rows, repr(found.provenance), found.positions

        return read

    def a_collection(folder: Path):
        text = "The\tx\nMary\tx\nJohn\ty\n\nit\tx\nto\ty\nMary\tx\n"
        (folder.parent / "words.tsv").write_text(text)
        corpus = interp.datasets.corpus(folder.parent / "words.tsv")
        interp.probing.collect(model, corpus, folder=folder / "kept")

        def read():
            found = Features.load(folder / "kept")
            x = found.stack(np.arange(len(found)), sites=found.sites).tolist()
            return x, found.sentence.tolist(), found.word.tolist(), repr(found.provenance)

        return read

    def a_reference(folder: Path):
        path = MeanReference.fit(model, pairs, ["1.1", "0.mlp"]).save(folder / "means.safetensors")

        def read():
            found = MeanReference.load(path)
            means = [[x.tolist() for x in part.values()] for part in found.means.values()]
            return means, repr(found.sizes), found.weights, found.model

        return read

    def a_saved_model(folder: Path):
        native.save(native.build(SHAPE, name="m"), folder)

        return lambda: states(folder)

    def a_toy(folder: Path):
        rows = interp.datasets.repeated(8, vocabulary=48, pos=16, seed=0, block=(2, 3))
        given = {"held_out": rows, "steps": 2, "folder": folder, "recipe": Recipe(batch=4)}
        toy.train(SHAPE, rows, checkpoints=1, **given)

        def read():
            found = toy.train(SHAPE, rows, checkpoints=1, **given)
            states = [stored.read(step, native.SHAPE_FILE, Shape) for step in folder.glob("step-*")]
            return found.curve.to_csv(), [
                (shape, sorted((n, x.tolist()) for n, x in state.items()))
                for shape, state in states
            ]

        return read

    def a_tensor_file(folder: Path):
        path = folder / "x.safetensors"
        write_tensors(path, {"a": torch.arange(5.0), "b": torch.ones(2, 3).bfloat16()}, {"n": 1})

        def read():
            with open_tensors(path, remedy="Make it again.") as held:
                return {name: held.read(name).tolist() for name in held.names}, held.note

        return read

    made = (a_table, an_attribution, a_circuit, a_stage, a_run, a_checkpoint, a_capture)
    made += (a_collection, a_reference, a_saved_model, a_toy, a_tensor_file)
    return {one.__name__: one for one in made}


NAMES = (
    *("a_table", "an_attribution", "a_circuit", "a_stage", "a_run", "a_checkpoint", "a_capture"),
    *("a_collection", "a_reference", "a_saved_model", "a_toy", "a_tensor_file"),
)


def outcome(read: Callable[[], Any], before: Any, path: Path, data: bytes) -> str:
    """What comes of a damaged file: "refused", "anew" or "same"; else "in silence"."""
    heard: list[str] = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        handler = logging.Handler()
        handler.emit = lambda record: heard.append(record.getMessage())
        logging.getLogger("interp").addHandler(handler)
        try:
            found = read()
        except InterpError as error:
            return "refused" if str(path) in str(error) else "in silence"
        finally:
            logging.getLogger("interp").removeHandler(handler)
    told = path.name in " ".join([*heard, *(str(one.message) for one in warned)])
    if found == "anew" or path.read_bytes() != data:
        return "anew" if told else "in silence"
    return "same" if found == before else "in silence"


@pytest.mark.plain
@pytest.mark.filterwarnings("ignore:mean ablation")
@pytest.mark.parametrize("name", NAMES)
def test_no_flipped_bit_gives_other_numbers_in_silence(name, kinds, tmp_path):
    read = kinds[name](tmp_path)
    before = read()
    files = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    sizes = np.array([path.stat().st_size for path in files])
    generator = np.random.default_rng(0)
    came = Counter[str]()
    for _ in range(FLIPS):
        path = files[generator.choice(len(files), p=sizes / sizes.sum())]
        kept = path.read_bytes()
        data, at = bytearray(kept), int(generator.integers(8 * len(kept)))
        data[at // 8] ^= 1 << at % 8
        path.write_bytes(data)
        found = outcome(read, before, path, bytes(data))
        assert found != "in silence", f"bit {at} of {path.relative_to(tmp_path)}"
        came[found] += 1
        path.write_bytes(kept)
    assert read() == before
    assert came["same"] < 0.2 * FLIPS, came  # nearly every byte counts


@pytest.mark.plain
def test_what_belongs_elsewhere_is_refused(kinds, tmp_path):
    """Whole files, of another place: exchanged, doubled, of another model or question."""
    folder = tmp_path / "a"
    read = kinds["a_capture"](folder)
    shards = sorted((folder / "kept").glob("shard-*"))
    first, second = (shard.read_bytes() for shard in shards[:2])
    shards[0].write_bytes(second)
    with pytest.raises(InterpError, match="shard-00000.*a file was exchanged"):
        read()
    shards[0].write_bytes(first)
    shards[1].write_bytes(first)
    with pytest.raises(InterpError, match="shard-00001.*a file was exchanged"):
        read()
    shards[1].write_bytes(second)
    read()
    one, other = Finished(tmp_path, ["one"]), Finished(tmp_path, ["other"])
    one.save(np.zeros((2, 3)))
    other.path.write_bytes(one.path.read_bytes())
    assert other.load() is None


def test_features_are_refused_where_damaged(tmp_path):
    with pytest.raises(InterpError, match="no collection in"):
        Features.load(tmp_path)
    (tmp_path / "index.json").write_text('{"shards": [{"file": "../x"}]}')
    with pytest.raises(InterpError, match="carries no checksum"):
        Features.load(tmp_path)


def test_the_cache_of_a_model_by_every_byte(tmp_path):
    """A small folder under a manifest: each flip is a fault."""
    home = tmp_path / "home"
    home.mkdir()
    weights = {"a": torch.arange(3.0)}
    save_file(weights, home / "model.safetensors")
    (home / "config.json").write_text("{}")
    wheel = shipped.Wheel("p", "1", "0", digest(weights), "x", lambda a, b: None)
    shipped._list("x", wheel, home)
    assert shipped._fault(home, wheel) == ""
    for path in home.iterdir():
        kept = path.read_bytes()
        for at in range(8 * len(kept)):
            data = bytearray(kept)
            data[at // 8] ^= 1 << at % 8
            path.write_bytes(data)
            assert shipped._fault(home, wheel), (path.name, at)
        path.write_bytes(kept)
    assert shipped._fault(home, wheel) == ""
