"""ACDC: against one full run of the model for each edge, on known circuits, and what is refused."""

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import torch
from budgets import least
from hypothesis import given, settings
from hypothesis import strategies as st

import interp
from interp.circuits.discovery.acdc import acdc, acdc_sweep
from interp.circuits.discovery.search import settle
from interp.circuits.proof.run import run_circuits
from interp.core.errors import InterpError, MetricError, Unsupported
from interp.core.metrics import METRICS, Metric
from interp.core.parts.circuit import Part
from interp.core.parts.edges import Edge
from interp.core.parts.graph import Graph
from interp.core.prompts.places import REST
from interp.engine.circuits.masks import Masks
from interp.engine.circuits.onward import Onward
from interp.engine.circuits.passes import Passes
from interp.engine.circuits.wiring import Wiring
from interp.engine.engines.choose import choose
from interp.engine.engines.replay.engine import Replay
from interp.models import compiled
from interp.models.small import native

pytestmark = pytest.mark.filterwarnings("ignore:.*prompts")  # means over few

SUMMED = {"gpt2": "zero", "llama": "resample", "qwen3": "resample", "neox": "zero", "gptj": "zero"}
"""Learned, rotary with grouped queries, normed queries, parallel blocks, interleaved rotation."""
PLACES = ("mid", "late", "end", REST)
KEYS = {
    (name, key.ablation): key.corruption for name in compiled.NAMES for key in compiled.truth(name)
}
"""Of each model and ablation, the last corruption that there is a truth for."""
TINY = 1e-13
"""Above the noise of float64, under all that matters in the compiled models."""


