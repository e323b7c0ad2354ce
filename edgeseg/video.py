"""Videos and cameras by PyAV (FFmpeg): (H, W, 3) uint8 RGB frames in, an overlay video out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import cast

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace
from av.video.stream import VideoStream

from edgeseg.errors import DataError, EngineError, UsageError

VERSION: str = av.__version__
SUFFIXES = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
ENCODERS = {
    # name      what the file holds and how it is set
    "libx264": {"preset": "veryfast", "crf": "20"},
    "mpeg4": {"qscale": "3"},
}
BT709 = 1
LIMITED_RANGE = 1
CLOCK = 1000
"""Time stamps of a camera's overlay are milliseconds."""


@dataclass(frozen=True)
class Video:
    """An open video or camera; `count` is None where the file does not say (or it is a camera)."""

    frames: Iterator[np.ndarray]
    rate: Fraction | None
    count: int | None


def open_video(path: Path) -> Video:
    """Open a video file; its frames are decoded when asked for."""
    if not path.is_file():
        raise DataError(f"{path}: no such video")
    try:
        container = av.open(str(path))
    except av.error.FFmpegError as error:
        raise DataError(f"{path}: is no video that FFmpeg can read ({_why(error)})") from error
    return _open(container, str(path))


def open_camera(number: int) -> Video:
    """Open /dev/video`number` (Video4Linux2) at the camera's own size and rate."""
    device = Path(f"/dev/video{number}")
    if not device.exists():
        there = ", ".join(sorted(str(p) for p in Path("/dev").glob("video*"))) or "none"
        raise EngineError(
            f"camera:{number}: no such camera ({device}); cameras that are there: {there}"
        )
    try:
        container = av.open(str(device), format="v4l2")
    except (av.error.FFmpegError, ValueError) as error:
        raise EngineError(f"camera:{number}: {device} can't be opened ({_why(error)})") from error
    return _open(container, f"camera:{number}")


def _open(container: av.container.InputContainer, name: str) -> Video:
    if not container.streams.video:
        container.close()
        raise DataError(f"{name}: holds no video stream")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    return Video(_frames(container, name), stream.average_rate, stream.frames or None)


def _frames(container: av.container.InputContainer, name: str) -> Iterator[np.ndarray]:
    """Upright RGB frames, each in its own memory."""
    index = 0
    with container:
        try:
            for frame in container.decode(video=0):
                yield _upright(frame.to_ndarray(format="rgb24"), frame.rotation)
                index += 1
        except av.error.FFmpegError as error:
            raise DataError(
                f"{name}: can't be decoded after frame {index} ({_why(error)}); "
                f"repair the video or stop before with --limit {index}"
            ) from error


def _upright(image: np.ndarray, rotation: int) -> np.ndarray:
    """Turn a frame counterclockwise by `rotation` degrees (phones store theirs lying)."""
    quarters = round(rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, quarters)) if quarters else image


class VideoWriter:
    """Writes RGB images of one size to a video: H.264 where FFmpeg has it, else MPEG-4 part 2.

    `path` is written to directly; `suffix` names the container. `rate` is in frames per second;
    with `live` each frame has its own time instead. An odd side is made even by repeating its last
    pixels (4:2:0 colour needs it). `close` makes the file playable.
    """

    def __init__(
        self, path: Path, suffix: str, rate: Fraction, size: tuple[int, int], live: bool = False
    ) -> None:
        encoder = next((name for name in ENCODERS if name in av.codecs_available), None)
        if encoder is None:
            raise EngineError(f"this FFmpeg has no encoder of {', '.join(ENCODERS)}")
        self.path, self.size, self.encoder, self.written = path, size, encoder, 0
        self._time_base = Fraction(1, CLOCK) if live else 1 / rate
        self._live, self._last = live, -1
        self._container = av.open(str(path), "w", format=SUFFIXES[suffix])
        options = dict(ENCODERS[encoder])
        stream = cast(VideoStream, self._container.add_stream(encoder, rate, options))
        stream.pix_fmt = "yuv420p"
        stream.height, stream.width = (side + side % 2 for side in size)
        context = stream.codec_context
        context.time_base = self._time_base
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED_RANGE
        self._stream = stream

    def write(self, image: np.ndarray, at: float = 0.0) -> None:
        """Add an image one frame after the last; in a live video `at` seconds after the first."""
        if image.shape[:2] != self.size:
            raise DataError(
                f"frame {self.written} is {image.shape[0]}x{image.shape[1]}, the video is "
                f"{self.size[0]}x{self.size[1]}; give --out a folder for frames of several sizes"
            )
        height, width = self.size
        if height % 2 or width % 2:
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709
        )
        due = round(Fraction(at) / self._time_base) if self._live else 0
        self._last = max(self._last + 1, due)
        frame.time_base, frame.pts = self._time_base, self._last
        self._mux(frame)
        self.written += 1

    def close(self) -> None:
        """Write what the encoder still holds and the index."""
        try:
            if self.written:
                self._mux(None)
        finally:
            self._container.close()

    def _mux(self, frame: VideoFrame | None) -> None:
        try:
            self._container.mux(self._stream.encode(frame))
        except av.error.FFmpegError as error:
            if isinstance(error, OSError):
                raise OSError(error.errno, error.strerror, str(self.path)) from error
            raise EngineError(f"{self.path}: can't be encoded ({_why(error)})") from error

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def check_suffix(path: Path) -> None:
    """UsageError unless the suffix is one of a video."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"{path}: unknown video suffix '{path.suffix}'; expected {', '.join(SUFFIXES)}"
        )


def _why(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error)
