"""Edge probing: spans pooled without padding, against one example at a time."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from interp.core.errors import ProbeError
from interp.probing.fit.nets.examples import Examples
from interp.probing.fit.nets.spans import SpanClassifier, attend, flat
from interp.probing.fit.nets.trained import fit_probe
from interp.probing.fit.nets.training import Schedule
from interp.probing.fit.scoring import correct

SITES, WORDS, D = 2, 40, 6
FAST = Schedule(learning_rate=0.01, batch=50, epochs=30)
KINDS = [(spans, pooling) for spans in (1, 2) for pooling in ("attention", "endpoints")]


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def random_spans(examples: int, spans: int, *, words: int = WORDS, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(words - 5, (examples, spans), generator=generator)
    end = start + torch.randint(1, 6, (examples, spans), generator=generator)
    return torch.stack([start, end], -1).flatten(1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), min_size=1, max_size=6))
def test_the_words_of_spans(spans):
    start, length = torch.tensor(spans).T
    words, example = flat(start, start + length)
    expected = [(w, i) for i, (s, n) in enumerate(spans) for w in range(s, s + n)]
    assert list(zip(words.tolist(), example.tolist(), strict=True)) == expected


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 300))
def test_attention_against_a_softmax_of_each(seed, sharpness):
    """Sharp scores of either sign neither overflow nor vanish."""
    rows = random_spans(7, 1, seed=seed)
    words, example = flat(rows[:, 0], rows[:, 1])
    values = gaussian(3, len(words), 4, seed=seed)
    scores = sharpness * gaussian(3, len(words), seed=seed + 1) - 500
    found = attend(values, scores, example, 7)
    for i in range(7):
        of_i = example == i
        share = scores[:, of_i].softmax(-1)
        torch.testing.assert_close(found[:, i], (share[..., None] * values[:, of_i]).sum(1))


def test_gradient_of_attention():
    rows = random_spans(4, 1)
    words, example = flat(rows[:, 0], rows[:, 1])
    values = gaussian(2, len(words), 3).requires_grad_()
    scores = gaussian(2, len(words), seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda v, s: attend(v, s, example, 4), (values, scores))


@pytest.mark.parametrize(("spans", "pooling"), KINDS)
def test_against_one_example_and_site_at_a_time(spans, pooling):
    """A fitted classifier, written out for a single example."""
    x, rows = gaussian(SITES, WORDS, D), random_spans(60, spans)
    y = torch.arange(60).remainder(3).repeat(2, 1)
    train, dev = Examples(x, rows, y), Examples(x, rows[:9], y[:, :9])
    net = SpanClassifier(spans, pooling, project=5, hidden=4)
    probe = fit_probe(net, train, dev, schedule=replace(FAST, epochs=1, patience=1))
    logs = probe.log_probs(x, rows)
    for site, problem, i in ((0, 0, 3), (1, 0, 0), (1, 1, 59)):
        p = {k: part[2 * site + problem] for k, part in probe.trained.parameters.items()}
        read = (x[site] - probe.moments.mean[site]) * probe.moments.scale[site]
        parts = []
        for span in range(spans):
            start, end = rows[i, 2 * span : 2 * span + 2].tolist()
            words = read[start:end] @ p[f"project{span}.weight"] + p[f"project{span}.bias"]
            if pooling == "attention":
                share = (words @ p[f"attend{span}.weight"])[:, 0].softmax(0)
                parts.append(share @ words)
            else:
                parts += [words[0], words[-1]]
        hidden = (torch.cat(parts) @ p["in.weight"] + p["in.bias"]).clamp_min(0)
        expected = (hidden @ p["out.weight"] + p["out.bias"]).log_softmax(0)
        torch.testing.assert_close(logs[site, problem, i], expected)


@pytest.mark.parametrize(("spans", "pooling"), KINDS)
def test_which_words_are_read(spans, pooling):
    net = SpanClassifier(spans, pooling)
    rows = random_spans(5, spans)
    inside = {w for row in rows.view(-1, 2).tolist() for w in range(*row)}
    assert set(net.words(rows).tolist()) == inside
    assert len(net.columns) == 2 * spans
    wide = net.start(D, 3, torch.Generator())["in.weight"].shape[0]
    assert wide == 256 * spans * (2 if pooling == "endpoints" else 1)


def fitted(net: SpanClassifier, x: Tensor, rows: Tensor, y: Tensor, *, seed: int = 0) -> Tensor:
    """Accuracy on the last third, by site."""
    cut = len(rows) * 2 // 3
    train = Examples(x, rows[:cut], y[None, :cut])
    test = Examples(x, rows[cut:], y[None, cut:])
    probe = fit_probe(net, train, test, schedule=FAST, seed=seed)
    return torch.from_numpy(correct(probe.log_probs(x, test.rows), test.y).mean(-1)[:, 0])


@pytest.mark.plain
def test_attention_finds_the_word_that_matters_and_endpoints_do_not():
    """One word of five is marked in one dimension, and its sign in another is the label."""
    generator = torch.Generator().manual_seed(0)
    x = 0.3 * gaussian(1, 3000, D)
    start = 5 * torch.arange(600)
    marked = start + torch.randint(1, 4, (600,), generator=generator)  # never at an end
    x[0, :, 1] = gaussian(3000, seed=4)  # what is not marked has a sign too, that says nothing
    x[0, marked, 0] += 3
    y = (x[0, marked, 1] > 0).long()
    rows = torch.stack([start, start + 5], 1)
    attention = SpanClassifier(1, "attention", project=8, hidden=16)
    assert fitted(attention, x, rows, y) > 0.85
    assert fitted(replace(attention, pooling="endpoints"), x, rows, y) < 0.65


@pytest.mark.plain
def test_two_spans_are_compared():
    """Whether two spans share a sign, which neither says by itself."""
    x = gaussian(SITES, 900, D)
    rows = random_spans(900, 2, words=900)
    rows[:, 1::2] = rows[:, ::2] + 1
    y = ((x[1, rows[:, 0], 0] > 0) == (x[1, rows[:, 2], 0] > 0)).long()
    found = fitted(SpanClassifier(2, "endpoints", project=8, hidden=32), x, rows, y)
    assert found[1] > 0.85 and abs(found[0] - 0.5) < 0.1


@pytest.mark.parametrize("pooling", ["attention", "endpoints"])
def test_batch_equals_loop(pooling):
    x, rows = gaussian(SITES, WORDS, D), random_spans(80, 2)
    y = (x[0, rows[:, 0], 0] > 0).long()[None]
    train, dev = Examples(x, rows[:50], y[:, :50]), Examples(x, rows[50:], y[:, 50:])
    net, schedule = SpanClassifier(2, pooling, project=5, hidden=4), replace(FAST, epochs=4)
    both = fit_probe(net, train, dev, sites=["a", "b"], schedule=schedule).log_probs(x, rows)
    for site, name in enumerate("ab"):
        own = [replace(e, x=x[site : site + 1]) for e in (train, dev)]
        one = fit_probe(net, *own, sites=[name], schedule=schedule)
        torch.testing.assert_close(one.log_probs(own[0].x, rows)[0], both[site])


def test_what_is_refused():
    x, rows = gaussian(SITES, WORDS, D), random_spans(10, 2)
    y = torch.arange(10).remainder(2)[None]

    def refusal(changed: Tensor) -> str:
        bad = Examples(x, changed, y)
        with pytest.raises(ProbeError) as caught:
            fit_probe(SpanClassifier(), bad, bad)
        return str(caught.value)

    empty = rows.clone()
    empty[4, 3] = empty[4, 2]
    assert f"span of example 4 is empty: [{empty[4, 2]}, {empty[4, 2]})" in refusal(empty)
    beyond = rows.clone()
    beyond[6, 1] = WORDS + 1
    assert f"example 6 has end {WORDS + 1}" in refusal(beyond)
    before = rows.clone()
    before[2, 2] = -1
    assert "example 2 has start 2 -1" in refusal(before)
    assert "rows have 2 columns, and this network reads 4: start, end, start 2" in refusal(
        rows[:, :2]
    )
    last = rows.clone()
    last[0, :2] = torch.tensor([WORDS - 1, WORDS])  # [start, end) may end with the words
    fit_probe(
        *(SpanClassifier(project=2, hidden=2), Examples(x, last, y), Examples(x, last, y)),
        schedule=replace(FAST, epochs=6, improvement=9.0),
    )
