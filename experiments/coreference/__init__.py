"""Who does "he" refer to: where is it decodable, which head looks there, and does the model use it?

*Decodable*: mention pairs of English novels (LitBank), half of which corefer, as many at each
distance; a span-pair probe and a bilinear one after some layers, beside a control task (a label
drawn once for each pair of head words), the same architecture with random weights, and methods
without a model. *Attended*: in each layer the head that is best, on half of the documents, at
looking from a pronoun to its antecedent, reported on the other half (Clark et al. 2019); and the
same between two people of different gender. *Used*: on minimal pairs, what the difference of the
two answers' logits loses when LEACE (Belrose et al. 2023) takes the gender away at the noun or at
the end ("... and the nun laughed because" -> she), beside random directions; and when a layer's
head is set to its mean, takes the twin prompt's value, or has that reach the logits alone, beside
other heads of the layer. Heads are asked first where there is a pronoun to look from ("The nun
called the monk when she ... It was easy to help the" -> nun). The three stand side by side. Last,
the *order*: the expected layer (Tenney et al. 2019) of part of speech, dependency relations and
coreference.

    python -m experiments.coreference                 # SmolLM2-135M, 15 minutes on two cores
    python -m experiments.coreference --size smoke
"""

from dataclasses import dataclass
from functools import cache, partial
from typing import ClassVar, Literal

import interp
from experiments._probing import beginnings
from experiments._shared import Sized, experiment, steps, streams
from experiments.coreference.decode import decodable
from experiments.coreference.look import acted_on, best_heads, looking
from experiments.coreference.order import expected_layers, in_order
from experiments.coreference.panel import CONTROLLED, PRONOUN, differences, side_by_side, used
from experiments.coreference.report import draw, summarise
from experiments.coreference.use import (
    Gendered,
    Minimal,
    acting,
    behaviour,
    erasing,
    halves,
    still_read,
)
from interp.core.parts.sites import Site
from interp.core.tables.scores import Scores
from interp.models import untrained
from interp.probing import Schedule, SpanClassifier
from interp.runs import Run


@dataclass(frozen=True, kw_only=True)
class Config(Sized):
    """What is run.

    Attributes:
        novels: novels for the probes, and words of the beginning of each.
        looked: the same for attention: rather more novels, as these are what is resampled.
        controlled: words of the controlled set, for attention.
        web: words of train, dev and test of web text.
        layers: residual streams that are read, beside the embedding; at most.
        pairs, fitting: minimal pairs that are intervened on, and those that the erasures and the
            means are fitted to.
        every: so many layers have one whose head is intervened on.
        epochs: of the probes, at most.
        seeds: trainings of each cumulative probe.
        context: tokens that a mention may look back over: sentences share rows.
        project, hidden: dimensions of the probes of spans.
    """

    sizes: ClassVar = {
        "smoke": {"novels": (8, 90), "looked": (6, 90), "controlled": 120}
        | {"web": (240, 90, 120), "layers": 2, "pairs": 8, "fitting": 24, "every": 30}
        | {"epochs": 3, "seeds": 2},
        "default": {"novels": (48, 500), "looked": (48, 250), "controlled": 3000}
        | {"web": (5000, 1200, 2500), "layers": 10, "pairs": 48, "fitting": 160, "every": 3}
        | {"epochs": 25, "seeds": 3},
        "full": {"novels": (80, 2000), "looked": (80, 2000), "controlled": 12_000}
        | {"web": (40_000, 8000, 20_000), "layers": 30, "pairs": 480, "fitting": 960, "every": 1}
        | {"epochs": 40, "seeds": 5},
    }
    model: str = "smollm2-135m"
    novels: tuple[int, int] | None = None
    looked: tuple[int, int] | None = None
    controlled: int | None = None
    web: tuple[int, int, int] | None = None
    layers: int | None = None
    pairs: int | None = None
    fitting: int | None = None
    every: int | None = None
    epochs: int | None = None
    seeds: int | None = None
    context: int = 256
    project: int = 64
    hidden: int = 128


@experiment("coreference")
def run(folder: Run, config: Config) -> tuple[Scores, str]:
    """The scores of probes, chosen heads and baselines.

    What the interventions did is in the run's folder, `stages/`.
    """
    seed, context = config.seed, config.context
    model = interp.load(config.model)
    models = {"trained": model, "random": untrained(model, seed=seed)}
    kept = folder.folder / "activations"
    minimal = Minimal(config.fitting, config.pairs, seed)
    sites = some(model, config.layers or 1)
    text = beginnings(*(config.novels or ()), seed=seed)
    trained = {
        "net": partial(span_pair, config.project, config.hidden),
        "schedule": Schedule(epochs=config.epochs, batch=256),
        "kept": kept,
        "context": context,
    }
    trainings = range(seed, seed + (config.seeds or 1))

    @cache
    def gendered(which: int) -> Gendered:
        return Gendered.of(model, halves(model, minimal)[which], sites)

    decoded = folder.stage(
        "decodable", lambda _: decodable(models, text, sites, **trained, seed=seed)
    )
    order = folder.stage(
        "order",
        lambda _: in_order(model, text, sites, **trained, words=config.web, seeds=trainings),
    )
    looks = folder.stage(
        "attended",
        lambda _: looking(model, config.looked, config.controlled, context=context, seed=seed),
    )
    heads = best_heads(looks, PRONOUN)
    does = folder.stage("behaviour", lambda _: behaviour(model, minimal))
    erased = folder.stage("erased", partial(erasing, model, minimal, partial(gendered, 0)))
    reads = folder.stage("still-read", lambda _: still_read(gendered(0), gendered(1)))
    chosen = acted_on(looks, every=config.every)
    acts = folder.stage("heads", partial(acting, model, chosen, minimal))
    scores = Scores.concat([decoded, order, reads, heads, best_heads(looks, CONTROLLED)])
    uses = used(erased, acts, does, seed=seed)
    panel, less = side_by_side(scores, uses), differences(scores, uses)
    expected = expected_layers(order)
    draw(folder, scores, order, reads, panel, less, expected)
    return scores, summarise(model, scores, looks, reads, panel, less, uses, expected, does)


def some(model: interp.Model, most: int) -> list[Site]:
    """The embedding and streams at equal steps up to the last layer: a divisor of their number."""
    count = model.facts.n_layers
    parts = max(n for n in range(1, count + 1) if count % n == 0 and n <= max(most, 1))
    return streams(depth - 1 for depth in steps(count, parts))


def span_pair(project: int, hidden: int, spans: Literal[1, 2] = 2) -> SpanClassifier:
    """The classifier of the first and the last word of each span."""
    return SpanClassifier(spans, "endpoints", project, hidden)
