"""Heads that copy what followed before: which they are, what needs them, and when they form.

An induction head looks at the token after the last occurrence of the present one and copies it
(Olsson et al. 2022). We type all heads of a model on random tokens that repeat, knock the induction
heads out beside random sets of the same layers, on random tokens and on names of real text, at
their second mention and, where nothing can be copied, at their first; and train toys: one layer
does not get there, two do, and one does if its keys hold the token before.

    python -m experiments.induction                 # SmolLM2-135M and 9 toys, minutes on two cores
    python -m experiments.induction --size full     # hours
"""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import interp
from experiments._shared import Sized, experiment
from experiments.induction.names import Twice, names_twice, random_twice
from experiments.induction.report import draw, summarise, tables_of
from experiments.induction.setting import SIZES
from experiments.induction.toys import measure
from interp.core.errors import ResultsError
from interp.core.tables.scores import Scores
from interp.heads.types.detectors import DUPLICATE, FIRST, INDUCTION, PREVIOUS
from interp.heads.types.head_types import PREFIX_MATCHING, HeadTypes
from interp.runs import Run

DETECTORS = (PREVIOUS, DUPLICATE, INDUCTION, FIRST)


@dataclass(frozen=True, kw_only=True)
class Config(Sized):
    """What is run."""

    model: str = "smollm2-135m"
    memory: int | None = field(default=None, metadata={"hash": False})


@experiment("induction")
def run(run: Run, config: Config) -> tuple[Scores, str]:
    """What toys scored; stages/ has all tables."""
    size, seed = SIZES[config.size], config.seed
    toys = run.stage("toys", lambda _: measure(size, run.folder / "toys", seed))
    model = interp.load(config.model)
    typed = run.stage("heads", lambda _: scored(model, config))
    types = interp.heads.types_of(typed, seed=seed)
    kind, heads = chosen(types)
    knocked: dict[str, interp.Results] = {}
    for name, prompts in asked(model, config).items():
        for which in ("again", "first"):
            ask = partial(without, config, model, heads, prompts, which)
            knocked[f"{name}, {which}"] = run.stage(f"without-{name}-{which}", ask)
    tables = tables_of(types, knocked, toys)
    draw(run, tables)
    return toys, summarise(model.name, types, kind, heads, tables)


def scored(model: interp.Model, config: Config) -> interp.Results:
    """Every head on random tokens that repeat about four times, at distances that differ."""
    size = SIZES[config.size]
    block = (size.pos // 5, 3 * size.pos // 10)
    rows = interp.heads.repeated_tokens(
        model, size.rows, block=block, pos=size.pos, seed=config.seed
    )
    return interp.heads.detect(model, rows, detectors=DETECTORS, seed=config.seed)


def chosen(types: HeadTypes) -> tuple[str, list[str]]:
    """The induction heads; those that match prefixes where none is known to copy.

    Raises:
        ResultsError: neither, so there is nothing to knock out.
    """
    for kind in ("induction", PREFIX_MATCHING):
        if heads := types.heads(kind):
            return kind, heads
    raise ResultsError(
        "no head of this model matches prefixes, so none can be knocked out; look at "
        "stages/heads.parquet for how far each is from it, or take more rows (size)."
    )


def asked(model: interp.Model, config: Config) -> dict[str, Twice]:
    """Prompts by name: what is asked for was there before, or is there for the first time."""
    size, seed = SIZES[config.size], config.seed
    novels = interp.datasets.corpus("litbank")
    n, reference = size.prompts, size.reference
    return {
        "random": random_twice(model, n, block=size.block, reference=reference, seed=seed + 1),
        "names": names_twice(
            model, novels, n, context=size.context, reference=reference, seed=seed
        ),
    }


def without(
    config: Config,
    model: interp.Model,
    heads: list[str],
    prompts: Twice,
    which: Literal["again", "first"],
    kept: Path,
) -> interp.Results:
    """The loss at the end of prompts, without the heads and without random ones."""
    return interp.causal.knock_out(
        model,
        prompts.again if which == "again" else prompts.first,
        {"induction heads": heads},
        draws=SIZES[config.size].draws,
        reference=prompts.reference,
        metric="loss",
        seed=config.seed,
        memory=config.memory,
        checkpoint=kept,
    )
