"""Greater-than: years in the tokens of either kind, what is balanced, and the metric by hand."""

from collections import Counter

import numpy as np
import pytest
import torch
from readers import WORD, Reader

from interp.core.door.door import ArgumentError
from interp.core.errors import MetricError, PairsError
from interp.core.metrics import Answers
from interp.datasets.tasks.greater_than import (
    CENTURIES,
    NOUNS,
    TEMPLATE,
    greater_probability,
    greater_than,
    later_probability,
)

NUMBERS = [f" {year:04}" for year in range(1000, 10_000)] + [" 11", *map(str, range(100))]
TEXTS = [TEMPLATE.format(NOUN="to", CENTURY="", YEAR="", AGAIN=""), *(f" {noun}" for noun in NOUNS)]
SPLIT = {
    "digits": rf"{WORD}| |\d",
    "twos": rf"{WORD}| ?\d\d|\d",
    # as GPT-2: some years are tokens of their own
    "years": rf"{WORD}| 1\d00| 1[13]4\d| ?\d\d|\d",
    "threes": rf"{WORD}| ?\d\d?\d?",
    "whole": rf"{WORD}| ?\d+",
}


def reader(kind, nouns=NOUNS, **options):
    texts = [*TEXTS[:1], *(f" {noun}" for noun in nouns)]
    spaces = [" "] if kind == "digits" else []
    return Reader(SPLIT[kind], [*texts, *NUMBERS, *spaces], **options)


