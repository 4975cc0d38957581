"""Sites of a mixture: the router's weights ("1.router") and what an expert adds ("1.expert[2]").

The truth is plain transformers with forward hooks; drawn interventions on them, with edges and
paths, are in `test_agreement.py`.
"""

import numpy as np
import pytest
import torch
from mixtures import FAMILIES, PAIRS, SHARED, TOKENS, plain
from torch import Tensor

import interp
from interp.core.errors import SiteError, Unsupported
from interp.core.parts.sites import Site, resolve
from interp.core.prompts.pairs import Pairs
from interp.engine.interventions import Add, Cell, Freeze, Intervention, Resample, Scale, Set
from interp.engine.sweep.run import run
from interp.engine.sweep.sweep import Sweep
from interp.models.model import Model

CORRUPT = TOKENS.flip(0)
UNSEEN = ("flex-olmo",)
"""Whose router TransformerLens' adapter does not show."""


def experts(model: Model, layer: int = 1) -> list[str]:
    return [f"{layer}.expert[{e}]" for e in range(model.facts.n_experts)]


def shared(model: Model, family: str) -> list[str]:
    """The neurons of the shared expert, which has no number."""
    last = model.facts.d_mlp
    return [f"1.mlp[{n}]" for n in range(last - SHARED.get(family, 0), last)]


def width_of(model: Model, family: str) -> int:
    """Neurons of an expert."""
    return (model.facts.d_mlp - SHARED.get(family, 0)) // model.facts.n_experts


def difference(logits: Tensor) -> np.ndarray:
    end = logits[:, -1]
    return (end[[0, 1], [3, 5]] - end[[0, 1], [4, 6]]).numpy()


def measured(model: Model, *interventions: Intervention, engine: str = "replay") -> np.ndarray:
    cell = Cell("test", "", interventions)
    found = run(Sweep(model, PAIRS, [cell], "test", "clean", metrics(), engine))
    return found.frame["value"].to_numpy()


def metrics() -> tuple[interp.Metric, ...]:
    return interp.core.metrics.resolve_metrics("logit_diff")


def mlp_of(hf: torch.nn.Module, layer: int = 1) -> torch.nn.Module:
    return hf.model.layers[layer].mlp


def router_of(hf: torch.nn.Module) -> torch.nn.Module:
    mlp = mlp_of(hf)
    return mlp.gate if hasattr(mlp, "gate") else mlp.router


def dense(output: tuple[Tensor, Tensor, Tensor], count: int) -> Tensor:
    """A router's weights over all experts, of what its module gives."""
    _, weights, index = output
    found = weights.new_zeros(*weights.shape[:-1], count).scatter(-1, index, weights)
    return found.view(*TOKENS.shape, count)


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


@torch.no_grad()
def test_they_are_what_hugging_face_computes(model, family, oracle):
    """The router's own output; the mixture's, where all other experts write nothing."""
    count = model.facts.n_experts
    found = interp.capture(model, PAIRS, ["1.router", *experts(model)], engine="replay")
    hf, said = plain(model, family), []
    router_of(hf).register_forward_hook(lambda _, __, out: said.append(out))
    hf(TOKENS)
    truth = dense(said[0], count)
    assert (found["1.router"] - truth).abs().max() < 1e-12
    assert ((truth > 0).sum(-1) == hf.config.num_experts_per_tok).all()
    acts = oracle(family).forward(TOKENS)[1]
    assert (acts["1.router"] - truth).abs().max() < 1e-12
    for expert in range(count):
        hf, wrote = plain(model, family), []
        inside = mlp_of(hf).experts
        others = [e for e in range(count) if e != expert]
        inside.down_proj.data[others] = 0
        if hasattr(inside, "down_proj_bias"):
            inside.down_proj_bias.data[others] = 0
        mlp_of(hf).experts.register_forward_hook(lambda _, __, out, w=wrote: w.append(out))
        hf(TOKENS)
        own = wrote[0].view(*TOKENS.shape, -1)
        assert (found[f"1.expert[{expert}]"] - own).abs().max() < 1e-12
        assert (acts[f"1.expert[{expert}]"] - own).abs().max() < 1e-12


