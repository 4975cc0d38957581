"""Random directions that have a given share of the variance."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.core.errors import ProbeError
from interp.engine.interventions import Erase
from interp.probing.use.directions import covariance, moved, overlap, same_variance
from interp.probing.use.leace import leace

WIDTH = 24


def spread(seed: int = 0, decades: float = 3.0) -> torch.Tensor:
    """Words whose variance lies in few directions, which are no axes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(500, WIDTH, generator=generator, dtype=torch.float64)
    x = x * torch.logspace(0, -decades / 2, WIDTH, dtype=torch.float64)
    turn = torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64)
    return x @ torch.linalg.qr(turn)[0] + 5


def share_of(x: torch.Tensor, after: torch.Tensor) -> float:
    return float((x - after).square().sum() / (x - x.mean(0)).square().sum())


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), rank=st.integers(1, WIDTH), at=st.floats(0.02, 0.98))
def test_any_share_that_so_many_directions_can_have_is_met(seed, rank, at):
    x = spread(seed)
    values = torch.linalg.eigvalsh(x.T.cov())
    least, most = (float(part.sum() / values.sum()) for part in (values[:rank], values[-rank:]))
    share = least + at * (most - least)
    erase = same_variance(x, rank=rank, share=share, seed=seed)
    assert erase.rank == rank
    assert share_of(x, erase.of(x)) == pytest.approx(share, rel=1.1e-3)
    torch.testing.assert_close(erase.right @ erase.left, torch.eye(rank, dtype=torch.float64))
    torch.testing.assert_close(erase.of(x).mean(0), x.mean(0))


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 9))
def test_what_leace_moves_can_always_be_met(seed, classes):
    """LEACE of rank k moves between what the least and the largest k components have."""
    x = spread(seed)
    y = torch.randint(classes, (500,), generator=torch.Generator().manual_seed(seed))
    x = x + torch.randn(classes, WIDTH, dtype=torch.float64)[y] * 0.2
    erase = leace(x, y)
    share = moved(erase, covariance(x))
    assert share == pytest.approx(share_of(x, erase.of(x)), rel=1e-9)
    values = torch.linalg.eigvalsh(x.T.cov()) / x.T.cov().trace()
    assert values[: erase.rank].sum() <= share * (1 + 1e-9)
    assert share <= values[-erase.rank :].sum() * (1 + 1e-9)
    other = same_variance(x, rank=erase.rank, share=share)
    assert share_of(x, other.of(x)) == pytest.approx(share, rel=1.1e-3)


@pytest.mark.plain
def test_where_nothing_has_to_be_stretched_no_direction_is_preferred():
    """All variances alike: every basis has the share rank / width, and is as likely as any."""
    x = torch.randn(400, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov(correction=0))).T
    draws = [same_variance(x, rank=1, share=0.25, seed=i).left[:, 0] for i in range(300)]
    mean = torch.stack([u[:, None] * u for u in draws]).mean(0)
    assert (mean - torch.eye(4) / 4).abs().max() < 0.07
    assert not torch.equal(draws[0], draws[1])


def test_fewer_words_than_dimensions():
    x = spread()[:9]
    erase = same_variance(x, rank=4, share=0.6)
    assert share_of(x, erase.of(x)) == pytest.approx(0.6, rel=1e-3)


def test_covariance_a_part_at_a_time(monkeypatch):
    x = spread()
    whole = covariance(x.float())
    monkeypatch.setattr("interp.probing.use.directions.WORDS", 77)
    torch.testing.assert_close(covariance(x.float()), whole)
    np.testing.assert_allclose(whole, np.cov(x.numpy().T, bias=True), rtol=1e-4, atol=1e-5)


def test_bad_input():
    x = spread()
    with pytest.raises(ProbeError, match=r"no 2 directions .* 0.9900 .*between 0.00.* and 0\."):
        same_variance(x, rank=2, share=0.99)
    with pytest.raises(ProbeError, match="cannot take 25 of 24 directions"):
        same_variance(x, rank=25, share=0.5)
    bad = x.clone()
    bad[3, 1] = torch.nan
    with pytest.raises(ProbeError, match="activations of word 3 hold NaN"):
        same_variance(bad, rank=2, share=0.5)


def test_overlap_is_that_of_the_directions_that_change():
    q = torch.linalg.qr(torch.randn(9, 9, dtype=torch.float64))[0]
    mean = torch.zeros(9, dtype=torch.float64)

    def of(basis: torch.Tensor) -> Erase:
        return Erase(basis, basis.T.contiguous(), mean)

    assert overlap(of(q[:, :3]), of(q[:, :3] @ torch.randn(3, 3).double())) == pytest.approx(1)
    assert overlap(of(q[:, :3]), of(q[:, 3:])) == pytest.approx(0, abs=1e-12)
    assert overlap(of(q[:, :2]), of(q[:, :5])) == pytest.approx(1)
    turned = (q[:, :1] + q[:, 1:2]) / 2**0.5
    assert overlap(of(q[:, :1]), of(turned)) == pytest.approx(0.5)
