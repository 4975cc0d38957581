"""How fast a machine is, as whoever asks says, and the time that follows from it."""

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from interp.core.errors import InterpError

_MEANT = {
    "peak": ("FLOP/s", "the products it makes in the model's precision", "989e12"),
    "bandwidth": ("bytes/s", "how fast it reads its own memory", "3.35e12"),
    "launch": ("seconds", "how long the host takes to launch one operation", "5e-6"),
}
"""Of each rate its unit, what it is, and an H100's."""


@dataclass(frozen=True)
class Rates:
    """A machine's.

    Attributes:
        peak: FLOP/s of matrix products.
        bandwidth: bytes/s to and from the memory where the model is.
        launch: seconds that the host takes to launch one operation.
    """

    peak: float | None = None
    bandwidth: float | None = None
    launch: float | None = None

    def seconds(self, flops: int, moved: int, launches: int) -> float:
        """No less than the slowest of the three takes, of those rates that are known."""
        return max(
            flops / self.peak if self.peak else 0.0,
            moved / self.bandwidth if self.bandwidth else 0.0,
            launches * (self.launch or 0.0),
        )

    def __str__(self) -> str:
        said = []
        if self.peak:
            said.append(f"{self.peak / 1e12:.4g} TFLOP/s")
        if self.bandwidth:
            said.append(f"{self.bandwidth / 1e9:.4g} GB/s")
        if self.launch:
            said.append(f"{self.launch * 1e6:.4g} us a launch")
        return ", ".join(said)


def rates(peak: object, bandwidth: object, launch: object) -> Rates | None:
    """Those that are given; None where none is.

    Raises:
        InterpError: one that is no positive, finite number.
    """
    given: dict[str, Any] = {"peak": peak, "bandwidth": bandwidth, "launch": launch}
    known: dict[str, float] = {}
    for name, value in given.items():
        if value is None:
            continue
        number = isinstance(value, int | float | np.integer | np.floating)
        if not (number and not isinstance(value, bool) and 0 < value <= sys.float_info.max):
            unit, meaning, example = _MEANT[name]
            raise InterpError(
                f"explain: {name}={value!r:.40} is no rate: {name} is a positive number of {unit}, "
                f"{meaning} (an H100's is about {example}). Leave it out where it is not known."
            )
        known[name] = float(value)
    return Rates(**known) if known else None
