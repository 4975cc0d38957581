"""The tasks of circuits are tasks that the shipped model can do, and their corruptions undo it."""

import pytest

import interp
from interp.datasets.tasks.greater_than import greater_probability, greater_than
from interp.datasets.tasks.ioi import ioi
from interp.datasets.tasks.pronoun_pairs import pronoun_pairs
from interp.datasets.tasks.subject_verb import subject_verb
from interp.models.model import Model

pytestmark = pytest.mark.real


@pytest.mark.plain
def test_smollm2_agrees_with_its_subject(smollm: Model) -> None:
    found = interp.evaluate(smollm, subject_verb(smollm, n=12), metric="accuracy").frame
    right = found.groupby("position")["value"].mean().to_dict()
    assert right["clean"] > 0.85
    assert right["corrupt"] < 0.15


@pytest.mark.plain
def test_smollm2_knows_which_year_is_greater(smollm: Model) -> None:
    pairs = greater_than(smollm, n=12)
    found = interp.evaluate(smollm, pairs, metric=["accuracy", greater_probability(smollm)])
    mean = found.frame.groupby(["metric", "position"])["value"].mean().to_dict()
    assert mean["accuracy", "clean"] > 0.95
    assert mean["greater_probability", "clean"] > 0.3
    assert mean["greater_probability", "corrupt"] < -0.5


@pytest.mark.plain
@pytest.mark.parametrize(
    ("task", "templates"),
    [
        (lambda model: ioi(model, n=40), 20),
        (lambda model: subject_verb(model, n=64), 4),
        (lambda model: greater_than(model, n=40), 1),
        (lambda model: pronoun_pairs(model, n=40, kind="gender"), 1),
        (lambda model: pronoun_pairs(model, n=40, kind="causality"), 1),
    ],
    ids=["ioi", "subject_verb", "greater_than", "gender", "causality"],
)
def test_positions_align_within_a_template(smollm: Model, task, templates: int) -> None:
    """Else a mean over a template would be one over different words. Names may change places."""
    pairs = task(smollm)
    assert len(set(pairs.template)) >= templates
    places: dict[tuple[str, int], set[tuple[int, ...]]] = {}
    for row, group in enumerate(pairs.groups):
        named = {name: index for name, index in pairs.positions.items() if name != "s1+1"}
        at = tuple(sorted(int(index[row]) for index in named.values()))
        places.setdefault(group, set()).add(at)
    assert max(map(len, places.values())) == 1
    assert len(places) < len(pairs)
