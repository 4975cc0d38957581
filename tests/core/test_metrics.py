import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr

from interp.core.errors import InterpError, MetricError
from interp.core.metrics import METRICS, Answers, Metric, resolve_metric

CELLS, BATCH, VOCAB = 3, 5, 11
CORRECT, WRONG = [0, 10, 4, 4, 7], [1, 3, 5, 10, 2]


def logits(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    made = 3 * torch.randn(CELLS, BATCH, VOCAB, generator=generator, dtype=torch.float64)
    made[1, 3, CORRECT[3]] += 12  # one example that is answered rightly
    return made


def answers(reference: torch.Tensor | None = None) -> Answers:
    return Answers(torch.tensor(CORRECT), torch.tensor(WRONG), reference)


LAST = Answers(torch.tensor(CORRECT[-1:]), torch.tensor(WRONG[-1:]))


def read(metric: Metric, full: torch.Tensor) -> torch.Tensor:
    """The columns that the engine hands to a metric."""
    if metric.reads != "answers":
        return full
    rows = torch.arange(BATCH)
    return torch.stack([full[:, rows, CORRECT], full[:, rows, WRONG]], -1)


def by_hand(name: str, full: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Every metric from the whole vocabulary, one example at a time."""
    out = np.zeros((CELLS, BATCH))
    for cell in range(CELLS):
        for example, (correct, wrong) in enumerate(zip(CORRECT, WRONG, strict=True)):
            x = full[cell, example]
            log_p = log_softmax(x)
            out[cell, example] = {
                "logit_diff": x[correct] - x[wrong],
                "logit": x[correct],
                "accuracy": float(log_p[correct] > log_p[wrong]),
                "log_prob": log_p[correct],
                "loss": -math.log(np.exp(x[correct]) / np.exp(x).sum()),
                "next_token_loss": -math.log(np.exp(x[correct]) / np.exp(x).sum()),
                "next_token_accuracy": float(x.argmax() == correct),
                "prob": np.exp(x[correct]) / np.exp(x).sum(),
                "rank": list(np.argsort(-x)).index(correct),
                "cosine": x
                @ reference[example]
                / math.sqrt(x @ x * (reference[example] ** 2).sum()),
                "kl": rel_entr(np.exp(log_softmax(reference[example])), np.exp(log_p)).sum(),
            }[name]
    return out


@pytest.mark.parametrize("name", METRICS)
def test_named_metrics_against_a_computation_by_hand(name):
    full, reference = logits(), logits(1)[0]
    metric = resolve_metric(name)
    found = metric(read(metric, full), answers(reference))
    assert found.shape == (CELLS, BATCH)
    assert found.dtype == torch.float64
    expected = by_hand(name, full.numpy(), reference.numpy())
    assert len(np.unique(expected)) > 1
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_table_is_of_metrics_under_their_names():
    assert list(METRICS) == [metric.name for metric in METRICS.values()]
    assert {n for n, m in METRICS.items() if m.reads == "answers"} == {"logit_diff", "accuracy"}
    assert {n for n, m in METRICS.items() if m.needs_reference} == {"kl", "cosine"}


@pytest.mark.parametrize("shift", [-40.0, 0.3, 50.0])
def test_a_constant_on_all_logits_changes_no_metric(shift):
    """But the logit itself, which it moves."""
    reference = logits(1)[0]
    for metric in (m for m in METRICS.values() if m.reads != "embedding"):
        plain = metric(read(metric, logits()), answers(reference))
        moved = metric(read(metric, logits() + shift), answers(reference + shift))
        by = shift * (metric.name == "logit")
        torch.testing.assert_close(moved, plain + by, rtol=1e-9, atol=1e-9)


def test_relations_between_metrics():
    full, given_answers = logits(), answers(logits()[0])
    value = {n: m(read(m, full), given_answers) for n, m in METRICS.items()}
    torch.testing.assert_close(value["loss"], -value["log_prob"])
    torch.testing.assert_close(value["prob"], value["log_prob"].exp())
    assert torch.equal(value["accuracy"] == 1, value["logit_diff"] > 0)
    torch.testing.assert_close(value["kl"][0], torch.zeros(BATCH, dtype=torch.float64))
    assert (value["kl"][1:] > 0.01).all()


def test_metrics_of_running_text():
    """What they give at one position; the engine takes their mean over all."""
    assert {n for n, m in METRICS.items() if m.everywhere} == {
        "next_token_loss",
        "next_token_accuracy",
    }
    loss = resolve_metric("loss@all")
    assert loss.everywhere and loss.fn is METRICS["loss"].fn
    torch.testing.assert_close(
        loss(logits(), answers()), METRICS["next_token_loss"](logits(), answers())
    )
    first = METRICS["next_token_accuracy"](logits(), answers())
    assert torch.equal(first == 1, METRICS["rank"](logits(), answers()) == 0)


@pytest.mark.parametrize("name", ["logit_diff", "accuracy", "kl", "cosine"])
def test_what_compares_two_things_has_no_next_token(name):
    with pytest.raises(MetricError, match=rf"'{name}@all' is not read at all.*'next_token_loss'"):
        resolve_metric(f"{name}@all")


def test_a_token_that_is_not_finite_is_no_example():
    full = logits()
    full[0, 2] = math.nan
    with pytest.raises(MetricError, match=r"'next_token_loss' is nan for token 2 of a batch of 5"):
        METRICS["next_token_loss"](full, answers())


def test_ties():
    flat = torch.zeros(1, BATCH, VOCAB)
    assert METRICS["rank"](flat, answers()).tolist() == [[0] * BATCH]
    assert METRICS["accuracy"](read(METRICS["accuracy"], flat), answers()).tolist() == [[0] * BATCH]
    assert METRICS["next_token_accuracy"](flat, answers()).tolist() == [[0] * BATCH]


def test_half_precision_loses_no_rank():
    vocabulary = 40_001
    row = torch.arange(vocabulary, 0, -1).to(torch.bfloat16)  # many ties, and counts above 256
    correct = torch.tensor([vocabulary - 1])
    found = METRICS["rank"](row[None, None], Answers(correct, correct))
    assert found.dtype == torch.float32
    assert found.item() == int((row > row[-1]).sum()) == vocabulary - 1


def test_metrics_are_differentiable():
    for name in ("logit_diff", "log_prob", "loss", "prob", "kl", "next_token_loss"):
        full = logits().requires_grad_()
        METRICS[name](read(METRICS[name], full), answers(logits(1)[0])).sum().backward()
        assert full.grad.abs().sum() > 0


def test_a_metric_of_ones_own():
    margin = Metric("margin", lambda x, a: x.max(-1).values - x.median(-1).values)
    assert resolve_metric(margin) is margin
    expected = logits().numpy().max(-1) - np.median(logits().numpy(), -1)
    np.testing.assert_allclose(margin(logits(), answers()), expected)
    counted = Metric("counted", lambda x, a: (x > 0).sum(-1))
    assert counted(logits().float(), answers()).dtype == torch.float32


@pytest.mark.parametrize(
    ("fn", "shape"),
    [
        (lambda x, a: x.mean(), r"\(\)"),
        (lambda x, a: 1.5, r"\(\)"),
        (lambda x, a: x.mean((0, 1)), r"\(11,\)"),
        (lambda x, a: x[:, :, 0].mean(1), r"\(3,\)"),
        (lambda x, a: x[..., 0].T, r"\(5, 3\)"),
        (lambda x, a: x, r"\(3, 5, 11\)"),
    ],
)
def test_what_is_not_one_number_per_example_is_refused(fn, shape):
    with pytest.raises(MetricError) as caught:
        Metric("mine", fn)(logits(), answers())
    assert caught.match(rf"'mine' returned shape {shape} for logits of shape \(3, 5, 11\)")
    assert caught.match(r"one value per example, \(3, 5\)\. Do not take the mean over the batch")


@pytest.mark.parametrize(
    ("fn", "what"),
    [
        (lambda x, a: 1 / 0, "failed with ZeroDivisionError: division by zero. It gets logits of"),
        (lambda x, a: x[..., 99], "failed with IndexError: index 99 is out of bounds"),
        (lambda x, a: None, "failed with TypeError: must be real number, not NoneType"),
        (lambda x, a: "x", "failed with TypeError"),
        (lambda x, a: x[..., 0] * 1j, r"gives torch\.complex128, and a metric is real"),
    ],
)
def test_a_function_that_fails_is_named(fn, what):
    with pytest.raises(MetricError, match=f"metric 'mine' {what}"):
        Metric("mine", fn)(logits(), answers())


def test_short_memory_in_a_metric_is_the_engine_s_to_mend():
    def short(x, a):
        raise MemoryError

    with pytest.raises(MemoryError):
        Metric("mine", short)(logits(), answers())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_metric_that_writes_into_what_it_gets_changes_no_other(mode):
    with mode():
        full, known = logits(), answers(logits(1)[0])
        before = METRICS["kl"](full, known)
        mine = Metric("mine", lambda x, a: x.zero_()[..., 0] * a.reference.zero_()[0, 0])
        assert not mine(full, known).any()
        assert torch.equal(METRICS["kl"](full, known), before)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x, a: (x[..., 3] - x.mean()) / x.std(),
        lambda x, a: x.log_softmax(0)[..., 0],
        lambda x, a: x[..., 0] - x[..., 0].mean(1, keepdim=True),
        lambda x, a: torch.rand(x.shape[:2]),
    ],
)
def test_a_metric_whose_examples_depend_on_each_other_is_refused(fn):
    mine = Metric("mine", fn)
    with pytest.raises(MetricError, match=r"'mine' gives the last example .* by itself, so its"):
        mine(logits(), answers())
    fine = Metric("mine", lambda x, a: (x[..., 3] - x.mean(-1)) / x.std(-1))
    assert torch.equal(fine(logits(), answers())[-1:, -1:], fine(logits()[-1:, -1:], LAST))


def test_lists_keep_their_precision():
    mine = Metric("mine", lambda x, a: x[..., 0].tolist())
    assert torch.equal(mine(logits(), answers()), logits()[..., 0])


def test_arguments_of_a_metric():
    with pytest.raises(InterpError, match=r"reads='foo'; reads is one of 'answers', 'vocab"):
        Metric("mine", lambda x, a: x[..., 0], reads="foo")
    with pytest.raises(InterpError, match="fn takes a function of 2 arguments"):
        Metric("mine", lambda x: x[..., 0])
    with pytest.raises(MetricError, match="has a name"):
        Metric(" ", lambda x, a: x[..., 0])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_and_its_example_named(bad):
    full = logits()
    full[2, 3, 4] = bad
    with pytest.raises(MetricError) as caught:
        METRICS["logit_diff"](read(METRICS["logit_diff"], full), answers())
    assert str(caught.value) == (
        f"metric 'logit_diff' is {bad} for example 3 of a batch of 5 (correct token 4, wrong token "
        "10); the logits hold NaN or infinity there, or the metric divides by zero."
    )


def test_unknown_name():
    with pytest.raises(MetricError, match="unknown metric 'logit_dif'; did you mean 'logit_diff'"):
        resolve_metric("logit_dif")
    with pytest.raises(MetricError, match="known: 'logit_diff', 'accuracy', 'log_prob', 'loss'"):
        resolve_metric("xyzzy")
