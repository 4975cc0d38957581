"""The residual streams along which gradients are taken: one, or an encoder's and a decoder's.

Each has its own positions, writers and layers. What passes from the one to the other are the keys
and values of cross-attention, which read the encoder's last stream, normed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.core.errors import Unsupported
from interp.core.parts.graph import Graph
from interp.engine.engines.protocol import Written, begun
from interp.engine.engines.replay.engine import Replay
from interp.engine.engines.replay.two import ReplayOfTwo
from interp.engine.gradients.norms import pulled, pushed
from interp.engine.gradients.tape import After, Slopes, Tape, Taped, back, tape
from interp.engine.network import forward
from interp.engine.network.ablated import Ablated
from interp.engine.network.weights import Weights, maps
from interp.engine.plan.score import Score

Differentiable = Replay | ReplayOfTwo


@dataclass(frozen=True, eq=False)
class Stream:
    """One residual stream.

    Attributes:
        clean: what enters its first layer in the clean run.
        ablated: what ablation sets each writer to.
        places: the positions that each part of the result is about.
        writers, readers: where the graph has the first of those that stand in it.
        before: layers of the streams before it.
    """

    w: Weights
    clean: Float[Tensor, "batch pos d_model"]
    ablated: Ablated
    places: Bool[Tensor, "place batch pos"]
    writers: int = 0
    readers: int = 0
    before: int = 0

    @classmethod
    def after(
        cls,
        others: Sequence["Stream"],
        w: Weights,
        clean: Float[Tensor, "batch pos d_model"],
        ablated: Ablated,
        places: Bool[Tensor, "place batch pos"],
    ) -> "Stream":
        """The first, or that which comes after others."""
        if not others:
            return cls(w, clean, ablated, places)
        last = others[-1]
        n = last.w.facts.n_layers
        readers = last.lines(n)[0][0].start
        return cls(w, clean, ablated, places, last.whole.stop, readers, last.before + n)

    @property
    def attentions(self) -> int:
        """How many a layer has."""
        return 1 + (self.w.blocks[0].cross is not None)

    @property
    def whole(self) -> slice:
        """All its writers."""
        beyond, _ = self.columns(self.w.facts.n_layers)
        return slice(self.writers, beyond[0].start)

    def columns(self, layer: int) -> tuple[list[slice], slice]:
        """Where the graph has the heads of each attention of a layer, and its MLP, as writers."""
        facts, n = self.w.facts, self.attentions
        start = self.writers + 1 + layer * (n * facts.n_heads + bool(facts.d_mlp))
        return _cut(start, n, facts.n_heads, mlp=bool(facts.d_mlp))

    def lines(self, layer: int) -> tuple[list[slice], slice]:
        """... and the queries, keys and values of each attention, and the MLP, as readers."""
        facts, n = self.w.facts, self.attentions
        inputs = facts.n_heads + 2 * facts.n_kv_heads
        start = self.readers + layer * (n * inputs + bool(facts.d_mlp))
        return _cut(start, n, inputs, mlp=bool(facts.d_mlp))


def _cut(start: int, times: int, size: int, *, mlp: bool) -> tuple[list[slice], slice]:
    end = start + times * size
    each = [slice(i, i + size) for i in range(start, end, size)]
    return each, slice(end, end + mlp)


def weights_in(engine: Differentiable) -> tuple[Weights, ...]:
    """Of each stack."""
    if isinstance(engine, Replay):
        return (engine.weights,)
    return engine.stacks.encoder, engine.stacks.decoder


def read_by(
    engine: Differentiable, tokens: Int[Tensor, "batch pos"], written: Written
) -> tuple[Int[Tensor, "batch _"], ...]:
    """What each stack reads."""
    if isinstance(engine, Replay):
        return (tokens,)
    return tokens, begun(engine.stacks.start, tokens, written)


class Step(NamedTuple):
    """A layer on the way back.

    Attributes:
        stream: the number of that which it stands in.
    """

    stream: int
    taped: Taped
    slopes: Slopes


@dataclass(frozen=True, eq=False)
class Estimated:
    """Rows of one extent, to be estimated.

    Attributes:
        graph: of the model.
        room: bytes that what writers write and readers' gradients may take at a time.
        graphs: are those of all layers held?
    """

    engine: Differentiable
    score: Score
    streams: tuple[Stream, ...]
    graph: Graph
    room: int
    graphs: bool

    @property
    def last(self) -> Stream:
        """That which the logits read."""
        return self.streams[-1]

    @property
    def batch(self) -> int:
        return len(self.last.clean)

    @property
    def layers(self) -> int:
        return sum(stream.w.facts.n_layers for stream in self.streams)

    def zeros(self, *axes: int) -> Tensor:
        """`place batch *axes`, where the results are."""
        return self.last.clean.new_zeros(len(self.last.places), self.batch, *axes)

    def run(self, enters: Sequence[Float[Tensor, "batch _ d_model"]]) -> tuple[Tape, ...]:
        """All layers, taped: of each stream what enters it."""
        run = list[Tape]()
        for stream, resid in zip(self.streams, enters, strict=True):
            memory = self.normed(run[0].final) if run else None
            run.append(tape(stream.w, resid, memory=memory, graphs=self.graphs))
        return tuple(run)

    def onward(
        self,
        clean: tuple[Tape, ...],
        number: int,
        resid: Float[Tensor, "batch pos d_model"],
        start: int,
        *,
        z: Float[Tensor, "batch pos head d_head"] | None = None,
        cross: bool = False,
    ) -> tuple[Tape, ...]:
        """The layers of a stream from `start` on, and all of those after it; before, as in a run.

        Args:
            resid, z, cross: as in `tape`.
        """
        w = self.streams[number].w
        memory = self.normed(clean[0].final) if number else None
        own = tape(w, resid, start=start, z=z, cross=cross, memory=memory, graphs=self.graphs)
        run = [*(Tape((), one.final) for one in clean[:number]), own]
        for stream in self.streams[number + 1 :]:
            memory = self.normed(run[0].final)
            run.append(tape(stream.w, stream.clean, memory=memory, graphs=self.graphs))
        return tuple(run)

    def normed(
        self, encoded: Float[Tensor, "batch key d_model"]
    ) -> Float[Tensor, "batch key d_model"]:
        """What a decoder reads of the encoder's last stream."""
        assert isinstance(self.engine, ReplayOfTwo)
        return forward.norm(encoded, self.engine.stacks.norm)

    def into_encoder(
        self,
        encoded: Float[Tensor, "batch key d_model"],
        memory: Float[Tensor, "batch several key d_model"],
    ) -> Float[Tensor, "batch several key d_model"]:
        """Gradients at what a decoder reads, taken back to the encoder's last stream."""
        assert isinstance(self.engine, ReplayOfTwo)
        return pulled(encoded, self.engine.stacks.norm, memory.to(encoded.device))

    def out_of_encoder(
        self,
        encoded: Float[Tensor, "batch key d_model"],
        change: Float[Tensor, "batch several key d_model"],
    ) -> Float[Tensor, "batch several key d_model"]:
        """Small changes of the encoder's last stream, as a decoder reads them."""
        assert isinstance(self.engine, ReplayOfTwo)
        return pushed(encoded, self.engine.stacks.norm, change)

    def across(self, run: tuple[Tape, ...], afters: Sequence[After]) -> list[After]:
        """Gradients before the first layer of a decoder, as those after the encoder's last."""
        encoded = run[0].final
        none = torch.zeros_like(encoded)
        held = [none if after.memory is None else after.memory.to(none) for after in afters]
        return [After(g) for g in self.into_encoder(encoded, torch.stack(held, 1)).unbind(1)]

    def sweep(
        self, run: tuple[Tape, ...], after: Float[Tensor, "batch pos d_model"]
    ) -> Iterator[Step]:
        """Back through the layers of a run."""
        now = After(after)
        for number in reversed(range(len(run))):
            for taped in reversed(run[number].layers):
                (slopes,) = back(self.streams[number].w, taped, [now])
                yield Step(number, taped, slopes)
                now = After(slopes.resid, slopes.memory)
            if number and run[0].layers:
                (now,) = self.across(run, [now])


def require_sums(w: Weights, name: str) -> None:
    """Refuse a model whose residual stream is no sum of what was written.

    Raises:
        Unsupported: the norms stand on the sums, or modules round what enters them.
    """
    if any(b.attention.ends.sum or b.mlp.ends.sum for b in w.blocks):
        raise Unsupported(
            f"{name} norms its residual stream after every sum (post-norm), so the stream is no "
            "sum of writes and an edge has no linear term of its own; edge attribution is defined "
            "for pre-norm models (Hanna et al. 2024, sec. 2). Measure the effects instead: "
            "interp.causal.exact."
        )
    for one in maps(w):
        one.require_additive(
            "what is rounded in steps has no slope, so there is nothing to attribute by"
        )


def some(
    x: Float[Tensor, "batch pos *axes"], part: Int[Tensor, " some"] | None
) -> Float[Tensor, "batch some *axes"]:
    """Some positions of all rows; None is all."""
    return x if part is None else x.index_select(1, part.to(x.device))
