"""The doors of the probes: wrong arguments are refused in words, and no model runs."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from doors import complaints

from interp import Model, Pairs, probing
from interp.core.errors import ProbeError, SiteError
from interp.core.parts.sites import Site
from interp.datasets import Corpus, Document, Mention, Sentence, Word
from interp.probing.ask.trees import Trees, judge
from interp.probing.fit.linear import LinearProbe
from interp.probing.fit.nets.mixing import expected_layer_gap, expected_layer_interval, gains
from interp.probing.read.features import Features
from interp.probing.use.erasure import (
    leace,
    probe_directions,
    random_directions,
    same_variance,
    sinks,
)

FORMS = ("The", "Mary", "gave", "it", "The", "Mary", "gave", "it")
TAGS = ("X", "Y", "X", "Y", "Y", "X", "Y", "X")
SITE = "0.resid_post"
NAMES = ("train", "dev", "test")
ONCE = probing.Schedule(epochs=1)


def part(name: str) -> Corpus:
    """Two sentences of four words, in one document."""
    sentences = []
    for n in range(2):
        words, text = [], ""
        for form, tag in zip(FORMS[:4], TAGS[4 * n : 4 * n + 4], strict=True):
            text += " " * bool(text)
            words.append(Word(form, (len(text), len(text) + len(form)), upos=tag))
            text += form
        sentences.append(Sentence(f"{name}-{n}", text, tuple(words)))
    mentions = [Mention(0, (i, i + 1), chain, i, "proper") for i, chain in enumerate("abba")]
    return Corpus(
        name, (Document(name, tuple(sentences), tuple(mentions)),), frozenset({"upos", "mentions"})
    )


def x(seed: int = 0) -> torch.Tensor:
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(seed))


def feats(corpus: Corpus) -> Features:
    """Features of its words, all in one row."""
    return Features.from_arrays({SITE: x()}, model="by hand", corpus=corpus, row=[0] * 8)


def split(name: str) -> probing.Split:
    corpus = part(name)
    return probing.Split.of(corpus, feats(corpus), feats(corpus), "upos")


def of(thing: object) -> dict[str, Any]:
    """What a dataclass is made of."""
    return {field.name: getattr(thing, field.name) for field in fields(thing)}


Y = torch.tensor([[0, 1, 0, 1, 1, 0, 1, 0]])


def examples() -> probing.Examples:
    return probing.Examples.of_words(x()[None], Y)


def trees() -> Trees:
    return Trees.of([[-1, 0, 1, 2]] * 2)


def cases(
    model: Model, pairs: Pairs, folder: Path
) -> Iterator[tuple[Callable[..., Any], Mapping[str, Any]]]:
    """A right call of each function, classmethod, method and constructor."""
    corpus, found = part("train"), feats(part("train"))
    small = {"context": None, "dtype": torch.float32, "memory": "1MB", "engine": "auto"}
    yield (
        probing.collect,
        {
            **{"model": model, "corpus": corpus, "sites": "resid", "pool": "last", **small},
            **{"folder": folder / "features", "bos": "none"},
        },
    )
    yield Features, of(found)
    yield found.__getitem__, {"site": SITE}
    yield found.stack, {"words": [0, 1], "sites": [SITE]}
    yield found.require, {"corpus": corpus}
    yield Features.load, {"folder": folder / "features"}
    place = {"sentence": [0] * 8, "word": np.arange(8), "row": [0] * 8}
    yield (
        Features.from_arrays,
        {"arrays": {SITE: x().numpy()}, "model": "by hand", "corpus": None, **place},
    )
    yield probing.Split, of(split("train"))
    yield (
        probing.Split.of,
        {"corpus": corpus, "features": found, "random": found, "label": "upos"},
    )
    yield (
        probing.Split.of_words,
        {
            **{"features": found, "labels": list(TAGS), "cluster": ["a"] * 8},
            **{"types": list(FORMS), "random": found},
        },
    )
    yield split("train").select, {"words": [0, 1]}
    yield split("train").after_first, {}
    common = {"task": "upos", "sites": [SITE], "rare": "refuse", "seed": 1}
    yield (
        probing.tagging,
        {
            **{"train": split("train"), "dev": split("dev"), "test": split("test"), **common},
            **{"l2": [0.1], "ahead": 1, "draws": 1, "note": {"a": 1}},
        },
    )
    yield (
        probing.description_length,
        {"train": split("train"), **common, "l2": [0.1], "fractions": (0.5, 1.0), "draws": 1},
    )
    few = {name: probing.Split.of(part(name), feats(part(name)), None, "upos") for name in NAMES}
    tags = probing.tagging(**few, task="upos")
    yield probing.selectivity, {"scores": tags.scores, "seed": 1}
    yield probing.Tagger, of(tags.tagger)
    run = {
        name: probing.Split.of(text, probing.collect(model, text, sites=[SITE]), None, "upos")
        for name, text in zip(NAMES, map(part, NAMES), strict=True)
    }
    tagger = probing.tagging(**run, task="upos").tagger
    yield tagger.__call__, {"model": model, "text": ["Mary gave"], "sites": [SITE]}
    yield tags.tagger.log_probs, {"features": found, "words": [0, 1]}
    yield tags.tagger.table, {"features": found, "corpus": corpus}
    yield tags.tagger.at, {"sites": [SITE]}
    yield tags.tagger.save, {"path": folder / "upos.safetensors"}
    tags.tagger.save(folder / "there.safetensors")
    yield probing.Tagger.load, {"path": folder / "there.safetensors"}
    fitted = probing.fit_linear(x()[None], Y, l2=torch.tensor([0.1]))
    yield (
        probing.fit_linear,
        {
            **{"x": x()[None], "y": Y, "l2": torch.tensor([0.1]), "classes": 2},
            **{"tolerance": 0.1, "steps": 5},
        },
    )
    yield LinearProbe, of(fitted)
    yield fitted.log_probs, {"x": x()[None]}
    yield fitted.site, {"index": 0}
    yield fitted.select, {"problem": torch.tensor([0])}
    yield probing.Examples, of(examples())
    yield probing.Examples.of_words, {"x": x()[None], "y": Y}
    yield probing.Schedule, of(ONCE)
    yield probing.Mlp, {"hidden": 4}
    yield probing.Bilinear, {}
    yield probing.SpanClassifier, of(probing.SpanClassifier(project=4, hidden=4))
    trained = probing.fit_probe(probing.Mlp(4), examples(), examples(), schedule=ONCE)
    yield (
        probing.fit_probe,
        {
            **{"net": probing.Mlp(4), "training": examples(), "dev": examples(), "classes": 2},
            **{"sites": [SITE], "labels": ["upos"], "source": "cumulative", "norm": "rms"},
            **{"schedule": ONCE, "seed": 1},
        },
    )
    yield trained.log_probs, {"x": x()[None], "rows": torch.tensor([[0], [1]])}
    mentions = probing.mention_pairs(corpus, found, first="keep")
    yield probing.MentionPairs, of(mentions)
    yield (
        probing.mention_pairs,
        {"corpus": corpus, "features": found, "first": "keep", "seed": 1},
    )
    yield mentions.select, {"rows": [0]}
    yield mentions.of, {"documents": ["train"]}
    yield (
        mentions.examples,
        {"features": found, "y": mentions.y[None], "reads": "heads", "sites": [SITE]},
    )
    yield Trees, of(trees())
    yield Trees.of, {"heads": [[-1, 0]], "counted": [[True, True]]}
    distance = probing.fit_distance(x()[None], trees(), x()[None], trees(), schedule=ONCE, rank=2)
    yield (
        probing.fit_distance,
        {
            **{"x": x()[None], "trees": trees(), "dev_x": x()[None], "dev_trees": trees()},
            **{"rank": 2, "sites": [SITE], "norm": "rms", "schedule": ONCE, "seed": 1},
        },
    )
    yield distance.distances, {"x": x()[None], "trees": trees()}
    predicted = distance.distances(x()[None], trees())
    yield judge, {"predicted": predicted, "trees": trees()}
    long = Trees.of([[-1, 0, 1, 2, 3, 4]])
    yield (
        judge(long.linear, long).scores,
        {
            **{"cluster": ["a"], "sites": [Site.parse(SITE)], "task": "tree", "probe": "distance"},
            **{"model": "trained", "provenance": {}},
        },
    )
    yield probing.centre_of_gravity, {"weights": np.array([0.5, 0.5])}
    yield probing.expected_layer, {"scores": np.array([0.5, 0.75])}
    totals = {"totals": np.array([[1.0, 2.0], [2.0, 3.0]]), "counts": np.array([3.0, 4.0])}
    yield expected_layer_interval, totals
    both = tuple(totals.values())
    yield expected_layer_gap, {"first": both, "then": both, "documents": "same"}
    yield gains, {**totals, "resamples": 10, "seed": 1}
    labels = Y[0].numpy()
    yield (
        probing.persistence,
        {
            **{"features": found, "y": labels, "cluster": ["a"] * 8, "task": "upos"},
            **{"directions": {"probe": torch.eye(6)[:, :1]}, "provenance": {}},
            **{"words": np.arange(8), "model": "trained"},
        },
    )
    weight = torch.randn(6, 2, generator=torch.Generator().manual_seed(1))
    others = probing.HeldOut({SITE: x(1)}, Y[0], ["a"] * 4 + ["b"] * 4, ["a", "b"] * 4)
    yield (
        probing.erasers,
        {
            **{"x": {SITE: x()}, "labels": Y[0], "weights": {SITE: weight}, "seed": 1},
            **{"types": FORMS, "held_out": others, "draws": 1},
        },
    )
    yield probing.HeldOut, of(others)
    yield (
        probing.still_read,
        {
            **{"erasers": {"leace": {SITE: leace(x(), Y[0])}}, "held_out": others, "task": "upos"},
            **{"folds": 2, "l2": 0.1, "seed": 1},
        },
    )
    yield same_variance, {"x": x(), "rank": 1, "share": 0.2, "seed": 1}
    yield leace, {"x": x(), "labels": Y[0]}
    yield random_directions, {"x": x(), "rank": 1, "seed": 1}
    yield probe_directions, {"x": x(), "weight": weight}
    yield sinks, {"x": x()}
    width = model.facts.d_model
    wide = torch.randn(8, width, generator=torch.Generator().manual_seed(1)).double()
    erasures = probing.erasers({SITE: wide}, Y[0], draws=3)
    run = {"model": model, "pairs": pairs, "engine": "auto", "memory": None, "checkpoint": None}
    yield (
        probing.amnesic,
        {
            **{**run, "erasers": erasures, "sites": "each", "positions": "all"},
            "metric": "logit_diff",
        },
    )
    after = probing.amnesic(model, pairs, erasures, metric="logit_diff")
    yield probing.beyond, {"results": after, "control": "random"}
    yield probing.by_kind, {"results": after}
    yield probing.steering_vector, {"x": x(), "labels": Y[0], "weight": weight}
    yield (
        probing.steer,
        {
            **{**run, "vectors": {SITE: wide[0]}, "doses": [1.0], "positions": "end", "seed": 1},
            "metric": "logit_diff",
        },
    )


def test_what_nothing_can_be_fitted_to_is_refused():
    with pytest.raises(ProbeError, match="no word of 'dev' has a label that can be learned"):
        probing.tagging(split("train"), split("dev").select([]), split("test"), task="upos")
    with pytest.raises(SiteError, match="no site '3.mlp'"):
        probing.description_length(split("train"), task="upos", sites=["3.mlp"])
    with pytest.raises(ProbeError, match="scores are of no layer"):
        probing.expected_layer(np.zeros(0))
    with pytest.raises(ProbeError, match="2 documents and counts of 2, the smallest 0"):
        gains(np.zeros((2, 2)), np.array([0.0, 1.0]))
    with pytest.raises(ProbeError, match="at '0.mlp' tell nothing of the labels"):
        probing.erasers({"0.mlp": torch.ones(8, 6)}, Y[0])
    with pytest.raises(ProbeError, match=r"shape \(1, 0, 6\) .*nothing to fit"):
        probing.fit_linear(x()[None, :0], Y[:, :0], l2=torch.tensor([0.1]))
    with pytest.raises(ProbeError, match="directions 'probe' hold NaN"):
        probing.persistence(
            feats(part("train")),
            Y[0].numpy(),
            ["a"] * 8,
            {"probe": torch.full((6, 1), torch.nan)},
            task="upos",
            provenance={},
        )


def test_sites_are_taken_as_text():
    by_text, by_site = (probing.erasers({site: x()}, Y[0]) for site in (SITE, Site.parse(SITE)))
    assert list(by_text["leace"]) == list(by_site["leace"]) == [Site.parse(SITE)]


@pytest.mark.plain
def test_wrong_arguments_are_refused_in_words(
    tiny_model: Callable[..., Model],
    pairs: Pairs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    found = complaints(cases(tiny_model("llama"), pairs, tmp_path), tmp_path)
    assert not found, "\n".join(found)
