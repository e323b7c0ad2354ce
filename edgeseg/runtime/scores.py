"""Scores at low resolution -> scores at full resolution: decode's upsampling without its argmax."""

from __future__ import annotations

import numpy as np

from edgeseg.bundle import OutputSpec
from edgeseg.runtime.decode_numpy import AXES, Axis, floats


def upsample(
    scores: np.ndarray,
    output: OutputSpec,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
) -> np.ndarray:
    """(C, h, w) scores of one frame -> (classes, h * factor, w * factor) float32.

    `weight` (C, classes, r, r) and `bias` (classes,) belong to "deconvolution" and "dupsample".
    """
    cells = floats(scores)
    channels, h, w = cells.shape
    if output.decode in AXES:
        rows, columns = (AXES[output.decode](side, output.factor) for side in (h, w))
        tall = _between(cells, rows, 1)
        return _between(tall, columns, 2)
    if weight is not None and bias is not None:
        classes, r = weight.shape[1], weight.shape[2]
        flat = weight.astype(np.float32).reshape(channels, -1).T @ cells.reshape(channels, -1)
        places = flat.reshape(classes, r, r, h, w) + bias[:, None, None, None, None]
    else:
        r = output.factor
        places = cells.reshape(-1, r, r, h, w)
    full = places.transpose(0, 3, 1, 4, 2).reshape(-1, h * r, w * r)
    return np.ascontiguousarray(full, np.float32)


def _between(cells: np.ndarray, along: Axis, axis: int) -> np.ndarray:
    """Mixed along one axis, as decode does it: low * (1 - share) + high * share."""
    shape = [1, 1, 1]
    shape[axis] = len(along.share)
    share = along.share.astype(np.float32).reshape(shape)
    low, high = np.take(cells, along.low, axis), np.take(cells, along.high, axis)
    low *= 1 - share
    high *= share
    low += high
    return low
