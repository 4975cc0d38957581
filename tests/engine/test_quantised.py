"""Quantised weights: engines compute what Hugging Face's quantised model does, and methods that
read weights say that they dequantise, or refuse.

All of it as it runs on a processor, to float32's last places. What rounds activations as well jumps
by a step of 8 bits where two ways of adding up differ in the last place: it is right or refused.
"""

import copy
import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
import transformers as hf
from torch import Tensor, nn

import interp
from interp import heads
from interp.core.errors import InterpError, ModelError, Unsupported
from interp.engine.engines.choose import choose
from interp.engine.network.weights import read
from interp.models.bridge import quantised
from interp.models.bridge.facts import facts_of
from interp.models.model import Model
from interp.models.wrap import wrap

SHAPE = tiny.LLAMA | {"hidden_size": 64, "head_dim": 16, "num_attention_heads": 4}
SHAPE |= {"intermediate_size": 96}  # bitsandbytes' blocks are of 64 numbers


def bnb(**options: Any) -> hf.BitsAndBytesConfig:
    pytest.importorskip("bitsandbytes")
    return hf.BitsAndBytesConfig(**options)


def torchao(name: str) -> hf.TorchAoConfig:
    package = pytest.importorskip("torchao.quantization")
    return hf.TorchAoConfig(getattr(package, name)())


KINDS: dict[str, Callable[[], Any]] = {
    "nf4": lambda: bnb(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    "fp4": lambda: bnb(load_in_4bit=True, bnb_4bit_quant_type="fp4"),
    "nf4-nested": lambda: bnb(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    ),
    "torchao": lambda: torchao("Int8WeightOnlyConfig"),
    "bnb8": lambda: bnb(load_in_8bit=True, llm_int8_threshold=0.0),
    "torchao-dynamic": lambda: torchao("Int8DynamicActivationInt8WeightConfig"),
    "bnb8-outliers": lambda: bnb(load_in_8bit=True),  # the default threshold, 6
}
WEIGHTS = ("nf4", "fp4", "nf4-nested", "torchao")
"""Those that round nothing but weights."""
ROUNDED = ("bnb8", "torchao-dynamic", "bnb8-outliers")
"""Those that round what enters too."""
ALL = ["replay", "hooks"]

pytestmark = pytest.mark.sampled(2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Any, Model]]:
    """Hugging Face's quantised model and interp's, both from the folder of the first."""

    @cache
    def make(kind: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Model]:
        config, folder = KINDS[kind](), tmp_path_factory.mktemp(kind)
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it says each cast to float16
        with torch.random.fork_rng():
            torch.manual_seed(0)
            plain = hf.LlamaForCausalLM(hf.LlamaConfig(**SHAPE))
            for parameter in plain.parameters():
                parameter.data += 0.1 * torch.randn_like(parameter)
        plain.save_pretrained(folder / "plain")
        options: dict[str, Any] = {"dtype": dtype, "attn_implementation": "eager"}
        auto = hf.AutoModelForCausalLM
        auto.from_pretrained(
            folder / "plain", quantization_config=config, **options
        ).save_pretrained(folder / "packed")
        packed = auto.from_pretrained(folder / "packed", **options).eval()
        quantised.multiply_as_asked(packed)  # as on a processor without bfloat16 products
        return packed, interp.load(folder / "packed", dtype=dtype, device="cpu")

    return make


def logit_diffs(plain: Any, pairs: interp.Pairs) -> np.ndarray:
    """Hugging Face's own, all rows of a length together as the library runs them."""
    found = np.full(len(pairs), np.nan)
    for length in sorted(set(pairs.lengths.tolist())):
        rows = [i for i, n in enumerate(pairs.lengths.tolist()) if n == length]
        with torch.no_grad():
            last = plain(input_ids=pairs.clean[rows, :length]).logits[:, -1].double()
        index = torch.arange(len(rows))
        answers = (pairs.correct[rows].flatten(), pairs.wrong[rows].flatten())
        right, wrong = (last[index, ids] for ids in answers)
        found[rows] = (right - wrong).numpy()
    return found


def effects(results: interp.Results) -> np.ndarray:
    return results.frame.effect.to_numpy()


# What they compute


