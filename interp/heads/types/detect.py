"""Every detector's score of every head, on any rows of tokens, with its null.

Patterns are taken layer by layer and turned into one number for each detector at once, by one
product of the pattern with the stacked weights of the detectors; nothing else is kept.

Each row is an example. `value` is the score, `base` its mean under the null, which is

- "sources": each destination's sources permuted among the positions that it sees. Attention sums to
  1, so the mean over all permutations is the score of uniform attention, exactly.
- "rows": the sources that other rows of the same length have (at most 32 of them, drawn by
  seed), where repeated tokens stand elsewhere. Attention that depends on position alone, and not
  on which tokens are the same, scores as much there.
- of entropy, and of the copying score: uniform attention in the place of the head's.

`Results.summary()` tests `value - base` by flipping the signs of whole clusters, with FDR over all
heads and detectors of the table. With the null "rows" its p holds above 0 and is too small below:
the effects of a head that looks at positions alone are skewed.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor
from tqdm.auto import tqdm

from interp.core.door.door import door
from interp.core.door.taken import NotEmpty, Seed
from interp.core.errors import InterpError, Unsupported
from interp.core.tables.results import Results
from interp.engine.engines.protocol import EngineName
from interp.engine.plain.prompts import Tokens
from interp.engine.plan.memory import by_rows
from interp.engine.provenance import provenance
from interp.heads.looking.patterns import Patterns, require_patterns
from interp.heads.types.activation_copying import COPYING, Copied, Directions
from interp.heads.types.detectors import (
    DETECTORS,
    ENTROPY,
    Detector,
    Null,
    at_maximum,
    entropy,
    summed_in,
    uniform,
    weights,
)
from interp.heads.types.nulls import Drawn, Others
from interp.models.model import Model


@door
@torch.inference_mode()
def detect(
    model: Model,
    tokens: Tokens,
    *,
    detectors: Annotated[Sequence[Detector], NotEmpty()] = DETECTORS,
    null: Null = "rows",
    seed: Seed = 0,
    engine: EngineName = "auto",
) -> Results:
    """Score every head by every detector, with entropy and, where it is defined, copying.

    Args:
        tokens: ids `row pos`, lists of ids, or pairs, whose clean side runs and whose clusters are
            kept. Repeats at various distances tell looking at tokens from looking at places.
        detectors: of `interp.heads.types.detectors`, or of your own.
        null: of the detectors that look at tokens. "sources" serves where the repeats of all rows
            stand at one distance, and then tells only that a head looks there.
        seed: of the draw of other rows.

    Returns:
        One row for each detector, head and example: `method="detect"`, the detector in `metric`.
        Where heads have no direct path to the logits there is no "copying", and the provenance
        says why.

    Raises:
        PairsError: rows that the model cannot run, a row in which a detector has nothing to look
            for, or no other row whose repeats stand elsewhere, for the null "rows".
        Unsupported: attention patterns that cannot be read, a detector twice, or one whose sources
            are none.
        InterpError: attention that is not finite.
    """
    detectors = [replace(d, null=null) if d.null == "rows" else d for d in detectors]
    names = [*(d.name for d in detectors), ENTROPY, COPYING]
    if twice := [name for name in names if names.count(name) > 1]:
        raise Unsupported(
            f"two scores are called {twice[0]!r}, and a table has one of a name ({ENTROPY!r} and "
            f"{COPYING!r} are always there). Leave one out, or give it another name."
        )
    pairs = require_patterns(model, tokens, "detect()")
    lengths = sorted(set(pairs.lengths.tolist()))
    drawn = {length: Drawn.of(pairs, length, detectors, seed) for length in lengths}
    layers, heads = model.facts.n_layers, model.facts.n_heads
    kept = 16 * len(pairs) * len(names) * layers * heads
    shown = Patterns.of(model, pairs, asker="detect()", kept=kept, engine=engine)
    unembedding, why = _unembedding(model)
    metrics = names[: -1 if why else None]
    shape = (len(metrics), layers, heads)
    values, base = (np.full((*shape, len(pairs)), np.nan) for _ in range(2))
    others: dict[int, Others] = {}

    def some(rows: list[int]) -> None:
        length = int(pairs.lengths[rows[0]])
        scores = _Scores(model, pairs.clean[rows, :length], rows, detectors, others[length])
        copied = None if unembedding is None else Copied(unembedding, scores.tokens)

        def see(shelf: str, layer: int, activation: Tensor) -> None:
            if shelf == "pattern":
                scores.see(layer, activation)
            if copied is not None:
                copied.see(shelf, layer, activation)

        shown.walk(rows, see, also=() if copied is None else ("z", "resid_post"))
        found = scores.found if copied is None else torch.cat([scores.found, copied.found()], 1)
        both = found.double().cpu().numpy()  # value or base, metric, layer, head, row
        values[..., rows], base[..., rows] = both

    with tqdm(total=len(pairs), desc="detect", unit="row", delay=2, disable=None) as bar:
        for rows in shown.forwards:
            length = int(pairs.lengths[rows[0]])
            if length not in others:
                others.clear()  # of one length at a time
                others[length] = Others.of(model, drawn[length], detectors)
            by_rows(some, rows, "a plain run")
            bar.update(len(rows))
    if not np.isfinite(values).all():
        raise InterpError(
            "an attention pattern holds NaN or infinity, so it has no scores; look at the weights, "
            "or load the model in float32."
        )
    note = provenance(model, pairs, engine=shown.engine.name, seed=seed)
    note |= {"nulls": {d.name: d.null for d in detectors}} | ({"no copying": why} if why else {})
    cells = _cells(metrics, *values.shape[1:3], shown.engine.name)
    units = {kind: _categories(of) for kind, of in pairs.units.items()}
    return Results.of(cells, values, units=units, provenance=note, base=base)


def _unembedding(model: Model) -> tuple[Directions | None, str]:
    """What reads a head's output, or why nothing does."""
    try:
        return Directions.of(model), ""
    except Unsupported as refusal:
        return None, str(refusal)


