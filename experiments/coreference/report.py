"""The figures and the paragraph of experiments/coreference.py."""

import pandas as pd
from coreference_decode import SEEN
from coreference_order import interval, of_order, over_seeds
from coreference_panel import (
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

import interp
from interp.core.tables.results import Results
from interp.core.tables.scores import Scores
from interp.figures.beside import beside
from interp.figures.drawing import style
from interp.heads.looking.relations import compare_heads
from interp.probing.ask.coreference import TASK

GONE, LEFT = 0.6, 0.25
"""A property of two classes counts as erased where a probe is right no more often than this, and
no more of the distance of the classes is left."""
SENTENCES = {
    "erase leace, at the noun": "Gender erased at the noun",
    "erase leace, at the end": "Gender erased at the end",
    "mean of best, say antecedent": "To name the one whom a read pronoun means, a layer's best "
    "head, set to its mean at the pronoun,",
    "patch of best, say antecedent": "The head's value at the pronoun of the twin prompt, put in,",
    "path of best, say antecedent": "Its direct path to the logits",
    "mean of best, say pronoun": "To say the pronoun oneself (no pronoun is read, so this asks for "
    "another use), the head set to its mean everywhere",
    "path of best, say pronoun": "Its direct path to the logits",
}


def draw(
    run: interp.runs.Run,
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
    others = table[(table["task"] == TASK) & table["layer"].isna()].assign(
        curve=lambda t: t["probe"]
    )
    run.figure(
        "kinds",
        interp.figures.layers(probes, hue="curve", baselines=others, panel="subset"),
        pd.concat([probes, others]),
    )
    cumulative = over_seeds(order).summary()
    run.figure(
        "order",
        interp.figures.layers(cumulative, hue="task", ylabel="accuracy, mixed layers"),
        pd.concat([cumulative, expected]),
    )


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
    said = summary(does).set_index(["method", "position", "metric"])
    says = said.loc["say pronoun"]
    sentences = [
        of_probe(model, scores, panel, less),
        *(looks_there(looks, task) for task in (PRONOUN, CONTROLLED)),
        "On minimal pairs the model says the pronoun of the one who is meant in "
        f"{interval(says.loc[('clean', 'accuracy')])} (logit difference "
        f"{interval(says.loc[('clean', 'logit_diff')])}), and names the one whom a pronoun means "
        f"in {interval(said.loc[('say antecedent', 'clean', 'accuracy')])} (logit difference "
        f"{interval(said.loc[('say antecedent', 'clean', 'logit_diff')])}).",
        *(loses(uses, method, reads) for method in SENTENCES),
        of_order(expected),
        "Brackets are 95 % intervals over novels, documents or couples of nouns. Of "
        "interventions, the layer is chosen on one half of the couples, and the numbers are of the "
        "other; the wordings are none that an erasure was fitted to. A control is eight draws of "
        "directions, or five other heads of the layer; its interval is of one more, and so is that "
        "of what is beyond it.",
    ]
    return f"# Coreference in {model.name}\n\n{' '.join(sentences)}\n"


def of_probe(model: interp.Model, scores: Scores, panel: pd.DataFrame, less: pd.DataFrame) -> str:
    """What is decodable after the layer that the development novels prefer."""
    curves = {name: part.set_index("layer") for name, part in panel.groupby("curve")}
    spans = scores.query("probe == 'span pair' and model == 'trained'")
    best = spans.query("subset == 'dev' and labels == 'real'").best()["depth"]
    low = levels(scores).set_index(["panel", "curve"])["value"]
    at_best = spans.query(f"depth == {best}")
    kinds = at_best.query(f"labels == 'real' and subset not in ['all', 'dev', '{SEEN}']").summary()
    selective = less[(less["curve"] == PROBE) & (less["layer"] == best)].iloc[0]
    known = at_best.query(f"subset == '{SEEN}'").summary().set_index("labels")
    on_known = (
        f"; of pairs whose forms were seen in training ({known['n'].iloc[0]} of "
        f"{selective['n']}) it has {known.loc['real', 'value']:.2f} and "
        f"{known.loc['control', 'value']:.2f}"
        if len(known)
        else ""
    )
    return (
        f'Who does "he" refer to, in {model.name}? Of two mentions of a novel, at distances that '
        f"tell nothing (chance 0.5), a span-pair probe says after layer {best} of "
        f"{model.facts.n_layers} (the best on other novels) whether they corefer: "
        f"{interval(curves[PROBE].loc[best])} ("
        + ", ".join(f"{row['subset']} {row['value']:.2f}" for _, row in kinds.iterrows())
        + f"); the control task, a label drawn for each pair of forms, has "
        f"{interval(curves[TASKED].loc[best])}, so the selectivity is {interval(selective)}"
        f"{on_known}. The embedding has {interval(curves[PROBE].loc[0])}, head match "
        f"{low[DECODABLE, 'head match']:.2f}, gender and number "
        f"{low[DECODABLE, 'gender and number']:.2f}, the untrained model at best "
        f"{curves[RANDOM]['value'].max():.2f}."
    )


def looks_there(looks: Scores, task: str) -> str:
    """The head that looks at the antecedent, if it does better than a method without a model."""
    table = compare_heads(looks.query(f"task == '{task}'"))
    row = table[table["chosen"]].iloc[0]
    where = "In novels" if task == PRONOUN else "Between two people of different gender"
    baseline = f"{row['baseline']} {row['baseline_value']:.2f}"
    low, high = row["difference_low"], row["difference_high"]
    gap = interval({"value": row["difference"], "low": low, "high": high})
    against = (
        f"{interval(row)} on the half that it was not chosen on, against {baseline}: a difference "
        f"of {gap}, one-sided q = {row['q']:.2g} over all {len(table)} heads"
    )
    if row["q"] < style.ALPHA and row["difference"] > 0:
        return f"{where} {row['site']} looks from a pronoun to its antecedent: {against}."
    return (
        f"{where} no head is shown to look from a pronoun to its antecedent better than a method "
        f"without a model does: {row['site']}, the best on one half, has {against}."
    )


def loses(uses: pd.DataFrame, method: str, reads: Scores) -> str:
    """Where an intervention costs most, with its control and what it does beyond that."""
    at = uses.set_index(["method", "couples"])
    choosing = at.loc[(method, "choose")].set_index("layer")["value"]
    layer = choosing.idxmax()

    def of(name: str) -> pd.Series:
        return at.loc[(name, "report")].set_index("layer").loc[layer]

    less = next(name for name, curve in LESS.items() if curve == USES[method])
    control = next(
        name
        for name, curve in USES.items()
        if (curve.panel, curve.control) == (USES[method].panel, USES[method].name)
    )
    row, beyond = of(method), of(less)
    erased = method.startswith("erase")
    head = "" if erased else f" ({row['site']})"
    others = "directions of the same variance" if erased else "other heads of the layer"
    found = (
        f"{SENTENCES[method]} takes {interval(row)} of the logit difference after layer "
        f"{layer}{head}, where {others} take {interval(of(control))}: "
        f"{interval(beyond)} beyond them (p = {beyond['p']:.2g})"
    )
    if not erased:
        return f"{found}."
    drawn = of(method.replace("leace", "leace - control task"))
    return (
        f"{found}, and {interval(drawn)} beyond LEACE of labels drawn for the nouns "
        f"(p = {drawn['p']:.2g}); {left_there(reads, method, layer)}."
    )


def left_there(reads: Scores, method: str, layer: int) -> str:
    """What a probe still reads after an erasure in the wordings reported."""
    place = method.partition(", at ")[2]
    there = reads.query(f"task == 'gender at {place}' and depth == {layer}").summary()
    table = there.set_index(["probe", "subset"])["value"].to_dict()
    before, after = table["linear", "before"], table["linear", "after"]
    left = table["class means", "after"]
    numbers = (
        f"a linear probe of held-out wordings there reads the gender in {after:.2f} (before "
        f"{before:.2f}), and {left:.2f} of the distance of the classes is left"
    )
    if before <= GONE:
        return f"there was hardly anything to erase: {numbers}"
    if after <= GONE and left <= LEFT:
        return f"it is gone: {numbers}"
    return f"it is not all gone, so this is a lower bound: {numbers}"
