"""How well rankings find a truth: known values, brute force, another library, compiled models."""

from collections.abc import Sequence
from itertools import permutations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

import interp
from interp.causal.ranking.recovery import Found, Recovery, nodes_of, recovery
from interp.core.errors import ResultsError
from interp.core.parts.circuit import Part
from interp.core.tables.attribution import Attribution
from interp.core.tables.table import open_table
from interp.models import compiled
from interp.models.compiled.construction import Key

A, B, C = (Part.parse(f"embed -> 0.{head}.q") for head in range(3))


def found(scores: Sequence[float], true: Sequence[int]) -> Found:
    return Found.of(np.array(scores, dtype=float), np.array(true, dtype=bool))


def table(scores: list[float], parts: tuple[Part, ...] = (A, B, C)) -> Attribution:
    """An attribution over two examples."""
    mean = np.array(scores, dtype=float)
    each = np.stack([mean - 1, mean + 1], axis=1)
    return Attribution.of(
        parts, each, cluster=["a", "b"], method="made", metric="logit_diff", provenance={}
    )


@pytest.mark.parametrize(
    ("scores", "true", "auroc", "ap", "r"),
    [
        ([3, 2, 1, 0], [1, 1, 0, 0], 1.0, 1.0, 1.0),
        ([3, 2, 1, 0], [0, 0, 1, 1], 0.0, (1 / 3 + 2 / 4) / 2, 0.0),
        ([3, 2, 1, 0], [1, 0, 1, 0], 0.75, (1 + 2 / 3) / 2, 0.5),
        ([7, 7, 7, 7], [1, 0, 0, 0], 0.5, 0.25, 0.25),
        # two true ones, one of them in a tie with two false ones across the end
        ([3, 2, 2, 2, 1], [1, 1, 0, 0, 0], (3 + 2) / 6, (1 + 2 / 4) / 2, (1 + 1 / 3) / 2),
        ([np.inf, 1, 0], [1, 0, 0], 1.0, 1.0, 1.0),
    ],
)
def test_known_rankings(
    scores: list[float], true: list[int], auroc: float, ap: float, r: float
) -> None:
    made = found(scores, true)
    assert (made.auroc, made.average_precision, made.r_precision) == pytest.approx((auroc, ap, r))
    assert (made.n, made.n_true) == (len(true), sum(true))
    assert made.prevalence == sum(true) / len(true)


MIXED = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=7).filter(
    lambda rows: 0 < sum(true for _, true in rows) < len(rows)
)


@given(MIXED)
@settings(max_examples=60, deadline=None)
def test_pairs_thresholds_and_orders_by_brute_force(rows: list[tuple[int, bool]]) -> None:
    scores, true = [s for s, _ in rows], [t for _, t in rows]
    made = found(scores, true)
    right, wrong = ([s for s, t in rows if t is kind] for kind in (True, False))
    wins = [(r > w) + (r == w) / 2 for r, w in product(right, wrong)]
    assert made.auroc == pytest.approx(np.mean(wins))
    assert made.auroc == pytest.approx(roc_auc_score(true, scores))
    assert made.average_precision == pytest.approx(average_precision_score(true, scores))
    if len(rows) > 6:  # all orders that agree with the scores
        return
    orders = [o for o in permutations(rows) if [s for s, _ in o] == sorted(scores, reverse=True)]
    hits = [np.mean([t for _, t in order[: len(right)]]) for order in orders]
    assert made.r_precision == pytest.approx(np.mean(hits))


@pytest.mark.parametrize("n_true", range(1, 12))
def test_a_ranking_without_a_mistake_has_ones_to_the_last_digit(n_true: int) -> None:
    made = found(list(range(20, 0, -1)), [1] * n_true + [0] * (20 - n_true))
    assert (made.auroc, made.average_precision, made.r_precision) == (1.0, 1.0, 1.0)


@given(MIXED, st.sampled_from([np.exp, np.arctan, lambda x: 3 * x - 7]))
@settings(max_examples=30, deadline=None)
def test_only_the_order_matters(rows, bend) -> None:
    scores, true = np.array([s for s, _ in rows], dtype=float), [int(t) for _, t in rows]
    assert found(bend(scores), true) == found(list(scores), true)
    turned = found(list(-scores), true)
    assert turned.auroc == pytest.approx(1 - found(list(scores), true).auroc)


