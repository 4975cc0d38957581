import dataclasses
import inspect
from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.core.errors import PairsError, PositionError
from interp.core.prompts.pairs import Pairs
from interp.core.prompts.target import Target
from interp.core.sampling.halves import halves

CLEAN = [[5, 6, 7, 8], [5, 9, 1], [2, 0, 3, 4, 0]]
CORRUPT = [[5, 1, 7, 8], [5, 2, 1], [2, 9, 3, 4, 7]]
SIDES = {"clean": CLEAN, "corrupt": CORRUPT}
REST = {"correct": [1, 2, 3], "wrong": [4, 5, 6], "cluster": ["a", "b", "a"]}


def make(**changed) -> Pairs:
    given = dict(clean=CLEAN, corrupt=CORRUPT, positions={"s": [1, 0, 3]}, **REST)
    return Pairs.from_tokens(**{**given, **changed})


def replaced(pairs: Pairs, **changed) -> Pairs:
    """`dataclasses.replace` without the checks of types that stand before it in tests."""
    found = object.__new__(Pairs)
    kept = {field.name: getattr(pairs, field.name) for field in fields(Pairs)}
    inspect.unwrap(Pairs.__init__)(found, **{**kept, **changed})
    return found


def padded(rows: Sequence[Sequence[int]], width: int, left: bool) -> torch.Tensor:
    fill = [[99] * (width - len(row)) for row in rows]
    return torch.tensor([f + r if left else r + f for f, r in zip(fill, rows, strict=True)])


def same(a: Pairs, b: Pairs) -> bool:
    tensors = all(
        torch.equal(getattr(a, name), getattr(b, name))
        for name in ("clean", "corrupt", "lengths", "correct", "wrong")
    )
    at = {k: v.tolist() for k, v in a.positions.items()}
    return (
        tensors
        and at == {k: v.tolist() for k, v in b.positions.items()}
        and ((a.cluster, a.strings, a.bos) == (b.cluster, b.strings, b.bos))
    )


class Words:
    """A tokenizer of whole words."""

    words = ("<s>", "When", "Mary", "John", "and", "went", "gave", "it", "to", "␣Mary")

    def encode(self, text: str, *, bos: str = "model") -> list[int]:
        ids = [self.words.index(w) for w in text.split()]
        return [0, *ids] if bos == "model" else ids

    def token_id(self, text: str) -> int:
        (only,) = self.encode(text, bos="none")
        return only

    def show(self, ids: Sequence[int]) -> list[str]:
        return [self.words[i] for i in ids]


def test_rows_are_stored_padded_on_the_right():
    pairs = make()
    assert len(pairs) == 3
    assert pairs.clean.tolist() == [[5, 6, 7, 8, 0], [5, 9, 1, 0, 0], [2, 0, 3, 4, 0]]
    assert pairs.corrupt.tolist() == [[5, 1, 7, 8, 0], [5, 2, 1, 0, 0], [2, 9, 3, 4, 7]]
    assert pairs.lengths.tolist() == [4, 3, 5]
    assert pairs.mask.sum(1).tolist() == [4, 3, 5]
    assert [row[keep].tolist() for row, keep in zip(pairs.clean, pairs.mask, strict=True)] == CLEAN
    assert pairs.at("s").tolist() == [1, 0, 3]
    assert pairs.at("end").tolist() == [3, 2, 4]
    assert repr(pairs) == "Pairs: 3 prompts of 3 to 5 tokens, 2 clusters, positions end, s"


