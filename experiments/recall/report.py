"""Tables, figures and words of `recall`."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import scipy.stats

from experiments._shared import Words, brief
from experiments.recall.models import (
    BATCH,
    KINDS,
    LSTM,
    ONE,
    RATES,
    STORED,
    TWO,
    Amount,
    parameters,
    shapes,
)
from interp.core.sampling import stats
from interp.core.tables.scores import Scores
from interp.figures.curves import curves
from interp.figures.drawing import style
from interp.runs import Run

words = Words(__file__)
MARGIN = 0.05
"""Who is behind is so by at least this accuracy, and by a test over the seeds."""
BEHIND, DEEPER = "two layers − LSTM", "two layers − one layer"
ABOVE, LEARNED, ORDER = "one layer − guess", "LSTM − guess", "LSTM, key first − last"
NAMES = {
    "recall": "recall (many queries)",
    "suffix": "lookup, key last",
    "prefix": "control: key first",
}


def tables_of(found: Scores) -> dict[str, pd.DataFrame]:
    """A table for each figure; seeds give the intervals."""
    accuracy = found.query("metric == 'accuracy'")
    whole = placed(accuracy.summary())
    compared = placed(differences(accuracy))
    learning = found.query("metric == 'learning'").summary()
    steps = learning["subset"].str.removeprefix("step ").astype(int)
    far = whole["distance"].notna() & (whole["task"] == "recall")
    near = compared["distance"].notna() & (compared["task"] == "recall")
    near &= compared["difference"].isin([BEHIND, DEEPER])
    return {
        "pairs": whole[whole["distance"].isna()].reset_index(drop=True),
        "distance": whole[far].reset_index(drop=True),
        "difference": compared[compared["distance"].isna()].reset_index(drop=True),
        "difference-distance": compared[near].reset_index(drop=True),
        "learning": learning.assign(step=steps, what=learning["task"].map(NAMES)),
    }


def differences(accuracy: Scores) -> pd.DataFrame:
    """Paired over seeds: two layers against the others, these against a guess, and the control.

    `p` is of a one-sided t test over the seeds, since the signs of five have no p under 0.06; `q`
    is Benjamini-Hochberg over the rows of a comparison.
    """

    def tested(name: str, above: Scores, below: Scores, *ignoring: str) -> pd.DataFrame:
        table = above.minus(below, ignoring=ignoring)
        keys = [key for key in ("task", "subset") if key not in ignoring]
        rates = [
            scores.frame.assign(rate=scores.frame["total"] / scores.frame["n"])
            .pivot(index=keys, columns="cluster", values="rate")
            .loc[pd.MultiIndex.from_frame(table[keys]) if len(keys) > 1 else table[keys[0]]]
            for scores in (above, below)
        ]
        apart = (rates[0] - rates[1].to_numpy()).to_numpy(dtype=float)
        p = (apart[:, 0] <= 0).astype(float)  # of rates that differ by the same in all trainings
        vary = np.ptp(apart, axis=1) > 1e-12
        p[vary] = scipy.stats.ttest_1samp(apart[vary], 0, axis=1, alternative="greater").pvalue
        return table.assign(difference=name, p=p, q=stats.fdr(p))

    def of(name: str, one: str, other: str) -> pd.DataFrame:
        above, below = (accuracy.query(f"probe == {probe!r}") for probe in (one, other))
        return tested(name, above, below, "probe", "model")

    asked = ((BEHIND, TWO, LSTM), (DEEPER, TWO, ONE), (ABOVE, ONE, STORED), (LEARNED, LSTM, STORED))
    lstm = accuracy.query(f"probe == {LSTM!r}")
    first, last = (lstm.query(f"task == {task!r}") for task in ("prefix", "suffix"))
    order = tested(ORDER, first, last, "task")  # the same tokens
    return pd.concat([*(of(*names) for names in asked), order], ignore_index=True)


def placed(table: pd.DataFrame) -> pd.DataFrame:
    """With the numbers that its subsets are named by, and words for panels."""
    found = table["subset"].str.extract(r"^(\d+) pairs(?:, (\d+) back)?$").astype("Int64")
    pairs = found[0].astype(int)
    stored = pairs.map(lambda n: f"{n} pairs" if n > 1 else "1 pair")
    return table.assign(
        pairs=pairs, distance=found[1], stored=stored, what=table["task"].map(NAMES)
    )


def draw(run: Run, tables: Mapping[str, pd.DataFrame]) -> None:
    """Every figure, with its table beside it."""
    paired = {"hue": "difference", "ylabel": "difference in accuracy"}
    distance = {"x": "distance", "panel": "stored", "xlabel": "distance (tokens)"}
    pairs = {"x": "pairs", "panel": "what", "log": "x", "xlabel": "stored pairs"}
    figures = {
        "distance": distance | {"title": "Recall by distance from the query back to the value"},
        "pairs": pairs | {"title": "Accuracy by stored pairs"},
        "difference": pairs | paired | {"title": "Paired differences"},
        "difference-distance": distance | paired | {"title": "Paired differences by distance"},
        "learning": {"x": "step", "panel": "what", "ylabel": "accuracy, all pairs"}
        | {"title": "While they learn"},
    }
    for name, how in figures.items():
        how = {"hue": "probe", "ylabel": "accuracy"} | how
        how["title"] += " (band: 95 % over seeds)"
        table = tables[name]
        if how["x"] == "distance":
            table = table.astype({"distance": int})
        run.figure(name, curves(table, **how), tables[name])


def summarise(tables: Mapping[str, pd.DataFrame], size: Amount) -> str:
    """The result in one paragraph of numbers with their intervals."""
    numbers = {kind: parameters(shape) for kind, shape in shapes(size).items()}
    pairs, difference = ", ".join(map(str, size.pairs)), tables["difference"]
    asked = tables["pairs"].query(f"task == 'recall' and probe == {LSTM!r}")
    sentences = [
        words(
            "trained",
            models=", ".join(f"{kind} {n:,}" for kind, n in numbers.items()),
            seeds=size.seeds,
            pairs=pairs,
            steps=size.steps,
            batch=BATCH,
            control=size.control,
            lstm=f"{RATES[LSTM]:g}",
            transformers=f"{RATES[TWO]:g}",
            queries=", ".join(str(n // size.seeds) for n in asked["n"]),
        ),
        words("recall", pairs=pairs, accuracies=accuracies(tables["pairs"], "recall")),
        behind(difference, tables["difference-distance"]),
        by_distance(tables["distance"]),
        still_learning(tables["learning"]),
        suffices(difference),
        words(
            "lookup",
            last=accuracies(tables["pairs"], "suffix"),
            first=accuracies(tables["pairs"], "prefix"),
        ),
        control(difference),
        words("brackets", seeds=size.seeds, margin=MARGIN, alpha=style.ALPHA),
    ]
    return f"{words('title')}\n\n{' '.join(sentences)}"


def several(rows: pd.DataFrame) -> str:
    """Of each row its number and interval."""
    return ", ".join(brief(row) for _, row in rows.iterrows())


def accuracies(table: pd.DataFrame, task: str) -> str:
    """Of every model, by number of pairs."""
    rows = table[table["task"] == task]
    said = (f"{kind} {several(rows[rows['probe'] == kind])}" for kind in (*KINDS, STORED))
    return "; ".join(said)


def is_behind(table: pd.DataFrame) -> pd.Series:
    """Which differences count."""
    return (table["value"] >= MARGIN) & (table["q"] < style.ALPHA)


def behind(table: pd.DataFrame, by_distance: pd.DataFrame) -> str:
    """From how many pairs, and at which distances, the LSTM is behind two layers."""
    table, by_distance = (x.query(f"difference == {BEHIND!r}") for x in (table, by_distance))
    recall = table[table["task"] == "recall"].sort_values("pairs")
    lost = recall[is_behind(recall)]
    numbers = ", ".join(f"{row['pairs']} ({brief(row)})" for _, row in lost.iterrows())
    where = []
    for pairs, rows in by_distance.groupby("pairs", sort=True):
        rows = rows.sort_values("distance")
        at = rows.loc[is_behind(rows), "distance"]
        first = words("nearest", first=at.iloc[0]) if len(at) else words("nowhere")
        where.append(words("at distances", pairs=pairs, n=len(at), of=len(rows), first=first))
    said = words("behind", numbers=numbers) if len(lost) else words("never behind")
    return f"{said}; {', '.join(where)}."


def by_distance(table: pd.DataFrame) -> str:
    """Each model's accuracy at the nearest and at the farthest distance of the most pairs."""
    most = table["pairs"].max()
    rows = table[(table["pairs"] == most) & table["probe"].isin(KINDS)].sort_values("distance")
    said = [
        words(
            "near and far",
            kind=kind,
            near=brief(of.iloc[0]),
            far=brief(of.iloc[-1]),
            first=of.iloc[0]["distance"],
            last=of.iloc[-1]["distance"],
        )
        for kind, of in rows.groupby("probe", sort=False)
    ]
    return words("by distance", most=most, said=", ".join(said))


