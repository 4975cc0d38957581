"""What stands in the place of each writer's value where it is ablated."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.parts.facts import Facts
from interp.core.parts.sites import Site, Stack
from interp.engine.network.trace import Trace


@dataclass(frozen=True, eq=False)
class Ablated:
    """Of the embedding and of MLPs what they write, of heads z; layer by layer.

    Of one of two stacks what enters it, and of a decoder the heads of its cross-attention too.
    """

    embed: Float[Tensor, "#batch #pos d_model"]
    z: tuple[Float[Tensor, "#batch #pos head d_head"], ...]
    mlp_out: tuple[Float[Tensor, "#batch #pos d_model"], ...]
    cross: tuple[Float[Tensor, "#batch #pos head d_head"], ...] = ()

    def heads(self, layer: int) -> tuple[Float[Tensor, "#batch #pos head d_head"], ...]:
        """Of each attention of a layer."""
        return (self.z[layer], *((self.cross[layer],) if self.cross else ()))

    @classmethod
    def of_run(cls, embed: Float[Tensor, "batch pos d_model"], run: Trace) -> "Ablated":
        """The values of another run, with what its embedding writes."""
        return cls(embed, run.kept["z"], run.kept["mlp_out"], run.kept.get("cross.z", ()))

    @classmethod
    def zeros(
        cls, facts: Facts, like: Float[Tensor, "batch pos d_model"], *, crosses: bool = False
    ) -> "Ablated":
        z = like.new_zeros(*like.shape[:2], facts.n_heads, facts.d_head)
        none, n = torch.zeros_like(like), facts.n_layers
        return cls(
            none, (z,) * n, (none,) * (n if facts.d_mlp else 0), (z,) * (n if crosses else 0)
        )

    @classmethod
    def at_each(
        cls, facts: Facts, at: Callable[[Site], Tensor], *, stack: Stack | None = None
    ) -> "Ablated":
        """What a function says of each writer (of a stack)."""
        layers, heads = range(facts.n_layers), range(facts.n_heads)

        def of_heads(*, cross: bool) -> tuple[Tensor, ...]:
            make = partial(Site, "z", stack=stack, cross=cross)
            return tuple(torch.stack([at(make(n, head=h)) for h in heads], 2) for n in layers)

        return cls(
            at(Site("embed") if stack is None else Site("resid_pre", 0, stack=stack)),
            of_heads(cross=False),
            tuple(at(Site("mlp_out", n, stack=stack)) for n in layers if facts.d_mlp),
            of_heads(cross=True) if stack == "dec" else (),
        )
