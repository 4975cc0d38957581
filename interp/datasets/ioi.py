"""Indirect object identification: "... Mary and John ..., John gave a book to" -> " Mary".

The task of Wang et al. 2022 (sec. 2); the templates and words are this project's own (data/ioi).
A template has three name slots: the indirect object `{IO}`, the subject `{S}`, and the subject
again, `{S2}`.
"""

import json
import re
from collections.abc import Sequence
from functools import cache
from itertools import islice
from string import Formatter
from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np

from interp.core.errors import PairsError, nearest
from interp.core.pairs import Pairs
from interp.datasets.files import folder
from interp.models.tokens import Bos, Offsets, token_at

Corruption = Literal["abc", "swap"]

# A prompt and its "abc" twin take five names; with fewer than twice that, names repeat everywhere.
FEWEST = {"names": 10, "places": 2, "objects": 2}


@runtime_checkable
class Spans(Protocol):
    """What the task needs of a model: ids with the characters that they cover."""

    def encode_with_offsets(self, text: str, *, bos: Bos = ...) -> tuple[list[int], Offsets]: ...
    def show(self, ids: list[int]) -> list[str]: ...


def ioi(
    model: Spans,
    *,
    n: int = 64,
    seed: int = 0,
    corruption: Corruption = "abc",
    bos: Bos = "model",
) -> Pairs:
    """Prompts that end right before the name that was mentioned once.

    Names, places and objects are those that are single tokens of the model, so all prompts of a
    template align. Every template comes in both orders of its first clause ("ABBA" and "BABA")
    equally often when n is a multiple of 40, else as nearly as can be. The same seed gives the
    same clean prompts under either corruption.

    Args:
        model: anything with `encode_with_offsets` and `show`.
        n: number of pairs.
        corruption: `"abc"` puts three unrelated names in the three name slots (p_ABC, Wang et al.
            2022, sec. 2.1), so that neither answer is right; `"swap"` puts IO in the place of S2
            (symmetric token replacement, Zhang & Nanda 2024, sec. 2), so that S is right.
        bos: `"model"` adds what the tokenizer adds by itself, `"none"` nothing.

    Returns:
        n pairs; `correct` is " IO" and `wrong` " S". Positions, in both rows of a pair: "io" and
        "s1" (first mentions), "s1+1" (the token after S1), "s2", "end". The cluster is the
        template's id, for both orders.

    Raises:
        PairsError: n < 1, a negative seed, an unknown corruption, or a tokenizer that leaves too
            few words or splits a name inside a prompt.
    """
    if n < 1 or seed < 0:
        raise PairsError(
            f"ioi was asked for n={n} pairs with seed={seed}; n must be at least 1 and the seed at "
            "least 0."
        )
    if corruption not in get_args(Corruption):
        raise PairsError(
            f"ioi has no corruption {corruption!r}; {nearest(corruption, get_args(Corruption))}"
        )
    ids_of = {kind: _single(model, kind, words) for kind, words in vocabulary().items()}
    names, places, objects = (list(words) for words in ids_of.values())
    rng = np.random.default_rng([*b"ioi", seed])
    sides: dict[str, list[list[int]]] = {"clean": [], "corrupt": []}
    marks: list[dict[str, int]] = []
    clusters = _schedule(rng, n)
    for cluster, order in clusters:
        template = templates()[cluster]
        template = _exchange(template) if order == "BABA" else template
        io, s, *others = rng.choice(names, 5, replace=False).tolist()
        scene = {"PLACE": str(rng.choice(places)), "OBJECT": str(rng.choice(objects))}
        corrupt = (io, s, io) if corruption == "swap" else others
        row = {}
        for side, people in (("clean", (io, s, s)), ("corrupt", corrupt)):
            slots = dict(zip(("IO", "S", "S2"), people, strict=True)) | scene
            ids, row[side] = _tokenise(model, template, slots, ids_of["names"], bos)
            sides[side].append(ids)
        if row["clean"] != row["corrupt"]:
            raise PairsError(
                f"the names of template {cluster!r} stand at {row['clean']} in the clean prompt "
                f"and at {row['corrupt']} in the corrupt one, though each is one token: the "
                "tokenizer merges words across spaces. Use another tokenizer for this task."
            )
        marks.append(row["clean"])
    return Pairs.from_tokens(
        clean=sides["clean"],
        corrupt=sides["corrupt"],
        correct=[ids[at["io"]] for ids, at in zip(sides["clean"], marks, strict=True)],
        wrong=[ids[at["s1"]] for ids, at in zip(sides["clean"], marks, strict=True)],
        positions={name: [row[name] for row in marks] for name in marks[0]},
        cluster=[cluster for cluster, _ in clusters],
        strings=[
            (tuple(model.show(a)), tuple(model.show(b)))
            for a, b in zip(sides["clean"], sides["corrupt"], strict=True)
        ],
        bos=bos,
    )


