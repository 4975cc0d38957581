"""The numbers of `adapters` on tiny cases: what adds up, and what does not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import peft
import pytest
import tiny
import torch
from safetensors.torch import load_file

import interp
from experiments.adapters import report
from experiments.adapters.measured import Measured, fit, overlap, sites_of, swept
from experiments.adapters.training import ALPHA, RANK, Amount, differences, train
from interp.core.prompts.pairs import Pairs
from interp.core.tables.results import Results

SIZE = Amount(steps=40, batch=8, learned=16, asked=24)
CLUSTERS = 12


@pytest.fixture(scope="module")
def prompts() -> Pairs:
    generator = torch.Generator().manual_seed(3)

    def rows() -> list[list[int]]:
        lengths = [6, 7] * CLUSTERS
        return [torch.randint(tiny.VOCAB, (n,), generator=generator).tolist() for n in lengths]

    return Pairs.from_tokens(
        clean=rows(),
        corrupt=rows(),
        correct=[3] * 2 * CLUSTERS,
        wrong=[4] * 2 * CLUSTERS,
        cluster=[f"c{i // 2:02}" for i in range(2 * CLUSTERS)],
    )


def test_training_turns_the_answers_round(prompts, tmp_path):
    base = tiny.build("llama")
    rows = list(range(len(prompts)))
    before = differences(base, prompts, rows)
    found = interp.evaluate(interp.load(tiny.build("llama")), prompts, metric="logit_diff")
    clean = found.frame.query("position == 'clean'")["value"].to_numpy()
    assert np.allclose(before.detach().numpy(), clean, atol=1e-5)
    on = train(base, prompts, SIZE, seed=0)
    after = differences(base, prompts, rows)
    assert after.mean() < before.mean() - 0.1
    on.save_pretrained(tmp_path / "turned")
    tiny.build("llama").save_pretrained(tmp_path / "base")
    model = interp.load(tmp_path / "base", adapter=tmp_path / "turned")
    found = interp.evaluate(model, prompts, metric="logit_diff")
    clean = found.frame.query("position == 'clean'")["value"].to_numpy()
    assert np.allclose(after.detach().numpy(), clean, atol=1e-4)


def test_a_training_is_its_seeds(prompts):
    states = [
        peft.get_peft_model_state_dict(
            train(tiny.build("llama"), prompts, Amount(2, 4, 8, 8), seed=seed)
        )
        for seed in (0, 0, 1)
    ]
    names = [*states[0]]
    assert all(torch.equal(states[0][n], states[1][n]) for n in names)
    assert not all(torch.equal(states[0][n], states[2][n]) for n in names)


@pytest.fixture(scope="module")
def folders(prompts, tmp_path_factory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("adapters")
    tiny.build("llama").save_pretrained(home / "base")
    for seed, name in enumerate(("agreement", "greater-than")):
        train(tiny.build("llama"), prompts, SIZE, seed=seed).save_pretrained(home / name)
    return {name: home / name for name in ("base", "agreement", "greater-than")}


def test_the_overlap_is_that_of_the_dense_changes(folders):
    one, other = folders["agreement"], folders["greater-than"]
    dense = []
    for folder in (one, other):
        state = {n: t.double() for n, t in load_file(folder / "adapter_model.safetensors").items()}
        keys = sorted(name for name in state if ".lora_A." in name)
        dense.append(
            {k: state[k.replace("lora_A", "lora_B")] @ state[k] * ALPHA / RANK for k in keys}
        )
    flat = [torch.cat([change.flatten() for change in d.values()]) for d in dense]
    cosine = (flat[0] @ flat[1] / flat[0].norm() / flat[1].norm()).item()
    found = overlap(one, other)
    assert found["cosine"]["value"] == pytest.approx(cosine, abs=1e-12)
    assert found["cosine"]["low"] < cosine < found["cosine"]["high"]
    assert len(found["by layer"]) == 3
    alone = overlap(one, one)
    assert alone["cosine"]["value"] == pytest.approx(1)
    assert alone["by layer"]["value"].to_numpy() == pytest.approx(np.ones(3))


@pytest.fixture(scope="module")
def base_tables(folders, prompts, tmp_path_factory) -> dict[str, Results]:
    kept = tmp_path_factory.mktemp("kept")
    given = {"base": [], "agreement": ["agreement"], "greater-than": ["greater-than"]}
    given["both"] = ["agreement", "greater-than"]
    found = {}
    for name, names in given.items():
        model = interp.load(folders["base"], adapter=[folders[one] for one in names] or None)
        sites = sites_of(model, 3)
        assert len(sites) == 18
        where = kept / name
        found[name] = swept(model, prompts, sites, task="agreement", name=name, checkpoint=where)
    return found


def made(tables: dict[str, Results], both: Callable[[dict[str, np.ndarray]], np.ndarray]):
    """The same tables, with numbers of both adapters that are made of the others'."""
    own = {}
    for column in ("effect", "base"):
        of = {name: table.frame[column].to_numpy() for name, table in tables.items()}
        own[column] = both(of)
    frame = tables["both"].frame.assign(**own)
    frame["value"] = frame["base"] + frame["effect"]
    changed = Results(frame, tables["both"].provenance)
    return Measured("agreement", "greater-than", {**tables, "both": changed})


