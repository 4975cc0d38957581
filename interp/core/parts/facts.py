"""What the methods need to know of an architecture, and nothing else."""

from dataclasses import dataclass
from typing import Literal

from interp.core.prompts.grid import Images


@dataclass(frozen=True)
class Facts:
    """The shape of a model and the order of its parts.

    Attributes:
        architecture: the Hugging Face class name, e.g. "LlamaForCausalLM", or "LSTM".
        n_layers, n_heads, n_kv_heads: counts; n_kv_heads < n_heads is grouped-query attention.
        d_model, d_head, d_mlp, d_vocab, n_ctx: widths in scalars, context in tokens. d_mlp is 0
            when the blocks have no MLP; of a mixture it counts the neurons of all experts, one
            expert after the other and a shared one last.
        norm: LayerNorm or RMSNorm.
        positions: how a token's place enters the computation.
        block: where the norms sit: before the parts ("pre"), after the sum ("post") or
            on both sides of each part ("sandwich").
        parallel: attention and MLP read the same residual stream.
        gated: the MLP has a gate, so three matrices instead of two.
        causal: a position attends only to itself and earlier ones.
        language_model: there is an unembedding.
        n_encoder_layers: of an encoder-decoder; the other facts are then its decoder's.
        recurrent: each layer hands a state from position to position, and there are no heads, no
            MLPs and no residual stream: their counts and widths are 0.
        n_experts: of each layer's mixture, among which a router chooses; 0 where MLPs are dense.
        sinks: a part of each head's attention goes to no token, so that its pattern sums to less
            than 1.
        image: the images that it reads; None reads text. d_vocab is then the number of classes.
    """

    architecture: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    d_vocab: int
    n_ctx: int
    norm: Literal["layer", "rms", "none"]
    positions: Literal["learned", "rotary", "alibi", "sinusoidal", "none", "other"]
    block: Literal["pre", "post", "sandwich"]
    parallel: bool
    gated: bool
    causal: bool
    language_model: bool
    n_encoder_layers: int = 0
    recurrent: bool = False
    n_experts: int = 0
    sinks: bool = False
    image: Images | None = None

    @property
    def group_size(self) -> int:
        """Query heads that share one key and value."""
        return self.n_heads // self.n_kv_heads if self.n_kv_heads else 1

    def __str__(self) -> str:
        if self.recurrent:
            return (
                f"{self.architecture}: {self.n_layers} layers, d_model {self.d_model}, "
                f"vocabulary {self.d_vocab}"
            )
        kv = "" if self.n_kv_heads == self.n_heads else f" ({self.n_kv_heads} key-value groups)"
        stacks = f"{self.n_encoder_layers} encoder and " if self.n_encoder_layers else ""
        experts = f" of {self.n_experts} experts" if self.n_experts else ""
        return (
            f"{self.architecture}: {stacks}{self.n_layers} layers, {self.n_heads} heads{kv}, "
            f"d_model {self.d_model}, d_head {self.d_head}, d_mlp {self.d_mlp}{experts}, "
            + (
                f"{self.d_vocab} classes, {self.image}"
                if self.image
                else f"vocabulary {self.d_vocab}"
            )
        )
