"""Scores -> labels, against a computation pixel by pixel."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg.bundle import OutputSpec
from edgeseg.errors import EngineError
from edgeseg.runtime import decode_numpy
from edgeseg.runtime.decode import Decoder, decode
from edgeseg.runtime.decode_numpy import AXES, corners, first_largest, half_pixel

pytestmark = pytest.mark.unit

FULL = 19 * 256 * 512 * 4
"""Bytes of full-size scores in test_no_full_size_scores_are_written."""


def bilinear(low: np.ndarray, factor: int, kind: str = "bilinear") -> np.ndarray:
    return decode_numpy.bilinear(low, factor, kind)[0]


def deconvolution(low: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return decode_numpy.deconvolution(low, weight, bias)[0]


def scores(shape: tuple[int, int, int, int], seed: int = 0) -> np.ndarray:
    """Whole numbers: the arithmetic of both sides is exact up to eighths."""
    return np.random.default_rng(seed).integers(-64, 64, shape).astype(np.float32)


def bilinear_by_hand(low: np.ndarray, factor: int) -> np.ndarray:
    n, classes, h, w = low.shape
    full = np.zeros((n, classes, h * factor, w * factor))
    for y in range(h * factor):
        for x in range(w * factor):
            cy = min(max((y + 0.5) / factor - 0.5, 0), h - 1)
            cx = min(max((x + 0.5) / factor - 0.5, 0), w - 1)
            y0, x0 = int(cy), int(cx)
            y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
            fy, fx = cy - y0, cx - x0
            full[:, :, y, x] = (
                low[:, :, y0, x0] * (1 - fy) * (1 - fx) + low[:, :, y0, x1] * (1 - fy) * fx
                + low[:, :, y1, x0] * fy * (1 - fx) + low[:, :, y1, x1] * fy * fx
            )  # fmt: skip
    return full.argmax(1)


@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 2, 4, 8]), st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_bilinear(h: int, w: int, factor: int, seed: int):
    low = scores((2, 3, h, w), seed)
    labels = bilinear(low, factor)
    assert labels.dtype == np.uint8
    assert labels.shape == (2, h * factor, w * factor)
    assert np.array_equal(labels, bilinear_by_hand(low, factor))


def test_bilinear_by_pencil():
    """Class 0 falls 4 -> 0, class 1 rises 1 -> 3; x2 puts centres at 0, 0.25, 0.75 and 1."""
    low = np.array([[[[4, 0]], [[1, 3]]]], np.float32)
    assert bilinear(low, 2)[0].tolist() == [[0, 0, 1, 1]] * 2


def test_corners_by_pencil():
    """Class 0 falls 6 -> 0, class 1 rises 1 -> 4; x2 reads 0, 1/3, 2/3, 1: 6 4 2 0, 1 2 3 4."""
    low = np.array([[[[6, 0]], [[1, 4]]]], np.float32)
    assert bilinear(low, 2, "bilinear_corners")[0].tolist() == [[0, 0, 1, 1]] * 2
    axis = corners(3, 2)  # positions 0, 2/5, 4/5, 6/5, 8/5, 2
    assert axis.low.tolist() == [0, 0, 0, 1, 1, 2]
    assert axis.high.tolist() == [1, 1, 1, 2, 2, 2]
    assert axis.share.tolist() == [0, 0.4, 0.8, 0.2, 0.6, 0]


def test_half_pixels_by_pencil():
    axis = half_pixel(2, 3)  # centres at -1/3, 0, 1/3, 2/3, 1, 4/3; the outer two on the edge
    assert axis.low.tolist() == [0, 0, 0, 0, 1, 1]
    assert axis.high.tolist() == [1, 1, 1, 1, 1, 1]
    assert axis.share.tolist() == [0, 0, 2 / 6, 4 / 6, 0, 0]


@pytest.mark.parametrize("kind", AXES)
def test_an_axis_of_one_cell(kind):
    axis = AXES[kind](1, 4)
    assert axis.low.tolist() == axis.high.tolist() == axis.share.tolist() == [0, 0, 0, 0]


@given(st.integers(1, 9), st.integers(1, 9))
def test_corners_are_exact_fractions(cells: int, factor: int):
    """Position i (n - 1) / (r n - 1) in whole numbers; the first and last cell are the corners."""
    axis = corners(cells, factor)
    pixels = cells * factor
    for i in range(pixels):
        exact = Fraction(i * (cells - 1), max(pixels - 1, 1))
        assert axis.low[i] == exact.numerator // exact.denominator
        assert axis.high[i] == min(axis.low[i] + 1, cells - 1)
        assert axis.share[i] == float(exact - int(axis.low[i]))
    assert (axis.low[0], axis.share[0]) == (0, 0)
    assert (axis.low[-1], axis.share[-1]) == ((cells - 1, 0) if pixels > 1 else (0, 0))


def corners_by_hand(low: np.ndarray, factor: int) -> np.ndarray:
    """(N, C, h r, w r) float64, one pixel at a time."""
    n, classes, h, w = low.shape
    full = np.zeros((n, classes, h * factor, w * factor))
    for y in range(h * factor):
        for x in range(w * factor):
            cy = y * (h - 1) / max(h * factor - 1, 1)
            cx = x * (w - 1) / max(w * factor - 1, 1)
            y0, x0 = int(cy), int(cx)
            y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
            fy, fx = cy - y0, cx - x0
            full[:, :, y, x] = (
                low[:, :, y0, x0] * (1 - fy) * (1 - fx) + low[:, :, y0, x1] * (1 - fy) * fx
                + low[:, :, y1, x0] * fy * (1 - fx) + low[:, :, y1, x1] * fy * fx
            )  # fmt: skip
    return full


@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 2, 3, 5]), st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_bilinear_corners(h: int, w: int, factor: int, seed: int):
    """The chosen class is the best one, or equal to it within the rounding of float32.

    Scores are below 64; two roundings of the shares and five of the products and sums lose less
    than 8 * 64 / 2**23.
    """
    low = scores((2, 3, h, w), seed)
    labels = bilinear(low, factor, "bilinear_corners")
    assert labels.dtype == np.uint8
    full = corners_by_hand(low, factor)
    assert labels.shape == (2, *full.shape[2:])
    chosen = np.take_along_axis(full, labels[:, None].astype(np.intp), 1)[:, 0]
    assert (full.max(1) - chosen).max() <= 8 * 64 / 2**23


@pytest.mark.parametrize("strip", [1, 100, 1 << 30])
@pytest.mark.parametrize("kind", [*AXES, "deconvolution"])
def test_strips_change_no_label(kind, strip, monkeypatch):
    low = np.random.default_rng(3).normal(size=(2, 7, 13, 9)).astype(np.float32)
    weight = np.random.default_rng(4).normal(size=(7, 5, 3, 3)).astype(np.float32)
    bias = np.arange(5, dtype=np.float32) / 5
    spec = OutputSpec("scores", 3, kind, 3)
    decoder = Decoder(spec, weight, bias, by="numpy")
    expected = decoder(low)
    assert len(np.unique(expected)) >= 5
    monkeypatch.setattr("edgeseg.runtime.decode_numpy.STRIP", strip)
    assert np.array_equal(decoder(low), expected)


def test_no_full_size_scores_are_written():
    """19 classes at 256x512 would be 10 MB of float32; strips need a quarter."""
    low = np.random.default_rng(0).normal(size=(1, 19, 64, 128)).astype(np.float32)
    weight = np.random.default_rng(1).normal(size=(19, 19, 4, 4)).astype(np.float32)
    for kind in (*AXES, "deconvolution"):
        bias = np.zeros(19, np.float32)
        decoder = Decoder(OutputSpec("scores", 4, kind, 4), weight, bias, by="numpy")
        tracemalloc.start()
        decoder(low)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < FULL / 4, kind


def test_first_largest_is_argmax():
    planes = np.random.default_rng(0).integers(0, 4, (255, 8, 8)).astype(np.float32)
    planes[254, 0, 0] = 9  # the largest index that uint8 labels hold beside IGNORE
    assert np.array_equal(first_largest(planes), planes.argmax(0))
    assert first_largest(planes)[0, 0] == 254


def test_ties_go_to_the_first_class():
    assert bilinear(np.zeros((1, 3, 2, 2), np.float32), 2).max() == 0
    low = np.array([[[[4, 0]], [[0, 4]]]], np.float32)
    assert bilinear(low, 1)[0].tolist() == [[0, 1]]


def deconvolution_by_hand(low: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    n, _, h, w = low.shape
    r = weight.shape[2]
    full = np.zeros((n, weight.shape[1], h * r, w * r))
    for y in range(h * r):
        for x in range(w * r):
            kernel = weight[:, :, y % r, x % r]
            full[:, :, y, x] = low[:, :, y // r, x // r] @ kernel + bias
    return full.argmax(1)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_deconvolution(h: int, w: int, r: int, seed: int):
    random = np.random.default_rng(seed)
    weight = random.integers(-4, 4, (5, 3, r, r)).astype(np.float32)
    bias = random.integers(-4, 4, 3).astype(np.float32)
    low = scores((2, 5, h, w), seed)
    labels = deconvolution(low, weight, bias)
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, deconvolution_by_hand(low, weight, bias))


def test_decode_takes_what_the_manifest_says():
    low = scores((1, 3, 2, 2))
    spec = OutputSpec("scores", 8, "bilinear", 8)
    assert np.array_equal(decode(low, spec), bilinear(low, 8))
    spec = OutputSpec("scores", 8, "bilinear_corners", 8)
    assert np.array_equal(decode(low, spec), bilinear(low, 8, "bilinear_corners"))
    weight, bias = np.ones((3, 2, 2, 2), np.float32), np.zeros(2, np.float32)
    spec = OutputSpec("scores", 2, "deconvolution", 2)
    assert np.array_equal(decode(low, spec, weight, bias), deconvolution(low, weight, bias))


def test_what_is_refused():
    low = scores((1, 3, 2, 2))
    with pytest.raises(EngineError, match=r"needs its weight and bias \(decode.npz\)"):
        decode(low, OutputSpec("scores", 2, "deconvolution", 2))
    with pytest.raises(EngineError, match="unknown decode 'magic'; expected one of bilinear, bil"):
        decode(low, OutputSpec("scores", 2, "magic", 2))
