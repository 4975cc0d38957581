"""Tables of realistic shape, made without a model."""

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from interp.core.parts.sites import Site
from interp.core.tables.results import Results
from interp.figures.drawing import style

N, CLUSTERS = 24, 8


def build(
    sites: Iterable[str],
    *,
    positions: Iterable[str | None] = ("end",),
    receivers: Iterable[str | None] = (None,),
    metric: str = "logit_diff",
    seed: int = 0,
) -> Results:
    """One intervention for each site, position and receiver; some effects are far from zero."""
    rng = np.random.default_rng(seed)
    cluster = np.arange(N) % CLUSTERS
    base = rng.normal(3.9, 1, N)
    parts = []
    for text in sites:
        site = Site.parse(text)
        for position in positions:
            for receiver in receivers:
                effect = rng.standard_t(2) * 0.2 + rng.normal(0, 0.2, N)
                parts.append(
                    pd.DataFrame(
                        {
                            "method": "path_patch",
                            "site": text,
                            "position": position,
                            "receiver": receiver,
                            "direction": "noise",
                            "metric": metric,
                            "kind": site.kind,
                            "layer": site.layer,
                            "head": site.head,
                            "through": "mlps",
                            "engine": "replay",
                            "example": range(N),
                            "cluster": cluster,
                            "base": base,
                            "value": base + effect,
                            "effect": effect,
                        }
                    )
                )
    return Results(pd.concat(parts, ignore_index=True), {"model": "synthetic", "null": 0.0})


@pytest.fixture
def table() -> Callable[..., Results]:
    return build


@pytest.fixture
def heads_and_mlps() -> Results:
    sites = [f"{layer}.{head}" for layer in range(6) for head in range(4)]
    return build([*sites, *(f"{layer}.mlp" for layer in range(6))])


@pytest.fixture
def looks() -> Callable[..., Results]:
    """Attention probabilities of some heads; the base run does not exist."""

    def make(heads: Iterable[str], keys: Iterable[str] = ("io", "s1", "s2", "first")) -> Results:
        keys = list(keys)
        sites = list(heads)
        found = build(sites, positions=keys).frame
        rng = np.random.default_rng(1)
        p = rng.dirichlet(np.ones(len(keys) + 1), (len(sites), N))[..., :-1]
        found["value"] = p.transpose(0, 2, 1).ravel()
        found = found.assign(method="attention", metric="attention", base=np.nan, effect=np.nan)
        return Results(found, {"null": 0.0})

    return make


@pytest.fixture
def clipped() -> Callable[[Figure], list[str]]:
    """What is drawn beyond the edge of the page, and tick labels that run into each other."""

    def look(figure: Figure) -> list[str]:
        with style.context():
            figure.draw_without_rendering()
            box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        slack = 0.02
        faults = []
        if box.x0 < -slack or box.y0 < -slack or box.x1 > width + slack or box.y1 > height + slack:
            faults.append(f"{box} is outside {width} x {height}")
        for axes in figure.axes:
            for axis in (axes.xaxis, axes.yaxis):
                shown = [t for t in axis.get_ticklabels() if t.get_visible() and t.get_text()]
                boxes = [t.get_window_extent() for t in shown]
                faults += [
                    f"tick labels {a.get_text()!r} and {b.get_text()!r} overlap"
                    for a, b, i in zip(shown, shown[1:], range(len(boxes)), strict=False)
                    if boxes[i].overlaps(boxes[i + 1])
                ]
        return faults

    return look
