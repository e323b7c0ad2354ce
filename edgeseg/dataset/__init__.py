"""Labelled frames from disk or from the street generator. `open_dataset("camvid:PATH", "val")`.

One module per kind; each says how its folders look and which frames are its tune split. A kind is
a function (path, split) -> `Frames`: names, and a reader that gives image and labels of one index.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgeseg.dataset.files import Frames, read_ids, read_image
from edgeseg.errors import DataError, UsageError, guess
from edgeseg.labels import ClassTable

__all__ = [
    "DATASETS",
    "SPLITS",
    "Dataset",
    "Sample",
    "list_frames",
    "open_dataset",
    "open_frames",
    "read_ids",
    "read_image",
    "spread_evenly",
]

SPLITS = ("train", "tune", "val", "test")

# fmt: off
DATASETS = {
    "camvid":     "edgeseg.dataset.camvid:list_frames",      # CamVid in SegNet's folders
    "cityscapes": "edgeseg.dataset.cityscapes:list_frames",  # leftImg8bit/ beside gtFine/
    "idd_lite":   "edgeseg.dataset.idd_lite:list_frames",    # IDD-Lite
    "voc":        "edgeseg.dataset.voc:list_frames",         # PASCAL VOC 2012
    "folder":     "edgeseg.dataset.folder:list_frames",      # any pairs, told by a TOML file
    "synthetic":  "edgeseg.dataset.synthetic:list_frames",   # drawn, nothing to download
    "imagefolder": "edgeseg.dataset.imagefolder:list_frames",  # whole images, ImageNet's layout
}
# fmt: on


@dataclass(frozen=True)
class Sample:
    """One labelled frame: image (H, W, 3) uint8 RGB, labels (H, W) uint8 ids or IGNORE.

    The label of a whole image (kind `imagefolder`) is (1, 1) int64 and never IGNORE.
    """

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
        return self.subset(spread_evenly(len(self), count))


def spread_evenly(total: int, count: int) -> list[int]:
    """The indices of `count` of `total` frames, each in the middle of its share."""
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def list_frames(source: str, split: str) -> Frames:
    """The frames of `KIND:PATH`, with the files that lack a partner listed as problems."""
    kind, colon, path = source.partition(":")
    if kind not in DATASETS:
        raise UsageError(
            f"--data '{source}' is not KIND:PATH with a known kind.{guess(kind, DATASETS)}"
        )
    if split not in SPLITS:
        raise UsageError(f"unknown split '{split}'.{guess(split, SPLITS)}")
    if not path and (kind != "synthetic" or not colon):
        raise UsageError(f"--data '{source}' has no path; expected {kind}:PATH")
    module, _, function = DATASETS[kind].partition(":")
    frames: Frames = getattr(importlib.import_module(module), function)(path, split)
    return frames


def open_frames(source: str, split: str) -> Frames:
    """The frames of `KIND:PATH`; a DataError says which folder or file is not as expected."""
    frames = list_frames(source, split)
    if frames.problems:
        more = len(frames.problems) - 1
        rest = f" (and {more} more; 'edgeseg data check {source}' lists all)" if more else ""
        raise DataError(frames.problems[0] + rest)
    return frames


def open_dataset(source: str, split: str) -> Dataset:
    """The same as samples."""
    frames = open_frames(source, split)

    def read(index: int) -> Sample:
        return Sample(frames.names[index], *frames.read(index))

    return Dataset(source, split, frames.classes, frames.names, read)
