"""Attention as a kernel smoother and as a function of a set: the theorems, on tiny models."""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.attention_is import kernel
from experiments.attention_is.kernel import Smoother, lookup, nadaraya_watson, smoothers
from experiments.attention_is.symmetry import placed, reordered, streams, violation
from interp.core.errors import MetricError, PairsError, PositionError, Unsupported
from interp.engine.engines.choose import weights_of
from interp.engine.engines.hooked import run as hooks
from interp.models.small.native import Shape, build, state_of

SHAPE = Shape(2, 3, 10, 4, 13, 24, 7)
SCHEMES = ("none", "learned", "sinusoidal", "rotary")
TOKENS = torch.tensor([[3, 7, 12, 2, 3, 0, 9], [1, 5, 4, 11, 8, 8, 10]])
EXACT = 1e-12


@cache
def native(positions):
    """Of random biases and norms too; with grouped keys where positions are rotary."""
    shape = replace(SHAPE, positions=positions, n_kv_heads=1 if positions == "rotary" else None)
    generator = torch.Generator().manual_seed(3)
    state = {
        name: x.double() + 0.4 * torch.randn(x.shape, generator=generator)
        for name, x in state_of(build(shape, name="start")).items()
    }
    return build(shape, name=positions, state=state, dtype=torch.float64)


def stirred(w, place=None, *, causal=False, tokens=TOKENS):
    """The residual streams with every token at a place."""
    place = torch.arange(tokens.shape[1]) if place is None else place
    with torch.no_grad():
        return streams(placed(w, place, causal=causal), tokens)


def order_of(n, seed=0):
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def turned(x):
    """Rotary positions as multiplication of complex numbers; x is pos x d."""
    n, d = x.shape
    angle = np.outer(np.arange(n), 10000.0 ** (-np.arange(0, d, 2) / d))
    z = (x[:, ::2] + 1j * x[:, 1::2]) * np.exp(1j * angle)
    return np.stack([z.real, z.imag], -1).reshape(n, d)


@pytest.mark.parametrize("family", ["learned", "rotary", "gpt2"])
def test_i_a_head_is_the_estimate_of_nadaraya_and_watson(family, tiny_model):
    """Sums of exponentials, key by key, over what the bridge computes."""
    model = native(family) if family in SCHEMES else tiny_model(family)
    facts = model.facts
    run = hooks.trace(model, TOKENS, keep=("q", "k", "v", "z"))
    found = list(smoothers(model, TOKENS))
    assert len(found) == facts.n_layers
    for layer, smoother in enumerate(found):
        ours = nadaraya_watson(smoother.scores, smoother.v, smoother.seen)
        for row in range(len(TOKENS)):
            for head in range(facts.n_heads):
                group = head // (facts.n_heads // facts.n_kv_heads)
                q, k, v, z = (
                    run.kept[kind][layer][row, :, at].numpy()
                    for kind, at in (("q", head), ("k", group), ("v", group), ("z", head))
                )
                if facts.positions == "rotary":
                    q, k = (turned(x) for x in (q, k))
                for i in range(len(q)):
                    near = [math.exp(q[i] @ k[j] / math.sqrt(facts.d_head)) for j in range(i + 1)]
                    mean = sum(w * v[j] for j, w in enumerate(near)) / sum(near)
                    assert np.abs(mean - z[i]).max() < EXACT
                    assert np.abs(mean - ours[row, head, i].numpy()).max() < EXACT


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2-window", "bert"])
def test_i_of_every_kind_of_score(family, tiny_model):
    """Norms of queries and keys, caps, windows, halves rotated, no mask."""
    model = tiny_model(family)
    tokens = TOKENS.repeat(1, 2)[:, :9]
    theirs = hooks.trace(model, tokens, keep=("z",)).kept["z"]
    for smoother, z in zip(smoothers(model, tokens), theirs, strict=True):
        ours = nadaraya_watson(smoother.scores, smoother.v, smoother.seen).transpose(1, 2)
        assert (ours - z).abs().max() < 1e-11


def test_i_in_float32():
    model = build(replace(SHAPE, positions="rotary"), name="tiny", seed=1)
    for s in smoothers(model, TOKENS):
        assert s.q.dtype == torch.float64
        assert (nadaraya_watson(s.scores, s.v, s.seen) - s.z).abs().max() < 1e-6


