"""The basis of label patches against numpy's own SVD and by pencil."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from edgeseg.errors import TrainingError
from edgeseg.labels import IGNORE
from edgeseg.training.patches import collect, cut, find_basis, measure, one_hot

pytestmark = pytest.mark.unit


def random_patches(n: int, r: int, classes: int, seed: int = 0) -> np.ndarray:
    """Two classes on both sides of a straight edge, as in real labels: few patterns are common."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:r, :r] - (r - 1) / 2
    angles = generator.uniform(0, 2 * np.pi, n)[:, None, None]
    shifts = generator.uniform(-r, r, n)[:, None, None]
    side = np.cos(angles) * rows + np.sin(angles) * columns > shifts
    first, second = generator.integers(0, classes, (2, n, 1, 1))
    return np.where(side, first, second).astype(np.uint8)


def flat(weight: np.ndarray) -> np.ndarray:
    return weight.reshape(len(weight), -1).astype(np.float64)


def test_vectors_run_class_by_class_and_row_by_row():
    patch = np.array([[[0, 1], [1, 1]]], np.uint8)
    assert one_hot(patch, 3).tolist() == [[1, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0]]
    assert one_hot(patch, 3).dtype == np.float32


def test_one_pattern_is_its_own_basis():
    """v has four ones, so the component is v / 2; its largest number is made positive."""
    patches = np.array([[[0, 1], [1, 1]]] * 3, np.uint8)
    basis = find_basis(patches, 2, 1)
    assert basis.weight.shape == (1, 2, 2, 2)
    assert basis.weight.dtype == np.float32
    expected = [[[[0.5, 0], [0, 0]], [[0, 0.5], [0.5, 0.5]]]]
    np.testing.assert_allclose(basis.weight, expected, atol=1e-6)
    assert basis.lost < 1e-7


def test_tiny_patches_agree_with_svd():
    """12 numbers each: all directions are iterated, so the answer is exact."""
    patches = np.random.default_rng(1).integers(0, 3, (40, 2, 2)).astype(np.uint8)
    vectors = one_hot(patches, 3).astype(np.float64)
    _, values, rows = np.linalg.svd(vectors, full_matrices=False)
    assert values[4] - values[5] > 0.1
    basis = find_basis(patches, 3, 5)
    w = flat(basis.weight)
    np.testing.assert_allclose(w.T @ w, rows[:5].T @ rows[:5], atol=1e-5)
    assert basis.lost == pytest.approx((values[5:] ** 2).sum() / (values**2).sum(), abs=1e-6)
    for i in range(5):  # component by component, whatever the sign
        assert abs(w[i] @ rows[i]) == pytest.approx(1, abs=1e-4)


def test_larger_patches_lose_what_svd_loses():
    """320 numbers, 22 directions iterated."""
    patches = random_patches(500, 8, 5)
    vectors = one_hot(patches, 5).astype(np.float64)
    values = np.linalg.svd(vectors, compute_uv=False)
    basis = find_basis(patches, 5, 6)
    best = (values[6:] ** 2).sum() / (values**2).sum()
    assert best - 1e-6 < basis.lost < best + 1e-4
    w = flat(basis.weight)
    true = np.square(vectors - vectors @ w.T @ w).sum() / vectors.sum()
    assert basis.lost == pytest.approx(true, abs=1e-5)


@pytest.mark.parametrize(("r", "classes", "channels"), [(4, 5, 16), (8, 11, 64), (2, 3, 12)])
def test_rows_are_orthonormal(r, classes, channels):
    w = flat(find_basis(random_patches(300, r, classes), classes, channels).weight)
    np.testing.assert_allclose(w @ w.T, np.eye(channels), atol=2e-6)