@torch.no_grad()
def test_experts_add_up_to_the_mlp(model, family):
    """With a shared one, where there is one; before a norm of what is written."""
    hf, wrote = plain(model, family), []
    mlp_of(hf).register_forward_hook(lambda _, __, out: wrote.append(out))
    hf(TOKENS)
    truth = wrote[0][0] if isinstance(wrote[0], tuple) else wrote[0]
    found = interp.capture(model, PAIRS, [*experts(model), *shared(model, family)])
    total = sum(found[site] for site in experts(model))
    if family in SHARED:
        columns = mlp_of(hf).shared_expert.down_proj.weight.T
        total = total + torch.stack([found[s] for s in shared(model, family)], -1) @ columns
    assert (total - truth).abs().max() < 1e-12
    assert sum(bool(found[site].abs().max() > 1e-6) for site in experts(model)) >= 2


@pytest.mark.parametrize("method", ["zero", "resample"])
@pytest.mark.parametrize("positions", ["all", "end"])
def test_all_experts_are_the_mlp(model, family, method, positions):
    sets = {"experts": [*experts(model), *shared(model, family)], "mlp": ["1.mlp"]}
    given = {"method": method, "positions": positions}
    values = interp.ablate(model, PAIRS, sets, **given).frame["value"].to_numpy().reshape(2, 2)
    assert np.abs(values[0] - values[1]).max() < 1e-12


def test_an_expert_is_its_neurons_and_its_bias(model, family):
    """Without a bias all neurons of an expert set to zero are the expert set to zero."""
    width = width_of(model, family)
    if "GptOss" in model.facts.architecture:
        pytest.skip("an expert that writes its bias with no neuron at all")
    sets = {"neurons": [f"1.mlp[{n}]" for n in range(width, 2 * width)], "expert": ["1.expert[1]"]}
    values = interp.ablate(model, PAIRS, sets, method="zero").frame["value"].to_numpy()
    assert np.abs(values.reshape(2, 2)[0] - values.reshape(2, 2)[1]).max() < 1e-12


@torch.no_grad()
def test_a_router_that_is_written_is_that_of_hugging_face(model, family):
    """The other run's choice: Hugging Face's module gives what it gave there."""
    found = interp.patch(model, PAIRS, "1.router", normalise=False, engine="replay")
    hf, said = plain(model, family), []
    noting = router_of(hf).register_forward_hook(lambda _, __, out: said.append(out))
    base = hf(TOKENS).logits
    hf(CORRUPT)
    noting.remove()
    router_of(hf).register_forward_hook(lambda _, __, out: (out[0], *said[1][1:]))
    truth = difference(hf(TOKENS).logits)
    assert np.abs(found.frame["value"].to_numpy() - truth).max() < 1e-10
    assert np.abs(truth - difference(base)).max() > 1e-6
    assert found.provenance["unnormalised_routers"] is True


@pytest.mark.parametrize("site", ["1.router", "1.expert[1]", "1.expert[0]"])
@pytest.mark.parametrize("positions", ["all", "end"])
def test_null_patches_change_nothing(model, site, positions):
    same = Pairs.from_tokens(
        clean=TOKENS.tolist(), corrupt=TOKENS.tolist(), correct=[3, 5], wrong=[4, 6]
    )
    found = interp.patch(model, same, site, positions=positions)
    assert found.frame["effect"].abs().max() < 1e-12
    assert found.provenance["null"] < 1e-12


