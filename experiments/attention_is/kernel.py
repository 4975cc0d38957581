"""Attention as a kernel smoother: a head's output is a weighted mean of the values that it sees.

Tsai et al. 2019, Transformer Dissection, §3: z = sum_j k(q, k_j) v_j / sum_j k(q, k_j), which is
the estimate of Nadaraya and Watson (1964), with k(q, k) = exp(<q, k> / sqrt(d_head)). That kernel
is a Gaussian one (RBF) times a factor of the query, which cancels, and a factor of the key:

    exp(s <q, k>) = exp(-s |q - k|^2 / 2) * exp(s |q|^2 / 2) * exp(s |k|^2 / 2)

So a head is an RBF smoother in which long keys count more; with keys of one length it is an RBF
smoother. And it is a soft lookup: with scores divided by a temperature that goes to 0, the output
becomes the value of the key with the highest score.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.core.errors import MetricError
from interp.engine.engines.choose import accept, choose
from interp.engine.engines.replay.engine import Replay
from interp.engine.network import forward
from interp.engine.network.trace import Trace
from interp.engine.network.weights import Attention, Weights
from interp.engine.plain.prompts import Ids, prompts
from interp.models.model import Model


@dataclass(frozen=True, eq=False)
class Smoother:
    """What the heads of one layer smooth, in float64.

    Attributes:
        q, k: as the scores meet them, after a norm of their own and after the rotation. Each query
            head has its own copy of the key and the value of its group.
        seen: the keys that a query sees.
        scale: of the inner products, 1 / sqrt(d_head) in most models.
        cap: scores pass through cap * tanh(score / cap).
        z: what the model made of them.
    """

    q: Float[Tensor, "batch head query d_head"]
    k: Float[Tensor, "batch head key d_head"]
    v: Float[Tensor, "batch head key d_head"]
    seen: Bool[Tensor, "query key"]
    scale: float
    cap: float | None
    z: Float[Tensor, "batch head query d_head"]

    @property
    def scores(self) -> Float[Tensor, "batch head query key"]:
        """Logarithm of the kernel between each query and key, seen or not."""
        found = exponential(self.q, self.k, scale=self.scale)
        return found if self.cap is None else self.cap * (found / self.cap).tanh()


@torch.inference_mode()
def smoothers(model: Model, tokens: Ids) -> Iterator[Smoother]:
    """The smoother of each layer, on one run of some rows of equal length.

    All activations of the run are held, so give few rows at a time.

    Args:
        tokens: ids, `batch pos`.

    Raises:
        PairsError: tokens that the model cannot run.
        Unsupported: a model that replay cannot read: where its scores come from is then unknown.
    """
    pairs = prompts(tokens)
    accept(model, pairs, None)
    engine = choose(model, "replay", longest=pairs.longest)
    assert isinstance(engine, Replay)
    run = engine.trace(pairs.clean.to(model.device), keep=("q", "k", "v", "z"))
    return _each(engine.weights, run, pairs.longest)


@torch.inference_mode()
def _each(w: Weights, run: Trace, pos: int) -> Iterator[Smoother]:
    turn = forward.rotations(w, pos)
    for layer, block in enumerate(w.blocks):
        q, k, v, z = (run.kept[kind][layer] for kind in ("q", "k", "v", "z"))
        yield _smoother(w, block.attention, q, k, v, z, turn)


def _smoother(
    w: Weights,
    p: Attention,
    q: Float[Tensor, "batch pos head d_head"],
    k: Float[Tensor, "batch pos group d_head"],
    v: Float[Tensor, "batch pos group d_head"],
    z: Float[Tensor, "batch pos head d_head"],
    turn: forward.Rotations,
) -> Smoother:
    place = torch.arange(q.shape[1], device=q.device)[None]
    found = turn.get(p.rotary)
    if found is not None:
        found = found._replace(cos=found.cos.double(), sin=found.sin.double())
    q, k = forward.head_norm(q, p.q_norm).double(), forward.head_norm(k, p.k_norm).double()
    q, k = forward.rotate(q, found, place), forward.rotate(k, found, place)
    k, v = (t.double().repeat_interleave(w.facts.group_size, 2) for t in (k, v))
    q, k, v, z = (t.transpose(1, 2) for t in (q, k, v, z.double()))
    seen = forward.visible(p, place, q.shape[2], causal=w.facts.causal)[0]
    return Smoother(q, k, v, seen, p.scale, p.cap, z)


def exponential(
    q: Float[Tensor, "*batch query d_head"], k: Float[Tensor, "*batch key d_head"], *, scale: float
) -> Float[Tensor, "*batch query key"]:
    """Logarithm of exp(scale <q, k>), the kernel of softmax attention."""
    return scale * q @ k.mT


def rbf(
    q: Float[Tensor, "*batch query d_head"], k: Float[Tensor, "*batch key d_head"], *, scale: float
) -> Float[Tensor, "*batch query key"]:
    """Logarithm of exp(-scale |q - k|^2 / 2), a Gaussian of variance 1 / scale."""
    # by differences, not by products: no digits cancel, and nothing is shared with `exponential`
    return -scale / 2 * torch.cdist(q, k, compute_mode="donot_use_mm_for_euclid_dist").square()


def key_weight(
    k: Float[Tensor, "*batch key d_head"], *, scale: float
) -> Float[Tensor, "*batch key"]:
    """Logarithm of exp(scale |k|^2 / 2): what a key counts beyond the RBF, in nats."""
    return scale / 2 * k.square().sum(-1)


def weights(
    kernel: Float[Tensor, "*batch query key"], seen: Bool[Tensor, "query key"]
) -> Float[Tensor, "*batch query key"]:
    """Each key's share of the kernel's sum over the keys that a query sees.

    Args:
        kernel: its logarithm.

    Raises:
        MetricError: a query that sees no key, or kernels that are no numbers.
    """
    kernel = kernel.masked_fill(~seen, -math.inf)
    most = kernel.amax(-1, keepdim=True)
    if not bool(most.isfinite().all()):
        raise MetricError(
            "some query sees no key, or its kernels are NaN, infinite, or zero at every key "
            "(minus infinity as a logarithm), so it has no weighted mean."
        )
    value = (kernel - most).exp()  # a factor of the query cancels
    return value / value.sum(-1, keepdim=True)


def nadaraya_watson(
    kernel: Float[Tensor, "*batch query key"],
    v: Float[Tensor, "*batch key d_head"],
    seen: Bool[Tensor, "query key"],
) -> Float[Tensor, "*batch query d_head"]:
    """The mean of the values under the kernel's weights.

    `nadaraya_watson(s.scores, s.v, s.seen)` of a `Smoother` is its `z`.
    """
    wide = torch.promote_types(kernel.dtype, v.dtype)
    return weights(kernel.to(wide), seen) @ v.to(wide)


class Lookup(NamedTuple):
    """How far soft attention is from a hard lookup; NaN where a query sees one key.

    Attributes:
        entropy: of the weights, in nats.
        elsewhere: the weight that is not on the best key, 1 - p.
        distance: |z - v_best| over the largest |v_j - v_best|: at most `elsewhere`, for z - v_best
            is the mean of v_j - v_best.
        gap: the best score minus the second best, at temperature 1.
        rate: how fast log(elsewhere) falls as 1 / temperature grows. It goes to `gap` as the
            temperature goes to 0.
    """

    entropy: Float[Tensor, "batch head query"]
    elsewhere: Float[Tensor, "batch head query"]
    distance: Float[Tensor, "batch head query"]
    gap: Float[Tensor, "batch head query"]
    rate: Float[Tensor, "batch head query"]


def lookup(s: Smoother, temperature: float) -> Lookup:
    """Attention with its scores divided by a temperature, beside the lookup of its best key.

    With n keys and a gap g, `elsewhere` is between 1 / (1 + exp(g / T)) and
    (n - 1) / (n - 1 + exp(g / T)): exponential in 1 / T for each query, at the rate of its own gap.

    Args:
        s: one layer's, of `smoothers`.
        temperature: divides the scores; as it goes to 0 the output becomes the value of the best
            key (`Lookup.distance` goes to 0).

    Raises:
        MetricError: scores that are no numbers.
    """
    scores = s.scores.masked_fill(~s.seen, -math.inf)
    best = scores.argmax(-1, keepdim=True)
    others = scores.scatter(-1, best, -math.inf)
    gap = scores.amax(-1) - others.amax(-1)
    p = weights(scores / temperature, s.seen)
    elsewhere = (others / temperature).logsumexp(-1) - (scores / temperature).logsumexp(-1)
    others_mean = (others / temperature).softmax(-1).mul(s.seen * others.nan_to_num(neginf=0.0))
    rate = p.gather(-1, best)[..., 0] * (scores.amax(-1) - others_mean.sum(-1))
    chosen = s.v.gather(2, best.expand(*best.shape[:-1], s.v.shape[-1]))
    apart = torch.cdist(chosen, s.v, compute_mode="donot_use_mm_for_euclid_dist")
    distance = (p @ s.v - chosen).norm(dim=-1) / apart.masked_fill(~s.seen, 0.0).amax(-1)
    alone = s.seen.sum(-1) == 1
    found = (torch.special.entr(p).sum(-1), elsewhere.exp(), distance, gap, rate)
    return Lookup(*(t.masked_fill(alone, math.nan) for t in found))
