"""MLP-1 and the bilinear form on activations whose answer is known."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from interp.core.door.door import ArgumentError
from interp.core.errors import ProbeError
from interp.core.parts.sites import Site
from interp.probing.fit.nets.examples import Examples
from interp.probing.fit.nets.nets import Bilinear, Mlp, layer
from interp.probing.fit.nets.spans import SpanClassifier
from interp.probing.fit.nets.trained import TrainedProbe, fit_probe
from interp.probing.fit.nets.training import Schedule
from interp.probing.fit.scoring import bits, correct, score

SITES, WORDS, D = 3, 360, 7
FAST = Schedule(learning_rate=0.02, batch=40, epochs=40)


def gaussian(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def split(x: Tensor, y: Tensor, at: int = 240) -> tuple[Examples, Examples]:
    return Examples.of_words(x[:, :at], y[:, :at]), Examples.of_words(x[:, at:], y[:, at:])


def accuracy(probe: TrainedProbe, examples: Examples) -> np.ndarray:
    return correct(probe.log_probs(examples.x, examples.rows), examples.y).mean(-1)


# what they can and cannot learn


def test_separable_at_one_site_and_chance_at_the_others():
    x = gaussian(SITES, 900, D)
    y = (x[1] @ gaussian(D, 4, seed=1)).argmax(-1)
    train, test = split(x, torch.stack([y, y.roll(1)]), 600)
    probe = fit_probe(Mlp(32), train, test, schedule=FAST)
    found = accuracy(probe, test)
    assert found.shape == (SITES, 2)
    assert found[1, 0] > 0.9
    chance = y[600:].bincount().max() / 300
    assert abs(np.delete(found.ravel(), 2) - 0.25).max() < chance - 0.25 + 0.08


def test_xor_is_for_the_mlp_alone():
    x = gaussian(1, 900, D)
    y = ((x[0, :, 0] > 0) ^ (x[0, :, 1] > 0)).long()[None]
    train, test = split(x, y, 600)
    probe = fit_probe(Mlp(32), train, test, schedule=FAST)
    linear = LogisticRegression().fit(train.x[0], train.y[0])
    assert accuracy(probe, test).item() > 0.9
    assert linear.score(test.x[0], test.y[0]) < 0.62


def test_memorising_word_types_gives_high_accuracy_on_a_control_task():
    """Activations say which of 50 types a word is and nothing else; labels of types are random."""
    generator = torch.Generator().manual_seed(5)
    types = torch.randint(50, (900,), generator=generator)
    of_type = torch.randint(3, (2, 50), generator=generator)  # "real" and control alike
    x = (gaussian(50, 24, seed=6)[types] + 0.1 * gaussian(900, 24, seed=7))[None]
    train, test = split(x, of_type[:, types], 600)
    real, control = accuracy(fit_probe(Mlp(128), train, test, schedule=FAST), test)[0]
    assert real > 0.95 and control > 0.95  # so that its selectivity is nothing
    unseen = Examples.of_words(
        gaussian(1, 300, 24, seed=8), torch.randint(3, (2, 300), generator=generator)
    )
    assert accuracy(fit_probe(Mlp(128), train, test, schedule=FAST), unseen).max() < 0.45


def test_label_independent_activations_code_for_no_fewer_bits_than_the_prior():
    x, y = gaussian(1, 900, D), torch.arange(900).remainder(3)[None]
    train, test = split(x, y[:, torch.randperm(900, generator=torch.Generator().manual_seed(0))])
    probe = fit_probe(Mlp(16), train, test, schedule=FAST)
    assert bits(probe.log_probs(test.x), test.y).mean() > np.log2(3) - 0.02


def test_bilinear_recovers_a_planted_form():
    d, pairs = 6, 6000
    x = gaussian(2, 500, d)
    generator = torch.Generator().manual_seed(2)
    rows = torch.randint(500, (pairs, 2), generator=generator)
    planted = gaussian(d, d, seed=3)
    logit = ((x[1, rows[:, 0]] @ planted) * x[1, rows[:, 1]]).sum(-1) + 0.5
    y = (torch.rand(pairs, generator=generator) < logit.sigmoid()).long()[None]
    train, test = Examples(x, rows[:4500], y[:, :4500]), Examples(x, rows[4500:], y[:, 4500:])
    schedule = Schedule(learning_rate=0.3, batch=500, epochs=60, improvement=1e-4)
    probe = fit_probe(Bilinear(), train, test, schedule=schedule)
    right = accuracy(probe, test)[:, 0]
    majority = test.y.double().mean()
    assert right[0] < max(majority, 1 - majority) + 0.05

    def outer(e: Examples) -> Tensor:
        return (x[1, e.rows[:, 0], :, None] * x[1, e.rows[:, 1], None]).flatten(1)

    peer = LogisticRegression(C=1e4).fit(outer(train), train.y[0])
    assert right[1] == pytest.approx(peer.score(outer(test), test.y[0]), abs=0.01)
    # in the coordinates of the activations: scale' W scale / d
    scale = probe.moments.scale[1]
    found = scale[:, None] * probe.trained.parameters["weight"][1] * scale / d
    assert torch.corrcoef(torch.stack([found.flatten(), planted.flatten()]))[0, 1] > 0.98
    assert found.norm() == pytest.approx(np.linalg.norm(peer.coef_), rel=0.1)


@pytest.mark.plain
def test_bilinear_is_directed():
    x = gaussian(1, 300, D)
    left = torch.arange(250)
    ahead, behind = torch.stack([left, left + 50], 1), torch.stack([left + 50, left], 1)
    x[0, 50:, :3] = x[0, :-50, 3:6].clone()  # read off the word 50 before, in other dimensions
    rows = torch.cat([ahead, behind])
    y = torch.arange(2).repeat_interleave(250).flip(0)[None]
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    rows, y = rows[order], y[:, order]
    train, test = Examples(x, rows[:400], y[:, :400]), Examples(x, rows[400:], y[:, 400:])
    probe = fit_probe(Bilinear(), train, test, schedule=Schedule(learning_rate=0.05, batch=50))
    assert accuracy(probe, test).item() > 0.8


# a loop over torch's own modules


def torchs_own(train: Examples, dev: Examples, start: dict, schedule: Schedule, seed: int):
    """One probe as one would write it: modules, Adam, a falling rate, the best state kept."""
    mean, std = train.x[0].mean(0), train.x[0].std(0, correction=0)
    x, dev_x = (train.x[0] - mean) / std, (dev.x[0] - mean) / std
    net = nn.Sequential(nn.Linear(D, 16), nn.ReLU(), nn.Linear(16, 4)).double()
    with torch.no_grad():
        for module, name in ((net[0], "in"), (net[2], "out")):
            module.weight[:] = start[f"{name}.weight"].T
            module.bias[:] = start[f"{name}.bias"]
    adam = torch.optim.Adam(net.parameters(), lr=schedule.learning_rate)
    order = torch.Generator().manual_seed(seed)
    lowest, best, bad, epochs = float("inf"), {}, 0, 0
    for _ in range(schedule.epochs):
        for batch in torch.randperm(len(train.rows), generator=order).split(schedule.batch):
            adam.zero_grad()
            nn.functional.cross_entropy(net(x[batch]), train.y[0, batch]).backward()
            adam.step()
        loss = nn.functional.cross_entropy(net(dev_x), dev.y[0]).item()
        if loss < lowest - schedule.improvement:
            lowest, bad = loss, 0
            best = {name: part.clone() for name, part in net.state_dict().items()}
        else:
            bad += 1
            adam.param_groups[0]["lr"] /= 2
        epochs += 1
        if bad == schedule.patience:
            break
    net.load_state_dict(best)
    return net(dev_x).log_softmax(-1), lowest, epochs


@pytest.mark.parametrize("site", range(SITES))
def test_against_a_probe_in_torchs_own_modules(site):
    x = (
        gaussian(SITES, WORDS, D)
        * torch.tensor([1.0, 30.0, 0.2], dtype=torch.float64)[:, None, None]
    )
    y = (x @ gaussian(D, 4, seed=1)).argmax(-1)[1:2]
    train, dev = split(x, y)
    schedule = replace(FAST, epochs=12)
    probe = fit_probe(Mlp(16), train, dev, sites=["a", "b", "c"], schedule=schedule, seed=7)
    alone = fit_probe(
        Mlp(16),
        Examples.of_words(train.x[site : site + 1], train.y),
        Examples.of_words(dev.x[site : site + 1], dev.y),
        sites=["abc"[site]],
        schedule=replace(schedule, epochs=1, learning_rate=1e-12),  # it stays where it starts
        seed=7,
    )
    start = {key: part[0] for key, part in alone.trained.parameters.items()}
    expected, loss, epochs = torchs_own(
        Examples.of_words(train.x[site : site + 1], train.y),
        Examples.of_words(dev.x[site : site + 1], dev.y),
        start,
        schedule,
        7,
    )
    torch.testing.assert_close(probe.log_probs(dev.x)[site, 0], expected, rtol=0, atol=1e-7)
    assert probe.trained.loss[site].item() == pytest.approx(loss, abs=1e-8)
    assert probe.trained.epochs[site] == epochs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batch_equals_loop(dtype):
    """Any sites and problems together are as each by itself."""
    x = gaussian(SITES, WORDS, D, dtype=dtype)
    y = torch.stack([(x[i] @ gaussian(D, 3, seed=i, dtype=dtype)).argmax(-1) for i in (0, 2)])
    train, dev = split(x, y)
    sites, labels = ["embed", "3", "7"], ["real", "control"]
    schedule = replace(FAST, epochs=5)
    both = fit_probe(Mlp(8), train, dev, sites=sites, labels=labels, schedule=schedule)
    for i, j in ((0, 1), (2, 0)):
        one = fit_probe(
            Mlp(8),
            *(Examples.of_words(e.x[i : i + 1], e.y[j : j + 1]) for e in (train, dev)),
            sites=[sites[i]],
            labels=[labels[j]],
            schedule=schedule,
        )
        torch.testing.assert_close(
            one.log_probs(dev.x[i : i + 1])[0, 0],
            both.log_probs(dev.x)[i, j],
            rtol=0,
            atol=1e-9 if dtype == torch.float64 else 1e-4,
        )


def test_turns_and_chunks_change_nothing(monkeypatch):
    x = gaussian(SITES, WORDS, D)
    train, dev = split(x, torch.stack([(x[i] @ gaussian(D, 3)).argmax(-1) for i in (0, 1)]))
    schedule = replace(FAST, epochs=2)
    expected = fit_probe(Mlp(8), train, dev, schedule=schedule).log_probs(dev.x)
    monkeypatch.setattr("interp.probing.fit.nets.training.AT_ONCE", 4)
    monkeypatch.setattr("interp.probing.fit.nets.trained.AT_ONCE", 5)
    monkeypatch.setattr("interp.probing.fit.nets.trained.CHUNK", 7)
    found = fit_probe(Mlp(8), train, dev, schedule=schedule).log_probs(dev.x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_several_starts_are_several_labels():
    x = gaussian(1, WORDS, D)
    y = (x[0] @ gaussian(D, 3)).argmax(-1)
    train, dev = split(x, y.expand(3, -1))
    starts = fit_probe(Mlp(8), train, dev, schedule=replace(FAST, epochs=2)).log_probs(dev.x)[0]
    assert not torch.allclose(starts[0], starts[1])


def test_seeds_repeat_bit_for_bit():
    x = gaussian(SITES, WORDS, D, dtype=torch.float32)
    train, dev = split(x, (x[0] @ gaussian(D, 3, dtype=torch.float32)).argmax(-1)[None])
    a, b, c = (
        fit_probe(Mlp(8), train, dev, schedule=replace(FAST, epochs=3), seed=seed).log_probs(dev.x)
        for seed in (1, 1, 2)
    )
    assert torch.equal(a, b) and not torch.allclose(a, c)


@pytest.mark.parametrize("net", [Mlp(8), Bilinear()])
def test_shift_and_scale_of_a_dimension_change_nothing(net):
    x = gaussian(1, WORDS, D)
    train, dev = split(x, (x[0, :, 0] > 0).long()[None])
    if isinstance(net, Bilinear):
        train, dev = (replace(e, rows=torch.cat([e.rows, e.rows.flip(0)], 1)) for e in (train, dev))
    scale, shift = 10.0 ** torch.arange(-3, 4), 100.0 * torch.arange(7)
    moved = [replace(e, x=e.x * scale + shift) for e in (train, dev)]
    a = fit_probe(net, train, dev, schedule=replace(FAST, epochs=4))
    b = fit_probe(net, *moved, schedule=replace(FAST, epochs=4))
    torch.testing.assert_close(
        *(p.log_probs(e.x, e.rows) for p, e in ((a, dev), (b, moved[1]))), rtol=0, atol=1e-7
    )


@pytest.mark.plain
def test_the_length_of_a_word_is_read_or_not():
    """Labels by length are seen without the norm and not with it."""
    x = gaussian(1, 900, D)
    long = torch.arange(900).remainder(2)
    x = x * (1 + 9 * long)[:, None]
    train, test = split(x, long[None], 600)
    right = {norm: accuracy(fit_probe(Mlp(16), train, test, norm=norm, schedule=FAST), test).item()
             for norm in ("none", "rms")}  # fmt: skip
    assert right["none"] > 0.95 and right["rms"] < 0.6
    train, test = split(x, (x[0, :, 0] > 0).long()[None], 600)
    probe = fit_probe(Mlp(8), train, test, norm="rms", schedule=replace(FAST, epochs=3))
    longer = test.x * (1 + gaussian(1, 300, 1, seed=3).exp())
    torch.testing.assert_close(probe.log_probs(longer), probe.log_probs(test.x), rtol=0, atol=1e-9)
    assert probe.log_probs(0 * test.x).isfinite().all()
    own = probe.moments.site(0)
    read = own.read(test.x, torch.tensor([0]), test.rows[:, 0])
    assert torch.equal(own.standardise_(test.x.clone()), read)


def test_a_constant_dimension_is_not_read():
    x = gaussian(1, WORDS, D)
    x[..., 2] = 4.0
    train, dev = split(x, (x[0] @ gaussian(D, 3)).argmax(-1)[None])
    probe = fit_probe(Mlp(8), train, dev, schedule=replace(FAST, epochs=2))
    other = dev.x.clone()
    other[..., 2] = 1e6
    assert torch.equal(probe.log_probs(dev.x), probe.log_probs(other))


def test_half_precision_activations_are_read_in_float32():
    x = gaussian(1, WORDS, D, dtype=torch.float16)
    train, dev = split(x, (x[0] @ gaussian(D, 3, dtype=torch.float16)).argmax(-1)[None])
    found = fit_probe(Mlp(8), train, dev, schedule=replace(FAST, epochs=1)).log_probs(dev.x)
    assert found.dtype == torch.float32
    assert found.exp().sum(-1).allclose(torch.ones(1))


def test_a_layer_starts_as_torchs():
    found = layer("a", 400, 90, torch.Generator().manual_seed(0))
    peer = nn.Linear(400, 90)
    assert found["a.weight"].shape == (400, 90) and found["a.bias"].shape == (90,)
    assert found["a.weight"].abs().max() <= peer.weight.abs().max() * 1.001
    assert found["a.weight"].std() == pytest.approx(peer.weight.std().item(), rel=0.02)


def test_hidden_is_a_thousand_by_default():
    assert Mlp().start(5, 2, torch.Generator())["in.weight"].shape == (5, 1000)


# scores


def test_scores_by_document():
    logits = torch.tensor([[[[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [1.0, 0.0]]] * 2])
    y = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1]])
    logs = logits.log_softmax(-1)
    right = correct(logs, y)
    assert right.tolist() == [[[1, 1, 0, 1], [0, 1, 0, 0]]]
    p = logits[0, 0].exp() / logits[0, 0].exp().sum(-1, keepdim=True)
    np.testing.assert_allclose(bits(logs, y)[0, 1], -np.log2(p[:, 1].numpy()), rtol=1e-6)
    scores = score(
        right,
        ["x", "y", "y", "x"],
        sites=[Site.parse("4.resid_post")],
        labels=["real", "control"],
        task="upos",
        probe=Mlp.name,
        model="trained",
        provenance={"model": "m"},
        subsets={"all": np.ones(4, bool), "unseen": np.array([True, True, True, False])},
    )
    table = scores.summary().set_index(["labels", "subset"])["value"]
    assert table["real", "all"] == 0.75 and table["control", "unseen"] == pytest.approx(1 / 3)
    assert set(scores.frame["depth"]) == {5} and set(scores.frame["probe"]) == {"mlp-1"}
    selectivity = scores.query("labels == 'real' and subset == 'all'").minus(
        scores.query("labels == 'control' and subset == 'all'"), ignoring=["labels"]
    )
    assert selectivity["value"].tolist() == [0.5]
    sizes = {"sites": [Site.parse("4.resid_post")], "labels": ["real"], "provenance": {}}
    rest = {"task": "t", "probe": "p", "model": "none"}
    with pytest.raises(ProbeError, match=r"\(1, 2, 4\).*1 sites, 1 problems and documents of 4"):
        score(right, list("xyyx"), **sizes, **rest)
    with pytest.raises(ProbeError, match="'seen' has no examples"):
        score(right[:, :1], list("xyyx"), subsets={"seen": np.zeros(4, bool)}, **sizes, **rest)


# what is refused


SMALL = Mlp(4)


def examples(words: int = 20, classes: int = 2, sites: int = SITES) -> Examples:
    y = torch.arange(words).remainder(classes)[None]
    return Examples.of_words(gaussian(sites, words, D), y)


def refusal(train: Examples, dev: Examples, net=SMALL, **options) -> str:
    with pytest.raises(ProbeError) as caught:
        fit_probe(net, train, dev, **options)
    return str(caught.value)


def says(message: str, *parts: str) -> None:
    missing = [part for part in parts if part not in message]
    assert not missing, f"{missing} not in: {message}"


def test_labels_that_say_nothing():
    good = examples()
    one = replace(good, y=torch.full((1, 20), 3))
    says(refusal(one, good, labels=["pos"]), "'pos'", "one class only (label 3)", "20 training")
    rare = replace(good, y=torch.tensor([[2] + [0, 1] * 9 + [0]]))
    says(refusal(rare, good), "class 2 of problem '0'", "single training example", "merge")
    # drawn labels are of word types: one that a single training word has is no mistake
    fit_probe(Mlp(4), rare, good, classes=3, labels=["control"])
    says(refusal(good, good, classes=1), "run from 0 to 1", "1 classes", "classes=")
    negative = replace(good, y=torch.tensor([[-1, 0] * 10]))
    says(refusal(negative, good), "training labels run from -1 to 0")
    says(refusal(good, examples(classes=5)), "development labels run from 0 to 4", "one list")


def test_splits_that_do_not_fit():
    good = examples()
    unlabelled = replace(good, y=good.y[:, :0])
    says(refusal(good, unlabelled), "development split has 20 examples and 0 labels", "stopped")
    nothing = Examples(good.x, good.rows[:0], good.y[:, :0])
    says(refusal(good, nothing), "development split has 0 examples and 0 labels")
    short = replace(good, y=good.y[:, :-3])
    says(refusal(short, good), "training split has 20 examples and 17 labels")
    says(refusal(good, examples(sites=2)), "of 3 sites", "of 2, 7 and 1")
    both = replace(good, y=good.y.repeat(2, 1))
    says(refusal(good, both), "1 problems, development examples of 3, 7 and 2")
    says(refusal(good, good, sites=["a", "b"]), "2 names for 3 sites")
    says(refusal(good, good, sites=["a", "b", "a"]), "sites 'a' is named twice")
    says(refusal(good, good, labels=["x", "y"]), "2 names for 1 problems")
    with pytest.raises(ArgumentError, match="norm='rns'; did you mean 'rms'"):
        fit_probe(Mlp(4), good, good, norm="rns")


@pytest.mark.parametrize("split", [0, 1])
def test_activations_that_are_not_finite(split):
    pair = [examples(), examples()]
    pair[split].x[1, 4, 2] = float("nan")
    pair[split].x[1, 9, 0] = float("inf")
    message = refusal(*pair, sites=[Site.parse(f"{i}.resid_post") for i in range(3)])
    says(message, "site 1.resid_post", "2 of 20 words", "first is 4", "dtype=torch.float32")


def test_rows_that_cannot_be_read():
    good = examples()
    far = replace(good, rows=good.rows + 1)
    says(refusal(far, good), "example 19 has word 20", "20 words (0 to 19)")
    says(refusal(good, good, Bilinear()), "rows have 1 columns", "reads 2: left, right")
    pairs = Examples(good.x, good.rows.repeat(1, 2), good.y.clone())
    three = replace(pairs, y=torch.tensor([[0, 1, 2, 0, 1] * 4]))
    says(refusal(three, three, Bilinear()), "labels 0 and 1, not 3 classes", "SpanClassifier")
    probe = fit_probe(Mlp(4), good, good, schedule=replace(FAST, epochs=9, improvement=9.0))
    with pytest.raises(ProbeError, match=r"3 sites of 7 dimensions.*of 2 of 7"):
        probe.log_probs(good.x[:2])
    with pytest.raises(ProbeError, match="hold NaN"):
        probe.log_probs(good.x / 0)
    with pytest.raises(ProbeError, match="source='cumulative'"):
        _ = probe.weights


def test_networks_that_are_none():
    for wrong in (lambda: Mlp(0), lambda: SpanClassifier(project=0)):
        with pytest.raises(ArgumentError, match="takes a whole number of at least 1"):
            wrong()


def test_what_did_not_converge_is_flagged(caplog):
    x = gaussian(SITES, WORDS, D)
    train, dev = split(x, (x[1] @ gaussian(D, 3)).argmax(-1)[None])
    with caplog.at_level(logging.WARNING, "interp"):
        probe = fit_probe(
            Mlp(8),
            train,
            dev,
            sites=["low", "mid", "top"],
            labels=["upos"],
            schedule=replace(FAST, epochs=6, patience=1),
        )
    assert probe.converged[:, 0].tolist() == [True, False, True]
    assert "mid upos (6 epochs were not enough)" in caplog.text
    assert "2 of 3 converged" in repr(probe)
