"""Reading a mixture of experts from its module: who chooses, and where gate and up lie."""

from typing import Any, cast

from torch import Tensor, nn

from interp.engine.network.experts import Each, Joined, Mixture, Router
from interp.engine.network.linear import Linear
from interp.engine.network.places import inner
from interp.models.bridge.activations import Activation


def mixture_of(module: Any, curve: Activation, gain: float) -> Mixture | None:
    """The experts of a layer and their router; None of a dense MLP.

    Args:
        curve: the activation that the model's config names.
        gain: what the mixture's output is multiplied by.
    """
    experts = getattr(module, "experts", None)
    if experts is None:
        return None
    router = inner(module.gate if hasattr(module, "gate") else module.router)
    if type(experts).__name__ == "GptOssExperts":
        return _gpt_oss(router, experts)
    late = type(router).__name__ == "GraniteMoeTopKRouter"
    whole = getattr(router, "norm_topk_prob", True)  # Mixtral has no other
    choice = Router(router.weight, router.top_k, whole, late=late)
    shared, opens = [None, None, None], None
    if (one := getattr(module, "shared_expert", None)) is not None:
        opens = _plain(module.shared_expert_gate)
        names = ("gate_proj", "up_proj", "down_proj")
        shared = [_plain(getattr(inner(one), name)) for name in names]
    halves = experts.gate_up_proj.chunk(2, 1)
    gate, up = (Each(half, shared=own) for half, own in zip(halves, shared[:2], strict=True))
    down = Joined(experts.down_proj, shared=shared[2], gain=gain)
    return Mixture(choice, gate, up, down, curve, opens=opens)


def _gpt_oss(router: Any, experts: Any) -> Mixture:
    """gpt-oss's, which has biases, in and out exchanged, gate and up in turns, and both clamped."""
    gate, up = (
        Each(experts.gate_up_proj[..., i::2].transpose(1, 2), experts.gate_up_proj_bias[:, i::2])
        for i in (0, 1)
    )

    def curve(x: Tensor) -> Tensor:
        x = x.clamp(max=experts.limit)
        return x * (experts.alpha * x).sigmoid()

    def lift(x: Tensor) -> Tensor:
        return x.clamp(-experts.limit, experts.limit) + 1

    choice = Router(router.weight, router.top_k, whole=True, bias=router.bias, late=True)
    down = Joined(experts.down_proj.transpose(1, 2), experts.down_proj_bias)
    return Mixture(choice, gate, up, down, curve, lift)


def _plain(component: nn.Module) -> Linear:
    """A map that is kept as a matrix."""
    return Linear(cast(nn.Linear, inner(component)).weight, None)
