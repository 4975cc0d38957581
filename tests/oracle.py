"""A second opinion: every family head by head from its state dict, sharing no code with interp.

Every site is computed by itself and passes through a `change` callback under its own name, so an
intervention is a dictionary entry. An edge is taken at its word: the reader's residual stream is
summed again, write by write, with the writer's other value. Paths are whole forward passes, as in
Algorithm 1 of Wang et al. 2022, App. B.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Acts = dict[str, Tensor]
Change = Callable[[str, Tensor], Tensor]
Edges = Mapping[str, Mapping[str, Callable[[Tensor], Tensor]]]
"""Reader -> writer -> the value of the writer that this reader sees, from its current one."""

GPT2 = {
    "embed": "wte",
    "positions": "wpe",
    "L.ln1": "h.L.ln_1",
    "L.qkv": "h.L.attn.c_attn",
    "L.o": "h.L.attn.c_proj",
    "L.ln2": "h.L.ln_2",
    "L.up": "h.L.mlp.c_fc",
    "L.down": "h.L.mlp.c_proj",
    "final": "ln_f",
    "unembed": "lm_head",
}
GPTJ = {
    "embed": "wte",
    "L.ln1": "h.L.ln_1",
    "L.q": "h.L.attn.q_proj",
    "L.k": "h.L.attn.k_proj",
    "L.v": "h.L.attn.v_proj",
    "L.o": "h.L.attn.out_proj",
    "L.up": "h.L.mlp.fc_in",
    "L.down": "h.L.mlp.fc_out",
    "final": "ln_f",
    "unembed": "lm_head",
}
LLAMA = {
    "embed": "embed_tokens",
    "L.ln1": "layers.L.input_layernorm",
    "L.q": "layers.L.self_attn.q_proj",
    "L.k": "layers.L.self_attn.k_proj",
    "L.v": "layers.L.self_attn.v_proj",
    "L.q_norm": "layers.L.self_attn.q_norm",
    "L.k_norm": "layers.L.self_attn.k_norm",
    "L.o": "layers.L.self_attn.o_proj",
    "L.ln2": "layers.L.post_attention_layernorm",
    "L.gate": "layers.L.mlp.gate_proj",
    "L.up": "layers.L.mlp.up_proj",
    "L.down": "layers.L.mlp.down_proj",
    "final": "norm",
    "unembed": "lm_head",
}
GEMMA = LLAMA | {
    "L.post1": "layers.L.post_attention_layernorm",
    "L.ln2": "layers.L.pre_feedforward_layernorm",
    "L.post2": "layers.L.post_feedforward_layernorm",
}
NEOX = {
    "embed": "embed_in",
    "L.ln1": "layers.L.input_layernorm",
    "L.qkv": "layers.L.attention.query_key_value",
    "L.o": "layers.L.attention.dense",
    "L.ln2": "layers.L.post_attention_layernorm",
    "L.up": "layers.L.mlp.dense_h_to_4h",
    "L.down": "layers.L.mlp.dense_4h_to_h",
    "final": "final_layer_norm",
    "unembed": "lm_head",
}
PHI = {
    "embed": "embed_tokens",
    "L.ln1": "layers.L.input_layernorm",
    "L.q": "layers.L.self_attn.q_proj",
    "L.k": "layers.L.self_attn.k_proj",
    "L.v": "layers.L.self_attn.v_proj",
    "L.q_norm": "layers.L.self_attn.q_layernorm",
    "L.k_norm": "layers.L.self_attn.k_layernorm",
    "L.o": "layers.L.self_attn.dense",
    "L.up": "layers.L.mlp.fc1",
    "L.down": "layers.L.mlp.fc2",
    "final": "final_layernorm",
    "unembed": "lm_head",
}
OPT = {
    "embed": "decoder.embed_tokens",
    "positions": "decoder.embed_positions",
    "L.ln1": "decoder.layers.L.self_attn_layer_norm",
    "L.q": "decoder.layers.L.self_attn.q_proj",
    "L.k": "decoder.layers.L.self_attn.k_proj",
    "L.v": "decoder.layers.L.self_attn.v_proj",
    "L.o": "decoder.layers.L.self_attn.out_proj",
    "L.ln2": "decoder.layers.L.final_layer_norm",
    "L.up": "decoder.layers.L.fc1",
    "L.down": "decoder.layers.L.fc2",
    "final": "decoder.final_layer_norm",
    "unembed": "lm_head",
}
BERT = {
    "embed": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "types": "embeddings.token_type_embeddings",
    "embed_norm": "embeddings.LayerNorm",
    "L.q": "encoder.layer.L.attention.self.query",
    "L.k": "encoder.layer.L.attention.self.key",
    "L.v": "encoder.layer.L.attention.self.value",
    "L.o": "encoder.layer.L.attention.output.dense",
    "L.ln1": "encoder.layer.L.attention.output.LayerNorm",
    "L.up": "encoder.layer.L.intermediate.dense",
    "L.down": "encoder.layer.L.output.dense",
    "L.ln2": "encoder.layer.L.output.LayerNorm",
    "transform": "cls.predictions.transform.dense",
    "transform_norm": "cls.predictions.transform.LayerNorm",
    "unembed": "cls.predictions.decoder",
}
ROBERTA = BERT | {
    "transform": "lm_head.dense",
    "transform_norm": "lm_head.layer_norm",
    "unembed": "lm_head.decoder",
}
DISTILBERT = {
    "embed": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "embed_norm": "embeddings.LayerNorm",
    "L.q": "transformer.layer.L.attention.q_lin",
    "L.k": "transformer.layer.L.attention.k_lin",
    "L.v": "transformer.layer.L.attention.v_lin",
    "L.o": "transformer.layer.L.attention.out_lin",
    "L.ln1": "transformer.layer.L.sa_layer_norm",
    "L.up": "transformer.layer.L.ffn.lin1",
    "L.down": "transformer.layer.L.ffn.lin2",
    "L.ln2": "transformer.layer.L.output_layer_norm",
    "transform": "vocab_transform",
    "transform_norm": "vocab_layer_norm",
    "unembed": "vocab_projector",
}
NEO = GPT2 | {
    "L.q": "h.L.attn.attention.q_proj",
    "L.k": "h.L.attn.attention.k_proj",
    "L.v": "h.L.attn.attention.v_proj",
    "L.o": "h.L.attn.attention.out_proj",
}
BLOOM = {
    "embed": "word_embeddings",
    "embed_norm": "word_embeddings_layernorm",
    "L.ln1": "h.L.input_layernorm",
    "L.qkv": "h.L.self_attention.query_key_value",
    "L.o": "h.L.self_attention.dense",
    "L.ln2": "h.L.post_attention_layernorm",
    "L.up": "h.L.mlp.dense_h_to_4h",
    "L.down": "h.L.mlp.dense_4h_to_h",
    "final": "ln_f",
    "unembed": "lm_head",
}
MPT = {
    "embed": "wte",
    "L.ln1": "blocks.L.norm_1",
    "L.qkv": "blocks.L.attn.Wqkv",
    "L.o": "blocks.L.attn.out_proj",
    "L.ln2": "blocks.L.norm_2",
    "L.up": "blocks.L.ffn.up_proj",
    "L.down": "blocks.L.ffn.down_proj",
    "final": "norm_f",
    "unembed": "lm_head",
}
VIT = {
    "embed": "embeddings.patch_embeddings.projection",
    "L.ln1": "layers.L.layernorm_before",
    "L.q": "layers.L.attention.q_proj",
    "L.k": "layers.L.attention.k_proj",
    "L.v": "layers.L.attention.v_proj",
    "L.o": "layers.L.attention.o_proj",
    "L.ln2": "layers.L.layernorm_after",
    "L.up": "layers.L.mlp.fc1",
    "L.down": "layers.L.mlp.fc2",
    "final": "layernorm",
    "unembed": "classifier",
}
SPLIT_GATE = {"L.gate_up": "layers.L.mlp.gate_up_proj"}
GLM4 = LLAMA | SPLIT_GATE
GLM4 |= {"L.post1": "layers.L.post_self_attn_layernorm", "L.post2": "layers.L.post_mlp_layernorm"}
NAMES: dict[str, dict[str, str]] = {
    "gpt2": GPT2,
    "gptj": GPTJ,
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
    "olmo2": GEMMA,  # which has the norms on the writes, and none before attention or MLP
    "gpt_neox": NEOX,
    "phi": PHI,
    "stablelm": LLAMA,
    "opt": OPT,
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "distilbert": DISTILBERT,
    "vit": VIT,
    "deit": VIT,
    "vit_msn": VIT,
    "mixtral": LLAMA | {"L.router": "layers.L.mlp.gate"},
    "qwen3_moe": LLAMA | {"L.router": "layers.L.mlp.gate"},
    "olmoe": LLAMA | {"L.router": "layers.L.mlp.gate"},
    "qwen2_moe": LLAMA
    | {
        "L.router": "layers.L.mlp.gate",
        "L.opens": "layers.L.mlp.shared_expert_gate",
        "L.own_gate": "layers.L.mlp.shared_expert.gate_proj",
        "L.own_up": "layers.L.mlp.shared_expert.up_proj",
        "L.own_down": "layers.L.mlp.shared_expert.down_proj",
    },
    "flex_olmo": GEMMA | {"L.router": "layers.L.mlp.gate"},
    "granitemoe": LLAMA
    | {
        "L.ln2": "layers.L.post_attention_layernorm",
        "L.router": "layers.L.block_sparse_moe.router",
    },
    "codegen": {k: v for k, v in GPTJ.items() if k[2:] not in "qkv"}
    | {"L.qkv": "h.L.attn.qkv_proj"},
    "gpt_oss": LLAMA | {"L.router": "layers.L.mlp.router"},
    "gpt_bigcode": GPT2,
    "gpt_neo": {k: v for k, v in NEO.items() if k != "L.qkv"},
    "bloom": BLOOM,
    "mpt": MPT,
    "falcon": BLOOM,
    "gemma": LLAMA,
    "granite": LLAMA,
    "cohere": LLAMA,
    "cohere2": LLAMA,
    "phi3": LLAMA | SPLIT_GATE | {"L.qkv": "layers.L.self_attn.qkv_proj"},
    "olmo": LLAMA,
    "olmo3": GEMMA,
    "smollm3": LLAMA,
    "starcoder2": LLAMA | {"L.up": "layers.L.mlp.c_fc", "L.down": "layers.L.mlp.c_proj"},
    "glm": LLAMA | SPLIT_GATE,
    "glm4": GLM4,
    "ernie4_5": LLAMA,
    "nemotron": LLAMA,
    "arcee": LLAMA,
    "seed_oss": LLAMA,
    "exaone4": GEMMA,
}
"""Name of a part here -> in the state dict. What a model has not is not in its state dict."""
ENCODERS = ("bert", "roberta", "xlm-roberta", "distilbert")
OFFSET = ("gemma", "gemma2", "gemma3_text", "nemotron")
"""Whose norms' weights are added to 1."""
CENTRED = ("mpt", "cohere", "cohere2", "olmo")
"""LayerNorm without a bias."""
WHOLE = ("mixtral", "gpt_oss", "granitemoe")
"""Whose weights of the chosen experts are divided by their sum, whatever the config says."""
ADJACENT = ("gptj", "codegen", "cohere", "cohere2", "glm", "glm4", "ernie4_5")
"""Whose rotary pairs are neighbours."""
VISION = ("vit", "deit", "vit_msn")
"""Whose tokens are patches of images."""


