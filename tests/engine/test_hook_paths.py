"""Edges and paths through hooks: what they must add up to, whatever the architecture."""

from collections.abc import Iterator
from dataclasses import replace
from operator import attrgetter

import pytest
import torch
from hooked import KINDS, ONE_STACK, Runs, edit, edited, gap, leaving_no_hooks, runs_of
from torch import Tensor

from interp.core.errors import Unsupported
from interp.core.parts.edges import feeds, readers
from interp.core.parts.sites import Site, resolve
from interp.engine.engines.hooked import held as frozen
from interp.engine.engines.hooked import run as hooks
from interp.engine.engines.hooked.held import arriving, give
from interp.engine.engines.hooked.run import Output
from interp.engine.interventions import Add, Freeze, Hop, Resample, Scale, Set, Zero
from interp.engine.plan.edits import Edit
from interp.models.bridge.points import point
from interp.models.model import Model

pytestmark = pytest.mark.sampled(6)


@pytest.fixture(scope="module", params=KINDS)
def runs(request, tiny_model) -> Iterator[Runs]:
    yield from leaving_no_hooks(tiny_model(request.param))


def all_readers(model: Model, writer: Site) -> tuple[Site, ...]:
    """Everything that reads what a site writes."""
    found = [
        reader
        for site in resolve(["attn", "mlps"], model.facts)
        for reader in readers(site, model.facts)
    ]
    ends = [*found, Site("logits")]
    return tuple(site for site in ends if feeds(writer, site, model.facts))


def by_edges(runs, common: list[Edit], written: list[Edit]) -> Output:
    """Each edit as all its readers see it, one by one."""
    model = runs.model
    named = [replace(e, readers=all_readers(model, e.site)) for e in written]
    return edited(runs, [*common, *named])


@pytest.mark.parametrize("writer", ["1.2", "1.attn", "1.mlp", "1.mlp[5]"])
def test_all_edges_of_a_writer_are_the_writer(runs, writer):
    change = [edit(writer, Resample("corrupt"), runs.other)]
    whole = edited(runs, change)
    assert gap(by_edges(runs, [], change), whole) < 1e-9
    assert gap(whole, runs.base) > 1e-5


@pytest.mark.plain
def test_all_edges_of_many_writers_are_the_writers(tiny_model):
    """Writers that change each other: an edit acts on what the edges before it have made."""
    runs = runs_of(tiny_model("gpt2"))
    changes = [edit(site, Scale(0.5), runs.base) for site in ("embed", "0.mlp", "1.1", "1.mlp[5]")]
    assert gap(by_edges(runs, [], changes), edited(runs, changes)) < 1e-9


def test_edges_leave_other_edits_in_place(runs):
    """A stream added to, neurons and a pattern set for everyone, and a reader's own edit."""
    model, _, base, other, _ = runs
    common = [
        edit("1.resid_pre", Add(other.at(Site.parse("1.resid_pre"))), other),
        edit("1.mlp[5]", Zero(), base),
        edit("1.0.pattern", Resample("corrupt"), other),
        edit("1.attn", Scale(2.0), base),
        edit("1.mlp", Scale(3.0), base),
        edit("2.1.q", Scale(0.5), base),
        edit("2.resid_pre", Scale(0.5), base),
    ]
    if not model.facts.parallel:
        common.append(edit("1.resid_mid", Scale(0.5), base))
    changes = [edit("1.2", Resample("corrupt"), other), edit("1.mlp[3]", Scale(0.5), base)]
    whole = edited(runs, [*common, *changes])
    assert gap(by_edges(runs, common, changes), whole) < 1e-9
    assert gap(whole, edited(runs, common)) > 1e-6


def test_an_edge_is_a_direct_path(runs):
    """To one reader, and on from it to everything."""
    base, other = runs.base, runs.other
    for reader in ("2.1.q", "2.kv0.k", "2.kv1.v", "2.mlp", "logits"):
        senders = [edit(site, Resample("corrupt"), other) for site in ("embed", "0.2")]
        by_edge = edited(runs, [replace(s, readers=(Site.parse(reader),)) for s in senders])
        by_path = edited(runs, senders, [Hop((Site.parse(reader),), "direct")])
        assert gap(by_edge, by_path) < 1e-9, reader
        assert gap(by_edge, base) > 1e-7, reader


def test_a_path_through_everything_is_no_path(runs):
    sender = edit("0.2", Resample("corrupt"), runs.other)
    through = edited(runs, [sender], [Hop((Site("logits"),), "all")])
    assert gap(through, edited(runs, [sender])) < 1e-9


