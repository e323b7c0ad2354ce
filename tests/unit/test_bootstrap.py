"""Bootstrap intervals of a mIoU: what can be said without drawing, and what drawing must give."""

from __future__ import annotations

import numpy as np
import pytest

from edgeseg.benchmarks.bootstrap import difference, interval, mean_difference
from edgeseg.errors import ComparisonError
from edgeseg.metrics import ConfusionMatrix

pytestmark = pytest.mark.unit


def counts(frames: int, right: float, seed: int = 0) -> np.ndarray:
    """Two classes; each frame has 100 pixels of each, about `right` of them called right."""
    random = np.random.default_rng(seed)
    made = np.zeros((frames, 2, 3), np.int64)
    for frame in made:
        for truth in (0, 1):
            frame[truth, truth] = hits = random.binomial(100, right)
            frame[truth, 1 - truth] = 100 - hits
    return made


def test_the_value_is_the_miou_of_all_frames():
    made = counts(20, 0.8)
    matrix = ConfusionMatrix(2)
    matrix.counts = made.sum(0)
    assert interval(made).value == pytest.approx(matrix.miou(), abs=1e-9)


def test_equal_frames_leave_nothing_to_chance():
    same = np.repeat(counts(1, 0.8), 30, 0)
    found = interval(same)
    assert found.low == pytest.approx(found.value, abs=1e-9)
    assert found.high == pytest.approx(found.value, abs=1e-9)


def test_more_frames_narrow_the_interval():
    few, many = interval(counts(10, 0.7)), interval(counts(1000, 0.7))
    assert few.low < few.value < few.high
    assert (many.high - many.low) < (few.high - few.low) / 5


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """IoU of 80 % right of two balanced classes is 0.8 / 1.2."""
    truth = 100 * 0.8 / 1.2
    found = [interval(counts(30, 0.8, seed)) for seed in range(60)]
    inside = sum(one.low <= truth <= one.high for one in found)
    assert 50 <= inside <= 60


def test_a_pair_is_compared_on_the_same_draws():
    """A constant lead is certain, however much the frames differ."""
    base = np.zeros((40, 2, 3), np.int64)
    random = np.random.default_rng(1)
    base[:, 0, 0] = base[:, 1, 1] = random.integers(20, 90, 40)
    base[:, 0, 1] = base[:, 1, 0] = 100 - base[:, 0, 0]
    better = base.copy()
    better[:, [0, 1], [0, 1]] += 5
    better[:, [0, 1], [1, 0]] -= 5
    alone, pair = interval(base), difference(better, base)
    assert pair.low > 3
    assert (pair.high - pair.low) < (alone.high - alone.low) / 10
    assert difference(base, base) == type(pair)(0.0, 0.0, 0.0)


def test_a_class_without_truth_is_left_out():
    made = np.zeros((5, 3, 4), np.int64)
    made[:, 0, 0], made[:, 1, 0] = 10, 5
    assert interval(made).value == pytest.approx((100 * 10 / 15 + 0) / 2)


def test_other_frames_are_refused():
    with pytest.raises(ComparisonError, match="scored on 4 and 5 frames of 2 and 2 classes"):
        difference(counts(4, 0.5), counts(5, 0.5))


def test_means_of_frames_are_compared_by_pairs():
    """A lead of 2 in every frame is certain; of 0 and 4 in turns it is 2, give or take."""
    base = [10.0, 90.0] * 20
    certain = mean_difference([v + 2 for v in base], base)
    assert (certain.value, certain.low, certain.high) == pytest.approx((2.0, 2.0, 2.0))
    found = mean_difference([v + 4 * (i % 2) for i, v in enumerate(base)], base)
    assert found.value == pytest.approx(2.0)
    assert 1.0 < found.low < 1.6 < 2.4 < found.high < 3.0
