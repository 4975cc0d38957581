"""Are aligned heads used: which keys and values bring a source word to the word it becomes.

One word of the source is exchanged, and its change travels through the encoder into the keys, or
the values, of one head of cross-attention, and on through the decoder: a path patch. Beside it
stands how much that head attends to the word.
"""

from collections.abc import Sequence

import numpy as np

import interp
from experiments.translation.setting import Twin, cross_heads, pairs_of
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs
from interp.core.tables.results import Results

WORD = "word"


def exchanges(twins: Sequence[Twin]) -> Pairs:
    """Pairs with the exchanged word's position."""
    roles = iter(twins)
    return pairs_of(twins, lambda found: {WORD: found.index(next(roles).role)})


def used(model: interp.Model, twins: Sequence[Twin]) -> Results:
    """Attention to the exchanged word; and what its change does by each key and value.

    `method` is "attention" (`value`), "path_patch" (one head's keys or values, `receiver`), or
    "patch" of all values, all keys and both, which is the whole change.
    """
    pairs = exchanges(twins)
    heads = cross_heads(model)
    tables = [looks(model, pairs, heads)]
    for head in heads:
        for part in "kv":
            found = interp.path_patch(
                model,
                pairs,
                senders="enc.0.resid_pre",
                sender_positions=WORD,
                receivers=f"{head}.{part}",
                through="all",
            )
            tables.append(found)
    every = {
        name: [f"{head}.{part}" for head in heads for part in parts]
        for name, parts in (("all values", "v"), ("all keys", "k"), ("keys and values", "kv"))
    }
    tables.append(interp.patch(model, pairs, every))
    return Results.concat(tables)


def looks(model: interp.Model, pairs: Pairs, heads: Sequence[str]) -> Results:
    """Attention to the word, where its translation is about to be written."""
    names = [f"{head}.pattern" for head in heads]
    kept = interp.capture(model, pairs, names, positions="end")
    at = pairs.at(WORD).tolist()
    values = [
        [float(row[0, i]) for row, i in zip(kept.rows(name), at, strict=True)] for name in names
    ]
    sites = [Site.parse(head) for head in heads]
    return Results.of(
        {
            **{"method": "attention", "kind": "pattern", "metric": "attention"},
            **{"site": list(heads), "position": WORD, "engine": "replay"},
            **{"layer": [site.layer for site in sites], "head": [site.head for site in sites]},
        },
        np.array(values),
        units=pairs.units,
        provenance=kept.provenance,
    )
