"""prepare.c through ctypes; it is compiled into the library of decode.c."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

import numpy as np

from edgeseg.frame import Placement, Size, nearest, taps
from edgeseg.runtime import decode_native

ISAS = {"avx2": 4, "neon": 2, "c": 1}
"""Instruction sets and their bits in prepare.c, the fastest first."""
FORMATS = {"rgb": 0, "bgr": 0, "nv12": 1, "yuyv": 2, "grey": 3}
"""Formats of frames, as in prepare.py, and their numbers in prepare_arithmetic.h."""

_POINTERS = (
    "frame", "chroma", "row_first", "column_first", "row_weights", "column_weights", "out",
)  # fmt: skip
_STRIDES = ("row_stride", "column_stride", "channel_stride", "chroma_stride")
_NUMBERS = (
    "top", "left", "height", "width", "to_top", "to_left", "h", "w", "network_h", "network_w",
    "row_taps", "pairs", "format", "swap", "isa", "threads",
)  # fmt: skip


class Preparation(ctypes.Structure):
    """`Preparation` of prepare.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in _STRIDES),
        *((name, ctypes.c_int32) for name in _NUMBERS),
        ("fill", ctypes.c_int32 * 3),
    )


def available() -> tuple[str, ...]:
    """Of ISAS those that the library holds and this processor has, the fastest first."""
    opened = decode_native.library()
    if opened is None:
        return ()
    found = opened.edgeseg_isas()
    return tuple(name for name, bit in ISAS.items() if found & bit)


@dataclass(frozen=True)
class _Columns:
    """Taps of columns as prepare.c reads them: `weights` is (pairs, w, 2)."""

    first: np.ndarray
    weights: np.ndarray


@functools.lru_cache(maxsize=64)
def _columns(have: int, want: int) -> _Columns:
    found = taps(have, want)
    count = found.weights.shape[1]
    even = np.zeros((want, count + count % 2), np.int16)
    even[:, :count] = found.weights
    return _Columns(found.first, np.ascontiguousarray(even.reshape(want, -1, 2).transpose(1, 0, 2)))


@functools.lru_cache(maxsize=64)
def _job(
    name: str, placement: Placement, swap: bool, fill: tuple[int, int, int], isa: str
) -> Preparation:
    """All of a job but the frame and where it goes."""
    source, target = placement.source, placement.target
    (height, width), (h, w) = source.size, target.size
    rows, columns = taps(height, h), _columns(width, w)
    job = Preparation(
        row_first=_at(rows.first), row_weights=_at(rows.weights),
        column_first=_at(columns.first), column_weights=_at(columns.weights),
        top=source.top, left=source.left, height=height, width=width,
        to_top=target.top, to_left=target.left, h=h, w=w,
        network_h=placement.network[0], network_w=placement.network[1],
        row_taps=rows.weights.shape[1], pairs=columns.weights.shape[0],
        format=FORMATS[name], swap=swap, isa=ISAS[isa], fill=(ctypes.c_int32 * 3)(*fill),
    )  # fmt: skip
    job.arrays = (rows, columns)  # what the pointers point to lives as long
    return job


def run(
    name: str,
    frame: np.ndarray,
    placement: Placement,
    *,
    swap: bool,
    fill: tuple[int, int, int],
    out: np.ndarray,
    isa: str,
    threads: int,
) -> int:
    """A frame of a format that the caller has checked -> `out` (h, w, 3); 0, or what failed.

    Rows of the frame may lie anywhere; pixels, too, in rgb, bgr and grey. `threads` share the rows
    of `out`. The interpreter's lock is released.
    """
    if name in ("nv12", "yuyv") and (
        frame.strides[-1] != 1 or (name == "yuyv" and frame.strides[1] != 2)
    ):
        frame = np.ascontiguousarray(frame)
    job = Preparation.from_buffer_copy(_job(name, placement, swap, fill, isa))
    job.frame, job.out, job.row_stride = _at(frame), _at(out), frame.strides[0]
    job.threads = threads
    if name == "nv12":
        job.chroma = _at(frame[placement.frame[0] :])
        job.chroma_stride = frame.strides[0]
    else:
        job.column_stride = frame.strides[1]
        job.channel_stride = frame.strides[2] if frame.ndim == 3 else 0
    opened = decode_native.library()
    assert opened is not None, "choose() names an instruction set only where there is a library"
    failed: int = opened.edgeseg_prepare(ctypes.byref(job))
    return failed


@functools.lru_cache(maxsize=64)
def _indexes(placement: Placement, size: Size) -> tuple[np.ndarray, np.ndarray] | None:
    found = nearest(placement, size)
    return None if found is None else (found[0].astype(np.int32), found[1].astype(np.int32))


def restore(labels: np.ndarray, placement: Placement, out: np.ndarray) -> None:
    """`frame.restore` to the part of `out` (H, W) that the network sees, in one pass.

    Both arrays hold uint8 that lie side by side in a row.
    """
    seen = out[placement.source.slices]
    where = _indexes(placement, (labels.shape[0], labels.shape[1]))
    if where is None:
        seen[...] = labels
        return
    opened = decode_native.library()
    assert opened is not None, "choose() names an instruction set only where there is a library"
    opened.edgeseg_take(
        _at(labels), labels.strides[0], _at(where[0]), _at(where[1]), *seen.shape,
        _at(seen), seen.strides[0],
    )  # fmt: skip


def _at(array: np.ndarray) -> int:
    """The address of an array's first number."""
    return int(array.__array_interface__["data"][0])
