"""Variance along directions, on activations whose covariance is known."""

import numpy as np
import pytest
import torch
from probing.synthetic import features

from interp.core.errors import ProbeError
from interp.probing.use.persistence import persistence

D, WORDS = 6, 4000


@pytest.fixture(scope="module")
def made():
    """Two classes 4 apart along axis 0 at one site, not at the next; axis 1 is wide."""
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(WORDS) % 2
    x = torch.randn(2, WORDS, D, generator=rng, dtype=torch.float64)
    x[:, :, 1] *= 5
    x[0, :, 0] += 4.0 * y - 2
    axis = torch.eye(D, dtype=torch.float64)[:, :1]
    found = persistence(
        features({"0.resid_post": x[0], "1.resid_post": x[1]}),
        y.numpy(),
        [str(i % 50) for i in range(WORDS)],
        {"probe": axis, "all": torch.eye(D, dtype=torch.float64)},
        task="tag",
        provenance={},
    )
    return found.summary().set_index(["metric", "probe", "depth"])["value"]


def test_variance_share_is_that_of_the_known_covariance(made):
    # site 0: 1 + 4 of 5 + 25 + 4; site 1: 1 of 1 + 25 + 4
    assert made["variance share", "probe", 1] == pytest.approx(5 / 34, rel=0.1)
    assert made["variance share", "probe", 2] == pytest.approx(1 / 30, rel=0.1)
    assert made["variance share", "all", 1] == pytest.approx(1)


def test_between_share_is_eta_squared(made):
    assert made["between share", "probe", 1] == pytest.approx(4 / 5, rel=0.05)
    assert made["between share", "probe", 2] < 0.01


def test_refusals():
    x = features({"0.resid_post": torch.randn(3, D)})
    one = {"probe": torch.eye(D, dtype=torch.float64)[:, :1]}
    with pytest.raises(ProbeError, match="3 words, 2 labels and 3 documents"):
        persistence(x, np.array([0, 1]), ["a"] * 3, one, task="tag", provenance={})
    with pytest.raises(ProbeError, match="directions 'probe' have 5 numbers and 0.resid_post 6"):
        persistence(
            x,
            np.array([0, 1, 0]),
            ["a"] * 3,
            {"probe": torch.eye(5, dtype=torch.float64)},
            task="tag",
            provenance={},
        )
