"""The filters of the dense CRF in numpy: the specification. lattice.c computes the same, faster.

Both sum over every pair of pixels, a pixel with itself included, as Krähenbühl's code does (the
paper leaves that pair out). A kernel's `norm` makes it symmetric: what a pixel gets is
`norm[i] * sum over j of k(i, j) norm[j] values[j]`, with norm = 1 / sqrt(sum over j of k(i, j)).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgeseg.errors import UsageError

REACH = 4
"""Sigmas after which a Gaussian over positions ends: what is beyond is below 1/2900 of its peak."""


@dataclass(frozen=True)
class Lattice:
    """Pixels on the permutohedral lattice (Adams, Baek and Davis 2010), of d axes.

    `corners` (pixels, d + 1) int32 are the vertices around each pixel and `shares` float32 how it
    is spread over them; `neighbours` (d + 1, vertices, 2) int32 are the vertices before and behind
    each along each axis, `vertices` where there is none.
    """

    corners: np.ndarray
    shares: np.ndarray
    neighbours: np.ndarray

    @property
    def vertices(self) -> int:
        """How many vertices some pixel lies near."""
        return int(self.neighbours.shape[1])


def lattice(features: np.ndarray, threads: int = 1) -> Lattice:
    """(pixels, d) float32 features, in units of their sigma -> where they lie.

    `threads`, here and below, are those of lattice.c; numpy has its own.

    The features are turned onto the plane of d + 1 coordinates that sum up to zero (section 3.1),
    so far apart that splat, blur and slice together are a Gaussian of sigma 1.
    """
    pixels, d = features.shape
    base, rank, rest = _base(_elevated(features), d)
    shares = np.zeros((pixels, d + 2))
    part = rest / (d + 1)
    rows = np.arange(pixels)[:, None]
    shares[rows, d - rank] += part
    shares[rows, d + 1 - rank] -= part
    shares[:, 0] += 1 + shares[:, d + 1]
    steps = np.arange(d + 1)[None, :, None]
    back = (d + 1) * (rank[:, None, :d] > d - steps)
    numbers, strides = _numbers((base[:, None, :d] + steps - back).reshape(-1, d))
    vertices, corners = np.unique(numbers, return_inverse=True)
    return Lattice(
        corners.reshape(pixels, d + 1).astype(np.int32),
        shares[:, : d + 1].astype(np.float32),
        _neighbours(vertices, strides),
    )


def _elevated(features: np.ndarray) -> np.ndarray:
    """(pixels, d) -> (pixels, d + 1) float64 that sum up to zero."""
    d = features.shape[1]
    axis = np.arange(d)
    scaled = features * ((d + 1) * np.sqrt(2 / 3) / np.sqrt((axis + 1.0) * (axis + 2.0)))
    behind = np.cumsum(scaled[:, ::-1], 1)[:, ::-1]
    high = np.empty((len(features), d + 1))
    high[:, 0] = behind[:, 0]
    high[:, 1:] = -scaled * (axis + 1)
    high[:, 1:d] += behind[:, 1:]
    return high


def _base(high: np.ndarray, d: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The nearest vertex of remainder 0, the rank of each rest (0: the largest), and the rests."""
    step = np.floor(high / (d + 1) + 0.5).astype(np.int64)
    base = step * (d + 1)
    order = np.argsort(base - high, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(d + 1), order.shape), 1)
    rank += step.sum(1, keepdims=True)
    turn = (d + 1) * ((rank < 0).astype(np.int64) - (rank > d))
    base += turn
    return base, rank + turn, high - base


def _numbers(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, d) coordinates -> one number each, and how far apart numbers are along each axis.

    There is room for the neighbours of every vertex, so that a number is one vertex's alone.
    """
    d = keys.shape[1]
    low, high = keys.min(0) - d, keys.max(0) + d
    spans = [int(span) + 1 for span in high - low]
    if math.prod(spans) >= 1 << 62:
        raise UsageError(
            "CRF: the sigmas are so small that numpy can't number the lattice; take larger ones, "
            "or install edgeseg with a C compiler"
        )
    strides = np.array([math.prod(spans[i + 1 :]) for i in range(d)], np.int64)
    return (keys - low) @ strides, strides


def _neighbours(vertices: np.ndarray, strides: np.ndarray) -> np.ndarray:
    """Numbers of vertices, in order -> (d + 1, vertices, 2) int32."""
    count, d = len(vertices), len(strides)
    found = np.empty((d + 1, count, 2), np.int32)
    for axis in range(d + 1):
        step = int(strides.sum()) - (int((d + 1) * strides[axis]) if axis < d else 0)
        for side, moved in enumerate((vertices - step, vertices + step)):
            at = np.minimum(np.searchsorted(vertices, moved), count - 1)
            found[axis, :, side] = np.where(vertices[at] == moved, at, count)
    return found


def lattice_filter(
    on: Lattice, values: np.ndarray, norm: np.ndarray, weight: float, sums: np.ndarray
) -> None:
    """Add to `sums` what each pixel gets by a lattice's kernel: splat, blur and slice.

    `values` and `sums` are (pixels, channels) float32, `norm` (pixels,).
    """
    count = on.vertices
    held = np.zeros((count + 1, values.shape[1]), np.float32)
    scaled = values * norm[:, None]
    for corner, share in zip(on.corners.T, on.shares.T, strict=True):
        for channel in range(values.shape[1]):
            held[:, channel] += np.bincount(corner, share * scaled[:, channel], count + 1)
    for before, behind in on.neighbours.transpose(0, 2, 1):
        held[:count] = 0.5 * held[:count] + 0.25 * (held[before] + held[behind])
    got = np.zeros_like(values)
    for corner, share in zip(on.corners.T, on.shares.T, strict=True):
        got += share[:, None] * held[corner]
    sums += np.float32(weight) * norm[:, None] * got


def gauss_taps(sigma: float) -> np.ndarray:
    """(radius + 1,) float32 weights of pixels that far away, up to REACH sigmas."""
    away = np.arange(int(np.ceil(REACH * sigma)) + 1)
    return np.exp(-0.5 * (away / sigma) ** 2).astype(np.float32)


def gauss_filter(
    taps: np.ndarray,
    size: tuple[int, int],
    values: np.ndarray,
    norm: np.ndarray,
    weight: float,
    sums: np.ndarray,
    threads: int = 1,
) -> None:
    """Add to `sums` what each pixel gets by a Gaussian over positions; arrays as above."""
    height, width = size
    image = (values * norm[:, None]).reshape(height, width, -1)
    mixed = _mixed(image.swapaxes(0, 1), taps)
    got = _mixed(mixed.swapaxes(0, 1), taps)
    sums += np.float32(weight) * norm[:, None] * got.reshape(values.shape)


def _mixed(lines: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """(a, b, channels), filtered along b."""
    mixed: np.ndarray = lines * taps[0]
    for away, tap in enumerate(taps[1:].tolist(), start=1):
        mixed[:, away:] += tap * lines[:, :-away]
        mixed[:, :-away] += tap * lines[:, away:]
    return mixed


def softmax(values: np.ndarray, threads: int = 1) -> None:
    """(pixels, channels) float32 -> the softmax of each pixel, in place."""
    values -= values.max(1, keepdims=True)
    np.exp(values, out=values)
    values /= values.sum(1, keepdims=True)
