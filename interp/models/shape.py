"""A model without weights: what `interp.explain` needs of one, made of its config alone.

The modules are made where tensors have shapes and no numbers, so that a model of any size takes
next to no memory. TransformerLens wraps them as it wraps a model, and the facts are read from that.
"""

import copy
import hashlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import nn
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from interp.core.door.alone import undone
from interp.core.door.door import door
from interp.core.door.taken import Told, shown
from interp.core.errors import InterpError, ModelError, Unsupported, said
from interp.models import compiled
from interp.models.bridge import vision
from interp.models.bridge.facts import facts_of
from interp.models.finding.find import TOLD, find
from interp.models.finding.place import Dtype, Revision, dtype_of, name_of, revision_of
from interp.models.load import LOADING
from interp.models.model import Model
from interp.models.now.checks import EXPLAINING
from interp.models.now.live import Live, Now
from interp.models.now.truth import Itself
from interp.models.now.watch import Watch
from interp.models.quiet import quiet
from interp.models.reading import class_of, config_in, readable, tokenizer_in
from interp.models.small import native, recurrent

META = torch.device("meta")
"""Where tensors have shapes and no numbers."""
Config = str | os.PathLike[str] | PreTrainedConfig | Mapping[str, Any]


def place_of(device: object) -> torch.device:
    """A device, whether or not this machine has it.

    Raises:
        ModelError: no kind of device that models are run on.
    """
    try:
        where = torch.device(device) if isinstance(device, str | torch.device) else None
    except RuntimeError:
        where = None
    if where is None or where.type not in ("cpu", "cuda", "mps"):
        raise ModelError(
            f"device={shown(device)} is no device that models are run on. Give 'cpu', 'cuda' or "
            "'mps'; this machine need not have it."
        )
    return where


@dataclass(frozen=True, eq=False, repr=False)
class Weightless(Model):
    """The shape of a model: `interp.explain` takes it where calls take a model; nothing runs it.

    Attributes:
        where: the device that the model is thought to be on.
        precision: of its parameters.
        parameters: how many numbers are learned; tied ones count once.
        seen: what is known of it; no engine is verified on it.
    """

    where: torch.device
    precision: torch.dtype
    parameters: int
    seen: Now

    def now(self) -> Now:
        """What a call that explains itself may know.

        Raises:
            ModelError: any other call.
        """
        if EXPLAINING.get():
            return self.seen
        raise ModelError(
            f"{self.name} is the shape of a model (interp.shape_of) and has no weights, so nothing "
            "can be run on it or read off them: interp.explain(method, shape, ...) says what a "
            "call would do. To make the call, load the model: interp.load(name)."
        )

    @property
    def device(self) -> torch.device:
        return self.where

    @property
    def dtype(self) -> torch.dtype:
        return self.precision

    @property
    def weight_bytes(self) -> dict[str, int]:
        return {str(self.where): self.parameters * self.precision.itemsize}

    def _hash(self, *, anew: bool) -> str:
        """Of the shape: circuits that are explained are of that."""
        return hashlib.sha256(repr(("shape", self.facts, self.precision)).encode()).hexdigest()

    def __repr__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        size = sum(self.weight_bytes.values())
        return (
            f"{self.name} without weights ({size / 1e9:.1f} GB in {dtype}), for "
            f"interp.explain, as if on {self.device}\n  {self.facts}"
        )


@door
@torch.inference_mode(mode=False)
def shape_of(
    name: Config,
    *,
    device: Annotated[str | torch.device, Told(place_of)] = "cpu",
    dtype: Dtype = torch.float32,
    revision: Revision = None,
) -> Weightless:
    """The shape of a model, without its weights: `interp.explain` takes it in place of a model.

    So one can ask what a model needs before there is a machine that holds it:
    `interp.explain(interp.ablate, interp.shape_of("meta-llama/Llama-3.1-70B", dtype="bfloat16"),
    pairs, "heads", method="zero")`. No memory is taken for weights, and none are fetched. No engine
    is verified: the plan is that of the engine that knows the architecture. Whether a token sees
    later ones is taken from the config, where `interp.load` tries it.

    Args:
        name: a config of transformers, one as a dict, a folder with a config.json, a shipped model,
            or a Hugging Face hub id, of which the config and the tokenizer are fetched. A config
            that names no architecture is a language model's.
        device: where the model is thought to be, which says how much runs at once; it need not be
            there. Of one that is not here `explain` must be told `total=`, or the call `memory=`.
        dtype: of the parameters: float32, bfloat16, float16 or float64, torch's or by name.
        revision: branch, tag or commit on the hub; only for a hub id.

    Raises:
        ModelError: the config cannot be found, fetched or read, or is of a model that interp makes
            itself, which is small: load it.
        Unsupported: an architecture that TransformerLens cannot wrap.
    """
    where, revision = place_of(device), revision_of(revision)
    dtype = dtype_of(dtype, where)
    with LOADING, quiet(), torch.random.fork_rng([]):
        config, called, tokenizer = _config(name, revision)
        return _made(config, called, tokenizer, where, dtype)


