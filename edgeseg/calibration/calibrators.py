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


def entropy(histogram: Histogram) -> float:
    """The magnitude whose 128 levels lose the least information (Migacz 2017, GTC S7310).

    Kullback-Leibler divergence from the values, clipped ones counted at the end of the range, to
    the values as the levels tell them: each level's count spread over its bins that are not empty.
    """
    centres, counts = histogram.magnitudes()
    top = minmax(histogram)
    if top == 0:
        return 0.0
    width = centres[1] - centres[0]
    last = min(int(top / width) + 1, len(counts))
    ends = np.unique(np.linspace(min(LEVELS + 1, last), last, SEARCHED).round().astype(int))
    divergences = [_divergence(counts, int(end)) for end in ends]
    # Of equals the widest: what clips nothing loses nothing.
    best = len(ends) - 1 - int(np.argmin(divergences[::-1]))
    return float(min(ends[best] * width, top))


SEARCHED = 241
"""Ranges that `entropy` compares."""
ABSENT = 1e-4
"""Counts of a bin that the levels hold to be empty, so that its divergence is finite."""


def _divergence(counts: np.ndarray, end: int) -> float:
    """KL divergence of the first `end` bins, with all that lies beyond, from their 128 levels."""
    clipped = counts[:end].astype(np.float64)
    filled = clipped > 0
    level = np.arange(end) * (LEVELS + 1) // end
    share = np.bincount(level, clipped) / np.maximum(np.bincount(level, filled), 1)
    told = np.where(filled, share[level], ABSENT)
    clipped[-1] += counts[end:].sum()
    seen = clipped > 0
    p, q = clipped[seen] / clipped.sum(), told[seen] / told[seen].sum()
    return float(np.sum(p * np.log(p / q)))


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
    "entropy": entropy,
    "mse": mse,
}
AUTO = "auto"
"""Not a calibrator: the one of them that loses least, tensor by tensor (calibration/choose.py)."""
CHOICES = (*METHODS, AUTO)


def method(name: str) -> Callable[[Histogram], float]:
    """The calibrator of that name."""
    if name not in METHODS:
        raise UsageError(f"unknown calibration method '{name}'.{guess(name, CHOICES)}")
    return METHODS[name]
