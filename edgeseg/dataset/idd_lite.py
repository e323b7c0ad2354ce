"""IDD-Lite: leftImg8bit/SPLIT/DRIVE/*_image.jpg beside gtFine/SPLIT/DRIVE/*_label.png, 7 classes.

Label ids are the classes, 255 is void. Images are JPEG in most releases; PNG is read as well. Tune
split: every tenth drive folder of train by name, the first one first.
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
    photos,
    with_tune,
)
from edgeseg.errors import DataError
from edgeseg.labels import CLASS_TABLES, IGNORE

LAYOUT = "IDD-Lite has leftImg8bit/SPLIT/DRIVE/ beside gtFine/SPLIT/DRIVE/"
FOLDERS = ("train", "val", "test")
TUNE_STEP = 10


def list_frames(path: str, split: str) -> Frames:
    """The frames of one split, named DRIVE/NUMBER."""
    root = need_folder(Path(path), LAYOUT)
    images_root = need_folder(root / "leftImg8bit", LAYOUT)
    labels_root = need_folder(root / "gtFine", LAYOUT)
    folder = "train" if split == "tune" else split
    existing = [f for f in FOLDERS if (images_root / f).is_dir()]
    if folder not in existing:
        raise no_split(root, split, with_tune(existing))
    drives = sorted(p.name for p in (images_root / folder).iterdir() if p.is_dir())
    if split == "tune":
        drives = drives[::TUNE_STEP]
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for drive in drives:
        pictures = by_stem(photos(images_root / folder / drive), "_image")
        truth = by_stem((labels_root / folder / drive).glob("*_label.png"), "_label")
        images |= {f"{drive}/{name}": p for name, p in pictures.items()}
        labels |= {f"{drive}/{name}": p for name, p in truth.items()}
    if not images:
        raise DataError(f"{images_root / folder}: no *_image.jpg images; {LAYOUT}")
    same = np.arange(256)
    reader = id_labels(same.astype(np.uint8), (same < 7) | (same == IGNORE))
    return pair_files(images, labels, CLASS_TABLES["idd_lite7"], reader)
