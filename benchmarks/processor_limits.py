"""Are a processor's limits still the best? Seconds of sweeps under limits around those in use.

Each limit of `interp.engine.limits.PROCESSOR` that sets the size of a product is tried at a
quarter, a half, one, two and four times its value, in turns, on SmolLM2-135M and 16 IOI prompts of
19 tokens (attention scores on one pair of prompts of 1,024 tokens). Told are medians over that of
the limit in use.

    python benchmarks/processor_limits.py --json benchmarks/processor_limits.json
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from peers import pairs_of_length, random_pairs, spread
from tqdm import tqdm

import interp
from interp.engine import limits

TIMES = (0.25, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Options:
    """How to measure."""

    json: Path | None = None
    model: str = "smollm2-135m"
    threads: int = 2
    prompts: int = 16
    repeats: int = 3
    heads: int = 30
    """Heads of a sweep at all positions, spread over the layers."""


def cases(model: interp.Model, options: Options) -> dict[str, tuple[str, Callable[[], object]]]:
    """By name: the limit that decides, and the call."""
    facts = model.facts
    every = [f"{layer}.{head}" for layer in range(facts.n_layers) for head in range(facts.n_heads)]
    some = spread(every, options.heads)
    short, long = pairs_of_length(model, options.prompts), random_pairs(model, 1, 1024)
    zero = {"method": "zero"}
    return {
        "ablate: wave": ("wave", lambda: interp.ablate(model, short, some, **zero)),
        "ablate-end: wave": (
            "wave",
            lambda: interp.ablate(model, short, "heads", positions="end", **zero),
        ),
        "path-logits: wave": (
            "wave",
            lambda: interp.path_patch(model, short, senders="heads", receivers="logits"),
        ),
        "ablate: mlp": ("mlp", lambda: interp.ablate(model, short, some, **zero)),
        "evaluate, long: scores": ("scores", lambda: interp.evaluate(model, long)),
        "evaluate, long: mlp": ("mlp", lambda: interp.evaluate(model, long)),
    }


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    model = interp.load(options.model, device="cpu")
    own, found = limits.PROCESSOR, []
    for name, (limit, call) in tqdm(cases(model, options).items(), desc="limits", disable=None):
        call()  # verifies, and warms up
        seconds: dict[float, list[float]] = {times: [] for times in TIMES}
        for _ in range(options.repeats):
            for times in TIMES:
                limits.PROCESSOR = replace(own, **{limit: int(getattr(own, limit) * times)})
                start = time.perf_counter()
                call()
                seconds[times].append(time.perf_counter() - start)
        limits.PROCESSOR = own
        medians = {times: statistics.median(each) for times, each in seconds.items()}
        ratios = {f"{times:g} x": medians[times] / medians[1.0] for times in TIMES}
        found.append({"case": name, "limit": getattr(own, limit), "seconds": medians[1.0]} | ratios)
        told = "  ".join(f"{times} {ratio:.2f}" for times, ratio in ratios.items())
        tqdm.write(f"{name:24} {getattr(own, limit):>8}  {medians[1.0]:6.2f} s  {told}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
