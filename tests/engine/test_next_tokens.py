"""A metric of running text: read wherever a token follows, against Hugging Face's own loss."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import tiny
import torch
from budgets import least
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

import interp
from interp.core.errors import MetricError, PairsError, Unsupported
from interp.core.metrics import METRICS, Metric, resolve_metric
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs
from interp.engine import limits
from interp.engine.engines.choose import choose
from interp.engine.interventions import Add, Cell, Freeze, Hop, Intervention, Scale, Zero
from interp.engine.plan.batches import make_plan
from interp.engine.plan.explain import explain
from interp.engine.sweep.run import run
from interp.engine.sweep.sweep import Sweep
from interp.engine.sweep.traced import Traced

LOSS, ACCURACY = METRICS["next_token_loss"], METRICS["next_token_accuracy"]
ENGINES = ("replay", "hooks")
SITES = ("embed", "0.1", "1.resid_mid", "2.mlp", "2.resid_post")


@pytest.fixture(scope="module")
def text() -> Pairs:
    """Six rows of lengths 2, 6 and 9, without answers; the corrupt side is other text."""
    generator = torch.Generator().manual_seed(5)
    clean, corrupt = (
        [torch.randint(tiny.VOCAB, (n,), generator=generator).tolist() for n in (6, 9, 2, 6, 9, 9)]
        for _ in range(2)
    )
    return Pairs.from_tokens(
        clean=clean, corrupt=corrupt, positions={"mid": [2, 3, 1, 4, 5, 8]}, cluster=[*"aabbcc"]
    )


def cells() -> list[Cell]:
    made = [(Intervention(Site.parse(site), Scale(0.5)),) for site in SITES]
    made.append((Intervention(Site.parse("1.2"), Zero(), "mid"),))
    made.append((Intervention(Site.parse("0.mlp"), Zero(), "end"),))
    made.append((Intervention(Site.parse("0.2"), Zero(), readers=(Site.parse("2.1.q"),)),))
    return [Cell(str(i), "all", interventions) for i, interventions in enumerate(made)]


def measure(model, pairs, chosen, metric=LOSS, engine="replay", **options) -> np.ndarray:
    sweep = Sweep(model, pairs, chosen, "test", "clean", (metric,), engine, **options)
    return run(sweep).frame["value"].to_numpy().reshape(len(chosen), len(pairs))


def rows_of(pairs: Pairs, side: str = "clean") -> list[torch.Tensor]:
    ids = getattr(pairs, side)
    return [row[:n] for row, n in zip(ids, pairs.lengths.tolist(), strict=True)]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("other", ["gpt2", "llama", "gemma2-window", "neox"])
def test_it_is_the_loss_of_hugging_face(tiny_model, text, other, engine):
    """Which is taken in float32; of the same logits in float64 it is equal to the last digits."""
    judge, rows = tiny_model(other).bridge.original_model, rows_of(text)
    with torch.no_grad():
        out = [judge(row[None], labels=row[None]) for row in rows]
    logits = [found.logits[0, :-1] for found in out]
    truth = [cross_entropy(x, row[1:]).item() for x, row in zip(logits, rows, strict=True)]
    np.testing.assert_allclose([found.loss.item() for found in out], truth, rtol=0, atol=1e-6)
    right = [(x.argmax(-1) == row[1:]).double().mean() for x, row in zip(logits, rows, strict=True)]
    found = interp.evaluate(
        tiny_model(other), text, metric=["next_token_loss", "next_token_accuracy"], engine=engine
    ).query("position == 'clean'")
    values = {name: found.query(f"metric == '{name}'").frame["value"] for name in METRICS}
    np.testing.assert_allclose(values["next_token_loss"], truth, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(values["next_token_accuracy"], right)


def test_the_clean_tokens_are_foretold_on_either_side(tiny_model, text):
    model = tiny_model("llama")
    found = interp.evaluate(model, text, metric="next_token_loss").query("position == 'corrupt'")
    judge = model.bridge.original_model
    for value, clean, corrupt in zip(
        found.frame["value"], rows_of(text), rows_of(text, "corrupt"), strict=True
    ):
        with torch.no_grad():
            logits = judge(corrupt[None]).logits[0, :-1]
        truth = cross_entropy(logits, clean[1:]).item()
        assert abs(value - truth) < 1e-12


def test_replay_and_hooks_agree_under_interventions(model, text):
    ours, theirs = (measure(model, text, cells(), engine=engine) for engine in ENGINES)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)
    assert len(np.unique(ours.round(12))) > 5 * len(text)


@pytest.mark.plain
def test_accuracy_agrees_too(tiny_model, text):
    model = tiny_model("llama")
    ours, theirs = (measure(model, text, cells(), ACCURACY, engine) for engine in ENGINES)
    np.testing.assert_array_equal(ours, theirs)
    assert (ours != measure(model, text, [null()], ACCURACY)).any()


@pytest.mark.parametrize(
    ("through", "ln"), [("direct", "freeze"), ("mlps", "recompute"), ("all", "recompute")]
)
def test_paths_into_the_logits_of_every_position(tiny_model, text, through, ln):
    """A path carries the change to all positions that are read, and no further than they."""
    model = tiny_model("llama")
    hops = (Hop((Site("logits"),), through, ln=ln),)
    chosen = [Cell("0.1", "all", (Intervention(Site.parse("0.1"), Zero()),), hops)]
    ours, theirs = (measure(model, text, chosen, engine=engine) for engine in ENGINES)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)
    assert np.abs(ours - measure(model, text, [null()])).min() > 1e-6


@pytest.mark.parametrize("engine", ENGINES)
def test_null_interventions_change_nothing(model, text, engine):
    nulls = [Cell(s, "all", (Intervention(Site.parse(s), Freeze()),)) for s in SITES]
    sweep = Sweep(model, text, nulls, "test", "clean", (LOSS,), engine)
    found = run(sweep)
    assert found.frame["effect"].abs().max() < 1e-12
    assert found.provenance["null"] < 1e-12


def test_nothing_before_an_intervention_moves(tiny_model, text):
    """Only tokens after "mid" can be foretold otherwise: the rest of the mean is the base's."""
    model = tiny_model("gpt2")
    change = Cell("x", "mid", (Intervention(Site.parse("1.mlp"), Zero(), "mid"),))
    effect = (measure(model, text, [change]) - measure(model, text, [null()]))[0]
    last = text.at("mid") == text.lengths - 1  # nothing follows: rows 2 and 5
    assert (np.abs(effect[last.numpy()]) < 1e-14).all()
    assert (np.abs(effect[~last.numpy()]) > 1e-6).all()


