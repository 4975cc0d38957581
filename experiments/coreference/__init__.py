"""Who does "he" refer to: where is it decodable, which head looks there, and does the model use it?

*Decodable*: mention pairs of English novels (LitBank), half of which corefer, as many at each
distance; a span-pair probe and a bilinear one after some layers, beside a control task (a label
drawn once for each pair of head words), the same architecture with random weights, and methods
without a model. *Attended*: in each layer the head that is best, on half of the documents, at
looking from a pronoun to its antecedent, reported on the other half (Clark et al. 2019); and the
same between two people of different gender. *Used*: on minimal pairs, what the difference of the
two answers' logits loses when LEACE (Belrose et al. 2023) takes the gender away at the noun or at
the end ("... and the nun laughed because" -> she), beside random directions; and when a layer's
head is set to its mean, takes the twin prompt's value, or has that reach the logits alone, beside
other heads of the layer. Heads are asked first where there is a pronoun to look from ("The nun
called the monk when she ... It was easy to help the" -> nun). The three stand side by side. Last,
the *order*: the expected layer (Tenney et al. 2019) of part of speech, dependency relations and
coreference.

    python experiments/coreference.py                 # SmolLM2-135M, 15 minutes on two cores
    python experiments/coreference.py --size smoke
"""

import shutil
from functools import cache, partial

import pandas as pd
from coreference_decode import decodable, ordered
from coreference_order import expected_layers
from coreference_panel import CONTROLLED, PRONOUN, differences, side_by_side, used
from coreference_report import draw, summarise
from coreference_setting import Config, beginnings, some
from coreference_use import Gendered, Minimal, acting, behaviour, erasing, halves, still_read

import interp
from interp.core.tables.scores import Scores
from interp.datasets.made.pronouns import pronouns
from interp.heads.looking.attended import attended
from interp.heads.looking.relations import relations
from interp.models import untrained


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
    minimal = Minimal(config.n.fitting, config.n.pairs, config.seed)
    streams = some(model, config.n.layers)

    @cache
    def gendered(which: int) -> Gendered:
        return Gendered.of(model, halves(model, minimal)[which], streams)

    decoded = run.stage("decodable", lambda _: decodable(models, kept, config))
    order = run.stage("order", lambda _: ordered(model, kept, config))
    looks = run.stage("attended", lambda _: looking(model, config))
    heads = best_heads(looks, PRONOUN)
    sites = acted_on(looks, every=config.n.every)
    does = run.stage("behaviour", lambda _: behaviour(model, minimal))
    erased = run.stage("erased", partial(erasing, model, minimal, partial(gendered, 0)))
    reads = run.stage("still-read", lambda _: still_read(gendered(0), gendered(1)))
    acts = run.stage("heads", partial(acting, model, sites, minimal))
    scores = Scores.concat([decoded, order, reads, heads, best_heads(looks, CONTROLLED)])
    uses = used(erased, acts, does, seed=config.seed)
    panel, less = side_by_side(scores, uses), differences(scores, uses)
    expected = expected_layers(order, seed=config.seed)
    draw(run, scores, order, reads, panel, less, expected)
    text = summarise(model, scores, looks, reads, panel, less, uses, expected, does)
    run.finish(scores, text)
    shutil.rmtree(kept, ignore_errors=True)
    return run.scores()


def looking(model: interp.Model, config: Config) -> Scores:
    """Every head, from a pronoun of a novel to its antecedent, and between two people."""
    n = config.n
    text = beginnings(*n.looked, seed=config.seed)
    seen = attended(model, text, context=config.context)
    novels = relations(seen, text, minimum=1, seed=config.seed).query(f"task == '{PRONOUN}'")
    text = pronouns(kind="gender").sample(n.controlled, seed=config.seed)
    pairs = relations(attended(model, text), text, minimum=1, seed=config.seed)
    frame = pairs.query(f"task == '{PRONOUN}'").frame.assign(task=CONTROLLED)
    return Scores.concat([novels, Scores(frame, pairs.provenance)])


def by_choosing(looks: Scores, task: str) -> pd.DataFrame:
    """The best head of each layer on the documents that heads are chosen on."""
    of_task = looks.query(f"task == '{task}' and metric == 'accuracy'")
    heads = of_task.query("subset == 'choose' and probe == 'attention'").summary()
    return heads.loc[heads.groupby("layer")["value"].idxmax()]


def best_heads(looks: Scores, task: str) -> Scores:
    """The best head of each layer, chosen on half of the documents, on the others; baselines."""
    best = by_choosing(looks, task)["site"]
    of_task = looks.query(f"task == '{task}' and metric == 'accuracy' and subset == 'report'")
    frame = of_task.frame
    kept = frame["site"].isin(set(best)) | (frame["probe"] != "attention")
    frame = frame[kept].sort_values(["layer"], kind="stable").reset_index(drop=True)
    return Scores(frame, looks.provenance)


def acted_on(looks: Scores, *, every: int) -> list[str]:
    """Heads to intervene on: the best of every so many layers, up to the last, and of all."""
    best = by_choosing(looks, PRONOUN).sort_values("layer")
    sites = list(best["site"])
    kept = {*sites[::-every], best.loc[best["value"].idxmax(), "site"]}
    return [site for site in sites if site in kept]


def main(config: Config) -> None:
    run(config)
    folder = interp.runs.open_run("coreference", config.sized(), root=config.out).folder
    table = pd.read_csv(folder / "figures" / "side-by-side.csv")
    table = table.dropna(subset=["layer"]).query("couples.isna()")
    table = table.pivot(index="layer", columns=["panel", "curve"], values="value")
    print(table.T.to_string(float_format="{:.3f}".format, na_rep=""))
    print(interp.runs.report(folder))


if __name__ == "__main__":
    interp.runs.script(main, Config)
