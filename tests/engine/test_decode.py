"""Decoding with a cache is recomputing everything at each step, under every intervention.

The oracle, which knows no cache and no engine, runs the whole text again for each token.
"""

from collections.abc import Callable, Mapping, Sequence

import pytest
import tiny
import torch
from cases import MANY, NODES, ORDINARY, TOLERANCE, Case, drawn, told
from hypothesis import given
from hypothesis import strategies as st
from oracle import Change, Oracle, masked
from speaking import SPEAKING, Halved, N, block_of, steps, widened
from torch import Tensor

from interp import Pairs
from interp.core.parts.edges import feeds
from interp.core.parts.sites import Kind, Site
from interp.engine.decode.when import lasting
from interp.engine.interventions import (
    Add,
    Cell,
    Erase,
    Freeze,
    Intervention,
    Mean,
    Reference,
    Resample,
    Scale,
    Set,
    Value,
    Zero,
)

ONCE = ("end", "mid", "late", "prompt")
LASTING = ("all", "generated", "from end", "from mid", "from 3", "after first")


class Spoken(Case):
    """A case in time: what is done at which steps."""

    def __init__(self, data: st.DataObject, tiny_model: Callable, pairs: Pairs) -> None:
        super().__init__(data, tiny_model, pairs)
        while self.family not in SPEAKING:
            self.family = data.draw(st.sampled_from(SPEAKING), label="family")
        self.model = tiny_model(self.family)
        self.facts = self.model.facts
        self.pairs, self.other, self.base = pairs.select([0, 1, 2]), "corrupt", "clean"

    def place(self) -> str:
        return self.data.draw(st.sampled_from((*ONCE, *LASTING)))

    def intervention(self, site: Site, readers: tuple[Site, ...] | None = None) -> Intervention:
        place = self.place()
        if place in ONCE:
            return Intervention(site, self.value(site), place, readers, normalise=False)
        return Intervention(site, self.lasting(site), place, readers, normalise=False)

    def lasting(self, site: Site) -> Value:
        """A value that there is wherever a text may go."""
        kinds = ["zero", "scale", "function"]
        if site.kind != "pattern":
            kinds += ["set", "add", "mean"]
        if site.kind not in ("pattern", "mlp_act"):
            kinds += ["erase"]
        kind = self.data.draw(st.sampled_from(kinds))
        heads = site.kind in ("q", "k", "v", "z")
        width = self.facts.d_head if heads else self.facts.d_model
        shape = [] if site.kind == "mlp_act" else [width]
        own = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        if kind == "erase":
            return Erase(own[:, None] / own.norm(), own[None] / own.norm(), 0.1 * own)
        return {
            "zero": Zero(),
            "scale": Scale(-0.7),
            "function": Halved(),
            "set": Set(own),
            "add": Add(own),
            "mean": Mean(Reference(REFERENCE, "corrupt")),
        }[kind]

    def change_at(
        self, made: Sequence[Intervention], row: int, acts: Mapping, stop: int
    ) -> dict[str, Callable[[Tensor], Tensor]]:
        """What each intervention makes of the first `stop` tokens of a row and its text."""
        return {str(i.site): self.made(i, row, acts, stop) for i in made}

    def made(self, i: Intervention, row: int, acts: Mapping, stop: int) -> Callable:
        length = int(self.pairs.lengths[row])
        mask = lasting(self.pairs, i.positions, [row], N, i.site)[:, :stop]

        def new(x: Tensor) -> Tensor:
            if isinstance(i.value, Zero):
                return masked(mask, torch.zeros_like(x), x)
            if isinstance(i.value, Scale):
                return masked(mask, -0.7 * x, x)
            if isinstance(i.value, Halved):
                return masked(mask, 0.5 * x - 0.1 * x.square(), x)
            if isinstance(i.value, Erase):
                erase = i.value
                new = x - (x - erase.mean) @ erase.right.T @ erase.left.T
                return masked(mask, new, x)
            if isinstance(i.value, Set | Add):
                own = i.value.source
                if i.positions in ONCE:
                    own = own[row : row + 1, :length]
                    own = own[..., :length] if i.site.kind == "pattern" else own
                    own = widened(own, x)
                new = own if isinstance(i.value, Set) else x + own
                return masked(mask, new.expand(x.shape), x)
            if isinstance(i.value, Mean):
                group = [r for r in range(len(REFERENCE)) if int(REFERENCE.lengths[r]) == length]
                means = torch.stack([acts["reference", r][str(i.site)][0] for r in group]).mean(0)
                last = means[-1:].expand(max(0, stop - length), *means.shape[1:])
                return masked(mask, torch.cat([means[:stop], last])[None], x)
            side = "corrupt" if isinstance(i.value, Resample) else "clean"
            return masked(mask, widened(acts[side, row][str(i.site)], x), x)

        return new


def drawn_rows(seed: int, lengths: Sequence[int]) -> list[list[int]]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randint(tiny.VOCAB, (n,), generator=g).tolist() for n in lengths]


REFERENCE = Pairs.from_tokens(
    clean=drawn_rows(5, [7, 7, 7, 9, 9]),
    corrupt=drawn_rows(6, [7, 7, 7, 9, 9]),
    template=["a", "a", "a", "b", "b"],
)
"""Whose corrupt sides are averaged; the pairs' templates are a (7 tokens) and b (9)."""


