"""Writes in two stacks, against the plain Hugging Face model with torch hooks of its own."""

from collections.abc import Callable, Iterator

import pytest
import tiny
import torch
from conftest import hooks_on
from hooked import Runs, edit, edited, gap, runs_of, tokens
from torch import Tensor, nn

from interp.core.errors import Unsupported
from interp.core.parts.sites import Site, resolve
from interp.engine.engines.hooked import run as hooks
from interp.engine.interventions import Add, Freeze, Hop, Resample, Scale, Zero
from interp.engine.plan.edits import Edit
from interp.models.bridge.precision import exact

pytestmark = pytest.mark.sampled(8)

PREFIX = (4, 7, 2)
HEADS = ["enc.0.2", "enc.2.5", "dec.0.1", "dec.1.4", "dec.0.cross.3", "dec.1.cross.0"]


@pytest.fixture(scope="module")
def runs(tiny_model) -> Iterator[Runs]:
    model = tiny_model("t5")
    before = hooks_on(model)
    yield runs_of(model, PREFIX)
    assert hooks_on(model) == before


@pytest.fixture(scope="module")
def hf() -> nn.Module:
    """The same weights; nothing of TransformerLens."""
    model = tiny.build("t5").to(torch.float64)
    model.set_attn_implementation("eager")  # the other one gives no patterns
    exact(model)
    return model


def attention(hf: nn.Module, site: Site) -> nn.Module:
    if site.stack == "enc":
        return hf.encoder.block[site.layer].layer[0].SelfAttention
    layers = hf.decoder.block[site.layer].layer
    return layers[1].EncDecAttention if site.cross else layers[0].SelfAttention


def call(hf: nn.Module, seed: int, prefix: tuple[int, ...] = PREFIX):
    ids = tokens(seed)
    decoder = torch.tensor([[0, *prefix]]).expand(len(ids), -1)
    return hf(
        input_ids=ids, decoder_input_ids=decoder, output_attentions=True, output_hidden_states=True
    )


