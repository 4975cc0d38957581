"""Reading a model by name, folder or hub id, and wrapping it."""

import copy
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.hooks import remove_hook_from_module
from torch import Tensor, nn
from transformer_lens.model_bridge.sources._hf_format import determine_architecture_from_hf_config
from transformer_lens.model_bridge.sources.transformers.helpers import (
    get_hf_model_class_for_architecture,
)
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from interp.core.door.door import door
from interp.core.door.taken import Seed
from interp.core.errors import InterpError, ModelError, Unsupported, said
from interp.models import compiled
from interp.models.bridge.facts import facts_of
from interp.models.bridge.quantised import multiply_as_asked
from interp.models.finding import bounds, folder, keys, stored
from interp.models.finding.find import find, refuse_revision
from interp.models.finding.place import (
    Device,
    KeptDtype,
    Name,
    Revision,
    device_of,
    kept_dtype_of,
    name_of,
    revision_of,
)
from interp.models.finding.spread import DeviceMap, Spread, require_whole, settled, spread_of
from interp.models.model import Model
from interp.models.quiet import quiet
from interp.models.small import native, recurrent
from interp.models.wrap import wrap

LOADING = threading.Lock()
"""transformers and torch's random numbers are of the whole process while a model is made."""
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")


@door
@torch.inference_mode(mode=False)  # its tensors have no versions, and no gradients ever after
def load(
    name: Name,
    *,
    device: Device = "auto",
    dtype: KeptDtype = torch.float32,
    revision: Revision = None,
    device_map: DeviceMap = None,
) -> Model:
    """A model by name, wrapped, in evaluation mode, with its identities checked.

    Weights that the config does not use, or uses in another shape, are refused, but for heads of
    other tasks. Settings of logs, warnings and progress bars, and torch's random numbers, are
    afterwards as they were.

    Args:
        name: a shipped model ("smollm2-135m", "minilm-l6"), one with known circuits
            ("compiled/induction": see `interp.models.compiled`), a folder that Hugging Face's
            `save_pretrained` or `interp.models.small.native.save` (or `recurrent.save`) wrote, or a
            Hugging Face hub id.
        device: "cpu", "cuda", "cuda:1", "mps"; "auto" takes cuda where there is one, else cpu.
        dtype: of the parameters: float32, bfloat16, float16 or float64, torch's or by name; "auto"
            takes the one that they were saved in.
        revision: branch, tag or commit on the hub; only for a hub id.
        device_map: for a model that one device cannot hold: "auto" shares its layers evenly over
            all CUDA devices, a dict gives a device to each part by Hugging Face's name. A layer is
            whole on one device. Methods move the residual stream from one to the next; what they
            give back is on the first.

    Raises:
        ModelError: the model cannot be found, fetched or read, its weights are not its config's,
            it is an adapter, the device is not there, or `device_map` leaves a part out, splits a
            layer, or offloads one to disk.
        Unsupported: an architecture that TransformerLens cannot wrap.
    """
    name, where, revision = name_of(name), device_of(device), revision_of(revision)
    wide, spread = kept_dtype_of(dtype, where), spread_of(device_map)
    if spread is not None and device != "auto":
        raise ModelError(
            f"device={str(device)!r} and device_map= are two answers to where the model goes. "
            "Leave one out."
        )
    with LOADING:
        return _load(name, where, wide, revision, spread)


def _load(
    name: str | Path,
    where: torch.device,
    dtype: torch.dtype | Literal["auto"],
    revision: str | None,
    spread: Spread | Literal["auto"] | None,
) -> Model:
    if str(name).startswith(compiled.PREFIX) and not Path(name).is_dir():
        refuse_revision(name, revision)
        _require_one(spread, str(name))
        own = torch.float32 if dtype == "auto" else dtype
        return compiled.build(str(name).removeprefix(compiled.PREFIX), dtype=own, device=where)
    home = find(name, revision)
    with readable(
        f"{home} cannot be read as a model", "Likely its shape is damaged; save it again"
    ):
        made = _made_here(home, str(name), dtype, where)
    if made is not None:
        _require_one(spread, str(name))
        return made
    folder.require_model(home)
    drawing = [where] if where.type == "cuda" else []  # wrapping draws weights, and replaces them
    with quiet(), torch.random.fork_rng(drawing):
        raw = bounds.config_of(home)
        shapes = _shapes(home, raw)
        config = config_in(home)
        tokenizer = tokenizer_in(home)
        hf, architecture, headless = _read(home, config, shapes, dtype, where, spread)
        with readable(
            f"{home} cannot be moved to {where}", "Pass a smaller dtype= or device='cpu'"
        ):
            hf = hf.to(where) if where.type == "mps" else hf
        return _wrap(hf, architecture, str(name), tokenizer, headless=headless)


