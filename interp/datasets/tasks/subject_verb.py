"""Subject-verb agreement: "I know that the author near the pilots still" -> " writes".

The twin of a prompt has the other number of the subject, and nothing else differs: the corruption
of Finlayson et al. (2021, sec. 3), in structures after theirs, with this project's own words.
"""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Annotated, Literal, get_args

import numpy as np

from interp.core.door.door import door
from interp.core.door.taken import Count, NotEmpty, Seed
from interp.core.errors import PairsError
from interp.core.prompts.pairs import Pairs
from interp.datasets.tasks.prompts import (
    OneToken,
    Prompt,
    Row,
    Spans,
    cycle,
    fill,
    paired,
    readable,
    require_whole,
)
from interp.models.bridge.tokens import Bos

Structure = Literal["simple", "prepositional", "subject relative", "object relative"]
STRUCTURES: tuple[Structure, ...] = get_args(Structure)
TEMPLATES: Mapping[Structure, str] = {
    "simple": "{LEAD} the {SUBJECT} {ADVERB}",
    "prepositional": "{LEAD} the {SUBJECT} {NEAR} the {ATTRACTOR} {ADVERB}",
    "subject relative": "{LEAD} the {SUBJECT} that {DID} the {ATTRACTOR} {ADVERB}",
    "object relative": "{LEAD} the {SUBJECT} that the {ATTRACTOR} {DOES}",
}
LEADS = ("I know that", "She said that", "We heard that", "It seems that")
"""Without them the subject would be a row's first or second token, where attention rests."""
NEAR = ("near", "behind", "with", "above")
DID = ("liked", "helped", "called", "followed")
"""In the past, which has no number."""
ADVERBS = ("still", "often", "always", "never", "really", "now")
"""So that the verb does not follow the noun that distracts from its subject."""
DOES = (("likes", "like"), ("knows", "know"), ("sees", "see"), ("wants", "want"))
"""The verb of the object relative clause, which agrees with the attractor."""
NOUNS = (
    *("author", "pilot", "surgeon", "farmer", "manager", "customer", "officer", "teacher"),
    *("senator", "consultant", "doctor", "lawyer", "student", "writer", "singer", "actor"),
    *("driver", "guard", "king", "queen", "nurse", "artist", "player", "soldier", "boy", "girl"),
    *("sister", "brother", "friend", "neighbor", "worker", "scientist", "dancer", "judge", "poet"),
    *("clerk", "cook", "hunter", "sailor", "prince", "captain", "priest", "engineer", "director"),
    *("editor", "leader", "owner", "painter", "musician", "professor", "minister", "chef"),
    *("guest", "parent", "visitor", "tourist", "agent", "rider", "daughter", "uncle"),
)
"""Their plural has an s more."""
VERBS = (
    *(("is", "are"), ("was", "were"), ("has", "have"), ("works", "work"), ("knows", "know")),
    *(("wants", "want"), ("thinks", "think"), ("needs", "need"), ("lives", "live"), ("goes", "go")),
    *(("says", "say"), ("makes", "make"), ("comes", "come"), ("stands", "stand")),
    *(("speaks", "speak"), ("plays", "play"), ("writes", "write"), ("seems", "seem")),
)
FEWEST = {"nouns": 10, "verbs": 2}
"""Nouns are what is resampled; and with one verb a preference for a word would be agreement."""


