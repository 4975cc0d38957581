"""What a norm does to gradients, and to small changes."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import grad

from interp.engine.network import forward
from interp.engine.network.weights import Norm


def pulled(
    x: Float[Tensor, "batch pos d_model"],
    p: Norm | None,
    g: Float[Tensor, "batch several pos d_model"],
) -> Float[Tensor, "batch several pos d_model"]:
    """Gradients at a norm's output, taken back to its input x: J^T g, for several at once."""
    if p is None:
        return g.to(x.dtype)
    with torch.enable_grad():
        each = x.detach()[:, None].expand(g.shape).requires_grad_()
        normed = forward.norm(each, p)
        (found,) = grad(normed, each, g.to(normed.dtype))
    return found


def pushed(
    x: Float[Tensor, "batch pos d_model"],
    p: Norm | None,
    change: Float[Tensor, "batch several pos d_model"],
) -> Float[Tensor, "batch several pos d_model"]:
    """Small changes of a norm's input x, as its output changes by them: J change.

    Without its weight a norm has a symmetric Jacobian, so this is the gradient's way, and then the
    weight.
    """
    if p is None:
        return change
    plain = replace(p, weight=torch.ones_like(p.weight), bias=None, offset=0.0)
    weight = forward.wide(p.weight) + p.offset
    return pulled(x, plain, change) * weight
