"""Attention patterns on any rows of tokens, shown layer by layer: never all of them are held."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from interp.core.errors import Unsupported
from interp.core.parts.facts import Facts
from interp.core.parts.sites import absent
from interp.core.prompts.pairs import Pairs
from interp.engine.engines.choose import accept, choose
from interp.engine.engines.protocol import Engine, EngineName
from interp.engine.limits import Limits
from interp.engine.network.trace import See
from interp.engine.plain.prompts import Tokens, prompts
from interp.engine.plan.batches import forward_plan
from interp.engine.plan.explain import proceed
from interp.engine.plan.positions import blocks
from interp.models.model import Model

INSTEAD = "capture(model, tokens, 'dec.0.cross.1.pattern') gives the patterns"


@dataclass(frozen=True, eq=False)
class Patterns:
    """Rows of tokens that are ready to run, and the forwards that they run in.

        shown = Patterns.of(model, tokens, asker="mine()")
        for rows in shown.forwards:
            shown.walk(rows, see)

    Attributes:
        pairs: the rows; the clean side runs.
        forwards: rows of one length that run together.
        layers: how many are run.
    """

    model: Model
    pairs: Pairs
    engine: Engine
    forwards: tuple[list[int], ...]
    layers: int

    @classmethod
    def of(
        cls,
        model: Model,
        tokens: Tokens,
        *,
        asker: str,
        instead: str = INSTEAD,
        layers: int | None = None,
        most: int | None = None,
        kept: int | None = None,
        engine: EngineName = "auto",
    ) -> "Patterns":
        """Check the rows and choose the engine; nothing runs yet.

        Args:
            asker, instead: who asks, and what else would serve, for messages.
            layers: how many to run; all by default.
            most: rows in one forward; by default as many as make it fast, and few enough that one
                layer's patterns take little memory.
            kept: bytes that the asker keeps of all rows, for the plan.

        Raises:
            PairsError: rows that the model cannot run.
            Unsupported: attention patterns that cannot be read.
        """
        facts, pairs = model.facts, require_patterns(model, tokens, asker, instead)
        served = choose(model, engine, longest=pairs.longest)
        layers = facts.n_layers if layers is None else layers
        at_once = most or _rows(facts, int(pairs.lengths.max()), model.device)
        plan = forward_plan(
            facts,
            pairs.lengths,
            rows=at_once,
            runs=1,
            itemsize=model.dtype.itemsize,
            limits=Limits.of(model.device),
            engine=served.name,
            layers=layers,
            kept=kept,
        )
        proceed(plan)
        return cls(model, pairs, served, tuple(blocks(pairs.extents, at_once)), layers)

    def walk(self, rows: Sequence[int], see: See, *, also: Sequence[str] = ()) -> None:
        """One forward of some rows of one length.

        Args:
            see: is shown "pattern", `row query head key`, of each layer, and must copy what it
                keeps. It may be shown other activations too, and leaves out what it does not want.
            also: other shelves that it is sure to be shown.
        """
        tokens = self.pairs.clean[list(rows), : int(self.pairs.lengths[rows[0]])]
        shelves = ("pattern", *also)
        with torch.inference_mode():
            self.engine.walk(tokens.to(self.model.device), see, shelves=shelves, layers=self.layers)


def require_patterns(model: Model, tokens: Tokens, asker: str, instead: str = INSTEAD) -> Pairs:
    """The rows, if the model has patterns on them; nothing runs.

    Raises:
        PairsError: rows that the model cannot run.
        Unsupported: a model without heads, or with two stacks of them; says what else would serve.
    """
    facts = model.facts
    if reason := absent("pattern", facts):
        raise Unsupported(f"{asker} reads attention patterns: {reason}. ({facts})")
    if facts.n_encoder_layers:
        raise Unsupported(
            f"{asker} reads one stack of layers, and this model has an encoder and a decoder "
            f"({facts}); {instead}."
        )
    pairs = prompts(tokens)
    accept(model, pairs, None)
    return pairs


def _rows(facts: Facts, length: int, device: torch.device) -> int:
    """Rows in one forward: of the longest, so that shorter ones take less."""
    most = Limits.of(device)
    return max(1, min(most.tokens // length, most.scores // (facts.n_heads * length * length)))
