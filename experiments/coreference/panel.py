"""Decodable, attended and used, layer by layer, in one table."""

from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd

from experiments.coreference.use import PLACES
from interp.core.parts.sites import depth_of
from interp.core.sampling.halves import halves
from interp.core.tables.results import Results
from interp.core.tables.scores import Scores
from interp.probing import beyond, by_kind
from interp.probing.ask.coreference import TASK

PRONOUN, CONTROLLED = "antecedent of pronoun", "he or she, controlled"
DECODABLE, ATTENDED = "decodable", "attended"
ERASED, NAMING, SAYING = "gender erased", "heads, naming who is meant", "heads, saying the pronoun"
BEYOND = "beyond the control"


@dataclass(frozen=True)
class Curve:
    """What is drawn as one curve.

    Attributes:
        panel, name: where, and as what.
        control: the name of the curve that it is the control of.
    """

    panel: str
    name: str
    control: str = ""


PROBE, TASKED, RANDOM = "span-pair probe", "control task", "untrained model"
AT_NOUN, AT_END = "erased at the noun", "erased at the end"
MEAN, PATCH, PATH = "mean at the pronoun", "twin's value there", "its path to the logits"
MEANS, DIRECT = "mean, everywhere", "path to the logits"
CURVES = {  # by probe, model, and labels or task
    ("span pair", "trained", "real"): Curve(DECODABLE, PROBE),
    ("span pair", "trained", "control"): Curve(DECODABLE, TASKED, PROBE),
    ("span pair", "random", "real"): Curve(DECODABLE, RANDOM),
    ("attention", "trained", PRONOUN): Curve(ATTENDED, "best head, novels"),
    ("attention", "trained", CONTROLLED): Curve(ATTENDED, "best head, two people"),
}
USES = {
    "erase leace, at the noun": Curve(ERASED, AT_NOUN),
    "erase same variance, at the noun": Curve(ERASED, "same variance, at the noun", AT_NOUN),
    "erase leace, at the end": Curve(ERASED, AT_END),
    "erase same variance, at the end": Curve(ERASED, "same variance, at the end", AT_END),
    "mean of best, say antecedent": Curve(NAMING, MEAN),
    "mean of others, say antecedent": Curve(NAMING, "other heads: mean", MEAN),
    "patch of best, say antecedent": Curve(NAMING, PATCH),
    "patch of others, say antecedent": Curve(NAMING, "other heads: twin's", PATCH),
    "path of best, say antecedent": Curve(NAMING, PATH),
    "path of others, say antecedent": Curve(NAMING, "other heads: path", PATH),
    "mean of best, say pronoun": Curve(SAYING, MEANS),
    "mean of others, say pronoun": Curve(SAYING, "other heads: mean", MEANS),
    "path of best, say pronoun": Curve(SAYING, DIRECT),
    "path of others, say pronoun": Curve(SAYING, "other heads: path", DIRECT),
}
LESS = {  # the paired differences, by the curve that they are of
    "erase leace - same variance, at the noun": USES["erase leace, at the noun"],
    "erase leace - same variance, at the end": USES["erase leace, at the end"],
    **{
        method.replace("of best", "of best - others"): curve
        for method, curve in USES.items()
        if "of best" in method
    },
}
COLUMNS = ["panel", "curve", "layer", "value", "low", "high", "site", "n", "clusters", "control"]


def side_by_side(scores: Scores, uses: pd.DataFrame) -> pd.DataFrame:
    """One row for each curve and layer: `panel`, `curve`, `control`, `layer`, `value`, ...

    A stream stands at the layers it has passed, and a head with the stream that it writes to.
    """
    table = scores.summary().dropna(subset=["layer"])
    table = table[table["subset"].isin(["all", "report"]) & (table["metric"] == "accuracy")]
    attention = table["probe"] == "attention"
    of = table["labels"].where(~attention, table["task"])
    found = [CURVES.get(key) for key in zip(table["probe"], table["model"], of, strict=True)]
    kept = np.array([curve is not None for curve in found])
    table = table.assign(layer=table["depth"].astype(int) + attention)
    table = named(cast(pd.DataFrame, table[kept]), [curve for curve in found if curve is not None])
    done = cast(pd.DataFrame, uses[(uses["couples"] == "all") & uses["method"].isin(USES)])
    done = named(done, [USES[method] for method in done["method"]])
    together = pd.concat([table[COLUMNS], done[COLUMNS]], ignore_index=True)
    order = [(curve.panel, curve.name) for curve in [*CURVES.values(), *USES.values()]]
    places = zip(together["panel"], together["curve"], strict=True)
    rank = [order.index(place) for place in places]
    rows = np.lexsort([together["layer"], rank])
    return cast(pd.DataFrame, together.iloc[rows].reset_index(drop=True))


def named(table: pd.DataFrame, curves: list[Curve]) -> pd.DataFrame:
    """With the panel, the curve and what it controls."""
    return table.assign(
        panel=[curve.panel for curve in curves],
        curve=[curve.name for curve in curves],
        control=[curve.control for curve in curves],
    )


