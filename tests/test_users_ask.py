"""What users of interpretability libraries were bitten by, each as a theorem that must hold here.

Families are all that the replay engine has, and both engines are asked. Everything is in float64
unless said, where equal means 1e-9.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import tiny
import torch
from conftest import REPLAYED, hooks_on
from torch import Tensor, nn

import interp
from interp.core.errors import (
    InterpError,
    MetricError,
    ModelError,
    PairsError,
    SiteError,
    Unsupported,
)
from interp.core.metrics import METRICS, Answers, Metric
from interp.core.parts.edges import Edge
from interp.core.parts.sites import Site, resolve
from interp.core.prompts.pairs import Pairs
from interp.engine.engines.choose import choose, weights_of
from interp.engine.engines.hooked import run as hooks
from interp.engine.engines.hooked.writes import write
from interp.engine.interventions import (
    LN,
    Cell,
    Freeze,
    Hop,
    Intervention,
    Resample,
    Set,
    Value,
    Zero,
)
from interp.engine.network import forward
from interp.engine.network.trace import Trace
from interp.engine.network.weights import Weights
from interp.engine.plan.edits import Edit
from interp.engine.plan.explain import explain
from interp.engine.sweep.run import run
from interp.engine.sweep.sweep import Sweep
from interp.models.bridge.points import point
from interp.models.bridge.precision import exact
from interp.models.model import Model
from interp.models.now.checks import output_of, output_weight

pytestmark = pytest.mark.sampled(6)

TOLERANCE = 1e-9
ENGINES = ("replay", "hooks")
GROUPED = [f for f in REPLAYED if f.startswith(("llama", "mist", "qwen", "gemma", "olmo"))]
GROUPED.remove("llama-mha")
LOGITS = (Site("logits"),)


BLOCKS = ("gpt2", "llama", "gemma2", "neox", "bert")
"""One of each block: plain, of grouped queries, sandwich, parallel, post-norm."""
LATE = [pytest.param((f, "hooks"), marks=pytest.mark.slow) for f in REPLAYED if f not in BLOCKS]


@pytest.fixture(
    params=[*((f, "replay") for f in REPLAYED), *((f, "hooks") for f in BLOCKS), *LATE],
    ids="-".join,
)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Replay on every family, and hooks, which take longer, on one of each block."""
    return request.param


@pytest.fixture
def family(case: tuple[str, str]) -> str:
    return case[0]


@pytest.fixture
def engine(case: tuple[str, str]) -> str:
    return case[1]


def metric_of(model: Model, position: str = "end") -> Metric:
    """The logit difference; without logits a number that moves with every feature."""
    return METRICS["logit_diff"] if model.facts.language_model else weighted(position)


def weighted(position: str = "end") -> Metric:
    def fn(x: Tensor, answers: object) -> Tensor:
        return (x * torch.arange(1, x.shape[-1] + 1)).mean(-1)

    return Metric("weighted", fn, reads="embedding", position=position, needs_answers=False)


def sites_of(model: Model) -> list[str]:
    """One of every kind of site that hooks reach too."""
    group = min(1, model.facts.n_kv_heads - 1)
    found = ["embed", "0.resid_pre", "1.1.q", "1.kv0.k", f"1.kv{group}.v", "1.1.pattern", "0.2"]
    found += ["1.attn"]
    mid = [] if model.facts.parallel else ["1.resid_mid"]
    return [*found, *mid, "1.mlp[3]", "1.mlp", "2.resid_post"]


def cell(
    sites: str | Sequence[str],
    value: Value,
    at: str | int = "all",
    hops: tuple[Hop, ...] = (),
    readers: tuple[Site, ...] | None = None,
) -> Cell:
    """One value at all of some sites, together."""
    chosen = [Site.parse(s) for s in (sites.split() if isinstance(sites, str) else sites)]
    made = tuple(Intervention(site, value, at, readers) for site in chosen)
    return Cell(str(chosen[0]), str(at), made, hops, chosen[0])


def frozen(model: Model, engine: str) -> LN:
    """How norms may stand: TransformerLens writes the scale of none without weights."""
    deaf = engine == "hooks" and model.facts.architecture == "OlmoForCausalLM"
    return "recompute" if deaf else "freeze"


def sent(value: Value, ln: LN = "freeze") -> list[Cell]:
    """Paths of every width, one of two hops, one of frozen norms, and an edge."""
    query, mlp = Site.parse("2.1.q"), Site.parse("1.mlp")
    return [
        *(cell("0.1", value, hops=(Hop((query,), through),)) for through in ("direct", "all")),
        cell("0.mlp", value, hops=(Hop((query,)), Hop(LOGITS))),
        cell("embed", value, "mid", (Hop((mlp,), "mlps"),)),
        cell("0.2", value, hops=(Hop(LOGITS, "direct", ln=ln),)),
        cell("0.1", value, readers=(query,)),
    ]


