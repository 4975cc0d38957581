"""Logit lens and direct logit attribution: sums, the last layer, and what is refused."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import interp
from interp.core.errors import MetricError, PairsError, PositionError, Unsupported
from interp.core.tables.results import COLUMNS
from interp.engine.engines.hooked import run as hooks
from interp.heads.lens import direct_logit_attribution, logit_lens
from interp.models.small.native import Shape, build, shape_of, state_of

SUMS = ["gpt2", "llama", "llama-mha", "qwen2", "qwen3", "neox", "phi", "gptj", "opt"]
SUMS += ["gemma3", "olmo2", "mistral-window", "neox-sequential"]
SUMS += ["granite", "bloom", "cohere", "olmo", "nemotron", "glm4"]
"""Pre-norm, parallel, and norms on what the parts write (Gemma, OLMo 2)."""


CASES = [("replay", family) for family in SUMS] + [("hooks", "gpt2"), ("hooks", "olmo2")]


@pytest.mark.parametrize("engine, family", CASES)
def test_parts_sum_to_the_logit_difference(tiny_model, pairs, family, engine):
    model = tiny_model(family)
    found = direct_logit_attribution(model, pairs, engine=engine)
    whole = interp.evaluate(model, pairs, metric="logit_diff").query("position == 'clean'").frame
    total = found.frame.groupby("example")["value"].sum()
    assert np.abs(total.to_numpy() - whole["value"].to_numpy()).max() < 1e-9
    facts = model.facts
    assert list(found.frame.columns) == COLUMNS
    assert (found.frame["kind"] == "z").sum() == facts.n_layers * facts.n_heads * len(pairs)
    assert (found.frame["kind"] == "mlp_out").sum() == facts.n_layers * len(pairs)
    assert set(found.frame["engine"]) == {engine}


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_sum_of_an_attention_only_model(pairs, norm):
    shape = Shape(2, 4, 12, 6, 29, 16, 0, n_kv_heads=2, norm=norm)
    model = build(shape, name="r", dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    state = {
        name: value + 0.3 * torch.randn(value.shape, generator=generator, dtype=value.dtype)
        for name, value in sorted(state_of(model).items())
    }
    model = build(shape_of(model), name="r", state=state, dtype=torch.float64)
    frame = direct_logit_attribution(model, pairs, position="mid").frame
    whole = interp.evaluate(model, pairs, metric="logit_diff@mid").query("position == 'clean'")
    total = frame.groupby("example")["value"].sum()
    assert np.abs(total.to_numpy() - whole.frame["value"].to_numpy()).max() < 1e-9
    assert set(frame["kind"]) == {"embed", "z", "attn_out", "logits"}
    assert set(frame["position"]) == {"mid"}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@torch.no_grad()
def test_heads_against_their_own_write_through_the_unembedding(tiny_model, pairs, family):
    """One head's z times its part of W_O, normed at the run's own scale by the model's norm."""
    model = tiny_model(family)
    found = direct_logit_attribution(model, pairs).frame.set_index(["site", "example"])["value"]
    row, n = pairs.clean[1], int(pairs.lengths[1])
    run = hooks.trace(model, row[None, :n])
    bridge, hf = model.bridge, model.bridge.original_model
    layer, head = 1, 2
    o = bridge.blocks[layer].attn.W_O[head]
    write = run.kept["z"][layer][0, -1, head] @ o
    final = run.final[0, -1]
    # a norm at a frozen scale is linear but for its bias: f(x) - f(x - write) at the scale of x
    last = bridge.ln_final.original_component
    centre = (lambda x: x - x.mean()) if family == "gpt2" else (lambda x: x)
    eps = last.eps if family == "gpt2" else last.variance_epsilon
    size = (centre(final).square().mean() + eps).sqrt()
    through = centre(write) / size * last.weight
    u = hf.lm_head.weight
    expected = through @ (u[pairs.correct[1]] - u[pairs.wrong[1]])
    assert abs(found[f"{layer}.{head}", 1] - expected.item()) < 1e-9


@pytest.mark.parametrize("family", ["gpt2", "gemma2-window", "olmo2", "granite", "cohere"])
@pytest.mark.parametrize("metric", ["logit_diff", "rank", "next_token_loss"])
def test_last_layer_is_the_models_own(tiny_model, pairs, family, metric):
    model = tiny_model(family)
    found = logit_lens(model, pairs, metric=metric)
    last = found.frame[found.frame["site"] == f"{model.facts.n_layers - 1}.resid_post"]
    whole = interp.evaluate(model, pairs, metric=metric).query("position == 'clean'").frame
    assert np.abs(last["value"].to_numpy() - whole["value"].to_numpy()).max() < 1e-9
    assert list(found.frame["site"].unique()) == ["embed", *(f"{i}.resid_post" for i in range(3))]
    assert found.frame[["base", "effect"]].isna().all().all()
    assert found.query("site != 'embed'").grid("value").shape == (3,)


