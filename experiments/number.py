"""Is a noun's number decodable, and is it what the verb agrees with?

Singular and plural nouns of English web text (UD EWT) are told apart by linear probes after some
layers, beside every control of `interp.probing.tagging`. Then the same property is taken away
(LEACE, Belrose et al. 2023; what the probe reads; as many random directions, as many of the same
variance, LEACE of control-task labels) at every token but the first of Marvin & Linzen's (2018)
agreement prompts, and the model is asked for the verb. The erasures are fitted to nouns alone, so
at the other tokens of a prompt they take away what would be number in a noun. Last, the
activations at the end of the prompt are moved along the probe's direction, towards the other number
and away from it, and along a random direction as far.

    python experiments/number.py                 # SmolLM2-135M, 10 minutes on two cores
    python experiments/number.py --size smoke
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
from pos_use import DRAWS, by_depth, halves, reads, strength

import interp
from interp.core.parts.sites import Site
from interp.core.tables.results import Results
from interp.core.tables.scores import Scores
from interp.datasets.corpus import require_disjoint
from interp.datasets.tasks.agreement import agreement
from interp.models import untrained
from interp.probing import HeldOut, by_kind, erasers
from interp.probing.ask.tagging import Split, tagging
from interp.probing.fit.linear import fit_linear
from interp.probing.fit.moments import Moments
from interp.probing.read.collect import collect
from interp.probing.use import amnesic, beyond
from interp.probing.use.steering import steer, steering_vector
from interp.runs import interval

TASK = "number"
TAGS = ("NN", "NNS")
"""Singular and plural, which become the classes 0 and 1."""
SIZES = {  # words of train, dev and test; streams that are read beside the embedding; prompts
    "smoke": ((3_000, 800, 1_200), 3, 24),
    "default": ((30_000, 6_000, 10_000), 10, 160),
    "full": ((60_000, 12_000, 30_000), 30, 600),
}
DOSES = (-2.0, -1.0, 0.0, 1.0, 2.0)


@dataclass(frozen=True)
class Config:
    """What is run. The same config finds its results again.

    Attributes:
        size: of the defaults below; a number given by hand wins.
        words: of train, dev and test.
        layers: residual streams beside the embedding, at equal steps.
        prompts: of agreement.
        context: tokens that a word may see: sentences of a document share rows.
    """

    model: str = "smollm2-135m"
    size: Literal["smoke", "default", "full"] = "default"
    words: tuple[int, int, int] | None = None
    layers: int | None = None
    prompts: int | None = None
    context: int = 256
    seed: int = 0
    out: Path = field(default=Path("runs"), metadata={"hash": False})

    def sized(self) -> "Config":
        """With the numbers that its size stands for."""
        words, layers, prompts = SIZES[self.size]
        return replace(
            self,
            words=self.words or words,
            layers=self.layers or layers,
            prompts=self.prompts or prompts,
        )


def run(config: Config) -> Scores:
    """Run or resume the experiment; returns the scores of the probes.

    What the interventions did is in the run's folder, `stages/`.
    """
    config = config.sized()
    run = interp.runs.open_run(TASK, config, root=config.out)
    if run.finished:
        return run.scores()
    model = interp.load(config.model)
    kept = run.folder / "activations"
    splits = nouns(model, kept, config)
    tags = run.stage("probes", lambda _: probes(splits, config))
    sites = [Site.parse(site) for site in dict.fromkeys(splits["train"].features.sites)]
    pairs = agreement(model, n=config.prompts or 0, seed=config.seed)
    erased = run.stage("erased", partial(erasing, model, pairs, splits, sites, config))
    steered = run.stage("steered", partial(steering, model, pairs, splits["train"], sites, config))
    draw(run, tags, erased, steered)
    run.finish(tags, summarise(model, tags, erased, steered))
    shutil.rmtree(kept)
    return run.scores()


def nouns(model: interp.Model, kept: Path, config: Config) -> dict[str, Split]:
    """Singular and plural nouns that do not begin a row, by split."""
    last = model.facts.n_layers - 1
    depths = sorted(
        {round(last * i / (config.layers or 1)) for i in range(1, (config.layers or 1) + 1)}
    )
    sites = [Site("resid_pre", 0), *(Site("resid_post", layer) for layer in depths)]
    control = untrained(model, seed=config.seed)
    corpora = {
        name: interp.datasets.corpus("ud-ewt", split=name).sample(n, seed=config.seed)
        for name, n in zip(("train", "dev", "test"), config.words or (), strict=True)
    }
    require_disjoint(corpora)
    found = {}
    for name, text in corpora.items():
        both = [
            collect(m, text, sites=sites, context=config.context, folder=kept / f"{name}-{i}")
            for i, m in enumerate((model, control))
        ]
        words = Split.of(text, both[0], both[1], "xpos").after_first()
        found[name] = words.select([i for i, tag in enumerate(words.labels) if tag in TAGS])
    return found


def probes(splits: Mapping[str, Split], config: Config) -> Scores:
    """Linear probes and their controls; development scores are the subset "dev"."""
    found = tagging(*splits.values(), task=TASK, seed=config.seed)
    dev = Scores(found.dev.frame.assign(subset="dev"), found.dev.provenance)
    return Scores.concat([found.scores, dev])


def classes(split: Split) -> torch.Tensor:
    """0 of singular and 1 of plural nouns."""
    return torch.tensor([TAGS.index(tag) for tag in split.labels])


def directions(train: Split, site: Site) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Activations, classes, and a probe's weights in the scale of the activations."""
    x = train.features.stack(train.words, sites=[site]).float()
    y = classes(train)
    moments = Moments.of(x)
    probe = fit_linear(moments.standardise_(x.clone()), y[None], l2=torch.tensor([0.01]))
    return x[0], y, probe.weight[0, 0] * moments.scale[0][:, None]


