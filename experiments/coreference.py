"""Who does "he" refer to: where is it decodable, which head looks there, and does the model use it?

*Decodable*: mention pairs of English novels (LitBank), half of which corefer, as many at each
distance; a span-pair probe and a bilinear one after some layers, beside shuffled labels, the same
architecture with random weights, and methods without a model. *Attended*: in each layer the head
that is best, on half of the documents, at looking from a pronoun to its antecedent, reported on the
other half (Clark et al. 2019); and the same between two people of different gender. *Used*: on
minimal pairs ("... and the nun laughed because" -> she), what the difference of the two pronouns'
logits loses when LEACE (Belrose et al. 2023) takes the gender away at the noun or at the end, when
each layer's head is set to its mean, and when the corrupt prompt's value of that head alone reaches
the logits. The three stand side by side. Last, the *order*: the expected layer (Tenney et al. 2019)
of part of speech, dependency relations and coreference.

    python experiments/coreference.py                 # SmolLM2-135M, 12 minutes on two cores
    python experiments/coreference.py --size smoke
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
import tyro

import interp
from interp.circuits.attended import attended
from interp.circuits.relations import compare_heads, relations
from interp.core.pairs import Pairs
from interp.core.results import Results
from interp.core.scores import Scores
from interp.core.sites import Site
from interp.core.stats import CONFIDENCE
from interp.datasets.corpus import Corpus, require_disjoint
from interp.datasets.pronoun_pairs import Answer, pronoun_pairs
from interp.datasets.pronouns import pronouns
from interp.models import untrained
from interp.probing.amnesic import amnesic, beyond
from interp.probing.collect import collect
from interp.probing.controls import Classes
from interp.probing.coreference import TASK, MentionPairs, Reads, mention_pairs
from interp.probing.erasure import erasers
from interp.probing.examples import Examples
from interp.probing.features import Features
from interp.probing.mixing import expected_layer_draws, expected_layer_interval
from interp.probing.nets import Bilinear, Net
from interp.probing.scoring import correct, score
from interp.probing.spans import SpanClassifier
from interp.probing.trained import fit_probe
from interp.probing.training import Schedule

SKIPPED = ("punct", "root")
"""Relations that are not asked: the one is its word's tag, the other has one word only."""
ORDER = ("part of speech", "dependency relation", TASK)
PRONOUN, CONTROLLED = "antecedent of pronoun", "he or she, controlled"
NOUN, END = "cue", "end"


@dataclass(frozen=True)
class Numbers:
    """How much of everything.

    Attributes:
        novels, each: novels for the probes, and words of the beginning of each.
        looked: novels for attention.
        controlled: words of the controlled set, for attention.
        web: words of train, dev and test of web text.
        layers: residual streams that are read, beside the embedding; at most.
        pairs, fitting: minimal pairs before the couples are halved; those that are intervened on,
            and those that the erasures and the means are fitted to.
        epochs: of the probes, at most.
    """

    novels: int
    each: int
    looked: int
    controlled: int
    web: tuple[int, int, int]
    layers: int
    pairs: int
    fitting: int
    epochs: int


SIZES = {
    "smoke": Numbers(8, 150, 4, 200, (400, 150, 250), 3, 40, 120, 6),
    "default": Numbers(48, 500, 20, 3000, (6000, 1500, 3000), 10, 160, 800, 25),
    "full": Numbers(80, 2000, 80, 12_000, (40_000, 8000, 20_000), 30, 600, 2000, 40),
}


@dataclass(frozen=True)
class Config:
    """What is run. The same config finds its results again.

    Attributes:
        size: how much of everything; numbers given by hand win.
        context: tokens that a mention may look back over: sentences share rows.
        project, hidden: dimensions of the probes of spans.
    """

    model: str = "smollm2-135m"
    size: Literal["smoke", "default", "full"] = "default"
    numbers: Numbers | None = None
    context: int = 256
    project: int = 64
    hidden: int = 128
    seed: int = 0
    out: Path = field(default=Path("runs"), metadata={"hash": False})

    def sized(self) -> "Config":
        """With the numbers that its size stands for."""
        return replace(self, numbers=self.numbers or SIZES[self.size])

    @property
    def n(self) -> Numbers:
        return self.numbers or SIZES[self.size]

    @property
    def schedule(self) -> Schedule:
        return Schedule(epochs=self.n.epochs, batch=256)