def measure(
    model: Model,
    pairs: Pairs,
    cells: Sequence[Cell],
    engine: str,
    base: str = "clean",
    metric: Metric | None = None,
) -> np.ndarray:
    """The metric of each cell and example."""
    metric = metric or metric_of(model)
    found = run(Sweep(model, pairs, cells, "test", base, (metric,), engine)).frame
    return found["value"].to_numpy().reshape(len(cells), len(pairs))


def plain(model: Model, pairs: Pairs, side: str, engine: str = "auto") -> np.ndarray:
    found = interp.evaluate(model, pairs, metric=metric_of(model), engine=engine)
    return found.query(f"position == {side!r}").frame["value"].to_numpy()


def rows_of(pairs: Pairs, side: str) -> list[list[int]]:
    tokens = getattr(pairs, side)
    return [row[:n].tolist() for row, n in zip(tokens, pairs.lengths.tolist(), strict=True)]


def rebuilt(pairs: Pairs, **changes: object) -> Pairs:
    """The same pairs, made anew with some of what they are made of changed."""
    given = {
        "clean": rows_of(pairs, "clean"),
        "corrupt": rows_of(pairs, "corrupt"),
        "correct": pairs.correct,
        "wrong": pairs.wrong,
        "positions": {name: pairs.at(name) for name in ("mid", "late")},
        "cluster": pairs.cluster,
    }
    return Pairs.from_tokens(**{**given, **changes})


@pytest.fixture(scope="module")
def hf() -> Callable[[str, Model], nn.Module]:
    """The same files, read by Hugging Face alone; nothing of TransformerLens."""

    def read(family: str, model: Model) -> nn.Module:
        kind = type(tiny.build(family))
        # eager, as a sliding window is; the model's name is its folder
        found = kind.from_pretrained(model.name, dtype=torch.float64, attn_implementation="eager")
        exact(found)
        return found.eval()

    return read


# the acceptance list


def test_null_patch_is_zero(model, pairs, engine):
    """A run's own values, by name or as the other run of equal prompts, at any site or path."""
    chosen = pairs.select([1, 3])
    same = rebuilt(chosen, corrupt=rows_of(chosen, "clean"))
    for prompts, value in ((chosen, Freeze()), (same, Resample("corrupt"))):
        cells = [
            *(cell(site, value) for site in sites_of(model)),
            *sent(value, frozen(model, engine)),
        ]
        found = measure(model, prompts, cells, engine)
        assert np.abs(found - plain(model, prompts, "clean")).max() < TOLERANCE
    found = interp.patch(model, same, "mlps", metric=metric_of(model), engine=engine)
    assert found.frame["effect"].abs().max() < TOLERANCE
    assert found.provenance["null"] < TOLERANCE  # each run measures it, and keeps what it found


def test_patch_everything_is_the_other_run(model, pairs, engine):
    """The input, the first or last stream, or all that writes, of whatever size."""
    facts, chosen = model.facts, pairs.select([1, 2])
    writers = [["heads", "mlps"], ["attn", "mlps"], ["heads", "neurons"]]
    wholes = [["embed"], ["0.resid_pre"], ["2.resid_post"]]
    wholes += [["embed", *map(str, resolve(w, facts))] for w in writers]
    base, other = ("corrupt", "clean") if engine == "replay" else ("clean", "corrupt")
    value = Resample(other)
    through = [cell("embed", value, hops=(Hop(LOGITS, "all"),))] if facts.language_model else []
    cells = [*(cell(whole, value) for whole in wholes), *through]
    truth = plain(model, chosen, other, engine)
    assert np.abs(measure(model, chosen, cells, engine, base) - truth).max() < TOLERANCE
    assert np.abs(truth - plain(model, chosen, base, engine)).min() > 1e-4  # it was not there yet


@pytest.mark.plain
def test_batch_equals_loop(model, pairs, engine):
    """Rows of two lengths and patches of every kind, together and each by itself."""
    chosen, value = pairs.select([0, 1, 2]), Resample("corrupt")
    cells = [cell(site, value, at) for site in sites_of(model) for at in ("mid", "all")][::2]
    cells += sent(value, frozen(model, engine))
    cells[::3] = [cell(s, Zero(), "late") for s in ("0.0", "0.2", "1.mlp", "1.attn", "2.1", "1.1")]
    together = measure(model, chosen, cells, engine)
    for row in (1, 2):
        alone = measure(model, chosen.select([row]), cells, engine)[:, 0]
        assert np.abs(alone - together[:, row]).max() < TOLERANCE
    for i, one in list(enumerate(cells))[:: 1 if engine == "replay" else 4]:
        assert np.abs(measure(model, chosen, [one], engine)[0] - together[i]).max() < TOLERANCE
    # none is taken for another; that the whole first or last stream is one thing is known
    assert len({tuple(line) for line in together.round(10)}) >= len(cells) - 3


