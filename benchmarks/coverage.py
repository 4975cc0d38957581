"""How often an interval has the truth inside, and how often a test errs where nothing is there.

Simulated data of known truth: `normal` and `skewed` (exponential) values of equal clusters;
`sizes`: right answers in documents of heavy-tailed size (lognormal, sigma 1.3), each with a rate of
its own. For each number of clusters: coverage of the 95 % interval of `interp.core.stats`, beside
that of the percentile bootstrap over the same clusters, and how much wider it is (median). `size`:
how often the sign-flip test of differences around zero has p < 0.05, two-sided.

    python benchmarks/coverage.py --json benchmarks/coverage.json
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from numpy import ndarray

from interp.core import stats

Draw = Callable[[np.random.Generator, int, int], tuple[ndarray, ndarray]]


@dataclass(frozen=True)
class Options:
    """How much to simulate."""

    json: Path | None = None
    repeats: int = 4_000
    clusters: tuple[int, ...] = (3, 5, 10, 20, 40)
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


def main(options: Options) -> None:
    rows = []
    for kind, draw in KINDS.items():
        for clusters in options.clusters:
            rows.append({"kind": kind, "clusters": clusters, **measured(draw, clusters, options)})
            print(json.dumps(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
