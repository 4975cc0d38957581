"""Encoder-decoders of BART's kin whose stacks differ in depth, as distilled ones do.

TransformerLens wraps them where both stacks have as many layers; but for that check its adapters
take either number, and `facts` count the layers that are there.
"""

from transformer_lens.factories.architecture_adapter_factory import (
    SUPPORTED_ARCHITECTURES,
    ArchitectureAdapterFactory,
)
from transformer_lens.model_bridge.supported_architectures.bart import BartFamilyArchitectureAdapter

for _name, _adapter in SUPPORTED_ARCHITECTURES.items():
    if issubclass(_adapter, BartFamilyArchitectureAdapter) and _adapter.require_symmetric_layers:
        _own = {"require_symmetric_layers": False, "n_layers_from": "decoder"}
        ArchitectureAdapterFactory.register_adapter(
            _name, type(_adapter.__name__, (_adapter,), _own)
        )