def run(config: Config) -> Scores:
    """Run or resume the experiment; returns the scores of probes, chosen heads and baselines.

    What the interventions did is in the run's folder, `stages/`.
    """
    config = config.sized()
    run = interp.runs.open_run("coreference", config, root=config.out)
    if run.finished:
        return run.scores()
    model = interp.load(config.model)
    models = {"trained": model, "random": untrained(model, seed=config.seed)}
    kept = run.folder / "activations"
    decoded = run.stage("decodable", lambda _: decodable(models, kept, config))
    order = run.stage("order", lambda _: in_order(model, kept, config))
    looks = run.stage("attended", lambda _: looking(model, config))
    heads = best_heads(looks, PRONOUN)
    sites = list(dict.fromkeys(heads.query("probe == 'attention'").frame["site"]))
    does = run.stage("behaviour", lambda _: behaviour(model, config))
    erased = run.stage("erased", partial(erasing, model, config))
    acts = run.stage("heads", partial(acting, model, sites, config))
    scores = Scores.concat([decoded, order, heads, best_heads(looks, CONTROLLED)])
    panel = side_by_side(scores, used(erased, acts, does))
    expected = expected_layers(order, model, config)
    draw(run, scores, panel, expected)
    run.finish(scores, summarise(model, scores, looks, panel, expected, does))
    shutil.rmtree(kept, ignore_errors=True)
    return run.scores()