@st.composite
def prompts(draw):
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    rows = [draw(st.lists(st.integers(0, 20), min_size=2 * n, max_size=2 * n)) for n in lengths]
    at = [draw(st.integers(0, n - 1)) for n in lengths]
    return [r[: len(r) // 2] for r in rows], [r[len(r) // 2 :] for r in rows], at


@pytest.mark.plain
@given(prompts(), st.integers(0, 3))
def test_padding_changes_nothing(prompt, extra):
    clean, corrupt, at = prompt
    n = len(clean)
    rest = {"correct": list(range(n)), "wrong": list(range(1, n + 1))}
    plain = Pairs.from_tokens(clean=clean, corrupt=corrupt, positions={"s": at}, **rest)
    width = max(map(len, clean)) + extra
    for left in (True, False):
        mask = padded([[1] * len(row) for row in clean], width, left) == 1
        shifted = [i + (width - len(row)) * left for i, row in zip(at, clean, strict=True)]
        found = Pairs.from_tokens(
            clean=padded(clean, width, left),
            corrupt=padded(corrupt, width, left),
            mask=mask,
            positions={"s": shifted},
            **rest,
        )
        assert same(found, plain)
        assert found.fingerprint == plain.fingerprint


def test_equal_lengths_as_tensors_and_end_of_ones_own():
    clean = torch.tensor([[1, 2, 3], [4, 5, 6]])
    pairs = Pairs.from_tokens(
        clean=clean, corrupt=clean + 1, correct=[0, 0], wrong=[1, 1], positions={"end": [1, 2]}
    )
    assert pairs.at("end").tolist() == [1, 2]
    assert pairs.cluster == ("0", "1")


def test_from_text():
    pairs = Pairs.from_text(
        Words(),
        clean=["When Mary and John", "John went"],
        corrupt=["When John and John", "Mary went"],
        correct=["Mary", "to"],
        wrong=["John", "it"],
        positions={"name": [2, 1]},
        cluster=["x", "y"],
    )
    assert pairs.clean.tolist() == [[0, 1, 2, 4, 3], [0, 3, 5, 0, 0]]
    assert pairs.correct.tolist() == [2, 8]
    assert pairs.wrong.tolist() == [3, 7]
    assert pairs.at("name").tolist() == [2, 1]
    assert pairs.strings[1] == (("<s>", "John", "went"), ("<s>", "Mary", "went"))
    assert "clean   <s> When Mary and John\n  corrupt <s> When John and John" in repr(pairs)
    bare = Pairs.from_text(
        *[Words()], clean=["John"], corrupt=["Mary"], correct=["to"], wrong=["it"], bos="none"
    )
    assert bare.clean.tolist() == [[3]]
    assert bare.bos == "none"


def test_one_text_is_no_list_of_texts():
    with pytest.raises(PairsError, match="clean and wrong: give a list of texts, not one text"):
        Pairs.from_text(Words(), clean="Mary", corrupt=["John"], correct=["to"], wrong="it")


def test_unequal_lengths_show_both_rows_aligned():
    with pytest.raises(PairsError) as caught:
        Pairs.from_text(
            Words(),
            clean=["John went", "When Mary and"],
            corrupt=["Mary went", "it John"],
            correct=["to", "to"],
            wrong=["it", "it"],
        )
    assert str(caught.value).split("\n") == [
        "pair 1: clean has 4 tokens and corrupt 3; patching compares them token by token, so they "
        "must be equal and not empty.",
        "  clean   <s> | When | Mary | and",
        "  corrupt <s> | it   | John",
        "Exchange words for ones with as many tokens.",
    ]
    with pytest.raises(PairsError, match=r"clean   5 \| 6  \| 7\n  corrupt 5 \| 11\nEx"):
        Pairs.from_tokens(clean=[[5, 6, 7]], corrupt=[[5, 11]], correct=[1], wrong=[2])


def test_empty_rows_are_refused():
    with pytest.raises(PairsError, match="no pairs were given"):
        Pairs.from_tokens(clean=[], corrupt=[], correct=[], wrong=[])
    with pytest.raises(PairsError, match="pair 1: clean has 0 tokens and corrupt 0"):
        Pairs.from_tokens(clean=[[1], []], corrupt=[[1], []], correct=[1, 1], wrong=[2, 2])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"corrupt": CORRUPT[:2]}, "2 of corrupt"),
        ({"correct": [1]}, "1 of correct"),
        ({"wrong": [1, 2, 3, 4], "cluster": ["a"]}, "4 of wrong, 1 of cluster"),
        ({"positions": {"s": [1, 0]}}, "2 of position 's'"),
    ],
)
def test_counts_that_differ(changed, message):
    with pytest.raises(PairsError, match=f"3 clean prompts but {message}; give one of each"):
        make(**changed)


