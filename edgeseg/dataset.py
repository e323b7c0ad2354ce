"""Pairs of image and label files -> numpy. `open_dataset("camvid:PATH", "val")`.

| kind | folders | split names |
|---|---|---|
| camvid | SegNet's: train/ trainannot/ val/ valannot/ test/ testannot/ | train tune val test |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from edgeseg.errors import DataError, UsageError, guess
from edgeseg.frame import format_size, parse_size
from edgeseg.labels import CLASS_TABLES, IGNORE, ClassTable
from edgeseg.streets import draw_street

SPLITS = ("train", "tune", "val", "test")


@dataclass(frozen=True)
class Sample:
    """One labelled frame: image (H, W, 3) uint8 RGB, labels (H, W) uint8 ids or IGNORE."""

    name: str
    image: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Dataset:
    """A named sequence of samples that are read when asked for.

    `source` is what was typed (KIND:PATH), `split` one of SPLITS, `names` the frame names in order.
    """

    source: str
    split: str
    classes: ClassTable
    names: tuple[str, ...]
    read: Callable[[int], Sample]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        return self.read(index)

    def __iter__(self) -> Iterator[Sample]:
        return (self.read(i) for i in range(len(self)))

    def subset(self, indices: Sequence[int]) -> Dataset:
        """The samples at `indices`, in that order."""
        chosen = tuple(indices)
        names = tuple(self.names[i] for i in chosen)
        return Dataset(self.source, self.split, self.classes, names, lambda i: self.read(chosen[i]))

    def spread(self, count: int) -> Dataset:
        """At most `count` samples, evenly spread over the set."""
        if count >= len(self):
            return self
        return self.subset([(2 * i + 1) * len(self) // (2 * count) for i in range(count)])


def open_dataset(source: str, split: str) -> Dataset:
    """Open `KIND:PATH`; a DataError says which folder or file is not as expected."""
    kind, colon, path = source.partition(":")
    if not colon or kind not in DATASETS:
        raise UsageError(
            f"--data '{source}' is not KIND:PATH with a known kind.{guess(kind, DATASETS)}"
        )
    if split not in SPLITS:
        raise UsageError(f"unknown split '{split}'.{guess(split, SPLITS)}")
    return DATASETS[kind](source, path, split)


def read_image(path: Path) -> np.ndarray:
    """An image file -> (H, W, 3) uint8 RGB."""
    return _read(path, lambda image: np.array(image.convert("RGB")))


def read_ids(path: Path) -> np.ndarray:
    """A label file of ids (grey or colour-indexed) -> (H, W) uint8."""

    def ids(image: Image.Image) -> np.ndarray:
        if image.mode not in ("L", "P"):
            raise DataError(
                f"{path}: label image has mode {image.mode}; expected 8-bit ids (grey or indexed)"
            )
        return np.array(image)

    return _read(path, ids)


def _read(path: Path, convert: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return convert(image)
    except FileNotFoundError:
        raise DataError(f"{path}: no such image") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: broken or unknown image ({error})") from error


def _files(
    source: str,
    split: str,
    classes: ClassTable,
    pairs: list[tuple[str, Path, Path]],
    to_ids: Callable[[Path], np.ndarray],
) -> Dataset:
    def read(index: int) -> Sample:
        name, image_path, label_path = pairs[index]
        image, labels = read_image(image_path), to_ids(label_path)
        if image.shape[:2] != labels.shape:
            raise DataError(
                f"{label_path}: labels are {labels.shape}, the image is {image.shape[:2]}"
            )
        return Sample(name, image, labels)

    return Dataset(source, split, classes, tuple(p[0] for p in pairs), read)


def _remap(table: np.ndarray, known: np.ndarray) -> Callable[[Path], np.ndarray]:
    """A reader that maps file ids by `table` and refuses those that are not `known`."""

    def to_ids(path: Path) -> np.ndarray:
        ids = read_ids(path)
        present = np.unique(ids)
        foreign = present[~known[present]]
        if foreign.size:
            raise DataError(
                f"{path}: holds label id {int(foreign[0])}, which the class table does not have"
            )
        mapped: np.ndarray = table[ids]
        return mapped

    return to_ids


CAMVID_TUNE = "0001TP"
"""The drive of CamVid's train split on which hyper-parameters are chosen."""


def _open_camvid(source: str, path: str, split: str) -> Dataset:
    root, folder = Path(path), "train" if split == "tune" else split
    images, annotations = root / folder, root / f"{folder}annot"
    for needed in (images, annotations):
        if not needed.is_dir():
            raise DataError(
                f"{needed}: no such folder; CamVid (SegNet) has {folder}/ beside {folder}annot/"
            )
    names = sorted(p.stem for p in images.glob("*.png"))
    if split == "tune":
        names = [n for n in names if n.startswith(CAMVID_TUNE)]
    if not names:
        raise DataError(f"{images}: no .png images")
    table = np.full(256, IGNORE, np.uint8)
    table[:11] = np.arange(11)
    known = np.arange(256) <= 11
    pairs = [(n, images / f"{n}.png", annotations / f"{n}.png") for n in names]
    return _files(source, split, CLASS_TABLES["camvid11"], pairs, _remap(table, known))


SYNTHETIC_SIZE = (256, 512)
SYNTHETIC_COUNTS = {"train": 1000, "tune": 100, "val": 100, "test": 100}
SYNTHETIC_LIMIT = 1_000_000
"""Frames in one split at most: the seeds of the next split begin there."""


def _open_synthetic(source: str, settings: str, split: str) -> Dataset:
    size, count, seed = SYNTHETIC_SIZE, SYNTHETIC_COUNTS[split], 0
    for setting in filter(None, settings.split(",")):
        key, _, value = setting.partition("=")
        if key == "size":
            size = parse_size(value)
            if min(size) < 64:
                raise UsageError(
                    f"--data '{source}': size {format_size(size)} is too small; "
                    "streets need at least 64x64"
                )
        elif key in ("count", "seed"):
            low = 1 if key == "count" else 0
            if not value.isdecimal() or not low <= int(value) <= SYNTHETIC_LIMIT:
                raise UsageError(
                    f"--data '{source}': {key} is '{value}'; "
                    f"expected a whole number from {low} to {SYNTHETIC_LIMIT}"
                )
            count, seed = (int(value), seed) if key == "count" else (count, int(value))
        else:
            raise UsageError(
                f"--data '{source}': unknown setting '{key}'."
                f"{guess(key, ('size', 'count', 'seed'))} "
                "Write it as synthetic:size=512x1024,count=200,seed=3"
            )
    first = (seed * len(SPLITS) + SPLITS.index(split)) * SYNTHETIC_LIMIT
    names = tuple(f"street-{seed}-{split}-{i:06d}" for i in range(count))

    def read(index: int) -> Sample:
        name = names[index]  # IndexError ends plain iteration
        return Sample(name, *draw_street(first + index % count, size))

    return Dataset(source, split, CLASS_TABLES["cityscapes19"], names, read)


DATASETS: dict[str, Callable[[str, str, str], Dataset]] = {
    "camvid": _open_camvid,
    "synthetic": _open_synthetic,
}
