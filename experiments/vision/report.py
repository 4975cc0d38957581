"""Figures and words of `vision`."""

from collections.abc import Mapping

import pandas as pd

import interp
from experiments._shared import Words
from experiments.vision.measured import TAKEN, agreement
from experiments.vision.probes import CLASS, PATCHES, PIXELS, SHUFFLED
from interp.core.sampling import stats
from interp.core.tables.results import Results
from interp.core.tables.scores import Scores
from interp.figures.drawing.style import ALPHA
from interp.models.model import Model
from interp.runs import Run

words = Words(__file__)
LOGITS = "metric == 'logit_diff'"
SHOWN = 8
"""Heads in the figure of patches; and pairs of head and patch in a sentence: half as many."""


def draw(run: Run, tables: Mapping[str, Results], scores: Scores, *, seed: int) -> None:
    """Every figure, with its table beside it; heads are chosen on the first half of the images."""
    lost = tables["lost"].query(LOGITS)
    run.figure("lost", interp.figures.heads(lost), lost.summary())
    choose, report = tables["lost"].split(seed=seed)
    heads = choose.query(f"kind == 'z' and {LOGITS}").summary().nsmallest(SHOWN, "effect")["site"]
    asked = f"site in {sorted(heads)}"
    for name in ("brought", "attended"):
        _, shown = tables[name].split(seed=seed)
        shown = shown.query(f"{asked} and metric in ['logit_diff', 'attention']")
        run.figure(name, interp.figures.patches(shown), _table(shown))
    curves = read(scores)
    linear, level = curves["layer"].notna(), curves["curve"].isin(["majority", PIXELS])
    run.figure(
        "probes",
        interp.figures.layers(curves[linear & ~level], hue="curve", baselines=curves[level]),
        curves,
    )


def _table(shown: Results) -> pd.DataFrame:
    if (shown.frame["method"] == "attention").all():
        return shown.frame.groupby(["site", "position"], as_index=False)["value"].mean()
    return shown.summary()


def read(scores: Scores) -> pd.DataFrame:
    """Accuracies on the test images by what was read: `curve`, and its `layer` (layers passed)."""
    table = scores.query("metric == 'accuracy' and subset == 'all'").summary()
    table = table[(table["probe"] == "linear") | (table["task"] == CLASS)]
    random = table["model"].map({"random": ", untrained model"}).fillna("")
    curve = (table["task"] + random).where(table["probe"] == "linear", table["probe"])
    return table.assign(curve=curve, layer=table["depth"]).reset_index(drop=True)


def summarise(
    model: Model,
    tables: Mapping[str, Results],
    sets: Results,
    scores: Scores,
    right: Results,
    *,
    seed: int,
) -> str:
    """What was found, in words."""
    parts = [
        words("title", layers=model.facts.n_layers, heads=model.facts.n_heads),
        words("told", row=accuracy(right), n=len(right.frame)),
        _lost(tables["lost"], sets, seed=seed),
        _brought(tables, seed=seed),
        _probes(scores),
        words("brackets", alpha=ALPHA),
    ]
    return "\n\n".join(parts)


def accuracy(right: Results) -> pd.Series:
    """The share of images whose class scores above all others."""
    hit = (right.frame["value"].to_numpy() == 0).astype(float)
    low, high = stats.mean_interval(hit[None], right.frame["example"].to_numpy())
    return pd.Series({"value": hit.mean(), "low": low[0], "high": high[0]})


def _lost(lost: Results, sets: Results, *, seed: int) -> str:
    choose, report = (half.query(LOGITS) for half in lost.split(seed=seed))
    ranked = choose.query("kind == 'z'").summary().nsmallest(TAKEN, "effect")["site"].tolist()
    table = report.summary().set_index("site")
    heads = table[table["kind"] == "z"]
    together = interp.causal.beside_random(sets, seed=seed)
    both = together.set_index("metric")
    return words(
        "lost",
        base=float(table["base"].iloc[0]),
        n=int((heads["q"] < ALPHA).sum()),
        of=len(heads),
        chosen=words.each("head", heads.loc[ranked].reset_index(), by="; "),
        mlps=words.each("head", table[table["kind"] == "mlp_out"].reset_index(), by="; "),
        taken=TAKEN,
        row=both.loc["logit_diff"],
        prob=both.loc["prob"],
    )


def _brought(tables: Mapping[str, Results], *, seed: int) -> str:
    choose, report = (half.query(LOGITS) for half in tables["brought"].split(seed=seed))
    keys = ["site", "position"]
    ranked = choose.summary().nsmallest(SHOWN // 2, "effect")[keys].apply(tuple, axis=1)
    table = report.summary().set_index(keys)
    _, looking = tables["attended"].split(seed=seed)
    looks = looking.frame.groupby(keys)["value"].mean()
    best = table.loc[list(ranked)].assign(attention=looks).reset_index()
    fitted = agreement(looking, report, seed=seed)
    patches = table[table.index.get_level_values("position") != "cls"]
    return words(
        "brought",
        n=int((patches["q"] < ALPHA).sum()),
        of=len(patches),
        each=words.each("patch", best, by="; "),
        rank=pd.Series(fitted),
        verdict=words("looks" if fitted["low"] > 0 else "looks not"),
    )


def _probes(scores: Scores) -> str:
    table = read(scores)
    of = {name: part.sort_values("layer") for name, part in table.groupby("curve")}
    last = {name: part.iloc[-1] for name, part in of.items()}
    return words(
        "probes",
        layers=words.each("layer", of[CLASS]),
        patches=words.each("layer", of[PATCHES]),
        pixels=last[PIXELS],
        shuffled=last[SHUFFLED],
        untrained=last[f"{CLASS}, untrained model"],
        majority=last["majority"]["value"],
    )
