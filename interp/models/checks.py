"""What the methods rely on, measured on the model itself.

A hook of the same name means another tensor on another architecture, and a write to an attention
pattern can be silently ignored. So each identity is tried on two rows of six random tokens, and a
method that needs a broken one refuses.
"""

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel

from interp.core.facts import Facts

Identity = Literal["residual", "heads", "pattern", "parity"]

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@dataclass(frozen=True)
class Checks:
    """Largest deviations over all layers, each relative to the largest value of what it is against.

    None: a hook that it needs is missing on this architecture.

    Attributes:
        resid_mid: of resid_pre + attn_out from resid_mid. None in parallel blocks, which have none.
        resid_post: of resid_mid + mlp_out (parallel: resid_pre + attn_out + mlp_out) from
            resid_post.
        heads: of the sum of head outputs z @ W_O, plus b_O, from attn_out.
        pattern: how far the output moves when the attention pattern of the first layer that has
            one is set to zero; 0 is a write that the model ignores.
        parity: of the output from that of the Hugging Face model before it was wrapped. The output
            is the logits, or the last hidden state of a model without a language-model head.
        tolerance: what passes, by dtype.
        parallel: which form of resid_post was tried.
    """

    resid_mid: float | None
    resid_post: float | None
    heads: float | None
    pattern: float | None
    parity: float
    tolerance: float
    parallel: bool

    def problems(self) -> dict[Identity, str]:
        """The broken identities, each with its numbers and what it means; empty when all hold."""
        found: dict[Identity, str] = {}
        mlp = "resid_pre + attn_out + mlp_out" if self.parallel else "resid_mid + mlp_out"
        for value, sides in (
            (0.0 if self.parallel else self.resid_mid, "resid_pre + attn_out = resid_mid"),
            (self.resid_post, f"{mlp} = resid_post"),
        ):
            if not self._holds(value):
                found["residual"] = (
                    f"{sides} {self._how(value)}. Likely a norm stands between the part and the "
                    "residual stream, as in BERT"
                )
                break
        if not self._holds(self.heads):
            found["heads"] = (
                f"sum of head outputs + b_O = attn_out {self._how(self.heads)}. Likely a norm "
                "follows the attention, as in Gemma 2, so no head has a linear write of its own"
            )
        if self.pattern is None or self.pattern <= self.tolerance:
            found["pattern"] = (
                "setting one layer's attention pattern to zero "
                + (
                    "cannot be tried: hook_pattern does not fire"
                    if self.pattern is None
                    else f"moves the output by {self.pattern:.1e} times its size, which is nothing"
                )
                + ". On this architecture the pattern is read-only"
            )
        if not self._holds(self.parity):
            found["parity"] = (
                f"the bridge's output = Hugging Face's output {self._how(self.parity)}. Likely "
                "TransformerLens does not carry this architecture over faithfully"
            )
        return found

    def _holds(self, value: float | None) -> bool:
        return value is not None and value <= self.tolerance

    def _how(self, value: float | None) -> str:
        if value is None:
            return "cannot be tried: a hook is missing"
        return f"is off by {value:.1e} times its size (tolerance {self.tolerance:.0e})"


def sample_tokens(d_vocab: int, *, device: torch.device) -> Int[Tensor, "batch pos"]:
    """Two rows of six random token ids, the same on every call."""
    ids = torch.randint(0, d_vocab, (2, 6), generator=torch.Generator().manual_seed(0))
    return ids.to(device)


