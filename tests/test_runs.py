import copy
import json
import os
import re
import runpy
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from doors import complaints
from forks import forked
from matplotlib.figure import Figure

import interp
from interp import runs
from interp.core.errors import ResultsError
from interp.core.files.identity import Unreadable
from interp.core.files.sealed import read_note
from interp.core.tables.results import Results
from interp.runs import config_hash, interval, open_run, report

ROOT = Path(runs.__file__).parents[2]


class Task(Enum):
    IOI = "ioi"


@dataclass(frozen=True)
class Inner:
    layers: tuple[int, ...] = (0, 1)


@dataclass(frozen=True)
class Config:
    model: str = "smollm2-135m"
    n: int = 64
    data: Path = Path("a/b")
    task: Task = Task.IOI
    inner: Inner = Inner()
    out: Path = field(default=Path("runs"), metadata={"hash": False})


def small(effect: float = 1.0) -> Results:
    n = 6
    frame = pd.DataFrame(
        {
            "method": "zero",
            "site": "0.1",
            "position": "end",
            "receiver": None,
            "direction": "noise",
            "metric": "logit_diff",
            "kind": "z",
            "layer": 0,
            "head": 1,
            "through": None,
            "engine": "replay",
            "example": range(n),
            "cluster": range(n),
            "base": 3.0,
            "value": 3.0 + effect,
            "effect": effect,
        }
    )
    return Results(frame, {"model": "tiny", "null": 0.0, "shape": (2, 3)})


def drawing() -> Figure:
    figure = Figure(figsize=(2, 2))
    figure.subplots().scatter([0, 1], [1, 0], label="a")
    figure.axes[0].set_title("hello")
    return figure


def test_same_config_same_folder_and_what_the_hash_leaves_out():
    assert config_hash(Config()) == config_hash(Config(out=Path("elsewhere")))
    assert config_hash(Config()) != config_hash(Config(n=65))
    assert config_hash(Config()) != config_hash(Config(inner=Inner((0, 2))))
    assert config_hash(Config(n=np.int64(64))) == config_hash(Config())
    assert re.fullmatch(r"[0-9a-f]{12}", config_hash(Config()))


def test_hash_does_not_change_between_versions_of_this_library():
    """Every finished run would be computed again."""
    assert config_hash(Inner()) == "67c0b618110d"


def test_dtypes_and_sets_have_a_stable_text():
    torch = pytest.importorskip("torch")

    @dataclass(frozen=True)
    class Odd:
        dtype: object = torch.float32
        device: object = torch.device("cpu")
        array_dtype: object = np.dtype("float64")
        words: frozenset[str] = frozenset({"b", "a"})
        rate: float = np.float32(0.5)

    assert runs.plain(Odd(), "config") == {
        "dtype": "torch.float32",
        "device": "cpu",
        "array_dtype": "float64",
        "words": ["a", "b"],
        "rate": 0.5,
    }


def test_config_that_has_no_text_is_refused():
    @dataclass(frozen=True)
    class Bad:
        inner: tuple = (1, print)

    with pytest.raises(ResultsError, match=r"config\.inner\.1 is a builtin_function_or_method"):
        config_hash(Bad())
    with pytest.raises(ResultsError, match="write Config\\(\\) with its brackets"):
        config_hash(Config)
    with pytest.raises(ResultsError, match="frozen dataclass, not {'n': 3}"):
        config_hash({"n": 3})


def test_folder_holds_config_and_provenance(tmp_path):
    run = open_run("ioi", Config(), root=tmp_path)
    assert run.folder == tmp_path / "ioi" / config_hash(Config())
    assert read_note(run.folder / "config.json", remedy="") == {
        "model": "smollm2-135m",
        "n": 64,
        "data": "a/b",
        "task": "IOI",
        "inner": {"layers": [0, 1]},
        "out": "runs",
    }
    (session,) = json.loads((run.folder / "provenance.json").read_text())["sessions"]
    assert session["python"] == ".".join(map(str, sys.version_info[:3]))
    assert session["versions"]["pandas"] == pd.__version__
    assert set(session) == {"python", "versions", "platform", "cpus", "commit"}


