"""A translator is found again, is what transformers reads, and is decoded as transformers does."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as hf
from torch import Tensor

import interp
from interp.core.door.door import ArgumentError
from interp.core.errors import ModelError, ResultsError
from interp.engine.engines import verified
from interp.engine.network.stacks import read_stacks
from interp.engine.network.trace import walk_both
from interp.models.toy import Translator, translator
from interp.models.translator.grammar import clauses, translation
from interp.models.translator.tokens import END, PAD, rows_of
from interp.models.translator.training import exact, translated, untrained_translator

pytestmark = pytest.mark.plain  # trainings take long
BRIEF = {"steps": 3, "sentences": 100, "held_out": 6}
ASKED = clauses(12, split="test", seed=5)


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("toys")


@pytest.fixture(scope="module", params=["sinusoidal", "none"])
def brief(request, kept) -> Translator:
    return translator(positions=request.param, folder=kept, **BRIEF)


@pytest.fixture(scope="module", params=["sinusoidal", "none"])
def random(request) -> hf.MarianMTModel:
    """Weights so large that words differ in what follows, in float64."""
    module = untrained_translator(request.param, seed=1).double().eval()
    generator = torch.Generator().manual_seed(0)
    for name, p in module.named_parameters():
        if "embed_positions" not in name:
            p.data += 0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return module


def test_the_same_call_finds_it_and_another_is_another(brief, kept):
    positions = json.loads((brief.folder / "interp.json").read_text())["config"]["positions"]
    written = (brief.folder / "model.safetensors").stat().st_mtime_ns
    again = translator(positions=positions, folder=kept, **BRIEF)
    assert again.folder == brief.folder
    assert (again.folder / "model.safetensors").stat().st_mtime_ns == written
    other = translator(positions=positions, folder=kept, **BRIEF | {"steps": 1})
    assert other.folder != brief.folder
    pd.testing.assert_frame_equal(again.curve, brief.curve)
    assert brief.curve["step"].tolist() == [1, 2, 3]
    assert not [path for path in kept.iterdir() if path.name.startswith(".")]


def test_the_same_training_has_the_same_bytes(brief, tmp_path):
    positions = json.loads((brief.folder / "interp.json").read_text())["config"]["positions"]
    again = translator(positions=positions, folder=tmp_path, **BRIEF)
    assert [path.name for path in tmp_path.iterdir()] == [brief.folder.name]
    for path in brief.folder.iterdir():
        if path.name != "interp.json":  # which is sealed
            assert (again.folder / path.name).read_bytes() == path.read_bytes(), path.name
    assert translator(seed=1, folder=tmp_path, **BRIEF).folder != again.folder


def test_it_lies_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path))
    found = translator(**BRIEF | {"steps": 1})
    assert found.folder.parent == tmp_path / "toys"


def test_it_is_what_transformers_reads(brief):
    raw = hf.MarianMTModel.from_pretrained(brief.folder).double().eval()
    model = brief.model
    places = raw.get_parameter("model.encoder.embed_positions.weight")
    assert bool((places == 0).all()) == ("none" in (brief.folder / "interp.json").read_text())
    source, target = rows_of([translation(ASKED[0])])
    assert model.encode(translation(ASKED[0]).english) == source[0].tolist()
    with torch.no_grad():
        ours = model.bridge.original_model.double()
        said, truth = (m(input_ids=source, labels=target).logits for m in (ours, raw))
    assert (said - truth).abs().max() < 1e-12


def test_it_learns(kept):
    """From guessing among 239 words."""
    found = translator(folder=kept, **BRIEF | {"steps": 24}).curve
    assert found["step"].tolist() == [4, 8, 12, 16, 20, 24]
    assert found["loss"].iloc[0] == pytest.approx(np.log(239), abs=0.15)
    assert found["loss"].iloc[-1] < found["loss"].iloc[0] - 0.1


def test_what_was_not_as_it_was_written_is_refused(kept):
    found = translator(folder=kept, **BRIEF | {"steps": 2})
    weights = found.folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(ModelError, match=r"not as it was written.*Take the folder away to train"):
        translator(folder=kept, **BRIEF | {"steps": 2})
    (found.folder / "interp.json").unlink()
    with pytest.raises(ModelError, match=r"has no interp\.json.*Take the folder away"):
        translator(folder=kept, **BRIEF | {"steps": 2})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"positions": "learned"}, r"positions.*'sinusoidal'.*'none'"),
        ({"steps": 0}, "steps"),
        ({"seed": -1}, "seed"),
    ],
)
def test_wrong_arguments(given, said):
    with pytest.raises(ArgumentError, match=said):
        translator(**given)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="is no folder"):
        translator(folder=tmp_path / "file" / "toys", **BRIEF)


@torch.no_grad()
def test_without_positions_an_encoder_reads_a_bag(random):
    """In another order the same words are translated alike, and with positions they are not."""
    clause = ASKED[0]
    source, target = rows_of([translation(clause)])
    order = torch.randperm(source.shape[1], generator=torch.Generator().manual_seed(2))
    said, other = (
        random(input_ids=rows, labels=target).logits for rows in (source, source[:, order])
    )
    places = random.get_parameter("model.encoder.embed_positions.weight")
    moved = float((said - other).abs().max())
    assert moved < 1e-10 if bool((places == 0).all()) else moved > 1e-2


def test_exact_counts_sentences_without_a_mistake(random):
    assert exact(random, ASKED).tolist() == [
        list(said) == rows_of([translation(clause)])[1][0, :-1].tolist()
        for said, clause in zip(translated(random, ASKED), ASKED, strict=True)
    ]


class Replayed:
    """Log-probabilities of the next word, from weights."""

    def __init__(self, model: interp.Model):
        self.stacks = read_stacks(model)

    @torch.no_grad()
    def __call__(self, source: list[int], written: list[list[int]]) -> Tensor:
        rows = torch.tensor([source] * len(written))
        ids = torch.tensor([[PAD, *row] for row in written])
        _, final = walk_both(self.stacks, rows, ids, lambda *_: None, wanted=())
        assert final is not None
        return verified.output(self.stacks.decoder, final[:, -1:])[:, 0].log_softmax(-1)


def greedy(says: Replayed, source: list[int], longest: int) -> list[int]:
    written: list[int] = []
    while len(written) < longest and END not in written:
        written.append(int(says(source, [written])[0].argmax()))
    return [token for token in written if token != END]


def beam(says: Replayed, source: list[int], longest: int, width: int) -> list[int]:
    """Of width sentences at a time; the best mean log-probability of a word, its end counted.

    It goes on until no unfinished sentence can still be better than the worst finished one.
    """
    open_: list[tuple[float, list[int]]] = [(0.0, [])]
    done: list[tuple[float, list[int]]] = []
    for length in range(1, longest + 1):
        logs = says(source, [row for _, row in open_])
        scored = [
            (score + float(log), [*row, word])
            for (score, row), of in zip(open_, logs, strict=True)
            for word, log in enumerate(of.tolist())
        ]
        scored.sort(key=lambda found: -found[0])
        best = scored[: 2 * width]
        done += [(s / length, row[:-1]) for s, row in best[:width] if row[-1] == END]
        done = sorted(done, key=lambda found: -found[0])[:width]
        open_ = [(s, row) for s, row in best if row[-1] != END][:width]
        if len(done) == width and open_[0][0] / length <= done[-1][0]:
            break
    else:
        done += [(s / longest, row) for s, row in open_]
    return max(done, key=lambda found: found[0])[1]


def test_decoding_is_that_of_transformers(kept):
    """Token for token, greedily and of three beams, where it is still unsure what to say."""
    found = translator(folder=kept, **BRIEF | {"steps": 140, "sentences": 2000})
    module = hf.MarianMTModel.from_pretrained(found.folder).double().eval()
    says, longest = Replayed(interp.load(module)), 14
    greedily = translated(module, ASKED, max_new_tokens=longest)
    beamed = translated(module, ASKED, max_new_tokens=longest, num_beams=3)
    for clause, one, three in zip(ASKED, greedily, beamed, strict=True):
        source = rows_of([translation(clause)])[0][0].tolist()
        assert greedy(says, source, longest) == list(one)
        assert beam(says, source, longest, 3) == list(three)
    assert sum(a != b for a, b in zip(greedily, beamed, strict=True)) > 2
    assert len({len(said) for said in beamed}) > 2


@pytest.mark.slow
def test_it_translates(tmp_path):
    """What was never seen, to the last word; and without positions next to nothing."""
    found = translator()
    assert found.accuracy > 0.98
    module = found.model.bridge.original_model
    unseen = clauses(500, split="test", seed=9)
    assert exact(module, unseen).mean() > 0.98
    says = Replayed(found.model)
    for width in (1, 4):
        for clause, said in zip(
            unseen[:10], translated(module, unseen[:10], num_beams=width), strict=True
        ):
            source = rows_of([translation(clause)])[0][0].tolist()
            assert (beam(says, source, 30, width) if width > 1 else greedy(says, source, 30)) == [
                *said
            ]
    assert translator(positions="none").accuracy < 0.2
