"""The architectures that replay has, and how they differ where none of their modules says it."""

FAMILIES = (
    "GPT2LMHeadModel",
    "GPTNeoXForCausalLM",
    "GPTJForCausalLM",
    "CodeGenForCausalLM",
    "OPTForCausalLM",
    "PhiForCausalLM",
    "StableLmForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "Olmo2ForCausalLM",
    "GPTBigCodeForCausalLM",
    "GPTNeoForCausalLM",
    "BloomForCausalLM",
    "MptForCausalLM",
    "FalconForCausalLM",
    "GemmaForCausalLM",
    "GraniteForCausalLM",
    "CohereForCausalLM",
    "Cohere2ForCausalLM",
    "Phi3ForCausalLM",
    "OlmoForCausalLM",
    "Olmo3ForCausalLM",
    "SmolLM3ForCausalLM",
    "Starcoder2ForCausalLM",
    "GlmForCausalLM",
    "Glm4ForCausalLM",
    "Ernie4_5ForCausalLM",
    "NemotronForCausalLM",
    "ArceeForCausalLM",
    "SeedOssForCausalLM",
    "Exaone4ForCausalLM",
    "MixtralForCausalLM",
    "Qwen3MoeForCausalLM",
    "Qwen2MoeForCausalLM",
    "OlmoeForCausalLM",
    "FlexOlmoForCausalLM",
    "GraniteMoeForCausalLM",
    "GptOssForCausalLM",
    "RobertaForMaskedLM",
    "XLMRobertaForMaskedLM",
    "CamembertForMaskedLM",
    "DistilBertForMaskedLM",
    "BertForMaskedLM",
    "BertModel",
    "ViTForImageClassification",
    "DeiTForImageClassification",
    "ViTMSNForImageClassification",
    "NativeModel",
)
"""Architectures whose forward pass replay reproduces; each is verified against the bridge."""

UNKNOWN = (
    *("qk_layernorm", "_remove_final_layer_norm", "use_qk_norm", "clip_qkv"),
    *("apply_residual_connection_post_layernorm", "mlp_only_layers"),
)
"""Options of these families' configs that replay does not have; refused when they are set."""

ROBERTAS = ("RobertaForMaskedLM", "XLMRobertaForMaskedLM", "CamembertForMaskedLM")
"""Those whose padding has no place of its own, and whose head's activation is GELU."""
LOCAL = "sliding_attention"
WINDOWED = ("MistralForCausalLM", "Phi3ForCausalLM", "Starcoder2ForCausalLM")
"""Architectures in which every layer has the config's window."""
STILL = ("Cohere2ForCausalLM", "Exaone4ForCausalLM")
"""Those that turn queries and keys only where they have a window, if any layer has one."""
CENTRED = ("CohereLayerNorm", "Cohere2LayerNorm", "OlmoLayerNorm")
"""Norms that are LayerNorm, and not torch's."""
SINUSOIDAL = ("GPTJForCausalLM", "CodeGenForCausalLM")
"""Those whose attention layers hold a table of sines and cosines each."""
ADJACENT = (
    *(*SINUSOIDAL, "NativeModel", "CohereForCausalLM", "Cohere2ForCausalLM"),
    *("GlmForCausalLM", "Glm4ForCausalLM", "Ernie4_5ForCausalLM"),
)
"""Architectures whose rotary pairs are the features (i, i + 1)."""
HALVED = ("GlmForCausalLM", "Glm4ForCausalLM", "Ernie4_5ForCausalLM")
"""Those of them whose module makes angles for the pairs (i, i + d/2), of which they take half."""

ONCE = ("GptOssForCausalLM",)
"""Those whose module makes one angle for a pair (i, i + d/2), where others make two."""

BY_KIND = ("Gemma3ForCausalLM", "Olmo3ForCausalLM")
"""Those that have a rotation for each kind of layer."""
