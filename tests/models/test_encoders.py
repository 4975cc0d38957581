"""Encoders that TransformerLens has no adapter of, with and without a head for words."""

import pytest
import tiny
import torch
import transformers as hf

import interp
from interp.core.prompts.pairs import Pairs

ROWS = [[3, 7, 12, 25, 9, 20, 14], [5, 6, 20, 7, 28, 4, 13]]
KINDS = {
    hf.RobertaModel: (hf.RobertaConfig, tiny.ROBERTA),
    hf.RobertaForSequenceClassification: (hf.RobertaConfig, tiny.ROBERTA),
    hf.XLMRobertaModel: (hf.XLMRobertaConfig, tiny.ROBERTA),
    hf.CamembertModel: (hf.CamembertConfig, tiny.ROBERTA),
    hf.CamembertForMaskedLM: (hf.CamembertConfig, tiny.ROBERTA),
    hf.DistilBertModel: (hf.DistilBertConfig, tiny.DISTILBERT),
    hf.DistilBertForSequenceClassification: (hf.DistilBertConfig, tiny.DISTILBERT),
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@torch.no_grad()
def test_the_last_stream_is_hugging_faces(kind, tmp_path):
    config, shape = KINDS[kind]
    module = kind(config(**shape)).double().eval()
    for parameter in module.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    module.save_pretrained(tmp_path)
    model = interp.load(tmp_path, dtype=torch.float64)
    assert model.facts.language_model == kind.__name__.endswith("MaskedLM")
    truth = module(torch.tensor(ROWS), output_hidden_states=True).hidden_states
    pairs = Pairs.from_tokens(clean=ROWS, corrupt=ROWS[::-1])
    for engine in ("replay", "hooks"):
        found = interp.capture(model, pairs, ["embed", "layers"], engine=engine)
        assert found.provenance["engine"] == engine
        for layer in range(3):
            assert (found[f"{layer}.resid_post"] - truth[layer + 1]).abs().max() < 1e-12
        assert (found["embed"] - truth[0]).abs().max() < 1e-12