def test_chance_is_half_and_the_prevalence() -> None:
    rng = np.random.default_rng(0)
    true = np.arange(200) < 20
    drawn = [Found.of(rng.random(200), true) for _ in range(400)]
    assert np.mean([d.auroc for d in drawn]) == pytest.approx(0.5, abs=0.02)
    assert np.mean([d.r_precision for d in drawn]) == pytest.approx(0.1, abs=0.02)
    # of few true ones a little more than the prevalence
    assert 0.1 < np.mean([d.average_precision for d in drawn]) < 0.14


def test_a_ranking_is_by_absolute_score() -> None:
    made = recovery(table([0.5, -2.0, 1.0]), {B})
    assert made == found([0.5, 2.0, 1.0], [0, 1, 0])


def test_what_rounding_leaves_ties_at_zero() -> None:
    scores = [-2.0, 1e-12, 0.0]
    assert recovery(table(scores), {B}).auroc == 0.25
    assert recovery(table(scores), {B}, noise=0.0).auroc == 0.5
    assert recovery(table([0.0, 0.0, 0.0]), {B}).auroc == 0.5


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ResultsError, match=r"1 of 2 true parts are not ranked \('embed -> 0.3.q'"):
        recovery(table([1, 2, 3]), {A, Part.parse("embed -> 0.3.q")})
    with pytest.raises(ResultsError, match=r"not ranked.*and the places that the truth has"):
        recovery(table([1, 2, 3]), {Part(A.of, "end")})
    with pytest.raises(ResultsError, match="3 scores are of 2 parts: one is ranked twice"):
        recovery(table([1, 2, 3], (A, B, B)), {A})
    with pytest.raises(ResultsError, match="1 of 3 scores are NaN"):
        recovery(table([1, np.nan, 3]), {A})
    for true, n in (({A, B, C}, 3), (set(), 0)):
        with pytest.raises(ResultsError, match=f"{n} of 3 parts are true, so there is nothing"):
            recovery(table([1, 2, 3]), true)


def test_true_nodes_are_where_true_edges_leave() -> None:
    true = ["embed -> 0.0.v @ next", "0.0 -> 1.kv0.k @ next", "0.0 -> 1.0.q @ end", "1.0 -> logits"]
    assert {str(node) for node in nodes_of(map(Part.parse, true))} == {
        "0.0 @ next",
        "0.0 @ end",
        "1.0",
    }


def test_the_table_comes_back_from_a_file(tmp_path) -> None:
    names = {"model": "m", "method": "made", "ablation": "zero", "corruption": "c"}
    names |= {"granularity": "all positions", "level": "edges", "draw": 3}
    made = Recovery.of([(names, found([2, 1], [1, 0]))], provenance={"dtype": "float64"})
    path = made.save(tmp_path / "results.parquet")
    again = open_table(path)
    assert isinstance(again, Recovery)
    assert again.frame.equals(made.frame)
    assert again.frame.loc[0, ["auroc", "draw"]].tolist() == [1.0, 3]
    assert "edges" in repr(again)


@pytest.mark.plain
@pytest.mark.parametrize("level", ["edges", "nodes"])
def test_exact_patching_finds_all_and_nothing_else(level: str) -> None:
    """On a compiled model; experiments.ground_truth has them all."""
    key = Key("resample", "answer", "by position")
    pairs = compiled.pairs("induction", corruption=key.corruption, n=4, seed=0)
    model = compiled.build("induction", dtype=torch.float64)
    sites = "edges" if level == "edges" else "heads"
    cut = interp.ablate(model, pairs, sites, method="resample", positions=list(pairs.positions))
    of = cut.frame.groupby(["site", "position"], sort=False)["effect"]
    parts = [Part(Part.parse(site).of, place) for site, place in of.groups]
    each = np.stack([effect.to_numpy() for _, effect in of])
    attribution = Attribution.of(
        parts, each, cluster=pairs.cluster, method="exact", metric="logit_diff", provenance={}
    )
    truth = compiled.truth("induction")[key]
    made = recovery(attribution, truth if level == "edges" else nodes_of(truth))
    assert (made.auroc, made.average_precision, made.r_precision) == (1.0, 1.0, 1.0)
    assert made.n == len(parts)
