"""Reading an architecture's facts from its bridge and its Hugging Face config."""

from typing import Any

from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components import ParallelBlockBridge

from interp.core.parts.facts import Facts
from interp.models.bridge.vision import images_of

_POSITIONS = {"standard": "learned", "rotary": "rotary", "alibi": "alibi", "none": "none"}
# Norm after the residual sum. No config field says so, except OPT's.
_POST_NORM = {"bert", "roberta", "distilbert", "electra", "albert", "openai-gpt"}
_POST_NORM |= {"bart", "marian", "xlm-roberta", "camembert"}


def facts_of(bridge: TransformerBridge, *, language_model: bool = True) -> Facts:
    """The facts of a wrapped model; of an encoder-decoder, its decoder's.

    `language_model` is told by the caller: weights may lack the head that the class has.
    """
    cfg, config = bridge.cfg, bridge.original_model.config
    text = config.get_text_config(decoder=True)
    blocks = bridge.decoder_blocks if config.is_encoder_decoder else bridge.blocks
    rms = str(cfg.normalization_type).startswith("RMS") or bool(cfg.uses_rms_norm)
    norm = "rms" if rms else "layer" if cfg.normalization_type else "none"
    if text.model_type in _POST_NORM or getattr(text, "do_layer_norm_before", True) is False:
        block = "post"
    else:
        block = "sandwich" if hasattr(blocks[0], "ln1_post") else "pre"
    count, width = _experts(blocks[0])
    shared = getattr(text, "shared_expert_intermediate_size", 0) if count else 0
    image = images_of(bridge.original_model)
    return Facts(
        architecture=type(bridge.original_model).__name__,
        n_layers=len(blocks),
        n_heads=cfg.n_heads,
        n_kv_heads=cfg.n_key_value_heads or cfg.n_heads,
        d_model=cfg.d_model,
        d_head=getattr(text, "d_kv", None) or cfg.d_head,
        d_mlp=count * width + shared or _d_mlp(text, cfg.d_mlp),
        d_vocab=config.num_labels if image else cfg.d_vocab,
        n_ctx=image.n_ctx if image else cfg.n_ctx,
        norm=norm,
        positions=_POSITIONS.get(str(cfg.positional_embedding_type), "other"),
        block=block,
        parallel=isinstance(blocks[0], ParallelBlockBridge),
        gated=bool(cfg.gated_mlp),
        causal=cfg.attention_dir == "causal" and image is None,
        language_model=language_model,
        n_encoder_layers=len(bridge.encoder_blocks) if config.is_encoder_decoder else 0,
        n_experts=count,
        sinks=hasattr(getattr(blocks[0], "attn", None), "sinks"),
        image=image,
    )


def _experts(block: Any) -> tuple[int, int]:
    """How many experts a layer has and the neurons of each, where all layers have the same."""
    module = getattr(getattr(block, "mlp", None), "original_component", None)
    experts = getattr(module, "experts", None)
    width = "intermediate_dim" if hasattr(experts, "intermediate_dim") else "intermediate_size"
    sizes = (getattr(experts, name, None) for name in ("num_experts", width))
    count, width = (size if isinstance(size, int) else 0 for size in sizes)
    return (count, width) if width else (0, 0)


def _d_mlp(config: object, otherwise: int | None) -> int:
    """The hidden width; TransformerLens guesses 4 d_model where it does not know the field."""
    for name in (
        "ffn_dim",
        "ffn_hidden_size",
        "d_ff",
        "n_inner",
        "intermediate_size",
        "hidden_dim",
    ):
        width = getattr(config, name, None)
        if isinstance(width, int):
            return width
    return otherwise or 0
