"""Heads knocked out together, beside random sets of heads: is this set anything special?

Two ablations (Olsson et al. 2022). *Full*: the heads' outputs are exchanged and everything after
them is recomputed, with the attention of later heads that looked for them. *Pattern-preserving*:
every attention pattern is held at the plain run's, so that what the heads moved is missing and
where later heads look is not.

A random set has as many heads in each layer (of a decoder in each of its two attentions) as the set
that it is compared with. It is drawn from all sets of that profile but the set itself, so it may
share heads with it: the comparison is exact under "this set is like any other of its profile", and
errs on the safe side where the set is large.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, product
from math import comb, prod
from typing import Annotated, Literal, Unpack

import numpy as np
import pandas as pd

from interp.core.door.door import door
from interp.core.door.taken import Count, NotEmpty, Seed
from interp.core.errors import ResultsError, SiteError
from interp.core.metrics import Metrics, resolve_metrics
from interp.core.parts.facts import Facts
from interp.core.parts.heads import Heads, heads_of
from interp.core.parts.sites import Site, resolve
from interp.core.prompts.pairs import Pairs
from interp.core.sampling import stats
from interp.core.tables.results import Results
from interp.engine.engines.choose import accept
from interp.engine.interventions import Cell, Freeze, Intervention, Mean, Value, Zero
from interp.engine.plain.means.means import MeanReference
from interp.engine.plain.prompts import Tokens
from interp.engine.sweep.run import run
from interp.engine.sweep.sweep import Running, Sweep
from interp.models.model import Model

Kept = Literal["recomputed", "kept"]
DRAWS = 20
RANDOM = ", random "
"""Between a set's name and the number of a random one."""


@door
def knock_out(
    model: Model,
    pairs: Pairs,
    heads: Heads | Annotated[Mapping[str, Heads], NotEmpty()],
    *,
    method: Literal["zero", "mean"] = "mean",
    patterns: Annotated[Sequence[Kept], NotEmpty()] = ("recomputed", "kept"),
    draws: Count = DRAWS,
    reference: Tokens | None = None,
    metric: Metrics = "loss",
    seed: Seed = 0,
    **running: Unpack[Running],
) -> Results:
    """Ablate sets of heads on the clean prompts, and as many random sets of the same profile.

    Args:
        heads: sites like "23.3", or several sets by name; a name has no comma and "random".
        method: "zero", or "mean": the mean over the prompts of `reference`, position by position.
        patterns: "recomputed" is the full ablation, "kept" the pattern-preserving one.
        draws: random sets for each set; all that there are where there are fewer.
        reference: whose mean; by default the clean side of these pairs.
        metric: one of `interp.core.metrics` or your own, or several, read off the same runs.
        seed: of the random sets.
        running: `engine`, `memory`, `checkpoint`, as `interp.Running` says.

    Returns:
        One row for each set, ablation and example: `method` says which ablation, `site` is the
        set's name ("heads" where it has none), or "<name>, random 3". What is in each set is in the
        provenance. `beside_random` compares them.

    Raises:
        SiteError: what is no head of the model, an empty set, or a set whose layers hold no other.
        PairsError, MetricError, Unsupported: as their names say, before any run.
    """
    model.require("heads")
    metrics = resolve_metrics(metric)
    for one in metrics:
        accept(model, pairs, one)
    named = heads if isinstance(heads, Mapping) else {"heads": heads}
    sets = _with_random(named, model.facts, draws, seed)
    value = Zero()
    if method == "mean":
        every = sorted({site for sites in sets.values() for site in sites})
        rows = pairs if reference is None else reference
        how = {"memory": running.get("memory"), "engine": running.get("engine", "auto")}
        fitted = MeanReference.fit(model, rows, every, side="clean", by="position", **how)
        value = Mean(fitted)
    parts = []
    for kept in dict.fromkeys(patterns):
        cells = [
            Cell(name, "all", _interventions(sites, value, kept, model.facts))
            for name, sites in sets.items()
        ]
        sweep = Sweep(
            model=model,
            pairs=pairs,
            cells=cells,
            method=f"knock out {method}, patterns {kept}",
            base="clean",
            metrics=metrics,
            **running,
        )
        parts.append(run(sweep))
    found = Results.concat(parts)
    note = {"sets": {name: [str(s) for s in sites] for name, sites in sets.items()}, "seed": seed}
    return Results(found.frame, {**found.provenance, **note, "named": list(named)})


