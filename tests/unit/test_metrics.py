"""The confusion matrix, by pencil and against a count pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.metrics import ConfusionMatrix, agreement, boundary

pytestmark = pytest.mark.unit


def labels(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.uint8)


def test_by_pencil():
    """Class 0: 2 hits, 1 missed, 1 false: 2/4. Class 1: 1 hit, 1 missed, 1 false: 1/3."""
    matrix = ConfusionMatrix(3)
    matrix.update(labels([0, 0, 0], [1, 1, 255]), labels([0, 0, 1], [1, 0, 2]))
    assert matrix.counts.tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    assert matrix.iou()[:2].tolist() == pytest.approx([50.0, 100 / 3])
    assert math.isnan(matrix.iou()[2])
    assert matrix.miou() == pytest.approx((50 + 100 / 3) / 2)
    assert matrix.pixel_accuracy() == pytest.approx(60.0)
    scores = matrix.scores(("road", "sky", "car"))
    assert scores.per_class["car"] is None
    assert scores.per_class["road"] == pytest.approx(50)
    assert scores.miou == matrix.miou()


def test_a_perfect_prediction_is_100():
    truth = labels([0, 1, 2, 255])
    matrix = ConfusionMatrix(3)
    matrix.update(truth, truth)
    assert matrix.miou() == 100.0
    assert matrix.pixel_accuracy() == 100.0


def test_no_answer_is_a_miss_and_no_false_alarm():
    matrix = ConfusionMatrix(2)
    matrix.update(labels([0, 0, 1, 1]), labels([0, 255, 1, 200]))
    assert matrix.iou().tolist() == [50.0, 50.0]
    assert matrix.pixel_accuracy() == 50.0


def test_a_class_that_is_called_but_never_true_is_left_out_of_the_mean():
    matrix = ConfusionMatrix(3)
    matrix.update(labels([0, 0, 0, 0]), labels([0, 0, 0, 2]))
    assert matrix.miou() == 75.0


def test_one_sum_is_no_mean_of_frames():
    """A frame of 1 pixel and one of 3: summed 3/4 of class 0, while frames would say 0 and 100."""
    matrix = ConfusionMatrix(2)
    matrix.update(labels([0]), labels([1]))
    matrix.update(labels([0, 0, 0]), labels([0, 0, 0]))
    assert matrix.miou() == 75.0


def test_nothing_counted_is_nan():
    matrix = ConfusionMatrix(2)
    matrix.update(labels([255]), labels([0]))
    assert math.isnan(matrix.miou())
    assert math.isnan(matrix.pixel_accuracy())


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"truth is \(1, 2\) and prediction \(1, 1\)"):
        ConfusionMatrix(2).update(labels([0, 0]), labels([0]))
    with pytest.raises(ValueError, match="truth holds id 2; the table has 2"):
        ConfusionMatrix(2).update(labels([2]), labels([0]))


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_against_a_count_pixel_by_pixel(classes: int, seed: int):
    random = np.random.default_rng(seed)
    matrix = ConfusionMatrix(classes)
    hits, truths, called = np.zeros((3, classes))
    for _ in range(2):
        truth = random.choice([*range(classes), 255], (5, 7)).astype(np.uint8)
        guess = random.choice([*range(classes), 255], (5, 7)).astype(np.uint8)
        matrix.update(truth, guess)
        for t, g in zip(truth.ravel(), guess.ravel(), strict=True):
            if t == 255:
                continue
            truths[t] += 1
            hits[t] += t == g
            if g != 255:
                called[g] += 1
    wanted = [
        100 * h / (t + c - h) if t else math.nan
        for h, t, c in zip(hits, truths, called, strict=True)
    ]
    assert matrix.iou().tolist() == pytest.approx(wanted, nan_ok=True)


def test_agreement():
    assert agreement(labels([0, 1, 2, 3]), labels([0, 1, 2, 4])) == 75.0
    with pytest.raises(ValueError, match=r"shapes differ: \(1, 1\) and \(1, 2\)"):
        agreement(labels([0]), labels([0, 1]))


def test_boundary_by_pencil():
    """A dot in the middle: radius 1 reaches its eight neighbours."""
    dot = np.zeros((5, 5), np.uint8)
    dot[2, 2] = 1
    wanted = np.zeros((5, 5), bool)
    wanted[1:4, 1:4] = True
    assert np.array_equal(boundary(dot), wanted)
    assert boundary(dot, radius=2).all()
    assert not boundary(np.zeros((5, 5), np.uint8), radius=2).any()


@given(st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_boundary_against_every_pair(radius: int, seed: int):
    image = np.random.default_rng(seed).integers(0, 3, (6, 7)).astype(np.uint8)
    near = boundary(image, radius)
    for y in range(6):
        for x in range(7):
            window = image[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
            assert near[y, x] == (window != image[y, x]).any()


def test_boundary_of_a_batch_is_each_frames_own():
    batch = np.random.default_rng(0).integers(0, 3, (4, 6, 7)).astype(np.uint8)
    assert np.array_equal(boundary(batch), np.stack([boundary(one) for one in batch]))
