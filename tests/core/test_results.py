import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.stats

from interp.core.errors import ResultsError
from interp.core.files.sealed import Damaged
from interp.core.parts.sites import Site
from interp.core.sampling import stats
from interp.core.sampling.halves import halves
from interp.core.tables.parquet import UNSEALED, VERSION
from interp.core.tables.results import CELL, COLUMNS, Results

CLUSTER = list("aabbbcd")
N = len(CLUSTER)
BASE = np.linspace(3, 5, N)
NOTE = {"model": "tiny", "null": 1e-6, "versions": {"interp": "0.1.0"}}


def build(sites, *, positions=("end",), seed=0, **changed) -> Results:
    """A table with the columns and dtypes that a sweep writes; every effect is another number."""
    rng = np.random.default_rng(seed)
    parts = []
    for text in sites:
        site = Site.parse(text)
        for position in positions:
            effect = rng.normal(0, 1, N) + rng.normal(0, 2)
            row = {"model": "toy", "method": "patch", "site": text, "position": position}
            row |= {"receiver": ""}
            row |= {"direction": "noise", "metric": "logit_diff", "kind": site.kind}
            row |= {"layer": site.layer, "head": site.head, "through": "", "engine": "replay"}
            row |= {"example": np.arange(N, dtype=np.int32), "cluster": CLUSTER}
            row |= {"base": BASE, "value": BASE + effect, "effect": effect}
            parts.append(pd.DataFrame(row | changed))
    frame = pd.concat(parts, ignore_index=True)
    words = [c for c in COLUMNS[:12] if c not in ("layer", "head")] + ["cluster"]
    types = dict.fromkeys(words, "category") | {"layer": "Int16", "head": "Int16"}
    return Results(frame[COLUMNS].astype(types), NOTE)


def looked(sites=("logits",), seed=1, **changed) -> Results:
    """Rows that nothing was intervened on, as evaluate and attention write them."""
    found = build(sites, seed=seed, **changed)
    nothing = {"base": np.nan, "effect": np.nan, "method": "evaluate"}
    return Results(found.frame.assign(**nothing), found.provenance)


HEADS = [f"{layer}.{head}" for layer in range(2) for head in range(3)]


def test_summary_by_hand():
    results = build(["0.1", "2.mlp"])
    table = results.summary()
    assert table["site"].tolist() == ["0.1", "2.mlp"]
    for i, site in enumerate(["0.1", "2.mlp"]):
        rows = results.frame[results.frame["site"] == site]
        for column in ("base", "value", "effect"):
            assert table[column][i] == pytest.approx(np.mean(rows[column]))
        values, clusters = rows["effect"].to_numpy()[None], np.array([0, 0, 1, 1, 1, 2, 3])
        low, high = stats.mean_interval(values, clusters)
        assert (table["low"][i], table["high"][i]) == pytest.approx((low[0], high[0]))
        assert table["p"][i] == pytest.approx(stats.sign_flip_p(values, clusters)[0])
    p = sorted(table["p"])
    assert sorted(table["q"]) == pytest.approx([min(2 * p[0], p[1]), p[1]])
    assert table["n"].tolist() == [7, 7]
    assert table["clusters"].tolist() == [4, 4]
    assert table["layer"].tolist() == [0, 2]
    assert table["head"].isna().tolist() == [False, True]
    assert list(table) == [
        *(*CELL, "kind", "layer", "head", "depth", "base", "value", "effect"),
        *("relative", "low", "high", "p", "q", "family", "n", "clusters", "resolution"),
    ]


def test_summary_does_not_depend_on_the_order_or_index_of_the_rows():
    results = build(HEADS, positions=("end", "s2"))
    shuffled = results.frame.sample(frac=1, random_state=0)
    keys = ["site", "position"]
    found = Results(shuffled, NOTE).summary().sort_values(keys, ignore_index=True)
    expected = results.summary().sort_values(keys, ignore_index=True)
    pd.testing.assert_frame_equal(found, expected, check_categorical=False, rtol=1e-12)


