"""Trace: the activations of one run of some rows of equal length."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.parts.facts import Facts
from interp.core.parts.sites import HEAD_KINDS, Kind, Site, Stack
from interp.engine.limits import Limits
from interp.engine.network import forward
from interp.engine.network.stacks import Stacks, facts_of_stack
from interp.engine.network.weights import Attention, Block, Weights

KEPT: tuple[Kind, ...] = ("resid_pre", "q", "k", "v", "z", "attn_out", "resid_mid", "mlp_out")
"""What a trace holds of each layer; resid_post is the next layer's resid_pre."""
RECURRENT: tuple[Kind, ...] = ("resid_pre", "c", "h")
"""... of each layer of a recurrent model: what enters it, and its states."""


@dataclass(frozen=True)
class Held:
    """What a trace is to hold.

    Attributes:
        layers: of each kind, or shelf where there are two stacks.
        first: the position from which on; keys and values are held from 0, since every later
            query reads them, and so is everything in an encoder.
    """

    layers: Mapping[str, frozenset[int]]
    first: int = 0

    @classmethod
    def whole(cls, kinds: Sequence[Kind], n_layers: int) -> "Held":
        """Every layer and position."""
        return cls(dict.fromkeys(kinds, frozenset(range(n_layers))))

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(self.layers)


def begins(kind: str, first: int) -> int:
    """The first position that is held of a kind, or on a shelf."""
    if not first or kind in ("k", "v"):
        return 0
    return 0 if kind.startswith("enc.") or kind.endswith((".k", ".v")) else first


def shelf(site: Site) -> str:
    """Where a trace keeps what a site names: its kind, after the stack where there are two."""
    parts = (site.stack, "cross" if site.cross else None, site.kind)
    return ".".join(part for part in parts if part is not None)


BETWEEN = "resid_cross"
"""The shelf of a decoder's stream between its cross-attention and its MLP, which no site names."""


@dataclass(frozen=True, eq=False)
class Trace:
    """Activations by `shelf` and layer: `batch pos d_model`, `batch pos head d_head`.

    Queries and keys stand before the rotation (and before a norm of their own). A pattern is
    `batch query head key`, neurons are `batch pos d_mlp`, weights of experts `batch pos expert`,
    what they write `batch pos expert d_model`. `final` is the residual stream after the last layer
    (a decoder's, where there are two stacks; of a recurrent model its h); `logits` are
    there when the engine had to compute them all. A layer that is not held is an empty tensor.

    Attributes:
        first: the position at which everything but keys, values and `final` begins.
        encoded: of an encoder-decoder the stream after the encoder's last layer, where replay ran.
    """

    facts: Facts
    kept: Mapping[str, tuple[Tensor, ...]]
    final: Float[Tensor, "batch pos d_model"]
    logits: Float[Tensor, "batch pos d_vocab"] | None = None
    first: int = 0
    encoded: Float[Tensor, "batch key d_model"] | None = None

    def of(self, stack: Stack) -> "Trace":
        """What is held of one of two stacks, as a trace of it alone; see `Stacks`."""
        kept = {name: x for name, x in self.kept.items() if name.startswith(stack)}
        kept = {name.removeprefix(f"{stack}."): x for name, x in kept.items()}
        final = self.encoded if stack == "enc" else self.final
        assert final is not None
        first = 0 if stack == "enc" else self.first
        return Trace(facts_of_stack(self.facts, stack), kept, final, first=first)

    def part(
        self, kind: str, layer: int, window: Int[Tensor, "batch window"], start: int | None = None
    ) -> Float[Tensor, "batch window *axes"]:
        """Some positions of what is held of a layer.

        Args:
            start: where the window begins, if it is all positions from there on: no index is
                needed then.
        """
        x = self.at(Site("resid_post", layer)) if kind == "resid_post" else self.kept[kind][layer]
        before = begins(kind, self.first)
        if start is None:
            return take(x, window, before)
        return x[:, start - before :].to(window.device)

    def at(self, site: Site) -> Float[Tensor, "batch held *axes"]:
        """The activation at a site; a key or value of a query head is that of its group.

        Its positions begin at `begins(shelf(site), first)`.
        """
        layer = 0 if site.layer is None else site.layer
        if site.kind == "embed":
            return self.kept["resid_pre"][0]
        if site.kind == "resid_post" and shelf(site) not in self.kept:
            last = layer + 1 == self.facts.n_layers
            return self.final[:, self.first :] if last else self.kept["resid_pre"][layer + 1]
        whole = self.kept[shelf(site)][layer]
        if site.neuron is not None:
            return whole[..., site.neuron]
        if site.kind not in HEAD_KINDS and site.kind != "expert":
            return whole
        index = next(i for i in (site.group, site.head, site.expert) if i is not None)
        if site.kind in ("k", "v") and site.head is not None:
            index = site.head // self.facts.group_size
        return whole[:, :, index]


