"""What wrapping moves from one part of a model into another, and putting it back."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def unfolded(module: nn.Module) -> Iterator[None]:
    """The bias of the logits stays where the model has it, whatever is wrapped inside of the block.

    TransformerLens adds the buffer `final_logits_bias` of BART's relatives to its unembedding's
    bias and zeroes it: the same sum, but Hugging Face's model is then without it.
    """
    held = getattr(module, "final_logits_bias", None)
    before = held.clone() if isinstance(held, Tensor) else None
    yield
    if before is None or not isinstance(held, Tensor) or torch.equal(held, before):
        return
    with torch.no_grad():
        bias = module.lm_head.bias
        bias.sub_(before.flatten().to(bias))
        held.copy_(before)
