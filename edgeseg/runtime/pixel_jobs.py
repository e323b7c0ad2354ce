"""What the kernels of pixels.cu are given, and which of them a folder has. No CUDA in here."""

from __future__ import annotations

import ctypes
import hashlib
from pathlib import Path

from edgeseg.bundle import KernelsRecord

FOLDER = Path(__file__).parent
SOURCES = (
    "pixels.cu", "pixels.cuh", "decode_scores.h", "decode_isa.h", "decode_arithmetic.h",
    "prepare_arithmetic.h",
)  # fmt: skip
LABELS = 3
"""The kind of decode of networks that return labels: they are only taken."""
_POINTER, _INT = ctypes.c_void_p, ctypes.c_int32
_PREPARE_POINTERS = (
    "frame", "chroma", "image", "row_first", "column_first", "row_weight", "column_weight",
)  # fmt: skip
_PREPARE_NUMBERS = (
    "frame_stride", "chroma_stride", "format", "swap", "source_top", "source_left",
    "top", "left", "height", "width", "network_height", "network_width", "row_taps", "column_taps",
)  # fmt: skip
_DECODE_POINTERS = (
    "scores", "weight", "bias", "row_low", "column_low", "row_share", "column_share",
    "rows", "columns", "labels", "confidence",
)  # fmt: skip
_DECODE_NUMBERS = (
    "channels", "height", "width", "classes", "factor", "out_height", "out_width",
    "kind", "type", "measure",
)  # fmt: skip


class PrepareJob(ctypes.Structure):
    """`PrepareJob` of pixels.cuh."""

    _fields_ = (
        *((name, _POINTER) for name in _PREPARE_POINTERS),
        *((name, _INT) for name in _PREPARE_NUMBERS),
        ("fill", ctypes.c_uint8 * 4),
    )


class DecodeJob(ctypes.Structure):
    """`DecodeJob` of pixels.cuh."""

    _fields_ = (
        *((name, _POINTER) for name in _DECODE_POINTERS),
        *((name, _INT) for name in _DECODE_NUMBERS),
    )


PREPARE, DECODE = "edgeseg_prepare", "edgeseg_decode"
SIZES = {PREPARE: ctypes.sizeof(PrepareJob), DECODE: ctypes.sizeof(DecodeJob)}


def source_hash() -> str:
    """sha256 of the kernels' sources, one after the other."""
    return hashlib.sha256(b"".join((FOLDER / n).read_bytes() for n in SOURCES)).hexdigest()


def why_not(record: KernelsRecord | None, capability: str) -> str:
    """Why a folder's kernels can't be used on a GPU of that capability ("8.7"); "" if they can."""
    advice = "'edgeseg build' compiles them here"
    if record is None:
        return f"the folder has no kernels; {advice}"
    if record.file is None:
        return record.why
    if record.source_sha256 != source_hash():
        return f"the folder's kernels are those of another edgeseg; {advice}"
    (major, minor), (here_major, here_minor) = (
        tuple(map(int, text.split("."))) for text in (record.capability, capability)
    )
    if major != here_major or minor > here_minor:
        return (
            f"the folder's kernels are for compute capability {record.capability}, and this GPU "
            f"has {capability}; {advice}"
        )
    return ""
