"""The library made of decode.c: found, checked and called through ctypes."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeseg.errors import EngineError
from edgeseg.runtime.decode_numpy import AXES, MEASURES

FOLDER = Path(__file__).parent
SOURCES = (
    "decode.c", "decode_scores.h", "decode_isa.h", "decode_arithmetic.h", "decode_kernels.h",
    "prepare.c", "prepare_arithmetic.h", "prepare_colours.h", "prepare_neon.h", "lattice.c",
    "lattice_filters.h", "strips.h",
)  # fmt: skip
ISAS = {"avx512": 8, "avx2": 4, "neon": 2, "c": 1}
"""Instruction sets and their bits in decode.c, the fastest first."""
KINDS = {
    "bilinear": 0,
    "bilinear_corners": 0,
    "deconvolution": 1,
    "dupsample": 1,
    "pixel_shuffle": 2,
}
TYPES = {np.dtype(t): i for i, t in enumerate((np.float32, np.float16, np.uint16, np.int8))}
"""Types of scores and their numbers in decode.c; uint16 hold the bits of bfloat16."""
OTHERWISE = "EDGESEG_DECODE=numpy decodes in numpy"
FAILURES = {1: "no memory", 2: "this processor lacks the instruction set"}

_POINTERS = (
    "scores", "weight", "bias", "row_low", "row_start", "column_low", "column_start", "row_share",
    "column_share", "rows", "columns", "labels", "confidence",
)  # fmt: skip
_STRIDES = (
    "frame_stride", "channel_stride", "row_stride", "column_stride",
    "labels_frame", "labels_row", "confidence_frame", "confidence_row",
)  # fmt: skip
_NUMBERS = (
    "frames", "channels", "height", "width", "classes", "factor", "row_units", "column_units",
    "longest", "alike", "alike_end", "out_height", "out_width", "kind", "type", "isa", "measure",
    "threads",
)  # fmt: skip


class Job(ctypes.Structure):
    """`Job` of decode.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in _STRIDES),
        *((name, ctypes.c_int32) for name in _NUMBERS),
    )


def library_path() -> Path:
    """Where the library of this system and processor lies, if it was compiled."""
    return FOLDER / f"decode.{sys.platform}_{platform.machine()}.so"


def source_hash() -> str:
    """sha256 of the sources, one after the other; empty where they are not all there."""
    paths = [FOLDER / name for name in SOURCES]
    if not all(path.exists() for path in paths):
        return ""
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


_TAKE = (
    ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32,
    ctypes.c_int32, ctypes.c_void_p, ctypes.c_int64,
)  # fmt: skip


@functools.cache
def library() -> ctypes.CDLL | None:
    """The library; None where none was compiled, EngineError where it can't be used."""
    path = library_path()
    if not path.exists():
        return None
    try:
        opened = ctypes.CDLL(str(path))
        opened.edgeseg_source.restype = opened.edgeseg_compiler.restype = ctypes.c_char_p
        opened.edgeseg_decode.argtypes = (ctypes.POINTER(Job),)
        opened.edgeseg_prepare.argtypes = (ctypes.c_void_p,)
        opened.edgeseg_take.argtypes = _TAKE
        opened.edgeseg_take.restype = None
    except (OSError, AttributeError) as error:
        raise EngineError(
            f"{path} can't be loaded ({error}); install edgeseg again, which compiles it, "
            f"or remove it. {OTHERWISE}"
        ) from error
    made_of, here = opened.edgeseg_source().decode(), source_hash()
    if here and made_of != here:
        raise EngineError(
            f"{path} was compiled from another decode.c; run 'python hatch_build.py' or "
            f"install edgeseg again, which compiles it. {OTHERWISE}"
        )
    return opened


def compiler() -> str | None:
    """What the library was compiled with, such as "gcc 12.2.0"; None without a library."""
    opened = library()
    return None if opened is None else str(opened.edgeseg_compiler().decode())


def available() -> tuple[str, ...]:
    """Instruction sets that the library holds and this processor has, the fastest first."""
    opened = library()
    if opened is None:
        return ()
    found = opened.edgeseg_isas()
    return tuple(name for name, bit in ISAS.items() if found & bit)


def name_of(by: str, threads: int) -> str:
    """For reports: "native avx512, 2 threads" or "numpy"."""
    if by == "numpy":
        return by
    return f"native {by}, {threads} thread{'s' if threads > 1 else ''}"


@dataclass(frozen=True)
class State:
    """What decodes here when nothing else is asked for: `by`, empty where the library is broken.

    `why` native decode is not to be had and `advice` what to do; both empty where it is.
    """

    by: str
    available: tuple[str, ...] = ()
    compiler: str | None = None
    why: str = ""
    advice: str = ""


def examine() -> State:
    """Look for the library and what it can do here."""
    try:
        known = available()
    except EngineError as error:
        return State("", why=str(error), advice="install edgeseg again, or remove the file")
    if known:
        return State(known[0], known, compiler())
    return State(
        "numpy",
        why="edgeseg was installed without a C compiler, so decode takes 10 to 100 times as long",
        advice="install one, such as gcc, and then edgeseg again (EDGESEG_NATIVE=require tells "
        "what is wrong)",
    )


