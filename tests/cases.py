"""Interventions that are drawn at random, with what the oracle must know of them."""

from collections.abc import Callable

import tiny
import torch
from conftest import REPLAYED
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from oracle import Change, masked
from torch import Tensor

from interp.core.metrics import METRICS, Metric
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
    Value,
    Zero,
)
from interp.engine.plan.positions import places
from interp.engine.sweep.run import run
from interp.engine.sweep.sweep import Sweep
from interp.models.model import Model

TOLERANCE = 1e-9
POSITIONS = ("all", "end", "mid", "late")
ORDINARY, MANY = 25, 1700
"""Drawn cases of each of the three properties: 75 in the ordinary run, 5,100 in the slow one."""


def drawn(cases: int) -> settings:
    return settings(
        max_examples=cases,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],  # a drawn case prints itself; shrinking takes minutes
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
        ],
    )


def metric_of(model: Model) -> Metric:
    """The logit difference, or of a model without logits a number that moves with every feature."""
    if model.facts.language_model:
        return METRICS["logit_diff"]

    def weighted(x: Tensor, answers: object) -> Tensor:
        return (x * torch.arange(1, x.shape[-1] + 1)).mean(-1)

    return Metric("weighted", weighted, reads="embedding", position="mean", needs_answers=False)


def answer(model: Model, pairs: Pairs, cell: Cell, engine: str, base: str = "clean") -> Tensor:
    sweep = Sweep(model, pairs, [cell], "test", base, (metric_of(model),), engine)
    return torch.tensor(run(sweep).frame["value"].to_numpy())


def expected(model: Model, pairs: Pairs, base: str, output_of: Callable) -> Tensor:
    """The metric of the oracle's output, row by row without padding."""
    found = []
    for row in range(len(pairs)):
        n = int(pairs.lengths[row])
        clean, corrupt = pairs.clean[row : row + 1, :n], pairs.corrupt[row : row + 1, :n]
        ran, other = (clean, corrupt) if base == "clean" else (corrupt, clean)
        out = output_of(row, ran, other)[0]
        if model.facts.language_model:
            end = pairs.positions["end"][row]
            found.append(out[end, pairs.correct[row]] - out[end, pairs.wrong[row]])
        else:
            found.append(metric_of(model).fn(out.mean(0), None))
    return torch.stack(found)


