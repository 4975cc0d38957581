"""Every option of every family's config is served right by an engine, or refused.

The truth is plain transformers with hand-made hooks (tests/plain.py): logits, and what they are
when a head or an MLP is set to zero, everywhere or at one position. The table says which engines
serve; on rows shorter and longer than whatever an option may depend on.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import options
import pytest
import tiny
import torch
import transformers as hf
from _pytest.mark import ParameterSet
from options import rope
from plain import Cut, output
from torch import Tensor

import interp
from interp.core.errors import InterpError, Unsupported
from interp.core.metrics import Answers, Metric
from interp.core.prompts.pairs import Pairs
from interp.engine.engines.choose import choose
from interp.models.bridge.precision import exact
from interp.models.model import Model

TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5}
"""Of numbers that are as large as 10."""
BOTH, HOOKS, REPLAY, NEITHER = ("replay", "hooks"), ("hooks",), ("replay",), ()
LENGTHS, LONG = (5, 14), (5, 22)
"""Past a window of 10, and past the 16 positions that the tiny models are made for."""
DECODER = (4, 7, 2)
FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class Setting:
    """Options of a family, and the engines that serve.

    Attributes:
        loads: TransformerLens can wrap it.
        long: whether its rows are longer than the positions that the model is made for.
        inert: the option is there, and changes nothing that Hugging Face computes.
    """

    family: str
    options: dict[str, Any] = field(default_factory=dict)
    served: tuple[str, ...] = BOTH
    loads: bool = True
    long: bool = False
    inert: bool = False
    dtype: torch.dtype = torch.float64

    @property
    def said(self) -> str:
        found = ",".join(f"{name}={_short(value)}" for name, value in self.options.items())
        return found or "default"

    def __str__(self) -> str:
        return f"{self.family}-{self.said}"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "+".join(_short(v) for v in value.values() if not isinstance(v, list))
    if isinstance(value, list):
        return "".join(str(v)[0] for v in value)
    return str(value)


def _each(name: str, *values: Any, of: str, **more: Any) -> list[Setting]:
    """One option with several values, on several families."""
    return [Setting(f, {name: value}, **more) for f in of.split() for value in values]


def _stretched(family: str, *kinds: str, width: int = 4, **more: Any) -> list[Setting]:
    """Rotary embeddings on rows that are longer than what they were made for."""
    return [
        Setting(family, {"rope_parameters": rope(kind, width=width, **more)}, long=True)
        for kind in kinds
    ]


def _by_layer(full: str, sliding: str = "default") -> Setting:
    parameters = {FULL: rope(full), SLIDING: rope(sliding, rope_theta=30.0)}
    more = {"sliding_window": 3, "layer_types": tiny.ALTERNATING}
    return Setting("gemma3", {"rope_parameters": parameters, **more}, long=True)


LLAMAS = "llama mistral qwen2 qwen3 gemma2 gemma3 olmo2"
FUNCTIONS = """gelu gelu_10 gelu_python hardswish laplace leaky_relu linear mish quick_gelu relu
relu2 relu6 sigmoid silu sqrtsoftplus swish tanh"""
TANH = "gelu_fast gelu_pytorch_tanh gelu_python_tanh gelu_accurate"
"""Other names of gelu_new."""
STRETCHED = ("linear", "dynamic", "yarn", "longrope", "llama3")

SETTINGS: list[Setting] = [
    *(Setting(family) for family in options.KINDS if family != "t5"),
    # GPT-2
    Setting("gpt2", {"scale_attn_weights": False}, REPLAY),  # the bridge scales nevertheless
    Setting("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    Setting("gpt2", {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True}, REPLAY),
    Setting("gpt2", {"reorder_and_upcast_attn": True}, dtype=torch.float32, inert=True),
    Setting("gpt2", {"add_cross_attention": True}, loads=False),
    *_each("n_inner", 20, of="gpt2 gptj"),
    *_each("tie_word_embeddings", False, of="gpt2 opt gemma2 gemma3 bert"),
    # one matrix or two of the same numbers
    *_each("tie_word_embeddings", True, of="gptj neox phi llama qwen2", inert=True),
    *_each("layer_norm_epsilon", 1e-2, of="gpt2 gptj"),
    # activation functions
    *_each("activation_function", *FUNCTIONS.split(), of="gpt2"),
    *_each("activation_function", *TANH.split(), of="gpt2", inert=True),
    *_each("activation_function", "prelu", "xielu", of="gpt2", served=HOOKS),  # which learn
    *_each("activation_function", "silu", "quick_gelu", of="gptj opt"),
    *_each("hidden_act", "gelu_new", of="neox bert"),
    *_each("hidden_act", "gelu", of="phi llama mistral"),
    *_each("hidden_act", "relu2", of="neox phi stablelm llama mistral qwen2 qwen3 olmo2 bert"),
    *_each("hidden_activation", "gelu", "relu2", of="gemma2 gemma3"),
    *_each("hidden_act", "relu2", of="gemma2 gemma3", inert=True),
    # positions
    *_each("rotary_dim", 4, of="gptj"),
    *_each("rope_parameters", rope("default"), of=LLAMAS.replace("gemma3 ", "")),
    *(s for f in ("llama", "mistral", "qwen3", "olmo2") for s in _stretched(f, *STRETCHED)),
    *(s for f in ("qwen2", "gemma2") for s in _stretched(f, "dynamic", "longrope")),
    *_stretched("neox", "linear", "yarn", "longrope", width=2, partial_rotary_factor=0.5),
    *_stretched("neox", "dynamic", "longrope", "llama3", partial_rotary_factor=1.0),
    *_stretched("phi", "linear", "yarn", width=2, partial_rotary_factor=0.5),
    *_stretched("phi", "default", "dynamic", "longrope", "llama3", partial_rotary_factor=1.0),
    *_stretched("stablelm", "linear", "yarn", width=2, partial_rotary_factor=0.5),
    *_stretched("stablelm", "dynamic", "longrope", "llama3", partial_rotary_factor=1.0),
    *(_by_layer(kind) for kind in STRETCHED),
    _by_layer("dynamic", "dynamic"),
    _by_layer("longrope", "longrope"),
    # windows
    *_each("sliding_window", 3, 10, of="mistral"),
    *_each("sliding_window", None, of="mistral", inert=True),
    *_each("sliding_window", 3, 10, of="gemma2 gemma3"),
    *_each("layer_types", [FULL] * 3, of="gemma2", inert=True),
    *_each("layer_types", [FULL] * 3, of="gemma3"),
    Setting("gemma2", {"sliding_window": 3, "layer_types": [SLIDING] * 3}),
    Setting("gemma3", {"sliding_window": 3, "layer_types": [SLIDING] * 3}),
    *(
        Setting(f, {"use_sliding_window": True, "sliding_window": n, "max_window_layers": layers})
        for f in ("qwen2", "qwen3")
        for n, layers in ((3, 1), (10, 2), (10, 0))
    ),
    *(
        Setting(f, {"use_sliding_window": True, "sliding_window": 4, "layer_types": kinds})
        for f, kinds in (("qwen2", tiny.ALTERNATING), ("qwen3", [FULL, SLIDING, FULL]))
    ),
    *_each("sliding_window", 3, of="qwen2 qwen3", inert=True),
    Setting("gemma2", {"use_bidirectional_attention": True}, inert=True),  # in the plain kernel
    Setting("gemma2", {"use_bidirectional_attention": True, "sliding_window": 4}),
    Setting("gemma3", {"use_bidirectional_attention": True}),
    Setting("gemma3", {"use_bidirectional_attention": True, "sliding_window": 7}),
    # scales, caps and norms
    *_each("query_pre_attn_scalar", 7, of="gemma2 gemma3"),
    *_each("final_logit_softcapping", 0.5, of="gemma2 gemma3"),
    *_each("attn_logit_softcapping", 0.5, None, of="gemma2"),
    Setting("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    # which Gemma 3's attention ignores, and the bridge's does not
    *_each("attn_logit_softcapping", 0.5, of="gemma3", served=REPLAY, inert=True),
    *_each("rms_norm_eps", 1e-2, of=LLAMAS),
    *_each("rms_norm_eps", 0.0, of="llama"),
    *_each("layer_norm_eps", 1e-2, of="neox phi stablelm bert bert-headless"),
    # shapes
    *_each("num_key_value_heads", 1, 3, of=LLAMAS),
    *_each("num_key_value_heads", 2, of="phi"),
    *_each("num_key_value_heads", 1, 3, of="stablelm"),
    *_each("head_dim", 10, of=LLAMAS),
    # biases
    *_each("attention_bias", True, of="llama qwen3 gemma2 gemma3 olmo2"),
    *_each("attention_bias", False, of="neox", loads=False),
    *_each("mlp_bias", True, of="llama"),
    # order of parts
    *_each("use_parallel_residual", False, of="neox"),
    *_each("use_parallel_residual", True, of="stablelm"),
    *_each("use_qkv_bias", True, of="stablelm"),
    *_each("qk_layernorm", True, of="stablelm", served=HOOKS),
    *_each("qk_layernorm", True, of="phi", loads=False),
    *_each("do_layer_norm_before", False, of="opt", loads=False),
    *_each("_remove_final_layer_norm", True, of="opt", loads=False),
    *_each("word_embed_proj_dim", 12, of="opt", served=HOOKS),
    *_each("enable_bias", False, of="opt"),
    *_each("layer_norm_elementwise_affine", False, of="opt"),
    *_each("type_vocab_size", 1, 4, of="bert"),
    *_each("is_decoder", True, of="bert bert-headless"),
    Setting("bert", {"is_decoder": True, "add_cross_attention": True}),
    # RoBERTa counts its padding out
    Setting("roberta", {"pad_token_id": 5, "max_position_embeddings": 24}),
    *_each("is_decoder", True, of="roberta"),
    *_each("hidden_act", "relu2", of="roberta"),  # of its head it is no option
    *_each("layer_norm_eps", 1e-2, of="roberta cohere cohere2 xlm-roberta"),
    Setting("xlm-roberta", {"pad_token_id": 5, "max_position_embeddings": 24}),
    *_each("activation", "relu", of="distilbert"),
    *_each("sinusoidal_pos_embds", True, of="distilbert", inert=True),
    *_each("tie_word_embeddings", False, of="distilbert xlm-roberta"),
    # heads that share keys; one matrix that is cut
    *_each("multi_query", False, of="bigcode", loads=False),
    *_each("multi_query", False, of="falcon"),
    *_each("num_key_value_heads", 1, 3, of="gemma granite cohere phi3 nemotron"),
    Setting("falcon", {"new_decoder_architecture": True, "num_kv_heads": 1}),
    Setting("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}, loads=False),
    *_each("scale_attn_weights", False, of="bigcode", served=REPLAY),  # as of GPT-2
    *_each("attention_softmax_in_fp32", False, of="bigcode", inert=True),
    *_each("layer_norm_epsilon", 1e-2, of="bigcode gpt-neo bloom mpt falcon"),
    *_each("activation_function", "relu2", of="bigcode gpt-neo"),
    *_each("n_inner", None, of="bigcode"),
    # windows, and layers that are not turned
    *_each("window_size", 5, 10, of="gpt-neo"),
    *_each("attention_types", [[["local"], 3]], of="gpt-neo"),
    *_each("sliding_window", 3, 10, of="phi3 starcoder2"),
    *_each("sliding_window", 10, of="cohere2 olmo3 exaone4"),
    *_each("layer_types", [FULL] * 3, of="cohere2 olmo3 exaone4"),
    *_each("layer_types", [SLIDING] * 3, of="cohere2 olmo3 exaone4"),
    Setting("exaone4", {"sliding_window": None, "layer_types": [FULL] * 3}),
    *_each("no_rope_layers", [0, 0, 0], [1, 1, 1], of="smollm3"),
    Setting("smollm3", {"use_sliding_window": True, "sliding_window": 3}),
    # ALiBi
    *_each("alibi", True, of="falcon", served=HOOKS),
    Setting("bloom", {"n_head": 4}),
    Setting("mpt", {"n_heads": 4}),
    Setting("mpt", {"attn_config": {"alibi_bias_max": 4}}, inert=True),
    Setting("mpt", {"attn_config": {"softmax_scale": 0.3}}),
    Setting("mpt", {"attn_config": {"clip_qkv": 0.1}}, HOOKS),
    Setting("mpt", {"attn_config": {"alibi": False}}, inert=True),
    *_each("apply_residual_connection_post_layernorm", True, of="bloom", served=HOOKS),
    *_each("slow_but_exact", True, of="bloom", inert=True),
    # factors
    *_each("residual_multiplier", 1.0, -0.4, of="granite"),
    *_each("embedding_multiplier", 1.0, of="granite"),
    *_each("attention_multiplier", 1.0, of="granite"),
    *_each("logits_scaling", 1.0, of="granite"),
    *_each("logit_scale", 1.0, 0.3, of="cohere cohere2"),
    *_each("use_qk_norm", True, of="cohere", served=HOOKS),
    *_each("clip_qkv", 0.1, of="olmo", served=HOOKS),
    *_each("rms_norm_eps", 1e-2, of="gemma granite phi3 olmo3 smollm3 glm glm4 ernie exaone4"),
    *_each("norm_epsilon", 1e-2, of="starcoder2", served=REPLAY),  # the bridge has its own
    *_each("norm_eps", 1e-2, of="nemotron"),
    # biases, activations, order
    *_each("attention_bias", True, of="gemma granite cohere cohere2 olmo olmo3 smollm3 nemotron"),
    *_each("attention_bias", True, of="arcee"),
    *_each("attention_bias", False, of="glm glm4 seed-oss"),
    *_each("attention_out_bias", True, of="seed-oss"),
    *_each("mlp_bias", True, of="granite nemotron arcee seed-oss smollm3"),
    *_each("use_bias", True, of="ernie"),
    *_each("use_bias", False, of="starcoder2"),
    *_each("bias", True, of="falcon"),
    *_each("activation", "relu", of="falcon"),
    *_each("parallel_attn", False, of="falcon"),
    *_each("hidden_act", "relu", of="granite cohere phi3 olmo starcoder2 glm ernie nemotron arcee"),
    # positions
    *(s for f in ("granite", "cohere", "ernie", "seed-oss") for s in _stretched(f, *STRETCHED)),
    *_stretched("glm", "linear", "yarn", width=4, partial_rotary_factor=0.5),
    *_stretched("phi3", "longrope", partial_rotary_factor=1.0),
    *_each("tie_word_embeddings", False, of="gemma cohere bloom falcon mpt roberta"),
]
T5S = [
    Setting("t5", found, HOOKS)
    for found in (
        {},
        {"feed_forward_proj": "gated-gelu"},
        {"feed_forward_proj": "gelu"},
        {"tie_word_embeddings": False},
        {"scale_decoder_outputs": False},
        {"relative_attention_num_buckets": 4, "relative_attention_max_distance": 6},
        {"d_kv": 3},
        {"num_decoder_layers": 4},
        {"layer_norm_epsilon": 1e-2},
    )
]
OFTEN = 1
"""Families in the ordinary run that have the same option; further ones are slow."""


def params(settings: Sequence[Setting]) -> list[ParameterSet]:
    count: Counter[str] = Counter()
    found = []
    for setting in settings:
        count[setting.said] += setting.said != "default"
        marks = [pytest.mark.slow] if count[setting.said] > OFTEN else []
        found.append(pytest.param(setting, id=str(setting), marks=marks))
    return found


WEIGHTS = torch.randn(64, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@cache
def reading(position: str, *, embedding: bool) -> Metric:
    """A sum of all logits (or features) at a position, each with a weight of its own."""

    def read(logits: Tensor, answers: Answers) -> Tensor:
        return (logits.double() * WEIGHTS[: logits.shape[-1]]).sum(-1)

    reads = "embedding" if embedding else "vocabulary"
    return Metric(f"read {position}", read, reads, position, needs_answers=False)


def number(logits: Tensor, position: int) -> float:
    """The same of plain transformers' output."""
    return (logits[position].double() * WEIGHTS[: logits.shape[-1]]).sum().item()


