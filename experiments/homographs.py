"""At which layer is "ring" a noun or a verb? Does a far-away "money" decide "bank"?

Sets of our own, split by lemma, so that a probe is asked about words that it was not trained on.
First the homographs: "my *ring* fell" / "they will *ring* the bell". Linear probes read the use
off the residual stream at the target, after every layer. Where the deciding words come before the
target, a causal model can know; wordings that the probe was trained on are kept apart from new
ones, since an untrained model too tells two known sentences apart. Where the deciding words only
follow, the model runs on the very same tokens for both uses, and must be at chance. Then the
probes are asked about web text (the noun-verb file), and probes of web text (UD EWT) about the
homographs.

Second the senses: "the *money* ... the bank", with 0 to 40 words between, and two cues that may
disagree. One probe reads nature or culture off the target, another off the word before it, which
knows the topic but not the target.

    python experiments/homographs.py                 # SmolLM2-135M, minutes on two cores
    python experiments/homographs.py --size full     # all cues, more web text
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from homographs_report import draw, summarise

import interp
from interp.core.parts.sites import Site
from interp.core.tables.scores import Scores
from interp.datasets.corpus import Corpus, Document, Sentence, Word
from interp.datasets.made.homographs import homographs
from interp.datasets.made.senses import senses
from interp.datasets.made.templates import targets
from interp.models import untrained
from interp.probing.ask.controls import Classes
from interp.probing.ask.split import Split
from interp.probing.ask.tagging import Tagging, tagging
from interp.probing.fit.scoring import correct, score
from interp.probing.read.collect import collect
from interp.probing.read.features import Features

NAMES = ("train", "dev", "test")
UD = {"train": "dev", "dev": "test"}
"""Its smaller parts, which are enough for two tags: these probes are tested on other text."""
SIZES = {
    # residual streams of the trained and the untrained model; lemmas of train, dev and test of
    # the homographs and of the senses; words of UD and of the noun-verb file
    "smoke": ((5, 3), (3, 2, 2), (2, 2, 2), (300, 150)),
    "default": ((30, 6), (30, 10, 10), (22, 8, 8), (4_000, 5_000)),
    "full": ((30, 30), (30, 10, 10), (22, 8, 8), (21_000, 41_000)),
}
Keep = Callable[[Document, int], bool]
DRAWS = 5
"""Of control labels: with few word types one draw says nothing of others."""


@dataclass(frozen=True)
class Config:
    """What is run. The same config finds its results again.

    Attributes:
        size: how many layers, lemmas and words of web text are taken.
        context: tokens that a word of web text may see.
    """

    model: str = "smollm2-135m"
    size: Literal["smoke", "default", "full"] = "default"
    context: int = 256
    seed: int = 0
    out: Path = field(default=Path("runs"), metadata={"hash": False})


@dataclass(frozen=True, eq=False)
class Items:
    """Words of a corpus with their activations, and the document that each stands in."""

    words: tuple[Word, ...]
    documents: tuple[Document, ...]
    features: Features
    random: Features | None

    def split(self, label: Callable[[Document, Word], str], keep: Keep = lambda *_: True) -> Split:
        """Those for which `keep` holds of the document and the word's place among its words."""
        pairs = zip(self.documents, self.features.word.tolist(), strict=True)
        chosen = [i for i, (document, place) in enumerate(pairs) if keep(document, place)]
        return Split(
            self.features,
            self.random,
            np.asarray(chosen),
            tuple(label(self.documents[i], self.words[i]) for i in chosen),
            tuple(self.words[i].form.lower() for i in chosen),
            tuple(self.documents[i].id for i in chosen),
            len(self.features.missing),
        )


def run(config: Config) -> Scores:
    """Run or resume the experiment and return every score."""
    run = interp.runs.open_run("homographs", config, root=config.out)
    if run.finished:
        return run.scores()
    model = interp.load(config.model)
    models = {"trained": model, "random": untrained(model, seed=config.seed)}
    sites = dict(zip(models, (streams(model, n) for n in SIZES[config.size][0]), strict=True))
    kept = run.folder / "activations"

    def items(
        name: str, corpus: Corpus, *, context: int | None = None, control: bool = True
    ) -> Items:
        """The words of a corpus; without `control` of the trained model alone."""
        found = {
            which: collect(
                models[which],
                corpus,
                sites=sites[which],
                context=context,
                folder=kept / f"{which}-{name}",
            )
            for which in (models if control else ["trained"])
        }
        features = found["trained"]
        owners = [document for document in corpus.documents for _ in document.sentences]
        at = zip(features.sentence, features.word, strict=True)
        words, documents = zip(
            *((corpus.sentences[s].words[w], owners[s]) for s, w in at), strict=True
        )
        return Items(words, documents, features, found.get("random"))

    uses = run.stage("uses", lambda _: ask_uses(items, config))
    meanings = run.stage("senses", lambda _: ask_senses(items, config))
    everything = Scores.concat([uses, meanings])
    draw(run, everything)
    run.finish(everything, summarise(model.name, everything))
    shutil.rmtree(kept, ignore_errors=True)
    return run.scores()


