"""Optimal ablation: the constants under which a circuit loses least (Li & Janson 2024, sec. 2.2).

Zero, mean and resample ablation put values where the model may never have been, and what is lost
then is in part that, not the circuit. Fitted constants put as little in its way as any can.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor
from tqdm.auto import tqdm

from interp.circuits.proof.setting import Setting
from interp.core.door.door import door
from interp.core.door.taken import Count, Positive
from interp.core.errors import MetricError, ProbeError, Unsupported
from interp.core.metrics import resolve_metric
from interp.core.parts.circuit import Circuit
from interp.core.prompts.pairs import Pairs
from interp.core.tables.saved import Saved
from interp.engine.circuits.constants import Constants
from interp.engine.circuits.masks import Masks
from interp.engine.circuits.passes import Passes, able, row_bytes, served
from interp.engine.limits import Limits
from interp.engine.plan import operations as ops
from interp.engine.plan.batches import Batch, Plan
from interp.engine.plan.cost import circuit_flops
from interp.engine.plan.explain import proceed
from interp.engine.plan.memory import SWEEP, Memory, budget, require
from interp.engine.plan.positions import blocks
from interp.models.model import Model

Loss = Literal["kl", "loss", "next_token_loss", "logit_diff", "log_prob"]
SIGNS: dict[str, float] = {
    "kl": 1.0,
    "loss": 1.0,
    "next_token_loss": 1.0,
    "logit_diff": -1.0,
    "log_prob": -1.0,
}
"""Metrics to fit, and how each becomes a loss."""


@dataclass(frozen=True, eq=False)
class Fit(Saved):
    """Fitted constants.

    Attributes:
        constants: give them to `run_circuits(..., reference=)`.
        losses: the mean loss before each step and after the last.
    """

    constants: Constants
    losses: Float[ndarray, " step"]


@door
@torch.inference_mode(mode=False)  # there is no gradient inside of it
def fit_optimal(
    model: Model,
    pairs: Pairs,
    circuit: Circuit,
    *,
    metric: Loss = "kl",
    steps: Count = 50,
    rate: Positive = 0.02,
    memory: Memory = None,
) -> Fit:
    """One vector for each writer, by gradient descent on the mean metric of the circuit alone.

    Starts from the means over all positions of the corrupt prompts, and takes steps of Adam on all
    prompts at once, of `rate` times the root mean square of each kind of constant. The best step
    counts. No randomness. Fit on other prompts than the circuit is judged by.

    Args:
        circuit: its parts are kept; its `ablation` must be "optimal".
        metric: `"kl"` from the full model, or one of the task: "logit_diff", "loss", "log_prob".
            A logit difference has no bound: constants fitted to it push for the answer themselves,
            and a faithfulness above 1 says that, not how good the circuit is.
        memory: bytes to hold beside the weights, gradients counted.

    Raises:
        Unsupported: another ablation or metric, or a model whose writes or sums are normed, which
            the masked pass cannot serve.
        ProbeError: no steps, or a rate that is not above 0.
        MetricError: the loss does not depend on the constants, or is not finite.
        Others: as `run_circuits`.
    """
    if circuit.ablation != "optimal":
        raise Unsupported(
            f"the circuit's ablation is {circuit.ablation!r}; constants are for circuits with "
            "ablation='optimal' (dataclasses.replace(circuit, ablation='optimal'))."
        )
    if metric not in SIGNS:
        raise Unsupported(f"metric {metric!r} is none to fit by; choose of {', '.join(SIGNS)}")
    if steps < 1 or not rate > 0:
        raise ProbeError(f"steps={steps} of rate={rate} fit nothing; both must be above 0")
    start = Constants.zeros(model)
    setting = Setting.of(model, pairs, [circuit], start)
    kept = setting.kept("circuit", circuit)
    if not (setting.wiring.graph.feeds & ~kept.mask.any(0)).any() and setting.places == ("all",):
        raise MetricError(
            "the loss does not depend on the constants: the circuit keeps every edge, so nothing "
            "is cut and there is nothing to fit."
        )
    masks = Masks(
        setting.wiring, kept.mask[None], np.array([False]), setting.places, "optimal", start
    )
    metrics = (resolve_metric(metric),)
    engine = served(model, pairs, metrics, "auto")
    if not able(engine):
        raise Unsupported(
            f"constants are fitted through the masked pass, which a {model.facts.architecture} "
            "cannot use (its writes or their sums are normed, it has no logits, or it has two "
            "stacks). Use ablation='mean'."
        )
    proceed(_plan(masks, model, pairs, steps))
    with torch.no_grad():
        row = _row_bytes(masks, model, pairs)
        room = budget(memory, model.device, SWEEP)
        most = require(row, room, memory, model.device, "one prompt of the fit") // row
        parts = [
            Passes(model, pairs, metrics, masks, engine, rows, start)
            for rows in blocks(pairs.extents, most)
        ]
        first = _means(parts)
    return _descend(start, first, parts, SIGNS[metric], steps, rate)


def _row_bytes(masks: Masks, model: Model, pairs: Pairs) -> int:
    """Gradients keep about three times what a forward holds, and the scores of every layer."""
    facts, itemsize = model.facts, max(model.dtype.itemsize, 4)
    scores = 2 * itemsize * facts.n_layers * facts.n_heads * pairs.longest**2
    return 6 * row_bytes(masks, model, pairs) + scores


def _plan(masks: Masks, model: Model, pairs: Pairs, steps: int) -> Plan:
    """A forward and a backward of the circuit for each step, of all prompts."""
    facts, lengths = model.facts, pairs.lengths.tolist()
    flops = sum(circuit_flops(facts, length) for length in lengths)
    held = _row_bytes(masks, model, pairs)
    limits, itemsize = Limits.of(model.device), model.dtype.itemsize
    ran = ops.masked_run(facts, max(lengths), len(lengths), itemsize, limits)
    batch = Batch(
        tuple(range(len(lengths))),
        (0,),
        0,
        max(lengths),
        (0, facts.n_layers - 1),
        held,
        (1 + 3 * (steps + 1)) * flops,
        1 + 2 * (steps + 1),
        **{name: (1 + 3 * (steps + 1)) * count for name, count in ran.items()},
    )
    note = f"{steps} steps of gradient descent"
    return Plan((batch,), 0, 3 * (steps + 1) * flops, facts, "replay", held, note)


def _means(parts: Sequence[Passes]) -> list[Tensor]:
    """Means over the positions of all corrupt prompts: embedding, z and MLP outputs."""
    total: list[Tensor] = []
    count = 0
    for part in parts:
        resampled = replace(part.masks, ablation="resample", source=None)
        other = Passes(
            part.model, part.pairs, part.metrics, resampled, part.engine, part.rows, None
        ).ablated
        count += other.embed.shape[0] * other.embed.shape[1]
        home = other.embed.device
        sums = [
            other.embed.sum((0, 1)),
            torch.stack([z.sum((0, 1)).to(home) for z in other.z]),
            torch.stack([m.sum((0, 1)).to(home) for m in other.mlp_out]),
        ]
        total = [a + b for a, b in zip(total, sums, strict=True)] if total else sums
    return [x / count for x in total]


def _descend(
    start: Constants,
    first: Sequence[Tensor],
    parts: Sequence[Passes],
    sign: float,
    steps: int,
    rate: float,
) -> Fit:
    found = [x.detach().clone().requires_grad_() for x in first]
    scale = [float(x.detach().square().mean().sqrt().clamp_min(1e-3)) for x in found]
    groups = [{"params": [x], "lr": rate * s} for x, s in zip(found, scale, strict=True)]
    optimiser = torch.optim.Adam(groups)
    n = sum(len(part.rows) for part in parts)
    losses, best = [], [x.detach().clone() for x in found]
    for step in tqdm(range(steps + 1), desc="constants", unit="step", delay=2, disable=None):
        optimiser.zero_grad()
        loss = 0.0
        for part in parts:
            with torch.enable_grad():
                now = replace(start, embed=found[0], z=found[1], mlp_out=found[2])
                part.ablated = now.ablated(part.clean.final)
                kept = part.masks.by_class(part.which, [0])
                value = sign * part.measured(part.final(kept)).sum() / n
                slopes = torch.autograd.grad(value, found, allow_unused=True)
            if all(slope is None or not slope.any() for slope in slopes):
                raise MetricError(
                    "the loss does not depend on the constants: nothing that is cut is read on a "
                    "way to the logits. There is nothing to fit."
                )
            for x, slope in zip(found, slopes, strict=True):
                x.grad = slope if x.grad is None or slope is None else x.grad + slope
            loss += float(value.detach())
        if not losses or loss < min(losses):
            best = [x.detach().clone() for x in found]
        losses.append(loss)
        if step < steps:
            optimiser.step()
    embed, z, mlp_out = best
    return Fit(replace(start, embed=embed, z=z, mlp_out=mlp_out), np.array(losses))
