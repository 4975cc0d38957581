"""Reading a model by name, folder or hub id, or taking one from memory, and wrapping it."""

import copy
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from interp.core.door.door import door
from interp.core.door.taken import Seed
from interp.core.errors import ModelError, Unsupported
from interp.core.prompts.grid import Processor
from interp.models import compiled
from interp.models.bridge import vision
from interp.models.bridge.facts import facts_of
from interp.models.finding import bounds, folder, stored
from interp.models.finding.adapter import (
    Adapter,
    AdapterFolders,
    adapters_of,
    read_adapter,
    require_apart,
)
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
from interp.models.finding.spread import DeviceMap, Spread, spread_of
from interp.models.memory import Given, given_of, name_in, refuse_beside, view_of
from interp.models.merged import merge
from interp.models.model import Model
from interp.models.now.lender import Lender
from interp.models.now.origin import Origin
from interp.models.quiet import quiet
from interp.models.reading import class_of, config_in, model_in, readable, shapes_in, tokenizer_in
from interp.models.small import native, recurrent
from interp.models.wrap import wrap

LOADING = threading.Lock()
"""transformers and torch's random numbers are of the whole process while a model is made."""


@door
@torch.inference_mode(mode=False)  # its tensors have no versions, and no gradients ever after
def load(
    name: Given,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    adapter: AdapterFolders = None,
    device: Device = "auto",
    dtype: KeptDtype = None,
    revision: Revision = None,
    device_map: DeviceMap = None,
) -> Model:
    """A model by name, or one in memory, wrapped, in evaluation mode, with its identities checked.

    Weights that the config does not use, or uses in another shape, are refused, but for heads of
    other tasks. Settings of logs, warnings and progress bars, and torch's random numbers, are
    afterwards as they were.

    A model in memory is not changed at all. TransformerLens puts its own parts in the place of a
    model's, so they are put into a *view*: modules of their own over the same numbers, of which
    there is no copy, in evaluation mode, without gradients, with eager attention (the fused kernels
    compute no pattern; both compute the same but for rounding). Device and dtype are the model's.
    Weights that are trained where they lie are seen by every call, as of any model. Where they are
    moved, cast or replaced, or hooks, adapters or other parts come onto the model, the view is
    refused: give it again, or put these on the view, `model.bridge.original_model`. Its name is
    what it was read from first, or its class, and "(in memory)".

    Args:
        name: a shipped model ("smollm2-135m", "minilm-l6"), one with known circuits
            ("compiled/induction": see `interp.models.compiled`), a folder that Hugging Face's
            `save_pretrained` or `interp.models.small.native.save` (or `recurrent.save`) wrote, a
            Hugging Face hub id; or a model of transformers that is in memory.
        tokenizer: of a model in memory; without one it reads token ids alone. What is read has its
            own.
        adapter: the folder of a LoRA adapter, as PEFT saves it, or several, which are merged into
            the weights one after the other: so every engine serves them. What the merged model
            computes is held against PEFT's layers. Needs `pip install 'interp[peft]'`. The model is
            called by its own name and the adapter's (that of its folder), and the adapter's sha256
            is in its identity.
        device: "cpu", "cuda", "cuda:1", "mps"; "auto" takes cuda where there is one, else cpu.
        dtype: of the parameters: float32 (the default), bfloat16, float16 or float64, torch's or by
            name; "auto" takes the one that they were saved in.
        revision: branch, tag or commit on the hub; only for a hub id.
        device_map: for a model that one device cannot hold: "auto" shares its layers evenly over
            all CUDA devices, a dict gives a device to each part by Hugging Face's name. A layer is
            whole on one device. Methods move the residual stream from one to the next; what they
            give back is on the first.

    Raises:
        ModelError: the model cannot be found, fetched or read, its weights are not its config's,
            it is an adapter, the device is not there, or `device_map` leaves a part out, splits a
            layer, or offloads one to disk; an adapter that is none, is of another base, or cannot
            be merged; a model in memory that computes by more than its weights (hooks, an adapter
            in it), or beside which stands what is said of one that is read.
        Unsupported: an architecture that TransformerLens cannot wrap; an adapter of quantised
            weights.
    """
    given = given_of(name)
    if isinstance(given, PreTrainedModel):
        beside = {
            **({} if device == "auto" else {"device": device}),
            **({} if dtype is None else {"dtype": dtype}),
            **({} if revision is None else {"revision": revision}),
            **({} if device_map is None else {"device_map": device_map}),
            **({} if adapter is None else {"adapter": adapter}),
        }
        refuse_beside(given, beside)
        with LOADING:
            return _view(given, tokenizer)
    if tokenizer is not None:
        raise ModelError(
            f"tokenizer= was given beside {str(name)!r}, which is read with its own. It belongs to "
            "a model in memory; to give a folder another, tokenizer.save_pretrained(folder)."
        )
    adapters = [read_adapter(one) for one in adapters_of(adapter)]
    require_apart(adapters)
    name, where, revision = name_of(name), device_of(device), revision_of(revision)
    wide, spread = kept_dtype_of(dtype, where), spread_of(device_map)
    if spread is not None and device != "auto":
        raise ModelError(
            f"device={str(device)!r} and device_map= are two answers to where the model goes. "
            "Leave one out."
        )
    with LOADING:
        return _load(name, where, wide, revision, spread, adapters)


