"""LoRA adapters: merged weights compute what PEFT's own layers do, and what is none is refused."""

import copy
import hashlib
import json
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import tiny
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import Tensor

import interp
from interp.core.errors import InterpError, ModelError, Unsupported
from interp.models import load
from interp.models.bridge.precision import undetoured
from interp.models.small import native

IDS = torch.tensor([[2, 3, 5, 7, 1], [4, 6, 8, 9, 2]])
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ALL = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "neox": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
    "bert": ["query", "value"],
    "t5": ["q", "v", "wo"],
}


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Callable[[str], Path]:
    """The folder of a tiny model in float64."""
    folders: dict[str, Path] = {}

    def saved(family: str) -> Path:
        if family not in folders:
            folders[family] = tmp_path_factory.mktemp(family)
            tiny.build(family).to(torch.float64).save_pretrained(folders[family])
        return folders[family]

    return saved


def plain(folder: Path, family: str, dtype: torch.dtype = torch.float64) -> hf.PreTrainedModel:
    return type(tiny.build(family)).from_pretrained(
        folder, dtype=dtype, attn_implementation="eager"
    )


def adapter(folder: Path, family: str, out: Path, *, seed: int = 0, **options: Any) -> Path:
    """An adapter whose numbers are random, so that it does something everywhere."""
    module = plain(folder, family)
    given = {"r": 2, "target_modules": ALL[family], "fan_in_fan_out": family == "gpt2"} | options
    on = peft.get_peft_model(module, peft.LoraConfig(**given))
    generator = torch.Generator().manual_seed(seed)
    for _, p in sorted(on.named_parameters()):
        if p.requires_grad:
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            p.data += (0.3 * noise).to(p.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a bias is no matrix
        on.save_pretrained(out, save_embedding_layers=False)
    return out


@pytest.fixture
def made(base, tmp_path) -> Callable[..., Path]:
    """The folder of an adapter, by family and options."""

    def make(family: str = "llama", name: str = "mine", **options: Any) -> Path:
        return adapter(base(family), family, tmp_path / name, **options)

    return make


@torch.no_grad()
def said(module: torch.nn.Module, dtype: torch.dtype = torch.float64) -> Tensor:
    more = {"decoder_input_ids": IDS} if module.config.is_encoder_decoder else {}
    with undetoured(dtype):
        return module(input_ids=IDS, **more).logits


def refusal(kind: type[InterpError], call: Callable[..., object], *args: Any, **kwargs: Any) -> str:
    with pytest.raises(kind) as caught:
        call(*args, **kwargs)
    return str(caught.value)


def says(text: str, *parts: str) -> None:
    assert not [part for part in parts if part not in text], text


def edited(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | changes))
    return folder


# what it computes

OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "gpt2": ("gpt2", {}),
    "neox": ("neox", {}),
    "bert": ("bert", {}),
    "t5": ("t5", {}),
    "one layer": ("llama", {"target_modules": ["v_proj"], "layers_to_transform": [1]}),
    "ranks": ("llama", {"rank_pattern": {"v_proj": 3}, "alpha_pattern": {"v_proj": 5}}),
    "rank-stabilised": ("llama", {"use_rslora": True, "lora_alpha": 5}),
    "DoRA": ("llama", {"use_dora": True}),
    "with a head": ("llama", {"modules_to_save": ["lm_head"]}),
    "with a norm": ("llama", {"modules_to_save": ["norm"]}),
    "with biases": ("gpt2", {"bias": "all"}),
    "with biases of its own": ("gpt2", {"lora_bias": True}),
    "embedding": ("llama", {"target_modules": ["embed_tokens"]}),
    "unembedding": ("llama", {"target_modules": ["lm_head"]}),
    "dropout": ("llama", {"lora_dropout": 0.5}),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_it_computes_what_peft_does(option, made, base):
    family, options = OPTIONS[option]
    folder = made(family, **options)
    model = load(base(family), adapter=folder, dtype="float64")
    on = peft.PeftModel.from_pretrained(plain(base(family), family), folder).eval()
    want = said(on)
    assert (want - said(plain(base(family), family))).abs().max() > 1e-2
    assert (model.truth.run(IDS).output - want).abs().max() < 1e-12
    assert model.parity() < 1e-12


