"""Where in the image it is: numbers of patches, laid on the image."""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Num
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from interp.core.errors import ResultsError
from interp.core.tables.results import Results
from interp.figures.attention import attention_summary
from interp.figures.drawing import heat, style
from interp.figures.drawing.given import figure_door
from interp.figures.drawing.table import Column, label, one_each, sample, summarise

MOST = 16
"""Panels that fit on a page."""
ACROSS = 4
UNDER = 0.5
"""How dark the darkest of an image is under the colours, which are read as well."""
_PATCH = re.compile(r"r(\d+)c(\d+)")
Picture = Num[Tensor, "*axes"] | Num[np.ndarray, "*axes"] | Sequence[Sequence[float]]


@figure_door
def patches(
    results: Results,
    image: Picture | None = None,
    *,
    column: Column = "effect",
    title: str | None = None,
) -> Figure:
    """Mean effect at each patch, or attention to it, a panel for each site, laid on the image.

    A dot: q < 0.05 over the whole table. Hatched: not measured. What a class token has stands below
    its panel. The image is drawn in grey under the colours, and by itself in the first panel.

    Args:
        results: rows at the positions of patches, "r0c0" and so on, of at most 16 sites; of method
            "attention" their probabilities are drawn, and no column is chosen.
        image: of one example: `row column`, or `row column channel`, or with the channel first.
        column: `effect`, or the mean metric under the intervention (`value`) or before (`base`).
        title: none by default; a paper's caption says it.

    Raises:
        ResultsError: no patches, too many sites, several interventions for one patch, or an image
            of another shape.
    """
    attended = bool((results.frame["method"] == "attention").all())
    table = attention_summary(results) if attended else summarise(results)
    column = "value" if attended else column
    named = table["position"].astype(str).str.fullmatch(_PATCH)
    if not named.any():
        raise ResultsError(
            "the table has no patch of an image (positions: "
            f"{', '.join(map(str, table['position'].unique()[:6]))}). Give the patches as "
            "positions: positions=list(model.facts.image.names); positions of text are drawn by "
            "figures.positions."
        )
    table = one_each(table, ["site", "position"])
    sites = list(table["site"].unique())
    if len(sites) > MOST:
        raise ResultsError(
            f"the table has {len(sites)} sites; {MOST} fit on a page. Choose some first: "
            f"results.query(\"site in ['{sites[0]}', '{sites[1]}']\")."
        )
    parts = dict(tuple(table[named].groupby("site")))
    values = {site: _grid(part, column, table) for site, part in parts.items()}
    tested = not attended and column == "effect"
    q = {site: _grid(part, "q", table) for site, part in parts.items()} if tested else {}
    rows, columns = next(iter(values.values())).shape
    picture = None if image is None else _grey(image)
    cmap = style.SEQUENTIAL if attended else style.DIVERGING
    norm = _norm(np.stack([*values.values()]), attended=attended)
    count = len(sites) + (picture is not None)
    down, across = -(-count // ACROSS), min(count, ACROSS)

    with style.context():
        figure = style.blank(0.75 + down * (0.35 + style.WIDTH * 0.8 / ACROSS * rows / columns))
        grid = figure.subplots(down, across, squeeze=False).flatten().tolist()
        for axes in grid[count:]:
            axes.set_axis_off()
        if picture is not None:
            first = grid.pop(0)
            _show(first, picture, rows, columns)
            first.set_title("image")
        for axes, site in zip(grid, sites, strict=False):
            part = table[table["site"] == site].set_index("position")
            mesh = heat.heat(axes, values[site], norm=norm, cmap=cmap)
            if picture is not None:
                mesh.set_alpha(0.75)
                _show(axes, picture, rows, columns, darkest=UNDER)
            if site in q:
                heat.dots(axes, mesh, values[site], q[site])
            axes.set_title(str(site), parse_math=False)
            axes.set(xticks=[], yticks=[], aspect="equal")
            if "cls" in part.index:
                own = round(float(part.loc["cls", column]), 2) + 0.0
                axes.set_xlabel(f"class token: {own:.2f}", fontsize=6.5)
        said = "attention probability" if attended else label(table, column)
        shown = grid[: len(sites)]
        heat.colour_bar(figure, shown, said, norm=norm, cmap=cmap)
        hatched = any(bool(np.isnan(v).any()) for v in values.values())
        dotted = tested and bool((table["q"] < style.ALPHA).any())
        heat.legend(figure, dotted=dotted, hatched=hatched, outlined=False, few=sample(table))
        if title:
            figure.suptitle(title)
    return figure


def _grid(part: pd.DataFrame, column: str, whole: pd.DataFrame) -> np.ndarray:
    """A column as rows x columns of patches; NaN where nothing was measured."""

    def places(table: pd.DataFrame) -> np.ndarray:
        found = table["position"].astype(str).str.extract(_PATCH).dropna()
        return found.to_numpy(dtype=int)

    grid = np.full(places(whole).max(0) + 1, np.nan)
    grid[tuple(places(part).T)] = part[column].to_numpy(dtype=float)
    return grid


def _norm(values: np.ndarray, *, attended: bool) -> Normalize:
    return Normalize(0, float(np.nanmax(values))) if attended else style.symmetric(values)


def _grey(image: Picture) -> np.ndarray:
    """An image as rows x columns of brightness, 0 to 1.

    Raises:
        ResultsError: it has another shape, or numbers that are none.
    """
    held = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    found = np.squeeze(held.astype(float))
    if found.ndim == 3:
        found = found.mean(-1 if found.shape[-1] in (2, 3, 4) else 0)
    if found.ndim != 2 or not found.size or not np.isfinite(found).all():
        raise ResultsError(
            f"an image of shape {held.shape} cannot be drawn under the patches: give one image of "
            "finite numbers, row x column, with a channel before or after them."
        )
    low, high = found.min(), found.max()
    return (found - low) / (high - low or 1.0)


def _show(
    axes: Axes, picture: np.ndarray, rows: int, columns: int, *, darkest: float = 1.0
) -> None:
    """The image under the patches, of which it is as large as all together."""
    edges = (-0.5, columns - 0.5, rows - 0.5, -0.5)
    grey = {"cmap": "Greys", "vmin": 0.0, "vmax": 1 / darkest, "interpolation": "nearest"}
    axes.imshow(picture, extent=edges, zorder=0, **grey)
    axes.set(xticks=[], yticks=[], aspect="equal")
