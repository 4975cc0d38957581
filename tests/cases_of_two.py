"""Interventions in both stacks of encoder-decoders that are drawn at random."""

from collections.abc import Callable, Sequence

import tiny
import torch
from cases import TOLERANCE, Case, answer, told
from hypothesis import strategies as st
from oracle import masked
from torch import Tensor

from interp.core.parts.sites import ROUTED, Kind, Site
from interp.core.prompts.pairs import Pairs
from interp.engine.interventions import (
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
