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

    python experiments/pos.py                 # SmolLM2-135M, a quarter of an hour on two cores
    python experiments/pos.py --size full     # 60,000 training words, the whole test set
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from pos_use import DRAWS, by_depth, erased, halves, labelled, reads, strength

import interp
from interp.core.parts.sites import Site
from interp.core.tables.scores import Scores
from interp.datasets.corpus import require_disjoint
from interp.models import untrained
from interp.probing.ask.controls import Classes, control_task
from interp.probing.ask.mdl import description_length
from interp.probing.ask.split import Split
from interp.probing.ask.tagging import tagging
from interp.probing.fit.linear import fit_linear
from interp.probing.fit.moments import Moments
from interp.probing.fit.nets.examples import Examples
from interp.probing.fit.nets.nets import Mlp
from interp.probing.fit.nets.trained import fit_probe
from interp.probing.fit.scoring import correct, score
from interp.probing.read.collect import collect
from interp.probing.use.beyond import beyond, by_kind
from interp.probing.use.erasure import probe_directions, random_directions
from interp.probing.use.persistence import persistence
from interp.runs import interval

TASK = "upos"
SIZES = {  # words of train, dev and test; words of the code and of MLP-1
    "smoke": ((1200, 500, 600), 600),
    "default": ((24_000, 5_000, 10_000), 8_000),
    "full": ((60_000, 8_000, 30_000), 60_000),
}

FEWER = "linear, fewer words"
READ = {"smoke": 200, "default": 3_000, "full": 12_000}
"""Words of running text whose loss is measured."""


@dataclass(frozen=True)
class Config:
    """What is run. The same config finds its results again.

    Attributes:
        size: of the defaults below; a number given by hand wins.
        words: of train, dev and test, whole documents but the last.
        costly: words that the online code and MLP-1 take.
        context: tokens that a word may see: sentences of a document share rows.
        hidden: width of MLP-1.
    """

    model: str = "smollm2-135m"
    corpus: str = "ud-ewt"
    size: Literal["smoke", "default", "full"] = "default"
    words: tuple[int, int, int] | None = None
    costly: int | None = None
    context: int = 256
    hidden: int = 300
    seed: int = 0
    out: Path = field(default=Path("runs"), metadata={"hash": False})

    def sized(self) -> "Config":
        """With the numbers that its size stands for."""
        words, costly = SIZES[self.size]
        return replace(self, words=self.words or words, costly=self.costly or costly)


def run(config: Config) -> Scores:
    """Run or resume the experiment and return every score."""
    config = config.sized()
    run = interp.runs.open_run("pos", config, root=config.out)
    if run.finished:
        return run.scores()
    names = ("train", "dev", "test")
    corpora = {
        name: interp.datasets.corpus(config.corpus, split=name).sample(n, seed=config.seed)
        for name, n in zip(names, config.words or (), strict=True)
    }
    require_disjoint(corpora)
    model = interp.load(config.model)
    models = {"trained": model, "random": untrained(model, seed=config.seed)}
    kept = run.folder / "activations"
    sites = {"trained": "resid", "random": [str(s) for s in some(model, 6)]}
    collected = {
        (which, name): collect(
            models[which],
            corpus,
            sites=sites[which],
            context=config.context,
            folder=kept / f"{which}-{name}",
        )
        for which in models
        for name, corpus in corpora.items()
    }
    splits = {
        name: Split.of(
            corpora[name], collected["trained", name], collected["random", name], TASK
        ).after_first()
        for name in names
    }
    tags = run.stage("tagging", lambda _: tag(splits, config))
    best = str(
        tags.query("model == 'trained' and labels == 'real' and subset == 'dev'").best()["site"]
    )
    fewer = {"train": cut(splits["train"], config.costly or 0), **{n: splits[n] for n in names[1:]}}
    bits = run.stage(
        "bits",
        lambda _: description_length(
            fewer["train"], task=TASK, sites=some(model, 6), rare="drop", seed=config.seed
        ),
    )
    chosen = list(dict.fromkeys(["0.resid_pre", best, str(some(model, 1)[-1])]))
    nets = run.stage("capacity", lambda _: capacity(fewer, chosen, config))
    stays = run.stage("persistence", lambda _: remains(splits, best, config))
    used = run.stage(
        "erasure",
        partial(
            erased,
            model,
            splits["train"],
            splits["dev"],
            corpora["test"].head(READ[config.size]),
            some(model, 6),
            context=config.context,
            draws=DRAWS[config.size],
            seed=config.seed,
        ),
    )
    everything = Scores.concat([tags, bits, nets, stays])
    draw(run, everything, used)
    run.finish(everything, summarise(model, everything, used, best))
    shutil.rmtree(kept)
    return run.scores()


