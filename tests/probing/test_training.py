"""The loop: what a problem becomes is its own affair, and the rule of stopping is the published."""

import logging
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from interp.core.door.door import ArgumentError
from interp.core.errors import ProbeError
from interp.probing.fit.nets.training import Schedule, Trained, initial, train

EXAMPLES, DEV, D = 60, 20, 5


def regression(
    problems: Sequence[int], *, schedule: Schedule, seed: int = 3, noise: float = 0.5
) -> Trained:
    """Least squares; problem i has data, and a number of epochs that it needs, of its own."""
    parts = []
    for i in problems:
        generator = torch.Generator().manual_seed(i)
        x = torch.randn(EXAMPLES + DEV, D, generator=generator, dtype=torch.float64)
        w = torch.randn(D, generator=generator, dtype=torch.float64) * (i + 1) / 4
        spread = torch.randn(EXAMPLES + DEV, generator=generator, dtype=torch.float64)
        parts.append((x, x @ w + noise * spread))
    x, y = (torch.stack(part) for part in zip(*parts, strict=True))

    def loss_after(first: int) -> Callable[[dict, Tensor, Tensor], Tensor]:
        def loss(p: dict, which: Tensor, batch: Tensor) -> Tensor:
            at = which[:, None], batch + first
            return ((x[at] @ p["w"][..., None])[..., 0] + p["b"] - y[at]).square()

        return loss

    names = [str(i) for i in problems]

    def start(generator: torch.Generator) -> dict[str, Tensor]:
        w = torch.rand(D, generator=generator, dtype=torch.float64)
        return {"w": w, "b": torch.zeros(1, dtype=torch.float64)}

    return train(
        *(loss_after(0), initial(names, seed, start)),
        examples=EXAMPLES,
        dev_loss=loss_after(EXAMPLES),
        dev_examples=DEV,
        names=names,
        schedule=schedule,
        seed=seed,
    )


FAST = Schedule(learning_rate=0.05, batch=16, epochs=80)


def same(a: Trained, b: Trained, rows: Sequence[int], *, atol: float) -> None:
    """Rows of one are those of the other."""
    for name in ("w", "b"):
        torch.testing.assert_close(
            a.parameters[name][list(rows)], b.parameters[name], rtol=0, atol=atol
        )
    for field in ("best", "epochs", "converged"):
        assert torch.equal(getattr(a, field)[list(rows)], getattr(b, field))


def test_a_stack_is_a_loop():
    together = regression(range(6), schedule=FAST)
    assert len(together.epochs.unique()) > 3  # they end at different times
    for i in range(6):
        same(together, regression([i], schedule=FAST), [i], atol=1e-12)


def test_turns_are_a_stack(monkeypatch):
    together = regression(range(5), schedule=FAST)
    monkeypatch.setattr("interp.probing.fit.nets.training.AT_ONCE", 2)
    same(together, regression(range(5), schedule=FAST), range(5), atol=1e-12)


def test_a_seed_repeats_bit_for_bit_and_another_does_not():
    a, b = (regression(range(3), schedule=FAST) for _ in range(2))
    assert all(torch.equal(a.parameters[name], b.parameters[name]) for name in ("w", "b"))
    other = regression(range(3), schedule=FAST, seed=4)
    assert not torch.allclose(a.parameters["w"], other.parameters["w"])


def test_a_finished_problem_stands_still():
    """Many more epochs for the others change nothing in it."""
    short = regression(range(6), schedule=FAST)
    first = int(short.epochs.argmin())
    cut = Schedule(learning_rate=0.05, batch=16, epochs=int(short.epochs[first]))
    at_its_end = regression(range(6), schedule=cut)
    assert short.epochs.max() > short.epochs[first]
    for name in ("w", "b"):
        assert torch.equal(short.parameters[name][first], at_its_end.parameters[name][first])


def test_a_finished_problem_is_not_computed():
    seen: list[list[int]] = []

    def loss(p: dict, which: Tensor, batch: Tensor) -> Tensor:
        seen.append(which.tolist())
        # problem 1 has nothing to learn; problem 0 goes on downhill for ever
        slope = torch.tensor([1.0, 0.0])[which]
        return (slope * p["w"])[:, None].expand(-1, len(batch))

    found = train(
        *(loss, {"w": torch.zeros(2)}),
        examples=4,
        dev_loss=loss,
        dev_examples=4,
        names=["a", "b"],
        schedule=Schedule(epochs=8, patience=2, learning_rate=0.1),
        seed=0,
    )
    assert found.epochs.tolist() == [8, 3]  # the first epoch counts as better than none
    assert seen == [[0, 1]] * 6 + [[0]] * 10  # a step and a development loss each epoch


