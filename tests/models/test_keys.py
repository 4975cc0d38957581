"""A model's weights are those of its config, all and no more; numbers are plain transformers'."""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import tiny
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp.core.errors import ModelError
from interp.models import load

IDS = torch.tensor([[2, 3, 5, 7, 11]])


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """The folder of a model, with some of its config and of its tensors changed."""

    def write(
        model: hf.PreTrainedModel,
        *,
        config: Mapping[str, object] | None = None,
        add: Mapping[str, Tensor] | None = None,
        rename: Callable[[str], str | None] = str,
    ) -> Path:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn(parameter.shape)
        model.save_pretrained(tmp_path)
        stored = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**stored, **(config or {})}))
        file = tmp_path / "model.safetensors"
        named = {rename(key): value for key, value in load_file(file).items()}
        kept = {key: value for key, value in named.items() if key is not None}
        save_file({**kept, **(add or {})}, file, metadata={"format": "pt"})
        return tmp_path

    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield write


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(folder)
    return str(caught.value)


def says(text: str, *parts: str) -> None:
    assert not [part for part in parts if part not in text], text


def gpt2(**changes: object) -> hf.GPT2LMHeadModel:
    return hf.GPT2LMHeadModel(hf.GPT2Config(**{**tiny.GPT2, **changes}))


def llama(**changes: object) -> hf.LlamaForCausalLM:
    return hf.LlamaForCausalLM(hf.LlamaConfig(**{**tiny.LLAMA, **changes}))


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_more_layers_than_the_config(written, prefix):
    """As `save_pretrained` writes them, and as the base model does (GPT-2 on the hub)."""

    def bare(key: str) -> str:
        return prefix + key.removeprefix("transformer.")

    folder = written(gpt2(n_layer=4), config={"n_layer": 2}, rename=bare)
    plain, info = hf.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert len(plain.transformer.h) == 2  # what used to be loaded, in silence
    assert len(info["unexpected_keys"]) == 22
    says(
        refusal(folder),
        str(folder),
        "22 tensors that GPT2LMHeadModel would leave out",
        f"{prefix}h.2.attn.c_attn.weight",
        "and 19 more",
        "config.json belongs to another model",
        "GPT2LMHeadModel.from_pretrained(folder).save_pretrained(new_folder)",
    )
    plain.save_pretrained(folder)  # the remedy
    assert load(folder).facts.n_layers == 2


@pytest.mark.parametrize(
    ("made", "as_if", "key"),
    [
        (hf.Qwen3ForCausalLM, hf.Qwen3Config, "model.layers.0.self_attn.k_norm.weight"),
        (hf.Qwen2ForCausalLM, hf.Qwen2Config, "model.layers.0.self_attn.k_proj.bias"),
    ],
)
def test_parts_that_the_config_does_not_know(written, made, as_if, key):
    """A norm or a bias that Llama has not; without it every logit is another."""
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    folder = written(made(as_if(**tiny.LLAMA)), config=config)
    says(refusal(folder), "LlamaForCausalLM would leave out", key)


@pytest.mark.parametrize(
    "extra", ["lm_head.bias", "model.norm.bias", "model.embed_positions.weight", "layers.7.x"]
)
def test_a_single_tensor_of_the_body_or_of_the_head(written, extra):
    folder = written(llama(), add={extra: torch.ones(29)})
    says(refusal(folder), "hold 1 tensors that LlamaForCausalLM would leave out", extra)


def test_an_encoder_decoder_has_no_prefix(written):
    fewer = {"num_layers": 2}
    folder = written(hf.T5ForConditionalGeneration(hf.T5Config(**tiny.T5)), config=fewer)
    says(refusal(folder), "8 tensors that T5ForConditional", "encoder.block.2.layer.0.SelfAtt")


def test_an_encoder_decoder_with_fewer_layers_than_its_config(written):
    """Nothing of it is called "transformer.", so what was missing counted as a head, and was 0."""
    more = {"num_decoder_layers": 3}
    folder = written(hf.T5ForConditionalGeneration(hf.T5Config(**tiny.T5)), config=more)
    says(refusal(folder), "lack 13 of T5ForConditionalGeneration's", "decoder.block.2.layer.0.")


def test_another_vocabulary(written):
    folder = written(gpt2(), config={"vocab_size": 31})
    says(
        refusal(folder),
        "1 of the weights",
        "transformer.wte.weight is (29, 12) in the file and (31, 12) by the config",
        "give the one that was saved with the weights",
    )


def test_another_width(written):
    folder = written(llama(), config={"intermediate_size": 15})
    says(refusal(folder), "9 of the weights", "down_proj.weight is (30, 14)", "(30, 15) by the")


def test_another_models_weights(written):
    folder = written(gpt2())
    llama().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(gpt2().config.to_dict()))
    says(refusal(folder), "lack 39 of GPT2LMHeadModel's parameters", "incomplete, or config.json")


