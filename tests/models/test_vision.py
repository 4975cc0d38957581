"""Models that read images: how they are loaded, what is read beside them, what is refused."""

import copy
import json

import peft
import pytest
import tiny
import torch
import transformers as hf
from pictures import VISION, pictures

import interp
from interp.core.errors import ModelError, PairsError, Unsupported
from interp.core.prompts.grid import Images, Processor
from interp.models.digits import DEVIATION, MEAN, Compact, digits, moved, scans

GRIDS = {
    "vit": Images(6, 6, 2, (2, 2)),
    "vit-wide": Images(5, 8, 1, (2, 4)),
    "deit": Images(6, 6, 2, (2, 2), distilled=True),
    "vit-msn": Images(6, 6, 2, (2, 2)),
}
POSITIONS = {"vit": 10, "vit-wide": 5, "deit": 11, "vit-msn": 10}


@pytest.mark.parametrize("family", VISION)
def test_facts_are_the_config_s(family, tiny_model):
    facts = tiny_model(family).facts
    assert facts.image == GRIDS[family] and facts.n_ctx == POSITIONS[family]
    assert (facts.n_layers, facts.n_heads, facts.d_model, facts.d_mlp) == (3, 3, 12, 14)
    assert (facts.d_vocab, facts.causal, facts.language_model) == (15, False, True)
    assert (facts.norm, facts.positions, facts.block) == ("layer", "learned", "pre")
    assert "15 classes" in str(facts) and "tokenizer" not in repr(tiny_model(family))


@pytest.mark.parametrize("family", VISION)
@torch.no_grad()
def test_the_wrapped_model_still_reads_pixels(family, tiny_model):
    """As Hugging Face's does, and ids of patches as well."""
    shown = pictures(family, tiny_model(family))
    wrapped = tiny_model(family).bridge.original_model
    by_pixels = wrapped(pixel_values=shown.clean).logits
    by_ids = wrapped(input_ids=shown.pairs.clean).logits
    assert (by_pixels - by_ids[:, 0]).abs().max() < 1e-12


def test_a_model_in_memory_is_untouched_and_the_same(tiny_model):
    raw = tiny.build("vit").double()
    model = interp.load(raw)
    assert type(raw) is hf.ViTForImageClassification
    shown = pictures("vit", tiny_model("vit"))
    found = [
        interp.ablate(m, shown.pairs, "heads", method="zero") for m in (model, tiny_model("vit"))
    ]
    values = [torch.tensor(f.frame["value"].to_numpy()) for f in found]
    assert (values[0] - values[1]).abs().max() < 1e-12
    assert model.weight_hash == tiny_model("vit").weight_hash


@pytest.mark.parametrize("family", VISION)
def test_a_copy_and_an_untrained_model_read_images_too(family, tiny_model):
    model = tiny_model(family)
    pairs = pictures(family, model).pairs
    one, other, random = (
        torch.tensor(interp.evaluate(m, pairs, metric="logit").frame["value"].to_numpy())
        for m in (model, copy.deepcopy(model), interp.models.untrained(model, seed=1))
    )
    assert (one - other).abs().max() < 1e-12 and (one - random).abs().max() > 1e-3


def test_two_models_are_compared_on_the_same_images(tiny_model):
    model = tiny_model("vit")
    pairs = pictures("vit", model).pairs
    other = interp.models.untrained(model, seed=1)
    found = interp.compare(model, other, lambda m: interp.ablate(m, pairs, "0.1", method="zero"))
    assert found.summary()["difference"].abs().max() > 1e-4


SAID = {"do_rescale": True, "rescale_factor": 0.5, "do_normalize": True}
SAID |= {"image_mean": [0.1, 0.2], "image_std": [0.3, 0.4]}


def saved(folder, said: object):
    tiny.build("vit").save_pretrained(folder)
    text = said if isinstance(said, str) else json.dumps(said)
    (folder / "preprocessor_config.json").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("said", "truth"),
    [
        (SAID, Processor((0.1, 0.2), (0.3, 0.4), 0.5)),
        (SAID | {"do_rescale": False}, Processor((0.1, 0.2), (0.3, 0.4), 1.0)),
        (SAID | {"do_normalize": False}, Processor((0.0, 0.0), (1.0, 1.0), 0.5)),
        ({"image_mean": [0, 0], "image_std": [1, 2]}, Processor((0.0, 0.0), (1.0, 2.0), 1 / 255)),
    ],
)
def test_the_processor_beside_a_model_is_read(said, truth, tmp_path):
    assert interp.load(saved(tmp_path, said)).processor == truth


