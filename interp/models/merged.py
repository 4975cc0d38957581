"""LoRA adapters, merged into the weights that they change.

PEFT puts an adapter on a model and merges it; what each part of the merged model computes is held
against what PEFT's own layers computed just before. Replay reads weights, so it serves what is
merged.
"""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from interp.core.door.taken import shown
from interp.core.errors import ModelError, Unsupported, said
from interp.models.bridge import quantised
from interp.models.bridge.placed import listening
from interp.models.bridge.precision import rounding, undetoured
from interp.models.finding.adapter import WEIGHTS, Adapter
from interp.models.now.checks import off, output_of, sample_tokens


def merge(hf: PreTrainedModel, adapters: Sequence[Adapter], name: str, *, headless: bool) -> None:
    """Merge adapters into a model's weights, one after the other.

    Args:
        name: of the model, in words.

    Raises:
        ModelError: PEFT is not installed, an adapter is of another base or damaged, or what comes
            out is not what PEFT computes.
        Unsupported: weights in few bits, into which nothing is merged exactly.
    """
    peft = _peft()
    packed = sorted({quantised.told(m) for m in hf.modules() if quantised.apart(m)})
    if packed:
        raise Unsupported(
            f"{name} keeps weights in few bits ({', '.join(packed)}), and merging an adapter into "
            "them would round it away. Load the model in float16 or wider."
        )
    for adapter in adapters:
        _merge(peft, hf, adapter, name, headless=headless)


def _peft() -> ModuleType:
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        raise ModelError(
            f"adapters are merged by the package peft, which cannot be imported ({said(error)}). "
            "Install it: pip install 'interp[peft]'."
        ) from error


def _merge(
    peft: ModuleType, hf: PreTrainedModel, adapter: Adapter, name: str, *, headless: bool
) -> None:
    config = _config(peft, adapter)
    try:
        on = peft.get_peft_model(hf, config)
        expected = peft.get_peft_model_state_dict(on, save_embedding_layers=False)
    except Exception as error:
        raise _of_another(adapter, name, said(error)) from error
    _require_fit(adapter, {key: tuple(t.shape) for key, t in expected.items()}, name)
    try:
        peft.set_peft_model_state_dict(on, load_file(adapter.folder / WEIGHTS))
        on.eval()
        calls = _calls(hf, headless=headless)
        on.base_model.merge_and_unload(safe_merge=True)
        gaps = {path: off(_again(hf, path, call), call.out) for path, call in calls.items()}
    except Exception as error:
        raise ModelError(
            f"{adapter.told} cannot be merged into {name}: {said(error)}. Likely it has an option "
            "that is no change of weights, or numbers that are not finite. "
            "PeftModel.from_pretrained(model, folder).merge_and_unload() must work first."
        ) from error
    _require_same(hf, adapter, name, gaps)


