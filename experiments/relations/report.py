"""Which heads are reported, the figures, and the summary of `relations`."""

from collections.abc import Iterator

import pandas as pd

import interp
from experiments._shared import Words
from experiments.relations.asked import ADJECTIVE, OF_HE
from interp.core.tables.scores import Scores
from interp.figures.drawing import style
from interp.figures.relations import relation_bars
from interp.figures.relations import relations as relation_map
from interp.heads import compare_heads
from interp.heads.looking.links import ALL
from interp.runs import Run

say = Words(__file__)


def at_distances(scores: Scores, table: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """The head that is chosen for all adjectives, and the best offset, at each distance."""
    parts = []
    for _, best in table[table["chosen"] & (table["relation"] == ADJECTIVE)].iterrows():
        frame = scores.frame
        there = frame["task"].str.endswith(f"between: {best['direction']}")
        told = [best["baseline"], "asked", "skipped"]
        kept = (frame["site"] == best["site"]) | frame["probe"].isin(told)
        parts.append(compare_heads(Scores(frame[there & kept], scores.provenance), seed=seed))
    return pd.concat(parts, ignore_index=True).sort_values("relation", kind="stable")


def of_chosen(scores: Scores, table: pd.DataFrame) -> Scores:
    """The scores of chosen heads; of random weights no baseline, for it is the same."""
    chosen = set(table.loc[table["chosen"], ["task", "site"]].itertuples(index=False, name=None))
    frame = scores.frame
    rows = [key in chosen for key in zip(frame["task"], frame["site"], strict=True)]
    kept = pd.Series(rows, index=frame.index)
    if "trained" in set(table["model"]):
        kept |= (frame["site"] == "") & frame["task"].isin({task for task, _ in chosen})
    return Scores(frame[kept].reset_index(drop=True), scores.provenance)


def draw(run: Run, tables: dict[str, pd.DataFrame], by_distance: pd.DataFrame) -> None:
    """Every figure, with its table beside it."""
    chosen = {name: table[table["chosen"]] for name, table in tables.items()}
    run.figure("words", relation_map(tables["words"]), tables["words"])
    mentions = pd.concat([tables["mentions"], tables["pronouns"]])
    run.figure("mentions", relation_map(mentions), mentions)
    words = pd.concat([chosen["words"], chosen["words-random"]])
    run.figure("words-chosen", relation_bars(words), words)
    mentions = pd.concat([chosen["mentions"], chosen["pronouns"], chosen["mentions-random"]])
    run.figure("mentions-chosen", relation_bars(mentions), mentions)
    distances = pd.concat([chosen["modifiers"], by_distance])
    run.figure("modifiers-chosen", relation_bars(distances), distances)


def summarise(
    model: interp.Model,
    tables: dict[str, pd.DataFrame],
    by_distance: pd.DataFrame,
    *,
    words: int | None,
    context: int,
) -> str:
    """The result in one paragraph of numbers with their intervals."""
    chosen = {name: table[table["chosen"]] for name, table in tables.items()}
    web, random = chosen["words"], chosen["words-random"]
    asked, random = (table[table["relation"] != ALL] for table in (web, random))
    better = asked[is_better(asked)].sort_values("difference", ascending=False)
    modified = chosen["modifiers"].sort_values("choosing")
    modified = modified if model.facts.causal else modified.tail(1)  # else of the same pairs
    mentions = chosen["mentions"].sort_values("relation", key=lambda names: names != OF_HE)
    sentences = [
        say(
            "words",
            n=words,
            name=model.name,
            better=len(better),
            asked=len(asked),
            random=is_better(random).sum(),
        ),
        *(say("best", row=row) for _, row in better.head(5).iterrows()),
        say_sink(web, causal=model.facts.causal),
    ]
    if model.facts.causal:
        shares = say.each("share", web[web["relation"] == ALL])
        sentences.append(say("one direction", shares=shares))
    if len(amod := web[web["relation"] == "amod"].sort_values("choosing")):
        sentences.append(say("adjectives", row=amod.iloc[-1]))
    for _, row in modified.iterrows():
        apart = by_distance[by_distance["direction"] == row["direction"]]
        sentences.append(say("modifiers", row=row, apart=say.each("apart", apart)))
    of_each = say.each("mention", mentions, by="; ")
    sentences += [
        say("mentions", context=context, mentions=of_each),
        say("two people", row=chosen["pronouns"].iloc[0]),
        say("brackets"),
    ]
    return f"{say('title', name=model.name)}\n\n{' '.join(sentences)}"


def say_sink(words: pd.DataFrame, *, causal: bool) -> str:
    """How much of it is the first token, where heads rest."""
    asked = words[words["relation"] != ALL]
    resting = (asked["sink"] * asked["n"]).sum() / asked["n"].sum()
    every = words.loc[words["relation"] == ALL, "skipped"]
    skipped = every.sum() if causal else every.max()  # a link is asked in one direction, or in both
    barred = say("skipped", skipped=skipped) if skipped else say("special")
    return say("resting", barred=barred, resting=resting)


def is_better(table: pd.DataFrame) -> pd.Series:
    """Which heads are better than their baseline."""
    return (table["q"] < style.ALPHA) & (table["difference"] > 0)


def shown(run: Run) -> Iterator[pd.DataFrame]:
    """The chosen heads beside their baselines."""
    columns = ["task", "site", "model", "value", "low", "high", "baseline", "baseline_value", "q"]
    for name in ("words", "mentions", "modifiers"):
        path = run.folder / "figures" / f"{name}-chosen.csv"
        yield pd.read_csv(path, dtype={"site": str})[[*columns, "coverage", "skipped", "sink"]]