def test_what_adds_up(base_tables):
    one = made(base_tables, lambda x: x["agreement"] + x["greater-than"] - x["base"])
    rows = one.behaviour().set_index("what")
    assert rows.loc["interaction", "value"] == pytest.approx(0, abs=1e-12)
    assert rows.loc["both", "value"] == pytest.approx(rows.loc["added", "value"])
    composed = one.composed()
    assert composed["slope"].tolist() == pytest.approx([1, 1, 1])
    assert composed["left"].tolist() == pytest.approx([0, 0, 0], abs=1e-12)
    table = one.interactions().summary()
    assert np.abs(table["effect"]).max() < 1e-12
    points = one.points()
    assert np.allclose(points["added"], points["together"], atol=1e-12)
    assert rows.loc["of the sum", ["value", "low", "high"]].tolist() == pytest.approx([1, 1, 1])
    assert report.verdict({"agreement": one}).startswith("**The adapters compose**")


def test_what_does_not(base_tables):
    """Both do what the one does, as if the other were not there."""
    one = made(base_tables, lambda x: x["agreement"])
    rows = one.behaviour().set_index("what")
    assert rows.loc["kept", "value"] == pytest.approx(1)
    other = rows.loc["the other's", "value"] - rows.loc["no adapter", "value"]
    assert rows.loc["interaction", "value"] == pytest.approx(-other)
    half = made(base_tables, lambda x: x["base"] + (x["agreement"] - x["base"]) / 2)
    assert half.behaviour().set_index("what").loc["kept", "value"] == pytest.approx(0.5)
    third = made(base_tables, lambda x: (x["base"] + x["agreement"] + x["greater-than"]) / 3)
    said = report.verdict({"agreement": third})
    assert said.startswith("**The adapters do not simply add up**") and "agreement: heads" in said


def test_a_fit_by_hand():
    own, other = np.array([1.0, 2.0, 0.0]), np.array([1.0, 0.0, 0.0])
    both = np.array([1.0, 1.0, 2.0])
    slope, left = fit(own, other, both)
    assert slope == pytest.approx(4 / 8)
    assert left == pytest.approx((1 + 1 + 4) / 6)


def test_the_tables_of_a_task(base_tables):
    one = Measured("agreement", "greater-than", base_tables)
    rows = one.behaviour().set_index("what")
    for name, what in one.models.items():
        plain = base_tables[name].frame.query("site == '0.0'")["base"]
        assert rows.loc[what, "value"] == pytest.approx(plain.mean())
        assert rows.loc[what, "right"] == pytest.approx((plain > 0).mean())
    assert rows.loc["its own", "value"] < rows.loc["no adapter", "value"]
    changed = one.changed("agreement")
    assert len(changed) == 5
    whole = one.compared("agreement").summary()
    by = base_tables["agreement"].minus(base_tables["base"], ignoring=["model"])
    assert np.allclose(whole["difference"], by["value"], atol=1e-12)
    said = report._task(one)
    assert "agreement" in said and "18 heads" in said
    assert not [word for word in ("{", "nan") if word in said]
