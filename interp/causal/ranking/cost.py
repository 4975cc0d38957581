"""What attribution takes: the methods there are, how much is held at a time, and the plan."""

from typing import Literal, NamedTuple

from interp.causal.averages import PlainAblation
from interp.core.parts.facts import Facts
from interp.core.parts.graph import Graph, nodes
from interp.core.prompts.pairs import Pairs
from interp.engine.gradients.estimates import token_bytes
from interp.engine.limits import Limits
from interp.engine.plan import operations as ops
from interp.engine.plan.batches import Batch, Plan
from interp.engine.plan.cost import forward_flops
from interp.engine.plan.memory import Memory, require
from interp.engine.plan.positions import blocks, lengths_in, longest_in
from interp.models.model import Model

Parts = Literal["edges", "nodes"]
Method = Literal["eap", "eap-ig-inputs", "eap-ig-activations", "atp", "atp*"]
OF: dict[Parts, tuple[Method, ...]] = {
    "edges": ("eap", "eap-ig-inputs", "eap-ig-activations", "atp*"),
    "nodes": ("atp", "eap-ig-inputs", "eap-ig-activations", "atp*"),
}
"""Which methods there are for what; the first is taken if none is named."""
ROWS = 4
"""Prompts that have to fit with the graphs of all layers, or these are made one by one, twice."""


class Room(NamedTuple):
    """What is held at a time.

    Attributes:
        chunks: prompts of one length, and the bytes that they take.
        changes: bytes of what writers write at some positions, and of readers' gradients there.
        graphs: do those of all layers fit? Else each is made again where its gradients are taken.
    """

    chunks: list[tuple[list[int], int]]
    changes: int
    graphs: bool


def room_for(
    pairs: Pairs,
    graph: Graph,
    model: Model,
    parts: Parts,
    method: Method,
    places: int,
    allowed: int,
    memory: Memory,
) -> Room:
    """As many prompts at a time as the memory holds, with some positions' writers and readers.

    Raises:
        InterpError: it does not hold one prompt.
    """
    facts, longest = model.facts, int(lengths_in(model.facts, pairs).max())
    limits, itemsize = Limits.of(model.device), max(model.dtype.itemsize, 4)
    writers, readers = len(graph.writers), len(graph.readers)
    z, n = facts.n_heads * facts.d_head, layers_of(facts)
    inputs = facts.n_heads + 2 * facts.n_kv_heads
    tapes = 2 if "ig" in method else 1
    layer = tapes * (2 * facts.d_model + z)  # what runs leave
    layer += inputs * facts.d_head + facts.d_model  # gradients
    layer += z + facts.d_model  # what ablation sets
    token = n * layer + 12 * facts.d_model
    whole = itemsize * token * longest
    whole += 4 * itemsize * facts.d_mlp * min(longest, limits.mlp_tokens(facts.d_mlp))
    whole += 4 * itemsize * min(facts.n_heads * longest * longest, limits.scores)
    whole += itemsize * places * writers * 2 * readers
    changes = 0
    if method == "atp*":  # all writers, a reader's gradients without one layer each, patterns
        token = facts.d_model * (writers + 8 * inputs + 4 * n) + n * inputs * facts.d_head
        token += n * facts.n_heads * longest
        whole += itemsize * (token * longest + places * writers * inputs * n) + limits.patterns
    elif parts == "edges" or method == "eap-ig-activations":
        changes = token_bytes(facts, graph, itemsize)
    wide = facts.n_heads * (facts.d_head + longest) + facts.d_mlp
    every = itemsize * longest * n * tapes * (6 * wide + 4 * facts.d_model)
    what = f"one prompt of {longest} tokens, with activations and gradients,"
    allowed = require(whole + changes, allowed, memory, model.device, what)
    if changes:  # at one position at least
        changes = max(changes, min(limits.changes, (allowed - whole) // 2))
    graphs = ROWS * (whole + every) + changes <= allowed
    whole += every * graphs
    rows = blocks(pairs.extents, (allowed - changes) // whole)
    return Room([(some, whole * len(some) + changes) for some in rows], changes, graphs)


def layers_of(facts: Facts) -> int:
    """Layers that a run is taped in: a decoder's that reads an encoder counts as two."""
    return facts.n_encoder_layers + facts.n_layers * (2 if facts.n_encoder_layers else 1)


def plan_of(
    model: Model,
    graph: Graph,
    pairs: Pairs,
    room: Room,
    method: Method,
    steps: int,
    ablation: PlainAblation,
) -> Plan:
    """What gradients cost: a backward is one forward, since the weights have none, and each edge a
    product.
    """
    facts, itemsize, limits = model.facts, model.dtype.itemsize, Limits.of(model.device)
    n, readers, writers = layers_of(facts), len(graph.readers), len(graph.writers)
    plain = int(ablation == "resample")
    runs = {"eap": 1, "atp": 1, "eap-ig-inputs": steps, "atp*": 1}.get(method)
    if runs is None:  # each layer's writers go their own way from there on: half of the layers
        runs = 1 + (steps - 1) * (1 + n)
    backwards = runs * (n if method == "atp*" else 1)
    forwards = plain + (runs if room.graphs else 2 * runs)
    forwards += method == "atp*"  # queries, keys and patterns once more
    passes = forwards + backwards
    batches = []
    for rows, held in room.chunks:
        length = longest_in(facts, pairs, rows)
        forward = forward_flops(facts, length)
        # about half of all readers and writers are an edge
        products = length * readers * writers * facts.d_model * backwards
        flops = passes * forward + products
        one = ops.run_launches(facts, length, len(rows), half=itemsize < 4, limits=limits)
        batches.append(
            Batch(
                tuple(rows),
                (),
                0,
                length,
                (0, n - 1),
                held,
                len(rows) * flops,
                passes,
                # back each operation is about two, and each layer's readers are one product
                launches=(forwards + 2 * backwards) * one + backwards * n * ops.PRODUCT,
                waits=plain + runs,
                moved=passes * ops.moved(facts, n, len(rows) * length, length, itemsize),
            )
        )
    full = sum(forward_flops(facts, length) for length in lengths_in(facts, pairs).tolist())
    parts = len(graph.edges) if method.startswith("eap") else len(nodes(facts))
    note = f"gradients in place of a forward for each of {parts} parts"
    return Plan(tuple(batches), 0, parts * full, facts, "replay", note=note)
