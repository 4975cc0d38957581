"""The case `fit`: linear probes of all residual layers against a scikit-learn loop.

Both minimise the same objective on the same standardised activations: mean cross-entropy plus
l2/2 of the squared weights. scikit-learn runs to its tol 1e-4 on some of the layers, at equal
steps, and its time is scaled to all.
"""

import statistics
import time
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

import interp
from interp.datasets import corpus
from interp.probing.ask.controls import Classes
from interp.probing.fit.linear import fit_linear
from interp.probing.fit.moments import Moments
from interp.probing.read.collect import collect

WORDS = 16_000
L2 = 1e-3


def measure(name: str, *, threads: int, peers: int, repeats: int) -> dict[str, Any]:
    """Seconds of both, and how the objectives compare on the layers that the peer fitted."""
    torch.set_num_threads(threads)
    model = interp.load(name, device="cpu")
    train = corpus("ud-ewt", split="train").sample(WORDS)
    features = collect(model, train, context=256, memory=4 << 30)
    words = [
        train.sentences[s].words[w].upos
        for s, w in zip(features.sentence, features.word, strict=True)
    ]
    classes = Classes.of([str(tag) for tag in words], rare="drop")
    y = classes.encode([str(tag) for tag in words])
    kept = np.flatnonzero(y >= 0)
    x, target = features.stack(kept), torch.from_numpy(y[kept])
    x = Moments.of(x).standardise_(x)
    took = []
    for _ in range(repeats):
        start = time.perf_counter()
        ours = fit_linear(x, target[None], l2=torch.tensor([L2]), classes=len(classes))
        took.append(time.perf_counter() - start)
    layers = np.linspace(0, len(x) - 1, peers).round().astype(int).tolist()
    theirs, worse = [], []
    for layer in layers:
        peer = LogisticRegression(C=1 / (L2 * len(target)), tol=1e-4, max_iter=10_000)
        start = time.perf_counter()
        peer.fit(x[layer].numpy(), target.numpy())
        theirs.append(time.perf_counter() - start)
        cross = -peer.predict_log_proba(x[layer].numpy())[np.arange(len(target)), target].mean()
        objective = cross + L2 / 2 * (peer.coef_**2).sum()
        worse.append(float(ours.objective[layer, 0]) / float(objective) - 1)
    seconds, peer_s = statistics.median(took), statistics.mean(theirs) * len(x)
    return {
        "case": "fit",
        "ours_s": seconds,
        "peer_s": peer_s,
        "ratio": peer_s / seconds,
        "peer_layers": layers,
        "words": len(target),
        "classes": len(classes),
        "converged": bool(ours.converged.all()),
        "objective_over_peer": max(worse),
    }
