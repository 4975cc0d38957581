"""A sweep from the outside: its table, its checkpoint, which engine ran and what it says."""

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from budgets import least

import interp
from interp.core.errors import Unsupported
from interp.core.metrics import METRICS, Metric
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs
from interp.core.tables.results import COLUMNS
from interp.engine.engines.hooked import writes
from interp.engine.interventions import Add, Cell, Intervention, Scale, Set, Value
from interp.engine.plan.edits import Together
from interp.engine.plan.explain import explain
from interp.engine.sweep.run import run
from interp.engine.sweep.sweep import Sweep
from interp.models.model import Model


@pytest.fixture
def llama(tiny_model: Callable[..., Model]) -> Model:
    return tiny_model("llama")


def ablate(model: Model, pairs: Pairs, **options) -> interp.Results:
    return interp.ablate(model, pairs, ["heads", "mlps"], method="zero", **options)


# the table


def test_columns_say_what_was_done(llama, pairs):
    found = interp.path_patch(
        llama, pairs, senders=["0.1", "0.mlp"], receivers=["2.3.q", "2.mlp"], direction="denoise"
    )
    frame = found.frame
    assert list(frame.columns) == COLUMNS
    assert len(frame) == 2 * len(pairs)
    assert list(frame["site"][::5]) == ["0.1", "0.mlp"]
    assert list(frame["kind"][::5]) == ["z", "mlp_out"]
    assert list(frame["layer"]) == [0] * 10
    assert list(frame["head"][:5]) == [1] * 5
    assert frame["head"][5:].isna().all()  # an MLP has none, and none is not 0
    assert list(frame["example"]) == [0, 1, 2, 3, 4] * 2
    assert list(frame["cluster"]) == list("abacc") * 2
    for column, value in {
        "method": "path_patch",
        "receiver": "2.3.q+2.mlp",
        "through": "mlps",
        "direction": "denoise",
        "position": "all",
        "metric": "logit_diff",
        "engine": "replay",
    }.items():
        assert set(frame[column]) == {value}, column
    assert np.array_equal(frame["value"] - frame["base"], frame["effect"])


@pytest.mark.parametrize("engine", ["replay", "hooks"])
def test_provenance_says_what_the_numbers_came_from(llama, pairs, engine):
    found = ablate(llama, pairs, engine=engine)
    assert set(found.frame["engine"]) == {engine}
    assert set(found.frame["direction"]) == {"noise"}
    note = found.provenance
    assert note["weights"] == llama.weight_hash
    assert note["pairs"] == pairs.fingerprint
    assert note["engine"] == engine
    assert (note["dtype"], note["device"], note["bos"], note["prompts"]) == (
        *("float64", "cpu", "model"),
        5,
    )
    assert (note["base"], note["metric"]) == ("clean", "logit_diff")
    assert note["versions"]["torch"] == torch.__version__
    assert {"transformer-lens", "transformers", "interp"} <= set(note["versions"])
    assert 0 <= note["null"] < 1e-12


def test_the_null_control_catches_a_write_that_is_wrong(tiny_model, pairs, monkeypatch):
    """An engine whose writes are a little off."""
    site = Site.parse("1.resid_mid")
    cell = Cell("1.resid_mid", "all", (Intervention(site, Scale(0.5)),))
    right = Together.into

    def off(self: Together, x: torch.Tensor, *at: object, **more: int) -> None:
        right(self, x, *at, **more)
        x.mul_(1 + 1e-3)

    monkeypatch.setattr(Together, "into", off)
    wrong = Sweep(tiny_model("llama"), pairs, [cell], "test", "clean", (METRICS["logit_diff"],))
    with pytest.raises(interp.InterpError, match=r"null control failed: giving 1\.resid_mid .*e"):
        run(wrong)


def test_mean_references_are_counted(llama, pairs):
    with pytest.warns(UserWarning, match=r"smallest of 2 reference groups.* has 2 prompts.*30"):
        found = interp.ablate(llama, pairs, "0.mlp", method="mean")
    assert list(found.provenance["references"].values()) == [2]


def test_enough_prompts_raise_no_warning(llama, pairs, recwarn):
    many = pairs.select([0] * 30)
    interp.ablate(llama, many, "0.mlp", method="mean")
    assert not recwarn.list