@torch.inference_mode()
def plain(hf: nn.Module, change: dict[str, Callable[[Tensor], Tensor]]) -> Tensor:
    """Logits with the outputs of some heads changed where W_O reads them."""

    def before(site: Site) -> Callable[[nn.Module, tuple[Tensor]], tuple[Tensor]]:
        at = slice(site.head * 5, (site.head + 1) * 5)

        def hook(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
            z = inputs[0].clone()
            z[..., at] = change[str(site)](z[..., at])
            return (z,)

        return hook

    sites = [Site.parse(text) for text in change]
    handles = [attention(hf, s).o.register_forward_pre_hook(before(s)) for s in sites]
    try:
        return call(hf, 0).logits
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def read_by_w_o(hf: nn.Module, site: Site) -> Tensor:
    """The output of a head in the run of other tokens."""
    found: list[Tensor] = []
    output = attention(hf, site).o
    handle = output.register_forward_pre_hook(lambda module, inputs: found.append(inputs[0]))
    try:
        call(hf, 1)
    finally:
        handle.remove()
    return found[0][..., site.head * 5 : (site.head + 1) * 5]


def test_a_plain_run(runs, hf):
    with torch.inference_mode():
        expected = call(hf, 0)
        short = hooks.trace(runs.model, tokens(0), keep=("resid_pre",))
        assert torch.allclose(short.logits, call(hf, 0, ()).logits, atol=1e-9, rtol=0)
    assert torch.allclose(runs.base.logits, expected.logits, atol=1e-9, rtol=0)
    assert runs.base.logits.shape == (2, 4, tiny.VOCAB)
    for stack, states in (
        ("enc", expected.encoder_hidden_states),
        ("dec", expected.decoder_hidden_states),
    ):
        # hidden states are the streams before each layer; the last has passed the final norm
        for layer, state in enumerate(states[:-1]):
            for site in (Site("resid_pre", layer, stack=stack),) + (
                (Site("resid_post", layer - 1, stack=stack),) if layer else ()
            ):
                assert torch.allclose(runs.base.at(site), state, atol=1e-9, rtol=0)
    assert set(short.kept) == {f"{s}.resid_{p}" for s in ("enc", "dec") for p in ("pre", "post")}
    assert torch.equal(runs.base.final, runs.base.at(Site.parse("dec.1.resid_post")))


@pytest.mark.parametrize("head", HEADS)
def test_ablated_heads(runs, hf, head):
    found = edited(runs, [edit(head, Zero(), runs.base)])
    expected = plain(hf, {head: torch.zeros_like})
    assert torch.allclose(found.logits, expected, atol=1e-9, rtol=0)
    assert gap(found, runs.base) > 1e-5


def test_heads_of_every_attention_at_once(runs, hf):
    found = edited(runs, [edit(head, Scale(0.5), runs.base) for head in HEADS])
    expected = plain(hf, {head: lambda z: z / 2 for head in HEADS})
    assert torch.allclose(found.logits, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("head", HEADS)
def test_heads_patched_from_another_run(runs, hf, head):
    site = Site.parse(head)
    found = edited(runs, [edit(site, Resample("corrupt"), runs.other)])
    other = read_by_w_o(hf, site)
    expected = plain(hf, {head: lambda z: other})
    assert torch.allclose(found.logits, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("head", HEADS)
def test_patterns_of_another_run(runs, hf, head):
    """Live in every attention, where TransformerLens' own hook_pattern does nothing."""
    site = Site.parse(head)
    pattern = Site("pattern", site.layer, head=site.head, stack=site.stack, cross=site.cross)
    found = edited(runs, [edit(pattern, Resample("corrupt"), runs.other)])
    with torch.inference_mode():
        attended = call(hf, 1)
    shelf = {"enc": "encoder_attentions", "dec": "decoder_attentions"}[site.stack]
    weights = attended["cross_attentions" if site.cross else shelf][site.layer][:, site.head]
    assert torch.allclose(runs.other.at(pattern), weights, atol=1e-9, rtol=0)
    values = runs.base.at(Site("v", site.layer, head=site.head, stack=site.stack, cross=site.cross))
    expected = plain(hf, {head: lambda z: weights @ values})
    assert torch.allclose(found.logits, expected, atol=1e-9, rtol=0)
    # a decoder's first self-attention knows nothing of what the encoder read
    assert (gap(found, runs.base) > 1e-5) == (head != "dec.0.1")


@pytest.mark.parametrize("part", ["encoder_blocks.1.attn", "decoder_blocks.1.cross_attn"])
def test_the_bridge_s_own_pattern_does_nothing(runs, part):
    model = runs.model
    decoder = torch.tensor([[0, *PREFIX]]).expand(2, -1)
    zero = (f"{part}.hook_pattern", lambda x, hook: 0 * x)
    with (
        pytest.warns(UserWarning, match="hook"),
        model.bridge.hooks(fwd_hooks=[zero]),
        torch.inference_mode(),
    ):
        found = model.bridge.original_model(input_ids=tokens(0), decoder_input_ids=decoder)
    assert torch.equal(found.logits, runs.base.logits)


def every_kind() -> list[str]:
    parts = ["2", "2.q", "2.k", "2.v", "2.pattern", "attn"]
    rest = ["resid_pre", "resid_mid", "mlp[3]", "mlp", "resid_post"]
    sites = [f"{stack}.1.{part}" for stack in ("enc", "dec") for part in (*parts, *rest)]
    return [*sites, *(f"dec.1.cross.{part}" for part in parts)]


@pytest.mark.parametrize("site", every_kind())
def test_null_writes_change_nothing_and_others_act(runs, site):
    assert gap(edited(runs, [edit(site, Freeze(), runs.base)]), runs.base) < 1e-9
    at = Site.parse(site)
    noise = torch.randn_like(runs.base.at(at))
    mask = torch.zeros(noise.shape[:2], dtype=torch.bool)
    mask[0, 2] = True
    found = edited(runs, [Edit(at, Add(noise), mask, noise, normalise=False)])
    changed = (found.final - runs.base.final).abs().amax(-1) > 1e-9
    assert changed[0].any()
    assert not changed[1].any()
    if at.stack == "dec" and not (at.cross and at.kind in ("k", "v")):
        assert not changed[0, :2].any()


def test_a_residual_stream_is_all_that_later_parts_read(runs):
    """An encoder's last is all that the decoder reads of it, and both last streams are the rest."""
    last = edit("enc.2.resid_post", Resample("corrupt"), runs.other)
    assert gap(edited(runs, [last]), runs.other) < 1e-9
    for layer, kind in ((0, "pre"), (1, "mid"), (2, "post")):
        stream = edit(f"enc.{layer}.resid_{kind}", Resample("corrupt"), runs.other)
        assert gap(edited(runs, [stream]), runs.other) < 1e-9
    final = edit("dec.1.resid_post", Resample("corrupt"), runs.other)
    assert gap(edited(runs, [final]), runs.other) < 1e-9
    middle = edit("dec.1.resid_mid", Resample("corrupt"), runs.other)
    assert gap(edited(runs, [middle, last]), runs.other) < 1e-9


def test_parts_add_up_to_the_whole(runs):
    for parts in (["heads", "mlps"], ["attn", "mlps"]):
        sites = ["enc.0.resid_pre", "dec.0.resid_pre", *resolve(parts, runs.model.facts)]
        edits = [edit(site, Resample("corrupt"), runs.other) for site in sites]
        decoder = [e for e in edits if e.site.stack == "dec"]
        assert gap(edited(runs, edits), runs.other) < 1e-9
        assert gap(edited(runs, decoder), runs.other) < 1e-9


def test_patterns_of_every_attention_in_one_run(runs):
    """Each is mixed with the values that the run has by then: zeros are zeros everywhere."""
    heads = [Site.parse(head) for head in HEADS]
    patterns = [Site("pattern", s.layer, head=s.head, stack=s.stack, cross=s.cross) for s in heads]
    one, two = (
        edited(runs, [edit(site, Zero(), runs.base) for site in sites])
        for sites in (heads, patterns)
    )
    assert gap(one, two) < 1e-9


def test_sites_print_and_parse(runs):
    facts = runs.model.facts
    sites = resolve(["heads", "attn", "mlps", "layers", "resid_mid", "neurons"], facts)
    assert len(sites) == 18 + 24 + 3 + 4 + 5 + 5 + 5 + 5 * 20
    assert [Site.parse(str(site)) for site in sites] == list(sites)
    assert {str(s) for s in sites} >= {"enc.0.3", "dec.1.cross.5", "dec.0.cross.attn", "enc.2.mlp"}
    for site in sites:
        assert runs.base.at(site).shape[0] == 2


def test_paths_are_refused(runs):
    sender = edit("enc.0.2", Zero(), runs.base)
    hop = Hop((Site("logits"),))
    with pytest.raises(Unsupported, match="hooks engine has no paths and edges in encoder-dec"):
        edited(runs, [sender], [hop])
    edge = edit("enc.0.2", Zero(), runs.base, (Site.parse("dec.1.cross.3.k"),))
    with pytest.raises(Unsupported, match="hooks engine has no paths and edges in encoder-dec"):
        edited(runs, [edge])


def test_a_decoder_without_a_start(runs, monkeypatch):
    config = runs.model.bridge.original_model.config
    monkeypatch.setattr(config, "decoder_start_token_id", None)
    with pytest.raises(Unsupported, match="has no decoder_start_token_id"):
        hooks.trace(runs.model, tokens(0))
