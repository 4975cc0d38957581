"""Erasing directions of whatever stands at a site, in both engines."""

import numpy as np
import pytest
import torch

import interp
from interp.core.errors import InterpError, SiteError
from interp.core.metrics import METRICS
from interp.core.parts.sites import Site
from interp.engine.checkpoint import cell_identity
from interp.engine.interventions import (
    AFTER_FIRST,
    Cell,
    Erase,
    Hop,
    Intervention,
    Resample,
    Set,
    Zero,
)
from interp.engine.plan.batches import make_plan
from interp.engine.sweep.run import run
from interp.engine.sweep.sweep import Sweep

SITES = ("embed", "0.resid_post", "1.resid_mid", "1.mlp", "0.attn", "2.resid_post")
HEADS = ("1.2", "0.1.q", "1.kv0.k")


def erasure(width: int, rank: int = 2, seed: int = 0) -> Erase:
    """An oblique projection: left and right are different, and right @ left is the identity."""
    generator = torch.Generator().manual_seed(seed)
    left, other, mean = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((width, rank), (rank, width), (width,))
    )
    left = torch.linalg.qr(left)[0]
    return Erase(left, left.T + 0.5 * (other - other @ left @ left.T), mean)


def measure(model, pairs, cells, engine="replay", **options):
    sweep = Sweep(
        model, pairs, cells, "test", "clean", (METRICS["logit_diff"],), engine=engine, **options
    )
    return run(sweep).frame["effect"].to_numpy().reshape(len(cells), -1)


def one(site: str, value: object, positions: str = "all") -> Cell:
    return Cell(site, positions, (Intervention(Site.parse(site), value, positions),))


def at(model, site: str, **options) -> Erase:
    return erasure(model.facts.d_head if site in HEADS else model.facts.d_model, **options)