def test_summary_keeps_the_order_of_the_table_and_what_is_missing_apart():
    table = build(["1.2", "0.0"], positions=("s2", "end")).summary()
    place = list(zip(table["site"], table["position"], strict=True))
    assert place == [("1.2", "s2"), ("1.2", "end"), ("0.0", "s2"), ("0.0", "end")]
    frame = build(["0.0", "0.1"]).frame.assign(receiver=None, position=None)
    assert len(Results(frame, NOTE).summary()) == 2


def test_paths_through_different_parts_are_different_interventions():
    both = Results.concat([build(["0.1"], through=t, seed=len(t)) for t in ("mlps", "direct")])
    assert both.summary()["through"].tolist() == ["mlps", "direct"]
    assert both.summary()["effect"].nunique() == 2


def test_one_cluster_has_means_but_no_interval():
    table = build(["0.1"], cluster="a").summary()
    assert table["effect"].notna().all()
    assert table[["low", "high", "p", "q"]].isna().all(axis=None)


def test_nothing_was_intervened_on():
    results = looked(["0.1", "1.0"])
    table = results.summary()
    values = results.frame["value"].to_numpy().reshape(2, N)
    low, high = stats.mean_interval(values, np.array([0, 0, 1, 1, 1, 2, 3]))
    np.testing.assert_allclose(table["value"], values.mean(1))
    np.testing.assert_allclose(table["low"], low)
    np.testing.assert_allclose(table["high"], high)
    assert table[["base", "effect", "p", "q"]].isna().all(axis=None)
    assert table["n"].tolist() == [7, 7]


def test_a_table_of_both_has_each_row_in_its_own_way():
    done, seen = build(["0.1", "1.0"]), looked()
    table = Results.concat([done, seen]).summary()
    for name in ("low", "high", "p", "q"):  # the row without a test does not count in the family
        np.testing.assert_allclose(table[name][:2], done.summary()[name])
        np.testing.assert_allclose(table[name][2:], seen.summary()[name])
    assert Results.concat([seen, done]).top()["method"].tolist() == ["patch", "patch", "evaluate"]


def test_examples_must_be_the_same_for_every_intervention():
    frame = build(["0.1", "0.2"]).frame
    message = "not all measured on the same examples; summarise each set by itself"
    gone = frame.copy()
    gone.loc[3, ["value", "effect"]] = np.nan
    turned = frame.copy()
    turned.loc[3, "cluster"] = "a"
    for broken in (frame.drop(index=3), gone, turned):
        with pytest.raises(ResultsError, match=message):
            Results(broken, NOTE).summary()
    assert len(Results(frame[frame["example"] != 3], NOTE).summary()) == 2


def test_a_doubled_row_is_refused_and_what_varies_is_named():
    results = build(["0.1", "0.2"])
    other = build(["0.2"], engine="hooks", seed=5)
    with pytest.raises(ResultsError) as caught:
        Results.concat([results, other]).summary()
    assert str(caught.value) == (
        "site 0.2 has 2 rows for one example (engine: replay, hooks). Choose one set first: "
        "results.query(\"engine == 'replay'\")."
    )
    with pytest.raises(ResultsError, match="alike in every column; a table was joined to itself"):
        Results.concat([results, results]).summary()


def test_top_is_ordered_by_size_not_sign():
    results = build(HEADS)
    table, top = results.summary(), results.top(4)
    order = np.argsort(-table["effect"].abs())
    assert top["site"].tolist() == table["site"].iloc[order[:4]].tolist()
    assert set(np.sign(top["effect"])) == {-1, 1}
    assert results.top(100)["effect"].abs().is_monotonic_decreasing
    by_value = results.top(6, by="value")["value"].abs()
    assert by_value.is_monotonic_decreasing


def test_top_ranks_by_value_where_there_is_no_effect():
    results = looked(HEADS)
    top = results.top(3)
    assert len(top) == 3
    best = results.summary()["value"].abs().nlargest(3)
    assert top["value"].abs().tolist() == best.tolist()
    assert top["effect"].isna().all()


def test_grid_of_heads_has_nan_where_nothing_was_measured():
    results = build(["0.1", "2.0", "2.3"])
    grid = results.grid()
    assert grid.shape == (3, 4)
    assert np.argwhere(~np.isnan(grid)).tolist() == [[0, 1], [2, 0], [2, 3]]
    for site, value in (("0.1", grid[0, 1]), ("2.0", grid[2, 0]), ("2.3", grid[2, 3])):
        rows = results.frame[results.frame["site"] == site]
        assert value == pytest.approx(rows["effect"].mean())
    assert results.grid("value")[2, 3] == pytest.approx(rows["value"].mean())
    assert results.grid("base")[0, 1] == pytest.approx(BASE.mean())
    assert build(["0.0", "1.0", "2.0"]).grid().shape == (3, 1)