@pytest.mark.plain
def test_batch_is_loop(model):
    sites = ["routers", "experts", "1.mlp", "0.expert[1] -> 1.mlp", "1.mlp[3]"]
    given = {"normalise": False, "positions": ["all", "end"]}
    together = interp.patch(model, PAIRS, sites, **given).frame
    for name, rows in together.groupby("site", sort=False):
        alone = interp.patch(model, PAIRS, str(name), **given).frame
        assert np.abs(alone["value"].to_numpy() - rows["value"].to_numpy()).max() < 1e-12
    row = interp.patch(model, PAIRS.select([1]), sites, **given).frame["value"].to_numpy()
    assert np.abs(row - together["value"].to_numpy()[1::2]).max() < 1e-12


def test_a_small_budget_changes_no_number(model):
    sites = ["routers", "experts"]
    values = [
        interp.patch(model, PAIRS, sites, normalise=False, memory=memory).frame["value"].to_numpy()
        for memory in (None, 300_000)
    ]
    assert np.abs(values[0] - values[1]).max() < 1e-12


def test_hooks_and_replay_agree_on_routers(model, family):
    if family in UNSEEN:
        with pytest.raises(Unsupported, match="no hook point 'blocks.0.mlp.hook_expert_weights'"):
            interp.capture(model, PAIRS, "routers", engine="hooks")
        return
    found = [interp.capture(model, PAIRS, "1.router", engine=e) for e in ("replay", "hooks")]
    assert (found[0]["1.router"] - found[1]["1.router"]).abs().max() < 1e-12
    for positions in ("all", "end", 4):
        given = {"normalise": False, "positions": positions}
        values = [
            interp.patch(model, PAIRS, "routers", engine=engine, **given).frame["value"].to_numpy()
            for engine in ("replay", "hooks")
        ]
        assert np.abs(values[0] - values[1]).max() < 1e-10


def test_a_router_goes_before_what_it_weighs(model):
    """One expert alone chosen: the others write nothing, and the MLP what it writes."""
    count = model.facts.n_experts
    chosen = torch.zeros(count, dtype=torch.float64)
    chosen[1] = 1
    router = Intervention("1.router", Set(chosen), normalise=False)
    value = measured(model, router)
    for expert in range(count):
        site = f"1.expert[{expert}]"
        added = measured(model, router, Intervention(site, Scale(0.0)))
        assert np.abs(added - value).max() < 1e-12 or expert == 1
    gone = measured(model, router, Intervention("1.expert[1]", Scale(0.0)))
    nothing = measured(model, *(Intervention(site, Scale(0.0)) for site in experts(model)))
    assert np.abs(gone - nothing).max() < 1e-12
    assert np.abs(value - nothing).max() > 1e-6


def test_an_expert_is_made_of_its_neurons_after_their_change(model, family):
    """Twice an expert whose neuron is moved moves by twice as much."""
    width = width_of(model, family)
    neuron = Intervention(f"1.mlp[{width}]", Add(torch.tensor(0.3).double()))
    twice = Intervention("1.expert[1]", Scale(2.0))
    both = interp.engine.interventions.Scale(1.0)
    moved = measured(model, neuron, twice)
    again = measured(model, neuron, Intervention("1.expert[1]", both))
    assert np.abs(again - measured(model, neuron)).max() < 1e-12
    alone = Intervention(f"1.mlp[{width}]", Add(torch.tensor(0.6).double()))
    assert np.abs(measured(model, alone, twice) - moved).max() > 1e-9
    order = measured(model, twice, Intervention(f"1.mlp[{width}]", Freeze()))
    assert np.abs(order - measured(model, twice)).max() < 1e-12


def test_selections_plans_and_words(model):
    facts, count = model.facts, model.facts.n_experts
    assert [str(s) for s in resolve("experts", facts)][:count] == experts(model, 0)
    assert [str(s) for s in resolve("routers", facts)] == ["0.router", "1.router", "2.router"]
    between = resolve(["1.mlp", "1.expert[0]", "1.mlp[0]", "1.router", "1.resid_mid"], facts)
    assert [s.kind for s in between] == ["resid_mid", "router", "mlp_act", "expert", "mlp_out"]
    assert Site.parse("1.expert[2]").depth == 1
    assert f"of {count} experts" in str(facts)
    plan = interp.explain(lambda: interp.ablate(model, PAIRS, "experts", method="zero"))
    assert sum(len(batch.cells) for batch in plan.batches) == 3 * count


