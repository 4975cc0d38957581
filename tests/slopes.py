"""Small models far from linear, rows for them, and derivatives by finite differences."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

import interp
from interp.core.parts.sites import Site
from interp.models.model import Model
from interp.models.small import native
from interp.models.small.native import Shape

PLACES = ("mid", "end", "rest")
LINEAR = Shape(
    n_layers=2, n_heads=4, n_kv_heads=2, d_model=10, d_head=3, d_vocab=23, n_ctx=12, d_mlp=0,
    norm="none",
)  # fmt: skip
DEEP = replace(LINEAR, n_layers=3, d_mlp=7, norm="layer")


def make(shape: Shape, *, attends: bool, scale: float = 2.0) -> Model:
    """Random weights, large enough to be far from linear; without `attends` patterns are fixed."""
    random = native.build(shape, name="tiny", dtype=torch.float64)
    state = {
        name: weights * (0 if not attends and _asks(name) else scale)
        for name, weights in native.state_of(random).items()
    }
    return native.build(shape, name="tiny", state=state, dtype=torch.float64)


def _asks(name: str) -> bool:
    return any(f".attn.{part}." in name for part in "qk")


def four() -> interp.Pairs:
    """Four rows of a template, of two lengths and clusters; all have an unnamed position."""
    generator = torch.Generator().manual_seed(3)
    ids = [
        [torch.randint(23, (n,), generator=generator).tolist() for n in (5, 8, 5, 8)]
        for _ in range(2)
    ]
    return interp.Pairs.from_tokens(
        clean=ids[0],
        corrupt=ids[1],
        correct=[3, 5, 7, 11],
        wrong=[4, 6, 8, 12],
        positions={"mid": [2, 3, 1, 7]},
        cluster=["a", "a", "b", "b"],
        template=["t"] * 4,  # of each length two
    )


def far(
    one: interp.Attribution,
    other: interp.Attribution,
):
    """The largest difference of the scores of the same parts, example by example."""
    assert one.parts == other.parts
    return float(np.abs(one.each - other.each).max())


def sides(model: Model, rows: interp.Pairs, site: Site) -> tuple[torch.Tensor, torch.Tensor]:
    """What a site holds in the clean and in the corrupt run of each row; 0 in the padding."""
    found = []
    for ids in (rows.clean, rows.corrupt):
        kept = [
            interp.capture(model, [ids[i, :n].tolist()], [site])[site][0]
            for i, n in enumerate(rows.lengths.tolist())
        ]
        found.append(torch.nn.utils.rnn.pad_sequence(list(kept), batch_first=True))
    return found[0], found[1]


def slope(model: Model, rows: interp.Pairs, site: Site, around: Callable[[float], list]):
    """Central difference of the metric; `around` makes the interventions of a step."""
    step = 1e-4
    made = {str(sign): around(sign * step) for sign in (1, -1)}
    up, down = interp.intervene(model, rows, made).frame["effect"].to_numpy().reshape(2, -1)
    return (up - down) / (2 * step)
