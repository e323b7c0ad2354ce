"""Scores at low resolution -> labels at full resolution, in numpy: the specification.

decode.c computes the same labels, faster. The rules that both follow:

- Scores are taken as float32: float16, bfloat16 and int8 are converted, exactly.
- Ties go to the first class, like argmax.
- NaN counts as minus infinity: a class whose score is NaN is not chosen while another class has
  a score above minus infinity. Where no class has one, the label is 0.
- Bilinear arithmetic, rows before columns: `low * (1 - share) + high * share`, where `share` is the
  exact fraction of the position, rounded once. Infinite scores follow it too: 0 times infinity is
  NaN. Labels of decode.c are equal bit by bit.
- Sums of a deconvolution are in any order here, and in a fixed order in decode.c: a label may
  differ where two classes are equal within the rounding of float32.

The strips change no number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from edgeseg.errors import EngineError

STRIP = 1 << 16
"""Full-size pixels (of one class) computed at a time: 256 KiB of float32 stay in the cache."""
LINE = 16
"""Numbers in a cache line. Rows of an odd number of lines are transposed several times faster than
those of a power of two, whose columns all fall on the same few places of the cache."""

MEASURES = ("softmax", "margin")
"""Confidence of a label, 0 to 255: its softmax, or that less the softmax of the second class."""

Labels = tuple[np.ndarray, np.ndarray | None]
"""Labels and, if asked for, their confidence; both uint8 and of one shape."""


@dataclass(frozen=True)
class Axis:
    """What each output pixel of one axis reads: cells `low` and `high`, and `share` of the second.

    All are (pixels,): the first two intp, the third float64.
    """

    low: np.ndarray
    high: np.ndarray
    share: np.ndarray


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


def floats(scores: np.ndarray) -> np.ndarray:
    """Scores of any type that decode takes -> float32. uint16 are the bits of bfloat16."""
    if scores.dtype == np.uint16:
        return (scores.astype(np.uint32) << 16).view(np.float32)
    if scores.dtype not in (np.float32, np.float16, np.int8):
        raise EngineError(
            f"scores are {scores.dtype}; expected float32, float16, int8, or uint16 that hold the "
            "bits of bfloat16"
        )
    return scores.astype(np.float32, copy=False)


def bilinear(
    scores: np.ndarray, factor: int, kind: str = "bilinear", measure: str | None = None
) -> Labels:
    """Bilinear upsampling, `kind` one of AXES, and argmax: (N, C, h, w) -> (N, h r, w r) uint8."""
    n, _, h, w = scores.shape
    rows, columns = AXES[kind](h, factor), AXES[kind](w, factor)
    labels, sure = _empty((n, h * factor, w * factor), measure)
    step = max(1, STRIP // (w * factor))
    cells = np.pad(floats(scores), ((0, 0), (0, 0), (0, 0), (0, (LINE - w) % (2 * LINE))))
    for start in range(0, h * factor, step):
        strip = slice(start, start + step)
        part = Axis(rows.low[strip], rows.high[strip], rows.share[strip])
        for i, frame in enumerate(cells):
            lines = (_interpolate(plane, part)[:, :w] for plane in frame)
            planes = (_interpolate(np.ascontiguousarray(x.T), columns) for x in lines)
            best, confidence = winners(planes, measure)
            labels[i, strip] = best.T
            if sure is not None and confidence is not None:
                sure[i, strip] = confidence.T
    return labels, sure


def _interpolate(cells: np.ndarray, axis: Axis) -> np.ndarray:
    """(h, w) -> (len(axis.low), w). The rows that are taken are copied whole."""
    share = axis.share.astype(cells.dtype)[:, None]
    low, high = np.take(cells, axis.low, 0), np.take(cells, axis.high, 0)
    with np.errstate(invalid="ignore", over="ignore"):
        low *= 1 - share
        high *= share
        low += high
    return low


def _empty(shape: tuple[int, ...], measure: str | None) -> Labels:
    return np.empty(shape, np.uint8), None if measure is None else np.empty(shape, np.uint8)


def winners(planes: Iterable[np.ndarray], measure: str | None = None) -> Labels:
    """Planes of one class each, in order -> uint8 index of the largest, and its confidence."""
    if measure is None:
        return first_largest(planes), None
    full = np.stack(list(planes))
    labels = first_largest(full)
    return labels, confidence_of(full, labels, measure)


def first_largest(planes: Iterable[np.ndarray]) -> np.ndarray:
    """Planes of one class each, in order -> uint8 index of the largest, the first of equal ones."""
    best = labels = None
    for index, plane in enumerate(planes):
        if best is None or labels is None:
            best, labels = (
                np.full(plane.shape, -np.inf, np.float32),
                np.zeros(plane.shape, np.uint8),
            )
        better = (plane > best).view(np.uint8)
        better *= np.uint8(index)
        np.maximum(labels, better, out=labels)  # indices grow, so the larger is the newer
        np.fmax(best, plane, out=best)
    if labels is None:
        raise EngineError("scores have no class")
    return labels


def confidence_of(full: np.ndarray, labels: np.ndarray, measure: str) -> np.ndarray:
    """(classes, ...) scores and (...) labels -> (...) uint8, 255 times `measure`, rounded.

    A class whose score is NaN or not comparable (infinity beside infinity) adds nothing; where no
    class has a score above minus infinity the confidence is 0.
    """
    chosen = labels[None].astype(np.intp)
    best = np.take_along_axis(full, chosen, 0)
    with np.errstate(invalid="ignore", over="ignore"):
        others = np.nan_to_num(np.exp(full - best), nan=0.0)
    np.put_along_axis(others, chosen, 0, 0)
    top = 1 - others.max(0) if measure == "margin" else 1
    share = np.where(best[0] > -np.inf, top / (1 + others.sum(0)), 0)
    return np.floor(255 * share + 0.5).astype(np.uint8)


def deconvolution(
    scores: np.ndarray, weight: np.ndarray, bias: np.ndarray, measure: str | None = None
) -> Labels:
    """Transposed convolution with kernel = stride = r, and argmax.

    `weight` is (C, classes, r, r), `bias` (classes,). Output pixels of different kernel positions
    do not overlap, so argmax comes before they are interleaved: r label planes at a time, no
    full-size scores.
    """
    n, channels, h, w = scores.shape
    classes, r = weight.shape[1], weight.shape[2]
    labels, sure = _empty((n, h, r, w, r), measure)
    step = max(1, 4 * STRIP // (classes * r * w))
    for dy in range(r):
        kernel = np.ascontiguousarray(weight[:, :, dy].reshape(channels, classes * r).T)
        for start in range(0, h, step):
            part = slice(start, start + step)
            cells = floats(scores[:, :, part]).reshape(n, channels, -1)
            with np.errstate(invalid="ignore", over="ignore"):
                full = (kernel @ cells).reshape(n, classes, r, -1, w)
                full += bias.reshape(-1, 1, 1, 1)
            best, confidence = winners(full.swapaxes(0, 1), measure)  # (N, r, rows, w)
            labels[:, part, dy] = best.transpose(0, 2, 3, 1)
            if sure is not None and confidence is not None:
                sure[:, part, dy] = confidence.transpose(0, 2, 3, 1)
    shape = (n, h * r, w * r)
    return labels.reshape(shape), None if sure is None else sure.reshape(shape)


def pixel_shuffle(scores: np.ndarray, factor: int, measure: str | None = None) -> Labels:
    """(N, classes r r, h, w) -> argmax -> (N, h r, w r) uint8.

    Channel (c r + dy) r + dx holds class c at row dy and column dx of each cell.
    """
    n, channels, h, w = scores.shape
    r = factor
    labels, sure = _empty((n, h, r, w, r), measure)
    for dy, dx in np.ndindex(r, r):
        planes: Iterator[np.ndarray] = (
            floats(scores[:, c]) for c in range(dy * r + dx, channels, r * r)
        )
        best, confidence = winners(planes, measure)
        labels[:, :, dy, :, dx] = best
        if sure is not None:
            sure[:, :, dy, :, dx] = confidence
    shape = (n, h * r, w * r)
    return labels.reshape(shape), None if sure is None else sure.reshape(shape)
