"""The induction experiment's own functions, on input made by hand."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch

import interp
from experiments import induction
from experiments.induction import names, report, setting, toys
from interp.core.errors import ResultsError
from interp.core.prompts.sequences import UNSCORED
from interp.datasets.corpus import Corpus, Document, Mention, Sentence, Word
from interp.datasets.words.alignment import Alignment
from interp.models import compiled
from interp.models.small.native import build


def test_the_in_context_score_is_late_less_early():
    """Two rows by hand; the loss of the token before the repetition counts in neither mean."""
    nan = math.nan
    loss = torch.tensor([[4.0, 2.0, 99.0, 1.0, 0.0, nan], [5.0, 99.0, 2.0, 3.0, 4.0, nan]])
    repeated = torch.tensor([[0, 0, 0, 1, 1, 0], [0, 0, 1, 1, 1, 0]]).bool()
    found = toys.in_context(loss, repeated)
    assert found.tolist() == [0.5 - 3.0, 3.0 - 5.0]


def test_a_model_that_copies_has_a_negative_score():
    """Of the data itself: nothing helps before the repetition, all is known after it."""
    rows = setting.SMALL.sequences(40, seed=0)
    copied = torch.full(rows.tokens.shape, math.log(32))
    copied[rows.scored] = 0.0
    torch.testing.assert_close(
        toys.in_context(copied, rows.scored), torch.full((40,), -math.log(32))
    )
    assert toys.in_context(-copied, rows.scored).min() > 0


@pytest.mark.parametrize("rows", [setting.SMALL, setting.LARGE])
def test_late_tokens_were_seen_and_early_ones_were_not(rows):
    data = rows.sequences(50, seed=3)
    everywhere = setting.following(data)
    assert (everywhere.labels[:, :-1] == data.tokens[:, 1:]).all()
    assert (everywhere.labels[:, -1] == UNSCORED).all()
    for tokens, scored in zip(data.tokens.tolist(), data.scored.tolist(), strict=True):
        start = scored.index(True)
        for i in range(start - 1):
            assert tokens[i + 1] not in tokens[: i + 1]
        for i in range(start, len(tokens) - 1):
            assert (tokens[i], tokens[i + 1]) in pairwise(tokens[: i + 1])


OTHERS = torch.zeros(1, 8, dtype=torch.long)


def test_prompts_end_before_the_same_token():
    rows = [[5, 6, 7, 8, 9, 6, 7, 4], [1, 2, 3, 4, 5, 6, 3, 4]]
    found = names.twice(rows, [(1, 5), (2, 6)], ["a", "b"], OTHERS, context=2)
    assert found.again.clean.tolist() == [[9, 6], [6, 3]]
    assert found.first.clean.tolist() == [[5, 6], [2, 3]]
    assert found.again.correct.tolist() == found.first.correct.tolist() == [7, 4]
    assert found.again.cluster == ("a", "b")
    whole = names.twice(rows, [(1, 5), (2, 6)], ["a", "b"], OTHERS)
    assert whole.again.lengths.tolist() == [6, 7]
    assert whole.first.lengths.tolist() == [2, 3]


#         0  1  2  3  4  5  6  7  8  9 10 11
TOKENS = [1, 2, 7, 8, 3, 4, 7, 8, 5, 3, 4, 6]


def repeats(spans, *, tokens=TOKENS, context=5, silent=()):
    lettered = [token not in silent for token in tokens]
    return names.repeats(tokens, spans, lettered=lettered, context=context)


def test_names_that_return():
    """7 8 at 2 and 6, 3 4 at 4 and 9: both near enough, the first with too little before it."""
    every = [(2, 4), (4, 6), (6, 8), (9, 11)]
    assert repeats(every, context=3) == []
    assert repeats(every, context=5) == []
    assert repeats([(4, 6), (9, 11)], context=6) == []
    long = [0, 0, 0, *TOKENS]
    shifted = [(a + 3, b + 3) for a, b in every]
    assert repeats(shifted, tokens=long, context=6) == [(5, 9), (7, 12)]
    assert repeats(shifted, tokens=long, context=5) == [(5, 9)]


def test_what_is_no_name_or_has_no_letter_is_left_out():
    long = [0, 0, 0, *TOKENS]
    first, again = (5, 7), (9, 11)
    assert repeats([first, again], tokens=long) == [(5, 9)]
    assert repeats([first], tokens=long) == []
    assert repeats([again], tokens=long) == []
    assert repeats([first, again], tokens=long, silent=[8]) == []
    assert repeats([(5, 6), again], tokens=long) == []


def test_a_name_seen_before_as_no_name_is_not_new():
    tokens = [0, 7, 8, 0, 0, 0, 7, 8, 1, 7, 8]
    assert repeats([(6, 8), (9, 11)], tokens=tokens, context=7) == []


def test_names_are_runs_of_capitals_in_proper_mentions():
    """Two documents; the second row of the first is not searched, nor are pronouns."""

    def sentence(*forms: str) -> Sentence:
        return Sentence("s", " ".join(forms), tuple(Word(form, (0, 1)) for form in forms))

    a = Document(
        "a",
        (sentence("the", "Great", "Gatsby", "of", "Egg"), sentence("He", "saw", "Nick")),
        (
            Mention(0, (0, 5), "1", 2, "proper"),
            Mention(1, (0, 1), "1", 0, "pronoun"),
            Mention(1, (2, 3), "2", 2, "proper"),
        ),
    )
    b = Document("b", (sentence("Tom", "left"),), (Mention(0, (0, 1), "1", 0, "proper"),))
    corpus = Corpus("c", (a, b), frozenset({"mentions"}))
    count = [5, 3, 2]
    start = torch.tensor([0, 1, 3, 5, 6, 0, 1, 2, 0, 2]).numpy()
    aligned = Alignment(
        rows=((0,) * 8, (0,) * 3, (0,) * 3),
        sentence=torch.repeat_interleave(torch.arange(3), torch.tensor(count)).numpy(),
        word=torch.cat([torch.arange(c) for c in count]).numpy(),
        row=torch.repeat_interleave(torch.arange(3), torch.tensor(count)).numpy(),
        start=start,
        end=torch.tensor([1, 3, 5, 6, 8, 1, 2, 3, 2, 3]).numpy(),
        missing=(),
        cut=(),
        note="",
    )
    assert names.name_spans(corpus, aligned) == {
        "a": (0, [(1, 5), (6, 8)]),
        "b": (2, [(0, 2)]),
    }


def test_seeds_are_clusters():
    rows = [
        {"task": "t", "metric": "m", "seed": seed, "value": value, "site": "0.1", "layer": 0}
        for seed, value in ((3, 1.0), (4, 2.0))
    ]
    found = setting.of_seeds([*rows, {"task": "u", "metric": "m", "seed": 3, "value": 9.0}], {})
    table = found.query("task == 't'").summary()
    assert table["value"].tolist() == [1.5]
    assert table["clusters"].tolist() == [2]
    assert (table["low"][0], table["high"][0]) == pytest.approx(
        (1.5 - 12.7062047362 * 0.5, 1.5 + 12.7062047362 * 0.5)  # Student, of two
    )
    assert found.frame["site"].tolist() == ["0.1", "0.1", ""]
    assert found.frame["cluster"].tolist() == ["seed 3", "seed 4", "seed 3"]


def test_heads_that_only_match_prefixes_are_the_second_choice():
    class Types:
        def __init__(self, **heads: list[str]) -> None:
            self.known = heads

        def heads(self, kind: str) -> list[str]:
            return self.known.get(kind.replace(" ", "_"), [])

    assert induction.chosen(Types(induction=["1.2"], prefix_matching=["0.1"])) == (
        "induction",
        ["1.2"],
    )
    assert induction.chosen(Types(prefix_matching=["0.1"])) == ("prefix matching", ["0.1"])
    with pytest.raises(ResultsError, match="no head of this model matches prefixes"):
        induction.chosen(Types())


def test_toys_are_asked_twice_for_what_followed():
    """The second prompt ends as the first does, and the answer stood after the first one's end."""
    size = setting.SIZES["smoke"]
    pairs, asked = toys.prompts(size, 5)
    assert asked.reference.shape[1] >= int(pairs.lengths.max())
    for row in range(len(pairs)):
        again = asked.again.clean[row, : asked.again.lengths[row]].tolist()
        first = asked.first.clean[row, : asked.first.lengths[row]].tolist()
        assert again == pairs.clean[row, : pairs.lengths[row]].tolist()
        assert again[: len(first)] == first
        assert again[-1] == first[-1]
        assert first.count(first[-1]) == 1
        assert again[len(first)] == int(asked.again.correct[row]) == int(asked.first.correct[row])


