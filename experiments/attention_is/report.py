"""Tables, figures and words of `attention_is`."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from attention_is_cost import COST, WIDTH
from attention_is_lookup import IDENTITY, LOOKUP, NEAR, RBF, TEMPERATURES
from attention_is_setting import SCHEMES, pooled
from attention_is_symmetry import ALONG, FREE, FUTURE, MASKED, PAST, PERMUTED, SHIFTED, SYMMETRIES

from interp.core.sampling import stats
from interp.core.tables.scores import Scores
from interp.figures.curves import curves
from interp.runs import Run


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
    return pooled(scores, ["task", "probe", "model", "metric", "subset", "layer"]).summary()


def softness(scores: Scores) -> pd.DataFrame:
    """Each measure by temperature: of all layers, and of thirds of them."""
    third = -(-(int(scores.frame["layer"].max()) + 1) // 3)
    first = (scores.frame["layer"].astype(int) // third) * third
    last = (first + third - 1).clip(upper=int(scores.frame["layer"].max()))
    bands = "layers " + first.astype(str) + " to " + last.astype(str)
    keys = ["task", "probe", "model", "metric", "subset"]
    parts = [scores.frame.assign(subset=bands), scores.frame]
    table = pooled(Scores(pd.concat(parts), scores.provenance), keys).summary()
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
    table = tables["identity"].query("metric == 'largest difference'")
    run.figure(
        "identity",
        curves(
            table,
            x="layer",
            hue="probe",
            log="y",
            ylabel="largest |estimate − z|",
            title="Heads beside the kernel's estimate (band: rows)",
        ),
        table,
    )
    run.figure(
        "norms",
        curves(
            tables["norms"],
            x="layer",
            hue="probe",
            panel="metric",
            ylabel={
                "weight moved": "share of the weight",
                "spread of log weight": "standard deviation (nats)",
            },
            title="How far heads are from RBF smoothers",
        ),
        tables["norms"],
    )
    soft = tables["lookup"]
    shown = {
        "entropy": "entropy (nats)",
        "elsewhere": "weight not on the best key",
        "distance": "distance to its value",
    }
    gaps = soft[(soft["metric"] == "two keys") & (soft["subset"] == "all")]
    gaps = gaps.assign(metric="elsewhere", subset="all, from gaps alone")
    table = pd.concat([soft[soft["metric"].isin(list(shown))], gaps])
    table = table.assign(panel=table["metric"].map(shown))
    run.figure(
        "lookup",
        curves(
            table,
            x="temperature",
            hue="subset",
            panel="panel",
            log="both",
            ylabel="mean over queries",
            title="Scores divided by a temperature (1: the model)",
        ),
        table,
    )
    run.figure(
        "symmetry",
        curves(
            tables["symmetry"],
            x="probe",
            hue="seen",
            panel="task",
            log="y",
            xlabel="",
            ylabel="|found − expected| / |expected|",
            title="What breaks each symmetry",
        ),
        tables["symmetry"],
    )
    run.figure(
        "cost",
        curves(
            tables["cost"],
            x="length",
            hue="layer of",
            panel="metric",
            log="both",
            xlabel="tokens",
            ylabel={"FLOPs": "FLOPs", "seconds": "seconds (median, quartiles)"},
            title="One layer of equal parameters",
        ),
        tables["cost"],
    )


def summarise(found: Scores, tables: Mapping[str, pd.DataFrame]) -> str:
    """The result in paragraphs of numbers with their intervals."""
    return "\n\n".join(
        [
            "# What attention is",
            say_identity(tables["identity"], tables["norms"], found),
            say_symmetry(tables["symmetry"]),
            say_lookup(tables["lookup"], found),
            say_cost(tables["cost"], found),
        ]
    )


def say_identity(table: pd.DataFrame, norms: pd.DataFrame, found: Scores) -> str:
    wide = table.groupby(["metric", "probe"], sort=False)["value"].max().unstack("metric")
    said = "; ".join(
        f"{probe} {row['largest difference']:.1e} on outputs up to {row['largest output']:.3g}, a "
        f"share of {row['largest difference'] / row['largest output']:.1e}"
        for probe, row in wide.iterrows()
    )
    whole = pooled(found.query(f"task == '{RBF}'"), ["task", "metric"]).summary()
    whole = whole.set_index("metric")
    moved, spread = (whole.loc[m] for m in ("weight moved", "spread of log weight"))
    worst = norms[norms["metric"] == "weight moved"].sort_values("value").iloc[-1]
    return (
        f"**A kernel smoother.** The largest difference between any head's output and the estimate "
        f"of Nadaraya and Watson with the kernel exp(<q, k> / sqrt(d)): {said}. "
        f"It is an RBF smoother up to a weight for each key, exp(|k|² / 2 sqrt(d)); in "
        f"{worst['probe']} the logarithm of that weight varies by {interval(spread)} nats "
        f"(standard deviation) within a row, so that an RBF of the same queries and keys would put "
        f"{interval(moved)} of the weight elsewhere (most in layer {worst['layer']}: "
        f"{interval(worst)})."
    )


def say_symmetry(table: pd.DataFrame) -> str:
    at = table.set_index(["task", "probe", "seen"])

    def number(task: str, probe: str, seen: str) -> str:
        return interval(at.loc[(task, probe, seen), :], ".2g")

    def each(task: str, seen: str, probes: Sequence[str] = SCHEMES) -> str:
        return ", ".join(f"{probe} {number(task, probe, seen)}" for probe in probes)

    trained = [p for p in dict.fromkeys(table["probe"]) if p not in SCHEMES]
    return (
        "**A function of a set, until something breaks it.** |f(PX) - P f(X)| / |f(X)| of the "
        f"residual stream, by positions, where all tokens are seen: {each(PERMUTED, FREE)}; of "
        f"trained models {each(PERMUTED, FREE, trained)}. With positions permuted along, which "
        f"must restore it: {each(ALONG, FREE, [*SCHEMES, *trained])}. A common shift of positions: "
        f"{each(SHIFTED, FREE, [*SCHEMES, *trained])}. The causal mask alone, without positions, "
        f"gives {number(PERMUTED, 'none', MASKED)}; what comes later then changes nothing "
        f"({number(FUTURE, 'none', MASKED)}), and the last token does not notice the order of "
        f"those before it after one layer ({number(PAST, 'none', MASKED + ', one layer')}), but "
        f"does after two ({number(PAST, 'none', MASKED)})."
    )


def say_lookup(table: pd.DataFrame, found: Scores) -> str:
    at = table[table["subset"] == "all"].set_index(["metric", "temperature"])
    cold, next_ = TEMPERATURES[-1], TEMPERATURES[-2]
    scores = pooled(found.query(f"task == '{LOOKUP}'"), ["task", "probe", "metric"])

    def number(metric: str, temperature: float = 1.0) -> str:
        return interval(at.loc[(metric, temperature), :], ".2g")

    powers = [exponent(scores, metric, next_, cold) for metric in ("elsewhere", "distance")]
    ratio = against(scores, ("elsewhere", cold), ("two keys", cold))
    return (
        "**A soft lookup.** At the model's own temperature the entropy is "
        f"{number('entropy')} nats, {number('elsewhere')} of the weight is not on the best key, "
        f"and the output is {number('distance')} of the way from that key's value to the farthest "
        f"one. At T = 1/{1 / cold:g} they are {number('entropy', cold)}, "
        f"{number('elsewhere', cold)} and {number('distance', cold)}. Each query should harden as "
        f"exp(-gap / T), its own gap between the two best scores; the share that does within "
        f"{NEAR:.0%} is {number('at its rate')} at T = 1 and {number('at its rate', cold)} at "
        f"T = 1/{1 / cold:g}. The mean over queries should then fall as T to the power 1, for the "
        "density of gaps is not 0 at 0: between the last two temperatures the powers are "
        f"{powers[0]} (weight) and {powers[1]} (distance). The weight there is {ratio} times the "
        "mean of 1 / (1 + exp(gap / T)), which is what gaps alone give."
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
    last, before = wide.index[-1], wide.index[-2]
    powers = {
        name: np.log(wide.loc[last, ("seconds", name)] / wide.loc[before, ("seconds", name)])
        / np.log(last / before)
        for name in ("attention", "LSTM")
    }
    crossing = "attention takes longer at every length"
    if len(faster):
        crossing = f"the longest row in which attention is no slower has {faster[-1]} tokens"
    note = found.provenance
    d, h = WIDTH, note["lstm_width"]
    return (
        f"**What it costs.** One causal layer of width d = {d} ({note['parameters']['attention']} "
        f"parameters) against an LSTM of state h = {h} ({note['parameters']['LSTM']}). For n "
        f"tokens attention needs 8 d² n + 4 d n² FLOPs (what the mask hides is counted) and the "
        f"LSTM 8 h (d + h) n: {ratio['FLOPs'][wide.index[0]]:.2f} times as many at "
        f"{wide.index[0]} tokens, {ratio['FLOPs'][last]:.2f} times at {last}. One more token costs "
        f"8 d² + 4 d n against 8 h (d + h), and 2 d n kept numbers against 2 h. Measured, threads: "
        f"{note['threads']} (medians; timing is reported, never tested): "
        + ", ".join(
            f"{n} tokens {wide.loc[n, ('seconds', 'attention')]:.2g} s against "
            f"{wide.loc[n, ('seconds', 'LSTM')]:.2g} s"
            for n in (wide.index[0], last)
        )
        + f"; {crossing}. Seconds grow as length to the power {powers['attention']:.2f} and "
        f"{powers['LSTM']:.2f} between the last two lengths. Brackets elsewhere are 95 % "
        "intervals over documents, or over initialisations for tiny models."
    )


def interval(row: pd.Series, form: str = ".2f") -> str:
    """A number with its interval."""
    value, low, high = (format(row[c], form) for c in ("value", "low", "high"))
    return value if value == low == high else f"{value} [{low}, {high}]"
