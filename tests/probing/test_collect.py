"""Collected words against Hugging Face's hidden states, the bridge's cache, and loops."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module

import numpy as np
import pytest
import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import interp
from interp.core.door.door import ArgumentError
from interp.core.errors import (
    CorpusError,
    InterpError,
    PairsError,
    ProbeError,
    ResultsError,
    SiteError,
    Unsupported,
)
from interp.datasets.corpus import Corpus, Document, Sentence, Word
from interp.datasets.words.alignment import Alignment, align
from interp.engine import limits
from interp.engine.engines.replay.engine import Replay
from interp.engine.plain.captures.captured import Captured
from interp.models.bridge.precision import exact
from interp.models.model import Model
from interp.probing.read.collect import collect
from interp.probing.read.features import Features

collecting = import_module("interp.probing.collect")  # the package has the function by that name
TOLERANCE = 1e-12
FORMS = ["The", "Mary", "John", "gave", "it", "to", "Mary-John", "don't", "it-to-it", "é"]


def sentence(forms: list[str], name: str = "s") -> Sentence:
    words, at = [], 0
    for form in forms:
        words.append(Word(form, (at, at + len(form))))
        at += len(form) + 1
    return Sentence(name, " ".join(forms), tuple(words))


def made(*documents: list[Sentence]) -> Corpus:
    found = tuple(Document(str(n), tuple(sentences)) for n, sentences in enumerate(documents))
    return Corpus("made", found, frozenset())


def random_corpus(sentences: int, seed: int = 0, longest: int = 5) -> Corpus:
    """Sentences of many lengths in no order, a document for each two."""
    draw = np.random.default_rng(seed)
    found = [
        sentence(draw.choice(FORMS, size=draw.integers(1, longest + 1)).tolist(), f"s{n}")
        for n in range(sentences)
    ]
    return made(*(found[n : n + 2] for n in range(0, sentences, 2)))


def pooled(tokens: torch.Tensor, start: int, end: int, pool: str) -> torch.Tensor:
    part = tokens[start:end]
    return {"first": part[0], "last": part[-1], "mean": part.mean(0)}[pool]


def every(aligned: Alignment) -> list[tuple[int, int, int]]:
    """Row, start and end of each word."""
    parts = (aligned.row, aligned.start, aligned.end)
    return list(zip(*(part.tolist() for part in parts), strict=True))


def says(error: type[Exception], call: Callable[[], object], *parts: str) -> None:
    with pytest.raises(error) as caught:
        call()
    missing = [part for part in parts if part not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"


@pytest.fixture
def llama(tiny_model: Callable[..., Model]) -> Model:
    """3 layers, 6 heads of 4, d_model 30, d_mlp 14, 16 positions."""
    return tiny_model("llama")


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The tokens of each forward of the replay engine."""
    ran: list[torch.Tensor] = []
    walk = Replay.walk

    def counting(self, tokens, see, *, shelves, layers=None, written=None):
        ran.append(tokens)
        walk(self, tokens, see, shelves=shelves, layers=layers)

    monkeypatch.setattr(Replay, "walk", counting)
    return ran


# the numbers


@pytest.mark.parametrize("pool", ["first", "last", "mean"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "neox"])
def test_residual_streams_are_hugging_faces_hidden_states(tiny_model, family, pool):
    """Each row by itself, without padding, through code that interp did not write."""
    model, corpus = tiny_model(family), random_corpus(9)
    plain = type(tiny.build(family)).from_pretrained(model.name, dtype=torch.float64)
    exact(plain)
    features = collect(model, corpus, pool=pool, dtype=torch.float64)
    aligned = align(model, corpus)
    with torch.no_grad():
        states = [
            plain(torch.tensor([row]), output_hidden_states=True).hidden_states
            for row in aligned.rows
        ]
    layers = model.facts.n_layers
    assert [str(s) for s in features] == [
        "0.resid_pre",
        *(f"{n}.resid_post" for n in range(layers)),
    ]
    compared = layers + (family == "bert")  # of the others the last is behind the final norm
    for n, site in enumerate(features.sites[:compared]):
        truth = [pooled(states[row][n][0], a, b, pool) for row, a, b in every(aligned)]
        assert (features[site] - torch.stack(truth)).abs().max() < TOLERANCE
    assert len(features) == corpus.n_words == len(truth)
    assert np.array_equal(features.sentence, aligned.sentence)
    assert np.array_equal(features.word, aligned.word)


