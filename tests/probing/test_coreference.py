"""Pairs of mentions: exact labels, distances that tell nothing, and baselines counted by hand."""

from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.core.door.door import ArgumentError
from interp.core.errors import CorpusError, ProbeError
from interp.datasets.corpus import Corpus, Document, Mention, Sentence, Word
from interp.probing.ask import coreference
from interp.probing.ask.controls import control_task
from interp.probing.ask.coreference import MentionPairs, agreement
from interp.probing.fit.nets.nets import Bilinear
from interp.probing.fit.nets.spans import SpanClassifier
from interp.probing.fit.nets.trained import fit_probe
from interp.probing.fit.nets.training import Schedule
from interp.probing.read.features import Features

mention_pairs = partial(coreference.mention_pairs, first="keep")


def sentence(text: str) -> Sentence:
    words, at = [], 0
    for form in text.split():
        words.append(Word(form, (at, at + len(form))))
        at += len(form) + 1
    return Sentence("s", text, tuple(words))


def document(id: str, text: str, *mentions: tuple[int, int, int, str, str]) -> Document:
    """Mentions are (sentence, start, end, chain, kind), their head the last word."""
    made = tuple(Mention(s, (a, b), chain, b - 1, kind) for s, a, b, chain, kind in mentions)
    return Document(id, tuple(map(sentence, text.split(" | "))), made)


def corpus(*documents: Document) -> Corpus:
    return Corpus("by hand", documents, frozenset({"mentions"}))


def collected(text: Corpus, *, rows: str = "document", d: int = 3, missing: tuple = ()) -> Features:
    """Features of all words but the missing ones; a row for each document or sentence."""
    places, row, sentences = [], [], 0
    for n, doc in enumerate(text.documents):
        for s in doc.sentences:
            for w in range(len(s)):
                if (sentences, w) not in missing:
                    places.append((sentences, w))
                    row.append(n if rows == "document" else sentences)
            sentences += 1
    generator = torch.Generator().manual_seed(0)
    x = {f"{i}.resid_post": torch.randn(len(places), d, generator=generator) for i in range(2)}
    sentence_of, word_of = np.array(places).T
    found = Features.from_arrays(
        x, model="by hand", corpus=text, sentence=sentence_of, word=word_of, row=row
    )
    assert found.missing == tuple(missing)
    return found


# Ann 0 met Bob 2 . | she 4 saw him 6 and she 8 left and she 11 smiled
ANN = document(
    "ann",
    "Ann met Bob . | she saw him and she left and she smiled",
    *((0, 0, 1, "a", "proper"), (0, 2, 3, "b", "proper"), (1, 0, 1, "a", "pronoun")),
    *((1, 2, 3, "b", "pronoun"), (1, 4, 5, "a", "pronoun"), (1, 7, 8, "a", "pronoun")),
)
SAME = {(4, 0): 2, (6, 2): 2, (8, 4): 2, (11, 8): 1}
DIFFERENT = {(4, 2): 1, (6, 4): 1, (6, 0): 3, (8, 6): 1, (8, 2): 3, (11, 6): 2, (11, 2): 4}


