"""Does QK choose among the candidates, and does OV say what is copied?

A head's output is its pattern (made by QK) times its values (made by OV). We take one of the two
from a corrupt run and keep the other, and ask for each one's share in what the head does when both
are taken. The corrupt prompts differ in where the answer stands, in what stands there, or in both
(`qk_ov_parts`). Then QK or OV are exchanged between heads of a class, beside random heads of the
same layers. Name movers of IOI are chosen by path patching on half of the templates and reported on
the other half; induction heads are chosen by their types on rows that nothing else is measured on.
All is measured at END along the direct path to the logits, MLPs recomputed (Wang et al. 2022).

    python experiments/qk_ov.py                 # SmolLM2-135M, minutes on two cores
    python experiments/qk_ov.py --size full
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from qk_ov_parts import (
    INDUCTION,
    IOI,
    PARTS,
    Written,
    parts,
    separate_writes,
    swaps,
    two_candidates,
)
from qk_ov_report import REST, dodged, effects, kept, shares, summarise

import interp
from interp.core.errors import ResultsError
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs
from interp.core.tables.results import Results
from interp.datasets.tasks.repeated import repeated_pairs
from interp.figures.attention import attention_summary
from interp.heads.types.repeats import ordinary, repeated_tokens

BLOCK = (20, 30)
"""Tokens that are repeated."""
OTHER_ROWS = 1000
"""Added to a seed for rows that heads are chosen on."""


@dataclass(frozen=True)
class Config:
    """What is run. The same config finds its results again.

    Attributes:
        size: of the defaults below; a number given by hand wins.
        prompts: IOI prompts; 20 have every template once, and half of them are chosen on.
        rows: repeated random rows, drawn for induction.
        typed: rows that induction heads are found on.
        heads: of each class, at least 2.
        draws: random heads for each donor.
    """

    model: str = "smollm2-135m"
    size: Literal["smoke", "default", "full"] = "default"
    prompts: int | None = None
    rows: int | None = None
    typed: int | None = None
    heads: int | None = None
    draws: int | None = None
    seed: int = 0
    out: Path = field(default=Path("runs"), metadata={"hash": False})
    memory: int | None = field(default=None, metadata={"hash": False})

    def sized(self) -> "Config":
        """With the numbers that its size stands for."""
        sizes = {"smoke": (20, 12, 24, 2, 1), "default": (80, 60, 32, 4, 3)}
        sizes["full"] = (400, 300, 64, 6, 3)
        prompts, rows, typed, heads, draws = sizes[self.size]
        return replace(
            self,
            prompts=self.prompts or prompts,
            rows=self.rows or rows,
            typed=self.typed or typed,
            heads=self.heads or heads,
            draws=self.draws or draws,
        )


@dataclass(frozen=True)
class Class:
    """Heads that are thought to do one thing, and the prompts that they are asked on.

    Attributes:
        choosing: prompts that nothing is reported on; those of the means.
        looks: places that the heads may look at from END ("first": the first token).
    """

    name: str
    choosing: Pairs
    reporting: Pairs
    task: Mapping[str, Written]
    looks: tuple[str, ...]

    @property
    def stem(self) -> str:
        return self.name.replace(" ", "-")


def run(config: Config) -> Results:
    """Run or resume the experiment and return everything that was measured."""
    config = config.sized()
    run = interp.runs.open_run("qk_ov", config, root=config.out)
    if run.finished:
        return run.results()
    model = interp.load(config.model)
    separate_writes(model)  # refused now, not after the heads are chosen
    everything, words = [], [f"# Does QK choose and OV copy? {model.name}"]
    for of, found in ((movers(model, config), named), (inducers(model, config), typed)):
        heads, kin = found(run, model, of, config)
        stages = measure(run, model, of, heads, kin, config)
        words.append(report(run, of, heads, stages, config.seed))
        everything += stages.values()
    words.append(
        "Brackets are 95 % intervals over templates (IOI) and rows (induction). A share "
        "is undefined where both parts together have no effect that is different from 0. Query "
        "heads of a group share their values, so that a random head may differ in W_O alone."
    )
    run.finish(Results.concat(everything), "\n\n".join(words))
    return run.results()


def movers(model: interp.Model, config: Config) -> Class:
    """Name movers, on IOI prompts."""
    # "swap" has S2 exchanged for IO, so that the choice is by what the heads do about it
    pairs = interp.datasets.ioi(model, n=config.prompts or 0, seed=config.seed, corruption="swap")
    choosing, reporting = pairs.split(seed=config.seed)
    looks = ("io", "s1", "s1+1", "s2", "end", "first")
    return Class("name movers", choosing, reporting, IOI, looks)


def inducers(model: interp.Model, config: Config) -> Class:
    """Induction heads, on repeated random tokens."""
    ids, bos = ordinary(model).tolist(), int(repeated_tokens(model, 1, pos=100).shape[1] > 100)
    start = int(repeated_tokens(model, 1)[0, 0]) if bos else None
    choosing, reporting = (
        two_candidates(
            repeated_pairs(
                config.rows or 0, vocabulary=ids, seed=seed, block=BLOCK, before=(0, 0), bos=start
            ),
            bos=bos,
        )
        for seed in (config.seed + OTHER_ROWS, config.seed)
    )
    looks = ("successor", "other", "rival", "end", "first")
    return Class("induction heads", choosing, reporting, INDUCTION, looks)


Found = tuple[list[Site], list[Site]]
"""The heads that are reported, and all of their kind."""


def named(run: interp.runs.Run, model: interp.Model, of: Class, config: Config) -> Found:
    """The heads that raise the answer most by way of the logits, on the prompts for choosing.

    Of their kind are all that raise it at q < 0.05.
    """
    paths = run.stage(
        f"{of.stem}-chosen",
        lambda kept: interp.path_patch(
            model,
            of.choosing,
            senders="heads",
            sender_positions="end",
            memory=config.memory,
            checkpoint=kept,
        ),
    )
    table = paths.summary().sort_values("effect")  # most is lost without the first
    kin = table[(table["effect"] < 0) & (table["q"] < 0.05)]
    return in_order(table["site"].head(config.heads or 0)), in_order(kin["site"])


def typed(run: interp.runs.Run, model: interp.Model, of: Class, config: Config) -> Found:
    """The strongest induction heads by type, on other rows; of their kind are prefix matchers."""
    seed = config.seed + OTHER_ROWS
    scores = run.stage(
        f"{of.stem}-chosen",
        lambda _: interp.heads.detect(
            model, repeated_tokens(model, config.typed or 0, seed=seed), seed=seed
        ),
    )
    types = interp.heads.types_of(scores, seed=seed)
    kin = [*types.heads("induction"), *types.heads("prefix matching")]
    heads = types.heads("induction")[: config.heads]
    if len(heads) < 2:
        raise ResultsError(
            f"{model.name} has {len(heads)} induction heads on {config.typed} rows, and QK and OV "
            "are exchanged between two at least. Give more rows (--typed), or a larger model."
        )
    return in_order(heads), in_order(kin)


def in_order(sites: Iterable[str]) -> list[Site]:
    return sorted(map(Site.parse, sites))


def measure(
    run: interp.runs.Run,
    model: interp.Model,
    of: Class,
    heads: list[Site],
    kin: list[Site],
    config: Config,
) -> dict[str, Results]:
    """Parts, swaps and attention of one class."""
    return {
        "parts": run.stage(
            f"{of.stem}-parts", lambda _: parts(model, of.reporting, heads, of.task)
        ),
        "swaps": run.stage(
            f"{of.stem}-swaps",
            lambda _: swaps(
                *(model, of.reporting, heads),
                kin=kin,
                means=of.choosing,
                draws=config.draws or 0,
                seed=config.seed,
            ),
        ),
        "attention": run.stage(
            f"{of.stem}-attention",
            lambda _: interp.attention(model, of.reporting, list(heads), keys=of.looks),
        ),
    }


def report(
    run: interp.runs.Run, of: Class, heads: list[Site], stages: dict[str, Results], seed: int
) -> str:
    """Draw one class's figures, each with its table; its paragraph."""
    table, share = effects(stages["parts"], seed), shares(stages["parts"], seed)
    left = kept(stages["swaps"], seed)
    said = {
        "asked": "the other candidate is asked for",
        "content": "the other candidate stands there",
        "moved": "candidates moved, same answer",
    }
    shown = table[table["part"].isin([*PARTS, REST])]
    run.figure(
        f"{of.stem}-effects",
        dodged(
            shown.assign(corruption=shown["corruption"].map(said)),
            **{"x": "site", "hue": "part", "panel": "corruption"},
            ylabel="change in logits",
            title=f"{of.name}: what each part does, from the corrupt run",
        ),
        table,
    )
    shown = share[share["corruption"] != "moved"]
    run.figure(
        f"{of.stem}-shares",
        dodged(
            shown.assign(corruption=shown["corruption"].map(said)),
            **{"x": "site", "hue": "part", "panel": "corruption"},
            ylabel="share of the effect",
            level=1.0,
            title=f"{of.name}: share of each part in the effect of both",
        ),
        share,
    )
    run.figure(
        f"{of.stem}-swaps",
        dodged(
            left.assign(swapped=left["swapped"] + " of another head"),
            **{"x": "site", "hue": "donor", "panel": "swapped"},
            ylabel="contribution kept",
            level=1.0,
            title=f"{of.name}: QK or OV exchanged (1: the head's own)",
        ),
        left,
    )
    run.figure(
        f"{of.stem}-attention",
        interp.figures.attention(stages["attention"], title=f"Where {of.name} attend from END"),
        attention_summary(stages["attention"]),
    )
    looks = attention_summary(stages["attention"])
    return summarise(of.name, [str(h) for h in heads], table, share, left, looks)


def main(config: Config) -> None:
    run(config)
    folder = interp.runs.open_run("qk_ov", config.sized(), root=config.out).folder
    print(interp.runs.report(folder))


if __name__ == "__main__":
    interp.runs.script(main, Config)