def test_it_is_the_product_of_its_two_matrices(made, base):
    """By the formula, without PEFT: W + alpha / r * B A (Hu et al. 2021, eq. 3)."""
    folder = made(r=3, lora_alpha=5, target_modules=["q_proj", "down_proj"])
    state = load_file(folder / WEIGHTS)
    held = load(base("llama"), adapter=folder, dtype="float64").truth.parameters()
    before = load(base("llama"), dtype="float64").truth.parameters()
    changed = 0
    for name, weight in before.items():
        key = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{key}.lora_A.weight" not in state:
            assert torch.equal(held[name], weight)
            continue
        changed += 1
        a, b = (state[f"{key}.lora_{side}.weight"].double() for side in "AB")
        assert (held[name] - weight - 5 / 3 * b @ a).abs().max() < 1e-14
    assert changed == 2 * 3


@pytest.mark.parametrize(
    ("dtype", "close"), [(torch.float32, 3e-6), (torch.bfloat16, 0.05)], ids=str
)
def test_it_is_merged_in_any_precision(dtype, close, made, base):
    folder = made()
    model = load(base("llama"), adapter=folder, dtype=dtype)
    assert model.dtype == dtype
    on = peft.PeftModel.from_pretrained(plain(base("llama"), "llama", dtype), folder).eval()
    want = said(on, dtype).float()
    found = model.truth.run(IDS).output.float()
    assert (found - want).abs().max() < close * want.abs().max()


@pytest.mark.parametrize("engine", ["replay", "hooks"])
def test_every_engine_serves_it(engine, made, base, pairs):
    """As it serves the model that PEFT merged and transformers saved."""
    folder = made()
    model = load(base("llama"), adapter=folder, dtype="float64")
    on = peft.PeftModel.from_pretrained(plain(base("llama"), "llama"), folder)
    on.merge_and_unload().save_pretrained(folder / "merged")
    other = load(folder / "merged", dtype="float64")
    sweep = [interp.ablate(m, pairs, "heads", method="zero", engine=engine) for m in (model, other)]
    mine, theirs = (found.frame["value"] for found in sweep)
    assert np.abs(mine - theirs).max() < 1e-12
    assert sweep[0].provenance["engine"] == engine


def test_several_are_added_up(made, base):
    one, two = made(name="one"), made(name="two", seed=1, target_modules=["q_proj", "up_proj"])
    names = [(), (one,), (two,), (one, two), (two, one)]
    base_, first, second, both, turned = (
        load(base("llama"), adapter=list(given) or None, dtype="float64").truth.parameters()
        for given in names
    )
    for name, weight in base_.items():
        total = weight + (first[name] - weight) + (second[name] - weight)
        assert (both[name] - total).abs().max() < 1e-14
        assert (turned[name] - total).abs().max() < 1e-14


# what it is


def test_its_name_and_identity(made, base, pairs, tmp_path):
    folder = made()
    model = load(base("llama"), adapter=folder)
    assert model.name == f"{base('llama')} + mine"
    files = (folder / CONFIG).read_bytes() + (folder / WEIGHTS).read_bytes()
    told = {"mine": hashlib.sha256(files).hexdigest()}
    assert model.identity()["adapters"] == told
    found = interp.evaluate(model, pairs)
    assert found.provenance["adapters"] == told
    assert set(found.frame["model"]) == {model.name}
    found.save(tmp_path / "kept")
    assert interp.Results.load(tmp_path / "kept").provenance == found.provenance
    alone = load(base("llama"))
    assert alone.weight_hash != model.weight_hash
    assert "adapters" not in alone.identity()
    again = f"interp.load({str(base('llama'))!r}, adapter={str(folder)!r})"
    says(refusal(ModelError, copy.copy(model).__reduce_ex__, 2), again)
    assert interp.models.untrained(model).name == f"{model.name} (untrained, seed 0)"