class _Scores:
    """The scores of the rows of one forward, filled in layer by layer.

    Attributes:
        found: value or base, metric, layer, head, row.
    """

    def __init__(
        self,
        model: Model,
        tokens: Int[Tensor, "row pos"],
        rows: Sequence[int],
        detectors: Sequence[Detector],
        others: Others,
    ) -> None:
        facts, dtype = model.facts, summed_in(model.dtype)
        self.tokens, self.others = tokens.to(model.device), others
        self.maxima = [i for i, d in enumerate(detectors) if d.counts == "maximum"]
        self.sums = [i for i, d in enumerate(detectors) if d.counts == "attention"]
        each = torch.stack([weights(d, self.tokens, dtype=dtype) for d in detectors], 1)
        self.at_maximum = each[:, self.maxima]
        self.summed = each[:, self.sums].flatten(2).transpose(1, 2)  # row source-pair detector
        self.differs = torch.stack([others.differs[row] for row in rows]).to(each)
        even = uniform(tokens.shape[1], causal=facts.causal).to(model.device)
        size = (2, len(detectors) + 1, facts.n_layers, facts.n_heads, len(rows))
        self.found = each.new_empty(size)
        flat = torch.einsum("rnds,ds->nr", each.double(), even).to(dtype)
        self.found[1, :-1] = flat[:, None, None]
        self.found[1, -1] = entropy(even[None, :, None]).to(dtype)

    def see(self, layer: int, pattern: Float[Tensor, "row destination head source"]) -> None:
        pattern = pattern.to(self.found)  # also where the scores are
        flat = pattern.transpose(1, 2).flatten(2)  # row head source-pair
        value, base = self.found[:, :, layer]
        value[self.sums] = (flat @ self.summed).permute(2, 1, 0)
        if self.maxima:
            value[self.maxima] = at_maximum(self.at_maximum, pattern).permute(1, 2, 0)
        value[-1] = entropy(pattern).T
        if len(self.others):
            base[self.others.places] = self.others.mean(flat, self.differs)


def _cells(metrics: Sequence[str], layers: int, heads: int, engine: str) -> dict[str, Any]:
    """What names each score, text as categories: there are a row for each head and example."""
    shape = len(metrics), layers, heads
    metric, layer, head = (x.reshape(-1) for x in np.indices(shape, dtype=np.int32))
    sites = [f"{i}.{j}" for i in range(layers) for j in range(heads)]
    kinds = [int(name == COPYING) for name in metrics]

    def text(codes: ndarray, names: Sequence[str]) -> pd.Categorical:
        return pd.Categorical.from_codes(codes, list(names))

    def always(name: str) -> pd.Categorical:
        return text(np.zeros(metric.size, np.int8), [name])

    return {
        **{"method": always("detect"), "site": text(layer * heads + head, sites)},
        **{name: always("") for name in ("position", "receiver", "direction", "through")},
        **{"metric": text(metric, metrics), "engine": always(engine)},
        "kind": text(np.asarray(kinds)[metric], ["pattern", "z"]),
        **{"layer": layer, "head": head},
    }


def _categories(of: Sequence[str]) -> pd.Categorical:
    names, code = np.unique(np.asarray(of), return_inverse=True)
    return pd.Categorical.from_codes(code, names.tolist())
