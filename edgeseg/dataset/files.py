"""Image and label files -> numpy, and the pairing of the two."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from edgeseg.errors import DataError
from edgeseg.labels import ClassTable

PHOTO_SUFFIXES = (".png", ".jpg", ".jpeg")
EIGHT_BIT_MODES = ("L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")

Labels = Callable[[Path], np.ndarray]
"""A reader of label files: path -> (H, W) uint8 ids of the class table, or IGNORE."""


@dataclass(frozen=True)
class Frames:
    """What a kind of data set found: frame names, a reader by index, and what is wrong.

    `read(i)` -> image (H, W, 3) uint8 RGB and labels (H, W) uint8, or (1, 1) int64 where `classes`
    are ImageClasses. `problems` are files without their partner; the frames of `names` have both.
    """

    classes: ClassTable
    names: tuple[str, ...]
    read: Callable[[int], tuple[np.ndarray, np.ndarray]]
    problems: tuple[str, ...] = ()


def read_image(path: Path) -> np.ndarray:
    """An image file -> (H, W, 3) uint8 RGB."""

    def rgb(image: Image.Image) -> np.ndarray:
        if image.mode not in EIGHT_BIT_MODES:
            raise DataError(f"{path}: image has mode {image.mode}; expected 8 bits per channel")
        return np.array(image.convert("RGB"))

    return _read(path, rgb)


def read_ids(path: Path) -> np.ndarray:
    """A label file of ids (grey or colour-indexed) -> (H, W) uint8."""

    def ids(image: Image.Image) -> np.ndarray:
        if image.mode not in ("L", "P"):
            raise DataError(
                f"{path}: label image has mode {image.mode}; expected 8-bit ids (grey or indexed)"
            )
        return np.array(image)

    return _read(path, ids)


def read_colours(path: Path) -> np.ndarray:
    """A label file of colours (RGB, or RGBA whose alpha is not looked at) -> (H, W, 3) uint8."""

    def colours(image: Image.Image) -> np.ndarray:
        if image.mode not in ("RGB", "RGBA", "P"):
            raise DataError(
                f"{path}: label image has mode {image.mode}; expected colours (RGB or RGBA)"
            )
        return np.array(image.convert("RGB") if image.mode == "P" else image)[..., :3]

    return _read(path, colours)


def _read(path: Path, convert: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return convert(image)
    except FileNotFoundError:
        raise DataError(f"{path}: no such image") from None
    except (
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:
        reason = str(error).replace(f" {str(path)!r}", "")
        raise DataError(f"{path}: broken or unknown image ({reason})") from error


def id_labels(table: np.ndarray, known: np.ndarray) -> Labels:
    """A reader that maps file ids by `table` (256,) and refuses those that are not `known`."""

    def labels(path: Path) -> np.ndarray:
        ids = read_ids(path)
        present = np.flatnonzero(np.bincount(ids.ravel(), minlength=256))
        foreign = present[~known[present]]
        if foreign.size:
            more = f" (and {foreign.size - 1} more ids)" if foreign.size > 1 else ""
            raise DataError(
                f"{path}: holds label id {int(foreign[0])}{more}, "
                "which the class table does not have"
            )
        mapped: np.ndarray = table[ids]
        return mapped

    return labels


def colour_labels(colours: dict[tuple[int, int, int], int]) -> Labels:
    """A reader that maps mask colours (R, G, B) to ids and refuses all others."""
    order = sorted(colours)
    codes = np.array([(r << 16) | (g << 8) | b for r, g, b in order])
    ids = np.array([colours[c] for c in order], np.uint8)

    def labels(path: Path) -> np.ndarray:
        rgb = read_colours(path).astype(np.int64)
        packed = (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]
        place = np.minimum(np.searchsorted(codes, packed), len(codes) - 1)
        foreign = codes[place] != packed
        if foreign.any():
            y, x = (int(i) for i in np.argwhere(foreign)[0])
            colour = f"#{int(packed[y, x]):06x}"
            raise DataError(
                f"{path}: colour {rgb[y, x].tolist()} ({colour}) at row {y}, column {x} is not in "
                f"the class table ({int(foreign.sum())} pixels hold foreign colours)"
            )
        return ids[place]

    return labels


def pair_files(
    images: dict[str, Path], labels: dict[str, Path], classes: ClassTable, to_ids: Labels
) -> Frames:
    """Pair image and label files by frame name; a file without its partner is a problem."""
    names = tuple(n for n in images if n in labels)
    problems = [
        f"{path}: image without a label file" for n, path in images.items() if n not in labels
    ]
    problems += [
        f"{path}: label file without an image" for n, path in labels.items() if n not in images
    ]

    def read(index: int) -> tuple[np.ndarray, np.ndarray]:
        name = names[index]
        image = read_image(images[name])
        return image, read_labels(labels[name], to_ids, image)

    return Frames(classes, names, read, tuple(problems))


def read_labels(path: Path, to_ids: Labels, image: np.ndarray) -> np.ndarray:
    """The labels of an image; DataError unless both are of one size."""
    ids = to_ids(path)
    if image.shape[:2] != ids.shape:
        raise DataError(
            f"{path}: labels are {ids.shape[0]}x{ids.shape[1]}, "
            f"the image is {image.shape[0]}x{image.shape[1]}; both must be of one size"
        )
    return ids


def by_stem(paths: Iterable[Path], ending: str = "") -> dict[str, Path]:
    """Frame name (file name without suffix and `ending`) -> path, in the order of names."""
    found: dict[str, Path] = {}
    for path in sorted(p for p in paths if p.stem.endswith(ending)):
        name = path.stem.removesuffix(ending)
        if name in found:
            raise DataError(f"{path}: {found[name].name} has the same name; keep one of the two")
        found[name] = path
    return dict(sorted(found.items()))


def photos(folder: Path, pattern: str = "*") -> list[Path]:
    """PNG and JPEG files in `folder` whose names fit `pattern`."""
    return [p for p in folder.glob(pattern) if p.suffix.lower() in PHOTO_SUFFIXES]


def need_folder(folder: Path, layout: str) -> Path:
    """`folder` itself, or a DataError that says how the data set should look."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; {layout}")
    return folder


def with_tune(folders: list[str]) -> list[str]:
    """Split names where tune is a part of the train folder."""
    return [s for f in folders for s in ((f, "tune") if f == "train" else (f,))]


def no_split(root: Path, split: str, existing: Iterable[str]) -> DataError:
    """The error for a split that a data set does not have."""
    known = ", ".join(existing)
    return DataError(
        f"{root}: has no split '{split}'; "
        + (f"those that exist: {known}" if known else "and no other split either")
    )