@pytest.mark.parametrize("engine", ALL)
@pytest.mark.parametrize("kind", WEIGHTS)
def test_engines_say_what_the_quantised_model_says(kind, engine, made, pairs):
    plain, model = made(kind)
    found = interp.evaluate(model, pairs, engine=engine).frame
    ours = found.value.to_numpy()[: len(pairs)]
    assert np.abs(ours - logit_diffs(plain, pairs)).max() < 5e-6
    assert set(found.engine) == {engine}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_replay_and_hooks_agree_on_every_sort_of_sweep(kind, made, pairs):
    _, model = made(kind)
    sweeps: list[Callable[[Any], interp.Results]] = [
        lambda e: interp.ablate(model, pairs, "heads", method="zero", engine=e),
        lambda e: interp.ablate(model, pairs, ["1.mlp[3]", "2.mlp[5]"], method="zero", engine=e),
        lambda e: interp.patch(model, pairs, ["1.2.q", "1.kv0.k", "2.kv1.v"], engine=e),
        lambda e: interp.patch(model, pairs, ["0.1 -> 2.3.q", "0.1 -> 1.mlp"], engine=e),
        lambda e: interp.path_patch(model, pairs, senders="heads", receivers="logits", engine=e),
    ]
    for sweep in sweeps:
        replay, hooks = (effects(sweep(engine)) for engine in ALL)
        assert np.abs(hooks).max() > 0.01
        assert np.abs(replay - hooks).max() < 5e-6


@pytest.mark.parametrize("kind", ROUNDED)
def test_where_activations_are_rounded_a_model_is_right_or_refused(kind, made, pairs):
    plain, model = made(kind)
    with pytest.raises(Unsupported, match=r"to 8 bits by .*Int8WeightOnlyConfig.*'hooks'"):
        interp.evaluate(model, pairs, engine="replay")
    refusal = ""
    try:
        found = interp.evaluate(model, pairs).frame
    except Unsupported as error:
        found, refusal = None, str(error)
    if found is None:
        assert "does not reproduce" in refusal
        return
    assert set(found.engine) == {"hooks"}
    ours = found.value.to_numpy()[: len(pairs)]
    assert np.abs(ours - logit_diffs(plain, pairs)).max() < 5e-6


@pytest.mark.parametrize("kind", WEIGHTS)
def test_a_run_patched_with_itself_does_not_move(kind, made, pairs):
    _, model = made(kind)
    same = interp.Pairs.from_tokens(
        clean=pairs.clean[:1, :7].tolist() * 2,
        corrupt=pairs.clean[:1, :7].tolist() * 2,
        correct=[3, 5],
        wrong=[4, 6],
    )
    for sites in ("heads", "mlps", ["1.mlp[3]", "0.2 -> 1.mlp"]):
        assert np.abs(effects(interp.patch(model, same, sites, engine="replay"))).max() < 1e-6


def test_half_precision_too(made, pairs):
    plain, model = made("nf4", torch.bfloat16)
    found = interp.evaluate(model, pairs, engine="replay").frame.value.to_numpy()[: len(pairs)]
    assert np.abs(found - logit_diffs(plain, pairs)).max() < 0.06
    for sites in ("heads", ["1.mlp[3]"], ["0.1 -> 2.3.q"]):
        replay, hooks = (effects(interp.patch(model, pairs, sites, engine=e)) for e in ALL)
        assert np.abs(replay - hooks).max() < 0.1
    interp.causal.attribute(model, pairs, "edges")


def test_a_part_of_a_projection_is_the_same_part_of_what_the_module_gives(made):
    _, model = made("nf4")
    q = read(model).blocks[1].attention.q
    x = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(0))
    whole = q(x)
    assert torch.equal(q.rows(16, 32)(x), whole[..., 16:32])
    assert torch.equal(q.pick(torch.tensor([5, 2]))(x), whole[..., [5, 2]])
    assert torch.equal(q.rows(16, 32).pick(torch.tensor([1]))(x), whole[..., 17:18])
    assert q(x[:0]).shape == (0, 3, 64)
    assert torch.allclose(F.linear(x, q.weight, q.bias), whole, atol=1e-6)
    assert torch.equal(q.rows(16, 32).weight, q.weight[16:32])


