"""Trace: the activations of one run of some rows of equal length."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.facts import Facts
from interp.core.sites import HEAD_KINDS, Kind, Site
from interp.engine import forward
from interp.engine.weights import Attention, Weights

KEPT: tuple[Kind, ...] = ("resid_pre", "q", "k", "v", "z", "attn_out", "resid_mid", "mlp_out")
"""What a trace holds of each layer; resid_post is the next layer's resid_pre."""


def shelf(site: Site) -> str:
    """Where a trace keeps what a site names: its kind, after the stack where there are two."""
    parts = (site.stack, "cross" if site.cross else None, site.kind)
    return ".".join(part for part in parts if part is not None)


@dataclass(frozen=True, eq=False)
class Trace:
    """Activations by `shelf` and layer: `batch pos d_model`, `batch pos head d_head`.

    Queries and keys stand before the rotation (and before a norm of their own). A pattern is
    `batch query head key`, neurons are `batch pos d_mlp`. `final` is the residual stream after the
    last layer (a decoder's, where there are two stacks); `logits` are there when the engine had to
    compute them all.
    """

    facts: Facts
    kept: Mapping[str, tuple[Tensor, ...]]
    final: Float[Tensor, "batch pos d_model"]
    logits: Float[Tensor, "batch pos d_vocab"] | None = None

    def at(self, site: Site) -> Float[Tensor, "batch pos *axes"]:
        """The activation at a site; a key or value of a query head is that of its group."""
        layer = 0 if site.layer is None else site.layer
        if site.kind == "embed":
            return self.kept["resid_pre"][0]
        if site.kind == "resid_post" and shelf(site) not in self.kept:
            last = layer + 1 == self.facts.n_layers
            return self.final if last else self.kept["resid_pre"][layer + 1]
        whole = self.kept[shelf(site)][layer]
        if site.neuron is not None:
            return whole[..., site.neuron]
        if site.kind not in HEAD_KINDS:
            return whole
        index = site.group if site.group is not None else site.head
        assert index is not None
        if site.kind in ("k", "v") and site.head is not None:
            index = site.head // self.facts.group_size
        return whole[:, :, index]


def trace(w: Weights, tokens: Int[Tensor, "batch pos"], *, keep: Sequence[Kind] = KEPT) -> Trace:
    """Run the model plainly and keep the activations of the given kinds."""
    kept: dict[Kind, list[Tensor]] = {kind: [] for kind in KEPT}
    resid = forward.embed(w, tokens)
    d_head = w.facts.d_head
    turn = forward.rotation(w, tokens.shape[1])
    for block in w.blocks:
        p = block.attention
        x = forward.norm(resid, p.norm)
        q, k, v = (forward.project(x, part, d_head) for part in (p.q, p.k, p.v))
        z = forward.mix(_pattern(block.attention, q, k, turn), v[None], v[:, :0])[0]
        attn_out = p.o(z.flatten(-2))
        resid_mid = resid + attn_out
        mlp_out = forward.mlp(resid_mid, block.mlp)
        for kind, value in zip(
            KEPT, (resid, q, k, v, z, attn_out, resid_mid, mlp_out), strict=True
        ):
            if kind in keep:
                kept[kind].append(value)
        resid = resid_mid + mlp_out
    return Trace(w.facts, {kind: tuple(values) for kind, values in kept.items()}, resid)


def pattern(w: Weights, run: Trace, layer: int) -> Float[Tensor, "batch head query key"]:
    """Attention probabilities of every head of a layer, from a trace's queries and keys."""
    q, k = run.kept["q"][layer], run.kept["k"][layer]
    turn = forward.rotation(w, q.shape[1])
    return _pattern(w.blocks[layer].attention, q, k, turn)[0].flatten(1, 2)


def _pattern(
    p: Attention,
    q: Float[Tensor, "batch pos head d_head"],
    k: Float[Tensor, "batch pos group d_head"],
    turn: forward.Rotation | None,
) -> Float[Tensor, "1 batch group in_group query key"]:
    batch, pos = q.shape[:2]
    place = torch.arange(pos, device=q.device).expand(batch, -1)
    rotated = (forward.rotate(t, turn, place)[None] for t in (q, k))
    return forward.pattern(*rotated, k[:, :0], forward.causal(place, pos), p.scale)
