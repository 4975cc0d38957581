"""Pooling: from the tokens that a forward shows to the words that are kept."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.errors import InterpError, Unsupported
from interp.core.parts.facts import Facts
from interp.datasets.words.alignment import Alignment
from interp.engine.plain.taps import Layout, Slab

Pool = Literal["first", "last", "mean"]


def width(slab: Slab, facts: Facts) -> int:
    """Numbers of a word at each site of a slab."""
    return math.prod(slab.shape(facts, 1, 0)[1:])


def pooled(
    x: Float[Tensor, "index batch pos *axes"],
    batch: Int[Tensor, " word"],
    start: Int[Tensor, " word"],
    end: Int[Tensor, " word"],
    pool: Pool,
) -> Float[Tensor, "index word *axes"]:
    """The activation of each word: of its first or last token, or the mean of [start, end).

    Means of half-precision activations are taken in float32.
    """
    if pool == "first":
        return x[:, batch, start]
    if pool == "last":
        return x[:, batch, end - 1]
    sizes = end - start
    total = x[:, batch, start].to(torch.promote_types(x.dtype, torch.float32))
    for more in range(1, int(sizes.max())):
        longer = (sizes > more).nonzero()[:, 0]  # most words are a token or two
        total[:, longer] += x[:, batch[longer], start[longer] + more]
    return total / sizes.view(-1, *(1,) * (x.ndim - 3))


class Pooled:
    """The words of some rows, pooled as forwards show them: a tensor `index word d` a slab."""

    def __init__(
        self,
        layout: Layout,
        facts: Facts,
        aligned: Alignment,
        words: Int[np.ndarray, " word"],
        pool: Pool,
        dtype: torch.dtype,
    ) -> None:
        self.layout, self.aligned, self.words, self.pool = layout, aligned, words, pool
        # of a tensor made in inference mode no gradient could be taken through a probe
        with torch.inference_mode(False):
            self.tensors = {
                slab: torch.empty(len(slab), len(words), width(slab, facts), dtype=dtype)
                for slab in layout.slabs
            }

    def named(self) -> dict[str, Float[Tensor, "word d"]]:
        """The activations by the text of their sites."""
        return {name: self.tensors[slab][i] for (slab, i), name in self.layout.names.items()}

    def taker(
        self, rows: Sequence[int], words: Int[np.ndarray, " word"], device: torch.device
    ) -> Callable[[Slab, Float[Tensor, "index batch pos *axes"]], None]:
        """What pools the words of the rows of a forward, and copies them to their place.

        Raises:
            InterpError: a number is not finite.
            Unsupported: a slab without the positions of the tokens.
        """
        aligned, here = self.aligned, np.searchsorted(self.words, words)
        rank = {row: n for n, row in enumerate(rows)}
        longest = int(aligned.end[words].max())
        batch = torch.tensor([rank[row] for row in aligned.row[words].tolist()], device=device)
        start, end = (
            torch.from_numpy(part[words]).to(device) for part in (aligned.start, aligned.end)
        )
        place = torch.from_numpy(here)
        run = slice(int(here[0]), int(here[-1]) + 1)
        together = run.stop - run.start == len(here)

        def take(slab: Slab, x: Tensor) -> None:
            if x.shape[1] != len(rows) or x.shape[2] < longest:
                raise Unsupported(
                    f"{slab.shelf} of layer {slab.layer} came with shape {tuple(x.shape[1:])}, "
                    f"which has no place for {len(rows)} rows of {longest} tokens. Choose others."
                )
            kept = self.tensors[slab]
            found = pooled(x, batch, start, end, self.pool).reshape(len(kept), len(words), -1)
            if together:
                numbers = kept[:, run].copy_(found)
            else:
                numbers = found.to(kept.device, kept.dtype)
                kept[:, place] = numbers
            low, high = numbers.aminmax()  # one pass, and NaN spreads to both
            if not (math.isfinite(low) and math.isfinite(high)):
                self._refuse(slab, words, numbers, found)

        return take

    def _refuse(
        self,
        slab: Slab,
        words: Int[np.ndarray, " word"],
        numbers: Float[Tensor, "index word d"],
        came: Float[Tensor, "index word d"],
    ) -> None:
        index, n = (~numbers.isfinite()).nonzero()[0, :2].tolist()
        if bool(came[index, n].isfinite().all()):
            worst = came[index, n].abs().max().item()
            cause = (
                f"{worst:.3g} is more than {numbers.dtype} holds. Keep it as dtype=torch.float32 "
                "or torch.bfloat16"
            )
        else:
            cause = (
                f"the model computed it in {came.dtype}: its weights are broken, or that type "
                "holds too little. Load the model with dtype=torch.float32, and see model.parity()"
            )
        word = int(words[n])
        at = f"word {int(self.aligned.word[word])} of sentence {int(self.aligned.sentence[word])}"
        raise InterpError(f"'{self.layout.names[slab, index]}' is not finite at {at}: {cause}.")