@pytest.fixture(scope="module")
def small() -> interp.Model:
    """Two layers, four heads in two groups: 82 edges."""
    shape = native.Shape(
        n_layers=2, n_heads=4, n_kv_heads=2, d_model=10, d_head=3, d_vocab=29, n_ctx=12, d_mlp=14
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = native.build(shape, name="small", dtype=torch.float64)
        for parameter in model.bridge.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def uncut(model, places, ablation) -> Masks:
    graph = Graph.of(model.facts)
    none = np.zeros((0, len(places), *graph.feeds.shape), dtype=bool)
    return Masks(Wiring(model.facts, graph), none, none.any((1, 2, 3)), places, ablation, None)


def passes(model, pairs, places, ablation, metric, rows) -> Passes:
    engine = choose(model)
    assert isinstance(engine, Replay)
    masks = uncut(model, places, ablation)
    return Passes(model, pairs, (METRICS[metric],), masks, engine, rows, None)


def whole(rows: Passes, kept: np.ndarray) -> np.ndarray:
    """The metric of circuits by whole forwards of the masked model."""
    final = rows.final(rows.masks.of(kept).by_class(rows.which, range(len(kept))))
    return rows.measured(final)[0].numpy()


def by_full_runs(model, pairs, threshold, metric, worse, ablation, places) -> list[Part]:
    """The edges that are kept, by one run of the whole masked model for each test."""
    graph, lengths = Graph.of(model.facts), pairs.lengths.numpy()
    blocks = [
        passes(model, pairs, places, ablation, metric, np.flatnonzero(lengths == n).tolist())
        for n in np.unique(lengths)
    ]
    kept = np.stack([graph.feeds] * len(places))

    def measure(kept: np.ndarray) -> float:
        return float(np.concatenate([whole(rows, kept[None])[0] for rows in blocks]).mean())

    now = measure(kept)
    for reader in range(len(graph.readers))[::-1]:
        for writer in np.flatnonzero(graph.feeds[reader])[::-1]:
            for place in range(len(places)):
                kept[place, reader, writer] = False
                value = measure(kept)
                cut = worse * (value - now) < threshold
                kept[place, reader, writer] = not cut
                now = value if cut else now
    return {
        Part(Edge(graph.writers[writer], graph.readers[reader]), places[place])
        for place, reader, writer in np.argwhere(kept)
    }


@pytest.mark.plain
@pytest.mark.parametrize(
    ("metric", "threshold", "ablation"),
    [("kl", 0.02, "resample"), ("logit_diff", 0.05, "zero")],
)
def test_the_answer_is_that_of_one_full_run_for_each_edge(
    small, pairs, metric, threshold, ablation
):
    few = pairs.select([0, 1] if metric == "kl" else [2])
    found = acdc(small, few, threshold=threshold, metric=metric, ablation=ablation)
    worse = {"kl": 1, "logit_diff": -1}[metric]
    slow = by_full_runs(small, few, threshold, metric, worse, ablation, ("all",))
    assert found.circuit.parts == slow
    assert 5 < len(slow) < 77
    assert found.waves < found.runs
    alone = run_circuits(small, few, found.circuit, metric=metric).frame["value"]
    cut = np.array([part not in slow for part in found.ranking.parts])
    total = found.ranking.each[cut].sum(0)
    base = interp.evaluate(small, few, metric=metric).query("position == 'clean'").frame["value"]
    assert np.abs(base + total - alone).max() < 1e-9
    harm = worse * found.ranking.scores
    assert harm[~cut].min() >= threshold > harm[cut].max()


@pytest.mark.plain
def test_a_circuit_by_place_is_that_of_one_full_run_for_each_edge_and_place(small, pairs):
    few = replace(pairs.select([0]), positions={"end": pairs.positions["end"][:1]})
    found = acdc(small, few, threshold=0.01, positions="named")
    slow = by_full_runs(small, few, 0.01, "kl", 1, "resample", ("end", REST))
    assert found.circuit.parts == slow
    assert found.circuit.places == ("end", REST)


@pytest.mark.plain
def test_hooks_find_the_same():
    model = compiled.build("previous", dtype=torch.float64)
    rows = compiled.pairs("previous", corruption="random", n=1, seed=1)
    fast, slow = (acdc(model, rows, threshold=1e-9, engine=e) for e in ("auto", "hooks"))
    assert fast.circuit == slow.circuit
    assert np.abs(fast.ranking.each - slow.ranking.each).max() < 1e-9
    assert slow.ranking.provenance["engine"] == "hooks"


@pytest.mark.parametrize("family", SUMMED)
@pytest.mark.parametrize("places", [("all",), PLACES])
def test_a_run_from_a_reader_on_is_the_whole_run(tiny_model, pairs, family, places):
    """Any cuts into a reader, any cuts into the later ones: against the pass of whole circuits."""
    model = tiny_model(family)
    rng = np.random.default_rng(len(family))
    suffix = Onward(passes(model, pairs, places, SUMMED[family], "kl", [0, 2, 4]))
    feeds = suffix.graph.feeds
    kept = np.stack([feeds] * len(places))
    chosen = [0, len(feeds) - 1, *rng.choice(np.arange(1, len(feeds) - 1), 4, replace=False)]
    for row in range(len(feeds))[::-1]:
        if row in chosen:
            heard = suffix.wiring.read(kept.any(0)[None])[0]
            cells = kept[:, row] & (rng.random((3, *kept[:, row].shape)) < 0.5)
            circuits = np.stack([kept] * 3)
            circuits[:, :, row] = cells
            found = suffix.run(row, cells, heard)
            assert np.abs(found - whole(suffix.rows, circuits)).max() < 1e-9
            assert np.abs(found).max() > 1e-6
        kept[:, row] &= rng.random(kept[:, row].shape) < 0.7
        suffix.settle(row, kept[:, row])


def sequential(
    value: Callable, kept: np.ndarray, candidates, cuts
) -> tuple[np.ndarray, list[np.ndarray]]:
    now, changes = value(kept), []
    for candidate in candidates:
        less = kept.copy()
        less[candidate] = False
        changes.append(value(less) - now)
        if cuts(changes[-1].mean()):
            kept, now = less, value(less)
    return kept, changes


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9999), st.integers(1, 9), st.floats(-0.5, 1.5))
def test_guesses_change_nothing_but_the_time(seed, width, threshold):
    """On functions of what is kept in which every edge interacts with every other."""
    rng = np.random.default_rng(seed)
    n, examples = int(rng.integers(1, 12)), 3
    alone = rng.normal(size=(n, examples))
    together = rng.normal(size=(n, n, examples))

    def value(kept: np.ndarray) -> np.ndarray:
        cut = ~kept[0]
        return cut @ alone + np.einsum("i,j,ije->e", cut, cut, together)

    def cuts(change: float) -> bool:
        return bool(change < threshold)

    kept = np.ones((1, n), dtype=bool)
    order = [(0, int(i)) for i in rng.permutation(n)]
    slow, changes = sequential(value, kept, order, cuts)
    found, now, fast, passes = settle(
        lambda cells: np.stack([value(cell) for cell in cells]),
        kept,
        order,
        value(kept),
        cuts=cuts,
        width=width,
    )
    assert (found == slow).all()
    assert np.abs(fast - changes).max() < 1e-12
    assert np.abs(now - value(slow)).max() < 1e-12
    assert max(passes) <= width
    assert len(passes) <= n