def methods(model: Model, pairs: Pairs, engine: str) -> dict[str, Tensor]:
    """Every public method's numbers, by cell and example."""
    metric = {"metric": metric_of(model), "engine": engine}
    end = "logits" if model.facts.language_model else "2.mlp"
    found = {
        "evaluate": interp.evaluate(model, pairs, **metric),
        "ablate": interp.ablate(model, pairs, "mlps", method="zero", **metric),
        "patch": interp.patch(model, pairs, ["1.attn", "1.resid_pre"], positions="mid", **metric),
        "path_patch": interp.path_patch(
            model, pairs, senders=["embed", "1.mlp"], receivers=end, **metric
        ),
        "attention": interp.attention(model, pairs, keys=["mid"], query="late", engine=engine),
    }
    return {
        name: torch.tensor(results.frame["value"].to_numpy().reshape(-1, len(pairs)))
        for name, results in found.items()
    }


@pytest.mark.plain
def test_left_pad_equals_right_pad_equals_no_pad(family, tiny_model, pairs, engine):
    """In float32, against each prompt alone; the pad is an ordinary token that could be attended.

    The keys that are attended to come before the query, also in encoders.
    """
    model = tiny_model(family, torch.float32)
    chosen = pairs.select([0, 1])
    width = int(chosen.lengths.max()) + 3
    alone = [methods(model, chosen.select([row]), engine) for row in range(len(chosen))]
    for start in (width - chosen.lengths, torch.zeros_like(chosen.lengths)):
        at = torch.arange(width)
        mask = (at >= start[:, None]) & (at < (start + chosen.lengths)[:, None])
        sides = {}
        for side in ("clean", "corrupt"):
            sides[side] = torch.full(mask.shape, 17)
            sides[side][mask] = getattr(chosen, side)[chosen.mask]
        positions = {name: chosen.at(name) + start for name in ("mid", "late")}
        padded = rebuilt(chosen, **sides, mask=mask, positions=positions)
        for method, together in methods(model, padded, engine).items():
            single = torch.cat([found[method] for found in alone], -1)
            assert (together - single).abs().max() < 1e-5, method


@dataclass(frozen=True)
class Broken:
    """Fails in the middle of a forward."""

    source: ClassVar[None] = None

    def __call__(self, current: Tensor, found: Tensor) -> Tensor:
        raise ZeroDivisionError


def all_hooks(model: Model) -> dict[str, int]:
    """Torch's own hooks on every module too."""
    found = {
        name: len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
        for name, m in model.bridge.named_modules()
    }
    return {**{name: n for name, n in found.items() if n}, **hooks_on(model)}


