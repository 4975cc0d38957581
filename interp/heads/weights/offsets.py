"""QK by place: a head's score as a function of distance, or of two learned positions.

With rotary positions (Su et al. 2021, RoFormer, section 3.2) queries and keys are turned by angles
that grow with their position, so a score depends on the two contents and on the distance:
x W_Q R(offset) W_K^T y. Weights alone thus say how a head's score changes with distance.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.door.door import door
from interp.core.door.taken import Count, NotEmpty, Seed
from interp.core.errors import PositionError, Unsupported
from interp.core.parts.heads import Heads, heads_of, one_head
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs
from interp.core.tables.measures import Measures
from interp.engine.engines.choose import accept, choose, weights_of
from interp.engine.network import forward
from interp.engine.network.weights import Attention, Weights
from interp.engine.plan.memory import by_rows
from interp.engine.plan.positions import blocks
from interp.heads.weights.factors import factors, noted, require_sum, scale, wide
from interp.heads.weights.vocabulary import Vocabulary, alone, token_of
from interp.models.model import Model

TOKENS = 1024
"""Tokens that are drawn where none are given."""
OFFSETS = 64
"""Distances, and learned positions, where none are given."""
ROWS = 16
"""Prompts in one forward."""


Sample = Annotated[Sequence[int | str], NotEmpty()]
"""Tokens: ids, or texts that are one."""


class Contents(NamedTuple):
    """Mean query and key of each query head of a layer, before the rotation."""

    q: Float[Tensor, "head d_head"]
    k: Float[Tensor, "head d_head"]


@door
@torch.no_grad()
def offset_curve(
    model: Model,
    heads: Heads = "heads",
    *,
    offsets: Iterable[int] | None = None,
    contents: Sample | Pairs | None = None,
    seed: Seed = 0,
) -> Measures:
    """Mean score of each head by the distance back to the key, for rotary models.

    The mean is over all pairs of a query and a key from the contents. A score is linear in both,
    so that it is the score of the mean query and the mean key.

    Args:
        offsets: distances, query position minus key position, 0 for the token itself; by default
            the first 64. Those that a layer's sliding window hides are left out.
        contents: tokens, each standing alone (exact for the first layer; for others the direct
            path from the embedding); or `Pairs`, whose queries and keys are taken from the clean
            run, at all positions; or None for 1,024 tokens drawn from the vocabulary.
        seed: of what is drawn.

    Returns:
        A row for each head and `offset` (a column): `measure="offset_score"`, in units of the
        score before the softmax and before a cap. The null are Gaussian W_Q and W_K of the same
        shape and norm between the same mean contents (in closed form; NaN for `Pairs` and where
        queries have a norm of their own, whose contents are no linear function of weights); p and q
        are NaN, as of `position_scores`.

    Raises:
        Unsupported: positions that are not rotary, by name; post-norm blocks.
        PositionError: a negative offset, one that the context does not have, or only such as the
            sliding window of a layer hides.
        SiteError: a site that is no head.
    """
    require_rotary(model)
    sites, places = heads_of(heads, model.facts), _offsets(model, offsets)
    ids = None if isinstance(contents, Pairs) else _ids(model, contents, seed)
    if isinstance(contents, Pairs):
        accept(model, contents, None)
    w, firsts = weights_of(model), {site.layer: site for site in reversed(sites)}
    visible = {
        layer: _within(places, w.blocks[layer].attention, firsts[layer]) for layer in sorted(firsts)
    }
    frames, values, nulls, sds = [], [], [], []
    if isinstance(contents, Pairs):
        found, source = _of_pairs(model, w, contents, [*visible]), contents.fingerprint
    else:
        found = {layer: _of_tokens(w, layer, ids) for layer in visible}
        source = f"{len(ids)} tokens" + ("" if contents is not None else f", seed {seed}")
    for layer, seen in visible.items():
        curve = by_offset(w, layer, *found[layer], seen)
        null, sd = _null(w, layer, seen, ids, ids)
        for site in (site for site in sites if site.layer == layer):
            frames.append(_cells("offset_score", site, offset=seen.numpy(force=True)))
            values.append(curve[site.head])
            nulls.append(null[site.head])
            sds.append(sd[site.head].expand(len(seen)))
    return Measures.of(
        pd.concat(frames, ignore_index=True),
        provenance=noted(model, contents=source, null="gaussian"),
        value=_array(torch.cat(values)),
        null=_array(torch.cat(nulls)),
        null_sd=_array(torch.cat(sds)),
        p=np.full(sum(map(len, values)), np.nan),
    )


@door
@torch.no_grad()
def offset_pair(
    model: Model,
    head: str | Site,
    query: int | str,
    key: int | str,
    *,
    offsets: Iterable[int] | None = None,
) -> Measures:
    """Score of two tokens by the distance between them, for rotary models.

    In the first layer this is the model's own score (before a cap), up to rounding; in others it
    is the direct path from the embedding.

    Args:
        query, key: ids, or texts that are one token.
        offsets: as of `offset_curve`.

    Returns:
        A row for each `offset`: `measure="offset_pair"`, with the ids in `query` and `key`. The
        null are Gaussian W_Q and W_K of the same shape and norm; p and q are NaN, as of
        `position_scores`.

    Raises:
        PairsError: not one token of the vocabulary. Others as `offset_curve`.
    """
    require_rotary(model)
    places, site = _offsets(model, offsets), one_head(head, model.facts)
    asks, answers = (_ids(model, [token], 0) for token in (query, key))
    w = weights_of(model)
    seen = _within(places, w.blocks[site.layer].attention, site)
    q, k = _of_tokens(w, site.layer, asks).q, _of_tokens(w, site.layer, answers).k
    null, sd = _null(w, site.layer, seen, asks, answers)
    cells = _cells("offset_pair", site, offset=seen.numpy(force=True))
    return Measures.of(
        cells.assign(query=int(asks), key=int(answers)),
        provenance=noted(model, null="gaussian"),
        value=_array(by_offset(w, site.layer, q, k, seen)[site.head]),
        null=_array(null[site.head]),
        null_sd=_array(sd[site.head].expand(len(seen))),
        p=np.full(len(cells), np.nan),
    )


def by_offset(
    w: Weights,
    layer: int,
    q: Float[Tensor, "*batch head d_head"],
    k: Float[Tensor, "*batch head d_head"],
    offsets: Int[Tensor, " offset"],
) -> Float[Tensor, "*batch head offset"]:
    """Scores of queries and keys at distances, by the model's own rotation.

    Both stand before the rotation and after a norm of their own. Turning query and key by the
    angles of i and j is turning the query by the angle of i - j, so the key stays at position 0.
    Rotation of the pairs (i, i + d/2) or (i, i + 1), of all features or of the first of them.
    """
    p = w.blocks[layer].attention
    turn = forward.rotation(forward.rotations(w, int(offsets.max()) + 1), p)
    rows = q.reshape(-1, 1, *q.shape[-2:]).expand(-1, len(offsets), -1, -1)
    turned = forward.rotate(rows, turn, offsets[None])
    start = torch.zeros_like(offsets[None, :1])
    still = forward.rotate(k.reshape(-1, 1, *k.shape[-2:]), turn, start)
    scores = (turned * still).sum(-1).mT * p.scale
    return scores.reshape(*q.shape[:-1], len(offsets))


@door
@torch.no_grad()
def position_scores(
    model: Model,
    head: str | Site,
    *,
    positions: Count = OFFSETS,
    tokens: Sample | None = None,
    seed: Seed = 0,
) -> Measures:
    """The position-position circuit of a head, for positions that are added (learned, or sines).

    The mean score of a query at position i and a key at position j, over all pairs of tokens from
    a sample. Exact for the first layer, where a token's scale depends on its position too; for
    others the direct path from the embeddings.

    Args:
        positions: the first so many.
        tokens: the sample; by default 1,024 drawn from the vocabulary.
        seed: of what is drawn.

    Returns:
        A row for each `query` and `key` position (columns) that the query may see:
        `measure="position_score"`. `null` and `null_sd` are those of Gaussian W_Q and W_K of the
        same shape and norm, biases kept, and `z` is the distance in these units. There is no `p`
        and `q`: a product of two Gaussian matrices has heavier tails than a normal distribution,
        and scores of neighbouring positions rise and fall together, so that a table would have
        small q by chance far too often.

    Raises:
        Unsupported: positions that are not added to the tokens, by name; post-norm blocks.
        PositionError: more positions than the model has.
    """
    facts = model.facts
    if facts.positions not in ("learned", "sinusoidal"):
        hint = " offset_curve gives its score by distance." * (facts.positions == "rotary")
        raise Unsupported(
            "the position-position circuit needs positions that are added to the tokens (learned "
            f"or sinusoidal), and {model.name} has "
            f"{_NAMES[facts.positions]}.{hint} ({facts})"
        )
    require_sum(model, "the position-position circuit")
    if positions > facts.n_ctx:
        raise PositionError(
            f"{positions} positions were asked for, and {model.name} has {facts.n_ctx}; give 1 to "
            f"{facts.n_ctx}."
        )
    site, ids, w = one_head(head, model.facts), _ids(model, tokens, seed), weights_of(model)
    norm, table = w.blocks[site.layer].attention.ends.read, w.embed.positions
    assert table is not None
    f = factors(w, site.layer)
    q, k, q_bias, k_bias = (t[site.head] for t in (f.q, f.k, f.q_bias, f.k_bias))
    tokens_in = Vocabulary(w).embedded(ids)
    rows = (tokens_in + place for place in wide(table[:positions]))
    x = torch.stack([(row / scale(row, norm)).mean(0) for row in rows])
    value = (x @ q + q_bias) @ (x @ k + k_bias).T
    square = x.square().sum(-1)
    in_q, in_k = (square * q.square().mean())[:, None], square * k.square().mean()
    spread = in_q * in_k * q.shape[1] + in_q * k_bias.square().sum() + in_k * q_bias.square().sum()
    every = torch.ones(positions, positions, dtype=torch.bool)
    query, key = (every.tril() if facts.causal else every).nonzero().T
    return Measures.of(
        _cells("position_score", site, query=query.numpy(), key=key.numpy()),
        provenance=noted(model, tokens=len(ids), seed=seed, null="gaussian"),
        value=_array(value[query, key]),
        null=float(q_bias @ k_bias),
        null_sd=_array(spread[query, key].sqrt()),
        p=np.full(len(query), np.nan),
    )


def require_rotary(model: Model) -> None:
    """Refuse a model whose scores are no function of distance.

    Raises:
        Unsupported: with what else would serve.
    """
    facts = model.facts
    if facts.positions == "rotary":
        return require_sum(model, "the score by offset")
    why = {
        "none": "Without positions a score is the same at every distance (qk_tokens gives it).",
        "learned": "Its scores depend on both positions: position_scores gives them.",
        "sinusoidal": "Its scores depend on both positions: position_scores gives them.",
    }.get(facts.positions, "Patterns at named positions can be measured: interp.attention.")
    raise Unsupported(
        f"a score as a function of distance needs rotary positions, and {model.name} has "
        f"{_NAMES[facts.positions]}. {why} ({facts})"
    )


_NAMES = {
    "none": "no positions at all",
    "learned": "learned positions",
    "alibi": "ALiBi's linear biases",
    "sinusoidal": "sinusoidal positions",
    "other": "positions that the library does not know",
    "rotary": "rotary positions",
}


def _offsets(model: Model, offsets: Iterable[int] | None) -> Int[Tensor, " offset"]:
    n_ctx = model.facts.n_ctx
    found = list(range(min(OFFSETS, n_ctx)) if offsets is None else offsets)
    if not found or min(found) < 0 or max(found) >= n_ctx:
        raise PositionError(
            f"offsets are distances back to a key, 0 to {n_ctx - 1} in the context of "
            f"{model.name}, at least one; got {found[:8]}."
        )
    return torch.tensor(found, device=model.device)


def _within(offsets: Int[Tensor, " offset"], p: Attention, site: Site) -> Int[Tensor, " seen"]:
    """What the layer's sliding window leaves to see.

    Raises:
        PositionError: nothing.
    """
    seen = offsets if p.window is None else offsets[offsets < p.window]
    if not len(seen):
        raise PositionError(
            f"head {site} sees the last {p.window} tokens, a sliding window, and none of the "
            f"offsets {offsets.tolist()[:8]} is below that. Give smaller ones, or other heads."
        )
    return seen


def _ids(model: Model, tokens: Sequence[int | str] | None, seed: int) -> Int[Tensor, " token"]:
    if tokens is not None:
        return torch.tensor([token_of(model, token) for token in tokens], device=model.device)
    size = model.facts.d_vocab
    drawn = np.random.default_rng(seed).choice(size, min(TOKENS, size), replace=False)
    return torch.from_numpy(np.sort(drawn)).to(model.device)


def _of_tokens(w: Weights, layer: int, ids: Int[Tensor, " token"]) -> Contents:
    """Each token by itself: what the layer would read if nothing stood before it."""
    q, k = alone(w, layer, ids)
    return Contents(q.mean(0), k.mean(0).repeat_interleave(w.facts.group_size, 0))


def _of_pairs(model: Model, w: Weights, pairs: Pairs, layers: Sequence[int]) -> dict[int, Contents]:
    """The clean run's own queries and keys, over all tokens."""
    served, sums = choose(model, longest=pairs.longest), dict[tuple[str, int], Tensor]()

    def some(rows: list[int]) -> None:
        here: dict[tuple[str, int], Tensor] = {}

        def see(shelf: str, layer: int, found: Tensor) -> None:
            if shelf in ("q", "k") and layer in layers:
                p, found = w.blocks[layer].attention, found.to(tokens.device)
                found = forward.head_norm(found, p.q_norm if shelf == "q" else p.k_norm)
                here[shelf, layer] = wide(found).sum((0, 1))

        tokens = pairs.clean[rows, : int(pairs.lengths[rows[0]])].to(model.device)
        served.walk(tokens, see, shelves=("q", "k"), layers=max(layers) + 1)
        for key, summed in here.items():
            sums[key] = sums.get(key, 0) + summed

    for rows in blocks(pairs.extents, ROWS):
        by_rows(some, rows, "a plain run")
    n = int(pairs.lengths.sum())
    keys = {layer: sums["k", layer].repeat_interleave(w.facts.group_size, 0) for layer in layers}
    return {layer: Contents(sums["q", layer] / n, keys[layer] / n) for layer in layers}