@pytest.mark.parametrize("engine", ["replay", "hooks"])
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_heads_and_others_are_the_bridges_cache(tiny_model, family, engine):
    model, corpus = tiny_model(family), random_corpus(7, seed=1)
    sites = ["heads", "mlps", "2.resid_post", "1.mlp[3]", "0.2.q"]
    features = collect(model, corpus, sites=sites, dtype=torch.float64, engine=engine)
    caches = [
        model.bridge.run_with_cache(torch.tensor([row]))[1] for row in align(model, corpus).rows
    ]
    names = {
        "1.4": ("blocks.1.attn.hook_z", 4),
        "2.0": ("blocks.2.attn.hook_z", 0),
        "0.mlp": ("blocks.0.hook_mlp_out", None),
        "2.resid_post": ("blocks.2.hook_resid_post", None),
    }
    places = every(align(model, corpus))
    for site, (name, head) in names.items():
        truth = []
        for row, _, end in places:
            found = caches[row][name][0, end - 1]
            truth.append(found if head is None else found.view(model.facts.n_heads, -1)[head])
        assert (features[site] - torch.stack(truth)).abs().max() < TOLERANCE, site
    assert features["1.4"].shape == (len(places), model.facts.d_head)
    assert features["1.mlp[3]"].shape == (len(places), 1)
    assert features["0.2.q"].shape == (len(places), model.facts.d_head)


@pytest.mark.plain
@settings(
    deadline=None, max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    sentences=st.lists(
        st.lists(st.sampled_from(FORMS), min_size=1, max_size=5), min_size=1, max_size=6
    ),
    pool=st.sampled_from(["first", "last", "mean"]),
    family=st.sampled_from(["llama", "bert"]),
)
def test_a_batch_is_a_loop(tiny_model, tmp_path_factory, sentences, pool, family):
    """Padding, order and folders change nothing."""
    model = tiny_model(family)
    corpus = made(*([sentence(forms)] for forms in sentences))
    options = {"pool": pool, "dtype": torch.float64}
    features = collect(model, corpus, **options)
    stored = collect(model, corpus, folder=tmp_path_factory.mktemp("c") / "x", **options)
    alone = [collect(model, made([sentence(forms)]), **options) for forms in sentences]
    truth = torch.cat([one.stack() for one in alone], 1)
    assert (features.stack() - truth).abs().max() < TOLERANCE
    assert torch.equal(stored.stack(), features.stack())
    for site in features:
        assert torch.equal(stored[site], features[site])


def test_sentences_that_share_a_row_see_each_other(llama):
    sentences = [sentence(["The", "Mary"]), sentence(["gave", "it", "to"]), sentence(["John"] * 9)]
    corpus = made(sentences)
    options = {"dtype": torch.float64, "sites": "2.resid_post"}
    features = collect(llama, corpus, context=6, **options)
    assert features.row.tolist() == [0] * 5 + [1] * 6
    joined = collect(llama, made([sentence(["The", "Mary", "gave", "it", "to"])]), **options)
    alone = collect(llama, corpus, **options)
    assert (features["2.resid_post"][:5] - joined["2.resid_post"]).abs().max() < TOLERANCE
    assert (features["2.resid_post"][2:5] - alone["2.resid_post"][2:5]).abs().max() > 1e-3
    assert features.missing == ((2, 0), (2, 1), (2, 2))
    assert "3 of 14 words have no tokens" in features.provenance["note"]
    assert features.provenance["note"] in repr(features)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("pool", ["last", "mean"])
