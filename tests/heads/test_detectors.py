"""Detectors against a slow loop, TransformerLens' masks, and what can be derived by hand."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy as scipy_entropy
from transformer_lens import head_detector

from interp.core.errors import Unsupported
from interp.heads.types.detectors import (
    DETECTORS,
    DUPLICATE,
    FIRST,
    INDUCTION,
    PREVIOUS,
    Detector,
    entropy,
    offset,
    positional,
    score,
    structure,
    uniform,
    weights,
)

LOOKED_FOR = {
    "previous": lambda x, i: {i - 1},
    "duplicate": lambda x, i: {j for j in range(i) if x[j] == x[i]},
    "induction": lambda x, i: {j + 1 for j in range(i) if x[j] == x[i]},
    "first": lambda x, i: {0} if i else set(),
    "offset +0": lambda x, i: {i},
    "offset -2": lambda x, i: {i - 2},
    "offset +1": lambda x, i: {i + 1},
    "positional -1": lambda x, i: {i - 1},
    "positional -2": lambda x, i: {i - 2},
}
ALL = (*DETECTORS, offset(1))


def patterns(rows: int, pos: int, heads: int, *, seed: int, causal: bool = True) -> torch.Tensor:
    """Random attention, `row destination head source`."""
    generator = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn(rows, pos, heads, pos, generator=generator, dtype=torch.float64)
    if causal:
        later = torch.ones(pos, pos, dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later[:, None], -torch.inf)
    return scores.softmax(-1)


def slow(name: str, tokens: list[int], pattern: torch.Tensor) -> float:
    """One row and one head, `destination source`, written out."""
    found = []
    for i in range(len(tokens)):
        sources = [j for j in LOOKED_FOR[name](tokens, i) if 0 <= j < len(tokens)]
        if not sources:
            continue
        if name.startswith("positional"):
            row = pattern[i].tolist()
            found.append(float(row.index(max(row)) in sources))
        else:
            found.append(sum(pattern[i, j].item() for j in sources))
    return sum(found) / len(found) if found else float("nan")


@settings(max_examples=25, deadline=None)
@given(
    tokens=st.lists(st.lists(st.integers(0, 3), min_size=5, max_size=5), min_size=1, max_size=3),
    seed=st.integers(0, 1000),
    causal=st.booleans(),
)
def test_every_detector_is_the_slow_loop(tokens, seed, causal):
    pattern = patterns(len(tokens), 5, 2, seed=seed, causal=causal)
    for detector in ALL:
        found = score(detector, torch.tensor(tokens), pattern)
        truth = [
            [slow(detector.name, x, p[:, h]) for h in range(2)]
            for x, p in zip(tokens, pattern, strict=True)
        ]
        np.testing.assert_allclose(found, truth, atol=1e-12)


def test_the_sources_are_those_of_transformer_lens():
    tokens = torch.tensor([[5, 3, 3, 7, 5, 3, 7, 7, 5]])
    for name, detector in (
        ("previous_token", PREVIOUS),
        ("duplicate_token", DUPLICATE),
        ("induction", INDUCTION),
    ):
        mask = getattr(head_detector, f"get_{name}_head_detection_pattern")(tokens)
        assert torch.equal(detector.sources(tokens)[0].float(), mask.float()), name


def olsson(rows: int = 2) -> torch.Tensor:
    """25 distinct tokens 4 times, after a BOS."""
    generator = torch.Generator().manual_seed(0)
    blocks = torch.stack([1 + torch.randperm(40, generator=generator)[:25] for _ in range(rows)])
    return torch.cat([torch.zeros(rows, 1, dtype=torch.long), blocks.repeat(1, 4)], 1)


def test_uniform_attention_scores_what_is_derived():
    """reference/methods.md §2: 0.031; and 0.015 were it the mean over entries."""
    tokens = olsson()
    even = uniform(101, causal=True)[None, :, None].expand(2, -1, 1, -1)
    by_hand = np.mean([(1 + (i - 26) // 25) / (i + 1) for i in range(26, 101)])
    found = score(INDUCTION, tokens, even)
    np.testing.assert_allclose(found, np.full((2, 1), by_hand), atol=1e-12)
    assert round(float(found[0, 0]), 3) == 0.031
    sources = INDUCTION.sources(tokens)[0]
    entries = even[0, :, 0][sources].mean()
    assert round(float(entries), 3) == 0.015
    np.testing.assert_allclose(score(FIRST, tokens, even), np.mean(1 / np.arange(2, 102)))
    np.testing.assert_allclose(score(PREVIOUS, tokens, even), np.mean(1 / np.arange(2, 102)))


@pytest.mark.parametrize("detector", ALL, ids=lambda d: d.name)
def test_a_perfect_head_scores_one_and_one_that_looks_elsewhere_none(detector):
    """However many sources a destination has: 1, 2 and 3 of them in the later repeats."""
    tokens = olsson()
    sources = detector.sources(tokens).double()
    has = sources.sum(-1, keepdim=True) > 0
    elsewhere = (1 - sources) / (1 - sources).sum(-1, keepdim=True)
    perfect = torch.where(has, sources / sources.sum(-1, keepdim=True).clamp(min=1), elsewhere)
    pattern = torch.stack([perfect, elsewhere], 2)
    found = score(detector, tokens, pattern)
    np.testing.assert_allclose(found, [[1, 0], [1, 0]], atol=1e-12)


@pytest.mark.parametrize(
    ("detector", "causal"),
    [
        (d, causal)
        for d in ALL
        for causal in (True, False)
        if not (causal and d.name == "offset +1")
    ],
    ids=lambda x: getattr(x, "name", str(x)),
)
def test_uniform_attention_is_the_mean_over_permuted_sources(detector, causal):
    """The claim that the null "sources" rests on, for any pattern, by brute force."""
    tokens = torch.tensor([[7, 4, 7, 4]])
    pattern = patterns(1, 4, 3, seed=3, causal=causal)
    means = torch.zeros_like(pattern)
    for i in range(4):  # destinations are permuted one by one, and scores add up over them
        seen = i + 1 if causal else 4
        order = list(permutations(range(seen)))
        share = weights(detector, tokens, dtype=torch.float64)[0, i]
        for permuted in order:
            moved = torch.zeros(4, dtype=torch.float64)
            moved[list(permuted)] = share[:seen]
            means[0, i] += moved / len(order)
    if detector.counts == "maximum":
        hard = torch.nn.functional.one_hot(pattern.argmax(-1), 4).double()
    else:
        hard = pattern
    mean = (means * hard).sum((1, 3))[0]
    even = uniform(4, causal=causal)
    base = (weights(detector, tokens, dtype=torch.float64)[0] * even).sum()
    np.testing.assert_allclose(mean, base.expand(3), atol=1e-12)


def test_entropy_is_scipys():
    pattern = patterns(3, 6, 2, seed=1)
    truth = scipy_entropy(pattern.numpy(), axis=-1)[:, 1:].mean(1)
    np.testing.assert_allclose(entropy(pattern), truth, atol=1e-12)
    even = uniform(6, causal=True)[None, :, None]
    np.testing.assert_allclose(entropy(even), np.log(np.arange(2, 7)).mean())
    one = torch.eye(6, dtype=torch.float64)[None, :, None]
    np.testing.assert_allclose(entropy(one), 0)


def test_positional_heads_count_maxima():
    """60 % of attention one to the left and 40 % two: never largest at two."""
    pattern = torch.zeros(1, 8, 1, 8, dtype=torch.float64)
    for i in range(8):
        pattern[0, i, 0, max(i - 1, 0)] += 0.6
        pattern[0, i, 0, max(i - 2, 0)] += 0.4
    tokens = torch.arange(8)[None]
    found = {
        d.name: float(score(d, tokens, pattern))
        for d in (positional(-1), positional(-2), offset(-2), PREVIOUS)
    }
    assert found["positional -1"] == pytest.approx(1)
    assert found["positional -2"] == pytest.approx(0)
    assert found["offset -2"] == pytest.approx(0.4)
    assert found["previous"] == pytest.approx((0.6 * 6 + 1.0) / 7)


def test_a_row_without_sources_has_no_score():
    tokens = torch.tensor([[1, 2, 3], [1, 2, 1]])
    found = score(DUPLICATE, tokens, patterns(2, 3, 2, seed=0))
    assert found[0].isnan().all() and found[1].isfinite().all()


def test_structure_says_which_positions_hold_one_token():
    found = structure(torch.tensor([[9, 4, 9, 4, 2], [1, 8, 1, 8, 5], [1, 1, 8, 8, 5]]))
    assert found.tolist() == [[0, 1, 0, 1, 4], [0, 1, 0, 1, 4], [0, 0, 2, 2, 4]]


def test_maxima_have_no_null_of_other_rows():
    with pytest.raises(Unsupported, match=r"'x' counts maxima.*take null='sources'"):
        Detector("x", DUPLICATE.sources, counts="maximum", null="rows")
