"""Prompt pairs from templates: which words are one token of a model, and where they stand."""

from collections.abc import Iterator, Mapping, Sequence
from string import Formatter
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np

from interp.core.errors import PairsError
from interp.core.prompts.pairs import Pairs
from interp.core.prompts.unknown import unknown
from interp.models.bridge.tokens import Bos, Offsets, token_at

T = TypeVar("T")


@runtime_checkable
class Spans(Protocol):
    """What a task needs of a model: ids with the characters that they cover."""

    def encode_with_offsets(self, text: str, *, bos: Bos = ...) -> tuple[list[int], Offsets]: ...
    def show(self, ids: list[int]) -> list[str]: ...


class Prompt(NamedTuple):
    """Ids of a filled template, and the index of the last token of each slot and of the text."""

    ids: list[int]
    at: dict[str, int]


class Row(NamedTuple):
    """One pair: ids of both prompts, named positions, ids of the answers, cluster, template."""

    clean: list[int]
    corrupt: list[int]
    at: dict[str, int]
    correct: int
    wrong: int
    cluster: str
    template: str


class OneToken:
    """Which words are one token after another word, and which token; asked once for each word."""

    def __init__(self, model: Spans):
        self.model = model
        self.name = f"the tokenizer of {getattr(model, 'name', type(model).__name__)}"
        self._ids: dict[str, int | None] = {}

    def __getitem__(self, word: str) -> int | None:
        if word not in self._ids:
            # In context, not alone: some tokenizers put a space of their own before a text.
            ids, offsets = self.model.encode_with_offsets(f"to {word}", bos="none")
            i = token_at(offsets, len(word) + 2)
            # An unknown-word token is single too, but it does not spell the word.
            spelt = word.lower() in self.model.show([ids[i]])[0].lower()
            self._ids[word] = ids[i] if offsets[i][0] in (2, 3) and spelt else None
        return self._ids[word]

    def __contains__(self, word: str) -> bool:
        return self[word] is not None


def fill(model: Spans, template: str, slots: Mapping[str, str], *, bos: Bos) -> Prompt:
    """Tokenise a template whose `{slots}` are filled; `at["end"]` is the text's last token.

    Raises:
        PairsError: the tokenizer has no token for a word of it.
    """
    text, last = "", dict[str, int]()
    for literal, slot, _, _ in Formatter().parse(template):
        text += literal + (slots[slot] if slot else "")
        if slot:
            last[slot] = len(text) - 1  # a token may begin with the space before its word
    ids, offsets = model.encode_with_offsets(text, bos=bos)
    if (word := unknown_word(model, text, ids)) is not None:
        raise PairsError(
            f"the tokenizer has no token for {word!r} of {text!r}, and the model would read the "
            "unknown token in its place. Its vocabulary is likely small or not English: use "
            "another model, or build prompts with words that it has (Pairs.from_text)."
        )
    # not ids[-1]: some tokenizers add an end token
    last["end"] = len(text) - 1
    return Prompt(ids, {slot: token_at(offsets, character) for slot, character in last.items()})


def unknown_word(model: object, text: str, ids: Sequence[int]) -> str | None:
    """The first word of a text that the model's tokenizer has no token for; None if it has all."""
    tokenizer = getattr(model, "tokenizer", None)
    return None if tokenizer is None else unknown(tokenizer, text, ids)


def readable(model: Spans, words: Sequence[str], *, after: str = "to ") -> list[str]:
    """The words that the tokenizer has tokens for, one or several, after some text.

    Raises:
        PairsError: it has none of them.
    """
    texts = {word: after + word for word in words}
    ids = {word: model.encode_with_offsets(text, bos="none")[0] for word, text in texts.items()}
    kept = [word for word in words if unknown_word(model, texts[word], ids[word]) is None]
    if not kept:
        raise PairsError(
            f"the tokenizer has no token for any of {', '.join(map(repr, words))}. Its vocabulary "
            "is likely small or not English: use another model, or build prompts with words that "
            "it has (Pairs.from_text)."
        )
    return kept


def require_whole(known: OneToken, prompt: Prompt, words: Mapping[str, str]) -> None:
    """Refuse a prompt in which a slot's word is not the one token that it is elsewhere.

    Args:
        words: of each slot that has to be one token.

    Raises:
        PairsError: it is not.
    """
    for slot, word in words.items():
        found = prompt.ids[prompt.at[slot]]
        if found != known[word]:
            raise PairsError(
                f'{word!r} is one token after "to" but not in {known.model.show(prompt.ids)}, '
                f"where {known.model.show([found])[0]!r} ends it: {known.name} tokenises a word by "
                "its surroundings. Use another tokenizer for this task."
            )


def paired(model: Spans, rows: Sequence[Row], *, bos: Bos) -> Pairs:
    """Rows that have the same named positions, as pairs that can be read."""
    return Pairs.from_tokens(
        clean=[row.clean for row in rows],
        corrupt=[row.corrupt for row in rows],
        correct=[row.correct for row in rows],
        wrong=[row.wrong for row in rows],
        positions={name: [row.at[name] for row in rows] for name in rows[0].at},
        cluster=[row.cluster for row in rows],
        template=[row.template for row in rows],
        strings=[(tuple(model.show(row.clean)), tuple(model.show(row.corrupt))) for row in rows],
        bos=bos,
    )


def cycle(rng: np.random.Generator, items: Sequence[T]) -> Iterator[T]:
    """All items in a random order, then in another, without end: any prefix is balanced."""
    while True:
        for i in rng.permutation(len(items)):
            yield items[i]
