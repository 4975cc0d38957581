"""What is attention? A kernel smoother, a function of a set, a soft lookup, and what it costs.

Four things are said of attention, and each is measured. A head is a kernel smoother (Tsai et al.
2019): its output is the Nadaraya-Watson estimate with kernel exp(<q, k> / sqrt(d)), an RBF in which
long keys count more. Without positions and mask it is a function of a set: permuted tokens give
permuted outputs; every position scheme breaks that, and the causal mask alone does. It is a lookup
when its scores are divided by a temperature that goes to 0: exponentially fast for each query, at
the rate of the gap between its two best scores, and in proportion to the temperature in the mean
over queries, for some gaps are small. And it costs the square of the length, where a recurrent
layer with as many parameters costs the length.

    python experiments/attention_is.py                 # SmolLM2-135M, minutes on two cores
    python experiments/attention_is.py --size full
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from attention_is_cost import cost
from attention_is_lookup import hardening, identity, norms
from attention_is_report import draw, summarise, tables_of
from attention_is_setting import Size
from attention_is_symmetry import FREE, MASKED, symmetry, trained_symmetry

import interp
from interp.core.tables.scores import Scores

SIZES = {
    "smoke": Size(3, 16, 1, 3, 2, (32, 64, 128, 256), 3),
    "default": Size(20, 48, 2, 20, 10, tuple(2**i for i in range(5, 13)), 9),
    "full": Size(60, 64, 5, 50, 20, tuple(2**i for i in range(5, 15)), 15),
}


@dataclass(frozen=True)
class Config:
    """What is run. The same config finds its results again.

    Attributes:
        model: whose heads are asked.
        encoder: a second model, which sees all tokens and has learned positions.
    """

    model: str = "smollm2-135m"
    encoder: str = "minilm-l6"
    size: Literal["smoke", "default", "full"] = "default"
    seed: int = 0
    out: Path = field(default=Path("runs"), metadata={"hash": False})


def run(config: Config) -> Scores:
    """Run or resume the experiment and return everything that was measured."""
    run = interp.runs.open_run("attention_is", config, root=config.out)
    if run.finished:
        return run.scores()
    size, seed = SIZES[config.size], config.seed
    asked = {config.model: (FREE, MASKED), config.encoder: (FREE,)}
    stages: dict[str, Callable[[Path], Scores]] = {
        "identity": lambda _: identity(config.model, size, seed),
        "norms": lambda _: norms(config.model, size, seed),
        "lookup": lambda _: hardening(config.model, size, seed),
        "symmetry": lambda _: symmetry(size, seed),
        "symmetry-trained": lambda _: trained_symmetry(asked, size, seed),
        "cost": lambda _: cost(size, seed),
    }
    found = Scores.concat([run.stage(name, compute) for name, compute in stages.items()])
    tables = tables_of(found)
    draw(run, tables)
    run.finish(found, summarise(found, tables))
    return run.scores()


def main(config: Config) -> None:
    run(config)
    folder = interp.runs.open_run("attention_is", config, root=config.out).folder
    print(interp.runs.report(folder))


if __name__ == "__main__":
    interp.runs.script(main, Config)
