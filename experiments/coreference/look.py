"""Which heads look from a pronoun to its antecedent, and which of them are acted on."""

import pandas as pd

import interp
from experiments._probing import beginnings
from experiments.coreference.panel import CONTROLLED, PRONOUN
from interp.core.tables.scores import Scores
from interp.datasets.made.pronouns import pronouns
from interp.heads import attended, relations


def looking(
    model: interp.Model, novels: tuple[int, int], controlled: int, *, context: int, seed: int
) -> Scores:
    """Every head, from a pronoun of a novel to its antecedent, and between two people."""
    text = beginnings(*novels, seed=seed)
    seen = attended(model, text, context=context)
    found = relations(seen, text, minimum=1, seed=seed).query(f"task == '{PRONOUN}'")
    text = pronouns(kind="gender").sample(controlled, seed=seed)
    pairs = relations(attended(model, text), text, minimum=1, seed=seed)
    frame = pairs.query(f"task == '{PRONOUN}'").frame.assign(task=CONTROLLED)
    return Scores.concat([found, Scores(frame, pairs.provenance)])


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
