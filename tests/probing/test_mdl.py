"""The identities and bounds of the online code, and what it sees that accuracy does not."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy import ndarray
from torch import Tensor

from interp.core.errors import ProbeError
from interp.probing.ask.mdl import mixture, online_code

FRACTIONS = (0.05, 0.1, 0.2, 0.4, 1.0)
ONE = torch.tensor([1e-3])
GRID = torch.tensor([1.0, 0.1, 0.01, 0.001])
EXPERTS = arrays(float, (3, 12), elements=st.floats(0, 60))
"""Bits of twelve words by three codes."""


def entropy(y: Tensor) -> float:
    """Bits of a label by the frequencies."""
    share = y.bincount().double() / len(y)
    return float(-torch.xlogy(share, share).sum() / np.log(2))


def by_hand(bits: ndarray) -> list[float]:
    """The mixture word by word, with the weights that Bayes' rule gives."""
    weights, found = np.full(len(bits), 1 / len(bits)), []
    for word in bits.T:
        p = 2.0**-word
        found.append(-np.log2(weights @ p))
        weights = weights * p / (weights @ p)
    return found


@settings(max_examples=60)
@given(EXPERTS)
def test_no_mixture_is_dearer_than_its_best_code_and_the_choice(bits):
    total, best = mixture(bits).sum(), bits.sum(1).min()
    assert total <= best + np.log2(len(bits)) + 1e-9
    assert total >= best - 1e-9


