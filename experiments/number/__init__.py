"""Is a noun's number decodable, and is it what the verb agrees with?

Singular and plural nouns of English web text (UD EWT) are told apart by linear probes after some
layers, beside every control of `interp.probing.tagging`. Then the same property is taken away
(LEACE, Belrose et al. 2023; what the probe reads; as many random directions, as many of the same
variance, LEACE of control-task labels) at every token but the first of Marvin & Linzen's (2018)
agreement prompts, and the model is asked for the verb. The erasures are fitted to nouns alone, so
at the other tokens of a prompt they take away what would be number in a noun. Last, the
activations at the end of the prompt are moved along the probe's direction, towards the other number
and away from it, and along a random direction as far.

    python -m experiments.number                 # SmolLM2-135M, 10 minutes on two cores
    python -m experiments.number --size smoke
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import interp
from experiments._probing import with_dev
from experiments._shared import Sized, experiment, steps, streams
from experiments.number.report import draw, summarise
from experiments.number.use import TASK, erasing, nouns, steering
from interp.core.tables.scores import Scores
from interp.datasets.tasks.agreement import agreement
from interp.probing import tagging
from interp.runs import Run


@dataclass(frozen=True, kw_only=True)
class Config(Sized):
    """What is run.

    Attributes:
        words: of train, dev and test.
        layers: residual streams beside the embedding, at equal steps.
        prompts: of agreement.
        draws: of each control of an erasure.
        context: tokens that a word may see: sentences of a document share rows.
    """

    sizes: ClassVar = {
        "smoke": {"words": (600, 200, 300), "layers": 2, "prompts": 12, "draws": 3},
        "default": {"words": (30_000, 6_000, 10_000), "layers": 10, "prompts": 160, "draws": 8},
        "full": {"words": (60_000, 12_000, 30_000), "layers": 30, "prompts": 600, "draws": 8},
    }
    model: str = "smollm2-135m"
    words: tuple[int, int, int] | None = None
    layers: int | None = None
    prompts: int | None = None
    draws: int | None = None
    context: int = 256


@experiment(TASK)
def run(folder: Run, config: Config) -> tuple[Scores, str]:
    """The scores of the probes. What the interventions did is in the run's folder, `stages/`."""
    seed = config.seed
    model = interp.load(config.model)
    sites = streams(steps(model.facts.n_layers - 1, config.layers or 1))
    splits = nouns(
        model,
        sites,
        folder.folder / "activations",
        counts=config.words,
        context=config.context,
        seed=seed,
    )
    tags = folder.stage(
        "probes", lambda _: with_dev(tagging(*splits.values(), task=TASK, seed=seed))
    )
    pairs = agreement(model, n=config.prompts, seed=seed)
    train, dev = splits["train"], splits["dev"]
    erased = folder.stage(
        "erased", partial(erasing, model, pairs, train, dev, sites, draws=config.draws, seed=seed)
    )
    steered = folder.stage("steered", partial(steering, model, pairs, train, sites, seed=seed))
    draw(folder, tags, erased, steered)
    return tags, summarise(model, tags, erased, steered)
