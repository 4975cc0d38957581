"""`interp.generate`: prompts in, a table out, and what it refuses before anything runs."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from doors import untyped

import interp
from interp import Model, Pairs, Texts
from interp.core.door.door import ArgumentError
from interp.core.errors import InterpError, PairsError, PositionError, SiteError, Unsupported
from interp.engine.interventions import (
    Add,
    Intervention,
    Mean,
    Reference,
    Resample,
    Scale,
    Set,
    Zero,
)

At = Intervention
Load = Callable[..., Model]


def vector(model: Model, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(model.facts.d_model, generator=generator, dtype=torch.float64)


def tokens(texts: Texts, name: str) -> list[list[int]]:
    return [[*ids] for ids in texts.frame[texts.frame["intervention"] == name]["tokens"]]


def test_the_table(tiny_model: Load, pairs: Pairs) -> None:
    model = tiny_model("gpt2")
    sets = {"cut": [At("1.1", Scale(-3.0))], "past": [At("1.resid_post", Add(3 * vector(model)))]}
    texts = interp.generate(model, pairs, sets, n=5, random=2, by_step="kl")
    names = ["plain", "cut", "past", "past random 1", "past random 2"]
    assert [*texts.frame["intervention"].unique()] == names
    assert [*texts.frame["control"].unique()] == ["", "past"]
    assert len(texts) == 5 * len(pairs)
    plain = texts.frame[texts.frame["intervention"] == "plain"]
    assert plain["differs"].isna().all()
    assert (plain["distance"] == 0).all()
    np.testing.assert_allclose(plain["log_prob"], plain["plain_log_prob"], atol=1e-9)
    assert all(np.abs(each).max() < 1e-12 for each in plain["kl"])
    assert [*plain["cluster"]] == [*pairs.cluster]
    for row in texts.frame.to_dict("records"):
        other = plain.iloc[row["example"]]["tokens"]
        apart = [i for i in range(5) if row["tokens"][i] != other[i]]
        assert row["differs"] == apart[0] if apart else np.isnan(row["differs"])
        assert row["log_prob"] == pytest.approx(sum(row["log_probs"]))
        assert row["text"] == model.tokenizer.decode(row["tokens"])
    assert texts.provenance["engine"] == "replay"
    assert texts.provenance["decoding"]["temperature"] == 0
    assert {"weights", "pairs", "first_tokens"} <= {*texts.provenance}
    found = texts.score("distance").summary()
    assert [*found["site"]] == names[1:]


def test_random_directions_are_as_long_and_named(tiny_model: Load, pairs: Pairs) -> None:
    from interp.causal.generating import randomised

    model = tiny_model("gpt2")
    made = [At("1.resid_post", Add(vector(model)), "from end"), At("1.1", Zero())]
    one, two, again = (randomised(made, 3, "past", draw) for draw in (0, 1, 0))
    values = [x[0].value.source for x in (one, two, again)]
    assert torch.equal(values[0], values[2])
    assert not torch.allclose(values[0], values[1])
    for value in values:
        torch.testing.assert_close(value.norm(), vector(model).norm(), rtol=1e-12, atol=0)
    assert one[0].positions == "from end" and one[1] is made[1]


def test_prompts_in_every_dress(tiny_model: Load) -> None:
    model = tiny_model("llama")
    text, ids = "The Mary gave it", [2, 3, 5, 6]
    asked: dict[str, Any] = {"interventions": {}, "n": 3, "stop": []}
    right = tokens(interp.generate(model, [ids], **asked), "plain")
    for given in (text, [text], torch.tensor([ids]), np.array([ids]), [ids]):
        found = interp.generate(model, given, **asked)
        assert tokens(found, "plain") == right
        assert found.frame["prompt"][0] == text


CHAT = "{% for m in messages %}<s>{{ m['content'] }}{% endfor %}"
"""A template that begins every message with the beginning-of-sequence token."""


def test_chats(tiny_model: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    chats = [[{"role": "user", "content": "The Mary"}], [{"role": "user", "content": "The John"}]]
    refused(lambda: interp.generate(model, chats, {}), PairsError, "has no chat template.*as text")
    monkeypatch.setattr(model.tokenizer, "chat_template", CHAT)
    texts = interp.generate(model, chats, {}, n=3, stop=[])
    assert [*texts.frame["prompt"]] == ["<s>The Mary", "<s>The John"]
    assert texts.provenance["bos_tokens"] == 1
    right = interp.generate(model, [[0, 2, 3], [0, 2, 4]], {}, n=3, stop=[])
    assert tokens(texts, "plain") == tokens(right, "plain")
    pairs = Pairs.from_chat(model, clean=chats[:1], corrupt=chats[1:], positions={"name": [2]})
    assert pairs.clean.tolist() == [[0, 2, 3]] and pairs.corrupt.tolist() == [[0, 2, 4]]
    assert pairs.bos == "chat template" and pairs.strings[0][0] == ("<s>", "The", "␣Mary")
    for chat in ([{"role": "user"}], [{"content": "The"}], []):
        with untyped(), pytest.raises(PairsError, match="is no chat: a chat is a list of messages"):
            model.encode_chat(chat)
    monkeypatch.setattr(model.tokenizer, "chat_template", "{{ raise_exception('user first') }}")
    refused(lambda: model.encode_chat(chats[0]), PairsError, "does not take this chat.*user first")
    monkeypatch.setattr(model.tokenizer, "chat_template", f"<s>{CHAT}")
    refused(lambda: model.encode_chat(chats[0]), PairsError, "begins with '<s>' twice")


def test_once_and_at_every_step(tiny_model: Load, pairs: Pairs) -> None:
    """What is done at the end of a prompt and at all that is said is what "from end" does."""
    model = tiny_model("llama")
    add = Add(2 * vector(model))
    sets = {
        "from": [At("1.resid_post", add, "from end")],
        "both": [At("1.resid_post", add, "end"), At("1.resid_post", add, "generated")],
        "everywhere": [At("1.resid_post", add, "all")],
        "two": [At("1.resid_post", add, "prompt"), At("1.resid_post", add, "generated")],
        "later": [At("1.resid_post", add, "generated")],
        "once": [At("1.resid_post", add, "end")],
    }
    texts = interp.generate(model, pairs, sets, n=5, stop=[])
    lines = {
        name: np.stack(part["log_probs"]) for name, part in texts.frame.groupby("intervention")
    }
    np.testing.assert_allclose(lines["from"], lines["both"], atol=1e-9)
    np.testing.assert_allclose(lines["everywhere"], lines["two"], atol=1e-9)
    np.testing.assert_allclose(lines["later"][:, 0], lines["plain"][:, 0], atol=1e-9)
    np.testing.assert_allclose(lines["once"][:, 0], lines["from"][:, 0], atol=1e-9)
    assert np.abs(lines["later"][:, 1:] - lines["plain"][:, 1:]).max() > 1e-3


@pytest.mark.filterwarnings("ignore:mean ablation")
def test_hooks_say_the_same(tiny_model: Load, pairs: Pairs) -> None:
    model = tiny_model("gemma2-window")
    pairs = pairs.select([0, 2, 4])
    sets = {
        "mean": [At("1.1", Mean(Reference(pairs, "corrupt")), "all")],
        "other": [At("1.attn", Resample("corrupt"), "prompt")],
        "pattern": [At("2.0.pattern", Scale(0.5), "from mid", normalise=False)],
    }
    both = [interp.generate(model, pairs, sets, n=4, engine=e) for e in ("replay", "hooks")]
    assert [t.provenance["engine"] for t in both] == ["replay", "hooks"]
    assert "last position" in both[0].provenance["means"]
    for name in ("plain", *sets):
        assert tokens(both[0], name) == tokens(both[1], name)
    for column in ("log_probs", "plain_log_probs"):
        ours, theirs = (np.concatenate([*texts.frame[column]]) for texts in both)
        np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_stops(tiny_model: Load) -> None:
    model = tiny_model("gpt2")
    whole = interp.generate(model, [[2, 3, 5, 6]], {}, n=6, stop=[])
    ids = whole.frame["tokens"][0]
    assert whole.frame["ended"][0] == "n"
    stopped = interp.generate(model, [[2, 3, 5, 6]], {}, n=6, stop=[ids[2]])
    assert stopped.frame["tokens"][0] == ids[: ids.index(ids[2]) + 1]
    assert stopped.frame["ended"][0] == "stop"
    assert len(stopped.frame["log_probs"][0]) == stopped.frame["length"][0]
    piece = model.tokenizer.decode(ids[:2])
    if piece:
        told = interp.generate(model, [[2, 3, 5, 6]], {}, n=6, stop=[piece])
        assert piece in told.frame["text"][0]
        assert piece not in model.tokenizer.decode(told.frame["tokens"][0][:-1])


def test_draws_are_paired(tiny_model: Load, pairs: Pairs) -> None:
    """The same draws under each set: what changes nothing changes no text."""
    model = tiny_model("llama")
    sets = {"nothing": [At("1.1", Scale(1.0))], "much": [At("0.mlp", Scale(-5.0))]}
    drawn = interp.generate(model, pairs, sets, n=6, temperature=1.5, seed=4)
    assert tokens(drawn, "nothing") == tokens(drawn, "plain")
    assert tokens(drawn, "much") != tokens(drawn, "plain")
    again = interp.generate(model, pairs, sets, n=6, temperature=1.5, seed=4)
    assert tokens(again, "much") == tokens(drawn, "much")
    other = interp.generate(model, pairs, sets, n=6, temperature=1.5, seed=5)
    assert tokens(other, "plain") != tokens(drawn, "plain")


def refused(call: Callable[[], object], kind: type[Exception], says: str) -> None:
    with untyped(), pytest.raises(kind, match=says):
        call()


def test_refusals(tiny_model: Load, pairs: Pairs) -> None:
    model = tiny_model("gpt2")
    d = model.facts.d_model
    add = Add(vector(model))

    def ask(made: list[Intervention] | None = None, *, of: Any = pairs, on: Model = model, **how):
        sets = {} if made is None else {"it": made}
        return lambda: interp.generate(on, of, sets, **{"n": 4} | how)

    refused(ask(n=0), ArgumentError, r"n=0.*takes a whole number of at least 1")
    refused(ask(n=40), PairsError, r"row 1 has 9 tokens, and to say n=40 more the model reads 48")
    refused(ask(n=40), PairsError, r"learned positions for 16. Say at most 8")
    assert len(interp.generate(model, pairs, {}, n=8, stop=[])) == 5
    refused(ask(of=[]), InterpError, r"no prompts were given")
    refused(ask(of=[""]), InterpError, r".")
    refused(ask(top_k=5), InterpError, r"with temperature=0 nothing is drawn.*\(greedy\)")
    refused(ask(beams=3, temperature=1.0), InterpError, r"beams=3 looks for likely texts")
    refused(ask(temperature=-1.0), ArgumentError, r"temperature=-1.0")
    refused(ask(stop=[""]), InterpError, r"empty string")
    refused(ask(stop=[99]), InterpError, r"stop= has token 99, and the model's vocabulary ends")
    refused(ask(on=tiny_model("bert")), Unsupported, r"reads a whole row at once")
    refused(ask(on=tiny_model("bert-headless")), Unsupported, r"no trained language-model head")
    refused(
        ask([At("1.1", Zero(), 9)], n=4),
        PositionError,
        r"no position 9 in row 0.*What will be said has no position yet: say 'from 9'",
    )
    assert len(interp.generate(model, pairs, {"it": [At("1.1", Zero(), "from 9")]}, n=4)) == 10
    refused(
        ask([At("1.1", Zero(), "from 40")], n=4), PositionError, r"nothing stands from position"
    )
    refused(ask([At("1.1", Zero(), "ned")]), PositionError, r"no position 'ned'.*'generated'")
    refused(ask([At("1.1", Zero(), "from ned")]), PositionError, r"no position 'ned'")
    refused(
        ask([At("1.1", Resample("corrupt"))]),
        SiteError,
        r"Resample at '1.1' \('it'\) takes its value from another run of the prompts \(corrupt\)",
    )
    each = torch.zeros(9, d, dtype=torch.float64)
    refused(
        ask([At("1.mlp", Set(each), "generated")], n=4),
        SiteError,
        r"one value for each position of the prompt, and none for what is said",
    )
    refused(
        ask([At("1.1.pattern", Set(torch.ones(9).double()), "all", normalise=False)], n=4),
        SiteError,
        r"a pattern over the keys of the prompt",
    )
    refused(
        ask([At("1.mlp", add, "generated"), At("1.mlp", add, "from end")], n=4),
        SiteError,
        r"two interventions set '1.mlp' in 'it', at generated and at from end, which meet in row 0",
    )
    refused(ask([At("7.mlp", add)]), SiteError, r"7.mlp")
    refused(ask([At("1.mlp", Add(torch.zeros(3)))]), SiteError, r"it takes d_model \(12,\)")
    refused(
        ask(
            [
                At("1.mlp", Set(torch.full((d,), 1e300, dtype=torch.float64))),
                At("1.1", Scale(1e300)),
            ],
            n=3,
        ),
        InterpError,
        r"under 'it' the logits of prompt \d hold NaN or infinity at step 1",
    )
    named = Pairs.from_tokens(clean=[[2, 3]], corrupt=[[2, 4]], positions={"generated": [0]})
    refused(
        ask([At("1.1", Zero(), "generated")], of=named),
        PositionError,
        r"these pairs call a position 'generated', which generation takes for a time",
    )
    refused(
        lambda: interp.generate(model, pairs, {"plain": [At("1.1", Zero())]}, n=2),
        PairsError,
        r"the set 'plain' holds interventions",
    )


def test_rows_that_grow_turn_otherwise_are_refused(tiny_model: Load) -> None:
    """Angles that depend on how long a row is would make the keys of a cache wrong ones."""
    from dataclasses import replace

    from interp.engine.decode.cached import turns
    from interp.engine.engines.choose import weights_of

    w = weights_of(tiny_model("llama"))
    [(name, made)] = w.rotary.items()
    longer = {name: lambda like, place: made(like, place * (1 + place.shape[1] // 10))}
    assert turns(replace(w, rotary=longer), 6, 9)
    with pytest.raises(Unsupported, match=r"rows of 6 and of 12 tokens turn their first positions"):
        turns(replace(w, rotary=longer), 6, 12)
