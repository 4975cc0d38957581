"""The one door between text and token ids.

Special tokens are a choice that the caller states: `bos="model"` adds what the tokenizer adds by
itself (perhaps nothing), `bos="none"` adds nothing. Ids are never tested for truth: 0 is a token.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import regex
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from interp.core.errors import PairsError, nearest, said
from interp.core.prompts.columns import shown
from interp.core.prompts.pairs import Pairs
from interp.core.prompts.unknown import unknown

Bos = Literal["model", "none"]
Offsets = list[tuple[int, int]]

HALF = re.compile(r"[\ud800-\udfff]")
VISIBLE = {" ": "␣", "▁": "␣", "\n": "↵", "\t": "⇥", "\r": "⏎", "\u00a0": "⍽"}
"""Characters that leave no ink, and their signs; each has a glyph in the figures' DejaVu Sans."""
UNSEEN = regex.compile(r"[▁\u2800\p{Z}\p{Cc}\p{Cf}\p{Default_Ignorable_Code_Point}]")
"""All that leave none: spaces of any kind, controls, joiners, variation selectors, fillers."""


def encode(
    tokenizer: PreTrainedTokenizerBase, text: str, *, bos: Bos, target: bool = False
) -> list[int]:
    """Token ids of a text.

    Args:
        target: it is in the language that a decoder writes, which may have pieces and marks of
            its own.

    Raises:
        PairsError: no text, no policy, or two beginning-of-sequence tokens in front.
    """
    _accept(text, bos)
    given = {"text_target": text} if target else {"text": text}
    ids = tokenizer(**given, add_special_tokens=bos == "model")["input_ids"]
    _refuse_double_bos(tokenizer, text, ids)
    return ids


def encode_chat(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]]
) -> list[int]:
    """Token ids of a chat in the words of the tokenizer's own template, up to where the model
    answers.

    Raises:
        PairsError: no template, no messages, what the template does not take, or two
            beginning-of-sequence tokens in front.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise PairsError(
            f"{tokenizer.name_or_path or 'the tokenizer'} has no chat template, so it is not known "
            "how it wants a chat written. Write the prompt as text, or set "
            "model.tokenizer.chat_template."
        )
    whole = messages and all(
        isinstance(one, Mapping) and isinstance(one.get("content"), str) for one in messages
    )
    if not whole or not all(isinstance(one.get("role"), str) for one in messages):
        raise PairsError(
            f"{shown(messages)} is no chat: a chat is a list of messages, each with a role and a "
            "content: [{'role': 'user', 'content': 'Hello'}]."
        )
    try:
        ids = tokenizer.apply_chat_template(
            [dict(one) for one in messages], add_generation_prompt=True, return_dict=False
        )
    except Exception as error:  # a template raises what it likes
        raise PairsError(
            f"the tokenizer's chat template does not take this chat: {said(error)}. Likely it "
            "wants roles in another order (user first, then assistant)."
        ) from error
    _refuse_double_bos(tokenizer, messages[0]["content"], ids)
    return list(ids)


def leading_bos(tokenizer: PreTrainedTokenizerBase | None, ids: Sequence[int]) -> int:
    """How many beginning-of-sequence tokens stand in front."""
    starts = set() if tokenizer is None else {tokenizer.bos_token_id, tokenizer.cls_token_id}
    count = 0
    while count < len(ids) and ids[count] in starts - {None}:
        count += 1
    return count


def encode_with_offsets(
    tokenizer: PreTrainedTokenizerBase, text: str, *, bos: Bos
) -> tuple[list[int], Offsets]:
    """Token ids, and for each the span [start, end) of its characters in `text`.

    Special tokens that the tokenizer added have the empty span (0, 0). A token's span may begin
    with the space before its word.

    Raises:
        PairsError: no text, no policy, two beginning-of-sequence tokens in front, or a tokenizer
            that cannot tell spans.
    """
    _accept(text, bos)
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


def token_id(tokenizer: PreTrainedTokenizerBase, text: str, *, target: bool = False) -> int:
    """The id of a text that is exactly one token; `target`: as in `encode`.

    Raises:
        PairsError: it is several tokens, or none, or not in the vocabulary; the message shows the
            pieces.
    """
    ids = encode(tokenizer, text, bos="none", target=target)
    if (word := unknown(tokenizer, text, ids, target=target)) is not None:
        part = "" if word == text.strip() else f" (in {text!r})"
        raise PairsError(
            f"the tokenizer has no token for {word!r}{part}: it reads {tokenizer.unk_token!r} in "
            "its place, as for any other such word. Choose a word that is a single token of this "
            "vocabulary, and mind its spelling and the space before it."
        )
    if len(ids) == 1:
        return ids[0]
    if len(ids) == 0:
        raise PairsError(f"{text!r} is no token at all: the tokenizer makes nothing of it.")
    hint = _other_spelling(tokenizer, text)
    raise PairsError(
        f"{text!r} is {len(ids)} tokens, not one: {' | '.join(show(tokenizer, ids))}. An answer is "
        f"compared by one token's logit.{hint} Choose a word that is a single token"
        + (" in this vocabulary." if hint else ", and mind the space before it.")
    )


def _other_spelling(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """A sentence about the text with the space before it, or without, if that is one token."""
    bare = text.lstrip()
    others = (" " + bare, "with a space before it") if text == bare else (bare, "without the space")
    ids = encode(tokenizer, others[0], bos="none")
    known = len(ids) == 1 and unknown(tokenizer, others[0], ids) is None
    return f" {others[0]!r}, {others[1]}, is one." if known else ""


def require_text(pairs: Pairs, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Refuse rows that begin or end in padding, which the model would read as text.

    A pad token of its own never begins or ends a row. Where the tokenizer pads with a mark that
    texts have too (the end mark, the beginning mark), one may stand at either end, since rows that
    were given a mark look so; refused are two of them in a row, and one that only some rows have
    although it stands inside of none: texts that were marked are marked alike, and texts that were
    packed into rows have such marks inside.

    Args:
        tokenizer: of the model; nothing is known of padding without one, or where it has no pad
            token.

    Raises:
        PairsError: naming the row and the token.
    """
    pad = None if tokenizer is None else tokenizer.pad_token_id
    if tokenizer is None or pad is None:
        return
    marks = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    marks |= {tokenizer.cls_token_id, tokenizer.sep_token_id}
    allowed = 1 if pad in marks else 0
    for side, ids in (("clean", pairs.clean), ("corrupt", pairs.corrupt)):
        found = (ids == pad) & pairs.mask
        place = torch.arange(ids.shape[1]).expand_as(ids)
        length = pairs.lengths[:, None]
        runs = {
            "begins": _run(found, place, length),
            "ends": _run(found, length - 1 - place, length),
        }
        outside = not bool((found.sum(1) > sum(runs.values())).any())
        for end, run in runs.items():
            some = outside and bool((run == 0).any())
            for row in (run > (0 if some else allowed)).nonzero().flatten().tolist():
                raise PairsError(
                    f"row {row} of {side} {end} with {int(run[row])} of the tokenizer's pad token "
                    f"{tokenizer.pad_token!r} (id {pad}), which the model would read as text. "
                    "Likely the ids were padded: give the mask that came with them (mask=), or "
                    "lists without padding. If it is meant as text, set "
                    "model.tokenizer.pad_token = None."
                )


