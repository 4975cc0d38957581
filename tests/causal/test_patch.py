"""Activation patching from end to end, against the oracle."""

import pytest
import torch
from oracle import setting

import interp


@pytest.mark.sampled(6)
@pytest.mark.parametrize("engine", ["replay", "hooks"])
@pytest.mark.parametrize("direction", ["noise", "denoise"])
def test_against_the_oracle(model, family, oracle, pairs, engine, direction):
    """The base is the run that is patched, the value comes from the other, at one named place."""
    pairs = pairs.select([1, 2])
    sites = ["0.1", "1.mlp", "1.resid_pre", "2.attn", "1.2.q"]
    found = interp.patch(
        model, pairs, sites, positions="late", direction=direction, engine=engine
    ).frame
    assert list(dict.fromkeys(found["site"])) == ["0.1", "1.resid_pre", "1.2.q", "1.mlp", "2.attn"]
    assert set(found["direction"]) == {direction}
    assert set(found["method"]) == {"patch"}
    judge = oracle(family)
    for line in found.itertuples():
        row, n = line.example, int(pairs.lengths[line.example])
        runs = [pairs.clean[row : row + 1, :n], pairs.corrupt[row : row + 1, :n]]
        base, other = runs if direction == "noise" else runs[::-1]
        mask = torch.arange(n)[None] == pairs.at("late")[row]
        _, acts = judge.forward(other)
        after, _ = judge.forward(base, setting({line.site: acts[line.site]}, mask))
        before, _ = judge.forward(base)
        a, b = pairs.correct[row], pairs.wrong[row]
        assert abs(line.base - (before[0, -1, a] - before[0, -1, b]).item()) < 1e-9
        assert abs(line.value - (after[0, -1, a] - after[0, -1, b]).item()) < 1e-9
    assert (found["effect"].abs() > 1e-7).any()


def test_noise_is_the_default(tiny_model, pairs):
    found = interp.patch(tiny_model("gpt2"), pairs, "0.mlp")
    base = interp.evaluate(tiny_model("gpt2"), pairs, metric="logit_diff")
    assert set(found.frame["direction"]) == {"noise"}
    clean = base.query("position == 'clean'").frame["value"]
    assert (found.frame["base"] - clean).abs().max() < 1e-9


def test_streams_by_position_make_a_grid(tiny_model, pairs):
    """All layers by all positions; the last position of the last stream is the whole answer."""
    model, chosen = tiny_model("llama"), pairs.select([0, 2, 4])
    found = interp.patch(model, chosen, "layers", positions="each", direction="denoise")
    grid = found.grid("value")
    assert grid.shape == (3, 7)
    clean = interp.evaluate(model, chosen, metric="logit_diff").query("position == 'clean'")
    assert abs(grid[2, 6] - clean.frame["value"].mean()) < 1e-9
    assert abs(found.grid()[2, :6]).max() < 1e-9  # earlier ones are not read any more


@pytest.mark.plain
def test_rank_survives_the_null_control(tiny_model, pairs):
    """A metric that jumps at float noise is no sign of a wrong engine; the noise is recorded."""
    model = tiny_model("llama", torch.float32)
    jumps = interp.Metric("jumps", lambda x, a: (x[..., 0] * 1e7).round() % 97, reads="answers")
    found = interp.patch(model, pairs, ["heads", "mlps"], metric=jumps)
    assert found.provenance["null"] >= 0
    interp.patch(model, pairs, "heads", metric="rank")
