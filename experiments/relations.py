"""Which head carries which relation, and which looks from "he" to the one who is meant?

We follow Clark et al. 2019 on a model of choice: attention between tokens becomes attention between
words, and each head is asked for the syntactic head of every word of English web text (UD EWT), by
the word that the dependent attends to most and by the word that attends to the dependent most; and
for the antecedent of every anaphor of English novels (LitBank), among all earlier mentions. Heads
that find nothing rest at the first token of a row: the word that holds it, if one does, is neither
asked nor an answer. The best head of each relation is *chosen* on half of the documents and
*reported* on the other half, beside the best fixed offset (for mentions: the nearest one, or the
nearest with the same head word) and beside the best head of the same architecture with random
weights. Two controlled sets take the easy answers away: in `modifiers` an adjective stands none to
three words before or after its noun, in `pronouns` two people of different gender stand before "he"
or "she", either one nearer.

    python experiments/relations.py                       # SmolLM2-135M: words look left only
    python experiments/relations.py --model minilm-l6     # MiniLM: words look both ways
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Literal

import pandas as pd

import interp
from interp.core.tables.scores import Scores
from interp.datasets.corpus import Corpus, Document
from interp.datasets.made.modifiers import modifiers
from interp.datasets.made.pronouns import pronouns
from interp.figures.drawing import style
from interp.figures.relations import relation_bars
from interp.figures.relations import relations as relation_map
from interp.heads.looking.attended import attended
from interp.heads.looking.links import ALL
from interp.heads.looking.relations import compare_heads, relations
from interp.models import untrained

SIZES = {  # words of web text, of novels, of each controlled set; links that a relation must have
    "smoke": (400, 600, 400, 8),
    "default": (12_000, 12_000, 8_000, 100),
    "full": (25_000, 40_000, 12_000, 100),
}
BEGINNING = 150
"""Words of a novel, at least: enough for chains of mentions."""
HE = frozenset(["he", "him", "his", "himself"])
OFFSETS = (-6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6)
"""In the controlled set; in running text those of Clark et al."""
ADJECTIVE, AMOD, OF_HE, CONTROLLED = (
    "adjective",
    "amod",
    "antecedent of he",
    "he or she, controlled",
)


@dataclass(frozen=True)
class Config:
    """What is run. The same config finds its results again.

    Attributes:
        size: of the defaults below; a number given by hand wins.
        words: of web text, whole documents but the last.
        novels: words of novels, the beginning of each.
        controlled: words of each controlled set.
        minimum: links that a relation must have to be asked.
        context: tokens that a mention may look back over: sentences share rows.
    """

    model: str = "smollm2-135m"
    size: Literal["smoke", "default", "full"] = "default"
    words: int | None = None
    novels: int | None = None
    controlled: int | None = None
    minimum: int | None = None
    context: int = 256
    seed: int = 0
    out: Path = field(default=Path("runs"), metadata={"hash": False})

    def sized(self) -> "Config":
        """With the numbers that its size stands for."""
        words, novels, controlled, minimum = SIZES[self.size]
        return replace(
            self,
            words=self.words or words,
            novels=self.novels or novels,
            controlled=self.controlled or controlled,
            minimum=self.minimum or minimum,
        )


Which = Literal["trained", "random"]
Ask = Callable[[interp.Model, Which, Config], Scores]


def run(config: Config) -> Scores:
    """Run or resume the experiment; returns the scores of chosen heads and of every baseline.

    Those of all heads are in the run's folder, `stages/`.
    """
    config = config.sized()
    run = interp.runs.open_run("relations", config, root=config.out)
    if run.finished:
        return run.scores()
    trained = interp.load(config.model)
    models = {"trained": trained, "random": untrained(trained, seed=config.seed)}
    found: dict[str, Scores] = {}
    for name, ask in (("words", of_words), ("mentions", of_mentions)):
        for which, model in models.items():
            stage = name if which == "trained" else f"{name}-{which}"
            found[stage] = run.stage(stage, asking(ask, model, which, config))
    for name, ask in (("modifiers", of_modifiers), ("pronouns", of_pronouns)):
        found[name] = run.stage(name, asking(ask, trained, "trained", config))
    tables = {name: compare_heads(scores, seed=config.seed) for name, scores in found.items()}
    by_distance = at_distances(found["modifiers"], tables["modifiers"], config)
    tables["modifiers"] = tables["modifiers"].query(f"relation == '{ADJECTIVE}'")
    draw(run, tables, by_distance)
    kept = [of_chosen(found[name], tables[name]) for name in found]
    run.finish(Scores.concat(kept), summarise(trained, tables, by_distance, config))
    return run.scores()


def asking(ask: Ask, model: interp.Model, which: Which, config: Config) -> Callable[[Path], Scores]:
    """A stage of the run."""
    return lambda _: ask(model, which, config)


def of_words(model: interp.Model, which: Which, config: Config) -> Scores:
    """Dependencies of running text."""
    text = web(config)
    return relations(
        attended(model, text), text, minimum=config.minimum or 0, model=which, seed=config.seed
    )


def of_mentions(model: interp.Model, which: Which, config: Config) -> Scores:
    """Anaphors of novels; those of "he" once more by themselves."""
    text = novels(config)
    found = attended(model, text, context=config.context)
    kinds = replace(text, documents=tuple(map(with_he, text.documents)))
    parts = [
        relations(found, corpus, minimum=config.minimum or 0, model=which, seed=config.seed)
        for corpus in (text, kinds)
    ]
    return Scores.concat([parts[0], parts[1].query(f"task == '{OF_HE}'")])


@cache
def web(config: Config) -> Corpus:
    """Web text, its documents in random order."""
    text = interp.datasets.corpus("ud-ewt", split="dev")
    return text.sample(config.words or 0, seed=config.seed)


@cache
def novels(config: Config) -> Corpus:
    """The first sentences of novels, of as many novels as leave enough words for each."""
    text = interp.datasets.corpus("litbank")
    count = min(len(text.documents), max(4, (config.novels or 0) // BEGINNING))
    each = (config.novels or 0) // count
    chosen = text.sample(text.n_words, seed=config.seed).documents[:count]
    cut = [replace(text, documents=(document,)).head(each) for document in chosen]
    return replace(text, documents=tuple(part.documents[0] for part in cut))


def with_he(document: Document) -> Document:
    """With "he" as a kind of mention."""
    mentions = tuple(
        replace(mention, kind="he") if document.text(mention).lower() in HE else mention
        for mention in document.mentions
    )
    return replace(document, mentions=mentions)


def of_modifiers(model: interp.Model, which: Which, config: Config) -> Scores:
    """Adjectives of the controlled set: all, and by the words between adjective and noun."""
    text = modifiers().sample(config.controlled or 0, seed=config.seed)
    found = attended(model, text)
    parts = []
    for name in (lambda _: ADJECTIVE, lambda f: f"{f['side']} its noun, {f['distance']} between"):
        documents = tuple(target_only(d, name(d.facts)) for d in text.documents)
        asked = replace(text, documents=documents)
        parts.append(
            relations(found, asked, minimum=1, offsets=OFFSETS, model=which, seed=config.seed)
        )
    everything = Scores.concat(parts)
    return Scores(
        everything.frame[~everything.frame["task"].str.startswith(f"{ALL}:")], parts[0].provenance
    )


def target_only(document: Document, relation: str) -> Document:
    """With a relation at the adjective that the sentence is about, and at no other word."""
    (sentence,) = document.sentences
    words = tuple(
        replace(word, relation=relation if i == int(document.facts["target"]) else None)
        for i, word in enumerate(sentence.words)
    )
    return replace(document, sentences=(replace(sentence, words=words),))


def of_pronouns(model: interp.Model, which: Which, config: Config) -> Scores:
    """Pronouns of the controlled set, of which gender alone says who is meant."""
    text = pronouns(kind="gender").sample(config.controlled or 0, seed=config.seed)
    found = relations(attended(model, text), text, minimum=1, model=which, seed=config.seed)
    found = found.query("task == 'antecedent of pronoun'")
    return Scores(found.frame.assign(task=CONTROLLED), found.provenance)


def at_distances(scores: Scores, table: pd.DataFrame, config: Config) -> pd.DataFrame:
    """The head that is chosen for all adjectives, and the best offset, at each distance."""
    parts = []
    for _, best in table[table["chosen"] & (table["relation"] == ADJECTIVE)].iterrows():
        frame = scores.frame
        there = frame["task"].str.endswith(f"between: {best['direction']}")
        told = [best["baseline"], "asked", "skipped"]
        kept = (frame["site"] == best["site"]) | frame["probe"].isin(told)
        parts.append(
            compare_heads(Scores(frame[there & kept], scores.provenance), seed=config.seed)
        )
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


def draw(run: interp.runs.Run, tables: dict[str, pd.DataFrame], by_distance: pd.DataFrame) -> None:
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
    model: interp.Model, tables: dict[str, pd.DataFrame], by_distance: pd.DataFrame, config: Config
) -> str:
    """The result in one paragraph of numbers with their intervals."""
    chosen = {name: table[table["chosen"]] for name, table in tables.items()}
    words, random = chosen["words"], chosen["words-random"]
    asked = words[words["relation"] != ALL]
    better = asked[is_better(asked)].sort_values("difference", ascending=False)
    modified = chosen["modifiers"].sort_values("choosing")
    modified = modified if model.facts.causal else modified.tail(1)  # else of the same pairs
    mentions = chosen["mentions"].sort_values("relation", key=lambda names: names != OF_HE)
    sentences = [
        f"On {config.words} words of web text the head of {model.name} that is chosen on half of "
        f"the documents beats the best fixed offset on the other half in {len(better)} of "
        f"{len(asked)} questions (a relation, asked in a direction), with random weights in "
        f"{is_better(random[random['relation'] != ALL]).sum()}.",
        *(f"{row['task']}: {against(row)}." for _, row in better.head(5).iterrows()),
    ]
    sentences.append(say_sink(words, causal=model.facts.causal))
    if model.facts.causal:
        shares = words[words["relation"] == ALL].set_index("direction")["coverage"]
        sentences.append(
            "Its words attend to their left only, so a link is asked in one direction: "
            + ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
            + "."
        )
    if len(amod := words[words["relation"] == AMOD].sort_values("choosing")):
        row = amod.iloc[-1]
        sentences.append(
            f"Does attention link an adjective to its noun better than a fixed offset? In web text "
            f"({row['task']}) {against(row)}, a difference of {interval(row, 'difference')}, "
            f"q = {row['q']:.2g}."
        )
    sentences += [
        *(
            f"Where words stand between the two (modifiers, {row['direction']}) {against(row)}: "
            + ", ".join(
                f"{at['relation']} {at['value']:.2f} against {at['baseline_value']:.2f}"
                for _, at in by_distance[by_distance["direction"] == row["direction"]].iterrows()
            )
            + "."
            for _, row in modified.iterrows()
        ),
        "Who is meant, among all earlier mentions of a novel within "
        f"{config.context} tokens? "
        + "; ".join(f"{row['task']}: {tested(row)}" for _, row in mentions.iterrows())
        + ".",
        "Of two people of different gender, to him or her who is meant: "
        f"{tested(chosen['pronouns'].iloc[0])}.",
        "Brackets are 95 % intervals over the documents (in the controlled sets nouns, "
        "or couples of people) that heads were not chosen on; q is over the chosen heads of a "
        "corpus, one for each question.",
    ]
    return f"# Relations in the attention of {model.name}\n\n{' '.join(sentences)}\n"


def say_sink(words: pd.DataFrame, *, causal: bool) -> str:
    """How much of it is the first token, where heads rest."""
    asked = words[words["relation"] != ALL]
    resting = (asked["sink"] * asked["n"]).sum() / asked["n"].sum()
    every = words.loc[words["relation"] == ALL, "skipped"]
    skipped = every.sum() if causal else every.max()  # a link is asked in one direction, or in both
    barred = (
        f"The word that holds the first token of its sentence is neither asked nor an answer, "
        f"which leaves out {skipped:.0%} of all links"
        if skipped
        else "A special token stands before the first word, so no word is skipped"
    )
    return (
        f"{barred}; of the looks of chosen heads {resting:.0%} go to that token before all words "
        "that could answer, and the answer is the best of the rest."
    )


def is_better(table: pd.DataFrame) -> pd.Series:
    """Which heads are better than their baseline."""
    return (table["q"] < style.ALPHA) & (table["difference"] > 0)


def against(row: pd.Series) -> str:
    """A head and its accuracy beside the baseline's."""
    return f"{row['site']} {interval(row)} against {row['baseline_value']:.2f} ({row['baseline']})"


def tested(row: pd.Series) -> str:
    """The same with its q: is it better at all?"""
    return f"{against(row)}, q = {row['q']:.2g}"


def interval(row: pd.Series, of: str = "") -> str:
    """A number with its interval."""
    low, high = (row[f"{of}_{end}" if of else end] for end in ("low", "high"))
    return f"{row[of or 'value']:.2f} [{low:.2f}, {high:.2f}]"


def main(config: Config) -> None:
    run(config)
    folder = interp.runs.open_run("relations", config.sized(), root=config.out).folder
    shown = ["task", "site", "model", "value", "low", "high", "baseline", "baseline_value", "q"]
    shown += ["coverage", "skipped", "sink"]
    for name in ("words", "mentions", "modifiers"):
        table = pd.read_csv(folder / "figures" / f"{name}-chosen.csv", dtype={"site": str})
        print(f"\n{table[shown].to_string(index=False, float_format='{:.3f}'.format)}")
    print(interp.runs.report(folder))


if __name__ == "__main__":
    interp.runs.script(main, Config)
