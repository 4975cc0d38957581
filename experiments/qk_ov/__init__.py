"""Does QK choose among the candidates, and does OV say what is copied?

A head's output is its pattern (made by QK) times its values (made by OV). We take one of the two
from a corrupt run and keep the other, and ask for each one's share in what the head does when both
are taken. The corrupt prompts differ in where the answer stands, in what stands there, or in both
(`prompts`). Then QK or OV are exchanged between heads of a class, beside random heads of the
same layers. Name movers of IOI are chosen by path patching on half of the templates and reported on
the other half; induction heads are chosen by their types on rows that nothing else is measured on.
All is measured at END along the direct path to the logits, MLPs recomputed (Wang et al. 2022).

    python -m experiments.qk_ov                 # SmolLM2-135M, minutes on two cores
    python -m experiments.qk_ov --size full
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import interp
from experiments._shared import Sized, experiment
from experiments.qk_ov.exchange import parts, separate_writes, swaps
from experiments.qk_ov.prompts import INDUCTION, IOI, Written, two_candidates
from experiments.qk_ov.report import draw, effects, kept, shares, summarise, words
from interp.core.errors import ResultsError
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs
from interp.core.tables.results import Results
from interp.datasets.tasks.repeated import repeated_pairs
from interp.figures.attention import attention_summary
from interp.heads.types.repeats import ordinary, repeated_tokens
from interp.runs import Run

BLOCK = (20, 30)
"""Tokens that are repeated."""
OTHER_ROWS = 1000
"""Added to a seed for rows that heads are chosen on."""


def _sizes(*numbers: int) -> dict[str, Any]:
    return dict(zip(("prompts", "rows", "typed", "heads", "draws"), numbers, strict=True))


@dataclass(frozen=True, kw_only=True)
class Config(Sized):
    """What is run.

    Attributes:
        prompts: IOI prompts; 20 have every template once, and half of them are chosen on.
        rows: repeated random rows, drawn for induction.
        typed: rows that induction heads are found on.
        heads: of each class, at least 2.
        draws: random heads for each donor.
    """

    sizes: ClassVar = {
        "smoke": _sizes(20, 12, 24, 2, 1),
        "default": _sizes(80, 60, 32, 4, 3),
        "full": _sizes(400, 300, 64, 6, 3),
    }
    model: str = "smollm2-135m"
    prompts: int | None = None
    rows: int | None = None
    typed: int | None = None
    heads: int | None = None
    draws: int | None = None
    memory: int | None = field(default=None, metadata={"hash": False})


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


@experiment("qk_ov")
def run(run: Run, config: Config) -> tuple[Results, str]:
    """Everything that was measured."""
    model = interp.load(config.model)
    separate_writes(model)  # refused now, not after the heads are chosen
    everything, said = [], [words("heading", model=model.name)]
    for of, found in ((movers(model, config), named), (inducers(model, config), typed)):
        heads, kin = found(run, model, of, config)
        stages = measure(run, model, of, heads, kin, config)
        everything += stages.values()
        seed = config.seed
        looks = attention_summary(stages["attention"])
        table, share = effects(stages["parts"], seed), shares(stages["parts"], seed)
        left = kept(stages["swaps"], seed)
        draw(run, of.name, table, share, left, stages["attention"])
        said.append(summarise(of.name, [str(h) for h in heads], table, share, left, looks))
    return Results.concat(everything), "\n\n".join([*said, words("brackets")])


def movers(model: interp.Model, config: Config) -> Class:
    """Name movers, on IOI prompts."""
    # "swap" has S2 exchanged for IO, so that the choice is by what the heads do about it
    pairs = interp.datasets.ioi(model, n=config.prompts, seed=config.seed, corruption="swap")
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
                config.rows, vocabulary=ids, seed=seed, block=BLOCK, before=(0, 0), bos=start
            ),
            bos=bos,
        )
        for seed in (config.seed + OTHER_ROWS, config.seed)
    )
    looks = ("successor", "other", "rival", "end", "first")
    return Class("induction heads", choosing, reporting, INDUCTION, looks)


Found = tuple[list[Site], list[Site]]
"""The heads that are reported, and all of their kind."""


def named(run: Run, model: interp.Model, of: Class, config: Config) -> Found:
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
    return in_order(table["site"].head(config.heads)), in_order(kin["site"])


def typed(run: Run, model: interp.Model, of: Class, config: Config) -> Found:
    """The strongest induction heads by type, on other rows; of their kind are prefix matchers."""
    seed = config.seed + OTHER_ROWS
    scores = run.stage(
        f"{of.stem}-chosen",
        lambda _: interp.heads.detect(
            model, repeated_tokens(model, config.typed, seed=seed), seed=seed
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
    run: Run,
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
                draws=config.draws,
                seed=config.seed,
            ),
        ),
        "attention": run.stage(
            f"{of.stem}-attention",
            lambda _: interp.attention(model, of.reporting, list(heads), keys=of.looks),
        ),
    }
