"""The only door to transformer_lens and transformers.

`load` finds a model by a shipped name, a folder or a hub id, or takes one from memory, merges
adapters into it, and returns a `Model`: the bridge with its facts, its tokenizer and the outcome of
the numerical checks that the methods rely on. `path` says where it is read from. `untrained` gives
the same architecture with random weights, `shape_of` one without any, for `interp.explain`.

Small models to be understood whole: `native.build` makes one from its `Shape`, `toy.train` trains
one, `toy.digits` one that reads images, `compiled` has five that were written by hand with their
true circuits, and `recurrent.build_recurrent` makes an LSTM behind the same `Model` (`width_for`:
of equal size).
"""

from interp.models import quiet as quiet  # first: it holds TransformerLens' import in check
from interp.models.load import load, path, untrained
from interp.models.model import Model
from interp.models.shape import shape_of

__all__ = ["Model", "load", "path", "shape_of", "untrained"]