@door
@torch.inference_mode(mode=False)
def untrained(model: Model, *, seed: Seed = 0) -> Model:
    """A model of the same architecture and tokenizer with random weights: a control for probes.

    What a probe reads there comes from words and positions mixed at random, not from training. The
    weights are drawn as the architecture's authors draw them before training.

    Args:
        model: whose architecture, precision and device are taken.
        seed: of the weights.

    Raises:
        Unsupported: TransformerLens cannot wrap or run it.
    """
    model.now()  # one without weights is refused
    original = model.bridge.original_model
    name = f"{model.name} (untrained, seed {seed})"
    if isinstance(original, native.Native | recurrent.LSTM):
        shape = original.shape
        build = native.build if isinstance(shape, native.Shape) else recurrent.build_recurrent
        return build(
            shape,
            name=name,
            seed=seed,
            tokenizer=model.tokenizer,
            dtype=model.dtype,
            device=model.device,
        )
    with LOADING, quiet(), torch.random.fork_rng():
        torch.manual_seed(seed)
        hf = type(original)._from_config(
            copy.deepcopy(original.config),
            dtype=model.dtype,
            attn_implementation="eager",
            experts_implementation="eager",
        )
        return _wrap(
            hf.to(model.device),
            model.facts.architecture,
            name,
            model.tokenizer,
            headless=not model.facts.language_model,
        )


def _wrap(
    hf: PreTrainedModel,
    architecture: str,
    name: str,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    headless: bool,
) -> Model:
    return wrap(
        hf,
        architecture,
        name,
        tokenizer,
        d_vocab=hf.get_input_embeddings().weight.shape[0],
        facts=lambda bridge: facts_of(bridge, language_model=not headless),
        headless=headless,
    )


def _require_one(spread: object, name: str) -> None:
    """Refuse to share out a model that is made here.

    Raises:
        ModelError: a map was given.
    """
    if spread is not None:
        raise ModelError(
            f"{name} is small enough for one device, and device_map= is for models that are not. "
            "Give device= in its place."
        )


def _made_here(
    home: Path, name: str, dtype: torch.dtype | Literal["auto"], where: torch.device
) -> Model | None:
    """A native or recurrent model, where the folder is one's."""
    if (home / native.SHAPE_FILE).exists():
        shape, state = native.read(home)
        dtype = _saved(state) if dtype == "auto" else dtype
        return native.build(
            shape,
            name=name,
            state=state,
            tokenizer=tokenizer_in(home),
            dtype=dtype,
            device=where,
        )
    if (home / recurrent.SHAPE_FILE).exists():
        kind = recurrent.RecurrentShape
        shape, state = stored.read(home, recurrent.SHAPE_FILE, kind)
        dtype = _saved(state) if dtype == "auto" else dtype
        return recurrent.build_recurrent(
            shape,
            name=name,
            state=state,
            tokenizer=tokenizer_in(home),
            dtype=dtype,
            device=where,
        )
    return None


def _saved(state: Mapping[str, Tensor]) -> torch.dtype:
    """The precision that weights were saved in."""
    return next(tensor.dtype for tensor in state.values() if tensor.is_floating_point())


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


def _shapes(home: Path, raw: dict[str, Any]) -> folder.Shapes:
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
    try:
        architecture = determine_architecture_from_hf_config(config)
        return architecture, get_hf_model_class_for_architecture(architecture)
    except Exception as error:
        raise Unsupported(
            f"TransformerLens cannot wrap {config.architectures or config.model_type} "
            f"({name}). Its model table lists what it can."
        ) from error


def _read(
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