def test_grid_of_mlps_is_a_row_of_layers():
    results = build(["3.mlp", "1.mlp", "embed"])
    grid = results.grid()
    assert grid.shape == (4,)
    assert np.isnan(grid).tolist() == [True, False, True, False]
    assert grid[3] == pytest.approx(results.summary()["effect"][0])
    with pytest.raises(ResultsError, match="no row of the table has a layer"):
        build(["logits", "embed"]).grid()


def test_grid_of_positions_is_in_the_order_of_the_table():
    results = build(["0.resid_pre", "1.resid_pre"], positions=("10", "2", "9"))
    half = results.query("not (site == '1.resid_pre' and position == '2')")
    grid = half.grid()
    assert grid.shape == (2, 3)
    np.testing.assert_allclose(grid[0], results.summary()["effect"][:3])
    assert np.isnan(grid[1]).tolist() == [False, True, False]


def test_grid_of_what_was_not_intervened_on():
    results = looked(HEADS)
    assert np.isnan(results.grid()).all()
    np.testing.assert_allclose(results.grid("value").ravel(), results.summary()["value"])


def test_several_interventions_for_a_place_are_named():
    several = build(["0.1", "0.2"], positions=("end", "s2"))
    with pytest.raises(ResultsError) as caught:
        several.grid()
    assert str(caught.value) == (
        "layer 0, head 1 has 2 interventions (position: end, s2). Choose one set first: "
        "results.query(\"position == 'end'\")."
    )
    assert several.query("position == 'end'").grid().shape == (1, 3)
    with pytest.raises(ResultsError, match=r"layer 1, head 2 has 3 interv.*site: 1.2.q, 1.2.k, 1."):
        build(["0.0.q", "1.2.q", "1.2.k", "1.2.v"]).grid()
    with pytest.raises(ResultsError, match=r"layer 0, position end has 2 .*site: 0.mlp, 0.attn"):
        build(["0.mlp", "0.attn"]).grid()
    directions = [build(["0.1"], direction=d) for d in ("noise", "denoise")]
    with pytest.raises(ResultsError, match=r"\(direction: noise, denoise\).*direction == 'noise'"):
        Results.concat(directions).grid()
    with pytest.raises(ResultsError, match=r"kind: z, mlp_out\).*query\(\"kind == 'z'\"\)"):
        build(["0.1", "0.mlp"]).grid()


def test_query():
    results = build(HEADS)
    found = results.query("layer == 1 and head > 0")
    assert found.frame["site"].unique().tolist() == ["1.1", "1.2"]
    assert found.frame.index.tolist() == list(range(2 * N))
    assert list(found.provenance["family"].values()) == [6]
    assert len(results) == 6 * N


def test_columns_that_are_absent():
    with pytest.raises(ResultsError, match=r"\['cluster', 'effect'\] are absent"):
        Results(build(["0.1"]).frame.drop(columns=["effect", "cluster"]), {})


def test_an_empty_table():
    empty = build(["0.1"]).query("layer == 5")
    assert len(empty.summary()) == len(empty.top()) == 0
    assert list(empty.summary()) == list(build(["0.1"]).summary())
    assert repr(empty).startswith("Results: 0 rows")


def test_save_and_load(tmp_path):
    results = build([*HEADS, "0.mlp"])
    path = results.save(tmp_path / "new" / "folder" / "results.parquet")
    assert path == tmp_path / "new" / "folder" / "results.parquet"
    found = Results.load(path)
    pd.testing.assert_frame_equal(found.frame, results.frame)
    assert found.frame["site"].dtype == "category"
    assert found.frame["head"].dtype == "Int16"
    assert found.frame["example"].dtype == "int32"
    assert found.provenance == NOTE
    assert [p.name for p in path.parent.iterdir()] == ["results.parquet"]
    pd.testing.assert_frame_equal(found.summary(), results.summary())


