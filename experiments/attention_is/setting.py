"""What `attention_is` runs on: tiny models of every position scheme, and real text."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

import interp
from interp.core.errors import CorpusError
from interp.core.tables.scores import CELL, Scores
from interp.datasets.corpus import Corpus
from interp.datasets.words.running import running_text
from interp.models.now.versions import versions
from interp.models.small.native import Shape

Scheme = Literal["none", "learned", "sinusoidal", "rotary"]
Which = Literal["trained", "random"]
SCHEMES: tuple[Scheme, ...] = ("none", "learned", "sinusoidal", "rotary")
TINY_ROWS = 4
"""Of random tokens, in each draw."""


@dataclass(frozen=True)
class Amount:
    """How much is run.

    Attributes:
        rows, pos: of real text, one row of a document.
        orders: permutations of each row of real text.
        seeds, draws: initialisations of tiny models, and permutations of each.
        lengths, repeats: of the layers that are timed.
    """

    rows: int
    pos: int
    orders: int
    seeds: int
    draws: int
    lengths: tuple[int, ...]
    repeats: int


def tiny(positions: Scheme, size: Amount) -> Shape:
    """Two layers, with room to shift a row by its own length."""
    return Shape(2, 4, 48, 12, 50, 2 * size.pos, 96, positions=positions)


def seeded(*seeds: int) -> torch.Generator:
    """A generator of its own for each combination of seeds."""
    drawn = np.random.SeedSequence([*b"attention_is", *seeds]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(drawn[0] >> np.uint64(1)))


def random_rows(size: Amount, *seeds: int) -> Int[Tensor, "batch pos"]:
    """Rows of random tokens for tiny models."""
    d_vocab = tiny("none", size).d_vocab
    return torch.randint(d_vocab, (TINY_ROWS, size.pos), generator=seeded(*seeds))


@cache
def loaded(name: str) -> interp.Model:
    """A model that several stages ask."""
    return interp.load(name)


@cache
def web() -> Corpus:
    """Web text."""
    return interp.datasets.corpus("ud-ewt", split="dev")


def rows_of_text(
    model: interp.Model, size: Amount, seed: int
) -> tuple[Int[Tensor, "batch pos"], ndarray]:
    """The first tokens of some documents of web text, and the names of these.

    Raises:
        CorpusError: there are not as many documents of this length.
    """
    text = web()
    documents = text.sample(text.n_words, seed=seed).documents
    long = tuple(d for d in documents if sum(len(s.words) for s in d.sentences) >= size.pos)
    if len(long) < size.rows:
        raise CorpusError(
            f"{len(long)} documents of {text.name} have {size.pos} words and {size.rows} rows are "
            "asked for; take shorter rows, or fewer."
        )
    beginnings = replace(text, documents=long[: size.rows])
    pairs = running_text(model, beginnings, context=8 * size.pos)
    name = np.asarray(pairs.cluster)
    first = [int(np.flatnonzero(name == d.id)[0]) for d in beginnings.documents]
    if int(shortest := pairs.lengths[first].min()) < size.pos:
        raise CorpusError(f"a first row has {shortest} tokens of {size.pos}; take shorter rows.")
    return pairs.clean[first, : size.pos], name[first]


def noted(model: interp.Model) -> dict[str, Any]:
    """Where numbers of a model come from."""
    return {
        "model": model.name,
        "weights": model.weight_hash,
        "dtype": str(model.dtype).removeprefix("torch."),
        "versions": versions(),
    }


def of_rows(
    totals: Float[ndarray, "..."],
    axes: Mapping[str, Iterable],
    note: Mapping[str, Any],
    *,
    n: int = 1,
    **cell: str,
) -> Scores:
    """A table from an array of sums, each over n examples.

    Args:
        axes: the columns that the array's axes stand for, "cluster" among them.
        cell: columns that are the same everywhere.
    """
    index = pd.MultiIndex.from_product(axes.values(), names=axes.keys())
    rest = {"site": "", "layer": None, "head": None, "labels": "real", "subset": "all"} | cell
    frame = index.to_frame(index=False)
    frame = frame.assign(**{c: rest[c] for c in CELL if c not in axes})
    if "head" in axes:
        frame["site"] = frame["layer"].astype(str) + "." + frame["head"].astype(str)
    types = {"layer": "Int16", "head": "Int16", "cluster": str, "n": "int64"}
    frame = frame.assign(total=totals.reshape(-1), n=n).astype(types)
    return Scores(frame[[*CELL, "cluster", "total", "n"]], note)