@pytest.mark.parametrize(
    ("made", "left"),
    [
        (hf.BertForPreTraining, "bert.pooler.dense.bias, bert.pooler.dense.weight, cls.seq_rela"),
        (hf.BertForMaskedLM, None),
    ],
)
def test_heads_of_other_tasks_are_left_out_and_logged(written, caplog, made, left):
    """`bert-base-uncased` carries the pooler and the head of next-sentence prediction."""
    folder = written(made(hf.BertConfig(**tiny.PLAIN)).eval())
    with caplog.at_level(logging.INFO, logger="interp"):
        model = load(folder, dtype=torch.float64)
    said = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    assert len(said) == (left is not None)
    if left is not None:
        says(said[0], str(folder), "heads of other tasks", left)
        assert caplog.records[0].levelname == "INFO"
    assert model.facts.language_model
    plain = hf.BertForMaskedLM.from_pretrained(folder, dtype=torch.float64).eval()
    ours = model.bridge.original_model(input_ids=IDS).logits
    assert (ours - plain(input_ids=IDS).logits).abs().max() < 1e-5


@pytest.mark.parametrize(
    "made",
    [
        lambda: hf.BertModel(hf.BertConfig(**tiny.PLAIN)),
        lambda: hf.BertForSequenceClassification(hf.BertConfig(**tiny.PLAIN)),
        lambda: hf.BertForQuestionAnswering(hf.BertConfig(**tiny.PLAIN)),
    ],
)
def test_a_model_of_another_task_has_no_language_model_head(written, made):
    model = load(written(made()))
    assert not model.facts.language_model


def test_a_classifier_of_a_causal_model(written):
    folder = written(hf.GPT2ForSequenceClassification(hf.GPT2Config(**tiny.GPT2)))
    left = set(load_file(folder / "model.safetensors")) - set(gpt2().state_dict())
    assert left == {"score.weight"}
    assert load(folder).facts.language_model  # its head is tied to the embedding, as it was


def test_a_head_of_ones_own_is_left_out_and_said(written, caplog):
    """A value head beside the body, which the model has nothing of the name of."""
    folder = written(llama(), add={"v_head.summary.weight": torch.ones(1, 30)})
    with caplog.at_level(logging.WARNING, logger="interp"):
        model = load(folder)
    (said,) = (r.getMessage() for r in caplog.records)
    says(said, "left out 1 tensors beside the body of LlamaForCausalLM", "v_head.summary.weight")
    plain = hf.LlamaForCausalLM.from_pretrained(folder)
    ours = model.bridge.original_model(input_ids=IDS).logits
    assert (ours - plain(input_ids=IDS).logits).abs().max() < 1e-5
    both = written(
        llama(),
        add={"v_head.summary.weight": torch.ones(1, 30)},
        rename=lambda key: key.removeprefix("model."),
    )
    says(refusal(both), "v_head")  # body and head are not told apart there


@pytest.mark.parametrize(
    ("made", "masks"),
    [
        (gpt2, ("h.0.attn.bias", "h.0.attn.masked_bias")),
        (
            lambda: hf.GPTJForCausalLM(hf.GPTJConfig(**tiny.GPTJ, rotary_dim=2)),
            ("transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias"),
        ),
        (
            lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**tiny.PLAIN)),
            ("gpt_neox.layers.0.attention.bias", "gpt_neox.layers.0.attention.masked_bias"),
        ),
    ],
)
def test_masks_of_old_are_no_weights(written, caplog, made, masks):
    """Older versions of transformers kept them among the weights, and hubs still do."""
    model = made()
    prefix = "" if masks[0].startswith(model.base_model_prefix) else f"{model.base_model_prefix}."
    mask = torch.ones(1, 1, 16, 16).tril()
    folder = written(
        model,
        add={masks[0]: mask, masks[1]: torch.tensor(-1e9)},
        rename=lambda key: key.removeprefix(prefix),
    )
    with caplog.at_level(logging.INFO, logger="interp"):
        load(folder)
    assert not caplog.records


def test_an_embedding_that_is_tied_though_the_file_has_two(written):
    """transformers keeps both where they differ; so do we, and what it says is not lost on us."""
    folder = written(llama(), config={"tie_word_embeddings": True})
    model = load(folder, dtype=torch.float64)
    plain = hf.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float64)
    assert not torch.equal(plain.lm_head.weight, plain.model.embed_tokens.weight)
    ours = model.bridge.original_model(input_ids=IDS).logits
    assert (ours - plain(input_ids=IDS).logits).abs().max() < 1e-5
    assert model.facts.language_model


def test_a_head_that_the_file_lacks_is_said(written):
    """Untied by the config, saved as tied: there is no head, and metrics of logits refuse."""
    folder = written(llama(tie_word_embeddings=True), config={"tie_word_embeddings": False})
    assert not load(folder).facts.language_model
