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
from experiments.translation.using import by_head, idle, shares
from interp.core.parts.sites import depth_of
from interp.core.tables.results import Results
from interp.core.tables.scores import Scores
from interp.figures.scatter import rank_correlation
from interp.runs import Run

words = Words(__file__)
FEW = 0.05
"""A head that is wrong for fewer words aligns."""
NEWLINE = "\n"
CONCEPTS = ("attribute", "agent")
MARGIN, SHARE = 0.1, 0.9
WORTH = 0.1
"""A share from which on heads are looked for."""
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
    uses, agreed = [], []
    for depth, one in found.items():
        panel = {"panel": f"{depth} layer{'s' * (depth > 1)}"}
        uses.append(_by_kind(one.uses).assign(**panel))
        agreed.append(decided(one).assign(**panel))
        table = _aligned(one.aligns)
        figure = interp.figures.curves(
            table, x="head", hue="task", ylabel="alignment error rate", xlabel="head"
        )
        run.figure(f"alignment-{depth}", figure, table)
        table = _probed(one.holds)
        figure = interp.figures.curves(
            table,
            x="after",
            hue="curve",
            panel="task",
            xlabel="encoder layers passed",
            ylabel="accuracy",
        )
        run.figure(f"layers-{depth}", figure, table)
        table = _by_layer(one)
        figure = interp.figures.curves(
            table,
            x="after",
            hue="position",
            panel="case",
            xlabel="encoder layers passed",
            ylabel="share of the change",
        )
        run.figure(f"agreement-{depth}", figure, table)
    table = pd.concat(agreed, ignore_index=True)
    figure = interp.figures.curves(
        table.assign(case=table["case"].str.replace(" of the ", ", ")),
        x="case",
        hue="told",
        panel="panel",
        xlabel="what is asked for",
        ylabel="share of the change",
    )
    run.figure("agreement", figure, table)
    used = pd.concat(uses, ignore_index=True)
    said = {"xlabel": "attention to the source word", "ylabel": "share that its values carry"}
    shown = used[used["part"] == "v"]
    figure = interp.figures.scatter(shown, x="attention", y="value", panel="panel", **said)
    run.figure("use", figure, used)
    table = order.summary()
    figure = interp.figures.curves(table, x="metric", hue="model", xlabel="right", ylabel="share")
    run.figure("order", figure, table)


def decided(one: Found) -> pd.DataFrame:
    """What tells each case (`told`): a place of the encoder's last stream, or what was written."""
    parts = []
    for case, tables in one.moved.items():
        read = _read(case)
        shares = told(*tables)
        streams = _streams(shares)
        last = streams[streams["depth"] == streams["depth"].max()].set_index("position")
        rows = {
            "the noun": last.loc["noun"],
            "its own source word": last.loc[read],
            "what was written": shares.set_index("method").loc["written"],
        }
        parts += [row.to_frame().T.assign(case=case, told=name) for name, row in rows.items()]
    table = pd.concat(parts, ignore_index=True)
    return table.assign(**{c: table[c].astype(float) for c in ("value", "low", "high")})


def _by_layer(one: Found) -> pd.DataFrame:
    """Every stream at every place, of every case."""
    parts = [_streams(told(*tables)).assign(case=case) for case, tables in one.moved.items()]
    table = pd.concat(parts, ignore_index=True)
    return table.assign(after=_after(table["depth"]))


def _after(depth: pd.Series) -> list[str]:
    """As text, since few layers make no curve."""
    return [str(d) for d in depth]


