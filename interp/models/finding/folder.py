"""What a model's folder holds, looked at before anything is made of it.

transformers reads the files that it knows and no other: of two sets of weights it takes one, an
adapter it applies or passes over, as `peft` is installed or not. Here the folder is one model.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from interp.core.errors import ModelError, said
from interp.core.files.sealed import Damaged, read_json, told

_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
_ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
NARROW = {"I8", "I16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4"}
"""Dtypes that weights have only beside scales."""
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")

Shapes = Mapping[str, tuple[int, ...]]
"""The shape of each tensor in the files, by its name there."""


def require_model(folder: Path) -> None:
    """Refuse a folder that is no model, or more than one.

    Raises:
        ModelError: saying what was found.
    """
    try:
        there = sorted(p.name for p in folder.iterdir())
    except OSError as error:
        raise ModelError(f"{folder} cannot be read: {said(error)}. Is it yours to read?") from error
    listed = ", ".join(there[:8]) + (", ..." if len(there) > 8 else "")
    if adapter := [name for name in _ADAPTERS if name in there]:
        if "config.json" in there:
            raise ModelError(
                f"{folder} holds an adapter ({', '.join(adapter)}) beside its model, so which of "
                "the two is meant is not said. Move the adapter's files into a folder of their "
                f"own: interp.load({str(folder)!r}, adapter=that_folder) merges it, and without "
                "adapter= the model is loaded alone."
            )
        raise ModelError(
            f"{folder} holds an adapter ({', '.join(adapter)}) without its model. Load the model "
            f"that it was trained on, and merge it: interp.load(model, adapter={str(folder)!r})."
        )
    if "config.json" not in there:
        raise ModelError(
            f"{folder} is no model: looked for config.json and *.safetensors, found "
            f"{listed or 'an empty folder'}. Give the folder that save_pretrained wrote."
        )
    if any(folder.glob("*.safetensors")):
        return
    pickled = [p.name for pattern in _PICKLED for p in folder.glob(pattern)]
    if pickled:
        raise ModelError(
            f"{folder} has only pickled weights ({', '.join(pickled)}), and unpickling runs "
            "whatever code is inside. If you trust them, convert once: "
            "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder) writes "
            "model.safetensors."
        )
    raise ModelError(
        f"{folder} has a config.json but no *.safetensors weights; found {listed}. Weights in "
        "other formats are not read: convert them with transformers' save_pretrained."
    )


def weights(folder: Path, named: str | None = None, *, quantised: bool = False) -> Shapes:
    """The tensors that transformers will read, by the headers of their files.

    Args:
        named: the file that the config names (`transformers_weights`), which goes before others.
        quantised: the config says how narrow numbers are to be read.

    Raises:
        ModelError: a file that an index lists is missing or cut short, a tensor is not where the
            index says, or there are weights that would not be read.
    """
    single, index = folder / SAFE_WEIGHTS_NAME, folder / SAFE_WEIGHTS_INDEX_NAME
    if named is not None:
        single = folder / named
        if named.endswith(".index.json"):
            single, index = index, single
    listed = {} if single.is_file() and single != index else _index(folder, index)
    files = sorted({folder / file for file in listed.values()}) or [single]
    _refuse_others(folder, files, index)
    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        for key, (shape, dtype) in header(folder, file).items():
            if dtype in NARROW and not quantised:
                raise ModelError(
                    f"{key} in {file} is kept as {dtype}, and config.json does not say how it was "
                    "quantised (quantization_config), so its numbers are no weights. Save the "
                    "model in float16 or wider, or fetch its whole config."
                )
            if key in found:
                raise ModelError(
                    f"two files of {folder} hold {key}, {file.name} and one before it; only one "
                    "could be read. Save the model again."
                )
            found[key] = shape
    if lost := sorted(listed.keys() - found.keys()):
        raise ModelError(
            f"{index.name} of {folder} lists {len(lost)} tensors that are not in its files, e.g. "
            f"{lost[0]} in {listed[lost[0]]}. Likely the files are of another version of the "
            "model: fetch all of them again."
        )
    return found


def _index(folder: Path, index: Path) -> dict[str, str]:
    """The file of each tensor.

    Raises:
        ModelError: there is no such index, it cannot be read, or files that it lists are missing.
    """
    there = sorted(p.name for p in folder.glob("*.safetensors"))
    if not index.is_file():
        raise ModelError(
            f"{folder} has no {SAFE_WEIGHTS_NAME} and no {SAFE_WEIGHTS_INDEX_NAME}, which says "
            f"what is in which file; it has {', '.join(there[:4])}. Fetch the index too, or save "
            "the model again with save_pretrained."
        )
    remedy = (
        "It must be an object with a weight_map from tensors to files. Likely it is damaged: fetch "
        "it again."
    )
    content = read_json(index, remedy)
    told(content, index, remedy, {"weight_map": dict})
    listed = {str(key): str(file) for key, file in content["weight_map"].items()}
    if not listed:
        raise Damaged(f"{index} cannot be read: it lists nothing. {remedy}")
    names = set(listed.values())
    if odd := sorted(n for n in names if Path(n).name != n or not n.endswith(".safetensors")):
        raise ModelError(
            f"{index} names a file {odd[0]!r}; the files of a model lie in its folder and are "
            "*.safetensors. Do not trust where it came from: fetch the model elsewhere."
        )
    if missing := sorted(name for name in names if not (folder / name).is_file()):
        raise ModelError(
            f"{index.name} of {folder} lists {len(names)} files, of which {len(missing)} are "
            f"missing: {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}. Likely the "
            "download or the copy is incomplete: fetch them."
        )
    return listed


def _refuse_others(folder: Path, files: list[Path], index: Path) -> None:
    """Refuse weights in transformers' own layout beside those that are read."""
    read = {file.name for file in files}
    others = sorted(
        p.name
        for p in folder.glob("*.safetensors")
        if p.name not in read and (p.name == SAFE_WEIGHTS_NAME or _SHARD.fullmatch(p.name))
    )
    if others:
        why = f"which {index.name} does not list" if index.is_file() else "which no index lists"
        why = why if SAFE_WEIGHTS_NAME not in read else f"beside {SAFE_WEIGHTS_NAME}"
        raise ModelError(
            f"{folder} has weights that would not be read: {', '.join(others[:3])}"
            f"{', ...' if len(others) > 3 else ''}, {why}. Likely two models were saved into one "
            "folder. Take away the files of the one that is not meant."
        )


def header(folder: Path, file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of each tensor."""
    try:
        with safe_open(file, framework="pt") as content:
            names = content.keys()
            parts = {key: content.get_slice(key) for key in names}
            return {k: (tuple(part.get_shape()), part.get_dtype()) for k, part in parts.items()}
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"the weights in {folder} cannot be read: {file.name}: {said(error)}. "
            "Likely the file is cut short or missing; fetch it again."
        ) from error
