"""Tables, figures and words of `induction`."""

from collections.abc import Mapping

import pandas as pd
from induction_toys import (
    ACCURACY,
    EXCESS,
    ICL,
    PATH,
    PHASE,
    PREFIX,
    RANDOM,
    RANKS,
    READERS,
    REMOVED,
    STRONGEST,
)

import interp
from interp.core.errors import ResultsError
from interp.core.tables.scores import Scores
from interp.figures.scatter import scatter
from interp.heads.types.head_types import HeadTypes
from interp.runs import Run

SHOWN = ["induction", "previous", "duplicate", "copying"]
AFTER = {ICL: "nats, late less early", PREFIX: "attention", ACCURACY: "share right"}
AGAIN, FIRST, LESS = ", again", ", first", ", again less first"
INTO = {"q": "query", "k": "key", "v": "value"}
ORDER = {"the first A": 0, "all tokens": 1, **{reader: i for i, reader in enumerate(READERS)}}
MINE, OTHERS = "induction heads (95 % interval)", "random sets (mean, 5 to 95 %)"


def beside(knocked: Mapping[str, interp.Results]) -> pd.DataFrame:
    """The set beside random sets, one row for each kind of prompt and ablation.

    The last row of each kind is the second mention less the first, example by example.
    """
    kinds = dict.fromkeys(name.removesuffix(AGAIN).removesuffix(FIRST) for name in knocked)
    every = {}
    for kind in kinds:
        again, first = knocked[kind + AGAIN], knocked[kind + FIRST]
        every |= {kind + AGAIN: again, kind + FIRST: first, kind + LESS: less(again, first)}
    tables = [
        interp.causal.beside_random(results).assign(prompts=name) for name, results in every.items()
    ]
    table = pd.concat(tables, ignore_index=True)
    return table.assign(patterns=table["method"].str.rpartition(", ")[2])


def less(again: interp.Results, first: interp.Results) -> interp.Results:
    """Paired differences of two knock-outs of the same sets, row by row of the prompts.

    Raises:
        ResultsError: other sets, other rows or other clusters.
    """
    keys = ["method", "site", "metric", "example"]
    left, right = (x.frame.set_index(keys) for x in (again, first))
    sets = [x.provenance["sets"] for x in (again, first)]
    if sets[0] != sets[1] or not left.index.sort_values().equals(right.index.sort_values()):
        raise ResultsError(
            "the two knock-outs are not of the same sets on the same rows, so they have no paired "
            "difference; run both with one seed, on the two sides of the same prompts."
        )
    right = right.loc[left.index]
    if (left["cluster"] != right["cluster"]).any():
        raise ResultsError(
            "the rows of the two knock-outs are in different clusters, so they are not the same "
            "rows; give the two sides of the same prompts."
        )
    numbers = {c: left[c] - right[c] for c in ("base", "value", "effect")}
    return interp.Results(left.assign(**numbers).reset_index(), again.provenance)


def tables_of(
    types: HeadTypes, knocked: Mapping[str, interp.Results], toys: Scores
) -> dict[str, pd.DataFrame]:
    """A table for each figure."""
    phase = toys.query(f"task == '{PHASE}'").summary()
    phase = phase.assign(step=phase["probe"].str.removeprefix("step ").astype(int))
    ranks, paths = rank_tables(toys)
    return {
        "head-types": types.scores,
        "ablation": beside(knocked),
        "phase-change": phase,
        "toy-ablation": removed(toys),
        "composition": paths,
        "ranks": ranks,
    }