@cache
def model_of(name: str) -> interp.Model:
    return compiled.build(name, dtype=torch.float64)


def rows_of(name, ablation, corruption) -> interp.Pairs:
    return compiled.pairs(name, corruption=corruption, n=24 if ablation == "mean" else 6, seed=0)


@pytest.mark.parametrize(("name", "ablation"), KEYS)
def test_threshold_zero_keeps_every_edge_that_matters(name, ablation):
    """And ranks it above all that do not, which change nothing but the last digits."""
    corruption = KEYS[name, ablation]
    model = model_of(name)
    found = acdc(model, rows_of(name, ablation, corruption), threshold=0.0, ablation=ablation)
    truth = compiled.truth(name)[ablation, corruption, "all positions"]
    assert truth <= found.circuit.parts
    scores = dict(zip(found.ranking.parts, found.ranking.scores, strict=True))
    assert min(scores[part] for part in truth) > TINY
    assert max(abs(scores[part]) for part in set(scores) - truth) < TINY


@pytest.mark.parametrize(
    ("name", "ablation", "corruption", "positions"),
    [
        ("induction", "zero", "first", "named"),
        ("reverse", "mean", "length", "named"),
        ("ioi", "zero", "abc", "all"),
        ("ioi", "resample", "flip", "named"),
    ],
)
def test_a_tiny_threshold_keeps_what_is_needed_alone(name, ablation, corruption, positions):
    """No more than what matters by itself, and it says what the whole model says."""
    model = model_of(name)
    rows = rows_of(name, ablation, corruption)
    found = acdc(model, rows, threshold=TINY, ablation=ablation, positions=positions)
    where = {"all": "all positions", "named": "by position"}[positions]
    assert found.circuit.parts <= compiled.truth(name)[ablation, corruption, where]
    alone = run_circuits(model, rows, found.circuit, metric="kl").frame["value"]
    assert alone.mean() < len(found.ranking) * TINY


def test_the_order_of_the_prompts_and_the_memory_change_nothing(small, pairs):
    few = pairs.select([0, 1, 3])
    first = acdc(small, few, threshold=0.02)
    smallest = least(partial(acdc, small, few, threshold=0.02))
    again = acdc(small, few.select([2, 1, 0]), threshold=0.02, memory=smallest)
    assert first.circuit == again.circuit
    assert np.abs(first.ranking.each - again.ranking.each[:, ::-1]).max() < 1e-12
    assert again.runs == again.waves >= first.waves


def test_the_order_is_that_which_is_said(small):
    readers = [str(site) for site in reversed(Graph.of(small.facts).readers)]
    one = ["mlp", "kv1.v", "kv0.v", "kv1.k", "kv0.k", "3.q", "2.q", "1.q", "0.q"]
    assert readers == ["logits", *(f"{layer}.{part}" for layer in (1, 0) for part in one)]


def test_a_killed_run_goes_on(small, pairs, tmp_path, monkeypatch):
    few, settled = pairs.select([0, 1]), Onward.settle
    whole = acdc(small, few, threshold=0.02)

    def killed(suffix: Onward, row: int, kept: np.ndarray) -> None:
        if row == 8:
            raise KeyboardInterrupt
        settled(suffix, row, kept)

    monkeypatch.setattr(Onward, "settle", killed)
    with pytest.raises(KeyboardInterrupt):
        acdc(small, few, threshold=0.02, checkpoint=tmp_path)
    monkeypatch.undo()
    again = acdc(small, few, threshold=0.02, checkpoint=tmp_path)
    assert 0 < again.runs < whole.runs
    assert again.circuit == whole.circuit
    assert (again.ranking.each == whole.ranking.each).all()
    assert acdc(small, few, threshold=0.02, checkpoint=tmp_path).runs == 0
    assert acdc(small, few, threshold=0.2, checkpoint=tmp_path).runs > 0


