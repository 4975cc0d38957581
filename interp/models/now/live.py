"""A model as it is at this moment, and what was found out about it since it last changed."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from interp.core.door.alone import undone
from interp.core.errors import ModelError
from interp.models.bridge import quantised, rotary
from interp.models.now.fused import Fused
from interp.models.now.lender import Lender
from interp.models.now.watch import Foreign, Stamp, Watch, glimpse

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Now:
    """A model at one moment.

    Attributes:
        foreign: hooks, adapters and replaced parts that it did not come with.
        changed: plain settings that are not as they were when it was loaded.
        device, dtype: of its first parameter.
        quantised: what keeps some of its weights in few bits, such as "bitsandbytes nf4".
    """

    stamp: Stamp
    foreign: tuple[Foreign, ...]
    changed: tuple[str, ...]
    device: torch.device
    dtype: torch.dtype
    quantised: tuple[str, ...] = ()
    found: dict[object, Any] = field(default_factory=dict, repr=False)

    def once(self, key: object, find: Callable[[], T]) -> T:
        """What was found out before, as long as the model has not changed since."""
        if key not in self.found:
            self.found[key] = find()
        return self.found[key]


class Live:
    """Gives the same `Now` until the model changes.

    Attributes:
        lock: of the thread that asks the model something.
    """

    def __init__(self, watch: Watch, fused: Sequence[Fused], lender: Lender | None = None) -> None:
        self.watch, self.fused, self.lock = watch, fused, threading.RLock()
        self.lender = lender
        self._now: Now | None = None
        self._held = False
        self._twice = self._held_twice()

    def __getstate__(self) -> dict[str, Any]:
        """A copy of a model is another one: what was found out of this does not hold of it."""
        kept = {name: held for name, held in vars(self).items() if name != "lock"}
        return {**kept, "_now": None, "_held": False, "lender": None}  # it has numbers of its own

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, lock=threading.RLock())

    def now(self) -> Now:
        """The model as it is.

        Raises:
            ModelError: two copies of one matrix were changed in two ways, or a part or all
                numbers were taken away.
        """
        with self.lock:
            return self._seen()

    def _seen(self) -> Now:
        if self._held and self._now is not None:
            return self._now
        if self.lender is not None:
            self.lender.require()
        stamp = self._stamp()
        if self._now is None or stamp != self._now.stamp:
            self._require_whole()
            for matrix in self.fused:
                matrix.settle()
            self._twice = self._held_twice()
            first = self.first()
            self._now = Now(
                self._stamp(),
                self.watch.foreign(),
                self.watch.changed(),
                first.device,
                first.dtype,
                tuple(sorted({quantised.told(m) for m in self.watch.packed})),
            )
        return self._now

    def first(self) -> torch.Tensor:
        """The first parameter."""
        return next(p for p in self.watch.wrapped.parameters() if p.is_floating_point())

    def _require_whole(self) -> None:
        """Refuse a model without its numbers, or without a part that it came with: what it computes
        instead is not known, since a function in its place is none of its modules.
        """
        if gone := self.watch.gone():
            more = f" and {len(gone) - 3} more" if len(gone) > 3 else ""
            raise ModelError(
                f"{', '.join(gone[:3])}{more} was taken away from the model and no module stands "
                "there now, so what it computes cannot be known. Put a module in its place (a "
                "function inside of an nn.Module, nn.Identity() to leave the part out), put the "
                "part back, or load the model anew."
            )
        if any(p.is_meta for p in self.watch.wrapped.parameters()):
            raise ModelError(
                "the model's weights have no numbers: they are on device 'meta', where moving a "
                "model throws them away. Load the model anew."
            )

    @contextmanager
    def held(self) -> Iterator[Now]:
        """Inside of the block the model is as it was before: what is put on it there is ours."""
        with self.lock:
            now, before = self.now(), self._held
            with undone(lambda: setattr(self, "_held", before)):
                self._held = True
                yield now

    @contextmanager
    def bare(self) -> Iterator[Now]:
        """Inside of the block no foreign hook stands on a hook point, which Hugging Face's model
        has not; and what the model remembers of a run is forgotten after it.
        """
        watch = self.watch
        with self.held() as now, watch.lifted(now.foreign), rotary.alone(watch.remembering):
            yield now

    def _stamp(self) -> Stamp:
        """Of what is held twice some numbers too: where one copy is changed the other must follow,
        also if it was changed through `.data`, which no counter shows.
        """
        return (self.watch.stamp(), tuple(map(glimpse, self._twice)))

    def _held_twice(self) -> list[torch.Tensor]:
        return [tensor for matrix in self.fused for tensor in matrix.tensors()]
