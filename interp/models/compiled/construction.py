"""What a compiled model comes with: its weights, its task, and which edges are its circuit.

An edge is *true* if cutting it changes what the model says at the read position. That depends on
what is put in the place of what was cut: zero takes away the constants and the positions that a
resampled prompt of equal length leaves as they are, so the circuit under zero ablation is larger
than under resample ablation (Conmy et al. 2023 and Miller et al. 2024 score tracr's "reverse"
against different circuits for this reason). So the truth has a key: how, by what, and where.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from interp.core.parts.circuit import Part
from interp.core.parts.edges import Edge
from interp.models.compiled.blueprint import Blueprint

Ablation = Literal["zero", "mean", "resample"]
Granularity = Literal["all positions", "by position"]
ABLATIONS: tuple[Ablation, ...] = ("zero", "mean", "resample")
BOS = 0
"""The mark that every row begins with: the token id of "<bos>" in all compiled models."""


class Key(NamedTuple):
    """Under which ablation a set of edges is the truth.

    Attributes:
        ablation: zero; the mean over the corrupt prompts of the same template, position by
            position; or the corrupt prompt of the same row.
        corruption: which pairs, as `interp.models.compiled.pairs` takes it.
        granularity: an edge is cut everywhere together, or at one named position of the pairs.
    """

    ablation: Ablation
    corruption: str
    granularity: Granularity


@dataclass(frozen=True)
class Example:
    """A pair of prompts of one template.

    Attributes:
        clean, corrupt: token ids, as many of each.
        places: the named positions; "end", the last, is where the answer is read.
        correct, wrong: the answers to tell apart.
    """

    clean: list[int]
    corrupt: list[int]
    places: Mapping[str, int]
    correct: int
    wrong: int


@dataclass(frozen=True)
class Construction:
    """A model that is understood whole.

    Attributes:
        vocabulary: what each token id is called.
        roles: what each head and MLP does, by its site, e.g. {"0.0": "previous token"}.
        blueprint: makes the weights.
        answers: the function that it computes, at each position of a row; -1 where it is not said.
        draw: a random valid row.
        templates: where the places of a pair are: rows of one template are aligned.
        corruptions: names of the ways to corrupt a prompt.
        pair: a random example of a corruption and a template.
        truth: the edges that matter, for each key, and where: at a named position, or "all". Keys
            and values are written as those of a group ("1.kv0.k"), as a sweep over all edges has
            them; each head is its own group here.
    """

    vocabulary: tuple[str, ...]
    roles: Mapping[str, str]
    blueprint: Callable[[], Blueprint]
    answers: Callable[[Sequence[int]], list[int]]
    draw: Callable[[np.random.Generator], list[int]]
    templates: tuple[str, ...]
    corruptions: tuple[str, ...]
    pair: Callable[[str, str, np.random.Generator], Example]
    truth: Mapping[Key, frozenset[Part]]


def keyed(
    found: Mapping[tuple[Ablation, str], Iterable[str]],
) -> dict[Key, frozenset[Part]]:
    """The truth from lists of "writer -> reader @ place", for both granularities.

    In these models no cut at one place undoes another's: an edge is true everywhere together if it
    is true at some place, so the coarse truth is the fine one without its places.
    """
    truth: dict[Key, frozenset[Part]] = {}
    for (ablation, corruption), lines in found.items():
        split = [line.split("@") for line in lines]
        fine = frozenset(Part(_edge(edge), place.strip()) for edge, place in split)
        coarse = frozenset(Part(part.of) for part in fine)
        truth[Key(ablation, corruption, "by position")] = fine
        truth[Key(ablation, corruption, "all positions")] = coarse
    return truth


def _edge(text: str) -> Edge:
    """As a sweep over all edges calls it: keys and values are those of a group, here of one."""
    edge = Edge.parse(text)
    if edge.reader.kind not in ("k", "v"):
        return edge
    return replace(edge, reader=replace(edge.reader, head=None, group=edge.reader.head))


def other(rng: np.random.Generator, among: Iterable[int], *, than: Iterable[int]) -> int:
    """One token at random that is none of some others."""
    return int(rng.choice(sorted(set(among) - set(than))))
