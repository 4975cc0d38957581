"""Tiny random models of many families; every width is a number of its own."""

from collections.abc import Callable

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

VOCAB = 29
WORDS = ["<s>", "<unk>", "The", "ĠMary", "ĠJohn", "Ġgave", "Ġit", "Ġto", "Ċ", "Mary", "é", "Ġ"]

LLAMA = {
    "hidden_size": 30,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "num_hidden_layers": 3,
    "intermediate_size": 14,
    "vocab_size": VOCAB,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
}
CAPPED = {"sliding_window": 3, "query_pre_attn_scalar": 7}
CAPPED |= {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]
PLAIN = {k: v for k, v in LLAMA.items() if k not in ("num_key_value_heads", "head_dim")}
PLAIN |= {"hidden_size": 24}
STABLELM = PLAIN | {"num_key_value_heads": 2, "partial_rotary_factor": 0.5}
GPTJ = {"n_embd": 24, "n_head": 6, "n_layer": 3, "vocab_size": VOCAB, "n_positions": 16}
CODEGEN = GPTJ | {"n_head": 4, "rotary_dim": 4}
GPT2 = {"n_embd": 12, "n_head": 3, "n_layer": 3, "vocab_size": VOCAB, "n_positions": 16}
OPT = {
    "hidden_size": 24,
    "num_attention_heads": 6,
    "num_hidden_layers": 3,
    "ffn_dim": 20,
    "vocab_size": VOCAB,
    "max_position_embeddings": 16,
    "word_embed_proj_dim": 24,
    "pad_token_id": 1,
}
BIGCODE = GPTJ | {"n_inner": 14}
NEO = {
    "hidden_size": 24,
    "num_heads": 6,
    "num_layers": 3,
    "intermediate_size": 14,
    "vocab_size": VOCAB,
    "max_position_embeddings": 16,
    "window_size": 3,
    "attention_types": [[["global", "local", "global"], 1]],
}
BLOOM = {"hidden_size": 12, "n_layer": 3, "n_head": 3, "vocab_size": VOCAB}
MPT = {"d_model": 12, "n_layers": 3, "n_heads": 3, "vocab_size": VOCAB, "max_seq_len": 16}
FALCON = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "ffn_hidden_size": 14,
    "vocab_size": VOCAB,
    "max_position_embeddings": 16,
}
GRANITE = LLAMA | {"residual_multiplier": 0.3, "embedding_multiplier": 5.0}
GRANITE |= {"attention_multiplier": 0.7, "logits_scaling": 1.7}
HALF = {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}
ROBERTA = PLAIN | {"max_position_embeddings": 17}  # of which its padding has one
DISTILBERT = {"dim": 24, "n_heads": 6, "n_layers": 3, "hidden_dim": 14}
DISTILBERT |= {"vocab_size": VOCAB, "max_position_embeddings": 16}
LOCAL = {"sliding_window": 3, "layer_types": ALTERNATING}
SMOLLM3 = LLAMA | {"no_rope_layers": [1, 0, 1]}
GLM = LLAMA | {"rope_parameters": HALF, "head_dim": 8}
T5 = {"d_model": 24, "d_kv": 5, "d_ff": 20, "num_layers": 3, "num_decoder_layers": 2}
T5 |= {"num_heads": 6, "vocab_size": VOCAB, "decoder_start_token_id": 0}
FAR = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 12}
"""Distances that share a bucket in short rows."""
BART = {
    "d_model": 24,
    "encoder_layers": 3,
    "decoder_layers": 3,
    "encoder_attention_heads": 6,
    "decoder_attention_heads": 6,
    "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 20,
    "vocab_size": VOCAB,
    "max_position_embeddings": 16,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}

