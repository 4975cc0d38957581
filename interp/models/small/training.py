"""Gradient steps on sequences with answers, each a function of the seed and the step's number.

TransformerLens has a loop (`transformer_lens.tools.training.train`). It cannot do this job: its
loss is that of every next token, where recall is scored at the queries alone; it seeds torch
globally; and it writes pickles at equal intervals, evaluates nothing and cannot go on where it was
stopped. Whatever gives `.logits` is trained here, a transformer or an LSTM.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.optim import AdamW

from interp.core.door.door import door
from interp.core.door.taken import AtLeast0, Count, Index, Positive
from interp.core.prompts.sequences import UNSCORED, Sequences

ROWS_AT_ONCE = 256
"""Rows of one forward when nothing is learned."""


@door
@dataclass(frozen=True)
class Recipe:
    """How a model is trained: AdamW (Loshchilov & Hutter 2019), warmed up, then decaying.

    Attributes:
        batch: rows of a step, drawn anew with replacement.
        learning_rate: after `warmup` steps of linear growth; it then falls as a half cosine to a
            tenth at the last step.
        weight_decay: of matrices; biases, norms and smears are not decayed.
        warmup: steps, 0 for none.
        clip: the gradient's greatest norm.
    """

    batch: Count = 64
    learning_rate: Positive = 3e-3
    weight_decay: AtLeast0 = 0.01
    warmup: Index = 50
    clip: Positive = 1.0

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, steps - self.warmup)
        return self.learning_rate * (0.55 + 0.45 * math.cos(math.pi * done))

    def optimizer(self, module: nn.Module) -> AdamW:
        """With the parameters in the order of their names."""
        named = sorted(module.named_parameters())
        return AdamW(
            [
                {"params": [p for _, p in named if p.ndim > 1], "weight_decay": self.weight_decay},
                {"params": [p for _, p in named if p.ndim < 2], "weight_decay": 0.0},
            ],
            lr=self.learning_rate,
        )


@door
def log_steps(steps: Count, n: Count) -> list[int]:
    """0, about n steps at equal ratios, and the last."""
    return sorted({0, *np.geomspace(1, steps, n).round().astype(int).tolist(), steps})


def update(
    module: nn.Module,
    optimizer: AdamW,
    sequences: Sequences,
    *,
    recipe: Recipe,
    step: int,
    steps: int,
    seed: int,
) -> float:
    """One step; returns the batch's loss before it. The rows depend on seed and step alone."""
    rng = np.random.default_rng([*b"batch", seed, step])
    rows = torch.from_numpy(rng.integers(len(sequences), size=recipe.batch))
    first = next(module.parameters())
    tokens, labels = (x[rows].to(first.device) for x in (sequences.tokens, sequences.labels))
    logits = module(tokens).logits
    return descend(module, optimizer, logits, labels, recipe.rate(step, steps), recipe.clip)


def descend(
    module: nn.Module,
    optimizer: AdamW,
    logits: Float[Tensor, "batch pos d_vocab"],
    labels: Int[Tensor, "batch pos"],
    rate: float,
    clip: float,
) -> float:
    """Down the gradient of the cross-entropy where a label is; returns the loss before."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=UNSCORED)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_([p for p in module.parameters() if p.requires_grad], clip)
    optimizer.step()
    return loss.item()


@dataclass(frozen=True, eq=False)
class Said:
    """What a model said at each position.

    Attributes:
        loss: cross-entropy in nats, NaN where nothing is scored.
        correct: the label has the highest logit; False where nothing is scored.
        scored: where a label is.
    """

    loss: Float[Tensor, "batch pos"]
    correct: Bool[Tensor, "batch pos"]
    scored: Bool[Tensor, "batch pos"]

    @property
    def mean_loss(self) -> float:
        """Over scored positions."""
        return self.loss[self.scored].double().mean().item()

    @property
    def accuracy(self) -> float:
        """Over scored positions."""
        return self.correct[self.scored].double().mean().item()


@door
@torch.no_grad()
def answers(module: nn.Module, sequences: Sequences) -> Said:
    """What a model that gives `.logits` says to sequences.

    Args:
        module: `model.bridge.original_model` is one.
        sequences: run some rows at a time.
    """
    device = next(module.parameters()).device
    losses, hits = [], []
    for tokens, labels in _parts(sequences):
        logits = module(tokens.to(device)).logits.float().cpu()
        safe = labels.clamp(min=0)  # what is not scored is taken out below
        losses.append(F.cross_entropy(logits.transpose(1, 2), safe, reduction="none"))
        hits.append(logits.argmax(-1) == labels)
    scored = sequences.scored
    loss = torch.cat(losses).masked_fill(~scored, math.nan)
    return Said(loss, torch.cat(hits) & scored, scored)


def _parts(sequences: Sequences) -> Iterable[tuple[Tensor, Tensor]]:
    return zip(
        sequences.tokens.split(ROWS_AT_ONCE), sequences.labels.split(ROWS_AT_ONCE), strict=True
    )
