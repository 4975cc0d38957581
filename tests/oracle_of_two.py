"""A second opinion on encoder-decoders, head by head from the state dict; no code of interp.

As `oracle.Oracle`, of which it shares what is arithmetic alone: every site passes through a
`change` callback under its own name ("enc.0.3", "dec.1.cross.3.k"), an edge is taken at its word
(the reader's residual stream is summed again, write by write), paths are whole forward passes.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence

import torch
from oracle import ACTIVATIONS, Acts, Change, Edges, HopSpec, after, setting, unchanged
from torch import Tensor, nn

HEAD = re.compile(r"(enc|dec)\.\d+\.(cross\.)?\d+")
_T5 = {
    "norm1": "layer.0.layer_norm",
    "attn": "layer.0.SelfAttention",
    "norm-cross": "layer.1.layer_norm",
    "cross": "layer.1.EncDecAttention",
}
_BART = {
    "norm1": "self_attn_layer_norm",
    "attn": "self_attn",
    "norm-cross": "encoder_attn_layer_norm",
    "cross": "encoder_attn",
    "norm2": "final_layer_norm",
    "up": "fc1",
    "down": "fc2",
}
PRE = ("t5", "mt5", "mbart", "pegasus", "blenderbot", "m2m_100")
"""Norms before each part; the others have them after each sum."""


class OracleOfTwo:
    """An encoder-decoder as a sum of parts. Takes a raw Hugging Face model in eval mode."""

    def __init__(self, hf_model: nn.Module) -> None:
        config = self.config = hf_model.config
        self.family = config.model_type
        self.t5 = self.family in ("t5", "mt5")
        self.w = {name: x.detach().double() for name, x in hf_model.state_dict().items()}
        for side in () if self.t5 else ("encoder", "decoder"):
            places = getattr(hf_model.model, side).embed_positions
            if hasattr(places, "weights"):  # M2M100's are in no state dict
                self.w[f"model.{side}.embed_positions.weight"] = places.weights.double()
        if self.t5:
            self.layers = {"enc": config.num_layers, "dec": config.num_decoder_layers}
            self.n_heads, self.d_head = config.num_heads, config.d_kv
        else:
            self.layers = {"enc": config.encoder_layers, "dec": config.decoder_layers}
            self.n_heads = config.encoder_attention_heads
            self.d_head = config.d_model // self.n_heads
        self.pre = self.family in PRE

    # names

    def side(self, stack: str) -> str:
        side = {"enc": "encoder", "dec": "decoder"}[stack]
        return side if self.t5 else f"model.{side}"

    def place(self, stack: str, layer: int, part: str) -> str:
        """The name in the state dict of a part of a layer."""
        if not self.t5:
            name = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "out_proj"}
            outer, _, inner = part.partition(".")
            last = f".{name[inner]}" if inner else ""
            return f"{self.side(stack)}.layers.{layer}.{_BART[outer]}{last}"
        own = 1 if stack == "enc" else 2
        ff = {
            "norm2": f"layer.{own}.layer_norm",
            "up": f"layer.{own}.DenseReluDense.{'wi_1' if self.gated else 'wi'}",
            "gate": f"layer.{own}.DenseReluDense.wi_0",
            "down": f"layer.{own}.DenseReluDense.wo",
        }
        outer, _, inner = part.partition(".")
        name = (_T5 | ff)[outer] + (f".{inner}" if inner else "")
        return f"{self.side(stack)}.block.{layer}.{name}"

    @property
    def gated(self) -> bool:
        return self.t5 and self.config.is_gated_act

    # arithmetic

    def linear(self, x: Tensor, name: str, rows: slice = slice(None)) -> Tensor:
        x = x @ self.w[f"{name}.weight"][rows].T
        return x + self.w[f"{name}.bias"][rows] if f"{name}.bias" in self.w else x

    def scale(self, x: Tensor, name: str) -> Tensor:
        x = self.centred(x, name)
        eps = self.config.layer_norm_epsilon if self.t5 else 1e-5
        return torch.sqrt((x * x).mean(-1, keepdim=True) + eps)

    def centred(self, x: Tensor, name: str) -> Tensor:
        return x - x.mean(-1, keepdim=True) if f"{name}.bias" in self.w else x

    def normalise(self, x: Tensor, name: str, scale: Tensor | None = None) -> Tensor:
        scale = self.scale(x, name) if scale is None else scale
        x = self.centred(x, name) / scale * self.w[f"{name}.weight"]
        return x + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else x

    def embed(self, stack: str, ids: Tensor) -> Tensor:
        side = self.side(stack)
        x = self.w[f"{side}.embed_tokens.weight"][ids]
        if self.t5:
            return x
        if self.config.scale_embedding:
            x = x * math.sqrt(self.config.d_model)
        table = self.w[f"{side}.embed_positions.weight"]
        if self.family == "m2m_100":
            pad = self.config.pad_token_id
            for row, tokens in enumerate(ids.tolist()):
                count = 0
                for at, token in enumerate(tokens):
                    count += token != pad
                    x[row, at] += table[pad + count if token != pad else pad]
        else:
            offset = 2 if self.family in ("bart", "mbart") else 0
            x = x + table[torch.arange(ids.shape[1]) + offset]
        name = f"{side}.layernorm_embedding"
        return self.normalise(x, name) if f"{name}.weight" in self.w else x

    def last(self, stack: str) -> str | None:
        name = f"{self.side(stack)}.{'final_layer_norm' if self.t5 else 'layer_norm'}"
        return name if f"{name}.weight" in self.w else None

    def unembed(self, x: Tensor) -> Tensor:
        if self.t5:
            if self.family == "t5" and self.config.scale_decoder_outputs:
                x = x * self.config.d_model**-0.5
            return self.linear(x, "lm_head")
        return self.linear(x, "lm_head") + self.w.get("final_logits_bias", 0)

    def rows(self, head: int) -> slice:
        return slice(head * self.d_head, (head + 1) * self.d_head)

    def probabilities(self, stack: str, head: int, q: Tensor, k: Tensor, *, cross: bool) -> Tensor:
        scores = q @ k.transpose(-1, -2)
        scores = scores if self.t5 else scores / math.sqrt(self.d_head)
        queries, keys = scores.shape[-2:]
        if self.t5 and not cross:
            name = f"{self.side(stack)}.block.0.layer.0.SelfAttention.relative_attention_bias"
            table = self.w[f"{name}.weight"]
            for i in range(queries):
                for j in range(keys):
                    scores[:, i, j] += table[self.bucket(j - i, both=stack == "enc"), head]
        if stack == "dec" and not cross:
            seen = torch.arange(keys) <= torch.arange(queries)[:, None]
            scores = scores.masked_fill(~seen, -math.inf)
        weight = (scores - scores.amax(-1, keepdim=True)).exp()
        return weight / weight.sum(-1, keepdim=True)

    def bucket(self, distance: int, *, both: bool) -> int:
        """Of a key so far after the query (Raffel et al. 2020, sec. 2.1)."""
        n, first = self.config.relative_attention_num_buckets, 0
        most = self.config.relative_attention_max_distance
        if both:
            n //= 2
            first, distance = (n if distance > 0 else 0), abs(distance)
        else:
            distance = max(0, -distance)
        exact = n // 2
        if distance < exact:
            return first + distance
        far = math.log(distance / exact) / math.log(most / exact) * (n - exact)
        return first + min(n - 1, exact + int(far))

    def neurons(self, stack: str, layer: int, x: Tensor) -> Tensor:
        name = self.config.dense_act_fn if self.t5 else self.config.activation_function
        act = ACTIVATIONS[name]
        up = self.linear(x, self.place(stack, layer, "up"))
        if self.gated:
            return act(self.linear(x, self.place(stack, layer, "gate"))) * up
        return act(up)

    # runs

    def forward(
        self,
        tokens: Tensor,
        written: Tensor,
        change: Change = unchanged,
        *,
        edges: Edges | None = None,
        scales: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, Acts]:
        """Logits at the decoder's positions, and every activation of both stacks.

        As `Oracle.forward`; `written` is what the decoder reads, its start token first.
        """
        run = _Run(self, change, edges or {}, scales or {})
        return run.forward(tokens, written), run.acts

    def run_cell(
        self, tokens: Tensor, written: Tensor, edit: Change, hops: Sequence[HopSpec] = ()
    ) -> Tensor:
        """The logits after an edit that reaches them by these hops; see `Oracle.run_cell`."""
        if not hops:
            return self.forward(tokens, written, edit)[0]
        _, base = self.forward(tokens, written)
        given: tuple[str, ...] = ()
        for hop in hops:
            frozen = self.freezing(base, hop.through, given)
            logits, seen = self.forward(
                tokens, written, after(frozen, edit), scales=base if hop.ln == "freeze" else None
            )
            if hop.receivers == ("logits",):
                return logits
            given = hop.receivers
            edit = setting({name: seen[f"{name}.computed"] for name in given}, hop.mask)
        return self.forward(tokens, written, edit)[0]

    def freezing(self, base: Acts, through: str, given: Collection[str]) -> Change:
        loose = {name.rpartition(".")[0].replace("kv", "") for name in given}

        def freeze(name: str, x: Tensor) -> Tensor:
            if through == "all":
                return x
            if HEAD.fullmatch(name):
                return x if name in loose else base[name]
            if name.endswith(".q") or ".kv" in name:
                return base[name]
            return base[name] if through == "direct" and "mlp[" in name else x

        return freeze


class _Run:
    """One forward pass."""

    def __init__(
        self, model: OracleOfTwo, change: Change, edges: Edges, scales: Mapping[str, Tensor]
    ) -> None:
        self.model, self.change, self.edges, self.scales = model, change, edges, scales
        self.acts: Acts = {}

    def site(self, name: str, x: Tensor) -> Tensor:
        self.acts[f"{name}.computed"] = x
        self.acts[name] = self.change(name, x)
        return self.acts[name]

    def forward(self, tokens: Tensor, written: Tensor) -> Tensor:
        encoded = self.stack("enc", tokens, None)
        self.memory = self.final("enc", encoded)
        last = self.stack("dec", written, self.memory)
        if self.edges.get("logits"):
            last = self.stream("logits", "dec", self.model.layers["dec"], "end")
        return self.model.unembed(self.final("dec", last))

    def final(self, stack: str, x: Tensor) -> Tensor:
        name = self.model.last(stack)
        return x if name is None else self.norm(x, name)

    def stack(self, stack: str, ids: Tensor, memory: Tensor | None) -> Tensor:
        x = self.model.embed(stack, ids)
        for layer in range(self.model.layers[stack]):
            x = self.site(f"{stack}.{layer}.resid_pre", x)
            x = self.add(x, self.attention(stack, layer, x, None), stack, layer, "norm1")
            x = self.site(f"{stack}.{layer}.resid_mid", x)
            if memory is not None:
                wrote = self.attention(stack, layer, x, memory)
                x = self.add(x, wrote, stack, layer, "norm-cross")
            x = self.add(x, self.mlp(stack, layer, x), stack, layer, "norm2")
            x = self.site(f"{stack}.{layer}.resid_post", x)
        return x

    def norm(self, x: Tensor, name: str) -> Tensor:
        scale = self.scales[f"{name}.scale"] if self.scales else self.model.scale(x, name)
        self.acts.setdefault(f"{name}.scale", scale)
        return self.model.normalise(x, name, scale)

    def read(self, x: Tensor, stack: str, layer: int, slot: str) -> Tensor:
        return self.norm(x, self.model.place(stack, layer, slot)) if self.model.pre else x

    def add(self, x: Tensor, write: Tensor, stack: str, layer: int, slot: str) -> Tensor:
        x = x + write
        return x if self.model.pre else self.norm(x, self.model.place(stack, layer, slot))

    def attention(self, stack: str, layer: int, x: Tensor, memory: Tensor | None) -> Tensor:
        model, cross = self.model, memory is not None
        part, slot = ("cross", "norm-cross") if cross else ("attn", "norm1")
        at = f"{stack}.{layer}.cross" if cross else f"{stack}.{layer}"
        own = self.read(x, stack, layer, slot)

        def input_of(reader: str, kind: str) -> Tensor:
            if not self.edges.get(reader):
                return memory if memory is not None and kind != "q" else own
            if cross and kind != "q":
                return self.final("enc", self.stream(reader, "enc", model.layers["enc"], "end"))
            return self.read(self.stream(reader, stack, layer, part), stack, layer, slot)

        def made(reader: str, kind: str, h: int) -> Tensor:
            name = model.place(stack, layer, f"{part}.{kind}")
            return model.linear(input_of(reader, kind), name, model.rows(h))

        zs = []
        for h in range(model.n_heads):
            q = self.site(f"{at}.{h}.q", made(f"{at}.{h}.q", "q", h))
            k, v = (
                self.site(f"{at}.kv{h}.{kind}", made(f"{at}.kv{h}.{kind}", kind, h))
                for kind in "kv"
            )
            for kind in "kv":
                if self.edges.get(f"{at}.{h}.{kind}"):
                    fresh = made(f"{at}.{h}.{kind}", kind, h)
                    k, v = (fresh, v) if kind == "k" else (k, fresh)
            k, v = self.site(f"{at}.{h}.k", k), self.site(f"{at}.{h}.v", v)
            for kind in "kv":  # what a receiver makes of its stream, whatever its group is given
                self.acts[f"{at}.{h}.{kind}.computed"] = self.acts[f"{at}.kv{h}.{kind}.computed"]
            p = self.site(f"{at}.{h}.pattern", model.probabilities(stack, h, q, k, cross=cross))
            zs.append(self.site(f"{at}.{h}", p @ v))
        return self.site(f"{at}.attn", self.attention_write(stack, layer, part, zs))

    def attention_write(self, stack: str, layer: int, part: str, zs: Sequence[Tensor]) -> Tensor:
        name = self.model.place(stack, layer, f"{part}.o")
        return self.model.linear(torch.cat(list(zs), -1), name)

    def mlp(self, stack: str, layer: int, x: Tensor) -> Tensor:
        name, read = f"{stack}.{layer}.mlp", self.read(x, stack, layer, "norm2")
        if self.edges.get(name):
            read = self.read(self.stream(name, stack, layer, "mlp"), stack, layer, "norm2")
        fresh = self.model.neurons(stack, layer, read)
        acts = [self.site(f"{name}[{i}]", a) for i, a in enumerate(fresh.unbind(-1))]
        out = self.site(name, self.mlp_write(stack, layer, acts))
        self.acts[f"{name}.computed"] = self.mlp_write(stack, layer, fresh.unbind(-1))
        return out

    def mlp_write(self, stack: str, layer: int, acts: Sequence[Tensor]) -> Tensor:
        down = self.model.place(stack, layer, "down")
        return self.model.linear(torch.stack(list(acts), -1), down)

    def stream(self, reader: str, stack: str, last: int, part: str) -> Tensor:
        """A stack's residual stream as one reader sees it: up to a part of a layer, or its end."""
        new, used = self.edges[reader], set()

        def see(name: str, x: Tensor | None = None) -> Tensor:
            x = self.acts[name] if x is None else x
            if name not in new:
                return x
            used.add(name)
            return new[name](x)

        def attended(layer: int, part: str) -> Tensor:
            at = f"{stack}.{layer}.cross" if part == "cross" else f"{stack}.{layer}"
            heads = [f"{at}.{h}" for h in range(self.model.n_heads)]
            wrote = self.attention_write(stack, layer, part, [self.acts[h] for h in heads])
            again = self.attention_write(stack, layer, part, [see(h) for h in heads])
            return see(f"{at}.attn", self.acts[f"{at}.attn"] + (again - wrote))

        def mlp(layer: int) -> Tensor:
            name = f"{stack}.{layer}.mlp"
            width = self.model.w[f"{self.model.place(stack, layer, 'down')}.weight"].shape[1]
            names = [f"{name}[{i}]" for i in range(width)]
            wrote = self.mlp_write(stack, layer, [self.acts[n] for n in names])
            again = self.mlp_write(stack, layer, [see(n) for n in names])
            return see(name, self.acts[name] + (again - wrote))

        x = see(f"{stack}.0.resid_pre")
        for layer in range(self.model.layers[stack]):
            if (layer, part) == (last, "attn"):
                break
            x = self.add(x, attended(layer, "attn"), stack, layer, "norm1")
            if stack == "dec":
                if (layer, part) == (last, "cross"):
                    break
                x = self.add(x, attended(layer, "cross"), stack, layer, "norm-cross")
            if (layer, part) == (last, "mlp"):
                break
            x = self.add(x, mlp(layer), stack, layer, "norm2")
        assert used == set(new), f"{set(new) - used} do not write into what {reader} reads"
        return x