@pytest.mark.parametrize("way", [("direct", "freeze"), ("mlps", "recompute"), ("all", "freeze")])
def test_nothing_sent_is_nothing_changed(runs, way):
    through, ln = way
    receivers = [(Site.parse("1.1.q"), Site.parse("1.mlp")), (Site("v", 2, group=1),)]
    hops = [Hop(sites, through, ln=ln) for sites in (*receivers, (Site("logits"),))]
    sender = edit("0.2", Freeze(), runs.base)
    assert gap(edited(runs, [sender], hops), runs.base) < 1e-9
    assert gap(edited(runs, [sender], hops[:2]), runs.base) < 1e-9


@pytest.mark.parametrize("site", ["1.2.q", "1.kv1.v", "1.mlp"])
def test_two_hops_are_two_edges(runs, site):
    """The receiver's own output is what the second hop sends, its other inputs as in the base."""
    model, ids, _, other, _ = runs
    facts, middle = model.facts, Site.parse(site)
    sender = edit("0.2", Resample("corrupt"), other)
    found = edited(runs, [sender], [Hop((middle,), "direct"), Hop((Site("logits"),), "direct")])
    # what arrives at the middle, and what it makes of that, sent on by hand
    noted: list[Tensor] = []
    value, _ = arriving(model, ids, [], middle, [replace(sender, readers=(middle,))])
    kind = "mlp_out" if middle.kind == "mlp_out" else "z"
    note = (point(facts, kind, 1), lambda x: noted.append(x.clone()) or x)
    hooks.forward(model, ids, [give(model, middle, value)], hooks=[note])
    sent = [(middle, noted[0])]
    if kind == "z":
        heads = [2] if middle.group is None else [3, 4, 5] if facts.group_size == 3 else [1]
        sent = [(Site("z", 1, head=h), noted[0][:, :, h]) for h in heads]
    mask = torch.ones_like(ids, dtype=torch.bool)
    last = [Edit(s, Set(z), mask, z, (Site("logits"),)) for s, z in sent]
    assert gap(found, edited(runs, last)) < 1e-9
    assert gap(found, runs.base) > 1e-7


def test_frozen_scales_make_a_path_linear(runs):
    """What two heads send is the sum of what each sends, and is not if norms are recomputed."""
    model, _, base, other, _ = runs
    # the logits of Gemma 2 and BERT bend by other means
    read = attrgetter("logits" if model.facts.block == "pre" else "final")
    senders = [edit(site, Resample("corrupt"), other) for site in ("1.1", "1.2")]
    excess = {}
    for ln in ("freeze", "recompute"):
        hop = Hop((Site("logits"),), "direct", ln=ln)
        some = (senders[:1], senders[1:], senders)
        one, two, both = (read(edited(runs, edits, [hop])) for edits in some)
        excess[ln] = (both - one - two + read(base)).abs().max().item()
    assert excess["recompute"] > 1e-6
    assert excess["freeze"] < 1e-9


@pytest.mark.parametrize("family", [family for family in ONE_STACK if family != "olmo"])
def test_every_norm_of_the_stream_reads_its_scale(tiny_model, family):
    runs = runs_of(tiny_model(family))
    hops = [Hop((Site.parse("1.1.q"),), ln="freeze"), Hop((Site("logits"),), "all", ln="freeze")]
    assert gap(edited(runs, [edit("0.2", Freeze(), runs.base)], hops), runs.base) < 1e-9
    sender = [edit("0.2", Resample("corrupt"), runs.other)]
    recomputed = [replace(hop, ln="recompute") for hop in hops]
    assert gap(edited(runs, sender, hops), edited(runs, sender, recomputed)) > 1e-9


def test_a_norm_without_weights_has_no_scale_to_write(tiny_model):
    runs = runs_of(tiny_model("olmo"))
    hop = Hop((Site("logits"),), ln="freeze")
    message = r"'blocks\.0\.ln1' of OlmoForCausalLM.*learns no weight.*engine='replay'"
    with pytest.raises(Unsupported, match=message):
        edited(runs, [edit("0.2", Zero(), runs.base)], [hop])


def test_a_norm_that_does_not_read_its_scale(tiny_model, monkeypatch):
    runs = runs_of(tiny_model("gpt2"))
    norm = runs.model.bridge.blocks[1].ln2

    def deaf(x: Tensor) -> Tensor:
        norm.hook_scale(x[..., :1])
        return norm.original_component(x)

    monkeypatch.setattr(norm, "_python_norm_forward", deaf)
    frozen._LIVE.discard(runs.model)
    hop = Hop((Site("logits"),), ln="freeze")
    with pytest.raises(Unsupported, match=r"'blocks\.1\.ln2' of GPT2LMHeadModel.*engine='replay'"):
        edited(runs, [edit("0.2", Zero(), runs.base)], [hop])
