"""The rows and the three models of `recall`, their training, and what they answer."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
import torch.nn.functional as F

from interp.core.prompts.sequences import UNSCORED, Sequences
from interp.core.tables.scores import COLUMNS, Scores
from interp.datasets.tasks.recall import MARK, lookup, recall
from interp.models.now.versions import versions
from interp.models.small.native import Native, Shape
from interp.models.small.recurrent import RecurrentShape, width_for
from interp.models.small.training import Recipe, answers
from interp.models.toy import train

Task = Literal["recall", "prefix", "suffix"]
TASKS: tuple[Task, ...] = ("recall", "suffix", "prefix")
KINDS = LSTM, ONE, TWO = "LSTM", "one layer", "two layers"
GUESSES = STORED, ANY = "guess: a stored value", "guess: any value"
BATCH = 64
RATES = {LSTM: 1e-2, ONE: 3e-3, TWO: 3e-3}
"""The better of the two for each: at the other the LSTM, or two layers, learned far more slowly."""
HEADS = 2
"""Of each of two layers; a single layer has them all."""
EVEN = 1.0
"""The power at which every place is asked equally often: no distance is rarer than another."""
CHECKPOINTS = 2
"""Beside the untrained model: what is watched is the curve."""
WATCHED = 40
"""Rows of each number of pairs that learning curves are measured on."""


@dataclass(frozen=True)
class Amount:
    """How much is run.

    Attributes:
        seeds: trainings of each model on each task.
        steps, control: of each training, on recall and on lookup.
        rows, asked: of each number of pairs, to learn from and to be tested on.
        pairs: numbers of stored pairs; every training has them all, in equal numbers of rows.
        pos: length of the rows of recall.
        vocabulary: of keys and values together.
        d_model: of the transformers.
    """

    seeds: int
    steps: int
    control: int
    rows: int = 20_000
    asked: int = 400
    pairs: tuple[int, ...] = (1, 2, 4, 8)
    pos: int = 32
    vocabulary: int = 32
    d_model: int = 64


def shapes(size: Amount) -> dict[str, Shape | RecurrentShape]:
    """Models of nearly equal parameters: attention alone with learned positions, and an LSTM."""
    d_head, n_ctx = size.d_model // HEADS, max(size.pos, 2 * max(size.pairs) + 2)
    one, two = (
        Shape(layers, 2 * HEADS // layers, size.d_model, d_head, size.vocabulary, n_ctx, 0)
        for layers in (1, 2)
    )
    width = width_for(parameters(two), n_layers=1, d_vocab=size.vocabulary)
    lstm = RecurrentShape(1, width, size.vocabulary, n_ctx)
    return dict(zip(KINDS, (lstm, one, two), strict=True))


def parameters(shape: Shape | RecurrentShape) -> int:
    """How many numbers are learned."""
    if isinstance(shape, RecurrentShape):
        return shape.parameters
    return sum(p.numel() for p in Native(shape, seed=0).parameters())


def rows(task: Task, size: Amount, n: int, *, seed: int) -> dict[int, Sequences]:
    """n rows of a task, by the number of stored pairs; of one pair there is nothing to look up."""

    def of(pairs: int) -> Sequences:
        v = size.vocabulary
        if task == "recall":
            return recall(n, vocabulary=v, pairs=pairs, pos=size.pos, seed=seed, power=EVEN)
        return lookup(n, vocabulary=v, pairs=pairs, query=task, seed=seed)

    return {pairs: of(pairs) for pairs in size.pairs if task == "recall" or pairs > 1}


def mixed(parts: Iterable[Sequences]) -> Sequences:
    """All rows, the shorter ones followed by marks, where nothing is scored."""
    parts = list(parts)
    longest = max(part.tokens.shape[1] for part in parts)

    def joined(name: str, value: int) -> torch.Tensor:
        tensors = [getattr(part, name) for part in parts]
        return torch.cat([F.pad(x, (0, longest - x.shape[1]), value=value) for x in tensors])

    return Sequences(joined("tokens", MARK), joined("labels", UNSCORED), joined("distance", 0))


def unseen(asked: Sequences, learned: Sequences) -> Sequences:
    """The rows that were not learned from: of few pairs there are not many."""
    known = {row.tobytes() for row in learned.tokens.numpy()}
    kept = [row.tobytes() not in known for row in asked.tokens.numpy()]
    return asked.select(torch.tensor(kept).nonzero()[:, 0])


def measure(task: Task, size: Amount, seed: int, folder: Path) -> Scores:
    """Train every model on a task and score it, by pairs, by distance, and while it learns.

    Args:
        seed: that of the rows; those to be tested on are the same for every training.
        folder: where trained models are kept and found again.
    """
    learned = rows(task, size, size.rows, seed=2 * seed)
    asked = rows(task, size, size.asked, seed=2 * seed + 1)
    asked = {pairs: unseen(x, learned[pairs]) for pairs, x in asked.items()}
    watched = mixed(x.select(range(min(WATCHED, len(x)))) for x in asked.values())
    everything = mixed(learned.values())
    steps = size.steps if task == "recall" else size.control
    parts = []
    for i in range(size.seeds):
        for kind, shape in shapes(size).items():
            toy = train(
                shape,
                everything,
                held_out=watched,
                steps=steps,
                folder=folder / task / f"{kind.replace(' ', '-')}-{i}",
                seed=i,
                data_seed=i,
                recipe=Recipe(batch=BATCH, learning_rate=RATES[kind]),
                checkpoints=CHECKPOINTS,
            )
            module = toy.model.bridge.original_model
            parts.append(of_curve(toy.curve).assign(probe=kind, cluster=f"seed {i}"))
            for pairs, x in asked.items():
                hits = of_answers(answers(module, x).correct, x, pairs)
                parts.append(hits.assign(probe=kind, cluster=f"seed {i}"))
        for pairs, x in asked.items():
            for guess, one_of in zip(GUESSES, (pairs, size.vocabulary // 2), strict=True):
                hits = of_answers(torch.ones_like(x.scored), x, pairs)
                hits = hits.assign(total=hits["total"] / one_of)
                parts.append(hits.assign(probe=guess, cluster=f"seed {i}"))
    return scores(pd.concat(parts, ignore_index=True), task=task, note={"versions": versions()})


def of_answers(hits: torch.Tensor, asked: Sequences, pairs: int) -> pd.DataFrame:
    """Sums over the queries of rows: all of them, and those of each distance."""
    scored = asked.scored
    frame = pd.DataFrame({"distance": asked.distance[scored], "hit": hits[scored].double()})
    by = frame.groupby("distance")["hit"].agg(total="sum", n="size").reset_index()
    names = [f"{pairs} pairs, {back} back" for back in by["distance"]]
    whole = {"subset": f"{pairs} pairs", "total": frame["hit"].sum(), "n": len(frame)}
    by = by.assign(subset=names)[["subset", "total", "n"]]
    return pd.concat([pd.DataFrame([whole]), by], ignore_index=True).assign(metric="accuracy")


def of_curve(curve: pd.DataFrame) -> pd.DataFrame:
    """Accuracy on watched rows, after each number of steps at which it was measured."""
    names = curve["step"].map("step {}".format)
    frame = pd.DataFrame({"subset": names, "total": curve["accuracy"], "n": 1})
    return frame.assign(metric="learning")


def scores(frame: pd.DataFrame, *, task: Task, note: Mapping[str, Any]) -> Scores:
    """With the columns that are the same everywhere."""
    guess = frame["probe"].isin(GUESSES).map({True: "none", False: "trained"})
    empty = {"site": "", "layer": pd.NA, "head": pd.NA, "labels": "real"}
    full = frame.assign(task=task, model=guess, **empty)
    return Scores(full[COLUMNS].astype({"layer": "Int16", "head": "Int16", "n": "int64"}), note)
