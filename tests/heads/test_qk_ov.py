"""Full circuits against the vocabulary x vocabulary matrices themselves, and their nulls."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from transformer_lens import FactoredMatrix

import interp
from interp.core.errors import PairsError, SiteError, Unsupported
from interp.engine.engines.choose import weights_of
from interp.heads.weights.factors import factors
from interp.heads.weights.qk_ov import (
    copying_scores,
    copying_share,
    ov_directions,
    ov_tokens,
    qk_tokens,
)
from interp.models.small.native import Shape, build, state_of


def standardised(x, norm):
    """A row over its norm's scale, written out."""
    centred = x - x.mean(-1, keepdim=True) if norm.kind == "layer" else x
    return x / (centred.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt()


FLAT = Shape(2, 3, 8, 4, 13, 9, 0, norm="none", positions="none")


def full_ov(model, site):
    """W_E W_OV W_U of a head, vocabulary x vocabulary, from the parameters as they are.

    The scales that norms divide by are left out.
    """
    w, site = weights_of(model), interp.Site.parse(site)
    p, d_head, group = (
        w.blocks[site.layer].attention,
        w.facts.d_head,
        site.head // w.facts.group_size,
    )
    wv = p.v.weight.view(-1, d_head, w.facts.d_model)[group].T
    wo = p.o.weight[:, site.head * d_head : (site.head + 1) * d_head].T
    before, between, after = (
        matrix_of(norm, w.facts.d_model) for norm in (p.ends.read, p.ends.write, w.unembed.norm)
    )
    u, e = w.unembed.linear.weight, w.embed.tokens * (w.embed.scale or 1)
    return e @ before @ wv @ wo @ between @ after @ (u - u.mean(0)).T


def matrix_of(norm, d_model):
    """What a norm is without its scale and bias."""
    eye = torch.eye(d_model, dtype=torch.float64)
    if norm is None:
        return eye
    return (eye - (norm.kind == "layer") / d_model) @ torch.diag(norm.weight + norm.offset)


def rugged(shape, *, seed=0):
    """A random model whose norm weights are far from flat."""
    generator = torch.Generator().manual_seed(seed)
    state = {k: v.double() for k, v in state_of(build(shape, name="flat", seed=seed)).items()}
    for name, value in sorted(state.items()):
        if ".ln" in f".{name}" and name.endswith("weight"):
            state[name] = (1.5 * torch.randn(value.shape, generator=generator)).exp().double()
    return build(shape, name="rugged", state=state, dtype=torch.float64)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 10_000))
def test_eigenvalues_of_ab_are_those_of_ba(wide, narrow, seed):
    """Power sums say everything about the eigenvalues that are not zero."""
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, wide, narrow, generator=generator, dtype=torch.float64)
    large, small = torch.linalg.eigvals(a @ b.T), FactoredMatrix(a, b.T).eigenvalues
    assert small.shape == (narrow,)
    for power in range(1, 4):
        ours, theirs = (small**power).sum(), (large**power).sum()
        assert abs(ours - theirs) < 1e-9 * (1 + large.abs().max() ** power)


@pytest.mark.plain
@settings(max_examples=5, deadline=None)
@given(st.integers(1, 6), st.integers(0, 10_000), st.sampled_from([1.0, -1.0]))
def test_a_copying_ov_scores_plus_or_minus_one(d_head, seed, sign):
    """W_O = ± W_V^T between tied embeddings: W_OV is ± a projection's like."""
    generator = torch.Generator().manual_seed(seed)
    shape = replace(FLAT, n_heads=2, d_head=d_head)
    state = {k: v.clone() for k, v in state_of(build(shape, name="random")).items()}
    for layer in range(shape.n_layers):
        v = torch.randn(2 * d_head, shape.d_model, generator=generator)
        state[f"layers.{layer}.attn.v.weight"] = v
        state[f"layers.{layer}.attn.o.weight"] = sign * v.T
    state["head.weight"] = state["tok_embed.weight"]
    model = build(shape, name="copier", state=state, dtype=torch.float64)
    frame = copying_scores(model, samples=20).frame
    heads = frame[frame["site"] != "embed"]
    assert len(heads) == 4
    assert np.abs(heads["value"] - sign).max() < 1e-6
    assert frame["value"].iloc[-1] == pytest.approx(1)  # the direct path of tied embeddings


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "olmo2"])
@torch.no_grad()
def test_copying_scores_against_the_whole_matrix(tiny_model, family):
    model = tiny_model(family)
    table = copying_scores(model, samples=50)
    for row in table.frame.itertuples():
        if row.site == "embed":
            assert row.other == "logits" and np.isnan(row.z)
            continue
        values = torch.linalg.eigvals(full_ov(model, row.site))
        assert abs(row.value - (values.sum().real / values.abs().sum()).item()) < 1e-6
    heads = table.query("other == ''")
    assert heads.grid().shape == (model.facts.n_layers, model.facts.n_heads)
    assert heads.frame["null"].eq(0).all()
    assert heads.frame["null_sd"].nunique() == model.facts.n_layers


