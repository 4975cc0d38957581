"""What rounding does is known: against the same weights in float32, by plain transformers."""

import numpy as np
import pytest
import tiny
import torch

import interp
from interp.core.errors import SiteError
from interp.engine.engines.resolution import FEW

pytestmark = pytest.mark.sampled(8)

HALF = (torch.bfloat16, torch.float16)


@pytest.fixture(params=["llama", "gpt2", "bert", "t5"])
def half(request, tmp_path):
    """A folder of a tiny model, and rows of tokens."""
    tiny.build(request.param).to(torch.bfloat16).save_pretrained(tmp_path)
    tiny.word_tokenizer(adds_bos=False).save_pretrained(tmp_path)
    generator = torch.Generator().manual_seed(2)
    rows = torch.randint(20, (2, 4, 7), generator=generator).tolist()
    pairs = interp.Pairs.from_tokens(
        clean=rows[0], corrupt=rows[1], correct=[3, 5, 7, 9], wrong=[4, 6, 8, 10]
    )
    return request.param, tmp_path, pairs


def exact(folder, pairs, dtype):
    """The logit differences of the same numbers, which are in half precision, in float32."""
    model = interp.load(folder, dtype=dtype)  # its dtype's own rounding of the file
    wide = interp.load(folder, dtype=torch.float32)
    with torch.no_grad():
        for name, held in wide.truth.tensors().items():
            held.copy_(model.truth.tensors()[name].float())
    return model, differences(wide, pairs)[0]


def differences(model, pairs, engine="auto"):
    found = interp.evaluate(model, pairs, metric="logit_diff", engine=engine)
    return found.query("position == 'clean'").frame["value"].to_numpy(), found.provenance


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("engine", ["auto", "hooks"])
def test_it_is_the_distance_from_float32_of_every_engine(half, dtype, engine):
    name, folder, pairs = half
    if (name, dtype) == ("t5", torch.float16):
        pytest.skip("Hugging Face's own T5 does not run in float16")
    model, known = exact(folder, pairs, dtype)
    ours, provenance = differences(model, pairs, engine)
    said = provenance["resolution"]["logit_diff"]
    least = torch.finfo(dtype).eps * np.abs(known[:FEW]).max()
    # two float32 runs of the same numbers, added up in two orders
    assert said == pytest.approx(max(np.abs(ours - known)[:FEW].max(), least), abs=1e-5)


def test_a_metric_that_is_flat_there_has_none(half):
    name, folder, pairs = half
    if name == "bert":
        pytest.skip("its head is not asked for the whole vocabulary here")
    model = interp.load(folder, dtype=torch.bfloat16)
    found = interp.ablate(model, pairs, "heads", method="zero", metric=["kl", "logit_diff"])
    said = found.provenance["resolution"]
    assert said["kl"] is None
    assert said["logit_diff"] > 0


def test_attribution_in_inference_mode(tiny_model, pairs):
    model = tiny_model("llama")
    outside = interp.attribute(model, pairs)
    with torch.inference_mode():
        inside = interp.attribute(model, pairs)
    assert inside.frame["score"].tolist() == outside.frame["score"].tolist()


@pytest.mark.parametrize(
    "value", [torch.ones(12).to_sparse(), torch.ones(12, device="meta")], ids=["sparse", "meta"]
)
def test_values_that_hold_no_plain_numbers_are_refused(value, tiny_model, pairs):
    from interp.engine.interventions import Add, Intervention

    with pytest.raises(SiteError, match=r"takes a plain one.*to_dense"):
        interp.intervene(
            tiny_model("gpt2"), pairs, {"x": [Intervention("0.resid_pre", Add(value))]}
        )


@pytest.mark.plain
def test_the_same_prompts_are_asked_about_once(tiny_model, pairs, monkeypatch):
    """Until the model changes, and of these prompts alone; what is said is the same."""
    model, asked = tiny_model("llama"), []
    right = type(model.truth).run

    def run(truth, tokens, **options):
        asked.append(tuple(tokens.flatten().tolist()))
        return right(truth, tokens, **options)

    def resolution(some):
        """What is said, and whether Hugging Face's model ran the first prompts of a length."""
        asked.clear()
        found = interp.ablate(model, some, "heads", method="zero").provenance["resolution"]
        rows = [i for i, n in enumerate(some.lengths) if n == some.lengths.min()][:FEW]
        first = some.clean[rows, : int(some.lengths.min())]
        return found, tuple(first.flatten().tolist()) in asked

    monkeypatch.setattr(type(model.truth), "run", run)
    model.now().once("said at ends", dict).clear()  # other tests share this model
    first, ran = resolution(pairs)
    assert ran
    assert resolution(pairs) == (first, False)
    assert resolution(pairs.select([1, 3]))[1]
    weight = next(p for p in model.bridge.parameters() if p.ndim == 2)
    kept = weight.detach().clone()
    try:
        weight.data.mul_(1.1)
        changed, ran = resolution(pairs)
        assert ran
        assert changed != first
    finally:
        weight.data.copy_(kept)
