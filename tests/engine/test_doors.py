"""The doors of interventions, captures and means: what is wrong is refused before anything runs."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from doors import complaints

import interp
from interp import Model, Pairs
from interp.engine.circuits.constants import Constants
from interp.engine.interventions import (
    Add,
    Erase,
    Freeze,
    Hop,
    Intervention,
    Mean,
    Reference,
    Resample,
    Scale,
    Set,
)

HOT = {"Intervention", "Hop", "Own", "Scale", "Erase", "Mean", "Resample", "Reference"}
"""They check what they are made of; names that they have not are left to Python."""


def cases(
    model: Model, pairs: Pairs, folder: Path
) -> Iterator[tuple[Callable[..., Any], Mapping[str, Any]]]:
    """A right call of each function, classmethod, method and constructor."""
    yield Set, {"source": torch.ones(12)}
    yield Add, {"source": torch.ones(12)}
    yield Scale, {"factor": 0.5}
    yield Erase, {"left": torch.ones(12, 1), "right": torch.ones(1, 12), "mean": torch.ones(12)}
    yield Mean, {"source": Reference(pairs, "corrupt")}
    yield Reference, {"pairs": pairs, "side": "corrupt"}
    yield Resample, {"source": "corrupt"}
    yield (
        Intervention,
        {
            **{"site": "1.mlp", "value": Freeze(), "positions": "end", "readers": None},
            "normalise": True,
        },
    )
    yield Hop, {"receivers": "2.mlp", "through": "mlps", "positions": "end", "ln": "recompute"}
    taken = {"memory": "1GB", "engine": "auto"}
    yield (
        interp.capture,
        {
            **{"model": model, "tokens": pairs, "sites": "mlps", "positions": "end", **taken},
            **{"side": "clean", "mask": None, "dtype": torch.float32, "batch": 2},
            "folder": folder / "acts",
        },
    )
    ids = {"tokens": pairs.clean, "mask": torch.ones(3, 4, dtype=torch.bool), "sites": "mlps"}
    yield (
        interp.capture,
        {**ids, "model": model, "positions": [1, "end"], "side": "clean"}
        | {**{"dtype": None, "batch": None, "folder": None, **taken}},
    )
    found = interp.capture(model, pairs, "mlps", positions="end")
    yield found.__getitem__, {"site": "1.mlp"}
    yield found.rows, {"site": "1.mlp"}
    yield type(found).load, {"folder": folder / "acts"}
    yield (
        interp.MeanReference.fit,
        {
            **{"model": model, "pairs": pairs, "sites": "mlps", "side": "clean"},
            **{"by": "template", **taken},
        },
    )
    means = interp.MeanReference.fit(model, pairs, "mlps")
    yield means.save, {"path": folder / "means.safetensors"}
    yield type(means).load, {"path": folder / "means.safetensors"}
    yield Constants.zeros, {"model": model}


@pytest.mark.filterwarnings("ignore:mean ablation")
def test_a_wrong_argument_is_refused_in_words_before_anything_runs(
    tiny_model: Callable[[str], Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a wrong path may be a right one
    made = Pairs.from_tokens(
        clean=[[0, 2, 3, 5], [0, 4, 3, 6], [0, 7, 3, 8]],
        corrupt=[[0, 2, 9, 5], [0, 4, 11, 6], [0, 7, 10, 8]],
        correct=[12, 13, 14],
        wrong=[15, 16, 17],
        positions={"name": [2, 2, 2], "end": [3, 3, 3]},
    )
    found = complaints(cases(tiny_model("gpt2"), made, tmp_path), tmp_path, hot=HOT)
    assert not found, "\n".join(found)
