"""Trained probes: a network fitted to every site and problem, stopped on a development split."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.core.door.door import door
from interp.core.door.taken import Count, Seed
from interp.core.errors import ProbeError
from interp.core.parts.sites import Site
from interp.probing.fit.moments import Moments, Norm
from interp.probing.fit.nets import mixing
from interp.probing.fit.nets.adam import Parameters
from interp.probing.fit.nets.examples import (
    Examples,
    require_examples,
    require_finite,
    require_rows,
)
from interp.probing.fit.nets.nets import Net, Read
from interp.probing.fit.nets.training import AT_ONCE, PUBLISHED, Schedule, Trained, initial, train

Source = Literal["site", "cumulative"]
CHUNK = 1024
"""Examples scored at once."""


@dataclass(frozen=True, eq=False, repr=False)
class TrainedProbe:
    """A network for each site and problem.

    Attributes:
        net: what it is.
        sites, labels: names along the first two axes; of a cumulative probe, the last site that
            it mixes.
        source: `"site"`: each reads its own; `"cumulative"`: a scalar mix of the sites up to it.
        moments: by which each site's activations are standardised before a network reads them.
        trained: parameters, and how the training of each went; `problem` runs over sites, then
            labels.
    """

    net: Net
    sites: tuple[str, ...]
    labels: tuple[str, ...]
    source: Source
    moments: Moments
    trained: Trained

    @property
    def converged(self) -> Bool[Tensor, "site problem"]:
        """Training ended because the development loss improved no more."""
        return self.trained.converged.view(len(self.sites), len(self.labels))

    @property
    def weights(self) -> Float[Tensor, "site problem layer"]:
        """Shares of the layers in each cumulative probe's mix; the last site's is the full mix.

        Raises:
            ProbeError: probes that read one site.
        """
        if self.source != "cumulative":
            raise ProbeError("these probes read one site each; fit with source='cumulative'.")
        last = torch.arange(len(self.sites)).repeat_interleave(len(self.labels))
        found = mixing.weights(self.trained.parameters["mix"], last)
        return found.unflatten(0, (len(self.sites), len(self.labels)))

    @door
    @torch.no_grad()
    def log_probs(
        self, x: Float[Tensor, "site word d"], rows: Int[Tensor, "example column"] | None = None
    ) -> Float[Tensor, "site problem example class"]:
        """Log-probability of every class, nats.

        Args:
            rows: as in `Examples`; every word by itself if not given.

        Raises:
            ProbeError: other sites, or rows that the network cannot read.
        """
        rows = torch.arange(x.shape[1])[:, None] if rows is None else rows
        self.moments.require(x)
        require_rows(rows, self.net.columns, x.shape[1])
        require_finite(x, self.net.words(rows).unique(), self.sites)
        problems, found = len(self.labels), []
        for which in torch.arange(len(self.sites) * problems).split(AT_ONCE):
            own = {name: part[which] for name, part in self.trained.parameters.items()}
            read = _reader(self.source, self.moments, own, which // problems, x)
            parts = [
                self.net.logits(own, read, part.to(x.device)).log_softmax(-1)
                for part in rows.split(CHUNK)
            ]
            found.append(torch.cat(parts, dim=1))
        return torch.cat(found).unflatten(0, (len(self.sites), problems))

    def __repr__(self) -> str:
        done = int(self.converged.sum())
        return (
            f"TrainedProbe {self.net}: {len(self.sites)} sites ({self.sites[0]} to "
            f"{self.sites[-1]}, {self.source}), labels {', '.join(self.labels)}; "
            f"{done} of {self.converged.numel()} converged"
        )


@door
def fit_probe(
    net: Net,
    training: Examples,
    dev: Examples,
    *,
    classes: Count | None = None,
    sites: Sequence[Site | str] | None = None,
    labels: Sequence[str] | None = None,
    source: Source = "site",
    norm: Norm = "none",
    schedule: Schedule = PUBLISHED,
    seed: Seed = 0,
) -> TrainedProbe:
    """Train a network for each site and problem, all together.

    Activations are centred and scaled to variance 1 in each dimension first, by the training
    words: the same function class, but a step of Adam then means the same at every layer.

    Args:
        net: what is trained: Mlp(), Bilinear() or SpanClassifier().
        training, dev: of the same sites and problems, from different documents.
        classes: labels that there are; the largest that occurs and those below it by default.
        sites: names of the sites, which their initial parameters are drawn by; numbers by default.
        labels: names of the problems ("real", "control"); numbers by default. The same labels
            under several names are so many starts.
        source: `"cumulative"` trains, for each site, a probe of the scalar mix of the sites up to
            it (P^(l) of Tenney et al. 2019): give sites from the lowest layer to the highest.
        norm: `"rms"` divides each word by its root mean square before (`moments` says why).
        schedule: how the networks are trained.
        seed: of the initial parameters and of the order of the examples.

    Returns:
        Probes, those that did not converge flagged in `converged` and logged.

    Raises:
        ProbeError: examples that do not fit together or to the network, a problem with one class
            or with a class of one example, labels out of range, activations that are not finite.
    """
    x = training.x
    named = tuple(map(str, range(len(x)) if sites is None else sites))
    called = tuple(map(str, range(len(training.y)) if labels is None else labels))
    classes = require_examples(net, training, dev, named, called, classes)
    moments = Moments.of(x, net.words(training.rows).unique(), norm=norm)

    def of_one(generator: torch.Generator) -> dict[str, Tensor]:
        mix = mixing.start(len(x)) if source == "cumulative" else {}
        return net.start(x.shape[2], classes, generator) | mix

    names = [f"{site} {label}" for site in named for label in called]
    start = {key: part.to(moments.mean) for key, part in initial(names, seed, of_one).items()}
    problems = len(called)

    def loss_on(examples: Examples):
        rows, y = examples.rows.to(x.device), examples.y.to(x.device)

        def loss(
            parameters: Parameters, which: Int[Tensor, " fit"], batch: Int[Tensor, " batch"]
        ) -> Float[Tensor, "fit batch"]:
            site = which // problems
            read = _reader(source, moments, parameters, site, examples.x)
            logits = net.logits(parameters, read, rows[batch])
            label = y[(which % problems)[:, None], batch]
            return torch.nn.functional.cross_entropy(logits.mT, label, reduction="none")

        return loss

    trained = train(
        *(loss_on(training), start),
        examples=len(training.rows),
        dev_loss=loss_on(dev),
        dev_examples=len(dev.rows),
        names=names,
        schedule=schedule,
        seed=seed,
    )
    return TrainedProbe(net, named, called, source, moments, trained)


def _reader(
    source: Source,
    moments: Moments,
    parameters: Parameters,
    site: Int[Tensor, " fit"],
    x: Float[Tensor, "site word d"],
) -> Read:
    """How some problems read activations: each its site, or a mix of the sites up to it."""
    site = site.to(x.device)

    def read(words: Int[Tensor, " word"]) -> Float[Tensor, "fit word d"]:
        if source == "site":
            return moments.read(x, site, words)
        every = torch.arange(len(x), device=x.device)
        return mixing.mixed(parameters, site, moments.read(x, every, words))

    return read
