"""Values of one's own and where they are put: plain transformers with a hook in a loop say it."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from doors import untyped
from plain import heads_wide, outputs, place
from torch import Tensor

import interp
from interp import Model, Pairs
from interp.core.door.door import ArgumentError
from interp.core.errors import InterpError, PositionError, SiteError
from interp.engine.interventions import Add, Freeze, Intervention, Scale, Set, Zero

pytestmark = pytest.mark.sampled(6)

ENGINES = ("replay", "hooks")
LENGTH = {"gpt2": 7, "llama": 9}


def made(length: int = 7, rows: int = 4) -> Pairs:
    """Rows of one length, as many as no axis is wide."""
    rng = np.random.default_rng(length)
    clean, corrupt = rng.integers(2, 29, (2, rows, length))
    return Pairs.from_tokens(
        clean=clean,
        corrupt=corrupt,
        correct=rng.permutation(14)[:rows],
        wrong=14 + rng.permutation(14)[:rows],
        positions={"mid": rng.integers(1, length - 1, rows)},
    )


def truth(model: Model, pairs: Pairs, site: str, change: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Logit difference of each row, where `change` gives what the site becomes, by row number."""
    hf, found = model.bridge.original_model, []
    for row in range(len(pairs)):
        length = int(pairs.lengths[row])
        with ExitStack() as stack:
            if site.endswith("resid_post"):
                layers = getattr(hf, "transformer", None) or hf.model
                blocks = layers.h if hasattr(layers, "h") else layers.layers

                def after(module: Any, args: Any, out: Any, row: int = row) -> Any:
                    if isinstance(out, tuple):
                        return (change(out[0][0], row)[None], *out[1:])
                    return change(out[0], row)[None]

                handle = blocks[int(site.partition(".")[0])].register_forward_hook(after)
            else:
                module, head = place(hf, site)
                width = heads_wide(hf)
                part = slice(head * width, (head + 1) * width)

                def before(module: Any, args: Any, row: int = row, part: slice = part) -> Any:
                    z = args[0].clone()
                    z[0, :, part] = change(z[0, :, part], row)
                    return (z,)

                handle = module.register_forward_pre_hook(before)
            stack.callback(handle.remove)
            logits = outputs(hf, pairs.clean[row : row + 1, :length])[0, -1]
        found.append(logits[pairs.correct[row]] - logits[pairs.wrong[row]])
    return torch.stack(found).double()


def ours(model: Model, pairs: Pairs, made: Intervention, engine: str) -> Tensor:
    found = interp.intervene(model, pairs, {"it": [made]}, engine=engine)
    return torch.tensor(found.frame["value"].to_numpy())


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def shapes(width: int, rows: int, pos: int) -> dict[str, tuple[int, ...]]:
    return {
        "d": (width,),
        "batch d": (rows, width),
        "pos d": (pos, width),
        "batch pos d": (rows, pos, width),
        "batch 1 d": (rows, 1, width),
        "1 pos d": (1, pos, width),
    }


def of_row(value: Tensor, axes: str, row: int, pos: int) -> Tensor:
    """What a value is in one row, `pos d`: written out for each shape."""
    if axes == "d":
        return torch.stack([value] * pos)
    if axes == "batch d":
        return torch.stack([value[row]] * pos)
    if axes == "pos d":
        return value
    if axes == "batch 1 d":
        return torch.stack([value[row, 0]] * pos)
    return value[0] if axes == "1 pos d" else value[row]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("axes", list(shapes(1, 1, 1)))
