"""What the heads of a circuit do: where they look, by which way that acts, and with which sign.

Wang et al. (2022, sec. 3) name the heads of GPT-2 small so: a name mover looks from END to the
indirect object and raises the answer by way of the logits; an S-inhibition head looks from END to
the subject and acts through the queries of name movers. Here a role is such a rule, of any task
whose prompts have named positions, and heads are put into roles by what they do on the discovery
half of a study; what is reported of them is of the other half.

    mover = Role("mover", ("end", "io"), "logits")
    found = find_roles(study, proof, [mover], asked={"end": ("io", "s1", "s2")})
    found.table, found.carried
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, cast

import pandas as pd

from interp.causal.ablation import ablate
from interp.causal.paths import path_patch
from interp.circuits.proof.apart import WITHOUT, lost
from interp.circuits.study import MATTERS, Proof, Study
from interp.core.door.door import door
from interp.core.parts.circuit import Circuit
from interp.core.parts.edges import Edge
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs
from interp.core.tables.results import Results
from interp.figures.attention import attention_summary
from interp.heads.looking.attention import attention

LOOKS = 0.2
"""Attention that is looking; it is also the largest of those asked for from there."""
COLUMNS = ("site", "looks", "attention", "low", "high", "through", "effect")
COLUMNS = ("role", *COLUMNS, "effect low", "effect high", "holds")

Way = Literal["logits", "queries", "model"]
Effects = Mapping[Way, Results]
"""What is lost by each way when a head's value is from the corrupt prompt; absent: not asked."""
Asked = Mapping[str, Sequence[str]]
"""From where attention is read, and what it may go to."""


@door
@dataclass(frozen=True)
class Role:
    """A kind of head.

    Attributes:
        looks: positions of query and key.
        through: by which way it acts: from "end" by the "logits" or by the "queries" of heads of
            the first role; or by all ways, from everywhere, through the "model".
        sign: of the effect of taking its value from the corrupt prompt; a helpful head has -1.
    """

    name: str
    looks: tuple[str, str]
    through: Way
    sign: int = -1


@dataclass(frozen=True, eq=False)
class Roles:
    """What the heads do.

    Attributes:
        of: the role of each head that has one.
        heads: all heads of the circuit.
        table: each of those that have one on the proof half: columns `COLUMNS`, where `holds` says
            that it would have the role by these prompts too.
        carried: what faithfulness falls by without each role, in circuit and in model.
    """

    of: dict[str, str]
    heads: list[Site]
    table: pd.DataFrame
    carried: pd.DataFrame


@door
def find_roles(study: Study, proof: Proof, roles: Sequence[Role], *, asked: Asked) -> Roles:
    """Roles of the circuit's heads by the discovery half, numbers of the proof half.

    A head has the first role all of whose conditions it meets: most of its attention from the
    query goes to the key, among what is asked for from there, and is `LOOKS` or more; and its
    effect has the sign, and is `MATTERS` of the model's metric or more.

    Args:
        asked: by query, the positions among which a head looks to one.

    Raises:
        PairsError: a position that the prompts have not.
    """
    heads = sorted({of.writer for of, _ in proof.circuit.parts if of.writer.kind == "z"})
    clean = study.behaviour().query(f"position == 'clean' and metric == '{study.name}'").frame
    whole = float(clean[clean["cluster"].isin(study.discovery.cluster)]["value"].mean())
    halves = {"discovery": study.discovery, "proof": study.proof}
    seen = {
        half: study.stage(f"attention-{half}", partial(_attended, study, pairs, heads, asked))
        for half, pairs in halves.items()
    }
    looks = looking(seen["discovery"])
    effects = {half: _acting(study, half, pairs, looks, roles) for half, pairs in halves.items()}
    found = sorted_out(roles, looks, effects["discovery"], whole=whole)
    fed = [Site.parse(site) for site, name in found.items() if name == roles[0].name]
    feeding = {role.looks for role in roles if role.through == "queries"}
    places = pd.MultiIndex.from_frame(looks[["query", "key"]])
    early = [head for head in _sites(looks[places.isin(feeding)]) if before(head, fed)]
    if early:
        for half, pairs in halves.items():
            ask = partial(_by_queries, study, pairs, early, fed)
            effects[half]["queries"] = study.stage(f"queries-{half}", ask)
    of = sorted_out(roles, looks, effects["discovery"], whole=whole)
    table = reported(roles, of, seen["proof"], effects["proof"], whole=whole)
    return Roles(of, heads, table, without(study, proof, of))


def _attended(
    study: Study, pairs: Pairs, heads: Sequence[Site], asked: Asked, _: Path | None
) -> Results:
    """Attention of the heads from each place; the query stands in `receiver`."""
    parts = []
    for query, keys in asked.items():
        found = attention(study.model, pairs, list(heads), keys=list(keys), query=query)
        parts.append(Results(found.frame.assign(receiver=query), found.provenance))
    return Results.concat(parts)


def looking(seen: Results) -> pd.DataFrame:
    """Where each head looks from each place: `site`, `query`, `key`, `value`, `low`, `high`.

    A row for each head and place from which its attention to one of the keys is `LOOKS` or more.
    """
    parts = []
    for query, table in _by_query(seen).items():
        most = table.loc[table.groupby("site")["value"].idxmax()]
        parts.append(most.assign(query=query).rename(columns={"position": "key"}))
    table = pd.concat(parts, ignore_index=True)
    return cast(pd.DataFrame, table[table["value"] >= LOOKS].reset_index(drop=True))


