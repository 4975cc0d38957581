"""What a fresh probe still reads of a property on words that the erasure was not fitted to.

LEACE leaves nothing on the words that it is fitted to, and on others what its estimate of a
covariance misses: of part of speech in SmolLM2 (19.resid_post, before 0.91, majority 0.17), a probe
of other documents reads 0.65 after a fit to 1,500 words, 0.45 after 5,600 and 0.32 after 23,800. As
long as the property is read, that erasing it changes little is a lower bound of its use.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from interp.core.door.door import door
from interp.core.door.taken import AtLeast0, NotEmpty, Seed, Within
from interp.core.errors import ProbeError
from interp.core.parts.sites import Site
from interp.core.tables.scores import Scores
from interp.engine.interventions import Erase
from interp.probing.fit.linear import fit_linear
from interp.probing.fit.moments import Moments
from interp.probing.fit.scoring import correct
from interp.probing.read.given import BySite, One, by_site, one_by_one, require_no_sinks

BEFORE, AFTER = "before", "after"
FOLDS, L2 = 5, 0.01


@door
@dataclass(frozen=True, eq=False)
class HeldOut:
    """Words that no erasure was fitted to.

    Attributes:
        x: their activations, by site.
        labels: of each word, as numbers.
        cluster: the document of each word: what is resampled.
        group: what is left out together when a probe is fitted; the document by default.
    """

    x: Annotated[BySite[Float[Tensor, "word _"]], NotEmpty()]
    labels: Int[Tensor, " labelled"]
    cluster: Sequence[str]
    group: Sequence[str] | None = None

    def __post_init__(self) -> None:
        parts = {str(site): len(x) for site, x in self.x.items()}
        sizes = {**parts, "labels": len(self.labels), "cluster": len(self.cluster)}
        sizes |= {} if self.group is None else {"group": len(self.group)}
        if len(set(sizes.values())) > 1:
            told = ", ".join(f"{size} of {name}" for name, size in sizes.items())
            raise ProbeError(f"held-out words need one of each for every word, not {told}.")
        if len(set(self._groups)) < 2:
            raise ProbeError(
                f"the {len(self.labels)} held-out words are all of one document, and a probe must "
                "be asked of another than it was fitted to. Give words of several documents."
            )
        for site, x in by_site(self.x).items():
            require_no_sinks(site, x)

    @property
    def _groups(self) -> Sequence[str]:
        return self.cluster if self.group is None else self.group

    def folds(self, count: int, seed: int) -> Int[ndarray, " word"]:
        """In which part each word is: all words of a group in one, groups in random order."""
        names, group = np.unique(np.asarray(self._groups, dtype=str), return_inverse=True)
        order = np.random.default_rng([seed, len(names)]).permutation(len(names))
        return (order % min(count, len(names)))[group]


@door
def still_read(
    erasers: Annotated[
        Mapping[str, BySite[Erase] | Sequence[BySite[Erase]]],
        NotEmpty(),
    ],
    held_out: HeldOut,
    *,
    task: str = "label",
    folds: Annotated[int, Within(low=2)] = FOLDS,
    l2: AtLeast0 = L2,
    seed: Seed = 0,
) -> Scores:
    """Accuracy of fresh linear probes on held-out words, before and after each erasure.

    The words are put in `folds` parts by document (`HeldOut.group`). For each part a probe is
    fitted to the others, erased as well, and asked of this one. A reader with more words, or of
    another kind, may read more. Below the majority is no sign of anything: the probe of few words
    has learned what does not hold elsewhere.

    Args:
        erasers: of `interp.probing.erasers`; of several draws, the first is asked.
        task: name in the table.
        l2: strength of the penalty, for activations of unit variance.
        seed: of the parts.

    Returns:
        Probe "linear" at each site, `subset` "before", "after leace", "after random 1", ...; and
        probe "majority": the most frequent label of the other parts.

    Raises:
        ProbeError: an erasure at a site that the words have not, or of another width; parts
            without two labels to learn.
    """
    asked = [one for one in one_by_one(erasers) if one.draw in (None, 1)]
    names, code = held_out.labels.unique(return_inverse=True)
    if len(names) < 2:
        raise ProbeError(
            f"all {len(code)} held-out words have the same label ({names.tolist()}), so there is "
            "nothing to read. Take more words."
        )
    part = held_out.folds(folds, seed)
    for i in range(part.max() + 1):
        if len(code[torch.from_numpy(part != i)].unique()) < 2:
            raise ProbeError(
                f"without part {i} of {part.max() + 1} all held-out words have the same label, so "
                "no probe can be fitted. Take words of more documents."
            )
    x = by_site(held_out.x)
    common = {"task": task, "provenance": {"folds": int(part.max()) + 1, "l2": l2, "seed": seed}}
    tables = []
    for site in dict.fromkeys(site for one in asked for site in one.of):
        here = [one for one in asked if site in one.of]
        right = _read(_erased(x, site, here), code, part, classes=len(names), l2=l2)
        tables += [
            Scores.of(
                values,
                held_out.cluster,
                probe="linear",
                model="trained",
                site=str(site),
                subset=subset,
                **common,
            )
            for subset, values in zip(
                [BEFORE, *(f"{AFTER} {one.name}" for one in here)], right, strict=True
            )
        ]
    most = np.zeros(len(code))
    for i in range(part.max() + 1):
        rest, inside = code[torch.from_numpy(part != i)], torch.from_numpy(part == i)
        most[part == i] = (code[inside] == rest.bincount().argmax()).double().numpy()
    return Scores.concat([*tables, Scores.of(most, held_out.cluster, probe="majority", **common)])


def _erased(
    x: Mapping[Site, Float[Tensor, "word _"]], site: Site, here: Sequence[One]
) -> Float[Tensor, "subset word d"]:
    """Activations before, and after each erasure."""
    if site not in x:
        raise ProbeError(
            f"the held-out words have no activations at '{site}', where something is erased; they "
            f"are of {', '.join(map(str, x))}. Collect the same sites."
        )
    width = x[site].shape[1]
    if odd := [one for one in here if one.of[site].width != width]:
        raise ProbeError(
            f"{odd[0].name!r} erases vectors of {odd[0].of[site].width} numbers at '{site}', and "
            f"the held-out words have {width}; collect them of the same model."
        )
    return torch.stack([x[site].float(), *(one.of[site].of(x[site]).float() for one in here)])


def _read(
    x: Float[Tensor, "subset word d"],
    y: Int[Tensor, " word"],
    part: Int[ndarray, " word"],
    *,
    classes: int,
    l2: float,
) -> Float[ndarray, "subset word"]:
    """1 where a probe that was fitted to the other parts is right."""
    right = np.zeros(x.shape[:2])
    for i in range(part.max() + 1):
        inside = torch.from_numpy(part == i)
        train = x[:, ~inside]
        moments = Moments.of(train)
        probe = fit_linear(
            moments.standardise_(train),
            y[None, ~inside],
            l2=torch.tensor([l2]),
            classes=classes,
        )
        test = moments.standardise_(x[:, inside])
        right[:, part == i] = correct(probe.log_probs(test), y[None, inside])[:, 0]
    return right
