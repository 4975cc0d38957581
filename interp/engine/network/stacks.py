"""The weights of an encoder-decoder: two stacks, of which the second reads what the first made.

Each is a `Weights` of its own, with facts of its own. A layer of the decoder has a `cross`
attention, whose keys and values read `Stacks.norm` of the encoder's last residual stream.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.core.errors import Unsupported
from interp.core.parts.facts import Facts
from interp.engine.network.linear import Linear, Map
from interp.engine.network.places import inner
from interp.engine.network.weights import (
    MLP,
    Attention,
    Bias,
    Block,
    Embedding,
    Ends,
    Norm,
    Unembedding,
    Weights,
    _activation,
    _linear,
    _norm,
    _scale,
)
from interp.models.bridge.activations import activation
from interp.models.model import Model

TWO_STACKS = (
    "T5ForConditionalGeneration",
    "MT5ForConditionalGeneration",
    "BartForConditionalGeneration",
    "MBartForConditionalGeneration",
    "MarianMTModel",
    "PegasusForConditionalGeneration",
    "BlenderbotForConditionalGeneration",
    "M2M100ForConditionalGeneration",
)
"""Encoder-decoders whose forward pass replay reproduces; each is verified before it serves."""


@dataclass(frozen=True)
class Stacks:
    """A whole encoder-decoder.

    Attributes:
        facts: the model's, which are its decoder's where the stacks differ.
        norm: of the encoder's last stream, before any key or value reads it.
        start: what the decoder starts with.
    """

    facts: Facts
    encoder: Weights
    norm: Norm | None
    decoder: Weights
    start: int


def facts_of_stack(facts: Facts, stack: Literal["enc", "dec"]) -> Facts:
    """Those of one stack by itself."""
    one = replace(facts, n_encoder_layers=0, causal=stack == "dec")
    if stack == "dec":
        return one
    return replace(one, n_layers=facts.n_encoder_layers, language_model=False)


def read_stacks(model: Model) -> Stacks:
    """Views of the model's own parameters.

    Raises:
        Unsupported: an architecture outside TWO_STACKS, or an option that replay does not have.
    """
    facts, bridge = model.facts, model.bridge
    if facts.architecture not in TWO_STACKS:
        raise Unsupported(
            f"of encoder-decoders the replay engine has {', '.join(TWO_STACKS)}, and this model is "
            f"a {facts.architecture}; use engine='hooks' (slower, any architecture)."
        )
    if not facts.language_model:
        raise Unsupported(
            f"the replay engine reads the logits of encoder-decoders, and {model.name} has no "
            "trained head; use engine='hooks'."
        )
    hf = bridge.original_model
    config = hf.config
    name = getattr(config, "dense_act_fn", None) or getattr(config, "activation_function", None)
    if activation(name) is None:
        raise Unsupported(f"the replay engine has no activation {name!r}; use engine='hooks'.")
    if config.decoder_start_token_id is None:
        raise Unsupported(
            f"the config of {model.name} has no decoder_start_token_id, so it is not known what "
            "the decoder starts with. Set it in model.bridge.original_model.config."
        )
    encoder, decoder = (inner(part) for part in (hf.get_encoder(), hf.get_decoder()))
    return Stacks(
        facts,
        _stack(model, "enc", encoder, str(name)),
        _last_norm(model, encoder),
        _stack(model, "dec", decoder, str(name)),
        config.decoder_start_token_id,
    )


def _stack(model: Model, stack: Literal["enc", "dec"], module: Any, act_fn: str) -> Weights:
    blocks = model.bridge.encoder_blocks if stack == "enc" else model.bridge.decoder_blocks
    distance = _distance(_attention(blocks[0]))
    return Weights(
        facts=facts_of_stack(model.facts, stack),
        embed=_embedding(model, module),
        rotary={},
        interleaved=False,
        blocks=tuple(_block(model, block, act_fn, distance) for block in blocks),
        unembed=_unembedding(model, module) if stack == "dec" else None,
        stack=stack,
    )


def _attention(block: Any) -> Any:
    """The bridge's own attention of a layer."""
    return block.self_attn if hasattr(block, "self_attn") else block.attn


def _block(model: Model, block: Any, act_fn: str, distance: Bias | None) -> Block:
    post = model.facts.block == "post"

    def ends(name: str) -> Ends:
        norm = _norm(model, getattr(block, name))
        return Ends(None, sum=norm) if post else Ends(norm)

    def attention(part: Any, name: str, bias: Bias | None) -> Attention:
        return Attention(
            ends=ends(name),
            q=_linear(model, part.q),
            k=_linear(model, part.k),
            v=_linear(model, part.v),
            o=_linear(model, part.o),
            scale=_scale(inner(part), model.facts.d_head),
            bias=bias,
        )

    crosses = hasattr(block, "cross_attn")
    return Block(
        attention(_attention(block), "ln1", distance),
        MLP(
            ends=ends("ln3" if crosses else "ln2"),
            gate=_linear(model, block.mlp.gate) if model.facts.gated else None,
            up=_linear(model, getattr(block.mlp, "in")),
            down=_linear(model, block.mlp.out),
            activation=_activation(act_fn),
        ),
        attention(block.cross_attn, "ln2", None) if crosses else None,
    )


def _distance(attention: Any) -> Bias | None:
    """T5's relative position biases, whose table stands in the first layer and serves all."""
    own = inner(attention)
    if not getattr(own, "has_relative_attention_bias", False):
        return None
    return partial(_biases, own)


def _biases(
    attention: Any, query: Int[Tensor, "batch query"], keys: int
) -> Float[Tensor, "batch head query key"]:
    """The model's own module finds the buckets of distances: their rounding is part of it."""
    apart = torch.arange(keys, device=query.device) - query[..., None]
    buckets = attention._relative_position_bucket(
        apart,
        bidirectional=not attention.is_decoder,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )
    table = inner(attention.relative_attention_bias).weight.to(query.device)
    return F.embedding(buckets, table).movedim(-1, 1)


def _embedding(model: Model, stack: Any) -> Embedding:
    table, places = inner(stack.embed_tokens), getattr(stack, "embed_positions", None)
    scale = getattr(table, "embed_scale", getattr(stack, "embed_scale", None))
    first = getattr(stack, "layernorm_embedding", None)
    positions, skipped = None, None
    if places is not None:
        places = inner(places)
        counted = hasattr(places, "weights")  # M2M100's are no parameter
        skipped = places.padding_idx if counted else None
        start = skipped if counted else getattr(places, "offset", 0)
        positions = (places.weights if counted else places.weight)[start:]
    return Embedding(
        table.weight,
        None if scale is None else float(scale),
        positions,
        norm=None if first is None else _norm(model, first),
        skipped=skipped,
    )


def _last_norm(model: Model, stack: Any) -> Norm | None:
    for name in ("final_layer_norm", "layer_norm"):
        if isinstance(found := getattr(stack, name, None), nn.Module):
            return _norm(model, found)
    return None


def _unembedding(model: Model, stack: Any) -> Unembedding:
    hf = model.bridge.original_model
    linear: Map = _linear(model, model.bridge.unembed)
    added = getattr(hf, "final_logits_bias", None)
    if added is not None and isinstance(linear, Linear):
        bias = added.flatten().to(linear.weight)
        linear = Linear(linear.weight, bias if linear.bias is None else linear.bias + bias)
    scaled = getattr(hf.config, "scale_decoder_outputs", False)
    scale = float(model.facts.d_model**-0.5) if scaled else None
    return Unembedding(_last_norm(model, stack), linear, scale=scale)
