"""LEACE's theorem, its controls, and what is refused."""

import numpy as np
import pytest
import torch
from concept_erasure import LeaceFitter
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from interp.core.errors import ProbeError
from interp.core.parts.sites import Site
from interp.engine.interventions import Erase
from interp.probing.use.erasure import erasers, leace, probe_directions, random_directions, sinks

WORDS, WIDTH, CLASSES = 600, 13, 4


def labelled(seed: int = 0, classes: int = CLASSES) -> tuple[torch.Tensor, torch.Tensor]:
    """Words with correlated features of very different sizes, one of them huge; classes shifted."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (WORDS,), generator=generator)
    means = torch.randn(classes, WIDTH, generator=generator, dtype=torch.float64)
    noise = torch.randn(WORDS, WIDTH, generator=generator, dtype=torch.float64)
    mixed = torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64)
    x = (2 * means[y] + noise) @ mixed * torch.logspace(2, -2, WIDTH, dtype=torch.float64)
    return x + 500 * (torch.arange(WIDTH) == 0), y


def covariance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    z = torch.nn.functional.one_hot(y.unique(return_inverse=True)[1]).double()
    return (x - x.mean(0)).T @ (z - z.mean(0)) / len(x)


def accuracy(x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """Of a nearly unpenalised logistic regression, and the largest of its coefficients.

    On the features scaled to unit variance, which is a linear map of them.
    """
    scaled = ((x - x.mean(0)) / x.std(0).clamp_min(1e-9)).numpy()
    fitted = LogisticRegression(C=1e4, max_iter=5000, tol=1e-10).fit(scaled, y.numpy())
    return float(fitted.score(scaled, y.numpy())), float(np.abs(fitted.coef_).max())


def majority(y: torch.Tensor) -> float:
    return int(y.bincount().max()) / len(y)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 9))
def test_no_covariance_is_left_and_twice_is_once(seed, classes):
    x, y = labelled(seed, classes)
    erase = leace(x, y)
    after = erase.of(x)
    assert erase.rank == classes - 1
    assert covariance(x, y).abs().max() > 1e-2
    assert covariance(after, y).abs().max() <= 1e-6
    torch.testing.assert_close(erase.of(after), after, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(after.mean(0), x.mean(0), rtol=1e-9, atol=1e-9)


def test_no_linear_classifier_beats_the_constant_one():
    x, y = labelled()
    before, _ = accuracy(x, y)
    after, largest = accuracy(leace(x, y).of(x), y)
    assert before > 0.95
    assert after == majority(y)
    assert largest < 1e-4


@pytest.mark.plain
def test_random_directions_leave_the_label_readable():
    """Of the same number; after as many as there are dimensions nothing is left at all."""
    x, y = labelled()
    erase = leace(x, y)
    found = [
        accuracy(random_directions(x, rank=erase.rank, seed=seed).of(x), y)[0] for seed in range(3)
    ]
    assert min(found) > majority(y) + 0.3
    everything = random_directions(x, rank=WIDTH).of(x)
    torch.testing.assert_close(everything, x.mean(0).expand_as(x), rtol=1e-9, atol=1e-9)


def test_it_changes_less_than_other_projections_that_erase():
    """In every quadratic norm (Belrose et al. 2023, Thm. 4.3): the inverse covariance is one."""
    x, y = labelled()
    z = torch.nn.functional.one_hot(y).double()
    orth = LeaceFitter.fit(x, z[:, :-1], method="orth", svd_tol=1e-10).eraser
    random = torch.randn(
        WIDTH, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    others = {"orth": orth(x), "mean of all": x.mean(0).expand_as(x)}
    for name, other in others.items():
        assert covariance(other, y).abs().max() < 1e-6, name
    norms = {
        "identity": torch.eye(WIDTH, dtype=torch.float64),
        "inverse covariance": torch.linalg.inv(x.T.cov()),
        "some other": random @ random.T,
    }
    ours = leace(x, y).of(x)
    for norm, m in norms.items():
        size = {name: ((a - x) @ m * (a - x)).sum(1).mean() for name, a in others.items()}
        least = ((ours - x) @ m * (ours - x)).sum(1).mean()
        assert least < min(size.values()) * (1 + 1e-9), norm
        assert least < 0.99 * size["mean of all"]


def test_it_is_the_formula_of_the_paper():
    """r(x) = x - W+ P W (x - mean), P the projection onto the columns of W Sigma_xz."""
    x, y = labelled()
    values, vectors = torch.linalg.eigh(x.T.cov())
    whiten, back = ((vectors * values**power) @ vectors.T for power in (-0.5, 0.5))
    a = whiten @ covariance(x, y)
    projection = a @ torch.linalg.pinv(a, rtol=1e-9)
    expected = x - (x - x.mean(0)) @ (back @ projection @ whiten).T
    torch.testing.assert_close(leace(x, y).of(x), expected, rtol=1e-7, atol=1e-7)


def test_many_words_are_taken_a_part_at_a_time(monkeypatch):
    x, y = labelled()
    whole = leace(x, y).of(x)
    monkeypatch.setattr("interp.probing.use.leace.WORDS", 77)
    torch.testing.assert_close(leace(x, y).of(x), whole, rtol=1e-8, atol=1e-8)


def test_labels_may_be_any_numbers_and_the_features_single():
    x, y = labelled()
    named = torch.tensor([7, -3, 40, 0])[y]
    torch.testing.assert_close(leace(x, named).of(x), leace(x, y).of(x), rtol=1e-7, atol=1e-7)
    single = x.float()
    erase = leace(single, y)
    assert erase.left.dtype == torch.float64
    assert covariance(erase.of(single.double()), y).abs().max() <= 1e-6


def test_fewer_words_than_dimensions():
    """The theorem is of the words that are given, and of these it holds."""
    x, _ = labelled()
    few, of = x[:9], torch.tensor([0, 1, 2] * 3)
    after = leace(few, of).of(few)
    assert covariance(after, of).abs().max() <= 1e-6


def test_classes_on_a_line_take_one_direction():
    """Rank is that of the class means: six classes that differ along one axis."""
    generator = torch.Generator().manual_seed(3)
    y = torch.arange(6).repeat(100)
    x = torch.randn(600, 5, generator=generator, dtype=torch.float64)
    x -= torch.linalg.lstsq(torch.nn.functional.one_hot(y).double(), x).solution[y]
    x[:, 2] += y
    erase = leace(x, y)
    assert erase.rank == 1
    assert covariance(erase.of(x), y).abs().max() <= 1e-6


@pytest.mark.plain
def test_directions_of_a_probe():
    """Of three classes: two directions, and the probe's own answers are then all the same."""
    x, y = labelled(classes=3)
    fitted = LogisticRegression(C=1, max_iter=5000).fit(x.numpy(), y.numpy())
    weight = torch.from_numpy(fitted.coef_).T.contiguous() + 7  # which moves no probability
    erase = probe_directions(x, weight)
    assert erase.rank == 2
    after = erase.of(x)
    logits = after @ (weight - weight.mean(1, keepdim=True))
    assert logits.std(0).max() < 1e-9
    torch.testing.assert_close(erase.right @ erase.left, torch.eye(2, dtype=torch.float64))
    assert (erase.left.T - erase.right).abs().max() == 0  # orthogonal


