"""What cells cost: matrix products and bytes, from shapes alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from interp.core.parts.facts import Facts
from interp.core.parts.sites import Kind, Site
from interp.engine.interventions import Cell, Hop
from interp.engine.limits import UNBOUNDED, Limits
from interp.engine.network.trace import KEPT, RECURRENT, Held, begins
from interp.engine.plan.edits import STEPS, entry


@dataclass(frozen=True)
class Stage:
    """One wave: where it starts, how many positions it computes, and how many are read of it."""

    start: int
    positions: int
    read: int = 1


def depth(facts: Facts) -> int:
    """Layers from the first to the last, of both stacks where there are two."""
    return facts.n_encoder_layers + facts.n_layers


def passes(cell: Cell, *, hooks: bool = False) -> int:
    """Full forwards that a cell takes one intervention at a time: one for each noted reader.

    `hooks`: as the hooks engine runs them, which first sees what it then holds fixed for a reader,
    and what it writes a pattern into.
    """
    named = {reader for i in cell.interventions for reader in i.readers or ()}
    ended = len(cell.hops) + (not (cell.hops and cell.hops[-1].ends))
    if not hooks:
        return len(named) + ended
    sites = [i.site for i in cell.interventions if i.site.kind == "pattern"]
    read = any(reader.kind == "logits" for reader in named)  # its run gives the output too
    return 2 * len(named) + len({site.order[:4] for site in sites}) + ended - read


def ledger_bytes(facts: Facts, cell: Cell, itemsize: int) -> int:
    """What a cell's named readers need for one position: a change for each of their writers."""
    named = [i for i in cell.interventions if i.readers is not None]
    wide = max(itemsize, 4)
    return (len(named) + 3 * facts.n_heads) * facts.d_model * wide if named else 0


def cell_flops(facts: Facts, cell: Cell, length: int, stages: Sequence[Stage]) -> int:
    """Matrix products of one cell in one row, without the unembedding."""
    if facts.recurrent:
        return _unrolled_flops(facts, entry_of(facts, cell), stages[-1].positions)
    flops, sites = 0, [i.site for i in cell.interventions]
    for hop, stage in zip(cell.hops, stages, strict=False):
        flops += _hop_flops(facts, hop, sites, length, stage)
        sites = list(hop.receivers)
    if cell.hops and cell.hops[-1].ends:
        return flops
    reached = entry_of(facts, cell)
    if cell.hops:
        before = min(i.site for i in cell.interventions)
        reached = min((r.layer or 0, STEPS[r.kind]) for r in sites if before < r)
    positions = stages[-1].positions
    flops += _wave_flops(facts, reached, length, positions, stages[-1].read)
    width = facts.d_model * positions
    for i in cell.interventions:
        readers = len(i.readers or ())
        # the change that a head makes, its share in each reader's sum
        flops += 2 * width * (facts.d_head * bool(readers) + readers)
    return flops


def _hop_flops(facts: Facts, hop: Hop, senders: Sequence[Site], length: int, stage: Stage) -> int:
    """Matrix products of the run that notes what the receivers compute."""
    first = min((s.layer or 0, STEPS[s.kind]) for s in senders)
    end = facts.n_layers if hop.ends else max(r.layer or 0 for r in hop.receivers)
    if hop.through == "all":
        whole = _wave_flops(facts, first, length, stage.positions, stage.read)
        return whole - _wave_flops(facts, (end, 0), length, stage.positions, stage.read)
    mlps = {r.layer for r in hop.receivers if r.kind == "mlp_out"}
    if hop.through == "mlps":
        mlps |= set(range(first[0] + (first[1] >= STEPS["mlp_act"]), end))
    heads = [r for r in hop.receivers if r.kind in ("q", "k", "v")]
    writes = {s.layer for s in senders if s.kind in ("z", "q", "k", "v")}
    return stage.positions * (
        len(mlps) * _mlp_flops(facts)
        + len(heads) * 2 * facts.d_model * facts.d_head
        + len(writes) * 2 * facts.d_model * facts.n_heads * facts.d_head
    )


def _wave_flops(
    facts: Facts, reached: tuple[int, int], length: int, positions: int, read: int
) -> int:
    """Matrix products from a layer and step on; in the last layer only what is read goes on."""
    inner, group = facts.n_heads * facts.d_head, facts.n_kv_heads * facts.d_head
    flops = 0
    for layer in range(reached[0], depth(facts)):
        step = reached[1] if layer == reached[0] else 0
        queries = read if layer == depth(facts) - 1 else positions
        if step < STEPS["q"]:
            flops += 2 * facts.d_model * (inner * queries + 2 * group * positions)
        if step < STEPS["z"]:
            flops += 4 * inner * length * queries
        if step < STEPS["attn_out"]:
            flops += 2 * facts.d_model * inner * queries
        if step < STEPS["mlp_act"]:
            flops += _mlp_flops(facts) * queries
    return flops


