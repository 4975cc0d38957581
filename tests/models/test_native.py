"""Native models: what they compute, by hand; what they are, truthfully; saved and read back."""

import itertools
import math
from dataclasses import replace

import pytest
import tiny
import torch

import interp
from interp.core.errors import ModelError, PairsError, SiteError
from interp.core.files.sealed import read_note, write_note
from interp.core.parts.sites import resolve
from interp.models import untrained
from interp.models.small.native import (
    SHAPE_FILE,
    WEIGHTS_FILE,
    Native,
    Shape,
    build,
    save,
    shape_of,
    sinusoids,
    state_of,
)

pytestmark = pytest.mark.sampled(6)

SHAPE = Shape(n_layers=2, n_heads=3, d_model=10, d_head=4, d_vocab=13, n_ctx=17, d_mlp=14)
POSITIONS = ("none", "learned", "sinusoidal", "rotary")
NORMS = ("layer", "rms", "none")


def made(*, dtype: torch.dtype = torch.float64, **options: object) -> interp.Model:
    """A model with random biases, norms and smears too, else they hide mistakes."""
    shape = replace(SHAPE, **options)
    generator = torch.Generator().manual_seed(1)
    state = {
        name: value + 0.3 * torch.randn(value.shape, generator=generator, dtype=dtype)
        for name, value in sorted(Native(shape, seed=0).state_dict().items())
    }
    return build(shape, name="made", state=state, dtype=dtype)