def asked(encoder_decoder: bool) -> list[tuple[list[str], list[str]]]:
    """What is set to zero, and where. A decoder has positions of its own."""
    if not encoder_decoder:
        return [(["0.1", "1.mlp"], ["all", "mid"])]
    decoder = ["dec.0.1", "dec.0.cross.2", "dec.1.mlp"]
    return [(["enc.0.1", "enc.1.mlp"], ["all", "mid"]), (decoder, ["all"])]


@dataclass(frozen=True)
class Case:
    """A model of a setting, and what plain transformers say of it."""

    model: Model
    pairs: Pairs
    base: dict[str, list[float]]
    cut: dict[tuple[str, str], list[float]]


def plain(folder: Path, setting: Setting) -> hf.PreTrainedModel:
    kind = options.KINDS[setting.family].model
    model = kind.from_pretrained(
        folder, dtype=setting.dtype, attn_implementation="eager", local_files_only=True
    )
    exact(model)
    return model.eval()


def saved(setting: Setting, folder: Path) -> Path:
    options.build(setting.family, **setting.options).save_pretrained(folder)
    return folder


def matters(setting: Setting, truth: hf.PreTrainedModel, row: list[int]) -> bool:
    """Does a model of the same weights without the options say anything else, if there is one?"""
    twin = options.twin(setting.family, truth) if setting.options else None
    if twin is None:
        return True
    twin.to(setting.dtype).set_attn_implementation("eager")
    exact(twin)
    decoder = DECODER if setting.family == "t5" else ()
    one, other = (output(model, row, decoder=decoder) for model in (truth, twin))
    return bool((one - other).abs().max() > 1e-6)


