"""Public calls on a CUDA device that PyTorch pretends to have: its numbers, and its launches."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1]
MOST = {"ablate": 9_000, "ablate-end": 8_000, "path-logits": 8_000}
"""Operations that launch work, of a sweep over 270 heads."""
OF_GRADIENTS = ("attribute", "optimal constants")
"""What goes backward: a device adds up gradients in an order of its own."""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """In a process of its own: what stands in for a device stands there until it ends."""
    if shutil.which("g++") is None:
        pytest.skip("the guard of a pretended device is compiled with g++")
    out = tmp_path_factory.mktemp("devices") / "told.json"
    path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(HERE / "on_devices.py"), str(out)]
    own = {"PYTHONPATH": path, "HF_DEACTIVATE_ASYNC_LOAD": "1"}
    subprocess.run(command, check=True, env={**os.environ, **own})
    return json.loads(out.read_text())


@pytest.mark.plain
@pytest.mark.parametrize("where", ["compared", "shared out"])
def test_every_call_gives_the_numbers_of_the_processor(told, where):
    """To the bit; what goes backward to four units in the last place of the largest number."""
    assert len(told[where]) >= 35
    most = {name: 2**-50 for name in told[where] if name.startswith(OF_GRADIENTS)}
    wrong = {n: found for n, found in told[where].items() if not in_reach(found, most.get(n, 0.0))}
    assert not wrong


def in_reach(found: float | str, most: float) -> bool:
    return isinstance(found, float) and found <= most


@pytest.mark.plain
def test_a_sweep_launches_as_much_as_one_run_of_all_cells(told):
    for name, most in MOST.items():
        found = told["counted"][name]
        assert 1_000 < found["launched"] <= most, (name, found)
        assert found["waits"] <= 24, (name, found)


@pytest.mark.plain
def test_a_plan_tells_what_a_sweep_launches(told):
    """A norm is one operation of a GPU; what is pretended makes as many of it as a CPU."""
    for name in MOST:
        found = told["counted"][name]
        launched = found["launched"] - found["spelt"]
        assert abs(found["predicted"] / launched - 1) < 0.1, (name, found)
        assert found["waits predicted"] == found["waits"], (name, found)