def streams(model: interp.Model, count: int) -> list[Site]:
    """The embedding and residual streams at equal steps up to the last."""
    n = model.facts.n_layers
    count = min(n, count)
    layers = [round(n * (i + 1) / count) - 1 for i in range(count)]
    return [Site("resid_pre", 0), *(Site("resid_post", layer) for layer in layers)]


def ask_uses(items: Callable[..., Items], config: Config) -> Scores:
    """Noun or verb: homographs by where the cue is, and to and from web text."""
    _, lemmas, _, (ud_words, web_words) = SIZES[config.size]
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
    for name, n in (("train", ud_words), ("dev", ud_words // 3)):
        text = interp.datasets.corpus("ud-ewt", split=UD[name]).sample(n, seed=config.seed)
        text = only(text, lambda word: word.upos in ("NOUN", "VERB"))
        english[name] = items(f"ud-{name}", text, context=config.context).split(tag)
    web = interp.datasets.corpus("noun-verb", split="dev").sample(web_words, seed=config.seed)
    web = only(web, lambda word: word.upos is not None)
    web = items("noun-verb", web, control=False).split(tag)
    asked["use, probe of UD"] = {**english, "test": asked["use, new wordings"]["test"]}
    tagged = {
        task: tagging(**splits, task=task, draws=DRAWS, seed=config.seed)
        for task, splits in asked.items()
    }
    commonest = max(sorted(set(web.labels)), key=web.labels.count)
    right = np.array([float(label == commonest) for label in web.labels])
    note = {"majority": commonest}
    return Scores.concat(
        [
            *map(with_dev, tagged.values()),
            applied(tagged["use, new wordings"], web, task="noun-verb, probe of homographs"),
            applied(tagged["use, probe of UD"], web, task="noun-verb, probe of UD"),
            Scores.of(right, web.cluster, task="noun-verb", probe="majority", provenance=note),
        ]
    )


def ask_senses(items: Callable[..., Items], config: Config) -> Scores:
    """Nature or culture: by distance of the cue, at the target and before it; and of two cues."""
    corpora: dict[str, Corpus] = {}
    for name, n in zip(NAMES, SIZES[config.size][2], strict=True):
        corpus = some(senses(split=name), n)
        if config.size != "full":
            corpus = replace(corpus, documents=corpus.documents[::2])  # one cue of every two
        corpora[name] = targets(corpus, before=1)
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
        found = tagging(**splits, task=task, draws=DRAWS, seed=config.seed)
        tables.append(with_dev(found))
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


def some(corpus: Corpus, lemmas: int) -> Corpus:
    """The first lemmas of a corpus."""
    chosen = list(dict.fromkeys(corpus.clusters))[:lemmas]
    return corpus.where(lambda document: document.id in chosen)


def only(corpus: Corpus, keep: Callable[[Word], bool]) -> Corpus:
    """The same texts, of whose words only some are asked about."""

    def asked(document: Document) -> Document:
        return replace(document, sentences=tuple(map(kept, document.sentences)))

    def kept(sentence: Sentence) -> Sentence:
        # heads are counted in the words that were there
        words = (replace(w, head=None, relation=None) for w in sentence.words if keep(w))
        return replace(sentence, words=tuple(words))

    return replace(corpus, documents=tuple(map(asked, corpus.documents)))


def with_dev(found: Tagging) -> Scores:
    """Scores of a tagging; those on the development split are the subset "dev"."""
    dev = found.dev.frame.assign(subset="dev")
    test = found.scores.frame.query("subset == 'all'")  # every test lemma is unseen
    return Scores(pd.concat([test, dev], ignore_index=True), found.scores.provenance)


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


def main(config: Config) -> None:
    scores = run(config)
    folder = interp.runs.open_run("homographs", config, root=config.out).folder
    table = scores.query(
        "metric == 'accuracy' and subset != 'dev' and labels == 'real' and model != 'random'"
    ).summary()
    best = table.sort_values("value", ascending=False).groupby(["task", "subset"], sort=False)
    shown = ["task", "subset", "site", "value", "low", "high", "n", "clusters"]
    print(best.head(1)[shown].to_string(index=False, float_format="{:.3f}".format))
    print(interp.runs.report(folder))


if __name__ == "__main__":
    interp.runs.script(main, Config)
