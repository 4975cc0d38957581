"""The Hugging Face model as it is now: what every engine is verified against.

TransformerLens replaces a model's parts by its own, so after wrapping the model itself is no longer
there. Its modules are kept as a *skeleton* without numbers, which borrows those of the wrapped
model for each run: there is no second copy of the weights. Hooks and adapters that were put on the
wrapped model stand on the skeleton too, for the time of a run.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from interp.models import rotary
from interp.models.watch import HOOKS, Foreign, Watch

ORIGINAL = "_original_component."
"""In a name: behind it the bridge keeps the module that it stands for."""


@dataclass(frozen=True, eq=False)
class Said:
    """What a plain run of the Hugging Face model gives.

    Attributes:
        output: the logits, or the last hidden state where there is no trained head.
        noted: what went into, or came out of, the modules that were asked for, by name.
    """

    output: Float[Tensor, "batch pos out"]
    noted: Mapping[str, Tensor] = field(default_factory=dict)


def skeleton_of(module: nn.Module) -> nn.Module:
    """A copy of a model's modules without numbers; its configuration is the model's own."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False)
        for p in module.parameters()
    }
    configs = (getattr(part, "config", None) for part in module.modules())
    memo |= {id(config): config for config in configs if config is not None}
    return copy.deepcopy(module, memo).eval()


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; one that has several names under each of them."""
    held = [*module.named_parameters(remove_duplicate=False)]
    return dict([*held, *module.named_buffers(remove_duplicate=False)])


class Truth:
    """The unwrapped model, over the numbers of the wrapped one."""

    def __init__(
        self, skeleton: nn.Module, named: Mapping[str, Tensor], watch: Watch, *, head: bool
    ) -> None:
        """`named`: parameters and buffers of the model before it was wrapped. `head`: there is a
        trained one, so the output is logits.
        """
        found = {
            id(tensor): name for name, tensor in reversed(named_tensors(watch.wrapped).items())
        }
        self.skeleton, self.watch, self.head = skeleton, watch, head
        self.places = {
            name: found[id(tensor)] for name, tensor in named.items() if id(tensor) in found
        }
        self._remembering = rotary.remembering(skeleton)
        # what a run writes begins as a copy of what it was made as
        self._copied = {
            f"{prefix}.{name}": _start(f"{prefix}.{name}")
            for prefix, module in skeleton.named_modules()
            for name in rotary.passing(module)
        }
        self._modules = dict(skeleton.named_modules(remove_duplicate=False))

    def tensors(self) -> dict[str, Tensor]:
        """The model's own parameters and buffers as they are, under Hugging Face's names."""
        known = {name: _tensor(self.watch.wrapped, place) for name, place in self.places.items()}
        return {name: held for name, held in known.items() if held is not None}

    def parameters(self) -> dict[str, Tensor]:
        """What is learned of them."""
        learned = dict(self.skeleton.named_parameters(remove_duplicate=False))
        return {name: held for name, held in self.tensors().items() if name in learned}

    def name_of(self, component: nn.Module) -> str:
        """The name that Hugging Face's model has for what a part of the bridge stands for."""
        if id(component) in self.names:
            return self.names[id(component)]
        inner = getattr(component, "original_component", component)
        weight = next(inner.parameters())
        held = named_tensors(self.watch.wrapped)
        known = {id(held[place]): name for name, place in self.places.items() if place in held}
        return known[id(weight)].rpartition(".")[0]

    @cached_property
    def names(self) -> dict[int, str]:
        """The names that Hugging Face's model has for the parts of the bridge, by their identity."""
        held = self.watch.wrapped.named_modules(remove_duplicate=False)
        known = [(id(module), _stripped(name)) for name, module in held]
        return {key: name for key, name in reversed(known) if name in self._modules}

    @torch.no_grad()
    def run(
        self,
        tokens: Int[Tensor, "batch pos"],
        *,
        note: Mapping[str, str] | None = None,
        foreign: Sequence[Foreign] = (),
        **inputs: Tensor,
    ) -> Said:
        """A plain forward with the numbers, and what is foreign, that there are now.

        Args:
            note: modules to listen to, each with "in" or "out".
            foreign: what stands on the wrapped model; what has no place here is left out.
            inputs: more of what the model takes. An encoder-decoder decodes `decoder_input_ids`, or
                the ids that it read.
        """
        if self.skeleton.config.is_encoder_decoder:
            inputs = {"decoder_input_ids": tokens, **inputs}
        self._follow()
        noted: dict[str, Tensor] = {}
        held = self.tensors()
        held |= {name: held[start].clone() for name, start in self._copied.items()}
        with rotary.alone(self._remembering), ExitStack() as stack:
            for one in foreign:
                stack.enter_context(self._shared(one))
            for name, side in (note or {}).items():
                hook = _noting(noted, name, side)
                module = self.skeleton.get_submodule(name)
                handle = module.register_forward_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
            body = self.skeleton if self.head else self.skeleton.base_model
            last: list[Any] = []
            handle = body.register_forward_hook(lambda module, given, made: last.append(made))
            stack.callback(handle.remove)
            there = named_tensors(self.skeleton)
            functional_call(
                self.skeleton,
                {name: held[name] for name in there if name in held},
                kwargs={"input_ids": tokens, **inputs},
                tie_weights=False,
            )
        return Said(last[0].logits if self.head else last[0].last_hidden_state, noted)

    def _follow(self) -> None:
        """Take over the plain settings of the wrapped model's modules."""
        for name, settings in self.watch.plain():
            if (here := self._modules.get(_stripped(name))) is not None:
                vars(here).update(settings)

    def serves(self, one: Foreign) -> bool:
        """Can what is foreign stand here? A hook point is TransformerLens' own."""
        return not one.point and _stripped(one.name) in self._modules

    @contextmanager
    def _shared(self, one: Foreign) -> Iterator[None]:
        """What is foreign stands at the same place here, inside of the block."""
        if not self.serves(one):
            yield
            return
        name = _stripped(one.name)
        if one.what != "hook":
            parent, _, last = name.rpartition(".")
            owner = self.skeleton.get_submodule(parent)
            before, owner._modules[last] = owner._modules[last], one.module
            try:
                yield
            finally:
                owner._modules[last] = before
            return
        here, held = self.skeleton.get_submodule(name), []
        for kind in HOOKS:
            added = self.watch.added(one.module, kind)
            held.append((getattr(here, kind), added))
            getattr(here, kind).update(added)
            flags = getattr(one.module, f"{kind}_with_kwargs")
            getattr(here, f"{kind}_with_kwargs").update({k: flags[k] for k in added if k in flags})
        try:
            yield
        finally:
            for hooks, added in held:
                for key in added:
                    del hooks[key]


