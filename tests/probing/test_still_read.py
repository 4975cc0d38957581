"""What a probe reads on words that an erasure was not fitted to."""

import numpy as np
import pytest
import torch

from interp.core.errors import ProbeError
from interp.core.parts.sites import Site
from interp.probing.use.erasure import HeldOut, erasers
from interp.probing.use.leace import leace
from interp.probing.use.still_read import still_read

SITE = Site.parse("1.resid_post")
WIDTH, CLASSES = 40, 4
HALF = HeldOut({SITE: torch.eye(4)}, torch.tensor([0, 1, 0, 1]), ["a", "a", "b", "b"])


def words(n: int, seed: int, *, gap: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Words whose classes have means of their own, the same for every seed; classes 4:3:2:1."""
    means = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    share = torch.tensor([0.4, 0.3, 0.2, 0.1])
    y = torch.multinomial(share, n, replacement=True, generator=generator)
    return gap * means[y] + torch.randn(n, WIDTH, generator=generator), y


def held(n: int = 3000, seed: int = 1, **kwargs: float) -> HeldOut:
    x, y = words(n, seed, **kwargs)
    return HeldOut({SITE: x}, y, [f"d{i % 20}" for i in range(n)])


def test_with_few_words_the_property_is_still_read_and_with_many_it_is_not():
    other = held()
    after = {}
    for n in (60, 300, 20_000):
        x, y = words(n, 2)
        table = still_read({"leace": {SITE: leace(x, y)}}, other).summary()
        value = table.set_index(["probe", "subset"])["value"]
        assert value["linear", "before"] > 0.9
        assert value["majority", "all"] == pytest.approx(0.4, abs=0.03)
        after[n] = value["linear", "after leace"]
    assert after[60] > after[300] + 0.1 > after[20_000] + 0.2
    assert after[20_000] < 0.4 + 0.03


def test_the_erasers_carry_what_is_left():
    x, y = words(2000, 2)
    types = [f"w{i % 300}" for i in range(2000)]
    found = erasers({SITE: x}, y, types=types, held_out=held(), draws=3)
    report = found.report.set_index("erased")
    assert list(report.index) == ["leace", "random", "same variance", "control task"]
    assert report.loc["leace", "after"] < 0.55 < 0.8 < report.loc["random", "after"]
    assert (report["before"] == report["before"].iloc[0]).all()
    assert ((report["low"] <= report["after"]) & (report["after"] <= report["high"])).all()
    assert (report["n"] == 3000).all() and (report["clusters"] == 20).all()
    assert (report["words"] == 2000).all() and not found.notes
    scores = found.read.summary().set_index("subset")
    assert scores.loc["after random 1", "value"] == report.loc["random", "after"]
    assert len(scores) == 6  # before, four kinds by their first draw, and the majority


def test_nothing_is_read_of_labels_that_mean_nothing():
    """Before as after: the majority, but for what few words teach a probe."""
    other = held(gap=0.0)
    x, y = words(2000, 2, gap=0.0)
    value = still_read({"leace": {SITE: leace(x, y)}}, other).summary().set_index("subset")["value"]
    assert value["before"] < value["all"] + 0.02 and value["after leace"] < value["all"] + 0.02


def test_a_document_is_asked_of_no_probe_that_was_fitted_to_it():
    """A label that each document shows in another direction is read in no other document."""
    x, y = torch.zeros(60, 3), torch.arange(60) % 2
    for i in range(60):
        x[i, i // 20] = 2.0 * (y[i] == 1) - 1
    names = [f"d{i // 20}" for i in range(60)]
    fit = {"leace": {SITE: leace(torch.randn(60, 3), y)}}
    apart = still_read(fit, HeldOut({SITE: x}, y, names)).summary().set_index("subset")
    assert apart.loc["before", "value"] <= 0.5
    # with groups of their own, the documents are only what is resampled
    mixed = HeldOut({SITE: x}, y, names, [str(i) for i in range(60)])
    table = still_read(fit, mixed).summary().set_index("subset")
    assert table.loc["before", "value"] == 1 and table.loc["before", "clusters"] == 3


def test_folds_are_whole_groups_of_about_equal_number():
    names = [f"d{i}" for i in range(12) for _ in range(3)]
    other = HeldOut({SITE: torch.randn(36, 2)}, torch.arange(36) % 2, names)
    part = other.folds(5, seed=0)
    assert sorted(np.bincount(part).tolist()) == [6, 6, 6, 9, 9]
    assert all(len(set(part[3 * i : 3 * i + 3])) == 1 for i in range(12))
    assert other.folds(50, seed=0).max() == 11
    assert (other.folds(5, seed=0) == part).all() and (other.folds(5, seed=1) != part).any()


def test_some_words_that_were_fitted_to_are_counted():
    x, y = words(200, 0)
    other = held(400)
    mixed = torch.cat([x[:7], other.x[SITE][7:]])
    asked = HeldOut({SITE: mixed}, other.labels, other.cluster)
    assert (
        "7 of 400 held-out words were fitted to as well."
        in erasers({SITE: x}, y, held_out=asked, draws=3).notes
    )
    # all words of one token have one embedding
    erasers({"0.resid_pre": x}, y, held_out=HeldOut({"0.resid_pre": mixed}, *_of(other)), draws=3)
    same = HeldOut({"0.resid_pre": torch.cat([x, x])}, *_of(other))
    assert not [
        n for n in erasers({"0.resid_pre": x}, y, held_out=same, draws=3).notes if "fitted" in n
    ]


def _of(other: HeldOut):
    return other.labels, other.cluster


def test_bad_input():
    x, y = words(200, 0)
    erase = leace(x, y)
    with pytest.raises(ProbeError, match="200 of 1.resid_post, 200 of labels, 199 of cluster"):
        HeldOut({SITE: x}, y, ["a"] * 199)
    with pytest.raises(ProbeError, match="200 held-out words are all of one document"):
        HeldOut({SITE: x}, y, ["a"] * 200)
    far = torch.cat([x, torch.full((3, WIDTH), 1e4)])
    with pytest.raises(ProbeError, match="at '1.resid_post' 3 of 203 words .*attention sinks"):
        HeldOut({SITE: far}, torch.cat([y, y[:3]]), [str(i) for i in range(203)])
    mixed = torch.cat([x[:100].flip(0), words(100, 9)[0]])
    for again, other in ((200, x), (100, mixed)):
        with pytest.raises(ProbeError, match=f"{again} of the 200 held-out words are among those"):
            erasers({SITE: x}, y, held_out=HeldOut({SITE: other}, y, [str(i) for i in range(200)]))
    other = held(400)
    with pytest.raises(ProbeError, match="no activations at '2.mlp', where something is erased"):
        still_read({"leace": {"2.mlp": erase}}, other)
    with pytest.raises(ProbeError, match="'leace' erases vectors of 4 numbers .* words have 40"):
        still_read({"leace": {SITE: leace(x[:, :4], y)}}, other)
    with pytest.raises(ProbeError, match="all 400 held-out words have the same label"):
        still_read(
            {"leace": {SITE: erase}},
            HeldOut(other.x, torch.zeros_like(other.labels), other.cluster),
        )
    with pytest.raises(ProbeError, match="without part . of 2 all held-out words have the same"):
        still_read(
            {"leace": {SITE: leace(torch.eye(4), HALF.labels)}},
            HeldOut(HALF.x, torch.tensor([0, 0, 0, 1]), HALF.cluster),
        )
