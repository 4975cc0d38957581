"""Plain transformers with hand-made hooks: what every engine must say. It knows no engine of ours.

In float64 norms and softmaxes take a detour through float32; `exact` leaves it out.

Each row runs alone on a model that nothing ran on before, so that what a model remembers of longer
rows is no part of the truth.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from interp.core.parts.sites import Site

_PLACES = {
    "gpt2": ("transformer.h.{}.attn.c_proj", "transformer.h.{}.mlp"),
    "gptj": ("transformer.h.{}.attn.out_proj", "transformer.h.{}.mlp"),
    "gpt_neox": ("gpt_neox.layers.{}.attention.dense", "gpt_neox.layers.{}.mlp"),
    "phi": ("model.layers.{}.self_attn.dense", "model.layers.{}.mlp"),
    "opt": ("model.decoder.layers.{}.self_attn.out_proj", "model.decoder.layers.{}.fc2"),
    "bert": ("encoder.layer.{}.attention.output.dense", "encoder.layer.{}.output.dense"),
    "gpt_neo": ("transformer.h.{}.attn.attention.out_proj", "transformer.h.{}.mlp"),
    "bloom": ("transformer.h.{}.self_attention.dense", "transformer.h.{}.mlp.dense_4h_to_h"),
    "mpt": ("transformer.blocks.{}.attn.out_proj", "transformer.blocks.{}.ffn.down_proj"),
    "falcon": ("transformer.h.{}.self_attention.dense", "transformer.h.{}.mlp"),
}
_PLACES |= {"gpt_bigcode": _PLACES["gpt2"], "roberta": _PLACES["bert"]}
_PLACES["xlm-roberta"] = _PLACES["bert"]
_PLACES["distilbert"] = (
    "transformer.layer.{}.attention.out_lin",
    "transformer.layer.{}.ffn.lin2",
)
_LLAMA = ("model.layers.{}.self_attn.o_proj", "model.layers.{}.mlp")
_T5 = {
    "attn": "{}.block.{}.layer.0.SelfAttention.o",
    "cross": "{}.block.{}.layer.1.EncDecAttention.o",
    "enc": "{}.block.{}.layer.1",
    "dec": "{}.block.{}.layer.2",
}


class Cut(NamedTuple):
    """A head (its slice of what the output projection reads) or an MLP that is set to zero.

    At all positions of a row, or at one.
    """

    site: str
    position: int | None = None


def place(hf: nn.Module, text: str) -> tuple[nn.Module, int | None]:
    """The output projection of a head and the head; or what writes an MLP's output, and None."""
    site, kind = Site.parse(text), hf.config.model_type
    if kind == "t5":
        side = {"enc": "encoder", "dec": "decoder"}[site.stack]
        part = ("cross" if site.cross else "attn") if site.kind == "z" else site.stack
        name = _T5[part].format(side, site.layer)
        if site.kind != "z":
            name += ".DenseReluDense"
        return hf.get_submodule(name), site.head
    o, mlp = _PLACES.get(kind, _LLAMA)
    base = hf.base_model_prefix
    prefix = f"{base}." if "bert" in kind and hasattr(hf, base) else ""
    name = prefix + (o if site.kind == "z" else mlp).format(site.layer)
    return hf.get_submodule(name), site.head


def heads_wide(hf: nn.Module) -> int:
    """Features of a head, as a plain model's config says."""
    config = hf.config
    for name in ("d_kv", "head_dim"):
        if getattr(config, name, None):
            return getattr(config, name)
    return config.hidden_size // config.num_attention_heads


def cut(stack: ExitStack, hf: nn.Module, one: Cut) -> None:
    """Put the hook of a cut on a model, for as long as the stack stands."""
    module, head = place(hf, one.site)
    at = slice(None) if one.position is None else slice(one.position, one.position + 1)

    def no_head(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        width = heads_wide(hf)
        z = args[0].clone()
        z[:, at, head * width : (head + 1) * width] = 0
        return (z,)

    def no_mlp(module: nn.Module, args: Any, out: Tensor) -> Tensor:
        # OPT's MLP may see rows and positions as one axis
        found = out.clone()
        (found if out.ndim == 3 else found[None])[:, at] = 0
        return found

    handle = (
        module.register_forward_hook(no_mlp)
        if head is None
        else module.register_forward_pre_hook(no_head)
    )
    stack.callback(handle.remove)


@contextmanager
def _forgetting(hf: nn.Module) -> Iterator[None]:
    """What rotary embeddings remember of a row goes with the copies that run it."""
    parts = [name for name, module in hf.named_modules() if hasattr(module, "rope_type")]
    before = {name: hf.get_submodule(name) for name in parts}
    for name, module in before.items():
        hf.set_submodule(name, copy.deepcopy(module))
    try:
        yield
    finally:
        for name, module in before.items():
            hf.set_submodule(name, module)


def output(
    hf: nn.Module,
    row: Sequence[int],
    *,
    cuts: Sequence[Cut] = (),
    decoder: Sequence[int] = (),
) -> Tensor:
    """Logits of one row, or the last hidden state of a model without a head: `pos out`."""
    return outputs(hf, [row], cuts=cuts, decoder=decoder)[0]


@torch.no_grad()
def outputs(
    hf: nn.Module,
    rows: Sequence[Sequence[int]],
    *,
    cuts: Sequence[Cut] = (),
    decoder: Sequence[int] = (),
) -> Tensor:
    """The same of rows of one length, together: `row pos out`."""
    inputs = {"input_ids": torch.tensor([list(row) for row in rows])}
    if hf.config.is_encoder_decoder:
        written = torch.tensor([[hf.config.decoder_start_token_id, *decoder]])
        inputs["decoder_input_ids"] = written.expand(len(rows), -1)
    with ExitStack() as stack, _forgetting(hf):
        for one in cuts:
            cut(stack, hf, one)
        said = hf(**inputs)
    return said.logits if hasattr(said, "logits") else said.last_hidden_state
