"""Recurrent models: truthful facts, the parameters asked for, saved and read back."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import interp
from interp.core.errors import ModelError
from interp.core.files.sealed import read_note, write_note
from interp.models import untrained
from interp.models.finding.stored import WEIGHTS_FILE
from interp.models.small.recurrent import (
    LSTM,
    SHAPE_FILE,
    RecurrentShape,
    build_recurrent,
    save,
    shape_of,
    state_of,
    width_for,
)

SHAPE = RecurrentShape(n_layers=2, d_model=6, d_vocab=11, n_ctx=16)


def test_facts_are_true():
    model = build_recurrent(SHAPE, name="lstm")
    facts = model.facts
    assert (facts.architecture, facts.recurrent, facts.causal) == ("LSTM", True, True)
    assert (facts.n_heads, facts.n_kv_heads, facts.d_head, facts.d_mlp) == (0, 0, 0, 0)
    assert (facts.positions, facts.norm, facts.language_model) == ("none", "none", True)
    assert (facts.n_layers, facts.d_model, facts.d_vocab, facts.n_ctx) == (2, 6, 11, 16)
    assert facts.group_size == 1
    assert model.checks.problems() == {}
    assert model.parity() == 0
    assert repr(model) == (
        "lstm on cpu, float32\n  LSTM: 2 layers, d_model 6, vocabulary 11\n"
        "  no tokenizer: give token ids instead of text"
    )


@pytest.mark.plain
@given(
    n_layers=st.integers(1, 4),
    d_vocab=st.integers(2, 300),
    width=st.integers(1, 70),
    extra=st.floats(-0.49, 0.49),
)
def test_the_width_is_the_one_with_the_nearest_count(n_layers, d_vocab, width, extra):
    shape = RecurrentShape(n_layers, width, d_vocab, n_ctx=9)
    assert width_for(shape.parameters, n_layers=n_layers, d_vocab=d_vocab) == width
    wider = replace(shape, d_model=width + 1)
    asked = shape.parameters + round((0.5 + extra) * (wider.parameters - shape.parameters))
    found = width_for(asked, n_layers=n_layers, d_vocab=d_vocab)
    gaps = {d: abs(replace(shape, d_model=d).parameters - asked) for d in (width, width + 1)}
    assert gaps[found] == min(gaps.values())


def test_parameters_are_counted():
    module = LSTM(SHAPE, seed=0)
    assert sum(p.numel() for p in module.parameters()) == SHAPE.parameters == 804
    with pytest.raises(
        ModelError, match="2 layers of a single unit over 1000 tokens have 2032 par"
    ):
        width_for(900, n_layers=2, d_vocab=1000)


def test_seeds():
    before = torch.random.get_rng_state()
    one, same, other = (build_recurrent(SHAPE, name="m", seed=s) for s in (4, 4, 5))
    assert torch.equal(before, torch.random.get_rng_state())
    assert one.weight_hash == same.weight_hash != other.weight_hash
    anew = untrained(one, seed=5)
    assert (anew.weight_hash, anew.name) == (other.weight_hash, "m (untrained, seed 5)")
    assert shape_of(anew) == SHAPE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saved_and_loaded(tmp_path, dtype):
    model = build_recurrent(SHAPE, name="m", seed=1, dtype=dtype)
    assert save(model, tmp_path / "lstm") == tmp_path / "lstm"
    again = interp.load(tmp_path / "lstm", dtype=dtype, device="cpu")
    assert (again.weight_hash, shape_of(again)) == (model.weight_hash, SHAPE)
    tokens = torch.arange(5)[None]
    assert torch.equal(again.truth.run(tokens).output, model.truth.run(tokens).output)
    assert again.tokenizer is None
    built = build_recurrent(SHAPE, name="m", state=state_of(model), dtype=dtype)
    assert built.weight_hash == model.weight_hash
    with torch.no_grad():
        built.bridge.embed.weight.zero_()
    assert state_of(model)["embed.weight"].abs().max() > 0  # a copy


def test_a_damaged_folder_is_refused(tmp_path):
    save(build_recurrent(SHAPE, name="m"), tmp_path)
    weights = (tmp_path / WEIGHTS_FILE).read_bytes()
    (tmp_path / WEIGHTS_FILE).write_bytes(weights[:-9])
    with pytest.raises(
        ModelError, match=r"model.safetensors cannot be read \(.*Save the model again"
    ):
        interp.load(tmp_path)
    (tmp_path / WEIGHTS_FILE).write_bytes(weights)
    found = read_note(tmp_path / SHAPE_FILE, remedy="")
    write_note(tmp_path / SHAPE_FILE, found | {"n_heads": 3})
    with pytest.raises(ModelError, match=r"is no RecurrentShape: .*n_layers, d_model, d_vocab"):
        interp.load(tmp_path)
    write_note(tmp_path / SHAPE_FILE, found | {"d_model": 7})
    with pytest.raises(ModelError, match=r"embed.weight of shape \(11, 6\) for \(11, 7\).*more"):
        interp.load(tmp_path)


def test_what_is_no_model(tiny_model):
    with pytest.raises(ModelError, match="n_layers=0 makes no model; it must be at least 1"):
        replace(SHAPE, n_layers=0)
    with pytest.raises(
        ModelError, match="lacks lstm.bias_hh_l0; lacks unembed.weight; has nothing"
    ):
        state = state_of(build_recurrent(SHAPE, name="m"))
        wrong = {k: v for k, v in state.items() if k not in ("unembed.weight", "lstm.bias_hh_l0")}
        build_recurrent(SHAPE, name="m", state=wrong | {"nothing": torch.zeros(1)})
    with pytest.raises(ModelError, match="is a LlamaForCausalLM, not a recurrent model"):
        shape_of(tiny_model("llama"))


def test_training_mode_is_refused():
    model = build_recurrent(SHAPE, name="m")
    model.bridge.train()
    with pytest.raises(ModelError, match="submodules of m are in training mode"):
        model.require_eval()
