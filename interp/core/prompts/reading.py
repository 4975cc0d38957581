"""Texts as a tokenizer reads them: prompts, their answers, and where the text of a prompt ends."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from interp.core.errors import PairsError
from interp.core.prompts.unknown import unknown

BEFORE_A_SPACE = frozenset(".,;:!?)")
"""Marks after which a text goes on with a space, as it does after a letter or a digit."""


@runtime_checkable
class Encodes(Protocol):
    """What building pairs from text needs of a model."""

    def encode(self, text: str, *, bos: str = ..., target: bool = ...) -> list[int]: ...
    def token_id(self, text: str) -> int: ...
    def show(self, ids: Sequence[int]) -> list[str]: ...


@runtime_checkable
class Chats(Protocol):
    """What building pairs from chats needs of a model."""

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]: ...
    def show(self, ids: Sequence[int]) -> list[str]: ...


@dataclass(frozen=True)
class Read:
    """Texts of one side, as tokens.

    Attributes:
        shown: readable tokens.
        ends: the index of the last token of each text.
    """

    ids: list[list[int]]
    shown: list[tuple[str, ...]]
    ends: list[int]


def read_side(
    model: Encodes, side: str, texts: Sequence[str], bos: str, *, target: bool = False
) -> Read:
    """The texts of one side; `target`: in the language that a decoder writes.

    Raises:
        PairsError: as `prompt_ids`.
    """
    ids = prompt_ids(model, side, texts, bos, target=target)
    ends = [
        last_of_text(model, text, row, bos, target=target)
        for text, row in zip(texts, ids, strict=True)
    ]
    return Read(ids, [tuple(model.show(row)) for row in ids], ends)


def read_target(
    model: Encodes,
    texts: Mapping[str, Sequence[str]],
    positions: Mapping[str, Any] | None,
    bos: str,
) -> dict[str, Any]:
    """What `Pairs.from_tokens` takes of targets that are given as texts.

    Raises:
        PairsError: as `prompt_ids`.
    """
    if "target" not in texts:
        given = {"corrupt_target": texts.get("corrupt_target"), "target_positions": positions}
        return {name: of for name, of in given.items() if of is not None}
    sides = [
        read_side(model, side, texts[side], bos, target=True)
        for side in ("target", "corrupt_target")
        if side in texts
    ]
    # in the decoder, whose start token is its first
    named = {"end": [1 + at for at in sides[0].ends], **(positions or {})}
    return {
        "target": sides[0].ids,
        "corrupt_target": sides[-1].ids,
        "target_positions": named,
        "target_strings": tuple(zip(sides[0].shown, sides[-1].shown, strict=False)),
    }


def prompt_ids(
    model: Encodes, side: str, texts: Sequence[str], bos: str, *, target: bool = False
) -> list[list[int]]:
    """The token ids of each text of one side.

    Raises:
        PairsError: two BOS tokens, or a word that the tokenizer has no token for.
    """
    rows = [_encode(model, text, bos, target=target) for text in texts]
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        return rows
    for row, (text, ids) in enumerate(zip(texts, rows, strict=True)):
        if (word := unknown(tokenizer, text, ids, target=target)) is not None:
            raise PairsError(
                f"the tokenizer has no token for {word!r} in row {row} of {side} ({text[:60]!r}): "
                f"the model would read {tokenizer.unk_token!r} in its place, as for any other such "
                "word. Use words that it has; or spell the unknown token out, if it is meant."
            )
    return rows


def answer_ids(model: Encodes, texts: Mapping[str, Sequence[str]]) -> dict[str, list[int]]:
    """The token of each answer, by side ("correct", "wrong").

    Args:
        texts: of every side; what a decoder has written, "target", is what the answers follow, or
            else the prompts, "clean".

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


def _encode(model: Encodes, text: str, bos: str, *, target: bool) -> list[int]:
    return model.encode(text, bos=bos, **({"target": True} if target else {}))


def last_of_text(
    model: Encodes, text: str, ids: Sequence[int], bos: str, *, target: bool = False
) -> int:
    """The index of the last token of a text, before what the tokenizer appends by itself."""
    bare = ids if bos == "none" else _encode(model, text, "none", target=target)
    for start in range(len(ids) - len(bare), -1, -1):
        if bare and list(ids[start : start + len(bare)]) == list(bare):
            return start + len(bare) - 1
    return len(ids) - 1


def _point_out_spaces(
    model: Encodes, texts: Mapping[str, Sequence[str]], found: Mapping[str, Sequence[int]]
) -> None:
    missing: list[str] = []
    before = texts.get("target", texts["clean"])
    for side, ids in found.items():
        for row, (prompt, text, token) in enumerate(zip(before, texts[side], ids, strict=True)):
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
