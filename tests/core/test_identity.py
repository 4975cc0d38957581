"""Equal texts compute equal things: what changes a function's numbers changes its identity."""

import enum
import functools
import math
import os
import random
import sys
import time
import types
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from interp.core.files.identity import Unreadable, identity, tensor_identity
from interp.datasets.corpus import Corpus, Document, Sentence, Word

LIMIT = [0.5]
TABLE = np.arange(2_000.0)
SCALE = 2.0


def reads_a_list(x: float) -> float:
    return x * LIMIT[0]


def reads_an_array(x: float) -> float:
    return x * TABLE[1_500]


def scaled(x: float) -> float:
    return x * SCALE


def through_another(x: float) -> float:
    return scaled(x)


def inner_reads(x: list[float]) -> list[float]:
    return [(lambda y: y * SCALE)(one) for one in x]


def module(source: str, name: str = "mine_of_the_test") -> types.ModuleType:
    """A module of a user's own."""
    made = types.ModuleType(name)
    exec(source, vars(made))
    return made


@pytest.fixture
def a_module() -> Iterator[types.ModuleType]:
    made = module("FACTOR = 2.0\nOTHER = 1.0\ndef of(x):\n    return x * FACTOR\n")
    sys.modules[made.__name__] = made
    yield made
    del sys.modules[made.__name__]


def test_a_global_that_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for function in (scaled, through_another, inner_reads, functools.partial(through_another, 2.0)):
        before = identity(function)
        assert identity(function) == before
        with monkeypatch.context() as patch:
            patch.setitem(globals(), "SCALE", 3.0)
            assert identity(function) != before
        assert identity(function) == before


def test_what_a_global_holds() -> None:
    before = identity(reads_a_list)
    LIMIT[0] = 0.75
    assert identity(reads_a_list) != before
    LIMIT[0] = 0.5
    assert identity(reads_a_list) == before


def test_every_number_of_an_array() -> None:
    before = identity(reads_an_array)
    TABLE[1_499] += 1e-12  # in the middle, where a printed array shows dots
    assert identity(reads_an_array) != before
    TABLE[1_499] = 1_499.0
    assert identity(reads_an_array) == before


def closing_over(value: object) -> Callable[[], object]:
    return lambda: value


PAIR = namedtuple("PAIR", "a b")
OTHER = namedtuple("OTHER", "a b")


@dataclass(frozen=True)
class Config:
    n: int = 1
    out: str = field(default="runs", metadata={"hash": False})

    @cached_property
    def twice(self) -> int:
        return 2 * self.n


class Slotted:
    __slots__ = ("x",)

    def __init__(self, x: int) -> None:
        self.x = x


class Plain:
    def __init__(self, x: int) -> None:
        self.x = x


class OwnDict(dict):
    pass


class OwnList(list):
    pass


class OwnTensor(torch.Tensor):
    pass


class OwnArray(np.ndarray):
    pass


class OwnFrame(pd.DataFrame):
    pass


class Wrapping:
    """As decorators are that are objects."""

    def __init__(self, function: Callable, factor: float) -> None:
        functools.update_wrapper(self, function)
        self.factor = factor


