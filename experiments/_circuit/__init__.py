"""What three studies of a circuit have in common: sizes, a gate, figures and a paragraph.

`interp.circuits.prove` finds the circuit on one half of the clusters and proves it on the other;
here is what is drawn and said of it, and when there is no circuit to speak of.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pandas as pd

import interp
from experiments._shared import ENOUGH, Sized, Words
from interp.circuits.proof.apart import gained
from interp.circuits.proof.faithfulness import Faithfulness
from interp.circuits.proof.nulls import Null
from interp.circuits.study import CHOSEN, CLOSE, MATTERS, METHODS, Proof, Sizes, Study, prove
from interp.core.metrics import resolve_metric
from interp.core.tables.results import Results
from interp.figures.circuit import circuit as drawn_circuit
from interp.figures.faithfulness import faithfulness
from interp.figures.scatter import scatter
from interp.runs import Run

SIZES = {
    "smoke": Sizes((0.002, 0.01), 2, 4, 2, 2, 4, 1),
    "default": Sizes(),
    "full": Sizes(band=20, resamples=100, verified=200, removed=50),
}
OTHER = next(method for method in METHODS if method != CHOSEN)
words = Words(__file__)


@dataclass(frozen=True, kw_only=True)
class Config(Sized):
    """What every study of a circuit is told."""

    model: str = "smollm2-135m"
    prompts: int | None = None
    memory: int | None = field(default=None, metadata={"hash": False})


def studied(
    run: Run,
    config: Config,
    further: Callable[[Study, Proof], str],
    **asked: object,
) -> tuple[Results, str]:
    """Behaviour; then, if the model does the task, discovery, proof and what is asked further.

    Args:
        further: draws the circuit and what else there is of it, and says that.
        asked: model, pairs and words, as `Study` takes them.
    """
    study = Study(
        sizes=SIZES[config.size], seed=config.seed, memory=config.memory, run=run, **asked
    )
    behaviour = study.behaviour()
    if why := refused(study, behaviour):
        return behaviour, why
    proof = prove(study)
    more = further(study, proof)
    text = f"{summarise(study, behaviour, proof)}\n\n{more}"
    return Results.concat([behaviour, proof.judged]), text


def refused(study: Study, behaviour: Results) -> str | None:
    """Why there is no circuit to speak of, if there is none."""
    accuracy = _clean(behaviour, study).loc[resolve_metric(study.accuracy).name]
    if accuracy["value"] >= ENOUGH:
        return None
    return f"{behaves(study, behaviour)} {words('refused', enough=ENOUGH)}"


def _clean(behaviour: Results, study: Study, side: str = "clean") -> pd.DataFrame:
    return behaviour.summary(seed=study.seed).query(f"position == '{side}'").set_index("metric")


def word(study: Study) -> str:
    """The metric in words."""
    return {"logit_diff": "logit difference"}.get(study.name, study.name.replace("_", " "))


def behaves(study: Study, behaviour: Results) -> str:
    """How well the model does the task, with and without its clue."""
    table = _clean(behaviour, study)
    return words(
        "behaves",
        study=study,
        word=word(study),
        metric=table.loc[study.name],
        accuracy=table.loc[resolve_metric(study.accuracy).name],
        corrupt=_clean(behaviour, study, "corrupt").loc[study.name],
    )


def draw(study: Study, proof: Proof, roles: Mapping[str, str] | None = None) -> None:
    """The circuit, faithfulness against size, and estimates beside effects."""
    assert study.run is not None
    scores, parts = proof.scores, proof.circuit.parts
    inside = {str(site) for part in parts for site in ends(part.of)}
    study.run.figure(
        "circuit",
        drawn_circuit(
            proof.circuit,
            scores,
            facts=study.model.facts,
            classes={site: role for site, role in (roles or {}).items() if site in inside},
            title=f"{study.task}: {proof.circuit.granularity} by EAP-IG",
        ),
        scores.frame[scores.frame["site"].isin({str(p.of) for p in parts})].drop(columns="each"),
    )
    curves = proof.curve.table(seed=study.seed)
    study.run.figure(
        "faithfulness", faithfulness(curves, title=f"{study.task}, on the other half"), curves
    )
    checked = proof.verified.table
    figure = scatter(
        checked,
        x="estimate",
        y="exact",
        hue="drawn",
        line="identity",
        xlabel="estimated effect (EAP-IG)",
        ylabel="effect of cutting the edge",
    )
    study.run.figure("verified", figure, checked)


def ends(of: interp.Edge | interp.Site) -> tuple[interp.Site, ...]:
    return (of.writer, of.reader) if isinstance(of, interp.Edge) else (of,)


def summarise(study: Study, behaviour: Results, proof: Proof) -> str:
    """The result in one paragraph of numbers with their intervals."""
    parts = (carries, closed, compares, needs, trusts)
    said = [behaves(study, behaviour), *(part(study, proof) for part in parts), words("brackets")]
    return " ".join(said)


def carries(study: Study, proof: Proof) -> str:
    """The circuit on the other half, and among random ones."""
    found = Faithfulness(proof.null.runs).summary(seed=study.seed)
    found = found[found["circuit"] == "circuit"].set_index("metric")
    counts = [{"prompts": len(half), "clusters": len(set(half.cluster))} for half in study.halves]
    return words(
        "carries",
        edges=len(proof.scores),
        kept=len(proof.circuit),
        share=100 * proof.chosen.share,
        chosen=words("faithful" if proof.chosen.faithful else "unfaithful", close=CLOSE),
        discovery=counts[0],
        proven=counts[1],
        word=word(study),
        mine=found.loc[study.name],
        right=found.loc[resolve_metric(study.accuracy).name],
        kl=found.loc["kl"],
        among=Null(proof.null.runs.query(f"metric == {study.name!r}")).summary().iloc[0],
    )


def closed(study: Study, proof: Proof) -> str:
    """Random circuits that hang together, and the other method's: stronger opponents."""
    curves = proof.curve.table(seed=study.seed)
    at = curves[curves["fraction"] == proof.chosen.share].set_index("method")
    return words(
        "closed", n=study.sizes.band, band=at.loc["random"], other=OTHER, theirs=at.loc[OTHER]
    )


