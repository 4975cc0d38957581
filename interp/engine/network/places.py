"""How the places of tokens enter attention: angles that turn queries and keys, biases of scores.

The model's own modules make both: their rounding is part of what it computes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from interp.core.errors import PairsError
from interp.engine.network.families import BY_KIND, HALVED, ONCE
from interp.models.bridge import rotary
from interp.models.bridge.precision import undetoured
from interp.models.model import Model

Angles = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From a tensor that gives dtype and device, and positions `1 pos`, to cos and sin `1 pos d`."""
Slopes = Callable[[Tensor, int], Tensor]
"""From a tensor that gives dtype and device, and a number of keys, to biases `head key`."""


def inner(component: Any) -> Any:
    """The Hugging Face module under the bridge's components."""
    while getattr(component, "original_component", None) is not None:
        component = component.original_component
    return component


def rotations(model: Model) -> dict[str, Angles]:
    """What makes the angles, by the names that attention layers call them by."""
    facts, bridge = model.facts, model.bridge
    if facts.architecture == "GPTJForCausalLM":
        return {"": partial(_gptj, inner(bridge.blocks[0].attn))}
    if facts.positions != "rotary":
        return {}
    if facts.architecture == "NativeModel":
        return {"": partial(_native, bridge.original_model.rotary)}
    module = inner(bridge.rotary_emb)
    if facts.architecture in BY_KIND:
        kinds = set(bridge.original_model.config.layer_types)
        return {kind: partial(_angles, module, layer_type=kind) for kind in sorted(kinds)}
    if facts.architecture in HALVED:
        return {"": partial(_halved, module)}
    if facts.architecture in ONCE:
        return {"": partial(_doubled, module)}
    return {"": partial(_angles, module)}


def slopes(model: Model) -> Slopes | None:
    """What makes the biases of ALiBi (Press et al. 2022, section 3), where a model has them."""
    if model.facts.positions != "alibi":
        return None
    heads, body = model.facts.n_heads, model.bridge.original_model.base_model
    return partial(_shifted if hasattr(body, "build_mpt_alibi_tensor") else _masked, body, heads)


def _angles(module: Any, like: Tensor, place: Tensor, **kind: str) -> tuple[Tensor, Tensor]:
    """The model's own module makes them, without what it remembers of longer rows."""
    with rotary.alone([module]), undetoured(like.dtype):
        return module(like, place, **kind)


def _halved(module: Any, like: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = (t.chunk(2, -1)[0] for t in _angles(module, like, place))
    return cos.repeat_interleave(2, -1), sin.repeat_interleave(2, -1)


def _doubled(module: Any, like: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = _angles(module, like, place)
    return torch.cat([cos, cos], -1), torch.cat([sin, sin], -1)


def _gptj(attention: nn.Module, like: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    table = cast(Tensor, attention.embed_positions).to(like.device).index_select(0, place[0])
    sin, cos = table.to(like.dtype).repeat_interleave(2, -1).chunk(2, -1)
    return cos[None], sin[None]


def _native(rotary: nn.Module, like: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = cast(Tensor, rotary.cos_cached), cast(Tensor, rotary.sin_cached)
    if place.shape[1] > len(cos):
        raise PairsError(
            f"rows of {place.shape[1]} tokens are longer than the model's n_ctx {len(cos)}. "
            "Shorten them, or build the model with a larger n_ctx."
        )
    return cos.index_select(0, place[0])[None], sin.index_select(0, place[0])[None]


def _masked(body: Any, heads: int, like: Tensor, keys: int) -> Tensor:
    """BLOOM's, which are 0 at the first key."""
    there = like.new_ones(1, keys, dtype=torch.long)
    return body.build_alibi_tensor(there, heads, like.dtype)[:, 0]


def _shifted(body: Any, heads: int, like: Tensor, keys: int) -> Tensor:
    """MPT's, which are 0 at the last key that it may have."""
    made = body.build_mpt_alibi_tensor(heads, body.config.max_seq_len, device=like.device)
    return made[:, 0, -keys:]