@pytest.mark.parametrize("kind", [*KINDS])
def test_dequantised_is_what_the_module_multiplies_with(kind, made):
    """A row of the identity has one number, so a module gives its weight's columns; those that
    round what enters it to a two hundredth.
    """
    plain, _ = made(kind)
    module = plain.model.layers[1].mlp.down_proj
    with torch.no_grad():
        columns = module(torch.eye(96))
    rtol = 1e-6 if kind in WEIGHTS else 0.005
    assert torch.allclose(quantised.dequantised(module, torch.float32).T, columns, rtol=rtol)


# What reads weights


@pytest.mark.parametrize("kind", ["nf4", "torchao", "bnb8", "bnb8-outliers"])
def test_methods_that_read_weights_say_that_they_dequantise(kind, made, caplog):
    model = copy.deepcopy(made(kind)[1])
    name = model.now().quantised[0]
    with caplog.at_level(logging.WARNING, "interp"):
        tables = [
            heads.qk_tokens(model, "1.2", 5),
            heads.ov_tokens(model, "1.2", 5),
            heads.composition(model),
            heads.copying_scores(model),
        ]
    assert all(table.provenance["dequantised"] == name for table in tables)
    assert all(table.provenance["quantised"] == name for table in tables)
    said = [r.getMessage() for r in caplog.records if "dequantised" in r.getMessage()]
    assert len(said) == 1  # once for a model
    assert name in said[0]


def test_qk_and_ov_are_those_of_the_dequantised_model(made, tmp_path):
    """The same numbers in plain matrices give the same tables."""
    packed, model = made("nf4")
    plain = hf.LlamaForCausalLM(hf.LlamaConfig(**SHAPE))
    state = {k: v for k, v in packed.state_dict().items() if k in plain.state_dict()}
    for name, module in packed.named_modules():
        if quantised.apart(module):
            state[f"{name}.weight"] = quantised.dequantised(module, torch.float32)
    plain.load_state_dict(state)
    plain.save_pretrained(tmp_path)
    same = interp.load(tmp_path, device="cpu")
    for method in (heads.qk_tokens, heads.ov_tokens):
        ours, theirs = (method(m, "2.1", 7).frame for m in (model, same))
        assert ours.token.tolist() == theirs.token.tolist()
        assert np.allclose(ours.value, theirs.value, atol=1e-5)


@pytest.mark.parametrize("kind", ["nf4", "torchao"])
def test_direct_attribution_sums_to_the_logit_difference(kind, made, pairs):
    plain, model = made(kind)
    found = heads.direct_logit_attribution(model, pairs)
    assert found.provenance["dequantised"] == model.now().quantised[0]
    total = found.frame.groupby("example").value.sum().to_numpy()
    assert np.abs(total - logit_diffs(plain, pairs)).max() < 1e-5


@pytest.mark.parametrize("kind", ROUNDED)
def test_what_needs_sums_or_slopes_refuses_where_activations_are_rounded(kind, made, pairs):
    _, model = made(kind)
    with pytest.raises(Unsupported, match=r"does not reproduce|o_proj .* rounds what enters it"):
        heads.direct_logit_attribution(model, pairs)
    with pytest.raises(Unsupported, match=r"rounds what enters it"):
        interp.causal.attribute(model, pairs, "edges")


# What is refused, and what serves