FIRST, SECOND = Site.parse("0.resid_post"), Site.parse("1.mlp")


def types_of(y: torch.Tensor, count: int = 60) -> list[str]:
    """Word types without a part in the label."""
    return [f"w{i % count}" for i in range(len(y))]


def test_all_kinds_at_all_sites():
    x, y = labelled()
    sites = {FIRST: x, SECOND: x.flip(1)}
    weights = {site: here[:CLASSES].T.contiguous() for site, here in sites.items()}
    found = erasers(sites, y, types=types_of(y), weights=weights, draws=3, seed=5)
    assert list(found) == ["leace", "probe", "random", "same variance", "control task"]
    assert len(found) == 5 and list(found.erased) == ["leace", "probe"]
    assert all(list(found[kind]) == list(sites) for kind in ("leace", "probe"))
    for kind in found.controls:
        assert len(found[kind]) == 3 and all(list(draw) == list(sites) for draw in found[kind])
    ranks = {e.rank for of in found.erased.values() for e in of.values()}
    ranks |= {e.rank for of in found.controls.values() for draw in of for e in draw.values()}
    assert ranks == {CLASSES - 1}
    for site, here in sites.items():
        assert covariance(found.erased["leace"][site].of(here), y).abs().max() <= 1e-6
        assert isinstance(found.controls["random"][0][site], Erase)


