"""What several experiments ask of probes and of erasures."""

from dataclasses import replace

import numpy as np
import pandas as pd
import torch

import interp
from experiments._shared import Words
from interp.core.parts.sites import Site, depth_of
from interp.core.tables.scores import Scores
from interp.datasets.corpus import Corpus, require_disjoint
from interp.probing import Split, Tagging, fit_linear
from interp.probing.fit.moments import Moments
from interp.runs import Run

NAMES = ("train", "dev", "test")
words = Words(__file__)


def web_text(
    counts: tuple[int, int, int] | None, *, seed: int, name: str = "ud-ewt"
) -> dict[str, Corpus]:
    """So many words of train, dev and test: whole documents but the last, none in two of them."""
    found = {
        part: interp.datasets.corpus(name, split=part).sample(n, seed=seed)
        for part, n in zip(NAMES, counts or (), strict=True)
    }
    require_disjoint(found)
    return found


def beginnings(count: int, words: int, *, seed: int) -> Corpus:
    """The beginnings of some novels, in random order."""
    text = interp.datasets.corpus("litbank")
    text = text.sample(text.n_words, seed=seed)
    cut = [replace(text, documents=(d,)).head(words).documents for d in text.documents[:count]]
    return replace(text, documents=tuple(document for (document,) in cut))


def with_dev(found: Tagging) -> Scores:
    """Scores of a tagging; those on the development split are the subset "dev"."""
    dev = Scores(found.dev.frame.assign(subset="dev"), found.dev.provenance)
    return Scores.concat([found.scores, dev])


def what_a_probe_reads(
    split: Split, y: torch.Tensor, site: str | Site
) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations at a site, and a linear probe's weights in their scale."""
    x = split.features.stack(split.words, sites=[site]).float()
    moments = Moments.of(x)
    probe = fit_linear(moments.standardise_(x.clone()), y[None], l2=torch.tensor([0.01]))
    return x[0], probe.weight[0, 0] * moments.scale[0][:, None]


def curves(table: pd.DataFrame, *, real: str = "tags") -> pd.Series:
    """The name of each score's curve, by its model and its labels."""
    model = table["model"].map({"trained": "", "random": "untrained model, "})
    return model + table["labels"].map({"real": real, "control": "control task"})


def layers(
    run: Run, name: str, table: pd.DataFrame, levels: pd.DataFrame | None = None, **how: str | None
) -> None:
    """A figure over layers, with its table beside it."""
    shown = table if levels is None else pd.concat([table, levels])
    run.figure(name, interp.figures.layers(table, baselines=levels, **how), shown)


def still_read(run: Run, used: interp.Results) -> None:
    """The figure of what a probe reads after each erasure."""
    left = reads(used)
    level = left.head(1).assign(curve="majority", value=left["majority"], low=np.nan, high=np.nan)
    run.figure("still-read", interp.figures.layers(left, hue="erased", baselines=level), left)


def halves(used: interp.Results) -> tuple[interp.Results, interp.Results]:
    """Clusters to choose a layer on, and those to report it on."""
    names = sorted(set(used.frame["cluster"]))
    first = used.frame["cluster"].isin(names[::2])
    choose, report = (used.frame[half].reset_index(drop=True) for half in (first, ~first))
    return interp.Results(choose, used.provenance), interp.Results(report, used.provenance)


def by_depth(table: pd.DataFrame) -> pd.DataFrame:
    """Effects of a summary, by the depth of their site: `erased`, `layer` and `value`."""
    erased = table["method"].str.removeprefix("erase ")
    depth = list(map(depth_of, table["site"]))
    return table.assign(erased=erased, layer=depth, value=table["effect"])


def reads(used: interp.Results) -> pd.DataFrame:
    """What a fresh probe reads on held-out words before and after each erasure, and its size."""
    table = pd.DataFrame(used.provenance["erasures"])
    table = table.assign(layer=list(map(depth_of, table["site"])))
    before = table[table["erased"] == "leace"].assign(erased="nothing", variance=0.0, rank=0)
    before = before.assign(after=before["before"], low=np.nan, high=np.nan)
    return pd.concat([before, table], ignore_index=True).assign(value=lambda t: t["after"])


def strength(used: interp.Results, layer: int, what: str) -> str:
    """How much the erasures after a layer move, and what is still read."""
    at = reads(used).query(f"layer == {layer}").set_index("erased")
    kinds = [kind for kind in ("random", "same variance", "control task") if kind in at.index]
    row = at.loc["leace"]
    gone = row["low"] <= row["majority"]
    return words(
        "strength",
        row=row,
        shares=", ".join(words(kind, row=at.loc[kind]) for kind in kinds),
        what=what,
        left=words("not shown" if gone else "lower bound"),
    )
