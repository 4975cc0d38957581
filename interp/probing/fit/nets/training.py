"""Training a stack of independent probes: one loop, one product for all, an end for each.

The parameters of all problems (a layer, a head, a control task) lie in one tensor with a leading
`problem` axis, so that a step is one batched product. Nothing else is shared: a problem has its
own learning rate, its own early stop, and leaves the stack when it has finished.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from interp.core.door.door import door
from interp.core.door.taken import AtLeast0, Count, Positive
from interp.core.errors import ProbeError
from interp.probing.fit.nets.adam import Parameters, StackedAdam

log = logging.getLogger("interp")

AT_ONCE = 64
"""Problems in one stack, which bounds the memory; as they are independent, more are trained in
turns with the same result."""

Loss = Callable[[Parameters, Int[Tensor, " problem"], Int[Tensor, " example"]], Tensor]
"""Parameters of some problems, the numbers of these, examples -> `problem example` losses."""


@door
@dataclass(frozen=True)
class Schedule:
    """How probes are trained; by default as in the code of Hewitt & Liang 2019, but for the batch.

    Attributes:
        learning_rate: of Adam (AdamW with `weight_decay`); halved after each epoch in which the
            development loss does not improve.
        batch: examples in a step.
        epochs: after which a problem is given up as not converged.
        patience: epochs in a row without improvement that end a problem.
        improvement: of the development loss that counts as one, in the loss's unit.
        weight_decay: decoupled (Loshchilov & Hutter 2019).
    """

    learning_rate: Positive = 1e-3
    batch: Count = 512
    epochs: Count = 40
    patience: Count = 4
    improvement: AtLeast0 = 1e-3
    weight_decay: AtLeast0 = 0.0


PUBLISHED = Schedule()


@dataclass(frozen=True, eq=False)
class Trained:
    """Where each problem ended.

    Attributes:
        parameters: those of the epoch with the best development loss.
        loss: mean development loss there.
        best: that epoch, from 1; 0 where no epoch gave a finite loss.
        epochs: that the problem was trained for.
        converged: it stopped because the development loss improved no more.
        reason: why it stopped, in words.
    """

    parameters: Parameters
    loss: Float[Tensor, " problem"]
    best: Int[Tensor, " problem"]
    epochs: Int[Tensor, " problem"]
    converged: Bool[Tensor, " problem"]
    reason: tuple[str, ...]


def initial(
    names: Sequence[str], seed: int, of_one: Callable[[torch.Generator], Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """A stack of initial parameters, each drawn by its problem's name, whatever the others are."""
    parts = []
    for name in names:
        drawn = int.from_bytes(sha256(f"{seed} {name}".encode()).digest()[:7])
        parts.append(of_one(torch.Generator().manual_seed(drawn)))
    return {key: torch.stack([part[key] for part in parts]) for key in parts[0]}


def train(
    loss: Loss,
    start: Parameters,
    *,
    examples: int,
    dev_loss: Loss,
    dev_examples: int,
    names: Sequence[str],
    schedule: Schedule,
    seed: int,
) -> Trained:
    """Minimise the mean loss of every problem, each stopped early on the development examples.

    What becomes of a problem does not depend on which others are trained with it: the order of
    the minibatches comes from the seed alone, and everything else is the problem's own.

    Args:
        loss: of training examples.
        start: initial parameters.
        examples, dev_examples: how many there are.
        names: of the problems, for what is logged.

    Returns:
        With problems that did not converge flagged; they are also logged as a warning.

    Raises:
        ProbeError: no examples to train or to stop on.
    """
    if not examples or not dev_examples:
        split = "development" if examples else "training"
        raise ProbeError(
            f"the {split} split has no labelled examples; probes are trained on one and stopped "
            "early on the other. Give examples of both, from different documents."
        )
    turns = torch.arange(len(names)).split(AT_ONCE)
    ends, kept = [], []
    for turn in turns:
        live = {name: tensor[turn] for name, tensor in start.items()}
        ends.append(_Ends(len(turn), schedule))
        kept.append(
            _train(
                *(lambda p, a, b, t=turn: loss(p, t[a], b), examples),
                *(lambda p, a, b, t=turn: dev_loss(p, t[a], b), dev_examples),
                *(live, ends[-1], schedule, torch.Generator().manual_seed(seed)),
            )
        )
    found = Trained(
        parameters={name: torch.cat([part[name] for part in kept]) for name in start},
        loss=torch.cat([end.loss for end in ends]),
        best=torch.cat([end.best for end in ends]),
        epochs=torch.cat([end.epochs for end in ends]),
        converged=torch.cat([end.converged for end in ends]),
        reason=tuple(reason for end in ends for reason in end.reason),
    )
    if not bool(found.converged.all()):
        lost = [
            f"{name} ({reason})"
            for name, reason, ok in zip(names, found.reason, found.converged, strict=True)
            if not ok
        ]
        log.warning(
            "%d of %d probes did not converge: %s%s. Their scores are a lower bound: give "
            "Schedule(epochs=) more, or another learning_rate.",
            *(len(lost), len(names), ", ".join(lost[:5]), ", ..." if len(lost) > 5 else ""),
        )
    return found


