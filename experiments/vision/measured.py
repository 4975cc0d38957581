"""What is lost without parts of the model, and what heads bring to the class token."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

import interp
from interp.core.parts.sites import Site, resolve
from interp.core.prompts.pairs import Pairs
from interp.core.tables.results import Results
from interp.engine.interventions import Add, Intervention
from interp.models.digits import scans
from interp.models.model import Model

METRICS = ("logit_diff", "prob")
TAKEN = 3
"""Heads that are taken away together."""
BROUGHT, PATCHES = "brought", "patches"
DRAWN = 1_000
"""Draws of images for the interval of a rank correlation."""


def lost(model: Model, pairs: Pairs, kept: Path) -> Results:
    """Every head and MLP at its mean over the corrupt images."""
    sites = ["heads", "mlps"]
    return interp.ablate(
        model, pairs, sites, method="mean", metric=list(METRICS), checkpoint=kept / "lost"
    )


def attended(model: Model, pairs: Pairs, kept: Path) -> Results:
    """The class token's attention to every position, of every head."""
    return interp.attention(model, pairs, keys=list(names(model)), query="cls")


def names(model: Model) -> tuple[str, ...]:
    """What each position of an image is called."""
    assert model.facts.image is not None
    return model.facts.image.names


def brought(model: Model, pairs: Pairs, kept: Path) -> Results:
    """What is lost when a head brings one position less to the class token, or a layer does.

    With a the attention of the class token to a position and v the head's value there, the head's
    output at the class token becomes z + a (mean v - v): what it would be if the value of that
    position were its mean over the corrupt images, for the class token alone.

    Returns:
        Rows of method "brought": `site` is the head, or a layer's attention for all its heads
        together; `position` what is not brought, "patches" for all of them.
    """
    cells: dict[str, list[Intervention]] = {}
    for head, patterns, values, means in _read(model, pairs, resolve("heads", model.facts)):
        each = patterns[:, 0, :, None] * (means - values)
        changes = dict(zip(names(model), each.unbind(1), strict=True))
        assert model.facts.image is not None
        changes[PATCHES] = each[:, model.facts.image.special :].sum(1)
        for name, change in changes.items():
            without = Intervention(head, Add(change[:, None]), "cls")
            for site in (head, Site("attn_out", head.layer)):
                cells.setdefault(f"{site} {name}", []).append(without)
    return _by_place(interp.intervene(model, pairs, cells, checkpoint=kept / "brought"))


def _read(
    model: Model, pairs: Pairs, heads: Sequence[Site]
) -> list[tuple[Site, Tensor, Tensor, Tensor]]:
    """Of each head its patterns and values on the clean images, and mean values on the others."""
    wanted = [replace(site, kind=kind) for site in heads for kind in ("pattern", "v")]
    values = [site for site in wanted if site.kind == "v"]
    clean = interp.capture(model, pairs, wanted, positions="all")
    other = interp.capture(model, pairs, values, positions="all", side="corrupt")
    return [
        (site, clean[str(p)], clean[str(v)], other[str(v)].mean(0))
        for site, p, v in zip(heads, wanted[::2], wanted[1::2], strict=True)
    ]


def _by_place(found: Results) -> Results:
    """Sets that are called "2.1 r0c3" as the head 2.1 and the position r0c3."""
    parts = found.frame["site"].str.split(" ")
    sites = {name: Site.parse(name) for name in parts.str[0].unique()}
    told = {
        of: parts.str[0].map({name: getattr(site, of) for name, site in sites.items()})
        for of in ("kind", "layer", "head")
    }
    frame = found.frame.assign(**told, method=BROUGHT, site=parts.str[0], position=parts.str[1])
    return Results(frame.astype({"layer": "Int16", "head": "Int16"}), found.provenance)


def joint(model: Model, pairs: Pairs, single: Results, *, draws: int, seed: int) -> Results:
    """The heads that half of the images miss most, taken away together on the other half.

    Beside as many random ones of the same layers.
    """
    choose, _ = single.split(seed=seed)
    table = choose.query("kind == 'z' and metric == 'logit_diff'").summary()
    chosen = table.nsmallest(TAKEN, "effect")["site"].tolist()
    _, report = pairs.split(seed=seed)
    return interp.causal.knock_out(
        model,
        report,
        {"chosen": chosen},
        patterns=["recomputed"],
        draws=draws,
        reference=pairs,
        metric=list(METRICS),
        seed=seed,
    )


def told(model: Model, kept: Path) -> Results:
    """How many classes score above the right one, of every held-out image."""
    found = scans(held_out=True)
    both = {"clean": found.images, "corrupt": found.images}
    pairs = Pairs.from_images(model, **both, correct=found.labels)
    return interp.evaluate(model, pairs, metric="rank").query("position == 'clean'")


def agreement(attention: Results, effects: Results, *, seed: int) -> dict[str, Any]:
    """Rank correlation, over heads and patches, of mean attention and the size of the mean effect.

    The interval is that of 1,000 draws of the images.
    """
    keys = ["site", "position"]
    wide = [
        t.frame[t.frame["position"].str.match(r"r\d") & t.frame["head"].notna()].pivot(
            index=keys, columns="example", values=column
        )
        for t, column in ((attention, "value"), (effects, "effect"))
    ]
    a, e = (w.reindex(wide[0].index)[wide[0].columns].to_numpy(float) for w in wide)
    rng = np.random.default_rng(seed)
    rows = rng.integers(a.shape[1], size=(DRAWN, a.shape[1]))
    drawn = [ranked(a[:, some].mean(1), e[:, some].mean(1)) for some in rows]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"value": ranked(a.mean(1), e.mean(1)), "low": low, "high": high, "n": len(a)}


def ranked(attention: np.ndarray, effect: np.ndarray) -> float:
    """Spearman's rank correlation of attention and the size of effects."""
    ranks = [pd.Series(x).rank().to_numpy() for x in (attention, np.abs(effect))]
    return float(np.corrcoef(*ranks)[0, 1])