def test_the_provenance_is_in_the_metadata_and_the_file_is_plain_parquet(tmp_path):
    path = build(["0.1"]).save(str(tmp_path / "r.parquet"))
    note = json.loads(pq.read_schema(path).metadata[b"interp"])
    assert note == {"version": VERSION, "kind": "results", "provenance": NOTE}
    assert pd.read_parquet(path)["effect"].tolist() == build(["0.1"]).frame["effect"].tolist()


def test_equal_tables_make_equal_files(tmp_path):
    a = build(HEADS).save(tmp_path / "a.parquet")
    b = Results(build(HEADS).frame, dict(reversed(NOTE.items()))).save(tmp_path / "b.parquet")
    assert a.read_bytes() == b.read_bytes()
    assert a.read_bytes() != build(HEADS, seed=1).save(tmp_path / "c").read_bytes()
    assert Results.load(a).save(tmp_path / "d").read_bytes() == a.read_bytes()


def rewrite(path: Path, **changed) -> None:
    table = pq.read_table(path)
    note = json.loads(table.schema.metadata[b"interp"]) | changed
    metadata = {**table.schema.metadata, b"interp": json.dumps(note).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path)


def test_another_version_is_refused(tmp_path):
    path = build(["0.1"]).save(tmp_path / "r.parquet")
    rewrite(path, version=UNSEALED)
    with pytest.warns(UserWarning, match=r"of interp 0\.1 and carries no checksum.*save it again"):
        assert len(Results.load(path)) == N
    rewrite(path, version=VERSION)
    with pytest.raises(Damaged, match="carries no checksum of interp"):
        Results.load(path)
    rewrite(path, version=VERSION + 1)
    with pytest.raises(ResultsError) as caught:
        Results.load(path)
    assert str(caught.value) == (
        f"{path} has results version {VERSION + 1}; this interp reads version {VERSION}. Run the "
        "experiment again, or read it with the interp that wrote it (0.1.0)."
    )
    rewrite(path, provenance={})
    with pytest.raises(ResultsError, match="version unknown"):
        Results.load(path)


def test_what_is_no_results_file(tmp_path):
    foreign = tmp_path / "foreign.parquet"
    pq.write_table(pa.table({"x": [1, 2]}), foreign)
    text = tmp_path / "text.parquet"
    text.write_text("not parquet at all, though long enough to hold a footer")
    cut = build(["0.1"]).save(tmp_path / "cut.parquet")
    cut.write_bytes(cut.read_bytes()[:-100])
    (tmp_path / "folder").mkdir()
    for path, message in (
        (foreign, "was not written by interp"),
        (text, "is no readable parquet file"),
        (cut, "not as it was written"),
        (tmp_path / "absent.parquet", r"there is no results file at .*absent"),
        (tmp_path / "folder", "folder"),
        (text / "below", "below"),
    ):
        with pytest.raises(ResultsError, match=message):
            Results.load(path)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "taken" / "x").mkdir(parents=True)
    for path in (tmp_path / "file" / "r.parquet", tmp_path / "file" / "a" / "r.parquet"):
        with pytest.raises(ResultsError, match=r"cannot write .*r\.parquet: .*Choose a folder"):
            build(["0.1"]).save(path)
    with pytest.raises(ResultsError, match=r"cannot write .*taken"):
        build(["0.1"]).save(tmp_path / "taken")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "taken"]


def test_a_save_that_fails_leaves_the_old_file_and_no_part(tmp_path):
    path = build(HEADS).save(tmp_path / "r.parquet")
    assert build(["0.1"]).save(path) == path
    assert len(Results.load(path)) == N
    before = path.read_bytes()
    with pytest.raises(ResultsError, match=r"cannot write .*r\.parquet: .*what JSON has too"):
        Results(build(HEADS).frame, {"path": Path("x")}).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["r.parquet"]


