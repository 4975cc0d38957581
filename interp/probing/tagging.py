"""Tagging words with linear probes, and every control in the same table.

For each site: accuracy and that on unseen word types, of the trained model and of an untrained one,
on the real labels and on the control task; and of no site, the majority and the word type's most
frequent label. The strength of l2 is chosen on the development split for each of them, and all are
reported on the test split.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from interp.core.door import door
from interp.core.errors import ProbeError
from interp.core.scores import Scores
from interp.core.sites import Site
from interp.core.taken import AtLeast0, Index, NotEmpty, Seed, Share
from interp.datasets.corpus import Corpus
from interp.models.versions import versions
from interp.probing.controls import Classes, Rare, control_task, majority, type_majority, unseen
from interp.probing.examples import require_rows_of
from interp.probing.features import Features
from interp.probing.linear import LinearProbe, fit_linear
from interp.probing.mdl import FRACTIONS, online_code
from interp.probing.moments import Moments
from interp.probing.scoring import correct, score

L2 = (0.1, 0.01, 0.001)
"""Strengths that are tried, for activations of unit variance."""
LABELS = ("real", "control")
Label = Literal["upos", "xpos", "lemma", "relation"]
"""What a corpus says of a word, and a probe may be asked for."""


@door
@dataclass(frozen=True, eq=False)
class Split:
    """Words with their labels.

    Attributes:
        features: of the trained model.
        random: of the same words in an untrained model, perhaps at fewer sites.
        words: which of the collected ones.
        labels, types, cluster: of each word: what a probe shall say, the word type (its form in
            lower case), and the document.
        missing: words of the corpus without tokens; they are in no score.
    """

    features: Features
    random: Features
    words: Int[ndarray, " word"]
    labels: tuple[str, ...]
    types: tuple[str, ...]
    cluster: tuple[str, ...]
    missing: int

    def __post_init__(self) -> None:
        sizes = {name: len(getattr(self, name)) for name in ("words", "labels", "types", "cluster")}
        if len(set(sizes.values())) > 1:
            told = ", ".join(f"{size} {name}" for name, size in sizes.items())
            raise ProbeError(f"a split has one of each for every word, and not {told}.")

    @classmethod
    @door
    def of(cls, corpus: Corpus, features: Features, random: Features, label: Label) -> "Split":
        """Labels of the collected words.

        Args:
            features: of the trained model.
            random: of the same words in an untrained one.
            label: "upos", "xpos", "lemma" or "relation"; words without one are in no split.

        Raises:
            CorpusError: the corpus is not annotated with it.
            ProbeError: features of another corpus; or the two models were not run on the same
                words.
        """
        corpus.require(label)
        for found in (features, random):
            found.require(corpus)
        same = len(features) == len(random) and all(
            np.array_equal(a, b)
            for a, b in ((features.sentence, random.sentence), (features.word, random.word))
        )
        if not same:
            raise ProbeError(
                f"{len(features)} words of the trained model and {len(random)} of the untrained "
                "one are not the same words; collect both on one corpus with the same context=."
            )
        words = [
            corpus.sentences[s].words[w]
            for s, w in zip(features.sentence, features.word, strict=True)
        ]
        return cls(
            features,
            random,
            np.arange(len(words)),
            tuple(str(getattr(word, label)) for word in words),
            tuple(word.form.lower() for word in words),
            tuple(corpus.clusters[s] for s in features.sentence),
            len(features.missing),
        )

    @door
    def after_first(self) -> "Split":
        """Without the words that begin a row.

        Where the row has no BOS token they are attention sinks: a few of them make most of the
        variance of many dimensions, and standardising by that would shrink all other words.
        """
        row = self.features.row
        later = np.r_[False, row[1:] == row[:-1]]
        return self.select(np.flatnonzero(later[self.words]))

    @door
    def select(self, words: Sequence[int] | Int[ndarray, " chosen"]) -> "Split":
        """Some of the words, in the given order.

        Args:
            words: their numbers in this split, counted from 0.

        Raises:
            ProbeError: a word that there is not.
        """
        at = np.asarray(words, dtype=np.int64)
        require_rows_of(at, len(self.words), "words of the split")

        def chosen(values: Sequence[str]) -> tuple[str, ...]:
            return tuple(values[i] for i in at)

        return replace(
            self,
            words=self.words[at],
            labels=chosen(self.labels),
            types=chosen(self.types),
            cluster=chosen(self.cluster),
        )


@dataclass(frozen=True, eq=False)
class Tagging:
    """What probes of a label say of the test words.

    Attributes:
        scores: all controls included.
        dev: accuracies on the development split: choose a site by these.
        classes: the labels.
        probes: of the trained model and real labels, with the chosen strength at each site.
        moments: by which activations are standardised before the probes read them.
    """

    scores: Scores
    dev: Scores
    classes: Classes
    probes: LinearProbe
    moments: Moments


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
    seed: Seed = 0,
    note: Mapping[str, Any] | None = None,
) -> Tagging:
    """Fit and score linear probes at all sites, with their controls.

    Args:
        train, dev, test: words of different documents.
        task: name in the table.
        l2: strengths to choose from on `dev`; scikit-learn's C is 1 / (l2 * words).
        sites: of the features; all by default.
        ahead: following words of the row whose activations a probe reads beside the word's own: a
            causal model knows nothing of them at the word itself.
        rare: labels with fewer than two training words: refused, or left out and counted.
        seed: of the control task.
        note: goes into the provenance.

    Raises:
        ProbeError: labels that cannot be learned, or splits that share words of one document.
        SiteError: a site that was not collected of the trained model.
    """
    asked = train.features.sites if sites is None else tuple(map(Site.parse, sites))
    for site in asked:
        train.features.require_site(site)
    _disjoint({"train": train, "dev": dev, "test": test})
    splits = (train, dev, test)
    classes = Classes.of(*(split.labels for split in splits), rare=rare)
    real = [classes.encode(split.labels) for split in splits]
    splits = [split.select(np.flatnonzero(y >= 0)) for split, y in zip(splits, real, strict=True)]
    for name, split in zip(("train", "dev", "test"), splits, strict=True):
        if not len(split.words):
            raise ProbeError(
                f"no word of {name!r} has a label that can be learned; give splits with words of "
                f"{', '.join(classes.names[:5])}."
            )
    real = [classes.encode(split.labels) for split in splits]
    words, types, cluster = (
        [getattr(s, name) for s in splits] for name in ("words", "types", "cluster")
    )
    drawn = control_task(types[0], real[0], splits=types, seed=seed)
    targets = [torch.from_numpy(np.stack(pair)) for pair in zip(real, drawn, strict=True)]
    new = unseen(types[0], types[2])
    provenance = {
        **train.features.provenance,
        "versions": versions(),
        "labels": list(classes.names),
        "dropped": dict(classes.dropped),
        "missing": [split.missing for split in splits],
        "words": [len(at) for at in words],
        "seed": seed,
        "ahead": ahead,
        **(note or {}),
    }
    common = {"task": task, "provenance": provenance}
    tables = [
        _baseline(name, found, real[2], cluster[2], new, **common)
        for name, found in (
            ("majority", majority(real[0], len(real[2]))),
            ("word type", type_majority(types[0], real[0], types[2])),
        )
    ]
    chosen_on: list[Scores] = []
    fitted: dict[str, tuple[LinearProbe, Moments]] = {}
    unconverged = 0
    for model, features in (
        ("trained", [split.features for split in splits]),
        ("random", [split.random for split in splits]),
    ):
        own = features[0].sites if sites is None else asked
        where = [site for site in own if site in features[0]]
        x = read(features[0], words[0], where, ahead=ahead)
        moments = Moments.of(x)
        fit = fit_linear(
            moments.standardise_(x),
            targets[0].repeat_interleave(len(l2), 0),
            l2=torch.tensor(list(l2) * len(LABELS)),
            classes=len(classes),
        )
        del x
        unconverged += int((~fit.converged).sum())
        dev_right = _right(fit, moments, features[1], where, words[1], targets[1], len(l2), ahead)
        best = dev_right.mean(-1).reshape(len(where), len(LABELS), len(l2)).argmax(-1)
        picked = [
            fit.select(torch.from_numpy(best[:, i] + i * len(l2))) for i in range(len(LABELS))
        ]
        at = np.arange(len(where))[:, None], best + np.arange(len(LABELS)) * len(l2)
        naming = {"sites": where, "probe": "linear", "model": model, **common}
        chosen_on.append(score(dev_right[at], cluster[1], labels=LABELS, **naming))
        for i, label in enumerate(LABELS):
            right = _right(
                *(picked[i], moments, features[2], where, words[2]),
                *(targets[2][i : i + 1], 1, ahead),
            )
            subsets = {"all": np.ones_like(new), **({"unseen": new} if new.any() else {})}
            tables.append(score(right, cluster[2], labels=[label], subsets=subsets, **naming))
        fitted[model] = picked[0], moments
    probes, moments = fitted["trained"]
    note = {**provenance, "not converged": unconverged}
    scores, chosen = (Scores(Scores.concat(t).frame, note) for t in (tables, chosen_on))
    return Tagging(scores, chosen, classes, probes, moments)


@door
def description_length(
    train: Split,
    *,
    task: str,
    sites: Annotated[Sequence[str | Site], NotEmpty()],
    l2: AtLeast0 = 0.01,
    fractions: Annotated[tuple[Share, ...], NotEmpty()] = FRACTIONS,
    rare: Rare = "refuse",
    seed: Seed = 0,
) -> Scores:
    """Bits for each training label by online code, beside the same controls (metric "bits").

    The uniform code is the row with probe "uniform"; compression is its value over another's.

    Args:
        train: the words whose labels are sent.
        task: name in the table.
        sites: of the features.
        l2: strength of the penalty for a probe of all words.
        fractions: ends of the blocks, ascending, the last one 1.
        rare: labels with fewer than two words: refused, or left out and counted.
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
    (drawn,) = control_task(train.types, real, splits=[train.types], seed=seed)
    where = [Site.parse(site) for site in sites]
    tables = []
    for model, features in (("trained", train.features), ("random", train.random)):
        here = [site for site in where if site in features]
        x = read(features, train.words, here)
        code = online_code(
            Moments.of(x).standardise_(x),
            torch.from_numpy(np.stack([real, drawn])),
            l2=torch.full((2,), l2),
            classes=len(classes),
            fractions=fractions,
            seed=seed,
        )
        note = {**features.provenance, "fractions": list(fractions), "converged": code.converged}
        naming = {"task": task, "model": model, "metric": "bits", "provenance": note}
        tables.append(
            score(code.bits, train.cluster, sites=here, labels=LABELS, probe="linear", **naming)
        )
    uniform = np.full(len(real), np.log2(len(classes)))
    tables.append(
        Scores.of(
            uniform, train.cluster, task=task, probe="uniform", metric="bits", provenance=note
        )
    )
    return Scores.concat(tables)


def read(
    features: Features, words: Int[ndarray, " word"], sites: Sequence[Site], *, ahead: int = 0
) -> Float[Tensor, "site word _"]:
    """A copy of activations for a probe, those of following words beside the word's own.

    Where the row has no such word, they are 0.
    """
    parts = [features.stack(words, sites=sites).float()]
    for step in range(1, ahead + 1):
        at = np.minimum(words + step, len(features) - 1)
        inside = (words + step < len(features)) & (features.row[at] == features.row[words])
        parts.append(features.stack(at, sites=sites).float())
        parts[-1][:, ~inside] = 0
    return torch.cat(parts, 2)


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
    new: ndarray,
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
