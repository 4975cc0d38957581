"""What ran before changes nothing after: neither ours nor the user's own runs, in either direction.

Any sequence of prompts, in any batch, through either engine, between runs of the user's own of any
length: the same call gives the same number, which is that of a plain model on which nothing ran
before. And what the user's own runs say is what they say where we never ran.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import options
import pytest
import tiny
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from options import rope
from plain import Cut, output
from torch import Tensor

import interp
from interp.core.metrics import Answers, Metric
from interp.core.prompts.pairs import Pairs
from interp.models.bridge.precision import exact
from interp.models.model import Model

TOLERANCE = 1e-11
"""In float64, of numbers as large as 10, whose sums are taken in another order in another batch."""
FULL, SLIDING = "full_attention", "sliding_attention"


def _layers(full: str, sliding: str) -> dict[str, Any]:
    parameters = {FULL: rope(full), SLIDING: rope(sliding, rope_theta=30.0)}
    more = {"sliding_window": 10, "layer_types": tiny.ALTERNATING}
    return {"rope_parameters": parameters, **more}


def _turned(kind: str, **more: float) -> dict[str, Any]:
    return {"rope_parameters": rope(kind, **more)}


PLACED: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in options.KINDS if family != "bert-headless"},
    "llama linear": ("llama", _turned("linear")),
    "llama dynamic": ("llama", _turned("dynamic")),
    "llama yarn": ("llama", _turned("yarn")),
    "llama longrope": ("llama", _turned("longrope")),
    "llama llama3": ("llama", _turned("llama3")),
    "mistral dynamic, window": ("mistral", {**_turned("dynamic"), "sliding_window": 10}),
    "qwen3 longrope": ("qwen3", _turned("longrope")),
    "olmo2 dynamic": ("olmo2", _turned("dynamic")),
    "neox dynamic": ("neox", _turned("dynamic", partial_rotary_factor=1.0)),
    "phi longrope": ("phi", _turned("longrope", partial_rotary_factor=1.0)),
    "gemma3 dynamic": ("gemma3", _layers("dynamic", "default")),
    "gemma3 both dynamic": ("gemma3", _layers("dynamic", "dynamic")),
    "gemma3 longrope": ("gemma3", _layers("longrope", "dynamic")),
}
"""Families and ways to say where a token stands."""
LENGTHS = (3, 5, 9, 14, 16, 18, 22)
"""Around a window of 10, and around the 8 and 16 positions that angles are made for."""
MODES: dict[str, Callable[[], AbstractContextManager]] = {
    "grad": torch.enable_grad,
    "no grad": torch.no_grad,
    "inference": torch.inference_mode,
}
WEIGHTS = torch.randn(tiny.VOCAB, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
DECODER = (4, 7, 2)


def _read(logits: Tensor, answers: Answers) -> Tensor:
    return (logits * WEIGHTS[: logits.shape[-1]]).sum(-1)


READ = Metric("read", _read, needs_answers=False)


@dataclass
class World:
    """A model that we and the user run, and one of the same weights that only the user runs.

    Attributes:
        truth: of each prompt, the base and that without a head, from a plain model.
        said: what each call has said so far.
    """

    family: str
    ours: Model
    theirs: Model
    prompts: list[list[int]]
    truth: list[tuple[float, float]]
    said: dict[tuple[str, tuple[int, ...]], np.ndarray] = field(default_factory=dict)

    @property
    def decoder(self) -> tuple[int, ...]:
        return DECODER if self.family == "t5" else ()

    @property
    def site(self) -> str:
        return "enc.0.1" if self.family == "t5" else "0.1"

    def ask(self, engine: str, rows: tuple[int, ...], mode: str) -> None:
        """Ours: some prompts in one call."""
        asked = [self.prompts[i] for i in rows]
        pairs = Pairs.from_tokens(clean=asked, corrupt=asked, decoder=self.decoder)
        with MODES[mode]():
            frame = interp.ablate(
                self.ours, pairs, [self.site], method="zero", metric=READ, engine=engine
            ).frame
        found = frame.sort_values("example")[["base", "value"]].to_numpy()
        assert np.abs(found - np.array([self.truth[i] for i in rows])).max() < TOLERANCE
        before = self.said.setdefault((engine, rows), found)
        assert (before == found).all(), "the same call said something else before"

    def run(self, door: str, row: int, mode: str) -> None:
        """The user's own, on both models."""
        one, other = (
            own(model, door, self.prompts[row], mode) for model in (self.ours, self.theirs)
        )
        assert torch.equal(one, other), "the user's own run says something else where we ran"


def own(model: Model, door: str, row: list[int], mode: str) -> Tensor:
    """A run that knows nothing of us."""
    ids, module = torch.tensor([row]), model.bridge.original_model
    more = {"decoder_input_ids": torch.tensor([[0, *DECODER]])}
    more = more if model.facts.n_encoder_layers else {}
    with MODES[mode]():
        if door == "cache" and not more:
            return model.bridge.run_with_cache(ids)[0].detach().clone()
        if door == "bridge" and not more:
            return model.bridge(ids).detach().clone()
        if door == "backward" and mode == "grad":
            return _backward(module, ids, more)
        return module(input_ids=ids, **more).logits.detach().clone()


def _backward(module: Any, ids: Tensor, more: dict[str, Tensor]) -> Tensor:
    """A step of training that is not taken."""
    learned = list(module.parameters())
    for p in learned:
        p.requires_grad_(True)
    logits = module(input_ids=ids, **more).logits
    logits.square().sum().backward()
    for p in learned:
        p.requires_grad_(False)
        p.grad = None
    return logits.detach().clone()


@pytest.fixture(scope="module", params=PLACED)
def world(request, tmp_path_factory) -> World:
    family, changes = PLACED[request.param]
    folder = tmp_path_factory.mktemp(family)
    options.build(family, **changes).save_pretrained(folder)
    kind = options.KINDS[family].model
    plain = kind.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    exact(plain)
    learned = family in ("gpt2", "gptj", "opt", "bert", "distilbert")
    prompts = options.rows(*(n for n in LENGTHS if n <= 16 or not learned))
    prompts += [row[::-1] for row in prompts]  # two rows of each length make a batch
    decoder = DECODER if family == "t5" else ()
    cut = Cut("enc.0.1" if family == "t5" else "0.1")

    def number(row: list[int], *cuts: Cut) -> float:
        logits = output(plain, row, cuts=cuts, decoder=decoder)[-1]
        return (logits * WEIGHTS[: len(logits)]).sum().item()

    ours, theirs = (interp.load(folder, dtype=torch.float64) for _ in range(2))
    truth = [(number(row), number(row, cut)) for row in prompts]
    return World(family, ours, theirs, prompts, truth)


def doings(n: int) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """Sequences of our calls and the user's own runs."""
    row, mode = st.integers(0, n - 1), st.sampled_from(sorted(MODES))
    rows = st.lists(row, min_size=1, max_size=3, unique=True).map(tuple)
    ask = st.tuples(st.just("ask"), st.sampled_from(["replay", "hooks"]), rows, mode)
    door = st.sampled_from(["module", "bridge", "cache", "backward"])
    return st.lists(
        st.one_of(ask, st.tuples(st.just("run"), door, row, mode)), min_size=3, max_size=7
    )


@pytest.mark.plain
@pytest.mark.sampled(5)
@settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_what_ran_before_changes_nothing_after(world, data):
    for what, how, rows, mode in data.draw(doings(len(world.prompts))):
        if what == "run":
            world.run(how, rows, mode)
        elif how == "hooks" or world.family != "t5":
            world.ask(how, rows, mode)
