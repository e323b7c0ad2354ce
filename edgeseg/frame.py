"""What a frame is, and how it becomes the network's input and its labels come back.

A frame is a camera image, (H, W, 3) uint8. `place` says which part of the frame goes where in the
network's input; `prepare` does it; `restore` brings labels back to the frame. Training,
calibration, gate, evaluation and runtime all use these functions and no others.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from edgeseg.errors import FrameError, UsageError, guess
from edgeseg.labels import IGNORE

FITS = {
    "pad": "the whole frame, scaled to fit inside; the rest is filled with the mean colour",
    "crop": "the middle of the frame, scaled to cover all of the input",
    "stretch": "the whole frame, each side scaled by itself",
}
ORDERS = ("rgb", "bgr")

Size = tuple[int, int]
"""(height, width)."""


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels: rows top to bottom, columns left to right, ends excluded."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> Size:
        """(height, width)."""
        return self.bottom - self.top, self.right - self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        """Indexes the first two axes of an image."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True)
class Placement:
    """`source` (a box of the frame) is scaled onto `target` (a box of the network's input)."""

    frame: Size
    network: Size
    source: Box
    target: Box


def parse_size(text: str) -> Size:
    """`"512x1024"` -> (512, 1024), height first."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(p.isdecimal() and int(p) > 0 for p in parts):
        raise UsageError(f"size '{text}' is not HEIGHTxWIDTH, such as 512x1024")
    return int(parts[0]), int(parts[1])


def format_size(size: Size) -> str:
    """(512, 1024) -> `"512x1024"`."""
    return f"{size[0]}x{size[1]}"


def check_order(order: str) -> str:
    """`order` itself if it is rgb or bgr."""
    if order not in ORDERS:
        raise UsageError(f"channel order '{order}' is neither rgb nor bgr.{guess(order, ORDERS)}")
    return order


def check_frame(frame: object) -> np.ndarray:
    """`frame` itself if it is a (H, W, 3) uint8 array, else a FrameError that says what it is."""
    if not isinstance(frame, np.ndarray):
        nothing = "; OpenCV gives None for what it can't read" if frame is None else ""
        raise FrameError(
            f"frame is a {type(frame).__name__}; expected a numpy array (H, W, 3) of uint8{nothing}"
        )
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise FrameError(
            f"frame is {frame.dtype} of shape {frame.shape}; expected uint8 of shape (H, W, 3)"
            f"{_way_out(frame)}"
        )
    return frame


def _way_out(frame: np.ndarray) -> str:
    """What makes a frame of what is often taken for one; "" for what is not known."""
    shape = frame.shape
    if frame.dtype.kind == "f" and shape[2:] == (3,):
        return ": (frame * 255).round().astype(np.uint8), if it goes from 0 to 1"
    if frame.dtype != np.uint8:
        return ""
    if len(shape) == 2:
        return "; one channel is of frames='grey'"
    if len(shape) == 3 and shape[2] == 4:
        return ": frame[..., :3] leaves out the fourth channel"
    if len(shape) == 3 and shape[0] == 3:
        return ": frame.transpose(1, 2, 0) puts the channels last"
    return ": frame[0], one frame at a time" if len(shape) == 4 and shape[3] == 3 else ""


@lru_cache(maxsize=256)
def place(frame: Size, network: Size, fit: str) -> Placement:
    """Where a frame of that size goes in an input of that size. Sizes are (height, width)."""
    if fit not in FITS:
        raise UsageError(f"unknown fit '{fit}'.{guess(fit, FITS)}")
    (fh, fw), (nh, nw) = frame, network
    whole, full = Box(0, 0, fh, fw), Box(0, 0, nh, nw)
    if fit == "pad":
        scale = min(nh / fh, nw / fw)
        h, w = max(1, min(nh, round(fh * scale))), max(1, min(nw, round(fw * scale)))
        top, left = (nh - h) // 2, (nw - w) // 2
        return Placement(frame, network, whole, Box(top, left, top + h, left + w))
    if fit == "crop":
        scale = max(nh / fh, nw / fw)
        h, w = max(1, min(fh, round(nh / scale))), max(1, min(fw, round(nw / scale)))
        top, left = (fh - h) // 2, (fw - w) // 2
        return Placement(frame, network, Box(top, left, top + h, left + w), full)
    return Placement(frame, network, whole, full)


def enlarged(placement: Placement, scale: int) -> Placement:
    """The same placement in labels that are `scale` times as high and as wide as the input."""
    if scale == 1:
        return placement
    target, (height, width) = placement.target, placement.network
    box = Box(*(scale * side for side in (target.top, target.left, target.bottom, target.right)))
    return Placement(placement.frame, (scale * height, scale * width), placement.source, box)


def reversed_colours(image: np.ndarray) -> np.ndarray:
    """(..., 3) RGB -> BGR and back; in (..., 4) the mask stays the last."""
    return image[..., [2, 1, 0, 3]] if image.shape[-1] == 4 else image[..., ::-1]


def prepare(
    frame: np.ndarray,
    placement: Placement,
    *,
    swap: bool,
    fill: tuple[int, int, int],
    out: np.ndarray | None = None,
) -> np.ndarray:
    """(H, W, 3) uint8 frame -> (h, w, 3) uint8 network input; with a mask behind it 4 channels.

    `swap` reverses the colours (frame and network differ in order); `fill` is the colour around a
    padded frame, in the network's order, where a mask is 0. `out`, if given, is written and
    returned.
    """
    if out is None:
        out = np.empty((*placement.network, frame.shape[2]), np.uint8)
    part = frame[placement.source.slices]
    if part.shape[:2] != placement.target.size:
        part = resize_image(part, placement.target.size)
    if placement.target.size != placement.network:
        out[..., :3] = fill
        out[..., 3:] = 0
    out[placement.target.slices] = reversed_colours(part) if swap else part
    return out


def prepare_labels(labels: np.ndarray, placement: Placement) -> np.ndarray:
    """(H, W) uint8 labels of the frame -> (h, w) uint8 labels of the input; `IGNORE` in padding."""
    out = np.full(placement.network, IGNORE, np.uint8)
    part = resize_labels(labels[placement.source.slices], placement.target.size)
    out[placement.target.slices] = part
    return out


def restore(labels: np.ndarray, placement: Placement, out: np.ndarray | None = None) -> np.ndarray:
    """(h, w) uint8 labels at any stride of the input -> (H, W) uint8 labels of the frame.

    Labels may be larger than the input, too: each pixel takes the nearest.
    Pixels of the frame that the network did not see (fit "crop") are `IGNORE`.
    """
    source = placement.source
    if out is None:
        out = np.empty(placement.frame, np.uint8)
    if source.size != placement.frame:
        out[:] = IGNORE
    where = nearest(placement, (labels.shape[0], labels.shape[1]))
    if where is None:
        out[source.slices] = labels
    else:
        out[source.slices] = np.take(np.take(labels, where[0], 0), where[1], 1)
    return out


def nearest(placement: Placement, labels: Size) -> tuple[np.ndarray, np.ndarray] | None:
    """Which row and column of (h, w) labels each pixel of `placement.source` takes.

    None where each takes its own.
    """
    network, source, target = placement.network, placement.source, placement.target
    rows = _nearest(labels[0], network[0], target.top, target.bottom, source.size[0])
    columns = _nearest(labels[1], network[1], target.left, target.right, source.size[1])
    if _identity(rows, labels[0]) and _identity(columns, labels[1]):
        return None
    return rows, columns


def _identity(index: np.ndarray, length: int) -> bool:
    return len(index) == length and bool((index == np.arange(length)).all())


@lru_cache(maxsize=256)
def _nearest(have: int, network: int, start: int, stop: int, want: int) -> np.ndarray:
    """Index of the label nearest to each of `want` pixel centres over [start, stop) of the input.

    Of two equally near ones it is the first, so halving takes every second pixel from the first.
    """
    stride = network / have
    centres = start + (np.arange(want) + 0.5) * (stop - start) / want
    return np.clip(np.ceil(centres / stride - 1.0 - 1e-9), 0, have - 1).astype(np.intp)


def resize_labels(labels: np.ndarray, size: Size) -> np.ndarray:
    """(H, W) -> (h, w), nearest by pixel centres; of two equally near pixels the first."""
    if labels.shape == size:
        return labels
    rows = _nearest(labels.shape[0], labels.shape[0], 0, labels.shape[0], size[0])
    columns = _nearest(labels.shape[1], labels.shape[1], 0, labels.shape[1], size[1])
    return np.take(np.take(labels, rows, 0), columns, 1)


ONE = 1 << 14
"""Shares of pixels are whole numbers that sum up to this."""
FINE = 7
"""Bits of a fraction that rows keep until columns are mixed."""


@dataclass(frozen=True)
class Taps:
    """Output pixel i is the sum of input pixels first[i] + k times weights[i, k] / ONE.

    `first` (want,) int32, `weights` (want, n) int16; no tap lies outside of the input.
    """

    first: np.ndarray
    weights: np.ndarray


def resize_image(image: np.ndarray, size: Size) -> np.ndarray:
    """(H, W, C) uint8 -> (h, w, C) uint8; a smaller side by area, a larger one bilinear.

    Area: each output pixel is the mean of the input that it covers (halving is the mean of 2x2).
    Bilinear: by pixel centres ("half-pixel"), edges repeated.

    Whole numbers throughout, so that every machine, C and CUDA give the same bytes: rows are mixed
    first, `(sum + 64) >> 7` of `taps` times pixels, and then columns, `(sum + 2**20) >> 21`.
    """
    rows = _mix_rows(image, size[0])
    mixed = _mix_columns(rows, size[1])
    rounded: np.ndarray = mixed.astype(np.uint8)
    return rounded


def resize_map(values: np.ndarray, size: Size) -> np.ndarray:
    """(H, W) float32 -> (h, w) float32, by the taps of `resize_image` and without rounding."""
    for axis, want in enumerate(size):
        if values.shape[axis] == want:
            continue
        found, lines = taps(values.shape[axis], want), np.moveaxis(values, axis, 0)
        shares = found.weights.astype(np.float32)[..., None] / ONE
        mixed = np.zeros((want, lines.shape[1]), np.float32)
        for k in range(shares.shape[1]):
            mixed += lines[found.first + k] * shares[:, k]
        values = np.moveaxis(mixed, 0, axis)
    return values


@lru_cache(maxsize=64)
def taps(have: int, want: int) -> Taps:
    """The taps of a resize from `have` to `want` pixels."""
    at = np.arange(want, dtype=np.int64)
    if have > want:
        first, last = at * have // want, -(-(at + 1) * have // want)
        edges = first[:, None] + np.arange(int((last - first).max()) + 1)
        covered = np.clip(edges * want - (at * have)[:, None], 0, have)
        weights = np.diff((covered * 2 * ONE + have) // (2 * have), axis=1)
    elif have < want:
        doubled = np.clip((2 * at + 1) * have - want, 0, 2 * want * (have - 1))
        first = doubled // (2 * want)
        share = ((doubled - first * 2 * want) * 2 * ONE + 2 * want) // (4 * want)
        weights = np.stack([ONE - share, share], 1)
    else:
        first, weights = at, np.full((want, 1), ONE)
    return _inside(have, first, weights)


def _inside(have: int, first: np.ndarray, weights: np.ndarray) -> Taps:
    """Taps that would reach beyond the last pixel begin earlier; what is beyond it weighs 0."""
    count = min(weights.shape[1], have)
    moved = np.minimum(first, have - count)
    made = np.zeros((len(first), count), np.int16)
    for i, by in enumerate((first - moved).tolist()):
        made[i, by:] = weights[i, : count - by]
    return Taps(moved.astype(np.int32), made)


@dataclass(frozen=True)
class _Band:
    """Output pixels `to` are mixed from input pixels `of` by `weights`; all other weights are 0."""

    to: slice
    of: slice
    weights: np.ndarray


def _mix_rows(image: np.ndarray, h: int) -> np.ndarray:
    """(H, W, C) -> (h, W, C) float32, whole numbers: 128 times the pixels.

    A sum of shares times pixels stays below 2**24, so that float32 holds it exactly.
    """
    height, width, channels = image.shape
    if h == height:
        exact: np.ndarray = image.astype(np.float32) * np.float32(1 << FINE)
        return exact
    rows = image.reshape(height, width * channels)
    mixed = np.empty((h, width * channels), np.float32)
    for band in _bands(height, h, 1):
        np.matmul(band.weights, rows[band.of].astype(np.float32), out=mixed[band.to])
    mixed += ONE >> (FINE + 1)
    mixed *= np.float32((1 << FINE) / ONE)
    np.floor(mixed, out=mixed)
    return mixed.reshape(h, width, channels)


def _mix_columns(image: np.ndarray, w: int) -> np.ndarray:
    """(H, W, C) -> (H, w, C), whole pixels; the channels of a pixel lie beside each other in a row.

    Sums need 29 bits: float64 holds them exactly.
    """
    height, width, channels = image.shape
    if w == width:
        whole: np.ndarray = np.floor((image + np.float32(1 << FINE >> 1)) / np.float32(1 << FINE))
        return whole
    rows = image.reshape(height, width * channels)
    mixed = np.empty((height, w * channels), np.float64)
    for band in _bands(width, w, channels):
        shares = band.weights.T.astype(np.float64)
        np.matmul(rows[:, band.of].astype(np.float64), shares, out=mixed[:, band.to])
    mixed += ONE << FINE >> 1
    mixed *= 1 / (ONE << FINE)
    np.floor(mixed, out=mixed)
    return mixed.reshape(height, w, channels)


BAND = 16
"""Output pixels that are mixed in one matrix product: few zeros in it, few products."""


@lru_cache(maxsize=64)
def _bands(have: int, want: int, channels: int) -> tuple[_Band, ...]:
    """The bands of a resize from `have` to `want` pixels of interleaved channels."""
    found = taps(have, want)
    count = found.weights.shape[1]
    bands = []
    for start in range(0, want, BAND):
        of, shares = found.first[start : start + BAND], found.weights[start : start + BAND]
        first, last = int(of.min()), int(of.max()) + count
        part = np.zeros((len(of), last - first), np.float32)
        np.put_along_axis(part, (of - first)[:, None] + np.arange(count), shares, 1)
        mixed = np.kron(part, np.eye(channels, dtype=np.float32))
        to = slice(start * channels, (start + len(part)) * channels)
        bands.append(_Band(to, slice(first * channels, last * channels), mixed))
    return tuple(bands)
