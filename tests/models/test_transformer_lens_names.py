"""Every name of TransformerLens that interp uses, so that an upgrade says at once what is gone.

TransformerLens takes public names away in minor releases (4.2 to 4.3: 66), so one minor release is
pinned. To try another, install it and run this file alone, with `--noconftest`: each failure is one
name, and where interp uses it. interp itself is not imported here, so that it cannot fail first.
"""

import ast
import inspect
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

HERE = version("transformer-lens")
ROOT = Path(str(getattr(find_spec("interp"), "origin", None))).parent

IMPORTED: Mapping[str, tuple[str, ...]] = {
    "transformer_lens": ("FactoredMatrix", "HookedRootModule"),
    "transformer_lens.config": ("TransformerBridgeConfig",),
    "transformer_lens.factories.architecture_adapter_factory": (
        *("SUPPORTED_ARCHITECTURES", "ArchitectureAdapterFactory"),
    ),
    "transformer_lens.hook_points": ("HookPoint",),
    "transformer_lens.model_bridge": ("TransformerBridge",),
    "transformer_lens.model_bridge.generalized_components": (
        *("AttentionBridge", "BlockBridge", "EmbeddingBridge", "LinearBridge", "MLPBridge"),
        *("NormalizationBridge", "ParallelBlockBridge", "PosEmbedBridge", "UnembeddingBridge"),
    ),
    "transformer_lens.model_bridge.generalized_components.base": ("GeneralizedComponent",),
    "transformer_lens.model_bridge.sources": (),
    "transformer_lens.model_bridge.sources._bridge_builder": ("build_bridge_from_module",),
    "transformer_lens.model_bridge.sources._hf_format": ("determine_architecture_from_hf_config",),
    "transformer_lens.model_bridge.sources.native": ("NativeModel", "initialize_native_model"),
    "transformer_lens.model_bridge.sources.transformers.helpers": (
        "get_hf_model_class_for_architecture",
    ),
    "transformer_lens.model_bridge.supported_architectures.bart": (
        "BartFamilyArchitectureAdapter",
    ),
    "transformer_lens.model_bridge.supported_architectures.bert": ("BertArchitectureAdapter",),
    "transformer_lens.model_bridge.supported_architectures.roberta": (
        "RobertaArchitectureAdapter",
    ),
}

PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "transformer_lens.FactoredMatrix": ("A", "B"),
    "transformer_lens.HookedRootModule.setup": ("self",),
    "transformer_lens.model_bridge.TransformerBridge.hooks": ("fwd_hooks",),
    "transformer_lens.model_bridge.sources._bridge_builder.build_bridge_from_module": (
        *("model", "architecture", "hf_config", "tl_config"),
        *("tokenizer", "dtype", "device", "model_name"),
    ),
    "transformer_lens.model_bridge.sources._hf_format.determine_architecture_from_hf_config": (
        "hf_config",
    ),
    "transformer_lens.model_bridge.sources.native.NativeModel": ("cfg",),
    "transformer_lens.model_bridge.sources.native.initialize_native_model": (
        *("model", "cfg", "seed"),
    ),
    "transformer_lens.model_bridge.sources.transformers.helpers"
    ".get_hf_model_class_for_architecture": ("architecture",),
    "transformer_lens.config.TransformerBridgeConfig": (
        *("d_model", "d_head", "n_layers", "n_ctx", "n_heads", "n_key_value_heads", "d_vocab"),
        *("act_fn", "normalization_type", "rotary_dim", "architecture"),
        "kwargs",  # d_mlp and positional_embedding_type among them
    ),
}

ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "transformer_lens.FactoredMatrix": ("A", "B", "svd", "eigenvalues", "norm"),
    "transformer_lens.HookedRootModule": ("setup", "hook_dict", "hooks"),
    "transformer_lens.hook_points.HookPoint": ("add_hook", "fwd_hooks"),
}

BRIDGE = ("original_model", "hook_dict", "hooks", "cfg", "add_hook", "reset_hooks")
"""What every bridge has."""

CFG = (
    *("n_heads", "n_key_value_heads", "d_model", "d_head", "d_mlp", "d_vocab", "n_ctx", "act_fn"),
    *("normalization_type", "uses_rms_norm", "positional_embedding_type", "gated_mlp"),
    "attention_dir",
)

