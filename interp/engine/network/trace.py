"""Trace: the activations of one run of some rows of equal length."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.parts.facts import Facts
from interp.core.parts.sites import HEAD_KINDS, Kind, Site
from interp.engine.network import forward
from interp.engine.network.weights import Attention, Weights

KEPT: tuple[Kind, ...] = ("resid_pre", "q", "k", "v", "z", "attn_out", "resid_mid", "mlp_out")
"""What a trace holds of each layer; resid_post is the next layer's resid_pre."""
RECURRENT: tuple[Kind, ...] = ("resid_pre", "c", "h")
"""... of each layer of a recurrent model: what enters it, and its states."""


def shelf(site: Site) -> str:
    """Where a trace keeps what a site names: its kind, after the stack where there are two."""
    parts = (site.stack, "cross" if site.cross else None, site.kind)
    return ".".join(part for part in parts if part is not None)


@dataclass(frozen=True, eq=False)
class Trace:
    """Activations by `shelf` and layer: `batch pos d_model`, `batch pos head d_head`.

    Queries and keys stand before the rotation (and before a norm of their own). A pattern is
    `batch query head key`, neurons are `batch pos d_mlp`. `final` is the residual stream after the
    last layer (a decoder's, where there are two stacks; of a recurrent model its h); `logits` are
    there when the engine had to compute them all.
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


See = Callable[[str, int, Tensor], None]
"""Is shown each activation, by shelf and layer, as it is computed; it must not change it."""


def walk(
    w: Weights,
    tokens: Int[Tensor, "batch pos"],
    see: See,
    *,
    wanted: Sequence[str],
    layers: int | None = None,
) -> Float[Tensor, "batch pos d_model"]:
    """Run the model plainly, showing every activation; returns the residual stream at the end.

    Args:
        wanted: patterns and neurons are made whole for `see` only if they are among these.
        layers: how many to run; all by default.
    """
    resid = forward.embed(w, tokens)
    turn = forward.rotations(w, tokens.shape[1])
    for layer in range(len(w.blocks[:layers])):
        resid = through(w, layer, resid, turn, see, wanted=wanted)
    return resid


def through(
    w: Weights,
    layer: int,
    resid: Float[Tensor, "batch pos d_model"],
    turn: forward.Rotations,
    see: See,
    *,
    wanted: Sequence[str] = (),
) -> Float[Tensor, "batch pos d_model"]:
    """One layer, showing every activation."""
    block = w.blocks[layer]
    p = block.attention
    see("resid_pre", layer, resid)
    x = forward.norm(resid, p.ends.read)
    q, k, v = (forward.project(x, part, w.facts.d_head) for part in (p.q, p.k, p.v))
    for kind, activation in (("q", q), ("k", k), ("v", v)):
        see(kind, layer, activation)
    z, probabilities = _attend(w, p, q, k, v, turn, whole="pattern" in wanted)
    if probabilities is not None:
        see("pattern", layer, probabilities)
    see("z", layer, z)
    attn_out = forward.attention_write(z, p)
    see("attn_out", layer, attn_out)
    resid_mid = forward.add(resid, attn_out, p.ends)
    see("resid_mid", layer, resid_mid)
    x = resid if w.facts.parallel else resid_mid
    if "mlp_act" in wanted:
        see("mlp_act", layer, forward.hidden(x, block.mlp))
    mlp_out = forward.mlp(x, block.mlp)
    see("mlp_out", layer, mlp_out)
    resid = forward.add(resid_mid, mlp_out, block.mlp.ends)
    see("resid_post", layer, resid)
    return resid


SCORES_AT_ONCE = 1 << 22
"""Attention scores that are held at a time: more rows make it no faster, only larger."""


def _attend(
    w: Weights,
    p: Attention,
    q: Float[Tensor, "batch pos head d_head"],
    k: Float[Tensor, "batch pos group d_head"],
    v: Float[Tensor, "batch pos group d_head"],
    turn: forward.Rotations,
    *,
    whole: bool,
) -> tuple[Float[Tensor, "batch pos head d_head"], Float[Tensor, "batch query head key"] | None]:
    """z, and the pattern if it is asked for, a few rows at a time."""
    rows = max(1, SCORES_AT_ONCE // (q.shape[1] * q.shape[1] * q.shape[2]))
    zs, patterns = [], []
    for i in range(0, len(q), rows):
        part, values = _pattern(w, p, q[i : i + rows], k[i : i + rows], turn), v[i : i + rows]
        zs.append(forward.mix(part, forward.Keys(values[:, :0], values[None]))[0])
        if whole:
            patterns.append(part[0].flatten(1, 2).transpose(1, 2))
    z = zs[0] if len(zs) == 1 else torch.cat(zs)
    return z, torch.cat(patterns) if whole else None


def _pattern(
    w: Weights,
    p: Attention,
    q: Float[Tensor, "batch pos head d_head"],
    k: Float[Tensor, "batch pos group d_head"],
    turn: forward.Rotations,
) -> Float[Tensor, "1 batch group in_group query key"]:
    batch, pos = q.shape[:2]
    place = torch.arange(pos, device=q.device).expand(batch, -1)
    q, k = forward.head_norm(q, p.q_norm)[None], forward.head_norm(k, p.k_norm)
    keys = forward.Keys(k[:, :0], k[None])
    return forward.pattern(p, q, keys, turn.get(p.rotary), place, causal=w.facts.causal)
