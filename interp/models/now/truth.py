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
from types import MethodType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent

from interp.core.door.alone import undone
from interp.core.errors import InterpError, ModelError, Unsupported, is_short, said
from interp.models.bridge import quantised, rotary
from interp.models.bridge.placed import listening
from interp.models.now.watch import HOOKS, Foreign, Watch

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
        id(p): nn.Parameter(torch.empty(p.shape, dtype=p.dtype, device="meta"), requires_grad=False)
        for p in module.parameters()
    }
    configs = (getattr(part, "config", None) for part in module.modules())
    memo |= {id(config): config for config in configs if config is not None}
    # scales that are in no parameter: they are lent with the module
    memo |= {id(held): held for part in module.modules() for held in quantised.shared(part)}
    return copy.deepcopy(module, memo).eval()


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; one that has several names under each of them."""
    held = [*module.named_parameters(remove_duplicate=False)]
    return dict([*held, *module.named_buffers(remove_duplicate=False)])


@contextmanager
def guarded(watch: Watch, foreign: Sequence[Foreign]) -> Iterator[None]:
    """Whatever fails inside of the block, where a model runs, is a refusal that says why.

    Memory that does not last is let through: callers try again with less.

    Raises:
        ModelError: with what failed, and what was put on the model or changed.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, InterpError) or is_short(error):
            raise
        raise ModelError(_failed(said(error), [*map(str, foreign), *watch.changed()])) from error


def _failed(what: str, likely: Sequence[str]) -> str:
    more = f" and {len(likely) - 3} more" if len(likely) > 3 else ""
    why = (
        f"Likely because of what came onto it after it was loaded: {'; '.join(likely[:3])}{more}. "
        "Take that off or put it right"
        if likely
        else "Likely a weight or a setting of it is such that it cannot run: see what was changed "
        "since it was loaded, and put it right"
    )
    return f"the model as it is now cannot run: {what}. {why}, or load the model anew."


