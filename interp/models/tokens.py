"""The one door between text and token ids.

Special tokens are a choice that the caller states: `bos="model"` adds what the tokenizer adds by
itself (perhaps nothing), `bos="none"` adds nothing. Ids are never tested for truth: 0 is a token.
"""

from collections.abc import Sequence
from typing import Literal

from transformers import PreTrainedTokenizerBase

from interp.core.errors import PairsError

Bos = Literal["model", "none"]
Offsets = list[tuple[int, int]]

SPACE, NEWLINE = "␣", "↵"  # both have a glyph in DejaVu Sans, the figures' font


def encode(tokenizer: PreTrainedTokenizerBase, text: str, *, bos: Bos) -> list[int]:
    """Token ids of a text.

    Raises:
        PairsError: the ids begin with two beginning-of-sequence tokens.
    """
    ids = tokenizer(text, add_special_tokens=bos == "model")["input_ids"]
    _refuse_double_bos(tokenizer, text, ids)
    return ids


def encode_with_offsets(
    tokenizer: PreTrainedTokenizerBase, text: str, *, bos: Bos
) -> tuple[list[int], Offsets]:
    """Token ids, and for each the span [start, end) of its characters in `text`.

    Special tokens that the tokenizer added have the empty span (0, 0). A token's span may begin
    with the space before its word.

    Raises:
        PairsError: two beginning-of-sequence tokens, or a tokenizer that cannot tell spans.
    """
    if not tokenizer.is_fast:
        raise PairsError(
            f"{type(tokenizer).__name__} cannot say which characters a token covers, so a position "
            "cannot be found by its word: it is not a fast tokenizer. Save a tokenizer.json beside "
            "the model (convert it with transformers), or give positions as numbers."
        )
    out = tokenizer(text, add_special_tokens=bos == "model", return_offsets_mapping=True)
    ids, offsets = out["input_ids"], [(start, end) for start, end in out["offset_mapping"]]
    _refuse_double_bos(tokenizer, text, ids)
    return ids, offsets


def token_at(offsets: Offsets, character: int) -> int:
    """The index of the token that covers a character of the text.

    Raises:
        PairsError: no token covers it.
    """
    for i, (start, end) in enumerate(offsets):
        if start <= character < end:
            return i
    last = max((end for _, end in offsets), default=0)
    raise PairsError(
        f"no token covers character {character}: the {len(offsets)} tokens end at character "
        f"{last}. Either the text is shorter, or the tokenizer drops that character (a space)."
    )


def token_id(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """The id of a text that is exactly one token.

    Raises:
        PairsError: it is several tokens, or none; the message shows the pieces.
    """
    ids = encode(tokenizer, text, bos="none")
    if len(ids) == 1:
        return ids[0]
    if len(ids) == 0:
        raise PairsError(f"{text!r} is no token at all: the tokenizer makes nothing of it.")
    with_space = encode(tokenizer, " " + text.lstrip(), bos="none")
    hint = (
        f" {' ' + text.lstrip()!r}, with a space before it, is one." if len(with_space) == 1 else ""
    )
    raise PairsError(
        f"{text!r} is {len(ids)} tokens, not one: {' | '.join(show(tokenizer, ids))}. An answer is "
        f"compared by one token's logit.{hint} Choose a word that is a single token"
        + (" in this vocabulary." if hint else ", and mind the space before it.")
    )


def show(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """One readable string per id: a space is ␣, a newline ↵, half a character its raw piece."""
    shown = []
    for piece, i in zip(tokenizer.convert_ids_to_tokens(list(ids)), ids, strict=True):
        if piece is None:
            shown.append(f"<{i}?>")  # models pad their vocabulary beyond the tokenizer's
            continue
        # SentencePiece pieces lose their leading space when they are decoded alone.
        text = piece if "▁" in piece else tokenizer.decode([i], clean_up_tokenization_spaces=False)
        text = piece if "\ufffd" in text else text
        shown.append(text.replace("▁", SPACE).replace(" ", SPACE).replace("\n", NEWLINE))
    return shown


def _refuse_double_bos(tokenizer: PreTrainedTokenizerBase, text: str, ids: list[int]) -> None:
    starts = {tokenizer.bos_token_id, tokenizer.cls_token_id} - {None}
    if len(ids) >= 2 and ids[0] == ids[1] and ids[0] in starts:
        token = tokenizer.convert_ids_to_tokens(ids[0])
        raise PairsError(
            f"{text[:60]!r} begins with {token!r} twice (id {ids[0]}), which shifts every position "
            f"by one. Likely the text holds {token!r} itself and the tokenizer adds another: take "
            "it out of the text, or pass bos='none'."
        )