def shown(pairs: MentionPairs) -> dict[tuple[int, ...], tuple[int, int]]:
    """Label and distance by the heads of anaphor and candidate."""
    said = zip(pairs.y.tolist(), pairs.distance.tolist(), strict=True)
    return dict(zip(map(tuple, pairs.heads.tolist()), said, strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_labels_and_distances_by_hand(seed):
    text = corpus(ANN)
    pairs = mention_pairs(text, collected(text), seed=seed)
    found = shown(pairs)
    expected = {p: (1, d) for p, d in SAME.items()} | {p: (0, d) for p, d in DIFFERENT.items()}
    assert found == {pair: expected[pair] for pair in found}
    # at distance 1 there is one that corefers, at 2 one that does not, at 3 and 4 no choice
    assert len(pairs) == 4 and sorted(pairs.distance) == [1, 1, 2, 2]
    assert (11, 8) in found and (11, 6) in found
    assert set(pairs.kind) == {"pronoun"} and set(pairs.cluster) == {"ann"}
    for (a, _, b, _), (head, other) in zip(pairs.spans.tolist(), pairs.heads.tolist(), strict=True):
        assert (a, b) == (head, other)


def test_draws_are_by_the_seed_and_reach_every_choice():
    text = corpus(ANN)
    features = collected(text)
    draws = [frozenset(shown(mention_pairs(text, features, seed=s))) for s in range(30)]
    assert draws[3] == frozenset(shown(mention_pairs(text, features, seed=3)))
    drawn = set().union(*draws)
    assert {(4, 0), (6, 2), (8, 4)} <= drawn and {(4, 2), (6, 4), (8, 6)} <= drawn


def test_no_pair_across_rows():
    """With a sentence in each row "she" has Ann no more: what is left is 8 -> 4 and 11 -> 8."""
    text = corpus(ANN)
    found = shown(mention_pairs(text, collected(text, rows="sentence")))
    assert {pair for pair in found if found[pair][0]} <= {(8, 4), (11, 8)}
    assert all(min(pair) >= 4 for pair in found)


def test_mentions_without_tokens_are_counted():
    text = corpus(ANN)
    pairs = mention_pairs(text, collected(text, missing=((0, 2),)))
    assert pairs.skipped == 1
    found = shown(pairs)  # words after Bob are one less; "him" has no antecedent now
    certain = {(7, 5): (0, 1), (7, 3): (1, 2), (10, 5): (0, 2)}
    assert len(found) == 4 and certain.items() <= found.items()
    assert (found.keys() - certain.keys()) < {(3, 0), (10, 7)}


def test_mentions_that_begin_a_row_are_left_out():
    """Ann is a sink: with her goes 4 -> 0, as with a word without tokens."""
    text = corpus(ANN)
    pairs = coreference.mention_pairs(text, collected(text))
    assert pairs.skipped == 1
    assert len(pairs) and 0 not in pairs.heads
    assert 0 in torch.cat([mention_pairs(text, collected(text), seed=s).heads for s in range(9)])


def random_document(id: str, rng: np.random.Generator) -> Document:
    """Mentions of up to three words, some inside others, of four chains."""
    text = " | ".join(" ".join(rng.choice([*"abcde"], 12)) for _ in range(4))
    spans = sorted(
        (int(s), int(w), int(w + n))
        for s, w, n in {tuple(rng.integers((0, 0, 1), (4, 10, 3))) for _ in range(25)}
    )
    kinds = ("pronoun", "proper", "nominal")
    return document(
        id, text, *((*at, str(rng.integers(4)), str(rng.choice(kinds))) for at in spans)
    )


@pytest.mark.plain
@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000))
def test_neither_distance_nor_kind_nor_document_tells(seed):
    """As many of each label in every cell, so that the nearest mention is right half of the time;
    every pair is in one row, apart, and labelled by its chains."""
    rng = np.random.default_rng(seed)
    text = corpus(*(random_document(f"d{i}", rng) for i in range(3)))
    features = collected(text)
    pairs = mention_pairs(text, features, seed=seed)
    cells = Counter(
        zip(pairs.cluster, pairs.kind, pairs.distance.tolist(), pairs.y.tolist(), strict=True)
    )
    assert all(cells[(*cell, 1 - y)] == n for (*cell, y), n in cells.items())
    right = pairs.score_baselines().query("probe == 'nearest mention'").summary()
    assert (right["value"] == 0.5).all()
    chain = {}
    first = 0
    for doc in text.documents:
        for m in doc.mentions:
            start, end = (first + 12 * m.sentence + at for at in m.words)
            chain.setdefault((doc.id, start, end), set()).add(m.chain)
        first += 48
    for (a, b, c, d), y, doc in zip(
        pairs.spans.tolist(), pairs.y.tolist(), pairs.cluster, strict=True
    ):
        assert d <= a and features.row[a] == features.row[c]
        mine, other = chain[doc, a, b], chain[doc, c, d]
        assert mine & other if y else len(mine | other) > 1
    assert shown_all(mention_pairs(text, features, seed=seed)) == shown_all(pairs)


