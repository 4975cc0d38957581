"""The pairs of each model: both answers are what the task says, and templates align."""

import torch

from interp.core.prompts.pairs import Pairs
from interp.models import compiled
from interp.models.compiled.construction import Construction


def every(name: str, made: Construction) -> list[tuple[str, Pairs]]:
    return [(c, compiled.pairs(name, corruption=c, n=40, seed=2)) for c in made.corruptions]


def test_the_model_gives_the_clean_answer(name: str, made: Construction) -> None:
    model = compiled.build(name, dtype=torch.float64)
    for corruption, pairs in every(name, made):
        rows = torch.arange(len(pairs))
        clean = model.bridge(pairs.clean)[rows, pairs.at("end")]
        corrupt = model.bridge(pairs.corrupt)[rows, pairs.at("end")]
        assert torch.equal(clean.argmax(-1), pairs.correct)
        assert (pairs.correct != pairs.wrong).all()
        for row, said in enumerate(corrupt.argmax(-1).tolist()):
            answer = made.answers(pairs.corrupt[row, : pairs.lengths[row]].tolist())[-1]
            if answer >= 0:
                assert said == answer
            if name != "ioi" or corruption == "flip":  # there S is the wrong answer, always
                assert said == pairs.wrong[row]


def test_rows_of_a_template_have_their_places_in_common(name: str, made: Construction) -> None:
    for _, pairs in every(name, made):
        assert set(pairs.cluster) == set(made.templates)
        for template in made.templates:
            rows = [i for i, cluster in enumerate(pairs.cluster) if cluster == template]
            for at in (pairs.lengths, *pairs.positions.values()):
                assert len(at[rows].unique()) == 1
        where = torch.stack(list(pairs.positions.values()))
        assert all(len(column.unique()) == len(where) for column in where.T)


def test_what_each_corruption_replaces() -> None:
    """The places where clean and corrupt differ, in every row and in any."""

    def replaced(name: str, corruption: str) -> tuple[set[str], set[str]]:
        pairs = compiled.pairs(name, corruption=corruption, n=60)
        rows = torch.arange(len(pairs))
        always, ever = set(), set()
        named = torch.zeros_like(pairs.clean, dtype=torch.bool)
        for place, at in pairs.positions.items():
            differs = pairs.clean[rows, at] != pairs.corrupt[rows, at]
            named[rows, at] = True
            always |= {place} if differs.all() else set()
            ever |= {place} if differs.any() else set()
        if ((pairs.clean != pairs.corrupt) & ~named).any():
            ever |= {"elsewhere"}
        return always, ever

    assert replaced("induction", "answer") == ({"next"}, {"next"})
    assert replaced("induction", "first") == ({"first"}, {"first"})
    letters = {"other", "first", "next", "end"}
    assert replaced("induction", "fresh") == (letters, letters | {"elsewhere"})
    assert replaced("frequency", "recount") == ({"same"}, {"same"})
    assert replaced("frequency", "current") == ({"end"}, {"end"})
    assert replaced("ioi", "io") == ({"io"}, {"io"})
    assert replaced("ioi", "flip") == ({"s2"}, {"s2"})
    assert replaced("ioi", "abc") == ({"io", "s1", "s2"}, {"io", "s1", "s2"})
    assert {"mark", "moved", "source"} <= replaced("reverse", "length")[0]
    assert "mark" not in replaced("reverse", "tokens")[1]


def test_same_seed_same_pairs() -> None:
    first, again, other = (
        compiled.pairs("ioi", corruption="abc", n=24, seed=seed).fingerprint for seed in (0, 0, 1)
    )
    assert first == again != other


def test_rows_are_readable() -> None:
    pairs = compiled.pairs("ioi", corruption="flip", n=1)
    clean, corrupt = pairs.strings[0]
    assert clean[:2] == ("<bos>", "When") and clean[-1] == "to"
    s2 = int(pairs.at("s2"))
    assert clean[s2] != corrupt[s2] == clean[int(pairs.at("io"))]
