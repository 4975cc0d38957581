"""What takes more than one forward of the bridge: patterns, edges and paths.

A pattern is written through the output of its head, and a reader of its own, of an edge or of a
path, is set to what it computes in a run that is frozen around it. Nothing here knows what an
architecture does between the places that are frozen.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from weakref import WeakSet

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.core.errors import Unsupported
from interp.core.parts.facts import Facts
from interp.core.parts.sites import Kind, Site
from interp.engine.engines.hooked.writes import (
    Hook,
    Output,
    Rank,
    Write,
    at,
    forward,
    index_of,
    noting,
    write,
    written,
)
from interp.engine.engines.protocol import Written
from interp.engine.interventions import Freeze, Hop
from interp.engine.network.trace import Trace
from interp.engine.plan.edits import Edit
from interp.models.bridge.points import norms, point
from interp.models.model import Model

Tokens = Int[Tensor, "batch pos"]


# patterns


def write_pattern(
    model: Model,
    tokens: Tokens,
    writes: Sequence[Write],
    edits: Sequence[Edit],
    decoder: Written,
) -> Write:
    """The write that gives some heads of one attention the patterns of their edits.

    On many architectures the model does not read the bridge's pattern back, so the outputs of the
    heads are written instead: the edited pattern times the values as they are in that forward.
    `decoder`: what it has written.

    Raises:
        Unsupported: the heads' outputs are no product of pattern and values.
    """
    site, facts = edits[0].site, model.facts
    pattern, v, z = _noted(model, tokens, writes, site, ("pattern", "v", "z"), decoder)
    new = pattern.transpose(1, 2)
    product = _mixed(new, v, facts)
    error = (product - z).abs().max().item() / max(z.abs().max().item(), 1e-30)
    if not error <= model.checks.tolerance:
        raise Unsupported(
            f"a pattern written at '{site}' would not be the attention of {facts.architecture}: "
            f"its pattern times its values differs from the head's output by {error:.1e} times "
            f"its size (tolerance {model.checks.tolerance:.0e}). Set the output of the head, "
            f"'{replace(site, kind='z')}', instead."
        )
    touched = torch.zeros(z.shape[:3], dtype=torch.bool, device=z.device)
    for edit in edits:
        assert edit.site.head is not None
        new = written(edit, edit.site.head, new)
        touched[:, :, edit.site.head] |= edit.mask
    values: list[Tensor] = []

    def through_z(z: Tensor) -> Tensor:
        return torch.where(touched[..., None], _mixed(new, values.pop(), facts), z)

    hooks = (*_at(facts, site, "v", noting(values)), *_at(facts, site, "z", through_z))
    return Write(site, Rank.EDIT, hooks)


def _mixed(
    pattern: Float[Tensor, "batch query head key"],
    v: Float[Tensor, "batch key group d_head"],
    facts: Facts,
) -> Float[Tensor, "batch query head d_head"]:
    # some models keep their pattern in float32 until it meets the values
    each = v.repeat_interleave(facts.group_size, 2)
    return torch.einsum("bqhk,bkhd->bqhd", pattern.to(v.dtype), each)


def _at(facts: Facts, site: Site, kind: Kind, hook: Hook) -> tuple[tuple[str, Hook], ...]:
    return at(facts, replace(site, kind=kind), Rank.NOTE, hook).hooks


def _noted(
    model: Model,
    tokens: Tokens,
    writes: Sequence[Write],
    site: Site,
    kinds: Sequence[Kind],
    decoder: Written,
) -> list[Tensor]:
    """Tensors of one attention before anything is written there, but for the values."""
    stores: list[list[Tensor]] = [[] for _ in kinds]
    ranks = [Rank.SEE if kind == "v" else Rank.NOTE for kind in kinds]
    notes = [
        at(model.facts, replace(site, kind=kind), rank, noting(store))
        for kind, rank, store in zip(kinds, ranks, stores, strict=True)
    ]
    forward(model, tokens, [*writes, *notes], written=decoder)
    return [store[0] for store in stores]


# edges


def arriving(
    model: Model,
    tokens: Tokens,
    writes: Sequence[Write],
    reader: Site,
    edits: Sequence[Edit],
) -> tuple[Tensor | None, Output]:
    """What one reader computes when it alone sees some edits, and the output of that run.

    Everything that writes to the residual stream is frozen to its value under `writes`, so that
    the edits reach the reader along no other part. Writes to the stream itself stay.
    """
    facts = model.facts
    if facts.n_encoder_layers:
        raise Unsupported(no_paths(model))
    frozen = [Site("z", layer, head=0) for layer in range(facts.n_layers)]
    frozen += [_neurons(model, layer) for layer in range(facts.n_layers)]
    current: list[list[Tensor]] = [[] for _ in frozen]
    seen = [
        at(facts, site, Rank.SEE, noting(store))
        for site, store in zip(frozen, current, strict=True)
    ]
    forward(model, tokens, [*writes, *seen])
    freezes = [
        at(facts, site, Rank.FREEZE, _to(value))
        for site, [value] in zip(frozen, current, strict=True)
    ]
    changes = [write(facts, edit, Rank.CHANGE) for edit in edits]
    note, store = _note(model, reader)
    output = forward(model, tokens, [*writes, *freezes, *changes, *note])
    return (store[0] if store else None), output


def give(model: Model, reader: Site, value: Tensor) -> Write:
    """The write that sets a reader to what arrived; an edit of its own acts on that."""
    return _set(model, reader, value, None, Rank.GIVEN)


def _set(
    model: Model,
    reader: Site,
    value: Tensor,
    mask: Bool[Tensor, "batch pos"] | None,
    rank: Rank,
) -> Write:
    site = _entrance(model, reader)
    index = None if reader.kind == "mlp_out" else index_of(model.facts, site)
    whole = value if index is None else value[:, :, index]
    everywhere = torch.ones(value.shape[:2], dtype=torch.bool, device=value.device)
    edit = Edit(site, Freeze(), everywhere if mask is None else mask, whole)
    return at(model.facts, site, rank, lambda x: written(edit, index, x))


def _note(model: Model, reader: Site) -> tuple[list[Write], list[Tensor]]:
    """What notes a reader, of everything that stands in its tensor; the logits are no place."""
    store: list[Tensor] = []
    if reader.kind == "logits":
        return [], store
    site = _entrance(model, reader)
    index_of(model.facts, site)  # refuses what cannot be set
    return [at(model.facts, site, Rank.NOTE, noting(store))], store


def _entrance(model: Model, reader: Site) -> Site:
    """The place nearest to a reader's input: an MLP's neurons, so that edits of them still act."""
    if reader.kind != "mlp_out":
        return reader
    assert reader.layer is not None
    return _neurons(model, reader.layer)


def _neurons(model: Model, layer: int) -> Site:
    """All neurons of an MLP; its output, if the bridge cannot reach them (mixtures of experts)."""
    reached = point(model.facts, "mlp_act", layer) in model.bridge.hook_dict
    return Site("mlp_act", layer, neuron=0) if reached else Site("mlp_out", layer)


def _to(value: Tensor) -> Hook:
    return lambda activation: value


# paths


@dataclass(frozen=True, eq=False)
class Frozen:
    """The base run's values that hops freeze, and the scales of its norms."""

    kept: Mapping[str, Sequence[Tensor]]
    scales: Mapping[str, Tensor]