def test_the_device_changes_no_number(llama, pool):
    here = interp.load(llama.name, device="cpu", dtype=torch.float64)
    assert llama.device.type == "cuda"
    options = {"sites": ["resid", "heads", "1.mlp[2]"], "pool": pool, "dtype": torch.float64}
    one, two = (collect(model, random_corpus(9), **options) for model in (here, llama))
    for site in one:
        assert two[site].device.type == "cpu"
        assert (one[site] - two[site]).abs().max() < TOLERANCE


# the forwards


def test_rows_of_a_causal_model_fill_forwards_together(llama, forwards, monkeypatch):
    monkeypatch.setattr(limits, "PROCESSOR", replace(limits.PROCESSOR, tokens=40))
    corpus = random_corpus(40, seed=2)
    features = collect(llama, corpus, sites="1.resid_post")
    shapes = [tuple(tokens.shape) for tokens in forwards]
    assert sum(rows for rows, _ in shapes) == 40
    assert all(rows * length <= 40 for rows, length in shapes)
    lengths = [length for _, length in shapes]
    assert lengths == sorted(lengths)
    assert len(shapes) <= 1.3 * features.provenance["tokens"] / 40 + 1


def test_rows_of_an_encoder_run_with_their_equals(tiny_model, forwards):
    model, corpus = tiny_model("bert"), random_corpus(40, seed=2)
    collect(model, corpus, sites="1.resid_post")
    lengths = {len(row) for row in align(model, corpus).rows}
    assert [tokens.shape[1] for tokens in forwards] == sorted(lengths)


def test_an_encoder_before_a_decoder_has_the_words(tiny_model):
    model, corpus = tiny_model("t5"), random_corpus(5)
    features = collect(model, corpus, dtype=torch.float64)
    assert str(features.sites[0]) == "enc.0.resid_pre"
    assert str(features.sites[-1]) == "enc.2.resid_post"
    says(
        SiteError,
        lambda: collect(model, corpus, sites="heads"),
        *("'dec.0.0'", "decoder", "'resid'"),
    )


# the noun


def test_features_are_words_by_site(llama, tmp_path):
    corpus = random_corpus(8, seed=3)
    held = collect(llama, corpus, sites=["heads", "1.mlp"])
    stored = collect(llama, corpus, sites=["heads", "1.mlp"], folder=tmp_path / "x")
    n = corpus.n_words
    for features in (held, stored):
        assert len(features) == n
        assert "1.mlp" in features and "2.mlp" not in features
        assert features["1.mlp"].shape == (n, 30)
        assert features["1.mlp"].dtype == torch.float32
        heads = [site for site in features if site.kind == "z"]
        chosen = [n - 1, 0, 2, 0]  # any order, and twice
        found = features.stack(chosen, sites=heads)
        assert found.shape == (18, 4, 4)
        for row, site in zip(found, heads, strict=True):
            assert torch.equal(row, features[site][chosen])
        assert torch.equal(features.stack(torch.tensor(chosen), sites=heads), found)
        assert torch.equal(
            features.stack(np.array([1, 3]), sites=["1.mlp"])[0], held["1.mlp"][[1, 3]]
        )
        assert features.stack([], sites=heads).shape == (18, 0, 4)
        says(ProbeError, features.stack, "18 z (0.0 to 2.5)", "1 mlp_out (1.mlp)", "sites=[")
        says(
            SiteError,
            partial(features.__getitem__, "2.mlp"),
            "'2.mlp'",
            "19 sites",
            "Collect it too",
        )
        for words, parts in (
            ([n], [f"no word {n}", f"{n} that"]),
            ([-1], ["no word -1"]),
        ):
            says(ProbeError, partial(features.stack, words, sites=heads), *parts)
        says(ArgumentError, partial(features.stack, [True], sites=heads), "has True, a bool")
        for part in (f"{n} words of made", "18 z (0.0 to 2.5)", "last token", "float32", "MB"):
            assert part in repr(features)
    again = Features.load(tmp_path / "x")
    assert (again.sites, again.missing, again.pool) == (held.sites, held.missing, "last")
    assert again.provenance == stored.provenance
    for name in ("sentence", "word", "row"):
        assert np.array_equal(getattr(again, name), getattr(held, name))
    note = held.provenance
    assert note["weights"] == llama.weight_hash
    assert (note["words"], note["engine"], note["bos"]) == (n, "replay", "model")
    assert note["bytes"] == n * 4 * (18 * 4 + 30)


