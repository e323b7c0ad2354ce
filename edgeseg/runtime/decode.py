"""Scores at low resolution -> labels at full resolution: the last linear upsampling and argmax.

This numpy form is the specification. Scores are finite; ties go to the first class, like argmax.
Bilinear arithmetic is in the type of the scores, rows before columns:

    low * (1 - share) + high * share

where `share` is the exact fraction of the position, rounded once. The strips change no number.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from edgeseg.bundle import WEIGHTED, OutputSpec
from edgeseg.errors import EngineError

STRIP = 1 << 16
"""Full-size pixels (of one class) computed at a time: 256 KiB of float32 stay in the cache."""
LINE = 16
"""Numbers in a cache line. Rows of an odd number of lines are transposed several times faster than
those of a power of two, whose columns all fall on the same few places of the cache."""


@dataclass(frozen=True)
class Axis:
    """What each output pixel of one axis reads: cells `low` and `high`, and `share` of the second.

    All are (pixels,): the first two intp, the third float64.
    """

    low: np.ndarray
    high: np.ndarray
    share: np.ndarray


def decode(
    scores: np.ndarray,
    output: OutputSpec,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
) -> np.ndarray:
    """(N, C, h, w) float32 scores -> (N, h * factor, w * factor) uint8 labels."""
    if output.decode in AXES:
        return bilinear(scores, output.factor, output.decode)
    if output.decode in WEIGHTED:
        if weight is None or bias is None:
            raise EngineError(f"decode '{output.decode}' needs its weight and bias (decode.npz)")
        return deconvolution(scores, weight, bias)
    known = ", ".join((*AXES, *WEIGHTED))
    raise EngineError(f"unknown decode '{output.decode}'; expected one of {known}")


def half_pixel(cells: int, factor: int) -> Axis:
    """Centres on centres: pixel i reads (2 i + 1 - factor) / (2 factor), edges repeated."""
    position = 2 * np.arange(cells * factor, dtype=np.intp) + 1 - factor
    return _axis(position, 2 * factor, cells)


def corners(cells: int, factor: int) -> Axis:
    """Corners on corners: pixel i reads i (cells - 1) / (factor cells - 1)."""
    pixels = cells * factor
    return _axis(np.arange(pixels, dtype=np.intp) * (cells - 1), max(pixels - 1, 1), cells)


def _axis(position: np.ndarray, unit: int, cells: int) -> Axis:
    """Positions as whole multiples of 1 / unit -> cells and shares."""
    low, rest = np.divmod(np.clip(position, 0, (cells - 1) * unit), unit)
    return Axis(low, np.minimum(low + 1, cells - 1), rest / unit)


AXES = {"bilinear": half_pixel, "bilinear_corners": corners}


def bilinear(scores: np.ndarray, factor: int, kind: str = "bilinear") -> np.ndarray:
    """Bilinear upsampling, `kind` one of AXES, and argmax: (N, C, h, w) -> (N, h r, w r) uint8."""
    n, _, h, w = scores.shape
    rows, columns = AXES[kind](h, factor), AXES[kind](w, factor)
    labels = np.empty((n, h * factor, w * factor), np.uint8)
    step = max(1, STRIP // (w * factor))
    frames = np.pad(scores, ((0, 0), (0, 0), (0, 0), (0, (LINE - w) % (2 * LINE))))
    for start in range(0, h * factor, step):
        strip = slice(start, start + step)
        part = Axis(rows.low[strip], rows.high[strip], rows.share[strip])
        for frame, out in zip(frames, labels, strict=True):
            lines = (_interpolate(plane, part)[:, :w] for plane in frame)
            planes = (_interpolate(np.ascontiguousarray(x.T), columns) for x in lines)
            out[strip] = first_largest(planes).T
    return labels


def _interpolate(cells: np.ndarray, axis: Axis) -> np.ndarray:
    """(h, w) -> (len(axis.low), w). The rows that are taken are copied whole."""
    share = axis.share.astype(cells.dtype)[:, None]
    low, high = np.take(cells, axis.low, 0), np.take(cells, axis.high, 0)
    low *= 1 - share
    high *= share
    low += high
    return low


def first_largest(planes: Iterable[np.ndarray]) -> np.ndarray:
    """Planes of one class each, in order -> uint8 index of the largest, the first of equal ones."""
    rest = iter(planes)
    best = np.array(next(rest))
    labels = np.zeros(best.shape, np.uint8)
    for index, plane in enumerate(rest, start=1):
        better = (plane > best).view(np.uint8)
        better *= np.uint8(index)
        np.maximum(labels, better, out=labels)  # indices grow, so the larger is the newer
        np.maximum(best, plane, out=best)
    return labels


def deconvolution(scores: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Transposed convolution with kernel = stride = r, and argmax.

    `weight` is (C, classes, r, r), `bias` (classes,). Output pixels of different kernel positions
    do not overlap, so argmax comes before they are interleaved: r label planes at a time, no
    full-size scores.
    """
    n, channels, h, w = scores.shape
    classes, r = weight.shape[1], weight.shape[2]
    labels = np.empty((n, h, r, w, r), np.uint8)
    step = max(1, 4 * STRIP // (classes * r * w))
    for dy in range(r):
        kernel = np.ascontiguousarray(weight[:, :, dy].reshape(channels, classes * r).T)
        for start in range(0, h, step):
            cells = scores[:, :, start : start + step].reshape(n, channels, -1)
            full = (kernel @ cells).reshape(n, classes, r, -1, w)
            full += bias.reshape(-1, 1, 1, 1)
            index = first_largest(full.swapaxes(0, 1))  # (N, r, rows, w)
            labels[:, start : start + step, dy] = index.transpose(0, 2, 3, 1)
    return labels.reshape(n, h * r, w * r)
