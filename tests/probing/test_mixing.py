"""Scalar mixes and cumulative probes; expected layers worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from interp.core.door.door import ArgumentError
from interp.core.errors import ProbeError
from interp.probing.fit.nets import mixing
from interp.probing.fit.nets.examples import Examples
from interp.probing.fit.nets.mixing import centre_of_gravity, expected_layer
from interp.probing.fit.nets.nets import Mlp
from interp.probing.fit.nets.spans import SpanClassifier
from interp.probing.fit.nets.trained import fit_probe
from interp.probing.fit.nets.training import Schedule
from interp.probing.fit.scoring import correct

LAYERS, WORDS, D = 4, 600, 5
FAST = Schedule(learning_rate=0.01, batch=50, epochs=40)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# by hand


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.5, 0.9, 0.9, 0.9], 1.0),  # all of it at layer 1
        ([0.5, 0.5, 0.5, 0.9], 3.0),
        ([0.5, 0.7, 0.7, 0.9], 2.0),  # half at 1, half at 3
        ([0.0, 0.4, 0.6, 0.8], (0.4 + 2 * 0.2 + 3 * 0.2) / 0.8),
        ([0.5, 0.8, 0.7], (0.3 - 2 * 0.1) / 0.2),  # a layer that harms
        ([0.5, 0.5, 0.5], float("nan")),
        ([0.5, 0.7, 0.4], float("nan")),  # no gain, so no layer to expect it at
    ],
)
def test_expected_layer_by_hand(scores, expected):
    found = float(expected_layer(np.array(scores)))
    assert found == pytest.approx(expected, nan_ok=True)


def test_tasks_at_once():
    curves = np.array([[0.5, 0.9, 0.9], [0.5, 0.5, 0.9]])
    assert expected_layer(curves).tolist() == pytest.approx([1.0, 2.0])


def test_centre_of_gravity_by_hand():
    shares = np.array([[0.25] * 4, [0, 0, 1, 0], [0.5, 0, 0, 0.5]])
    assert centre_of_gravity(shares).tolist() == [1.5, 2.0, 1.5]


@settings(max_examples=40)
@given(arrays(float, 6, elements=st.floats(0, 1)), st.floats(0.1, 10), st.floats(-5, 5))
def test_expected_layer_is_free_of_unit_and_zero(scores, unit, zero):
    if scores[-1] - scores[0] < 1e-3:
        return
    a, b = expected_layer(scores), expected_layer(unit * scores + zero)
    assert a == pytest.approx(b, rel=1e-6, abs=1e-6)


@settings(max_examples=40)
@given(arrays(float, 6, elements=st.floats(0, 1)))
def test_a_rising_curve_has_its_layer_between_first_and_last(gains):
    if gains[1:].sum() > 1e-3:
        assert 1 - 1e-9 <= expected_layer(np.cumsum(gains)) <= 5 + 1e-9


# intervals


def documents(curve: list[float], clusters: int = 40, *, spread: float = 0.03, seed: int = 0):
    """Totals by layer and document around a curve of scores, and counts."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(5, 30, clusters).astype(float)
    level = np.array(curve)[:, None] + spread * rng.normal(size=(len(curve), clusters))
    return level * counts, counts


def test_interval_against_a_loop_over_documents():
    totals, counts = documents([0.5, 0.7, 0.75, 0.9], 12)
    value, low, high = mixing.expected_layer_interval(totals, counts)

    def layer(chosen: list[int]) -> float:
        curve = [totals[layer, chosen].sum() / counts[chosen].sum() for layer in range(4)]
        steps = np.diff(curve)
        return (steps[0] + 2 * steps[1] + 3 * steps[2]) / (curve[3] - curve[0])

    every = list(range(12))
    assert value == pytest.approx(layer(every))
    others = np.array([layer([i for i in every if i != out]) for out in every])
    error = np.sqrt(11 / 12 * np.square(others - value).sum())
    free = counts.sum() ** 2 / np.square(counts).sum() - 1
    wide = scipy.stats.t.ppf(0.975, free) * error
    assert (low, high) == pytest.approx((value - wide, value + wide))


