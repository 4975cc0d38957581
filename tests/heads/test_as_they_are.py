"""Circuits of models that changed after they were loaded, and of models in half precision.

The truth is plain transformers: attention with the same hook on it, and logits of the same rounded
weights in float64. What reads weights alone is held against a model that is loaded anew.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import transformers as hf
from plain import output
from torch import Tensor, nn

import interp
from interp import Model
from interp.core.errors import Unsupported
from interp.models.bridge.precision import exact
from interp.models.small.native import Shape, build

pytestmark = pytest.mark.sampled(5)

HALF = (torch.bfloat16, torch.float16)


@pytest.fixture
def rounded(tmp_path: Path) -> Callable[..., Path]:
    """The folder of a tiny model with weights of a precision."""

    def save(family: str, dtype: torch.dtype = torch.float64) -> Path:
        tiny.build(family).to(dtype).save_pretrained(tmp_path / family)
        return tmp_path / family

    return save


def plainly(family: str, folder: Path) -> hf.PreTrainedModel:
    """The same in float64, in transformers alone."""
    kind = type(tiny.build(family))
    model = kind.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    exact(model)
    return model


WEIGHTS: dict[str, Callable[[Model], np.ndarray]] = {
    "composition": lambda m: interp.heads.composition(m).frame["value"].to_numpy(),
    "copying": lambda m: interp.heads.copying_scores(m, samples=2).frame["z"].to_numpy(),
    "qk": lambda m: interp.heads.qk_tokens(m, "1.1", 3).frame["value"].to_numpy(),
    "ov": lambda m: interp.heads.ov_tokens(m, "1.1", 3).frame["value"].to_numpy(),
    "directions": lambda m: (
        interp.heads.ov_directions(m, "1.1", samples=2).frame["value"].to_numpy()
    ),
    "places": lambda m: (
        interp.heads.position_scores(m, "0.1", positions=4).frame["value"].to_numpy()
    ),
    "curve": lambda m: interp.heads.offset_curve(m, contents=[3, 9]).frame["value"].to_numpy(),
    "pair": lambda m: interp.heads.offset_pair(m, "0.1", 3, 9).frame["value"].to_numpy(),
}
"""What reads weights alone; the last two are of rotary models, the one before of learned places."""
OF = {"gpt2": list(WEIGHTS)[:6], "llama": [*list(WEIGHTS)[:5], "curve", "pair"]}


@pytest.mark.plain
@pytest.mark.parametrize("family", OF)
def test_weights_that_changed_are_read_anew(rounded, tmp_path, pairs, family):
    folder = rounded(family)
    plain, model = plainly(family, folder), interp.load(folder, dtype=torch.float64)
    asked = {name: WEIGHTS[name] for name in OF[family]}
    asked["lens"] = lambda m: interp.heads.logit_lens(m, pairs).frame["value"].to_numpy()
    asked["parts"] = lambda m: (
        interp.heads.direct_logit_attribution(m, pairs).frame["value"].to_numpy()
    )
    before = {name: ask(model) for name, ask in asked.items()}
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        moves = {
            name: torch.randn(p.shape, generator=generator) for name, p in plain.named_parameters()
        }
        for of in (dict(plain.named_parameters()), model.truth.parameters()):
            for name, move in moves.items():
                of[name] += 0.1 * move
    plain.save_pretrained(tmp_path / "anew")
    anew = interp.load(tmp_path / "anew", dtype=torch.float64)
    for name, ask in asked.items():
        found = ask(model)
        np.testing.assert_allclose(found, ask(anew), atol=1e-12, err_msg=name)
        assert np.nanmax(np.abs(found - before[name])) > 1e-3, name


def add(module: nn.Module, args: tuple[Tensor], out: Tensor) -> Tensor:
    """What an adapter does: something is added to what a projection gives."""
    return out + 0.5 * args[0][..., :1] * torch.linspace(-1, 1, out.shape[-1]).to(out)


@torch.no_grad()
def patterns(plain: hf.PreTrainedModel, row: Tensor) -> Tensor:
    """Attention of one row: `layer head query key`."""
    return torch.stack([a[0] for a in plain(row[None], output_attentions=True).attentions])


@pytest.mark.plain
def test_a_hook_is_seen_in_attention_and_refused_by_what_reads_weights(rounded, pairs, caplog):
    folder = rounded("llama")
    plain, model = plainly("llama", folder), interp.load(folder, dtype=torch.float64)
    before = interp.heads.attention(model, pairs).frame["value"]
    plain.model.layers[1].self_attn.q_proj.register_forward_hook(add)
    model.bridge.blocks[1].attn.q.original_component.register_forward_hook(add)
    found = interp.heads.attention(model, pairs, keys=["mid"]).frame
    assert set(found["engine"]) == {"hooks"} and "cannot read 1 forward hook(s)" in caplog.text
    for line in found.itertuples():
        row, key = int(line.example), int(pairs.at("mid")[line.example])
        n = int(pairs.lengths[row])
        truth = patterns(plain, pairs.clean[row, :n])[line.layer, line.head, n - 1, key]
        assert abs(line.value - truth.item()) < 1e-9
    assert (interp.heads.attention(model, pairs).frame["value"] - before).abs().max() > 1e-2
    for ask in OF["llama"]:
        with pytest.raises(Unsupported, match=r"cannot read 1 forward hook\(s\) on .*merge_and"):
            WEIGHTS[ask](model)
    for read in (interp.heads.logit_lens, interp.heads.direct_logit_attribution):
        with pytest.raises(Unsupported, match=r"cannot read 1 forward hook\(s\) on"):
            read(model, pairs, engine="hooks")


def test_copying_is_not_read_past_a_hook():
    """Of smeared keys it is read from the weights of a model built anew, which has no hooks."""
    shape = Shape(2, 2, 8, 4, 20, 16, 0, smear=True)
    model = build(shape, name="smeared", dtype=torch.float64)
    rows = interp.heads.repeated_tokens(model, 4, block=(3, 5))
    assert "copying" in set(interp.heads.detect(model, rows).frame["metric"])
    model.bridge.blocks[1].attn.o.original_component.register_forward_hook(add)
    found = interp.heads.detect(model, rows)
    assert "copying" not in set(found.frame["metric"])
    assert "cannot read 1 forward hook(s)" in found.provenance["no copying"]


SUMMED = ["gpt2", "llama", "gemma3", "olmo2", "neox", "opt"]
"""Norms and biases of every sort between the parts and the logits."""
BOUND = 4
"""Units in the last place, of the largest number of the same kind: what was measured is under 3."""


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("family", SUMMED)
@pytest.mark.parametrize("engine", ["replay", "hooks"])
def test_parts_in_half_precision_sum_to_the_true_difference(rounded, pairs, family, dtype, engine):
    folder = rounded(family, dtype)
    half, full = (interp.load(folder, dtype=dtype) for dtype in (dtype, torch.float64))
    plain = plainly(family, folder)
    found, exactly = (
        interp.heads.direct_logit_attribution(m, pairs, engine=engine).frame for m in (half, full)
    )
    rows = [row[:n].tolist() for row, n in zip(pairs.clean, pairs.lengths, strict=True)]
    logits = torch.stack([output(plain, row)[-1] for row in rows])
    truth = (logits.gather(1, pairs.correct[:, None]) - logits.gather(1, pairs.wrong[:, None]))[
        :, 0
    ]
    for frame, bound in ((exactly, 1e-9), (found, BOUND * torch.finfo(dtype).eps)):
        total = frame.groupby("example")["value"].sum()
        largest = frame["value"].abs().max()
        assert np.abs(total - truth.numpy()).max() < bound * max(1, largest)
    apart = (found["value"] - exactly["value"]).abs().max()
    assert apart < BOUND * torch.finfo(dtype).eps * exactly["value"].abs().max()


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("family", ["gpt2", "llama", "gptj", "bert"])
def test_attention_in_half_precision(rounded, pairs, family, dtype):
    folder = rounded(family, dtype)
    plain, model = plainly(family, folder), interp.load(folder, dtype=dtype)
    found = interp.heads.attention(model, pairs, keys=["mid", "first"]).frame
    for line in found[found["example"] < 2].itertuples():
        row = int(line.example)
        n, key = int(pairs.lengths[row]), int(pairs.at("mid")[row]) * (line.position == "mid")
        truth = patterns(plain, pairs.clean[row, :n])[line.layer, line.head, n - 1, key]
        assert abs(line.value - truth.item()) < BOUND * torch.finfo(dtype).eps


@pytest.mark.plain
@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("family", OF)
def test_what_reads_weights_in_half_precision(rounded, family, dtype):
    """Products are in float32, so they are those of the same weights in float64."""
    folder = rounded(family, dtype)
    half, full = (interp.load(folder, dtype=dtype) for dtype in (dtype, torch.float64))
    for name in OF[family]:
        found, truth = WEIGHTS[name](half), WEIGHTS[name](full)
        apart = np.nanmax(np.abs(found - truth)) / np.nanmax(np.abs(truth))
        assert apart < BOUND * torch.finfo(dtype).eps, name