def choose(asked: str | None = None) -> str:
    """A name of ISAS, or "numpy" where no library was compiled.

    `asked`, else the environment's EDGESEG_DECODE, names one; the fastest otherwise. What is asked
    for and not there is an EngineError.
    """
    asked = asked or os.environ.get("EDGESEG_DECODE") or None
    if asked == "numpy":
        return "numpy"
    known = available()
    if asked is None:
        return known[0] if known else "numpy"
    if asked not in known:
        here = ", ".join((*known, "numpy"))
        raise EngineError(f"decode by '{asked}' was asked for; this machine has {here}")
    return asked


@dataclass(frozen=True)
class Units:
    """Runs of pixels of one axis that lie in one cell: what decode.c calls units.

    `low` (units,) int32 is the cell; unit u holds pixels start[u] to start[u + 1]; `share`
    (pixels,) float32 is each pixel's share of the next cell. No unit is longer than `longest`;
    those in the range `alike` have the same shares.
    """

    low: np.ndarray
    start: np.ndarray
    share: np.ndarray
    longest: int
    alike: range


@functools.lru_cache(maxsize=64)
def units(kind: str, cells: int, factor: int) -> Units:
    """The units of an axis; those of half pixels are `factor` long but for the edges.

    A longer run is cut; the odd rest comes first, so that inner cells stay whole.
    """
    axis = AXES[kind](cells, factor)
    longest = factor if kind == "bilinear" else factor + 1
    edges = np.flatnonzero(np.diff(axis.low, prepend=-1, append=-1))
    start = [
        at
        for first, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        for at in sorted({first, *range(end - longest, first, -longest)})
    ]
    return Units(
        axis.low[start].astype(np.int32),
        np.array([*start, cells * factor], np.int32),
        axis.share.astype(np.float32),
        longest,
        range(1, len(start) - 1) if kind == "bilinear" else range(0),
    )


@dataclass(frozen=True)
class Layer:
    """The last layer: its decode and factor, and what decode.c needs of its arrays.

    `weight` is (r * r, C, classes) and `bias` (classes,), both float32, where there are any.
    """

    decode: str
    factor: int
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None


def run(
    layer: Layer,
    scores: np.ndarray,
    labels: np.ndarray,
    confidence: np.ndarray | None = None,
    *,
    isa: str,
    threads: int,
    measure: str = "softmax",
    nearest: tuple[np.ndarray, np.ndarray] | None = None,
) -> None:
    """(N, C, h, w) scores -> `labels` and `confidence`, (N, H, W) uint8, contiguous in W.

    `nearest`, two int32 arrays, are the label row (column) that each row (column) of `labels`
    takes. The arguments were checked by the caller.
    """
    if any(s % scores.itemsize for s in scores.strides) or not scores.flags.aligned:
        scores = np.ascontiguousarray(scores)
    n, channels, height, width = scores.shape
    classes = channels
    if layer.bias is not None:
        classes = len(layer.bias)
    elif layer.decode == "pixel_shuffle":
        classes = channels // layer.factor**2
    job = Job(
        scores=_at(scores), weight=_at(layer.weight), bias=_at(layer.bias),
        labels=_at(labels), labels_frame=labels.strides[0], labels_row=labels.strides[1],
        frames=n, channels=channels, height=height, width=width, classes=classes,
        factor=layer.factor, out_height=labels.shape[1], out_width=labels.shape[2],
        kind=KINDS[layer.decode], type=TYPES[scores.dtype], isa=ISAS[isa],
        measure=MEASURES.index(measure), threads=threads,
    )  # fmt: skip
    for name, stride in zip(_STRIDES[:4], scores.strides, strict=True):
        setattr(job, name, stride // scores.itemsize)
    if confidence is not None:
        job.confidence = _at(confidence)
        job.confidence_frame, job.confidence_row = confidence.strides[:2]
    if nearest is not None:
        job.rows, job.columns = _at(nearest[0]), _at(nearest[1])
    if layer.decode in AXES:
        rows, columns = (units(layer.decode, side, layer.factor) for side in (height, width))
        job.row_low, job.row_start, job.row_share = map(_at, (rows.low, rows.start, rows.share))
        job.column_low, job.column_start = _at(columns.low), _at(columns.start)
        job.column_share = _at(columns.share)
        job.row_units, job.column_units = len(rows.low), len(columns.low)
        job.longest = columns.longest
        job.alike, job.alike_end = columns.alike.start, columns.alike.stop
    opened = library()
    assert opened is not None, "choose() names an instruction set only where there is a library"
    failure = opened.edgeseg_decode(ctypes.byref(job))
    if failure:
        raise EngineError(f"decode by {isa} failed: {FAILURES[failure]}")


def _at(array: np.ndarray | None) -> int | None:
    """The address of an array's first number."""
    return None if array is None else int(array.__array_interface__["data"][0])
