"""What a circuit's study says: the gate, the figures and the paragraph."""

from collections.abc import Mapping

import pandas as pd
from circuit_study import CHOSEN, CLOSE, ENOUGH, METHODS, Proof, Study
from circuit_study_tables import gained

import interp
from interp.circuits.proof.faithfulness import Faithfulness
from interp.circuits.proof.nulls import Null
from interp.core.metrics import resolve_metric
from interp.core.tables.results import Results
from interp.figures.circuit import circuit as drawn_circuit
from interp.figures.faithfulness import faithfulness
from interp.figures.scatter import scatter
from interp.runs import interval

MATTERS = 0.01
"""A share of the model's metric (Wang et al. 2022, sec. 4)."""


def refused(study: Study, behaviour: Results) -> str | None:
    """Why there is no circuit to speak of, if there is none."""
    accuracy = clean(behaviour, study).loc[resolve_metric(study.accuracy).name]
    if accuracy["value"] >= ENOUGH:
        return None
    return (
        f"{heading(study)}\n\n{behaves(study, behaviour)} An accuracy under {ENOUGH:.0%} means "
        "that the model does not do the task, so no circuit of it was sought."
    )


def heading(study: Study) -> str:
    return f"# A circuit of {study.task} in {study.model.name}"


def clean(behaviour: Results, study: Study) -> pd.DataFrame:
    return behaviour.summary(seed=study.seed).query("position == 'clean'").set_index("metric")


def word(study: Study) -> str:
    """The metric in words."""
    return {"logit_diff": "logit difference"}.get(study.name, study.name.replace("_", " "))


def behaves(study: Study, behaviour: Results) -> str:
    """How well the model does the task, with and without its clue."""
    table = clean(behaviour, study)
    metric, accuracy = (table.loc[resolve_metric(m).name] for m in (study.metric, study.accuracy))
    corrupt = behaviour.summary(seed=study.seed).query("position == 'corrupt'").set_index("metric")
    return (
        f"On {int(metric['n'])} prompts of {int(metric['clusters'])} clusters {study.model.name} "
        f"has a {word(study)} of {interval(metric, digits=2)} and is right on "
        f"{interval(accuracy, digits=2)} of them; on the corrupt prompts ({study.corruption}) the "
        f"{word(study)} is {interval(corrupt.loc[study.name], digits=2)}."
    )


def draw(study: Study, proof: Proof, classes: Mapping[str, str] | None = None) -> None:
    """The circuit, faithfulness against size, and estimates beside effects."""
    scores = proof.scores
    inside = {str(site) for part in proof.circuit.parts for site in ends(part.of)}
    study.run.figure(
        "circuit",
        drawn_circuit(
            proof.circuit,
            scores,
            facts=study.model.facts,
            classes={site: word for site, word in (classes or {}).items() if site in inside},
            title=f"{study.task}: {proof.circuit.granularity} by EAP-IG",
        ),
        scores.frame[scores.frame["site"].isin({str(p.of) for p in proof.circuit.parts})].drop(
            columns="each"
        ),
    )
    curves = proof.curve.table(seed=study.seed)
    study.run.figure(
        "faithfulness", faithfulness(curves, title=f"{study.task}, on the other half"), curves
    )
    checked = proof.verified.table
    study.run.figure(
        "verified",
        scatter(
            checked,
            x="estimate",
            y="exact",
            hue="drawn",
            line="identity",
            xlabel="estimated effect (EAP-IG)",
            ylabel="effect of cutting the edge",
        ),
        checked,
    )


def ends(of: interp.Edge | interp.Site) -> tuple[interp.Site, ...]:
    return (of.writer, of.reader) if isinstance(of, interp.Edge) else (of,)


def summarise(study: Study, behaviour: Results, proof: Proof) -> str:
    """The result in one paragraph of numbers with their intervals."""
    return f"{heading(study)}\n\n" + " ".join(
        [
            behaves(study, behaviour),
            *carries(study, proof),
            *compares(study, proof),
            *needs(study, proof),
            *trusts(study, proof),
            "Other brackets are 95 % intervals over clusters; faithfulness is a ratio of "
            "means between the ablated run (0) and the model (1).",
        ]
    )