def _read(case: str) -> str:
    return next(name for name in READS if case.endswith(name))


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
    kept = table.assign(curve=curve, after=_after(table["depth"]))
    return kept[(kept["labels"] == "real") | (kept["model"] == "trained")]


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
    spread = {"low": min(within), "high": max(within)} if within else {}
    return words(
        "used",
        n=int(table["n"].iloc[0]),
        values=sets.loc["all values"],
        keys=sets.loc["all keys"],
        head=head,
        own=values.loc[head],
        most=most,
        carried=values.loc[most],
        rho=rank_correlation(values["attention"].to_numpy(), values["value"].to_numpy()),
        of=len(values),
        within=words("within" if spread else "nowhere", **spread),
        idle=idle(second),
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
    read = _read(case)
    table = told(moved, whence)
    alone = table.set_index("method").loc[["source", "written"]]
    streams = _streams(table)
    last = streams[streams["depth"] == streams["depth"].max()].set_index("position")
    by = {
        "by place": last.loc[read],
        "by noun": last.loc["noun"],
        "by written": alone.loc["written"],
    }
    where = max(by, key=lambda name: by[name]["value"])
    heads = words("not by reading")
    if alone.loc["source", "low"] > WORTH:
        brings, _, second = strongest(moved, "patch", "z")
        carries, _, _ = strongest(moved, "path_patch", "resid_pre")
        other = told(second, whence.split()[1])
        seen = second.frame.query("method == 'attention'").groupby("site")["value"].mean()
        heads = words(
            "heads of case",
            read=read,
            brings=brings,
            brought=other[other["method"] == "patch"].set_index("site").loc[brings],
            carries=carries,
            carried=other.set_index("receiver").loc[carries],
            attention=seen[carries.removesuffix(".v")],
        )
    return words(
        "case",
        case=case,
        read=read,
        where=words(where if by[where]["low"] > 0.5 else "by several", read=read),
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
        none = pd.Series({"value": np.nan})
        each.append(words("ordered", name=name, **{m: rows.get(m, none) for m in METRICS}))
    right = order.query("metric == 'sentence'")
    with_, without = (
        right.query(f"model == 'trained {name} positions'") for name in ("with", "without")
    )
    less = with_.minus(without, ignoring=["model"]).iloc[0]
    kept = float(table.loc[("trained without positions", "words"), "value"])
    verdict = words("lost" if less["low"] > 0 else "not lost", less=brief(less), kept=kept)
    return f"{words('order')}\n{NEWLINE.join(each)}\n\n{verdict}"


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
                control=table[
                    (table["task"] == task)
                    & (table["site"] == site)
                    & (table["labels"] == "control")
                    & (table["model"] == "trained")
                ]["value"].min(),
                majority=real[(real["task"] == task) & (real["probe"] == "majority")]["value"].iloc[
                    0
                ],
            )
        )
    return f"{words('holds')}\n{NEWLINE.join(each)}\n\n{verdict(holds, best)}"


def verdict(holds: Scores, best: Mapping[str, str]) -> str:
    """The claim: words and roles after the first layer, concepts later."""
    linear = holds.query(f"{PROBES} and labels == 'real' and probe == 'linear'")
    ours, random = (linear.query(f"model == '{name}'") for name in ("trained", "random"))
    more = ours.minus(random, ignoring=["model"]).set_index(["task", "site"])
    table = ours.summary().set_index(["task", "site"])
    reached = {
        site: all(
            table.loc[(task, site), "value"] >= SHARE * table.loc[(task, best[task]), "value"]
            for task in ("word", "role")
        )
        for site in ("enc.0.resid_pre", "enc.0.resid_post")
    }
    before, early = reached.values()
    there = [task for task in CONCEPTS if more.loc[(task, best[task]), "low"] >= MARGIN]
    shown = [
        words("concept", task=task, depth=depth_of(best[task]), more=more.loc[(task, best[task])])
        for task in there or CONCEPTS
    ]
    later = all((depth_of(best[task]) or 0) > 1 for task in there)
    concepts = "concepts hardly" if not there else "concepts later" if later else "concepts with"
    return words(
        "claim",
        words_=words(
            "words before" if before else "words yes" if early else "words no", share=SHARE
        ),
        concepts=words(concepts, tasks="; ".join(shown)),
    )