def test_masks_that_do_not_fit():
    tokens = [[1, 2, 3], [4, 5, 6]]
    rest = {"clean": tokens, "corrupt": tokens, "correct": [1, 1], "wrong": [2, 2]}
    hole = torch.tensor([[True, True, True], [True, False, True]])
    with pytest.raises(PairsError, match="mask of row 1 has a hole"):
        Pairs.from_tokens(mask=hole, **rest)
    with pytest.raises(PairsError, match="row 0 has 3 ids but a mask of 2"):
        Pairs.from_tokens(mask=hole[:, :2], **rest)
    with pytest.raises(PairsError, match="2 clean prompts but 1 of mask"):
        Pairs.from_tokens(mask=hole[:1], **rest)
    with pytest.raises(PairsError, match="pair 1: clean has 0 tokens"):
        Pairs.from_tokens(mask=hole & torch.tensor([[True], [False]]), **rest)


@pytest.mark.parametrize("bad", [3, -1])
def test_a_position_outside_its_row(bad):
    with pytest.raises(PairsError, match=f"'s' is {bad} in row 1, whose tokens stand at 0 to 2"):
        make(positions={"s": [3, bad, 0]})


def test_a_position_in_the_padding_is_named_as_it_was_given():
    mask = torch.tensor([[False, False, True, True, True]])
    row = torch.tensor([[0, 0, 7, 8, 9]])
    with pytest.raises(PairsError, match="'io' is 1 in row 0, whose tokens stand at 2 to 4"):
        Pairs.from_tokens(
            clean=row, corrupt=row, mask=mask, correct=[1], wrong=[2], positions={"io": [1]}
        )


@pytest.mark.parametrize("bad", [float("nan"), 2.5, float("inf"), None, "1", True])
def test_a_position_that_is_no_place(bad):
    """A NaN of a spreadsheet, compared with the row's length, is neither inside nor outside."""
    message = rf"position 's' is {bad!r} in row 1, not a whole number"
    with pytest.raises(PairsError, match=message):
        make(positions={"s": [1, bad, 3]})
    with pytest.raises(PairsError, match=message):
        replaced(make(), positions={**make().positions, "s": [1, bad, 3]})


def test_a_position_of_a_table_is_a_whole_number():
    for at in (np.array([1.0, 0.0, 3.0]), pd.Series([1, 0, 3], index=[5, 6, 7]), (1, 0, 3)):
        assert same(make(positions={"s": at}), make())
    names = pd.Series(["a", "b", "a"], index=[9, 8, 7])
    assert same(make(cluster=names), make())
    ids = {"correct": np.array([1, 2, 3]), "wrong": torch.tensor([4, 5, 6], dtype=torch.int32)}
    assert same(make(**ids), make())
    mask = np.array([[0, 1, 1, 1, 1], [0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    given = {name: padded(rows, 5, True).numpy() for name, rows in SIDES.items()}
    assert same(make(**given, mask=mask, positions={"s": [2, 2, 3]}), make())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"positions": {"s": torch.tensor([1, 0, 3])}}, "positions are s, without 'end'"),
        ({"positions": {"end": [2, 2, 3], "rest": [1, 1, 1]}}, "called 'rest', which every method"),
        ({"positions": {"end": [2, 2, 3], "all": [1, 1, 1]}}, "called 'all', which every method"),
        ({"positions": {"end": [3, 3, 4]}}, "'end' is 3 in row 1, whose tokens stand at 0 to 2"),
        ({"positions": {"end": torch.tensor([3.0, 1.5, 4.0])}}, "'end' is 1.5 in row 1"),
        ({"positions": {"end": [3, 2]}}, "3 clean prompts but 2 of position 'end'"),
        ({"positions": [3, 2, 4]}, r"positions is \[3, 2, 4\]; give each a name"),
        ({"lengths": torch.tensor([4, 0, 5])}, "row 1 has 0 tokens of 5"),
        ({"lengths": torch.tensor([4, 6, 5])}, "row 1 has 6 tokens of 5"),
        ({"correct": torch.tensor([1, 2])}, "but 2 of correct"),
        ({"correct": torch.tensor([1.5, 2.0, 3.0])}, "correct is 1.5 in row 0, not a whole"),
        ({"correct": torch.tensor([1, -2, 3])}, "correct is -2 in row 1.*or -1"),
        ({"wrong": torch.tensor([4, 2, 6])}, "row 1 has token 2 as its correct and as its wrong"),
        ({"clean": torch.zeros(3, 5)}, r"clean is a Tensor of shape \(3, 5\), not integer token"),
        ({"clean": [[1, 2]]}, "clean is .*, not integer token ids"),
        ({"corrupt": torch.zeros(3, 4, dtype=torch.long)}, r"clean is \(3, 5\) and corrupt \(3, 4"),
        ({"cluster": ("a", "b")}, "but 2 of cluster"),
        ({"cluster": ("a", float("nan"), "b")}, "cluster is nan in row 1"),
        ({"strings": ((("x",), ("y",)),)}, "but 1 of strings"),
        ({"target": (1, 2)}, r"target is \(1, 2\), not a Target"),
        ({"target": Target.of(clean=[[1], [2]])}, "3 clean prompts but 2 of target"),
    ],
    ids=str,
)
def test_pairs_that_contradict_themselves(changed, message):
    """However they are made: a constructor and `replace` check as much as `from_tokens`."""
    with pytest.raises(PairsError, match=message):
        replaced(make(), **changed)


