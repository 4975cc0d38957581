"""Replay, hooks and the oracle on the same interventions in encoder-decoders, drawn at random."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import tiny
import torch
from cases import MANY, NODES, TOLERANCE, Case, answer, drawn, told
from hypothesis import given
from hypothesis import strategies as st
from oracle import HopSpec, masked
from oracle_of_two import OracleOfTwo
from torch import Tensor

from interp.core.parts.edges import feeds, read_in
from interp.core.parts.sites import ROUTED, Kind, Site
from interp.core.prompts.pairs import Pairs
from interp.engine.interventions import (
    SENDERS,
    Add,
    Cell,
    Freeze,
    Hop,
    Intervention,
    Resample,
    Scale,
    Set,
    Through,
    Zero,
)
from interp.engine.plan.positions import decodes, places
from interp.models.model import Model

ORDINARY = 30
TARGETS = {"target": [[4, 7, 2], [5, 3, 8, 6]], "corrupt_target": [[4, 9, 2], [7, 3, 8, 5]]}
"""What the decoder reads in two rows, of several lengths, and on both sides its own."""
WRITTEN = 5
CROSS: tuple[Kind, ...] = ("q", "k", "v", "pattern", "z", "attn_out")
THROUGH: tuple[Through, ...] = ("direct", "mlps", "all")
HEADS = ("q", "k", "v", "pattern", "z")


class CaseOfTwo(Case):
    """As a `Case`, of sites of both stacks."""

    def __init__(self, data: st.DataObject, tiny_model: Callable, pairs: Pairs) -> None:
        self.data = data
        self.family = data.draw(st.sampled_from(list(tiny.TWO_STACKS)), label="family")
        self.model: Model = tiny_model(self.family)
        self.facts = self.model.facts
        chosen = pairs.select([1, 2])
        self.pairs = Pairs.from_tokens(
            **{side: self.ids(chosen, side) for side in ("clean", "corrupt")},
            correct=chosen.correct,
            wrong=chosen.wrong,
            positions={name: at for name, at in chosen.positions.items() if name != "end"},
            **TARGETS,
            target_positions={"noun": [2, 1]},
        )
        self.base = data.draw(st.sampled_from(["clean", "corrupt"]))
        self.other = "corrupt" if self.base == "clean" else "clean"
        self.generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))

    @staticmethod
    def ids(pairs: Pairs, side: str) -> list[list[int]]:
        rows = zip(getattr(pairs, side).tolist(), pairs.lengths.tolist(), strict=True)
        return [row[:n] for row, n in rows]

    def site(self, kinds: tuple[Kind, ...]) -> Site:
        draw, facts = self.data.draw, self.facts
        kinds = tuple(kind for kind in kinds if kind not in ROUTED)
        where = draw(st.sampled_from(["enc", "dec", "cross"]))
        crossing = [kind for kind in kinds if kind in CROSS]
        cross = where == "cross" and bool(crossing)
        of = {"stack": "enc" if where == "enc" else "dec", "cross": cross}
        layers = facts.n_encoder_layers if where == "enc" else facts.n_layers
        kind = draw(st.sampled_from(crossing if cross else [k for k in kinds if k != "embed"]))
        layer = draw(st.integers(0, layers - 1))
        if kind == "mlp_act":
            return Site(kind, layer, neuron=draw(st.integers(0, facts.d_mlp - 1)), **of)
        if kind in ("k", "v") and draw(st.booleans()):
            return Site(kind, layer, group=draw(st.integers(0, facts.n_kv_heads - 1)), **of)
        if kind in HEADS:
            return Site(kind, layer, head=draw(st.integers(0, facts.n_heads - 1)), **of)
        return Site(kind, layer, **of)

    def place(self, site: Site | None = None) -> str | int:
        if site is not None and decodes(site):
            return self.data.draw(st.sampled_from(["all", "all", 0, 3, "noun", "end"]))
        return super().place()

    def value(self, site: Site):
        kinds = ["zero", "resample", "freeze", "scale", "set", "add"]
        kind = self.data.draw(st.sampled_from(kinds))
        if kind not in ("set", "add"):
            return {
                "zero": Zero(),
                "resample": Resample(self.other),
                "freeze": Freeze(),
                "scale": Scale(-0.7),
            }[kind]
        rows, keys = self.pairs.clean.shape
        shape = [rows, WRITTEN if decodes(site) else keys]
        if site.kind == "pattern":
            shape.append(WRITTEN if decodes(site) and not site.cross else keys)
        elif site.kind != "mlp_act":
            heads = site.kind in HEADS
            shape.append(self.facts.d_head if heads else self.facts.d_model)
        own = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        return {"set": Set, "add": Add}[kind](own)

    def intervention(self, site: Site, readers: tuple[Site, ...] | None = None) -> Intervention:
        return Intervention(site, self.value(site), self.place(site), readers, normalise=False)

    def new(self, i: Intervention, row: int, ran: dict, other: dict) -> Callable[[Tensor], Tensor]:
        mask, name = places(self.pairs, i.positions, [row], i.site), str(i.site)

        def made(x: Tensor) -> Tensor:
            if isinstance(i.value, Set | Add):
                own = i.value.source[row : row + 1, : x.shape[1]]
                own = own[..., : x.shape[2]] if i.site.kind == "pattern" else own
                new = own if isinstance(i.value, Set) else x + own
            elif isinstance(i.value, Zero):
                new = torch.zeros_like(x)
            elif isinstance(i.value, Scale):
                new = -0.7 * x
            else:
                new = other[name] if isinstance(i.value, Resample) else ran[name]
            return masked(mask, new, x)

        return made

    def truth(self, output_of: Callable) -> Tensor:
        """The logit difference of the oracle's output, row by row without padding."""
        found, start = [], self.model.bridge.original_model.config.decoder_start_token_id
        for row in range(len(self.pairs)):
            n, sides = int(self.pairs.lengths[row]), {}
            for side, name in (("clean", "target"), ("corrupt", "corrupt_target")):
                ids = getattr(self.pairs, side)[row : row + 1, :n]
                sides[side] = ids, torch.tensor([[start, *TARGETS[name][row]]])
            out = output_of(row, sides[self.base], sides[self.other])[0, -1]
            found.append(out[self.pairs.correct[row]] - out[self.pairs.wrong[row]])
        return torch.stack(found)

    def hop(self, ends: tuple[Site, ...], through: Through) -> Hop:
        ln = self.data.draw(st.sampled_from(["recompute", "freeze"]))
        where = ends[0] if ends[0].layer is not None and decodes(ends[0]) else None
        return Hop(ends, through, self.place(where), ln)

    def agree(self, cell: Cell, truth: Tensor, engines: Sequence[str]) -> None:
        for engine in engines:
            error = (answer(self.model, self.pairs, cell, engine, self.base) - truth).abs().max()
            allowed = TOLERANCE * max(1.0, float(truth.abs().max()) / 1_000)
            assert error < allowed, f"{engine} is off by {error:.1e}: {self.family}, {told(cell)}"


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