class Private(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self._factor = factor


def having(value: object, mark: object) -> object:
    """The value, with an attribute of its own."""
    value.mark = mark  # pyright: ignore[reportAttributeAccessIssue]
    return value


def noting(value: pd.DataFrame | pd.Series, note: object) -> object:
    value.attrs["note"] = note
    return value


def wrapped(function: Callable, factor: float) -> Callable:
    @functools.wraps(function)
    def inner(*args: object) -> object:
        return factor * function(*args)

    return inner


def kind_of_enum(factor: int) -> enum.Enum:
    class Mode(enum.Enum):
        A = 1

        def of(self, x: int) -> int:
            return factor * x

    return Mode.A


def tied(to: str) -> nn.Module:
    torch.manual_seed(0)
    made = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    made["c"] = made[to]
    return made


ONES = torch.ones(2, dtype=torch.cfloat)

DIFFERENT = [
    (wrapped(nn.functional.log_softmax, 1), wrapped(nn.functional.log_softmax, 2)),
    (wrapped(nn.functional.log_softmax, 1), nn.functional.log_softmax),
    (torch.no_grad()(scaled), torch.no_grad()(through_another)),
    (torch.vmap(nn.functional.relu, 0), torch.vmap(nn.functional.relu, 1)),
    (np.trace, np.linalg.trace),
    (Wrapping(scaled, 1.0), Wrapping(scaled, 2.0)),
    (Private(1.0), Private(2.0)),
    (nn.Dropout().train(), nn.Dropout().eval()),
    (tied("a"), tied("b")),
    (defaultdict(lambda: 0.5), defaultdict(lambda: 0.7)),
    (having(OwnDict(a=1), 1), having(OwnDict(a=1), 2)),
    (having(OwnList([1]), 1), having(OwnList([1]), 2)),
    (having(torch.zeros(2), 1), having(torch.zeros(2), 2)),
    (having(torch.zeros(2).as_subclass(OwnTensor), 1), torch.zeros(2).as_subclass(OwnTensor)),
    (having(np.zeros(2).view(OwnArray), 1), having(np.zeros(2).view(OwnArray), 2)),
    (np.ma.array([1.0, 2.0], mask=[0, 1]), np.ma.array([1.0, 2.0], mask=[1, 0])),
    (np.ma.array([1.0], fill_value=1.0), np.ma.array([1.0], fill_value=2.0)),
    (noting(pd.Series([1]), 1), noting(pd.Series([1]), 2)),
    (noting(pd.DataFrame({"a": [1]}), 1), noting(pd.DataFrame({"a": [1]}), 2)),
    (OwnFrame({"a": [1]}), pd.DataFrame({"a": [1]})),
    (pd.Categorical(["a"], categories=["a", "b"]), pd.Categorical(["a"], categories=["b", "a"])),
    (
        pd.Series(pd.Categorical(["a"], categories=["a", "b"])),
        pd.Series(pd.Categorical(["a"], categories=["b", "a"])),
    ),
    (pd.Series(pd.Categorical(["a"])), pd.Series(pd.Categorical(["a"], ordered=True))),
    (pd.CategoricalIndex(["a"], categories=["a"]), pd.CategoricalIndex(["a"], ["a", "b"])),
    (
        pd.Series([1], index=pd.CategoricalIndex(["a"], ["a", "b"])),
        pd.Series([1], index=pd.CategoricalIndex(["a"], ["b", "a"])),
    ),
    (pd.Series([1], index=[1]), pd.Series([1], index=["1"])),
    (kind_of_enum(1), kind_of_enum(2)),
    (having(kind_of_enum(1), 1), having(kind_of_enum(1), 2)),
    (ONES.conj(), (1j * ONES).conj()),
    ((1j * ONES).conj().imag, (2j * ONES).conj().imag),
    (torch.eye(3).to_sparse(), 2 * torch.eye(3).to_sparse()),
    (torch.eye(3).to_sparse(), torch.eye(3)),
    (1, 1.0),
    (1, True),
    ("1", 1),
    (0.0, -0.0),
    (None, False),
    ([1, 2], (1, 2)),
    ([1, [2]], [1, 2]),
    ({"a": 1}, {"a": 2}),
    ({1, 2}, {1, 3}),
    (PAIR(1, 2), (1, 2)),
    (PAIR(1, 2), OTHER(1, 2)),
    (OrderedDict(a=1), {"a": 1}),
    (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
    (torch.zeros(2, 3), torch.zeros(3, 2)),
    (torch.zeros(1), -torch.zeros(1)),
    (np.zeros(2), torch.zeros(2, dtype=torch.float64)),
    (np.array(["a"], dtype=object), np.array(["b"], dtype=object)),
    (pd.Series([1, 2]), pd.Series([2, 1])),
    (pd.Series([1], name="a"), pd.Series([1], name="b")),
    (pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]})),
    (pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [1.0]})),
    (pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [1]}, index=[1])),
    (pd.Series([1, "1"]), pd.Series(["1", 1])),
    (pd.Series([np.zeros(2)]), pd.Series([np.zeros((1, 2))])),
    (pd.Series([np.zeros(2)]), pd.Series([np.ones(2)])),
    (pd.Series([np.zeros(2)]), pd.Series([[0.0, 0.0]])),
    (pd.Index([1, 2]), pd.Index([1, 3])),
    (torch.float32, torch.bfloat16),
    (Path("a"), Path("b")),
    (Config(1), Config(2)),
    (Slotted(1), Slotted(2)),
    (Plain(1), Plain(2)),
    (math.sin, math.cos),
    (np.sin, np.cos),
    (torch.sin, torch.cos),
    (str.upper, str.lower),
    ("a".join, "b".join),
    (Plain(1).__repr__, Plain(2).__repr__),
    (random.Random(1), random.Random(2)),
    (np.random.default_rng(1), np.random.default_rng(2)),
    (nn.Linear, nn.Conv1d),
    (functools.partial(math.pow, 2), functools.partial(math.pow, 3)),
    (functools.cache(lambda: 1), functools.cache(lambda: 2)),
    (lambda x=1: x, lambda x=2: x),
    (lambda *, x=1: x, lambda *, x=2: x),
    (lambda x: x + 1, lambda x: x - 1),
    (range(3), range(4)),
    (slice(1), slice(2)),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT, ids=lambda x: f"{x!r:.20}")