ATTENTION = tuple(f"attn.{part}.original_component" for part in "qkvo")
STREAM = tuple(f"hook_{kind}" for kind in ("resid_pre", "attn_out", "mlp_out", "resid_post"))
HEADS = tuple(f"attn.hook_{kind}" for kind in ("q", "k", "v", "z", "pattern"))
PLAIN = (*STREAM, *HEADS, "attn.o.hook_out", "mlp.out.hook_in")
SCALES = ("ln1.hook_scale", "ln2.hook_scale")
SANDWICH = tuple(f"{norm}.hook_{at}" for norm in ("ln1_post", "ln2_post") for at in ("in", "out"))
MLP, GATED = ("mlp.in", "mlp.out"), ("mlp.gate", "mlp.in", "mlp.out")

# Of a family: parts of the bridge, parts of each block, and hook points of each block.
FAMILIES: Mapping[str, tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "gpt2": (
        "GPT2LMHeadModel",
        ("embed", "pos_embed", "ln_final", "unembed"),
        ("ln1", "ln2", *ATTENTION, *MLP, "attn.split_qkv_matrix"),
        (*PLAIN, "hook_resid_mid", *SCALES, "ln1.hook_in", "ln1.hook_out"),
    ),
    "llama": (
        "LlamaForCausalLM",
        ("embed", "rotary_emb", "ln_final", "unembed"),
        ("ln1", "ln2", *ATTENTION, *GATED),
        (*PLAIN, "hook_resid_mid", *SCALES),
    ),
    "qwen3": (
        "Qwen3ForCausalLM",
        ("embed", "rotary_emb", "ln_final", "unembed"),
        ("ln1", "ln2", "attn.q_norm", "attn.k_norm", *ATTENTION, *GATED),
        (*PLAIN, "hook_resid_mid", *SCALES),
    ),
    "gemma2": (
        "Gemma2ForCausalLM",
        ("embed", "rotary_emb", "ln_final", "unembed"),
        ("ln1", "ln1_post", "ln2", "ln2_post", *ATTENTION, *GATED),
        (*PLAIN, "hook_resid_mid", *SCALES, *SANDWICH),
    ),
    "neox": (
        "GPTNeoXForCausalLM",
        ("embed", "rotary_emb", "ln_final", "unembed"),
        ("ln1", "ln2", *ATTENTION, *MLP, "attn.split_qkv_matrix"),
        (*PLAIN, *SCALES),
    ),
    "gptj": (
        "GPTJForCausalLM",
        ("embed", "ln_final", "unembed"),
        ("ln1", *ATTENTION, *MLP, "attn.original_component"),
        (*PLAIN, "ln1.hook_scale"),
    ),
    "bert": (
        "BertForMaskedLM",
        (
            *("embed", "pos_embed", "token_type_embed", "embed_ln"),
            *("mlm_head", "ln_final", "unembed"),
        ),
        ("ln1", "ln2", *ATTENTION, *MLP),
        (*PLAIN, "ln1.hook_in", "ln1.hook_out", "ln2.hook_in"),
    ),
}

CROSS = tuple(f"cross_attn.hook_{kind}" for kind in ("q", "k", "v", "z", "pattern"))
STACKS: Mapping[str, tuple[str, ...]] = {
    "encoder_blocks": PLAIN,
    "decoder_blocks": (
        *(name.replace("attn.", "self_attn.") for name in PLAIN),
        *(*CROSS, "cross_attn.o.hook_out", "hook_cross_attn_out"),
    ),
}


def gone(what: str, where: str) -> str:
    return (
        f"TransformerLens {HERE} has no {what}, which interp uses ({where}). Find its new name, or "
        "what does its work, and change interp there; then this table."
    )


def found(dotted: str) -> Any:
    """What a dotted name stands for; a class goes before a module of its name."""
    package, *parts = dotted.split(".")
    here: Any = import_module(package)
    for part in parts:
        package += f".{part}"
        try:
            here = getattr(here, part) if hasattr(here, part) else import_module(package)
        except ModuleNotFoundError:
            pytest.fail(gone(dotted, f"there is no {package}"))
    return here


def imports() -> Iterator[tuple[str, str, str]]:
    """What the source of interp imports of TransformerLens: module, name and file."""
    for path in sorted(ROOT.rglob("*.py")):
        file = str(path.relative_to(ROOT.parent))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("transformer_l"):
                yield from ((str(node.module), alias.name, file) for alias in node.names)
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
                yield from ((n, "", file) for n in names if n.startswith("transformer_lens"))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                dotted = node.value.split()
                if len(dotted) == 1 and dotted[0].startswith("transformer_lens."):
                    yield dotted[0], "", file


