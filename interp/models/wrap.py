"""A module becomes a `Model`: wrapped by TransformerLens, its identities measured."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformers import PreTrainedTokenizerBase

from interp.core.door.door import door
from interp.core.door.taken import Count
from interp.core.errors import InterpError, ModelError, Unsupported, said
from interp.core.parts.facts import Facts
from interp.core.prompts.grid import Images, Processor
from interp.models.bridge import quantised
from interp.models.bridge.borders import bordered
from interp.models.bridge.folded import unfolded
from interp.models.bridge.precision import exact, rounding
from interp.models.model import Model
from interp.models.now.checks import off, output_of, sample_tokens
from interp.models.now.fused import fused_in
from interp.models.now.lender import Lender
from interp.models.now.live import Live
from interp.models.now.origin import Origin
from interp.models.now.truth import Truth, named_tensors, skeleton_of
from interp.models.now.watch import Watch


@door
def wrap(
    module: nn.Module,
    architecture: str,
    name: str,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    d_vocab: Count,
    facts: Callable[[TransformerBridge], Facts],
    headless: bool = False,
    config: TransformerBridgeConfig | None = None,
    origin: Origin | None = None,
    lender: Lender | None = None,
    image: Images | None = None,
    processor: Processor | None = None,
) -> Model:
    """A bridge over a model that speaks as Hugging Face's do, with its identities checked.

    Args:
        module: has a `config`, and gives `.logits` (or, without a head, `.last_hidden_state`).
        architecture: TransformerLens' name of the adapter.
        name: what the model is called in results.
        tokenizer: its own, or None.
        d_vocab: how many token ids it reads.
        facts: reads them from the bridge.
        headless: there is no trained language-model head.
        config: TransformerLens' own; without it the module's Hugging Face config is translated.
        origin: what it was made of, where the name does not say that.
        lender: whose numbers the module has.
        image, processor: of one that reads images: which, and what becomes of their pixels first.

    Raises:
        ModelError: what it gives is not finite.
        Unsupported: TransformerLens cannot wrap or run it.
    """
    module = module.eval().requires_grad_(False)
    first = next(module.parameters(), None)
    if first is None or not hasattr(module, "config"):
        lacks = "no config" if first is not None else "no parameters"
        raise Unsupported(
            f"a {type(module).__name__} has {lacks}, so it is no model that speaks as Hugging "
            "Face's do. Give one of theirs, or make one with interp.models.small.native.build."
        )
    where, dtype = first.device, first.dtype
    bordered(module)
    skeleton, named = skeleton_of(module), named_tensors(module)
    packed = sorted({quantised.told(m) for m in module.modules() if quantised.apart(m)})
    exact(module)
    exact(skeleton)
    tokens = sample_tokens(d_vocab, device=where, image=image)
    # the bridge changes the tokenizer that it is given, and reads anew one that came from files
    filed = tokenizer is not None and "name_or_path" in tokenizer.init_kwargs
    try:
        alone = output_of(module, tokens, language_model=not headless)
        if not bool(alone.isfinite().all()):
            raise ModelError(
                f"{name} gives NaN or infinity for two rows of six tokens in {dtype}. Likely its "
                "weights are damaged, or that type holds too little: try dtype=torch.float32."
            )
        with unfolded(module):
            bridge = build_bridge_from_module(
                module,
                architecture,
                hf_config=copy.deepcopy(module.config) if config is None else None,
                tl_config=config,
                tokenizer=copy.deepcopy(tokenizer) if filed else None,
                dtype=dtype,
                device=where,
                model_name=name,
            )
        bordered(module)  # of what stands in its parts' places
        bridge.eval().requires_grad_(False)  # again: wrapping may add modules
        known = _as_it_runs(facts(bridge), module, tokens)
        output_of(module, tokens, language_model=not headless)  # it hooks itself when it first runs
        watch = Watch(module, bridge)
        model = Model(
            bridge=bridge,
            name=name,
            facts=known,
            tokenizer=tokenizer,
            truth=Truth(skeleton, named, watch, head=not headless),
            live=Live(watch, fused_in(module), lender),
            origin=origin or Origin(),
            processor=processor,
        )
        wrapped = model.truth.run(tokens).output
        _ = model.checks
    except (torch.OutOfMemoryError, InterpError):
        raise
    except Exception as error:  # whatever an adapter meets on a shape that it did not expect
        raise Unsupported(
            f"{architecture} loads, but TransformerLens cannot wrap or run it ({name}): "
            f"{_failed(error, packed)}"
        ) from error
    moved = off(wrapped, alone)
    if moved is None or not moved <= rounding(dtype):
        raise Unsupported(
            f"{architecture} says something else once it is wrapped ({name}): its output moves by "
            f"{moved:.1e} of its size, so TransformerLens changed its weights or settings, and "
            "what the model computes by itself cannot be known any more."
        )
    model.require_eval()
    return model


def _failed(error: Exception, packed: Sequence[str]) -> str:
    """What an adapter said, why that is likely, and what to do."""
    if packed:
        return (
            f"{said(error)}. Likely because its weights are quantised ({', '.join(packed)}) and "
            "the adapter cuts one of them into parts (q, k and v that are kept as one matrix), or "
            "reads one. Load the model in float16 or wider, or another architecture, whose "
            "projections are kept apart; of a head that is quantised too, leave that out "
            "(llm_int8_skip_modules=['lm_head'])."
        )
    return (
        f"{type(error).__name__}: {error} Likely its config has an option that the "
        "adapter does not know. Another model of the same family may work."
    )


def _as_it_runs(facts: Facts, module: nn.Module, tokens: Int[Tensor, "batch pos"]) -> Facts:
    """With what a config may switch by itself: does a token see those that come after it?"""
    if facts.n_encoder_layers or facts.image:
        return facts
    other = tokens.clone()
    other[:, -1] = (other[:, -1] + 1) % facts.d_vocab
    plain, changed = (
        output_of(module, ids, language_model=facts.language_model)[:, :-1]
        for ids in (tokens, other)
    )
    moved = off(changed, plain)
    if moved is None or moved == float("inf") or 0 < moved <= rounding(plain.dtype):
        return facts  # NaN and rounding say nothing
    return replace(facts, causal=moved == 0)
