"""How much is run, and rows of scores whose unit of resampling is a seed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from interp.core.prompts.sequences import UNSCORED, Sequences
from interp.core.tables.scores import CELL, COLUMNS, Scores
from interp.datasets.tasks.repeated import repeated
from interp.models.small.native import Shape
from interp.models.small.training import Recipe
from interp.models.toy import INDUCTION


@dataclass(frozen=True)
class Rows:
    """Repeated random tokens of the toys, as `repeated` takes them."""

    vocabulary: int
    pos: int
    block: tuple[int, int]
    before: tuple[int, int]

    def following(self, n: int, *, seed: int) -> Sequences:
        """Rows in which every next token is to be predicted, as in language modelling."""
        return following(self.sequences(n, seed=seed))

    def sequences(self, n: int, *, seed: int) -> Sequences:
        """Rows in which only repeated tokens are scored."""
        return repeated(
            n,
            vocabulary=self.vocabulary,
            pos=self.pos,
            block=self.block,
            before=self.before,
            seed=seed,
        )


LARGE = Rows(48, 48, (4, 16), (0, 8))
SMALL = Rows(32, 32, (4, 8), (0, 4))


@dataclass(frozen=True)
class Size:
    """How much is run.

    Attributes:
        rows, pos: of repeated random tokens on which heads are typed; half of the rows report, and
            with 8 of them no p is under 0.008.
        prompts, context: of each kind of text, and the tokens that a prompt with names has. In the
            tokens of SmolLM2, LitBank's 80 novels have 36 names that return within 32 tokens, 66
            within 64, and 101 within 128 (at most three are taken of a novel).
        reference: rows whose mean stands in for a head that is knocked out.
        draws: random sets of heads.
        seeds: of toys; each has weights and an order of rows of its own.
        toys: their rows.
        steps, checkpoints, batch: of their training.
        held_out: rows and prompts that toys are measured on.
    """

    rows: int
    pos: int
    prompts: int
    context: int
    reference: int
    draws: int
    seeds: int
    toys: Rows
    steps: int
    checkpoints: int
    batch: int
    held_out: int

    @property
    def block(self) -> int:
        """Of random tokens: 25 as in Olsson et al. 2022, or what two of fit the context."""
        return min(25, self.context // 2)

    @property
    def recipe(self) -> Recipe:
        return Recipe(batch=self.batch)

    @property
    def shapes(self) -> dict[str, Shape]:
        """The toys by name."""
        two = replace(INDUCTION, d_vocab=self.toys.vocabulary, n_ctx=self.toys.pos)
        return {
            "one layer": replace(two, n_layers=1),
            "two layers": two,
            "one layer, smeared keys": replace(two, n_layers=1, smear=True),
        }


SIZES = {
    "smoke": Size(16, 40, 4, 32, 8, 3, 1, SMALL, 150, 4, 32, 48),
    "default": Size(32, 100, 20, 64, 40, 20, 3, LARGE, 600, 14, 64, 128),
    "full": Size(64, 100, 100, 128, 200, 100, 5, LARGE, 2000, 24, 64, 512),
}


def following(sequences: Sequences) -> Sequences:
    """The same rows with the next token as the label everywhere but at the end."""
    labels = sequences.tokens.roll(-1, 1)
    labels[:, -1] = UNSCORED
    return Sequences(sequences.tokens, labels, sequences.distance)


def of_seeds(rows: Iterable[Mapping[str, Any]], note: Mapping[str, Any]) -> Scores:
    """A table of one number for each seed: each row names `task`, `metric`, `seed`, `value`.

    Whatever else of a score's cell a row names is kept; the seed is the cluster.
    """
    frame = pd.DataFrame(list(rows)).rename(columns={"value": "total"})
    frame["cluster"] = "seed " + frame.pop("seed").astype(str)
    rest = {"site": "", "layer": None, "head": None, "probe": "", "model": "trained"}
    rest |= {"labels": "real", "subset": "all", "n": 1}
    frame = frame.assign(**{c: v for c, v in rest.items() if c not in frame})
    frame[CELL[1]] = frame[CELL[1]].fillna("")
    types = {"layer": "Int16", "head": "Int16", "total": float, "n": "int64"}
    return Scores(frame[COLUMNS].astype(types), note)
