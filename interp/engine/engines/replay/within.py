"""What is changed inside an MLP: its neurons, the experts of a mixture, and their router.

A router is changed first, since its weights are in what neurons and experts write; an expert last,
since it is made of its neurons.
"""

from bisect import bisect_left
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.parts.sites import Kind
from interp.engine.network import forward
from interp.engine.network.weights import MLP
from interp.engine.plan.edits import Edit, together

INSIDE: tuple[Kind, ...] = ("router", "mlp_act", "expert")


def weights(
    x: Float[Tensor, "batch window d_model"],
    p: MLP,
    edits: Sequence[Edit],
    window: Int[Tensor, "batch window"],
    like: Float[Tensor, "batch window d_model"] | None = None,
) -> Float[Tensor, "batch window expert"] | None:
    """The weights that edits give to experts; None where there are no such edits."""
    of_router = [edit for edit in edits if edit.site.kind == "router"]
    if not of_router:
        return None
    found = forward.routed(x, p, like)
    for edit in of_router:
        found = edit(found, window)
    return found


def neurons(
    x: Float[Tensor, "batch window d_model"],
    p: MLP,
    edits: Sequence[Edit],
    window: Int[Tensor, "batch window"],
    like: Float[Tensor, "batch window d_model"] | None = None,
) -> Float[Tensor, "batch window d_mlp"]:
    """All neurons of an MLP with the edits of some."""
    act = forward.hidden(x, p, like)
    for edit in edits:
        if edit.site.kind == "mlp_act":
            act[..., edit.site.neuron] = edit(act[..., edit.site.neuron], window)
    return act


def moved(
    x: Float[Tensor, "cells batch window d_model"],
    p: MLP,
    edits: Sequence[tuple[int, Edit]],
    window: Int[Tensor, "batch window"],
    begins: int | None,
    like: Float[Tensor, "batch window d_model"] | None = None,
) -> Float[Tensor, "cells batch window d_model"]:
    """By how much edits of neurons, each with its cell, move what the MLP of each writes.

    Args:
        x: what the MLP reads.
        begins: where the window begins, if it is all positions from there on.
        like: what its norm takes its scale from, where that is frozen.
    """
    chosen = sorted({edit.site.neuron or 0 for _, edit in edits})
    index = torch.tensor(chosen, device=x.device)
    act = forward.hidden(x, p, like, neurons=index)
    new = act.clone()
    places = [(cell, bisect_left(chosen, edit.site.neuron or 0), edit) for cell, edit in edits]
    for group in together(places, x.device):
        group.into(new, window, begins)
    return (new - act) @ p.down.summands().index_select(1, index).T


def change(
    x: Float[Tensor, "batch window d_model"],
    p: MLP,
    edits: Sequence[Edit],
    window: Int[Tensor, "batch window"],
    like: Float[Tensor, "batch window d_model"] | None = None,
    weights: Float[Tensor, "batch window expert"] | None = None,
) -> Float[Tensor, "batch window d_model"] | None:
    """By how much edits of neurons and experts move what the MLP writes, before a norm of it.

    Args:
        x: what the MLP reads.
        like: what its norm takes its scale from, where that is frozen.
        weights: of experts, where they are not the router's.
    """
    found, apart = None, None
    of_neurons = [edit for edit in edits if edit.site.kind == "mlp_act"]
    if of_neurons:
        index = torch.tensor([edit.site.neuron for edit in of_neurons], device=x.device)
        act = forward.hidden(x, p, like, neurons=index, weights=weights)
        new = torch.stack([e(act[..., i], window) for i, e in enumerate(of_neurons)], -1)
        columns = p.down.summands().index_select(1, index)
        found, apart = (new - act) @ columns.T, (new - act, columns, index)
    of_experts = [edit for edit in edits if edit.site.kind == "expert"]
    if not of_experts or p.mixture is None:
        return found
    normed = forward.norm(x, p.ends.read, like)
    weights = p.mixture.weights(normed) if weights is None else weights
    for edit in of_experts:
        expert = edit.site.expert or 0
        current = p.mixture.one(normed, expert, weights)
        if apart is not None:
            moved, columns, index = apart
            mine = index // p.mixture.down.width == expert
            current = current + (moved * mine) @ columns.T
        step = edit(current, window) - current
        found = step if found is None else found + step
    return found