def still_learning(table: pd.DataFrame) -> str:
    """Whether the LSTM would go on: its accuracy on recall, late and at the end."""
    rows = table[(table["task"] == "recall") & (table["probe"] == LSTM)].sort_values("step")
    end = rows.iloc[-1]
    late = rows[rows["step"] <= 2 * end["step"] / 3].iloc[-1]
    return words("learning", late=brief(late), then=late["step"], end=brief(end), last=end["step"])


def suffices(table: pd.DataFrame) -> str:
    """Whether one layer does, and whether it does better than naming a stored value."""
    recall = table[(table["task"] == "recall") & (table["pairs"] > 1)]
    short, above = (recall[recall["difference"] == name] for name in (DEEPER, ABOVE))
    lost = short[is_behind(short)]
    return words(
        "one layer",
        answer=words("suffices" if lost.empty else "does not suffice"),
        n=len(lost),
        of=len(short),
        each=", ".join(f"{row['pairs']}: {brief(row)}" for _, row in short.iterrows()),
        above=several(above),
    )


def control(table: pd.DataFrame) -> str:
    """Whether the LSTM is behind on recall and not where one value is to be held."""
    many = table[table["pairs"] > 1]

    def of(difference: str, task: str = "prefix") -> pd.DataFrame:
        return many[(many["difference"] == difference) & (many["task"] == task)]

    lost, behind, learned = (
        int(is_behind(x).sum()) for x in (of(BEHIND, "recall"), of(BEHIND), of(LEARNED))
    )
    holds = lost > 0 and not behind and learned == len(of(LEARNED))
    return words(
        "control",
        verdict=words("holds" if holds else "does not hold"),
        n=behind,
        of=len(of(BEHIND)),
        lost=lost,
        behind=several(of(BEHIND)),
        learned=several(of(LEARNED)),
        order=several(of(ORDER)),
    )
