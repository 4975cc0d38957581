"""Is an engine right on a model? Each is held against Hugging Face's own numbers, as they are now.

Layer by layer: what enters a layer of Hugging Face's model is given to the engine's, and what its
attention and its MLP write, and what leaves it, is compared, each with its own size. So a part that
is wrong shows however small it is, and rounding does not add up from layer to layer: in any
precision an engine that is right is off by a few units in the last place. With the embedding and
what the output makes of the last layer that is the whole model, by induction.

An option may matter only in rows that are long enough (a sliding window, stretched angles). So rows
are verified that are longer than any such length that the rows of a call reach.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.core.parts.facts import Facts
from interp.core.parts.sites import Site
from interp.core.prompts.patches import random_images
from interp.engine.engines.hooked.writes import Rank, Write, at, noting, start_of
from interp.engine.engines.hooked.writes import forward as run_bridge
from interp.engine.engines.recurrent.engine import walk
from interp.engine.engines.recurrent.lstm import recurrence_of
from interp.engine.network import forward
from interp.engine.network.stacks import Stacks
from interp.engine.network.trace import through
from interp.engine.network.weights import Weights
from interp.models.bridge.placed import listening
from interp.models.bridge.precision import rounding
from interp.models.model import Model
from interp.models.now.checks import output_of

SHORT = 8
"""Tokens in a row that is verified, where nothing asks for more."""
FREE = 64
"""Lengths up to this are always passed: a row of so many tokens costs nothing."""
WORDS = ("window", "position", "chunk", "context", "length", "ctx", "seq", "distance")
"""What settings are called that can make a long row another matter than a short one."""
PARTS = {"attention": "attn.o", "MLP": "mlp.out"}
"""What writes to the residual stream, and the bridge's component that does."""
WRITING = {
    "encoder": {"attn_out": "attn.o", "mlp_out": "mlp.out"},
    "decoder": {
        "attn_out": "self_attn.o",
        "cross.attn_out": "cross_attn.o",
        "mlp_out": "mlp.out",
    },
}
"""The same in the layers of two stacks, by the shelf of what is written."""


@dataclass(frozen=True)
class Gap:
    """How far something is from what Hugging Face computes, relative to its size."""

    name: str
    error: float
    tolerance: float

    def __str__(self) -> str:
        size = f"{self.error:.1e} times its size (tolerance {self.tolerance:.0e})"
        return f"{self.name} is off by {size}"


Parts = Mapping[str, list[tuple[str, nn.Module]]]
"""By the name of a part: Hugging Face's name of what writes in each layer, and that itself."""
Shown = tuple[str, Tensor, Tensor]
"""What is compared: its name, the engine's and Hugging Face's."""


@torch.no_grad()
def replay_gap(model: Model, w: Weights, length: int) -> Gap | None:
    """Where replay is farthest from Hugging Face in rows of a length, if that is too far."""
    return _worst(_of_replay(model, w, _rows(model, length)), model)


@torch.no_grad()
def stacks_gap(model: Model, s: Stacks, length: int) -> Gap | None:
    """The same of an encoder-decoder, of which both stacks read rows of that length."""
    return _worst(_of_stacks(model, s, _rows(model, length), _rows(model, length, seed=1)), model)


@torch.no_grad()
def bridge_gap(model: Model, length: int) -> Gap | None:
    """Where the bridge is farthest from Hugging Face in rows of a length, if that is too far.

    With hooks and adapters that were put on it; hooks on its own hook points are lifted.
    """
    with model.live.bare():
        return _worst(_of_bridge(model, _rows(model, length)), model)


@torch.no_grad()
def recurrent_gap(model: Model, length: int) -> Gap | None:
    """How far the unrolled cells are from the model's own run, if that is too far."""
    tokens = _rows(model, length)
    cells = recurrence_of(model)
    ours = cells.logits(walk(cells, tokens, lambda *_: None))
    theirs = output_of(model.bridge, tokens, language_model=True)
    return _worst(iter([("what it gives", ours, theirs)]), model)


def _worst(shown: Iterator[Shown], model: Model) -> Gap | None:
    tolerance = rounding(model.dtype)
    worst = Gap("nothing", 0.0, tolerance)
    for name, ours, theirs in shown:
        ours, theirs = ours.double(), theirs.to(ours.device).double()
        # damaged weights are no fault of an engine; a run says where a number is none
        known = theirs.isfinite() | ours.isfinite()
        off, largest = (ours - theirs)[known].abs(), theirs[theirs.isfinite()].abs()
        error = _max(off) / max(_max(largest), 1e-30)
        if not error <= worst.error:  # NaN is the worst
            worst = Gap(name, error, tolerance)
    return None if worst.error <= tolerance else worst


def _max(numbers: Float[Tensor, " any"]) -> float:
    return numbers.max().item() if len(numbers) else 0.0