class Case:
    """Draws the parts of a case, and keeps what the oracle must know of them."""

    def __init__(
        self, data: st.DataObject, tiny_model: Callable, pairs: Pairs, family: str = ""
    ) -> None:
        """`family`: the one whose pairs these are; any that reads ids of text by default."""
        self.data = data
        families = (family,) if family else (*REPLAYED, *tiny.EXPERTS)
        self.family = data.draw(st.sampled_from(families), label="family")
        self.model: Model = tiny_model(self.family)
        self.facts = self.model.facts
        self.pairs = pairs.select([1, 2])
        self.base = data.draw(st.sampled_from(["clean", "corrupt"]))
        self.other = "corrupt" if self.base == "clean" else "clean"
        self.generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))

    def site(self, kinds: tuple[Kind, ...]) -> Site:
        facts, draw = self.facts, self.data.draw
        kinds = tuple(k for k in kinds if k not in ROUTED or facts.n_experts)
        kind = draw(st.sampled_from([k for k in kinds if k != "resid_mid" or not facts.parallel]))
        if kind == "embed":
            return Site("embed")
        layer = draw(st.integers(0, facts.n_layers - 1))
        if kind == "mlp_act":
            return Site(kind, layer, neuron=draw(st.integers(0, facts.d_mlp - 1)))
        if kind == "expert":
            return Site(kind, layer, expert=draw(st.integers(0, facts.n_experts - 1)))
        if kind in ("k", "v") and draw(st.booleans()):
            return Site(kind, layer, group=draw(st.integers(0, facts.n_kv_heads - 1)))
        if kind in ("q", "k", "v", "z", "pattern"):
            return Site(kind, layer, head=draw(st.integers(0, facts.n_heads - 1)))
        return Site(kind, layer)

    def sites(self, kinds: tuple[Kind, ...], most: int) -> list[Site]:
        n = self.data.draw(st.integers(1, most))
        return sorted({self.site(kinds) for _ in range(n)})

    def value(self, site: Site) -> Value:
        kinds = ["zero", "resample", "freeze", "scale", "set", "add"]
        kind = self.data.draw(st.sampled_from(kinds))
        if kind in ("set", "add"):
            shape = [*self.pairs.clean.shape]
            if site.kind != "mlp_act":
                heads = site.kind in ("q", "k", "v", "z")
                pos = self.pairs.clean.shape[1]
                width = self.facts.d_head if heads else self.facts.d_model
                others = {"pattern": pos, "router": self.facts.n_experts}
                shape.append(others.get(site.kind, width))
            own = torch.randn(shape, generator=self.generator, dtype=torch.float64)
            return {"set": Set, "add": Add}[kind](own)
        return {
            "zero": Zero(),
            "resample": Resample(self.other),
            "freeze": Freeze(),
            "scale": Scale(-0.7),
        }[kind]

    def place(self) -> str:
        return self.data.draw(st.sampled_from(POSITIONS))

    def intervention(self, site: Site, readers: tuple[Site, ...] | None = None) -> Intervention:
        return Intervention(site, self.value(site), self.place(), readers, normalise=False)

    def new(self, i: Intervention, row: int, ran: dict, other: dict) -> Callable[[Tensor], Tensor]:
        """What an intervention makes of a current value, by the words of its docstring."""
        mask = places(self.pairs, i.positions, [row])
        name = str(i.site)

        def made(x: Tensor) -> Tensor:
            n = x.shape[1]
            if isinstance(i.value, Set | Add):
                own = i.value.source[row : row + 1, :n]
                own = own[..., :n] if i.site.kind == "pattern" else own
                new = own if isinstance(i.value, Set) else x + own
            elif isinstance(i.value, Zero):
                new = torch.zeros_like(x)
            elif isinstance(i.value, Scale):
                new = -0.7 * x
            else:
                new = other[name] if isinstance(i.value, Resample) else ran[name]
            return masked(mask, new, x)

        return made

    def change(self, interventions, row: int, ran: dict, other: dict) -> Change:
        named = {str(i.site): self.new(i, row, ran, other) for i in interventions}
        return lambda name, x: named[name](x) if name in named else x

    def check(self, cell: Cell, truth: Tensor, *, hooks: bool) -> None:
        for engine in ("replay", "hooks") if hooks else ("replay",):
            error = (answer(self.model, self.pairs, cell, engine, self.base) - truth).abs().max()
            # where norms are frozen a run may explode: float64 has no 1e-9 of numbers above 1,000
            allowed = TOLERANCE * max(1.0, float(truth.abs().max()) / 1_000)
            assert error < allowed, f"{engine} is off by {error:.1e}: {self.family}, {told(cell)}"

    def unreached(self, sites: list[Site]) -> bool:
        """Hooks cannot reach a key or value as one head of a group reads it, or an expert,
        nor give a router any weights.
        """
        if self.family in tiny.EXPERTS and any(s.kind in (*ROUTED, "mlp_act") for s in sites):
            return True
        own = any(s.kind in ("k", "v") and s.head is not None for s in sites)
        return own and self.facts.group_size > 1

    def unscaled(self, hops: list[Hop]) -> bool:
        """Nor write the scale of a norm that learns nothing."""
        return self.family == "olmo" and any(hop.ln == "freeze" for hop in hops)


def told(cell: Cell) -> str:
    """A cell in words, for the message of a failure."""
    made = [
        f"{type(i.value).__name__} {i.site} at {i.positions} for {[*map(str, i.readers or ())]}"
        for i in cell.interventions
    ]
    hops = [f"to {hop} at {hop.positions} through {hop.through}, {hop.ln}" for hop in cell.hops]
    return "; ".join([*made, *hops])


NODES: tuple[Kind, ...] = (
    *("embed", "resid_pre", "q", "k", "v", "pattern", "z"),
    *("attn_out", "resid_mid", "router", "mlp_act", "expert", "mlp_out", "resid_post"),
)
