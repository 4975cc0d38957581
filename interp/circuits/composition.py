"""Composition: how much of what an earlier head writes a later head's query, key or value reads.

Elhage et al. 2021, A Mathematical Framework for Transformer Circuits, two-layer models:
||L R||_F / (||L||_F ||R||_F) with L the earlier head's W_OV and R the later head's W_QK (Q),
W_QK^T (K) or W_OV (V), as TransformerLens' `composition_scores` has it.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy import ndarray
from scipy import special, stats
from torch import Tensor
from tqdm import tqdm

from interp.circuits.factors import factors, noted, require_sum
from interp.core.door import door
from interp.core.errors import Unsupported
from interp.core.measures import Measures
from interp.core.sites import Site
from interp.core.taken import NotEmpty
from interp.engine.engines import weights_of
from interp.models.factored import FactoredMatrix
from interp.models.model import Model

Reader = Literal["q", "k", "v"]
Basis = Float[Tensor, "head d_model rank"]
"""A head's matrix without the orthogonal factor on its far side, of Frobenius norm 1."""


@door
@torch.no_grad()
def composition(
    model: Model, *, readers: Annotated[Sequence[Reader], NotEmpty()] = ("q", "k", "v")
) -> Measures:
    """Composition of every earlier head with every later head's query, key and value.

    Norm weights are folded in. Of a rotary model Q- and K-composition are those at distance 0:
    W_QK without its rotation. The null keeps the spectra and turns the directions, its moments in
    closed form: see `chance`. Its p is one-sided, for more composition than chance has.

    Returns:
        A row for each pair: `measure="q_composition"` (k, v), the earlier head in `site`, `layer`
        and `head`, what reads it in `other` ("23.3.k"), the score in `value`, and `excess`, the
        score less its expectation at random. `q` is over all rows. Query heads of a group share
        their key and value, so their rows are no independent evidence.

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
    w = weights_of(model)
    written: list[Basis] = []
    frames, columns = [], []
    for layer in tqdm(range(facts.n_layers), desc="compose", unit="layer", delay=2, disable=None):
        f = factors(w, layer)
        qk, ov = f.qk, f.ov
        for reader in dict.fromkeys(readers) if layer else ():
            left, right = torch.cat(written), _read(reader, qk, ov)
            score = scores(left, right).double().numpy(force=True)
            frames.append(_pairs(reader, layer, facts.n_heads))
            null, sd, p = chance(score, squares(left), squares(right), facts.d_model)
            columns.append([x.ravel() for x in (score, null, sd, p)])
        written.append(_unit(ov.collapse_l().mT))
    value, null, sd, p = (np.concatenate(column) for column in zip(*columns, strict=True))
    return Measures.of(
        pd.concat(frames, ignore_index=True).assign(excess=value - null),
        provenance=noted(model, null="rotation", query_heads_per_key=facts.group_size),
        value=value,
        null=null,
        null_sd=sd,
        p=p,
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


def _pairs(reader: Reader, layer: int, n_heads: int) -> pd.DataFrame:
    earlier = [Site("z", i, head=j) for i in range(layer) for j in range(n_heads)]
    later = [str(Site(reader, layer, head=j)) for j in range(n_heads)]
    return pd.DataFrame(
        {
            "measure": f"{reader}_composition",
            "site": np.repeat([str(site) for site in earlier], n_heads),
            "other": np.tile(later, len(earlier)),
            "layer": np.repeat([site.layer for site in earlier], n_heads),
            "head": np.repeat([site.head for site in earlier], n_heads),
        }
    )