def _of_replay(model: Model, w: Weights, tokens: Int[Tensor, "batch pos"]) -> Iterator[Shown]:
    streams, parts, end = _streams(model), _parts(model), last_norm(model)
    truth = model.truth.run(tokens, note=_noted(streams, parts, end))
    said = truth.noted
    yield "the embedding", forward.embed(w, tokens), said[streams[0]]
    turn = forward.rotations(w, tokens.shape[1])
    for layer, name in enumerate(streams):
        held: dict[str, Tensor] = {}
        resid = forward.wide(said[name])
        after = through(w, layer, resid, turn, _keeping(held))
        block = w.blocks[layer]
        for part, kind, ends, made in (
            ("attention", "attn_out", block.attention.ends, block.attention.o),
            ("MLP", "mlp_out", block.mlp.ends, block.mlp.down),
        ):
            if places := parts[part]:
                wrote = said[places[layer][0]].view(resid.shape)
                wrote = wrote if made.gain == 1 else made.gain * wrote
                yield f"what {part} {layer} writes", held[kind], forward.norm(wrote, ends.write)
        if layer + 1 < len(streams):
            yield f"what leaves layer {layer}", after, said[streams[layer + 1]]
        elif w.unembed is None and end:
            yield f"what leaves layer {layer}", after, said[end]
        else:
            yield "the output", output(w, after), truth.output


def _of_stacks(
    model: Model, s: Stacks, tokens: Int[Tensor, "batch pos"], written: Int[Tensor, "batch pos"]
) -> Iterator[Shown]:
    stacks = {"encoder": model.bridge.encoder_blocks, "decoder": model.bridge.decoder_blocks}
    streams = {of: [model.truth.name_of(block) for block in stacks[of]] for of in stacks}
    parts = {
        (of, kind): [model.truth.name_of(attrgetter(path)(block)) for block in blocks]
        for of, blocks in stacks.items()
        for kind, path in WRITING[of].items()
    }
    # the first key's projection is handed what all of them read of the encoder
    read = model.truth.name_of(stacks["decoder"][0].cross_attn.k)
    heard = dict.fromkeys([read, *chain.from_iterable(streams.values())], "in")
    heard |= dict.fromkeys(chain.from_iterable(parts.values()), "out")
    truth = model.truth.run(tokens, note=heard, decoder_input_ids=written)
    said = truth.noted
    for of, w, ids in (("encoder", s.encoder, tokens), ("decoder", s.decoder, written)):
        yield f"the {of}'s embedding", forward.embed(w, ids), said[streams[of][0]]
        turn = forward.rotations(w, ids.shape[1])
        memory = forward.wide(said[read]) if of == "decoder" else None
        for layer, name in enumerate(streams[of]):
            held: dict[str, Tensor] = {}
            resid = forward.wide(said[name])
            after = through(w, layer, resid, turn, _keeping(held), memory=memory)
            for kind in WRITING[of]:
                wrote = said[parts[of, kind][layer]].view(resid.shape)
                yield f"the {kind} of layer {layer} of the {of}", held[kind], wrote
            if layer + 1 < len(streams[of]):
                left = said[streams[of][layer + 1]]
                yield f"what leaves layer {layer} of the {of}", after, left
            elif of == "encoder":
                yield "what the decoder reads", forward.norm(after, s.norm), said[read]
            else:
                yield "the output", output(w, after), truth.output


def _of_bridge(model: Model, tokens: Int[Tensor, "batch pos"]) -> Iterator[Shown]:
    foreign = model.now().foreign
    if model.facts.n_encoder_layers:
        start = tokens.new_full((len(tokens), 1), start_of(model))
        truth = model.truth.run(tokens, foreign=foreign, decoder_input_ids=start)
        yield "the output", _output(model, tokens, [])[0], truth.output
        return
    streams, parts, end = _streams(model), _parts(model), last_norm(model)
    truth = model.truth.run(tokens, note=_noted(streams, parts, end), foreign=foreign)
    said, noted, writes = truth.noted, {}, list[Write]()
    for layer, name in enumerate(streams):
        site, store = Site("resid_pre", layer), list[Tensor]()
        noted[name] = store
        writes.append(at(model.facts, site, Rank.NOTE, noting(store)))
        writes.append(at(model.facts, site, Rank.EDIT, _giving(said[name])))
    with ExitStack() as stack:
        for name, module in chain.from_iterable(parts.values()):
            noted[name] = list[Tensor]()
            # last of all hooks: also behind those that are the user's
            stack.enter_context(listening(module, _hearing(noted[name])))
        out, _ = _output(model, tokens, writes)
    for layer, name in enumerate(streams):
        what = f"what leaves layer {layer - 1}" if layer else "the embedding"
        yield what, noted[name][0], said[name]
    for part, places in parts.items():
        for layer, (name, _) in enumerate(places):
            yield f"what {part} {layer} writes", noted[name][0].view_as(said[name]), said[name]
    yield "the output", out, said[end] if end and not model.facts.language_model else truth.output


def last_norm(model: Model) -> str:
    """Hugging Face's name of the norm after the last layer; none where the blocks end in one."""
    norm = getattr(model.bridge, "ln_final", None)
    if norm is None or model.facts.block == "post":
        return ""
    return model.truth.name_of(norm)


