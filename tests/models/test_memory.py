"""A model in memory: what is asked of it is asked of its own numbers, and it stays what it was."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers as hf
from torch import nn
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

import interp
from interp.core.errors import InterpError, ModelError, Unsupported
from interp.core.prompts.pairs import Pairs
from interp.models.small import native

WRAPPED = [name for name in tiny.FAMILIES if name not in ("bert-headless", "opt-post")]
IDS = torch.tensor([[2, 3, 5, 7, 1], [4, 6, 8, 9, 2]])


def refusal(kind: type[InterpError], call: Callable[..., object], *args: Any, **kwargs: Any) -> str:
    with pytest.raises(kind) as caught:
        call(*args, **kwargs)
    return str(caught.value)


def says(text: str, *parts: str) -> None:
    assert not [part for part in parts if part not in text], text


def as_it_is(module: nn.Module) -> dict[str, Any]:
    """Whatever could be changed of a module."""
    held = [*module.named_parameters(), *module.named_buffers()]
    return {
        "numbers": {n: (id(t), t.data_ptr(), t._version, t.requires_grad) for n, t in held},
        "modules": {n: id(m) for n, m in module.named_modules()},
        "training": {n: m.training for n, m in module.named_modules()},
        "hooks": {n: (*m._forward_hooks, *m._forward_pre_hooks) for n, m in module.named_modules()},
        "own": {n: sorted(vars(m)) for n, m in module.named_modules()},
        "config": {**vars(module.config)},
        "saved": [*module.state_dict()],
    }


@pytest.mark.sampled(6)
@pytest.mark.parametrize("family", WRAPPED)
def test_it_computes_what_the_module_does_and_leaves_it_as_it_was(family):
    module = tiny.build(family).to(torch.float64).train()
    before = as_it_is(module)
    model = interp.load(module)
    assert as_it_is(module) == before
    more = {"decoder_input_ids": IDS} if family == "t5" else {}
    module.eval()
    with torch.no_grad():
        plain = module(input_ids=IDS, **more).logits
    # norms and softmaxes of Hugging Face go through float32 whatever the weights are
    assert (model.truth.run(IDS).output - plain).abs().max() < 1e-5 * plain.abs().max()
    assert model.parity() < 1e-12


@pytest.mark.sampled(6)
@pytest.mark.parametrize("family", WRAPPED)
def test_it_is_the_model_that_is_read_from_a_folder(family, save):
    """To the bit: also where the module has another kernel of attention."""
    read, made = interp.load(save(family)), type(tiny.build(family))
    module = made.from_pretrained(save(family), dtype=torch.float32)
    if not module._can_set_attn_implementation():  # it has one for good
        options = {"dtype": torch.float32, "attn_implementation": "eager"}
        module = made.from_pretrained(save(family), **options)
    given = interp.load(module)
    assert given.weight_hash == read.weight_hash
    assert given.facts == read.facts
    assert torch.equal(given.truth.run(IDS).output, read.truth.run(IDS).output)


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
@pytest.mark.parametrize("engine", ["replay", "hooks"])
def test_every_engine_serves_it(family, engine, save, pairs):
    module = type(tiny.build(family)).from_pretrained(save(family), dtype=torch.float32)
    assert module.config._attn_implementation == "sdpa"
    read, given = interp.load(save(family)), interp.load(module)
    for call in (
        lambda m: interp.ablate(m, pairs, "heads", method="zero", engine=engine),
        lambda m: interp.patch(m, pairs, ["1.2.pattern", "0.mlp"], engine=engine),
    ):
        mine, theirs = call(given), call(read)
        assert np.array_equal(mine.frame["value"], theirs.frame["value"])
        assert mine.provenance["engine"] == engine


def test_its_attention_can_be_seen_in_every_stack():
    model = interp.load(tiny.build("t5"))
    parts = model.bridge.original_model.modules()
    configs = [c for m in parts if isinstance(c := getattr(m, "config", None), hf.PreTrainedConfig)]
    assert len({id(config) for config in configs}) == 3
    assert {config._attn_implementation for config in configs} == {"eager"}


def test_there_is_no_copy_of_its_weights():
    module = tiny.build("llama")
    model = interp.load(module)
    mine = {n: p.data_ptr() for n, p in model.truth.parameters().items()}
    assert mine == {n: p.data_ptr() for n, p in module.named_parameters(remove_duplicate=False)}
    assert not any(p.requires_grad for p in model.bridge.parameters())
    assert all(p.requires_grad for p in module.parameters())


@pytest.mark.parametrize("family", ["llama", "gpt2"])  # gpt2 has its queries, keys, values in one
def test_training_it_is_seen(family, pairs):
    module = tiny.build(family).train()
    model = interp.load(module)
    before, hashed = interp.evaluate(model, pairs).frame["value"], model.weight_hash
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        module(input_ids=IDS, labels=IDS).loss.backward()
        optimiser.step()
    assert module.training
    after = interp.evaluate(model, pairs)
    assert (after.frame["value"] - before).abs().max() > 1e-3
    anew = interp.load(module)
    assert np.array_equal(after.frame["value"], interp.evaluate(anew, pairs).frame["value"])
    assert hashed != model.weight_hash == anew.weight_hash
    heads = interp.ablate(model, pairs, "heads", method="zero", engine="replay")
    assert np.array_equal(
        heads.frame["value"],
        interp.ablate(anew, pairs, "heads", method="zero", engine="replay").frame["value"],
    )


def test_weights_that_are_loaded_into_it_are_seen(pairs):
    module, other = tiny.build("llama"), tiny.build("llama")
    model = interp.load(module)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1.1)
    module.load_state_dict(other.state_dict())
    assert model.weight_hash == interp.load(other).weight_hash


MOVED = {
    "cast": lambda m: m.to(torch.float64),
    "assigned": lambda m: m.load_state_dict(
        {n: t.clone() for n, t in m.state_dict().items()}, assign=True
    ),
    "replaced": lambda m: setattr(
        m.model.norm, "weight", nn.Parameter(torch.ones_like(m.model.norm.weight))
    ),
    "data": lambda m: setattr(m.model.norm.weight, "data", torch.ones(30)),
}


@pytest.mark.parametrize("how", MOVED)
def test_weights_that_went_elsewhere_are_refused(how, pairs):
    module = tiny.build("llama")
    model = interp.load(module)
    interp.evaluate(model, pairs)
    MOVED[how](module)
    for call in (lambda: interp.evaluate(model, pairs), lambda: model.weight_hash):
        found = refusal(ModelError, call)
        says(found, "LlamaForCausalLM in memory", "other tensors than when it was given", "again")
    assert interp.load(module).dtype == module.dtype


def test_what_comes_onto_it_is_refused_until_it_is_off(pairs):
    module = tiny.build("llama")
    model = interp.load(module)
    before = interp.evaluate(model, pairs).frame["value"]

    def double(_: nn.Module, __: Any, out: torch.Tensor) -> torch.Tensor:
        return 2 * out

    handle = module.model.layers[1].mlp.register_forward_hook(double)
    found = refusal(ModelError, interp.evaluate, model, pairs)
    says(found, "1 forward hook(s) on model.layers.1.mlp", "model.bridge.original_model")
    handle.remove()
    assert np.array_equal(interp.evaluate(model, pairs).frame["value"], before)
    module.model.layers[1].mlp.down_proj = nn.Identity()
    says(refusal(ModelError, interp.evaluate, model, pairs), "Identity at model.layers.1.mlp.down")


def test_hooks_on_the_view_are_seen_and_not_the_modules(pairs):
    module = tiny.build("llama")
    model = interp.load(module)
    before = interp.evaluate(model, pairs).frame["value"]
    place = model.bridge.original_model.model.layers[1].mlp
    handle = place.register_forward_hook(lambda *args: 2 * args[2])
    assert (interp.evaluate(model, pairs).frame["value"] - before).abs().max() > 1e-3
    handle.remove()
    assert not module.model.layers[1].mlp._forward_hooks


def test_a_copy_of_it_has_numbers_of_its_own(pairs):
    module = tiny.build("llama")
    model = interp.load(module)
    before = interp.evaluate(model, pairs).frame["value"]
    copied = copy.deepcopy(model)
    with torch.no_grad():
        module.lm_head.weight.mul_(2)
    module.to(torch.float64)
    assert np.array_equal(interp.evaluate(copied, pairs).frame["value"], before)


# what it is


def test_its_name_and_identity_claim_no_folder(save, pairs, tmp_path):
    module = hf.LlamaForCausalLM.from_pretrained(save("llama"), dtype=torch.float32)
    model = interp.load(module)
    assert model.name == f"{save('llama').name} (in memory)"
    assert model.identity()["given"] == "LlamaForCausalLM in memory"
    found = interp.evaluate(model, pairs)
    assert found.provenance["given"] == "LlamaForCausalLM in memory"
    assert "given" not in interp.load(save("llama")).identity()
    found.save(tmp_path / "kept")
    assert interp.Results.load(tmp_path / "kept").provenance == found.provenance
    module.config._name_or_path = "owner/name"
    assert interp.load(module).name == "owner/name (in memory)"
    assert interp.load(tiny.build("llama")).name == "LlamaForCausalLM (in memory)"
    says(refusal(ModelError, copy.copy(model).__reduce_ex__, 2), "interp.load(module, tokenizer=")


def test_a_checkpoint_is_of_its_weights(tmp_path, pairs):
    """Two models of one name are told apart, as one is before and after it was trained."""
    module = tiny.build("llama")
    model = interp.load(module)
    first = interp.ablate(model, pairs, "heads", method="zero", checkpoint=tmp_path)
    with torch.no_grad():
        module.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    second = interp.ablate(model, pairs, "heads", method="zero", checkpoint=tmp_path)
    assert (first.frame["value"] - second.frame["value"]).abs().max() > 1e-4
    again = interp.ablate(interp.load(module), pairs, "heads", method="zero", checkpoint=tmp_path)
    assert np.array_equal(second.frame["value"], again.frame["value"])


def test_text_needs_a_tokenizer(tokenizer, pairs):
    module = tiny.build("gpt2")
    bare = interp.load(module)
    assert "no tokenizer: give token ids" in repr(bare)
    for call in (lambda: bare.encode("The Mary"), lambda: bare.show([1, 2])):
        found = refusal(ModelError, call)
        says(found, "none was given with the model", "interp.load(model, tokenizer=...)")
        assert "folder" not in found
    assert len(interp.evaluate(bare, pairs)) == 20
    kept = json.loads(json.dumps(tokenizer.init_kwargs, default=str))
    model = interp.load(module, tokenizer=tokenizer)
    assert model.encode("The Mary") == [0, 2, 3]
    assert json.loads(json.dumps(tokenizer.init_kwargs, default=str)) == kept
    assert tokenizer.pad_token is None


def test_an_untrained_one_of_it():
    model = interp.load(tiny.build("llama"))
    other = interp.models.untrained(model, seed=1)
    assert other.name == "LlamaForCausalLM (in memory) (untrained, seed 1)"
    assert "given" not in other.identity()


def test_it_keeps_its_precision(pairs):
    model = interp.load(tiny.build("llama").to(torch.bfloat16))
    assert model.dtype == torch.bfloat16
    assert interp.evaluate(model, pairs).provenance["dtype"] == "bfloat16"


# what is refused


@pytest.mark.parametrize(
    ("option", "value", "remedy"),
    [
        ("device", "cpu", "model.to(device)"),
        ("dtype", "float32", "model.to(dtype)"),
        ("revision", "main", "leave revision= out"),
        ("device_map", "auto", "from_pretrained(..., device_map=...)"),
        ("adapter", "/some/folder", "merge_and_unload"),
    ],
)
def test_what_is_said_of_a_model_that_is_read(option, value, remedy):
    found = refusal(ModelError, interp.load, tiny.build("llama"), **{option: value})
    says(found, f"{option}={value!r} was given beside a LlamaForCausalLM in memory", remedy)


def test_a_tokenizer_beside_a_name(gpt2_folder, tokenizer):
    found = refusal(ModelError, interp.load, gpt2_folder, tokenizer=tokenizer)
    says(found, "tokenizer= was given beside", "read with its own", "save_pretrained(folder)")


def hooked() -> nn.Module:
    module = tiny.build("llama")
    module.model.layers[0].register_forward_pre_hook(lambda *_: None)
    return module


def with_forward() -> nn.Module:
    module = tiny.build("llama")
    module.model.layers[0].mlp.forward = lambda x: x
    return module


def empty() -> nn.Module:
    with torch.device("meta"):
        return hf.LlamaForCausalLM(hf.LlamaConfig(**tiny.LLAMA))


def bridged() -> nn.Module:
    module = tiny.build("gpt2")
    config = copy.deepcopy(module.config)
    return build_bridge_from_module(
        module,
        "GPT2LMHeadModel",
        hf_config=config,
        tl_config=None,
        tokenizer=None,
        dtype=torch.float32,
        device="cpu",
        model_name="x",
    )


def adapted() -> nn.Module:
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(tiny.build("llama"), peft.LoraConfig(target_modules=["q_proj"]))


REFUSED: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "a Model": (lambda: interp.load(tiny.build("gpt2")), ["is a Model already", "deepcopy(model)"]),
    "a bridge": (bridged, ["is wrapped by TransformerLens", "before it is wrapped"]),
    "what is in a bridge": (lambda: bridged().original_model, ["is wrapped by TransformerLens"]),
    "hooks": (hooked, ["1 hook(s) on model.layers.0", "model.bridge.original_model"]),
    "a forward": (with_forward, ["a forward of its own at model.layers.0.mlp"]),
    "no numbers": (
        empty,
        ["have no numbers here", "e.g. model.embed_tokens.weight", "Load it whole"],
    ),
    "another module": (lambda: nn.Linear(2, 2), ["a Linear is no model of transformers", "native"]),
    "a native one": (
        lambda: native.build(native.Shape(1, 2, 8, 4, 12, 8, 0), name="x").bridge.original_model,
        ["a Native is no model of transformers"],
    ),
    "in parallel": (lambda: nn.DataParallel(tiny.build("gpt2")), ["inside of it", "model.module"]),
    "compiled": (lambda: torch.compile(tiny.build("gpt2")), ["inside of it", "model._orig_mod"]),
    "an adapter": (adapted, ["PeftModel has an adapter of PEFT", "merge_and_unload()", "adapter="]),
    "an adapter in it": (lambda: adapted().base_model.model, ["has an adapter of PEFT in it"]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_more_than_a_model(what):
    make, parts = REFUSED[what]
    says(refusal(ModelError, interp.load, make()), *parts)


@pytest.mark.parametrize("family", ["bert-headless", "opt-post"])
def test_what_cannot_be_wrapped_stays_as_it_was(family):
    module = tiny.build(family)
    before = as_it_is(module)
    says(refusal(Unsupported, interp.load, module), "cannot")
    assert as_it_is(module) == before


def test_no_head():
    found = refusal(Unsupported, interp.load, tiny.build("bert-headless"))
    says(found, "a BertModel in memory", "AutoModelForMaskedLM", "with its language-model head")


def test_a_kernel_that_was_chosen_for_good(monkeypatch):
    module = tiny.build("llama")
    monkeypatch.setattr(type(module), "_can_set_attn_implementation", lambda *_: False)
    found = refusal(ModelError, interp.load, module)
    says(found, "'sdpa', which computes no pattern", "attn_implementation='eager'")


# where it is read from


def test_the_folder_that_a_model_is_read_from(gpt2_folder, monkeypatch):
    assert interp.models.path(gpt2_folder) == gpt2_folder
    assert interp.models.path(str(gpt2_folder)) == gpt2_folder
    says(refusal(ModelError, interp.models.path, "compiled/induction"), "lies in no folder", "save")
    says(refusal(ModelError, interp.models.path, gpt2_folder, revision="x"), "revision='x'")
    says(refusal(ModelError, interp.models.path, "/no/such"), "there is no folder")


@pytest.mark.real
def test_the_folder_of_a_shipped_model():
    folder = interp.models.path("smollm2-135m")
    assert (folder / "config.json").is_file()
    module = hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    given, read = interp.load(module, tokenizer=tokenizer), interp.load("smollm2-135m")
    assert given.weight_hash == read.weight_hash
    assert given.name == f"{Path(folder).name} (in memory)"
    pairs = interp.datasets.ioi(given, n=4)
    assert pairs.fingerprint == interp.datasets.ioi(read, n=4).fingerprint
    assert isinstance(pairs, Pairs)
    mine, theirs = (
        interp.ablate(m, pairs, ["20.1", "3.mlp"], method="zero") for m in (given, read)
    )
    assert np.array_equal(mine.frame["value"], theirs.frame["value"])


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_in_few_bits(bits, tmp_path, pairs):
    """As they are read: the packed numbers are shared too."""
    pytest.importorskip("bitsandbytes")
    shape = {"hidden_size": 64, "head_dim": 16, "num_attention_heads": 4, "intermediate_size": 96}
    hf.LlamaForCausalLM(hf.LlamaConfig(**tiny.LLAMA | shape)).save_pretrained(tmp_path / "plain")
    config = hf.BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
    module = hf.LlamaForCausalLM.from_pretrained(
        tmp_path / "plain", quantization_config=config, dtype=torch.float32
    )
    module.save_pretrained(tmp_path / "packed")
    given, read = interp.load(module), interp.load(tmp_path / "packed")
    assert given.identity()["quantised"] == read.identity()["quantised"]
    mine, theirs = (interp.evaluate(m, pairs).frame["value"] for m in (given, read))
    assert np.array_equal(mine, theirs)
    packed = module.model.layers[0].mlp.up_proj.weight
    assert packed.data_ptr() in {p.data_ptr() for p in given.bridge.parameters()}
