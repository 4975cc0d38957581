"""Which heads find the indirect object, and along which paths?

"Mary and John went to the market, and John gave a book to" -> " Mary". We follow Wang et al. 2022
on a model of choice. Behaviour comes first: without the task there is no circuit. Then every head
and MLP is mean-ablated, every head is path-patched into the logits, every head is path-patched into
the queries of the strongest ones, and we look where those attend. Whatever is picked, is *chosen*
on half of the templates and *reported* on the other half.

    python -m experiments.ioi                 # the demo: SmolLM2-135M, a few minutes on two cores
    python -m experiments.ioi --size full     # ten times the prompts
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import pandas as pd

import interp
from experiments._shared import ENOUGH, Sized, Words, experiment
from interp.core.tables.results import Results
from interp.figures.attention import attention_summary
from interp.runs import Run

LOOKS = ("io", "s1", "s2", "first")
"""Where heads are asked to look from the last token; "first" is the first token of the prompt."""
words = Words(__file__)


@dataclass(frozen=True, kw_only=True)
class Config(Sized):
    """What is run.

    Attributes:
        prompts: prompt pairs; a multiple of 40 balances templates and orders.
        ablated: how many of them the ablation sweep takes, which costs most by far; each template
            once for every 20.
        reference: prompts of the mean in mean ablation (30 for each of the 20 templates).
        heads: how many heads are chosen and reported.
    """

    sizes: ClassVar = {
        "smoke": {"prompts": 6, "ablated": 4, "reference": 40, "heads": 2},
        "default": {"prompts": 40, "ablated": 20, "reference": 600, "heads": 5},
        "full": {"prompts": 400, "ablated": 200, "reference": 2000, "heads": 5},
    }
    model: str = "smollm2-135m"
    prompts: int | None = None
    ablated: int | None = None
    reference: int | None = None
    heads: int | None = None
    corruption: Literal["abc", "swap"] = "abc"
    memory: int | None = field(default=None, metadata={"hash": False})


@experiment("ioi")
def run(run: Run, config: Config) -> tuple[Results, str]:
    """Everything that was measured."""
    model, seed = interp.load(config.model), config.seed
    pairs = interp.datasets.ioi(model, n=config.prompts, seed=seed, corruption=config.corruption)
    references = interp.datasets.ioi(model, n=config.reference, seed=seed + 1)
    some = pairs.select(range(min(config.ablated or 0, len(pairs))))

    behaviour = run.stage("behaviour", lambda _: interp.evaluate(model, pairs))
    ablation = run.stage(
        "ablation",
        lambda kept: interp.ablate(
            *(model, some, ["heads", "mlps"]),
            method="mean",
            reference=references,
            memory=config.memory,
            checkpoint=kept,
        ),
    )
    logits = run.stage(
        "logits",
        lambda kept: interp.path_patch(
            model, pairs, senders="heads", memory=config.memory, checkpoint=kept
        ),
    )
    chosen = list(logits.split(seed=seed)[0].top(config.heads)["site"])
    queries = {
        head: run.stage(
            f"queries-{head}",
            lambda kept, head=head: interp.path_patch(
                *(model, pairs),
                senders="heads",
                receivers=f"{head}.q",
                receiver_positions="end",
                memory=config.memory,
                checkpoint=kept,
            ),
        )
        for head in chosen
    }
    attention = run.stage("attention", lambda _: interp.attention(model, pairs, chosen, keys=LOOKS))

    reported = logits.split(seed=seed)[1].query(f"site in {chosen}", family="rows")
    draw(run, ablation, logits, reported, queries, attention)
    said = summarise(model.name, behaviour, ablation, reported, queries, attention, seed=seed)
    return Results.concat([behaviour, ablation, logits, *queries.values(), attention]), said


def strongest(results: Results, n: int, *, seed: int) -> pd.DataFrame:
    """The strongest interventions on half of the templates, as the other half has them."""
    choosing, reporting = results.split(seed=seed)
    sites = list(choosing.top(n)["site"])
    return reporting.summary().set_index("site", drop=False).loc[sites]


def most_attended(attention: Results, *, seed: int) -> pd.DataFrame:
    """Where each head looks most on half of the templates (the first token aside), and how much
    it looks there on the other half.
    """
    choosing, reporting = map(attention_summary, attention.split(seed=seed))
    choosing = choosing[choosing["position"] != "first"]
    at = choosing.loc[choosing.groupby("site")["value"].idxmax(), ["site", "position"]]
    return at.merge(reporting, on=["site", "position"]).set_index("site", drop=False)


def draw(
    run: Run,
    ablation: Results,
    logits: Results,
    reported: Results,
    queries: Mapping[str, Results],
    attention: Results,
) -> None:
    """Every figure, with its table beside it."""
    figures, chosen = interp.figures, list(queries)
    every = {
        "ablation": ("Mean ablation at all positions", ablation, chosen),
        "paths-to-logits": ("Path patching: head to logits", logits, chosen),
    }
    for head, results in queries.items():
        title = f"Path patching: head to the query of {head} at END"
        every[f"paths-to-query-{head}"] = (title, results, ())
    for name, (title, results, mark) in every.items():
        run.figure(name, figures.heads(results, title=title, mark=mark), results.summary())
    title = "Chosen heads on the other half of the templates"
    run.figure("reported-heads", figures.bars(reported, title=title), reported.summary())
    title = "Where the chosen heads attend from END"
    run.figure("attention", figures.attention(attention, title=title), attention_summary(attention))


def summarise(
    model: str,
    behaviour: Results,
    ablation: Results,
    reported: Results,
    queries: Mapping[str, Results],
    attention: Results,
    *,
    seed: int,
) -> str:
    """The result in one paragraph of numbers with their intervals.

    Args:
        reported: the chosen heads' paths into the logits, on the other half.
        queries: by head, the paths into its query.
        seed: of the halves.
    """
    clean = behaviour.summary().query("position == 'clean'").set_index("metric")
    accuracy, lost = clean.loc["accuracy"], strongest(ablation, 3, seed=seed)
    best = most_attended(attention, seed=seed).loc[list(queries)]
    heads = reported.summary().sort_values("effect", key=abs, ascending=False)
    feeding = [strongest(each, 1, seed=seed).assign(into=head) for head, each in queries.items()]
    said = [
        words("behaves", model=model, difference=clean.loc["logit_diff"], accuracy=accuracy),
        *([words("warning", enough=ENOUGH)] if accuracy["value"] < ENOUGH else []),
        words("ablation", n=lost["n"].iloc[0], sites=words.each("moved", lost)),
        words("logits", heads=words.each("moves", heads)),
        words("attention", heads=words.each("looks", best.assign(at=best["position"].str.upper()))),
        words("queries", heads=words.each("fed", pd.concat(feeding))),
        words(
            "brackets",
            null=max(r.provenance["null"] for r in (reported, ablation, *queries.values())),
        ),
    ]
    return f"{words('heading', model=model)}\n\n{' '.join(said)}\n"


def shown(run: Run) -> list[pd.DataFrame]:
    """The strongest interventions of each method."""
    results = run.results()
    columns = ["method", "site", "receiver", "effect", "low", "high", "q", "n", "clusters"]
    return [
        results.query(f"method == '{method}' and (receiver in ['', 'logits'])").top(8)[columns]
        for method in ("ablate mean", "path_patch")
    ]