def test_a_folder_by_its_text(made, base, monkeypatch):
    folder = made()
    monkeypatch.chdir(folder.parent)
    assert load(base("llama"), adapter="mine").name.endswith(" + mine")
    monkeypatch.chdir(folder)
    assert load(base("llama"), adapter=".").name.endswith(" + mine")


def test_nothing_is_left_changed(made, base, recwarn):
    folder = made(target_modules=["lm_head"])
    recwarn.clear()
    state, files = torch.get_rng_state(), sorted(p.name for p in folder.iterdir())
    model = load(base("llama"), adapter=folder)
    assert torch.equal(torch.get_rng_state(), state)
    assert sorted(p.name for p in folder.iterdir()) == files
    assert not [w for w in recwarn if "peft" in str(w.filename)]
    assert not hasattr(model.bridge.original_model, "peft_config")
    assert not [m for m in model.bridge.modules() if type(m).__module__.startswith("peft")]


# what is refused


def test_one_of_another_base(made, base):
    folder = edited(made("llama"), base_model_name_or_path="owner/name")
    found = refusal(ModelError, load, base("gpt2"), adapter=folder)
    says(found, "the adapter mine (rank 2, of base 'owner/name'", "does not fit", "trained on")
    wide = hf.LlamaForCausalLM(hf.LlamaConfig(**tiny.LLAMA | {"intermediate_size": 15}))
    wide.save_pretrained(folder.parent / "wide")
    found = refusal(ModelError, load, folder.parent / "wide", adapter=folder)
    key = "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"
    says(found, f"its {key} is 2 x 14, and here it would be 2 x 15", "rank 2", "'owner/name'")
    few = hf.LlamaForCausalLM(hf.LlamaConfig(**tiny.LLAMA | {"num_hidden_layers": 2}))
    few.save_pretrained(folder.parent / "few")
    found = refusal(ModelError, load, folder.parent / "few", adapter=folder)
    says(found, "it has 14 tensors that have no place here", "model.layers.2.mlp.down_proj.lora_A")
    more = hf.LlamaForCausalLM(hf.LlamaConfig(**tiny.LLAMA | {"num_hidden_layers": 4}))
    more.save_pretrained(folder.parent / "more")
    found = refusal(ModelError, load, folder.parent / "more", adapter=folder)
    says(found, "it lacks 14 tensors", "model.layers.3.mlp.down_proj.lora_A")


def test_a_rank_that_is_not_its_tensors(made, base):
    found = refusal(ModelError, load, base("llama"), adapter=edited(made(), r=4))
    says(found, "rank 4", "lora_A.weight is 2 x 14, and here it would be 4 x 14")


def test_weights_that_are_shared(made, base):
    """Of a tied embedding PEFT's layer changes one use, and the merged matrix both."""
    folder = made("gpt2", target_modules=["wte"], fan_in_fan_out=False)
    found = refusal(ModelError, load, base("gpt2"), adapter=folder)
    says(found, "what lm_head gives moves by", "transformer.wte.weight and lm_head.weight", "Untie")


NO_WEIGHTS: dict[str, tuple[dict[str, Any], str]] = {
    "kind": ({"peft_type": "IA3"}, "of kind 'IA3', and only LoRA is merged"),
    "no kind": ({"peft_type": None}, "of kind None"),
    "layers": ({"layer_replication": [[0, 2], [1, 3]]}, "runs layers of its base several times"),
    "tokens": ({"alora_invocation_tokens": [3]}, "from some tokens on"),
    "PiSSA": ({"init_lora_weights": "pissa"}, "path_initial_model_for_weight_conversion"),
    "LoftQ": ({"init_lora_weights": "loftq"}, "changes the base's own weights"),
    "new": ({"brand_new": 3}, "has brand_new=3, which peft 0.21"),
    "odd rank": ({"r": "many"}, "says r='many', and a rank is a whole number"),
    "no rank": ({"r": 0}, "says r=0, and a rank is"),
    "odd": ({"target_modules": 3}, "does not fit"),
    "nothing": ({"target_modules": None}, "have no place here"),
}


@pytest.mark.parametrize("what", NO_WEIGHTS)
def test_what_is_no_change_of_weights(what, made, base):
    changes, message = NO_WEIGHTS[what]
    folder = edited(made(), **changes)
    says(refusal(ModelError, load, base("llama"), adapter=folder), message, str(folder))