@pytest.mark.parametrize("clusters", [5, 30])
def test_interval_covers_the_truth(clusters):
    """As often as it says, give or take three standard errors of 400 simulations."""
    curve = [0.5, 0.7, 0.75, 0.9]
    truth, covered = float(expected_layer(np.array(curve))), 0
    for seed in range(400):
        totals, counts = documents(curve, clusters, seed=seed)
        _, low, high = mixing.expected_layer_interval(totals, counts)
        covered += low <= truth <= high
    assert abs(covered / 400 - 0.95) < 3 * np.sqrt(0.95 * 0.05 / 400)


def test_where_layers_add_nothing_there_is_hardly_ever_an_interval():
    """At most as often as a gain that is nothing looks like one: 2.5 %."""
    found = [
        mixing.expected_layer_interval(*documents([0.6] * 4, 10, seed=seed)) for seed in range(400)
    ]
    bounds = np.array(found)[:, 1]
    assert np.mean(~np.isnan(bounds)) < 0.025 + 3 * np.sqrt(0.025 * 0.975 / 400)


def test_tasks_of_the_same_documents_are_paired():
    """The difference of two copies is nothing, whatever the noise."""
    totals, counts = documents([0.5, 0.7, 0.9], spread=0.05)
    copy = (2 * totals + counts, counts)
    same = mixing.expected_layer_gap((totals, counts), copy, documents="same")
    np.testing.assert_allclose(same, 0, atol=1e-9)
    # as if of other documents: as wide as both intervals, each at a right angle to the other
    value, low, high = mixing.expected_layer_gap((totals, counts), copy, documents="others")
    _, bottom, top = mixing.expected_layer_interval(totals, counts)
    assert value == pytest.approx(0, abs=1e-9)
    assert (high - low) / (top - bottom) == pytest.approx(np.sqrt(2), rel=0.03)


@pytest.mark.parametrize("documents_of", ["same", "others"])
@pytest.mark.parametrize("clusters", [5, 30])
def test_intervals_of_differences_cover_the_truth(documents_of, clusters):
    """As often as they say, or a little more, give or take three standard errors."""
    one, two = [0.5, 0.7, 0.75, 0.9], [0.5, 0.55, 0.7, 0.95]
    truth = float(expected_layer(np.array(two)) - expected_layer(np.array(one)))
    covered = []
    for seed in range(400):
        first = documents(one, clusters, seed=seed)
        totals, counts = documents(two, clusters, seed=seed + 5000)
        if documents_of == "same":  # what is easy in one task is so in the other, in part
            off = 0.7 * (first[0] / first[1] + totals / counts - np.add(one, two)[:, None])
            counts = first[1]
            totals = (np.array(two)[:, None] + off) * counts
        _, low, high = mixing.expected_layer_gap(first, (totals, counts), documents=documents_of)
        covered.append(low <= truth <= high)
    assert 0.95 - 3 * np.sqrt(0.95 * 0.05 / 400) < np.mean(covered) < 0.99


def test_no_interval_where_there_is_none():
    one = mixing.expected_layer_interval(*documents([0.5, 0.6, 0.9], 1))
    assert one[0] == pytest.approx(1.75, abs=0.5) and np.isnan(one[1:]).all()
    # a gain that is not told apart from none
    totals, counts = documents([0.5, 0.5, 0.5], spread=0.2)
    assert np.isnan(mixing.expected_layer_interval(totals, counts)[1:]).all()
    with pytest.raises(ProbeError, match="of 40 documents and counts of 39"):
        mixing.expected_layer_interval(totals, counts[:-1])
    with pytest.raises(ProbeError, match="the smallest 0"):
        mixing.expected_layer_interval(totals, counts * (np.arange(40) > 0))
    fewer = (totals[:, :30], counts[:30])
    with pytest.raises(ProbeError, match="40 and 30 documents, which are not the same"):
        mixing.expected_layer_gap((totals, counts), fewer, documents="same")


def test_gains_and_their_intervals():
    totals, counts = documents([0.5, 0.5, 0.9], spread=0.05)
    found = mixing.gains(totals, counts, resamples=500)
    scores = totals.sum(1) / counts.sum()
    np.testing.assert_allclose(found[:, 0], np.diff(scores))
    assert found[0, 1] < 0 < found[0, 2]  # nothing at layer 1
    assert found[1, 1] > 0.3


# cumulative probes