def test_a_sweep_ranks_by_the_largest_threshold_that_keeps(small, pairs):
    few, steps = pairs.select([0, 2]), [0.3, 0.03]
    found = acdc_sweep(small, few, thresholds=steps, metric="logit_diff")
    circuits = {s: acdc(small, few, threshold=s, metric="logit_diff").circuit for s in steps}
    for part, score in zip(found.parts, found.scores, strict=True):
        kept = [step for step, circuit in circuits.items() if part in circuit]
        assert -score == pytest.approx(max(kept, default=0.0))
    assert set(found.scores) == {0.0, -0.03, -0.3}


def test_what_is_said_of_a_circuit_of_everything_or_nothing(small, pairs, caplog):
    few = pairs.select([0])
    caplog.set_level(logging.WARNING, logger="interp")
    nothing = acdc(small, few, threshold=1e9)
    assert len(nothing.circuit) == nothing.ranking.provenance["kept"] == 0
    assert "acdc keeps none of the 82 edges at threshold 1e+09 of kl" in nothing.circuit.note
    assert nothing.circuit.note in caplog.text
    assert nothing.runs == 11  # nothing is heard once the logits read nothing
    everything = acdc(small, few, threshold=-1e9)
    assert len(everything.circuit) == 82
    assert "acdc keeps all 82 edges" in everything.circuit.note
    caplog.clear()
    acdc_sweep(small, few, thresholds=[1e8, 1e9])
    assert "at each of the thresholds [100000000.0, 1000000000.0] of kl" in caplog.text
    assert "acdc keeps no edges, so it ranks none above another" in caplog.text


def test_what_the_result_says(small, pairs, tmp_path):
    few = pairs.select([0])
    found = acdc(small, few, threshold=0.1, ablation="zero", corruption="random tokens")
    assert found.circuit.model == small.weight_hash
    assert (found.circuit.ablation, found.circuit.corruption) == ("zero", "random tokens")
    note = found.ranking.provenance
    assert (note["threshold"], note["ablation"], note["metric"]) == (0.1, "zero", "kl")
    assert note["runs"] == found.runs
    again = type(found.ranking).load(found.ranking.save(tmp_path / "ranking.parquet"))
    assert (again.scores == found.ranking.scores).all()


def test_a_metric_of_ones_own_says_where_worse_is(small, pairs):
    few = pairs.select([0])
    mine = Metric("mine", lambda x, a: x[..., 1] - x[..., 0], reads="answers")
    with pytest.raises(
        MetricError, match=r"of the metric 'mine' it is not known where it goes.*say worse="
    ):
        acdc(small, few, threshold=0.1, metric=mine)
    found = acdc(small, few, threshold=0.1, metric=mine, worse="higher")
    said = acdc(small, few, threshold=0.1, metric=replace(mine, worse="higher"))
    assert said.circuit.parts == found.circuit.parts
    assert found.circuit == acdc(small, few, threshold=0.1, metric="logit_diff").circuit


def test_what_is_refused(small, pairs, tiny_model, monkeypatch):
    with pytest.raises(Unsupported, match=r"has no logits, so no edge leads to an answer"):
        acdc(tiny_model("bert-headless"), pairs, threshold=0.1)
    monkeypatch.setattr(Onward, "held_by", staticmethod(lambda *of: 1 << 60))
    with pytest.raises(InterpError, match=r"reads in 5 prompts, \d+ MB, and \d+ MB are free"):
        acdc(small, pairs, threshold=0.1)
    with pytest.raises(InterpError, match=r"threshold=nan"):
        acdc(small, pairs, threshold=float("nan"))
    for thresholds in ([], [0.0, 0.1]):
        with pytest.raises(Unsupported, match=r"give one or more, all above 0"):
            acdc_sweep(small, pairs, thresholds=thresholds)