def some(model: interp.Model, count: int) -> list[Site]:
    """The embedding and `count` residual streams at equal steps up to the last."""
    last = model.facts.n_layers - 1
    layers = sorted({round(last * i / count) for i in range(1, count + 1)})
    return [Site("resid_pre", 0), *(Site("resid_post", layer) for layer in layers)]


def cut(split: Split, words: int) -> Split:
    """The first words of a split, whose documents are in random order."""
    return split.select(range(min(words, len(split.labels))))


def tag(splits: Mapping[str, Split], config: Config) -> Scores:
    """Linear probes and their controls; development scores are the subset "dev"."""
    found = tagging(*splits.values(), task=TASK, rare="drop", seed=config.seed)
    dev = Scores(found.dev.frame.assign(subset="dev"), found.dev.provenance)
    return Scores.concat([found.scores, dev])


def capacity(splits: Mapping[str, Split], sites: Sequence[str], config: Config) -> Scores:
    """MLP-1 and a linear probe of the same words: a stronger probe remembers more.

    Both learn the same labels, real and control; selectivity grows with the training words, so
    that of the probes of all words would not compare.
    """
    found = tagging(*splits.values(), task=TASK, sites=sites, rare="drop", seed=config.seed).scores
    linear = found.query("model == 'trained' and subset == 'all'")
    linear = Scores(linear.frame.assign(probe=FEWER), linear.provenance)
    return Scores.concat([linear, mlp(splits, sites, config)])


def mlp(splits: Mapping[str, Split], sites: Sequence[str], config: Config) -> Scores:
    """MLP-1 on real and control labels."""
    classes = Classes.of(splits["train"].labels, rare="drop")
    parts = {}
    splits = {name: labelled(split, classes) for name, split in splits.items()}
    train = splits["train"]
    real = {name: classes.encode(split.labels) for name, split in splits.items()}
    drawn = control_task(
        train.types, real["train"], splits=[s.types for s in splits.values()], seed=config.seed
    )
    for (name, split), control in zip(splits.items(), drawn, strict=True):
        y = torch.from_numpy(np.stack([real[name], control]))
        parts[name] = Examples.of_words(split.features.stack(split.words, sites=sites).float(), y)
    labels = ("real", "control")
    probe = fit_probe(
        Mlp(config.hidden),
        parts["train"],
        parts["dev"],
        classes=len(classes),
        sites=sites,
        labels=labels,
        seed=config.seed,
    )
    right = correct(probe.log_probs(parts["test"].x), parts["test"].y)
    note = {"not converged": int((~probe.converged).sum()), "hidden": config.hidden}
    return score(
        right,
        splits["test"].cluster,
        sites=[Site.parse(site) for site in sites],
        labels=labels,
        task=TASK,
        probe="mlp-1",
        model="trained",
        provenance=note,
    )


def remains(splits: Mapping[str, Split], best: str, config: Config) -> Scores:
    """The directions that a probe of the best layer reads, at every layer of the test words."""
    classes = Classes.of(splits["train"].labels, rare="drop")
    train, test = (labelled(splits[name], classes) for name in ("train", "test"))
    x = train.features.stack(train.words, sites=[best]).float()
    moments = Moments.of(x)
    y = torch.from_numpy(classes.encode(train.labels))[None]
    probe = fit_linear(
        moments.standardise_(x.clone()), y, l2=torch.tensor([0.01]), classes=len(classes)
    )
    weight = probe.weight[0, 0] * moments.scale[0][:, None]
    read = probe_directions(x[0], weight)
    control = random_directions(x[0], rank=read.rank, seed=config.seed)
    return persistence(
        test.features,
        classes.encode(test.labels),
        test.cluster,
        {f"probe of {best}": read.left, "random": control.left},
        task=TASK,
        words=test.words,
        provenance=test.features.provenance,
    )


