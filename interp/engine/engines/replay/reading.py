"""Which attention a site belongs to, and what makes its query, key or value."""

from jaxtyping import Float, Int
from torch import Tensor

from interp.core.parts.sites import Site
from interp.engine.network.linear import Map
from interp.engine.network.weights import Attention, Weights


def attention_of(w: Weights, layer: int, at: str) -> Attention:
    """A layer's attention, or the one across to the encoder."""
    block = w.blocks[layer]
    found = block.cross if at else block.attention
    assert found is not None
    return found


def reading(w: Weights, site: Site) -> Attention:
    """The attention that a query, key or value belongs to."""
    return attention_of(w, site.layer or 0, "cross." if site.cross else "")


def projection(w: Weights, site: Site) -> Map:
    """What makes the query, key or value of a site out of the normed residual stream."""
    p = reading(w, site)
    part = {"q": p.q, "k": p.k, "v": p.v}[site.kind]
    start = slot(site, w) * w.facts.d_head
    return part.rows(start, start + w.facts.d_head)


def slot(site: Site, w: Weights) -> int:
    """Place of a site among the heads or groups that its projection writes."""
    if site.group is not None:
        return site.group
    assert site.head is not None
    return site.head if site.kind == "q" else site.head // w.facts.group_size


def pick(
    x: Float[Tensor, "cells batch window d"],
    window: Int[Tensor, "batch window"],
    chosen: Int[Tensor, "batch chosen"],
) -> Float[Tensor, "cells batch chosen d"]:
    """The chosen positions of a contiguous window."""
    index = (chosen - window[:, :1])[None, ..., None]
    return x.gather(2, index.expand(x.shape[0], -1, -1, x.shape[-1]))
