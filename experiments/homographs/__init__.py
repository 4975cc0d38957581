"""At which layer is "ring" a noun or a verb? Does a far-away "money" decide "bank"?

Sets of our own, split by lemma, so that a probe is asked about words that it was not trained on.
First the homographs: "my *ring* fell" / "they will *ring* the bell". Linear probes read the use
off the residual stream at the target, after every layer. Where the deciding words come before the
target, a causal model can know; wordings that the probe was trained on are kept apart from new
ones, since an untrained model too tells two known sentences apart. Where the deciding words only
follow, the model runs on the very same tokens for both uses, and must be at chance. Then the
probes are asked about web text (the noun-verb file), and probes of web text (UD EWT) about the
homographs.

Second the senses: "the *money* ... the bank", with 0 to 40 words between, and two cues that may
disagree. One probe reads nature or culture off the target, another off the word before it, which
knows the topic but not the target.

    python -m experiments.homographs                 # SmolLM2-135M, minutes on two cores
    python -m experiments.homographs --size full     # all cues, more web text
"""

from dataclasses import dataclass
from typing import ClassVar

import interp
from experiments._shared import Sized, experiment, steps, streams
from experiments.homographs.asked import ask_senses, ask_uses
from experiments.homographs.items import Items
from experiments.homographs.report import draw, summarise
from interp.core.tables.scores import Scores
from interp.datasets.corpus import Corpus
from interp.models import untrained
from interp.probing import collect
from interp.runs import Run


@dataclass(frozen=True, kw_only=True)
class Config(Sized):
    """What is run.

    Attributes:
        layers: residual streams of the trained and of the untrained model, at equal steps.
        uses, senses: lemmas of train, dev and test, of the homographs and of the senses.
        words: of UD EWT and of the noun-verb file.
        cues: one of so many cues of every sense.
        context: tokens that a word of web text may see.
    """

    sizes: ClassVar = {
        name: dict(zip(("layers", "uses", "senses", "words", "cues"), numbers, strict=True))
        for name, numbers in {
            "smoke": ((2, 2), (2, 1, 2), (2, 1, 2), (200, 100), 2),
            "default": ((30, 6), (30, 10, 10), (22, 8, 8), (4_000, 5_000), 2),
            "full": ((30, 30), (30, 10, 10), (22, 8, 8), (21_000, 41_000), 1),
        }.items()
    }
    model: str = "smollm2-135m"
    layers: tuple[int, int] | None = None
    uses: tuple[int, int, int] | None = None
    senses: tuple[int, int, int] | None = None
    words: tuple[int, int] | None = None
    cues: int | None = None
    context: int = 256


@experiment("homographs")
def run(folder: Run, config: Config) -> tuple[Scores, str]:
    """Every score."""
    model = interp.load(config.model)
    models = {"trained": model, "random": untrained(model, seed=config.seed)}
    n = model.facts.n_layers
    sites = {
        which: streams(depth - 1 for depth in steps(n, count))
        for which, count in zip(models, config.layers or (), strict=True)
    }
    kept = folder.folder / "activations"

    def items(
        name: str, corpus: Corpus, *, context: int | None = None, control: bool = True
    ) -> Items:
        """The words of a corpus; without `control` of the trained model alone."""
        found = {
            which: collect(
                models[which],
                corpus,
                sites=sites[which],
                context=context,
                folder=kept / f"{which}-{name}",
            )
            for which in (models if control else ["trained"])
        }
        return Items.of(corpus, found["trained"], found.get("random"))

    uses = folder.stage(
        "uses",
        lambda _: ask_uses(
            items,
            lemmas=config.uses,
            words=config.words,
            context=config.context,
            seed=config.seed,
        ),
    )
    meanings = folder.stage(
        "senses",
        lambda _: ask_senses(items, lemmas=config.senses, cues=config.cues, seed=config.seed),
    )
    scores = Scores.concat([uses, meanings])
    draw(folder, scores)
    return scores, summarise(model.name, scores)
