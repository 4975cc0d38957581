"""Prompts with two candidates, of which END asks for one.

Each task has four prompts that differ in two ways, so that the corrupt prompt

- *asked*: asks for the other candidate, which stands where it stood: the pattern has to change;
- *content*: asks for the same place, where the other candidate stands: the values have to change;
- *moved*: has the candidates exchanged and asks for the same one: both have to change, and the
  answer does not.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch

from interp.core.errors import PairsError
from interp.core.prompts.pairs import Pairs

Written = Mapping[str, str]
"""For each position whose token is exchanged: the position whose clean token it gets."""
IOI: Mapping[str, Written] = {
    "asked": {"s2": "io"},
    "content": {"io": "s1", "s1": "io", "s2": "io"},
    "moved": {"io": "s1", "s1": "io"},
}
INDUCTION: Mapping[str, Written] = {
    "asked": {"first": "other", "other": "first"},
    "content": {"successor": "rival", "rival": "successor"},
    "moved": {"first": "other", "other": "first", "successor": "rival", "rival": "successor"},
}


def rewritten(pairs: Pairs, written: Written) -> Pairs:
    """The same clean prompts; the corrupt ones are these with some tokens exchanged."""
    rows, corrupt = torch.arange(len(pairs)), pairs.clean.clone()
    for place, source in written.items():
        corrupt[rows, pairs.at(place)] = pairs.clean[rows, pairs.at(source)]
    return replace(pairs, corrupt=corrupt, strings=())


def two_candidates(pairs: Pairs, *, bos: int = 0) -> Pairs:
    """Rows of `repeated_pairs` with another token A' (`"other"`) and its successor B' (`"rival"`).

    Clean: `A B ... A' B' ... A`, so that induction says B; the wrong answer is B'. A' stands in the
    middle of what the last block has not come to yet, so that neither A' nor B' is repeated.

    Args:
        pairs: with nothing but BOS before the first block.
        bos: how many tokens of BOS there are.

    Raises:
        PairsError: no row has room for A' and B'.
    """
    first, end = pairs.at("first"), pairs.at("end")
    last = end - (first - bos) - 1  # of the first block
    other = torch.div(first + last, 2, rounding_mode="floor") + 1
    rows = ((other > first + 1) & (other + 1 <= last)).nonzero().flatten()
    if not len(rows):
        raise PairsError(
            "no row has two tokens after the one that is asked for in its block; draw more rows, "
            "or longer blocks."
        )
    found = pairs.select(rows)
    places = {"other": other[rows], "rival": other[rows] + 1}
    found = replace(found, positions={**found.positions, **places})
    wrong = found.clean[torch.arange(len(found)), found.at("rival")]
    return replace(found, wrong=wrong, corrupt=found.clean.clone(), strings=())
