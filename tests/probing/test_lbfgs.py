"""The minimiser: known minima, problems that do not touch each other, honest ends."""

import pytest
import torch

from interp.probing.fit.lbfgs import minimise


def quadratics(n: int, size: int):
    """Convex quadratics with known minima, and their evaluation."""
    generator = torch.Generator().manual_seed(n)
    root = torch.randn(n, size, size, generator=generator, dtype=torch.float64)
    bend = root @ root.mT + 0.1 * torch.eye(size, dtype=torch.float64)
    lowest = torch.randn(n, size, generator=generator, dtype=torch.float64)
    asked: list[list[int]] = []

    def evaluate(active, at):
        asked.append(active.tolist())
        off = at - lowest[active]
        slope = (bend[active] @ off[:, :, None])[:, :, 0]
        return 1 + (off * slope).sum(-1) / 2, slope

    return evaluate, lowest, asked


def test_every_problem_comes_to_its_own_minimum():
    evaluate, lowest, _ = quadratics(5, 7)
    found = minimise(evaluate, torch.zeros_like(lowest), tolerance=1e-14, steps=200)
    assert found.converged.all()
    torch.testing.assert_close(found.at, lowest, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.value, torch.ones(5, dtype=torch.float64))


def test_a_problem_does_not_depend_on_the_others():
    evaluate, lowest, _ = quadratics(4, 6)
    together = minimise(evaluate, torch.zeros_like(lowest), tolerance=1e-6, steps=100)
    for i in range(4):

        def one(active, at, i=i):
            return evaluate(active + i, at)

        alone = minimise(one, torch.zeros_like(lowest[:1]), tolerance=1e-6, steps=100)
        torch.testing.assert_close(alone.at[0], together.at[i], atol=1e-12, rtol=0)
        assert alone.steps[0] == together.steps[i]


def test_a_finished_problem_is_asked_no_more():
    evaluate, lowest, asked = quadratics(3, 5)
    start = torch.zeros_like(lowest)
    start[1] = lowest[1]  # there already
    found = minimise(evaluate, start, tolerance=1e-8, steps=100)
    assert found.steps[1] == 1
    assert all(1 not in active for active in asked[1:])
    assert torch.equal(found.at[1], lowest[1])


def test_a_problem_that_is_given_up_says_so():
    evaluate, lowest, _ = quadratics(2, 30)
    found = minimise(evaluate, torch.zeros_like(lowest), tolerance=1e-14, steps=3)
    assert not found.converged.any()
    assert found.steps.tolist() == [3, 3]


def test_the_value_never_rises():
    def rosenbrock(active, at):
        x, y = at[:, 0], at[:, 1]
        values.append(None)
        slope = torch.stack([-2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)], 1)
        return (1 - x) ** 2 + 100 * (y - x**2) ** 2 + 1, slope

    values: list = []
    start = torch.tensor([[-1.2, 1.0], [2.0, 2.0]], dtype=torch.float64)
    found = minimise(rosenbrock, start, tolerance=1e-12, steps=300)
    assert found.converged.all()
    torch.testing.assert_close(found.at, torch.ones(2, 2, dtype=torch.float64), atol=1e-4, rtol=0)


def test_progress_counts_every_problem_once():
    evaluate, lowest, _ = quadratics(5, 4)
    finished: list[int] = []
    minimise(
        evaluate, torch.zeros_like(lowest), tolerance=1e-6, steps=100, progress=finished.append
    )
    assert sum(finished) == 5


@pytest.mark.parametrize("steps", [1, 2])
def test_given_up_parameters_are_the_best_that_were_seen(steps: int):
    evaluate, lowest, _ = quadratics(3, 8)
    start = torch.zeros_like(lowest)
    before, _ = evaluate(torch.arange(3), start)
    found = minimise(evaluate, start, tolerance=0.0, steps=steps)
    there, _ = evaluate(torch.arange(3), found.at)
    torch.testing.assert_close(there, found.value)
    assert (found.value <= before).all()
