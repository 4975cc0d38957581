"""The door: what is refused and in which words, and what is taken in another dress."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    Protocol,
    TypedDict,
    TypeVar,
    Unpack,
    runtime_checkable,
)

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

import interp
from interp.core.door.door import ArgumentError, Default, door
from interp.core.door.taken import (
    AtLeast0,
    Count,
    Finite,
    Index,
    NotEmpty,
    Positive,
    Seed,
    Share,
    Told,
    dressed,
    fits,
    in_words,
)
from interp.core.errors import InterpError, MetricError

T = TypeVar("T")


@runtime_checkable
class Reader(Protocol):
    name: str

    def encode(self, text: str) -> list[int]: ...


class Reads:
    name = "mine"

    def encode(self, text: str) -> list[int]:
        return [len(text)]


@door
def task(
    model: Reader,
    texts: Sequence[str],
    *rest: int,
    n: Count = 4,
    kind: Literal["gender", "number"] = "gender",
    folder: Path | None = None,
    **options: Any,
) -> tuple[Any, ...]:
    """Make something.

    Args:
        model: that reads.
        texts: one for each row
        n, seed: how many, and of what is drawn.
        kind: what decides.

    Returns:
        All of it.
    """
    return texts, rest, n, kind, folder, options


def refused(**given: Any) -> str:
    with pytest.raises(ArgumentError) as found:
        task(**{"model": Reads(), "texts": ["a"], **given})
    assert isinstance(found.value, InterpError | TypeError | ValueError)
    return str(found.value)


def test_right_arguments_come_as_they_are():
    texts = ["a", "b"]
    assert task(Reads(), texts, 1, 2, n=1, colour="red")[0] is texts
    assert task(Reads(), (), 1, 2, n=1, colour="red") == (
        *((), (1, 2), 1, "gender", None),
        {"colour": "red"},
    )


def test_the_sentence_says_what_came_what_is_taken_and_what_it_means():
    assert refused(texts=3) == (
        "task: texts=3 is an int, and texts takes a list of texts. It means: one for each row."
    )
    assert refused(n=0) == (
        "task: n=0, and n takes a whole number of at least 1. It means: how many, and of what is "
        "drawn."
    )
    assert refused(kind="numbr") == (
        "task: kind='numbr'; did you mean 'number'? kind is one of 'gender', 'number'. "
        "It means: what decides."
    )
    assert refused(texts=["a", None]).startswith("task: texts=['a', None] has None, a NoneType,")
    assert refused(texts=np.zeros((2, 2))).startswith("task: texts=ndarray of shape (2, 2) is a")
    assert "model takes an object with encode, name" in refused(model=None)


def test_a_text_is_no_list_and_a_class_is_no_object():
    assert "is a str, and texts takes a list of texts" in refused(texts="ab")
    assert "is a type, and model takes" in refused(model=Reads)
    assert "is a dict, and texts takes" in refused(texts={"a": 1})
    assert "is a DataFrame, and texts" in refused(texts=pd.DataFrame({"a": ["b"]}))


def test_names_and_numbers_of_arguments():
    with pytest.raises(ArgumentError, match="there is no argument 'texs'; did you mean 'texts'"):
        named(model=Reads(), texs=["a"])
    with pytest.raises(ArgumentError, match=r"missing a required argument: 'texts'.*task\(model"):
        task(Reads())
    with pytest.raises(ArgumentError, match="rest='b' is a str, and rest takes a whole number"):
        task(Reads(), ["a"], 1, "b")


@door
def named(model: Reader, texts: Sequence[str]) -> None:
    """An argument that there is not has no **options to go to."""


def test_other_dresses_are_taken():
    for texts in (pd.Series(["a", "b"]), pd.Index(["a", "b"]), np.array(["a", "b"])):
        assert task(Reads(), texts)[0] == ["a", "b"]
    assert task(Reads(), [], n=np.int64(3), folder="runs")[2::2] == (3, Path("runs"))


@pytest.mark.parametrize(
    ("value", "hint", "taken"),
    [
        (3, float, 3.0),
        (np.float32(0.5), float, 0.5),
        ([1, 2.5], Sequence[float], [1.0, 2.5]),
        ([np.int64(1)], Sequence[int], [1]),
        ([1, 2], tuple[int, int], (1, 2)),
        (torch.tensor([1, 2]), Sequence[int], [1, 2]),
        ([[1, 0]], Sequence[Sequence[float]], [[1.0, 0.0]]),
        ("a", str | Path, "a"),
        (None, int | None, None),
        ("a", Annotated[Path | None, Told(print)], Path("a")),
        (np.int64(2), Annotated[int | str | None, Told(print)], 2),
    ],
)
def test_dresses(value: Any, hint: Any, taken: Any):
    found = dressed(value, hint)
    assert found == taken
    assert type(found) is type(taken)
    assert fits(found, hint)


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("hint", "right", "wrong"),
    [
        (Count, [1, 5], [0, -1, True, 1.0, "1", None]),
        (Seed, [0, 2**62], [-1, True, 2**70]),
        (Index, [0], [-1]),
        (float, [0.5, -1, INF], [NAN, True, "1"]),
        (Finite, [0.5, -1.0], [INF, -INF, NAN]),
        (Positive, [1e-9], [0.0, -1.0, INF, NAN]),
        (AtLeast0, [0.0], [-1e-9, INF]),
        (Share, [0.0, 1.0], [1.5, -0.5]),
        (Count | None, [None, 1], [0, ""]),
        (Sequence[Share], [[0.5], []], [[0.5, 2.0], 0.5]),
        (Annotated[Sequence[int], NotEmpty()], [[1]], [[], ["a"]]),
        (Literal[1, "a"], [1, "a"], [True, 1.0, "b"]),
        (tuple[int, str], [(1, "a")], [(1,), ("a", 1), (1, "a", 2), [1, "a"]]),
        (tuple[int, ...], [(), (1, 2)], [(1, "a")]),
        (Mapping[str, int], [{}, {"a": 1}], [{"a": "b"}, {1: 1}, [], None]),
        (frozenset[str], [frozenset("a")], [{"a"}, frozenset([1])]),
        (Iterable[int], [[1], (i for i in "ab")], [["a"], "ab", 1]),
        (Callable[[int], int], [abs, lambda x: x, lambda *x: 1], [lambda: 1, Reads, 3]),
        (Callable[..., int], [lambda: 1, Reads], ["abs"]),
        (Float[Tensor, "a b"], [torch.zeros(2, 3)], [torch.zeros(2), torch.zeros(2, 3).int()]),
        (type[Exception], [ValueError], [ValueError("a"), int]),
        (Reader, [Reads()], [Reads, None]),
        (Any, [None, 3, "a"], []),
        (T, [None, 3, "a"], []),
    ],
)
def test_what_an_annotation_takes(hint: Any, right: list[Any], wrong: list[Any]):
    assert [value for value in right if not fits(value, hint)] == []
    assert [value for value in wrong if fits(value, hint)] == []


@given(st.lists(st.sampled_from(["a", 1, None, 2.5]), max_size=8))
def test_every_item_of_a_list_is_looked_at(items: list[Any]):
    assert fits(items, Sequence[str]) == all(isinstance(item, str) for item in items)
    assert fits(items, Sequence[float]) == all(isinstance(item, int | float) for item in items)
    assert fits(set(items), frozenset[str] | set[str]) == all(isinstance(x, str) for x in items)


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int | str | None, "a whole number, text or None"),
        (Count, "a whole number of at least 1"),
        (Positive | None, "a number above 0 or None"),
        (Share, "a number of at least 0 and of at most 1"),
        (Finite, "a number that is finite"),
        (
            Annotated[Sequence[Count], NotEmpty()],
            "a list of whole numbers of at least 1 that is not empty",
        ),
        (Mapping[str, Sequence[float]], "a mapping from text to a list of numbers"),
        (tuple[int, str], "a tuple of a whole number and text"),
        (Literal["a", 1], "'a' or 1"),
        (Callable[[int], int], "a function of one argument"),
        (Callable[[int, int], int], "a function of 2 arguments"),
        (Callable[..., int], "a function"),
        (Float[Tensor, "row d"], "a Tensor of Float of axes 'row d'"),
        (pd.DataFrame, "a DataFrame"),
    ],
)
def test_annotations_in_words(hint: Any, words: str):
    assert in_words(hint) == words


@door
@dataclass(frozen=True)
class Made:
    """Something.

    Attributes:
        n: how many.
    """

    n: Count = 1
    name: str = ""


def test_a_class_checks_what_it_is_made_of():
    assert Made(np.int64(2)) == Made(2)
    with pytest.raises(ArgumentError, match=r"^Made: n=0, and n takes .*\. It means: how many\.$"):
        Made(0)
    with pytest.raises(
        ArgumentError, match="Made: there is no argument 'nam'; did you mean 'name'"
    ):
        Made(nam="a")


class Box:
    @door
    def put(self, n: Count) -> int:
        return n

    @classmethod
    @door
    def of(cls, n: Count) -> int:
        return n


def test_methods_are_named_with_their_class():
    assert Box().put(3) == Box.of(3) == 3
    for call, name in ((Box().put, "Box.put"), (Box.of, "Box.of")):
        with pytest.raises(ArgumentError, match=f"^{name}: n=0, and n takes a whole number"):
            call(0)
        with pytest.raises(ArgumentError, match=rf"It is called as {name}\(n\)\.$"):
            call()


def word(value: object) -> None:
    if not isinstance(value, str):
        raise MetricError(f"{value!r} is no word; wrap it.")


def test_a_better_sentence_comes_first():
    @door
    def measure(metric: Annotated[str, Told(word)] = "loss") -> str:
        return metric

    assert measure() == measure("loss") == "loss"
    with pytest.raises(MetricError, match="3 is no word; wrap it"):
        measure(3)
    assert in_words(Annotated[str, Told(word)]) == "text"


class How(TypedDict, total=False):
    """How it runs.

    Attributes:
        where: the machine.
        most: bytes.
    """

    where: Annotated[Literal["here", "there"], Default("here")]
    most: Annotated[Count | None, Default(None)]


@door
def bundled(n: Count, **how: Unpack[How]) -> tuple[int, How]:
    """A function that hands a bundle on."""
    return n, how


def test_the_keys_of_a_bundle_are_arguments_of_their_own():
    assert bundled(3) == (3, {})
    assert bundled(3, most=np.int64(2), where="there") == (3, {"most": 2, "where": "there"})
    known = inspect.signature(bundled).parameters
    assert [*known] == ["n", "where", "most"]
    assert (known["where"].default, known["most"].default) == ("here", None)
    with pytest.raises(ArgumentError, match=r"bundled: most=0, and most takes .* It means: bytes"):
        bundled(3, most=0)
    with pytest.raises(ArgumentError, match=r"where='her'; did you mean 'here'"):
        bundled(3, where="her")
    with pytest.raises(ArgumentError, match="there is no argument 'mots'; did you mean 'most'"):
        bundled(3, mots=2)


def test_every_sweep_takes_the_same_bundle():
    """... and says in its help what one may give."""
    for method in (interp.ablate, interp.patch, interp.path_patch, interp.circuits.acdc):
        known = inspect.signature(method).parameters
        assert known["engine"].default == "auto"
        assert known["memory"].default is known["checkpoint"].default is None


@pytest.mark.parametrize(
    "name, told",
    [
        ("x" * 256, "is 256 bytes long with a part of 256"),
        ("é" * 128, "is 256 bytes long with a part of 256"),
        ("ab/" * 1400, "is 4,200 bytes long with a part of 2"),
        (Path("a") / ("b" * 300), "no file is called so"),
        ("\ud800", "half a surrogate pair"),
    ],
)
def test_a_name_that_no_file_can_have(name, told):
    for call in (interp.load, interp.Results.load, interp.datasets.corpus, interp.shape_of):
        with pytest.raises(ArgumentError, match=told):
            call(name)