@pytest.mark.filterwarnings("ignore:mean ablation")
def test_means_are_of_the_router_too(model):
    reference = interp.MeanReference.fit(model, PAIRS, ["1.router", "1.expert[0]"], by="position")
    found = interp.ablate(
        model, PAIRS, ["1.router", "1.expert[0]"], reference=reference, normalise=False
    )
    mean = interp.capture(model, PAIRS, "1.router", side="corrupt")["1.router"].mean(0)
    own = measured(model, Intervention("1.router", Set(mean[None]), normalise=False))
    assert np.abs(found.frame["value"].to_numpy()[:2] - own).max() < 1e-12


# what is refused


def test_weights_of_another_sum_are_refused_with_the_sums(model):
    with pytest.raises(Unsupported, match=r"'1.router' sum to 0 over the experts.* to 0?1?\.?\d* "):
        interp.ablate(model, PAIRS, "1.router", method="zero")
    half = Intervention("1.router", Scale(0.5))
    with pytest.raises(Unsupported, match=r"sum to \S+ over the experts, where they summed to"):
        measured(model, half)
    assert measured(model, Intervention("1.router", Scale(0.5), normalise=False)).all()


def test_weights_of_the_same_sum_are_not(tiny_model):
    """Mixtral's always sum to 1, those of chances only where they happen to."""
    assert len(interp.patch(tiny_model("mixtral"), PAIRS, "1.router"))
    with pytest.raises(Unsupported, match="does not divide by their sum"):
        interp.patch(tiny_model("olmoe"), PAIRS, "1.router")


def test_experts_that_are_not_there(model, tiny_model):
    last = model.facts.n_experts - 1
    with pytest.raises(SiteError, match=f"expert 9 is outside 0 to {last}.*'1.expert.{last}.'"):
        interp.ablate(model, PAIRS, "1.expert[9]")
    dense = tiny_model("llama")
    for site in ("1.router", "1.expert[0]"):
        with pytest.raises(SiteError, match=r"the model is dense: .* '1.mlp'"):
            interp.ablate(dense, PAIRS, site)
    with pytest.raises(SiteError, match="'experts' selects nothing: the model has no experts"):
        interp.capture(dense, PAIRS, "experts")
    with pytest.raises(SiteError, match=r"did you mean '1.expert\[2\]'"):
        interp.capture(model, PAIRS, "1.expert2")


def test_what_hooks_do_not_reach(model, family):
    with pytest.raises(Unsupported, match="no hook point for what one expert writes"):
        interp.ablate(model, PAIRS, "1.expert[0]", method="zero", engine="hooks")
    with pytest.raises(Unsupported, match="no hook point for what one expert writes"):
        interp.capture(model, PAIRS, "1.expert[0]", engine="hooks")
    if family in UNSEEN:
        return
    every = torch.full((model.facts.n_experts,), 0.2).double()
    for value in (Set(every), Scale(-1.0)):
        with pytest.raises(Unsupported, match="TransformerLens hands on the"):
            measured(model, Intervention("1.router", value, normalise=False), engine="hooks")


def test_a_router_is_no_writer(model):
    with pytest.raises(SiteError, match="writes nothing of its own"):
        interp.ablate(model, PAIRS, "1.router -> 2.1.q")
    with pytest.raises(SiteError, match="cannot send along a path"):
        interp.path_patch(model, PAIRS, senders=["0.router"], receivers=["2.1.q"])
    whole = Intervention("1.expert[0]", Resample("corrupt"))
    part = Intervention("1.mlp[0]", Resample("corrupt"), readers="2.1.q")
    with pytest.raises(SiteError, match="whether they see it is not said"):
        Cell("x", "", (whole, part))