@pytest.mark.parametrize("tight", [False, True])
def test_the_same_call_gives_the_same_table(llama, pairs, tight):
    memory = least(partial(ablate, llama, pairs)) if tight else None
    one, two = (ablate(llama, pairs, memory=memory) for _ in range(2))
    pd.testing.assert_frame_equal(one.frame, two.frame, check_exact=True)
    assert one.provenance == two.provenance


@pytest.mark.plain
def test_nothing_is_printed_when_no_one_watches(llama, pairs, capfd):
    ablate(llama, pairs, memory=least(partial(ablate, llama, pairs)))
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


# which engine


@pytest.mark.plain
def test_another_family_runs_through_hooks(tiny_model, pairs, caplog, monkeypatch):
    """Said once; replay by its name is refused with what it has."""
    monkeypatch.setattr("interp.engine.network.stacks.TWO_STACKS", ("MarianMTModel",))
    model = interp.load(tiny_model("t5").name, dtype=torch.float64)  # of which nothing is said yet
    with caplog.at_level(logging.WARNING, logger="interp"):
        with pytest.raises(Unsupported, match="T5ForConditionalGeneration") as refused:
            interp.patch(model, pairs, "mlps", engine="replay")
        assert "MarianMTModel" in str(refused.value)  # what replay does have
        assert "engine='hooks'" in str(refused.value)
        patched = interp.patch(model, pairs, ["enc.0.1", "dec.1.mlp", "dec.0.cross.2"])
        interp.ablate(model, pairs, "enc.0.attn", method="zero", positions="mid")
    said = [record.message for record in caplog.records]
    assert len(said) == 1
    assert model.facts.architecture in said[0]
    assert "Running through hooks" in said[0]
    assert set(patched.frame["engine"]) == {"hooks"}
    assert (patched.frame["effect"].abs() > 1e-6).all()


# the checkpoint

CHILD = """
import sys, torch, interp
from pathlib import Path
model = interp.load(sys.argv[1], dtype=torch.float64)
clean, corrupt = torch.load(sys.argv[2])
pairs = interp.Pairs.from_tokens(clean=clean, corrupt=corrupt, correct=[3, 5, 7], wrong=[4, 6, 8],
                                 positions={"mid": [2, 3, 4]})
torch.set_num_threads(1)
interp.ablate(model, pairs, ["heads", "mlps", "attn"], method="resample", positions="each",
              memory=int(sys.argv[4]), checkpoint=Path(sys.argv[3]))
"""


@pytest.mark.plain
def test_a_killed_run_goes_on(llama, tmp_path):
    """SIGKILL in the middle; what was finished is not computed again, and the table is the same."""
    generator = torch.Generator().manual_seed(3)
    clean, corrupt = (torch.randint(29, (3, 9), generator=generator) for _ in range(2))
    pairs = Pairs.from_tokens(
        clean=clean,
        corrupt=corrupt,
        correct=[3, 5, 7],
        wrong=[4, 6, 8],
        positions={"mid": [2, 3, 4]},
    )
    folder, script, tokens = tmp_path / "checkpoint", tmp_path / "child.py", tmp_path / "tokens.pt"
    options = {"method": "resample", "positions": "each"}
    options["memory"] = least(
        partial(interp.ablate, llama, pairs, ["heads", "mlps", "attn"], **options)
    )
    script.write_text(CHILD)
    torch.save((clean, corrupt), tokens)
    child = subprocess.Popen(
        [sys.executable, str(script), llama.name, str(tokens), str(folder), str(options["memory"])],
        cwd=Path(interp.__file__).parents[1],
        stderr=subprocess.PIPE,
    )
    try:
        give_up = time.monotonic() + 120
        while len(finished(folder)) < 20 and child.poll() is None and time.monotonic() < give_up:
            time.sleep(0.001)
    finally:
        child.send_signal(signal.SIGKILL)
        _, errors = child.communicate()
    assert child.returncode == -signal.SIGKILL, errors.decode()
    done = finished(folder)
    plan = explain(interp.ablate, llama, pairs, ["heads", "mlps", "attn"], **options)
    assert 20 <= len(done) < len(plan.batches)
    resumed = interp.ablate(llama, pairs, ["heads", "mlps", "attn"], checkpoint=folder, **options)
    after = finished(folder)
    assert len(after) == len(plan.batches)
    assert done.items() <= after.items()  # the same files, not written again
    unbroken = interp.ablate(llama, pairs, ["heads", "mlps", "attn"], **options)
    pd.testing.assert_frame_equal(resumed.frame, unbroken.frame, check_exact=True)
    assert resumed.provenance == unbroken.provenance