def test_replace_keeps_what_fits():
    pairs = make()
    at = {**pairs.positions, "t": np.array([0.0, 1.0, 2.0])}
    found = replaced(pairs, positions=at, cluster=list("xyz"), correct=[7, 8, 9])
    assert found.at("t").tolist() == [0, 1, 2]
    assert (found.cluster, found.correct.tolist()) == (("x", "y", "z"), [7, 8, 9])
    bare = replaced(pairs, correct=pairs.correct * 0 - 1, wrong=pairs.wrong * 0 - 1)
    assert bare.correct.tolist() == [-1, -1, -1]


@pytest.mark.parametrize("wrong", [[4, 2, 6], torch.tensor([1, 5, 6])])
def test_two_answers_that_are_one_token(wrong):
    with pytest.raises(PairsError, match=r"row \d has token \d as its correct and as its wrong"):
        make(wrong=wrong)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("clean", 7, "clean is 7, not rows of token ids"),
        ("clean", "The Mary", "clean is 'The Mary', not rows.*Pairs.from_text takes texts"),
        ("correct", 7, "correct is 7, not a column"),
        ("correct", [" Mary", " John", " it"], "correct is ' Mary' in row 0, not a whole number"),
        ("cluster", {"a"}, "cluster is .*, not a column"),
        ("mask", 7, "mask is 7, not rows"),
        ("positions", {"s": 3}, "position 's' is 3, not a column"),
        ("positions", [1, 2, 3], "give each a name"),
        ("clean", torch.ones(3, 5) / 2, "row 0 of clean is 0.5 in token 0, not a whole number"),
    ],
    ids=str,
)
def test_what_is_no_prompt(name, value, message):
    """Said by the library itself: without the checks of types that stand before it in tests."""
    make = inspect.unwrap(Pairs.from_tokens.__func__)
    with pytest.raises(PairsError, match=message):
        make(Pairs, **{**SIDES, **REST, name: value})


def test_unknown_position():
    with pytest.raises(PositionError) as caught:
        make(positions={"subject": [0, 0, 0]}).at("subjct")
    assert str(caught.value).startswith(
        "the pairs have no position 'subjct'; did you mean 'subject'? Name positions when"
    )


def test_select_takes_rows_in_order():
    pairs = make(strings=[((str(i),), ("x",)) for i in range(3)])
    found = pairs.select([2, 0, 2])
    for name in ("clean", "corrupt", "lengths", "correct", "wrong", "mask"):
        assert torch.equal(getattr(found, name), getattr(pairs, name)[[2, 0, 2]])
    assert found.at("s").tolist() == [3, 1, 3]
    assert found.cluster == ("a", "a", "a")
    assert [clean for clean, _ in found.strings] == [("2",), ("0",), ("2",)]
    assert same(pairs.select(torch.tensor([0, 1, 2])), pairs)


@pytest.mark.parametrize(
    "rows", [[], [3], [-1], torch.tensor([1, 3]), [True, False, True]], ids=str
)
def test_select_refuses_what_are_no_rows(rows):
    with pytest.raises(PairsError, match="select takes row numbers, 0 to 2, at least one; got"):
        make().select(rows)


