"""Means of activations over reference prompts, by group and position: what mean ablation sets."""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from interp.core.errors import PairsError
from interp.core.sites import Kind, Site
from interp.engine.trace import Trace

FEW = 30
"""Prompts in a group under which its mean is called noisy (Miller et al. 2024)."""

Group = tuple[str, int]
"""A cluster and a length: within it, position i means the same in every prompt."""


@dataclass(frozen=True, eq=False)
class Means:
    """Mean activations of groups of prompts that share cluster (template) and length.

    Attributes:
        traces: for each group, a trace of one row that holds the means.
        sizes: prompts in each group.
    """

    traces: Mapping[Group, Trace]
    sizes: Mapping[Group, int]

    def at(self, site: Site, groups: Sequence[Group]) -> Float[Tensor, "batch pos *axes"]:
        """The mean at a site for rows of these groups, all of one length.

        Raises:
            PairsError: a row's group is not in the reference.
        """
        if lost := [group for group in groups if group not in self.traces]:
            cluster, length = lost[0]
            raise PairsError(
                f"the mean reference has no prompt of cluster {cluster!r} with {length} tokens; "
                "make the reference from the same templates, or use the pairs' own corrupt side."
            )
        return torch.cat([self.traces[group].at(site) for group in groups])


def collect(
    blocks: Sequence[tuple[Sequence[Group], Int[Tensor, "_ _"]]],
    trace: Callable[[Int[Tensor, "batch pos"], tuple[Kind, ...]], Trace],
    *,
    kinds: tuple[Kind, ...],
) -> Means:
    """Average the activations of the given kinds over blocks of rows of one length."""
    sizes = Counter(group for groups, _ in blocks for group in groups)
    small = min(sizes.values())
    if small < FEW:
        warnings.warn(
            f"mean ablation: the smallest of {len(sizes)} reference groups (cluster and length) "
            f"has {small} prompts; under {FEW} its mean is noisy. Give a larger reference.",
            stacklevel=2,
        )
    sums: dict[Group, dict[str | None, list[Tensor]]] = {}  # None: the final residual stream
    facts = None
    for groups, tokens in tqdm(blocks, desc="mean reference", unit="block", delay=2, disable=None):
        run = trace(tokens, kinds)
        facts = run.facts
        found = {**run.kept, None: (run.final,)}
        for group in sorted(set(groups)):
            rows = [i for i, g in enumerate(groups) if g == group]
            share = {
                kind: [x[rows].sum(0, keepdim=True) / sizes[group] for x in layers]
                for kind, layers in found.items()
            }
            held = sums.setdefault(group, share)
            if held is not share:
                sums[group] = {
                    kind: [a + b for a, b in zip(held[kind], share[kind], strict=True)]
                    for kind in share
                }
    assert facts is not None
    traces = {
        group: Trace(
            facts, {name: tuple(x) for name, x in held.items() if name is not None}, held[None][0]
        )
        for group, held in sums.items()
    }
    return Means(traces, dict(sizes))
