"""A camera's frame -> the network's input: which formats there are, and the door to native code.

`in_numpy` is the specification: the frame as three channels (`to_three`), then `frame.prepare`.
prepare.c gives the same bytes in one pass.
"""

from __future__ import annotations

import os

import numpy as np

from edgeseg import frame as frames
from edgeseg.errors import EngineError, FrameError, UsageError, guess
from edgeseg.frame import Placement, Size
from edgeseg.labels import IGNORE
from edgeseg.runtime import decode_native, prepare_native
from edgeseg.runtime.decode_native import State

FORMATS = {
    # name     what a frame of H x W pixels is
    "rgb": "(H, W, 3) uint8",
    "bgr": "(H, W, 3) uint8",
    "nv12": "(H * 3 / 2, W) uint8: H rows of Y, then H / 2 rows of U and V in turn; H and W even",
    "yuyv": "(H, W, 2) uint8: Y beside U and V in turn; W even",
    "grey": "(H, W) uint8",
}
LUMA, RED_V, GREEN_U, GREEN_V, BLUE_U = 9539, 13075, 3209, 6660, 16525
"""ITU-R BT.601 with Y from 16 to 235, in 1/8192: what cameras and OpenCV mean by NV12 and YUYV."""
SHARE = 1 << 17
"""Pixels, of the frame and of the input, that are worth a thread."""


def check_format(name: str) -> str:
    """`name` itself if it is one of FORMATS."""
    if name not in FORMATS:
        raise UsageError(f"unknown format of frames '{name}'.{guess(name, FORMATS)}")
    return name


def size_of(frame: object, name: str) -> Size:
    """(H, W) of the picture in a frame; a FrameError that says what it is if it is not `name`."""
    if name in ("rgb", "bgr"):
        height, width, _ = frames.check_frame(frame).shape
        return height, width
    if not isinstance(frame, np.ndarray):
        raise FrameError(f"frame is a {type(frame).__name__}; expected {name}, {FORMATS[name]}")
    shape = frame.shape
    fits = frame.dtype == np.uint8 and 0 not in shape
    if name == "nv12":
        fits &= len(shape) == 2 and shape[0] % 3 == 0 and shape[1] % 2 == 0
    elif name == "yuyv":
        fits &= len(shape) == 3 and shape[2] == 2 and shape[1] % 2 == 0
    else:
        fits &= len(shape) == 2
    if not fits:
        raise FrameError(
            f"frame is {frame.dtype} of shape {shape}; expected {name}, {FORMATS[name]}"
        )
    return (shape[0] // 3 * 2 if name == "nv12" else shape[0]), shape[1]


def to_three(frame: np.ndarray, name: str) -> np.ndarray:
    """A frame -> (H, W, 3) uint8 RGB; one in BGR stays so.

    Both pixels of a pair have the pair's U and V. Sums are of whole numbers, halves up.
    """
    if name in ("rgb", "bgr"):
        return frame
    if name == "grey":
        return np.repeat(frame[..., None], 3, 2)
    if name == "nv12":
        height, width = size_of(frame, name)
        y, pairs = frame[:height], frame[height:].reshape(height // 2, width // 2, 2)
        u, v = (pairs[..., c].repeat(2, 0).repeat(2, 1) for c in (0, 1))
    else:
        y = frame[..., 0]
        u, v = (frame[:, c::2, 1].repeat(2, 1) for c in (0, 1))
    y = LUMA * (y.astype(np.int32) - 16) + 4096
    u, v = u.astype(np.int32) - 128, v.astype(np.int32) - 128
    sums = np.stack([y + RED_V * v, y - GREEN_U * u - GREEN_V * v, y + BLUE_U * u], -1)
    made: np.ndarray = np.clip(sums >> 13, 0, 255).astype(np.uint8)
    return made


def choose(asked: str | None = None) -> str:
    """What prepares: "avx2", "neon" or "c" of the native library; "numpy" where there is none.

    `asked`, else the environment's EDGESEG_PREPARE, names one; what is not there is an EngineError.
    """
    asked = asked or os.environ.get("EDGESEG_PREPARE") or None
    known = (*prepare_native.available(), "numpy")
    if asked is not None and asked not in known:
        here = ", ".join(known)
        raise EngineError(f"preparation by '{asked}' was asked for; this machine has {here}")
    return asked or known[0]


class Preparer:
    """Frames of one format -> inputs of one network. Safe to call from several threads.

    `swap` says that the network's channel order is the other one (of RGB for formats without an
    order); `fill` is the colour around a padded frame, in the network's order. `threads` (None: all
    cores) share the rows of what native code prepares, where there is enough of it for each.
    """

    def __init__(
        self,
        name: str,
        order: str,
        fill: tuple[int, int, int],
        by: str | None = None,
        *,
        threads: int | None = None,
    ) -> None:
        self.format = check_format(name)
        self.by = choose(by)
        self.threads = threads or len(os.sched_getaffinity(0))
        self.swap = ("bgr" if name == "bgr" else "rgb") != order
        self._fill = fill

    @property
    def name(self) -> str:
        """For reports: "native avx2, 2 threads" or "numpy"."""
        return decode_native.name_of(self.by, self.threads)

    def size(self, frame: object) -> Size:
        """(H, W) of the picture in a frame, which is checked."""
        return size_of(frame, self.format)

    def is_input(self, frame: np.ndarray, placement: Placement) -> bool:
        """Whether the frame is the network's input already, byte for byte."""
        return (
            self.format in ("rgb", "bgr")
            and not self.swap
            and placement.frame == placement.network == placement.source.size
            and frame.flags.c_contiguous
        )

    def __call__(self, frame: np.ndarray, placement: Placement, out: np.ndarray) -> None:
        """A frame (FORMATS) -> `out` (h, w, 3) uint8, contiguous, all of it written."""
        if self.by == "numpy":
            three = to_three(frame, self.format)
            frames.prepare(three, placement, swap=self.swap, fill=self._fill, out=out)
        else:
            failed = prepare_native.run(
                self.format, frame, placement, swap=self.swap, fill=self._fill, out=out,
                isa=self.by, threads=_useful(self.threads, placement),
            )  # fmt: skip
            if failed:
                raise EngineError(f"preparation by {self.by}: {decode_native.FAILURES[failed]}")

    def restore(
        self, labels: np.ndarray, placement: Placement, out: np.ndarray | None
    ) -> np.ndarray:
        """`frame.restore`; natively nothing is allocated but `out`, where it is not given."""
        if out is None:
            out = np.empty(placement.frame, np.uint8)
        if self.by == "numpy" or labels.strides[-1] != 1 or out.strides[-1] != 1:
            return frames.restore(labels, placement, out)
        if placement.source.size != placement.frame:
            out[:] = IGNORE
        prepare_native.restore(labels, placement, out)
        return out


def _useful(threads: int, placement: Placement) -> int:
    """Of so many threads those that have SHARE pixels to read or to write each."""
    work = sum(h * w for h, w in (placement.source.size, placement.network))
    return max(1, min(threads, work // SHARE))


def examine() -> State:
    """What prepares here when nothing else is asked for; why it is not native, decode's says."""
    if decode_native.examine().why:
        return State(decode_native.examine().by)
    known = prepare_native.available()
    return State(known[0], known)


def describe() -> str:
    """One line on the preparation of frames on this machine."""
    found = examine()
    if not found.available:
        return f"preparation: {found.by or 'broken'}, as decode"
    others = f" (also {', '.join(found.available[1:])})" if found.available[1:] else ""
    return f"preparation: native {found.by}{others}"
