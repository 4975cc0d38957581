"""Where heads look."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Num
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from interp.core.door.door import door
from interp.core.errors import ResultsError
from interp.core.sampling import stats
from interp.core.tables.results import Results
from interp.figures.drawing import heat, style
from interp.figures.drawing.given import figure_door
from interp.figures.drawing.table import one_each, sample

MOST_HEADS = 16
MOST_TOKENS = 40
_LONGEST = 14
Matrix = Num[Tensor, "*axes"] | Num[np.ndarray, "*axes"] | Sequence[Sequence[float]]


@figure_door
def attention(results: Results, *, title: str | None = None) -> Figure:
    """Mean attention probability of each head to each named position, with 95 % intervals.

    Args:
        results: rows of method "attention": `site` the head, `position` the key, `value` the
            probability; at most 16 heads.
        title: none by default; a paper's caption says it.

    Raises:
        ResultsError: no such rows, too many heads, or probabilities outside 0 to 1.
    """
    table = attention_summary(results)
    heads, keys = list(table["site"].unique()), list(table["position"].unique())
    if len(heads) > MOST_HEADS:
        raise ResultsError(
            f"the table has {len(heads)} heads; {MOST_HEADS} fit in the width of a page. Choose "
            f"some first: results.query(\"site in ['{heads[0]}', '{heads[1]}']\")."
        )
    width = 0.8 / len(keys)

    with style.context():
        figure = style.blank(2.4)
        axes = figure.subplots()
        for i, key in enumerate(keys):
            part = table[table["position"] == key]
            x = part["site"].map(heads.index) + (i - (len(keys) - 1) / 2) * width
            axes.bar(x, part["value"], width, color=style.colour(i), label=str(key))
            arms = np.stack([part["value"] - part["low"], part["high"] - part["value"]]).clip(0)
            axes.errorbar(x, part["value"], yerr=arms, fmt="none", ecolor=style.INK, elinewidth=0.8)
        heat.words(axes, "x", heads, room=0.85 * style.WIDTH / len(heads))
        axes.set(xlim=(-0.6, len(heads) - 0.4), ylim=(0, 1))
        axes.set(xlabel=f"head\n({sample(table)})", ylabel="attention probability")
        axes.grid(axis="y", color="0.92", linewidth=0.5)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="x", length=0)
        figure.legend(loc="outside upper center", title="attention to", ncols=style.columns(keys))
        if title:
            axes.set_title(title)
    return figure


def attention_summary(results: Results) -> pd.DataFrame:
    """Mean probability of each head and key position: `value low high n clusters`.

    The interval is that of the mean itself; there is no base run to subtract.
    """
    frame = results.frame
    rows = frame[(frame["method"] == "attention") & frame["value"].notna()]
    if rows.empty:
        raise ResultsError(
            "the table has no attention probabilities (methods: "
            f"{', '.join(map(str, frame['method'].unique()))}); figures.attention draws rows of "
            "method 'attention'. Effects are drawn by figures.heads and figures.bars."
        )
    outside = rows.loc[~rows["value"].between(-1e-6, 1 + 1e-6), "value"]
    if len(outside):
        raise ResultsError(
            f"{len(outside)} attention probabilities lie outside 0 to 1 (the first: "
            f"{outside.iloc[0]:.4g}). These look like scores before the softmax."
        )
    keys = ["site", "position"]
    one_each(rows.drop_duplicates(["method", *keys, "receiver", "direction", "metric"]), keys)
    order = rows[keys].drop_duplicates()
    wide = rows.pivot(index=keys, columns="example", values="value")
    wide = wide.reindex(pd.MultiIndex.from_frame(order))
    if wide.isna().any(axis=None):
        raise ResultsError(
            "the heads and positions were not all measured on the same examples; draw each set "
            "by itself: results.query(...)."
        )
    cluster = rows.drop_duplicates("example").set_index("example")["cluster"].loc[wide.columns]
    codes = pd.factorize(cluster, sort=True)[0]
    low, high = stats.mean_interval(wide.to_numpy(), codes)
    return order.reset_index(drop=True).assign(
        value=wide.mean(axis=1).to_numpy(),
        low=low,
        high=high,
        n=wide.shape[1],
        clusters=codes.max() + 1,
    )


@door
def pattern(
    matrix: Matrix,
    tokens: Sequence[str],
    queries: Sequence[str] | None = None,
    *,
    title: str | None = None,
) -> Figure:
    """One head's attention: a row for each query token, a column for each key token.

    The colour runs from 0 to 1 in every figure, so that two heads can be compared. Of more than
    40 tokens the last 40 are drawn, and a note says how much attention falls outside them.

    Args:
        matrix: probabilities, queries x keys; NaN is hatched.
        tokens: the keys as text, a visible space in them.
        queries: the same as the keys by default.
        title: none by default; a paper's caption says it.

    Raises:
        ResultsError: the matrix has another shape than the tokens, or is no probability.
    """
    values = _numbers(matrix)
    queries = tokens if queries is None else queries
    if values.shape != (len(queries), len(tokens)):
        raise ResultsError(
            f"an attention pattern of shape {values.shape} cannot be labelled with "
            f"{len(queries)} queries and {len(tokens)} keys. Give one head of one prompt "
            "(queries x keys), and every token with BOS among them where the model reads one."
        )
    if not values.size:
        raise ResultsError("the attention pattern has no cell to draw; give one query at least.")
    if np.nanmin(values, initial=0) < -1e-6 or np.nanmax(values, initial=0) > 1 + 1e-6:
        raise ResultsError(
            f"attention probabilities run from 0 to 1; this matrix runs from "
            f"{np.nanmin(values):.4g} to {np.nanmax(values):.4g}. It looks like scores before "
            "the softmax."
        )
    shown = values[-MOST_TOKENS:, -MOST_TOKENS:]
    rows, columns = shown.shape

    size = 7.0 if max(rows, columns) <= 24 else 5.5
    note, norm = _note(values, rows, columns), Normalize(0, 1)

    with style.context():
        figure = style.blank(float(np.clip(1.6 + 0.2 * rows, 2.4, 5.2)))
        figure.set_layout_engine("compressed")  # the cells are square: no gap beside them
        axes = figure.subplots()
        heat.heat(axes, shown, norm=norm, cmap=style.SEQUENTIAL)
        axes.set_aspect("equal")
        room = 0.7 * min(style.WIDTH / columns, figure.get_figheight() / rows)
        heat.words(axes, "x", [_short(t) for t in tokens[-columns:]], room=room, size=size)
        heat.words(axes, "y", [_short(t) for t in queries[-rows:]], room=room, size=size)
        axes.set(xlabel="\n".join(["key", *note]), ylabel="query")
        heat.colour_bar(figure, [axes], "attention probability", norm=norm, cmap=style.SEQUENTIAL)
        if title:
            axes.set_title(title, parse_math=False)
    return figure


def _numbers(matrix: Matrix) -> np.ndarray:
    """As an array; lists are rows of equal length."""
    if isinstance(matrix, Tensor):
        return matrix.detach().cpu().double().numpy()
    if isinstance(matrix, Sequence) and len({len(row) for row in matrix}) > 1:
        raise ResultsError(
            "the rows of the attention pattern have different lengths "
            f"({', '.join(map(str, sorted({len(row) for row in matrix})))}); give queries x keys."
        )
    return np.asarray(matrix, dtype=float)


def _note(values: np.ndarray, rows: int, columns: int) -> list[str]:
    """Lines that say what was left out; none if nothing was."""
    if values.shape == (rows, columns):
        return []
    hidden = float(np.nansum(values[-rows:, :-columns], axis=1).mean())
    return [
        f"(the last {rows} of {len(values)} queries, {columns} of {values.shape[1]} keys;",
        f"on average {hidden:.0%} of a query's attention falls on keys not shown)",
    ]


def _short(word: str) -> str:
    return word if len(word) <= _LONGEST else word[: _LONGEST - 1] + "…"
