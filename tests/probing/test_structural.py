"""The structural probe on trees that are exactly in the geometry, and its two scores."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import Tensor

from interp.core.door.door import ArgumentError
from interp.core.errors import ProbeError
from interp.core.parts.sites import Site
from interp.probing.ask.structural import SENTENCES, fit_distance
from interp.probing.ask.trees import Trees, judge

MOST = 8


def random_heads(words: int, rng: np.random.Generator) -> list[int]:
    """A tree with its root anywhere."""
    order = rng.permutation(words)
    heads = np.full(words, -1)
    for i in range(1, words):
        heads[order[i]] = order[rng.integers(i)]
    return heads.tolist()


def forest(sentences: int, seed: int = 0) -> Trees:
    rng = np.random.default_rng(seed)
    return Trees.of([random_heads(int(rng.integers(3, MOST)), rng) for _ in range(sentences)])


def isometric(trees: Trees) -> Tensor:
    """Words whose squared distances are the trees': an axis for each edge on the way from the root.

    The axis of an edge is numbered by the word below it, so that sentences share axes.
    """
    rows = []
    for heads in trees.heads:
        for word in range(len(heads)):
            row, at = torch.zeros(MOST, dtype=torch.float64), word
            while heads[at] >= 0:
                row[at] = 1
                at = int(heads[at])
            rows.append(row)
    return torch.stack(rows)


def rotated(x: Tensor, *, extra: int = 3, seed: int = 0) -> Tensor:
    """The same geometry in other coordinates, with dimensions that say nothing."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(x), extra, generator=generator, dtype=torch.float64)
    wide = torch.cat([x, noise], 1)
    turn = torch.randn(wide.shape[1], wide.shape[1], generator=torch.Generator().manual_seed(9))
    return wide @ torch.linalg.qr(turn.double()).Q + 5


# trees


def walk(heads: np.ndarray, a: int, b: int) -> int:
    """Edges between two words, by their ways to the root."""

    def way(word: int) -> list[int]:
        return [word] if heads[word] < 0 else [word, *way(int(heads[word]))]

    up, down = way(a), way(b)
    shared = len(set(up) & set(down))
    return len(up) + len(down) - 2 * shared


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(0, 10**6))
def test_distances_against_ways_to_the_root(words, seed):
    trees = Trees.of([random_heads(words, np.random.default_rng(seed))])
    heads = trees.heads[0]
    expected = [[walk(heads, a, b) for b in range(words)] for a in range(words)]
    assert trees.distances[0].tolist() == expected


def test_where_sentences_stand():
    trees = Trees.of([[-1, 0], [1, -1, 1], [-1]])
    assert trees.starts.tolist() == [0, 2, 5] and trees.lengths.tolist() == [2, 3, 1]
    assert len(trees) == 3


@pytest.mark.parametrize(
    "heads",
    [
        [1, 0],  # a cycle, no root
        [-1, -1, 0],  # two roots
        [-1, 2, 1],  # a root and a cycle
        [-1, 7],  # a word that there is not
        [-1, 1],  # its own head
        [-1, -2],
        [],
    ],
)
def test_heads_that_are_no_tree(heads):
    with pytest.raises(ProbeError, match=r"heads of sentence 1 are no tree: \["):
        Trees.of([[-1, 0], heads])


# scores


def test_true_distances_score_one():
    trees = forest(12)
    found = judge([d[None] for d in trees.distances], trees)
    assert found.uuas.tolist() == [1.0]
    np.testing.assert_allclose(found.spearman, 1.0)
    assert found.mean_spearman[0] == pytest.approx(1.0)
    assert found.right.shape[1] == sum(trees.lengths - 1)


def slow_uuas(distance: np.ndarray, heads: np.ndarray, counted: np.ndarray) -> tuple[int, int]:
    """Kruskal's algorithm over words that count."""
    words = np.flatnonzero(counted)
    pairs = sorted((distance[a, b], a, b) for a in words for b in words if a < b)
    group, tree = {w: w for w in words}, set()
    for _, a, b in pairs:
        if group[a] != group[b]:
            tree.add((a, b))
            old = group[b]
            group = {w: group[a] if g == old else g for w, g in group.items()}
    gold = {tuple(sorted((w, int(heads[w])))) for w in words if heads[w] >= 0 and counted[heads[w]]}
    return len(tree & gold), len(gold)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6))