def test_knocked_out_heads_by_number_and_choice():
    rows = [
        {"task": task, "metric": toys.ICL, "seed": 0, "value": value, "probe": probe}
        for task, value, probe in (
            (toys.REMOVED, -3.0, f"0, {toys.STRONGEST}"),
            (toys.REMOVED, -1.0, f"2, {toys.RANDOM}"),
            (toys.PHASE, -9.0, "step 3"),
        )
    ]
    table = report.removed(setting.of_seeds(rows, {}))
    found = table[["without", "heads", "value"]].to_numpy().tolist()
    assert found == [[0, toys.STRONGEST, -3.0], [2, toys.RANDOM, -1.0]]


def removal(effects: dict[str, list[float]], base: list[float], clusters: str) -> interp.Results:
    """What `knock_out` gives, of one ablation."""
    shared = {"method": "knock out mean, patterns kept", "position": "all", "receiver": ""}
    shared |= {"direction": "noise", "metric": "loss", "kind": "set", "layer": None, "head": None}
    shared |= {"through": "", "engine": "replay"}
    rows = [
        shared
        | {"site": site, "example": i, "cluster": clusters[i]}
        | {"base": base[i], "value": base[i] + effect, "effect": effect}
        for site, values in effects.items()
        for i, effect in enumerate(values)
    ]
    note = {"named": ["it"], "sets": {site: ["1.0"] for site in effects}}
    return interp.Results(pd.DataFrame(rows), note)