def test_concat_joins_tables_and_keeps_every_provenance(tmp_path):
    heads, mlps = build(HEADS), build(["0.mlp", "1.mlp"], seed=1)
    other = {**NOTE, "null": 3e-6, "model": "other", "query": "end"}
    both = Results.concat([heads, Results(mlps.frame, other), heads.query("head == 9")])
    assert len(both) == 8 * N
    assert both.frame["site"].tolist() == [*heads.frame["site"], *mlps.frame["site"]]
    assert both.frame["layer"].dtype == "Int16"
    assert both.provenance == {
        "model": ["tiny", "other"],
        "null": 3e-6,
        "versions": {"interp": "0.1.0"},
        "query": "end",
        "family": both.provenance["family"],
    }
    assert sorted(both.provenance["family"].values()) == [2, 6]  # heads were given twice
    table = both.summary()
    np.testing.assert_allclose(table["effect"][:6], heads.summary()["effect"])
    np.testing.assert_allclose(table["low"][6:], mlps.summary()["low"])
    found = Results.load(both.save(tmp_path / "both.parquet"))
    pd.testing.assert_frame_equal(found.frame, both.frame)
    with pytest.raises(ResultsError, match="no tables were given to concat"):
        Results.concat([])


@pytest.mark.parametrize(
    "results",
    [build(HEADS), looked(HEADS), Results.concat([build(["0.1"]), looked()])],
    ids=["acted", "looked", "both"],
)
def test_repr_shows_the_strongest(results):
    for text in (repr(results), results._repr_html_()):
        assert f"{len(results)} rows" in text
        assert results.top()["site"][0] in text
        assert "receiver" not in text  # empty columns are left out
        assert "value" in text
    assert "tiny" in results._repr_html_()


def test_repr_of_a_table_without_a_summary_and_markup_in_names():
    results = Results.concat([build(["0.1"])] * 2)
    assert repr(results).startswith("Results: 14 rows\n")
    assert "0.1" in results._repr_html_()
    named = Results(build(["0.1"]).frame, {"model": "<b>x"})
    assert "&lt;b&gt;x" in named._repr_html_()


def test_summary_of_a_whole_model():
    cell, example = np.divmod(np.arange(300 * 64), 64)
    effect = np.random.default_rng(0).normal(0, 1, len(cell))
    frame = pd.DataFrame(
        {
            **dict.fromkeys(COLUMNS, ""),
            "site": cell.astype(str),
            "example": example,
            "cluster": example,
            "base": 1.0,
            "value": 1 + effect,
            "effect": effect,
        }
    )
    table = Results(frame, {}).summary()
    assert len(table) == 300
    assert table["effect"].to_numpy() == pytest.approx(effect.reshape(300, 64).mean(1))


def test_choosing_rows_shrinks_no_family():
    results = build([f"{layer}.{head}" for layer in range(4) for head in range(5)])
    whole = results.summary().set_index("site")
    assert (whole["family"] == 20).all()
    chosen = results.query("layer == 1").query("head > 1")
    some = chosen.summary().set_index("site")
    assert (some["family"] == 20).all()
    # never less than with all of them there, never more than Bonferroni's
    assert (some["q"] >= whole["q"].loc[some.index]).all()
    assert (some["q"] <= np.minimum(1, 20 * some["p"])).all()
    again = results.query("layer == 1 and head > 1", family="rows")
    pd.testing.assert_frame_equal(again.frame, chosen.frame)
    assert "family" not in chosen.query("head > 1", family="rows").provenance
    declared = again.summary().set_index("site")
    assert (declared["family"] == 3).all()
    np.testing.assert_allclose(declared["q"], scipy.stats.false_discovery_control(some["p"]))
    both = Results.concat([chosen, results.query("layer == 2")])
    assert (both.summary()["family"] == 20).all()
    other = build(["5.0", "5.1"], seed=3)
    assert (Results.concat([chosen, other]).summary()["family"] == 22).all()
    assert (Results.concat([results, other]).summary()["family"] == 22).all()


def test_the_family_is_kept_in_a_file(tmp_path):
    chosen = build(HEADS).query("layer == 1")
    found = Results.load(chosen.save(tmp_path / "chosen.parquet"))
    assert (found.summary()["family"] == 6).all()


def test_rows_that_test_nothing_are_of_no_family():
    assert Results.concat([build(["0.1", "0.2"]), looked()]).summary()["family"].tolist() == [2] * 3


