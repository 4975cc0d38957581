"""What a transformer does not notice: permuted tokens, shifted positions, the future.

Attention over all tokens is a function of a set: without positions f(PX) = P f(X) for every
permutation P. A position scheme or a causal mask breaks that. Here a model's tokens are told to
stand elsewhere, or to see everything, so that each can be asked of the same weights.
"""

from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.errors import PositionError
from interp.engine.network import trace
from interp.engine.network.weights import Angles, Weights


def placed(w: Weights, place: Int[Tensor, " pos"], *, causal: bool) -> Weights:
    """The same model, in which the i-th token of a row of this length stands at place[i].

    Args:
        place: positions that learned and fixed tables are read at, and that queries and keys are
            rotated by. Who sees whom goes by the order of the row.
        causal: a token sees itself and those before it in the row; else it sees all.

    Raises:
        PositionError: a place that the model has no position for.
    """
    n = w.facts.n_ctx if w.embed.positions is None else len(w.embed.positions)
    if bool(((place < 0) | (place >= n)).any()):
        raise PositionError(
            f"places go from {int(place.min())} to {int(place.max())}, and {w.facts.architecture} "
            f"has positions 0 to {n - 1}; shift by less, or take shorter rows."
        )
    embed = w.embed
    if embed.positions is not None:
        embed = replace(embed, positions=embed.positions.index_select(0, place))
    rotary = {name: partial(_moved, angles, place) for name, angles in w.rotary.items()}
    return replace(w, embed=embed, rotary=rotary, facts=replace(w.facts, causal=causal))


def _moved(
    angles: Angles, place: Int[Tensor, " pos"], like: Tensor, at: Int[Tensor, "1 pos"]
) -> tuple[Tensor, Tensor]:
    return angles(like, place.index_select(0, at[0])[None])


def streams(
    w: Weights, tokens: Int[Tensor, "batch pos"]
) -> tuple[Float[Tensor, "batch pos d_model"], ...]:
    """The residual stream after each layer."""
    run = trace.trace(w, tokens, keep=("resid_pre",))
    return *run.kept["resid_pre"][1:], run.final


def violation(
    found: Float[Tensor, "batch pos d_model"], expected: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, " batch"]:
    """|found - expected| / |expected| of each row: 0 where a symmetry holds."""
    found, expected = (x.double().flatten(1) for x in (found, expected))
    return (found - expected).norm(dim=1) / expected.norm(dim=1)


def reordered(x: Tensor, order: Int[Tensor, " pos"]) -> Tensor:
    """Rows `batch pos ...` with the token at order[i] moved to i: P x."""
    return torch.index_select(x, 1, order)
