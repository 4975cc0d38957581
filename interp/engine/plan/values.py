"""Values of the user's own, laid over the rows and positions of some pairs.

A tensor has the axes of its site, and before them `batch`, `pos`, both or neither. Nothing is bent
to fit: a shape that means none of these, or two of them, is refused with all four.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InterpError, SiteError
from interp.core.parts.facts import Facts
from interp.core.parts.sites import HEAD_KINDS, Site
from interp.core.prompts.pairs import Pairs
from interp.engine.interventions import Erase, Intervention
from interp.engine.plan.positions import decodes


def require_fit(i: Intervention, facts: Facts, pairs: Pairs) -> None:
    """Refuse a value that is not of the site and the pairs.

    Raises:
        SiteError: with the shapes that fit.
        InterpError: NaN or infinity, or no plain tensor.
    """
    source = i.value.source
    if isinstance(i.value, Erase):
        _require_width(i.value, i.site, facts)
    if isinstance(source, Tensor):
        if source.layout != torch.strided or source.is_meta or source.is_nested:
            raise SiteError(
                f"the value given for '{i.site}' is a {source.layout} tensor on {source.device}; "
                "it takes a plain one that holds its numbers (value.to_dense())."
            )
        laid(source, i.site, facts, pairs)
        if not source.isfinite().all():
            at = (~source.isfinite()).nonzero()[0].tolist()
            raise InterpError(
                f"the value given for '{i.site}' holds NaN or infinity, first at {at}; every "
                "number after it would. Look at how it was made."
            )


def laid(
    value: Float[Tensor, "*given"], site: Site, facts: Facts, pairs: Pairs
) -> Float[Tensor, "#batch #pos *axes"]:
    """A view with all axes; those that it does not have are 1 wide.

    Raises:
        SiteError: a shape that fits in no way, or in two.
    """
    axes = axes_of(site, facts, pairs)
    names, sizes = [n for n, _ in axes], tuple(n for _, n in axes)
    batch, pos = len(pairs), _positions(site, pairs)
    shape, extra = tuple(value.shape), value.ndim - len(sizes)
    if not 0 <= extra <= 2 or shape[extra:] != sizes:
        raise _unfit(value, site, names, sizes, batch, pos)
    if extra == 0:
        return value[None, None]
    if extra == 2:
        if shape[0] not in (1, batch) or shape[1] not in (1, pos):
            raise _unfit(value, site, names, sizes, batch, pos)
        return value
    first = shape[0]
    if first == batch and first == pos and batch > 1:
        raise SiteError(
            f"the value at '{site}' has shape {shape}, and there are {batch} rows and {pos} "
            "positions: whether it is one for each row or one for each position is not said. Give "
            f"value[:, None] ({batch}, 1, ...) or value[None] (1, {pos}, ...)."
        )
    if first == batch:
        return value[:, None]
    if first == pos:
        return value[None]
    raise _unfit(value, site, names, sizes, batch, pos)


def rows_of(
    value: Float[Tensor, "*given"],
    site: Site,
    facts: Facts,
    pairs: Pairs,
    rows: Sequence[int],
    length: int,
) -> Float[Tensor, "batch pos *axes"]:
    """What a value is in some rows of one length."""
    x = laid(value, site, facts, pairs)
    x = x if x.shape[0] == 1 else x[list(rows)]
    x = x if x.shape[1] == 1 else x[:, :length]
    if site.kind == "pattern":
        x = x[..., : length if attends_to_itself(site) else int(pairs.lengths[rows[0]])]
    return x.expand(len(rows), length, *x.shape[2:])


def axes_of(site: Site, facts: Facts, pairs: Pairs) -> list[tuple[str, int]]:
    """Names and sizes of a site's own axes."""
    if site.kind == "pattern":
        own = attends_to_itself(site)
        return [("key", int(pairs.written.max()) if own else pairs.clean.shape[1])]
    if site.neuron is not None:
        return []
    if site.kind == "router":
        return [("expert", facts.n_experts)]
    if site.kind in HEAD_KINDS:
        return [("d_head", facts.d_head)]
    return [("d_model", facts.d_model)]


def attends_to_itself(site: Site) -> bool:
    """Is it a decoder's attention to what the decoder has written?"""
    return decodes(site) and not site.cross


def _positions(site: Site, pairs: Pairs) -> int:
    return int(pairs.written.max()) if decodes(site) else pairs.clean.shape[1]


def _unfit(
    value: Tensor, site: Site, names: list[str], sizes: tuple[int, ...], batch: int, pos: int
) -> SiteError:
    own = " ".join(names)
    shapes = [(own or "no axes", sizes), (f"batch {own}", (batch, *sizes))]
    shapes += [(f"pos {own}", (pos, *sizes)), (f"batch pos {own}", (batch, pos, *sizes))]
    listed = ", ".join(f"{text.strip()} {shape}" for text, shape in shapes)
    return SiteError(
        f"the value given for '{site}' has shape {tuple(value.shape)}, and it takes {listed}. "
        f"There are {batch} pairs of at most {pos} tokens: if the value was made for others, make "
        "it of these (after select or split the rows are fewer)."
    )


def _require_width(value: Erase, site: Site, facts: Facts) -> None:
    if site.kind in ("pattern", "router") or site.neuron is not None:
        raise SiteError(
            f"'{site}' is no vector of features that directions could be erased from; take the "
            "residual stream, an output ('12.attn', '12.mlp') or a head."
        )
    width = facts.d_head if site.kind in HEAD_KINDS else facts.d_model
    if value.width != width:
        raise SiteError(
            f"the erasure put at '{site}' is of vectors {value.width} wide, and the site's are "
            f"{width} wide: it was fitted at another kind of site, or on another model. ({facts})"
        )
