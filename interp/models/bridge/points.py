"""Where in TransformerLens' bridge each activation stands.

One name of a hook point means another tensor on another architecture: where the norm follows the
sum (BERT), `hook_attn_out` holds the normed sum and `hook_resid_mid` the sum after the MLP. This
table names the points that hold what a site says on every block; `interp.models.now.checks`
measures it.

Activations are named by shelves, as in a trace: the kind, after the stack where there are two
("z"; "enc.z", "dec.z", "dec.cross.z").
"""

from collections.abc import Collection, Iterable, Iterator

from interp.core.errors import Unsupported
from interp.core.parts.facts import Facts
from interp.core.parts.sites import HEAD_KINDS, Kind

_PLACES: dict[str, str] = {
    "resid_pre": "hook_resid_pre",
    "attn_out": "hook_attn_out",
    "resid_mid": "hook_resid_mid",
    "router": "mlp.hook_expert_weights",
    "mlp_act": "mlp.out.hook_in",
    "mlp_out": "hook_mlp_out",
    "resid_post": "hook_resid_post",
}
_POST: dict[str, str] = {"resid_mid": "ln1.hook_out"}
_BLOCKS = {"enc": "encoder_blocks", "dec": "decoder_blocks"}
_NORMS = ("ln1", "ln2", "ln1_post", "ln2_post")


def point(facts: Facts, shelf: str, layer: int) -> str:
    """The hook point of an activation."""
    if shelf == "embed":
        return point(facts, "resid_pre", 0)
    *stack, kind = shelf.split(".")
    block = f"{_BLOCKS[stack[0]] if stack else 'blocks'}.{layer}"
    if kind == "expert":
        raise Unsupported(
            "TransformerLens has no hook point for what one expert writes, since "
            f"{facts.architecture} makes all of them in one module: hooks can neither read nor "
            "change it. Use engine='replay' where that serves the model, or the whole mixture "
            "('3.mlp')."
        )
    if kind in HEAD_KINDS:
        return f"{block}.{_attention(stack)}.hook_{kind}"
    if kind == "attn_out" and (facts.block == "post" or stack == ["dec", "cross"]):
        return f"{block}.{_attention(stack)}.o.hook_out"
    return f"{block}.{(_POST if facts.block == 'post' else {}).get(kind, _PLACES[kind])}"


def projection(attention: str, layer: int) -> str:
    """The bridge's part that maps the outputs of heads to the stream, of one of `attentions`."""
    stack = attention.split(".") if attention else []
    return f"{_BLOCKS[stack[0]] if stack else 'blocks'}.{layer}.{_attention(stack)}.o"


def summed(stack: str, layer: int) -> tuple[str, ...]:
    """Of a layer of post-norm blocks the norms that follow its sums; the stack may be ""."""
    block = f"{_BLOCKS[stack] if stack else 'blocks'}.{layer}"
    return tuple(f"{block}.{norm}" for norm in ("ln1", "ln2", "ln3")[: 3 if stack == "dec" else 2])


def _attention(stack: list[str]) -> str:
    return {"": "attn", "enc": "attn", "dec": "self_attn", "dec.cross": "cross_attn"}[
        ".".join(stack)
    ]


def attentions(facts: Facts) -> tuple[str, ...]:
    """What stands before the kinds of heads on a shelf: nothing, or "enc", "dec", "dec.cross"."""
    return ("enc", "dec", "dec.cross") if facts.n_encoder_layers else ("",)


def shelves(facts: Facts, kinds: Iterable[Kind]) -> tuple[str, ...]:
    """Everything of these kinds that a layer holds, in every stack.

    Parallel blocks have no resid_mid, and blocks without MLP nothing of one. Two stacks give their
    resid_post wherever a residual stream is asked for: an encoder's last is no decoder's first.
    """
    wanted = dict.fromkeys(kinds)
    if facts.n_encoder_layers and "resid_pre" in wanted:
        wanted["resid_post"] = None
    if facts.parallel or not facts.d_mlp:
        wanted.pop("resid_mid", None)
    if not facts.d_mlp:
        wanted = {kind: None for kind in wanted if kind not in ("mlp_act", "mlp_out")}
    return tuple(
        f"{attention}.{kind}" if attention else kind
        for attention in attentions(facts)
        for kind in wanted
        if attention != "dec.cross" or kind in (*HEAD_KINDS, "attn_out")
    )


def n_layers(facts: Facts, shelf: str) -> int:
    return facts.n_encoder_layers if shelf.startswith("enc.") else facts.n_layers


def norms(facts: Facts, known: Collection[str]) -> Iterator[str]:
    """The norms of the residual stream, of what is written into it, and the one before the logits.

    A post-norm model's `ln_final` is none of them: it belongs to BERT's head, after a layer of its
    own.
    """
    for layer in range(facts.n_layers):
        here = (f"blocks.{layer}.{norm}" for norm in _NORMS)
        yield from (norm for norm in here if f"{norm}.hook_scale" in known)
    if facts.language_model and facts.block != "post" and "ln_final.hook_scale" in known:
        yield "ln_final"
