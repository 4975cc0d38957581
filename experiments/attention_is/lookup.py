"""Heads as kernel smoothers and as soft lookups, on real text."""

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

import interp
from experiments.attention_is.kernel import (
    key_weight,
    lookup,
    nadaraya_watson,
    rbf,
    smoothers,
    weights,
)
from experiments.attention_is.setting import (
    Amount,
    Which,
    loaded,
    noted,
    of_rows,
    random_rows,
    rows_of_text,
    tiny,
)
from interp.core.tables.scores import Scores
from interp.models.small.native import build

IDENTITY, RBF, LOOKUP = "identity", "rbf", "lookup"
TEMPERATURES = tuple(2.0**-i for i in range(-2, 10))
NEAR = 0.05
"""A query hardens at the rate of its gap if the two differ by less, as a share of the gap."""


def identity(name: str, size: Amount, seed: int) -> Scores:
    """The largest difference between a head's output and the kernel's estimate, in each row.

    In both precisions, of real heads and of a tiny model with learned positions.
    """
    parts = []
    for dtype in (torch.float32, torch.float64):
        # what float64 needs is given back: a model twice as large as all others
        model = loaded(name) if dtype == torch.float32 else interp.load(name, dtype=dtype)
        small = build(tiny("learned", size), name="tiny-learned", seed=seed, dtype=dtype)
        text, documents = rows_of_text(model, size, seed)
        random = random_rows(size, seed)
        ids = np.asarray([f"row {i}" for i in range(len(random))])
        parts.append(differing(model, text, documents, "trained"))
        parts.append(differing(small, random, ids, "random"))
    return Scores.concat(parts)


def differing(model: interp.Model, tokens: Tensor, cluster: ndarray, which: Which) -> Scores:
    """Of each head, beside how large its outputs are."""
    found: dict[str, list[Tensor]] = {"largest difference": [], "largest output": []}
    for s in smoothers(model, tokens):
        difference = nadaraya_watson(s.scores, s.v, s.seen) - s.z
        for values, x in zip(found.values(), (difference, s.z), strict=True):
            values.append(x.abs().amax((-2, -1)))
    note = noted(model)
    cell = {"task": IDENTITY, "probe": f"{model.name}, {note['dtype']}", "model": which}
    return of_heads(found, cluster, note, cell)


def norms(name: str, size: Amount, seed: int) -> Scores:
    """How far real heads are from RBF smoothers: which weight moves when all keys count the same.

    Beside it the length of keys: the standard deviation, over the keys of a row, of the logarithm
    of what each counts.
    """
    model = loaded(name)
    tokens, cluster = rows_of_text(model, size, seed)
    found: dict[str, list[Tensor]] = {"weight moved": [], "spread of log weight": []}
    for s in smoothers(model, tokens):
        even = weights(rbf(s.q, s.k, scale=s.scale), s.seen)
        moved = (even - weights(s.scores, s.seen)).abs().sum(-1) / 2
        uneven = key_weight(s.k, scale=s.scale).std(-1)
        # the first query sees one key
        for values, x in zip(found.values(), (moved[..., 1:].mean(-1), uneven), strict=True):
            values.append(x)
    cell = {"task": RBF, "probe": name, "model": "trained"}
    return of_heads(found, cluster, noted(model), cell)


def of_heads(
    found: dict[str, list[Tensor]], cluster: ndarray, note: dict, cell: dict[str, str]
) -> Scores:
    """By metric, for each layer a number of each row and head."""
    values = torch.stack([torch.stack(layers) for layers in found.values()])
    axes = {
        "metric": list(found),
        "layer": range(values.shape[1]),
        "cluster": cluster,
        "head": range(values.shape[3]),
    }
    return of_rows(values.numpy(force=True), axes, note, **cell)


def hardening(name: str, size: Amount, seed: int) -> Scores:
    """How soft the lookup of real heads is at each temperature; 1 is the model's own."""
    model = loaded(name)
    tokens, cluster = rows_of_text(model, size, seed)
    metrics = ("entropy", "elsewhere", "distance", "two keys", "at its rate")
    shape = (len(TEMPERATURES), len(metrics), model.facts.n_layers, len(tokens))
    totals = np.full(shape, np.nan)
    for layer, s in enumerate(smoothers(model, tokens)):
        for i, temperature in enumerate(TEMPERATURES):
            found = lookup(s, temperature)
            pair = torch.sigmoid(-found.gap / temperature)  # were there but the best two keys
            near = ((found.rate / found.gap - 1).abs() < NEAR).double()
            for j, x in enumerate((*found[:3], pair, near)):
                # the first query sees one key
                totals[i, j, layer] = x[..., 1:].sum((-2, -1)).numpy(force=True)
    axes = {
        "probe": [f"T = {temperature}" for temperature in TEMPERATURES],
        "metric": metrics,
        "layer": range(shape[2]),
        "cluster": cluster,
    }
    each = model.facts.n_heads * (tokens.shape[1] - 1)
    return of_rows(totals, axes, noted(model), n=each, task=LOOKUP, model="trained")
