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

from interp.core.door.door import door
from interp.core.door.taken import Count, Seed
from interp.core.errors import ModelError, PairsError, nearest
from interp.core.parts.circuit import Part
from interp.core.prompts.pairs import Pairs
from interp.models.compiled import frequency, induction, ioi, previous, reverse
from interp.models.compiled.construction import Construction, Key
from interp.models.finding.place import Device, Dtype
from interp.models.model import Model
from interp.models.small import native

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


@door
def build(name: str, *, device: Device = "cpu", dtype: Dtype = torch.float32) -> Model:
    """A compiled model, as `interp.load("compiled/<name>")` gives it.

    Args:
        name: one of `NAMES`.
        device: as of `interp.load`.
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


@door
def truth(name: str) -> Mapping[Key, frozenset[Part]]:
    """The edges whose cut changes what the model says, by how they are cut.

    Derived from the construction, with the reasons in the docstring of its file. All other edges
    (`interp.core.parts.edges.edges("edges", model.facts)`) do nothing under that key, at any of the
    positions that the pairs name.

    Args:
        name: one of `NAMES`.

    Raises:
        ModelError: no such model.
    """
    return construction(name).truth


@door
def roles(name: str) -> Mapping[str, str]:
    """What each head and MLP of a model does, by its site.

    Args:
        name: one of `NAMES`.

    Raises:
        ModelError: no such model.
    """
    return construction(name).roles


@door
def inputs(name: str, *, n: Count = 1000, seed: Seed = 0) -> Inputs:
    """Random valid rows with the right answers, which a plain function of the tokens gives.

    Args:
        name: one of `NAMES`.
        n: number of rows.
        seed: of all that is drawn.

    Raises:
        ModelError: no such model.
    """
    made = construction(name)
    rng = np.random.default_rng([*name.encode(), seed])
    rows = [made.draw(rng) for _ in range(n)]
    width = max(map(len, rows))
    return Inputs(
        torch.tensor([row + [0] * (width - len(row)) for row in rows]),
        torch.tensor([made.answers(row) + [-1] * (width - len(row)) for row in rows]),
    )


@door
def pairs(name: str, *, corruption: str, n: Count = 128, seed: Seed = 0) -> Pairs:
    """Clean and corrupt prompts for ablation, patching and the truth.

    The templates take turns, and each is a cluster: its rows have their named positions in the same
    places, so that means are taken over rows that align. They want 30 rows of each.

    Args:
        name: one of `NAMES`.
        corruption: one of those that the model's docstring explains.
        n: number of pairs.
        seed: of all that is drawn.

    Raises:
        ModelError: no such model.
        PairsError: no such corruption.
    """
    made = construction(name)
    if corruption not in made.corruptions:
        raise PairsError(
            f"compiled/{name} has no corruption {corruption!r}; "
            f"{nearest(corruption, made.corruptions)}"
        )
    rng = np.random.default_rng([*name.encode(), seed])
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


@door
def construction(name: str) -> Construction:
    """All there is of a model.

    Args:
        name: one of `NAMES`.

    Raises:
        ModelError: no such model.
    """
    if name not in CONSTRUCTIONS:
        raise ModelError(f"there is no compiled model {name!r}; {nearest(name, NAMES)}")
    return CONSTRUCTIONS[name]


def _show(made: Construction, row: list[int]) -> tuple[str, ...]:
    return tuple(made.vocabulary[token] for token in row)
