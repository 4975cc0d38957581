"""Tagging on words whose answers are known: readable, memorisable only, or neither."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from probing.synthetic import features

from interp.core.errors import CorpusError, ProbeError
from interp.datasets.corpus import Corpus, Document, Sentence, Word
from interp.probing.ask.mdl import description_length
from interp.probing.ask.selectivity import selectivity
from interp.probing.ask.split import Split
from interp.probing.ask.tagger import read
from interp.probing.ask.tagging import tagging
from interp.probing.read.features import Features

SITES = ("0.resid_pre", "0.resid_post", "1.resid_post")
TYPES, D, TAGS = 60, 80, ("ADJ", "NOUN", "VERB")


def split(words: int, seed: int, *, types: int = TYPES) -> Split:
    """Site 0 knows the word type only, site 1 the tag only, site 2 nothing.

    A type has a usual tag, and one in ten words another; the untrained model knows the type.
    """
    world = np.random.default_rng(0)
    table = torch.tensor(world.standard_normal((2 * TYPES, D)), dtype=torch.float32)
    usual = world.integers(len(TAGS), size=2 * TYPES)
    rng = np.random.default_rng(seed)
    kind = rng.integers(types, size=words)
    tag = np.where(rng.random(words) < 0.1, rng.integers(len(TAGS), size=words), usual[kind])
    noise = torch.tensor(rng.standard_normal((3, words, D)), dtype=torch.float32)
    told = torch.zeros(words, D)
    told[torch.arange(words), torch.from_numpy(tag)] = 20.0
    named = table[torch.from_numpy(kind)]
    x = {SITES[0]: named + 0.01 * noise[0], SITES[1]: told + noise[1], SITES[2]: noise[2]}
    return Split(
        features(x),
        features({site: named + 0.5 * noise[i] for i, site in enumerate(SITES)}),
        np.arange(words),
        tuple(TAGS[t] for t in tag),
        tuple(f"w{k}" for k in kind),
        tuple(f"{seed}-{i % 7}" for i in range(words)),
        missing=3,
    )


@pytest.fixture(scope="module")
def found():
    # the test split has types that training has not
    return tagging(
        split(1200, 1), split(300, 2), split(600, 3, types=2 * TYPES), task="tag", l2=(0.1, 0.001)
    )


def value(found, **where) -> float:
    table = found.scores.summary()
    for column, wanted in where.items():
        table = table[table[column] == wanted]
    assert len(table) == 1
    return float(table["value"].iloc[0])


def test_a_tag_that_is_there_is_read_and_one_that_is_not_is_not(found):
    assert value(found, model="trained", site=SITES[1], labels="real", subset="all") > 0.99
    assert value(found, model="trained", site=SITES[2], labels="real", subset="all") < 0.5


def test_what_can_only_be_memorised_is_not_selective(found):
    """Site 0 knows types: control labels are learned as well as real ones, on types seen."""
    where = {"model": "trained", "site": SITES[0], "subset": "all"}
    ceiling = value(found, probe="word type", subset="all")
    assert value(found, labels="real", **where) == pytest.approx(ceiling, abs=0.05)
    chosen = found.scores.query("model == 'trained' and subset == 'all'")
    real, control = (chosen.query(f"labels == '{name}'") for name in ("real", "control"))
    selectivity = real.minus(control, ignoring=["labels"]).set_index("site")
    assert selectivity.loc[SITES[1], "value"] > 0.4
    assert selectivity.loc[SITES[1], "low"] > 0.3
    assert selectivity.loc[SITES[0], "value"] < 0.1


def test_unseen_types_are_apart(found):
    where = {"model": "trained", "labels": "real", "subset": "unseen"}
    assert value(found, site=SITES[1], **where) > 0.99
    assert value(found, site=SITES[0], **where) < 0.6
    assert value(found, probe="word type", subset="unseen") == value(
        found, probe="majority", subset="unseen"
    )


def test_every_control_is_in_the_table(found):
    table = found.scores.frame
    assert set(table["model"]) == {"trained", "random", "none"}
    assert set(table["labels"]) == {"real", "control"}
    assert {"majority", "word type", "linear"} <= set(table["probe"])
    assert found.scores.provenance["missing"] == [3, 3, 3]
    assert found.scores.provenance["not converged"] == 0
    assert set(table.loc[table["site"] == SITES[2], "depth"]) == {2}


def test_the_chosen_probes_read_activations_by_their_scale(found):
    held = split(400, 9)
    said = found.tagger.log_probs(held.features).argmax(-1)
    for i, least in enumerate((0.9, 0.9, 0.2)):
        names = np.array(found.tagger.classes)[said[i].numpy()]
        assert (names == np.array(held.labels)).mean() > least


def test_features_are_left_as_they_were(found):
    held = split(300, 2)
    before = {site: held.features[site].clone() for site in SITES}
    tagging(split(600, 1), held, split(300, 3), task="tag", l2=(0.1,))
    assert all(torch.equal(before[site], held.features[site]) for site in SITES)


def test_documents_in_two_splits_are_refused():
    with pytest.raises(ProbeError, match=r"document '1-0' has words in 'train' and in 'test'"):
        tagging(split(200, 1), split(100, 2), split(100, 1), task="tag")


@pytest.mark.plain
def test_bits_tell_a_regularity_from_memory():
    code = description_length(split(1500, 1), task="tag", sites=SITES).summary()
    bits = code.set_index(["model", "site", "labels"])["value"]
    assert bits["trained", SITES[1], "real"] < 0.3
    assert bits["trained", SITES[1], "control"] > 1.3
    assert code.query("probe == 'uniform'")["value"].tolist() == [pytest.approx(np.log2(3))]


def test_reading_ahead_takes_the_next_word_of_the_row():
    x = features({SITES[0]: torch.arange(10.0).view(5, 2)})
    x = replace(x, row=np.array([0, 0, 0, 1, 1]))
    found = read(x, np.array([0, 2, 3, 4]), [x.sites[0]], ahead=1)
    assert found[0].tolist() == [[0, 1, 2, 3], [4, 5, 0, 0], [6, 7, 8, 9], [8, 9, 0, 0]]
    twice = read(x, np.array([0]), [x.sites[0]], ahead=2)
    assert twice[0].tolist() == [[0, 1, 2, 3, 4, 5]]


def test_what_stands_in_the_next_word_is_read_there_only():
    """The tag of each word is written into the activations of the word after it."""

    def told(words: int, seed: int) -> Split:
        made = split(words, seed)
        row = np.zeros(words, dtype=int)
        x = replace(features({SITES[1]: made.features[SITES[1]].roll(1, 0)}), row=row)
        return replace(made, features=x, random=x)

    splits = [told(900, 1), told(200, 2), told(300, 3)]
    for ahead, low, high in ((0, 0.2, 0.6), (1, 0.95, 1.0)):
        found = tagging(*splits, task="tag", l2=(0.01,), ahead=ahead)
        assert low < value(found, model="trained", labels="real", subset="all") <= high


def corpus(tags: tuple[str | None, ...], form: str = "Ring") -> Corpus:
    sentences = tuple(
        Sentence(str(i), form, (Word(form, (0, 4), upos=tag),)) for i, tag in enumerate(tags)
    )
    layers = frozenset(["upos"]) if tags[0] else frozenset()
    return Corpus("made", (Document("d", sentences),), layers)


def test_words_that_begin_a_row_can_be_left_out():
    whole = split(40, 0)
    row = whole.features.row
    assert len(set(row.tolist())) > 2
    kept = whole.after_first()
    later = [i for i in range(len(row)) if i and row[i] == row[i - 1]]
    assert kept.words.tolist() == later
    assert kept.labels == tuple(whole.labels[i] for i in later)
    assert kept.after_first().words.tolist() == later


def test_split_of_a_corpus():
    text = corpus(("NOUN", "VERB", "NOUN"))
    x = features({SITES[0]: torch.randn(3, D)}, text)
    found = Split.of(text, x, x, "upos")
    assert found.labels == ("NOUN", "VERB", "NOUN")
    assert found.types == ("ring",) * 3
    assert found.cluster == ("d",) * 3
    with pytest.raises(CorpusError, match="made is not annotated with upos"):
        Split.of(corpus((None,) * 3), x, x, "upos")
    with pytest.raises(ProbeError, match="3 words of the trained model and 2 of the untrained"):
        fewer = Features.from_arrays(
            {SITES[0]: torch.randn(2, D)}, model="b", corpus=text, sentence=[0, 2], word=[0, 0]
        )
        Split.of(text, x, fewer, "upos")


def test_features_of_another_corpus_are_refused():
    """As many words in as many sentences, but others."""
    text, other = (corpus(("NOUN", "VERB", "NOUN"), form) for form in ("Ring", "Duck"))
    mine, others = (features({SITES[0]: torch.randn(3, D)}, part) for part in (text, other))
    for given in ((others, mine), (mine, others)):
        with pytest.raises(ProbeError, match="features are of made .*corpus is made.*Give the"):
            Split.of(text, *given, "upos")


def alone(words: int, seed: int, **more) -> Split:
    """Without an untrained model."""
    return replace(split(words, seed, **more), random=None)


def test_without_an_untrained_model_or_types_the_rest_is_there(caplog):
    splits = [replace(alone(n, seed), types=None) for n, seed in ((400, 1), (100, 2), (200, 3))]
    found = tagging(*splits, task="tag", l2=(0.1,))
    table = found.scores.frame
    assert set(table["model"]) == {"trained", "none"} and set(table["labels"]) == {"real"}
    assert set(table["probe"]) == {"linear", "majority"} and set(table["subset"]) == {"all"}
    why = found.scores.provenance["left out"]
    assert set(why) == {"control task", "untrained model", "word type", "unseen types"}
    assert "tag: no untrained model: no features of one were given (random=)" in caplog.text
    assert value(found, probe="linear", site=SITES[1]) > 0.99
    bits = description_length(splits[0], task="tag", sites=SITES[:1])
    assert set(bits.frame["labels"]) == {"real"}
    assert set(bits.provenance["left out"]) == {"control task", "untrained model"}


@pytest.mark.parametrize(
    ("types", "why"),
    [
        (lambda n: ["same"] * n, "all 400 training words are of one type, 'same'"),
        (lambda n: list(map(str, range(n))), "each of the 400 training words has a type of its"),
    ],
)
def test_a_control_task_that_cannot_be_had_is_said(types, why):
    splits = [
        replace(alone(n, seed), types=tuple(types(n))) for n, seed in ((400, 1), (100, 2), (200, 3))
    ]
    found = tagging(*splits, task="tag", l2=(0.1,))
    left_out = found.scores.provenance["left out"]
    assert left_out["control task"].startswith(why)
    assert left_out["unseen types"] == "training has every type of the test"
    assert set(found.scores.frame["labels"]) == {"real"}
    assert value(found, probe="linear", site=SITES[1]) > 0.99


def test_an_untrained_model_of_other_sites_is_said():
    parts = [split(n, seed) for n, seed in ((400, 1), (100, 2), (200, 3))]
    x = [features({"5.mlp": part.features[SITES[0]]}) for part in parts]
    splits = [replace(part, random=given) for part, given in zip(parts, x, strict=True)]
    found = tagging(*splits, task="tag", l2=(0.1,), sites=SITES[:1])
    left_out = found.scores.provenance["left out"]
    assert left_out["untrained model"] == "it was collected at none of 0.resid_pre"
    some = [splits[0], alone(100, 2), splits[2]]
    found = tagging(*some, task="tag", l2=(0.1,), sites=SITES[:1])
    assert "for 2 of 3 splits only" in found.scores.provenance["left out"]["untrained model"]


@pytest.mark.plain
def test_several_draws_of_control_labels():
    parts = [alone(n, seed) for n, seed in ((600, 1), (200, 2), (300, 3))]
    one, three = (tagging(*parts, task="tag", l2=(0.1, 0.01), draws=n) for n in (1, 3))
    where = {"site": SITES[2], "subset": "all", "probe": "linear"}
    each = [value(three, labels=f"control {n}", **where) for n in (1, 2, 3)]
    assert value(three, labels="control", **where) == pytest.approx(np.mean(each))
    assert each[0] == pytest.approx(value(one, labels="control", **where), abs=0.02)
    assert len(set(each)) > 1
    assert value(three, labels="real", **where) == pytest.approx(
        value(one, labels="real", **where), abs=0.02
    )
    assert three.scores.provenance["draws"] == 3
    assert set(three.dev.frame["labels"]) == set(three.scores.frame["labels"])
    bits = description_length(parts[0], task="tag", sites=SITES[:1], draws=2).frame
    assert set(bits["labels"]) == {"real", "control", "control 1", "control 2"}
    found = selectivity(three.scores).set_index("site")
    assert found.loc[SITES[1], "value"] > 0.4 and found.loc[SITES[1], "low"] > 0
    assert found.loc[SITES[1], "draws"] == 3


def test_unlabelled_words_are_counted():
    parts = [alone(n, seed) for n, seed in ((400, 1), (100, 2), (200, 3))]
    parts[1] = replace(parts[1], unlabelled=7)
    found = tagging(*parts, task="tag", l2=(0.1,), sites=SITES[1:2])
    assert found.scores.provenance["unlabelled"] == [0, 7, 0]
