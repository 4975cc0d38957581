"""Tiny random models with any option of their family's config."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import tiny
import torch
import transformers as hf


@dataclass(frozen=True)
class Kind:
    """A family: its model, its config, and what makes that small."""

    model: type[hf.PreTrainedModel]
    config: type[hf.PreTrainedConfig]
    shape: dict[str, Any]


KINDS = {
    "gpt2": Kind(hf.GPT2LMHeadModel, hf.GPT2Config, tiny.GPT2),
    "gptj": Kind(hf.GPTJForCausalLM, hf.GPTJConfig, tiny.GPTJ | {"rotary_dim": 2}),
    "neox": Kind(hf.GPTNeoXForCausalLM, hf.GPTNeoXConfig, tiny.PLAIN),
    "phi": Kind(hf.PhiForCausalLM, hf.PhiConfig, tiny.PLAIN),
    "stablelm": Kind(hf.StableLmForCausalLM, hf.StableLmConfig, tiny.STABLELM),
    "opt": Kind(hf.OPTForCausalLM, hf.OPTConfig, tiny.OPT),
    "llama": Kind(hf.LlamaForCausalLM, hf.LlamaConfig, tiny.LLAMA),
    "mistral": Kind(hf.MistralForCausalLM, hf.MistralConfig, tiny.LLAMA),
    "qwen2": Kind(hf.Qwen2ForCausalLM, hf.Qwen2Config, tiny.LLAMA),
    "qwen3": Kind(hf.Qwen3ForCausalLM, hf.Qwen3Config, tiny.LLAMA),
    "gemma2": Kind(hf.Gemma2ForCausalLM, hf.Gemma2Config, tiny.LLAMA),
    "gemma3": Kind(hf.Gemma3ForCausalLM, hf.Gemma3TextConfig, tiny.LLAMA),
    "olmo2": Kind(hf.Olmo2ForCausalLM, hf.Olmo2Config, tiny.LLAMA),
    "bert": Kind(hf.BertForMaskedLM, hf.BertConfig, tiny.PLAIN),
    "bert-headless": Kind(hf.BertModel, hf.BertConfig, tiny.PLAIN),
    "bigcode": Kind(hf.GPTBigCodeForCausalLM, hf.GPTBigCodeConfig, tiny.BIGCODE),
    "gpt-neo": Kind(hf.GPTNeoForCausalLM, hf.GPTNeoConfig, tiny.NEO),
    "bloom": Kind(hf.BloomForCausalLM, hf.BloomConfig, tiny.BLOOM),
    "mpt": Kind(hf.MptForCausalLM, hf.MptConfig, tiny.MPT),
    "falcon": Kind(hf.FalconForCausalLM, hf.FalconConfig, tiny.FALCON),
    "gemma": Kind(hf.GemmaForCausalLM, hf.GemmaConfig, tiny.LLAMA),
    "granite": Kind(hf.GraniteForCausalLM, hf.GraniteConfig, tiny.GRANITE),
    "cohere": Kind(hf.CohereForCausalLM, hf.CohereConfig, tiny.LLAMA),
    "cohere2": Kind(hf.Cohere2ForCausalLM, hf.Cohere2Config, tiny.LLAMA | tiny.LOCAL),
    "phi3": Kind(hf.Phi3ForCausalLM, hf.Phi3Config, tiny.LLAMA),
    "olmo": Kind(hf.OlmoForCausalLM, hf.OlmoConfig, tiny.LLAMA),
    "olmo3": Kind(hf.Olmo3ForCausalLM, hf.Olmo3Config, tiny.LLAMA | tiny.LOCAL),
    "smollm3": Kind(hf.SmolLM3ForCausalLM, hf.SmolLM3Config, tiny.SMOLLM3),
    "starcoder2": Kind(hf.Starcoder2ForCausalLM, hf.Starcoder2Config, tiny.LLAMA),
    "glm": Kind(hf.GlmForCausalLM, hf.GlmConfig, tiny.GLM),
    "glm4": Kind(hf.Glm4ForCausalLM, hf.Glm4Config, tiny.GLM),
    "ernie": Kind(hf.Ernie4_5ForCausalLM, hf.Ernie4_5Config, tiny.LLAMA),
    "nemotron": Kind(hf.NemotronForCausalLM, hf.NemotronConfig, tiny.GLM),
    "arcee": Kind(hf.ArceeForCausalLM, hf.ArceeConfig, tiny.LLAMA),
    "seed-oss": Kind(hf.SeedOssForCausalLM, hf.SeedOssConfig, tiny.LLAMA),
    "exaone4": Kind(hf.Exaone4ForCausalLM, hf.Exaone4Config, tiny.LLAMA | tiny.LOCAL),
    "xlm-roberta": Kind(hf.XLMRobertaForMaskedLM, hf.XLMRobertaConfig, tiny.ROBERTA),
    "distilbert": Kind(hf.DistilBertForMaskedLM, hf.DistilBertConfig, tiny.DISTILBERT),
    "roberta": Kind(hf.RobertaForMaskedLM, hf.RobertaConfig, tiny.ROBERTA),
    "t5": Kind(hf.T5ForConditionalGeneration, hf.T5Config, tiny.T5),
}

SHORT = 8
"""Tokens that a stretched rotary embedding was made for."""


def rope(kind: str, *, width: int = 4, **more: float) -> dict[str, Any]:
    """Settings of a rotary embedding. `width`: features that are turned."""
    short = [1 + 0.3 * i for i in range(width // 2)]
    stretched = {"factor": 4.0, "original_max_position_embeddings": SHORT}
    own: dict[str, dict[str, Any]] = {
        "default": {},
        "linear": {"factor": 2.0},
        "dynamic": {"factor": 2.0},
        "yarn": stretched,
        "longrope": stretched | {"short_factor": short, "long_factor": [1 + x for x in short]},
        "llama3": stretched | {"low_freq_factor": 1.0, "high_freq_factor": 4.0},
    }
    return {"rope_type": kind, "rope_theta": 100.0, **own[kind], **more}


def build(family: str, **options: Any) -> hf.PreTrainedModel:
    """A random model in float64; weights are large enough that every option shows."""
    kind = KINDS[family]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind.model(kind.config(**{**kind.shape, **options})).eval()
        for parameter in model.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return model.to(torch.float64)


def twin(family: str, model: hf.PreTrainedModel) -> hf.PreTrainedModel | None:
    """The same weights without the options; None where they are not the weights of that."""
    other = build(family)
    shapes, theirs = (
        {name: tensor.shape for name, tensor in m.state_dict().items()} for m in (other, model)
    )
    if shapes != theirs:
        return None
    other.load_state_dict(model.state_dict())
    return other


def rows(*lengths: int) -> list[list[int]]:
    """Random rows of tokens."""
    draw = partial(torch.randint, 2, tiny.VOCAB)
    return [draw((n,), generator=torch.Generator().manual_seed(n)).tolist() for n in lengths]