def test_reopening_records_another_version_once(tmp_path, monkeypatch):
    run = open_run("ioi", Config(), root=tmp_path)
    open_run("ioi", Config(), root=tmp_path)
    monkeypatch.setattr("interp.runs.machine._version", lambda package: "9.9")
    open_run("ioi", Config(), root=tmp_path)
    sessions = json.loads((run.folder / "provenance.json").read_text())["sessions"]
    assert len(sessions) == 2
    assert sessions[1]["versions"]["torch"] == "9.9"


def test_no_git_no_commit(monkeypatch):
    def gone(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", gone)
    assert runs.provenance()["commit"] is None


def test_stage_computes_once_and_gives_what_it_saved(tmp_path):
    run, calls = open_run("ioi", Config(), root=tmp_path), []

    def compute(checkpoint: Path) -> Results:
        calls.append(checkpoint)
        assert checkpoint.is_dir() and not list(checkpoint.iterdir())
        (checkpoint / "chunk").write_text("half")
        return small()

    first, second = run.stage("heads", compute), run.stage("heads", compute)
    assert len(calls) == 1 and not calls[0].exists()
    pd.testing.assert_frame_equal(first.frame, second.frame)
    assert first.provenance == second.provenance == {"model": "tiny", "null": 0.0, "shape": [2, 3]}


def test_stage_keeps_the_checkpoint_when_it_fails(tmp_path):
    run = open_run("ioi", Config(), root=tmp_path)

    def fails(checkpoint: Path) -> Results:
        (checkpoint / "chunk").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.stage("heads", fails)

    def resumes(checkpoint: Path) -> Results:
        assert (checkpoint / "chunk").read_text() == "half"
        return small()

    run.stage("heads", resumes)


def test_stage_refuses_what_is_not_results(tmp_path):
    run = open_run("ioi", Config(), root=tmp_path)
    with pytest.raises(ResultsError, match="stage 'heads' gave a NoneType, not Results.*return"):
        run.stage("heads", lambda checkpoint: None)
    assert not list((run.folder).glob("stages/*"))


def test_stage_of_another_version_is_refused(tmp_path):
    run = open_run("ioi", Config(), root=tmp_path)
    run.stage("heads", lambda checkpoint: small())
    path = run.folder / "stages" / "heads.parquet"
    table = pq.read_table(path)
    note = {b"interp": json.dumps({"version": 0, "provenance": {}}).encode()}
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, **note}), path)
    with pytest.raises(ResultsError, match="has results version 0"):
        run.stage("heads", lambda checkpoint: small())


LIMIT = [0.5]


def test_stage_of_other_values_is_computed_again_and_said(tmp_path, monkeypatch, caplog):
    """A global, a closure, an argument, a file that is read: each is part of the question."""
    run, table = open_run("ioi", Config(), root=tmp_path), tmp_path / "limits.csv"
    table.write_text("0.5")

    def from_a_global(checkpoint: Path) -> Results:
        return small(LIMIT[0])

    def closing_over(value: float):
        return lambda checkpoint: small(value)

    def from_a_file(checkpoint: Path) -> Results:
        return small(float(table.read_text()))

    def twice(name, compute, effect):
        for _ in range(2):
            found = run.stage(name, compute)
            assert (found.frame["effect"] == effect).all()

    for name, first, change, second in (
        ("global", from_a_global, lambda: LIMIT.__setitem__(0, 0.25), from_a_global),
        ("closure", closing_over(0.5), lambda: None, closing_over(0.25)),
        ("partial", partial(halved, 1.0), lambda: None, partial(halved, 0.5)),
        ("file", from_a_file, lambda: table.write_text("0.25"), from_a_file),
        ("code", lambda _: small(0.5), lambda: None, lambda _: small(0.25)),
    ):
        caplog.clear()
        twice(name, first, 0.5)
        assert not caplog.records
        change()
        twice(name, second, 0.25)
        [record] = caplog.records
        today = datetime.now().strftime("%Y-%m-%d")
        assert re.search(rf"stage '{name}' of {today} .* computed again", record.getMessage())
    monkeypatch.setitem(globals(), "LIMIT", [0.5])


def halved(value: float, checkpoint: Path) -> Results:
    return small(0.5 * value)


