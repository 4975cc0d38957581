"""The types of heads: the rule on made-up scores, the rows, and SmolLM2's induction heads."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from doors import counted

import interp
from interp.core.errors import PairsError, ResultsError
from interp.core.prompts.pairs import Pairs
from interp.core.tables.results import Results
from interp.engine.plain.prompts import prompts
from interp.heads.types.detect import _cells, detect
from interp.heads.types.detectors import DUPLICATE, INDUCTION, PREVIOUS, offset
from interp.heads.types.head_types import head_types, types_of
from interp.heads.types.repeats import ordinary, repeated_tokens
from interp.models import untrained
from interp.models.small import native
from interp.models.small.native import Shape

METRICS = ["induction", "previous", "positional -1", "entropy", "copying"]
N = 32


def made_up(scores: dict[str, dict[str, object]], *, clusters: int = N) -> Results:
    """Scores of 2 x 3 heads around what is given for a site and metric, nulls of 0.1."""
    rng = np.random.default_rng(0)
    values = 0.1 + 0.01 * rng.standard_normal((len(METRICS), 2, 3, N))
    for site, of_site in scores.items():
        layer, head = map(int, site.split("."))
        for metric, mean in of_site.items():
            values[METRICS.index(metric), layer, head] += np.asarray(mean) - 0.1
    pairs = prompts(torch.zeros(N, 4, dtype=torch.long))
    named = [f"c{i % clusters}" for i in range(N)]
    pairs = Pairs.from_tokens(clean=pairs.clean, corrupt=pairs.clean, cluster=named)
    cells = _cells(METRICS, 2, 3, "replay")
    return Results.of(cells, values, units=pairs.units, provenance={}, base=0.1)


def toy(d_vocab: int, n_ctx: int):
    shape = Shape(2, 2, d_model=10, d_head=5, d_vocab=d_vocab, n_ctx=n_ctx, d_mlp=0)
    return native.build(shape, name="toy")


def types(found) -> dict[str, str]:
    return dict(zip(found.table["site"], found.table["types"], strict=True))


def test_the_rule():
    found = types_of(
        made_up(
            {
                "0.0": {"induction": 0.8, "copying": 0.9},
                "0.1": {"induction": 0.6, "copying": -0.2},
                "0.2": {"previous": 0.35, "positional -1": 0.85},  # not enough above 0.1
                "1.0": {"previous": 0.95, "positional -1": 0.95, "entropy": 3.0},
                "1.1": {"induction": -0.9, "copying": 0.5},
                "1.2": {"induction": 0.5, "copying": 0.2},  # copies, if not much
            }
        )
    )
    assert types(found) == {
        "0.0": "induction, copying",
        "0.1": "prefix matching",
        "0.2": "",
        "1.0": "previous, positional -1",
        "1.1": "copying",
        "1.2": "induction",
    }
    assert found.heads("induction") == ["0.0", "1.2"]
    assert found.heads("copying") == ["0.0", "1.1"]
    assert found.heads("prefix matching") == ["0.1"]
    assert found.heads("positional -1") == ["1.0"]
    assert list(found.table.columns) == ["site", "layer", "head", "types", *METRICS]
    one = found.scores.query("metric == 'induction' and site == '0.0'").iloc[0]
    assert one["value"] == pytest.approx(0.8, abs=0.02) and one["null"] == pytest.approx(0.1)
    assert one["low"] < one["effect"] < one["high"] and one["q"] < 0.01 and one["n"] == N // 2
    assert "0.0" in repr(found) and "0.2" not in set(found._typed()["site"])


def test_chosen_on_one_half_and_tested_on_the_other():
    """A head that scores on either half alone is of no type, and no number is of the first half."""
    choosing, _ = halves(seed=5)
    scores = {
        "0.0": {"induction": np.where(choosing, 0.9, 0.1), "copying": 0.9},
        "0.1": {"induction": np.where(choosing, 0.1, 0.9), "copying": 0.9},
        "0.2": {"induction": np.where(choosing, 0.9, 0.7), "copying": 0.9},
    }
    found = types_of(made_up(scores), seed=5)
    assert [types(found)[f"0.{i}"] for i in range(3)] == [
        "copying",
        "copying",
        "induction, copying",
    ]
    of = found.scores.query("metric == 'induction'").set_index("site")
    assert of.loc["0.2", "choosing"] == pytest.approx(0.8, abs=0.01)
    assert of.loc["0.2", "value"] == pytest.approx(0.7, abs=0.01)


def halves(*, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows that are chosen on, and one row of those that test."""
    names = np.unique([f"c{i}" for i in range(N)])
    first = np.random.default_rng([seed, N]).permutation(names)[: N // 2]
    choosing = np.isin([f"c{i}" for i in range(N)], first)
    return choosing, np.arange(N) == np.argmin(choosing)


def test_what_one_row_alone_shows_is_not_significant():
    """Large where it is chosen, above its null where it is tested, and q says by chance."""
    choosing, one = halves(seed=5)
    once = np.where(choosing | one, 0.9, 0.1)
    found = types_of(
        made_up(
            {
                "0.0": {"induction": once, "copying": 0.9},
                "0.1": {"induction": 0.9, "copying": once},
                "0.2": {"previous": once},
            }
        ),
        seed=5,
    )
    scores = found.scores.set_index(["site", "metric"])
    for at in [("0.0", "induction"), ("0.1", "copying"), ("0.2", "previous")]:
        assert scores.loc[at, "choosing"] > 0.7 and scores.loc[at, "effect"] > 0.03
        assert scores.loc[at, "q"] > 0.05
    assert [types(found)[f"0.{i}"] for i in range(3)] == ["copying", "prefix matching", ""]


def test_copying_must_be_above_its_null_on_both_halves():
    choosing, _ = halves(seed=5)
    copies = {"0.0": np.where(choosing, -0.5, 0.9), "0.1": np.where(choosing, 0.2, 0.9)}
    found = types_of(
        made_up({site: {"induction": 0.9, "copying": x} for site, x in copies.items()}), seed=5
    )
    tested = found.scores.query("metric == 'copying'").set_index("site")
    assert tested.loc["0.0", "effect"] > 0.7 and tested.loc["0.0", "q"] < 0.01
    assert [types(found)[f"0.{i}"] for i in range(2)] == ["prefix matching", "induction"]


def test_without_copying_there_are_no_induction_heads():
    results = made_up({"1.2": {"induction": 0.9}}).query("metric != 'copying'")
    assert types(types_of(results))["1.2"] == "prefix matching"


def test_halves_share_no_cluster():
    with pytest.raises(ResultsError, match=r"no type 'inducton'.*'induction'"):
        types_of(made_up({})).heads("inducton")
    found = types_of(made_up({}, clusters=12))
    assert set(found.scores["clusters"]) == {6}


def test_so_few_clusters_that_no_head_could_pass_are_refused():
    """Ten of them test on five, where no p is below 1/16; of eleven the six are enough."""
    perfect = {"0.0": {"induction": 1.0, "copying": 1.0}}
    said = r"10 clusters \(c0, c1.*c9\), 5 of them.*below 0.062.*on 11 rows.*17 for when one score"
    with pytest.raises(ResultsError, match=said):
        types_of(made_up(perfect, clusters=10))
    with pytest.raises(ResultsError, match=r"1 clusters \(c0\), 1 of them.*no p is below 1:"):
        types_of(made_up(perfect, clusters=1))
    every = {f"{i}.{j}": dict.fromkeys(METRICS, 1.0) for i in range(2) for j in range(3)}
    found = types_of(made_up(every, clusters=11))
    assert set(found.scores["clusters"]) == {6}
    assert found.scores["q"].to_numpy() == pytest.approx(2**-5)
    assert set(types(found).values()) == {"induction, previous, positional -1, copying"}


def test_other_tables_are_refused(tiny_model, pairs):
    model, made = tiny_model("llama"), made_up({}, clusters=12)
    with pytest.raises(ResultsError, match=r"of attention, and heads get .*head_types\(model\)"):
        types_of(interp.attention(model, pairs))
    with pytest.raises(ResultsError, match="empty, or of more than one call"):
        types_of(Results.concat([made, made]))
    found = types_of(made)
    with pytest.raises(ResultsError, match="scores of HeadTypes has no column 'metric'"):
        replace(found, scores=found.table)


def test_too_few_rows_are_refused_before_they_run(tiny_model):
    with counted() as ran, pytest.raises(ResultsError, match="scores are of 2 clusters"):
        head_types(tiny_model("llama"), [[1, 2, 3, 1, 2, 3]] * 2)
    assert not ran


def test_one_call(tiny_model):
    """A random model's heads are of no type that depends on tokens."""
    model = tiny_model("llama")
    rows = repeated_tokens(model, 16, block=(3, 7), pos=15)
    detectors = [offset(0), DUPLICATE, INDUCTION]
    found = head_types(model, rows, detectors=detectors, seed=1)
    again = head_types(model, rows, detectors=detectors, seed=1)
    pd.testing.assert_frame_equal(found.table, again.table)
    assert len(found.table) == model.facts.n_layers * model.facts.n_heads
    assert not found.heads("induction") and not found.heads("duplicate")
    assert list(found.table.columns[4:]) == [
        *("offset +0", "duplicate", "induction", "entropy", "copying")
    ]


def test_results_are_saved_and_read(tiny_model, tmp_path):
    model = tiny_model("llama")
    results = detect(model, repeated_tokens(model, 12, block=(3, 7), pos=15))
    found = Results.load(results.save(tmp_path / "found.parquet"))
    pd.testing.assert_frame_equal(types_of(found).scores, types_of(results).scores)


def test_rows_repeat(tiny_model):
    model = tiny_model("gpt2")
    rows = repeated_tokens(model, 40, block=(3, 7), pos=15, seed=3)
    assert rows.shape == (40, 15)
    sizes = set()
    for row in rows.tolist():
        size = len(set(row))
        assert row == (row[:size] * 15)[:15]
        sizes.add(size)
    assert sizes == {3, 4, 5, 6, 7}
    assert set(rows.flatten().tolist()) <= set(ordinary(model).tolist())
    assert torch.equal(rows, repeated_tokens(model, 40, block=(3, 7), pos=15, seed=3))


def test_special_and_rare_tokens_are_left_out(tiny_model):
    """12 words, of which <s> and <unk> are special; a tenth of 10 is 1 at either end."""
    assert ordinary(tiny_model("gpt2")).tolist() == list(range(3, 11))


def test_special_tokens_stand_around_a_row(tiny_model):
    model = tiny_model("gpt2")
    begins = replace(model, tokenizer=tiny.word_tokenizer(adds_bos=True))
    rows = repeated_tokens(begins, 3, block=(3, 7), pos=15)
    assert (rows[:, 0] == 0).all() and rows.shape == (3, 16)
    assert torch.equal(rows[:, 1:], repeated_tokens(model, 3, block=(3, 7), pos=15))
    assert repeated_tokens(begins, 3, block=(3, 7), pos=15, bos="none").shape == (3, 15)
    nothing = replace(model, tokenizer=None)
    assert ordinary(nothing).tolist() == list(range(29))
    assert repeated_tokens(begins, 3).shape == (3, 16)  # n_ctx, with <s>
    with pytest.raises(PairsError, match=r"8 ids are too few.*blocks"):
        repeated_tokens(model, block=(20, 30), pos=100)


@pytest.mark.parametrize(
    ("d_vocab", "n_ctx", "block", "pos"),
    [
        (50, 200, (20, 30), 100),
        (50, 64, (20, 30), 64),
        (20, 200, (13, 20), 100),
        (9, 24, (6, 9), 24),
        (50, 24, (8, 12), 24),
        (3, 8, (2, 3), 8),
    ],
)
def test_rows_fit_the_model(d_vocab, n_ctx, block, pos):
    """Blocks of every length that the default draws, and every one of them returns."""
    rows = repeated_tokens(toy(d_vocab, n_ctx), 400)
    assert rows.shape == (400, pos)
    sizes = [len(set(row)) for row in rows.tolist()]
    assert set(sizes) == set(range(block[0], block[1] + 1))
    assert all(torch.equal(row[size:], row[:-size]) for row, size in zip(rows, sizes, strict=True))


def test_rows_that_cannot_be_are_refused():
    said = r"toy has 2 ids .*\(all, of 2\).*for 100 tokens.*3 ids and 6 tokens.*tokens= \("
    with pytest.raises(PairsError, match=said):
        head_types(toy(2, 100))
    with pytest.raises(PairsError, match=r"50 ids .*room for 5 tokens \(n_ctx 8\)"):
        repeated_tokens(toy(50, 8), pos=5)


def test_the_one_call_of_a_model_without_a_tokenizer():
    """Random rows are valid ones of compiled/induction: its induction head is found by default."""
    found = head_types(interp.load("compiled/induction"))
    assert found.heads("induction") == ["1.0"]
    assert set(found.heads("previous")) == {"0.0", "1.1"}
    assert head_types(toy(20, 64), detectors=[DUPLICATE, INDUCTION]).heads("induction") == []


@pytest.mark.real
def test_smollm2_has_induction_heads_and_its_untrained_copy_has_none(smollm):
    rows = repeated_tokens(smollm, 20, block=(8, 12), pos=30)
    found = head_types(smollm, rows, detectors=[PREVIOUS, INDUCTION])
    strongest = found.heads("induction")
    assert len(strongest) >= 3
    tested = found.scores[found.scores["metric"] == "induction"].set_index("site")
    assert (tested.loc[strongest, "q"] < 0.05).all()
    assert (tested.loc[strongest[:3], "value"] > 0.4).all()
    assert tested["value"].idxmax() == strongest[0]
    random = head_types(untrained(smollm), rows, detectors=[PREVIOUS, INDUCTION])
    assert not random.heads("induction") and not random.heads("prefix matching")
    of_random = random.scores[random.scores["metric"] == "induction"]
    assert (of_random["q"] >= 0.05).all()
