"""A translator of the shape of "Attention is all you need" (Vaswani et al. 2017), trained here.

    <cache>/toys/translator-<hash of its config>/   a folder that interp.load and transformers read
        interp.json                                 the config, what it came to, a checksum
        curve.csv

It is Hugging Face's Marian with ReLU: sinusoids of place, norms after each sum, embeddings of both
languages and the unembedding in one table, scaled where they enter. Smaller than in the paper
(three layers of four heads), without dropout and label smoothing, since no sentence need be seen
twice; in the order of its features a sinusoid has all sines first.

Without positions the table of sinusoids is 0. An encoder then reads a bag of words; a decoder still
has its causal mask, which tells it how much it has written (Haviv et al. 2022).

By default, 1,000 held-out sentences and seconds of one core:

    sinusoids       1.00   81
    no positions    0.11   87
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
import transformers as hf
from jaxtyping import Int
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from interp.core.door.door import door
from interp.core.door.taken import Count, Seed, Told
from interp.core.errors import ModelError
from interp.core.files.atomic import require_writable
from interp.core.files.sealed import checksum, read_note, write_note
from interp.core.prompts.sequences import UNSCORED
from interp.models.finding.shipped import WEIGHTS_FILE, cache
from interp.models.load import load
from interp.models.model import Model
from interp.models.quiet import quiet
from interp.models.small.training import Recipe, descend
from interp.models.translator.grammar import Clause, clauses, translation, vocabulary
from interp.models.translator.tokens import END, PAD, rows_of, tokenizer

Positions = Literal["sinusoidal", "none"]
NOTE, CURVE = "interp.json", "curve.csv"
REMEDY = "Take the folder away to train it anew."
RECIPE = Recipe(batch=64, learning_rate=3e-3, warmup=100)
LONGEST = 32
"""Tokens of a row at most; sentences have up to 18."""


@dataclass(frozen=True)
class Size:
    """Of an encoder and of a decoder alike: TransformerLens wraps no others of Marian's."""

    n_layers: int = 3
    n_heads: int = 4
    d_model: int = 64
    d_mlp: int = 256


PLAIN = Size()


@door
@dataclass(frozen=True, eq=False)
class Translator:
    """A finished training.

    Attributes:
        folder: where the model lies, for `interp.load` and for transformers.
        accuracy: the share of held-out sentences that it translates without a mistake, each word
            the likeliest one after those before (greedily).
        curve: `step`, `loss` (of the batch before that step), `accuracy` (as above, on 200
            held-out sentences).
    """

    folder: Path
    accuracy: float
    curve: pd.DataFrame

    @property
    def model(self) -> Model:
        """The model, loaded anew on the CPU."""
        return load(self.folder, device="cpu")


@door
def translator(
    *,
    positions: Positions = "sinusoidal",
    layers: Count = 3,
    steps: Count = 1200,
    sentences: Count = 20_000,
    held_out: Count = 1000,
    seed: Seed = 0,
    folder: Annotated[Path | None, Told(require_writable)] = None,
) -> Translator:
    """An encoder-decoder that translates `interp.models.translator.grammar`, trained or found.

    The same call finds what it trained. No held-out sentence is in the training split.

    Args:
        positions: "none" takes the encoding of positions away, from the first step on.
        layers: of the encoder, and of the decoder.
        steps: of the optimizer, with 64 sentences each.
        sentences, held_out: how many to learn from, and to be measured on.
        seed: of weights, sentences and their order.
        folder: where trainings are kept, each in a folder of its own; the cache without it.

    Raises:
        ModelError: what is kept is not as it was written.
        ResultsError: the folder cannot be written.
    """
    size = Size(layers)
    config = {
        "positions": positions,
        "size": asdict(size),
        "steps": steps,
        "sentences": sentences,
        "held_out": held_out,
        "seed": seed,
        "recipe": asdict(RECIPE),
        "grammar": _grammar(),
    }
    name = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]
    home = (cache() / "toys" if folder is None else folder) / f"translator-{name}"
    if not home.is_dir():
        _train(config, home)
    return _read(home)


def _grammar() -> str:
    """A fingerprint of the languages, so that another grammar is another training."""
    shown = [(t.english, t.other) for t in map(translation, clauses(100, split="test", seed=0))]
    return hashlib.sha256(repr((vocabulary(), shown)).encode()).hexdigest()[:16]


def _read(home: Path) -> Translator:
    try:
        note = read_note(home / NOTE, remedy=REMEDY)
    except FileNotFoundError as error:
        raise ModelError(
            f"{home} has no {NOTE}, so it is no finished training. {REMEDY}"
        ) from error
    now = checksum((home / WEIGHTS_FILE).read_bytes())
    if note["weights"] != now:
        raise ModelError(
            f"{home / WEIGHTS_FILE} is not as it was written: its checksum is {now} and was "
            f"{note['weights']}. {REMEDY}"
        )
    return Translator(home, note["accuracy"], pd.read_csv(home / CURVE))