def _run(
    found: Bool[Tensor, "batch pos"],
    order: Int[Tensor, "batch pos"],
    length: Int[Tensor, "batch 1"],
) -> Int[Tensor, " batch"]:
    """How many tokens were found one after the other, from the end where the order is 0."""
    return torch.where(found | (order < 0), length, order).min(1).values


def show(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """One readable string per id, in which every character is seen.

    A space is ␣, a newline ↵, a tab ⇥, a carriage return ⏎, a no-break space ⍽; any other that
    leaves no ink is its number, such as <U+200B>. Half a character is its raw piece.
    """
    shown = []
    for piece, i in zip(tokenizer.convert_ids_to_tokens(list(ids)), ids, strict=True):
        if piece is None:
            shown.append(f"<{i}?>")  # models pad their vocabulary beyond the tokenizer's
            continue
        # SentencePiece pieces lose their leading space when they are decoded alone.
        text = piece if "▁" in piece else tokenizer.decode([i], clean_up_tokenization_spaces=False)
        text = piece if "\ufffd" in text else text
        shown.append(UNSEEN.sub(lambda c: VISIBLE.get(c[0], f"<U+{ord(c[0]):04X}>"), text))
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


def _accept(text: object, bos: object) -> None:
    if not isinstance(text, str):
        raise PairsError(f"{shown(text)} is no text; one text becomes token ids at a time.")
    if half := HALF.search(text):
        raise PairsError(
            f"{shown(text)} holds {half[0]!r}, half of a character, which no tokenizer reads. "
            "Likely a file was read in another encoding than its own: open it with the right "
            "encoding=, or with errors='replace'."
        )
    if bos not in get_args(Bos):
        raise PairsError(
            f"bos={bos!r} is no policy; {nearest(str(bos), get_args(Bos))} 'model' adds what the "
            "tokenizer adds by itself, 'none' adds nothing."
        )