def test_gradients_can_be_taken_through_a_probe(llama):
    with torch.inference_mode():
        features = collect(llama, random_corpus(3), sites="1.mlp")
    probe = torch.nn.Linear(30, 1)
    probe(features["1.mlp"]).sum().backward()
    assert probe.weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pool", ["last", "mean"])
def test_dtypes_round_once(llama, tmp_path, dtype, pool):
    corpus = random_corpus(5)
    exact = collect(llama, corpus, dtype=torch.float64, pool=pool)
    for folder in (None, tmp_path / "x"):
        found = collect(llama, corpus, dtype=dtype, pool=pool, folder=folder)
        assert torch.equal(found.stack(), exact.stack().to(dtype))


def test_explain_tells_it_without_running(llama, forwards):
    plan = interp.explain(collect, llama, random_corpus(5), sites="1.mlp")
    assert {batch.layers for batch in plan.batches} == {(0, 1)}
    assert not forwards


# in a folder

CHILD = """
import pickle, sys, time
from pathlib import Path
import torch
import interp
from dataclasses import replace
from importlib import import_module
from interp.engine import limits
from interp.engine.collect.folder import Folder
collecting = import_module("interp.probing.read.collect")
torch.set_num_threads(1)
write = Folder.write
def slowly(*args):
    write(*args)
    time.sleep(0.3)
Folder.write = slowly
limits.PROCESSOR = replace(limits.PROCESSOR, tokens=24)
collecting.SHARD_TOKENS = 24
corpus, options = pickle.loads(Path(sys.argv[2]).read_bytes())
model = interp.load(sys.argv[1], dtype=torch.float64)
collecting.collect(model, corpus, folder=sys.argv[3], **options)
"""
OPTIONS = {"sites": ["resid", "heads"], "pool": "mean", "dtype": torch.float32}


@pytest.mark.plain
def test_a_run_that_was_killed_goes_on(llama, tmp_path, monkeypatch, forwards):
    corpus = random_corpus(40, seed=4)
    monkeypatch.setattr(limits, "PROCESSOR", replace(limits.PROCESSOR, tokens=24))
    monkeypatch.setattr(collecting, "SHARD_TOKENS", 24)
    truth = collect(llama, corpus, folder=tmp_path / "truth", **OPTIONS)
    shards = len(list((tmp_path / "truth").glob("shard-*")))
    whole = len(forwards)
    assert shards > 6
    folder, given = tmp_path / "killed", tmp_path / "given"
    given.write_bytes(pickle.dumps((corpus, OPTIONS)))
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, llama.name, str(given), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    while len(list(folder.glob("shard-*.safetensors"))) < 2:
        assert child.poll() is None, child.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    written = {p.name: p.stat().st_mtime_ns for p in folder.glob("shard-*.safetensors")}
    assert 2 <= len(written) < shards
    says(ResultsError, lambda: Features.load(folder), "is not finished", "same folder=")
    forwards.clear()
    found = collect(llama, corpus, folder=folder, **OPTIONS)
    assert 0 < len(forwards) <= whole - len(written)
    assert written.items() <= {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}.items()
    for site in truth:
        assert torch.equal(found[site], truth[site])
    forwards.clear()
    collect(llama, corpus, folder=folder, **OPTIONS)
    assert not forwards


def test_shards_hold_what_memory_allows(llama, tmp_path):
    corpus = random_corpus(30, seed=5)
    word = 4 * 4 * 30
    features = collect(llama, corpus, folder=tmp_path, memory=9 * word)
    index = json.loads((tmp_path / "index.json").read_text())
    sizes = [len(part["rows"]) for part in index["shards"]]
    assert sum(sizes) == len(features) and max(sizes) <= 9
    assert len(sizes) > 30 * 3 // 9 // 2
    free = collect(llama, corpus)
    assert (features.stack() - free.stack()).abs().max() < 1e-5


