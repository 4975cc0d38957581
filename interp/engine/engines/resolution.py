"""What rounding alone does to a metric.

In float32 and float64 it is how far the metric is from that of Hugging Face's own run, which adds
up in another order. In half precision that run rounds as much itself, and so the same weights are
run once in float32: what an engine gives is as far from that as rounding moved it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from interp.core.errors import MetricError, ModelError
from interp.core.metrics import Metric
from interp.core.prompts.pairs import Pairs, Side
from interp.engine.engines.hooked.writes import start_of
from interp.engine.engines.protocol import Written, begun
from interp.engine.engines.verified import last_norm
from interp.engine.network.trace import take
from interp.engine.plan.memory import SHARE, total
from interp.engine.plan.operations import FEW, FEW_BYTES, WIDE_BYTES
from interp.engine.plan.positions import ids_of, longest_in
from interp.engine.plan.score import Readout, Score
from interp.models.model import Model

HALF = (torch.float16, torch.bfloat16)
KEPT = 8
"""Runs of Hugging Face's model whose ends are kept."""


@torch.inference_mode()
def resolution(
    model: Model,
    pairs: Pairs,
    side: Side,
    rows: Sequence[int],
    readout: Readout,
    ours: Float[ndarray, "metrics batch"],
) -> Float[ndarray, " metrics"]:
    """The largest distance of each metric from Hugging Face's in the first of some rows.

    At least a unit in the last place. NaN where it is not known: an embedding of which Hugging
    Face's model gives the norm or the logits alone, hooks that only the bridge has, more logits or
    weights than are worth it, and a metric that compares a run with itself here, where it is flat.

    Args:
        rows: of one length.
        readout, ours: the metrics, and what an engine found in a plain run of these rows.
    """
    rows, metrics = list(rows[:FEW]), [score.metric for score in readout.scores]
    found = np.full(len(metrics), np.nan)
    length = longest_in(model.facts, pairs, rows)
    size = len(rows) * length * model.facts.d_vocab * model.dtype.itemsize
    if size > FEW_BYTES or any(one.point for one in model.now().foreign):
        return found
    few = Readout.of_rows(model, pairs, metrics, rows)
    known = _at_ends(model, pairs, side, rows, few)
    if known is None:
        return found
    known, scores = known
    for m, (score, whole) in enumerate(zip(scores, readout.scores, strict=True)):
        embedding = not model.facts.language_model and not last_norm(model)
        if (score.metric.reads == "embedding") != embedding:
            continue
        if score.metric.needs_reference and side == "clean":
            continue
        if (reference := whole.answers.reference) is not None:
            answers = replace(score.answers, reference=reference[: len(rows)])
            score = replace(score, answers=answers)
        try:
            theirs = score.of(known, known)[0].double().cpu().numpy()
        except MetricError:  # theirs overflows where ours, in float32, does not
            continue
        least = torch.finfo(model.dtype).eps * np.abs(theirs).max()
        found[m] = max(np.abs(ours[m, : len(rows)] - theirs).max(), least)
    return found


def _at_ends(
    model: Model, pairs: Pairs, side: Side, rows: Sequence[int], few: Readout
) -> tuple[Float[Tensor, "batch _ out"], tuple[Score, ...]] | None:
    """What Hugging Face's model says, and the metrics of it.

    Of metrics that read one position of a row that position alone; the last few of these are kept,
    since many calls ask about the same prompts.
    """
    tokens, written = ids_of(pairs, side, rows, model.device)
    if any(score.following is not None or score.read.shape[1] > 1 for score in few.scores):
        known = _known(model, tokens, written)
        return None if known is None else (known, few.scores)
    # the hash sees what PyTorch does not count: a change through `.data`
    asked = pairs.fingerprint, side, tuple(rows)
    key = model.weight_hash, *asked, tuple(few.read.flatten().tolist())
    kept: dict[object, Tensor | None] = model.now().once("said at ends", dict)
    if key not in kept:
        known = _known(model, tokens, written)
        kept[key] = None if known is None else take(known, few.read)
        for old in list(kept)[:-KEPT]:
            del kept[old]
    known = kept[key]
    if known is None:
        return None
    at = (
        torch.full_like(score.read, place.start)
        for score, place in zip(few.scores, few.places, strict=True)
    )
    return known, tuple(replace(s, read=read) for s, read in zip(few.scores, at, strict=True))


def _known(model: Model, tokens: Tensor, written: Written) -> Float[Tensor, "batch _ out"] | None:
    """What Hugging Face's own model says: logits, or the last hidden state without a head.

    None of a model of half precision that cannot be run in float32 here.
    """
    wide = model.dtype in HALF
    size = 4 * sum(tensor.numel() for tensor in model.truth.tensors().values())
    if wide and size > min(WIDE_BYTES, total(model.device) // SHARE):
        return None
    inputs: dict[str, Tensor] = {}
    if model.facts.n_encoder_layers:
        inputs["decoder_input_ids"] = begun(start_of(model), tokens, written)
    foreign = model.now().foreign
    try:
        return model.truth.run(tokens, foreign=foreign, wide=wide, **inputs).output
    except (RuntimeError, ModelError):  # some of it, or a hook, keeps its own precision
        if wide:
            return None
        raise


def named(
    metrics: Sequence[Metric], found: Float[ndarray, " metrics"]
) -> Mapping[str, float | None]:
    """By the metrics' names; None where it is not known."""
    known = [None if np.isnan(x) else float(x) for x in found]
    return dict(zip((metric.name for metric in metrics), known, strict=True))
