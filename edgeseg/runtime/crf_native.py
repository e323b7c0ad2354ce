"""lattice.c through ctypes; it is compiled into the library of decode.c. Arrays as in crf_numpy."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from edgeseg.errors import EngineError
from edgeseg.runtime import decode_native
from edgeseg.runtime.crf_numpy import Lattice

FOUR = 4
"""Channels come in groups of this many."""


def lattice(features: np.ndarray) -> Lattice:
    """(pixels, d) float32 features, in units of their sigma -> where they lie."""
    features = np.ascontiguousarray(features, np.float32)
    pixels, d = features.shape
    corners = np.empty((pixels, d + 1), np.int32)
    shares = np.empty((pixels, d + 1), np.float32)
    neighbours = np.empty(pixels * (d + 1) * (d + 1) * 2, np.int32)
    make = _library().edgeseg_lattice
    make.restype = ctypes.c_int64
    count: int = make(
        _at(features), ctypes.c_int64(pixels), ctypes.c_int32(d),
        _at(corners), _at(shares), _at(neighbours),
    )  # fmt: skip
    _check(count)
    # What was not written is given back.
    joined = neighbours[: (d + 1) * count * 2].reshape(d + 1, count, 2).copy()
    return Lattice(corners, shares, joined)


def lattice_filter(
    on: Lattice, values: np.ndarray, norm: np.ndarray, weight: float, sums: np.ndarray
) -> None:
    """Add to `sums` what each pixel gets by a lattice's kernel: splat, blur and slice."""
    pixels, channels = _checked(values, norm, sums)
    failed = _library().edgeseg_lattice_filter(
        _at(on.corners), _at(on.shares), _at(on.neighbours),
        ctypes.c_int64(pixels), ctypes.c_int64(on.vertices),
        ctypes.c_int32(on.corners.shape[1] - 1), ctypes.c_int32(channels),
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
) -> None:
    """Add to `sums` what each pixel gets by a Gaussian over positions."""
    _, channels = _checked(values, norm, sums)
    failed = _library().edgeseg_gauss_filter(
        _at(taps), ctypes.c_int32(len(taps) - 1), ctypes.c_int64(size[0]), ctypes.c_int64(size[1]),
        ctypes.c_int32(channels), _at(values), _at(norm), ctypes.c_float(weight), _at(sums),
    )  # fmt: skip
    _check(failed)


def softmax(values: np.ndarray) -> None:
    """(pixels, channels) float32 -> the softmax of each pixel, in place."""
    pixels, channels = values.shape
    _library().edgeseg_softmax(_at(values), ctypes.c_int64(pixels), ctypes.c_int32(channels))


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
