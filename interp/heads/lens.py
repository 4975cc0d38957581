"""What the residual stream says of the answer: after each layer, and by who wrote it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from interp.core.door.door import door
from interp.core.door.taken import Told
from interp.core.errors import MetricError, Unsupported
from interp.core.metrics import Metric, Metrics, resolve_metric, resolve_metrics
from interp.core.parts.sites import Kind, Site
from interp.core.prompts.pairs import Pairs
from interp.core.prompts.places import Given, Place, place_of
from interp.core.tables.results import Results
from interp.engine.engines.choose import accept, choose, last_stack
from interp.engine.engines.protocol import Engine, EngineName
from interp.engine.limits import Limits
from interp.engine.network import forward
from interp.engine.network.trace import Trace, take
from interp.engine.network.weights import Attention, Norm, Weights
from interp.engine.plan.batches import forward_plan
from interp.engine.plan.explain import proceed
from interp.engine.plan.memory import by_rows
from interp.engine.plan.positions import blocks, ids_of, lengths_in, read_at
from interp.engine.plan.score import Readout, Score
from interp.engine.provenance import provenance
from interp.heads.weights.factors import dequantised, require_logits, scale, wide
from interp.models.model import Model

ROWS = 64
"""Prompts in one forward."""


@door
@torch.inference_mode()
def logit_lens(
    model: Model,
    pairs: Pairs,
    *,
    metric: Metrics = "logit_diff",
    engine: EngineName = "auto",
) -> Results:
    """Metrics of the logits that each layer's residual stream would give (nostalgebraist 2020).

    The stream on the clean prompts goes through the final norm, which takes its own scale, and
    through the unembedding. Of an encoder-decoder it is the decoder's.

    Args:
        metric: one of `interp.core.metrics` or your own, or several, read off the same runs.

    Returns:
        One row for each metric, for the embedding (`site="embed"`; `"dec.0.resid_pre"` of a
        decoder) and the stream after each layer (`"3.resid_post"`), and example:
        `method="logit_lens"`, the metric in `value`. The last layer's is the model's own. Nothing
        is changed: `base` and `effect` are NaN.

    Raises:
        Unsupported: no logits, post-norm blocks, or a model that replay cannot read.
        MetricError: one that reads no logits.
        PairsError, PositionError: pairs that the model or the metric cannot take.
    """
    require_logits(model, "the logit lens", decoders=True)
    metrics = resolve_metrics(metric)
    if odd := [m.name for m in metrics if m.reads == "embedding"]:
        raise MetricError(
            f"the logit lens reads logits and the metric {odd[0]!r} an embedding; take "
            "'logit_diff', 'log_prob' or 'kl' (to the model's own logits)."
        )
    served = _served(model, pairs, metrics, engine)
    w = last_stack(model)
    layers = range(model.facts.n_layers)
    sites = [_first(w), *(Site("resid_post", layer, stack=w.stack) for layer in layers)]
    values = np.full((len(metrics), len(sites), len(pairs)), np.nan)

    def unembed(score: Score, place: slice, resid: Tensor, columns: Tensor | None, at: slice):
        return forward.unembed(w, resid, columns)

    def see(rows: list[int], run: Trace) -> None:
        readout = Readout.of_rows(model, pairs, metrics, rows)
        readout = readout.referring(partial(served.found, run))
        for i, site in enumerate(sites):
            stream = take(run.at(site), readout.read)[None]
            found = readout.of_final(stream, unembed, model.facts.d_vocab)[:, 0]
            values[:, i, rows] = found.double().numpy(force=True)

    _each(model, pairs, served, ("resid_pre",), see)
    said = {
        "metric": [m.name for m in metrics for _ in sites],
        "position": [m.position for m in metrics for _ in sites],
    }
    return _results("logit_lens", sites * len(metrics), values, model, pairs, served, **said)


@door
@torch.inference_mode()
def direct_logit_attribution(
    model: Model,
    pairs: Pairs,
    *,
    position: Annotated[Given, Told(place_of)] = "end",
    engine: EngineName = "auto",
) -> Results:
    """What each part adds by itself to the difference of the answers' logits.

    The residual stream is a sum and the unembedding linear, so the logit difference is a sum over
    what was written, once norms are frozen at the scale that they have in this run (the final norm;
    of Gemma 2 and OLMo 2 also those on the parts' outputs). What a part does by way of later parts
    is left out; `interp.path_patch(..., receivers="logits")` measures it. Of an encoder-decoder
    the parts are the decoder's: what the encoder wrote is in its heads of cross-attention.

    Args:
        position: where logits are read, one position of each row: a name, an index, or an index
            for each row; of an encoder-decoder in the decoder.

    Returns:
        One row for each part and example, `method="direct_logit_attribution"`: `"embed"` (with
        added positions; `"dec.0.resid_pre"` of a decoder), each head, each MLP, `"3.attn"` for the
        bias of an attention output, and `"logits"` for the biases of final norm and unembedding.
        The `value`s of an example sum to its logit difference. `base` is 0, so that `summary()`
        tests the mean against 0.

    Raises:
        Unsupported: no logits, post-norm blocks, a cap on the logits, or a model that replay cannot
            read.
        PairsError, PositionError: pairs without two answers, or without the position.
    """
    require_logits(model, "direct logit attribution", decoders=True)
    metric, place = resolve_metric("logit_diff"), place_of(position)
    read = _reading(model, pairs, place)
    served = _served(model, pairs, (metric,), engine)
    w = last_stack(model)
    assert w.unembed is not None
    if w.unembed.cap is not None:
        raise Unsupported(
            f"{model.name} caps its logits ({w.unembed.cap} tanh(logit / {w.unembed.cap})), so "
            "their difference is no sum of what the parts write. Path patching needs no sum: "
            f"interp.path_patch(..., receivers='logits'). ({model.facts})"
        )
    sites = _parts(w)
    values = np.full((len(sites), len(pairs)), np.nan)

    def see(rows: list[int], run: Trace) -> None:
        places = (x[rows].to(model.device) for x in (read[:, None], pairs.correct, pairs.wrong))
        added = _added(w, run if w.stack is None else run.of(w.stack), *places)
        for i, site in enumerate(sites):
            values[i, rows] = added[site].double().numpy(force=True)

    _each(model, pairs, served, ("resid_pre", "z", "mlp_out"), see)
    name = metric.name if place == metric.position else f"{metric.name}@{place}"
    said = {"metric": name, "position": str(place), "receiver": "logits"}
    return _results(
        *("direct_logit_attribution", sites, values, model, pairs, served), base=0.0, **said
    )


def _first(w: Weights) -> Site:
    """What enters the first layer."""
    return Site("embed") if w.stack is None else Site("resid_pre", 0, stack=w.stack)


def _attentions(w: Weights, layer: int) -> list[tuple[Attention, Callable[..., Site], str]]:
    """Of a layer each attention, what makes its sites, and where a trace of the stack holds z."""
    block, at = w.blocks[layer], partial(Site, layer=layer, stack=w.stack)
    found = [(block.attention, at, "z")]
    return (
        found
        if block.cross is None
        else [*found, (block.cross, partial(at, cross=True), "cross.z")]
    )


def _reading(model: Model, pairs: Pairs, place: Place) -> Int[Tensor, " batch"]:
    """Where logits are read in each row."""
    return read_at(model.facts, pairs, place, "direct logit attribution reads")


def _parts(w: Weights) -> list[Site]:
    """Everything that writes into the logits."""
    sites = [_first(w)]
    for layer in range(len(w.blocks)):
        for part, at, _ in _attentions(w, layer):
            sites += [at("z", head=head) for head in range(w.facts.n_heads)]
            write = part.ends.write
            if part.o.bias is not None or (write is not None and write.bias is not None):
                sites.append(at("attn_out"))
        if w.facts.d_mlp:
            sites.append(Site("mlp_out", layer, stack=w.stack))
    p = w.unembed
    assert p is not None
    if p.linear.bias is not None or (p.norm is not None and p.norm.bias is not None):
        sites.append(Site("logits"))
    return sites


def _added(
    w: Weights,
    run: Trace,
    read: Int[Tensor, "batch 1"],
    correct: Int[Tensor, " batch"],
    wrong: Int[Tensor, " batch"],
) -> dict[Site, Float[Tensor, " batch"]]:
    """The part of the logit difference that each site adds, in float32 at least."""
    p = w.unembed
    assert p is not None

    def at(x: Tensor) -> Tensor:
        return wide(take(x, read)[:, 0])

    def apart(x: Tensor) -> Tensor:
        return wide(x[correct]) - wide(x[wrong])

    u = apart(p.linear.weight) * (1.0 if p.scale is None else p.scale)
    rest = u.new_zeros(len(u)) if p.linear.bias is None else apart(p.linear.bias)
    into, bias = _before(u, p.norm, at(run.final))
    found = {Site("logits"): rest + bias, _first(w): (at(run.kept["resid_pre"][0]) * into).sum(-1)}
    for layer in range(len(w.blocks)):
        for part, make, held in _attentions(w, layer):
            z = at(run.kept[held][layer])
            o, o_bias = wide(part.o.summands()), 0 if part.o.bias is None else wide(part.o.bias)
            heads, bias = _before(into, part.ends.write, z.flatten(-2) @ o.T + o_bias)
            by_head = ((heads @ o).view(z.shape) * z).sum(-1)
            found |= {make("z", head=h): by_head[:, h] for h in range(w.facts.n_heads)}
            found[make("attn_out")] = bias + (heads * o_bias).sum(-1)
        if w.facts.d_mlp:
            mlp = Site("mlp_out", layer, stack=w.stack)
            found[mlp] = (at(run.kept["mlp_out"][layer]) * into).sum(-1)
    return found


def _before(
    direction: Float[Tensor, "batch d"], norm: Norm | None, x: Float[Tensor, "batch d"]
) -> tuple[Float[Tensor, "batch d"], Float[Tensor, " batch"]]:
    """A direction behind a norm as one before it, its scale frozen at x; and what its bias adds."""
    if norm is None:
        return direction, direction.new_zeros(len(direction))
    bias = direction.new_zeros(len(direction))
    if norm.bias is not None:
        bias = direction @ wide(norm.bias)
    direction = direction * (wide(norm.weight) + norm.offset)
    if norm.kind == "layer":
        direction = direction - direction.mean(-1, keepdim=True)
    return direction / scale(x, norm), bias


def _served(model: Model, pairs: Pairs, metrics: Sequence[Metric], engine: EngineName) -> Engine:
    """The engine that makes the clean runs, once all else is known to be right."""
    for metric in metrics:
        accept(model, pairs, metric)
    served = choose(model, engine, longest=pairs.longest)
    proceed(
        forward_plan(
            *(model.facts, lengths_in(model.facts, pairs)),
            rows=ROWS,
            runs=1,
            itemsize=model.dtype.itemsize,
            limits=Limits.of(model.device),
            engine=served.name,
        )
    )
    return served


def _each(
    model: Model,
    pairs: Pairs,
    served: Engine,
    keep: Sequence[Kind],
    see: Callable[[list[int], Trace], None],
) -> None:
    """Show the clean runs, block by block."""

    def some(rows: list[int]) -> None:
        see(rows, served.trace(*ids_of(pairs, "clean", rows, model.device), keep=keep))

    for rows in blocks(pairs.extents, ROWS):
        by_rows(some, rows, "a plain run")


def _results(
    method: str,
    sites: Sequence[Site],
    values: Float[ndarray, "*cell batch"],
    model: Model,
    pairs: Pairs,
    served: Engine,
    *,
    base: float = np.nan,
    **said: str | Sequence[str],
) -> Results:
    """A row for each site and example."""
    cells = {
        **{"method": method, "engine": served.name, **said},
        **{"site": [str(site) for site in sites], "kind": [site.kind for site in sites]},
        **{"layer": [site.layer for site in sites], "head": [site.head for site in sites]},
    }
    note = provenance(model, pairs, engine=served.name, **dequantised(model))
    return Results.of(cells, values, units=pairs.units, provenance=note, base=base)
