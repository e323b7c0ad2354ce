"""Where `edgeseg run` takes frames from (images, video, camera) and where it puts overlays."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseg import picture
from edgeseg.dataset import read_image
from edgeseg.disk import check_new_folder, writing_file
from edgeseg.errors import DataError, EngineError, UsageError
from edgeseg.labels import ClassTable

if TYPE_CHECKING:
    from edgeseg.video import Video, VideoWriter

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".tif", ".tiff", ".webp")
IMAGES_PER_SECOND = Fraction(10)
SLOWEST, FASTEST = Fraction(1, 100), Fraction(1000)


@dataclass(frozen=True)
class Source:
    """Frames (H, W, 3) uint8 RGB with what is known about them.

    `names` are the images' names (None: numbered), `rate` is in frames per second, `count` is None
    where nobody knows; a `live` source does not wait.
    """

    frames: Iterator[np.ndarray]
    names: Sequence[str] | None
    rate: Fraction
    count: int | None
    live: bool

    def name(self, index: int) -> str:
        """The name of the frame with that number."""
        return self.names[index] if self.names else f"{index:06d}"


def open_source(text: str, limit: int | None = None, rate: Fraction | None = None) -> Source:
    """`camera:0`, an image, a folder of images or a video -> its first `limit` frames."""
    if text.startswith("camera:"):
        number = text.removeprefix("camera:")
        if not number.isdigit():
            raise UsageError(f"--source {text}: '{number}' is no camera number; type camera:0")
        return _of_video(video_library().open_camera(int(number)), limit, rate, live=True)
    path = Path(text)
    if path.is_dir():
        return _of_images(_images_in(path), limit, rate)
    if not path.exists():
        raise DataError(
            f"--source {text}: no such file or folder; expected a folder of images, an image, a "
            "video or camera:0"
        )
    if path.suffix.lower() in IMAGES:
        return _of_images([path], limit, rate)
    return _of_video(video_library().open_video(path), limit, rate, live=False)


def video_library() -> Any:
    """The module `edgeseg.video`; EngineError when PyAV is missing."""
    try:
        return importlib.import_module("edgeseg.video")
    except ModuleNotFoundError as error:
        if error.name != "av":
            raise
        raise EngineError("video needs 'av'. Install it: pip install 'edgeseg[video]'") from error


def _of_video(video: Video, limit: int | None, rate: Fraction | None, live: bool) -> Source:
    counts = [count for count in (video.count, limit) if count is not None]
    frames = _first(video.frames, limit)
    return Source(frames, None, rate or video.rate or Fraction(25), min(counts, default=None), live)


def _of_images(paths: list[Path], limit: int | None, rate: Fraction | None) -> Source:
    paths = paths[:limit]
    stems = [path.stem for path in paths]
    names = [p.stem if stems.count(p.stem) == 1 else p.name.replace(".", "_") for p in paths]
    frames = (read_image(path) for path in paths)
    return Source(frames, names, rate or IMAGES_PER_SECOND, len(paths), live=False)


def _images_in(folder: Path) -> list[Path]:
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGES)
    if not paths:
        raise DataError(
            f"--source {folder}: holds no images ({', '.join(IMAGES)}); "
            "folders inside it are not searched"
        )
    return paths


def _first(frames: Iterator[np.ndarray], limit: int | None) -> Iterator[np.ndarray]:
    """`islice` that closes its source."""
    try:
        yield from islice(frames, limit)
    finally:
        getattr(frames, "close", bool)()


@dataclass
class Drawing:
    """How an overlay is drawn: class colours, legend below the frame, caption in the corner."""

    table: ClassTable
    opacity: float = 0.5
    plain: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.opacity <= 1:
            raise UsageError(f"--opacity is {self.opacity:g}; expected a number from 0 to 1")
        self._legends: dict[int, np.ndarray] = {}

    def draw(self, frame: np.ndarray, labels: np.ndarray, caption: str) -> np.ndarray:
        """(H, W, 3) frame and (H, W) labels -> (H + legend, W, 3)."""
        drawn = picture.overlay(frame, labels, self.table, self.opacity)
        if self.plain:
            return drawn
        width = frame.shape[1]
        if width not in self._legends:
            self._legends[width] = picture.legend(self.table, width=width)
        return picture.stack([picture.write_caption(drawn, caption), self._legends[width]])


class Sink(ABC):
    """Where labels go; use it in a `with`. A block that ends with an error leaves no half file."""

    def __init__(self) -> None:
        self.written = 0
        self._open = ExitStack()

    @abstractmethod
    def write(
        self, name: str, frame: np.ndarray, labels: np.ndarray, caption: str, at: float
    ) -> None:
        """Take a frame and its labels; `at` is in seconds since the first one."""

    def close(self) -> None:
        """Finish the file and give it its name; closing twice is fine."""
        self._open.close()

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.__exit__(kind, error, traceback)


class NoSink(Sink):
    """Nothing is kept."""

    def write(
        self, name: str, frame: np.ndarray, labels: np.ndarray, caption: str, at: float
    ) -> None:
        """Count."""
        self.written += 1


class FolderSink(Sink):
    """FOLDER/overlay/NAME.jpg, FOLDER/labels/NAME.png (ids, colour-indexed), FOLDER/legend.png."""

    def __init__(self, folder: Path, drawing: Drawing) -> None:
        super().__init__()
        check_new_folder(folder)
        self._folder, self._table = folder, drawing.table
        self._drawing = Drawing(drawing.table, drawing.opacity, plain=True)

    def write(
        self, name: str, frame: np.ndarray, labels: np.ndarray, caption: str, at: float
    ) -> None:
        """Write one overlay and one label file."""
        if not self.written:
            picture.save_image(self._folder / "legend.png", picture.legend(self._table))
        drawn = self._drawing.draw(frame, labels, caption)
        picture.save_image(self._folder / "overlay" / f"{name}.jpg", drawn)
        picture.save_labels(self._folder / "labels" / f"{name}.png", labels, self._table)
        self.written += 1


class ImageSink(Sink):
    """One overlay."""

    def __init__(self, path: Path, drawing: Drawing) -> None:
        super().__init__()
        self._path, self._drawing = path, drawing

    def write(
        self, name: str, frame: np.ndarray, labels: np.ndarray, caption: str, at: float
    ) -> None:
        """Write the overlay."""
        picture.save_image(self._path, self._drawing.draw(frame, labels, caption))
        self.written += 1


class VideoSink(Sink):
    """An overlay video, written aside and renamed when it is whole."""

    def __init__(self, path: Path, drawing: Drawing, rate: Fraction, live: bool) -> None:
        super().__init__()
        library = video_library()
        library.check_suffix(path)
        if path.is_dir():
            raise UsageError(f"--out {path} is a folder; give a file, or a folder without a suffix")
        self._new_writer = library.VideoWriter
        self._path, self._drawing, self._rate, self._live = path, drawing, rate, live
        self._writer: VideoWriter | None = None

    def write(
        self, name: str, frame: np.ndarray, labels: np.ndarray, caption: str, at: float
    ) -> None:
        """Draw and encode one frame."""
        drawn = self._drawing.draw(frame, labels, caption)
        if self._writer is None:
            aside = self._open.enter_context(writing_file(self._path))
            size, suffix = drawn.shape[:2], self._path.suffix.lower()
            self._writer = self._open.enter_context(
                self._new_writer(aside, suffix, self._rate, size, self._live)
            )
        self._writer.write(drawn, at)
        self.written += 1


def open_sink(out: str | None, source: Source, drawing: Drawing) -> Sink:
    """What the suffix of `--out` stands for: none a folder, .png or .jpg an image, else a video."""
    if out is None:
        return NoSink()
    path = Path(out)
    if not path.suffix or out.endswith("/"):
        return FolderSink(path, drawing)
    if path.suffix.lower() in picture.FORMATS:
        if source.count != 1:
            raise UsageError(f"--out {out} is one image; give a folder or a video (.mp4)")
        return ImageSink(path, drawing)
    return VideoSink(path, drawing, source.rate, source.live)


def parse_rate(text: str) -> Fraction:
    """Frames per second: a number or a fraction such as 30000/1001."""
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"'{text}' is no number of frames per second, such as 30") from None
    if not SLOWEST <= rate <= FASTEST:
        raise UsageError(f"{text} frames per second; expected from 0.01 to 1000")
    return rate
