"""What must hold of any right engine, whatever the numbers are."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
import torch
from budgets import least
from conftest import hooks_on

import interp
from interp.core.errors import MetricError
from interp.core.metrics import METRICS, Answers, Metric, resolve_metrics
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs
from interp.engine.engines.choose import choose
from interp.engine.engines.protocol import Route
from interp.engine.engines.replay.engine import Replay
from interp.engine.interventions import (
    Cell,
    Freeze,
    Hop,
    Intervention,
    Resample,
    Set,
    Value,
    Zero,
)
from interp.engine.plan.edits import Edit
from interp.engine.plan.explain import explain
from interp.engine.plan.score import Readout, Score
from interp.engine.sweep.run import run
from interp.engine.sweep.sweep import Sweep
from interp.models.model import Model

pytestmark = pytest.mark.sampled(5)

TOLERANCE = 1e-9
ENGINES = ("replay", "hooks")
SITES = (
    *("embed", "0.resid_pre", "1.1.q", "1.1.k", "1.1.v", "1.kv0.k", "1.kv1.v", "0.2", "2.0"),
    *("1.attn", "0.resid_mid", "1.mlp", "2.mlp", "0.resid_post", "2.resid_post"),
)
"""Every kind of site, the first and the last layer among them; each is in all tiny models."""


def measure(
    model: Model,
    pairs: Pairs,
    cells: Sequence[Cell],
    engine: str = "replay",
    base: str = "clean",
    metric: str | Metric = "logit_diff",
    **options,
) -> np.ndarray:
    """The metric of each cell and example."""
    sweep = Sweep(model, pairs, cells, "test", base, resolve_metrics(metric), engine, **options)
    return run(sweep).frame["value"].to_numpy().reshape(len(cells), len(pairs))


def plain(model: Model, pairs: Pairs, side: str = "clean", engine: str = "auto") -> np.ndarray:
    found = interp.evaluate(model, pairs, metric="logit_diff", engine=engine)
    return found.query(f"position == {side!r}").frame["value"].to_numpy()


def cell(sites: str, value: Value, positions: str | int = "all", hop: Hop | None = None) -> Cell:
    """One value at all of some sites."""
    chosen = [Site.parse(site) for site in sites.split()]
    made = tuple(Intervention(s, value, positions) for s in chosen)
    return Cell(str(chosen[0]), str(positions), made, (hop,) if hop else (), chosen[0])


def reachable(model: Model, engine: str, sites: Sequence[str] = SITES) -> list[str]:
    """Without a key or value as one query head of a group reads it, where hooks run."""
    own = model.facts.group_size > 1 and engine == "hooks"
    return [s for s in sites if not (own and s in ("1.1.k", "1.1.v"))]


def equal_sides(pairs: Pairs) -> Pairs:
    rows = [row[:n].tolist() for row, n in zip(pairs.clean, pairs.lengths, strict=True)]
    return Pairs.from_tokens(
        clean=rows,
        corrupt=rows,
        correct=pairs.correct,
        wrong=pairs.wrong,
        positions={name: pairs.at(name) for name in ("mid", "late")},
        cluster=pairs.cluster,
    )


# null


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("positions", ["all", "mid", "end"])
def test_freezing_any_site_changes_nothing(model, pairs, engine, positions):
    cells = [cell(site, Freeze(), positions) for site in reachable(model, engine)]
    assert np.abs(measure(model, pairs, cells, engine) - plain(model, pairs)).max() < TOLERANCE


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("direction", ["noise", "denoise"])
def test_patching_a_run_with_itself_changes_nothing(model, pairs, engine, direction):
    same = equal_sides(pairs)
    sites = reachable(model, engine)
    found = interp.patch(model, same, sites, direction=direction, engine=engine)
    assert found.frame["effect"].abs().max() < TOLERANCE
    assert found.provenance["null"] < TOLERANCE


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("through", ["direct", "mlps"])
@pytest.mark.parametrize("receivers", ["logits", ["1.0.q", "2.mlp"], ["1.kv0.k", "2.kv1.v"]])
def test_paths_from_a_run_to_itself_carry_nothing(model, pairs, engine, through, receivers):
    senders = ["embed", "0.1", "0.attn", "0.mlp", "1.resid_pre"]
    found = interp.path_patch(
        model,
        equal_sides(pairs),
        senders=senders[:-1] if receivers != "logits" else senders,
        receivers=receivers,
        through=through,
        engine=engine,
    )
    assert found.frame["effect"].abs().max() < TOLERANCE


# everything


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("base", ["clean", "corrupt"])
def test_patching_everything_gives_the_other_run(model, pairs, engine, base):
    """The whole stream at once, or every part that writes into it, jointly."""
    other = "corrupt" if base == "clean" else "clean"
    facts = model.facts
    heads = [f"{i}.{h}" for i in range(facts.n_layers) for h in range(facts.n_heads)]
    mlps = [f"{i}.mlp" for i in range(facts.n_layers)]
    wholes = ["0.resid_pre", "embed", "2.resid_post", " ".join(["embed", *heads, *mlps])]
    cells = [cell(sites, Resample(other)) for sites in wholes]
    truth = plain(model, pairs, other)
    assert np.abs(measure(model, pairs, cells, engine, base) - truth).max() < TOLERANCE
    assert np.abs(truth - plain(model, pairs, base)).min() > 1e-3  # so it was not there already


# batch = loop


def sweep_cells() -> list[Cell]:
    """Many shapes in one list: nodes and paths, positions, values, in no order."""
    ends = (Site.parse("2.1.q"), Site.parse("1.mlp"))
    return [
        cell("1.0", Zero(), "late"),
        cell("embed", Resample("corrupt"), "mid"),
        *(cell(site, Resample("corrupt")) for site in reversed(SITES)),
        *(cell(f"0.{h}", Zero()) for h in range(3)),
        cell("0.1 1.mlp", Zero(), "mid"),
        cell("0.1", Resample("corrupt"), "all", Hop(ends, "mlps", "late")),
        cell("0.mlp", Resample("corrupt"), "mid", Hop(ends, "direct")),
        cell("1.2", Resample("corrupt"), "all", Hop((Site("logits"),))),
        cell("0.0", Resample("corrupt"), "all", Hop((Site("logits"),))),
    ]


@pytest.mark.plain
def test_batch_is_loop(model, pairs):
    """All rows and cells at once, and each row and cell by itself."""
    cells = sweep_cells()
    together = measure(model, pairs, cells)
    for row in range(len(pairs)):
        alone = measure(model, pairs.select([row]), cells)[:, 0]
        assert np.abs(alone - together[:, row]).max() < TOLERANCE
    for i, one in enumerate(cells):
        assert np.abs(measure(model, pairs, [one])[0] - together[i]).max() < TOLERANCE
    # so none is taken for another; the whole stream, and a group of one, have several names
    assert len({tuple(row) for row in together.round(6)}) >= len(cells) - 5


@pytest.mark.plain
@pytest.mark.parametrize("metric", ["logit_diff", "kl"])
@pytest.mark.parametrize("times", [1, 10])
def test_a_small_budget_changes_no_number(model, pairs, times, metric):
    cells = sweep_cells()
    memory = times * least(partial(measure, model, pairs, cells, metric=metric))
    wide, tight = (
        measure(model, pairs, cells, metric=metric, memory=m) for m in (10 << 20, memory)
    )
    assert np.abs(wide - tight).max() < TOLERANCE


@pytest.mark.plain
def test_mixed_lengths_are_separate_lengths(model, pairs):
    cells = sweep_cells()
    together = measure(model, pairs, cells)
    for rows in ([0, 2, 4], [1, 3]):
        alone = measure(model, pairs.select(rows), cells)
        assert np.abs(alone - together[:, rows]).max() < TOLERANCE


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("left", [0, 1, 4])
def test_padding_on_either_side_changes_no_number(model, pairs, engine, left):
    """Rows given in a tensor with pads before them, after them, or both."""
    width = pairs.clean.shape[1] + 4
    at = torch.arange(width)
    start = torch.full((len(pairs),), left)
    mask = (at >= start[:, None]) & (at < (start + pairs.lengths)[:, None])

    def padded(tokens: torch.Tensor) -> torch.Tensor:
        found = torch.full(mask.shape, 17)
        found[mask] = tokens[pairs.mask]
        return found

    given = Pairs.from_tokens(
        clean=padded(pairs.clean),
        corrupt=padded(pairs.corrupt),
        correct=pairs.correct,
        wrong=pairs.wrong,
        positions={name: pairs.at(name) + start for name in ("mid", "late")},
        cluster=pairs.cluster,
        mask=mask,
    )
    cells = [cell("0.1", Zero(), "mid"), cell("1.mlp", Resample("corrupt")), cell("embed", Zero())]
    truth = measure(model, pairs, cells, engine)
    assert np.array_equal(measure(model, given, cells, engine), truth)


# the parts


@pytest.mark.parametrize("engine", ENGINES)
def test_heads_add_up_to_the_attention_output(model, family, oracle, pairs, engine):
    """Sum of z @ W_O over the heads, plus b_O; the weights are the oracle's, split by itself."""
    judge = oracle(family)
    found = choose(model, engine).trace(pairs.clean[[1, 3]], keep=("z", "attn_out"))
    for layer in range(model.facts.n_layers):
        total = judge.bias(layer).expand_as(found.at(Site("attn_out", layer))).clone()
        for head in range(model.facts.n_heads):
            total += found.at(Site("z", layer, head=head)) @ judge.output(layer, head)
        assert (total - found.at(Site("attn_out", layer))).abs().max() < TOLERANCE


