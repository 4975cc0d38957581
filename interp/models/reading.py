"""What transformers makes of a folder: its config, its tokenizer, its weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.hooks import remove_hook_from_module
from torch import nn
from transformer_lens.model_bridge.sources._hf_format import determine_architecture_from_hf_config
from transformer_lens.model_bridge.sources.transformers.helpers import (
    get_hf_model_class_for_architecture,
)
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from interp.core.errors import InterpError, ModelError, Unsupported, said
from interp.models.bridge import (
    encoders,
    unequal,  # noqa: F401 its adapters take the place of those that refuse
)
from interp.models.bridge.quantised import multiply_as_asked
from interp.models.bridge.vision import ALIKE
from interp.models.finding import bounds, folder, keys
from interp.models.finding.spread import Spread, require_whole, settled

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")


@contextmanager
def readable(what: str, remedy: str) -> Iterator[None]:
    """Whatever goes wrong in other libraries' code becomes one sentence and a remedy.

    Raises:
        ModelError: with what they said.
    """
    try:
        yield
    except InterpError:
        raise
    except Exception as error:
        raise ModelError(f"{what}: {said(error)}. {remedy}.") from error


def tokenizer_in(home: Path) -> PreTrainedTokenizerBase | None:
    if not any((home / file).exists() for file in _TOKENIZER_FILES):
        return None
    remedy = (
        "Likely a file is damaged, or the tokenizer needs a package that is not installed. Fetch "
        "the files again; or take them away, and give token ids instead of text"
    )
    with readable(f"the tokenizer files in {home} cannot be read", remedy):
        tokenizer = AutoTokenizer.from_pretrained(home, trust_remote_code=False)
        words = len(tokenizer) - len(tokenizer.all_special_ids)
    if words <= 0:
        raise ModelError(
            f"the tokenizer files in {home} hold {len(tokenizer)} special tokens and no others, so "
            f"every text would say nothing. Likely a file of {type(tokenizer).__name__} is missing "
            "(tokenizer.json, or vocab.json and merges.txt): fetch them all."
        )
    return tokenizer


def config_in(home: Path) -> PreTrainedConfig:
    remedy = (
        "Likely it is damaged, needs a newer transformers or code of its own (which is not run), "
        "or is not a transformers config"
    )
    with readable(f"{home / 'config.json'} cannot be read", remedy):
        return AutoConfig.from_pretrained(home, trust_remote_code=False)


def shapes_in(home: Path, raw: dict[str, Any]) -> folder.Shapes:
    """The tensors in the files; the config must be one that they can be the weights of."""
    named = raw.get("transformers_weights")
    if named is not None and (not isinstance(named, str) or Path(named).name != named):
        raise ModelError(
            f"{home / 'config.json'} names {named!r:.80} as its weights, which is no file's name. "
            "Take transformers_weights out of it."
        )
    shapes = folder.weights(home, named, quantised=raw.get("quantization_config") is not None)
    bounds.require_counts(raw, shapes, home)
    return shapes


def class_of(config: PreTrainedConfig, name: str) -> tuple[str, Any]:
    """The architecture's name, and transformers' class that makes models of it.

    Raises:
        Unsupported: TransformerLens does not know it.
    """
    named = {*(config.architectures or ())} & {*encoders.BY_TYPE.values()}
    if named or config.model_type in encoders.BY_TYPE:
        return (named or {encoders.BY_TYPE[config.model_type]}).pop(), AutoModelForMaskedLM
    alike = ALIKE.get((config.architectures or [""])[0])
    try:
        architecture = alike or determine_architecture_from_hf_config(config)
        return architecture, get_hf_model_class_for_architecture(architecture)
    except Exception as error:
        raise Unsupported(
            f"TransformerLens cannot wrap {config.architectures or config.model_type} "
            f"({name}). Its model table lists what it can."
        ) from error


def model_in(
    home: Path,
    config: PreTrainedConfig,
    shapes: folder.Shapes,
    dtype: torch.dtype | Literal["auto"],
    where: torch.device,
    spread: Spread | Literal["auto"] | None,
) -> tuple[PreTrainedModel, str, bool]:
    """The Hugging Face model, its architecture's name, and whether its head was never trained."""
    architecture, auto_class = class_of(config, str(home))
    remedy = (
        "Likely config.json is damaged or belongs to other weights, or the weights are quantised "
        "and need a package that is not installed. "
        f"{auto_class.__name__}.from_pretrained(folder) must work first"
    )
    quantised = getattr(config, "quantization_config", None) is not None
    with readable(f"transformers cannot make a model of {home}", remedy):
        bounds.require_size(auto_class, config, shapes, home, quantised=quantised)
        places = settled(spread, where, auto_class, config, dtype)
        hf, info = auto_class.from_pretrained(
            home,
            dtype=dtype,
            device_map=places,  # straight to where they stay
            attn_implementation="eager",  # the fused kernels compute no pattern to hook
            experts_implementation="eager",  # and those of experts want certain widths and dtypes
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
        )
    multiply_as_asked(hf)
    remove_hook_from_module(hf, recurse=True)  # accelerate's move every part's input each time
    if places is not None and len(places) > 1:
        require_whole(hf)
        vars(hf).pop("hf_device_map", None)  # by which others hook it
    missing = keys.require_fit(hf, info, shapes, home)
    state = hf.state_dict()  # tied parameters under each of their names
    for key in missing:  # a random head would give other logits at every load
        nn.init.zeros_(state[key])
    return hf, architecture, bool(missing)