def no_paths(model: Model) -> str:
    """What to say of a single reader in one of two stacks."""
    return (
        f"the hooks engine has no paths and edges in encoder-decoders ({model.facts}). Use "
        "engine='replay' where that serves the model, or patch the sender or the receiver for all "
        "its readers."
    )


def along(
    model: Model,
    base: Trace,
    tokens: Tokens,
    edits: Sequence[Edit],
    hops: Sequence[Hop],
    receiving: Sequence[Int[Tensor, "batch _"]],
) -> Output:
    """The output of a cell with hops; see `interp.engine.interventions.Cell`.

    Raises:
        Unsupported: an encoder-decoder, or frozen scales on a model that does not read them.
    """
    if model.facts.n_encoder_layers:
        raise Unsupported(no_paths(model))
    held = _held(model, base, tokens, hops)
    changes = [write(model.facts, edit, Rank.CHANGE) for edit in edits]
    given: tuple[Site, ...] = ()
    for hop, positions in zip(hops, receiving, strict=True):
        notes = {reader: _note(model, reader) for reader in hop.receivers}
        seen = [note for found, _ in notes.values() for note in found]
        freezes = _freezes(model, held, hop, given)
        scales = _scales(held) if hop.ln == "freeze" else []
        output = forward(model, tokens, [*changes, *freezes, *seen], hooks=scales)
        if hop.ends:
            return output
        given = hop.receivers
        mask = torch.zeros_like(tokens, dtype=torch.bool).scatter(1, positions, True)
        changes = [
            _set(model, reader, store[0], mask, Rank.CHANGE) for reader, (_, store) in notes.items()
        ]
    return forward(model, tokens, changes)


