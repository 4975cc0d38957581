"""A folder is one model, whole, or it says what it is."""

import json
from pathlib import Path

import pytest
import tiny
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from interp.core.errors import ModelError
from interp.models import load
from interp.models.finding import folder

INDEX = "model.safetensors.index.json"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A Llama in six files."""
    tiny.build("llama").save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) == 6
    return tmp_path


@pytest.fixture
def single(tmp_path: Path) -> Path:
    home = tmp_path / "single"
    tiny.build("llama").save_pretrained(home)
    return home


def refusal(home: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(home)
    return str(caught.value)


def says(text: str, *parts: str) -> None:
    assert not [part for part in parts if part not in text], text


def test_shards_are_read_as_one(sharded, single):
    assert folder.weights(sharded) == folder.weights(single)
    ids = torch.tensor([[2, 3, 5]])
    ours = load(sharded, dtype=torch.float64).bridge.original_model(input_ids=ids).logits
    plain = hf.LlamaForCausalLM.from_pretrained(single, dtype=torch.float64)
    assert (ours - plain(input_ids=ids).logits).abs().max() < 1e-5


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_beside_its_model(single, file):
    """With `peft` transformers applies it, and without it loads the model alone, in silence."""
    (single / file).write_text("{}")
    says(
        refusal(single),
        f"holds an adapter ({file}) beside its model",
        f"interp.load({str(single)!r}, adapter=that_folder)",
        "without adapter= the model is loaded alone",
    )


def test_an_adapter_alone(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "gpt2"}))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    (tmp_path / "tokenizer.json").write_text("{}")
    found = refusal(tmp_path)
    says(found, "adapter_config.json, adapter_model.safetensors) without its")
    says(found, f"interp.load(model, adapter={str(tmp_path)!r})")


def test_a_shard_that_is_missing(sharded):
    for file in sorted(sharded.glob("model-*.safetensors"))[1:3]:
        file.unlink()
    says(
        refusal(sharded),
        f"{INDEX} of {sharded} lists 6 files, of which 2 are missing",
        "model-00002-of-00006.safetensors, model-00003-of-00006.safetensors",
        "incomplete: fetch them",
    )


def test_shards_without_their_index(sharded):
    (sharded / INDEX).unlink()
    says(refusal(sharded), "has no model.safetensors and no", INDEX, "model-00001-of-00006")


def test_weights_of_another_name(single):
    (single / "model.safetensors").rename(single / "weights.safetensors")
    says(refusal(single), "has no model.safetensors", "it has weights.safetensors")


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", "{}", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": 3}'],
)
def test_an_index_that_is_damaged(sharded, content):
    (sharded / INDEX).write_text(content)
    says(refusal(sharded), f"{sharded / INDEX} cannot be read", "weight_map", "fetch it again")


def test_an_index_in_bytes_that_are_no_text(sharded):
    (sharded / INDEX).write_bytes(b"\xff\xfe{}")
    says(refusal(sharded), f"{sharded / INDEX} cannot be read: UnicodeDecodeError")


def test_an_index_without_what_transformers_asks_of_it(sharded):
    listed = json.loads((sharded / INDEX).read_text())
    del listed["metadata"]
    (sharded / INDEX).write_text(json.dumps(listed))
    says(refusal(sharded), "transformers cannot make a model", "KeyError: 'metadata'")


def test_a_tensor_that_is_not_where_the_index_says(sharded):
    """Of a head it used to make a model without one."""
    listed = json.loads((sharded / INDEX).read_text())["weight_map"]
    file = sharded / listed["lm_head.weight"]
    left = {key: value for key, value in load_file(file).items() if key != "lm_head.weight"}
    save_file(left, file, metadata={"format": "pt"})
    says(refusal(sharded), "lists 1 tensors that are not in its files", "lm_head.weight in model-")


def test_a_tensor_that_two_files_hold(sharded):
    listed = json.loads((sharded / INDEX).read_text())["weight_map"]
    file = sharded / listed["lm_head.weight"]
    other = next(sharded / name for name in listed.values() if name != file.name)
    again = {"lm_head.weight": torch.zeros(29, 30)}
    save_file({**load_file(other), **again}, other, metadata={"format": "pt"})
    says(refusal(sharded), "two files of", "hold lm_head.weight")


@pytest.mark.parametrize("name", ["../x.safetensors", "/x.safetensors", "a/x.safetensors", "x.bin"])
def test_an_index_that_leads_elsewhere(name, sharded):
    index = json.loads((sharded / INDEX).read_text())
    key = next(iter(index["weight_map"]))
    index["weight_map"][key] = name
    (sharded / INDEX).write_text(json.dumps(index))
    says(refusal(sharded), INDEX, repr(name), "Do not trust")


def test_narrow_weights_without_their_scales(single):
    state = load_file(single / "model.safetensors")
    key = "model.layers.0.mlp.up_proj.weight"
    save_file(state | {key: (100 * state[key]).to(torch.int8)}, single / "model.safetensors")
    says(refusal(single), key, "I8", "quantization_config")


def test_two_models_in_one_folder(sharded):
    """Saved whole into a folder of shards; only the one file would be read."""
    tiny.build("llama").save_pretrained(sharded / "other")
    (sharded / "other" / "model.safetensors").rename(sharded / "model.safetensors")
    says(
        refusal(sharded),
        "has weights that would not be read: model-00001-of-00006.safetensors",
        "beside model.safetensors",
        "Take away",
    )


def test_a_shard_that_no_index_lists(sharded):
    stray = sharded / "model-00007-of-00007.safetensors"
    save_file({"x": torch.ones(1)}, stray, metadata={"format": "pt"})
    says(refusal(sharded), "would not be read: model-00007", f"which {INDEX} does not list")


def test_copies_in_other_layouts_are_passed_over(single):
    """Nobody reads them: `consolidated` ones, pickles, an index of the one file."""
    keys = folder.weights(single)
    for name in ("consolidated.safetensors", "pytorch_model.bin"):
        (single / name).write_bytes(b"junk")
    index = {"metadata": {}, "weight_map": dict.fromkeys(keys, "model.safetensors")}
    (single / INDEX).write_text(json.dumps(index))
    assert load(single).facts.n_layers == 3


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 8, b"cut short", (10**9).to_bytes(8, "little") + b"{}"], ids=str
)
def test_weights_that_are_damaged(single, content):
    (single / "model.safetensors").write_bytes(content)
    says(refusal(single), f"the weights in {single} cannot be read: model.safetensors: ", "fetch")


def test_weights_that_are_cut_short(single):
    file = single / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    says(refusal(single), "cannot be read: model.safetensors: SafetensorError", "cut short")


def test_files_that_are_folders(single):
    (single / "model.safetensors").unlink()
    (single / "model.safetensors").mkdir()
    says(refusal(single), "has no model.safetensors")
