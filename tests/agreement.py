"""What engines and the oracle must agree on: drawn nodes, paths and edges."""

from cases import NODES, Case, expected
from hypothesis import strategies as st
from oracle import HopSpec, Oracle

from interp.core.parts.edges import feeds
from interp.core.parts.sites import Kind, Site
from interp.engine.interventions import SENDERS, Cell, Freeze, Hop
from interp.engine.plan.positions import places


def nodes_agree(data, tiny_model, oracle, pairs, family=""):
    """Any joint set of interventions at any sites and positions, any value."""
    case = Case(data, tiny_model, pairs, family)
    chosen = case.sites(NODES, 3)
    interventions = tuple(case.intervention(site) for site in chosen)
    judge: Oracle = oracle(case.family)

    def output_of(row, ran, other):
        acts = judge.forward(ran)[1], judge.forward(other)[1]
        return judge.forward(ran, case.change(interventions, row, *acts))[0]

    truth = expected(case.model, case.pairs, case.base, output_of)
    case.check(Cell("test", "", interventions), truth, hooks=not case.unreached(chosen))


def paths_agree(data, tiny_model, oracle, pairs, family=""):
    """Any senders to any receivers in any number of hops, restricted at either end."""
    case = Case(data, tiny_model, pairs, family)
    senders = case.sites(SENDERS, 2)
    hops: list[Hop] = []
    before = min(senders)
    for _ in range(data.draw(st.integers(0, 2))):
        ends = case.sites(("q", "k", "v", "mlp_out"), 2)
        # a key and its own group's key at once would set one activation twice
        if len({(s.kind, s.layer) for s in ends}) < len(ends) or not before < max(ends):
            continue
        hops.append(draw_hop(case, tuple(ends)))
        before = min(ends)
    if not hops or data.draw(st.booleans()):
        hops.append(draw_hop(case, (Site("logits"),)))
    if set(senders) & set(hops[0].receivers):
        return
    ends = [site for hop in hops for site in hop.receivers]
    if not case.facts.language_model and hops[-1].ends:
        case.place()  # its final stream is read at all positions; drawn paths end there as well
    interventions = tuple(case.intervention(site) for site in senders)
    frozen = sum(isinstance(i.value, Freeze) for i in interventions)
    if 0 < frozen < len(interventions):
        return  # refused: nothing passes through what is frozen
    judge: Oracle = oracle(case.family)

    def output_of(row, ran, other):
        acts = judge.forward(ran)[1], judge.forward(other)[1]
        specs = [
            HopSpec(
                tuple(map(str, hop.receivers)),
                places(case.pairs, hop.positions, [row]),
                hop.through,
                hop.ln,
            )
            for hop in hops
        ]
        return judge.run_cell(ran, case.change(interventions, row, *acts), specs)

    truth = expected(case.model, case.pairs, case.base, output_of)
    cell = Cell("test", "", interventions, tuple(hops))
    reached = not (case.unreached([*senders, *ends]) or case.unscaled(hops))
    case.check(cell, truth, hooks=reached)


def draw_hop(case: Case, ends: tuple[Site, ...]) -> Hop:
    through = case.data.draw(st.sampled_from(["direct", "mlps", "all"]))
    return Hop(
        ends, through, case.place(), case.data.draw(st.sampled_from(["recompute", "freeze"]))
    )


def edges_agree(data, tiny_model, oracle, pairs, family=""):
    """Any set of edges, with any other interventions beside them."""
    case = Case(data, tiny_model, pairs, family)
    facts = case.facts
    kinds: tuple[Kind, ...] = ("embed", "z", "attn_out", "mlp_act", "expert", "mlp_out")
    ends: tuple[Kind, ...] = ("q", "k", "v", "mlp_out")
    named = []
    for _ in range(data.draw(st.integers(1, 5))):
        writer, reader = case.site(kinds), case.site(ends)
        if data.draw(st.integers(0, 3)) == 0:
            reader = Site("logits")
        if feeds(writer, reader, facts) and all(
            i.site != writer or reader not in (i.readers or ()) for i in named
        ):
            named.append(case.intervention(writer, (reader,)))
    if not named:
        return
    readers = {r for i in named for r in i.readers}
    # a group's key and a head's own at once: which of them the head reads is a matter of taste
    if len({(r.kind, r.layer) for r in readers if r.kind in "kv"}) < sum(
        r.kind in "kv" for r in readers
    ):
        return
    taken = {i.site for i in named}
    whole = [] if data.draw(st.booleans()) else case.sites(NODES, 2)
    heads = {(r.layer, r.kind) for r in readers}
    terms = {"z": ["attn_out"], "mlp_act": ["mlp_out", "expert"], "expert": ["mlp_out"]}
    sums = {(s.layer, kind) for s in taken for kind in terms.get(s.kind, ())}
    whole = [
        case.intervention(site)
        for site in whole
        if site not in taken
        and not site.kind.startswith("resid")  # refused: a sum that is set has no terms
        and (site.layer, site.kind) not in sums
        and (site.kind not in ("k", "v") or (site.layer, site.kind) not in heads)
    ]
    judge: Oracle = oracle(case.family)

    def output_of(row, ran, other):
        acts = judge.forward(ran)[1], judge.forward(other)[1]
        table: dict[str, dict] = {}
        for i in named:
            for reader in i.readers:
                table.setdefault(str(reader), {})[str(i.site)] = case.new(i, row, *acts)
        return judge.forward(ran, case.change(whole, row, *acts), edges=table)[0]

    truth = expected(case.model, case.pairs, case.base, output_of)
    used = [*readers, *(i.site for i in whole)]
    case.check(Cell("test", "", (*named, *whole)), truth, hooks=not case.unreached([*used, *taken]))


PROPERTIES = {"nodes": nodes_agree, "paths": paths_agree, "edges": edges_agree}
