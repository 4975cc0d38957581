"""What verification lets through: engines that are right in each precision, and none that is not.

In half precision the truth is plain transformers in the same dtype, and what both are near to is
the same model with the same rounded weights in float32.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import options
import pytest
import tiny
import torch
import torch.nn.functional as F
import transformers as hf
from plain import Cut, outputs
from torch import Tensor, nn

import interp
from interp.core.errors import Unsupported
from interp.core.metrics import Answers, Metric
from interp.core.prompts.pairs import Pairs
from interp.engine.engines import choose as engines
from interp.engine.engines.choose import choose
from interp.engine.engines.verified import replay_gap
from interp.engine.network.linear import Linear
from interp.engine.network.weights import MLP, Attention, Block, Ends, Norm, Weights, read
from interp.models.bridge.precision import rounding
from interp.models.model import Model

pytestmark = pytest.mark.sampled(4)

HALF = (torch.bfloat16, torch.float16)
PRECISIONS = (torch.float64, torch.float32, *HALF)

# Engines that are right


ROWS = torch.randint(2, tiny.VOCAB, (64, 9), generator=torch.Generator().manual_seed(9)).tolist()
WEIGHTS = torch.randn(tiny.VOCAB, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
BOUND = 4
"""Units in the last place of the largest logit, times the length of the weights that sum them.

Both runs round each of their three layers some ten times by half a unit; such errors add up like
steps of a random walk, to two units at most in what was measured."""


def _read(logits: Tensor, answers: Answers) -> Tensor:
    return (logits.double() * WEIGHTS[: logits.shape[-1]]).sum(-1)


def reading(model: Model) -> Metric:
    if model.facts.language_model:
        return Metric("read", _read, needs_answers=False)
    return Metric("read", _read, "embedding", needs_answers=False)


def numbers(plain: hf.PreTrainedModel, cuts: list[Cut | None]) -> np.ndarray:
    """Of plain transformers: one for each cut (None: the base) and row."""
    decoder = (4, 7, 2) if plain.config.is_encoder_decoder else ()
    found = [outputs(plain, ROWS, cuts=[c] if c else [], decoder=decoder)[:, -1] for c in cuts]
    return np.stack([(x.double() * WEIGHTS[: x.shape[-1]]).sum(-1).numpy() for x in found])


def errors(family: str, dtype: torch.dtype, folder: Path) -> dict[str, np.ndarray]:
    """In units of the last place of a logit: of each engine and of plain transformers."""
    options.build(family).save_pretrained(folder)
    kind = options.KINDS[family].model
    half, full = (
        kind.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
        for _ in range(2)
    )
    full = full.float()  # what it holds was rounded already
    sites = ["enc.0.1", "dec.1.mlp"] if family == "t5" else ["0.1", "1.mlp"]
    cuts = [None, *map(Cut, sites)]
    decoder = (4, 7, 2) if family == "t5" else ()
    size = outputs(full, ROWS, decoder=decoder)[:, -1].abs().max().item()
    unit = torch.finfo(dtype).eps * size * WEIGHTS.norm().item()
    rounded, exact = numbers(half, cuts), numbers(full, cuts)
    model = interp.load(folder, dtype=dtype)
    pairs = Pairs.from_tokens(clean=ROWS, corrupt=ROWS, decoder=decoder)
    found = {"hf": rounded - exact}
    for engine in ("replay", "hooks"):
        frame = interp.ablate(
            model, pairs, sites, method="zero", metric=reading(model), engine=engine
        ).frame.sort_values("example", kind="stable")
        said = [frame[frame["site"] == sites[0]]["base"]]
        said += [frame[frame["site"] == site]["value"] for site in sites]
        found[engine] = np.stack(said) - exact
        found[f"{engine} - hf"] = np.stack(said) - rounded
    return {name: gap / unit for name, gap in found.items()}


def mean(gaps: np.ndarray) -> float:
    """Of the base and of effects, which is where their errors may cancel or not."""
    return float(np.abs(gaps[0]).mean() + np.abs(gaps[1:] - gaps[0]).mean())


LIKE = ("bigcode", "gpt-neo", "mpt", "gemma", "cohere2", "phi3", "olmo3", "smollm3", "starcoder2")
LIKE += ("glm4", "ernie", "arcee", "seed-oss", "exaone4", "xlm-roberta")
"""Families whose norms, factors and positions another has."""


@pytest.mark.plain
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_in_half_precision_replay_is_nearer_to_the_truth_than_hugging_face(dtype, tmp_path):
    """And both engines are within the precision's rounding of it."""
    total = np.zeros(2)
    families = [family for family in options.KINDS if family not in LIKE]
    for family in families[HALF.index(dtype) :: 2]:  # each in one of the precisions
        if family == "t5" and dtype == torch.float16:
            continue  # Hugging Face keeps a part of it in float32, and the bridge does not
        found = errors(family, dtype, tmp_path / family)
        for engine in ("replay", "hooks"):
            if engine in found:
                assert np.abs(found[f"{engine} - hf"]).max() < BOUND, (family, engine)
        if "replay" in found:
            ours, theirs = mean(found["replay"]), mean(found["hf"])
            assert ours < 1.1 * theirs, family
            total += [ours, theirs]
    assert total[0] < 0.9 * total[1]