def test_each_draw_has_a_stream_of_its_own():
    """What a draw is depends on the seed, the control and the site, not on what else is asked."""
    x, y = labelled()
    one = erasers({FIRST: x, SECOND: x}, y, types=types_of(y), draws=3, seed=5).controls
    again = erasers({SECOND: x}, y, types=types_of(y), draws=2, seed=5).controls
    other = erasers({SECOND: x}, y, types=types_of(y), draws=2, seed=6).controls
    for kind, draws in one.items():
        first, second = (draw[SECOND].left @ draw[SECOND].right for draw in draws[:2])
        same, new = (of[kind][1][SECOND] for of in (again, other))
        torch.testing.assert_close(second, same.left @ same.right, rtol=1e-9, atol=1e-9)
        assert (second - new.left @ new.right).abs().max() > 1e-3
        assert (second - first).abs().max() > 1e-3
    for kind in ("random", "same variance"):
        assert not torch.equal(one[kind][0][FIRST].left, one[kind][0][SECOND].left)
    # labels of word types, so the same at every site
    assert torch.equal(one["control task"][0][FIRST].left, one["control task"][0][SECOND].left)


def test_the_control_of_the_same_variance_moves_as_much_as_leace():
    x, y = labelled()
    found = erasers({FIRST: x}, y, types=types_of(y), draws=4)
    leace_, random, same, task = found.report.set_index("erased")["variance"]
    after = found.erased["leace"][FIRST].of(x)
    by_hand = (x - after).square().sum() / (x - x.mean(0)).square().sum()
    assert leace_ == pytest.approx(float(by_hand), rel=1e-9)
    for draw in found.controls["same variance"]:
        moved = (x - draw[FIRST].of(x)).square().sum() / (x - x.mean(0)).square().sum()
        assert float(moved) == pytest.approx(leace_, rel=1e-3)
    assert same == pytest.approx(leace_, rel=1e-3)
    assert abs(random - leace_) > 0.05 and task != leace_


def test_of_labels_that_mean_nothing_leace_takes_no_more_than_of_a_control_task():
    """Nothing is there: the real labels are one more draw of labels of word types."""
    generator = torch.Generator().manual_seed(11)
    wide = torch.randn(2000, 40, generator=generator) * torch.logspace(1, -1, 40)
    types = types_of(wide, 500)
    label = torch.randint(5, (500,), generator=generator)
    y = torch.tensor([int(label[int(t[1:])]) for t in types])
    found = erasers({FIRST: wide}, y, types=types, draws=8)
    share = found.report.set_index("erased")["variance"]
    s = sum(wide.T.cov().diagonal())
    task = [
        float((e[FIRST].left @ e[FIRST].right @ wide.T.cov().double()).trace() / s)
        for e in found.controls["control task"]
    ]
    assert share["control task"] == pytest.approx(np.mean(task), rel=1e-3)
    off = (share["leace"] - np.mean(task)) / (np.std(task, ddof=1) * (1 + 1 / 8) ** 0.5)
    assert abs(off) < 3