def rank_tables(toys: Scores) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rank correlations over seeds, and the pairs of heads that they are of."""
    found = toys.query(f"task == '{RANKS}'")
    keys = ["cluster", "site", "probe", "subset"]
    pairs = found.query("site != ''").frame
    paths = pairs.pivot(index=keys, columns="metric", values="total").reset_index()
    paths = paths.assign(reader=paths["probe"].str[-1], size=paths[PATH].abs())
    return found.query("site == ''").summary(), paths


def removed(toys: Scores) -> pd.DataFrame:
    """In-context scores by how many heads are knocked out, and which."""
    table = toys.query(f"task == '{REMOVED}'").summary()
    n, heads = table["probe"].str.partition(", ")[[0, 2]].to_numpy().T
    return table.assign(without=n.astype(int), heads=heads)


def draw(run: Run, tables: Mapping[str, pd.DataFrame]) -> None:
    """Every figure, with its table beside it."""
    figures = interp.figures
    types = tables["head-types"]
    shown = [name for name in SHOWN if name in set(types["metric"])]
    figure = figures.head_types(types, detectors=shown, title="Heads by type")
    run.figure("head-types", figure, types)
    table = tables["ablation"]
    mine = table.assign(value=table["effect"], heads=MINE)
    random = table.assign(
        value=table["random"], low=table["random_low"], high=table["random_high"], heads=OTHERS
    )
    figure = figures.curves(
        pd.concat([mine, random]),
        x="prompts",
        hue="heads",
        panel="patterns",
        xlabel="",
        ylabel="change in loss (nats)",
        title="Induction heads knocked out, beside random sets of the same layers",
    )
    run.figure("ablation", figure, table)
    phase = tables["phase-change"]
    figure = figures.curves(
        phase[(phase["step"] > 0) & phase["metric"].isin(list(AFTER))],
        x="step",
        hue="subset",
        panel="metric",
        log="x",
        ylabel=AFTER,
        title="When induction forms (mean and 95 % interval over seeds)",
    )
    run.figure("phase-change", figure, phase)
    without = tables["toy-ablation"]
    figure = figures.curves(
        without,
        x="without",
        hue="heads",
        panel="subset",
        xlabel="heads knocked out",
        ylabel="in-context score (nats)",
        title="Heads of the last layer knocked out (95 % interval over seeds)",
    )
    run.figure("toy-ablation", figure, without)
    paths = tables["composition"]
    panel = paths["reader"].map(INTO) + "\n" + paths["subset"] + " exchanged"
    figure = scatter(
        paths.assign(panel=panel).sort_values(
            ["subset", "reader"], key=lambda c: c.map(ORDER), kind="stable"
        ),
        x=EXCESS,
        y="size",
        hue="cluster",
        panel="panel",
        own_scale=True,
        xlabel="composition above the mean of impossible pairs",
        ylabel="|change in loss| (nats)",
        title="Composition beside exact path patching, each pair of heads",
    )
    run.figure("composition", figure, paths)


def summarise(
    model: str,
    types: HeadTypes,
    kind: str,
    heads: list[str],
    tables: Mapping[str, pd.DataFrame],
) -> str:
    """The result in one paragraph of numbers with their intervals."""
    said = [
        say_heads(model, types, kind, heads),
        say_ablation(tables["ablation"]),
        say_phase(tables["phase-change"]),
        say_removed(tables["toy-ablation"]),
        say_ranks(tables["ranks"], tables["composition"]),
    ]
    return f"# Heads that copy what followed before, in {model}\n\n{' '.join(said)}\n"


def say_heads(model: str, types: HeadTypes, kind: str, heads: list[str]) -> str:
    scores = types.scores[types.scores["metric"] == "induction"].set_index("site")
    best = scores.loc[heads[:3]]
    strongest = ", ".join(
        f"{site} {row['value']:.2f}, {interval(row, 'effect')} above its null of {row['null']:.3f}"
        for site, row in best.iterrows()
    )
    return (
        f"On {int(best['n'].iloc[0])} rows of repeated random tokens that chose nothing, "
        f"{len(heads)} of the {len(types.table)} heads of {model} are of the type {kind} "
        f"(chosen on as many others; q < 0.05 over all heads and detectors), most strongly "
        f"{strongest}."
    )


def say_ablation(table: pd.DataFrame) -> str:
    def one(row: pd.Series) -> str:
        return (
            f"{row['prompts']} {interval(row, 'effect')} (random {row['random']:.2f}, "
            f"percentile {row['percentile']:.0%}, p {row['p']:.2g})"
        )

    parts = [
        f"with {name} " + ", ".join(one(row) for _, row in part.iterrows())
        for name, part in table.groupby("patterns", sort=False)
    ]
    return (
        f"Their mean ablation changes the loss by, in nats: {'; '.join(parts)}. "
        f"Random sets ({int(table['draws'].min())}) have as many heads in each layer; at the first "
        "mention of what is asked for nothing can be copied, and the difference is paired row by "
        "row."
    )


def say_phase(table: pd.DataFrame) -> str:
    last = table[table["step"] == table["step"].max()].set_index(["subset", "metric"])
    parts = [
        f"{name}: {interval(last.loc[(name, ICL), :])} (prefix matching "
        f"{interval(last.loc[(name, PREFIX), :])}, null "
        f"{last.loc[(name, f'{PREFIX}, null'), 'value']:.2f}; "
        f"{interval(last.loc[(name, ACCURACY), :])} of repeated tokens right)"
        for name in dict.fromkeys(table["subset"])
    ]
    n = int(last["clusters"].max())
    seeds = "one seed" if n == 1 else f"{n} seeds"
    return (
        f"Toys after {int(table['step'].max())} steps have an in-context score (loss late less "
        f"early, in nats: more negative is better; {seeds}) of {'; '.join(parts)}."
    )


def say_removed(table: pd.DataFrame) -> str:
    at = table.set_index(["subset", "heads", "without"])

    def number(name: str, without: int, heads: str = STRONGEST) -> str:
        return interval(at.loc[(name, heads, without), :])

    most = int(table["without"].max())
    parts = [
        f"{name} from {number(name, 0)} to {number(name, 1)} without the strongest and "
        f"{number(name, most)} without the {most} strongest ({number(name, most, RANDOM)} without "
        "random ones)"
        for name in dict.fromkeys(table["subset"])
    ]
    return (
        "Heads of the last layer knocked out by how well they match prefixes, all patterns kept, "
        "change the score between the first and the second time that a token is read: "
        f"{'; '.join(parts)}."
    )


def say_ranks(ranks: pd.DataFrame, paths: pd.DataFrame) -> str:
    """How well composition ranks exact effects, by input; with how much there is to rank."""
    largest = paths.groupby(["subset", "reader"])["size"].max()
    parts = []
    for corruption, part in ranks.groupby("subset", sort=False):
        each = part.set_index("probe")
        said = ", ".join(
            f"{reader.upper()} {interval(each.loc[reader])} "
            f"(largest effect {largest[corruption, reader]:.2g} nats)"
            for reader in READERS
        )
        parts.append(f"with {corruption} exchanged, {said}")
    clusters = max(1, int(ranks["clusters"].max()))
    pairs = len(paths) // (clusters * len(largest))
    carried = largest.groupby("reader").max().idxmax()
    return (
        "In the two-layer toys composition (less its mean over pairs of heads that cannot compose, "
        "for the reader comes before the writer) and the exact effect of the path from the "
        "earlier head into the later one's query, key or value alone have rank correlations of: "
        f"{'; '.join(parts)} (Spearman, {pairs} pairs of heads for each input, mean over seeds). "
        f"The largest effects are those through the {INTO[carried]}: there the task runs. "
        "Composition is a norm of weights, and says nothing of what prompts send along a path. "
        "Brackets are 95 % intervals over rows, documents or seeds."
    )


def interval(row: pd.Series, column: str = "value") -> str:
    """A number with its interval."""
    if pd.isna(row["low"]):
        return f"{row[column]:.2f}"
    return f"{row[column]:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