def erasing(
    model: interp.Model,
    pairs: interp.Pairs,
    splits: Mapping[str, Split],
    sites: Sequence[Site],
    config: Config,
    kept: Path,
) -> Results:
    """The logit difference of the two verbs, and the accuracy, without number after a layer.

    What is left of it is asked on the nouns of the development documents.
    """
    train, dev = splits["train"], splits["dev"]
    read = {site: directions(train, site) for site in sites}
    held = {site: dev.features.stack(dev.words, sites=[site])[0] for site in sites}
    kinds = erasers(
        {site: here for site, (here, _, _) in read.items()},
        classes(train),
        types=train.types,
        weights={site: weight for site, (_, _, weight) in read.items()},
        held_out=HeldOut(held, classes(dev), dev.cluster),
        draws=DRAWS[config.size],
        seed=config.seed,
    )
    parts = [
        amnesic(model, pairs, kinds, metric=metric, checkpoint=kept / metric)
        for metric in ("logit_diff", "accuracy")
    ]
    return Results.concat(parts)


def singular(model: interp.Model, pairs: interp.Pairs) -> np.ndarray:
    """Whether the verb that is right is singular: the one of the two that ends in s."""
    return np.array([model.show([token])[0].endswith("s") for token in pairs.correct.tolist()])


def steering(
    model: interp.Model,
    pairs: interp.Pairs,
    train: Split,
    sites: Sequence[Site],
    config: Config,
    kept: Path,
) -> Results:
    """The logit difference when the end is moved; a dose of +1 is towards the other number."""
    parts = []
    of_one = singular(model, pairs)
    for number, sign in (("singular", 1.0), ("plural", -1.0)):
        rows = np.flatnonzero(of_one if number == "singular" else ~of_one)
        vectors = {}
        for site in sites:
            x, y, weight = directions(train, site)
            vectors[site] = sign * steering_vector(x, y, weight).float()
        found = steer(
            model,
            pairs.select(rows.tolist()),
            vectors,
            doses=DOSES,
            seed=config.seed,
            checkpoint=kept / number,
        )
        frame = found.frame.assign(example=rows[found.frame["example"]])
        parts.append(Results(frame, found.provenance))
    return Results.concat(parts)


def draw(run: interp.runs.Run, tags: Scores, erased: Results, steered: Results) -> None:
    """Every figure, with its table beside it."""
    table = tags.query("metric == 'accuracy' and subset == 'all'").summary()
    linear = table[table["probe"] == "linear"]
    linear = linear.assign(
        curve=linear["model"].map({"trained": "", "random": "untrained model, "})
        + linear["labels"].map({"real": "number", "control": "control task"})
    )
    levels = table[table["probe"] != "linear"].assign(curve=lambda t: t["probe"])
    run.figure(
        "probes",
        interp.figures.layers(linear, hue="curve", baselines=levels),
        pd.concat([linear, levels]),
    )
    lost = by_depth(by_kind(erased))
    run.figure(
        "erasure",
        interp.figures.layers(lost, hue="erased", panel="metric", ylabel="change by erasing"),
        lost,
    )
    left = reads(erased)
    majority = left.head(1).assign(
        curve="majority", value=left["majority"], low=np.nan, high=np.nan
    )
    run.figure("still-read", interp.figures.layers(left, hue="erased", baselines=majority), left)
    moved = by_depth(steered.summary())
    shown = moved["erased"].isin([f"steer {dose:+g}" for dose in DOSES if dose])
    shown |= moved["erased"] == f"steer random {max(DOSES):+g}"
    run.figure(
        "steering",
        interp.figures.layers(moved[shown], hue="erased", ylabel="logit difference added"),
        moved,
    )