@pytest.mark.parametrize(("family", "site"), [("gpt2", "1.resid_post"), ("llama", "1.4")])
def test_each_shape_is_laid_as_it_says(
    tiny_model: Callable[[str], Model], family: str, site: str, axes: str, engine: str
) -> None:
    model, pairs = tiny_model(family), made()
    facts = model.facts
    width = facts.d_model if site.endswith("post") else facts.d_head
    value = numbers(*shapes(width, 4, 7)[axes])
    at = pairs.at("mid")

    def at_mid(x: Tensor, row: int, new: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        out, given = x.clone(), of_row(value, axes, row, 7)
        out[at[row]] = new(x, given)[at[row]]
        return out

    for kind, new in ((Set, lambda x, v: v), (Add, lambda x, v: x + v)):
        for dress in (value, value.numpy(), value.tolist()):
            found = ours(model, pairs, Intervention(site, kind(dress), "mid"), engine)
            right = truth(model, pairs, site, lambda x, row, new=new: at_mid(x, row, new))
            torch.testing.assert_close(found, right, rtol=0, atol=1e-9)
        everywhere = ours(model, pairs, Intervention(site, kind(value)), engine)
        right = truth(
            model, pairs, site, lambda x, row, new=new: new(x, of_row(value, axes, row, 7))
        )
        torch.testing.assert_close(everywhere, right, rtol=0, atol=1e-9)


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_of_several_lengths_each_with_their_own(
    tiny_model: Callable[[str], Model], pairs: Pairs, engine: str
) -> None:
    model = tiny_model("gpt2")
    value = numbers(len(pairs), pairs.clean.shape[1], model.facts.d_model)

    def own(x: Tensor, row: int) -> Tensor:
        return x + value[row, : len(x)]

    found = ours(model, pairs, Intervention("0.resid_post", Add(value)), engine)
    torch.testing.assert_close(found, truth(model, pairs, "0.resid_post", own), rtol=0, atol=1e-9)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_value_for_one_prompt(tiny_model: Callable[[str], Model], engine: str) -> None:
    """`(1, d_model)` on a single prompt is that vector, and no scalar of it everywhere."""
    model, pairs = tiny_model("gpt2"), made().select([2])
    value = numbers(1, model.facts.d_model)
    found = ours(model, pairs, Intervention("1.resid_post", Add(value), "end"), engine)

    def at_end(x: Tensor, row: int) -> Tensor:
        return torch.cat([x[:-1], x[-1:] + value])

    torch.testing.assert_close(
        found, truth(model, pairs, "1.resid_post", at_end), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_a_value_of_other_pairs_is_refused(tiny_model: Callable[[str], Model], engine: str) -> None:
    model, pairs = tiny_model("gpt2"), made()
    d = model.facts.d_model
    for shape in [(4, d), (4, 7, d), (3, d), (d - 1,), (2, 2, 7, d), (4, 6, d), (6, d)]:
        add = Intervention("1.resid_post", Add(numbers(*shape)), "end")
        chosen = pairs.select([3, 0])
        with pytest.raises(SiteError, match=r"it takes d_model \(12,\), batch d_model \(2, 12\)"):
            interp.intervene(model, chosen, {"it": [add]}, engine=engine)
    square = made(rows=7)
    with pytest.raises(SiteError, match=r"one for each row or one for each position is not said"):
        add = Intervention("1.resid_post", Add(numbers(7, d)))
        interp.intervene(model, square, {"it": [add]}, engine=engine)
    for bad in (numbers(d).fill_(torch.nan), numbers(d).fill_(torch.inf)):
        with pytest.raises(InterpError, match=r"holds NaN or infinity, first at \[0\]"):
            interp.intervene(model, pairs, {"it": [Intervention("1.mlp", Set(bad))]}, engine=engine)


POSITIONS: list[tuple[str, Any, Callable[[int], Sequence[int]]]] = [
    ("an index", 3, lambda row: [3]),
    ("an index as text", "3", lambda row: [3]),
    ("a name", "mid", lambda row: [int(made().at("mid")[row])]),
    ("one of each row", np.array([1, 5, 2, 6]), lambda row: [[1, 5, 2, 6][row]]),
    ("a column", pd.Series([1.0, 5.0, 2.0, 6.0]), lambda row: [[1, 5, 2, 6][row]]),
    ("several", [[1], [2, 5], [0, 1, 2], [6]], lambda row: [[1], [2, 5], [0, 1, 2], [6]][row]),
    ("a mask", torch.eye(7, dtype=torch.bool)[[4, 4, 0, 6]], lambda row: [[4, 4, 0, 6][row]]),
    ("after first", "after first", lambda row: range(1, 7)),
    ("all", "all", lambda row: range(7)),
    ("rest", "rest", lambda row: [i for i in range(6) if i != int(made().at("mid")[row])]),
]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("place", "means"), [p[1:] for p in POSITIONS], ids=[p[0] for p in POSITIONS]
)
def test_each_place_by_every_method(
    tiny_model: Callable[[str], Model], place: Any, means: Callable, engine: str
) -> None:
    model, pairs = tiny_model("gpt2"), made()
    value = numbers(model.facts.d_head)

    def put(new: Callable[[Tensor], Tensor]) -> Callable[[Tensor, int], Tensor]:
        def change(x: Tensor, row: int) -> Tensor:
            out = x.clone()
            for i in means(row):
                out[i] = new(x[i])
            return out

        return change

    added = ours(model, pairs, Intervention("1.2", Add(value), place), engine)
    right = truth(model, pairs, "1.2", put(lambda x: x + value))
    torch.testing.assert_close(added, right, rtol=0, atol=1e-9)
    cut = interp.ablate(model, pairs, "1.2", method="zero", positions=place, engine=engine)
    right = truth(model, pairs, "1.2", put(torch.zeros_like))
    found = torch.tensor(cut.frame["value"].to_numpy())
    torch.testing.assert_close(found, right, rtol=0, atol=1e-9)


NOWHERE = [-1, 20, 7, 2.5, float("nan"), np.array([1, 2, 3, 9]), pd.Series([1, None, 2, 3]), "ned"]
NOWHERE += [[[1], [], [2], [3]], torch.zeros(4, 7, dtype=torch.bool), np.array([1, 2]), True, None]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("place", NOWHERE, ids=str)
def test_a_place_that_a_row_has_not_is_refused_by_every_method(
    tiny_model: Callable[[str], Model], place: Any, engine: str
) -> None:
    """An effect of 0 of a position that is not there would go into the mean, the interval and p."""
    model, pairs = tiny_model("gpt2"), made()
    one = {"engine": engine}
    calls: list[Callable[[], object]] = [
        lambda: ours(model, pairs, Intervention("1.2", Zero(), place), engine),
        lambda: interp.ablate(model, pairs, "1.2", method="zero", positions=place, **one),
        lambda: interp.patch(model, pairs, "1.2", positions=place, **one),
        lambda: interp.path_patch(model, pairs, senders="0.1", sender_positions=place, **one),
        lambda: interp.path_patch(
            model, pairs, senders="0.1", receivers="1.2.q", receiver_positions=place, **one
        ),
        lambda: interp.capture(model, pairs, "1.2", positions=place, **one),
    ]
    for call in calls:
        with untyped(), pytest.raises((PositionError, ArgumentError)):
            call()


def test_positions_of_other_pairs_are_refused(tiny_model: Callable[[str], Model]) -> None:
    model, pairs = tiny_model("gpt2"), made()
    at = pairs.at("mid")
    with pytest.raises(PositionError, match=r"4 rows were given for 2 pairs. Likely the pairs"):
        interp.ablate(model, pairs.select([0, 1]), "1.2", method="zero", positions=at)


@pytest.mark.parametrize("engine", ENGINES)
def test_captured_where_each_row_says(tiny_model: Callable[[str], Model], engine: str) -> None:
    model, pairs = tiny_model("gpt2"), made()
    whole = interp.capture(model, pairs, "1.mlp", engine=engine)["1.mlp"]
    one = np.array([1, 5, 2, 6])
    found = interp.capture(model, pairs, "1.mlp", positions=one, engine=engine)
    assert found.positions == ("per row",)
    torch.testing.assert_close(
        found["1.mlp"][:, 0], torch.stack([whole[r, i] for r, i in enumerate(one)]), rtol=0, atol=0
    )
    two = [[1, 2], [5, 6], [0, 2], [3, 4]]
    places = {"two": two, "last": "end"}
    found = interp.capture(model, pairs, "1.mlp", positions=places, engine=engine)
    assert found.positions == ("two", "two", "last")
    right = torch.stack([whole[r, [*at, 6]] for r, at in enumerate(two)])
    torch.testing.assert_close(found["1.mlp"], right, rtol=0, atol=0)
    with pytest.raises(PositionError, match=r"rows name 1 to 2 positions, and of each row as many"):
        interp.capture(model, pairs, "1.mlp", positions=[[1], [1, 2], [1], [1]], engine=engine)


def test_sites_as_text_and_what_is_no_value(tiny_model: Callable[[str], Model]) -> None:
    model, pairs = tiny_model("gpt2"), made()
    text, site = (
        ours(model, pairs, Intervention(s, Scale(0.5), "end", readers=("2.mlp",)), "replay")
        for s in ("1.mlp", interp.Site.parse("1.mlp"))
    )
    assert torch.equal(text, site)
    for wrong, says in (
        (Zero, r"Write an object of it, Zero\(...\)"),
        (lambda x, found: x, r"It can be called; to be a value it also has a `source`"),
        (numbers(12), r"To set a value write Set\(x\), to add one Add\(x\)"),
        ("zero", r"'zero' does not say what the activation becomes"),
        (None, r"give one of Zero\(\), Mean\(...\)"),
    ):
        with untyped(), pytest.raises(InterpError, match=says):
            Intervention("1.mlp", wrong)
    with pytest.raises(SiteError, match=r"'1.mpl'"):
        Intervention("1.mpl", Freeze())
