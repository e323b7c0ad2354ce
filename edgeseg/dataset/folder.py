"""Any folder of images beside a folder of masks, told by a TOML file.

`folder:PATH` reads PATH/dataset.toml, or PATH itself where it ends in .toml:

    name = "mine"
    root = "."               # from this file's folder
    images = "images"        # PNG or JPEG files
    masks = "masks"          # PNG files; name = image name + mask_ending
    mask_ending = "_label"
    labels = "ids"           # or "colours": masks are RGB or RGBA, alpha is not looked at
    void_ids = [255]         # or void_colours = [[0, 0, 0]]
    [[classes]]              # in the order of ids; or: table = "cityscapes19"
    name = "road"
    colour = [128, 64, 128]
    ids = [0]                # ids in the mask files; without it the place in this list
    [splits]                 # without it all frames are train
    train = "train.txt"      # a list, one name a line, from root
    val = "*9.png"           # or a pattern over image file names

Tune is the split of that name in [splits].
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgeseg.dataset.files import (
    Frames,
    Labels,
    by_stem,
    colour_labels,
    id_labels,
    need_folder,
    no_split,
    pair_files,
    photos,
)
from edgeseg.dataset.voc import read_list
from edgeseg.errors import DataError, guess
from edgeseg.labels import IGNORE, ClassTable, class_table
from edgeseg.recipe import read_recipe

FILE = "dataset.toml"
WHOLE = "*"
SPLITS = ("train", "tune", "val", "test")

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class ClassEntry:
    """One [[classes]] entry."""

    name: str
    colour: Colour
    ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class FolderRecipe:
    """What dataset.toml may hold."""

    images: str
    masks: str
    name: str = "folder"
    root: str = "."
    mask_ending: str = ""
    labels: str = "ids"
    void_ids: tuple[int, ...] = (IGNORE,)
    void_colours: tuple[Colour, ...] = ()
    table: str = ""
    classes: tuple[ClassEntry, ...] = ()
    splits: dict[str, str] = field(default_factory=lambda: {"train": WHOLE})

    def __post_init__(self) -> None:
        if self.labels not in ("ids", "colours"):
            raise ValueError(f"labels is '{self.labels}'; expected ids or colours")
        if bool(self.table) == bool(self.classes):
            raise ValueError('expected either table = "NAME" or [[classes]] entries')
        for split in self.splits:
            if split not in SPLITS:
                raise ValueError(f"unknown split '{split}' in [splits].{guess(split, SPLITS)}")
        for number in (*self.void_ids, *(i for c in self.classes for i in c.ids)):
            if not 0 <= number <= 255:
                raise ValueError(f"label id {number} is not within 0 to 255")

    def class_table(self) -> ClassTable:
        """The table that the data set is labelled with."""
        if self.table:
            return class_table(self.table)
        return ClassTable(
            self.name, tuple(c.name for c in self.classes), tuple(c.colour for c in self.classes)
        )

    def reader(self, classes: ClassTable) -> Labels:
        """The reader of mask files."""
        if self.labels == "colours":
            colours = {c: i for i, c in enumerate(classes.palette)}
            for colour in self.void_colours:
                if colour in colours:
                    raise DataError(
                        f"{self.name}: colour {list(colour)} is void and "
                        f"'{classes.names[colours[colour]]}'"
                    )
            if len(colours) < len(classes):
                raise DataError(f"{self.name}: two classes have one colour; masks can't tell them")
            return colour_labels(colours | dict.fromkeys(self.void_colours, IGNORE))
        table = np.full(256, IGNORE, np.uint8)
        meaning = dict.fromkeys(self.void_ids, "void")
        for i, name in enumerate(classes.names):
            for number in (self.classes[i].ids if self.classes else ()) or (i,):
                if number in meaning:
                    raise DataError(
                        f"{self.name}: label id {number} is '{meaning[number]}' and '{name}'"
                    )
                table[number], meaning[number] = i, name
        known = np.zeros(256, bool)
        known[list(meaning)] = True
        return id_labels(table, known)


def list_frames(path: str, split: str) -> Frames:
    """The frames of one split, named as their images."""
    file = Path(path) if path.endswith(".toml") else Path(path) / FILE
    if not file.is_file():
        raise DataError(
            f"{file}: no such file; a plain folder is told by a {FILE} (docs/data.md), "
            "and folder:PATH/TO/NAME.toml takes one from elsewhere"
        )
    recipe = read_recipe(FolderRecipe, file)
    classes = recipe.class_table()
    root = file.parent / recipe.root
    images_root = need_folder(root / recipe.images, f"{file} names it as images")
    masks_root = need_folder(root / recipe.masks, f"{file} names it as masks")
    if split not in recipe.splits:
        raise no_split(file, split, recipe.splits)
    images = by_stem(photos(images_root))
    masks = by_stem(masks_root.glob("*.png"), recipe.mask_ending)
    if not images:
        raise DataError(f"{images_root}: no PNG or JPEG images")
    rule = recipe.splits[split]
    names = _listed(root / rule, file, split) if rule.endswith(".txt") else _fitting(images, rule)
    if not names:
        raise DataError(f"{images_root}: no image fits '{rule}', the pattern of split '{split}'")
    lost = [f"{root / rule}: lists '{n}', which is no image" for n in names if n not in images]
    chosen = {n: images[n] for n in names if n in images}
    truth = masks if rule == WHOLE else {n: p for n, p in masks.items() if n in chosen}
    frames = pair_files(chosen, truth, classes, recipe.reader(classes))
    return Frames(classes, frames.names, frames.read, (*lost, *frames.problems))


def _listed(names: Path, file: Path, split: str) -> list[str]:
    if not names.is_file():
        raise DataError(f"{names}: no such list; {file} names it for split '{split}'")
    return read_list(names)


def _fitting(images: dict[str, Path], pattern: str) -> list[str]:
    return [n for n, p in images.items() if fnmatch.fnmatchcase(p.name, pattern)]
