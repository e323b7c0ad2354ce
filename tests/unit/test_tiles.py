"""Crops that overlap, and their mean."""

import numpy as np
import pytest

from edgeseg.frame import Box
from edgeseg.training.tiles import Tile, mean_of_tiles, tiles

pytestmark = pytest.mark.unit


def test_places_by_hand():
    """10 wide in crops of 6, 3 apart: 0-6, 3-9, 4-10; one pixel goes on inner sides."""
    found = tiles((4, 10), 6, 3, 1)
    assert found == [
        Tile(Box(0, 0, 4, 6), Box(0, 0, 4, 5)),
        Tile(Box(0, 3, 4, 9), Box(0, 4, 4, 8)),
        Tile(Box(0, 4, 4, 10), Box(0, 5, 4, 10)),
    ]


def test_crops_that_leave_gaps_are_refused():
    with pytest.raises(ValueError, match="crops of 8 with borders of 2, 5 apart, leave gaps"):
        tiles((20, 20), 8, 5, 2)


@pytest.mark.parametrize("size", [(7, 7), (8, 30), (33, 41)])
def test_every_pixel_is_kept(size):
    _, count = mean_of_tiles(size, tiles(size, 8, 4, 2), lambda t: np.ones(t.crop.size, np.float32))
    assert count.min() >= 1


def blurred(image: np.ndarray) -> np.ndarray:
    """Means of 3x3, as a network sees it: beyond the image there is 0."""
    wide = np.pad(image, 1)
    rows = wide[:-2] + wide[1:-1] + wide[2:]
    return (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9


@pytest.mark.parametrize(("border", "same"), [(1, True), (0, False)])
def test_the_mean_of_crops_is_that_of_the_whole_where_borders_are_dropped(border, same):
    image = np.random.default_rng(0).random((29, 45)).astype(np.float32)
    found, _ = mean_of_tiles(
        (29, 45), tiles((29, 45), 12, 6, border), lambda t: blurred(image[t.crop.slices])
    )
    assert np.allclose(found, blurred(image), atol=1e-6) == same


def test_crops_may_be_left_out():
    mean, count = mean_of_tiles(
        (4, 10), tiles((4, 10), 6, 3, 1),
        lambda t: None if t.crop.left == 3 else np.full(t.crop.size, t.crop.left, np.float32),
    )  # fmt: skip
    assert count[0].tolist() == [1] * 10
    assert mean[0].tolist() == [0] * 5 + [4] * 5