def test_what_differs_by_itself_and_closed_over(one: object, other: object) -> None:
    assert identity(one) != identity(other)
    assert identity(closing_over(one)) != identity(closing_over(other))


def test_what_is_equal() -> None:
    def twin(value: int) -> Callable[[int], int]:
        return lambda x: x * value

    assert identity(twin(2)) == identity(twin(2)) != identity(twin(3))
    assert identity({"a", "b", "c"}) == identity({"c", "b", "a"})
    assert identity(torch.arange(6).view(2, 3)) == identity(torch.arange(6).view(3, 2).view(2, 3))
    assert identity(torch.arange(6).view(3, 2).T) == identity(torch.tensor([[0, 2, 4], [1, 3, 5]]))
    assert identity(np.arange(6)[::2]) == identity(np.array([0, 2, 4]))


def test_what_is_conjugated_when_it_is_read_is_its_numbers() -> None:
    assert identity((1j * ONES).conj()) == identity(-1j * ONES)
    assert identity((1j * ONES).conj().imag) == identity(-torch.ones(2))


def test_what_is_noted_while_it_is_used_is_not_what_it_is() -> None:
    masked, member = np.ma.array([1.0, 2.0], mask=[0, 1]), Bits.A
    before = identity(masked), identity(member)
    assert masked.fill_value == 1e20 and ~member is Bits.B and (Bits.A | Bits.B)
    assert (identity(masked), identity(member)) == before


class Bits(enum.Flag):
    A = 1
    B = 2


def test_where_to_write_and_what_is_kept_of_an_object_are_not_what_it_is() -> None:
    config = Config()
    before = identity(config)
    assert config.twice == 2  # now it holds that, too
    assert identity(config) == before == identity(Config(out="elsewhere"))


def test_reading_and_pickling_change_nothing() -> None:
    class Fresh:
        pass

    before = identity(Fresh)
    assert identity(Fresh()) == identity(Fresh())
    Fresh().__reduce_ex__(2)  # writes `__slotnames__` into the class
    assert identity(Fresh) == before


def test_a_list_twice_is_not_two_equal_lists() -> None:
    one = [1]
    assert identity([one, one]) != identity([[1], [1]])
    loop: list[object] = []
    loop.append(loop)
    assert identity(loop) == identity(loop)


def test_a_module_of_ones_own_by_what_is_named_of_it(a_module: types.ModuleType) -> None:
    def reads(x: float) -> float:
        return a_module.of(x)

    before = identity(reads)
    vars(a_module)["OTHER"] = 5.0  # nobody reads it
    assert identity(reads) == before
    vars(a_module)["FACTOR"] = 3.0
    assert identity(reads) != before


def test_a_network_is_its_state() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.1))
    before = identity(closing_over(net))
    with torch.no_grad():
        net[0].weight[1, 1] += 1e-6
    after = identity(closing_over(net))
    assert after != before
    handle = net[0].register_forward_hook(lambda *_: None)
    assert identity(closing_over(net)) != after
    handle.remove()
    assert identity(closing_over(net)) == after
    net[1].p = 0.5
    assert identity(closing_over(net)) != after


def test_a_method_is_its_class_and_its_object() -> None:
    def kind(factor: int) -> type:
        class Made:
            def of(self, x: int) -> int:
                return factor * x

        return Made

    assert identity(kind(2)().of) == identity(kind(2)().of) != identity(kind(3)().of)


def reads_a_file(x: float) -> float:
    return x * float(open("limit.txt").read())


def reads_a_folder(x: float) -> float:
    return x * float(Path("limit.txt").read_text())


def evaluates(x: float) -> float:
    return eval("x * SCALE")


def asks_the_command_line(x: float) -> float:
    return x * float(sys.argv[1])


def asks_a_module_by_name(x: float) -> float:
    return x * sys.modules["mine"].FACTOR


def asks_a_function(x: float) -> float:
    return x * scaled.__globals__["SCALE"]


def reads_a_pickle(x: float) -> float:
    return x * pd.read_pickle("limit.pkl")[0]


def draws(x: Tensor) -> Tensor:
    return x * torch.rand(1)


def draws_twice(x: Tensor, generator: torch.Generator) -> Tensor:
    return x * torch.rand(1, generator=generator) + torch.randn(1)


