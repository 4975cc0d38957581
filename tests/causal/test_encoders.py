"""Encoders: embeddings that are compared with the clean one, and logits at the mask."""

import numpy as np
import pytest
import torch

import interp
from interp.core.errors import MetricError
from interp.core.metrics import resolve_metric

ENGINES = ("replay", "hooks")


@pytest.mark.plain
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("metric", ["cosine", "cosine@mid"])
def test_the_cosine_to_the_clean_embedding(tiny_model, oracle, pairs, metric, engine):
    """1 on the clean run; under ablation what the oracle's streams say."""
    model = tiny_model("bert-headless")
    found = interp.ablate(
        model, pairs, ["1.2", "0.mlp", "2.4"], method="zero", metric=metric, engine=engine
    )
    assert set(found.frame["metric"]) == {metric}
    assert (found.frame["base"] - 1).abs().max() < 1e-12
    assert (found.frame["effect"] < 0).all()
    judge = oracle("bert-headless")
    for line in found.frame.itertuples():
        row, n = line.example, int(pairs.lengths[line.example])
        tokens = pairs.clean[row : row + 1, :n]
        clean = judge.forward(tokens)[0][0]
        gone = judge.forward(tokens, lambda name, x, s=line.site: 0 * x if name == s else x)[0][0]
        at = slice(None) if metric == "cosine" else slice(p := int(pairs.at("mid")[row]), p + 1)
        truth = torch.cosine_similarity(clean[at].mean(0), gone[at].mean(0), dim=0)
        assert abs(line.value - truth.item()) < 1e-9


@pytest.mark.plain
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", ["bert-headless", "bert"])
def test_every_method_answers_by_embedding(tiny_model, pairs, family, engine):
    """Post-norm: patching everything gives the other run, and a path reaches the last layer."""
    model = tiny_model(family)
    patched = interp.patch(
        model, pairs, {"all": ["embed"]}, direction="denoise", metric="cosine", engine=engine
    )
    assert (patched.frame["value"] - 1).abs().max() < 1e-12
    for through in ("direct", "mlps", "all"):
        paths = interp.path_patch(
            model,
            pairs,
            senders=["0.1", "1.mlp"],
            receivers="2.0.v",
            through=through,
            metric="cosine",
            engine=engine,
        )
        assert (paths.frame["effect"] < 0).all()
    edge = interp.patch(
        model, pairs, "0.1 -> 2.0.q", direction="noise", metric="cosine", engine=engine
    )
    assert (edge.frame["effect"] < 0).any()


def test_logits_at_the_mask(tiny_model, oracle, pairs):
    model = tiny_model("bert")
    masked = interp.Pairs.from_tokens(
        clean=pairs.clean[[0, 2], :7],
        corrupt=pairs.corrupt[[0, 2], :7],
        correct=[3, 7],
        wrong=[4, 8],
        positions={"mask": [2, 4]},
    )
    found = interp.evaluate(model, masked, metric="logit_diff@mask")
    for row, (at, right, wrong) in enumerate([(2, 3, 4), (4, 7, 8)]):
        logits = oracle("bert").forward(masked.clean[row : row + 1])[0][0, at]
        assert abs(found.frame["value"][row] - (logits[right] - logits[wrong]).item()) < 1e-9
    heads = interp.ablate(model, masked, "heads", method="zero", metric="logit_diff@mask")
    assert set(heads.frame["metric"]) == {"logit_diff@mask"}
    assert np.abs(heads.frame["base"][0] - found.frame["value"][0]) < 1e-12


@pytest.mark.real
def test_a_real_encoder():
    """MiniLM: a head moves the sentence embedding a little, a layer of attention more."""
    model = interp.load("minilm-l6", device="cpu")
    pairs = interp.Pairs.from_text(
        model,
        clean=["the cat sat on the mat", "she sold her old car"],
        corrupt=["the dog sat on the mat", "he sold his old car"],
    )
    heads = interp.ablate(model, pairs, "heads", method="zero", metric="cosine")
    attention = interp.ablate(model, pairs, "attn", method="zero", metric="cosine")
    assert set(heads.frame["engine"]) == {"replay"}
    assert heads.frame["value"].between(0.3, 1.0001).all()
    assert attention.frame["value"].mean() < heads.frame["value"].mean()
    whole = interp.patch(model, pairs, "embed", metric="cosine", direction="denoise")
    assert (whole.frame["value"] - 1).abs().max() < 1e-5
    assert (whole.frame["base"] < 0.999).all()


def test_what_a_mean_is_of():
    with pytest.raises(
        MetricError, match=r"reads logits, which stand at a position.*'mean' is for"
    ):
        resolve_metric("logit_diff@mean")
