"""Labelled images in ImageNet's layout: ROOT/train/CLASS/*.jpg and ROOT/val/CLASS/*.jpg (or PNG).

Classes are the folders' names in sorted order, as torchvision's ImageFolder numbers them. Labels
are of whole images: 1x1, int64, and never void. There is no tune split.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeseg.dataset.files import Frames, need_folder, no_split, photos, read_image
from edgeseg.errors import DataError
from edgeseg.labels import ImageClasses

LAYOUT = "ImageNet's layout is ROOT/train/CLASS/*.jpg beside ROOT/val/CLASS/*.jpg"
FOLDERS = ("train", "val", "test")


def list_frames(path: str, split: str) -> Frames:
    """The images of one split, named CLASS/FILE."""
    root = need_folder(Path(path), LAYOUT)
    existing = [f for f in FOLDERS if (root / f).is_dir()]
    if split not in existing:
        raise no_split(root, split, existing) if existing else DataError(
            f"{root}: has none of {', '.join(FOLDERS)}; {LAYOUT}"
        )  # fmt: skip
    classes = _classes(root / split)
    for other in existing:
        _check_same(root, split, classes, other)
    names: list[str] = []
    ids: list[int] = []
    problems = []
    for i, name in enumerate(classes):
        files = sorted(p.name for p in photos(root / split / name))
        if not files:
            problems.append(f"{root / split / name}: class without a PNG or JPEG image")
        names += [f"{name}/{file}" for file in files]
        ids += [i] * len(files)
    labels = np.array(ids, np.int64)

    def read(index: int) -> tuple[np.ndarray, np.ndarray]:
        return read_image(root / split / names[index]), labels[index].reshape(1, 1)

    table = ImageClasses(root.name, classes, ((0, 0, 0),) * len(classes))
    return Frames(table, tuple(names), read, tuple(problems))


def _classes(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir()))
    if not names:
        raise DataError(f"{folder}: holds no class folders; {LAYOUT}")
    return names


def _check_same(root: Path, split: str, classes: tuple[str, ...], other: str) -> None:
    """Ids are places in the sorted list, so two splits must have the same folders."""
    theirs = set(_classes(root / other))
    for here, there, odd in (
        (split, other, [c for c in classes if c not in theirs]),
        (other, split, sorted(theirs.difference(classes))),
    ):
        if odd:
            more = f" (and {len(odd) - 1} more)" if len(odd) > 1 else ""
            raise DataError(
                f"{root}: class '{odd[0]}'{more} is in {here} and not in {there}; all splits must "
                "have the same class folders, for ids are places in their sorted list"
            )
