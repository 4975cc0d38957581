"""Models that norm what attention writes, or queries and keys: weights read against parameters.

Gemma 2 and 3 norm before and after, OLMo 2 only after, its queries and keys over all heads
together; Gemma 3 and Qwen 3 norm those of each head. Whole d_model x d_model matrices are made
here from the parameters as they are; the scales that norms divide by are left out.
"""

import numpy as np
import pytest
import torch

import interp
from interp.causal.knockout import knock_out
from interp.core.prompts.pairs import Pairs
from interp.engine.engines.choose import weights_of
from interp.engine.engines.hooked import run as hooks
from interp.heads.weights.composition import composition
from interp.heads.weights.offsets import offset_pair
from interp.heads.weights.qk_ov import ov_directions

FAMILIES = ["gemma2", "gemma3", "qwen3", "olmo2"]
NORMED = ["gemma2", "gemma3", "olmo2"]
"""Those that norm the write."""


def gain(norm, n):
    """What an RMSNorm multiplies by, n numbers long."""
    if norm is None:
        return torch.ones(n, dtype=torch.float64)
    assert norm.kind == "rms" and norm.bias is None
    full = norm.weight + norm.offset
    return full.repeat(n // len(full))  # of each head, or of all together


def circuits(model, layer):
    """W_QK and W_OV of each head, whole."""
    w = weights_of(model)
    facts, p = w.facts, w.blocks[layer].attention
    before, after = (torch.diag(gain(norm, facts.d_model)) for norm in (p.ends.read, p.ends.write))
    wq = gain(p.q_norm, len(p.q.weight))[:, None] * p.q.weight @ before
    wk = gain(p.k_norm, len(p.k.weight))[:, None] * p.k.weight @ before
    wv, wo = p.v.weight @ before, after @ p.o.weight
    qk, ov = [], []
    for head in range(facts.n_heads):
        mine = slice(head * facts.d_head, (head + 1) * facts.d_head)
        group = head // facts.group_size
        its = slice(group * facts.d_head, (group + 1) * facts.d_head)
        qk.append(wq[mine].T @ wk[its])
        ov.append(wv[its].T @ wo[:, mine].T)
    return torch.stack(qk), torch.stack(ov)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_families_norm_what_they_are_here_for(tiny_model, family):
    for block in weights_of(tiny_model(family)).blocks:
        p = block.attention
        assert (p.ends.write is not None) == (family in NORMED)
        assert (p.ends.read is not None) == (family != "olmo2")
        assert (p.q_norm is not None) == (p.k_norm is not None) == (family != "gemma2")


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_composition_against_whole_matrices(tiny_model, family):
    """||L R|| / (||L|| ||R||) of all pairs of heads."""
    model = tiny_model(family)
    found = composition(model).frame.set_index(["measure", "site", "other"])["value"]
    whole = [circuits(model, layer) for layer in range(model.facts.n_layers)]
    for early, late in ((0, 1), (0, 2), (1, 2)):
        written, (qk, ov) = whole[early][1], whole[late]
        for reader, right in (("q", qk), ("k", qk.mT), ("v", ov)):
            for i, left in enumerate(written):
                for j, other in enumerate(right):
                    truth = (left @ other).norm() / (left.norm() * other.norm())
                    ours = found[f"{reader}_composition", f"{early}.{i}", f"{late}.{j}.{reader}"]
                    assert abs(ours - truth.item()) < 1e-12


@pytest.mark.parametrize("family", ["gemma2", "olmo2"])
@torch.no_grad()
def test_directions_are_those_of_the_whole_matrix(tiny_model, family):
    """Singular values, and the logits of the tokens that each direction writes most."""
    model = tiny_model(family)
    w, head = weights_of(model), model.facts.n_heads - 1
    table = ov_directions(model, f"1.{head}", directions=3, top=29).frame
    _, singular, right = torch.linalg.svd(circuits(model, 1)[1][head])
    spectrum = table[table["measure"] == "ov_singular"]["value"]
    assert np.abs(spectrum - singular[:3].numpy()).max() < 1e-10
    u = w.unembed.linear.weight * gain(w.unembed.norm, w.facts.d_model)
    u = u - u.mean(0)
    for i in range(3):
        end = (table["direction"] == i) & (table["side"] == "writes") & (table["end"] == "+")
        logits = table[end].set_index("token")["value"].sort_index().to_numpy()
        truth = (u @ right[i]).numpy()
        assert len(logits) == 29 and np.abs(logits).max() > 1e-3
        assert np.abs(logits - truth * np.sign(truth @ logits)).max() < 1e-9


@torch.no_grad()
def test_distances_of_a_norm_over_all_heads(tiny_model):
    """OLMo 2: differences of log probabilities in the first layer, through the bridge."""
    model = tiny_model("olmo2")
    ids = [3, 7, 12, 25, 3, 0, 9]
    pattern = hooks.trace(model, torch.tensor([ids]), keep=("pattern",)).kept["pattern"][0][0]
    for head in (0, 5):
        log = pattern[:, head].log()  # query key
        for i, j in ((6, 1), (4, 3)):
            far, near = (
                offset_pair(model, f"0.{head}", ids[i], ids[k], offsets=[i - k]).frame["value"][0]
                for k in (j, i)
            )
            assert abs(far - near - (log[i, j] - log[i, i]).item()) < 1e-6


@pytest.mark.parametrize("family", ["gemma2", "olmo2"])
def test_knocking_heads_out_renorms_what_is_left(tiny_model, family):
    """The write of the other heads changes with its norm's scale: the engine runs it, no sum."""
    model, heads = tiny_model(family), ["0.1", "0.4", "2.3"]
    rows = [[3, 7, 12, 25, 3], [5, 6, 20, 7, 5]]
    pairs = Pairs.from_tokens(clean=rows, corrupt=rows, correct=[7, 6], wrong=[4, 4])
    found = knock_out(model, pairs, heads, method="zero", patterns=["recomputed"], draws=1)
    mine = found.frame[found.frame["site"] == "heads"]["value"]
    truth = interp.ablate(
        model, pairs, {"set": heads}, method="zero", metric="loss", engine="hooks"
    )
    assert np.abs(mine.to_numpy() - truth.frame["value"].to_numpy()).max() < 1e-9
    assert np.abs(truth.frame["effect"]).min() > 1e-4
