"""Interventions inside an LSTM against one that is stepped in plain Python."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pytest
import stepped
import tiny
import torch
from budgets import least
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import interp
from interp.core.errors import MetricError, SiteError, Unsupported
from interp.core.metrics import METRICS, Metric
from interp.core.parts.sites import Site, resolve
from interp.datasets.corpus import Corpus, Document, Sentence, Word
from interp.engine.engines.choose import choose, weights_of
from interp.engine.interventions import (
    Add,
    Cell,
    Erase,
    Freeze,
    Intervention,
    Mean,
    Reference,
    Resample,
    Scale,
    Set,
    Value,
    Zero,
)
from interp.engine.plan.batches import make_plan
from interp.engine.sweep.sweep import Sweep
from interp.engine.sweep.traced import Traced
from interp.heads.types.detect import detect
from interp.models.model import Model
from interp.models.small.recurrent import RecurrentShape, build_recurrent, state_of

TOLERANCE = 1e-12
SHAPE = RecurrentShape(n_layers=3, d_model=5, d_vocab=11, n_ctx=16)
LENGTHS = [5, 7, 5, 7]
Sites = list[Site]


@pytest.fixture(scope="module")
def model() -> Model:
    """Embeddings N(0, 1) and layers some times as large as torch draws them: gates that move."""
    drawn = build_recurrent(SHAPE, name="drawn", seed=3, dtype=torch.float64)
    state = {k: v if k == "embed.weight" else 3 * v for k, v in state_of(drawn).items()}
    return build_recurrent(SHAPE, name="lstm", state=state, dtype=torch.float64)


@pytest.fixture(scope="module")
def pairs() -> interp.Pairs:
    """Four random pairs of two lengths in two clusters; "mid" comes before "late"."""
    generator = torch.Generator().manual_seed(1)

    def rows() -> list[list[int]]:
        return [torch.randint(SHAPE.d_vocab, (n,), generator=generator).tolist() for n in LENGTHS]

    return interp.Pairs.from_tokens(
        clean=rows(),
        corrupt=rows(),
        correct=[3, 5, 7, 9],
        wrong=[4, 6, 8, 10],
        positions={"mid": [2, 1, 1, 3], "late": [3, 5, 4, 4]},
        cluster=["a", "b", "a", "b"],
    )


def ids(pairs: interp.Pairs, row: int, side: str = "clean") -> list[int]:
    return getattr(pairs, side)[row, : pairs.lengths[row]].tolist()


def key(site: Site, pos: int) -> stepped.Key:
    return site.kind, site.layer or 0, pos


def touched(pairs: interp.Pairs, positions: str | int, row: int) -> set[int]:
    if positions in ("all", "after first"):
        return set(range(positions == "after first", LENGTHS[row]))
    return {positions if isinstance(positions, int) else int(pairs.at(positions)[row])}


def valued(value: Value, now: float, other: float, held: float) -> float:
    """What a value makes of one number; `held`: what a tensor of one's own has there."""
    match value:
        case Zero():
            return 0.0
        case Scale(factor=factor):
            return factor * now
        case Resample():
            return other
        case Add():
            return now + held
        case Set():
            return held
    raise AssertionError(value)


def by_steps(
    model: Model, pairs: interp.Pairs, made: Sequence[Intervention], row: int, read: int = -1
) -> float:
    """The logit difference of a row under interventions, stepped."""
    state, other = state_of(model), stepped.run(state_of(model), ids(pairs, row, "corrupt"))

    def change(at: stepped.Key, vector: stepped.Vector) -> stepped.Vector:
        new = list(vector)
        for i in sorted(made, key=lambda i: i.site):
            pos = at[2]
            if key(i.site, pos) != at or pos not in touched(pairs, i.positions, row):
                continue
            units = range(len(new)) if i.site.neuron is None else [i.site.neuron]
            for n in units:
                own = i.value.source
                held = 0.0
                if isinstance(own, torch.Tensor):
                    held = float(own[row, pos] if own.ndim == 2 else own[row, pos, n])
                new[n] = valued(i.value, new[n], other.at[at][n], held)
        return new

    logits = stepped.run(state, ids(pairs, row), change).logits[read]
    return logits[int(pairs.correct[row])] - logits[int(pairs.wrong[row])]


