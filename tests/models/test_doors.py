"""The doors of the models: wrong arguments are refused in words, and nothing is read or run."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from doors import complaints
from torch import nn

import interp
import interp.models
from interp import Model
from interp.core.door.door import ArgumentError
from interp.core.errors import ModelError, PairsError, Unsupported
from interp.core.prompts.sequences import Sequences
from interp.models import compiled, toy
from interp.models.bridge.facts import facts_of
from interp.models.digits import Compact, scans
from interp.models.small import native, recurrent
from interp.models.small.native import Shape
from interp.models.small.recurrent import RecurrentShape
from interp.models.small.training import Recipe, answers, log_steps
from interp.models.translator import clauses
from interp.models.wrap import wrap

SHAPE = Shape(1, 2, 8, 4, 12, 8, 0)
RECURRENT = RecurrentShape(1, 4, 12, 8)


def of(thing: object) -> dict[str, Any]:
    """What a dataclass is made of."""
    return {field.name: getattr(thing, field.name) for field in fields(thing)}


def rows() -> Sequences:
    tokens = torch.randint(12, (4, 6), generator=torch.Generator().manual_seed(0))
    return Sequences(tokens, tokens.roll(-1, 1), torch.zeros_like(tokens))


def cases(model: Model, folder: Path) -> Iterator[tuple[Callable[..., Any], Mapping[str, Any]]]:
    """A right call of each function, classmethod, method and constructor."""
    where = {"device": "cpu", "dtype": "float32"}
    kept = native.save(native.build(SHAPE, name="kept"), folder / "kept")
    beside = {"tokenizer": None, "adapter": None, "revision": None, "device_map": None}
    yield interp.load, {"name": kept, **where, **beside}
    given = {"name": tiny.build("gpt2"), "tokenizer": model.tokenizer}
    yield interp.load, {**beside, **given, "device": "auto", "dtype": None}
    yield interp.models.path, {"name": kept, "revision": None}
    yield interp.shape_of, {"name": model.name, **where, "revision": None}
    yield interp.models.untrained, {"model": model, "seed": 1}
    yield Model, of(model)
    yield model.encode, {"text": "The Mary", "bos": "none", "target": False}
    model.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    yield model.encode_chat, {"messages": [{"role": "user", "content": "The Mary"}]}
    yield model.top, {"text": "The Mary", "k": 3, "bos": "none"}
    yield model.encode_with_offsets, {"text": "The Mary", "bos": "none"}
    yield model.token_id, {"text": " Mary"}
    yield model.show, {"ids": [1, 2]}
    yield model.identity, {"anew": True}
    yield model.require, {"identity": "heads"}
    for module, shape, build in (
        (native, SHAPE, native.build),
        (recurrent, RECURRENT, recurrent.build_recurrent),
    ):
        made = build(shape, name="mine")
        how = {"name": "mine", "seed": 1, "tokenizer": None, **where}
        yield type(shape), of(shape)
        yield build, {"shape": shape, "state": module.state_of(made), **how}
        yield module.shape_of, {"model": made}
        yield module.state_of, {"model": made}
        yield module.save, {"model": made, "folder": folder / "saved"}
    yield recurrent.width_for, {"parameters": 1000, "n_layers": 1, "d_vocab": 12}
    yield Recipe, of(Recipe())
    yield log_steps, {"steps": 8, "n": 2}
    yield answers, {"module": model.bridge.original_model, "sequences": rows()}
    training = {"sequences": rows(), "held_out": rows(), "steps": 1, "checkpoints": 1}
    seeds = {"seed": 1, "data_seed": 1, "recipe": Recipe(batch=2)}
    yield toy.train, {"shape": SHAPE, "folder": folder / "toy", **training, **seeds}
    found = toy.train(SHAPE, **training, **seeds, folder=folder / "toy")
    yield toy.Toy, of(found)
    yield found.at, {"step": 1, "dtype": "float32"}
    few = {"shape": Compact(1, 2, 8, 4, 8), "steps": 1, "seed": 1, "recipe": Recipe(batch=2)}
    yield Compact, of(few["shape"])
    yield scans, {"held_out": True}
    yield toy.digits, {"folder": folder / "digits", **few, "dtype": "float32"}
    amount = {"layers": 1, "steps": 1, "sentences": 8, "held_out": 2, "seed": 1}
    amount |= {"positions": "none", "folder": folder / "toys"}
    yield toy.translator, amount
    yield toy.Translator, of(toy.translator(**amount))
    yield clauses, {"n": 2, "split": "test", "seed": 1}
    yield compiled.build, {"name": "previous", **where}
    for told in (compiled.truth, compiled.roles, compiled.construction):
        yield told, {"name": "previous"}
    yield compiled.inputs, {"name": "previous", "n": 2, "seed": 1}
    corruption = next(iter(compiled.construction("previous").corruptions))
    yield compiled.pairs, {"name": "previous", "corruption": corruption, "n": 2, "seed": 1}


@pytest.mark.plain
def test_a_wrong_argument_is_refused_in_words_before_anything_runs(
    tiny_model: Callable[[str], Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = complaints(cases(tiny_model("gpt2"), tmp_path), tmp_path)
    assert not found, "\n".join(found)


def test_what_speaks_otherwise_is_not_wrapped() -> None:
    given = {"architecture": "GPT2LMHeadModel", "name": "mine", "tokenizer": None, "d_vocab": 4}
    for module, said in ((nn.Linear(2, 2), "Linear has no config"), (nn.ReLU(), "no parameters")):
        made = r"interp\.models\.small\.native\.build"
        with pytest.raises(Unsupported, match=rf"{said}, so .* {made}"):
            wrap(module, **given, facts=facts_of)
    with pytest.raises(ArgumentError, match="module='gpt2' is a str, and module takes a Module"):
        wrap("gpt2", **given, facts=facts_of)


def test_half_a_character_is_no_text(tiny_model: Callable[[str], Model]) -> None:
    model = tiny_model("gpt2")
    for encode in (model.encode, model.encode_with_offsets, model.token_id):
        with pytest.raises(PairsError, match=r"holds '\\udcff', half of a character.*encoding"):
            encode(b"The \xff".decode(errors="surrogateescape"))
    with pytest.raises(ArgumentError, match="a list of whole numbers .*of at most"):
        model.show([1 << 40])


@pytest.mark.parametrize("module", [native, recurrent])
def test_weights_that_are_no_numbers_are_refused(module) -> None:
    shape, build = {
        native: (SHAPE, native.build),
        recurrent: (RECURRENT, recurrent.build_recurrent),
    }[module]
    state = module.state_of(build(shape, name="x"))
    for odd in (lambda x: x.long(), lambda x: x / 0):
        with pytest.raises(ModelError, match=r"the state has .* of torch\..*not finite.*belong"):
            build(shape, name="x", state={name: odd(value) for name, value in state.items()})


def test_a_model_that_gives_no_numbers_is_refused(tmp_path: Path) -> None:
    hf = tiny.build("gpt2")
    hf.transformer.wte.weight.data[:] = float("nan")
    hf.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"gives NaN or infinity .*weights are damaged.*float32"):
        interp.load(tmp_path)


def test_every_public_function_has_a_door() -> None:
    public = [getattr(interp.models, name) for name in interp.models.__all__]
    assert all(vars(one.__init__ if isinstance(one, type) else one)["__door__"] for one in public)
