from dataclasses import replace

import pytest
import tiny
import torch

from interp.core.errors import Unsupported
from interp.models import load
from interp.models.now import checks

pytestmark = pytest.mark.sampled(8)

FAMILIES = [name for name in tiny.FAMILIES if name != "opt-post"]
"""All that TransformerLens can load."""
READ_ONLY = {"gptj", "opt", "bert", "bert-headless", "t5", "gpt-neo", "roberta"}
READ_ONLY |= {"xlm-roberta", "distilbert"}


@pytest.mark.parametrize("family", FAMILIES)
def test_identities_hold(family, save):
    """Also where norms follow the parts or the sum, and in both stacks."""
    model = load(save(family))
    assert model.checks.problems() == {}
    for identity in ("residual", "heads", "parity"):
        model.require(identity)
    assert (model.checks.resid_mid is None) == model.facts.parallel
    assert model.checks.heads is not None


@pytest.mark.parametrize("family", FAMILIES)
def test_the_bridge_s_own_pattern_is_a_fact_and_no_problem(family, save):
    checks = load(save(family)).checks
    assert (checks.pattern < checks.tolerance) == (family in READ_ONLY)
    assert "pattern" not in checks.problems()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_float64_is_exact(family, save):
    model = load(save(family), dtype=torch.float64)
    assert model.checks.tolerance == 64 * torch.finfo(torch.float64).eps
    assert model.checks.problems() == {}
    assert model.parity() < 1e-9


def test_bfloat16_holds_to_its_own_tolerance(save):
    assert load(save("llama"), dtype=torch.bfloat16).checks.problems() == {}


BROKEN = {
    "residual": (
        "blocks.1.hook_resid_mid",
        r"resid_pre \+ attn_out = resid_mid is off by .* times its size \(tolerance 8e-06\)"
        r".*a norm or a factor.*problems\(\).*another model",
    ),
    "heads": (
        "blocks.1.attn.o.hook_out",
        r"LlamaForCausalLM\): sum of head outputs \+ b_O = output of W_O is off by .*hook_z",
    ),
}


TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])


def claim(model, found):
    """Let the model as it is now have these checks."""
    model.now().found["checks"] = found
    return model


@pytest.mark.parametrize("identity", BROKEN)
def test_a_hook_that_shows_something_else_is_found_out(identity, save):
    model = load(save("llama"))
    name, message = BROKEN[identity]
    doubled = model.bridge.hook_dict[name].register_forward_hook(lambda m, x, out: 2 * out)
    now = checks.run_checks(
        model.bridge,
        model.facts,
        tokens=TOKENS,
        reference=model.truth.run(TOKENS).output,
    )
    doubled.remove()
    assert set(now.problems()) - {"parity"} == {identity}
    with pytest.raises(Unsupported, match=message):
        claim(model, now).require(identity)


def test_missing_hooks_say_so(save):
    whole = load(save("llama"))
    model = claim(whole, replace(whole.checks, resid_mid=None, heads=None))
    with pytest.raises(Unsupported, match="resid_mid cannot be tried: a hook is missing"):
        model.require("residual")
    with pytest.raises(Unsupported, match="output of W_O cannot be tried: a hook is missing"):
        model.require("heads")


def test_disagreement_with_hugging_face_is_found_out(save):
    model = load(save("llama"))
    wrong = checks.run_checks(
        model.bridge,
        model.facts,
        tokens=TOKENS,
        reference=model.truth.run(TOKENS).output * 2,
    )
    assert set(wrong.problems()) == {"parity"}
    assert (
        "the bridge's output = Hugging Face's output is off by 5.0e-01"
        in wrong.problems()["parity"]
    )


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "bert", "t5"])
def test_no_hook_remains(family, save):
    def hooks(bridge):
        return {n: (len(p.fwd_hooks), len(p.bwd_hooks)) for n, p in bridge.hook_dict.items()}

    model = load(save(family))
    before = hooks(model.bridge)  # on BERT the bridge keeps some of its own
    reference = model.truth.run(TOKENS).output
    checks.run_checks(model.bridge, model.facts, tokens=TOKENS, reference=reference)
    assert hooks(model.bridge) == before
    if family != "bert":
        assert set(before.values()) == {(0, 0)}


def test_output_weight_is_a_view_in_either_orientation(save):
    for family, n_heads in (("gpt2", 3), ("llama", 6)):
        linear = load(save(family)).bridge.blocks[0].attn.o.original_component
        w_o = checks.output_weight(linear, n_heads=n_heads, d_head=4)
        assert w_o.untyped_storage().data_ptr() == linear.weight.untyped_storage().data_ptr()
        z = torch.randn(5, n_heads, 4, generator=torch.Generator().manual_seed(0))
        bias = 0 if linear.bias is None else linear.bias
        mine = torch.einsum("bhd,hdm->bm", z, w_o) + bias
        assert torch.allclose(mine, linear(z.flatten(1)), atol=1e-6)


def test_nan_never_passes():
    value = torch.tensor([1.0, float("nan")])
    assert checks.off(value, torch.ones(2)) == float("inf")
    assert checks.off(torch.ones(3), torch.ones(2)) == float("inf")
    assert checks.off(None, torch.ones(2)) is None


def test_sample_tokens_are_the_same_every_time():
    cpu = torch.device("cpu")
    first, second = (checks.sample_tokens(29, device=cpu) for _ in range(2))
    assert first.shape == (2, 6)
    assert torch.equal(first, second)