@pytest.fixture(scope="module", params=["digits", "twos", "years"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def model(kind):
    return reader(kind)


@pytest.fixture(scope="module")
def digits():
    return reader("digits")


def text(model, row):
    return model.tokenizer.decode(row, clean_up_tokenization_spaces=False)


def numbers(model, pairs, i, side="clean"):
    """Noun, century and year of a row, read from its text."""
    row = getattr(pairs, side)[i, : pairs.lengths[i]]
    joined = "".join(model.tokenizer.convert_ids_to_tokens(row.tolist()))
    before, year, after = joined.split(" from the year ")[0], *joined.split(" year ")[1:]
    assert before == f"The {pairs.cluster[i]} lasted"
    first = year.removesuffix(" to the")
    assert len(first) == 4
    assert after == first[:2]
    return int(first[:2]), int(first[2:])


def at(model, pairs, i, position, side="clean"):
    return model.spell(getattr(pairs, side)[i, pairs.at(position)[i]])


def test_prompts_are_years_of_one_century(model):
    pairs = greater_than(model, n=60)
    for i in range(60):
        century, year = numbers(model, pairs, i)
        assert century in CENTURIES
        assert numbers(model, pairs, i, "corrupt") == (century, 1)
        assert year > 1


def test_answers_are_the_nearest_years_on_either_side(kind, model):
    pairs = greater_than(model, n=60)
    for i in range(60):
        _, year = numbers(model, pairs, i)
        right, wrong = model.spell(pairs.correct[i]), model.spell(pairs.wrong[i])
        if kind == "digits":
            assert (int(right), int(wrong)) == (year // 10 + 1, year // 10 - 1)
            # whatever follows, it is decided
            assert int(right + "0") > year > int(wrong + "9")
        else:
            assert (int(right), int(wrong)) == (year + 1, year)
            assert len(right) == len(wrong) == 2


def test_named_positions(kind, model):
    pairs = greater_than(model, n=30)
    assert set(pairs.positions) == {"noun", "century", "year", "end"}
    for i in range(30):
        century, year = numbers(model, pairs, i)
        assert at(model, pairs, i, "noun") == pairs.cluster[i]
        written = f"{century}"[-1] if kind == "digits" else f"{century}"
        assert at(model, pairs, i, "century") == at(model, pairs, i, "end") == written
        for side, value in (("clean", year), ("corrupt", 1)):
            width = 1 if kind == "digits" else 2
            assert at(model, pairs, i, "year", side) == f"{value:02}"[:width]
        differ = (pairs.clean[i] != pairs.corrupt[i]).nonzero().flatten()
        first = int(pairs.at("year")[i])
        assert set(differ.tolist()) <= {first, first + (kind == "digits")}
        assert first in differ


def test_special_tokens_shift_positions():
    pairs = greater_than(reader("digits", frame="<s> $A </s>"), n=5)
    assert pairs.at("noun").tolist() == [2] * 5
    assert (pairs.lengths - pairs.at("end")).tolist() == [2] * 5
    assert pairs.at("century").tolist() == (pairs.at("year") - 1).tolist()


@pytest.mark.parametrize("n", [1, 8, 40, 83])
def test_years_and_nouns_are_balanced(digits, n):
    pairs = greater_than(digits, n=n, seed=n)
    tens = Counter(numbers(digits, pairs, i)[1] // 10 for i in range(n))
    nouns = Counter(pairs.cluster)
    assert set(tens) <= set(range(1, 9))
    assert max(tens.values()) - min(tens[d] for d in range(1, 9)) <= 1
    assert max(nouns.values()) - min(nouns[noun] for noun in NOUNS) <= 1


def test_two_digits_balance_whole_years():
    model = reader("twos")
    pairs = greater_than(model, n=97)
    years = [numbers(model, pairs, i)[1] for i in range(97)]
    assert sorted(years) == list(range(2, 99))


def test_years_of_one_token_are_not_asked_but_their_numerals_are_known():
    model = reader("years")
    pairs = greater_than(model, n=400)
    asked = [numbers(model, pairs, i) for i in range(400)]
    assert not [pair for pair in asked if pair[0] in (11, 13) and 40 <= pair[1] < 50]
    assert {47} <= {year for _, year in asked}
    # every year of these centuries' 00 is one token: the numeral is found in later ones
    logits = torch.zeros(1, 1, len(model.tokenizer))
    logits[0, 0, model.tokenizer.convert_tokens_to_ids("00")] = 50.0
    value = greater_probability(model)(logits, Answers(pairs.correct[:1], pairs.wrong[:1]))
    assert value.item() == pytest.approx(-1)


def test_words_of_several_tokens_are_left_out():
    assert set(greater_than(reader("digits", NOUNS[:11]), n=40).cluster) == set(NOUNS[:11])


def test_the_seed_decides_and_touches_no_other(digits):
    state = torch.get_rng_state()
    assert greater_than(digits, seed=5).fingerprint == greater_than(digits, seed=5).fingerprint
    assert len({greater_than(digits, seed=seed).fingerprint for seed in range(4)}) == 4
    assert torch.equal(torch.get_rng_state(), state)


def test_halves_share_no_noun(digits):
    first, second = greater_than(digits, n=40).split()
    assert not set(first.cluster) & set(second.cluster)


# The metric


def test_the_metric_adds_up_probabilities_by_hand(kind, model):
    pairs = greater_than(model, n=12)
    size = len(model.tokenizer)
    logits = torch.randn(3, 12, size, generator=torch.Generator().manual_seed(0)).double()
    found = greater_probability(model)(logits, Answers(pairs.correct, pairs.wrong))
    width = 1 if kind == "digits" else 2
    probability = np.exp(logits.numpy())
    probability /= probability.sum(-1, keepdims=True)
    for i in range(12):
        _, year = numbers(model, pairs, i)
        expected = 0.0
        for value in range(10**width):
            token = model.tokenizer.convert_tokens_to_ids(f"{value:0{width}}")
            least, most = (value, value) if width == 2 else (10 * value, 10 * value + 9)
            sign = 1 if least > year else -1 if width == 2 or most < year else 0
            if width == 1 and value == year // 10:
                sign = 0
            expected += sign * probability[:, i, token]
        np.testing.assert_allclose(found[:, i], expected, atol=1e-12)


def test_probabilities_by_distance_are_of_the_year_itself(kind, model):
    pairs = greater_than(model, n=20)
    logits = torch.randn(2, 20, len(model.tokenizer), generator=torch.Generator().manual_seed(1))
    width = 1 if kind == "digits" else 2
    answers = Answers(pairs.correct, pairs.wrong)
    for offset in (-3, 0, 4):
        found = later_probability(model, offset)(logits, answers)
        for i in range(20):
            own = numbers(model, pairs, i)[1] // (10 if width == 1 else 1)
            token = model.tokenizer.convert_tokens_to_ids(f"{own + offset:0{width}}")
            inside = 0 <= own + offset < 10**width
            expected = logits.softmax(-1)[:, i, token] if inside else torch.zeros(2)
            torch.testing.assert_close(found[:, i], expected)


def test_probabilities_by_distance_make_up_the_difference(digits):
    pairs = greater_than(digits, n=9)
    logits = torch.randn(1, 9, len(digits.tokenizer), generator=torch.Generator().manual_seed(2))
    answers = Answers(pairs.correct, pairs.wrong)
    parts = {k: later_probability(digits, k)(logits, answers) for k in range(-9, 10) if k}
    total = sum(part if k > 0 else -part for k, part in parts.items())
    torch.testing.assert_close(total, greater_probability(digits)(logits, answers))


def test_the_metric_has_a_gradient(digits):
    pairs = greater_than(digits, n=3)
    logits = torch.randn(1, 3, len(digits.tokenizer)).double().requires_grad_()
    metric = greater_probability(digits)
    assert torch.autograd.gradcheck(
        lambda x: metric(x, Answers(pairs.correct, pairs.wrong)), logits, fast_mode=True
    )


def test_the_metric_is_of_its_own_pairs(digits):
    metric = greater_probability(digits)
    for one in (metric, later_probability(digits, 1)):
        with pytest.raises(MetricError, match="answers that are no years of this model"):
            one(torch.zeros(1, 1, 99), Answers(torch.tensor([0]), torch.tensor([1])))


# Errors


@pytest.mark.parametrize(("n", "seed"), [(0, 0), (4, -1)])
def test_impossible_numbers_are_refused(digits, n, seed):
    with pytest.raises(ArgumentError, match="takes a whole number of at least"):
        greater_than(digits, n=n, seed=seed)


@pytest.mark.parametrize(("kind", "shown"), [("threes", r"174 \| 3"), ("whole", "␣1743")])
def test_other_tokenizers_are_refused(kind, shown):
    with pytest.raises(PairsError, match=rf"of tiny writes 'the year 1743' as .*{shown}: .*needs"):
        greater_than(reader(kind))
    with pytest.raises(PairsError, match="or every digit by itself"):
        greater_probability(reader(kind))


def test_a_tokenizer_without_numbers_is_refused():
    with pytest.raises(PairsError, match="writes 'the year 1743' as "):
        greater_than(Reader(SPLIT["digits"], [*TEXTS, " "]))


def test_too_few_nouns_are_refused():
    with pytest.raises(
        PairsError, match=rf"only 9 of the {len(NOUNS)} nouns.*\(war, .*at least 10"
    ):
        greater_than(reader("digits", NOUNS[:9]))


def test_a_year_that_is_written_in_another_way_in_its_prompt_is_refused(digits):
    class Moody(Reader):
        def __init__(self):
            self.tokenizer = digits.tokenizer

        def encode_with_offsets(self, text, *, bos="model"):
            ids, offsets = super().encode_with_offsets(text, bos=bos)
            return [i + ("lasted" in text) for i in ids], offsets

    with pytest.raises(PairsError, match=r"is written in another way in .*by its surroundings"):
        greater_than(Moody())
