"""Small models trained here, from their first step on: folders of checkpoints.

    <folder>/config.json                        what was asked for
             curve.csv                          loss and accuracy on held-out rows
             step-000000/ step-000001/ ...      checkpoints that interp.load reads
             progress.safetensors               where to go on, until the training is finished

The same call on the same folder goes on where it was stopped, or returns what is finished; a
folder of another config is refused. Weights and the order of rows have seeds of their own, so the
same call gives the same bytes, stopped in between or not.

`INDUCTION` learns what its name says: with `repeated(20_000, vocabulary=48, pos=48)` and 500 steps
of the default recipe, accuracy on repeated tokens of held-out rows (and seconds of one core):

    two layers, learned positions        1.00   16
    two layers, rotary / sinusoidal      1.00 / 0.99   20 / 17
    two layers, no positions             0.42   18, and 0.53 after 1,000 steps
    one layer                            0.32   10, and 0.35 after 1,000 steps
    one layer, smeared keys              1.00   11

as Olsson et al. 2022 ("Argument 2") found: it takes two layers, or keys that hold the token before.

`translator` trains an encoder-decoder, or finds it in the cache.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
from torch import nn
from torch.optim import AdamW
from tqdm.auto import tqdm

from interp.core.door.door import door
from interp.core.door.taken import Count, Index, NotEmpty, Seed, Told
from interp.core.errors import ModelError
from interp.core.files.atomic import require_writable, whole
from interp.core.files.sealed import (
    BLANK,
    is_sealed,
    open_tensors,
    read_note,
    seal,
    unsealed,
    write_note,
    write_tensors,
)
from interp.core.prompts.sequences import Sequences
from interp.models.digits import digits as digits
from interp.models.finding import stored
from interp.models.finding.place import Dtype
from interp.models.load import load
from interp.models.model import Model
from interp.models.small import native, recurrent
from interp.models.small.native import Native, Shape
from interp.models.small.recurrent import LSTM, RecurrentShape
from interp.models.small.training import Recipe, answers, log_steps, update
from interp.models.translator.training import Translator as Translator
from interp.models.translator.training import translator as translator

REMEDY = "Choose another folder, or take this one away to train anew."
CONFIG, CURVE, PROGRESS = "config.json", "curve.csv", "progress.safetensors"
PLAIN = Recipe()
Row = dict[str, float | int]
COLUMNS = ["step", "train_loss", "loss", "accuracy"]

INDUCTION = Shape(
    n_layers=2, n_heads=4, d_model=64, d_head=16, d_vocab=48, n_ctx=48, d_mlp=0, positions="learned"
)
"""Two layers of attention only, for `repeated(..., vocabulary=48, pos=48)`."""


@door
@dataclass(frozen=True, eq=False)
class Toy:
    """A finished training.

    Attributes:
        folder: where it lies.
        steps: at which there are checkpoints, 0 (untrained) first.
        curve: `step`, `train_loss` (of the batch before that step; NaN at 0), `loss` and `accuracy`
            on the held-out rows, over scored positions.
    """

    folder: Path
    steps: Annotated[tuple[Index, ...], NotEmpty()]
    curve: pd.DataFrame

    @property
    def model(self) -> Model:
        """The model at the last step, loaded anew."""
        return self.at(self.steps[-1])

    @door
    def at(self, step: Index, *, dtype: Dtype = torch.float32) -> Model:
        """The model after a number of steps, loaded anew.

        Raises:
            ModelError: no checkpoint there; names those that there are.
        """
        if step not in self.steps:
            raise ModelError(
                f"{self.folder} has no checkpoint at step {step}; there are those at "
                f"{', '.join(map(str, self.steps))}."
            )
        return load(_checkpoint(self.folder, step), device="cpu", dtype=dtype)


@door
def train(
    shape: Shape | RecurrentShape,
    sequences: Sequences,
    *,
    held_out: Sequences,
    steps: Count,
    folder: Annotated[Path, Told(require_writable)],
    seed: Seed = 0,
    data_seed: Seed = 0,
    recipe: Recipe = PLAIN,
    checkpoints: Count = 20,
) -> Toy:
    """Train a native model or an LSTM, or go on where the same training was stopped.

    Args:
        shape: of the model, whose kind it tells.
        sequences, held_out: what is learned from, and what the curve is measured on.
        steps: of the optimizer.
        folder: of this training alone.
        seed: of the first weights.
        data_seed: of the order in which rows are drawn.
        recipe: how it is trained.
        checkpoints: at steps of equal ratio, beside 0 and the last. The curve has twice as many
            points and 50 equal steps.

    Raises:
        ModelError: the folder belongs to another config, rows that the shape cannot read, or a
            loss that is no number or ten times that of guessing (the message says at which step;
            earlier checkpoints are kept).
        ResultsError: the folder cannot be written.
    """
    _accept(shape, sequences, held_out)
    due = log_steps(steps, checkpoints)
    config = {
        "shape": {"kind": type(shape).__name__, **asdict(shape)},
        "recipe": asdict(recipe),
        "steps": steps,
        "seed": seed,
        "data_seed": data_seed,
        "checkpoints": due,
        "sequences": sequences.fingerprint,
        "held_out": held_out.fingerprint,
    }
    _claim(folder, config)
    module, file = _untrained(shape, seed)
    found = _finished(folder, due, file)
    if found is not None:
        return found
    optimizer = recipe.optimizer(module)
    start, curve = _resume(folder, module, optimizer)
    measured = {*due, *log_steps(steps, 2 * checkpoints), *range(0, steps, max(1, steps // 50))}
    loss = math.nan if not curve else float(curve[-1]["train_loss"])
    with tqdm(total=steps, initial=start, desc="train", unit="step", delay=2, disable=None) as bar:
        for step in range(start, steps + 1):
            if step in measured and (not curve or step > curve[-1]["step"]):
                said = answers(module.eval(), held_out)
                _require_sane(folder, step, said.mean_loss, shape, recipe)
                row = (step, loss, said.mean_loss, said.accuracy)
                curve.append(dict(zip(COLUMNS, row, strict=True)))
                bar.set_postfix(loss=f"{said.mean_loss:.3f}", accuracy=f"{said.accuracy:.3f}")
            if step in due and (step > start or step == 0):
                state = dict(module.named_parameters())
                stored.write(_checkpoint(folder, step), file, shape, state)
                _keep(folder, module, optimizer, step, curve)
            if step == steps:
                break
            loss = update(
                module.train(),
                optimizer,
                sequences,
                recipe=recipe,
                step=step,
                steps=steps,
                seed=data_seed,
            )
            _require_sane(folder, step, loss, shape, recipe)
            bar.update()
    with whole(folder / CURVE, what="curve ") as path:
        told = pd.DataFrame(curve, columns=COLUMNS).to_csv(index=False)
        path.write_text(f"# {BLANK.decode()}\n{told}")
        seal(path)
    (folder / PROGRESS).unlink(missing_ok=True)
    return Toy(folder, tuple(due), _curve(folder))


def _curve(folder: Path) -> pd.DataFrame:
    path = folder / CURVE
    data = path.read_bytes()
    if not is_sealed(data, path, REMEDY):
        raise unsealed(path, REMEDY)
    return pd.read_csv(BytesIO(data), comment="#")


def _untrained(shape: Shape | RecurrentShape, seed: int) -> tuple[nn.Module, str]:
    """A model with its first weights, and the file that its folder is known by."""
    if isinstance(shape, RecurrentShape):
        return LSTM(shape, seed=seed), recurrent.SHAPE_FILE
    return Native(shape, seed=seed), native.SHAPE_FILE


def _checkpoint(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}"


def _accept(shape: Shape | RecurrentShape, sequences: Sequences, held_out: Sequences) -> None:
    for name, given in (("sequences", sequences), ("held_out", held_out)):
        if given.tokens.shape[1] > shape.n_ctx:
            raise ModelError(
                f"the rows of {name} have {given.tokens.shape[1]} tokens and the shape reads "
                f"{shape.n_ctx}. Give a shape with a larger n_ctx."
            )
        low = int(min(given.tokens.min(), given.labels[given.scored].min()))
        high = int(max(given.tokens.max(), given.labels.max()))
        if low < 0 or high >= shape.d_vocab:
            raise ModelError(
                f"{name} has ids from {low} to {high}, and the shape knows 0 to "
                f"{shape.d_vocab - 1}. Give a shape with a larger d_vocab."
            )


def _claim(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the config, or refuse a folder that belongs to another."""
    path = folder / CONFIG
    if not path.exists():
        write_note(path, config, what="config ", first=True)
    there = read_note(path, remedy=REMEDY)
    if differs := sorted(k for k in {*there, *config} if there.get(k) != config.get(k)):
        key = differs[0]
        raise ModelError(
            f"{folder} belongs to another training: {', '.join(differs)} differ ({key} was "
            f"{there.get(key)} and is {config.get(key)}). Choose another folder, or take this one "
            "away."
        )


