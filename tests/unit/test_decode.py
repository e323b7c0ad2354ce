"""Scores -> labels, against a computation pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeseg.bundle import OutputSpec
from edgeseg.errors import EngineError
from edgeseg.runtime.decode import bilinear, decode, deconvolution

pytestmark = pytest.mark.unit


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
    weight, bias = np.ones((3, 2, 2, 2), np.float32), np.zeros(2, np.float32)
    spec = OutputSpec("scores", 2, "deconvolution", 2)
    assert np.array_equal(decode(low, spec, weight, bias), deconvolution(low, weight, bias))


def test_what_is_refused():
    low = scores((1, 3, 2, 2))
    with pytest.raises(EngineError, match=r"needs its weight and bias \(decode.npz\)"):
        decode(low, OutputSpec("scores", 2, "deconvolution", 2))
    with pytest.raises(EngineError, match="unknown decode 'magic'; expected one of bilinear, dec"):
        decode(low, OutputSpec("scores", 2, "magic", 2))
