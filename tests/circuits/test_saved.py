"""What holds tables, arrays and numbers is kept in a file, and comes back as it was."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from interp import Attribution, Circuit, MeanReference, Results
from interp.causal.ranking.recovery import Found
from interp.causal.ranking.verification import Verified
from interp.circuits.discovery.acdc import Discovered
from interp.circuits.proof.curves import Curve
from interp.circuits.proof.faithfulness import EMPTY, Faithfulness
from interp.circuits.proof.nulls import CIRCUIT, Null, Stability
from interp.circuits.proof.optimal import Fit
from interp.core.errors import ResultsError, Unsupported
from interp.core.files.sealed import Damaged
from interp.core.parts.circuit import Part
from interp.core.tables.saved import Saved
from interp.core.tables.table import Table, open_table
from interp.engine.circuits.constants import Constants
from interp.heads.types.head_types import SCORES, TABLE, HeadTypes

NOTE = {"model": "tiny", "dtype": "float64", "versions": {"interp": "0.2"}}
RNG = np.random.default_rng(0)
NAMES = [CIRCUIT, "random 0", EMPTY]
RUNS = Results.of(
    {"method": "circuit zero", "site": NAMES, "metric": "kl", "size": [3, 3, 0], "fraction": 0.1}
    | {"connected": [True, False, False], "ranking": ["eap", "random 0", ""], "by": "abs"},
    RNG.normal(size=(3, 6)) + np.array([[2.0], [1.0], [0.0]]),
    units={"cluster": [*"aabbcd"]},
    provenance=NOTE,
    base=np.full(6, 3.0),
)
PARTS = [Part.parse(f"0.{i} -> {i + 1}.mlp") for i in range(4)]
ESTIMATES = Attribution.of(
    PARTS,
    RNG.normal(size=(4, 3)).astype(np.float32),
    **{"cluster": [*"aab"], "method": "eap", "metric": "kl", "provenance": NOTE},
)
CONSTANTS = Constants(
    torch.randn(4), torch.randn(2, 2, 2, dtype=torch.bfloat16), torch.randn(2, 4), "abc"
)
OBJECTS = [
    *(Faithfulness(RUNS), Null(RUNS), Curve(RUNS), CONSTANTS),
    Verified(ESTIMATES, ESTIMATES, None, None),
    Verified(ESTIMATES, ESTIMATES, ESTIMATES.query("score > 0"), ESTIMATES.query("score > 0")),
    Stability(RNG.random(5), 0.25, pd.DataFrame({"part": ["a"], "share": 0.5, "chosen": True})),
    Discovered(Circuit.of(PARTS[:2], model="abc", ablation="mean"), ESTIMATES, 7, 3),
    Fit(CONSTANTS, RNG.random(3)),
    Found(0.9, 0.8, 0.7, 10, 3, 0.3),
    HeadTypes(RUNS, pd.DataFrame(1.0, [0], SCORES), pd.DataFrame("a", [0, 1], TABLE)),
]
NAMED = pytest.mark.parametrize("made", OBJECTS, ids=lambda made: type(made).__name__)


def alike(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    match one:
        case Saved():
            for field in fields(one):  # pyright: ignore[reportArgumentType]
                alike(getattr(one, field.name), getattr(other, field.name))
        case Table():
            alike(one.frame, other.frame)
            assert one.provenance == other.provenance
        case pd.DataFrame():
            pd.testing.assert_frame_equal(one, other, check_exact=True)
        case torch.Tensor():
            assert one.dtype == other.dtype and torch.equal(one, other)
        case np.ndarray():
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other, strict=True)
        case _:
            assert one == other


@NAMED
def test_it_comes_back_as_it_was(made: Saved, tmp_path: Path):
    path = made.save(tmp_path / "kept")
    before = path.read_bytes()
    alike(type(made).load(path), made)
    assert made.save(path).read_bytes() == before  # and what is equal gives equal files
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


@NAMED
def test_another_kind_is_refused_and_both_are_named(made: Saved, tmp_path: Path):
    name = type(made).__name__
    path = made.save(tmp_path / "kept")
    other = Stability if name != "Stability" else Found
    with pytest.raises(
        ResultsError, match=f"kept holds an? {name} of .* reads a {other.__name__} of"
    ):
        other.load(path)
    with pytest.raises(ResultsError, match=f"kept holds {name}, which is no table .*results"):
        Results.load(path)
    with pytest.raises(ResultsError, match=f"kept holds {name}, which is no table"):
        open_table(path)
    with pytest.raises(ResultsError, match=f"holds an? {name} of .* reads a mean reference"):
        MeanReference.load(path)
    with pytest.raises(ResultsError, match=f"table holds Attribution, and {name}.load reads"):
        type(made).load(ESTIMATES.save(tmp_path / "table"))
    with pytest.raises(ResultsError, match=f"kept holds {name}, which is no Circuit"):
        Circuit.load(path)
    with pytest.raises(ResultsError, match=f"circuit holds Circuit, and {name}.load reads"):
        type(made).load(Circuit.of(PARTS, model="abc").save(tmp_path / "circuit"))


@NAMED
def test_what_is_damaged_is_refused(made: Saved, tmp_path: Path):
    path = made.save(tmp_path / "kept")
    whole = path.read_bytes()
    for cut in (0, 4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(Damaged, match="kept"):
            type(made).load(path)
    at = whole.index(b"interp-seal") - 20
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(Damaged, match="kept"):
        type(made).load(path)
    with pytest.raises(ResultsError, match=f"there is no {type(made).__name__} at .*absent"):
        type(made).load(tmp_path / "absent")


@pytest.mark.plain
@given(
    jaccard=arrays(np.float64, st.integers(0, 5)),
    pairwise=st.floats(),
    share=arrays(np.float32, 3),
    part=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=3, max_size=3),
)
def test_any_numbers_come_back(tmp_path_factory, jaccard, pairwise, share, part):
    often = pd.DataFrame({"part": pd.array(part, dtype="str"), "share": share})
    made = Stability(jaccard, pairwise, often)
    again = Stability.load(made.save(tmp_path_factory.mktemp("kept") / "s"))
    alike(replace(again, pairwise=0.0), replace(made, pairwise=0.0))
    np.testing.assert_array_equal(again.pairwise, pairwise)


@pytest.mark.plain
def test_a_field_that_is_something_else_is_refused(tmp_path: Path):
    odd = Found("much", 0.8, 0.7, 10, 3, 0.3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(Damaged, match="kept cannot be read: under 'auroc' it has a str"):
        Found.load(odd.save(tmp_path / "kept"))
    later = type("Found", (Found,), {"file_version": 2})(*[0.5] * 3, 10, 3, 0.3)
    with pytest.raises(
        ResultsError, match="holds a Found of version 2, and this interp reads a Found of"
    ):
        Found.load(later.save(tmp_path / "kept"))
    path = replace(RUNS, provenance={"path": Path("x")})
    with pytest.raises(ResultsError, match=r"cannot write .*what JSON has too"):
        Faithfulness(path).save(tmp_path / "kept")


def test_constants_are_refused_by_another_model(tmp_path: Path, tiny_model):
    again = Constants.load(CONSTANTS.save(tmp_path / "kept"))
    assert again.fingerprint == CONSTANTS.fingerprint
    with pytest.raises(Unsupported, match="fitted on a model with weights abc"):
        again.require(tiny_model("gpt2"))


@pytest.mark.plain
def test_what_no_file_holds_is_refused(tmp_path: Path):
    odd = Fit(CONSTANTS, np.array([object()]))
    with pytest.raises(ResultsError, match=r"cannot write .*kept.*what a file cannot"):
        odd.save(tmp_path / "kept")
    twice = replace(CONSTANTS, mlp_out=torch.zeros(1, 4), embed=torch.zeros(1, 4)[0])
    same = replace(twice, embed=twice.mlp_out[0])
    assert same.save(tmp_path / "a").read_bytes() == twice.save(tmp_path / "b").read_bytes()
