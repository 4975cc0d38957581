"""Forwards of the bridge with writes at its hook points, in order of computation."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.errors import Unsupported
from interp.core.parts.facts import Facts
from interp.core.parts.sites import Site
from interp.engine.engines.protocol import Written, begun
from interp.engine.network.trace import shelf
from interp.engine.plan.edits import Edit
from interp.engine.plan.explain import require_running
from interp.models.bridge import rotary
from interp.models.bridge.placed import hooked
from interp.models.bridge.points import point
from interp.models.model import Model

Hook = Callable[[Tensor], Tensor]


class Output(NamedTuple):
    """What a forward gives: logits if the model has a head, and the last residual stream.

    Of an encoder-decoder the stream is the decoder's.
    """

    logits: Float[Tensor, "batch pos d_vocab"] | None
    final: Float[Tensor, "batch pos d_model"]


class Rank(IntEnum):
    """The order of hooks at one place."""

    NOTE = 0
    """Sees what the model computes, before anything is written."""
    GIVEN = 1
    """What a reader of edges computes; its own edit acts on that."""
    EDIT = 2
    """An intervention that everyone sees."""
    FREEZE = 3
    CHANGE = 4
    """On top of what is frozen: a sender, a receiver, a writer as one reader sees it."""
    SEE = 5
    """Sees what stands there in the end."""


@dataclass(frozen=True, eq=False)
class Write:
    """Hooks for one place in the model. The site says where they stand in the computation."""

    site: Site
    rank: Rank
    hooks: tuple[tuple[str, Hook], ...]

    @property
    def order(self) -> tuple[int, ...]:
        # a rank holds for a kind: whatever is frozen is so before any head is changed
        place, inner = self.site.order[:4], self.site.order[4:]
        return (*place, self.rank, *inner)


def forward(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    writes: Iterable[Write],
    *,
    written: Written = None,
    hooks: Sequence[tuple[str, Hook]] = (),
) -> Output:
    """Run the bridge with hooks that are gone afterwards, whatever happens.

    `hooks` are for points where nothing else is written. Of an encoder-decoder the decoder reads
    its start token and `written`.

    Raises:
        Unsupported: a hook point that the bridge has not, that did not fire exactly once, or where
            a write would not be what arrives.
    """
    require_running()
    facts, known = model.facts, model.bridge.hook_dict
    final: list[Tensor] = []
    stream = "dec.resid_post" if facts.n_encoder_layers else "resid_post"
    last = point(facts, stream, facts.n_layers - 1)
    writes = sorted(writes, key=lambda w: w.order)
    asked = [hook for write in writes for hook in write.hooks]
    asked += [*hooks, (last, noting(final))]
    if lost := [name for name, _ in asked if name not in known]:
        raise Unsupported(
            f"TransformerLens gives {facts.architecture} no hook point {lost[0]!r}, so what this "
            "needs can be neither read nor changed. Choose sites that it has "
            "(model.bridge.hook_dict), or another model."
        )
    changing = [write for write in writes if write.rank not in (Rank.NOTE, Rank.SEE)]
    # without a head the last stream is what the model says
    said = [] if facts.language_model else [last]
    require_open(model, [*said, *(name for write in changing for name, _ in write.hooks)])
    fired: Counter[int] = Counter()

    def fire(index: int, activation: Tensor) -> Tensor:
        fired[index] += 1
        return asked[index][1](activation)

    points = [(name, lambda x, hook, i=i: fire(i, x)) for i, (name, _) in enumerate(asked)]
    alone = rotary.alone(model.live.watch.remembering)
    with warnings.catch_warnings(), hooked(model.bridge, points), alone:
        # said wherever the scale of a norm is written, which is what is meant
        warnings.filterwarnings("ignore", "A forward hook edited hook_scale")
        logits = _call(model, tokens, written)
    if wrong := {asked[i][0]: fired[i] for i in range(len(asked)) if fired[i] != 1}:
        raise Unsupported(
            f"hooks fired {wrong} times in one forward of {facts.architecture}, not once: "
            "a write there would do nothing or too much, so the numbers would be wrong. "
            "Choose other sites, or another model."
        )
    return Output(logits, final[0])


def require_open(model: Model, points: Iterable[str]) -> None:
    """Refuse hook points that something foreign stands behind.

    Raises:
        Unsupported: naming both.
    """
    now = model.now()
    covered = now.once("covered", lambda: model.live.watch.covered(now.foreign))
    if not covered:
        return
    known = model.bridge.hook_dict
    for name in points:
        if (one := covered.get(known.get(name))) is not None:
            raise Unsupported(
                f"{one} changes what TransformerLens shows at {name}, behind that point: a value "
                "there is not what goes on. Take it off, or choose sites before or after it."
            )


def _call(
    model: Model, tokens: Int[Tensor, "batch pos"], written: Written
) -> Float[Tensor, "batch _ d_vocab"] | None:
    hf, inputs = model.bridge.original_model, {"input_ids": tokens}
    if model.facts.n_encoder_layers:
        inputs["decoder_input_ids"] = begun(start_of(model), tokens, written)
    if model.facts.language_model:
        return hf(**inputs).logits
    hf.base_model(**inputs)
    return None


def start_of(model: Model) -> int:
    """What a decoder starts with.

    Raises:
        Unsupported: the config does not say.
    """
    start = model.bridge.original_model.config.decoder_start_token_id
    if start is None:
        raise Unsupported(
            f"the config of {model.name} has no decoder_start_token_id, so it is not known what "
            "the decoder starts with. Set it in model.bridge.original_model.config."
        )
    return start


def noting(into: list[Tensor]) -> Hook:
    """Append a copy: the model may add to the tensor in place."""

    def note(activation: Tensor) -> Tensor:
        into.append(activation.clone())
        return activation

    return note


def at(facts: Facts, site: Site, rank: Rank, hook: Hook) -> Write:
    """A write at the whole tensor that a site is part of."""
    return Write(site, rank, ((point(facts, shelf(site), site.layer or 0), hook),))


def write(facts: Facts, edit: Edit, rank: Rank = Rank.EDIT) -> Write:
    """An edit of anything but a pattern."""
    if edit.site.kind == "resid_mid" and facts.block != "post":
        return _write_resid_mid(facts, edit, rank)
    if edit.site.kind == "router":
        return at(facts, edit.site, rank, _write_router(edit, facts))
    return at(facts, edit.site, rank, _write(edit, index_of(facts, edit.site)))


def by_token(
    weights: Float[Tensor, "token expert"], rows: torch.Size, facts: Facts
) -> Float[Tensor, "batch pos expert"]:
    """The weights of experts, which the bridge shows with all tokens of some rows in one.

    Raises:
        Unsupported: it shows something else at that point.
    """
    if weights.shape != (rows.numel(), facts.n_experts):
        raise Unsupported(
            f"TransformerLens shows {list(weights.shape)} numbers where the weights of "
            f"{facts.n_experts} experts for {rows.numel()} tokens are looked for: its adapter "
            f"takes the router of {facts.architecture} for another. Use engine='replay' where that "
            "serves the model."
        )
    return weights.view(*rows, -1)


def _write_router(edit: Edit, facts: Facts) -> Hook:
    """The bridge hands on the largest weights of each token, as many as the model runs."""

    def write(weights: Tensor) -> Tensor:
        new = written(edit, None, by_token(weights, edit.mask.shape, facts)).view(weights.shape)
        top, most = (int((x != 0).sum(-1).max()) for x in (weights, new))
        if most > top or bool((new < 0).any()):
            raise Unsupported(
                f"'{edit.site}' was written with {most} experts for one token, the least of weight "
                f"{new.min().item():.3g}, and TransformerLens hands on the {top} of largest "
                "weight: the others would be left out. Use engine='replay' where that serves the "
                "model, or write so many, of positive weight."
            )
        return new

    return write


def _write(edit: Edit, index: int | None) -> Hook:
    return lambda activation: written(edit, index, activation)


def written(edit: Edit, index: int | None, activation: Tensor) -> Tensor:
    """The activation with one entry of its third axis edited, or all of it."""
    everywhere = torch.arange(activation.shape[1], device=activation.device)
    window = everywhere.expand(activation.shape[:2])
    if index is None:
        return edit(activation, window)
    changed = activation.clone()
    changed[:, :, index] = edit(activation[:, :, index], window)
    return changed


def _write_resid_mid(facts: Facts, edit: Edit, rank: Rank) -> Write:
    """The bridge's resid_mid is only the MLP's input: move the sum through attn_out instead."""
    before: list[Tensor] = []

    def write(attn_out: Tensor) -> Tensor:
        resid = before.pop()
        return written(edit, None, resid + attn_out) - resid

    layer = edit.site.layer or 0
    places = (("resid_pre", noting(before)), ("attn_out", write))
    own = {kind: shelf(replace(edit.site, kind=kind)) for kind, _ in places}
    hooks = ((point(facts, own[kind], layer), hook) for kind, hook in places)
    return Write(edit.site, rank, tuple(hooks))


def index_of(facts: Facts, site: Site) -> int | None:
    """Index on the third axis of the hooked tensor.

    Raises:
        Unsupported: a key or value as one query head of a group reads it.
    """
    if site.kind in ("k", "v") and site.head is not None and facts.group_size > 1:
        raise Unsupported(
            f"hooks cannot reach '{site}', the {site.kind} as one query head of a group reads it: "
            f"{facts.group_size} query heads share the tensor. Use engine='replay', or the group: "
            f"'{site.layer}.kv{site.head // facts.group_size}.{site.kind}'."
        )
    for index in (site.group, site.head, site.neuron):
        if index is not None:
            return index
    return None
