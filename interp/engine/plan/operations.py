"""What a device is asked to do, from shapes alone: operations launched, waits, bytes moved.

An operation counts if it launches work: views do not. What a step takes is written beside it and
held against a device that counts (`tests/on_devices.py`). A norm is one operation, as it is on an
accelerator; weights in half precision are cast to the stream's float32 and back, which is counted
too. Options that `Facts` do not tell (windows, caps, norms of queries and keys) are left out: they
are some operations a layer more.
"""

from collections import defaultdict
from collections.abc import Sequence

from interp.core.parts.facts import Facts
from interp.core.parts.sites import Kind, Site
from interp.core.prompts.places import ALL
from interp.engine.interventions import Cell, Hop, replaces
from interp.engine.limits import Limits
from interp.engine.plan.cost import Stage, entry_of
from interp.engine.plan.edits import STEPS

FEW = 2
"""Prompts that are run by Hugging Face's own model too, for what rounding does to a metric."""
FEW_BYTES = 1 << 28
"""Bytes of logits that this may take."""
WIDE_BYTES = 1 << 32
"""Bytes of the weights in float32 that this may take for a moment."""

PRODUCT = 3
"""An einsum of axes that are not in the order of a matrix product: two copies, and the product."""
ROTATION = 2 + 2 + 3
"""cos and sin of the positions; the other half negated and joined; two products and a sum."""
TURNS = 7
"""The angles of a run's positions: cast, product, joined, cos, sin, and both to the dtype."""
MASK = 3 + 1
"""Which keys a query sees (places, compared, negated), and what it does not see filled in."""
ENTRANCE = 2
"""The embedding of a run's tokens, and its positions."""
JOIN = 1
"""The base run's rows appended for the cells that join at a step."""
END = 8
"""A wave's places, its order sent and sorted, and twice the positions that are read, picked."""
READING = 1 + 2 + 3 + 3 + 2 + 7
"""Of one metric: the last norm; the columns' numbers and rows of the unembedding; their product;
answers taken and subtracted; the parts joined; and whether all numbers are finite."""
FINITE = 6
"""Whether all numbers of a run are finite."""
STATE = 12
"""Of a recurrent layer at one position: product and sum of the gates, five curves, four to mix."""


def layer_launches(
    facts: Facts, *, half: bool, past: bool = False, parts: tuple[int, int] = (1, 1)
) -> int:
    """Of one layer, in a plain run or a wave, that computes attention.

    Args:
        half: weights of half precision.
        past: keys and values before the first position come from the base run.
        parts: in how many pieces attention and the MLP are made.
    """
    turned = facts.positions == "rotary"
    attention = 2 + 1 + PRODUCT + MASK + 1 + PRODUCT + 1  # places, scale, softmax, heads in a row
    attention += turned * 2 * ROTATION + half  # the probabilities back to half precision
    if past:  # rotated again, two products more, scores joined, values summed
        attention += turned * ROTATION + 2 * PRODUCT + 2
    attention = parts[0] * attention + 4 + 3 * half + _norms(facts, half=half)  # q, k, v, o
    return attention + mlp_launches(facts, half=half, parts=parts[1]) + 2 - (not facts.d_mlp)


def mlp_launches(facts: Facts, *, half: bool, parts: int = 1) -> int:
    """Of one layer's MLP with its norms: projections, the curve, and the product with a gate."""
    if not facts.d_mlp:
        return 0
    norms = _norms(facts, half=half)
    return parts * (norms + 2 + 2 * facts.gated + 1 + half * (1 + facts.gated))


def _norms(facts: Facts, *, half: bool) -> int:
    """The norms around attention or the MLP: weights to float32, and Gemma's to what they are."""
    gemma = facts.architecture.startswith("Gemma")
    return _norms_of(facts) * (1 + half + gemma)


def _norms_of(facts: Facts) -> int:
    return {"pre": 1, "post": 1, "sandwich": 2}[facts.block] * (facts.norm != "none")


def run_launches(
    facts: Facts,
    length: int,
    rows: int,
    *,
    half: bool,
    limits: Limits,
    layers: int | None = None,
    copies: int = 0,
) -> int:
    """A plain run of some rows; `copies`: parts of it that are kept from a later position on."""
    layers = facts.n_layers if layers is None else layers
    if facts.recurrent:
        return ENTRANCE + layers * (1 + length * STATE)
    one = rows * facts.n_heads * length * length
    parts = _parts(facts, one, rows * length, length, limits)
    return (
        ENTRANCE
        + TURNS * (facts.positions == "rotary")
        + layers * layer_launches(facts, half=half, parts=parts)
        + copies
    )


