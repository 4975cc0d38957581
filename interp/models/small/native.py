"""TransformerLens' native models behind the same `Model`: small, of any shape, made here.

A `Shape` says everything but the weights; `build` makes the model, random or from a state, and
`save` writes a folder that `interp.load` reads. They read token ids; a tokenizer may be given.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge.sources.native import NativeModel, initialize_native_model
from transformers import PreTrainedTokenizerBase
from transformers.modeling_outputs import CausalLMOutput

from interp.core.door.door import door
from interp.core.door.taken import NotEmpty, Seed, Told
from interp.core.errors import ModelError, PairsError
from interp.core.files.atomic import require_writable
from interp.core.parts.facts import Facts
from interp.models.finding import stored
from interp.models.finding.place import Device, Dtype, device_of, dtype_of
from interp.models.finding.stored import State
from interp.models.model import Model
from interp.models.quiet import quiet
from interp.models.wrap import wrap

SHAPE_FILE, WEIGHTS_FILE = "native.json", stored.WEIGHTS_FILE
SHORTEST = 8
"""Tokens that the checks at load and the verification of the replay engine need at most."""


@door
@dataclass(frozen=True)
class Shape:
    """A native transformer without its weights: pre-norm, causal, with its own unembedding.

    Attributes:
        n_layers, n_heads, n_kv_heads: counts; n_kv_heads=None is one key and value for each head.
        d_model, d_head, d_vocab: widths; n_heads * d_head need not be d_model.
        d_mlp: neurons of each MLP; 0 is an attention-only model.
        n_ctx: the longest row of tokens, at least 8.
        norm: before each part and before the unembedding.
        positions: a learned table added to the tokens; the fixed sines and cosines of Vaswani et
            al. 2017 §3.5 added to them; adjacent features of queries and keys rotated (RoPE); or
            nothing but the causal mask.
        smear: each head's key is mixed with the one before it, by a learned amount (Olsson et al.
            2022, "smeared key"): see `SmearedKey`.
        activation: of the MLPs.
    """

    n_layers: int
    n_heads: int
    d_model: int
    d_head: int
    d_vocab: int
    n_ctx: int
    d_mlp: int
    n_kv_heads: int | None = None
    norm: Literal["layer", "rms", "none"] = "layer"
    positions: Literal["none", "learned", "sinusoidal", "rotary"] = "learned"
    smear: bool = False
    activation: Literal["gelu", "gelu_new", "relu", "silu"] = "gelu"

    def __post_init__(self) -> None:
        least = {"n_layers": 1, "n_heads": 1, "d_model": 1, "d_head": 1, "d_vocab": 2}
        least |= {"n_ctx": SHORTEST, "d_mlp": 0, "n_kv_heads": 1}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise ModelError(f"{name}={value} makes no model; it must be at least {bound}.")
        if self.n_heads % (self.n_kv_heads or self.n_heads):
            raise ModelError(
                f"{self.n_heads} query heads cannot share {self.n_kv_heads} keys and values "
                "equally. Let n_kv_heads divide n_heads."
            )
        if self.positions == "rotary" and self.d_head % 2:
            raise ModelError(
                f"rotary positions turn pairs of features, and d_head={self.d_head} is odd."
            )

    @property
    def facts(self) -> Facts:
        """What the methods need to know of it."""
        return Facts(
            architecture="NativeModel",
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads or self.n_heads,
            d_model=self.d_model,
            d_head=self.d_head,
            d_mlp=self.d_mlp,
            d_vocab=self.d_vocab,
            n_ctx=self.n_ctx,
            norm=self.norm,
            positions=self.positions,
            block="pre",
            parallel=False,
            gated=False,
            causal=True,
            language_model=True,
        )


@door
def build(
    shape: Shape,
    *,
    name: Annotated[str, NotEmpty()],
    seed: Seed = 0,
    state: State | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    dtype: Dtype = torch.float32,
    device: Device = "cpu",
) -> Model:
    """A native model, wrapped, in evaluation mode, with its identities checked.

    Args:
        name: what the model is called in results.
        seed: of random weights: N(0, 0.64 / d_model), what writes to the residual stream divided
            by sqrt(2 n_layers); biases 0 (TransformerLens' "gpt2" mode).
        state: the weights instead, by name, as `state_of` gives them; they are copied.
        tokenizer: for texts; without one the model reads ids alone.
        dtype, device: as of `interp.load`.

    Raises:
        ModelError: the state is not one of this shape, or the device is not there.
        Unsupported: TransformerLens cannot wrap it.
    """
    where = device_of(device)
    dtype = dtype_of(dtype, where)
    with quiet():
        module = Native(shape, seed=seed)
        if state is not None:
            stored.fill(module, state, name=name, shape=shape)
        module.place(where, dtype)
        return wrap(
            module,
            "TransformerLensNative",
            name,
            tokenizer,
            d_vocab=shape.d_vocab,
            facts=lambda _: shape.facts,
            config=module.cfg,
        )


@door
def shape_of(model: Model) -> Shape:
    """The shape of a native model.

    Raises:
        ModelError: it is none.
    """
    module = model.bridge.original_model
    if not isinstance(module, Native):
        raise ModelError(
            f"{model.name} is a {model.facts.architecture}, not one of TransformerLens' native "
            "models, so it has no Shape. Make one with interp.models.small.native.build; save "
            "others with model.bridge.original_model.save_pretrained before they are wrapped."
        )
    return module.shape


@door
def state_of(model: Model) -> dict[str, Tensor]:
    """The parameters of a native model by name, sharing its storage: what `build` takes.

    Raises:
        ModelError: it is none.
    """
    shape_of(model)
    return {name: p.detach() for name, p in model.truth.parameters().items()}


@door
def save(model: Model, folder: Annotated[Path, Told(require_writable)]) -> Path:
    """Write a native model as a folder that `interp.load` reads: safetensors and its Shape.

    Raises:
        ModelError: not a native model.
        ResultsError: the folder cannot be written.
    """
    write(folder, shape_of(model), state_of(model))
    if model.tokenizer is not None:
        model.tokenizer.save_pretrained(folder)
    return folder


def write(folder: Path, shape: Shape, state: State) -> None:
    """The two files of a native folder; see `interp.models.finding.stored.write`."""
    stored.write(folder, SHAPE_FILE, shape, state)


def read(folder: Path) -> tuple[Shape, dict[str, Tensor]]:
    """The two files of a native folder; see `interp.models.finding.stored.read`."""
    return stored.read(folder, SHAPE_FILE, Shape)


class Native(NativeModel):
    """A native model of a Shape that speaks as Hugging Face's do: a config, logits in an output.

    What is not learned (a fixed table of positions, an MLP without neurons) is no parameter, so it
    is neither trained nor saved nor hashed.
    """

    def __init__(self, shape: Shape, *, seed: int) -> None:
        cfg = _config(shape)
        with torch.random.fork_rng(devices=[]):  # modules draw weights when they are made
            super().__init__(cfg)
        initialize_native_model(self, cfg, seed=seed)
        self.shape = shape
        self.config = SimpleNamespace(is_encoder_decoder=False)
        cfg.d_mlp = shape.d_mlp
        for block in self.layers:
            if not shape.d_mlp:
                _empty(block)
            if shape.smear:
                block.attn.k = SmearedKey(block.attn.k, heads=shape.facts.n_kv_heads)
        if self.pos is not None and shape.positions != "learned":
            _fix(self.pos, weight=self.pos.weight.detach())
        self.place("cpu", torch.float32)

    def place(self, device: str | torch.device, dtype: torch.dtype) -> None:
        """Move and cast; fixed tables are made anew, so that float64 holds all their digits."""
        self.to(device=device, dtype=dtype)
        shape = self.shape
        if self.pos is not None and shape.positions != "learned":
            self.pos.weight.copy_(
                sinusoids(shape.n_ctx, shape.d_model)
                if shape.positions == "sinusoidal"
                else torch.zeros(shape.n_ctx, shape.d_model)
            )
        if self.rotary is not None:
            angles = _angles(shape.n_ctx, shape.d_head).repeat_interleave(2, -1)
            self.rotary.cos_cached.copy_(angles.cos())
            self.rotary.sin_cached.copy_(angles.sin())

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]: an output, as callers expect
        self, input_ids: Int[Tensor, "batch pos"] | None = None, **rest: Any
    ) -> CausalLMOutput:
        """Logits, as an output.

        Raises:
            PairsError: rows longer than n_ctx.
        """
        if input_ids is not None and input_ids.shape[1] > self.shape.n_ctx:
            raise PairsError(
                f"rows of {input_ids.shape[1]} tokens are longer than the model's n_ctx "
                f"{self.shape.n_ctx}. Shorten them, or build the model with a larger n_ctx."
            )
        return CausalLMOutput(logits=super().forward(input_ids, **rest))


class SmearedKey(nn.Linear):
    """Keys mixed with the key before: k_j <- s k_j + (1 - s) k_(j-1), s = sigmoid(alpha).

    One learned alpha for each key (of a head, or of a group that shares it), 0 at first: half and
    half. The first key stays. Stands before the rotation, so the hooks of k see smeared keys.
    """

    def __init__(self, plain: nn.Linear, *, heads: int) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.weight, self.bias = plain.weight, plain.bias
        self.alpha = nn.Parameter(torch.zeros(heads))

    def forward(self, input: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos k"]:
        key = super().forward(input).unflatten(-1, (len(self.alpha), -1))
        before = torch.cat([key[:, :1], key[:, :-1]], 1)
        return torch.lerp(before, key, self.alpha.sigmoid()[:, None]).flatten(-2)


def sinusoids(n_ctx: int, d_model: int) -> Float[Tensor, "n_ctx d_model"]:
    """sin(pos / 10000^(2i / d_model)) at feature 2i and cos at 2i + 1 (Vaswani et al. 2017 §3.5).

    Scaled by 1 / sqrt(d_model): the published table stands beside embeddings that are multiplied
    by sqrt(d_model), and native models multiply theirs by nothing.
    """
    angles = _angles(n_ctx, d_model)
    table = torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)[:, :d_model]
    return table / math.sqrt(d_model)


def _angles(n_ctx: int, width: int) -> Float[Tensor, "n_ctx half"]:
    even = torch.arange(0, width, 2, dtype=torch.float64)
    return torch.outer(torch.arange(n_ctx, dtype=torch.float64), 10000.0 ** (-even / width))


def _config(shape: Shape) -> TransformerBridgeConfig:
    return TransformerBridgeConfig(
        d_model=shape.d_model,
        d_head=shape.d_head,
        n_layers=shape.n_layers,
        n_ctx=shape.n_ctx,
        n_heads=shape.n_heads,
        n_key_value_heads=shape.n_kv_heads,
        d_vocab=shape.d_vocab,
        d_mlp=shape.d_mlp or 1,  # 0 would mean 4 d_model; emptied afterwards
        act_fn=shape.activation,
        normalization_type={"layer": "LN", "rms": "RMS", "none": None}[shape.norm],
        positional_embedding_type="rotary" if shape.positions == "rotary" else "standard",
        rotary_dim=shape.d_head if shape.positions == "rotary" else None,
        architecture="TransformerLensNative",
    )


def _fix(module: nn.Module, **values: Tensor | None) -> None:
    """Make parameters what is not learned and not saved."""
    for name, value in values.items():
        delattr(module, name)
        module.register_buffer(name, value, persistent=False)


def _empty(block: nn.Module) -> None:
    """Take the neurons out of an MLP: it stays where hooks look for it, and writes nothing."""
    up, down, norm = block.mlp.fc_in, block.mlp.fc_out, block.ln2
    _fix(up, weight=up.weight.detach()[:0], bias=up.bias.detach()[:0])
    _fix(down, weight=down.weight.detach()[:, :0], bias=None)
    up.out_features = down.in_features = 0
    _fix(norm, **{name: value.detach() for name, value in norm.named_parameters()})
