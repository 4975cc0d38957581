"""Tables, figures and words of `recall`."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import scipy.stats
from recall_models import (
    BATCH,
    KINDS,
    LSTM,
    ONE,
    RATES,
    STORED,
    TWO,
    Size,
    parameters,
    shapes,
)

from interp.core.sampling import stats
from interp.core.tables.scores import Scores
from interp.figures.curves import curves
from interp.figures.drawing import style
from interp.runs import Run

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
        p = scipy.stats.ttest_1samp(apart, 0, axis=1, alternative="greater").pvalue
        p = np.where(np.ptp(apart, axis=1) == 0, (apart[:, 0] <= 0).astype(float), p)
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
    band = "band: 95 % over seeds"
    run.figure(
        "distance",
        curves(
            tables["distance"].astype({"distance": int}),
            x="distance",
            hue="probe",
            panel="stored",
            xlabel="distance (tokens)",
            ylabel="accuracy",
            title=f"Recall by distance from the query back to the value ({band})",
        ),
        tables["distance"],
    )
    run.figure(
        "pairs",
        curves(
            tables["pairs"],
            x="pairs",
            hue="probe",
            panel="what",
            log="x",
            xlabel="stored pairs",
            ylabel="accuracy",
            title=f"Accuracy by stored pairs ({band})",
        ),
        tables["pairs"],
    )
    run.figure(
        "difference",
        curves(
            tables["difference"],
            x="pairs",
            hue="difference",
            panel="what",
            log="x",
            xlabel="stored pairs",
            ylabel="difference in accuracy",
            title=f"Paired differences ({band})",
        ),
        tables["difference"],
    )
    run.figure(
        "difference-distance",
        curves(
            tables["difference-distance"].astype({"distance": int}),
            x="distance",
            hue="difference",
            panel="stored",
            xlabel="distance (tokens)",
            ylabel="difference in accuracy",
            title=f"Paired differences by distance ({band})",
        ),
        tables["difference-distance"],
    )
    run.figure(
        "learning",
        curves(
            tables["learning"],
            x="step",
            hue="probe",
            panel="what",
            ylabel="accuracy, all pairs",
            title=f"While they learn ({band})",
        ),
        tables["learning"],
    )


def summarise(tables: Mapping[str, pd.DataFrame], size: Size) -> str:
    """The result in one paragraph of numbers with their intervals."""
    numbers = {kind: parameters(shape) for kind, shape in shapes(size).items()}
    models = ", ".join(f"{kind} {n:,}" for kind, n in numbers.items())
    pairs = ", ".join(map(str, size.pairs))
    asked = tables["pairs"].query(f"task == 'recall' and probe == {LSTM!r}")
    queries = ", ".join(str(n // size.seeds) for n in asked["n"])
    sentences = [
        f"Parameters: {models}. Each is trained {size.seeds} times on rows of {pairs} pairs in "
        f"equal numbers: {size.steps} steps of {BATCH} rows on recall and {size.control} on each "
        f"lookup (AdamW, rate {RATES[LSTM]:g} for the LSTM and {RATES[TWO]:g} for transformers), "
        f"and tested on other rows ({queries} queries of recall).",
        f"Recall of {pairs} pairs: {accuracies(tables['pairs'], 'recall')}.",
        behind(tables["difference"], tables["difference-distance"]),
        by_distance(tables["distance"]),
        still_learning(tables["learning"]),
        suffices(tables["difference"]),
        f"Lookup with the key last: {accuracies(tables['pairs'], 'suffix')}; with the key first, "
        f"the negative control: {accuracies(tables['pairs'], 'prefix')}.",
        control(tables["difference"]),
        f"Brackets are 95 % intervals over {size.seeds} trainings, differences paired by "
        f"seed; behind means by {MARGIN} or more with q < {style.ALPHA} (one-sided t test over the "
        "trainings, Benjamini-Hochberg over the rows of a comparison).",
    ]
    return f"# Copying what was named before\n\n{' '.join(sentences)}\n"


def accuracies(table: pd.DataFrame, task: str) -> str:
    """Of every model, by number of pairs."""
    rows = table[table["task"] == task]
    said = (
        f"{kind} {', '.join(interval(row) for _, row in rows[rows['probe'] == kind].iterrows())}"
        for kind in (*KINDS, STORED)
    )
    return "; ".join(said)


def is_behind(table: pd.DataFrame) -> pd.Series:
    """Which differences count."""
    return (table["value"] >= MARGIN) & (table["q"] < style.ALPHA)


def behind(table: pd.DataFrame, by_distance: pd.DataFrame) -> str:
    """From how many pairs, and at which distances, the LSTM is behind two layers."""
    table, by_distance = (x.query(f"difference == {BEHIND!r}") for x in (table, by_distance))
    recall = table[table["task"] == "recall"].sort_values("pairs")
    lost = recall[is_behind(recall)]
    said = "Within these steps the LSTM is behind two layers at no number of pairs"
    if len(lost):
        numbers = ", ".join(f"{row['pairs']} ({interval(row)})" for _, row in lost.iterrows())
        said = (
            f"Within these steps the LSTM is behind two layers at these numbers of pairs: {numbers}"
        )
    where = []
    for pairs, rows in by_distance.groupby("pairs", sort=True):
        rows = rows.sort_values("distance")
        at = rows.loc[is_behind(rows), "distance"]
        first = f"nearest {at.iloc[0]} back" if len(at) else "nowhere"
        where.append(f"of {pairs} at {len(at)} of {len(rows)} distances ({first})")
    return f"{said}; {', '.join(where)}."


def by_distance(table: pd.DataFrame) -> str:
    """Each model's accuracy at the nearest and at the farthest distance of the most pairs."""
    most = table["pairs"].max()
    rows = table[(table["pairs"] == most) & table["probe"].isin(KINDS)].sort_values("distance")
    said = []
    for kind, of in rows.groupby("probe", sort=False):
        near, far = of.iloc[0], of.iloc[-1]
        said.append(
            f"{kind} {interval(near)} at {near['distance']} and {interval(far)} at "
            f"{far['distance']}"
        )
    return f"Of {most} pairs the nearest and the farthest value: {', '.join(said)}."