def _view(given: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> Model:
    """A model over the numbers of one in memory."""
    name, kind = name_in(given), type(given).__name__
    drawing = sorted({p.device.index for p in given.parameters() if p.is_cuda})
    with quiet(), torch.random.fork_rng(drawing):
        view = view_of(given)
        architecture, auto_class = class_of(view.config, name)
        made = auto_class._model_mapping.get(type(view.config), ())
        if type(given) not in (made if isinstance(made, tuple) else (made,)):
            raise Unsupported(
                f"a {kind} in memory cannot be wrapped: {architecture} is read as "
                f"{auto_class.__name__}. Give the class with its language-model head, "
                f"{auto_class.__name__}.from_pretrained(...)."
            )
        lender = Lender(given)
        call = "interp.load(module, tokenizer=...), of a module that was made there"
        return _wrap(
            *(view, architecture, name, tokenizer),
            headless=False,
            origin=Origin(call=call, given=kind),
            lender=lender,
        )


def _load(
    name: str | Path,
    where: torch.device,
    dtype: torch.dtype | Literal["auto"],
    revision: str | None,
    spread: Spread | Literal["auto"] | None,
    adapters: Sequence[Adapter],
) -> Model:
    if str(name).startswith(compiled.PREFIX) and not Path(name).is_dir():
        refuse_revision(name, revision)
        _require_one(spread, str(name))
        _require_none(adapters, str(name))
        own = torch.float32 if dtype == "auto" else dtype
        return compiled.build(str(name).removeprefix(compiled.PREFIX), dtype=own, device=where)
    home = find(name, revision)
    if (home / native.SHAPE_FILE).exists() or (home / recurrent.SHAPE_FILE).exists():
        _require_one(spread, str(name))
        _require_none(adapters, str(name))
        with readable(
            f"{home} cannot be read as a model", "Likely its shape is damaged; save it again"
        ):
            return _made_here(home, str(name), dtype, where)
    folder.require_model(home)
    origin = _origin(str(name), adapters)
    drawing = [where] if where.type == "cuda" else []  # wrapping draws weights, and replaces them
    with quiet(), torch.random.fork_rng(drawing):
        raw = bounds.config_of(home)
        shapes = shapes_in(home, raw)
        config = config_in(home)
        tokenizer = tokenizer_in(home)
        hf, architecture, headless = model_in(home, config, shapes, dtype, where, spread)
        with readable(
            f"{home} cannot be moved to {where}", "Pass a smaller dtype= or device='cpu'"
        ):
            hf = hf.to(where) if where.type == "mps" else hf
        vision.speak(hf)
        if adapters and vision.images_of(hf):
            raise Unsupported(
                f"adapter= was given for {name}, which reads images, and adapters of such models "
                "are not read. Merge it with PEFT (merge_and_unload), and give the model: "
                "interp.load(module)."
            )
        if adapters:
            merge(hf, adapters, str(name), headless=headless)
        called = " + ".join([str(name), *origin.adapters])
        processor = vision.processor_in(home, vision.images_of(hf))
        return _wrap(
            *(hf, architecture, called, tokenizer),
            headless=headless,
            origin=origin,
            processor=processor,
        )


def _origin(name: str, adapters: Sequence[Adapter]) -> Origin:
    """What a model that is read was made of, beside what its name says."""
    if not adapters:
        return Origin()
    folders = [str(one.folder) for one in adapters]
    call = f"interp.load({name!r}, adapter={folders if len(folders) > 1 else folders[0]!r})"
    return Origin(call=call, adapters={one.name: one.sha256 for one in adapters})


@door
def path(name: Name, *, revision: Revision = None) -> Path:
    """The folder that `load` reads a model from, fetched if need be: for transformers and PEFT.

    `AutoModelForCausalLM.from_pretrained(interp.models.path("smollm2-135m"))` has the weights that
    `interp.load("smollm2-135m")` has. What lies there is for reading only.

    Args:
        name: a shipped model, a folder, or a Hugging Face hub id.
        revision: branch, tag or commit on the hub; only for a hub id.

    Raises:
        ModelError: the model cannot be found or fetched, or has no folder: a compiled one is made
            when it is loaded.
    """
    name, revision = name_of(name), revision_of(revision)
    if str(name).startswith(compiled.PREFIX) and not Path(name).is_dir():
        raise ModelError(
            f"{name} is made when it is loaded, and lies in no folder. Load it, and save it: "
            "interp.models.small.native.save(interp.load(name), folder)."
        )
    return find(name, revision)


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
            vision.ALIKE.get(model.facts.architecture, model.facts.architecture),
            name,
            model.tokenizer,
            headless=not model.facts.language_model,
            processor=model.processor,
        )


