"""Decode prompts under sets of interventions, those of one length together, as memory allows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from interp.core.errors import ModelError
from interp.core.parts.sites import Kind, Site
from interp.core.prompts.pairs import Pairs, Side
from interp.engine.decode.beams import search
from interp.engine.decode.cached import Cached
from interp.engine.decode.checks import Sets, require_finite, require_sets, require_speech
from interp.engine.decode.choosing import Chooser, How, seeds
from interp.engine.decode.edits import Lasting, Resolver
from interp.engine.decode.recomputed import Recomputed
from interp.engine.decode.stopping import Stop
from interp.engine.engines.choose import choose
from interp.engine.engines.hooked.writes import start_of
from interp.engine.engines.protocol import Engine, EngineName, begun
from interp.engine.engines.replay.engine import Replay
from interp.engine.engines.replay.two import ReplayOfTwo
from interp.engine.interventions import Averaged
from interp.engine.limits import Limits
from interp.engine.network.trace import KEPT, Trace
from interp.engine.plain.means.means import MeanReference, taken
from interp.engine.plan.batches import forward_plan
from interp.engine.plan.explain import proceed
from interp.engine.plan.memory import SWEEP, Memory, budget, require
from interp.engine.plan.positions import blocks, ids_of, lengths_in
from interp.models.model import Model


@dataclass(frozen=True, eq=False)
class Asked:
    """What is to be said.

    Attributes:
        sets: the interventions that are made together, by name.
        n: tokens that are said at most.
        kl: are whole distributions compared at each step?
    """

    model: Model
    pairs: Pairs
    sets: Sets
    n: int
    how: How
    stop: Stop
    engine: EngineName = "auto"
    memory: Memory = None
    kl: bool = False


@dataclass(frozen=True, eq=False)
class Said:
    """What was said: by set and prompt.

    Attributes:
        tokens: 0 behind the end.
        length: how many were said.
        ended: did it stop by itself, and not after n tokens?
        log_probs, plain: of each token under the interventions, and of the plain model that reads
            the same text; NaN behind the end.
        kl: from the plain model's distribution to that under the interventions, in nats, where it
            was asked for.
        engine: that ran.
    """

    tokens: Int[np.ndarray, "sets batch n"]
    length: Int[np.ndarray, "sets batch"]
    ended: Bool[np.ndarray, "sets batch"]
    log_probs: Float[np.ndarray, "sets batch n"]
    plain: Float[np.ndarray, "sets batch n"]
    kl: Float[np.ndarray, "sets batch n"] | None
    engine: str


@torch.inference_mode()
def say(asked: Asked) -> Said:
    """Decode.

    Raises:
        ModelError, PairsError, PositionError, SiteError, Unsupported, InterpError: as their names
            say, before anything runs where that can be.
    """
    model, pairs, n = asked.model, asked.pairs, asked.n
    require_speech(model, pairs, n)
    require_sets(model, pairs, asked.sets, n)
    engine = choose(model, asked.engine, longest=pairs.longest + n - 1)
    room = budget(asked.memory, model.device, SWEEP)
    parts = list(_parts(asked, room))
    proceed(
        forward_plan(
            *(model.facts, lengths_in(model.facts, pairs) + n),
            rows=len(pairs),
            runs=len(asked.sets),
            itemsize=model.dtype.itemsize,
            limits=Limits.of(model.device),
            engine=engine.name,
        )
    )
    means = _means(asked, engine)
    shape = len(asked.sets), len(pairs), n
    tokens, length = np.zeros(shape, dtype=np.int64), np.zeros(shape[:2], dtype=np.int64)
    ended = np.zeros(shape[:2], dtype=bool)
    numbers = np.full((3, *shape), np.nan)
    drawn = seeds(asked.how.seed, [_ids(pairs, row) for row in range(len(pairs))])
    with tqdm(
        total=shape[0] * shape[1], desc="generate", unit="text", delay=2, disable=None
    ) as bar:
        for names, rows in parts:
            block = _Block(asked, engine, names, rows, means, [drawn[row] for row in rows])
            at = np.ix_([list(asked.sets).index(name) for name in names], rows)
            tokens[at], length[at], ended[at], numbers[(slice(None), *at)] = block.said()
            bar.update(len(names) * len(rows))
    kl = numbers[2] if asked.kl else None
    return Said(tokens, length, ended, numbers[0], numbers[1], kl, engine.name)


def _ids(pairs: Pairs, row: int) -> list[int]:
    parts = pairs.ids("clean", [row])
    return [i for part in parts if part is not None for i in part[0].tolist()]


def _parts(asked: Asked, room: int) -> Iterator[tuple[list[str], list[int]]]:
    """Sets and rows of one length that are decoded together: as many as the memory holds.

    The least that is held is one set in one prompt.
    """
    model, names = asked.model, list(asked.sets)
    lengths = asked.pairs.lengths
    longest = int(lengths.max()) + asked.n
    what = f"one text of {longest} tokens"
    room = require(_bytes(asked, longest), room, asked.memory, model.device, what)
    for rows in blocks(asked.pairs.extents, len(lengths)):
        one = _bytes(asked, int(lengths[rows[0]]) + asked.n)
        most = max(1, room // one)
        step = max(1, min(len(rows), most))
        for i in range(0, len(rows), step):
            some = rows[i : i + step]
            wide = max(1, most // len(some))
            for j in range(0, len(names), wide):
                yield names[j : j + wide], some


def _bytes(asked: Asked, tokens: int) -> int:
    """About what one text holds: keys, values, logits and what a layer computes of them."""
    facts, size = asked.model.facts, asked.model.dtype.itemsize
    cache = 2 * facts.n_layers * tokens * facts.n_kv_heads * facts.d_head * size
    inside = (tokens - asked.n) * (8 * facts.d_model + 2 * facts.d_mlp) * max(4, size)
    return (2 * cache + inside + 4 * facts.d_vocab * max(4, size)) * asked.how.beams


def _means(asked: Asked, engine: Engine) -> dict[Averaged, MeanReference]:
    wanted: dict[Averaged, set[Site]] = {}
    for made in asked.sets.values():
        for i in made:
            if isinstance(i.value.source, Averaged):
                wanted.setdefault(i.value.source, set()).add(i.site)
    return {
        source: taken(source, asked.model, engine, sites, asked.pairs)
        for source, sites in wanted.items()
    }


@dataclass(frozen=True, eq=False)
class _Block:
    """Some sets in some rows of one length."""

    asked: Asked
    engine: Engine
    names: Sequence[str]
    rows: Sequence[int]
    means: Mapping[Averaged, MeanReference]
    seeds: Sequence[int]

    @property
    def sets(self) -> Sets:
        return {name: self.asked.sets[name] for name in self.names}

    def said(self) -> tuple[np.ndarray, ...]:
        """Tokens, lengths, whether they ended, and log-probabilities and divergences of each."""
        how, stop, n = self.asked.how, self.asked.stop, self.asked.n
        session = self.session(self.rows)
        if how.beams > 1:
            wide = [row for row in self.rows for _ in range(how.beams)]
            tokens, length = search(self.session(wide), how, stop, n)
            log_probs = self._judged(session, tokens[..., : int(length.max())])
            plain, kl = self._compared(session, tokens[..., : int(length.max())])
        else:
            tokens, length, (log_probs, plain, kl) = self._decoded(session)
        after = torch.arange(n, device=tokens.device) >= length[..., None]
        tokens = tokens.masked_fill(after, 0)
        found = torch.stack([_wide(x, n) for x in (log_probs, plain, kl)])
        ended = (length < n) | self._ends(tokens, length)
        parts = tokens, length, ended, found.masked_fill(after, torch.nan)
        return tuple(part.cpu().numpy() for part in parts)

    def _ends(self, tokens: Tensor, length: Tensor) -> Tensor:
        """Do texts of all n tokens end where they would have stopped?"""
        whole = length == self.asked.n
        return whole & (self.asked.stop(tokens) if bool(whole.any()) else False)

    def session(self, rows: Sequence[int]) -> Cached | Recomputed:
        """Texts of these rows, which may be named more than once."""
        asked = self.asked
        model, pairs, n = asked.model, asked.pairs, asked.n
        made = [i for interventions in self.sets.values() for i in interventions]
        kinds: list[Kind] = [i.site.kind for i in made if isinstance(i.value.source, str)]
        kinds = [kind for kind in kinds if kind not in ("embed", "resid_post")]
        keep = tuple(dict.fromkeys((*KEPT, *kinds)))
        index = list(rows)
        sides: tuple[Side, ...] = ("clean", "corrupt")
        tokens = {
            side: ids_of(pairs, side, index, model.device)
            for side in sides
            if side == "clean" or any(i.value.source == side for i in made)
        }
        traces = {side: self.engine.trace(*ids, keep=keep) for side, ids in tokens.items()}
        for side, trace in traces.items():
            if not trace.final.isfinite().all():
                raise ModelError(
                    f"the {side} run of prompts {self.rows[0]} and others holds NaN or infinity. "
                    "Likely the weights are damaged, or the precision is too narrow for this "
                    "model: load it with dtype=torch.float32."
                )
        base = traces["clean"]
        given = (model.facts, pairs, index, n, {**traces, "base": base}, self.means)
        resolve = Resolver(*given, base.final)
        cells = [
            [edit for i in interventions if (edit := resolve(i)) is not None]
            for interventions in self.sets.values()
        ]
        prompts, written = tokens["clean"]
        if isinstance(self.engine, Replay):
            room = prompts.shape[1] + n
            return Cached(self.engine.weights, prompts, base, cells, room)
        if not model.facts.n_encoder_layers:
            return Recomputed(model, prompts, base, cells)
        read = begun(start_of(model), prompts, written)
        if isinstance(self.engine, ReplayOfTwo):
            return self._of_two(self.engine, read, base, cells)
        return Recomputed(model, read, base, cells, prompts)

    def _of_two(
        self,
        engine: ReplayOfTwo,
        read: Int[Tensor, "batch read"],
        base: Trace,
        cells: Sequence[Sequence[Lasting]],
    ) -> Cached:
        """What is made in the encoder is made once; the decoder says what it reads of that."""
        inside = [[one.edit for one in cell if one.edit.site.stack == "enc"] for cell in cells]
        left, memory = engine.encoded(base, inside)
        own = [
            [
                *(Lasting(edit, (), (), fixed=True) for edit in read),
                *(one for one in cell if one.edit.site.stack == "dec"),
            ]
            for read, cell in zip(left, cells, strict=True)
        ]
        room = read.shape[1] + self.asked.n
        return Cached(engine.stacks.decoder, read, base.of("dec"), own, room, memory)

    def _decoded(self, session: Cached | Recomputed) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Token by token, until all texts have ended."""
        choose, stop, n = Chooser(self.asked.how, self.seeds), self.asked.stop, self.asked.n
        logits, said, found = session.begin(), list[Tensor](), list[list[Tensor]]()
        length = torch.full(logits.shape[:2], n, device=logits.device)
        for step in range(1, n + 1):
            said.append(choose(logits))
            found.append([self._of(logits, said[-1], step)])
            if isinstance(session, Cached):
                found[-1] += self._beside(logits, said[-1], *session.beside)
            ended = stop(torch.stack(said, -1))
            length = torch.where(ended & (length == n), step, length)
            if step == n or bool((length < n).all()):
                break
            logits = session.step(said[-1])
        tokens = torch.nn.functional.pad(torch.stack(said, -1), (0, n - len(said)))
        numbers = [torch.stack([*each], -1) for each in zip(*found, strict=True)]
        if isinstance(session, Recomputed):
            after = torch.arange(n, device=tokens.device) >= length[..., None]
            numbers += self._compared(session, tokens.masked_fill(after, 0)[..., : len(said)])
        return tokens, length, numbers

    def _beside(
        self, logits: Tensor, tokens: Tensor, plain: Tensor, of: Int[Tensor, "cells batch"]
    ) -> tuple[Tensor, Tensor]:
        """The plain model's log-probability of each token, and its divergence."""
        row = torch.arange(tokens.shape[1], device=tokens.device)
        wide = plain if plain.dtype == torch.float64 else plain.float()
        found = wide[of, row, tokens] - wide.logsumexp(-1)[of, row]
        if not self.asked.kl:
            return found, torch.full_like(found, torch.nan)
        return found, _divergence(plain[of, row], logits)

    def _judged(self, session: Cached | Recomputed, tokens: Tensor) -> Tensor:
        """The log-probability of each token under the interventions."""
        steps = enumerate(session.said(tokens))
        found = [self._of(logits, tokens[..., step], step + 1) for step, logits in steps]
        return torch.stack(found, -1)

    def _compared(self, session: Cached | Recomputed, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Of the plain model that reads these texts, and how far its distributions are.

        A text that several sets say is read once.
        """
        texts, of = distinct(tokens)
        row = torch.arange(tokens.shape[1], device=tokens.device)
        other = self.session(self.rows).said(tokens) if self.asked.kl else None
        found, kl = [], []
        for step, logits in enumerate(session.plain(texts)):
            found.append(_log_prob(logits, texts[..., step])[of, row])
            if other is not None:
                kl.append(_divergence(logits[of, row], next(other)))
        log_probs = torch.stack(found, -1)
        return log_probs, torch.stack(kl, -1) if kl else torch.full_like(log_probs, torch.nan)

    def _of(self, logits: Tensor, tokens: Tensor, step: int) -> Tensor:
        """The log-probability of each token.

        Raises:
            InterpError: it is none.
        """
        found = _log_prob(logits, tokens)
        require_finite(found, self.names, self.rows, step)
        return found


def distinct(
    tokens: Int[Tensor, "cells batch n"],
) -> tuple[Int[Tensor, "texts batch n"], Int[Tensor, "cells batch"]]:
    """The texts of each row, each once (then the first again, as often as rows need), and which of
    them each cell has.
    """
    parts = [torch.unique(row, dim=0, return_inverse=True) for row in tokens.unbind(1)]
    most = max(len(texts) for texts, _ in parts)
    filled = [torch.cat([texts, texts[:1].expand(most - len(texts), -1)]) for texts, _ in parts]
    return torch.stack(filled, 1), torch.stack([of for _, of in parts], 1)


def _log_prob(
    logits: Float[Tensor, "cells batch d_vocab"], tokens: Int[Tensor, "cells batch"]
) -> Float[Tensor, "cells batch"]:
    """The log-probability of a token."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits.gather(-1, tokens[..., None])[..., 0] - logits.logsumexp(-1)


def _wide(x: Float[Tensor, "cells batch said"], n: int) -> Float[Tensor, "cells batch n"]:
    """NaN where nothing was said any more."""
    return torch.nn.functional.pad(x.double(), (0, n - x.shape[-1]), value=torch.nan)


def _divergence(
    plain: Float[Tensor, "cells batch d_vocab"], other: Float[Tensor, "cells batch d_vocab"]
) -> Float[Tensor, "cells batch"]:
    """KL from the plain distribution to the other, in nats."""
    plain, other = (x.double().log_softmax(-1) for x in (plain, other))
    return (plain.exp() * (plain - other)).sum(-1)
