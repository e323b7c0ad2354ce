"""PASCAL VOC 2012: JPEGImages/*.jpg, SegmentationClass/*.png, lists in ImageSets/Segmentation/.

PATH is the folder VOC2012, or the VOCdevkit that holds it. Labels are colour-indexed PNG files: the
index is the class, 255 is void. Tune split: every tenth frame of train.txt, the first one first.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from edgeseg.dataset.files import Frames, id_labels, need_folder, no_split, pair_files, with_tune
from edgeseg.errors import DataError
from edgeseg.labels import CLASS_TABLES, IGNORE

LAYOUT = "PASCAL VOC has JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/ in VOC2012/"
LISTS = ("train", "val", "test")
TUNE_STEP = 10


def list_frames(path: str, split: str) -> Frames:
    """The frames of one list."""
    root = need_folder(Path(path), LAYOUT)
    if (root / "VOC2012").is_dir():
        root /= "VOC2012"
    lists = need_folder(root / "ImageSets" / "Segmentation", LAYOUT)
    images_root = need_folder(root / "JPEGImages", LAYOUT)
    labels_root = need_folder(root / "SegmentationClass", LAYOUT)
    name = "train" if split == "tune" else split
    file = lists / f"{name}.txt"
    if not file.is_file():
        raise no_split(root, split, with_tune([n for n in LISTS if (lists / f"{n}.txt").is_file()]))
    names = read_list(file)
    if split == "tune":
        names = names[::TUNE_STEP]
    images = {n: images_root / f"{n}.jpg" for n in names}
    labels = {n: labels_root / f"{n}.png" for n in names}
    same = np.arange(256)
    reader = id_labels(same.astype(np.uint8), (same < 21) | (same == IGNORE))
    problems = [
        f"{p}: listed in {file} and not there"
        for n in names
        for p in (images[n], labels[n])
        if not p.is_file()
    ]
    present = [n for n in names if images[n].is_file() and labels[n].is_file()]
    frames = pair_files(
        {n: images[n] for n in present},
        {n: labels[n] for n in present},
        CLASS_TABLES["voc21"],
        reader,
    )
    return Frames(frames.classes, frames.names, frames.read, tuple(problems))


def read_list(file: Path) -> list[str]:
    """One frame name a line; empty lines are passed over."""
    try:
        names = file.read_text(encoding="utf-8").split()
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: is not UTF-8 text ({error.reason})") from error
    if not names:
        raise DataError(f"{file}: lists no frames; expected one name a line")
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise DataError(f"{file}: lists '{name}' {times} times")
    return names
