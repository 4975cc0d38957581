"""The figures and the paragraph of `coreference`."""

from collections.abc import Iterator

import pandas as pd

import interp
from experiments._probing import layers
from experiments._shared import Words
from experiments.coreference.decode import SEEN
from experiments.coreference.order import of_order, over_seeds
from experiments.coreference.panel import (
    ATTENDED,
    CONTROLLED,
    DECODABLE,
    ERASED,
    LESS,
    NAMING,
    PROBE,
    PRONOUN,
    RANDOM,
    SAYING,
    TASKED,
    USES,
    levels,
    summary,
)
from interp.core.tables.results import Results
from interp.core.tables.scores import Scores
from interp.figures.beside import beside
from interp.figures.drawing import style
from interp.heads import compare_heads
from interp.probing.ask.coreference import TASK
from interp.runs import Run

say = Words(__file__)
GONE, LEFT = 0.6, 0.25
"""A property of two classes counts as erased where a probe is right no more often than this, and
no more of the distance of the classes is left."""


def draw(
    run: Run,
    scores: Scores,
    order: Scores,
    reads: Scores,
    panel: pd.DataFrame,
    less: pd.DataFrame,
    expected: pd.DataFrame,
) -> None:
    """Every figure, with its table beside it.

    side-by-side.csv has the paired differences too, and what a probe reads after the erasures.
    What is lost is a share of the logit difference of the clean run.
    """
    baselines, left = levels(scores), reads.summary()
    left = left.assign(
        layer=left["depth"],
        panel=left["task"] + ", held-out wordings",
        curve=left["probe"] + ", " + left["subset"],
        couples="all",
    )[["panel", "curve", "layer", "value", "low", "high", "site", "n", "clusters", "couples"]]
    run.figure(
        "side-by-side",
        beside(
            panel,
            panel="panel",
            hue="curve",
            control="control",
            baselines=baselines,
            ylabels={
                DECODABLE: "decodable\n(accuracy)",
                ATTENDED: "attended\n(accuracy)",
                ERASED: "used: gender\n(share lost)",
                NAMING: "used: head, to\nname (share lost)",
                SAYING: "used: head, to\nsay (share lost)",
            },
        ),
        pd.concat([panel, baselines, less, left]),
    )
    table = scores.query("labels == 'real' and metric == 'accuracy'").summary()
    probes = table[
        table["probe"].isin(["span pair", "bilinear"]) & ~table["subset"].isin(["all", "dev", SEEN])
    ]
    untrained_too = probes["model"].map({"trained": "", "random": ", untrained model"})
    probes = probes.assign(curve=probes["probe"] + untrained_too)
    others = table[(table["task"] == TASK) & table["layer"].isna()]
    others = others.assign(curve=others["probe"])
    layers(run, "kinds", probes, others, hue="curve", panel="subset")
    cumulative = over_seeds(order).summary()
    ylabel = "accuracy, mixed layers"
    figure = interp.figures.layers(cumulative, hue="task", ylabel=ylabel)
    run.figure("order", figure, pd.concat([cumulative, expected]))


def summarise(
    model: interp.Model,
    scores: Scores,
    looks: Scores,
    reads: Scores,
    panel: pd.DataFrame,
    less: pd.DataFrame,
    uses: pd.DataFrame,
    expected: pd.DataFrame,
    does: Results,
) -> str:
    """The result in one paragraph of numbers with their intervals."""
    at = summary(does).set_index(["method", "position", "metric"]).sort_index()
    said, named = (at.loc[(f"say {who}", "clean")] for who in ("pronoun", "antecedent"))
    own = [method for method, curve in USES.items() if not curve.control]
    sentences = [
        of_probe(model, scores, panel, less),
        *(looks_there(looks, task) for task in (PRONOUN, CONTROLLED)),
        say(
            "behaviour",
            said=said.loc["accuracy"],
            by=said.loc["logit_diff"],
            named=named.loc["accuracy"],
            named_by=named.loc["logit_diff"],
        ),
        *(loses(uses, method, reads) for method in own),
        of_order(expected),
        say("brackets"),
    ]
    return f"{say('title', name=model.name)}\n\n{' '.join(sentences)}"


