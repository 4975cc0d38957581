"""Pairs of images: what stands where, what a processor does, and what is refused in words."""

import copy
import gc
import pickle
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch

import interp
from interp.core.errors import PairsError
from interp.core.prompts.grid import Images, Processor
from interp.core.prompts.pairs import Pairs
from interp.core.prompts.patches import FIRST, image_of, patches_of, pixels_of

GRID = Images(5, 6, 2, (2, 3))
"""Two rows and two columns of patches, and a line of pixels that is in none."""


@dataclass(frozen=True)
class Facts:
    image: Images | None = GRID


@dataclass(frozen=True)
class Seeing:
    """What building pairs needs of a model."""

    name: str = "a model"
    facts: Facts = Facts()
    processor: Processor | None = None
    classes: tuple[str, ...] = ("cat", "dog", "owl")


def shades(seed: int = 0, n: int = 3) -> torch.Tensor:
    return torch.rand(n, 2, 5, 6, generator=torch.Generator().manual_seed(seed))


def pairs(model: Seeing | None = None, **more) -> Pairs:
    given = {
        "clean": shades(0),
        "corrupt": shades(1),
        "correct": ["cat", "dog", "owl"],
        "wrong": [1, 2, 0],
    }
    return Pairs.from_images(model or Seeing(), **{**given, **more})


def test_a_row_is_the_class_token_and_the_patches_row_by_row():
    found, images = pairs(), shades(0)
    assert found.clean.shape == (3, 5) and found.lengths.tolist() == [5] * 3
    assert found.clean[:, 0].tolist() == [0] * 3 and int(found.clean[:, 1:].min()) >= FIRST
    assert {name: int(at[0]) for name, at in found.positions.items()} == {
        **{"end": 0, "cls": 0, "r0c0": 1, "r0c1": 2, "r1c0": 3, "r1c1": 4}
    }
    pixels = pixels_of(found.clean[:, 1:], 12)
    corner = images[1, :, 2:4, 3:6].flatten()
    assert torch.equal(pixels[1, 3], corner)
    whole = image_of(pixels, GRID)
    assert torch.equal(whole[:, :, :4], images[:, :, :4]) and not whole[:, :, 4:].any()
    assert found.correct.tolist() == [0, 1, 2] and found.wrong.tolist() == [1, 2, 0]
    assert found.template == ("images",) * 3 and found.cluster == ("0", "1", "2")


def test_what_is_shown_of_them_is_short():
    assert repr(pairs(positions={"mid": [1, 2, 3]})) == (
        "Pairs: 3 of images, 3 clusters, 1 templates, 4 patches (r0c0 to r1c1), "
        "positions end, cls, mid"
    )


def test_equal_patches_are_equal_ids_however_they_are_given():
    images = shades(0)
    images[0, :, :2, :3] = 0.0
    other = images.clone()
    other[0, :, :2, :3] = -0.0
    other[0, 0, 3, 4] += 0.1
    found = pairs(clean=images, corrupt=other.double())
    same = found.clean == found.corrupt
    assert same[0].tolist() == [True, True, True, True, False] and bool(same[1:].all())
    again = pairs(clean=[*images.numpy()], corrupt=other.movedim(1, -1).numpy())
    assert again.fingerprint == found.fingerprint
    assert pairs(clean=images + 1e-3 * (images < 0.9)).fingerprint != found.fingerprint


def test_distilled_models_have_a_second_token():
    found = pairs(Seeing(facts=Facts(replace(GRID, distilled=True))))
    assert found.clean[:, :2].tolist() == [[0, 1]] * 3 and found.clean.shape == (3, 6)
    assert int(found.positions["distill"][0]) == 1 and int(found.positions["r0c0"][0]) == 2


def read(found: Pairs) -> torch.Tensor:
    """The pixels of the clean images' patches, as the model reads them."""
    return pixels_of(found.clean[:, 1:], 12)


def test_a_processor_is_applied_to_raw_pixels_alone():
    model = Seeing(processor=Processor((0.5, 0.25), (0.5, 2.0), scale=1 / 255))
    small = (255 * shades(0)).to(torch.uint8)
    for given, from_0_to_1 in ((small, small / 255), (shades(0), shades(0))):
        first, second = (from_0_to_1[:, c, :2, :3].flatten(1) for c in (0, 1))
        want = torch.cat([(first - 0.5) / 0.5, (second - 0.25) / 2.0], 1)
        assert (read(pairs(model, clean=given))[:, 0] - want).abs().max() < 1e-6
    plain = read(pairs(model, clean=shades(0), pixels="normalised"))
    assert torch.equal(plain[:, 0], shades(0)[:, :, :2, :3].flatten(1))
    assert float(read(pairs(clean=small)).max()) <= 1


def test_positions_are_names_places_and_numbers():
    found = pairs(positions={"mid": ["r1c1", (0, 1), 3], "far": np.array([4, 4, 1])})
    assert found.positions["mid"].tolist() == [4, 2, 3]
    assert found.positions["far"].tolist() == [4, 4, 1]