def test_stage_that_reads_from_a_folder(tmp_path):
    """The name of the file may be made in the function; the folder is what can be seen."""
    folder = tmp_path / "data"
    (folder / "inner").mkdir(parents=True)
    text, run = str(folder), open_run("ioi", Config(), root=folder)  # its own run lies there, too

    def by_path(checkpoint: Path) -> Results:
        return small(float((folder / "inner" / "a.csv").read_text()))

    def by_text(checkpoint: Path) -> Results:
        with open(f"{text}/inner/a.csv") as file:
            return small(float(file.read()))

    def by_another(checkpoint: Path) -> Results:
        return by_path(checkpoint)

    for name, compute in (("path", by_path), ("text", by_text), ("another", by_another)):
        for value in (0.5, 0.25):
            (folder / "inner" / "a.csv").write_text(f"{value}")
            assert run.stage(name, compute).frame["effect"][0] == value
        written = run.folder / "stages" / f"{name}.parquet"
        before = written.stat().st_mtime_ns
        (folder / ".hidden").write_text(name)
        run.stage(name, compute)
        assert written.stat().st_mtime_ns == before


def test_stage_that_reads_no_file_does_not_look_into_folders(tmp_path):
    run, calls = open_run("ioi", Config(), root=tmp_path / "runs"), []

    def writes(checkpoint: Path) -> Results:
        return small(0.0 if (tmp_path / "out").exists() else 1.0)

    for name in "ab":
        calls.append(run.stage("writes", writes).frame["effect"][0])
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / name).touch()
    assert calls == [1.0, 1.0]


def test_a_folder_of_too_many_files_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("interp.core.files.identity.lying.MANY", 2)
    folder = tmp_path / "data"
    folder.mkdir()
    for name in "abc":
        (folder / name).write_text("0.5")

    def reads(checkpoint: Path) -> Results:
        return small(float((folder / "a").read_text()))

    run = open_run("ioi", Config(), root=tmp_path)
    with pytest.raises(Unreadable, match=r"data holds more than 2 files.* of=\[model, pairs\]"):
        run.stage("a", reads)
    assert run.stage("a", reads, of="these").frame["effect"][0] == 0.5
    with pytest.raises(ResultsError, match="data holds more than 2 files.*metadata="):
        open_run("ioi", Config(data=folder), root=tmp_path)


def test_a_finished_run_is_not_of_other_files_in_a_folder(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.csv").write_text("1")
    config = Config(data=folder, out=tmp_path)
    run = open_run("ioi", config, root=folder)
    run.finish(small(), "done")
    assert open_run("ioi", config, root=folder).finished  # its own files are none of them
    (folder / "a.csv").write_text("22")
    assert not open_run("ioi", config, root=folder).finished


def test_stage_of_prompts_and_weights_as_they_are(tiny_model, pairs, tmp_path):
    """The right numbers are those of a folder where nothing was kept."""
    model = copy.deepcopy(tiny_model("gpt2"))
    run = open_run("ioi", Config(), root=tmp_path)

    def asked(pairs: interp.Pairs):
        kept = run.stage("behaviour", lambda _: interp.evaluate(model, pairs))
        fresh = interp.evaluate(model, pairs)
        pd.testing.assert_frame_equal(kept.frame, fresh.frame, check_exact=True)
        return kept.frame["value"].to_numpy()

    first = asked(pairs)
    other = asked(pairs.select([1, 0, 2, 3, 4]))
    assert np.abs(first - other).max() > 1e-6
    with torch.no_grad():
        model.bridge.original_model.transformer.h[0].mlp.c_fc.weight.mul_(1.5)
    assert np.abs(asked(pairs) - first).max() > 1e-6


def test_stage_that_cannot_be_told_from_another_says_what_to_do(tmp_path):
    run, numbers = open_run("ioi", Config(), root=tmp_path), iter([1.0, 2.0, 3.0])
    with pytest.raises(Unreadable, match=r"stage 'a' .* 'n', which .* of=\[model, pairs\]"):
        run.stage("a", (lambda n: lambda _: small(next(n)))(x for x in numbers))
    assert not (run.folder / "stages").exists()
    for of, effect in ((1, 1.0), (1, 1.0), (2, 2.0), (2, 2.0), (1, 3.0)):
        assert run.stage("a", lambda _: small(next(numbers)), of=of).frame["effect"][0] == effect


def test_a_finished_run_is_not_of_another_models_folder(tmp_path):
    (tmp_path / "toy").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "toy" / name).write_text("a")
    config = Config(model=str(tmp_path / "toy"))
    run = open_run("ioi", config, root=tmp_path)
    run.finish(small(), "done")
    assert run.finished and open_run("ioi", config, root=tmp_path).finished
    (tmp_path / "toy" / "model.safetensors").write_text("b")
    again = open_run("ioi", config, root=tmp_path)
    assert again.folder == run.folder and not again.finished
    again.finish(small(2.0), "done")
    assert open_run("ioi", config, root=tmp_path).finished


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b"])
def test_names_that_are_no_file_names_are_refused(tmp_path, name):
    run = open_run("ioi", Config(), root=tmp_path)
    with pytest.raises(ResultsError, match="cannot name an experiment"):
        open_run(name, Config(), root=tmp_path)
    with pytest.raises(ResultsError, match="cannot name a stage"):
        run.stage(name, lambda checkpoint: small())
    with pytest.raises(ResultsError, match="cannot name a figure"):
        run.figure(name, drawing(), pd.DataFrame())


