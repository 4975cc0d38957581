"""Figures and summary of experiments/homographs.py."""

import pandas as pd

import interp
from interp.core.tables.scores import Scores
from interp.datasets.made.senses import ONE, TWO
from interp.runs import interval


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


def draw(run: interp.runs.Run, scores: Scores) -> None:
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
        drawn = interp.figures.layers(
            shown, hue="curve", baselines=levels, panel=panel, ylabel=ylabel
        )
        run.figure(name, drawn, pd.concat([shown, levels]))

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

    def at(task: str, site: str, **others: str) -> str:
        return interval(row(task, site, **others))

    def over(subset: str, distances: tuple[int, ...]) -> str:
        found = [(n, row("sense", sense, subset=f"{subset}, {n} words")) for n in distances]
        return ", ".join(f"{interval(score)} at {n}" for n, score in found)

    def random(task: str) -> str:
        """The best of its layers: more than the untrained model deserves."""
        of = curve(table, task, model="random")
        return interval(of.loc[of["value"].idxmax()])

    before = interval(row("sense, word before", sense))
    web = table.query("task == 'noun-verb'")["value"].iloc[0]
    bank = [row("sense", sense, subset=f"bank: conflict, {n} words")["value"] for n in TWO]
    sentences = [
        f"Noun or verb in {name}: with the deciding words before it, the use of a homograph is "
        f"read off with {at('use, new wordings', use)} accuracy at layer "
        f"{row('use, new wordings', use)['layer']}, the best on development lemmas; lemma and "
        f"wording are new to the probe. Layer {row('use, new wordings', first)['layer']} is the "
        f"first within 0.02 of it there ({at('use, new wordings', first)}). The embedding gives "
        f"{at('use, new wordings', '0.resid_pre')}, an untrained model at best "
        f"{random('use, new wordings')}, the control task "
        f"{at('use, new wordings', use, labels='control')}. In wordings that the probe was trained "
        f"on it has {at('use, same wordings', use)}, but an untrained model too has "
        f"{random('use, same wordings')}.",
        "With the deciding words only after the target the accuracy is "
        f"{at('use, cue after', use)}: a causal model has the same activations for both uses.",
        f"Probes of UD EWT read the homographs with {at('use, probe of UD', use)}; on the "
        f"noun-verb web text they have {at('noun-verb, probe of UD', use)} and those of the "
        f"homographs {at('noun-verb, probe of homographs', use)}, where the majority has "
        f"{web:.3f}.",
        f"The sense of a word (nature or culture) is best read at layer "
        f"{row('sense', sense)['layer']}: {at('sense', sense)}, and at the word before the target "
        f"{before}; by the words between the cue and the target: {over('one cue', ONE)}.",
        "Of two cues that disagree the near one, 5 words before the target, decides in "
        f"{over('conflict', TWO)} words to the far one (for 'bank' alone: "
        f"{', '.join(f'{value:.2f}' for value in bank)}); where they agree, that sense is read in "
        f"{over('agree', TWO)}.",
        "Brackets are 95 % intervals over lemmas (over documents on the web text).",
    ]
    return f"# Noun or verb, money or river, in {name}\n\n{' '.join(sentences)}\n"


def chosen(scores: Scores, task: str) -> tuple[str, str]:
    """The first site that is nearly the best on the development lemmas, and the best."""
    dev = scores.query(
        f"task == '{task}' and subset == 'dev' and model == 'trained' and labels == 'real'"
    ).summary()
    best = dev.loc[dev["value"].idxmax()]
    near = dev[dev["value"] >= best["value"] - 0.02]
    return str(near.loc[near["depth"].idxmin(), "site"]), str(best["site"])