def test_labels_of_low_rank_come_back_whole():
    """Three patterns lie in three dimensions; two dimensions lose one of them."""
    patterns = random_patches(3, 8, 6, seed=5)
    patches = patterns[np.random.default_rng(0).integers(0, 3, 60)]
    assert np.linalg.matrix_rank(one_hot(patches, 6)) == 3
    whole, less = find_basis(patches, 6, 3), find_basis(patches, 6, 2)
    assert whole.lost < 1e-6
    assert less.lost > 1e-3
    frame = patches[:12].reshape(3, 4, 8, 8).swapaxes(1, 2).reshape(24, 32)
    error, bound = measure(whole.weight, [frame])
    assert error < 1e-6
    assert bound == 100.0
    assert measure(less.weight, [frame])[1] < 100.0


def test_what_is_lost_by_pencil():
    """Pixels as patches: three of class 0, one of class 1, one channel. W keeps class 0.

    Class 1 comes back as zeros, a tie that goes to class 0: IoU 3/4 and 0.
    """
    labels = np.array([[0, 0], [0, 1]], np.uint8)
    basis = find_basis(cut(labels, 1), 2, 1)
    np.testing.assert_allclose(basis.weight.ravel(), [1, 0], atol=1e-6)
    assert basis.lost == pytest.approx(0.25)
    error, bound = measure(basis.weight, [labels])
    assert error == pytest.approx(0.25)
    assert bound == pytest.approx(37.5)


def test_cells_are_cut_row_by_row_without_those_that_lack_a_label():
    labels = np.arange(5 * 7, dtype=np.uint8).reshape(5, 7)
    labels[0, 2] = IGNORE
    patches = cut(labels, 2)  # a grid of 2 x 3 cells; the last row and column are no whole cell
    firsts = [(0, 0), (0, 4), (2, 0), (2, 2), (2, 4)]
    assert [tuple(np.argwhere(labels == p[0, 0])[0]) for p in patches] == firsts
    np.testing.assert_array_equal(patches[1], [[4, 5], [11, 12]])


def test_each_frame_gives_its_share():
    frames = [np.full((8, 8), i, np.uint8) for i in range(3)]
    frames[1][:, :6] = IGNORE
    patches = collect(frames, 2, 5, np.random.default_rng(0))
    assert np.bincount(patches[:, 0, 0]).tolist() == [5, 4, 5]
    assert collect([], 2, 5, np.random.default_rng(0)).shape == (0, 2, 2)


def test_shares_are_chosen_at_random_and_the_same_by_seed():
    frame = np.arange(64, dtype=np.uint8).reshape(8, 8)
    once, again, other = (collect([frame], 2, 3, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, other)


def test_the_same_patches_and_seed_give_the_same_basis():
    patches = random_patches(200, 4, 5)
    first, second = find_basis(patches, 5, 8, seed=3), find_basis(patches, 5, 8, seed=3)
    np.testing.assert_array_equal(first.weight, second.weight)
    other = find_basis(patches, 5, 8, seed=4)
    assert other.lost == pytest.approx(first.lost, abs=1e-4)


def test_too_few_patches():
    with pytest.raises(TrainingError) as refused:
        find_basis(random_patches(7, 4, 3), 3, 8)
    assert str(refused.value) == (
        "only 7 patches of 4x4 pixels are labelled throughout; DUpsampling needs at least 8, as "
        "many as it has channels. Give more or larger frames, or a smaller stride"
    )


def test_nothing_to_measure_is_nan():
    error, bound = measure(np.zeros((1, 2, 2, 2), np.float32), [np.full((4, 4), IGNORE, np.uint8)])
    assert np.isnan(error)
    assert np.isnan(bound)


def test_patches_of_32_pixels_and_19_classes_fit_in_memory():
    """Their covariance alone has 19,456 x 19,456 numbers: 1.5 GB."""
    patches = random_patches(2000, 32, 19)
    tracemalloc.start()
    try:
        basis = find_basis(patches, 19, 64)
        measure(basis.weight, [patches[0]])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert basis.weight.shape == (64, 19, 32, 32)
    assert basis.lost < 0.1
    assert peak < 200e6
