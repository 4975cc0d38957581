"""A fitted probe, kept: it labels the words of new text, and goes to a file and back."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from interp.core.door.door import door
from interp.core.door.taken import NotEmpty
from interp.core.errors import ProbeError, SiteError, nearest
from interp.core.files.sealed import open_content, told, write_tensors
from interp.core.parts.sites import Site
from interp.datasets.corpus import Corpus, Document, Sentence
from interp.datasets.words import plain
from interp.models.model import Model
from interp.probing.fit.linear import LinearProbe
from interp.probing.fit.moments import Moments
from interp.probing.read.collect import collect
from interp.probing.read.features import Features, Words

CONTENT, VERSION = "tagger", 1
REMEDY = "Take it from a copy, or fit it again and save it."
NOTE = {"content": str, "version": int, "task": str, "sites": list, "classes": list}
NOTE |= {"ahead": int, "norm": str, "made": dict}
FITTED = tuple(field.name for field in fields(LinearProbe))


def how_read(features: Features) -> dict[str, Any]:
    """What activations must have in common for a probe of the ones to read the others."""
    known = features.provenance
    names = ("model", "weights", "context", "bos")
    return {**{name: known[name] for name in names if name in known}, "pool": features.pool}


@door
@dataclass(frozen=True, eq=False, repr=False)
class Tagger:
    """Linear probes of one label at some sites, of one model.

    Attributes:
        task: the name of the label.
        sites: one probe each.
        classes: the labels, in the order of the probes' classes.
        probes: of one problem.
        moments: by which activations are standardised before the probes read them.
        ahead: following words of the row that a probe reads beside the word's own.
        made: how the activations came about: model, weights, context, BOS policy, pooling.
    """

    task: str
    sites: tuple[Site, ...]
    classes: tuple[str, ...]
    probes: LinearProbe
    moments: Moments
    ahead: int
    made: Mapping[str, Any]

    @door
    def __call__(
        self,
        model: Model,
        text: str | Sequence[str] | Corpus,
        *,
        sites: Annotated[Sequence[str | Site], NotEmpty()] | None = None,
    ) -> pd.DataFrame:
        """Run the model on text and label its words; as `table`.

        Words are pooled, and sentences share rows, as those that the probes were trained on.

        Args:
            model: whose activations the probes were trained on.
            text: a corpus; or a text, or a list of texts, each run by itself and cut into words.
            sites: by default all.

        Raises:
            ProbeError: another model, or probes of activations that no model here gave.
            SiteError: a site that there is no probe of.
        """
        if "weights" not in self.made:
            raise ProbeError(
                f"this tagger was fitted to activations of one's own ({self.made.get('model')}), "
                "so interp cannot compute them; give tagger.table Features.from_arrays(...)."
            )
        asked = self if sites is None else self.at(sites)
        now = model.identity()
        self._require({**self.made, "model": now["model"], "weights": now["weights"]})
        if not isinstance(text, Corpus):
            text = _corpus([text] if isinstance(text, str) else text)
        how = {name: self.made[name] for name in ("pool", "context", "bos")}
        return asked.table(collect(model, text, sites=asked.sites, **how), text)

    @door
    def table(self, features: Features, corpus: Corpus | None = None) -> pd.DataFrame:
        """The likeliest label of each word at each site.

        Args:
            features: of the model and pooling that the probes were trained on.
            corpus: whose words they are, for the column `form`.

        Returns:
            A row for each site and word: `site`, `layer`, `depth` (0 is the embedding), `sentence`,
            `word` (its place there), `form` (empty without a corpus), `label` and `probability`.

        Raises:
            ProbeError: activations of another model, pooling or width, or another corpus.
            SiteError: a site was not collected.
        """
        forms = [""] * len(features)
        if corpus is not None:
            features.require(corpus)
            at = zip(features.sentence, features.word, strict=True)
            forms = [corpus.sentences[s].words[w].form for s, w in at]
        log_p, best = self.log_probs(features).max(-1)
        names = np.asarray(self.classes, dtype=object)
        parts = [
            pd.DataFrame(
                {
                    "site": str(site),
                    "layer": site.layer,
                    "depth": site.depth,
                    "sentence": features.sentence,
                    "word": features.word,
                    "form": forms,
                    "label": names[best[i].cpu().numpy()],
                    "probability": log_p[i].exp().double().cpu().numpy(),
                }
            )
            for i, site in enumerate(self.sites)
        ]
        return pd.concat(parts, ignore_index=True)

    @door
    def log_probs(
        self, features: Features, words: Words | None = None
    ) -> Float[Tensor, "site word class"]:
        """Log-probability of every class, nats.

        Args:
            features: of the model and pooling that the probes were trained on.
            words: some of them; by default all.

        Raises:
            ProbeError: activations of another model, pooling or width.
            SiteError: a site was not collected.
        """
        self._require(how_read(features))
        at = np.arange(len(features)) if words is None else np.asarray(words)
        found = []
        for i, site in enumerate(self.sites):
            moments, x = self.moments.site(i), read(features, at, [site], ahead=self.ahead)
            moments.require(x)
            found.append(self.probes.site(i).log_probs(moments.standardise_(x))[0, 0])
        return torch.stack(found)

    @door
    def at(self, sites: Annotated[Sequence[str | Site], NotEmpty()]) -> "Tagger":
        """The probes of some sites.

        Raises:
            SiteError: a site that there is no probe of.
        """
        asked = tuple(map(Site.parse, sites))
        for site in asked:
            if site not in self.sites:
                raise SiteError(
                    f"there is no probe of '{site}'; of the {len(self.sites)} sites, "
                    f"{nearest(str(site), map(str, self.sites))}"
                )
        which = torch.tensor([self.sites.index(site) for site in asked])
        probes = LinearProbe(*(getattr(self.probes, name)[which] for name in FITTED))
        moments = Moments(self.moments.mean[which], self.moments.scale[which], self.moments.norm)
        return replace(self, sites=asked, probes=probes, moments=moments)

    @door
    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a safetensors file, whole or not at all.

        Raises:
            ResultsError: it cannot be written.
        """
        note = {
            **{"content": CONTENT, "version": VERSION, "task": self.task, "ahead": self.ahead},
            **{"sites": list(map(str, self.sites)), "classes": list(self.classes)},
            **{"norm": self.moments.norm, "made": dict(self.made)},
        }
        tensors = {name: getattr(self.probes, name) for name in FITTED}
        tensors |= {"mean": self.moments.mean, "scale": self.moments.scale}
        write_tensors(Path(path), tensors, note, what="the tagger ")
        return Path(path)

    @classmethod
    @door
    def load(cls, path: str | os.PathLike[str]) -> "Tagger":
        """Read what `save` wrote.

        Raises:
            ResultsError: no such file, another kind or version, or damaged.
        """
        path = Path(path)
        with open_content(path, CONTENT, VERSION, remedy=REMEDY) as held:
            note = held.note
            told(note, path, REMEDY, NOTE)
            tensors = {name: held.read(name).clone() for name in (*FITTED, "mean", "scale")}
        mean, scale = tensors.pop("mean"), tensors.pop("scale")
        sites = tuple(map(Site.parse, note["sites"]))
        moments = Moments(mean, scale, note["norm"])
        probes = LinearProbe(**tensors)
        return cls(
            note["task"],
            sites,
            tuple(note["classes"]),
            probes,
            moments,
            note["ahead"],
            note["made"],
        )

    def _require(self, given: Mapping[str, Any]) -> None:
        """Refuse activations that came about in another way."""
        of, now = self.made, dict(given)
        by = "weights" if "weights" in of and "weights" in now else "model"
        if of.get(by) != now.get(by):
            raise ProbeError(
                f"this tagger reads {_said(of)}, and the activations are of {_said(now)}. What a "
                "direction means differs between models, also before and after training: fit a "
                "tagger to this one."
            )
        if of["pool"] != now["pool"]:
            raise ProbeError(
                f"this tagger reads words pooled as {of['pool']!r}, and the activations are of "
                f"{now['pool']!r}; collect them with pool={of['pool']!r}."
            )

    def __repr__(self) -> str:
        return (
            f"Tagger of {self.task} ({len(self.classes)} labels): {len(self.sites)} sites "
            f"({self.sites[0]} to {self.sites[-1]}) of {_said(self.made)}"
        )


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


def _said(made: Mapping[str, Any]) -> str:
    """A model, told apart from another of its name."""
    weights = f" (weights {made['weights'][:12]})" if "weights" in made else ""
    return f"{made.get('model')}{weights}"


def _corpus(texts: Sequence[str]) -> Corpus:
    """Texts that do not see one another."""
    documents = tuple(
        Document(str(i), (Sentence(str(i), text, plain.split(text)),))
        for i, text in enumerate(texts)
    )
    found = Corpus("text", documents, frozenset())
    if not found.n_words:
        raise ProbeError(f"there is no word in the {len(texts)} texts, so nothing to label.")
    return found
