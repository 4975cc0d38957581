"""Figures and words of `vision`."""

from collections.abc import Mapping

import pandas as pd

import interp
from experiments._shared import Words
from experiments.vision.measured import PATCHES as ALL
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
SHOWN, MOST = 8, 3
"""Heads in the figure of patches, and places in a sentence."""


def draw(run: Run, tables: Mapping[str, Results], scores: Scores, *, seed: int) -> None:
    """Every figure, with its table beside it; heads are chosen on the first half of the images."""
    lost = tables["lost"].query(LOGITS)
    run.figure("lost", interp.figures.heads(lost), lost.summary())
    choose, _ = tables["lost"].split(seed=seed)
    heads = choose.query(f"kind == 'z' and {LOGITS}").summary().nsmallest(SHOWN, "effect")["site"]
    asked = f"site in {sorted(heads)}"
    for name, chosen in (("brought", asked), ("attended", asked), ("by layer", "head.isna()")):
        _, half = tables["attended" if name == "attended" else "brought"].split(seed=seed)
        shown = half.query(f"{chosen} and position != '{ALL}'")
        run.figure(name.replace(" ", "-"), interp.figures.patches(shown), _table(shown))
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
    choose, report = tables["brought"].split(seed=seed)
    keys = ["site", "position"]
    table = report.summary()
    _, looking = tables["attended"].split(seed=seed)
    table = table.merge(
        looking.frame.groupby(keys)["value"].mean().rename("attention"), "left", keys
    )
    table = table.set_index(keys)
    first = choose.query("position.str.match('r')").summary()
    parts = {}
    for name, of in (("head", first["head"].notna()), ("layer", first["head"].isna())):
        ranked = list(first[of].nsmallest(MOST, "effect")[keys].itertuples(index=False, name=None))
        measured = table.loc[list(first[of][keys].itertuples(index=False, name=None))]
        parts[f"{name}s"] = words.each(f"by {name}", table.loc[ranked].reset_index(), by="; ")
        parts |= {f"{name}_n": int((measured["q"] < ALPHA).sum()), f"{name}_of": len(measured)}
    whole = table[table.index.get_level_values("position") == ALL].reset_index()
    fitted = agreement(looking, report, seed=seed)
    return words(
        "brought",
        **parts,
        whole=words.each("whole", whole[whole["head"].isna()], by="; "),
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
