"""What stands in the place of each writer's value where it is ablated."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.parts.facts import Facts
from interp.core.parts.sites import Site
from interp.engine.network.trace import Trace


@dataclass(frozen=True, eq=False)
class Ablated:
    """Of the embedding and of MLPs what they write, of heads z; layer by layer."""

    embed: Float[Tensor, "#batch #pos d_model"]
    z: tuple[Float[Tensor, "#batch #pos head d_head"], ...]
    mlp_out: tuple[Float[Tensor, "#batch #pos d_model"], ...]

    @classmethod
    def of_run(cls, embed: Float[Tensor, "batch pos d_model"], run: Trace) -> "Ablated":
        """The values of another run, with what its embedding writes."""
        return cls(embed, run.kept["z"], run.kept["mlp_out"])

    @classmethod
    def zeros(cls, facts: Facts, like: Float[Tensor, "batch pos d_model"]) -> "Ablated":
        z = like.new_zeros(*like.shape[:2], facts.n_heads, facts.d_head)
        none, n = torch.zeros_like(like), facts.n_layers
        return cls(none, (z,) * n, (none,) * (n if facts.d_mlp else 0))

    @classmethod
    def at_each(cls, facts: Facts, at: Callable[[Site], Tensor]) -> "Ablated":
        """What a function says of each writer."""
        layers, heads = range(facts.n_layers), range(facts.n_heads)
        return cls(
            at(Site("embed")),
            tuple(torch.stack([at(Site("z", n, head=h)) for h in heads], 2) for n in layers),
            tuple(at(Site("mlp_out", n)) for n in layers if facts.d_mlp),
        )
