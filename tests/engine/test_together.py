"""Edits that are made together are those that are made one after the other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.core.parts.sites import Site
from interp.engine.interventions import Add, Erase, Freeze, Scale, Set, Zero
from interp.engine.plan.edits import Edit, together

CELLS, BATCH, POS, HEADS, D = 4, 3, 6, 2, 5
CPU = torch.device("cpu")


class Turned:
    """A value of one's own, which knows how many rows there are."""

    source = None
    noise = torch.linspace(-1, 1, BATCH, dtype=torch.float64)[:, None, None]

    def __call__(self, current: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        return current.flip(-1) + self.noise


TURNED = Turned()
ERASED = Erase(torch.eye(D)[:, :2], torch.eye(D)[:2], torch.ones(D))


def edit(draw: torch.Generator, head: int | None, kind: int, *, everywhere: bool) -> Edit:
    numbers = torch.randn(BATCH, POS, D, generator=draw, dtype=torch.float64)
    values = (Zero(), Set(numbers), Add(numbers), Freeze(), Scale(0.5), ERASED, TURNED)
    value = values[kind]
    found = numbers if kind in (1, 2, 3) else None
    mask = torch.rand(BATCH, POS, generator=draw) < (2 if everywhere else 0.5)
    site = Site("resid_post", 1) if head is None else Site("z", 1, head=head)
    return Edit(site, value, mask, found, everywhere=everywhere)


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, bool, list[tuple[int, int, int, bool]], int | None]:
    one = st.tuples(
        *(st.integers(0, CELLS - 1), st.integers(0, HEADS - 1), st.integers(0, 6), st.booleans())
    )
    edits = draw(st.lists(one, min_size=1, max_size=12))
    start = draw(st.one_of(st.none(), st.integers(0, POS - 1)))
    return draw(st.integers(0, 1 << 20)), draw(st.booleans()), edits, start


@pytest.mark.plain
@settings(max_examples=150, deadline=None)
@given(cases())
def test_together_is_one_after_the_other(case):
    seed, with_heads, drawn, start = case
    draw = torch.Generator().manual_seed(seed)
    edits = [
        (row, edit(draw, head if with_heads else None, kind, everywhere=everywhere))
        for row, head, kind, everywhere in drawn
    ]
    if start is None:  # positions in no order, each row its own
        window = torch.stack([torch.randperm(POS, generator=draw)[:3] for _ in range(BATCH)])
    else:
        window = torch.arange(start, POS).expand(BATCH, -1)
    heads = (HEADS,) if with_heads else ()
    x = torch.randn(CELLS, BATCH, window.shape[1], *heads, D, generator=draw, dtype=torch.float64)
    right = x.clone()
    for row, one in edits:
        place = right[row] if one.index is None else right[row, :, :, one.index]
        place.copy_(one(place.clone(), window))
    for group in together([(row, one.index, one) for row, one in edits], CPU):
        group.into(x, window, start)
    torch.testing.assert_close(x, right, rtol=1e-14, atol=1e-14)


def test_heads_of_many_cells_are_one_computation():
    draw = torch.Generator().manual_seed(0)
    edits = [
        (row, head, edit(draw, head, kind, everywhere=True))
        for row, head, kind in [(0, 1, 1), (1, 0, 1), (2, 1, 1), (3, 0, 1), (3, 1, 5), (2, 0, 5)]
    ]
    assert [len(group.edits) for group in together(edits, CPU)] == [4, 2]


def test_two_at_one_place_stay_in_their_order():
    draw = torch.Generator().manual_seed(0)
    first, second = (edit(draw, 0, kind, everywhere=True) for kind in (4, 2))
    groups = together([(0, 0, first), (0, 0, second), (0, 0, first)], CPU)
    assert [len(group.edits) for group in groups] == [1, 1, 1]