def summarise(model: interp.Model, tags: Scores, erased: Results, steered: Results) -> str:
    """The result in one paragraph of numbers with their intervals."""
    real = tags.query("model == 'trained' and labels == 'real' and probe == 'linear'")
    best = real.query("subset == 'dev'").best()["site"]
    test = tags.query("subset in ['all', 'unseen']").summary()
    at = test.set_index(["probe", "model", "labels", "subset", "site"]).sort_index()
    selective = (
        real.query(f"site == '{best}' and subset == 'all'")
        .minus(
            tags.query(f"site == '{best}' and subset == 'all' and labels == 'control'").query(
                "model == 'trained'"
            ),
            ignoring=["labels"],
        )
        .iloc[0]
    )
    sentences = [
        f"Number of nouns in {model.name}: after layer {Site.parse(best).depth} of "
        f"{model.facts.n_layers}, the best on the development documents, a linear probe tells "
        f"plural from singular in {interval(at.loc[('linear', 'trained', 'real', 'all', best)])} "
        f"of the test nouns, and in "
        f"{interval(at.loc[('linear', 'trained', 'real', 'unseen', best)])} of those that training "
        f"has not; the embedding "
        f"{interval(at.loc[('linear', 'trained', 'real', 'all', '0.resid_pre')])}, the type's most "
        f"frequent {at.loc[('word type', 'none', 'real', 'all', '')]['value']:.3f}, the majority "
        f"{at.loc[('majority', 'none', 'real', 'all', '')]['value']:.3f}, an untrained model at "
        f"best {at.loc[('linear', 'random', 'real', 'all')]['value'].max():.3f}; selectivity "
        f"{interval(selective)}.",
    ]
    choose, report = halves(erased)
    logits = "metric == 'logit_diff'"
    worst = by_depth(by_kind(choose.query(logits))).query("erased == 'leace'")
    depth = worst.loc[worst["effect"].idxmin(), "layer"]
    more = by_depth(beyond(report.query(logits))).query(f"layer == {depth}").set_index("erased")
    took = []
    for metric, what in (("logit_diff", "logit difference"), ("accuracy", "accuracy")):
        lost = by_depth(by_kind(report.query(f"metric == '{metric}'"))).query(f"layer == {depth}")
        by = lost.set_index("erased")
        took.append(
            f"the {what} of {by.loc['leace', 'base']:.3f} changes by "
            f"{interval(by.loc['leace'], 'effect')}, by {interval(by.loc['probe'], 'effect')} if "
            f"only what the probe reads is erased, by {interval(by.loc['random'], 'effect')} for "
            f"a random direction, {interval(by.loc['same variance'], 'effect')} for one of the "
            f"same variance, and {interval(by.loc['control task'], 'effect')} for LEACE of "
            "control-task labels"
        )
    less = ", ".join(
        f"{interval(more.loc[f'leace - {kind}'], 'effect')} beyond {name} "
        f"(p = {more.loc[f'leace - {kind}', 'p']:.2g})"
        for kind, name in (
            ("random", "a random direction"),
            ("same variance", "one of the same variance"),
            ("control task", "control-task labels"),
        )
    )
    sentences.append(
        f"Number erased by LEACE after layer {depth}, where it costs half of the verbs most: of "
        f"the other half {'; '.join(took)}. Of the logit difference that is {less}. "
        f"{strength(erased, depth, 'number')} The erasures are fitted to nouns and put in at every "
        "token but the first."
    )
    choose, report = halves(steered)
    away = by_depth(choose.summary()).query("erased == 'steer +1'")
    depth = away.loc[away["effect"].idxmin(), "layer"]
    moved = by_depth(report.summary()).query(f"layer == {depth}").set_index("erased")
    sentences.append(
        f"Moved at the end of the prompt after layer {depth} (chosen likewise) by the distance of "
        f"the classes, the logit difference of {moved.loc['steer +1', 'base']:.2f} changes by "
        f"{interval(moved.loc['steer +1'], 'effect')} towards the other number, by "
        f"{interval(moved.loc['steer -1'], 'effect')} away from it, and by "
        f"{interval(moved.loc['steer random +1'], 'effect')} along a random direction."
    )
    sentences.append(
        "Brackets are 95 % intervals, over documents of nouns and over conditions and verbs of "
        "prompts; of controls of one more draw on more of them."
    )
    return f"# Number in {model.name}\n\n{' '.join(sentences)}\n"


def main(config: Config) -> None:
    run(config)
    folder = interp.runs.open_run(TASK, config.sized(), root=config.out).folder
    print(interp.runs.report(folder))


if __name__ == "__main__":
    interp.runs.script(main, Config)
