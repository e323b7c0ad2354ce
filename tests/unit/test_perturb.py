"""Masks that are spoilt on purpose: what a refiner learns from."""

import numpy as np
import pytest

from edgeseg.labels import IGNORE
from edgeseg.training.perturb import coarse_mask, dilate, erode, overlap, perturb, subsample

pytestmark = pytest.mark.unit


def drawn(*rows: str) -> np.ndarray:
    return np.array([[c == "#" for c in row] for row in rows])


def disc(side: int = 64, radius: int = 20) -> np.ndarray:
    y, x = np.mgrid[:side, :side] - side // 2
    return y**2 + x**2 <= radius**2


POLE = np.zeros((64, 64), bool)
POLE[8:60, 30:33] = True


def test_dilation_and_erosion_by_hand():
    dot = drawn(".....", ".....", "..#..", ".....", ".....")
    assert (dilate(dot, 3, 1) == drawn(".....", "..#..", "..#..", "..#..", ".....")).all()
    assert (dilate(dot, 1, 2) == drawn(".....", ".....", "..##.", ".....", ".....")).all()
    block = drawn("###..", "###..", "###..", ".....", ".....")
    # What is beyond the image does not count: the block touches two of its sides.
    assert (erode(block, 3, 3) == drawn("##...", "##...", ".....", ".....", ".....")).all()
    assert (erode(block, 1, 3) == drawn("##...", "##...", "##...", ".....", ".....")).all()


def test_a_drawing_of_fewer_pixels_by_hand():
    """Cells of 2x2 hold 4, 3, 1 and 0 pixels; enlarged, row 1 is 207 191 159 143, row 2 112 ..."""
    mask = drawn("####", "###.", "#...", "....")
    assert (subsample(mask, 1) == mask).all()
    assert (subsample(mask, 2) == drawn("####", "####", "....", "....")).all()
    assert overlap(subsample(mask, 2), mask) == pytest.approx(7 / 9)


def test_overlap_of_nothing_is_whole():
    empty = np.zeros((2, 2), bool)
    assert overlap(empty, empty) == 1.0
    assert overlap(empty, ~empty) == 0.0


@pytest.mark.parametrize("mask", [disc(), POLE, ~disc()], ids=["disc", "pole", "hole"])
@pytest.mark.parametrize("iou", [0.8, 0.9])
def test_the_iou_is_never_below_what_was_asked_and_mostly_near(mask, iou):
    found = [overlap(perturb(mask, iou, np.random.default_rng(s)), mask) for s in range(12)]
    assert min(found) >= iou
    assert max(found) < 1.0
    assert np.median(found) < iou + 0.05


def test_what_is_whole_stays_whole():
    assert (perturb(disc(), 1.0, np.random.default_rng(0)) == disc()).all()


def test_the_generator_decides():
    first, again, other = (perturb(disc(), 0.8, np.random.default_rng(s)) for s in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_a_class_that_occurs_becomes_truth_and_a_coarse_mask():
    labels = np.full((40, 60), 3, np.uint8)
    labels[:20] = 7
    labels[:, :8] = IGNORE
    labels[30, 30] = 5  # one pixel is not worth a mask
    chosen = set()
    for seed in range(12):
        truth, coarse = coarse_mask(labels, (0.8, 1.0), np.random.default_rng(seed))
        assert (truth[:, :8] == IGNORE).all()
        (index,) = np.unique(labels[truth == 1])
        assert ((truth == 1) == (labels == index)).all()
        assert set(np.unique(coarse)) == {0, 255}
        assert overlap(coarse > 0, truth == 1) >= 0.8
        chosen.add(int(index))
    assert chosen == {3, 7}


@pytest.mark.parametrize(("fill", "share"), [(IGNORE, 0.0), (2, 1.0)])
def test_frames_without_a_boundary(fill, share):
    labels = np.full((16, 16), fill, np.uint8)
    truth, coarse = coarse_mask(labels, (0.8, 1.0), np.random.default_rng(0))
    assert (truth == (IGNORE if fill == IGNORE else 1)).all()
    assert 0.8 * share <= (coarse > 0).mean() <= share
