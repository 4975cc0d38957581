"""Figures and summary of `number`."""

import interp
from experiments import _probing
from experiments._probing import by_depth, curves, halves, layers, strength
from experiments._shared import Words
from experiments.number.use import DOSES
from interp.core.parts.sites import depth_of
from interp.core.tables.results import Results
from interp.core.tables.scores import Scores
from interp.probing import beyond, by_kind
from interp.runs import Run

words = Words(__file__)


def draw(run: Run, tags: Scores, erased: Results, steered: Results) -> None:
    """Every figure, with its table beside it."""
    table = tags.query("metric == 'accuracy' and subset == 'all'").summary()
    linear = table["probe"] == "linear"
    probes = table[linear].assign(curve=lambda t: curves(t, real="number"))
    layers(run, "probes", probes, table[~linear].assign(curve=lambda t: t["probe"]), hue="curve")
    lost = by_depth(by_kind(erased))
    layers(run, "erasure", lost, hue="erased", panel="metric", ylabel="change by erasing")
    _probing.still_read(run, erased)
    moved = by_depth(steered.summary())
    told = [*(f"steer {dose:+g}" for dose in DOSES if dose), f"steer random {max(DOSES):+g}"]
    shown = moved[moved["erased"].isin(told)]
    figure = interp.figures.layers(shown, hue="erased", ylabel="logit difference added")
    run.figure("steering", figure, moved)


def summarise(model: interp.Model, tags: Scores, erased: Results, steered: Results) -> str:
    """The result in one paragraph of numbers with their intervals."""
    sentences = [
        of_probes(model, tags),
        of_erasing(erased),
        of_steering(steered),
        words("brackets"),
    ]
    return f"{words('title', name=model.name)}\n\n{' '.join(sentences)}"


def of_probes(model: interp.Model, tags: Scores) -> str:
    """What is decodable at the site that the development documents prefer."""
    linear = tags.query("model == 'trained' and probe == 'linear'")
    real, control = (linear.query(f"labels == '{name}'") for name in ("real", "control"))
    best = real.query("subset == 'dev'").best()["site"]
    test = tags.query("subset in ['all', 'unseen']").summary()
    at = test.set_index(["probe", "model", "labels", "subset", "site"]).sort_index()
    ours = at.loc[("linear", "trained", "real")]
    selective = [part.query(f"site == '{best}' and subset == 'all'") for part in (real, control)]
    return words(
        "probes",
        name=model.name,
        depth=depth_of(best),
        layers=model.facts.n_layers,
        best=ours.loc[("all", best)],
        unseen=ours.loc[("unseen", best)],
        embedding=ours.loc[("all", "0.resid_pre")],
        type=at.loc[("word type", "none", "real", "all", "")],
        majority=at.loc[("majority", "none", "real", "all", "")],
        random=at.loc[("linear", "random", "real", "all")]["value"].max(),
        selective=selective[0].minus(selective[1], ignoring=["labels"]).iloc[0],
    )


def of_erasing(erased: Results) -> str:
    """What the verbs lose after the layer where half of them lose most."""
    choose, report = halves(erased)
    logits = "metric == 'logit_diff'"
    worst = by_depth(by_kind(choose.query(logits))).query("erased == 'leace'")
    depth = worst.loc[worst["effect"].idxmin(), "layer"]
    more = by_depth(beyond(report.query(logits))).query(f"layer == {depth}").set_index("erased")
    took = []
    for metric in ("logit_diff", "accuracy"):
        lost = by_depth(by_kind(report.query(f"metric == '{metric}'"))).query(f"layer == {depth}")
        rows = {kind.replace(" ", "_"): row for kind, row in lost.set_index("erased").iterrows()}
        took.append(words("took", what=words(metric), **rows))
    kinds = ("random", "same variance", "control task")
    less = [words("beyond", row=more.loc[f"leace - {kind}"], name=words(kind)) for kind in kinds]
    return words(
        "erased",
        layer=depth,
        took="; ".join(took),
        less=", ".join(less),
        strength=strength(erased, depth, "number"),
    )


def of_steering(steered: Results) -> str:
    """How far the verbs are moved, likewise."""
    choose, report = halves(steered)
    away = by_depth(choose.summary()).query("erased == 'steer +1'")
    depth = away.loc[away["effect"].idxmin(), "layer"]
    moved = by_depth(report.summary()).query(f"layer == {depth}").set_index("erased")
    names = {"towards": "steer +1", "away": "steer -1", "random": "steer random +1"}
    rows = {name: moved.loc[method] for name, method in names.items()}
    return words("steered", layer=depth, **rows)
