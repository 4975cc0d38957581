"""Tagging words with linear probes, and every control in the same table.

For each site: accuracy and that on unseen word types, of the trained model and of an untrained one,
on the real labels and on the control task; and of no site, the majority and the word type's most
frequent label. The strength of l2 is chosen on the development split for each of them, and all are
reported on the test split. Controls that cannot be had are left out, and the provenance says why.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from interp.core.door.door import door
from interp.core.door.taken import AtLeast0, Count, Index, NotEmpty, Seed
from interp.core.errors import ProbeError
from interp.core.parts.sites import Site
from interp.core.tables.scores import Scores
from interp.models.now.versions import versions
from interp.probing.ask.controls import (
    Classes,
    Rare,
    control_tasks,
    left_out,
    majority,
    no_random,
    type_majority,
    unseen,
)
from interp.probing.ask.selectivity import with_mean
from interp.probing.ask.split import Split
from interp.probing.ask.tagger import Tagger, how_read, read
from interp.probing.fit.linear import LinearProbe, fit_linear
from interp.probing.fit.moments import Moments
from interp.probing.fit.scoring import correct, score
from interp.probing.read.features import Features

L2 = (0.1, 0.01, 0.001)
"""Strengths that are tried, for activations of unit variance."""


@dataclass(frozen=True, eq=False)
class Tagging:
    """What probes of a label say of the test words.

    Attributes:
        scores: all controls included.
        dev: accuracies on the development split: choose a site by these.
        tagger: the probes of the trained model and real labels, with the chosen strength at each
            site; it labels the words of other text.
    """

    scores: Scores
    dev: Scores
    tagger: Tagger


@door
def tagging(
    train: Split,
    dev: Split,
    test: Split,
    *,
    task: str,
    l2: Annotated[Sequence[AtLeast0], NotEmpty()] = L2,
    sites: Annotated[Sequence[str | Site], NotEmpty()] | None = None,
    ahead: Index = 0,
    rare: Rare = "refuse",
    draws: Count = 1,
    seed: Seed = 0,
    note: Mapping[str, Any] | None = None,
) -> Tagging:
    """Fit and score linear probes at all sites, with their controls.

    With several draws the scores with labels "control" are means of the draws, each draw a row of
    its own beside them ("control 1", ...). `Scores.summary` takes the draws as given; the interval
    of `selectivity` is over documents and draws.

    Args:
        train, dev, test: words of different documents.
        task: name in the table.
        l2: strengths to choose from on `dev`; scikit-learn's C is 1 / (l2 * words).
        sites: of the features; all by default.
        ahead: following words of the row whose activations a probe reads beside the word's own: a
            causal model knows nothing of them at the word itself.
        rare: labels with fewer than two training words: refused, or left out and counted.
        draws: of the labels of the control task.
        seed: of the control task.
        note: goes into the provenance.

    Returns:
        Scores, and the probes. `provenance["left out"]` says which controls could not be had and
        why: no features of an untrained model, words without types, one word type or one for each
        word (no control task), no unseen type.

    Raises:
        ProbeError: labels that cannot be learned, or splits that share words of one document.
        SiteError: a site that was not collected of the trained model.
    """
    asked = train.features.sites if sites is None else tuple(map(Site.parse, sites))
    for site in asked:
        train.features.require_site(site)
    _of_one_model({"train": train, "dev": dev, "test": test})
    _disjoint({"train": train, "dev": dev, "test": test})
    splits, classes = _known((train, dev, test), rare)
    real = [classes.encode(split.labels) for split in splits]
    words, cluster = ([getattr(s, name) for s in splits] for name in ("words", "cluster"))
    types = [split.types for split in splits if split.types is not None]
    types = types if len(types) == len(splits) else None
    drawn, no_control = control_tasks(types, real[0], seed=seed, draws=draws)
    targets = [
        torch.from_numpy(np.concatenate([y[None], *(drawn[i : i + 1])])) for i, y in enumerate(real)
    ]
    new = np.zeros(len(real[2]), dtype=bool) if types is None else unseen(types[0], types[2])
    no_types = "" if types else "the words have no types"
    why = {
        "control task": no_control,
        "untrained model": no_random(splits, None if sites is None else asked),
        "word type": no_types,
        "unseen types": no_types or ("" if new.any() else "training has every type of the test"),
    }
    provenance = {
        **train.features.provenance,
        "versions": versions(),
        "labels": list(classes.names),
        "dropped": dict(classes.dropped),
        "missing": [split.missing for split in splits],
        "unlabelled": [split.unlabelled for split in splits],
        "left out": left_out(task, why),
        "words": [len(at) for at in words],
        "draws": len(targets[0]) - 1,
        "seed": seed,
        "ahead": ahead,
        **(note or {}),
    }
    common = {"task": task, "provenance": provenance}
    levels = {"majority": majority(real[0], len(real[2]))}
    if types is not None:
        levels["word type"] = type_majority(types[0], real[0], types[2])
    tables = [
        _baseline(name, found, real[2], cluster[2], new, **common) for name, found in levels.items()
    ]
    chosen_on: list[Scores] = []
    fitted: dict[str, tuple[LinearProbe, Moments]] = {}
    unconverged = 0
    problems = range(len(targets[0]))
    models = {"trained": [split.features for split in splits]}
    if not why["untrained model"]:
        models["random"] = [split.random for split in splits if split.random is not None]
    for model, features in models.items():
        own = features[0].sites if sites is None else asked
        where = [site for site in own if site in features[0]]
        x = read(features[0], words[0], where, ahead=ahead)
        moments = Moments.of(x)
        fit = fit_linear(
            moments.standardise_(x),
            targets[0].repeat_interleave(len(l2), 0),
            l2=torch.tensor(list(l2) * len(problems)),
            classes=len(classes),
        )
        del x
        unconverged += int((~fit.converged).sum())
        dev_right = _right(fit, moments, features[1], where, words[1], targets[1], len(l2), ahead)
        best = dev_right.mean(-1).reshape(len(where), len(problems), len(l2)).argmax(-1)
        at = best + np.arange(len(problems)) * len(l2)
        picked = [fit.select(torch.from_numpy(at[:, i])) for i in problems]
        naming = {"sites": where, "probe": "linear", "model": model, **common}
        values, names = with_mean(dev_right[np.arange(len(where))[:, None], at])
        chosen_on.append(score(values, cluster[1], labels=names, **naming))
        right = [
            _right(
                *(picked[i], moments, features[2], where, words[2]),
                *(targets[2][i : i + 1], 1, ahead),
            )
            for i in problems
        ]
        subsets = {"all": np.ones_like(new), **({"unseen": new} if new.any() else {})}
        values, names = with_mean(np.concatenate(right, 1))
        tables.append(score(values, cluster[2], labels=names, subsets=subsets, **naming))
        fitted[model] = picked[0], moments
    probes, moments = fitted["trained"]
    note = {**provenance, "not converged": unconverged}
    scores, chosen = (Scores(Scores.concat(t).frame, note) for t in (tables, chosen_on))
    made = how_read(train.features)
    return Tagging(
        scores, chosen, Tagger(task, tuple(asked), classes.names, probes, moments, ahead, made)
    )


def _known(splits: Sequence[Split], rare: Rare) -> tuple[list[Split], Classes]:
    """The labels that can be learned, and the words that have one.

    Raises:
        ProbeError: a split has none, or labels that cannot be learned.
    """
    classes = Classes.of(*(split.labels for split in splits), rare=rare)
    kept = [split.select(np.flatnonzero(classes.encode(split.labels) >= 0)) for split in splits]
    for name, split in zip(("train", "dev", "test"), kept, strict=True):
        if not len(split.words):
            raise ProbeError(
                f"no word of {name!r} has a label that can be learned; give splits with words of "
                f"{', '.join(classes.names[:5])}."
            )
    return kept, classes


def _right(
    fit: LinearProbe,
    moments: Moments,
    features: Features,
    sites: Sequence[Site],
    words: Int[ndarray, " word"],
    y: Int[Tensor, "label word"],
    strengths: int,
    ahead: int,
) -> Float[ndarray, "site problem word"]:
    """1 where a probe is right, a site at a time."""
    y = y.repeat_interleave(strengths, 0)
    found = []
    for i, site in enumerate(sites):
        x = moments.site(i).standardise_(read(features, words, [site], ahead=ahead))
        found.append(correct(fit.site(i).log_probs(x), y))
    return np.concatenate(found)


def _baseline(
    name: str,
    found: Int[ndarray, " word"],
    y: Int[ndarray, " word"],
    cluster: Sequence[str],
    new: Bool[ndarray, " word"],
    *,
    task: str,
    provenance: Mapping[str, Any],
) -> Scores:
    right = (found == y).astype(float)
    common = {"task": task, "probe": name, "provenance": provenance}
    parts = [Scores.of(right, cluster, **common)]
    if new.any():
        parts.append(Scores.of(np.where(new, right, np.nan), cluster, subset="unseen", **common))
    return Scores.concat(parts)


def _of_one_model(splits: Mapping[str, Split]) -> None:
    """Refuse activations of several models, as far as their provenance says so.

    Raises:
        ProbeError: naming two of them.
    """
    told = {
        name: (split.features.provenance.get("model"), split.features.provenance.get("weights"))
        for name, split in splits.items()
    }
    for name, model in told.items():
        if model != told["train"]:
            raise ProbeError(
                f"the activations of 'train' are of {told['train'][0]} and those of {name!r} of "
                f"{model[0]} (other weights, if it is the same name): a probe of one says nothing "
                "of the other. Collect all of them on one model."
            )


def _disjoint(splits: Mapping[str, Split]) -> None:
    """Refuse splits that share a document.

    Raises:
        ProbeError: naming it.
    """
    seen: dict[str, str] = {}
    for name, split in splits.items():
        for document in sorted(set(split.cluster)):
            if seen.setdefault(document, name) != name:
                raise ProbeError(
                    f"document {document!r} has words in {seen[document]!r} and in {name!r}; a "
                    "score on what was trained on says nothing. Split by document."
                )
