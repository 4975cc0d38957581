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
    "bigcode": ("layer", "learned", "pre", False, True),
    "gpt-neo": ("layer", "learned", "pre", False, True),
    "bloom": ("layer", "alibi", "pre", False, True),
    "mpt": ("layer", "alibi", "pre", False, True),
    "falcon": ("layer", "rotary", "pre", True, True),
    "gemma": PRE,
    "granite": PRE,
    "cohere": ("layer", "rotary", "pre", True, True),
    "cohere2": ("layer", "rotary", "pre", True, True),
    "phi3": PRE,
    "olmo": ("layer", "rotary", "pre", False, True),
    "olmo3": ("rms", "rotary", "sandwich", False, True),
    "smollm3": PRE,
    "starcoder2": ("layer", "rotary", "pre", False, True),
    "glm": PRE,
    "glm4": ("rms", "rotary", "sandwich", False, True),
    "ernie": PRE,
    "nemotron": ("layer", "rotary", "pre", False, True),
    "arcee": PRE,
    "seed-oss": PRE,
    "exaone4": ("rms", "rotary", "sandwich", False, True),
    "roberta": ("layer", "learned", "post", False, False),
    "xlm-roberta": ("layer", "learned", "post", False, False),
    "distilbert": ("layer", "learned", "post", False, False),
    "t5": ("rms", "other", "pre", False, True),
}
UNGATED = {"starcoder2", "nemotron", "arcee"}
GROUPED = {"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "olmo2", *UNGATED}
GROUPED |= {"granite", "cohere", "cohere2", "phi3", "olmo", "olmo3", "smollm3", "glm", "glm4"}
GROUPED |= {"ernie", "seed-oss", "exaone4"}
D_MODEL = {"gpt2": 12, "bloom": 12, "mpt": 12} | dict.fromkeys(GROUPED, 30)
D_MLP = {"gpt2": 48, "gptj": 96, "opt": 20, "t5": 20, "bloom": 48, "mpt": 48}
D_HEAD = {"t5": 5, "glm": 8, "glm4": 8, "nemotron": 8}
N_HEADS = {"gpt2": 3, "bloom": 3, "mpt": 3}
STABLELM = {"stablelm", "stablelm-parallel"}
GATED = (GROUPED | STABLELM) - UNGATED
ONE_GROUP = {"bigcode", "falcon"}


@pytest.mark.parametrize("family", EXPECTED)
def test_facts(family, save):
    facts = load(save(family)).facts
    order = (facts.norm, facts.positions, facts.block, facts.parallel, facts.causal)
    assert order == EXPECTED[family]
    assert facts.n_layers == (2 if family == "t5" else 3)
    assert facts.n_heads == N_HEADS.get(family, 6)
    groups = 1 if family in ONE_GROUP else facts.n_heads
    assert facts.n_kv_heads == (2 if family in GROUPED | STABLELM else groups)
    assert facts.d_model == D_MODEL.get(family, 24)
    assert facts.d_head == D_HEAD.get(family, 4)
    assert facts.d_mlp == D_MLP.get(family, 14)
    assert facts.gated == (family in GATED)
    assert facts.d_vocab == 29
    assert facts.language_model


def test_a_base_model_has_no_language_model(save):
    facts = load(save("bert-headless")).facts
    assert not facts.language_model
    assert not facts.causal
