"""Every compiled model computes its function, on every input drawn."""

from pathlib import Path

import pytest
import torch
from by_hand import Run

import interp
from interp.core.door.door import ArgumentError
from interp.core.errors import ModelError, PairsError
from interp.models import compiled
from interp.models.compiled.blueprint import Blueprint
from interp.models.compiled.construction import Construction
from interp.models.small import native


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_right_on_a_thousand_inputs(name: str, weights: Blueprint, dtype: torch.dtype) -> None:
    tokens, answers = compiled.inputs(name, n=1000, seed=1)
    model = compiled.build(name, dtype=dtype)
    logits = model.bridge(tokens)
    asked = answers >= 0
    assert asked.any(1).all()
    assert torch.equal(logits.argmax(-1)[asked], answers[asked])
    if dtype == torch.float64:
        few = slice(0, 100)
        assert (logits[few] - Run(weights, tokens[few]).logits).abs().max() < 1e-9


def test_inputs_are_what_they_say(name: str, made: Construction, weights: Blueprint) -> None:
    tokens, answers = compiled.inputs(name, n=200, seed=3)
    again = compiled.inputs(name, n=200, seed=3)
    other = compiled.inputs(name, n=200, seed=4)
    assert torch.equal(tokens, again.tokens) and torch.equal(answers, again.answers)
    assert tokens.shape != other.tokens.shape or not torch.equal(tokens, other.tokens)
    assert (tokens[:, 0] == 0).all() and tokens.shape[1] <= weights.n_ctx
    assert tokens.max() < weights.tokens.shape[0] == len(made.vocabulary)
    assert len(answers[answers >= 0].unique()) >= 6  # the task is no constant


def test_small_enough_to_be_read(weights: Blueprint) -> None:
    shape = weights.shape
    assert shape.d_model < 64 and shape.n_ctx <= 24
    assert (shape.d_head**0.5).is_integer()  # queries times its root are exact


def test_roles_name_every_part(made: Construction, weights: Blueprint) -> None:
    heads = {f"{i}.{j}" for i, layer in enumerate(weights.layers) for j in range(len(layer))}
    assert set(made.roles) == heads | {f"{i}.mlp" for i in range(len(weights.mlps))}


def test_functions_on_rows_written_by_hand() -> None:
    """The right answers themselves, which the models are held to."""

    def say(name: str, row: str) -> str:
        made = compiled.construction(name)
        found = made.answers([made.vocabulary.index(word) for word in row.split()])
        return " ".join("-" if token < 0 else made.vocabulary[token] for token in found)

    assert say("previous", "<bos> a b a") == "<bos> <bos> a b"
    assert say("induction", "<bos> a b c a b d d") == "<bos> <bos> <bos> <bos> b c <bos> d"
    assert say("frequency", "<bos> a b a a b c") == "1 1 1 2 3 2 1"
    assert say("reverse", "<bos> a b c <end> c b a") == "<bos> <bos> <bos> <bos> c b a <bos>"
    assert say("reverse", "<bos> a b") == "<bos> <bos> <bos>"
    ioi = "<bos> When Ann and Bob went to the park , Bob gave it to"
    assert say("ioi", ioi) == "- " * 13 + "Ann"
    assert say("ioi", ioi.replace("Bob gave", "Cat gave")) == "- " * 13 + "-"


def test_loads_by_name(name: str, weights: Blueprint, tmp_path: Path) -> None:
    model = interp.load(f"compiled/{name}", device="cpu", dtype=torch.float64)
    assert model.name == f"compiled/{name}"
    assert model.facts == weights.shape.facts
    assert not model.checks.problems()
    tokens = compiled.inputs(name, n=4).tokens
    stored = interp.load(native.save(model, tmp_path / name), device="cpu", dtype=torch.float64)
    assert torch.equal(model.bridge(tokens), stored.bridge(tokens))


def test_refusals() -> None:
    with pytest.raises(ModelError, match=r"no compiled model 'revers'; did you mean 'reverse'"):
        interp.load("compiled/revers")
    with pytest.raises(ModelError, match=r"revision='main' was given for 'compiled/ioi'"):
        interp.load("compiled/ioi", revision="main")
    with pytest.raises(ModelError, match=r"no compiled model 'inductoin'; did you mean 'induction"):
        compiled.build("inductoin")
    with pytest.raises(PairsError, match=r"has no corruption 'swap'; known: 'abc', 'io', 'flip'"):
        compiled.pairs("ioi", corruption="swap")
    with pytest.raises(ArgumentError, match="n=0, and n takes a whole number of at least 1"):
        compiled.inputs("ioi", n=0)