def scripted(losses: Sequence[float], schedule: Schedule) -> tuple[Trained, list[float]]:
    """A problem whose development losses are given, and the steps that its parameter took."""
    script, steps = iter(losses), [0.0]

    def loss(p: dict, which: Tensor, batch: Tensor) -> Tensor:
        return p["w"][:, None].expand(1, len(batch))

    def dev_loss(p: dict, which: Tensor, batch: Tensor) -> Tensor:
        steps.append(float(p["w"]))
        return torch.full((1, 1), next(script), dtype=torch.float64)

    found = train(
        *(loss, {"w": torch.zeros(1, dtype=torch.float64)}),
        examples=1,
        dev_loss=dev_loss,
        dev_examples=1,
        names=["only"],
        schedule=schedule,
        seed=0,
    )
    return found, [a - b for a, b in pairwise(steps)]


def test_the_rule_of_stopping():
    """Halved after each epoch without improvement; the best parameters are kept."""
    schedule = Schedule(learning_rate=1.0, epochs=20, patience=3, improvement=0.1)
    losses = [1.0, 0.5, 0.45, 0.3, 0.31, 0.29, 0.25]
    found, steps = scripted(losses, schedule)
    # a constant gradient: every step of Adam is one learning rate long
    assert steps == pytest.approx([1, 1, 1, 0.5, 0.5, 0.25, 0.125], rel=1e-6)
    assert found.epochs.tolist() == [7] and found.best.tolist() == [4]
    assert found.loss.tolist() == [0.3]
    assert found.parameters["w"].tolist() == pytest.approx([-3.5], rel=1e-6)
    assert found.converged.tolist() == [True]
    assert found.reason == ("no better for 3 epochs",)


def test_what_did_not_converge_is_said(caplog):
    with caplog.at_level(logging.WARNING, "interp"):
        found, _ = scripted([3.0, 2.0, 1.0], Schedule(epochs=3))
    assert not found.converged.any()
    assert found.reason == ("3 epochs were not enough",)
    (said,) = caplog.messages
    for part in ("1 of 1 probes", "only (3 epochs were not enough)", "Schedule(epochs=)"):
        assert part in said


def test_a_loss_that_is_not_finite_ends_a_problem_with_its_last_good_parameters(caplog):
    found, steps = scripted([1.0, float("nan"), 0.1], Schedule(learning_rate=1.0, epochs=9))
    assert found.epochs.tolist() == [2] and not found.converged.any()
    assert found.reason == ("the loss was not finite in epoch 2",)
    assert found.parameters["w"].tolist() == pytest.approx([-steps[0]])


def test_a_problem_that_breaks_leaves_the_others_alone():
    def run(broken: list[float]) -> Trained:
        def loss(p: dict, which: Tensor, batch: Tensor) -> Tensor:
            factor = torch.tensor(broken)[which]
            return (factor * (p["w"] - 1).square())[:, None].expand(-1, len(batch))

        return train(
            *(loss, {"w": torch.zeros(2)}),
            examples=3,
            dev_loss=loss,
            dev_examples=3,
            names=["a", "b"],
            schedule=Schedule(epochs=5, learning_rate=0.1),
            seed=0,
        )

    one, none = run([1.0, float("inf")]), run([1.0, 1.0])
    assert one.reason[1] == "the loss was not finite in epoch 1" and one.best[1] == 0
    assert torch.equal(one.parameters["w"][0], none.parameters["w"][0])
    assert torch.equal(one.epochs[0], none.epochs[0])


def test_converged_problems_are_not_talked_about(caplog):
    with caplog.at_level(logging.INFO, "interp"):
        assert regression(range(3), schedule=FAST).converged.all()
    assert not caplog.messages


def test_weight_decay_shrinks():
    plain = regression([7], schedule=FAST, noise=0.0)
    decayed = regression(
        [7], schedule=Schedule(learning_rate=0.05, batch=16, epochs=80, weight_decay=2.0), noise=0.0
    )
    assert decayed.parameters["w"].norm() < 0.95 * plain.parameters["w"].norm()


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"learning_rate": 0.0}, {"patience": 0}])
def test_schedules_that_train_nothing(wrong):
    with pytest.raises(ArgumentError, match=r"takes a (whole number of at least 1|number above 0)"):
        Schedule(**wrong)
    with pytest.raises(ArgumentError, match="at least 0"):
        Schedule(weight_decay=-1.0)


@pytest.mark.parametrize("lacks", ["training", "development"])
def test_no_examples(lacks):
    with pytest.raises(ProbeError, match=f"the {lacks} split has no labelled examples"):
        train(
            *(lambda *_: torch.zeros(1, 1), {"w": torch.zeros(1)}),
            examples=int(lacks != "training"),
            dev_loss=lambda *_: torch.zeros(1, 1),
            dev_examples=int(lacks != "development"),
            names=["a"],
            schedule=FAST,
            seed=0,
        )
