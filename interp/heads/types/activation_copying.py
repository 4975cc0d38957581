"""Does a head raise the tokens that it attends to? (Olsson et al. 2022, copying score)

What a head adds to the logits by the direct path is read at the tokens of the row alone, and the
mean over the vocabulary is taken off by taking it off the unembedding: so no logits of the whole
vocabulary are ever made.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.errors import Unsupported
from interp.engine.engines.choose import weights_of
from interp.engine.network.weights import Norm, Weights
from interp.heads.types.detectors import summed_in, uniform
from interp.models.model import Model
from interp.models.small import native

COPYING = "copying"
"""The word in the `metric` column."""


@dataclass(frozen=True, eq=False)
class Raised:
    """What the tokens of some rows read of the residual stream before its last norm.

    Attributes:
        directions: of each distinct token that stands in a row after its first position, padded
            with zeros, which nothing raises.
        place: 1 where that token stands.
        even: what uniform attention puts on it.
    """

    directions: Float[Tensor, "row token d_model"]
    place: Float[Tensor, "row token pos"]
    even: Float[Tensor, "row destination token"]


@dataclass(frozen=True, eq=False)
class Directions:
    """The unembedding with the last norm's weight folded in and its vocabulary mean taken off."""

    weights: Weights
    norm: Norm | None
    mean: Float[Tensor, " d_model"]

    @classmethod
    def of(cls, model: Model) -> "Directions":
        """Of a model in which heads add to the logits by a direct path.

        Raises:
            Unsupported: no unembedding, or a norm or a transform between a head's output and it.
        """
        facts = model.facts
        if not facts.language_model:
            raise Unsupported(
                f"{model.name} has no trained unembedding, so no head raises a token. ({facts})"
            )
        w = weights_of(_unsmeared(model))
        ends = [e for block in w.blocks for e in (block.attention.ends, block.mlp.ends)]
        normed = any(e.write is not None or e.sum is not None for e in ends)
        if w.unembed is None or w.unembed.transform is not None or normed:
            raise Unsupported(
                f"what a head of {facts.architecture} writes is normed or transformed together "
                "with all else before it reaches the logits, so it has no direct path of its own. "
                "Patch the head's path instead: path_patch(..., through='direct')."
            )
        for block in w.blocks:
            block.attention.o.require_additive("no head adds a part of its own to the output")
        return cls(w, w.unembed.norm, w.unembed.linear.weight.mean(0, dtype=summed_in(model.dtype)))

    def read(self, tokens: Int[Tensor, "row pos"]) -> Raised:
        """The directions of the distinct tokens after the first position of each row."""
        distinct = [row[1:].unique() for row in tokens]
        ids = torch.nn.utils.rnn.pad_sequence(distinct, batch_first=True, padding_value=-1)
        place = (ids[:, :, None] == tokens[:, None, :]).to(self.mean.dtype)
        assert self.weights.unembed is not None
        table = self.weights.unembed.linear.weight
        found = self.scaled(table.index_select(0, ids.clamp(min=0).flatten()) - self.mean)
        found = found.view(*ids.shape, -1) * (ids >= 0)[..., None]
        even = uniform(tokens.shape[1], causal=self.weights.facts.causal).to(place)
        return Raised(found, place, torch.einsum("ds,rts->rdt", even, place))

    def scaled(self, directions: Float[Tensor, "some d_model"]) -> Float[Tensor, "some d_model"]:
        """Through the norm's weight, and through what LayerNorm takes off: the mean of features."""
        if self.norm is None:
            return directions
        directions = directions * (_exact(self.norm.weight) + self.norm.offset)
        if self.norm.kind == "rms":
            return directions
        return directions - directions.mean(-1, keepdim=True)

    def scale(self, final: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "row pos"]:
        """What the last norm multiplies each position by."""
        final = _exact(final)
        if self.norm is None:
            return final.new_ones(final.shape[:2])
        if self.norm.kind == "layer":
            final = final - final.mean(-1, keepdim=True)
        return (final.square().mean(-1) + self.norm.eps).rsqrt()


