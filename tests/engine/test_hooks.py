"""Every write through hooks acts where it says it does, on every family."""

from collections.abc import Iterator

import pytest
import torch
from conftest import hooks_on
from hooked import ONE_STACK, Runs, edit, edited, gap, leaving_no_hooks, runs_of, tokens
from torch import Tensor

from interp.core.errors import Unsupported
from interp.core.parts.sites import Site, resolve
from interp.engine.engines.hooked import run as hooks
from interp.engine.engines.hooked.writes import write
from interp.engine.interventions import Add, Freeze, Hop, Resample, Set, Zero
from interp.engine.plan.edits import Edit
from interp.models.model import Model
from interp.models.now.checks import output_of

pytestmark = pytest.mark.sampled(6)


@pytest.fixture(scope="module", params=ONE_STACK)
def runs(request, tiny_model) -> Iterator[Runs]:
    yield from leaving_no_hooks(tiny_model(request.param))


def of_layer(model: Model, layer: int) -> list[Site]:
    """One site of each kind."""
    group = f"kv{min(1, model.facts.n_kv_heads - 1)}"
    texts = ["2", "2.q", f"{group}.k", f"{group}.v", "2.pattern", "attn", "mlp", "mlp[5]"]
    texts += ["resid_pre", "resid_post"] + ["resid_mid"] * (not model.facts.parallel)
    return [Site.parse(f"{layer}.{text}") for text in texts]


def test_null_writes_change_nothing_and_zeros_act(runs):
    model, base = runs.model, runs.base
    for site in [Site("embed"), *of_layer(model, 1)]:
        assert gap(edited(runs, [edit(site, Freeze(), base)]), base) < 1e-9, site
        assert gap(edited(runs, [edit(site, Zero(), base)]), base) > 1e-5, site


def test_writes_keep_to_their_positions(runs):
    model, base = runs.model, runs.base
    mask = torch.tensor([[False, False, True, False, True], [False] * 5])
    for site in of_layer(model, 1):
        noise = torch.randn_like(base.at(site))
        change = Edit(site, Add(noise), mask, noise, normalise=False)
        found = edited(runs, [change])
        changed = (found.final - base.final).abs().amax(-1) > 1e-9
        assert changed[0].any() and not changed[1].any(), site
        if model.facts.causal:
            assert not changed[0, :2].any(), site


def test_a_residual_stream_is_all_that_later_parts_read(runs):
    model, other = runs.model, runs.other
    streams = [site for site in of_layer(model, 1) if site.kind.startswith("resid")]
    for site in [Site("embed"), *streams, Site("resid_post", 2)]:
        assert gap(edited(runs, [edit(site, Resample("corrupt"), other)]), other) < 1e-9, site


def test_parts_add_up_to_the_whole(runs):
    """Everything that writes, set to another run's, gives that run."""
    facts, other = runs.model.facts, runs.other
    layers, groups = range(facts.n_layers), range(facts.n_kv_heads)
    heads = [Site("q", i, head=h) for i in layers for h in range(facts.n_heads)]
    heads += [Site(kind, i, group=g) for kind in ("k", "v") for i in layers for g in groups]
    for parts in (
        resolve(["heads", "mlps"], facts),
        resolve(["attn", "mlps"], facts),
        (*heads, *resolve("mlps", facts)),
    ):
        edits = [edit(site, Resample("corrupt"), other) for site in (Site("embed"), *parts)]
        found = edited(runs, edits)
        assert gap(found, other) < 1e-9, parts[0]


def test_neurons_add_up_to_their_mlp(runs):
    facts, other = runs.model.facts, runs.other
    neurons = [Site("mlp_act", 1, neuron=i) for i in range(facts.d_mlp)]
    one, two = (
        edited(runs, [edit(site, Resample("corrupt"), other) for site in sites])
        for sites in (neurons, [Site("mlp_out", 1)])
    )
    assert gap(one, two) < 1e-9


def test_a_pattern_of_nothing_is_an_output_of_zero(runs):
    base = runs.base
    found, expected = (
        edited(runs, [edit(f"{layer}.1{kind}", Zero(), base) for layer in (0, 1)])
        for kind in (".pattern", "")
    )
    assert gap(found, expected) < 1e-9
    assert gap(found, base) > 1e-5


