"""One sweep on two models: the difference by hand, and tables that are not of one another."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from jaxtyping import Float
from matplotlib.text import Text
from numpy import ndarray

import interp
from interp.causal import Comparison
from interp.core.door.door import ArgumentError
from interp.core.errors import ResultsError
from interp.core.sampling import stats
from interp.core.tables.results import Results

N, CLUSTERS = 24, 12
BY = ["method", "site", "position", "metric"]


@pytest.fixture(scope="module")
def prompts() -> interp.Pairs:
    """Prompts on which log-probabilities are apart from 0, in clusters of two."""
    generator = torch.Generator().manual_seed(3)

    def rows() -> list[list[int]]:
        return torch.randint(tiny.VOCAB, (N, 7), generator=generator).tolist()

    return interp.Pairs.from_tokens(
        clean=rows(),
        corrupt=rows(),
        correct=[3 + i % 5 for i in range(N)],
        wrong=[9 + i % 7 for i in range(N)],
        cluster=[f"c{i // 2:02}" for i in range(N)],
    )


@pytest.fixture(scope="module")
def models() -> tuple[interp.Model, interp.Model]:
    """Two models of one shape, whose weights differ a little."""
    one, other = (tiny.build("llama").to(torch.float64) for _ in range(2))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return interp.load(one), interp.load(other)


@pytest.fixture(scope="module")
def compared(models, prompts) -> Comparison:
    def sweep(model: interp.Model) -> Results:
        return interp.patch(model, prompts, "heads", metric=["log_prob", "logit_diff"])

    return interp.compare(*models, sweep)


def effects(results: Results, column: str = "effect") -> pd.DataFrame:
    """Cells by examples."""
    table = results.frame.astype(dict.fromkeys(BY, str))
    return table.pivot_table(index=BY, columns="example", values=column, sort=False)


def refusal(call: Callable[..., object], *args: Any) -> str:
    with pytest.raises(ResultsError) as caught:
        call(*args)
    return str(caught.value)


def says(text: str, *parts: str) -> None:
    assert not [part for part in parts if part not in text], text


# the numbers


def test_the_difference_by_hand(compared):
    """Of the summary: means, interval and p of the paired difference of two tables."""
    mine, theirs = effects(compared.first), effects(compared.second)
    apart = (theirs - mine).to_numpy()
    table = compared.summary().set_index(BY).loc[mine.index]
    assert np.allclose(table["first"], mine.mean(axis=1), rtol=0, atol=1e-15)
    assert np.allclose(table["second"], theirs.mean(axis=1), rtol=0, atol=1e-15)
    assert np.allclose(table["difference"], apart.mean(axis=1), rtol=0, atol=1e-15)
    cluster = np.arange(N) // 2
    low, high = stats.mean_interval(apart, cluster)
    p = stats.sign_flip_p(apart, cluster)
    for name, by_hand in (("low", low), ("high", high), ("p", p), ("q", stats.fdr(p))):
        assert np.allclose(table[name], by_hand, rtol=0, atol=1e-12)
    assert set(table["n"]) == {N} and set(table["clusters"]) == {CLUSTERS}


def test_it_is_minus(compared):
    """The table's own difference, with the models the other way round."""
    other = compared.second.minus(compared.first, ignoring=["model"])
    table = compared.summary()
    assert table["site"].tolist() == other["site"].tolist()
    for mine, theirs in (("difference", "value"), ("low", "low"), ("high", "high"), ("q", "q")):
        assert np.allclose(table[mine], other[theirs], rtol=0, atol=1e-15)


def ratio(effect: Float[ndarray, "cell example"], base: Float[ndarray, "cell example"]) -> ndarray:
    return effect.mean(axis=1) / base.mean(axis=1)


def test_shares_by_hand(compared):
    """Differences of ratios of means; the variance is that of the ratios, by the jackknife."""
    chosen = Comparison(
        *(t.query("metric == 'log_prob'") for t in (compared.first, compared.second))
    )
    sides = [
        [effects(t, column).to_numpy() for column in ("effect", "base")]
        for t in (chosen.first, chosen.second)
    ]
    table, shares = chosen.summary(), chosen.relative.summary()
    one, other = (ratio(*side) for side in sides)
    assert np.allclose(table["first_share"], one, rtol=0, atol=1e-14)
    assert np.allclose(table["second_share"], other, rtol=0, atol=1e-14)
    assert np.allclose(table["share_difference"], other - one, rtol=0, atol=1e-14)
    assert np.array_equal(table["share_low"], shares["low"])
    assert np.array_equal(table["share_p"], shares["p"])
    assert set(shares["metric"]) == {"share of log-probability (nats)"}
    # each cluster left out
    left = []
    for c in range(CLUSTERS):
        kept = np.arange(N) // 2 != c
        a, b = (ratio(*(x[:, kept] for x in side)) for side in sides)
        left.append(b - a)
    off = np.stack(left, axis=1) - (other - one)[:, None]
    error = np.sqrt(np.square(off).sum(axis=1) * (CLUSTERS - 1) / CLUSTERS)
    each = effects(chosen.relative).to_numpy().reshape(len(table), CLUSTERS, 2).mean(axis=2)
    linear = each.std(axis=1, ddof=1) / np.sqrt(CLUSTERS)
    assert np.allclose(linear, error, rtol=0.1)


