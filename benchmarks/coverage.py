"""How often an interval has the truth inside, and how often a test errs where nothing is there.

Simulated data of known truth: `normal` and `skewed` (exponential) values of equal clusters;
`sizes`: right answers in documents of heavy-tailed size (lognormal, sigma 1.3), each with a rate of
its own. For each number of clusters: coverage of the 95 % interval of `interp.core.sampling.stats`,
beside that of the percentile bootstrap over the same clusters, and how much wider it is (median).
`size`: how often the sign-flip test of differences around zero has p < 0.05, two-sided.

Then an intervention beside draws of its control (`interp.core.sampling.draws`), where it is itself
one of the draws: `size` is how often p < 0.05 (the interval covers in all other cases), `one draw`
the same if it is paired with one draw over the clusters, and `half` the interval's median half
width in standard deviations of the difference. `between` is the spread of draws in units of that in
a cluster.

Then nouns crossed with templates, effects of both and of each cell: `covers` is the coverage of
`stats.crossed_interval`, `nouns alone` that of the interval which takes nouns for all that is
independent; `size` again. And circuits' smooth statistics, by the jackknife: CPR and CMD of a curve
that is known, under noise of clusters; `expected layer` likewise, of probes that gain 0.05 to 0.2 a
layer in documents of unlike size (where there is an interval; `none`: how often there is not).

    python benchmarks/coverage.py --json benchmarks/coverage.json
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from numpy import ndarray

from interp.circuits.proof.curves import cmd, cpr
from interp.core.sampling import stats
from interp.core.sampling.draws import beside_draws
from interp.probing.fit.nets.mixing import expected_layer, expected_layer_interval

Draw = Callable[[np.random.Generator, int, int], tuple[ndarray, ndarray]]


@dataclass(frozen=True)
class Options:
    """How much to simulate."""

    json: Path | None = None
    repeats: int = 4_000
    clusters: tuple[int, ...] = (3, 5, 10, 20, 40)
    draws: tuple[int, ...] = (3, 8, 16)
    crossed: tuple[int, ...] = (5, 10, 40)
    between: tuple[float, ...] = (0.0, 0.3, 1.0)
    grids: tuple[tuple[int, int], ...] = ((3, 3), (5, 5), (10, 4), (10, 10), (20, 8))
    seed: int = 0


def normal(rng: np.random.Generator, repeats: int, clusters: int) -> tuple[ndarray, ndarray]:
    shared = rng.normal(size=(repeats, clusters))
    own = rng.normal(size=(repeats, clusters, 8)).mean(2)
    return 8 * (shared + own), np.full((repeats, clusters), 8.0)


def skewed(rng: np.random.Generator, repeats: int, clusters: int) -> tuple[ndarray, ndarray]:
    return rng.exponential(size=(repeats, clusters)) - 1, np.ones((repeats, clusters))


def sizes(rng: np.random.Generator, repeats: int, clusters: int) -> tuple[ndarray, ndarray]:
    words = np.ceil(rng.lognormal(3, 1.3, size=(repeats, clusters)))
    right = rng.binomial(words.astype(int), rng.beta(8, 2, size=(repeats, clusters)))
    return right - 0.8 * words, words


KINDS: dict[str, Draw] = {"normal": normal, "skewed": skewed, "sizes": sizes}


def percentile(sums: ndarray, counts: ndarray, seed: int) -> tuple[ndarray, ndarray]:
    """The middle 95 % of the ratio in bootstrap samples."""
    clusters = sums.shape[1]
    rng = np.random.default_rng(seed)
    times = rng.multinomial(clusters, np.full(clusters, 1 / clusters), 2_000).astype(float)
    low, high = np.quantile((sums @ times.T) / (counts @ times.T), [0.025, 0.975], axis=1)
    return low, high


def measured(draw: Draw, clusters: int, options: Options) -> dict[str, float]:
    """Of data whose true ratio is 0."""
    rng = np.random.default_rng([options.seed, clusters])
    inside: dict[str, list[ndarray]] = {"ours": [], "percentile": []}
    widths: dict[str, list[ndarray]] = {"ours": [], "percentile": []}
    errs = []
    for part in range(max(1, options.repeats // 200)):
        sums, counts = draw(rng, 200, clusters)
        for name, (low, high) in (
            ("ours", stats.ratio_interval(sums, counts, seed=part)),
            ("percentile", percentile(sums, counts, part)),
        ):
            inside[name].append((low <= 0) & (high >= 0))
            widths[name].append(high - low)
        errs.append(stats.sign_flip_p(sums, np.arange(clusters), seed=part) < 0.05)
    found = {name: float(np.mean(parts)) for name, parts in inside.items()}
    wide = {name: float(np.median(parts)) for name, parts in widths.items()}
    found |= {"wider": wide["ours"] / wide["percentile"], "size": float(np.mean(errs))}
    return found


def among_draws(
    kind: str, draws: int, clusters: int, between: float, options: Options
) -> dict[str, float]:
    """Of draws that differ everywhere (`between`) and in each cluster (1)."""
    rng = np.random.default_rng([options.seed, draws, clusters])
    of = {"normal": rng.normal, "skewed": lambda size: rng.exponential(size=size) - 1}[kind]
    shape = (options.repeats, draws + 1)
    level = between * of(size=(*shape, 1)) + of(size=(*shape, clusters))
    values = level + of(size=(options.repeats, 1, clusters))
    every = np.arange(clusters)
    found = beside_draws(values[:, 0], values[:, 1:], every)
    paired = stats.sign_flip_p(values[:, 0] - values[:, 1], every, permutations=999)
    truth = np.sqrt((1 + 1 / draws) * (between**2 + 1 / clusters))
    return {
        "size": float((found.p < 0.05).mean()),
        "one draw": float((paired < 0.05).mean()),
        "half": float(np.median(found.high - found.low) / 2 / truth),
    }


def crossed(kind: str, nouns: int, templates: int, options: Options) -> dict[str, float]:
    """Of values whose true mean is 0."""
    rng = np.random.default_rng([options.seed, nouns, templates])
    of = {"normal": rng.normal, "skewed": lambda size: rng.exponential(size=size) - 1}[kind]
    n = options.repeats
    values = of(size=(n, nouns, 1)) + of(size=(n, 1, templates)) + of(size=(n, nouns, templates))
    noun, template = np.indices((nouns, templates)).reshape(2, -1)
    low, high, p = stats.crossed_interval(values.reshape(n, -1), noun, template)
    alone_low, alone_high = stats.mean_interval(values.reshape(n, -1), noun, resamples=2_000)
    return {
        "covers": float(((low <= 0) & (high >= 0)).mean()),
        "nouns alone": float(((alone_low <= 0) & (alone_high >= 0)).mean()),
        "size": float((p < 0.05).mean()),
    }


def areas(clusters: int, options: Options) -> dict[str, float]:
    """CPR and CMD of five circuits that carry 0.2 to 0.9 of a gap which differs by cluster."""
    rng = np.random.default_rng([options.seed, clusters])
    sizes, shares = np.array([0.05, 0.1, 0.2, 0.5, 1.0]), np.array([0.2, 0.5, 0.7, 0.85, 0.9])
    inside: dict[str, list[bool]] = {"CPR": [], "CMD": []}
    for _ in range(options.repeats):
        gaps = 3 + rng.normal(size=clusters)
        carried = shares[:, None] * gaps + rng.normal(size=(5, clusters))
        whole, total = carried.sum(1), gaps.sum()
        rest = (whole[:, None] - carried).T / (total - gaps)[:, None]
        for name, area in (("CPR", cpr), ("CMD", cmd)):
            found = np.atleast_1d(area(sizes, whole / total))
            low, high = stats.jackknife_interval(found, area(sizes, rest)[None], gaps)
            inside[name].append(bool(low[0] <= area(sizes, shares) <= high[0]))
    return {name: float(np.mean(held)) for name, held in inside.items()}


def layers(clusters: int, options: Options) -> dict[str, float]:
    """The expected layer of five cumulative probes."""
    rng = np.random.default_rng([options.seed, clusters, 1])
    rates = np.array([0.5, 0.7, 0.8, 0.85, 0.9])
    inside, none = [], 0
    for _ in range(options.repeats // 4):
        words = np.ceil(rng.lognormal(3.5, 0.7, size=clusters)).astype(int)
        of = np.clip(rates[:, None] + 0.05 * rng.normal(size=clusters), 0, 1)
        totals = rng.binomial(words, of).astype(float)
        _, low, high = expected_layer_interval(totals, words.astype(float))
        none += int(np.isnan(low))
        inside += [] if np.isnan(low) else [low <= expected_layer(rates) <= high]
    return {"expected layer": float(np.mean(inside)), "none": none / (options.repeats // 4)}


def main(options: Options) -> None:
    rows = []
    for kind, draw in KINDS.items():
        for clusters in options.clusters:
            rows.append({"kind": kind, "clusters": clusters, **measured(draw, clusters, options)})
            print(json.dumps(rows[-1]), flush=True)
    for kind in ("normal", "skewed"):
        for draws in options.draws:
            for clusters in options.crossed:
                for between in options.between:
                    row = {"kind": f"draws, {kind}", "draws": draws, "clusters": clusters}
                    found = among_draws(kind, draws, clusters, between, options)
                    rows.append({**row, "between": between, **found})
                    print(json.dumps(rows[-1]), flush=True)
    for kind in ("normal", "skewed"):
        for nouns, templates in options.grids:
            row = {"kind": f"crossed, {kind}", "clusters": nouns, "crossed": templates}
            rows.append({**row, **crossed(kind, nouns, templates, options)})
            print(json.dumps(rows[-1]), flush=True)
    for clusters in options.clusters:
        rows.append({"kind": "areas", "clusters": clusters, **areas(clusters, options)})
        rows[-1] |= layers(clusters, options)
        print(json.dumps(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