def some(model: interp.Model, most: int) -> list[Site]:
    """The embedding and streams at equal steps up to the last layer: a divisor of their number."""
    count = model.facts.n_layers
    parts = max(n for n in range(1, count + 1) if count % n == 0 and n <= max(most, 1))
    ends = range(count // parts - 1, count, count // parts)
    return [Site("resid_pre", 0), *(Site("resid_post", layer) for layer in ends)]


def beginnings(count: int, words: int, *, seed: int) -> Corpus:
    """The beginnings of some novels, in random order."""
    text = interp.datasets.corpus("litbank")
    text = text.sample(text.n_words, seed=seed)
    cut = [replace(text, documents=(d,)).head(words).documents for d in text.documents[:count]]
    return replace(text, documents=tuple(document for (document,) in cut))


def parts(pairs: MentionPairs, corpus: Corpus) -> dict[str, MentionPairs]:
    """Pairs of half of the novels to train on, of a fifth to stop on, and of the others."""
    ids = [document.id for document in corpus.documents]
    ends = [0, round(0.5 * len(ids)), round(0.7 * len(ids)), len(ids)]
    names = ("train", "dev", "test")
    return {name: pairs.of(ids[ends[i] : ends[i + 1]]) for i, name in enumerate(names)}


def decodable(models: Mapping[str, interp.Model], kept: Path, config: Config) -> Scores:
    """Probes of mention pairs at each layer, with every control."""
    n = config.n
    text = beginnings(n.novels, n.each, seed=config.seed)
    sites = some(models["trained"], n.layers)
    names = [str(site) for site in sites]
    nets: dict[str, tuple[Net, Reads]] = {
        "span pair": (span_pair(config), "spans"),
        "bilinear": (Bilinear(), "heads"),
    }
    found: list[Scores] = []
    for which, model in models.items():
        features = novel_features(model, text, which, kept, config)
        splits = parts(mention_pairs(text, features, seed=config.seed), text)
        test = splits["test"]
        labels = ("real", "shuffled") if which == "trained" else ("real",)
        for probe, (net, reads) in nets.items():
            examples = {
                name: pairs.examples(
                    features,
                    torch.stack([pairs.y, pairs.shuffled(seed=config.seed)])[: len(labels)],
                    **{"reads": reads, "sites": names},
                )
                for name, pairs in splits.items()
            }
            fitted = fit_probe(
                *(net, examples["train"], examples["dev"]),
                **{"classes": 2, "sites": names, "labels": labels},
                **{"schedule": config.schedule, "seed": config.seed},
            )
            asked = examples["test"]
            right = correct(fitted.log_probs(asked.x, asked.rows), asked.y)
            note = {"pairs": {name: len(pairs) for name, pairs in splits.items()}}
            found.append(
                score(
                    *(right, test.cluster),
                    **{"sites": sites, "labels": labels, "task": TASK, "probe": probe},
                    **{"model": which, "subsets": test.subsets},
                    provenance=note | {"not converged": int((~fitted.converged).sum())},
                )
            )
        if which == "trained":
            found.append(test.score_baselines())
    return Scores.concat(found)


def span_pair(config: Config, spans: Literal[1, 2] = 2) -> SpanClassifier:
    """The classifier of the first and the last word of each span."""
    return SpanClassifier(spans, "endpoints", config.project, config.hidden)


def novel_features(
    model: interp.Model, text: Corpus, which: str, kept: Path, config: Config
) -> Features:
    """Activations of the novels; from the folder where they were collected before."""
    sites = some(model, config.n.layers)
    folder = kept / f"novels-{which}"
    return collect(model, text, sites=sites, context=config.context, folder=folder)


def in_order(model: interp.Model, kept: Path, config: Config) -> Scores:
    """Cumulative probes (Tenney et al. 2019) of tags, of relations and of coreference."""
    n = config.n
    sites = some(model, n.layers)
    web = {
        name: interp.datasets.corpus("ud-ewt", split=name).sample(words, seed=config.seed)
        for name, words in zip(("train", "dev", "test"), n.web, strict=True)
    }
    require_disjoint(web)
    of_web = {
        name: collect(model, corpus, sites=sites, folder=kept / f"web-{name}")
        for name, corpus in web.items()
    }
    text = beginnings(n.novels, n.each, seed=config.seed)
    features = novel_features(model, text, "trained", kept, config)
    splits = parts(mention_pairs(text, features, seed=config.seed), text)
    names = [str(site) for site in sites]
    pairs = {
        name: (part.examples(features, part.y[None], sites=names), part.cluster)
        for name, part in splits.items()
    }
    asked = {
        ORDER[0]: (span_pair(config, 1), words_of(web, of_web, "upos")),
        ORDER[1]: (span_pair(config, 2), words_of(web, of_web, "relation")),
        ORDER[2]: (span_pair(config, 2), pairs),
    }
    found = []
    for task, (net, split) in asked.items():
        fitted = fit_probe(
            *(net, split["train"][0], split["dev"][0]),
            **{"sites": names, "labels": ("real",), "source": "cumulative"},
            **{"schedule": config.schedule, "seed": config.seed},
        )
        test, cluster = split["test"]
        right = correct(fitted.log_probs(test.x, test.rows), test.y)
        note = {"not converged": int((~fitted.converged).sum()), "words": list(n.web)}
        found.append(
            score(
                *(right, cluster),
                **{"sites": sites, "labels": ("real",), "task": task, "probe": "cumulative"},
                **{"model": "trained", "provenance": note},
            )
        )
    return Scores.concat(found)


Split = dict[str, tuple[Examples, tuple[str, ...]]]


def words_of(
    web: Mapping[str, Corpus],
    features: Mapping[str, Features],
    label: Literal["upos", "relation"],
) -> Split:
    """Words and their tags; or words, with their heads, and their relations."""
    drawn: dict[str, tuple[list[tuple[int, ...]], list[str], list[str]]] = {}
    for name, corpus in web.items():
        at = zip(features[name].sentence.tolist(), features[name].word.tolist(), strict=True)
        place = {where: i for i, where in enumerate(at)}
        rows, labels, cluster = drawn.setdefault(name, ([], [], []))
        for (sentence, word), i in place.items():
            this = corpus.sentences[sentence].words[word]
            said = getattr(this, label)
            head = i if label == "upos" else place.get((sentence, this.head), -1)
            if said is None or said in SKIPPED or head < 0:
                continue
            rows.append((i, i + 1) if label == "upos" else (i, i + 1, head, head + 1))
            labels.append(said)
            cluster.append(corpus.clusters[sentence])
    classes = Classes.of(drawn["train"][1], rare="drop")
    found: Split = {}
    for name, (rows, labels, cluster) in drawn.items():
        y = torch.from_numpy(classes.encode(labels))
        known = (y >= 0).nonzero().flatten()
        x = features[name].stack().float()
        examples = Examples(x, torch.tensor(rows)[known], y[None, known])
        found[name] = (examples, tuple(cluster[i] for i in known.tolist()))
    return found


def looking(model: interp.Model, config: Config) -> Scores:
    """Every head, from a pronoun of a novel to its antecedent, and between two people."""
    n = config.n
    text = beginnings(n.looked, n.each, seed=config.seed)
    seen = attended(model, text, context=config.context)
    novels = relations(seen, text, minimum=1, seed=config.seed).query(f"task == '{PRONOUN}'")
    text = pronouns(kind="gender").sample(n.controlled, seed=config.seed)
    pairs = relations(attended(model, text), text, minimum=1, seed=config.seed)
    pairs = pairs.query(f"task == '{PRONOUN}'")
    return Scores.concat([novels, Scores(pairs.frame.assign(task=CONTROLLED), pairs.provenance)])


def best_heads(looks: Scores, task: str) -> Scores:
    """The best head of each layer, chosen on half of the documents, on the others; baselines."""
    of_task = looks.query(f"task == '{task}' and metric == 'accuracy'")
    heads = of_task.query("subset == 'choose' and probe == 'attention'").summary()
    best = heads.loc[heads.groupby("layer")["value"].idxmax(), "site"]
    frame = of_task.query("subset == 'report'").frame
    kept = frame["site"].isin(set(best)) | (frame["probe"] != "attention")
    frame = frame[kept].sort_values(["layer"], kind="stable").reset_index(drop=True)
    return Scores(frame.assign(subset="report"), looks.provenance)


def halves(model: interp.Model, config: Config, answer: Answer = "pronoun") -> tuple[Pairs, Pairs]:
    """Pairs to fit to and pairs to report on: no couple of nouns is in both."""
    n = config.n
    found = [
        pronoun_pairs(model, n=count, seed=config.seed + i, kind="gender", answer=answer)
        for i, count in enumerate((n.fitting, n.pairs))
    ]
    couples = sorted({*found[0].cluster, *found[1].cluster})
    shuffled = np.random.default_rng(config.seed).permutation(len(couples))
    fitting = {couples[i] for i in shuffled[: len(couples) // 2]}
    rows = [
        [i for i, couple in enumerate(pairs.cluster) if (couple in fitting) == (which == 0)]
        for which, pairs in enumerate(found)
    ]
    return found[0].select(rows[0]), found[1].select(rows[1])


def behaviour(model: interp.Model, config: Config) -> Results:
    """Whom the model means, on both sides, with the answers as pronouns and as nouns."""
    parts = []
    for answer in ("pronoun", "antecedent"):
        done = interp.evaluate(model, halves(model, config, answer)[1])
        parts.append(Results(done.frame.assign(method=f"say {answer}"), done.provenance))
    return Results.concat(parts)


def erasing(model: interp.Model, config: Config, checkpoint: Path) -> Results:
    """Gender taken away after some layers: at the noun that is meant, and at the end."""
    fit, report = halves(model, config)
    sites = some(model, config.n.layers)
    sides = [
        interp.capture(model, fit, [str(s) for s in sites], positions=[NOUN, END], side=side)
        for side in ("clean", "corrupt")
    ]
    gender = torch.cat([fit.correct, fit.wrong])
    found = []
    for i, place in enumerate((NOUN, END)):
        x = {site: torch.cat([side[site][:, i] for side in sides]) for site in sites}
        # before the first layer the end is the same whoever is meant: there is nothing to erase
        x = {site: here for site, here in x.items() if place == NOUN or site.kind != "resid_pre"}
        done = amnesic(
            *(model, report, erasers(x, gender, seed=config.seed)),
            **{"positions": place, "metric": "logit_diff", "checkpoint": checkpoint / place},
        )
        found += [done, beyond(done)]
    return Results.concat(found)


def acting(model: interp.Model, heads: Sequence[str], config: Config, checkpoint: Path) -> Results:
    """Each layer's head, and another of its layer: set to its mean, and on its path to the end."""
    rng = np.random.default_rng(config.seed)
    chosen = [Site.parse(head) for head in heads]
    other = [
        replace(s, head=int(rng.choice([h for h in range(model.facts.n_heads) if h != s.head])))
        for s in chosen
    ]
    found = []
    for answer in ("pronoun", "antecedent"):
        fit, report = halves(model, config, answer)
        for name, sites in (("best", chosen), ("another", other)):
            if answer == "antecedent" and name == "another":
                continue
            done = interp.ablate(
                *(model, by_template(report), sites),
                **{"reference": by_template(fit), "method": "mean"},
                checkpoint=checkpoint / f"{answer}-{name}",
            )
            frame = done.frame.assign(
                method=f"mean of {name} head, say {answer}",
                cluster=[report.cluster[i] for i in done.frame["example"]],
            )
            found.append(Results(frame, done.provenance))
        if answer == "pronoun":
            done = interp.path_patch(model, report, senders=chosen, checkpoint=checkpoint / "paths")
            frame = done.frame.assign(method="path of best head to logits")
            found.append(Results(frame, done.provenance))
    return Results.concat(found)


def by_template(pairs: Pairs) -> Pairs:
    """With the template as cluster, within which means are taken: the prompt but for its people."""
    names = [name for name in ("antecedent", "competitor", "cue") if name in pairs.positions]
    tokens = pairs.clean.clone()
    for name in names:
        tokens[torch.arange(len(pairs)), pairs.at(name)] = -1
    cut = zip(tokens.tolist(), pairs.lengths.tolist(), strict=True)
    return replace(pairs, cluster=tuple(str(row[:length]) for row, length in cut))


def summary(results: Results) -> pd.DataFrame:
    """Each method by itself: the two kinds of answers have pairs of their own."""
    methods = dict.fromkeys(results.frame["method"])
    tables = [results.query(f"method == '{method}'").summary() for method in methods]
    return pd.concat(tables, ignore_index=True)


def used(erased: Results, acts: Results, does: Results) -> pd.DataFrame:
    """What interventions take of the logit difference, as a share of that of the clean run.

    The mean of the clean run is taken as known: intervals are of the effect.
    """
    table = pd.concat([summary(erased), summary(acts)], ignore_index=True)
    clean = summary(does.query("position == 'clean' and metric == 'logit_diff'"))
    base = clean.set_index("method")["value"]
    answer = table["method"].str.extract(r"say (\w+)$", expand=False).fillna("pronoun")
    per = -base.loc[[f"say {name}" for name in answer]].to_numpy()
    ends = np.sort(np.stack([table["low"] / per, table["high"] / per]), axis=0)
    depth = [Site.parse(site).depth for site in table["site"]]
    inside = table["head"].notna().to_numpy()  # a head of layer l writes to the stream after it
    where = table["position"].where(table["method"].str.startswith("erase"), "")
    return table.assign(
        curve=(table["method"] + where.map({NOUN: ", at the noun", END: ", at the end", "": ""})),
        layer=np.array(depth, dtype=int) + inside,
        value=table["effect"] / per,
        low=ends[0],
        high=ends[1],
    )


DECODABLE, ATTENDED, USED = "decodable", "attended", "used"
CURVES = {  # panel and name of what stands side by side
    ("span pair", "trained", "real"): (DECODABLE, "span-pair probe"),
    ("span pair", "trained", "shuffled"): (DECODABLE, "shuffled labels"),
    ("span pair", "random", "real"): (DECODABLE, "untrained model"),
    ("attention", "trained", PRONOUN): (ATTENDED, "best head, novels"),
    ("attention", "trained", CONTROLLED): (ATTENDED, "best head, two people"),
}
USES = {
    "erase leace, at the noun": "gender erased at the noun",
    "erase leace, at the end": "gender erased at the end",
    "erase random, at the noun": "random direction, at the noun",
    "mean of best head, say pronoun": "best head set to its mean",
    "path of best head to logits": "its path to the logits",
}


def side_by_side(scores: Scores, uses: pd.DataFrame) -> pd.DataFrame:
    """One row for each curve and layer: `panel`, `curve`, `layer`, `value`, `low`, `high`, `site`.

    A stream stands at the layers it has passed, and a head with the stream that it writes to.
    """
    table = scores.summary().dropna(subset=["layer"])
    table = table[table["subset"].isin(["all", "report"])]
    attention = table["probe"] == "attention"
    of = table["labels"].where(~attention, table["task"])
    named = [CURVES.get(key) for key in zip(table["probe"], table["model"], of, strict=True)]
    kept = np.array([name is not None for name in named])
    table = table.assign(layer=table["layer"].astype(int) + attention)[kept]
    both = [name for name in named if name is not None]
    table = table.assign(panel=[p for p, _ in both], curve=[c for _, c in both])
    uses = uses.assign(panel=USED, curve=uses["curve"].map(USES)).dropna(subset=["curve"])
    columns = ["panel", "curve", "layer", "site", "value", "low", "high", "n", "clusters"]
    together = pd.concat([table[columns], uses[columns]], ignore_index=True)
    order = [name for _, name in CURVES.values()] + list(USES.values())
    rank = together["curve"].map({name: i for i, name in enumerate(order)})
    return together.iloc[np.lexsort([together["layer"], rank])].reset_index(drop=True)


def levels(scores: Scores) -> pd.DataFrame:
    """What methods without a model reach, by panel."""
    table = scores.summary()
    table = table[table["layer"].isna() & table["subset"].isin(["all", "report"])]
    panel = table["task"].map({TASK: DECODABLE, PRONOUN: ATTENDED})
    table = table.assign(panel=panel, curve=table["probe"]).dropna(subset=["panel"])
    return table[["panel", "curve", "value", "low", "high"]]


def expected_layers(order: Scores, model: interp.Model, config: Config) -> pd.DataFrame:
    """Expected layer of each task, and of each task less that of the one before.

    Columns: `task`, `before` (empty, or the task that is subtracted), `value`, `low`, `high`, and
    of differences `later`: the share of bootstrap draws in which the task's layer is the later one.
    Tasks of the same documents are drawn together.
    """
    step = model.facts.n_layers / (len(some(model, config.n.layers)) - 1)
    rows, draws = [], {}
    for task in ORDER:
        frame = order.query(f"task == '{task}'").frame
        totals = frame.pivot(index="layer", columns="cluster", values="total").sort_index()
        counts = frame.groupby("cluster")["n"].first().loc[totals.columns]
        given = totals.to_numpy(dtype=float), counts.to_numpy(dtype=float)
        seed = config.seed + (task == TASK)  # other documents: draws of their own
        value, low, high = (step * x for x in expected_layer_interval(*given, seed=seed))
        draws[task] = step * expected_layer_draws(*given, seed=seed)
        rows.append({"task": task, "before": "", "value": value, "low": low, "high": high})
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    for i, (before, task) in enumerate(pairwise(ORDER)):
        gap = draws[task] - draws[before]
        known = gap[~np.isnan(gap)]
        enough = len(known) >= CONFIDENCE * len(gap)
        low, high = np.quantile(known, tails) if enough else (np.nan, np.nan)
        rows.append(
            {
                **{"task": task, "before": before},
                **{"value": rows[i + 1]["value"] - rows[i]["value"], "low": low, "high": high},
                "later": float((known > 0).mean()) if enough else np.nan,
            }
        )
    return pd.DataFrame(rows)


def draw(run: interp.runs.Run, scores: Scores, panel: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Every figure, with its table beside it."""
    baselines = levels(scores)
    run.figure(
        "side-by-side",
        interp.figures.layers(
            panel,
            **{"hue": "curve", "panel": "panel", "baselines": baselines},
            ylabel="accuracy, or share of logit difference lost",
        ),
        pd.concat([panel, baselines]),
    )
    table = scores.query("labels != 'shuffled'").summary()
    probes = table[table["probe"].isin(["span pair", "bilinear"]) & (table["subset"] != "all")]
    untrained_too = probes["model"].map({"trained": "", "random": ", untrained model"})
    probes = probes.assign(curve=probes["probe"] + untrained_too)
    others = table[(table["task"] == TASK) & table["layer"].isna()].assign(
        curve=lambda t: t["probe"]
    )
    run.figure(
        "kinds",
        interp.figures.layers(probes, hue="curve", baselines=others, panel="subset"),
        pd.concat([probes, others]),
    )
    cumulative = table[table["probe"] == "cumulative"]
    run.figure(
        "order",
        interp.figures.layers(
            cumulative, hue="task", ylabel="accuracy of a mix of the layers up to here"
        ),
        pd.concat([cumulative, expected]),
    )


def summarise(
    model: interp.Model,
    scores: Scores,
    looks: Scores,
    panel: pd.DataFrame,
    expected: pd.DataFrame,
    does: Results,
) -> str:
    """The result in one paragraph of numbers with their intervals."""
    curves = {name: part.set_index("layer") for name, part in panel.groupby("curve")}
    probe = curves["span-pair probe"]
    best = probe["value"].idxmax()
    low = levels(scores).set_index(["panel", "curve"])["value"]
    said = summary(does).set_index(["method", "position", "metric"])
    says = said.loc["say pronoun"]
    kinds = scores.query(
        f"site == '{probe.loc[best, 'site']}' and probe == 'span pair' and labels == 'real' "
        "and model == 'trained' and subset != 'all'"
    ).summary()
    sentences = [
        f'Who does "he" refer to, in {model.name}? Of two mentions of a novel, at distances that '
        f"tell nothing (chance 0.5), a span-pair probe says best after layer {best} of "
        f"{model.facts.n_layers} whether they corefer: {interval(probe.loc[best])} ("
        + ", ".join(f"{row['subset']} {row['value']:.2f}" for _, row in kinds.iterrows())
        + f"); the embedding has {interval(probe.loc[0])}, head match "
        f"{low[DECODABLE, 'head match']:.2f}, gender and number "
        f"{low[DECODABLE, 'gender and number']:.2f}, the untrained model at best "
        f"{curves['untrained model']['value'].max():.2f}, shuffled labels at most "
        f"{curves['shuffled labels']['value'].max():.2f}.",
        *(looks_there(looks, task) for task in (PRONOUN, CONTROLLED)),
        "On minimal pairs the model says the pronoun of the one who is meant in "
        f"{interval(says.loc[('clean', 'accuracy')])} (logit difference "
        f"{interval(says.loc[('clean', 'logit_diff')])}), and names the one whom a pronoun means "
        f"in {interval(said.loc[('say antecedent', 'clean', 'accuracy')])}.",
        *(loses(curves, name) for name in (*list(USES.values())[:2], *list(USES.values())[3:])),
        of_order(expected),
        "Brackets are 95 % bootstrap intervals over the novels, documents or couples of nouns that "
        "nothing was chosen on or fitted to; the best layer is the best of those shown.",
    ]
    return f"# Coreference in {model.name}\n\n{' '.join(sentences)}\n"


def looks_there(looks: Scores, task: str) -> str:
    """The best head of all, beside its baseline."""
    table = compare_heads(looks.query(f"task == '{task}'"))
    row = table[table["chosen"]].iloc[0]
    where = "In novels" if task == PRONOUN else "Between two people of different gender"
    return (
        f"{where} the head that looks from a pronoun to its antecedent is {row['site']}: "
        f"{interval(row)} on the half that it was not chosen on, {row['baseline']} "
        f"{row['baseline_value']:.2f} (q = {row['q']:.2g} over all heads)."
    )


def loses(curves: Mapping[str, pd.DataFrame], name: str) -> str:
    """Where an intervention costs most, with its control."""
    curve = curves[name]
    layer = curve["value"].idxmax()
    row = curve.loc[layer]
    head = f" (head {row['site']})" if "head" in name or "path" in name else ""
    there = f"{name[0].upper()}{name[1:]} takes most after layer {layer}{head}: {interval(row)}"
    if name == USES["erase leace, at the noun"]:
        control = curves[USES["erase random, at the noun"]].loc[layer]
        return (
            f"{there} of the logit difference, where a random direction takes {interval(control)}."
        )
    return f"{there}."


def of_order(expected: pd.DataFrame) -> str:
    """Whether tags come before relations, and these before coreference."""
    alone = expected[expected["before"] == ""]
    gaps = expected[expected["before"] != ""]
    listed = ", ".join(f"{row['task']} {interval(row, 1)}" for _, row in alone.iterrows())
    verdicts = []
    for _, row in gaps.iterrows():
        verdict = (
            "earlier" if row["low"] > 0 else "later" if row["high"] < 0 else "not told apart from"
        )
        joined = verdict if verdict.startswith("not") else f"{verdict} than"
        verdicts.append(f"{row['before']} is {joined} {row['task']} (by {interval(row, 1)} layers)")
    return f"Expected layers of cumulative probes: {listed}; {', and '.join(verdicts)}."


def interval(row: pd.Series | Mapping[str, float], digits: int = 2) -> str:
    """A number with its interval."""
    value, low, high = (float(row[name]) for name in ("value", "low", "high"))
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def main(config: Config) -> None:
    run(config)
    folder = interp.runs.open_run("coreference", config.sized(), root=config.out).folder
    table = pd.read_csv(folder / "figures" / "side-by-side.csv")
    wide = table.dropna(subset=["layer"]).pivot(index="layer", columns="curve", values="value")
    print(wide.to_string(float_format="{:.3f}".format, na_rep=""))
    print("\n" + (folder / "summary.md").read_text())
    for path in sorted(folder.rglob("*.*")):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            print(f"wrote {path}")


if __name__ == "__main__":
    main(tyro.cli(Config))
