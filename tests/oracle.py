"""A second opinion: GPT-2 and Llama head by head from the state dict, sharing no code with interp.

Every site is computed by itself and passes through a `change` callback under its own name, so an
intervention is a dictionary entry. `path_patch` is the algorithm of Wang et al. 2022, App. B,
step by step: four whole forward passes.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Acts = dict[str, Tensor]
Change = Callable[[str, Tensor], Tensor]


class Oracle:
    """The model as a sum of parts. Takes a raw Hugging Face model in eval mode."""

    def __init__(self, hf_model: torch.nn.Module) -> None:
        config = hf_model.config
        self.w = {k: v.detach() for k, v in hf_model.state_dict().items()}
        self.gpt2 = config.model_type == "gpt2"
        self.layers = config.num_hidden_layers
        self.n_heads = config.num_attention_heads
        self.n_groups = getattr(config, "num_key_value_heads", None) or self.n_heads
        self.d_head = getattr(config, "head_dim", None) or config.hidden_size // self.n_heads
        self.eps = config.layer_norm_epsilon if self.gpt2 else config.rms_norm_eps
        # the angles are the model's own: it makes them in float32, which is part of what it is
        self.rotary = None if self.gpt2 else hf_model.model.rotary_emb

    def forward(self, tokens: Tensor, change: Change = lambda name, x: x) -> tuple[Tensor, Acts]:
        """Logits `batch pos vocab`, and every site's activation as it was after the change."""
        acts: Acts = {}

        def site(name: str, x: Tensor) -> Tensor:
            acts[name] = change(name, x)
            return acts[name]

        w = self.w
        if self.gpt2:
            x = w["transformer.wte.weight"][tokens]
            x = x + w["transformer.wpe.weight"][torch.arange(tokens.shape[1])]
        else:
            x = w["model.embed_tokens.weight"][tokens]
        x = site("embed", x)
        for layer in range(self.layers):
            x = site(f"{layer}.resid_pre", x)
            read = self.norm(x, layer, 1)
            total = self.bias(layer).expand_as(x)
            keys, values = {}, {}
            for g in range(self.n_groups):
                keys[g] = site(f"{layer}.kv{g}.k", self.project(read, layer, "k", g))
                values[g] = site(f"{layer}.kv{g}.v", self.project(read, layer, "v", g))
            for h in range(self.n_heads):
                g = h * self.n_groups // self.n_heads
                q = site(f"{layer}.{h}.q", self.project(read, layer, "q", h))
                k = site(f"{layer}.{h}.k", keys[g])
                v = site(f"{layer}.{h}.v", values[g])
                z = site(f"{layer}.{h}", self.attend(q, k, v))
                total = total + z @ self.output(layer, h)
            x = site(f"{layer}.resid_mid", x + site(f"{layer}.attn", total))
            x = x + site(f"{layer}.mlp", self.mlp(self.norm(x, layer, 2), layer))
            x = site(f"{layer}.resid_post", x)
        name = "transformer.ln_f" if self.gpt2 else "model.norm"
        return self.normalise(x, name) @ w["lm_head.weight"].T, acts

    def path_patch(
        self,
        x_orig: Tensor,
        x_new: Tensor,
        senders: Sequence[str],
        receivers: Sequence[str],
        *,
        through: str,
        receiver_mask: Tensor,
        sender_mask: Tensor,
    ) -> Tensor:
        """Algorithm 1. A: run x_new. B: run x_orig. C: frozen run. D: run with receivers set."""
        _, new = self.forward(x_new)
        _, orig = self.forward(x_orig)
        recorded: Acts = {}

        def step_c(name: str, x: Tensor) -> Tensor:
            if name in receivers:
                recorded[name] = x
            if name in senders:
                return torch.where(sender_mask[..., None], new[name], orig[name])
            frozen = name.count(".") == 1 and name.split(".")[1].isdigit()  # a head's z
            frozen |= through == "direct" and name.endswith(".mlp")
            return orig[name] if frozen else x

        logits, _ = self.forward(x_orig, step_c)
        if list(receivers) == ["logits"]:
            return logits

        def step_d(name: str, x: Tensor) -> Tensor:
            if name not in receivers:
                return x
            return torch.where(receiver_mask[..., None], recorded[name], x)

        return self.forward(x_orig, step_d)[0]

    def norm(self, x: Tensor, layer: int, which: int) -> Tensor:
        if self.gpt2:
            return self.normalise(x, f"transformer.h.{layer}.ln_{which}")
        part = {1: "input_layernorm", 2: "post_attention_layernorm"}[which]
        return self.normalise(x, f"model.layers.{layer}.{part}")

    def normalise(self, x: Tensor, name: str) -> Tensor:
        if self.gpt2:
            x = x - x.mean(-1, keepdim=True)
        x = x / torch.sqrt((x * x).mean(-1, keepdim=True) + self.eps) * self.w[f"{name}.weight"]
        return x + self.w[f"{name}.bias"] if self.gpt2 else x

    def project(self, x: Tensor, layer: int, kind: str, index: int) -> Tensor:
        at = slice(index * self.d_head, (index + 1) * self.d_head)
        if not self.gpt2:
            return x @ self.w[f"model.layers.{layer}.self_attn.{kind}_proj.weight"][at].T
        name = f"transformer.h.{layer}.attn.c_attn"
        width = self.n_heads * self.d_head
        start = "qkv".index(kind) * width
        weight = self.w[f"{name}.weight"][:, start : start + width][:, at]
        return x @ weight + self.w[f"{name}.bias"][start : start + width][at]

    def output(self, layer: int, head: int) -> Tensor:
        at = slice(head * self.d_head, (head + 1) * self.d_head)
        if self.gpt2:
            return self.w[f"transformer.h.{layer}.attn.c_proj.weight"][at]
        return self.w[f"model.layers.{layer}.self_attn.o_proj.weight"][:, at].T

    def bias(self, layer: int) -> Tensor:
        if self.gpt2:
            return self.w[f"transformer.h.{layer}.attn.c_proj.bias"]
        return self.w[f"model.layers.{layer}.self_attn.o_proj.weight"].new_zeros(1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """One head, one destination after the other."""
        q, k = self.turn(q), self.turn(k)
        out = torch.zeros_like(v)
        for i in range(q.shape[1]):
            scores = (q[:, i : i + 1] * k[:, : i + 1]).sum(-1) / math.sqrt(self.d_head)
            weight = scores.exp() / scores.exp().sum(-1, keepdim=True)
            out[:, i] = (weight[..., None] * v[:, : i + 1]).sum(1)
        return out

    def turn(self, x: Tensor) -> Tensor:
        """Rotary positions by complex numbers."""
        if self.rotary is None:
            return x
        half = self.d_head // 2
        cos, sin = self.rotary(x, torch.arange(x.shape[1])[None])
        turned = torch.complex(x[..., :half], x[..., half:]) * torch.complex(
            cos[..., :half], sin[..., :half]
        )
        return torch.cat([turned.real, turned.imag], -1)

    def mlp(self, x: Tensor, layer: int) -> Tensor:
        if self.gpt2:
            name = f"transformer.h.{layer}.mlp"
            x = x @ self.w[f"{name}.c_fc.weight"] + self.w[f"{name}.c_fc.bias"]
            x = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
            return x @ self.w[f"{name}.c_proj.weight"] + self.w[f"{name}.c_proj.bias"]
        name = f"model.layers.{layer}.mlp"
        gate, up, down = (self.w[f"{name}.{part}_proj.weight"] for part in ("gate", "up", "down"))
        gated = x @ gate.T
        return (gated / (1 + torch.exp(-gated)) * (x @ up.T)) @ down.T


def setting(values: Mapping[str, Tensor], mask: Tensor) -> Change:
    """A change that sets sites to values where the mask holds, `batch pos`."""

    def change(name: str, x: Tensor) -> Tensor:
        return torch.where(mask[..., None], values[name], x) if name in values else x

    return change