def _finished(folder: Path, due: list[int], file: str) -> Toy | None:
    files = [_checkpoint(folder, step) / file for step in due]
    if not all(path.exists() for path in (folder / CURVE, *files)):
        return None
    return Toy(folder, tuple(due), _curve(folder))


def _keep(folder: Path, module: nn.Module, optimizer: AdamW, step: int, curve: list[Row]) -> None:
    """What going on needs: weights, both moments, and the curve so far."""
    kept = {name: p.detach() for name, p in module.named_parameters()}
    for name, parameter in module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            kept[f"{key} {name}"] = value
    write_tensors(folder / PROGRESS, kept, {"step": step, "curve": curve}, what="progress ")


def _resume(folder: Path, module: nn.Module, optimizer: AdamW) -> tuple[int, list[Row]]:
    """Put module and optimizer where the training was stopped; the step, and the curve so far."""
    try:
        with open_tensors(folder / PROGRESS, remedy=REMEDY) as held:
            kept, note = {name: held.read(name).clone() for name in held.names}, held.note
    except FileNotFoundError:
        return 0, []
    for name, parameter in module.named_parameters():
        parameter.data.copy_(kept[name])
        state = {
            key.removesuffix(f" {name}"): v for key, v in kept.items() if key.endswith(f" {name}")
        }
        if state:
            optimizer.state[parameter] = state
    return note["step"], note["curve"]


def _require_sane(
    folder: Path, step: int, loss: float, shape: Shape | RecurrentShape, recipe: Recipe
) -> None:
    """Refuse to go on with a loss that nothing will come of."""
    guessing = math.log(shape.d_vocab)
    if loss <= 10 * guessing:  # false of NaN
        return
    kept = sorted(path.name for path in folder.glob("step-*"))
    raise ModelError(
        f"training diverged at step {step}: the loss is {loss:.3g}, and guessing has "
        f"{guessing:.3g}. The last good checkpoint is {kept[-1] if kept else 'none'} in {folder}. "
        f"Likely learning_rate={recipe.learning_rate} is too high; train into another folder with "
        "a smaller one, or a longer warmup."
    )