def _train(config: Mapping[str, Any], home: Path) -> None:
    seed, steps = config["seed"], config["steps"]
    learned = clauses(config["sentences"], split="train", seed=seed)
    asked = clauses(config["held_out"], split="test", seed=seed)
    source, target = rows_of([*map(translation, learned)])
    module = untrained_translator(config["positions"], Size(**config["size"]), seed=seed)
    optimizer = RECIPE.optimizer(module)
    rows: list[dict[str, float]] = []
    with tqdm(total=steps, desc="translator", unit="step", delay=2, disable=None) as bar:
        for step in range(steps):
            rng = np.random.default_rng([*b"batch", seed, step])
            drawn = torch.from_numpy(rng.integers(len(learned), size=RECIPE.batch))
            said, labels = _cut(source[drawn], PAD), _cut(target[drawn], UNSCORED)
            logits = module.train()(input_ids=said, attention_mask=said != PAD, labels=labels)
            rate = RECIPE.rate(step, steps)
            loss = descend(module, optimizer, logits.logits, labels, rate, RECIPE.clip)
            if (step + 1) % max(1, steps // 6) == 0:
                right = exact(module, asked[:200])
                rows.append({"step": step + 1, "loss": loss, "accuracy": float(right.mean())})
            bar.update()
    accuracy = float(exact(module, asked).mean())
    _keep(module, home, config, accuracy, pd.DataFrame(rows))


def _cut(rows: Int[Tensor, "batch pos"], blank: int) -> Int[Tensor, "batch short"]:
    """Without the columns that are blank in every row."""
    return rows[:, : int((rows != blank).sum(1).max())].contiguous()


def untrained_translator(
    positions: Positions, size: Size = PLAIN, *, seed: int
) -> hf.MarianMTModel:
    """The module with its first weights."""
    heads = {f"{side}_attention_heads": size.n_heads for side in ("encoder", "decoder")}
    wide = {f"{side}_ffn_dim": size.d_mlp for side in ("encoder", "decoder")}
    config = hf.MarianConfig(
        encoder_layers=size.n_layers,
        decoder_layers=size.n_layers,
        **heads,
        **wide,
        d_model=size.d_model,
        vocab_size=len(vocabulary()),
        max_position_embeddings=LONGEST,
        activation_function="relu",
        scale_embedding=True,
        dropout=0.0,
        attention_dropout=0.0,
        pad_token_id=PAD,
        eos_token_id=END,
        bos_token_id=None,
        forced_eos_token_id=None,
        decoder_start_token_id=PAD,
    )
    with quiet(), torch.random.fork_rng([]):
        torch.manual_seed(seed)
        module = hf.MarianMTModel(config)
    if positions == "none":
        for name in PLACES:
            module.get_parameter(name).data.zero_()
    return module


PLACES = tuple(f"model.{side}.embed_positions.weight" for side in ("encoder", "decoder"))
"""Parameters that are not learned."""


@torch.no_grad()
def translated(
    module: hf.PreTrainedModel, found: Sequence[Clause], **how: Any
) -> list[tuple[int, ...]]:
    """What transformers' `generate` writes of each clause, without the end; by default greedily."""
    source, _ = rows_of([*map(translation, found)])
    module = module.eval()
    said: list[tuple[int, ...]] = []
    with quiet():
        for rows in source.split(250):
            out = module.generate(
                input_ids=rows,
                attention_mask=(rows != PAD).long(),
                **{"num_beams": 1, "do_sample": False, "max_new_tokens": LONGEST - 2} | how,
            )
            said += [_until_end(row) for row in out[:, 1:].tolist()]
    return said


def _until_end(row: Sequence[int]) -> tuple[int, ...]:
    return tuple(row[: row.index(END)] if END in row else row)


def exact(module: hf.PreTrainedModel, found: Sequence[Clause]) -> np.ndarray:
    """True of each clause that is translated without a mistake."""
    ids = {word: i for i, word in enumerate(vocabulary())}
    right = [tuple(ids[word] for word in translation(clause).target) for clause in found]
    return np.array([a == b for a, b in zip(translated(module, found), right, strict=True)])


def _keep(
    module: hf.MarianMTModel,
    home: Path,
    config: Mapping[str, Any],
    accuracy: float,
    curve: pd.DataFrame,
) -> None:
    """The folder, whole or not at all."""
    work = home.with_name(f".{home.name}-{os.getpid()}")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    with quiet():
        module.eval().save_pretrained(work)
        tokenizer().save_pretrained(work)
    # transformers leaves out the table of positions, and makes sinusoids where it is missing
    places = {name: module.get_parameter(name).detach().clone() for name in PLACES}
    state = {**load_file(work / WEIGHTS_FILE), **places}
    save_file(state, work / WEIGHTS_FILE, metadata={"format": "pt"})
    curve.to_csv(work / CURVE, index=False)
    weights = checksum((work / WEIGHTS_FILE).read_bytes())
    write_note(work / NOTE, {"config": dict(config), "accuracy": accuracy, "weights": weights})
    try:
        os.replace(work, home)
    except OSError:
        if not home.is_dir():
            raise
        shutil.rmtree(work, ignore_errors=True)  # another process was first