@dataclass(frozen=True, eq=False)
class HopSpec:
    """A hop of a path; `mask`, `batch pos`, is where its receivers take the changed input."""

    receivers: tuple[str, ...]
    mask: Tensor
    through: str = "mlps"
    ln: str = "recompute"


def unchanged(name: str, x: Tensor) -> Tensor:
    return x


def setting(values: Mapping[str, Tensor], mask: Tensor) -> Change:
    """A change that sets sites to values where the mask holds, `batch pos`."""

    def change(name: str, x: Tensor) -> Tensor:
        return masked(mask, values[name], x) if name in values else x

    return change


def masked(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """The new value where the mask holds: of a pattern its queries, of a neuron a number."""
    return torch.where(mask if old.ndim == 2 else mask[..., None], new, old)


class Oracle:
    """The model as a sum of parts. Takes a raw Hugging Face model in eval mode."""

    def __init__(self, hf_model: nn.Module) -> None:
        config = self.config = hf_model.config
        self.family = config.model_type
        self.layers = config.num_hidden_layers
        self.n_heads = config.num_attention_heads
        self.n_groups = getattr(config, "num_key_value_heads", None) or self.n_heads
        if getattr(config, "multi_query", False):
            self.n_groups = 1
        self.d_head = getattr(config, "head_dim", None) or config.hidden_size // self.n_heads
        self.w = weights(hf_model, self.n_heads, self.n_groups)
        may = self.family in ("gpt_neox", "stablelm") and config.use_parallel_residual
        may = may or (self.family == "falcon" and config.parallel_attn)
        self.parallel = may or self.family in ("gptj", "codegen", "phi", "cohere", "cohere2")
        opt_350m = self.family == "opt" and not config.do_layer_norm_before
        self.norm_after_sum = opt_350m or self.family in ENCODERS
        self.causal = self.family not in (*ENCODERS, *VISION)
        self.pixels: dict[int, Tensor] = {}  # of each patch, by its id, `channel height width`
        self.alibi = self.family in ("bloom", "mpt") or getattr(config, "alibi", False)
        # the angles are the model's own: it makes them in float32, which is part of what it is
        self.rotary = getattr(hf_model.base_model, "rotary_emb", None)
        if self.family in ("gptj", "codegen"):
            self.sinusoids = hf_model.base_model.h[0].attn.embed_positions.double()

    def forward(
        self,
        tokens: Tensor,
        change: Change = unchanged,
        *,
        edges: Edges | None = None,
        scales: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, Acts]:
        """Logits `batch pos vocab` (of a headless model its final stream), and every activation.

        The activations are as they were after the change. Besides the sites there are, under
        "L.H.q.computed" and the like, what each reader makes of its own stream before any change to
        it, and, under "L.ln1.scale" and the like, what the norms of the stream divided by.

        Args:
            edges: what single readers see in place of a writer's value, after `change`.
            scales: activations of another run; the norms of the stream divide by its scales.
        """
        run = _Run(self, change, edges or {}, scales or {})
        return run.forward(tokens), run.acts

    def run_cell(self, tokens: Tensor, edit: Change, hops: Sequence[HopSpec] = ()) -> Tensor:
        """The logits after an edit that reaches them by these hops, or freely if there are none.

        Where a receiver is not set (its hop's mask), it is as if it were no receiver: the base
        run's where the next hop freezes it, else recomputed.
        """
        if not hops:
            return self.forward(tokens, edit)[0]
        _, base = self.forward(tokens)
        given: tuple[str, ...] = ()
        for hop in hops:
            frozen = self.freezing(base, hop.through, given)
            logits, seen = self.forward(
                tokens, after(frozen, edit), scales=base if hop.ln == "freeze" else None
            )
            if hop.receivers == ("logits",):
                return logits
            given = hop.receivers
            edit = setting({name: seen[f"{name}.computed"] for name in given}, hop.mask)
        return self.forward(tokens, edit)[0]

    def freezing(self, base: Acts, through: str, given: Collection[str]) -> Change:
        """Keep the base run's values, except heads whose query, key or value is given."""
        loose = {
            f"{name.split('.')[0]}.{h}"
            for name in given
            if not name.endswith(".mlp")
            for h in self.heads_of(name.split(".")[1])
        }

        def freeze(name: str, x: Tensor) -> Tensor:
            if through == "all":
                return x
            if _is_head(name):
                return x if name in loose else base[name]
            # a head's own key and value follow its group's, which may be given
            if name.endswith(".q") or ".kv" in name:
                return base[name]
            # the MLP's write follows, and with it the edit of a neuron or an expert
            inner = "mlp[" in name or name.endswith(".router")
            return base[name] if through == "direct" and inner else x

        return freeze

    def heads_of(self, part: str) -> list[int]:
        """The heads that "3" or "kv1" names."""
        if not part.startswith("kv"):
            return [int(part)]
        return [h for h in range(self.n_heads) if self.group(h) == int(part[2:])]

    def group(self, head: int) -> int:
        return head * self.n_groups // self.n_heads

    def embed(self, tokens: Tensor) -> Tensor:
        if self.family in VISION:
            return torch.stack([self.embed_image(row) for row in tokens.tolist()])
        x = self.w["embed.weight"][tokens]
        if self.family in ("gemma", "gemma2", "gemma3_text"):
            x = x * math.sqrt(self.config.hidden_size)
        x = x * getattr(self.config, "embedding_multiplier", 1)
        if "positions.weight" in self.w:
            offset = 2 if self.family == "opt" else 0
            at = (torch.arange(tokens.shape[1]) + offset).expand(tokens.shape)
            if self.family in ("roberta", "xlm-roberta"):
                at = self.counted(tokens)
            x = x + self.w["positions.weight"][at]
        if "types.weight" in self.w:
            x = x + self.w["types.weight"][0]
        return self.normalise(x, "embed_norm") if "embed_norm.weight" in self.w else x

    def embed_image(self, row: Sequence[int]) -> Tensor:
        """What a convolution makes of one patch is a sum over its pixels."""
        filters, bias = self.w["embed.weight"], self.w["embed.bias"]
        first = [self.w[name] for name in ("cls_token", "distillation_token") if name in self.w]
        made = [(filters * self.pixels[i]).sum((1, 2, 3)) + bias for i in row[len(first) :]]
        return torch.stack([*first, *made]) + self.w["position_embeddings"]

    def counted(self, tokens: Tensor) -> Tensor:
        """RoBERTa's positions: padding is not counted, and has one of its own."""
        pad = self.config.pad_token_id
        at = torch.full_like(tokens, pad)
        for row, ids in enumerate(tokens.tolist()):
            last = pad
            for i, token in enumerate(ids):
                if token != pad:
                    last += 1
                    at[row, i] = last
        return at

    def unembed(self, x: Tensor) -> Tensor:
        if "unembed.weight" not in self.w:
            return x
        if "transform.weight" in self.w:
            x = self.normalise(self.activate(self.linear(x, "transform")), "transform_norm")
        x = self.linear(x, "unembed") / getattr(self.config, "logits_scaling", 1)
        if self.family in ("cohere", "cohere2"):
            x = x * self.config.logit_scale
        return capped(x, getattr(self.config, "final_logit_softcapping", 0))

    def linear(self, x: Tensor, name: str) -> Tensor:
        x = x @ self.w[f"{name}.weight"].T
        return x + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else x

    def centred(self, x: Tensor, name: str) -> Tensor:
        """LayerNorm takes the mean away, RMSNorm does not (and has no bias)."""
        layer = f"{name}.bias" in self.w or self.family in CENTRED
        return x - x.mean(-1, keepdim=True) if layer else x

    def scale(self, x: Tensor, name: str) -> Tensor:
        """Standard deviation or root mean square, `batch pos 1`."""
        x = self.centred(x, name)
        known = ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps", "norm_epsilon", "norm_eps")
        eps = next((getattr(self.config, n) for n in known if hasattr(self.config, n)), 1e-5)
        eps = {"olmo": 1e-5, "distilbert": 1e-12}.get(self.family, eps)
        return torch.sqrt((x * x).mean(-1, keepdim=True) + eps)

    def normalise(self, x: Tensor, name: str, scale: Tensor | None = None) -> Tensor:
        scale = self.scale(x, name) if scale is None else scale
        weight = self.w[f"{name}.weight"]
        if self.family in OFFSET:
            weight = 1 + weight
        x = self.centred(x, name) / scale * weight
        return x + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else x

    def project(self, x: Tensor, layer: int, kind: str, index: int) -> Tensor:
        """Query of a head, key or value of a group."""
        at = self.slice(index)
        name = f"{layer}.{kind}"
        x = x @ self.w[f"{name}.weight"][at].T
        return x + self.w[f"{name}.bias"][at] if f"{name}.bias" in self.w else x

    def output(self, layer: int, head: int) -> Tensor:
        """W_O of one head, `d_head d_model`."""
        return self.w[f"{layer}.o.weight"][:, self.slice(head)].T

    def bias(self, layer: int) -> Tensor:
        """b_O of all heads."""
        return self.w.get(f"{layer}.o.bias", self.w["embed.weight"].new_zeros(1))

    def slice(self, index: int) -> slice:
        return slice(index * self.d_head, (index + 1) * self.d_head)

    def qk_norm(self, layer: int, kind: str, parts: Sequence[Tensor], index: int) -> Tensor:
        """One part after QK-norm, which is its own or one of all parts together."""
        name = f"{layer}.{kind}_norm"
        if f"{name}.weight" not in self.w:
            return parts[index]
        if self.w[f"{name}.weight"].numel() == self.d_head:
            return self.normalise(parts[index], name)
        return self.normalise(torch.cat(list(parts), -1), name)[..., self.slice(index)]

    def pattern(self, layer: int, head: int, q: Tensor, k: Tensor) -> Tensor:
        """Probabilities of one head, `batch query key`, from what QK-norm left."""
        q, k = self.turn(q, layer), self.turn(k, layer)
        scale = getattr(self.config, "query_pre_attn_scalar", None) or self.d_head
        scores = q @ k.transpose(-1, -2) / math.sqrt(1 if self.family == "gpt_neo" else scale)
        if self.family in ("granite", "granitemoe"):
            scores = scores * math.sqrt(scale) * self.config.attention_multiplier
        if self.alibi:
            place = torch.arange(q.shape[1])
            scores = scores - slope(head, self.n_heads) * (place[:, None] - place)
        if self.family == "gemma2":  # Gemma 3 has the setting too, and makes no use of it
            scores = capped(scores, self.config.attn_logit_softcapping)
        seen = self.visible(layer, q.shape[1])
        top = scores.masked_fill(~seen, -math.inf).amax(-1, keepdim=True)
        weight = torch.where(seen, (scores - top).exp(), 0.0)
        total = weight.sum(-1, keepdim=True)
        if f"{layer}.sinks" in self.w:  # has a share, and no value
            total = total + (self.w[f"{layer}.sinks"][head] - top).exp()
        return weight / total

    def visible(self, layer: int, length: int) -> Tensor:
        """Which keys a query sees, `query key`."""
        query, key = torch.arange(length)[:, None], torch.arange(length)
        if not self.causal:
            return torch.ones(length, length, dtype=torch.bool)
        window = self.window(layer) or length
        return (key <= query) & (query - key < window)

    def window(self, layer: int) -> int | None:
        if self.family == "gpt_neo":
            local = self.config.attention_layers[layer] == "local"
            return self.config.window_size if local else None
        if self.layer_type(layer) == "full_attention":
            return None
        return getattr(self.config, "sliding_window", None)

    def layer_type(self, layer: int) -> str | None:
        types = getattr(self.config, "layer_types", None)
        return types[layer] if types else None

    def turn(self, x: Tensor, layer: int) -> Tensor:
        """Rotary positions by complex numbers, of the first entries of a head or of all."""
        found = self.angles(layer, x.shape[1])
        if found is None:
            return x
        n = 2 * found.shape[-1]
        turning, rest = x[..., :n], x[..., n:]
        if self.family in ADJACENT:
            pair = torch.complex(turning[..., 0::2], turning[..., 1::2]) * found
            return torch.cat([torch.view_as_real(pair).flatten(-2), rest], -1)
        pair = torch.complex(turning[..., : n // 2], turning[..., n // 2 :]) * found
        return torch.cat([pair.real, pair.imag, rest], -1)

    def angles(self, layer: int, length: int) -> Tensor | None:
        """Unit complex numbers, `pos pair`."""
        if self.family in ("gptj", "codegen"):
            sin, cos = self.sinusoids[:length].chunk(2, -1)
            return torch.complex(cos, sin)
        if self.rotary is None or self.alibi or not self.turns(layer):
            return None
        by_kind = self.family in ("gemma3_text", "olmo3")
        kind = [self.layer_type(layer)] if by_kind else []
        here = torch.arange(length)[None]
        cos, sin = (a[0].double() for a in self.rotary(torch.zeros(1).double(), here, *kind))
        if self.family in ("cohere", "cohere2"):  # each angle stands there twice in a row
            return torch.complex(cos[:, ::2], sin[:, ::2])
        if self.family == "gpt_oss":  # each angle stands there once
            return torch.complex(cos, sin)
        half = cos.shape[-1] // 2
        return torch.complex(cos[:, :half], sin[:, :half])

    def turns(self, layer: int) -> bool:
        """Are queries and keys turned at all? Not in every layer of these."""
        if self.family == "smollm3":
            return bool(self.config.no_rope_layers[layer])
        if self.family in ("cohere2", "exaone4"):
            return self.layer_type(layer) != "full_attention"
        return True

    def neurons(self, layer: int, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """What enters the down projection, from what the MLP reads and the experts' weights."""
        if weights is not None:
            return self.of_experts(layer, x, weights)
        if f"{layer}.gate.weight" not in self.w:
            return self.activate(self.linear(x, f"{layer}.up"))
        return self.activate(self.linear(x, f"{layer}.gate")) * self.linear(x, f"{layer}.up")

    def route(self, layer: int, x: Tensor) -> Tensor | None:
        """The weight of each expert, token by token; 0 if not chosen, None without experts."""
        if f"{layer}.router.weight" not in self.w:
            return None
        chance = self.linear(x, f"{layer}.router").softmax(-1)
        found = torch.zeros_like(chance)
        for row, place in ((r, p) for r in range(x.shape[0]) for p in range(x.shape[1])):
            here = chance[row, place]
            likely = sorted(range(len(here)), key=lambda e: -here[e].item())
            chosen = likely[: self.config.num_experts_per_tok]
            whole = self.family in WHOLE or self.config.norm_topk_prob
            total = sum(here[e] for e in chosen) if whole else 1
            for e in chosen:
                found[row, place, e] = here[e] / total
        return found

    def of_experts(self, layer: int, x: Tensor, weights: Tensor) -> Tensor:
        """Neurons of all experts times the expert's weight."""
        gates, ups = self.w[f"{layer}.gates"], self.w[f"{layer}.ups"]
        found = []
        for e in range(len(gates)):
            gate, up = x @ gates[e].T, x @ ups[e].T
            if self.family == "gpt_oss":
                gate, up = (
                    t + self.w[f"{layer}.{n}_biases"][e] for n, t in (("gate", gate), ("up", up))
                )
                limit, alpha = self.config.swiglu_limit, self.config.swiglu_alpha
                gate, up = gate.clamp(max=limit), 1 + up.clamp(-limit, limit)
                act = up * gate / (1 + torch.exp(-alpha * gate))
            else:
                act = self.activate(gate) * up
            found.append(weights[..., e : e + 1] * act)
        if f"{layer}.opens.weight" in self.w:  # an expert that all tokens have
            act = self.activate(self.linear(x, f"{layer}.own_gate"))
            act = act * self.linear(x, f"{layer}.own_up")
            found.append(act / (1 + torch.exp(-self.linear(x, f"{layer}.opens"))))
        return torch.cat(found, -1)

    def activate(self, x: Tensor) -> Tensor:
        if self.family == "bloom":
            return gelu_tanh(x, 0.79788456)
        if self.family == "mpt":
            return ACTIVATIONS["gelu"](x)
        names = ("hidden_activation", "activation_function", "hidden_act", "activation")
        name = next(getattr(self.config, n) for n in names if getattr(self.config, n, None))
        return ACTIVATIONS[name](x)


class _Run:
    """One pass: what was written, and what each reader sees of it."""

    def __init__(
        self, model: Oracle, change: Change, edges: Edges, scales: Mapping[str, Tensor]
    ) -> None:
        self.model, self.change, self.edges, self.scales = model, change, edges, scales
        self.factor = getattr(model.config, "residual_multiplier", 1)
        self.acts: Acts = {}
        self.plain: Acts = {}

    def site(self, name: str, x: Tensor) -> Tensor:
        self.plain[name] = x
        self.acts[name] = self.change(name, x)
        return self.acts[name]

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.site("embed", self.model.embed(tokens))
        for layer in range(self.model.layers):
            x = self.site(f"{layer}.resid_pre", x)
            attn = self.attention(layer, x)
            if not self.model.parallel:
                x = self.site(f"{layer}.resid_mid", self.add(x, attn, f"{layer}.ln1"))
            mlp = self.mlp(layer, x)
            x = x + attn + mlp if self.model.parallel else self.add(x, mlp, f"{layer}.ln2")
            x = self.site(f"{layer}.resid_post", x)
        x = self.seen("logits", self.norm(x, "final"), "final")
        return self.site("logits", self.model.unembed(x))

    def attention(self, layer: int, x: Tensor) -> Tensor:
        model = self.model
        read = self.read(x, f"{layer}.ln1")

        def compute(reader: str, kind: str, index: int) -> Tensor:
            found = self.seen(reader, read, f"{layer}.ln1")
            self.acts[f"{reader}.computed"] = model.project(found, layer, kind, index)
            return self.acts[f"{reader}.computed"]

        def of_group(kind: str, g: int) -> Tensor:
            name = f"{layer}.kv{g}.{kind}"
            return self.site(name, compute(name, kind, g))

        def of_head(kind: str, h: int, groups: list[Tensor]) -> Tensor:
            name, g = f"{layer}.{h}.{kind}", model.group(h)
            if name in self.edges:  # its own stream wins over its group's
                return self.site(name, compute(name, kind, g))
            self.acts[f"{name}.computed"] = self.acts[f"{layer}.kv{g}.{kind}.computed"]
            return self.site(name, groups[g])

        heads = range(model.n_heads)
        keys = [of_group("k", g) for g in range(model.n_groups)]
        values = [of_group("v", g) for g in range(model.n_groups)]
        names = [f"{layer}.{h}" for h in heads]
        queries = [self.site(f"{n}.q", compute(f"{n}.q", "q", h)) for h, n in enumerate(names)]
        zs = []
        for h, name in enumerate(names):
            g = model.group(h)
            group_keys = [*keys[:g], of_head("k", h, keys), *keys[g + 1 :]]
            q = model.qk_norm(layer, "q", queries, h)
            k = model.qk_norm(layer, "k", group_keys, g)
            pattern = self.site(f"{name}.pattern", model.pattern(layer, h, q, k))
            zs.append(self.site(name, pattern @ of_head("v", h, values)))
        return self.site(f"{layer}.attn", self.attention_write(layer, zs))

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        # attention and MLP of some parallel blocks share one norm
        shared = f"{layer}.ln2.weight" not in self.model.w and self.model.parallel
        slot = f"{layer}.ln1" if shared else f"{layer}.ln2"
        found = self.seen(f"{layer}.mlp", self.read(x, slot), slot)
        weights = own = self.model.route(layer, found)
        if own is not None:
            weights = self.site(f"{layer}.router", own)
        made = self.model.neurons(layer, found, weights)
        acts = [self.site(f"{layer}.mlp[{i}]", a) for i, a in enumerate(made.unbind(-1))]
        out = self.site(f"{layer}.mlp", self.mlp_write(layer, acts, weights, self.site))
        fresh = self.model.neurons(layer, found, own).unbind(-1)
        self.acts[f"{layer}.mlp.computed"] = self.mlp_write(layer, fresh, own, unchanged)
        return out

    def attention_write(self, layer: int, zs: Sequence[Tensor]) -> Tensor:
        x = self.model.bias(layer)
        for h, z in enumerate(zs):
            x = x + z @ self.model.output(layer, h)
        return self.norm(x, f"{layer}.post1") * self.factor

    def mlp_write(
        self, layer: int, neurons: Sequence[Tensor], weights: Tensor | None, site: Change
    ) -> Tensor:
        down = f"{layer}.down"
        if weights is None:
            x = self.model.linear(torch.stack(list(neurons), -1), down)
        else:
            own = self.model.w.get(f"{layer}.own_down.weight", torch.zeros(0, 0)).shape[1]
            x, width = 0, (len(neurons) - own) // weights.shape[-1]
            if own:
                x = self.model.linear(torch.stack(list(neurons[-own:]), -1), f"{layer}.own_down")
            for e in range(weights.shape[-1]):
                mine = slice(e * width, (e + 1) * width)
                columns = self.model.w[f"{down}.weight"][:, mine]
                write = torch.stack(list(neurons[mine]), -1) @ columns.T
                if (biases := self.model.w.get(f"{down}.biases")) is not None:
                    write = write + weights[..., e : e + 1] * biases[e]
                x = x + site(f"{layer}.expert[{e}]", write * self.factor) / self.factor
        return self.norm(x, f"{layer}.post2") * self.factor

    def norm(self, x: Tensor, slot: str) -> Tensor:
        """A norm of the residual stream or of a write, where the model has it."""
        if f"{slot}.weight" not in self.model.w:
            return x
        name = f"{slot}.scale"
        scale = self.scales[name] if self.scales else self.model.scale(x, slot)
        # the run's own stream comes first; the streams of single readers are not recorded
        self.acts.setdefault(name, scale)
        return self.model.normalise(x, slot, scale)

    def read(self, x: Tensor, slot: str) -> Tensor:
        return x if self.model.norm_after_sum else self.norm(x, slot)

    def add(self, x: Tensor, write: Tensor, slot: str) -> Tensor:
        x = x + write
        return self.norm(x, slot) if self.model.norm_after_sum else x

    def seen(self, reader: str, read: Tensor, slot: str) -> Tensor:
        """What the reader computes from: `read`, or that of a stream of its own."""
        if not self.edges.get(reader):
            return read
        own = self.stream(reader)
        return self.norm(own, slot) if slot == "final" else self.read(own, slot)

    def stream(self, reader: str) -> Tensor:
        """The residual stream as one reader sees it, from the embedding on, write by write."""
        new, used = self.edges[reader], set()
        last = self.model.layers if reader == "logits" else int(reader.split(".")[0])

        def see(name: str, x: Tensor) -> Tensor:
            if name not in new:
                return x
            used.add(name)
            return new[name](x)

        def moved(name: str, x: Tensor) -> Tensor:
            """Made anew, with what the run's own change of this sum added to it."""
            return x + (self.acts[name] - self.plain[name])

        x = see("embed", self.acts["embed"])
        for layer in range(last + 1):
            if layer == self.model.layers:
                break
            x = moved(f"{layer}.resid_pre", x)
            if layer == last and (self.model.parallel or not reader.endswith(".mlp")):
                break
            names = [f"{layer}.{h}" for h in range(self.model.n_heads)]
            attn = self.attention_write(layer, [see(n, self.acts[n]) for n in names])
            attn = see(f"{layer}.attn", moved(f"{layer}.attn", attn))
            if not self.model.parallel:
                x = moved(f"{layer}.resid_mid", self.add(x, attn, f"{layer}.ln1"))
            if layer == last:
                break
            d_mlp = self.model.w[f"{layer}.down.weight"].shape[1]
            names = [f"{layer}.mlp[{i}]" for i in range(d_mlp)]
            mlp = self.mlp_write(
                layer,
                [see(n, self.acts[n]) for n in names],
                self.acts.get(f"{layer}.router"),
                lambda name, x: see(name, moved(name, x)),
            )
            mlp = see(f"{layer}.mlp", moved(f"{layer}.mlp", mlp))
            x = x + attn + mlp if self.model.parallel else self.add(x, mlp, f"{layer}.ln2")
            x = moved(f"{layer}.resid_post", x)
        assert used == set(new), f"{set(new) - used} do not write into what {reader} reads"
        return x


def weights(hf_model: nn.Module, n_heads: int, n_groups: int) -> Acts:
    """The state dict in float64 by names of parts, "embed.weight" or "0.q.bias"; out before in."""
    config, prefix = hf_model.config, f"{hf_model.base_model_prefix}."
    family = config.model_type
    state = {k.removeprefix(prefix): v.detach().double() for k, v in hf_model.state_dict().items()}
    found: Acts = {}
    for part, name in places(NAMES[family], config.num_hidden_layers):
        for kind in ("weight", "bias"):
            if f"{name}.{kind}" in state:
                found[f"{part}.{kind}"] = state[f"{name}.{kind}"]
    if family in VISION:
        own = ("cls_token", "distillation_token", "position_embeddings")
        found |= {n: state[at][0].squeeze(0) for n in own if (at := f"embeddings.{n}") in state}
    if family == "gpt2":  # its Conv1D holds in before out
        turned = (".qkv.weight", ".o.weight", ".up.weight", ".down.weight")
        found = {k: v.T if k.endswith(turned) else v for k, v in found.items()}
    if family == "olmo":  # whose norms have no weights
        slots = [f"{n}.{ln}" for n in range(config.num_hidden_layers) for ln in ("ln1", "ln2")]
        one = torch.ones(config.hidden_size).double()
        found |= {f"{slot}.weight": one for slot in (*slots, "final")}
    for name in [name for name in found if ".qkv." in name]:
        parts = cut(family, found.pop(name), n_heads, n_groups)
        found |= {name.replace("qkv", kind): part for kind, part in zip("qkv", parts, strict=True)}
    for n in range(config.num_hidden_layers):
        at = f"layers.{n}.{'block_sparse_moe' if family == 'granitemoe' else 'mlp'}.experts"
        if family == "gpt_oss":  # in before out, gate and up in turns
            both, biases = state[f"{at}.gate_up_proj"].mT, state[f"{at}.gate_up_proj_bias"]
            found |= {f"{n}.gates": both[:, ::2], f"{n}.ups": both[:, 1::2]}
            found |= {f"{n}.gate_biases": biases[:, ::2], f"{n}.up_biases": biases[:, 1::2]}
            found[f"{n}.down.weight"] = torch.cat([*state[f"{at}.down_proj"].mT], 1)
            found[f"{n}.down.biases"] = state[f"{at}.down_proj_bias"]
            found[f"{n}.sinks"] = state[f"layers.{n}.self_attn.sinks"]
        elif f"{at}.down_proj" in state:
            found[f"{n}.gates"], found[f"{n}.ups"] = state[f"{at}.gate_up_proj"].chunk(2, 1)
            found[f"{n}.down.weight"] = torch.cat([*state[f"{at}.down_proj"]], 1)
            if f"{n}.own_down.weight" in found:  # neurons are counted by it
                parts = [found[f"{n}.down.weight"], found[f"{n}.own_down.weight"]]
                found[f"{n}.down.weight"] = torch.cat(parts, 1)
    for name in [name for name in found if ".gate_up." in name]:
        gate, up = found.pop(name).chunk(2)
        found |= {name.replace("gate_up", "gate"): gate, name.replace("gate_up", "up"): up}
    return found


def cut(family: str, packed: Tensor, n_heads: int, n_groups: int) -> list[Tensor]:
    """Queries, keys and values of what one matrix holds or writes, along the first axis."""
    if family in ("gpt_neox", "bloom", "falcon") and n_groups == n_heads:
        parts = packed.unflatten(0, (n_heads, 3, -1)).unbind(1)  # head by head
        return [part.flatten(0, 1) for part in parts]
    if family == "codegen":  # in four blocks, each of queries, values and keys
        q, v, k = packed.unflatten(0, (4, 3, -1)).unbind(1)
        return [part.flatten(0, 1) for part in (q, k, v)]
    width = len(packed) // (n_heads + 2 * n_groups)
    return [*packed.split([n * width for n in (n_heads, n_groups, n_groups)])]


def places(names: Mapping[str, str], layers: int) -> Iterator[tuple[str, str]]:
    """Part and its name in the state dict, in every layer."""
    for part, name in names.items():
        for n in range(layers if part.startswith("L.") else 1):
            yield part.replace("L.", f"{n}.", 1), name.replace("L.", f"{n}.", 1)


def capped(x: Tensor, cap: float | None) -> Tensor:
    return cap * torch.tanh(x / cap) if cap else x


def after(first: Change, second: Change) -> Change:
    return lambda name, x: second(name, first(name, x))


def gelu_tanh(x: Tensor, factor: float = math.sqrt(2 / math.pi)) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(factor * (x + 0.044715 * x**3)))


def slope(head: int, n_heads: int) -> float:
    """Of ALiBi (Press et al. 2022): powers of 2 ** (-8 / n), n a power of two; those that lack are
    every second one for twice as many heads.
    """
    n = 2 ** math.floor(math.log2(n_heads))
    if head < n:
        return 2 ** (-8 * (head + 1) / n)
    return 2 ** (-8 * (2 * (head - n) + 1) / (2 * n))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "relu": lambda x: x.clamp(min=0),
    "relu2": lambda x: x.clamp(min=0) ** 2,
    "silu": lambda x: x / (1 + torch.exp(-x)),
}


def _is_head(name: str) -> bool:
    """Is this a head's z, "3.1"?"""
    return all(part.isdigit() for part in name.split("."))
