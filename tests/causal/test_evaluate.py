"""The metrics of the two runs, against the oracle."""

import numpy as np
import pytest
import torch

import interp
from interp.core.metrics import METRICS
from interp.core.tables.results import COLUMNS

ALL = ["logit_diff", "logit", "accuracy", "log_prob", "loss", "prob", "rank", "kl"]


def by_hand(name, logits, clean, correct, wrong):
    log_probs, reference = (x - x.exp().sum().log() for x in (logits, clean))
    return {
        "logit_diff": logits[correct] - logits[wrong],
        "logit": logits[correct],
        "accuracy": float(logits[correct] > logits[wrong]),
        "log_prob": log_probs[correct],
        "loss": -log_probs[correct],
        "prob": log_probs[correct].exp(),
        "rank": sum(float(x > logits[correct]) for x in logits),
        "kl": (reference.exp() * (reference - log_probs)).sum(),
    }[name]


@pytest.mark.parametrize("engine", ["replay", "hooks"])
def test_metrics_are_those_of_the_oracle(model, family, oracle, pairs, engine):
    found = interp.evaluate(model, pairs, metric=ALL, engine=engine).frame
    judge = oracle(family)
    table = found.set_index(["metric", "position", "example"])["value"].sort_index()
    assert len(table) == len(ALL) * 2 * len(pairs)
    for row in range(len(pairs)):
        n = int(pairs.lengths[row])
        runs = {
            side: judge.forward(getattr(pairs, side)[row : row + 1, :n])[0][0, -1]
            for side in ("clean", "corrupt")
        }
        for name in ALL:
            for side, logits in runs.items():
                truth = by_hand(
                    name, logits, runs["clean"], int(pairs.correct[row]), int(pairs.wrong[row])
                )
                assert abs(table[name, side, row] - float(truth)) < 1e-9, (name, side)
    clean_kl = table["kl", "clean"]
    assert np.abs(clean_kl).max() < 1e-12
    assert table["kl", "corrupt"].min() > 1e-3


def test_the_table_is_one_of_results(tiny_model, pairs):
    found = interp.evaluate(tiny_model("gpt2"), pairs)
    assert list(found.frame.columns) == COLUMNS
    assert set(found.frame["metric"]) == {"logit_diff", "accuracy"}
    assert set(found.frame["position"]) == {"clean", "corrupt"}
    assert found.frame[["base", "effect"]].isna().all().all()  # nothing was changed
    assert list(found.frame["cluster"][:5]) == list("abacc")
    assert len(found.summary()) == 4
    assert found.provenance["engine"] == "replay"


def test_a_metric_reads_at_its_own_position(tiny_model, oracle, pairs):
    early = interp.Metric("early", lambda x, a: x[..., 2], position="mid")
    found = interp.evaluate(tiny_model("llama"), pairs, metric=early)
    logits, _ = oracle("llama").forward(pairs.clean[1:2])
    at_mid = logits[0, int(pairs.at("mid")[1]), 2].item()
    assert abs(found.frame["value"][1] - at_mid) < 1e-9


def test_bad_input(tiny_model, pairs):
    model = tiny_model("gpt2")
    with pytest.raises(interp.InterpError, match=r"'logit_dif'.*did you mean 'logit_diff'"):
        interp.evaluate(model, pairs, metric="logit_dif")
    with pytest.raises(interp.InterpError, match=r"no metric was given; known: logit_diff"):
        interp.evaluate(model, pairs, metric=[])


@pytest.mark.plain
def test_half_precision_is_scored_in_single(tiny_model, pairs):
    model = tiny_model("llama", torch.bfloat16)
    exact = interp.evaluate(tiny_model("llama"), pairs, metric="log_prob").frame["value"]
    found = interp.evaluate(model, pairs, metric="log_prob").frame["value"]
    assert np.abs(exact - found).max() < 0.3
    assert set(METRICS) == {*ALL, "cosine", "next_token_loss", "next_token_accuracy"}
