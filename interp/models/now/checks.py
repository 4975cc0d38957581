"""What the methods rely on, measured on the model itself.

A hook of the same name means another tensor on another architecture. So each identity is tried on
two rows of six random tokens, at the points that `interp.models.bridge.points` names, and a method
that needs a broken one refuses.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from interp.core.parts.facts import Facts
from interp.core.parts.sites import Kind
from interp.core.prompts.grid import Images
from interp.core.prompts.patches import random_images
from interp.models.bridge import quantised
from interp.models.bridge.placed import hooked
from interp.models.bridge.points import (
    attentions,
    n_layers,
    point,
    projection,
    shelves,
    summed,
)
from interp.models.bridge.precision import rounding

Identity = Literal["residual", "heads", "parity"]

DEEP = 16
"""Over all layers rounding adds up to several times what it is in one."""


EXPLAINING: ContextVar[str] = ContextVar("explaining", default="")
"""The name of what explains itself (`interp.engine.plan.explain`); nothing where calls are run."""


@dataclass(frozen=True)
class Checks:
    """Largest deviations over all layers, each relative to the largest value of what it is against.

    None: a hook that it needs is missing on this architecture, or an adapter stands in its place.

    Attributes:
        resid_mid: of resid_pre + attn_out from resid_mid (where the norm follows the sum: from what
            enters that norm). None in blocks without: parallel ones, and those of attention only.
        resid_post: of resid_mid + mlp_out (parallel: resid_pre + attn_out + mlp_out; attention
            only: resid_pre + attn_out; a decoder that reads an encoder: resid_mid + cross.attn_out
            + mlp_out) from resid_post (norm after the sum: from what enters it).
        heads: of the sum of head outputs z @ W_O, plus b_O, from the output of W_O. What a norm on
            the way to the residual stream makes of that is another matter. Of a quantised W_O that
            rounds what it reads, or that cannot be read, what the module makes of z.
        pattern: how far the output moves when TransformerLens' hook_pattern of the first layer is
            set to zero; at 0 the model ignores such a write. No obstacle here: patterns are
            written through z.
        parity: of the output from that of Hugging Face's own model with the same weights. The
            output is the logits, or the last hidden state of a model without a language-model head.
            Which engine serves is not decided by it, but layer by layer.
        tolerance: what passes: a few units in the last place of the model's precision.
        parallel, attention_only: which form of resid_post was tried.
        recurrent: there is no residual stream and there are no heads, so only parity is tried.
    """

    resid_mid: float | None
    resid_post: float | None
    heads: float | None
    pattern: float | None
    parity: float
    tolerance: float
    parallel: bool
    attention_only: bool = False
    recurrent: bool = False

    def problems(self) -> dict[Identity, str]:
        """The broken identities, each with its numbers and what it means; empty when all hold."""
        found: dict[Identity, str] = {}
        parts, middle = "resid_mid + mlp_out", self.resid_mid
        if self.parallel or self.attention_only:
            parts, middle = "resid_pre + attn_out", 0.0
        parts += " + mlp_out" if self.parallel else ""
        for value, sides in (
            (middle, "resid_pre + attn_out = resid_mid"),
            (self.resid_post, f"{parts} = resid_post"),
        ):
            if not self.recurrent and not self._holds(value):
                found["residual"] = (
                    f"{sides} {self._how(value)}. Likely something stands between the part and the "
                    "residual stream, a norm or a factor, where TransformerLens shows none"
                )
                break
        if not self.recurrent and not self._holds(self.heads):
            found["heads"] = (
                f"sum of head outputs + b_O = output of W_O {self._how(self.heads)}. Likely W_O "
                "does not read hook_z as it is, so no head has a write of its own"
            )
        if not self._holds(self.parity, DEEP):
            found["parity"] = (
                f"the bridge's output = Hugging Face's output {self._how(self.parity, DEEP)}. "
                "Likely TransformerLens does not carry this architecture over faithfully"
            )
        return found

    def _holds(self, value: float | None, deep: int = 1) -> bool:
        return value is not None and value <= deep * self.tolerance

    def _how(self, value: float | None, deep: int = 1) -> str:
        if value is None:
            return "cannot be tried: a hook is missing"
        return f"is off by {value:.1e} times its size (tolerance {deep * self.tolerance:.0e})"


def sample_tokens(
    d_vocab: int, *, device: torch.device, image: Images | None = None
) -> Int[Tensor, "batch pos"]:
    """Two rows of six random token ids, or of the patches of an image; the same on every call."""
    if image is not None:
        return random_images(image, 2, 0)[0].to(device)
    ids = torch.randint(0, d_vocab, (2, 6), generator=torch.Generator().manual_seed(0))
    return ids.to(device)


@torch.no_grad()
def output_of(
    model: nn.Module, tokens: Int[Tensor, "batch pos"], *, language_model: bool
) -> Float[Tensor, "batch pos out"]:
    """Logits of a model, or the last hidden state where there is no trained head.

    A wrapped model is the same object with its parts replaced, so this serves before and after
    wrapping, and hooks fire. An encoder-decoder decodes the ids that it read.
    """
    inputs = {"input_ids": tokens}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = tokens
    if language_model:
        return model(**inputs).logits.to(tokens.device)
    return model.base_model(**inputs).last_hidden_state.to(tokens.device)


@torch.no_grad()
def run_checks(
    bridge: TransformerBridge,
    facts: Facts,
    *,
    tokens: Int[Tensor, "batch pos"],
    reference: Float[Tensor, "batch pos out"],
) -> Checks:
    """Try every identity in every layer. `reference`: the unwrapped model's output on `tokens`."""
    acts: dict[str, Tensor] = {}

    def keep(value: Tensor, hook: Any, name: str) -> None:
        acts[name] = value.detach().clone()

    model, known = bridge.original_model, bridge.hook_dict
    wanted = [name for name in _wanted(facts) if name in known]
    hooks = [(name, lambda v, hook, name=name: keep(v, hook, name)) for name in wanted]
    with hooked(bridge, hooks):
        output = output_of(model, tokens, language_model=facts.language_model)

    mids, posts = zip(*(_sums(facts, acts, *where) for where in _layers(facts)), strict=True)
    heads = [
        off(_heads(bridge, part, acts.get(z)), acts.get(f"{part}.hook_out"))
        for part, z in _attentions(facts)
    ]
    return Checks(
        resid_mid=None if facts.parallel or not facts.d_mlp else _worst(mids),
        resid_post=_worst(posts),
        heads=_worst(heads),
        pattern=_moved(bridge, facts, tokens, output),
        parity=off(output, reference),
        tolerance=rounding(reference.dtype),
        parallel=facts.parallel,
        attention_only=not facts.d_mlp,
    )


