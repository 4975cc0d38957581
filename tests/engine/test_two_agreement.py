"""Replay, hooks and the oracle on the same interventions in encoder-decoders, drawn at random."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from cases import MANY, NODES, drawn
from cases_of_two import THROUGH, CaseOfTwo
from hypothesis import given
from hypothesis import strategies as st
from oracle import HopSpec
from oracle_of_two import OracleOfTwo

from interp.core.parts.edges import feeds, read_in
from interp.core.parts.sites import Kind, Site
from interp.engine.interventions import (
    SENDERS,
    Cell,
    Freeze,
    Hop,
    Intervention,
)
from interp.engine.plan.positions import places

ORDINARY = 30


def nodes_agree(data, tiny_model, oracle_of_two, pairs):
    """Any joint set of interventions at any sites of both stacks and positions, any value."""
    case = CaseOfTwo(data, tiny_model, pairs)
    interventions = tuple(case.intervention(site) for site in case.sites(NODES, 4))
    judge: OracleOfTwo = oracle_of_two(case.family)

    def output_of(row, ran, other):
        acts = judge.forward(*ran)[1], judge.forward(*other)[1]
        return judge.forward(*ran, case.change(interventions, row, *acts))[0]

    case.agree(Cell("test", "", interventions), case.truth(output_of), ("replay", "hooks"))


def paths_agree(data, tiny_model, oracle_of_two, pairs):
    """Any senders of one stack, in any number of hops, within a stack and across."""
    case = CaseOfTwo(data, tiny_model, pairs)
    first = case.site(SENDERS)
    senders = sorted({first, *(s for s in case.sites(SENDERS, 2) if s.stack == first.stack)})
    hops: list[Hop] = []
    before = senders
    for _ in range(data.draw(st.integers(0, 2))):
        through = data.draw(st.sampled_from(THROUGH))
        ends = [s for s in case.sites(("q", "k", "v", "mlp_out"), 3) if follows(before, s, through)]
        ends = [s for s in ends if read_in(s) == read_in(ends[0])]
        # a key and its own group's key at once would set one activation twice
        if not ends or len({(s.kind, s.layer, s.cross) for s in ends}) < len(ends):
            continue
        if min(before) < max(ends) and not {*before} & {*ends}:
            hops.append(case.hop(tuple(ends), through))
            before = ends
    if not hops or data.draw(st.booleans()):
        through = "all" if before[0].stack == "enc" else data.draw(st.sampled_from(THROUGH))
        if any(s.stack == "enc" for s in before):
            through = "all"
        hops.append(case.hop((Site("logits"),), through))
    interventions = tuple(case.intervention(site) for site in senders)
    frozen = sum(isinstance(i.value, Freeze) for i in interventions)
    if 0 < frozen < len(interventions):
        return  # refused: nothing passes through what is frozen
    judge: OracleOfTwo = oracle_of_two(case.family)

    def output_of(row, ran, other):
        acts = judge.forward(*ran)[1], judge.forward(*other)[1]
        specs = [
            HopSpec(
                tuple(map(str, hop.receivers)),
                places(case.pairs, hop.positions, [row], hop.receivers[0]),
                hop.through,
                hop.ln,
            )
            for hop in hops
        ]
        return judge.run_cell(*ran, case.change(interventions, row, *acts), specs)

    cell = Cell("test", "", interventions, tuple(hops))
    case.agree(cell, case.truth(output_of), ("replay",))


def follows(senders: Sequence[Site], reader: Site, through: str) -> bool:
    """May a hop go from all of these into a reader?"""
    reads = read_in(reader)
    return all(
        s.stack == reads or (s.stack == "enc" and through == "all" and reads == "dec")
        for s in senders
    )


def edges_agree(data, tiny_model, oracle_of_two, pairs):
    """Any set of edges within both stacks and across, with other interventions beside them."""
    case = CaseOfTwo(data, tiny_model, pairs)
    kinds: tuple[Kind, ...] = ("resid_pre", "z", "attn_out", "mlp_act", "mlp_out")
    named: list[Intervention] = []
    for _ in range(data.draw(st.integers(2, 8))):
        writer, reader = case.site(kinds), case.site(("q", "k", "v", "mlp_out"))
        if writer.kind == "resid_pre":
            writer = replace(writer, layer=0)
        if data.draw(st.integers(0, 3)) == 0:
            reader = Site("logits")
        if feeds(writer, reader, case.facts) and all(
            i.site != writer or reader not in (i.readers or ()) for i in named
        ):
            named.append(case.intervention(writer, (reader,)))
    if not named:
        return
    readers = [r for i in named for r in i.readers]
    # a group's key and a head's own at once: which of them the head reads is a matter of taste
    heads = {(r.layer, r.kind, r.stack, r.cross) for r in readers}
    if len(heads) < len({*readers}):
        return
    taken = {i.site for i in named}
    sums = {
        (s.layer, {"z": "attn_out", "mlp_act": "mlp_out"}.get(s.kind), s.stack, s.cross)
        for s in taken
    }
    whole = [
        case.intervention(site)
        for site in ([] if data.draw(st.booleans()) else case.sites(NODES, 3))
        if site not in taken
        and not site.kind.startswith("resid")  # refused: a sum that is set has no terms
        and (site.layer, site.kind, site.stack, site.cross) not in sums | heads
    ]
    judge: OracleOfTwo = oracle_of_two(case.family)

    def output_of(row, ran, other):
        acts = judge.forward(*ran)[1], judge.forward(*other)[1]
        table: dict[str, dict] = {}
        for i in named:
            for reader in i.readers:
                table.setdefault(str(reader), {})[str(i.site)] = case.new(i, row, *acts)
        return judge.forward(*ran, case.change(whole, row, *acts), edges=table)[0]

    case.agree(Cell("test", "", (*named, *whole)), case.truth(output_of), ("replay",))


PROPERTIES = {"nodes": nodes_agree, "paths": paths_agree, "edges": edges_agree}


@pytest.mark.plain
@pytest.mark.parametrize("what", PROPERTIES)
@given(data=st.data())
@drawn(ORDINARY)
def test_drawn_cases_agree(data, what, tiny_model, oracle_of_two, pairs):
    PROPERTIES[what](data, tiny_model, oracle_of_two, pairs)


@pytest.mark.slow
@pytest.mark.parametrize("what", PROPERTIES)
@given(data=st.data())
@drawn(MANY)
def test_many_drawn_cases_agree(data, what, tiny_model, oracle_of_two, pairs):
    PROPERTIES[what](data, tiny_model, oracle_of_two, pairs)
