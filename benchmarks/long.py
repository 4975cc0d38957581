"""What calls hold beside the weights with one pair of a long prompt, in MB: tensors, process.

The process holds more than its tensors, since the C library keeps what is freed for the next.
"""

import ctypes
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch
import tyro
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import interp
from interp.causal import attribute


@dataclass(frozen=True)
class Options:
    """How to measure."""

    model: str = "smollm2-135m"
    tokens: tuple[int, ...] = (256, 1024, 4096)


class Live(TorchDispatchMode):
    """The most bytes that tensors made inside of the block hold at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.most = 0, 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage().data_ptr() for t in _tensors((args, kwargs or {}))}
        made = func(*args, **(kwargs or {}))
        for tensor in _tensors(made):
            storage = tensor.untyped_storage()
            place, size = storage.data_ptr(), storage.nbytes()
            if place not in given and place not in self.known:
                self.known.add(place)
                self.now += size
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._gone, place, size)
        return made

    def _gone(self, place: int, size: int) -> None:
        self.known.discard(place)
        self.now -= size


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def held(call: Callable[[], object]) -> tuple[float, float]:
    """The most that the process grows by while a call runs, looked at every 10 ms.

    What was freed before goes back to the system first: else it would be taken again unseen.
    """
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    process, done = psutil.Process(), threading.Event()
    before = process.memory_info().rss
    most = [before]

    def watch() -> None:
        while not done.wait(0.01):
            most[0] = max(most[0], process.memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    with Live() as live:
        call()
    done.set()
    watching.join()
    return live.most / 1e6, (most[0] - before) / 1e6


def calls(model: interp.Model) -> dict[str, Callable[[interp.Pairs], object]]:
    """What is asked of one pair of prompts, by name."""
    two = ["20.1", "23.3"]
    zero, end = {"method": "zero"}, {"method": "zero", "positions": "end"}
    paths = {"senders": two, "receivers": "logits"}
    return {
        "evaluate": lambda long: interp.evaluate(model, long),
        "capture": lambda long: interp.capture(model, long, ["10.resid_post"]),
        "ablate": lambda long: interp.ablate(model, long, two, **zero),
        "ablate at the end": lambda long: interp.ablate(model, long, two, **end),
        "patch": lambda long: interp.patch(model, long, two),
        "path_patch": lambda long: interp.path_patch(model, long, **paths),
        "attribute": lambda long: attribute(model, long),
    }


def grown(model: interp.Model, lengths: Sequence[int]) -> Iterator[dict]:
    """What each call holds at each length: MB of tensors, MB of the process, and seconds."""
    drawn = torch.Generator().manual_seed(0)
    rows = torch.randint(5, model.facts.d_vocab, (2, 1, max(lengths)), generator=drawn)

    def pairs(length: int) -> interp.Pairs:
        clean, corrupt = rows[:, :, :length].tolist()
        return interp.Pairs.from_tokens(clean=clean, corrupt=corrupt, correct=[3], wrong=[4])

    interp.evaluate(model, pairs(8))  # verifies the engine
    for tokens in lengths:
        for name, call in calls(model).items():
            start = time.monotonic()
            tensors, process = held(lambda call=call, tokens=tokens: call(pairs(tokens)))
            took = time.monotonic() - start
            line = f"{tokens:5} {name:17} {tensors:7.0f} MB {process:7.0f} MB {took:6.1f} s"
            print(line, flush=True)
            yield {
                "axis": "memory",
                "size": tokens,
                "call": name,
                "tensors MB": tensors,
                "process MB": process,
            }


def main(options: Options) -> None:
    for _ in grown(interp.load(options.model, device="cpu"), options.tokens):
        pass


if __name__ == "__main__":
    main(tyro.cli(Options))
