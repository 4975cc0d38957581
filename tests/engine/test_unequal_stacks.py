"""Stacks of unequal depth, of families that TransformerLens wraps with equal ones alone."""

import pytest
import tiny
import torch
import transformers as hf

import interp
from interp import Pairs

KIN = {
    "bart": (hf.BartConfig, hf.BartForConditionalGeneration),
    "mbart": (hf.MBartConfig, hf.MBartForConditionalGeneration),
    "marian": (hf.MarianConfig, hf.MarianMTModel),
    "pegasus": (hf.PegasusConfig, hf.PegasusForConditionalGeneration),
    "m2m100": (hf.M2M100Config, hf.M2M100ForConditionalGeneration),
}
SITES = ["enc.1.2", "dec.0.cross.3", "enc.0.mlp", "dec.0.mlp"]


@pytest.mark.parametrize("depths", [(3, 1), (2, 3)])
@pytest.mark.parametrize("family", KIN)
def test_stacks_of_unequal_depth(family, depths, tmp_path):
    config, kind = KIN[family]
    deep = dict(zip(("encoder_layers", "decoder_layers"), depths, strict=True))
    torch.manual_seed(0)
    kind(config(**tiny.BART | deep)).eval().save_pretrained(tmp_path)
    plain = kind.from_pretrained(tmp_path, dtype=torch.float64, attn_implementation="eager").eval()
    model = interp.load(tmp_path, dtype=torch.float64)
    assert (model.facts.n_encoder_layers, model.facts.n_layers) == depths
    clean, corrupt, target = [[3, 4, 5], [7, 8, 9]], [[3, 11, 5], [7, 12, 9]], [[5, 7], [8, 6]]
    pairs = Pairs.from_tokens(
        clean=clean, corrupt=corrupt, target=target, correct=[5, 6], wrong=[9, 10]
    )
    start = plain.config.decoder_start_token_id
    with torch.no_grad():
        ids = torch.tensor([[start, *row] for row in target])
        logits = plain(input_ids=torch.tensor(clean), decoder_input_ids=ids).logits[:, -1]
    truth = logits[range(2), [5, 6]] - logits[range(2), [9, 10]]
    found = {
        engine: interp.ablate(model, pairs, SITES, method="resample", engine=engine).frame
        for engine in ("replay", "hooks")
    }
    base = found["replay"]["base"].to_numpy()[:2]
    assert abs(base - truth.numpy()).max() < 1e-9
    apart = found["replay"]["value"] - found["hooks"]["value"]
    assert apart.abs().max() < 1e-9
    assert found["replay"]["effect"].abs().max() > 1e-6