@torch.no_grad()
def test_a_middle_layer_through_the_bridges_own_modules(tiny_model, pairs):
    model = tiny_model("gpt2")
    found = logit_lens(model, pairs, metric="log_prob@mid").frame.set_index(["site", "example"])
    n = int(pairs.lengths[3])
    run = hooks.trace(model, pairs.clean[3:4, :n])
    stream = run.kept["resid_pre"][2][:, int(pairs.at("mid")[3])]
    hf = model.bridge.original_model
    logits = hf.lm_head(hf.transformer.ln_f(stream))
    expected = logits.log_softmax(-1)[0, pairs.correct[3]]
    assert abs(found["value"]["1.resid_post", 3] - expected.item()) < 1e-6


def test_divergence_from_the_models_own_logits_ends_at_zero(tiny_model, pairs):
    frame = logit_lens(tiny_model("llama"), pairs, metric="kl").frame
    assert frame.query("site == '2.resid_post'")["value"].abs().max() < 1e-12
    assert frame.query("site == 'embed'")["value"].min() > 1e-3


@pytest.mark.parametrize("engine", ["replay", "hooks"])
def test_several_metrics_of_one_run(tiny_model, pairs, engine):
    """Each as by itself: of answers, of the vocabulary, of the clean run, and of running text."""
    model, metrics = tiny_model("llama"), ["logit_diff@mid", "rank", "kl", "next_token_loss"]
    found = logit_lens(model, pairs, metric=metrics, engine=engine).frame
    alone = [logit_lens(model, pairs, metric=m, engine=engine).frame for m in metrics]
    pd.testing.assert_frame_equal(found, pd.concat(alone, ignore_index=True))


def test_where_logits_are_read(tiny_model, pairs):
    """A name, a number, and a number for each row."""
    model, late = tiny_model("gpt2"), pairs.at("late")

    def values(position):
        return direct_logit_attribution(model, pairs, position=position).frame

    named = values("late")
    assert np.array_equal(named["value"], values(late.numpy())["value"])
    assert set(values(late)["metric"]) == {"logit_diff@per row"}
    third = replace(pairs, positions=pairs.positions | {"third": torch.full_like(late, 3)})
    by_name = direct_logit_attribution(model, third, position="third").frame
    assert np.array_equal(values(3)["value"], by_name["value"])
    assert set(values(3)["position"]) == {"3"} and set(values(3)["metric"]) == {"logit_diff@3"}
    for odd, said in (
        ("all", "means several"),
        (-1, "from the end"),
        (7, "no position 7 in row 0"),
    ):
        with pytest.raises(PositionError, match=said):
            values(odd)


def test_summaries(tiny_model, pairs):
    model = tiny_model("llama")
    parts = direct_logit_attribution(model, pairs)
    summary = parts.summary()
    assert summary["p"].notna().all() and (summary["base"] == 0).all()
    assert parts.query("kind == 'z'").grid().shape == (3, 6)
    assert logit_lens(model, pairs).summary()["p"].isna().all()
    assert interp.explain(logit_lens, model, pairs).flops > 0  # nothing is run


def test_what_has_no_sum_or_no_logits_is_refused(tiny_model, pairs):
    for call in (logit_lens, direct_logit_attribution):
        with pytest.raises(Unsupported, match="post-norm.*pre-norm model"):
            call(tiny_model("bert"), pairs)
        with pytest.raises(Unsupported, match="no language-model head"):
            call(tiny_model("bert-headless"), pairs)
        with pytest.raises(Unsupported, match="post-norm.*pre-norm model"):
            call(tiny_model("bart"), pairs)
    llama = tiny_model("llama")
    with pytest.raises(Unsupported, match=r"caps its logits \(3.0 tanh"):
        direct_logit_attribution(tiny_model("gemma2-window"), pairs)
    with pytest.raises(MetricError, match="'cosine' an embedding"):
        logit_lens(llama, pairs, metric="cosine")
    with pytest.raises(PositionError, match="no position 'middle'"):
        direct_logit_attribution(llama, pairs, position="middle")
    bare = replace(pairs, correct=pairs.correct * 0 - 1, wrong=pairs.wrong * 0 - 1)
    with pytest.raises(PairsError, match="compares answers"):
        direct_logit_attribution(llama, bare)