class Nibbles(nn.Module):
    """Two numbers of 4 bits in a byte: a way of packing that nothing knows."""

    def __init__(self, linear: nn.Linear, *, floats: bool) -> None:
        super().__init__()
        scale = linear.weight.detach().abs().amax() / 7
        codes = (linear.weight.detach() / scale).round().to(torch.int8) + 8
        held = (codes[:, ::2] * 16 + codes[:, 1::2]).to(torch.uint8)
        held = held.float() if floats else held
        self.weight = nn.Parameter(held, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.bias = None

    def forward(self, x: Tensor) -> Tensor:
        codes = self.weight.to(torch.uint8)
        codes = torch.stack([codes // 16, codes % 16], -1).flatten(1).float() - 8
        return F.linear(x, codes * self.scale)


@pytest.mark.parametrize("floats", [False, True])
def test_weights_packed_in_an_unknown_way_are_served_by_hooks(floats, pairs, caplog):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = hf.LlamaForCausalLM(hf.LlamaConfig(**SHAPE, attn_implementation="eager")).eval()
    for layer in plain.model.layers:
        for part, names in ((layer.self_attn, "qkvo"), (layer.mlp, ("gate", "up", "down"))):
            for name in names:
                setattr(part, f"{name}_proj", Nibbles(getattr(part, f"{name}_proj"), floats=floats))
    expected = logit_diffs(plain, pairs)
    given = {"d_vocab": tiny.VOCAB, "facts": lambda b: facts_of(b, language_model=True)}
    model = wrap(plain, "LlamaForCausalLM", "nibbles", None, **given)
    found = interp.evaluate(model, pairs).frame
    assert set(found.engine) == {"hooks"}
    assert np.abs(found.value.to_numpy()[: len(pairs)] - expected).max() < 5e-6
    assert np.isfinite(effects(interp.ablate(model, pairs, "heads", method="zero"))).all()
    asked: list[Callable[[], Any]] = [
        lambda: interp.evaluate(model, pairs, engine="replay"),
        lambda: heads.qk_tokens(model, "1.2", 5),
        lambda: heads.composition(model),
        lambda: interp.causal.attribute(model, pairs, "edges"),
    ]
    for ask in asked:
        with pytest.raises(InterpError, match=r"[qk]_proj.*nothing here knows") as refused:
            ask()
        assert "mat1" not in str(refused.value)


def test_a_folder_whose_package_is_missing_is_refused_by_name(made, monkeypatch):
    folder = made("nf4")[1].name
    monkeypatch.setattr(
        "transformers.quantizers.quantizer_bnb_4bit.is_bitsandbytes_available", lambda: False
    )
    with pytest.raises(ModelError, match=r"bitsandbytes.*need a package that is not installed"):
        interp.load(folder, device="cpu")


def test_a_fused_matrix_that_is_quantised_is_refused_with_a_remedy(tmp_path):
    config = bnb(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    shape = tiny.PLAIN | {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96}
    hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**shape)).save_pretrained(tmp_path / "plain")
    packed = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "plain", quantization_config=config)
    packed.save_pretrained(tmp_path / "packed")
    with pytest.raises(Unsupported, match=r"quantised \(bitsandbytes nf4\).*float16 or wider"):
        interp.load(tmp_path / "packed", device="cpu")


def test_a_plan_runs_no_module(made, pairs, monkeypatch):
    model = copy.deepcopy(made("nf4")[1])

    def ran(*args: Any) -> None:
        raise AssertionError("a plan ran a module")

    monkeypatch.setattr(F, "linear", ran)
    assert interp.explain(interp.ablate, model, pairs, "heads", method="zero")


# The model as it is now


@pytest.mark.parametrize(("kind", "part"), [("nf4", "absmax"), ("bnb8", "SCB")])
def test_scales_that_change_are_seen(kind, part, made, pairs):
    model = copy.deepcopy(made(kind)[1])
    module = next(m for m in model.live.watch.packed if part in quantised.beside(m))
    before, was = model.weight_hash, effects(interp.ablate(model, pairs, "heads", method="zero"))
    quantised.beside(module)[part].mul_(1.5)
    assert model.weight_hash != before
    assert not np.allclose(effects(interp.ablate(model, pairs, "heads", method="zero")), was)
    assert choose(model).name == ("replay" if kind in WEIGHTS else "hooks")
    assert made(kind)[1].weight_hash == before  # a copy has its own


def test_the_numbers_of_a_tensor_of_tensors_are_watched(made):
    model = copy.deepcopy(made("torchao")[1])
    before = model.weight_hash
    next(m for m in model.live.watch.packed).weight.scale.mul_(2)
    assert model.weight_hash != before


def test_how_activations_are_rounded_is_a_part_of_the_identity(made):
    found = {kind: made(kind)[1].identity() for kind in ("torchao", "torchao-dynamic")}
    assert len({identity["weights"] for identity in found.values()}) == 2
    assert found["torchao"]["quantised"] == "torchao Int8Tensor"
    assert found["torchao-dynamic"]["quantised"] == "torchao Int8Tensor, activations by row"
    model = copy.deepcopy(made("bnb8")[1])
    before, module = model.weight_hash, model.live.watch.packed[0]
    module.state.threshold = 3.0
    assert model.weight_hash != before
    with pytest.raises(Unsupported, match="all rows that run at once"):
        choose(model, "replay")


def test_the_truth_holds_no_second_copy_of_the_scales(made):
    _, model = made("bnb8")
    own = {id(m.state) for m in model.live.watch.packed}
    assert own == {id(m.state) for m in model.truth.skeleton.modules() if hasattr(m, "state")}
