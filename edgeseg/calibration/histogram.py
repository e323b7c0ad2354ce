"""A streaming histogram whose result does not depend on order or batch size, in constant memory."""

from __future__ import annotations

import math

import numpy as np

BINS = 2048
"""Bins on each side of zero."""
SMALLEST = 2.0**-60
"""A smaller extent has no bins of its own."""


class Histogram:
    """Counts of values in 2 * BINS equal bins over [-2**exponent, 2**exponent).

    When a value lies outside, the exponent grows and neighbouring bins are merged; bins are aligned
    at zero, so the counts at the end are the same whatever came first.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(2 * BINS, np.int64)
        self.exponent: int | None = None
        self.low = np.inf
        self.high = -np.inf

    def add(self, values: np.ndarray) -> None:
        """Count all values of an array of any shape; nan and infinity are a ValueError."""
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        if not np.isfinite([low, high]).all():
            raise ValueError("holds nan or infinity")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._grow(max(abs(low), abs(high)))
        assert self.exponent is not None
        # Scaling by a power of two and rounding down are exact; so is adding whole numbers.
        bins = np.floor(values.ravel() * np.float32(BINS * 2.0**-self.exponent)) + np.float32(BINS)
        self.counts += np.bincount(bins.astype(np.int32), minlength=2 * BINS)

    def _grow(self, extent: float) -> None:
        needed = math.frexp(max(extent, SMALLEST))[1]
        if self.exponent is None:
            self.exponent = needed
        for _ in range(needed - self.exponent):
            merged = self.counts.reshape(-1, 2).sum(1)
            self.counts[:] = 0
            self.counts[BINS // 2 : BINS // 2 + BINS] = merged
        self.exponent = max(self.exponent, needed)

    def magnitudes(self) -> tuple[np.ndarray, np.ndarray]:
        """(BINS,) centres and counts of |value|, float64 and int64."""
        width = 2.0 ** (self.exponent or 0) / BINS
        centres = (np.arange(BINS) + 0.5) * width
        return centres, self.counts[BINS:] + self.counts[:BINS][::-1]