def test_what_could_not_be_had_is_said():
    x, y = labelled()
    found = erasers({FIRST: x}, y)
    assert "control task" not in found and len(found["random"]) == 8
    assert found.notes[0] == "No control task: types= was not given."
    assert "before" not in found.report and found.read is None
    assert "held_out= was not given" in repr(found) and "held_out= was not" in found._repr_html_()
    assert "0.resid_post" in repr(found)
    one = erasers({FIRST: x}, y, types=["the"] * WORDS, draws=2)
    assert one.notes[0] == "No control task: 1 word types get the same label almost always."
    assert found.get("probe") is None
    with pytest.raises(ProbeError, match=r"no 'control task'; .* No control task: types= was not"):
        found["control task"]
    with pytest.raises(ProbeError, match=r"have no 'rand'; did you mean 'random'\?"):
        found["rand"]


def test_attention_sinks_are_refused():
    """Fifteen words far out, as the first tokens of rows are: they would decide alone."""
    x, y = labelled()
    site = Site.parse("3.resid_post")
    far = x.clone()
    far[100:115] += 1e5 * x[7].sign()
    with pytest.raises(ProbeError) as caught:
        erasers({site: far}, y)
    assert caught.match(
        r"at '3.resid_post' 15 of 600 words \(the first is word 100\) lie up to \d+"
    )
    assert caught.match(r"100% of the variance: likely attention sinks.*features.word > 0")
    keep = (torch.arange(WORDS) < 100) | (torch.arange(WORDS) >= 115)
    assert torch.equal(~sinks(far), keep) and not sinks(x).any()
    assert erasers({site: far[keep]}, y[keep])["leace"][site].rank == CLASSES - 1
    assert leace(far, y).rank == CLASSES - 1  # the theorem itself asks for nothing
    one = x.clone()
    one[3] += 25 * (x - x.median(0).values).norm(dim=1).median() * torch.eye(WIDTH)[1]
    assert erasers({site: one}, y)["leace"][site].rank == CLASSES - 1  # a single one decides little


def test_bad_input():
    x, y = labelled()
    with pytest.raises(ProbeError, match=r"all 600 words have the same label \(2\)"):
        leace(x, torch.full_like(y, 2))
    with pytest.raises(ProbeError, match="600 words and 599 labels"):
        leace(x, y[1:])
    with pytest.raises(ProbeError, match="are of no word or of no dimension"):
        leace(x[:0], y[:0])
    bad = x.clone()
    bad[41, 3] = torch.nan
    for call in (lambda: leace(bad, y), lambda: random_directions(bad, rank=2)):
        with pytest.raises(ProbeError, match="activations of word 41 hold NaN or infinity"):
            call()
    with pytest.raises(ProbeError, match="cannot take 14 of 13 directions"):
        random_directions(x, rank=14)
    with pytest.raises(ProbeError, match=r"weight is \(12, 4\).*have 13 dimensions"):
        probe_directions(x, torch.randn(12, 4))
    with pytest.raises(ProbeError, match="classes all have the same weights"):
        probe_directions(x, torch.ones(13, 4))
    with pytest.raises(ProbeError, match="600 words have labels and 3 have types"):
        erasers({Site.parse("1.mlp"): x}, y, types=["a", "b", "c"])
    with pytest.raises(ProbeError, match=r"has no probe of '1.mlp'"):
        erasers({Site.parse("1.mlp"): x}, y, weights={})


def test_covariance_that_is_left_is_said():
    """A feature so huge that the others are below its last digit."""
    x, y = labelled()
    huge = 1e14 * torch.arange(WORDS, dtype=torch.float64)[:, None].sin()
    with pytest.raises(ProbeError, match=r"LEACE left a covariance of .*feature 0 \(of 13"):
        leace(torch.cat([x, huge], 1), y)


def test_a_constant_feature_is_no_trouble():
    x, y = labelled()
    x[:, 4] = 1 / 3
    after = leace(x, y).of(x)
    assert covariance(after, y).abs().max() <= 1e-6
    torch.testing.assert_close(after[:, 4], x[:, 4])