def own(site: Site, seed: int) -> torch.Tensor:
    """A value of one's own for every row and position."""
    axes = () if site.neuron is not None else (SHAPE.d_model,)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(LENGTHS), max(LENGTHS), *axes, generator=generator, dtype=torch.float64)


sites = st.one_of(
    st.just(Site("embed")),
    st.builds(Site, st.sampled_from(["c", "h"]), st.integers(0, 2)),
    st.builds(Site, st.sampled_from(["c", "h"]), st.integers(0, 2), neuron=st.integers(0, 4)),
)
places = st.sampled_from(["all", "after first", "mid", "late", "end", 0, 4])


@st.composite
def interventions(draw: st.DrawFn) -> list[Intervention]:
    """A few in one run: whole states and their units, one site at two positions."""
    found: dict[Site, list[Intervention]] = {}
    for n in range(draw(st.integers(1, 3))):
        site = draw(sites)
        values = [Zero(), Scale(-1.5), Resample("corrupt"), Add(own(site, n)), Set(own(site, n))]
        if site not in found:
            made = [Intervention(site, draw(st.sampled_from(values)), draw(places))]
            if draw(st.booleans()):
                made = [replace(made[0], positions=at) for at in ("mid", "late")]
            found[site] = made
    return [i for made in found.values() for i in made]


@pytest.mark.plain
@settings(max_examples=12, deadline=None)
@given(cells=st.lists(interventions(), min_size=1, max_size=4))
def test_interventions_are_those_of_the_stepped_model(model, pairs, cells):
    """Several cells in one wave, each against a run of its own, row by row."""
    named = {str(n): cell for n, cell in enumerate(cells)}
    found = interp.intervene(model, pairs, named).frame
    for n, cell in enumerate(cells):
        values = found[found["site"] == str(n)].sort_values("example")["value"]
        expected = [by_steps(model, pairs, cell, row) for row in range(len(pairs))]
        assert np.abs(values.to_numpy() - expected).max() < TOLERANCE


@pytest.mark.parametrize("kind", ["c", "h"])
def test_a_unit_of_a_state_that_is_set_comes_last(model, pairs, kind):
    whole = Intervention(Site(kind, 1), Set(own(Site(kind, 1), 5)), "mid")
    unit = Intervention(Site(kind, 1, neuron=2), Scale(-2.0), "all")
    found = interp.intervene(model, pairs, {"a": [whole, unit], "b": [unit, whole]}).frame
    expected = [by_steps(model, pairs, [whole, unit], row) for row in range(len(pairs))] * 2
    assert np.abs(found["value"].to_numpy() - expected).max() < TOLERANCE


def test_a_plain_run_is_that_of_torch_and_of_the_stepped_model(model, pairs):
    state = state_of(model)
    lstm = torch.nn.LSTM(5, 5, 3, batch_first=True, dtype=torch.float64)
    lstm.load_state_dict({k.removeprefix("lstm."): v for k, v in state.items() if "lstm" in k})
    tokens = pairs.clean[[1, 3]]
    with torch.no_grad():
        h, (last, c) = lstm(state["embed.weight"][tokens])
    run = choose(model).trace(tokens)
    assert (run.final - h).abs().max() < TOLERANCE
    for layer in range(3):
        assert (run.at(Site("h", layer))[:, -1] - last[layer]).abs().max() < TOLERANCE
        assert (run.at(Site("c", layer))[:, -1] - c[layer]).abs().max() < TOLERANCE
    with torch.no_grad():
        logits = model.bridge(tokens).logits
    assert (logits - h @ state["unembed.weight"].T).abs().max() < TOLERANCE
    for row, n in enumerate((1, 3)):
        alone = stepped.run(state, ids(pairs, n))
        said = torch.tensor(alone.logits, dtype=torch.float64)
        assert (said - logits[row]).abs().max() < TOLERANCE
        for site, pos in product(map(Site.parse, ("embed", "0.c", "1.h", "2.c")), range(7)):
            expected = torch.tensor(alone.at[key(site, pos)], dtype=torch.float64)
            assert (run.at(site)[row, pos] - expected).abs().max() < TOLERANCE


