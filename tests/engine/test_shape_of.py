"""The shape of a model: its plans are those of the model, and nothing runs it."""

import math
import re
import resource
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers

import interp
from interp import Model, Pairs
from interp.core.door.door import ArgumentError
from interp.core.errors import InterpError, ModelError, Unsupported
from interp.core.parts.circuit import Circuit
from interp.core.parts.graph import Graph
from interp.engine.interventions import Intervention, Scale

LOADABLE = [name for name in tiny.FAMILIES if name != "opt-post"]
LARGE = {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
}
"""Llama 3 70B."""
HERE = {"peak": 989e12, "bandwidth": 3.35e12, "launch": 5e-6}


def config_of(model: Model) -> transformers.PreTrainedConfig:
    return model.bridge.original_model.config


def asked(model: Model, pairs: Pairs) -> Iterator[tuple[str, Callable[..., Any]]]:
    half = Circuit.of(Graph.of(model.facts).edges[::2], model=model.weight_hash)
    at = {"scaled": [Intervention("1.2", Scale(2.0))]}
    yield "ablate", partial(interp.ablate, model, pairs, "heads", method="zero")
    yield "patch", partial(interp.patch, model, pairs, "heads", positions="mid")
    yield "path_patch", partial(interp.path_patch, model, pairs, senders="heads")
    yield (
        "path into a query",
        partial(interp.path_patch, model, pairs, senders=["0.1"], receivers="2.3.q", through="all"),
    )
    yield "an edge", partial(interp.ablate, model, pairs, ["0.1 -> 2.3.q"])
    yield "intervene", partial(interp.intervene, model, pairs, at)
    yield "evaluate", partial(interp.evaluate, model, pairs)
    yield "capture", partial(interp.capture, model, pairs, ["1.resid_post", "0.1.pattern"])
    yield "gradients", partial(interp.attribute, model, pairs)
    yield "circuits", partial(interp.circuits.run_circuits, model, pairs, half)
    yield "acdc", partial(interp.circuits.acdc, model, pairs, threshold=0.1)
    yield "hooks", partial(interp.ablate, model, pairs, "heads", method="zero", engine="hooks")


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", LOADABLE)
def test_facts_are_those_of_the_model(tiny_model, name):
    """Of a config, of its dict, and of a folder, which holds the tokenizer too."""
    model = tiny_model(name)
    config = config_of(model)
    for given in (config, config.to_dict(), model.name):
        shape = interp.shape_of(given, dtype="float64")
        assert shape.facts == model.facts
        assert shape.weight_bytes == model.weight_bytes
        assert (shape.dtype, shape.device) == (model.dtype, model.device)
    assert shape.encode("The Mary") == model.encode("The Mary")
    assert "without weights" in repr(shape)


def test_plans_are_those_of_the_model(tiny_model, pairs):
    model = tiny_model("llama")
    shape = interp.shape_of(config_of(model), dtype=torch.float64)
    calls = dict(asked(model, pairs))
    for name, call in asked(shape, pairs):
        theirs = calls[name]
        plan = interp.explain(call.func, *call.args, **call.keywords, **HERE)
        other = interp.explain(theirs.func, *theirs.args, **theirs.keywords, **HERE)
        assert plan == other, name
        assert str(plan) == str(other), name
        assert plan.launches > 0, name
        assert plan.waits > 0, name
        assert plan.bytes["cpu"] >= plan.weights > 0, name
        assert plan.seconds is not None and plan.seconds > 0, name


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", ["gpt2", "gemma2-window", "bert", "t5"])
def test_every_family_has_a_plan(tiny_model, pairs, name):
    """Of the engine that serves the model."""
    model = tiny_model(name)
    shape = interp.shape_of(config_of(model), dtype=torch.float64)
    plan, other = (
        interp.explain(interp.ablate, m, pairs, "heads", method="zero") for m in (model, shape)
    )
    assert plan == other


def test_a_large_model_takes_no_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    shape = interp.shape_of(transformers.LlamaConfig(**LARGE), dtype="bfloat16", device="cuda")
    rows = torch.randint(1, 1000, (8, 64), generator=torch.Generator().manual_seed(0)).tolist()
    pairs = Pairs.from_tokens(clean=rows, corrupt=rows[::-1], correct=[1] * 8, wrong=[2] * 8)
    plan = interp.explain(
        interp.ablate, shape, pairs, "heads", method="zero", positions="end", total="80GB", **HERE
    )
    assert time.perf_counter() - start < 60  # 5 s where nothing else runs
    assert all(p.is_meta for p in shape.bridge.parameters())
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 1e9
    assert plan.weights == 2 * 70_553_706_496
    said = str(plan)
    assert "on cuda: weights 141.1 GB, up to" in said
    assert "more than the 80.0 GB that there are" in said
    assert re.search(r"at least [\d.e+]+ s at 989 TFLOP/s, 3350 GB/s, 5 us a launch", said)


@pytest.mark.parametrize("method", ["zero", "mean", "resample"])
def test_all_heads_of_a_7b_are_ablated_in_16_gib(method):
    seven = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
    config = transformers.LlamaConfig(**seven, num_attention_heads=32, vocab_size=32_000)
    shape = interp.shape_of(config, dtype="bfloat16", device="cuda")
    rows = torch.randint(1, 1000, (64, 512), generator=torch.Generator().manual_seed(0)).tolist()
    pairs = Pairs.from_tokens(
        clean=rows[:32], corrupt=rows[32:], correct=[1] * 32, wrong=[2] * 32, template=["a"] * 32
    )
    plan = interp.explain(
        interp.ablate, shape, pairs, "heads", method=method, total="141GB", **HERE
    )
    assert plan.held <= 16 << 30
    # enough at once that a launch is little beside its products
    assert plan.launches * HERE["launch"] < 0.1 * plan.flops / HERE["peak"]


