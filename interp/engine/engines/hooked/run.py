"""The reference engine: full forwards of the bridge for each cell, with hooks.

Slow, general and simple to read. Every hook must fire exactly once in each forward, or the run is
an error: TransformerLens accepts hooks on points that never fire.
"""

from collections.abc import Callable, Iterator, Sequence

from jaxtyping import Int
from torch import Tensor

from interp.core.parts.sites import Kind, Site
from interp.engine.engines.hooked.held import along, arriving, give, write_pattern
from interp.engine.engines.hooked.writes import Hook, Output, forward, write
from interp.engine.engines.protocol import Written
from interp.engine.interventions import Hop
from interp.engine.network.trace import KEPT, Trace
from interp.engine.plan.edits import Edit
from interp.models.bridge.points import n_layers, point
from interp.models.bridge.points import shelves as shelves_of
from interp.models.model import Model

See = Callable[[str, int, Tensor], None]


def walk(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    see: See,
    *,
    shelves: Sequence[str],
    written: Written = None,
) -> Output:
    """One plain forward that shows each activation of some shelves as it is computed.

    `see` gets shelf, layer and activation; it must copy what it keeps, and change nothing.
    """
    hooks = [
        (point(model.facts, shelf, layer), _showing(see, shelf, layer, tokens))
        for shelf in shelves
        for layer in range(n_layers(model.facts, shelf))
    ]
    return forward(model, tokens, [], written=written, hooks=hooks)


def _showing(see: See, shelf: str, layer: int, tokens: Int[Tensor, "batch pos"]) -> Hook:
    def show(activation: Tensor) -> Tensor:
        if shelf == "router":  # of all tokens in one row
            see(shelf, layer, activation.view(*tokens.shape, -1))
            return activation
        # the bridge has the heads of a pattern first, a trace as in everything else
        see(shelf, layer, activation.transpose(1, 2) if "pattern" in shelf else activation)
        return activation

    return show


def trace(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    *,
    keep: Sequence[Kind] = KEPT,
    written: Written = None,
) -> Trace:
    """Activations of a plain run, copied, and its logits. Parallel blocks have no resid_mid."""
    kept: dict[str, list[Tensor]] = {shelf: [] for shelf in shelves_of(model.facts, keep)}

    def see(shelf: str, layer: int, activation: Tensor) -> None:
        kept[shelf].append(activation.clone())

    logits, final = walk(model, tokens, see, shelves=tuple(kept), written=written)
    return Trace(model.facts, {shelf: tuple(x) for shelf, x in kept.items()}, final, logits)


def run(
    model: Model,
    base: Trace,
    tokens: Int[Tensor, "batch pos"],
    edits: Sequence[Edit],
    hops: Sequence[Hop],
    receiving: Sequence[Int[Tensor, "batch _"]],
    written: Written = None,
) -> Output:
    """The output of one cell.

    One forward, two more for each reader of its own, one more for each attention whose patterns
    are set, and one for each hop. `receiving` has for each hop the positions where its receivers
    take what they compute.

    Raises:
        Unsupported: a key or value as one query head of a group reads it, and what the model does
            not let through.
    """
    if hops:
        return along(model, base, tokens, edits, hops, receiving)
    writes = [
        write(model.facts, edit)
        for edit in edits
        if edit.readers is None and edit.site.kind != "pattern"
    ]
    for site, concerned in _in_order(edits):
        if site.kind == "pattern":
            writes.append(write_pattern(model, tokens, writes, concerned, written))
            continue
        value, output = arriving(model, tokens, writes, site, concerned)
        if value is None:
            return output
        writes.append(give(model, site, value))
    return forward(model, tokens, writes, written=written)


def _in_order(edits: Sequence[Edit]) -> Iterator[tuple[Site, list[Edit]]]:
    """What takes runs of its own: each reader, and each attention whose patterns are set."""
    found: dict[Site, list[Edit]] = {}
    for edit in edits:
        if edit.site.kind == "pattern":
            same = (site for site in found if site.order[:4] == edit.site.order[:4])
            found.setdefault(next(same, edit.site), []).append(edit)
        for reader in edit.readers or ():
            found.setdefault(reader, []).append(edit)
    for site in sorted(found):
        yield site, found[site]
