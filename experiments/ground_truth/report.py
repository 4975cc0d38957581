"""Tables and summary of experiments/ground_truth.py."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from ground_truth_figures import MEASURES, methods_of
from ground_truth_setting import LEVELS, METHODS, WAYS, Ranking, node_of

import interp
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
    lines = [
        "# Which methods find a circuit that is known?",
        f"Compiled models: {', '.join(dict.fromkeys(results.frame['model']))}; "
        f"{len(truths) // len(LEVELS)} truths (a model, an ablation, a corruption, everywhere or "
        "by position), each of edges and of nodes. Brackets are 95 % intervals over "
        "truths; those of one model are alike, so they speak of these models and not of others.",
        _exactly(results),
        _cut(parts, table),
    ]
    for level in LEVELS:
        here = table[table["level"] == level]
        rare = truths.xs(level, level="level")["prevalence"].mean()
        scores = _scores(here, METHODS[level][0])
        lines += [f"## {level.capitalize()}", scores]
        lines.append(f"In the mean {rare:.0%} of the {level} are true.")
        inside = parts[parts["level"] == level]
        for method in methods_of(here):
            if method not in KNOWN:
                lines.append(_mistakes(method, inside, METHODS[level][0]))
    return "\n\n".join(lines)


def _exactly(results: Recovery) -> str:
    exact = results.frame[results.frame["method"] == "exact"]
    lost = exact[(exact[list(MEASURES)] < 1).any(axis=1)]
    if lost.empty:
        return f"Exact patching puts every true part above every false one, in all {len(exact)}."
    rows = [", ".join(map(str, row)) for row in lost[[*CASE, "level"]].to_numpy()[:5]]
    return (
        f"WARNING: exact patching fails on {len(lost)} of {len(exact)} truths ({'; '.join(rows)}), "
        "so the truth or the engine is wrong, and nothing below can be trusted."
    )


def _cut(parts: pd.DataFrame, table: pd.DataFrame) -> str:
    """What counts as 0, and what that decides."""
    scored = parts.loc[parts["share"] > 0, "share"].min()
    rows = table[table["measure"].isin(["auroc", RAW]) & ~table["method"].isin(KNOWN)]
    wide = rows.pivot_table(index=["level", "method"], columns="measure", values="value")
    changed = wide[(wide[RAW] - wide["auroc"]).abs() > 0.005]
    said = (
        f"A score under {NOISE:.0e} of its ranking's largest counts as 0 (single precision does "
        f"not resolve it; the smallest that counts is {scored:.1g} of the largest), and ties have "
        "no order."
    )
    if changed.empty:
        return f"{said} Without this rule no method's mean AUROC would be another."
    ends = ", ".join(
        f"`{method}` of {level} {row[RAW]:.2f} and not {row['auroc']:.2f}"
        for (level, method), row in changed.iterrows()
    )
    estimates = parts[~parts["method"].isin(KNOWN) & (parts["share"] == 0) & (parts["raw"] != 0)]
    largest = parts.groupby(RANKING)["raw"].transform(lambda raw: raw.abs().max())
    tiny = (estimates["raw"].abs() / largest[estimates.index]).groupby(estimates["true"]).max()
    zero = parts[~parts["method"].isin(KNOWN) & ~parts["true"] & (parts["share"] == 0)]
    return (
        f"{said} The rule matters: if any number above 0 counted, however small, mean AUROC would "
        f"be {ends}. What the rule takes for 0 is at most {tiny.get(True, 0.0):.0e} of the largest "
        f"score for true parts and {tiny.get(False, 0.0):.0e} for false ones, of which "
        f"{(zero['raw'] == 0).mean():.0%} score 0 to the last digit: in a model written by hand "
        "the smallest remainder stands above them."
    )


def _scores(here: pd.DataFrame, first: str) -> str:
    """A table in markdown: a row for each method."""
    head = ["method", *MEASURES.values(), f"AUROC above `{first}`", "no mistake in"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for method, rows in here.groupby("method", sort=False):
        by = rows.set_index("measure")
        cells = [interp.runs.interval(by.loc[m], digits=2) for m in MEASURES]
        at = by.loc["auroc"]
        cells.append("{:+.2f} [{:.2f}, {:.2f}]".format(*at[["above", "above_low", "above_high"]]))
        cells.append(f"{at['perfect']} of {at['truths']}")
        lines.append(f"| {' | '.join([f'`{method}`', *cells])} |")
    return "\n".join(lines)


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
        return f"**`{method}`** misses none of the {len(true)} true parts."
    said = [
        f"**`{method}`** puts {len(missed)} of {len(true)} true parts no higher than a false one: "
        + ", ".join(_by_way(true))
        + f". Most often {_most(missed)}."
    ]
    silent = missed[missed["share"] == 0]
    if len(silent) and method.startswith("acdc"):
        said += [_cut_off(silent, inside, method), _elsewhere(silent, inside, method)]
    elif len(silent):
        said += [*_flat(silent, method), _elsewhere(silent, inside, method)]
    if false.empty:
        return " ".join([*said, "No false part stands above a true one: what is wrong are ties."])
    plain = _of(false, inside[inside["method"] == first], "share")
    said.append(
        f"{len(false)} false parts stand above a true one, most often {_most(false)}"
        + (
            f"; {(plain == 0).sum()} of them score 0 by the gradient at the clean prompt (`{first}`"
            "), so what they score comes from points away from it."
            if method != first
            else "."
        )
    )
    return " ".join(said)


def _flat(silent: pd.DataFrame, method: str) -> list[str]:
    """What the softmax says of parts at 0."""
    flat = silent[(silent["way"] != "values") & (silent["slope"] < NOISE)]
    if flat.empty:
        return []
    elsewhere = ", and where the method takes others they add nothing" * ("-ig-" in method)
    return [
        f"{len(flat)} at 0 act through a softmax that is flat on the clean prompts (its slope is "
        f"{flat['slope'].max():.0e} at most, where 0.25 is the steepest): no gradient passes "
        f"there{elsewhere}, though cutting the part turns the attention round."
    ]


def _cut_off(silent: pd.DataFrame, inside: pd.DataFrame, method: str) -> str:
    """Why a search cut true parts: they do not help, or nothing was left that they lead to."""
    by_kl = "which makes a right answer surer and is less in KL than any threshold"
    reason = "and what does not make the model worse is not kept"
    effect = _of(silent, inside[inside["method"] == "exact"], "raw")
    helps, severed = effect < 0, silent["severed"].to_numpy(dtype=bool)
    return (
        f"Of the {len(silent)} at 0, {(~helps).sum()} raise the logit difference when they are cut "
        f"by themselves, {by_kl if method == 'acdc' else reason}; "
        f"{(helps & severed).sum()} help but lead only to parts that it has cut before; "
        f"{(helps & ~severed).sum()} help, but by less than any threshold when their turn comes."
    )


def _leads_to(part: Part) -> Site | None:
    return node_of(part.of.reader) if isinstance(part.of, Edge) else None


def _by_way(true: pd.DataFrame) -> list[str]:
    """Of the true parts that act in one way: how many are missed, how many of these are at 0."""
    said = []
    for way, text in WAYS.items():
        part = true[true["way"] == way]
        if len(part):
            wrong = part["wrong"].sum()
            silent = (part["wrong"] & (part["share"] == 0)).sum()
            said.append(f"{wrong} of {len(part)} that {text}" + f" ({silent} at 0)" * bool(wrong))
    return said


def _elsewhere(silent: pd.DataFrame, inside: pd.DataFrame, method: str) -> str:
    """Which other estimates score the parts that this one is silent about."""
    others = [m for m in methods_of(inside) if m not in (*KNOWN, method)]
    counts = {
        m: int((_of(silent, inside[inside["method"] == m], "share") > 0).sum()) for m in others
    }
    texts = [f"{n} by `{m}`" for m, n in counts.items() if n] or ["none by another estimate"]
    return f"Of the {len(silent)} at 0, scored are {', '.join(texts)}."


def _of(rows: pd.DataFrame, ranking: pd.DataFrame, column: str) -> np.ndarray:
    """What another method's ranking of the same truth says of the same parts."""
    keys = [*CASE, "part"]
    return rows[keys].merge(ranking[[*keys, column]], on=keys)[column].to_numpy(dtype=float)


def _most(rows: pd.DataFrame, n: int = 3) -> str:
    counts = (rows["model"] + ": " + rows["what"]).value_counts().head(n)
    return ", ".join(f"{name} ({count})" for name, count in counts.items())