def texts_agree(data, tiny_model, oracle, pairs):
    """Any joint set of interventions at any sites, edges and times, any value, beside another."""
    case = Spoken(data, tiny_model, pairs)
    chosen = case.sites(NODES, 3)
    made = [case.intervention(site) for site in chosen]
    edges = [] if data.draw(st.booleans()) else draw_edges(case, chosen)
    sets = {"plain": [], "these": [*made, *edges], "other": [case.intervention(case.site(NODES))]}
    judge: Oracle = oracle(case.family)
    text = torch.randint(tiny.VOCAB, (len(sets), 3, N), generator=case.generator)
    acts = {
        (side, row): judge.forward(ids[row : row + 1, : int(of.lengths[row])])[1]
        for of, side, ids in (
            (case.pairs, "clean", case.pairs.clean),
            (case.pairs, "corrupt", case.pairs.corrupt),
            (REFERENCE, "reference", REFERENCE.corrupt),
        )
        for row in range(len(of))
    }
    hooks = not edges and not case.unreached([i.site for of in sets.values() for i in of])
    for rows in ([0, 2], [1]):
        truth = torch.stack(
            [
                torch.stack(
                    [spoken(case, judge, one, row, text[cell, row], acts) for row in rows], 1
                )
                for cell, one in enumerate(sets.values())
            ],
            1,
        )
        for engine in ("replay", "hooks") if hooks else ("replay",):
            block = block_of(case.model, case.pairs, sets, rows, engine)
            error = (steps(block, text[:, rows]) - truth).abs().max().item()
            allowed = TOLERANCE * max(1.0, float(truth.abs().max()) / 1_000)
            words = "; ".join(told(Cell(n, "", tuple(m))) for n, m in sets.items() if m)
            assert error < allowed, f"{engine} is off by {error:.1e}: {case.family}, {words}"


def spoken(case: Spoken, judge: Oracle, made: Sequence, row: int, text: Tensor, acts: dict):
    """The logits of each step of one text: all of it is computed again for each token."""
    length, found = int(case.pairs.lengths[row]), []
    for step in range(N):
        ids = torch.cat([case.pairs.clean[row, :length], text[:step]])[None]
        named = case.change_at([i for i in made if i.readers is None], row, acts, length + step)
        table: dict[str, dict] = {}
        for i in made:
            for reader in i.readers or ():
                table.setdefault(str(reader), {})[str(i.site)] = case.made(
                    i, row, acts, length + step
                )
        found.append(judge.forward(ids, changing(named), edges=table)[0][0, -1])
    return torch.stack(found)


def changing(named: Mapping[str, Callable[[Tensor], Tensor]]) -> Change:
    return lambda name, x: named[name](x) if name in named else x


def draw_edges(case: Spoken, taken: Sequence[Site]) -> list[Intervention]:
    kinds: tuple[Kind, ...] = ("embed", "z", "attn_out", "mlp_act", "mlp_out")
    ends: tuple[Kind, ...] = ("q", "k", "v", "mlp_out")
    if any(site.kind.startswith("resid") for site in taken):
        return []  # refused: a sum that is set has no terms
    writer, reader = case.site(kinds), case.site(ends)
    if case.data.draw(st.integers(0, 3)) == 0:
        reader = Site("logits")
    inner = {(s.layer, s.kind) for s in taken}
    sums = (writer.layer, {"z": "attn_out", "mlp_act": "mlp_out"}.get(writer.kind))
    lost = sums in inner or ((reader.layer, reader.kind) in inner and reader.kind in ("k", "v"))
    if writer in taken or lost or not feeds(writer, reader, case.facts):
        return []
    return [case.intervention(writer, (reader,))]


@pytest.mark.plain
@pytest.mark.filterwarnings("ignore:mean ablation")
@given(data=st.data())
@drawn(2 * ORDINARY)
def test_a_cache_is_recomputing_everything(data, tiny_model, oracle, pairs):
    texts_agree(data, tiny_model, oracle, pairs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:mean ablation")
@given(data=st.data())
@drawn(MANY)
def test_a_cache_is_recomputing_everything_in_many_cases(data, tiny_model, oracle, pairs):
    texts_agree(data, tiny_model, oracle, pairs)


FACTORS = {"1.1": -0.7, "0.mlp": 0.0, "1.1.k": 2.0, "2.attn": 1.0}
"""What each site is multiplied by in the test below."""


@pytest.mark.plain
@pytest.mark.sampled(8)
@pytest.mark.parametrize("family", SPEAKING)
def test_each_family_speaks_the_same_text_anew(family, tiny_model, oracle, pairs):
    """One intervention of each kind, in every family, beside the plain model."""
    model = tiny_model(family)
    sets = {
        "plain": [],
        "late": [Intervention("1.1", Scale(-0.7), "generated")],
        "early": [Intervention("0.mlp", Zero(), "mid")],
        "key": [Intervention("1.1.k", Scale(2.0), "from mid")],
        "frozen": [Intervention("2.attn", Freeze(), "prompt")],
    }
    generator = torch.Generator().manual_seed(3)
    text = torch.randint(tiny.VOCAB, (len(sets), 2, N), generator=generator)
    found = steps(block_of(model, pairs, sets, [0, 2], "replay"), text)
    judge: Oracle = oracle(family)
    for cell, made in enumerate(sets.values()):
        for at, row in enumerate([0, 2]):
            length = int(pairs.lengths[row])
            ids = torch.cat([pairs.clean[row, :length], text[cell, at]])[None]
            mask = {str(i.site): lasting(pairs, i.positions, [row], N, i.site) for i in made}
            for step in range(N):
                stop = length + step

                def change(name: str, x: Tensor, mask=mask, stop=stop) -> Tensor:
                    if name not in mask:
                        return x
                    return masked(mask[name][:, :stop], FACTORS[name] * x, x)

                right = judge.forward(ids[:, :stop], change)[0][0, -1]
                torch.testing.assert_close(found[step, cell, at], right, rtol=0, atol=1e-9)