def plain(state, shape, tokens, *, causal):
    """A native model without rotation, written out; returns the stream after each layer."""
    heads = (shape.n_heads, shape.d_head)
    names = {name.split(".", 2)[2] for name in state if name.startswith("layers.0.")}
    x = state["tok_embed.weight"][tokens]
    if shape.positions == "learned":
        x = x + state["pos.weight"][: tokens.shape[1]]
    found = []
    for layer in range(shape.n_layers):
        p = {name: state[f"layers.{layer}.{name}"] for name in names}

        def linear(part, x, p=p):
            return x @ p[f"{part}.weight"].T + p[f"{part}.bias"]

        def norm(part, x, p=p):
            x = x - x.mean(-1, keepdim=True)
            x = x / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
            return x * p[f"{part}.weight"] + p[f"{part}.bias"]

        y = norm("ln1", x)
        q, k, v = (linear(f"attn.{part}", y).unflatten(-1, heads) for part in "qkv")
        scores = torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(shape.d_head)
        if causal:
            scores = scores + torch.full(scores.shape[-2:], -math.inf).triu(1)
        z = torch.einsum("bhij,bjhd->bihd", scores.exp() / scores.exp().sum(-1, keepdim=True), v)
        x = x + linear("attn.o", z.flatten(-2))
        x = x + linear("mlp.fc_out", F.gelu(linear("mlp.fc_in", norm("ln2", x))))
        found.append(x)
    return found


@pytest.mark.parametrize("positions", ["none", "learned"])
@pytest.mark.parametrize("causal", [True, False])
def test_placed_models_are_those_written_out(positions, causal):
    model = native(positions)
    theirs = plain(state_of(model), replace(SHAPE, positions=positions), TOKENS, causal=causal)
    for ours, expected in zip(stirred(weights_of(model), causal=causal), theirs, strict=True):
        assert (ours - expected).abs().max() < EXACT


@pytest.mark.parametrize("positions", SCHEMES)
def test_placed_where_they_stand_is_the_model(positions):
    model = native(positions)
    theirs = hooks.trace(model, TOKENS).final
    assert (stirred(weights_of(model), causal=True)[-1] - theirs).abs().max() < EXACT


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_ii_without_positions_a_permutation_passes_through(seed):
    w, order = weights_of(native("none")), order_of(TOKENS.shape[1], seed)
    moved = stirred(w, tokens=reordered(TOKENS, order))
    for found, f in zip(moved, stirred(w), strict=True):
        assert violation(found, reordered(f, order)).max() < EXACT


@pytest.mark.parametrize("positions", SCHEMES[1:])
def test_iii_and_iv_positions_break_it_unless_they_are_permuted_too(positions):
    w, order = weights_of(native(positions)), order_of(TOKENS.shape[1])
    moved = reordered(TOKENS, order)
    runs = stirred(w), stirred(w, tokens=moved), stirred(w, order, tokens=moved)
    for plain_, alone, along in zip(*runs, strict=True):
        expected = reordered(plain_, order)
        assert violation(alone, expected).min() > 1e-6
        assert violation(along, expected).max() < EXACT


@pytest.mark.parametrize("positions", SCHEMES)
@pytest.mark.parametrize("causal", [True, False])
def test_iv_a_common_shift(positions, causal):
    """Rotary scores know differences only; tables know where they are."""
    w, place = weights_of(native(positions)), torch.arange(TOKENS.shape[1])
    shifted, f = (stirred(w, place + by, causal=causal)[-1] for by in (11, 0))
    if positions in ("none", "rotary"):
        assert violation(shifted, f).max() < EXACT
    else:
        assert violation(shifted, f).min() > 1e-2


def test_v_the_causal_mask_alone_knows_order():
    w, n = weights_of(native("none")), TOKENS.shape[1]
    order, f = order_of(n), stirred(w, causal=True)
    moved = stirred(w, causal=True, tokens=reordered(TOKENS, order))
    assert violation(moved[-1], reordered(f[-1], order)).min() > 1e-3


@pytest.mark.parametrize("positions", SCHEMES)
def test_v_the_future_changes_nothing(positions):
    w = weights_of(native(positions))
    later = TOKENS.clone()
    later[:, 4:] = torch.tensor([6, 1, 2])
    for causal, same in ((True, True), (False, False)):
        f, g = (stirred(w, causal=causal, tokens=t)[-1][:, :4] for t in (TOKENS, later))
        assert torch.equal(f, g) == same


def test_v_the_last_token_sees_a_set_in_one_layer_and_an_order_in_two():
    """Each earlier token was written by a set of another size: the second layer can tell."""
    w, n = weights_of(native("none")), TOKENS.shape[1]
    past = torch.cat([order_of(n - 1), torch.tensor([n - 1])])
    one, two = (
        violation(g[:, -1:], f[:, -1:])
        for f, g in zip(
            stirred(w, causal=True),
            stirred(w, causal=True, tokens=reordered(TOKENS, past)),
            strict=True,
        )
    )
    assert one.max() < EXACT
    assert two.min() > 1e-5


