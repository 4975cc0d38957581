"""Encoders that TransformerLens has no adapter of, wrapped as it wraps BERT and RoBERTa.

XLM-RoBERTa and CamemBERT are RoBERTa under other names. DistilBERT is BERT without segments and
without a pooler, and names its parts otherwise.
"""

from typing import Any

from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
from transformer_lens.model_bridge.generalized_components import (
    AttentionBridge,
    BlockBridge,
    EmbeddingBridge,
    LinearBridge,
    MLPBridge,
    NormalizationBridge,
    PosEmbedBridge,
    UnembeddingBridge,
)
from transformer_lens.model_bridge.supported_architectures.bert import BertArchitectureAdapter
from transformer_lens.model_bridge.supported_architectures.roberta import (
    RobertaArchitectureAdapter,
)

BY_TYPE = {
    "roberta": "RobertaForMaskedLM",
    "xlm-roberta": "XLMRobertaForMaskedLM",
    "camembert": "CamembertForMaskedLM",
    "distilbert": "DistilBertForMaskedLM",
}
"""By the type that a config names, the class with a language-model head."""


class DistilBert(BertArchitectureAdapter):
    """BERT's layers under the names of DistilBERT."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        # LayerNorm of transformers' own, whose rounding is part of what it computes
        norm = {"config": self.cfg, "use_native_layernorm_autograd": True}
        self.component_mapping = {
            "embed": EmbeddingBridge(name="distilbert.embeddings.word_embeddings"),
            "pos_embed": PosEmbedBridge(name="distilbert.embeddings.position_embeddings"),
            "embed_ln": NormalizationBridge(name="distilbert.embeddings.LayerNorm", **norm),
            "blocks": BlockBridge(
                name="distilbert.transformer.layer",
                submodules={
                    "ln1": NormalizationBridge(name="sa_layer_norm", **norm),
                    "ln2": NormalizationBridge(name="output_layer_norm", **norm),
                    "attn": AttentionBridge(
                        name="attention",
                        config=self.cfg,
                        submodules={
                            "q": LinearBridge(name="q_lin"),
                            "k": LinearBridge(name="k_lin"),
                            "v": LinearBridge(name="v_lin"),
                            "o": LinearBridge(name="out_lin"),
                        },
                    ),
                    "mlp": MLPBridge(
                        name="ffn",
                        config=self.cfg,
                        submodules={
                            "in": LinearBridge(name="lin1"),
                            "out": LinearBridge(name="lin2"),
                        },
                    ),
                },
            ),
            "mlm_head": LinearBridge(name="vocab_transform"),
            "unembed": UnembeddingBridge(name="vocab_projector"),
            "ln_final": NormalizationBridge(name="vocab_layer_norm", **norm),
        }


OWN = {
    "XLMRobertaForMaskedLM": RobertaArchitectureAdapter,
    "CamembertForMaskedLM": RobertaArchitectureAdapter,
    "DistilBertForMaskedLM": DistilBert,
}
for _name, _adapter in OWN.items():
    ArchitectureAdapterFactory.register_adapter(_name, _adapter)