def recurrent_checks(output: Float[Tensor, "batch pos out"]) -> Checks:
    """Of a model that is not wrapped, whose output is its own reference."""
    return Checks(
        resid_mid=None,
        resid_post=None,
        heads=None,
        pattern=None,
        parity=off(output, output),
        tolerance=rounding(output.dtype),
        parallel=False,
        recurrent=True,
    )


def _moved(
    bridge: TransformerBridge,
    facts: Facts,
    tokens: Int[Tensor, "batch pos"],
    output: Float[Tensor, "batch pos out"],
) -> float | None:
    """How far a pattern of zeros moves the output, if the bridge shows the pattern at all."""
    fired: list[str] = []

    def zero(value: Tensor, hook: Any) -> Tensor:
        fired.append(name)
        # out of place: an in-place edit can reach the cache without reaching the computation
        return value * 0

    name = point(facts, f"{stack}.pattern" if (stack := attentions(facts)[0]) else "pattern", 0)
    if name not in bridge.hook_dict:
        return None
    with warnings.catch_warnings(), hooked(bridge, [(name, zero)]):
        warnings.simplefilter("ignore")  # that the write is discarded is what is found out here
        without = output_of(bridge.original_model, tokens, language_model=facts.language_model)
    return off(without, output) if fired else None


def off(value: Tensor | None, target: Tensor | None) -> float | None:
    """max |value - target| / max |target|; None where one is missing, inf at NaN or odd shape."""
    if value is None or target is None:
        return None
    if value.shape != target.shape or not (value.isfinite().all() and target.isfinite().all()):
        return float("inf")
    gap = (value.double() - target.to(value.device).double()).abs().max().item()
    return gap / max(target.abs().max().item(), torch.finfo(target.dtype).tiny)


_STREAMS: tuple[Kind, ...] = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")


def _layers(facts: Facts) -> Iterator[tuple[str, int]]:
    """Stack and number of each layer; the stack is empty where there is one."""
    for stack in ("enc", "dec") if facts.n_encoder_layers else ("",):
        for layer in range(n_layers(facts, f"{stack}.z")):
            yield stack, layer


