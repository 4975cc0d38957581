"""What was kept is handed out for the same question only. What is right, plain transformers say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from plain import Cut, output
from transformers import LlamaForCausalLM

import interp
from interp import Metric, Model, Pairs
from interp.core.errors import InterpError
from interp.core.files.identity import Unreadable
from interp.models.bridge.precision import exact

HEAD = "1.1"
CHOSEN = [3, 5]
"""A global that a metric reads, and a user edits between two calls."""


@pytest.fixture
def model(tmp_path) -> Model:
    tiny.build("llama").double().save_pretrained(tmp_path / "llama")
    return interp.load(tmp_path / "llama", dtype=torch.float64)


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "kept"


def reads_a_global(logits: Any, answers: Any) -> Any:
    return logits[..., CHOSEN].sum(-1)


def truth(model: Model, pairs: Pairs, weights: torch.Tensor) -> float:
    """The mean effect of zeroing the head on a weighted sum of logits, of the model as it is."""
    return float((changes(model, pairs) @ weights).mean())


def changes(model: Model, pairs: Pairs) -> torch.Tensor:
    """What zeroing the head does to each logit of each row: `row d_vocab`."""
    hf = LlamaForCausalLM.from_pretrained(model.name, dtype=torch.float64)
    hf.load_state_dict(model.truth.tensors(), strict=False)
    exact(hf)
    found = []
    for row, length in enumerate(pairs.lengths.tolist()):
        ids = pairs.clean[row, :length].tolist()
        found.append(output(hf, ids, cuts=[Cut(HEAD)])[-1] - output(hf, ids)[-1])
    return torch.stack(found)


def ablated(model: Model, pairs: Pairs, metric: Metric | str, folder: Path) -> float:
    found = interp.ablate(model, pairs, HEAD, method="zero", metric=metric, checkpoint=folder)
    return float(found.frame["effect"].mean())


def one_hot(*ids: int) -> torch.Tensor:
    weights = torch.zeros(tiny.VOCAB, dtype=torch.float64)
    weights[list(ids)] = 1
    return weights


def test_a_metric_that_reads_a_global(model, pairs, folder, monkeypatch):
    mine = Metric("mine", reads_a_global)
    for ids in ([3, 5], [7, 2, 4], [3, 5]):
        monkeypatch.setitem(globals(), "CHOSEN", ids)
        expected = truth(model, pairs, one_hot(*ids))
        assert ablated(model, pairs, mine, folder) == pytest.approx(expected, rel=1e-9)


def test_a_global_list_that_is_changed_in_place(model, pairs, folder):
    mine = Metric("mine", reads_a_global)
    before = ablated(model, pairs, mine, folder)
    CHOSEN.append(8)
    try:
        expected = truth(model, pairs, one_hot(*CHOSEN))
        assert ablated(model, pairs, mine, folder) == pytest.approx(expected, rel=1e-9)
    finally:
        CHOSEN.pop()
    assert ablated(model, pairs, mine, folder) == before


@pytest.mark.plain
def test_a_long_array_in_a_closure(model, pairs, folder):
    """Of over 1,000 numbers, of which a printed array shows the ends."""
    for changed in (0.0, 5.0):
        long = np.zeros((40, tiny.VOCAB))
        long[0, 3], long[20, 4] = 1.0, changed
        weights = torch.from_numpy(long.sum(0))
        mine = Metric("mine", lambda logits, answers, long=long: logits @ torch.tensor(long.sum(0)))
        expected = truth(model, pairs, weights)
        assert ablated(model, pairs, mine, folder) == pytest.approx(expected, rel=1e-9)


def test_a_module_that_learns(model, pairs, folder):
    probe = torch.nn.Linear(tiny.VOCAB, 1, bias=False).double().requires_grad_(False)
    mine = Metric("mine", lambda logits, answers: probe(logits)[..., 0])
    for factor in (1.0, 2.0):
        probe.weight.mul_(factor)
        expected = truth(model, pairs, probe.weight[0])
        assert ablated(model, pairs, mine, folder) == pytest.approx(expected, rel=1e-9)


@pytest.mark.plain
@pytest.mark.parametrize("counted", [True, False])
def test_the_weights_as_they_are(model, pairs, folder, counted):
    """After an in-place change, also through `.data`, which no counter shows."""
    with pytest.warns(UserWarning, match="smallest of"):
        reference = interp.MeanReference.fit(model, pairs, "heads")
    before = ablated(model, pairs, Metric("mine", reads_a_global), folder)
    known = model.weight_hash
    for p in model.bridge.parameters():
        (p if counted else p.data).mul_(1.05)
    assert model.weight_hash != known
    expected = truth(model, pairs, one_hot(*CHOSEN))
    now = ablated(model, pairs, Metric("mine", reads_a_global), folder)
    assert now == pytest.approx(expected, rel=1e-9)
    assert abs(now - before) > 1e-6
    with pytest.raises(InterpError, match="weights"):
        interp.ablate(model, pairs, "heads", reference=reference)


def test_one_number_through_data_is_seen_by_what_is_kept(model, pairs, folder):
    """No counter and no sample shows it; a checkpoint reads all weights."""
    before = ablated(model, pairs, "logit_diff", folder)
    weight = model.bridge.original_model.get_parameter(
        next(n for n, _ in model.bridge.original_model.named_parameters() if "v_proj" in n)
    )
    weight.data[0, 0] += 3.0
    moved, rows = changes(model, pairs), torch.arange(len(pairs))
    effects = moved[rows, pairs.correct] - moved[rows, pairs.wrong]
    now = ablated(model, pairs, "logit_diff", folder)
    assert now == pytest.approx(float(effects.mean()), rel=1e-9)
    assert now != before


def test_what_cannot_be_read_is_refused_and_nothing_is_written(model, pairs, folder):
    reader = Metric(
        "mine", lambda logits, answers: logits[..., len(Path(__file__).read_text()) * 0]
    )
    with pytest.raises(Unreadable, match=r"reads from outside.*Give the metric a version="):
        ablated(model, pairs, reader, folder)
    assert not folder.exists() or not any(folder.iterdir())
    told = Metric("mine", reader.fn, version="1")
    expected = truth(model, pairs, one_hot(0))
    assert ablated(model, pairs, told, folder) == pytest.approx(expected, rel=1e-9)
