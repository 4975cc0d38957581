"""Runs of the reference engine on edits that are built by hand."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import tiny
import torch
from conftest import hooks_on
from torch import Tensor

from interp.core.parts.sites import Site
from interp.engine.engines.hooked import run as hooks
from interp.engine.engines.hooked.run import Output
from interp.engine.interventions import Hop, Value
from interp.engine.network.trace import Trace
from interp.engine.plan.edits import Edit
from interp.models.model import Model

EVERYTHING = ("resid_pre", "q", "k", "v", "pattern", "z", "attn_out", "resid_mid", "mlp_act")
EVERYTHING += ("mlp_out", "resid_post")
ONE_STACK = [name for name in tiny.FAMILIES if name not in ("t5", "opt-post")]
"""All but what TransformerLens cannot load, and two stacks, which have tests of their own."""
KINDS = ["gpt2", "llama", "gemma2", "neox", "bert"]
"""One of each block: plain, of grouped queries, sandwich, parallel, post-norm."""


class Runs(NamedTuple):
    """A model, tokens, their run and the run of other tokens."""

    model: Model
    tokens: Tensor
    base: Trace
    other: Trace
    written: Tensor | None = None


def leaving_no_hooks(model: Model) -> Iterator[Runs]:
    """Runs of a model, which must end with the hooks that it came with."""
    before = hooks_on(model)
    yield runs_of(model)
    assert hooks_on(model) == before


def tokens(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, tiny.VOCAB, (2, 5), generator=generator)


@torch.inference_mode()
def runs_of(model: Model, prefix: tuple[int, ...] | None = None) -> Runs:
    ids = tokens(0)
    written = None if prefix is None else torch.tensor([prefix]).expand(len(ids), -1)
    found = (hooks.trace(model, tokens(i), keep=EVERYTHING, written=written) for i in (0, 1))
    return Runs(model, ids, *found, written)


def edit(
    site: Site | str, value: Value, source: Trace, readers: tuple[Site, ...] | None = None
) -> Edit:
    """A value at all positions, from what a run holds there. Patterns may sum to anything."""
    site = Site.parse(site)
    found = source.at(site)
    everywhere = torch.ones(found.shape[:2], dtype=torch.bool)
    return Edit(site, value, everywhere, found, readers, normalise=False)


@torch.inference_mode()
def edited(runs: Runs, edits: Sequence[Edit], hops: Sequence[Hop] = ()) -> Output:
    model, ids, base, _, written = runs
    everywhere = torch.arange(ids.shape[1]).expand(len(ids), -1)
    return hooks.run(model, base, ids, edits, hops, [everywhere for _ in hops], written)


def gap(one: Output | Trace, other: Output | Trace) -> float:
    """The largest difference, of logits too where there are any."""
    found = (one.final - other.final).abs().max()
    if one.logits is not None:
        found = torch.maximum(found, (one.logits - other.logits).abs().max())
    return found.item()