def test_figure_has_three_forms_and_its_table(tmp_path):
    run = open_run("ioi", Config(), root=tmp_path)
    table = pd.DataFrame({"site": ["23.3"], "effect": [0.1 + 0.2]})
    written = run.figure("heads.v2", drawing(), table)
    assert [p.name for p in written] == [
        f"heads.v2.{kind}" for kind in ("csv", "pdf", "png", "svg")
    ]
    assert sorted(p.name for p in (run.folder / "figures").iterdir()) == [p.name for p in written]
    again = pd.read_csv(written[0], dtype={"site": str})
    pd.testing.assert_frame_equal(again, table)
    first = [p.read_bytes() for p in written]
    assert [p.read_bytes() for p in run.figure("heads.v2", drawing(), table)] == first
    pdf, svg = first[1], first[3]
    assert b"Date" not in pdf and b"/FontFile2" in pdf
    assert b"dc:date" not in svg and b">hello<" in svg


def test_finish_writes_the_results_last(tmp_path, monkeypatch):
    run = open_run("ioi", Config(), root=tmp_path)
    assert not run.finished
    with pytest.raises(ResultsError, match="there is no results file"):
        run.results()

    with monkeypatch.context() as patch:
        patch.setattr(Results, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run.finish(small(), "# IOI\n")
    assert not run.finished
    run.finish(small(), "# IOI\n\n")
    assert (run.folder / "summary.md").read_text() == "# IOI\n"
    assert open_run("ioi", Config(), root=tmp_path).finished
    assert len(run.results()) == 6


def test_finished_run_is_opened_without_writing(tmp_path):
    run = open_run("ioi", Config(), root=tmp_path)
    run.finish(small(), "done")
    before = {p: p.stat().st_mtime_ns for p in run.folder.rglob("*")}
    open_run("ioi", Config(), root=tmp_path).results()
    assert {p: p.stat().st_mtime_ns for p in run.folder.rglob("*")} == before


def test_folder_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match=r"cannot write .*file.*choose a root folder that you"):
        open_run("ioi", Config(), root=tmp_path / "file")