def test_pixels_become_what_hugging_face_s_processor_makes_of_them(tmp_path):
    said = {
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.3, 0.4],
        "size": {"height": 6, "width": 6},
    }
    config = hf.ViTConfig(**tiny.VIT | {"num_channels": 3})
    hf.ViTForImageClassification(config).save_pretrained(tmp_path)
    processor = hf.ViTImageProcessorPil(**said, do_resize=False)
    processor.save_pretrained(tmp_path)
    model = interp.load(tmp_path)
    bytes_ = torch.randint(0, 256, (2, 3, 6, 6), generator=torch.Generator().manual_seed(0))
    bytes_ = bytes_.to(torch.uint8)
    truth = processor([*bytes_.numpy()], return_tensors="pt")["pixel_values"]
    ours, theirs = (
        interp.Pairs.from_images(model, clean=x, corrupt=x, pixels=how)
        for x, how in ((bytes_, "raw"), (truth, "normalised"))
    )
    gap = [interp.capture(model, p, "embed", positions="all")["embed"] for p in (ours, theirs)]
    assert (gap[0] - gap[1]).abs().max() < 1e-6 and gap[0].abs().max() > 0.01


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("{", "cannot be read as a processor of images: JSONDecodeError"),
        ({"do_normalize": True}, "cannot be read as a processor of images: KeyError: 'image_mean'"),
        (SAID | {"image_mean": "no"}, "cannot be read as a processor of images: ValueError"),
        ("[]", "cannot be read as a processor of images: AttributeError"),
        (SAID | {"image_mean": [0.5] * 3}, r"mean \(0.5, 0.5, 0.5\) .* reads 2 channels"),
        (SAID | {"image_std": [0.0, 1.0]}, "a deviation is no 0"),
    ],
)
def test_a_processor_that_is_none_is_refused(said, message, tmp_path):
    with pytest.raises(ModelError, match=message):
        interp.load(saved(tmp_path, said))


def test_text_to_a_model_of_images_is_refused(tiny_model):
    model = tiny_model("vit")
    asked = [
        lambda: interp.Pairs.from_text(model, clean=["a cat"], corrupt=["a dog"]),
        lambda: model.encode("a cat"),
        lambda: model.show([1]),
        lambda: interp.heads.head_types(model),
        lambda: interp.datasets.ioi(model, n=4),
        lambda: interp.datasets.repeated(2, vocabulary=model, pos=9),
    ]
    for ask in asked:
        with pytest.raises(ModelError, match=r"reads images \(6 x 6 pixels .*Pairs\.from_images"):
            ask()
    for ask in (interp.heads.copying_scores, lambda m: interp.heads.ov_tokens(m, "1.1", 1)):
        with pytest.raises(Unsupported, match="asked of the tokens of a vocabulary, and the model"):
            ask(model)


def test_what_is_no_image_is_refused_by_every_method(tiny_model):
    model, text = tiny_model("vit"), tiny_model("gpt2")
    pairs = pictures("vit", model).pairs
    with pytest.raises(PairsError, match=r"pairs are of images, and .* reads text"):
        interp.ablate(text, pairs, "heads")
    with pytest.raises(PairsError, match=r"has 3 positions, and .* reads images of 10"):
        interp.capture(model, [[1, 2, 3]], "layers")
    with pytest.raises(PairsError, match="clean has ids that are no patches of images"):
        interp.capture(model, torch.arange(10)[None], "layers")
    wide = pictures("vit-wide", tiny_model("vit-wide")).pairs
    with pytest.raises(PairsError, match=r"has 5 positions, and .* reads images of 10"):
        interp.capture(model, wide, "layers")
    with pytest.raises(PairsError, match="is class 13, and .* has classes 0 to 4"):
        small = interp.load(
            hf.ViTForImageClassification(hf.ViTConfig(**tiny.VIT | {"num_labels": 5}))
        )
        interp.ablate(small, pairs.select([4]), "heads")


def test_a_difference_of_classes_needs_two(tiny_model):
    model = tiny_model("vit")
    shown = pictures("vit", model)
    one = interp.Pairs.from_images(
        model, clean=shown.clean, corrupt=shown.corrupt, correct=range(5)
    )
    with pytest.raises(PairsError, match="compares two classes and row 0 has no wrong one"):
        interp.ablate(model, one, "heads")
    found = interp.ablate(model, one, "heads", method="zero", metric=["prob", "logit"]).frame
    assert found["effect"].abs().max() > 1e-4
    none = interp.Pairs.from_images(model, clean=shown.clean, corrupt=shown.corrupt)
    with pytest.raises(PairsError, match="the pairs have none"):
        interp.ablate(model, none, "heads", metric="prob")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            lambda: hf.ViTModel(hf.ViTConfig(**tiny.VIT)),
            "this is a ViTModel. Likely it has no head",
        ),
        (
            lambda: hf.ViTForImageClassification(hf.ViTConfig(**tiny.VIT | {"num_labels": 0})),
            "has 0 classes, so there are no logits",
        ),
        (
            lambda: hf.DeiTForImageClassificationWithTeacher(hf.DeiTConfig(**tiny.VIT)),
            "cannot wrap .*WithTeacher",
        ),
    ],
)
def test_other_heads_are_refused(module, message):
    with pytest.raises(Unsupported, match=message):
        interp.load(module())


