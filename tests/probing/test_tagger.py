"""A kept probe: the same answers from new text, from features, from a file; and its refusals."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from probing.test_split import corpus

from interp.core.errors import ProbeError, ResultsError, SiteError
from interp.core.files.sealed import Damaged, write_tensors
from interp.models.model import Model
from interp.probing.ask.split import Split
from interp.probing.ask.tagger import Tagger
from interp.probing.ask.tagging import tagging
from interp.probing.read.collect import collect
from interp.probing.read.features import Features

FORMS = ("The", "Mary", "gave", "it")
KIND = {"The": "det", "Mary": "name", "gave": "verb", "it": "pronoun"}
SITES = ["0.resid_pre", "1.resid_post"]


def fitted(features: Callable[..., Features], *, ahead: int = 0) -> Tagger:
    """Probes of what kind of word it is, which the embedding knows."""
    splits = {}
    for n, name in enumerate(("train", "dev", "test")):
        rng = np.random.default_rng(n)
        text = corpus(tuple(tuple(rng.permutation(FORMS)) for _ in range(6)))
        documents = tuple(replace(doc, id=f"{name}-{doc.id}") for doc in text.documents)
        text = replace(text, documents=documents)
        splits[name] = Split.of(text, features(text), label=lambda word: KIND[word.form])
    return tagging(**splits, task="kind", ahead=ahead).tagger


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Model]) -> Model:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def tagger(model: Model) -> Tagger:
    return fitted(lambda text: collect(model, text, sites=SITES))


def test_new_text_is_labelled_at_every_site(model: Model, tagger: Tagger):
    table = tagger(model, ["The Mary gave", "Mary gave it it"])
    assert table.columns.tolist() == [
        *("site", "layer", "depth", "sentence", "word", "form", "label", "probability")
    ]
    first = table[table["site"] == SITES[0]]
    assert first["form"].tolist() == ["The", "Mary", "gave", "Mary", "gave", "it", "it"]
    assert first["label"].tolist() == [KIND[form] for form in first["form"]]
    assert first["sentence"].tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert first["word"].tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert table["depth"].drop_duplicates().tolist() == [0, 2]
    assert ((table["probability"] >= 1 / 4) & (table["probability"] <= 1)).all()
    one = tagger(model, "The Mary gave", sites=SITES[1:])
    whole = table.query(f"site == '{SITES[1]}' and sentence == 0").reset_index(drop=True)
    np.testing.assert_allclose(one["probability"], whole["probability"], atol=1e-6)


def test_probabilities_are_those_of_the_weights(model: Model, tagger: Tagger):
    """By the definition, in float64."""
    text = corpus((("it", "gave", "The", "Mary"),))
    features = collect(model, text, sites=SITES)
    found = tagger.log_probs(features)
    for i, site in enumerate(SITES):
        x = features[site].double()
        x = (x - tagger.moments.mean[i]) * tagger.moments.scale[i]
        logits = x @ tagger.probes.weight[i, 0].double() + tagger.probes.bias[i, 0]
        torch.testing.assert_close(found[i].double(), logits.log_softmax(-1), atol=1e-4, rtol=0)
    torch.testing.assert_close(tagger.log_probs(features, [3, 0]), found[:, [3, 0]])
    torch.testing.assert_close(tagger.at(SITES[1:]).log_probs(features), found[1:])
    best = tagger.table(features)
    assert best["form"].eq("").all()
    assert best["label"].tolist() == [tagger.classes[n] for row in found.argmax(-1) for n in row]


def test_a_file_gives_it_back(model: Model, tagger: Tagger, tmp_path: Path):
    path = tagger.save(tmp_path / "kind.safetensors")
    again = Tagger.load(path)
    assert repr(again) == repr(tagger) and repr(tagger).startswith("Tagger of kind (4 labels)")
    text = "Mary gave The it"
    assert again(model, text).equals(tagger(model, text))


def test_files_that_are_no_tagger(tagger: Tagger, tmp_path: Path):
    with pytest.raises(ResultsError, match="there is no tagger at"):
        Tagger.load(tmp_path / "nowhere")
    path = tagger.save(tmp_path / "kind.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(Damaged, match="is not as it was written"):
        Tagger.load(path)
    write_tensors(path, {"x": torch.ones(1)}, {"content": "tagger", "version": 1})
    with pytest.raises(Damaged, match="nothing under 'task', where a str belongs"):
        Tagger.load(path)
    note = {"content": "means", "version": 3, "task": "", "sites": [], "classes": []}
    write_tensors(path, {}, {**note, "ahead": 0, "norm": "none", "made": {}})
    with pytest.raises(Damaged, match="holds a means of version 3.*a tagger of version 1"):
        Tagger.load(path)


def test_another_model_pooling_width_or_site_is_refused(
    model: Model, tagger: Tagger, tiny_model: Callable[..., Model]
):
    text = corpus((("it", "gave"),))
    other = tiny_model("gpt2")
    for ask in (
        lambda: tagger(other, "it gave"),
        lambda: tagger.log_probs(collect(other, text, sites=SITES)),
    ):
        with pytest.raises(ProbeError, match=r"reads .*weights .* activations are of .*weights"):
            ask()
    with pytest.raises(ProbeError, match="pooled as 'last', and the activations are of 'mean'"):
        tagger.log_probs(collect(model, text, sites=SITES, pool="mean"))
    with pytest.raises(SiteError, match=r"no site '1.resid_post'; .*Collect it too"):
        tagger.log_probs(collect(model, text, sites=SITES[:1]))
    with pytest.raises(SiteError, match="there is no probe of '0.mlp'; of the 2 sites"):
        tagger.at(["0.mlp"])
    with pytest.raises(ProbeError, match="no word in the 1 texts"):
        tagger(model, " ")


def given(text, *, model: str = "mine", d: int = 6) -> Features:
    """Activations that say which word it is, and nothing of the model."""
    kinds = torch.tensor([FORMS.index(w.form) for s in text.sentences for w in s.words])
    x = torch.nn.functional.one_hot(kinds, d).float()
    return Features.from_arrays({"0.resid_post": x}, model=model, corpus=text)


def test_probes_of_ones_own_activations(model: Model):
    own = fitted(given)
    text = corpus((("it", "gave"), ("Mary",)))
    assert own.table(given(text), text)["label"].tolist() == ["pronoun", "verb", "name"]
    with pytest.raises(ProbeError, match="reads mine, and the activations are of yours"):
        own.table(given(text, model="yours"))
    with pytest.raises(ProbeError, match=r"1 sites of 6 dimensions, .* of 1 of 7"):
        own.table(given(text, d=7))
    with pytest.raises(ProbeError, match=r"activations of one's own \(mine\).*tagger.table"):
        own(model, "it gave")


def test_the_next_word_is_read_where_the_probes_read_it():
    ahead = fitted(given, ahead=1)
    text = corpus((("it", "gave", "Mary"),))
    assert ahead.probes.weight.shape[2] == 12
    assert ahead.table(given(text), text)["label"].tolist() == ["pronoun", "verb", "name"]