def _attentions(facts: Facts) -> Iterator[tuple[str, str]]:
    """The output projection of each attention, and the hook of what it reads."""
    for attention in attentions(facts):
        for layer in range(n_layers(facts, f"{attention}.z")):
            z = point(facts, f"{attention}.z" if attention else "z", layer)
            yield projection(attention, layer), z


def _wanted(facts: Facts) -> Iterator[str]:
    for shelf in shelves(facts, _STREAMS):
        for layer in range(n_layers(facts, shelf)):
            yield point(facts, shelf, layer)
    for part, z in _attentions(facts):
        yield from (z, f"{part}.hook_out")
    if facts.block == "post":
        for stack, layer in _layers(facts):
            for norm in summed(stack, layer):
                yield from (f"{norm}.hook_in", f"{norm}.hook_out")


def _sums(
    facts: Facts, acts: Mapping[str, Tensor], stack: str, layer: int
) -> tuple[float | None, float | None]:
    """How far the residual stream of a layer is from the sum of what is written into it."""

    def at(kind: str) -> Tensor | None:
        return acts.get(point(facts, f"{stack}.{kind}" if stack else kind, layer))

    middle, end = at("resid_mid"), at("resid_post")
    if facts.block == "post":
        # the sums stand before their norms; between two norms is what the first of them leaves
        norms = summed(stack, layer)
        parts = [(at("resid_pre"), at("attn_out"))]
        if stack == "dec":
            parts.append((middle, at("cross.attn_out")))
        parts.append((acts.get(f"{norms[-2]}.hook_out"), at("mlp_out")))
        found = [
            off(_sum(*each), acts.get(f"{norm}.hook_in"))
            for each, norm in zip(parts, norms, strict=True)
        ]
        return found[0], None if None in found[1:] else _worst(found[1:])
    if not facts.d_mlp:
        return None, off(_sum(at("resid_pre"), at("attn_out")), end)
    if facts.parallel:
        return None, off(_sum(at("resid_pre"), at("attn_out"), at("mlp_out")), end)
    crossed = (at("cross.attn_out"),) if stack == "dec" else ()
    return (
        off(_sum(at("resid_pre"), at("attn_out")), middle),
        off(_sum(middle, *crossed, at("mlp_out")), end),
    )


def _sum(*parts: Tensor | None) -> Tensor | None:
    there = [part for part in parts if part is not None]
    if len(there) < len(parts):
        return None
    return sum((part.to(there[0].device) for part in there[1:]), start=there[0])


def _worst(values: Sequence[float | None]) -> float | None:
    return None if not values or None in values else max(values)


def output_weight(
    linear: nn.Module, *, n_heads: int, d_head: int
) -> Float[Tensor, "head d_head d_model"]:
    """W_O split by head: a view of the module's own weight, whichever way that is stored; of a
    quantised one a copy.
    """
    if quantised.packed(linear):
        return quantised.dequantised(linear, torch.float32).T.unflatten(0, (n_heads, d_head))
    # Conv1D keeps [in, out] and nn.Linear [out, in]; square shapes cannot tell them apart.
    by_input = linear.weight if type(linear).__name__ == "Conv1D" else linear.weight.T
    return by_input.unflatten(0, (n_heads, d_head))


def _splits(linear: nn.Module, z: Float[Tensor, "batch pos head d_head"]) -> bool:
    """Is a W_O a matrix with rows for each head?"""
    if quantised.packed(linear):
        return quantised.known(linear) and not quantised.rounds(linear)
    flipped = type(linear).__name__ == "Conv1D"
    return linear.weight.ndim == 2 and linear.weight.shape[1 - flipped] == z[0, 0].numel()


def _heads(
    bridge: TransformerBridge, part: str, z: Float[Tensor, "batch pos head d_head"] | None
) -> Float[Tensor, "batch pos d_model"] | None:
    if z is None or z.ndim != 4:
        return None
    linear = attrgetter(part)(bridge).original_component
    if not isinstance(getattr(linear, "weight", None), Tensor):
        return None  # an adapter stands there
    if not _splits(linear, z):
        return linear(z.flatten(-2))
    w_o = output_weight(linear, n_heads=z.shape[2], d_head=z.shape[3]).to(z.dtype)
    out = torch.einsum("bphd,hdm->bpm", z, w_o)
    return out if linear.bias is None else out + linear.bias