def _freezes(model: Model, held: Frozen, hop: Hop, given: Sequence[Site]) -> Iterator[Write]:
    """Everything that a hop does not pass through, as in the base run.

    A head whose query, key or value is given is computed, from the base run's where none is.
    """
    if hop.through == "all":
        return
    facts = model.facts
    live: dict[int, set[int]] = {}
    for site in given:
        if site.kind in ("q", "k", "v"):
            assert site.layer is not None
            live.setdefault(site.layer, set()).update(_heads(facts, site))
    for layer in range(facts.n_layers):
        for kind in ("q", "k", "v") if layer in live else ():
            yield _freeze(facts, held, Site(kind, layer, **{"head" if kind == "q" else "group": 0}))
        yield _freeze(facts, held, Site("z", layer, head=0), live.get(layer, set()))
        if hop.through == "direct":
            yield _freeze(facts, held, _neurons(model, layer))


def _freeze(facts: Facts, held: Frozen, site: Site, live: set[int] | None = None) -> Write:
    """The whole tensor that a site is part of, but for some heads."""
    assert site.layer is not None
    value = held.kept[site.kind][site.layer]

    def freeze(activation: Tensor) -> Tensor:
        frozen = value.clone()
        for head in live or ():
            frozen[:, :, head] = activation[:, :, head]
        return frozen

    return at(facts, site, Rank.FREEZE, freeze)


def _heads(facts: Facts, site: Site) -> range:
    """The heads that compute with a query, key or value."""
    if site.group is not None:
        return range(site.group * facts.group_size, (site.group + 1) * facts.group_size)
    assert site.head is not None
    return range(site.head, site.head + 1)


def _held(model: Model, base: Trace, tokens: Tokens, hops: Sequence[Hop]) -> Frozen:
    """The base run's trace, with neurons and scales from one more plain run if hops need them."""
    facts = model.facts
    scaled = any(hop.ln == "freeze" for hop in hops)
    sites = [_neurons(model, layer) for layer in range(facts.n_layers)]
    inner = sites if any(hop.through == "direct" for hop in hops) else []
    if not inner and not scaled:
        return Frozen(base.kept, {})
    neurons: list[Tensor] = []
    names = list(norms(facts, model.bridge.hook_dict)) if scaled else []
    if scaled:
        _require_live_scales(model, tokens, names)
    scales: dict[str, list[Tensor]] = {f"{name}.hook_scale": [] for name in names}
    writes = [at(facts, site, Rank.NOTE, noting(neurons)) for site in inner]
    hooks = [(name, noting(store)) for name, store in scales.items()]
    forward(model, tokens, writes, hooks=hooks)
    kept = {**base.kept, **({inner[0].kind: neurons} if inner else {})}
    return Frozen(kept, {name: store[0] for name, store in scales.items()})


def _scales(held: Frozen) -> list[tuple[str, Hook]]:
    return [(name, _to(value)) for name, value in held.scales.items()]


_LIVE: WeakSet[Model] = WeakSet()
"""Models whose norms are known to divide by what is written."""


def _require_live_scales(model: Model, tokens: Tokens, names: Sequence[str]) -> None:
    """Refuse norms that do not divide by the scale that is written: tried with twice the scale.

    Then the output must lie half-way between the plain output and that of zeros, the bias.
    """
    if model in _LIVE:
        return
    for name in names:
        if getattr(attrgetter(name)(model.bridge), "weight", None) is None:
            raise Unsupported(
                f"the scale of the norm {name!r} of {model.facts.architecture} cannot be frozen: "
                "the norm learns no weight, and TransformerLens writes the scale of none such. Use "
                "engine='replay', or ln='recompute'."
            )
    ins: list[list[Tensor]] = [[] for _ in names]
    outs: list[list[Tensor]] = [[] for _ in names]
    hooks: list[tuple[str, Hook]] = []
    for name, read, wrote in zip(names, ins, outs, strict=True):
        hooks += [(f"{name}.hook_in", noting(read)), (f"{name}.hook_out", noting(wrote))]
        hooks.append((f"{name}.hook_scale", lambda scale: 2 * scale))
    forward(model, tokens, [], hooks=hooks)
    for name, [read], [wrote] in zip(names, ins, outs, strict=True):
        norm = attrgetter(name)(model.bridge)
        expected = (norm(read) + norm(torch.zeros_like(read))) / 2
        error = (wrote - expected).abs().max().item() / expected.abs().max().item()
        # norms called by themselves compute in float32 at best
        if not error <= max(1e-4, model.checks.tolerance):
            raise Unsupported(
                f"the scale of the norm {name!r} of {model.facts.architecture} cannot be frozen: "
                f"written twice as large it leaves the norm's output off by {error:.1e} times its "
                "size. Use engine='replay', or ln='recompute'."
            )
    _LIVE.add(model)
