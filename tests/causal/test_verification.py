"""Estimates beside measurements: the statistics against SciPy, and what must not be compared."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import interp
from interp.causal.ranking.attribution import attribute
from interp.causal.ranking.exact import exact
from interp.causal.ranking.verification import Verified, agreement, verify
from interp.core.errors import ResultsError
from interp.core.metrics import Metric
from interp.core.tables.attribution import Attribution
from interp.models.model import Model
from interp.models.small import native
from interp.models.small.native import Shape

SHAPE = Shape(n_layers=2, n_heads=3, d_model=10, d_head=4, d_vocab=23, n_ctx=12, d_mlp=7)


@pytest.fixture(scope="module")
def model() -> Model:
    return native.build(SHAPE, name="tiny", dtype=torch.float64)


@pytest.fixture(scope="module")
def rows() -> interp.Pairs:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(23, (2, 6, 7), generator=generator).tolist()
    return interp.Pairs.from_tokens(
        clean=ids[0],
        corrupt=ids[1],
        correct=[3, 5, 7, 11, 3, 5],
        wrong=[4, 6, 8, 12, 4, 6],
        cluster=["a", "a", "b", "b", "c", "c"],
    )


@given(
    st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=4, max_size=12).filter(
        lambda x: len({a for a, _ in x}) > 1 and len({b for _, b in x}) > 1
    )
)
@settings(max_examples=25, deadline=None)
def test_agreement_is_scipys(points):
    """Ties included."""
    x, y = np.asarray(points, dtype=float).T
    line = stats.linregress(x, y)
    expected = [stats.spearmanr(x, y).statistic, line.slope, line.intercept, line.rvalue**2]
    assert agreement(x, y) == pytest.approx(expected)
    assert agreement(np.stack([x, x]), np.stack([y, -y]))[0] == pytest.approx(expected)


def test_of_what_is_constant_there_is_no_agreement():
    found = agreement(np.ones(4), np.arange(4.0))
    assert np.isnan(found[[0, 1, 3]]).all()


def test_the_top_and_others_are_measured(model: Model, rows: interp.Pairs):
    found = attribute(model, rows)
    checked = verify(found, model, rows, k=8)
    order = found.frame["site"].iloc[np.argsort(-np.abs(found.scores))]
    assert set(checked.top.frame["site"]) == set(order[:8])
    assert checked.random is not None and checked.random_exact is not None
    assert not set(checked.random.frame["site"]) & set(order[:8])
    assert checked.top_exact.parts == checked.top.parts
    measured = exact(model, rows, checked.random.parts)
    assert np.abs(measured.each - checked.random_exact.each).max() < 1e-14
    table = checked.table
    assert table["drawn"].tolist() == ["top"] * 8 + ["random"] * 8
    assert ((table["low"] <= table["exact"]) & (table["exact"] <= table["high"])).all()
    summary = checked.summary()
    for drawn, row in summary.set_index("drawn").iterrows():
        part = table[table["drawn"] == drawn]
        rank = stats.spearmanr(part["estimate"], part["exact"]).statistic
        assert row["spearman"] == pytest.approx(rank)
        assert row["spearman_low"] <= row["spearman_high"]
        assert row["clusters"] == 3
    pd.testing.assert_frame_equal(summary, checked.summary())
    assert "spearman" in repr(checked) and "spearman" in checked._repr_html_()
    other = verify(found, model, rows, k=8, seed=1).random
    assert other is not None and other.parts != checked.random.parts


def test_an_exact_attribution_agrees_with_itself(model: Model, rows: interp.Pairs):
    checked = verify(exact(model, rows, "nodes", ablation="zero"), model, rows, k=100)
    assert checked.random is None  # all of them are in the top
    row = checked.summary().iloc[0]
    assert row["parts"] == 8
    for name, value in {"spearman": 1, "slope": 1, "intercept": 0, "r2": 1}.items():
        assert row[name] == pytest.approx(value, abs=1e-9)
        assert row[f"{name}_low"] == pytest.approx(value, abs=1e-9)


def test_one_cluster_has_no_interval(model: Model, rows: interp.Pairs):
    few = rows.select([0, 1])
    summary = verify(attribute(model, few, "nodes"), model, few, k=4).summary()
    assert summary[["spearman_low", "slope_high"]].isna().all().all()
    assert summary["spearman"].notna().all()


@pytest.mark.filterwarnings("ignore:mean ablation")
def test_only_the_same_is_compared(model: Model, rows: interp.Pairs):
    found = attribute(model, rows, "nodes", ablation="mean")
    assert isinstance(verify(found, model, rows, k=3), Verified)
    with pytest.raises(ResultsError, match=r"has pairs '\w+', and this is '\w+'"):
        verify(found, model, rows.select([0, 1]))
    with pytest.raises(ResultsError, match=r"has weights"):
        verify(found, native.build(SHAPE, name="tiny", seed=1, dtype=torch.float64), rows)
    with pytest.raises(ResultsError, match=r"has reference"):
        verify(found, model, rows, reference="clean")
    with pytest.raises(ResultsError, match=r"has metric 'logit_diff', and this is 'prob'"):
        verify(found, model, rows, metric="prob")
    with pytest.raises(ResultsError, match=r"k=2 of 8 parts: of fewer than 3"):
        verify(found, model, rows, k=2)
    again = attribute(model, rows, "nodes").resampled(seed=0)
    with pytest.raises(ResultsError, match=r"6 examples in other clusters than the 6 pairs"):
        verify(again, model, rows, k=3)
    joined = Attribution.concat(
        [attribute(model, rows, "nodes", method=m) for m in ("atp", "atp*")]
    )
    with pytest.raises(
        ResultsError, match=r"has methods \['atp', 'atp\*'\] and ablation 'resample'"
    ):
        verify(joined, model, rows, k=3)
    own = Metric("own", lambda x, a: x[..., 0] ** 2, reads="answers")
    squared = attribute(model, rows, "nodes", metric=own)
    assert isinstance(verify(squared, model, rows, k=3, metric=own), Verified)