def test_what_is_not_here_must_be_told():
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    shape = interp.shape_of(transformers.LlamaConfig(**tiny.LLAMA), device="cuda:1")
    pairs = Pairs.from_tokens(clean=[[1, 2, 3]], corrupt=[[1, 4, 3]], correct=[5], wrong=[6])
    ask = partial(interp.explain, interp.ablate, shape, pairs, "heads", method="zero")
    with pytest.raises(InterpError, match=r"no cuda:1 here.*memory='20GB'.*total='80GB'"):
        ask()
    assert ask(total="80GB").budget == 20_000_000_000
    assert ask(total=80 * 10**9) == ask(total="80GB")
    assert ask(memory="1GB").budget == 1_000_000_000
    assert list(ask(memory="1GB").bytes) == ["cuda:1"]
    with pytest.raises(InterpError, match="total='much' is no size"):
        ask(total="much")
    with pytest.raises(InterpError, match=r"holds about .* MB are free on cuda:1"):
        ask(total="10kB")
    kept = interp.explain(interp.capture, shape, pairs, "layers", total="80GB")
    assert kept.kept == kept.bytes["cpu"] > 0
    assert kept.bytes["cuda:1"] == kept.weights + kept.held


def test_the_model_may_be_named(tiny_model, pairs):
    model = tiny_model("llama")
    first = interp.explain(interp.ablate, model, pairs, "heads", method="zero")
    assert interp.explain(interp.ablate, pairs, "heads", model=model, method="zero") == first
    assert interp.explain(interp.ablate, model=model, pairs=pairs, sites="heads", method="zero")
    with pytest.raises(ArgumentError):
        interp.explain(interp.ablate, "heads", model=model, method="zero")


@pytest.mark.plain
def test_seconds_are_the_longest_of_three(tiny_model, pairs):
    ask = partial(interp.explain, interp.ablate, tiny_model("llama"), pairs, "heads", method="zero")
    assert ask().seconds is None
    assert " s at " not in str(ask())
    plan = ask(peak=1e9, bandwidth=1e9, launch=1e-6)
    batches = (*plan.before, *plan.batches)
    longest = (max(b.flops / 1e9, b.moved / 1e9, b.launches * 1e-6) for b in batches)
    assert math.isclose(plan.seconds or 0, sum(longest))
    assert math.isclose(ask(launch=1).seconds or 0, plan.launches)
    assert math.isclose(ask(bandwidth=1).seconds or 0, plan.moved)
    assert math.isclose(ask(peak=1).seconds or 0, sum(b.flops for b in batches))
    for name in HERE:
        for odd in (0, -1, math.nan, math.inf, "fast", True, [1], 10**400):
            with pytest.raises(InterpError, match=rf"{name}=.* is no rate: .* positive number of"):
                ask(**{name: odd})


def test_nothing_runs_without_weights(tiny_model, pairs):
    """What would is refused, and says what to do."""
    shape = interp.shape_of(config_of(tiny_model("llama")))
    calls: dict[str, Callable[[], Any]] = {
        **dict(asked(shape, pairs)),
        "attention": lambda: interp.attention(shape, pairs),
        "composition": lambda: interp.heads.composition(shape),
        "lens": lambda: interp.heads.logit_lens(shape, pairs),
        "means": lambda: interp.MeanReference.fit(shape, pairs, ["1.2"]),
        "untrained": lambda: interp.models.untrained(shape),
        "identity": shape.identity,
        "parity": shape.parity,
        "checks": lambda: shape.checks,
        "now": shape.now,
        "require": lambda: shape.require("heads"),
    }
    for name, call in calls.items():
        with pytest.raises(ModelError, match=r"has no weights.*interp\.explain.*interp\.load"):
            call()
            pytest.fail(name)
    with pytest.raises(InterpError, match="has no plan to show"):
        interp.explain(interp.heads.composition, shape)


@pytest.mark.plain
def test_what_is_no_shape_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "empty").mkdir()
    for given, said in (
        ("nobody/no-such-model", "could not fetch|no model"),
        (tmp_path / "empty", "has no config.json"),
        (tmp_path / "none", "there is no folder"),
        ("compiled/induction", r"makes itself.*interp\.load"),
        ({"hidden_size": 3}, "model_type"),
        ({"model_type": "nonsense"}, "model_type"),
        ({**transformers.LlamaConfig(**tiny.LLAMA).to_dict(), "hidden_size": -3}, "cannot"),
    ):
        with pytest.raises(ModelError, match=said):
            interp.shape_of(given)
    with pytest.raises(ModelError, match="revision='main' was given"):
        interp.shape_of(transformers.LlamaConfig(**tiny.LLAMA), revision="main")
    with pytest.raises(ModelError, match="device='tpu' is no device"):
        interp.shape_of(transformers.LlamaConfig(**tiny.LLAMA), device="tpu")
    with pytest.raises(Unsupported, match="TransformerLens cannot wrap"):
        interp.shape_of(transformers.CLIPConfig())
    with pytest.raises(InterpError, match="3 is no function"):
        interp.explain(3)


def test_weights_need_not_be_there(tiny_model, tmp_path: Path):
    """A folder with a config alone, or one that the hub's cache has."""
    model = tiny_model("gpt2")
    config_of(model).save_pretrained(tmp_path / "alone")
    assert interp.shape_of(tmp_path / "alone").facts == model.facts
