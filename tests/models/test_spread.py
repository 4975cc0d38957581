"""Parts of a model on several devices: what is refused, and why. What they compute is in
`tests/engine/test_on_devices.py`.
"""

from pathlib import Path

import pytest
import tiny
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import interp
from interp.core.errors import ModelError
from interp.models.finding.spread import require_whole, settled

WHOLE = dict.fromkeys(
    ["model.embed_tokens", "model.layers", "model.norm", "model.rotary_emb", "lm_head"], "cpu"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("spread") / "llama"
    LlamaForCausalLM(LlamaConfig(**tiny.LLAMA)).to(torch.bfloat16).save_pretrained(made)
    return made


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("even", "is no map.*'auto', or a device for each part"),
        ({}, "is no map"),
        ({3: "cpu"}, "names a part 3; names of modules are text"),
        ({"": "disk"}, "on 'disk': weights on disk are read anew.*narrower dtype"),
        ({"": "meta"}, "on 'meta': a part on 'meta' has no numbers"),
        ({"": "auto"}, "name its device"),
        ({"": "cuda:7"}, "sees 0 CUDA devices"),
        ({"": 7}, "sees 0 CUDA devices"),
        (WHOLE | {"model.layer": "cpu"}, "names 'model.layer', which this model has not.*lm_head"),
        (
            {k: v for k, v in WHOLE.items() if k != "model.layers"},
            r"leaves out 'model.layers.0.*more weights.*Each part needs a device.*model.layers.2",
        ),
    ],
)
def test_a_map_that_cannot_be_is_refused(given, said, folder):
    with pytest.raises(ModelError, match=f"(?s){said}"):
        interp.load(folder, device_map=given)


def test_one_matrix_is_in_one_place(tmp_path, monkeypatch):
    config = LlamaConfig(**{**tiny.LLAMA, "tie_word_embeddings": True})
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    said = "lm_head.weight on cuda:1 and model.embed_tokens.weight on cpu, and these are one matrix"
    with pytest.raises(ModelError, match=said):
        interp.load(tmp_path, device_map=WHOLE | {"lm_head": 1})


def test_a_device_and_a_map_are_two_answers(folder):
    with pytest.raises(ModelError, match="two answers to where the model goes"):
        interp.load(folder, device="cpu", device_map=WHOLE)


@pytest.mark.parametrize("name", ["compiled/induction"])
def test_a_model_made_here_is_not_shared_out(name):
    with pytest.raises(ModelError, match="small enough for one device"):
        interp.load(name, device_map=WHOLE)


def test_a_layer_is_whole(folder):
    model = LlamaForCausalLM(LlamaConfig(**tiny.LLAMA))
    require_whole(model)
    model.model.layers[1].mlp.to("meta")
    with pytest.raises(ModelError, match=r"splits 'model.layers.1' over cpu, meta.*one device"):
        require_whole(model)


def test_as_saved_and_where_it_is_told(folder):
    model = interp.load(folder, dtype="auto", device_map=WHOLE)
    assert model.dtype == torch.bfloat16
    assert model.weight_hash == interp.load(folder, dtype=torch.bfloat16).weight_hash
    assert interp.load(folder, device_map="auto").device.type == "cpu"  # there is nothing else


class Devices(nn.Module):
    """Stands in for a class of transformers': a model of forty layers without numbers."""

    @classmethod
    def from_config(cls, config: LlamaConfig, **_: object) -> LlamaForCausalLM:
        return LlamaForCausalLM(config)


def test_layers_are_shared_out_evenly(monkeypatch):
    config = LlamaConfig(**{**tiny.LLAMA, "num_hidden_layers": 40})
    size = sum(p.numel() for p in LlamaForCausalLM(config).parameters()) * 4
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    def settle(room: int) -> dict[str, torch.device] | None:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda i: (room, room))
        return settled("auto", torch.device("cuda:0"), Devices, config, torch.float32)

    found = settle(4 * size)
    assert found is not None
    counts = [sum(place.index == i for place in found.values()) for i in (0, 1)]
    assert min(counts) > 15
    with pytest.raises(ModelError, match="do not fit the 2 devices, which have .* GB for them"):
        settle(size // 4)
