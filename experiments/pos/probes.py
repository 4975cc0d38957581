"""Probes of tags beside the linear ones of all words: of more capacity, and of what stays."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from experiments._probing import what_a_probe_reads
from interp.core.parts.sites import Site
from interp.core.tables.scores import Scores
from interp.probing import Examples, Mlp, Split, fit_probe, persistence, tagging
from interp.probing.ask.controls import Classes, control_task
from interp.probing.fit.scoring import correct, score
from interp.probing.use.erasure import probe_directions, random_directions

TASK, FEWER = "upos", "linear, fewer words"


def labelled(split: Split, classes: Classes) -> Split:
    """The words with a label that is learned."""
    return split.select(np.flatnonzero(classes.encode(split.labels) >= 0))


def cut(split: Split, words: int | None) -> Split:
    """The first words of a split, whose documents are in random order."""
    return split.select(range(min(words or 0, len(split.labels))))


def capacity(
    splits: Mapping[str, Split], sites: Sequence[str], *, hidden: int, seed: int
) -> Scores:
    """MLP-1 and a linear probe of the same words: a stronger probe remembers more.

    Both learn the same labels, real and control; selectivity grows with the training words, so
    that of the probes of all words would not compare.
    """
    found = tagging(*splits.values(), task=TASK, sites=sites, rare="drop", seed=seed).scores
    linear = found.query("model == 'trained' and subset == 'all'")
    linear = Scores(linear.frame.assign(probe=FEWER), linear.provenance)
    return Scores.concat([linear, mlp(splits, sites, hidden=hidden, seed=seed)])


def mlp(splits: Mapping[str, Split], sites: Sequence[str], *, hidden: int, seed: int) -> Scores:
    """MLP-1 on real and control labels."""
    classes = Classes.of(splits["train"].labels, rare="drop")
    parts, labels = {}, ("real", "control")
    splits = {name: labelled(split, classes) for name, split in splits.items()}
    train = splits["train"]
    real = {name: classes.encode(split.labels) for name, split in splits.items()}
    drawn = control_task(
        train.types, real["train"], splits=[s.types for s in splits.values()], seed=seed
    )
    for (name, split), control in zip(splits.items(), drawn, strict=True):
        y = torch.from_numpy(np.stack([real[name], control]))
        parts[name] = Examples.of_words(split.features.stack(split.words, sites=sites).float(), y)
    probe = fit_probe(
        Mlp(hidden),
        parts["train"],
        parts["dev"],
        classes=len(classes),
        sites=sites,
        labels=labels,
        seed=seed,
    )
    return score(
        correct(probe.log_probs(parts["test"].x), parts["test"].y),
        splits["test"].cluster,
        sites=[Site.parse(site) for site in sites],
        labels=labels,
        task=TASK,
        probe="mlp-1",
        model="trained",
        provenance={"not converged": int((~probe.converged).sum()), "hidden": hidden},
    )


def remains(splits: Mapping[str, Split], best: str, *, seed: int) -> Scores:
    """The directions that a probe of the best layer reads, at every layer of the test words."""
    classes = Classes.of(splits["train"].labels, rare="drop")
    train, test = (labelled(splits[name], classes) for name in ("train", "test"))
    x, weight = what_a_probe_reads(train, torch.from_numpy(classes.encode(train.labels)), best)
    read = probe_directions(x, weight)
    control = random_directions(x, rank=read.rank, seed=seed)
    return persistence(
        test.features,
        classes.encode(test.labels),
        test.cluster,
        {f"probe of {best}": read.left, "random": control.left},
        task=TASK,
        words=test.words,
        provenance=test.features.provenance,
    )
