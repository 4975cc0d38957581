"""Greater-than: "The war lasted from the year 1743 to the year 17" -> a year after 1743.

The task of Hanna et al. (2023, sec. 2), with this project's own nouns. The model is asked for its
next token, which is two digits for some tokenizers and one for others.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.door.door import door
from interp.core.door.taken import Count, Seed
from interp.core.errors import MetricError, PairsError
from interp.core.metrics import Answers, Metric
from interp.core.prompts.pairs import Pairs
from interp.datasets.tasks.prompts import OneToken, Prompt, Row, Spans, cycle, fill, paired
from interp.models.bridge.tokens import Bos

TEMPLATE = "The {NOUN} lasted from the year {CENTURY}{YEAR} to the year {AGAIN}"
CENTURIES = range(11, 18)
FIRST = "01"
"""The corrupt prompt's year: nearly all years are greater (Hanna et al. 2023, sec. 2)."""
NOUNS = (
    *("war", "siege", "strike", "trial", "conflict", "battle", "campaign", "revolution", "crisis"),
    *("project", "study", "expedition", "journey", "voyage", "mission", "tour", "program"),
    *("marriage", "partnership", "alliance", "friendship", "debate", "dispute", "investigation"),
    *("construction", "occupation", "rule", "reign", "dynasty", "empire", "contract", "agreement"),
    *("treaty", "peace", "movement", "boom", "drought", "famine", "epidemic", "plague", "career"),
)
FEWEST = 10
"""Nouns, which are what is resampled."""


class Numerals(NamedTuple):
    """How a tokenizer writes the years of a century.

    Attributes:
        width: digits of the token that follows the century, 2 or 1.
        ids: the token of "00", "01", ..., "99", or of "0" to "9".
        years: of each century those that are written with these tokens, and so is its `FIRST`.
    """

    width: int
    ids: tuple[int, ...]
    years: dict[str, tuple[int, ...]]


@door
def greater_than(model: Spans, *, n: Count = 64, seed: Seed = 0, bos: Bos = "model") -> Pairs:
    """Prompts that end after the century of a year which must be greater than one before.

    Where the tokenizer writes a year as two tokens of two digits (GPT-2: " 17|43"), the next token
    decides: 44 to 99 are greater than 43, and 00 to 43 are not. Where it writes digits one by one
    ("1|7|4|3") the next token is the tens digit: 5 to 9 are greater, 0 to 3 are not, and 4, which
    is either, is left out. The corrupt prompt begins in the year 01 of the same century.

    Starting years (their tens, if digits are single) come equally often to within one, and so do
    nouns.

    Args:
        model: anything with `encode_with_offsets` and `show`.
        n: number of pairs.
        seed: of all that is drawn.
        bos: `"model"` adds what the tokenizer adds by itself, `"none"` nothing.

    Returns:
        n pairs; `correct` is the least of the next tokens that are greater (44, or the digit 5),
        `wrong` the greatest of those that are not (43, or the digit 3): the two nearest to the
        year, of which one is right. `greater_probability` compares all. Positions: "noun",
        "century" (the token before the starting year), "year" (the year, or its tens digit), "end".
        The cluster is the noun; all rows fill one template.

    Raises:
        PairsError: a tokenizer that writes years in neither way, that has too few nouns as single
            tokens, or no token for another word of the prompts.
    """
    numerals = _numerals(model)
    known = OneToken(model)
    nouns = [noun for noun in NOUNS if noun in known]
    if len(nouns) < FEWEST:
        raise PairsError(
            f"only {len(nouns)} of the {len(NOUNS)} nouns of greater_than are single tokens after "
            f"a space for {known.name} ({', '.join(nouns) or 'none'}); at least {FEWEST} are "
            "needed. Its vocabulary is likely small or not English: use another model."
        )
    rng = np.random.default_rng([*b"greater_than", seed])
    lasting, starts = cycle(rng, nouns), _starts(rng, numerals)
    rows = []
    for _ in range(n):
        noun, (century, year) = next(lasting), next(starts)
        slots = {"NOUN": noun, "CENTURY": century, "AGAIN": century}
        clean, at = _prompt(known, numerals, slots, f"{year:02}", bos)
        corrupt, _ = _prompt(known, numerals, slots, FIRST, bos)
        low, high = _nearest(numerals.width, year)
        rows.append(Row(clean, corrupt, at, numerals.ids[high], numerals.ids[low], noun, TEMPLATE))
    return paired(model, rows, bos=bos)


def _prompt(
    known: OneToken, numerals: Numerals, slots: Mapping[str, str], year: str, bos: Bos
) -> Prompt:
    """The prompt of a starting year.

    Raises:
        PairsError: its numbers are other tokens than elsewhere.
    """
    ids, at = fill(known.model, TEMPLATE, {**slots, "YEAR": year}, bos=bos)
    first, told = at["CENTURY"] + 1, numerals.ids[int(year[: numerals.width])]
    if (ids[first - 1], ids[first]) != (ids[at["end"]], told):
        raise PairsError(
            f"the year {slots['CENTURY']}{year} is written in another way in "
            f"{known.model.show(ids)} than elsewhere: {known.name} tokenises a number by its "
            "surroundings. Use another tokenizer for this task."
        )
    return Prompt(ids, {"noun": at["NOUN"], "century": first - 1, "year": first, "end": at["end"]})