def test_t5_in_float16_is_refused(tmp_path):
    options.build("t5").save_pretrained(tmp_path)
    with pytest.raises(Unsupported, match="TransformerLens cannot wrap or run it"):
        interp.load(tmp_path, dtype=torch.float16)


MASSIVE = 5
"""A token whose embedding holds 300, whose square float16 does not hold."""


def massive(family: str, folder: Path, dtype: torch.dtype) -> tuple[hf.PreTrainedModel, Model]:
    """Plain transformers in float32 and our model in a dtype, of the same rounded weights."""
    built = options.build(family).to(dtype)
    built.get_input_embeddings().weight.data[MASSIVE, 3] = 300
    built.save_pretrained(folder)
    plain = type(built).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return plain.eval(), interp.load(folder, dtype=dtype)


def frozen(plain: hf.PreTrainedModel, clean: list[int], corrupt: list[int]) -> Tensor:
    """Logits at the end when head 0.1 writes what it writes in the other row, straight into the
    last norm, whose scale stays.
    """
    name = {"gpt2": "transformer.h.0.attn.c_proj", "llama": "model.layers.0.self_attn.o_proj"}
    o = plain.get_submodule(name[plain.config.model_type])
    last = plain.transformer.ln_f if plain.config.model_type == "gpt2" else plain.model.norm
    held: dict[str, Tensor] = {}
    handles = [
        o.register_forward_pre_hook(lambda module, args: held.update(z=args[0][0, -1])),
        last.register_forward_pre_hook(lambda module, args: held.update(x=args[0][0, -1])),
    ]
    with torch.no_grad():
        plain(input_ids=torch.tensor([corrupt]))
        other = held["z"]
        plain(input_ids=torch.tensor([clean]))
    for handle in handles:
        handle.remove()
    z, x = held["z"], held["x"]
    width = plain.config.hidden_size // plain.config.num_attention_heads
    width = getattr(plain.config, "head_dim", None) or width
    change = torch.zeros_like(z)
    change[width : 2 * width] = (other - z)[width : 2 * width]
    weight = o.weight if type(o).__name__ == "Conv1D" else o.weight.T  # in x out
    y = x + change @ weight
    with torch.no_grad():
        if isinstance(last, nn.LayerNorm):
            y = (y - y.mean()) / (x.var(unbiased=False) + last.eps).sqrt() * last.weight + last.bias
        else:
            y = y / (x.square().mean() + last.variance_epsilon).sqrt() * last.weight
        return plain.get_output_embeddings()(y)