def own_launches(facts: Facts) -> int:
    """A run of Hugging Face's own model."""
    if facts.recurrent:
        return ENTRANCE + facts.n_layers
    turned = facts.positions == "rotary"
    spelt = 6 if facts.norm == "rms" else 1  # power, mean, sum, root, two products
    norms = 2 * _norms_of(facts) * spelt
    shared = 2 * (facts.n_kv_heads < facts.n_heads)  # keys and values repeated for their heads
    attention = 4 + turned * 10 + shared + 2 * PRODUCT + 4  # scale, mask, softmax, heads in a row
    layer = norms + attention + bool(facts.d_mlp) * (3 + 2 * facts.gated) + 2
    return _layers(facts) * layer + 30  # tokens, angles, the mask and the logits


def bridge_launches(facts: Facts) -> int:
    """A run of TransformerLens' bridge, which makes each norm once more to show its scale."""
    if facts.recurrent:
        return own_launches(facts)
    return own_launches(facts) + _layers(facts) * 2 * _norms_of(facts) * 7


def _layers(facts: Facts) -> int:
    """A decoder that reads an encoder has two attentions a layer."""
    return facts.n_encoder_layers + facts.n_layers * (1 + bool(facts.n_encoder_layers))


def compared(facts: Facts, length: int, itemsize: int) -> bool:
    """Is Hugging Face's own model run too? Not where its logits or wide weights are too large."""
    numbers = facts.n_layers * layer_numbers(facts) + 2 * facts.d_vocab * facts.d_model
    narrow = itemsize >= 4 or 4 * numbers <= WIDE_BYTES
    return narrow and FEW * length * facts.d_vocab * itemsize <= FEW_BYTES


def wave_launches(
    facts: Facts,
    cells: Sequence[Cell],
    rows: int,
    length: int,
    stages: Sequence[Stage],
    *,
    half: bool,
    limits: Limits,
) -> int:
    """Of cells of one way that go up the layers together: one wave a hop, and one after them."""
    if facts.recurrent:
        first = min(entry_of(facts, cell)[0] for cell in cells)
        return (facts.n_layers - first) * (1 + stages[-1].positions * STATE) + END + len(cells)
    made, n = 0, facts.n_layers
    edits = _edits(cells)
    for hop, stage in zip(cells[0].hops, stages, strict=False):
        end = n - 1 if hop.ends else max(site.layer or 0 for site in hop.receivers)
        first = min(layer for layer, _ in edits)
        layers = range(first, end + 1)
        if hop.through == "all":
            made += _whole(facts, len(cells), rows, length, stage, layers, half, limits)
            made += sum(_edit_launches(found, picked=False) for found in edits.values())
        else:
            made += _frozen(facts, hop, edits, layers, half=half)
        made += END + TURNS * (facts.positions == "rotary")
        if hop.ends:
            return made
        received = {(site.layer or 0, site.kind) for site in hop.receivers}
        made += len(received) * 6 + len(cells)  # what arrived, put in its places for each cell
        edits = {place: (len(cells), True, False) for place in received}
    first = min(layer for layer, _ in edits)
    if not cells[0].hops:
        first = min(entry_of(facts, cell)[0] for cell in cells)
    made += _whole(facts, len(cells), rows, length, stages[-1], range(first, n), half, limits)
    made += sum(_edit_launches(found, picked=False) for found in edits.values())
    made += _named(cells, n - first)
    return made + END + TURNS * (facts.positions == "rotary")


def masked_run(
    facts: Facts, length: int, rows: int, itemsize: int, limits: Limits
) -> dict[str, int]:
    """Of one pass in which queries, keys, values and MLPs each sum what they are left to read:
    `launches`, `waits` and `moved`.
    """
    run = run_launches(facts, length, rows, half=itemsize < 4, limits=limits)
    return {
        "launches": run + facts.n_layers * 4 * PRODUCT + READING,
        "waits": 2,
        "moved": moved(facts, facts.n_layers, rows * length, length, itemsize),
    }


Edited = tuple[int, bool, bool]
"""Of one layer and kind: cells that edit there, whether values replace, and whether everywhere."""


