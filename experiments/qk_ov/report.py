"""Tables, figures and words of the exchange of QK and OV."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import interp
from experiments._shared import Words
from experiments.qk_ov.exchange import CLASS, OUT, PARTS, RANDOM, SWAPS, TOGETHER
from interp.core.sampling import stats
from interp.core.tables.results import Results
from interp.figures.attention import attention_summary
from interp.figures.drawing import style
from interp.runs import Run

REST = "interaction"
APART = "pattern - values"
NUMBERS = ["value", "low", "high"]
COLOURS = {name: i for i, name in enumerate([*PARTS, REST])} | {CLASS: 4, RANDOM: 7}
"""The same in every figure."""
CHANGED = {
    "asked": "the other candidate is asked for",
    "content": "the other candidate stands there",
    "moved": "candidates moved, same answer",
}
words = Words(__file__)


def by_example(results: Results) -> tuple[pd.DataFrame, np.ndarray]:
    """Effects: a row for each (method, direction, site), a column for each example; its cluster."""
    frame = results.frame
    keys = ["method", "direction", "site"]
    wide = frame.pivot(index=keys, columns="example", values="effect")
    wide = wide.reindex(pd.MultiIndex.from_frame(frame[keys].drop_duplicates()))
    cluster = frame.drop_duplicates("example").set_index("example")["cluster"].loc[wide.columns]
    return wide, pd.factorize(cluster, sort=True)[0]


def ratio(above: np.ndarray, below: np.ndarray, cluster: np.ndarray, seed: int) -> dict[str, float]:
    """Mean over mean, with the interval of whole clusters drawn together.

    NaN where the interval of the mean below holds 0: a share of nothing.
    """
    low, high = stats.mean_interval(below[None], cluster, seed=seed)
    if not low[0] * high[0] > 0:
        return dict.fromkeys(NUMBERS, float("nan"))
    sign = np.sign(below.mean())
    sums = [stats.cluster_sums(sign * x[None], cluster)[0] for x in (above, below)]
    low, high = stats.ratio_interval(sums[0], sums[1], seed=seed)
    return dict(zip(NUMBERS, (above.mean() / below.mean(), low[0], high[0]), strict=True))


def effects(results: Results, seed: int) -> pd.DataFrame:
    """Effects of the parts of each head, their interaction and difference; q over all rows."""
    wide, cluster = by_example(results)
    rows, values = [], []
    for (corruption, site), part in wide.groupby(["direction", "site"], sort=False):
        pattern, held, both = (part.xs(name, level="method").to_numpy()[0] for name in PARTS)
        found = {"pattern": pattern, "values": held, "both": both}
        found |= {REST: both - pattern - held, APART: pattern - held}
        for name, effect in found.items():
            rows.append({"corruption": corruption, "site": site, "part": name})
            values.append(effect)
    table, values = pd.DataFrame(rows), np.stack(values)
    low, high = stats.mean_interval(values, cluster, seed=seed)
    p = stats.sign_flip_p(values, cluster, seed=seed)
    return table.assign(
        value=values.mean(1),
        low=low,
        high=high,
        p=p,
        q=stats.fdr(p),
        n=len(cluster),
        clusters=len(np.unique(cluster)),
    )


def shares(results: Results, seed: int) -> pd.DataFrame:
    """Share of pattern, of values and of their interaction in the effect of both."""
    wide, cluster = by_example(results)
    rows = []
    for (corruption, site), part in wide.groupby(["direction", "site"], sort=False):
        pattern, held, both = (part.xs(name, level="method").to_numpy()[0] for name in PARTS)
        found = {"pattern": pattern, "values": held, REST: both - pattern - held}
        for name, effect in found.items():
            said = {"corruption": corruption, "site": site, "part": name}
            rows.append(said | ratio(effect, both, cluster, seed))
    return pd.DataFrame(rows)


def kept(results: Results, seed: int) -> pd.DataFrame:
    """How much of a head's contribution is left with QK or OV of another: 1 all, 0 none.

    1 - effect of the swap / effect of knocking the head out, donors averaged. `p` is of the
    difference between donors of the class and random ones, paired by example; q over the table.
    """
    wide, cluster = by_example(results)
    method, direction, site = (wide.index.get_level_values(i) for i in range(3))
    head = site.str.split(" < ").str[0]
    alone = wide[(method == OUT) & (head != TOGETHER)]
    rows, apart = [], []
    for name in [*alone.index.get_level_values("site"), TOGETHER, "mean"]:
        mine = (head == name) if name != "mean" else (head != TOGETHER)
        out = wide[mine & (method == OUT)].to_numpy().mean(0)
        for which in SWAPS:
            lost = {}
            for donor in (CLASS, RANDOM):
                at = mine & (method == which) & (direction == donor)
                lost[donor] = wide[at].groupby(head[at]).mean().to_numpy().mean(0)
                said = {"site": name, "swapped": which, "donor": donor}
                rows.append(said | ratio(out - lost[donor], out, cluster, seed))
            apart.append(lost[CLASS] - lost[RANDOM])
    p = stats.sign_flip_p(np.stack(apart), cluster, seed=seed)
    return pd.DataFrame(rows).assign(p=np.repeat(p, 2), q=np.repeat(stats.fdr(p), 2))


def dodged(
    table: pd.DataFrame,
    *,
    x: str,
    hue: str,
    panel: str,
    ylabel: str,
    title: str,
    level: float | None = None,
) -> Figure:
    """Bars side by side with their intervals, a panel below the other; an empty place: undefined.

    Args:
        level: of a dashed line: what everything would be.
    """
    panels, names, hues = (list(dict.fromkeys(table[c])) for c in (panel, x, hue))
    width = 0.8 / len(hues)
    with style.context():
        figure = style.blank(0.7 + 1.45 * len(panels))
        rows = figure.subplots(len(panels), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for axes, shown in zip(rows, panels, strict=True):
            here = table[table[panel] == shown]
            for i, name in enumerate(hues):
                part = here[here[hue] == name]
                at = part[x].map(names.index) + (i - (len(hues) - 1) / 2) * width
                axes.bar(at, part["value"], width, color=style.colour(COLOURS[name]), label=name)
                arms = np.stack([part["value"] - part["low"], part["high"] - part["value"]])
                whiskers = {"fmt": "none", "ecolor": style.INK, "elinewidth": 0.8}
                axes.errorbar(at, part["value"], yerr=arms.clip(0), **whiskers)
            axes.axhline(0, color=style.INK, linewidth=0.6)
            if level is not None:
                axes.axhline(level, color=style.FAINT, linewidth=0.6, linestyle="--", zorder=0)
            axes.set_title(str(shown), fontsize=8)
            axes.set_ylabel(ylabel)
            axes.grid(axis="y", color="0.92", linewidth=0.5)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        rows[-1].set_xticks(range(len(names)), names)
        rows[-1].set_xlim(-0.6, len(names) - 0.4)
        handles, labels = rows[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=style.columns(hues))
        rows[0].set_title(f"{title}\n{panels[0]}", fontsize=8)
    return figure


def draw(
    run: Run,
    name: str,
    table: pd.DataFrame,
    share: pd.DataFrame,
    left: pd.DataFrame,
    attention: Results,
) -> None:
    """One class's figures, each with its table."""
    stem = name.replace(" ", "-")
    parts = {"x": "site", "hue": "part", "panel": "corruption"}
    shown = table[table["part"].isin([*PARTS, REST])]
    figure = dodged(
        shown.assign(corruption=shown["corruption"].map(CHANGED)),
        **parts,
        ylabel="change in logits",
        title=f"{name}: what each part does, from the corrupt run",
    )
    run.figure(f"{stem}-effects", figure, table)
    shown = share[share["corruption"] != "moved"]
    figure = dodged(
        shown.assign(corruption=shown["corruption"].map(CHANGED)),
        **parts,
        ylabel="share of the effect",
        level=1.0,
        title=f"{name}: share of each part in the effect of both",
    )
    run.figure(f"{stem}-shares", figure, share)
    figure = dodged(
        left.assign(swapped=left["swapped"] + " of another head"),
        **{"x": "site", "hue": "donor", "panel": "swapped"},
        ylabel="contribution kept",
        level=1.0,
        title=f"{name}: QK or OV exchanged (1: the head's own)",
    )
    run.figure(f"{stem}-swaps", figure, left)
    figure = interp.figures.attention(attention, title=f"Where {name} attend from END")
    run.figure(f"{stem}-attention", figure, attention_summary(attention))


