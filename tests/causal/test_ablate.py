"""Ablation from end to end, against the oracle."""

import pytest
import torch
from oracle import setting

import interp
from interp.core.door.door import ArgumentError
from interp.core.errors import PairsError, PositionError, SiteError, Unsupported


def truth(judge, pairs, row, name, value, where):
    """The oracle's logit difference with one site set at some positions of a row."""
    n = int(pairs.lengths[row])
    mask = torch.zeros(1, n, dtype=torch.bool)
    mask[0, where] = True
    clean, corrupt = (getattr(pairs, side)[row : row + 1, :n] for side in ("clean", "corrupt"))
    _, acts = judge.forward(corrupt)
    new = torch.zeros_like(acts[name]) if value == "zero" else acts[name]
    logits, _ = judge.forward(clean, setting({name: new}, mask))
    base, _ = judge.forward(clean)
    a, b = pairs.correct[row], pairs.wrong[row]
    return [(x[0, -1, a] - x[0, -1, b]).item() for x in (base, logits)]


@pytest.mark.plain
@pytest.mark.sampled(6)
@pytest.mark.parametrize("engine", ["replay", "hooks"])
@pytest.mark.parametrize("method", ["zero", "resample"])
def test_rows_in_order_against_the_oracle(model, family, oracle, pairs, engine, method):
    """Two sites by two places: places outermost, sites in order of computation."""
    pairs = pairs.select([1, 2])
    found = interp.ablate(
        model, pairs, ["1.mlp", "0.2"], method=method, positions=["mid", "all"], engine=engine
    )
    frame = found.frame
    assert list(frame["position"]) == ["mid"] * 4 + ["all"] * 4
    assert list(frame["site"]) == (["0.2"] * 2 + ["1.mlp"] * 2) * 2
    assert set(frame["method"]) == {f"ablate {method}"}
    assert set(frame["direction"]) == {"noise"}
    for line in frame.itertuples():
        row = line.example
        where = int(pairs.at("mid")[row]) if line.position == "mid" else slice(None)
        base, value = truth(oracle(family), pairs, row, line.site, method, where)
        assert abs(line.base - base) < 1e-9
        assert abs(line.value - value) < 1e-9
        assert abs(line.effect - (value - base)) < 1e-9


@pytest.mark.plain
def test_each_is_one_ablation_for_each_position(tiny_model, oracle, pairs):
    model, chosen = tiny_model("llama"), pairs.select([1, 3])
    found = interp.ablate(model, chosen, "1.attn", method="zero", positions="each").frame
    assert list(found["position"][::2]) == [str(i) for i in range(9)]
    for line in found.itertuples():
        _, value = truth(
            oracle("llama"), chosen, line.example, "1.attn", "zero", int(line.position)
        )
        assert abs(line.value - value) < 1e-9


@pytest.mark.plain
def test_selectors_take_every_part(tiny_model, pairs):
    model = tiny_model("llama")
    for selector, count in (("heads", 18), ("mlps", 3), ("attn", 3), (["heads", "1.mlp"], 19)):
        found = interp.ablate(model, pairs, selector, method="zero")
        assert found.frame["site"].nunique() == count
        assert len(found) == count * len(pairs)
    assert interp.ablate(model, pairs, "heads", method="zero").grid().shape == (3, 6)


@pytest.mark.plain
def test_the_mean_can_be_of_either_side_or_of_other_prompts(tiny_model, pairs):
    """Of 30 copies of each prompt, the mean is that prompt's own activation."""
    model = tiny_model("gpt2")
    many = pairs.select([row for row in (0, 1) for _ in range(30)])
    one = pairs.select([0, 1])
    clean = interp.ablate(model, many, "0.1", method="mean", reference="clean")
    assert clean.frame["effect"].abs().max() < 1e-9
    corrupt = interp.ablate(model, one, "0.1", method="mean", reference=many)
    resample = interp.ablate(model, one, "0.1", method="resample")
    assert (corrupt.frame["value"] - resample.frame["value"]).abs().max() < 1e-9
    assert resample.frame["effect"].abs().min() > 1e-6
    assert list(corrupt.provenance["references"].values()) == [30]


def test_bad_input(tiny_model, pairs):
    model = tiny_model("llama")
    with pytest.raises(ArgumentError, match=r"'median'.*did you mean 'mean'"):
        interp.ablate(model, pairs, "heads", method="median")
    with pytest.raises(ArgumentError, match=r"'corupt'; did you mean 'corrupt'"):
        interp.ablate(model, pairs, "heads", reference="corupt")
    with pytest.raises(PositionError, match=r"positions=\[\].*'all' or some of end, mid, late"):
        interp.ablate(model, pairs, "heads", method="zero", positions=[])
    with pytest.raises(PositionError, match=r"no position 'lat'; did you mean 'late'"):
        interp.ablate(model, pairs, "heads", method="zero", positions=["mid", "lat"])
    with pytest.raises(PairsError, match=r"one length.*\[7, 9\].*end, mid, late"):
        interp.ablate(model, pairs, "heads", method="zero", positions="each")
    with pytest.raises(SiteError, match=r"names no site"):
        interp.ablate(model, pairs, [], method="zero")
    with pytest.raises(Unsupported, match=r"no engine intervenes on 'logits'.*the metric"):
        interp.ablate(model, pairs, "logits", method="zero")
    with pytest.raises(Unsupported, match=r"pattern written at '0\.1\.pattern' sums to 0 .*False"):
        interp.ablate(model, pairs, "0.1.pattern", method="zero")
    with pytest.raises(interp.InterpError, match=r"memory=0 bytes holds nothing"):
        interp.ablate(model, pairs, "heads", method="zero", memory=0)
