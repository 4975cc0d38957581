"""Transformers written by hand, whose circuits are known exactly: the ground truth for methods.

    model = interp.load("compiled/induction")
    pairs = compiled.pairs("induction", corruption="answer", n=64, seed=0)
    compiled.truth("induction")[Key("resample", "answer", "all positions")]

Each file explains one construction; `blueprint` and `heads` have what they share, `construction`
what a truth is.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from interp.core.circuit import Part
from interp.core.errors import ModelError, PairsError, nearest
from interp.core.pairs import Pairs
from interp.models import native
from interp.models.compiled import frequency, induction, ioi, previous, reverse
from interp.models.compiled.construction import Construction, Key
from interp.models.model import Model

CONSTRUCTIONS: Mapping[str, Construction] = {
    "previous": previous.MODEL,
    "induction": induction.MODEL,
    "frequency": frequency.MODEL,
    "reverse": reverse.MODEL,
    "ioi": ioi.MODEL,
}
NAMES = tuple(CONSTRUCTIONS)
PREFIX = "compiled/"
"""Before a name, in `interp.load`."""


class Inputs(NamedTuple):
    """Rows that a model is made for, and what it must say.

    Attributes:
        tokens: padded on the right with "<bos>", which no earlier position sees.
        answers: the right token after each; -1 where nothing is asked, and in the padding.
    """

    tokens: Int[Tensor, "batch pos"]
    answers: Int[Tensor, "batch pos"]


def build(
    name: str, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Model:
    """A compiled model, as `interp.load("compiled/<name>")` gives it.

    Args:
        name: one of `NAMES`.
        dtype: in float64 attention that is meant to be 1 is exactly 1.

    Raises:
        ModelError: no such model.
    """
    weights = construction(name).blueprint()
    return native.build(
        weights.shape,
        name=f"{PREFIX}{name}",
        state=weights.state(),
        dtype=dtype,
        device=device,
    )


def truth(name: str) -> Mapping[Key, frozenset[Part]]:
    """The edges whose cut changes what the model says, by how they are cut.

    Derived from the construction, with the reasons in the docstring of its file. All other edges
    (`interp.core.edges.edges("edges", model.facts)`) do nothing under that key, at any of the
    positions that the pairs name.

    Raises:
        ModelError: no such model.
    """
    return construction(name).truth


def roles(name: str) -> Mapping[str, str]:
    """What each head and MLP of a model does, by its site.

    Raises:
        ModelError: no such model.
    """
    return construction(name).roles


def inputs(name: str, *, n: int = 1000, seed: int = 0) -> Inputs:
    """Random valid rows with the right answers, which a plain function of the tokens gives.

    Raises:
        ModelError: no such model.
        PairsError: n < 1, or a negative seed.
    """
    made = construction(name)
    rng = _generator(name, n, seed)
    rows = [made.draw(rng) for _ in range(n)]
    width = max(map(len, rows))
    return Inputs(
        torch.tensor([row + [0] * (width - len(row)) for row in rows]),
        torch.tensor([made.answers(row) + [-1] * (width - len(row)) for row in rows]),
    )


def pairs(name: str, *, corruption: str, n: int = 128, seed: int = 0) -> Pairs:
    """Clean and corrupt prompts for ablation, patching and the truth.

    The templates take turns, and each is a cluster: its rows have their named positions in the same
    places, so that means are taken over rows that align. They want 30 rows of each.

    Args:
        corruption: one of those that the model's docstring explains.

    Raises:
        ModelError: no such model.
        PairsError: no such corruption, n < 1, or a negative seed.
    """
    made = construction(name)
    if corruption not in made.corruptions:
        raise PairsError(
            f"compiled/{name} has no corruption {corruption!r}; "
            f"{nearest(corruption, made.corruptions)}"
        )
    rng = _generator(name, n, seed)
    cluster = [made.templates[i % len(made.templates)] for i in range(n)]
    examples = [made.pair(corruption, template, rng) for template in cluster]
    return Pairs.from_tokens(
        clean=[e.clean for e in examples],
        corrupt=[e.corrupt for e in examples],
        correct=[e.correct for e in examples],
        wrong=[e.wrong for e in examples],
        positions={place: [e.places[place] for e in examples] for place in examples[0].places},
        cluster=cluster,
        strings=[(_show(made, e.clean), _show(made, e.corrupt)) for e in examples],
        bos="none",
    )


def construction(name: str) -> Construction:
    """All there is of a model.

    Raises:
        ModelError: no such model.
    """
    if name not in CONSTRUCTIONS:
        raise ModelError(f"there is no compiled model {name!r}; {nearest(name, NAMES)}")
    return CONSTRUCTIONS[name]


def _show(made: Construction, row: list[int]) -> tuple[str, ...]:
    return tuple(made.vocabulary[token] for token in row)


def _generator(name: str, n: int, seed: int) -> np.random.Generator:
    if n < 1 or seed < 0:
        raise PairsError(
            f"compiled/{name} was asked for n={n} rows with seed={seed}; n must be at least 1 and "
            "the seed at least 0."
        )
    return np.random.default_rng([*name.encode(), seed])