@pytest.mark.parametrize(
    ("family", "end"), [("gpt2", "read"), ("gemma2", "read"), ("gemma2", "write")]
)
@torch.no_grad()
def test_null_of_copying_keeps_the_norm_weights(tiny_model, monkeypatch, family, end):
    """Random heads between the model's embeddings, where a norm lets one feature through."""
    model = tiny_model(family)
    w, d_head = weights_of(model), model.facts.d_head
    block, n = w.blocks[0], 4_000
    ends = block.attention.ends
    norm = getattr(ends, end)
    one = torch.full_like(norm.weight, 0.01)
    one[0] = 1
    ends = replace(ends, **{end: replace(norm, weight=one - norm.offset)})
    block = replace(block, attention=replace(block.attention, ends=ends))
    narrow = replace(w, blocks=(block, *w.blocks[1:]))
    monkeypatch.setattr("interp.heads.weights.qk_ov.weights_of", lambda _: narrow)
    before, between, after = (
        matrix_of(norm, model.facts.d_model) for norm in (ends.read, ends.write, w.unembed.norm)
    )
    u, generator = w.unembed.linear.weight, torch.Generator().manual_seed(7)
    shape = (n, d_head, model.facts.d_model)
    v, o = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    across = between @ after @ (u - u.mean(0)).T @ w.embed.tokens @ before
    values = torch.linalg.eigvals(o @ across @ v.mT)
    share = values.sum(-1).real / values.abs().sum(-1)
    spread = copying_scores(model, samples=n).frame.groupby("layer")["null_sd"].first()
    assert abs(spread[0] / share.std().item() - 1) < 0.05
    assert abs(spread[0] / spread[1] - 1) > 0.2  # the norm matters


def test_share_of_known_eigenvalues():
    found = copying_share(torch.tensor([[3 + 0j, -1], [1j, -1j], [2, 2]]))
    assert found.tolist() == [0.5, 0.0, 1.0]


def test_random_heads_are_not_called_copying():
    """z of random heads is standard normal: none after the correction, p uniform."""
    model = build(replace(FLAT, n_layers=8, n_heads=12, d_model=32, d_head=8), name="r", seed=3)
    frame = copying_scores(model, samples=200).query("other == ''").frame
    assert len(frame) == 96
    assert frame["q"].min() > 0.05
    assert stats.kstest(frame["p"], "uniform").pvalue > 0.01
    assert 0.8 < frame["z"].std() < 1.2


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "phi", "gemma2", "qwen3", "olmo2"])
@torch.no_grad()
def test_tokens_against_the_whole_matrices(tiny_model, family):
    model = tiny_model(family)
    w, f = weights_of(model), factors(weights_of(model), 1)
    head, p = w.facts.n_heads - 1, w.blocks[1].attention
    e = w.embed.tokens * (w.embed.scale or 1)
    x = e if p.ends.read is None else standardised(e, p.ends.read)
    q, k = x @ f.q[head] + f.q_bias[head], x @ f.k[head] + f.k_bias[head]
    if p.q_norm is not None:
        q, k = (by_hand(x, p, part, head, w.facts) for part in "qk")
        q = q * p.scale
    qk = q @ k.T
    qk = qk - qk.mean(1, keepdim=True)
    last = w.unembed.norm
    u = w.unembed.linear.weight * (last.weight + last.offset)
    u = u - u.mean(-1, keepdim=True) if last.kind == "layer" else u
    u = u - u.mean(0)
    ov = (x @ f.v[head] + f.v_bias[head]) @ f.o[head] @ u.T
    cases = [
        (qk_tokens, qk, x @ (x - x.mean(0)).T),
        (ov_tokens, ov, e @ u.T),
    ]
    for function, whole, direct in cases:
        for token in (0, 5, 28):
            frame = function(model, f"1.{head}", token, top=7).frame
            chance = function is ov_tokens or p.q_norm is None
            assert frame[["null", "z", "p", "q"]].notna().to_numpy().all() == chance
            assert frame[["null", "z", "p", "q"]].notna().to_numpy().any() == chance
            order = whole[token].argsort(descending=True)[:7]
            assert frame["token"].tolist() == order.tolist()
            assert np.abs(frame["value"] - whole[token][order].numpy()).max() < 1e-10
            assert np.abs(frame["direct"] - direct[token][order].numpy()).max() < 1e-10
            assert frame["source"].eq(token).all()
            assert frame["rank"].tolist() == list(range(7))
            assert frame["text"].tolist() == model.show(order.tolist())