def _train(
    loss: Loss,
    examples: int,
    dev_loss: Loss,
    dev_examples: int,
    live: dict[str, Tensor],
    ends: "_Ends",
    schedule: Schedule,
    order: torch.Generator,
) -> Parameters:
    """One stack: the best parameters of each, and in `ends` how it went."""
    kept = {name: tensor.clone() for name, tensor in live.items()}
    adam = StackedAdam.of(live, schedule.learning_rate, schedule.weight_decay)
    active = torch.arange(len(ends.reason))
    with tqdm(total=schedule.epochs, desc="train", unit="epoch", delay=2, disable=None) as bar:
        for epoch in range(1, schedule.epochs + 1):
            for batch in torch.randperm(examples, generator=order).split(schedule.batch):
                adam.step(lambda p, a=active, b=batch: loss(p, a, b).mean(1).sum())
            reached = torch.zeros(len(active), dtype=torch.float64)
            with torch.no_grad():
                for batch in torch.arange(dev_examples).split(schedule.batch):
                    reached += dev_loss(adam.live, active, batch).double().sum(1).cpu()
            better, ended = ends.judge(active, reached / dev_examples, epoch)
            for name, tensor in adam.live.items():
                kept[name][active[better]] = tensor.detach()[better]
            adam.halve(~better)
            active = active[~ended]
            bar.update()
            bar.set_postfix(probes=len(active))
            if not len(active):
                break
            if bool(ended.any()):
                adam = adam.without(ended)
    return kept


class _Ends:
    """How each problem of a stack is going; `judge` is the rule of early stopping."""

    def __init__(self, problems: int, schedule: Schedule) -> None:
        self.schedule = schedule
        self.loss = torch.full((problems,), torch.inf, dtype=torch.float64)
        self.best, self.epochs, self.fruitless = torch.zeros(3, problems, dtype=torch.long)
        self.converged = torch.zeros(problems, dtype=torch.bool)
        self.reason = [f"{schedule.epochs} epochs were not enough"] * problems

    def judge(
        self, active: Int[Tensor, " active"], loss: Float[Tensor, " active"], epoch: int
    ) -> tuple[Bool[Tensor, " active"], Bool[Tensor, " active"]]:
        """Which problems improved in this epoch, and which have ended."""
        better = loss < self.loss[active] - self.schedule.improvement
        self.loss[active[better]], self.best[active[better]] = loss[better], epoch
        self.fruitless[active] = torch.where(better, 0, self.fruitless[active] + 1)
        self.epochs[active] = epoch
        lost = ~loss.isfinite()
        stalled = ~lost & (self.fruitless[active] >= self.schedule.patience)
        self.converged[active[stalled]] = True
        for i in active[stalled].tolist():
            self.reason[i] = f"no better for {self.schedule.patience} epochs"
        for i in active[lost].tolist():
            self.reason[i] = f"the loss was not finite in epoch {epoch}"
        return better, lost | stalled
