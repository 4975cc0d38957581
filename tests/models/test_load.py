import inspect
import logging
import shutil
import sys
import threading
import warnings
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.utils.tqdm import progress_bar_states
from safetensors.torch import load_file, save_file
from transformers.utils import logging as transformers_logging

from interp.core.errors import InterpError, ModelError, Unsupported
from interp.models import load


@pytest.fixture
def hub(monkeypatch):
    """Points the hub client at an address; with a status, at a live server that answers so."""
    servers = []

    def at(status: int | None, code: str = "") -> None:
        address = "http://127.0.0.1:9"  # the discard port: nobody listens
        if status is not None:

            class Answer(BaseHTTPRequestHandler):
                def do_GET(self):
                    self.send_response(status)
                    self.send_header("X-Error-Code", code)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

                do_HEAD = do_GET

                def log_message(self, *args):
                    pass

            servers.append(HTTPServer(("127.0.0.1", 0), Answer))
            threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{servers[-1].server_port}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)

    yield at
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_folder_as_text_or_path(gpt2_folder, capfd):
    for name in (gpt2_folder, str(gpt2_folder)):
        model = load(name, device="cpu")
        assert model.facts.architecture == "GPT2LMHeadModel"
        assert (model.device, model.dtype) == (torch.device("cpu"), torch.float32)
    assert not any(p.requires_grad for p in model.bridge.parameters())
    assert not any(m.training for m in model.bridge.modules())
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


def test_loading_touches_no_network(gpt2_folder, hub):
    hub(None)
    load(gpt2_folder)


def test_auto_takes_cuda_where_there_is_one(gpt2_folder):
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert load(gpt2_folder).device.type == expected


def test_a_name_near_a_shipped_one(hub):
    hub(404, "RepoNotFound")
    message = (
        r"no model 'smolm2-135m': it is not shipped.*no such folder.*hub does not have it.*"
        r"did you mean 'smollm2-135m'.*hub id.*or a folder"
    )
    with pytest.raises(ModelError, match=message):
        load("smolm2-135m")


def test_an_unknown_revision(hub):
    hub(404, "RevisionNotFound")
    with pytest.raises(ModelError, match="no model 'owner/name' at revision 'step3'"):
        load("owner/name", revision="step3")


def test_a_revision_of_what_has_none(gpt2_folder):
    for name in (gpt2_folder, "minilm-l6"):
        with pytest.raises(ModelError, match="revision='main' was given for .*Leave revision out"):
            load(name, revision="main")


def test_a_gated_model(hub):
    hub(403, "GatedRepo")
    with pytest.raises(
        ModelError, match="'owner/name'.*licence to be accepted first.*hf auth login"
    ):
        load("owner/name")


def test_a_name_that_cannot_be_an_id():
    with pytest.raises(ModelError, match="no model 'no such model'"):
        load("no such model")


def test_no_network(hub):
    hub(None)
    message = (
        "could not fetch 'minilm-16' from the Hugging Face hub.*not in its cache.*ConnectError.*"
        "Likely there is no network.*did you mean 'minilm-l6'.*fetched elsewhere"
    )
    with pytest.raises(ModelError, match=message):
        load("minilm-16")


@pytest.mark.parametrize("name", ["./nowhere", Path("nowhere"), "/a/b/c", "a/b/c"])
def test_a_folder_that_is_not_there(name):
    with pytest.raises(ModelError, match="there is no folder .*looked from.*smollm2-135m"):
        load(name)


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(ModelError, match="is no model: looked for config.json.*an empty folder"):
        load(tmp_path)
    (tmp_path / "notes.md").touch()
    with pytest.raises(ModelError, match=r"found notes\.md\. Give the folder that save_pretrained"):
        load(tmp_path)


def test_pickled_weights_are_refused(save, tmp_path):
    (tmp_path / "config.json").write_text((save("gpt2") / "config.json").read_text())
    with pytest.raises(ModelError, match="config.json but no .*safetensors weights; found config"):
        load(tmp_path)
    torch.save(load_file(save("gpt2") / "model.safetensors"), tmp_path / "pytorch_model.bin")
    message = r"only pickled weights \(pytorch_model.bin\).*runs whatever code.*save_pretrained"
    with pytest.raises(ModelError, match=message):
        load(tmp_path)