def of_probe(model: interp.Model, scores: Scores, panel: pd.DataFrame, less: pd.DataFrame) -> str:
    """What is decodable after the layer that the development novels prefer."""
    curves = {name: part.set_index("layer") for name, part in panel.groupby("curve")}
    spans = scores.query("probe == 'span pair' and model == 'trained'")
    best = spans.query("subset == 'dev' and labels == 'real'").best()["depth"]
    low = levels(scores).set_index(["panel", "curve"]).loc[DECODABLE]
    at_best = spans.query(f"depth == {best}")
    kinds = at_best.query(f"labels == 'real' and subset not in ['all', 'dev', '{SEEN}']").summary()
    selective = less[(less["curve"] == PROBE) & (less["layer"] == best)].iloc[0]
    known = at_best.query(f"subset == '{SEEN}'").summary().set_index("labels")
    on_known = ""
    if len(known):
        real, control = known.loc["real"], known.loc["control"]
        on_known = say("forms seen", real=real, control=control, all=selective)
    return say(
        "probe",
        name=model.name,
        layer=best,
        layers=model.facts.n_layers,
        best=curves[PROBE].loc[best],
        kinds=say.each("kind", kinds),
        control=curves[TASKED].loc[best],
        selective=selective,
        on_known=on_known,
        embedding=curves[PROBE].loc[0],
        match=low.loc["head match"],
        gender=low.loc["gender and number"],
        random=curves[RANDOM]["value"].max(),
    )


def looks_there(looks: Scores, task: str) -> str:
    """The head that looks at the antecedent, if it does better than a method without a model."""
    table = compare_heads(looks.query(f"task == '{task}'"))
    row = table[table["chosen"]].iloc[0]
    return say(
        "looks" if row["q"] < style.ALPHA and row["difference"] > 0 else "not shown to look",
        where=say("novels" if task == PRONOUN else "two people"),
        row=row,
        against=say("against", row=row, heads=len(table)),
    )


def loses(uses: pd.DataFrame, method: str, reads: Scores) -> str:
    """Where an intervention costs most, with its control and what it does beyond that."""
    at = uses.set_index(["method", "couples"])
    layer = at.loc[(method, "choose")].set_index("layer")["value"].idxmax()

    def of(name: str) -> pd.Series:
        return at.loc[(name, "report")].set_index("layer").loc[layer]

    own = USES[method]
    of_own = (own.panel, own.name)
    less = next(name for name, curve in LESS.items() if curve == own)
    control = next(name for name, c in USES.items() if (c.panel, c.control) == of_own)
    erased = method.startswith("erase")
    found = say(
        "loses",
        what=say(method),
        row=of(method),
        layer=layer,
        head="" if erased else f" ({of(method)['site']})",
        others=say("other directions" if erased else "other heads"),
        control=of(control),
        beyond=of(less),
    )
    if not erased:
        return f"{found}."
    drawn = of(method.replace("leace", "leace - control task"))
    return say("erased", found=found, drawn=drawn, left=left_there(reads, method, layer))


def left_there(reads: Scores, method: str, layer: int) -> str:
    """What a probe still reads after an erasure in the wordings reported."""
    place = method.partition(", at ")[2]
    there = reads.query(f"task == 'gender at {place}' and depth == {layer}").summary()
    table = there.set_index(["probe", "subset"])["value"].to_dict()
    before, after = table["linear", "before"], table["linear", "after"]
    left = table["class means", "after"]
    gone = "gone" if after <= GONE and left <= LEFT else "lower bound"
    numbers = say("left", after=after, before=before, left=left)
    return say("hardly anything" if before <= GONE else gone, numbers=numbers)


def shown(run: Run) -> Iterator[pd.DataFrame]:
    """What is drawn, a row for each curve."""
    table = pd.read_csv(run.folder / "figures" / "side-by-side.csv")
    table = table.dropna(subset=["layer"]).query("couples.isna()")
    wide = table.pivot(index="layer", columns=["panel", "curve"], values="value").T
    yield wide.reset_index()
