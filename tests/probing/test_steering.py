"""Steering along a probe's direction, with a random one as long beside it."""

import numpy as np
import pytest
import torch

import interp
from interp.core.door.door import ArgumentError
from interp.core.errors import PositionError, ProbeError, SiteError
from interp.core.parts.sites import Site
from interp.engine.interventions import Add, Intervention
from interp.probing.use.steering import steer, steering_vector

SITES = tuple(map(Site.parse, ("0.resid_post", "1.2")))


@pytest.fixture
def model(tiny_model) -> interp.Model:
    return tiny_model("llama")


def vectors() -> dict[Site, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        site: torch.randn(width, generator=generator, dtype=torch.float64)
        for site, width in zip(SITES, (30, 4), strict=True)
    }


def test_the_vector_leads_from_one_class_to_the_other():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 7, generator=generator, dtype=torch.float64)
    y = torch.arange(200) % 2
    x[:, 2] += 5 * y
    weight = torch.zeros(7, 2, dtype=torch.float64)
    weight[2] = torch.tensor([-0.1, 0.3])
    weight += torch.randn(7, 1, generator=generator, dtype=torch.float64)  # moves no probability
    found = steering_vector(x, y, weight)
    apart = x[y == 1, 2].mean() - x[y == 0, 2].mean()
    torch.testing.assert_close(found, apart * torch.eye(7, dtype=torch.float64)[2])
    moved = (x[y == 0] + found) @ (weight[:, 1] - weight[:, 0])
    torch.testing.assert_close(moved.mean(), (x[y == 1] @ (weight[:, 1] - weight[:, 0])).mean())
    # a probe with its classes exchanged reads the same direction the other way round
    torch.testing.assert_close(steering_vector(x, y, weight.flip(1)), found)


def test_every_dose_beside_its_control(model, pairs):
    found = steer(model, pairs, vectors(), positions="mid")
    frame = found.frame
    assert len(frame) == 2 * 2 * 5 * len(pairs)
    assert len(found.summary()) == 20
    assert {"steer -2", "steer +1", "steer random +0"} <= set(frame["method"])
    for (method, dose, kind), _ in frame.groupby(["method", "dose", "direction of steering"]):
        assert method == f"steer {'random ' if kind == 'random' else ''}{dose:+g}"
    assert set(frame["position"]) == {"mid"}
    assert frame.query("dose == 0")["effect"].abs().max() < 1e-12
    assert frame.query("dose != 0")["effect"].abs().min() > 1e-9
    assert (steer(model, pairs, vectors(), positions="mid").frame["value"] == frame["value"]).all()


def test_it_is_what_adding_the_vector_does(model, pairs):
    """Of both kinds: the random one is as long, of its own seed, and another at each site."""
    found = steer(model, pairs, vectors(), doses=[1.5], positions="mid", engine="hooks")
    for site, vector in vectors().items():
        delta = (1.5 * vector).expand(*pairs.clean.shape, -1)
        truth = interp.intervene(model, pairs, {"x": [Intervention(site, Add(delta), "mid")]})
        mine = found.query(f"site == '{site}' and method == 'steer +1.5'").frame["value"]
        np.testing.assert_allclose(mine, truth.frame["value"], rtol=0, atol=1e-9)
    one, two = (
        steer(model, pairs, vectors(), doses=[1.0], seed=s).query("method == 'steer random +1'")
        for s in (0, 1)
    )
    assert (one.frame["value"] - two.frame["value"]).abs().min() > 1e-9


def test_the_random_direction_is_as_long(model, pairs, monkeypatch):
    seen = []
    monkeypatch.setattr("interp.probing.use.steering.Add", lambda d: seen.append(d) or Add(d))
    steer(model, pairs, vectors(), doses=[2.0])
    lengths = [delta.norm().item() for delta in seen]
    assert len(lengths) == 4
    for n, vector in enumerate(vectors().values()):
        np.testing.assert_allclose(lengths[2 * n : 2 * n + 2], 2 * vector.norm().item())
    assert not torch.allclose(seen[0], seen[1])


def test_a_huge_dose_makes_the_answer(model, pairs):
    """Along the unembedding's own difference of two answers the logit difference grows with it."""
    row = pairs.select([0])
    unembed = model.bridge.original_model.lm_head.weight.detach()
    way = unembed[row.correct[0]] - unembed[row.wrong[0]]
    found = steer(model, row, {Site.parse("2.resid_post"): 3 * way}, doses=[-3.0, -1.0, 1.0, 3.0])
    values = found.query("method.str.match('steer .[0-9]')").frame["value"].tolist()
    assert values == sorted(values) and values[0] < 0 < values[-1]


def test_bad_input(model, pairs):
    with pytest.raises(ArgumentError, match=r"vectors=\{\}, and .*that is not empty"):
        steer(model, pairs, {}, doses=[1.0])
    with pytest.raises(ProbeError, match=r"doses that differ; got \[1\.0, 1\.0\]"):
        steer(model, pairs, vectors(), doses=[1.0, 1.0])
    with pytest.raises(PositionError, match="no position 'begin'"):
        steer(model, pairs, vectors(), positions="begin")
    with pytest.raises(SiteError, match=r"vector for '1.2' has 30 numbers, and the site's have 4"):
        steer(model, pairs, {Site.parse("1.2"): torch.ones(30)})
    with pytest.raises(SiteError, match=r"'1.mlp\[3\]' is no vector"):
        steer(model, pairs, {Site.parse("1.mlp[3]"): torch.ones(1)})
    with pytest.raises(SiteError, match="there is no site '7.mlp'"):
        steer(model, pairs, {Site.parse("7.mlp"): torch.ones(30)})
    x, y, weight = torch.randn(6, 3), torch.tensor([0, 1] * 3), torch.randn(3, 2)
    with pytest.raises(ProbeError, match=r"5 labels of 6 words are \[0, 1\]"):
        steering_vector(x, y[:5], weight)
    with pytest.raises(ProbeError, match=r"are \[1, 2\]. Number two classes 0 and 1"):
        steering_vector(x, y + 1, weight)
    with pytest.raises(ProbeError, match="a probe of width 2 and activations of 3"):
        steering_vector(x, y, weight[:2])
    with pytest.raises(ProbeError, match="length 0.0: it reads nothing"):
        steering_vector(x, y, torch.ones(3, 2))
