"""Sweeps at the size of research on one accelerator; where there is none, what the plans predict.

Random models shaped as SmolLM2, Llama 3.2 1B and Llama 2 7B, in bfloat16, with 32 pairs of 512
tokens, need no network. Measured are the same sweeps as in `sweeps.py` against TransformerLens'
loops, capture and attribution, with the peak of the memory and the share of the matrix peak. What a
plan predicts is a bound from below, of the rates given here: no measurement.

    python benchmarks/gpu.py --json benchmarks/gpu.json
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from peers import Peer, random_pairs, spread
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import interp
from interp.engine.plan.plan import Plan
from interp.models.bridge.facts import facts_of
from interp.models.wrap import wrap

SHAPES: dict[str, dict[str, Any]] = {
    "smollm2": {
        **{"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30},
        **{"num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152},
        "tie_word_embeddings": True,
    },
    "1b": {
        **{"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16},
        **{"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256},
        "tie_word_embeddings": True,
    },
    "7b": {
        **{"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32},
        **{"num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000},
    },
    "tiny": {
        **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 101},
    },
}


@dataclass(frozen=True)
class Options:
    """What to run, and what the device can do (an H200's by default)."""

    json: Path | None = None
    device: str = "cuda:0"
    shapes: tuple[str, ...] = ("smollm2", "1b", "7b")
    prompts: int = 32
    tokens: int = 512
    heads: int = 32
    """Heads that a sweep is measured on; predictions are of all."""
    sample: int = 3
    """Cells on which the peer is timed."""
    peak: float = 989e12
    bandwidth: float = 4.8e12
    launch: float = 5e-6
    total: str = "141GB"


@dataclass(frozen=True)
class Predicted:
    """What the plan of a call over all heads says."""

    shape: str
    case: str
    cells: int
    tflop: float
    launches: int
    waits: int
    held_gb: float
    weights_gb: float
    seconds: float


@dataclass(frozen=True)
class Measured:
    """A call on the device. `share`: of the matrix peak; `ratio`: to the peer's loop."""

    shape: str
    case: str
    cells: int
    seconds: float
    peak_gb: float
    share: float
    peer_seconds: float | None = None
    ratio: float | None = None


Call = tuple[str, Callable[..., object], Callable[[Peer, interp.Site], Tensor] | None]


def calls(model: interp.Model, pairs: interp.Pairs, heads: list[str] | str) -> Iterator[Call]:
    """By name: ours, and the peer's answer for one of its cells where it has one."""
    call = {"model": model, "pairs": pairs}
    zero = partial(interp.ablate, **call, sites=heads, method="zero")
    yield "ablate", zero, lambda peer, site: peer.ablate(site, at=slice(None))
    end = partial(zero, positions="end")
    yield "ablate-end", end, lambda peer, site: peer.ablate(site, at=slice(-1, None))
    yield "patch", partial(interp.patch, **call, sites=heads), None
    paths = partial(interp.path_patch, **call, senders=heads, receivers="logits")
    yield "path-logits", paths, lambda peer, site: peer.path_logits(site)
    yield "capture", partial(interp.capture, model, pairs, "layers"), None


def predicted(shape: str, options: Options) -> Iterator[Predicted]:
    config = LlamaConfig(**SHAPES[shape], max_position_embeddings=4096)
    model = interp.shape_of(config, dtype="bfloat16", device="cuda:0")
    pairs = random_pairs(model, options.prompts, options.tokens)
    rates = {"peak": options.peak, "bandwidth": options.bandwidth, "launch": options.launch}
    for name, call, _ in calls(model, pairs, "heads"):
        plan = interp.explain(call, total=options.total, **rates)
        yield Predicted(
            *(shape, name, len({c for batch in plan.batches for c in batch.cells})),
            *(_flops(plan) / 1e12, plan.launches, plan.waits),
            *(plan.held / 1e9, plan.weights / 1e9, plan.seconds or 0.0),
        )


def _flops(plan: Plan) -> int:
    return sum(batch.flops for batch in (*plan.before, *plan.batches))


@dataclass(frozen=True, eq=False)
class There:
    """Pairs whose tokens are where the model is, for the peer."""

    clean: Tensor
    corrupt: Tensor
    correct: Tensor
    wrong: Tensor

    def __len__(self) -> int:
        return len(self.clean)


def made(shape: str, device: torch.device) -> interp.Model:
    """A random model, made where it stays."""
    config = LlamaConfig(**SHAPES[shape], max_position_embeddings=4096)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    with device:
        hf = LlamaForCausalLM(config).to(torch.bfloat16)
    size = SHAPES[shape]["vocab_size"]
    facts = partial(facts_of, language_model=True)
    return wrap(hf, "LlamaForCausalLM", shape, None, d_vocab=size, facts=facts)


def measured(shape: str, options: Options) -> Iterator[Measured]:
    device = torch.device(options.device)
    model = made(shape, device)
    pairs = random_pairs(model, options.prompts, options.tokens)
    own = (pairs.clean, pairs.corrupt, pairs.correct, pairs.wrong)
    there = There(*(tensor.to(device) for tensor in own))
    every = [f"{i}.{j}" for i in range(model.facts.n_layers) for j in range(model.facts.n_heads)]
    heads = spread(every, min(options.heads, len(every)))
    interp.evaluate(model, pairs.select([0]))  # verifies the engine
    peer = Peer.cached(model, there)  # pyright: ignore[reportArgumentType]
    for name, call, answer in calls(model, pairs, heads):
        seconds, peak = timed(call, device)
        flops = _flops(interp.explain(call))
        times = [
            timed(partial(answer, peer, interp.Site.parse(head)), device)[0]
            for head in (spread(heads, options.sample) if answer else ())
        ]
        theirs = statistics.median(times) * len(heads) if times else None
        yield Measured(
            *(shape, name, len(heads), seconds, peak / 1e9, flops / seconds / options.peak),
            *(theirs, theirs and theirs / seconds),
        )
    one = pairs.select([0])
    seconds, peak = timed(partial(interp.causal.attribute, model, one), device)
    yield Measured(shape, "attribute, one pair", 0, seconds, peak / 1e9, float("nan"))


@torch.inference_mode()
def timed(call: Callable[[], object], device: torch.device) -> tuple[float, int]:
    """Seconds, and the most bytes held beside what was there."""
    there = device.type == "cuda"
    if there:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device) if there else 0
    start = time.perf_counter()
    call()
    if there:
        torch.cuda.synchronize(device)
    took = time.perf_counter() - start
    return took, torch.cuda.max_memory_allocated(device) - before if there else 0


def main(options: Options) -> None:
    print("predicted from the plan, not measured")
    found: dict[str, list[dict[str, Any]]] = {"predicted": [], "measured": []}
    for shape in options.shapes:
        for row in predicted(shape, options):
            found["predicted"].append(asdict(row))
            print(row, flush=True)
    device = torch.device(options.device)
    if device.type != "cuda" or torch.cuda.is_available():
        for shape in options.shapes:
            for row in measured(shape, options):
                found["measured"].append(asdict(row))
                print(row, flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