def test_a_run_goes_on_within_its_memory_or_not_at_all(llama, tmp_path, forwards):
    """Shards keep the words that the first run gave them, so less memory cannot hold them."""
    corpus, word = random_corpus(30, seed=5), 4 * 4 * 30
    collect(llama, corpus, folder=tmp_path, memory=20 * word)
    index = json.loads((tmp_path / "index.json").read_text())
    sizes = {part["file"]: len(part["rows"]) for part in index["shards"]}
    file, most = max(sizes.items(), key=lambda item: item[1])
    (tmp_path / file).unlink()
    forwards.clear()
    assert most > 9
    says(
        InterpError,
        lambda: collect(llama, corpus, folder=tmp_path, memory=most * word - 1),
        *(str(tmp_path), f"has {most} words", f"{most * word} bytes", f"{word} a word"),
        *(f"memory={most * word}", "another folder="),
    )
    assert not forwards and not (tmp_path / file).exists()
    collect(llama, corpus, folder=tmp_path, memory=most * word)
    assert collect(llama, corpus, folder=tmp_path, memory=9 * word).sites  # nothing is left to run


def test_a_folder_of_something_else(llama, tiny_model, tmp_path):
    corpus, folder = random_corpus(4), tmp_path / "x"
    options = {"sites": ["1.mlp", "0.3"], "folder": folder}
    collect(llama, corpus, **options)
    first = corpus.documents[0].sentences[0]
    fewer = replace(
        corpus,
        documents=(
            replace(corpus.documents[0], sentences=(replace(first, words=first.words[1:]),)),
            *corpus.documents[1:],
        ),
    )
    for call, name in (
        (lambda: collect(tiny_model("llama-mha"), corpus, **options), "weights"),
        (lambda: collect(llama, random_corpus(4, seed=9), **options), "words and tokens"),
        (lambda: collect(llama, fewer, **options), "words and tokens"),
        (lambda: collect(llama, corpus, context=16, **options), "words and tokens"),
        (lambda: collect(llama, corpus, **{**options, "sites": "heads"}), "sites"),
        (lambda: collect(llama, corpus, pool="mean", **options), "pool"),
        (lambda: collect(llama, corpus, dtype=torch.float16, **options), "kept"),
    ):
        says(ResultsError, call, str(folder), f"{name} (", "another folder=", "there", "here")
    collect(llama, corpus, engine="hooks", **options)  # the engine changes no number
    says(ResultsError, lambda: Captured.load(folder), "holds a collection, not a capture")
    interp.capture(llama, [[1, 2]], "1.mlp", folder=tmp_path / "capture")
    taken = {"folder": tmp_path / "capture"}
    says(ResultsError, lambda: collect(llama, corpus, **taken), "holds a capture")
    says(ResultsError, lambda: Features.load(tmp_path / "capture"), "holds a capture")
    says(
        ResultsError,
        lambda: Features.load(tmp_path / "none"),
        *("no collection", "interp.probing.collect"),
    )
    (folder / "index.json").unlink()
    says(ResultsError, lambda: collect(llama, corpus, **options), "no index.json")


def test_a_folder_of_a_text_without_the_words_that_have_no_tokens(llama, tmp_path):
    """The tokens and their words are the same; a folder would say that nothing is missing."""
    plain = sentence(["The", "Mary"])
    blank = replace(plain, words=(*plain.words, Word(" ", (3, 4))))
    collect(llama, made([plain]), folder=tmp_path / "x")
    options = {"folder": tmp_path / "x"}
    says(ResultsError, lambda: collect(llama, made([blank]), **options), "words and tokens (")
    found = collect(llama, made([blank]), folder=tmp_path / "y")
    assert found.missing == collect(llama, made([blank])).missing == ((0, 2),)


