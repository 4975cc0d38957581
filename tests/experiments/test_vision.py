"""The numbers of `vision` on tiny cases."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pictures import pictures

import interp
from experiments.vision import Config, run
from experiments.vision.measured import PATCHES, agreement, attended, brought, joint, lost, ranked
from experiments.vision.probes import CLASS, PIXELS, SHUFFLED, probed, streams
from experiments.vision.report import accuracy, read
from interp.core.tables.results import Results
from interp.engine.interventions import Intervention, Set
from interp.models.digits import Compact, digits, scans
from interp.models.model import Model


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    return digits(tmp_path_factory.mktemp("digits"), shape=Compact(2, 2, 16, 16, 4), steps=40)


def value(results: Results, site: str, position: str) -> np.ndarray:
    frame = results.frame
    return frame[(frame["site"] == site) & (frame["position"] == position)]["value"].to_numpy()


def test_in_the_last_layer_a_value_that_is_set_is_a_patch_that_is_not_brought(tiny_model, tmp_path):
    """Nothing but the class token is read there, so the value itself may be exchanged."""
    model = tiny_model("deit")
    pairs = pictures("deit", model).pairs
    found = brought(model, pairs, tmp_path)
    names = model.facts.image.names
    assert len(found.frame) == (3 * 3 + 3) * (len(names) + 1) * len(pairs)
    held = interp.capture(model, pairs, "2.1.v", positions="all", side="corrupt")
    mean = held["2.1.v"].mean(0)
    for at, name in enumerate(names):
        site = interp.Site.parse("2.1.v")
        own = {"set": [Intervention(site, Set(mean[at]), name)]}
        truth = interp.intervene(model, pairs, own).frame["value"].to_numpy()
        assert np.abs(value(found, "2.1", name) - truth).max() < 1e-10
    every = [Intervention(site, Set(mean[at]), name) for at, name in enumerate(names[2:], 2)]
    truth = interp.intervene(model, pairs, {"set": every}).frame["value"].to_numpy()
    assert np.abs(value(found, "2.1", PATCHES) - truth).max() < 1e-10
    assert found.frame["effect"].abs().max() > 1e-4


def test_a_layer_brings_what_all_its_heads_bring(tiny_model, tmp_path):
    model = tiny_model("vit")
    pairs = pictures("vit", model).pairs
    found = brought(model, pairs, tmp_path)
    sites = [interp.Site.parse(f"2.{head}.v") for head in range(3)]
    other = interp.capture(model, pairs, sites, positions="all", side="corrupt")
    both = [Intervention(site, Set(other[site].mean(0)[4]), "r1c0") for site in sites]
    truth = interp.intervene(model, pairs, {"all": both}).frame["value"].to_numpy()
    assert np.abs(value(found, "2.attn", "r1c0") - truth).max() < 1e-10


def test_attention_and_effects_are_ranked_by_head_and_patch(tiny_model, tmp_path):
    model = tiny_model("vit")
    pairs = pictures("vit", model).pairs
    effects, looks = brought(model, pairs, tmp_path), attended(model, pairs, tmp_path)
    found = agreement(looks, effects, seed=0)
    assert found["n"] == 9 * 9 and found["low"] <= found["value"] <= found["high"]
    a = looks.frame[looks.frame["position"].str.match("r")]
    e = effects.frame[effects.frame["position"].str.match("r") & effects.frame["head"].notna()]
    keys = ["site", "position"]
    both = pd.concat(
        [a.groupby(keys)["value"].mean(), e.groupby(keys)["effect"].mean().abs()], axis=1
    )
    truth = both.corr("spearman").to_numpy()[0, 1]
    assert found["value"] == pytest.approx(truth)
    line = np.arange(5.0)
    assert ranked(line, -(line**2)) == pytest.approx(1) and ranked(line, 5 - line) == pytest.approx(
        -1
    )


@pytest.mark.filterwarnings("ignore:mean ablation")
def test_heads_are_chosen_on_one_half_and_taken_away_on_the_other(model, tmp_path):
    pairs = interp.datasets.digits(model, n=40)
    single = lost(model, pairs, tmp_path)
    found = joint(model, pairs, single, draws=2, seed=3)
    choose, report = pairs.split(seed=3)
    assert set(found.frame["cluster"]) == set(report.cluster)
    table = interp.ablate(model, choose, "heads", method="mean", reference=pairs).summary()
    worst = table.nsmallest(3, "effect")["site"].tolist()
    assert sorted(found.provenance["sets"]["chosen"]) == sorted(worst)


def test_probes_read_the_class_and_not_shuffled_labels(model):
    scores = probed(model, seed=0)
    table = read(scores)
    last = table.sort_values("layer").groupby("curve").last()["value"]
    assert last[CLASS] > 0.5 and last[PIXELS] > 0.85
    assert last[SHUFFLED] < 0.25 and last["majority"] < 0.2
    assert set(table[table["curve"] == CLASS]["layer"]) == {1, 2}
    assert set(table["n"]) == {300}


def test_streams_are_those_of_the_class_token_and_the_mean_of_patches(model):
    images = scans(held_out=True).images[:4]
    pairs = interp.Pairs.from_images(model, clean=images, corrupt=images)
    held = interp.capture(model, pairs, "0.resid_post", positions="all")["0.resid_post"]
    found = streams(model, images)
    assert torch.equal(found[CLASS]["0.resid_post"], held[:, 0])
    assert torch.equal(found["patches"]["0.resid_post"], held[:, 1:].mean(1))
    assert "0.resid_pre" not in found[CLASS] and "0.resid_pre" in found["patches"]


def test_accuracy_is_the_share_of_ranks_of_nothing():
    frame = pd.DataFrame({"value": [0.0, 2.0, 0.0, 0.0], "example": range(4)})

    class Given:
        def __init__(self) -> None:
            self.frame = frame

    row = accuracy(Given())
    assert row["value"] == 0.75 and row["low"] < 0.75 < row["high"]


@pytest.mark.slow
def test_the_experiment_runs(tmp_path: Path):
    run(Config(size="smoke", out=tmp_path))
    [folder] = (tmp_path / "vision").iterdir()
    assert "held-out images" in (folder / "summary.md").read_text()
