"""Composition: how much of what an earlier head writes a later head's query, key or value reads.

Elhage et al. 2021, A Mathematical Framework for Transformer Circuits, two-layer models:
||L R||_F / (||L||_F ||R||_F) with L the earlier head's W_OV and R the later head's W_QK (Q),
W_QK^T (K) or W_OV (V), as TransformerLens' `composition_scores` has it. There the baseline is the
score of random matrices. It is almost always exceeded in a trained model, whose heads write into
and read from the same few directions whether or not they work together. Here the first null is of
pairs of the same model that cannot compose, since the reader comes before the writer.
"""

import logging
from collections.abc import Sequence
from math import ceil
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy import special, stats
from torch import Tensor
from tqdm import tqdm

from interp.core.door.door import door
from interp.core.door.taken import NotEmpty
from interp.core.errors import Unsupported
from interp.core.parts.sites import Site
from interp.core.sampling import stats as tests
from interp.core.tables.measures import Measures
from interp.engine.engines.choose import weights_of
from interp.heads.weights.factors import factors, noted, require_sum
from interp.models.bridge.factored import FactoredMatrix
from interp.models.model import Model

log = logging.getLogger("interp")
Reader = Literal["q", "k", "v"]
Basis = Float[Tensor, "head d_model rank"]
"""A head's matrix without the orthogonal factor on its far side, of Frobenius norm 1."""
ENOUGH = 100
"""With so many impossible pairs a p can be under 0.01."""
ROUNDING = 1e-6
"""Scores, which are at most 1, are equal if no farther apart: products of float32."""


@door
@torch.no_grad()
def composition(
    model: Model, *, readers: Annotated[Sequence[Reader], NotEmpty()] = ("q", "k", "v")
) -> Measures:
    """Composition of every earlier head with every later head's query, key and value.

    Norm weights are folded in. Of a rotary model Q- and K-composition are those at distance 0:
    W_QK without its rotation. There are two nulls, and both p are one-sided, for more composition.

    The first is of the *impossible* pairs of the same model and kind: the writer stands in a later
    layer than the reader, or is another head of its layer. A pair's p is its rank among them, (1 +
    those that compose as much) / (1 + all of them). It holds what heads share because they live in
    one stream. Pairs that share a head depend on each other: each p is right by itself, and q
    takes the dependence to be positive. No p is below 1 / (1 + impossible pairs). There are about
    as many of these as of the others, so q < 0.05 takes twenty pairs or more, for each kind asked,
    that exceed them all: a single pair never has it, however strong. For one pair read p, and
    patch the path (`interp.path_patch`).

    The second, `rotation_p`, turns the directions of one side at random and keeps the spectra: see
    `chance`. It asks only whether the two know of each other's directions at all.

    Returns:
        A row for each pair: `measure="q_composition"` (k, v), the earlier head in `site`, `layer`
        and `head`, what reads it in `other` ("23.3.k"), the score in `value`. `null` and `null_sd`
        are mean and spread of the impossible pairs' scores, `excess` is the score less `null`;
        `rotation_null`, `rotation_sd`, `rotation_p` and `rotation_q` are those of the rotation.
        Both `q` are over all rows. Query heads of a group share their key and value, so their rows
        are no independent evidence. Provenance has the number of `impossible` pairs of each kind.

    Raises:
        ArgumentError: an unknown reader, or none.
        Unsupported: a single layer, post-norm blocks, or a model that replay cannot read.
    """
    require_sum(model, "composition")
    facts = model.facts
    if facts.n_layers < 2:
        raise Unsupported(
            f"composition is of heads in different layers, and {model.name} has one. ({facts})"
        )
    w, kinds = weights_of(model), tuple(dict.fromkeys(readers))
    each = range(facts.n_layers)
    written = torch.cat([_unit(factors(w, layer).ov.collapse_l().mT) for layer in each])
    value: dict[Reader, list[ndarray]] = {kind: [] for kind in kinds}
    spectra: dict[Reader, list[ndarray]] = {kind: [] for kind in kinds}
    for layer in tqdm(each, desc="compose", unit="layer", delay=2, disable=None):
        f = factors(w, layer)
        for kind in kinds:
            right = _read(kind, f.qk, f.ov)
            value[kind].append(scores(written, right).double().numpy(force=True))
            spectra[kind].append(squares(right))
    layers, heads = np.divmod(np.arange(len(written)), facts.n_heads)
    possible = layers[:, None] < layers
    other = ~possible & ~np.eye(len(written), dtype=bool)
    frames, columns, counts = [], [], {}
    for kind in kinds:
        score = np.concatenate(value[kind], axis=1)
        turned = chance(score, squares(written), np.concatenate(spectra[kind]), facts.d_model)
        null = score[other & ~np.isnan(score)]
        counts[kind] = len(null)
        here, p = score[possible], ranked(score[possible], null)
        mean, sd = (null.mean(), null.std()) if len(null) else (np.nan, np.nan)
        frames.append(_pairs(kind, possible, layers, heads).assign(excess=here - mean))
        same = np.full((2, len(here)), [[mean], [sd]])
        columns.append([here, p, *same, *(x[possible] for x in turned)])
    here, p, null, sd, *turned = (np.concatenate(c) for c in zip(*columns, strict=True))
    by_rotation = dict(zip(("rotation_null", "rotation_sd", "rotation_p"), turned, strict=True))
    cells = pd.concat(frames, ignore_index=True).assign(
        **by_rotation, rotation_q=tests.fdr(by_rotation["rotation_p"])
    )
    note = noted(
        model, null="impossible pairs", impossible=counts, query_heads_per_key=facts.group_size
    )
    if said := few_pairs(min(counts.values()), int((~np.isnan(p)).sum())):
        log.warning("%s: %s", model.name, said)
        note["few"] = said
    found = Measures.of(cells, provenance=note, value=here, null=null, null_sd=sd, p=p)
    # a rank needs no spread: impossible pairs may all score 0, in a model that was written by hand
    return Measures(found.frame.assign(p=p, q=tests.fdr(p)), note)