def test_shares_do_not_know_the_scale(models, prompts):
    """A model whose logits are all twice as large has the same shares, and twice the effects."""
    one = models[0]
    other = copy.deepcopy(one)
    with torch.no_grad():
        other.bridge.original_model.lm_head.weight.mul_(2)
    found = interp.compare(
        one, other, lambda m: interp.ablate(m, prompts, "mlps", method="zero", metric="logit_diff")
    )
    table = found.summary()
    assert np.allclose(table["second"], 2 * table["first"], rtol=1e-9)
    share = [
        effects(side).mean(axis=1) / effects(side, "base").mean(axis=1)
        for side in (found.first, found.second)
    ]
    assert np.allclose(*share, rtol=1e-9)


def test_one_model_twice_is_zero(models, prompts):
    one = models[0]
    for sweep in (
        lambda m: interp.patch(m, prompts, "heads", metric="log_prob"),
        lambda m: interp.path_patch(m, prompts, senders="heads", metric="log_prob"),
    ):
        found = interp.compare(one, one, sweep).summary()
        for name in ("difference", "low", "high", "share_difference", "share_low", "share_high"):
            assert not found[name].any()
        assert set(found["p"]) == set(found["share_q"]) == {1.0}


def test_the_order_of_cells_does_not_matter(compared, models, prompts):
    def sweep(model: interp.Model) -> Results:
        heads = [f"{i // 6}.{i % 6}" for i in range(18)]
        turned = heads if model is models[0] else heads[::-1]
        return interp.patch(model, prompts, turned, metric=["log_prob", "logit_diff"])

    table = interp.compare(*models, sweep).summary().set_index(BY)
    other = compared.summary().set_index(BY).loc[table.index]
    numbers = table.select_dtypes("float64").columns
    assert len(numbers) == 14
    assert np.allclose(table[numbers], other[numbers], rtol=1e-9, atol=1e-12, equal_nan=True)


def test_what_was_not_intervened_on_is_compared_as_it_is(models, prompts):
    found = interp.compare(*models, lambda m: interp.evaluate(m, prompts, metric="log_prob"))
    table = found.summary()
    for i, side in enumerate(("clean", "corrupt")):
        one, other = (
            t.frame.query(f"position == {side!r}")["value"].to_numpy()
            for t in (found.first, found.second)
        )
        assert table["difference"][i] == pytest.approx((other - one).mean(), abs=1e-14)
    assert table.filter(like="share").isna().to_numpy().all()
    assert set(found.absolute.frame["metric"]) == {"log_prob"}
    says(refusal(lambda: found.relative), "nothing was intervened on by 'evaluate'", "absolute")


def test_a_share_of_nothing(models, prompts):
    """Random models do not tell the answers apart."""
    found = interp.compare(*models, lambda m: interp.patch(m, prompts, "mlps"))
    assert found.summary().filter(like="share").isna().to_numpy().all()
    says(refusal(lambda: found.relative), "the base of 'logit_diff' is", "not apart from 0")


def test_shares_where_there_are_any(compared):
    """Those of one metric stand, whatever the other is."""
    table = compared.summary()
    known = table["metric"] == "log_prob"
    assert table.loc[known, "share_q"].notna().all()
    assert table.loc[~known].filter(like="share").isna().to_numpy().all()
    assert np.allclose(
        table.loc[known, "share_q"], stats.fdr(table.loc[known, "share_p"].to_numpy())
    )


def test_rows_that_were_chosen_are_of_their_family(models, prompts):
    def sweep(model: interp.Model) -> Results:
        return interp.patch(model, prompts, "heads", metric="log_prob").query("layer == 1")

    found = interp.compare(*models, sweep)
    assert set(found.absolute.summary()["family"]) == {18}
    assert len(found.summary()) == 6


# the table as results


def test_figures_draw_it(compared):
    chosen = Comparison(
        *(t.query("metric == 'log_prob'") for t in (compared.first, compared.second))
    )
    for table, said in (
        (chosen.absolute, "change in effect on log-probability (nats)"),
        (chosen.relative, "change in share of log-probability (nats)"),
    ):
        heads, bars = interp.figures.heads(table), interp.figures.bars(table)
        assert said in bars.axes[0].get_xlabel()
        assert said in [" ".join(text.get_text().split()) for text in heads.findobj(Text)]
    assert chosen.absolute.grid().shape == (3, 6)
    assert len(chosen.absolute.top(3)) == 3


