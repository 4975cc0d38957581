"""Texts in slots: what cells say alike is read once, and only what is theirs is held for each."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from speaking import N, block_of

from interp.engine.decode.companions import placed
from interp.engine.interventions import Add, Intervention, Scale


def test_slots_by_hand():
    of, to, came = placed(torch.tensor([[0], [0], [0]]), torch.tensor([[5], [5], [6]]), 1)
    assert of.tolist() == [[0], [0], [1]]
    assert (to.tolist(), came.tolist()) == ([1], [0])
    of, to, came = placed(torch.tensor([[0], [0], [1]]), torch.tensor([[7], [8], [7]]), 1)
    assert of.tolist() == [[0], [2], [1]]
    assert (to.tolist(), came.tolist()) == ([2], [0])
    # a text of another row, and a slot that is free again
    of, to, came = placed(torch.tensor([[3, 3]]), torch.tensor([[4, 4]]), 2)
    assert of.tolist() == [[0, 1]]
    assert (to.tolist(), came.tolist()) == ([0], [3])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_slots_hold_the_texts(data):
    """Whatever is said and wherever texts go on, each cell's slot has its text alone."""
    cells, batch = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    texts = [[() for _ in range(batch)] for _ in range(cells)]
    held = {slot * batch + row: () for slot in range(cells) for row in range(batch)}
    of = torch.zeros(cells, batch, dtype=torch.long)
    for _ in range(5):
        rows = torch.arange(batch).expand(cells, -1)
        if data.draw(st.booleans()):
            drawn = [[data.draw(st.integers(0, batch - 1)) for _ in range(batch)]] * cells
            rows = torch.tensor(drawn)
        said = torch.tensor(
            [[data.draw(st.integers(0, 1)) for _ in range(batch)] for _ in range(cells)]
        )
        source = of.gather(1, rows) * batch + rows
        of, to, came = placed(source, said, batch)
        moved = {a: held[b] for a, b in zip(to.tolist(), came.tolist(), strict=True)}
        held |= moved
        texts = [
            [(*texts[cell][rows[cell, row]], int(said[cell, row])) for row in range(batch)]
            for cell in range(cells)
        ]
        for row in range(batch):
            slots = {}
            for cell in range(cells):
                slot = int(of[cell, row])
                assert held[slot * batch + row] == texts[cell][row][:-1]
                assert slots.setdefault(slot, texts[cell][row]) == texts[cell][row]
            assert len({*slots.values()}) == len(slots) <= cells
            for slot, text in slots.items():
                held[slot * batch + row] = text


@torch.inference_mode()
def test_what_is_alike_is_held_once(tiny_model, pairs):
    """One text of all cells takes one slot, and a cell has keys of its own only above its site."""
    model = tiny_model("llama")
    vector = torch.ones(model.facts.d_model, dtype=torch.float64)
    sets = {
        "plain": [],
        "late": [Intervention("2.1", Scale(2.0), "from end")],
        "early": [Intervention("1.resid_post", Add(vector), "mid")],
    }
    session = block_of(model, pairs, sets, [0, 2], "replay").session([0, 2])
    session.begin()
    said = torch.tensor([[3, 4]] * 3)
    for _ in range(N - 1):
        session.step(said)
    assert len(session.companions.ids) == 1
    assert [len(keys.own) for keys, _ in session.cache.layers] == [0, 1, 2]
    assert [keys.shared.shape[1] for keys, _ in session.cache.layers] == [7, 2, 2]
    session.step(torch.tensor([[3, 4], [3, 5], [3, 6]]))
    assert len(session.companions.ids) == 3
    assert session.companions.of[:, 0].tolist() == [0, 0, 0]
    assert sorted(session.companions.of[:, 1].tolist()) == [0, 1, 2]