def test_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    run = open_run("ioi", Config(), root=tmp_path)
    run.figure("a", drawing(), pd.DataFrame({"x": [1]}))
    old = (run.folder / "figures" / "a.csv").read_bytes()

    def full(self, data):
        with open(self, "wb") as file:
            file.write(data[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ResultsError, match="a.csv: No space left on device.*has room"):
        run.figure("a", drawing(), pd.DataFrame({"x": [2]}))
    assert (run.folder / "figures" / "a.csv").read_bytes() == old
    assert len(list((run.folder / "figures").iterdir())) == 4


SCRIPT = """
import os, signal, sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from interp.core.results import Results
from interp.runs import open_run

root = Path(sys.argv[1])


@dataclass(frozen=True)
class Config:
    n: int = 6


def say(word):
    with open(root / ".count", "a") as file:  # hidden: no part of what a stage reads
        file.write(word + "\\n")


def make(layer):
    def compute(checkpoint):
        parts = []
        for head in range(3):
            chunk = checkpoint / f"{head}.npy"
            if not chunk.exists():
                say(f"{layer}.{head}")
                np.save(chunk, np.random.default_rng([layer, head]).normal(size=6))
            if (root / f".die-{layer}.{head}").exists():
                os.kill(os.getpid(), signal.SIGKILL)
            effect = np.load(chunk)
            parts.append(pd.DataFrame({
                "method": "zero", "site": f"{layer}.{head}", "position": None, "receiver": None,
                "direction": "noise", "metric": "logit_diff", "kind": "z", "layer": layer,
                "head": head, "through": None, "engine": "replay", "example": range(6),
                "cluster": range(6), "base": 0.0, "value": effect, "effect": effect}))
        return Results(pd.concat(parts, ignore_index=True), {"null": 0.0, "shape": (1, 2)})
    return compute


run = open_run("ioi", Config(), root=root)
stages = [run.stage(f"layer{i}", make(i)) for i in range(3)]
run.finish(Results.concat(stages), "done")
"""


@pytest.mark.plain
def test_killed_run_resumes_where_it_was(tmp_path):
    """In another process, which draws other hashes of its own."""
    script = tmp_path / "experiment.py"
    script.write_text(SCRIPT)

    def here(root: str) -> None:
        sys.argv = [str(script), str(tmp_path / root)]
        runpy.run_path(str(script), run_name="__main__")

    for root in ("a", "b"):
        (tmp_path / root).mkdir()
    (tmp_path / "a" / ".die-1.1").touch()
    assert forked(lambda: here("a")) == -signal.SIGKILL
    (folder,) = (tmp_path / "a" / "ioi").iterdir()
    assert [p.name for p in (folder / "stages").iterdir()] == ["layer0.parquet"]
    assert not (folder / "results.parquet").exists()

    (tmp_path / "a" / ".die-1.1").unlink()
    command = [sys.executable, str(script), str(tmp_path / "a")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    resumed = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert resumed.returncode == 0, resumed.stderr
    assert forked(lambda: here("b")) == 0
    cells = [f"{layer}.{head}" for layer in range(3) for head in range(3)]
    assert (tmp_path / "a" / ".count").read_text().split() == cells  # nothing was done twice
    (other,) = (tmp_path / "b" / "ioi").iterdir()
    assert other.name == folder.name
    for name in ("results.parquet", "summary.md", "config.json"):
        assert (folder / name).read_bytes() == (other / name).read_bytes()
    assert not list((folder / ".checkpoint").iterdir())


def test_a_number_with_its_interval():
    row = pd.Series({"value": 0.5, "effect": -0.25, "low": -0.375, "high": 0.125})
    assert interval(row) == "0.500 [-0.375, 0.125]"
    assert interval(row, "effect", digits=1) == "-0.2 [-0.4, 0.1]"


def test_the_report_names_what_was_written_and_nothing_hidden(tmp_path):
    for name in ("summary.md", "figures/a.pdf", ".checkpoint/part.parquet"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("It is so.")
    said = report(tmp_path)
    assert "It is so." in said
    assert [line for line in said.splitlines() if line.startswith("wrote")] == [
        f"wrote {tmp_path / 'figures' / 'a.pdf'}",
        f"wrote {tmp_path / 'summary.md'}",
    ]


@pytest.mark.plain
def test_wrong_arguments_are_refused_in_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = open_run("done", Config(), root=tmp_path)
    done.finish(small(), "all is well")
    run = open_run("new", Config(), root=tmp_path)
    row = pd.Series({"value": 0.5, "low": 0.25, "high": 0.75, "site": "0.1"})
    found = complaints(
        [
            (runs.Run, {"folder": tmp_path, "files": ""}),
            (run.stage, {"name": "a", "compute": lambda folder: small(), "of": None}),
            (run.figure, {"name": "a", "figure": drawing(), "table": pd.DataFrame({"a": [1]})}),
            (run.finish, {"results": small(), "summary": "all is well"}),
            (open_run, {"name": "a", "config": Config(), "root": tmp_path}),
            (interval, {"row": row, "column": "value", "digits": 3}),
            (report, {"folder": done.folder}),
            (config_hash, {"config": Config()}),
            (runs.plain, {"value": Config(), "where": "config", "hashed_only": True}),
        ],
        tmp_path,
    )
    assert not found, "\n".join(found)


def test_a_damaged_provenance_is_refused(tmp_path):
    run = open_run("a", Config(), root=tmp_path)
    (run.folder / "provenance.json").write_text('{"sess')
    with pytest.raises(ResultsError, match=r"provenance\.json carries no checksum.*Move it away"):
        open_run("a", Config(), root=tmp_path)