def by_hand(x, p, part, head, facts):
    """Queries or keys with their own norm (an RMSNorm), of standardised rows."""
    gain = 1 if p.ends.read is None else p.ends.read.weight + p.ends.read.offset
    found, norm = (x * gain) @ getattr(p, part).weight.T, getattr(p, f"{part}_norm")
    if len(norm.weight) == facts.d_head:  # of each head; else of all together
        found = found.view(len(x), -1, facts.d_head)
    found = standardised(found, norm) * (norm.weight + norm.offset)
    group = head if part == "q" else head // facts.group_size
    return found.reshape(len(x), -1, facts.d_head)[:, group]


@pytest.mark.parametrize("family", ["qwen2", "gpt2", "gemma2"])
@pytest.mark.parametrize("function", [qk_tokens, ov_tokens])
@torch.no_grad()
def test_null_of_tokens_is_that_of_gaussian_weights(tiny_model, family, function):
    """Closed form against sampled weights; the norms and what they meet are the model's own."""
    model = tiny_model(family)
    w, f = weights_of(model), factors(weights_of(model), 0)
    p, d_head, d_model = w.blocks[0].attention, w.facts.d_head, w.facts.d_model
    before, between, after = (
        matrix_of(norm, d_model) for norm in (p.ends.read, p.ends.write, w.unembed.norm)
    )
    x = standardised(w.embed.tokens * (w.embed.scale or 1), p.ends.read)
    u = w.unembed.linear.weight
    keyed, u = (x - x.mean(0)) @ before, (u - u.mean(0)) @ after.T @ between.T
    generator = torch.Generator().manual_seed(0)

    def gauss(like):
        n = torch.randn(8_000, *like.shape, generator=generator, dtype=torch.float64)
        return n * like.square().mean().sqrt()

    token, head = 4, w.facts.n_heads - 1
    found = function(model, f"0.{head}", token, top=29).frame.set_index("token")
    keys = [0, 11]
    if function is qk_tokens:
        k = p.k.weight.view(-1, d_head, d_model)[head // w.facts.group_size]
        q = x[token] @ f.q[head] + f.q_bias[head]
        drawn = torch.einsum("d,ndm,tm->nt", q, gauss(k), keyed[keys])
    else:
        o = p.o.weight[:, head * d_head : (head + 1) * d_head]
        z = x[token] @ f.v[head] + f.v_bias[head]
        drawn = torch.einsum("d,nmd,tm->nt", z, gauss(o), u[keys])
    assert np.abs(drawn.std(0).numpy() / found.loc[keys, "null_sd"] - 1).max() < 0.05
    assert np.abs(drawn.mean(0).numpy() / found.loc[keys, "null_sd"]).max() < 0.06
    assert found["null"].eq(0).all()


@pytest.mark.plain
@pytest.mark.parametrize(("function", "norm"), [(qk_tokens, "rms"), (ov_tokens, "layer")])
def test_tokens_of_random_heads_are_not_significant(function, norm):
    """A token with q < .05 in one table of twenty at most, with norm weights far from flat."""
    shape = replace(FLAT, n_layers=1, n_heads=40, d_model=24, d_head=2, d_vocab=40, norm=norm)
    hits = [
        function(model, f"0.{head}", 3, top=40).frame["q"].min() < 0.05
        for model in (rugged(shape, seed=seed) for seed in range(3))
        for head in range(shape.n_heads)
    ]
    assert len(hits) == 120 and np.mean(hits) <= 0.1


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@torch.no_grad()
def test_directions_are_the_singular_vectors(tiny_model, family):
    model = tiny_model(family)
    w, f = weights_of(model), factors(weights_of(model), 2)
    table = ov_directions(model, "2.1", directions=2, top=4).frame
    left, singular, right = torch.linalg.svd(f.v[1] @ f.o[1])
    spectrum = table[table["measure"] == "ov_singular"]
    assert np.abs(spectrum["value"] - singular[:2].numpy()).max() < 1e-10
    x = standardised(w.embed.tokens, w.blocks[2].attention.ends.read)
    last = w.unembed.norm
    u = w.unembed.linear.weight * last.weight
    u = u - u.mean(-1, keepdim=True) if last.kind == "layer" else u
    x, u = x - x.mean(0), u - u.mean(0)
    for i in range(2):
        written = u @ right[i]
        sign = written[written.abs().argmax()].sign()
        for side, of, other in (("reads", x, u), ("writes", u, x)):
            direction = (left[:, i] if side == "reads" else right[i]) * sign
            for end, way in (("+", 1), ("-", -1)):
                rows = table[
                    (table["direction"] == i) & (table["side"] == side) & (table["end"] == end)
                ]
                order = (way * of @ direction).argsort(descending=True)[:4]
                assert rows["token"].tolist() == order.tolist()
                assert np.abs(rows["value"] - (way * of @ direction)[order].numpy()).max() < 1e-9
                direct = (way * other @ direction)[order].numpy()
                assert np.abs(rows["direct"] - direct).max() < 1e-9


@torch.no_grad()
def test_nulls_of_directions_against_sampling(tiny_model):
    """Random directions, and Gaussian factors whose product has W_OV's norm."""
    model = tiny_model("gpt2")
    w, f = weights_of(model), factors(weights_of(model), 2)
    table = ov_directions(model, "2.1", directions=3, top=29, samples=3_000).frame
    rng, ov = np.random.default_rng(3), (f.v[1] @ f.o[1]).numpy()
    v, o = rng.standard_normal((2, 3_000, *f.v[1].shape))
    drawn = v @ o.swapaxes(1, 2)
    drawn *= (np.linalg.norm(ov) / np.linalg.norm(drawn, axis=(1, 2)))[:, None, None]
    chance = np.linalg.svd(drawn, compute_uv=False)[:, :3]
    spectrum = table[table["measure"] == "ov_singular"]
    assert np.abs(spectrum["null"] / chance.mean(0) - 1).max() < 0.01
    assert np.abs(spectrum["null_sd"] / chance.std(0) - 1).max() < 0.06

    x = standardised(w.embed.tokens, w.blocks[2].attention.ends.read)
    u = w.unembed.linear.weight @ matrix_of(w.unembed.norm, w.facts.d_model).T
    way = rng.standard_normal((w.facts.d_model, 20_000))
    way /= np.linalg.norm(way, axis=0)
    for side, rows in (("reads", x), ("writes", u)):
        sampled = ((rows - rows.mean(0)).numpy() @ way).std(1)
        for _, found in table[table["side"] == side].groupby(["direction", "end"]):
            null_sd = found.set_index("token")["null_sd"].sort_index()
            assert len(found) == 29 and np.abs(null_sd / sampled - 1).max() < 0.03
            assert found["null"].eq(0).all()


def test_same_seed_same_table_and_the_model_is_left_alone(tiny_model):
    model = tiny_model("llama", torch.float32)
    before = {name: p.detach().clone() for name, p in model.truth.parameters().items()}
    first, second = (copying_scores(model, samples=20, seed=5) for _ in range(2))
    assert first.frame.equals(second.frame)
    other = copying_scores(model, samples=20, seed=6)
    assert not first.frame["null_sd"].equals(other.frame["null_sd"])
    ov_directions(model, "0.0")
    qk_tokens(model, "0.0", 3)
    ov_tokens(model, "0.0", 3)
    after = model.truth.parameters()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert first.provenance["weights"] == model.weight_hash


def test_refusals(tiny_model):
    llama = tiny_model("llama")
    with pytest.raises(PairsError, match="'Mary gave' is 2 tokens, not one"):
        qk_tokens(llama, "0.0", "Mary gave")
    with pytest.raises(PairsError, match="no token 29.*ids 0 to 28"):
        ov_tokens(llama, "0.0", 29)
    with pytest.raises(SiteError, match="not one head"):
        ov_directions(llama, "heads")
    for call in (
        lambda model: copying_scores(model),
        lambda model: ov_tokens(model, "0.0", 3),
        lambda model: ov_directions(model, "0.0"),
    ):
        with pytest.raises(Unsupported, match="no language-model head.*no unembedding"):
            call(tiny_model("bert-headless"))
        with pytest.raises(Unsupported, match="post-norm.*path_patch"):
            call(tiny_model("bert"))
    with pytest.raises(Unsupported, match="post-norm"):
        qk_tokens(tiny_model("bert"), "0.0", 3)
    assert ov_tokens(llama, "0.0", " Mary").frame["source"].eq(3).all()


@pytest.mark.real
def test_smollm_copying_heads_beat_chance(smollm):
    table = copying_scores(smollm, samples=8)
    heads = table.query("other == ''")
    assert heads.grid().shape == (30, 9)
    assert table.frame["value"].iloc[-1] > 0.9  # tied embeddings
    assert (heads.frame.query("value > 0")["q"] < 0.05).sum() > 50
