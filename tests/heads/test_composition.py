"""Composition scores, their exact values, and their nulls."""

import logging
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats
from transformer_lens import FactoredMatrix
from transformer_lens.utilities.matrix import composition_scores

from interp.core.door.door import ArgumentError
from interp.core.errors import Unsupported
from interp.engine.engines.choose import weights_of
from interp.heads.weights.composition import chance, composition, few_pairs, ranked, scores, squares
from interp.heads.weights.factors import factors
from interp.models.small.native import Shape, build, state_of

SHAPE = Shape(3, 4, 24, 6, 11, 9, 0, norm="none", positions="none")


def unit(x):
    return x / x.norm(dim=(1, 2), keepdim=True)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@torch.no_grad()
def test_against_transformer_lens(tiny_model, family):
    """Its formula, on the same folded factors, pair by pair."""
    model = tiny_model(family)
    w, frame = weights_of(model), composition(model).frame
    n = model.facts.n_heads
    assert len(frame) == 3 * 3 * n * n  # readers, pairs of layers, pairs of heads
    found = frame.set_index(["measure", "site", "other"])["value"]
    for early, late in ((0, 1), (0, 2), (1, 2)):
        f, g = factors(w, early), factors(w, late)
        for reader, right in (("q", g.qk), ("k", g.qk.T), ("v", g.ov)):
            theirs = composition_scores(f.ov, right)
            for i in range(n):
                for j in range(n):
                    ours = found[f"{reader}_composition", f"{early}.{i}", f"{late}.{j}.{reader}"]
                    assert abs(ours - theirs[i, j].item()) < 1e-10


def test_aligned_projectors_compose_fully_and_crossed_ones_not_at_all():
    x = torch.eye(7, dtype=torch.float64)[:, :, None]  # rank 1, seven directions
    assert torch.equal(scores(x, x), torch.eye(7, dtype=torch.float64))
    left = FactoredMatrix(x[2], x[2].T)
    assert composition_scores(left, left).item() == pytest.approx(1)


def side(generator, d, rank):
    """A random matrix of a spectrum that is not flat, as a basis: orthogonal columns."""
    basis = np.linalg.qr(generator.standard_normal((d, rank)))[0] / np.arange(1, rank + 1)
    return unit(torch.tensor(np.pad(basis, ((0, 0), (0, 8 - rank))))[None])


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_moments_of_the_null_against_sampled_rotations(rank):
    d, n = 24, 10_000
    generator = np.random.default_rng(1)
    left, right = side(generator, d, rank), side(generator, d, 4)
    turned = torch.linalg.qr(torch.tensor(generator.standard_normal((n, d, 8)))).Q
    drawn = (left[0].T @ turned * right[0].norm(dim=0)).norm(dim=(1, 2)).numpy()
    null, sd, _ = chance(np.ones((1, 1)), squares(left), squares(right), d)
    # the gamma law's root is within a fiftieth and a sixth, for spectra as steep as these
    assert drawn.mean() == pytest.approx(null[0, 0], rel=0.02)
    assert drawn.std() == pytest.approx(sd[0, 0], rel=0.15)
    assert abs(np.mean(drawn**2) - 1 / d) < 3 * (drawn**2).std() / np.sqrt(n)
    # p is uniform over the null itself, far into its tail
    _, _, p = chance(drawn[:, None], np.repeat(squares(left), n, 0), squares(right), d)
    for level in (0.1, 0.05, 0.01):
        assert abs((p < level).mean() - level) < 0.12 * level + 3 * np.sqrt(level / n)


def test_moments_of_the_null_are_exact():
    """Of one direction against a projection the squared score is half a beta variable."""
    d = 9
    left, right = np.array([[0.5, 0.5]]), np.array([[1.0, 0.0]])
    beta = stats.beta(1, (d - 2) / 2, scale=0.5)
    mean, variance, skew = (float(x) for x in beta.stats("mvs"))
    score = np.array([[0.4]])
    null, sd, p = chance(score, left, right, d)
    law = stats.pearson3(skew, loc=mean, scale=variance**0.5)
    assert p[0, 0] == pytest.approx(law.sf(0.16), rel=1e-9)
    assert null[0, 0] ** 2 + sd[0, 0] ** 2 == pytest.approx(1 / d)
    shape = mean**2 / variance
    assert null[0, 0] == pytest.approx(stats.gamma(shape, scale=mean / shape).expect(np.sqrt))


