"""Which methods find a circuit that is known?

The compiled models are written by hand, so for each way to cut (zero, mean or resample ablation; by
which corrupt prompts; everywhere or at one place) it is known which edges matter. Every method
ranks all edges, or all heads and MLPs, and is asked how far the true ones stand above the others.
Exact patching must find all of them: where it does not, model or engine is wrong. Estimates are
below that, and the summary says which true parts they miss and why.

    python -m experiments.ground_truth --out runs              # all models, minutes on one core
    python -m experiments.ground_truth --size smoke
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch

import interp
from experiments._shared import Sized, experiment
from experiments.ground_truth.figures import draw
from experiments.ground_truth.report import means, standing, summarise
from experiments.ground_truth.setting import (
    LEVELS,
    METHODS,
    Case,
    Ranking,
    of_nodes,
    rankings,
    steepest,
)
from interp.causal.ranking.attribution import attribute
from interp.causal.ranking.exact import exact
from interp.causal.ranking.recovery import Found, Recovery, auroc
from interp.circuits.discovery.acdc import acdc_sweep
from interp.core.parts.circuit import Part
from interp.core.parts.graph import Graph, nodes
from interp.core.prompts.pairs import Pairs
from interp.core.prompts.places import REST
from interp.core.tables.attribution import Attribution
from interp.models import compiled
from interp.models.compiled.construction import ABLATIONS
from interp.runs import Run

THRESHOLDS = (1e-5, 1e-4, 1e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Of ACDC, in nats and in logits. What only a smaller one keeps would count as rounding."""
SEARCHES = {"acdc": "kl", "acdc, logit_diff": "logit_diff"}
Places = Literal["all", "named"]
PLACES: tuple[Places, ...] = ("all", "named")


@dataclass(frozen=True, kw_only=True)
class Config(Sized):
    """What is run.

    Attributes:
        models: compiled ones, by name.
        prompts: prompt pairs of each corruption; the templates take turns.
        reference: prompts of each template that means are taken over.
        steps: of integrated gradients.
        fine: as many steps once more, to see whether these miss what more would find.
        draws: random rankings of each truth.
    """

    sizes: ClassVar = {
        "smoke": {"models": ("previous", "reverse"), "prompts": 8, "fine": 10, "draws": 20},
        "default": {"models": compiled.NAMES, "prompts": 24, "fine": 50, "draws": 100},
        "full": {"models": compiled.NAMES, "prompts": 120, "fine": 100, "draws": 1000},
    }
    models: tuple[str, ...] | None = None
    prompts: int | None = None
    reference: int = 32
    steps: int = 5
    fine: int | None = None
    draws: int | None = None
    memory: int | None = field(default=None, metadata={"hash": False})


@experiment("ground_truth")
def run(run: Run, config: Config) -> tuple[Recovery, str]:
    """How well each method did on each truth."""
    found: list[Ranking] = []
    for case in cases(config):
        scores = run.stage(case.stem, lambda _, case=case: measure(case, config))
        found += rankings(case, scores)
    results = recovered(found, config)
    table = means(results)
    draw(run, results, table)
    return results, summarise(results, table, standing(found))


def cases(config: Config) -> Iterator[Case]:
    """Every model under every ablation and corruption that its truth is keyed by."""
    for name in config.models or ():
        for corruption in compiled.construction(name).corruptions:
            yield from (Case(name, ablation, corruption) for ablation in ABLATIONS)


def measure(case: Case, config: Config) -> Attribution:
    """What every method says of every part, everywhere and at each named place."""
    model = compiled.build(case.model, dtype=torch.float64)
    made, seed = compiled.construction(case.model), config.seed
    pairs = compiled.pairs(case.model, corruption=case.corruption, n=config.prompts, seed=seed)
    means = compiled.pairs(
        case.model,
        corruption=case.corruption,
        n=config.reference * len(made.templates),
        seed=seed + 1,
    )
    job = Job(model, pairs, {"ablation": case.ablation, "reference": means}, config)
    tables = [table for places in PLACES for table in (*job.estimates(places), *job.search(places))]
    found = Attribution.concat(tables)
    slopes = steepest(model, pairs, case)
    return Attribution(found.frame, {**found.provenance, "slopes": slopes})


@dataclass(frozen=True)
class Job:
    """A model on the pairs of one case.

    Attributes:
        cut: what takes the place of what is cut.
    """

    model: interp.Model
    pairs: Pairs
    cut: Mapping[str, Any]
    config: Config

    def estimates(self, places: Places) -> Iterator[Attribution]:
        """What exact patching says, and every estimate from gradients."""
        names = ["all"] if places == "all" else list(self.pairs.positions)
        facts, memory = self.model.facts, self.config.memory
        for level in LEVELS:
            chosen = Graph.of(facts).edges if level == "edges" else nodes(facts)
            parts = [Part(part, name) for name in names for part in chosen]
            yield exact(self.model, self.pairs, parts, memory=memory, **self.cut)
            for method in METHODS[level]:
                fine = [self.config.fine] if method == "eap-ig-inputs" else []
                for steps in (self.config.steps, *fine):
                    found = attribute(
                        *(self.model, self.pairs, level),
                        method=method,
                        steps=steps,
                        positions="all" if places == "all" else names,
                        memory=memory,
                        **self.cut,
                    )
                    yield named(found, f"{method}, {steps} steps" if steps in fine else method)

    def search(self, places: Places) -> Iterator[Attribution]:
        """What ACDC keeps at which threshold: by KL, as in the paper, and by the task's metric."""
        for name, metric in SEARCHES.items():
            found = acdc_sweep(
                *(self.model, self.pairs),
                thresholds=THRESHOLDS,
                metric=metric,
                positions=places,
                memory=self.config.memory,
                **self.cut,
            )
            found = named(found.query(f"position != '{REST}'"), name)
            yield from (found, of_nodes(found))


def named(found: Attribution, method: str) -> Attribution:
    """The same under another name."""
    return Attribution(found.frame.assign(method=method), found.provenance)


def recovered(found: list[Ranking], config: Config) -> Recovery:
    """The one table: a row for each ranking, and `draws` random ones for each truth."""
    rows = [
        ({**one.names, "draw": 0, "auroc_raw": auroc(np.abs(one.raw), one.true)}, one.found)
        for one in found
    ]
    for one in found:
        if one.method == "exact":
            names = {**one.names, "method": "random"}
            rng = np.random.default_rng([config.seed, *"".join(names.values()).encode()])
            for i in range(config.draws or 0):
                chance = Found.of(rng.random(len(one.true)), one.true)
                rows.append(({**names, "draw": i, "auroc_raw": chance.auroc}, chance))
    provenance = {"versions": interp.runs.provenance()["versions"], "dtype": "float64"}
    return Recovery.of(rows, provenance=provenance)