def summarise(
    name: str,
    heads: list[str],
    table: pd.DataFrame,
    share: pd.DataFrame,
    left: pd.DataFrame,
    looks: pd.DataFrame,
) -> str:
    """One class of heads in a paragraph of numbers with their intervals."""
    effect = table[table["site"] == TOGETHER].set_index(["corruption", "part"])
    of = share[share["site"] == TOGETHER].set_index(["corruption", "part"])
    kept = left[left["site"] == "mean"].set_index(["swapped", "donor"])
    single = table[(table["site"] != TOGETHER) & (table["part"] == APART) & (table["q"] < 0.05)]
    best = looks.sort_values("value", ascending=False).drop_duplicates("site").set_index("site")
    said = [
        words(
            "looks",
            name=name,
            heads=", ".join(heads),
            each=words.each("look", best.loc[heads].reset_index()),
        )
    ]
    for corruption in ("asked", "content"):
        shares = {part: of.loc[(corruption, part)] for part in ("pattern", "values", REST)}
        both = effect.loc[(corruption, "both")]
        said.append(words("together", when=words(corruption), both=both, **shares))
    if of.loc[("asked", "values"), "low"] > 0.5:
        said.append(words("chosen before"))
    said.append(words("moved", **{part: effect.loc[("moved", part)] for part in PARTS}))
    counts = {c: int((single["corruption"] == c).sum()) for c in dict.fromkeys(table["corruption"])}
    apart = [words("apart", n=n, heads=len(heads), corruption=c) for c, n in counts.items()]
    said.append(words("single", each=", ".join(apart)))
    for which in SWAPS:
        mine, random = kept.loc[(which, CLASS)], kept.loc[(which, RANDOM)]
        said.append(words("kept", what=words(which), mine=mine, random=random))
    return " ".join([*said, words("n", row=table.iloc[0])])