def test_incomplete_weights_are_refused(save, tmp_path):
    (tmp_path / "config.json").write_text((save("llama") / "config.json").read_text())
    weights = load_file(save("llama") / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    message = r"lack 1 of LlamaForCausalLM's parameters, e.g. model.layers.1.mlp.up_proj.weight"
    with pytest.raises(ModelError, match=message):
        load(tmp_path)


def test_an_untrained_head_is_zero_and_the_same_every_time(save):
    first, second = load(save("bert-headless")), load(save("bert-headless"))
    assert first.weight_hash == second.weight_hash
    head = first.truth.parameters()["cls.predictions.transform.dense.weight"]
    assert head.abs().max() == 0


def test_an_architecture_that_cannot_be_wrapped(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "clip", "architectures": ["CLIPModel"]}')
    save_file({"x": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(Unsupported, match=r"TransformerLens cannot wrap \['CLIPModel'\]"):
        load(tmp_path)


def test_a_variant_that_the_adapter_does_not_know(save):
    # TransformerLens 4.3 expects a final norm, which post-norm OPT has not.
    with pytest.raises(Unsupported, match=r"(?s)OPTForCausalLM loads, but TransformerLens cannot"):
        load(save("opt-post"))


def test_damaged_files(save, tmp_path):
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(ModelError, match=r"config.json cannot be read: .*Likely it is damaged"):
        load(tmp_path)
    (tmp_path / "config.json").write_text((save("gpt2") / "config.json").read_text())
    with pytest.raises(ModelError, match=r"the weights in .* cannot be read.*cut short or missing"):
        load(tmp_path)


CONFIGS = [
    "null",
    "[]",
    "3",
    "{}",
    '{"model_type": 3}',
    '{"model_type": "nonesuch"}',
    '{"model_type": "gpt2"}',
    '{"model_type": "gpt2", "n_layer": "two"}',
    '{"model_type": "gpt2", "n_layer": -1}',
    '{"model_type": "gpt2", "n_embd": 12, "n_head": 5}',
    '{"model_type": "gpt2", "activation_function": "nonesuch"}',
    '{"model_type": "gpt2", "dtype": "nonesuch"}',
    '{"model_type": "gpt2", "quantization_config": {"quant_method": "gptq", "bits": 4}}',
    '{"model_type": "x", "auto_map": {"AutoConfig": "configuration_x.XConfig"}}',
]


@pytest.mark.parametrize("content", CONFIGS)
def test_a_config_of_something_else(gpt2_folder, tmp_path, content):
    """Whatever transformers makes of it, one sentence says where and what to do."""
    home = shutil.copytree(gpt2_folder, tmp_path / "model")
    content = content.replace('"gpt2",', '"gpt2", "architectures": ["GPT2LMHeadModel"],')
    (home / "config.json").write_text(content)
    with pytest.raises(InterpError, match=r"(?s)model.*(Likely|model table)") as caught:
        load(home)
    assert str(home) in str(caught.value)


def test_code_that_a_model_brings_is_neither_run_nor_asked_about(gpt2_folder, tmp_path, capfd):
    home = shutil.copytree(gpt2_folder, tmp_path / "model")
    (home / "config.json").write_text(CONFIGS[-1])
    (home / "configuration_x.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelError, match="cannot be read: ValueError: .*custom code.*not run"):
        load(home)
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"3", b"\xff"], ids=str)
def test_a_damaged_tokenizer(gpt2_folder, tmp_path, file, content):
    home = shutil.copytree(gpt2_folder, tmp_path / "model")
    (home / file).write_bytes(content)
    message = r"the tokenizer files in .* cannot be read: \w+: .*Fetch.*take them away"
    with pytest.raises(ModelError, match=message):
        load(home)


def test_a_tokenizer_without_words(save, tmp_path):
    """transformers makes an empty one where a file is missing, and every text says nothing."""
    home = shutil.copytree(save("gpt2"), tmp_path / "model")
    (home / "vocab.txt").write_text("The\nMary\n")
    with pytest.raises(ModelError, match=r"hold 1 special tokens and no others.*GPT2Tok.*merges"):
        load(home)


def test_a_native_folder_that_is_damaged(tmp_path):
    (tmp_path / "native.json").write_text("[]")
    with pytest.raises(
        ModelError, match="native.json carries no checksum of interp.*Save the model"
    ):
        load(tmp_path)


def test_a_file_in_place_of_its_folder(gpt2_folder):
    for name in (gpt2_folder / "model.safetensors", str(gpt2_folder / "config.json")):
        with pytest.raises(ModelError, match=rf"is a file. Give its folder, {gpt2_folder}"):
            load(name)


def test_a_name_that_no_folder_can_have():
    with pytest.raises(ModelError, match="cannot be a folder: .*Give the folder"):
        load("~nosuchuser/x")


def settings() -> dict[str, object]:
    """Whatever a load could leave changed."""
    return {
        "level": logging.getLogger("transformers").level,
        "root": (logging.root.level, list(logging.root.handlers)),
        "bars": transformers_logging.is_progress_bar_enabled(),
        "hub": dict(progress_bar_states),
        "warnings": list(warnings.filters),
        "once": logging.Logger.warning_once,
        "numbers": torch.get_rng_state().tolist(),
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
    }


@pytest.mark.parametrize("family", ["gpt2", "bert-headless", "neox", "opt-post", "cut short"])
def test_nothing_is_left_changed(save, tmp_path, family):
    """By a load that draws weights, by one that wraps copies, by two that fail."""
    home = save("gpt2" if family == "cut short" else family)
    if family == "cut short":
        home = shutil.copytree(home, tmp_path / "model")
        (home / "config.json").write_text(CONFIGS[9])
    before = settings()
    try:
        load(home)
    except InterpError:
        assert family in ("opt-post", "cut short")
    assert settings() == before


def test_what_is_given_is_looked_at_before_anything_is_read(gpt2_folder, monkeypatch):
    """The library's own words: without the checks of types that stand before it in tests."""
    module = sys.modules["interp.models.load"]
    monkeypatch.setattr(module, "find", lambda *_: pytest.fail("something was read"))
    plain = inspect.unwrap(load)
    wrong = {"device": 3, "dtype": torch.int8, "revision": 5}
    for given in ({"name": None}, {"name": ""}, *({name: x} for name, x in wrong.items())):
        with pytest.raises(ModelError, match="Give"):
            plain(**{"name": gpt2_folder, **given})


@pytest.mark.parametrize("dtype", ["float64", "torch.bfloat16"])
def test_a_precision_by_its_name(gpt2_folder, dtype):
    model = load(gpt2_folder, dtype=dtype, device=torch.device("cpu"))
    assert str(model.dtype).endswith(dtype.removeprefix("torch."))


def test_a_hub_id_that_was_fetched_before_needs_no_network(hub, gpt2_folder, tmp_path, monkeypatch):
    hub(None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "models--owner--name"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    shutil.copytree(gpt2_folder, repo / "snapshots" / commit)
    model = load("owner/name")
    assert model.name == "owner/name"
    assert model.encode("The Mary") == [0, 2, 3]


def test_devices_that_are_not_there(gpt2_folder):
    with pytest.raises(ModelError, match="device='gpu' is no device. Give 'auto', 'cpu'"):
        load(gpt2_folder, device="gpu")
    n = torch.cuda.device_count()
    with pytest.raises(ModelError, match=rf"'cuda:7', but torch .* sees {n} CUDA.*device='cpu'"):
        load(gpt2_folder, device="cuda:7")
    if n == 0:
        with pytest.raises(ModelError, match="device='cuda', but torch .* sees 0 CUDA devices"):
            load(gpt2_folder, device="cuda")
    if not torch.backends.mps.is_available():
        with pytest.raises(ModelError, match="no Metal device"):
            load(gpt2_folder, device="mps")
