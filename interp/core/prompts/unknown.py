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

    def __call__(self, text: str, **kwargs: Any) -> Any: ...


def unknown(tokenizer: Tokenizer, text: str, ids: Sequence[int]) -> str | None:
    """The first word of a text that became the unknown token; None if none did.

    The token itself, spelt out in the text, is what the writer meant.

    Args:
        ids: of the text.
    """
    token, mark = tokenizer.unk_token_id, str(tokenizer.unk_token)
    if token is None or token not in ids:
        return None
    if tokenizer.is_fast:
        out = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        spans = zip(out["input_ids"], out["offset_mapping"], strict=True)
        words = (text[start:end].strip() for found, (start, end) in spans if found == token)
        return next((word or text for word in words if word != mark), None)
    bare = tokenizer(text.replace(mark, " "), add_special_tokens=False)["input_ids"]
    if token not in bare:
        return None
    alone = (w for w in text.replace(mark, " ").split() if token in _alone(tokenizer, w))
    return next(alone, text)


def _alone(tokenizer: Tokenizer, word: str) -> Sequence[int]:
    return tokenizer(word, add_special_tokens=False)["input_ids"]
