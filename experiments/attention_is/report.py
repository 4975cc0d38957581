"""Tables, figures and words of `attention_is`."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from experiments._shared import Words, brief, pooled
from experiments.attention_is.cost import COST, WIDTH
from experiments.attention_is.lookup import IDENTITY, LOOKUP, NEAR, RBF, TEMPERATURES
from experiments.attention_is.setting import SCHEMES
from experiments.attention_is.symmetry import (
    ALONG,
    FREE,
    FUTURE,
    MASKED,
    PAST,
    PERMUTED,
    SHIFTED,
    SYMMETRIES,
)
from interp.core.sampling import stats
from interp.core.tables.scores import Scores
from interp.figures.curves import curves
from interp.runs import Run

words = Words(__file__)
PLACES = ["site", "layer", "head"]


def tables_of(found: Scores) -> dict[str, pd.DataFrame]:
    """A table for each figure."""
    return {
        "identity": differences(found),
        "norms": by_layer(found.query(f"task == '{RBF}'")),
        "lookup": softness(found.query(f"task == '{LOOKUP}'")),
        "symmetry": broken(found),
        "cost": costs(found.query(f"task == '{COST}'")),
    }


def differences(found: Scores) -> pd.DataFrame:
    """The largest difference in each layer, over heads and rows; rows give the interval."""
    frame = found.query(f"task == '{IDENTITY}'").frame
    keys = ["metric", "probe", "layer"]
    table = frame.groupby([*keys, "cluster"], sort=False)["total"].max().reset_index()
    table = table.groupby(keys, sort=False)["total"].agg(
        value="max", low="min", high="max", rows="size"
    )
    return table.reset_index()


def by_layer(scores: Scores) -> pd.DataFrame:
    """Heads of a layer as one."""
    return pooled(scores, ["site", "head"]).summary()


def softness(scores: Scores) -> pd.DataFrame:
    """Each measure by temperature: of all layers, and of thirds of them."""
    third = -(-(int(scores.frame["layer"].max()) + 1) // 3)
    first = (scores.frame["layer"].astype(int) // third) * third
    last = (first + third - 1).clip(upper=int(scores.frame["layer"].max()))
    bands = "layers " + first.astype(str) + " to " + last.astype(str)
    parts = [scores.frame.assign(subset=bands), scores.frame]
    whole = Scores(pd.concat(parts, ignore_index=True), scores.provenance)
    table = pooled(whole, PLACES).summary()
    return table.assign(temperature=table["probe"].str.removeprefix("T = ").astype(float))


def broken(found: Scores) -> pd.DataFrame:
    """Violations after the last layer; under a mask those after one layer too."""
    table = found.query(f"task in {list(SYMMETRIES)}").summary()
    last = table.groupby("probe")["layer"].transform("max") == table["layer"]
    table = table.assign(seen=np.where(last, table["subset"], table["subset"] + ", one layer"))
    table = table[last | (table["subset"] == MASKED)]
    return table.sort_values("seen", kind="stable", ignore_index=True)


def costs(scores: Scores) -> pd.DataFrame:
    """FLOPs, and the median of the seconds with their quartiles."""
    groups = scores.frame.groupby(["metric", "probe", "subset"], sort=False)["total"]
    table = groups.quantile([0.25, 0.5, 0.75]).unstack().reset_index()
    table.columns = ["metric", "layer of", "subset", "low", "value", "high"]
    return table.assign(length=table["subset"].str.removeprefix("pos = ").astype(int)).sort_values(
        ["metric", "layer of", "length"], ignore_index=True
    )


def draw(run: Run, tables: Mapping[str, pd.DataFrame]) -> None:
    """Every figure, with its table beside it."""
    shown = {
        "entropy": "entropy (nats)",
        "elsewhere": "weight not on the best key",
        "distance": "distance to its value",
    }
    soft = tables["lookup"]
    gaps = soft[(soft["metric"] == "two keys") & (soft["subset"] == "all")]
    gaps = gaps.assign(metric="elsewhere", subset="all, from gaps alone")
    soft = pd.concat([soft[soft["metric"].isin(list(shown))], gaps])
    figures = {
        "identity": (
            tables["identity"].query("metric == 'largest difference'"),
            {"x": "layer", "hue": "probe", "log": "y", "ylabel": "largest |estimate − z|"}
            | {"title": "Heads beside the kernel's estimate (band: rows)"},
        ),
        "norms": (
            tables["norms"],
            {"x": "layer", "hue": "probe", "panel": "metric"}
            | {"title": "How far heads are from RBF smoothers"}
            | {
                "ylabel": {
                    "weight moved": "share of the weight",
                    "spread of log weight": "standard deviation (nats)",
                }
            },
        ),
        "lookup": (
            soft.assign(panel=soft["metric"].map(shown)),
            {"x": "temperature", "hue": "subset", "panel": "panel", "log": "both"}
            | {"ylabel": "mean over queries"}
            | {"title": "Scores divided by a temperature (1: the model)"},
        ),
        "symmetry": (
            tables["symmetry"],
            {"x": "probe", "hue": "seen", "panel": "task", "log": "y", "xlabel": ""}
            | {"ylabel": "|found − expected| / |expected|"}
            | {"title": "What breaks each symmetry"},
        ),
        "cost": (
            tables["cost"],
            {"x": "length", "hue": "layer of", "panel": "metric", "log": "both"}
            | {"xlabel": "tokens", "title": "One layer of equal parameters"}
            | {"ylabel": {"FLOPs": "FLOPs", "seconds": "seconds (median, quartiles)"}},
        ),
    }
    for name, (table, how) in figures.items():
        run.figure(name, curves(table, **how), table)


def summarise(found: Scores, tables: Mapping[str, pd.DataFrame]) -> str:
    """The result in paragraphs of numbers with their intervals."""
    paragraphs = [
        words("title"),
        say_identity(tables["identity"], tables["norms"], found),
        say_symmetry(tables["symmetry"]),
        say_lookup(tables["lookup"], found),
        say_cost(tables["cost"], found),
    ]
    return "\n\n".join(paragraphs)


def say_identity(table: pd.DataFrame, norms: pd.DataFrame, found: Scores) -> str:
    wide = table.groupby(["metric", "probe"], sort=False)["value"].max().unstack("metric")
    wide = wide.assign(share=wide["largest difference"] / wide["largest output"]).reset_index()
    whole = pooled(found.query(f"task == '{RBF}'"), PLACES).summary().set_index("metric")
    worst = norms[norms["metric"] == "weight moved"].sort_values("value").iloc[-1]
    return words(
        "kernel",
        each=words.each("largest", wide, by="; "),
        spread=brief(whole.loc["spread of log weight"]),
        moved=brief(whole.loc["weight moved"]),
        most=worst,
        worst=brief(worst),
    )


def say_symmetry(table: pd.DataFrame) -> str:
    at = table.set_index(["task", "probe", "seen"])

    def number(task: str, probe: str, seen: str) -> str:
        return brief(at.loc[(task, probe, seen), :], ".2g")

    def each(task: str, probes: Sequence[str]) -> str:
        return ", ".join(f"{probe} {number(task, probe, FREE)}" for probe in probes)

    trained = [p for p in dict.fromkeys(table["probe"]) if p not in SCHEMES]
    return words(
        "set",
        permuted=each(PERMUTED, SCHEMES),
        trained=each(PERMUTED, trained),
        along=each(ALONG, [*SCHEMES, *trained]),
        shifted=each(SHIFTED, [*SCHEMES, *trained]),
        masked=number(PERMUTED, "none", MASKED),
        future=number(FUTURE, "none", MASKED),
        one=number(PAST, "none", f"{MASKED}, one layer"),
        two=number(PAST, "none", MASKED),
    )


def say_lookup(table: pd.DataFrame, found: Scores) -> str:
    at = table[table["subset"] == "all"].set_index(["metric", "temperature"])
    cold, next_ = TEMPERATURES[-1], TEMPERATURES[-2]
    scores = pooled(found.query(f"task == '{LOOKUP}'"), PLACES)
    names = {"entropy": "entropy", "elsewhere": "elsewhere", "distance": "distance"}
    names |= {"rate": "at its rate"}
    ours, colder = (
        {name: brief(at.loc[(metric, t), :], ".2g") for name, metric in names.items()}
        for t in (1.0, cold)
    )
    return words(
        "lookup",
        ours=ours,
        cold=colder,
        part=f"{1 / cold:g}",
        near=NEAR,
        weight=exponent(scores, "elsewhere", next_, cold),
        distance=exponent(scores, "distance", next_, cold),
        ratio=against(scores, ("elsewhere", cold), ("two keys", cold)),
    )


def exponent(scores: Scores, metric: str, above: float, below: float) -> str:
    """The power of T by which a mean falls between two temperatures, with its interval."""
    found = ratio_of(scores, (metric, above), (metric, below))
    value, low, high = np.log(found) / np.log(above / below)
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def against(scores: Scores, one: tuple[str, float], other: tuple[str, float]) -> str:
    """A ratio of two means, with its interval."""
    value, low, high = ratio_of(scores, one, other)
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def ratio_of(
    scores: Scores, one: tuple[str, float], other: tuple[str, float]
) -> tuple[float, float, float]:
    """The ratio of two means over the same queries, and its interval over documents."""
    wide = scores.frame.pivot(index="cluster", columns=["metric", "probe"], values="total")
    above, below = (wide[(m, f"T = {t}")].to_numpy()[None] for m, t in (one, other))
    low, high = stats.ratio_interval(above, below)
    return float(above.sum() / below.sum()), float(low[0]), float(high[0])


def say_cost(table: pd.DataFrame, found: Scores) -> str:
    wide = table.pivot(index="length", columns=["metric", "layer of"], values="value")
    ratio = {m: wide[(m, "attention")] / wide[(m, "LSTM")] for m in ("FLOPs", "seconds")}
    faster = ratio["seconds"].index[ratio["seconds"] <= 1]
    first, before, last = wide.index[0], wide.index[-2], wide.index[-1]
    grows = np.log(wide.loc[last] / wide.loc[before]) / np.log(last / before)
    seconds = [
        words("seconds", n=n, attention=at["attention"], lstm=at["LSTM"])
        for n, at in ((n, wide.loc[n]["seconds"]) for n in (first, last))
    ]
    return words(
        "cost",
        d=WIDTH,
        note=found.provenance,
        fewest=first,
        most=last,
        few=ratio["FLOPs"][first],
        many=ratio["FLOPs"][last],
        seconds=", ".join(seconds),
        crossing=words("crossing", n=faster[-1]) if len(faster) else words("slower"),
        attention=grows["seconds", "attention"],
        lstm=grows["seconds", "LSTM"],
    )
