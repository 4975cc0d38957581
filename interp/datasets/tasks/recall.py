"""Associative recall: keys with their values, then keys alone; the value is the answer.

`recall` is multi-query associative recall (MQAR, Arora et al. 2023, "Zoology", §3.2 and App. E.1).
`lookup` has one query, before the pairs or after them: before, a small state suffices, which is
the task-shaped control of Jelassi et al. 2024 (§4.3, "prefix" and "suffix" keys).
"""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Int

from interp.core.door.door import door
from interp.core.door.taken import Count, Positive, Seed
from interp.core.errors import PairsError
from interp.core.prompts.sequences import UNSCORED, Sequences

Query = Literal["prefix", "suffix"]
MARK = 0
"""The id that is neither key nor value; it asks for the answer where the key came first."""


@door
def recall(
    n: Count,
    *,
    vocabulary: int,
    pairs: Count,
    pos: int,
    seed: Seed = 0,
    power: Positive = 0.01,
) -> Sequences:
    """Rows of `pairs` keys and values, then each key once more among random tokens.

    Keys are ids 1 to V/2 - 1, values V/2 to V - 1; within a row all keys differ and so do all
    values. The keys are asked at places 0, 2, 4, ... after the pairs, drawn without replacement
    with weights (place + 1)^(power - 1): mostly soon, some late. Scored are the queries alone; the
    distance goes from a query back to the value. What stands between is random, and no key of the
    row (in the authors' code it may be one).

    Args:
        n: number of rows.
        vocabulary: V, even.
        pairs: keys with their values in each row.
        pos: length of each row, even, at least 4 * pairs.
        seed: of all that is drawn.
        power: the published a, 0.01.

    Raises:
        PairsError: counts that do not fit, each with what it needs.
    """
    _accept(vocabulary, pairs)
    room = (pos - 2 * pairs) // 2
    if pos % 2 or room < pairs:
        raise PairsError(
            f"rows of {pos} tokens cannot hold {pairs} pairs and then ask for each at every other "
            f"place; give an even pos of at least {4 * pairs}, or fewer pairs."
        )
    rng = np.random.default_rng([*b"recall", seed])
    keys, values, unused = _draw(rng, n, vocabulary, pairs)
    weight = np.log(np.arange(1, room + 1)) * (power - 1)
    # the highest of logarithms with Gumbel noise: draws by weight, without replacement
    gaps = np.argsort(-(weight + rng.gumbel(size=(n, room))), axis=1)[:, :pairs]
    at = 2 * pairs + 2 * gaps
    filler = np.concatenate([unused, np.tile(_values(vocabulary), (n, 1))], 1)
    pick = rng.integers(filler.shape[1], size=(n, pos))
    tokens = np.take_along_axis(filler, pick, 1)
    tokens[:, : 2 * pairs : 2], tokens[:, 1 : 2 * pairs : 2] = keys, values
    np.put_along_axis(tokens, at, keys, 1)
    stored = 1 + 2 * np.arange(pairs)
    return _scored(tokens, at, values, at - stored)


@door
def lookup(n: Count, *, vocabulary: int, pairs: Count, query: Query, seed: Seed = 0) -> Sequences:
    """Rows that ask for one of `pairs` keys, before them ("prefix") or after ("suffix").

    "prefix" is `key, k1, v1, ..., kn, vn, 0` and "suffix" `0, k1, v1, ..., kn, vn, key`: equal
    tokens in equal numbers. Scored is the last position. With the key first, a model need only
    wait for it and hold one value; with the key last it must hold them all.

    Args:
        n: number of rows.
        vocabulary: V, even; keys and values as for `recall`.
        pairs: keys with their values in each row.
        query: where the key stands that is asked for.
        seed: of all that is drawn.

    Raises:
        PairsError: counts that do not fit.
    """
    _accept(vocabulary, pairs)
    rng = np.random.default_rng([*b"lookup", seed])
    keys, values, _ = _draw(rng, n, vocabulary, pairs)
    chosen = rng.integers(pairs, size=(n, 1))
    tokens = np.full((n, 2 * pairs + 2), MARK)
    tokens[:, 1:-1:2], tokens[:, 2:-1:2] = keys, values
    end = tokens.shape[1] - 1
    tokens[:, [0 if query == "prefix" else end]] = np.take_along_axis(keys, chosen, 1)
    at = np.full((n, 1), end)
    return _scored(tokens, at, np.take_along_axis(values, chosen, 1), end - (2 + 2 * chosen))


def _draw(
    rng: np.random.Generator, n: int, vocabulary: int, pairs: int
) -> tuple[Int[np.ndarray, "row pairs"], Int[np.ndarray, "row pairs"], Int[np.ndarray, "row rest"]]:
    """Keys and values of each row, and the keys that it has not."""
    keys = rng.permuted(np.tile(np.arange(1, vocabulary // 2), (n, 1)), axis=1)
    values = rng.permuted(np.tile(_values(vocabulary), (n, 1)), axis=1)
    return keys[:, :pairs], values[:, :pairs], keys[:, pairs:]


def _values(vocabulary: int) -> Int[np.ndarray, " values"]:
    return np.arange(vocabulary // 2, vocabulary)


def _scored(
    tokens: Int[np.ndarray, "row pos"],
    at: Int[np.ndarray, "row queries"],
    answers: Int[np.ndarray, "row queries"],
    back: Int[np.ndarray, "row queries"],
) -> Sequences:
    labels, distance = np.full_like(tokens, UNSCORED), np.zeros_like(tokens)
    np.put_along_axis(labels, at, answers, 1)
    np.put_along_axis(distance, at, back, 1)
    return Sequences(*(torch.from_numpy(x) for x in (tokens, labels, distance)))


def _accept(vocabulary: int, pairs: int) -> None:
    if vocabulary % 2 or vocabulary // 2 - 1 < pairs:
        raise PairsError(
            f"a vocabulary of {vocabulary} has {max(vocabulary // 2 - 1, 0)} keys for {pairs} "
            f"pairs; it must be even and at least {2 * pairs + 2}."
        )
