import numpy as np
import pytest
import torch
from matplotlib.collections import QuadMesh

from interp import figures
from interp.core.errors import ResultsError
from interp.core.tables.results import Results

PLACES = [f"r{row}c{column}" for row in range(2) for column in range(3)]


def meshes(figure) -> list[np.ndarray]:
    """What the panels show, row by row; the colour bar is drawn with none of the axes' titles."""
    found = [axes for axes in figure.axes if axes.get_title()]
    drawn = [c for axes in found for c in axes.collections if isinstance(c, QuadMesh)]
    return [np.asarray(mesh.get_array()).reshape(2, 3) for mesh in drawn]


def mean(results: Results, site: str, place: str, column: str = "effect") -> float:
    frame = results.frame
    return frame[(frame["site"] == site) & (frame["position"] == place)][column].mean()


def test_each_patch_stands_where_it_is(table, clipped):
    results = table(["0.1", "1.0"], positions=["cls", *reversed(PLACES)])
    figure = figures.patches(results, title="Patches")
    for site, shown in zip(["0.1", "1.0"], meshes(figure), strict=True):
        for place, value in zip(PLACES, shown.flatten(), strict=True):
            assert value == pytest.approx(mean(results, site, place))
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["0.1", "1.0"]
    assert figure.axes[0].get_xlabel() == f"class token: {mean(results, '0.1', 'cls'):.2f}"
    marks = [text.get_text() for text in figure.legends[0].get_texts()]
    assert any(mark.startswith("24 examples, 95 % interval over 8 clusters") for mark in marks)
    assert clipped(figure) == []


def test_other_columns_and_attention_are_drawn_alike(table, looks, clipped):
    results = table(["0.1"], positions=PLACES)
    [shown] = meshes(figures.patches(results, column="base"))
    assert shown[1, 2] == pytest.approx(mean(results, "0.1", "r1c2", "base"))
    attention = looks(["0.1"], PLACES)
    figure = figures.patches(attention)
    [shown] = meshes(figure)
    assert shown[0, 1] == pytest.approx(mean(attention, "0.1", "r0c1", "value"))
    said = [" ".join(axes.get_ylabel().split()) for axes in figure.axes]
    assert "attention probability" in said
    assert clipped(figure) == []


@pytest.mark.parametrize("shape", [(4, 6), (1, 4, 6), (4, 6, 3), (3, 4, 6)])
def test_the_image_is_drawn_first_and_under_every_panel(table, shape, clipped):
    picture = torch.rand(shape)
    figure = figures.patches(table(["0.1", "1.0"], positions=PLACES), picture)
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == ["image", "0.1", "1.0"]
    grey = picture.squeeze()
    grey = grey.mean(0 if shape == (3, 4, 6) else -1) if grey.ndim == 3 else grey
    grey = (grey - grey.min()) / (grey.max() - grey.min())
    for axes in panels:
        [image] = axes.images
        np.testing.assert_allclose(image.get_array(), grey, atol=1e-6)
        assert image.get_extent() == [-0.5, 2.5, 1.5, -0.5]
    assert clipped(figure) == []


def test_what_was_not_measured_is_hatched(table):
    results = table(["0.1"], positions=[p for p in PLACES if p != "r0c2"])
    figure = figures.patches(results)
    [shown] = meshes(figure)
    assert np.ma.is_masked(shown[0, 2]) or np.isnan(shown[0, 2])
    assert "not measured" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_what_is_refused(table):
    with pytest.raises(ResultsError, match=r"has no patch of an image \(positions: end\)"):
        figures.patches(table(["0.1"]))
    with pytest.raises(ResultsError, match="17 sites; 16 fit on a page"):
        figures.patches(table([f"0.{i}" for i in range(17)], positions=PLACES))
    with pytest.raises(ResultsError, match="has 2 interventions"):
        figures.patches(table(["0.1"], positions=PLACES, receivers=["1.1.q", "1.1.k"]))
    results = table(["0.1"], positions=PLACES)
    for picture in (np.zeros(4), np.full((4, 6), np.nan), np.zeros((2, 4, 6, 3))):
        with pytest.raises(ResultsError, match="cannot be drawn under the patches"):
            figures.patches(results, picture)
    assert len(figures.patches(table([f"0.{i}" for i in range(16)], positions=PLACES)).axes) == 17