@dataclass(frozen=True)
class _Call:
    """What a part was given, and what it gave."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any


@torch.no_grad()
def _calls(hf: PreTrainedModel, *, headless: bool) -> dict[str, _Call]:
    """The first call of each smallest part in a plain run, by name; parts of PEFT are whole."""
    layers = importlib.import_module("peft.tuners.tuners_utils").BaseTunerLayer
    kept = importlib.import_module("peft.utils.other").AuxiliaryTrainingWrapper
    found: dict[str, _Call] = {}

    def listening_at(path: str) -> Any:
        def hear(_: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            if isinstance(out, Tensor):
                found.setdefault(path, _Call(args, kwargs, out.clone()))

        return hear

    def parts(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
        inside = [*module.named_children()]
        if not inside or isinstance(module, layers | kept):
            yield path, module
            return
        for key, part in inside:
            yield from parts(part, f"{path}.{key}".lstrip("."))

    tokens = sample_tokens(hf.get_input_embeddings().weight.shape[0], device=hf.device)
    with ExitStack() as stack:
        for path, part in parts(hf, ""):
            stack.enter_context(listening(part, listening_at(path), with_kwargs=True))
        stack.enter_context(undetoured(hf.dtype))
        output_of(hf, tokens, language_model=not headless)
    return found


@torch.no_grad()
def _again(hf: PreTrainedModel, path: str, call: _Call) -> Tensor:
    with undetoured(hf.dtype):
        return hf.get_submodule(path)(*call.args, **call.kwargs)


def _require_same(
    hf: PreTrainedModel, adapter: Adapter, name: str, gaps: Mapping[str, float | None]
) -> None:
    """Refuse a merged model of which a part is not what it was before.

    Each part is given what it was given when PEFT's layers were in the model, so that rounding does
    not add up from one to the next; with all of them that is the whole model, by induction.

    Raises:
        ModelError: naming the part that is farthest off.
    """
    worst = max(gaps, key=lambda path: gaps[path] or 0.0)
    if (gap := gaps[worst] or 0.0) <= rounding(hf.dtype):
        return
    own = id(getattr(hf.get_submodule(worst), "weight", None))
    shared = [n for n, p in hf.named_parameters(remove_duplicate=False) if id(p) == own]
    why = (
        f"its weights are shared ({' and '.join(shared)}), and the adapter changes one of them. "
        "Untie them (tie_word_embeddings=False), and train the adapter so"
        if len(shared) > 1
        else f"the numbers are too large for {hf.dtype}. Load the model in a wider one"
    )
    raise ModelError(
        f"{adapter.told} is not the same once it is merged into {name}: what {worst} gives moves "
        f"by {gap:.1e} of its size (tolerance {rounding(hf.dtype):.0e}) from what PEFT computes "
        f"without merging. Likely {why}."
    )


def _config(peft: ModuleType, adapter: Adapter) -> Any:
    """PEFT's config, of the options that it knows."""
    given = {k: v for k, v in adapter.config.items() if v is not None}
    known = {field.name for field in fields(peft.LoraConfig)}
    given.pop("peft_type")
    if odd := sorted(k for k in given.keys() - known if given[k] not in (False, [], {})):
        raise ModelError(
            f"{adapter.told} has {odd[0]}={shown(given[odd[0]])}, which peft {peft.__version__} "
            "does not know, so what it does cannot be told. Install the peft that wrote it "
            f"(peft_version={shown(adapter.config.get('peft_version'))})."
        )
    # what a task needs beside the weights, and what the base is called, change no numbers
    left = {k: v for k, v in given.items() if k in known}
    left |= {"inference_mode": True, "task_type": None, "base_model_name_or_path": None}
    try:
        return peft.LoraConfig(**left)
    except Exception as error:
        raise ModelError(
            f"peft cannot read the config of {adapter.told}: {said(error)}. Likely it was edited, "
            "or is of another version: save the adapter again."
        ) from error


def _require_fit(adapter: Adapter, expected: dict[str, tuple[int, ...]], name: str) -> None:
    """Refuse tensors that are not those of such an adapter on this model.

    Raises:
        ModelError: with names, counts and shapes.
    """
    given = adapter.shapes
    for key in sorted(given.keys() & expected.keys()):
        if given[key] != expected[key]:
            ours, theirs = (" x ".join(map(str, s)) for s in (expected[key], given[key]))
            raise _of_another(adapter, name, f"its {key} is {theirs}, and here it would be {ours}")
    if lost := sorted(expected.keys() - given.keys()):
        raise _of_another(adapter, name, f"it lacks {len(lost)} tensors, e.g. {lost[0]}")
    if more := sorted(given.keys() - expected.keys()):
        why = f"it has {len(more)} tensors that have no place here, e.g. {more[0]}"
        raise _of_another(adapter, name, why)


def _of_another(adapter: Adapter, name: str, why: str) -> ModelError:
    return ModelError(
        f"{adapter.told} does not fit {name}: {why}. Likely it was trained on another model (load "
        "that one), or its config was edited."
    )
