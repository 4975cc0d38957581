"""Scores: ratios of sums by document, their intervals, and paired differences."""

import numpy as np
import pandas as pd
import pytest

from interp.core.errors import ResultsError
from interp.core.sampling import stats
from interp.core.tables.results import Results
from interp.core.tables.scores import COLUMNS, Scores

DOCUMENTS = ["a", "a", "b", "b", "b", "c", "d", "d"]
RIGHT = np.array([1, 1, 0, 1, 0, 1, 1, 0.0])


def score(values=RIGHT, cluster=DOCUMENTS, **naming) -> Scores:
    naming = {"task": "upos", "probe": "linear", **naming}
    return Scores.of(np.asarray(values, dtype=float), cluster, provenance={"model": "m"}, **naming)


def test_one_row_for_each_document():
    table = score(site="3.resid_post", layer=4)
    assert list(table.frame.columns) == [*COLUMNS[:3], "depth", *COLUMNS[3:]]
    assert table.frame["layer"].tolist() == [3] * 4
    assert table.summary()[["layer", "depth"]].values.tolist() == [[3, 4]]
    assert table.frame[["cluster", "total", "n"]].values.tolist() == [
        ["a", 2, 2],
        ["b", 1, 3],
        ["c", 1, 1],
        ["d", 1, 2],
    ]


def test_summary_is_the_mean_over_examples_not_over_documents():
    row = score().summary().iloc[0]
    assert row["value"] == RIGHT.mean()
    assert (row["n"], row["clusters"]) == (8, 4)


def test_interval_is_that_of_the_examples():
    """The same bootstrap, written on examples instead of sums."""
    low, high = stats.mean_interval(RIGHT[None], pd.factorize(np.array(DOCUMENTS))[0])
    row = score().summary().iloc[0]
    assert (row["low"], row["high"]) == (low[0], high[0])


def test_nan_is_not_counted():
    values = RIGHT.copy()
    values[[0, 5]] = np.nan
    row = score(values).summary().iloc[0]
    assert row["value"] == np.nanmean(values)
    assert (row["n"], row["clusters"]) == (6, 3)


def test_a_cell_with_examples_in_few_documents_has_its_own_interval():
    everywhere, rare = score(), score(np.where(RIGHT > 0, np.nan, 0.5), subset="unseen")
    rows = Scores.concat([everywhere, rare]).summary()
    assert rows["n"].tolist() == [8, 3]
    assert rows["clusters"].tolist() == [4, 2]
    assert rows.loc[1, ["value", "low", "high"]].tolist() == [0.5, 0.5, 0.5]


def test_a_single_document_has_no_interval():
    row = score([1, 0], ["a", "a"]).summary().iloc[0]
    assert row["value"] == 0.5
    assert np.isnan([row["low"], row["high"]]).all()


def test_difference_is_paired():
    other = np.array([0, 1, 0, 0, 0, 1, 0, 0.0])
    real, control = score(labels="real"), score(other, labels="control")
    row = real.minus(control, ignoring=["labels"]).iloc[0]
    assert row["value"] == pytest.approx((RIGHT - other).mean())
    code = pd.factorize(np.array(DOCUMENTS))[0]
    low, high = stats.mean_interval((RIGHT - other)[None], code)
    assert (row["low"], row["high"]) == (low[0], high[0])
    assert row["p"] == stats.sign_flip_p((RIGHT - other)[None], code)[0]
    row = real.minus(control, ignoring=["labels"], alternative="greater").iloc[0]
    above = stats.sign_flip_p((RIGHT - other)[None], code, alternative="greater")[0]
    assert row["p"] == above
    assert row["q"] == row["p"]


def test_every_cell_finds_its_counterpart():
    layers = [score(np.roll(RIGHT, i), site=f"{i}.mlp", layer=i) for i in range(3)]
    shifted = [score(np.roll(RIGHT, i) / 2, site=f"{i}.mlp", layer=i) for i in (2, 0, 1)]
    found = Scores.concat(layers).minus(Scores.concat(shifted))
    assert found["value"].tolist() == [RIGHT.mean() / 2] * 3


def test_one_baseline_is_everyones_counterpart():
    layers = Scores.concat([score(site=f"{i}.mlp", layer=i) for i in range(3)])
    found = layers.minus(score(np.zeros(8), probe="majority"))
    assert found["value"].tolist() == [RIGHT.mean()] * 3


def test_differences_that_are_not_paired_are_refused():
    layers = Scores.concat([score(site=f"{i}.mlp", layer=i) for i in range(2)])
    with pytest.raises(ResultsError, match="no counterpart of .*'1.mlp'"):
        layers.minus(Scores.concat([score(site="0.mlp", layer=0), score(site="5.mlp", layer=5)]))
    with pytest.raises(ResultsError, match="not measured on the same examples"):
        score().minus(score(np.where(RIGHT > 0, RIGHT, np.nan)))
    with pytest.raises(ResultsError, match="several rows of the other table agree in"):
        score().minus(
            Scores.concat([score(labels="real"), score(labels="control")]), ignoring=["labels"]
        )
    with pytest.raises(ResultsError, match="not measured on the same documents"):
        score().minus(score(cluster=["a", "a", "b", "b", "b", "c", "e", "e"]))


def test_a_cluster_twice_is_refused():
    with pytest.raises(ResultsError, match="a score has a cluster twice"):
        Scores.concat([score(), score()]).summary()


def test_best_is_the_largest():
    layers = Scores.concat([score(RIGHT * i, site=f"{i}.mlp", layer=i) for i in range(4)])
    assert layers.best()["site"] == "3.mlp"
    assert layers.best(largest=False)["site"] == "0.mlp"
    with pytest.raises(ResultsError, match="no scores to choose from"):
        layers.query("layer > 9").best()


def test_saved_and_loaded_as_what_it_is(tmp_path):
    path = score(site="3.4", layer=3, head=4).save(tmp_path / "s.parquet")
    back = Scores.load(path)
    pd.testing.assert_frame_equal(back.frame, score(site="3.4", layer=3, head=4).frame)
    assert back.provenance == {"model": "m"}
    with pytest.raises(ResultsError, match="holds Scores; read it with interp.Scores.load"):
        Results.load(path)


def test_columns_are_needed():
    with pytest.raises(ResultsError, match="a scores table needs the columns .*'total'"):
        Scores(pd.DataFrame({"task": ["upos"]}), {})


def test_it_shows_itself():
    table = Scores.concat([score(), score(subset="unseen")])
    assert "unseen" in repr(table)
    assert "<table" in table._repr_html_()


def test_an_example_without_a_cluster_is_refused():
    with pytest.raises(ResultsError, match="example 1 of 'upos' has no cluster"):
        score(values=[1, 0], cluster=np.array(["a", None], dtype=object))


def test_a_named_model_stands_beside_another():
    one, two = score(model="trained").named("before"), score(model="trained").named("after")
    assert two.minus(one, ignoring=["model"])["value"].tolist() == [0]
    assert score(model="random").named("x").frame["model"].unique().tolist() == ["random"]
