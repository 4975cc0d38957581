"""Native models under both engines: each scheme of positions and norm, with MLPs and without."""

import itertools

import numpy as np
import pytest
import torch

import interp
from interp.core.errors import PairsError, SiteError, Unsupported
from interp.core.prompts.pairs import Pairs
from interp.engine.engines.choose import choose
from interp.models.small.native import Native, Shape, build, shape_of

pytestmark = pytest.mark.sampled(6)

VOCAB = 13
MIXTURES = [
    (positions, norm, d_mlp)
    for i, (positions, norm) in enumerate(
        itertools.product(("none", "learned", "sinusoidal", "rotary"), ("layer", "rms", "none"))
    )
    for d_mlp in ((0,), (14,))[i % 2]
]
"""Each scheme with each norm; MLPs in every other."""


def model_of(positions: str, norm: str, d_mlp: int, **options: object) -> interp.Model:
    shape = Shape(
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        d_model=10,
        d_head=6,
        d_vocab=VOCAB,
        n_ctx=11,
        d_mlp=d_mlp,
        norm=norm,
        positions=positions,
        **options,
    )
    generator = torch.Generator().manual_seed(5)
    state = {
        name: value + 0.3 * torch.randn(value.shape, generator=generator, dtype=torch.float64)
        for name, value in sorted(Native(shape, seed=0).state_dict().items())
    }
    return build(shape, name="native", state=state, dtype=torch.float64)


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    """Three random pairs of nine tokens."""
    generator = torch.Generator().manual_seed(1)

    def rows() -> list[list[int]]:
        return [torch.randint(VOCAB, (n,), generator=generator).tolist() for n in (9, 9, 9)]

    return Pairs.from_tokens(
        clean=rows(),
        corrupt=rows(),
        correct=[3, 5, 7],
        wrong=[4, 6, 8],
        positions={"mid": [2, 3, 4]},
        cluster=["a", "b", "a"],
    )


def same(model: interp.Model, ask) -> None:
    """Both engines give the same effects, and effects there are."""
    ours, theirs = (ask(engine=engine).frame for engine in ("replay", "hooks"))
    assert list(ours["site"]) == list(theirs["site"])
    gap = np.abs(ours["value"] - theirs["value"]).max()
    assert gap < 1e-9
    assert np.abs(ours["effect"]).max() > 1e-4


@pytest.mark.parametrize(("positions", "norm", "d_mlp"), MIXTURES)
def test_the_engines_agree(positions, norm, d_mlp, pairs):
    model = model_of(positions, norm, d_mlp)
    assert choose(model).name == "replay"
    parts = ["0.1", "0.attn", "1.kv0.v", *(["0.mlp", "1.mlp[5]"] if d_mlp else [])]

    same(model, lambda engine: interp.ablate(model, pairs, parts, method="zero", engine=engine))
    same(
        model,
        lambda engine: interp.patch(model, pairs, "1.kv1.k", positions="mid", engine=engine),
    )
    same(
        model,
        lambda engine: interp.path_patch(
            model,
            pairs,
            senders=["0.1", "embed"],
            receivers=["1.1.q", "1.kv0.k"] if norm == "layer" else "logits",
            through="mlps" if d_mlp else "direct",
            engine=engine,
        ),
    )


@pytest.mark.parametrize("norm", ["layer", "none"])
def test_edges_and_frozen_norms_of_an_attention_only_model(norm, pairs):
    model = model_of("learned", norm, 0)
    edges = ["0.1 -> 1.2.q", "0.3 -> logits", "embed -> 1.kv1.v"]
    same(model, lambda engine: interp.ablate(model, pairs, edges, method="zero", engine=engine))
    same(
        model,
        lambda engine: interp.path_patch(
            model, pairs, senders="heads", through="direct", ln="freeze", engine=engine
        ),
    )


def test_captures_are_equal(pairs):
    model = model_of("rotary", "rms", 0)
    for site in ("0.1.q", "0.kv1.k", "1.3", "0.2.pattern", "1.resid_pre", "1.resid_post"):
        ours, theirs = (
            interp.capture(model, pairs, [site], engine=engine) for engine in ("replay", "hooks")
        )
        for a, b in zip(ours.rows(site), theirs.rows(site), strict=True):
            assert (a - b).abs().max() < 1e-12


@pytest.mark.parametrize("part", ["mlps", "0.mlp", "1.resid_mid", "0.mlp[0]"])
def test_what_an_attention_only_model_has_not_is_refused(part, pairs):
    model = model_of("learned", "layer", 0)
    for engine in ("replay", "hooks"):
        with pytest.raises(SiteError, match=r"the model has no MLPs\. It is NativeModel"):
            interp.ablate(model, pairs, part, engine=engine)


def test_smeared_keys_run_through_hooks(pairs, caplog):
    model = model_of("rotary", "layer", 0, smear=True)
    assert shape_of(model).smear
    with pytest.raises(Unsupported, match="replay engine has no smeared keys; use engine='hooks'"):
        interp.ablate(model, pairs, "heads", method="zero", engine="replay")
    found = interp.ablate(model, pairs, "heads", method="zero")
    assert set(found.frame["engine"]) == {"hooks"}
    assert "smeared keys" in caplog.text
    assert found.frame["effect"].abs().max() > 1e-4


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
@pytest.mark.parametrize("engine", ["replay", "hooks"])
def test_rows_longer_than_the_table_of_positions(positions, engine):
    row = [1] * 12
    long = Pairs.from_tokens(clean=[row], corrupt=[row], correct=[2], wrong=[3])
    with pytest.raises(PairsError, match=f"12 tokens, and the model has {positions} positions for"):
        interp.evaluate(model_of(positions, "rms", 0), long, engine=engine)
