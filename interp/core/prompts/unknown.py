"""The token that stands for whatever a vocabulary has not.

Byte-level vocabularies spell anything and make none, though some name their end mark so (GPT-2);
those of words and of word pieces read it in place of a word, and the model never sees the word.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Tokenizer(Protocol):
    """What is asked of a tokenizer here."""

    unk_token: Any
    unk_token_id: Any
    is_fast: Any

    def __call__(self, text: Any = ..., **kwargs: Any) -> Any: ...


def unknown(
    tokenizer: Tokenizer, text: str, ids: Sequence[int], *, target: bool = False
) -> str | None:
    """The first word of a text that became the unknown token; None if none did.

    The token itself, spelt out in the text, is what the writer meant.

    Args:
        ids: of the text.
        target: it is in the language that a decoder writes.
    """
    token, mark = tokenizer.unk_token_id, str(tokenizer.unk_token)
    if token is None or token not in ids:
        return None
    if tokenizer.is_fast:
        out = _bare(tokenizer, text, target, return_offsets_mapping=True)
        spans = zip(out["input_ids"], out["offset_mapping"], strict=True)
        words = (text[start:end].strip() for found, (start, end) in spans if found == token)
        return next((word or text for word in words if word != mark), None)
    words = text.replace(mark, " ")
    if token not in _bare(tokenizer, words, target)["input_ids"]:
        return None
    alone = (w for w in words.split() if token in _bare(tokenizer, w, target)["input_ids"])
    return next(alone, text)


def _bare(tokenizer: Tokenizer, text: str, target: bool, **how: Any) -> Any:
    given = {"text_target": text} if target else {"text": text}
    return tokenizer(**given, add_special_tokens=False, **how)
