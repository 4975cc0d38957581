"""Random tokens of a model's own vocabulary that repeat: what heads that copy are found on."""

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray
from torch import Tensor

from interp.core.door.door import door
from interp.core.door.taken import Count, Seed
from interp.core.errors import PairsError
from interp.datasets.tasks.repeated import repeated
from interp.models.bridge.tokens import Bos
from interp.models.model import Model

EDGE = 10
"""One in so many ids at either end of a tokenizer's vocabulary is left out."""
BLOCK = (20, 30)
POS = 100
FEWEST = 3
"""Distinct tokens of the longest block: of 2, all blocks would be of one length."""


@door
def repeated_tokens(
    model: Model,
    n: Count = 32,
    *,
    block: tuple[int, int] | None = None,
    pos: Count | None = None,
    bos: Bos = "model",
    seed: Seed = 0,
) -> Int[Tensor, "n pos"]:
    """Rows of random tokens that repeat (Olsson et al. 2022: 25 tokens, 4 times).

    A row is a block of distinct tokens over and over, with the special tokens around it that the
    tokenizer puts around a text. The block's length is drawn for each row, so that a head which
    looks at a fixed distance is none that looks at tokens; `block=(25, 25)` makes the paper's rows.

    Without a tokenizer the tokens are drawn from all ids, 0 to d_vocab - 1, and nothing stands
    around them: where some ids have a meaning of their own, give rows of your own instead.

    Args:
        n: number of rows.
        block: least and greatest length of the block; by default 20 and 30, less where the model
            has fewer tokens or positions.
        pos: tokens of a row, without the special ones; by default 100, or as many as the model has
            positions for.
        bos: "model" adds the special tokens that the tokenizer adds by itself, "none" none.
        seed: of all that is drawn.

    Raises:
        PairsError: a vocabulary or a context too small for a block that returns, or numbers that
            make no rows.
        ModelError: a model that reads images.
    """
    ids, around = ordinary(model).tolist(), _around(model, bos)
    pos = min(POS, model.facts.n_ctx - sum(map(len, around))) if pos is None else pos
    block = _block(model, len(ids), pos) if block is None else block
    tokens = repeated(n, vocabulary=ids, pos=pos, seed=seed, block=block, before=(0, 0)).tokens
    before, after = (torch.tensor(ids).expand(n, -1).long() for ids in around)
    return torch.cat([before, tokens, after], 1)


def _block(model: Model, ids: int, pos: int) -> tuple[int, int]:
    """The usual block where it fits, else one of the same proportion that fits twice."""
    if ids >= BLOCK[1] and pos >= BLOCK[1] + 2:
        return BLOCK
    most = min(BLOCK[1], ids, pos // 2)
    if most < FEWEST:
        drawn = "all" if model.tokenizer is None else "neither special, nor very common or rare"
        raise PairsError(
            f"{model.name} has {ids} ids to draw from ({drawn}, of {model.facts.d_vocab}) and room "
            f"for {pos} tokens (n_ctx {model.facts.n_ctx}); a block of random tokens that returns "
            f"takes {FEWEST} ids and {2 * FEWEST} tokens. Give tokens= (rows in which a token "
            "returns, at distances that differ between rows of one length)."
        )
    return max(2, most * BLOCK[0] // BLOCK[1]), most


def ordinary(model: Model) -> Int[ndarray, " id"]:
    """The ids that random rows are made of.

    Where there is a tokenizer, without its special tokens, and without a tenth of the other ids at
    either end: ids are in the order in which pieces were merged or counted, so these are the most
    and the least common ones.
    """
    model.require_text()
    if model.tokenizer is None:
        return np.arange(model.facts.d_vocab)
    special = {*model.tokenizer.all_special_ids, *model.tokenizer.added_tokens_decoder}
    known = np.arange(min(model.facts.d_vocab, len(model.tokenizer)))
    ids = known[~np.isin(known, list(special))]
    return ids[len(ids) // EDGE : len(ids) - len(ids) // EDGE]


def _around(model: Model, bos: Bos) -> tuple[list[int], list[int]]:
    """The special tokens that a text gets before and after it."""
    if model.tokenizer is None:
        return [], []
    text = model.encode("a", bos="none")
    whole = model.encode("a", bos=bos)
    start = next(i for i in range(len(whole)) if whole[i : i + len(text)] == text)
    return whole[:start], whole[start + len(text) :]