class Truth:
    """The unwrapped model, over the numbers of the wrapped one."""

    def __init__(
        self, skeleton: nn.Module, named: Mapping[str, Tensor], watch: Watch, *, head: bool
    ) -> None:
        """`named`: parameters and buffers of the model before it was wrapped. `head`: there is a
        trained one, so the output is logits.
        """
        found: dict[int, list[str]] = {}
        for place, tensor in named_tensors(watch.wrapped).items():
            found.setdefault(id(tensor), []).append(place)
        self.skeleton, self.watch, self.head = skeleton, watch, head
        # of a tied tensor the place of the same name: it may be untied later
        self.places = {
            name: next((p for p in found[id(t)] if _stripped(p) == name), found[id(t)][0])
            for name, t in named.items()
            if id(t) in found
        }
        self._remembering = rotary.remembering(skeleton)
        # what a run writes begins as a copy of what it was made as
        self._copied = {
            f"{prefix}.{name}": _start(f"{prefix}.{name}")
            for prefix, module in skeleton.named_modules()
            for name in rotary.passing(module)
        }
        self._modules = dict(skeleton.named_modules(remove_duplicate=False))
        self.names = self._named()  # now, while nothing foreign stands there

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
        if component in self.names:
            return self.names[component]
        inner = getattr(component, "original_component", component)
        weight = next(inner.parameters())
        held = named_tensors(self.watch.wrapped)
        known = {id(held[place]): name for name, place in self.places.items() if place in held}
        return known[id(weight)].rpartition(".")[0]

    def _named(self) -> dict[nn.Module | None, str]:
        """Hugging Face's names of what the parts of the bridge stand for."""
        held = self.watch.wrapped.named_modules(remove_duplicate=False)
        known = [(module, _stripped(name)) for name, module in held]
        found: dict[nn.Module | None, str] = {
            m: name for m, name in reversed(known) if name in self._modules
        }
        # some of the bridge's parts stand beside what they are for, not in its place
        around = [(m, m._modules.get("_original_component")) for m, _ in known]
        return {outer: found[inner] for outer, inner in around if inner in found} | found

    @torch.no_grad()
    def run(
        self,
        tokens: Int[Tensor, "batch pos"],
        *,
        note: Mapping[str, str] | None = None,
        foreign: Sequence[Foreign] = (),
        wide: bool = False,
        **inputs: Tensor,
    ) -> Said:
        """A plain forward with the numbers, and what is foreign, that there are now.

        Args:
            note: modules to listen to, each with "in" or "out".
            foreign: what stands on the wrapped model; what stands on a part of TransformerLens
                alone is left out.
            wide: the same numbers in float32, a copy of them, for what half precision rounds away.
            inputs: more of what the model takes. An encoder-decoder decodes `decoder_input_ids`, or
                the ids that it read.

        Raises:
            Unsupported: what is foreign has no place in Hugging Face's model, or the weights are
                none of its any more.
            ModelError: the model as it is now cannot run.
        """
        with guarded(self.watch, foreign):
            return self._run(tokens, note or {}, foreign, inputs, wide=wide)

    def _run(
        self,
        tokens: Int[Tensor, "batch pos"],
        note: Mapping[str, str],
        foreign: Sequence[Foreign],
        inputs: dict[str, Tensor],
        *,
        wide: bool,
    ) -> Said:
        if getattr(self.watch.bridge, "_weights_processed", False):
            raise Unsupported(
                "TransformerLens rewrote the weights (process_weights, enable_compatibility_mode), "
                "and Hugging Face's model does not compute the same with them. Load the model anew."
            )
        standing = self.standing(foreign)
        for one in foreign:
            theirs = isinstance(one.module, GeneralizedComponent | HookPoint)
            if one not in standing and not theirs and one.what != "global":
                raise Unsupported(
                    f"{one} has no place in Hugging Face's model, so what the model computes with "
                    "it cannot be known. Take it off, or put it on the module of Hugging Face's "
                    "that it is meant for."
                )
        if self.skeleton.config.is_encoder_decoder:
            inputs = {"decoder_input_ids": tokens, **inputs}
        self._follow()
        noted: dict[str, Tensor] = {}
        held = self.tensors()
        held |= {name: held[start].clone() for name, start in self._copied.items()}
        if wide:
            held = {name: _widened(tensor) for name, tensor in held.items()}
        with rotary.alone(self._remembering), ExitStack() as stack:
            lent = {place: module for place, module in standing.values() if module is not None}
            for place, module in lent.items():
                stack.enter_context(self._lent(place, module))
            for one, (place, module) in standing.items():
                if module is None:
                    stack.enter_context(self._shared(place, one))
            stack.enter_context(self._emptied())
            for name, side in note.items():
                hook = _noting(noted, name, side)
                module = self.skeleton.get_submodule(name)
                stack.enter_context(listening(module, hook, with_kwargs=True))
            body = self.skeleton if self.head else self.skeleton.base_model
            last: list[Any] = []
            stack.enter_context(listening(body, lambda module, given, made: last.append(made)))
            there = named_tensors(self.skeleton)
            # what is lent has its own
            own = tuple(f"{place}." for place in lent)
            functional_call(
                self.skeleton,
                {name: held[name] for name in there if name in held and not name.startswith(own)},
                kwargs={"input_ids": tokens, **inputs},
                tie_weights=False,
            )
        output = last[0].logits if self.head else last[0].last_hidden_state
        return Said(output.to(tokens.device), noted)

    def _follow(self) -> None:
        """Take over the plain settings of the wrapped model's modules."""
        for name, settings in self.watch.plain():
            if (here := self._modules.get(_stripped(name))) is not None:
                vars(here).update({k: self._rebound(held) for k, held in settings.items()})

    def _rebound(self, held: Any) -> Any:
        """A method of a wrapped module as one of the module that stands for it here."""
        if not isinstance(held, MethodType) or not isinstance(held.__self__, nn.Module):
            return held
        here = self._modules.get(_stripped(self.watch.names.get(held.__self__, " ")))
        return held if here is None else MethodType(held.__func__, here)

    @contextmanager
    def _emptied(self) -> Iterator[None]:
        """A parameter that was set to None is None here too, inside of the block."""
        found = [name for name, place in self.places.items() if _empty(self.watch.wrapped, place)]
        held = [(self._modules[o]._parameters, n) for o, _, n in (f.rpartition(".") for f in found)]
        before = [(own, name, own[name]) for own, name in held if name in own]

        def put_back() -> None:
            for own, name, parameter in before:
                own[name] = parameter

        with undone(put_back):
            for own, name, _ in before:
                own[name] = None
            yield

    def standing(self, foreign: Sequence[Foreign]) -> dict[Foreign, tuple[str, nn.Module | None]]:
        """Where what is foreign stands here, and the module of the wrapped model that can stand
        there as it is: what is new itself, or the part of Hugging Face's that it was put on or
        into. None: only hooks stand there, on a part that is TransformerLens' or has such parts.

        What has no place here is left out.
        """
        paths: dict[nn.Module, list[str]] = {}
        if any(one.what == "module" for one in foreign):
            for path, module in self.watch.wrapped.named_modules(remove_duplicate=False):
                paths.setdefault(module, []).append(path)
        found = ((one, self._place(one, paths.get(one.module, []))) for one in foreign)
        return {one: place for one, place in found if place is not None}

    def _place(self, one: Foreign, paths: Sequence[str]) -> tuple[str, nn.Module | None] | None:
        if one.what == "module":
            return self._host(one.module, paths)
        name = self.names.get(one.module)
        if name is None or one.point or one.what == "global":
            return None
        if _plain(one.module):
            return name, one.module
        return (name, None) if one.what == "hook" else None

    def _host(self, new: nn.Module, paths: Sequence[str]) -> tuple[str, nn.Module] | None:
        for path in paths:
            while path:
                module, name = self.watch.wrapped.get_submodule(path), _stripped(path)
                if name in self._modules and (module is new or _plain(module)):
                    return name, module
                path = path.rpartition(".")[0]
        return None

    @contextmanager
    def _lent(self, place: str, module: nn.Module) -> Iterator[None]:
        """A module stands at a place here, inside of the block."""
        parent, _, last = place.rpartition(".")
        owner = self.skeleton.get_submodule(parent)
        before = owner._modules[last]
        with undone(lambda: owner._modules.update({last: before})):
            owner._modules[last] = module
            yield

    @contextmanager
    def _shared(self, place: str, one: Foreign) -> Iterator[None]:
        """Hooks stand at a place here too, inside of the block."""
        here = self.skeleton.get_submodule(place)
        added = {kind: self.watch.added(one.module, kind) for kind in HOOKS}

        def put_back() -> None:
            for kind, hooks in added.items():
                for key in hooks:
                    getattr(here, kind).pop(key, None)
                    getattr(here, f"{kind}_with_kwargs").pop(key, None)

        with undone(put_back):
            for kind, hooks in added.items():
                flags = getattr(one.module, f"{kind}_with_kwargs")
                known = {key: flags[key] for key in hooks if key in flags}
                getattr(here, f"{kind}_with_kwargs").update(known)
                getattr(here, kind).update(hooks)
            yield


