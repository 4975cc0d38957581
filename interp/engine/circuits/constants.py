"""Constants that stand in the place of what is ablated, one vector for each writer."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.door.door import door
from interp.core.errors import Unsupported
from interp.core.files.identity import tensor_identity
from interp.core.parts.sites import Site
from interp.core.tables.saved import Saved
from interp.engine.network.ablated import Ablated
from interp.models.model import Model


@dataclass(frozen=True, eq=False)
class Constants(Saved):
    """The same at every position of every prompt (Li & Janson 2024, sec. 2.2).

    Attributes:
        embed: what the embedding is set to.
        z: what each head's output is set to, before the output projection.
        mlp_out: what each MLP writes.
        model: weight hash of the model.
    """

    embed: Float[Tensor, " d_model"]
    z: Float[Tensor, "layer head d_head"]
    mlp_out: Float[Tensor, "layer d_model"]
    model: str

    @property
    def fingerprint(self) -> str:
        """Hash of the numbers."""
        return " ".join(tensor_identity(x) for x in (self.embed, self.z, self.mlp_out))

    def require(self, model: Model) -> None:
        """Refuse another model's.

        Raises:
            Unsupported: with both weight hashes.
        """
        if self.model != model.weight_hash:
            raise Unsupported(
                f"the constants were fitted on a model with weights {self.model[:12]}, and "
                f"{model.name} has {model.weight_hash[:12]}. Fit them on this one."
            )

    def at(self, writer: Site) -> Tensor:
        """The vector of one writer."""
        if writer.kind == "embed":
            return self.embed
        if writer.kind == "z":
            return self.z[writer.layer or 0, writer.head or 0]
        return self.mlp_out[writer.layer or 0]

    def ablated(self, like: Tensor) -> Ablated:
        """As the masked pass takes them."""
        embed, z, mlp_out = (x.to(like) for x in (self.embed, self.z, self.mlp_out))
        return Ablated(
            embed[None, None],
            tuple(x[None, None] for x in z.unbind(0)),
            tuple(x[None, None] for x in mlp_out.unbind(0)),
        )

    @classmethod
    @door
    def zeros(cls, model: Model) -> "Constants":
        """Where fitting starts when there is nothing better."""
        facts = model.facts
        like = torch.zeros(0, dtype=model.dtype, device=model.device)
        return cls(
            like.new_zeros(facts.d_model),
            like.new_zeros(facts.n_layers, facts.n_heads, facts.d_head),
            like.new_zeros(facts.n_layers, facts.d_model),
            model.weight_hash,
        )
