"""What the probes are asked: the use of a homograph, and the sense of a word."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch

import interp
from experiments._probing import NAMES, with_dev
from experiments.homographs.items import Items, only, some
from interp.core.tables.scores import Scores
from interp.datasets.corpus import Corpus, Document, Word
from interp.datasets.made.homographs import homographs
from interp.datasets.made.senses import senses
from interp.datasets.made.templates import targets
from interp.probing import Split, Tagging, tagging
from interp.probing.ask.controls import Classes
from interp.probing.fit.scoring import correct, score

UD = {"train": "dev", "dev": "test"}
"""Its smaller parts, which are enough for two tags: these probes are tested on other text."""
DRAWS = 5
"""Of control labels: with few word types one draw says nothing of others."""
ALONE = "subset in ['all', 'dev']"
"""Every test lemma is unseen."""


def ask_uses(
    items: Callable[..., Items],
    *,
    lemmas: tuple[int, int, int],
    words: tuple[int, int],
    context: int,
    seed: int,
) -> Scores:
    """Noun or verb: homographs by where the cue is, and to and from web text."""
    mine = {
        name: items(f"homographs-{name}", targets(some(homographs(split=name), n)))
        for name, n in zip(NAMES, lemmas, strict=True)
    }

    def tag(_: Document, word: Word) -> str:
        return "VERB" if word.upos == "VERB" else "NOUN"

    def having(**facts: str | dict[str, str]) -> dict[str, Split]:
        """Those with certain facts, which may depend on the split."""

        def holds(document: Document, name: str) -> bool:
            wanted = {fact: v if isinstance(v, str) else v[name] for fact, v in facts.items()}
            return wanted.items() <= document.facts.items()

        return {
            name: part.split(tag, lambda document, _, name=name: holds(document, name))
            for name, part in mine.items()
        }

    asked = {
        "use, new wordings": having(context="before", wording={name: name for name in NAMES}),
        "use, same wordings": having(context="before", wording="train"),
        "use, cue after": having(context="after"),
    }
    english = {}
    for name, n in (("train", words[0]), ("dev", words[0] // 3)):
        text = interp.datasets.corpus("ud-ewt", split=UD[name]).sample(n, seed=seed)
        text = only(text, lambda word: word.upos in ("NOUN", "VERB"))
        english[name] = items(f"ud-{name}", text, context=context).split(tag)
    web = interp.datasets.corpus("noun-verb", split="dev").sample(words[1], seed=seed)
    web = only(web, lambda word: word.upos is not None)
    web = items("noun-verb", web, control=False).split(tag)
    asked["use, probe of UD"] = {**english, "test": asked["use, new wordings"]["test"]}
    tagged = {
        task: tagging(**splits, task=task, draws=DRAWS, seed=seed) for task, splits in asked.items()
    }
    commonest = max(sorted(set(web.labels)), key=web.labels.count)
    right = np.array([float(label == commonest) for label in web.labels])
    note = {"majority": commonest}
    return Scores.concat(
        [
            *(with_dev(found).query(ALONE) for found in tagged.values()),
            applied(tagged["use, new wordings"], web, task="noun-verb, probe of homographs"),
            applied(tagged["use, probe of UD"], web, task="noun-verb, probe of UD"),
            Scores.of(right, web.cluster, task="noun-verb", probe="majority", provenance=note),
        ]
    )


def ask_senses(
    items: Callable[..., Items], *, lemmas: tuple[int, int, int], cues: int, seed: int
) -> Scores:
    """Nature or culture: by distance of the cue, at the target and before it; and of two cues."""
    corpora: dict[str, Corpus] = {}
    for name, n in zip(NAMES, lemmas, strict=True):
        corpus = some(senses(split=name), n)
        corpora[name] = targets(replace(corpus, documents=corpus.documents[::cues]), before=1)
    one = {
        name: items(f"senses-{name}", part.where(lambda d: d.facts["cues"] == "1"))
        for name, part in corpora.items()
    }
    # two cues are asked about, never learned from
    two = corpora["test"].where(lambda d: d.facts["cues"] == "2")
    two = items("senses-two", two, control=False)

    def near(document: Document, _: Word) -> str:
        return document.facts["near"]

    tables = []
    for task, place in (("sense, word before", 0), ("sense", 1)):

        def here(_: Document, at: int, place: int = place) -> bool:
            return at == place

        splits = {name: part.split(near, here) for name, part in one.items()}
        found = tagging(**splits, task=task, draws=DRAWS, seed=seed)
        tables.append(with_dev(found).query(ALONE))
        for part in (one["test"], two):
            split = part.split(near, here)
            named = [conditions(part.documents[i].facts) for i in split.words]
            names = dict.fromkeys(name for mine in named for name in mine)
            subsets = {name: np.array([name in mine for mine in named]) for name in names}
            tables.append(applied(found, split, task=task, subsets=subsets))
    return Scores.concat(tables)


def conditions(facts: Mapping[str, str]) -> list[str]:
    """The names of the subsets that a text of one cue or two belongs to."""
    if facts["cues"] == "1":
        return [f"one cue, {facts['distance']} words"]
    how = "agree" if facts["near"] == facts["far"] else "conflict"
    name = f"{how}, {facts['far_distance']} words"
    return [name, f"{facts['lemma']}: {name}"] if facts["lemma"] == "bank" else [name]


def applied(
    found: Tagging, split: Split, *, task: str, subsets: Mapping[str, np.ndarray] | None = None
) -> Scores:
    """The fitted probes asked about other words of the same model."""
    y = torch.from_numpy(Classes(found.tagger.classes).encode(split.labels))[None]
    return score(
        correct(found.tagger.log_probs(split.features, split.words)[:, None], y),
        split.cluster,
        sites=split.features.sites,
        labels=["real"],
        task=task,
        probe="linear",
        model="trained",
        subsets=subsets,
        provenance=found.scores.provenance,
    )
