"""The only door to transformer_lens and transformers.

`load` finds a model by a shipped name, a folder or a hub id and returns a `Model`: the bridge with
its facts, its tokenizer and the outcome of the numerical checks that the methods rely on.
`untrained` gives the same architecture with random weights.
"""

from interp.models.load import load, untrained
from interp.models.model import Model

__all__ = ["Model", "load", "untrained"]