def _noted(streams: Sequence[str], parts: Parts, end: str) -> dict[str, str]:
    """What is heard of Hugging Face's modules: what enters a layer, what a part writes."""
    wrote = [name for name, _ in chain.from_iterable(parts.values())]
    return {**dict.fromkeys([*streams, *filter(None, [end])], "in"), **dict.fromkeys(wrote, "out")}


def _output(
    model: Model,
    tokens: Int[Tensor, "batch pos"],
    writes: Sequence[Write],
) -> tuple[Tensor, Tensor]:
    logits, final = run_bridge(model, tokens, writes)
    return (final if logits is None else logits), final


def _keeping(held: dict[str, Tensor]) -> Callable[[str, int, Tensor], None]:
    return lambda kind, layer, value: held.update({kind: value})


def _hearing(into: list[Tensor]) -> Any:
    def hear(module: nn.Module, args: Any, made: Any) -> None:
        into.append((made[0] if isinstance(made, tuple) else made).clone())

    return hear


def _giving(value: Tensor) -> Any:
    return lambda activation: value.to(activation.dtype)


def output(w: Weights, final: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos out"]:
    """Logits of the last residual stream, or that itself where there is no head."""
    if w.unembed is None:
        return final
    return forward.unembed(w, final.flatten(0, 1)[None]).view(*final.shape[:2], -1)


def _streams(model: Model) -> list[str]:
    """Hugging Face's names of the layers."""
    return [model.truth.name_of(block) for block in model.bridge.blocks]


def _parts(model: Model) -> Parts:
    """What writes in each layer; nothing where one has no such part."""
    new = [one for one in model.now().foreign if one.what == "module"]
    standing = list(model.truth.standing(new).values())
    return {part: _named(model, path, standing) for part, path in PARTS.items()}


def _named(
    model: Model, path: str, standing: Sequence[tuple[str, nn.Module | None]]
) -> list[tuple[str, nn.Module]]:
    found = []
    for block in model.bridge.blocks:
        module: Any = block
        above: Any = None
        for name in path.split("."):
            above, module = module, getattr(module, name, None)
        if module is None and path.startswith("mlp"):
            module = above  # experts have no projection in common
        if module is None or (path.startswith("mlp") and not model.facts.d_mlp):
            return []
        name = model.truth.name_of(module)
        # what is new may stand in its place, or around it
        new = (at for at in standing if name == at[0] or name.startswith(f"{at[0]}."))
        found.append(next(new, (name, module)))
    return found


def _rows(model: Model, length: int, seed: int = 0) -> Int[Tensor, "batch pos"]:
    """Two rows of random tokens; of a great length one.

    Of tokens whose embedding is damaged none, where there are others: beside numbers of that size
    no other would count.
    """
    rows = 1 if length > FREE + 2 else 2
    if model.facts.image is not None:
        return random_images(model.facts.image, rows, seed)[0].to(model.device)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(model.facts.d_vocab, (4 * rows * length,), generator=generator)
    drawn = drawn.to(model.device)
    embed = getattr(model.bridge, "embed", None)
    weight = None if embed is None else next(embed.parameters(), None)
    if weight is not None and len(weight) >= model.facts.d_vocab:
        size = weight.detach()[drawn].abs().amax(-1).double()
        fine = size <= 100 * size.nanmedian()
        drawn = torch.cat([drawn[fine], drawn[~fine]])
    return drawn[: rows * length].view(rows, length)


def length_for(facts: Facts, lengths: Sequence[int], longest: int) -> int:
    """Tokens in the rows that must be verified before rows of `longest` tokens are served.

    `lengths`: those at which something may begin to matter.
    """
    if facts.image is not None:
        return facts.n_ctx  # all rows are
    # the longest row that a model is made for is passed only by whoever passes it
    few = [n for n in lengths if n <= FREE and (n < facts.n_ctx or longest > n)]
    wanted = max([SHORT, *(n + 2 for n in few)])
    if any(FREE < n < longest for n in lengths):
        wanted = longest
    return wanted if longest > facts.n_ctx else min(wanted, facts.n_ctx)


def lengths_of(model: Model, w: Weights | Stacks | None = None) -> list[int]:
    """The lengths at which the model's configuration, or replay, may treat a row otherwise."""
    config = getattr(model.bridge.original_model, "config", None)
    found = set() if config is None else set(_numbers(vars(config), ""))
    if isinstance(w, Weights):
        found |= {b.attention.window for b in w.blocks if b.attention.window is not None}
    return sorted(n for n in found if n > 1)


def _numbers(value: Any, name: str) -> Iterator[int]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _numbers(item, f"{name} {key}")
    elif isinstance(value, int) and not isinstance(value, bool):
        if any(word in name for word in WORDS):
            yield value
    elif name and hasattr(value, "to_dict"):  # a configuration inside of one
        yield from _numbers(vars(value), name)
