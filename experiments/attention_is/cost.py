"""What a layer costs by length: attention, and an LSTM with as many parameters."""

import time

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.attention_is.setting import Amount, seeded
from interp.core.tables.scores import CELL, Scores
from interp.engine.plan.cost import forward_flops
from interp.models.now.versions import versions
from interp.models.small.native import Shape

COST = "cost"
WIDTH, HEADS = 256, 4
LAYER = Shape(1, HEADS, WIDTH, WIDTH // HEADS, 2, 8, 0, positions="none").facts


def cost(size: Amount, seed: int) -> Scores:
    """FLOPs and seconds of one layer of attention and of an LSTM with as many parameters.

    Batch 1, float32, causal. The two take turns, so that a busy machine is busy for both.
    """
    hidden = lstm_width(WIDTH)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: dict[str, nn.Module] = {"attention": Attention(), "LSTM": Recurrent(hidden)}
    flops = {
        "attention": lambda n: forward_flops(LAYER, n, layers=1),
        "LSTM": lambda n: n * 2 * 4 * hidden * (WIDTH + hidden),
    }
    note = {
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "parameters": {k: sum(p.numel() for p in m.parameters()) for k, m in layers.items()},
        "lstm_width": hidden,
    }
    rows = []
    with torch.inference_mode():
        for n in size.lengths:
            x = torch.randn(1, n, WIDTH, generator=seeded(seed, n))
            for name, layer in layers.items():
                layer(x)
                rows.append((name, n, "FLOPs", "counted", float(flops[name](n))))
            for i in range(size.repeats):
                for name, layer in layers.items():
                    start = time.perf_counter()
                    layer(x)
                    rows.append((name, n, "seconds", f"{i}", time.perf_counter() - start))
    frame = pd.DataFrame(rows, columns=["probe", "subset", "metric", "cluster", "total"])
    empty = {"task": COST, "site": "", "layer": None, "head": None, "model": "none"}
    frame = frame.assign(**empty, labels="real", n=1, subset=frame["subset"].map("pos = {}".format))
    types = {"layer": "Int16", "head": "Int16", "n": "int64"}
    return Scores(frame[[*CELL, "cluster", "total", "n"]].astype(types), note)


class Attention(nn.Module):
    """One causal layer in torch's fused attention."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.q, self.k, self.v)
        )
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(z.transpose(1, 2).flatten(-2))


class Recurrent(nn.Module):
    """One layer of torch's LSTM."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, hidden, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]


def lstm_width(width: int) -> int:
    """State of an LSTM with as many parameters as attention: 4 h (d + h + 2) = 4 d (d + 1)."""
    return round((-(width + 2) + ((width + 2) ** 2 + 4 * width * (width + 1)) ** 0.5) / 2)