def test_it_says_where_it_came_from(compared, tmp_path):
    one, other = compared.first.provenance, compared.second.provenance
    note = compared.absolute.provenance
    assert note["first"]["weights"] == one["weights"] != other["weights"]
    assert note["second"]["weights"] == other["weights"]
    assert note["model"] == "LlamaForCausalLM (in memory) -> LlamaForCausalLM (in memory)"
    assert compared.absolute.resolution["effect on logit difference"] == pytest.approx(
        one["resolution"]["logit_diff"] + other["resolution"]["logit_diff"]
    )
    compared.absolute.save(tmp_path / "kept")
    assert Results.load(tmp_path / "kept").provenance == note
    compared.save(tmp_path / "both")
    assert Comparison.load(tmp_path / "both").summary().equals(compared.summary())


def test_examples_keep_their_numbers(models, prompts):
    def sweep(model: interp.Model) -> Results:
        found = interp.patch(model, prompts, ["1.mlp"], metric="log_prob")
        return found.query("example % 2 == 1")

    found = interp.compare(*models, sweep)
    assert found.absolute.frame["example"].tolist() == list(range(1, N, 2))
    assert found.absolute.frame["cluster"].tolist() == [f"c{i:02}" for i in range(CLUSTERS)]


# what is refused


def test_results_of_another_model(models, prompts):
    first, _ = models
    found = refusal(interp.compare, *models, lambda _: interp.patch(first, prompts, "mlps"))
    says(found, "was given LlamaForCausalLM", first.weight_hash[:8], models[1].weight_hash[:8])
    says(found, "Use the model that the sweep is given")
    kept = interp.patch(first, prompts, "mlps")
    bare = Results(kept.frame, {"pairs": kept.provenance["pairs"]})
    says(refusal(interp.compare, first, first, lambda _: bare), "gives results of None")


def test_a_model_with_a_hook_that_nobody_can_read(prompts):
    """Its hash is another at each look, and its results are its own all the same."""
    model = interp.load(tiny.build("llama"))
    beside = iter(range(10**9))

    def hook(*args: Any) -> Any:
        next(beside)
        return args[2]

    model.bridge.original_model.model.layers[0].mlp.register_forward_hook(hook)
    found = interp.compare(
        model, model, lambda m: interp.patch(m, prompts, ["1.mlp"], metric="log_prob")
    )
    assert not found.summary()["difference"].any()


@pytest.mark.parametrize("found", [None, 3, pd.DataFrame(), "text"])
def test_no_results(found, models):
    says(refusal(interp.compare, *models, lambda _: found), "the sweep gives", "Results")


def test_no_sweep(models):
    with pytest.raises(ArgumentError, match="sweep='heads' is a str"):
        interp.compare(*models, "heads")
    with pytest.raises(ArgumentError, match="second='gpt2' is a str"):
        interp.compare(models[0], "gpt2", lambda m: m)


def differing(models: tuple[interp.Model, interp.Model], one: Any, other: Any) -> str:
    return refusal(interp.compare, *models, lambda m: (one if m is models[0] else other)(m))


def test_other_cells(models, prompts):
    patch = interp.patch
    found = differing(
        models, lambda m: patch(m, prompts, "heads"), lambda m: patch(m, prompts, "mlps")
    )
    says(found, "have 18 and 3 cells, and of 21 there is no", "first model alone is {'method'")
    found = differing(
        models, lambda m: patch(m, prompts, ["0.mlp"]), lambda m: patch(m, prompts, ["1.mlp"])
    )
    says(found, "have 1 and 1 cells", "no counterpart", "'site': '0.mlp'")
    found = differing(
        models,
        lambda m: patch(m, prompts, "mlps", metric="log_prob"),
        lambda m: patch(m, prompts, "mlps"),
    )
    says(found, "no counterpart", "'metric': 'log_prob'")


def test_other_prompts(models, prompts):
    half, rest = prompts.select(range(12)), prompts.select(range(12, 24))
    found = differing(
        models, lambda m: interp.patch(m, half, "mlps"), lambda m: interp.patch(m, rest, "mlps")
    )
    says(found, half.fingerprint, rest.fingerprint, "outside of the sweep", "Results.minus")
    found = differing(
        models,
        lambda m: interp.patch(m, prompts, "mlps").query("example < 12"),
        lambda m: interp.patch(m, prompts, "mlps").query("example >= 12"),
    )
    says(found, "not measured on the same examples")


def test_cells_that_stand_twice(compared):
    twice = Results.concat([compared.first.named("a"), compared.first.named("b")])
    found = refusal(Comparison, twice, twice)
    says(found, "the first model's table has {'method': 'patch', 'site': '0.0'", "more than once")
    other = Results.concat(
        [compared.second.query("site == '0.0'"), compared.second.query("site != '0.0'")]
    )
    assert len(Comparison(compared.first, other).summary()) == 36
