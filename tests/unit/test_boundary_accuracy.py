"""mBA by hand-drawn masks."""

from __future__ import annotations

import numpy as np
import pytest

from edgeseg.metrics import BoundaryAccuracy, boundary_radii, near_boundary

pytestmark = pytest.mark.unit


def drawn(text: str) -> np.ndarray:
    """One digit or v (void) a pixel."""
    rows = [list(line) for line in text.split()]
    return np.array([[255 if c == "v" else int(c) for c in row] for row in rows], np.uint8)


def shown(mask: np.ndarray) -> str:
    return " ".join("".join("#" if x else "." for x in row) for row in mask)


def test_boundary_of_a_point_is_a_cross_and_then_opencvs_ellipse():
    point = drawn("0000000 0000000 0000000 0001000 0000000 0000000 0000000")
    one = "....... ....... ...#... ..###.. ...#... ....... ......."
    two = "....... ...#... .#####. .#####. .#####. ...#... ......."
    assert shown(near_boundary(point, 1)) == one
    assert shown(near_boundary(point, 2)) == two


def test_boundary_ends_at_the_picture():
    assert shown(near_boundary(drawn("0001 0001"), 1)) == "..## ..##"
    assert not near_boundary(drawn("22 22"), 3).any()
    assert near_boundary(drawn("01"), 5).all()


def test_radii_are_those_of_the_authors_code():
    assert boundary_radii((360, 480)) == [1, 1, 1, 2, 2]  # (360 + 480) / 300 = 2.8
    assert boundary_radii((1024, 2048)) == [1, 2, 4, 6, 8]  # 10.24: 1, 2.8, 4.7, 6.5, 8.4
    assert boundary_radii((60, 80)) == [1, 1, 1, 1, 1]


def test_share_of_right_labels_beside_the_boundary():
    """Six pixels lie beside the boundary, five are right; the miss in the corner is far away."""
    truth, found = drawn("00011 00011 00011"), drawn("10111 00011 00011")
    accuracy = BoundaryAccuracy()
    accuracy.update(truth, found)
    assert accuracy.mean() == pytest.approx(100 * 5 / 6)
    accuracy.update(truth, truth)
    assert accuracy.mean() == pytest.approx((100 * 5 / 6 + 100) / 2)


def test_radii_are_averaged():
    """At 300x600 (300 + 600) / 300 is 3, and radii 1 1 1 2 2."""
    truth = np.zeros((300, 600), np.uint8)
    truth[:, 300:] = 1
    found = truth.copy()
    found[:, 299] = 1  # one of two columns at radius 1, one of four at radius 2
    accuracy = BoundaryAccuracy()
    accuracy.update(truth, found)
    assert boundary_radii((300, 600)) == [1, 1, 1, 2, 2]
    assert accuracy.mean() == pytest.approx((3 * 50 + 2 * 75) / 5)


def test_void_bounds_and_does_not_count():
    """Beside 0 | void | 1 four columns are near a boundary, two of them void."""
    truth, found = drawn("00vv11 00vv11"), drawn("010111 000111")
    accuracy = BoundaryAccuracy()
    accuracy.update(truth, found)
    assert accuracy.mean() == pytest.approx(100 * 3 / 4)


def test_a_frame_without_boundary_adds_nothing():
    accuracy = BoundaryAccuracy()
    accuracy.update(drawn("11 11"), drawn("00 00"))
    assert not accuracy.frames
    assert np.isnan(accuracy.mean())
    with pytest.raises(ValueError, match=r"truth is \(2, 2\) and prediction \(1, 2\)"):
        accuracy.update(drawn("11 11"), drawn("00"))
