"""Whether a model's weights are those of its config, all of them, and no more.

transformers drops what its class does not use and draws at random what is missing. A tensor that
is left out is none of the model's business only if it cannot change what the class computes:

- a head of another task: a class of the same family, made from the same config, has it, and the
  loaded class has not (BERT's pooler and next-sentence head, a classifier);
- a module of one's own beside the body, such as a value head, which the loaded class has nothing
  of the name of;
- a causal mask, which older versions of transformers kept among the weights.

All else was part of what the model computed, and its config leaves it out.
"""

import copy
import inspect
import logging
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from interp.core.errors import ModelError
from interp.models.finding.folder import Shapes

log = logging.getLogger("interp")
_RIGHT = "Likely config.json belongs to another model, or was edited: give the one that was saved "
_RIGHT += "with the weights."


def require_fit(
    hf: PreTrainedModel, info: dict[str, Any], shapes: Shapes, folder: Path
) -> list[str]:
    """Refuse weights that the model is not made of.

    Args:
        info: what `from_pretrained` says with `output_loading_info` and `ignore_mismatched_sizes`.
        shapes: of the tensors in the files.

    Returns:
        The parameters of the head that the files lack: a head that was never trained.

    Raises:
        ModelError: with names, counts and shapes.
    """
    name = type(hf).__name__
    missing = sorted(info["missing_keys"])
    if body := [key for key in missing if not _in_head(hf, key)]:
        raise ModelError(
            f"the weights in {folder} lack {len(body)} of {name}'s parameters, e.g. "
            f"{body[0]}; they would be random. Likely the files are incomplete, or config.json "
            "belongs to another model."
        )
    if odd := sorted(info["mismatched_keys"]):
        key, given, wanted = odd[0]
        raise ModelError(
            f"{len(odd)} of the weights in {folder} have another shape than config.json says, "
            f"{_listed([k for k, *_ in odd])}: {key} is {tuple(given)} in the file and "
            f"{tuple(wanted)} by the config. {_RIGHT}"
        )
    unused = [key for key in sorted(info["unexpected_keys"]) if not _is_mask(hf, key, shapes)]
    heads = _heads_of_others(hf, unused) if unused else set()
    beside = {key for key in unused if key not in heads and _is_beside(hf, key, shapes)}
    if dropped := [key for key in unused if key not in heads | beside]:
        raise ModelError(
            f"the weights in {folder} hold {len(dropped)} tensors that {name} would leave out, "
            f"with this config: {_listed(dropped)}. The model would not compute what its weights "
            f"were trained for. {_RIGHT} If they are meant to be left out, let transformers do so: "
            f"{name}.from_pretrained(folder).save_pretrained(new_folder)."
        )
    if heads:
        log.info("%s: left out heads of other tasks: %s", folder, _listed(sorted(heads)))
    if beside:
        log.warning(
            "%s: left out %d tensors beside the body of %s, which has no such part: %s",
            folder,
            len(beside),
            name,
            _listed(sorted(beside)),
        )
    return missing


def _in_head(hf: PreTrainedModel, key: str) -> bool:
    """Whether a parameter is of the head: outside of the body, or of what gives logits."""
    if hf.base_model is not hf:
        return not key.startswith(f"{hf.base_model_prefix}.")
    head = hf.get_output_embeddings()
    return any(module is head and key.startswith(f"{name}.") for name, module in hf.named_modules())


def _heads_of_others(hf: PreTrainedModel, keys: Sequence[str]) -> set[str]:
    """Those that another class of the family has under the same config."""
    prefix = f"{hf.base_model_prefix}."
    left, found = {key: key.removeprefix(prefix) for key in keys}, set()
    for other in _family(hf):
        try:
            with torch.device("meta"):
                names = {
                    name.removeprefix(prefix)
                    for name in other(copy.deepcopy(hf.config)).state_dict()
                }
        except Exception:  # of a task that this config has not enough for
            continue
        found |= {key for key, name in left.items() if name in names}
        if found == set(left):
            break
    return found


def _family(hf: PreTrainedModel) -> Iterator[type[PreTrainedModel]]:
    """Other classes beside this one that are made from its config."""
    own = type(hf)
    for other in vars(sys.modules[own.__module__]).values():
        model = inspect.isclass(other) and issubclass(other, PreTrainedModel) and other is not own
        if model and (other.__module__, other.config_class) == (own.__module__, own.config_class):
            yield other


def _is_beside(hf: PreTrainedModel, key: str, shapes: Shapes) -> bool:
    """Whether a tensor is of a module beside the body; of a file that keeps the two apart."""
    prefix = f"{hf.base_model_prefix}."
    apart = hf.base_model is not hf and any(name.startswith(prefix) for name in shapes)
    part = key.split(".", 1)[0]
    return apart and not hasattr(hf, part) and not hasattr(hf.base_model, part)


def _is_mask(hf: PreTrainedModel, key: str, shapes: Shapes) -> bool:
    """Whether a tensor is a causal mask, 1 x 1 x n x n, or the number that it fills in."""
    prefix = f"{hf.base_model_prefix}."
    shape = shapes.get(key, shapes.get(key.removeprefix(prefix)))
    if shape is None:
        return False
    square = len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3]
    return square or (key.endswith(".masked_bias") and shape == ())


def _listed(keys: Collection[str]) -> str:
    keys = list(keys)
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