def compares(study: Study, proof: Proof) -> str:
    """EAP-IG beside EAP and random rankings: areas over the standard sizes."""
    areas = proof.curve.areas(seed=study.seed)
    more = gained(proof.curve, study.name, CHOSEN, OTHER).set_index("measure")
    return " ".join(
        words(
            "compares",
            measure=measure,
            better=better,
            n=study.sizes.band,
            numbers=words.each("area", areas[areas["measure"] == measure]),
            chosen=CHOSEN,
            other=OTHER,
            more=more.loc[measure],
        )
        for measure, better in (("CPR", "more"), ("CMD", "less"))
    )


def needs(study: Study, proof: Proof) -> str:
    """Completeness and minimality."""
    sets = proof.complete.frame.groupby("site", sort=False)[["value", "base", "effect"]].mean()
    left, off = sets.mean(), sets["effect"].abs()
    nodes = proof.minimal.frame.groupby("site", sort=False)["effect"].mean()
    whole = Faithfulness(proof.null.runs).summary(seed=study.seed).query("circuit == 'circuit'")
    full, empty = whole.set_index("metric").loc[study.name, ["full", "empty"]]
    return words(
        "needs",
        draws=len(off),
        mean=off.mean(),
        most=off.max(),
        word=word(study),
        left=left,
        share=(left["base"] - empty) / (full - empty),
        nodes=len(nodes),
        matters=MATTERS,
        count=int((nodes.abs() >= MATTERS * abs(full)).sum()),
    )


def trusts(study: Study, proof: Proof) -> str:
    """How far the scores and the choice are to be trusted."""
    return words(
        "trusts",
        top=proof.verified.summary().set_index("drawn").loc["top"],
        jaccard=proof.stable.frame["total"].agg(["size", "mean", "min", "max"]),
        chance=proof.chosen.share / (2 - proof.chosen.share),
    )
