"""Class tables: which id is which class, and in which colour it is drawn.

Ids are the row numbers of a table. `IGNORE` marks pixels without a label (void, outside the view).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.errors import UsageError, guess

IGNORE = 255
MAX_CLASSES = 255


@dataclass(frozen=True)
class ClassTable:
    """Names and RGB colours of the classes, in the order of their ids."""

    name: str
    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        if not self.names:
            raise UsageError(f"class table '{self.name}' is empty; it needs at least one class")
        self._check_count()
        if len(self.names) != len(self.palette):
            raise UsageError(
                f"class table '{self.name}' has {len(self.names)} names "
                f"and {len(self.palette)} colours; give one colour for each class"
            )
        twice = sorted({n for n in self.names if self.names.count(n) > 1})
        if twice:
            raise UsageError(f"class table '{self.name}' names '{twice[0]}' twice")
        for name, colour in zip(self.names, self.palette, strict=True):
            if len(colour) != 3 or not all(isinstance(c, int) and 0 <= c <= 255 for c in colour):
                raise UsageError(
                    f"class table '{self.name}': colour of '{name}' is {list(colour)}; "
                    "expected three integers from 0 to 255"
                )

    def _check_count(self) -> None:
        if len(self.names) > MAX_CLASSES:
            raise UsageError(
                f"class table '{self.name}' has {len(self.names)} classes; "
                f"labels are uint8 and {IGNORE} means void, so at most {MAX_CLASSES} fit"
            )

    def __len__(self) -> int:
        return len(self.names)

    def colours(self) -> np.ndarray:
        """(256, 3) uint8 RGB: a label image indexes it; ids without a class are black."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self.palette)] = self.palette
        return table

    def to_dict(self) -> dict[str, Any]:
        """The form in which a manifest holds the table."""
        return {
            "name": self.name,
            "names": list(self.names),
            "palette": [list(c) for c in self.palette],
        }

    @classmethod
    def from_dict(cls, entry: dict[str, Any]) -> ClassTable:
        """Read back what `to_dict` wrote."""
        kind = ImageClasses if entry.get("of") == "images" else cls
        return kind(
            str(entry["name"]),
            tuple(str(n) for n in entry["names"]),
            tuple(tuple(c) if isinstance(c, list | tuple) else (c,) for c in entry["palette"]),
        )


class ImageClasses(ClassTable):
    """Classes of whole images: no label map holds them, so any number will do, void is none of them
    and nothing is drawn in their colours.
    """

    def _check_count(self) -> None:
        pass

    def to_dict(self) -> dict[str, Any]:
        """The form in which a manifest holds the table."""
        return {**super().to_dict(), "of": "images"}


