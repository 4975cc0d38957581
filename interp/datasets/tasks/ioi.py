"""Indirect object identification: "... Mary and John ..., John gave a book to" -> " Mary".

The task of Wang et al. 2022 (sec. 2); the templates and words are this project's own (data/ioi).
A template has three name slots: the indirect object `{IO}`, the subject `{S}`, and the subject
again, `{S2}`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Literal

import numpy as np

from interp.core.door.door import door
from interp.core.door.taken import Count, Seed
from interp.core.errors import PairsError
from interp.core.prompts.pairs import Pairs
from interp.datasets.named.files import folder
from interp.datasets.tasks.prompts import OneToken, Prompt, Row, Spans, fill, paired, require_whole
from interp.models.bridge.tokens import Bos

Corruption = Literal["abc", "swap"]

# A prompt and its "abc" twin take five names; with fewer than twice that, names repeat everywhere.
FEWEST = {"names": 10, "places": 2, "objects": 2}


@door
def ioi(
    model: Spans,
    *,
    n: Count = 64,
    seed: Seed = 0,
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
        seed: of all that is drawn.
        corruption: `"abc"` puts three unrelated names in the three name slots (p_ABC, Wang et al.
            2022, sec. 2.1), so that neither answer is right; `"swap"` puts IO in the place of S2
            (symmetric token replacement, Zhang & Nanda 2024, sec. 2), so that S is right.
        bos: `"model"` adds what the tokenizer adds by itself, `"none"` nothing.

    Returns:
        n pairs; `correct` is " IO" and `wrong` " S". Positions, in both rows of a pair: "io" and
        "s1" (first mentions), "s1+1" (the token after S1), "s2", "end". The cluster is the
        template's id, for both orders.

    Raises:
        PairsError: a tokenizer that leaves too few words, splits a name inside a prompt, or has no
            token for a word of one.
    """
    known = OneToken(model)
    kept = {kind: _single(known, kind, words) for kind, words in vocabulary().items()}
    names, places, objects = kept.values()
    rng = np.random.default_rng([*b"ioi", seed])
    rows = []
    for cluster, order in _schedule(rng, n):
        template = templates()[cluster]
        template = _exchange(template) if order == "BABA" else template
        io, s, *others = rng.choice(names, 5, replace=False).tolist()
        scene = {"PLACE": str(rng.choice(places)), "OBJECT": str(rng.choice(objects))}
        people = (io, s, io) if corruption == "swap" else others
        clean = _prompt(known, template, (io, s, s), scene, bos)
        corrupt = _prompt(known, template, people, scene, bos)
        if clean.at != corrupt.at:
            raise PairsError(
                f"the names of template {cluster!r} stand at {clean.at} in the clean prompt and at "
                f"{corrupt.at} in the corrupt one, though each is one token: the tokenizer merges "
                "words across spaces. Use another tokenizer for this task."
            )
        right, wrong = clean.ids[clean.at["io"]], clean.ids[clean.at["s1"]]
        rows.append(Row(clean.ids, corrupt.ids, clean.at, right, wrong, cluster, cluster))
    return paired(model, rows, bos=bos)


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


def _single(known: OneToken, kind: str, words: Sequence[str]) -> list[str]:
    """The words that are one token after another word.

    Raises:
        PairsError: fewer are left than the task needs.
    """
    kept = [word for word in words if word in known]
    if len(kept) < FEWEST[kind]:
        raise PairsError(
            f"only {len(kept)} of the {len(words)} {kind} of the ioi task are single tokens after "
            f"a space for {known.name} ({', '.join(kept) or 'none'}); at least {FEWEST[kind]} are "
            "needed. Its vocabulary is likely small or not English: use another model, or build "
            "prompts with words that it has (Pairs.from_text)."
        )
    return kept


def _prompt(
    known: OneToken, template: str, people: Sequence[str], scene: Mapping[str, str], bos: Bos
) -> Prompt:
    """The prompt with these people as IO, S and S2.

    Raises:
        PairsError: a name is not the one token that it is after another word.
    """
    names = dict(zip(("IO", "S", "S2"), people, strict=True))
    prompt = fill(known.model, template, {**names, **scene}, bos=bos)
    require_whole(known, prompt, names)
    io, s, s2, end = (prompt.at[slot] for slot in ("IO", "S", "S2", "end"))
    return Prompt(prompt.ids, {"io": io, "s1": s, "s1+1": s + 1, "s2": s2, "end": end})