def _start(name: str) -> str:
    """Where a rotary module keeps the angles' frequencies that it began with."""
    return f"{name.removesuffix('inv_freq')}original_inv_freq"


def _stripped(name: str) -> str:
    return name.replace(ORIGINAL, "").removesuffix(f".{ORIGINAL[:-1]}")


def _plain(module: nn.Module) -> bool:
    """Is nothing of TransformerLens in it?"""
    return not any(isinstance(m, GeneralizedComponent | HookPoint) for m in module.modules())


def _tensor(root: nn.Module, place: str) -> Tensor | None:
    """A parameter or buffer by its name; None where there is none any more."""
    module, _, name = place.rpartition(".")
    try:
        owner = root.get_submodule(module)
    except AttributeError:
        return None
    found = owner._parameters.get(name)
    return owner._buffers.get(name) if found is None else found


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _empty(root: nn.Module, place: str) -> bool:
    """Was a parameter set to None?"""
    module, _, name = place.rpartition(".")
    try:
        return root.get_submodule(module)._parameters.get(name, root) is None
    except AttributeError:
        return False


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
    def run(
        self,
        tokens: Int[Tensor, "batch pos"],
        *,
        foreign: Sequence[Foreign] = (),
        wide: bool = False,
    ) -> Said:
        """A plain forward; `wide`: of the same numbers in float32."""
        held = self.tensors()
        if wide:
            held = {name: _widened(tensor) for name, tensor in held.items()}
        return Said(functional_call(self.module, held, kwargs={"input_ids": tokens}).logits)
