"""Histogram -> largest magnitude that INT8 shall hold. What lies beyond is clipped.

All are symmetric: scale = magnitude / 127, zero point 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgeseg.calibration.histogram import Histogram
from edgeseg.errors import UsageError, guess

LEVELS = 127
PERCENTILE = 99.99


def minmax(histogram: Histogram) -> float:
    """The largest magnitude seen: nothing is clipped."""
    return max(abs(histogram.low), abs(histogram.high))


def percentile(histogram: Histogram, share: float = PERCENTILE) -> float:
    """The magnitude below which `share` percent of the values lie."""
    centres, counts = histogram.magnitudes()
    below = np.cumsum(counts)
    index = int(np.searchsorted(below, below[-1] * share / 100.0))
    width = centres[1] - centres[0]
    return float(min(centres[min(index, len(centres) - 1)] + width / 2, minmax(histogram)))


def mse(histogram: Histogram) -> float:
    """The magnitude with the least mean squared error of rounding and clipping."""
    return _least(histogram, _squared_error)


Error = Callable[[np.ndarray, np.ndarray, float], float]


def _least(histogram: Histogram, error: Error) -> float:
    centres, counts = histogram.magnitudes()
    top = minmax(histogram)
    if top == 0:
        return 0.0
    candidates = top * np.linspace(0.05, 1.0, 191)
    errors = [error(centres, counts, float(c)) for c in candidates]
    return float(candidates[int(np.argmin(errors))])


def _squared_error(centres: np.ndarray, counts: np.ndarray, top: float) -> float:
    scale = top / LEVELS
    rounded = np.minimum(np.round(centres / scale), LEVELS) * scale
    width = centres[1] - centres[0]
    inside = np.minimum(width, scale) ** 2 / 12.0 * (width > scale)
    return float(np.sum(counts * ((rounded - centres) ** 2 + inside)))


METHODS: dict[str, Callable[[Histogram], float]] = {
    "minmax": minmax,
    "percentile": percentile,
    "mse": mse,
}


def method(name: str) -> Callable[[Histogram], float]:
    """The calibrator of that name."""
    if name not in METHODS:
        raise UsageError(f"unknown calibration method '{name}'.{guess(name, METHODS)}")
    return METHODS[name]