def test_nothing_is_shared_with_what_it_was_made_from():
    clean, answers, at = torch.tensor([[1, 2], [3, 4]]), torch.tensor([5, 6]), torch.tensor([0, 1])
    pairs = Pairs.from_tokens(
        clean=clean, corrupt=clean, correct=answers, wrong=answers + 3, positions={"s": at}
    )
    chosen = pairs.select([0, 1])
    before = pairs.fingerprint
    for tensor in (clean, answers, at):
        tensor += 1
    assert pairs.fingerprint == before
    for tensor in (pairs.clean, pairs.corrupt, pairs.lengths, pairs.correct, pairs.wrong):
        tensor += 1
    for tensor in pairs.positions.values():
        tensor += 1
    assert chosen.fingerprint == before


@pytest.mark.plain
@given(st.lists(st.integers(0, 6), min_size=2, max_size=20), st.integers(0, 5))
def test_split_shares_no_cluster_and_loses_no_row(labels, seed):
    pairs = Pairs.from_tokens(
        clean=[[i] for i in range(len(labels))],
        corrupt=[[i] for i in range(len(labels))],
        correct=[0] * len(labels),
        wrong=[1] * len(labels),
        cluster=[str(c) for c in labels],
    )
    if len(set(labels)) == 1:
        with pytest.raises(PairsError, match="belong to one cluster"):
            pairs.split(seed=seed)
        return
    a, b = pairs.split(seed=seed)
    assert not set(a.cluster) & set(b.cluster)
    assert sorted([*a.clean[:, 0].tolist(), *b.clean[:, 0].tolist()]) == list(range(len(labels)))
    assert abs(len(set(a.cluster)) - len(set(b.cluster))) <= 1
    again = pairs.split(seed=seed)
    assert (again[0].fingerprint, again[1].fingerprint) == (a.fingerprint, b.fingerprint)


def test_split_depends_on_the_seed():
    pairs = Pairs.from_tokens(
        clean=[[i] for i in range(12)],
        corrupt=[[i] for i in range(12)],
        correct=[0] * 12,
        wrong=[1] * 12,
    )
    assert len({pairs.split(seed=s)[0].fingerprint for s in range(5)}) == 5


@pytest.mark.parametrize(
    "changed",
    [
        {"clean": [[5, 6, 7, 9], *CLEAN[1:]]},
        {"corrupt": [*CORRUPT[:2], [2, 9, 3, 4, 8]]},
        {"clean": [[5, 6, 7, 8, 0], *CLEAN[1:]], "corrupt": [[5, 1, 7, 8, 0], *CORRUPT[1:]]},
        {"correct": [1, 2, 4]},
        {"wrong": [4, 5, 7]},
        {"correct": REST["wrong"], "wrong": REST["correct"]},
        {"clean": CORRUPT, "corrupt": CLEAN},
        {"positions": {"s": [1, 1, 3]}},
        {"positions": {"t": [1, 0, 3]}},
        {"positions": {"s": [1, 0, 3], "end": [3, 2, 3]}},
        {"positions": {}},
        {"cluster": ["a", "b", "b"]},
        {"bos": "none"},
    ],
    ids=str,
)
def test_fingerprint_changes_with_whatever_can_change_a_number(changed):
    assert make(**changed).fingerprint != make().fingerprint


def test_fingerprint_knows_where_a_row_ends():
    rest = {"correct": [1, 1], "wrong": [2, 2], "positions": {"end": [0, 0]}}
    splits = ([[1, 2], [3]], [[1], [2, 3]])
    found = {Pairs.from_tokens(clean=x, corrupt=x, **rest).fingerprint for x in splits}
    assert len(found) == 2


def test_fingerprint_knows_no_padding_strings_or_order_of_names():
    pairs = make()
    assert make().fingerprint == pairs.fingerprint
    assert make(strings=[(("x",), ("y",))] * 3).fingerprint == pairs.fingerprint
    two = {"s": [1, 0, 3], "t": [0, 0, 0]}
    turned = dict(reversed(two.items()))
    assert make(positions=two).fingerprint == make(positions=turned).fingerprint
    alone = {k: v[:2] for k, v in REST.items()}
    short = make(clean=CLEAN[:2], corrupt=CORRUPT[:2], positions={"s": [1, 0]}, **alone)
    assert pairs.select([0, 1]).clean.shape != short.clean.shape  # the padding of the long row
    assert pairs.select([0, 1]).fingerprint == short.fingerprint
    assert pairs.select([1, 0]).fingerprint != short.fingerprint