def _null(
    w: Weights,
    layer: int,
    offsets: Int[Tensor, " offset"],
    queries: Int[Tensor, " some"] | None,
    keys: Int[Tensor, " others"] | None,
) -> tuple[Float[Tensor, "head offset"], Float[Tensor, " head"]]:
    """Mean and spread of the score for Gaussian W_Q and W_K, the contents and biases kept.

    A rotation keeps lengths, so the spread is the same at every distance; models that stretch
    their context also scale what they turn, by `gain`.
    """
    p, f = w.blocks[layer].attention, factors(w, layer)
    bias = by_offset(w, layer, f.q_bias / p.scale, f.k_bias, offsets)
    if queries is None or keys is None or p.q_norm is not None:
        return torch.full_like(bias, torch.nan), torch.full_like(bias[:, 0], torch.nan)
    words = Vocabulary(w)
    in_q, in_k = (
        words.read(ids, p.ends.read).mean(0).square().sum() * part.square().mean((1, 2))
        for ids, part in ((queries, f.q), (keys, f.k))
    )
    one = torch.eye(w.facts.d_head).to(f.q)[:, None]
    gain = (by_offset(w, layer, one, one, offsets[:1] * 0) / p.scale).flatten().square()
    spread = in_q * in_k * gain.sum()
    spread = spread + in_q * (f.k_bias.square() @ gain) + in_k * (f.q_bias.square() @ gain)
    return bias, spread.sqrt()


def _cells(measure: str, site: Site, **columns: np.ndarray) -> pd.DataFrame:
    cells = {"measure": measure, "site": str(site), "layer": site.layer, "head": site.head}
    return pd.DataFrame({**cells, **columns})


def _array(x: Tensor) -> np.ndarray:
    return x.double().numpy(force=True)
