"""Tables, figures and words of induction heads and toys."""

from collections.abc import Mapping

import pandas as pd

import interp
from experiments._shared import Words
from experiments.induction.toys import (
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
words = Words(__file__)
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
        words("brackets"),
    ]
    return f"{words('heading', model=model)}\n\n{' '.join(said)}\n"


def say_heads(model: str, types: HeadTypes, kind: str, heads: list[str]) -> str:
    scores = types.scores[types.scores["metric"] == "induction"].set_index("site", drop=False)
    best = scores.loc[heads[:3]]
    return words(
        "heads",
        rows=best["n"].iloc[0],
        heads=len(heads),
        every=len(types.table),
        model=model,
        kind=kind,
        strongest=words.each("head", best),
    )


def say_ablation(table: pd.DataFrame) -> str:
    parts = [
        words("patterns", patterns=name, each=words.each("knocked out", part))
        for name, part in table.groupby("patterns", sort=False)
    ]
    return words("ablation", each="; ".join(parts), draws=table["draws"].min())


def say_phase(table: pd.DataFrame) -> str:
    last = table[table["step"] == table["step"].max()]
    parts = []
    for name, part in last.groupby("subset", sort=False):
        at = part.set_index("metric")
        null = at.loc[f"{PREFIX}, null"]
        numbers = {"score": at.loc[ICL], "prefix": at.loc[PREFIX], "right": at.loc[ACCURACY]}
        parts.append(words("toy", name=name, null=null, **numbers))
    n = last["clusters"].max()
    seeds = words("one seed" if n == 1 else "seeds", n=n)
    return words("phase", step=table["step"].max(), seeds=seeds, each="; ".join(parts))


def say_removed(table: pd.DataFrame) -> str:
    at = table.set_index(["subset", "heads", "without"])
    most = table["without"].max()
    parts = [
        words(
            "without",
            name=name,
            most=most,
            all=at.loc[(name, STRONGEST, 0), :],
            one=at.loc[(name, STRONGEST, 1), :],
            many=at.loc[(name, STRONGEST, most), :],
            random=at.loc[(name, RANDOM, most), :],
        )
        for name in dict.fromkeys(table["subset"])
    ]
    return words("removed", each="; ".join(parts))


def say_ranks(ranks: pd.DataFrame, paths: pd.DataFrame) -> str:
    """How well composition ranks exact effects, by input; with how much there is to rank."""
    largest = paths.groupby(["subset", "reader"])["size"].max()
    parts = []
    for corruption, part in ranks.groupby("subset", sort=False):
        each = part.set_index("probe").loc[[*READERS]].reset_index()
        each = each.assign(
            reader=each["probe"].str.upper(), largest=largest[corruption][[*READERS]].to_numpy()
        )
        parts.append(words("exchanged", what=corruption, each=words.each("rank", each)))
    clusters = max(1, int(ranks["clusters"].max()))
    return words(
        "ranks",
        each="; ".join(parts),
        pairs=len(paths) // (clusters * len(largest)),
        carried=INTO[largest.groupby("reader").max().idxmax()],
    )