def case(setting: Setting, folder: Path) -> Case:
    family = setting.family
    truth = plain(saved(setting, folder), setting)
    rows = options.rows(*(LONG if setting.long else LENGTHS))
    places = {"end": [len(row) - 1 for row in rows], "mid": [2, 9]}
    assert matters(setting, truth, rows[-1]) != setting.inert
    decoder = DECODER if family == "t5" else ()
    # a decoder is read at its last position, and MLM heads wherever
    reads = {"end": [-1, -1]} if decoder else places

    def said(*cuts: tuple[str, str]) -> list[Tensor]:
        found = []
        for i, row in enumerate(rows):
            here = [Cut(site, None if w == "all" else places[w][i]) for site, w in cuts]
            found.append(output(truth, row, cuts=here, decoder=decoder))
        return found

    base = said()
    return Case(
        interp.load(folder, dtype=setting.dtype),
        Pairs.from_tokens(
            clean=rows,
            corrupt=rows,
            correct=[3, 5],
            wrong=[4, 6],
            positions={"mid": places["mid"]},
            decoder=decoder,
        ),
        {n: [number(o, p) for o, p in zip(base, at, strict=True)] for n, at in reads.items()},
        {
            cut: [number(o, p) for o, p in zip(said(cut), reads["end"], strict=True)]
            for sites, where in asked(family == "t5")
            for cut in product(sites, where)
        },
    )


