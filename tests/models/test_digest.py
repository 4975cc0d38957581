"""The hash of weights: every bit counts, and nothing but what is stored."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from interp.models.now import digest as module
from interp.models.now.digest import WORDS, digest

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.bool]


def by_hand(tensors: Mapping[str, Tensor]) -> list[list[int]]:
    """The sums of each tensor in Python's own whole numbers, one row of words."""
    mask, keys = (1 << 64) - 1, []
    for first in (0, WORDS):
        for i in range(64):
            z = ((first + 1 + i) * 0x9E3779B97F4A7C15) & mask
            z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
            keys.append(z ^ (z >> 31))
    found = []
    for _, tensor in sorted(tensors.items()):
        raw = tensor.contiguous().view(torch.uint8).numpy().tobytes()
        raw += bytes(-len(raw) % 4)
        words = np.frombuffer(raw, "<i4").tolist()
        both = (keys[:64], keys[64:])
        found.append([sum(w * k for w, k in zip(words, key, strict=False)) & mask for key in both])
    return found


def test_the_sums_are_those_of_the_formula() -> None:
    tensors = {"b": torch.randn(5, 3), "a": torch.arange(7, dtype=torch.int16)}
    found = [torch.cat([*module._sums(tensor)]) for _, tensor in sorted(tensors.items())]
    ours = [[int(x) % (1 << 64) for x in sums] for sums in found]
    assert ours == by_hand(tensors)


@given(st.sampled_from(DTYPES), st.integers(1, 37), st.data())
def test_every_bit_counts(dtype: torch.dtype, n: int, data: st.DataObject) -> None:
    tensor = torch.from_numpy(np.random.default_rng(n).integers(0, 2, n)).to(dtype)
    before = digest({"x": tensor})
    raw = tensor.view(torch.uint8)
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 0 if dtype == torch.bool else 7))
    assert digest({"x": tensor}) != before


def test_names_shapes_dtypes_and_places_count() -> None:
    x = torch.arange(12.0).view(3, 4)
    found = [
        digest(tensors)
        for tensors in (
            {"x": x},
            {"y": x},
            {"x": x.view(4, 3)},
            {"x": x.view(torch.int32)},
            {"x": x.double()},
            {"x": x.T},
            {"x": x.flip(0)},
            {"x": x, "y": x},
            {"x": torch.cat([x, torch.zeros(1, 4)])},
            {},
            {"x": x[:0]},
        )
    ]
    assert len(set(found)) == len(found)


def test_what_does_not_count() -> None:
    x = torch.randn(6, 4)
    once = digest({"x": x, "y": x[:2]})
    assert digest({"y": x[:2].clone(), "x": x.clone()}) == once
    assert digest({"x": x.T.contiguous().T, "y": x[:2]}) == once
    assert digest({"x": x.clone().requires_grad_(), "y": x[:2]}) == once


@pytest.mark.parametrize("words", [WORDS - 1, WORDS, WORDS + 1, 3 * WORDS + 2])
def test_long_tensors_row_by_row(words: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.arange(words, dtype=torch.int32)
    once = digest({"x": x})
    for at in (0, WORDS // 2, words - 1):
        y = x.clone()
        y[at] += 1
        assert digest({"x": y}) != once
    assert digest({"x": x}) == once


def test_as_an_accelerator_takes_it() -> None:
    """Several rows at a time give the same sums."""
    x = torch.randn(5 * WORDS + 3)
    rows = x.view(torch.int32)[: 5 * WORDS].view(5, WORDS).long()
    together = [(rows * key).sum(1) for key in module._keys(WORDS, "cpu")]
    one_by_one = [*module._sums(x)]
    for i in range(5):
        assert [int(t[i]) for t in together] == [int(one_by_one[2 * i + k]) for k in (0, 1)]
