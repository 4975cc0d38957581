"""The two engines behind one call, and which of them serves a model."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable
from weakref import WeakKeyDictionary, WeakSet

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.errors import PairsError, Unsupported, nearest
from interp.core.metrics import Answers, Metric
from interp.core.pairs import Pairs
from interp.core.sites import Kind
from interp.engine import forward, hooks, replay
from interp.engine import trace as tracing
from interp.engine.edits import Edit, take
from interp.engine.interventions import Freeze, Hop
from interp.engine.trace import KEPT, Trace
from interp.engine.weights import Weights, weights_of
from interp.models.model import Model

log = logging.getLogger("interp")
EngineName = Literal["auto", "replay", "hooks"]
LOGITS_AT_ONCE = 1 << 28
"""Bytes of logits that are held at a time when a metric reads the whole vocabulary."""


@dataclass(frozen=True, eq=False)
class Score:
    """A metric for the rows of a block: which logits it reads, and what it makes of them."""

    metric: Metric
    answers: Answers
    read: Int[Tensor, " batch"]

    @property
    def columns(self) -> Int[Tensor, "batch columns"] | None:
        """Vocabulary columns that are read; None for all."""
        if self.metric.reads == "vocabulary":
            return None
        return torch.stack([self.answers.correct, self.answers.wrong], 1)

    def __call__(
        self, logits: Float[Tensor, "cells batch columns"]
    ) -> Float[Tensor, "cells batch"]:
        return self.metric(logits, self.answers)

    def of(self, logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, "1 batch"]:
        """The metric of full logits."""
        index = self.read[:, None, None].expand(-1, 1, logits.shape[-1])
        at_read = logits.gather(1, index)[:, 0]
        columns = self.columns
        return self((at_read if columns is None else at_read.gather(1, columns))[None])


@runtime_checkable
class Engine(Protocol):
    """What can trace a run, read logits off it, and run cells of interventions."""

    @property
    def name(self) -> Literal["replay", "hooks"]: ...

    def trace(self, tokens: Int[Tensor, "batch pos"], *, keep: Sequence[Kind]) -> Trace: ...

    def logits(self, run: Trace, read: Int[Tensor, " batch"]) -> Float[Tensor, "batch d_vocab"]: ...

    def plain(self, run: Trace, score: Score) -> Float[Tensor, " batch"]: ...

    def patterns(
        self, tokens: Int[Tensor, "batch pos"], layers: Sequence[int]
    ) -> dict[int, Float[Tensor, "batch head query key"]]: ...

    def run(
        self,
        base: Trace,
        tokens: Int[Tensor, "batch pos"],
        cells: Sequence[Sequence[Edit]],
        *,
        hop: Hop | None,
        receiving: Int[Tensor, "batch window"],
        start: int,
        score: Score,
    ) -> Float[Tensor, "cells batch"]: ...


@dataclass(frozen=True, eq=False)
class Replay:
    """Stacked cells over shared weights; see `interp.engine.replay`."""

    weights: Weights
    name: Literal["replay"] = "replay"

    def trace(self, tokens: Int[Tensor, "batch pos"], *, keep: Sequence[Kind] = KEPT) -> Trace:
        return tracing.trace(self.weights, tokens, keep=keep)

    def logits(self, run: Trace, read: Int[Tensor, " batch"]) -> Float[Tensor, "batch d_vocab"]:
        return forward.unembed(self.weights, take(run.final, read[:, None])[None, :, 0])[0]

    def plain(self, run: Trace, score: Score) -> Float[Tensor, " batch"]:
        return self._score(take(run.final, score.read[:, None])[None, :, 0], score)[0]

    def patterns(
        self, tokens: Int[Tensor, "batch pos"], layers: Sequence[int]
    ) -> dict[int, Float[Tensor, "batch head query key"]]:
        run = tracing.trace(self.weights, tokens, keep=("q", "k"))
        return {layer: tracing.pattern(self.weights, run, layer) for layer in layers}

    def run(
        self,
        base: Trace,
        tokens: Int[Tensor, "batch pos"],
        cells: Sequence[Sequence[Edit]],
        *,
        hop: Hop | None,
        receiving: Int[Tensor, "batch window"],
        start: int,
        score: Score,
    ) -> Float[Tensor, "cells batch"]:
        """The metric of each cell: one wave, or two for a path that ends before the logits."""
        read = score.read[:, None]
        batch, pos = tokens.shape
        after = torch.arange(start, pos, device=tokens.device).expand(batch, -1)
        if hop is not None:
            logits = hop.receivers[0].kind == "logits"
            arrived = replay.wave(
                self.weights,
                base,
                cells,
                window=receiving,
                read=read,
                through=hop.through,
                receivers=() if logits else hop.receivers,
            )
            if arrived.final is not None:
                return self._score(arrived.final[:, :, 0], score)
            cells = _receivers_set(base, arrived, len(cells), receiving)
        final = replay.wave(self.weights, base, cells, window=after, read=read).final
        assert final is not None
        return self._score(final[:, :, 0], score)

    def _score(
        self, final: Float[Tensor, "cells batch d_model"], score: Score
    ) -> Float[Tensor, "cells batch"]:
        columns = score.columns
        wide = self.weights.facts.d_vocab if columns is None else columns.shape[1]
        size = max(1, LOGITS_AT_ONCE // (final.shape[1] * wide * final.element_size()))
        parts = [forward.unembed(self.weights, part, columns) for part in final.split(size)]
        return torch.cat([score(part) for part in parts])


def _receivers_set(
    base: Trace, arrived: replay.Arrived, n: int, receiving: Int[Tensor, "batch window"]
) -> list[list[Edit]]:
    """For each cell the edits that give its receivers what arrived at them."""
    edits: list[list[Edit]] = [[] for _ in range(n)]
    for site, (reached, values) in arrived.received.items():
        held = base.at(site)
        mask = held.new_zeros(held.shape[:2], dtype=torch.bool).scatter(1, receiving, True)
        index = receiving[(...,) + (None,) * (held.ndim - 2)].expand(
            *receiving.shape, *held.shape[2:]
        )
        for cell, value in zip(reached, values, strict=True):
            edits[cell].append(Edit(site, Freeze(), mask, held.scatter(1, index, value)))
    return edits


@dataclass(frozen=True, eq=False)
class Hooks:
    """One full forward a cell; see `interp.engine.hooks`."""

    model: Model
    name: Literal["hooks"] = "hooks"

    def trace(self, tokens: Int[Tensor, "batch pos"], *, keep: Sequence[Kind] = KEPT) -> Trace:
        return hooks.trace(self.model, tokens, keep=keep)

    def logits(self, run: Trace, read: Int[Tensor, " batch"]) -> Float[Tensor, "batch d_vocab"]:
        assert run.logits is not None
        return take(run.logits, read[:, None])[:, 0]

    def plain(self, run: Trace, score: Score) -> Float[Tensor, " batch"]:
        assert run.logits is not None
        return score.of(run.logits)[0]

    def patterns(
        self, tokens: Int[Tensor, "batch pos"], layers: Sequence[int]
    ) -> dict[int, Float[Tensor, "batch head query key"]]:
        return hooks.patterns(self.model, tokens, layers)

    def run(
        self,
        base: Trace,
        tokens: Int[Tensor, "batch pos"],
        cells: Sequence[Sequence[Edit]],
        *,
        hop: Hop | None,
        receiving: Int[Tensor, "batch window"],
        start: int,
        score: Score,
    ) -> Float[Tensor, "cells batch"]:
        """The metric of each cell, one after the other."""
        runs = (hooks.run(self.model, base, tokens, edits, hop, receiving) for edits in cells)
        return torch.cat([score.of(logits) for logits in runs])


_VERIFIED: WeakKeyDictionary[Model, Replay | str] = WeakKeyDictionary()
_SAID: WeakSet[Model] = WeakSet()


def accept(model: Model, pairs: Pairs, *, logits: bool = True) -> None:
    """Refuse pairs that the model cannot run.

    Raises:
        Unsupported: logits are read and the model has none.
        PairsError: ids outside the vocabulary, or prompts longer than the positions learned.
    """
    facts = model.facts
    if logits and not facts.language_model:
        raise Unsupported(
            f"{model.name} has no trained language-model head, so there are no logits for a metric "
            f"to read. Load a model with one. ({facts})"
        )
    for name in ("clean", "corrupt", "correct", "wrong"):
        ids: Tensor = getattr(pairs, name)
        bad = ((ids < 0) | (ids >= facts.d_vocab)).nonzero().tolist()
        if bad:
            raise PairsError(
                f"row {bad[0][0]} of {name} has token {int(ids[tuple(bad[0])])}, and the model's "
                f"vocabulary ends at {facts.d_vocab - 1}. Were the pairs made with another model's "
                "tokenizer?"
            )
    longest = int(pairs.lengths.max())
    if facts.positions == "learned" and longest > facts.n_ctx:
        raise PairsError(
            f"row {int(pairs.lengths.argmax())} has {longest} tokens, and the model has learned "
            f"positions for {facts.n_ctx}. Shorten the prompts."
        )


def choose(model: Model, engine: EngineName = "auto") -> Engine:
    """The engine that serves a model: replay where it is verified, else hooks, saying so once.

    Raises:
        ModelError: a submodule is in training mode.
        Unsupported: replay was asked for by name and cannot serve.
    """
    model.require_eval()
    if engine not in ("auto", "replay", "hooks"):
        raise Unsupported(
            f"unknown engine {engine!r}; {nearest(str(engine), ('auto', 'replay', 'hooks'))}"
        )
    if engine == "hooks":
        return Hooks(model)
    found = _VERIFIED.get(model) or _VERIFIED.setdefault(model, _verify(model))
    if isinstance(found, Replay):
        return found
    if engine == "replay":
        raise Unsupported(found)
    if model not in _SAID:
        _SAID.add(model)
        log.warning("%s Running through hooks, one forward for each intervention.", found)
    return Hooks(model)


@torch.inference_mode()
def _verify(model: Model) -> Replay | str:
    """Replay, if its logits and residual streams equal the bridge's on a small batch."""
    try:
        engine = Replay(weights_of(model))
    except Unsupported as refusal:
        return str(refusal)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.facts.d_vocab, (2, 7), generator=generator).to(model.device)
    ours, theirs = engine.trace(tokens), Hooks(model).trace(tokens)
    everywhere = torch.arange(7, device=tokens.device)
    assert theirs.logits is not None
    pairs = {
        f"{layer}.{kind}": (a, b)
        for kind in ("resid_pre", "resid_mid")
        for layer, (a, b) in enumerate(zip(ours.kept[kind], theirs.kept[kind], strict=True))
    }
    pairs["the final residual stream"] = ours.final, theirs.final
    logits = forward.unembed(engine.weights, ours.final.flatten(0, 1)[None])
    pairs["the logits"] = logits.view(2, len(everywhere), -1), theirs.logits
    # float32 ends up near 1e-6 of the largest value, float64 near 1e-15
    tolerance = 1e3 * torch.finfo(model.dtype).eps
    for name, (a, b) in pairs.items():
        error = (a - b).abs().max().item() / max(1.0, b.abs().max().item())
        if not error <= tolerance:
            return (
                f"the replay engine does not reproduce {name} of this {model.facts.architecture}: "
                f"relative error {error:.1e}, tolerance {tolerance:.1e}."
            )
    return engine