def test_chosen_and_copied_pairs_keep_their_pixels():
    found = pairs()
    few = [
        found.select([2]),
        *found.split(),
        copy.deepcopy(found),
        pickle.loads(pickle.dumps(found)),
    ]
    before = pixels_of(found.clean[[2], 1:], 12)
    kept = few[-1]
    assert torch.equal(pixels_of(few[0].clean[:, 1:], 12), before)
    del found, few
    gc.collect()
    assert torch.equal(pixels_of(kept.clean[[2], 1:], 12), before)


def test_pixels_go_with_the_last_of_their_pairs():
    found = pairs(clean=shades(77), corrupt=shades(78))
    ids = found.clean[:, 1:].clone()
    del found
    gc.collect()
    with pytest.raises(PairsError, match="no pairs that are there have such a patch"):
        pixels_of(ids, 12)


def test_a_column_of_a_table_is_a_column():
    table = pd.DataFrame({"label": ["cat", "dog", "owl"], "unit": ["a", "b", "a"]})
    found = pairs(correct=table["label"], wrong=None, cluster=table["unit"])
    assert found.correct.tolist() == [0, 1, 2] and found.wrong.tolist() == [-1] * 3
    assert found.cluster == ("a", "b", "a") and found.template == ("images",) * 3


BROKEN = shades(0)
BROKEN[1, 0, 2, 2] = torch.nan


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"clean": shades(0)[:, :, :, :5]}, r"clean is \(3, 2, 5, 5\), .* reads batch x 2 x 5 x 6"),
        ({"clean": shades(0)[:, :1]}, r"clean is \(3, 1, 5, 6\)"),
        ({"clean": shades(0)[0]}, r"Of one image, give image\[None\]"),
        ({"corrupt": shades(0)[:2]}, "3 clean images but 2 corrupt ones"),
        ({"clean": shades(0)[:0], "corrupt": shades(0)[:0]}, "holds no images"),
        ({"clean": []}, "holds no images"),
        ({"clean": [shades(0)[0], shades(0)[1, :, :4]]}, "several shapes"),
        ({"clean": BROKEN}, "image 1 of clean holds NaN or infinity"),
        ({"clean": 16 * shades(0)}, r"go from 0\.\d+ to 1\d\.\d+, and floats go from 0 to 1"),
        ({"clean": shades(0) - 0.5}, r"go from -0\.\d+ to .*pixels='normalised'"),
        ({"clean": (16 * shades(0)).long()}, "clean is torch.int64 from 0 to 15"),
        ({"clean": (16 * shades(0)).to(torch.uint8), "pixels": "normalised"}, "torch.uint8 from"),
        ({"clean": shades(0) > 0.5}, "clean is torch.bool"),
        ({"clean": "a photo of a cat"}, "text is for Pairs.from_text"),
        ({"clean": ["a cat", "a dog", "an owl"]}, "text to an image model"),
        ({"clean": None}, "clean is None, not images"),
        ({"clean": [[object()]]}, "pixels are numbers"),
        ({"pixels": "normalized"}, "pixels='normalized' is not known; did you mean 'normalised'"),
        ({"correct": [0, 1, 3]}, r"row 2 of correct is class 3, .* 0 to 2 \('cat' to 'owl'\)"),
        ({"wrong": [-1, 2, 1]}, "row 0 of wrong is class -1"),
        ({"correct": ["cat", "hen", "owl"]}, "row 1 of correct is 'hen', which is no class"),
        ({"correct": ["cat", "1", "owl"]}, "row 1 of correct is '1', which is no class"),
        ({"correct": [0.5, 1, 2]}, "correct is 0.5 in row 0, not a whole number"),
        ({"correct": [0, 1]}, "3 clean prompts but 2 of correct"),
        ({"correct": [0, 1, 2], "wrong": [0, 2, 1]}, "row 0 has token 0 as its correct and as"),
        ({"correct": None}, "a wrong class alone"),
        ({"positions": {"mid": [(2, 0), (0, 0), (0, 0)]}}, r"'r2c0' in row 0, .* to \(1, 1\)"),
        ({"positions": {"mid": ["r0c2", 1, 1]}}, "'mid' is 'r0c2' in row 0"),
        ({"positions": {"mid": [5, 1, 1]}}, "position 'mid' is 5 in row 0"),
    ],
)
def test_what_is_no_image_is_refused(given, message):
    with pytest.raises(PairsError, match=message):
        pairs(**given)


def test_a_model_of_text_reads_no_images():
    with pytest.raises(PairsError, match=r"a model reads text, not images .*Pairs\.from_text"):
        pairs(Seeing(facts=Facts(None)))


def test_ids_begin_beyond_every_vocabulary_and_spread():
    images = torch.rand(2_000, 2, 5, 6, generator=torch.Generator().manual_seed(5))
    (ids,), table = patches_of([images], GRID)
    assert len(table.ids) == 8_000 == len(ids[:, 1:].unique())
    assert (ids[:, 1:] >= FIRST).all() and ((ids[:, 1:] - FIRST) > FIRST // 2).float().mean() < 0.55


def test_one_channel_needs_no_axis(tiny_model):
    model = tiny_model("vit-wide")
    images = torch.rand(2, 5, 8)
    found = interp.Pairs.from_images(model, clean=images, corrupt=images[:, None], correct=[1, 2])
    assert torch.equal(found.clean, found.corrupt)