def finished(folder: Path) -> dict[str, int]:
    """When each finished batch was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}


def test_a_finished_checkpoint_runs_nothing(llama, pairs, tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(writes, "_call", lambda *args: ran.append(args) or CALL(*args))
    first = ablate(llama, pairs, engine="hooks", checkpoint=tmp_path)
    assert ran
    ran.clear()
    again = ablate(llama, pairs, engine="hooks", checkpoint=tmp_path)
    assert not ran, ran[0]
    pd.testing.assert_frame_equal(first.frame, again.frame, check_exact=True)
    assert first.provenance == again.provenance


CALL = writes._call


def scaled(factor: float) -> Metric:
    return Metric("mine", lambda logits, answers: factor * logits[..., 0], reads="answers")


def sweep(model: Model, pairs: Pairs, folder: Path, value: Value, **options) -> Sweep:
    cell = Cell("1.2", "all", (Intervention(Site.parse("1.2"), value),))
    given = {"method": "test", "base": "clean", "metrics": (METRICS["logit_diff"],)} | options
    return Sweep(model, pairs, [cell], checkpoint=folder, **given)


@pytest.mark.plain
def test_whatever_can_change_a_number_is_in_the_key(llama, tiny_model, pairs, tmp_path):
    """Each of these must be computed anew: none may load what another left behind."""
    shape = (*pairs.clean.shape, 4)
    ones = torch.ones(shape, dtype=torch.float64)
    other_pairs = pairs.select([1, 0, 2, 3, 4])
    cases = [
        sweep(llama, pairs, tmp_path, Scale(0.5)),
        sweep(llama, pairs, tmp_path, Scale(0.25)),
        sweep(llama, pairs, tmp_path, Set(ones)),
        sweep(llama, pairs, tmp_path, Set(2 * ones)),
        sweep(llama, pairs, tmp_path, Add(ones)),
        sweep(llama, pairs, tmp_path, Scale(0.5), base="corrupt"),
        sweep(llama, pairs, tmp_path, Scale(0.5), engine="hooks"),
        sweep(llama, pairs, tmp_path, Scale(0.5), metrics=(METRICS["log_prob"],)),
        sweep(llama, pairs, tmp_path, Scale(0.5), metrics=(scaled(2.0),)),
        sweep(llama, pairs, tmp_path, Scale(0.5), metrics=(scaled(3.0),)),
        sweep(
            llama, pairs, tmp_path, Scale(0.5), metrics=(Metric("two", lambda x, a: 2 * x[..., 0]),)
        ),
        sweep(
            llama, pairs, tmp_path, Scale(0.5), metrics=(Metric("two", lambda x, a: 3 * x[..., 0]),)
        ),
        sweep(llama, other_pairs, tmp_path, Scale(0.5)),
        sweep(tiny_model("llama-mha"), pairs, tmp_path, Scale(0.5)),
        sweep(tiny_model("llama", torch.float32), pairs, tmp_path, Scale(0.5)),
    ]
    for number, case in enumerate(cases):
        alone = run(Sweep(**{**vars(case), "checkpoint": None}))
        kept = run(case)
        assert len(finished(tmp_path)) == 2 * (number + 1), number  # one for each length
        pd.testing.assert_frame_equal(kept.frame, alone.frame, check_exact=True)
    before = finished(tmp_path)
    for case in cases:
        run(case)
    assert finished(tmp_path) == before


def test_a_folder_that_cannot_be_made_is_an_error(llama, pairs, tmp_path):
    taken = tmp_path / "file"
    taken.write_text("")
    with pytest.raises(interp.InterpError, match=r"cannot write into .*file is no folder"):
        ablate(llama, pairs, checkpoint=taken / "inside")
    assert taken.read_text() == ""
