"""Scores at low resolution -> labels at full resolution: the last linear upsampling and argmax.

This numpy form is the specification. Ties go to the first class, like argmax.
"""

from __future__ import annotations

import numpy as np

from edgeseg.bundle import WEIGHTED, OutputSpec
from edgeseg.errors import EngineError


def decode(
    scores: np.ndarray,
    output: OutputSpec,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
) -> np.ndarray:
    """(N, C, h, w) float32 scores -> (N, h * factor, w * factor) uint8 labels."""
    if output.decode == "bilinear":
        return bilinear(scores, output.factor)
    if output.decode in WEIGHTED:
        if weight is None or bias is None:
            raise EngineError(f"decode '{output.decode}' needs its weight and bias (decode.npz)")
        return deconvolution(scores, weight, bias)
    known = ", ".join(("bilinear", *WEIGHTED))
    raise EngineError(f"unknown decode '{output.decode}'; expected one of {known}")


def bilinear(scores: np.ndarray, factor: int) -> np.ndarray:
    """Bilinear upsampling (half-pixel centres, edges repeated) and argmax."""
    for axis in (2, 3):
        size = scores.shape[axis]
        centres = np.clip((np.arange(size * factor) + 0.5) / factor - 0.5, 0, size - 1)
        low = np.floor(centres).astype(np.intp)
        high = np.minimum(low + 1, size - 1)
        shape = [1, 1, 1, 1]
        shape[axis] = -1
        share = (centres - low).astype(scores.dtype).reshape(shape)
        scores = np.take(scores, low, axis) * (1 - share) + np.take(scores, high, axis) * share
    labels: np.ndarray = scores.argmax(1).astype(np.uint8)
    return labels


def deconvolution(scores: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Transposed convolution with kernel = stride = r, and argmax.

    `weight` is (C, classes, r, r), `bias` (classes,). Output pixels of different kernel positions
    do not overlap, so argmax comes before they are interleaved: r * r label planes, no full-size
    scores.
    """
    n, channels, h, w = scores.shape
    classes, r = weight.shape[1], weight.shape[2]
    labels = np.empty((n, h, r, w, r), np.uint8)
    flat = scores.reshape(n, channels, h * w)
    for dy in range(r):
        for dx in range(r):
            kernel = np.ascontiguousarray(weight[:, :, dy, dx].T)
            full = kernel @ flat + bias.reshape(1, classes, 1)
            labels[:, :, dy, :, dx] = full.argmax(1).astype(np.uint8).reshape(n, h, w)
    return labels.reshape(n, h * r, w * r)