def test_patterns_mix_the_values_of_their_own_run(runs):
    """Of two layers in one run: the second's values feel the first's pattern."""
    facts, base, other = runs.model.facts, runs.base, runs.other
    sites = [Site("pattern", layer, head=h) for layer in (1, 2) for h in (0, 2)]
    found = edited(runs, [edit(site, Resample("corrupt"), other) for site in sites])

    def outputs(layer: int, values: Tensor) -> list[Edit]:
        z = {
            h: other.kept["pattern"][layer][:, :, h] @ values[:, :, h // facts.group_size]
            for h in (0, 2)
        }
        everywhere = torch.ones(values.shape[:2], dtype=torch.bool)
        return [Edit(Site("z", layer, head=h), Set(x), everywhere, x) for h, x in z.items()]

    first = outputs(1, base.kept["v"][1])
    values: list[Tensor] = []
    note = ("blocks.2.attn.hook_v", lambda x: values.append(x) or x)
    hooks.forward(runs.model, runs.tokens, [write(facts, e) for e in first], hooks=[note])
    assert gap(found, edited(runs, [*first, *outputs(2, values[0])])) < 1e-9
    assert gap(found, base) > 1e-5


@pytest.mark.parametrize("family", ["gpt2", "olmo2"])
def test_patterns_in_half_precision(tiny_model, family):
    """OLMo 2 shows its pattern in float32 whatever the weights are."""
    runs = runs_of(tiny_model(family, torch.bfloat16))
    found = edited(runs, [edit("1.2.pattern", Freeze(), runs.base)])
    assert gap(found, runs.base) < 0.05 * runs.base.logits.abs().max()
    assert gap(edited(runs, [edit("1.2.pattern", Zero(), runs.base)]), runs.base) > 0


@pytest.mark.parametrize("family", ["opt", "gptj", "bert"])
def test_patterns_act_where_the_bridge_s_own_do_nothing(tiny_model, family):
    """OPT, GPT-J, BERT; T5 is in test_encoder_decoder."""
    runs = runs_of(tiny_model(family))
    bridge = runs.model.bridge
    zero = ("blocks.1.attn.hook_pattern", lambda x, hook: 0 * x)
    with pytest.warns(UserWarning, match="hook"), bridge.hooks(fwd_hooks=[zero]):
        ignored = output_of(bridge.original_model, runs.tokens, language_model=True)
    assert torch.equal(ignored, runs.base.logits)
    ours = edited(runs, [edit("1.2.pattern", Resample("corrupt"), runs.other)])
    assert gap(ours, runs.base) > 1e-4


@pytest.mark.filterwarnings("ignore:A hook on self_attn.hook_pattern")
def test_a_pattern_that_is_not_what_is_mixed(tiny_model):
    runs = runs_of(tiny_model("opt"))
    point = runs.model.bridge.hook_dict["blocks.1.attn.hook_pattern"]
    handle = point.register_forward_hook(lambda module, inputs, output: 2 * output)
    message = r"'1\.2\.pattern'.*OPTForCausalLM.*differs from the head's output.*'1\.2'"
    try:
        with pytest.raises(Unsupported, match=message):
            edited(runs, [edit("1.2.pattern", Zero(), runs.base)])
    finally:
        handle.remove()


# refusals, and looking only


def test_what_no_hook_reaches(tiny_model):
    runs = runs_of(tiny_model("llama"))
    key = Site.parse("2.3.k")
    message = r"'2\.3\.k'.*3 query heads share.*engine='replay'.*'2\.kv1\.k'"
    with pytest.raises(Unsupported, match=message):
        edited(runs, [edit(key, Zero(), runs.base)])
    with pytest.raises(Unsupported, match=message):
        edited(runs, [edit("0.1", Zero(), runs.base, (key,))])
    with pytest.raises(Unsupported, match=message):
        edited(runs, [edit("0.1", Zero(), runs.base)], [Hop((key,))])


def test_hooks_that_do_not_fire_once(tiny_model):
    model = tiny_model("llama")
    for name, message in (
        ("blocks.7.mlp.out.hook_in", r"no hook point 'blocks\.7\.mlp\.out\.hook_in'"),
        ("hook_pos_embed", r"\{'hook_pos_embed': 0\} times in one forward of LlamaForCausalLM"),
    ):
        with pytest.raises(Unsupported, match=message):
            hooks.forward(model, tokens(0), [], hooks=[(name, lambda x: x)])
    assert hooks_on(model) == {}


def test_a_walk_shows_each_activation_once(runs):
    model, ids, base, *_ = runs
    shown: list[tuple[str, int]] = []

    def see(shelf: str, layer: int, activation: Tensor) -> None:
        shown.append((shelf, layer))
        assert torch.equal(activation, base.kept[shelf][layer])

    output = hooks.walk(model, ids, see, shelves=list(base.kept))
    assert sorted(shown) == sorted((k, i) for k in base.kept for i in range(3))
    assert gap(output, base) == 0


def test_a_model_without_a_head_has_no_logits(tiny_model):
    trace = hooks.trace(tiny_model("bert-headless"), tokens(0))
    assert trace.logits is None
    hf = tiny_model("bert-headless").bridge.original_model
    last = output_of(hf, tokens(0), language_model=False)
    assert torch.allclose(trace.final, last, atol=1e-12, rtol=0)
