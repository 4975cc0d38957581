"""The whole public surface in bfloat16 and float16: right within rounding, or refused.

What is right is the same weights in float64. Rounding is what Hugging Face's own model does to its
own answer in that precision: a method that computes as it should is not much further off.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from plain import outputs

import interp
from interp import Model, Pairs, causal, circuits
from interp.core.circuit import Circuit
from interp.core.errors import InterpError
from interp.core.graph import Graph

HALVES = (torch.bfloat16, torch.float16)
BOTH = ("gpt2", "llama", "gemma2", "neox", "bert")
"""Families that both engines run: one of each kind of block."""
MARGIN = 4
"""A method may be so many times as far off as a plain run of Hugging Face's: it takes the
difference of two runs, at the sum of the logits of both answers."""


@pytest.fixture(scope="module")
def prompts() -> Pairs:
    lengths, draw = (7, 9, 7, 9, 7), np.random.default_rng(1)

    def rows() -> list[list[int]]:
        return [draw.integers(0, tiny.VOCAB, n).tolist() for n in lengths]

    return Pairs.from_tokens(
        clean=rows(),
        corrupt=rows(),
        correct=[3, 5, 7, 11, 13],
        wrong=[4, 6, 8, 12, 14],
        positions={"mid": [2, 3, 4, 1, 2]},
        cluster=["a", "b", "a", "c", "c"],
    )


def calls(model: Model, pairs: Pairs, engine: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What a user can ask of any model, and of this one."""
    facts = model.facts
    logits, two = facts.language_model, bool(facts.n_encoder_layers)
    metric = {"metric": "logit_diff" if logits else "cosine"}
    given = {**metric, "engine": engine}
    yield "evaluate", partial(interp.evaluate, model, pairs, **given)
    for method in ("zero", "mean", "resample"):
        yield (
            method,
            partial(interp.ablate, model, pairs, ["heads", "mlps"], method=method, **given),
        )
    yield "patch", partial(interp.patch, model, pairs, "heads", **given)
    yield "capture", partial(interp.capture, model, pairs, ["heads", "mlps"], engine=engine)
    if two:
        return
    yield "streams", partial(interp.patch, model, pairs, "resid_pre", positions="mid", **given)
    yield "pattern", partial(interp.ablate, model, pairs, "1.1.pattern", method="resample", **given)
    yield "neuron", partial(interp.ablate, model, pairs, "1.mlp[3]", method="resample", **given)
    yield (
        "reader",
        partial(interp.path_patch, model, pairs, senders="0.1", receivers="2.1.q", **given),
    )
    yield "attention", partial(interp.attention, model, pairs, ["1.1"], query="end", keys=["mid"])
    if not logits:
        return
    for ln in ("recompute", "freeze"):
        options = {"senders": "heads", "through": "direct", "ln": ln}
        yield f"direct {ln}", partial(interp.path_patch, model, pairs, **options, **given)
    yield "edge", partial(interp.patch, model, pairs, "0.1 -> 2.1.q", **given)
    yield "lens", partial(circuits.direct_logit_attribution, model, pairs)
    half = Circuit.of(Graph.of(facts).edges[::2], model=model.weight_hash)
    yield "circuit", partial(causal.run_circuits, model, pairs, half, **given)
    if engine == "hooks":
        return
    for method in ("eap", "eap-ig-inputs", "eap-ig-activations"):
        yield method, partial(interp.attribute, model, pairs, method=method)
    for method in ("atp", "atp*"):
        yield method, partial(interp.attribute, model, pairs, "nodes", method=method)


def numbers(found: Any) -> np.ndarray:
    """What a call found, as one column."""
    if isinstance(found, interp.Attribution):
        return found.frame["score"].to_numpy()
    if isinstance(found, interp.Captured):
        rows = [row for site in found for row in found.rows(site)]
        return torch.cat([row.flatten().double() for row in rows]).numpy()
    frame = found.frame if hasattr(found, "frame") else found
    return frame["value"].to_numpy(dtype=float)


def rounding(model: Model, exact: Model, pairs: Pairs) -> float:
    """How far plain Hugging Face is from itself in float64, at what is compared."""
    worst = 0.0
    for row in range(len(pairs)):
        ids = pairs.clean[row : row + 1, : int(pairs.lengths[row])]
        said = [outputs(m.bridge.original_model, ids).double() for m in (model, exact)]
        worst = max(worst, float((said[0] - said[1]).abs().max()))
    return worst


@cache
def _pair(family: str, dtype: torch.dtype, folder: str) -> tuple[Model, Model]:
    whole = tiny.build(family).to(dtype)
    whole.save_pretrained(f"{folder}/half")
    whole.double().save_pretrained(f"{folder}/exact")
    return interp.load(f"{folder}/half", dtype=dtype), interp.load(
        f"{folder}/exact", dtype=torch.float64
    )


if __name__ == "__main__":
    import logging
    import sys
    import tempfile
    import warnings

    warnings.simplefilter("ignore")
    logging.disable(50)
    P = prompts.__wrapped__()
    for family in sys.argv[1:] or tiny.FAMILIES:
        for dtype in HALVES:
            try:
                m, e = _pair(family, dtype, tempfile.mkdtemp())
            except InterpError as error:
                print(family, dtype, "LOAD", str(error)[:200])
                continue
            r = (
                rounding(m, e, P)
                if m.facts.language_model and not m.facts.n_encoder_layers
                else float("nan")
            )
            for engine in ("auto", "hooks") if family in BOTH else ("auto",):
                worst = {}
                for (name, call), (_, right) in zip(calls(m, P, engine), calls(e, P, engine)):
                    try:
                        a = numbers(call())
                    except InterpError as error:
                        print(family, dtype, name, "refused", str(error)[:150])
                        continue
                    b = numbers(right())
                    worst[name] = np.nanmax(np.abs(a - b)) / r
                print(
                    family,
                    str(dtype)[6:],
                    engine,
                    f"{r:.2g}",
                    {k: round(float(v), 2) for k, v in worst.items()},
                )
