"""Head word and kind of a mention where a corpus has no syntax: by closed lists of words.

These are rules of thumb for baselines (head match) and for grouping results, not annotation.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

Gender = Literal["masculine", "feminine"]


def words_of(of: str) -> frozenset[str]:
    """A closed list of words, with spaces between."""
    return frozenset(of.split())


PRONOUNS = words_of(
    """
    i me my mine myself we us our ours ourselves
    you your yours yourself yourselves thou thee thy thine thyself ye
    he him his himself she her hers herself it its itself
    they them their theirs themselves oneself who whom whose
    """
)
"""Personal, possessive, reflexive and relative pronouns that refer to somebody or something."""
GENDER: Mapping[str, Gender] = {
    **dict.fromkeys(("he", "him", "his", "himself"), "masculine"),
    **dict.fromkeys(("she", "her", "hers", "herself"), "feminine"),
}
"""Of the pronouns that have one, in lower case."""

_RELATIVE = words_of("who whom whose which that where when why")
PREPOSITIONS = words_of(
    """
    of in on at to for from with by about into upon over under between among amongst against
    before behind beside beyond near through within without toward towards across along around
    like as
    """
)
DETERMINERS = words_of("a an the my our your his her its their this that these those some any no")
_STOP = _RELATIVE | PREPOSITIONS | words_of("-- --- — – ( [ ; :")


def head_of(forms: Sequence[str]) -> int:
    """The last word with a letter or digit before what follows a head in English.

    That is a preposition, a relative pronoun, a dash or bracket, or a comma before one of these,
    a determiner or a name; where the mention begins with one, the next. A final "'s" is passed
    over.
    """
    end, begun = len(forms), False
    for i, form in enumerate(forms):
        after = forms[i + 1] if i + 1 < len(forms) else "the"
        goes_on = after.lower() not in _STOP | DETERMINERS and not after[0].isupper()
        stops = form.lower() in _STOP or (form == "," and not goes_on)
        if stops and begun:
            end = i
            break
        begun = begun or not stops
    for i in reversed(range(end)):
        if forms[i][0].isalnum():
            return i
    return end - 1


def kind_of(forms: Sequence[str], head: int, *, starts: bool, names: Collection[str]) -> str:
    """ "pronoun", "proper" or "nominal".

    Args:
        forms: of the mention's words.
        head: its head among them.
        starts: the mention begins its sentence.
        names: capitalised forms seen inside sentences of the document; they decide where the
            capital may only be that of a sentence's first word.
    """
    if len(forms) == 1 and forms[0].lower() in PRONOUNS:
        return "pronoun"
    form = forms[head]
    capital = form[0].isupper() and (not (starts and head == 0) or form in names)
    return "proper" if capital else "nominal"