def _by_query(seen: Results) -> dict[str, pd.DataFrame]:
    queries = dict.fromkeys(seen.frame["receiver"])
    return {q: attention_summary(seen.query(f"receiver == '{q}'")) for q in queries}


def _acting(
    study: Study, half: str, pairs: Pairs, looks: pd.DataFrame, roles: Sequence[Role]
) -> dict[Way, Results]:
    """By way of the logits, and by all ways, of the heads that look from where these are asked."""
    how = {"metric": study.metric, "memory": study.memory}
    found: dict[Way, Results] = {}
    for way in ("logits", "model"):
        places = {role.looks[0] for role in roles if role.through == way}
        if heads := _sites(looks[looks["query"].isin(places)]):

            def acted(kept: Path | None, way: Way = way, heads: list[Site] = heads) -> Results:
                if way == "model":
                    given = {"method": "resample", "checkpoint": kept}
                    return ablate(study.model, pairs, heads, **given, **how)
                given = {"sender_positions": "end", "checkpoint": kept}
                return path_patch(study.model, pairs, senders=heads, **given, **how)

            found[way] = study.stage(f"{way}-{half}", acted)
    return found


def _by_queries(
    study: Study, pairs: Pairs, heads: Sequence[Site], fed: Sequence[Site], _: Path | None
) -> Results:
    """By way of the queries of others at END, of heads that come before one."""
    return path_patch(
        *(study.model, pairs),
        senders=list(heads),
        receivers=[f"{site}.q" for site in fed],
        sender_positions="end",
        receiver_positions="end",
        metric=study.metric,
        memory=study.memory,
    )


def _sites(table: pd.DataFrame) -> list[Site]:
    return sorted({Site.parse(site) for site in table["site"]})


def before(head: Site, others: Sequence[Site]) -> bool:
    """Does any of these read what the head writes?"""
    return any((head.layer or 0) < (other.layer or 0) for other in others)


def sorted_out(
    roles: Sequence[Role], looks: pd.DataFrame, effects: Effects, *, whole: float
) -> dict[str, str]:
    """The role of each head that has one: the first whose every condition it meets.

    Args:
        looks: from `looking`.
        whole: the model's metric, of which an effect has to be a share.
    """
    means = {
        way: found.frame.groupby("site", observed=True)["effect"].mean().to_dict()
        for way, found in effects.items()
    }
    found: dict[str, str] = {}
    for role in roles:
        query, key = role.looks
        acts = means.get(role.through, {})
        for site in looks.query(f"query == '{query}' and key == '{key}'")["site"]:
            if role.sign * acts.get(site, 0.0) >= MATTERS * whole:
                found.setdefault(site, role.name)
    return found


def reported(
    roles: Sequence[Role],
    of: Mapping[str, str],
    seen: Results,
    effects: Effects,
    *,
    whole: float,
) -> pd.DataFrame:
    """Each head of a role on other prompts: attention to what it looks at, and its effect."""
    kinds = {role.name: role for role in roles}
    at = pd.concat(
        {q: table.set_index(["site", "position"]) for q, table in _by_query(seen).items()}
    )
    acts = {way: found.summary().set_index("site") for way, found in effects.items()}
    rows = []
    for site, name in of.items():
        role = kinds[name]
        query, key = role.looks
        look, act = at.loc[(query, site, key)], acts[role.through].loc[site]
        holds = look["value"] >= LOOKS and role.sign * act["effect"] >= MATTERS * whole
        row = {"role": name, "site": site, "looks": " -> ".join(role.looks).upper()}
        row |= {"attention": look["value"], "low": look["low"], "high": look["high"]}
        row |= {"through": role.through, "effect": act["effect"]}
        row |= {f"effect {end}": act[end] for end in ("low", "high")}
        rows.append(row | {"holds": bool(holds)})
    order = list(kinds)
    return pd.DataFrame(rows, columns=[*COLUMNS]).sort_values(
        ["role", "attention"],
        key=lambda c: c.map(order.index) if c.name == "role" else -c,
        ignore_index=True,
    )


def without(study: Study, proof: Proof, of: Mapping[str, str]) -> pd.DataFrame:
    """What faithfulness falls by, of the circuit and of the model, without what a role writes.

    By role as in Wang et al. (2022, sec. 4), who ask whether both are left with the same; what
    each loses does not count what the circuit lacks from the start.
    """
    circuit = proof.circuit
    every = circuit.holding(frozenset(proof.scores.parts))
    circuits = {"circuit": circuit}
    for name in dict.fromkeys(of.values()):
        members = {site for site, found in of.items() if found == name}
        for whole, parts in (("circuit", circuit), ("model", every)):
            circuits[f"{whole}{WITHOUT}{name}"] = parts - written_by(parts, members)
    return lost(study.judged("roles", circuits), study.name)


def written_by(circuit: Circuit, heads: Set[str]) -> Circuit:
    """The edges that leave these heads."""
    edges = [part for part in circuit.parts if isinstance(part.of, Edge)]
    return circuit.holding(frozenset(p for p in edges if str(p.of.writer) in heads))