def shown_all(pairs: MentionPairs) -> list:
    return [pairs.spans.tolist(), pairs.y.tolist(), pairs.cluster]


GOSSIP = document(
    "gossip",
    "Mr. Darcy and his sister saw the king . | they met him",
    *((0, 0, 2, "d", "proper"), (0, 3, 4, "d", "pronoun"), (0, 3, 5, "s", "nominal")),
    *((0, 6, 8, "k", "nominal"), (1, 0, 1, "t", "pronoun"), (1, 2, 3, "k", "pronoun")),
)


def test_gender_and_number_by_hand():
    said = [agreement(GOSSIP, mention) for mention in GOSSIP.mentions]
    assert said == [
        ("masculine", "singular"),  # by its title, as Darcy is in no list
        ("masculine", "singular"),
        ("feminine", "singular"),  # the sister, not "his"
        ("masculine", "singular"),
        (None, "plural"),
        ("masculine", "singular"),
    ]


def test_baselines_by_hand():
    text = corpus(ANN)
    pairs = mention_pairs(text, collected(text))
    forms = {0: "ann", 2: "bob", 4: "she", 6: "him", 8: "she", 11: "she"}
    he = {2, 6}
    for i, (a, b) in enumerate(pairs.heads.tolist()):
        assert pairs.baselines["head match"][i] == (forms[a] == forms[b])
        # Ann is in the list of first names, Bob is not: he might be anyone
        known = 2 not in (a, b)
        assert pairs.baselines["gender and number"][i] == (not known or (a in he) == (b in he))
        assert pairs.baselines["nearest mention"][i] == (pairs.distance[i] == 1)
    table = pairs.score_baselines().summary().set_index(["probe", "subset"])
    right = pairs.baselines["head match"] == (pairs.y.numpy() == 1)
    assert table.loc[("head match", "all"), "value"] == right.mean()
    assert table.loc[("head match", "pronoun"), "n"] == len(pairs)


@pytest.fixture(scope="module")
def novels() -> tuple[Corpus, Features, MentionPairs]:
    rng = np.random.default_rng(0)
    text = corpus(*(random_document(f"d{i}", rng) for i in range(12)))
    features = collected(text)
    return text, features, mention_pairs(text, features)


def test_examples_are_the_words_of_the_pairs(novels):
    """Numbered anew, each span still has its words: the rows of x are those of the features."""
    _, features, pairs = novels
    some = pairs.of(["d3", "d7"])
    assert set(some.cluster) == {"d3", "d7"}
    spans = some.examples(features, some.y[None])
    assert len(spans.x[0]) < len(features)
    for new, old in zip(spans.rows.tolist(), some.spans.tolist(), strict=True):
        for side in (0, 2):
            torch.testing.assert_close(
                spans.x[:, new[side] : new[side + 1]],
                features.stack(list(range(old[side], old[side + 1]))),
            )
    heads = some.examples(features, some.y[None], reads="heads", sites=["1.resid_post"])
    torch.testing.assert_close(heads.x[0][heads.rows], features["1.resid_post"][some.heads])


def test_types_are_the_head_words_of_both():
    text = corpus(replace(ANN, sentences=tuple(map(sentence, CAPITALS))))
    pairs = mention_pairs(text, collected(text))
    forms = {0: "ann", 2: "bob", 4: "she", 6: "him", 8: "she", 11: "she"}
    assert pairs.types == tuple(f"{forms[a]} {forms[b]}" for a, b in pairs.heads.tolist())
    some = pairs.select([3, 1])
    assert some.types == (pairs.types[3], pairs.types[1])


CAPITALS = ("Ann met Bob .", "She saw Him and she left and SHE smiled")