def levels(scores: Scores) -> pd.DataFrame:
    """What methods without a model reach, by panel."""
    table = scores.query("metric == 'accuracy'").summary()
    table = table[table["layer"].isna() & table["subset"].isin(["all", "report"])]
    panel = table["task"].map({TASK: DECODABLE, PRONOUN: ATTENDED})
    table = table.assign(panel=panel, curve=table["probe"]).dropna(subset=["panel"])
    return table[["panel", "curve", "value", "low", "high"]]


def differences(scores: Scores, uses: pd.DataFrame) -> pd.DataFrame:
    """Each curve less its control, paired: selectivity, and what is beyond other directions, heads.

    Columns as of `side_by_side`, with `p` and `q` (over the layers of a curve) and `couples`:
    "all", or of interventions too the half that a layer is chosen on and the half reported.
    """
    spans = scores.query("probe == 'span pair' and model == 'trained' and subset == 'all'")
    selective = spans.query("labels == 'real'").minus(
        spans.query("labels == 'control'"), ignoring=["labels"]
    )
    selective = selective.assign(layer=selective["depth"])
    selective = named(selective, [Curve(BEYOND, PROBE)] * len(selective)).assign(couples="all")
    less = uses[uses["method"].isin(LESS)]
    curves = [LESS[method] for method in less["method"]]
    less = named(less, [Curve(f"{BEYOND}: {c.panel}", c.name) for c in curves])
    columns = [*COLUMNS, "p", "q", "couples"]
    return pd.concat([selective[columns], less[columns]], ignore_index=True)


def used(erased: Results, acts: Results, does: Results, *, seed: int = 0) -> pd.DataFrame:
    """What interventions take of the logit difference, as a share of that of the clean run.

    The mean of the clean run is taken as known: intervals are of the effect.

    Returns:
        `method`, `couples` ("all"; and two halves of them, "choose" for the choice of a layer and
        "report" for what is said of it), `layer`, `value`, `low`, `high`, `p`, `q`, `site`, ...
    """
    couples = sorted({*erased.frame["cluster"], *acts.frame["cluster"]})
    first, second = halves([couples], seed=seed)
    names = np.array(couples)
    groups = {"all": names, "choose": names[first], "report": names[second]}
    parts = [
        shares(*(of_couples(one, group) for one in (erased, acts, does))).assign(couples=name)
        for name, group in groups.items()
    ]
    return pd.concat(parts, ignore_index=True)


def of_couples(results: Results, couples: np.ndarray) -> Results:
    """The rows of some couples of nouns."""
    frame = results.frame[results.frame["cluster"].isin(set(couples))]
    return Results(frame.reset_index(drop=True), results.provenance)


def shares(erased: Results, acts: Results, does: Results) -> pd.DataFrame:
    """Effects as shares of the clean run's logit difference that is lost."""
    table = pd.concat([compared(erased), compared(acts)], ignore_index=True)
    clean = summary(does.query("position == 'clean' and metric == 'logit_diff'"))
    base = clean.set_index("method")["value"]
    answer = table["method"].str.extract(r"say (\w+)$", expand=False).fillna("pronoun")
    per = -base.loc[[f"say {name}" for name in answer]].to_numpy()
    ends = np.sort(np.stack([table["low"] / per, table["high"] / per]), axis=0)
    depth = list(map(depth_of, table["site"]))
    inside = table["head"].notna().to_numpy()  # a head of layer l writes to the stream after it
    places = {place: f", at {name}" for place, name in PLACES.items()}
    where = table["position"].map(places).where(table["method"].str.startswith("erase"), "")
    return table.assign(
        method=table["method"] + where,
        layer=np.array(depth, dtype=int) + inside,
        value=table["effect"] / per,
        low=ends[0],
        high=ends[1],
    )


def compared(results: Results) -> pd.DataFrame:
    """What each kind of intervention does, and what beyond its control.

    Each by itself: the two kinds of answers have pairs of their own, and the places sites.
    """
    method = results.frame["method"].astype(str)
    stem = method.str.replace(r" of (best|others)| \d+$", "", regex=True)
    stem = stem.where(~method.str.startswith("erase "), "erase")
    tables = []
    for _, part in results.frame.groupby([stem, "position"], sort=False, dropna=False):
        one = Results(part.reset_index(drop=True), results.provenance)
        tables.append(by_kind(one))
        if 0 < part["draw"].notna().sum() < len(part):
            less = beyond(one)
            name = less["method"].str.replace(r" - \w+ of others.*", "", regex=True)
            name = name.where(name == less["method"], name.str.replace("best", "best - others"))
            tables.append(less.assign(method=name))
    return pd.concat(tables, ignore_index=True)


def summary(results: Results) -> pd.DataFrame:
    """Each method by itself: the two kinds of answers have pairs of their own."""
    parts = results.frame.groupby(["method", "position"], sort=False, dropna=False)
    tables = [Results(part, results.provenance).summary() for _, part in parts]
    return pd.concat(tables, ignore_index=True)
