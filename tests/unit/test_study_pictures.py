"""The pictures of a study: tiles that a name fits above, and an axis on which small losses show."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from edgeseg.pipeline.study_results import thumbnail
from edgeseg.training import curves
from edgeseg.training.journal import Row

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("given", "drawn"),
    [((384, 512), (192, 256)), ((192, 256), (96, 128)), ((112, 160), (112, 160)),
     ((64, 128), (128, 256)), ((32, 64), (96, 192))],
)  # fmt: skip
def test_large_images_are_halved_and_small_ones_enlarged(given, drawn):
    image = np.arange(given[0] * given[1] * 3, dtype=np.uint32).astype(np.uint8)
    image = image.reshape(*given, 3)
    tile = thumbnail(image)
    assert tile.shape == (*drawn, 3)
    np.testing.assert_array_equal(tile[0, 0], image[0, 0])
    last = image[::2, ::2] if drawn < given else image
    np.testing.assert_array_equal(tile[-1, -1], last[-1, -1])


@pytest.mark.parametrize(("losses", "scale"), [((3.0, 0.5), "linear"), ((400.0, 0.5), "log")])
def test_losses_far_apart_are_drawn_on_a_logarithmic_axis(losses, scale, tmp_path, monkeypatch):
    drawn: list[Figure] = []

    class Kept(Figure):
        def __init__(self, *words, **settings) -> None:
            super().__init__(*words, **settings)
            drawn.append(self)

    monkeypatch.setattr(curves, "Figure", Kept)
    rows = {name: [row(0, loss), row(1, loss)] for name, loss in zip("ab", losses, strict=True)}
    curves.draw_runs(tmp_path / "curves.png", rows, "title")
    assert (tmp_path / "curves.png").exists()
    assert drawn[0].axes[0].get_yscale() == scale


def row(step: int, loss: float) -> Row:
    return Row(step, 0.0, loss, 0.1, 1.0, 1.0, 20.0)
