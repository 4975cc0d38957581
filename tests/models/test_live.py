"""Whatever was done to a model, what we say is what plain transformers say after the same.

Each change is made twice: to the wrapped model, on which both engines ran before, and to a fresh
plain one. Then the base, and the effects of heads and an MLP, are the same through every engine
that does not refuse.
"""

import copy
import gc
import pickle
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import options
import pytest
import torch
from _pytest.mark import ParameterSet
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from plain import Cut, output
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.hooks import RemovableHandle

import interp
from interp.core.errors import InterpError, ModelError, Unsupported
from interp.core.files.identity import Unreadable
from interp.core.metrics import Answers, Metric
from interp.core.prompts.pairs import Pairs
from interp.engine.engines.choose import choose
from interp.models.bridge.precision import exact
from interp.models.model import Model
from interp.models.now.watch import glimpse

TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-4}
"""Of numbers as large as 10; in float32 of two runs that round differently."""
WEIGHTS = torch.randn(64, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
ROWS = [options.rows(12)[0], options.rows(12)[0][::-1]]
PAIRS = Pairs.from_tokens(clean=ROWS, corrupt=ROWS, correct=[3, 5], wrong=[4, 6])
SITES = ("0.1", "1.2", "1.mlp")
OPTIONS = {"gemma2": {"sliding_window": 10, "final_logit_softcapping": 3.0}}
BOTH, HOOKS, REPLAY, NEITHER = ("replay", "hooks"), ("hooks",), ("replay",), ()

LLAMA = {
    "layers": "model.layers",
    "block": "model.layers.1",
    "norm": "model.layers.1.input_layernorm",
    "attention": "model.layers.1.self_attn",
    "query": "model.layers.1.self_attn.q_proj",
    "o": "model.layers.1.self_attn.o_proj",
    "mlp": "model.layers.1.mlp",
    "act": "model.layers.1.mlp.act_fn",
    "down": "model.layers.1.mlp.down_proj",
    "embed": "model.embed_tokens",
    "head": "lm_head",
}
NAMES = {
    "llama": LLAMA,
    "gemma2": LLAMA,
    "gpt2": {
        "layers": "transformer.h",
        "block": "transformer.h.1",
        "norm": "transformer.h.1.ln_1",
        "attention": "transformer.h.1.attn",
        "query": "transformer.h.1.attn.c_attn",
        "o": "transformer.h.1.attn.c_proj",
        "mlp": "transformer.h.1.mlp",
        "act": "transformer.h.1.mlp.act",
        "down": "transformer.h.1.mlp.c_proj",
        "embed": "transformer.wte",
        "head": "lm_head",
    },
    "neox": {
        "layers": "gpt_neox.layers",
        "block": "gpt_neox.layers.1",
        "norm": "gpt_neox.layers.1.input_layernorm",
        "attention": "gpt_neox.layers.1.attention",
        "query": "gpt_neox.layers.1.attention.query_key_value",
        "o": "gpt_neox.layers.1.attention.dense",
        "mlp": "gpt_neox.layers.1.mlp",
        "act": "gpt_neox.layers.1.mlp.act",
        "down": "gpt_neox.layers.1.mlp.dense_4h_to_h",
        "embed": "gpt_neox.embed_in",
    },
}
"""Of each family, Hugging Face's names of the second layer's parts; GPT-2's and NeoX' queries are
fused with keys and values."""


class World:
    """A wrapped model and a plain one, and the same done to both."""

    def __init__(self, family: str, folder: Path) -> None:
        options.build(family, **OPTIONS.get(family, {})).save_pretrained(folder)
        kind = options.KINDS[family].model
        self.plain = kind.from_pretrained(
            folder, dtype=torch.float64, attn_implementation="eager"
        ).eval()
        self.plain.requires_grad_(False)
        exact(self.plain)
        self.model = interp.load(folder, dtype=torch.float64)
        self.family, self.names, self.folder = family, NAMES[family], folder
        for engine in BOTH:  # whatever is found out about it is found out now
            choose(self.model, engine, longest=len(ROWS[0]))

    @property
    def wrapped(self) -> nn.Module:
        return self.model.bridge.original_model

    def do(self, change: "Change") -> None:
        for root in (self.plain, self.wrapped):
            change(Place(root, self.names, self.model if root is self.wrapped else None))
            root.eval()

    def truth(self) -> np.ndarray:
        """One for the base and each cut, and row."""
        cuts = [[], *([Cut(site)] for site in SITES)]
        return np.array([[_number(output(self.plain, row, cuts=c)) for row in ROWS] for c in cuts])

    def said(self, engine: str) -> np.ndarray:
        asked = {"method": "zero", "metric": READ, "engine": engine}
        frame = interp.ablate(self.model, PAIRS, list(SITES), **asked).frame
        by_site = [frame[frame["site"] == site].sort_values("example") for site in SITES]
        return np.stack([by_site[0]["base"], *(found["value"] for found in by_site)])

    def wrong(self, engine: str) -> str:
        """What an engine says that is not so; or how it refuses."""
        try:
            said = self.said(engine)
        except InterpError as refusal:
            return f"refuses: {refusal}"
        gap = np.abs(said - self.truth()).max()
        return "" if gap < TOLERANCE[self.model.dtype] else f"off by {gap}"


def _number(logits: Tensor) -> float:
    return (logits[-1].double() * WEIGHTS[: logits.shape[-1]]).sum().item()


def _read(logits: Tensor, answers: Answers) -> Tensor:
    return (logits.double() * WEIGHTS[: logits.shape[-1]]).sum(-1)


READ = Metric("read", _read, needs_answers=False)


class Place:
    """Parts of a model by what they are, whether the bridge wraps them or not.

    `model`: ours, if this is the wrapped one.
    """

    def __init__(self, root: nn.Module, names: dict[str, str], model: Model | None) -> None:
        self.root, self.names, self.model = root, names, model

    def paths(self, part: str) -> list[str]:
        """From the bridge's component, where there is one, to Hugging Face's own module."""
        every = self.root.named_modules(remove_duplicate=False)
        return [path for path, _ in every if _stripped(path) == self.names[part]]

    def at(self, part: str, *, outer: bool = False) -> Any:
        return self.root.get_submodule(self.paths(part)[0 if outer else -1])

    def put(self, part: str, new: nn.Module, *, outer: bool = False) -> None:
        parent, _, name = self.paths(part)[0 if outer else -1].rpartition(".")
        setattr(self.root.get_submodule(parent), name, new)


def _stripped(path: str) -> str:
    return path.replace("_original_component.", "").removesuffix("._original_component")


Change = Callable[[Place], None]


class LoRA(nn.Module):
    """Somebody's own adapter."""

    def __init__(self, base: Any, weight: Tensor) -> None:
        super().__init__()
        conv = "Conv1D" in type(base).__name__ or "Conv1D" in str(base)
        into, out = weight.shape if conv else weight.shape[::-1]
        generator = torch.Generator().manual_seed(1)
        self.base = base
        self.a = nn.Parameter(0.3 * torch.randn(into, 2, generator=generator).double())
        self.b = nn.Parameter(0.3 * torch.randn(2, out, generator=generator).double())

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.a @ self.b


class More(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 1.3 + 0.01


# Changes


def in_place(part: str) -> Change:
    @torch.no_grad()
    def change(place: Place) -> None:
        place.at(part).weight.mul_(1.3)

    return change


def through_data(part: str) -> Change:
    def change(place: Place) -> None:
        place.at(part).weight.data.mul_(1.3)

    return change


def bias_through_data(part: str) -> Change:
    def change(place: Place) -> None:
        place.at(part).bias.data.add_(0.3)

    return change


def data_twice(part: str) -> Change:
    def change(place: Place) -> None:
        weight = place.at(part).weight
        weight.data = weight.data * 1.3
        weight.data = weight.data * 1.2

    return change


def new_parameter(part: str) -> Change:
    def change(place: Place) -> None:
        module = place.at(part)
        module.weight = nn.Parameter(module.weight.detach() * 1.3, requires_grad=False)

    return change


def state(*, assign: bool, bridge: bool = False) -> Change:
    """Every tensor 10 % larger, as whoever loads a checkpoint does it."""

    def change(place: Place) -> None:
        whole: Any = place.model.bridge if bridge and place.model else place.root
        whole.load_state_dict({k: v * 1.1 for k, v in whole.state_dict().items()}, assign=assign)
        place.root.requires_grad_(False)

    return change


def step(place: Place) -> None:
    """Of an optimizer."""
    weights = [place.at(part).weight for part in ("down", "query", "norm")]
    for weight in weights:
        weight.requires_grad_(True)
        weight.grad = torch.ones_like(weight)
    torch.optim.SGD(weights, lr=0.05).step()
    for weight in weights:
        weight.requires_grad_(False)
        weight.grad = None


def half_and_back(place: Place) -> None:
    place.root.to(torch.bfloat16)
    place.root.to(torch.float64)


def parametrized(part: str) -> Change:
    return lambda place: parametrize.register_parametrization(place.at(part), "weight", More())


def weight_norm(place: Place) -> None:
    module = place.at("down")
    parametrizations.weight_norm(module)
    module.parametrizations.weight.original0.data.mul_(1.3)


def pruned(part: str, *, for_good: bool = False) -> Change:
    def change(place: Place) -> None:
        prune.l1_unstructured(place.at(part), "weight", amount=0.3)
        if for_good:
            prune.remove(place.at(part), "weight")
            place.root.requires_grad_(False)

    return change


def _more(module: nn.Module, args: Any, given: Any, out: Any) -> Any:
    return (out[0] * 1.3 + 0.1, *out[1:]) if isinstance(out, tuple) else out * 1.3 + 0.1


def _more_before(module: nn.Module, args: Any, given: Any) -> Any:
    if args:
        return (args[0] * 1.3 + 0.1, *args[1:]), given
    return args, {**given, "hidden_states": given["hidden_states"] * 1.3 + 0.1}


def hook(part: str, *, outer: bool = False, before: bool = False) -> Change:
    """On Hugging Face's own module, or (outer) on the bridge's component in its place."""

    def change(place: Place) -> None:
        module = place.at(part, outer=outer)
        if before:
            module.register_forward_pre_hook(_more_before, with_kwargs=True)
        else:
            module.register_forward_hook(_more, with_kwargs=True)

    return change


def hook_and_gone(place: Place) -> None:
    handle = place.at("down").register_forward_hook(_more, with_kwargs=True)
    if place.model is not None:
        choose(place.model)  # which sees it
    handle.remove()


def adapter(part: str, *, outer: bool = False) -> Change:
    def change(place: Place) -> None:
        place.put(part, LoRA(place.at(part, outer=outer), place.at(part).weight), outer=outer)
        place.root.requires_grad_(False)

    return change


def adapter_and_gone(place: Place) -> None:
    module = place.at("down")
    path = place.paths("down")[-1]
    adapter("down")(place)
    if place.model is not None:
        place.root.eval()
        choose(place.model)
    parent, _, name = path.rpartition(".")
    setattr(place.root.get_submodule(parent), name, module)


def other_activation(place: Place) -> None:
    place.put("act", nn.Tanh())


def own_forward(part: str) -> Change:
    def change(place: Place) -> None:
        module = place.at(part)
        forward = module.forward
        module.forward = lambda x: forward(x) * 1.3

    return change


def own_forward_of_all(place: Place) -> None:
    forward = place.root.forward

    def louder(*args: Any, **given: Any) -> Any:
        out = forward(*args, **given)
        out.logits = out.logits * 1.3
        return out

    place.root.forward = louder


def setting(part: str, **values: Any) -> Change:
    def change(place: Place) -> None:
        module = place.at(part)
        assert all(hasattr(module, name) for name in values)
        vars(module).update(values)

    return change


def other_function(place: Place) -> None:
    """Inside of an activation that keeps its function as a plain attribute."""
    place.at("act").act = torch.relu


def none(part: str, name: str) -> Change:
    return lambda place: setattr(place.at(part), name, None)


def bridge_config(**values: Any) -> Change:
    """Which the hooks compute by, and Hugging Face knows nothing of."""

    def change(place: Place) -> None:
        if place.model is not None:
            vars(place.model.bridge.cfg).update(values)

    return change


def parts_config(**values: Any) -> Change:
    """Of one part of the bridge, its own from now on."""

    def change(place: Place) -> None:
        if place.model is not None:
            part = place.at("norm", outer=True)
            part.config = copy.copy(part.config)
            vars(part.config).update(values)

    return change


def config(**values: Any) -> Change:
    return lambda place: vars(place.root.config).update(values)


def fewer_layers(place: Place) -> None:
    place.put("layers", nn.ModuleList(list(place.at("layers"))[:2]), outer=True)


def swapped_layers(place: Place) -> None:
    layers = place.at("layers")
    layers[0], layers[1] = layers[1], layers[0]


def new_head(place: Place) -> None:
    head = place.at("head")
    new = nn.Linear(*head.weight.shape[::-1], bias=False, dtype=torch.float64)
    new.weight.data = head.weight.data.flip(0) + 0.1
    place.put("head", new.requires_grad_(False), outer=True)


def rewritten(place: Place) -> None:
    """What TransformerLens calls processed weights; Hugging Face knows nothing of it."""
    if place.model is not None:
        place.model.bridge.enable_compatibility_mode()


EVERYWHERE = ("gpt2", "llama", "neox", "gemma2")
FUSED, PLAIN = ("gpt2", "neox"), ("llama",)
CASES: dict[str, tuple[Change, tuple[str, ...], tuple[str, ...]]] = {
    # weights: replay reads them again
    "in place": (in_place("down"), EVERYWHERE, BOTH),
    "in place, queries": (in_place("query"), EVERYWHERE, BOTH),
    "in place, norm": (in_place("norm"), PLAIN, BOTH),
    "in place, tied": (in_place("embed"), ("gpt2", "gemma2"), BOTH),
    "through .data": (through_data("down"), EVERYWHERE, BOTH),
    "through .data, queries": (through_data("query"), EVERYWHERE, BOTH),
    "through .data, bias of queries": (bias_through_data("query"), FUSED, BOTH),
    ".data replaced twice": (data_twice("down"), EVERYWHERE, BOTH),
    ".data replaced twice, queries": (data_twice("query"), EVERYWHERE, BOTH),
    "new parameter": (new_parameter("down"), EVERYWHERE, BOTH),
    "new parameter, queries": (new_parameter("query"), EVERYWHERE, BOTH),
    "new parameter, untied": (new_parameter("embed"), ("gpt2", "gemma2"), BOTH),
    "new parameter, head untied": (new_parameter("head"), ("gpt2", "gemma2"), BOTH),
    "state": (state(assign=False), EVERYWHERE, BOTH),
    "state, assigned": (state(assign=True), EVERYWHERE, BOTH),
    "state through the bridge": (state(assign=False, bridge=True), EVERYWHERE, BOTH),
    "state assigned through the bridge": (state(assign=True, bridge=True), EVERYWHERE, BOTH),
    "a step": (step, EVERYWHERE, BOTH),
    "half and back": (half_and_back, EVERYWHERE, BOTH),
    "pruned for good": (pruned("query", for_good=True), EVERYWHERE, BOTH),
    "adapter and gone": (adapter_and_gone, EVERYWHERE, BOTH),
    "hook and gone": (hook_and_gone, EVERYWHERE, BOTH),
    # what stands beside the weights: hooks run through it
    "parametrised": (parametrized("down"), EVERYWHERE, HOOKS),
    "parametrised queries": (parametrized("query"), PLAIN, HOOKS),
    "parametrised embedding": (parametrized("embed"), ("llama", "gpt2"), HOOKS),
    "weight norm": (weight_norm, ("llama", "gpt2"), HOOKS),
    "pruned": (pruned("down"), EVERYWHERE, HOOKS),
    "pruned queries": (pruned("query"), PLAIN, HOOKS),
    "hook on a projection": (hook("down"), EVERYWHERE, HOOKS),
    "hook on a projection's component": (hook("down", outer=True), EVERYWHERE, HOOKS),
    "pre-hook on a projection": (hook("down", before=True), EVERYWHERE, HOOKS),
    "hook on queries": (hook("query"), PLAIN, HOOKS),
    "hook on a norm": (hook("norm", outer=True), EVERYWHERE, HOOKS),
    "hook on an attention": (hook("attention", outer=True), EVERYWHERE, HOOKS),
    "hook on a block": (hook("block"), EVERYWHERE, HOOKS),
    "hook on a block's component": (hook("block", outer=True), EVERYWHERE, HOOKS),
    "hook on an activation": (hook("act"), EVERYWHERE, HOOKS),
    "hook on the embedding": (hook("embed"), EVERYWHERE, HOOKS),
    "adapter": (adapter("down"), EVERYWHERE, HOOKS),
    "adapter around the component": (adapter("down", outer=True), EVERYWHERE, HOOKS),
    "adapter on queries": (adapter("query"), PLAIN, HOOKS),
    "another activation": (other_activation, EVERYWHERE, HOOKS),
    "own forward": (own_forward("down"), EVERYWHERE, HOOKS),
    "another head": (new_head, ("llama", "gpt2"), HOOKS),
    # settings
    "scaling": (setting("attention", scaling=0.9), ("llama", "gemma2"), BOTH),
    "scaling that the bridge has not": (setting("attention", scaling=0.9), FUSED, REPLAY),
    "final cap": (config(final_logit_softcapping=0.7), ("gemma2",), BOTH),
    "window": (config(sliding_window=3), ("gemma2",), BOTH),
    "another function": (other_function, ("neox",), HOOKS),
    "bridge's settings": (bridge_config(eps=0.5), ("gpt2",), REPLAY),
    "settings of a part of the bridge": (parts_config(eps=0.5), ("gpt2",), REPLAY),
    # a parameter that is none any more
    "no bias": (none("down", "bias"), ("neox",), BOTH),
    "no bias of queries": (none("query", "bias"), ("neox",), NEITHER),
    "no bias of a norm": (none("norm", "bias"), FUSED, BOTH),
    "norm without weight": (none("norm", "weight"), ("neox",), BOTH),
    # where neither computes what Hugging Face does
    "hook on fused queries": (hook("query"), FUSED, NEITHER),
    "pre-hook on fused queries": (hook("query", before=True), FUSED, NEITHER),
    "own forward of fused queries": (own_forward("query"), FUSED, NEITHER),
    "adapter on fused queries": (adapter("query"), FUSED, NEITHER),
    "parametrised fused queries": (parametrized("query"), FUSED, NEITHER),
    "pruned fused queries": (pruned("query"), FUSED, NEITHER),
    "hook inside of an attention": (hook("attention"), PLAIN, NEITHER),
    "own forward of all": (own_forward_of_all, ("llama",), NEITHER),
    "fewer layers": (fewer_layers, ("llama",), NEITHER),
    "layers in another order": (swapped_layers, ("llama",), NEITHER),
    "processed weights": (rewritten, ("llama", "gpt2"), NEITHER),
}
"""What is done, to which families, and who serves then."""
UNMOVED = (
    *("hook and gone", "adapter and gone", "processed weights"),
    *("bridge's settings", "settings of a part of the bridge"),
)
"""What changes nothing in Hugging Face's model."""
RARE = ("neox", "gemma2")


def every() -> Iterator[ParameterSet]:
    """Each case on each of its families; the third and fourth of them are slow."""
    for name, (_, families, _) in CASES.items():
        for family in families:
            marks = [pytest.mark.slow] if family in RARE and len(families) > 2 else []
            yield pytest.param(name, family, id=f"{name}, {family}", marks=marks)


@pytest.mark.sampled(20)
@pytest.mark.parametrize("name, family", every())
def test_after_a_change_numbers_are_right_or_refused(name, family, tmp_path):
    change, _, served = CASES[name]
    world = World(family, tmp_path)
    before = world.truth()
    world.do(change)
    if name not in UNMOVED:
        assert np.abs(world.truth() - before).max() > 1e-7, "nothing was changed"
    said = {engine: world.wrong(engine) for engine in BOTH}
    for engine in BOTH:
        assert not said[engine].startswith("off"), (engine, said[engine])
        assert (not said[engine]) == (engine in served), (engine, said[engine])
    if served:
        frame = interp.evaluate(world.model, PAIRS, metric=READ).query("position == 'clean'").frame
        assert set(frame["engine"]) == {served[0]}
        gap = np.abs(frame["value"].to_numpy() - world.truth()[0]).max()
        assert gap < TOLERANCE[torch.float64]
    else:
        with pytest.raises(Unsupported, match="no engine computes what Hugging Face"):
            choose(world.model)


# Where something stands between a point of TransformerLens and the part that it is of

BEHIND: dict[str, tuple[Change, str, tuple[str, ...]]] = {
    "hook on an MLP's component": (hook("mlp", outer=True), "1.mlp", ("1.2", "1.attn", "0.mlp")),
    "hook on an attention's component": (
        hook("attention", outer=True),
        "1.attn",
        ("1.2", "1.mlp", "0.attn"),
    ),
    "hook on a block's component": (
        hook("block", outer=True),
        "1.resid_post",
        ("1.2", "1.mlp", "2.resid_pre", "0.resid_post"),
    ),
    "hook on a query's component": (
        hook("query", outer=True),
        "1.2.q",
        ("1.2", "1.kv1.k", "1.mlp"),
    ),
    "adapter around a component": (adapter("down", outer=True), "1.mlp[3]", ("1.mlp", "1.2")),
}


@pytest.mark.parametrize("name", BEHIND)
def test_no_value_is_written_or_read_that_something_changes_on(name, tmp_path):
    """Everything else is served; what it is worth is tested above."""
    change, site, others = BEHIND[name]
    world = World("llama", tmp_path)
    world.do(change)
    asked = {"metric": READ, "method": "zero"}
    with pytest.raises(Unsupported, match="behind that point"):
        interp.ablate(world.model, PAIRS, [site], **asked)
    with pytest.raises(Unsupported, match="behind that point"):
        interp.capture(world.model, PAIRS, [site])
    found = interp.ablate(world.model, PAIRS, list(others), **asked).frame
    assert set(found["engine"]) == {"hooks"}
    base = found[found["site"] == others[0]].sort_values("example")["base"]
    assert np.abs(base.to_numpy() - world.truth()[0]).max() < TOLERANCE[torch.float64]


def test_where_nothing_stands_between_values_are_the_modules_own(tmp_path):
    """A block's stream as the next one gets it holds what the user's hook made of it."""
    world = World("llama", tmp_path)
    world.do(hook("block", outer=True))
    held: dict[str, Tensor] = {}
    module = world.plain.get_submodule("model.layers.2")
    handle = module.register_forward_pre_hook(lambda m, args: held.update(x=args[0].clone()))
    output(world.plain, ROWS[0])
    handle.remove()
    found = interp.capture(world.model, PAIRS, ["2.resid_pre"])["2.resid_pre"]
    assert torch.allclose(torch.as_tensor(found)[0], held["x"][0], atol=1e-12)


def test_a_copy_of_the_wrapped_model_runs_itself(tmp_path):
    world = World("llama", tmp_path)
    copied, ids = copy.deepcopy(world.wrapped), torch.tensor(ROWS)
    in_place("down")(Place(copied, world.names, None))
    before = world.wrapped(input_ids=ids).logits
    assert not torch.allclose(copied(input_ids=ids).logits, before)
    assert not world.wrong("auto")  # which did not change


@pytest.mark.plain
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_in_inference_mode_too(family, tmp_path):
    """Whose tensors count no changes, and could never have gradients."""
    with torch.inference_mode():
        world = World(family, tmp_path)
        assert not any(p.is_inference() for p in world.wrapped.parameters())
        for change in (in_place("query"), in_place("down")):
            world.do(change)
            assert {world.wrong(engine) for engine in ("auto", *BOTH)} == {""}
    found = interp.attribute(world.model, PAIRS, method="eap", metric="logit_diff")
    assert np.isfinite(found.each).all()
    with torch.inference_mode():
        for change in (half_and_back, in_place("query")):  # the first makes such tensors
            world.do(change)
            assert {world.wrong(engine) for engine in ("auto", *BOTH)} == {""}


# Where no number can be had


def every_call(model: Model) -> dict[str, Callable[[], object]]:
    """What runs the model, each in its own way."""
    asked = {"method": "zero", "metric": READ}
    return {
        "heads": lambda: interp.ablate(model, PAIRS, ["0.1"], **asked),
        "MLPs": lambda: interp.ablate(model, PAIRS, ["1.mlp"], **asked),
        "replay": lambda: interp.ablate(model, PAIRS, ["0.1"], engine="replay", **asked),
        "hooks": lambda: interp.ablate(model, PAIRS, ["0.1"], engine="hooks", **asked),
        "evaluate": lambda: interp.evaluate(model, PAIRS, metric=READ),
        "capture": lambda: interp.capture(model, PAIRS, ["1.mlp"]),
        "parity": model.parity,
        "repr": lambda: repr(model),
    }


def function_in_place(place: Place) -> None:
    """As `mlp.act_fn = relu` would be, if torch let a module be replaced by a function."""
    mlp = place.at("mlp")
    name = next(n for n in ("act_fn", "act") if n in mlp._modules)
    del mlp._modules[name]
    object.__setattr__(mlp, name, torch.relu)


def taken_away(place: Place) -> None:
    del place.at("block", outer=True).mlp


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("change, part", [(function_in_place, "act"), (taken_away, "mlp")])
def test_a_part_that_was_taken_away_is_refused_by_name(change, part, family, tmp_path):
    world = World(family, tmp_path)
    change(Place(world.wrapped, world.names, world.model))
    for call in every_call(world.model).values():
        with pytest.raises(ModelError, match=f"{world.names[part]} was taken away.*nn.Identity"):
            call()


def test_a_part_that_came_back_is_served(tmp_path):
    world = World("llama", tmp_path)
    mlp = Place(world.wrapped, world.names, world.model).at("mlp")
    held = mlp._modules.pop("act_fn")
    with pytest.raises(ModelError, match="taken away"):
        world.said("auto")
    mlp.act_fn = held
    assert {world.wrong(engine) for engine in BOTH} == {""}


def broken_hook(place: Place) -> None:
    place.at("down").register_forward_hook(lambda *_: 1 / 0)


def flash_attention(place: Place) -> None:
    """Of which nothing is installed."""
    place.root.config._attn_implementation = "flash_attention_2"


def to_meta(place: Place) -> None:
    place.root.to("meta")


@pytest.mark.parametrize(
    "change, said",
    [
        (broken_hook, "ZeroDivisionError.*forward hook.*on model.layers.1.mlp.down_proj"),
        (flash_attention, "ImportError|flash"),
        (to_meta, "no numbers.*device 'meta'"),
        (lambda place: place.at("down").float(), "RuntimeError"),
    ],
)
def test_whatever_fails_in_a_run_is_a_refusal(change, said, tmp_path):
    world = World("llama", tmp_path)
    change(Place(world.wrapped, world.names, world.model))
    for call in every_call(world.model).values():
        with pytest.raises(InterpError, match=said):
            call()


# Which model it is


@pytest.mark.plain
def test_a_function_is_a_part_of_the_hash(tmp_path):
    """Also one of the same name as the one before."""
    world = World("neox", tmp_path)
    act, hashes = Place(world.wrapped, world.names, world.model).at("act"), set()
    before = act.act
    for function in (before, torch.relu, lambda x: x * 2, lambda x: x * 3):
        act.act = function
        hashes.add(world.model.weight_hash)
    assert len(hashes) == 4
    assert "0x" not in str(world.model.now().changed)
    assert ".act: " in world.model.now().changed[0]
    act.act = before
    assert world.model.weight_hash in hashes
    assert not world.model.now().changed


class Scale:
    """A hook that knows its model, and maybe something that cannot be read."""

    def __init__(self, model: Model, by: float, beside: object = None) -> None:
        self.model, self.by, self.beside = model, by, beside

    def __call__(self, module: nn.Module, args: Any, out: Tensor) -> Tensor:
        return out * self.by


def test_a_hook_that_holds_its_model_is_read(tmp_path):
    world = World("llama", tmp_path)
    module = Place(world.wrapped, world.names, world.model).at("down")
    for holder in (world.model, world.model.bridge, world.wrapped):
        kept = Scale(holder, 1.5)
        handle = module.register_forward_hook(kept)
        before = world.model.weight_hash
        assert world.model.identity(anew=True)["weights"] == before
        kept.by = 2.0
        assert world.model.weight_hash != before
        handle.remove()


@pytest.mark.filterwarnings("ignore:mean ablation")
def test_a_hook_that_cannot_be_read_is_equal_to_nothing_kept(tmp_path):
    world = World("llama", tmp_path)
    module = Place(world.wrapped, world.names, world.model).at("down")
    handle = module.register_forward_hook(Scale(world.model, 1.5, (i for i in range(3))))
    assert world.model.weight_hash != world.model.weight_hash
    assert np.isfinite(world.said("auto")).all()
    kept = interp.MeanReference.fit(world.model, PAIRS, ["heads"], by="position")
    with pytest.raises(InterpError, match="no run of"):
        interp.ablate(world.model, PAIRS, ["0.1"], reference=kept, method="mean")
    with pytest.raises(Unreadable, match=r"forward hook.*down_proj cannot be read.*Take it off"):
        world.model.identity(anew=True)
    with pytest.raises(Unreadable, match="cannot be read"):
        asked = {"method": "zero", "checkpoint": tmp_path / "kept"}
        interp.ablate(world.model, PAIRS, ["0.1"], metric=READ, **asked)
    handle.remove()
    assert world.model.weight_hash == world.model.weight_hash


def test_a_model_is_not_pickled(tmp_path):
    world = World("neox", tmp_path)
    with pytest.raises(ModelError, match=r"not pickled.*interp\.load\("):
        pickle.dumps(world.model)


@pytest.mark.parametrize("family", NAMES)
def test_a_copied_model_outlives_its_source(family, tmp_path):
    world = World(family, tmp_path)
    other_function(Place(world.wrapped, world.names, world.model))
    copied = copy.deepcopy(world.model)
    assert copied.weight_hash == world.model.weight_hash
    assert copied.now().changed == world.model.now().changed
    source, world.model = weakref.ref(world.model.bridge), copied
    gc.collect()
    assert source() is None
    other_function(Place(world.plain, world.names, None))
    assert not world.wrong("hooks")
    assert copy.copy(copied).live is copied.live


@pytest.mark.parametrize("family", ["gpt2", "gemma3", "t5", "bert"])
def test_runs_change_no_stamp(family, tmp_path):
    """Neither a part of the bridge nor a configuration is written while it runs."""
    options.build(family).save_pretrained(tmp_path)
    model = interp.load(tmp_path, dtype=torch.float64)
    before = model.now()
    for engine in BOTH:
        with suppress(InterpError):
            interp.capture(model, PAIRS, "heads", engine=engine)
            interp.ablate(model, PAIRS, ["1.1"], method="zero", metric="kl", engine=engine)
    assert model.now() is before


# Any sequence of changes


WEIGHED = [name for name, (_, families, served) in CASES.items() if served == BOTH]
WEIGHED = [name for name in WEIGHED if "gpt2" in CASES[name][1] and "gone" not in name]
"""Changes of weights that any model takes, any number of times."""


class Sequence(RuleBasedStateMachine):
    """Weights, hooks, adapters and precisions in any order, each undone or not."""

    @initialize(family=st.sampled_from(["gpt2", "llama", "neox"]))
    def load(self, family: str) -> None:
        self.folder = TemporaryDirectory()
        self.world = World(family, Path(self.folder.name))
        self.handles: list[RemovableHandle] = []
        self.adapted: list[tuple[nn.Module, str, nn.Module]] = []
        self.dtype = torch.float64

    @rule(name=st.sampled_from(WEIGHED))
    def change(self, name: str) -> None:
        if self.world.family in CASES[name][1] and not (self.adapted and "state" in name):
            self.world.do(CASES[name][0])

    @rule(part=st.sampled_from(["down", "block", "norm", "embed"]), outer=st.booleans())
    def hook(self, part: str, outer: bool) -> None:
        # a norm of TransformerLens may compute by itself
        outer = outer or part == "norm"
        self.world.do(
            lambda place: self.handles.append(
                place.at(part, outer=outer).register_forward_hook(_more, with_kwargs=True)
            )
        )

    @precondition(lambda self: self.handles)
    @rule()
    def unhook(self) -> None:
        for _ in range(2):
            self.handles.pop().remove()

    @precondition(lambda self: not self.adapted)
    @rule()
    def adapt(self) -> None:
        def put(place: Place) -> None:
            path, module = place.paths("down")[-1], place.at("down")
            parent, _, name = path.rpartition(".")
            owner = place.root.get_submodule(parent)
            adapter = LoRA(module, module.weight).to(module.weight.dtype).requires_grad_(False)
            setattr(owner, name, adapter)
            self.adapted.append((owner, name, module))

        self.world.do(put)

    @precondition(lambda self: self.adapted)
    @rule()
    def take_off(self) -> None:
        for owner, name, module in self.adapted:
            setattr(owner, name, module)
        self.adapted.clear()

    @rule(dtype=st.sampled_from([torch.float64, torch.float32]))
    def cast(self, dtype: torch.dtype) -> None:
        self.world.do(lambda place: place.root.to(dtype))

    @rule(scaling=st.sampled_from([0.5, 0.9]))
    @precondition(lambda self: self.world.family == "llama")
    def rescale(self, scaling: float) -> None:
        self.world.do(setting("attention", scaling=scaling))

    @invariant()
    def right(self) -> None:
        said = {engine: self.world.wrong(engine) for engine in ("auto", *BOTH)}
        beside = self.handles or self.adapted
        assert said["auto"] == "" == said["hooks"], said
        assert said["replay"].startswith("refuses" if beside else ""), said
        assert bool(said["replay"]) == bool(beside), said

    def teardown(self) -> None:
        self.folder.cleanup()


TestSequence = pytest.mark.plain(Sequence.TestCase)
TestSequence.settings = settings(
    max_examples=5,
    stateful_step_count=6,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)


# Adapters of PEFT


def _injected(place: Place, part: str) -> None:
    """Real LoRA, as its own library puts it into a model."""
    peft = pytest.importorskip("peft")
    module = place.at(part)
    paths = [path for path, found in place.root.named_modules() if found is module]
    given = peft.LoraConfig(
        r=2, target_modules=paths, init_lora_weights=False, fan_in_fan_out="Conv1D" in str(module)
    )
    peft.inject_adapter_in_model(given, place.root)
    generator = torch.Generator().manual_seed(3)
    learned = {name[-21:]: p for name, p in place.root.named_parameters() if "lora_" in name}
    for _, p in sorted(learned.items()):
        p.data = 0.3 * torch.randn(p.shape, generator=generator).double()
    place.root.requires_grad_(False)


@pytest.mark.parametrize("part", ["down", "query"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_adapter_of_peft_runs_through_hooks(family, part, tmp_path):
    """Or is refused, where TransformerLens computes around it."""
    world = World(family, tmp_path)
    before = world.truth()
    world.do(lambda place: _injected(place, part))
    assert np.abs(world.truth() - before).max() > 1e-3
    assert "peft.Linear" in world.wrong("replay")
    for engine in ("auto", "hooks"):
        around = family == "gpt2" and part == "query"
        assert world.wrong(engine)[:7] == ("refuses" if around else "")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3.0),
        torch.tensor([True]),
        torch.ones(3, dtype=torch.bfloat16),
        torch.ones(1).expand(1_000_000),
        torch.ones(2, 3).T,
    ],
    ids=str,
)
def test_a_glimpse_of_any_tensor_is_of_its_own_memory(tensor):
    before, storage = glimpse(tensor), tensor.untyped_storage()
    kept = bytes(storage)
    storage.fill_(0)  # no counter shows it
    assert before
    assert glimpse(tensor) == 0
    storage.copy_(torch.UntypedStorage(list(kept)))
    assert glimpse(tensor) == before


def test_a_glimpse_of_what_has_no_memory_here_is_none():
    assert glimpse(torch.zeros(0)) is glimpse(torch.zeros(2, device="meta")) is None