def test_scores_against_a_slow_loop(seed):
    rng = np.random.default_rng(seed)
    heads = [random_heads(int(rng.integers(3, 9)), rng) for _ in range(4)]
    counted = [np.arange(len(h)) != rng.integers(len(h)) for h in heads]
    trees = Trees.of(heads, counted)
    found = [rng.random((2, len(h), len(h))) for h in heads]
    found = [(m + m.transpose(0, 2, 1)) * (1 - np.eye(m.shape[1])) for m in found]
    scores = judge(found, trees)
    for site in range(2):
        slow = [
            slow_uuas(m[site], np.array(h), c)
            for m, h, c in zip(found, heads, counted, strict=True)
        ]
        right, edges = (sum(column) for column in zip(*slow, strict=True))
        assert scores.right[site].sum() == right and scores.right.shape[1] == edges
        for i, matrix in enumerate(found):
            rows = zip(matrix[site], trees.distances[i], strict=True)
            expected = np.mean([spearmanr(a, b).statistic for a, b in rows])
            assert scores.spearman[site, i] == pytest.approx(expected)
    assert [np.bincount(scores.edge_sentence, minlength=4)[i] for i in range(4)] == [
        slow_uuas(m[0], np.array(h), c)[1] for m, h, c in zip(found, heads, counted, strict=True)
    ]


def test_spearman_is_averaged_by_length_first():
    trees = Trees.of([[-1, 0, 1, 2, 3]] * 3 + [[-1, 0, 1, 2, 3, 4], [-1, 0]])
    exact = [d[None] for d in trees.distances]
    flat = [np.ones_like(d) * (1 - np.eye(d.shape[1])) for d in exact]
    scores = judge([exact[0], exact[1], flat[2], exact[3], flat[4]], trees)
    low = scores.spearman[0, 2]
    assert low < 0.9
    # lengths 5 and 6 count alike, though there are three sentences of one; length 2 does not count
    assert scores.mean_spearman[0] == pytest.approx(((2 + low) / 3 + 1) / 2)
    short = judge([flat[4]], Trees.of([[-1, 0]]))
    with pytest.raises(ProbeError, match="no sentence has 5 to 50 words"):
        _ = short.mean_spearman


def test_words_that_are_all_alike_rank_nothing():
    trees = Trees.of([[-1, 0, 0, 0, 0]])
    scores = judge([np.zeros((1, 5, 5))], trees)
    assert scores.spearman.tolist() == [[0.0]]
    assert 0 <= scores.uuas[0] <= 1


def test_the_linear_baseline():
    chain, star = Trees.of([[-1, 0, 1, 2]]), Trees.of([[-1, 0, 0, 0]])
    assert judge(chain.linear, chain).uuas[0] == 1
    assert judge(star.linear, star).uuas[0] == pytest.approx(1 / 3)


def test_scores_of_documents():
    trees = forest(12, seed=2)
    rng = np.random.default_rng(0)
    found = [rng.random((2, n, n)) for n in trees.lengths]
    judged = judge([m + m.transpose(0, 2, 1) for m in found], trees)
    documents = [f"d{i // 3}" for i in range(12)]
    given = {"task": "trees", "probe": "distance", "model": "trained", "provenance": {}}
    sites = [Site.parse("0.resid_pre"), Site.parse("1.resid_post")]
    table = judged.scores(documents, sites=sites, **given).summary().set_index(["metric", "site"])
    assert table.loc["uuas", "value"].to_numpy() == pytest.approx(judged.uuas)
    inside = [i for i, n in enumerate(trees.lengths) if 5 <= n <= 50]
    assert table.loc["spearman", "value"].to_numpy() == pytest.approx(
        judged.spearman[:, inside].mean(1)
    )
    assert (table["clusters"] <= 4).all() and (table["low"] < table["high"]).all()
    with pytest.raises(ProbeError, match="2 documents for 12 sentences"):
        judged.scores(["a", "b"], sites=sites, **given)


def test_distances_of_other_sentences():
    trees = forest(3)
    with pytest.raises(ProbeError, match="distances of 2 sentences for 3 trees"):
        judge([d[None] for d in trees.distances[:2]], trees)
    lone = Trees.of([[-1], [-1]])
    with pytest.raises(ProbeError, match="no tree has an edge"):
        judge([np.zeros((1, 1, 1))] * 2, lone)