def test_random_heads_compose_as_chance_says():
    """Expectation 1/sqrt(d_model) at random, whatever the rank; z standard; none significant."""
    shape = replace(SHAPE, n_layers=4, n_heads=8, d_model=96, d_head=16)
    frame = composition(build(shape, name="r", seed=1)).frame
    assert len(frame) == 3 * 6 * 64
    # a pair's square varies by a fifth, and there are 1,152 pairs of 32 heads
    assert (frame["value"] ** 2).mean() == pytest.approx(1 / 96, rel=0.02)
    assert frame["value"].mean() == pytest.approx(96**-0.5, rel=0.02)
    assert frame["value"].mean() == pytest.approx(frame["rotation_null"].mean(), rel=0.01)
    assert np.abs(frame["excess"] - (frame["value"] - frame["null"])).max() == 0
    z = (frame["value"] - frame["rotation_null"]) / frame["rotation_sd"]
    assert abs(z.mean()) < 0.2 and 0.85 < z.std() < 1.15
    assert abs(frame["z"].mean()) < 0.2 and 0.85 < frame["z"].std() < 1.15
    assert frame["rotation_q"].min() > 0.05 and frame["q"].min() > 0.05


WIDE = replace(SHAPE, n_layers=4, n_heads=8, d_model=96, d_head=8)


def in_one_cone(state, narrow=-1.5):
    """All heads write and read most along the same few directions."""
    scale = torch.logspace(0, narrow, 96)
    for name, weight in state.items():
        if name.endswith(("q.weight", "k.weight", "v.weight")):
            state[name] = weight * scale
        elif name.endswith("o.weight"):
            state[name] = scale[:, None] * weight
    return state


@pytest.mark.plain
@pytest.mark.parametrize("shared", [False, True])
def test_where_nothing_composes_the_impossible_pairs_keep_the_size(shared):
    """The rotation calls nearly every pair of an anisotropic stream a composition."""
    small, turned, least = [], [], []
    for seed in range(5):
        state = {k: v.clone() for k, v in state_of(build(WIDE, name="r", seed=seed)).items()}
        model = build(WIDE, name="n", state=in_one_cone(state) if shared else state)
        frame = composition(model).frame
        small.append([(part["p"] < 0.05).mean() for _, part in frame.groupby("measure")])
        turned.append((frame["rotation_p"] < 0.05).mean())
        least.append(frame["q"].min())
    assert 0.03 < np.mean(small) < 0.07
    assert min(least) > 0.05
    assert min(turned) > 0.99 if shared else 0.03 < np.mean(turned) < 0.07


@pytest.mark.plain
@pytest.mark.parametrize("shared", [False, True])
def test_planted_compositions_are_found_and_little_else(shared):
    """What 0.j writes is what the keys of all later j read: all found, and of what is found no
    more is false than q promises, on average."""
    planted = {("0." + str(j), f"{layer}.{j}.k") for layer in (1, 2, 3) for j in range(8)}
    wrong, by_rotation = [], []
    for seed in range(6):
        state = {k: v.clone() for k, v in state_of(build(WIDE, name="r", seed=seed)).items()}
        state = in_one_cone(state) if shared else state
        for layer in (1, 2, 3):
            state[f"layers.{layer}.attn.k.weight"] = state["layers.0.attn.o.weight"].T.clone()
        frame = composition(build(WIDE, name="p", state=state), readers=["k"]).frame
        pairs = zip(frame["site"], frame["other"], strict=True)
        there = np.array([pair in planted for pair in pairs])
        assert there.sum() == 24 and len(frame) == 6 * 64
        assert frame.loc[there, "p"].max() == 1 / (1 + 6 * 64 + 4 * 8 * 7)
        assert (frame.loc[there, "q"] < 0.05).all()
        wrong.append((~there)[frame["q"] < 0.05].mean())
        by_rotation.append((~there)[frame["rotation_q"] < 0.05].mean())
    assert np.mean(wrong) <= 0.05
    assert (np.mean(by_rotation) > 0.9) == shared


def test_one_planted_pair_is_on_top_and_too_few_for_q():
    """What 0.1 writes is what 2.3's key reads."""
    state = {k: v.clone() for k, v in state_of(build(SHAPE, name="r", seed=2)).items()}
    written = state["layers.0.attn.o.weight"][:, 6:12]
    state["layers.2.attn.k.weight"][18:24] = written.T
    model = build(SHAPE, name="planted", state=state)
    best = composition(model).top(1).iloc[0]
    assert (best["site"], best["other"]) == ("0.1", "2.3.k")
    assert best["p"] == 1 / (1 + 48 + 36) and best["q"] > 0.05
    assert best["rotation_q"] < 1e-3 and best["excess"] > 0.2
    only = composition(model, readers=["k"]).frame
    assert set(only["measure"]) == {"k_composition"} and len(only) == 48


