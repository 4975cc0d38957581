"""The lens and direct attribution in the decoder of an encoder-decoder, against the oracle."""

import numpy as np
import pytest
import torch
from oracle_of_two import OracleOfTwo
from torch import Tensor

import interp
from interp.core.errors import PositionError
from interp.core.prompts.pairs import Pairs
from interp.heads.lens import direct_logit_attribution, logit_lens

FAMILIES = ["t5", "t5-gated", "mbart", "pegasus", "blenderbot", "m2m100"]
PREFIX = (4, 7, 2)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def both(pairs: Pairs) -> Pairs:
    rows = {
        side: [row[:n] for row, n in zip(ids.tolist(), pairs.lengths.tolist(), strict=True)]
        for side, ids in (("clean", pairs.clean), ("corrupt", pairs.corrupt))
    }
    return Pairs.from_tokens(
        **rows, correct=pairs.correct, wrong=pairs.wrong, decoder=PREFIX, positions={"mid": [1] * 5}
    )


def runs(judge: OracleOfTwo, pairs: Pairs):
    start = judge.config.decoder_start_token_id
    for row in range(len(pairs)):
        n = int(pairs.lengths[row])
        yield row, judge.forward(pairs.clean[row : row + 1, :n], torch.tensor([[start, *PREFIX]]))


def difference(logits: Tensor, pairs: Pairs, row: int, at: int = -1) -> float:
    found = logits[0, at]
    return (found[pairs.correct[row]] - found[pairs.wrong[row]]).item()


@pytest.mark.plain
@pytest.mark.parametrize("engine", ["replay", "hooks"])
def test_the_lens_after_each_layer(tiny_model, oracle_of_two, both, family, engine):
    model, judge = tiny_model(family), oracle_of_two(family)
    found = logit_lens(model, both, engine=engine).frame
    streams = ["dec.0.resid_pre", *(f"dec.{n}.resid_post" for n in range(model.facts.n_layers))]
    assert list(dict.fromkeys(found["site"])) == streams
    for row, (logits, acts) in runs(judge, both):
        mine = found[found["example"] == row].set_index("site")["value"]
        for site in streams:
            x = acts[site]
            name = judge.last("dec")
            x = x if name is None else judge.normalise(x, name)
            assert abs(mine[site] - difference(judge.unembed(x), both, row)) < 1e-9
        assert abs(mine[streams[-1]] - difference(logits, both, row)) < 1e-9


@pytest.mark.plain
@pytest.mark.parametrize("position", ["end", 1])
def test_parts_add_up_to_the_difference(tiny_model, oracle_of_two, both, family, position):
    """And each is what its write is behind the frozen norm."""
    model, judge = tiny_model(family), oracle_of_two(family)
    at = -1 if position == "end" else position
    found = direct_logit_attribution(model, both, position=position).frame
    name = judge.last("dec")
    last = f"dec.{model.facts.n_layers - 1}.resid_post"
    for row, (logits, acts) in runs(judge, both):
        mine = found[found["example"] == row].set_index("site")["value"]
        assert abs(mine.sum() - difference(logits, both, row, at)) < 1e-9
        scale = judge.scale(acts[last], name)

        def added(write: Tensor, row: int = row, scale: Tensor = scale) -> float:
            x = judge.centred(write, name) / scale * judge.w[f"{name}.weight"]
            zero = difference(judge.unembed(torch.zeros_like(x)), both, row, at)
            return difference(judge.unembed(x), both, row, at) - zero

        for head in ("dec.0.1", "dec.1.cross.3", "dec.1.4"):
            _, layer, *part, h = head.split(".")
            o = judge.w[f"{judge.place('dec', int(layer), 'cross.o' if part else 'attn.o')}.weight"]
            write = acts[head] @ o[:, judge.rows(int(h))].T
            assert abs(mine[head] - added(write)) < 1e-9
        for site in ("dec.0.resid_pre", "dec.1.mlp"):
            assert abs(mine[site] - added(acts[site])) < 1e-9
    assert found[found["site"].str.contains("cross")]["value"].abs().max() > 1e-4


def test_where_logits_are_read(tiny_model, both):
    model = tiny_model("t5")
    with pytest.raises(PositionError, match="stand in the decoder, which has 4 tokens"):
        direct_logit_attribution(model, both, position="mid")
    with pytest.raises(PositionError, match="no position 4 in row 0: its 4 tokens"):
        direct_logit_attribution(model, both, position=4)
    at = np.array([0, 1, 2, 1, 0])
    found = direct_logit_attribution(model, both, position=at).frame
    for place in (0, 1, 2):
        one = direct_logit_attribution(model, both, position=place).frame
        rows = found["example"].isin(np.flatnonzero(at == place)).to_numpy()
        assert np.abs(found["value"].to_numpy()[rows] - one["value"].to_numpy()[rows]).max() < 1e-12
    ablated = interp.ablate(model, both, ["dec.1.cross.3 -> logits"], method="zero").frame
    parts = direct_logit_attribution(model, both).query("site == 'dec.1.cross.3'").frame
    # of opposite sign but for the norm's scale, which moves with the head
    assert np.corrcoef(ablated["effect"], parts["value"])[0, 1] < -0.9
