"""Full circuits: heads read through the vocabulary, which tokens they look for and what they write.

Elhage et al. 2021, A Mathematical Framework for Transformer Circuits: the QK circuit
W_E W_QK W_E^T and the OV circuit W_E W_OV W_U. Both are vocabulary x vocabulary and never formed:
a row is a few matrix-vector products, and eigenvalues are those of the d_head x d_head product in
the other order. They are the direct paths; what the layers in between do to a token is left out.
"""

from typing import Annotated

import numpy as np
import pandas as pd
import torch
from jaxtyping import Complex, Float
from torch import Tensor
from tqdm import tqdm

from interp.core.door.door import door
from interp.core.door.taken import Count, Seed, Within
from interp.core.parts.sites import Site
from interp.core.tables.measures import Measures
from interp.engine.engines.choose import weights_of
from interp.heads.weights.factors import (
    factors,
    gaussian,
    noted,
    require_logits,
    unscaled,
    weighted,
    wide,
)
from interp.heads.weights.placed import Placed
from interp.heads.weights.vocabulary import Vocabulary, texts, token_of
from interp.models.bridge.factored import FactoredMatrix
from interp.models.model import Model

Samples = Annotated[int, Within(low=2)]
"""Of which a spread is taken."""
SAMPLES_AT_ONCE = 16
"""Random matrices that are held at a time."""


@door
@torch.no_grad()
def copying_scores(model: Model, *, samples: Samples = 64, seed: Seed = 0) -> Measures:
    """How far each head raises the tokens that it reads: sum(lambda) / sum(|lambda|), -1 to 1.

    The eigenvalues are those of the full OV circuit W_E W_V W_O W_U (Elhage et al. 2021), from the
    d_head x d_head product W_O W_U W_E W_V: the product of unembedding and embedding is made once
    for all heads. Norm weights are folded in and W_U is centred over the vocabulary, as
    TransformerLens does; embeddings keep their length.

    With tied embeddings W_E W_U copies by itself, so that a head may score by what it is read
    through. The null are Gaussian W_V and W_O of the same shape between the same embeddings and
    norm weights: its mean is 0 by symmetry, its spread is sampled for each layer. Eigenvectors are
    not orthogonal, so a high score is a hint of copying and no proof (as the paper says itself).

    Args:
        samples: random heads for each layer.
        seed: of these.

    Returns:
        A row for each head (`measure="copying"`), and one without a null for the direct path
        (`site="embed"`, `other="logits"`), near 1 where embeddings are tied. Heads of a group of
        grouped-query attention share W_V, and are no independent evidence.

    Raises:
        Unsupported: no unembedding, post-norm blocks, or a model that replay cannot read.
    """
    require_logits(model, "the copying score")
    w = weights_of(model)
    facts, gram = w.facts, Vocabulary(w).gram()
    shape = (samples, 2, facts.d_model, facts.d_head)
    found, spread = [], []
    for layer in tqdm(range(facts.n_layers), desc="copying", unit="layer", delay=2, disable=None):
        f, ends = factors(w, layer), w.blocks[layer].attention.ends
        found.append(copying_share(FactoredMatrix(gram @ f.v, f.o).eigenvalues))
        null = [
            copying_share(
                FactoredMatrix(
                    gram @ weighted(v, ends.read), unscaled(o.mT, ends.write)
                ).eigenvalues
            )
            for part in gaussian(shape, like=gram, seed=seed + layer).split(SAMPLES_AT_ONCE)
            for v, o in [part.unbind(1)]
        ]
        spread += [float(torch.cat(null).square().mean().sqrt())] * facts.n_heads
    direct = copying_share(torch.linalg.eigvals(gram)[None])
    sites = [Site("z", i, head=j) for i in range(facts.n_layers) for j in range(facts.n_heads)]
    cells = pd.DataFrame(
        {
            "measure": "copying",
            "site": [*map(str, sites), "embed"],
            "other": [*[""] * len(sites), "logits"],
            "layer": pd.array([*[site.layer for site in sites], None], dtype="Int16"),
            "head": pd.array([*[site.head for site in sites], None], dtype="Int16"),
        }
    )
    return Measures.of(
        cells,
        provenance=noted(model, null="gaussian", samples=samples, seed=seed),
        value=_array(torch.cat([*found, direct])),
        null=np.array([*[0.0] * len(sites), np.nan]),
        null_sd=np.array([*spread, np.nan]),
    )


