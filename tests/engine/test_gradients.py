"""Gradients of the replay against finite differences of interventions, which share no code."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import hooks_on
from torch import Tensor

import interp
from interp.causal.ranking.attribution import attribute
from interp.core.errors import Unsupported
from interp.core.parts.edges import Edge
from interp.core.parts.sites import Site
from interp.engine.engines.choose import choose, weights_of
from interp.engine.gradients.norms import pulled, pushed
from interp.engine.gradients.tape import tape, written
from interp.engine.interventions import Add, Intervention
from interp.engine.network.weights import Norm
from interp.models.model import Model

SUMMED = (
    *("gpt2", "llama", "qwen3", "gemma2-window", "gemma3", "olmo2", "neox", "phi", "gptj", "opt"),
)
"""Families whose residual stream is a sum of writes, each with something of its own."""
STEP = 1e-4
Load = Callable[..., Model]


@pytest.fixture
def few(pairs: interp.Pairs) -> interp.Pairs:
    """Two rows of different lengths."""
    return pairs.select([0, 1])


def changes(model: Model, pairs: interp.Pairs, sites: set[Site]) -> dict[Site, Tensor]:
    """By how much writers differ between the sides of each row; 0 in the padding."""
    engine, rows = choose(model), []
    with torch.no_grad():
        for row, length in enumerate(pairs.lengths.tolist()):
            sides = (side[row : row + 1, :length] for side in (pairs.clean, pairs.corrupt))
            runs = [engine.trace(ids, keep=("resid_pre", "z", "mlp_out")) for ids in sides]
            rows.append({site: (runs[1].at(site) - runs[0].at(site))[0] for site in sites})
    return {
        site: torch.nn.utils.rnn.pad_sequence([row[site] for row in rows], batch_first=True)
        for site in sites
    }


def slopes(model: Model, pairs: interp.Pairs, edges: list[Edge]) -> np.ndarray:
    """Central differences of the metric along each edge's change, `edge example`."""
    change = changes(model, pairs, {edge.writer for edge in edges})
    made = {
        f"{edge} {sign}": [
            Intervention(
                edge.writer, Add(sign * STEP * change[edge.writer]), readers=(edge.reader,)
            )
        ]
        for edge in edges
        for sign in (1, -1)
    }
    effect = interp.intervene(model, pairs, made).frame["effect"].to_numpy()
    up, down = effect.reshape(len(edges), 2, len(pairs)).swapaxes(0, 1)
    return (up - down) / (2 * STEP)


@pytest.mark.parametrize("family", SUMMED)
def test_an_edge_is_its_derivative(family: str, tiny_model: Load, few: interp.Pairs):
    """Of every family: rotations, shared keys, norms of queries, on writes, parallel blocks."""
    model = tiny_model(family)
    before = hooks_on(model)
    found = attribute(model, few)
    kinds = {}
    for row, edge in enumerate(map(Edge.parse, found.frame["site"])):
        kinds.setdefault((edge.writer.kind, edge.reader.kind), []).append(row)
    assert len(kinds) == 15
    turn = SUMMED.index(family) % 3  # a third of the kinds for each family, one edge of each
    rows = [of[len(of) // 2] for of in list(kinds.values())[turn::3]]
    expected = slopes(model, few, [Edge.parse(found.frame["site"][row]) for row in rows])
    assert np.abs(expected).max(1).min() > 1e-6  # none of them is nothing
    assert np.abs(found.each[rows] - expected).max() < 1e-6
    assert hooks_on(model) == before


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_norms_pull_and_push_by_their_jacobian(kind: str):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    norm = Norm(kind, draw(5), draw(5) if kind == "layer" else None, 1e-5, offset=1.0)
    x, several = draw(2, 3, 5), draw(2, 4, 3, 5)
    weight = norm.weight + 1

    def alone(row: Tensor) -> Tensor:
        centred = row - row.mean() if kind == "layer" else row
        return centred / (centred.square().mean() + norm.eps).sqrt() * weight

    back, ahead = pulled(x, norm, several), pushed(x, norm, several)
    for b, p in np.ndindex(2, 3):
        jacobian = torch.autograd.functional.jacobian(alone, x[b, p])
        assert torch.allclose(back[b, :, p], several[b, :, p] @ jacobian, atol=1e-12)
        assert torch.allclose(ahead[b, :, p], several[b, :, p] @ jacobian.T, atol=1e-12)
    assert pulled(x, None, several) is several
    assert pushed(x, None, several) is several


def test_a_tape_is_the_run(model: Model, pairs: interp.Pairs):
    """From the embedding on, and from the outputs of a layer's heads."""
    w, tokens = weights_of(model), pairs.clean[[0, 2, 4], :7]
    run = choose(model).trace(tokens, keep=("resid_pre", "q", "k", "v", "z", "mlp_out"))
    whole = tape(w, run.kept["resid_pre"][0])
    assert torch.allclose(whole.final, run.final, atol=1e-12)
    for taped in whole.layers:
        [one] = taped.attended
        assert torch.allclose(one.z, run.kept["z"][taped.layer], atol=1e-12)
        assert torch.allclose(taped.mlp_out, run.kept["mlp_out"][taped.layer], atol=1e-12)
    part = tape(w, run.kept["resid_pre"][1], start=1, z=run.kept["z"][1])
    assert [taped.layer for taped in part.layers] == [1, 2]
    assert torch.allclose(part.final, run.final, atol=1e-12)


def test_heads_write_the_attention(model: Model, pairs: interp.Pairs):
    """Where nothing norms the write, the changes of all heads add up to the change of the sum."""
    w, tokens = weights_of(model), pairs.clean[[1, 3], :9]
    runs = [choose(model).trace(t, keep=("z", "attn_out")) for t in (tokens, tokens.flip(1))]
    z, other = (run.kept["z"][1] for run in runs)
    each = written(w, w.blocks[1].attention, z, other - z)
    whole = runs[1].kept["attn_out"][1] - runs[0].kept["attn_out"][1]
    assert torch.allclose(each.sum(1), whole, atol=1e-12)


def test_models_whose_stream_is_no_sum_are_refused(tiny_model: Load, few: interp.Pairs):
    with pytest.raises(Unsupported, match=r"norms its residual stream after every sum"):
        attribute(tiny_model("bert"), few)


@pytest.mark.real
@pytest.mark.slow
def test_a_real_edge_is_its_derivative():
    """The strongest into each kind of reader, of a model with grouped queries, in float64."""
    model = interp.load("smollm2-135m", dtype=torch.float64)
    prompt = interp.datasets.ioi(model, n=1, seed=0)
    found = attribute(model, prompt)
    edges = [Edge.parse(site) for site in found.frame["site"]]
    kinds = np.array([edge.reader.kind for edge in edges])
    size = np.abs(found.scores)
    rows = [int(np.where(kinds == kind, size, -1).argmax()) for kind in ("q", "k", "v", "logits")]
    assert size[rows].min() > 1e-2
    expected = slopes(model, prompt, [edges[row] for row in rows])
    assert np.abs(found.each[rows] - expected).max() < 1e-6