def files(module: str, name: str) -> str:
    there = sorted({file for m, n, file in imports() if (m, n) == (module, name)})
    return ", ".join(there) or "nowhere"


@pytest.mark.parametrize(
    ("module", "name"), [(m, n) for m in IMPORTED for n in IMPORTED[m] or [""]]
)
def test_what_is_imported_is_there(module, name):
    try:
        here = import_module(module)
    except ModuleNotFoundError:
        pytest.fail(gone(f"module {module}", files(module, name)))
    assert not name or hasattr(here, name), gone(f"{module}.{name}", files(module, name))


@pytest.mark.plain
def test_the_table_is_what_interp_imports():
    """And nothing outside of interp.models imports any of it."""
    listed = {(module, name) for module, names in IMPORTED.items() for name in names or ("",)}
    there = {(module, name) for module, name, _ in imports()}
    assert there - listed == set(), "interp imports these, and the table has them not"
    assert listed - there == set(), "the table has these, and interp no longer imports them"
    outside = {file for *_, file in imports() if not file.startswith("interp/models/")}
    assert outside == set()


@pytest.mark.parametrize("function", PARAMETERS)
def test_parameters(function):
    known = inspect.signature(found(function)).parameters
    lost = [name for name in PARAMETERS[function] if name not in known]
    assert not lost, gone(f"parameter {', '.join(lost)} of {function}", "by name")


@pytest.mark.parametrize("owner", ATTRIBUTES)
def test_attributes(owner):
    cls = found(owner)
    here = cls(torch.eye(2), torch.eye(2)) if "Factored" in owner else cls()
    if hasattr(here, "setup"):
        here.setup()
    for name in ATTRIBUTES[owner]:
        assert hasattr(here, name), gone(f"{owner}.{name}", "an attribute")