def ranked(
    score: Float[ndarray, " pair"], null: Float[ndarray, " impossible"]
) -> Float[ndarray, " pair"]:
    """p of each score as its rank: (1 + those of the null as large) / (1 + all of them)."""
    below = np.searchsorted(np.sort(null), score - ROUNDING)
    return np.where(np.isnan(score), np.nan, (1 + len(null) - below) / (1 + len(null)))


def few_pairs(impossible: int, tested: int) -> str:
    """What so few impossible pairs cannot say, for people; nothing of `ENOUGH` and more."""
    if impossible >= ENOUGH:
        return ""
    least = 1 / (1 + impossible)
    needed = ceil(least * tested / tests.ALPHA)
    says = "so nothing can have" if needed > tested else f"so {needed} must exceed them all for"
    return (
        f"{impossible} impossible pairs of a kind: no p can be under {least:.3g}, and {tested} "
        f"pairs are tested, {says} q < {tests.ALPHA}. Read rotation_p, or patch the paths."
    )


def scores(
    left: Float[Tensor, "earlier d_model rank"], right: Float[Tensor, "later d_model rank"]
) -> Float[Tensor, "earlier later"]:
    """||left^T right||_F of all pairs, from rank x rank products."""
    rows = left.mT.flatten(0, 1)
    crossed = [(rows @ side).unflatten(0, (len(left), -1)).norm(dim=(1, 2)) for side in right]
    return torch.stack(crossed, 1)


def squares(basis: Basis) -> Float[ndarray, "head rank"]:
    """Squared singular values, largest first: the basis' columns are orthogonal."""
    return basis.square().sum(1).double().numpy(force=True)


def chance(
    score: Float[ndarray, "earlier later"],
    left: Float[ndarray, "earlier rank"],
    right: Float[ndarray, "later rank"],
    d_model: int,
) -> tuple[Float[ndarray, "earlier later"], ...]:
    """Mean and spread of the score, and p, if one side's directions were turned at random.

    All singular values are kept; `left` and `right` are their `squares`, which sum to 1. For a Haar
    rotation the squared score has exact moments: rotations act irreducibly on the traceless
    symmetric matrices (Schur's lemma), which have one invariant of the third degree. With c_n the
    sum over d eigenvalues of (square - 1/d)^n, one side's times the other's, they are

        mean 1/d, variance 2 c_2 / ((d + 2)(d - 1)),
        third central moment 8 d c_3 / ((d - 1)(d - 2)(d + 2)(d + 4)).

    p is one-sided, that chance composes as much or more: the tail of the Pearson type III law of
    these three moments. Mean and spread of the score itself are those of the root of a gamma
    variable with the first two; the mean is 1/sqrt(d) for many directions, and below it for few.
    """
    d = d_model
    square, cube = (np.outer(_power(left, n, d), _power(right, n, d)) for n in (2, 3))
    mean, variance = 1 / d, 2 * square / ((d + 2) * (d - 1))
    third = 8 * d * cube / ((d - 1) * (d - 2) * (d + 2) * (d + 4))
    fixed = variance < np.finfo(float).eps * mean**2  # all of the space, evenly: cannot vary
    variance = np.where(fixed, np.nan, variance)
    shape = mean**2 / variance
    root = np.sqrt(mean / shape) * special.poch(shape, 0.5)
    sd = np.where(fixed, 0.0, np.sqrt((mean - root**2).clip(0)))
    law = stats.pearson3(third / variance**1.5, loc=mean, scale=np.sqrt(variance))
    return np.where(fixed, np.sqrt(mean), root), sd, law.sf(score**2)


def _power(squares: Float[ndarray, "head rank"], n: int, d: int) -> Float[ndarray, " head"]:
    """Sum of powers of the d eigenvalues less their mean; all but `rank` of them are 0."""
    return ((squares - 1 / d) ** n).sum(1) + (d - squares.shape[1]) * (-1 / d) ** n


def _read(reader: Reader, qk: FactoredMatrix, ov: FactoredMatrix) -> Basis:
    match reader:
        case "q":
            return _unit(qk.collapse_r())
        case "k":
            return _unit(qk.collapse_l().mT)
        case "v":
            return _unit(ov.collapse_r())


def _unit(basis: Basis) -> Basis:
    """NaN for a head that is 0: it has no composition."""
    return basis / basis.norm(dim=(1, 2), keepdim=True)


def _pairs(
    reader: Reader, possible: Bool[ndarray, "writer reader"], layers: ndarray, heads: ndarray
) -> pd.DataFrame:
    """The cells of the possible pairs, in the order of `possible`."""
    writer, read = np.nonzero(possible)
    at = list(zip(layers.tolist(), heads.tolist(), strict=True))
    sites = np.array([str(Site("z", layer, head=head)) for layer, head in at])
    inputs = np.array([str(Site(reader, layer, head=head)) for layer, head in at])
    return pd.DataFrame(
        {
            "measure": f"{reader}_composition",
            "site": sites[writer],
            "other": inputs[read],
            "layer": layers[writer],
            "head": heads[writer],
        }
    )