@torch.no_grad()
def output_of(
    model: PreTrainedModel, tokens: Int[Tensor, "batch pos"], *, language_model: bool
) -> Float[Tensor, "batch pos out"]:
    """Logits of a Hugging Face model, or the last hidden state where there is no trained head.

    A wrapped model is the same object with its parts replaced, so this serves before and after
    wrapping, and hooks fire. An encoder-decoder decodes the ids that it read.
    """
    inputs = {"input_ids": tokens}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = tokens
    if language_model:
        return model(**inputs).logits
    return model.base_model(**inputs).last_hidden_state


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
    wanted = [name for i in range(facts.n_layers) for name in _names(i).values() if name in known]
    hooks = [(name, lambda v, hook, name=name: keep(v, hook, name)) for name in wanted]
    with bridge.hooks(fwd_hooks=hooks):
        output = output_of(model, tokens, language_model=facts.language_model)

    layers = [
        {short: acts.get(name) for short, name in _names(i).items()} for i in range(facts.n_layers)
    ]
    mids = [off(_sum(at["resid_pre"], at["attn_out"]), at["resid_mid"]) for at in layers]
    if facts.parallel:
        posts = [
            off(_sum(at["resid_pre"], at["attn_out"], at["mlp_out"]), at["resid_post"])
            for at in layers
        ]
    else:
        posts = [off(_sum(at["resid_mid"], at["mlp_out"]), at["resid_post"]) for at in layers]
    heads = [off(_heads(bridge, i, at["z"]), at["attn_out"]) for i, at in enumerate(layers)]
    live = next((i for i, at in enumerate(layers) if at["pattern"] is not None), None)
    pattern = None
    if live is not None:
        # Out of place: an in-place edit can reach the cache without reaching the computation.
        zero = (_names(live)["pattern"], lambda value, hook: value * 0)
        with warnings.catch_warnings(), bridge.hooks(fwd_hooks=[zero]):
            warnings.simplefilter("ignore")  # that the write is discarded is what is found out here
            without = output_of(model, tokens, language_model=facts.language_model)
        pattern = off(without, output)
    return Checks(
        resid_mid=None if facts.parallel else _worst(mids),
        resid_post=_worst(posts),
        heads=_worst(heads),
        pattern=pattern,
        parity=off(output, reference),
        tolerance=_TOLERANCE.get(reference.dtype, 1e-4),
        parallel=facts.parallel,
    )


def off(value: Tensor | None, target: Tensor | None) -> float | None:
    """max |value - target| / max |target|; None where one is missing, inf at NaN or odd shape."""
    if value is None or target is None:
        return None
    if value.shape != target.shape or not (value.isfinite().all() and target.isfinite().all()):
        return float("inf")
    gap = (value.double() - target.double()).abs().max().item()
    return gap / max(target.abs().max().item(), torch.finfo(target.dtype).tiny)


def _names(layer: int) -> dict[str, str]:
    here = f"blocks.{layer}."
    streams = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
    inner = {"z": f"{here}attn.hook_z", "pattern": f"{here}attn.hook_pattern"}
    return {s: f"{here}hook_{s}" for s in streams} | inner


def _sum(*parts: Tensor | None) -> Tensor | None:
    return None if any(p is None for p in parts) else sum(parts[1:], start=parts[0])


def _worst(values: list[float | None]) -> float | None:
    return None if not values or None in values else max(values)


def output_weight(
    linear: nn.Module, *, n_heads: int, d_head: int
) -> Float[Tensor, "head d_head d_model"]:
    """W_O split by head: a view of the module's own weight, whichever way that is stored."""
    # Conv1D keeps [in, out] and nn.Linear [out, in]; square shapes cannot tell them apart.
    by_input = linear.weight if type(linear).__name__ == "Conv1D" else linear.weight.T
    return by_input.unflatten(0, (n_heads, d_head))


def _heads(
    bridge: TransformerBridge, layer: int, z: Float[Tensor, "batch pos head d_head"] | None
) -> Float[Tensor, "batch pos d_model"] | None:
    if z is None or z.ndim != 4:
        return None
    linear = bridge.blocks[layer].attn.o.original_component
    w_o = output_weight(linear, n_heads=z.shape[2], d_head=z.shape[3])
    out = torch.einsum("bphd,hdm->bpm", z, w_o)
    return out if linear.bias is None else out + linear.bias