def test_options_that_say_nothing_are_passed_over(made, base):
    """A config of a newer PEFT has more of them."""
    folder = edited(made(), brand_new=None, brand_newer=False, newest=[])
    assert load(base("llama"), adapter=folder).facts.n_layers == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none(value, made, base):
    folder = made()
    state = load_file(folder / WEIGHTS)
    next(iter(state.values()))[0, 0] = value
    save_file(state, folder / WEIGHTS)
    found = refusal(ModelError, load, base("llama"), adapter=folder)
    says(found, "cannot be merged into", "numbers that are not finite")


def no_config(folder: Path) -> None:
    (folder / CONFIG).unlink()


def no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()


def a_model(folder: Path) -> None:
    for file in (CONFIG, WEIGHTS):
        (folder / file).unlink()
    tiny.build("llama").save_pretrained(folder)


def gone(folder: Path) -> None:
    shutil.rmtree(folder)


def a_file(folder: Path) -> None:
    gone(folder)
    folder.write_text("x")


def cut_short(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-10])


def no_json(folder: Path) -> None:
    (folder / CONFIG).write_text("{")


FOLDERS = {
    no_config: f"is no adapter: looked for {CONFIG} and {WEIGHTS}, found README.md, {WEIGHTS}",
    no_weights: "is no adapter: looked for",
    pickled: "has only pickled weights (adapter_model.bin)",
    a_model: "holds a whole model and no adapter. Load it by itself: interp.load(",
    gone: "is not there (looked from",
    a_file: "is a file (looked from",
    cut_short: "cannot be read: adapter_model.safetensors: SafetensorError",
    no_json: "Likely it is damaged: save the adapter again",
}


@pytest.mark.parametrize("spoil", FOLDERS)
def test_a_folder_that_is_no_adapter(spoil, made, base):
    folder = made()
    spoil(folder)
    says(refusal(ModelError, load, base("llama"), adapter=folder), FOLDERS[spoil])


def test_what_names_no_folder(base):
    for odd in (3, "", ["x", None], {"a": 1}):
        says(refusal(ModelError, load, base("llama"), adapter=odd), "is no folder", "PeftModel")


def test_several_that_cannot_be_added_up(made, base, tmp_path):
    one = made(name="a/mine")
    found = refusal(ModelError, load, base("llama"), adapter=[one, made(name="b/mine")])
    says(found, "two adapters are called 'mine'", "Rename")
    for name, options in (
        ("turned", {"use_dora": True}),
        ("headed", {"modules_to_save": ["lm_head"]}),
    ):
        folder = made(name=name, **options)
        found = refusal(ModelError, load, base("llama"), adapter=[one, folder])
        says(found, f"the adapter {name}", next(iter(options)), "order", "by itself")


def test_a_model_that_has_no_adapters(made, tmp_path):
    folder = made()
    kept = native.save(native.build(native.Shape(1, 2, 8, 4, 12, 8, 0), name="x"), tmp_path / "x")
    for name in ("compiled/induction", kept):
        says(refusal(ModelError, load, name, adapter=folder), "Leave adapter= out")


def test_without_peft(made, base, monkeypatch):
    folder = made()
    monkeypatch.setitem(sys.modules, "peft", None)
    found = refusal(ModelError, load, base("llama"), adapter=folder)
    says(found, "cannot be imported", "pip install 'interp[peft]'")


def test_weights_in_few_bits(made, base, tmp_path):
    bits = pytest.importorskip("bitsandbytes")
    assert bits
    config = hf.BitsAndBytesConfig(load_in_8bit=True)
    try:
        module = hf.LlamaForCausalLM.from_pretrained(base("llama"), quantization_config=config)
        module.save_pretrained(tmp_path / "narrow")
    except Exception as error:
        pytest.skip(f"no 8 bit weights here: {error}")
    found = refusal(Unsupported, load, tmp_path / "narrow", adapter=made())
    says(found, "keeps weights in few bits (bitsandbytes", "float16 or wider")
