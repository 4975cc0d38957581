"""The structural probe: is the syntax tree in the geometry of a layer?

||B (h_i - h_j)||^2 is made to be the number of edges between words i and j (Hewitt & Manning 2019,
N19-1419, sec. 3.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from interp.core.door.door import door
from interp.core.door.taken import Count, Seed
from interp.core.errors import ProbeError
from interp.core.parts.sites import Site
from interp.probing.ask.trees import Trees
from interp.probing.fit.moments import Moments, Norm
from interp.probing.fit.nets.adam import Parameters
from interp.probing.fit.nets.examples import require_finite, require_names
from interp.probing.fit.nets.training import AT_ONCE, Schedule, Trained, initial, train

SENTENCES = Schedule(batch=20, improvement=1e-4)
"""As in their code, but for the learning rate: halved where they take a tenth."""


@dataclass(frozen=True, eq=False, repr=False)
class DistanceProbe:
    """A projection for each site.

    Attributes:
        sites: names.
        moments: by which activations are standardised before B; its scale is part of the metric.
        trained: `parameters["B"]`: `site d rank`; and how the training of each went.
    """

    sites: tuple[str, ...]
    moments: Moments
    trained: Trained

    @door
    @torch.no_grad()
    def distances(
        self, x: Float[Tensor, "site word d"], trees: Trees
    ) -> list[Float[ndarray, "site _ _"]]:
        """Predicted distances within each sentence, for `judge`.

        Raises:
            ProbeError: other sites, or words that do not fit the trees.
        """
        self.moments.require(x)
        _require(x, trees, self.sites)
        every, found = torch.arange(len(x)), []
        for batch in torch.arange(len(trees)).split(SENTENCES.batch):
            place, _ = _places(trees, batch, x.device)
            parts = [
                _predict({"B": self.trained.parameters["B"][which]}, self.moments, which, x, place)
                for which in every.split(AT_ONCE)
            ]
            padded = torch.cat(parts).cpu().numpy()
            lengths = trees.lengths[batch.numpy()]
            found += [padded[:, i, :n, :n] for i, n in enumerate(lengths)]
        return found

    def __repr__(self) -> str:
        done, rank = int(self.trained.converged.sum()), self.trained.parameters["B"].shape[2]
        return (
            f"DistanceProbe of rank {rank}: {len(self.sites)} sites ({self.sites[0]} to "
            f"{self.sites[-1]}); {done} converged"
        )


@door
def fit_distance(
    x: Float[Tensor, "site word d"],
    trees: Trees,
    dev_x: Float[Tensor, "dev_site dev_word dev_d"],
    dev_trees: Trees,
    *,
    rank: Count = 64,
    sites: Sequence[Site | str] | None = None,
    norm: Norm = "rms",
    schedule: Schedule = SENTENCES,
    seed: Seed = 0,
) -> DistanceProbe:
    """Train a distance probe for each site, all together.

    The loss of a sentence of n words is sum_ij |d_ij - ||B (h_i - h_j)||^2| / n^2.

    Args:
        x: activations of the words of `trees`, in their order.
        trees: of the training sentences.
        dev_x, dev_trees: of the sentences that training is stopped on.
        sites: names of the sites, which their initial parameters are drawn by; numbers by default.
        rank: rows of B; more than 64 hardly helps (their Fig. 5).
        norm: by default each word is divided by its root mean square, since the published probe
            read what a LayerNorm had put out; in a pre-norm model's own geometry a few long words
            (`moments`) are farther from all others than any tree is deep.
        schedule: its batch counts sentences.
        seed: of the initial parameters and of the order of the sentences.

    Returns:
        Probes, those that did not converge flagged in `trained.converged` and logged.

    Raises:
        ProbeError: words that do not fit the trees, or activations that are not finite.
    """
    named = tuple(map(str, range(len(x)) if sites is None else sites))
    require_names(named, "sites", len(x))
    for part, given in ((x, trees), (dev_x, dev_trees)):
        _require(part, given, named)
    moments = Moments.of(x, norm=norm)
    moments.require(dev_x)
    # two words then start about two edges apart
    bound = (3 / (x.shape[2] * rank)) ** 0.5

    def of_one(generator: torch.Generator) -> dict[str, Tensor]:
        return {"B": torch.empty(x.shape[2], rank).uniform_(-bound, bound, generator=generator)}

    def loss_on(x: Tensor, trees: Trees):
        def loss(
            parameters: Parameters, site: Int[Tensor, " fit"], batch: Int[Tensor, " batch"]
        ) -> Float[Tensor, "fit batch"]:
            place, lengths = _places(trees, batch, x.device)
            found = _predict(parameters, moments, site, x, place)
            gold = found.new_zeros(found.shape[1:])
            for i, sentence in enumerate(batch.tolist()):
                n = trees.lengths[sentence]
                gold[i, :n, :n] = torch.from_numpy(trees.distances[sentence])
            inside = torch.arange(found.shape[-1], device=x.device) < lengths[:, None]
            both = inside[:, :, None] & inside[:, None]
            return ((found - gold).abs() * both).sum((2, 3)) / lengths.square()

        return loss

    start = {key: part.to(moments.mean) for key, part in initial(named, seed, of_one).items()}
    trained = train(
        *(loss_on(x, trees), start),
        examples=len(trees),
        dev_loss=loss_on(dev_x, dev_trees),
        dev_examples=len(dev_trees),
        names=named,
        schedule=schedule,
        seed=seed,
    )
    return DistanceProbe(named, moments, trained)


def _places(
    trees: Trees, batch: Int[Tensor, " batch"], device: torch.device
) -> tuple[Int[Tensor, "batch longest"], Int[Tensor, " batch"]]:
    """The words of some sentences, padded with their first, and how many there are."""
    starts, lengths = trees.starts[batch.numpy()], trees.lengths[batch.numpy()]
    steps = np.arange(lengths.max())
    place = starts[:, None] + np.where(steps < lengths[:, None], steps, 0)
    return torch.from_numpy(place).to(device), torch.from_numpy(lengths).to(device)


def _predict(
    parameters: Parameters,
    moments: Moments,
    site: Int[Tensor, " fit"],
    x: Float[Tensor, "site word d"],
    place: Int[Tensor, "batch longest"],
) -> Float[Tensor, "fit batch longest longest"]:
    """||B (h_i - h_j)||^2 = |a_i|^2 + |a_j|^2 - 2 a_i a_j."""
    words, where = place.unique(return_inverse=True)
    a = (moments.read(x, site.to(x.device), words) @ parameters["B"])[:, where]
    square = a.square().sum(-1)
    found = square[..., :, None] + square[..., None, :] - 2 * a @ a.mT
    return found.clamp_min(0)


def _require(x: Float[Tensor, "site word d"], trees: Trees, sites: Sequence[str]) -> None:
    if not x.numel() or x.shape[1] != trees.lengths.sum() or not len(trees):
        raise ProbeError(
            f"{x.shape[1]} words have activations, and the {len(trees)} trees have "
            f"{trees.lengths.sum()} words; give the words of the trees, in their order."
        )
    require_finite(x, torch.arange(x.shape[1]), sites)
