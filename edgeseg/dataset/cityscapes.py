"""Cityscapes in the official layout, 19 classes by train id.

leftImg8bit/SPLIT/CITY/*_leftImg8bit.png beside gtFine/SPLIT/CITY/*_gtFine_labelIds.png or
*_gtFine_labelTrainIds.png (where a frame has both, labelIds are read). Tune split: three cities of
train, `TUNE_CITIES`, a tenth of its frames.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeseg.dataset.files import (
    Frames,
    Labels,
    by_stem,
    id_labels,
    need_folder,
    no_split,
    pair_files,
)
from edgeseg.errors import DataError
from edgeseg.labels import CLASS_TABLES, IGNORE

LAYOUT = "Cityscapes has leftImg8bit/SPLIT/CITY/ beside gtFine/SPLIT/CITY/"
TUNE_CITIES = ("krefeld", "monchengladbach", "ulm")
FOLDERS = ("train", "val", "test")

# The official table of labels; -1 stands for 255: in no class of the evaluation.
# fmt: off
ROWS = (
    # name                    id  train id
    ("unlabeled",              0,  -1),
    ("ego vehicle",            1,  -1),
    ("rectification border",   2,  -1),
    ("out of roi",             3,  -1),
    ("static",                 4,  -1),
    ("dynamic",                5,  -1),
    ("ground",                 6,  -1),
    ("road",                   7,   0),
    ("sidewalk",               8,   1),
    ("parking",                9,  -1),
    ("rail track",            10,  -1),
    ("building",              11,   2),
    ("wall",                  12,   3),
    ("fence",                 13,   4),
    ("guard rail",            14,  -1),
    ("bridge",                15,  -1),
    ("tunnel",                16,  -1),
    ("pole",                  17,   5),
    ("polegroup",             18,  -1),
    ("traffic light",         19,   6),
    ("traffic sign",          20,   7),
    ("vegetation",            21,   8),
    ("terrain",               22,   9),
    ("sky",                   23,  10),
    ("person",                24,  11),
    ("rider",                 25,  12),
    ("car",                   26,  13),
    ("truck",                 27,  14),
    ("bus",                   28,  15),
    ("caravan",               29,  -1),
    ("trailer",               30,  -1),
    ("train",                 31,  16),
    ("motorcycle",            32,  17),
    ("bicycle",               33,  18),
    ("license plate",         -1,  -1),
)
# fmt: on


def list_frames(path: str, split: str) -> Frames:
    """The frames of one split, named CITY_SEQUENCE_FRAME."""
    root = need_folder(Path(path), LAYOUT)
    images_root = need_folder(root / "leftImg8bit", LAYOUT)
    labels_root = need_folder(root / "gtFine", LAYOUT)
    existing = [f for f in FOLDERS if (images_root / f).is_dir()]
    folder = "train" if split == "tune" else split
    cities = _cities(images_root / folder, split)
    if not cities:
        if _cities(images_root / "train", "tune"):
            existing.insert(1, "tune")
        raise no_split(root, split, existing)
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for city in cities:
        images |= by_stem((images_root / folder / city).glob("*.png"), "_leftImg8bit")
        truth = labels_root / folder / city
        labels |= by_stem(truth.glob("*_labelTrainIds.png"), "_gtFine_labelTrainIds")
        labels |= by_stem(truth.glob("*_labelIds.png"), "_gtFine_labelIds")
    if not images:
        raise DataError(f"{images_root / folder}: no *_leftImg8bit.png images; {LAYOUT}")
    labels = dict(sorted(labels.items()))
    return pair_files(images, labels, CLASS_TABLES["cityscapes19"], _reader())


def _cities(folder: Path, split: str) -> list[str]:
    found = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    return [c for c in found if c in TUNE_CITIES] if split == "tune" else found


def _reader() -> Labels:
    """Train ids are ids already; label ids go through the table; -1 is saved as 255."""
    table = np.full(256, IGNORE, np.uint8)
    known = np.zeros(256, bool)
    known[IGNORE] = True
    for _, label_id, train_id in ROWS:
        table[label_id % 256] = train_id % 256
        known[label_id % 256] = True
    by_id = id_labels(table, known)
    same = np.arange(256)
    by_train_id = id_labels(same.astype(np.uint8), (same < 19) | (same == IGNORE))

    def labels(path: Path) -> np.ndarray:
        return by_train_id(path) if path.stem.endswith("TrainIds") else by_id(path)

    return labels