def off(found: Case, engine: str) -> dict[str, float]:
    """How far an engine is from plain transformers: by what was asked."""
    model, pairs, embedding = found.model, found.pairs, not found.model.facts.language_model
    metrics = [reading(position, embedding=embedding) for position in found.base]
    frame = interp.evaluate(model, pairs, metric=metrics, engine=engine).frame
    gaps = {}
    for position, numbers in found.base.items():
        at = frame.query(f"position == 'clean' and metric == 'read {position}'")["value"]
        gaps[f"the base at {position}"] = np.abs(at.to_numpy() - numbers).max()
    read, base = metrics[0], np.array(found.base["end"])
    for sites, where in asked(model.facts.n_encoder_layers > 0):
        options = {"method": "zero", "positions": where, "metric": read, "engine": engine}
        frame = interp.ablate(model, pairs, sites, **options).frame
        for site, position in product(sites, where):
            of = frame[(frame["site"] == site) & (frame["position"] == position)]
            value = np.array(found.cut[site, position])
            gaps[f"{site} at {position}"] = np.abs(of["value"].to_numpy() - value).max()
            effect = of["effect"].to_numpy() - (value - base)
            gaps[f"the effect of {site} at {position}"] = np.abs(effect).max()
    return gaps


def wrong(found: Case, setting: Setting, engine: str) -> str:
    """What an engine says otherwise than plain transformers, or that it refuses."""
    try:
        gaps = off(found, engine)
    except InterpError as refusal:
        return f"refuses: {refusal}"
    bad = {what: gap for what, gap in gaps.items() if not gap <= TOLERANCE[setting.dtype]}
    return f"is off: {bad}" if bad else ""


