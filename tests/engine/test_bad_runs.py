"""Runs that go wrong on the way: no memory, no numbers, patterns that are none."""

import numpy as np
import pytest
import torch

import interp
from interp.core.errors import InterpError, MetricError, ModelError, Unsupported
from interp.core.parts.sites import Site
from interp.engine.engines.replay import engine as replay
from interp.engine.interventions import Intervention, Scale, Set


@pytest.fixture
def llama(tiny_model):
    return tiny_model("llama")


def test_a_batch_that_does_not_fit_is_halved(llama, pairs, monkeypatch):
    """As often as it takes, and no number changes."""
    whole = interp.ablate(llama, pairs, "heads", method="zero").frame["value"]
    right, sizes = replay.wave, []

    def narrow(w, base, cells, **options):
        sizes.append(len(cells))
        if len(cells) > 4:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        return right(w, base, cells, **options)

    monkeypatch.setattr(replay, "wave", narrow)
    found = interp.ablate(llama, pairs, "heads", method="zero").frame["value"]
    assert np.abs(found - whole).max() < 1e-12
    assert sizes[:2] == [18 + 3, 3]  # with the null control, and without
    assert max(sizes[1:]) == 18
    assert min(sizes) <= 4


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_not_even_one_cell_fits(llama, pairs, monkeypatch, error):
    def never(*args, **options):
        raise error

    monkeypatch.setattr(replay, "wave", never)
    with pytest.raises(InterpError, match=r"single cell of \d prompts.*memory=500000, or free"):
        interp.ablate(llama, pairs, "heads", method="zero", memory=1_000_000)


def test_another_error_is_not_taken_for_it(llama, pairs, monkeypatch):
    def broken(*args, **options):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(replay, "wave", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        interp.ablate(llama, pairs, "heads", method="zero")


def test_a_run_that_is_not_finite_names_its_first_site(tiny_model, pairs):
    """Of the model itself: a damaged weight."""
    model = tiny_model("gpt2", torch.float32)
    weight = model.bridge.blocks[1].mlp.out.original_component.weight
    interp.evaluate(model, pairs)  # verified before the damage
    kept = weight[0, 0].item()
    try:
        weight.data[0, 0] = float("nan")
        with pytest.raises(
            ModelError, match=r"clean run holds NaN.*first in mlp_out of layer 1, p"
        ):
            interp.ablate(model, pairs, "heads", method="zero")
    finally:
        weight.data[0, 0] = kept


def test_an_intervention_that_is_not_finite_names_its_first_site(llama, pairs):
    far = [Intervention(Site.parse(f"{i}.resid_pre"), Scale(1e300)) for i in (1, 2)]
    with pytest.raises(MetricError, match=r"on far, 2\.resid_pre is the first to .* prompt \d"):
        interp.intervene(llama, pairs, {"far": far})
    bad = Set(torch.full((5, 9, 30), torch.nan, dtype=torch.float64))
    with pytest.raises(
        InterpError, match=r"value given for '1\.attn' holds NaN.*first at \[0, 0, 0\]"
    ):
        interp.intervene(llama, pairs, {"bad": [Intervention(Site.parse("1.attn"), bad)]})


def test_patterns_that_are_none(llama, pairs):
    """Refused, or said in the provenance."""
    with pytest.raises(Unsupported, match=r"'0\.1\.pattern' sums to 0 over the keys.*normalise="):
        interp.ablate(llama, pairs, "0.1.pattern", method="zero")
    found = interp.ablate(llama, pairs, "0.1.pattern", method="zero", normalise=False)
    assert found.provenance["unnormalised_patterns"] is True
    z = interp.ablate(llama, pairs, "0.1", method="zero")
    assert np.abs(found.frame["value"] - z.frame["value"]).max() < 1e-12
    patched = interp.patch(llama, pairs, "0.1.pattern")
    assert "unnormalised_patterns" not in patched.provenance
