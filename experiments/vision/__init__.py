"""What does a vision transformer do to tell a digit? A compact one, trained here on real digits.

Three layers of four heads read 8 x 8 pixels as 4 x 4 patches (`interp.models.toy.digits`). Asked of
images that it has not learned from: what is lost without each head; which heads bring which patches
to the class token, and is that what they attend to; and where the class can be read by layer,
beside an untrained model, the pixels themselves and shuffled labels. Whatever is chosen is chosen
on one half of the images and reported on the other.

That a head brings a patch is measured by taking it away: at the class token the head's output is
changed as if the value of that patch were the mean over other images, the attention as it was.

    python -m experiments.vision                 # trains the model, minutes on two cores
    python -m experiments.vision --size smoke
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import interp
from experiments._shared import Sized, experiment
from experiments.vision.measured import attended, brought, joint, lost, told
from experiments.vision.probes import probed
from experiments.vision.report import draw, summarise
from interp.core.tables.results import Results
from interp.models.toy import digits
from interp.runs import Run


@dataclass(frozen=True, kw_only=True)
class Config(Sized):
    """What is run.

    Attributes:
        steps: of the training.
        pairs: of held-out images.
        draws: random sets of heads beside the chosen one.
    """

    sizes: ClassVar = {
        "smoke": {"steps": 60, "pairs": 60, "draws": 3},
        "default": {"steps": 2_000, "pairs": 280, "draws": 20},
        "full": {"steps": 6_000, "pairs": 280, "draws": 100},
    }
    steps: int | None = None
    pairs: int | None = None
    draws: int | None = None


@experiment("vision")
def run(folder: Run, config: Config) -> tuple[Results, str]:
    """The effects of every ablation; the scores of the probes are in the run's folder, `stages/`.

    The model stays there too, in `model/`, where `interp.load` reads it.
    """
    seed = config.seed
    model = digits(folder.folder / "model", steps=config.steps or 1, seed=seed)
    pairs = interp.datasets.digits(model, n=config.pairs or 1, seed=seed)
    tables = {
        name: folder.stage(name, partial(measure, model, pairs))
        for name, measure in (("lost", lost), ("brought", brought), ("attended", attended))
    }
    sets = folder.stage(
        "joint", lambda _: joint(model, pairs, tables["lost"], draws=config.draws or 1, seed=seed)
    )
    right = folder.stage("told", partial(told, model))
    scores = folder.stage("probes", lambda _: probed(model, seed=seed))
    draw(folder, tables, scores, seed=seed)
    found = Results.concat([*tables.values(), sets])
    return found, summarise(model, tables, sets, scores, right, seed=seed)