def tokens(pos: int = 9) -> torch.Tensor:
    return torch.randint(SHAPE.d_vocab, (2, pos), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def logits(model: interp.Model, ids: torch.Tensor) -> torch.Tensor:
    return model.bridge.original_model(ids).logits


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("positions", POSITIONS)
def test_identities_and_facts_hold(positions, norm):
    for d_mlp in (0, 14):
        model = made(positions=positions, norm=norm, d_mlp=d_mlp, smear=norm == "rms")
        assert model.checks.problems() == {}
        assert model.parity() < 1e-12
        assert model.checks.pattern > 1e-3
        facts = model.facts
        assert (facts.positions, facts.norm, facts.d_mlp) == (positions, norm, d_mlp)
        assert (facts.block, facts.causal, facts.gated, facts.parallel) == ("pre", True, False, 0)
        assert facts.architecture == "NativeModel"
        assert (model.checks.resid_mid is None) == (d_mlp == 0)


def test_grouped_keys():
    model = made(n_heads=6, n_kv_heads=2, positions="rotary")
    assert model.facts.group_size == 3
    assert model.checks.problems() == {}


def test_a_broken_sum_is_found_out_in_an_attention_only_model():
    checks = made(d_mlp=0).checks
    problem = replace(checks, resid_post=0.5).problems()["residual"]
    assert problem.startswith("resid_pre + attn_out = resid_post is off by 5.0e-01")


def test_attention_only_has_no_parameters_of_an_mlp():
    names = set(state_of(made(d_mlp=0)))
    assert not [name for name in names if "mlp" in name or "ln2" in name]
    assert [name for name in state_of(made()) if "mlp" in name]
    with pytest.raises(SiteError, match=r"'0\.mlp': the model has no MLPs"):
        resolve("mlps", made(d_mlp=0).facts)


def test_fixed_positions_are_no_parameters():
    for positions in POSITIONS:
        learned = [name for name in state_of(made(positions=positions)) if name.startswith("pos")]
        assert learned == (["pos.weight"] if positions == "learned" else [])


def test_sinusoids_are_those_of_the_paper():
    """Vaswani et al. 2017, §3.5, entry by entry; here divided by sqrt(d_model)."""
    table = sinusoids(17, 10)
    for pos in range(17):
        for i in range(5):
            angle = pos / 10000 ** (2 * i / 10)
            assert abs(table[pos, 2 * i] - math.sin(angle) / math.sqrt(10)) < 1e-15
            assert abs(table[pos, 2 * i + 1] - math.cos(angle) / math.sqrt(10)) < 1e-15
    model = made(positions="sinusoidal")
    assert torch.equal(model.bridge.W_pos, table)
    assert torch.equal(made(positions="none").bridge.W_pos, torch.zeros(17, 10))


def pattern(model: interp.Model, ids: torch.Tensor) -> torch.Tensor:
    """The pattern of the first layer, head by head and number by number, from the state alone."""
    state, shape = state_of(model), shape_of(model)
    attn = {n: state[f"layers.0.attn.{n}.weight"] for n in "qk"}
    bias = {n: state[f"layers.0.attn.{n}.bias"] for n in "qk"}
    group = shape.n_heads // (shape.n_kv_heads or shape.n_heads)
    found = torch.zeros(shape.n_heads, len(ids), len(ids), dtype=torch.float64)
    stream = [state["tok_embed.weight"][t] for t in ids]
    if shape.positions == "learned":
        stream = [x + state["pos.weight"][i] for i, x in enumerate(stream)]

    def project(part: str, head: int, x: torch.Tensor) -> torch.Tensor:
        rows = slice(head * shape.d_head, (head + 1) * shape.d_head)
        return attn[part][rows] @ x + bias[part][rows]

    def rotated(x: torch.Tensor, pos: int) -> torch.Tensor:
        if shape.positions != "rotary":
            return x
        out = x.clone()
        for i in range(shape.d_head // 2):
            angle = pos / 10000 ** (2 * i / shape.d_head)
            a, b = x[2 * i], x[2 * i + 1]
            out[2 * i] = a * math.cos(angle) - b * math.sin(angle)
            out[2 * i + 1] = a * math.sin(angle) + b * math.cos(angle)
        return out

    for head in range(shape.n_heads):
        keys = [project("k", head // group, x) for x in stream]
        if shape.smear:
            s = 1 / (1 + math.exp(-float(state["layers.0.attn.k.alpha"][head // group])))
            keys = keys[:1] + [s * now + (1 - s) * past for past, now in itertools.pairwise(keys)]
        for i in range(len(ids)):
            query = rotated(project("q", head, stream[i]), i)
            scores = [
                float(query @ rotated(keys[j], j)) / math.sqrt(shape.d_head) for j in range(i + 1)
            ]
            weights = [math.exp(x) for x in scores]
            found[head, i, : i + 1] = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    return found


@pytest.mark.parametrize("groups", [None, 1])
@pytest.mark.parametrize("smear", [False, True])
@pytest.mark.parametrize("positions", ["none", "learned", "rotary"])
def test_the_pattern_is_what_the_definition_says(positions, smear, groups):
    """Smeared keys by Olsson et al. 2022; rotation of adjacent pairs after them."""
    model = made(positions=positions, smear=smear, norm="none", n_kv_heads=groups)
    ids = tokens()
    _, cache = model.bridge.run_with_cache(ids)
    for row, own in zip(ids.tolist(), cache["blocks.0.attn.hook_pattern"], strict=True):
        assert (own - pattern(model, row)).abs().max() < 1e-12


def test_smearing_changes_the_output_and_only_of_what_follows():
    plain, smeared = made(positions="none", norm="none"), made(smear=True, norm="none")
    assert set(state_of(smeared)) - set(state_of(plain)) >= {"layers.0.attn.k.alpha"}
    ids = tokens()
    changed = ids.clone()
    changed[:, 5] = (changed[:, 5] + 1) % SHAPE.d_vocab
    gap = (logits(smeared, ids) - logits(smeared, changed)).abs().amax((0, 2))
    assert gap[:5].max() == 0
    assert gap[5:].min() > 1e-6


def test_rotary_scores_depend_on_the_distance_alone():
    """In float64 to 1e-12: the tables hold all its digits."""
    rotary = made(positions="rotary").bridge.original_model.rotary
    q, k = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = rotary.apply_rope(q.expand(1, 1, 17, 4), k.expand(1, 1, 17, 4))
    scores = rows[0][0, 0] @ rows[1][0, 0].T
    for distance in range(17):
        diagonal = scores.diagonal(-distance)
        assert (diagonal - diagonal[0]).abs().max() < 1e-12


def test_without_positions_one_layer_is_blind_to_the_order_of_what_came_before():
    model = made(positions="none", n_layers=1, d_mlp=0)
    ids = tokens()
    turned = torch.cat([ids[:, :-1].flip(1), ids[:, -1:]], 1)
    assert torch.allclose(logits(model, ids)[:, -1], logits(model, turned)[:, -1], atol=1e-12)
    other = made(positions="sinusoidal", n_layers=1, d_mlp=0)
    assert (logits(other, ids) - logits(other, turned))[:, -1].abs().max() > 1e-3


@pytest.mark.parametrize(
    "options", [{"d_mlp": 0, "smear": True, "positions": "rotary"}, {"norm": "rms"}, {"n_heads": 2}]
)
def test_saved_and_loaded_it_is_the_same_model(options, tmp_path):
    for dtype in (torch.float32, torch.float64):
        model = made(dtype=dtype, **options)
        back = interp.load(save(model, tmp_path / str(dtype)), dtype=dtype)
        assert back.weight_hash == model.weight_hash
        assert shape_of(back) == shape_of(model)
        assert torch.equal(logits(back, tokens()), logits(model, tokens()))
        assert back.name == str(tmp_path / str(dtype))
        assert back.tokenizer is None


def test_a_tokenizer_is_saved_too(tmp_path):
    tokenizer = tiny.word_tokenizer(adds_bos=False)
    model = build(SHAPE, name="words", tokenizer=tokenizer)
    back = interp.load(save(model, tmp_path))
    assert back.encode("The Mary") == model.encode("The Mary")


def test_the_seed_makes_the_weights_and_no_global_one_is_touched():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, same, other = (build(SHAPE, name="x", seed=s).weight_hash for s in (0, 0, 1))
    assert one == same != other
    assert torch.equal(torch.get_rng_state(), before)
    control = untrained(build(SHAPE, name="x"), seed=1)
    assert control.weight_hash == other
    assert control.name == "x (untrained, seed 1)"


def test_the_state_is_copied():
    state = {name: value.clone() for name, value in state_of(made()).items()}
    model = build(SHAPE, name="x", state=state, dtype=torch.float64)
    before = model.weight_hash
    for value in state.values():
        value.zero_()
    assert build(SHAPE, name="x", state=state_of(model), dtype=torch.float64).weight_hash == before


BAD = {
    "n_layers=0 makes no model; it must be at least 1": {"n_layers": 0},
    "n_ctx=5 makes no model; it must be at least 8": {"n_ctx": 5},
    "d_mlp=-1": {"d_mlp": -1},
    "3 query heads cannot share 2 keys and values equally": {"n_kv_heads": 2},
    "d_head=5 is odd": {"d_head": 5, "positions": "rotary"},
}


@pytest.mark.parametrize("message", BAD)
def test_shapes_that_are_none(message):
    with pytest.raises(ModelError, match=message):
        replace(SHAPE, **BAD[message])


def test_a_state_of_another_shape():
    state = state_of(made())
    with pytest.raises(
        ModelError,
        match=r"weights of x are not of its shape: .*lacks layers\.2\..*Likely they belong",
    ):
        build(replace(SHAPE, n_layers=3), name="x", state=state)
    with pytest.raises(ModelError, match=r"has layers\.0\.ln2\.bias, which the model has not"):
        build(replace(SHAPE, d_mlp=0), name="x", state=state)
    with pytest.raises(ModelError, match=r"has head\.weight of shape \(13, 10\) for \(11, 10\)"):
        build(replace(SHAPE, d_vocab=11), name="x", state=state)


def test_damaged_folders(tmp_path):
    folder = save(made(dtype=torch.float32), tmp_path)
    (folder / WEIGHTS_FILE).write_bytes((folder / WEIGHTS_FILE).read_bytes()[:200])
    with pytest.raises(
        ModelError,
        match=r"model\.safetensors carries no checksum of interp: .*damaged\. Save the model",
    ):
        interp.load(folder)
    (folder / WEIGHTS_FILE).unlink()
    with pytest.raises(ModelError, match=r"there is no .*model\.safetensors\. Save"):
        interp.load(folder)
    found = read_note(folder / SHAPE_FILE, remedy="")
    write_note(folder / SHAPE_FILE, found | {"colour": 1})
    with pytest.raises(ModelError, match=r"native\.json is no Shape: .*colour.*n_layers, n_heads"):
        interp.load(folder)
    (folder / SHAPE_FILE).write_text("{")
    with pytest.raises(ModelError, match="or is damaged. Save the model"):
        interp.load(folder)


def test_rows_longer_than_its_context():
    with pytest.raises(PairsError, match="rows of 18 tokens are longer than the model's n_ctx 17"):
        logits(made(), tokens(18))


def test_other_models_have_no_shape(tiny_model):
    with pytest.raises(ModelError, match="GPT2LMHeadModel, not one of TransformerLens' native"):
        shape_of(tiny_model("gpt2"))
