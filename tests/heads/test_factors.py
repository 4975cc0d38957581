"""Folded factors: what the layer computes, head by head, and path expansion from them alone."""

import pytest
import torch
from transformer_lens import FactoredMatrix

from interp.core.errors import SiteError
from interp.core.parts.heads import one_head
from interp.engine.engines.choose import weights_of
from interp.engine.engines.hooked import run as hooks
from interp.engine.network import forward
from interp.heads.weights.factors import factors, folded, scale
from interp.models.small.native import Shape, build, shape_of, state_of

PRE = ["gpt2", "llama", "qwen2", "neox", "gptj"]
"""Pre-norm, without a norm of their own on queries, keys or writes: factors are exact."""


def standardised(x, norm):
    """A row over its norm's scale, written out."""
    centred = x - x.mean(-1, keepdim=True) if norm.kind == "layer" else x
    return x / (centred.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt()


def normed(x, norm):
    """The norm in full, written out."""
    x = standardised(x, norm)
    x = (x - x.mean(-1, keepdim=True) if norm.kind == "layer" else x) * norm.weight
    return x if norm.bias is None else x + norm.bias


def by_head(p, d_head):
    bias = torch.zeros(len(p.weight), dtype=p.weight.dtype) if p.bias is None else p.bias
    return p.weight.view(-1, d_head, p.weight.shape[1]), bias.view(-1, d_head)


@pytest.mark.parametrize("family", PRE)
@torch.no_grad()
def test_factors_score_and_write_as_the_layer_does(tiny_model, family):
    model = tiny_model(family)
    w, facts = weights_of(model), model.facts
    for layer in range(facts.n_layers):
        p, f = w.blocks[layer].attention, factors(w, layer)
        stream = torch.randn(5, facts.d_model, dtype=torch.float64)
        x, read = standardised(stream, p.ends.read), normed(stream, p.ends.read)
        (wq, bq), (wk, bk), (wv, bv) = (by_head(part, facts.d_head) for part in (p.q, p.k, p.v))
        for head in range(facts.n_heads):
            group = head // facts.group_size
            q, k = read @ wq[head].T + bq[head], read @ wk[group].T + bk[group]
            ours = (x @ f.q[head] + f.q_bias[head]) @ (x @ f.k[head] + f.k_bias[head]).T
            assert (ours - q @ k.T * p.scale).abs().max() < 1e-12
            wo = p.o.weight[:, head * facts.d_head : (head + 1) * facts.d_head]
            write = (read @ wv[group].T + bv[group]) @ wo.T
            ours = (x @ f.v[head] + f.v_bias[head]) @ f.o[head]
            assert (ours - write).abs().max() < 1e-12
        whole = torch.einsum("hij,hkj->hik", f.q, f.k)
        assert isinstance(f.qk, FactoredMatrix)
        assert (f.qk.AB - whole).abs().max() < 1e-12
        assert (f.ov.AB - torch.einsum("hij,hjk->hik", f.v, f.o)).abs().max() < 1e-12


@pytest.mark.parametrize("family", ["gemma2", "gemma3", "qwen3", "olmo2"])
@torch.no_grad()
def test_inner_norms_are_folded_up_to_their_scale(tiny_model, family):
    """Queries, keys and writes point where the model's own do."""
    model = tiny_model(family)
    w, facts = weights_of(model), model.facts
    p, f = w.blocks[1].attention, factors(w, 1)
    stream = torch.randn(4, facts.d_model, dtype=torch.float64)
    x = stream / scale(stream, p.ends.read)
    read = forward.norm(stream, p.ends.read)
    q = forward.head_norm(forward.project(read, p.q, facts.d_head), p.q_norm)
    k = forward.head_norm(forward.project(read, p.k, facts.d_head), p.k_norm)
    k = k.repeat_interleave(facts.group_size, -2)
    for ours, theirs in ((f.q, q), (f.k, k)):
        ours = torch.einsum("td,hdk->thk", x, ours)
        assert (torch.cosine_similarity(ours, theirs, dim=-1) - 1).abs().max() < 1e-9
    z = torch.randn(4, facts.n_heads, facts.d_head, dtype=torch.float64)
    ours, write = torch.einsum("thk,hkd->td", z, f.o), forward.attention_write(z, p)
    assert (torch.cosine_similarity(ours, write, dim=-1) - 1).abs().max() < 1e-9


def test_the_loaded_model_is_not_touched(tiny_model):
    model = tiny_model("gpt2")
    before = {name: p.detach().clone() for name, p in model.truth.parameters().items()}
    digest, parity = model.weight_hash, model.parity()
    for layer in range(model.facts.n_layers):
        f = factors(weights_of(model), layer)
        for part in (f.q, f.k, f.v, f.o, f.q_bias, f.k_bias, f.v_bias, f.o_bias):
            part.fill_(7)  # whoever writes into factors writes into copies
    now = model.truth.parameters()
    assert all(torch.equal(before[name], now[name]) for name in before)
    assert (model.weight_hash, model.parity()) == (digest, parity)


@pytest.mark.parametrize("norm", ["none", "rms", "layer"])
@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_path_expansion_sums_to_the_logits(norm, positions):
    """Attention only, patterns and norm scales frozen: terms of order 0, 1 and 2 (Elhage 2021)."""
    shape = Shape(2, 4, 12, 6, 11, 9, 0, n_kv_heads=2, norm=norm, positions=positions)
    model = build(shape, name="made", dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    state = {
        name: value + 0.3 * torch.randn(value.shape, generator=generator, dtype=value.dtype)
        for name, value in sorted(state_of(model).items())
    }
    model = build(shape_of(model), name="made", state=state, dtype=torch.float64)
    tokens = torch.randint(11, (3, 7), generator=generator)
    with torch.no_grad():
        run = hooks.trace(model, tokens, keep=("resid_pre", "pattern"))
        w = weights_of(model)
        heads = [factors(w, layer) for layer in range(2)]
        p = w.unembed

        def head(layer, h, x):
            """One head's linear map of streams, at the pattern and scale of this run."""
            attended = run.kept["pattern"][layer][:, :, h] @ (
                x / scale(run.kept["resid_pre"][layer], w.blocks[layer].attention.ends.read)
            )
            return attended @ heads[layer].v[h] @ heads[layer].o[h]

        constants = [
            (torch.einsum("hd,hde->e", f.v_bias, f.o) + f.o_bias).expand(3, 7, -1) for f in heads
        ]
        embed = run.kept["resid_pre"][0]
        zero = embed + constants[0] + constants[1]
        one = sum(head(0, h, embed) + head(1, h, embed + constants[0]) for h in range(4))
        two = sum(head(1, h, head(0, g, embed)) for h in range(4) for g in range(4))
        final = zero + one + two
        unembed, bias = folded(p.linear.weight.T, p.norm)
        logits = final / scale(run.final, p.norm) @ unembed + bias
        logits = logits if p.linear.bias is None else logits + p.linear.bias
    assert (logits - run.logits).abs().max() < 1e-9
    for part in (zero, one, two):
        assert part.abs().max() > 1e-2  # none of the orders is empty


def test_what_is_no_head_is_refused(tiny_model):
    model = tiny_model("llama")
    assert str(one_head("1.3", model.facts)) == "1.3"
    with pytest.raises(SiteError, match=r"'heads' is not one head.*'23.3'"):
        one_head("heads", model.facts)
    with pytest.raises(SiteError, match=r"'1.mlp' is not one head"):
        one_head("1.mlp", model.facts)
    with pytest.raises(SiteError, match="head 9 is outside 0 to 5"):
        one_head("1.9", model.facts)
