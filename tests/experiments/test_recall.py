"""The pure parts of `recall`, on rows and tables made by hand."""

import pandas as pd
import pytest
import torch

from experiments.recall import models, report
from interp.core.prompts.sequences import UNSCORED, Sequences
from interp.core.tables.scores import Scores


def sequences(tokens: list[list[int]], labels: list[list[int]]) -> Sequences:
    label = torch.tensor(labels)
    distance = torch.arange(label.shape[1]).expand_as(label) * (label != UNSCORED)
    return Sequences(torch.tensor(tokens), label, distance)


NO = UNSCORED
LONG = sequences([[5, 9, 6, 8], [6, 8, 5, 9]], [[NO, 9, NO, 8], [NO, 8, NO, NO]])
SHORT = sequences([[7, 9]], [[NO, 9]])


def test_mixed_rows_are_padded_where_nothing_is_scored():
    both = models.mixed([SHORT, LONG])
    assert both.tokens.tolist() == [[7, 9, 0, 0], [5, 9, 6, 8], [6, 8, 5, 9]]
    assert both.labels[0].tolist() == [NO, 9, NO, NO]
    assert both.distance[0].tolist() == [0, 1, 0, 0]


def test_unseen_drops_the_rows_that_were_learned_from():
    learned = sequences([[6, 8, 5, 9], [1, 2, 3, 4]], [[NO, 8, NO, 9], [NO, 2, NO, NO]])
    assert models.unseen(LONG, learned).tokens.tolist() == [[5, 9, 6, 8]]


def test_answers_are_summed_over_all_queries_and_by_distance():
    hits = torch.tensor([[True, True, True, False], [True, False, True, True]])
    table = models.of_answers(hits, LONG, 2)  # scored: 1 and 3 back, then 1 back
    assert table[["subset", "total", "n"]].to_numpy().tolist() == [
        ["2 pairs", 1.0, 3],
        ["2 pairs, 1 back", 1.0, 2],
        ["2 pairs, 3 back", 0.0, 1],
    ]


def test_models_have_nearly_equal_parameters():
    size = models.Amount(seeds=1, steps=1, control=1)
    numbers = [models.parameters(shape) for shape in models.shapes(size).values()]
    assert len(numbers) == 3 and max(numbers) / min(numbers) < 1.02


def test_tasks_of_lookup_have_equal_tokens_and_recall_asks_every_key():
    size = models.Amount(seeds=1, steps=1, control=1)
    asked = models.rows("recall", size, 3, seed=1)
    assert {n: int(x.scored.sum(1).unique()) for n, x in asked.items()} == {n: n for n in asked}
    first, last = (models.rows(task, size, 3, seed=1)[4] for task in ("prefix", "suffix"))
    assert first.tokens.sort(1).values.tolist() == last.tokens.sort(1).values.tolist()


Hits = dict[str, list[float]]


def table(**tasks: Hits) -> pd.DataFrame:
    """Differences of two pairs at 1 and 3 back, from hits of ten for each of two seeds."""
    found = []
    for task in models.TASKS:
        rows = []
        for probe in (*models.KINDS, models.STORED):
            for seed, total in enumerate(tasks.get(task, {}).get(probe, [5.0, 5.0])):
                for subset, n in (("2 pairs", 10), ("2 pairs, 1 back", 6), ("2 pairs, 3 back", 4)):
                    rows.append((probe, f"seed {seed}", subset, total * n / 10, n))
        frame = pd.DataFrame(rows, columns=["probe", "cluster", "subset", "total", "n"])
        frame = frame.assign(metric="accuracy")
        found.append(models.scores(frame, task=task, note={}))
    return report.placed(report.differences(Scores.concat(found)))


def split(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All queries, and those of each distance."""
    return table[table["distance"].isna()], table[table["distance"].notna()]


T = 12.7062047362  # of Student with one degree of freedom, for 95 %
FAR: Hits = {"LSTM": [4.9, 5.1], "one layer": [4.9, 5.1], "two layers": [9.5, 9.5]}
NEAR: Hits = {"LSTM": [9.8, 9.9], "one layer": [9.8, 9.9], "two layers": [10.0, 10.0]}


def test_differences_are_paired_by_seed():
    whole, each = split(table(recall=FAR))
    row = whole.query(f"difference == '{report.BEHIND}' and task == 'recall'").iloc[0]
    assert (row["value"], row["low"], row["high"]) == pytest.approx(
        (0.45, 0.45 - T * 0.01, 0.45 + T * 0.01)
    )
    assert row["pairs"] == 2 and row["stored"] == "2 pairs"
    above = each[(each["difference"] == report.ABOVE) & (each["distance"] == 3)].iloc[0]
    assert above["value"] == pytest.approx(0)


def test_who_is_behind_and_where_is_said():
    whole, each = split(table(recall=FAR))
    said = report.behind(whole, each.query("task == 'recall'"))
    assert "behind two layers at these numbers of pairs: 2 (0.45 [0.32, 0.58])" in said
    assert "of 2 at 2 of 2 distances (nearest 1 back)" in said
    assert report.suffices(whole).startswith("One layer does not suffice: it is behind two")


def test_a_lead_within_the_margin_is_none():
    whole, each = split(table(recall=NEAR))
    said = report.behind(whole, each.query("task == 'recall'"))
    assert "at no number of pairs; of 2 at 0 of 2 distances (nowhere)" in said
    assert report.suffices(whole).startswith("One layer suffices")


@pytest.mark.parametrize(
    "recall, first, verdict",
    [
        (FAR, NEAR, "holds"),
        (NEAR, NEAR, "does not hold"),  # nothing to control
        (FAR, FAR, "does not hold"),  # behind there too
        (FAR, {}, "does not hold"),  # nobody has learned it
    ],
)
def test_the_control_holds_where_only_recall_is_hard(recall, first, verdict):
    said = report.control(split(table(recall=recall, prefix=first))[0])
    assert said.startswith(f"The control {verdict} (")


def test_order_is_the_same_model_on_the_same_tokens():
    whole, _ = split(table(prefix=NEAR, suffix=FAR))
    row = whole[whole["difference"] == report.ORDER].iloc[0]
    assert row["value"] == pytest.approx(0.985 - 0.5)


def test_the_end_of_learning_stands_beside_two_thirds_of_it():
    curve = pd.DataFrame({"step": [0, 10, 20, 30], "accuracy": [0.0, 0.2, 0.4, 0.5]})
    found = [
        models.of_curve(curve.assign(accuracy=curve["accuracy"] + seed / 10)).assign(
            probe="LSTM", cluster=f"seed {seed}"
        )
        for seed in (0, 1)
    ]
    learning = models.scores(pd.concat(found), task="recall", note={}).summary()
    steps = learning["subset"].str.removeprefix("step ").astype(int)
    said = report.still_learning(learning.assign(step=steps))
    assert "is 0.45 [-0.19, 1.09] after 20 steps and 0.55 [-0.09, 1.19] after 30" in said