@pytest.mark.plain
@pytest.mark.parametrize("family", [*BLOCKS, "gptj", "opt", "qwen3"])
def test_hooks_before_equal_hooks_after(model, pairs):
    """The user's own stays and fires; nothing of ours is left, also not after an exception."""
    chosen, seen = pairs.select([1]), []
    name = point(model.facts, "mlp_out", 1)
    before = all_hooks(model)
    model.bridge.add_hook(name, lambda x, hook: seen.append(len(x)))
    try:
        held = all_hooks(model)
        assert held != before
        measure(model, chosen, [cell("1.mlp", Zero()), *sent(Zero())], "hooks")
        assert seen and all_hooks(model) == held
        for broken in (cell("1.mlp", Broken()), *sent(Broken())):
            with pytest.raises(ZeroDivisionError):
                measure(model, chosen, [broken], "hooks")
            assert all_hooks(model) == held
        with pytest.raises(MetricError, match="ZeroDivisionError"):
            bad = Metric("bad", lambda x, a: 1 // 0, "embedding", "mean", needs_answers=False)
            measure(model, chosen, [cell("1.mlp", Zero())], "hooks", metric=bad)
        assert all_hooks(model) == held
    finally:
        model.bridge.hook_dict[name].remove_hooks()
    assert all_hooks(model) == before


KINDS = ("resid_pre", "q", "k", "v", "pattern", "z", "attn_out", "resid_mid", "mlp_act", "mlp_out")


def traced(model: Model, tokens: Tensor, engine: str) -> Trace:
    kinds = [k for k in KINDS if k != "resid_mid" or not model.facts.parallel]
    with torch.inference_mode():
        return choose(model, engine).trace(tokens, keep=kinds)


def test_captured_tensors_are_unchanged(model, pairs, engine, monkeypatch):
    """Traces that a run starts from and takes values from, after the run has written everywhere."""
    chosen = pairs.select([1, 3])
    held: list[tuple[Trace, dict[str, list[Tensor]], Tensor]] = []
    served = type(choose(model, engine))
    plain_trace = served.trace

    def noting(self: object, tokens: Tensor, written: None, *, keep: Sequence[str] = ()) -> Trace:
        found = plain_trace(self, tokens, written, keep=keep)
        copies = {kind: [x.clone() for x in layers] for kind, layers in found.kept.items()}
        held.append((found, copies, found.final.clone()))
        return found

    monkeypatch.setattr(served, "trace", noting)
    value = Resample("corrupt")
    cells = [
        *(cell(site, value, "late") for site in sites_of(model)),
        *sent(value, frozen(model, engine)),
    ]
    measure(model, chosen, cells, engine)
    assert len(held) == 2
    for found, copies, final in held:
        assert torch.equal(found.final, final)
        for kind, layers in copies.items():
            assert all(map(torch.equal, found.kept[kind], layers)), kind


@pytest.mark.plain
@pytest.mark.parametrize("family", REPLAYED)
def test_two_engines_agree(model, pairs):
    """On every kind of site, path and edge; drawn cases of many more are in engine/."""
    chosen, value = pairs.select([1, 2]), Resample("clean")
    cells = [*(cell(site, value) for site in sites_of(model)), *sent(value, frozen(model, "hooks"))]
    replay, hooked = (measure(model, chosen, cells, engine, "corrupt") for engine in ENGINES)
    assert np.abs(replay - hooked).max() < TOLERANCE
    assert (np.abs(replay - plain(model, chosen, "corrupt")).max(-1) > 1e-8).all()


def test_residual_identities(model, pairs, engine):
    """What is written adds up to what is read, with each norm where the architecture has it."""
    facts, blocks = model.facts, weights_of(model).blocks
    found = traced(model, pairs.clean[[1, 3]], engine)
    for layer, block in enumerate(blocks):
        at = {k: x[layer] for k, x in found.kept.items()}
        mid = forward.add(at["resid_pre"], at["attn_out"], block.attention.ends)
        after = forward.add(mid, at["mlp_out"], block.mlp.ends)
        ends = [(after, found.at(Site("resid_post", layer)))]
        if not facts.parallel:
            ends.append((mid, at["resid_mid"]))
        if facts.block == "pre":
            # no norm in between; the weights are the bridge's, which replay has not touched
            assert block.attention.ends.sum is block.mlp.ends.sum is None
            o = model.bridge.blocks[layer].attn.o.original_component
            w = output_weight(o, n_heads=facts.n_heads, d_head=facts.d_head)
            heads = torch.einsum("bphd,hdm->bpm", at["z"], w)
            factor = getattr(model.bridge.original_model.config, "residual_multiplier", 1)
            heads = factor * (heads + (0 if o.bias is None else o.bias))
            ends.append((heads, at["attn_out"]))
            ends.append((at["resid_pre"] + at["attn_out"] + at["mlp_out"], ends[0][1]))
        for ours, theirs in ends:
            assert (ours - theirs).abs().max() < TOLERANCE
    assert found.at(Site("resid_post", 2)).equal(found.final)


@pytest.mark.parametrize("kind", ["k", "v"])
@pytest.mark.parametrize("family", GROUPED)
def test_gqa_group_changes_exactly_its_query_heads(tiny_model, pairs, family, kind):
    """Patterns of the key's group, outputs of the value's; to the rest not one bit is done."""
    model, chosen = tiny_model(family), pairs.select([1])
    facts, ids = model.facts, chosen.clean
    assert (facts.n_kv_heads, facts.group_size) == (2, 3)
    base, other = (traced(model, x, "hooks") for x in (ids, chosen.corrupt))
    # OLMo 2 and 3 norm the keys of all groups together: there a key is nobody's own
    joint = family in ("olmo2", "olmo3") and kind == "k"
    seen = "pattern" if kind == "k" else "z"
    for group in range(2):
        site = Site(kind, 1, group=group)
        mask = torch.ones(ids.shape, dtype=torch.bool)
        edit = Edit(site, Resample("corrupt"), mask, other.at(site))
        noted: list[Tensor] = []
        note = (point(facts, seen, 1), lambda x, noted=noted: noted.append(x.clone()) or x)
        with torch.inference_mode():
            hooks.forward(model, ids, [write(facts, edit)], hooks=[note])
        new = noted[0].transpose(1, 2) if seen == "pattern" else noted[0]
        own = range(3 * group, 3 * group + 3)
        for head in range(6):
            unchanged = torch.equal(new[:, :, head], base.kept[seen][1][:, :, head])
            assert unchanged == (head not in own and not joint)
        # and that is all it does: setting those is setting the key
        heads = range(6) if joint else own
        wide = torch.zeros(1, chosen.clean.shape[1], *new.shape[3:], dtype=new.dtype)
        parts = tuple(
            Intervention(Site(seen, 1, head=h), Set(wide + new[:, :, h]), "all") for h in heads
        )
        cells = [cell(str(site), Resample("corrupt")), Cell("parts", "all", parts)]
        for engine in ENGINES:
            one, two = measure(model, chosen, cells, engine)
            assert np.abs(one - two).max() < TOLERANCE
            assert np.abs(one - plain(model, chosen, "clean")).max() > 1e-7


@pytest.mark.parametrize("kind", ["k", "v"])
@pytest.mark.parametrize("family", ["bigcode", "falcon"])
def test_what_one_head_reads_of_the_only_group_is_no_other_s(tiny_model, pairs, family, kind):
    model, chosen, value = tiny_model(family), pairs.select([1]), Resample("corrupt")
    assert model.facts.n_kv_heads == 1
    own = [f"1.{head}.{kind}" for head in range(6)]
    cells = [cell(sites, value) for sites in (f"1.kv0.{kind}", own, own[2:3])]
    group, all_of_them, one = measure(model, chosen, cells, "replay")
    assert np.abs(group - all_of_them).max() < TOLERANCE
    assert np.abs(group - one).min() > 1e-6
    assert np.abs(one - plain(model, chosen, "clean")).min() > 1e-6


def test_pattern_rows_sum_to_one_and_write_moves_logits(model, pairs, engine):
    """Also on OPT, GPT-J and BERT, where the bridge's own hook_pattern is not read back."""
    chosen = pairs.select([1, 3])
    found = traced(model, chosen.clean, engine)
    for layer, pattern in enumerate(found.kept["pattern"]):
        assert (pattern.sum(-1) - 1).abs().max() < TOLERANCE
        cells = [cell(f"{layer}.{h}.pattern", Resample("corrupt")) for h in range(2)]
        moved = measure(model, chosen, cells, engine) - plain(model, chosen, "clean")
        assert (np.abs(moved).max(-1) > 1e-8).all()
        with pytest.raises(Unsupported, match="sums to 0 over the keys"):
            measure(model, chosen, [cell(f"{layer}.1.pattern", Zero())], engine)


def test_pattern_rows_sum_to_one_and_write_moves_logits_of_two_stacks(tiny_model, pairs):
    """T5's three attentions; the decoder's first reads the same ids in both runs."""
    model = tiny_model("t5")
    chosen = rebuilt(pairs.select([1, 3]), positions={}, decoder=(4, 7, 2))
    served = choose(model, "hooks")
    with torch.inference_mode():
        found = served.trace(*chosen.ids("clean", [0, 1]), keep=("pattern",))
    assert set(found.kept) == {"enc.pattern", "dec.pattern", "dec.cross.pattern"}
    for layers in found.kept.values():
        assert all((pattern.sum(-1) - 1).abs().max() < TOLERANCE for pattern in layers)
    sites = ["enc.0.1.pattern", "enc.2.5.pattern", "dec.1.1.pattern", "dec.0.cross.1.pattern"]
    cells = [cell(site, Resample("corrupt")) for site in sites]
    base = interp.evaluate(model, chosen, metric="logit_diff", engine="hooks").frame["value"][:2]
    moved = measure(model, chosen, cells, "hooks") - base.to_numpy()
    assert (np.abs(moved).max(-1) > 1e-8).all()
    same = measure(model, chosen, [cell("dec.0.1.pattern", Resample("corrupt"))], "hooks")
    assert np.abs(same - base.to_numpy()).max() < TOLERANCE


def frozen_final(w: Weights, base: Trace, zs: Sequence[Tensor]) -> Tensor:
    """The last stream as a function of heads' outputs alone: MLPs and norms stay the base run's."""
    x = like = base.kept["resid_pre"][0]
    for layer, (block, z) in enumerate(zip(w.blocks, zs, strict=True)):
        kept = {kind: base.kept[kind][layer] for kind in ("z", "attn_out", "mlp_out")}
        attn = forward.attention_write(z, block.attention, kept["z"])
        x = forward.add(x, attn, block.attention.ends, like + kept["attn_out"])
        like = forward.add(like, kept["attn_out"], block.attention.ends)
        x = forward.add(x, kept["mlp_out"], block.mlp.ends, like + kept["mlp_out"])
        like = forward.add(like, kept["mlp_out"], block.mlp.ends)
    return x


@pytest.mark.plain
@pytest.mark.parametrize("family", [f for f in REPLAYED if f not in ("bert-headless", "olmo")])
def test_linear_toy_attribution_equals_patching(model, pairs):
    """Direct paths past frozen norms: effects add up, and are gradient times difference.

    The gradient is autograd's, through the functions that replay is made of. Gemma 2's capped
    logits and BERT's head bend, so there the last stream is read.
    """
    chosen = pairs.select([1, 3])
    bent = model.facts.block == "post" or model.facts.architecture == "Gemma2ForCausalLM"
    metric = weighted() if bent else METRICS["logit_diff"]
    heads = ["0.0", "0.2", "1.1", "2.0"]
    truth, recomputed = {}, {}
    for ln, into in (("freeze", truth), ("recompute", recomputed)):
        hop = (Hop(LOGITS, "direct", ln=ln),)
        cells = [cell(h, Resample("corrupt"), hops=hop) for h in (*heads, heads)]
        null = measure(model, chosen, [cell("0.0", Freeze())], "replay", metric=metric)
        found = {e: measure(model, chosen, cells, e, metric=metric) - null for e in ENGINES}
        assert np.abs(found["replay"] - found["hooks"]).max() < TOLERANCE
        into["each"], into["all"] = found["replay"][:-1], found["replay"][-1]
    assert np.abs(truth["each"].sum(0) - truth["all"]).max() < TOLERANCE
    assert np.abs(recomputed["each"].sum(0) - recomputed["all"]).max() > 1e-7
    w = weights_of(model)
    # not in inference mode: its tensors have no gradient
    base, other = (choose(model, "replay").trace(x) for x in (chosen.clean, chosen.corrupt))
    zs = [z.detach().clone().requires_grad_() for z in base.kept["z"]]
    final = frozen_final(w, base, zs)[:, -1]
    assert (final - base.final[:, -1]).abs().max() < TOLERANCE
    columns = torch.stack([chosen.correct, chosen.wrong], 1)
    answers = Answers(chosen.correct, chosen.wrong)
    read = final[None] if bent else forward.unembed(w, final[None], columns, base.final[:, -1])
    metric(read, answers).sum().backward()
    for name, effect in zip(heads, truth["each"], strict=True):
        layer, head = map(int, name.split("."))
        change = (other.kept["z"][layer] - base.kept["z"][layer]) * zs[layer].grad
        attribution = change[:, :, head].sum((1, 2)).detach().numpy()
        assert np.abs(attribution - effect).max() < TOLERANCE
        assert np.abs(effect).max() > 1e-5


def test_float64_exactness_on_tiny_model(model, family, hf, pairs, engine):
    """Every logit of every prompt, or the last hidden state, against Hugging Face by itself."""
    theirs, heads = hf(family, model), model.facts.language_model
    for tokens in rows_of(pairs, "clean"):
        ids = torch.tensor([tokens])
        found = traced(model, ids, engine)
        ours = found.final
        if heads and engine == "replay":
            with torch.inference_mode():
                ours = forward.unembed(weights_of(model), found.final)
        elif heads:
            ours = found.logits
        expected = output_of(theirs, ids, language_model=heads)
        assert (ours - expected).abs().max() < TOLERANCE


# the rest of the list, where it is cheap


def test_zero_is_never_a_placeholder(tiny_model, pairs):
    """A path that does not exist has no row, and no cell of the grid."""
    model = tiny_model("llama")
    found = interp.path_patch(model, pairs, senders="heads", receivers=["1.0.q", "1.mlp"])
    assert set(found.frame["site"]) == {f"{i}.{h}" for i in (0, 1) for h in range(6)}
    grid = interp.path_patch(model, pairs, senders="heads", receivers="1.0.q").grid()
    assert grid.shape == (1, 6)
    assert (grid != 0).all()
    some = interp.patch(model, pairs, ["0.1", "1.4"]).grid()
    assert np.isfinite(some).sum() == 2
    none = interp.evaluate(model, pairs).frame  # nothing was changed, so there is no effect
    assert none[["base", "effect"]].isna().all().all()


@pytest.mark.parametrize("engine", ENGINES)
def test_metrics_refuse_reductions_over_the_batch(tiny_model, pairs, engine):
    """Also where the shape would broadcast, as a sum over one example."""
    model = tiny_model("gpt2")
    for chosen in (pairs, pairs.select([1])):
        for fn in (lambda x, a: x.mean(), lambda x, a: x[..., 0].sum(-1), lambda x, a: x):
            with pytest.raises(MetricError, match="one value per example"):
                metric = Metric("reduced", fn, reads="answers")
                interp.ablate(model, chosen, "0.1", method="zero", metric=metric, engine=engine)


def public_calls(model: Model, pairs: Pairs) -> Iterator[Callable[[], object]]:
    yield lambda: interp.evaluate(model, pairs)
    yield lambda: interp.ablate(model, pairs, "heads", method="zero")
    yield lambda: interp.patch(model, pairs, "mlps", engine="hooks")
    yield lambda: interp.path_patch(model, pairs, senders="heads")
    yield lambda: interp.attention(model, pairs, keys=["mid"])


@pytest.mark.plain
def test_training_mode_is_refused(tiny_model, pairs):
    """One dropout in training mode is enough to show effects where there are none."""
    model = tiny_model("gpt2")
    part = next(m for m in model.bridge.modules() if isinstance(m, nn.Dropout))
    part.train()
    try:
        for call in public_calls(model, pairs):
            with pytest.raises(ModelError, match=r"training mode.*bridge\.eval"):
                call()
    finally:
        part.eval()
    for call in public_calls(model, pairs):
        call()


def test_a_second_beginning_of_sequence_is_refused(tmp_path):
    """The tokenizer adds one, and its id is 0, which is a token like any other."""
    tiny.build("gpt2").save_pretrained(tmp_path)
    tiny.word_tokenizer(adds_bos=True).save_pretrained(tmp_path)
    model = interp.load(tmp_path)
    text = {"corrupt": ["The John gave"], "correct": [" it"], "wrong": [" to"]}
    found = Pairs.from_text(model, clean=["The Mary gave"], **text)
    assert found.clean[0].tolist() == [0, 2, 3, 5]
    assert "<s>" in repr(found)
    with pytest.raises(PairsError, match=r"(?i)two|twice|already"):
        Pairs.from_text(model, clean=["<s>The Mary gave"], **text)
    bare = Pairs.from_text(model, clean=["The Mary gave"], **text, bos="none")
    assert bare.clean[0].tolist() == [2, 3, 5]


def public_functions() -> Iterator[tuple[str, Callable[..., object]]]:
    """Everything that `interp` and its public modules offer, with the methods of classes."""
    for owner in (interp, interp.datasets, interp.figures, interp.runs):
        names = getattr(owner, "__all__", [n for n in vars(owner) if not n.startswith("_")])
        for name in names:
            thing = getattr(owner, name)
            if not getattr(thing, "__module__", "").startswith("interp"):
                continue
            if inspect.isclass(thing):
                methods = inspect.getmembers(thing, inspect.isroutine)
                own = ((n, m) for n, m in methods if not n.startswith("_") and callable(m))
                yield from ((f"{name}.{n}", m) for n, m in own if hasattr(m, "__annotations__"))
            elif callable(thing):
                yield f"{owner.__name__}.{name}", thing


def test_no_public_function_swallows_arguments(tiny_model, pairs):
    """`explain` alone takes anything, and hands it to the method that it explains."""
    found = dict(public_functions())
    assert {"interp.ablate", "Results.summary", "Pairs.from_text", "Site.parse"} <= set(found)
    greedy = {
        name
        for name, function in found.items()
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is parameter.VAR_KEYWORD
    }
    assert greedy == {"interp.explain"}
    with pytest.raises(TypeError, match="postions"):
        explain(interp.ablate, tiny_model("gpt2"), pairs, "heads", postions="end")


def test_what_is_masked_is_exactly_zero(model, pairs, engine):
    """Masks of -inf or of the least float; no row is masked whole, which would be NaN or uniform.

    In windows, and in every dtype's own least number: a masked key keeps none of the probability.
    """
    found = traced(model, pairs.clean[[1, 3]], engine)
    blocks = weights_of(model).blocks
    place = torch.arange(9)[None]
    for pattern, block in zip(found.kept["pattern"], blocks, strict=True):
        seen = torch.ones(9, 9, dtype=torch.bool)
        if model.facts.causal:
            seen = place <= place.T
        if block.attention.window is not None:
            seen = seen & (place.T - place < block.attention.window)
        assert seen.any(-1).all()
        heads_first = pattern.transpose(1, 2)
        assert (heads_first[..., ~seen] == 0).all()
        assert (heads_first[..., seen] > 0).all()


@pytest.mark.plain
def test_direction_is_stored_in_every_row(tiny_model, pairs, tmp_path):
    """Denoise: clean values into the corrupt run; noise: the reverse. Kept in the file too."""
    model = tiny_model("gpt2")
    sides = {"denoise": "corrupt", "noise": "clean"}
    for direction, base in sides.items():
        for found in (
            interp.patch(model, pairs, "mlps", direction=direction),
            interp.path_patch(model, pairs, senders="mlps", direction=direction),
        ):
            assert set(found.frame["direction"]) == {direction}
            assert found.provenance["base"] == base
            gap = found.frame["base"].to_numpy().reshape(3, -1) - plain(model, pairs, base)
            assert np.abs(gap).max() < TOLERANCE
            found.save(tmp_path / "found.parquet")
            again = interp.Results.load(tmp_path / "found.parquet")
            assert set(again.frame["direction"]) == {direction}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_metrics_accumulate_in_float32(dtype):
    """A thousand logits of 8 and one of 8: in half precision the sum stops growing."""
    logits = torch.full((1, 2, 4000), 8.0, dtype=dtype)
    logits[:, 1, 7] = 9.0
    answers = Answers(torch.tensor([3, 7]), torch.tensor([4, 8]))
    for name in ("log_prob", "loss", "prob", "rank"):
        found = METRICS[name](logits, answers)
        assert found.dtype == torch.float32
        exactly = METRICS[name](logits.double(), answers)
        assert (found.double() - exactly).abs().max() < 1e-5
    seen: set[torch.dtype] = set()
    own = Metric("own", lambda x, a: seen.add(x.dtype) or x[..., 0])
    own(logits, answers)
    assert seen == {torch.float32}


def test_pairs_of_unequal_length_are_refused_with_both_rows_shown(tiny_model):
    model = tiny_model("gpt2")
    with pytest.raises(PairsError, match=r"(?s)clean has 4 tokens and corrupt 3.*Mary.*John"):
        Pairs.from_text(
            model,
            clean=["The Mary gave it"],
            corrupt=["The John gave"],
            correct=[" it"],
            wrong=[" to"],
        )


def test_misspelt_names_are_answered_with_near_ones(tiny_model, pairs):
    """Before any forward: a hook on a name that nothing has would never fire."""
    model = tiny_model("gpt2")
    for site, near in (
        ("blocks.1.attn.hook_q", "'1.0.q'"),
        ("1.mpl", "'1.mlp'"),
        ("head", "'heads'"),
        ("7.0", "'2.0'"),
        ("1.9", "'1.2'"),
    ):
        with pytest.raises(SiteError, match=near):
            interp.patch(model, pairs, site)
    with pytest.raises(InterpError, match="'end', 'mid', 'late'"):
        interp.patch(model, pairs, "heads", positions="s1")
    with pytest.raises(InterpError, match="'logit_diff'"):
        interp.patch(model, pairs, "heads", metric="logit_dif")
    with pytest.raises(SiteError, match="not computed before its reader"):
        Edge.parse("2.0 -> 1.0.q").check(model.facts)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_call_gives_the_same_bits(tiny_model, pairs, engine):
    """No seed to set: nothing is drawn."""
    model = tiny_model("llama")
    one, two = (interp.patch(model, pairs, "heads", engine=engine) for _ in range(2))
    assert one.frame.equals(two.frame)


# what does not hold yet


@pytest.mark.parametrize("metric", ["logit_diff@mid", "logit_diff@nonsense", "cosine@late"])
def test_a_metric_reads_a_decoder_where_it_says_or_refuses(tiny_model, pairs, metric):
    """The pairs' names are of the encoder's tokens, and logits stand in the decoder."""
    chosen = rebuilt(pairs.select([1, 3]), decoder=(4, 7, 2))
    with pytest.raises(InterpError):
        interp.evaluate(tiny_model("t5"), chosen, metric=metric)


@pytest.mark.parametrize("prefix", [(4,), (4, 7, 2, 5, 6, 7, 8, 9, 3, 2)])
def test_each_position_of_a_decoder_is_swept_and_no_other(tiny_model, pairs, prefix):
    """A row of zeros for a position that is not there is a placeholder, not a measurement."""
    chosen = rebuilt(pairs.select([1, 3]), positions={}, decoder=prefix)
    found = interp.ablate(
        tiny_model("t5"), chosen, "dec.1.mlp", method="zero", positions="each", engine="hooks"
    )
    assert set(found.frame["position"]) == {str(i) for i in range(1 + len(prefix))}