def still_learning(table: pd.DataFrame) -> str:
    """Whether the LSTM would go on: its accuracy on recall, late and at the end."""
    rows = table[(table["task"] == "recall") & (table["probe"] == LSTM)].sort_values("step")
    end = rows.iloc[-1]
    late = rows[rows["step"] <= 2 * end["step"] / 3].iloc[-1]
    return (
        f"The LSTM's accuracy on all rows of recall is {interval(late)} after {late['step']} steps "
        f"and {interval(end)} after {end['step']}."
    )


def suffices(table: pd.DataFrame) -> str:
    """Whether one layer does, and whether it does better than naming a stored value."""
    recall = table[(table["task"] == "recall") & (table["pairs"] > 1)]
    short, above = (recall[recall["difference"] == name] for name in (DEEPER, ABOVE))
    lost = short[is_behind(short)]
    answer = "One layer suffices" if lost.empty else "One layer does not suffice"
    return (
        f"{answer}: it is behind two at {len(lost)} of {len(short)} numbers of pairs above 1 ("
        + ", ".join(f"{row['pairs']}: {interval(row)}" for _, row in short.iterrows())
        + "), and above a guess among the stored values by "
        + ", ".join(interval(row) for _, row in above.iterrows())
        + "."
    )


def control(table: pd.DataFrame) -> str:
    """Whether the LSTM is behind on recall and not where one value is to be held."""
    many = table[table["pairs"] > 1]

    def of(difference: str, task: str = "prefix") -> pd.DataFrame:
        return many[(many["difference"] == difference) & (many["task"] == task)]

    def said(rows: pd.DataFrame) -> str:
        return ", ".join(interval(row) for _, row in rows.iterrows())

    lost, behind, learned = (
        int(is_behind(x).sum()) for x in (of(BEHIND, "recall"), of(BEHIND), of(LEARNED))
    )
    holds = lost > 0 and not behind and learned == len(of(LEARNED))
    return (
        f"The control {'holds' if holds else 'does not hold'} (more than one pair): with the key "
        f"first the LSTM is behind two layers at {behind} of {len(of(BEHIND))} numbers of pairs, "
        f"where on recall it is at {lost} (two layers − LSTM: {said(of(BEHIND))}); it is above a "
        f"guess among the stored values by {said(of(LEARNED))}, and above itself on the same "
        f"tokens with the key last by {said(of(ORDER))}."
    )


def interval(row: pd.Series) -> str:
    """A number with its interval, if it has one."""
    value, low, high = (format(row[c], ".2f") for c in ("value", "low", "high"))
    return value if value == low == high or low == "nan" else f"{value} [{low}, {high}]"