@settings(max_examples=60)
@given(arrays(float, (3, 12), elements=st.floats(0, 3)))
def test_mixture_is_bayes_rule_word_by_word(bits):
    np.testing.assert_allclose(mixture(bits), by_hand(bits), atol=1e-9)


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(0, 2**32))
def test_the_mixture_is_a_prefix_code(words, seed):
    """What codes are p that sum to one over the labels: so is their mixture, at every word."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([0.1] * 4, size=(3, words))  # expert word label
    sent = rng.integers(4, size=words)
    at = np.arange(words)
    last = []
    for label in range(4):
        tried = np.r_[sent[:-1], label]
        last.append(mixture(-np.log2(np.maximum(p[:, at, tried], 1e-300)))[-1])
    assert np.exp2(-np.array(last)).sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("share", [[1.0] * 6, [0.6, 0.2, 0.1, 0.05, 0.04, 0.01]])
def test_labels_that_noise_knows_nothing_of_cost_their_entropy(share):
    """x is noise of many dimensions, which any probe of a weak penalty learns by heart."""
    words, classes = 1500, len(share)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, words, 120, generator=generator)
    y = torch.multinomial(torch.tensor(share), words, replacement=True, generator=generator)
    code = online_code(x, y[None], l2=GRID, classes=classes, fractions=FRACTIONS)
    assert (code.length <= code.uniform + np.log2(len(GRID) + 1)).all()
    # half a log2 n bits for each frequency that has to be learned (Rissanen 1986), more for those
    # learned block by block, and the first block
    price = (classes - 1) / 2 * np.log2(words) + code.ends[0] * np.log2(classes) + 40
    assert (code.length <= words * entropy(y) + price).all()
    assert (code.length >= words * entropy(y)).all()
    weakest = code.alone[:, 0, len(GRID) - 1]
    assert (weakest > 1.1 * code.uniform).all()  # as the code would cost of that strength alone


def test_the_code_is_never_far_above_its_best_strength():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 400, 6, generator=generator)
    y = (x[0] @ torch.randn(6, 3, generator=generator)).argmax(-1)
    y = torch.stack([y, y[torch.randperm(400, generator=generator)]])
    code = online_code(x, y, l2=GRID, classes=3, fractions=FRACTIONS)
    assert code.alone.shape == (2, 2, len(GRID) + 1)
    np.testing.assert_allclose(code.alone[..., -1], code.uniform)
    assert (code.length <= code.alone.min(-1) + np.log2(len(GRID) + 1) + 1e-9).all()
    one = online_code(x, y, l2=GRID[2:3], classes=3, fractions=FRACTIONS)
    np.testing.assert_allclose(one.alone[..., 0], code.alone[..., 2], rtol=1e-6)


def test_a_label_that_was_never_seen_costs_what_the_counts_say():
    """Half a word of it, beside the uniform code, whatever the optimiser made of its intercept."""
    words = 300
    order = np.random.default_rng([0, words]).permutation(words)
    y = torch.zeros(1, words, dtype=torch.long)
    y[0, order[:150:2]] = 1
    y[0, order[150]] = 2  # the first word that a probe codes
    x = torch.zeros(1, words, 2, dtype=torch.float64)
    code = online_code(x, y, l2=ONE, classes=3, fractions=(0.5, 1.0), tolerance=1e-12)
    p = (0.5 / (150 + 3 / 2) + 1 / 3) / 2
    assert code.bits[0, 0, order[150]] == pytest.approx(-np.log2(p), abs=1e-4)


def test_labels_that_do_not_depend_on_x_cost_the_uniform_code():
    """x says nothing and every block is balanced, so every probe is uniform: L = n log2 K."""
    words, classes = 800, 4
    x = torch.zeros(2, words, 3, dtype=torch.float64)
    order = np.random.default_rng([0, words]).permutation(words)
    y = np.empty(words, dtype=np.int64)
    y[order] = np.arange(words) % classes  # balanced in the order in which they are sent
    code = online_code(
        x, torch.from_numpy(y)[None], l2=ONE, classes=classes, fractions=FRACTIONS, tolerance=1e-12
    )
    np.testing.assert_allclose(code.length, code.uniform, rtol=1e-9)
    np.testing.assert_allclose(code.compression, 1, rtol=1e-9)


def test_separable_labels_cost_little_more_than_the_first_block():
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(4, (1, 4000), generator=generator)
    x = torch.nn.functional.one_hot(y, 4).double() * 10
    code = online_code(x, y, l2=torch.tensor([1e-7]), classes=4, fractions=FRACTIONS)
    first = code.ends[0] * 2  # bits
    assert first <= code.length[0, 0] < first + 0.01 * code.uniform


def test_the_first_block_costs_log2_k_each_and_bits_stay_with_their_words():
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(3, (2, 500), generator=generator)
    x = torch.randn(2, 500, 4, generator=generator)
    code = online_code(x, y, l2=ONE, classes=3, fractions=FRACTIONS, seed=5)
    order = np.random.default_rng([5, 500]).permutation(500)
    first = code.bits[:, :, order[: code.ends[0]]]
    np.testing.assert_array_equal(first, np.log2(3))
    assert not np.isclose(code.bits[:, :, order[code.ends[0] :]], np.log2(3)).all()


def test_memorised_labels_cost_more_than_regular_ones_at_equal_accuracy():
    """Both labels are functions of one of 40 types; only one is linear in the representation."""
    generator = torch.Generator().manual_seed(2)
    types = torch.randint(40, (2000,), generator=generator)
    table = torch.randn(40, 60, generator=generator)
    x = table[types][None] + 0.01 * torch.randn(1, 2000, 60, generator=generator)
    regular = (table[:, 0] > 0).long()[types]
    drawn = torch.randint(2, (40,), generator=generator)[types]
    code = online_code(
        x, torch.stack([regular, drawn]), l2=torch.tensor([1e-5]), classes=2, fractions=FRACTIONS
    )
    assert code.length[0, 0] < code.length[0, 1]


def test_blocks_without_two_classes_join_the_first():
    y = torch.ones(1, 200, dtype=torch.long)
    y[0, np.random.default_rng([0, 200]).permutation(200)[15]] = 0
    x = torch.randn(1, 200, 2, generator=torch.Generator().manual_seed(0))
    code = online_code(x, y, l2=ONE, classes=2, fractions=FRACTIONS)
    assert code.ends[0] == 20


def test_refusals():
    x, y = torch.randn(1, 100, 2), torch.zeros(1, 100, dtype=torch.long)
    with pytest.raises(ProbeError, match="the last one at 1.0"):
        online_code(x, y, l2=ONE, classes=2, fractions=(0.1, 0.5))
    with pytest.raises(ProbeError, match="the first 40 words have one class only"):
        online_code(x, y, l2=ONE, classes=2, fractions=FRACTIONS)
