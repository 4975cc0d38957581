"""Figures and words of `translation`."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

import interp
from experiments._shared import Words, brief
from experiments.translation.agreeing import READS, strongest, told
from experiments.translation.aligning import HALVES, LAST, MEAN, NEXT, least
from experiments.translation.ordering import METRICS
from experiments.translation.using import by_head, shares
from interp.core.parts.sites import depth_of
from interp.core.tables.results import Results
from interp.core.tables.scores import Scores
from interp.figures.scatter import rank_correlation
from interp.runs import Run

words = Words(__file__)
FEW = 0.05
"""A head that is wrong for fewer words aligns."""
CONCEPTS = ("attribute", "agent")
MARGIN, SHARE = 0.1, 0.9
PROBES = "metric == 'accuracy' and subset == 'all'"


@dataclass(frozen=True)
class Found:
    """The tables of one translator.

    Attributes:
        moved: of each case of agreement, what patches move, and what decides.
    """

    aligns: Scores
    uses: Results
    moved: Mapping[str, tuple[Results, Results]]
    holds: Scores


def draw(run: Run, found: Mapping[int, Found], order: Scores) -> None:
    """Every figure, with its table beside it."""
    aligned, uses, agreed = [], [], []
    for depth, one in found.items():
        panel = {"panel": f"{depth} layer{'s' * (depth > 1)}"}
        aligned.append(_aligned(one.aligns).assign(**panel))
        uses.append(_by_kind(one.uses).assign(**panel))
        for case, tables in one.moved.items():
            table = _streams(told(*tables))
            agreed.append(table.assign(panel=f"{case}, {depth}", case=case, layers=depth))
    errors, used, moved = (pd.concat(t, ignore_index=True) for t in (aligned, uses, agreed))
    figure = interp.figures.curves(
        errors, x="head", hue="task", panel="panel", ylabel="alignment error rate", xlabel="head"
    )
    run.figure("alignment", figure, errors)
    said = {"xlabel": "attention to the source word", "ylabel": "share that its values carry"}
    shown = used[used["part"] == "v"]
    figure = interp.figures.scatter(
        shown, x="attention", y="value", hue="kind of word", panel="panel", **said
    )
    run.figure("use", figure, used)
    figure = interp.figures.curves(
        moved,
        x="depth",
        hue="position",
        panel="panel",
        xlabel="encoder layers passed",
        ylabel="share of the change",
    )
    run.figure("agreement", figure, moved)
    table = order.summary()
    figure = interp.figures.curves(table, x="metric", hue="model", xlabel="right", ylabel="share")
    run.figure("order", figure, table)
    for depth, one in found.items():
        table = _probed(one.holds)
        figure = interp.figures.curves(
            table,
            x="depth",
            hue="curve",
            panel="task",
            xlabel="encoder layers passed",
            ylabel="accuracy",
        )
        run.figure(f"layers-{depth}", figure, table)


def _aligned(scores: Scores) -> pd.DataFrame:
    """The half that reports: heads, and the best offset last."""
    best = least(scores)["offset"]
    table = scores.query(f"subset == '{HALVES[1]}'").summary()
    table = table[(table["probe"] == "attention") | (table["probe"] == best)]
    head = table["site"].str.removeprefix("dec.").str.replace(".cross", "")
    return table.assign(head=head.where(table["site"] != "", best))


def _by_kind(uses: Results) -> pd.DataFrame:
    """`by_head` for each kind of word."""
    kinds = {cluster.split(", ")[0] for cluster in uses.frame["cluster"]}
    parts = []
    for kind in sorted(kinds):
        rows = uses.frame[uses.frame["cluster"].str.startswith(f"{kind}, ")]
        part = by_head(Results(rows.reset_index(drop=True), uses.provenance))
        parts.append(part.assign(**{"kind of word": kind}))
    return pd.concat(parts, ignore_index=True)


def _streams(table: pd.DataFrame) -> pd.DataFrame:
    """Effects of streams at places, by depth."""
    streams = table["kind"].isin(["resid_pre", "resid_post"])
    kept = table[(table["method"] == "patch") & streams]
    return kept.assign(depth=[int(depth_of(site) or 0) for site in kept["site"]])


def _probed(holds: Scores) -> pd.DataFrame:
    table = holds.query(PROBES).summary()
    table = table[table["probe"] == "linear"]
    model = table["model"].map({"trained": "trained", "random": "untrained"})
    curve = model.where(table["labels"] == "real", model + ", control task")
    kept = table.assign(curve=curve, depth=table["depth"].astype(int))
    return kept[kept["labels"].isin(["real", "control"])]


def summarise(found: Mapping[int, Found], order: Scores, accuracy: Mapping[int, float]) -> str:
    """What was found, in words."""
    each = "; ".join(words("accuracy", depth=d, accuracy=a) for d, a in accuracy.items())
    parts = [words("heading"), words("trained", each=each)]
    for depth, one in found.items():
        parts += [
            words("layers", depth=depth),
            of_alignment(one.aligns),
            of_use(one),
            of_agreement(one),
            of_layers(one.holds),
        ]
    return "\n\n".join([*parts, of_order(order), words("brackets")])


def of_alignment(scores: Scores) -> str:
    """Which head aligns, and how well."""
    best = least(scores)
    table = scores.query(f"subset == '{HALVES[1]}'").summary()
    next_, last = (table[table["task"] == task] for task in (NEXT, LAST))
    heads = next_[next_["probe"] == "attention"]
    return words(
        "aligned",
        head=best[NEXT],
        error=heads.set_index("site").loc[best[NEXT]],
        offset=best["offset"].removeprefix("offset "),
        fixed=next_.set_index("probe").loc[best["offset"]],
        mean=next_.set_index("probe").loc[MEAN],
        good=int((heads["value"] < FEW).sum()),
        of=len(heads),
        few=FEW,
        last=best[LAST],
        behind=last.set_index("site").loc[best[LAST]],
    )


def of_use(one: Found) -> str:
    """What goes through values and keys, and whether attention tells."""
    first, second = one.uses.split()
    head = least(one.aligns)[NEXT]
    chosen = by_head(first).query("part == 'v'")
    most = chosen.loc[chosen["value"].idxmax(), "reader"]
    table = by_head(second)
    values = table[table["part"] == "v"].set_index("reader")
    whole = second.query("site == 'keys and values'").frame.sort_values("example")["effect"]
    sets = shares(second.query("method == 'patch'"), whole.to_numpy()).set_index("site")
    within = [r for r in _within(second) if not np.isnan(r)]
    told_ = {"low": min(within), "high": max(within)} if within else {}
    return words(
        "used",
        n=int(table["n"].iloc[0]),
        values=brief(sets.loc["all values"]),
        keys=brief(sets.loc["all keys"]),
        head=head,
        own=brief(values.loc[head]),
        most=most,
        carried=brief(values.loc[most]),
        rho=rank_correlation(values["attention"].to_numpy(), values["value"].to_numpy()),
        of=len(values),
        within=words("within" if told_ else "nowhere", **told_),
    )


def _within(uses: Results) -> list[float]:
    """Of each head whose values carry a tenth or more: the rank correlation over sentences."""
    table = by_head(uses).query("part == 'v' and value >= 0.1")
    frame = uses.frame.sort_values("example")
    found = []
    for head, receiver in zip(table["reader"], table["receiver"], strict=True):
        seen = frame[(frame["method"] == "attention") & (frame["site"] == head)]["value"]
        moved = frame[(frame["method"] == "path_patch") & (frame["receiver"] == receiver)]["effect"]
        found.append(rank_correlation(seen.to_numpy(), moved.abs().to_numpy()))
    return found


def of_agreement(one: Found) -> str:
    """Where gender and number are told, case by case."""
    return "\n".join([words("agreement"), "", *(_case(c, *t) for c, t in one.moved.items())])


def _case(case: str, moved: Results, whence: Results) -> str:
    read = next(name for name in READS if case.endswith(name))
    table = told(moved, whence)
    alone = table.set_index("method").loc[["source", "written"]]
    streams = _streams(table)
    last = streams[streams["depth"] == streams["depth"].max()].set_index("position")
    heads = words("not by reading")
    if alone.loc["source", "low"] > 0:
        brings, _, second = strongest(moved, "patch", "z")
        carries, _, _ = strongest(moved, "path_patch", "resid_pre")
        other = told(second, whence.split()[1])
        seen = second.frame.query("method == 'attention'").groupby("site")["value"].mean()
        heads = words(
            "heads of case",
            read=read,
            brings=brings,
            brought=brief(other[other["method"] == "patch"].set_index("site").loc[brings]),
            carries=carries,
            carried=brief(other.set_index("receiver").loc[carries]),
            attention=seen[carries.removesuffix(".v")],
        )
    return words(
        "case",
        case=case,
        read=read,
        source=alone.loc["source"],
        written=alone.loc["written"],
        place=last.loc[read],
        noun=last.loc["noun"],
        heads=heads,
    )


def of_order(order: Scores) -> str:
    """What is right with and without positions."""
    table = order.summary().set_index(["model", "metric"])
    each = []
    for name in dict.fromkeys(order.frame["model"]):
        rows = {m: table.loc[(name, m)] for m in METRICS if (name, m) in table.index}
        rows |= {m: pd.Series({"value": np.nan}) for m in METRICS if m not in rows}
        each.append(words("ordered", name=name, **rows))
    right = order.query("metric == 'sentence'")
    with_, without = (
        right.query(f"model == 'trained {name} positions'") for name in ("with", "without")
    )
    less = with_.minus(without, ignoring=["model"]).iloc[0]
    kept = float(table.loc[("trained without positions", "words"), "value"])
    verdict = words("lost" if less["low"] > 0 else "not lost", less=brief(less), kept=kept)
    return f"{words('order', each='; '.join(each))}\n\n{verdict}"


def of_layers(holds: Scores) -> str:
    """What probes read, and whether words come before concepts."""
    best = {
        task: holds.query(
            f"task == '{task}' and subset == 'dev' and labels == 'real' and model == 'trained'"
            " and metric == 'accuracy' and probe == 'linear'"
        ).best()["site"]
        for task in dict.fromkeys(holds.frame["task"])
    }
    table = holds.query(PROBES).summary()
    real = table[table["labels"] == "real"]
    each = []
    for task, site in best.items():
        at = real[real["task"] == task].set_index(["model", "site"])
        each.append(
            words(
                "task",
                task=task,
                depth=depth_of(site),
                best=at.loc[("trained", site)],
                first=at.loc[("trained", "enc.0.resid_pre")],
                random=at.loc[("random", site)],
                majority=real[(real["task"] == task) & (real["probe"] == "majority")]["value"].iloc[
                    0
                ],
            )
        )
    return f"{words('holds', each='; '.join(each))}\n\n{verdict(holds, best)}"


def verdict(holds: Scores, best: Mapping[str, str]) -> str:
    """The claim: words and roles after the first layer, concepts later."""
    linear = holds.query(f"{PROBES} and labels == 'real' and probe == 'linear'")
    ours, random = (linear.query(f"model == '{name}'") for name in ("trained", "random"))
    more = ours.minus(random, ignoring=["model"]).set_index(["task", "site"])
    table = ours.summary().set_index(["task", "site"])
    first = "enc.0.resid_post"
    early = all(
        table.loc[(task, first), "value"] >= SHARE * table.loc[(task, best[task]), "value"]
        for task in ("word", "role")
    )
    there = [task for task in CONCEPTS if more.loc[(task, best[task]), "low"] >= MARGIN]
    shown = [
        words(
            "concept",
            task=task,
            depth=depth_of(best[task]),
            more=brief(more.loc[(task, best[task])]),
        )
        for task in there
    ]
    later = all((depth_of(best[task]) or 0) > 1 for task in there)
    concepts = "concepts none" if not there else "concepts later" if later else "concepts with"
    return words(
        "claim",
        words_=words("words yes" if early else "words no", share=SHARE),
        concepts=words(concepts, tasks="; ".join(shown), margin=MARGIN),
    )
