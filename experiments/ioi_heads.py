"""What the heads of an IOI circuit do, by behaviour: where they look, and what that does.

The classes are those of GPT-2 small (Wang et al. 2022, sec. 3), and one that it was not said to
have. A head is put into a class on the discovery half and reported on the other.

| class | looks | and |
| --- | --- | --- |
| name mover | END to IO | raises the answer by way of the logits |
| negative name mover | END to IO | lowers it |
| S-inhibition | END to S2 | helps through the queries of name movers |
| subject suppressor | END to S2 | helps by way of the logits themselves |
| induction | S2 to S1+1 | helps by whatever way |
| duplicate token | S2 to S1 | helps by whatever way |
| previous token | S1+1 to S1 | helps by whatever way |
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import pandas as pd

import interp
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs
from interp.core.tables.results import Results
from interp.figures.attention import attention_summary

ASKED = {"end": ("io", "s1", "s2"), "s2": ("s1", "s1+1"), "s1+1": ("s1",)}
"""From where attention is read, and what it may go to."""
LOOKS = 0.2
"""Attention that is looking; it is also the largest of those asked for from there."""
MATTERS = 0.01
"""An effect that counts, as a share of the model's logit difference (Wang et al. 2022, sec. 4)."""


Way = Literal["logits", "queries", "model"]
Effects = Mapping[Way, Results]
"""What is lost by each way when a head's value is from the corrupt prompt; absent: not asked."""


@dataclass(frozen=True)
class Class:
    """A kind of head.

    Attributes:
        looks: query and key.
        through: by which way it acts: the "logits", the "queries" of name movers, or the "model".
        sign: of the effect of taking its value from the corrupt prompt; a helpful head has -1.
        gpt2: how many heads of GPT-2 small are said to be of it.
    """

    name: str
    looks: tuple[str, str]
    through: Way
    sign: int = -1
    gpt2: int = 0


CLASSES = (
    Class("name mover", ("end", "io"), "logits", gpt2=11),  # 3, and 8 that are backups
    Class("negative name mover", ("end", "io"), "logits", 1, gpt2=2),
    Class("S-inhibition", ("end", "s2"), "queries", gpt2=4),
    Class("subject suppressor", ("end", "s2"), "logits"),
    Class("induction", ("s2", "s1+1"), "model", gpt2=4),
    Class("duplicate token", ("s2", "s1"), "model", gpt2=3),
    Class("previous token", ("s1+1", "s1"), "model", gpt2=2),
)


def attended(model: interp.Model, pairs: Pairs, heads: Sequence[Site]) -> Results:
    """Attention of these heads from each place of `ASKED`; the query stands in `receiver`."""
    parts = []
    for query, keys in ASKED.items():
        found = interp.attention(model, pairs, list(heads), keys=keys, query=query)
        parts.append(Results(found.frame.assign(receiver=query), found.provenance))
    return Results.concat(parts)


def looking(attention: Results) -> pd.DataFrame:
    """Where each head looks from each place: `site`, `query`, `key`, `value`, `low`, `high`.

    A row for each head and place from which its attention to one of the keys is `LOOKS` or more.
    """
    parts = []
    for query in ASKED:
        table = attention_summary(attention.query(f"receiver == '{query}'"))
        most = table.loc[table.groupby("site")["value"].idxmax()]
        parts.append(most.assign(query=query).rename(columns={"position": "key"}))
    table = pd.concat(parts, ignore_index=True)
    return cast(pd.DataFrame, table[table["value"] >= LOOKS].reset_index(drop=True))


def through_logits(
    model: interp.Model,
    pairs: Pairs,
    heads: Sequence[Site],
    *,
    memory: int | None,
    checkpoint: Path | None = None,
) -> Results:
    """By way of the logits, from END."""
    return interp.path_patch(
        *(model, pairs),
        senders=list(heads),
        sender_positions="end",
        memory=memory,
        checkpoint=checkpoint,
    )