AGAIN = {"it": [4.0, 5.0, 6.0], "it, random 0": [1.0, 1.0, 1.0], "it, random 1": [0.0, 2.0, 4.0]}
FIRST = {"it": [3.0, 4.0, 5.0], "it, random 0": [1.0, 0.0, 2.0], "it, random 1": [0.5, 2.5, 0.0]}


def test_again_less_first_is_paired():
    """A knock-out that costs 1 more at each second mention: no spread, though both have one."""
    again = removal(AGAIN, [2.0, 2.0, 2.0], "abc")
    first = removal(FIRST, [7.0, 8.0, 9.0], "abc")
    table = report.beside({"x, again": again, "x, first": first}).set_index("prompts")
    assert list(table.index) == ["x, again", "x, first", "x, again less first"]
    assert set(table["patterns"]) == {"patterns kept"}
    row = table.loc["x, again less first"]
    assert (row["effect"], row["low"], row["high"]) == (1, 1, 1)
    assert table.loc["x, again", "low"] < 5 < table.loc["x, again", "high"]
    assert row["base"] == 2 - 8 and row["value"] == row["base"] + 1
    # random sets: (0 + 1 - 1) / 3 = 0 and (-0.5 - 0.5 + 4) / 3 = 1
    assert row["random"] == pytest.approx(0.5)
    assert row["percentile"] == pytest.approx(0.75) and row["p"] == pytest.approx(2 / 3)
    # rows of one result in another order are the same rows
    shuffled = interp.Results(first.frame.iloc[::-1].reset_index(drop=True), first.provenance)
    pd.testing.assert_frame_equal(
        report.less(again, shuffled).frame, report.less(again, first).frame
    )
    said = report.say_ablation(table.reset_index())
    assert "x, again less first 1.00 [1.00, 1.00] (random 0.50, percentile 75%, p 0.67)" in said


def test_differences_are_of_the_same_sets_and_rows():
    again = removal(AGAIN, [2.0] * 3, "abc")
    with pytest.raises(ResultsError, match="not of the same sets on the same rows"):
        report.less(again, removal({"it": FIRST["it"]}, [2.0] * 3, "abc"))
    fewer = removal({site: values[:2] for site, values in FIRST.items()}, [2.0] * 2, "ab")
    with pytest.raises(ResultsError, match="not of the same sets on the same rows"):
        report.less(again, fewer)
    with pytest.raises(ResultsError, match="are in different clusters"):
        report.less(again, removal(FIRST, [2.0] * 3, "aab"))