def drawn(seed, *, keys=6, long=3.0):
    """A smoother of random queries, keys and values, of which nothing is hidden."""
    generator = torch.Generator().manual_seed(seed)

    def random(n):
        return torch.randn(2, 3, n, 5, generator=generator, dtype=torch.float64)

    q, k, v = random(4), long * random(keys), random(keys)
    seen = torch.ones(4, keys, dtype=torch.bool)
    return Smoother(q, k, v, seen, 5**-0.5, None, torch.zeros_like(q))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), length=st.floats(0.5, 4.0))
def test_vi_with_constant_norms_the_kernel_is_an_rbf_up_to_a_constant(seed, length):
    s = drawn(seed)
    q, k = (length * F.normalize(x, dim=-1) for x in (s.q, s.k))
    ratio = kernel.exponential(q, k, scale=s.scale) - kernel.rbf(q, k, scale=s.scale)
    assert (ratio - s.scale * length**2).abs().max() < EXACT


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_vi_in_general_keys_count_by_their_length(seed):
    """And with keys of one length, whatever the queries' is, the estimates are the same."""
    s = drawn(seed)
    near, weight = kernel.rbf(s.q, s.k, scale=s.scale), kernel.key_weight(s.k, scale=s.scale)
    attention = nadaraya_watson(s.scores, s.v, s.seen)
    weighted = nadaraya_watson(near + weight[..., None, :], s.v, s.seen)
    assert (weighted - attention).abs().max() < 1e-11
    even = replace(s, k=2 * F.normalize(s.k, dim=-1))
    near = kernel.rbf(even.q, even.k, scale=s.scale)
    difference = nadaraya_watson(near, s.v, s.seen) - nadaraya_watson(even.scores, s.v, s.seen)
    assert difference.abs().max() < EXACT


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), temperature=st.floats(0.05, 5.0), keys=st.integers(2, 7))
def test_lookup_is_as_soft_as_its_gap_allows(seed, temperature, keys):
    s = drawn(seed, keys=keys)
    found = lookup(s, temperature)
    least = (1 + (found.gap / temperature).exp()).reciprocal()
    most = (keys - 1) / (keys - 1 + (found.gap / temperature).exp())
    assert (found.elsewhere >= least * (1 - 1e-9)).all()
    assert (found.elsewhere <= most * (1 + 1e-9)).all()
    assert (found.distance <= found.elsewhere + EXACT).all()
    p = (s.scores / temperature).softmax(-1)
    assert (found.elsewhere - (1 - p.amax(-1))).abs().max() < EXACT
    entropy = torch.distributions.Categorical(probs=p).entropy()
    assert (found.entropy - entropy).abs().max() < 1e-9


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_lookup_hardens_at_the_rate_of_its_gap(seed):
    s = drawn(seed)
    h = 1e-5
    after, before = (lookup(s, 1 / (1 / 0.7 + sign * h)).elsewhere.log() for sign in (1, -1))
    found = lookup(s, 0.7)
    slope = (before - after) / (2 * h)
    assert ((found.rate - slope).abs() / slope).max() < 1e-4
    # at temperature gap / 40 what is left of the others is below exp(-40), but for near ties
    cold = lookup(s, float(found.gap.min()) / 40)
    assert cold.elsewhere.max() < 1e-15
    assert cold.distance.max() < 1e-15


def test_equal_scores_never_become_a_lookup():
    s = drawn(0, keys=2)
    s = replace(s, k=s.k[:, :, :1].expand(-1, -1, 2, -1))
    found = lookup(s, 1e-6)
    assert torch.allclose(found.elsewhere, torch.tensor(0.5, dtype=torch.float64))
    assert torch.allclose(found.entropy, torch.tensor(math.log(2), dtype=torch.float64))


def test_a_query_with_one_key_has_nothing_to_look_up():
    s = next(smoothers(native("rotary"), TOKENS))
    for part in lookup(s, 1.0):
        assert part.isnan().nonzero()[:, 2].unique().tolist() == [0]


def test_refusals():
    s = drawn(0)
    blind = s.seen.clone()
    blind[2] = False
    with pytest.raises(MetricError, match="some query sees no key"):
        nadaraya_watson(s.scores, s.v, blind)
    w = weights_of(native("learned"))
    with pytest.raises(PositionError, match=r"places go from 20 to 26.* positions 0 to 23"):
        placed(w, torch.arange(20, 27), causal=True)
    with pytest.raises(PairsError, match="vocabulary ends at 12"):
        next(smoothers(native("none"), torch.tensor([[3, 13]])))
    smeared = build(replace(SHAPE, smear=True), name="smeared")
    with pytest.raises(Unsupported, match="no smeared keys"):
        next(smoothers(smeared, TOKENS))