def _start(name: str) -> str:
    """Where a rotary module keeps the angles' frequencies that it began with."""
    return f"{name.removesuffix('inv_freq')}original_inv_freq"


def _stripped(name: str) -> str:
    return name.replace(ORIGINAL, "").removesuffix(f".{ORIGINAL[:-1]}")


def _tensor(root: nn.Module, place: str) -> Tensor | None:
    """A parameter or buffer by its name; None where there is none any more."""
    module, _, name = place.rpartition(".")
    try:
        owner = root.get_submodule(module)
    except AttributeError:
        return None
    found = owner._parameters.get(name)
    return owner._buffers.get(name) if found is None else found


def _noting(noted: dict[str, Tensor], name: str, side: str) -> Callable[..., None]:
    def note(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], made: Any) -> None:
        found = made if side == "out" else args[0] if args else named["hidden_states"]
        noted[name] = (found[0] if isinstance(found, tuple) else found).detach().clone()

    return note


class Itself:
    """The truth of a model that nothing wraps."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def tensors(self) -> dict[str, Tensor]:
        """Its parameters and buffers by name."""
        return named_tensors(self.module)

    def parameters(self) -> dict[str, Tensor]:
        """What is learned of them."""
        return dict(self.module.named_parameters())

    @torch.no_grad()
    def run(self, tokens: Int[Tensor, "batch pos"], *, foreign: Sequence[Foreign] = ()) -> Said:
        """A plain forward."""
        return Said(self.module(input_ids=tokens).logits)
