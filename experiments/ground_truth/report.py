"""Tables and words of the comparison with a known truth."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from experiments._shared import Words
from experiments.ground_truth.figures import MEASURES, methods_of
from experiments.ground_truth.setting import LEVELS, METHODS, WAYS, Ranking, node_of
from interp.causal.ranking.recovery import NOISE, Recovery
from interp.core.parts.circuit import Part
from interp.core.parts.edges import Edge
from interp.core.parts.sites import Site
from interp.core.sampling import stats

RAW = "auroc_raw"
RANKING = ["model", "ablation", "corruption", "method", "granularity", "level"]
CASE = ["model", "ablation", "corruption", "granularity"]
KNOWN = ("exact", "random")
"""Methods whose mistakes need no explanation."""
words = Words(__file__)


def standing(found: Sequence[Ranking]) -> pd.DataFrame:
    """Every part in every ranking.

    Columns: those that name the ranking, `part`, `what` (without its place), `true`, `share` (its
    score as a share of the largest, 0 where that is rounding), `wrong` (a true part that is no
    higher than some false one, a false one above some true one), `way` (how a true part acts),
    `slope`, the steepest softmax of the heads that attend by what they read, `raw`, the score with
    its sign, and `severed`: an edge into a head or MLP of whose true edges none scores.
    """
    tables = []
    for one in found:
        scores, true = one.scores, one.true
        lowest, highest = scores[true].min(), scores[~true].max()
        tables.append(
            pd.DataFrame(
                {
                    **one.names,
                    "part": list(map(str, one.parts)),
                    "what": [str(part.of) for part in one.parts],
                    "true": true,
                    "share": scores / (scores.max() or 1.0),
                    "wrong": np.where(true, scores <= highest, scores > lowest),
                    "way": [one.way(p) if t else "" for p, t in zip(one.parts, true, strict=True)],
                    "slope": max(one.slopes.values(), default=0.0),
                    "raw": one.raw,
                    "severed": [_leads_to(p) in one.severed for p in one.parts],
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def means(results: Recovery) -> pd.DataFrame:
    """Each method's means over truths, with 95 % intervals; truths are what is drawn again.

    Edges of one model depend on one another, so they are not resampled. `above` is the paired
    difference from the level's first method, the gradient at the clean prompt.
    """
    tables = []
    for level in LEVELS:
        here = results.frame[results.frame["level"] == level]
        for measure in (*MEASURES, RAW):
            wide = here.pivot_table(
                index="method", columns=CASE, values=measure, aggfunc="mean", sort=False
            )
            values = wide.to_numpy(dtype=float)
            low, high = stats.mean_interval(values, np.arange(values.shape[1]))
            above = values - wide.loc[METHODS[level][0]].to_numpy(dtype=float)
            least, most = stats.mean_interval(above, np.arange(values.shape[1]))
            numbers = {"value": values.mean(1), "low": low, "high": high}
            numbers |= {"above": above.mean(1), "above_low": least, "above_high": most}
            counts = {"perfect": (values == 1).sum(1), "truths": values.shape[1]}
            names = {"level": level, "method": wide.index, "measure": measure}
            tables.append(pd.DataFrame({**names, **numbers, **counts}))
    return pd.concat(tables, ignore_index=True)


def summarise(results: Recovery, table: pd.DataFrame, parts: pd.DataFrame) -> str:
    """What each method finds, what it misses, and why as far as the numbers say.

    Args:
        table: `means` of the results.
        parts: `standing` of the rankings.
    """
    truths = results.frame.groupby([*CASE, "level"]).first()
    models = ", ".join(dict.fromkeys(results.frame["model"]))
    lines = [
        words("heading", models=models, truths=len(truths) // len(LEVELS)),
        _exactly(results),
        _cut(parts, table),
    ]
    for level in LEVELS:
        here, inside = table[table["level"] == level], parts[parts["level"] == level]
        rare, first = truths.xs(level, level="level")["prevalence"].mean(), METHODS[level][0]
        lines.append(
            words(
                "level",
                Level=level.capitalize(),
                level=level,
                first=first,
                rare=rare,
                rows=_scores(here),
            )
        )
        lines += [_mistakes(m, inside, first) for m in methods_of(here) if m not in KNOWN]
    return "\n\n".join(lines)


def _exactly(results: Recovery) -> str:
    exact = results.frame[results.frame["method"] == "exact"]
    lost = exact[(exact[list(MEASURES)] < 1).any(axis=1)]
    if lost.empty:
        return words("exact", n=len(exact))
    rows = [", ".join(map(str, row)) for row in lost[[*CASE, "level"]].to_numpy()[:5]]
    return words("not exact", lost=len(lost), n=len(exact), rows="; ".join(rows))


def _cut(parts: pd.DataFrame, table: pd.DataFrame) -> str:
    """What counts as 0, and what that decides."""
    scored = parts.loc[parts["share"] > 0, "share"].min()
    rows = table[table["measure"].isin(["auroc", RAW]) & ~table["method"].isin(KNOWN)]
    wide = rows.pivot_table(index=["level", "method"], columns="measure", values="value")
    changed = wide[(wide[RAW] - wide["auroc"]).abs() > 0.005].reset_index()
    said = words("zero", noise=NOISE, scored=scored)
    if changed.empty:
        return f"{said} {words('zero does not matter')}"
    estimates = parts[~parts["method"].isin(KNOWN) & (parts["share"] == 0) & (parts["raw"] != 0)]
    largest = parts.groupby(RANKING)["raw"].transform(lambda raw: raw.abs().max())
    tiny = (estimates["raw"].abs() / largest[estimates.index]).groupby(estimates["true"]).max()
    zero = parts[~parts["method"].isin(KNOWN) & ~parts["true"] & (parts["share"] == 0)]
    matters = words(
        "zero matters",
        ends=words.each("zero changes", changed),
        true=tiny.get(True, 0.0),
        false=tiny.get(False, 0.0),
        silent=(zero["raw"] == 0).mean(),
    )
    return f"{said} {matters}"


def _scores(here: pd.DataFrame) -> str:
    """The rows of a table in markdown, one for each method."""
    lines = []
    for method, rows in here.groupby("method", sort=False):
        by = rows.set_index("measure")
        measures = {measure: by.loc[measure] for measure in MEASURES}
        lines.append(words("scores", method=method, **measures))
    return "\n| ".join(lines)


def _mistakes(method: str, inside: pd.DataFrame, first: str) -> str:
    """One method's paragraph.

    Args:
        inside: all rankings of one level.
        first: the method that is the gradient at the clean prompt.
    """
    here = inside[inside["method"] == method]
    true = here[here["true"]]
    missed, false = true[true["wrong"]], here[~here["true"] & here["wrong"]]
    if missed.empty:
        return words("misses none", method=method, n=len(true))
    counts = {"method": method, "missed": len(missed), "n": len(true)}
    said = [words("misses", **counts, ways=", ".join(_by_way(true)), most=_most(missed))]
    silent = missed[missed["share"] == 0]
    if len(silent):
        why = _cut_off if method.startswith("acdc") else _flat
        said += [*why(silent, inside, method), _elsewhere(silent, inside, method)]
    if false.empty:
        return " ".join([*said, words("ties")])
    plain = _of(false, inside[inside["method"] == first], "share")
    away = words("from away", n=(plain == 0).sum(), first=first) if method != first else "."
    return " ".join([*said, words("above", n=len(false), most=_most(false)) + away])


def _flat(silent: pd.DataFrame, _: pd.DataFrame, method: str) -> list[str]:
    """What the softmax says of parts at 0."""
    flat = silent[(silent["way"] != "values") & (silent["slope"] < NOISE)]
    if flat.empty:
        return []
    elsewhere = words("flat elsewhere") if "-ig-" in method else ""
    return [words("flat", n=len(flat), slope=flat["slope"].max(), elsewhere=elsewhere)]


def _cut_off(silent: pd.DataFrame, inside: pd.DataFrame, method: str) -> list[str]:
    """Why a search cut true parts: they do not help, or nothing was left that they lead to."""
    effect = _of(silent, inside[inside["method"] == "exact"], "raw")
    helps, severed = effect < 0, silent["severed"].to_numpy(dtype=bool)
    return [
        words(
            "cut off",
            n=len(silent),
            raise_it=(~helps).sum(),
            why=words("by KL" if method == "acdc" else "by the metric"),
            lead_nowhere=(helps & severed).sum(),
            too_little=(helps & ~severed).sum(),
        )
    ]


def _leads_to(part: Part) -> Site | None:
    return node_of(part.of.reader) if isinstance(part.of, Edge) else None


def _by_way(true: pd.DataFrame) -> list[str]:
    """Of the true parts that act in one way: how many are missed, how many of these are at 0."""
    said = []
    for way, part in true.groupby(pd.Categorical(true["way"], [*WAYS]), observed=True):
        silent = (part["wrong"] & (part["share"] == 0)).sum()
        counts = {"wrong": part["wrong"].sum(), "n": len(part), "silent": silent}
        said.append(words("way" if counts["wrong"] else "no way", way=words(str(way)), **counts))
    return said


def _elsewhere(silent: pd.DataFrame, inside: pd.DataFrame, method: str) -> str:
    """Which other estimates score the parts that this one is silent about."""
    counts = {
        m: (_of(silent, inside[inside["method"] == m], "share") > 0).sum()
        for m in methods_of(inside)
        if m not in (*KNOWN, method)
    }
    texts = [words("scored by", n=n, method=m) for m, n in counts.items() if n]
    return words("scored", n=len(silent), by=", ".join(texts) or words("scored by none"))


def _of(rows: pd.DataFrame, ranking: pd.DataFrame, column: str) -> np.ndarray:
    """What another method's ranking of the same truth says of the same parts."""
    keys = [*CASE, "part"]
    return rows[keys].merge(ranking[[*keys, column]], on=keys)[column].to_numpy(dtype=float)


def _most(rows: pd.DataFrame, n: int = 3) -> str:
    counts = (rows["model"] + ": " + rows["what"]).value_counts().head(n)
    return ", ".join(f"{name} ({count})" for name, count in counts.items())