@pytest.mark.parametrize("engine", ["replay", "hooks"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_frozen_norm_holds_a_massive_activation_in_float16(family, engine, tmp_path):
    plain, model = massive(family, tmp_path, torch.float16)
    clean, corrupt = [[3, 7, 9, 4, MASSIVE], [11, 2, 13, 8, MASSIVE]], [[3, 7, 9, 4, 6]] * 2
    correct, wrong = [3, 7], [4, 6]
    pairs = Pairs.from_tokens(clean=clean, corrupt=corrupt, correct=correct, wrong=wrong)
    asked = {"senders": ["0.1"], "receivers": "logits", "through": "direct", "ln": "freeze"}
    found = interp.path_patch(model, pairs, **asked, direction="noise", engine=engine).frame
    truth = []
    for row, other, right, left in zip(clean, corrupt, correct, wrong, strict=True):
        changed = frozen(plain, row, other)
        truth.append((changed[right] - changed[left]).item())
    size = np.abs(truth).max()
    gap = np.abs(found["value"].to_numpy() - truth).max()
    # replay's stream is float32; the bridge's logits are float16
    assert gap < {"replay": 0.25, "hooks": 2}[engine] * torch.finfo(torch.float16).eps * size
    assert np.abs(found["effect"]).max() > 2 * gap


# Engines that are not


Broken = Callable[[Weights], Weights | None]
"""Makes wrong weights of right ones; None of a model where there is nothing to be wrong about."""


def _each(w: Weights, change: Callable[[int, Block], Block]) -> Weights:
    return replace(w, blocks=tuple(change(i, block) for i, block in enumerate(w.blocks)))


def _attention(
    w: Weights, layer: int | None = None, **parts: Callable[[Attention], Any]
) -> Weights:
    def change(i: int, block: Block) -> Block:
        new = {name: make(block.attention) for name, make in parts.items()}
        wrong = replace(block, attention=replace(block.attention, **new))
        return wrong if layer in (None, i) else block

    return _each(w, change)


def _mlp(w: Weights, layer: int | None = None, **parts: Callable[[MLP], Any]) -> Weights:
    def change(i: int, block: Block) -> Block:
        new = {name: make(block.mlp) for name, make in parts.items()}
        return replace(block, mlp=replace(block.mlp, **new)) if layer in (None, i) else block

    return _each(w, change)


def _times(p: Linear, factor: float) -> Linear:
    return Linear(p.weight * factor, None if p.bias is None else p.bias * factor)


def _one_head(w: Weights, p: Attention) -> Linear:
    """The write of the second head turned round."""
    weight = p.o.weight.clone()
    weight[:, w.facts.d_head : 2 * w.facts.d_head] *= -1
    return Linear(weight, p.o.bias)


def _plain(p: Linear) -> Linear:
    return replace(p, gain=1.0)


def _scaled(p: Ends) -> Ends:
    """LayerNorm as RMSNorm."""
    read, total = (
        None if one is None else replace(one, kind="rms", bias=None) for one in (p.read, p.sum)
    )
    return Ends(read, p.write, total)


def _eps(p: Norm | None) -> Norm | None:
    return None if p is None else replace(p, eps=1e-2)


def _ends(p: Ends) -> Ends:
    return Ends(_eps(p.read), _eps(p.write), _eps(p.sum))


def _eps_everywhere(w: Weights) -> Weights:
    w = _attention(w, ends=lambda p: _ends(p.ends))
    return _mlp(w, ends=lambda p: _ends(p.ends))


def _turned(w: Weights, change: Callable[[Tensor], Tensor]) -> Weights | None:
    """Angles of other positions."""
    made = {
        name: lambda like, place, angles=angles: angles(like, change(place))
        for name, angles in w.rotary.items()
    }
    return replace(w, rotary=made) if made else None


def _biases(*names: str) -> dict[str, Broken]:
    def without(name: str, w: Weights) -> Weights | None:
        block = w.blocks[0]
        part = getattr(block.attention if name in "qkvo" else block.mlp, name)
        if part is None or part.bias is None:
            return None
        change = _attention if name in "qkvo" else _mlp
        return change(w, **{name: lambda p: Linear(getattr(p, name).weight, None)})

    return {f"no bias of {name}": lambda w, name=name: without(name, w) for name in names}


def _unembedding(w: Weights, **parts: Any) -> Weights | None:
    return None if w.unembed is None else replace(w, unembed=replace(w.unembed, **parts))


def _windows(w: Weights) -> set[int | None]:
    return {block.attention.window for block in w.blocks}


BROKEN: dict[str, Broken] = {
    "attention writes nothing": lambda w: _attention(w, o=lambda p: _times(p.o, 0)),
    "MLPs write nothing": lambda w: _mlp(w, down=lambda p: _times(p.down, 0)),
    "one attention writes a third more": lambda w: _attention(w, 1, o=lambda p: _times(p.o, 1.3)),
    "one MLP writes a third more": lambda w: _mlp(w, 1, down=lambda p: _times(p.down, 1.3)),
    "scores times five": lambda w: _attention(w, scale=lambda p: p.scale * 5),
    "another activation": lambda w: _mlp(
        w, activation=lambda p: F.silu if p.activation is not F.silu else F.relu
    ),
    "a window of 8": lambda w: _attention(w, window=lambda p: 8) if _windows(w) == {None} else None,
    "no window": lambda w: _attention(w, window=lambda p: None) if 3 in _windows(w) else None,
    "one head": lambda w: _attention(w, 1, o=lambda p: _one_head(w, p)),
    "eps of 1e-2": _eps_everywhere,
    "positions off by one": lambda w: (
        None
        if w.embed.positions is None
        else replace(w, embed=replace(w.embed, positions=w.embed.positions.roll(1, 0)))
    ),
    "angles off by one": lambda w: _turned(w, lambda place: place + 1),
    "every second angle off by one": lambda w: _turned(w, lambda place: place + place % 2),
    **_biases("q", "k", "v", "o", "up", "down"),
    "no cap of scores": lambda w: (
        _attention(w, cap=lambda p: None) if w.blocks[0].attention.cap else None
    ),
    "no cap of logits": lambda w: (
        _unembedding(w, cap=None) if w.unembed and w.unembed.cap else None
    ),
    "no scale of the embedding": lambda w: (
        replace(w, embed=replace(w.embed, scale=None)) if w.embed.scale else None
    ),
    "no factor of writes": lambda w: (
        _mlp(_attention(w, o=lambda p: _plain(p.o)), down=lambda p: _plain(p.down))
        if w.blocks[0].attention.o.gain != 1
        else None
    ),
    "twice the logits": lambda w: (
        _unembedding(w, norm=replace(w.unembed.norm, weight=2 * w.unembed.norm.weight))
        if w.unembed and w.unembed.norm and not w.unembed.norm.offset
        else None
    ),
    "no biases by distance": lambda w: replace(w, slopes=None) if w.slopes else None,
    "every layer turned": lambda w: (
        _attention(w, rotary=lambda p: "")
        if "none" in {block.attention.rotary for block in w.blocks}
        else None
    ),
    "padding counted": lambda w: (
        None
        if w.embed.positions is None or w.embed.skipped is None
        else replace(w, embed=replace(w.embed, positions=w.embed.positions[1:], skipped=None))
    ),
    "no mean taken away": lambda w: (
        _mlp(w, ends=lambda p: _scaled(p.ends)) if w.facts.norm == "layer" else None
    ),
    "no norm of queries": lambda w: (
        _attention(w, q_norm=lambda p: None) if w.blocks[0].attention.q_norm else None
    ),
}
NOTHING = {
    "no bias of k": "without rotation it adds the same to all scores of a query",
    "angles off by one": "only differences of angles matter",
}
"""Changes that change nothing where that holds, and why."""
UNSEEN = {
    "one attention writes a third more": "a norm follows that takes it back (Gemma, OLMo 2)",
    "one MLP writes a third more": "as well",
    "eps of 1e-2": "BERT's sums are so large that it moves them by 1 %",
    "no bias of q": "scores of tiny models are small: it moves what attention writes by a few %",
    "no bias of k": "as well",
    "no mean taken away": "of what was normed before it is small (BLOOM's embedding)",
    "every second angle off by one": "as well",
    "no cap of scores": "it takes less than 2 % of a score under 1",
    "no cap of logits": "as well",
}
"""What bfloat16 or float16 may not show: by less than the 12 units in the last place (9 %, 1 %)
that rounding alone may make of the largest number.
"""
FAMILIES = (
    *("gpt2", "llama", "mistral-window", "qwen2", "qwen3", "gemma2-window", "gemma3-window"),
    *("olmo2", "neox", "phi", "stablelm", "gptj", "opt", "bert", "bert-headless"),
    *("granite", "bloom", "cohere", "smollm3", "roberta"),
)
LONG = 12


def error(model: Model, w: Weights) -> float:
    """How far weights are from Hugging Face's model, relative to its size; 0 if they pass."""
    found = replay_gap(model, w, LONG)
    return 0.0 if found is None else found.error


def broken(w: Weights) -> dict[str, Weights]:
    made = {name: change(w) for name, change in BROKEN.items()}
    return {name: wrong for name, wrong in made.items() if wrong is not None}


@pytest.mark.plain
@pytest.mark.parametrize("family", FAMILIES)
def test_a_broken_engine_is_refused_in_every_precision(tiny_model, family):
    known: dict[str, float] = {}
    for dtype in PRECISIONS:
        model = tiny_model(family, dtype)
        right = read(model)
        for length in (8, LONG, 16):
            assert replay_gap(model, right, length) is None, (dtype, length)
        found = {name: error(model, wrong) for name, wrong in broken(right).items()}
        known = known or found  # float64, which shows everything
        for name, size in known.items():
            if found[name] == 0 and not (name in NOTHING and size < 1e-6):
                assert dtype != torch.float64, name
                assert name in UNSEEN and size < 2 * rounding(dtype), (name, dtype, size)


@pytest.mark.plain
def test_every_wrong_thing_is_tried_somewhere(tiny_model):
    """A change that no family has would be no test."""
    tried = {name for family in FAMILIES for name in broken(read(tiny_model(family)))}
    assert tried == set(BROKEN) >= {*NOTHING, *UNSEEN}


@pytest.mark.plain
@pytest.mark.parametrize("change", ["a window of 8", "scores times five", "another activation"])
@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
def test_a_broken_engine_does_not_serve(dtype, change, tmp_path, monkeypatch):
    """Then hooks do, with the numbers that they have anyway."""
    tiny.build("llama").to(torch.float64).save_pretrained(tmp_path)
    rows = options.rows(LONG, 5)
    pairs = Pairs.from_tokens(clean=rows, corrupt=rows, correct=[3, 5], wrong=[4, 6])
    model = interp.load(tmp_path, dtype=dtype)
    right = interp.ablate(model, pairs, "heads", method="zero", engine="hooks").frame
    monkeypatch.setattr(engines, "read", lambda model: BROKEN[change](read(model)))
    with pytest.raises(Unsupported, match="does not reproduce this LlamaForCausalLM"):
        choose(model, "replay", longest=LONG)
    found = interp.ablate(model, pairs, "heads", method="zero").frame
    assert set(found["engine"]) == {"hooks"}
    assert (found["value"].to_numpy() == right["value"].to_numpy()).all()
