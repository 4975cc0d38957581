"""Interventions that stay on a model while others run it, whatever they call."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.core.errors import InterpError, Unsupported
from interp.core.prompts.places import AFTER_FIRST, ALL
from interp.engine.engines.hooked.writes import Write, require_open, write
from interp.engine.interventions import Intervention
from interp.engine.plan.edits import Edit
from interp.models.bridge.placed import hooked, preceding
from interp.models.model import Model

PROMPT, GENERATED, FROM = "prompt", "generated", "from "


@dataclass(eq=False)
class Clock:
    """Where the rows of the forward that runs now begin, and where their prompt ended.

    Attributes:
        start: the first position that the forward computes; what is before is in a cache.
        prompt: positions of the last forward that began at 0.
    """

    start: int = 0
    prompt: int = 0

    def hear(self, module: Any, args: Any, kwargs: Any) -> None:
        """Is called before each forward of the model.

        Raises:
            InterpError: rows that are padded.
        """
        cache, mask = kwargs.get("past_key_values"), kwargs.get("attention_mask")
        ids = kwargs.get("input_ids", args[0] if args else None)
        ids = kwargs.get("inputs_embeds") if ids is None else ids
        self.start = 0 if cache is None else int(cache.get_seq_length())
        if not self.start and isinstance(ids, Tensor):
            self.prompt = ids.shape[1]
        if isinstance(mask, Tensor) and mask.ndim == 2 and not bool(mask.bool().all()):
            raise InterpError(
                "the rows of this forward are padded (its attention_mask has zeros), and where a "
                "position is would not be known. Run rows of one length together, or interp."
                "generate, which never pads."
            )

    def at(
        self, place: str | int, window: Int[Tensor, "batch window"]
    ) -> Bool[Tensor, "batch window"]:
        """Which of these positions of a forward a place means."""
        there = window + self.start
        if place == ALL:
            return torch.ones_like(there, dtype=torch.bool)
        if place == AFTER_FIRST:
            return there >= 1
        if place == PROMPT:
            return there < self.prompt
        if place == GENERATED:
            return there >= self.prompt
        if place == "end":
            return there == self.prompt - 1
        if isinstance(place, str) and place.startswith(FROM):
            name = place.removeprefix(FROM)
            return there >= (self.prompt - 1 if name == "end" else int(name))
        return there == int(place)


@dataclass(frozen=True, eq=False)
class Live(Edit):
    """An edit of whatever rows run."""

    clock: Clock = field(default_factory=Clock)
    place: str | int = ALL

    def __call__(
        self, current: Float[Tensor, "batch window *axes"], window: Int[Tensor, "batch window"]
    ) -> Float[Tensor, "batch window *axes"]:
        found = current if self.found is None else self.found.to(current).expand_as(current)
        mask = self.clock.at(self.place, window)
        new = self.value(current, found)
        return torch.where(mask[(...,) + (None,) * (current.ndim - 2)], new, current).to(current)


def live(i: Intervention, clock: Clock) -> Live:
    """An intervention as an edit of whatever rows run.

    Raises:
        Unsupported: what takes more than one forward, other prompts, or positions by name.
    """
    what, source = f"{type(i.value).__name__} at '{i.site}'", i.value.source
    if i.readers is not None or i.site.kind == "pattern":
        sort = "is of single readers" if i.readers is not None else "writes a pattern"
        raise Unsupported(
            f"{what} {sort}, which takes forwards of its own, and here the model runs once, as "
            "others call it. Intervene with interp.intervene or interp.generate."
        )
    if source is not None and not isinstance(source, Tensor):
        raise Unsupported(
            f"{what} takes its value from runs of other prompts, and which rows will run is not "
            "known. Give the value itself: Set(interp.capture(...)[site].mean(0))."
        )
    named = isinstance(i.positions, str) and _known(i.positions)
    if not named and not isinstance(i.positions, int):
        raise Unsupported(
            f"{what}: position {i.positions!s} is of pairs, and which rows will run is not known. "
            "Give 'all', 'after first', 'prompt', 'generated', 'end', an index, or 'from 3'."
        )
    found = None if source is None else source[None, None]
    nothing = torch.zeros(1, 1, dtype=torch.bool)
    place = i.positions
    assert not hasattr(place, "rows")
    return Live(i.site, i.value, nothing, found, clock=clock, place=place)


def _known(place: str) -> bool:
    name = place.removeprefix(FROM)
    plain = place in (ALL, AFTER_FIRST, PROMPT, GENERATED, "end") or place.isdigit()
    return plain or (place.startswith(FROM) and (name == "end" or name.isdigit()))


@contextmanager
def standing(model: Model, interventions: Sequence[Intervention]) -> Iterator[None]:
    """Interventions on the bridge and on Hugging Face's module under it, for the time of a block.

    Raises:
        Unsupported: as `live`, or a site that no hook reaches.
    """
    clock = Clock()
    writes = [write(model.facts, live(i, clock)) for i in interventions]
    hooks = [hook for one in sorted(writes, key=_order) for hook in one.hooks]
    known = model.bridge.hook_dict
    if lost := [name for name, _ in hooks if name not in known]:
        raise Unsupported(
            f"TransformerLens gives {model.facts.architecture} no hook point {lost[0]!r}, so what "
            "this needs cannot be changed. Choose sites that it has (model.bridge.hook_dict)."
        )
    require_open(model, [name for name, _ in hooks])
    points = [(name, lambda x, hook, one=one: one(x)) for name, one in hooks]
    with preceding(model.bridge.original_model, clock.hear), hooked(model.bridge, points):
        yield


def _order(one: Write) -> tuple[int, ...]:
    return one.order