def test_what_it_does_to_vectors():
    """By hand, term by term; a second time it changes nothing, and the mean stays."""
    given = erasure(7)
    assert (given.rank, given.width) == (2, 7)
    x = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = x.clone()
    for i in range(3):
        for j in range(5):
            for r in range(2):
                amount = sum(given.right[r, k] * (x[i, j, k] - given.mean[k]) for k in range(7))
                expected[i, j] -= amount * given.left[:, r]
    torch.testing.assert_close(given.of(x), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(given.of(given.of(x)), given.of(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(given.of(given.mean), given.mean, rtol=0, atol=0)
    assert given.of(x.float()).dtype == torch.float32


def test_precision_is_that_of_the_wider():
    """An erasure in float64 of a half-precision activation loses nothing but the last rounding."""
    x = torch.randn(50, 7, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    exact = erasure(7).of(x.double())
    assert torch.equal(erasure(7).of(x), exact.to(torch.bfloat16))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("positions", ["all", "mid", AFTER_FIRST])
def test_engines_agree(model, pairs, positions):
    sites = [s for s in (*SITES, *HEADS) if ".kv" not in s or model.facts.group_size > 1]
    cells = [one(site, at(model, site), positions) for site in sites]
    ours, theirs = (measure(model, pairs, cells, engine) for engine in ("replay", "hooks"))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)
    assert positions == "mid" or np.abs(ours).max(1).min() > 1e-6


@pytest.mark.plain
def test_it_is_the_value_set_by_hand(tiny_model, pairs):
    """At a single site what stands there is the plain run's, so Set can say the same."""
    model = tiny_model("llama")
    kept = interp.capture(model, pairs, SITES)
    for site in SITES:
        value = at(model, site)
        whole = torch.stack([pad(value.of(row.double()), 9) for row in kept.rows(site)])
        for positions in ("all", "mid", AFTER_FIRST):
            erased, by_hand = measure(
                model, pairs, [one(site, value, positions), one(site, Set(whole), positions)]
            )
            np.testing.assert_allclose(erased, by_hand, rtol=0, atol=1e-10)


def pad(row: torch.Tensor, length: int) -> torch.Tensor:
    return torch.nn.functional.pad(row, (0, 0, 0, length - len(row)))


def test_after_the_first_is_every_position_but_that(tiny_model, pairs):
    """In each kind of call: as one edit for each index, of rows of any length, and along a path."""
    model = tiny_model("llama")
    value, site = at(model, "0.mlp"), Site.parse("0.mlp")
    each = tuple(Intervention(site, value, i) for i in range(1, 9))
    long = pairs.select([1, 3])  # every row must have each position
    together, one_by_one, whole = measure(
        model, long, [one("0.mlp", value, AFTER_FIRST), Cell("x", "", each), one("0.mlp", value)]
    )
    np.testing.assert_allclose(together, one_by_one, rtol=0, atol=1e-12)
    assert np.abs(together - whole).min() > 1e-6
    pairs = pairs.select([1, 3])
    zero = interp.ablate(model, pairs, "0.mlp", method="zero", positions=AFTER_FIRST)
    by_hand = [Intervention(site, Zero(), i) for i in range(1, 9)]
    truth = interp.intervene(model, pairs, {"x": by_hand})
    np.testing.assert_allclose(zero.frame["value"], truth.frame["value"], rtol=0, atol=1e-12)
    hop = Hop((Site.parse("2.1.q"),), positions=AFTER_FIRST)
    path = Cell("path", "", (Intervention(site, Resample("corrupt")),), (hop,))
    ours, theirs = (measure(model, pairs, [path], engine) for engine in ("replay", "hooks"))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)
    assert np.abs(ours).max() > 1e-9
    [batch] = explain_cells(model, pairs.select([0]), [one("0.mlp", value, AFTER_FIRST)]).batches
    assert (batch.start, batch.positions) == (1, 8)


def explain_cells(model, pairs, cells):
    metric = METRICS["logit_diff"]
    return make_plan(
        *(model.facts, pairs, cells), budget=1 << 30, itemsize=8, metrics=(metric,), engine="replay"
    )


def test_positions_that_overlap_are_refused():
    site, value = Site.parse("0.mlp"), erasure(30)
    for other in ("all", "mid", 3, AFTER_FIRST):
        made = tuple(Intervention(site, value, at) for at in (AFTER_FIRST, other))
        for order in (made, made[::-1]):
            with pytest.raises(SiteError, match="two interventions set '0.mlp'"):
                Cell("twice", "", order)


def test_several_layers_in_one_run_act_on_what_stands_there(tiny_model, pairs):
    """The second sees what the first has left: in replay as in hooks, and not as if alone."""
    model = tiny_model("gpt2")
    sites = ("0.resid_post", "1.mlp", "1.resid_post", "2.resid_mid")
    made = [Intervention(Site.parse(s), at(model, s, seed=i), "all") for i, s in enumerate(sites)]
    cells = [
        Cell("together", "all", tuple(made)),
        *(Cell(s, "all", (m,)) for s, m in zip(sites, made, strict=True)),
    ]
    ours, theirs = (measure(model, pairs, cells, engine) for engine in ("replay", "hooks"))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)
    assert np.abs(ours[0] - ours[1:].sum(0)).min() > 1e-6


@pytest.mark.parametrize("engine", ["replay", "hooks"])
def test_no_direction_is_a_null_intervention(tiny_model, pairs, engine):
    nothing = Erase(torch.zeros(12, 0), torch.zeros(0, 12), torch.ones(12))
    effect = measure(tiny_model("gpt2"), pairs, [one(s, nothing) for s in SITES], engine)
    assert np.abs(effect).max() < 1e-12


def test_the_checkpoint_knows_the_directions(tiny_model, pairs, tmp_path):
    model = tiny_model("gpt2")
    values = [at(model, "1.mlp"), at(model, "1.mlp", seed=1), at(model, "1.mlp", rank=1)]
    moved = Erase(values[0].left, values[0].right, values[0].mean + 1)
    cells = [one("1.mlp", value) for value in (*values, moved)]
    assert len({cell_identity(cell) for cell in cells}) == 4
    assert cell_identity(cells[0]) == cell_identity(one("1.mlp", at(model, "1.mlp")))
    first = [measure(model, pairs, [cell], checkpoint=tmp_path) for cell in cells]
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = [measure(model, pairs, [cell], checkpoint=tmp_path) for cell in cells]
    np.testing.assert_array_equal(first, again)
    assert kept == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(np.unique(np.array(first)[:, 0, 0])) == 4


def test_parts_that_do_not_fit_are_refused():
    good = erasure(7)
    for parts in (
        (good.left.T, good.right, good.mean),
        (good.left, good.right, good.mean[:6]),
        (good.left, good.right[:1], good.mean),
    ):
        with pytest.raises(InterpError, match=r"left \(d, rank\), right \(rank, d\) and mean"):
            Erase(*parts)
    bad = good.right.clone()
    bad[1, 3] = torch.nan
    with pytest.raises(InterpError, match="right of an erasure holds NaN or infinity"):
        Erase(good.left, bad, good.mean)


def test_sites_that_it_does_not_fit_are_refused(tiny_model, pairs):
    model = tiny_model("llama")
    with pytest.raises(SiteError, match=r"'1.mlp' is of vectors 12 wide, and the site's are 30"):
        measure(model, pairs, [one("1.mlp", erasure(12))])
    with pytest.raises(SiteError, match=r"'1.2' is of vectors 30 wide, and the site's are 4 wide"):
        measure(model, pairs, [one("1.2", erasure(30))])
    for site in ("1.mlp[3]", "1.2.pattern"):
        with pytest.raises(SiteError, match=r"is no vector of features"):
            measure(model, pairs, [one(site, erasure(30))])
