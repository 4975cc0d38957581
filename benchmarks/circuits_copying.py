"""The case `copying`: full-circuit copying scores of all heads, against TransformerLens.

The peer folds the norms (`enable_compatibility_mode`) and takes the eigenvalues of
W_E W_OV W_U as a FactoredMatrix, one head at a time: its small product costs two passes over the
vocabulary for each head. Its time is the median head's, times the number of heads; folding is left
out. Ours is the whole call, null and table included.
"""

import statistics
import time
from typing import Any

import capture
import numpy as np
import torch
from transformer_lens import FactoredMatrix

import interp
from interp.heads.weights.qk_ov import copying_scores


@torch.inference_mode()
def measure(name: str, *, threads: int, repeats: int, peers: int) -> dict[str, Any]:
    """Seconds of both, the largest difference of the scores, and the most memory of ours."""
    torch.set_num_threads(threads)
    model = interp.load(name, device="cpu")
    _ = model.weight_hash  # taken once for a model, with whatever is measured first
    took = []
    for _ in range(repeats):
        start = time.perf_counter()
        table = copying_scores(model)
        took.append(time.perf_counter() - start)
    peak = capture.peak_bytes(lambda: copying_scores(model))
    ours = table.query("other == ''").grid()

    bridge = interp.load(name, device="cpu").bridge
    bridge.enable_compatibility_mode(disable_warnings=True, fold_value_biases=False)
    size = model.facts.n_layers * model.facts.n_heads
    theirs, worst = [], 0.0
    for index in np.linspace(0, size - 1, peers).round().astype(int):
        layer, head = divmod(int(index), model.facts.n_heads)
        attention = bridge.blocks[layer].attn
        start = time.perf_counter()
        ov = FactoredMatrix(attention.W_V[head // model.facts.group_size], attention.W_O[head])
        values = (bridge.W_E @ ov @ bridge.W_U).eigenvalues
        score = float(values.sum().real / values.abs().sum())
        theirs.append(time.perf_counter() - start)
        worst = max(worst, abs(score - ours[layer, head]))
    seconds, peer_s = statistics.median(took), statistics.median(theirs) * size
    return {
        "case": "copying",
        "ours_s": seconds,
        "peer_s": peer_s,
        "ratio": peer_s / seconds,
        "heads": size,
        "peak_mb": peak / 1e6,
        "largest_difference": worst,
    }
