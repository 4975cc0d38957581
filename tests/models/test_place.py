"""What cannot be is refused before anything is read."""

from pathlib import Path

import pytest
import torch

from interp.core.errors import ModelError
from interp.models.finding.place import DTYPES, device_of, dtype_of, name_of, revision_of

CPU = torch.device("cpu")


def test_what_can_be():
    assert name_of("gpt2") == "gpt2"
    assert name_of(Path("a")) == Path("a")
    assert device_of("cpu") == device_of(CPU) == CPU
    for name, dtype in DTYPES.items():
        assert {dtype_of(given, CPU) for given in (dtype, name, f"torch.{name}")} == {dtype}
    assert (revision_of(None), revision_of("main")) == (None, "main")


@pytest.mark.parametrize("name", [None, 3, 2.5, True, [], (), b"gpt2", "", "  ", {1: 2}], ids=str)
def test_what_is_no_name(name):
    with pytest.raises(ModelError, match=r"is no name of a model. Give a shipped.*hub id.*folder"):
        name_of(name)


@pytest.mark.parametrize(
    "dtype",
    [None, 32, float, "float33", "auto", "", torch.int8, torch.complex64, torch.float8_e4m3fn, []],
    ids=str,
)
def test_what_is_no_precision(dtype):
    with pytest.raises(
        ModelError, match=r"dtype=.* is no precision.*torch.float32, torch.bfloat16"
    ):
        dtype_of(dtype, CPU)


@pytest.mark.parametrize("device", [None, 3, True, [], "", "gpu", "meta", "cuda:x", "xpu", b"cpu"])
def test_what_is_no_device(device):
    with pytest.raises(ModelError, match="device=.* is no device. Give 'auto', 'cpu', 'cuda'"):
        device_of(device)


def test_float64_does_not_exist_on_mps(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    where = device_of("mps")
    assert dtype_of("float32", where) == torch.float32
    with pytest.raises(ModelError, match="float64 on device='mps'.*device='cpu', or dtype=torch.f"):
        dtype_of("float64", where)


@pytest.mark.parametrize("revision", [5, "", [], b"main", True], ids=str)
def test_what_is_no_revision(revision):
    with pytest.raises(ModelError, match=r"revision=.* is no branch, tag or commit of the hub"):
        revision_of(revision)