def take(
    x: Float[Tensor, "batch held *axes"], window: Int[Tensor, "batch window"], first: int = 0
) -> Float[Tensor, "batch window *axes"]:
    """The positions of a window, of which each row has its own, where x begins at the first.

    They come to where the window is.
    """
    window = window - first if first else window
    index = window[(...,) + (None,) * (x.ndim - 2)]
    return x.to(window.device).gather(1, index.expand(*window.shape, *x.shape[2:]))


INSIDE = {"router": forward.routed, "mlp_act": forward.hidden, "expert": forward.experts}
"""What an MLP is made of, and is made by itself where it is asked for."""

See = Callable[[str, int, Tensor], None]
"""Is shown each activation, by shelf and layer, as it is computed; it must not change it."""


def walk(
    w: Weights,
    tokens: Int[Tensor, "batch pos"],
    see: See,
    *,
    wanted: Sequence[str],
    layers: int | None = None,
    memory: Float[Tensor, "batch key d_model"] | None = None,
) -> Float[Tensor, "batch pos d_model"]:
    """Run the model plainly, showing every activation; returns the residual stream at the end.

    Args:
        wanted: patterns, neurons and what a mixture is made of are made whole for `see` only if
            they are among these.
        layers: how many to run; all by default.
        memory: what a decoder's cross-attention reads.
    """
    resid = forward.embed(w, tokens)
    turn = forward.rotations(w, tokens.shape[1])
    for layer in range(len(w.blocks[:layers])):
        resid = through(w, layer, resid, turn, see, wanted=wanted, memory=memory)
    return resid.to(tokens.device)


def walk_both(
    s: Stacks,
    tokens: Int[Tensor, "batch key"],
    written: Int[Tensor, "batch pos"],
    see: See,
    *,
    wanted: Sequence[str],
    layers: int | None = None,
) -> tuple[Float[Tensor, "batch key d_model"], Float[Tensor, "batch pos d_model"] | None]:
    """Run an encoder-decoder plainly; returns both residual streams at their ends.

    Args:
        written: what the decoder reads.
        layers: how many to run of the last stack of which something is wanted; of an encoder that
            is wanted alone nothing comes after them.
    """
    alone = layers is not None and all(name.startswith("enc.") for name in wanted)
    encoded = walk(
        s.encoder,
        tokens,
        lambda name, layer, x: see(f"enc.{name}", layer, x),
        wanted=[name.removeprefix("enc.") for name in wanted if name.startswith("enc.")],
        layers=layers if alone else None,
    )
    if alone:
        return encoded, None
    final = walk(
        s.decoder,
        written,
        lambda name, layer, x: see(f"dec.{name}", layer, x),
        wanted=[name.removeprefix("dec.") for name in wanted if name.startswith("dec.")],
        layers=layers,
        memory=forward.norm(encoded, s.norm),
    )
    return encoded, final


