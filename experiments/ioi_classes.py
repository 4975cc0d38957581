"""The classes of a circuit's heads in a study of IOI: found on one half, reported on the other."""

from collections.abc import Callable, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
from circuit_study import Proof, Study
from circuit_study_report import word
from circuit_study_tables import WITHOUT, lost
from ioi_heads import (
    CLASSES,
    Way,
    attended,
    before,
    looking,
    movers,
    reported,
    sites,
    sorted_out,
    through_logits,
    through_model,
    through_queries,
)
from matplotlib.figure import Figure

from interp.core.parts.circuit import Circuit
from interp.core.parts.edges import Edge
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs
from interp.core.tables.results import Results
from interp.figures.curves import curves
from interp.runs import interval

BY = {"logits": "by the logits", "queries": "by name movers' queries", "model": "by all ways"}
SHOWN = 4
"""Heads of a class that the summary names and the figure shows, by attention."""


@dataclass(frozen=True, eq=False)
class Classes:
    """What the heads do.

    Attributes:
        of: the class of each head that has one.
        heads: all heads of the circuit.
        table: each classified head on the proof half.
        carried: of each class what faithfulness falls by without it, in circuit and model.
    """

    of: dict[str, str]
    heads: list[Site]
    table: pd.DataFrame
    carried: pd.DataFrame


def classify(study: Study, proof: Proof) -> Classes:
    """Classes by the discovery half, numbers of the proof half."""
    heads = sorted({of.writer for of, _ in proof.circuit.parts if of.writer.kind == "z"})
    clean = study.behaviour().query(f"position == 'clean' and metric == '{study.name}'").frame
    whole = float(clean[clean["cluster"].isin(study.discovery.cluster)]["value"].mean())
    seen = {
        half: study.run.stage(f"attention-{half}", partial(_attended, study, pairs, heads))
        for half, pairs in prompts(study)
    }
    looks = looking(seen["discovery"])
    effects = {half: _acting(study, half, pairs, looks) for half, pairs in prompts(study)}
    named = movers(looks, effects["discovery"], whole=whole)
    early = [head for head in sites(looks.query("key == 's2'")) if before(head, named)]
    if early:
        for half, pairs in prompts(study):
            effects[half]["queries"] = study.run.stage(
                f"queries-{half}", partial(_queries, study, pairs, early, named)
            )
    of = sorted_out(looks, effects["discovery"], whole=whole)
    table = reported(of, seen["proof"], effects["proof"], whole=whole)
    return Classes(of, heads, table, without(study, proof, of))


def prompts(study: Study) -> list[tuple[str, Pairs]]:
    return [("discovery", study.discovery), ("proof", study.proof)]


def _attended(study: Study, pairs: Pairs, heads: list[Site], _: Path) -> Results:
    return attended(study.model, pairs, heads)


def _acting(study: Study, half: str, pairs: Pairs, looks: pd.DataFrame) -> dict[Way, Results]:
    """By way of the logits, and by all ways."""
    found: dict[Way, Results] = {}
    ways: dict[Way, tuple[Callable[..., Results], list[Site]]] = {
        "logits": (through_logits, sites(looks.query("query == 'end'"))),
        "model": (through_model, sites(looks.query("query != 'end'"))),
    }
    for way, (measure, heads) in ways.items():
        if heads:

            def measured(
                kept: Path, measure: Callable[..., Results] = measure, heads: list[Site] = heads
            ) -> Results:
                return measure(study.model, pairs, heads, memory=study.memory, checkpoint=kept)

            found[way] = study.run.stage(f"{way}-{half}", measured)
    return found


def _queries(study: Study, pairs: Pairs, heads: list[Site], named: list[Site], _: Path) -> Results:
    return through_queries(study.model, pairs, heads, named, memory=study.memory)


def without(study: Study, proof: Proof, of: dict[str, str]) -> pd.DataFrame:
    """What faithfulness falls by, of the circuit and of the model, without what a class writes.

    By class as in Wang et al. (2022, sec. 4), who ask whether both are left with the same; what
    each loses does not count what the circuit lacks from the start.
    """
    circuit = proof.circuit
    every = circuit.holding(frozenset(proof.scores.parts))
    circuits = {"circuit": circuit}
    for kind in dict.fromkeys(of.values()):
        members = {site for site, found in of.items() if found == kind}
        for name, whole in (("circuit", circuit), ("model", every)):
            circuits[f"{name}{WITHOUT}{kind}"] = whole - written_by(whole, members)
    return lost(study.judged("classes", circuits), study.name)


def written_by(circuit: Circuit, heads: Set[str]) -> Circuit:
    """The edges that leave these heads."""
    edges = [part for part in circuit.parts if isinstance(part.of, Edge)]
    return circuit.holding(frozenset(p for p in edges if str(p.of.writer) in heads))


def draw_classes(study: Study, classes: Classes) -> None:
    """What each class carries, and where its heads look."""
    if classes.table.empty:
        return
    order = [kind.name for kind in CLASSES]
    carried = classes.carried.sort_values("without", key=lambda c: c.map(order.index))
    study.run.figure(
        "without-classes",
        curves(
            carried, x="without", hue="of", xlabel="class taken out of", ylabel="faithfulness lost"
        ),
        carried,
    )
    study.run.figure("classes", looks_figure(classes.table), classes.table)


def looks_figure(table: pd.DataFrame) -> Figure:
    """Attention of each head to what its class looks at."""
    drawn = table.rename(columns={"attention": "value"})[["site", "class", "value", "low", "high"]]
    drawn = drawn.groupby("class", sort=False).head(SHOWN)
    return curves(drawn, x="site", hue="class", xlabel="head", ylabel="attention where it looks")


def said(study: Study, proof: Proof, classes: Classes) -> str:
    """Which classes there are, beside GPT-2's, and what each carries."""
    lines = []
    carried = classes.carried.set_index(["of", "without"])
    for kind in CLASSES:
        mine = classes.table[classes.table["class"] == kind.name]
        known = f"GPT-2: {kind.gpt2}" if kind.gpt2 else "not described in GPT-2"
        line = f"- {kind.name} ({kind.looks[0].upper()} to {kind.looks[1].upper()}; {known}): "
        if mine.empty:
            lines.append(f"{line}none")
            continue
        shown = ", ".join(
            f"{row['site']} {row['attention']:.2f} ({row['effect']:+.2f} {BY[kind.through]})"
            for _, row in mine.head(SHOWN).iterrows()
        )
        more = f" and {len(mine) - SHOWN} more" if len(mine) > SHOWN else ""
        less = " and ".join(
            f"{of} {interval(carried.loc[(of, kind.name)], digits=2)}"
            for of in ("circuit", "model")
        )
        lines.append(
            f"{line}{len(mine)} ({int(mine['holds'].sum())} of them on the other half too): "
            f"{shown}{more}. Faithfulness lost without them: {less}."
        )
    unnamed = len(classes.heads) - len(classes.of)
    head = (
        f"Of the {len(classes.heads)} heads of the circuit {len(classes.of)} are of one of the "
        "classes below, by what they do on the discovery half. Attention and effects (change of "
        f"the {word(study)} with the head's value from the corrupt prompt) are of the other half; "
        "GPT-2 is GPT-2 small in Wang et al. (2022), its backup name movers among the name movers."
    )
    return "\n".join([head, "", *lines, f"- none of these: {unnamed}"])