@pytest.mark.plain
@pytest.mark.sampled(20)
@pytest.mark.parametrize("setting", params([*SETTINGS, *T5S]))
def test_an_option_is_served_right_or_refused(setting, tmp_path):
    if not setting.loads:
        with pytest.raises(Unsupported, match="TransformerLens cannot wrap or run it"):
            interp.load(saved(setting, tmp_path), dtype=setting.dtype)
        return
    found = case(setting, tmp_path)
    said = {engine: wrong(found, setting, engine) for engine in BOTH}
    for engine in BOTH:
        assert not said[engine].startswith("is off"), (engine, said[engine])
        assert (engine in setting.served) == (not said[engine]), (engine, said[engine])
    if not setting.served:
        with pytest.raises(InterpError):
            choose(found.model)
        return
    longest = int(found.pairs.lengths.max())
    assert choose(found.model, longest=longest).name == setting.served[0]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("setting", [s for s in SETTINGS if len(s.served) < 2 and s.loads], ids=str)
def test_auto_takes_the_engine_that_is_right(setting, tmp_path):
    found = case(setting, tmp_path)
    assert not wrong(found, setting, "auto")


def test_enough_options_are_swept():
    known = [*SETTINGS, *T5S]
    assert {s.family for s in known} == set(options.KINDS)
    assert len({str(s) for s in known}) == len(known) > 150