@door
def subject_verb(
    model: Spans,
    *,
    n: Count = 64,
    seed: Seed = 0,
    structures: Annotated[Sequence[Structure], NotEmpty()] = STRUCTURES,
    bos: Bos = "model",
) -> Pairs:
    """Prompts that end right before the verb, and twins with the subject's other number.

    | structure | prompt |
    | --- | --- |
    | simple | I know that the **author** / **authors** still |
    | prepositional | ... the **author** / **authors** near the pilots still |
    | subject relative | ... the **author** / **authors** that helped the pilots still |
    | object relative | ... the **author** / **authors** that the pilots like |

    Structures, and in each of them singular and plural subjects and attractors, come equally often
    to within one. Nouns and verbs are those whose two forms are single tokens of the model, so that
    the twins align; no noun comes twice before all others have come.

    Args:
        model: anything with `encode_with_offsets` and `show`.
        n: number of pairs.
        seed: of all that is drawn.
        structures: those to use, of the table above.
        bos: `"model"` adds what the tokenizer adds by itself, `"none"` nothing.

    Returns:
        n pairs; `correct` is the form of the verb that agrees with the clean subject, `wrong` the
        one that agrees with the corrupt subject. Positions: "subject", "end", and "attractor" if
        every structure asked for has one. The cluster is the subject in the singular, the template
        the structure, of each place that the subject may have.

    Raises:
        PairsError: a tokenizer that leaves too few words, splits one inside a prompt, or has no
            token for one.
    """
    known = OneToken(model)
    nouns = _both(known, "nouns", [(noun, f"{noun}s") for noun in NOUNS])
    rng = np.random.default_rng([*b"subject_verb", seed])
    subjects, verbs = cycle(rng, nouns), cycle(rng, _both(known, "verbs", VERBS))
    leads = readable(model, LEADS, after="")
    near, did, adverbs = (readable(model, words) for words in (NEAR, DID, ADVERBS))
    does = [readable(model, column) for column in zip(*DOES, strict=True)]
    names = ("subject", "end") if "simple" in structures else ("subject", "attractor", "end")
    rows = []
    for structure, number, of_other in _conditions(rng, structures, n):
        subject, verb = next(subjects), next(verbs)
        other = nouns[rng.choice([i for i, noun in enumerate(nouns) if noun != subject])]
        slots = {
            "LEAD": str(rng.choice(leads)),
            "NEAR": str(rng.choice(near)),
            "DID": str(rng.choice(did)),
            "DOES": str(rng.choice(does[of_other])),
            "ADVERB": str(rng.choice(adverbs)),
            "ATTRACTOR": other[of_other],
        }
        forms = subject[number], subject[1 - number]
        (clean, at), (corrupt, _) = _twins(known, TEMPLATES[structure], slots, forms, bos)
        right, wrong = known[verb[number]], known[verb[1 - number]]
        assert right is not None  # _both has kept no others
        assert wrong is not None
        named = {k: at[k] for k in names}
        text = ", ".join([structure, *(f"{name} at {index}" for name, index in named.items())])
        rows.append(Row(clean, corrupt, named, right, wrong, subject[0], text))
    return paired(model, rows, bos=bos)


def _twins(
    known: OneToken, template: str, slots: Mapping[str, str], forms: tuple[str, str], bos: Bos
) -> tuple[Prompt, Prompt]:
    """The prompt with either form of the subject.

    Raises:
        PairsError: the form is another token there, or the twins do not align.
    """
    found = []
    for form in forms:
        prompt = fill(known.model, template, {**slots, "SUBJECT": form}, bos=bos)
        require_whole(known, prompt, {"SUBJECT": form})
        found.append(Prompt(prompt.ids, {slot.lower(): i for slot, i in prompt.at.items()}))
    clean, corrupt = found
    if clean.at != corrupt.at:
        raise PairsError(
            f"{forms[0]!r} and {forms[1]!r} are single tokens, yet the words of {template!r} stand "
            f"at {clean.at} with one and at {corrupt.at} with the other: {known.name} merges words "
            "across spaces. Use another tokenizer for this task."
        )
    return clean, corrupt


def _conditions(
    rng: np.random.Generator, structures: Sequence[Structure], n: int
) -> list[tuple[Structure, int, int]]:
    """n times a structure and whether its subject and its attractor are plural; balanced."""
    numbers = {name: cycle(rng, [(0, 0), (0, 1), (1, 0), (1, 1)]) for name in structures}
    turns = islice(cycle(rng, list(dict.fromkeys(structures))), n)
    return [(name, *next(numbers[name])) for name in turns]


def _both(
    known: OneToken, kind: Literal["nouns", "verbs"], words: Sequence[tuple[str, str]]
) -> list[tuple[str, str]]:
    """The words whose singular and plural are single tokens.

    Raises:
        PairsError: fewer are left than the task needs.
    """
    kept = [(one, many) for one, many in words if one in known and many in known]
    if len(kept) < FEWEST[kind]:
        names = ", ".join(one for one, _ in kept) or "none"
        raise PairsError(
            f"only {len(kept)} of the {len(words)} {kind} of subject_verb are single tokens after "
            f"a space, singular and plural, for {known.name} ({names}); at least {FEWEST[kind]} "
            "are needed. Its vocabulary is likely small or not English: use another model, or "
            "build prompts with words that it has (Pairs.from_text)."
        )
    return kept
