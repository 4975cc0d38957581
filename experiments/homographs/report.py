"""Figures and summary of `homographs`."""

from collections.abc import Iterator

import pandas as pd

from experiments._probing import layers
from experiments._shared import Words
from interp.core.tables.scores import Scores
from interp.datasets.made.senses import ONE, TWO
from interp.runs import Run

words = Words(__file__)


def curve(
    table: pd.DataFrame,
    task: str,
    name: str = "",
    *,
    subset: str = "all",
    model: str = "trained",
    labels: str = "real",
    panel: str = "",
) -> pd.DataFrame:
    """The scores of the linear probes of one question, under the name of a curve."""
    asked = {"probe": "linear", "metric": "accuracy", "task": task, "subset": subset}
    asked |= {"model": model, "labels": labels}
    kept = (table[list(asked)] == pd.Series(asked)).all(axis=1)
    return table[kept].assign(curve=name, panel=panel)


def draw(run: Run, scores: Scores) -> None:
    """Every figure, with its table beside it."""
    table = scores.summary()
    chance = pd.DataFrame([{"curve": "majority", "value": 0.5}])
    web = table.query("task == 'noun-verb'").assign(curve="majority of the web text")
    places = {"at the target": "sense", "at the word before": "sense, word before"}

    def with_controls(task: str, name: str) -> list[pd.DataFrame]:
        return [
            curve(table, task, name),
            curve(table, task, f"{name}, control task", labels="control"),
            curve(table, task, f"{name}, untrained model", model="random"),
        ]

    def by_place(subset: str, distances: tuple[int, ...]) -> list[pd.DataFrame]:
        return [
            curve(table, task, f"{n} words", subset=f"{subset}, {n} words", panel=place)
            for place, task in places.items()
            for n in distances
        ]

    def figure(
        name: str, curves: list[pd.DataFrame], levels: pd.DataFrame, ylabel: str = "accuracy"
    ) -> None:
        shown = pd.concat(curves)
        panel = "panel" if shown["panel"].any() else None
        layers(run, name, shown, levels, hue="curve", panel=panel, ylabel=ylabel)

    uses = [
        *with_controls("use, new wordings", "new wordings"),
        curve(table, "use, same wordings", "same wordings"),
        curve(table, "use, same wordings", "same wordings, untrained model", model="random"),
        curve(table, "use, cue after", "cue only after"),
    ]
    figure("uses", uses, chance)
    transfer = {
        "UD probe on homographs": "use, probe of UD",
        "UD probe on web text": "noun-verb, probe of UD",
        "homograph probe on web text": "noun-verb, probe of homographs",
    }
    figure("web-text", [curve(table, task, name) for name, task in transfer.items()], web)
    neighbour = curve(table, "sense, word before", "at the word before")
    figure("senses", [*with_controls("sense", "at the target"), neighbour], chance)
    figure("senses-by-distance", by_place("one cue", ONE), chance)
    either = chance.assign(curve="either cue")
    figure("senses-in-conflict", by_place("conflict", TWO), either, "decided by the near cue")


def summarise(name: str, scores: Scores) -> str:
    """The result in one paragraph of numbers with their intervals."""
    table = scores.summary()
    first, use = chosen(scores, "use, new wordings")
    _, sense = chosen(scores, "sense")

    def row(task: str, site: str, **others: str) -> pd.Series:
        return curve(table, task, **others).set_index("site").loc[site]

    def over(subset: str, distances: tuple[int, ...]) -> str:
        found = [(n, row("sense", sense, subset=f"{subset}, {n} words")) for n in distances]
        return ", ".join(words("at distance", row=score, n=n) for n, score in found)

    def random(task: str) -> pd.Series:
        """The best of its layers: more than the untrained model deserves."""
        of = curve(table, task, model="random")
        return of.loc[of["value"].idxmax()]

    bank = [row("sense", sense, subset=f"bank: conflict, {n} words")["value"] for n in TWO]
    said = words(
        "summary",
        name=name,
        use=row("use, new wordings", use),
        first=row("use, new wordings", first),
        embedding=row("use, new wordings", "0.resid_pre"),
        random=random("use, new wordings"),
        control=row("use, new wordings", use, labels="control"),
        same=row("use, same wordings", use),
        same_random=random("use, same wordings"),
        after=row("use, cue after", use),
        of_ud=row("use, probe of UD", use),
        web_of_ud=row("noun-verb, probe of UD", use),
        web_of_homographs=row("noun-verb, probe of homographs", use),
        web=table.query("task == 'noun-verb'").iloc[0],
        sense=row("sense", sense),
        before=row("sense, word before", sense),
        by_distance=over("one cue", ONE),
        conflict=over("conflict", TWO),
        bank=", ".join(f"{value:.2f}" for value in bank),
        agree=over("agree", TWO),
    )
    return f"{words('title', name=name)}\n\n{said}"


def chosen(scores: Scores, task: str) -> tuple[str, str]:
    """The first site that is nearly the best on the development lemmas, and the best."""
    dev = scores.query(
        f"task == '{task}' and subset == 'dev' and model == 'trained' and labels == 'real'"
    ).summary()
    best = dev.loc[dev["value"].idxmax()]
    near = dev[dev["value"] >= best["value"] - 0.02]
    return str(near.loc[near["depth"].idxmin(), "site"]), str(best["site"])


def shown(run: Run) -> Iterator[pd.DataFrame]:
    """The best site of each question."""
    columns = ["task", "subset", "site", "value", "low", "high", "n", "clusters"]
    table = (
        run.scores()
        .query("metric == 'accuracy' and subset != 'dev' and labels == 'real'")
        .query("model != 'random'")
        .summary()
        .sort_values("value", ascending=False)
    )
    yield table.groupby(["task", "subset"], sort=False).head(1)[columns]
