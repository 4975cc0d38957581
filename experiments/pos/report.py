"""Figures and summary of `pos`."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

import interp
from experiments import _probing
from experiments._probing import by_depth, curves, halves, layers, strength
from experiments._shared import Words
from experiments.pos.probes import FEWER
from interp.core.parts.sites import Site
from interp.core.tables.scores import Scores
from interp.probing import beyond, by_kind
from interp.runs import Run

words = Words(__file__)


def draw(run: Run, scores: Scores, used: interp.Results) -> None:
    """Every figure, with its table beside it."""
    table = scores.summary()
    names = {"all": "all words", "unseen": "unseen word types"}
    right = table[(table["metric"] == "accuracy") & table["subset"].isin(list(names))]
    linear = right[right["probe"] == "linear"]
    levels = right[right["probe"].isin(["majority", "word type"])]
    linear, levels = (
        part.assign(curve=curve, words=part["subset"].map(names))
        for part, curve in ((linear, curves(linear)), (levels, levels["probe"]))
    )
    layers(run, "accuracy", linear, levels, hue="curve", panel="words")
    of = scores.query("metric == 'accuracy' and subset == 'all' and layer >= 0")
    real, control = (of.query(f"labels == '{name}'") for name in ("real", "control"))
    selective = real.minus(control, ignoring=["labels"])
    selective = selective.assign(curve=selective["probe"] + ", " + selective["model"])
    layers(run, "selectivity", selective, hue="curve", ylabel="selectivity (accuracy)")
    bits = table[table["metric"] == "bits"]
    coded = bits[bits["probe"] == "linear"].assign(curve=curves)
    uniform = bits[bits["probe"] == "uniform"].assign(curve="uniform code")
    layers(run, "bits", coded, uniform, hue="curve", ylabel="bits per tag")
    stays = table.query("metric in ['variance share', 'between share']")
    layers(run, "persistence", stays, hue="probe", panel="metric", ylabel="share")
    lost, less = by_depth(by_kind(used)), by_depth(beyond(used))
    ylabel = "next-token loss added (nats, mean of rows)"
    layers(run, "erasure", lost, hue="erased", ylabel=ylabel)
    _probing.still_read(run, used)
    ylabel = "loss added beyond the control (nats)"
    layers(run, "beyond", less, hue="erased", ylabel=ylabel)


def summarise(
    model: interp.Model, scores: Scores, used: interp.Results, *, best: str, last: str
) -> str:
    """The result in one paragraph of numbers with their intervals."""
    table = scores.summary()
    test = table.query("metric == 'accuracy' and subset == 'all'")
    linear = test.query("probe == 'linear' and labels == 'real'").set_index(["model", "site"])
    unseen = table.query("subset == 'unseen' and labels == 'real'")
    unseen = unseen.set_index(["probe", "model", "site"])
    at_best = scores.query(
        f"model == 'trained' and site == '{best}' and metric == 'accuracy' and subset == 'all'"
    )
    real, control = (at_best.query(f"labels == '{name}'") for name in ("real", "control"))
    selective = real.minus(control, ignoring=["labels"]).set_index("probe")
    over = real.query("probe == 'linear'").minus(
        scores.query("probe == 'word type' and subset == 'all'")
    )
    depth = Site.parse(best).depth or 0
    bits = (
        table.query("metric == 'bits'").set_index(["probe", "model", "labels", "site"]).sort_index()
    )
    coded = bits.loc["linear", "trained", "real"]
    near = min(coded.index, key=lambda site: abs((Site.parse(site).depth or 0) - depth))
    stays = table.query("metric == 'between share'").set_index(["probe", "site"])
    given = scores.provenance["not converged"]
    doubtful = sum(np.sum(x) for x in (given if isinstance(given, list | tuple) else [given]))
    said = words(
        "probes",
        depth=depth,
        layers=model.facts.n_layers,
        best=linear.loc[("trained", best)],
        over=over.iloc[0],
        majority=test.query("probe == 'majority'")["value"].iloc[0],
        embedding=linear.loc[("trained", "0.resid_pre")],
        unseen=unseen.loc[("linear", "trained", best)],
        unseen_type=unseen.loc[("word type", "none", "")],
        random=linear.loc["random"]["value"].max(),
        selective=selective.loc["linear"],
        fewer=selective.loc[FEWER],
        mlp=selective.loc["mlp-1"],
        coded=coded.loc[near],
        near=near,
        coded_embedding=coded.loc["0.resid_pre"],
        uniform=bits.loc["uniform"]["value"].iloc[0],
        site=best,
        there=stays.loc[(f"probe of {best}", best)],
        end=stays.loc[(f"probe of {best}", last)],
        random_there=stays.loc[("random", best)],
        random_end=stays.loc[("random", last)],
        name=model.name,
    )
    ends = words("doubtful", n=doubtful) if doubtful else words("converged")
    sentences = [said, of_erasing(used), ends, words("brackets")]
    return f"{words('title', name=model.name)}\n\n{' '.join(sentences)}"


def of_erasing(used: interp.Results) -> str:
    """What the loss does without the tags, after the layer where half of the rows lose most."""
    choose, report = halves(used)
    worst = by_depth(by_kind(choose)).set_index(["erased", "layer"]).loc["leace"]["effect"].idxmax()
    lost = by_depth(by_kind(report)).query(f"layer == {worst}").set_index("erased")
    more = by_depth(beyond(report)).query(f"layer == {worst}").set_index("control")
    beside = [
        words("beside", name=words(kind), lost=lost.loc[kind], more=more.loc[kind])
        for kind in ("random", "same variance", "control task")
    ]
    said = words(
        "erased",
        layer=worst,
        lost=lost.loc["leace"],
        draws=lost.loc["random", "draws"],
        beside="; ".join(beside),
    )
    return f"{said} {strength(used, worst, 'the tag')}"


def shown(run: Run) -> Iterator[pd.DataFrame]:
    """The best site of each kind of probe."""
    columns = ["site", "probe", "model", "labels", "subset", "value", "low", "high", "n"]
    table = run.scores().query("metric == 'accuracy' and subset != 'dev'").summary()
    table = table.sort_values("value", ascending=False)
    groups = table.groupby(["probe", "model", "labels", "subset"])
    yield groups.head(1)[[*columns, "clusters"]]
