"""lattice.c through ctypes; it is compiled into the library of decode.c. Arrays as in crf_numpy."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeseg.errors import EngineError
from edgeseg.runtime import decode_native
from edgeseg.runtime.crf_numpy import Lattice

FOUR = 4
"""Channels come in groups of this many."""


@dataclass(frozen=True)
class NativeLattice(Lattice):
    """Also turned round: the pixels around vertex v are `members[starts[v] : starts[v + 1]]`.

    `parts` float32 are their shares; `starts` is (vertices + 1,) int64 and `members` int32, in the
    order of pixels. `threads` share the work of its filter; `rooms` is what a call works in.
    """

    starts: np.ndarray
    members: np.ndarray
    parts: np.ndarray
    threads: int = 1
    rooms: dict[int, np.ndarray] = field(default_factory=dict)


def lattice(features: np.ndarray, threads: int = 1) -> NativeLattice:
    """(pixels, d) float32 features, in units of their sigma -> where they lie."""
    features = np.ascontiguousarray(features, np.float32)
    pixels, d = features.shape
    corners, members = np.empty((pixels, d + 1), np.int32), np.empty(pixels * (d + 1), np.int32)
    shares, parts = np.empty((pixels, d + 1), np.float32), np.empty(members.shape, np.float32)
    neighbours = np.empty(pixels * (d + 1) * (d + 1) * 2, np.int32)
    starts = np.empty(pixels * (d + 1) + 1, np.int64)
    make = _library().edgeseg_lattice
    make.restype = ctypes.c_int64
    count: int = make(
        _at(features), ctypes.c_int64(pixels), ctypes.c_int32(d), ctypes.c_int32(threads),
        _at(corners), _at(shares), _at(neighbours), _at(starts), _at(members), _at(parts),
    )  # fmt: skip
    _check(count)
    # What was not written is given back.
    joined = neighbours[: (d + 1) * count * 2].reshape(d + 1, count, 2).copy()
    begin = starts[: count + 1].copy()
    return NativeLattice(corners, shares, joined, begin, members, parts, threads)


def lattice_filter(
    on: Lattice, values: np.ndarray, norm: np.ndarray, weight: float, sums: np.ndarray
) -> None:
    """Add to `sums` what each pixel gets by a lattice's kernel: splat, blur and slice."""
    assert isinstance(on, NativeLattice), "a lattice is filtered where it was made"
    pixels, channels = _checked(values, norm, sums)
    if channels not in on.rooms:
        on.rooms[channels] = np.empty((2, on.vertices + 1, channels), np.float32)
    failed = _library().edgeseg_lattice_filter(
        _at(on.corners), _at(on.shares), _at(on.neighbours), _at(on.starts), _at(on.members),
        _at(on.parts), ctypes.c_int64(pixels), ctypes.c_int64(on.vertices),
        ctypes.c_int32(on.corners.shape[1] - 1), ctypes.c_int32(channels),
        ctypes.c_int32(on.threads), _at(on.rooms[channels]),
        _at(values), _at(norm), ctypes.c_float(weight), _at(sums),
    )  # fmt: skip
    _check(failed)


def gauss_filter(
    taps: np.ndarray,
    size: tuple[int, int],
    values: np.ndarray,
    norm: np.ndarray,
    weight: float,
    sums: np.ndarray,
    threads: int = 1,
) -> None:
    """Add to `sums` what each pixel gets by a Gaussian over positions."""
    _, channels = _checked(values, norm, sums)
    failed = _library().edgeseg_gauss_filter(
        _at(taps), ctypes.c_int32(len(taps) - 1), ctypes.c_int64(size[0]), ctypes.c_int64(size[1]),
        ctypes.c_int32(channels), ctypes.c_int32(threads), _at(values), _at(norm),
        ctypes.c_float(weight), _at(sums),
    )  # fmt: skip
    _check(failed)


def softmax(values: np.ndarray, threads: int = 1) -> None:
    """(pixels, channels) float32 -> the softmax of each pixel, in place."""
    pixels, channels = values.shape
    failed = _library().edgeseg_softmax(
        _at(values), ctypes.c_int64(pixels), ctypes.c_int32(channels), ctypes.c_int32(threads)
    )
    _check(failed)


def _library() -> Any:
    opened = decode_native.library()
    assert opened is not None, "crf.by() names it only where there is a library"
    return opened


def _checked(values: np.ndarray, norm: np.ndarray, sums: np.ndarray) -> tuple[int, int]:
    """(pixels, channels) of arrays as lattice.c reads them."""
    arrays = (values, norm, sums)
    assert all(a.dtype == np.float32 and a.flags.c_contiguous for a in arrays), "float32, in order"
    pixels, channels = values.shape
    assert sums.shape == values.shape and norm.shape == (pixels,) and channels % FOUR == 0
    return pixels, channels


def _check(answer: int) -> None:
    if answer < 0:
        raise EngineError("dense CRF: no memory for the lattice; take a smaller input size")


def _at(array: np.ndarray) -> ctypes.c_void_p:
    """The address of an array's first number."""
    return ctypes.c_void_p(array.__array_interface__["data"][0])