def test_depth_counts_layers_that_were_passed():
    table = build(["embed", "2.resid_pre", "2.resid_post", "2.1", "2.mlp", "logits"]).summary()
    assert table["layer"].fillna(-1).tolist() == [-1, 2, 2, 2, 2, -1]
    assert table["depth"].fillna(-1).tolist() == [0, 2, 3, 2, 2, -1]


def test_effects_as_shares_of_the_base():
    results = build(HEADS)
    table = results.relative()
    by_hand = results.summary()["effect"] / BASE.mean()
    np.testing.assert_allclose(table["value"], by_hand)
    np.testing.assert_allclose(results.summary()["relative"], by_hand)
    sums, counts = (
        stats.cluster_sums(x, np.array([0, 0, 1, 1, 1, 2, 3]))[0]
        for x in (
            np.stack([part["effect"] for _, part in results.frame.groupby("site", observed=True)]),
            np.tile(BASE, (6, 1)),
        )
    )
    low, high = stats.ratio_interval(sums, counts)
    np.testing.assert_allclose(table["low"], low)
    np.testing.assert_allclose(table["high"], high)


def ends(shift: float = 0.0) -> Results:
    """The metric on both sides, as evaluate measures them."""
    clean = looked(position="clean").frame.assign(value=BASE + 5)
    corrupt = looked(position="corrupt").frame.assign(value=BASE + shift)
    return Results(pd.concat([clean, corrupt], ignore_index=True), NOTE)


def test_normalised_patching_is_0_at_the_corrupt_and_1_at_the_clean_end():
    results = build(HEADS)
    for end, value in (("corrupt", 0.0), ("clean", 1.0)):
        there = ends().frame.query(f"position == '{end}'")["value"].to_numpy()
        frame = results.frame.assign(value=np.tile(there, 6))
        table = Results(frame, NOTE).relative(ends())
        np.testing.assert_allclose(table[["value", "low", "high"]], value, atol=1e-12)
    table = results.relative(ends())
    np.testing.assert_allclose(table["value"], (results.summary()["value"] - BASE.mean()) / 5)
    assert (table["low"] < table["value"]).all() and (table["value"] < table["high"]).all()


def test_shares_of_nothing_are_refused():
    with pytest.raises(ResultsError, match=r"clean - corrupt of 'logit_diff' is .* not apart from"):
        build(HEADS).relative(ends(shift=5.0))
    frame = build(HEADS).frame
    nothing = frame.assign(base=np.where(frame["cluster"] == "a", 3.0, -1.0))
    with pytest.raises(ResultsError, match=r"the base of 'logit_diff' .* would mean nothing"):
        Results(nothing, NOTE).relative()
    with pytest.raises(ResultsError, match="the ends have no values of 'prob'"):
        build(HEADS, metric="prob").relative(ends())
    with pytest.raises(ResultsError, match="have no values there of the corrupt prompts"):
        build(HEADS).relative(ends().query("example > 1"))


def test_minus_is_the_paired_difference():
    before, after = build(HEADS), build(HEADS, seed=9)
    table = after.named("after").minus(before.named("before"), ignoring=["model"])
    assert table["model"].tolist() == ["after"] * 6
    pivot = {
        name: found.frame.pivot(index="site", columns="example", values="effect").loc[HEADS]
        for name, found in (("before", before), ("after", after))
    }
    apart = (pivot["after"] - pivot["before"]).to_numpy()
    np.testing.assert_allclose(table["value"], apart.mean(1))
    clusters = np.array([0, 0, 1, 1, 1, 2, 3])
    np.testing.assert_allclose(table["p"], stats.sign_flip_p(apart, clusters))
    np.testing.assert_allclose(table["q"], stats.fdr(table["p"].to_numpy()))
    low, high = stats.mean_interval(apart, clusters)
    np.testing.assert_allclose(table[["low", "high"]], np.stack([low, high], 1))
    assert (after.minus(after)["value"] == 0).all() and (after.minus(after)["p"] == 1).all()


def test_differences_of_what_does_not_meet_are_refused():
    before = build(HEADS)
    with pytest.raises(ResultsError, match=r"no counterpart of .*'model': 'after'.*ignoring="):
        before.named("after").minus(before)
    with pytest.raises(ResultsError, match="not measured on the same examples"):
        before.minus(before.query("example != 2"))
    with pytest.raises(ResultsError, match="by no column 'modl'"):
        before.minus(before, ignoring=["modl"])
    with pytest.raises(ResultsError, match="the other table has no rows"):
        before.minus(before.query("layer > 9"))


