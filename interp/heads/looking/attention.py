"""Where heads attend: how much of each pattern lies on some positions."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.core.door.door import door
from interp.core.door.taken import Told
from interp.core.errors import PositionError
from interp.core.parts.heads import Heads, heads_of
from interp.core.prompts.pairs import Pairs
from interp.core.prompts.places import Given, Place, index, listed, mask, place_of
from interp.core.tables.results import Results
from interp.engine.engines.protocol import EngineName
from interp.engine.plan.memory import by_rows
from interp.engine.plan.positions import blocks
from interp.engine.provenance import provenance
from interp.heads.looking.patterns import Patterns
from interp.models.model import Model

ROWS = 64
"""Prompts in one forward."""
FIRST = "first"
Keys = Given | Sequence[str | int] | Mapping[str, Given]


def _keys(given: object) -> None:
    if given is not None:
        listed(given)


@door
@torch.inference_mode()
def attention(
    model: Model,
    pairs: Pairs,
    heads: Heads = "heads",
    *,
    keys: Annotated[Keys | None, Told(_keys)] = None,
    query: Annotated[Given, Told(place_of)] = "end",
    engine: EngineName = "auto",
) -> Results:
    """Attention probability from one position to others, on the clean prompts.

    Args:
        heads: `"heads"` for all, or sites like `"23.3"`.
        keys: positions that are attended to, as `interp.ablate` takes them: names, indices, or
            indices row by row; on several in a row the probabilities are added. `"first"`, unless
            the pairs call another so, is the first token, where heads rest that find nothing. By
            default that, and what the pairs name up to the query (all that they name, where the
            model is not causal).
        query: the one position of each row that attends; by default the last of the text.

    Returns:
        One row for each head, key and example: `method="attention"`, the key in `position`, the
        probability in `value`. Nothing is changed, so `base` and `effect` are NaN.

    Raises:
        SiteError: a site that is no head of the model.
        PositionError: what the pairs do not have, or what a causal model cannot see.
        PairsError: rows that the model cannot run.
        Unsupported: attention patterns that cannot be read.
    """
    sites = heads_of(heads, model.facts)
    named = {FIRST: torch.zeros_like(pairs.lengths), **pairs.positions}
    asked = index(place_of(query), named, pairs.lengths)
    if keys is None:
        late = {name for name, at in named.items() if bool((at > asked).any())}
        keys = [name for name in named if not (model.facts.causal and name in late)]
    chosen = dict(listed(keys, named))
    for rows in blocks(pairs.extents, len(pairs)):
        marked = _marked(chosen, named, pairs, rows)  # refuses what a row has not
        if model.facts.causal:
            _require_seen([*chosen], marked, asked[rows], rows)
    shown = Patterns.of(
        model,
        pairs,
        asker="attention()",
        instead="capture(model, pairs, 'dec.0.cross.1.pattern') gives the patterns",
        layers=1 + max(site.layer or 0 for site in sites),
        most=ROWS,
        engine=engine,
    )
    values = np.full((len(sites), len(chosen), len(pairs)), np.nan)

    def some(rows: list[int]) -> None:
        marked = _marked(chosen, named, pairs, rows).double()

        def see(shelf: str, layer: int, pattern: Tensor) -> None:
            wanted = {i: site.head for i, site in enumerate(sites) if site.layer == layer}
            if shelf == "pattern" and wanted:
                asking = pattern[torch.arange(len(rows)), asked[rows]].cpu().double()
                found = torch.einsum("rhp,krp->hkr", asking[:, [*wanted.values()]], marked)
                values[np.ix_([*wanted], range(len(chosen)), rows)] = found.numpy()

        shown.walk(rows, see)

    for rows in shown.forwards:
        by_rows(some, rows, "a plain run")
    note = provenance(model, pairs, engine=shown.engine.name, query=str(place_of(query)))
    of = [site for site in sites for _ in chosen]
    found = Results.of(
        {
            **{"method": "attention", "kind": "pattern", "metric": "attention"},
            **{"site": [*map(str, of)], "position": [*chosen] * len(sites)},
            **{"layer": [site.layer for site in of], "head": [site.head for site in of]},
            "engine": shown.engine.name,
        },
        values,
        units=pairs.units,
        provenance=note,
    )
    return replace(found, frame=found.frame.astype({"example": "int64"}))


def _marked(
    chosen: Mapping[str, Place], named: Mapping[str, Tensor], pairs: Pairs, rows: Sequence[int]
) -> Bool[Tensor, "key row pos"]:
    """Where the keys of some rows of one length are."""
    return torch.stack([mask(place, named, pairs.lengths, rows) for place in chosen.values()])


def _require_seen(
    names: Sequence[str],
    marked: Bool[Tensor, "key row pos"],
    asked: Int[Tensor, " row"],
    rows: Sequence[int],
) -> None:
    """Refuse a key that stands after the query, where attention would be 0 without being measured.

    Raises:
        PositionError: naming the key and the row.
    """
    for name, first in zip(names, marked.int().argmax(-1), strict=True):
        if late := (first > asked).nonzero().flatten().tolist():
            raise PositionError(
                f"position {name!r} stands after the query in row {rows[late[0]]} (at "
                f"{int(first[late[0]])}, after {int(asked[late[0]])}), and a causal model cannot "
                "attend to what comes later; exchange query and key."
            )