@door
def beside_random(results: Results, *, seed: Seed = 0) -> pd.DataFrame:
    """Each set beside the random sets of its profile.

    Args:
        results: what `knock_out` returned.
        seed: of the bootstrap.

    Returns:
        One row for each ablation and set: `method`, `site` (the set), `heads` (how many), `metric`,
        `base`, `value` and `effect` (means), `low`, `high` (95 % interval over clusters);
        `random` (mean effect of the random sets), `random_low`, `random_high` (the 5th and 95th
        percentile of their effects); `difference` from their mean, paired by example, with
        `difference_low` and `difference_high`; `percentile`: the share of random sets whose effect
        is smaller (equal ones count half); `p`: the share of sets, this one counted, whose
        effect is at least as far from 0; `draws`, `n`, `clusters`.

    Raises:
        ResultsError: not what `knock_out` returns, or not all of it.
    """
    names = results.provenance.get("named")
    if names is None or results.frame.empty:
        raise ResultsError(
            "the table names no sets of heads to compare with random ones. Give what knock_out() "
            "returns."
        )
    rows = []
    for (method, metric), frame in results.frame.groupby(["method", "metric"], sort=False):
        _require_sets(frame, results.provenance["sets"])
        effects = frame.pivot(index="site", columns="example", values="effect")
        plain = frame.drop_duplicates("example").set_index("example").loc[effects.columns]
        cluster, clusters = pd.factorize(plain["cluster"])
        for name in names:
            mine = effects.loc[name].to_numpy()
            random = effects[effects.index.str.startswith(name + RANDOM)].to_numpy()
            means, mean = random.mean(1), mine.mean()
            apart = mine - random.mean(0)
            low, high = stats.mean_interval(np.stack([mine, apart]), cluster, seed=seed)
            smaller = (means < mean).mean() + (means == mean).mean() / 2
            as_far = np.abs(means) >= abs(mean)
            rows.append(
                {
                    **{"method": method, "site": name, "metric": metric},
                    "heads": len(results.provenance["sets"][name]),
                    **{"base": plain["base"].mean(), "value": plain["base"].mean() + mean},
                    **{"effect": mean, "low": low[0], "high": high[0], "random": means.mean()},
                    "random_low": np.quantile(means, 0.05),
                    "random_high": np.quantile(means, 0.95),
                    **{"difference": apart.mean(), "difference_low": low[1]},
                    **{"difference_high": high[1], "percentile": smaller},
                    **{"p": (1 + as_far.sum()) / (1 + len(means)), "draws": len(means)},
                    **{"n": len(mine), "clusters": len(clusters)},
                }
            )
    return pd.DataFrame(rows)


def _require_sets(frame: pd.DataFrame, sets: Collection[str]) -> None:
    """Refuse a table that lacks a set in some prompt, or has it twice.

    Raises:
        ResultsError: naming it.
    """
    counts = pd.crosstab(frame["site"].astype(str), frame["example"]).reindex(sets, fill_value=0)
    if len(odd := counts.index[(counts != 1).any(axis=1)]):
        raise ResultsError(
            f"the set {odd[0]!r} has not one number in each prompt of the table, where it is to be "
            "compared with others prompt by prompt. Likely rows were taken out, or two tables put "
            "together: give all that one call of knock_out() returned."
        )


def _with_random(
    named: Mapping[str, Heads], facts: Facts, draws: int, seed: int
) -> dict[str, tuple[Site, ...]]:
    """The sets by name, each followed by its random ones."""
    sets: dict[str, tuple[Site, ...]] = {}
    for i, (name, heads) in enumerate(named.items()):
        sites = heads_of(heads, facts)
        if RANDOM in name:
            raise SiteError(
                f"a set cannot be called {name!r}, since random sets are called so. Leave "
                f"{RANDOM!r} out of its name."
            )
        sets[name] = sites
        generator = np.random.default_rng([seed, i])
        for k, other in enumerate(_random(sites, facts, draws, generator)):
            sets[f"{name}{RANDOM}{k}"] = other
    return sets


def _random(
    sites: tuple[Site, ...], facts: Facts, draws: int, generator: np.random.Generator
) -> Iterator[tuple[Site, ...]]:
    """Distinct sets of the same profile that are not the set itself."""
    profile = Counter(map(_attention, sorted(sites)))
    possible = prod(comb(facts.n_heads, count) for count in profile.values()) - 1
    if not possible:
        shown = ", ".join(str(of).removesuffix(".attn") for of in profile)
        raise SiteError(
            f"the {len(sites)} heads are all heads of their layers ({shown}), so there is no other "
            "set of that profile to compare them with. Leave heads out."
        )

    def at(chosen: Sequence[Sequence[int]]) -> tuple[Site, ...]:
        pairs = zip(profile, chosen, strict=True)
        return tuple(replace(of, kind="z", head=h) for of, hs in pairs for h in hs)

    if possible <= draws:
        every = (combinations(range(facts.n_heads), count) for count in profile.values())
        yield from (other for chosen in product(*every) if (other := at(chosen)) != sites)
        return
    seen = {sites}
    while len(seen) <= draws:
        drawn = [
            sorted(generator.choice(facts.n_heads, count, replace=False).tolist())
            for count in profile.values()
        ]
        if (other := at(drawn)) not in seen:
            seen.add(other)
            yield other


def _interventions(
    sites: tuple[Site, ...], value: Value, kept: Kept, facts: Facts
) -> tuple[Intervention, ...]:
    """The heads' outputs, and, where they are kept, the patterns of all heads after the first."""
    made = [Intervention(site, value) for site in sites]
    if kept == "kept":
        first = min(map(_attention, sites))
        made += [
            Intervention(replace(site, kind="pattern"), Freeze())
            for site in resolve("heads", facts)
            if _attention(site) > first and site not in sites
        ]
    return tuple(made)


def _attention(head: Site) -> Site:
    """The attention that a head is of: a layer's, or of a decoder's layer one of two."""
    return replace(head, kind="attn_out", head=None)
