"""The whole public surface in bfloat16 and float16: right within rounding, or refused.

What is right is the same weights in float64. Rounding is what Hugging Face's own model does to its
own answer in that precision: a method that computes as it should is not much further off.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from plain import outputs

import interp
from interp import Model, Pairs
from interp.core.errors import InterpError
from interp.core.parts.circuit import Circuit
from interp.core.parts.graph import Graph

HALVES = (torch.bfloat16, torch.float16)
WHOLE = (
    ("llama", torch.bfloat16, "auto"),
    ("llama", torch.bfloat16, "hooks"),
    ("gemma2", torch.float16, "auto"),
    ("bert", torch.bfloat16, "auto"),
)
"""Where all is called always; everywhere where slow tests run."""
FEW = ("evaluate", "zero", "edge", "capture")
"""What is called of the others."""
MARGIN = 4
"""A method may be so many times as far off as a plain run of Hugging Face's: an effect is a
difference of two runs, each of two logits. At most 2.1 were measured, and 0.5 is usual."""
UNITS = 64
"""Of a captured activation, in units in the last place of the largest; at most 30 were measured,
after three layers each of which rounds."""


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
    yield "lens", partial(interp.heads.direct_logit_attribution, model, pairs)
    half = Circuit.of(Graph.of(facts).edges[::2], model=model.weight_hash)
    yield "circuit", partial(interp.circuits.run_circuits, model, pairs, half, **given)
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
    """How far plain Hugging Face is from itself in float64, in any logit that it gives.

    Of a model without logits what a cosine is off where its vectors are rounded.
    """
    if not model.facts.language_model:
        return torch.finfo(model.dtype).eps
    worst = 0.0
    decoder = [0] if model.facts.n_encoder_layers else []
    for row in range(len(pairs)):
        ids = pairs.clean[row : row + 1, : int(pairs.lengths[row])].tolist()
        said = [model.bridge.original_model, exact.bridge.original_model]
        half, whole = (outputs(hf, ids, decoder=decoder).double() for hf in said)
        worst = max(worst, float((half - whole).abs().max()))
    return worst


def both(family: str, dtype: torch.dtype, folder: Path) -> tuple[Model, Model]:
    """The same weights, which the dtype holds exactly, in it and in float64."""
    made = tiny.build(family).to(dtype)
    made.save_pretrained(folder / "half")
    made.double().save_pretrained(folder / "exact")
    dtypes = {"half": dtype, "exact": torch.float64}
    half, exact = (interp.load(folder / name, dtype=dtype) for name, dtype in dtypes.items())
    return half, exact


def cases() -> Iterator[Any]:
    for family in tiny.FAMILIES:
        for dtype in HALVES:
            for engine in ("auto", "hooks"):
                case = (family, dtype, engine)
                name = f"{family}-{str(dtype).removeprefix('torch.')}-{engine}"
                if engine == "auto" and case not in WHOLE:
                    yield pytest.param(*case, False, id=name)
                always = () if case in WHOLE else (pytest.mark.slow,)
                yield pytest.param(*case, True, id=f"{name}-all", marks=always)


@pytest.mark.plain
@pytest.mark.sampled(10)
@pytest.mark.filterwarnings("ignore:mean ablation")
@pytest.mark.parametrize(("family", "dtype", "engine", "whole"), cases())
def test_right_within_rounding_or_refused(family, dtype, engine, whole, prompts, tmp_path):
    if family == "opt-post" or (family, dtype) == ("t5", torch.float16):
        with pytest.raises(InterpError, match="TransformerLens cannot wrap or run it"):
            both(family, dtype, tmp_path)
        return
    half, exact = both(family, dtype, tmp_path)
    allowed = MARGIN * rounding(half, exact, prompts)
    served = 0
    asked = zip(calls(half, prompts, engine), calls(exact, prompts, engine), strict=True)
    for (name, call), (_, right) in asked:
        if not whole and name not in FEW:
            continue
        try:
            found = call()
        except InterpError:
            continue
        served += 1
        ours, theirs = numbers(found), numbers(right())
        off = np.abs(ours - theirs).max()
        if name == "capture":
            assert off <= UNITS * torch.finfo(dtype).eps * np.abs(theirs).max(), name
        elif name == "atp*":  # drops gradients by their sign, which rounding may turn
            assert np.quantile(np.abs(ours - theirs), 0.95) <= allowed
        else:
            assert off <= allowed, name
        if name == "evaluate":  # and it says so itself, of the prompts that it compared
            assert all(x <= allowed for x in found.resolution.values())
    assert served