def test_corrupt_prompts_break_one_token_or_all():
    size = setting.SIZES["smoke"]
    pairs, _ = toys.prompts(size, 5)
    found = toys.corruptions(pairs, size.toys.vocabulary, seed=1)
    one, every = (found[name].corrupt for name in ("the first A", "all tokens"))
    assert all((other.clean == pairs.clean).all() for other in found.values())
    differs = (one != pairs.clean).nonzero()
    assert differs.tolist() == [[row, int(at)] for row, at in enumerate(pairs.at("first"))]
    assert ((every != pairs.clean) == pairs.mask).all()
    assert every.max() < size.toys.vocabulary
    for row, length in enumerate(pairs.lengths.tolist()):
        clean, other = pairs.clean[row, :length], every[row, :length]
        same = clean[:, None] == clean
        assert ((other[:, None] == other) == same).all()  # what repeats still does
        assert int(one[row, pairs.at("first")[row]]) not in clean.tolist()


@pytest.mark.plain
@pytest.mark.parametrize("corruption", ["first", "answer"])
def test_the_only_path_that_matters_is_the_one_that_was_built(corruption):
    """0.0 into the key of 1.0, where the first A is exchanged; no path between heads for B."""
    model = interp.load("compiled/induction")
    pairs = compiled.pairs("induction", corruption=corruption, n=4)
    receivers = [f"1.{head}.{reader}" for head in range(2) for reader in toys.READERS]
    effects = toys.path_effects(model, pairs, receivers)
    assert len(effects) == 3 * 6
    moved = {key for key, effect in effects.items() if abs(effect) > 1e-6}
    assert moved == ({("0.0", "1.0.k")} if corruption == "first" else set())


@pytest.mark.plain
def test_ranks_are_of_each_input_and_prompt():
    size = replace(setting.SIZES["smoke"], held_out=2)
    model = build(replace(size.shapes["two layers"], n_heads=2), name="untrained", seed=3)
    rows = [row | {"task": toys.RANKS, "seed": 0} for row in toys.ranks(model, size, 0)]
    scores = setting.of_seeds(rows, {})
    assert len(rows) == 2 * (2 * 3 * 4 + 3)  # prompts; numbers, inputs and pairs; correlations
    composed = interp.heads.composition(model).frame.set_index(["site", "other"])["excess"]
    frame = scores.frame
    for corruption in ("the first A", "all tokens"):
        for reader in toys.READERS:
            here = frame[(frame["subset"] == corruption) & frame["probe"].str.endswith(reader)]
            by = {m: p.set_index(["site", "probe"])["total"] for m, p in here.groupby("metric")}
            excess, size_of = by[toys.EXCESS], by[toys.PATH].abs()
            assert (excess == composed.loc[excess.index]).all()
            ranks = [x.rank().to_numpy() for x in (excess, size_of.loc[excess.index])]
            truth = np.corrcoef(*ranks)[0, 1]
            assert by["rank correlation"].loc["", reader] == pytest.approx(truth)


def ranked(value: float, largest: float) -> list[dict]:
    """Rows of `ranks` on one prompt: three inputs, the key's effects the largest."""
    rows = []
    for reader, scale in (("q", 1e-3), ("k", 1.0), ("v", 1e-2)):
        at = {"probe": f"1.0.{reader}", "subset": "all tokens", "site": "0.1"}
        rows += [at | {"metric": toys.EXCESS, "value": 0.1}]
        rows += [at | {"metric": toys.PATH, "value": -largest * scale}]
        at = {"probe": reader, "subset": "all tokens", "metric": "rank correlation"}
        rows += [at | {"value": value if reader == "k" else 0.0}]
    return rows


def test_what_is_said_of_ranks():
    rows = [
        row | {"task": toys.RANKS, "seed": seed}
        for seed, (value, largest) in enumerate(((0.8, 0.5), (0.6, 0.25)))
        for row in ranked(value, largest)
    ]
    scores = setting.of_seeds(rows, {})
    ranks, paths = report.rank_tables(scores)
    said = report.say_ranks(ranks, paths)
    assert (
        "with all tokens exchanged, Q 0.00 [0.00, 0.00] (largest effect 0.0005 nats), "
        "K 0.70 [-0.57, 1.97] (largest effect 0.5 nats), "
        "V 0.00 [0.00, 0.00] (largest effect 0.005 nats) (Spearman, 1 pairs of heads" in said
    )
    assert "The largest effects are those through the key" in said
