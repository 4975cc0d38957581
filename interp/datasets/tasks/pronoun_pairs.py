"""Prompts whose next word shows whom a pronoun means, and twins in which it means the other.

"The king met the queen in the garden, and the king smiled because" -> " he": the pronoun is what
the model says. "The king called the queen when he needed help. It was easy to help the" ->
" king": the pronoun is read, and its antecedent is what the model says.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Literal

import numpy as np

from interp.core.door.door import door
from interp.core.door.taken import Count, Seed
from interp.core.errors import PairsError, nearest
from interp.core.prompts.pairs import Pairs
from interp.datasets.made.pronouns import NAME, Kind, Scene, quarrels, scenes
from interp.datasets.made.templates import Split, lists
from interp.datasets.tasks.prompts import OneToken, Row, Spans, cycle, fill, paired, require_whole
from interp.models.bridge.tokens import Bos

Answer = Literal["pronoun", "antecedent"]
FEWEST = 2
"""Couples of words; with one there is a single cluster and no interval."""
DRAWS = 8
"""Of names, for each couple of verbs."""
TEMPLATES: Mapping[tuple[Kind, Answer], str] = {
    ("gender", "pronoun"): "next",
    ("gender", "antecedent"): "who",
    ("number", "pronoun"): "next",
    ("number", "antecedent"): "who",
    ("causality", "pronoun"): "because",
    ("causality", "antecedent"): "because",
}


@door
def pronoun_pairs(
    model: Spans,
    *,
    n: Count = 64,
    seed: Seed = 0,
    kind: Kind = "gender",
    answer: Answer = "pronoun",
    split: Split | Literal["all"] = "all",
    templates: Sequence[str] | None = None,
    bos: Bos = "model",
) -> Pairs:
    """Prompt pairs that differ in one word, which decides whom the pronoun means.

    | kind | answer "pronoun" | answer "antecedent" |
    | --- | --- | --- |
    | gender | "... the **king** / **queen** smiled ..." -> he | "... **he** / **she** ..." |
    | number | "... the **kings** / **queen** smiled ..." -> they | "... **they** / **she** ..." |
    | causality | "Mary **annoyed** / **hated** John because" -> she | the same verbs -> Mary |

    Of the answers to "antecedent", causality compares two names of one gender, so that the verb
    alone decides. Words are those that are single tokens of the model. Every kind of row (who is
    meant, in which order, of which gender or number) is there equally often, to within one; so are
    couples and templates.

    Args:
        model: anything with `encode_with_offsets` and `show`.
        n: number of pairs.
        seed: of all that is drawn.
        kind: what decides whom the pronoun means.
        answer: what the model is to say: the pronoun, or whom it means.
        split: of the couples (and names), as in `pronouns`.
        templates: names of the wordings to use (`wordings` has them), so that what is fitted to
            some may be tried on others; all by default.
        bos: `"model"` adds what the tokenizer adds by itself, `"none"` nothing.

    Returns:
        n pairs; `correct` is what the clean prompt asks for, `wrong` what the corrupt one does.
        Positions: "antecedent" and "competitor" (the two first mentions; the corrupt prompt means
        the competitor), "cue" (the word that differs: the second mention, the pronoun, or the
        verb), "end". The cluster is the couple of nouns or verbs, the template
        the text with its slots.

    Raises:
        PairsError: an unknown template, a tokenizer that leaves fewer than two couples, that
            splits a word inside a prompt, or has no token for one.
    """
    rng = np.random.default_rng([*f"{kind} {answer}".encode(), seed])
    known = OneToken(model)
    cells = _cells(kind, answer, split, known, rng)
    couples = sorted({name for cell in cells.values() for name in cell})
    if len(couples) < FEWEST:
        raise PairsError(
            f"only {len(couples)} couples of words of kind {kind!r} (split {split!r}) are single "
            f"tokens after a space for {known.name} ({', '.join(couples) or 'none'}); at least "
            f"{FEWEST} are needed. Its vocabulary is likely small or not English: use another "
            "model, or build prompts with words that it has (Pairs.from_text)."
        )
    texts = lists(NAME, "templates")[TEMPLATES[kind, answer]]
    frames = cycle(rng, [texts[name] for name in _wordings(kind, answer, templates)])
    cue = "V" if kind == "causality" else "S" if answer == "pronoun" else "P"
    rows = []
    for scene in list(islice(_balanced(rng, cells, couples), n)):  # before the wordings are drawn
        text = _text(scene, answer, next(frames), rng)
        named = {"antecedent": scene.antecedent, "competitor": scene.competitor}
        sides, answers = [], []
        for slot in named.values():
            words = scene.slots(slot, said=slot)
            prompt = fill(model, text, words, bos=bos)
            require_whole(known, prompt, {k: words[k] for k in prompt.at if k != "end"})
            sides.append(prompt)
            answers.append(known[words["P" if answer == "pronoun" else "S"]] or 0)
        clean, corrupt = sides
        if clean.at != corrupt.at:
            raise PairsError(
                f"the words of {text!r} stand at {clean.at} in the clean prompt and at "
                f"{corrupt.at} in the corrupt one, though each is one token: the tokenizer merges "
                "words across spaces. Use another tokenizer for this task."
            )
        at = {name: clean.at[slot] for name, slot in {**named, "cue": cue, "end": "end"}.items()}
        rows.append(Row(clean.ids, corrupt.ids, at, *answers, scene.cluster, text))
    return paired(model, rows, bos=bos)


@door
def wordings(kind: Kind = "gender", answer: Answer = "pronoun") -> tuple[str, ...]:
    """Names of the templates that such prompts are made of."""
    return tuple(lists(NAME, "templates")[TEMPLATES[kind, answer]])


def _wordings(kind: Kind, answer: Answer, asked: Sequence[str] | None) -> Sequence[str]:
    """The templates asked for, or all.

    Raises:
        PairsError: none, or one that there is not.
    """
    known = wordings(kind, answer)
    if asked is None:
        return known
    if lost := [name for name in asked if name not in known] or (not asked and ["templates=[]"]):
        raise PairsError(
            f"pronoun_pairs has no template {lost[0]!r} of kind {kind!r} and answer {answer!r}; "
            f"{nearest(lost[0], known)}"
        )
    return asked


def _cells(
    kind: Kind, answer: Answer, split: str, known: OneToken, rng: np.random.Generator
) -> dict[tuple, dict[str, list[Scene]]]:
    """Scenes by condition and couple, of the couples whose words are all single tokens."""
    if kind == "causality":
        people = lists("ioi", "words")["names"].values()
        names = frozenset(name for pool in people for name in pool if name in known)
        draws = [quarrels(rng, same=answer == "antecedent", known=names) for _ in range(DRAWS)]
        found = [scene for draw in draws for scene in draw]
    else:
        found = list(scenes(kind))
    cells: dict[tuple, dict[str, list[Scene]]] = {}
    unknown: set[str] = set()
    for scene in found:
        slots = scene.slots(scene.antecedent, said=scene.antecedent)
        if not all(word in known for word in slots.values() if word):
            unknown.add(scene.cluster)
        if split in ("all", scene.split):
            condition = (scene.antecedent, *scene.forms.values())
            cells.setdefault(condition, {}).setdefault(scene.cluster, []).append(scene)
    return {
        condition: {name: cell for name, cell in by_couple.items() if name not in unknown}
        for condition, by_couple in sorted(cells.items())
    }


def _balanced(
    rng: np.random.Generator, cells: dict[tuple, dict[str, list[Scene]]], couples: list[str]
) -> Iterator[Scene]:
    """Scenes without end; any prefix has conditions and couples equally, to within one."""
    names = cycle(rng, couples)
    for condition in cycle(rng, list(cells)):
        choices = cells[condition][next(names)]
        yield choices[int(rng.integers(len(choices)))]


def _text(scene: Scene, answer: Answer, template: str | list[str], rng: np.random.Generator) -> str:
    """The text up to the answer, with the scene's slots."""
    if scene.kind != "causality":
        return template if isinstance(template, str) else " ".join(template)
    if answer == "pronoun":
        return str(template)
    reasons = list(lists(NAME, "templates")["reasons"][scene.tone].values())
    reason, question = reasons[int(rng.integers(len(reasons)))]
    return f"{template} {{P}} {reason}. {question}"
