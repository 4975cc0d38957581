"""The one door to TransformerLens' FactoredMatrix: a product of two matrices, never formed.

`FactoredMatrix(A, B)` stands for A @ B, whose inner width is small. `svd()` gives (U, S, V) with
A @ B = U diag(S) V^T, `eigenvalues` are those of the small product B @ A, `norm()` is Frobenius'.
"""

from transformer_lens import FactoredMatrix

__all__ = ["FactoredMatrix"]