def test_the_metric_of_each_side_is_that_of_the_plain_run(model, pairs):
    metrics = ["logit_diff", "next_token_loss", "cosine", "kl"]
    found = interp.evaluate(model, pairs, metric=metrics).frame
    assert set(found["engine"]) == {"recurrent"}
    for side, row in product(("clean", "corrupt"), range(len(pairs))):
        mine = found[(found["position"] == side) & (found["example"] == row)].set_index("metric")
        run = stepped.run(state_of(model), ids(pairs, row, side))
        logits = torch.tensor(run.logits, dtype=torch.float64)
        last = logits[-1, int(pairs.correct[row])] - logits[-1, int(pairs.wrong[row])]
        assert abs(mine.loc["logit_diff", "value"] - float(last)) < TOLERANCE
        following = torch.tensor(ids(pairs, row, "clean")[1:])
        loss = torch.nn.functional.cross_entropy(logits[:-1], following)
        assert abs(mine.loc["next_token_loss", "value"] - float(loss)) < TOLERANCE


@pytest.mark.parametrize(
    ("method", "chosen"),
    [
        ("zero", "units"),
        ("mean", "layers"),
        ("resample", ["2.h", "1.c[4]"]),
        ("mean", ["0.c", "2.c[4]", "embed"]),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:mean ablation")
def test_ablation(model, pairs, method, chosen):
    found = interp.ablate(model, pairs, chosen, method=method, positions=["all", "mid"])
    assert found.provenance["engine"] == "recurrent"
    assert found.provenance["null"] < TOLERANCE
    frame = found.frame
    for site, place in product(resolve(chosen, model.facts), ("all", "mid")):
        mine = frame[(frame["site"] == str(site)) & (frame["position"] == place)]
        values = {
            "zero": Zero(),
            "resample": Resample("corrupt"),
            "mean": Set(mean(model, pairs, site)),
        }
        made = [Intervention(site, values[method], place)]
        expected = [by_steps(model, pairs, made, row) for row in range(len(pairs))]
        assert np.abs(mine["value"].to_numpy() - expected).max() < TOLERANCE
        assert set(mine["kind"]) == {site.kind}
    assert frame["effect"].abs().max() > 1e-3


def mean(model: Model, pairs: interp.Pairs, site: Site) -> torch.Tensor:
    """Over the corrupt rows of the same cluster, which are of one length here."""
    runs = [stepped.run(state_of(model), ids(pairs, row, "corrupt")) for row in range(len(pairs))]
    found = own(site, 0)
    for row, length in enumerate(LENGTHS):
        same = [n for n, cluster in enumerate(pairs.cluster) if cluster == pairs.cluster[row]]
        for pos in range(length):
            vectors = torch.tensor([runs[n].at[key(site, pos)] for n in same], dtype=torch.float64)
            held = vectors.mean(0)
            found[row, pos] = held if site.neuron is None else held[site.neuron]
    return found


def test_a_patch_of_a_run_into_itself_does_nothing(model, pairs):
    same = replace(pairs, corrupt=pairs.clean)
    for chosen in ("units", "layers", "c", "embed"):
        found = interp.patch(model, same, chosen, positions=["all", "mid"])
        assert found.frame["effect"].abs().max() < TOLERANCE
    moved = interp.patch(model, pairs, "layers", direction="denoise")
    assert moved.frame["effect"].abs().max() > 1e-3
    last = moved.frame[moved.frame["site"] == "2.h"]
    clean = interp.evaluate(model, pairs, metric="logit_diff").frame.query("position == 'clean'")
    assert np.abs(last["value"].to_numpy() - clean["value"].to_numpy()).max() < TOLERANCE


def test_a_batch_is_the_loop_over_its_cells_and_rows(model, pairs):
    chosen = ["0.c[1]", "1.h", "embed"]
    whole = interp.patch(model, pairs, chosen, positions=["mid", "all"]).frame
    call = partial(interp.patch, model, pairs, chosen, positions=["mid", "all"])
    small = call(memory=least(call)).frame
    assert np.abs(whole["value"] - small["value"]).max() < TOLERANCE
    for site, row in product(chosen, (0, 3)):
        alone = interp.patch(model, pairs.select([row]), site, positions=["mid", "all"]).frame
        mine = whole[(whole["site"] == site) & (whole["example"] == row)]
        assert np.abs(mine["value"].to_numpy() - alone["value"].to_numpy()).max() < TOLERANCE


def test_nothing_changes_before_a_position_and_everything_may_after_it(model, pairs):
    early = Metric("early", METRICS["logit_diff"].fn, position="mid")
    for chosen in ("units", ["0.c[2]", "1.c", "embed"]):
        before = interp.ablate(model, pairs, chosen, method="zero", positions="late", metric=early)
        assert before.frame["effect"].abs().max() < TOLERANCE
        after = interp.ablate(model, pairs, chosen, method="zero", positions="mid")
        assert after.summary()["effect"].abs().min() > 0


def test_what_a_cell_holds_is_felt_later_though_nobody_reads_it_there(model, pairs):
    """The hidden state kept as it was, a change of the cell state reaches the next position."""
    hold = Intervention(Site("h", 1), Freeze(), "mid")
    cell = Intervention(Site("c", 1), Zero(), "mid")
    found = interp.intervene(model, pairs, {"held": [cell, hold], "hold": [hold]}).frame
    effect = found.set_index("site")["effect"].abs()
    assert effect["held"].min() > 1e-6
    assert effect["hold"].max() < TOLERANCE


def test_units_are_ablated_together_by_name(model, pairs):
    together = interp.ablate(model, pairs, {"all": "units"}, method="zero").frame["value"]
    layers = interp.ablate(model, pairs, {"all": "layers"}, method="zero").frame["value"]
    assert np.abs(together - layers).max() == 0
    assert together.abs().max() == 0  # logits of a last hidden state of zeros


def test_erasure(model, pairs):
    """Erasing every direction is the mean for everyone."""
    eye, at = torch.eye(5, dtype=torch.float64), torch.linspace(-0.5, 0.5, 5, dtype=torch.float64)
    site, rows = Site("c", 1), (len(LENGTHS), max(LENGTHS), 5)
    erased = Intervention(site, Erase(eye, eye, at), "mid")
    put = Intervention(site, Set(at.expand(rows)), "mid")
    found = interp.intervene(model, pairs, {"erased": [erased], "put": [put]}).frame
    values = [found[found["site"] == name]["value"].to_numpy() for name in ("erased", "put")]
    assert np.abs(values[0] - values[1]).max() < TOLERANCE
    unit = Intervention(Site("c", 1, neuron=2), Erase(eye, eye, at))
    with pytest.raises(SiteError, match=r"'1.c\[2\]' is no vector of features"):
        interp.intervene(model, pairs, {"unit": [unit]})


@pytest.mark.filterwarnings("ignore:mean ablation")
def test_a_mean_reference_of_states(model, pairs, tmp_path):
    chosen = ["1.c", "1.c[2]", "0.h[1]"]
    reference = interp.MeanReference.fit(model, pairs, chosen)
    reference.save(tmp_path / "means")
    read = interp.MeanReference.load(tmp_path / "means")
    for means in (reference, read):
        found = interp.ablate(model, pairs, chosen, reference=means).frame["value"]
        fresh = interp.ablate(model, pairs, chosen).frame["value"]
        assert np.abs(found - fresh).max() < TOLERANCE


def test_captures_are_the_states(model, pairs, tmp_path):
    chosen = ["embed", "0.c", "0.c[3]", "0.c[1]", "2.h", "1.h[4]"]
    held = interp.capture(model, pairs, chosen, side="corrupt")
    read = interp.capture(model, pairs, chosen, side="corrupt", folder=tmp_path / "kept", batch=1)
    assert list(map(str, held)) == ["embed", "0.c", "0.c[1]", "0.c[3]", "1.h[4]", "2.h"]
    for row in range(len(pairs)):
        run = stepped.run(state_of(model), ids(pairs, row, "corrupt"))
        for site in held:
            vectors = [run.at[key(site, pos)] for pos in range(LENGTHS[row])]
            expected = torch.tensor(vectors, dtype=torch.float64)
            expected = expected if site.neuron is None else expected[:, site.neuron]
            for found in (held, read):
                assert (found.rows(site)[row] - expected).abs().max() < TOLERANCE
    assert "c of a unit: 2 sites (0.c[1] to 0.c[3]), 4 x 5 to 7" in repr(held)


def test_words_are_collected():
    shape = RecurrentShape(n_layers=2, d_model=5, d_vocab=len(tiny.WORDS), n_ctx=16)
    words = tiny.word_tokenizer(adds_bos=False)
    reader = build_recurrent(shape, name="reader", tokenizer=words, dtype=torch.float64)
    texts = ["The Mary", "The Mary gave it to John", "The John gave"]
    sentences = []
    for n, text in enumerate(texts):
        starts = [0, *(i + 1 for i, letter in enumerate(text) if letter == " ")]
        spans = zip(text.split(), starts, strict=True)
        found = tuple(Word(form, (at, at + len(form))) for form, at in spans)
        sentences.append(Sentence(str(n), text, found))
    corpus = Corpus("made", (Document("d", tuple(sentences)),), frozenset())
    features = interp.probing.collect(
        reader, corpus, sites=["resid", "1.c[2]"], dtype=torch.float64
    )
    assert list(map(str, features.sites)) == ["embed", "0.h", "1.c[2]", "1.h"]
    runs = [stepped.run(state_of(reader), reader.encode(text)) for text in texts]
    at = [(run, pos) for run in runs for pos in range(len(run.logits))]
    assert len(at) == len(features.word) == 11
    for site in features.sites:
        vectors = [run.at[key(site, pos)] for run, pos in at]
        expected = torch.tensor(vectors, dtype=torch.float64)
        expected = expected if site.neuron is None else expected[:, [site.neuron]]
        assert (features[site] - expected).abs().max() < TOLERANCE


def test_the_plan(model, pairs):
    """FLOPs against PyTorch's own count, but for the input of the layer where cells join."""
    chosen = [*resolve("units", model.facts), Site("embed"), Site("c", 1)]
    cells = [Cell(str(s), "mid", (Intervention(s, Zero(), "mid"),), site=s) for s in chosen]
    pairs, metric = pairs.select([1, 3]), METRICS["logit_diff"]
    plan = make_plan(
        model.facts, pairs, cells, budget=1 << 30, itemsize=8, metrics=(metric,), engine="recurrent"
    )
    [batch] = plan.batches
    assert (batch.start, batch.positions, batch.layers) == (1, 6, (0, 2))
    sweep = Sweep(model, pairs, cells, "test", "clean", (metric,))
    with torch.inference_mode():
        block = Traced(sweep, choose(model), [batch], {})
        with FlopCounterMode(display=False) as counter:
            block.run(batch)
    shared = 2 * 2 * 6 * 4 * 5 * 5  # layers 1 and 2, rows, positions
    inputs = 6 * 2 * 6 * 2 * 4 * 5 * 5  # of layer 0, which the embedding's cell makes nobody share
    assert 0 < plan.flops <= counter.get_total_flops() <= plan.flops + 2 * shared + inputs
    text = str(interp.explain(interp.ablate, model, pairs, "units", method="zero", positions="mid"))
    assert text.startswith("engine recurrent, LSTM: 3 layers, d_model 5, vocabulary 11")
    assert "times fewer" in text


def refusals(model: Model, pairs: interp.Pairs) -> list[tuple[Callable[[], object], str]]:
    edge = Intervention(Site("embed"), Zero(), readers=(Site("logits"),))
    hop = interp.interventions.Hop((Site("logits"),))
    return [
        (
            lambda: interp.ablate(model, pairs, "heads"),
            "an LSTM has no heads; sites of it are '0.h",
        ),
        (lambda: interp.patch(model, pairs, "mlps"), "an LSTM has no MLPs"),
        (lambda: interp.attention(model, pairs, "heads"), "an LSTM has no heads"),
        (lambda: detect(model, pairs), "detect() reads attention patterns: an LSTM has no heads"),
        (lambda: weights_of(model), "lstm: an LSTM has no heads"),
        (lambda: model.require("heads"), "lstm: an LSTM has no heads"),
        (lambda: model.require("residual"), "lstm: an LSTM has no residual stream"),
        (lambda: interp.path_patch(model, pairs, senders="units"), "so no path through it can be"),
        (lambda: interp.ablate(model, pairs, "edges"), "'edges': what an LSTM reads is no sum"),
        (lambda: interp.ablate(model, pairs, "embed -> logits"), "is no sum of what was written"),
        (lambda: interp.intervene(model, pairs, {"a": [edge]}), "is no sum of what was written"),
        (
            lambda: interp.intervene(
                model, pairs, {"a": [Intervention(Site("embed"), Zero())]}, hops=[hop]
            ),
            "paths and readers of their own are of transformers",
        ),
        (
            lambda: interp.ablate(model, pairs, "units", engine="replay"),
            "the replay engine is of tr",
        ),
        (lambda: interp.evaluate(model, pairs, engine="hooks"), "the hooks engine is of transform"),
        (lambda: choose(model).walk(pairs.clean, print, shelves=["z"]), "an LSTM has no heads"),
        (lambda: interp.ablate(model, pairs, "3.h"), "layer 3 is outside 0 to 2"),
    ]


@pytest.mark.parametrize("number", range(16))
def test_what_an_lstm_has_not_is_refused(model, pairs, number):
    call, message = refusals(model, pairs)[number]
    with pytest.raises((SiteError, Unsupported)) as caught:
        call()
    assert message in str(caught.value)


def test_a_transformer_is_not_recurrent(tiny_model, pairs):
    llama = tiny_model("llama")
    with pytest.raises(Unsupported, match="'recurrent' is of LSTMs, and .* is a LlamaForCausalLM"):
        interp.evaluate(llama, pairs, engine="recurrent")
    with pytest.raises(SiteError, match="not recurrent, so no state is handed"):
        interp.ablate(llama, pairs, "units")


class Lost(Scale):
    """Times what no number holds."""

    def __call__(self, current, found):
        return current * float("inf")


def test_where_numbers_are_lost(model, pairs):
    with pytest.raises(MetricError, match=r"intervention on lost, 1.h is the first to hold NaN"):
        interp.intervene(model, pairs, {"lost": [Intervention(Site("h", 1), Lost(1.0))]})


def test_a_mean_of_whose(model, pairs):
    """Mean's source is averaged once for all units that share it."""
    value = Mean(Reference(pairs, "corrupt"))
    both = [Intervention(Site("h", 1, neuron=n), value, "mid") for n in (0, 3)]
    with pytest.warns(UserWarning, match="mean ablation"):
        found = interp.intervene(model, pairs, {"both": both}).frame["value"]
    expected = [
        by_steps(
            model, pairs, [replace(i, value=Set(mean(model, pairs, i.site))) for i in both], row
        )
        for row in range(len(pairs))
    ]
    assert np.abs(found.to_numpy() - expected).max() < TOLERANCE


HOOKED = {
    "a hook on its cells": lambda m: m.lstm.register_forward_hook(
        lambda module, given, made: (made[0] * 1.5, made[1])
    ),
    "a hook on the embedding": lambda m: m.embed.register_forward_hook(
        lambda module, given, made: made * 1.5
    ),
    "a pre-hook": lambda m: m.unembed.register_forward_pre_hook(
        lambda module, given: (given[0] * 1.5,)
    ),
    "a bias": lambda m: setattr(m.unembed, "bias", nn.Parameter(torch.ones(11).double())),
    "another part": lambda m: setattr(
        m, "unembed", torch.nn.Sequential(torch.nn.Tanh(), m.unembed)
    ),
    "another cell": lambda m: setattr(m, "lstm", nn.LSTM(5, 5, batch_first=True).double()),
}


@pytest.mark.parametrize("name", HOOKED)
def test_what_the_engine_does_not_compute_is_refused(name):
    shape = RecurrentShape(n_layers=2, d_model=5, d_vocab=11, n_ctx=16)
    changed = build_recurrent(shape, name="changed", dtype=torch.float64)
    pairs = interp.Pairs.from_tokens(clean=[[1, 2, 3]], corrupt=[[1, 4, 3]], correct=[1], wrong=[2])
    before = interp.evaluate(changed, pairs).frame["value"].tolist()
    handle = HOOKED[name](changed.bridge)
    changed.bridge.eval()
    for call in (interp.evaluate, partial(interp.ablate, sites="0.h", method="zero")):
        with pytest.raises(Unsupported, match="not what the model computes now.*Take off"):
            call(changed, pairs)
    if handle is not None:
        handle.remove()
        assert interp.evaluate(changed, pairs).frame["value"].tolist() == before