def through_model(
    model: interp.Model,
    pairs: Pairs,
    heads: Sequence[Site],
    *,
    memory: int | None,
    checkpoint: Path | None = None,
) -> Results:
    """By all ways, from everywhere."""
    return interp.ablate(
        model, pairs, list(heads), method="resample", memory=memory, checkpoint=checkpoint
    )


def through_queries(
    model: interp.Model,
    pairs: Pairs,
    heads: Sequence[Site],
    movers: Sequence[Site],
    *,
    memory: int | None,
) -> Results:
    """By way of the queries of name movers at END, of heads that come before one."""
    return interp.path_patch(
        model,
        pairs,
        senders=list(heads),
        receivers=[f"{mover}.q" for mover in movers],
        sender_positions="end",
        receiver_positions="end",
        memory=memory,
    )


def sites(table: pd.DataFrame) -> list[Site]:
    return sorted({Site.parse(site) for site in table["site"]})


def before(head: Site, movers: Sequence[Site]) -> bool:
    """Does any of these read what the head writes?"""
    return any((head.layer or 0) < (mover.layer or 0) for mover in movers)


def sorted_out(looks: pd.DataFrame, effects: Effects, *, whole: float) -> dict[str, str]:
    """The class of each head that has one: the first whose every condition it meets.

    Args:
        looks: from `looking`.
        whole: the model's logit difference, of which an effect has to be a share.
    """
    means = {way: _means(found) for way, found in effects.items()}
    found: dict[str, str] = {}
    for kind in CLASSES:
        query, key = kind.looks
        for site in looks.query(f"query == '{query}' and key == '{key}'")["site"]:
            effect = means.get(kind.through, {}).get(site, 0.0)
            if kind.sign * effect >= MATTERS * whole:
                found.setdefault(site, kind.name)
    return found


def movers(looks: pd.DataFrame, effects: Effects, *, whole: float) -> list[Site]:
    """The name movers, whose queries S-inhibition is asked about."""
    found = sorted_out(looks, effects, whole=whole)
    return [Site.parse(site) for site, kind in found.items() if kind == CLASSES[0].name]


def reported(
    classes: dict[str, str], attention: Results, effects: Effects, *, whole: float
) -> pd.DataFrame:
    """Each head of a class on other prompts: attention to what it looks at, and its effect.

    `holds`: it would have been put into the class by these prompts too.
    """
    kinds = {kind.name: kind for kind in CLASSES}
    looks = pd.concat(
        [attention_summary(attention.query(f"receiver == '{q}'")).assign(query=q) for q in ASKED]
    ).set_index(["site", "query", "position"])
    acts = {way: found.summary().set_index("site") for way, found in effects.items()}
    rows = []
    for site, name in classes.items():
        kind = kinds[name]
        seen, act = looks.loc[(site, *kind.looks)], acts[kind.through].loc[site]
        holds = seen["value"] >= LOOKS and kind.sign * act["effect"] >= MATTERS * whole
        row = {"class": name, "site": site, "looks": " -> ".join(kind.looks).upper()}
        row |= {"attention": seen["value"], "low": seen["low"], "high": seen["high"]}
        row |= {"through": kind.through, "effect": act["effect"]}
        row |= {f"effect {end}": act[end] for end in ("low", "high")}
        rows.append(row | {"holds": bool(holds)})
    order = list(kinds)
    table = pd.DataFrame(rows, columns=[*COLUMNS])
    return table.sort_values(
        ["class", "attention"],
        key=lambda c: c.map(order.index) if c.name == "class" else -c,
        ignore_index=True,
    )


COLUMNS = ("class", "site", "looks", "attention", "low", "high", "through", "effect")
COLUMNS += ("effect low", "effect high", "holds")


def _means(results: Results) -> dict[str, float]:
    return results.frame.groupby("site", observed=True)["effect"].mean().to_dict()