def test_two_models_stand_in_one_table():
    before, after = build(HEADS).named("before"), build(HEADS, seed=9).named("after")
    both = Results.concat([before, after])
    assert both.summary()["model"].value_counts().to_dict() == {"before": 6, "after": 6}
    mine, theirs = (both.query(f"model == {name!r}") for name in ("after", "before"))
    found = mine.minus(theirs, ignoring=["model"])
    expected = after.minus(before, ignoring=["model"])
    pd.testing.assert_frame_equal(found, expected, check_categorical=False, check_dtype=False)


def test_a_table_of_no_model_column_takes_the_name_in_its_provenance():
    frame = build(["0.1"]).frame.drop(columns="model")
    assert Results(frame, NOTE).frame["model"].unique().tolist() == ["tiny"]
    assert "model" not in frame


def test_split_is_that_of_the_pairs_and_shares_no_cluster():
    results = build(HEADS)
    first, second = results.split(seed=3)
    assert not set(first.frame["cluster"]) & set(second.frame["cluster"])
    assert len(first) + len(second) == len(results)
    mask = halves([list(map(str, CLUSTER))], seed=3)[0]
    assert sorted(first.frame["example"].unique()) == np.flatnonzero(mask).tolist()
    with pytest.raises(ResultsError, match=r"have 1 cluster\(s\), so they cannot be split"):
        build(["0.1"], cluster="a").split()


def crossed(effect: np.ndarray, nouns: int, templates: int) -> Results:
    """Effects of heads (rows) in each noun x template."""
    frames = []
    for head, values in enumerate(effect):
        part = build([f"0.{head}"]).frame.iloc[:1].loc[[0] * values.size].reset_index(drop=True)
        part = part.assign(example=np.arange(values.size), effect=values.reshape(-1))
        noun, template = np.indices((nouns, templates)).reshape(2, -1)
        frames.append(
            part.assign(
                cluster=[f"noun {i}" for i in noun],
                crossed=[f"template {i}" for i in template],
                value=part["base"] + part["effect"],
            )
        )
    return Results(pd.concat(frames, ignore_index=True), NOTE)


@pytest.mark.plain
def test_crossed_clusters_cover_and_test_at_their_size():
    """Effects of nouns, of templates and of both; one kind alone would cover too little."""
    rng, heads, nouns, templates = np.random.default_rng(0), 300, 8, 6
    effect = rng.normal(size=(heads, nouns, 1)) + rng.normal(size=(heads, 1, templates))
    effect = effect + rng.normal(size=(heads, nouns, templates))
    table = crossed(effect, nouns, templates).summary()
    assert table["clusters"].unique().tolist() == [6]
    inside = ((table["low"] < 0) & (table["high"] > 0)).mean()
    assert 0.93 < inside < 0.985
    assert 0.015 < (table["p"] < 0.05).mean() < 0.07
    of_one = crossed(effect, nouns, templates).frame.drop(columns="crossed")
    table = Results(of_one, NOTE).summary()
    assert ((table["low"] < 0) & (table["high"] > 0)).mean() < 0.9


def test_crossed_clusters_say_when_they_are_few():
    found = crossed(np.random.default_rng(1).normal(size=(2, 12, 3)), 12, 3)
    assert "3 clusters of one of the two crossed kinds" in repr(found)
    first, second = found.split()
    for kind in ("cluster", "crossed"):
        assert not set(first.frame[kind]) & set(second.frame[kind])
    with pytest.raises(ResultsError, match="no interval over crossed clusters"):
        found.relative()


def test_tables_of_other_prompts_are_not_paired():
    """Clusters and counts may agree all the same: each seed has the same templates."""
    mine, theirs = (Results(build(HEADS).frame, NOTE | {"pairs": name}) for name in ("p", "o"))
    with pytest.raises(ResultsError, match=r"same examples \(pairs p and o\)"):
        mine.minus(theirs)
    with pytest.raises(ResultsError, match=r"same examples \(pairs p and o\)"):
        mine.relative(Results(ends().frame, NOTE | {"pairs": "o"}))
    other = Results(theirs.frame, theirs.provenance | {"model": "of another tokenizer"})
    assert (mine.minus(other)["value"] == 0).all()


