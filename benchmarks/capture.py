"""Capturing resid_post of all layers at 4 x 256 tokens: time and memory beside a plain forward.
And what checksums cost: a table of a million rows and a gigabyte of shards, written and read, with
them and without, in turns.

Memory is counted by PyTorch's own profiler: the highest sum of live tensor bytes that the call
allocated, without what stood before. The peer's figure is TransformerLens' unfiltered cache.

    python benchmarks/capture.py --json benchmarks/sweeps.json
"""

import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
import tyro
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM

import interp
from interp.core.files import sealed
from interp.core.tables import table
from interp.models.finding import shipped


@dataclass(frozen=True)
class Options:
    """How to measure."""

    json: Path | None = None
    model: str = "smollm2-135m"
    threads: int = 2
    repeats: int = 7


def peak_bytes(call: Callable[[], object]) -> int:
    """The most that a call holds at once of what it allocates itself."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        result = call()
    live = peak = 0
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    del result
    return peak


@contextmanager
def without_checksums() -> Iterator[None]:
    """The same files, and nothing looked at."""
    with ExitStack() as stack:
        for place, name, instead in (
            (sealed, "_sum", lambda tensor: "0" * 32),
            (sealed, "seal", lambda path, *, end=None: None),
            (sealed, "is_sealed", lambda data, path, remedy: True),
            (table, "seal", lambda path, *, end=None: None),
            (table, "is_sealed", lambda data, path, remedy: True),
        ):
            stack.enter_context(patch.object(place, name, instead))
        yield


def million_rows(rows: int = 1_000_000) -> interp.Results:
    """A sweep's table."""
    draws = np.random.default_rng(0)
    sites = np.array([f"{layer}.{head}" for layer in range(30) for head in range(9)], object)
    base = draws.normal(size=rows)
    value = base + draws.normal(size=rows)
    columns = {"method": "zero", "site": sites[np.arange(rows) % 270], "position": ""}
    columns |= {"receiver": "", "direction": "noise", "metric": "logit_diff", "kind": "z"}
    columns |= {"layer": np.int16(1), "head": np.int16(2), "through": "", "engine": "replay"}
    columns |= {"example": np.arange(rows) // 270, "cluster": "a"}
    columns |= {"base": base, "value": value, "effect": value - base}
    return interp.Results(pd.DataFrame(columns), {"null": 0.0})


def integrity(model: interp.Model, repeats: int) -> dict[str, object]:
    """Seconds with checksums, and the ratio to those without; medians, in turns."""
    results = million_rows()
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.facts.d_vocab, (58, 256), generator=generator)

    def load_capture(path: Path) -> None:
        kept = interp.Captured.load(path / "acts")
        for site in kept:
            _ = kept[site]

    def save_capture(path: Path) -> None:
        shutil.rmtree(path / "acts", ignore_errors=True)
        interp.capture(model, tokens, "layers", folder=path / "acts")

    calls = {
        "save_table": (3, lambda path: results.save(path / "results.parquet")),
        "load_table": (3, lambda path: interp.Results.load(path / "results.parquet")),
        "save_gigabyte": (1, save_capture),
        "load_gigabyte": (3, load_capture),
    }
    row: dict[str, object] = {"case": "integrity"}
    with TemporaryDirectory() as folder:
        for name, (times, call) in calls.items():
            took: dict[bool, list[float]] = {True: [], False: []}
            for turn in range(max(3, times * repeats // 3)):
                for checked in ((True, False), (False, True))[turn % 2]:
                    with nullcontext() if checked else without_checksums():
                        start = time.perf_counter()
                        call(Path(folder) / str(checked))
                        took[checked].append(time.perf_counter() - start)
            with_them, without = (statistics.median(took[checked]) for checked in (True, False))
            row |= {f"{name}_s": with_them, f"{name}_ratio": with_them / without}
    return row


@torch.inference_mode()
def measure(model: interp.Model, options: Options) -> dict[str, object]:
    plain = AutoModelForCausalLM.from_pretrained(shipped.folder(options.model)).eval()
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.facts.d_vocab, (4, 256), generator=generator)

    def ours() -> interp.Captured:
        return interp.capture(model, tokens, "layers")

    calls = {"ours": ours, "plain": lambda: plain(tokens, use_cache=False)}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(options.repeats):  # in turns, so that both meet the same machine
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    took = {name: statistics.median(found) for name, found in times.items()}
    kept, peak = ours().bytes, peak_bytes(ours)
    unfiltered = peak_bytes(lambda: model.bridge.run_with_cache(tokens))
    return {
        "case": "capture",
        "ours_s": took["ours"],
        "peer_s": took["plain"],
        "time_ratio": took["ours"] / took["plain"],
        "kept_mb": kept / 1e6,
        "peak_mb": peak / 1e6,
        "peak_over_kept": peak / kept,
        "unfiltered_mb": unfiltered / 1e6,
        "memory_ratio": unfiltered / peak,
    }


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    model = interp.load(options.model, device="cpu")
    rows = [measure(model, options), integrity(model, options.repeats)]
    print(json.dumps(rows, indent=1))
    if options.json:
        known = json.loads(options.json.read_text())
        known = [r for r in known if r["case"] not in ("capture", "integrity")]
        options.json.write_text(json.dumps([*known, *rows], indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
