"""At which layer is a word's part of speech there, and does the model use it?

Universal part-of-speech tags of English web text (UD EWT) are read off the residual stream after
every layer by linear probes, each choice made on the development documents and each number
reported on the test documents. Beside every score stand its controls: the majority tag, the most
frequent tag of the word's type, the embedding (layer 0), the same architecture with random weights,
and the control task of Hewitt & Liang 2019; word types that training has not are apart. Then:
the bits of an online code (Voita & Titov 2020), an MLP-1 beside a linear probe of the same words,
whether later layers keep the directions in which the best layer says it, and what the model's
next-token loss does when LEACE (Belrose et al. 2023) takes the tags away at a layer, chosen on half
of the documents and reported on the other half. Words that begin a row are in no score: without a
BOS token they are attention sinks.

    python -m experiments.pos                 # SmolLM2-135M, half an hour on two cores
    python -m experiments.pos --size full     # 60,000 training words, the whole test set
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import interp
from experiments._probing import NAMES, web_text, with_dev
from experiments._shared import Sized, experiment, steps, streams
from experiments.pos.probes import TASK, capacity, cut, remains
from experiments.pos.report import draw, summarise
from experiments.pos.use import erased
from interp.core.tables.scores import Scores
from interp.models import untrained
from interp.probing import Split, collect, description_length, tagging
from interp.runs import Run


@dataclass(frozen=True, kw_only=True)
class Config(Sized):
    """What is run.

    Attributes:
        words: of train, dev and test, whole documents but the last.
        layers: residual streams of the trained model beside the embedding, at equal steps; None
            for all.
        costly: words that the online code and MLP-1 take.
        read: words of running text whose loss is measured.
        draws: of each control of an erasure.
        context: tokens that a word may see: sentences of a document share rows.
        hidden: width of MLP-1.
    """

    sizes: ClassVar = {
        "smoke": {"words": (500, 200, 300), "costly": 250, "read": 100, "draws": 3, "layers": 3},
        "default": {"words": (24_000, 5_000, 10_000), "costly": 8_000, "read": 3_000, "draws": 8},
        "full": {"words": (60_000, 8_000, 30_000), "costly": 60_000, "read": 12_000, "draws": 8},
    }
    model: str = "smollm2-135m"
    corpus: str = "ud-ewt"
    words: tuple[int, int, int] | None = None
    layers: int | None = None
    costly: int | None = None
    read: int | None = None
    draws: int | None = None
    context: int = 256
    hidden: int = 300


@experiment("pos")
def run(folder: Run, config: Config) -> tuple[Scores, str]:
    """Every score."""
    seed = config.seed
    model = interp.load(config.model)
    last = model.facts.n_layers - 1
    six, end = streams(steps(last, config.layers or 6)), str(streams([last])[-1])
    every = "resid" if config.layers is None else [str(site) for site in six]
    text = web_text(config.words, seed=seed, name=config.corpus)
    kept = folder.folder / "activations"

    def activations(
        name: str, which: str, model: interp.Model, sites: object
    ) -> interp.probing.Features:
        here = kept / f"{which}-{name}"
        return collect(model, text[name], sites=sites, context=config.context, folder=here)

    random = untrained(model, seed=seed)
    splits = {
        name: Split.of(
            text[name],
            activations(name, "trained", model, every),
            activations(name, "random", random, [str(site) for site in six]),
            TASK,
        ).after_first()
        for name in NAMES
    }
    fewer = splits | {"train": cut(splits["train"], config.costly)}
    tags = folder.stage(
        "tagging", lambda _: with_dev(tagging(*splits.values(), task=TASK, rare="drop", seed=seed))
    )
    best = str(
        tags.query("model == 'trained' and labels == 'real' and subset == 'dev'").best()["site"]
    )
    bits = folder.stage(
        "bits",
        lambda _: description_length(fewer["train"], task=TASK, sites=six, rare="drop", seed=seed),
    )
    chosen = list(dict.fromkeys(["0.resid_pre", best, end]))
    nets = folder.stage(
        "capacity", lambda _: capacity(fewer, chosen, hidden=config.hidden, seed=seed)
    )
    stays = folder.stage("persistence", lambda _: remains(splits, best, seed=seed))
    used = folder.stage(
        "erasure",
        partial(
            erased,
            model,
            splits["train"],
            splits["dev"],
            text["test"].head(config.read),
            six,
            context=config.context,
            draws=config.draws,
            seed=seed,
        ),
    )
    scores = Scores.concat([tags, bits, nets, stays])
    draw(folder, scores, used)
    return scores, summarise(model, scores, used, best=best, last=end)
