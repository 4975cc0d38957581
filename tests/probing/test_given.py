"""Activations of another tool: what was given comes back, of the word it was given for."""

import numpy as np
import pytest
import torch
from probing.test_split import SITE, corpus

from interp.core.errors import ProbeError, SiteError, Unsupported
from interp.probing.read.features import Features
from interp.probing.use.erasure import erasers

X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


def given(arrays: dict, **more) -> Features:
    return Features.from_arrays(arrays, model="mine", **more)


def test_what_was_given_comes_back():
    text = corpus()
    heads = {f"1.{head}": X[:, :2] + head for head in (3, 0)}
    found = given({SITE: X, "0.resid_pre": torch.from_numpy(2 * X), **heads}, corpus=text)
    assert list(map(str, found)) == ["0.resid_pre", SITE, "1.0", "1.3"]  # in order of computation
    np.testing.assert_array_equal(found[SITE], X)
    np.testing.assert_array_equal(found["1.3"], X[:, :2] + 3)
    both = found.stack([4, 0], sites=["1.3", "1.0"])
    np.testing.assert_array_equal(both, np.stack([X[[4, 0], :2] + 3, X[[4, 0], :2]]))
    assert found.sentence.tolist() == [0, 0, 0, 1, 1] and found.word.tolist() == [0, 1, 2, 0, 1]
    assert found.row.tolist() == found.sentence.tolist() and found.missing == ()
    found.require(text)
    with pytest.raises(ProbeError, match="features are of mine .*corpus is mine"):
        found.require(corpus((("A", "dog", "barks"), ("Dogs", "bark"))))
    assert repr(found).startswith("Features: 5 words of mine, 1 resid_pre (0.resid_pre)")


def test_the_arrays_may_change_afterwards():
    x, y = X.copy(), torch.from_numpy(X.copy())
    found = given({SITE: x, "1.resid_post": y})
    x[:], y[:] = 0, 0
    np.testing.assert_array_equal(found.stack(), np.stack([X, X]))


def test_arrays_of_another_byte_order_and_with_steps_backward():
    swapped = X.astype(X.dtype.newbyteorder(">"))
    np.testing.assert_array_equal(given({SITE: swapped}).stack()[0], X)
    np.testing.assert_array_equal(given({SITE: swapped[::-1]}).stack()[0], X[::-1])


def test_words_without_activations_are_missing():
    found = given({SITE: X[:3]}, corpus=corpus(), sentence=[0, 1, 1], word=[1, 0, 1], row=[0, 0, 0])
    assert found.missing == ((0, 0), (0, 2)) and found.row.tolist() == [0, 0, 0]


def test_erasers_take_them():
    found = given({SITE: np.random.default_rng(0).normal(size=(60, 4))})
    taken = erasers({SITE: found[SITE]}, torch.arange(60) % 2)
    assert next(iter(taken["leace"].values())).rank == 1


BAD = X.copy()
BAD[2, 1] = np.nan


@pytest.mark.parametrize(
    ("arrays", "more", "message"),
    [
        ({SITE: X[:4]}, {"corpus": corpus()}, "4 rows, and mine has 5 words in 2 sentences"),
        ({SITE: X, "1.resid_post": X[:4]}, {}, "has 5 words of torch.float32, and .* 4 of"),
        ({SITE: X, "1.resid_post": X.astype(float)}, {}, "float32, and .* of torch.float64"),
        ({SITE: X, "1.resid_post": X[:, :3]}, {}, "has 4 dimensions and '1.resid_post' 3"),
        ({"0.mlp[3]": X}, {}, "of a neuron 1"),
        ({"embed": X, "0.resid_pre": X}, {}, "are the same activation"),
        ({SITE: BAD}, {}, "NaN or infinity at 1 of 5 words, the first 2"),
        ({SITE: X[:0]}, {}, r"shape \(0, 4\), so there is nothing"),
        ({SITE: X}, {"word": [0] * 5}, "give both, sentence and word"),
        ({SITE: X}, {"sentence": [0] * 5, "word": [0, 1, 1, 2, 3]}, "word 1 of sentence 0 comes"),
        ({SITE: X}, {"sentence": [0] * 4, "word": [0] * 4}, r"sentence is int64 of shape \(4,\)"),
        ({SITE: X}, {"sentence": [0] * 5, "word": [-1, 0, 1, 2, 3]}, "counted from 0"),
        ({SITE: X}, {"row": [0, 1, 0, 1, 1]}, "row goes back to a row before"),
        (
            {SITE: X},
            {"corpus": corpus(), "sentence": [0] * 5, "word": range(5)},
            "mine has no word 3 in sentence 0",
        ),
    ],
)
def test_arrays_that_are_not_of_the_words_are_refused(arrays, more, message):
    with pytest.raises(ProbeError, match=message):
        given(arrays, **more)


def test_places_that_words_have_no_vector_at():
    with pytest.raises(Unsupported, match="attention patterns are of two words"):
        given({"0.0.pattern": X})
    with pytest.raises(Unsupported, match="'logits' are no activation that a word has"):
        given({"logits": X})
    with pytest.raises(SiteError, match="layer five"):
        given({"layer five": X})