def _wrap(
    hf: PreTrainedModel,
    architecture: str,
    name: str,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    headless: bool,
    origin: Origin | None = None,
    lender: Lender | None = None,
    processor: Processor | None = None,
) -> Model:
    vision.speak(hf)
    image = vision.images_of(hf)
    return wrap(
        hf,
        architecture,
        name,
        tokenizer,
        d_vocab=hf.config.num_labels if image else hf.get_input_embeddings().weight.shape[0],
        facts=lambda bridge: facts_of(bridge, language_model=not headless),
        headless=headless,
        origin=origin,
        lender=lender,
        image=image,
        processor=processor,
    )


def _require_none(adapters: Sequence[Adapter], name: str) -> None:
    """Refuse an adapter of a model that is made here.

    Raises:
        ModelError: one was given.
    """
    if adapters:
        raise ModelError(
            f"{name} is made here and is no model of transformers, so PEFT has no adapters of it. "
            "Leave adapter= out."
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
) -> Model:
    """A native or recurrent model, of the folder of one."""
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
    shape, state = stored.read(home, recurrent.SHAPE_FILE, recurrent.RecurrentShape)
    return recurrent.build_recurrent(
        shape,
        name=name,
        state=state,
        tokenizer=tokenizer_in(home),
        dtype=_saved(state) if dtype == "auto" else dtype,
        device=where,
    )


def _saved(state: Mapping[str, Tensor]) -> torch.dtype:
    """The precision that weights were saved in."""
    return next(tensor.dtype for tensor in state.values() if tensor.is_floating_point())
