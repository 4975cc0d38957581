import re
import zlib
from io import BytesIO

import numpy as np
import pytest

from interp import figures, runs
from interp.figures.drawing import style


def page(figure, kind: str) -> bytes:
    out = BytesIO()
    figure.savefig(out, format=kind)
    return out.getvalue()


@pytest.mark.plain
def test_saved_in_the_style_it_was_drawn_in(table):
    """Matplotlib picks the kind of font when the file is written, so a plain savefig must too."""
    figure = figures.bars(table(["0.0", "1.1"]))
    pdf = page(figure, "pdf")
    streams = [zlib.decompress(s) for s in re.findall(rb"stream\r?\n(.*?)endstream", pdf, re.S)]
    assert b"/Type3" not in pdf and not any(b"/Type3" in s for s in streams)
    assert b"/FontFile2" in pdf  # an embedded TrueType font
    assert b"logit difference" in page(figure, "svg")  # text, not outlines
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_every_figure_is_as_wide_as_a_page(table):
    assert figures.heads(table(["0.0"])).get_figwidth() == style.WIDTH == 5.5


def test_symmetric_scale():
    scale = style.symmetric(np.array([0.2, -3.0, np.nan]))
    assert (scale.vmin, scale.vmax) == (-3, 3)
    for empty in ([0.0, 0.0], [np.nan], []):
        scale = style.symmetric(np.array(empty))
        assert (scale.vmin, scale.vmax) == (-1, 1)


def test_runs_write_with_the_settings_of_the_style():
    assert runs.run.OUTPUT.items() <= style.RC.items()


@pytest.mark.parametrize("name", ["heads", "bars", "positions", "attention", "pattern"])
def test_the_face_has_every_figure(name):
    assert callable(getattr(figures, name)) and getattr(figures, name).__doc__
