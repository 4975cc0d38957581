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

    python -m experiments.relations                       # SmolLM2-135M: words look left only
    python -m experiments.relations --model minilm-l6     # MiniLM: words look both ways
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import interp
from experiments._shared import Sized, experiment
from experiments.relations.asked import (
    ADJECTIVE,
    novels,
    of_mentions,
    of_modifiers,
    of_pronouns,
    of_words,
)
from experiments.relations.report import at_distances, draw, of_chosen, summarise
from interp.core.tables.scores import Scores
from interp.heads import compare_heads
from interp.models import untrained
from interp.runs import Run


@dataclass(frozen=True, kw_only=True)
class Config(Sized):
    """What is run.

    Attributes:
        words: of web text, whole documents but the last.
        novels: words of novels, the beginning of each.
        controlled: words of each controlled set.
        minimum: links that a relation must have to be asked.
        context: tokens that a mention may look back over: sentences share rows.
    """

    sizes: ClassVar = {
        "smoke": {"words": 400, "novels": 600, "controlled": 400, "minimum": 8},
        "default": {"words": 12_000, "novels": 12_000, "controlled": 8_000, "minimum": 100},
        "full": {"words": 25_000, "novels": 40_000, "controlled": 12_000, "minimum": 100},
    }
    model: str = "smollm2-135m"
    words: int | None = None
    novels: int | None = None
    controlled: int | None = None
    minimum: int | None = None
    context: int = 256


@experiment("relations")
def run(folder: Run, config: Config) -> tuple[Scores, str]:
    """The scores of chosen heads and of every baseline.

    Those of all heads are in the run's folder, `stages/`.
    """
    seed = config.seed
    model = interp.load(config.model)
    models = {"trained": model, "random": untrained(model, seed=seed)}
    web = interp.datasets.corpus("ud-ewt", split="dev").sample(config.words, seed=seed)
    links = {"minimum": config.minimum, "seed": seed}
    asked = {
        "words": (of_words, web, links),
        "mentions": (
            of_mentions,
            novels(config.novels, seed=seed),
            links | {"context": config.context},
        ),
    }
    found: dict[str, Scores] = {}
    for name, (ask, text, how) in asked.items():
        for which, one in models.items():
            stage = name if which == "trained" else f"{name}-{which}"
            found[stage] = folder.stage(stage, asking(ask, one, which, text, **how))
    for name, ask in (("modifiers", of_modifiers), ("pronouns", of_pronouns)):
        found[name] = folder.stage(name, asking(ask, model, words=config.controlled, seed=seed))
    tables = {name: compare_heads(scores, seed=seed) for name, scores in found.items()}
    by_distance = at_distances(found["modifiers"], tables["modifiers"], seed=seed)
    tables["modifiers"] = tables["modifiers"].query(f"relation == '{ADJECTIVE}'")
    draw(folder, tables, by_distance)
    kept = Scores.concat([of_chosen(found[name], tables[name]) for name in found])
    return kept, summarise(model, tables, by_distance, words=config.words, context=config.context)


def asking(ask: Callable[..., Scores], *what: object, **how: object) -> Callable[[Path], Scores]:
    """A stage of the run, which keeps nothing while it computes."""
    return lambda _: ask(*what, **how)
