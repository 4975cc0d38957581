"""Scores by distance against the models' own attention patterns."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from interp.core.errors import PairsError, PositionError, SiteError, Unsupported
from interp.engine.engines.choose import weights_of
from interp.engine.engines.hooked import run as hooks
from interp.heads.weights.factors import factors
from interp.heads.weights.offsets import by_offset, offset_curve, offset_pair, position_scores
from interp.models.small.native import Shape, build

ROTARY = ["llama", "qwen2", "qwen3", "neox", "phi", "gptj", "gemma2-window", "gemma3"]
"""Half-split and interleaved (GPT-J), of all features and of some (NeoX, Phi, GPT-J), biases
(Qwen 2, Phi, NeoX), QK-norm (Qwen 3, Gemma 3), grouped queries, a window and a cap (Gemma 2)."""
NATIVE = Shape(2, 4, 10, 6, 13, 12, 0, n_kv_heads=2, positions="rotary", norm="rms")


def logs(model, tokens, layer=0):
    """log p of keys less log p of the token itself: differences of scores, `head query key`."""
    with torch.no_grad():
        pattern = hooks.trace(model, tokens, keep=("pattern",)).kept["pattern"][layer][0]
    log = pattern.log().transpose(0, 1)  # head query key
    return log - log.diagonal(dim1=1, dim2=2)[..., None]


@pytest.mark.parametrize("family", ROTARY)
def test_pairs_are_the_first_layers_own_scores(tiny_model, family):
    """Differences of log probabilities in a row, through the bridge.

    To 1e-6: Hugging Face rounds angles to float32, so turning by i and back by j is not quite
    turning by i - j. Native models in float64 do not, and agree to 1e-9.
    """
    model = tiny_model(family)
    tokens = torch.tensor([[3, 7, 7, 12, 25, 3, 0, 9]])
    truth = logs(model, tokens)
    ids, head = tokens[0].tolist(), model.facts.n_heads - 1
    p = weights_of(model).blocks[0].attention
    for i in (2, 7):
        for j in (i - 1, max(0, i - (p.window or 16) + 1)):
            found = [
                offset_pair(model, f"0.{head}", ids[i], ids[k], offsets=[i - k]).frame["value"][0]
                for k in (i, j)
            ]
            if p.cap is not None:
                found = [p.cap * np.tanh(score / p.cap) for score in found]
            assert abs(found[1] - found[0] - truth[head, i, j].item()) < 1e-6


def test_pairs_of_native_models():
    model = build(NATIVE, name="native", dtype=torch.float64)
    tokens = torch.tensor([[3, 7, 12, 2, 3, 0, 9]])
    truth = logs(model, tokens)
    for head in range(4):
        found = offset_pair(model, f"0.{head}", 9, 12, offsets=range(7)).frame["value"]
        own = offset_pair(model, f"0.{head}", 9, 9, offsets=[0]).frame["value"][0]
        assert abs(found[4] - own - truth[head, 6, 2].item()) < 1e-9


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_curve_is_the_mean_over_pairs(tiny_model, family):
    model = tiny_model(family)
    sample, offsets = [2, 20], [0, 1, 15]
    table = offset_curve(model, ["0.1", "2.4"], offsets=offsets, contents=sample)
    assert list(table.frame["site"].unique()) == ["0.1", "2.4"]
    for site, rows in table.frame.groupby("site"):
        assert rows["offset"].tolist() == offsets
        each = [
            offset_pair(model, site, a, b, offsets=offsets).frame["value"].to_numpy()
            for a in sample
            for b in sample
        ]
        assert np.abs(np.mean(each, 0) - rows["value"]).max() < 1e-12


def test_curve_of_a_runs_own_queries_and_keys(tiny_model, pairs):
    """Mean over all pairs of positions, each turned by the distance."""
    model = tiny_model("llama")
    table = offset_curve(model, "2.5", offsets=[0, 3], contents=pairs).frame
    w, q, k = weights_of(model), [], []
    for row, n in zip(pairs.clean, pairs.lengths, strict=True):
        run = hooks.trace(model, row[None, :n], keep=("q", "k"))
        q.append(run.kept["q"][2][0, :, 5])
        k.append(run.kept["k"][2][0, :, 5 // 3])
    q, k = torch.cat(q).detach(), torch.cat(k).detach()
    every = by_offset(
        w,
        2,
        q[:, None, None].expand(-1, len(k), 6, -1),
        k[None, :, None].expand(len(q), -1, 6, -1),
        torch.tensor([0, 3]),
    )
    assert np.abs(every[:, :, 5].mean((0, 1)).numpy() - table["value"]).max() < 1e-12
    assert table["z"].isna().all()


@torch.no_grad()
def test_no_rotation_at_distance_zero(tiny_model):
    """There it is the plain W_QK."""
    model = tiny_model("llama")
    w, f = weights_of(model), factors(weights_of(model), 1)
    e = w.embed.tokens
    x = e / (e.square().mean(-1, keepdim=True) + w.blocks[1].attention.ends.read.eps).sqrt()
    found = offset_pair(model, "1.3", 4, 9, offsets=[0]).frame["value"][0]
    assert abs(found - (x[4] @ f.qk.AB[3] @ x[9]).item()) < 1e-12


@torch.no_grad()
def test_null_is_that_of_gaussian_weights(tiny_model):
    model = tiny_model("qwen2")  # with biases
    w, f = weights_of(model), factors(weights_of(model), 0)
    p, e = w.blocks[0].attention, w.embed.tokens
    x = e / (e.square().mean(-1, keepdim=True) + p.ends.read.eps).sqrt()
    generator = torch.Generator().manual_seed(0)

    def drawn(token, like, bias):
        n = torch.randn(5_000, *like.shape, generator=generator, dtype=torch.float64)
        n = n * like.square().mean((1, 2), keepdim=True).sqrt()
        return torch.einsum("d,nhdk->nhk", x[token], n) + bias

    q, k = drawn(4, f.q / p.scale, f.q_bias / p.scale), drawn(9, f.k, f.k_bias)
    sampled = by_offset(w, 0, q, k, torch.tensor([0, 2, 7]))[:, 3]
    found = offset_pair(model, "0.3", 4, 9, offsets=[0, 2, 7]).frame
    assert np.abs(sampled.std(0).numpy() / found["null_sd"] - 1).max() < 0.06
    assert np.abs((sampled.mean(0).numpy() - found["null"]) / found["null_sd"]).max() < 0.06


def test_windows_hide_what_is_behind_them(tiny_model):
    frame = offset_curve(tiny_model("gemma3-window"), offsets=range(6)).frame
    seen = frame.groupby("layer")["offset"].max().to_dict()
    assert seen == {0: 2, 1: 5, 2: 2}  # every second layer sees all


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
@pytest.mark.parametrize("norm", ["layer", "none"])
def test_position_scores_are_means_of_the_models_own(positions, norm):
    """Over sequences of all pairs of two tokens, at two places, from the bridge's patterns."""
    shape = replace(NATIVE, positions=positions, norm=norm)
    model = build(shape, name="native", seed=2, dtype=torch.float64)
    sample = [2, 11]
    table = position_scores(model, "0.1", positions=4, tokens=sample).frame
    assert len(table) == 10 and (table["key"] <= table["query"]).all()
    value = table.set_index(["query", "key"])["value"]
    # a query token at 3 sees a key token at 0 and one at 2, and the rest does not matter
    differences = [
        (log := logs(model, torch.tensor([[a, 1, b, q]]))[1, 3])[0] - log[2]
        for q in sample
        for a in sample
        for b in sample
    ]
    assert abs(value[3, 0] - value[3, 2] - torch.stack(differences).mean().item()) < 1e-9