def through(
    w: Weights,
    layer: int,
    resid: Float[Tensor, "batch pos d_model"],
    turn: forward.Rotations,
    see: See,
    *,
    wanted: Sequence[str] = (),
    memory: Float[Tensor, "batch key d_model"] | None = None,
) -> Float[Tensor, "batch pos d_model"]:
    """One layer, showing every activation where the layer lies."""
    block = w.blocks[layer]
    p, resid = block.attention, resid.to(block.device)
    see("resid_pre", layer, resid)
    q, k, v = project(w, p, resid)
    for kind, activation in (("q", q), ("k", k), ("v", v)):
        see(kind, layer, activation)
    r, causal = forward.rotation(turn, p), w.facts.causal
    z, probabilities = _attend(p, q, k, v, r, causal=causal, whole="pattern" in wanted)
    if probabilities is not None:
        see("pattern", layer, probabilities)
    see("z", layer, z)
    attn_out = forward.attention_write(z, p)
    see("attn_out", layer, attn_out)
    resid_mid = forward.add(resid, attn_out, p.ends)
    see("resid_mid", layer, resid_mid)
    if block.cross is not None and memory is not None:
        resid_mid = _across(w, block, layer, resid_mid, memory, see, wanted)
        see(BETWEEN, layer, resid_mid)
    x = resid if w.facts.parallel else resid_mid
    for kind, make in INSIDE.items():
        if kind in wanted:
            see(kind, layer, make(x, block.mlp))
    mlp_out = forward.mlp(x, block.mlp)
    see("mlp_out", layer, mlp_out)
    resid = forward.add(resid_mid, mlp_out, block.mlp.ends)
    see("resid_post", layer, resid)
    return resid


def project(
    w: Weights,
    p: Attention,
    resid: Float[Tensor, "batch pos d_model"],
    memory: Float[Tensor, "batch key d_model"] | None = None,
) -> list[Float[Tensor, "batch _ index d_head"]]:
    """Queries, keys and values, before norms of their own and rotations.

    `memory`: what keys and values read in place of the stream, normed.
    """
    x = forward.norm(resid, p.ends.read)
    read = (x, x, x) if memory is None else (x, memory, memory)
    parts = zip(read, (p.q, p.k, p.v), strict=True)
    return [forward.project(x, part, w.facts.d_head) for x, part in parts]


def _across(
    w: Weights,
    block: Block,
    layer: int,
    resid: Float[Tensor, "batch pos d_model"],
    memory: Float[Tensor, "batch key d_model"],
    see: See,
    wanted: Sequence[str],
) -> Float[Tensor, "batch pos d_model"]:
    """The residual stream after a decoder's attention to what the encoder made."""
    p = block.cross
    assert p is not None
    q, k, v = project(w, p, resid, memory.to(block.device))
    for kind, activation in (("q", q), ("k", k), ("v", v)):
        see(f"cross.{kind}", layer, activation)
    whole = "cross.pattern" in wanted
    z, probabilities = _attend(p, q, k, v, None, causal=False, whole=whole)
    if probabilities is not None:
        see("cross.pattern", layer, probabilities)
    see("cross.z", layer, z)
    wrote = forward.attention_write(z, p)
    see("cross.attn_out", layer, wrote)
    return forward.add(resid, wrote, p.ends)


def _attend(
    p: Attention,
    q: Float[Tensor, "batch pos head d_head"],
    k: Float[Tensor, "batch key group d_head"],
    v: Float[Tensor, "batch key group d_head"],
    r: forward.Turn | None,
    *,
    causal: bool,
    whole: bool,
) -> tuple[Float[Tensor, "batch pos head d_head"], Float[Tensor, "batch pos head key"] | None]:
    """z, and the pattern if it is asked for, a few rows at a time."""
    batch, pos, heads = q.shape[:3]
    rows = max(1, Limits.of(q.device).scores // (pos * k.shape[1] * heads))
    place = torch.arange(pos, device=q.device).expand(batch, -1)
    q, k = forward.head_norm(q, p.q_norm), forward.head_norm(k, p.k_norm)
    zs, patterns = [], []
    for i in range(0, batch, rows):
        some = slice(i, i + rows)
        keys, values = (forward.Keys(t[some, :0], t[None, some]) for t in (k, v))
        given = p, q[None, some], keys
        if whole:
            part = forward.pattern(*given, r, place[some], causal=causal)
            zs.append(forward.mix(part, values)[0])
            patterns.append(part[0].flatten(1, 2).transpose(1, 2))
        else:
            z = forward.attend(*given, values, r, place[some], causal=causal, consecutive=True)
            zs.append(z[0])
    z = zs[0] if len(zs) == 1 else torch.cat(zs)
    return z, torch.cat(patterns) if whole else None
