"""No tensor is made on the wrong device: replay on CUDA that PyTorch only pretends to have.

A fake tensor has a shape, a type and a device, and no numbers. Mixing devices raises, as it would
on a real one.
"""

import copy
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from interp.core.metrics import METRICS, Answers, Metric
from interp.core.parts.sites import KINDS, ROUTED, Site
from interp.engine.engines.choose import choose
from interp.engine.engines.protocol import Route
from interp.engine.engines.replay.engine import Replay
from interp.engine.interventions import Add, Freeze, Hop, Scale, Zero
from interp.engine.plan.edits import Edit
from interp.engine.plan.score import Readout, Score

BATCH, POS, START = 2, 7, 3


class Indexing(TorchFunctionMode):
    """x[...] by ints, slices and None, without the C++ that wants to see the device."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.tensor and str(kwargs.get("device", "cpu")) != "cpu":
            here = torch.tensor(*args, **{**kwargs, "device": "cpu"})
            return torch.empty(here.shape, dtype=here.dtype, device=kwargs["device"])
        indexes = func in (Tensor.__getitem__, Tensor.__setitem__)
        if not indexes or args[0].device.type == "cpu":
            return func(*args, **kwargs)
        part = view(args[0], args[1] if isinstance(args[1], tuple) else (args[1],))
        if func is Tensor.__setitem__:
            torch.ops.aten.copy_.default(part, args[2])
        return part


def view(x: Tensor, index: tuple) -> Tensor:
    assert all(i is None or i is ... or isinstance(i, int | slice) for i in index), (
        f"{index} has a tensor or a list in it: index_select and gather are the way"
    )
    used = sum(i is not None and i is not ... for i in index)
    at = index.index(...) if ... in index else len(index)
    index = (*index[:at], *[slice(None)] * (x.ndim - used), *index[at + 1 :])
    axis = 0
    for i in index:
        if i is None:
            x = x.unsqueeze(axis)
        elif isinstance(i, int):
            x, axis = x.select(axis, i), axis - 1
        else:
            start, stop, step = i.indices(x.shape[axis])
            x = torch.ops.aten.slice.Tensor(x, axis, start, max(start, stop), step)
        axis += 1
    return x


def moved(part: object) -> object:
    """The same thing on the pretended device."""
    if isinstance(part, Tensor):
        return torch.empty(part.shape, dtype=part.dtype, device="cuda")
    if isinstance(part, nn.Module):
        part = copy.copy(part)
        part._buffers = {name: moved(buffer) for name, buffer in part._buffers.items()}
        return part
    if isinstance(part, partial):
        # of GPT-J's attention, whose table of angles is a buffer
        return (
            partial(part.func, *map(moved, part.args), **part.keywords)
            if part.args
            else (partial(moved(part.func), **part.keywords))
        )
    if isinstance(part, Mapping):
        return {key: moved(value) for key, value in part.items()}
    if isinstance(part, tuple):
        return tuple(map(moved, part))
    if is_dataclass(part):
        return replace(part, **{f.name: moved(getattr(part, f.name)) for f in fields(part)})
    return part


class Bare(Metric):
    """A metric that does not look whether its numbers are finite: there are none."""

    def __call__(self, found: Tensor, answers: Answers) -> Tensor:
        return self.fn(found, answers)


def edit(site: str, value: object, *, readers: str = "", **found: Tensor) -> Edit:
    mask = torch.ones(BATCH, POS, dtype=torch.bool, device="cuda")
    ends = tuple(map(Site.parse, readers.split())) or None
    return Edit(Site.parse(site), value, mask, found.get("found"), ends, normalise=False)


DIFFERENT = ("gpt2", "llama", "qwen3", "gemma2-window", "gemma3", "olmo2", "gptj", "bert-headless")
"""One of each way to place norms, positions, windows and caps."""


@pytest.mark.plain
@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("family", "reads"),
    [*((family, "cosine") for family in DIFFERENT), ("llama", "logit_diff"), ("bert", "kl")],
)
def test_everything_is_made_where_the_model_is(tiny_model, family, reads):
    served = choose(tiny_model(family), "replay")
    facts = served.weights.facts
    known = METRICS[reads]
    metric = Bare(**{f.name: getattr(known, f.name) for f in fields(known)})
    with FakeTensorMode(), Indexing(), torch.inference_mode():
        engine = Replay(moved(served.weights))
        tokens = torch.zeros(BATCH, POS, dtype=torch.long, device="cuda")
        base = engine.trace(
            tokens, keep=[k for k in KINDS[1 : KINDS.index("resid_post")] if k not in ROUTED]
        )
        ids = torch.ones(BATCH, dtype=torch.long, device="cuda")
        answers = Answers(ids, ids)
        mean = metric.position == "mean"
        read = torch.arange(POS, device="cuda") if mean else torch.tensor([POS - 1], device="cuda")
        score = Score(metric, answers, read.expand(BATCH, -1))
        readout = Readout.of(score).referring(partial(engine.found, base))
        assert engine.plain(base, readout).device.type == "cuda"

        def run(*cells: list[Edit], hops: tuple[Hop, ...] = (), start: int = 0) -> Tensor:
            place = torch.arange(POS, device="cuda").expand(BATCH, -1)
            receiving = tuple(read.expand(BATCH, -1) if hop.ends else place for hop in hops)
            starts = (start,) * (len(hops) + 1)
            route = Route(hops, receiving, starts)
            return engine.run(base, tokens, cells, route=route, readout=readout)

        start = 0 if mean or not facts.causal else START
        own = torch.zeros(BATCH, POS, facts.d_head, device="cuda", dtype=base.final.dtype)
        mid = [] if facts.parallel else [[edit("1.resid_mid", Zero())]]
        ends = "2.0.q 2.0.k 2.kv0.v 2.mlp logits"
        found = [
            run(
                *([edit(site, Scale(0.5))] for site in ("embed", "1.attn", "1.mlp", "1.mlp[3]")),
                *([edit(f"1.{kind}", Zero())] for kind in ("0.q", "0.k", "kv0.k", "0.v")),
                *([edit(f"1.{kind}", Zero())] for kind in ("0.pattern", "0", "resid_post")),
                [edit("0.1", Add(own), found=own), edit("1.0", Freeze(), found=own)],
                *mid,
                start=start,
            ),
            run(
                [
                    edit(site, Zero(), readers=ends)
                    for site in ("embed", "0.1", "0.mlp", "0.mlp[1]")
                ][:3],
                [edit("0.mlp[1]", Zero(), readers=ends)],
            ),
        ]
        for through, ln in (("direct", "freeze"), ("mlps", "recompute"), ("all", "freeze")):
            ways = (("1.0.q", "1.mlp"), ("2.0.k",), ("logits",))
            hops = tuple(Hop(tuple(map(Site.parse, way)), through, "all", ln) for way in ways)
            for some in (hops[:1], hops):
                found.append(run([edit("0.1", Zero())], hops=some))
        assert {x.device.type for x in found} == {"cuda"}


def test_a_mixed_device_is_caught(tiny_model):
    """The check can fail: one weight that stayed behind."""
    served = choose(tiny_model("llama"), "replay")
    with FakeTensorMode(), Indexing(), torch.inference_mode():
        weights = moved(served.weights)
        behind = torch.empty(weights.embed.tokens.shape, dtype=weights.embed.tokens.dtype)
        engine = Replay(replace(weights, embed=replace(weights.embed, tokens=behind)))
        with pytest.raises(Exception, match="device"):
            engine.trace(torch.zeros(BATCH, POS, dtype=torch.long, device="cuda"), keep=())