@pytest.mark.plain
def test_a_probe_that_remembers_words_solves_the_control_task():
    """So the control can fail: its labels are the same in documents that were not trained on."""
    rng = np.random.default_rng(6)
    text = corpus(*(plain_document(f"d{i}", rng) for i in range(12)))
    words = [int(c) for doc in text.documents for c in doc.sentences[0].text.split()]
    x = torch.nn.functional.one_hot(torch.tensor(words), 4).float()
    features = replace(
        collected(text, d=4),
        store=Features.from_arrays({"0.resid_post": x, "1.resid_post": x}, model="by hand").store,
    )
    pairs = mention_pairs(text, features)
    split = [pairs.of([f"d{i}" for i in range(*ends)]) for ends in ((0, 8), (8, 10), (10, 12))]
    y = control_task(
        split[0].types, split[0].y.numpy(), splits=[part.types for part in split], seed=1
    )
    train, dev, test = (
        part.examples(features, torch.from_numpy(labels)[None])
        for part, labels in zip(split, y, strict=True)
    )
    assert 0.2 < train.y.double().mean() < 0.8
    fast = Schedule(learning_rate=0.02, batch=64, epochs=30)
    probe = fit_probe(SpanClassifier(2, "endpoints", 8, 16), train, dev, classes=2, schedule=fast)
    said = probe.log_probs(test.x, test.rows)[:, 0].argmax(-1)
    assert (said == test.y).double().mean() > 0.97


@pytest.mark.plain
@pytest.mark.parametrize(
    ("net", "reads"),
    [(SpanClassifier(2, "endpoints", 8, 16), "spans"), (Bilinear(), "heads")],
    ids=["span", "bilinear"],
)
def test_probes_find_chains_that_are_there(net, reads):
    """The activation of a word is its chain: both probes say who is who, in other documents."""
    rng = np.random.default_rng(5)
    text = corpus(*(plain_document(f"d{i}", rng) for i in range(12)))
    chains = [c for doc in text.documents for c in doc.sentences[0].text.split()]
    x = torch.nn.functional.one_hot(torch.tensor([int(c) for c in chains]), 4).float()
    features = replace(
        collected(text, d=4),
        store=Features.from_arrays({"0.resid_post": x, "1.resid_post": x}, model="by hand").store,
    )
    pairs = mention_pairs(text, features)
    split = [pairs.of([f"d{i}" for i in range(*ends)]) for ends in ((0, 8), (8, 10), (10, 12))]
    train, dev, test = (p.examples(features, p.y[None], reads=reads) for p in split)
    fast = Schedule(learning_rate=0.02, batch=64, epochs=30)
    probe = fit_probe(net, train, dev, classes=2, schedule=fast)
    said = probe.log_probs(test.x, test.rows)[:, 0].argmax(-1)
    assert (said == test.y).double().mean() > 0.97


def plain_document(id: str, rng: np.random.Generator) -> Document:
    """Every word is a mention, and names its chain."""
    names = rng.integers(4, size=40)
    mentions = ((0, i, i + 1, str(name), "pronoun") for i, name in enumerate(names))
    return document(id, " ".join(map(str, names)), *mentions)


def test_refusals(novels):
    text, features, pairs = novels
    plain = replace(text, layers=frozenset({"upos"}))
    with pytest.raises(CorpusError, match="not annotated with mentions; it has upos"):
        mention_pairs(plain, features)
    with pytest.raises(ProbeError, match=r"of by hand \(576 words, .*corpus is by hand \(13 words"):
        mention_pairs(corpus(ANN), features)
    turned = replace(text, documents=text.documents[::-1])  # as many words
    with pytest.raises(ProbeError, match="activations of others. Give the corpus that was"):
        mention_pairs(turned, features)
    headless = replace(ANN, mentions=tuple(replace(m, head=None) for m in ANN.mentions))
    with pytest.raises(CorpusError, match="'Ann' of document 'ann' has no head word"):
        mention_pairs(corpus(headless), collected(corpus(ANN)))
    alone = replace(ANN, mentions=ANN.mentions[:4])
    with pytest.raises(ProbeError, match="no pairs: 2 of its mentions have an antecedent.*context"):
        mention_pairs(corpus(alone), collected(corpus(ANN)))
    with pytest.raises(ProbeError, match="none of the .* pairs is of the 1 documents asked for"):
        pairs.of(["elsewhere"])
    with pytest.raises(ArgumentError, match="reads='span'; did you mean 'spans'"):
        pairs.examples(features, pairs.y[None], reads="span")