def copying_share(eigenvalues: Complex[Tensor, "*batch d_head"]) -> Float[Tensor, "*batch"]:
    """sum(lambda) / sum(|lambda|); NaN where all are 0. The sum is real: complex ones pair up."""
    return eigenvalues.sum(-1).real / eigenvalues.abs().sum(-1)


@door
@torch.no_grad()
def qk_tokens(model: Model, head: str | Site, query: int | str, *, top: Count = 10) -> Measures:
    """The tokens that a head attends to most from a query token, by the full QK circuit.

    Each token stands alone at its own scale, as heads of the first layer read it (of
    cross-attention the encoder's, behind its last norm, as if it had no layers): there the value is
    the model's score, biases and norms of queries and keys included, less its mean over the
    vocabulary, but for positions (a rotation is by offset 0; see `interp.heads.weights.offsets`)
    and a cap.

    The null are Gaussian W_K of the same shape and norm behind the same norm weights, asked by the
    same query: scores are then exactly normal. There is none (NaN) where keys have a norm of their
    own, which is not linear. `direct` is what a head would score whose W_QK is the identity: how
    alike the two tokens are.

    Args:
        query: an id, or a text that is one token.
        top: how many tokens.

    Returns:
        Rows `measure="qk_token"` with columns `source`, `token` (ids), `text`, `rank`, `direct`;
        `q` is over the whole vocabulary.

    Raises:
        PairsError: the query is not one token of the vocabulary.
        SiteError, Unsupported: not one head; a post-norm model, or one that replay cannot read.
    """
    at, source = Placed.of(model, head, "the full QK circuit"), token_of(model, query)
    f, p, w, group = at.f, at.p, at.w, at.head // at.w.facts.group_size
    q, k, q_bias = (t[at.head] for t in (f.q, f.k, f.q_bias))  # a key's bias moves all alike
    x = at.asks.read(slice(source, source + 1), p.ends.read)[0]
    asked = x @ q + q_bias
    found = at.source.products(
        lambda part: at.source.read(part, at.norm),
        torch.stack([k @ asked, x], 1),
        meets=lambda rows: unscaled(rows, at.norm),
    )
    drawn = wide(p.k.weight).unflatten(0, (-1, w.facts.d_head))[group]
    value, null_sd = found.along[:, 0], (found.square * drawn.square().mean()).sqrt() * asked.norm()
    if p.q_norm is not None or p.k_norm is not None:
        value = at.asks.scores(at.layer, at.head, source)
        null_sd = torch.full_like(value, torch.nan)
    table = _tokens(
        *(model, at.site, "qk_token"),
        value=value,
        null_sd=null_sd,
        direct=found.along[:, 1],
        top=top,
    )
    return Measures(table.frame.assign(source=source), table.provenance)


@door
@torch.no_grad()
def ov_tokens(model: Model, head: str | Site, source: int | str, *, top: Count = 10) -> Measures:
    """The tokens whose logits a head raises most where it attends to a source token.

    By the full OV circuit, the value's bias included: what is added to a logit, less the mean over
    the vocabulary, before the division by the final norm's scale. The source token stands alone, at
    its own scale.

    Of a head of cross-attention the source is a token of the encoder, as `qk_tokens` has it. The
    null are Gaussian W_O of the same shape and norm between the same z and the same norm weights:
    what is added is then exactly normal. `direct` is what the token adds to the same logits by
    itself, through W_E W_U. A factor of all logits (T5's, Granite's) is left out.

    Args:
        source: an id, or a text that is one token.
        top: how many tokens.

    Returns:
        Rows `measure="ov_token"`, columns as of `qk_tokens`.

    Raises:
        PairsError: the source is not one token of the vocabulary.
        SiteError, Unsupported: not one head; no unembedding, a post-norm model, or one that replay
            cannot read.
    """
    at = Placed.of(model, head, "the full OV circuit", logits=True)
    token, f, p, w = token_of(model, source), at.f, at.p, at.w
    v, o, v_bias = (t[at.head] for t in (f.v, f.o, f.v_bias))
    row = slice(token, token + 1)
    z = at.source.read(row, at.norm)[0] @ v + v_bias
    written = torch.stack([z @ o, at.source.embedded(row)[0]], 1)
    found = at.asks.products(
        at.asks.logit, written, meets=lambda rows: weighted(rows.mT, p.ends.write).mT
    )
    drawn = (wide(p.o.weight) * p.o.gain).unflatten(1, (-1, w.facts.d_head))[:, at.head]
    table = _tokens(
        *(model, at.site, "ov_token"),
        value=found.along[:, 0],
        null_sd=(found.square * drawn.square().mean()).sqrt() * z.norm(),
        direct=found.along[:, 1],
        top=top,
    )
    return Measures(table.frame.assign(source=token), table.provenance)


