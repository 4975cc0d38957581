"""Figures and words of `adapters`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

import interp
from experiments._shared import Words
from experiments.adapters.measured import SHOWN, Measured
from experiments.adapters.training import RANK, Amount
from interp.core.prompts.pairs import Pairs
from interp.figures.drawing.style import ALPHA
from interp.runs import Run

words = Words(__file__)
MARGIN = 0.1
"""Changes add up where that of both is their sum, to this share of it."""


def draw(run: Run, measured: Mapping[str, Measured], weights: Mapping[str, Any]) -> None:
    """Every figure, with its table beside it."""
    behaviour = pd.concat([one.behaviour() for one in measured.values()], ignore_index=True)
    shown = behaviour[behaviour["right"].notna() & (behaviour["what"] != "interaction")]
    labels = {"x": "what", "hue": "task", "xlabel": "adapters", "ylabel": "logit difference"}
    run.figure("behaviour", interp.figures.curves(shown, **labels), behaviour)
    points = pd.concat([one.points() for one in measured.values()], ignore_index=True)
    axes = {"x": "added", "y": "together", "panel": "task", "line": "identity"}
    said = {"xlabel": "sum of both changes", "ylabel": "change with both"}
    run.figure("composed", interp.figures.scatter(points, **axes, **said, own_scale=True), points)
    for name, one in measured.items():
        found = one.compared(name)
        run.figure(f"heads-{name}", interp.figures.heads(found.absolute), found.summary())
    by_layer = weights["by layer"].assign(of="queries and values", low=np.nan, high=np.nan)
    run.figure(
        "weights",
        interp.figures.curves(by_layer, x="layer", hue="of", ylabel="cosine of both changes"),
        by_layer,
    )


def summarise(
    model: str,
    size: Amount,
    measured: Mapping[str, Measured],
    weights: Mapping[str, Any],
    learned: Mapping[str, Pairs],
) -> str:
    """What was found, in words."""
    amounts = {"rank": RANK, "steps": size.steps, "batch": size.batch}
    nouns = ", ".join(f"{len(set(p.cluster))} ({name})" for name, p in learned.items())
    parts = [words("heading", model=model), words("trained", **amounts, nouns=nouns)]
    parts.append(words("weights", cosine=weights["cosine"], elsewhere=weights["elsewhere"]))
    parts += [_task(one) for one in measured.values()]
    parts.append(verdict(measured))
    parts.append(words("brackets", alpha=ALPHA))
    return "\n\n".join(parts)


def verdict(measured: Mapping[str, Measured]) -> str:
    """Do they add up, within a margin, on both tasks: in behaviour and over heads?"""
    found: dict[str, pd.Series] = {}
    for name, one in measured.items():
        found[f"{name}: behaviour"] = one.behaviour().set_index("what").loc["of the sum"]
        found[f"{name}: heads"] = one.composed()["slope"]
    inside = [abs(r["low"] - 1) <= MARGIN and abs(r["high"] - 1) <= MARGIN for r in found.values()]
    outside = [r["low"] > 1 + MARGIN or r["high"] < 1 - MARGIN for r in found.values()]
    if all(inside):
        return words("composes", margin=MARGIN)
    if any(outside):
        where = [name for name, out in zip(found, outside, strict=True) if out]
        return words("does not compose", where=", ".join(where), margin=MARGIN)
    where = [name for name, known in zip(found, inside, strict=True) if not known]
    return words("not decided", where=", ".join(where), margin=MARGIN)


def _task(one: Measured) -> str:
    rows = one.behaviour().set_index("what")
    by = {str(what).replace(" ", "_").replace("'", ""): row for what, row in rows.iterrows()}
    whole = one.compared(one.task).summary()
    known = bool(whole["share_q"].notna().any())
    other = one.compared(one.other).summary()
    interactions = one.interactions().summary()
    fitted = one.composed()
    return "\n\n".join(
        [
            words("task", task=one.task, other=one.other),
            words("behaviour", **by),
            words(
                "heads",
                n=int((whole["q"] < ALPHA).sum()),
                of=len(whole),
                shares=words(
                    "shares" if known else "no shares", n=int((whole["share_q"] < ALPHA).sum())
                ),
                other=int((other["q"] < ALPHA).sum()),
                most=SHOWN,
                each=words.each("head", one.changed(one.task), by="; "),
            ),
            words(
                "together",
                slope=fitted["slope"],
                left=fitted["left"],
                n=int((interactions["q"] < ALPHA).sum()),
                of=len(interactions),
            ),
            words("n", row=rows.loc["both"]),
        ]
    )
