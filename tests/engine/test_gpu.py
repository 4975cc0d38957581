"""On a real CUDA device: the same numbers as on the CPU. The rest of the suite runs there as well,
since models load where there is one."""

import numpy as np
import pytest
import torch
from conftest import REPLAYED

import interp
from interp.models.model import Model

pytestmark = [
    pytest.mark.gpu,
    # there is nothing to compare on a machine without one; test_device.py pretends to have it
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(params=REPLAYED)
def both(request, tiny_model) -> tuple[Model, Model]:
    """One tiny model on each device."""
    there = tiny_model(request.param)
    return interp.load(there.name, device="cpu", dtype=torch.float64), there


@pytest.mark.parametrize("engine", ["replay", "hooks"])
def test_the_device_changes_no_number(both, pairs, engine):
    found = []
    for model in both:
        metric = "logit_diff" if model.facts.language_model else "cosine"
        call = {"metric": metric, "engine": engine}
        found.append(
            [
                interp.ablate(model, pairs, ["heads", "mlps"], method="zero", **call),
                interp.patch(model, pairs, ["1.0.pattern", "0.0 -> 2.1.q", "1.mlp[2]"], **call),
                interp.path_patch(
                    model, pairs, senders=["0.1", "0.mlp"], via=["1.0.q"], ln="freeze", **call
                ),
            ]
        )
    assert both[1].device.type == "cuda"
    for here, there in zip(*found, strict=True):
        assert np.abs(here.frame["value"] - there.frame["value"]).max() < 1e-9


def test_nothing_stays_on_the_device(tiny_model, pairs):
    """A sweep gives back what it took."""
    model = tiny_model("llama")
    interp.ablate(model, pairs, "heads", method="zero")
    before = torch.cuda.memory_allocated()
    interp.ablate(model, pairs, "heads", method="zero")
    kept = interp.capture(model, pairs, "layers", positions=["end"])
    assert torch.cuda.memory_allocated() == before
    assert kept["1.resid_post"].device.type == "cpu"
