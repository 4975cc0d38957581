from dataclasses import replace

import pytest
import torch
import transformers as hf

from interp.core.errors import ModelError, PairsError, Unsupported
from interp.models import load


def test_training_mode_is_refused_by_name(gpt2_folder):
    model = load(gpt2_folder)
    model.require_eval()
    model.bridge.blocks[1].mlp.train()
    with pytest.raises(ModelError, match=r"submodules of .* in training mode: .*mlp.*bridge.eval"):
        model.require_eval()


def test_text_goes_through_the_models_own_tokenizer(gpt2_folder):
    model = load(gpt2_folder)
    assert model.encode("The Mary") == [0, 2, 3]
    assert model.encode("The Mary", bos="none") == [2, 3]
    assert model.encode_with_offsets("The Mary")[0] == [0, 2, 3]
    assert model.token_id(" Mary") == 3
    assert model.show([2, 3]) == ["The", "␣Mary"]
    with pytest.raises(PairsError, match="2 tokens"):
        model.token_id(" gave it")


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
def test_the_likeliest_next_tokens(family, save, raw):
    model = load(save(family))
    ids = torch.tensor([[3, 1, 4, 1, 5, 9]])
    start = {"decoder_input_ids": torch.tensor([[0]])} if family == "t5" else {}
    with torch.no_grad():
        logits = raw(family)(input_ids=ids, **start).logits[0, -1]
    found = model.top(ids[0].tolist(), k=4)
    assert [*found["rank"]] == [1, 2, 3, 4]
    assert [*found["id"]] == logits.argsort(descending=True)[:4].tolist()
    right = logits.double().softmax(-1)
    for row in found.to_dict("records"):
        assert row["probability"] == pytest.approx(right[row["id"]].item(), rel=1e-4)
        assert row["log_prob"] == pytest.approx(right[row["id"]].log().item(), rel=1e-4)
        assert row["logit"] == pytest.approx(logits[row["id"]].item(), rel=1e-4, abs=1e-5)
    assert model.top([3], k=1000)["probability"].sum() == pytest.approx(1)


def test_the_likeliest_tokens_of_a_text(gpt2_folder):
    model = load(gpt2_folder)
    found = model.top("The Mary", k=2)
    assert [*found["token"]] == model.show([*found["id"]])
    assert found.equals(model.top([0, 2, 3], k=2))
    assert not found.equals(model.top("The Mary", k=2, bos="none"))


def test_no_next_token(save, gpt2_folder):
    for family, says in (("bert-headless", "no trained language-model head"), ("bert", "no.*mask")):
        with pytest.raises(Unsupported, match=says):
            load(save(family)).top([3, 4])
    for ids in ([], [99]):
        with pytest.raises(PairsError, match="none that the model reads: give one at least"):
            load(save("gpt2")).top(ids)


def test_wrapping_leaves_the_tokenizer_alone(gpt2_folder):
    # TransformerLens sets padding and end tokens on the tokenizer that it is given.
    assert load(gpt2_folder).tokenizer.pad_token is None


def test_text_without_a_tokenizer_is_refused(save):
    model = load(save("llama"))
    assert model.tokenizer is None
    for ask in (model.encode, model.token_id, model.encode_with_offsets):
        with pytest.raises(ModelError, match="has no tokenizer.*save_pretrained.*ids instead"):
            ask("The")
    with pytest.raises(ModelError, match="has no tokenizer"):
        model.show([1])


def test_weight_hash_is_of_the_weights(save, raw, tmp_path):
    first, second = load(save("gpt2")), load(save("gpt2"))
    assert first.weight_hash == second.weight_hash
    assert len(first.weight_hash) == 64
    changed = raw("gpt2")
    changed.transformer.h[1].mlp.c_fc.weight.data[0, 0] += 1e-3
    changed.save_pretrained(tmp_path)
    assert load(tmp_path).weight_hash != first.weight_hash
    assert load(save("gpt2"), dtype=torch.float64).weight_hash != first.weight_hash


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "neox", "bert", "bert-headless"])
def test_parity_with_hugging_face(family, save, raw):
    model = load(save(family))
    tokens = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])
    out = raw(family)(input_ids=tokens)
    expected = out.logits if model.facts.language_model else out.last_hidden_state
    assert torch.allclose(model.truth.run(tokens).output, expected, atol=1e-6)
    assert model.parity() < 1e-5
    if model.facts.language_model:
        assert torch.allclose(model.bridge(tokens), expected, atol=1e-5)


def test_repr_tells_what_matters(gpt2_folder, save):
    lines = repr(load(gpt2_folder)).splitlines()
    assert lines[0] == f"{gpt2_folder} on cpu, float32"
    assert lines[1].strip().startswith("GPT2LMHeadModel: 3 layers, 3 heads, d_model 12")
    assert len(lines) == 2
    assert "no tokenizer" in repr(load(save("llama")))
    broken = load(save("bert"))
    broken.now().found["checks"] = replace(broken.checks, resid_mid=0.5)
    assert "note (residual)" in repr(broken)


@pytest.mark.real
def test_smollm2_is_itself():
    model = load("smollm2-135m")
    assert (model.facts.n_layers, model.facts.n_heads, model.facts.n_kv_heads) == (30, 9, 3)
    assert model.checks.problems() == {}
    assert model.encode("Hello") == model.encode("Hello", bos="none")  # it adds no BOS
    assert model.show(model.encode("Mary 12")) == ["Mary", "␣", "1", "2"]
    prompt = "When Mary and John went to the store, John gave a drink to"
    logits = model.bridge(torch.tensor([model.encode(prompt)]))[0, -1]
    assert logits[model.token_id(" Mary")] > logits[model.token_id(" John")] + 1


@pytest.mark.real
def test_minilm_matches_hugging_face():
    from interp.models.finding.shipped import folder

    model = load("minilm-l6")
    assert not model.facts.language_model
    ids = torch.tensor([model.encode("The cat sat on the mat.")])
    raw = hf.AutoModel.from_pretrained(folder("minilm-l6"), attn_implementation="eager").eval()
    with torch.no_grad():
        expected = raw(input_ids=ids).last_hidden_state
    _, acts = model.bridge.run_with_cache(ids, names_filter=["blocks.5.hook_resid_post"])
    assert torch.allclose(acts["blocks.5.hook_resid_post"], expected, atol=1e-5)