def draw(run: interp.runs.Run, scores: Scores, used: interp.Results) -> None:
    """Every figure, with its table beside it."""
    table = scores.summary()
    linear = table.query(
        "probe == 'linear' and metric == 'accuracy' and subset in ['all', 'unseen']"
    )
    linear = linear.assign(
        curve=linear["model"].map({"trained": "", "random": "untrained model, "})
        + linear["labels"].map({"real": "tags", "control": "control task"}),
        words=linear["subset"].map({"all": "all words", "unseen": "unseen word types"}),
    )
    levels = table.query("probe in ['majority', 'word type'] and metric == 'accuracy'")
    levels = levels.assign(
        curve=levels["probe"],
        words=levels["subset"].map({"all": "all words", "unseen": "unseen word types"}),
    )
    run.figure(
        "accuracy",
        interp.figures.layers(linear, hue="curve", baselines=levels, panel="words"),
        pd.concat([linear, levels]),
    )
    real, control = (
        scores.query(
            f"labels == '{name}' and metric == 'accuracy' and subset == 'all' and layer >= 0"
        )
        for name in ("real", "control")
    )
    selective = real.minus(control, ignoring=["labels"])
    selective = selective.assign(curve=selective["probe"] + ", " + selective["model"])
    run.figure(
        "selectivity",
        interp.figures.layers(selective, hue="curve", ylabel="selectivity (accuracy)"),
        selective,
    )
    bits = table.query("metric == 'bits'")
    coded = bits.query("probe == 'linear'")
    coded = coded.assign(
        curve=coded["model"].map({"trained": "", "random": "untrained model, "})
        + coded["labels"].map({"real": "tags", "control": "control task"})
    )
    uniform = bits.query("probe == 'uniform'").assign(curve="uniform code")
    run.figure(
        "bits",
        interp.figures.layers(coded, hue="curve", baselines=uniform, ylabel="bits per tag"),
        pd.concat([coded, uniform]),
    )
    stays = table.query("metric in ['variance share', 'between share']")
    run.figure(
        "persistence",
        interp.figures.layers(stays, hue="probe", panel="metric", ylabel="share"),
        stays,
    )
    lost = by_depth(by_kind(used))
    run.figure(
        "erasure",
        interp.figures.layers(
            lost, hue="erased", ylabel="next-token loss added (nats, mean of rows)"
        ),
        lost,
    )
    left = reads(used)
    majority = left.head(1).assign(
        curve="majority", value=left["majority"], low=np.nan, high=np.nan
    )
    run.figure("still-read", interp.figures.layers(left, hue="erased", baselines=majority), left)
    less = by_depth(beyond(used))
    run.figure(
        "beyond",
        interp.figures.layers(less, hue="erased", ylabel="loss added beyond the control (nats)"),
        less,
    )