def _unrolled_flops(facts: Facts, reached: tuple[int, int], positions: int) -> int:
    """Matrix products of a recurrent model from a layer on, whose input cells share."""
    gates = 8 * facts.d_model**2
    shared = reached[1] >= STEPS["c"]
    return positions * gates * (2 * (facts.n_layers - reached[0]) - shared)


def _mlp_flops(facts: Facts) -> int:
    """Of one position."""
    return 2 * facts.d_model * facts.d_mlp * (3 if facts.gated else 2)


def forward_flops(facts: Facts, length: int, layers: int | None = None) -> int:
    """One row; without the unembedding where only some layers run."""
    inner, group = facts.n_heads * facts.d_head, facts.n_kv_heads * facts.d_head
    attention = 2 * facts.d_model * (2 * inner + 2 * group) + 4 * inner * length
    layer = 16 * facts.d_model**2 if facts.recurrent else attention + _mlp_flops(facts)
    if layers is not None:
        return length * layers * layer
    head = 2 * facts.d_model * facts.d_vocab * facts.language_model
    crossed = facts.n_layers * attention if facts.n_encoder_layers else 0
    return length * (depth(facts) * layer + crossed + head)


def circuit_flops(facts: Facts, length: int) -> int:
    """One row of one circuit: a forward in which each reader sums what it is left to read."""
    inner = facts.n_heads + 2 * facts.n_kv_heads + bool(facts.d_mlp)
    writers = facts.n_layers * (facts.n_heads + bool(facts.d_mlp)) + 1
    sums = facts.n_layers * inner * writers // 2 * 2 * facts.d_model
    return length * sums + forward_flops(facts, length, facts.n_layers)


def trace_bytes(facts: Facts, length: int, itemsize: int, held: Held | None = None) -> int:
    """One row's trace of what is held; by default of the kinds that a trace holds anyway."""
    if held is None:
        held = Held.whole(RECURRENT if facts.recurrent else KEPT, facts.n_layers)
    # of two stacks every layer is held, and of a decoder its attention to the encoder as well
    both = facts.n_encoder_layers + 2 * facts.n_layers if facts.n_encoder_layers else 0
    layers = sum(
        (both or len(layers))
        * (length - begins(kind, held.first))
        * _width(facts, kind, length)
        * _size(kind, itemsize)
        for kind, layers in held.layers.items()
    )
    return layers + length * facts.d_model * _size("resid_pre", itemsize)


def _width(facts: Facts, kind: Kind, length: int) -> int:
    """Numbers of one position of one layer."""
    if kind == "pattern":
        return facts.n_heads * length
    if kind in ("q", "z"):
        return facts.n_heads * facts.d_head
    if kind in ("k", "v"):
        return facts.n_kv_heads * facts.d_head
    experts = {"router": facts.n_experts, "expert": facts.n_experts * facts.d_model}
    return facts.d_mlp if kind == "mlp_act" else experts.get(kind, facts.d_model)


def _size(kind: Kind, itemsize: int) -> int:
    """Bytes of a number: the residual stream of a half-precision model is float32."""
    return max(itemsize, 4) if kind.startswith("resid") else itemsize


def wave_bytes(facts: Facts, tokens: int, itemsize: int) -> int:
    """What one cell holds in a wave: of a recurrent model its gates, inputs, states and values."""
    if facts.recurrent:
        return tokens * itemsize * 9 * facts.d_model
    wide = facts.n_heads * facts.d_head + facts.n_kv_heads * facts.d_head
    size = tokens * (5 * facts.d_model * max(itemsize, 4) + 4 * wide * itemsize)
    if facts.n_encoder_layers:  # what the encoder made, and what the decoder makes of it
        size += tokens * (facts.d_model * max(itemsize, 4) + 2 * wide * itemsize)
    return size


def pieces_bytes(
    facts: Facts,
    tokens: int,
    length: int,
    stages: Sequence[Stage],
    itemsize: int,
    limits: Limits,
    *,
    written: bool = False,
) -> int:
    """What a wave holds of what is made in pieces: attention's scores, the MLP's hidden layer.

    Args:
        tokens: of all cells together.
        written: is a pattern written? It is there as a whole.
    """
    if facts.recurrent:
        return 0
    size = 2 * min(tokens, limits.mlp_tokens(facts.d_mlp)) * facts.d_mlp * itemsize
    if any(stage.positions == length - stage.start for stage in stages):
        most = UNBOUNDED if written else max(limits.scores, facts.n_heads * length)
        size += 3 * min(tokens * facts.n_heads * length, most) * max(itemsize, 4)
    return size


def entry_of(facts: Facts, cell: Cell) -> tuple[int, int]:
    """Layer and step at which a cell joins; a decoder's layers come after the encoder's."""
    if not facts.n_encoder_layers:
        return min(entry(i.site, i.readers, facts.n_layers) for i in cell.interventions)
    found = []
    for i in cell.interventions:
        inside = i.site.stack == "enc"
        layers = facts.n_encoder_layers if inside else facts.n_layers
        layer, step = entry(i.site, i.readers, layers)
        found.append((layer if inside else facts.n_encoder_layers + layer, step))
    return min(found)
