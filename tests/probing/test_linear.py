"""Linear probes against scikit-learn, on activations with known answers, and against misuse."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from interp.core.errors import ProbeError
from interp.probing.fit.linear import TOLERANCE, fit_linear

SITES, WORDS, D, CLASSES = 3, 240, 6, 4


@pytest.fixture(scope="module")
def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping classes at badly scaled, shifted, correlated activations."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(CLASSES, (2, WORDS), generator=generator)
    means = torch.randn(SITES, CLASSES, D, generator=generator, dtype=torch.float64)
    noise = torch.randn(SITES, WORDS, D, generator=generator, dtype=torch.float64)
    x = means[:, y[0]] + noise
    scales = torch.tensor([1, 30, 0.1, 1, 5, 1], dtype=torch.float64)
    x = x * scales + torch.tensor([0, 500, 0, -3, 0, 1], dtype=torch.float64)
    x[:, :, 5] += 0.9 * x[:, :, 0]
    return x, y


def objective(x, y, weight, bias, l2) -> float:
    """Written out, for one problem."""
    logits = x.numpy() @ weight.numpy() + bias.numpy()
    logits -= logits.max(1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    cross = -logs[np.arange(len(y)), y.numpy()].mean()
    return cross + float(l2) / 2 * float((weight.numpy() ** 2).sum())


@pytest.mark.plain
def test_objective_and_predictions_are_those_of_scikit_learn(data):
    x, y = data
    l2 = torch.tensor([0.01, 0.3])
    probe = fit_linear(x, y, l2=l2, tolerance=1e-10)
    assert probe.converged.all()
    for site in range(SITES):
        for problem in range(2):
            peer = LogisticRegression(
                C=1 / (float(l2[problem]) * WORDS), tol=1e-12, max_iter=100_000
            )
            peer.fit((x[site] - x[site].mean(0)).numpy(), y[problem].numpy())
            ours = objective(
                x[site],
                y[problem],
                probe.weight[site, problem],
                probe.bias[site, problem],
                l2[problem],
            )
            weight = torch.tensor(peer.coef_.T)
            bias = torch.tensor(peer.intercept_) - x[site].mean(0) @ weight
            theirs = objective(x[site], y[problem], weight, bias, l2[problem])
            assert ours <= theirs + 1e-7
            assert ours == pytest.approx(float(probe.objective[site, problem]), abs=1e-9)
            logs = peer.predict_log_proba((x[site] - x[site].mean(0)).numpy())
            np.testing.assert_allclose(probe.log_probs(x)[site, problem], logs, atol=1e-3)


def test_the_gradient_vanishes_at_the_fit(data):
    x, y = data
    probe = fit_linear(x, y, l2=torch.tensor([0.05, 0.05]), tolerance=1e-13)
    weight, bias = probe.weight.clone().requires_grad_(), probe.bias.clone().requires_grad_()
    logs = (torch.einsum("swd,spdc->spwc", x, weight) + bias[:, :, None]).log_softmax(-1)
    cross = -logs.gather(3, y[None, :, :, None].expand(SITES, -1, -1, 1)).mean((2, 3)).sum()
    (cross + 0.05 / 2 * weight.square().sum()).backward()
    # in units of the activations' own scale
    assert (weight.grad * x.std(1)[:, None, :, None] ** -1).abs().max() < 1e-4
    assert bias.grad.abs().max() < 1e-5


def test_batch_equals_loop(data):
    x, y = data
    l2 = torch.tensor([0.02, 0.2])
    together = fit_linear(x, y, l2=l2)
    for site in range(SITES):
        for problem in range(2):
            alone = fit_linear(
                x[site : site + 1], y[problem : problem + 1], l2=l2[problem : problem + 1]
            )
            torch.testing.assert_close(
                alone.weight[0, 0], together.weight[site, problem], rtol=1e-6, atol=1e-7
            )
            assert alone.steps.item() == together.steps[site, problem]


def test_fewer_words_than_dimensions_are_fitted_as_the_same_words_twice():
    """Which are as many words as dimensions, and so take the other way to the same minimum."""
    generator = torch.Generator().manual_seed(4)
    x = 3 + torch.randn(2, 20, 30, generator=generator, dtype=torch.float64)
    x *= torch.linspace(0.1, 10, 30, dtype=torch.float64)
    y, l2 = torch.arange(20)[None] % 3, torch.tensor([0.01], dtype=torch.float64)
    few = fit_linear(x, y, l2=l2, tolerance=1e-12, steps=3000)
    twice = fit_linear(
        torch.cat([x, x], 1), torch.cat([y, y], 1), l2=l2, tolerance=1e-12, steps=3000
    )
    assert few.converged.all() and twice.converged.all()
    torch.testing.assert_close(few.weight, twice.weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(few.objective, twice.objective, rtol=1e-9, atol=0)
    logs = few.log_probs(x)
    cross = -logs.gather(3, y[None, :, :, None].expand(2, -1, -1, 1)).mean((2, 3))
    penalty = l2 / 2 * few.weight.square().sum((2, 3))
    torch.testing.assert_close(cross + penalty, few.objective, rtol=1e-9, atol=0)


def test_separable_labels_are_learned_and_random_ones_are_not():
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(3, (2, 600), generator=generator)  # the second: unrelated labels
    x = torch.randn(2, 600, 5, generator=generator)
    x[:, :, :3] += 12 * torch.nn.functional.one_hot(y[0], 3)
    probe = fit_linear(x[:, :400], y[:, :400], l2=torch.tensor([1e-3, 1e-3]))
    right = probe.log_probs(x[:, 400:]).argmax(-1) == y[:, 400:]
    accuracy = right.float().mean(-1)
    assert (accuracy[:, 0] > 0.99).all()
    assert (accuracy[:, 1] < 0.45).all()
    assert (accuracy[:, 1] > 0.2).all()


def test_a_constant_and_a_doubled_dimension_do_no_harm(data):
    x, y = data
    wide = torch.cat([x, x[:, :, :1], torch.ones_like(x[:, :, :1])], 2)
    probe = fit_linear(wide, y, l2=torch.tensor([0.01, 0.01]))
    assert probe.converged.all()
    assert probe.weight.isfinite().all()


def test_half_precision_activations_are_fitted_in_single(data):
    x, y = data
    small = (x / 100).half()
    probe = fit_linear(small, y, l2=torch.tensor([1e-4, 1e-4]))
    same = fit_linear(small.float(), y, l2=torch.tensor([1e-4, 1e-4]))
    assert probe.weight.dtype == torch.float32
    torch.testing.assert_close(probe.weight, same.weight, rtol=1e-3, atol=1e-3)


def test_select_takes_one_problem_of_each_site(data):
    x, y = data
    probe = fit_linear(x, y, l2=torch.tensor([0.01, 0.3]))
    chosen = probe.select(torch.tensor([1, 0, 1]))
    assert torch.equal(chosen.weight[:, 0], probe.weight[range(3), [1, 0, 1]])
    assert torch.equal(chosen.log_probs(x)[1, 0], probe.log_probs(x)[1, 0])


def test_a_probe_that_did_not_converge_says_so(data, caplog):
    x, y = data
    probe = fit_linear(x, y, l2=torch.tensor([1e-6, 1e-6]), tolerance=1e-12, steps=2)
    assert not probe.converged.any()
    assert "6 of 6 linear probes did not converge in 2 steps" in caplog.text


@pytest.mark.plain
def test_the_default_tolerance_is_kept():
    """The objective lies no further over the minimum than it says, on skewed scales and classes."""
    generator = torch.Generator().manual_seed(1)
    y = torch.empty(1, 2000).geometric_(0.2, generator=generator).clamp(max=10).long() - 1
    x = torch.randn(1, 2000, 60, generator=generator) * torch.logspace(-2, 2, 60)
    x[0, :, :10] += torch.randn(10, 10, generator=generator)[y[0]] * torch.logspace(-2, 2, 10)
    l2 = torch.tensor([1e-3])
    found, least = (fit_linear(x, y, l2=l2, tolerance=t).objective for t in (TOLERANCE, 1e-6))
    assert 0 <= (found / least - 1).item() <= TOLERANCE


def test_copies_of_one_dimension_are_fitted():
    """Float32 rounding must not make the covariance indefinite."""
    y = torch.arange(300)[None] % 5
    x = torch.nn.functional.one_hot(y[0], 5).float().repeat(1, 20)[None]
    probe = fit_linear(x, y, l2=torch.tensor([1e-6]))
    assert torch.equal(probe.log_probs(x)[0, 0].argmax(-1), y[0])


def test_refusals(data):
    x, y = data
    one = torch.ones(1)
    with pytest.raises(ProbeError, match="240 words have activations and 200 have labels"):
        fit_linear(x, y[:1, :200], l2=one)
    with pytest.raises(ProbeError, match="problem 1 has one class only"):
        fit_linear(x, torch.stack([y[0], torch.zeros_like(y[0])]), l2=torch.ones(2))
    with pytest.raises(ProbeError, match="an l2 of at least 0 for each of the 2 problems"):
        fit_linear(x, y, l2=one)
    with pytest.raises(ProbeError, match="labels run from 0 to 3; of 3 classes, give 0 to 2"):
        fit_linear(x, y[:1], l2=one, classes=3)
    broken = x.clone()
    broken[2, 7, 1] = torch.nan
    with pytest.raises(ProbeError, match="activations of site 2 hold NaN or infinity"):
        fit_linear(broken, y[:1], l2=one)