def _config(
    name: Config, revision: str | None
) -> tuple[PreTrainedConfig, str, PreTrainedTokenizerBase | None]:
    """The config, what the model is called, and its tokenizer."""
    if isinstance(name, PreTrainedConfig | Mapping) and revision is not None:
        raise ModelError(
            f"revision={revision!r} was given beside a config, which has one only. Leave it out."
        )
    if isinstance(name, PreTrainedConfig):
        config = copy.deepcopy(name)
        return config, _called(config), None
    if isinstance(name, Mapping):
        config = _of_dict(dict(name))
        return config, _called(config), None
    given = name_of(name)
    if str(given).startswith(compiled.PREFIX) and not Path(given).is_dir():
        raise _own(given)
    home = find(given, revision, TOLD)
    if any((home / file).exists() for file in (native.SHAPE_FILE, recurrent.SHAPE_FILE)):
        raise _own(given)
    if not (home / "config.json").is_file():
        raise ModelError(
            f"{home} has no config.json, which says what shape {str(given)!r} has. Give the folder "
            "that save_pretrained wrote, a hub id whose config can be fetched or is in the cache, "
            "or a config."
        )
    return config_in(home), str(given), tokenizer_in(home)


def _own(name: object) -> ModelError:
    return ModelError(
        f"{str(name)!r} is a model that interp makes itself. It is small, and has a plan as it is: "
        "interp.explain(method, interp.load(name), ...)."
    )


def _called(config: PreTrainedConfig) -> str:
    named = [config.name_or_path, *(config.architectures or ()), config.model_type]
    return f"shape of {next((word for word in named if word), 'a model')}"


def _of_dict(settings: dict[str, Any]) -> PreTrainedConfig:
    """A config from its settings, as a config.json has them.

    Raises:
        ModelError: transformers makes no config of them.
    """
    kind = settings.pop("model_type", None)
    remedy = (
        "Give what a config.json holds (PreTrainedConfig.to_dict()), with the model_type ('llama', "
        "'gpt2') that transformers knows it by"
    )
    with readable(f"a config of model_type={shown(kind)} cannot be made", remedy):
        return AutoConfig.for_model(kind, **settings)


def _made(
    config: PreTrainedConfig,
    name: str,
    tokenizer: PreTrainedTokenizerBase | None,
    where: torch.device,
    dtype: torch.dtype,
) -> Weightless:
    if not config.architectures:
        named = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
        config.architectures = [named] if isinstance(named, str) else None
    body = (config.architectures or ["ForCausalLM"])[0]
    architecture, auto_class = class_of(config, name)
    remedy = "Likely a setting is missing, or two do not fit each other: see the config"
    with readable(f"transformers cannot make a model of {name}", remedy), META:
        hf: nn.Module = auto_class.from_config(
            config,
            dtype=dtype,
            attn_implementation="eager",
            experts_implementation="eager",
            trust_remote_code=False,
        )
    vision.speak(hf)
    hf.eval().requires_grad_(False)
    parameters = sum(p.numel() for p in hf.parameters())
    headless = "For" not in body and "LMHead" not in body
    try:
        with _unread():
            bridge = build_bridge_from_module(
                hf,
                architecture,
                hf_config=copy.deepcopy(config),
                tl_config=None,
                tokenizer=None,
                dtype=dtype,
                device=META,
                model_name=name,
            )
        bridge.eval().requires_grad_(False)
        facts = facts_of(bridge, language_model=not headless)
    except InterpError:
        raise
    except Exception as error:  # whatever an adapter meets on a shape that it did not expect
        raise Unsupported(
            f"TransformerLens cannot wrap the shape of {architecture} ({name}): {said(error)}. "
            "Likely its adapter reads the weights, or its config has an option that the adapter "
            "does not know."
        ) from error
    return Weightless(
        bridge=bridge,
        name=name,
        facts=facts,
        tokenizer=tokenizer,
        truth=Itself(hf),
        live=Live(Watch(hf, bridge), ()),
        where=where,
        precision=dtype,
        parameters=parameters,
        seen=Now((), (), (), where, dtype),
    )


@contextmanager
def _unread() -> Iterator[None]:
    """Inside of the block TransformerLens splits fused matrices that have no numbers, too: it
    refuses them as weights that were not loaded, and only their shapes are asked for here.
    """
    check = "require_readable_weight"
    loaded = [vars(m) for name, m in [*sys.modules.items()] if name.startswith("transformer_lens")]
    places = [(names, names[check]) for names in loaded if check in names]

    def back() -> None:
        for names, own in places:
            names[check] = own

    with undone(back):
        for names, _ in places:
            names[check] = _as_it_is
        yield


def _as_it_is(weight: torch.Tensor, **_: Any) -> torch.Tensor:
    return weight
