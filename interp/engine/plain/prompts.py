"""Prompts as they are given, ids or lists or pairs, as rows that run without padding."""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from numpy import ndarray
from torch import Tensor

from interp.core.errors import PairsError
from interp.core.prompts.pairs import Pairs

Ids = Int[Tensor, "batch pos"] | Int[ndarray, "batch pos"]
Tokens = Pairs | Ids | Sequence[Sequence[int]]
"""Pairs, a tensor or an array of ids that a mask unpads, or lists of ids."""
Mask = Ids | Bool[Tensor, "batch pos"] | Bool[ndarray, "batch pos"]


def prompts(tokens: Tokens, mask: Mask | None = None) -> Pairs:
    """Tokens as pairs whose two sides are the same; pairs as they are.

    Args:
        mask: of a tensor, `batch pos`, True (or 1) where a token is; padding on either side.

    Raises:
        PairsError: no rows, an empty row, no ids, or a mask that does not fit or has holes.
    """
    if isinstance(tokens, Pairs):
        if mask is not None:
            raise PairsError(
                "mask= is for a tensor of ids; pairs know the length of their rows. Leave it out."
            )
        return tokens
    if isinstance(tokens, Tensor | ndarray):
        held = None if mask is None else torch.as_tensor(mask).cpu()
        ids, lengths = _unpad(torch.as_tensor(tokens).detach().cpu(), held)
    elif mask is not None:
        raise PairsError(
            "mask= is for a tensor of ids; lists of ids have no padding. Leave it out."
        )
    else:
        rows = [torch.as_tensor(row, dtype=torch.long) for row in tokens]
        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True) if rows else torch.empty(0, 0)
    if not len(ids) or bool((lengths == 0).any()):
        row = f"row {int((lengths == 0).int().argmax())} is empty" if len(ids) else "there are none"
        raise PairsError(f"prompts of at least one token are needed: {row}. Leave empty rows out.")
    none = torch.full_like(lengths, -1)
    names = tuple(map(str, range(len(ids))))
    return Pairs(ids, ids, lengths, none, none.clone(), {"end": lengths - 1}, names)


def _unpad(
    ids: Tensor, mask: Tensor | None
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, " batch"]]:
    """Ids with their padding on the right, and the length of each row."""
    if ids.ndim != 2 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise PairsError(
            f"tokens are a tensor of integer ids, batch x pos; got {ids.dtype} of shape "
            f"{tuple(ids.shape)}. Of one prompt, give tokens[None]."
        )
    ids = ids.long()
    if mask is None:
        return ids, torch.full((len(ids),), ids.shape[1])
    if mask.shape != ids.shape:
        raise PairsError(
            f"the mask is {tuple(mask.shape)} and the tokens {tuple(ids.shape)}; give the mask "
            "that the tokenizer made with them."
        )
    mask = mask.bool()
    lengths, first = mask.sum(1), mask.int().argmax(1)
    place = torch.arange(ids.shape[1])
    whole: Bool[Tensor, "batch pos"] = (place >= first[:, None]) & (
        place < (first + lengths)[:, None]
    )
    if bool((whole != mask).any()):
        row = int((whole != mask).any(1).int().argmax())
        raise PairsError(
            f"the mask of row {row} has a hole, and tokens must be contiguous. Leave the row out, "
            "or give its tokens without the hole."
        )
    moved = ids.gather(1, (place + first[:, None]).clamp(max=ids.shape[1] - 1))
    return moved.masked_fill(place >= lengths[:, None], 0), lengths


def tokens_hash(pairs: Pairs, side: str) -> str:
    """Of the ids that run: one side, without its padding, and what a decoder has written."""
    written = "" if pairs.target is None else pairs.target.hashed(side)
    digest = hashlib.sha256(written.encode())
    for part in (pairs.lengths, getattr(pairs, side)[pairs.mask]):
        digest.update(part.to(torch.int64).numpy().tobytes())
    return digest.hexdigest()[:16]
