"""Tiny models and pairs that every part is tested on; hooks on a bridge must not outlive a test."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import pytest
import tiny
import torch
from oracle import Oracle
from oracle_of_two import OracleOfTwo

import interp
from interp.models.model import Model

torch.set_num_threads(1)  # tiny matrices: a second thread only waits

FAMILIES = ("gpt2", "llama-mha", "llama")
"""The plainest: learned positions, rotary, and rotary with grouped queries."""
REPLAYED = tuple(name for name in tiny.FAMILIES if name not in ("opt-post", "t5"))
"""What replay supports."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cases",
        choices=("all", "first", "others"),
        default="all",
        help="of each test the first case, or all but the first: types and shapes are checked at "
        "run time in the first ones alone (--jaxtyping-packages), for that takes most of the time",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Make slow what a sample leaves out, and leave out what another run has."""
    for cases in _by_test(items).values():
        _sample(cases)
    wanted = config.getoption("--cases")
    if wanted == "all":
        return
    kept = [item for item in items if "slow" not in item.keywords]
    heads = [cases[0] for cases in _by_test(kept).values()]
    first = {item.nodeid for item in heads if not {"plain", "real"} & {*item.keywords}}
    parts: dict[bool, list[pytest.Item]] = {True: [], False: []}
    for item in items:
        parts[item.nodeid in first].append(item)
    items[:] = parts[wanted == "first"]
    config.hook.pytest_deselected(items=parts[wanted != "first"])


def _by_test(items: Sequence[pytest.Item]) -> dict[str, list[pytest.Item]]:
    """The cases of each test."""
    found: dict[str, list[pytest.Item]] = {}
    for item in items:
        found.setdefault(item.nodeid.partition("[")[0], []).append(item)
    return found


def _sample(cases: Sequence[pytest.Item]) -> None:
    """Of a sampled test, slow are all cases but the first and some that are drawn by their name.

    So each test meets the same ones in every run, and another test others.
    """
    marker = cases[0].get_closest_marker("sampled")
    ordinary = [item for item in cases if "slow" not in item.keywords]
    if marker is None or not ordinary:
        return
    drawn = sorted(ordinary[1:], key=lambda item: hashlib.sha256(item.nodeid.encode()).digest())
    for item in drawn[marker.args[0] - 1 :]:
        item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tiny products gain nothing from threads, and wait long for them on a busy machine."""
    before = torch.get_num_threads()
    if "real" not in request.keywords:
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Model]:
    """A loaded tiny model of a family, in float64 unless told otherwise."""
    loaded: dict[tuple[str, torch.dtype], Model] = {}

    def load(family: str, dtype: torch.dtype = torch.float64) -> Model:
        if (family, dtype) not in loaded:
            folder = tmp_path_factory.mktemp(family)
            tiny.build(family).to(torch.float64).save_pretrained(folder)
            if family in tiny.VISION:
                loaded[family, dtype] = interp.load(folder, dtype=dtype)
                return loaded[family, dtype]
            tiny.word_tokenizer(adds_bos=False).save_pretrained(folder)
            loaded[family, dtype] = interp.load(folder, dtype=dtype)
            # Qwen's class adds one to any vocabulary, and random ids would be taken for padding
            loaded[family, dtype].tokenizer.pad_token = None
        return loaded[family, dtype]

    return load


@pytest.fixture(scope="session")
def smollm() -> Model:
    """The shipped model, for tests that leave it as it is."""
    return interp.load("smollm2-135m")


@pytest.fixture(scope="session")
def oracle() -> Callable[[str], Oracle]:
    """The second opinion on the same weights."""
    return cache(lambda family: Oracle(tiny.build(family).to(torch.float64)))


@pytest.fixture(scope="session")
def oracle_of_two() -> Callable[[str], OracleOfTwo]:
    """The same of encoder-decoders."""
    return cache(lambda family: OracleOfTwo(tiny.build(family).to(torch.float64)))


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(family: str, tiny_model: Callable[..., Model]) -> Iterator[Model]:
    """Each tiny model; it must leave the test with the hooks it came with."""
    found = tiny_model(family)
    before = hooks_on(found)
    yield found
    assert hooks_on(found) == before


def hooks_on(model: Model) -> dict[str, int]:
    """Forward hooks at each point of the bridge."""
    return {name: len(p.fwd_hooks) for name, p in model.bridge.hook_dict.items() if p.fwd_hooks}


@pytest.fixture(scope="session")
def pairs() -> interp.Pairs:
    """Five random pairs of lengths 7 and 9, three clusters, two templates; "mid" lies inside."""
    generator = torch.Generator().manual_seed(1)
    lengths = [7, 9, 7, 9, 7]

    def rows() -> list[list[int]]:
        return [torch.randint(tiny.VOCAB, (n,), generator=generator).tolist() for n in lengths]

    return interp.Pairs.from_tokens(
        clean=rows(),
        corrupt=rows(),
        correct=[3, 5, 7, 11, 13],
        wrong=[4, 6, 8, 12, 14],
        positions={"mid": [2, 3, 4, 1, 2], "late": [5, 7, 5, 6, 4]},
        cluster=["a", "b", "a", "c", "c"],
        template=["a", "b", "a", "b", "a"],
    )
