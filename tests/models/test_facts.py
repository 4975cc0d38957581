import pytest

from interp.models import load

pytestmark = pytest.mark.sampled(6)

PRE = ("rms", "rotary", "pre", False, True)
EXPECTED = {  # norm, positions, block, parallel, causal
    "gpt2": ("layer", "learned", "pre", False, True),
    "llama": PRE,
    "mistral": PRE,
    "qwen2": PRE,
    "qwen3": PRE,
    "gemma2": ("rms", "rotary", "sandwich", False, True),
    "gemma3": ("rms", "rotary", "sandwich", False, True),
    "olmo2": ("rms", "rotary", "sandwich", False, True),
    "neox": ("layer", "rotary", "pre", True, True),
    "neox-sequential": ("layer", "rotary", "pre", False, True),
    "phi": ("layer", "rotary", "pre", True, True),
    "stablelm": ("layer", "rotary", "pre", False, True),
    "stablelm-parallel": ("layer", "rotary", "pre", True, True),
    "gptj": ("layer", "rotary", "pre", True, True),
    "opt": ("layer", "learned", "pre", False, True),
    "bert": ("layer", "learned", "post", False, False),
    "t5": ("rms", "other", "pre", False, True),
}
GROUPED = {"llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "olmo2"}
D_MODEL = {"gpt2": 12} | dict.fromkeys(GROUPED, 30)
D_MLP = {"gpt2": 48, "gptj": 96, "opt": 20, "t5": 20}
STABLELM = {"stablelm", "stablelm-parallel"}
GATED = GROUPED | STABLELM


@pytest.mark.parametrize("family", EXPECTED)
def test_facts(family, save):
    facts = load(save(family)).facts
    order = (facts.norm, facts.positions, facts.block, facts.parallel, facts.causal)
    assert order == EXPECTED[family]
    assert facts.n_layers == (2 if family == "t5" else 3)
    assert facts.n_heads == (3 if family == "gpt2" else 6)
    assert facts.n_kv_heads == (2 if family in GROUPED | STABLELM else facts.n_heads)
    assert facts.d_model == D_MODEL.get(family, 24)
    assert facts.d_head == (5 if family == "t5" else 4)
    assert facts.d_mlp == D_MLP.get(family, 14)
    assert facts.gated == (family in GATED)
    assert facts.d_vocab == 29
    assert facts.language_model


def test_a_base_model_has_no_language_model(save):
    facts = load(save("bert-headless")).facts
    assert not facts.language_model
    assert not facts.causal