def test_a_factored_matrix_is_the_product_of_its_factors():
    """What `svd`, `eigenvalues` and `norm` give, beside torch's of the whole product."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator).double() for shape in ((5, 2), (2, 5)))
    matrix = found("transformer_lens.FactoredMatrix")(a, b)
    u, s, v = matrix.svd()
    assert torch.allclose(u @ torch.diag(s) @ v.mT, a @ b)
    assert torch.allclose(matrix.norm(), (a @ b).norm())
    whole = torch.linalg.eigvals(a @ b)
    largest = whole[whole.abs().argsort(descending=True)[:2]]
    ours = matrix.eigenvalues
    assert torch.allclose(ours.abs().sort().values, largest.abs().sort().values)


@cache
def bridge(family: str, architecture: str) -> Any:
    """A live bridge, made by TransformerLens alone."""
    build = found("transformer_lens.model_bridge.sources._bridge_builder.build_bridge_from_module")
    model = tiny.build(family)
    return build(
        model,
        architecture,
        hf_config=model.config,
        tokenizer=None,
        dtype=torch.float32,
        device=torch.device("cpu"),
        model_name=family,
    )


def lost_parts(owner: Any, names: tuple[str, ...]) -> list[str]:
    lost = []
    for name in names:
        try:
            attrgetter(name)(owner)
        except AttributeError:
            lost.append(name)
    return lost


@pytest.mark.parametrize("family", FAMILIES)
def test_a_live_bridge(family):
    architecture, parts, of_block, points = FAMILIES[family]
    live = bridge(family, architecture)
    assert not (lost := lost_parts(live, BRIDGE)), gone(f"TransformerBridge.{lost}", "model.bridge")
    assert not (lost := lost_parts(live.cfg, CFG)), gone(f"bridge.cfg.{lost}", "models/facts.py")
    assert not (lost := lost_parts(live, parts)), gone(f"{family} bridge.{lost}", "engine/weights")
    assert len(live.blocks) == 3
    for layer, block in enumerate(live.blocks):
        lost = lost_parts(block, of_block)
        assert not lost, gone(f"{family} bridge.blocks[{layer}].{lost}", "engine/weights.py")
        wanted = [f"blocks.{layer}.{name}" for name in points]
        lost = [name for name in wanted if name not in live.hook_dict]
        assert not lost, gone(f"hook point {lost} of {family}", "models/points.py")


def test_two_stacks():
    live = bridge("t5", "T5ForConditionalGeneration")
    for stack, points in STACKS.items():
        for layer in range(len(getattr(live, stack))):
            wanted = [f"{stack}.{layer}.{name}" for name in points]
            lost = [name for name in wanted if name not in live.hook_dict]
            assert not lost, gone(f"hook point {lost} of T5", "models/points.py")


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_stand_where_their_original_was(family):
    """Under a part of the bridge is the original module, named so in the wrapped model."""
    live = bridge(family, FAMILIES[family][0])
    component = found(
        "transformer_lens.model_bridge.generalized_components.base.GeneralizedComponent"
    )
    assert isinstance(live.blocks[0].ln1, component)
    names = [name for name, _ in live.original_model.named_modules()]
    assert any("._original_component" in name for name in names), gone(
        "_original_component in the names of modules", "models/truth.py, models/watch.py"
    )


def test_a_hook_on_a_point_is_gone_after_the_block():
    live = bridge("gpt2", "GPT2LMHeadModel")
    ids, seen = torch.tensor([[2, 3, 5]]), []
    name = "blocks.1.hook_resid_post"
    with live.hooks(fwd_hooks=[(name, lambda x, hook: seen.append(x.shape))]):
        live.original_model(input_ids=ids)
    live.original_model(input_ids=ids)
    assert seen == [torch.Size([1, 3, 12])]


def test_which_blocks_are_parallel():
    parallel = found("transformer_lens.model_bridge.generalized_components").ParallelBlockBridge
    kinds = {f: isinstance(bridge(f, FAMILIES[f][0]).blocks[0], parallel) for f in FAMILIES}
    assert [family for family, yes in kinds.items() if yes] == ["neox", "gptj"]


def test_the_tables_of_architectures():
    architecture = found(
        "transformer_lens.model_bridge.sources._hf_format.determine_architecture_from_hf_config"
    )
    auto = found(
        "transformer_lens.model_bridge.sources.transformers.helpers"
        ".get_hf_model_class_for_architecture"
    )
    expected = {
        "gpt2": "AutoModelForCausalLM",
        "bert": "AutoModelForMaskedLM",
        "t5": "AutoModelForSeq2SeqLM",
    }
    for family, name in expected.items():
        config = tiny.build(family).config
        config.architectures = [type(tiny.build(family)).__name__]
        assert auto(architecture(config)).__name__ == name
    config.architectures = ["CLIPModel"]
    config.model_type = "clip"
    with pytest.raises(ValueError, match="CLIPModel"):
        architecture(config)


def test_a_native_model():
    cls = found("transformer_lens.model_bridge.sources.native.NativeModel")
    config = found("transformer_lens.config.TransformerBridgeConfig")
    sizes = {"d_model": 8, "d_head": 4, "n_heads": 2, "n_layers": 1, "n_ctx": 8, "d_vocab": 7}
    rest = {"d_mlp": 5, "act_fn": "gelu", "architecture": "TransformerLensNative"}
    for positions, part in (("rotary", "rotary"), ("standard", "pos")):
        rotary = {"rotary_dim": 4 if positions == "rotary" else None}
        cfg = config(
            **sizes,
            **rest,
            **rotary,
            n_key_value_heads=1,
            normalization_type="LN",
            positional_embedding_type=positions,
        )
        model = cls(cfg)
        found("transformer_lens.model_bridge.sources.native.initialize_native_model")(
            model, cfg, seed=0
        )
        parts = ("layers", "rotary", "pos", "cfg", part)
        assert not (lost := lost_parts(model, parts)), gone(f"NativeModel.{lost}", "models/native")
        inside = ("attn.k.weight", "mlp.fc_in", "mlp.fc_out", "ln2")
        lost = lost_parts(model.layers[0], inside)
        assert not lost, gone(f"NativeModel.layers[0].{lost}", "models/native.py")
        assert model(torch.tensor([[1, 2]])).shape == (1, 2, 7)
        if positions == "rotary":
            assert not lost_parts(model.rotary, ("cos_cached", "sin_cached"))


def test_the_pin_is_of_one_minor_release():
    """The release that these tests were run on, and none after its minor one."""
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))
    (pin,) = (d for d in project["project"]["dependencies"] if d.startswith("transformer-lens"))
    major, minor = map(int, HERE.split(".")[:2])
    assert pin == f"transformer-lens>={major}.{minor},<{major}.{minor + 1}"