def test_ranks_by_hand():
    """Equal within rounding counts as large, what is not there does not count."""
    null = np.array([0.1, 0.2, 0.3, 0.4])
    score = np.array([0.05, 0.3, 0.3 + 1e-9, 0.35, 0.5, np.nan])
    assert ranked(score, null)[:-1].tolist() == [1.0, 0.6, 0.6, 0.4, 0.2]
    assert np.isnan(ranked(score, null)[-1])
    assert ranked(np.array([0.5]), null[:0]).tolist() == [1.0]


def test_the_null_is_of_pairs_that_cannot_compose():
    """Against a loop over all writers and readers, whole matrices."""
    model = build(SHAPE, name="r", seed=4)
    found, w = composition(model, readers=["v"]), weights_of(model)
    parts = [factors(w, layer) for layer in range(3)]
    null, seen = [], {}
    for a, b in product(range(3), repeat=2):
        for i, j in product(range(4), repeat=2):
            left, right = (parts[at].ov.AB[head] for at, head in ((a, i), (b, j)))
            score = ((left @ right).norm() / (left.norm() * right.norm())).item()
            if a < b:
                seen[f"{a}.{i}", f"{b}.{j}.v"] = score
            elif (a, i) != (b, j):
                null.append(score)
    assert found.provenance["impossible"] == {"v": len(null)} == {"v": 3 * 16 + 3 * 12}
    frame = found.frame.set_index(["site", "other"])
    assert set(frame.index) == set(seen)
    assert frame["null"].iloc[0] == pytest.approx(np.mean(null), abs=1e-6)
    assert frame["null_sd"].iloc[0] == pytest.approx(np.std(null), abs=1e-6)
    for pair, score in seen.items():
        larger = sum(other > score for other in null)
        assert frame.loc[pair, "p"] == pytest.approx((1 + larger) / (1 + len(null)))


@pytest.mark.plain
def test_what_few_impossible_pairs_cannot_say_is_said(caplog):
    two = build(replace(SHAPE, n_layers=2, n_heads=2, d_head=12), name="two", seed=0)
    with caplog.at_level(logging.WARNING):
        found = composition(two)
    said = (
        "8 impossible pairs of a kind: no p can be under 0.111, and 12 pairs are tested, so "
        "nothing can have q < 0.05. Read rotation_p, or patch the paths."
    )
    assert found.provenance["few"] == said and f"two: {said}" in caplog.text
    assert "so 24 must exceed them all for q < 0.05" in few_pairs(40, 48)
    assert few_pairs(100, 10_000) == ""
    assert "few" not in composition(build(WIDE, name="r")).provenance


def test_a_head_that_writes_nothing_has_no_composition():
    state = {k: v.clone() for k, v in state_of(build(SHAPE, name="r")).items()}
    state["layers.0.attn.o.weight"][:, :6] = 0
    frame = composition(build(SHAPE, name="dead", state=state)).frame
    dead = frame["site"] == "0.0"
    said = ["value", "z", "p", "q", "rotation_p", "rotation_q"]
    assert frame.loc[dead, said].isna().all().all()
    assert frame.loc[~dead, said].notna().all().all()


def test_full_rank_heads_cannot_vary():
    """All of the space on one side: every rotation gives 1/sqrt(d_model)."""
    null, sd, p = chance(np.full((1, 1), 0.5), np.full((1, 4), 0.25), np.eye(1, 4), 4)
    assert null[0, 0] == pytest.approx(0.5) and sd[0, 0] == 0 and np.isnan(p[0, 0])


def test_grouped_queries_share_their_values(tiny_model):
    frame = composition(tiny_model("llama"), readers=["v"]).frame
    assert frame["other"].str.endswith(".v").all()
    assert composition(tiny_model("llama")).provenance["query_heads_per_key"] == 3


def test_refusals(tiny_model):
    with pytest.raises(ArgumentError, match="has 'z'; .*one of 'q', 'k', 'v'"):
        composition(tiny_model("llama"), readers=["z"])
    with pytest.raises(ArgumentError, match="that is not empty"):
        composition(tiny_model("llama"), readers=[])
    with pytest.raises(Unsupported, match="post-norm"):
        composition(tiny_model("bert"))
    with pytest.raises(Unsupported, match="an encoder and a decoder"):
        composition(tiny_model("t5"))
    with pytest.raises(Unsupported, match="different layers, and short has one"):
        composition(build(replace(SHAPE, n_layers=1), name="short"))
