"""A model in memory, and the view of it that becomes a `Model`.

TransformerLens puts its own parts in the place of a module's. So that somebody's module stays what
it is, they are put into a view: modules of their own over the same numbers.
"""

import copy
import os
from pathlib import Path
from typing import Annotated, Any

import torch
from accelerate.hooks import remove_hook_from_module
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
from transformers import PreTrainedConfig, PreTrainedModel

from interp.core.door.taken import Told, a, shown
from interp.core.errors import ModelError
from interp.models.bridge import quantised
from interp.models.finding.place import name_of
from interp.models.model import Model
from interp.models.now.watch import HOOKS, looks


def given_of(given: object) -> object:
    """A name, a folder, or a model in memory that can be wrapped.

    Raises:
        ModelError: it is none.
    """
    if isinstance(given, Model):
        raise ModelError(
            f"{given.name} is a Model already; it sees its weights as they are now, so it need not "
            "be loaded again. To have another with numbers of its own: copy.deepcopy(model)."
        )
    if isinstance(given, TransformerBridge) or not isinstance(given, nn.Module):
        return _wrapped(given) if isinstance(given, nn.Module) else name_of(given)
    if hasattr(given, "peft_config"):
        raise ModelError(
            f"{a(type(given).__name__)} has an adapter of PEFT in it. Merge it first, "
            "interp.load(model.merge_and_unload(), ...); or load the base with its folder, "
            "interp.load(name, adapter=folder)."
        )
    inner = getattr(given, "module", None) or getattr(given, "_orig_mod", None)
    if isinstance(inner, PreTrainedModel):
        where = "module" if getattr(given, "module", None) is inner else "_orig_mod"
        raise ModelError(
            f"{a(type(given).__name__)} has the model inside of it; give that: model.{where}."
        )
    if not isinstance(given, PreTrainedModel):
        raise ModelError(
            f"{a(type(given).__name__)} is no model of transformers, which is what is taken from "
            "memory (a PreTrainedModel). Make others with interp.models.small.native.build, or "
            "save them as transformers does and give the folder."
        )
    _require_bare(given)
    return given


def _wrapped(given: nn.Module) -> object:
    raise ModelError(
        f"{a(type(given).__name__)} is wrapped by TransformerLens, so that what the model computes "
        "by itself cannot be known any more. Give Hugging Face's model, before it is wrapped."
    )


def _require_bare(module: PreTrainedModel) -> None:
    """Refuse a model that computes by more than its weights and its class.

    Raises:
        ModelError: with what stands on it, or which numbers it lacks.
    """
    if any(isinstance(m, GeneralizedComponent | HookPoint) for m in module.modules()):
        _wrapped(module)
    if lacking := [name for name, p in module.named_parameters() if p.is_meta]:
        raise ModelError(
            f"{len(lacking)} parameters of the {type(module).__name__} have no numbers here "
            f"(device 'meta'), e.g. {lacking[0]}: they were offloaded, or never loaded. Load it "
            "whole onto its devices."
        )
    names = {id(m): name or "the model" for name, m in module.named_modules()}
    odd = [
        f"{len(hooks)} hook(s) on {names[id(m)]}"
        for m in module.modules()
        for kind in HOOKS
        if (hooks := [hook for hook in getattr(m, kind).values() if not looks(hook)])
    ]
    odd += [
        f"a forward of its own at {names[id(m)]}"
        for m in module.modules()
        if "forward" in vars(m) and not hasattr(m, "_hf_hook")  # which the view is without
    ]
    if odd:
        more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
        raise ModelError(
            f"the {type(module).__name__} has {', '.join(odd[:3])}{more}, so it is more than its "
            "weights. Take that off, and put it on model.bridge.original_model afterwards, where "
            "every call sees it and its code is a part of the model's identity."
        )


def refuse_beside(module: PreTrainedModel, options: dict[str, Any]) -> None:
    """Refuse what is said of a model that is read, beside one that is there.

    Args:
        options: those that were given.

    Raises:
        ModelError: naming the first.
    """
    remedies = {
        "device": "Move it before: model.to(device)",
        "dtype": "Cast it before: model.to(dtype)",
        "device_map": "Share it out where it is read: from_pretrained(..., device_map=...)",
        "revision": "It is what it is, whatever it was read from",
        "adapter": "An adapter is merged into weights that are read, and these are yours. Merge "
        "it with PEFT before (merge_and_unload), or load the base by name",
    }
    for name, value in options.items():
        raise ModelError(
            f"{name}={shown(value)} was given beside {a(type(module).__name__)} in memory, which "
            f"is taken as it is. {remedies[name]}; and leave {name}= out."
        )


def name_in(module: PreTrainedModel) -> str:
    """What a model in memory is called: by where it was read first, or by its class."""
    named = str(getattr(module.config, "_name_or_path", "") or "")
    if Path(named).is_absolute() or Path(named).is_dir():  # it need not be what lies there now
        named = Path(named).name
    return f"{named or type(module).__name__} (in memory)"


def view_of(module: PreTrainedModel) -> PreTrainedModel:
    """Modules like a model's over the same numbers, with eager attention; the model is untouched.

    The fused kernels of attention compute no pattern to look at, so the view's configs say "eager",
    whatever the model's own say. Both compute the same but for rounding.

    Raises:
        ModelError: the model's class chose a kernel for good when it was made.
    """
    _require_choice(module)
    memo: dict[int, Any] = {id(p): _alias(p) for p in module.parameters()}
    memo |= {id(b): b for b in module.buffers()}
    # scales that are in no parameter
    memo |= {id(held): held for part in module.modules() for held in quantised.shared(part)}
    view = copy.deepcopy(module, memo)
    remove_hook_from_module(view, recurse=True)  # accelerate's move every part's input each time
    vars(view).pop("hf_device_map", None)
    quantised.multiply_as_asked(view)
    view.config.architectures = [type(module).__name__]
    configs = {id(c): c for m in view.modules() if (c := getattr(m, "config", None)) is not None}
    for config in configs.values():  # parts of some models have one of their own
        if isinstance(config, PreTrainedConfig):
            config._attn_implementation = config._experts_implementation = "eager"
    return view.eval()


def _require_choice(module: PreTrainedModel) -> None:
    kernel = module.config._attn_implementation
    if kernel not in ("eager", None) and not module._can_set_attn_implementation():
        raise ModelError(
            f"the attention of {type(module).__name__} was made as {kernel!r}, which computes no "
            "pattern, and its class cannot change it afterwards. Make the model with "
            "attn_implementation='eager'."
        )


def _alias(parameter: Tensor) -> Tensor:
    """A parameter over the same memory, without gradients; what packs numbers is itself."""
    if type(parameter) is not nn.Parameter:
        return parameter
    with torch.no_grad():
        return nn.Parameter(parameter.detach(), requires_grad=False)


Given = Annotated[str | os.PathLike[str] | PreTrainedModel, Told(given_of)]
