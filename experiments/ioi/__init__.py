"""Which heads find the indirect object, and along which paths?

"Mary and John went to the market, and John gave a book to" -> " Mary". We follow Wang et al. 2022
on a model of choice. Behaviour comes first: without the task there is no circuit. Then every head
and MLP is mean-ablated, every head is path-patched into the logits, every head is path-patched into
the queries of the strongest ones, and we look where those attend. Whatever is picked, is *chosen*
on half of the templates and *reported* on the other half.

    python experiments/ioi.py                 # the demo: SmolLM2-135M, a few minutes on two cores
    python experiments/ioi.py --size full     # ten times the prompts
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pandas as pd

import interp
from interp.figures.attention import attention_summary
from interp.runs import interval

LOOKS = ("io", "s1", "s2", "first")
"""Where heads are asked to look from the last token; "first" is the first token of the prompt."""
ENOUGH = 0.75
"""Accuracy under which a model does not do the task, so that a circuit would explain nothing."""


@dataclass(frozen=True)
class Config:
    """What is run. The same config finds its results again.

    Attributes:
        size: of the defaults below; a number given by hand wins.
        prompts: prompt pairs; a multiple of 40 balances templates and orders.
        ablated: how many of them the ablation sweep takes, which costs most by far; each template
            once for every 20.
        reference: prompts of the mean in mean ablation (30 for each of the 20 templates).
        heads: how many heads are chosen and reported.
    """

    model: str = "smollm2-135m"
    size: Literal["smoke", "default", "full"] = "default"
    prompts: int | None = None
    ablated: int | None = None
    reference: int | None = None
    heads: int = 5
    corruption: Literal["abc", "swap"] = "abc"
    seed: int = 0
    out: Path = field(default=Path("runs"), metadata={"hash": False})
    memory: int | None = field(default=None, metadata={"hash": False})

    def sized(self) -> "Config":
        """With the numbers that its size stands for."""
        sizes = {"smoke": (10, 5, 40), "default": (40, 20, 600), "full": (400, 200, 2000)}
        prompts, ablated, reference = sizes[self.size]
        return replace(
            self,
            prompts=self.prompts or prompts,
            ablated=self.ablated or ablated,
            reference=self.reference or reference,
        )


def run(config: Config) -> interp.Results:
    """Run or resume the experiment and return everything that was measured."""
    config = config.sized()
    run = interp.runs.open_run("ioi", config, root=config.out)
    if run.finished:
        return run.results()
    model = interp.load(config.model)
    pairs = interp.datasets.ioi(
        model, n=config.prompts or 0, seed=config.seed, corruption=config.corruption
    )
    references = interp.datasets.ioi(model, n=config.reference or 0, seed=config.seed + 1)

    behaviour = run.stage("behaviour", lambda _: interp.evaluate(model, pairs))
    ablation = run.stage(
        "ablation",
        lambda kept: interp.ablate(
            model,
            pairs.select(range(min(config.ablated or 0, len(pairs)))),
            ["heads", "mlps"],
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
    chosen = list(logits.split(seed=config.seed)[0].top(config.heads)["site"])
    queries = {
        head: run.stage(
            f"queries-{head}",
            lambda kept, head=head: interp.path_patch(
                model,
                pairs,
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

    reported = logits.split(seed=config.seed)[1].query(f"site in {chosen}", family="rows")
    draw(run, ablation, logits, reported, queries, attention, chosen)
    everything = interp.Results.concat([behaviour, ablation, logits, *queries.values(), attention])
    measured = {"ablation": ablation, **queries}
    found = summarise(model, behaviour, measured, reported, attention, seed=config.seed)
    run.finish(everything, found)
    return run.results()


def strongest(results: interp.Results, n: int, *, seed: int) -> pd.DataFrame:
    """The strongest interventions on half of the templates, as the other half has them."""
    choosing, reporting = results.split(seed=seed)
    sites = list(choosing.top(n)["site"])
    return reporting.summary().set_index("site", drop=False).loc[sites]


def most_attended(attention: interp.Results, *, seed: int) -> pd.DataFrame:
    """Where each head looks most on half of the templates (the first token aside), and how much
    it looks there on the other half.
    """
    choosing, reporting = map(attention_summary, attention.split(seed=seed))
    choosing = choosing[choosing["position"] != "first"]
    at = choosing.loc[choosing.groupby("site")["value"].idxmax(), ["site", "position"]]
    return at.merge(reporting, on=["site", "position"]).set_index("site", drop=False)


def draw(
    run: interp.runs.Run,
    ablation: interp.Results,
    logits: interp.Results,
    reported: interp.Results,
    queries: dict[str, interp.Results],
    attention: interp.Results,
    chosen: list[str],
) -> None:
    """Every figure, with its table beside it."""
    figures = interp.figures
    run.figure(
        "ablation",
        figures.heads(ablation, title="Mean ablation at all positions", mark=chosen),
        ablation.summary(),
    )
    run.figure(
        "paths-to-logits",
        figures.heads(logits, title="Path patching: head to logits", mark=chosen),
        logits.summary(),
    )
    run.figure(
        "reported-heads",
        figures.bars(reported, title="Chosen heads on the other half of the templates"),
        reported.summary(),
    )
    for head, results in queries.items():
        title = f"Path patching: head to the query of {head} at END"
        run.figure(f"paths-to-query-{head}", figures.heads(results, title=title), results.summary())
    run.figure(
        "attention",
        figures.attention(attention, title="Where the chosen heads attend from END"),
        attention_summary(attention),
    )


def summarise(
    model: interp.Model,
    behaviour: interp.Results,
    measured: dict[str, interp.Results],
    reported: interp.Results,
    attention: interp.Results,
    *,
    seed: int,
) -> str:
    """The result in one paragraph of numbers with their intervals.

    Args:
        measured: the ablation, and by head the paths into its query.
        seed: of the halves.
    """
    clean = behaviour.summary().query("position == 'clean'").set_index("metric")
    difference, accuracy = clean.loc["logit_diff"], clean.loc["accuracy"]
    heads = reported.summary().sort_values("effect", key=abs, ascending=False)
    lost = strongest(measured["ablation"], 3, seed=seed)
    best = most_attended(attention, seed=seed)
    queries = {head: results for head, results in measured.items() if head != "ablation"}
    feeding = {head: strongest(results, 1, seed=seed).iloc[0] for head, results in queries.items()}
    null = max(r.provenance["null"] for r in (reported, *measured.values()))
    sentences = [
        f"On {int(difference['n'])} IOI prompts from {int(difference['clusters'])} templates, "
        f"{model.name} prefers the indirect object by a logit difference of "
        f"{interval(difference, digits=2)} and is right on {interval(accuracy, digits=2)} of them.",
        "What follows was chosen on half of the templates and is measured on the other half. "
        f"Mean ablation ({int(lost['n'].iloc[0])} prompts) moves it most at "
        + ", ".join(
            f"{row['site']} ({interval(row, 'effect', digits=2)})" for _, row in lost.iterrows()
        )
        + ".",
        "The heads with the largest direct effect on the logits move it by "
        + ", ".join(
            f"{row['site']} {interval(row, 'effect', digits=2)}" for _, row in heads.iterrows()
        )
        + " when their value is taken from the corrupt prompts.",
        "From END they attend most to "
        + ", ".join(
            f"{row['site']}: {row['position'].upper()} {interval(row, digits=2)}"
            for _, row in best.loc[list(queries)].iterrows()
        )
        + " (the first token aside).",
        "Their queries there are fed most by "
        + ", ".join(
            f"{row['site']} -> {head}.q ({interval(row, 'effect', digits=2)})"
            for head, row in feeding.items()
        )
        + ".",
        "Brackets are 95 % intervals over templates; the null control moved the metric "
        f"by at most {null:.0e}.",
    ]
    if accuracy["value"] < ENOUGH:
        sentences.insert(
            1,
            f"WARNING: an accuracy under {ENOUGH:.0%} means that the model does not do the task; "
            "what follows explains little.",
        )
    return f"# Indirect object identification in {model.name}\n\n{' '.join(sentences)}\n"


def main(config: Config) -> None:
    results = run(config)
    folder = interp.runs.open_run("ioi", config.sized(), root=config.out).folder
    accuracy = results.query("metric == 'accuracy' and position == 'clean'").frame["value"].mean()
    if accuracy < ENOUGH:
        print(f"WARNING: accuracy {accuracy:.0%}; the model does not do the task")
    shown = ["site", "receiver", "effect", "low", "high", "q", "n", "clusters"]
    for method in ("ablate mean", "path_patch"):
        table = results.query(f"method == '{method}' and (receiver in ['', 'logits'])").top(8)
        print(f"\n{method}\n{table[shown].to_string(index=False, float_format='{:.3f}'.format)}")
    print(interp.runs.report(folder))


if __name__ == "__main__":
    interp.runs.script(main, Config)
