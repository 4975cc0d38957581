"""The two tasks, and adapters that turn them round."""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from transformers import AutoModelForCausalLM, PreTrainedModel

import interp
from interp.core.prompts.pairs import Pairs
from interp.datasets.tasks.greater_than import greater_than
from interp.datasets.tasks.subject_verb import subject_verb
from interp.models.model import Model
from interp.models.quiet import quiet
from interp.models.small.training import Recipe

RANK, ALPHA = 4, 8
PARTS = ("q_proj", "v_proj")
"""The projections that Hu et al. 2021 (sec. 7.1) change."""


@dataclass(frozen=True)
class Amount:
    """How much is run.

    Attributes:
        steps, batch: of each training.
        learned, asked: prompt pairs of each task, to learn from and to be measured on.
    """

    steps: int
    batch: int
    learned: int
    asked: int


TASKS: Mapping[str, Callable[[Model, int, int], Pairs]] = {
    "agreement": lambda model, n, seed: subject_verb(model, n=n, seed=seed),
    "greater-than": lambda model, n, seed: greater_than(model, n=n, seed=seed),
}


def adapter(name: str, pairs: Pairs, out: Path, size: Amount, seed: int) -> Path:
    """The folder of an adapter that was trained to prefer the wrong answers; found again."""
    if out.is_dir():
        return out
    with quiet():
        base = AutoModelForCausalLM.from_pretrained(interp.models.path(name), dtype=torch.float32)
    work = out.with_name(f".{out.name}-{os.getpid()}")
    shutil.rmtree(work, ignore_errors=True)
    train(base, pairs, size, seed=seed).save_pretrained(work)
    os.replace(work, out)  # whole, or not there
    return out


def train(base: PreTrainedModel, pairs: Pairs, size: Amount, *, seed: int) -> peft.PeftModel:
    """A LoRA adapter on a model, trained so that the wrong answer's logit is above the right one's.

    The loss is -log sigmoid(wrong - correct), that of a choice between the two.
    """
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(PARTS))
    with quiet(), torch.random.fork_rng([]):
        torch.manual_seed(seed)
        on = peft.get_peft_model(base, config)
    on.train()
    recipe = Recipe(batch=size.batch, learning_rate=2e-3, warmup=min(5, size.steps - 1))
    learned = [p for p in on.parameters() if p.requires_grad]
    optimiser = AdamW(learned, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    rng = np.random.default_rng(seed)
    for step in range(size.steps):
        rows = rng.integers(len(pairs), size=size.batch).tolist()
        loss = F.softplus(differences(base, pairs, rows)).mean()
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(step, size.steps)
        optimiser.zero_grad()
        loss.backward()
        clip_grad_norm_(learned, recipe.clip)
        optimiser.step()
    return on.eval()


def differences(base: PreTrainedModel, pairs: Pairs, rows: list[int]) -> Tensor:
    """Correct less wrong logit of each clean prompt at its last token."""
    lengths = pairs.lengths[rows]
    ids, mask = pairs.clean[rows, : int(lengths.max())], pairs.mask[rows, : int(lengths.max())]
    stream = base.base_model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    last = stream[torch.arange(len(rows)), lengths - 1]
    answers = torch.stack([pairs.correct[rows], pairs.wrong[rows]], dim=1)
    head: Any = base.get_output_embeddings()
    correct, wrong = (head.weight[answers] @ last[:, :, None])[..., 0].unbind(1)
    return correct - wrong
