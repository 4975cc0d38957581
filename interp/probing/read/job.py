"""The forwards that show every word of a corpus, and the words that they fill."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int
from tqdm.auto import tqdm

from interp.core.prompts.pairs import Pairs
from interp.datasets.words.alignment import Alignment
from interp.engine.engines.protocol import Engine
from interp.engine.plain.prompts import prompts
from interp.engine.plain.taps import Layout, read
from interp.engine.plan.memory import by_rows
from interp.models.model import Model
from interp.probing.read.pooling import Pool, Pooled, width

Forward = tuple[int, ...]
"""Rows that run together."""


@dataclass(frozen=True, eq=False)
class Job:
    """What is collected, and in which forwards.

    Attributes:
        most: tokens in a forward, padding counted.
    """

    model: Model
    aligned: Alignment
    layout: Layout
    pool: Pool
    dtype: torch.dtype
    most: int

    @property
    def mixed(self) -> bool:
        """May rows of several lengths run together?"""
        return self.model.facts.causal and not self.model.facts.n_encoder_layers

    @cached_property
    def lengths(self) -> Int[np.ndarray, " row"]:
        return np.array([len(row) for row in self.aligned.rows])

    @cached_property
    def counts(self) -> Int[np.ndarray, " row"]:
        """Words of each row."""
        return np.bincount(self.aligned.row, minlength=len(self.aligned.rows))

    @cached_property
    def word_bytes(self) -> int:
        """What a word takes."""
        numbers = sum(len(slab) * width(slab, self.model.facts) for slab in self.layout.slabs)
        return numbers * self.dtype.itemsize

    @property
    def bytes(self) -> int:
        return len(self.aligned) * self.word_bytes

    @property
    def mb(self) -> float:
        return self.bytes / 1e6

    def forwards(self, rows: Sequence[int], room: int) -> list[Forward]:
        """Rows in order of length, cut into forwards whose words take at most `room` bytes."""
        order = sorted((int(row) for row in rows), key=lambda row: (self.lengths[row], row))
        found: list[Forward] = []
        now: list[int] = []
        words = 0
        for row in order:
            length, more = int(self.lengths[row]), int(self.counts[row])
            full = (len(now) + 1) * length > self.most or (words + more) * self.word_bytes > room
            if now and (full or (not self.mixed and self.lengths[now[0]] != length)):
                found.append(tuple(now))
                now, words = [], 0
            now.append(row)
            words += more
        return [*found, tuple(now)] if now else found

    def pairs(self, rows: Forward) -> Pairs:
        """Rows as one block of tokens.

        A causal model's tokens do not see what stands behind them, so the shorter rows are filled
        there with their own last token, and no activation changes.
        """
        longest = max(len(self.aligned.rows[row]) for row in rows)
        ids = [self.aligned.rows[row] for row in rows]
        return prompts(torch.tensor([[*row, *row[-1:] * (longest - len(row))] for row in ids]))

    def words(self, rows: Sequence[int]) -> Int[np.ndarray, " word"]:
        """The words of rows, in the order of the corpus, in which a row's words are neighbours."""
        first = np.cumsum(self.counts) - self.counts
        return np.concatenate(
            [np.arange(first[row], first[row] + self.counts[row]) for row in sorted(rows)]
        )

    @torch.inference_mode()
    def run(self, engine: Engine, words: Int[np.ndarray, " word"], room: int, bar: tqdm) -> Pooled:
        """The activations of all words of some rows."""
        facts, device = self.model.facts, self.model.device
        kept = Pooled(self.layout, facts, self.aligned, words, self.pool, self.dtype)

        def some(rows: list[int]) -> None:
            pairs, take = self.pairs(tuple(rows)), kept.taker(rows, self.words(rows), device)
            read(engine, pairs, "clean", self.layout, range(len(rows)), device, take)

        for rows in self.forwards(np.unique(self.aligned.row[words]).tolist(), room):
            by_rows(some, rows, "a plain run")
            bar.update(int(self.counts[list(rows)].sum()))
        return kept
