"""Types of cross-attention: what of the source a decoder's heads look at, beside any alignment.

At position i a decoder has read target token i and writes token i + 1 (0 is its start token). A
score is the attention on the sources that one kind of head would look at, summed over the sources
of a position, then the mean over the positions that have any:

| type | sources of position i |
| --- | --- |
| `"aligned"` | those aligned with token i + 1, which is about to be written |
| `"previous"` | those aligned with token i, which has been read |
| `"source start"` | the first token |
| `"source end"` | the last, most often an end mark, where heads rest |
| `"offset +k"` | i + k: what a head that counts places alone would look at |

`"entropy"` is how spread the attention is, in nats.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from interp.core.door.door import door
from interp.core.errors import InterpError, PairsError, Unsupported
from interp.core.prompts.pairs import Pairs
from interp.core.tables.results import Results
from interp.engine.engines.choose import accept, choose
from interp.engine.engines.protocol import EngineName
from interp.engine.limits import Limits
from interp.engine.plan.batches import forward_plan
from interp.engine.plan.explain import proceed
from interp.engine.plan.memory import by_rows
from interp.engine.plan.positions import blocks, ids_of, lengths_in
from interp.engine.provenance import provenance
from interp.heads.types.detectors import ENTROPY, summed_in
from interp.models.model import Model

Alignment = Sequence[Sequence[tuple[int, int]]]
"""Of each row pairs of a source position and a target position, 1 the first target token."""
ROWS = 64
"""Rows in one forward."""


@door
@torch.inference_mode()
def detect_across(
    model: Model,
    pairs: Pairs,
    alignment: Alignment,
    *,
    offsets: Sequence[int] = (-1, 0, 1),
    engine: EngineName = "auto",
) -> Results:
    """Score every head of cross-attention by the types above, on the clean side.

    A head that looks at places scores on aligned words too, as far as the languages' orders agree:
    compare `"aligned"` with the best `"offset"`.

    Args:
        pairs: with targets.
        alignment: of each row the pairs (source position, target position) of words that translate
            each other; the target's are counted in the decoder, 1 is its first token.
        offsets: for which k there is an `"offset +k"`.

    Returns:
        One row for each type, head and example, as `interp.heads.detect` gives them: `value` the
        score, `base` that of uniform attention. `interp.heads.types_of` says which heads are of
        which type.

    Raises:
        Unsupported: a model of one stack.
        PairsError: no targets, an alignment that does not fit, or a row in which a type has
            nothing to look at.
        InterpError: attention that is not finite.
    """
    facts = model.facts
    if not facts.n_encoder_layers:
        raise Unsupported(
            f"detect_across() reads cross-attention, and {model.name} has one stack of layers "
            f"({facts}). Take interp.heads.detect."
        )
    accept(model, pairs, None)
    sources = _sources(pairs, alignment, offsets)
    served = choose(model, engine, longest=pairs.longest)
    proceed(
        forward_plan(
            *(facts, lengths_in(facts, pairs)),
            rows=ROWS,
            runs=1,
            itemsize=model.dtype.itemsize,
            limits=Limits.of(model.device),
            engine=served.name,
        )
    )
    names = [*sources, ENTROPY]
    values = np.full((len(names), facts.n_layers, facts.n_heads, len(pairs)), np.nan)
    base = np.full_like(values, np.nan)

    def some(rows: list[int]) -> None:
        tokens, written = ids_of(pairs, "clean", rows, model.device)
        each = torch.stack([torch.stack([of[row] for row in rows]) for of in sources.values()])
        size = len(names), facts.n_layers, len(rows), facts.n_heads
        found = torch.empty(size, dtype=summed_in(model.dtype))

        def see(name: str, layer: int, pattern: Tensor) -> None:
            if name != "dec.cross.pattern":
                return
            wide = pattern.to(summed_in(pattern.dtype))
            found[:-1, layer] = torch.einsum("trqk,rqhk->trh", each.to(wide), wide).cpu()
            found[-1, layer] = -torch.special.xlogy(wide, wide).sum(-1).mean(1).cpu()

        served.walk(tokens, see, shelves=("dec.cross.pattern",), written=written)
        values[..., rows] = found.transpose(2, 3).numpy()
        keys = tokens.shape[1]
        even = each.sum((2, 3)).numpy() / keys
        base[:-1, ..., rows] = even[:, None, None]
        base[-1, ..., rows] = np.log(keys)

    for rows in blocks(pairs.extents, ROWS):
        by_rows(some, rows, "a plain run")
    if not np.isfinite(values).all():
        raise InterpError(
            "an attention pattern holds NaN or infinity, so it has no scores; look at the weights, "
            "or load the model in float32."
        )
    return _table(values, base, names, model, pairs, served.name)


def _sources(
    pairs: Pairs, alignment: Alignment, offsets: Sequence[int]
) -> Mapping[str, list[Float[Tensor, "written key"]]]:
    """Of each type and row 1 / n at each source, where n positions have any.

    Raises:
        PairsError: as `detect_across`.
    """
    if len(alignment) != len(pairs):
        raise PairsError(
            f"the alignment is of {len(alignment)} rows and there are {len(pairs)} pairs; give "
            "each row its list of (source, target)."
        )
    found: dict[str, list[Tensor]] = {}
    for row, (keys, written) in enumerate(pairs.extents):
        if written < 2:
            raise PairsError(
                f"row {row} has no target, so nothing is translated in it. Build the pairs with "
                "target=."
            )
        aligned = torch.zeros(written + 1, keys, dtype=torch.bool)
        for link in alignment[row]:
            source, target = _link(link, row, keys, written)
            aligned[target, source] = True
        place = torch.arange(written)[:, None]
        key = torch.arange(keys)
        types = {
            "aligned": aligned[1:],
            "previous": aligned[:-1],
            "source start": (key == 0).expand(written, -1),
            "source end": (key == keys - 1).expand(written, -1),
            **{f"offset {k:+d}": key == place + k for k in offsets},
        }
        for name, sources in types.items():
            n = int(sources.any(1).sum())
            if not n:
                raise PairsError(
                    f"row {row} has nothing that a head of the type {name!r} could look at "
                    f"({keys} source tokens, {written - 1} of the target, {len(alignment[row])} "
                    "links). Leave the row out (pairs.select), or complete its alignment."
                )
            found.setdefault(name, []).append(sources.double() / n)
    return found


def _link(link: tuple[int, int], row: int, keys: int, written: int) -> tuple[int, int]:
    """A source position and a target position that the row has."""
    source, target = link
    if not (0 <= source < keys and 1 <= target < written):
        raise PairsError(
            f"row {row} aligns source {source} with target {target}; its source tokens are 0 to "
            f"{keys - 1}, and those of its target 1 to {written - 1} (0 is the decoder's start "
            "token)."
        )
    return source, target


def _table(
    values: Float[ndarray, "type layer head row"],
    base: Float[ndarray, "type layer head row"],
    names: Sequence[str],
    model: Model,
    pairs: Pairs,
    engine: str,
) -> Results:
    """A row for each type, head and example."""
    name, layer, head = (x.reshape(-1) for x in np.indices(values.shape[:3]))
    at = zip(layer.tolist(), head.tolist(), strict=True)
    cells = {
        **{"method": "detect", "kind": "pattern", "engine": engine},
        "metric": [names[i] for i in name],
        "site": [f"dec.{i}.cross.{j}" for i, j in at],
        **{"layer": layer.tolist(), "head": head.tolist()},
    }
    note = provenance(model, pairs, engine=engine)
    rows = len(pairs)
    return Results.of(
        cells,
        values.reshape(-1, rows),
        units=pairs.units,
        provenance=note | {"nulls": dict.fromkeys(names, "sources")},
        base=base.reshape(-1, rows),
    )
