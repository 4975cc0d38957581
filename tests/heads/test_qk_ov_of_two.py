"""QK and OV circuits of an encoder-decoder's heads, cross-attention's among them."""

import numpy as np
import pytest
import torch

from interp.core.errors import Unsupported
from interp.core.parts.sites import Site
from interp.engine.engines.choose import stacks_of
from interp.engine.network.stacks import Stacks
from interp.heads.weights.qk_ov import copying_scores, ov_directions, ov_tokens, qk_tokens

VOCAB = 29


def normed(rows, norm):
    """A row behind a norm, written out."""
    if norm is None:
        return rows
    rows = rows - rows.mean(-1, keepdim=True) if norm.kind == "layer" else rows
    scaled = rows / (rows.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight
    return scaled if norm.bias is None else scaled + norm.bias


def words(w):
    """Tokens as they enter a stack, without places."""
    rows = w.embed.tokens * (1 if w.embed.scale is None else w.embed.scale)
    return normed(rows, w.embed.norm)


def ends(stacks: Stacks, site: Site):
    """A head's projections, and what its queries and its keys read of each token."""
    w = stacks.encoder if site.stack == "enc" else stacks.decoder
    block = w.blocks[site.layer]
    p = block.cross if site.cross else block.attention
    rows = slice(site.head * w.facts.d_head, (site.head + 1) * w.facts.d_head)

    def made(x, part):
        y = x @ part.weight[rows].T
        return y if part.bias is None else y + part.bias[rows]

    asks = normed(words(w), p.ends.read)
    source = normed(words(stacks.encoder), stacks.norm) if site.cross else asks
    return w, p, rows, made, asks, source


@pytest.mark.parametrize("family", ["t5", "mbart", "m2m100"])
@pytest.mark.parametrize("head", ["enc.1.2", "dec.1.3", "dec.0.cross.4"])
@torch.no_grad()
def test_qk_is_the_score_of_every_pair_of_tokens(tiny_model, family, head):
    """Of cross-attention: of a token that the decoder reads and one that the encoder does."""
    model, site = tiny_model(family), Site.parse(head)
    _, p, _, made, asks, source = ends(stacks_of(model), site)
    scores = made(asks, p.q) @ made(source, p.k).T * p.scale
    scores = scores - scores.mean(1, keepdim=True)
    for query in (4, 17):
        frame = qk_tokens(model, head, query, top=VOCAB).frame
        assert sorted(frame["token"]) == list(range(VOCAB))
        truth = scores[query, frame["token"].tolist()].numpy()
        assert np.abs(frame["value"].to_numpy() - truth).max() < 1e-9
        assert frame["site"].eq(head).all()


@pytest.mark.parametrize("family", ["t5", "mbart", "m2m100"])
@pytest.mark.parametrize("head", ["dec.1.3", "dec.0.cross.4"])
@torch.no_grad()
def test_ov_is_what_each_token_adds_to_the_logits(tiny_model, family, head):
    model, site = tiny_model(family), Site.parse(head)
    w, p, rows, made, _, source = ends(stacks_of(model), site)
    written = made(source, p.v) @ p.o.weight[:, rows].T
    norm, u = w.unembed.norm, w.unembed.linear.weight
    if norm is not None:
        written = written - written.mean(-1, keepdim=True) * (norm.kind == "layer")
        written = written * norm.weight
    logits = written @ (u - u.mean(0)).T
    for token in (4, 17):
        frame = ov_tokens(model, head, token, top=VOCAB).frame
        truth = logits[token, frame["token"].tolist()].numpy()
        assert np.abs(frame["value"].to_numpy() - truth).max() < 1e-9


@torch.no_grad()
def test_directions_of_a_head_across_are_those_of_its_product(tiny_model):
    """The longest is what the encoder's tokens, behind its norm, are written along."""
    model, head = tiny_model("t5"), "dec.0.cross.4"
    stacks = stacks_of(model)
    _, p, rows, _, _, _ = ends(stacks, Site.parse(head))
    product = (p.v.weight[rows] * stacks.norm.weight).T @ p.o.weight[:, rows].T
    found = ov_directions(model, head, directions=3, top=2).frame
    spectrum = found[found["measure"] == "ov_singular"]["value"].to_numpy()
    assert np.abs(spectrum - torch.linalg.svdvals(product)[:3].numpy()).max() < 1e-9
    assert set(found["side"].dropna()) == {"reads", "writes"}


def test_what_no_unembedding_reads(tiny_model):
    with pytest.raises(Unsupported, match=r"'enc\.1\.2' writes into the encoder's"):
        ov_tokens(tiny_model("t5"), "enc.1.2", 4)
    for family in ("bart", "marian"):
        with pytest.raises(Unsupported, match="post-norm"):
            qk_tokens(tiny_model(family), "dec.0.cross.4", 4)
    with pytest.raises(Unsupported, match="has an encoder and a decoder"):
        copying_scores(tiny_model("t5"))