@pytest.mark.parametrize("kind", ["k", "v"])
def test_a_group_is_its_query_heads(tiny_model, pairs, kind):
    """The key of a group, or the key of each of its query heads as this head reads it."""
    model = tiny_model("llama")
    size = model.facts.group_size
    assert size == 3
    for group in range(2):
        heads = " ".join(f"1.{h}.{kind}" for h in range(group * size, (group + 1) * size))
        one, joint, first = measure(
            model,
            pairs,
            [
                cell(f"1.kv{group}.{kind}", Resample("corrupt")),
                cell(heads, Resample("corrupt")),
                cell(heads.split()[0], Resample("corrupt")),
            ],
        )
        assert np.abs(one - joint).max() < TOLERANCE
        assert np.abs(one - first).max() > 1e-4  # one query head is not its group


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_after_the_read_position_matters(model, pairs, engine):
    """Under a causal mask the logits at "late" cannot see what stands after it."""
    early = Metric("early", METRICS["logit_diff"].fn, reads="answers", position="mid")
    cells = [cell(site, Zero(), "late") for site in reachable(model, engine)]
    sweep = Sweep(model, pairs, cells, "test", "clean", (early,), engine)
    effect = run(sweep).frame["effect"].to_numpy()
    assert np.abs(effect).max() < 1e-14  # a few units in the last place, and most are 0
    if engine == "hooks":
        assert (effect == 0).all()
    before = [cell(site, Zero(), 1) for site in ("embed", "0.mlp")]
    moved = run(Sweep(model, pairs, before, "test", "clean", (early,), engine)).frame["effect"]
    assert moved.abs().min() > 1e-6