def summarise(model: interp.Model, scores: Scores, used: interp.Results, best: str) -> str:
    """The result in one paragraph of numbers with their intervals."""
    table = scores.summary()
    test = table.query("metric == 'accuracy' and subset == 'all'")
    linear = test.query("probe == 'linear' and labels == 'real'").set_index(["model", "site"])
    new = table.query("subset == 'unseen' and labels == 'real'")
    unseen = new.set_index(["probe", "model", "site"])
    at_best = scores.query(
        f"model == 'trained' and site == '{best}' and metric == 'accuracy' and subset == 'all'"
    )
    selective = (
        at_best.query("labels == 'real'")
        .minus(at_best.query("labels == 'control'"), ignoring=["labels"])
        .set_index("probe")
    )
    real = scores.query("model == 'trained' and labels == 'real' and subset == 'all'")
    over = (
        real.query(f"site == '{best}' and probe == 'linear' and metric == 'accuracy'")
        .minus(scores.query("probe == 'word type' and subset == 'all'"))
        .iloc[0]
    )
    depth = Site.parse(best).depth
    bits = table.query("metric == 'bits'").set_index(["probe", "model", "labels", "site"])
    coded = bits.loc["linear", "trained", "real"]
    near = min(coded.index, key=lambda site: abs((Site.parse(site).depth or 0) - (depth or 0)))
    uniform = bits.loc["uniform"]["value"].iloc[0]
    stays = table.query("metric == 'between share'").set_index(["probe", "site"])
    last = str(Site("resid_post", model.facts.n_layers - 1))
    choose, report = halves(used)
    worst = by_depth(by_kind(choose)).set_index(["erased", "layer"]).loc["leace"]["effect"].idxmax()
    lost = by_depth(by_kind(report)).query(f"layer == {worst}").set_index("erased")
    more = by_depth(beyond(report)).query(f"layer == {worst}").set_index("control")
    beside = "; ".join(
        f"{name} {interval(lost.loc[kind], 'effect')}, which LEACE exceeds by "
        f"{interval(more.loc[kind], 'effect')} (p = {more.loc[kind, 'p']:.2g})"
        for kind, name in (
            ("random", "as many random directions cost"),
            ("same variance", "as many of the same variance"),
            ("control task", "LEACE of control-task labels"),
        )
    )
    doubtful = np.atleast_1d(scores.provenance["not converged"]).sum()
    majority = test.query("probe == 'majority'")["value"].iloc[0]
    sentences = [
        f"Part of speech in {model.name}: of the residual streams, the one that is best on the "
        f"development documents ({depth} of {model.facts.n_layers} layers) gives a linear probe "
        f"{interval(linear.loc[('trained', best)])} accuracy on the test documents, "
        f"{interval(over)} more than the most frequent tag of each word type; the majority tag "
        f"has {majority:.3f}, the embedding "
        f"{interval(linear.loc[('trained', '0.resid_pre')])}.",
        f"On word types that training has not, it has "
        f"{interval(unseen.loc[('linear', 'trained', best)])} where the word-type baseline has "
        f"{unseen.loc[('word type', 'none', '')]['value']:.3f}.",
        f"An untrained model has at best {linear.loc['random']['value'].max():.3f}.",
        f"Selectivity there is {interval(selective.loc['linear'])}; with fewer training words, the "
        f"same for both, {interval(selective.loc[FEWER])} for the linear probe and "
        f"{interval(selective.loc['mlp-1'])} for an MLP-1.",
        f"The online code needs {interval(coded.loc[near])} bits a tag at {near} and "
        f"{interval(coded.loc['0.resid_pre'])} at the embedding, {uniform:.2f} without any.",
        f"Of the variance along the directions that a linear probe of {best} reads, "
        f"{interval(stays.loc[(f'probe of {best}', best)])} is between the tags there and "
        f"{interval(stays.loc[(f'probe of {best}', last)])} after the last layer, along random "
        f"directions {interval(stays.loc[('random', best)])} and "
        f"{interval(stays.loc[('random', last)])}.",
        f"On half of the documents, taking the tags away by LEACE at the last tokens of words "
        f"costs most after layer {worst}; on the other half it costs "
        f"{interval(lost.loc['leace'], 'effect')} nats of next-token loss there (mean over rows of "
        f"text). Of {lost.loc['random', 'draws']} draws each, {beside}.",
        strength(used, worst, "the tag"),
        f"{doubtful} probes did not converge." if doubtful else "All probes converged.",
        "Brackets are 95 % intervals over documents; of controls, of one more draw too.",
    ]
    return f"# Part of speech in {model.name}\n\n{' '.join(sentences)}\n"


def main(config: Config) -> None:
    scores = run(config)
    folder = interp.runs.open_run("pos", config.sized(), root=config.out).folder
    shown = ["site", "probe", "model", "labels", "subset", "value", "low", "high", "n", "clusters"]
    table = scores.query("metric == 'accuracy' and subset != 'dev'").summary()
    best = table.sort_values("value", ascending=False).groupby(
        ["probe", "model", "labels", "subset"]
    )
    print(best.head(1)[shown].to_string(index=False, float_format="{:.3f}".format))
    print(interp.runs.report(folder))


if __name__ == "__main__":
    interp.runs.script(main, Config)