FAMILIES: dict[str, Callable[[], hf.PreTrainedModel]] = {
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2)),
    "llama-mha": lambda: hf.LlamaForCausalLM(
        hf.LlamaConfig(**{**LLAMA, "num_key_value_heads": 6, "num_hidden_layers": 3})
    ),
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA)),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**LLAMA)),
    "mistral-window": lambda: hf.MistralForCausalLM(hf.MistralConfig(**LLAMA, sliding_window=3)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**LLAMA)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**LLAMA)),
    "gemma2": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**LLAMA)),
    "gemma2-window": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**LLAMA, **CAPPED)),
    "gemma3": lambda: hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**LLAMA)),
    "gemma3-window": lambda: hf.Gemma3ForCausalLM(
        hf.Gemma3TextConfig(**LLAMA, sliding_window=3, layer_types=ALTERNATING)
    ),
    "olmo2": lambda: hf.Olmo2ForCausalLM(hf.Olmo2Config(**LLAMA)),
    "neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**PLAIN)),
    "neox-sequential": lambda: hf.GPTNeoXForCausalLM(
        hf.GPTNeoXConfig(**PLAIN, use_parallel_residual=False)
    ),
    "phi": lambda: hf.PhiForCausalLM(hf.PhiConfig(**PLAIN)),
    "stablelm": lambda: hf.StableLmForCausalLM(hf.StableLmConfig(**STABLELM)),
    "stablelm-parallel": lambda: hf.StableLmForCausalLM(
        hf.StableLmConfig(**STABLELM, use_parallel_residual=True, use_qkv_bias=True)
    ),
    "gptj": lambda: hf.GPTJForCausalLM(hf.GPTJConfig(**GPTJ, rotary_dim=2)),
    "codegen": lambda: hf.CodeGenForCausalLM(hf.CodeGenConfig(**CODEGEN)),
    "opt": lambda: hf.OPTForCausalLM(hf.OPTConfig(**OPT)),
    "opt-post": lambda: hf.OPTForCausalLM(hf.OPTConfig(**OPT, do_layer_norm_before=False)),
    "bigcode": lambda: hf.GPTBigCodeForCausalLM(hf.GPTBigCodeConfig(**BIGCODE)),
    "gpt-neo": lambda: hf.GPTNeoForCausalLM(hf.GPTNeoConfig(**NEO)),
    "bloom": lambda: hf.BloomForCausalLM(hf.BloomConfig(**BLOOM)),
    "mpt": lambda: hf.MptForCausalLM(hf.MptConfig(**MPT)),
    "falcon": lambda: hf.FalconForCausalLM(hf.FalconConfig(**FALCON)),
    "gemma": lambda: hf.GemmaForCausalLM(hf.GemmaConfig(**LLAMA)),
    "granite": lambda: hf.GraniteForCausalLM(hf.GraniteConfig(**GRANITE)),
    "cohere": lambda: hf.CohereForCausalLM(hf.CohereConfig(**LLAMA)),
    "cohere2": lambda: hf.Cohere2ForCausalLM(hf.Cohere2Config(**LLAMA, **LOCAL)),
    "phi3": lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**LLAMA)),
    "phi3-window": lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**LLAMA, sliding_window=3)),
    "olmo": lambda: hf.OlmoForCausalLM(hf.OlmoConfig(**LLAMA)),
    "olmo3": lambda: hf.Olmo3ForCausalLM(hf.Olmo3Config(**LLAMA, **LOCAL)),
    "smollm3": lambda: hf.SmolLM3ForCausalLM(hf.SmolLM3Config(**SMOLLM3)),
    "starcoder2": lambda: hf.Starcoder2ForCausalLM(hf.Starcoder2Config(**LLAMA, sliding_window=3)),
    "glm": lambda: hf.GlmForCausalLM(hf.GlmConfig(**GLM)),
    "glm4": lambda: hf.Glm4ForCausalLM(hf.Glm4Config(**GLM)),
    "ernie": lambda: hf.Ernie4_5ForCausalLM(hf.Ernie4_5Config(**LLAMA)),
    "nemotron": lambda: hf.NemotronForCausalLM(hf.NemotronConfig(**GLM)),
    "arcee": lambda: hf.ArceeForCausalLM(hf.ArceeConfig(**LLAMA)),
    "seed-oss": lambda: hf.SeedOssForCausalLM(hf.SeedOssConfig(**LLAMA)),
    "exaone4": lambda: hf.Exaone4ForCausalLM(hf.Exaone4Config(**LLAMA, **LOCAL)),
    "roberta": lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**ROBERTA)),
    "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(**PLAIN)),
    "bert-headless": lambda: hf.BertModel(hf.BertConfig(**PLAIN)),
    "xlm-roberta": lambda: hf.XLMRobertaForMaskedLM(hf.XLMRobertaConfig(**ROBERTA)),
    "distilbert": lambda: hf.DistilBertForMaskedLM(hf.DistilBertConfig(**DISTILBERT)),
    "t5": lambda: hf.T5ForConditionalGeneration(hf.T5Config(**T5)),
}
TWO_STACKS: dict[str, Callable[[], hf.PreTrainedModel]] = {
    "t5": FAMILIES["t5"],
    "t5-gated": lambda: hf.T5ForConditionalGeneration(
        hf.T5Config(**T5, **FAR, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    ),
    "mt5": lambda: hf.MT5ForConditionalGeneration(hf.MT5Config(**T5, **FAR)),
    "bart": lambda: hf.BartForConditionalGeneration(hf.BartConfig(**BART)),
    "mbart": lambda: hf.MBartForConditionalGeneration(hf.MBartConfig(**BART, scale_embedding=True)),
    "marian": lambda: hf.MarianMTModel(hf.MarianConfig(**BART, scale_embedding=True)),
    "pegasus": lambda: hf.PegasusForConditionalGeneration(hf.PegasusConfig(**BART)),
    "blenderbot": lambda: hf.BlenderbotForConditionalGeneration(
        hf.BlenderbotConfig(**BART | {"encoder_layers": 2, "scale_embedding": True})
    ),
    "m2m100": lambda: hf.M2M100ForConditionalGeneration(
        hf.M2M100Config(**BART, scale_embedding=True)
    ),
}
"""Encoder-decoders; every one of the kinds of positions, norms and scales that they have."""

MIXTRAL = LLAMA | {"num_local_experts": 3, "num_experts_per_tok": 2}
QWEN3_MOE = LLAMA | {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 7}
QWEN2_MOE = QWEN3_MOE | {"shared_expert_intermediate_size": 9}
GRANITE_MOE = GRANITE | {"num_local_experts": 4, "num_experts_per_tok": 2}
OLMOE = PLAIN | {"num_key_value_heads": 2, "num_experts": 5, "num_experts_per_tok": 3}
YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8}
YARN |= {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": False, "rope_theta": 100.0}
GPT_OSS = LLAMA | {"num_local_experts": 4, "num_experts_per_tok": 2, "swiglu_limit": 0.3}
GPT_OSS |= {"sliding_window": 3, "layer_types": ALTERNATING, "rope_parameters": YARN}
EXPERTS: dict[str, Callable[[], hf.PreTrainedModel]] = {
    "mixtral": lambda: hf.MixtralForCausalLM(hf.MixtralConfig(**MIXTRAL)),
    "qwen3-moe": lambda: hf.Qwen3MoeForCausalLM(hf.Qwen3MoeConfig(**QWEN3_MOE)),
    "olmoe": lambda: hf.OlmoeForCausalLM(hf.OlmoeConfig(**OLMOE)),
    "qwen2-moe": lambda: hf.Qwen2MoeForCausalLM(hf.Qwen2MoeConfig(**QWEN2_MOE)),
    "flex-olmo": lambda: hf.FlexOlmoForCausalLM(hf.FlexOlmoConfig(**OLMOE)),
    "granite-moe": lambda: hf.GraniteMoeForCausalLM(hf.GraniteMoeConfig(**GRANITE_MOE)),
    "gpt-oss": lambda: hf.GptOssForCausalLM(hf.GptOssConfig(**GPT_OSS)),
}
"""Mixtures, whose neurons no hook reaches."""

VIT = {
    "hidden_size": 12,
    "num_attention_heads": 3,
    "num_hidden_layers": 3,
    "intermediate_size": 14,
    "image_size": 6,
    "patch_size": 2,
    "num_channels": 2,
    "num_labels": 15,
}
WIDE = VIT | {"image_size": (5, 8), "patch_size": (2, 4), "num_channels": 1, "qkv_bias": False}
"""Images that are not square, of which a line of pixels is in no patch."""
VISION: dict[str, Callable[[], hf.PreTrainedModel]] = {
    "vit": lambda: hf.ViTForImageClassification(hf.ViTConfig(**VIT)),
    "vit-wide": lambda: hf.ViTForImageClassification(hf.ViTConfig(**WIDE)),
    "deit": lambda: hf.DeiTForImageClassification(hf.DeiTConfig(**VIT | {"hidden_act": "relu"})),
    "vit-msn": lambda: hf.ViTMSNForImageClassification(hf.ViTMSNConfig(**VIT)),
}
"""Models that read images."""


def build(family: str) -> hf.PreTrainedModel:
    """A random model of a family; norms and biases are random too, else they hide mistakes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = (FAMILIES | TWO_STACKS | EXPERTS | VISION)[family]().eval()
        for parameter in model.parameters():
            noise = 0.1 * torch.randn_like(parameter)
            if parameter.requires_grad:  # sinusoids are made anew when they are loaded
                parameter.data += noise
        if family in ("t5-gated", "mt5"):  # which do not scale what enters their head
            model.lm_head.weight.data *= T5["d_model"] ** -0.5  # tied to the embedding
        if hasattr(model, "final_logits_bias"):  # a buffer, which Marian's have learned
            model.final_logits_bias += torch.randn_like(model.final_logits_bias)
    return model


def word_tokenizer(*, adds_bos: bool) -> hf.PreTrainedTokenizerFast:
    """Words with their leading space are tokens; the beginning-of-sequence token has id 0."""
    vocab = {word: i for i, word in enumerate(WORDS)}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    return hf.PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", unk_token="<unk>")
