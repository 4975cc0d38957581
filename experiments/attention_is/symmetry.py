"""What breaks each symmetry of attention: permuted tokens, shifted positions, the future.

Attention over all tokens is a function of a set: without positions f(PX) = P f(X) for every
permutation P. A position scheme or a causal mask breaks that. Here a model's tokens are told to
stand elsewhere, or to see everything, so that each can be asked of the same weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from experiments.attention_is.setting import (
    SCHEMES,
    TINY_ROWS,
    Amount,
    loaded,
    noted,
    random_rows,
    rows_of_text,
    seeded,
    tiny,
)
from interp.core.errors import PositionError
from interp.core.tables.scores import Scores
from interp.engine.engines.choose import weights_of
from interp.engine.engines.replay.engine import Replay
from interp.engine.network.weights import Angles, Weights
from interp.models.now.versions import versions
from interp.models.small.native import build

PERMUTED, ALONG, SHIFTED, FUTURE, PAST = SYMMETRIES = (
    "tokens permuted",
    "positions permuted too",
    "positions shifted",
    "future replaced",
    "past permuted",
)
FREE, MASKED = "all seen", "causal mask"


def symmetry(size: Amount, seed: int) -> Scores:
    """What breaks each symmetry: tiny models of each position scheme at initialisation."""
    parts = []
    for scheme in SCHEMES:
        found: dict[tuple[str, str, int], list[ndarray]] = {}
        for first in range(size.seeds):
            shape = tiny(scheme, size)
            model = build(shape, name=scheme, seed=first, dtype=torch.float64)
            w = weights_of(model)
            for draw, mask in product(range(size.draws), (FREE, MASKED)):
                tokens = random_rows(size, seed, first, draw)
                for name, layers in ask(w, tokens, mask, seeded(seed, first, draw, 1)).items():
                    for layer, (one, other) in enumerate(layers):
                        broken = violation(one, other).numpy(force=True)
                        found.setdefault((name, mask, layer), []).append(broken)
        clusters = np.repeat([f"seed {i}" for i in range(size.seeds)], size.draws * TINY_ROWS)
        note = {"model": "tiny", "dtype": "float64", "seeds": size.seeds, "versions": versions()}
        for (name, mask, layer), values in found.items():
            cell = columns(name, scheme, mask, layer, "random")
            parts.append(Scores.of(np.concatenate(values), clusters, provenance=note, **cell))
    return Scores.concat(parts)


def trained_symmetry(names: Mapping[str, Sequence[str]], size: Amount, seed: int) -> Scores:
    """The same of trained models on real text, after their last layer.

    Args:
        names: of models, and how each is asked.
    """
    parts = []
    for name, masks in names.items():
        model = loaded(name)
        tokens, cluster = rows_of_text(model, size, seed)
        w = weights_of(model)
        for mask in masks:
            found: dict[str, list[ndarray]] = {}
            for draw in range(size.orders):
                for key, layers in ask(w, tokens, mask, seeded(seed, draw)).items():
                    broken = violation(*layers[-1]).numpy(force=True)
                    found.setdefault(key, []).append(broken)
            for key, values in found.items():
                cell = columns(key, model.name, mask, w.facts.n_layers - 1, "trained")
                drawn = np.tile(cluster, size.orders)
                parts.append(
                    Scores.of(np.concatenate(values), drawn, provenance=noted(model), **cell)
                )
    return Scores.concat(parts)


@torch.inference_mode()
def ask(
    w: Weights, tokens: Tensor, mask: str, generator: torch.Generator
) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """For each symmetry the streams that are found and those that would be if it held, by layer."""
    n, half, causal = tokens.shape[1], tokens.shape[1] // 2, mask == MASKED
    here, order = torch.arange(n), torch.randperm(n, generator=generator)
    past = torch.cat([torch.randperm(n - 1, generator=generator), here[-1:]])
    later = torch.cat([tokens[:, :half], tokens.roll(1, 0)[:, half:]], 1)  # another row's

    def read(ids: Tensor, place: Tensor = here) -> tuple[Tensor, ...]:
        return streams(placed(w, place, causal=causal), ids)

    plain, moved = read(tokens), reordered(tokens, order)
    expected = [reordered(f, order) for f in plain]
    return {
        PERMUTED: list(zip(read(moved), expected, strict=True)),
        ALONG: list(zip(read(moved, order), expected, strict=True)),
        SHIFTED: list(zip(read(tokens, here + n), plain, strict=True)),
        FUTURE: [(g[:, :half], f[:, :half]) for g, f in zip(read(later), plain, strict=True)],
        PAST: [
            (g[:, -1:], f[:, -1:])
            for g, f in zip(read(reordered(tokens, past)), plain, strict=True)
        ],
    }


def columns(name: str, probe: str, mask: str, layer: int, model: str) -> dict[str, Any]:
    """The columns of a symmetry's score."""
    return {
        "task": name,
        "probe": probe,
        "subset": mask,
        "site": f"{layer}.resid_post",
        "layer": layer + 1,
        "model": model,
        "metric": "violation",
    }


def placed(w: Weights, place: Int[Tensor, " pos"], *, causal: bool) -> Weights:
    """The same model, in which the i-th token of a row of this length stands at place[i].

    Args:
        place: positions that learned and fixed tables are read at, and that queries and keys are
            rotated by. Who sees whom goes by the order of the row.
        causal: a token sees itself and those before it in the row; else it sees all.

    Raises:
        PositionError: a place that the model has no position for.
    """
    n = w.facts.n_ctx if w.embed.positions is None else len(w.embed.positions)
    if bool(((place < 0) | (place >= n)).any()):
        raise PositionError(
            f"places go from {int(place.min())} to {int(place.max())}, and {w.facts.architecture} "
            f"has positions 0 to {n - 1}; shift by less, or take shorter rows."
        )
    embed = w.embed
    if embed.positions is not None:
        embed = replace(embed, positions=embed.positions.index_select(0, place))
    rotary = {name: partial(_moved, angles, place) for name, angles in w.rotary.items()}
    return replace(w, embed=embed, rotary=rotary, facts=replace(w.facts, causal=causal))


def _moved(
    angles: Angles, place: Int[Tensor, " pos"], like: Tensor, at: Int[Tensor, "1 pos"]
) -> tuple[Tensor, Tensor]:
    return angles(like, place.index_select(0, at[0])[None])


def streams(
    w: Weights, tokens: Int[Tensor, "batch pos"]
) -> tuple[Float[Tensor, "batch pos d_model"], ...]:
    """The residual stream after each layer."""
    run = Replay(w).trace(tokens, keep=("resid_pre",))
    return *run.kept["resid_pre"][1:], run.final


def violation(
    found: Float[Tensor, "batch pos d_model"], expected: Float[Tensor, "batch pos d_model"]
) -> Float[Tensor, " batch"]:
    """|found - expected| / |expected| of each row: 0 where a symmetry holds."""
    found, expected = (x.double().flatten(1) for x in (found, expected))
    return (found - expected).norm(dim=1) / expected.norm(dim=1)


def reordered(x: Tensor, order: Int[Tensor, " pos"]) -> Tensor:
    """Rows `batch pos ...` with the token at order[i] moved to i: P x."""
    return torch.index_select(x, 1, order)
