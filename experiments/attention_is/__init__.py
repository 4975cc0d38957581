"""What is attention? A kernel smoother, a function of a set, a soft lookup, and what it costs.

Four things are said of attention, and each is measured. A head is a kernel smoother (Tsai et al.
2019): its output is the Nadaraya-Watson estimate with kernel exp(<q, k> / sqrt(d)), an RBF in which
long keys count more. Without positions and mask it is a function of a set: permuted tokens give
permuted outputs; every position scheme breaks that, and the causal mask alone does. It is a lookup
when its scores are divided by a temperature that goes to 0: exponentially fast for each query, at
the rate of the gap between its two best scores, and in proportion to the temperature in the mean
over queries, for some gaps are small. And it costs the square of the length, where a recurrent
layer with as many parameters costs the length.

    python -m experiments.attention_is                 # SmolLM2-135M, minutes on two cores
    python -m experiments.attention_is --size full
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from experiments._shared import Sized, experiment
from experiments.attention_is.cost import cost
from experiments.attention_is.lookup import hardening, identity, norms
from experiments.attention_is.report import draw, summarise, tables_of
from experiments.attention_is.setting import Amount
from experiments.attention_is.symmetry import FREE, MASKED, symmetry, trained_symmetry
from interp.core.tables.scores import Scores
from interp.runs import Run

AMOUNTS = {
    "smoke": Amount(3, 16, 1, 3, 2, (32, 64, 128, 256), 3),
    "default": Amount(20, 48, 2, 20, 10, tuple(2**i for i in range(5, 13)), 9),
    "full": Amount(60, 64, 5, 50, 20, tuple(2**i for i in range(5, 15)), 15),
}


@dataclass(frozen=True, kw_only=True)
class Config(Sized):
    """What is run.

    Attributes:
        model: whose heads are asked.
        encoder: a second model, which sees all tokens and has learned positions.
    """

    model: str = "smollm2-135m"
    encoder: str = "minilm-l6"


@experiment("attention_is")
def run(folder: Run, config: Config) -> tuple[Scores, str]:
    """Everything that was measured."""
    size, seed = AMOUNTS[config.size], config.seed
    asked = {config.model: (FREE, MASKED), config.encoder: (FREE,)}
    stages: dict[str, Callable[[Path], Scores]] = {
        "identity": lambda _: identity(config.model, size, seed),
        "norms": lambda _: norms(config.model, size, seed),
        "lookup": lambda _: hardening(config.model, size, seed),
        "symmetry": lambda _: symmetry(size, seed),
        "symmetry-trained": lambda _: trained_symmetry(asked, size, seed),
        "cost": lambda _: cost(size, seed),
    }
    found = Scores.concat([folder.stage(name, compute) for name, compute in stages.items()])
    tables = tables_of(found)
    draw(folder, tables)
    return found, summarise(found, tables)
