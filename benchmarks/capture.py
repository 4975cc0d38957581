"""Capturing resid_post of all layers at 4 x 256 tokens: time and memory beside a plain forward.

Memory is counted by PyTorch's own profiler: the highest sum of live tensor bytes that the call
allocated, without what stood before. The peer's figure is TransformerLens' unfiltered cache.

    python benchmarks/capture.py --json benchmarks/sweeps.json
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM

import interp
from interp.models import shipped


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


@torch.inference_mode()
def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    model = interp.load(options.model, device="cpu")
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
    row = {
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
    print(json.dumps(row, indent=1))
    if options.json:
        known = json.loads(options.json.read_text())
        known = [r for r in known if r["case"] != "capture"]
        options.json.write_text(json.dumps([*known, row], indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
