"""Which part of a model goes to which device.

accelerate shares the parts out; which of them there are, and what each takes, is known of a model
without numbers.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from accelerate.utils import (
    find_tied_parameters,
    get_balanced_memory,
    infer_auto_device_map,
)
from torch import nn
from transformers import PreTrainedConfig

from interp.core.door.taken import Told, shown
from interp.core.errors import ModelError
from interp.models.bridge.borders import devices_of
from interp.models.finding.place import device_of

LEFT = 0.9
"""Of what is free on a device the share that weights may take; calls need the rest."""
_NOWHERE = {
    "disk": "weights on disk are read anew for each layer of each run",
    "meta": "a part on 'meta' has no numbers",
}

Spread = dict[str, torch.device]
"""Devices by the names of modules, as Hugging Face has them; "" is the whole model."""


def spread_of(given: object) -> Spread | Literal["auto"] | None:
    """Devices that are there, by names; "auto" is settled when the model is known.

    Raises:
        ModelError: it is none, or names what no weights can be run on.
    """
    if given is None:
        return None
    if isinstance(given, str) and given == "auto":
        return "auto"
    if not isinstance(given, Mapping) or not given:
        raise ModelError(
            f"device_map={shown(given)} is no map. Give 'auto', or a device for each part: "
            "{'model.embed_tokens': 'cuda:0', 'model.layers.0': 'cuda:0', ..., 'lm_head': "
            "'cuda:1'}."
        )
    found: Spread = {}
    for name, place in given.items():
        if not isinstance(name, str):
            raise ModelError(f"device_map names a part {shown(name)}; names of modules are text.")
        why = _NOWHERE.get(str(place))
        if why is not None:
            raise ModelError(
                f"device_map puts {name!r} on {str(place)!r}: {why}, so nothing is offloaded. Load "
                "the model in a narrower dtype, quantised, or over more devices ('auto')."
            )
        one = f"cuda:{place}" if type(place) is int else place
        if one == "auto":
            raise ModelError(f"device_map puts {name!r} on 'auto'; name its device ('cuda:0').")
        found[name] = device_of(one)
    return found


def settled(
    given: Spread | Literal["auto"] | None,
    where: torch.device,
    make: Any,
    config: PreTrainedConfig,
    dtype: torch.dtype | Literal["auto"],
) -> Spread | None:
    """The devices of a model's parts; None where it is read on the processor as a whole.

    Args:
        where: the device of the whole, where no map is given.
        make: Hugging Face's class, which makes the model of a config.

    Raises:
        ModelError: a part is left out, is of another model, or the devices are too small.
    """
    if given is None or (given == "auto" and torch.cuda.device_count() < 2):
        return {"": where} if where.type == "cuda" else None
    with torch.device("meta"):
        empty = make.from_config(config, trust_remote_code=False)
    empty.tie_weights()
    if isinstance(given, dict):
        _require_all(given, empty)
        return given
    room = {i: int(LEFT * torch.cuda.mem_get_info(i)[0]) for i in range(torch.cuda.device_count())}
    kept = [*(getattr(empty, "_no_split_modules", None) or ())]
    wide = {"dtype": config.dtype or torch.float32} if dtype == "auto" else {"dtype": dtype}
    even = get_balanced_memory(empty, max_memory=room, no_split_module_classes=kept, **wide)
    found = infer_auto_device_map(empty, max_memory=even, no_split_module_classes=kept, **wide)
    if any(not isinstance(place, int) for place in found.values()):
        raise ModelError(
            f"the model's weights do not fit the {len(room)} devices, which have "
            f"{sum(room.values()) / 1e9:.1f} GB for them. Load it in a narrower dtype, quantised "
            "or over more devices."
        )
    return {name: torch.device("cuda", place) for name, place in found.items()}


def _require_all(given: Spread, empty: nn.Module) -> None:
    known = dict(empty.named_modules())
    if unknown := [name for name in given if name not in known]:
        raise ModelError(
            f"device_map names {unknown[0]!r}, which this model has not. Its parts are "
            f"{', '.join(name for name, _ in _parts(empty))}."
        )
    left = [name for name in empty.state_dict() if not any(_holds(part, name) for part in given)]
    if left:
        raise ModelError(
            f"device_map leaves out {left[0]!r}"
            + (f" and {len(left) - 1} more weights" if len(left) > 1 else "")
            + f". Each part needs a device: {', '.join(name for name, _ in _parts(empty))}."
        )
    for tied in find_tied_parameters(empty):
        places = {name: _place_of(given, name) for name in tied}
        if len(set(places.values())) > 1:
            said = " and ".join(f"{name} on {place}" for name, place in sorted(places.items()))
            raise ModelError(
                f"device_map puts {said}, and these are one matrix under two names. Give both one "
                "device."
            )


def _place_of(given: Spread, name: str) -> torch.device:
    """The device of a weight: that of the smallest part which is named and holds it."""
    return given[max((part for part in given if _holds(part, name)), key=len)]


def _holds(part: str, name: str) -> bool:
    return part in ("", name) or name.startswith(f"{part}.")


def _parts(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The largest modules that may stand on a device of their own."""
    whole = set(getattr(model, "_no_split_modules", None) or ())
    found: list[tuple[str, nn.Module]] = []

    def look(module: nn.Module, name: str) -> None:
        inside = [*module.named_children()]
        if type(module).__name__ in whole or not inside:
            if any(True for _ in module.parameters()):
                found.append((name, module))
            return
        for child, part in inside:
            look(part, f"{name}.{child}" if name else child)

    look(model, "")
    return found


def require_whole(model: nn.Module) -> None:
    """Refuse a layer that lies on two devices.

    Raises:
        ModelError: naming it.
    """
    for name, part in _parts(model):
        if len(places := devices_of(part)) > 1:
            raise ModelError(
                f"device_map splits {name!r} over {', '.join(map(str, places))}. What runs a layer "
                "moves the residual stream between layers and not inside of one: give the layer "
                "one device."
            )


DeviceMap = Annotated[
    Literal["auto"] | Mapping[str, str | int | torch.device] | None, Told(spread_of)
]
