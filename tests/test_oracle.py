"""The oracle itself: against Hugging Face, and against what edges and paths mean."""

import tempfile
from collections.abc import Callable
from functools import cache, partial

import pytest
import tiny
import torch
from oracle import NAMES, HopSpec, Oracle, cut, masked, setting
from torch import Tensor
from transformers import PreTrainedModel

from interp.models.bridge.precision import exact

pytestmark = pytest.mark.sampled(8)

FAMILIES = tuple(family for family in tiny.FAMILIES if family != "t5")
PLAINER = ("llama-mha", "mistral", "qwen2", "gemma2", "gemma3", "gemma", "phi3", "phi3-window")
PLAINER += ("olmo3", "exaone4", "ernie", "seed-oss", "roberta")
DISTINCT = tuple(family for family in FAMILIES if family not in PLAINER)
"""Those whose residual stream or attention another does not have as well."""
EXACT = 1e-12


@cache
def raw(family: str) -> PreTrainedModel:
    """Written and read again: a conversion to float64 would make other rotary angles."""
    built = tiny.build(family).to(torch.float64)
    with tempfile.TemporaryDirectory() as folder:
        built.save_pretrained(folder)
        found = type(built).from_pretrained(
            folder, dtype=torch.float64, attn_implementation="eager"
        )
    exact(found)
    return found.eval().requires_grad_(False)


@cache
def judge(family: str) -> Oracle:
    return Oracle(raw(family))


