"""The reference engine: one full forward of the bridge for each cell, with hooks.

Slow, general and simple to read. Every hook must fire exactly once in each forward, or the
run is an error: TransformerLens accepts hooks on points that never fire.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.errors import Unsupported
from interp.core.facts import Facts
from interp.core.sites import Kind, Site
from interp.engine.edits import Edit
from interp.engine.interventions import Freeze, Hop
from interp.engine.trace import KEPT, Trace
from interp.models.model import Model

Hook = Callable[[Tensor], Tensor]

POINTS: dict[Kind, str] = {
    "embed": "blocks.0.hook_resid_pre",
    "resid_pre": "blocks.{}.hook_resid_pre",
    "q": "blocks.{}.attn.hook_q",
    "k": "blocks.{}.attn.hook_k",
    "v": "blocks.{}.attn.hook_v",
    "pattern": "blocks.{}.attn.hook_pattern",
    "z": "blocks.{}.attn.hook_z",
    "attn_out": "blocks.{}.hook_attn_out",
    "resid_mid": "blocks.{}.hook_resid_mid",
    "mlp_out": "blocks.{}.hook_mlp_out",
    "resid_post": "blocks.{}.hook_resid_post",
}


def forward(
    model: Model, tokens: Int[Tensor, "batch pos"], hooks: Sequence[tuple[str, Hook]]
) -> Float[Tensor, "batch pos d_vocab"]:
    """Run the bridge with hooks that are gone afterwards, whatever happens.

    Raises:
        Unsupported: a hook point that the bridge has not, or that did not fire exactly once.
    """
    known = model.bridge.hook_dict
    if lost := [name for name, _ in hooks if name not in known]:
        raise Unsupported(
            f"TransformerLens gives {model.facts.architecture} no hook point {lost[0]!r}, so what "
            "this needs can be neither read nor changed. Encoder-decoder models are not supported."
        )
    fired: Counter[int] = Counter()

    def fire(index: int, activation: Tensor) -> Tensor:
        fired[index] += 1
        return hooks[index][1](activation)

    points = [(name, lambda x, hook, i=i: fire(i, x)) for i, (name, _) in enumerate(hooks)]
    with model.bridge.hooks(fwd_hooks=points):
        logits = model.bridge(tokens)
    if wrong := {hooks[i][0]: fired[i] for i in range(len(hooks)) if fired[i] != 1}:
        raise Unsupported(
            f"hooks fired {wrong} times in one forward of {model.facts.architecture}, not once: "
            "a write there would do nothing or too much, so the numbers would be wrong."
        )
    return logits


def trace(model: Model, tokens: Int[Tensor, "batch pos"], *, keep: Sequence[Kind] = KEPT) -> Trace:
    """Activations of a plain run, copied, and its logits. Parallel blocks have no resid_mid."""
    n_layers = model.facts.n_layers
    keep = [kind for kind in keep if not (model.facts.parallel and kind == "resid_mid")]
    kept: dict[Kind, list[Tensor]] = {kind: [] for kind in keep}
    final: list[Tensor] = []

    def into(store: list[Tensor]) -> Hook:
        return lambda activation: _copy(store, activation)

    hooks = [(POINTS[kind].format(i), into(kept[kind])) for i in range(n_layers) for kind in keep]
    hooks.append((POINTS["resid_post"].format(n_layers - 1), into(final)))
    logits = forward(model, tokens, hooks)
    return Trace(model.facts, {k: tuple(x) for k, x in kept.items()}, final[0], logits)


def _copy(store: list[Tensor], activation: Tensor) -> Tensor:
    store.append(activation.clone())
    return activation


def patterns(
    model: Model, tokens: Int[Tensor, "batch pos"], layers: Sequence[int]
) -> dict[int, Float[Tensor, "batch head query key"]]:
    """Attention probabilities of every head of some layers."""
    found: list[Tensor] = []
    points = [POINTS["pattern"].format(layer) for layer in sorted(layers)]
    forward(model, tokens, [(point, lambda x: _copy(found, x)) for point in points])
    return dict(zip(sorted(layers), found, strict=True))


def run(
    model: Model,
    base: Trace,
    tokens: Int[Tensor, "batch pos"],
    edits: Sequence[Edit],
    hop: Hop | None,
    receiving: Int[Tensor, "batch window"],
) -> Float[Tensor, "batch pos d_vocab"]:
    """Logits of one cell.

    A path takes two forwards: the first with everything frozen that the change may not pass,
    noting what the receivers compute; the second with only the receivers set to that.

    Raises:
        Unsupported: a key or value as one query head of a group reads it.
    """
    if hop is None:
        return forward(model, tokens, _writes(model.facts, edits))
    frozen: list[tuple[str, Hook]] = []
    noted: dict[str, list[Tensor]] = {}

    def note(point: str) -> Hook:
        store = noted[point] = []
        return lambda activation: _copy(store, activation)

    def freeze(value: Tensor) -> Hook:
        return lambda activation: value

    points = {POINTS[s.kind].format(s.layer) for s in hop.receivers if s.kind != "logits"}
    frozen += [(point, note(point)) for point in sorted(points)]
    kinds: tuple[Kind, ...] = ("z",) if hop.through == "mlps" else ("z", "mlp_out")
    frozen += [
        (POINTS[kind].format(layer), freeze(base.kept[kind][layer]))
        for kind in kinds
        for layer in range(model.facts.n_layers)
    ]
    logits = forward(model, tokens, frozen + _writes(model.facts, edits))
    if not noted:
        return logits
    second = []
    for site in hop.receivers:
        index = _index(model.facts, site)
        [found] = noted[POINTS[site.kind].format(site.layer)]
        second.append((site, found if index is None else found[:, :, index]))
    mask = torch.zeros_like(tokens, dtype=torch.bool).scatter(1, receiving, True)
    received = [Edit(site, Freeze(), mask, found) for site, found in second]
    return forward(model, tokens, _writes(model.facts, received))


def _writes(facts: Facts, edits: Sequence[Edit]) -> list[tuple[str, Hook]]:
    """One hook for each edit, in order of computation."""
    hooks: list[tuple[str, Hook]] = []
    for edit in sorted(edits, key=lambda e: e.site):
        point = POINTS[edit.site.kind].format(edit.site.layer)
        if edit.site.kind == "resid_mid":
            hooks += _write_resid_mid(edit)
        else:
            hooks.append((point, _write(edit, _index(facts, edit.site))))
    return hooks


def _write(edit: Edit, index: int | None) -> Hook:
    return lambda activation: _written(edit, index, activation)


def _written(edit: Edit, index: int | None, activation: Tensor) -> Tensor:
    everywhere = torch.arange(activation.shape[1], device=activation.device)
    window = everywhere.expand(activation.shape[:2])
    if index is None:
        return edit(activation, window)
    changed = activation.clone()
    changed[:, :, index] = edit(activation[:, :, index], window)
    return changed


def _write_resid_mid(edit: Edit) -> list[tuple[str, Hook]]:
    """The bridge's resid_mid is only the MLP's input: move the sum through attn_out instead."""
    before: list[Tensor] = []
    layer = edit.site.layer
    whole = _write(edit, None)

    def note(activation: Tensor) -> Tensor:
        before.append(activation)
        return activation

    def write(attn_out: Tensor) -> Tensor:
        resid = before.pop()
        return whole(resid + attn_out) - resid

    return [
        (POINTS["resid_pre"].format(layer), note),
        (POINTS["attn_out"].format(layer), write),
    ]


def _index(facts: Facts, site: Site) -> int | None:
    """Index on the head axis of the hooked tensor."""
    if site.kind in ("k", "v") and site.head is not None and facts.group_size > 1:
        raise Unsupported(
            f"hooks cannot reach '{site}', the {site.kind} as one query head of a group reads it: "
            f"{facts.group_size} query heads share the tensor. Use engine='replay', or the group: "
            f"'{site.layer}.kv{site.head // facts.group_size}.{site.kind}'."
        )
    return site.group if site.group is not None else site.head