def test_position_scores_of_gpt2(tiny_model):
    table = position_scores(tiny_model("gpt2"), "0.2", positions=16)
    assert len(table) == 16 * 17 // 2
    assert (table.frame["null_sd"] > 0).all() and table.frame["z"].notna().all()
    assert table.frame[["p", "q"]].isna().to_numpy().all()


@torch.no_grad()
def test_null_of_position_scores_is_that_of_gaussian_weights(tiny_model):
    model = tiny_model("gpt2")  # with biases
    w, f = weights_of(model), factors(weights_of(model), 0)
    x = w.embed.tokens[[2, 20]] + w.embed.positions[:5, None]
    centred = x - x.mean(-1, keepdim=True)
    eps = w.blocks[0].attention.ends.read.eps
    x = (x / (centred.square().mean(-1, keepdim=True) + eps).sqrt()).mean(1)
    generator = torch.Generator().manual_seed(0)

    def drawn(like, bias):
        n = torch.randn(20_000, *like.shape, generator=generator, dtype=torch.float64)
        return x @ (n * like.square().mean().sqrt()) + bias

    q, k = drawn(f.q[2], f.q_bias[2]), drawn(f.k[2], f.k_bias[2])
    sampled = torch.einsum("nqd,nkd->nqk", q, k).numpy()
    found = position_scores(model, "0.2", positions=5, tokens=[2, 20]).frame
    sampled = sampled[:, found["query"], found["key"]]
    assert np.abs(sampled.std(0) / found["null_sd"] - 1).max() < 0.05
    assert np.abs((sampled.mean(0) - found["null"]) / found["null_sd"]).max() < 0.05


def test_refusals(tiny_model):
    llama = tiny_model("llama")
    none = build(replace(NATIVE, positions="none"), name="nope")
    with pytest.raises(Unsupported, match="nope has no positions at all.*same at every distance"):
        offset_curve(none)
    with pytest.raises(Unsupported, match="has learned positions.*position_scores"):
        offset_pair(tiny_model("gpt2"), "0.0", 1, 2)
    with pytest.raises(Unsupported, match="has sinusoidal positions.*position_scores"):
        offset_curve(build(replace(NATIVE, positions="sinusoidal"), name="sines"))
    with pytest.raises(Unsupported, match="post-norm"):
        position_scores(tiny_model("bert"), "0.0")
    with pytest.raises(Unsupported, match="has rotary positions.*offset_curve"):
        position_scores(llama, "0.0")
    with pytest.raises(PositionError, match="17 positions.* has 16; give 1 to 16"):
        position_scores(tiny_model("gpt2"), "0.0", positions=17)
    for offsets in ([], [-1, 2], [16]):
        with pytest.raises(PositionError, match="0 to 15"):
            offset_curve(llama, offsets=offsets)
    with pytest.raises(SiteError, match="1.mlp is no head"):
        offset_curve(llama, "1.mlp")
    with pytest.raises(PairsError, match="no token 99"):
        offset_curve(llama, contents=[1, 99])
