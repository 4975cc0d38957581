"""Handwritten digits, and a compact vision transformer that is trained on them here.

The images are scikit-learn's: 1,797 of 8 x 8 pixels, of which the first 1,197 are learned and the
last 600, in the order of the file, are held out (Alpaydin & Kaynak 1998; CC BY 4.0). A ViT of
Hugging Face's reads them as 4 x 4 patches of 2 x 2 pixels.

With the default `Recipe`, three layers of four heads, on one core of a processor: about 45 seconds,
and 96 % of the held-out images right.
"""

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import ViTConfig, ViTForImageClassification

from interp.core.door.door import door
from interp.core.door.taken import Count, Seed, Told
from interp.core.errors import ModelError
from interp.core.files.atomic import require_writable
from interp.models.bridge.vision import PROCESSOR
from interp.models.finding.place import Dtype
from interp.models.load import load
from interp.models.model import Model
from interp.models.quiet import quiet
from interp.models.small.training import Recipe

LEARNED = 1_197
"""Images that are learned from; the others are held out."""
SIDE = 8
LARGEST = 16.0
"""What a pixel of theirs can be."""
MEAN, DEVIATION = 0.3, 0.38
"""Of the pixels, once they go from 0 to 1."""
PLAIN = Recipe(batch=96, weight_decay=0.05)


class Scans(NamedTuple):
    """Images of digits.

    Attributes:
        images: pixels from 0 (paper) to 1 (ink).
        labels: which digit each is.
    """

    images: Float[Tensor, "image 8 8"]
    labels: Int[Tensor, " image"]


@door
@dataclass(frozen=True)
class Compact:
    """The shape of a compact vision transformer of digits; `patch` is a side of one, in pixels."""

    n_layers: Count = 3
    n_heads: Count = 4
    d_model: Count = 48
    d_mlp: Count = 96
    patch: Count = 2

    def __post_init__(self) -> None:
        if self.d_model % self.n_heads or SIDE % self.patch:
            raise ModelError(
                f"{self} makes no ViT of images of {SIDE} x {SIDE}: d_model must be a multiple of "
                "n_heads, and patch 1, 2, 4 or 8."
            )


SHAPE = Compact()


@door
def scans(*, held_out: bool) -> Scans:
    """The images that a model learned from, or those that were held out.

    Raises:
        ModelError: scikit-learn, in which they lie, is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ModelError(
            "the images of digits lie in scikit-learn, which is not installed: pip install "
            "'interp[digits]'."
        ) from error
    found: Any = load_digits()
    rows = slice(LEARNED, None) if held_out else slice(LEARNED)
    images = torch.from_numpy(found.images[rows] / LARGEST).float()
    return Scans(images, torch.from_numpy(found.target[rows]).long())


@door
def digits(
    folder: Annotated[Path, Told(require_writable)],
    *,
    shape: Compact = SHAPE,
    steps: Count = 2_000,
    seed: Seed = 0,
    recipe: Recipe = PLAIN,
    dtype: Dtype = torch.float32,
) -> Model:
    """A vision transformer that tells handwritten digits, trained, or found again.

    Each step draws images with replacement and moves each by up to a pixel. It lies in a folder of
    its own inside of `folder`, named by the hash of all that it depends on: the same call finds it.

    Args:
        folder: where such models lie.
        steps, recipe: of the training.
        seed: of the first weights and of what is drawn.
        dtype: of the model that is returned; it is trained in float32.

    Raises:
        ModelError: scikit-learn is not installed.
        ResultsError: the folder cannot be written.
    """
    config = {"shape": asdict(shape), "steps": steps, "seed": seed, "recipe": asdict(recipe)}
    key = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]
    home = folder / f"digits-{key}"
    if not home.is_dir():
        work = folder / f".{home.name}-{os.getpid()}"
        shutil.rmtree(work, ignore_errors=True)
        with quiet():
            _trained(shape, steps, seed, recipe).save_pretrained(work)
        _write_processor(work)
        os.replace(work, home)  # whole, or not there
    return load(home, device="cpu", dtype=dtype)


@torch.inference_mode(mode=False)
@torch.enable_grad()
def _trained(shape: Compact, steps: int, seed: int, recipe: Recipe) -> nn.Module:
    learned = scans(held_out=False)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = ViTForImageClassification(_config(shape)).train()
    optimiser = recipe.optimizer(model)
    generator = torch.Generator().manual_seed(seed)
    for step in tqdm(range(steps), desc="digits", unit="step", delay=2, disable=None):
        rows = torch.randint(len(learned.labels), (recipe.batch,), generator=generator)
        images = moved(learned.images.index_select(0, rows), generator)
        logits = model(pixel_values=((images - MEAN) / DEVIATION)[:, None]).logits
        loss = F.cross_entropy(logits, learned.labels.index_select(0, rows))
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(step, steps)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimiser.step()
    return model.eval()


def _config(shape: Compact) -> ViTConfig:
    names = {i: str(i) for i in range(10)}
    return ViTConfig(
        hidden_size=shape.d_model,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        intermediate_size=shape.d_mlp,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.1,  # of so narrow a model; at the usual 0.02 it learns far more slowly
        image_size=SIDE,
        patch_size=shape.patch,
        num_channels=1,
        id2label=names,
        label2id={name: i for i, name in names.items()},
    )


def _write_processor(folder: Path) -> None:
    said = {"do_resize": False, "do_rescale": True, "rescale_factor": 1 / 255}
    said |= {"do_normalize": True, "image_mean": [MEAN], "image_std": [DEVIATION]}
    said |= {"image_processor_type": "ViTImageProcessor"}
    (folder / PROCESSOR).write_text(json.dumps(said, indent=2))


def moved(
    images: Float[Tensor, "image row column"], generator: torch.Generator
) -> Float[Tensor, "image row column"]:
    """Each image moved by up to a pixel, up or down and left or right, with paper around it."""
    count, size, _ = images.shape
    down, right = torch.randint(0, 3, (2, count, 1), generator=generator)
    framed, along = F.pad(images, (1, 1, 1, 1)), torch.arange(size)
    rows = (along + down)[:, :, None].expand(-1, -1, size + 2)
    columns = (along + right)[:, None, :].expand(-1, size, -1)
    return framed.gather(1, rows).gather(2, columns)