def test_the_shape_of_one_is_explained(tiny_model):
    config = tiny.build("vit").config
    config.architectures = ["ViTForImageClassification"]
    shape = interp.shape_of(config)
    assert shape.facts == tiny_model("vit").facts
    pairs = pictures("vit", tiny_model("vit")).pairs
    assert "replay" in str(interp.explain(interp.ablate, shape, pairs, "heads"))


def test_an_adapter_beside_a_folder_of_one_is_refused(tmp_path):
    tiny.build("vit").save_pretrained(tmp_path / "base")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"])
    peft.get_peft_model(tiny.build("vit"), config).save_pretrained(tmp_path / "lora")
    with pytest.raises(Unsupported, match=r"which reads images, and adapters .*merge_and_unload"):
        interp.load(tmp_path / "base", adapter=tmp_path / "lora")


SMALL = Compact(1, 2, 16, 16, 4)


def test_the_same_training_is_found_and_another_is_another(tmp_path):
    first = digits(tmp_path, shape=SMALL, steps=3)
    [home] = tmp_path.iterdir()
    touched = {path: path.stat().st_mtime_ns for path in home.iterdir()}
    again = digits(tmp_path, shape=SMALL, steps=3)
    assert touched == {path: path.stat().st_mtime_ns for path in home.iterdir()}
    elsewhere = digits(tmp_path / "b", shape=SMALL, steps=3)
    others = [
        digits(tmp_path, shape=SMALL, steps=3, seed=1),
        digits(tmp_path, shape=SMALL, steps=4),
    ]
    hashes = [model.weight_hash for model in (first, again, elsewhere, *others)]
    assert hashes[0] == hashes[1] == hashes[2] and len(set(hashes)) == 3
    assert first.processor == Processor((MEAN,), (DEVIATION,), 1 / 255)
    assert first.classes == tuple(map(str, range(10)))


def test_a_few_steps_teach_something(tmp_path):
    """Of held-out images, which nothing was learned from; a tenth would be guessed."""
    model = digits(tmp_path, steps=150)
    found = scans(held_out=True)
    pairs = interp.Pairs.from_images(
        model, clean=found.images, corrupt=found.images, correct=found.labels
    )
    ranks = interp.evaluate(model, pairs, metric="rank").query("position == 'clean'")
    assert (ranks.frame["value"] == 0).mean() > 0.6


@pytest.mark.real
@pytest.mark.slow
def test_the_default_tells_nineteen_of_twenty(tmp_path):
    model = digits(tmp_path)
    found = scans(held_out=True)
    pairs = interp.Pairs.from_images(
        model, clean=found.images, corrupt=found.images, correct=found.labels
    )
    ranks = interp.evaluate(model, pairs, metric="rank").query("position == 'clean'")
    assert (ranks.frame["value"] == 0).mean() >= 0.95


def test_images_are_scikit_learn_s_and_none_is_learned_and_held_out():
    learned, held_out = scans(held_out=False), scans(held_out=True)
    assert learned.images.shape == (1197, 8, 8) and held_out.images.shape == (600, 8, 8)
    every = {image.numpy().tobytes() for part in (learned, held_out) for image in part.images}
    assert len(every) == 1797
    assert float(learned.images.min()) == 0 and float(learned.images.max()) == 1


def test_moved_images_are_the_image_elsewhere():
    image = torch.zeros(200, 8, 8)
    image[:, 3, 4] = 1.0
    image[:, 0, 0] = 0.5
    made = moved(image, torch.Generator().manual_seed(0))
    places = (made == 1).nonzero()[:, 1:]
    assert len(places) == 200
    assert {tuple(p) for p in places.tolist()} == {(r, c) for r in (2, 3, 4) for c in (3, 4, 5)}
    out = (places[:, 0] < 3) | (places[:, 1] < 4)  # the corner left the image there
    assert torch.equal((made == 0.5).flatten(1).any(1), ~out)


@pytest.mark.parametrize("odd", [{"d_model": 10}, {"patch": 3}])
def test_shapes_that_make_no_vit(odd):
    with pytest.raises(ModelError, match="makes no ViT of images of 8 x 8"):
        Compact(**odd)
