"""The case `acdc`: ACDC on a tiny random model, against one full forward for each edge.

The peer is the model's own forward of the same prompts for each edge, without any cut in it, and
without the metric. Beside it stand the least that one test after the other can cost, this library's
replay without hooks, logits and cuts; and what such a loop takes with its masked pass, metric and
all, one circuit at a time. All are timed on some forwards and scaled to all edges. Ours is the
whole call, traces and table included.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from interp.engine.circuits.by_mask import Isolation, Rows

import interp
from interp.circuits.discovery.acdc import acdc
from interp.core.metrics import METRICS
from interp.core.parts.graph import Graph
from interp.engine.circuits.wiring import Wiring
from interp.engine.engines.choose import choose
from interp.engine.engines.replay.engine import Replay
from interp.models.small import native

SHAPE = native.Shape(
    n_layers=4, n_heads=8, d_model=64, d_head=8, d_vocab=101, n_ctx=16, d_mlp=128, norm="layer"
)
TIMED = 40
"""Forwards of the peers that are timed."""


def measure(*, prompts: int, kept: float, threads: int, repeats: int) -> dict[str, Any]:
    """Seconds of ours and of the peers.

    Args:
        kept: the threshold is the quantile above which this share of the changes is that edges
            make at a threshold of 0.
    """
    torch.set_num_threads(threads)
    model, pairs = _model(), _pairs(prompts)
    found = acdc(model, pairs, threshold=0.0)  # the engine is verified, the weights are hashed
    threshold = float(np.quantile(found.ranking.scores, 1 - kept))
    took, plain, least, masked = [], [], [], []
    forward, replay, one = _forward(model, pairs), _replay(model, pairs), _one(model, pairs)
    for _ in range(repeats):  # in turns, so that all meet the same machine
        start = time.perf_counter()
        found = acdc(model, pairs, threshold=threshold)
        took.append(time.perf_counter() - start)
        plain.append(_seconds(forward))
        least.append(_seconds(replay))
        masked.append(_seconds(one))
    edges = len(found.ranking)
    seconds, peer, loop = statistics.median(took), edges * min(plain), edges * min(masked)
    return {
        "case": "acdc",
        "ours_s": seconds,
        "peer_s": peer,
        "ratio": peer / seconds,
        "replay_s": edges * min(least),
        "ratio_replay": edges * min(least) / seconds,
        "masked_loop_s": loop,
        "ratio_masked_loop": loop / seconds,
        "edges": edges,
        "kept": len(found.circuit),
        "runs": found.runs,
        "waves": found.waves,
        "threshold": threshold,
        "tokens": [prompts, int(pairs.lengths.max())],
    }


def _model() -> interp.Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = native.build(SHAPE, name="acdc")
        for parameter in model.bridge.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def _pairs(prompts: int) -> interp.Pairs:
    generator = torch.Generator().manual_seed(0)

    def rows() -> torch.Tensor:
        return torch.randint(SHAPE.d_vocab, (prompts, 12), generator=generator)

    return interp.Pairs.from_tokens(clean=rows(), corrupt=rows())


def _forward(model: interp.Model, pairs: interp.Pairs) -> Callable[[], object]:
    """A plain forward of TransformerLens' bridge."""
    return lambda: model.bridge(pairs.clean)


def _replay(model: interp.Model, pairs: interp.Pairs) -> Callable[[], object]:
    """The residual stream alone."""
    engine = choose(model)
    assert isinstance(engine, Replay)
    return lambda: engine.trace(pairs.clean, keep=())


def _one(model: interp.Model, pairs: interp.Pairs) -> Callable[[], object]:
    """The metric of one circuit that lacks a random half of the edges."""
    graph = Graph.of(model.facts)
    half = graph.feeds & (np.random.default_rng(0).random(graph.feeds.shape) < 0.5)
    job = Isolation(
        model=model,
        pairs=pairs,
        wiring=Wiring(model.facts, graph),
        kept=half[None, None],
        lacking=np.zeros(1, dtype=bool),
        places=("all",),
        ablation="resample",
        source=None,
        metrics=(METRICS["kl"],),
    )
    engine = choose(model)
    assert isinstance(engine, Replay)
    rows = Rows(job, engine, range(len(pairs)), None)
    circuits = job.by_class(rows.which, [0])
    return lambda: rows.measured(rows.finals(circuits))


@torch.inference_mode()
def _seconds(call: Callable[[], object]) -> float:
    """Of one call, the median of some."""
    times = []
    for _ in range(TIMED):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