# fmt: off
_CITYSCAPES19 = (
    # name             R    G    B      train id
    ("road",          128,  64, 128),  # 0
    ("sidewalk",      244,  35, 232),  # 1
    ("building",       70,  70,  70),  # 2
    ("wall",          102, 102, 156),  # 3
    ("fence",         190, 153, 153),  # 4
    ("pole",          153, 153, 153),  # 5
    ("traffic light", 250, 170,  30),  # 6
    ("traffic sign",  220, 220,   0),  # 7
    ("vegetation",    107, 142,  35),  # 8
    ("terrain",       152, 251, 152),  # 9
    ("sky",            70, 130, 180),  # 10
    ("person",        220,  20,  60),  # 11
    ("rider",         255,   0,   0),  # 12
    ("car",             0,   0, 142),  # 13
    ("truck",           0,   0,  70),  # 14
    ("bus",             0,  60, 100),  # 15
    ("train",           0,  80, 100),  # 16
    ("motorcycle",      0,   0, 230),  # 17
    ("bicycle",       119,  11,  32),  # 18
)
_CAMVID11 = (
    # name          R    G    B      id in SegNet's folders (11 is void)
    ("sky",        128, 128, 128),  # 0
    ("building",   128,   0,   0),  # 1
    ("pole",       192, 192, 128),  # 2
    ("road",       128,  64, 128),  # 3
    ("pavement",    60,  40, 222),  # 4
    ("tree",       128, 128,   0),  # 5
    ("sign",       192, 128, 128),  # 6
    ("fence",       64,  64, 128),  # 7
    ("car",         64,   0, 128),  # 8
    ("pedestrian",  64,  64,   0),  # 9
    ("bicyclist",    0, 128, 192),  # 10
)
_IDD_LITE7 = (
    # name               R    G    B      id
    ("drivable",        128,  64, 128),  # 0
    ("non-drivable",    244,  35, 232),  # 1
    ("living things",   220,  20,  60),  # 2
    ("vehicles",          0,   0, 142),  # 3
    ("roadside objects", 220, 190,  40),  # 4
    ("far objects",      70,  70,  70),  # 5
    ("sky",              70, 130, 180),  # 6
)
_VOC21 = (
    # name            R    G    B      id in the colour-indexed PNG files (255 is void)
    ("background",     0,   0,   0),  # 0
    ("aeroplane",    128,   0,   0),  # 1
    ("bicycle",        0, 128,   0),  # 2
    ("bird",         128, 128,   0),  # 3
    ("boat",           0,   0, 128),  # 4
    ("bottle",       128,   0, 128),  # 5
    ("bus",            0, 128, 128),  # 6
    ("car",          128, 128, 128),  # 7
    ("cat",           64,   0,   0),  # 8
    ("chair",        192,   0,   0),  # 9
    ("cow",           64, 128,   0),  # 10
    ("dining table", 192, 128,   0),  # 11
    ("dog",           64,   0, 128),  # 12
    ("horse",        192,   0, 128),  # 13
    ("motorbike",     64, 128, 128),  # 14
    ("person",       192, 128, 128),  # 15
    ("potted plant",   0,  64,   0),  # 16
    ("sheep",        128,  64,   0),  # 17
    ("sofa",           0, 192,   0),  # 18
    ("train",        128, 192,   0),  # 19
    ("tv monitor",     0,  64, 128),  # 20
)
_COMMA10K5 = (
    # name            R    G    B      colour in the mask files
    ("road",          64,  32,  32),  # #402020
    ("lane markings", 255,  0,   0),  # #ff0000
    ("undrivable",   128, 128,  96),  # #808060
    ("movable",        0, 255, 102),  # #00ff66
    ("my car",       204,   0, 255),  # #cc00ff
)
# fmt: on


def _table(name: str, rows: tuple[tuple[str, int, int, int], ...]) -> ClassTable:
    return ClassTable(name, tuple(r[0] for r in rows), tuple(r[1:] for r in rows))


CLASS_TABLES = {
    "cityscapes19": _table("cityscapes19", _CITYSCAPES19),
    "camvid11": _table("camvid11", _CAMVID11),
    "idd_lite7": _table("idd_lite7", _IDD_LITE7),
    "voc21": _table("voc21", _VOC21),
    "comma10k5": _table("comma10k5", _COMMA10K5),
}


MASK = ClassTable("mask", ("outside", "inside"), ((40, 40, 48), (240, 190, 60)))
"""What a network says that refines masks of whatever class."""


def class_table(name: str) -> ClassTable:
    """The table of that name, or the one in the TOML file of that path.

    A file has `name = "..."` and one `[[classes]]` entry for each class, in the order of ids, with
    `name` and `colour = [R, G, B]`.
    """
    if name in CLASS_TABLES:
        return CLASS_TABLES[name]
    if name.endswith(".toml"):
        return read_class_table(Path(name))
    raise UsageError(
        f"unknown class table '{name}'.{guess(name, CLASS_TABLES)} Or give the path of a TOML file."
    )


def read_class_table(path: Path) -> ClassTable:
    """Read a class table from a TOML file."""
    from edgeseg.recipe import read_toml

    content = read_toml(path)
    entries = content.get("classes")
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and {"name", "colour"} <= e.keys() for e in entries
    ):
        raise UsageError(f"{path}: expected one [[classes]] entry with name and colour per class")
    return ClassTable.from_dict(
        {
            "name": str(content.get("name", path.stem)),
            "names": [e["name"] for e in entries],
            "palette": [e["colour"] for e in entries],
        }
    )