@door
def greater_probability(model: Spans) -> Metric:
    """P(the greater years) - P(the others), from -1 to 1 (Hanna et al. 2023, sec. 2).

    A metric of the pairs that `greater_than` makes with the same model: what is greater is known by
    their answers, the least that is and the greatest that is not.

    Args:
        model: the one that the pairs were made with.

    Raises:
        PairsError: a tokenizer that writes years in neither of the two ways.
    """
    ids = torch.tensor(_numerals(model).ids)

    def difference(
        logits: Float[Tensor, "cells batch vocabulary"], answers: Answers
    ) -> Float[Tensor, "cells batch"]:
        low, high = _ranks(ids, answers)
        rank = torch.arange(len(ids))
        sign = (rank >= high[:, None]).long() - (rank <= low[:, None]).long()
        probability = logits.softmax(-1)[..., ids.to(logits.device)]
        return (probability * sign.to(probability)).sum(-1)

    return Metric("greater_probability", difference)


@door
def later_probability(model: Spans, offset: int) -> Metric:
    """P(the next token is the starting year's own, `offset` later); 0 where there is none.

    In years where the tokenizer writes two digits at once, else in tens: after 1743 the digit 6 is
    2 later. A metric of the pairs that `greater_than` makes with the same model.

    Raises:
        PairsError: a tokenizer that writes years in neither of the two ways.
    """
    ids = torch.tensor(_numerals(model).ids)

    def probability(
        logits: Float[Tensor, "cells batch vocabulary"], answers: Answers
    ) -> Float[Tensor, "cells batch"]:
        _, high = _ranks(ids, answers)
        rank = (high - 1 + offset)[:, None]  # the least that is greater follows the year's own
        chosen = torch.arange(len(ids)) == rank
        known = logits.softmax(-1)[..., ids.to(logits.device)]
        return (known * chosen.to(known)).sum(-1)

    return Metric(f"later_probability({offset:+d})", probability)


def _ranks(ids: Int[Tensor, " numeral"], answers: Answers) -> tuple[Tensor, Tensor]:
    """Which numeral each wrong and each correct answer is.

    Raises:
        MetricError: one is none.
    """
    low, high = ((ids == a.cpu()[:, None]).long() for a in (answers.wrong, answers.correct))
    if not (high.any(1) & low.any(1)).all():
        raise MetricError(
            "a metric of greater_than got answers that are no years of this model; it is of pairs "
            "that greater_than made with the same model."
        )
    return low.argmax(1), high.argmax(1)


def _nearest(width: int, year: int) -> tuple[int, int]:
    """The greatest next token that is not greater, and the least that is, by their number."""
    return (year, year + 1) if width == 2 else (year // 10 - 1, year // 10 + 1)


def _starts(rng: np.random.Generator, numerals: Numerals) -> Iterator[tuple[str, int]]:
    """Starting years without end; what they are balanced by is the token that is compared."""
    by_token: dict[int, list[tuple[str, int]]] = {}
    for century, years in numerals.years.items():
        for year in years:
            low, high = _nearest(numerals.width, year)
            if low >= 0 and high < len(numerals.ids) and year > int(FIRST):
                token = year if numerals.width == 2 else year // 10
                by_token.setdefault(token, []).append((century, year))
    for token in cycle(rng, sorted(by_token)):
        choices = by_token[token]
        yield choices[int(rng.integers(len(choices)))]


def _numerals(model: Spans) -> Numerals:
    """How the tokenizer writes years inside the prompt.

    Raises:
        PairsError: in neither of the ways that the task is made for.
    """
    for width in (2, 1):
        ids: dict[int, int] = {}
        years: dict[str, tuple[int, ...]] = {}
        for century in range(CENTURIES.start, 100):
            if century not in CENTURIES and (not years or len(ids) == 10**width):
                break  # later ones only lend the numerals that are missing: " 1700" may be one
            kept = []
            for year, written in _written(model, century):
                if len(written) != 3 - width:
                    continue
                values = (year,) if width == 2 else divmod(year, 10)
                # a token is one numeral's, whatever stands before it
                if all(ids.setdefault(v, i) == i for v, i in zip(values, written, strict=True)):
                    kept.append(year)
            if century in CENTURIES and int(FIRST) in kept and len(kept) > 1:
                years[str(century)] = tuple(kept)
        if years and len(set(ids.values())) == 10**width:
            return Numerals(width, tuple(ids[value] for value in range(10**width)), years)
    name = getattr(model, "name", type(model).__name__)
    shown = " | ".join(model.show(model.encode_with_offsets("the year 1743", bos="none")[0]))
    raise PairsError(
        f"the tokenizer of {name} writes 'the year 1743' as {shown}: greater_than needs the "
        "century and then two digits in one token, or every digit by itself. Use another model."
    )


def _written(model: Spans, century: int) -> Iterator[tuple[int, list[int]]]:
    """The years of a century that begin a token after the century, with their tokens."""
    for decade in range(0, 100, 10):
        years = range(decade, decade + 10)
        words = [f"the year {century}{year:02}" for year in years]
        # one text for many years: it is the calls that take time
        ids, offsets = model.encode_with_offsets(" ".join(words), bos="none")
        end = -1
        for year, word in zip(years, words, strict=True):
            end += 1 + len(word)
            covers = [i for i, (a, b) in enumerate(offsets) if a < end and b > end - 2]
            if covers and offsets[covers[0]][0] == end - 2:
                yield year, [ids[i] for i in covers]
