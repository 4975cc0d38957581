"""Minimum description length by online code (Voita & Titov 2020, sec. 3.2).

The labels are sent block by block, each coded by probes that were trained on the blocks before:
what a probe reads easily needs few bits. Accuracy cannot tell memory from regularity, bits can.

The paper trains one probe for each block and stops it early on development data. Here there is a
probe of each strength of l2, and the code is their Bayesian mixture with the uniform code: no
strength has to be chosen, and what x does not tell costs no more than a code that does not look.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from interp.core.door.door import door
from interp.core.door.taken import AtLeast0, Count, NotEmpty, Seed, Share
from interp.core.errors import ProbeError
from interp.core.parts.sites import Site
from interp.core.tables.scores import Scores
from interp.probing.ask.controls import Classes, Rare, control_tasks, left_out, no_random
from interp.probing.ask.selectivity import with_mean
from interp.probing.ask.split import Split
from interp.probing.fit.linear import TOLERANCE, fit_linear
from interp.probing.fit.moments import Moments
from interp.probing.fit.scoring import bits as bits_of
from interp.probing.fit.scoring import score

FRACTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
"""Ends of the blocks, shares of the words (Voita & Titov 2020, sec. 3.2)."""
L2 = (1.0, 0.1, 0.01, 0.001)
"""Strengths that are mixed, for activations of unit variance; the first reads frequencies only."""


@dataclass(frozen=True, eq=False)
class OnlineCode:
    """The code of every label.

    Attributes:
        bits: of each word's label, words in the order in which they were given.
        alone: bits of all labels by each code of the mixture alone: the probes of each strength,
            then the uniform code.
        classes: labels that there are; the uniform code takes log2 of it.
        ends: words in the blocks up to each.
        converged: share of the fits that did.
    """

    bits: Float[ndarray, "site problem word"]
    alone: Float[ndarray, "site problem expert"]
    classes: int
    ends: tuple[int, ...]
    converged: float

    @property
    def length(self) -> Float[ndarray, "site problem"]:
        """Bits of the whole code."""
        return self.bits.sum(-1)

    @property
    def uniform(self) -> float:
        """Bits of the code that knows nothing, n log2 K."""
        return self.bits.shape[-1] * float(np.log2(self.classes))

    @property
    def compression(self) -> Float[ndarray, "site problem"]:
        """How many times shorter than the uniform code."""
        return self.uniform / self.length


def online_code(
    x: Float[Tensor, "site word d"],
    y: Int[Tensor, "problem word"],
    *,
    l2: Float[Tensor, " strength"],
    classes: int,
    fractions: tuple[float, ...] = FRACTIONS,
    seed: int = 0,
    tolerance: float = TOLERANCE,
) -> OnlineCode:
    """Code the labels of all sites and problems.

    Words are sent in one random order. The first block is sent by the uniform code, every other by
    the mixture of the probes of the blocks before it and the uniform code. So `length` is at most
    log2(strengths + 1) bits above that of the best of them alone, and above n log2 K. A probe's p
    counts as if it had seen half a word more of each class: a label that the blocks so far do not
    hold is dear, and how dear depends on their words alone.

    Args:
        l2: strengths of the penalty for a probe of all words; one of n words gets
            `l2 * words / n`, so that the penalty weighs the same against each word.
        fractions: ends of the blocks, ascending, the last one 1.

    Raises:
        ProbeError: fractions that do not end at 1, or a first block without two classes.
    """
    words, strengths = x.shape[1], len(l2)
    ends = tuple(dict.fromkeys(max(1, round(f * words)) for f in fractions))
    if ends[-1] != words or list(ends) != sorted(ends):
        raise ProbeError(f"blocks must end later and later, the last one at 1.0; got {fractions}.")
    order = torch.from_numpy(np.random.default_rng([seed, words]).permutation(words))
    x, y = x[:, order], y[:, order]
    ends = _two_classes_each(y, ends)
    each = np.full((len(x), len(y), strengths + 1, words), np.log2(classes))
    converged: list[float] = []
    fits = y.repeat_interleave(strengths, 0)
    for before, end in pairwise(ends):
        probe = fit_linear(
            x[:, :before],
            fits[:, :before],
            l2=(l2 * (words / before)).repeat(len(y)),
            classes=classes,
            tolerance=tolerance,
        )
        converged.append(probe.converged.double().mean().item())
        for site in range(len(x)):
            logs = probe.site(site).log_probs(x[site : site + 1, before:end])
            found = bits_of(logs, fits[:, before:end])[0].reshape(len(y), strengths, -1)
            each[site, :, :-1, before:end] = _smoothed(found, before, classes)
    bits = each[:, :, -1].copy()
    bits[..., ends[0] :] = mixture(each[..., ends[0] :])
    back = order.argsort().numpy()
    return OnlineCode(
        bits[:, :, back], each.sum(-1), classes, ends, float(np.mean(converged or [1.0]))
    )


def _smoothed(
    bits: Float[ndarray, "*code word"], before: int, classes: int
) -> Float[ndarray, "*code word"]:
    """Bits of a probe of so many words, with half a word more of each class.

    Of a probe that knows the frequencies alone this is Krichevsky & Trofimov's (1981) estimator.
    """
    return np.log2(before + classes / 2) - np.log2(before * 2.0**-bits + 0.5)


def mixture(bits: Float[ndarray, "*code expert word"]) -> Float[ndarray, "*code word"]:
    """Bits of each word by the Bayesian mixture of several codes of the same words.

    p of a label is the mean of the experts' p, weighted by how well each coded the words before:
    at first alike, then by 2^-(its bits so far). The p multiply to the mean over the experts of the
    p that each gives all words, so that the whole code is never more than log2(experts) bits above
    the best expert's (Cesa-Bianchi & Lugosi 2006, sec. 9.2).

    Args:
        bits: of each word by each expert, words in the order in which they are sent.
    """
    so_far = np.log2(bits.shape[-2]) - np.logaddexp2.reduce(-bits.cumsum(-1), axis=-2)
    return np.diff(so_far, prepend=0, axis=-1)


@door
def description_length(
    train: Split,
    *,
    task: str,
    sites: Annotated[Sequence[str | Site], NotEmpty()],
    l2: Annotated[Sequence[AtLeast0], NotEmpty()] = L2,
    fractions: Annotated[tuple[Share, ...], NotEmpty()] = FRACTIONS,
    rare: Rare = "refuse",
    draws: Count = 1,
    seed: Seed = 0,
) -> Scores:
    """Bits for each training label by online code, beside the same controls (metric "bits").

    The uniform code is the row with probe "uniform"; compression is its value over another's. No
    row costs more than it by more than log2(strengths + 1) bits in all, also where nothing can be
    read, so that bits of a task and of its control task compare.

    Args:
        train: the words whose labels are sent.
        task: name in the table.
        sites: of the features.
        l2: strengths of the penalty for a probe of all words. The code is a mixture of theirs.
        fractions: ends of the blocks, ascending, the last one 1.
        rare: labels with fewer than two words: refused, or left out and counted.
        draws: of the labels of the control task; see `selectivity`.
        seed: of the control task and of the order of the words.

    Raises:
        ProbeError: labels that cannot be learned, or fractions that do not end at 1.
        SiteError: a site that was not collected of the trained model.
    """
    for site in sites:
        train.features.require_site(site)
    classes = Classes.of(train.labels, rare=rare)
    train = train.select(np.flatnonzero(classes.encode(train.labels) >= 0))
    real = classes.encode(train.labels)
    types = None if train.types is None else [train.types]
    drawn, why = control_tasks(types, real, seed=seed, draws=draws)
    where = [Site.parse(site) for site in sites]
    absent = left_out(task, {"control task": why, "untrained model": no_random([train], where)})
    y = torch.from_numpy(np.concatenate([real[None], *drawn]))
    tables = []
    for model, features in (("trained", train.features), ("random", train.random)):
        here = [site for site in where if features is not None and site in features]
        if features is None or not here:
            continue
        x = features.stack(train.words, sites=here).float()
        code = online_code(
            Moments.of(x).standardise_(x),
            y,
            l2=torch.tensor(list(l2)),
            classes=len(classes),
            fractions=fractions,
            seed=seed,
        )
        note = {
            **features.provenance,
            "fractions": list(fractions),
            "l2": list(l2),
            "converged": code.converged,
            "unlabelled": train.unlabelled,
            "left out": absent,
        }
        values, labels = with_mean(code.bits)
        naming = {"task": task, "model": model, "metric": "bits", "provenance": note}
        tables.append(
            score(values, train.cluster, sites=here, labels=labels, probe="linear", **naming)
        )
    uniform = np.full(len(real), np.log2(len(classes)))
    tables.append(
        Scores.of(
            uniform, train.cluster, task=task, probe="uniform", metric="bits", provenance=note
        )
    )
    return Scores.concat(tables)


def _two_classes_each(y: Int[Tensor, "problem word"], ends: tuple[int, ...]) -> tuple[int, ...]:
    """Blocks whose first one has two classes of every problem; short ones are joined to it.

    Raises:
        ProbeError: not even all but the last have.
    """
    for i, end in enumerate(ends[:-1]):
        if all(len(row[:end].unique()) > 1 for row in y):
            return ends[i:]
    raise ProbeError(
        f"the first {ends[-2] if len(ends) > 1 else 0} words have one class only, so no probe can "
        "be fitted before the last block; take more words"
    )