@cache
def tokens(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(tiny.VOCAB, (2, 8), generator=generator)


@cache
def plain(family: str, seed: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    return judge(family).forward(tokens(seed))


EVERYWHERE = torch.ones(2, 8, dtype=torch.bool)
SOMEWHERE = torch.zeros(2, 8, dtype=torch.bool)
SOMEWHERE[0, 3], SOMEWHERE[1, 5] = True, True
EARLY = (torch.arange(8) < 5).expand(2, 8)


def far(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


def group(model: Oracle) -> str:
    """The second group of heads, or the only one."""
    return f"kv{min(1, model.n_groups - 1)}"


def readers(model: Oracle) -> list[str]:
    """Of every kind, in the second layer and in the last."""
    parts = ["1.q", "0.k", f"{group(model)}.v", "mlp"]
    last = [f"{model.layers - 1}.{part}" for part in ("2.v", "kv0.k", "mlp")]
    return [f"1.{part}" for part in parts] + last + ["logits"]


def writers(model: Oracle, reader: str, *, whole: bool) -> list[str]:
    """All that make up the reader's stream: whole layers, or heads and neurons."""
    last = model.layers if reader == "logits" else int(reader.split(".")[0])
    found = ["embed"]
    for layer in range(model.layers):
        heads = [f"{layer}.{h}" for h in range(model.n_heads)]
        neurons = [f"{layer}.mlp[{i}]" for i in range(model.w[f"{layer}.down.weight"].shape[1])]
        inside = layer == last and reader.endswith(".mlp") and not model.parallel
        if layer < last or inside:
            found += [f"{layer}.attn"] if whole else heads
        if layer < last:
            found += [f"{layer}.mlp"] if whole else neurons
    return found


@pytest.mark.sampled(len(FAMILIES))
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_streams_are_hugging_faces(family):
    model, hf = judge(family), raw(family)
    logits, acts = plain(family)
    truth = hf(tokens(0), output_hidden_states=True)
    assert far(logits, truth["logits" if "logits" in truth else "last_hidden_state"]) < EXACT
    streams = [acts["embed"], *(acts[f"{n}.resid_post"] for n in range(model.layers))]
    if "final.weight" in model.w:  # what Hugging Face calls the last stream is after its norm
        streams[-1] = model.normalise(streams[-1], "final")
    for ours, theirs in zip(streams, truth.hidden_states, strict=True):
        assert far(ours, theirs) < EXACT


def test_shapes_of_sites():
    """Whatever shape a change must have."""
    _, acts = plain("llama")
    assert acts["embed"].shape == (2, 8, 30) and acts["1.2.pattern"].shape == (2, 8, 8)
    assert {acts[name].shape for name in ("1.kv0.k", "1.2.q", "1.2")} == {(2, 8, 4)}
    assert acts["1.mlp[3]"].shape == (2, 8)


def inside(family: str) -> dict[str, Tensor]:
    """What enters and leaves the modules of a Hugging Face model, by site."""
    hf, model, found = raw(family), judge(family), {}
    names = {part: name.replace("L.", "1.", 1) for part, name in NAMES[model.family].items()}

    def split(kind: str, x: Tensor) -> None:
        parts = x.unflatten(-1, (-1, model.d_head)).unbind(-2)
        group = kind in "kv"
        found.update({f"1.{'kv' * group}{i}.{kind}": part for i, part in enumerate(parts)})

    def unpack(x: Tensor) -> None:
        parts = cut(model.family, x.movedim(-1, 0), model.n_heads, model.n_groups)
        parts = [part.movedim(0, -1) for part in parts]
        for kind, part in zip("qkv", parts, strict=True):
            split(kind, part)

    def heads(x: Tensor) -> None:
        parts = x.unflatten(-1, (-1, model.d_head)).unbind(-2)
        found.update({f"1.{h}": z for h, z in enumerate(parts)})

    def neurons(x: Tensor) -> None:
        x = x.reshape(2, 8, -1)  # OPT's MLP has rows and positions in one axis
        found.update({f"1.mlp[{n}]": a for n, a in enumerate(x.unbind(-1))})

    def leaves(kind: str) -> Callable[..., None]:
        return lambda _, args, out: unpack(out) if kind == "qkv" else split(kind, out)

    def at(part: str) -> torch.nn.Module:
        return hf.base_model.get_submodule(names[f"L.{part}"])

    hooks = [
        at("o").register_forward_pre_hook(lambda _, args: heads(args[0])),
        at("down").register_forward_pre_hook(lambda _, args: neurons(args[0])),
    ]
    kinds = ["qkv"] if "L.qkv" in names else "qkv"
    hooks += [at(kind).register_forward_hook(leaves(kind)) for kind in kinds]
    try:
        attentions = hf(tokens(0), output_attentions=True).attentions
    finally:
        for hook in hooks:
            hook.remove()
    return found | {f"1.{h}.pattern": p for h, p in enumerate(attentions[1].unbind(1))}


@pytest.mark.sampled(len(FAMILIES))
@pytest.mark.parametrize("family", FAMILIES)
def test_heads_and_neurons_are_hugging_faces(family):
    """The sums could be right with the heads exchanged."""
    model, (_, acts), truth = judge(family), plain(family), inside(family)
    assert len(truth) >= 3 * model.n_heads + 2 * model.n_groups + 14
    for name, value in truth.items():
        assert far(acts[name], value) < EXACT, name


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("family", DISTINCT)
def test_edges_that_change_nothing(family, whole):
    """Also when streams, writes and heads were changed before."""
    model = judge(family)
    every = readers(model)
    edges = {r: {w: lambda x: x for w in writers(model, r, whole=whole)} for r in every}
    changed = ("0.resid_post", "1.resid_pre", "1.resid_mid", "1.attn", "0.mlp", "0.1", "0.mlp[2]")

    def change(name: str, x: Tensor) -> Tensor:
        return 1.3 * x if name in changed else x

    for made in ({}, {"change": change}):
        truth, _ = model.forward(tokens(0), **made)
        assert far(model.forward(tokens(0), **made, edges=edges)[0], truth) < EXACT


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("family", DISTINCT)
def test_all_edges_into_a_reader_are_its_whole_input(family, whole):
    model, (_, other) = judge(family), plain(family, 1)
    for reader in readers(model):
        seen = {w: lambda x, w=w: other[w] for w in writers(model, reader, whole=whole)}
        logits, _ = model.forward(tokens(0), edges={reader: seen})
        only = {reader: other["logits" if reader == "logits" else f"{reader}.computed"]}
        truth, _ = model.forward(tokens(0), setting(only, EVERYWHERE))
        assert far(logits, truth) < EXACT, reader
        assert far(logits, plain(family)[0]) > 1e-6


@pytest.mark.parametrize("family", DISTINCT)
def test_edges_add_up_under_frozen_norms(family):
    """Each reader's input is then linear in the writers."""
    model, (base, acts), (_, other) = judge(family), plain(family), plain(family, 1)
    assert far(model.forward(tokens(0), scales=acts)[0], base) == 0
    reader = "2.1.q"
    pairs = ["embed", "0.1", "0.mlp[2]", "1.attn", "1.mlp"]

    def effect(chosen: list[str]) -> Tensor:
        seen = {reader: {w: lambda x, w=w: other[w] for w in chosen}}
        _, found = model.forward(tokens(0), edges=seen, scales=acts)
        return found[reader] - acts[reader]

    assert far(effect(pairs), sum(effect([w]) for w in pairs)) < EXACT


@pytest.mark.parametrize("family", DISTINCT)
def test_a_direct_path_is_an_edge(family):
    """Two algorithms for one thing: frozen passes, and another sum for one reader."""
    model, (base, acts), (_, other) = judge(family), plain(family), plain(family, 1)
    for sender in ("embed", "0.2", "0.attn", "1.mlp[3]", "0.mlp"):
        edit = setting({sender: other[sender]}, SOMEWHERE)
        entry = {sender: partial(masked, SOMEWHERE, other[sender])}
        for reader in ("logits", "2.1.q", "2.0.k", f"2.{group(model)}.v", "2.mlp"):
            hop = HopSpec((reader,), EVERYWHERE, "direct")
            found = model.run_cell(tokens(0), edit, [hop])
            truth, _ = model.forward(tokens(0), edges={reader: entry})
            assert far(found, truth) < EXACT, (sender, reader)
            assert far(found, base) > 1e-9
        # into the logits alone: after other readers the norms are recomputed
        hop = HopSpec(("logits",), EVERYWHERE, "direct", "freeze")
        truth, _ = model.forward(tokens(0), edges={"logits": entry}, scales=acts)
        assert far(model.run_cell(tokens(0), edit, [hop]), truth) < EXACT


def algorithm_1(
    sender: str, receivers: tuple[str, ...], through: str, at: Tensor, to: Tensor
) -> Tensor:
    """Wang et al. 2022, App. B, on GPT-2, pass by pass."""
    model, (_, orig), (_, new) = judge("gpt2"), plain("gpt2"), plain("gpt2", 1)
    noted = {}

    def step_c(name: str, x: Tensor) -> Tensor:
        if name in receivers:
            noted[name] = x
        if name == sender:
            return masked(at, new[name], orig[name])
        frozen = name.replace(".", "").isdigit() or (through == "direct" and name.endswith(".mlp"))
        return orig[name] if frozen else x

    logits, _ = model.forward(tokens(0), step_c)
    if receivers == ("logits",):
        return logits
    return model.forward(tokens(0), setting(noted, to))[0]


@pytest.mark.parametrize("through", ["direct", "mlps"])
@pytest.mark.parametrize("receivers", [("logits",), ("1.0.k", "2.1.q"), ("2.2.v",), ("1.mlp",)])
@pytest.mark.parametrize("sender", ["0.1", "0.mlp", "embed"])
def test_one_hop_is_algorithm_1(sender, receivers, through):
    other = plain("gpt2", 1)[1]
    edit = setting({sender: other[sender]}, SOMEWHERE)
    for to in (EVERYWHERE, SOMEWHERE):
        found = judge("gpt2").run_cell(tokens(0), edit, [HopSpec(receivers, to, through)])
        truth = algorithm_1(sender, receivers, through, SOMEWHERE, to)
        assert far(found, truth) < EXACT
        assert far(found, plain("gpt2")[0]) > 1e-9


@pytest.mark.parametrize("through", ["direct", "mlps"])
def test_two_hops_pass_by_pass(through):
    """0.1 -> MLP 0 and the value of 1.2 -> logits, the second hop written out."""
    model, (_, base), (_, other) = judge("gpt2"), plain("gpt2"), plain("gpt2", 1)
    noted = {}

    def freeze(name: str, x: Tensor) -> Tensor:
        frozen = name.replace(".", "").isdigit() or (through == "direct" and name.endswith(".mlp"))
        return base[name] if frozen else x

    def first(name: str, x: Tensor) -> Tensor:
        noted[name] = x
        return other[name] if name == "0.1" else freeze(name, x)

    model.forward(tokens(0), first)
    # the head with the value given: the base run's pattern over it, though its query could change
    value = masked(SOMEWHERE, noted["1.2.v"], base["1.2.v"])
    given = {"1.2": base["1.2.pattern"] @ value}

    def second(name: str, x: Tensor) -> Tensor:
        x = given[name] if name in given else freeze(name, x)
        return masked(SOMEWHERE, noted[name], x) if name == "0.mlp" else x

    truth, _ = model.forward(tokens(0), second)
    edit = setting({"0.1": other["0.1"]}, EVERYWHERE)
    hops = [HopSpec(("0.mlp", "1.2.v"), SOMEWHERE, through)]
    hops += [HopSpec(("logits",), EVERYWHERE, through)]
    assert far(model.run_cell(tokens(0), edit, hops), truth) < EXACT


@pytest.mark.parametrize("family", DISTINCT)
def test_a_last_hop_through_everything_recomputes(family):
    model, (_, other) = judge(family), plain(family, 1)
    edit = setting({"0.1": other["0.1"]}, SOMEWHERE)
    given = (f"1.{group(model)}.k", "1.2.q", "1.mlp")
    first = HopSpec(given, EARLY, "mlps", "freeze")
    found = model.run_cell(tokens(0), edit, [first])
    again = model.run_cell(tokens(0), edit, [first, HopSpec(("logits",), EVERYWHERE, "all")])
    assert far(found, again) == 0
    free = model.run_cell(tokens(0), edit, [HopSpec(("logits",), EVERYWHERE, "all")])
    assert far(free, model.forward(tokens(0), edit)[0]) == 0
    assert far(free, found) > 1e-9


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "olmo2"])
def test_heads_that_share_a_key_read_what_the_group_holds(family):
    """Where a norm takes all keys together, heads of other groups see the group's key as well."""
    model, (_, base), (_, other) = judge(family), plain(family), plain(family, 1)
    own = model.heads_of("kv0")
    for kind in "kv":
        new = other[f"1.kv0.{kind}"]
        values = {f"1.{h}.{kind}": new for h in own}
        _, apart = model.forward(tokens(0), setting(values, SOMEWHERE))
        _, group = model.forward(tokens(0), setting({f"1.kv0.{kind}": new}, SOMEWHERE))
        assert max(far(apart[f"1.{h}"], group[f"1.{h}"]) for h in own) < EXACT
        rest = [f"1.{h}" for h in range(model.n_heads) if h not in own]
        assert max(far(apart[z], base[z]) for z in rest) == 0
        assert (max(far(group[z], base[z]) for z in rest) > 0) == (family + kind == "olmo2k")
