"""Texts as a tokenizer reads them: prompts, their answers, and where the text of a prompt ends."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from interp.core.errors import PairsError
from interp.core.prompts.unknown import unknown

BEFORE_A_SPACE = frozenset(".,;:!?)")
"""Marks after which a text goes on with a space, as it does after a letter or a digit."""


@runtime_checkable
class Encodes(Protocol):
    """What building pairs from text needs of a model."""

    def encode(self, text: str, *, bos: str = ...) -> list[int]: ...
    def token_id(self, text: str) -> int: ...
    def show(self, ids: Sequence[int]) -> list[str]: ...


@runtime_checkable
class Chats(Protocol):
    """What building pairs from chats needs of a model."""

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]: ...
    def show(self, ids: Sequence[int]) -> list[str]: ...


def prompt_ids(model: Encodes, side: str, texts: Sequence[str], bos: str) -> list[list[int]]:
    """The token ids of each text of one side.

    Raises:
        PairsError: two BOS tokens, or a word that the tokenizer has no token for.
    """
    rows = [model.encode(text, bos=bos) for text in texts]
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        return rows
    for row, (text, ids) in enumerate(zip(texts, rows, strict=True)):
        if (word := unknown(tokenizer, text, ids)) is not None:
            raise PairsError(
                f"the tokenizer has no token for {word!r} in row {row} of {side} ({text[:60]!r}): "
                f"the model would read {tokenizer.unk_token!r} in its place, as for any other such "
                "word. Use words that it has; or spell the unknown token out, if it is meant."
            )
    return rows


def answer_ids(model: Encodes, texts: Mapping[str, Sequence[str]]) -> dict[str, list[int]]:
    """The token of each answer, by side ("correct", "wrong").

    Args:
        texts: of every side; that of the prompts, "clean", is what the answers follow.

    Raises:
        PairsError: an answer is not exactly one token, or both of a row are the same.

    Warns:
        UserWarning: answers without the space that their prompts want before them.
    """
    found: dict[str, list[int]] = {}
    for side in ("correct", "wrong"):
        for row, text in enumerate(texts.get(side, ())):
            try:
                found.setdefault(side, []).append(model.token_id(text))
            except PairsError as error:
                raise PairsError(f"row {row} of {side}: {error}") from error
    if len(found) == 2:
        for row, (right, wrong) in enumerate(zip(found["correct"], found["wrong"], strict=True)):
            if right == wrong:
                raise PairsError(
                    f"row {row}: correct {texts['correct'][row]!r} and wrong "
                    f"{texts['wrong'][row]!r} are the same token, {right} "
                    f"({model.show([right])[0]}), so that their difference is 0 whatever the model "
                    "does. Give two answers that differ as tokens."
                )
    _point_out_spaces(model, texts, found)
    return found


def last_of_text(model: Encodes, text: str, ids: Sequence[int], bos: str) -> int:
    """The index of the last token of a text, before what the tokenizer appends by itself."""
    bare = ids if bos == "none" else model.encode(text, bos="none")
    for start in range(len(ids) - len(bare), -1, -1):
        if bare and list(ids[start : start + len(bare)]) == list(bare):
            return start + len(bare) - 1
    return len(ids) - 1


def _point_out_spaces(
    model: Encodes, texts: Mapping[str, Sequence[str]], found: Mapping[str, Sequence[int]]
) -> None:
    missing: list[str] = []
    for side, ids in found.items():
        for row, (prompt, text, token) in enumerate(
            zip(texts["clean"], texts[side], ids, strict=True)
        ):
            spaced = _with_space(model, prompt, text)
            if spaced is not None and spaced != token:
                missing.append(
                    f"{side} {text!r} of row {row} is token {token}, and {' ' + text!r}, which a "
                    f"model says after {prompt[-40:]!r}, is token {spaced}"
                )
    if missing:
        total = sum(map(len, found.values()))
        warnings.warn(
            f"{len(missing)} of {total} answers begin without the space that their prompt wants "
            f"before them, and with it each is one token too: {missing[0]}. Give the answers as "
            "they follow the prompt.",
            UserWarning,
            stacklevel=4,
        )


def _with_space(model: Encodes, prompt: str, answer: str) -> int | None:
    """The token of an answer with a space before it, where the prompt wants one."""
    last, first = prompt[-1:], answer[:1]
    # letters with a case: scripts that put no space between words have none
    word = first.isupper() or first.islower() or first.isdigit()
    if not word or not (last.isalnum() or last in BEFORE_A_SPACE) or not last:
        return None
    if last.isdigit() and first.isdigit():  # a number that goes on
        return None
    try:
        return model.token_id(" " + answer)
    except PairsError:
        return None