@pytest.mark.parametrize("direction", ["noise", "denoise"])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_last_layer_has_only_direct_paths(model, pairs, direction, engine):
    """Nothing attends to it any more: its path into the logits is all that it does."""
    last = model.facts.n_layers - 1
    for sender, through in ((f"{last}.mlp", "direct"), (f"{last}.1", "mlps")):
        along = interp.path_patch(
            model, pairs, senders=sender, through=through, direction=direction, engine=engine
        )
        whole = interp.patch(model, pairs, sender, direction=direction, engine=engine)
        gap = along.frame["value"] - whole.frame["value"]
        assert gap.abs().max() < TOLERANCE
        assert whole.frame["effect"].abs().max() > 1e-3


# nothing is left behind


def test_the_users_own_hook_survives(tiny_model, pairs):
    """Hooks before = hooks after, also when a run fails in the middle of a forward."""
    model = tiny_model("gpt2")
    before = hooks_on(model)
    seen: list[int] = []
    point = model.bridge.hook_dict["blocks.1.hook_mlp_out"]

    def own(activation: torch.Tensor, hook: object) -> None:
        seen.append(len(activation))

    model.bridge.add_hook("blocks.1.hook_mlp_out", own)
    try:
        held = hooks_on(model)
        assert held["blocks.1.hook_mlp_out"] == before.get("blocks.1.hook_mlp_out", 0) + 1
        interp.ablate(model, pairs, "heads", method="zero", engine="hooks")
        interp.path_patch(model, pairs, senders="0.0", receivers="1.0.q", engine="hooks")
        assert hooks_on(model) == held
        assert seen
        misshapen = Set(torch.zeros(len(pairs), 9, 3, dtype=torch.float64))  # d_head is 4
        with pytest.raises(Exception, match=r"(?s)axes|shape|size"):
            measure(model, pairs, [cell("1.0", misshapen)], "hooks")
        assert hooks_on(model) == held
        raises = Metric("raises", lambda logits, answers: 1 // 0)
        with pytest.raises(MetricError, match="failed with ZeroDivisionError"):
            measure(model, pairs, [cell("1.0", Zero())], "hooks", metric=raises)
        assert hooks_on(model) == held
        seen.clear()
        model.bridge(pairs.clean[:2])
        assert seen == [2]
    finally:
        point.remove_hooks()
    assert hooks_on(model) == before


@pytest.mark.parametrize("engine", ENGINES)
def test_an_intervened_run_leaves_the_captured_one_alone(model, pairs, engine):
    """Every tensor of a trace, after a run that starts from it and writes everywhere."""
    tokens = pairs.clean[[1, 3]]
    served = choose(model, engine)
    with torch.inference_mode():
        base = served.trace(
            tokens, keep=("resid_pre", "q", "k", "v", "z", "attn_out", "resid_mid", "mlp_out")
        )
        copies = {kind: [x.clone() for x in layers] for kind, layers in base.kept.items()}
        final = base.final.clone()
        mask = torch.ones(tokens.shape, dtype=torch.bool)
        cells = [[Edit(Site.parse(site), Zero(), mask, None)] for site in reachable(model, engine)]
        read = torch.tensor([[8], [8]])
        score = Score(METRICS["logit_diff"], Answers(pairs.correct[:2], pairs.wrong[:2]), read)
        readout = Readout.of(score)
        before = served.plain(base, readout)
        everywhere = torch.arange(9).expand(2, -1)
        for hop in (None, Hop((Site.parse("2.0.q"), Site.parse("1.mlp")))):
            chosen = cells if hop is None else cells[:1]
            route = Route(*(((), (), (0,)) if hop is None else ((hop,), (everywhere,), (0, 0))))
            changed = served.run(base, tokens, chosen, route=route, readout=readout)
            assert (changed - before).abs().min() > 1e-6
    for kind, layers in base.kept.items():
        for held, copy in zip(layers, copies[kind], strict=True):
            assert torch.equal(held, copy)
    assert torch.equal(base.final, final)


def test_replay_shares_the_bridges_weights(model):
    """No second copy: each weight lies in a storage that the bridge's own modules hold."""
    served = choose(model, "replay")
    assert isinstance(served, Replay)

    def tensors(part: object) -> list[torch.Tensor]:
        if isinstance(part, torch.Tensor):
            return [part]
        if isinstance(part, tuple):
            return [t for inner in part for t in tensors(inner)]
        if type(part).__module__.startswith("interp.engine.network."):
            return [t for inner in vars(part).values() for t in tensors(inner)]
        return []

    own = [*model.bridge.parameters(), *model.bridge.buffers()]
    held = {x.untyped_storage().data_ptr() for x in own}
    ours = tensors(served.weights)
    assert len(ours) > 9 * model.facts.n_layers
    assert all(x.untyped_storage().data_ptr() in held for x in ours)


# means


def references(model: Model, cluster: Sequence[str], corrupt: Sequence[Sequence[int]]) -> Pairs:
    n = len(cluster)
    return Pairs.from_tokens(
        clean=corrupt, corrupt=corrupt, correct=[1] * n, wrong=[2] * n, cluster=cluster
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_the_mean_of_one_prompt_is_resampling_from_it(model, pairs, engine):
    one = pairs.select([1])
    twin = references(model, ["b"] * 30, [pairs.corrupt[1].tolist()] * 30)
    for positions in ("all", "mid"):
        mean, resample = (
            interp.ablate(model, one, SITES[5:], positions=positions, engine=engine, **how)
            for how in ({"method": "mean", "reference": twin}, {"method": "resample"})
        )
        assert (mean.frame["value"] - resample.frame["value"]).abs().max() < TOLERANCE
        assert resample.frame["effect"].abs().max() > 1e-3


@pytest.mark.parametrize("engine", ENGINES)
def test_means_are_of_the_rows_own_template_and_length(model, family, oracle, pairs, engine):
    """Against means taken by hand from the oracle's activations, prompt after prompt."""
    generator = torch.Generator().manual_seed(5)
    groups = {("a", 7): 31, ("b", 9): 33, ("c", 9): 30, ("c", 7): 35, ("a", 9): 32}
    drawn = {
        group: torch.randint(29, (count, group[1]), generator=generator)
        for group, count in groups.items()
    }
    order = torch.randperm(sum(groups.values()), generator=generator).tolist()
    flat = [(name, row.tolist()) for (name, _), rows in drawn.items() for row in rows]
    reference = references(model, [flat[i][0] for i in order], [flat[i][1] for i in order])
    sites = ("1.1", "0.mlp", "1.kv1.k", "embed", "2.resid_post")
    found = interp.ablate(
        model, pairs, sites, method="mean", reference=reference, engine=engine
    ).frame.set_index(["site", "example"])["value"]
    judge = oracle(family)
    for row in range(len(pairs)):
        n = int(pairs.lengths[row])
        prompts = drawn[pairs.template[row], n]
        acts = [judge.forward(prompt[None])[1] for prompt in prompts]
        for site in sites:
            mean = torch.stack([a[site] for a in acts]).mean(0)
            logits, _ = judge.forward(
                pairs.clean[row : row + 1, :n],
                lambda name, x, site=site, mean=mean: mean if name == site else x,
            )
            at_end = logits[0, -1]
            truth = at_end[pairs.correct[row]] - at_end[pairs.wrong[row]]
            assert abs(found[site, row] - truth.item()) < TOLERANCE


# dtypes


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-4), (torch.bfloat16, 0.3)])
def test_lower_precision_is_near(family, tiny_model, pairs, engine, dtype, near):
    exact, rough = tiny_model(family), tiny_model(family, dtype)
    cells = sweep_cells()
    if engine == "hooks":
        cells = [
            c for c in cells if not {str(i.site) for i in c.interventions} & {"1.1.k", "1.1.v"}
        ]
    truth, found = (measure(m, pairs, cells, engine) for m in (exact, rough))
    assert np.isfinite(found).all()
    assert 0 < np.abs(found - truth).max() < near


def test_a_tight_budget_is_a_loop(tiny_model, pairs):
    """So that the equality of budgets above compares two different ways of running."""
    model = tiny_model("llama")
    call = (interp.ablate, model, pairs, "heads")
    tight = explain(*call, method="zero", memory=least(partial(*call, method="zero")))
    wide = explain(*call, method="zero")
    assert len(tight.batches) == 18 * 5
    assert len(wide.batches) == 2