def test_template_and_cluster_stand_in_for_each_other():
    assert make().template == make().cluster == ("a", "b", "a")
    alone = make(cluster=None, template=["x", "y", "x"])
    assert alone.cluster == alone.template == ("x", "y", "x")
    both = make(template=["x", "y", "x"])
    assert (both.cluster, both.template) == (("a", "b", "a"), ("x", "y", "x"))
    assert both.groups == [("x", 4), ("y", 3), ("x", 5)]
    assert "2 clusters, 2 templates" in repr(both)
    neither = make(cluster=None)
    assert neither.template == neither.cluster == ("0", "1", "2")


def test_what_units_are_is_part_of_the_fingerprint():
    plain = make()
    others = [
        make(template=["x", "y", "x"]),
        make(crossed=["x", "y", "x"]),
        make(template=["x", "y", "x"], crossed=["x", "y", "x"]),
    ]
    prints = [pairs.fingerprint for pairs in (plain, *others)]
    assert len(set(prints)) == 4
    assert make(template=["a", "b", "a"]).fingerprint == plain.fingerprint


def test_selecting_keeps_templates_and_crossed_clusters():
    pairs = make(template=["x", "y", "z"], crossed=["t", "u", "v"]).select([2, 0])
    assert (pairs.template, pairs.crossed) == (("z", "x"), ("v", "t"))
    assert pairs.units == {"cluster": ("a", "a"), "crossed": ("v", "t")}
    assert make().units == {"cluster": ("a", "b", "a")}


@pytest.mark.parametrize("name", ["template", "crossed"])
def test_units_have_one_name_for_each_row(name):
    with pytest.raises(PairsError, match=f"3 clean prompts but 2 of {name}"):
        make(**{name: ["x", "y"]})
    with pytest.raises(PairsError, match=f"{name} is nan in row 1"):
        make(**{name: ["x", np.nan, "y"]})


def test_halves_of_crossed_clusters_share_neither_kind():
    nouns, texts = np.indices((6, 4)).reshape(2, -1)
    pairs = Pairs.from_tokens(
        clean=[[i] for i in range(24)],
        corrupt=[[i] for i in range(24)],
        cluster=nouns,
        crossed=texts,
    )
    first, second = pairs.split(seed=1)
    assert (len(first), len(second)) == (3 * 2, 3 * 2)
    assert not set(first.cluster) & set(second.cluster)
    assert not set(first.crossed) & set(second.crossed)
    diagonal = pairs.select([0, 5, 10])
    with pytest.raises(PairsError, match="of the second half of both kinds"):
        for seed in range(20):
            diagonal.split(seed=seed)
    with pytest.raises(PairsError, match="all 4 pairs belong to one cluster"):
        pairs.select([0, 1, 2, 3]).split()
    with pytest.raises(PairsError, match="6 clusters crossed with 4 others, and a study resamples"):
        pairs.require_one_kind("a study")


def test_a_table_is_split_as_its_pairs_are():
    pairs = Pairs.from_tokens(
        clean=[[i] for i in range(9)], corrupt=[[i] for i in range(9)], cluster=list("cbacbacbd")
    )
    frame = pd.DataFrame({"cluster": np.tile(pairs.cluster, 2), "row": np.tile(range(9), 2)})
    for seed in range(5):
        mine = [half.clean[:, 0].tolist() for half in pairs.split(seed=seed)]
        theirs = [sorted(set(frame["row"][m])) for m in halves([frame["cluster"]], seed=seed)]
        assert mine == theirs


def test_units_that_are_taken_away_are_those_of_the_default():
    pairs = make(template=["x", "y", "x"])
    assert dataclasses.replace(pairs, cluster=()).cluster == ("x", "y", "x")
    assert dataclasses.replace(pairs, cluster=(), template=()).cluster == ("0", "1", "2")
    with pytest.raises(PairsError, match="template is nan in row 1"):
        make(cluster=None, template=["x", np.nan, "y"])
    with pytest.raises(PairsError, match="cluster is nan in row 0"):
        make(cluster=[np.float32("nan")] * 3)