@cache
def templates() -> dict[str, str]:
    """The templates by id, in ABBA order: `{IO} and {S} ... {S2} ... {OBJECT} to`."""
    return json.loads((folder("ioi") / "templates.json").read_text(encoding="utf-8"))


@cache
def vocabulary() -> dict[str, tuple[str, ...]]:
    """All names, places and objects, before any tokenizer has its say."""
    words = json.loads((folder("ioi") / "words.json").read_text(encoding="utf-8"))
    names = words["names"]["feminine"] + words["names"]["masculine"]
    return {"names": (*names,), "places": (*words["places"],), "objects": (*words["objects"],)}


def _exchange(template: str) -> str:
    """BABA order: IO and S change places; S2 stays."""
    return re.sub(r"{(IO|S)}", lambda slot: "{S}" if slot[1] == "IO" else "{IO}", template)


def _schedule(rng: np.random.Generator, n: int) -> list[tuple[str, str]]:
    """n (template, order) cells: any prefix holds templates and orders equally, to within one."""

    def cells():
        while True:
            names, first = rng.permutation(list(templates())).tolist(), int(rng.integers(2))
            for half in (0, 1):
                for i, name in enumerate(names):
                    yield name, ("ABBA", "BABA")[(first + half + i) % 2]

    return list(islice(cells(), n))


def _single(model: Spans, kind: str, words: Sequence[str]) -> dict[str, int]:
    """The words that are one token after another word, with their ids.

    Raises:
        PairsError: fewer are left than the task needs.
    """
    kept = {}
    for word in words:
        # In context, not alone: some tokenizers put a space of their own before a text.
        ids, offsets = model.encode_with_offsets(f"to {word}", bos="none")
        i = token_at(offsets, len(word) + 2)
        # An unknown-word token is single too, but it does not spell the word.
        if offsets[i][0] in (2, 3) and word.lower() in model.show([ids[i]])[0].lower():
            kept[word] = ids[i]
    if len(kept) < FEWEST[kind]:
        raise PairsError(
            f"only {len(kept)} of the {len(words)} {kind} of the ioi task are single tokens after "
            f"a space for {_describe(model)} ({', '.join(kept) or 'none'}); at least "
            f"{FEWEST[kind]} are needed. Its vocabulary is likely small or not English: use "
            "another model, or build prompts with words that it has (Pairs.from_text)."
        )
    return kept


def _tokenise(
    model: Spans, template: str, slots: dict[str, str], ids_of: dict[str, int], bos: Bos
) -> tuple[list[int], dict[str, int]]:
    """Ids of a filled template and the index of each named position.

    Raises:
        PairsError: a name is not the one token that it is after another word.
    """
    text, last = "", {}
    for literal, slot, _, _ in Formatter().parse(template):
        text += literal + (slots[slot] if slot else "")
        if slot:
            last[slot] = len(text) - 1  # a token may begin with the space before its word
    ids, offsets = model.encode_with_offsets(text, bos=bos)
    at = {slot: token_at(offsets, last[slot]) for slot in ("IO", "S", "S2")}
    for slot, i in at.items():
        if ids[i] != ids_of[slots[slot]]:
            raise PairsError(
                f'the name {slots[slot]!r} is one token after "to" but not in {text!r}, '
                f"where {model.show(ids[i : i + 1])[0]!r} ends it: {_describe(model)} tokenises a "
                "word by its surroundings. Use another tokenizer for this task."
            )
    end = token_at(offsets, len(text) - 1)  # not ids[-1]: some tokenizers add an end token
    return ids, {"io": at["IO"], "s1": at["S"], "s1+1": at["S"] + 1, "s2": at["S2"], "end": end}


def _describe(model: Spans) -> str:
    return f"the tokenizer of {getattr(model, 'name', type(model).__name__)}"
