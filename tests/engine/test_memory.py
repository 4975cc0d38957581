"""Budgets: sizes in words, the device's own memory, the least, and halves where it runs out."""

from functools import partial

import numpy as np
import pytest
import tiny
import torch
from budgets import least
from transformers import LlamaConfig, LlamaForCausalLM

import interp
from interp.core.errors import InterpError
from interp.engine.network import trace as tracing
from interp.engine.plan import memory as budgets
from interp.engine.plan.memory import budget, by_rows, free, parsed, require

CPU = torch.device("cpu")
CUDA = torch.device("cuda", 0)


@pytest.fixture
def llama(tiny_model):
    return tiny_model("llama")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GB", 8_000_000_000),
        ("8 gb", 8_000_000_000),
        ("1.5G", 1_500_000_000),
        ("512 MiB", 512 << 20),
        ("2ki", 2048),
        ("100", 100),
        (7, 7),
        (None, None),
    ],
)
def test_sizes_in_words(text, size):
    assert parsed(text) == size


@pytest.mark.parametrize("text", ["", "GB", "8 apples", "1.2.3MB", "8GBB", True])
def test_what_is_no_size(text):
    with pytest.raises(InterpError, match=r"is no size: give bytes"):
        parsed(text)


@pytest.mark.parametrize("text", ["0", "-8GB", -1, 0, "0.1"])
def test_a_size_that_holds_nothing(text):
    with pytest.raises(InterpError, match="holds nothing"):
        parsed(text)


def test_words_and_bytes_are_the_same_budget(llama, pairs):
    plans = [
        interp.explain(interp.ablate, llama, pairs, "heads", method="zero", memory=memory)
        for memory in ("1MB", 1_000_000)
    ]
    assert plans[0] == plans[1]
    assert plans[0].budget == 1_000_000


def test_the_memory_of_the_device_counts(monkeypatch):
    """Not the host's, where the model is on an accelerator."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4000, 10_000))
    assert free(CUDA) == 4000
    assert budget(None, CUDA, default=1 << 30) == 2500  # whatever is free
    assert budget("3kB", CUDA, default=1 << 30) == 3000
    assert budget(None, CPU, default=100) == 100


def test_the_least_is_taken_or_refused(monkeypatch):
    monkeypatch.setattr(budgets, "free", lambda device: 5000)
    assert require(3000, 9000, None, CPU, "it") == 9000
    assert require(3000, 1250, None, CPU, "it") == 3000  # a default gives way to what is needed
    with pytest.raises(InterpError, match=r"memory='2kB' is less than .* Give memory=3000 or more"):
        require(3000, 2000, "2kB", CPU, "it")
    with pytest.raises(InterpError, match=r"about 0 MB .* are free on cpu\. Shorten"):
        require(6000, 1250, None, CPU, "it")


@pytest.mark.plain
def test_each_method_runs_in_its_least_and_not_under_it(llama, pairs):
    """With the numbers of a wide budget."""
    for call in (
        partial(interp.ablate, llama, pairs, "heads", method="zero"),
        partial(interp.patch, llama, pairs, "1.1.pattern"),
        partial(interp.path_patch, llama, pairs, senders="0.1", receivers="2.1.q"),
        partial(interp.attribute, llama, pairs),
    ):
        smallest = least(call)
        with pytest.raises(InterpError, match=f"Give memory={smallest} or more"):
            call(memory=smallest - 1)
        narrow, wide = (call(memory=m).frame for m in (smallest, "1GB"))
        column = "value" if "value" in wide else "score"
        assert np.abs(narrow[column] - wide[column]).max() < 1e-12


@pytest.mark.plain
@pytest.mark.filterwarnings("ignore:mean ablation")
@pytest.mark.parametrize("error", ["DefaultCPUAllocator: can't allocate memory", "CUDA"])
def test_rows_are_halved_where_a_trace_does_not_last(llama, pairs, monkeypatch, error):
    """As often as it takes, in whatever is traced, and no number changes."""
    calls = {
        "ablate": partial(interp.ablate, llama, pairs, "heads", method="zero"),
        "evaluate": partial(interp.evaluate, llama, pairs),
        "attribute": partial(interp.attribute, llama, pairs),
        "mean": partial(interp.ablate, llama, pairs, "heads", method="mean"),
    }
    wide = {name: call().frame for name, call in calls.items()}
    kept = interp.capture(llama, pairs, "layers")
    right, sizes = tracing.walk, []

    def narrow(w, tokens, see, **options):
        sizes.append(len(tokens))
        found = right(w, tokens, see, **options)
        if len(tokens) == 1:
            return found
        # at the very end, when everything was shown once
        raise torch.OutOfMemoryError(error) if error == "CUDA" else RuntimeError(error)

    monkeypatch.setattr(tracing, "walk", narrow)
    for name, call in calls.items():
        sizes.clear()
        found = call().frame
        column = "value" if "value" in found else "score"
        assert np.abs(found[column] - wide[name][column]).max() < 1e-12, name
        assert 1 in sizes, name
    again = interp.capture(llama, pairs, "layers")
    for site in kept:
        for row, before in zip(again.rows(site), kept.rows(site), strict=True):
            assert (row - before).abs().max() < 1e-12


def test_not_even_one_row_fits():
    def never(rows):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(InterpError, match=r"out of memory in a test of a single prompt \(row 3\)"):
        by_rows(never, [3, 4], "a test")


def test_another_error_is_not_taken_for_it():
    def broken(rows):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        by_rows(broken, [1, 2], "a test")


def test_halves_keep_the_order():
    def two(rows):
        if len(rows) > 2:
            raise MemoryError
        return rows

    found = by_rows(two, [5, 3, 9, 1, 7], "a test")
    assert [row for part in found for row in part] == [5, 3, 9, 1, 7]
    assert max(map(len, found)) == 2


def test_where_all_traces_do_not_fit_cells_go_up_in_shares(tmp_path):
    """Each with traces of the layers that its own cells read; the same numbers in their order."""
    config = LlamaConfig(**{**tiny.LLAMA, "num_hidden_layers": 12})
    LlamaForCausalLM(config).to(torch.float64).save_pretrained(tmp_path)
    model = interp.load(tmp_path, dtype=torch.float64)
    rows = torch.randint(1, tiny.VOCAB, (2, 2, 9), generator=torch.Generator().manual_seed(0))
    clean, corrupt = rows.tolist()
    pairs = interp.Pairs.from_tokens(clean=clean, corrupt=corrupt, correct=[3, 5], wrong=[4, 6])
    paths = {"senders": "heads", "receivers": "11.2.q"}
    for call, shares in (
        (partial(interp.patch, model, pairs, "heads"), 4),
        (partial(interp.path_patch, model, pairs, **paths), 7),
    ):
        enough = interp.explain(call.func, *call.args, **call.keywords).least
        plan = interp.explain(call.func, *call.args, memory=enough, **call.keywords)
        assert {batch.share for batch in plan.batches} == {*range(shares)}
        whole, few = call().frame, call(memory=enough).frame
        each = [(cell, row) for batch in plan.batches for cell in batch.cells for row in batch.rows]
        assert len(each) == len(set(each)) == len(whole)
        assert whole["site"].tolist() == few["site"].tolist()
        np.testing.assert_allclose(few["value"], whole["value"], rtol=0, atol=1e-14)
        with pytest.raises(InterpError, match=f"is less than the least.*Give memory={enough}"):
            call(memory=enough - 1)
