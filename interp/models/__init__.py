"""The only door to transformer_lens and transformers.

`load` finds a model by a shipped name, a folder or a hub id and returns a `Model`: the bridge with
its facts, its tokenizer and the outcome of the numerical checks that the methods rely on.
`untrained` gives the same architecture with random weights, `shape_of` one without any, for
`interp.explain`.

Small models to be understood whole: `native.build` makes one from its `Shape`, `toy.train` trains
one, `compiled` has five that were written by hand with their true circuits, and
`recurrent.build_recurrent` makes an LSTM behind the same `Model` (`width_for`: of equal size).
"""

from interp.models import quiet as quiet  # first: it holds TransformerLens' import in check
from interp.models.load import load, untrained
from interp.models.model import Model
from interp.models.shape import shape_of

__all__ = ["Model", "load", "shape_of", "untrained"]
