"""What is said without interventions is what Hugging Face's `generate` says, token for token."""

import pytest
import torch
from speaking import SPEAKING
from torch import Tensor

from interp import Pairs
from interp.engine.decode.choosing import How, seeds
from interp.engine.decode.run import Asked, Said, say
from interp.engine.decode.stopping import Stop
from interp.engine.interventions import Add, Intervention, Scale
from interp.models.model import Model

N = 6


def said(model: Model, pairs: Pairs, how: How, *, stop: tuple[int, ...] = (), **more) -> Said:
    sets = more.pop("sets", {"plain": []})
    return say(Asked(model, pairs, sets, N, how, Stop(model, stop), **more))


def theirs(model: Model, ids: Tensor, stop: tuple[int, ...] = (), **how) -> list[int]:
    """The tokens that transformers says after one prompt, with its end token and without padding.

    The module is as it was loaded, and runs in float64 as ours.
    """
    hf = model.bridge.original_model
    config = {"max_new_tokens": N, "pad_token_id": 0, "eos_token_id": list(stop) or None}
    config |= {"do_sample": False, **how}
    with torch.no_grad():
        out = hf.generate(ids[None], attention_mask=torch.ones_like(ids[None]), **config)
    found = out[0, len(ids) :].tolist()
    ends = [i for i, token in enumerate(found) if token in stop]
    return found[: ends[0] + 1] if ends else found


def rows(pairs: Pairs) -> list[Tensor]:
    return [pairs.clean[i, : int(n)] for i, n in enumerate(pairs.lengths)]


def texts(found: Said, cell: int = 0) -> list[list[int]]:
    lengths = found.length[cell]
    return [ids[:n].tolist() for ids, n in zip(found.tokens[cell], lengths, strict=True)]


@pytest.mark.plain
@pytest.mark.sampled(10)
@pytest.mark.parametrize("family", SPEAKING)
def test_greedy(family, tiny_model, pairs):
    model = tiny_model(family)
    found = texts(said(model, pairs, How()))
    assert found == [theirs(model, ids) for ids in rows(pairs)]
    stop = (found[0][2], found[1][1])
    ended = said(model, pairs, How(), stop=stop)
    assert texts(ended) == [theirs(model, ids, stop) for ids in rows(pairs)]
    assert ended.length.min() < N


@pytest.mark.plain
@pytest.mark.sampled(4)
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2-window", "neox", "bloom", "qwen3"])
@pytest.mark.parametrize(
    "drawn",
    [
        {"temperature": 1.0},
        {"temperature": 0.7, "top_k": 5},
        {"temperature": 1.6, "top_p": 0.8},
        {"temperature": 2.0, "top_k": 20, "top_p": 0.9},
    ],
    ids=str,
)
def test_drawn_with_the_same_draws(family, drawn, tiny_model, pairs):
    model = tiny_model(family)
    found = texts(said(model, pairs, How(**drawn, seed=3)))
    streams = seeds(3, [ids.tolist() for ids in rows(pairs)])
    for ids, seed, ours in zip(rows(pairs), streams, found, strict=True):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            right = theirs(model, ids, **{"top_k": 0, "top_p": 1.0} | drawn, do_sample=True)
        assert ours == right


@pytest.mark.plain
@pytest.mark.sampled(8)
@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral-window", "phi", "mpt", "olmo2"])
@pytest.mark.parametrize("beams", [2, 3, 5])
@pytest.mark.parametrize("penalty", [1.0, 0.0, 2.0])
def test_beams(family, beams, penalty, tiny_model, pairs):
    model = tiny_model(family)
    how, asked = How(beams=beams, length_penalty=penalty), {"num_beams": beams}
    asked |= {"length_penalty": penalty, "early_stopping": False}
    found = texts(said(model, pairs, how))
    assert found == [theirs(model, ids, **asked) for ids in rows(pairs)]
    ends = sorted({text[i] for i, text in enumerate(found[:3])} | {found[0][1]})
    for stop in ((ends[0],), tuple(ends)):
        ended = said(model, pairs, how, stop=stop)
        assert texts(ended) == [theirs(model, ids, stop, **asked) for ids in rows(pairs)]


def test_a_prompt_is_said_whatever_stands_beside_it(tiny_model, pairs):
    """Texts do not depend on other prompts, on other interventions, or on the memory."""
    model = tiny_model("llama")
    steer = torch.randn(model.facts.d_model, generator=torch.Generator().manual_seed(0))
    sets = {
        "plain": [],
        "steer": [Intervention("0.resid_post", Add(4 * steer.double()), "from mid")],
        "cut": [Intervention("1.1", Scale(-2.0), "all")],
    }
    for how in (How(), How(temperature=1.5, seed=1), How(beams=3)):
        whole = said(model, pairs, how, sets=sets)
        least = said(model, pairs, how, sets=sets, memory=whole_bytes(model))
        assert (whole.tokens == least.tokens).all()
        torch.testing.assert_close(
            torch.tensor(whole.log_probs), torch.tensor(least.log_probs), rtol=0, atol=1e-9
        )
        for row in range(len(pairs)):
            alone = said(model, pairs.select([row]), how, sets={"cut": sets["cut"]})
            assert (alone.tokens[0, 0] == whole.tokens[2, row]).all()
        assert (whole.tokens[0] != whole.tokens[2]).any()


def whole_bytes(model: Model) -> int:
    """As much as one text takes, and no second."""
    facts, size = model.facts, 8
    cache = 2 * facts.n_layers * 15 * facts.n_kv_heads * facts.d_head * size
    return 3 * (2 * cache + 9 * (8 * facts.d_model + 2 * facts.d_mlp) * 8 + 4 * facts.d_vocab * 8)


@pytest.mark.parametrize("engine", ["replay", "hooks"])
def test_log_probabilities_are_those_of_a_run_of_the_text(engine, tiny_model, pairs, oracle):
    model, judge = tiny_model("gpt2"), oracle("gpt2")
    sets = {"plain": [], "cut": [Intervention("1.1", Scale(-2.0), "all")]}
    for how in (How(), How(beams=2)):
        found = said(model, pairs, how, sets=sets, engine=engine, kl=True)
        for row, prompt in enumerate(rows(pairs)):
            for cell in (0, 1):
                ids = torch.cat([prompt, torch.tensor(found.tokens[cell, row])])[None]

                def cut(name, x, cell=cell):
                    return -2.0 * x if name == "1.1" and cell else x

                pair = [judge.forward(ids, change)[0][0].log_softmax(-1) for change in (cut, same)]
                at = torch.arange(len(prompt) - 1, len(prompt) + N - 1)
                right = [x[at].gather(1, ids[0, at + 1, None])[:, 0] for x in pair]
                kl = (pair[1].exp() * (pair[1] - pair[0])).sum(-1)[at]
                ours = found.log_probs[cell, row], found.plain[cell, row], found.kl[cell, row]
                for mine, true in zip(ours, (*right, kl), strict=True):
                    torch.testing.assert_close(torch.tensor(mine), true, rtol=0, atol=1e-9)


def same(name: str, x: Tensor) -> Tensor:
    return x


def test_streams_are_of_the_prompt():
    """What is drawn for a prompt does not depend on others, and each of its like has its own."""
    one, two = [2, 3, 4], [5, 6]
    first, again, other = seeds(0, [one, one, two])
    assert len({first, again, other, *seeds(1, [one])}) == 4
    assert seeds(0, [two, one, one]) == [other, first, again]