def draws_by_a_generator(x: Tensor, generator: torch.Generator) -> Tensor:
    return x * torch.rand(1, generator=generator)


def nested(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


def unbound() -> Callable[[], object]:
    def reads() -> object:
        return later

    if not reads:
        later = 1
    return reads


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (reads_a_file, r"reads_a_file names .open., which reads from outside"),
        (reads_a_folder, r"reads_a_folder names 'read_text', which reads from outside"),
        (evaluates, r"evaluates calls eval\(\)"),
        (asks_the_command_line, "names 'argv', which reads from outside"),
        (asks_a_module_by_name, "reads sys.modules"),
        (asks_a_function, "names '__globals__', which reads from outside"),
        (reads_a_pickle, "names 'read_pickle', which reads from outside"),
        (functools.partial(pd.read_csv, "a.csv"), "names 'read_csv', which reads from outside"),
        (functools.partial(os.getenv, "A"), "names 'getenv', which reads from outside"),
        (draws, "names 'rand', .* no generator="),
        (draws_twice, "names 'rand', .* no generator="),
        (draws_by_a_generator, ""),
        (closing_over(torch.ones(2, device="meta")), "a tensor that is on the meta device"),
        (
            closing_over(torch.nested.nested_tensor([torch.ones(2)], layout=torch.jagged)),
            "a tensor that is a nested",
        ),
        (nested(100_000), "nested too deeply"),
        (unbound(), r"closes over 'later', which has no value yet"),
        (closing_over(iter([1])), ""),
        (closing_over(x for x in "ab"), r"'value', which .* closes over, is a builtins.generator"),
        (closing_over(sys), ""),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_what_cannot_be_read_is_refused_or_told_apart(function: Callable, says: str) -> None:
    if says:
        with pytest.raises(Unreadable, match=says):
            identity(function)
    else:
        assert identity(function) == identity(function)


@given(hnp.arrays(np.float64, st.integers(1, 40)), st.data())
def test_any_change_of_an_array_shows(array: np.ndarray, data: st.DataObject) -> None:
    before = identity(array)
    assert identity(array.copy()) == before
    at = data.draw(st.integers(0, len(array) - 1))
    array.view(np.uint8)[8 * at] ^= 1
    assert identity(array) != before


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner)
)


@pytest.mark.plain
@given(VALUES, VALUES)
def test_plain_values_are_told_apart_by_their_text(one: object, other: object) -> None:
    assert (identity(one) == identity(other)) == (repr(one) == repr(other))


def test_a_corpus_is_all_that_is_annotated_in_it():
    """In one piece: of 200,000 words each by itself would take a minute."""
    words = (Word("The", (0, 3), "DET"), Word("keys", (4, 8), "NOUN"))
    corpus = Corpus("a", (Document("d", (Sentence("s", "The keys", words),)),), frozenset({"upos"}))
    tagged = replace(words[1], upos="VERB")
    sentence = replace(corpus.sentences[0], words=(words[0], tagged))
    other = replace(corpus, documents=(Document("d", (sentence,)),))
    assert identity(corpus) == identity(replace(corpus))
    assert identity(corpus) != identity(other)
    assert corpus.fingerprint == other.fingerprint


class Knowing:
    """As a hook that holds its model, which asks what the hook is."""

    def __init__(self, model: object, factor: float) -> None:
        self.model, self.factor = model, factor


class Known:
    def __init__(self) -> None:
        self.hook = Knowing(self, 1.0)

    def __identity__(self) -> str:
        return identity([self.hook, {(1, 2)}], known=[self])


def test_what_the_caller_tells_by_itself_is_not_asked_again() -> None:
    one, other = Known(), Known()
    other.hook.factor = 2.0
    assert identity(one) == identity(Known()) != identity(other)
    assert identity([1, one], known=[one]) == identity([1, other], known=[other])
    assert identity([one, other], known=[one, other]) != identity([other, one], known=[one, other])


def test_a_large_frame_is_read_at_once() -> None:
    n = 70_000
    frame = pd.DataFrame({"site": [f"{i}" for i in range(n)], "value": np.arange(float(n))})
    identity(frame[:1])  # what is kept of packages
    start = time.perf_counter()
    identity(frame)
    assert time.perf_counter() - start < 1.0


@given(hnp.arrays(np.complex64, st.integers(1, 9)))
def test_a_tensor_is_its_numbers_however_it_lies(array: np.ndarray) -> None:
    dense = torch.from_numpy(array)
    assert tensor_identity(dense.conj().resolve_conj()) == tensor_identity(dense.conj())
    assert tensor_identity(dense.to_sparse()) == tensor_identity(dense.clone().to_sparse())
