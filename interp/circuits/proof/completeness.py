"""Completeness and minimality of a circuit (Wang et al. 2022, sec. 4).

F(C) is the mean of the metric in the model with only C. A circuit C of the model M is complete if
taking any K out of both does the same to both, F(C - K) = F(M - K): then nothing outside of C takes
the place of K. It is minimal if for every part there is a K without which that part matters.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Unpack

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from interp.circuits.proof.setting import Given, Mask, Setting
from interp.core.door.door import door
from interp.core.door.taken import Count, Seed
from interp.core.errors import ResultsError, SiteError, Unsupported
from interp.core.metrics import Metric, OneMetric
from interp.core.parts.circuit import Circuit, Part
from interp.core.parts.edges import Edge, begins
from interp.core.parts.facts import Facts
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs
from interp.core.tables.results import Results
from interp.engine.sweep.sweep import Running
from interp.models.model import Model

Chosen = Collection[str | Edge | Site | Part]
Sets = Literal["random", "greedy"] | Mapping[str, Chosen]


@dataclass(frozen=True, eq=False)
class _Runner:
    """Runs circuits with the same options."""

    setting: Setting
    metric: str | Metric
    running: Running

    def __call__(self, circuits: Sequence[Mask]) -> Results:
        return self.setting.run(circuits, metric=self.metric, **self.running)


@door
def completeness(
    model: Model,
    pairs: Pairs,
    circuit: Circuit,
    *,
    sets: Sets = "random",
    n: Count = 10,
    candidates: Count = 10,
    seed: Seed = 0,
    reference: Given = "corrupt",
    metric: OneMetric = "logit_diff",
    **running: Unpack[Running],
) -> Results:
    """Take sets K of parts out of the circuit and out of the model.

    Args:
        sets: `"random"`: n sets, each part in with probability 1/2. `"greedy"`: one set that grows
            by n parts, each time by that of some `candidates`, drawn from what is left, that makes
            the difference largest. A mapping from names to parts of the circuit: by class; of a
            circuit of edges a head or MLP stands for all edges of the circuit that begin or end
            there, and without a place for every place.
        reference, metric: as in `run_circuits`.

    Returns:
        One row for each K and example: `value` is the metric of C - K, `base` that of M - K,
        so that `summary()` tests whether the incompleteness F(C - K) - F(M - K) is 0; Wang et al.
        give its absolute value. `size` is that of K.

    Raises:
        SiteError: a class with a part that the circuit has not.
        ResultsError: a circuit without parts, n or candidates < 1.
        Others: as `run_circuits`.
    """
    setting = Setting.of(model, pairs, [circuit], reference)
    run = _Runner(setting, metric, running)
    parts = sorted(circuit.parts, key=str)
    if not parts:
        raise ResultsError("a circuit of no parts leaves no set to take out.")
    rng = np.random.default_rng(seed)
    if sets == "greedy":
        return _greedy(run, circuit, parts, rng, n, candidates)
    if sets == "random":
        drawn = rng.random((n, len(parts))) < 0.5
        chosen = {
            f"random {i}": frozenset(p for p, inside in zip(parts, row, strict=True) if inside)
            for i, row in enumerate(drawn)
        }
    else:
        chosen = {
            name: frozenset(_members(circuit, one, model.facts)) for name, one in sets.items()
        }
    return _without(run, circuit, chosen)


@door
def minimality(
    model: Model,
    pairs: Pairs,
    circuit: Circuit,
    *,
    by: Literal["parts", "nodes"] | Mapping[str, Chosen] = "parts",
    reference: Given = "corrupt",
    metric: OneMetric = "logit_diff",
    **running: Unpack[Running],
) -> Results:
    """Take each part out of the circuit, alone: which of them does it not need?

    This is minimality with K empty. Parts that can do each other's work, such as backup heads, pass
    for idle then: that a part does nothing here is no proof. Take K out first,
    `minimality(model, pairs, circuit.holding(circuit.parts - K))`, and see whether it does then.

    Args:
        by: `"parts"`; `"nodes"`: of a circuit of edges all those of a head or MLP together; or
            sets of parts, as the classes of `completeness`.
        reference, metric: as in `run_circuits`.

    Returns:
        One row for each part and example: `value` is the metric of the circuit without it, `base`
        that of the circuit, `effect` their difference.

    Raises:
        As `completeness`.
    """
    setting = Setting.of(model, pairs, [circuit], reference)
    run = _Runner(setting, metric, running)
    parts = sorted(circuit.parts, key=str)
    if not parts:
        raise ResultsError("the circuit has no parts, so there is none to take out of it")
    if by == "parts":
        sets = {str(part): frozenset([part]) for part in parts}
    elif by == "nodes":
        ends = {end for part in parts for end in _nodes(part, model.facts)}
        sets = {str(s): frozenset(_members(circuit, [s], model.facts)) for s in sorted(ends)}
    elif isinstance(by, Mapping):
        sets = {name: frozenset(_members(circuit, one, model.facts)) for name, one in by.items()}
    else:
        raise Unsupported(f"unknown by={by!r}: 'parts', 'nodes' or a mapping of sets")
    rest = [setting.kept(name, circuit.holding(circuit.parts - k)) for name, k in sets.items()]
    found = run([setting.kept("(circuit)", circuit), *rest])
    first, frame = len(pairs), found.frame
    base = np.tile(frame["value"].to_numpy()[:first], len(sets))
    frame = frame.iloc[first:].reset_index(drop=True)
    size = np.repeat([len(k) for k in sets.values()], first)
    return _judged(found, frame.assign(size=size), base, "minimality")


def _without(run: _Runner, circuit: Circuit, sets: Mapping[str, frozenset[Part]]) -> Results:
    """F(C - K) beside F(M - K)."""
    if not sets:
        raise ResultsError(
            "the mapping of classes is empty, so nothing is left out; give at least one."
        )
    setting = run.setting
    inside = [setting.kept(name, circuit.holding(circuit.parts - k)) for name, k in sets.items()]
    outside = [setting.without(name, k) for name, k in sets.items()]
    found = run([*inside, *outside])
    half = len(found.frame) // 2
    frame = found.frame.iloc[:half].assign(size=found.frame["size"].to_numpy()[half:])
    return _judged(found, frame, found.frame["value"].to_numpy()[half:], "completeness")


def _judged(
    found: Results, frame: pd.DataFrame, base: Float[ndarray, " row"], method: str
) -> Results:
    """The table with another base."""
    value = frame["value"].to_numpy()
    made = frame.assign(
        method=f"{method} {found.provenance['ablation']}", base=base, effect=value - base
    )
    return Results(made, {**found.provenance, "base": method})


def _greedy(
    run: _Runner,
    circuit: Circuit,
    parts: Sequence[Part],
    rng: np.random.Generator,
    n: int,
    candidates: int,
) -> Results:
    taken: list[Part] = []
    steps = []
    for step in range(1, min(n, len(parts)) + 1):
        left = [part for part in parts if part not in taken]
        tried = [left[i] for i in rng.permutation(len(left))[:candidates]]
        sets = {str(i): frozenset([*taken, part]) for i, part in enumerate(tried)}
        found = _without(run, circuit, sets)
        effect = found.frame["effect"].to_numpy().reshape(len(tried), -1)
        best = int(np.abs(effect.mean(1)).argmax())
        taken.append(tried[best])
        frame = found.frame[found.frame["site"] == str(best)]
        steps.append(Results(frame.assign(site=f"{step}: + {taken[-1]}"), found.provenance))
    return Results.concat(steps)


def _members(circuit: Circuit, chosen: Chosen, facts: Facts) -> Iterator[Part]:
    """The parts of the circuit that a class names.

    Raises:
        SiteError: it names one that the circuit has not.
    """
    for one in chosen:
        part = one if isinstance(one, Part) else Part.parse(str(one))
        found = [
            own
            for own in circuit.parts
            if (part.of == own.of or part.of in _nodes(own, facts))
            and part.place in ("all", own.place)
        ]
        if not found:
            raise SiteError(
                f"'{part}' is no part of the circuit ({circuit!r}), nor an end of one, so it "
                "cannot be taken out. Leave it out of the class."
            )
        yield from found


def _nodes(part: Part, facts: Facts) -> tuple[Site, ...]:
    """The heads and MLPs at which an edge begins or ends; a group's key ends at all its heads."""
    if isinstance(part.of, Site):
        return (part.of,)
    writer, reader = part.of.writer, part.of.reader
    found = [] if begins(writer) else [writer]
    make = partial(Site, "z", reader.layer, stack=reader.stack, cross=reader.cross)
    if reader.kind == "mlp_out":
        found.append(reader)
    elif reader.head is not None:
        found.append(make(head=reader.head))
    elif reader.group is not None:
        size = facts.group_size
        heads = range(reader.group * size, (reader.group + 1) * size)
        found += [make(head=head) for head in heads]
    return tuple(found)