@door
@torch.no_grad()
def ov_directions(
    model: Model,
    head: str | Site,
    *,
    directions: Count = 5,
    top: Count = 10,
    samples: Samples = 32,
    seed: Seed = 0,
) -> Measures:
    """The top singular directions of a head's W_OV, read as tokens.

    W_OV = U S V^T: a token that lies along U_i makes the head write along V_i, S_i times as long.

    Args:
        directions: how many, at most d_head.
        top: tokens at each end of each.
        samples: random heads, for the spectrum.
        seed: of these.

    Returns:
        For each `direction` i a row `measure="ov_singular"`: S_i beside that of Gaussian W_V and
        W_O of the same shape and norm (sampled). And rows `measure="ov_direction"`: the `top`
        tokens at each `end` ("+" and "-"; what reads at + writes at +) of each `side`, "reads"
        (embeddings along U_i) and "writes" (logits along V_i), less the vocabulary's mean. Their
        null is a random direction, `q` is over the vocabulary. `direct` is the same token's other
        vector, logit or embedding, along the same direction: with tied embeddings the two readings
        say one thing.

    Raises:
        SiteError, Unsupported: not one head; no unembedding, a post-norm model, or one that replay
            cannot read.
    """
    at = Placed.of(model, head, "reading W_OV as tokens", logits=True)
    site, w, norm = at.site, at.w, at.norm
    v, o = at.f.v[at.head], at.f.o[at.head]
    reads, singular, writes = FactoredMatrix(v, o).svd()
    n = min(directions, len(singular))
    drawn = gaussian((samples, 2, *v.shape), like=v, seed=seed)
    chance = FactoredMatrix(drawn[:, 0], drawn[:, 1].mT)
    chance = (chance.S * (singular.norm() / chance.norm())[:, None])[:, :n]
    cells = {"measure": "ov_singular", "site": str(site), "layer": site.layer, "head": site.head}
    note = noted(model, null="gaussian", samples=samples, seed=seed)
    spectrum = Measures.of(
        pd.DataFrame({**cells, "direction": np.arange(n)}),
        provenance=note,
        value=_array(singular[:n]),
        null=_array(chance.mean(0)),
        null_sd=_array(chance.std(0)),
    )
    both = torch.cat([reads[:, :n], writes[:, :n]], 1)
    read = at.source.products(lambda part: at.source.read(part, norm), both)
    logit = at.asks.products(at.asks.logit, both)
    # a pair of singular vectors has one free sign: the strongest token written is at the + end
    strongest = logit.along[:, n:].abs().argmax(0, keepdim=True)
    sign = logit.along[:, n:].gather(0, strongest)[0].sign()
    frames = [spectrum.frame]
    for i in range(n):
        for side, of, other, column in (
            ("reads", read, logit, i),
            ("writes", logit, read, n + i),
        ):
            for end, way in (("+", sign[i]), ("-", -sign[i])):
                table = _tokens(
                    *(model, site, "ov_direction"),
                    value=of.along[:, column] * way,
                    null_sd=(of.square / w.facts.d_model).sqrt(),
                    direct=other.along[:, column] * way,
                    top=top,
                )
                frames.append(table.frame.assign(direction=i, side=side, end=end))
    return Measures(pd.concat(frames, ignore_index=True), note)


def _tokens(
    model: Model,
    site: Site,
    measure: str,
    *,
    value: Float[Tensor, " token"],
    null_sd: Float[Tensor, " token"],
    direct: Float[Tensor, " token"],
    top: int,
) -> Measures:
    """The tokens with the largest values, tested among all."""
    cells = {"measure": measure, "site": str(site), "layer": site.layer, "head": site.head}
    table = Measures.of(
        pd.DataFrame({**cells, "token": np.arange(len(value)), "direct": _array(direct)}),
        provenance=noted(model, null="gaussian"),
        value=_array(value),
        null=_array(null_sd * 0),
        null_sd=_array(null_sd),
    )
    best = np.argsort(-table.frame["value"].to_numpy(), kind="stable")[:top]
    frame = table.frame.iloc[best].reset_index(drop=True)
    shown = texts(model, frame["token"].tolist())
    return Measures(frame.assign(text=shown, rank=np.arange(len(frame))), table.provenance)


def _array(x: Tensor) -> np.ndarray:
    return x.double().numpy(force=True)
