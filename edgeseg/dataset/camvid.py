"""CamVid in SegNet's folders: train/ trainannot/ val/ valannot/ test/ testannot/, PNG, 11 classes.

Label ids 0 to 10 are the classes, 11 is void. Tune split: the drive 0001TP of train.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeseg.dataset.files import (
    Frames,
    by_stem,
    id_labels,
    need_folder,
    no_split,
    pair_files,
    with_tune,
)
from edgeseg.errors import DataError
from edgeseg.labels import CLASS_TABLES, IGNORE

LAYOUT = "CamVid (SegNet) has train/ beside trainannot/, and so on"
FOLDERS = ("train", "val", "test")
TUNE_DRIVE = "0001TP"
"""The drive of the train split on which hyper-parameters are chosen."""


def list_frames(path: str, split: str) -> Frames:
    """The frames of one split."""
    root = need_folder(Path(path), LAYOUT)
    existing = [f for f in FOLDERS if (root / f).is_dir()]
    if not existing:
        raise DataError(f"{root}: has none of {', '.join(FOLDERS)}; {LAYOUT}")
    folder = "train" if split == "tune" else split
    if folder not in existing:
        raise no_split(root, split, with_tune(existing))
    images = by_stem((root / folder).glob("*.png"))
    labels = by_stem(need_folder(root / f"{folder}annot", LAYOUT).glob("*.png"))
    if split == "tune":
        images = {n: p for n, p in images.items() if n.startswith(TUNE_DRIVE)}
        labels = {n: p for n, p in labels.items() if n.startswith(TUNE_DRIVE)}
    if not images:
        drive = f" of drive {TUNE_DRIVE}" if split == "tune" else ""
        raise DataError(f"{root / folder}: no .png images{drive}")
    table = np.full(256, IGNORE, np.uint8)
    table[:11] = np.arange(11)
    known = np.arange(256) <= 11
    return pair_files(images, labels, CLASS_TABLES["camvid11"], id_labels(table, known))