def raised(
    unembedding: Directions,
    reading: Raised,
    layer: int,
    pattern: Float[Tensor, "row destination head source"],
    z: Float[Tensor, "row destination head d_head"],
) -> Float[Tensor, "3 row destination head"]:
    """How much the heads of a layer raise the row's tokens above the mean, before the norm's scale.

    Returns:
        The raise of each token times the attention on it, summed over tokens; the same with uniform
        attention; and the raise of all tokens.
    """
    o = _exact(unembedding.weights.blocks[layer].attention.o.summands())
    heads = (reading.directions @ o).unflatten(-1, z.shape[-2:])  # row token head d_head
    mass = torch.einsum("rdhe,rthe->rdht", _exact(z), heads).relu_()
    on_token = torch.einsum("rdhs,rts->rdht", _exact(pattern), reading.place)
    at_random = reading.even[:, :, None]
    return torch.stack([(mass * on_token).sum(-1), (mass * at_random).sum(-1), mass.sum(-1)])


def copying(
    parts: Float[Tensor, "3 row layer destination head"], scale: Float[Tensor, "row pos"]
) -> Float[Tensor, "2 row layer head"]:
    """The score and its null, from what all layers raised and the scale of the last norm.

    With a the raise of the attended-to tokens and m that of all tokens of the row, both summed over
    the destinations but the first, a / (a + m) is 0 to 0.5; the score is 4 a / (a + m) - 1. It is 1
    for a head that raises what it attends to and nothing else, -1 for one that never raises what
    it attends to, or raises none of the row's tokens at all. The null has uniform attention in the
    place of the head's: the mean over all ways of permuting what each destination attends to.
    """
    attended, at_random, all_ = torch.einsum("nrldh,rd->nrlh", parts[..., 1:, :], scale[:, 1:])
    both = torch.stack([attended, at_random])
    total = both + all_
    return torch.where(total > 0, 4 * both / total.clamp(min=torch.finfo(total.dtype).tiny), 0) - 1


class Copied:
    """The copying scores of the rows of one forward, put together layer by layer."""

    def __init__(self, unembedding: Directions, tokens: Int[Tensor, "row pos"]) -> None:
        self.unembedding, self.reading = unembedding, unembedding.read(tokens)
        self.parts: dict[int, Tensor] = {}
        self.held: dict[str, Tensor] = {}
        self.final: Tensor | None = None

    def see(self, shelf: str, layer: int, activation: Tensor) -> None:
        activation = activation.to(self.reading.place.device)
        if shelf in ("pattern", "z"):  # which of a layer's comes first depends on the architecture
            self.held[shelf] = activation
            if len(self.held) == 2:
                both = (self.held.pop(kind) for kind in ("pattern", "z"))
                self.parts[layer] = raised(self.unembedding, self.reading, layer, *both)
        elif shelf == "resid_post" and layer + 1 == self.unembedding.weights.facts.n_layers:
            self.final = activation.clone()

    def found(self) -> Float[Tensor, "2 1 layer head row"]:
        assert self.final is not None
        scale = self.unembedding.scale(self.final)
        scores = copying(torch.stack([self.parts[i] for i in sorted(self.parts)], 2), scale)
        return scores.permute(0, 2, 3, 1)[:, None]


def _unsmeared(model: Model) -> Model:
    """The same model with plain keys: only patterns need them, and replay has no smeared ones."""
    now = model.now()
    plain = model.facts.architecture != "NativeModel" or not native.shape_of(model).smear
    if plain or now.foreign or now.changed:  # weights_of then says why not
        return model
    return native.build(
        replace(native.shape_of(model), smear=False),
        name=model.name,
        state={k: v for k, v in native.state_of(model).items() if not k.endswith(".alpha")},
        dtype=model.dtype,
        device=model.device,
    )


def _exact(x: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    return x.to(summed_in(x.dtype))