def test_a_folder_of_another_text_of_the_same_tokens(llama, tmp_path):
    """Words that a tokenizer does not know have one token, and are told apart all the same."""
    one, two = made([sentence(["The", "Xx"])]), made([sentence(["The", "Yy"])])
    assert align(llama, one).fingerprint == align(llama, two).fingerprint
    collect(llama, one, folder=tmp_path / "x").require(one)
    says(ResultsError, lambda: collect(llama, two, folder=tmp_path / "x"), "corpus text (")
    says(ProbeError, lambda: Features.load(tmp_path / "x").require(two), "of made (2 words")


# refusals


def test_what_is_refused(llama):
    corpus = random_corpus(4)
    big = replace(llama, tokenizer=_shifted(40))
    cases = [
        (ArgumentError, lambda: collect(llama, corpus, pool="lst"), ["'lst'", "'last'"]),
        (Unsupported, lambda: collect(llama, corpus, dtype=torch.int8), ["int8"]),
        (Unsupported, lambda: collect(llama, corpus, sites="logits"), ["'logits'"]),
        (Unsupported, lambda: collect(llama, corpus, sites="1.2.pattern"), ["interp.attention"]),
        (SiteError, lambda: collect(llama, corpus, sites="7.1"), ["layer 7"]),
        (SiteError, lambda: collect(llama, corpus, sites=[]), ["no site"]),
        (CorpusError, lambda: collect(llama, made([sentence([])])), ["no words"]),
        (CorpusError, lambda: collect(llama, corpus, context=17), ["1 to 16"]),
        (PairsError, lambda: collect(big, corpus), ["vocabulary", "28", "another model's"]),
        (InterpError, lambda: collect(llama, corpus, memory=0), ["memory=0"]),
    ]
    for error, call, parts in cases:
        says(error, call, *parts)


def _shifted(by: int) -> object:
    """A tokenizer of another model: its ids are larger than this one's vocabulary."""
    tokenizer = tiny.word_tokenizer(adds_bos=False)
    tokenizer.add_tokens([f"new{n}" for n in range(by)])
    tokenizer.add_tokens(["The"[1:], "it"])
    return tokenizer


def test_the_budget_is_held_before_anything_runs(llama, tmp_path, forwards):
    corpus = random_corpus(20)
    n, word = corpus.n_words, 4 * 4 * 30
    says(
        InterpError,
        lambda: collect(llama, corpus, memory=n * word - 1),
        *(f"{n} words of made at 4 sites", f"{n * word} bytes", f"{word} a word", "budget"),
        *("folder=", "fewer sites", "corpus.head(n)", "float16", "memory="),
    )
    longest = max(map(len, corpus.sentences))
    says(
        InterpError,
        lambda: collect(llama, corpus, memory=longest * word - 1, folder=tmp_path / "x"),
        *("one row", f"{longest * word} bytes", "budget", "context="),
    )
    assert not forwards and not (tmp_path / "x").exists()
    collect(llama, corpus, memory=n * word)
    collect(llama, corpus, memory=longest * word, folder=tmp_path / "x")


@pytest.mark.parametrize("pool", ["last", "mean"])
def test_numbers_that_are_not_finite(llama, pool):
    corpus = made([sentence(["The", "The"])], [sentence(["The", "John", "it", "gave"], "bad")])
    weight = llama.bridge.original_model.get_input_embeddings().weight
    at = llama.token_id(" it")
    before = weight[at].detach().clone()
    try:
        weight.data[at] = before * 1e30
        says(
            InterpError,
            lambda: collect(llama, corpus, dtype=torch.float16, pool=pool),
            *("'0.resid_pre'", "word 2 of sentence 1", "torch.float16 holds", "torch.bfloat16"),
        )
        weight.data[at, 0] = float("nan")
        says(
            InterpError,
            lambda: collect(llama, corpus, pool=pool, engine="hooks"),
            *("'0.resid_pre'", "word 2 of sentence 1", "float64", "torch.float32"),
        )
    finally:
        weight.data[at] = before
