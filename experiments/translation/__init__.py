"""A translator that is understood: what "Attention is all you need" built, opened.

Encoder-decoders of the paper's shape are trained here on two languages of a small grammar (see
`interp.models.translator`), so that it is known which word translates which. Asked are:

- Which heads of cross-attention align words with what they become, beside fixed offsets?
- Are they used: does a word's change reach its translation through their keys or their values, and
  does the attention weight tell so?
- Where is agreement resolved: gender and number, which English shows at the noun alone? In the
  encoder, by the decoder's look at the noun, or from the words that it has written?
- Is order lost without positions?
- What do the encoder's layers hold: words, roles, what words are together?

    python -m experiments.translation                # minutes on two cores, of which 4 train, once
    python -m experiments.translation --size smoke
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import interp
from experiments._shared import Sized, experiment
from experiments.translation.agreeing import cases, resolved, sources
from experiments.translation.aligning import aligned
from experiments.translation.holding import held
from experiments.translation.ordering import ordered
from experiments.translation.report import Found, draw, summarise
from experiments.translation.setting import SIZES, Size, Twin, exchanged, nouns_of, trained
from experiments.translation.using import used
from interp.core.tables.results import Results
from interp.core.tables.scores import Scores
from interp.models.translator.grammar import clauses
from interp.runs import Run


@dataclass(frozen=True, kw_only=True)
class Config(Sized):
    """What is run.

    Attributes:
        depths: layers of each translator, of its encoder and of its decoder; the first one is also
            trained without positions.
    """

    sizes: ClassVar = {
        "smoke": {"depths": (1,)},
        "default": {"depths": (3, 1)},
        "full": {"depths": (3, 2, 1)},
    }
    depths: tuple[int, ...] | None = None


@experiment("translation")
def run(run: Run, config: Config) -> tuple[Scores, str]:
    """What the encoders hold; stages/ has all tables."""
    size, seed = SIZES[config.size], config.seed
    depths = config.depths or (1,)
    deep = depths[0]
    toys = {depth: trained(size, seed, layers=depth) for depth in depths}
    without = trained(size, seed, layers=deep, positions="none")
    found = {depth: asked(run, toys[depth].model, depth, size, seed) for depth in depths}
    unseen = clauses(size.translated, split="test", seed=seed + 3)
    given = {"with": toys[deep], "without": without}
    order = run.stage("order", lambda _: ordered(given, unseen))
    draw(run, found, order)
    told = summarise(found, order, {depth: toy.accuracy for depth, toy in toys.items()})
    return Scores.concat([one.holds.named(f"{depth} layers") for depth, one in found.items()]), told


def asked(run: Run, model: interp.Model, depth: int, size: Size, seed: int) -> Found:
    """Everything of one translator."""
    sentences = clauses(size.aligned, split="test", seed=seed + 1)
    twins = {name: nouns_of(name, size.twins, seed + 2) for name in ("gender", "number")}
    aligns = run.stage(f"aligned-{depth}", lambda _: aligned(model, sentences))
    uses = run.stage(f"used-{depth}", lambda _: used(model, exchanged(size.used, seed + 4)))
    moved: dict[str, tuple[Results, Results]] = {}
    for name, (read, of) in cases(twins).items():
        stage = f"{name.replace(' ', '-')}-{depth}"

        def whence(_: Path, read: str = read, of: Sequence[Twin] = of) -> Results:
            return sources(model, read, of)

        moved[name] = (
            run.stage(stage, partial(resolved, model, read, of)),
            run.stage(f"{stage}-sources", whence),
        )
    holds = run.stage(f"held-{depth}", lambda _: held(model, size, seed))
    return Found(aligns, uses, moved, holds)
