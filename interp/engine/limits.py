"""How much runs at once on a device: what keeps it busy, and no more than it gains from."""

from dataclasses import dataclass

import torch

UNBOUNDED = 1 << 62
"""No limit but memory."""


@dataclass(frozen=True)
class Limits:
    """What a device takes at once.

    It does not depend on what happens to be free: that would change the batches, and with them the
    last digits.

    Attributes:
        wave: tokens of all the cells that go up the layers together, whatever the model's width;
            `wave_tokens` for some width.
        work: multiplications of one matrix as wide as the model is, for all of them together.
        tokens: tokens of a plain forward.
        mlp: tokens whose hidden layer an MLP holds.
        neurons: numbers of that hidden layer.
        scores: attention scores.
        logits: bytes of logits.
        changes: bytes of what writers of some positions write, and readers' gradients there.
        patterns: bytes of attention probabilities of changed queries or keys, one head's each.
        share: does a call take a share of what the device has, whatever its usual budget?
    """

    wave: int
    work: int
    tokens: int
    mlp: int
    neurons: int
    scores: int
    logits: int
    changes: int
    patterns: int
    share: bool

    @classmethod
    def of(cls, device: torch.device) -> "Limits":
        """Those of a processor, or of an accelerator."""
        return PROCESSOR if device.type == "cpu" else ACCELERATOR

    def wave_tokens(self, d_model: int) -> int:
        """Tokens of all the cells that go up the layers together."""
        return max(1, min(self.wave, self.work // d_model**2))

    def mlp_tokens(self, width: int) -> int:
        """Tokens that an MLP of so many neurons takes at a time."""
        return max(1, min(self.mlp, self.neurons // max(1, width)))


PROCESSOR = Limits(
    wave=2048,
    work=UNBOUNDED,
    tokens=1024,
    mlp=1024,
    neurons=UNBOUNDED,
    scores=1 << 22,
    logits=1 << 28,
    changes=1 << 29,
    patterns=1 << 25,
    share=False,
)
"""What stays in the caches: more is no faster, only larger (measured)."""
ACCELERATOR = Limits(
    wave=UNBOUNDED,
    work=1 << 37,
    tokens=1 << 14,
    mlp=UNBOUNDED,
    neurons=1 << 28,
    scores=1 << 28,
    logits=1 << 30,
    changes=1 << 31,
    patterns=1 << 28,
    share=True,
)
"""A launch costs as long as a narrow model's work on thousands of tokens. Where a product takes a
hundred times that long, more at once is no faster: of a model of width 4,096 that is 8,192 tokens,
of one of 576 it is 414,000, so that memory limits."""