def test_mix_by_hand():
    x = gaussian(3, 2, D)
    logits = torch.tensor([[0.3, -0.2, 9.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    found = mixing.mixed(
        {"mix": logits / mixing.SPEED, "gamma": torch.tensor([[2.0], [0.5]], dtype=torch.float64)},
        torch.tensor([1, 2]),
        x,
    )
    a, b = torch.tensor([0.3, -0.2], dtype=torch.float64).softmax(0)
    torch.testing.assert_close(found[0], 2 * (a * x[0] + b * x[1]))  # layer 2 is not yet seen
    torch.testing.assert_close(found[1], 0.5 * x.mean(0))


def planted(layer: int, *, examples: int = WORDS) -> tuple[Examples, Examples]:
    """A label that a single layer carries."""
    x = gaussian(LAYERS, examples, D)
    y = (x[layer] @ gaussian(D, 3, seed=1)).argmax(-1)[None]
    cut = examples * 2 // 3
    return Examples.of_words(x[:, :cut], y[:, :cut]), Examples.of_words(x[:, cut:], y[:, cut:])


def test_a_label_of_one_layer():
    """Cumulative probes rise there; expected layer and centre of gravity are that layer."""
    train, test = planted(2, examples=1200)
    probe = fit_probe(Mlp(24), train, test, source="cumulative", schedule=FAST)
    right = correct(probe.log_probs(test.x), test.y)[:, 0]
    scores = right.mean(-1)
    assert scores[2] - scores[1] > 0.4
    assert abs(scores[3] - scores[2]) < 0.05
    totals = right.reshape(LAYERS, 20, 20).sum(-1)
    value, low, high = mixing.expected_layer_interval(totals, np.full(20, 20.0))
    assert low < 2 < high and value == pytest.approx(2, abs=0.15)
    shares = probe.weights[:, 0]
    assert shares.shape == (LAYERS, LAYERS)
    assert torch.equal(shares.triu(1), torch.zeros(LAYERS, LAYERS, dtype=torch.float64))
    torch.testing.assert_close(shares.sum(-1), torch.ones(LAYERS, dtype=torch.float64))
    assert centre_of_gravity(shares[-1].numpy()) == pytest.approx(2, abs=0.3)


def test_the_first_cumulative_probe_reads_the_first_layer_alone():
    train, dev = planted(0)
    probe = fit_probe(
        *(Mlp(8), train, dev), source="cumulative", schedule=replace(FAST, epochs=3), seed=1
    )
    other = dev.x.clone()
    other[1:] = 1e3
    logs, moved = probe.log_probs(dev.x), probe.log_probs(other)
    assert torch.equal(logs[0], moved[0]) and not torch.allclose(logs[1], moved[1])
    assert probe.weights[0, 0].tolist() == [1, 0, 0, 0]


def test_cumulative_batch_equals_loop():
    """A probe of layers 0 to l does not depend on the layers that it does not see."""
    train, dev = planted(1)
    names, schedule = list("abcd"), replace(FAST, epochs=3)
    all_four = fit_probe(*(Mlp(8), train, dev), sites=names, source="cumulative", schedule=schedule)
    logs = all_four.log_probs(dev.x)
    for layers in (1, 3):
        own = [replace(e, x=e.x[:layers]) for e in (train, dev)]
        fewer = fit_probe(
            *(Mlp(8), *own), sites=names[:layers], source="cumulative", schedule=schedule
        )
        torch.testing.assert_close(fewer.log_probs(own[1].x), logs[:layers], rtol=0, atol=1e-9)


def test_spans_of_a_mix():
    train, dev = planted(1)
    pairs = [replace(e, rows=torch.cat([e.rows, e.rows + 1], 1)) for e in (train, dev)]
    net = SpanClassifier(1, project=8, hidden=8)
    probe = fit_probe(net, *pairs, source="cumulative", schedule=replace(FAST, epochs=10))
    right = correct(probe.log_probs(dev.x, pairs[1].rows), dev.y).mean(-1)[:, 0]
    assert right[1] > right[0] + 0.2


def test_an_unknown_source():
    with pytest.raises(ArgumentError, match="source='cumulativ'; did you mean 'cumulative'"):
        fit_probe(Mlp(4), *planted(0), source="cumulativ")
