"""Named heads attend as their docstrings say, in TransformerLens' own pattern hook."""

import pytest
import torch
from by_hand import Run
from torch import Tensor

from interp.core.prompts.pairs import Pairs
from interp.models import compiled
from interp.models.compiled.blueprint import Blueprint


def patterns(name: str, tokens: Tensor) -> dict[str, Tensor]:
    """Attention of each head, `batch pos pos`."""
    model = compiled.build(name, dtype=torch.float64)
    found: dict[str, Tensor] = {}

    def keep(value: Tensor, hook: object) -> None:
        layer = hook.name.split(".")[1]  # pyright: ignore[reportAttributeAccessIssue]
        found.update({f"{layer}.{head}": value[:, head] for head in range(value.shape[1])})

    points = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.facts.n_layers)]
    model.bridge.run_with_hooks(tokens, fwd_hooks=[(point, keep) for point in points])
    return found


def one_length(name: str, corruption: str) -> Pairs:
    pairs = compiled.pairs(name, corruption=corruption, n=24)
    first = pairs.cluster[0]
    return pairs.select([i for i, cluster in enumerate(pairs.cluster) if cluster == first])


def attention(pattern: Tensor, pairs: Pairs, query: str, key: str) -> Tensor:
    rows = torch.arange(len(pairs))
    return pattern[rows, pairs.at(query), pairs.at(key)]


def test_by_hand_and_by_hook_agree(name: str, weights: Blueprint) -> None:
    tokens = compiled.inputs(name, n=16).tokens
    for head, pattern in patterns(name, tokens).items():
        assert (pattern - Run(weights, tokens).patterns[head]).abs().max() < 1e-12


def test_shared_heads() -> None:
    """Previous-token and current-token heads have hard attention, idle ones uniform."""
    before = torch.eye(24, dtype=torch.float64).roll(-1, 1).tril()
    before[0, 0] = 1  # there is no place before the first
    here = torch.eye(24, dtype=torch.float64)
    alike = torch.ones(24, 24, dtype=torch.float64).tril()
    alike /= alike.sum(-1, keepdim=True)
    for name in ("previous", "induction", "reverse"):
        tokens = compiled.inputs(name, n=16).tokens
        length = tokens.shape[1]
        found = patterns(name, tokens)
        for head, role in compiled.roles(name).items():
            expected = {"prev": before, "curr": here, "idle": alike}.get(role[:4])
            if expected is not None:
                assert (found[head] - expected[:length, :length]).abs().max() < 1e-12, (name, head)


@pytest.mark.parametrize("seed", [0, 1])
def test_induction_attends_to_what_followed(seed: int) -> None:
    tokens = compiled.inputs("induction", n=32, seed=seed).tokens
    pattern = patterns("induction", tokens)["1.0"]
    for row, found in zip(tokens.tolist(), pattern, strict=True):
        for i in range(1, len(row)):
            if row[i] == 0:  # padding
                break
            sources = [j for j in range(1, i + 1) if row[j - 1] == row[i]]
            assert found[i, sources[0] if sources else 0] == 1.0


def test_reverse_finds_the_end_and_the_mirror_place() -> None:
    pairs = one_length("reverse", "tokens")
    found = patterns("reverse", pairs.clean)
    assert (attention(found["0.0"], pairs, "end", "mark") == 1).all()
    assert (attention(found["0.0"], pairs, "other", "bos") == 1).all()  # before "<end>"
    assert (attention(found["1.0"], pairs, "end", "source") == 1).all()


def test_frequency_counts_by_uniform_attention() -> None:
    tokens = compiled.inputs("frequency", n=8).tokens
    found = patterns("frequency", tokens)
    length = tokens.shape[1]
    alike = (1 / torch.arange(1, length + 1, dtype=torch.float64))[:, None].expand(-1, length)
    assert (found["0.0"] - alike.tril()).abs().max() < 1e-12
    assert torch.equal(found["0.0"], found["0.2"])  # idle, with the same pattern


def test_ioi_looks_as_wang_et_al_say() -> None:
    pairs = one_length("ioi", "abc")
    length = int(pairs.lengths[0])
    found = patterns("ioi", pairs.clean[:, :length])
    assert (attention(found["0.0"], pairs, "s2", "s1") == 1).all()
    assert (found["0.0"][torch.arange(len(pairs)), pairs.at("io"), 0] == 1).all()
    assert (attention(found["1.0"], pairs, "end", "s2") == 1).all()
    for mover in ("2.0", "2.1", "2.2"):
        assert (attention(found[mover], pairs, "end", "io") == 1).all()
    # without a duplicate there is nothing to inhibit, and the movers see three names alike
    found = patterns("ioi", pairs.corrupt[:, :length])
    assert (found["1.0"][:, -1, 0] == 1).all()
    for place in ("io", "s1", "s2"):
        thirds = attention(found["2.0"], pairs, "end", place)
        assert (thirds - 1 / 3).abs().max() < 1e-12
