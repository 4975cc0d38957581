"""What experiments/coreference.py is run with: its sizes, the text and the layers."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import interp
from interp.core.parts.sites import Site
from interp.datasets.corpus import Corpus
from interp.probing.fit.nets.spans import SpanClassifier
from interp.probing.fit.nets.training import Schedule


@dataclass(frozen=True)
class Numbers:
    """How much of everything.

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
    """

    novels: tuple[int, int]
    looked: tuple[int, int]
    controlled: int
    web: tuple[int, int, int]
    layers: int
    pairs: int
    fitting: int
    every: int
    epochs: int
    seeds: int


SIZES = {
    "smoke": Numbers((8, 120), (6, 120), 150, (300, 120, 200), 3, 8, 40, 30, 4, 2),
    "default": Numbers((48, 500), (48, 250), 3000, (5000, 1200, 2500), 10, 48, 160, 3, 25, 3),
    "full": Numbers((80, 2000), (80, 2000), 12_000, (40_000, 8000, 20_000), 30, 480, 960, 1, 40, 5),
}


@dataclass(frozen=True)
class Config:
    """What is run. The same config finds its results again.

    Attributes:
        size: how much of everything; numbers given by hand win.
        context: tokens that a mention may look back over: sentences share rows.
        project, hidden: dimensions of the probes of spans.
    """

    model: str = "smollm2-135m"
    size: Literal["smoke", "default", "full"] = "default"
    numbers: Numbers | None = None
    context: int = 256
    project: int = 64
    hidden: int = 128
    seed: int = 0
    out: Path = field(default=Path("runs"), metadata={"hash": False})

    def sized(self) -> "Config":
        """With the numbers that its size stands for."""
        return replace(self, numbers=self.numbers or SIZES[self.size])

    @property
    def n(self) -> Numbers:
        return self.numbers or SIZES[self.size]

    @property
    def schedule(self) -> Schedule:
        return Schedule(epochs=self.n.epochs, batch=256)

    def span_pair(self, spans: Literal[1, 2] = 2) -> SpanClassifier:
        """The classifier of the first and the last word of each span."""
        return SpanClassifier(spans, "endpoints", self.project, self.hidden)


def some(model: interp.Model, most: int) -> list[Site]:
    """The embedding and streams at equal steps up to the last layer: a divisor of their number."""
    count = model.facts.n_layers
    parts = max(n for n in range(1, count + 1) if count % n == 0 and n <= max(most, 1))
    ends = range(count // parts - 1, count, count // parts)
    return [Site("resid_pre", 0), *(Site("resid_post", layer) for layer in ends)]


def beginnings(count: int, words: int, *, seed: int) -> Corpus:
    """The beginnings of some novels, in random order."""
    text = interp.datasets.corpus("litbank")
    text = text.sample(text.n_words, seed=seed)
    cut = [replace(text, documents=(d,)).head(words).documents for d in text.documents[:count]]
    return replace(text, documents=tuple(document for (document,) in cut))
