"""What the residual stream says of the answer: after each layer, and by who wrote it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from interp.circuits.factors import require_logits, scale
from interp.core.errors import MetricError, Unsupported
from interp.core.metrics import Metric, resolve_metric
from interp.core.pairs import Pairs
from interp.core.results import COLUMNS, Results
from interp.core.sites import Kind, Site
from interp.engine import forward
from interp.engine.edits import take
from interp.engine.engines import EngineName, accept, choose, weights_of
from interp.engine.explain import proceed
from interp.engine.plan import blocks, forward_plan
from interp.engine.provenance import provenance
from interp.engine.score import Score
from interp.engine.trace import Trace
from interp.engine.weights import Norm, Weights
from interp.models.model import Model

ROWS = 64
"""Prompts in one forward."""


@torch.inference_mode()
def logit_lens(
    model: Model,
    pairs: Pairs,
    *,
    metric: str | Metric = "logit_diff",
    engine: EngineName = "auto",
) -> Results:
    """A metric of the logits that each layer's residual stream would give (nostalgebraist 2020).

    The stream on the clean prompts goes through the final norm, which takes its own scale, and
    through the unembedding.

    Returns:
        One row for the embedding (`site="embed"`), for the stream after each layer
        (`"3.resid_post"`), and example: `method="logit_lens"`, the metric in `value`. The last
        layer's is the model's own. Nothing is changed: `base` and `effect` are NaN.

    Raises:
        Unsupported: no logits, post-norm blocks, or a model that replay cannot read.
        MetricError: one that reads no logits.
        PairsError, PositionError: pairs that the model or the metric cannot take.
    """
    require_logits(model, "the logit lens")
    found = resolve_metric(metric)
    if found.reads == "embedding":
        raise MetricError(
            f"the logit lens reads logits and the metric {found.name!r} an embedding; take "
            "'logit_diff', 'log_prob' or 'kl' (to the model's own logits)"
        )
    sites = [Site("embed")]
    sites += [Site("resid_post", layer) for layer in range(model.facts.n_layers)]
    values, w = np.full((len(sites), len(pairs)), np.nan), weights_of(model)

    def unembed(resid: Tensor, columns: Tensor | None, at: slice) -> Tensor:
        return forward.unembed(w, resid, columns)

    def see(rows: Sequence[int], run: Trace, score: Score) -> None:
        for i, site in enumerate(sites):
            stream = take(run.at(site), score.read)[None]
            value = score.of_final(stream, unembed, model.facts.d_vocab)[0]
            values[i, rows] = value.double().numpy(force=True)

    name = _run(model, pairs, found, engine, see)
    said = {"method": "logit_lens", "position": found.position, "metric": found.name}
    frame = _frame(sites, values, pairs, said | {"engine": name})
    note = provenance(model, pairs, engine=name)
    return Results(frame.assign(base=np.nan, effect=np.nan)[COLUMNS], note)


@torch.inference_mode()
def direct_logit_attribution(
    model: Model, pairs: Pairs, *, position: str = "end", engine: EngineName = "auto"
) -> Results:
    """What each part adds by itself to the difference of the answers' logits.

    The residual stream is a sum and the unembedding linear, so the logit difference is a sum over
    what was written, once norms are frozen at the scale that they have in this run (the final norm;
    of Gemma 2 and OLMo 2 also those on the parts' outputs). What a part does by way of later parts
    is left out; `interp.path_patch(..., receivers="logits")` measures it.

    Args:
        position: the named position at which logits are read.

    Returns:
        One row for each part and example, `method="direct_logit_attribution"`: `"embed"` (with
        added positions), each head, each MLP, `"3.attn"` for the bias of an attention output, and
        `"logits"` for the biases of final norm and unembedding. The `value`s of an example sum to
        its logit difference. `base` is 0, so that `summary()` tests the mean against 0.

    Raises:
        Unsupported: no logits, post-norm blocks, a cap on the logits, or a model that replay cannot
            read.
        PairsError, PositionError: pairs without two answers, or without the position.
    """
    require_logits(model, "direct logit attribution")
    w = weights_of(model)
    assert w.unembed is not None
    if w.unembed.cap is not None:
        raise Unsupported(
            f"{model.name} caps its logits ({w.unembed.cap} tanh(logit / {w.unembed.cap})), so "
            "their difference is no sum of what the parts write. Path patching needs no sum: "
            f"interp.path_patch(..., receivers='logits'). ({model.facts})"
        )
    metric = resolve_metric("logit_diff" if position == "end" else f"logit_diff@{position}")
    sites = _parts(w)
    values = np.full((len(sites), len(pairs)), np.nan)

    def see(rows: Sequence[int], run: Trace, score: Score) -> None:
        added = _added(w, run, score)
        for i, site in enumerate(sites):
            values[i, rows] = added[site].double().numpy(force=True)

    name = _run(model, pairs, metric, engine, see, keep=("resid_pre", "z", "mlp_out"))
    said = {"method": "direct_logit_attribution", "position": position, "receiver": "logits"}
    frame = _frame(sites, values, pairs, said | {"metric": metric.name, "engine": name})
    note = provenance(model, pairs, engine=name)
    return Results(frame.assign(base=0.0, effect=frame["value"])[COLUMNS], note)


def _parts(w: Weights) -> list[Site]:
    """Everything that writes into the logits."""
    sites = [Site("embed")]
    for layer, block in enumerate(w.blocks):
        sites += [Site("z", layer, head=head) for head in range(w.facts.n_heads)]
        write = block.attention.ends.write
        if block.attention.o.bias is not None or (write is not None and write.bias is not None):
            sites.append(Site("attn_out", layer))
        if w.facts.d_mlp:
            sites.append(Site("mlp_out", layer))
    p = w.unembed
    assert p is not None
    if p.linear.bias is not None or (p.norm is not None and p.norm.bias is not None):
        sites.append(Site("logits"))
    return sites


def _added(w: Weights, run: Trace, score: Score) -> dict[Site, Float[Tensor, " batch"]]:
    """The part of the logit difference that each site adds."""
    p, answers = w.unembed, score.answers
    assert p is not None

    def at(x: Tensor) -> Tensor:
        return take(x, score.read)[:, 0]

    u = p.linear.weight[answers.correct] - p.linear.weight[answers.wrong]
    rest = u.new_zeros(len(u))
    if p.linear.bias is not None:
        rest = p.linear.bias[answers.correct] - p.linear.bias[answers.wrong]
    into, bias = _before(u, p.norm, at(run.final))
    found = {Site("logits"): rest + bias, Site("embed"): (at(run.at(Site("embed"))) * into).sum(-1)}
    for layer, block in enumerate(w.blocks):
        part, z = block.attention, at(run.kept["z"][layer])
        heads, bias = _before(into, part.ends.write, part.o(z.flatten(-2)))
        by_head = ((heads @ part.o.weight).view(z.shape) * z).sum(-1)
        found |= {Site("z", layer, head=h): by_head[:, h] for h in range(w.facts.n_heads)}
        bias = bias if part.o.bias is None else bias + heads @ part.o.bias
        found[Site("attn_out", layer)] = bias
        if w.facts.d_mlp:
            found[Site("mlp_out", layer)] = (at(run.kept["mlp_out"][layer]) * into).sum(-1)
    return found


def _before(
    direction: Float[Tensor, "batch d"], norm: Norm | None, x: Float[Tensor, "batch d"]
) -> tuple[Float[Tensor, "batch d"], Float[Tensor, " batch"]]:
    """A direction behind a norm as one before it, its scale frozen at x; and what its bias adds."""
    if norm is None:
        return direction, direction.new_zeros(len(direction))
    bias = direction.new_zeros(len(direction)) if norm.bias is None else direction @ norm.bias
    direction = direction * (norm.weight + norm.offset)
    if norm.kind == "layer":
        direction = direction - direction.mean(-1, keepdim=True)
    return direction / scale(x, norm), bias


def _run(
    model: Model,
    pairs: Pairs,
    metric: Metric,
    engine: EngineName,
    see: Callable[[Sequence[int], Trace, Score], None],
    *,
    keep: Sequence[Kind] = ("resid_pre",),
) -> str:
    """Show the clean runs, block by block; the name of the engine that made them."""
    accept(model, pairs, metric)
    served = choose(model, engine, longest=pairs.longest)
    proceed(
        forward_plan(
            *(model.facts, pairs.lengths),
            rows=ROWS,
            runs=1,
            itemsize=model.dtype.itemsize,
            engine=served.name,
        )
    )
    for rows in blocks(pairs.lengths, ROWS):
        tokens = pairs.clean[rows, : int(pairs.lengths[rows[0]])].to(model.device)
        run, score = served.trace(tokens, keep=keep), Score.of_rows(model, pairs, metric, rows)
        if metric.needs_reference:
            answers = replace(score.answers, reference=served.found(run, score))
            score = replace(score, answers=answers)
        see(rows, run, score)
    return served.name


def _frame(
    sites: Sequence[Site],
    values: Float[ndarray, "sites batch"],
    pairs: Pairs,
    said: Mapping[str, str],
) -> pd.DataFrame:
    """A row for each site and example."""
    n = len(pairs)
    index = np.repeat(np.arange(len(sites)), n)
    layers, heads = ([getattr(site, axis) for site in sites] for axis in ("layer", "head"))
    columns = {
        **dict.fromkeys(COLUMNS, ""),
        **said,
        "site": np.array([str(site) for site in sites])[index],
        "kind": np.array([site.kind for site in sites])[index],
        "layer": pd.array(layers, dtype="Int16")[index],
        "head": pd.array(heads, dtype="Int16")[index],
        "example": np.tile(np.arange(n, dtype=np.int32), len(sites)),
        "cluster": np.tile(np.asarray(pairs.cluster), len(sites)),
        "value": values.ravel(),
    }
    return pd.DataFrame(columns)
