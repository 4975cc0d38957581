"""Encoder-decoders on replay: their weights and plain runs, against Hugging Face and the oracle."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import tiny
import torch
from torch import Tensor

from interp.core.errors import Unsupported
from interp.engine.engines import verified
from interp.engine.network.stacks import Stacks, read_stacks
from interp.engine.network.trace import walk_both
from interp.models.bridge.precision import exact

TWO = list(tiny.TWO_STACKS)


def rows(seed: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(tiny.VOCAB, (2, length), generator=generator)


SOURCE, WRITTEN = rows(0, 13), rows(1, 6)


@pytest.fixture(params=TWO)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def stacks(tiny_model, family: str) -> Stacks:
    return read_stacks(tiny_model(family))


def run(stacks: Stacks, wanted: tuple[str, ...]) -> tuple[dict[str, list[Tensor]], Tensor]:
    """Every activation by shelf, and the logits."""
    found: dict[str, list[Tensor]] = {}

    def see(shelf: str, layer: int, x: Tensor) -> None:
        found.setdefault(shelf, []).append(x)

    _, final = walk_both(stacks, SOURCE, WRITTEN, see, wanted=wanted)
    assert final is not None
    return found, verified.output(stacks.decoder, final)


@torch.no_grad()
def test_the_oracle_is_hugging_face(family, oracle_of_two):
    hf = tiny.build(family).to(torch.float64)
    hf.set_attn_implementation("eager")
    exact(hf)
    said = hf(
        input_ids=SOURCE,
        decoder_input_ids=WRITTEN,
        output_hidden_states=True,
        output_attentions=True,
    )
    logits, acts = oracle_of_two(family).forward(SOURCE, WRITTEN)
    assert (logits - said.logits).abs().max() < 1e-11
    for stack, states in (("enc", said.encoder_hidden_states), ("dec", said.decoder_hidden_states)):
        for layer, state in enumerate(states[:-1]):
            assert (acts[f"{stack}.{layer}.resid_pre"] - state).abs().max() < 1e-11
    for at, patterns in (
        ("enc.{}.{}", said.encoder_attentions),
        ("dec.{}.{}", said.decoder_attentions),
        ("dec.{}.cross.{}", said.cross_attentions),
    ):
        for layer, pattern in enumerate(patterns):
            for head in range(6):
                ours = acts[at.format(layer, head) + ".pattern"]
                assert (ours - pattern[:, head]).abs().max() < 1e-12


@torch.no_grad()
def test_every_activation_of_a_plain_run(family, stacks, oracle_of_two):
    wanted = ("enc.pattern", "dec.pattern", "dec.cross.pattern", "enc.mlp_act", "dec.mlp_act")
    found, logits = run(stacks, wanted)
    truth, acts = oracle_of_two(family).forward(SOURCE, WRITTEN)
    assert (logits - truth).abs().max() < 1e-11
    names = {"attn_out": "attn", "mlp_out": "mlp"}
    seen = 0
    for shelf, layers in found.items():
        *where, kind = shelf.split(".")
        if kind == "resid_cross":
            continue
        for layer, value in enumerate(layers):
            at = ".".join([where[0], str(layer), *where[1:]])
            if kind in ("q", "k", "v", "z", "pattern"):
                for head in range(6):
                    name = f"{at}.{head}" + ("" if kind == "z" else f".{kind}")
                    assert (value[:, :, head] - acts[name]).abs().max() < 1e-11, name
                    seen += 1
            elif kind == "mlp_act":
                for i in range(20):
                    assert (value[..., i] - acts[f"{at}.mlp[{i}]"]).abs().max() < 1e-11
                    seen += 1
            else:
                name = f"{at}.{names.get(kind, kind)}"
                assert (value - acts[name]).abs().max() < 1e-11, name
                seen += 1
    enc, dec = (len(w.blocks) for w in (stacks.encoder, stacks.decoder))
    assert seen == enc * (30 + 20 + 5) + dec * (60 + 20 + 6)


@pytest.mark.parametrize("length", [8, 14])
def test_verified_layer_by_layer(tiny_model, family, stacks, length):
    assert verified.stacks_gap(tiny_model(family), stacks, length) is None


def damaged(s: Stacks) -> Iterator[tuple[str, Stacks]]:
    """What is read wrong in one place, and what verification must say of it."""

    def with_layer(stack: str, layer: int, **parts: object) -> Stacks:
        w = getattr(s, stack)
        blocks = list(w.blocks)
        blocks[layer] = replace(blocks[layer], **parts)
        return replace(s, **{stack: replace(w, blocks=tuple(blocks))})

    def scaled(stack: str, layer: int, part: str) -> Stacks:
        p = getattr(getattr(s, stack).blocks[layer], part)
        return with_layer(stack, layer, **{part: replace(p, scale=1.001 * p.scale)})

    yield "layer 1 of the encoder", scaled("encoder", 1, "attention")
    yield "layer 1 of the decoder", scaled("decoder", 1, "attention")
    yield "layer 1 of the decoder", scaled("decoder", 1, "cross")
    embed = s.decoder.embed
    wrong = replace(embed, scale=2.0 * (embed.scale or 1.0))
    yield "the decoder's embedding", replace(s, decoder=replace(s.decoder, embed=wrong))
    if s.norm is not None:
        yield "what the decoder reads", replace(s, norm=None)
    head = s.decoder.unembed
    assert head is not None
    head = replace(head, scale=2.0 * (head.scale or 1.0))
    yield "the output", replace(s, decoder=replace(s.decoder, unembed=head))
    if s.encoder.blocks[0].attention.bias is not None:
        p = replace(s.encoder.blocks[2].attention, bias=None)
        yield "layer 2 of the encoder", with_layer("encoder", 2, attention=p)


def test_whatever_is_read_wrong_is_noticed(tiny_model, family, stacks):
    for what, wrong in damaged(stacks):
        gap = verified.stacks_gap(tiny_model(family), wrong, 8)
        assert gap is not None and what in gap.name
        assert "is off by" in str(gap)


def test_wrapping_leaves_the_bias_of_the_logits(tiny_model):
    """TransformerLens moves it elsewhere, and Hugging Face's model would be without it."""
    model = tiny_model("marian")
    plain = tiny.build("marian").to(torch.float64)
    held = model.bridge.original_model.final_logits_bias
    assert torch.equal(held, plain.final_logits_bias)
    assert held.abs().max() > 0.1
    assert not model.bridge.original_model.lm_head.bias.any()


def test_sums_of_every_layer_are_known(tiny_model, family):
    """Also of blocks with the norm after each of a decoder's three sums."""
    checks = tiny_model(family).checks
    for found in (checks.resid_mid, checks.resid_post, checks.heads, checks.pattern):
        assert found is not None and found <= checks.tolerance


def test_what_is_not_read(tiny_model, monkeypatch):
    model = tiny_model("bart")
    config = model.bridge.original_model.config
    monkeypatch.setattr(config, "decoder_start_token_id", None)
    with pytest.raises(Unsupported, match="has no decoder_start_token_id"):
        read_stacks(model)
    monkeypatch.undo()
    monkeypatch.setattr(config, "activation_function", "prelu")
    with pytest.raises(Unsupported, match="no activation 'prelu'"):
        read_stacks(model)