def null() -> Cell:
    return Cell("null", "all", (Intervention(Site("embed"), Freeze()),))


@pytest.mark.plain
def test_a_batch_is_its_rows_and_cells_one_by_one(tiny_model, text):
    model = tiny_model("llama")
    chosen = cells()[::3]
    together = measure(model, text, chosen)
    rows = [measure(model, text.select([row]), chosen) for row in range(len(text))]
    np.testing.assert_allclose(together, np.hstack(rows), rtol=0, atol=1e-12)
    one_by_one = np.vstack([measure(model, text, [c]) for c in chosen])
    np.testing.assert_allclose(together, one_by_one, rtol=0, atol=1e-12)
    tight = measure(model, text, chosen, memory=least(partial(measure, model, text, chosen)))
    np.testing.assert_allclose(together, tight, rtol=0, atol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_logits_are_made_a_few_positions_at_a_time(tiny_model, text, engine, monkeypatch):
    """No more bytes of them than are allowed, and the same numbers."""
    model = tiny_model("llama")
    chosen = cells()[:2]
    whole = measure(model, text, chosen, engine=engine)
    sizes: list[int] = []

    def seen(logits, answers):
        sizes.append(logits.numel() * logits.element_size())
        return LOSS.fn(logits, answers)

    counted = Metric("counted", seen, position="all", needs_answers=False)
    at_once = 3 * 8 * tiny.VOCAB  # one position of three rows
    monkeypatch.setattr(limits, "PROCESSOR", replace(limits.PROCESSOR, logits=at_once))
    memory = least(partial(measure, model, text, chosen, counted, engine))
    few = measure(model, text, chosen, counted, engine, memory=memory)
    np.testing.assert_allclose(few, whole, rtol=0, atol=1e-12)
    assert max(sizes) <= at_once
    assert len(sizes) > 10 * len(chosen)


@pytest.mark.parametrize("site", ["embed", "0.1", "1.mlp", "2.0"])
def test_flops_are_those_of_the_run(model, text, site):
    """The unembedding of every position among them."""
    cell = Cell(site, "all", (Intervention(Site.parse(site), Zero()),))
    chosen = text.select([1, 4])
    sweep = Sweep(model, chosen, [cell], "test", "clean", (LOSS,), "replay")
    plan = make_plan(
        *(model.facts, chosen, [cell]),
        budget=1 << 30,
        itemsize=8,
        metrics=(LOSS,),
        engine="replay",
    )
    [batch] = plan.batches
    with torch.inference_mode():
        block = Traced(sweep, choose(model, "replay"), [batch], {})
        with FlopCounterMode(display=False) as counter:
            block.run(batch)
    assert plan.flops == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_the_plan_counts_the_unembedding_of_every_position(tiny_model, text):
    model = tiny_model("llama")
    chosen, facts = text.select([1, 4]), model.facts
    options = {"method": "zero", "engine": "replay"}
    one, every = (
        explain(interp.ablate, model, chosen, "2.mlp", metric=metric, **options)
        for metric in (Metric("one", lambda x, a: x[..., 0], needs_answers=False), LOSS)
    )
    unembedding = 2 * facts.d_model * facts.d_vocab
    assert every.flops - one.flops == 2 * 7 * unembedding  # two rows, eight positions for one
    assert f"{every.flops / 1e9:.1f} GFLOP" in str(every)


@pytest.mark.plain
def test_other_metrics_wherever_a_token_follows(tiny_model, text):
    """`metric@all` of those that need one answer; `loss@all` is the next-token loss."""
    model = tiny_model("llama")
    named = {name: measure(model, text, cells(), resolve_metric(f"{name}@all")) for name in ONE}
    assert np.array_equal(named["loss"], measure(model, text, cells()))
    np.testing.assert_allclose(named["loss"], -named["log_prob"])
    assert (named["prob"] < 1).all() and (named["rank"] <= tiny.VOCAB - 1).all()


ONE = ("log_prob", "loss", "prob", "rank")


def test_models_that_read_the_answer_are_refused(tiny_model, text):
    with pytest.raises(Unsupported, match=r"'next_token_loss' scores each.*reads the whole"):
        interp.evaluate(tiny_model("bert"), text, metric="next_token_loss")
    with pytest.raises(PairsError, match="row 0 has no target, .*target=, the translations"):
        interp.evaluate(tiny_model("t5"), text, metric="next_token_loss")
    with pytest.raises(Unsupported, match="no trained language-model head"):
        interp.evaluate(tiny_model("bert-headless"), text, metric="next_token_loss")


def test_a_row_of_one_token_is_refused(tiny_model):
    short = Pairs.from_tokens(clean=[[3, 4], [5]], corrupt=[[3, 4], [5]])
    with pytest.raises(PairsError, match="row 1 has a single token, so nothing follows"):
        interp.ablate(tiny_model("gpt2"), short, "0.1", method="zero", metric="next_token_loss")


def test_numbers_that_are_not_finite_name_their_site(tiny_model, text):
    huge = torch.full((*text.clean.shape, 30), 1e308, dtype=torch.float64)
    cell = Cell("0.mlp", "all", (Intervention(Site.parse("0.mlp"), Add(huge)),))
    cell = Cell(
        "0.mlp", "all", (*cell.interventions, Intervention(Site.parse("0.attn"), Add(huge)))
    )
    with pytest.raises(MetricError, match=r"is the first to hold NaN.*for token \d+ of a batch"):
        measure(tiny_model("llama"), text, [cell])