# the probe


SCHEDULE = replace(SENTENCES, learning_rate=0.02, epochs=60)


def test_planted_trees_are_recovered():
    trees, test = forest(150), forest(40, seed=1)
    x = torch.stack([rotated(isometric(trees)), torch.randn(sum(trees.lengths), MOST + 3).double()])
    other = rotated(isometric(test), seed=3)
    test_x = torch.stack([other, torch.randn(len(other), MOST + 3).double()])
    probe = fit_distance(x, trees, test_x, test, rank=MOST, sites=["syntax", "none"], norm="none",
                         schedule=SCHEDULE)  # fmt: skip
    scores = judge(probe.distances(test_x, test), test)
    assert scores.uuas[0] == 1.0
    assert scores.mean_spearman[0] > 0.95  # not 1: float noise orders words that are equally far
    assert probe.trained.loss[0] < 1e-3
    blind = judge(test.linear, test).uuas[0]
    assert scores.uuas[1] < blind + 0.2 < 0.85
    assert "rank 8" in repr(probe) and "syntax to none" in repr(probe)


@pytest.mark.parametrize("norm", ["none", "rms"])
def test_loss_and_distances_against_a_slow_loop(norm):
    trees = forest(30)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, int(trees.lengths.sum()), 6, generator=generator).double()
    schedule = replace(SCHEDULE, epochs=1)
    probe = fit_distance(x, trees, x, trees, rank=3, norm=norm, schedule=schedule)
    found = probe.distances(x, trees)
    for site in range(2):
        read = (
            x[site] / x[site].square().mean(-1, keepdim=True).sqrt() if norm == "rms" else x[site]
        )
        z = (read - read.mean(0)) / read.std(0, correction=0)
        losses = []
        for i, start in enumerate(trees.starts):
            n = trees.lengths[i]
            words = z[start : start + n] @ probe.trained.parameters["B"][site]
            expected = torch.cdist(words, words).square().numpy()
            np.testing.assert_allclose(found[i][site], expected, atol=1e-9)
            losses.append(np.abs(trees.distances[i] - expected).sum() / n**2)
        assert probe.trained.loss[site].item() == pytest.approx(np.mean(losses))


def test_batch_equals_loop_and_seeds_repeat():
    trees = forest(60)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, int(trees.lengths.sum()), 6, generator=generator).double()

    def fit(part: Tensor, sites: list[str], seed: int = 0) -> Tensor:
        schedule = replace(SCHEDULE, epochs=3)
        probe = fit_distance(part, trees, part, trees, rank=2, sites=sites, schedule=schedule,
                             seed=seed)  # fmt: skip
        return probe.trained.parameters["B"]

    together = fit(x, list("abc"))
    assert torch.equal(together, fit(x, list("abc")))
    assert not torch.allclose(together, fit(x, list("abc"), seed=1))
    for i, name in enumerate("abc"):
        torch.testing.assert_close(fit(x[i : i + 1], [name])[0], together[i], rtol=0, atol=1e-10)


def test_what_is_refused(caplog):
    trees = forest(5)
    words = int(trees.lengths.sum())
    x = torch.randn(2, words, 4)
    with pytest.raises(ProbeError, match=rf"{words - 1} words .* 5 trees have {words} words"):
        fit_distance(x[:, 1:], trees, x, trees)
    nan = x.clone()
    nan[1, 3] = float("nan")
    with pytest.raises(ProbeError, match=r"site 7.resid_post hold NaN.*first is 3"):
        fit_distance(nan, trees, x, trees, sites=["6.resid_post", "7.resid_post"])
    with pytest.raises(ArgumentError, match="rank=0"):
        fit_distance(x, trees, x, trees, rank=0)
    with pytest.raises(ProbeError, match="of 2 of 3"):
        fit_distance(x, trees, x[..., :3], trees)
    with pytest.raises(ProbeError, match="other sentence lengths"):
        Trees.of([[-1, 0]], [[True]])
    with caplog.at_level(logging.WARNING, "interp"):
        fit_distance(x, trees, x, trees, rank=2, schedule=replace(SCHEDULE, epochs=1))
    assert "2 of 2 probes did not converge" in caplog.text
