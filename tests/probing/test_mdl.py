"""The two identities of the online code, and what it sees that accuracy does not."""

import numpy as np
import pytest
import torch

from interp.core.errors import ProbeError
from interp.probing.mdl import online_code

FRACTIONS = (0.05, 0.1, 0.2, 0.4, 1.0)
ONE = torch.tensor([1e-3])


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
    code = online_code(x, y, l2=torch.ones(2), classes=3, fractions=FRACTIONS, seed=5)
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
        x, torch.stack([regular, drawn]), l2=torch.full((2,), 1e-5), classes=2, fractions=FRACTIONS
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