@pytest.mark.parametrize("family", options.KINDS)
def test_exact_numbers_are_those_of_plain_transformers(family):
    """Which in float64 goes through float32 in norms, and so is exact to seven digits alone."""
    model, [row] = options.build(family), options.rows(14)
    model.set_attn_implementation("eager")
    decoder = DECODER if family == "t5" else ()
    detoured = output(model, row, decoder=decoder)
    exact(model)
    direct = output(model, row, decoder=decoder)
    assert (direct - detoured).abs().max() < 3e-6 * direct.abs().max()


SEES = {  # what comes after a token
    ("bert", ()): True,
    ("bert", (("is_decoder", True),)): False,
    ("gemma2", (("use_bidirectional_attention", True),)): False,
    ("gemma3", ()): False,
    ("gemma3", (("use_bidirectional_attention", True),)): True,
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family, given", SEES, ids=str)
def test_whether_a_model_is_causal_is_seen_and_not_believed(family, given, dtype, tmp_path):
    """TransformerLens goes by the architecture, and a config may switch it."""
    options.build(family, **dict(given)).save_pretrained(tmp_path)
    model = interp.load(tmp_path, dtype=dtype)
    assert model.facts.causal != SEES[family, given]
    rows = options.rows(5, 9)
    pairs = Pairs.from_tokens(clean=rows, corrupt=rows)
    if model.facts.causal:
        assert interp.evaluate(model, pairs, metric="next_token_loss").frame["value"].min() > 0
        return
    with pytest.raises(Unsupported, match="reads the whole row at once"):
        interp.evaluate(model, pairs, metric="next_token_loss")


@pytest.mark.parametrize("family", ["llama", "gemma2", "bert"])
def test_a_body_without_a_head_in_float64(family, tmp_path):
    """It is run without the class around it, and is no less exact."""
    built = options.build(family)
    built.base_model.save_pretrained(tmp_path)
    model = interp.load(tmp_path, dtype=torch.float64)
    if family == "gemma2":  # whose embedding is its head
        assert model.facts.language_model
        return
    plain = type(built.base_model).from_pretrained(
        tmp_path, dtype=torch.float64, attn_implementation="eager"
    )
    exact(plain.eval())
    rows = options.rows(14)
    pairs = Pairs.from_tokens(clean=rows, corrupt=rows)
    streams: list[Tensor] = []
    if family == "llama":  # the embedding is read before the last norm
        plain.norm.register_forward_pre_hook(lambda module, args: streams.append(args[0][0]))
    truth = number([output(plain, rows[0]), *streams][-1], -1)
    for engine in BOTH:
        frame = interp.evaluate(
            model, pairs, metric=reading("end", embedding=True), engine=engine
        ).frame
        assert np.abs(frame["value"] - truth).max() < TOLERANCE[torch.float64]
