"""Settings of torch, other threads and interrupted calls change no number."""

import contextlib
import copy
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from transformer_lens import hook_points
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import bridge_core

import interp
from interp.core.door import alone, settings
from interp.core.errors import InterpError, Unsupported
from interp.heads.lens import direct_logit_attribution
from interp.heads.weights.qk_ov import copying_scores
from interp.models.bridge import placed, rotary
from interp.models.now import live, truth, watch

pytestmark = [pytest.mark.plain, pytest.mark.sampled(4)]


@contextmanager
def changed(setting: str) -> Iterator[None]:
    """A setting of the user's."""
    match setting:
        case "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                yield
        case "device block":
            with torch.device("meta"):
                yield
        case "no grad":
            with torch.no_grad():
                yield
        case "inference":
            with torch.inference_mode():
                yield
        case "default device":
            torch.set_default_device("meta")
            yield
            torch.set_default_device(None)
        case "default dtype":
            torch.set_default_dtype(torch.float64)
            yield
            torch.set_default_dtype(torch.float32)
        case "products":
            torch.set_float32_matmul_precision("medium")
            yield
            torch.set_float32_matmul_precision("highest")
        case "all products":
            torch.backends.fp32_precision = "tf32"
            yield
            torch.backends.fp32_precision = "none"


SETTINGS = [
    *("autocast", "device block", "no grad", "inference", "default device", "default dtype"),
    *("products", "all products"),
]


def now() -> dict[str, Any]:
    return {
        "device": torch.get_default_device(),
        "dtype": torch.get_default_dtype(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "cuda": torch.backends.cuda.matmul.fp32_precision,
        "mkldnn": torch.backends.mkldnn.matmul.fp32_precision,
        "conv": torch.backends.mkldnn.conv.fp32_precision,
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
    }


def answers(model: Any, pairs: Any) -> list[np.ndarray]:
    """Numbers of many kinds."""
    found = [
        interp.ablate(model, pairs, "heads", method="zero", engine=engine).frame["value"]
        for engine in ("replay", "hooks")
    ]
    found += [interp.attribute(model, pairs).frame["score"]]
    found += [interp.capture(model, pairs, ["1.resid_post"]).rows("1.resid_post")[1]]
    found += [direct_logit_attribution(model, pairs).frame["value"]]
    found += [copying_scores(model).frame["value"]]
    found += [model.checks.heads, model.parity()]
    return [np.asarray(x) for x in found]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture
def model(tiny_model):
    return tiny_model("llama", torch.float32)


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_of_torch_change_no_number_and_return(model, pairs, setting):
    expected = answers(model, pairs)
    with changed(setting):
        before = now()
        assert same(answers(model, pairs), expected)
        model.live._now = None  # checks and verification of the engines are made again
        assert same(answers(model, pairs), expected)
        assert now() == before


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_model_loaded_under_a_setting_is_the_same(tmp_path, model, pairs, setting):
    tiny.build("llama").save_pretrained(tmp_path)
    with changed(setting):
        loaded = interp.load(tmp_path, dtype=torch.float32)
    assert loaded.device.type == "cpu"
    assert loaded.weight_hash == model.weight_hash
    assert same(answers(loaded, pairs), answers(model, pairs))


def test_threads_on_one_model_wait_for_each_other(model, pairs):
    expected = answers(model, pairs)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: answers(model, pairs), range(8)))
    assert all(same(one, expected) for one in found)
    assert model.now().foreign == ()


def test_a_setting_of_the_process_returns_after_the_last_call():
    begun, done, seen = threading.Event(), threading.Event(), []

    def call() -> None:
        with settings.settled():
            begun.set()
            done.wait()
            seen.append(torch.get_default_dtype())

    with changed("default dtype"):
        thread = threading.Thread(target=call)
        thread.start()
        begun.wait()
        with settings.settled():
            pass
        done.set()
        thread.join()
        assert torch.get_default_dtype() == torch.float64
    assert seen == [torch.float32]


def test_threads_that_load(tmp_path, model):
    tiny.build("llama").save_pretrained(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: interp.load(tmp_path, dtype=torch.float32), range(8)))
    assert {one.weight_hash for one in found} == {model.weight_hash}


PLACES = (placed, alone, settings, live, watch, rotary, truth, bridge_core, contextlib, hook_points)
"""Where hooks and all that is changed for a run are put on and taken off."""


class Interrupt:
    """A Ctrl-C at the n-th line that is reached in those places."""

    def __init__(self, at: int | None) -> None:
        self.at, self.count = at, 0
        self.files = {place.__file__ for place in PLACES}

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename not in self.files:
            return None
        if event == "line":
            self.count += 1
            if self.count == self.at:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self

    def over(self, call: Any) -> None:
        sys.settrace(self)
        try:
            call()
        finally:
            sys.settrace(None)


def _interrupted(call: Any, check: Any, most: int) -> int:
    """Interrupt a call at lines drawn by seed, and look after each."""
    whole = Interrupt(None)
    whole.over(call)
    drawn = np.random.default_rng(0).permutation(whole.count)[:most] + 1
    for at in drawn.tolist():
        with suppress(KeyboardInterrupt, InterpError):
            Interrupt(at).over(call)
        check(at)
    return len(drawn)


@pytest.mark.parametrize("engine", ["hooks", "replay"])
def test_an_interrupted_call_leaves_nothing_to_the_next(tiny_model, pairs, engine):
    model, few = copy.deepcopy(tiny_model("llama", torch.float32)), pairs.select([0, 1])
    model.bridge.add_hook("blocks.1.hook_resid_pre", lambda x, hook: x * 1.5)
    there = [dict(m._forward_hooks) for m in model.bridge.modules()]
    expected = interp.evaluate(model, few, engine="hooks").frame["value"].to_numpy()

    def call() -> None:
        model.live._now = None  # so that everything is verified again
        with suppress(Unsupported):  # replay refuses the hook, after it was looked at
            interp.evaluate(model, few, engine=engine)

    def check(at: int) -> None:
        found = interp.evaluate(model, few, engine="hooks").frame["value"].to_numpy()
        assert np.array_equal(found, expected), at
        assert [dict(m._forward_hooks) for m in model.bridge.modules()] == there, at
        assert all(len(p.fwd_hooks) == len(p._forward_hooks) for p in points), at
        assert not any(alone._NOTED.values()), at

    points = [m for m in model.bridge.modules() if isinstance(m, HookPoint)]
    assert _interrupted(call, check, 30) > 25


def test_a_setting_returns_after_an_interrupted_call(model, pairs):
    with changed("products"):
        before = now()

        def check(at: int) -> None:
            interp.evaluate(model, pairs)
            assert now() == before, at

        _interrupted(lambda: interp.evaluate(model, pairs), check, 30)


def test_what_an_ended_thread_left_is_put_back():
    left: list[str] = []

    def leave() -> None:
        alone.undone(lambda: left.append("back")).__enter__()

    thread = threading.Thread(target=leave)
    thread.start()
    thread.join()
    interp.Site.parse("0.1")
    interp.Site.parse("0.1")
    assert left == ["back"]


def test_a_bridge_without_a_user_is_put_in_order_by_asking_the_model(tiny_model):
    model = copy.deepcopy(tiny_model("llama", torch.float32))
    hook = placed.hooked(model.bridge, [("blocks.0.hook_resid_pre", lambda x, hook: x * 2)])
    hook.__enter__()
    assert "on_it" not in model.identity()
    assert model.now().foreign == ()
