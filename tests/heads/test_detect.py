"""Scores of a model's heads and their nulls, against patterns that are held whole."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import interp
from interp.core.errors import PairsError, Unsupported
from interp.core.tables.results import COLUMNS
from interp.engine import limits
from interp.engine.engines.choose import weights_of
from interp.engine.network.linear import Linear
from interp.engine.network.weights import Norm
from interp.heads.looking.patterns import Patterns
from interp.heads.types.activation_copying import Directions, copying, raised
from interp.heads.types.detect import detect
from interp.heads.types.detectors import (
    DETECTORS,
    DUPLICATE,
    INDUCTION,
    PREVIOUS,
    Detector,
    entropy,
    score,
    structure,
    uniform,
)
from interp.models.small import native
from interp.models.small.native import Shape

ENGINES = ["replay", "hooks"]
ROWS = [
    [5, 3, 8, 5, 3, 8, 5, 3, 8],
    [2, 9, 1, 4, 2, 9, 1, 4, 2],
    [7, 7, 6, 1, 6, 6, 7, 2, 3],
    [4, 6, 4, 6, 4, 6, 4],
    [1, 2, 3, 1, 2, 3, 9],
]
"""Repeats at different distances, in rows of 9 and 7 tokens."""


def whole(model, layer: int, row: int) -> torch.Tensor:
    """A pattern of the oracle that is the model itself, `1 destination head source`."""
    tokens = torch.tensor([ROWS[row]])
    held = model.bridge.run_with_cache(tokens)[1][f"blocks.{layer}.attn.hook_pattern"]
    return held.transpose(1, 2)


def cells(results, column: str = "value") -> pd.Series:
    """By metric, site and row."""
    found = results.frame.astype({"metric": str, "site": str})
    return found.set_index(["metric", "site", "example"], verify_integrity=True)[column]


@pytest.mark.parametrize("engine", ENGINES)
def test_scores_are_those_of_whole_patterns(model, engine):
    found = detect(model, ROWS, engine=engine)
    facts = model.facts
    assert list(found.frame.columns) == COLUMNS
    names = [d.name for d in DETECTORS] + ["entropy", "copying"]
    assert found.frame["metric"].unique().tolist() == names
    assert len(found) == len(names) * facts.n_layers * facts.n_heads * len(ROWS)
    assert set(found.frame["engine"]) == {engine}
    mine = cells(found)
    for layer, row in [(0, 0), (2, 1), (1, 3), (2, 4)]:
        pattern, tokens = whole(model, layer, row), torch.tensor([ROWS[row]])
        truths = {d.name: score(d, tokens, pattern)[0] for d in DETECTORS}
        truths["entropy"] = entropy(pattern)[0]
        for name, truth in truths.items():
            for head in range(facts.n_heads):
                one = mine[name, f"{layer}.{head}", row]
                assert one == pytest.approx(float(truth[head]), abs=1e-12), (name, head)


def test_the_nulls_are_what_they_say(model):
    """Of position detectors uniform attention; of token detectors what other rows look for."""
    found = detect(model, ROWS)
    base = cells(found, "base")
    structures = [structure(torch.tensor([row]))[0].tolist() for row in ROWS]
    for layer, head, row in [(0, 1, 0), (2, 2, 1), (1, 0, 4)]:
        tokens, site = torch.tensor([ROWS[row]]), f"{layer}.{head}"
        pattern = whole(model, layer, row)
        even = uniform(len(ROWS[row]), causal=True)[None, :, None]
        for detector in DETECTORS:
            if detector.null == "sources":
                soft = replace(detector, counts="attention")
                truth = float(score(soft, tokens, even))
            else:
                others = [
                    torch.tensor([ROWS[i]])
                    for i in range(len(ROWS))
                    if len(ROWS[i]) == len(ROWS[row]) and structures[i] != structures[row]
                ]
                assert others
                truth = np.mean([float(score(detector, x, pattern)[0, head]) for x in others])
            assert base[detector.name, site, row] == pytest.approx(truth, abs=1e-12)
        assert base["entropy", site, row] == pytest.approx(float(entropy(even)))
    effect = found.frame["value"] - found.frame["base"]
    assert (found.frame["effect"] - effect).abs().max() == 0


def test_null_sources_is_uniform_attention_for_tokens_too(tiny_model):
    model = tiny_model("llama")
    found = detect(model, [ROWS[0]] * 3, null="sources", detectors=[INDUCTION])
    even = uniform(9, causal=True)[None, :, None]
    truth = float(score(INDUCTION, torch.tensor([ROWS[0]]), even))
    base = found.query("metric == 'induction'").frame["base"]
    np.testing.assert_allclose(base, truth, atol=1e-12)
    assert found.provenance["nulls"] == {"induction": "sources"}


def by_hand(model, layer: int, head: int, row: int, weights=None) -> tuple[float, float]:
    """The copying score and its null from logits of the whole vocabulary, with loops."""
    tokens = ROWS[row]
    cache = model.bridge.run_with_cache(torch.tensor([tokens]))[1]
    pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0, head]
    z = cache[f"blocks.{layer}.attn.hook_z"][0, :, head]
    final = cache[f"blocks.{model.facts.n_layers - 1}.hook_resid_post"][0]
    w: Any = weights or weights_of(model)
    d_head = model.facts.d_head
    o = w.blocks[layer].attention.o.weight[:, head * d_head : (head + 1) * d_head]
    norm = w.unembed.norm
    attended = at_random = everything = 0.0
    for i in range(1, len(tokens)):
        x = o @ z[i]
        if norm.kind == "layer":
            x = x - x.mean()
            spread = (final[i] - final[i].mean()).square().mean()
        else:
            spread = final[i].square().mean()
        logits = w.unembed.linear.weight @ (norm.weight * x / (spread + norm.eps).sqrt())
        mass = (logits - logits.mean()).relu()
        for t in set(tokens[1:]):
            places = [j for j in range(len(tokens)) if tokens[j] == t]
            attended += float(mass[t] * sum(pattern[i, j] for j in places))
            at_random += float(mass[t]) * sum(j <= i for j in places) / (i + 1)
            everything += float(mass[t])
    raised_none = everything == 0
    return tuple(-1 if raised_none else 4 * a / (a + everything) - 1 for a in (attended, at_random))


@pytest.mark.parametrize("engine", ENGINES)
def test_copying_is_that_of_the_whole_vocabulary(model, engine):
    found = detect(model, ROWS, engine=engine)
    values, bases = cells(found), cells(found, "base")
    for layer, head, row in [(0, 2, 0), (2, 1, 1), (1, 0, 3), (2, 2, 4)]:
        value, base = by_hand(model, layer, head, row)
        at = ("copying", f"{layer}.{head}", row)
        assert values[at] == pytest.approx(value, abs=1e-9)
        assert bases[at] == pytest.approx(base, abs=1e-9)
    assert set(found.query("metric == 'copying'").frame["kind"]) == {"z"}


@pytest.mark.parametrize("family", ["gptj", "opt", "neox"])
def test_engines_agree_whichever_of_a_layers_activations_they_show_first(tiny_model, family):
    replay, hooks = (cells(detect(tiny_model(family), ROWS, engine=e)) for e in ENGINES)
    assert (replay - hooks).abs().max() < 1e-9
    assert replay["copying"].between(-1, 1).all()


@pytest.mark.parametrize(("sign", "truth"), [(1, 1.0), (-1, -1.0), (0, -1.0)])
def test_a_head_that_copies_scores_one_and_its_negative_minus_one(tiny_model, sign, truth):
    """Values that name the token, an orthonormal unembedding, attention on one token each."""
    w = weights_of(tiny_model("llama"))
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(30, 30, generator=generator, dtype=torch.float64)
    table = torch.linalg.qr(random)[0][:29]
    ids = [3, 11, 20, 5]
    o = torch.zeros(30, 24, dtype=torch.float64)
    o[:, 4:8] = sign * table[ids].T  # head 1
    attention = replace(w.blocks[0].attention, o=Linear(o, None))
    block = replace(w.blocks[0], attention=attention)
    w = replace(w, blocks=(block, *w.blocks[1:]))
    unembedding = Directions(w, None, table.mean(0))
    unembedding = replace(
        unembedding, weights=replace(w, unembed=replace(w.unembed, linear=Linear(table, None)))
    )
    tokens = torch.tensor([[3, 11, 20, 5, 3, 11, 20, 5]])
    looked = torch.tensor([0, 0, 1, 2, 1, 3, 5, 2])
    pattern = torch.nn.functional.one_hot(looked, 8)[None, :, None].double().expand(-1, -1, 6, -1)
    index = torch.tensor([ids.index(int(tokens[0, j])) for j in looked])
    z = torch.zeros(1, 8, 6, 4, dtype=torch.float64)
    z[0, :, 1] = torch.nn.functional.one_hot(index, 4)
    parts = raised(unembedding, unembedding.read(tokens), 0, pattern, z)
    final = torch.randn(1, 8, 30, generator=generator, dtype=torch.float64)
    score_, null = copying(parts[:, :, None], unembedding.scale(final))[:, 0, 0, 1]
    assert float(score_) == pytest.approx(truth)
    assert -1 <= float(null) < (1 if sign else -1 + 1e-12)


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_a_model_with_smeared_keys_has_a_copying_score(norm):
    """Its patterns and z are its own; W_O, norms and unembedding are those without the smear."""
    shape = Shape(2, 3, d_model=10, d_head=4, d_vocab=11, n_ctx=12, d_mlp=0, norm=norm, smear=True)
    model = native.build(shape, name="smeared", seed=1, dtype=torch.float64)
    state = native.state_of(model)
    generator = torch.Generator().manual_seed(2)
    for p in state.values():
        p += 0.3 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
    found = detect(model, ROWS)
    assert "no copying" not in found.provenance and set(found.frame["engine"]) == {"hooks"}
    o = [state[f"layers.{layer}.attn.o.weight"] for layer in range(2)]
    last = Norm(norm, state["ln_out.weight"], None, 1e-5)
    blocks = [SimpleNamespace(attention=SimpleNamespace(o=Linear(w, None))) for w in o]
    unembed = SimpleNamespace(norm=last, linear=Linear(state["head.weight"], None))
    weights = SimpleNamespace(blocks=blocks, unembed=unembed)
    values, bases = cells(found), cells(found, "base")
    for layer, head, row in [(0, 2, 0), (1, 1, 1), (1, 0, 3)]:
        value, base = by_hand(model, layer, head, row, weights)
        at = ("copying", f"{layer}.{head}", row)
        assert values[at] == pytest.approx(value, abs=1e-9)
        assert bases[at] == pytest.approx(base, abs=1e-9)


def test_without_a_direct_path_there_is_no_copying_score(tiny_model):
    for family, reason in [("bert-headless", "no trained unembedding"), ("gemma2", "is normed")]:
        found = detect(tiny_model(family), ROWS)
        assert "copying" not in set(found.frame["metric"])
        assert reason in found.provenance["no copying"]


def test_a_bidirectional_model_has_the_null_of_what_it_sees(tiny_model):
    found = detect(tiny_model("bert"), ROWS, detectors=[PREVIOUS])
    base = found.query("metric == 'previous' and example < 3").frame["base"]
    np.testing.assert_allclose(base, 1 / 9, atol=1e-12)


def test_how_many_rows_run_together_changes_nothing(tiny_model, monkeypatch):
    model = tiny_model("llama")
    once = detect(model, ROWS).frame
    monkeypatch.setattr(limits, "PROCESSOR", replace(limits.PROCESSOR, tokens=9))
    shown = Patterns.of(model, ROWS, asker="a test")
    assert [len(rows) for rows in shown.forwards] == [1] * 5
    apart = detect(model, ROWS).frame
    for column in ("value", "base"):
        np.testing.assert_allclose(once[column], apart[column], atol=1e-12)


def test_patterns_are_shown_one_layer_at_a_time(model):
    """In the order of the layers, whole, and a few rows at a time."""
    shown = Patterns.of(model, ROWS, asker="a test", layers=2)
    layers = []
    for rows in shown.forwards:

        def see(shelf, layer, pattern, rows=rows):
            if shelf == "pattern":
                layers.append(layer)
                length = len(ROWS[rows[0]])
                assert pattern.shape == (len(rows), length, model.facts.n_heads, length)
                np.testing.assert_allclose(pattern.sum(-1), 1, atol=1e-12)

        shown.walk(rows, see)
    assert sorted(row for rows in shown.forwards for row in rows) == [0, 1, 2, 3, 4]
    assert layers == [0, 1] * len(shown.forwards)
    many = Patterns.of(model, torch.zeros(500, 16, dtype=torch.long), asker="a test")
    assert max(map(len, many.forwards)) * 16 <= limits.PROCESSOR.tokens


def test_a_dtype_of_half_precision_is_summed_in_float32(tiny_model):
    model = tiny_model("llama-mha", torch.bfloat16)
    exact = detect(tiny_model("llama-mha"), ROWS, detectors=[PREVIOUS]).frame
    half = detect(model, ROWS, detectors=[PREVIOUS]).frame
    assert (half["value"] - exact["value"]).abs().max() < 0.1


def test_bad_input(tiny_model):
    model = tiny_model("llama")
    with pytest.raises(PairsError, match=r"row 1 has nothing that the detector 'duplicate' looks"):
        detect(model, [[1, 2, 1, 3], [1, 2, 3, 4]])
    with pytest.raises(PairsError, match=r"row 0 has 9 tokens.*every other row.*2 rows.*'sources'"):
        detect(model, [ROWS[0], [t + 1 for t in ROWS[0]], ROWS[3], ROWS[4]])
    with pytest.raises(PairsError, match=r"vocabulary ends at 28"):
        detect(model, [[1, 99, 1]])
    with pytest.raises(Unsupported, match=r"detect\(\) reads one stack of layers"):
        detect(tiny_model("t5"), ROWS)
    with pytest.raises(Unsupported, match="two scores are called 'previous'.*another name"):
        detect(model, ROWS, detectors=[PREVIOUS, PREVIOUS])
    for odd in (lambda tokens: None, lambda tokens: tokens, lambda tokens: tokens[:, None] > 0):
        with pytest.raises(Unsupported, match=r"sources of the detector 'mine' are .*bool, \("):
            detect(model, ROWS, detectors=[Detector("mine", odd)])
    assert "GFLOP" in str(interp.explain(detect, model, ROWS))


def test_duplicates_can_be_told_from_a_fixed_distance():
    """What the null is for: a head at a fixed distance scores as much on other rows' sources."""
    pos, rows = 13, [[*range(p)] * 6 for p in (3, 4, 5, 6)]
    tokens = torch.tensor([row[:pos] for row in rows])
    at_four = torch.zeros(4, pos, 1, pos, dtype=torch.float64)
    for i in range(pos):
        at_four[:, i, 0, max(i - 4, 0)] = 1
    own = score(DUPLICATE, tokens, at_four)[:, 0]
    assert own[1] == pytest.approx(1)  # on the rows of that distance it is perfect
    exchanged = torch.stack([score(DUPLICATE, tokens.roll(k, 0), at_four)[:, 0] for k in (1, 2, 3)])
    assert float((own - exchanged.mean(0)).mean()) < 0.01