def test_where_nothing_was_intervened_on_values_are_subtracted():
    one, two = looked(position="clean"), looked(position="corrupt", seed=4)
    table = one.minus(two, ignoring=["position"])
    assert table["value"][0] == pytest.approx(np.mean(one.frame["value"] - two.frame["value"]))


def test_a_metric_is_not_subtracted_from_another():
    both = Results.concat([build(HEADS), build(HEADS, metric="prob")])
    with pytest.raises(ResultsError, match="metric 'prob', which is not subtracted from metric"):
        both.minus(build(["0.1"], metric="prob"))


def test_a_family_is_known_by_its_numbers_and_not_by_its_names():
    one, two = build(HEADS), build(HEADS, seed=5)  # such as of two references
    chosen = [t.query("site == '0.1'").named(n) for t, n in ((one, "a"), (two, "b"))]
    assert (Results.concat(chosen).summary()["family"] == 12).all()


def test_equal_effects_over_crossed_clusters_have_the_p_of_their_signs():
    found = crossed(np.ones((2, 2, 2)), 2, 2).summary()
    assert found["p"].tolist() == [0.5, 0.5]
    assert crossed(np.zeros((1, 3, 3)), 3, 3).summary()["p"].tolist() == [1.0]


def test_halves_without_rows_are_refused():
    diagonal = crossed(np.ones((1, 2, 2)), 2, 2).query("example in [0, 3]")
    with pytest.raises(ResultsError, match=r"both kinds of clusters \(2 x 2\)"):
        for seed in range(20):
            diagonal.split(seed=seed)


def test_a_table_is_made_of_cells_and_examples():
    value = np.random.default_rng(0).normal(size=(2, 3, N))
    base = value[:, :1] / 2  # of each metric, the same for all of its cells
    units = {"cluster": CLUSTER, "crossed": [*"xyxyxyx"]}
    cells = {
        **{"method": "patch", "site": ["0.0", "0.1", "0.mlp"] * 2, "metric": [*"aaabbb"]},
        **{"head": [0, 1, None] * 2, "layer": 0, "size": [1, 2, 3] * 2},
        **{"direction": pd.Categorical(["noise", "denoise", "noise"] * 2), "engine": "replay"},
    }
    with pytest.raises(ResultsError, match="column 'head' has 5 values for 6 interventions"):
        Results.of(cells | {"head": [0] * 5}, value, units=units, provenance=NOTE)
    with pytest.raises(ResultsError, match="6 units of 'cluster' and 7 examples"):
        Results.of(cells, value, units={"cluster": CLUSTER[1:]}, provenance=NOTE)
    with pytest.raises(ResultsError, match=r"base of shape \(6,\) does not broadcast"):
        Results.of(cells, value, units=units, provenance=NOTE, base=np.ones(6))
    found = Results.of(cells, value, units=units, provenance=NOTE, base=base)
    by_hand = [
        {"model": "tiny", **dict.fromkeys(("position", "receiver", "kind", "through"), "")}
        | {"method": "patch", "site": ["0.0", "0.1", "0.mlp"][cell], "metric": "ab"[metric]}
        | {"layer": 0, "head": [0, 1, None][cell], "size": cell + 1, "engine": "replay"}
        | {"direction": ["noise", "denoise", "noise"][cell], "example": example}
        | {"cluster": CLUSTER[example], "crossed": "xyxyxyx"[example]}
        | {"base": base[metric, 0, example], "value": value[metric, cell, example]}
        | {"effect": value[metric, cell, example] - base[metric, 0, example]}
        for metric in range(2)
        for cell in range(3)
        for example in range(N)
    ]
    types = {"layer": "Int16", "head": "Int16", "example": "int32", "direction": "category"}
    expected = pd.DataFrame(by_hand)[[*COLUMNS, "crossed", "size"]].astype(types)
    pd.testing.assert_frame_equal(found.frame, expected, check_exact=True)
    looked_at = Results.of({"metric": "a"}, value[0, :1], units=units, provenance=NOTE).frame
    assert looked_at[["base", "effect", "layer", "head"]].isna().all(axis=None)