def _edits(cells: Sequence[Cell]) -> dict[tuple[int, Kind], Edited]:
    found: dict[tuple[int, Kind], list[tuple[bool, bool]]] = defaultdict(list)
    for cell in cells:
        for i in cell.interventions:
            if i.readers is None:
                said = replaces(i.value), i.positions == ALL
                found[i.site.layer or 0, i.site.kind].append(said)
    if not found:  # only named readers
        found = {(min(_layer(i.site) for c in cells for i in c.interventions), "resid_pre"): []}
    return {
        place: (len(one), all(r for r, _ in one), all(e for _, e in one))
        for place, one in found.items()
    }


def _layer(site: Site) -> int:
    return site.layer or 0


def _edit_launches(edited: Edited, *, picked: bool) -> int:
    """The edits of one layer and kind are one gather, one value and one scatter.

    `picked`: each edit's value is taken from any positions, not from a start on.
    """
    cells, replacing, everywhere = edited
    if not cells:
        return 0
    values = 1 if replacing else 2  # stacked; or what stands there, and the value made of it
    there = 0 if everywhere else 2 + replacing  # the positions meant, chosen among, in what stands
    return 2 * JOIN + 1 + values + there + 1 + 2 * cells * picked


def _named(cells: Sequence[Cell], layers: int) -> int:
    """Named readers: the changes of writes are noted in each layer, and summed for each reader."""
    readers = [len(i.readers or ()) for cell in cells for i in cell.interventions]
    named = sum(any(i.readers is not None for i in cell.interventions) for cell in cells)
    return named * layers * 4 + 8 * sum(readers)


def _whole(
    facts: Facts,
    cells: int,
    rows: int,
    length: int,
    stage: Stage,
    layers: range,
    half: bool,
    limits: Limits,
) -> int:
    """Layers of a wave that compute attention."""
    tokens = cells * rows * stage.positions
    parts = _parts(facts, tokens * facts.n_heads * length, tokens, stage.positions, limits)
    past = stage.start > 0
    one = layer_launches(facts, half=half, past=past, parts=parts)
    return len(layers) * (one + 1 + (not past) * 2)  # places; an empty past where there is none


def _frozen(
    facts: Facts, hop: Hop, edits: dict[tuple[int, Kind], Edited], layers: range, *, half: bool
) -> int:
    """Layers of a wave along a path where attention stands still."""
    taken = 2  # the positions' places in what is held, and what stands there
    each = taken + 1 + 1 + bool(facts.d_mlp)  # attention's write, and both sums
    if hop.through == "mlps":
        each += mlp_launches(facts, half=half)
    elif facts.d_mlp:
        each += taken + 1
    made = len(layers) * each
    for (_, kind), edited in edits.items():
        made += taken + _edit_launches(edited, picked=True)
        if STEPS[kind] < STEPS["attn_out"]:  # z of all, those edited, written into attention's
            made += taken + 2 + 1 + 1 + 1
    return made + len(hop.receivers) * 3  # norm, projection, the weight's rows


def _parts(facts: Facts, scores: int, tokens: int, queries: int, limits: Limits) -> tuple[int, int]:
    """In how many pieces attention and the MLP are made, for what a device takes at once."""
    attention = min(queries, -(-scores // limits.scores))
    return max(1, attention), max(1, -(-tokens // limits.mlp_tokens(max(1, facts.d_mlp))))


def layer_numbers(facts: Facts) -> int:
    """Numbers of the matrices of one layer."""
    if facts.recurrent:
        return 8 * facts.d_model**2
    heads = 2 * (facts.n_heads + facts.n_kv_heads) * facts.d_head
    return facts.d_model * (heads + facts.d_mlp * (3 if facts.gated else 2))


def moved(
    facts: Facts, layers: int, tokens: int, length: int, itemsize: int, *, attention: bool = True
) -> int:
    """Bytes that layers read and write: weights once, and each activation in and out of a product.

    `attention`: is it computed? Along a path it stands still.
    """
    inner, group = facts.n_heads * facts.d_head, facts.n_kv_heads * facts.d_head
    if facts.recurrent:
        return layers * itemsize * (layer_numbers(facts) + tokens * 12 * facts.d_model)
    mlp = 2 * facts.d_model * max(itemsize, 4)  # the stream, read and written
    mlp += 2 * facts.d_mlp * (2 if facts.gated else 1) * itemsize
    numbers = facts.d_model * facts.d_mlp * (3 if facts.gated else 2)
    if not attention:
        return layers * (numbers * itemsize + tokens * mlp)
    heads = 2 * facts.d_model * max(itemsize, 4) + 2 * (2 * inner + 2 * group) * itemsize
    heads += 2 * facts.n_heads * length * itemsize  # probabilities, written and read
    return layers * (layer_numbers(facts) * itemsize + tokens * (mlp + heads))