def carries(study: Study, proof: Proof) -> list[str]:
    """The circuit on the other half, and among random ones."""
    found = Faithfulness(proof.null.runs).summary(seed=study.seed)
    found = found[found["circuit"] == "circuit"].set_index("metric")
    right = resolve_metric(study.accuracy).name
    mine, kl, right = (found.loc[name] for name in (study.name, "kl", right))
    among = Null(proof.null.runs.query(f"metric == {study.name!r}")).summary().iloc[0]
    edges, circuit = len(proof.scores), proof.circuit
    discovery, proven = (
        f"{len(half)} prompts of {len(set(half.cluster))} clusters" for half in study.halves
    )
    chosen = (
        f"the smallest of the standard sizes whose faithfulness there is within {CLOSE:g} of 1"
        if proof.chosen.faithful
        else f"the largest size, and none has a faithfulness within {CLOSE:g} of 1 there"
    )
    off = mine.rename({"difference_low": "l", "difference_high": "h"})
    return [
        f"EAP-IG on {discovery} gives a circuit of {len(circuit)} of {edges} edges "
        f"({100 * proof.chosen.share:g} % asked for, {chosen}), all "
        f"others resampled from the corrupt prompts. On the other {proven} its faithfulness is "
        f"{interval(mine, 'faithfulness', digits=2)}: a {word(study)} of {mine['value']:.2f} "
        f"where the model has {mine['full']:.2f}, and {mine['empty']:.2f} with nothing left (model "
        f"less circuit {off['difference']:.2f} [{off['l']:.2f}, {off['h']:.2f}]); it is right on "
        f"{right['value']:.0%} of them (the model: {right['full']:.0%}), at a KL divergence of "
        f"{kl['value']:.2f} nats (with nothing left: {kl['empty']:.2f}). The middle half of the "
        f"prompts have ratios of their own from {mine['lower']:.2f} to {mine['upper']:.2f}.",
        f"Of {int(among['n'])} random circuits of the same size and layers "
        f"{among['percentile']:.0f} % are less faithful (p = {among['p']:.2g}); theirs is "
        f"{among['null']:z.2f} on average, {among['low']:z.2f} to {among['high']:z.2f} for 95 % of "
        f"them. A path leads from the embedding to the logits in {among['connected']:.0%} of them; "
        "without one a circuit carries nothing.",
        *closed(study, proof),
    ]


def closed(study: Study, proof: Proof) -> list[str]:
    """Random circuits that hang together, and the other method's: stronger opponents."""
    curves = proof.curve.table(seed=study.seed)
    at = curves[curves["fraction"] == proof.chosen.share].set_index("method")
    other = next(method for method in METHODS if method != CHOSEN)
    band = at.loc["random"]
    return [
        f"Circuits of as many edges, closed likewise, carry {band['value']:z.2f} if their edges "
        f"are ranked at random ({study.sizes.band} rankings, {band['low']:z.2f} to "
        f"{band['high']:z.2f}), and {interval(at.loc[other], digits=2)} if they are ranked by "
        f"{other}."
    ]


def compares(study: Study, proof: Proof) -> list[str]:
    """EAP-IG beside EAP and random rankings: areas over the standard sizes."""
    areas = proof.curve.areas(seed=study.seed)
    other = next(method for method in METHODS if method != CHOSEN)
    more = gained(proof.curve, study.name, CHOSEN, other).set_index("measure")
    said = []
    for measure, better in (("CPR", "more is better"), ("CMD", "less is better")):
        rows = areas[areas["measure"] == measure]
        numbers = ", ".join(f"{row['method']} {interval(row)}" for _, row in rows.iterrows())
        said.append(
            f"{measure} ({better}; in the brackets of random the middle 95 % of "
            f"{study.sizes.band} rankings): {numbers}; {CHOSEN} less {other} "
            f"{interval(more.loc[measure])}."
        )
    return said


def needs(study: Study, proof: Proof) -> list[str]:
    """Completeness and minimality."""
    sets = proof.complete.frame.groupby("site", sort=False)[["value", "base", "effect"]].mean()
    left, off = sets.mean(), sets["effect"].abs()
    nodes = proof.minimal.frame.groupby("site", sort=False)["effect"].mean()
    whole = Faithfulness(proof.null.runs).summary(seed=study.seed).query("circuit == 'circuit'")
    full, empty = whole.set_index("metric").loc[study.name, ["full", "empty"]]
    share = (left["base"] - empty) / (full - empty)
    count = int((nodes.abs() >= MATTERS * abs(full)).sum())
    return [
        f"With half of the circuit's edges taken out of both at random ({len(off)} draws), circuit "
        f"and model differ by {off.mean():.2f} in {word(study)} in the mean and by "
        f"{off.max():.2f} at most (incompleteness). They have {left['value']:.2f} and "
        f"{left['base']:.2f} then: of what the model does {share:z.0%} is left, and where nothing "
        f"is left nothing can differ. Of the circuit's heads and MLPs {len(nodes)} were drawn at "
        f"random and taken out one by one, which changes the {word(study)} by {MATTERS:.0%} of the "
        f"model's or more for {count} of them (minimality).",
    ]


def trusts(study: Study, proof: Proof) -> list[str]:
    """How far the scores and the choice are to be trusted."""
    top = proof.verified.summary().set_index("drawn").loc["top"]
    rank, slope, r2 = (
        f"{top[name]:.2f} [{top[f'{name}_low']:.2f}, {top[f'{name}_high']:.2f}]"
        for name in ("spearman", "slope", "r2")
    )
    jaccard = proof.stable.frame["total"].to_numpy()
    by_chance = proof.chosen.share / (2 - proof.chosen.share)
    return [
        f"The effects of the {int(top['parts'])} edges of the largest scores, measured on the "
        f"prompts that they were scored on, have a rank correlation of {rank} with their "
        f"estimates, a slope of {slope} and an R² of {r2}.",
        f"Circuits from {len(jaccard)} bootstrap resamples of the discovery prompts have a Jaccard "
        f"of {jaccard.mean():.2f} with the circuit in the mean ({jaccard.min():.2f} to "
        f"{jaccard.max():.2f}; {by_chance:.2g} by chance).",
    ]
