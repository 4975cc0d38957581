"""Pairs of held-out digits, each image in one of them."""

import pytest
import torch
from doors import complaints

import interp
from interp.core.errors import PairsError
from interp.core.prompts.patches import image_of, pixels_of
from interp.models.digits import DEVIATION, MEAN, Compact, digits, scans
from interp.models.model import Model


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Model:
    return digits(tmp_path_factory.mktemp("digits"), shape=Compact(1, 2, 8, 4), steps=1)


def images(ids: torch.Tensor, model: Model) -> torch.Tensor:
    of = model.facts.image
    assert of is not None
    return image_of(pixels_of(ids[:, 1:], of.features), of)[:, 0] * DEVIATION + MEAN


def test_each_image_is_a_held_out_one_with_its_label_and_in_one_pair(model):
    pairs, found = interp.datasets.digits(model, n=250), scans(held_out=True)
    known = {image.numpy().tobytes(): i for i, image in enumerate(16 * found.images)}
    assert len(known) == 600
    seen = []
    for side, answers in (("clean", pairs.correct), ("corrupt", pairs.wrong)):
        for image, label in zip(images(getattr(pairs, side), model), answers, strict=True):
            at = known[(16 * image).round().numpy().tobytes()]
            assert found.labels[at] == label
            seen.append(at)
    assert len(set(seen)) == 500 and (pairs.correct != pairs.wrong).all()
    assert len(set(pairs.cluster)) == 250 and len(set(pairs.template)) == 1
    again = interp.datasets.digits(model, n=250)
    assert again.fingerprint == pairs.fingerprint
    assert interp.datasets.digits(model, n=250, seed=1).fingerprint != pairs.fingerprint


def test_more_than_there_are_is_refused(model):
    with pytest.raises(
        PairsError, match=r"400 pairs were asked for and \d+ can be made of the 600"
    ):
        interp.datasets.digits(model, n=400)


def test_models_of_other_classes_or_of_text_are_refused(tiny_model):
    with pytest.raises(PairsError, match="tells 15 classes, and digits are ten"):
        interp.datasets.digits(tiny_model("vit"), n=2)
    with pytest.raises(PairsError, match="reads text, not images"):
        interp.datasets.digits(tiny_model("gpt2"), n=2)


@pytest.mark.plain
def test_wrong_arguments_are_refused_in_words(model, tmp_path):
    call = interp.datasets.digits, {"model": model, "n": 2, "seed": 1}
    assert not complaints([call], tmp_path)
